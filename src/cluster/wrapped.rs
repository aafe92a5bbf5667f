//! A client of the user's as the leader sees it.

use std::sync::Arc;

use bytes::Bytes;

use super::ClusterClient;
use crate::{
    error::Error,
    leader::{Connector, Sink, Upstream, guarded_now},
    spec::{Answered, BoxFuture, End, Failure, HealthReport},
};

/// A connected client.
struct Wrapped<T>(Arc<T>);

impl<T: ClusterClient> Upstream for Wrapped<T> {
    fn call(&self, method: usize, args: Bytes) -> Result<BoxFuture<Answered>, Error> {
        guarded_now(|| Arc::clone(&self.0).call(method, args))
    }

    fn open(&self, method: usize, args: Bytes, sink: Sink) -> Result<BoxFuture<End>, Error> {
        guarded_now(|| Arc::clone(&self.0).open(method, args, sink))
    }

    fn health(&self, report: HealthReport) -> Option<BoxFuture<()>> {
        Arc::clone(&self.0).health(report)
    }

    fn close(&self) -> BoxFuture<()> {
        Arc::clone(&self.0).close()
    }
}

/// Connects a client, as often as asked.
pub(super) struct Connect<T: ClusterClient>(pub(super) T::Options);

impl<T: ClusterClient> Connector for Connect<T> {
    fn connect(&self) -> BoxFuture<Result<Arc<dyn Upstream>, Failure>> {
        let connecting = T::connect(self.0.clone());
        Box::pin(async move {
            let client = connecting.await?;
            Ok(Arc::new(Wrapped(Arc::new(client))) as Arc<dyn Upstream>)
        })
    }

    fn key(&self, method: usize, args: Bytes) -> Result<Bytes, Error> {
        guarded_now(|| T::key(method, args))
    }

    fn unit(&self) -> Bytes {
        T::unit()
    }
}
