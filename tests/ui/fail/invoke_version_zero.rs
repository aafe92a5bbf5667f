use cluster_client::{Error, cluster_client};

struct Client;

#[cluster_client]
impl Client {
    #[connect]
    async fn connect() -> Result<Self, Error> {
        Ok(Self)
    }

    #[invoke(version = 0)]
    async fn get(&self) -> Result<u8, Error> {
        Ok(1)
    }
}

fn main() {}
