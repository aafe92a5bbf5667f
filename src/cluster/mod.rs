//! `Cluster<T>`: a wrapped client as its users hold it, whatever the role of the process.
//!
//! Every role holds a follower; the roles differ only in how it finds its leader ([`route`]): over
//! a port, in this process, or by election.

mod builder;
mod client;
mod deliveries;
#[cfg(all(test, unix, feature = "process"))]
mod hand_over;
mod lead;
#[cfg(test)]
mod model;
mod proxy;
mod route;
mod subscription;
#[cfg(unix)]
mod token;
mod wrapped;

use std::{fmt, ops::Deref, sync::Arc, time::Duration};

use self::lead::LeadCell;
pub use self::{
    builder::Builder,
    client::ClusterClient,
    deliveries::{Deliveries, Delivery},
    proxy::{Answer, ProxyCore},
    subscription::{Change, Subscription},
};
pub use crate::follower::SubscriptionState as State;
use crate::{connection::timeout_anywhere, error::Error, leader::LeaderStats};

/// Longest time to say goodbye to a leader that does not read.
const GOODBYE: Duration = Duration::from_secs(2);

/// Longest time to leave all channels: the goodbyes, and then the leaders, which bound themselves.
#[cfg(all(unix, feature = "process"))]
const LEAVE: Duration = Duration::from_secs(8);

/// Longest time to wait for the leader that takes over, to withdraw from it what was published.
#[cfg(all(unix, feature = "process"))]
const NEXT_LEADER: Duration = Duration::from_secs(3);

/// Leaves all channels, because what this process was for is over: what it published is withdrawn
/// at once, and the real clients that it has are closed, whoever holds on to them. A leader that
/// hands its channels over withdraws nothing, and is waited for; a follower waits up to 3 s for the
/// one that takes over, which alone can withdraw what it published.
///
/// # Cancel safety
///
/// Cancel safe: the rest is done in the background, as long as there is a runtime.
#[cfg(all(unix, feature = "process"))]
pub(crate) async fn leave_all(role: Role) {
    let leave = async {
        lead::handed_over().await;
        // What a leader published itself, the next one publishes as well.
        if role != Role::Leader {
            let _ = tokio::time::timeout(NEXT_LEADER, crate::follower::meet_next_leaders()).await;
        }
        // As in `Cluster::close`.
        let _ = tokio::time::timeout(GOODBYE, crate::follower::close_all()).await;
        lead::close_all().await;
    };
    if tokio::time::timeout(LEAVE, leave).await.is_err() {
        tracing::error!("leaving the channels took longer than {LEAVE:?}; giving up");
    }
}

/// How a process takes part in a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Role {
    /// Owns the real client. A second leader of a channel on one port is an error.
    Leader,
    /// Forwards to the leader, wherever and whenever it appears on the port.
    Follower,
    /// Whoever binds the port leads all channels; when it dies the others elect anew.
    #[default]
    Compete,
    /// Leader and user in one process, without any socket.
    Single,
}

/// A wrapped client: the methods of `T` that are marked, callable in every process.
///
/// It derefs to the proxy that `#[cluster_client]` generates. Its own operations are associated
/// functions, as [`Cluster::close`], so that no name of the client's is taken. Cloning is cheap;
/// the clones are one client. When the last clone and the last subscription are dropped, the
/// process leaves the channel: its subscriptions end and what it published is withdrawn.
///
/// It lives on the tokio runtime that it was made in, and can be used anywhere: in other runtimes, and
/// in threads without any.
///
/// # Examples
///
/// ```
/// use cluster_client::{Cluster, Error, Role, cluster_client};
///
/// struct Greeter;
///
/// #[cluster_client]
/// impl Greeter {
///     #[connect]
///     async fn connect() -> Result<Self, Error> {
///         Ok(Self)
///     }
///
///     #[invoke]
///     async fn greet(&self, name: &str) -> Result<String, Error> {
///         Ok(format!("hello {name}"))
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Error> {
/// let greeter = Cluster::<Greeter>::builder().role(Role::Single).create(()).await?;
/// assert_eq!(greeter.greet("you").await?, "hello you");
/// Cluster::close(greeter).await;
/// # Ok(())
/// # }
/// ```
pub struct Cluster<T: ClusterClient>(Arc<Inner<T>>);

struct Inner<T: ClusterClient> {
    proxy: T::Proxy,
    core: ProxyCore,
    lead: LeadCell,
    role: Role,
    port: Option<u16>,
}

impl<T: ClusterClient> Cluster<T> {
    /// Starts to describe how this process takes part.
    pub fn builder() -> Builder<T> {
        Builder::new()
    }

    /// Leaves the channel, for all clones: calls and subscriptions answer `Closed` from here on,
    /// what was published here is withdrawn. In the leader the followers are told, and the client
    /// is closed once it is not used in this process any more.
    ///
    /// Takes at most 7 s.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: the rest is done in the background.
    pub async fn close(this: Self) {
        let follower = this.0.core.follower();
        // If the wait is cut short, others may still hold `this`.
        let _release = ReleaseOnDrop(&this.0.lead);
        follower.close();
        // One that does not read the goodbye is left without it.
        if let Ok(closed) = timeout_anywhere(Some(follower.runtime()), GOODBYE, follower.closed()) {
            let _ = closed.await;
        }
        this.0.lead.release().await;
    }

    /// The role of this process now: [`Role::Leader`], [`Role::Follower`] or [`Role::Single`].
    /// Under [`Role::Compete`] it changes with each election.
    #[must_use]
    pub fn role(this: &Self) -> Role {
        match this.0.role {
            Role::Compete if this.0.lead.leads() => Role::Leader,
            Role::Compete => Role::Follower,
            role => role,
        }
    }

    /// The name of the channel.
    #[must_use]
    pub fn channel(this: &Self) -> &str {
        this.0.core.follower().channel()
    }

    /// The port of the Local Server; `None` under [`Role::Single`].
    #[must_use]
    pub fn port(this: &Self) -> Option<u16> {
        this.0.port
    }

    /// Why there is no leader within reach at the moment, if so.
    #[must_use]
    pub fn down(this: &Self) -> Option<Error> {
        this.0.core.follower().down()
    }

    /// What the leader counts, where it is in this process.
    #[must_use]
    pub fn stats(this: &Self) -> Option<LeaderStats> {
        this.0.lead.stats()
    }

    /// How often publishing again after a reconnect has failed.
    #[must_use]
    pub fn replay_failures(this: &Self) -> u64 {
        this.0.core.follower().replay_failures()
    }
}

/// Lets go of a leader, which closes in the background if nobody else in this process uses it.
struct ReleaseOnDrop<'a>(&'a LeadCell);

impl Drop for ReleaseOnDrop<'_> {
    fn drop(&mut self) {
        self.0.clear();
    }
}

impl<T: ClusterClient> Clone for Cluster<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: ClusterClient> Deref for Cluster<T> {
    type Target = T::Proxy;

    fn deref(&self) -> &T::Proxy {
        &self.0.proxy
    }
}

impl<T: ClusterClient> fmt::Debug for Cluster<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("channel", &Self::channel(self))
            .field("role", &Self::role(self))
            .field("port", &self.0.port)
            .finish_non_exhaustive()
    }
}
