//! Calls of 128 B both ways: latency with one in flight, throughput with many.

use std::time::Instant;

use futures::future::try_join_all;

use super::large;
use crate::{
    contestants::{Ask, Pipe, Who},
    harness::{Child, Contest, Plan, Result, Slices, quantile},
    report::{Goal, Row},
};

pub(crate) const LATENCY: &str = "latency";
pub(crate) const THROUGHPUT: &str = "throughput";

/// Who can be called.
const CALLERS: [Who; 5] = [Who::Raw, Who::Ours, Who::Tonic, Who::Tarpc, Who::Node];

/// Who calls with many in flight.
const MANY: [Who; 6] = [Who::Raw, Who::RawTasks, Who::Ours, Who::Tonic, Who::Tarpc, Who::Node];

/// Raw and ours on both kinds of runtime.
const RUNTIMES: [Who; 4] = [Who::Raw, Who::Ours, Who::RawThreads, Who::OursThreads];

pub(crate) fn latency(plan: &Plan) -> Result<Vec<Row>> {
    let figures = Contest::new(LATENCY, &CALLERS, 5_000).run(plan)?;
    let row = |figure, goal| Row::new("latency, 1 in flight, 128 B", figure, "µs", goal);
    Ok(vec![
        row("p50", Goal::RatioAtMost(1.15)).with(&figures, 3, 1e-3),
        row("p99", Goal::RatioAtMost(1.3)).with(&figures, 4, 1e-3),
        row("CPU a call", Goal::RatioAtMost(1.5)).with(&figures, 1, 1e-3),
    ])
}

pub(crate) fn throughput(plan: &Plan) -> Result<Vec<Row>> {
    let one = Contest { n: 256, ..Contest::new(THROUGHPUT, &MANY, 200_000) };
    let four = Contest { clients: 4, n: 64, ..one.clone() };
    let mut rows = Vec::new();
    for (contest, workload, goal) in [
        (one, "throughput, one connection, 256 in flight", 0.7),
        (four, "throughput, four processes, 64 in flight each", 0.6),
    ] {
        let figures = contest.run(plan)?;
        rows.extend([
            Row::new(workload, "calls", "k/s", Goal::RatioAtLeast(goal)).with(&figures, 0, 1e-3),
            Row::new(workload, "CPU a call", "µs", Goal::RatioAtMost(1.5)).with(&figures, 1, 1e-3),
        ]);
    }
    Ok(rows)
}

/// The same two on a current-thread and on a multi-thread runtime.
pub(crate) fn runtimes(plan: &Plan) -> Result<Vec<Row>> {
    let one = Contest::new(LATENCY, &RUNTIMES, 5_000).run(plan)?;
    let many = Contest { n: 256, ..Contest::new(THROUGHPUT, &RUNTIMES, 200_000) }.run(plan)?;
    let row = |workload, figure, unit| Row::new(workload, figure, unit, Goal::None);
    Ok(vec![
        row("runtimes: latency, 1 in flight", "p50", "µs").with(&one, 3, 1e-3),
        row("runtimes: latency, 1 in flight", "p99", "µs").with(&one, 4, 1e-3),
        row("runtimes: throughput, 256 in flight", "calls", "k/s").with(&many, 0, 1e-3),
        row("runtimes: throughput, 256 in flight", "CPU a call", "µs").with(&many, 1, 1e-3),
    ])
}

/// The slices of a client that calls.
pub(crate) async fn client<P: Pipe>(child: &Child) -> Result<()> {
    let mut pipe = P::open(child.port).await?;
    let mut slices = Slices::new()?;
    while let Some(size) = slices.next().await? {
        let told = match &*child.job {
            LATENCY => {
                let mut times = Vec::new();
                for _ in 0..size {
                    let start = Instant::now();
                    pipe.call(Ask::Echo).await?;
                    times.push(start.elapsed().as_nanos() as f64);
                }
                vec![quantile(&times, 0.5), quantile(&times, 0.99)]
            }
            large::LARGE => {
                pipe.keep(Ask::Large(large::LEN), size, child.n).await?;
                Vec::new()
            }
            large::BESIDE => large::measure(&mut pipe, size).await?,
            _ => {
                pipe.keep(Ask::Echo, size, child.n).await?;
                Vec::new()
            }
        };
        slices.done(&told)?;
    }
    Ok(())
}

/// Calls that are in flight in all.
const FLIGHT: u64 = 1_000;

/// The slices of a client that calls on `n` connections, with as many calls in flight in all
/// whatever `n` is.
pub(crate) async fn spread<P: Pipe>(child: &Child) -> Result<()> {
    let mut pipes = Vec::new();
    for _ in 0..child.n {
        pipes.push(P::open(child.port).await?);
    }
    let mut slices = Slices::new()?;
    while let Some(size) = slices.next().await? {
        let tasks = pipes.drain(..).map(|mut pipe| {
            let (calls, flight) = (size.div_ceil(child.n), FLIGHT.div_ceil(child.n));
            tokio::spawn(async move {
                pipe.keep(Ask::Echo, calls, flight).await?;
                Result::Ok(pipe)
            })
        });
        let tasks: Vec<_> = tasks.collect();
        for pipe in try_join_all(tasks).await? {
            pipes.push(pipe?);
        }
        slices.done(&[])?;
    }
    Ok(())
}
