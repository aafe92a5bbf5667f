use cluster_client::{Error, cluster_client};

struct Client;

#[cluster_client]
impl Client {
    #[connect]
    async fn connect() -> Result<Self, Error> {
        Ok(Self)
    }

    #[subscribe]
    fn values(&self, key: u64) {
        let _ = key;
    }
}

fn main() {}
