//! Who may lead and who may follow: one real client, one port, one address, and no giving up.

use std::{
    io::Write as _,
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::{Arc, atomic::Ordering::SeqCst},
    time::{Duration, Instant},
};

use cluster_client::{Builder, Cluster, Error, ErrorKind, Health, Options, Role, cluster_client};
use tokio::sync::Semaphore;

use crate::{
    backend::Backend,
    client::packed::Registry,
    support::{TOKEN, calm, follow, free_port, lead, next, port, soon, until},
};

/// A client that is connected once it gets a permit.
struct Gated;

#[cluster_client]
impl Gated {
    #[connect]
    async fn connect(gate: Arc<Semaphore>) -> Result<Self, Error> {
        gate.acquire().await.expect("it is never closed").forget();
        Ok(Self)
    }

    #[invoke]
    async fn ping(&self) -> Result<(), Error> {
        Ok(())
    }
}

fn builder(role: Role, port: u16) -> Builder<Registry> {
    Cluster::<Registry>::builder().role(role).port(port).token(TOKEN).options(calm())
}

#[tokio::test]
async fn nobody_is_ready_before_the_client_is_connected() {
    let (gate, port) = (Arc::new(Semaphore::new(0)), free_port());
    let gated = move |role| Cluster::<Gated>::builder().role(role).port(port).token(TOKEN);
    let mut follower = tokio::spawn(gated(Role::Follower).options(calm()).join());
    let leader = tokio::spawn(gated(Role::Leader).options(calm()).create(Arc::clone(&gate)));
    until("bound", || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()).await;
    let early = tokio::time::timeout(Duration::from_millis(300), &mut follower).await;
    assert!(early.is_err(), "the follower is ready");
    assert!(!leader.is_finished());
    gate.add_permits(1);
    let leader = soon("the leader", leader).await.unwrap().unwrap();
    let follower = soon("the follower", follower).await.unwrap().unwrap();
    follower.ping().await.unwrap();
    leader.ping().await.unwrap();
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_port_can_be_reached_at_one_loopback_address_alone() {
    let leader = lead::<Registry>(&Backend::new(), 0, calm()).await;
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port(&leader))).is_ok());
    // It would be reached here if it listened on all addresses.
    let elsewhere = TcpStream::connect((Ipv4Addr::new(127, 0, 0, 2), port(&leader)));
    assert_eq!(elsewhere.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn single_clients_of_a_channel_share_one_real_client_until_the_last_is_closed() {
    let backend = Backend::new();
    let single = || {
        Cluster::<Registry>::builder()
            .channel("single-shared")
            .role(Role::Single)
            .options(calm())
            .create(Arc::clone(&backend))
    };
    let (first, second, third) =
        (single().await.unwrap(), single().await.unwrap(), single().await.unwrap());
    assert_eq!(backend.connects.load(SeqCst), 1);
    assert_eq!((Cluster::role(&third), Cluster::port(&third)), (Role::Single, None));
    backend.set("k", "v");
    let (mut watch, mut other) = (third.watch("k"), second.watch("k"));
    assert_eq!(next(&mut watch).await, "v");
    assert_eq!(next(&mut other).await, "v");
    // Twice, which counts once.
    Cluster::close(first.clone()).await;
    Cluster::close(first).await;
    Cluster::close(second).await;
    assert_eq!(next(&mut other).await, "closed closed");
    assert_eq!(backend.closes.load(SeqCst), 0);
    backend.set("k", "w");
    assert_eq!(next(&mut watch).await, "w");
    assert_eq!(third.echo(vec![1]).await, Ok(vec![1]));
    Cluster::close(third).await;
    assert_eq!(backend.closes.load(SeqCst), 1);
    // A new start is a new client.
    let again = single().await.unwrap();
    assert_eq!(again.echo(vec![1]).await, Ok(vec![1]));
    assert_eq!(backend.connects.load(SeqCst), 2);
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_with_a_way_out() {
    let unordered = Options { heartbeat: calm().stale_after, ..calm() };
    let refusals = [
        (Cluster::<Registry>::builder().role(Role::Follower).join().await, ".port("),
        (builder(Role::Follower, 0).join().await, "give the port"),
        (builder(Role::Compete, free_port()).join().await, "create("),
        (builder(Role::Leader, free_port()).join().await, "create("),
        (builder(Role::Follower, free_port()).options(unordered).join().await, "heartbeat"),
    ];
    for (refused, way_out) in refusals {
        let error = refused.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
        assert!(error.to_string().contains(way_out), "{error}");
    }
}

/// Whoever else has the port: says this to everybody, then closes, or keeps the connection.
fn foreign_server(says: &'static [u8], closes: bool) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        for mut stream in listener.incoming().map_while(Result::ok) {
            // The peer may be gone already.
            let _ = stream.write_all(says);
            if !closes {
                kept.push(stream);
            }
        }
    });
    port
}

#[tokio::test]
async fn a_foreign_server_on_the_port_is_told_as_such_and_never_waited_for_for_ever() {
    let http: &[u8] = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n";
    let (protocol, silent) = ("no cluster-client server", "has not answered");
    let cases = [
        (http, true, Role::Follower, ErrorKind::Protocol, protocol),
        (http, false, Role::Compete, ErrorKind::Protocol, protocol),
        (b"", false, Role::Follower, ErrorKind::Disconnected, silent),
        (b"", false, Role::Compete, ErrorKind::Disconnected, silent),
        (b"", true, Role::Follower, ErrorKind::Disconnected, "during the handshake"),
        (b"", true, Role::Compete, ErrorKind::Disconnected, "another one"),
    ];
    for (says, closes, role, kind, text) in cases {
        let port = foreign_server(says, closes);
        let options = Options {
            handshake: Duration::from_millis(200),
            create_timeout: Duration::from_millis(800),
            ..calm()
        };
        let start = Instant::now();
        let create = builder(role, port).options(options).create(Backend::new());
        let error = soon("the error", create).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(text), "{error}");
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    }
}

#[tokio::test]
async fn channels_of_a_port_can_be_led_again_in_any_order() {
    let (backend, port) = (Backend::new(), free_port());
    let two = |port| builder(Role::Leader, port).channel("two").create(Arc::clone(&backend));
    let first = lead::<Registry>(&backend, port, calm()).await;
    let second = two(port).await.unwrap();
    let user = follow::<Registry>(port, calm()).await;
    let other = builder(Role::Follower, port).channel("two").join().await.unwrap();
    drop((first, second));
    until("the port is free", || Cluster::down(&user).is_some()).await;
    // The one that was second takes the port. That claims nothing of the first one's.
    let second = soon("the second channel", two(port)).await.unwrap();
    assert_eq!(soon("a call", other.echo(vec![2])).await, Ok(vec![2]));
    let first = soon("the first channel", builder(Role::Leader, port).create(backend.clone()));
    let first = first.await.unwrap();
    assert_eq!(soon("a call", user.echo(vec![1])).await, Ok(vec![1]));
    assert_eq!((Cluster::role(&first), Cluster::role(&second)), (Role::Leader, Role::Leader));
}

#[tokio::test]
async fn a_follower_outlives_an_absence_longer_than_all_its_deadlines() {
    let (backend, port) = (Backend::new(), free_port());
    backend.set("k", "v");
    let leader = lead::<Registry>(&backend, port, calm()).await;
    let deadline = Duration::from_millis(200);
    let options = Options { create_timeout: deadline, call_timeout: deadline, ..calm() };
    let user = follow::<Registry>(port, options).await;
    let mut watch = user.watch("k");
    assert_eq!(next(&mut watch).await, "v");
    Cluster::close(leader).await;
    assert_eq!(next(&mut watch).await, "stale disconnected");
    for _ in 0..5 {
        user.echo(vec![1]).await.unwrap_err();
    }
    let _leader = lead::<Registry>(&backend, port, calm()).await;
    let back = Instant::now();
    assert_eq!(next(&mut watch).await, "live v", "without a call by the user");
    assert!(back.elapsed() < Duration::from_secs(1), "{:?}", back.elapsed());
    assert_eq!(user.echo(vec![1]).await, Ok(vec![1]));
}

#[tokio::test]
async fn nothing_that_the_client_says_changes_the_role() {
    let backend = Backend::new();
    let user = builder(Role::Compete, free_port()).create(Arc::clone(&backend)).await.unwrap();
    // Names that mean something elsewhere are values like any other here.
    let mut watch = user.watch("close");
    for word in ["close", "error", "ready"] {
        until("opened", || backend.open_streams("close") == 1).await;
        backend.set("close", word);
        assert_eq!(next(&mut watch).await, word);
    }
    backend.report(Health::Lost("close".to_owned()));
    assert_eq!(next(&mut watch).await, "stale upstream_lost");
    assert_eq!(Cluster::role(&user), Role::Leader);
    backend.report(Health::Restored);
    assert_eq!(next(&mut watch).await, "live ready");
    assert_eq!(Cluster::role(&user), Role::Leader);
    assert_eq!(backend.connects.load(SeqCst), 1);
    assert_eq!(backend.closes.load(SeqCst), 0);
}
