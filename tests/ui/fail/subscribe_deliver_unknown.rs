use cluster_client::{Error, cluster_client};
use futures::{Stream, stream};

struct Client;

#[cluster_client]
impl Client {
    #[connect]
    async fn connect() -> Result<Self, Error> {
        Ok(Self)
    }

    #[subscribe(deliver = "some")]
    fn values(&self) -> impl Stream<Item = u64> {
        stream::pending()
    }
}

fn main() {}
