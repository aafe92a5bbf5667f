use cluster_client::{Cluster, Error, cluster_client};

struct Client;

#[cluster_client]
impl Client {
    #[connect]
    async fn connect() -> Result<Self, Error> {
        Ok(Self)
    }

    #[invoke]
    async fn get(&self) -> Result<u8, Error> {
        Ok(1)
    }

    async fn unmarked(&self) -> Result<u8, Error> {
        Ok(1)
    }

    #[close]
    async fn close(&self) {}
}

async fn user(client: Cluster<Client>) -> Result<u8, Error> {
    client.close().await;
    client.unmarked().await
}

fn main() {}
