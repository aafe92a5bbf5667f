use cluster_client::{Error, cluster_client};

struct Client;

#[cluster_client]
impl Client {
    #[connect]
    async fn connect() -> Result<Self, Error> {
        Ok(Self)
    }

    #[invoke]
    async fn set(&self) -> Result<(), Error>
    where
        Self: Sized,
    {
        Ok(())
    }
}

fn main() {}
