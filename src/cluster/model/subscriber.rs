//! One subscriber of the model, and what it may be shown.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, task::AbortHandle, time::Instant};

use super::upstream::{Key, State as Upstream, WATCH_ANSWERED};
use crate::cluster::{Change, State, Subscription};

/// A cut link or a stream that ended shows within this time.
const AT_ONCE: Duration = Duration::from_millis(100);

/// A follower that was refused asks again within this time.
const ASKED_AGAIN: Duration = Duration::from_millis(2_100);

pub(super) struct Subscriber {
    pub(super) place: usize,
    pub(super) key: Key,
    subscription: Subscription<u64>,
    since: Instant,
    log: Arc<Mutex<Vec<Change<u64>>>>,
    /// Whether it reads.
    gate: watch::Sender<bool>,
    reader: AbortHandle,
    /// The last value that it was shown.
    seen: Option<Seen>,
    shown: Shown,
    /// It may still be shown what is from before the present leader or topic.
    fuzzy: bool,
    pub(super) missed: u64,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    value: u64,
    /// It is of the present leader and topic: only of these it is known how many values there were.
    of_today: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    Nothing,
    Live,
    Stale,
    Closed,
}

/// How a link or a stream is, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hop {
    Up,
    Down,
    /// The link only: its leader hands over.
    Leaving,
    /// The link only: it is there, and carries nothing.
    Frozen,
}

impl Subscriber {
    pub(super) fn new(
        place: usize,
        key: Key,
        subscription: Subscription<u64>,
        eager: bool,
        link: Hop,
    ) -> Self {
        let log = Arc::new(Mutex::new(Vec::new()));
        let gate = watch::Sender::new(eager);
        let (mut reads, entries) = (gate.subscribe(), Arc::clone(&log));
        let mut reading = subscription.clone();
        let read = async move {
            while reads.wait_for(|open| *open).await.is_ok() {
                let change = reading.changed().await;
                let is_over = matches!(change, Change::Closed { .. });
                entries.lock().unwrap_or_else(PoisonError::into_inner).push(change);
                if is_over {
                    return;
                }
            }
        };
        let reader = tokio::spawn(read).abort_handle();
        let shown = Shown::Nothing;
        let since = Instant::now();
        // What its follower kept from before the link was lost is shown first.
        let fuzzy = !is_settled(&subscription, link);
        let (seen, missed) = (None, 0);
        Self { place, key, subscription, since, log, gate, reader, seen, shown, fuzzy, missed }
    }

    /// Another one that is where this one's reader began.
    pub(super) fn again(&self, eager: bool) -> Self {
        // What the original saw meanwhile, the copy sees late.
        Self::new(self.place, self.key, self.subscription.clone(), eager, Hop::Down)
    }

    pub(super) fn read(&self, open: bool) {
        self.gate.send_replace(open);
    }

    pub(super) fn is_eager(&self) -> bool {
        *self.gate.borrow()
    }

    /// There is a new leader, or the follower's link is down for so long that its topic may be
    /// another one now.
    pub(super) fn note_era(&mut self) {
        self.fuzzy = true;
        if let Some(seen) = &mut self.seen {
            seen.of_today = false;
        }
    }

    /// Checks what it was shown since the last time.
    pub(super) fn check_log(&mut self, link: Hop, upstream: &Upstream) -> Result<(), String> {
        let log = std::mem::take(&mut *self.log.lock().unwrap_or_else(PoisonError::into_inner));
        let has_read_all = self.is_eager() && is_settled(&self.subscription, link);
        for change in log {
            self.check_change(&change, upstream).map_err(|why| {
                format!("{:?} of place {}: {change:?}: {why}", self.key, self.place)
            })?;
        }
        if has_read_all {
            // All that comes from here on is of the present leader.
            self.fuzzy = false;
        }
        Ok(())
    }

    fn check_change(&mut self, change: &Change<u64>, upstream: &Upstream) -> Result<(), String> {
        match change {
            Change::Value { value, missed } => {
                self.shown = Shown::Live;
                self.missed += missed;
                if !upstream.was_given(self.key, **value) {
                    return Err("the upstream never gave it".to_owned());
                }
                let seen = Seen { value: **value, of_today: !self.fuzzy };
                let Some(before) = self.seen.replace(seen) else { return Ok(()) };
                let is_exact = before.of_today && seen.of_today;
                let before = before.value;
                if **value <= before {
                    return Err(format!("it goes back from {before}"));
                }
                let given = upstream.given(self.key);
                let positions = (given.binary_search(&before), given.binary_search(value));
                let (Ok(from), Ok(to)) = positions else { return Ok(()) };
                let between = (to - from - 1) as u64;
                if *missed > between || (is_exact && *missed != between) {
                    return Err(format!("{between} values were given since {before}"));
                }
            }
            Change::Live { value } => {
                self.shown = Shown::Live;
                if self.seen.map(|seen| seen.value) != Some(**value) {
                    return Err(format!("it was shown {:?} before", self.seen));
                }
            }
            Change::Stale { since, .. } => {
                self.shown = Shown::Stale;
                if *since > std::time::Instant::now() {
                    return Err("in the future".to_owned());
                }
            }
            Change::Closed { .. } => {
                self.shown = Shown::Closed;
                return Err("nobody closed it".to_owned());
            }
        }
        Ok(())
    }

    /// What was shown is what the state says. Holds at rest, and for one that reads.
    pub(super) fn check_shown(&self) -> Result<(), String> {
        let state = self.subscription.state();
        let fits = match (&state, self.shown) {
            (State::Starting { .. }, Shown::Nothing) | (State::Stale { .. }, Shown::Stale) => true,
            (State::Live, Shown::Live) => {
                self.subscription.current().as_deref() == self.seen.as_ref().map(|seen| &seen.value)
            }
            _ => false,
        };
        if fits || !self.is_eager() {
            return Ok(());
        }
        Err(format!(
            "{:?} of place {}: {state:?}, {:?}, but it was shown {:?}, {:?}",
            self.key,
            self.place,
            self.subscription.current(),
            self.shown,
            self.seen
        ))
    }

    /// Cut off for longer than its bound: not live. In touch: live, with the upstream's value.
    pub(super) fn check_state(
        &self,
        link: (Hop, Instant),
        stream: (Hop, Instant),
        stale_after: Duration,
        upstream_value: u64,
    ) -> Result<(), String> {
        let lasts = |since: Instant, bound| since.max(self.since).elapsed() > bound;
        let state = self.subscription.state();
        let is_live = matches!(state, State::Live);
        let current = self.subscription.current();
        let has_value = current.as_deref() == Some(&upstream_value);
        let in_touch = if self.key.0 == WATCH_ANSWERED { ASKED_AGAIN } else { AT_ONCE };
        let is_right = match (link.0, stream.0) {
            (Hop::Frozen, _) if link.1.elapsed() > stale_after + Duration::from_millis(5) => {
                !is_live
            }
            (Hop::Frozen, _) => true,
            (Hop::Down | Hop::Leaving, _) if link.1.elapsed() > AT_ONCE => !is_live,
            (Hop::Up, Hop::Down) if lasts(link.1, AT_ONCE) && lasts(stream.1, AT_ONCE) => !is_live,
            (Hop::Up, Hop::Up) if lasts(link.1, AT_ONCE) && lasts(stream.1, in_touch) => {
                is_live && has_value
            }
            _ => true,
        };
        if is_right {
            return Ok(());
        }
        Err(format!(
            "{:?} of place {} is {state:?} with {current:?}, of {upstream_value}, while the link is \
             {:?} for {:?} and the stream {:?} for {:?}",
            self.key,
            self.place,
            link.0,
            link.1.elapsed(),
            stream.0,
            stream.1.elapsed()
        ))
    }
}

/// Whether what the follower has is of the present leader and topic.
fn is_settled(subscription: &Subscription<u64>, link: Hop) -> bool {
    link == Hop::Up && matches!(subscription.state(), State::Live)
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.reader.abort();
    }
}
