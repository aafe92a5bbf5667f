//! Results are taken apart by the compiler, so that an alias is as good as `Result`.

#![deny(warnings)]

use std::io;

use cluster_client::{Cluster, Deliveries, Subscription, cluster_client};
use futures::{
    Stream,
    stream::{self, BoxStream},
};

type Answer<T = ()> = Result<T, cluster_client::Error>;

struct Client;

#[cluster_client]
impl Client {
    #[connect]
    async fn connect() -> io::Result<Self> {
        Ok(Self)
    }

    #[subscribe]
    fn lines(&self) -> impl Stream<Item = io::Result<String>> {
        stream::pending()
    }

    #[subscribe]
    async fn tail(&self) -> io::Result<impl Stream<Item = Result<u64, u8>> + use<>> {
        Ok(stream::pending())
    }

    #[subscribe(deliver = "one")]
    async fn jobs(&self) -> Answer<BoxStream<'_, u64>> {
        Ok(Box::pin(stream::pending()))
    }

    #[publish]
    async fn put(&self, line: String) -> Answer {
        drop(line);
        Ok(())
    }

    #[invoke]
    async fn size(&self) -> io::Result<u64> {
        Ok(1)
    }

    #[invoke]
    async fn name(&self) -> Answer<String> {
        Ok(String::new())
    }
}

async fn user(client: Cluster<Client>) -> io::Result<()> {
    let _: Subscription<String> = client.lines();
    let _: Subscription<u64> = client.tail().await?;
    let jobs: Answer<Deliveries<u64>> = client.jobs().await;
    let put: Answer = client.put(String::new()).await;
    let _: u64 = client.size().await?;
    let name: Answer<String> = client.name().await;
    jobs.and(put).and(name).map(drop).map_err(io::Error::other)
}

fn main() {
    let _ = user;
}
