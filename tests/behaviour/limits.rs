//! What is large, and what is much.

use cluster_client::{Cluster, Error, ErrorKind, Health, Options, Role, cluster_client};
use futures::{Stream, StreamExt as _, stream};

use crate::{
    backend::Backend,
    client::{RegistryError, packed::Registry},
    support::{follow, lead, options, port, soon},
};

#[tokio::test]
async fn refused_subscriptions_leave_nothing_behind() {
    let few = Options { max_subscriptions: 4, ..options() };
    let leader = lead::<Registry>(&Backend::new(), 0, few.clone()).await;
    let user = follow::<Registry>(port(&leader), few).await;
    for _ in 0..20 {
        let refused = user.watch_known("nope".to_owned()).await.unwrap_err();
        assert_eq!(refused, RegistryError::NotFound { key: "nope".to_owned() });
    }
}

#[tokio::test]
async fn many_large_values_and_answers_go_through_a_narrow_link() {
    const LARGE: usize = 600 << 10;
    let narrow = Options { max_payload: 1 << 20, max_queued: 2 << 20, ..options() };
    let backend = Backend::new();
    let leader = lead::<Registry>(&backend, 0, narrow.clone()).await;
    let user = follow::<Registry>(port(&leader), narrow).await;
    let keys: Vec<String> = (0..20).map(|key| format!("key {key}")).collect();
    for key in &keys {
        backend.set(key, &key.repeat(LARGE / key.len()));
    }
    let mut topics: Vec<_> = keys.iter().map(|key| user.watch(key)).collect();
    for (topic, key) in topics.iter_mut().zip(&keys) {
        let value = soon("a large value", topic.ready()).await.unwrap();
        assert!(value.starts_with(key.as_str()));
        assert_eq!(user.echo(vec![1; LARGE / 8]).await.unwrap().len(), LARGE / 8);
    }
}

#[tokio::test]
async fn a_follower_takes_what_its_leader_may_send() {
    let backend = Backend::new();
    backend.set("k", &"v".repeat(300 << 10));
    let leader = lead::<Registry>(&backend, 0, options()).await;
    let small = Options { max_payload: 100 << 10, max_queued: 100 << 10, ..options() };
    let user = follow::<Registry>(port(&leader), small).await;
    let watch = user.watch("k");
    assert_eq!(soon("the value", watch.ready()).await.unwrap().len(), 300 << 10);
}

/// Panics when it is decoded, if it is told to.
#[derive(Clone, PartialEq, Eq, Hash, serde::Serialize)]
struct Fragile(bool);

impl<'de> serde::Deserialize<'de> for Fragile {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let panics = bool::deserialize(deserializer)?;
        assert!(!panics, "asked to");
        Ok(Self(panics))
    }
}

struct Shelf;

#[cluster_client(name = "shelf")]
impl Shelf {
    /// Ends while the upstream is lost.
    #[health]
    fn health(&self) -> impl Stream<Item = Health> {
        stream::iter([Health::Lost("for good".to_owned())])
    }

    #[subscribe]
    fn count(&self) -> impl Stream<Item = u32> {
        stream::iter([1]).chain(stream::pending())
    }

    #[connect]
    async fn connect() -> Result<Self, Error> {
        Ok(Self)
    }

    #[invoke]
    async fn look(&self, item: Fragile) -> Result<bool, Error> {
        Ok(item.0)
    }

    #[publish]
    async fn put(&self, _item: Fragile) -> Result<(), Error> {
        Ok(())
    }
}

#[tokio::test]
async fn arguments_that_panic_in_the_leader_fail_alone() {
    let shelf = Cluster::<Shelf>::builder().role(Role::Single).create(()).await.unwrap();
    for _ in 0..2 {
        let looked = soon("the call", shelf.look(Fragile(true))).await;
        assert_eq!(looked.unwrap_err().kind(), ErrorKind::Panicked);
        let put = soon("the publication", shelf.put(Fragile(true))).await;
        assert_eq!(put.unwrap_err().kind(), ErrorKind::Panicked);
        assert_eq!(soon("the call", shelf.look(Fragile(false))).await.ok(), Some(false));
        assert_eq!(soon("the publication", shelf.put(Fragile(false))).await.ok(), Some(()));
    }
}

#[tokio::test]
async fn an_end_of_the_health_reports_keeps_nothing_stale() {
    let builder = Cluster::<Shelf>::builder().role(Role::Single).channel("ending");
    let shelf = builder.create(()).await.unwrap();
    let count = shelf.count();
    assert_eq!(*soon("the count", count.ready()).await.unwrap(), 1);
}

#[tokio::test]
async fn a_leader_takes_no_more_topics_than_its_bound() {
    let backend = Backend::new();
    backend.set("a", "1");
    let options = Options { max_topics: 1, ..options() };
    let leader = lead::<Registry>(&backend, 0, options.clone()).await;
    let user = follow::<Registry>(port(&leader), options).await;
    let mut first = user.watch("a");
    assert_eq!(crate::support::next(&mut first).await, "1");
    assert_eq!(crate::support::next(&mut user.watch("b")).await, "closed overloaded");
    let mut again = leader.watch("a");
    assert_eq!(crate::support::next(&mut again).await, "1", "a known key is no new topic");
}
