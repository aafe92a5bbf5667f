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
    /// The leader is silent since then, as somebody has seen already.
    silent: Option<(Instant, Error)>,
    /// All subscribers were told of this silence; once is enough.
    is_silence_told: bool,
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
        let inner = Inner {
            generation: 0,
            link: None,
            down: (Instant::now(), reason),
            silent: None,
            is_silence_told: false,
        };
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
        inner.is_silence_told = false;
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
        if silence < self.stale_after || inner.is_silence_told || inner.link.is_none() {
            return false;
        }
        inner.silent = Some((ago(silence), silence_error(silence, is_blocked)));
        inner.is_silence_told = true;
        true
    }

    /// Something was heard. True: subscribers are to be told.
    pub(super) fn heard(&self) -> bool {
        let mut inner = self.lock();
        inner.is_silence_told = false;
        inner.silent.take().is_some()
    }

    pub(super) fn sight(&self) -> Sight {
        let mut inner = self.lock();
        if inner.silent.is_none()
            && let Some(silence) = inner.link.as_ref().map(Link::silence)
            && silence >= self.stale_after
        {
            // Nobody may have noticed yet, as while this process's own runtime is blocked. A reader
            // must not be told that a dead watch lives. It is kept, so that whoever is told here is
            // told of the end of the silence, too.
            inner.silent = Some((ago(silence), silence_error(silence, false)));
        }
        let away = match &inner.link {
            None => Some(inner.down.clone()),
            Some(_) => inner.silent.clone(),
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

fn ago(time: Duration) -> Instant {
    let now = Instant::now();
    now.checked_sub(time).unwrap_or(now)
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

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_silence_is_told_though_only_a_reader_noticed_it() {
        let reach = Reach::new(BOUND);
        reach.up(Link::new(0));
        assert!(!reach.heard(), "nobody was told otherwise");
        tokio::time::advance(BOUND).await;
        assert!(reach.sight().away.is_some());
        assert!(reach.heard(), "whoever read it waits to be woken");
    }

    #[tokio::test(start_paused = true)]
    async fn all_are_told_once_of_a_silence_that_a_reader_noticed_first() {
        let reach = Reach::new(BOUND);
        reach.up(Link::new(0));
        tokio::time::advance(BOUND).await;
        assert!(reach.sight().away.is_some());
        assert!(reach.silent(BOUND, true));
        assert!(!reach.silent(BOUND, true));
        let (_, cause) = reach.sight().away.unwrap();
        assert_eq!(cause.kind(), ErrorKind::LeaderBlocked);
    }
}
