//! `trait =`: one generic function for the cluster and for a fake.

#![deny(warnings)]

use cluster_client::{Cluster, Error, Subscription, cluster_client};
use futures::{Stream, StreamExt, stream};

struct Client;

#[cluster_client(trait = pub Registry)]
impl Client {
    #[connect]
    async fn connect() -> Result<Self, Error> {
        Ok(Self)
    }

    /// The values of a key.
    #[subscribe]
    fn values(&self, key: &str) -> impl Stream<Item = u64> {
        stream::iter([key.len() as u64])
    }

    #[invoke]
    async fn get(&self, key: &str) -> Result<u64, Error> {
        Ok(key.len() as u64)
    }

    #[invoke(oneway)]
    async fn log(&self, line: String) {
        drop(line);
    }

    #[invoke(oneway)]
    fn count(&self) {}
}

/// A fake for tests of code that uses the registry.
struct Fake;

impl Registry for Fake {
    fn values(&self, key: &str) -> Subscription<u64> {
        let len = key.len() as u64;
        Subscription::from_stream(stream::iter([len]).chain(stream::pending()))
    }

    async fn get(&self, key: &str) -> Result<u64, Error> {
        Ok(key.len() as u64 + 1)
    }

    async fn log(&self, _line: String) {}

    fn count(&self) {}
}

async fn user(registry: &(impl Registry + Sync)) -> Result<u64, Error> {
    registry.count();
    registry.log(String::new()).await;
    registry.get("ab").await
}

/// The futures of the trait can be spawned.
fn spawn(registry: impl Registry + Send + Sync + 'static) -> tokio::task::JoinHandle<u64> {
    tokio::spawn(async move { user(&registry).await.unwrap_or(0) })
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    assert_eq!(user(&Fake).await.unwrap(), 3);
    assert_eq!(*Fake.values("abc").ready().await.unwrap(), 3);
    assert_eq!(spawn(Fake).await.unwrap(), 3);
    let _ = |client: Cluster<Client>| spawn(client);
}
