use cluster_client::{Error, cluster_client};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Registration {
    name: String,
    weight: f64,
}

struct Client;

#[cluster_client]
impl Client {
    #[connect]
    async fn connect() -> Result<Self, Error> {
        Ok(Self)
    }

    #[publish(key = (&reg.name, reg.weight))]
    async fn put(&self, reg: Registration) -> Result<(), Error> {
        drop(reg);
        Ok(())
    }
}

fn main() {}
