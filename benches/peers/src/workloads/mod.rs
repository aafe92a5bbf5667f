//! What is measured, a file for each kind.

pub(crate) mod allocations;
mod cached;
mod calls;
mod feeds;
mod growth;
mod large;
pub(crate) mod recovery;

use crate::{
    contestants::{Nats, Ours, OursVec, Raw, RawTasks, Redis, Who},
    harness::{Child, Plan, Result},
    report::Row,
};

/// One workload: what `--only` names, and what measures it.
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&Plan) -> Result<Vec<Row>>,
}

impl Workload {
    const fn new(name: &'static str, run: fn(&Plan) -> Result<Vec<Row>>) -> Self {
        Self { name, run }
    }
}

/// All of them, in the order of the table.
pub(crate) const ALL: [Workload; 12] = [
    Workload::new(calls::LATENCY, calls::latency),
    Workload::new(calls::THROUGHPUT, calls::throughput),
    Workload::new(feeds::FAN_OUT, feeds::fan_out),
    Workload::new(feeds::UPDATE, feeds::update),
    Workload::new(large::LARGE, large::large),
    Workload::new(large::BESIDE, large::beside),
    Workload::new(feeds::MEMORY, feeds::memory),
    Workload::new("cached", cached::run),
    Workload::new(recovery::RECOVERY, recovery::run),
    Workload::new("runtimes", calls::runtimes),
    Workload::new("growth", growth::run),
    Workload::new(allocations::ALLOCATIONS, allocations::run),
];

/// Runs a client of a contestant.
pub(crate) async fn client(child: &Child) -> Result<()> {
    if feeds::JOBS.contains(&&*child.job) {
        return match child.who {
            Who::Raw | Who::RawThreads => feeds::client::<Raw>(child).await,
            Who::Ours | Who::OursThreads => feeds::client::<Ours>(child).await,
            #[cfg(feature = "tonic")]
            Who::Tonic => feeds::client::<crate::contestants::Tonic>(child).await,
            Who::Nats => feeds::client::<Nats>(child).await,
            Who::Redis => feeds::client::<Redis>(child).await,
            other => Err(format!("{} has no values", other.name()).into()),
        };
    }
    if child.job == growth::SPREAD {
        return growth::client(child).await;
    }
    match child.who {
        Who::Raw | Who::RawThreads => calls::client::<Raw>(child).await,
        Who::Ours | Who::OursThreads => calls::client::<Ours>(child).await,
        Who::OursVec => calls::client::<OursVec>(child).await,
        Who::RawTasks => calls::client::<RawTasks>(child).await,
        #[cfg(feature = "tonic")]
        Who::Tonic => calls::client::<crate::contestants::Tonic>(child).await,
        #[cfg(feature = "tarpc")]
        Who::Tarpc => calls::client::<crate::contestants::Tarpc>(child).await,
        other => Err(format!("{} has no calls", other.name()).into()),
    }
}
