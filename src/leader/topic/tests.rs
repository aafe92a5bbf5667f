use super::*;
use crate::error::ErrorKind;

const BOUNDS: Ring = Ring { values: 4, bytes: 1 << 20 };

fn topic() -> TopicState<u64> {
    TopicState::new(9, BOUNDS)
}

fn drain(topic: &mut TopicState<u64>, id: u64) -> Vec<String> {
    let mut seen = Vec::new();
    topic.drain(id, Instant::now(), &mut |frame| {
        seen.push(describe(frame));
        Given::AndRoom
    });
    seen
}

fn describe(frame: Frame) -> String {
    let mut reader = crate::protocol::FrameReader::default();
    for chunk in frame.chunks() {
        reader.buffer().extend_from_slice(chunk);
    }
    let packet = reader.next().unwrap().unwrap();
    match packet.body.unwrap() {
        pb::packet::Body::Update(update) => {
            let stale = if update.stale { " (stale)" } else { "" };
            format!("{}={}{stale}", update.version, String::from_utf8_lossy(&packet.payload))
        }
        pb::packet::Body::State(state) => match state.state.unwrap() {
            pb::state::State::Starting(starting) => {
                format!("starting {}", starting.cause.map_or_else(String::new, |c| c.message))
            }
            pb::state::State::Live(_) => "live".to_owned(),
            pb::state::State::Stale(stale) => format!("stale {}", stale.cause.unwrap().message),
        },
        other => panic!("{other:?}"),
    }
}

fn value(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn cause(text: &str) -> Error {
    Error::new(ErrorKind::UpstreamEnded, text)
}

#[test]
fn a_late_follower_gets_the_newest_value_alone() {
    let mut topic = topic();
    topic.push(value("a"));
    topic.push(value("b"));
    topic.attach(1, 1, 100, None);
    assert_eq!(drain(&mut topic, 1), ["2=b"]);
    assert_eq!(drain(&mut topic, 1), [""; 0]);
}

#[test]
fn an_equal_value_wakes_nobody_unless_the_topic_was_stale() {
    let mut topic = topic();
    topic.attach(1, 1, 100, None);
    topic.push(value("a"));
    drain(&mut topic, 1);
    assert!(topic.push(value("a")).is_empty());
    assert_eq!(topic.fail(cause("gone"), Instant::now()), [1]);
    assert_eq!(drain(&mut topic, 1), ["stale gone"]);
    assert_eq!(topic.push(value("a")), [1]);
    assert_eq!(drain(&mut topic, 1), ["live"]);
}

#[test]
fn a_follower_that_is_behind_skips_to_the_newest() {
    let mut topic = topic();
    topic.attach(1, 1, 100, None);
    topic.push(value("0"));
    drain(&mut topic, 1);
    for text in ["a", "b", "c", "d", "e"] {
        topic.push(value(text));
    }
    assert_eq!(drain(&mut topic, 1), ["6=e"]);
    topic.push(value("f"));
    topic.push(value("g"));
    assert_eq!(drain(&mut topic, 1), ["7=f", "8=g"]);
}

#[test]
fn the_ring_is_bounded_in_bytes_but_keeps_the_newest() {
    let mut topic = TopicState::<u64>::new(9, Ring { values: 64, bytes: 100 });
    topic.push(Bytes::from(vec![1; 90]));
    topic.push(Bytes::from(vec![2; 500]));
    assert_eq!(topic.ring.len(), 1);
    topic.push(value("x"));
    assert_eq!(topic.ring.len(), 1, "the large one has to go");
}

#[test]
fn one_that_has_the_value_is_told_the_state_alone() {
    let mut topic = topic();
    topic.push(value("a"));
    topic.attach(1, 1, 100, Some(1));
    assert_eq!(drain(&mut topic, 1), ["live"]);
    topic.attach(2, 2, 100, Some(7));
    assert_eq!(drain(&mut topic, 2), ["1=a"]);
}

#[test]
fn a_stale_value_is_given_with_its_state() {
    let mut topic = topic();
    topic.push(value("a"));
    topic.fail(cause("gone"), Instant::now());
    topic.attach(1, 1, 100, None);
    assert_eq!(drain(&mut topic, 1), ["1=a (stale)", "stale gone"]);
}

#[test]
fn before_the_first_value_a_failure_is_a_cause_of_starting() {
    let mut topic = topic();
    topic.attach(1, 1, 100, None);
    assert_eq!(drain(&mut topic, 1), ["starting "]);
    topic.fail(cause("refused"), Instant::now());
    assert_eq!(drain(&mut topic, 1), ["starting refused"]);
}

#[test]
fn a_newer_value_waits_for_the_parts_of_the_one_before() {
    let mut topic = topic();
    topic.attach(1, 1, 100, None);
    topic.push(value("a"));
    topic.drain(1, Instant::now(), &mut |_| Given::InParts);
    assert!(topic.push(value("b")).is_empty(), "nothing to be woken for");
    assert_eq!(drain(&mut topic, 1), [""; 0]);
    assert!(topic.value_written(1));
    assert_eq!(drain(&mut topic, 1), ["2=b"]);
}

#[test]
fn one_that_subscribes_again_waits_for_the_parts_that_are_on_their_way() {
    let mut topic = topic();
    topic.push(value("a"));
    topic.attach(1, 1, 100, None);
    topic.hold_back(1);
    assert!(topic.fail(cause("gone"), Instant::now()).is_empty());
    assert_eq!(drain(&mut topic, 1), [""; 0]);
    assert!(topic.value_written(1));
    assert_eq!(drain(&mut topic, 1), ["1=a (stale)", "stale gone"]);
}

#[test]
fn without_room_the_rest_comes_later() {
    let mut topic = topic();
    topic.attach(1, 1, 100, None);
    topic.push(value("a"));
    drain(&mut topic, 1);
    topic.push(value("b"));
    topic.push(value("c"));
    let mut seen = 0;
    topic.drain(1, Instant::now(), &mut |_| {
        seen += 1;
        Given::NoRoom
    });
    assert_eq!(seen, 1);
    assert!(topic.is_woken(1));
    assert_eq!(drain(&mut topic, 1), ["3=c"]);
    assert!(!topic.is_woken(1));
}

#[test]
fn an_unsubscribe_of_an_older_request_removes_nothing() {
    let mut topic = topic();
    topic.attach(1, 1, 100, None);
    topic.attach(1, 1, 101, None);
    topic.detach(1, 100, Some(101));
    assert_eq!(topic.push(value("a")).len() + drain(&mut topic, 1).len(), 2);
    topic.detach(1, 101, None);
    assert!(topic.push(value("b")).is_empty());
}

#[test]
fn a_follower_that_unsubscribes_one_of_two_goes_on_with_the_other() {
    let mut topic = topic();
    topic.attach(1, 1, 100, None);
    topic.attach(1, 1, 101, None);
    topic.detach(1, 101, Some(100));
    topic.push(value("a"));
    assert_eq!(drain(&mut topic, 1), ["1=a", "live"]);
    topic.detach(1, 100, None);
    assert!(topic.push(value("b")).is_empty());
}

#[test]
fn two_subscriptions_of_one_follower_are_both_told() {
    let mut topic = topic();
    topic.push(value("a"));
    // The one without the value gets it, and the one with it hears that it is live.
    topic.attach(1, 1, 100, None);
    topic.attach(1, 1, 101, Some(1));
    assert_eq!(drain(&mut topic, 1), ["1=a", "live"]);
    topic.push(value("b"));
    assert_eq!(drain(&mut topic, 1), ["2=b"]);
}
