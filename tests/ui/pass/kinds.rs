//! Several methods of each kind, in every form.

#![deny(warnings)]

use std::pin::Pin;

use cluster_client::{Cluster, Deliveries, Error, Subscription, cluster_client};
use futures::{
    Stream,
    stream::{self, BoxStream},
};

struct Client(u64);

#[cluster_client(codec = Json)]
impl Client {
    #[connect]
    async fn connect(first: u64, second: u64) -> Result<Self, std::num::TryFromIntError> {
        u8::try_from(first)?;
        Ok(Self(second))
    }

    #[subscribe]
    fn plain(&self, id: u64) -> impl Stream<Item = u64> + Send + '_ {
        stream::iter(std::iter::repeat_n(self.0, id as usize))
    }

    #[subscribe(quiet = "30s", version = 2)]
    fn fallible(&self, name: &str) -> impl Stream<Item = Result<String, Error>> + Send {
        stream::iter([Ok(name.to_owned())])
    }

    #[subscribe(deliver = "all")]
    fn boxed(&self) -> BoxStream<'static, (u64, String)> {
        Box::pin(stream::pending())
    }

    #[subscribe]
    fn pinned(&self) -> Pin<Box<dyn Stream<Item = Vec<u8>> + Send + '_>> {
        Box::pin(stream::pending())
    }

    #[subscribe]
    async fn answered(&self, name: &str) -> Result<impl Stream<Item = Option<u64>>, Error> {
        let _ = name.len();
        Ok(stream::pending())
    }

    #[subscribe(deliver = "one")]
    fn jobs(&self, queue: String) -> impl Stream<Item = Result<u64, Error>> {
        drop(queue);
        stream::pending()
    }

    #[subscribe(deliver = "one")]
    async fn leases(&self) -> Result<impl Stream<Item = u64> + use<>, Error> {
        Ok(stream::pending())
    }

    #[publish]
    async fn put(&self, name: &str, value: u64) -> Result<(), Error> {
        let _ = (name.len(), value);
        Ok(())
    }

    #[unpublish(of = "put", timeout = "2m")]
    async fn remove(&self, name: &str, value: u64) -> Result<(), Error> {
        let _ = (name.len(), value);
        Ok(())
    }

    #[publish(key = name, timeout = "1h", version = 9)]
    async fn announce(&self, name: &str, value: f64) -> Result<(), Error> {
        let _ = (name.len(), value);
        Ok(())
    }

    #[unpublish(of = "announce")]
    async fn silence(&self, name: &str, _value: f64) -> Result<(), Error> {
        let _ = name.len();
        Ok(())
    }

    #[publish]
    async fn stay(&self) -> Result<(), Error> {
        Ok(())
    }

    #[invoke]
    async fn get(&self, id: f64) -> Result<f64, Error> {
        Ok(id)
    }

    #[invoke(share, idempotent)]
    async fn shared(&self, id: u64) -> Result<u64, Error> {
        Ok(id)
    }

    #[invoke(oneway)]
    async fn log(&self, line: &str) {
        let _ = line.len();
    }

    #[invoke(oneway)]
    async fn count(&self, by: u64) -> Result<(), Error> {
        let _ = by;
        Ok(())
    }

    #[invoke(oneway)]
    fn now(&self) {}

    #[close]
    fn end(&self) {}
}

async fn user(client: Cluster<Client>) -> Result<(), Error> {
    let _: Subscription<u64> = client.plain(1);
    let _: Subscription<String> = client.fallible("a");
    let _: Subscription<(u64, String)> = client.boxed();
    let _: Subscription<Vec<u8>> = client.pinned();
    let _: Subscription<Option<u64>> = client.answered("a").await?;
    let _: Deliveries<u64> = client.jobs("a".to_owned());
    let _: Deliveries<u64> = client.leases().await?;
    client.put("a", 1).await?;
    client.remove("a", 1).await?;
    client.announce("a", 1.0).await?;
    client.silence("a", 1.0).await?;
    client.stay().await?;
    let _: f64 = client.get(1.0).await?;
    let _: u64 = client.shared(1).await?;
    client.log("a").await;
    client.count(1).await?;
    client.now();
    Ok(())
}

fn main() {
    let _ = user;
}
