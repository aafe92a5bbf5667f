//! What the macro fills in: the way to call a wrapped client with bytes.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    cluster::ProxyCore,
    error::Error,
    leader::Sink,
    spec::{Answered, BoxFuture, ChannelSpec, End, Failure, HealthReport},
};

/// A client that can be shared between processes. Implemented by `#[cluster_client]`, never by
/// hand.
pub trait ClusterClient: Sized + Send + Sync + 'static {
    /// The arguments of `#[connect]`: the type of the one argument, a tuple of several, `()` for
    /// none. They are cloned for each try to connect.
    type Options: Clone + Send + Sync + 'static;

    /// The type with the client's shared methods, which [`Cluster`](crate::Cluster) derefs to.
    type Proxy: Send + Sync + 'static;

    #[doc(hidden)]
    const SPEC: ChannelSpec;

    #[doc(hidden)]
    fn proxy(core: ProxyCore) -> Self::Proxy;

    #[doc(hidden)]
    fn connect(options: Self::Options) -> BoxFuture<Result<Self, Failure>>;

    /// Runs an invoke, publish or unpublish method. `Err`: the arguments do not decode.
    #[doc(hidden)]
    fn call(self: Arc<Self>, method: usize, args: Bytes) -> Result<BoxFuture<Answered>, Error>;

    /// Opens a subscribe method; the future runs until the upstream stream ends.
    #[doc(hidden)]
    fn open(
        self: Arc<Self>,
        method: usize,
        args: Bytes,
        sink: Sink,
    ) -> Result<BoxFuture<End>, Error>;

    /// The canonical key of these arguments: decoded with the leader's types and encoded again.
    #[doc(hidden)]
    fn key(method: usize, args: Bytes) -> Result<Bytes, Error>;

    /// `()` in the codec of the channel.
    #[doc(hidden)]
    fn unit() -> Bytes;

    /// Runs `#[health]`, where there is one, until its stream ends.
    #[doc(hidden)]
    fn health(self: Arc<Self>, _report: HealthReport) -> Option<BoxFuture<()>> {
        None
    }

    /// Runs `#[close]`, where there is one.
    #[doc(hidden)]
    fn close(self: Arc<Self>) -> BoxFuture<()> {
        Box::pin(std::future::ready(()))
    }
}
