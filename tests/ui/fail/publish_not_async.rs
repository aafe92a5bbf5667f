use cluster_client::{Error, cluster_client};

struct Client;

#[cluster_client]
impl Client {
    #[connect]
    async fn connect() -> Result<Self, Error> {
        Ok(Self)
    }

    #[publish]
    fn put(&self, key: u64, value: u64) -> Result<(), Error> {
        let _ = (key, value);
        Ok(())
    }
}

fn main() {}
