//! A worker, as its own function sees it.

use std::sync::Arc;

use super::{
    joining::Joining,
    messenger::{Messenger, Peer, Peers},
    name::ProcessName,
    place::Place,
};
use crate::{
    cluster::{Builder, ClusterClient, Role},
    error::Result,
};

/// A worker's side of the cluster: given to the function that was passed to
/// [`MasterBuilder::worker`](super::MasterBuilder::worker). A clone is the same worker.
///
/// Workers are started when the agent is ready. The function's life is the process's life: when it
/// returns, what it published is withdrawn, whoever still holds its clients.
///
/// # Examples
///
/// ```
/// use cluster_client::{Result, Worker};
///
/// async fn worker(worker: Worker) -> Result<()> {
///     let name = format!("worker {} of {}", worker.index(), worker.count());
///     worker.ready().await?;
///     worker.shutdown().await;
///     println!("{name} stops");
///     Ok(())
/// }
/// ```
#[derive(Debug, Clone)]
pub struct Worker {
    place: Arc<Place>,
}

impl Worker {
    pub(super) fn new(place: Arc<Place>) -> Self {
        Self { place }
    }

    /// Follows a channel that the agent leads: the client's methods, without its options and
    /// credentials.
    ///
    /// # Errors
    ///
    /// As [`Builder::join`].
    ///
    /// # Cancel safety
    ///
    /// Dropping it gives up; nothing stays.
    pub fn cluster<T: ClusterClient>(&self) -> Joining<T> {
        let builder = Builder::new()
            .role(Role::Follower)
            .port(self.place.port)
            .token(self.place.token.secret().to_vec());
        Joining::follow(builder)
    }

    /// Tells the master that the set-up is done. Calling it again does nothing.
    ///
    /// # Errors
    ///
    /// Where the control link is gone; the process ends then anyway.
    ///
    /// # Cancel safety
    ///
    /// The master is told even where the future is dropped after its first poll.
    pub async fn ready(&self) -> Result<()> {
        self.place.ready().await
    }

    /// Waits until the process is to stop: the master says so, or it got a SIGTERM. The agent lives
    /// on until all workers are gone. Return `Ok` from the worker's function soon after; what is not
    /// gone within the master's `stop_timeout` is killed.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe; it resolves for every waiter, now and later.
    pub async fn shutdown(&self) {
        self.place.stopped().await;
    }

    /// Waits until the whole cluster is up: the agent and all workers were ready once. Nothing in
    /// the set-up may wait for it, since it comes after [`ready`](Self::ready) of every worker.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn cluster_ready(&self) {
        self.place.cluster_ready().await;
    }

    /// Sends messages to the other processes of the cluster, and gets theirs.
    #[must_use]
    pub fn messenger(&self) -> Messenger {
        Messenger::new(Arc::clone(&self.place.hub))
    }

    /// The agent, where it is ready; `None` while it is away, between its death and its
    /// replacement's `ready()`.
    #[must_use]
    pub fn peers(&self) -> Peers<Option<Peer>> {
        self.place.hub.readiness().agent()
    }

    /// Which worker it is, from 0. A replacement has the index of the worker that it replaces.
    #[must_use]
    pub fn index(&self) -> u32 {
        match self.place.name {
            ProcessName::Worker(index) => index,
            ProcessName::Master | ProcessName::Agent => 0,
        }
    }

    /// How many workers there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.place.count
    }

    /// The cluster port, on `127.0.0.1`.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.place.port
    }

    /// How many processes had this worker's place before: 0 for the first, counted up by each
    /// replacement.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.place.generation
    }
}
