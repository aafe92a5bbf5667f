//! Peers that break the rules: each gets a clear answer, or is closed with a reason in the log, and
//! nobody else notices.

mod handshake;
mod impostor;
mod packets;
mod wire;

use std::{
    future::Future,
    sync::{Arc, LazyLock, Mutex, PoisonError},
    time::{Duration, Instant},
};

use cluster_client::{Cluster, Error, Options, Role, cluster_client};
use futures::Stream;
use tracing::field::{Field, Visit};

/// The wire contract, compiled by `build.rs`.
#[expect(clippy::allow_attributes, reason = "of a whole module, dead code can't be expected")]
#[allow(dead_code, unreachable_pub, reason = "generated code")]
pub(crate) mod pb {
    include!(concat!(env!("OUT_DIR"), "/cluster.v1.rs"));
}

pub(crate) const TOKEN: &[u8] = b"a token of the tests";

struct Echo;

#[cluster_client]
impl Echo {
    #[connect]
    async fn connect() -> Result<Self, Error> {
        Ok(Self)
    }

    #[invoke]
    async fn echo(&self, number: u32) -> Result<u32, Error> {
        Ok(number)
    }

    #[subscribe]
    fn watch(&self, number: u32) -> impl Stream<Item = u32> {
        futures::StreamExt::chain(
            futures::stream::iter([number]),
            futures::stream::pending::<u32>(),
        )
    }

    #[invoke]
    async fn slow(&self) -> Result<u32, Error> {
        std::future::pending().await
    }

    #[invoke(oneway)]
    async fn note(&self, _number: u32) -> Result<(), Error> {
        std::future::pending().await
    }
}

pub(crate) fn options() -> Options {
    Options {
        handshake: Duration::from_millis(600),
        create_timeout: Duration::from_secs(2),
        max_payload: 1 << 20,
        max_queued: 2 << 20,
        max_in_flight: 100,
        max_subscriptions: 50,
        linger: Duration::from_millis(50),
        reconnect: (Duration::from_millis(10), Duration::from_millis(50)),
        ..Options::default()
    }
}

/// A leader and a follower that must not notice what is done to the leader.
pub(crate) struct Victim {
    pub(crate) leader: Cluster<Echo>,
    pub(crate) other: Cluster<Echo>,
    pub(crate) port: u16,
}

impl Victim {
    pub(crate) async fn new() -> Self {
        LazyLock::force(&LOG);
        let leader = Cluster::<Echo>::builder().role(Role::Leader).port(0).token(TOKEN);
        let leader = leader.options(options()).create(()).await.unwrap();
        let port = Cluster::port(&leader).unwrap();
        let other = follower(port).await.unwrap();
        Self { leader, other, port }
    }

    /// The follower's calls are answered, at once.
    pub(crate) async fn is_well(&self) {
        let begin = Instant::now();
        assert_eq!(soon("an echo", self.other.echo(7)).await.unwrap(), 7);
        assert!(begin.elapsed() < Duration::from_secs(1), "it took {:?}", begin.elapsed());
        assert_eq!(Cluster::stats(&self.leader).unwrap().panics, 0);
    }

    /// Nobody is registered but the leader's own process and the follower.
    pub(crate) async fn is_alone(&self) {
        until("alone", || Cluster::stats(&self.leader).unwrap().followers == 2).await;
    }
}

pub(crate) async fn follower(port: u16) -> Result<Cluster<Echo>, Error> {
    let follower = Cluster::<Echo>::builder().role(Role::Follower).port(port).token(TOKEN);
    soon("a follower", follower.options(options()).join()).await
}

/// Bounds a wait.
pub(crate) async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(Duration::from_secs(10), future).await {
        Ok(output) => output,
        Err(_) => panic!("took too long: {what}"),
    }
}

/// Waits until something holds.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    soon(what, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

/// Waits until the log of this process has a line with both texts.
pub(crate) async fn logged(port: u16, text: &str) {
    let port = format!("port={port} ");
    until(&format!("{port}{text} in the log"), || {
        let lines = LOG.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().any(|line| line.contains(&port) && line.contains(text))
    })
    .await;
}

/// All that was logged.
static LOG: LazyLock<Log> = LazyLock::new(|| {
    let log = Log::default();
    tracing::subscriber::set_global_default(log.clone()).expect("nobody else has set one");
    log
});

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl tracing::Subscriber for Log {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.is_event()
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        struct Line(String);
        impl Visit for Line {
            fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
                self.0 += &format!("{}={value:?} ", field.name());
            }
        }
        let mut line = Line(String::new());
        event.record(&mut line);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line.0);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}
