//! What all jobs share: the workers, the numbers, who waits for what, and what is to be sent.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use tokio::sync::oneshot;

use super::ToPid;
use crate::{
    error::{Error, ErrorKind, Result},
    process::{
        name::ProcessName,
        schedule::{Now, RunOutcome},
    },
    protocol::pb::control::Body,
};

/// Who waits for a run that was asked for by hand.
pub(in crate::process::master) type Answer = oneshot::Sender<Result<RunOutcome>>;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Office {
    pub(super) phase: Phase,
    /// Those that were started and are not gone.
    workers: BTreeMap<u32, Peer>,
    /// Which job an offer is of, while it stands or its run is in its worker.
    offers: HashMap<u64, Arc<str>>,
    hands: HashMap<u64, Hand>,
    /// Counts processes, offers and hands.
    counter: u64,
    last_run: u64,
    dice: fastrand::Rng,
    out: Vec<ToPid>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Starting,
    Running,
    Stopping,
}

/// A worker.
#[derive(Debug)]
struct Peer {
    name: ProcessName,
    /// Processes that were started later have higher ones.
    order: u64,
    ready: bool,
}

/// What was asked for by hand: as many runs as there are workers for it.
#[derive(Debug)]
struct Hand {
    answer: Answer,
    left: usize,
    /// The first outcome that is no success.
    outcome: RunOutcome,
}

impl Office {
    /// Runs are numbered from the time on, so that a later master does not use a number again. They
    /// fit into the integers of JSON for two centuries.
    pub(super) fn new(now: Now) -> Self {
        Self {
            phase: Phase::Starting,
            workers: BTreeMap::new(),
            offers: HashMap::new(),
            hands: HashMap::new(),
            counter: 0,
            last_run: u64::try_from(now.wall.as_second()).unwrap_or(0) << 20,
            dice: fastrand::Rng::new(),
            out: Vec::new(),
        }
    }

    fn count(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    pub(super) fn say(&mut self, pid: u32, body: Body) {
        self.out.push((pid, body));
    }

    /// What is to be done now.
    pub(super) fn drain(&mut self) -> Vec<ToPid> {
        std::mem::take(&mut self.out)
    }

    pub(super) fn new_run(&mut self) -> u64 {
        self.last_run += 1;
        self.last_run
    }

    pub(super) fn new_offer(&mut self, job: &str) -> u64 {
        let offer = self.count();
        self.offers.insert(offer, job.into());
        offer
    }

    pub(super) fn end_offer(&mut self, offer: u64) {
        self.offers.remove(&offer);
    }

    pub(super) fn job_of(&self, offer: u64) -> Option<&Arc<str>> {
        self.offers.get(&offer)
    }

    pub(super) fn hire(&mut self, pid: u32, name: ProcessName) {
        let order = self.count();
        self.workers.insert(pid, Peer { name, order, ready: false });
    }

    /// A process is ready; it may be no worker.
    pub(super) fn open(&mut self, pid: u32) {
        if let Some(peer) = self.workers.get_mut(&pid) {
            peer.ready = true;
        }
    }

    /// A worker is about to go.
    pub(super) fn close(&mut self, pid: u32) {
        if let Some(peer) = self.workers.get_mut(&pid) {
            peer.ready = false;
        }
    }

    pub(super) fn dismiss(&mut self, pid: u32) -> bool {
        self.workers.remove(&pid).is_some()
    }

    pub(super) fn order_of(&self, pid: u32) -> Option<u64> {
        self.workers.get(&pid).map(|peer| peer.order)
    }

    pub(super) fn is_ready(&self, pid: u32) -> bool {
        self.workers.get(&pid).is_some_and(|peer| peer.ready)
    }

    /// Whether a worker is to be offered runs: it is ready, and none that takes its place is.
    pub(super) fn is_open(&self, pid: u32) -> bool {
        let Some(peer) = self.workers.get(&pid) else { return false };
        let replaces =
            |other: &Peer| other.ready && other.name == peer.name && other.order > peer.order;
        peer.ready && !self.workers.values().any(replaces)
    }

    /// One of these, at random.
    pub(super) fn pick(&mut self, from: &[u32]) -> Option<u32> {
        (!from.is_empty()).then(|| from[self.dice.usize(..from.len())])
    }

    /// Keeps who waits for so many runs.
    pub(super) fn take_hand(&mut self, answer: Answer, runs: usize) -> u64 {
        let number = self.count();
        self.hands.insert(number, Hand { answer, left: runs, outcome: RunOutcome::Succeeded });
        number
    }

    /// One of the runs of a hand is over.
    pub(super) fn settle(&mut self, number: Option<u64>, outcome: &RunOutcome) {
        let Some(number) = number else { return };
        let Some(hand) = self.hands.get_mut(&number) else { return };
        hand.left -= 1;
        if hand.outcome.is_success() {
            hand.outcome = outcome.clone();
        }
        if hand.left == 0
            && let Some(hand) = self.hands.remove(&number)
        {
            // Whoever asked may have gone.
            let _ = hand.answer.send(Ok(hand.outcome));
        }
    }

    /// A run that was asked for by hand will never be.
    pub(super) fn refuse(&mut self, number: Option<u64>, why: &str) {
        if let Some(hand) = number.and_then(|number| self.hands.remove(&number)) {
            // As above.
            let _ = hand.answer.send(Err(Error::new(ErrorKind::Closed, why)));
        }
    }

    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.offers.is_empty() && self.hands.is_empty()
    }
}
