//! What comes before, or instead of, a proper registration.

use std::time::{Duration, Instant};

use crate::{
    Victim, logged, options,
    pb::{self, packet::Body},
    wire::{NONCE, SEVEN, Wire, channel, frame, invoke, packet, register},
};

#[tokio::test]
async fn what_is_no_cluster_client_is_closed_with_a_reason() {
    let victim = Victim::new().await;
    let tls = [&[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3][..], &[0xab; 512]].concat();
    let cases: [(&[u8], &str); 6] = [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n", "is this a cluster-client"),
        (&tls, "is this a cluster-client"),
        (&[0x80, 0, 0, 0, 1, 2, 3], "2147483648 bytes is over the limit"),
        (&[0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff], "not a packet"),
        (&[0, 0, 0, 0], "without a body"),
        (&frame(&invoke(1, 0, SEVEN)), "the first packet is not a registration"),
    ];
    for (bytes, reason) in cases {
        let mut wire = Wire::dial(victim.port).await;
        wire.raw(bytes).await;
        victim.is_well().await;
        wire.closed().await;
        logged(victim.port, reason).await;
    }
    victim.is_alone().await;
}

#[tokio::test]
async fn random_bytes_are_closed_at_the_latest_when_the_handshake_should_be_done() {
    let victim = Victim::new().await;
    let mut random = fastrand::Rng::with_seed(1);
    let mut wires = Vec::new();
    for _ in 0..200 {
        let bytes: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(300).collect();
        let mut wire = Wire::dial(victim.port).await;
        wire.raw(&bytes).await;
        wires.push(wire);
    }
    victim.is_well().await;
    for wire in wires {
        wire.closed().await;
    }
    victim.is_well().await;
}

#[tokio::test]
async fn a_handshake_byte_by_byte_is_as_good_as_any() {
    let victim = Victim::new().await;
    let mut wire = Wire::dial(victim.port).await;
    let hello = wire.hello().await;
    let bytes =
        [frame(&register(victim.port, &hello, channel().into())), frame(&invoke(1, 0, SEVEN))]
            .concat();
    for byte in bytes {
        wire.raw(&[byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(wire.registered_body().await.refused, None);
    assert_eq!(wire.result(1).await.unwrap(), [7]);
}

#[tokio::test]
async fn requests_in_one_write_with_the_registration_are_all_answered() {
    let victim = Victim::new().await;
    let mut wire = Wire::dial(victim.port).await;
    let hello = wire.hello().await;
    let subscribe =
        packet(1, Body::Subscribe(pb::Subscribe { method: 1, ..<_>::default() }), SEVEN);
    let all = [
        frame(&register(victim.port, &hello, channel().into())),
        frame(&subscribe),
        frame(&packet(0, Body::Heartbeat(pb::Heartbeat {}), &[])),
        frame(&invoke(2, 0, SEVEN)),
    ];
    wire.raw(&all.concat()).await;
    assert_eq!(wire.registered_body().await.refused, None);
    let (mut subscribed, mut updated, mut answered) = (false, false, false);
    while !(subscribed && updated && answered) {
        let packet = wire.next().await.expect("all three");
        match packet.body {
            Some(Body::SubscribeResult(result)) => subscribed = result.refused.is_none(),
            Some(Body::Update(_)) => updated = packet.payload == [7][..],
            Some(Body::Result(result)) => answered = packet.id == 2 && result.error.is_none(),
            Some(Body::State(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn who_says_nothing_is_closed_after_the_time_for_the_handshake() {
    let victim = Victim::new().await;
    let begin = Instant::now();
    let silent = Wire::dial(victim.port).await;
    let mut slow = Wire::dial(victim.port).await;
    let hello = slow.hello().await;
    // Half a registration is no registration.
    let half = frame(&register(victim.port, &hello, channel().into()));
    slow.raw(&half[..half.len() / 2]).await;
    silent.closed().await;
    slow.closed().await;
    assert!(begin.elapsed() >= options().handshake - Duration::from_millis(50));
    logged(victim.port, "the peer did not register").await;
}

/// Sends what `edit` makes of a proper registration; the refusal.
async fn refusal(victim: &Victim, edit: impl FnOnce(&mut pb::Register)) -> pb::Error {
    let mut wire = Wire::dial(victim.port).await;
    let hello = wire.hello().await;
    let mut sent = register(victim.port, &hello, channel().into());
    if let Some(Body::Register(register)) = &mut sent.body {
        edit(register);
    }
    wire.send(&sent).await;
    let refused = wire.registered_body().await.refused.expect("it is refused");
    wire.closed().await;
    victim.is_well().await;
    refused
}

#[tokio::test]
async fn a_wrong_proof_or_version_is_refused_by_name() {
    let victim = Victim::new().await;
    let forged = refusal(&victim, |register| register.mac = vec![0; 32].into()).await;
    assert_eq!(forged.kind, "unauthorized");
    let cut = refusal(&victim, |register| register.mac = vec![].into()).await;
    assert_eq!(cut.kind, "unauthorized");
    let changed = refusal(&victim, |register| register.body = vec![1, 2, 3].into()).await;
    assert_eq!(changed.kind, "unauthorized");
    let nonce = refusal(&victim, |register| register.nonce = vec![1; 31].into()).await;
    assert_eq!(nonce.kind, "protocol");
    let older = refusal(&victim, |register| register.version = 0).await;
    assert_eq!(older.kind, "version_mismatch");
    assert!(older.message.contains("version 0"), "{}", older.message);
    assert!(older.message.contains("version 1"), "{}", older.message);
    logged(victim.port, "not proven").await;
    logged(victim.port, "version 0").await;
    victim.is_alone().await;
}

#[tokio::test]
async fn a_proof_for_another_connection_is_refused() {
    let victim = Victim::new().await;
    let mut first = Wire::dial(victim.port).await;
    let hello = first.hello().await;
    let recorded = register(victim.port, &hello, channel().into());
    let mut second = Wire::dial(victim.port).await;
    second.hello().await;
    second.send(&recorded).await;
    assert_eq!(second.registered_body().await.refused.unwrap().kind, "unauthorized");
    let mut third = Wire::dial(victim.port).await;
    let hello = third.hello().await;
    // The proof for another port, as a relay would pass it on.
    third.send(&register(victim.port ^ 1, &hello, channel().into())).await;
    assert_eq!(third.registered_body().await.refused.unwrap().kind, "unauthorized");
    victim.is_well().await;
    victim.is_alone().await;
}

#[tokio::test]
async fn a_registration_that_makes_no_sense_is_refused_by_name() {
    let victim = Victim::new().await;
    let without_purpose = pb::RegisterBody { purpose: None, pid: 0 };
    let short_owner = pb::Channel { owner: vec![1; 15].into(), ..channel() };
    let no_owner = pb::Channel { owner: vec![].into(), ..channel() };
    let elsewhere = pb::Channel { name: "Elsewhere".to_owned(), ..channel() };
    let codec = pb::Channel { codec: "json".to_owned(), ..channel() };
    let cases: [(pb::RegisterBody, &str); 5] = [
        (without_purpose, "protocol"),
        (short_owner.into(), "protocol"),
        (no_owner.into(), "protocol"),
        (elsewhere.into(), "no_such_channel"),
        (codec.into(), "codec_mismatch"),
    ];
    for (body, kind) in cases {
        let mut wire = Wire::dial(victim.port).await;
        let hello = wire.hello().await;
        wire.send(&register(victim.port, &hello, body)).await;
        assert_eq!(wire.registered_body().await.refused.unwrap().kind, kind);
        wire.closed().await;
    }
    victim.is_well().await;
    victim.is_alone().await;
}

#[tokio::test]
async fn a_thousand_connections_that_say_nothing_disturb_nobody() {
    allow_descriptors(4096);
    let victim = Victim::new().await;
    let mut silent = Vec::new();
    for _ in 0..1_000 {
        silent.push(Wire::dial(victim.port).await);
        if silent.len() % 100 == 0 {
            victim.is_well().await;
        }
    }
    let late = crate::follower(victim.port).await.unwrap();
    assert_eq!(late.echo(7).await.unwrap(), 7);
    for wire in silent {
        wire.closed().await;
    }
    victim.is_well().await;
}

/// Both ends of the connections are in this process.
fn allow_descriptors(count: u64) {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < count) {
        limit.current = Some(count);
        setrlimit(Resource::Nofile, limit).unwrap();
    }
}

#[tokio::test]
async fn what_a_liveness_link_says_is_ignored() {
    let victim = Victim::new().await;
    let mut wire = Wire::dial(victim.port).await;
    let hello = wire.hello().await;
    let purpose = Some(pb::register_body::Purpose::Liveness(pb::Liveness {}));
    wire.send(&register(victim.port, &hello, pb::RegisterBody { purpose, pid: 1 })).await;
    assert_eq!(wire.registered_body().await.refused, None);
    wire.send(&invoke(1, 0, SEVEN)).await;
    wire.send(&packet(0, Body::Heartbeat(pb::Heartbeat {}), &NONCE)).await;
    victim.is_well().await;
    // It is served all the same, until it breaks a rule of frames.
    wire.raw(&[0xff; 8]).await;
    wire.closed().await;
    victim.is_well().await;
}
