use cluster_client::{Error, cluster_client};

struct Client;

#[cluster_client]
impl Client {
    #[connect]
    async fn connect() -> Result<Self, Error> {
        Ok(Self)
    }

    #[publish]
    async fn put(&self, key: u64, value: u64) -> Result<(), Error> {
        let _ = (key, value);
        Ok(())
    }

    #[publish]
    async fn set(&self, key: u64, value: u64) -> Result<(), Error> {
        let _ = (key, value);
        Ok(())
    }

    #[unpublish(of = "push")]
    async fn remove(&self, key: u64, value: u64) -> Result<(), Error> {
        let _ = (key, value);
        Ok(())
    }
}

fn main() {}
