use cluster_client::{Error, cluster_client};

#[derive(Clone)]
struct Options;

pub struct Client;

#[cluster_client]
impl Client {
    #[connect]
    async fn connect(options: Options) -> Result<Self, Error> {
        drop(options);
        Ok(Self)
    }

    #[invoke]
    async fn get(&self) -> Result<u8, Error> {
        Ok(1)
    }
}

fn main() {}
