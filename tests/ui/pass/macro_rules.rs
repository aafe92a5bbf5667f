//! The whole block may come out of a macro, with names and types from both sides.

#![deny(warnings)]

use cluster_client::{Cluster, Error, cluster_client};
use futures::{Stream, stream};

macro_rules! client {
    ($name:ident, $ty:ty, $method:ident($arg:ident: $arg_ty:ty) -> $out:ty) => {
        struct $name;

        #[cluster_client(trait = Methods)]
        impl $ty {
            #[connect]
            async fn connect(first: $arg_ty, second: &$arg_ty) -> Result<Self, Error> {
                let _ = (first, second);
                Ok(Self)
            }

            #[subscribe]
            fn values(&self, key: &$arg_ty) -> impl Stream<Item = Result<$out, Error>> {
                let _ = key;
                stream::pending()
            }

            #[publish(key = (&$arg, key))]
            async fn put(&self, $arg: $arg_ty, key: u64) -> Result<(), Error> {
                let _ = ($arg, key);
                Ok(())
            }

            #[unpublish]
            async fn remove(&self, $arg: $arg_ty, key: u64) -> Result<(), Error> {
                let _ = ($arg, key);
                Ok(())
            }

            #[invoke(share)]
            async fn $method(&self, $arg: $arg_ty, other: &str) -> Result<$out, Error> {
                let _ = ($arg, other);
                Ok(Default::default())
            }
        }
    };
}

client!(Client, Client, get(id: u32) -> Option<String>);

macro_rules! texts {
    ($text:ty) => {
        #[cluster_client]
        impl Texts {
            #[connect]
            async fn connect() -> Result<Self, Error> {
                Ok(Self)
            }

            #[invoke]
            async fn len(&self, text: &$text) -> Result<usize, Error> {
                Ok(text.len())
            }
        }
    };
}

struct Texts;
texts!(str);

async fn user(client: Cluster<Client>, texts: Cluster<Texts>) -> Result<usize, Error> {
    client.put(1, 2).await?;
    client.remove(1, 2).await?;
    let _: Option<String> = Methods::get(&client, 1, "a").await?;
    drop(client.values(&1));
    texts.len("a").await
}

fn main() {
    let _ = user;
}
