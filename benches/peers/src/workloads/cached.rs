//! `Subscription::current`: a synchronous read of the last value, 1 KiB.

use std::{hint::black_box, time::Instant};

use super::allocations::count;
use crate::{
    contestants::{Who, follow, lead},
    harness::{Control, Plan, Result, Source},
    report::{Goal, Row},
};

pub(crate) fn run(plan: &Plan) -> Result<Vec<Row>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (times, allocated) = runtime.block_on(async {
        let (source, control) = Source::open().await?;
        let (port, _leader) = lead(source).await?;
        let values = follow(port).await?.values(0, 1).await?;
        Control::connect(control).await?.ask(1).await?;
        values.ready().await?;
        let reads = plan.size(2_000_000);
        let read = || {
            for _ in 0..reads {
                black_box(black_box(&values).current());
            }
        };
        let mut times = Vec::new();
        for _ in 0..plan.rounds {
            let start = Instant::now();
            read();
            times.push(start.elapsed().as_nanos() as f64 / reads as f64);
        }
        let allocated = count(read).1.map(|count| count as f64 / reads as f64);
        Result::Ok((times, allocated))
    })?;
    let workload = "cached read, `current()` of 1 KiB";
    let ours = |row: Row, figures| row.with_rounds(Who::Ours, figures);
    let time = ours(Row::new(workload, "time", "ns", Goal::AtMost(20.0)), times);
    // With counting the time is not what it is without.
    Ok(vec![match allocated {
        None => time,
        Some(count) => ours(Row::new(workload, "allocations", "", Goal::AtMost(0.0)), vec![count]),
    }])
}
