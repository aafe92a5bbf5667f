//! The leader calls the client with bytes, and gives back bytes.

#![deny(warnings)]

use std::sync::Arc;

use cluster_client::{
    __private::{ArgsReader, ArgsWriter, Bytes, Failure, MessagePack, MethodKind},
    ClusterClient, Error, ErrorCode, ErrorKind, cluster_client,
};
use serde::{Deserialize, Serialize};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum ShopError {
    SoldOut { article: String },
    Link(String),
}

impl From<Error> for ShopError {
    fn from(error: Error) -> Self {
        Self::Link(error.to_string())
    }
}

impl std::fmt::Display for ShopError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self:?}")
    }
}

impl std::error::Error for ShopError {}

impl ErrorCode for ShopError {
    fn code(&self) -> String {
        "SHOP".to_owned()
    }
}

#[derive(Debug)]
struct Shop {
    name: String,
}

#[cluster_client(name = "the shop")]
impl Shop {
    #[connect]
    async fn connect(name: &str, number: u64) -> Result<Self, ShopError> {
        if number == 0 {
            return Err(ShopError::Link("zero".to_owned()));
        }
        Ok(Self { name: format!("{name}{number}") })
    }

    #[invoke(idempotent, timeout = "1500ms", version = 4)]
    async fn buy(&self, articles: &[String], mut count: u32) -> Result<String, ShopError> {
        count += 1;
        match articles.first() {
            None => Ok(format!("{} {count}", self.name)),
            Some(article) => Err(ShopError::SoldOut { article: article.clone() }),
        }
    }

    #[invoke(oneway)]
    fn ring(&self) {}

    #[publish(key = (article, *count + 1, "shelf"))]
    async fn offer(&self, article: &str, count: &u32) -> Result<(), ShopError> {
        let _ = (article, count);
        Ok(())
    }

    #[unpublish]
    async fn withdraw(&self, article: &str, count: &u32) -> Result<(), ShopError> {
        let _ = (article, count);
        Ok(())
    }
}

fn args<A: Serialize + ?Sized>(first: &A, second: u32) -> Bytes {
    let args = ArgsWriter::new().arg::<MessagePack, _>(first).arg::<MessagePack, _>(&second);
    args.finish().unwrap()
}

async fn call(shop: &Arc<Shop>, method: usize, args: Bytes) -> Result<Bytes, Failure> {
    let reply = Arc::clone(shop).call(method, args).unwrap().await;
    reply.map(|reply| reply.into_bytes())
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let spec = Shop::SPEC;
    assert_eq!((spec.name, spec.codec, spec.methods.len()), ("the shop", "messagepack", 4));
    let buy = &spec.methods[0];
    assert_eq!((buy.name, buy.args, buy.version), ("buy", 2, 4));
    assert_eq!(buy.timeout, Some(std::time::Duration::from_millis(1500)));
    assert_eq!(buy.kind, MethodKind::Invoke { oneway: false, idempotent: true, share: false });
    assert_eq!(spec.methods[2].kind, MethodKind::Publish { unpublish: Some(3) });
    assert_eq!(spec.methods[3].kind, MethodKind::Unpublish { publish: 2 });

    let refused = <Shop as ClusterClient>::connect(("s".to_owned(), 0)).await.unwrap_err();
    assert_eq!(refused.into_error().code(), Some("SHOP"));
    let shop = Arc::new(<Shop as ClusterClient>::connect(("s".to_owned(), 1)).await.unwrap());

    let none: &[String] = &[];
    let reply = call(&shop, 0, args(none, 2)).await.unwrap();
    assert_eq!(rmp_serde::from_slice::<String>(&reply).unwrap(), "s1 3");

    let some: &[String] = &["bread".to_owned()];
    let Err(Failure::Client(error, Some(value))) = call(&shop, 0, args(some, 2)).await else {
        panic!("the error is the client's, with its value");
    };
    assert_eq!((error.name(), error.code()), (Some("ShopError"), Some("SHOP")));
    let value: ShopError = rmp_serde::from_slice(&value).unwrap();
    assert_eq!(value, ShopError::SoldOut { article: "bread".to_owned() });

    assert!(call(&shop, 1, Bytes::new()).await.is_ok());
    let wrong = Arc::clone(&shop).call(0, Bytes::from_static(b"garbage")).err().unwrap();
    assert_eq!(wrong.kind(), ErrorKind::MethodMismatch);
    let unknown = Arc::clone(&shop).call(4, Bytes::new()).err().unwrap();
    assert_eq!(unknown.kind(), ErrorKind::MethodMismatch);

    // The key of both is taken from the arguments as the publish method sees them.
    let key = Shop::key(2, args("bread", 2)).unwrap();
    assert_eq!(key, Shop::key(3, args("bread", 2)).unwrap());
    let mut key = ArgsReader::new(key);
    assert_eq!(key.arg::<MessagePack, String>().unwrap(), "bread");
    assert_eq!(key.arg::<MessagePack, u32>().unwrap(), 3);
    assert_eq!(key.arg::<MessagePack, String>().unwrap(), "shelf");
    assert!(key.finish().is_ok());
}
