//! How the tests make clusters and wait for things.

use std::{future::Future, sync::Arc, time::Duration};

use cluster_client::{Change, Cluster, ClusterClient, ErrorKind, Options, Role, Subscription};

use crate::backend::Backend;

pub(crate) const TOKEN: &[u8] = b"a token of the tests";

/// Longest time that anything in a test may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Short timings, so that tests of loss take no longer than needed.
pub(crate) fn options() -> Options {
    Options {
        heartbeat: Duration::from_millis(100),
        stale_after: Duration::from_millis(400),
        linger: Duration::from_millis(150),
        grace: Duration::from_millis(300),
        create_timeout: Duration::from_secs(5),
        call_timeout: Duration::from_secs(5),
        ..Options::default()
    }
}

/// Where the user of a test sits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Place {
    Leader,
    Follower,
    Single,
}

/// A leader, and the end that the test uses.
pub(crate) struct Cast<T: ClusterClient> {
    pub(crate) leader: Cluster<T>,
    pub(crate) user: Cluster<T>,
    pub(crate) backend: Arc<Backend>,
}

pub(crate) async fn cast<T: ClusterClient<Options = Arc<Backend>>>(place: Place) -> Cast<T> {
    cast_with(place, options()).await
}

pub(crate) async fn cast_with<T: ClusterClient<Options = Arc<Backend>>>(
    place: Place,
    options: Options,
) -> Cast<T> {
    let backend = Backend::new();
    let leader = match place {
        Place::Single => single::<T>(&backend, options.clone()).await,
        Place::Leader | Place::Follower => lead::<T>(&backend, 0, options.clone()).await,
    };
    let user = match place {
        Place::Follower => follow(port(&leader), options).await,
        Place::Leader | Place::Single => leader.clone(),
    };
    Cast { leader, user, backend }
}

pub(crate) fn port<T: ClusterClient>(cluster: &Cluster<T>) -> u16 {
    Cluster::port(cluster).expect("it has a port")
}

pub(crate) async fn single<T: ClusterClient<Options = Arc<Backend>>>(
    backend: &Arc<Backend>,
    options: Options,
) -> Cluster<T> {
    // Single clients of one name share one real client; tests must not.
    static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    Cluster::<T>::builder()
        .channel(format!("single-{count}"))
        .role(Role::Single)
        .options(options)
        .create(Arc::clone(backend))
        .await
        .expect("a single client starts")
}

pub(crate) async fn lead<T: ClusterClient<Options = Arc<Backend>>>(
    backend: &Arc<Backend>,
    port: u16,
    options: Options,
) -> Cluster<T> {
    let create = || {
        let leader = Cluster::<T>::builder().role(Role::Leader).port(port).token(TOKEN);
        leader.options(options.clone()).create(Arc::clone(backend))
    };
    soon("a leader", async {
        loop {
            match create().await {
                // A process that another test starts has all descriptors of this one for a moment,
                // between fork and exec, and so the listener of the leader before.
                Err(error) if error.kind() == ErrorKind::PortBusy => {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                leader => return leader.expect("a leader starts"),
            }
        }
    })
    .await
}

pub(crate) async fn follow<T: ClusterClient>(port: u16, options: Options) -> Cluster<T> {
    Cluster::<T>::builder()
        .role(Role::Follower)
        .port(port)
        .token(TOKEN)
        .options(options)
        .join()
        .await
        .expect("a follower finds its leader")
}

/// Waits until something holds, with a deadline.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "never: {what}");
}

/// Bounds a wait.
pub(crate) async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("took too long: {what}"),
    }
}

/// The next change as a short text.
pub(crate) async fn next<T: std::fmt::Display + std::fmt::Debug + Send + Sync + 'static>(
    subscription: &mut Subscription<T>,
) -> String {
    show(&soon("the next change", subscription.changed()).await)
}

/// A change as a short text.
pub(crate) fn show<T: std::fmt::Display + std::fmt::Debug>(change: &Change<T>) -> String {
    match change {
        Change::Value { value, missed: 0 } => format!("{value}"),
        Change::Value { value, missed } => format!("{value} (missed {missed})"),
        Change::Live { value } => format!("live {value}"),
        Change::Stale { cause, .. } => format!("stale {}", cause.kind()),
        Change::Closed { cause } => format!("closed {}", cause.kind()),
        other => format!("{other:?}"),
    }
}

/// Timings for tests in which processes are stopped: long enough that a busy machine is not taken
/// for a dead process, short enough to wait for.
pub(crate) fn calm() -> Options {
    Options {
        heartbeat: Duration::from_millis(200),
        stale_after: Duration::from_millis(1_000),
        reconnect: (Duration::from_millis(10), Duration::from_millis(100)),
        grace: Duration::from_millis(800),
        ..options()
    }
}

/// A port that is free, and not among those that the system gives to outgoing connections, so that
/// it stays free until it is bound again.
pub(crate) fn free_port() -> u16 {
    let candidates = std::iter::repeat_with(|| fastrand::u16(10_240..32_768));
    let free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    candidates.into_iter().find(free).expect("the candidates don't end")
}

/// The next change that is not a loss or a return of the leader: a value.
pub(crate) async fn next_value<T: std::fmt::Display + Send + Sync + 'static>(
    subscription: &mut Subscription<T>,
) -> String {
    loop {
        if let Change::Value { value, .. } = soon("a value", subscription.changed()).await {
            return format!("{value}");
        }
    }
}
