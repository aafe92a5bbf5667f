//! Workers that are replaced before anything is wrong with them.

use std::time::Duration;

use crate::error::{Error, Result};

/// When a worker is replaced although it does what it should; given to
/// [`MasterBuilder::recycle`](super::MasterBuilder::recycle).
///
/// The replacement is ready before the old worker is asked to stop, so that nothing is missed. It
/// concerns workers alone: a new agent means a new connection upstream and a moment of `Stale` for
/// every follower, which a long life is no reason for; a [reload](super::MasterHandle::reload)
/// replaces it too.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use cluster_client::Recycle;
///
/// // Once a day, or at 1 GiB; two at a time.
/// let recycle = Recycle::default()
///     .age(Duration::from_secs(24 * 60 * 60))
///     .rss(1024 * 1024 * 1024)
///     .at_once(2);
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct Recycle {
    pub(super) age: Option<Duration>,
    pub(super) rss: Option<u64>,
    pub(super) at_once: usize,
}

impl Default for Recycle {
    fn default() -> Self {
        Self { age: None, rss: None, at_once: 1 }
    }
}

impl Recycle {
    /// Replaces a worker that has been ready for this long. Each worker gets up to a fifth more, at
    /// random, so that those that started together do not go together. Default: never.
    pub fn age(mut self, age: Duration) -> Self {
        self.age = Some(age);
        self
    }

    /// Replaces a worker that has more than this many bytes in memory (its resident set). One that
    /// has not been ready for [`healthy_after`](super::MasterBuilder::healthy_after) yet is left
    /// alone. Default: never.
    pub fn rss(mut self, bytes: u64) -> Self {
        self.rss = Some(bytes);
        self
    }

    /// How many workers are replaced at the same time, for whatever reason; from the start of the
    /// replacement until the old worker is gone. Default 1.
    pub fn at_once(mut self, workers: usize) -> Self {
        self.at_once = workers;
        self
    }

    pub(super) fn check(&self) -> Result<()> {
        if self.at_once == 0 || self.age.is_some_and(|age| age.is_zero()) || self.rss == Some(0) {
            return Err(Error::config(
                "recycle: age, rss and at_once must be more than zero; leave out what is not wanted",
            ));
        }
        Ok(())
    }
}
