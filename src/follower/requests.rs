//! The requests that wait for an answer, by id.
//!
//! A call is found by its place in a list, which its id names, so that it costs no look-up; and its
//! caller's waker and answer are kept there, so that it costs no channel.

use std::task::{Poll, Waker};

use bytes::Bytes;
use tokio::time::Instant;

use super::pending::Pending;
use crate::{id_map::IdMap, options::MAX_IN_FLIGHT, spec::Reply};

/// Low bits of an id: the place of a call, from 1; 0 for what is no call. The others count up, so
/// that ids are in the order of the requests, and none is used again.
const PLACE_BITS: u32 = 20;

/// Most calls that can be on the table, those that nobody waits for included.
pub(super) const MAX_CALLS: usize = (1 << PLACE_BITS) - 1;

const _: () = assert!(MAX_IN_FLIGHT <= MAX_CALLS);

/// What a request that is no call is about.
pub(super) enum Request {
    /// The subscribe request of this topic.
    Subscribe(u64),
    /// A publication that is sent again: its key, and how often that failed before.
    Replay((usize, Bytes), u32),
}

#[derive(Default)]
pub(super) struct Requests {
    last: u64,
    calls: Vec<Slot>,
    free: Vec<usize>,
    others: IdMap<Request>,
}

struct Slot {
    /// 0: free.
    id: u64,
    call: Call,
}

enum Call {
    Free,
    /// Not answered yet; whom the answer wakes.
    Open(Pending, Waker),
    /// Answered, and not taken yet.
    Answered(Reply),
}

impl Requests {
    /// The id of a new request that is no call.
    #[inline]
    pub(super) fn next_id(&mut self) -> u64 {
        self.last += 1;
        self.last << PLACE_BITS
    }

    pub(super) fn insert(&mut self, id: u64, request: Request) {
        self.others.insert(id, request);
    }

    pub(super) fn remove(&mut self, id: u64) -> Option<Request> {
        self.others.remove(&id)
    }

    /// The id of the next call. `None`: there are too many.
    #[inline]
    pub(super) fn call_id(&mut self) -> Option<u64> {
        if self.free.is_empty() {
            if self.calls.len() >= MAX_CALLS {
                return None;
            }
            self.free.push(self.calls.len());
            self.calls.push(Slot { id: 0, call: Call::Free });
        }
        let place = *self.free.last()?;
        Some(self.next_id() | (place as u64 + 1))
    }

    /// Puts a call on the table, under the last id that [`Requests::call_id`] gave.
    #[inline]
    pub(super) fn open(&mut self, id: u64, pending: Pending, waker: Waker) {
        let Some(place) = self.free.pop() else { return };
        debug_assert_eq!(place as u64 + 1, id % (1 << PLACE_BITS));
        self.calls[place] = Slot { id, call: Call::Open(pending, waker) };
    }

    /// A call that is not answered.
    pub(super) fn call(&self, id: u64) -> Option<&Pending> {
        match &self.slot(id)?.call {
            Call::Open(pending, _) => Some(pending),
            _ => None,
        }
    }

    pub(super) fn call_mut(&mut self, id: u64) -> Option<&mut Pending> {
        match &mut self.slot_mut(id)?.call {
            Call::Open(pending, _) => Some(pending),
            _ => None,
        }
    }

    /// The calls that are not answered, in no order.
    pub(super) fn calls(&self) -> impl Iterator<Item = (u64, &Pending)> {
        self.calls.iter().filter_map(|slot| match &slot.call {
            Call::Open(pending, _) => Some((slot.id, pending)),
            _ => None,
        })
    }

    pub(super) fn calls_mut(&mut self) -> impl Iterator<Item = (u64, &mut Pending)> {
        self.calls.iter_mut().filter_map(|slot| match &mut slot.call {
            Call::Open(pending, _) => Some((slot.id, pending)),
            _ => None,
        })
    }

    /// Answers a call. The call, and whom to wake where somebody waits for it.
    #[inline]
    pub(super) fn answer(&mut self, id: u64, reply: Reply) -> Option<(Pending, Option<Waker>)> {
        let slot = self.slot_mut(id)?;
        if !matches!(slot.call, Call::Open(..)) {
            return None;
        }
        let Call::Open(pending, waker) = std::mem::replace(&mut slot.call, Call::Answered(reply))
        else {
            return None;
        };
        if pending.is_abandoned {
            self.free(id);
            return Some((pending, None));
        }
        Some((pending, Some(waker)))
    }

    /// Takes the answer of a call, or notes whom it is to wake. The waker that was noted before is put
    /// into `stale`: dropping it may drop a task, and with it calls, so that it must not happen here.
    #[inline]
    pub(super) fn poll_answer(
        &mut self,
        id: u64,
        waker: &Waker,
        stale: &mut Option<Waker>,
    ) -> Poll<Option<Reply>> {
        let Some(slot) = self.slot_mut(id) else { return Poll::Ready(None) };
        if let Call::Open(_, known) = &mut slot.call {
            if !known.will_wake(waker) {
                *stale = Some(std::mem::replace(known, waker.clone()));
            }
            return Poll::Pending;
        }
        slot.id = 0;
        let answered = std::mem::replace(&mut slot.call, Call::Free);
        self.free.extend(place(id));
        match answered {
            Call::Answered(reply) => Poll::Ready(Some(reply)),
            Call::Free | Call::Open(..) => Poll::Ready(None),
        }
    }

    /// Nobody waits for a call any more, but it stays until it is answered. Its waker, which is to be
    /// dropped without the lock, see [`Requests::poll_answer`].
    pub(super) fn abandon(&mut self, id: u64) -> Option<Waker> {
        match &mut self.slot_mut(id)?.call {
            Call::Open(pending, waker) => {
                pending.is_abandoned = true;
                Some(std::mem::replace(waker, Waker::noop().clone()))
            }
            Call::Free | Call::Answered(_) => None,
        }
    }

    /// Takes a call off the table. Its waker where it was not answered, which is to be dropped without
    /// the lock, see [`Requests::poll_answer`].
    pub(super) fn close(&mut self, id: u64) -> Option<Waker> {
        let slot = self.slot_mut(id)?;
        let call = std::mem::replace(&mut slot.call, Call::Free);
        self.free(id);
        match call {
            Call::Open(_, waker) => Some(waker),
            Call::Free | Call::Answered(_) => None,
        }
    }

    /// The earliest deadline after `now`. The callers of those that have passed are given to `wake`.
    pub(super) fn overdue(&self, now: Instant, mut wake: impl FnMut(&Waker)) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        for slot in &self.calls {
            let Call::Open(pending, waker) = &slot.call else { continue };
            match pending.deadline {
                // Nobody waits for it.
                _ if pending.is_abandoned => {}
                deadline if deadline <= now => wake(waker),
                deadline => next = Some(next.map_or(deadline, |next| next.min(deadline))),
            }
        }
        next
    }

    /// Forgets what is no call: it ends with its link.
    pub(super) fn link_is_lost(&mut self) {
        self.others.clear();
    }

    fn slot(&self, id: u64) -> Option<&Slot> {
        self.calls.get(place(id)?).filter(|slot| slot.id == id)
    }

    #[inline]
    fn slot_mut(&mut self, id: u64) -> Option<&mut Slot> {
        self.calls.get_mut(place(id)?).filter(|slot| slot.id == id)
    }

    #[inline]
    fn free(&mut self, id: u64) {
        let Some(place) = place(id) else { return };
        let slot = &mut self.calls[place];
        slot.id = 0;
        slot.call = Call::Free;
        self.free.push(place);
    }
}

/// Whether an id is that of a call.
#[inline]
pub(super) fn is_call(id: u64) -> bool {
    place(id).is_some()
}

#[inline]
fn place(id: u64) -> Option<usize> {
    ((id % (1 << PLACE_BITS)) as usize).checked_sub(1)
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use futures::task::noop_waker;

    use super::*;
    use crate::follower::pending::Kind;

    fn open(requests: &mut Requests, deadline: Instant) -> u64 {
        let id = requests.call_id().unwrap();
        let invoke = Kind::Invoke { idempotent: false };
        let pending = Pending::new(invoke, 0, Bytes::from_static(b"args").into(), deadline);
        requests.open(id, pending, noop_waker());
        id
    }

    fn take(requests: &mut Requests, id: u64) -> Option<Reply> {
        match requests.poll_answer(id, Waker::noop(), &mut None) {
            Poll::Ready(reply) => reply,
            Poll::Pending => panic!("{id} is not answered"),
        }
    }

    #[test]
    fn ids_count_up_and_one_that_is_over_names_nothing() {
        let (mut requests, deadline) = (Requests::default(), Instant::now());
        let first = open(&mut requests, deadline);
        let topic = requests.next_id();
        let second = open(&mut requests, deadline);
        assert!(first < topic && topic < second);
        assert!(requests.answer(first, Ok(Bytes::from_static(b"1"))).is_some());
        assert!(requests.answer(first, Ok(Bytes::new())).is_none(), "it is answered once");
        assert!(requests.call(first).is_none());
        assert_eq!(take(&mut requests, first).unwrap().unwrap(), Bytes::from_static(b"1"));
        let third = open(&mut requests, deadline);
        assert_eq!(third % (1 << PLACE_BITS), first % (1 << PLACE_BITS), "the place is used again");
        assert!(requests.answer(first, Ok(Bytes::new())).is_none());
        assert!(requests.close(first).is_none() && requests.call(third).is_some());
        assert!(requests.close(third).is_some() && requests.close(second).is_some());
        assert_eq!(requests.calls().count(), 0);
    }

    #[test]
    fn what_nobody_waits_for_leaves_with_its_answer() {
        let mut requests = Requests::default();
        let id = open(&mut requests, Instant::now());
        assert!(requests.abandon(id).is_some());
        let (_, waker) = requests.answer(id, Ok(Bytes::new())).unwrap();
        assert!(waker.is_none());
        assert_eq!(requests.free.len(), 1);
    }

    #[test]
    fn the_next_deadline_is_the_earliest_of_those_that_have_not_passed() {
        let (mut requests, now) = (Requests::default(), Instant::now());
        let second = std::time::Duration::from_secs(1);
        for seconds in [3, 0, 2] {
            open(&mut requests, now + second * seconds);
        }
        let mut late = 0;
        assert_eq!(requests.overdue(now, |_| late += 1), Some(now + 2 * second));
        assert_eq!(late, 1);
    }
}
