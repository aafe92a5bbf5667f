//! How the agent and the workers take part in a channel: as its leader, and as its followers.

use std::{fmt, future::IntoFuture, sync::Arc};

use super::place::Place;
use crate::{
    cluster::{Builder, Cluster, ClusterClient},
    error::Result,
    options::Options,
    server::LocalServer,
    spec::BoxFuture,
};

/// A wrapped client about to be used in an agent or worker; await it to have it.
///
/// Made by [`Agent::cluster`](super::Agent::cluster), [`Agent::join`](super::Agent::join) and
/// [`Worker::cluster`](super::Worker::cluster).
#[must_use = "nothing happens before it is awaited"]
pub struct Joining<T: ClusterClient> {
    builder: Builder<T>,
    /// In a worker, which may be asked to stop meanwhile.
    place: Option<Arc<Place>>,
    /// In the agent, the server that is to be led on, once the agent has the lead.
    server: Option<BoxFuture<Result<Arc<LocalServer>>>>,
    /// What `#[connect]` takes, where this process is to lead.
    client: Option<T::Options>,
}

impl<T: ClusterClient> Joining<T> {
    /// Follows, in the set-up no longer than until the process is to stop.
    pub(super) fn follow(builder: Builder<T>, place: Arc<Place>) -> Self {
        Self { builder, place: Some(place), server: None, client: None }
    }

    /// Leads on this server, where there are options for the client, or else uses what it leads.
    pub(super) fn lead(
        builder: Builder<T>,
        server: BoxFuture<Result<Arc<LocalServer>>>,
        client: Option<T::Options>,
    ) -> Self {
        Self { builder, place: None, server: Some(server), client }
    }

    /// Names the channel, where there are two of a client's type. Default: the name of the type.
    pub fn channel(mut self, name: impl Into<String>) -> Self {
        self.builder = self.builder.channel(name);
        self
    }

    /// Timings and bounds.
    pub fn options(mut self, options: Options) -> Self {
        self.builder = self.builder.options(options);
        self
    }
}

impl<T: ClusterClient> IntoFuture for Joining<T> {
    type Output = Result<Cluster<T>>;
    type IntoFuture = BoxFuture<Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { mut builder, place, server, client } = self;
        Box::pin(async move {
            if let Some(server) = server {
                builder = builder.server(server.await?);
            }
            match (client, place) {
                (Some(client), _) => builder.create(client).await,
                (None, Some(place)) => tokio::select! {
                    biased;
                    joined = builder.join() => joined,
                    stopped = place.stopped_in_set_up() => Err(stopped),
                },
                (None, None) => builder.join().await,
            }
        })
    }
}

impl<T: ClusterClient> fmt::Debug for Joining<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Joining").field(&self.builder).finish()
    }
}
