//! How often server and client allocate for a call: in a build that counts, and does nothing else.

use crate::{
    contestants::Who,
    harness::{Plan, Result, Shape, Team},
    report::{Goal, Row},
};

pub(crate) const ALLOCATIONS: &str = "allocations";

/// Calls of the two runs whose difference is told: what is allocated once falls out.
const RUNS: [u64; 2] = [20_000, 120_000];

pub(crate) fn run(plan: &Plan) -> Result<Vec<Row>> {
    if !cfg!(feature = "count-allocations") {
        eprintln!("skipped: allocations, built without `--features count-allocations`");
        return Ok(Vec::new());
    }
    let mut rows = Vec::new();
    for n in [1, 256] {
        let workload = format!("allocations a call, {n} in flight");
        let mut client = Row::new(&workload, "client", "", Goal::None);
        let mut server = Row::new(&workload, "server", "", Goal::None);
        for who in [Who::Raw, Who::Ours] {
            let mut counts = Vec::new();
            for calls in RUNS {
                let shape = Shape { clients: 1, n, keys: 1 };
                let mut team = Team::start(ALLOCATIONS, who, shape, plan)?;
                team.slice(calls)?;
                counts.push(team.finish()?.concat());
            }
            let [few, many] = &*counts else { return Err("two runs".into()) };
            let calls = (RUNS[1] - RUNS[0]) as f64;
            let each: Vec<f64> = few.iter().zip(many).map(|(a, b)| (b - a) / calls).collect();
            let &[of_client, of_server] = &*each else { return Err("two processes".into()) };
            client = client.with_rounds(who, vec![of_client]);
            server = server.with_rounds(who, vec![of_server]);
        }
        rows.extend([client, server]);
    }
    Ok(rows)
}

/// Runs something and counts what this thread allocates, in a build that can.
#[cfg(feature = "count-allocations")]
pub(crate) fn count<T>(run: impl FnOnce() -> T) -> (Option<T>, Option<u64>) {
    let mut outcome = None;
    let info = allocation_counter::measure(|| outcome = Some(run()));
    (outcome, Some(info.count_total))
}

#[cfg(not(feature = "count-allocations"))]
pub(crate) fn count<T>(run: impl FnOnce() -> T) -> (Option<T>, Option<u64>) {
    (Some(run()), None)
}
