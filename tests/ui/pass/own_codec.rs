//! A codec of the user's own, and the one that is not serde.

#![deny(warnings)]

mod codecs {
    use cluster_client::{Codec, Decode, Encode, Error, ErrorKind};

    pub struct Decimal;

    impl Codec for Decimal {
        const NAME: &'static str = "decimal";
    }

    impl Encode<u64> for Decimal {
        fn encode(value: &u64, out: &mut bytes::BytesMut) -> Result<(), Error> {
            out.extend_from_slice(value.to_string().as_bytes());
            Ok(())
        }
    }

    impl Decode<u64> for Decimal {
        fn decode(bytes: bytes::Bytes) -> Result<u64, Error> {
            let text = std::str::from_utf8(&bytes).ok();
            text.and_then(|text| text.parse().ok())
                .ok_or_else(|| Error::new(ErrorKind::Decode, "no number"))
        }
    }
}

use std::sync::Arc;

use cluster_client::{__private::ArgsWriter, ClusterClient, Error, cluster_client};
use futures::{Stream, stream};

struct Client;

#[cluster_client(codec = codecs::Decimal)]
impl Client {
    #[connect]
    async fn connect() -> Result<Self, Error> {
        Ok(Self)
    }

    #[invoke]
    async fn twice(&self, value: u64) -> Result<u64, Error> {
        Ok(2 * value)
    }
}

struct Messages;

#[cluster_client(codec = Protobuf)]
impl Messages {
    #[connect]
    async fn connect() -> Result<Self, Error> {
        Ok(Self)
    }

    #[subscribe]
    fn texts(&self, topic: &str, number: u64) -> impl Stream<Item = String> {
        stream::iter([format!("{topic}{number}")])
    }

    #[publish(key = (topic, number))]
    async fn put(&self, topic: &str, number: u64, bytes: &[u8]) -> Result<(), Error> {
        let _ = (topic, number, bytes);
        Ok(())
    }

    #[invoke]
    async fn get(&self, found: bool) -> Result<Vec<u8>, Error> {
        Ok(vec![found.into()])
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    assert_eq!(Client::SPEC.codec, "decimal");
    let args = ArgsWriter::new().arg::<codecs::Decimal, _>(&21_u64).finish().unwrap();
    let reply = Arc::new(Client).call(0, args).unwrap().await.unwrap();
    assert_eq!(&reply.into_bytes()[..], b"42");
    assert_eq!(Messages::SPEC.codec, "protobuf");
}
