use cluster_client::{Error, cluster_client};

struct Value;

struct Client;

#[cluster_client]
impl Client {
    #[connect]
    async fn connect() -> Result<Self, Error> {
        Ok(Self)
    }

    #[invoke]
    async fn get(&self) -> Result<Value, Error> {
        Ok(Value)
    }
}

fn main() {}
