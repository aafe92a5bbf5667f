use cluster_client::{Error, Health, cluster_client};

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

    #[health]
    fn health(&self) -> Health {
        Health::Restored
    }
}

fn main() {}
