//! The lead of the agent: who accepts on the cluster port and has the real clients connected. Of all
//! agents that live, one has it at most; the master says which.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use tokio::sync::watch;

/// What an agent knows of its lead.
#[derive(Debug)]
pub(super) struct Lead {
    given: watch::Receiver<bool>,
    retired: watch::Receiver<Option<Duration>>,
    said_standby: AtomicBool,
}

/// The end that the control thread has.
#[derive(Debug)]
pub(super) struct LeadTeller {
    given: watch::Sender<bool>,
    retired: watch::Sender<Option<Duration>>,
}

/// The lead of a process that has it from its start, or has not.
pub(super) fn lead(given: bool) -> (LeadTeller, Lead) {
    let (given_sender, given) = watch::channel(given);
    let (retired_sender, retired) = watch::channel(None);
    let teller = LeadTeller { given: given_sender, retired: retired_sender };
    (teller, Lead { given, retired, said_standby: AtomicBool::new(false) })
}

impl LeadTeller {
    pub(super) fn give(&self) {
        self.given.send_replace(true);
    }

    /// The lead is to be given up; the calls that were taken may take this long.
    pub(super) fn retire(&self, drain: Duration) {
        self.retired.send_replace(Some(drain));
    }
}

impl Lead {
    pub(super) fn is_given(&self) -> bool {
        *self.given.borrow()
    }

    /// Waits until it is given. Cancel safe.
    pub(super) async fn given(&self) {
        if self.given.clone().wait_for(|given| *given).await.is_err() {
            // The control thread is gone only when the process is about to be.
            std::future::pending().await
        }
    }

    /// Waits until it is to be given up, and says in what time. Cancel safe.
    pub(super) async fn retired(&self) -> Duration {
        let mut retired = self.retired.clone();
        let drain = retired.wait_for(Option::is_some).await.ok().and_then(|drain| *drain);
        match drain {
            Some(drain) => drain,
            // As above.
            None => std::future::pending().await,
        }
    }

    /// Whether the master is still to be told that this process waits for it.
    pub(super) fn begin_standby(&self) -> bool {
        !self.said_standby.swap(true, Ordering::Relaxed)
    }
}
