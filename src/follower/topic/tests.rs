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

#[test]
fn a_value_in_force_stays_however_many_leave_that_nobody_looks_at() {
    let topic = topic();
    let cursor = topic.cursor();
    update(&topic, version(1), b"1");
    assert_eq!(current(&topic), Some(1));
    for next in 2..30 {
        update(&topic, version(next), b"-");
    }
    assert_eq!(current(&topic), Some(1));
    topic.leave(&cursor);
}

mod model {
    use proptest::prelude::*;

    use super::{super::Decoded, *};

    #[derive(Debug, Clone)]
    enum Step {
        /// Values arrive together: whether each decodes, and whether the versions before it were
        /// skipped. In a burst they stay where they were read.
        Update(Vec<(bool, u64)>, bool),
        Take(prop::sample::Index, usize),
        Clone(prop::sample::Index),
        Join,
        Leave(prop::sample::Index),
        Current,
    }

    fn step() -> impl Strategy<Value = Step> {
        let index = any::<prop::sample::Index>;
        let value = (prop::bool::weighted(0.7), prop_oneof![5 => Just(0_u64), 1 => 1..4_u64]);
        prop_oneof![
            6 => (prop::collection::vec(value, 1..12), any::<bool>())
                .prop_map(|(values, is_burst)| Step::Update(values, is_burst)),
            8 => (index(), 1..12_usize).prop_map(|(at, count)| Step::Take(at, count)),
            1 => index().prop_map(Step::Clone),
            1 => Just(Step::Join),
            1 => index().prop_map(Step::Leave),
            2 => Just(Step::Current),
        ]
    }

    /// Bytes of a value: its version, and whether it decodes.
    fn bytes(version: u64, decodes: bool) -> Bytes {
        let mut bytes = version.to_be_bytes().to_vec();
        bytes.push(decodes.into());
        bytes.into()
    }

    fn decode(bytes: Bytes) -> Result<Decoded, Error> {
        let (version, decodes) = bytes.split_first_chunk().unwrap();
        if decodes != [1] {
            return Err(Error::config("it does not decode"));
        }
        Ok(Arc::new(u64::from_be_bytes(*version)))
    }

    fn typed(value: &Decoded) -> u64 {
        *value.downcast_ref().unwrap()
    }

    fn current(topic: &Topic) -> Option<u64> {
        let mut entry = topic.newest()?;
        loop {
            match entry.decode(decode) {
                Ok(value) => return Some(typed(&value)),
                Err(error) => topic.note_undecodable(entry.seq(), error),
            }
            entry = topic.before(&entry)?;
        }
    }

    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    struct Subscriber {
        cursor: Cursor,
        /// How many values it has taken or missed, and the version up to which.
        at: usize,
        version: u64,
        woken: Arc<Woken>,
        /// It waits to be woken.
        waits: bool,
    }

    impl Subscriber {
        fn new(cursor: Cursor, at: usize, version: u64) -> Self {
            Self { cursor, at, version, woken: Arc::new(Woken(AtomicUsize::new(0))), waits: false }
        }

        /// Takes the next value, which is the one that has to come. False: there is none.
        fn take(&mut self, topic: &Topic, all: &[(u64, bool)]) -> Option<u64> {
            let waker = Waker::from(Arc::clone(&self.woken));
            let expected = if all.len() - self.at > 8 { all.len() - 1 } else { self.at };
            loop {
                match topic.poll_event(&mut self.cursor, &mut Context::from_waker(&waker)) {
                    Poll::Pending => {
                        assert_eq!(self.at, all.len(), "a value is lost");
                        self.waits = true;
                        return None;
                    }
                    Poll::Ready(Event::Value { value, missed }) => {
                        let (version, decodes) = all[expected];
                        assert_eq!(missed, version - self.version - 1);
                        (self.at, self.version) = (expected + 1, version);
                        let seq = value.seq();
                        match value.decode(decode) {
                            Ok(value) => assert_eq!((typed(&value), true), (version, decodes)),
                            Err(error) => {
                                assert!(!decodes);
                                topic.note_undecodable(seq, error);
                            }
                        }
                        return Some(if decodes { version } else { 0 });
                    }
                    Poll::Ready(_) => {}
                }
            }
        }
    }

    proptest! {
        #[test]
        fn each_subscriber_takes_each_value_once_in_order_and_is_told_what_it_missed(
            steps in prop::collection::vec(step(), 1..60),
        ) {
            let topic = topic();
            let mut all: Vec<(u64, bool)> = Vec::new();
            let mut subscribers = vec![Subscriber::new(topic.cursor(), 0, 0)];
            // The newest version that somebody has seen.
            let mut in_force = 0;
            for step in steps {
                match step {
                    Step::Update(values, is_burst) => {
                        let mut last = all.last().map_or(0, |(version, _)| *version);
                        let values: Vec<_> = values
                            .into_iter()
                            .map(|(decodes, skipped)| {
                                // The first one is the first of its epoch.
                                last += if last == 0 { 1 } else { 1 + skipped };
                                (last, decodes)
                            })
                            .collect();
                        let frames: Vec<_> = values
                            .iter()
                            .map(|(number, decodes)| (version(*number), bytes(*number, *decodes)))
                            .collect();
                        all.extend(values);
                        topic.update(GENERATION, frames.into_iter(), is_burst);
                        for subscriber in &mut subscribers {
                            let count = subscriber.woken.0.swap(0, Ordering::Relaxed);
                            prop_assert!(count > 0 || !subscriber.waits, "nobody woke it");
                            subscriber.waits = false;
                        }
                    }
                    Step::Take(at, count) => {
                        let at = at.index(subscribers.len());
                        for _ in 0..count {
                            let Some(taken) = subscribers[at].take(&topic, &all) else { break };
                            in_force = in_force.max(taken);
                        }
                    }
                    Step::Clone(at) => {
                        let Subscriber { cursor, at, version, .. } =
                            &subscribers[at.index(subscribers.len())];
                        let clone = Subscriber::new(topic.clone_cursor(cursor), *at, *version);
                        subscribers.push(clone);
                    }
                    Step::Join => {
                        let before = all.last().map_or(0, |(version, _)| version - 1);
                        let at = all.len().saturating_sub(1);
                        subscribers.push(Subscriber::new(topic.cursor(), at, before));
                    }
                    Step::Leave(at) if subscribers.len() > 1 => {
                        let gone = subscribers.remove(at.index(subscribers.len()));
                        topic.leave(&gone.cursor);
                    }
                    Step::Current => {
                        let seen = current(&topic).unwrap_or(0);
                        prop_assert!(seen >= in_force, "{seen} is older than {in_force}");
                        in_force = seen;
                    }
                    _ => {}
                }
            }
            for mut subscriber in subscribers {
                while subscriber.take(&topic, &all).is_some() {}
                topic.leave(&subscriber.cursor);
            }
            let inner = topic.lock();
            prop_assert!(inner.ring.len() <= 1 && inner.ring.iter().all(|kept| kept.waiting == 0));
            let bytes: usize = inner.ring.iter().map(|kept| kept.value.bytes().len()).sum();
            prop_assert_eq!(inner.ring_bytes, bytes);
        }
    }
}
