//! Servers that pose as the leader, and leaders that break the rules.

use std::time::Duration;

use cluster_client::{Cluster, Error, ErrorKind};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
};

use crate::{
    Victim, follower, logged,
    pb::{self, packet::Body},
    soon, until,
    wire::{NONCE, Wire, as_register, packet, registered},
};

/// What a follower hears of a server that does this with each connection.
async fn refused_by<F>(serve: impl Fn(TcpStream, u16) -> F + Send + 'static) -> Error
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, port));
        }
    });
    let error = follower(port).await.unwrap_err();
    server.abort();
    error
}

fn hello() -> pb::Hello {
    pb::Hello { version: 1, nonce: NONCE.to_vec().into() }
}

#[tokio::test]
async fn a_server_that_reflects_the_proof_is_unmasked() {
    let error = refused_by(|stream, _| async move {
        let mut wire = Wire::over(stream);
        wire.send(&packet(0, Body::Hello(hello()), &[])).await;
        let Some(register) = wire.next().await.map(as_register) else { return };
        let reflected = pb::Registered { mac: register.mac, body: register.body };
        wire.send(&packet(0, Body::Registered(reflected.into()), &[])).await;
        assert_eq!(wire.next().await, None, "nothing is said to an impostor");
    })
    .await;
    assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error}");
}

#[tokio::test]
async fn a_relay_to_the_true_leader_is_unmasked() {
    let victim = Victim::new().await;
    let leader = victim.port;
    let error = refused_by(move |mut stream, _| async move {
        let mut onward = TcpStream::connect(("127.0.0.1", leader)).await.unwrap();
        // Ends when an end closes.
        let _ = tokio::io::copy_bidirectional(&mut stream, &mut onward).await;
    })
    .await;
    assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error}");
    logged(leader, "not proven").await;
    victim.is_well().await;
    victim.is_alone().await;
}

#[tokio::test]
async fn a_server_of_another_version_or_kind_is_named() {
    let error = refused_by(|stream, _| async move {
        let mut wire = Wire::over(stream);
        wire.send(&packet(0, Body::Hello(pb::Hello { version: 0, ..hello() }), &[])).await;
        wire.next().await;
    })
    .await;
    assert_eq!(error.kind(), ErrorKind::VersionMismatch, "{error}");
    let error = refused_by(|mut stream, _| async move {
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    })
    .await;
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
    assert!(error.to_string().contains("no cluster-client server"), "{error}");
    let error = refused_by(|stream, _| async move {
        let mut wire = Wire::over(stream);
        wire.send(&packet(0, Body::Hello(pb::Hello { nonce: vec![1].into(), ..hello() }), &[]))
            .await;
        wire.next().await;
    })
    .await;
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
}

#[tokio::test]
async fn a_server_that_says_nothing_is_told_as_such_and_given_time() {
    let error = refused_by(|stream, _| async move {
        let mut wire = Wire::over(stream);
        assert_eq!(wire.next().await, None, "the follower says nothing before the server");
    })
    .await;
    assert_eq!(error.kind(), ErrorKind::Disconnected, "{error}");
    assert!(error.to_string().contains("has not answered"), "{error}");
}

/// A leader with the token that says this when it is called, each time.
async fn led_by(packets: Vec<pb::Packet>) -> (Cluster<crate::Echo>, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let packets = packets.clone();
            tokio::spawn(async move {
                let mut wire = Wire::over(stream);
                wire.send(&packet(0, Body::Hello(hello()), &[])).await;
                let Some(register) = wire.next().await.map(as_register) else { return };
                let body = pb::RegisteredBody { epoch: 1, max_payload: 1 << 20, ..<_>::default() };
                wire.send(&registered(port, &hello(), &register.nonce, &body)).await;
                while let Some(packet) = wire.next().await {
                    if matches!(packet.body, Some(Body::Invoke(_))) {
                        break;
                    }
                }
                for packet in &packets {
                    wire.send(packet).await;
                }
                wire.closed().await;
            });
        }
    });
    (follower(port).await.unwrap(), server)
}

#[tokio::test]
async fn a_leader_that_answers_what_nobody_asked_is_ignored() {
    let bodies = [
        Body::Result(pb::Result::default()),
        Body::Update(pb::Update { version: u64::MAX, stale: false }),
        Body::State(pb::State::default()),
        Body::SubscribeResult(pb::SubscribeResult { topic: 3, ..<_>::default() }),
        Body::Deliver(pb::Deliver { item: u64::MAX, redelivered: true }),
        Body::Invoke(pb::Invoke::default()),
        Body::Settle(pb::Settle { item: 1, done: true, room: u32::MAX }),
    ];
    let packets = bodies
        .into_iter()
        .flat_map(|body| [0, 1, u64::MAX].map(|id| packet(id, body.clone(), b"nonsense")));
    let (user, server) = led_by(packets.collect()).await;
    let watch = user.watch(7);
    let call = user.slow();
    assert!(tokio::time::timeout(Duration::from_millis(300), call).await.is_err());
    assert!(Cluster::down(&user).is_none(), "{:?}", Cluster::down(&user));
    assert!(watch.current().is_none());
    server.abort();
}

#[tokio::test]
async fn a_leader_that_breaks_the_rules_of_frames_is_left() {
    let part = pb::Part { stream: 1, total: u64::MAX, data: vec![1].into() };
    let (user, server) = led_by(vec![packet(0, Body::Part(part), &[])]).await;
    let error = soon("the loss", user.slow()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LeaderLost, "{error}");
    let cause = std::error::Error::source(&error).expect("why it was left").to_string();
    assert!(cause.contains("over the limit"), "{cause}");
    until("dialled again", || Cluster::down(&user).is_none()).await;
    soon("closing", Cluster::close(user)).await;
    server.abort();
}
