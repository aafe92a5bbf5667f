use cluster_client::{Error, cluster_client};

struct ConnectError;

struct Client;

#[cluster_client]
impl Client {
    #[connect]
    async fn connect() -> Result<Self, ConnectError> {
        Ok(Self)
    }

    #[invoke]
    async fn get(&self) -> Result<u8, Error> {
        Ok(1)
    }
}

fn main() {}
