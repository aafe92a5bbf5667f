use cluster_client::{Error, cluster_client};

#[cluster_client]
trait Client {
    fn get(&self) -> Result<u8, Error>;
}

fn main() {}
