//! Whether the leader can be reached: what all topics of a follower have in common.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    connection::Link,
    error::{Error, ErrorKind},
};

/// Shared by the topics of a follower, so that a loss costs one write and not one a topic.
#[derive(Debug)]
pub(super) struct Reach {
    inner: Mutex<Inner>,
    stale_after: Duration,
}

#[derive(Debug)]
struct Inner {
    /// Counts links. What a topic was told on an earlier link is not known to hold any more.
    generation: u64,
    link: Option<Link>,
    /// Since when there is no link, or the one that there is was lost before; and why.
    down: (Instant, Error),
    /// The leader is silent since then; told once, so that subscribers hear of it once.
    silent: Option<(Instant, Error)>,
}

/// What a topic needs to know to say its state.
#[derive(Debug)]
pub(super) struct Sight {
    pub(super) generation: u64,
    /// Why the leader is out of reach, since when. `None`: it is within reach.
    pub(super) away: Option<(Instant, Error)>,
    /// The last loss of a link.
    pub(super) last_down: (Instant, Error),
}

impl Reach {
    pub(super) fn new(stale_after: Duration) -> Self {
        let reason = Error::new(ErrorKind::Disconnected, "not connected to a leader yet");
        let inner =
            Inner { generation: 0, link: None, down: (Instant::now(), reason), silent: None };
        Self { inner: Mutex::new(inner), stale_after }
    }

    /// Always within reach, for fakes.
    pub(super) fn always() -> Self {
        let reach = Self::new(Duration::MAX);
        reach.up(Link::new(0));
        reach
    }

    pub(super) fn up(&self, link: Link) {
        let mut inner = self.lock();
        inner.generation += 1;
        inner.link = Some(link);
        inner.silent = None;
    }

    /// There is no link, for this reason. It is down since the first report.
    pub(super) fn down(&self, cause: Error) {
        let mut inner = self.lock();
        let since = match inner.link.take() {
            Some(_) => inner.silent.take().map_or_else(Instant::now, |(since, _)| since),
            None => inner.down.0,
        };
        inner.down = (since, cause);
    }

    /// Nothing was heard for this long. True: subscribers are to be told.
    pub(super) fn silent(&self, silence: Duration, is_blocked: bool) -> bool {
        let mut inner = self.lock();
        if silence < self.stale_after || inner.silent.is_some() || inner.link.is_none() {
            return false;
        }
        let since = Instant::now().checked_sub(silence).unwrap_or_else(Instant::now);
        inner.silent = Some((since, silence_error(silence, is_blocked)));
        true
    }

    /// Something was heard. True: subscribers are to be told.
    pub(super) fn heard(&self) -> bool {
        self.lock().silent.take().is_some()
    }

    pub(super) fn sight(&self) -> Sight {
        let inner = self.lock();
        let away = match (&inner.link, &inner.silent) {
            (None, _) => Some(inner.down.clone()),
            (Some(_), Some(silent)) => Some(silent.clone()),
            (Some(link), None) => {
                // Nobody may have noticed yet, as while this process's own runtime is blocked. A
                // reader must not be told that a dead watch lives.
                let silence = link.silence();
                (silence >= self.stale_after).then(|| {
                    let since = Instant::now().checked_sub(silence).unwrap_or_else(Instant::now);
                    (since, silence_error(silence, false))
                })
            }
        };
        Sight { generation: inner.generation, away, last_down: inner.down.clone() }
    }

    pub(super) fn generation(&self) -> u64 {
        self.lock().generation
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn silence_error(silence: Duration, is_blocked: bool) -> Error {
    if is_blocked {
        return Error::new(
            ErrorKind::LeaderBlocked,
            format!(
                "the leader's process lives, but its runtime has not turned for {silence:?}; look \
                 for blocking calls in the agent"
            ),
        );
    }
    Error::new(
        ErrorKind::LeaderSilent,
        format!("nothing was heard of the leader for {silence:?}; its process may be stopped"),
    )
}
