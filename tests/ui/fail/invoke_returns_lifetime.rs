use std::borrow::Cow;

use cluster_client::{Error, cluster_client};

struct Client;

#[cluster_client]
impl Client {
    #[connect]
    async fn connect() -> Result<Self, Error> {
        Ok(Self)
    }

    #[invoke]
    async fn name(&self) -> Result<Cow<'_, str>, Error> {
        Ok(Cow::Borrowed("a"))
    }
}

fn main() {}
