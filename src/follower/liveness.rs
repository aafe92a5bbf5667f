//! The liveness link: one a process and port, on the service thread. While it is heard, the
//! leader's process lives; a data link that is silent all the same has a blocked runtime at its
//! other end.

use std::{
    sync::{Arc, LazyLock, Mutex, PoisonError, Weak},
    time::Duration,
};

use dashmap::DashMap;
use tokio::task::AbortHandle;

use super::dial;
use crate::{
    connection::{Backoff, Endpoint, Link, drive, service},
    error::Result,
    options::Options,
    protocol::{
        handshake::Token,
        pb::{Liveness as Purpose, Packet, RegisterBody, register_body},
    },
};

/// The liveness links of this process by port, each with what proves it.
static LINKS: LazyLock<DashMap<(u16, Token), Weak<Liveness>>> = LazyLock::new(DashMap::new);

/// Ends with the last follower that holds it.
#[derive(Debug, Default)]
pub(crate) struct Liveness {
    link: Mutex<Option<Link>>,
    task: Mutex<Option<AbortHandle>>,
}

impl Liveness {
    /// The liveness link of this process to `port`.
    pub(crate) fn of(port: u16, token: &Token, options: &Options) -> Result<Arc<Self>> {
        let mut entry = LINKS.entry((port, token.clone())).or_default();
        if let Some(liveness) = entry.upgrade() {
            return Ok(liveness);
        }
        let liveness = Arc::new(Self::default());
        let run = run(Arc::downgrade(&liveness), port, token.clone(), options.clone());
        let task = service()?.spawn(run).abort_handle();
        *liveness.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
        *entry = Arc::downgrade(&liveness);
        Ok(liveness)
    }

    /// Whether something was heard within this time.
    pub(crate) fn heard_within(&self, bound: Duration) -> bool {
        let link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        link.as_ref().is_some_and(|link| link.silence() < bound)
    }

    fn set(&self, link: Option<Link>) {
        *self.link.lock().unwrap_or_else(PoisonError::into_inner) = link;
    }
}

impl Drop for Liveness {
    fn drop(&mut self) {
        if let Some(task) = self.task.lock().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
    }
}

async fn run(liveness: Weak<Liveness>, port: u16, token: Token, options: Options) {
    struct Deaf;
    impl Endpoint for Deaf {
        fn on_packet(&mut self, _: Packet) -> Result<()> {
            Ok(())
        }
    }
    let purpose = Some(register_body::Purpose::Liveness(Purpose {}));
    let body = RegisterBody { purpose, pid: std::process::id() };
    let mut backoff = Backoff::new(options.reconnect);
    loop {
        if let Ok((stream, reader, _)) =
            dial::register(port, &token, &body, options.handshake, &|_| {}).await
        {
            backoff.reset();
            let link = Link::new(options.max_queued);
            let Some(known) = liveness.upgrade() else { return };
            known.set(Some(link.clone()));
            drop(known);
            drive(stream, reader, &link, &mut Deaf, &options).await;
            let Some(known) = liveness.upgrade() else { return };
            known.set(None);
        }
        tokio::time::sleep(backoff.next_pause()).await;
    }
}
