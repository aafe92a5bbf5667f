//! A method that is configured out leaves the numbers of the others right.

#![deny(warnings)]

use cluster_client::{
    __private::{ArgsReader, ArgsWriter, Bytes, MessagePack, MethodKind},
    ClusterClient, Error, cluster_client,
};
use futures::{Stream, stream};

struct Client;

#[cfg(true)]
#[cluster_client(trait = Methods)]
impl Client {
    #[connect]
    async fn connect() -> Result<Self, Error> {
        Ok(Self)
    }

    #[cfg(false)]
    #[subscribe]
    fn gone(&self, missing: Missing) -> impl Stream<Item = Missing> {
        stream::pending()
    }

    #[cfg(true)]
    #[subscribe]
    fn values(&self, id: u64) -> impl Stream<Item = u64> {
        stream::iter([id])
    }

    #[publish(key = key)]
    async fn put(&self, key: u64, value: u64) -> Result<(), Error> {
        let _ = (key, value);
        Ok(())
    }

    #[cfg(false)]
    #[unpublish(of = "put")]
    async fn remove(&self, key: u64, value: u64) -> Result<(), Error> {
        Ok(())
    }

    #[cfg(false)]
    #[publish]
    async fn no_set(&self, value: u64) -> Result<(), Error> {
        Ok(())
    }

    #[unpublish(of = "no_set")]
    async fn reset(&self, value: u64) -> Result<(), Error> {
        let _ = value;
        Ok(())
    }

    #[cfg(false)]
    #[invoke]
    async fn twice(&self) -> Result<Missing, Error> {
        Ok(Missing)
    }

    #[cfg(true)]
    #[invoke(share)]
    async fn twice(&self, value: u64) -> Result<u64, Error> {
        Ok(2 * value)
    }

    #[cfg(false)]
    #[health]
    fn health(&self) -> impl Stream<Item = Missing> {
        stream::pending()
    }

    #[cfg(false)]
    #[close]
    fn close(&self) {}
}

fn main() {
    let methods = Client::SPEC.methods;
    let names: Vec<_> = methods.iter().map(|method| method.name).collect();
    assert_eq!(names, ["values", "put", "twice"]);
    assert_eq!(methods[1].kind, MethodKind::Publish { unpublish: None });

    // The number of a method is its place, in `key` too.
    let args = ArgsWriter::new().arg::<MessagePack, _>(&5_u64).arg::<MessagePack, _>(&7_u64);
    let key: Bytes = Client::key(1, args.finish().unwrap()).unwrap();
    let mut key = ArgsReader::new(key);
    assert_eq!(key.arg::<MessagePack, u64>().unwrap(), 5);
    assert!(key.finish().is_ok());
    assert!(Client::key(3, Bytes::new()).is_err());
    drop(Client.reset(1));
}
