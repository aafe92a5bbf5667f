use cluster_client::{Error, cluster_client};

trait Get {
    async fn get(&self) -> Result<u8, Error>;
}

struct Client;

#[cluster_client]
impl Get for Client {
    #[invoke]
    async fn get(&self) -> Result<u8, Error> {
        Ok(1)
    }
}

fn main() {}
