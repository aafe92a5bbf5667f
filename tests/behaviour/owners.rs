//! What becomes of publications when their owner or the leader goes.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use cluster_client::{Cluster, Options};
use futures::FutureExt as _;

use crate::{
    actor::Actor,
    backend::Backend,
    client::{Registration, packed::Registry},
    support::{calm, follow, free_port, lead, next, port, until},
};

/// So long that no test waits for it.
const LONG: Duration = Duration::from_secs(600);

#[tokio::test]
async fn a_new_leader_is_told_the_latest_of_each_key_and_nothing_else() {
    let (backend, port) = (Backend::new(), free_port());
    let leader = lead::<Registry>(&backend, port, calm()).await;
    let user = follow::<Registry>(port, calm()).await;
    user.publish(Registration::new("k", "a")).await.unwrap();
    user.publish(Registration { weight: 2, ..Registration::new("k", "a") }).await.unwrap();
    user.publish(Registration::new("k", "b")).await.unwrap();
    user.unpublish(Registration::new("k", "b")).await.unwrap();
    backend.fail_publish.store(1, SeqCst);
    user.publish(Registration::new("k", "refused")).await.unwrap_err();
    Cluster::close(leader).await;
    assert_eq!(backend.log().last().unwrap(), "unpublish k=a#2", "it withdraws all");
    let backend = Backend::new();
    let _leader = lead::<Registry>(&backend, port, calm()).await;
    until("published again", || !backend.log().is_empty()).await;
    user.echo(Vec::new()).await.unwrap();
    assert_eq!(backend.log(), ["publish k=a#2"]);
}

#[tokio::test]
async fn a_publish_that_is_dropped_on_its_way_is_known_where_it_was_published() {
    let (backend, port) = (Backend::new(), free_port());
    let leader = lead::<Registry>(&backend, port, calm()).await;
    let user = follow::<Registry>(port, calm()).await;
    // One poll: it is queued and not yet written.
    assert!(user.publish(Registration::new("k", "a")).now_or_never().is_none());
    until("published", || backend.registered() == ["k=a#1"]).await;
    user.echo(Vec::new()).await.unwrap();
    Cluster::close(leader).await;
    let backend = Backend::new();
    let _leader = lead::<Registry>(&backend, port, calm()).await;
    until("published again", || backend.registered() == ["k=a#1"]).await;
    user.unpublish(Registration::new("k", "a")).await.unwrap();
}

#[tokio::test]
async fn a_failed_replay_is_tried_again_and_counted() {
    let (backend, port) = (Backend::new(), free_port());
    let leader = lead::<Registry>(&backend, port, calm()).await;
    let user = follow::<Registry>(port, calm()).await;
    user.publish(Registration::new("k", "a")).await.unwrap();
    Cluster::close(leader).await;
    let backend = Backend::new();
    backend.fail_publish.store(3, SeqCst);
    let _leader = lead::<Registry>(&backend, port, calm()).await;
    until("published again", || backend.registered() == ["k=a#1"]).await;
    assert_eq!(Cluster::replay_failures(&user), 3);
    assert_eq!(backend.log().len(), 4);
}

#[tokio::test]
async fn what_a_killed_owner_published_is_withdrawn_after_the_grace() {
    let backend = Backend::new();
    let leader = lead::<Registry>(&backend, 0, calm()).await;
    let mut owner = Actor::follow(port(&leader)).await;
    assert_eq!(owner.ask("publish k a").await, "done");
    let killed = std::time::Instant::now();
    owner.kill();
    until("noticed", || Cluster::stats(&leader).unwrap().followers == 1).await;
    assert_eq!(backend.registered(), ["k=a#1"], "kept for the grace");
    until("withdrawn", || backend.registered().is_empty()).await;
    assert!(killed.elapsed() >= calm().grace, "after {:?}", killed.elapsed());
    assert_eq!(backend.log(), ["publish k=a#1", "unpublish k=a#1"]);
    until("forgotten", || Cluster::stats(&leader).unwrap().publications == 0).await;
}

#[tokio::test]
async fn a_process_that_is_started_again_within_the_grace_takes_over() {
    let backend = Backend::new();
    let leader = lead::<Registry>(&backend, 0, calm()).await;
    let mut owner = Actor::follow(port(&leader)).await;
    owner.ask("publish k a").await;
    owner.kill();
    let again = follow::<Registry>(port(&leader), calm()).await;
    again.publish(Registration::new("k", "a")).await.unwrap();
    until("the first owner is forgotten", || Cluster::stats(&leader).unwrap().followers == 2).await;
    tokio::time::sleep(calm().grace * 2).await;
    assert_eq!(backend.log(), ["publish k=a#1"], "an equal value adds an owner and no call");
    Cluster::close(again).await;
    until("withdrawn", || backend.registered().is_empty()).await;
}

#[tokio::test]
async fn an_owner_that_comes_back_within_the_grace_keeps_what_it_published() {
    let backend = Backend::new();
    let options = Options { drop_after: calm().stale_after, grace: LONG, ..calm() };
    let leader = lead::<Registry>(&backend, 0, options).await;
    let mut owner = Actor::follow(port(&leader)).await;
    owner.ask("publish k a").await;
    owner.freeze();
    until("dropped", || Cluster::stats(&leader).unwrap().followers == 1).await;
    owner.thaw();
    until("back", || Cluster::stats(&leader).unwrap().followers == 2).await;
    assert_eq!(owner.ask("echo x").await, "x");
    assert_eq!(backend.log(), ["publish k=a#1"]);
}

#[tokio::test]
async fn a_clean_close_withdraws_at_once() {
    let backend = Backend::new();
    let leader = lead::<Registry>(&backend, 0, Options { grace: LONG, ..calm() }).await;
    let closed = follow::<Registry>(port(&leader), calm()).await;
    closed.publish(Registration::new("k", "a")).await.unwrap();
    Cluster::close(closed).await;
    until("withdrawn", || backend.registered().is_empty()).await;
    let dropped = follow::<Registry>(port(&leader), calm()).await;
    dropped.publish(Registration::new("k", "b")).await.unwrap();
    drop(dropped);
    until("withdrawn", || backend.registered().is_empty()).await;
}

#[tokio::test]
async fn of_two_owners_the_last_one_counts() {
    let backend = Backend::new();
    let leader = lead::<Registry>(&backend, 0, Options { grace: LONG, ..calm() }).await;
    let first = follow::<Registry>(port(&leader), calm()).await;
    let second = follow::<Registry>(port(&leader), calm()).await;
    first.publish(Registration::new("k", "a")).await.unwrap();
    second.publish(Registration::new("k", "a")).await.unwrap();
    assert_eq!(backend.log(), ["publish k=a#1"]);
    Cluster::close(first).await;
    until("gone", || Cluster::stats(&leader).unwrap().followers == 2).await;
    second.echo(Vec::new()).await.unwrap();
    assert_eq!(backend.log(), ["publish k=a#1"]);
    Cluster::close(second).await;
    until("withdrawn", || backend.log() == ["publish k=a#1", "unpublish k=a#1"]).await;
}

#[tokio::test]
async fn publications_and_subscriptions_of_a_killed_leader_are_whole_without_a_call() {
    let port = free_port();
    let mut leader = Actor::lead(port).await;
    leader.ask("set k v").await;
    let user = follow::<Registry>(port, calm()).await;
    user.publish(Registration::new("k", "a")).await.unwrap();
    let mut watch = user.watch("k");
    assert_eq!(next(&mut watch).await, "v");
    leader.kill();
    assert_eq!(next(&mut watch).await, "stale disconnected");
    let mut leader = Actor::lead(port).await;
    leader.ask("set k w").await;
    assert_eq!(next(&mut watch).await, "w");
    user.echo(Vec::new()).await.unwrap();
    assert_eq!(leader.ask("log").await, "publish k=a#1");
}
