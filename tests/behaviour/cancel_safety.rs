//! What is dropped and asked again loses nothing, and what is cloned goes its own way.

use cluster_client::Delivery;
use tokio::task::yield_now;

use crate::{
    backend::Step,
    client::packed::Registry,
    support::{Cast, Place, cast, next, show, soon, until},
};

/// Drops the wait again and again, in the middle of what happens.
macro_rules! impatiently {
    ($future:expr) => {
        soon("it", async {
            loop {
                tokio::select! {
                    biased;
                    output = $future => break output,
                    () = yield_now() => {}
                }
            }
        })
        .await
    };
}

#[tokio::test]
async fn a_wait_for_changes_that_is_dropped_loses_none() {
    let Cast { leader: _leader, user, backend } = cast::<Registry>(Place::Follower).await;
    backend.set("k", "first");
    let mut watch = user.watch("k");
    assert_eq!(show(&impatiently!(watch.changed())), "first");
    for round in 0..20 {
        for step in 0..3 {
            backend.set("k", &format!("{round} {step}"));
        }
        for step in 0..3 {
            assert_eq!(show(&impatiently!(watch.changed())), format!("{round} {step}"));
        }
        backend.inject("k", Step::Error("broken".to_owned()));
        assert_eq!(show(&impatiently!(watch.changed())), "stale client");
        backend.set("k", &format!("{round} again"));
        assert_eq!(show(&impatiently!(watch.changed())), format!("{round} again"));
    }
}

#[tokio::test]
async fn a_wait_for_work_that_is_dropped_loses_none() {
    let Cast { leader: _leader, user, backend } = cast::<Registry>(Place::Follower).await;
    let mut work = user.work();
    for round in 0..50 {
        backend.add_work(&format!("{round}"));
        let item = impatiently!(work.recv()).unwrap();
        assert_eq!((*item).as_str(), format!("{round}"));
        assert!(!Delivery::redelivered(&item), "nobody had it before");
        Delivery::ack(item);
    }
}

#[tokio::test]
async fn a_clone_of_a_subscription_starts_where_it_was_cloned_and_goes_its_own_way() {
    let Cast { leader: _leader, user, backend } = cast::<Registry>(Place::Follower).await;
    backend.set("k", "a");
    let mut first = user.watch("k");
    assert_eq!(next(&mut first).await, "a");
    backend.set("k", "b");
    until("the value", || first.current().is_some_and(|value| *value == "b")).await;
    let mut second = first.clone();
    assert_eq!(next(&mut first).await, "b");
    let mut third = first.clone();
    backend.set("k", "c");
    assert_eq!(next(&mut third).await, "c");
    assert_eq!([next(&mut second).await, next(&mut second).await], ["b", "c"]);
    drop((second, third));
    assert_eq!(next(&mut first).await, "c");
}
