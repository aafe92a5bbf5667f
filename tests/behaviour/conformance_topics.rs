//! Subscriptions of several processes and several users, and work items.

use std::{
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use cluster_client::{Cluster, Delivery, ErrorKind, Options, State};

use crate::{
    actor::Actor,
    backend::Backend,
    client::{Registration, packed::Registry},
    support::{calm, follow, free_port, lead, next, port, show, soon, until},
};

#[tokio::test]
async fn all_processes_share_one_upstream_subscription_and_a_new_one_gets_the_last_value() {
    let backend = Backend::new();
    let leader = lead::<Registry>(&backend, 0, calm()).await;
    let first = follow::<Registry>(port(&leader), calm()).await;
    let mut watches =
        vec![leader.watch("k"), leader.watch("k"), first.watch("k"), first.watch("k")];
    until("opened", || backend.open_streams("k") == 1).await;
    backend.set("k", "v1");
    for watch in &mut watches {
        assert_eq!(next(watch).await, "v1");
    }
    let mut late = Actor::follow(port(&leader)).await;
    late.ask("watch k").await;
    assert_eq!(late.event().await, "v1", "without anything new from the upstream");
    backend.set("k", "v2");
    for watch in &mut watches {
        assert_eq!(next(watch).await, "v2");
    }
    assert_eq!(late.event().await, "v2");
    assert_eq!(backend.subscribes("k"), 1);
}

#[tokio::test]
async fn what_the_leaders_process_drops_is_not_dropped_for_its_followers() {
    let backend = Backend::new();
    backend.set("k", "v");
    let leader = lead::<Registry>(&backend, 0, calm()).await;
    let user = follow::<Registry>(port(&leader), calm()).await;
    let (mut own, mut watch) = (leader.watch("k"), user.watch("k"));
    assert_eq!(next(&mut own).await, "v");
    assert_eq!(next(&mut watch).await, "v");
    drop(own);
    let mut other = user.watch("k");
    assert_eq!(next(&mut other).await, "v");
    drop(other);
    // Longer than the linger, after which a topic that nobody has would be gone.
    tokio::time::sleep(calm().linger * 2).await;
    backend.set("k", "w");
    assert_eq!(next(&mut watch).await, "w");
    assert_eq!((backend.subscribes("k"), backend.open_streams("k")), (1, 1));
}

#[tokio::test]
async fn what_a_killed_process_alone_subscribed_to_ends_upstream() {
    let backend = Backend::new();
    let leader = lead::<Registry>(&backend, 0, calm()).await;
    let mut killed = Actor::follow(port(&leader)).await;
    killed.ask("hold k").await;
    until("opened", || backend.open_streams("k") == 1).await;
    killed.kill();
    until("ended", || backend.open_streams("k") == 0).await;
    until("forgotten", || Cluster::stats(&leader).unwrap().topics == 0).await;
}

#[tokio::test]
async fn a_deadline_for_the_first_value_ends_no_subscription() {
    let backend = Backend::new();
    let leader = lead::<Registry>(&backend, 0, calm()).await;
    let user = follow::<Registry>(port(&leader), calm()).await;
    let mut watch = user.watch("k");
    let deadline = Duration::from_millis(100);
    let late = watch.ready_within(deadline).await.unwrap_err();
    assert_eq!((late.kind(), late.method()), (ErrorKind::Timeout, Some("watch")), "{late}");
    until("opened", || backend.open_streams("k") == 1).await;
    backend.set("k", "v");
    assert_eq!(next(&mut watch).await, "v");
    assert_eq!(*watch.ready_within(Duration::ZERO).await.unwrap(), "v", "it is here already");
    assert_eq!(backend.subscribes("k"), 1);
}

#[tokio::test]
async fn what_is_asked_for_without_a_leader_is_done_once_by_the_next() {
    let port = free_port();
    let leader = lead::<Registry>(&Backend::new(), port, calm()).await;
    let user = follow::<Registry>(port, calm()).await;
    Cluster::close(leader).await;
    until("lost", || Cluster::down(&user).is_some()).await;
    let (mut watch, mut other) = (user.watch("k"), user.watch("k"));
    assert!(matches!(watch.state(), State::Starting { cause: Some(_), .. }), "{:?}", watch.state());
    let publish = || {
        let user = user.clone();
        tokio::spawn(async move { user.publish(Registration::new("k", "a")).await })
    };
    let published = [publish(), publish(), publish()];
    let backend = Backend::new();
    backend.set("k", "v");
    let _leader = lead::<Registry>(&backend, port, calm()).await;
    for published in published {
        assert_eq!(soon("the publish", published).await.unwrap(), Ok(()));
    }
    for watch in [&mut watch, &mut other] {
        loop {
            let change = soon("the value", watch.changed()).await;
            match show(&change).as_str() {
                "stale disconnected" => {}
                value => break assert_eq!(value, "v"),
            }
        }
    }
    assert_eq!(backend.log(), ["publish k=a#1"]);
    assert_eq!(backend.subscribes("k"), 1);
}

#[tokio::test]
async fn a_subscriber_that_panics_is_alone_with_it() {
    let backend = Backend::new();
    backend.set("k", "v");
    let leader = lead::<Registry>(&backend, 0, calm()).await;
    let user = follow::<Registry>(port(&leader), calm()).await;
    let (mut panics, mut watch) = (user.watch("k"), user.watch("k"));
    let task = tokio::spawn(async move {
        let value = next(&mut panics).await;
        panic!("this subscriber can't stand {value}");
    });
    assert!(soon("the panic", task).await.unwrap_err().is_panic());
    assert_eq!(next(&mut watch).await, "v");
    backend.set("k", "w");
    assert_eq!(next(&mut watch).await, "w");
    assert_eq!(Cluster::stats(&leader).unwrap().panics, 0);
}

#[tokio::test]
async fn subscribers_of_a_process_share_one_request_and_one_decoded_value() {
    let backend = Backend::new();
    backend.set("k", "v");
    let leader = lead::<Registry>(&backend, 0, calm()).await;
    let options = Options { max_subscriptions: 1, ..calm() };
    let user = follow::<Registry>(port(&leader), options).await;
    let (mut first, mut second) = (user.watch("k"), user.watch("k"));
    assert_eq!(next(&mut first).await, "v");
    assert_eq!(next(&mut second).await, "v");
    assert!(Arc::ptr_eq(&first.current().unwrap(), &second.current().unwrap()));
    // The bound counts keys.
    assert_eq!(next(&mut user.watch("other")).await, "closed overloaded");
    // Each is a hold of its own: whichever is dropped, and however often it was cloned.
    drop((first.clone(), first));
    backend.set("k", "w");
    assert_eq!(next(&mut second).await, "w");
    drop(second);
    assert_eq!(next(&mut user.watch("k")).await, "w");
}

#[tokio::test]
async fn a_work_item_of_a_killed_process_goes_to_another_one_and_is_marked() {
    let backend = Backend::new();
    let leader = lead::<Registry>(&backend, 0, calm()).await;
    let mut killed = Actor::follow(port(&leader)).await;
    backend.add_work("a");
    assert_eq!(killed.ask("take").await, "a");
    let user = follow::<Registry>(port(&leader), calm()).await;
    let mut work = user.work();
    user.echo(Vec::new()).await.unwrap();
    let none = tokio::time::timeout(Duration::from_millis(50), work.recv()).await;
    assert!(none.is_err(), "it was given to one, and nothing is kept for the late");
    killed.kill();
    let again = soon("the item", work.recv()).await.unwrap();
    assert_eq!((again.as_str(), Delivery::redelivered(&again)), ("a", true));
    Delivery::ack(again);
    assert_eq!(backend.work_taken.load(SeqCst), 1);
}

#[tokio::test]
async fn each_work_item_goes_to_one_user_of_all_processes() {
    let backend = Backend::new();
    let leader = lead::<Registry>(&backend, 0, Options { deliver_window: 1, ..calm() }).await;
    let options = Options { deliver_window: 1, ..calm() };
    let first = follow::<Registry>(port(&leader), options.clone()).await;
    let second = follow::<Registry>(port(&leader), options).await;
    let (got, mut all) = tokio::sync::mpsc::unbounded_channel();
    // Two in one process, and one in each of the others.
    for (user, cluster) in [&first, &first, &second, &leader].into_iter().enumerate() {
        let (mut work, got) = (cluster.work(), got.clone());
        tokio::spawn(async move {
            while let Ok(item) = work.recv().await {
                got.send((item.parse::<u32>().unwrap(), user)).unwrap();
                Delivery::ack(item);
            }
        });
    }
    for item in 0..300 {
        backend.add_work(&item.to_string());
    }
    let mut counts = [0; 4];
    let mut items = Vec::new();
    for _ in 0..300 {
        let (item, user) = soon("an item", all.recv()).await.unwrap();
        items.push(item);
        counts[user] += 1;
    }
    items.sort_unstable();
    assert!(items.into_iter().eq(0..300), "each one once");
    // The faster one gets more, which here is the one without a socket.
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
}
