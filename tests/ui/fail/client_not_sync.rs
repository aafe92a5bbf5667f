use std::cell::Cell;

use cluster_client::{Error, cluster_client};

struct Client(Cell<u8>);

#[cluster_client]
impl Client {
    #[connect]
    async fn connect() -> Result<Self, Error> {
        Ok(Self(Cell::new(1)))
    }

    #[invoke]
    async fn get(&self) -> Result<u8, Error> {
        Ok(1)
    }
}

fn main() {}
