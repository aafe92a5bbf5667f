//! What subscribers of one topic see of its frames.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use bytes::Bytes;
use futures::task::noop_waker_ref;

use crate::{error::Error, follower::reach::Reach, protocol::pb};

use super::{Cursor, Event, Topic};

/// Of the one link that a topic without a leader has.
const GENERATION: u64 = 1;

fn topic() -> Topic {
    let topic = Topic::new((0, Bytes::new()), false, Arc::new(Reach::always()), (8, 1 << 20));
    topic.accepted(7, 1);
    topic
}

/// The values that come next, each with how many were missed before it.
fn values_of(topic: &Topic, cursor: &mut Cursor) -> Vec<u64> {
    let mut missed_before = Vec::new();
    let mut cx = Context::from_waker(noop_waker_ref());
    while let Poll::Ready(event) = topic.poll_event(cursor, &mut cx) {
        if let Event::Value { missed, .. } = event {
            missed_before.push(missed);
        }
    }
    missed_before
}

fn update(topic: &Topic, update: pb::Update, value: &'static [u8]) {
    let value = (update, Bytes::from_static(value));
    topic.update(GENERATION, std::iter::once(value), false);
}

fn version(version: u64) -> pb::Update {
    pb::Update { version, stale: false }
}

#[test]
fn a_value_that_came_back_after_others_that_were_skipped_is_told_with_their_number() {
    let topic = topic();
    let mut cursor = topic.cursor();
    update(&topic, version(1), b"a");
    update(&topic, version(4), b"a");
    assert_eq!(values_of(&topic, &mut cursor), [0, 2]);
}

#[test]
fn an_equal_value_of_a_new_epoch_wakes_nobody() {
    let topic = topic();
    let mut cursor = topic.cursor();
    update(&topic, version(5), b"a");
    assert_eq!(values_of(&topic, &mut cursor), [0]);
    topic.accepted(8, 1);
    update(&topic, version(1), b"a");
    assert_eq!(values_of(&topic, &mut cursor), [0; 0]);
    update(&topic, version(2), b"b");
    assert_eq!(values_of(&topic, &mut cursor), [0]);
}

#[test]
fn a_value_that_is_stale_does_not_look_live() {
    let topic = topic();
    let mut cursor = topic.cursor();
    let stale = pb::Update { version: 1, stale: true };
    update(&topic, stale, b"a");
    assert_eq!(values_of(&topic, &mut cursor), [0]);
    assert!(!matches!(topic.state(), super::State::Live), "{:?}", topic.state());
    update(&topic, version(2), b"b");
    assert!(matches!(topic.state(), super::State::Live));
}

#[test]
fn values_that_arrive_together_are_shown_as_if_they_came_one_by_one() {
    let topic = topic();
    let mut cursor = topic.cursor();
    let read = Bytes::from_static(b"abcdef");
    let values = [1, 2, 2, 5, 6].into_iter().zip(0..5);
    let values = values.map(|(number, at)| (version(number), read.slice(at..at + 1)));
    topic.update(GENERATION, values, true);
    assert_eq!(topic.newest().unwrap().bytes, b"e"[..]);
    assert_eq!(values_of(&topic, &mut cursor), [0, 0, 2, 0]);
}

/// The numbers that this subscriber takes next; a value decodes if it is a number.
fn numbers_of(topic: &Topic, cursor: &mut Cursor) -> Vec<Option<u8>> {
    let mut seen = Vec::new();
    let mut cx = Context::from_waker(noop_waker_ref());
    while let Poll::Ready(event) = topic.poll_event(cursor, &mut cx) {
        if let Event::Value { value, .. } = event {
            let seq = value.seq();
            seen.push(value.decode(number).map(|value| *value.downcast().unwrap()).ok());
            if let Some(None) = seen.last() {
                topic.note_undecodable(seq, Error::config("not a number"));
            }
        }
    }
    seen
}

fn number(bytes: Bytes) -> Result<super::Decoded, Error> {
    let digit = bytes[0].checked_sub(b'0').ok_or_else(|| Error::config("not a number"))?;
    Ok(Arc::new(digit))
}

/// The newest number that decodes, as who reads it at once finds it.
fn current(topic: &Topic) -> Option<u8> {
    let mut entry = topic.newest()?;
    loop {
        match entry.decode(number) {
            Ok(value) => return value.downcast_ref().copied(),
            Err(error) => topic.note_undecodable(entry.seq(), error),
        }
        entry = topic.before(&entry)?;
    }
}

#[test]
fn the_last_value_that_decodes_stays_in_force_however_many_do_not() {
    for values in ["1", "12", "1234", "12-", "1234-", "12--", "123---", "1-2-3--", "-", "1--2-"] {
        for subscribers in 1..3 {
            let topic = topic();
            let mut cursors: Vec<Cursor> = (0..subscribers).map(|_| topic.cursor()).collect();
            let read = Bytes::copy_from_slice(values.as_bytes());
            let each = (0..values.len()).map(|at| (version(at as u64 + 1), read.slice(at..at + 1)));
            topic.update(GENERATION, each.collect::<Vec<_>>().into_iter(), true);
            for cursor in &mut cursors {
                numbers_of(&topic, cursor);
            }
            let expected = values.bytes().rfind(|byte| *byte != b'-').map(|byte| byte - b'0');
            assert_eq!(current(&topic), expected, "{values}, {subscribers} subscribers");
        }
    }
}

#[test]
fn what_one_subscriber_takes_is_there_for_the_other() {
    let topic = topic();
    let (mut first, mut second) = (topic.cursor(), topic.cursor());
    let read = Bytes::from_static(b"1234");
    let each = (0..4).map(|at| (version(at as u64 + 1), read.slice(at..at + 1)));
    topic.update(GENERATION, each, true);
    let all = [1, 2, 3, 4].map(Some);
    assert_eq!(numbers_of(&topic, &mut first), all);
    assert_eq!(numbers_of(&topic, &mut second), all);
    let mut late = topic.cursor();
    assert_eq!(numbers_of(&topic, &mut late), [Some(4)]);
    update(&topic, version(5), b"5");
    for cursor in [&mut first, &mut second, &mut late] {
        assert_eq!(numbers_of(&topic, cursor), [Some(5)]);
    }
}

/// A waker that uses the topic, as one does that drops the last hold on a task with a subscription.
/// It counts how often it could.
struct UsesTopic(Arc<Topic>, AtomicUsize);

impl UsesTopic {
    fn look(&self) {
        if self.0.inner.try_lock().is_ok() {
            self.1.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Wake for UsesTopic {
    fn wake(self: Arc<Self>) {
        self.look();
    }
}

/// Uses the topic when it is dropped.
struct UsedLast(Arc<UsesTopic>);

impl Wake for UsedLast {
    fn wake(self: Arc<Self>) {}
}

impl Drop for UsedLast {
    fn drop(&mut self) {
        self.0.look();
    }
}

#[test]
fn wakers_may_use_the_topic_when_they_are_dropped() {
    let topic = Arc::new(topic());
    let uses_topic = Arc::new(UsesTopic(Arc::clone(&topic), AtomicUsize::new(0)));
    let mut cursor = topic.cursor();
    for _ in 0..2 {
        let waker = Waker::from(Arc::new(UsedLast(Arc::clone(&uses_topic))));
        assert!(topic.poll_event(&mut cursor, &mut Context::from_waker(&waker)).is_pending());
        assert!(topic.poll_item(&cursor, &mut Context::from_waker(&waker)).is_pending());
    }
    assert_eq!(uses_topic.1.load(Ordering::Relaxed), 1, "the second took the first one's place");
    topic.leave(&cursor);
    assert_eq!(uses_topic.1.load(Ordering::Relaxed), 2);
}

#[test]
fn wakers_may_use_the_topic() {
    let topic = Arc::new(topic());
    let mut cursor = topic.cursor();
    let uses_topic = Arc::new(UsesTopic(Arc::clone(&topic), AtomicUsize::new(0)));
    let waker = Waker::from(Arc::clone(&uses_topic));
    let mut register = || {
        let _ = values_of(&topic, &mut cursor);
        assert!(topic.poll_event(&mut cursor, &mut Context::from_waker(&waker)).is_pending());
    };
    register();
    update(&topic, version(1), b"a");
    register();
    topic.wake();
    register();
    topic.close(Error::closed("the test"));
    assert_eq!(uses_topic.1.load(Ordering::Relaxed), 3);
}

#[test]
fn a_reader_of_a_value_that_does_not_decode_finds_one_that_came_since() {
    let topic = topic();
    let mut cursor = topic.cursor();
    update(&topic, version(1), b"-");
    let held = topic.newest().unwrap();
    update(&topic, version(2), b"2");
    assert_eq!(numbers_of(&topic, &mut cursor), [None, Some(2)]);
    let found = topic.before(&held).unwrap();
    assert_eq!(found.seq(), 2);
}
