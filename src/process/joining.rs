//! How the agent and the workers take part in a channel: as its leader, and as its followers.

use std::{fmt, future::IntoFuture};

use crate::{
    cluster::{Builder, Cluster, ClusterClient},
    error::Result,
    options::Options,
    spec::BoxFuture,
};

/// A wrapped client about to be used in an agent or worker; await it to have it.
///
/// Made by [`Agent::cluster`](super::Agent::cluster), [`Agent::join`](super::Agent::join) and
/// [`Worker::cluster`](super::Worker::cluster).
#[must_use = "nothing happens before it is awaited"]
pub struct Joining<T: ClusterClient> {
    builder: Builder<T>,
    /// What `#[connect]` takes, where this process is to lead.
    client: Option<T::Options>,
}

impl<T: ClusterClient> Joining<T> {
    pub(super) fn new(builder: Builder<T>, client: Option<T::Options>) -> Self {
        Self { builder, client }
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
        match self.client {
            Some(client) => Box::pin(self.builder.create(client)),
            None => Box::pin(self.builder.join()),
        }
    }
}

impl<T: ClusterClient> fmt::Debug for Joining<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Joining").field(&self.builder).finish()
    }
}
