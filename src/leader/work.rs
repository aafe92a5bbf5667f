//! Work items (`deliver = "one"`): each is given to one follower with room, until one settles it.
//!
//! Pure: no socket, clock or task. `P` stands for a follower. One follower can have several
//! subscriptions; each counts for itself.

use std::collections::{BTreeMap, HashMap, VecDeque};

use bytes::Bytes;

use crate::protocol::{Frame, pb};

/// The most room that a follower can claim; a larger claim is cut.
const MAX_ROOM: u32 = 1 << 16;

/// The follower, and its request that subscribed.
pub(super) type SubscriptionId = (u64, u64);

#[derive(Debug)]
pub(super) struct WorkState<P> {
    followers: HashMap<SubscriptionId, Worker<P>>,
    /// Items that nobody has: at most one fresh one, and those that were given back.
    waiting: VecDeque<Item>,
    next_item: u64,
    /// A follower that holds this many bytes has no room, whatever it claims: they are queued to
    /// it, or were.
    max_bytes: usize,
}

#[derive(Debug)]
struct Worker<P> {
    peer: P,
    room: u32,
    /// It is given nothing more, whatever room it claims.
    is_shut_out: bool,
    held: BTreeMap<u64, Bytes>,
    held_bytes: usize,
}

#[derive(Debug)]
struct Item {
    number: u64,
    value: Bytes,
    redelivered: bool,
}

impl<P: Clone> WorkState<P> {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self { followers: HashMap::new(), waiting: VecDeque::new(), next_item: 1, max_bytes }
    }

    fn has_room(max_bytes: usize, worker: &Worker<P>) -> bool {
        worker.room > 0 && !worker.is_shut_out && worker.held_bytes < max_bytes
    }

    /// Whether the upstream may give the next item.
    pub(super) fn wants_item(&self) -> bool {
        let has_room = |worker| Self::has_room(self.max_bytes, worker);
        self.waiting.is_empty() && self.followers.values().any(has_room)
    }

    /// Whether items wait for a follower; they are kept while nobody is there.
    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// An item of the upstream.
    pub(super) fn push(&mut self, value: Bytes) {
        let number = self.next_item;
        self.next_item += 1;
        self.waiting.push_back(Item { number, value, redelivered: false });
    }

    /// Gives what waits to followers with room. Returns what is to be sent.
    pub(super) fn assign(&mut self) -> Vec<(P, Frame)> {
        let mut sends = Vec::new();
        while let Some(item) = self.waiting.pop_front() {
            // The one that holds the fewest, so that a slow one gets less.
            let max_bytes = self.max_bytes;
            let workers = self.followers.iter_mut();
            let with_room = workers.filter(|(_, worker)| Self::has_room(max_bytes, worker));
            let fewest = with_room.min_by_key(|(_, worker)| (worker.held.len(), fastrand::u32(..)));
            let Some((id, worker)) = fewest else {
                self.waiting.push_front(item);
                break;
            };
            worker.room -= 1;
            worker.held_bytes += item.value.len();
            worker.held.insert(item.number, item.value.clone());
            let deliver = pb::Deliver { item: item.number, redelivered: item.redelivered };
            let frame = Frame::with_payload(id.1, deliver, item.value);
            sends.push((worker.peer.clone(), frame));
        }
        sends
    }

    pub(super) fn attach(&mut self, id: SubscriptionId, peer: P) {
        let (held, held_bytes) = (BTreeMap::new(), 0);
        let worker = Worker { peer, room: 0, is_shut_out: false, held, held_bytes };
        self.followers.insert(id, worker);
    }

    /// From now on a subscription is given nothing more; what it holds it can still settle.
    pub(super) fn shut_out(&mut self, id: SubscriptionId) {
        if let Some(worker) = self.followers.get_mut(&id) {
            worker.is_shut_out = true;
        }
    }

    /// A subscription goes with what it holds.
    pub(super) fn leave(&mut self, id: SubscriptionId) {
        self.followers.remove(&id);
    }

    /// Removes a subscription; what it holds goes to others.
    pub(super) fn detach(&mut self, id: SubscriptionId) {
        let Some(worker) = self.followers.remove(&id) else { return };
        for (number, value) in worker.held.into_iter().rev() {
            self.waiting.push_front(Item { number, value, redelivered: true });
        }
    }

    /// A follower is done with an item or gives it back, and has more room.
    pub(super) fn settle(&mut self, id: SubscriptionId, item: u64, done: bool, room: u32) {
        let Some(worker) = self.followers.get_mut(&id) else { return };
        worker.room = worker.room.saturating_add(room).min(MAX_ROOM);
        let Some(value) = worker.held.remove(&item) else { return };
        worker.held_bytes -= value.len();
        if !done {
            self.waiting.push_front(Item { number: item, value, redelivered: true });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(workers: &[(u64, u32)]) -> WorkState<u64> {
        let mut state = WorkState::new(1_000);
        for (id, room) in workers {
            state.attach((*id, 0), *id);
            state.settle((*id, 0), 0, true, *room);
        }
        state
    }

    fn give(state: &mut WorkState<u64>, count: usize) -> Vec<u64> {
        for _ in 0..count {
            state.push(Bytes::from_static(b"item"));
        }
        state.assign().into_iter().map(|(peer, _)| peer).collect()
    }

    #[test]
    fn each_item_goes_to_one_and_all_share() {
        let mut state = state(&[(1, 100), (2, 100), (3, 100)]);
        let given = give(&mut state, 300);
        for id in 1..=3 {
            assert_eq!(given.iter().filter(|given| **given == id).count(), 100);
        }
    }

    #[test]
    fn without_room_the_upstream_pauses() {
        let mut state = state(&[(1, 1)]);
        assert!(state.wants_item());
        assert_eq!(give(&mut state, 1), [1]);
        assert!(!state.wants_item());
        state.settle((1, 0), 1, true, 1);
        assert!(state.wants_item());
    }

    #[test]
    fn one_that_holds_much_has_no_room() {
        let mut state = state(&[(1, 100)]);
        for _ in 0..3 {
            state.push(Bytes::from(vec![0; 600]));
        }
        assert_eq!(state.assign().len(), 2);
        assert!(!state.wants_item());
        state.settle((1, 0), 1, true, 1);
        assert_eq!(state.assign().len(), 1);
    }

    #[test]
    fn what_a_lost_follower_held_goes_to_another_in_order_and_is_marked() {
        let mut state = state(&[(1, 2)]);
        give(&mut state, 2);
        state.attach((2, 0), 2);
        state.settle((2, 0), 0, true, 5);
        state.detach((1, 0));
        let numbers: Vec<_> =
            state.waiting.iter().map(|item| (item.number, item.redelivered)).collect();
        assert_eq!(numbers, [(1, true), (2, true)]);
        assert_eq!(state.assign().len(), 2);
    }

    #[test]
    fn a_settled_item_is_not_given_again() {
        let mut state = state(&[(1, 2)]);
        give(&mut state, 2);
        state.settle((1, 0), 1, true, 0);
        state.detach((1, 0));
        assert_eq!(state.waiting.iter().map(|item| item.number).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn one_that_leaves_for_the_next_leader_gets_no_more_and_takes_along_what_it_has() {
        let mut state = state(&[(1, 5), (2, 0)]);
        give(&mut state, 2);
        state.shut_out((1, 0));
        assert!(!state.wants_item());
        state.settle((1, 0), 1, false, 1);
        assert!(state.assign().is_empty(), "what it gave back is for another");
        state.leave((1, 0));
        state.settle((2, 0), 0, true, 5);
        assert_eq!(state.assign().len(), 1, "what it kept is given to nobody else");
    }

    #[test]
    fn an_item_given_back_goes_out_again() {
        let mut state = state(&[(1, 1)]);
        give(&mut state, 1);
        state.settle((1, 0), 1, false, 1);
        assert!(state.has_waiting());
        assert_eq!(state.assign().len(), 1);
    }
}
