//! One timer for the deadlines of all calls of a follower: a timer a call would cost more than all
//! the rest of waiting for an answer.

use tokio::{
    runtime::Handle,
    time::{Instant, sleep_until},
};

use super::{Shared, State};
use crate::{connection::timeout_anywhere, error::Result};

impl Shared {
    /// Wakes callers when their time is up, for as long as the follower's task runs.
    pub(super) async fn watch_deadlines(&self) {
        loop {
            let mut late = Vec::new();
            let next = {
                let mut state = self.lock();
                let wake = |waker: &std::task::Waker| late.push(waker.clone());
                state.next_deadline = state.requests.overdue(Instant::now(), wake);
                state.next_deadline
            };
            late.into_iter().for_each(std::task::Waker::wake);
            match next {
                None => self.earlier_deadline.notified().await,
                Some(next) => tokio::select! {
                    () = sleep_until(next) => {}
                    () = self.earlier_deadline.notified() => {}
                },
            }
        }
    }

    /// Sees to it that a deadline is watched. Most lie behind the one that is watched already.
    pub(super) fn watch_deadline(&self, state: &mut State, deadline: Instant) {
        if state.next_deadline.is_none_or(|next| deadline < next) {
            state.next_deadline = Some(deadline);
            self.earlier_deadline.notify_one();
        }
    }

    /// Whether the follower's task watches the deadlines of who calls from here. Elsewhere there is a
    /// timer that goes on though the follower's runtime may be blocked.
    pub(super) fn watches_deadlines_here(&self) -> bool {
        Handle::try_current().is_ok_and(|here| here.id() == self.runtime)
    }

    /// Waits until then, wherever it is called.
    pub(super) async fn until<F: Future>(
        &self,
        deadline: Instant,
        future: F,
    ) -> Result<Option<F::Output>> {
        let left = deadline.saturating_duration_since(Instant::now());
        Ok(timeout_anywhere(Some(self.runtime), left, future)?.await.ok())
    }
}
