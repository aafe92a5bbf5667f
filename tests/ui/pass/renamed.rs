//! `crate =`: the main crate under another name, as in a crate that re-exports it.

#![deny(warnings)]

mod reexports {
    pub use ::cluster_client as cluster;
}

use crate::reexports::cluster::{Cluster, Error, cluster_client};

struct Client;

#[cluster_client(crate = crate::reexports::cluster, trait = Methods)]
impl Client {
    #[connect]
    async fn connect() -> Result<Self, Error> {
        Ok(Self)
    }

    #[invoke]
    async fn get(&self) -> Result<u8, Error> {
        Ok(1)
    }
}

fn main() {
    let _ = |client: Cluster<Client>| async move { Methods::get(&client).await };
}
