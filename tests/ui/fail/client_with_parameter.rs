use cluster_client::{Error, cluster_client};

struct Client<T>(T);

#[cluster_client]
impl Client<u8> {
    #[connect]
    async fn connect() -> Result<Self, Error> {
        Ok(Self(1))
    }

    #[invoke]
    async fn get(&self) -> Result<u8, Error> {
        Ok(1)
    }
}

fn main() {}
