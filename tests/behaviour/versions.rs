//! A follower of one build at a leader of another: two types that share the name of a channel.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use cluster_client::{Cluster, ErrorKind, Role, State, Subscription, cluster_client};
use futures::Stream;
use tokio::sync::watch;

use crate::support::{TOKEN, calm, next, port, soon, until};

/// What the leader serves: each topic gives what is sent here, as text.
struct Older(Arc<Upstream>);

struct Upstream {
    text: watch::Sender<String>,
    subscribes: AtomicUsize,
}

impl Upstream {
    fn new(text: &str) -> Arc<Self> {
        Arc::new(Self {
            text: watch::Sender::new(text.to_owned()),
            subscribes: AtomicUsize::new(0),
        })
    }
}

type Result<T> = std::result::Result<T, cluster_client::Error>;

#[cluster_client(name = "Versioned")]
impl Older {
    #[connect]
    async fn connect(upstream: Arc<Upstream>) -> Result<Self> {
        Ok(Self(upstream))
    }

    #[subscribe]
    fn number(&self) -> impl Stream<Item = String> {
        self.topic()
    }

    /// Keys that differ in case alone are one key.
    #[subscribe]
    fn of(&self, _key: Caseless) -> impl Stream<Item = String> {
        self.topic()
    }

    #[invoke]
    async fn same(&self) -> Result<u32> {
        Ok(1)
    }

    #[invoke]
    async fn gone(&self) -> Result<u32> {
        Ok(1)
    }

    #[invoke]
    async fn versioned(&self) -> Result<u32> {
        Ok(1)
    }

    #[invoke]
    async fn retyped(&self) -> Result<String> {
        Ok("not a number".to_owned())
    }

    #[invoke]
    async fn takes(&self, _number: u32) -> Result<u32> {
        Ok(1)
    }
}

impl Older {
    fn topic(&self) -> impl Stream<Item = String> + use<> {
        self.0.subscribes.fetch_add(1, SeqCst);
        futures::stream::unfold((self.0.text.subscribe(), true), |(mut text, first)| async move {
            if !first {
                text.changed().await.ok()?;
            }
            let value = text.borrow_and_update().clone();
            Some((value, (text, false)))
        })
    }
}

/// In the leader: equal whatever its case. It is encoded again in lower case.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Caseless(String);

impl serde::Serialize for Caseless {
    fn serialize<S: serde::Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        to.serialize_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for Caseless {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        Ok(Self(String::deserialize(from)?.to_lowercase()))
    }
}

/// The same channel as a later build knows it.
struct Newer;

#[cluster_client(name = "Versioned")]
impl Newer {
    #[connect]
    async fn connect() -> Result<Self> {
        Ok(Self)
    }

    #[invoke]
    async fn added(&self) -> Result<u32> {
        Ok(2)
    }

    /// The text must be one number.
    #[subscribe]
    fn number(&self) -> impl Stream<Item = Number> {
        futures::stream::pending()
    }

    #[subscribe]
    fn of(&self, _key: &str) -> impl Stream<Item = String> {
        futures::stream::pending()
    }

    #[invoke]
    async fn same(&self) -> Result<u32> {
        Ok(2)
    }

    #[invoke(version = 2)]
    async fn versioned(&self) -> Result<u32> {
        Ok(2)
    }

    #[invoke]
    async fn retyped(&self) -> Result<u32> {
        Ok(2)
    }

    #[invoke]
    async fn takes(&self, _number: String) -> Result<u32> {
        Ok(2)
    }
}

/// Decodes from the text of a number.
#[derive(Debug, serde::Serialize)]
struct Number(u64);

impl<'de> serde::Deserialize<'de> for Number {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map(Self).map_err(serde::de::Error::custom)
    }
}

impl std::fmt::Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

async fn cast(upstream: &Arc<Upstream>) -> (Cluster<Older>, Cluster<Newer>) {
    let older = Cluster::<Older>::builder().role(Role::Leader).port(0).token(TOKEN);
    let older = older.options(calm()).create(Arc::clone(upstream)).await.unwrap();
    let newer = Cluster::<Newer>::builder().role(Role::Follower).port(port(&older));
    let newer = newer.token(TOKEN).options(calm()).join().await.unwrap();
    (older, newer)
}

#[tokio::test]
async fn methods_that_differ_fail_alone_and_say_how() {
    let (_older, newer) = cast(&Upstream::new("1")).await;
    assert_eq!(newer.same().await.unwrap(), 1);
    let told = [
        (newer.added().await, "added", "no such method"),
        (newer.versioned().await, "versioned", "version"),
        (newer.retyped().await, "retyped", "does not decode in this process"),
        (newer.takes("one".to_owned()).await, "takes", "the leader can't read"),
    ];
    for (result, method, part) in told {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::MethodMismatch, "{error}");
        assert_eq!(error.method(), Some(method));
        assert!(error.to_string().contains(part), "{error}");
    }
    assert_eq!(newer.same().await.unwrap(), 1);
}

#[tokio::test]
async fn a_value_that_does_not_decode_makes_its_subscription_stale_and_no_other() {
    let upstream = Upstream::new("1");
    let (_older, newer) = cast(&upstream).await;
    let mut number = newer.number();
    let mut other = newer.of("k");
    assert_eq!(next(&mut number).await, "1");
    assert_eq!(next(&mut other).await, "1");
    upstream.text.send_replace("one".to_owned());
    assert_eq!(next(&mut number).await, "stale method_mismatch");
    let State::Stale { cause, .. } = number.state() else { panic!("{:?}", number.state()) };
    assert_eq!(cause.method(), Some("number"));
    assert_eq!(number.current().map(|number| number.0), Some(1), "the last good one");
    let ready = number.ready().await.unwrap();
    assert_eq!(ready.0, 1);
    assert_eq!(next(&mut other).await, "one");
    upstream.text.send_replace("2".to_owned());
    assert_eq!(next(&mut number).await, "2");
    assert!(matches!(number.state(), State::Live));
}

#[tokio::test]
async fn who_only_reads_the_current_value_is_shown_that_the_newest_does_not_decode() {
    let upstream = Upstream::new("1");
    let (_older, newer) = cast(&upstream).await;
    let number = newer.number();
    assert_eq!(number.ready().await.unwrap().0, 1);
    upstream.text.send_replace("one".to_owned());
    until("stale", || {
        assert_eq!(number.current().map(|number| number.0), Some(1));
        matches!(number.state(), State::Stale { .. })
    })
    .await;
}

#[tokio::test]
async fn a_first_value_that_does_not_decode_gives_no_value() {
    let upstream = Upstream::new("one");
    let (_older, newer) = cast(&upstream).await;
    let mut number = newer.number();
    assert_eq!(next(&mut number).await, "stale method_mismatch");
    assert!(number.current().is_none());
    let error = number.ready_within(std::time::Duration::from_millis(200)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    upstream.text.send_replace("2".to_owned());
    assert_eq!(next(&mut number).await, "2");
}

#[tokio::test]
async fn keys_that_differ_here_and_are_one_for_the_leader_are_one_upstream_subscription() {
    let upstream = Upstream::new("1");
    let (older, newer) = cast(&upstream).await;
    let mut watches: Vec<Subscription<String>> =
        ["key", "KEY", "Key"].iter().map(|key| newer.of(key)).collect();
    for watch in &mut watches {
        assert_eq!(next(watch).await, "1");
    }
    assert_eq!(Cluster::stats(&older).unwrap().topics, 1);
    assert_eq!(upstream.subscribes.load(SeqCst), 1);
    upstream.text.send_replace("2".to_owned());
    for watch in &mut watches {
        assert_eq!(next(watch).await, "2");
    }
    // Dropping one leaves the others, whichever it is.
    for left in (1..=2).rev() {
        drop(watches.remove(0));
        soon("a call", newer.same()).await.unwrap();
        upstream.text.send_replace(format!("{left} left"));
        for watch in &mut watches {
            assert_eq!(next(watch).await, format!("{left} left"));
        }
    }
    drop(watches);
    until("the upstream is let go", || Cluster::stats(&older).unwrap().topics == 0).await;
}

#[tokio::test]
async fn they_are_all_whole_after_the_leader_came_back() {
    let upstream = Upstream::new("1");
    let (older, newer) = cast(&upstream).await;
    let mut watches: Vec<_> = ["key", "KEY"].iter().map(|key| newer.of(key)).collect();
    for watch in &mut watches {
        assert_eq!(next(watch).await, "1");
    }
    let port = port(&older);
    Cluster::close(older).await;
    for watch in &mut watches {
        assert_eq!(next(watch).await, "stale disconnected");
    }
    let again = Cluster::<Older>::builder().role(Role::Leader).port(port).token(TOKEN);
    let _again = again.options(calm()).create(Arc::clone(&upstream)).await.unwrap();
    for watch in &mut watches {
        assert_eq!(next(watch).await, "live 1");
    }
    upstream.text.send_replace("2".to_owned());
    for watch in &mut watches {
        assert_eq!(next(watch).await, "2");
    }
}
