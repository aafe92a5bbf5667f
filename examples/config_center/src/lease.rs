//! The lease that registrations are bound to: granted, kept alive, and granted anew when it expired.
//!
//! Its renewals are also the pulse of the connection. One that is not answered in time says that
//! etcd is away, long before TCP would, and whether it was killed, frozen or cut off.

use std::{sync::Arc, time::Duration};

use etcd_client::{Error, LeaseClient};
use futures::{Stream, stream};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::timeout,
};

use crate::{client::ConfigError, watch::pause};

/// How it stands with etcd, as the last renewal found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pulse {
    /// The lease of this id is alive.
    Alive(i64),
    /// The last renewal failed for this reason.
    Lost(String),
}

/// A lease that is kept alive by a task of its own, until it is closed or dropped.
pub(crate) struct Lease {
    etcd: LeaseClient,
    pulse: watch::Receiver<Pulse>,
    /// Asks the task to renew now.
    nudge: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Lease {
    /// Grants a lease and begins to keep it alive.
    pub(crate) async fn grant(mut etcd: LeaseClient, ttl: Duration) -> Result<Self, ConfigError> {
        let id = grant(&mut etcd, ttl).await?;
        let (sender, pulse) = watch::channel(Pulse::Alive(id));
        let nudge = Arc::new(Notify::new());
        let keeper = Keeper { etcd: etcd.clone(), ttl, id, pulse: sender, nudge: nudge.clone() };
        Ok(Self { etcd, pulse, nudge, task: tokio::spawn(keeper.run()) })
    }

    /// The id of the lease; waits for it while etcd is away, up to [`WAIT`].
    pub(crate) async fn id(&self) -> Result<i64, ConfigError> {
        self.id_unless(None).await
    }

    /// The id of the lease that replaces this one, of which etcd says that it expired.
    pub(crate) async fn id_after(&self, expired: i64) -> Result<i64, ConfigError> {
        self.nudge.notify_one();
        self.id_unless(Some(expired)).await
    }

    async fn id_unless(&self, expired: Option<i64>) -> Result<i64, ConfigError> {
        let mut pulse = self.pulse.clone();
        let usable = |pulse: &Pulse| matches!(pulse, Pulse::Alive(id) if Some(*id) != expired);
        let found =
            timeout(WAIT, pulse.wait_for(usable)).await.map(|found| found.map(|p| p.clone()));
        match found {
            Ok(Ok(Pulse::Alive(id))) => Ok(id),
            _ => Err(ConfigError::Unreachable(match &*self.pulse.borrow() {
                Pulse::Lost(cause) => cause.clone(),
                Pulse::Alive(_) => "there is no lease".to_owned(),
            })),
        }
    }

    /// Each change of the pulse from now on.
    pub(crate) fn changes(&self) -> impl Stream<Item = Pulse> + Send + use<> {
        let mut pulse = self.pulse.clone();
        let seen = pulse.borrow_and_update().clone();
        stream::unfold((pulse, seen), |(mut pulse, seen)| async move {
            loop {
                pulse.changed().await.ok()?;
                let now = pulse.borrow_and_update().clone();
                // Lost and found again between two looks at it: nothing happened.
                if now != seen {
                    return Some((now.clone(), (pulse, now)));
                }
            }
        })
    }

    /// Gives the lease back, so that what is bound to it is gone at once.
    pub(crate) async fn revoke(&self) {
        self.task.abort();
        let Pulse::Alive(id) = *self.pulse.borrow() else { return };
        let mut etcd = self.etcd.clone();
        // Without an answer the lease expires by itself.
        let _ = timeout(ANSWER, etcd.revoke(id)).await;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The task that keeps a lease alive.
struct Keeper {
    etcd: LeaseClient,
    ttl: Duration,
    id: i64,
    pulse: watch::Sender<Pulse>,
    nudge: Arc<Notify>,
}

impl Keeper {
    async fn run(mut self) {
        let mut failures = 0;
        loop {
            let wait = if failures == 0 { self.ttl / 3 } else { pause(failures) };
            // An error of the timeout is the end of the wait, not a failure.
            let _ = timeout(wait, self.nudge.notified()).await;
            match self.renew().await {
                Ok(()) => failures = 0,
                Err(error) => {
                    failures += 1;
                    self.tell(Pulse::Lost(error.to_string()));
                }
            }
        }
    }

    /// One renewal. Each opens a stream of its own, so that a first one, a next one and one after
    /// a loss are the same.
    async fn renew(&mut self) -> Result<(), ConfigError> {
        match timeout(ANSWER, self.etcd.keep_alive(self.id)).await {
            Ok(Ok(_)) => {}
            Ok(Err(Error::LeaseKeepAliveError(_))) => {
                self.tell(Pulse::Lost(format!("lease {:x} expired", self.id)));
                self.id = grant(&mut self.etcd, self.ttl).await?;
            }
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => return Err(ConfigError::Unreachable(no_answer())),
        }
        self.tell(Pulse::Alive(self.id));
        Ok(())
    }

    /// Tells what changed; each try that fails while etcd is lost is no news.
    fn tell(&self, pulse: Pulse) {
        self.pulse.send_if_modified(|now| {
            let is_new = match (&*now, &pulse) {
                (Pulse::Lost(_), Pulse::Lost(_)) => false,
                (now, pulse) => now != pulse,
            };
            if is_new {
                *now = pulse;
            }
            is_new
        });
    }
}

async fn grant(etcd: &mut LeaseClient, ttl: Duration) -> Result<i64, ConfigError> {
    let seconds = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
    match timeout(ANSWER, etcd.grant(seconds, None)).await {
        Ok(granted) => Ok(granted?.id()),
        Err(_) => Err(ConfigError::Unreachable(no_answer())),
    }
}

fn no_answer() -> String {
    format!("etcd gave no answer within {ANSWER:?}")
}

/// How long etcd may take for an answer before it counts as lost.
const ANSWER: Duration = Duration::from_secs(2);

/// How long a registration waits for a lease.
const WAIT: Duration = Duration::from_secs(5);
