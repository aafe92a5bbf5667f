//! The real client of a leader: how it is connected, and what is known of its health.

use std::sync::Arc;

use tokio::{sync::watch, time::timeout};

use super::{Leader, Upstream, call::guarded};
use crate::{
    connection::Backoff,
    error::{Error, ErrorKind, Result},
    spec::{Failure, Health},
};

/// The real client, as it comes and goes.
#[derive(Clone)]
pub(super) enum Client {
    /// Not there yet, with the last failure.
    Connecting(Option<Error>),
    Ready(Arc<dyn Upstream>),
    Closed,
}

impl Leader {
    pub(super) async fn connect(&self) -> Result<Arc<dyn Upstream>> {
        let limit = self.options.create_timeout;
        let connected = timeout(limit, guarded(self.connector.connect()))
            .await
            .map_err(|_| Error::timeout(limit, "#[connect] did not end"))
            .and_then(|guarded| guarded)
            .and_then(|connected| connected.map_err(Failure::into_error));
        connected.map_err(|cause| {
            // Type and code stand in the error itself, and not a second time in its text.
            let reason = format!("the client can't be connected: {}", cause.message());
            Error::new(ErrorKind::Connect, reason)
                .with_channel(&self.channel)
                .with_client(cause.name().map(str::to_owned), cause.code().map(str::to_owned))
                .with_source(cause)
        })
    }

    pub(super) async fn connect_until_ready(self: Arc<Self>) {
        let mut backoff = Backoff::new(self.options.reconnect);
        loop {
            let connected = tokio::select! {
                connected = self.connect() => connected,
                () = self.closing.cancelled() => return,
            };
            match connected {
                Ok(client) => return self.ready(client).await,
                Err(error) => {
                    tracing::warn!(%error, "connecting failed; trying again");
                    self.client.send_replace(Client::Connecting(Some(error)));
                }
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.next_pause()) => {}
                () = self.closing.cancelled() => return,
            }
        }
    }

    pub(super) async fn ready(self: &Arc<Self>, client: Arc<dyn Upstream>) {
        let is_taken = self.client.send_if_modified(|now| {
            let is_open = !matches!(now, Client::Closed);
            if is_open {
                *now = Client::Ready(Arc::clone(&client));
            }
            is_open
        });
        if !is_taken {
            // The leader was closed meanwhile.
            return self.close_client(client).await;
        }
        let weak = Arc::downgrade(self);
        let report = move |health| {
            if let Some(leader) = weak.upgrade() {
                leader.note_health(health);
            }
        };
        if let Some(health) = client.health(Box::new(report)) {
            let leader = Arc::downgrade(self);
            let closing = self.closing.clone();
            let watch = async move {
                let end = tokio::select! {
                    end = guarded(health) => end,
                    () = closing.cancelled() => return,
                };
                let Some(leader) = leader.upgrade() else { return };
                if let Err(panicked) = end {
                    leader.stats.note_panic(&panicked);
                }
                let was_lost = leader.health.borrow().is_err();
                if was_lost {
                    // Nobody will say any more that the upstream is back, so it is asked.
                    leader.note_health(Health::Restored);
                }
            };
            self.tasks.spawn_on(watch, &self.runtime);
        }
    }

    pub(super) fn note_health(self: &Arc<Self>, health: Health) {
        match health {
            Health::Lost(reason) => {
                tracing::warn!(channel = %self.channel, reason, "the upstream is lost");
                let cause = Error::new(ErrorKind::UpstreamLost, reason).with_channel(&self.channel);
                let _ = self.health.send_replace(Err(cause));
            }
            Health::Restored => {
                tracing::info!(channel = %self.channel, "the upstream is restored");
                let _ = self.health.send_replace(Ok(()));
                self.publish_again();
            }
        }
    }

    /// The client, if it is connected.
    pub(super) fn client(&self) -> Option<Arc<dyn Upstream>> {
        match &*self.client.borrow() {
            Client::Ready(client) => Some(Arc::clone(client)),
            Client::Connecting(_) | Client::Closed => None,
        }
    }

    /// The client, as soon as it is connected. The caller bounds the wait.
    pub(super) async fn wait_for_client(&self) -> Result<Arc<dyn Upstream>> {
        let mut client = self.client.subscribe();
        let ready = client.wait_for(|client| !matches!(client, Client::Connecting(_))).await;
        match ready.as_deref() {
            Ok(Client::Ready(client)) => Ok(Arc::clone(client)),
            _ => Err(self.closed()),
        }
    }

    /// The client as soon as it is connected and not reported as lost, and what turns when that
    /// changes. `unavailable` hears why it is not there.
    pub(super) async fn healthy_client(
        &self,
        unavailable: impl Fn(Error),
    ) -> Result<(Arc<dyn Upstream>, watch::Receiver<Result<()>>)> {
        let mut health = self.health.subscribe();
        let mut client = self.client.subscribe();
        loop {
            let lost = health.borrow_and_update().as_ref().err().cloned();
            let now = client.borrow_and_update().clone();
            match (now, lost) {
                (Client::Closed, _) => return Err(self.closed()),
                (Client::Ready(client), None) => return Ok((client, health)),
                (Client::Ready(_), Some(cause)) | (Client::Connecting(Some(cause)), _) => {
                    unavailable(cause);
                }
                (Client::Connecting(None), _) => {}
            }
            tokio::select! {
                _ = health.changed() => {}
                _ = client.changed() => {}
            }
        }
    }
}
