//! How many panics there were in each process, and which worker is replaced after one, and when. No
//! socket and no clock.
//!
//! A worker that is replaced panics no more, but its replacement may, and right away. So a panic
//! counts as a death would: the replacement comes at once after a healthy life, else after a pause
//! that doubles, during which the worker goes on.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::restart::{Backoff, RestartPolicy};
use crate::process::name::ProcessName;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Panics {
    policy: RestartPolicy,
    /// Whether the cluster was ready. Before, nobody is replaced: the end of a process would be that
    /// of the start.
    is_open: bool,
    /// The workers that are ready and have not panicked, with the time when they became it.
    healthy: BTreeMap<u32, Instant>,
    /// The workers that panicked, with the time when they are replaced.
    due: BTreeMap<u32, Instant>,
    /// How many panics there were in each process that told of any.
    counts: BTreeMap<u32, u64>,
    /// Of each worker that panicked, by its name, since its replacement has another pid.
    backoffs: BTreeMap<ProcessName, Backoff>,
}

impl Panics {
    pub(super) fn new(policy: RestartPolicy) -> Self {
        let (healthy, due, counts, backoffs) = Default::default();
        Self { policy, is_open: false, healthy, due, counts, backoffs }
    }

    /// The cluster is ready.
    pub(super) fn open(&mut self) {
        self.is_open = true;
    }

    /// A worker is ready.
    pub(super) fn watch(&mut self, now: Instant, pid: u32) {
        self.healthy.insert(pid, now);
    }

    /// A worker panicked. More panics of it change nothing.
    pub(super) fn panicked(&mut self, now: Instant, process: ProcessName, pid: u32) {
        // One that is not ready yet goes on with its start, and has its limit.
        let Some(ready) = self.healthy.remove(&pid) else { return };
        let backoff = self.backoffs.entry(process).or_default();
        let pause = backoff.after_death(&self.policy, Some(now - ready));
        self.due.insert(pid, now + pause.time);
    }

    /// A process told how many panics there were in it.
    pub(super) fn note(&mut self, pid: u32, count: u64) {
        self.counts.insert(pid, count);
    }

    /// How many panics there were in a process.
    pub(super) fn count(&self, pid: u32) -> u64 {
        self.counts.get(&pid).copied().unwrap_or(0)
    }

    /// A process is gone.
    pub(super) fn bury(&mut self, pid: u32) {
        self.forget(pid);
        self.counts.remove(&pid);
    }

    /// A worker leaves.
    pub(super) fn forget(&mut self, pid: u32) {
        self.healthy.remove(&pid);
        self.due.remove(&pid);
    }

    /// When [`take_due`](Self::take_due) is due.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.due.values().min().copied().filter(|_| self.is_open)
    }

    /// The workers that are to be replaced now.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<u32> {
        if !self.is_open {
            return Vec::new();
        }
        self.due.extract_if(.., |_, due| *due <= now).map(|(pid, _)| pid).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const WORKER: ProcessName = ProcessName::Worker(0);

    fn open() -> Panics {
        let mut panics = Panics::new(RestartPolicy::default());
        panics.open();
        panics
    }

    #[test]
    fn while_the_cluster_starts_nobody_is_replaced() {
        let now = Instant::now();
        let mut panics = Panics::new(RestartPolicy::default());
        panics.watch(now, 7);
        panics.panicked(now, WORKER, 7);
        let later = now + Duration::from_secs(60);
        assert!(panics.next_deadline().is_none() && panics.take_due(later).is_empty());
        panics.open();
        assert_eq!(panics.take_due(later), [7]);
    }

    #[test]
    fn a_worker_that_was_healthy_is_replaced_at_once_and_once() {
        let begin = Instant::now();
        let mut panics = open();
        panics.watch(begin, 7);
        let later = begin + Duration::from_secs(10);
        panics.panicked(later, WORKER, 7);
        assert_eq!(panics.next_deadline(), Some(later));
        assert_eq!(panics.take_due(later), [7]);
        panics.panicked(later, WORKER, 7);
        assert!(panics.next_deadline().is_none() && panics.take_due(later).is_empty());
    }

    #[test]
    fn replacements_that_panic_right_away_are_replaced_ever_more_slowly() {
        let mut panics = open();
        let mut now = Instant::now();
        for (pid, pause) in (1..).zip([1, 2, 4, 8, 16, 30, 30]) {
            panics.watch(now, pid);
            panics.panicked(now, WORKER, pid);
            let due = now + Duration::from_secs(pause);
            assert!(panics.take_due(due - Duration::from_nanos(1)).is_empty());
            assert_eq!(panics.take_due(due), [pid]);
            now = due;
        }
        // Another worker has nothing to do with it.
        panics.watch(now, 100);
        panics.panicked(now, ProcessName::Worker(1), 100);
        assert_eq!(panics.next_deadline(), Some(now + Duration::from_secs(1)));
    }

    #[test]
    fn one_that_is_not_ready_or_is_gone_is_not_replaced() {
        let now = Instant::now();
        let mut panics = open();
        panics.panicked(now, WORKER, 7);
        assert_eq!(panics.next_deadline(), None);
        panics.watch(now, 7);
        panics.panicked(now, WORKER, 7);
        panics.forget(7);
        assert_eq!(panics.next_deadline(), None);
    }
}
