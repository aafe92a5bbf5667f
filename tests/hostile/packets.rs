//! What comes from a peer that has the token.

use cluster_client::Cluster;

use crate::{
    Victim, options,
    pb::{self, packet::Body},
    until,
    wire::{SEVEN, Wire, frame, invoke, packet},
};

fn subscribe(id: u64, method: u32, args: &[u8]) -> pb::Packet {
    packet(id, Body::Subscribe(pb::Subscribe { method, ..<_>::default() }), args)
}

fn part(stream: u64, total: u64, data: &[u8]) -> pb::Packet {
    packet(0, Body::Part(pb::Part { stream, total, data: data.to_vec().into() }), &[])
}

#[tokio::test]
async fn a_request_that_fits_no_method_is_answered_as_a_mismatch() {
    let victim = Victim::new().await;
    let mut wire = Wire::registered(victim.port).await;
    let publish =
        |id, method| packet(id, Body::Publish(pb::Publish { method, timeout_ms: 1_000 }), SEVEN);
    let requests = [
        invoke(1, 99, SEVEN),
        invoke(2, u32::MAX, SEVEN),
        invoke(3, 1, SEVEN),
        publish(4, 0),
        publish(5, 1),
        invoke(6, 0, &[]),
        invoke(7, 0, &[0, 0, 0, 9, 7]),
        invoke(8, 0, &[SEVEN, SEVEN].concat()),
        invoke(9, 0, &[0, 0, 0, 1, 0xc1]),
        invoke(10, 0, &[0xff; 64]),
    ];
    for request in &requests {
        wire.send(request).await;
        let error = wire.result(request.id).await.unwrap_err();
        assert_eq!(error.kind, "method_mismatch", "{error:?}");
    }
    for (id, method, args) in [(20, 0, SEVEN), (21, 99, SEVEN), (22, 1, &[1, 2][..])] {
        wire.send(&subscribe(id, method, args)).await;
        match wire.next().await.unwrap().body {
            Some(Body::SubscribeResult(pb::SubscribeResult { refused: Some(error), .. })) => {
                assert_eq!(error.kind, "method_mismatch", "{error:?}");
            }
            other => panic!("{other:?}"),
        }
    }
    wire.send(&invoke(30, 0, SEVEN)).await;
    assert_eq!(wire.result(30).await.unwrap(), [7], "the connection is as good as before");
    victim.is_well().await;
}

#[tokio::test]
async fn packets_that_mean_nothing_are_ignored() {
    let victim = Victim::new().await;
    let mut wire = Wire::registered(victim.port).await;
    let settle = pb::Settle { item: u64::MAX, done: false, room: u32::MAX };
    let nothing = [
        Body::Cancel(pb::Cancel {}),
        Body::Unsubscribe(pb::Unsubscribe {}),
        Body::Settle(settle),
        Body::Replayed(pb::Replayed {}),
        Body::Update(pb::Update { version: u64::MAX, stale: false }),
        Body::State(pb::State::default()),
        Body::Result(pb::Result::default()),
        Body::SubscribeResult(pb::SubscribeResult::default()),
        Body::Hello(pb::Hello::default()),
        Body::Register(pb::Register::default().into()),
        Body::Registered(pb::Registered::default().into()),
        Body::Deliver(pb::Deliver::default()),
    ];
    wire.send(&subscribe(5, 1, SEVEN)).await;
    for body in nothing {
        wire.send(&packet(5, body.clone(), b"x")).await;
        wire.send(&packet(u64::MAX, body, b"x")).await;
    }
    // A body that this version does not know: field 30, one byte long.
    wire.raw(&[0, 0, 0, 4, 0xf2, 1, 1, 0]).await;
    wire.send(&invoke(30, 0, SEVEN)).await;
    loop {
        let answer = wire.next().await.expect("it is open");
        if answer.id == 30 {
            break;
        }
    }
    victim.is_well().await;
}

/// Sends this after a registration; the leader closes.
async fn closes(victim: &Victim, packets: &[pb::Packet]) {
    let mut wire = Wire::registered(victim.port).await;
    for packet in packets {
        wire.send(packet).await;
    }
    wire.closed().await;
    victim.is_well().await;
    victim.is_alone().await;
}

#[tokio::test]
async fn parts_that_break_a_rule_close_the_connection() {
    let victim = Victim::new().await;
    let kib64 = vec![0; 64 << 10];
    closes(&victim, &[part(9, 0, b"x")]).await;
    closes(&victim, &[part(1, 10, b"")]).await;
    closes(&victim, &[part(1, 1 << 40, b"x")]).await;
    closes(&victim, &[part(1, u64::MAX, b"x")]).await;
    closes(&victim, &[part(1, 2, b"xxx")]).await;
    closes(&victim, &[part(1, 10, b"x"), part(1, 10, b"x")]).await;
    closes(&victim, &[part(1, 3, &[0xff; 3])]).await;
    let within = part(2, 4, b"x");
    let len = frame(&within).len() as u64 - 4;
    closes(&victim, &[part(1, len, &frame(&within)[4..])]).await;
    // As large as it says, but with a payload over the limit.
    let huge = invoke(1, 0, &vec![0; options().max_payload + 1]);
    let bytes = &frame(&huge)[4..];
    let mut parts_of_huge = Vec::new();
    for (at, data) in bytes.chunks(64 << 10).enumerate() {
        parts_of_huge.push(part(1, if at == 0 { bytes.len() as u64 } else { 0 }, data));
    }
    closes(&victim, &parts_of_huge).await;
    // Many that are begun and never ended.
    let endless: Vec<_> = (1..60).map(|stream| part(stream, 1 << 20, &kib64)).collect();
    closes(&victim, &endless).await;
    let many: Vec<_> = (1..20_000).map(|stream| part(stream, 2, b"x")).collect();
    closes(&victim, &many).await;
}

#[tokio::test]
async fn bytes_that_are_no_packet_close_the_connection() {
    let victim = Victim::new().await;
    let mut random = fastrand::Rng::with_seed(2);
    for _ in 0..50 {
        let mut wire = Wire::registered(victim.port).await;
        let mut bytes: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(200).collect();
        // Short enough to be looked at.
        bytes[..4].copy_from_slice(&100_u32.to_be_bytes());
        bytes[104..108].copy_from_slice(&[0xff; 4]);
        wire.raw(&bytes).await;
        wire.closed().await;
    }
    victim.is_well().await;
    victim.is_alone().await;
}

#[tokio::test]
async fn a_request_begun_twice_closes_the_connection_and_leaves_nothing() {
    let victim = Victim::new().await;
    let other = &[0, 0, 0, 1, 8];
    closes(&victim, &[subscribe(1, 1, SEVEN), subscribe(1, 1, other)]).await;
    closes(&victim, &[invoke(1, 2, &[]), invoke(1, 2, &[])]).await;
    closes(&victim, &[subscribe(1, 1, SEVEN), invoke(1, 0, SEVEN)]).await;
    until("no topic is left", || Cluster::stats(&victim.leader).unwrap().topics == 0).await;
}

#[tokio::test]
async fn bounds_of_calls_and_subscriptions_are_answered_as_such() {
    let victim = Victim::new().await;
    let mut wire = Wire::registered(victim.port).await;
    let bound = options().max_in_flight as u64;
    for id in 1..=bound {
        wire.send(&invoke(id, 2, &[])).await;
    }
    wire.send(&invoke(bound + 1, 0, SEVEN)).await;
    assert_eq!(wire.result(bound + 1).await.unwrap_err().kind, "overloaded");
    for id in 1..=bound {
        wire.send(&packet(id, Body::Cancel(pb::Cancel {}), &[])).await;
    }
    wire.send(&invoke(bound + 2, 0, SEVEN)).await;
    assert_eq!(wire.result(bound + 2).await.unwrap(), [7]);
    // Oneway calls that never end have a bound, too.
    for id in 0..bound + 10 {
        wire.send(&invoke(1_000 + id, 3, SEVEN)).await;
    }
    until("counted", || Cluster::stats(&victim.leader).unwrap().oneway_failures == 10).await;
    let mut refused = 0;
    for id in 0..options().max_subscriptions as u8 * 2 + 5 {
        wire.send(&subscribe(2_000 + u64::from(id), 1, &[0, 0, 0, 2, 0xcc, id])).await;
    }
    wire.send(&invoke(3_000, 0, SEVEN)).await;
    loop {
        let packet = wire.next().await.expect("it is open");
        match packet.body {
            Some(Body::SubscribeResult(pb::SubscribeResult { refused: Some(error), .. })) => {
                assert_eq!(error.kind, "overloaded");
                refused += 1;
            }
            Some(Body::Result(_)) => break,
            _ => {}
        }
    }
    assert_eq!(refused, 5);
    victim.is_well().await;
}

#[tokio::test]
async fn a_peer_that_reads_no_answer_is_closed_at_the_bound_of_its_queue() {
    let victim = Victim::new().await;
    let mut wire = Wire::registered(victim.port).await;
    // The reason is an error text of some hundred bytes: far more than the request.
    let request = frame(&invoke(1, 99, &[]));
    let block = request.repeat(1_000);
    let mut sent = 0_usize;
    while tokio::io::AsyncWriteExt::write_all(&mut wire.stream, &block).await.is_ok() {
        sent += block.len();
        assert!(sent < 1 << 30, "nobody stops it");
    }
    victim.is_well().await;
    victim.is_alone().await;
}
