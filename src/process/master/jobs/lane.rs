//! A lane: the runs of a job that are for the same worker, or for any.

use std::{collections::VecDeque, time::Duration};

use jiff::Timestamp;
use tokio::time::Instant;

use super::office::Office;
use crate::process::schedule::{Misfire, Now, Overlap, Schedule};

/// How late a run may start, and how long a worker is looked for, before it is missed.
pub(super) const GRACE: Duration = Duration::from_secs(60);

/// How long a worker may take to claim what it is offered. Also the pause before workers are asked
/// again that did not claim, or declined.
pub(super) const OFFER: Duration = Duration::from_secs(2);

/// Most runs of a lane that wait (`Overlap::Queue`), or are in workers (`Overlap::Allow`).
pub(super) const LANE: usize = 100;

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Lane {
    pub(super) waiting: VecDeque<Waiting>,
    pub(super) active: Vec<Active>,
    /// When to ask the workers again, where all of them have been asked for the first that waits.
    retry: Option<Instant>,
}

/// A run without a worker.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) id: u64,
    pub(super) attempt: u32,
    pub(super) scheduled: Timestamp,
    /// Since when it could have started.
    pub(super) since: Instant,
    /// Who asked for it, where it was asked for by hand.
    pub(super) hand: Option<u64>,
    /// Workers that did not claim it, or declined.
    pub(super) tried: Vec<u32>,
}

/// A run that a worker was offered, or runs.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) run: Waiting,
    pub(super) pid: u32,
    pub(super) offer: u64,
    pub(super) stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Offered { until: Instant },
    Running { since: Instant },
}

impl Waiting {
    /// Whether the run of a later tick may take its place.
    pub(super) fn is_replaceable(&self) -> bool {
        self.attempt == 1 && self.hand.is_none()
    }

    /// Until when it may wait for a worker. What was delivered before, or is to be made up for, waits
    /// as long as it takes; what was asked for by hand does not.
    fn patience(&self, schedule: &Schedule) -> Option<Instant> {
        let waits_on = schedule.misfires() == Misfire::Once && self.hand.is_none();
        (self.attempt == 1 && !waits_on).then(|| self.since + GRACE)
    }
}

impl Active {
    pub(super) fn is(&self, offer: u64, pid: u32) -> bool {
        self.offer == offer && self.pid == pid
    }

    pub(super) fn is_running(&self) -> bool {
        matches!(self.stage, Stage::Running { .. })
    }

    pub(super) fn offered_until(&self) -> Option<Instant> {
        match self.stage {
            Stage::Offered { until } => Some(until),
            Stage::Running { .. } => None,
        }
    }
}

/// How many runs of a lane may be in workers at a time.
pub(super) fn most_active(schedule: &Schedule) -> usize {
    match schedule.overlaps() {
        Overlap::Skip | Overlap::Queue => 1,
        Overlap::Allow => LANE,
    }
}

impl Lane {
    /// Takes the first that waits, for one of these workers: at random one that was not asked yet.
    pub(super) fn next(
        &mut self,
        open: &[u32],
        now: Now,
        office: &mut Office,
    ) -> Option<(Waiting, u32)> {
        if self.retry.is_some_and(|retry| retry <= now.clock) {
            self.retry = None;
            self.waiting.iter_mut().for_each(|run| run.tried.clear());
        }
        let run = self.waiting.front()?;
        if open.is_empty() {
            return None;
        }
        let untried = open.iter().copied().filter(|pid| !run.tried.contains(pid));
        let untried: Vec<u32> = untried.collect();
        let Some(pid) = office.pick(&untried) else {
            self.retry.get_or_insert(now.clock + OFFER);
            return None;
        };
        self.retry = None;
        Some((self.waiting.pop_front()?, pid))
    }

    /// What waits is not late through its own fault: it was another run's turn.
    pub(super) fn wait_anew(&mut self, now: Now) {
        for run in &mut self.waiting {
            run.since = now.clock;
        }
    }

    /// Takes out all that no worker has claimed.
    pub(super) fn clear_unclaimed(&mut self, office: &mut Office) -> Vec<Waiting> {
        let mut cleared = Vec::new();
        for active in std::mem::take(&mut self.active) {
            if active.is_running() {
                self.active.push(active);
            } else {
                office.end_offer(active.offer);
                cleared.push(active.run);
            }
        }
        cleared.extend(self.waiting.drain(..));
        cleared
    }

    /// Takes out those that have waited for a worker for too long.
    pub(super) fn give_up(&mut self, schedule: &Schedule, now: Now) -> Vec<Waiting> {
        if !self.has_room(schedule) {
            return Vec::new();
        }
        let is_late = |run: &Waiting| run.patience(schedule).is_some_and(|end| end <= now.clock);
        let (late, rest) = std::mem::take(&mut self.waiting).into_iter().partition(is_late);
        self.waiting = rest;
        late.into()
    }

    fn has_room(&self, schedule: &Schedule) -> bool {
        self.active.len() < most_active(schedule)
    }

    /// When something has to be done about it.
    pub(super) fn next_deadline(&self, schedule: &Schedule) -> Option<Instant> {
        let waiting = self.waiting.iter().filter(|_| self.has_room(schedule));
        let patience = waiting.clone().filter_map(|run| run.patience(schedule));
        let retry = waiting.take(1).filter_map(|_| self.retry);
        let offers = self.active.iter().filter_map(Active::offered_until);
        offers.chain(retry).chain(patience).min()
    }
}
