//! Who finds whom: the order of start, refusals, several channels on one port.

use std::{
    future::{Future, poll_fn},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::Poll,
    time::{Duration, Instant},
};

use cluster_client::{Builder, Cluster, ErrorKind, Options, Role, cluster_client};
use futures::FutureExt as _;

use crate::{
    actor::Actor,
    backend::Backend,
    client::{Registration, json::JsonRegistry, packed::Registry},
    support::{TOKEN, calm, follow, free_port, lead, next, port, soon, until},
};

fn follower(port: u16) -> Builder<Registry> {
    Cluster::<Registry>::builder().role(Role::Follower).port(port).token(TOKEN).options(calm())
}

fn leader(port: u16) -> Builder<Registry> {
    Cluster::<Registry>::builder().role(Role::Leader).port(port).token(TOKEN).options(calm())
}

#[tokio::test]
async fn a_follower_that_comes_first_is_ready_as_soon_as_its_leader_is() {
    let port = free_port();
    let early = tokio::spawn(follower(port).join());
    tokio::time::sleep(Duration::from_millis(300)).await;
    let _leader = lead::<Registry>(&Backend::new(), port, calm()).await;
    let led = Instant::now();
    let user = soon("the follower", early).await.unwrap().unwrap();
    assert!(led.elapsed() < Duration::from_secs(1), "{:?}", led.elapsed());
    assert_eq!(user.echo(vec![1]).await, Ok(vec![1]));
}

#[tokio::test]
async fn a_follower_of_a_channel_that_comes_later_on_the_port_is_ready_with_it() {
    let other = lead::<JsonRegistry>(&Backend::new(), 0, calm()).await;
    let early = tokio::spawn(follower(port(&other)).join());
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!early.is_finished());
    let _leader = lead::<Registry>(&Backend::new(), port(&other), calm()).await;
    let led = Instant::now();
    soon("the follower", early).await.unwrap().unwrap();
    assert!(led.elapsed() < Duration::from_millis(500), "{:?}", led.elapsed());
}

#[tokio::test]
async fn a_channel_that_the_owner_of_the_port_does_not_lead_is_refused_with_its_pid() {
    let mut other = Actor::lead(0).await;
    let port: u16 = other.ask("port").await.parse().unwrap();
    let options = Options { create_timeout: Duration::from_millis(500), ..calm() };
    let error = follower(port).channel("unheard-of").options(options).join().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSuchChannel, "{error}");
    assert_eq!(error.channel(), Some("unheard-of"));
    assert!(error.to_string().contains(&other.pid().to_string()), "{error}");
    assert!(error.to_string().contains("Registry"), "it says what is led: {error}");
}

#[tokio::test]
async fn without_anybody_on_the_port_create_says_so_at_its_deadline() {
    let port = free_port();
    let options = Options { create_timeout: Duration::from_millis(300), ..calm() };
    let error = follower(port).options(options).join().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Disconnected, "{error}");
    assert!(error.to_string().contains(&format!("port {port}")), "{error}");
}

#[tokio::test]
async fn a_second_leader_of_a_channel_is_refused_and_another_channel_is_not() {
    let backend = Backend::new();
    let first = lead::<Registry>(&backend, 0, calm()).await;
    let port = port(&first);
    let error = leader(port).create(Arc::clone(&backend)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ChannelTaken, "{error}");
    assert_eq!(error.channel(), Some("Registry"));
    assert_eq!(backend.connects.load(SeqCst), 1, "and its client is not connected");
    let second = leader(port).channel("registry-eu").create(Arc::clone(&backend)).await.unwrap();
    assert_eq!(Cluster::channel(&second), "registry-eu");
    let joined = leader(port).join().await.unwrap();
    assert_eq!(joined.echo(vec![1]).await, Ok(vec![1]));
    assert_eq!(backend.connects.load(SeqCst), 2);
}

#[tokio::test]
async fn a_port_of_another_process_is_busy() {
    let mut other = Actor::lead(0).await;
    let port: u16 = other.ask("port").await.parse().unwrap();
    let error = leader(port).create(Backend::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PortBusy, "{error}");
    assert!(error.to_string().contains(&port.to_string()));
}

#[tokio::test]
async fn a_closed_leader_frees_its_port_though_followers_are_connected() {
    let port = free_port();
    let first = lead::<Registry>(&Backend::new(), port, calm()).await;
    let user = follow::<Registry>(port, calm()).await;
    let mut other = Actor::follow(port).await;
    Cluster::close(first).await;
    // By another process, so that nothing of the first leader could be taken over.
    let leader = Actor::lead(port).await;
    assert_eq!(soon("a call", user.echo(vec![1])).await, Ok(vec![1]));
    assert_eq!(other.ask("echo x").await, "x");
    drop(leader);
}

#[tokio::test]
async fn another_token_is_refused_on_both_ends() {
    let leader = lead::<Registry>(&Backend::new(), 0, calm()).await;
    let wrong = follower(port(&leader)).token(&b"another token of 16 bytes"[..]);
    let error = soon("the refusal", wrong.join()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error}");
    let short = follower(port(&leader)).token(&b"short"[..]).join().await.unwrap_err();
    assert_eq!(short.kind(), ErrorKind::Config, "{short}");
    assert_eq!(Cluster::stats(&leader).unwrap().followers, 1);
}

#[tokio::test]
async fn another_codec_is_refused_with_both_names() {
    let leader = lead::<Registry>(&Backend::new(), 0, calm()).await;
    let other = Cluster::<JsonRegistry>::builder()
        .channel("Registry")
        .role(Role::Follower)
        .port(port(&leader))
        .token(TOKEN)
        .join()
        .await
        .unwrap_err();
    assert_eq!(other.kind(), ErrorKind::CodecMismatch, "{other}");
    assert!(other.to_string().contains("json"), "{other}");
    assert!(other.to_string().contains("messagepack"), "{other}");
}

#[tokio::test]
async fn a_client_that_cannot_connect_fails_all_who_wait_and_can_be_tried_again() {
    let (backend, port) = (Backend::new(), free_port());
    // Another channel, so that the followers have somebody to wait at.
    let _other = lead::<JsonRegistry>(&Backend::new(), port, calm()).await;
    let waiting: Vec<_> = (0..3).map(|_| tokio::spawn(follower(port).join())).collect();
    let mut distant = Actor::spawn("follow", port, calm().drop_after);
    tokio::time::sleep(Duration::from_millis(500)).await;
    backend.fail_connect.store(true, SeqCst);
    let error = leader(port).create(Arc::clone(&backend)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connect, "{error}");
    assert_eq!(error.code(), Some("REFUSED"));
    for waiting in waiting {
        let told = soon("a waiting create", waiting).await.unwrap().unwrap_err();
        assert_eq!((told.kind(), told.code()), (error.kind(), error.code()), "{told}");
    }
    assert_eq!(distant.reply().await, "connect");
    backend.fail_connect.store(false, SeqCst);
    let _leader = leader(port).create(Arc::clone(&backend)).await.unwrap();
    let user = follower(port).join().await.unwrap();
    assert_eq!(user.echo(vec![1]).await, Ok(vec![1]));
}

#[tokio::test]
async fn closing_one_channel_leaves_the_others_and_tells_its_own_followers() {
    let (backend, other_backend) = (Backend::new(), Backend::new());
    let first = lead::<Registry>(&backend, 0, calm()).await;
    let port = port(&first);
    let second = leader(port).channel("two").create(Arc::clone(&other_backend)).await.unwrap();
    let user = follow::<Registry>(port, calm()).await;
    let other = follower(port).channel("two").join().await.unwrap();
    backend.set("k", "v");
    other_backend.set("k", "v");
    let (mut watch, mut untouched) = (user.watch("k"), other.watch("k"));
    assert_eq!(next(&mut watch).await, "v");
    assert_eq!(next(&mut untouched).await, "v");
    Cluster::close(first).await;
    assert_eq!(next(&mut watch).await, "stale disconnected");
    assert_eq!(backend.closes.load(SeqCst), 1);
    assert_eq!(other_backend.closes.load(SeqCst), 0);
    other_backend.set("k", "w");
    assert_eq!(next(&mut untouched).await, "w");
    assert_eq!(other.echo(vec![1]).await, Ok(vec![1]));
    // The port lives as long as one channel does.
    Cluster::close(second).await;
    assert_eq!(next(&mut untouched).await, "stale disconnected");
    let free = || std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
    until("the port is free", free).await;
}

/// Polls a future this often, with other tasks in between; its output, if it was done by then.
async fn polled<F: Future>(future: F, times: usize) -> Option<F::Output> {
    let mut future = Box::pin(future);
    for _ in 0..times {
        let poll = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await;
        if let Poll::Ready(output) = poll {
            return Some(output);
        }
        tokio::task::yield_now().await;
    }
    None
}

#[tokio::test]
async fn a_close_that_is_dropped_at_any_await_goes_on_in_the_background() {
    for polls in 1.. {
        let backend = Backend::new();
        let leader = lead::<Registry>(&backend, 0, calm()).await;
        leader.publish(Registration::new("k", "a")).await.unwrap();
        let closed = polled(Cluster::close(leader), polls).await;
        until("closed", || backend.closes.load(SeqCst) == 1).await;
        until("withdrawn", || backend.registered().is_empty()).await;
        if closed.is_some() {
            break;
        }
    }
}

#[tokio::test]
async fn nobody_else_can_lead_before_the_client_is_closed() {
    let (backend, port) = (Backend::new(), free_port());
    let leader = lead::<Registry>(&backend, port, calm()).await;
    leader.publish(Registration::new("k", "a")).await.unwrap();
    let closing = tokio::spawn(Cluster::close(leader));
    while std::net::TcpListener::bind(("127.0.0.1", port)).is_err() {
        tokio::task::yield_now().await;
    }
    assert!(backend.registered().is_empty());
    assert_eq!(backend.closes.load(SeqCst), 1);
    soon("closed", closing).await.unwrap();
}

#[tokio::test]
async fn a_create_that_is_dropped_at_any_await_leaves_nothing_behind() {
    for role in [Role::Leader, Role::Compete] {
        for polls in 1.. {
            let (backend, port) = (Backend::new(), free_port());
            let create = follower(port).role(role).create(Arc::clone(&backend));
            if polled(create, polls).await.is_some() {
                break;
            }
            let free = || std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
            until("the port is free", free).await;
            let _another = lead::<Registry>(&backend, port, calm()).await;
        }
    }
    let leader = lead::<Registry>(&Backend::new(), 0, calm()).await;
    for polls in 1.. {
        let created = polled(follower(port(&leader)).join(), polls).await;
        let left = 1 + usize::from(created.is_some());
        until("gone", || Cluster::stats(&leader).unwrap().followers == left).await;
        if created.is_some() {
            break;
        }
    }
}

/// Takes a turn to connect, and counts the clients that are connected.
struct Counted(Arc<AtomicUsize>);

#[cluster_client]
impl Counted {
    #[connect]
    async fn connect(count: Arc<AtomicUsize>) -> Result<Self, cluster_client::Error> {
        tokio::task::yield_now().await;
        count.fetch_add(1, SeqCst);
        Ok(Self(count))
    }

    #[invoke]
    async fn count(&self) -> Result<usize, cluster_client::Error> {
        Ok(self.0.load(SeqCst))
    }

    #[close]
    async fn close(&self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

#[tokio::test]
async fn single_clients_that_start_at_once_share_one() {
    let count = Arc::new(AtomicUsize::new(0));
    let create = || Cluster::<Counted>::builder().role(Role::Single).create(Arc::clone(&count));
    let (first, second) = tokio::join!(create(), create());
    let third = create().await.unwrap();
    for client in [first.unwrap(), second.unwrap(), third] {
        assert_eq!(client.count().await.unwrap(), 1);
    }
}

#[tokio::test]
async fn a_close_that_is_dropped_closes_the_client_all_the_same() {
    let count = Arc::new(AtomicUsize::new(0));
    let builder = Cluster::<Counted>::builder().channel("dropped").role(Role::Single);
    let client = builder.create(Arc::clone(&count)).await.unwrap();
    let other = client.clone();
    assert!(Cluster::close(client).now_or_never().is_none());
    until("closed", || count.load(SeqCst) == 0).await;
    drop(other);
}
