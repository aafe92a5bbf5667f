//! A codec of the user's own.

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

#[tokio::main(flavor = "current_thread")]
async fn main() {
    assert_eq!(Client::SPEC.codec, "decimal");
    let args = ArgsWriter::new().arg::<codecs::Decimal, _>(&21_u64).finish().unwrap();
    let reply = Arc::new(Client).call(0, args).unwrap().await.unwrap();
    assert_eq!(&reply[..], b"42");
}
