use cluster_client::{Error, cluster_client};
use futures::{Stream, stream};

struct Client;

#[cluster_client]
impl Client {
    #[connect]
    async fn connect() -> Result<Self, Error> {
        Ok(Self)
    }

    #[subscribe]
    fn values(&self) -> Result<impl Stream<Item = u64>, Error> {
        Ok(stream::pending())
    }
}

fn main() {}
