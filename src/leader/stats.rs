//! What a leader counts, because nobody waits for it.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::Error;

/// Counters of failures that no caller sees. Each is logged, too.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    oneway_failures: AtomicU64,
    replay_failures: AtomicU64,
    panics: AtomicU64,
    late: AtomicU64,
}

/// What a leader has counted since its start; see [`Cluster::stats`](crate::Cluster::stats).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeaderStats {
    /// Upstream subscriptions that are open.
    pub topics: usize,
    /// Keys that are published.
    pub publications: usize,
    /// Followers that are connected, the users in the leader's own process included.
    pub followers: usize,
    /// Oneway calls that failed.
    pub oneway_failures: u64,
    /// Tries to publish again or to withdraw that failed.
    pub replay_failures: u64,
    /// Panics of the client.
    pub panics: u64,
    /// Calls that were not done at their deadline.
    pub late: u64,
}

impl Stats {
    pub(super) fn note_oneway_failure(&self, error: &Error) {
        let count = self.oneway_failures.fetch_add(1, Ordering::Relaxed) + 1;
        tracing::warn!(%error, count, "a oneway call failed");
    }

    pub(super) fn note_replay_failure(&self, error: &Error) {
        let count = self.replay_failures.fetch_add(1, Ordering::Relaxed) + 1;
        tracing::warn!(%error, count, "a publication could not be renewed or withdrawn");
    }

    pub(super) fn note_panic(&self, error: &Error) {
        let count = self.panics.fetch_add(1, Ordering::Relaxed) + 1;
        tracing::error!(%error, count, "the client panicked");
    }

    pub(super) fn note_late(&self) {
        self.late.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn snapshot(&self) -> LeaderStats {
        LeaderStats {
            topics: 0,
            publications: 0,
            followers: 0,
            oneway_failures: self.oneway_failures.load(Ordering::Relaxed),
            replay_failures: self.replay_failures.load(Ordering::Relaxed),
            panics: self.panics.load(Ordering::Relaxed),
            late: self.late.load(Ordering::Relaxed),
        }
    }
}
