use std::rc::Rc;

use cluster_client::{Error, cluster_client};

struct Client;

#[cluster_client]
impl Client {
    #[connect]
    async fn connect() -> Result<Self, Error> {
        Ok(Self)
    }

    #[invoke]
    async fn get(&self) -> Result<u8, Error> {
        let shared = Rc::new(1);
        std::future::ready(()).await;
        Ok(*shared)
    }
}

fn main() {}
