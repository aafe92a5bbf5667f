//! The leader goes and another one takes its place: what it still answers is waited for, the rest
//! goes to the next one.

use super::{Leaving, Shared, State, Status};
use crate::{
    connection::Link,
    error::{Error, ErrorKind},
    protocol::{Frame, pb},
};

impl Shared {
    /// The leader says that it goes, and which requests it still takes. All others count as not
    /// sent, though they may be on their way.
    pub(super) fn leader_leaves(&self, last_id: u64) {
        let mut state = self.lock();
        let Some(registered) = state.link.take() else { return };
        let link = registered.link;
        state.leaving = Some(Leaving { link, last_id, is_done: false });
        state.handed_over.push(registered.generation);
        state.awaits_next = true;
        for (_, pending) in state.requests.calls_mut().filter(|(id, _)| *id > last_id) {
            pending.is_sent = false;
        }
        state.leave_if_done();
        drop(state);
        self.note_down(Status::Down(Some(replaced())));
    }
}

impl State {
    /// The link that carries a request, if one does: that of a leader that goes carries what it
    /// still takes.
    pub(super) fn link_of(&self, id: u64) -> Option<&Link> {
        let leaving = self.leaving.as_ref().filter(|leaving| id <= leaving.last_id);
        let link = self.link.as_ref().map(|registered| &registered.link);
        link.or(leaving.map(|leaving| &leaving.link))
    }

    /// Lets a leader go that has answered all that it took.
    pub(super) fn leave_if_done(&mut self) {
        let Some(leaving) = self.leaving.as_mut().filter(|leaving| !leaving.is_done) else {
            return;
        };
        let last_id = leaving.last_id;
        if self.requests.calls().any(|(id, _)| id <= last_id) {
            return;
        }
        leaving.is_done = true;
        // Behind all that was queued before it. An error means that the leader is gone already.
        let answer = pb::GoAway { reason: None, last_id: Some(last_id) };
        let _ = leaving.link.replay(Frame::new(0, answer).in_order(), None);
    }
}

/// Why the topics are stale meanwhile.
pub(super) fn replaced() -> Error {
    Error::new(ErrorKind::Disconnected, "the leader is being replaced; waiting for the next one")
}
