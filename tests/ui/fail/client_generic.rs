use cluster_client::{Error, cluster_client};

struct Client<T>(T);

#[cluster_client]
impl<T> Client<T> {
    #[connect]
    async fn connect(value: T) -> Result<Self, Error> {
        Ok(Self(value))
    }

    #[invoke]
    async fn get(&self) -> Result<u8, Error> {
        Ok(1)
    }
}

fn main() {}
