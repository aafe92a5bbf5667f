//! What subscribers are shown when the leader goes and comes back.

use std::{
    sync::{Arc, atomic::Ordering::SeqCst},
    thread::JoinHandle,
};

use cluster_client::{Change, Cluster, Role, State};
use tokio::sync::{mpsc, oneshot};

use crate::{
    actor::Actor,
    backend::{Backend, Step},
    client::packed::Registry,
    support::{TOKEN, calm, follow, free_port, lead, next, next_value, soon, until},
};

#[tokio::test]
async fn the_same_value_of_a_new_leader_wakes_with_live_alone() {
    let (backend, port) = (Backend::new(), free_port());
    backend.set("k", "v");
    let leader = lead::<Registry>(&backend, port, calm()).await;
    let user = follow::<Registry>(port, calm()).await;
    let mut watch = user.watch("k");
    assert_eq!(next(&mut watch).await, "v");
    Cluster::close(leader).await;
    assert_eq!(next(&mut watch).await, "stale disconnected");
    assert!(matches!(watch.state(), State::Stale { .. }));
    assert_eq!(watch.current().as_deref().map(String::as_str), Some("v"));
    assert!(Cluster::down(&user).is_some());
    let _leader = lead::<Registry>(&backend, port, calm()).await;
    assert_eq!(next(&mut watch).await, "live v");
    assert!(matches!(watch.state(), State::Live));
    assert!(Cluster::down(&user).is_none());
    backend.set("k", "w");
    assert_eq!(next(&mut watch).await, "w");
}

#[tokio::test]
async fn another_value_of_a_new_leader_comes_as_a_value() {
    let (backend, port) = (Backend::new(), free_port());
    backend.set("k", "v");
    let leader = lead::<Registry>(&backend, port, calm()).await;
    let user = follow::<Registry>(port, calm()).await;
    let mut watch = user.watch("k");
    assert_eq!(next(&mut watch).await, "v");
    // Dropped instead of closed, which is the same but for the waiting.
    drop(leader);
    assert_eq!(next(&mut watch).await, "stale disconnected");
    backend.set("k", "w");
    let _leader = lead::<Registry>(&backend, port, calm()).await;
    assert_eq!(next(&mut watch).await, "w");
}

#[tokio::test]
async fn a_closing_leader_says_goodbye() {
    let (backend, port) = (Backend::new(), free_port());
    let leader = lead::<Registry>(&backend, port, calm()).await;
    let user = follow::<Registry>(port, calm()).await;
    backend.set("k", "v");
    let mut watch = user.watch("k");
    assert_eq!(next(&mut watch).await, "v");
    // It waits before the leader goes, so that it is told before the redial fails.
    let told = tokio::spawn(async move {
        match soon("the loss", watch.changed()).await {
            Change::Stale { cause, .. } => cause,
            other => panic!("{other:?}"),
        }
    });
    tokio::task::yield_now().await;
    Cluster::close(leader).await;
    let cause = soon("the cause", told).await.unwrap();
    assert!(cause.to_string().contains("the leader went away"), "{cause}");
    assert_eq!(backend.open_streams("k"), 0, "its streams end with it");
}

#[tokio::test]
async fn a_killed_leader_is_noticed_at_once_and_the_next_one_found() {
    let port = free_port();
    let mut leader = Actor::lead(port).await;
    leader.ask("set k v").await;
    let user = follow::<Registry>(port, calm()).await;
    let mut watch = user.watch("k");
    assert_eq!(next(&mut watch).await, "v");
    let killed = std::time::Instant::now();
    leader.kill();
    assert_eq!(next(&mut watch).await, "stale disconnected");
    assert!(killed.elapsed() < calm().stale_after, "it took {:?}", killed.elapsed());
    assert_eq!(watch.current().as_deref().map(String::as_str), Some("v"));
    let mut leader = Actor::lead(port).await;
    leader.ask("set k v").await;
    assert_eq!(next(&mut watch).await, "live v");
    leader.ask("set k w").await;
    assert_eq!(next(&mut watch).await, "w");
}

#[tokio::test]
async fn a_new_leader_without_a_value_keeps_them_stale() {
    let (backend, port) = (Backend::new(), free_port());
    backend.set("k", "v");
    let leader = lead::<Registry>(&backend, port, calm()).await;
    let user = follow::<Registry>(port, calm()).await;
    let mut watch = user.watch("k");
    assert_eq!(next(&mut watch).await, "v");
    Cluster::close(leader).await;
    assert_eq!(next(&mut watch).await, "stale disconnected");
    let backend = Backend::new();
    let _leader = lead::<Registry>(&backend, port, calm()).await;
    until("subscribed", || backend.open_streams("k") == 1).await;
    user.echo(Vec::new()).await.unwrap();
    assert!(matches!(watch.state(), State::Stale { .. }), "{:?}", watch.state());
    assert!(backend.inject("k", Step::Error("no such session".to_owned())));
    assert_eq!(next(&mut watch).await, "stale client");
    backend.set("k", "v");
    assert_eq!(next(&mut watch).await, "live v");
}

#[tokio::test]
async fn a_subscription_outlives_a_new_leader_that_can_not_open_it_yet() {
    let (backend, port) = (Backend::new(), free_port());
    backend.set("k", "v");
    let leader = lead::<Registry>(&backend, port, calm()).await;
    let user = follow::<Registry>(port, calm()).await;
    let mut watch = user.watch_known("k".to_owned()).await.unwrap();
    assert_eq!(next(&mut watch).await, "v");
    Cluster::close(leader).await;
    assert_eq!(next(&mut watch).await, "stale disconnected");
    backend.fail_open.store(3, SeqCst);
    let _leader = lead::<Registry>(&backend, port, calm()).await;
    assert_eq!(next(&mut watch).await, "stale client");
    assert_eq!(next(&mut watch).await, "live v");
    assert_eq!(backend.fail_open.load(SeqCst), 0);
}

#[tokio::test]
async fn values_never_go_backwards_over_many_losses_of_the_link() {
    let port = free_port();
    let drop_after = calm().stale_after;
    let mut leader = Actor::ready("lead", port, drop_after).await;
    leader.ask("count k").await;
    let options = cluster_client::Options { drop_after, ..calm() };
    let user = follow::<Registry>(port, options).await;
    let mut watch = user.watch("k");
    let mut last = 0;
    for _ in 0..3 {
        for _ in 0..50 {
            let number = next_value(&mut watch).await.parse().unwrap();
            assert!(number > last || last == 0, "{number} after {last}");
            last = number;
        }
        // The follower gives the link up, and registers again at the same leader.
        leader.freeze();
        until("lost", || Cluster::down(&user).is_some()).await;
        leader.thaw();
    }
    assert!(next_value(&mut watch).await.parse::<u64>().unwrap() > last);
    assert_eq!(leader.ask("subscribes k").await, "1");
}

#[tokio::test]
async fn many_subscribers_are_all_whole_again() {
    let (backend, port) = (Backend::new(), free_port());
    let leader = lead::<Registry>(&backend, port, calm()).await;
    let first = follow::<Registry>(port, calm()).await;
    let second = follow::<Registry>(port, calm()).await;
    let mut watches = Vec::new();
    for key in 0..100 {
        backend.set(&key.to_string(), "v");
        watches.push(first.watch(&key.to_string()));
        watches.push(second.watch(&key.to_string()));
    }
    for watch in &mut watches {
        assert_eq!(next(watch).await, "v");
    }
    Cluster::close(leader).await;
    for watch in &mut watches {
        assert_eq!(next(watch).await, "stale disconnected");
    }
    let _leader = lead::<Registry>(&backend, port, calm()).await;
    for watch in &mut watches {
        assert_eq!(next(watch).await, "live v");
    }
    assert_eq!(backend.subscribes("7"), 2, "one a leader");
}

/// A runtime in a thread of its own, with a leader in it, until the sender is dropped.
async fn elsewhere(
    backend: &Arc<Backend>,
    port: u16,
    role: Role,
) -> (mpsc::Sender<()>, JoinHandle<()>) {
    let (ready, is_ready) = oneshot::channel();
    let (stop, mut stopped) = mpsc::channel(1);
    let backend = Arc::clone(backend);
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let leader = runtime.block_on(async {
            let builder = Cluster::<Registry>::builder().role(role).port(port).token(TOKEN);
            let leader = builder.options(calm()).create(backend).await.unwrap();
            ready.send(()).unwrap();
            stopped.recv().await;
            leader
        });
        // Not closed: its tasks end with the runtime.
        drop(runtime);
        drop(leader);
    });
    soon("a leader elsewhere", is_ready).await.unwrap();
    (stop, thread)
}

#[tokio::test]
async fn a_leader_whose_runtime_ends_is_lost_for_all_in_its_process() {
    let (backend, port) = (Backend::new(), free_port());
    backend.set("k", "v");
    let (stop, thread) = elsewhere(&backend, port, Role::Leader).await;
    let joined = Cluster::<Registry>::builder().role(Role::Leader).port(port).token(TOKEN);
    let joined = joined.options(calm()).join().await.unwrap();
    let user = follow::<Registry>(port, calm()).await;
    let (mut here, mut there) = (joined.watch("k"), user.watch("k"));
    assert_eq!(next(&mut here).await, "v");
    assert_eq!(next(&mut there).await, "v");
    drop(stop);
    thread.join().unwrap();
    assert_eq!(next(&mut here).await, "stale disconnected");
    assert_eq!(next(&mut there).await, "stale disconnected");
    let _leader = lead::<Registry>(&backend, port, calm()).await;
    assert_eq!(next(&mut there).await, "live v");
}

#[tokio::test]
async fn a_follower_whose_runtime_ends_is_closed() {
    let backend = Backend::new();
    backend.set("k", "v");
    let leader = lead::<Registry>(&backend, 0, calm()).await;
    let port = crate::support::port(&leader);
    let elsewhere = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let user = follow::<Registry>(port, calm()).await;
            let mut watch = user.watch("k");
            assert_eq!(next(&mut watch).await, "v");
            (user, watch)
        })
    });
    let (user, mut watch) = elsewhere.await.unwrap();
    assert!(matches!(watch.state(), State::Closed { .. }), "{:?}", watch.state());
    assert_eq!(next(&mut watch).await, "closed closed");
    assert_eq!(watch.current().as_deref().map(String::as_str), Some("v"));
    let error = soon("an answer", user.echo(Vec::new())).await.unwrap_err();
    assert!(format!("{error:?}").contains("closed"), "{error:?}");
}

#[tokio::test]
async fn of_competitors_in_one_process_the_next_leads_when_a_runtime_ends() {
    let (backend, port) = (Backend::new(), free_port());
    backend.set("k", "v");
    let (stop, thread) = elsewhere(&backend, port, Role::Compete).await;
    let user = Cluster::<Registry>::builder().role(Role::Compete).port(port).token(TOKEN);
    let user = user.options(calm()).create(Arc::clone(&backend)).await.unwrap();
    let mut watch = user.watch("k");
    assert_eq!(next(&mut watch).await, "v");
    assert_eq!(backend.connects.load(SeqCst), 1, "they share one leader");
    drop(stop);
    thread.join().unwrap();
    assert_eq!(next(&mut watch).await, "stale disconnected");
    assert_eq!(next(&mut watch).await, "live v");
    assert_eq!(Cluster::role(&user), Role::Leader);
    assert_eq!(backend.connects.load(SeqCst), 2);
}

#[tokio::test]
async fn a_topic_that_nobody_holds_frees_its_memory_on_both_ends() {
    let backend = Backend::new();
    let leader = lead::<Registry>(&backend, 0, calm()).await;
    let user = follow::<Registry>(crate::support::port(&leader), calm()).await;
    let mut values = Vec::new();
    for key in 0..100 {
        let key = key.to_string();
        backend.set(&key, "v");
        let mut watch = user.watch(&key);
        assert_eq!(next(&mut watch).await, "v");
        values.push(Arc::downgrade(&watch.current().unwrap()));
    }
    until("freed in the follower", || values.iter().all(|value| value.strong_count() == 0)).await;
    until("freed in the leader", || Cluster::stats(&leader).unwrap().topics == 0).await;
}
