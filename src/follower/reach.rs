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
    /// The leader is silent since then, as the link's task has judged.
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
        let down = (Instant::now(), reason);
        let inner = Inner { generation: 0, link: None, down, silent: None };
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

    /// The link's task judges that nothing was heard for this long. True: subscribers are to be
    /// told.
    pub(super) fn silent(&self, silence: Duration, is_blocked: bool) -> bool {
        let mut inner = self.lock();
        if silence < self.stale_after || inner.silent.is_some() || inner.link.is_none() {
            return false;
        }
        inner.silent = Some((ago(silence), silence_error(silence, is_blocked)));
        true
    }

    /// Something was heard. True: subscribers are to be told.
    pub(super) fn heard(&self) -> bool {
        self.lock().silent.take().is_some()
    }

    /// What the link's task has judged: what subscribers are told of as it happens. The task reads
    /// its socket before it judges, so that a process that was frozen tells nobody of a silence
    /// that was its own.
    pub(super) fn sight(&self) -> Sight {
        let inner = self.lock();
        let away = match &inner.link {
            None => Some(inner.down.clone()),
            Some(_) => inner.silent.clone(),
        };
        Sight { generation: inner.generation, away, last_down: inner.down.clone() }
    }

    /// Whether the leader is within reach, on the link of this generation: what [`Reach::sight`] says
    /// at most times, for less.
    pub(super) fn is_well(&self, generation: u64) -> bool {
        let inner = self.lock();
        inner.generation == generation && inner.link.is_some() && inner.silent.is_none()
    }

    /// What can be said at this moment, to one who only reads: a silence counts though the link's
    /// task has not judged it yet, as while its runtime is blocked. A dead watch must not look
    /// alive to whoever asks, whatever does not run.
    pub(super) fn sight_now(&self) -> Sight {
        let mut sight = self.sight();
        if sight.away.is_none() {
            let silence = self.lock().link.as_ref().map(Link::silence);
            let silence = silence.filter(|silence| *silence >= self.stale_after);
            sight.away = silence.map(|silence| (ago(silence), silence_error(silence, false)));
        }
        sight
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
    async fn a_reader_sees_a_silence_that_the_link_has_not_judged_yet() {
        let reach = Reach::new(BOUND);
        reach.up(Link::new(0));
        assert!(reach.sight_now().away.is_none());
        tokio::time::advance(BOUND).await;
        let (_, cause) = reach.sight_now().away.unwrap();
        assert_eq!(cause.kind(), ErrorKind::LeaderSilent);
        assert!(reach.sight().away.is_none(), "nobody is told before it is judged");
        assert!(!reach.heard(), "and nobody has to be told otherwise");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silence_is_told_once_and_so_is_its_end() {
        let reach = Reach::new(BOUND);
        reach.up(Link::new(0));
        assert!(reach.silent(BOUND, true));
        assert!(!reach.silent(BOUND, true));
        let (_, cause) = reach.sight().away.unwrap();
        assert_eq!(cause.kind(), ErrorKind::LeaderBlocked);
        assert!(reach.heard());
        assert!(!reach.heard());
    }
}
