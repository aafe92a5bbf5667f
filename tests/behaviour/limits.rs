//! What is large, and what is much.

use cluster_client::Options;

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
    let mut watch = user.watch("k");
    assert_eq!(soon("the value", watch.ready()).await.unwrap().len(), 300 << 10);
}
