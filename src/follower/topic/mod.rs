//! One topic of a follower: the values that arrived, the state that its subscribers are shown, and
//! where each subscriber is.
//!
//! What subscribers see is made of two things: what the leader said of the topic last, and whether
//! the leader is within reach. A topic is live only if both are well, on the same link.

#[cfg(test)]
mod tests;
mod value;
mod view;

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;

pub use self::view::State;
use self::{value::Own, view::Told};
pub(crate) use self::{
    value::{Decoded, Decoder, Entry, Held, Item, ItemValue},
    view::{Cursor, Event},
};
use super::reach::Reach;
use crate::{
    error::{Error, ErrorKind},
    protocol::pb,
};

pub(crate) struct Topic {
    pub(super) method: usize,
    pub(super) key: Bytes,
    /// Not shared: a subscription to work items.
    pub(super) is_one: bool,
    reach: Arc<Reach>,
    bounds: (usize, usize),
    newest: ArcSwapOption<Entry>,
    inner: Mutex<Inner>,
}

struct Inner {
    /// The newest value, and those before it that a subscriber has yet to take.
    ring: VecDeque<Kept>,
    ring_bytes: usize,
    /// The value that left the ring last, and one before it that decodes, as far as is known, as long
    /// as it is not known whether the last one does: for when the newest does not.
    last: Option<Held>,
    before: Option<Held>,
    /// Whether somebody took the last one: it decodes, if nobody has said otherwise.
    is_last_taken: bool,
    subscribers: usize,
    last_seq: u64,
    total: u64,
    /// Which leader, topic and version the newest value is of.
    has: Has,
    /// What the leader said last, and on which link.
    told: (u64, Told),
    since: Instant,
    closed: Option<Error>,
    /// The newest value does not decode.
    undecodable: Option<(u64, Instant, Error)>,
    items: VecDeque<Item>,
    wakers: Vec<(u64, Waker)>,
    last_subscriber: u64,
}

/// A value in the ring.
struct Kept {
    value: Held,
    /// How many subscribers have not taken it yet.
    waiting: usize,
}

/// What a follower can tell a leader that it has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Has {
    pub(super) epoch: u64,
    pub(super) topic: u64,
    pub(super) version: u64,
}

impl Topic {
    pub(super) fn new(
        (method, key): (usize, Bytes),
        is_one: bool,
        reach: Arc<Reach>,
        bounds: (usize, usize),
    ) -> Self {
        Self {
            method,
            key,
            is_one,
            reach,
            bounds,
            newest: ArcSwapOption::empty(),
            inner: Mutex::new(Inner {
                ring: VecDeque::new(),
                ring_bytes: 0,
                last: None,
                before: None,
                is_last_taken: false,
                subscribers: 0,
                last_seq: 0,
                total: 0,
                has: Has::default(),
                told: (0, Told::Starting(None)),
                since: Instant::now(),
                closed: None,
                undecodable: None,
                items: VecDeque::new(),
                wakers: Vec::new(),
                last_subscriber: 0,
            }),
        }
    }

    /// A topic of no leader, for fakes.
    pub(crate) fn detached(is_one: bool) -> Self {
        Self::new((0, Bytes::new()), is_one, Arc::new(Reach::always()), (64, usize::MAX))
    }

    /// A subscriber that has seen nothing: it is given the current value, if there is one.
    pub(crate) fn cursor(&self) -> Cursor {
        let mut inner = self.lock();
        let seq = inner.last_seq.saturating_sub(1);
        let total = inner.ring.back().map_or(0, |newest| newest.value.total() - 1);
        inner.join(seq);
        Cursor { id: inner.last_subscriber, seq, total, shown: view::Shown::Starting }
    }

    /// A subscriber that is where another one is.
    pub(crate) fn clone_cursor(&self, cursor: &Cursor) -> Cursor {
        let mut inner = self.lock();
        inner.join(cursor.seq);
        Cursor { id: inner.last_subscriber, ..cursor.clone() }
    }

    /// A subscriber is gone.
    pub(crate) fn leave(&self, cursor: &Cursor) {
        let mut inner = self.lock();
        let known = inner.wakers.iter().position(|(id, _)| *id == cursor.id);
        let waker = known.map(|at| inner.wakers.remove(at));
        inner.subscribers -= 1;
        inner.taken(cursor.seq, u64::MAX);
        drop(inner);
        drop(waker);
    }

    /// The newest value that arrived.
    pub(crate) fn newest(&self) -> Option<Arc<Entry>> {
        self.newest.load_full()
    }

    /// The newest value before this one, for when this one does not decode; or one that came since
    /// and does, since what is older is let go then.
    pub(crate) fn before(&self, entry: &Entry) -> Option<Arc<Entry>> {
        let mut inner = self.lock();
        let Inner { ring, last, before, .. } = &mut *inner;
        let kept = ring.iter_mut().rev().map(|kept| &mut kept.value);
        kept.chain(last)
            .chain(before)
            .find(|other| other.seq() < entry.seq || other.decodes() == Some(true))
            .map(Held::share)
    }

    /// The state that subscribers are shown.
    pub(crate) fn state(&self) -> State {
        self.lock().state(self.reach.sight_now())
    }

    /// The next thing that this subscriber has not seen. One that is behind what is kept goes on
    /// with the newest value.
    pub(crate) fn poll_event(&self, cursor: &mut Cursor, cx: &mut Context<'_>) -> Poll<Event> {
        let mut inner = self.lock();
        if let Some(event) = inner.next_event(cursor, &self.reach) {
            return Poll::Ready(event);
        }
        let stale = inner.register(cursor.id, cx);
        drop(inner);
        drop(stale);
        Poll::Pending
    }

    /// The next work item.
    pub(crate) fn poll_item(
        &self,
        cursor: &Cursor,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Item, Error>> {
        let mut inner = self.lock();
        if let Some(item) = inner.items.pop_front() {
            return Poll::Ready(Ok(item));
        }
        if let Some(cause) = &inner.closed {
            return Poll::Ready(Err(cause.clone()));
        }
        let stale = inner.register(cursor.id, cx);
        drop(inner);
        drop(stale);
        Poll::Pending
    }

    /// A value does not decode: if it is the newest, the topic is stale until one does.
    pub(crate) fn note_undecodable(&self, seq: u64, error: Error) {
        let mut inner = self.lock();
        if inner.last.as_ref().is_some_and(|last| last.seq() == seq) {
            inner.last = inner.before.take();
        }
        // A subscriber that is behind must not take back what another said of a newer one.
        if inner.undecodable.as_ref().is_none_or(|(known, ..)| *known < seq) {
            inner.undecodable = Some((seq, Instant::now(), error));
        }
    }

    pub(super) fn has(&self) -> Has {
        self.lock().has
    }

    /// The leader took the subscription, on the link of this generation.
    pub(super) fn accepted(&self, epoch: u64, topic: u64) {
        let mut inner = self.lock();
        if (inner.has.epoch, inner.has.topic) != (epoch, topic) {
            inner.has = Has { epoch, topic, version: 0 };
        }
    }

    /// Values of the leader that arrived together, on the link of this generation. In a burst, which
    /// is much of what was read at once, they are kept where they were read.
    pub(super) fn update(
        &self,
        generation: u64,
        values: impl ExactSizeIterator<Item = (pb::Update, Bytes)>,
        is_burst: bool,
    ) {
        self.change(|inner| {
            let before = inner.last_seq;
            let mut left = values.len();
            let mut is_changed = false;
            for (update, payload) in values {
                left -= 1;
                // The last two of them may be kept for long.
                let is_brief = is_burst && left >= 2;
                is_changed |= self.take(inner, generation, update, payload, is_brief);
            }
            if inner.last_seq != before {
                self.show_newest(inner);
            }
            is_changed
        });
    }

    /// Takes one value. Whether subscribers have something to see.
    fn take(
        &self,
        inner: &mut Inner,
        generation: u64,
        update: pb::Update,
        payload: Bytes,
        is_brief: bool,
    ) -> bool {
        let version = update.version;
        let before = inner.has.version;
        if version <= before && before > 0 {
            // Sent for another subscription of this process to the same topic.
            return false;
        }
        // Within an epoch another version is another value, or one that came back after others that
        // were skipped.
        let is_first = before == 0;
        let is_same =
            is_first && inner.ring.back().is_some_and(|newest| *newest.value.bytes() == payload);
        let was_live = is_same && matches!(inner.state(self.reach.sight()), State::Live);
        inner.has.version = version;
        if !update.stale {
            inner.told = (generation, Told::Live);
        }
        if !is_same {
            // Of a new epoch it is not known how many there were.
            inner.total += if is_first { 1 } else { version - before };
            // A small value is a slice of a large read buffer, which it would keep from being freed.
            let is_copied = !is_brief && payload.len() <= crate::protocol::PART;
            let bytes = if is_copied { Bytes::copy_from_slice(&payload) } else { payload };
            let (seq, total) = (inner.last_seq + 1, inner.total);
            self.keep(inner, Held::Own(Own { seq, total, bytes }));
        }
        !was_live
    }

    /// A value that never was encoded, as in a fake.
    pub(crate) fn push_decoded(&self, value: Decoded) {
        self.change(|inner| {
            inner.told = (self.reach.generation(), Told::Live);
            inner.total += 1;
            let (seq, total) = (inner.last_seq + 1, inner.total);
            let decoded = OnceLock::from(Ok(value));
            let entry = Entry { seq, total, bytes: Bytes::new(), decoded };
            self.keep(inner, Held::Shared(Arc::new(entry)));
            self.show_newest(inner);
            true
        });
    }

    fn keep(&self, inner: &mut Inner, value: Held) {
        inner.last_seq = value.seq();
        inner.ring_bytes += value.bytes().len();
        let waiting = inner.subscribers;
        inner.ring.push_back(Kept { value, waiting });
        let (values, bytes) = self.bounds;
        inner.shrink(|inner| inner.ring.len() > values || inner.ring_bytes > bytes);
        inner.shrink(Inner::is_front_taken);
    }

    fn show_newest(&self, inner: &mut Inner) {
        self.newest.store(inner.ring.back_mut().map(|newest| newest.value.share()));
    }

    /// A change of state that brings no value.
    pub(super) fn told(&self, state: pb::State) {
        use pb::state::State as Wire;
        let cause = |cause: Option<Box<pb::Error>>| {
            cause.map_or_else(|| Error::new(ErrorKind::Other, "no cause was given"), Error::from)
        };
        let told = match state.state {
            Some(Wire::Starting(starting)) => Told::Starting(starting.cause.map(Error::from)),
            Some(Wire::Live(_)) => Told::Live,
            Some(Wire::Stale(stale)) => {
                let ago = Duration::from_millis(stale.for_ms);
                let since = Instant::now().checked_sub(ago).unwrap_or_else(Instant::now);
                Told::Stale(since, cause(stale.cause))
            }
            None => return,
        };
        let generation = self.reach.generation();
        self.change(|inner| {
            inner.told = (generation, told);
            true
        });
    }

    /// The leader does not take the subscription for now. Subscribers are to be [woken](Self::wake).
    pub(super) fn refused(&self, cause: Error) {
        let generation = self.reach.generation();
        let mut inner = self.lock();
        let since = match inner.state(self.reach.sight()) {
            State::Stale { since, .. } => since,
            _ => Instant::now(),
        };
        inner.told = (generation, Told::Stale(since, cause));
    }

    pub(crate) fn delivered(&self, item: Item) {
        self.change(|inner| {
            inner.items.push_back(item);
            true
        });
    }

    /// The link is lost: its work items go to others.
    pub(super) fn drop_items(&self) {
        self.lock().items.clear();
    }

    pub(crate) fn close(&self, cause: Error) {
        let mut items = VecDeque::new();
        self.change(|inner| {
            inner.closed.get_or_insert(cause);
            std::mem::swap(&mut inner.items, &mut items);
            true
        });
    }

    /// Nothing follows; what is here can still be taken.
    pub(crate) fn end(&self, cause: Error) {
        self.change(|inner| {
            inner.closed.get_or_insert(cause);
            true
        });
    }

    /// Lets all subscribers look again.
    pub(super) fn wake(&self) {
        self.change(|_| true);
    }

    /// Changes the topic, and wakes its subscribers where it says so. They are woken without the
    /// lock, because what a waker runs or drops may use the topic.
    fn change(&self, change: impl FnOnce(&mut Inner) -> bool) {
        let mut inner = self.lock();
        if !change(&mut inner) {
            return;
        }
        // Most topics have one subscriber, for which the list keeps its memory.
        let last = inner.wakers.pop();
        let others =
            if inner.wakers.is_empty() { Vec::new() } else { std::mem::take(&mut inner.wakers) };
        drop(inner);
        others.into_iter().chain(last).for_each(|(_, waker)| waker.wake());
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// The value after this one, or the newest where that is not kept any more, for a subscriber
    /// that takes it now.
    fn take_next(&mut self, seen: u64) -> Option<Held> {
        if seen == self.last_seq {
            return None;
        }
        let behind = usize::try_from(self.last_seq - seen).unwrap_or(usize::MAX);
        let kept = self.ring.len().checked_sub(behind);
        if kept == Some(0)
            && self.ring.len() > 1
            && let Some(Kept { value, .. }) = self.ring.pop_front_if(|oldest| oldest.waiting == 1)
        {
            // It goes to the only one who waits for it.
            let taken = match &value {
                Held::Own(own) => Held::Own(own.clone()),
                Held::Shared(entry) => Held::Shared(Arc::clone(entry)),
            };
            self.let_go(value, true);
            self.shrink(Self::is_front_taken);
            return Some(taken);
        }
        let index = kept.unwrap_or(self.ring.len() - 1);
        let entry = self.ring.get_mut(index)?.value.share();
        self.taken(seen, entry.seq);
        Some(Held::Shared(entry))
    }

    /// Adds a subscriber that has taken the values up to `seq`.
    fn join(&mut self, seq: u64) {
        self.last_subscriber += 1;
        self.subscribers += 1;
        for kept in self.ring.iter_mut().rev().take_while(|kept| kept.value.seq() > seq) {
            kept.waiting += 1;
        }
    }

    /// A subscriber has taken, or will not take, the values after `from`, up to `to`.
    fn taken(&mut self, from: u64, to: u64) {
        let first = self.ring.front().map_or(0, |oldest| oldest.value.seq());
        let skip = usize::try_from((from + 1).saturating_sub(first)).unwrap_or(usize::MAX);
        for kept in self.ring.iter_mut().skip(skip).take_while(|kept| kept.value.seq() <= to) {
            kept.waiting -= 1;
        }
        self.shrink(Self::is_front_taken);
    }

    fn is_front_taken(&self) -> bool {
        self.ring.front().is_some_and(|oldest| oldest.waiting == 0)
    }

    /// Lets the oldest values go while there are too many, but never the newest.
    fn shrink(&mut self, too_many: impl Fn(&Self) -> bool) {
        while self.ring.len() > 1 && too_many(self) {
            let Some(Kept { value, .. }) = self.ring.pop_front() else { return };
            self.let_go(value, false);
        }
    }

    /// A value has left the ring, because somebody took it, or else since nobody will.
    fn let_go(&mut self, value: Held, is_taken: bool) {
        self.ring_bytes -= value.bytes().len();
        match value.decodes() {
            Some(false) => return,
            Some(true) => (self.last, self.before) = (Some(value), None),
            None => {
                let last = self.last.replace(value);
                // However many leave that nobody looks at, the one that was in force stays.
                let was_seen = self.is_last_taken
                    || last.as_ref().is_some_and(|last| last.decodes() == Some(true));
                if was_seen || self.before.is_none() {
                    self.before = last;
                }
            }
        }
        self.is_last_taken = is_taken;
    }

    /// The value that this subscriber took last did decode, if nobody has said otherwise. Those before
    /// it are of no use then.
    fn settle(&mut self, taken: u64) {
        if self.before.is_some() && self.last.as_ref().is_some_and(|last| last.seq() == taken) {
            self.before = None;
        }
        if self.last.is_some()
            && self.ring.back().is_some_and(|newest| newest.value.decodes() == Some(true))
        {
            (self.last, self.before) = (None, None);
        }
    }

    /// Notes whom to wake. The waker that was noted before, which is to be dropped without the lock.
    #[must_use]
    fn register(&mut self, id: u64, cx: &Context<'_>) -> Option<Waker> {
        match self.wakers.iter_mut().find(|(known, _)| *known == id) {
            Some((_, waker)) if waker.will_wake(cx.waker()) => None,
            Some((_, waker)) => Some(std::mem::replace(waker, cx.waker().clone())),
            None => {
                self.wakers.push((id, cx.waker().clone()));
                None
            }
        }
    }
}
