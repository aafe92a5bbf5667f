use cluster_client::{Error, cluster_client};

struct Client;

#[cluster_client]
impl Client {
    #[connect]
    async fn connect() -> Result<Self, Error> {
        Ok(Self)
    }

    #[invoke = "oneway"]
    async fn get(&self) {}
}

fn main() {}
