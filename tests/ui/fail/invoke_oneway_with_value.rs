use cluster_client::{Error, cluster_client};

struct Client;

#[cluster_client]
impl Client {
    #[connect]
    async fn connect() -> Result<Self, Error> {
        Ok(Self)
    }

    #[invoke(oneway)]
    async fn log(&self) -> Result<u64, Error> {
        Ok(1)
    }
}

fn main() {}
