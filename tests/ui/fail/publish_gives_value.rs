use cluster_client::{Error, cluster_client};

struct Client;

#[cluster_client]
impl Client {
    #[connect]
    async fn connect() -> Result<Self, Error> {
        Ok(Self)
    }

    #[publish]
    async fn put(&self, value: u64) -> Result<u64, Error> {
        Ok(value)
    }
}

fn main() {}
