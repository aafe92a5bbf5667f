//! A client that only its module and crate see, with types that are as private.

#![deny(warnings)]

mod inner {
    use cluster_client::{Cluster, Error, cluster_client};
    use futures::{Stream, stream};
    use serde::{Deserialize, Serialize};

    #[derive(Clone)]
    pub(super) struct Options;

    #[derive(PartialEq, Eq, Hash, Serialize, Deserialize)]
    struct Key;

    #[derive(Serialize, Deserialize)]
    pub(in crate::inner) struct Value;

    pub(super) struct Client;

    #[cluster_client(trait = Methods)]
    impl Client {
        #[connect]
        async fn connect(_options: Options) -> Result<Self, Error> {
            Ok(Self)
        }

        #[subscribe]
        fn values(&self, _key: Key) -> impl Stream<Item = Value> {
            stream::pending()
        }

        #[invoke]
        pub(super) async fn get(&self) -> Result<u8, Error> {
            Ok(1)
        }
    }

    pub(super) async fn user(client: Cluster<Client>) -> Result<u8, Error> {
        drop(client.values(Key));
        Methods::get(&client).await
    }
}

fn main() {
    let _ = inner::user;
    let _ = |client: cluster_client::Cluster<inner::Client>| async move { client.get().await };
    let _ = inner::Options;
}
