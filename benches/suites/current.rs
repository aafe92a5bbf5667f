//! `Subscription::current`: a synchronous read of the last value, 1 KiB.

use std::{hint::black_box, time::Instant};

use crate::{
    contest::{Plan, Result, Row, quantile},
    ends::ours,
};

pub(crate) const NAME: &str = "current";

const PAYLOAD: u64 = 1024;

pub(crate) fn run(plan: &Plan) -> Result<Vec<Row>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let times = runtime.block_on(async {
        let (_leader, port) = ours::lead().await?;
        let cluster = ours::follow(port).await?;
        let feed = cluster.feed(PAYLOAD).await?;
        cluster.go_on(1).await?;
        feed.ready().await?;
        let reads = 2_000_000 / plan.divisor;
        let round = || {
            let start = Instant::now();
            for _ in 0..reads {
                black_box(black_box(&feed).current());
            }
            start.elapsed().as_nanos() as f64 / reads as f64
        };
        Result::Ok((0..plan.rounds).map(|_| round()).collect::<Vec<_>>())
    })?;
    Ok(vec![Row {
        what: "`current()` of a 1 KiB value",
        unit: "ns",
        raw: f64::NAN,
        ours: quantile(&times, 0.5),
        ratio: None,
        goal: "≤ 20 ns",
    }])
}
