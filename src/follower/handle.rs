//! One subscriber's hold on a topic: the last one to let go ends the subscription.

use std::sync::Arc;

use super::{Follower, Item, Shared, Topic};
use crate::protocol::{Frame, pb};

/// One subscriber's hold on a topic.
pub(crate) struct TopicHandle {
    /// `None`: a fake.
    pub(super) follower: Option<Follower>,
    pub(super) id: u64,
    pub(crate) topic: Arc<Topic>,
}

impl TopicHandle {
    /// A topic of no leader, for fakes.
    pub(crate) fn detached(is_one: bool) -> Self {
        Self { follower: None, id: 0, topic: Arc::new(Topic::detached(is_one)) }
    }

    pub(crate) fn follower(&self) -> Option<&Follower> {
        self.follower.as_ref()
    }

    /// Ends the subscription now, though items of it are still held.
    pub(crate) fn retire(&self) {
        if let Some(follower) = &self.follower {
            follower.shared().leave(self.id);
        }
    }

    /// Tells the leader that a work item is done, or that another one should have it.
    pub(crate) fn settle(&self, item: &Item, done: bool) {
        let Some(follower) = &self.follower else { return };
        let state = follower.shared().lock();
        let Some(entry) = state.topics.get(&self.id) else { return };
        if state.handed_over.contains(&item.generation) {
            // The leader that had it is gone or goes, and it is nobody else's.
            drop(state);
            if !done {
                self.topic.delivered(Item { redelivered: true, ..item.clone() });
            }
            return;
        }
        let Some(registered) = &state.link else { return };
        if registered.generation == item.generation {
            let settle = pb::Settle { item: item.number, done, room: 1 };
            let _ = registered.link.replay(Frame::new(entry.request, settle), None);
        }
    }
}

impl Clone for TopicHandle {
    fn clone(&self) -> Self {
        if let Some(follower) = &self.follower
            && let Some(entry) = follower.shared().lock().topics.get_mut(&self.id)
        {
            entry.subscribers += 1;
        }
        Self { follower: self.follower.clone(), id: self.id, topic: Arc::clone(&self.topic) }
    }
}

impl Drop for TopicHandle {
    fn drop(&mut self) {
        if let Some(follower) = &self.follower {
            follower.shared().leave(self.id);
        }
    }
}

impl Shared {
    /// A subscriber of a topic is gone; the last one ends the subscription.
    fn leave(&self, topic: u64) {
        let mut state = self.lock();
        let Some(entry) = state.topics.get_mut(&topic) else { return };
        entry.subscribers -= 1;
        if entry.subscribers > 0 {
            return;
        }
        let Some(entry) = state.topics.remove(&topic) else { return };
        if !entry.topic.is_one {
            state.shared.remove(&(entry.topic.method, entry.topic.key.clone()));
        }
        state.requests.remove(entry.request);
        if let Some(registered) = state.link.as_ref().filter(|_| entry.request > 0) {
            let frame = Frame::new(entry.request, pb::Unsubscribe {}).in_order();
            let _ = registered.link.replay(frame, None);
        }
        drop(state);
        drop(entry);
    }
}
