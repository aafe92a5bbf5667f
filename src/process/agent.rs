//! The agent, as its own function sees it.

use std::sync::{Arc, Weak};

use tokio::sync::OnceCell;

use super::{
    joining::Joining,
    messenger::{Messenger, Peer, Peers},
    place::Place,
};
use crate::{
    cluster::{Builder, ClusterClient, Role},
    error::{Error, Result},
    options::Options,
    server::LocalServer,
};

/// The agent's side of the cluster: given to the function that was passed to
/// [`MasterBuilder::agent`](super::MasterBuilder::agent). A clone is the same agent.
///
/// There is one agent, started before all workers, and it holds the real clients. The function's
/// life is the process's life: when it returns, everything that is published is withdrawn and the
/// clients are closed, whoever still holds them.
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
    /// Accepts on the inherited listener as long as the agent lives and leads, whatever channels come
    /// and go.
    server: Arc<OnceCell<Arc<LocalServer>>>,
}

impl Agent {
    pub(super) async fn new(place: Arc<Place>) -> Result<Self> {
        let agent = Self { place, server: Arc::default() };
        if agent.place.lead.is_given() {
            agent.serve().await?;
        }
        tokio::spawn(retire(Arc::clone(&agent.place), Arc::downgrade(&agent.server)));
        Ok(agent)
    }

    /// The server, once this agent has the lead.
    async fn serve(&self) -> Result<Arc<LocalServer>> {
        self.place.wait_for_lead().await?;
        let adopt = || async {
            let listener = self
                .place
                .listener
                .as_ref()
                .ok_or_else(|| Error::protocol("the agent inherited no listener"))?
                .try_clone()
                .map_err(|error| Error::io("can't duplicate the cluster listener", &error))?;
            LocalServer::adopt(listener, &self.place.token, &Options::default())
        };
        self.server.get_or_try_init(adopt).await.map(Arc::clone)
    }

    /// Leads a channel: connects the real client with these options, and serves the workers.
    ///
    /// A client that can't be connected is an error in the first agent, which ends the start of the
    /// cluster. A replacement tries again in the background instead: its followers see `Stale` with
    /// the reason, and other channels do not wait for it.
    ///
    /// In a reload it waits until the agent before this one is gone, so that there are never two
    /// real clients of a channel. What can be done before, such as reading files, is best done
    /// before.
    ///
    /// # Examples
    ///
    /// ```
    /// use cluster_client::{Agent, Error, Result, cluster_client};
    ///
    /// struct Greeter;
    ///
    /// #[cluster_client]
    /// impl Greeter {
    ///     #[connect]
    ///     async fn connect() -> Result<Self> {
    ///         Ok(Self)
    ///     }
    ///
    ///     #[invoke]
    ///     async fn greet(&self, name: &str) -> Result<String> {
    ///         Ok(format!("hello {name}"))
    ///     }
    /// }
    ///
    /// async fn agent(agent: Agent) -> Result<()> {
    ///     let _greeter = agent.cluster::<Greeter>(()).await?;
    ///     agent.ready().await?;
    ///     agent.shutdown().await;
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Builder::create`]; options given twice for one channel are
    /// [`ErrorKind::ChannelTaken`](crate::ErrorKind::ChannelTaken).
    ///
    /// # Cancel safety
    ///
    /// Dropping it gives up; nothing stays.
    pub fn cluster<T: ClusterClient>(&self, client: T::Options) -> Joining<T> {
        self.joining(Some(client))
    }

    /// Uses a channel that this agent leads already.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) if it does not lead it.
    ///
    /// # Cancel safety
    ///
    /// Dropping it gives up; nothing stays.
    pub fn join<T: ClusterClient>(&self) -> Joining<T> {
        self.joining(None)
    }

    fn joining<T: ClusterClient>(&self, client: Option<T::Options>) -> Joining<T> {
        let is_replacement = self.place.generation > 0;
        let builder = Builder::new().role(Role::Leader).retry_connect(is_replacement);
        let agent = self.clone();
        Joining::lead(builder, Box::pin(async move { agent.serve().await }), client)
    }

    /// Tells the master that the set-up is done. Workers are started after it. Calling it again
    /// does nothing. In a reload it waits until the agent before this one is gone.
    ///
    /// # Errors
    ///
    /// Where the control link is gone; the process ends then anyway.
    ///
    /// # Cancel safety
    ///
    /// The master is told even where the future is dropped after its first poll.
    pub async fn ready(&self) -> Result<()> {
        self.serve().await?;
        self.place.ready().await
    }

    /// Waits until the process is to stop: the master says so, or it got a SIGTERM. When it
    /// resolves, the workers are gone; or, in a reload, all channels are handed over to the next
    /// agent, their clients closed and nothing withdrawn. Return `Ok` from the agent's function soon after; what is not
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

    /// Sends messages to the other processes of the cluster, and gets theirs.
    #[must_use]
    pub fn messenger(&self) -> Messenger {
        Messenger::new(Arc::clone(&self.place.hub))
    }

    /// Which workers are ready, by index. A replacement of the agent knows them from its start.
    /// While workers are reloaded, old and new ones are in it; one that was asked to stop is not.
    #[must_use]
    pub fn peers(&self) -> Peers<Vec<Peer>> {
        self.place.hub.readiness().workers()
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
}

/// Gives up the lead when the master says so, and then asks the process to stop.
async fn retire(place: Arc<Place>, server: Weak<OnceCell<Arc<LocalServer>>>) {
    let drain = place.lead.retired().await;
    let server = server.upgrade().and_then(|server| server.get().map(Arc::clone));
    if let Some(server) = server {
        server.hand_over(drain).await;
    }
    place.stop();
}
