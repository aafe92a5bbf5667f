//! The end of a leader whose place another one takes: what was taken is finished, nothing is
//! withdrawn, and the followers keep the rest for the next leader.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    task::JoinHandle,
    time::{Instant, timeout, timeout_at},
};

use super::{CLOSING, Leader, lock, replaced};
use crate::connection::Link;

/// How long the last answers may take to be written once the time to drain is over: a link that is
/// to close flushes for a second.
const LAST_WORDS: Duration = Duration::from_millis(1500);

impl Leader {
    /// Hands the channel over, whether or not it is waited for.
    pub(crate) fn start_hand_over(self: &Arc<Self>, drain: Duration) -> JoinHandle<()> {
        let leader = Arc::clone(self);
        let hand_over = async move {
            leader.closed.get_or_init(|| leader.hand_over(drain)).await;
        };
        CLOSING.spawn_on(hand_over, &self.runtime)
    }

    async fn hand_over(&self, drain: Duration) {
        let deadline = Instant::now() + drain;
        // No new link from here on.
        if let Some(reservation) = &*lock(&self.reservation) {
            reservation.hold();
        }
        self.leaving.store(true, Ordering::Release);
        // Each session says so itself, since it alone knows what it took.
        self.links().iter().for_each(Link::wake);
        let drained = async {
            self.all_left().await;
            self.errands.close();
            self.errands.wait().await;
        };
        if timeout_at(deadline, drained).await.is_err() {
            let left = self.links();
            tracing::warn!(
                channel = %self.channel,
                links = left.len(),
                errands = self.errands.len(),
                "a hand-over ends after {drain:?} though calls are still under way"
            );
            left.iter().for_each(|link| link.finish(replaced()));
            // Who does not read even that is left without it.
            let _ = timeout(LAST_WORDS, self.all_left()).await;
        }
        self.closing.cancel();
        self.forget_owners();
        self.end().await;
    }

    fn links(&self) -> Vec<Link> {
        lock(&self.peers).values().cloned().collect()
    }
}
