//! What subscribers of one topic see of its frames.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::task::noop_waker_ref;

use crate::{follower::reach::Reach, protocol::pb};

use super::{Cursor, Event, Topic};

/// Of the one link that a topic without a leader has.
const GENERATION: u64 = 1;

fn topic() -> Topic {
    let topic = Topic::new((0, Bytes::new()), false, Arc::new(Reach::always()), (4, 1 << 20));
    topic.accepted(7, 1);
    topic
}

/// The values that come next, each with how many were missed before it.
fn values(topic: &Topic, cursor: &mut Cursor) -> Vec<u64> {
    let mut missed_before = Vec::new();
    let mut cx = Context::from_waker(noop_waker_ref());
    while let Poll::Ready(event) = topic.poll_event(cursor, &mut cx) {
        if let Event::Value { missed, .. } = event {
            missed_before.push(missed);
        }
    }
    missed_before
}

fn version(version: u64) -> pb::Update {
    pb::Update { version, stale: false }
}

#[test]
fn a_value_that_came_back_after_others_that_were_skipped_is_told_with_their_number() {
    let topic = topic();
    let mut cursor = topic.cursor();
    topic.update(GENERATION, version(1), Bytes::from_static(b"a"));
    topic.update(GENERATION, version(4), Bytes::from_static(b"a"));
    assert_eq!(values(&topic, &mut cursor), [0, 2]);
}

#[test]
fn an_equal_value_of_a_new_epoch_wakes_nobody() {
    let topic = topic();
    let mut cursor = topic.cursor();
    topic.update(GENERATION, version(5), Bytes::from_static(b"a"));
    assert_eq!(values(&topic, &mut cursor), [0]);
    topic.accepted(8, 1);
    topic.update(GENERATION, version(1), Bytes::from_static(b"a"));
    assert_eq!(values(&topic, &mut cursor), [0; 0]);
    topic.update(GENERATION, version(2), Bytes::from_static(b"b"));
    assert_eq!(values(&topic, &mut cursor), [0]);
}

#[test]
fn a_value_that_is_stale_does_not_look_live() {
    let topic = topic();
    let mut cursor = topic.cursor();
    let stale = pb::Update { version: 1, stale: true };
    topic.update(GENERATION, stale, Bytes::from_static(b"a"));
    assert_eq!(values(&topic, &mut cursor), [0]);
    assert!(!matches!(topic.state(), super::State::Live), "{:?}", topic.state());
    topic.update(GENERATION, version(2), Bytes::from_static(b"b"));
    assert!(matches!(topic.state(), super::State::Live));
}
