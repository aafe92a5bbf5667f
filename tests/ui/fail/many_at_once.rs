use cluster_client::{Cluster, Error, cluster_client};

struct Client;

#[cluster_client(coded = Json)]
impl Client {
    #[connect]
    async fn connect() -> Result<Self, Error> {
        Ok(Self)
    }

    #[invoke]
    fn first(&self) -> Result<u8, Error> {
        Ok(1)
    }

    #[invoke(onewya)]
    async fn second(&self) {}

    #[subscribe]
    fn third(&mut self, _key: Option<&str>) -> u8 {
        1
    }

    #[invoke]
    async fn right(&self) -> Result<u8, Error> {
        Ok(1)
    }
}

// The method without a mistake is there: no error follows from the others.
async fn user(client: Cluster<Client>) -> Result<u8, Error> {
    client.right().await
}

fn main() {}
