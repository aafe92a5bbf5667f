use std::rc::Rc;

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
    fn values(&self) -> impl Stream<Item = u64> {
        let shared = Rc::new(1);
        stream::repeat_with(move || *shared)
    }
}

fn main() {}
