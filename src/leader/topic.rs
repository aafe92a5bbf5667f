//! One topic of a leader: its values, its state, and how far each follower has got.
//!
//! Pure: no socket, clock or task. `P` stands for a follower.
//!
//! ```text
//!            value                      failure, end, loss
//! Starting ─────────► Live ───────────────────────────────► Stale
//!    ▲ │ failure       ▲                                      │
//!    └─┘ (new cause)   └──────────── value ◄──────────────────┘
//! ```
//! Every change of state is a *turn*. A follower that was told the last turn and has the newest
//! value needs nothing more; so nothing is queued for a follower that does not read, and what it
//! missed costs no memory.

use std::collections::VecDeque;

use bytes::Bytes;
use tokio::time::Instant;

use crate::{
    error::Error,
    id_map::IdMap,
    protocol::{Frame, pb},
};

/// How far a topic is in touch with the upstream.
#[derive(Debug, Clone)]
enum State {
    Starting { cause: Option<Error> },
    Live,
    Stale { since: Instant, cause: Error },
}

/// The bounds of a ring of values.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ring {
    pub(super) values: usize,
    pub(super) bytes: usize,
}

#[derive(Debug)]
pub(super) struct TopicState<P> {
    /// The number under which the topic is spoken of on the wire.
    number: u64,
    bounds: Ring,
    /// The newest values, of contiguous versions that end at `version`. Each frame is encoded
    /// once and the same for every follower.
    ring: VecDeque<Frame>,
    ring_bytes: usize,
    /// Of the newest value; 0 before the first.
    version: u64,
    newest: Bytes,
    state: State,
    turn: u64,
    followers: IdMap<Progress<P>>,
}

#[derive(Debug)]
struct Progress<P> {
    peer: P,
    /// The request that subscribed; an unsubscribe names it.
    request: u64,
    /// Version of the last value that was given to the follower.
    cursor: u64,
    /// The last turn that the follower knows.
    told: u64,
    /// Another subscription of the follower to this topic has the value already, so that the value
    /// alone would not tell it the state.
    say_state: bool,
    /// A large value is on its way in parts; a newer one waits for its end.
    busy: bool,
    /// The follower was woken and has not drained since.
    woken: bool,
}

impl<P: Clone> TopicState<P> {
    pub(super) fn new(number: u64, bounds: Ring) -> Self {
        Self {
            number,
            bounds,
            ring: VecDeque::new(),
            ring_bytes: 0,
            version: 0,
            newest: Bytes::new(),
            state: State::Starting { cause: None },
            turn: 1,
            followers: IdMap::default(),
        }
    }

    /// A value of the upstream. Returns who is to be woken.
    pub(super) fn push(&mut self, value: Bytes) -> Vec<P> {
        let was_live = matches!(self.state, State::Live);
        self.state = State::Live;
        if self.version > 0 && self.newest == value {
            // Equal values cost no frame, unless it has to be said that the topic lives again.
            return if was_live { Vec::new() } else { self.turn() };
        }
        self.version += 1;
        self.newest = value.clone();
        let update = pb::Update { version: self.version, stale: false };
        let frame = Frame::with_payload(self.number, update, value);
        self.ring_bytes += frame.packet_len();
        self.ring.push_back(frame);
        while self.ring.len() > self.bounds.values || self.ring_bytes > self.bounds.bytes {
            if self.ring.len() == 1 {
                break;
            }
            self.ring_bytes -= self.ring.pop_front().map_or(0, |frame| frame.packet_len());
        }
        if !was_live {
            self.turn += 1;
        }
        self.wake_all()
    }

    /// The topic is cut off from the upstream. Returns who is to be woken.
    pub(super) fn fail(&mut self, cause: Error, now: Instant) -> Vec<P> {
        self.state = match &self.state {
            State::Starting { .. } => State::Starting { cause: Some(cause) },
            State::Live => State::Stale { since: now, cause },
            State::Stale { since, .. } => State::Stale { since: *since, cause },
        };
        self.turn()
    }

    /// The topic is in touch with the upstream, without a value to show for it.
    pub(super) fn live(&mut self) -> Vec<P> {
        self.state = State::Live;
        self.turn()
    }

    fn turn(&mut self) -> Vec<P> {
        self.turn += 1;
        self.wake_all()
    }

    fn wake_all(&mut self) -> Vec<P> {
        let mut woken = Vec::new();
        for progress in self.followers.values_mut() {
            if !progress.woken && !progress.busy {
                progress.woken = true;
                woken.push(progress.peer.clone());
            }
        }
        woken
    }

    /// Adds a follower, which has the value of version `has` already. It counts as woken.
    ///
    /// One that is here already subscribed once more: what it is told is for both.
    pub(super) fn attach(&mut self, id: u64, peer: P, request: u64, has: Option<u64>) {
        let up_to_date = has == Some(self.version);
        let cursor = if up_to_date { self.version } else { self.version.saturating_sub(1) };
        let before = self.followers.get(&id);
        let progress = Progress {
            peer,
            request,
            cursor: before.map_or(cursor, |before| before.cursor.min(cursor)),
            told: 0,
            say_state: before.is_some(),
            busy: before.is_some_and(|before| before.busy),
            woken: true,
        };
        self.followers.insert(id, progress);
    }

    /// Removes a follower, if this request is the one that added it last, and leaves it to the
    /// `other` request of its, where there is one.
    pub(super) fn detach(&mut self, id: u64, request: u64, other: Option<u64>) {
        let Some(progress) = self.followers.get_mut(&id) else { return };
        if progress.request != request {
            return;
        }
        match other {
            Some(other) => progress.request = other,
            None => drop(self.followers.remove(&id)),
        }
    }

    /// A large value was written to its end. True: there is more for this follower.
    pub(super) fn value_written(&mut self, id: u64) -> bool {
        let Some(progress) = self.followers.get_mut(&id) else { return false };
        progress.busy = false;
        let more = progress.cursor < self.version || progress.told != self.turn;
        let wake = more && !progress.woken;
        progress.woken |= more;
        wake
    }

    /// Gives a follower what it does not have, while `give` takes it.
    pub(super) fn drain(&mut self, id: u64, now: Instant, give: &mut impl FnMut(Frame) -> Given) {
        let Some(progress) = self.followers.get_mut(&id) else { return };
        progress.woken = false;
        if progress.busy {
            return;
        }
        while progress.cursor < self.version {
            let behind = usize::try_from(self.version - progress.cursor).unwrap_or(usize::MAX);
            if behind > self.ring.len() {
                // It fell behind what is kept: on to the newest. The step in the version says how
                // many it missed.
                progress.cursor = self.version - 1;
                continue;
            }
            let is_newest = progress.cursor + 1 == self.version;
            let given = if is_newest && matches!(self.state, State::Stale { .. }) {
                // What is stale must not look live for a moment.
                let update = pb::Update { version: self.version, stale: true };
                give(Frame::with_payload(self.number, update, self.newest.clone()))
            } else {
                give(self.ring[self.ring.len() - behind].clone())
            };
            progress.cursor += 1;
            if is_newest && matches!(self.state, State::Live) && !progress.say_state {
                progress.told = self.turn;
            }
            match given {
                Given::AndRoom => {}
                Given::NoRoom => {
                    progress.woken = progress.cursor < self.version || progress.told != self.turn;
                    return;
                }
                Given::InParts => {
                    progress.busy = true;
                    return;
                }
            }
        }
        if progress.told != self.turn {
            progress.told = self.turn;
            progress.say_state = false;
            give(Frame::new(self.number, self.state.on_wire(now)));
        }
    }

    /// A large value is still on its way that a subscription of this follower which is over was
    /// given. What comes next must not overtake it.
    pub(super) fn hold_back(&mut self, id: u64) {
        if let Some(progress) = self.followers.get_mut(&id) {
            progress.busy = true;
            progress.woken = false;
        }
    }

    /// Whether a follower has to be drained once more, as after [`Given::NoRoom`].
    pub(super) fn is_woken(&self, id: u64) -> bool {
        self.followers.get(&id).is_some_and(|progress| progress.woken)
    }
}

/// What became of a frame that was given to a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Given {
    /// Queued; there is room for more.
    AndRoom,
    /// Queued; no more for now.
    NoRoom,
    /// Queued in parts.
    InParts,
}

impl State {
    fn on_wire(&self, now: Instant) -> pb::State {
        use pb::state::State as Wire;
        let state = match self {
            Self::Starting { cause } => {
                Wire::Starting(pb::Starting { cause: cause.as_ref().map(Into::into) })
            }
            Self::Live => Wire::Live(pb::Live {}),
            Self::Stale { since, cause } => {
                let for_ms = now.saturating_duration_since(*since).as_millis();
                let for_ms = u64::try_from(for_ms).unwrap_or(u64::MAX);
                Wire::Stale(pb::Stale { cause: Some(cause.into()), for_ms })
            }
        };
        pb::State { state: Some(state) }
    }
}

#[cfg(test)]
mod tests;
