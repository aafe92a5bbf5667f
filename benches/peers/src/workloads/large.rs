//! Large answers, alone and beside small calls.

use std::time::Instant;

use crate::{
    contestants::{Ask, Pipe, Who},
    harness::{Contest, Plan, Result, quantile},
    report::{Goal, Row},
};

pub(crate) const LARGE: &str = "large";
pub(crate) const BESIDE: &str = "beside";

/// Bytes of an answer.
pub(super) const LEN: u64 = 1 << 20;

/// Bytes of an answer that small calls are beside of.
const BESIDE_LEN: u64 = 8 << 20;

pub(crate) fn large(plan: &Plan) -> Result<Vec<Row>> {
    let who = [Who::Raw, Who::Ours, Who::OursVec, Who::Tonic, Who::Tarpc];
    let figures = Contest { n: 4, ..Contest::new(LARGE, &who, 400) }.run(plan)?;
    let workload = "large results, 1 MiB, 4 in flight";
    let megabytes = LEN as f64 * 1e-6;
    Ok(vec![
        Row::new(workload, "rate", "MB/s", Goal::RatioAtLeast(0.9)).with(&figures, 0, megabytes),
        Row::new(workload, "CPU an answer", "µs", Goal::None).with(&figures, 1, 1e-3),
    ])
}

pub(crate) fn beside(plan: &Plan) -> Result<Vec<Row>> {
    let who = [Who::Raw, Who::Ours, Who::Tonic, Who::Tarpc];
    let contest = Contest { paced: false, ..Contest::new(BESIDE, &who, 150) };
    let figures = contest.run(plan)?;
    let workload = "128 B beside 8 MiB answers";
    let row = |figure, unit, goal| Row::new(workload, figure, unit, goal);
    Ok(vec![
        row("p99, idle", "µs", Goal::None).with(&figures, 3, 1e-3),
        row("p99, beside", "µs", Goal::None).with(&figures, 4, 1e-3),
        row("p99, beside / idle", "×", Goal::AtMost(3.0)).with(&figures, 5, 1.0),
    ])
}

/// The p99 of small calls on an idle connection and beside large answers, and their ratio.
pub(super) async fn measure<P: Pipe>(pipe: &mut P, calls: u64) -> Result<Vec<f64>> {
    let mut times = Vec::new();
    for _ in 0..calls * 10 {
        let start = Instant::now();
        pipe.call(Ask::Echo).await?;
        times.push(start.elapsed().as_nanos() as f64);
    }
    let idle = quantile(&times, 0.99);
    let beside = quantile(&pipe.beside(BESIDE_LEN, calls).await?, 0.99);
    Ok(vec![idle, beside, beside / idle])
}
