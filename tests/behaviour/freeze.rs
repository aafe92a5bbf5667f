//! Processes that are stopped, blocked or killed while there is much to say.

use std::time::{Duration, Instant};

use cluster_client::{Cluster, Options, State};

use crate::{
    actor::Actor,
    backend::Backend,
    client::packed::Registry,
    support::{calm, follow, free_port, lead, next, port, soon, until},
};

/// How much later than its bound a state may be told on a busy machine.
const SLACK: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_frozen_leader_is_silent_within_the_bound_and_live_again_on_the_same_link() {
    let port = free_port();
    let mut leader = Actor::lead(port).await;
    leader.ask("set k v").await;
    let user = follow::<Registry>(port, calm()).await;
    let mut watch = user.watch("k");
    assert_eq!(next(&mut watch).await, "v");
    let frozen = Instant::now();
    leader.freeze();
    assert_eq!(next(&mut watch).await, "stale leader_silent");
    let bound = calm().stale_after + SLACK;
    assert!(frozen.elapsed() < bound, "told after {:?}", frozen.elapsed());
    assert_eq!(watch.current().as_deref().map(String::as_str), Some("v"));
    assert!(Cluster::down(&user).is_none(), "nothing is closed");
    leader.thaw();
    assert_eq!(next(&mut watch).await, "live v");
    leader.ask("set k w").await;
    assert_eq!(next(&mut watch).await, "w");
    assert!(Cluster::down(&user).is_none());
}

#[tokio::test]
async fn a_blocked_runtime_of_the_leader_is_told_as_such() {
    let port = free_port();
    let mut leader = Actor::lead(port).await;
    leader.ask("set k v").await;
    let user = follow::<Registry>(port, calm()).await;
    let mut watch = user.watch("k");
    assert_eq!(next(&mut watch).await, "v");
    leader.tell("block 2500");
    assert_eq!(next(&mut watch).await, "stale leader_blocked");
    assert_eq!(leader.reply().await, "done");
    assert_eq!(next(&mut watch).await, "live v");
    assert!(Cluster::down(&user).is_none());
}

#[tokio::test]
async fn a_follower_that_was_frozen_reads_before_it_judges() {
    let backend = Backend::new();
    backend.set("k", "v");
    let leader = lead::<Registry>(&backend, 0, calm()).await;
    let mut follower = Actor::follow(port(&leader)).await;
    follower.ask("watch k").await;
    assert_eq!(follower.event().await, "v");
    // So that it waits for a change when it is frozen. A reader that asks first thing after the
    // thaw is told the truth, that nothing was heard for long.
    assert_eq!(follower.ask("echo x").await, "x");
    follower.freeze();
    // This is how long it is frozen, not a wait for something.
    tokio::time::sleep(calm().stale_after * 3).await;
    follower.thaw();
    assert_eq!(follower.ask("echo x").await, "x");
    backend.set("k", "w");
    assert_eq!(follower.event().await, "w", "and no stale before it");
}

#[tokio::test]
async fn a_leader_that_was_blocked_keeps_its_followers() {
    let port = free_port();
    let drop_after = Duration::from_millis(1_200);
    let mut leader = Actor::ready("lead", port, drop_after).await;
    leader.ask("set k v").await;
    let user = follow::<Registry>(port, calm()).await;
    let mut watch = user.watch("k");
    assert_eq!(next(&mut watch).await, "v");
    // Longer than the time after which it drops a link that says nothing: it reads first.
    leader.tell("block 2500");
    assert_eq!(next(&mut watch).await, "stale leader_blocked");
    assert_eq!(leader.reply().await, "done");
    assert_eq!(next(&mut watch).await, "live v");
    assert!(Cluster::down(&user).is_none());
}

#[tokio::test]
async fn a_link_that_is_silent_for_too_long_is_given_up_and_dialled_again() {
    let port = free_port();
    let leader = Actor::lead(port).await;
    let drop_after = Duration::from_millis(1_500);
    let user = follow::<Registry>(port, Options { drop_after, ..calm() }).await;
    let mut watch = user.watch("k");
    leader.freeze();
    until("given up", || Cluster::down(&user).is_some()).await;
    assert!(matches!(watch.state(), State::Starting { cause: Some(_), .. }));
    leader.thaw();
    until("up again", || Cluster::down(&user).is_none()).await;
    assert_eq!(soon("a call", user.echo(vec![1])).await, Ok(vec![1]));
    drop(watch.changed());
}

#[tokio::test]
async fn a_stopped_follower_delays_nobody_and_costs_bounded_memory() {
    let port = free_port();
    let mut leader = Actor::lead(port).await;
    let mut stopped = Actor::follow(port).await;
    stopped.ask("hold k").await;
    stopped.ask("echo x").await;
    let user = follow::<Registry>(port, calm()).await;
    let mut watch = user.watch("k");
    leader.ask("flood k 10 100000").await;
    stopped.freeze();
    let before = leader.resident();
    let read = async {
        let mut values = 0;
        loop {
            if next(&mut watch).await.starts_with("499") {
                return values;
            }
            values += 1;
        }
    };
    // 50 MB, of which the stopped follower reads nothing.
    let flood = async {
        let start = Instant::now();
        leader.tell("flood k 500 100000");
        leader.reply().await;
        start.elapsed()
    };
    let (values, took) = soon("the flood", async { tokio::join!(read, flood) }).await;
    assert!(took < Duration::from_secs(8), "{took:?}");
    assert!(values > 0);
    assert_eq!(soon("a call", user.echo(vec![1])).await, Ok(vec![1]));
    let grown = leader.resident().saturating_sub(before);
    assert!(grown < 20 << 10, "the leader grew by {grown} KiB");
    stopped.thaw();
    assert_eq!(stopped.ask("echo x").await, "x");
}

#[tokio::test]
async fn a_follower_killed_with_unread_data_is_one_peer_less_and_nothing_else() {
    let backend = Backend::new();
    let leader = lead::<Registry>(&backend, 0, calm()).await;
    let mut killed = Actor::follow(port(&leader)).await;
    killed.ask("hold k").await;
    killed.ask("echo x").await;
    until("subscribed", || backend.open_streams("k") == 1).await;
    killed.freeze();
    for number in 0..20 {
        backend.set("k", &format!("{number}{}", "x".repeat(200_000)));
        tokio::task::yield_now().await;
    }
    let other = follow::<Registry>(port(&leader), calm()).await;
    let mut watch = other.watch("k");
    assert!(next(&mut watch).await.starts_with("19x"));
    assert_eq!(Cluster::stats(&leader).unwrap().followers, 3);
    killed.kill();
    until("gone", || Cluster::stats(&leader).unwrap().followers == 2).await;
    assert_eq!(other.echo(vec![1]).await, Ok(vec![1]));
    let stats = Cluster::stats(&leader).unwrap();
    assert_eq!((stats.panics, stats.late), (0, 0));
}
