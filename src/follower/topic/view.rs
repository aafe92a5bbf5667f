//! What subscribers are shown of a topic: its state, and what each has not seen yet.

use std::{sync::Arc, time::Instant};

use super::{Entry, Held, Inner};
use crate::{
    error::{Error, ErrorKind},
    follower::reach::{Reach, Sight},
};

/// The state of a subscription.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum State {
    /// No value yet.
    Starting {
        /// Since when.
        since: Instant,
        /// The last failure, where there was one.
        cause: Option<Error>,
    },
    /// The value is the upstream's current one.
    Live,
    /// Cut off from the upstream; the value is the last one that was known.
    Stale {
        /// Since when.
        since: Instant,
        /// Why.
        cause: Error,
    },
    /// Over, for good.
    Closed {
        /// Why.
        cause: Error,
    },
}

/// What the leader said of a topic.
#[derive(Debug, Clone)]
pub(super) enum Told {
    Starting(Option<Error>),
    Live,
    Stale(Instant, Error),
}

/// Where a subscriber is.
#[derive(Debug, Clone)]
pub(crate) struct Cursor {
    pub(super) id: u64,
    pub(super) seq: u64,
    pub(super) total: u64,
    pub(super) shown: Shown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    Starting,
    Live,
    Stale(ErrorKind),
    Closed,
}

/// What happened, to one subscriber.
pub(crate) enum Event {
    Value { value: Held, missed: u64 },
    Live { entry: Option<Arc<Entry>> },
    Stale { since: Instant, cause: Error },
    Closed { cause: Error },
}

impl Inner {
    pub(super) fn state(&self, sight: Sight) -> State {
        if let Some(cause) = &self.closed {
            return State::Closed { cause: cause.clone() };
        }
        let cut_off = match (sight.away, &self.told) {
            (Some((since, cause)), _) => Some((since, Some(cause))),
            (None, (generation, _)) if *generation != sight.generation => {
                let (since, cause) = sight.last_down;
                Some((since, (sight.generation > 1).then_some(cause)))
            }
            // A new leader that has no value yet, of one that had.
            (None, (_, Told::Starting(cause))) if !self.ring.is_empty() => {
                let (since, lost) = sight.last_down;
                Some((since, Some(cause.clone().unwrap_or(lost))))
            }
            (None, (_, Told::Starting(cause))) => Some((self.since, cause.clone())),
            (None, (_, Told::Stale(since, cause))) => Some((*since, Some(cause.clone()))),
            (None, (_, Told::Live)) => None,
        };
        match cut_off {
            // Nothing was ever received, so there is nothing that could be stale.
            Some((_, cause)) if self.ring.is_empty() && !matches!(self.told.1, Told::Live) => {
                State::Starting { since: self.since, cause }
            }
            Some((since, cause)) => State::Stale {
                since,
                cause: cause.unwrap_or_else(|| {
                    Error::new(ErrorKind::Disconnected, "the leader has no value yet")
                }),
            },
            None => match &self.undecodable {
                Some((seq, since, cause)) if *seq == self.last_seq => {
                    State::Stale { since: *since, cause: cause.clone() }
                }
                _ => State::Live,
            },
        }
    }

    /// Whether it is live without a look at all that may be said against it.
    fn is_plainly_live(&self, reach: &Reach) -> bool {
        let (generation, told) = &self.told;
        matches!(told, Told::Live)
            && self.closed.is_none()
            && self.undecodable.is_none()
            && reach.is_well(*generation)
    }

    pub(super) fn next_event(&mut self, cursor: &mut Cursor, reach: &Reach) -> Option<Event> {
        if cursor.shown == Shown::Closed {
            // Asked again after the end: the end again.
            let cause = self.closed.clone()?;
            return Some(Event::Closed { cause });
        }
        // One that has just come has not taken the value that it is behind.
        if cursor.shown != Shown::Starting {
            self.settle(cursor.seq);
        }
        if let Some(value) = self.take_next(cursor.seq) {
            let missed = value.total().saturating_sub(cursor.total + 1);
            cursor.seq = value.seq();
            cursor.total = value.total();
            cursor.shown = Shown::Live;
            return Some(Event::Value { value, missed });
        }
        if cursor.shown == Shown::Live && self.is_plainly_live(reach) {
            return None;
        }
        match self.state(reach.sight()) {
            State::Closed { cause } => {
                cursor.shown = Shown::Closed;
                Some(Event::Closed { cause })
            }
            State::Stale { since, cause } if cursor.shown != Shown::Stale(cause.kind()) => {
                cursor.shown = Shown::Stale(cause.kind());
                Some(Event::Stale { since, cause })
            }
            State::Live if cursor.shown != Shown::Live => {
                cursor.shown = Shown::Live;
                Some(Event::Live { entry: self.ring.back_mut().map(|newest| newest.value.share()) })
            }
            State::Starting { .. } | State::Stale { .. } | State::Live => None,
        }
    }
}
