use cluster_client::{Error, cluster_client};

struct Client;

#[cluster_client]
impl Client {
    #[connect]
    async fn connect() -> Result<Self, Error> {
        Ok(Self)
    }

    #[publish]
    async fn put(&self, name: String, weight: f32) -> Result<(), Error> {
        drop((name, weight));
        Ok(())
    }
}

fn main() {}
