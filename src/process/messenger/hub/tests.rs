use std::{collections::HashMap, time::Duration};

use futures::{FutureExt as _, StreamExt as _};

use super::*;
use crate::{
    process::{
        messenger::{MAX_DATA, Message, Messenger, Peer},
        name::ProcessName,
    },
    protocol::pb::ClusterReady,
};

const SENDER: Peer = Peer { process: ProcessName::Worker(3), pid: 33 };

fn pair() -> (Messenger, Arc<Hub>) {
    let hub = Hub::new();
    (Messenger::new(Arc::clone(&hub)), hub)
}

fn open() -> (Messenger, Arc<Hub>) {
    let (messenger, hub) = pair();
    hub.open();
    (messenger, hub)
}

fn sent(hub: &Hub) -> Option<(u64, String, Bytes)> {
    match hub.take()? {
        Body::SendMessage(message) => Some((message.id, message.action, message.data)),
        other => panic!("{other:?}"),
    }
}

/// Delivers a message, and gives the answer.
fn deliver(hub: &Hub, action: &str, json: &[u8]) -> Outcome {
    let data = Bytes::copy_from_slice(json);
    let message =
        DeliverMessage { id: 9, from: Some(SENDER.into()), action: action.to_owned(), data };
    assert_eq!(hub.hear(Body::DeliverMessage(message)), None);
    match hub.take() {
        Some(Body::MessageDelivered(answer)) if answer.id == 9 => answer.outcome(),
        other => panic!("{other:?}"),
    }
}

fn receipt(id: u64) -> MessageReceipt {
    MessageReceipt { id, ..MessageReceipt::default() }
}

#[tokio::test]
async fn what_is_sent_before_the_cluster_is_ready_goes_out_in_order_with_it() {
    let (messenger, hub) = pair();
    for number in 0..3 {
        assert!(messenger.broadcast("count", &number).unwrap().is_held());
    }
    let next = hub.next();
    tokio::pin!(next);
    assert!(futures::poll!(&mut next).is_pending());
    hub.open();
    assert!(matches!(next.await, Body::SendMessage(SendMessage { id: 1, .. })));
    assert!(!messenger.send_to(77, "count", &3).unwrap().is_held());
    for number in 1..4_u64 {
        assert_eq!(sent(&hub), Some((number + 1, "count".into(), number.to_string().into())));
    }
    assert_eq!(sent(&hub), None);
}

#[tokio::test]
async fn too_much_is_an_error_before_and_after_and_costs_nothing() {
    let (messenger, hub) = pair();
    for held in [true, false] {
        let mut sends = 0;
        let error = loop {
            match messenger.send_to_app("flood", "x") {
                Ok(sent) => assert_eq!(sent.is_held(), held),
                Err(error) => break error,
            }
            sends += 1;
        };
        assert_eq!((sends, error.kind()), (MAX_WAITING, ErrorKind::Overloaded), "{error}");
        assert!(error.to_string().contains("message `flood`"), "{error}");
        hub.open();
        while sent(&hub).is_some() {}
    }
    let large = "x".repeat(MAX_DATA - 2);
    let sends = (0..).take_while(|_| messenger.broadcast("large", &large).is_ok()).count();
    assert_eq!(sends, MAX_WAITING_BYTES / MAX_DATA);
    assert!(messenger.broadcast("small", &1).is_ok(), "there is still room for a small one");
    assert!(hub.lock().awaited.is_empty(), "nobody waits for a receipt");
}

#[test]
fn what_can_not_be_sent_is_refused_at_once_by_name() {
    let (messenger, hub) = open();
    let long = "x".repeat(257);
    let data = "x".repeat(MAX_DATA - 1);
    let unfit = HashMap::from([((1, 2), 3)]);
    for (outcome, kind) in [
        (messenger.broadcast("", &1), ErrorKind::Config),
        (messenger.broadcast(&long, &1), ErrorKind::Config),
        (messenger.broadcast("large", &data), ErrorKind::TooLarge),
        (messenger.broadcast("map", &unfit), ErrorKind::Encode),
    ] {
        assert_eq!(outcome.unwrap_err().kind(), kind);
    }
    assert_eq!(sent(&hub), None);
    messenger.broadcast(&long[1..], &data[1..]).unwrap();
    let whole = hub.take().unwrap();
    assert!(whole.encoded_len() < 64 * 1024, "the largest message fits in a frame");
}

#[tokio::test]
async fn a_receipt_says_how_many_took_it_or_why_nobody_could() {
    let (messenger, hub) = open();
    let [broadcast, to_pid, to_agent, random] = [
        messenger.broadcast("a", &1).unwrap(),
        messenger.send_to(77, "b", &1).unwrap(),
        messenger.send_to_agent("c", &1).unwrap(),
        messenger.send_random("d", &1).unwrap(),
    ];
    while sent(&hub).is_some() {}
    let counts = MessageReceipt { taken: 3, unhandled: 2, no_room: 1, lost: 4, ..receipt(1) };
    let refused = |id, refusal: Refusal| MessageReceipt { refusal: refusal.into(), ..receipt(id) };
    for receipt in [
        refused(4, Refusal::NoWorker),
        refused(2, Refusal::NoSuchProcess),
        refused(3, Refusal::AgentAway),
        counts,
        receipt(99),
    ] {
        hub.hear(Body::MessageReceipt(receipt));
    }
    let receipt = broadcast.await.unwrap();
    assert_eq!(receipt, Receipt { taken: 3, unhandled: 2, no_room: 1, lost: 4 });
    for (sent, kind, text) in [
        (to_pid, ErrorKind::NoSuchProcess, "message `b`: no process with pid 77 is ready"),
        (to_agent, ErrorKind::AgentAway, "message `c`: the agent is away"),
        (random, ErrorKind::NoWorker, "message `d`: no worker is ready"),
    ] {
        let error = sent.await.unwrap_err();
        assert_eq!(error.kind(), kind);
        assert!(error.to_string().contains(text), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_receipt_that_does_not_come_says_what_is_known() {
    let (messenger, hub) = pair();
    let wait = |sent: Sent| sent.receipt().within(Duration::from_millis(300));
    let told = |error: Error, text: &str| {
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert!(error.to_string().contains(text), "{error}");
    };
    let held = messenger.broadcast("a", &1).unwrap();
    told(wait(held).await.unwrap_err(), "no receipt within 300ms; it is held in this process");
    hub.open();
    assert_eq!(sent(&hub).map(|it| it.0), Some(1), "it goes out although nobody waits any more");

    let waits = messenger.broadcast("a", &1).unwrap();
    told(wait(waits).await.unwrap_err(), "waits in this process for the master");
    sent(&hub);
    let passed = messenger.broadcast("a", &1).unwrap();
    sent(&hub);
    told(wait(passed).await.unwrap_err(), "the master has it");

    let slow = messenger.broadcast("a", &1).unwrap();
    sent(&hub);
    let so_far = MessageReceipt { taken: 2, waiting: 1, ..receipt(4) };
    hub.hear(Body::MessageReceipt(so_far));
    let started = tokio::time::Instant::now();
    told(
        slow.await.unwrap_err(),
        "taken by 2, no handler in 0, no room in 0, lost with 0, no answer of 1",
    );
    assert_eq!(started.elapsed(), Duration::from_secs(5), "the default");
    hub.hear(Body::MessageReceipt(MessageReceipt { taken: 3, ..receipt(4) }));
    assert!(hub.lock().awaited.is_empty());
}

#[tokio::test]
async fn all_that_listen_for_an_action_get_it_with_its_sender() {
    let (messenger, hub) = open();
    let mut one = messenger.on::<u32>("number");
    let mut other = messenger.on::<u32>("number");
    let once = messenger.once::<u32>("number");
    assert_eq!(deliver(&hub, "number", b"5"), Outcome::Taken);
    assert_eq!(deliver(&hub, "number", b"6"), Outcome::Taken);
    assert_eq!(deliver(&hub, "name", b"7"), Outcome::Unhandled);
    let message = |data| Message { data, from: ProcessName::Worker(3), pid: 33 };
    for stream in [&mut one, &mut other] {
        assert_eq!(stream.recv().await.unwrap(), message(5));
        assert_eq!(stream.next().await.unwrap().unwrap(), message(6));
        assert!(stream.recv().now_or_never().is_none());
    }
    assert_eq!(once.await.unwrap(), message(5));
    drop(one);
    assert_eq!(deliver(&hub, "number", b"8"), Outcome::Taken);
    drop(other);
    assert_eq!(deliver(&hub, "number", b"9"), Outcome::Unhandled);
    assert!(hub.lock().listeners.is_empty());
}

#[tokio::test]
async fn a_value_of_another_type_is_an_error_in_its_place() {
    let (messenger, hub) = open();
    let mut numbers = messenger.on::<u32>("number");
    assert_eq!(deliver(&hub, "number", b"\"five\""), Outcome::Taken);
    assert_eq!(deliver(&hub, "number", b"6"), Outcome::Taken);
    let error = numbers.recv().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Decode);
    assert!(error.to_string().contains("message `number`"), "{error}");
    assert!(error.to_string().contains("(from worker 3, pid 33)"), "{error}");
    assert_eq!(numbers.recv().await.unwrap().data, 6);
}

#[tokio::test]
async fn one_that_does_not_read_has_no_room_and_the_other_has() {
    let (messenger, hub) = open();
    let mut slow = messenger.on::<u32>("count");
    for number in 0..1024_u32 {
        assert_eq!(deliver(&hub, "count", number.to_string().as_bytes()), Outcome::Taken);
    }
    let mut late = messenger.on::<u32>("count");
    assert_eq!(deliver(&hub, "count", b"1024"), Outcome::NoRoom);
    assert_eq!(late.recv().await.unwrap().data, 1024);
    assert_eq!(slow.recv().await.unwrap().data, 0);
    assert_eq!(deliver(&hub, "count", b"1025"), Outcome::Taken);

    let mut large = messenger.on::<String>("large");
    let json = format!("\"{}\"", "x".repeat(MAX_DATA - 2));
    let takes = || deliver(&hub, "large", json.as_bytes()) == Outcome::Taken;
    let taken = (0..).take_while(|_| takes()).count();
    assert_eq!(taken, 4 * 1024 * 1024 / MAX_DATA);
    large.recv().await.unwrap();
    assert!(takes(), "what was read makes room");
}

#[tokio::test]
async fn after_the_role_has_ended_nothing_is_delivered_and_what_was_sent_goes_out() {
    let (messenger, hub) = open();
    let mut numbers = messenger.on::<u32>("number");
    let once = messenger.once::<u32>("other");
    deliver(&hub, "number", b"1");
    let last_words = messenger.broadcast("bye", &1).unwrap();
    hub.close();
    assert_eq!(deliver(&hub, "number", b"2"), Outcome::Unhandled);
    assert_eq!(sent(&hub).map(|it| it.1).as_deref(), Some("bye"));
    assert_eq!(numbers.recv().await.unwrap().data, 1, "it came before the end");
    assert!(numbers.recv().await.unwrap_err().is_closed());
    assert!(numbers.next().await.is_none());
    assert!(once.await.unwrap_err().is_closed());
    assert!(last_words.await.unwrap_err().is_closed());
    assert!(messenger.broadcast("late", &1).unwrap_err().is_closed());
    assert!(messenger.on::<u32>("number").recv().await.unwrap_err().is_closed());

    let (messenger, hub) = pair();
    let held = messenger.broadcast("held", &1).unwrap();
    hub.close();
    hub.open();
    assert_eq!(sent(&hub), None, "what is held when the role ends goes nowhere");
    assert!(held.await.unwrap_err().is_closed());
}

#[tokio::test]
async fn an_action_that_can_not_be_sent_can_not_be_listened_for() {
    let (messenger, _hub) = open();
    let mut stream = messenger.on::<u32>("");
    assert_eq!(stream.recv().await.unwrap_err().kind(), ErrorKind::Config);
    assert!(stream.recv().await.unwrap_err().is_closed());
    let error = messenger.once::<u32>(&"x".repeat(257)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
}

#[tokio::test]
async fn what_is_no_message_is_given_back_and_a_message_without_sender_is_not_taken() {
    let (messenger, hub) = open();
    let ready = Body::ClusterReady(ClusterReady {});
    assert_eq!(hub.hear(ready.clone()), Some(ready));
    let _numbers = messenger.on::<u32>("number");
    let anonymous = DeliverMessage { id: 4, action: "number".into(), ..DeliverMessage::default() };
    hub.hear(Body::DeliverMessage(anonymous));
    let answer = MessageDelivered { id: 4, outcome: Outcome::Unhandled.into() };
    assert_eq!(hub.take(), Some(Body::MessageDelivered(answer)));
}
