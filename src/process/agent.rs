//! The agent, as its own function sees it.

use std::sync::Arc;

use super::place::Place;
use crate::{
    error::{Error, Result},
    protocol::handshake::Token,
};

/// The agent's side of the cluster: given to the function that was passed to
/// [`MasterBuilder::agent`](super::MasterBuilder::agent). A clone is the same agent.
///
/// There is one agent, started before all workers, and it holds the real clients. The function's
/// life is the process's life.
///
/// # Examples
///
/// ```
/// use cluster_client::{Agent, Result};
///
/// async fn agent(agent: Agent) -> Result<()> {
///     // Set up first: connect, bind, read files.
///     agent.ready().await?;
///     agent.shutdown().await;
///     // Clean up here.
///     Ok(())
/// }
/// ```
#[derive(Debug, Clone)]
pub struct Agent {
    place: Arc<Place>,
}

impl Agent {
    pub(super) fn new(place: Arc<Place>) -> Self {
        Self { place }
    }

    /// Tells the master that the set-up is done. Workers are started after it. Calling it again
    /// does nothing.
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

    /// Waits until the process is to stop: the master says so, or it got a SIGTERM. When it
    /// resolves, the workers are gone. Return `Ok` from the agent's function soon after; what is not
    /// gone within the master's `stop_timeout` is killed.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe; it resolves for every waiter, now and later.
    pub async fn shutdown(&self) {
        self.place.stopped().await;
    }

    /// Waits until the whole cluster is up: the agent and all workers were ready once. Nothing in
    /// the set-up may wait for it, since workers are started only after [`ready`](Self::ready).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn cluster_ready(&self) {
        self.place.cluster_ready().await;
    }

    /// The cluster port, on `127.0.0.1`.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.place.port
    }

    /// How many agents this master had before: 0 for the first, counted up by each replacement.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.place.generation
    }

    /// The key of the handshake on the cluster port.
    pub(crate) fn token(&self) -> Token {
        self.place.token.clone()
    }

    /// The listener of the cluster port, which does not block. Each call gives a descriptor of its
    /// own of the one socket, which the master keeps open too.
    pub(crate) fn listener(&self) -> Result<std::net::TcpListener> {
        let listener = self.place.listener.as_ref();
        listener
            .ok_or_else(|| Error::protocol("the agent inherited no listener"))?
            .try_clone()
            .map_err(|error| Error::io("can't duplicate the cluster listener", &error))
    }
}
