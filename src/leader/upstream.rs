//! The real client, as far as a leader needs to know it: called with bytes.

use std::sync::Arc;

use bytes::Bytes;

use super::Sink;
use crate::{
    error::Error,
    spec::{Answered, BoxFuture, End, Failure, HealthReport},
};

/// A connected client. What does not return a future does not panic.
pub(crate) trait Upstream: Send + Sync {
    /// Runs an invoke, publish or unpublish method. `Err`: the arguments do not decode.
    fn call(&self, method: usize, args: Bytes) -> Result<BoxFuture<Answered>, Error>;

    /// Runs a subscribe method until its stream ends. `Err`: the arguments do not decode.
    fn open(&self, method: usize, args: Bytes, sink: Sink) -> Result<BoxFuture<End>, Error>;

    /// Runs `#[health]` until its stream ends.
    fn health(&self, report: HealthReport) -> Option<BoxFuture<()>>;

    /// Runs `#[close]`.
    fn close(&self) -> BoxFuture<()>;
}

/// What the leader can do without a connection. What does not return a future does not panic.
pub(crate) trait Connector: Send + Sync {
    /// Connects the real client.
    fn connect(&self) -> BoxFuture<Result<Arc<dyn Upstream>, Failure>>;

    /// The canonical key of these arguments.
    fn key(&self, method: usize, args: Bytes) -> Result<Bytes, Error>;

    /// `()` in the channel's codec.
    fn unit(&self) -> Bytes;
}
