//! Generated code depends on no name in scope, and takes none from the arguments.

#![deny(warnings)]
#![allow(dead_code, unused_macros)]

mod client {
    use ::cluster_client::{Error, cluster_client};
    use ::futures::{Stream, stream};

    // What generated code would name if it were careless.
    mod core {}
    mod std {}
    mod cluster_client {}
    struct Option;
    struct Result;
    struct String;
    struct Vec;
    struct Box;
    struct Bytes;
    struct Send;
    struct Arc;
    struct Some;
    struct None;
    struct Ok;
    struct Err;
    struct Method;
    struct Codec;
    trait Clone {}
    trait Future {}
    trait Outcome {}
    macro_rules! vec {
        () => {};
    }
    macro_rules! format {
        () => {};
    }
    macro_rules! matches {
        () => {};
    }

    type Answer<T> = ::std::result::Result<T, Error>;

    pub struct Client(u64);

    #[cluster_client(trait = pub Methods)]
    impl Client {
        #[connect]
        async fn connect(options: u64, error: u64) -> Answer<Self> {
            ::std::result::Result::Ok(Self(options + error))
        }

        #[subscribe]
        fn open(&self, sink: u64, args: u64, method: u64) -> impl Stream<Item = u64> {
            stream::iter([sink, args, method])
        }

        #[subscribe]
        async fn key(&self, stream: u64, failure: u64) -> Answer<impl Stream<Item = u64>> {
            ::std::result::Result::Ok(stream::iter([stream, failure]))
        }

        #[publish(key = (args, key, reply))]
        async fn proxy(&self, key: u64, args: u64, reply: u64) -> Answer<()> {
            let _ = (key, args, reply);
            ::std::result::Result::Ok(())
        }

        #[invoke(share)]
        async fn call(&self, result: u64, core: u64, index: u64) -> Answer<u64> {
            ::std::result::Result::Ok(result + core + index + self.0)
        }

        #[invoke]
        async fn r#type(&self, r#match: u64) -> Answer<u64> {
            ::std::result::Result::Ok(r#match)
        }

        #[invoke(oneway)]
        async fn fmt(&self, f: u64, this: u64) {
            let _ = (f, this);
        }

        #[invoke]
        async fn clone(&self) -> Answer<u64> {
            ::std::result::Result::Ok(self.0)
        }

        #[close]
        async fn close(&self) {}
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    use cluster_client::{
        __private::{ArgsWriter, MessagePack},
        ClusterClient,
    };

    let client = <client::Client as ClusterClient>::connect((1, 2)).await;
    let client = std::sync::Arc::new(client.unwrap_or_else(|_| unreachable!()));
    let names: Vec<_> =
        <client::Client as ClusterClient>::SPEC.methods.iter().map(|method| method.name).collect();
    assert_eq!(names, ["open", "key", "proxy", "call", "type", "fmt", "clone"]);
    let args = [10_u64, 20, 30]
        .iter()
        .fold(ArgsWriter::new(), |args, number| args.arg::<MessagePack, _>(number));
    let args = args.finish().unwrap();
    // The trait's `call`, which calls the client's own `call`.
    let reply = ClusterClient::call(client, 3, args).unwrap().await.unwrap();
    assert_eq!(rmp_serde::from_slice::<u64>(&reply.into_bytes()).unwrap(), 63);
}
