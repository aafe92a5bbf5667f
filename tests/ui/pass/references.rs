//! References are decoded to owned values, and the proxy takes references too.

#![deny(warnings)]

use std::{borrow::Cow, collections::BTreeMap};

use cluster_client::{Cluster, Error, cluster_client};
use futures::{Stream, stream};
use serde::{Deserialize, Serialize};

#[derive(PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Filter {
    name: String,
}

struct Client;

#[cluster_client]
impl Client {
    #[connect]
    async fn connect(address: &str, labels: &[String]) -> Result<Self, Error> {
        let _ = (address.len(), labels.len());
        Ok(Self)
    }

    #[subscribe]
    fn rows(&self, table: &str, columns: &[String], filter: &Filter) -> impl Stream<Item = u64> {
        stream::iter([table.len() as u64, columns.len() as u64, filter.name.len() as u64])
    }

    #[publish(key = (&filter.name, columns))]
    async fn put(&self, filter: &Filter, columns: &[u8]) -> Result<(), Error> {
        let _ = (filter.name.len(), columns.len());
        Ok(())
    }

    #[publish]
    async fn name(&self, id: &[u8], name: Cow<'_, str>) -> Result<(), Error> {
        let _ = (id.len(), name.len());
        Ok(())
    }

    #[unpublish(of = "name")]
    async fn unname(&self, id: Vec<u8>, name: Cow<'static, str>) -> Result<(), Error> {
        let _ = (id.len(), name.len());
        Ok(())
    }

    #[invoke(share)]
    async fn map(&self, map: &BTreeMap<String, u64>) -> Result<u64, Error> {
        Ok(map.len() as u64)
    }

    #[invoke]
    async fn text(&self, text: Cow<'static, str>, other: Cow<'_, str>) -> Result<(), Error> {
        let _ = (text.len(), other.len());
        Ok(())
    }

    #[expect(clippy::needless_arbitrary_self_type, reason = "the long form of `&self`")]
    #[invoke]
    async fn array(self: &Self, array: &[u8; 4]) -> Result<[u8; 4], Error> {
        Ok(*array)
    }
}

async fn user(client: Cluster<Client>) -> Result<(), Error> {
    let (name, columns) = (String::from("a"), vec![String::from("b")]);
    let filter = Filter { name: name.clone() };
    drop(client.rows(&name, &columns, &filter));
    client.put(&filter, b"ab").await?;
    client.name(b"ab", Cow::Borrowed(&name)).await?;
    client.unname(vec![1], Cow::Borrowed("a")).await?;
    client.map(&BTreeMap::from([(name.clone(), 1)])).await?;
    client.text(Cow::Borrowed("a"), Cow::Borrowed(&name)).await?;
    client.array(&[1, 2, 3, 4]).await?;
    Ok(())
}

fn main() {
    let _ = user;
}
