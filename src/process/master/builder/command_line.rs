//! What the command line needs to know of a cluster that is described, and adds to it.

use std::{collections::BTreeMap, net::TcpListener, time::Duration};

use super::{MasterBuilder, MasterHandle, run::default_workers};
use crate::process::output::Logs;

impl MasterBuilder {
    /// How many workers it starts with.
    pub(in crate::process) fn worker_count(&self) -> u32 {
        self.workers.unwrap_or_else(default_workers)
    }

    /// How long its stop takes at most: workers, agent, and what left its group take turns.
    pub(in crate::process) fn stop_limit(&self) -> Duration {
        self.stop_timeout.saturating_mul(3).saturating_add(SLACK)
    }

    /// How long its start takes at most until it fails by itself, with a reason: agent and workers
    /// take turns, and those who are there are stopped then.
    pub(in crate::process) fn start_limit(&self) -> Duration {
        self.ready_timeout.saturating_mul(2).saturating_add(self.stop_limit())
    }

    /// Lets all that agent and workers write go through the master.
    pub(in crate::process) fn logs(mut self, logs: Logs) -> Self {
        self.launch.logs = Some(logs);
        self
    }

    /// Sockets to be taken in place of binding the address of a listener of the same name.
    pub(in crate::process) fn given(mut self, sockets: BTreeMap<String, TcpListener>) -> Self {
        self.given = sockets;
        self
    }

    /// A second observer, beside the one of the user.
    pub(in crate::process) fn console<F, Fut>(mut self, console: F) -> Self
    where
        F: FnOnce(MasterHandle) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        self.console = Some(Box::new(move |handle| Box::pin(console(handle))));
        self
    }
}

/// What goes by between two steps.
const SLACK: Duration = Duration::from_secs(1);
