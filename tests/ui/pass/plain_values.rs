//! `error =`: methods that cannot fail in the client get a `Result` in the proxy.

#![deny(warnings)]

use cluster_client::{Cluster, Error, cluster_client};

#[derive(Debug)]
struct LinkError(Error);

impl From<Error> for LinkError {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl std::fmt::Display for LinkError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

struct Client;

#[cluster_client(error = LinkError)]
impl Client {
    #[connect]
    async fn connect() -> Result<Self, Error> {
        Ok(Self)
    }

    #[invoke]
    async fn get(&self) -> Option<String> {
        None
    }

    #[invoke]
    async fn touch(&self) {}

    #[publish]
    async fn put(&self, value: u8) {
        let _ = value;
    }

    #[invoke]
    async fn own(&self) -> Result<u8, Error> {
        Ok(1)
    }
}

async fn user(client: Cluster<Client>) -> Result<(), LinkError> {
    let _: Option<String> = client.get().await?;
    client.touch().await?;
    client.put(1).await?;
    let _: u8 = client.own().await.map_err(LinkError)?;
    Ok(())
}

fn main() {
    let _ = user;
}
