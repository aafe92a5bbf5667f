use cluster_client::{Error, cluster_client};
use futures::{Stream, stream};

struct Value;

struct Client;

#[cluster_client]
impl Client {
    #[connect]
    async fn connect() -> Result<Self, Error> {
        Ok(Self)
    }

    #[subscribe]
    fn values(&self) -> impl Stream<Item = Value> {
        stream::pending()
    }
}

fn main() {}
