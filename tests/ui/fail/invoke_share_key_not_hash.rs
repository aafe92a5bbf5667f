use cluster_client::{Error, cluster_client};

struct Client;

#[cluster_client]
impl Client {
    #[connect]
    async fn connect() -> Result<Self, Error> {
        Ok(Self)
    }

    #[invoke(share)]
    async fn get(&self, above: f64) -> Result<u8, Error> {
        let _ = above;
        Ok(1)
    }
}

fn main() {}
