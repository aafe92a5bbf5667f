use cluster_client::{Error, Health, cluster_client};
use futures::{Stream, stream};

struct Client;

#[cluster_client]
impl Client {
    #[connect]
    async fn connect() -> Result<Self, Error> {
        Ok(Self)
    }

    #[invoke]
    async fn get(&self) -> Result<u8, Error> {
        Ok(1)
    }

    #[health]
    fn health(&self, verbose: bool) -> impl Stream<Item = Health> {
        let _ = verbose;
        stream::pending()
    }
}

fn main() {}
