//! Cases that the random operations seldom or never meet.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::FutureExt as _;
use tokio::time::sleep;

use super::{
    in_virtual_time,
    operation::Operation,
    upstream::{PUBLISH, WATCH, WATCH_ANSWERED, args, publication},
    world::World,
};
use crate::{
    codec::{MessagePack, encode_value},
    error::ErrorKind,
    options::Options,
};

const MOMENT: Duration = Duration::from_millis(1);

#[test]
fn the_last_drop_frees_the_values_though_the_link_goes_on() {
    in_virtual_time(async {
        let world = World::new(Options::default()).await;
        let handle = world.follower(0).follower().subscribe(WATCH, args(0, 0), None);
        sleep(MOMENT).await;
        assert!(handle.topic.newest().is_some(), "the value has come");
        let topic = Arc::downgrade(&handle.topic);
        drop(handle);
        sleep(MOMENT).await;
        assert!(topic.upgrade().is_none(), "the topic is still held");
    });
}

#[test]
fn refused_subscriptions_take_no_room() {
    in_virtual_time(async {
        let world = World::new(Options { max_subscriptions: 2, ..Options::default() }).await;
        world.upstream().lock().refuses = true;
        for _ in 0..10 {
            let follower = world.follower(0);
            let asked = follower.subscribe_answered::<MessagePack, u64>(WATCH_ANSWERED, args(0, 0));
            let refused = asked.await.unwrap_err().into_error();
            assert_eq!(refused.kind(), ErrorKind::Client, "{refused}");
        }
    });
}

#[test]
fn a_publish_that_is_dropped_while_it_is_queued_is_known_to_be_published() {
    in_virtual_time(async {
        let mut world = World::new(Options::default()).await;
        let key = encode_value::<MessagePack, _>(&0_u8);
        let publish =
            world.follower(0).follower().publish(PUBLISH, key, publication(0, 5)).now_or_never();
        assert!(publish.is_none(), "it is under way");
        sleep(MOMENT).await;
        assert_eq!(world.upstream().lock().published.get(&0), Some(&5));
        let restart = Operation::RestartLeader { abrupt: true, pause: 10 };
        world.apply(&restart).await.unwrap();
        sleep(Duration::from_secs(5)).await;
        assert_eq!(world.upstream().lock().published.get(&0), Some(&5), "after the restart");
    });
}

#[test]
fn at_the_bound_of_publications_the_ones_that_are_there_can_change_and_go() {
    in_virtual_time(async {
        let world = World::new(Options { max_subscriptions: 2, ..Options::default() }).await;
        let publish = async |method, key: u8, value| {
            let (name, args) = (encode_value::<MessagePack, _>(&key), publication(key, value));
            world.follower(0).follower().publish(method, name, args).await.map(|_: Bytes| ())
        };
        publish(PUBLISH, 0, 1).await.unwrap();
        publish(PUBLISH, 1, 1).await.unwrap();
        let refused = publish(PUBLISH, 2, 1).await.unwrap_err().into_error();
        assert_eq!(refused.kind(), ErrorKind::Overloaded);
        publish(PUBLISH, 0, 2).await.unwrap();
        publish(super::upstream::UNPUBLISH, 1, 1).await.unwrap();
        publish(PUBLISH, 2, 1).await.unwrap();
        let published = world.upstream().lock().published.clone();
        assert_eq!(published, [(0, 2), (2, 1)].into());
    });
}

/// Across the start of a leader it is not known how many values there were; what a follower kept, or
/// what was still on its way, is of the old one.
#[test]
fn nothing_is_promised_of_what_was_missed_across_the_start_of_a_leader() {
    use Operation as O;
    let key = (WATCH, 0);
    let subscribe = |place, eager| O::Subscribe { place, key, alias: 0, eager };
    let history = |sent_before_the_restart: u8, late: O| {
        let restart = O::RestartLeader { abrupt: false, pause: 10 };
        let (sent, more) = (sent_before_the_restart, O::Update { key, count: 2 });
        let before = [subscribe(0, true), subscribe(1, true), O::Freeze { place: 1 }];
        let after = [O::Update { key, count: sent }, restart, more, late, O::Thaw { place: 1 }];
        before.into_iter().chain(after)
    };
    // Who subscribes after the start is shown what was kept from before it.
    let kept = history(0, subscribe(1, false));
    // A value of the old leader arrives after the new one has started.
    let on_its_way = history(1, O::Wait(1));
    for operations in [kept.collect::<Vec<_>>(), on_its_way.collect()] {
        in_virtual_time(async {
            World::new(Options::default()).await.run(&operations).await.unwrap();
        });
    }
}
