//! What is measured, one file each.

mod calls;
mod current;
mod fan_out;

use crate::contest::{Child, Plan, Result, Row};

/// One comparison.
pub(crate) struct Suite {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&Plan) -> Result<Vec<Row>>,
}

pub(crate) const ALL: [Suite; 4] = [
    Suite { name: calls::LATENCY, run: calls::latency },
    Suite { name: calls::THROUGHPUT, run: calls::throughput },
    Suite { name: fan_out::NAME, run: fan_out::run },
    Suite { name: current::NAME, run: current::run },
];

/// Runs a process of a contestant. All of them use a current-thread runtime.
pub(crate) fn run_child(child: Child) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // In a task, as most callers are: to wake what a runtime blocks on costs one more look at its
    // sockets.
    let task = match child.suite.as_str() {
        fan_out::NAME => runtime.spawn(async move { fan_out::child(&child).await }),
        _ => runtime.spawn(async move { calls::child(&child).await }),
    };
    runtime.block_on(task)?
}
