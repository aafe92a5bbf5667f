//! Calls at their limits, and clients that fail in other ways than with an error.

use std::{
    sync::atomic::Ordering::SeqCst,
    time::{Duration, Instant},
};

use cluster_client::{Cluster, ErrorKind, Options, Role, State, cluster_client};
use futures::{Stream, future::join_all};

use crate::{
    backend::Backend,
    client::{RegistryError, packed::Registry},
    support::{TOKEN, calm, follow, lead, next, port, soon, until},
};

/// A client whose methods fail without returning an error.
struct Awkward;

type Result<T> = std::result::Result<T, cluster_client::Error>;

/// Has no form in any codec.
#[derive(Debug, serde::Deserialize)]
struct Formless;

impl serde::Serialize for Formless {
    fn serialize<S: serde::Serializer>(&self, _: S) -> std::result::Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("it has no form"))
    }
}

#[cluster_client]
impl Awkward {
    #[connect]
    async fn connect() -> Result<Self> {
        Ok(Self)
    }

    #[invoke]
    async fn gives_formless(&self) -> Result<Formless> {
        Ok(Formless)
    }

    #[invoke]
    async fn takes_formless(&self, _formless: Formless) -> Result<()> {
        Ok(())
    }

    #[invoke(oneway)]
    fn panics_at_once(&self) {
        panic!("not even a future");
    }

    #[invoke(oneway)]
    async fn panics_later(&self) {
        tokio::task::yield_now().await;
        panic!("in its future");
    }

    #[subscribe]
    fn panics_instead_of_a_stream(&self) -> impl Stream<Item = u32> {
        assert!(self.is_well(), "no stream");
        futures::stream::pending()
    }

    #[invoke]
    async fn sum(&self, numbers: &[u32], a: u32, b: u32, c: u32, d: u32, e: u32) -> Result<u32> {
        Ok(numbers.iter().sum::<u32>() + a + b + c + d + e)
    }

    #[invoke]
    async fn nothing(&self) -> Result<()> {
        Ok(())
    }
}

impl Awkward {
    fn is_well(&self) -> bool {
        false
    }
}

async fn awkward() -> (Cluster<Awkward>, Cluster<Awkward>) {
    let leader = Cluster::<Awkward>::builder().role(Role::Leader).port(0).token(TOKEN);
    let leader = leader.options(calm()).create(()).await.unwrap();
    let user = follow::<Awkward>(port(&leader), calm()).await;
    (leader, user)
}

fn is_kind<T: std::fmt::Debug>(
    result: &std::result::Result<T, RegistryError>,
    wanted: &str,
) -> bool {
    matches!(result, Err(RegistryError::Link(kind, _)) if kind == wanted)
}

fn is_starting_with(state: &State, kind: ErrorKind) -> bool {
    matches!(state, State::Starting { cause: Some(cause), .. } if cause.kind() == kind)
}

#[tokio::test]
async fn methods_take_any_number_of_arguments_and_give_nothing_too() {
    let (_leader, user) = awkward().await;
    assert_eq!(user.nothing().await.unwrap(), ());
    assert_eq!(user.sum(&[], 1, 2, 3, 4, 5).await.unwrap(), 15);
    assert_eq!(user.sum(&[6, 7], 1, 2, 3, 4, 5).await.unwrap(), 28);
}

#[tokio::test]
async fn what_has_no_form_in_the_codec_is_an_error_of_its_call_at_once() {
    let (_leader, user) = awkward().await;
    for error in [
        soon("the answer", user.gives_formless()).await.unwrap_err(),
        soon("the answer", user.takes_formless(Formless)).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Encode, "{error}");
        assert!(error.to_string().contains("it has no form"), "{error}");
        assert!(error.method().is_some_and(|method| method.ends_with("formless")), "{error}");
    }
    user.nothing().await.unwrap();
}

#[tokio::test]
async fn a_panic_outside_of_a_future_or_in_a_oneway_call_is_counted_and_ends_nothing() {
    let (leader, user) = awkward().await;
    user.panics_at_once();
    user.panics_later().await;
    until("counted", || Cluster::stats(&leader).unwrap().oneway_failures == 2).await;
    let broken = user.panics_instead_of_a_stream();
    until("told", || is_starting_with(&broken.state(), ErrorKind::Panicked)).await;
    user.nothing().await.unwrap();
    assert!(Cluster::down(&user).is_none());
}

#[tokio::test]
async fn what_is_over_the_size_limit_is_refused_by_name_and_the_link_stays() {
    let backend = Backend::new();
    let leader = lead::<Registry>(&backend, 0, Options { max_payload: 100_000, ..calm() }).await;
    let user = follow::<Registry>(port(&leader), calm()).await;
    backend.set("k", &"x".repeat(200_000));
    let mut watch = user.watch("k");
    until("told", || is_starting_with(&watch.state(), ErrorKind::TooLarge)).await;
    let sent = user.echo(vec![0; 200_000]).await;
    assert!(is_kind(&sent, "too_large"), "{:?}", sent.map(|bytes| bytes.len()));
    assert_eq!(backend.calls.load(SeqCst), 0);
    let given = user.get("k").await;
    assert!(is_kind(&given, "too_large"), "{:?}", given.map(|text| text.len()));
    backend.set("k", "small");
    assert_eq!(next(&mut watch).await, "small");
    assert_eq!(user.echo(vec![0; 90_000]).await.map(|bytes| bytes.len()), Ok(90_000));
    assert!(Cluster::down(&user).is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_calls_do_not_wait_behind_a_large_one() {
    const LARGE: usize = 2 << 20;
    // Slow, where the machine is busy and the build is not optimized.
    let options = Options { call_timeout: Duration::from_secs(60), ..calm() };
    let leader = lead::<Registry>(&Backend::new(), 0, options.clone()).await;
    let user = follow::<Registry>(port(&leader), options).await;
    let large = tokio::spawn({
        let (user, bytes) = (user.clone(), vec![7; LARGE]);
        async move { user.echo(bytes).await }
    });
    let mut small = 0;
    while !large.is_finished() {
        assert_eq!(user.echo(vec![1]).await, Ok(vec![1]));
        small += 1;
    }
    assert_eq!(large.await.unwrap().map(|bytes| bytes.len()), Ok(LARGE));
    assert!(small > 10, "only {small} calls were answered meanwhile");
}

#[tokio::test]
async fn a_call_longer_than_any_silence_keeps_its_link() {
    let options = Options { drop_after: calm().stale_after, ..calm() };
    let backend = Backend::new();
    backend.set("k", "v");
    let leader = lead::<Registry>(&backend, 0, options.clone()).await;
    let user = follow::<Registry>(port(&leader), options.clone()).await;
    let mut watch = user.watch("k");
    assert_eq!(next(&mut watch).await, "v");
    let call = tokio::spawn({
        let user = user.clone();
        async move { user.slow().await }
    });
    until("called", || backend.calls.load(SeqCst) == 1).await;
    // This is how long the call takes, not a wait for something.
    tokio::time::sleep(options.drop_after * 2).await;
    backend.gate.notify_waiters();
    assert_eq!(soon("the call", call).await.unwrap(), Ok(0));
    backend.set("k", "w");
    assert_eq!(next(&mut watch).await, "w", "and no stale before it");
}

#[tokio::test]
async fn calls_over_the_limit_wait_their_turn_and_oneway_calls_do_not() {
    let backend = Backend::new();
    let leader = lead::<Registry>(&backend, 0, calm()).await;
    let user = follow::<Registry>(port(&leader), Options { max_in_flight: 3, ..calm() }).await;
    let calls: Vec<_> = (0..9)
        .map(|_| {
            let user = user.clone();
            tokio::spawn(async move { user.slow().await })
        })
        .collect();
    for turn in 1..=3 {
        until("called", || backend.calls.load(SeqCst) >= turn * 3).await;
        user.note(turn.to_string()).await.unwrap();
        until("noted", || backend.log().len() as u64 == turn).await;
        assert_eq!(backend.calls.load(SeqCst), turn * 3, "three at a time");
        backend.gate.notify_waiters();
    }
    for call in calls {
        assert!(soon("a call", call).await.unwrap().is_ok());
    }
}

#[tokio::test]
async fn each_of_many_concurrent_calls_gets_its_own_answer() {
    let backend = Backend::new();
    let leader = lead::<Registry>(&backend, 0, calm()).await;
    let user = follow::<Registry>(port(&leader), calm()).await;
    // One that is not answered before the others are.
    let first = tokio::spawn({
        let user = user.clone();
        async move { user.slow().await }
    });
    until("called", || backend.calls.load(SeqCst) == 1).await;
    let calls = (0..3_000_u32).map(|number| {
        let user = &user;
        async move { (number, user.echo(number.to_be_bytes().to_vec()).await) }
    });
    for (number, answer) in soon("the answers", join_all(calls)).await {
        assert_eq!(answer, Ok(number.to_be_bytes().to_vec()));
    }
    assert!(!first.is_finished());
    backend.gate.notify_waiters();
    assert_eq!(soon("the first", first).await.unwrap(), Ok(0));
}

#[tokio::test]
async fn small_packets_are_not_held_back() {
    let leader = lead::<Registry>(&Backend::new(), 0, calm()).await;
    let user = follow::<Registry>(port(&leader), calm()).await;
    let mut times = Vec::new();
    for _ in 0..200 {
        let start = Instant::now();
        // Two packets in a row, of which a socket that waits for more would hold back the second.
        user.note(String::new()).await.unwrap();
        user.echo(vec![1]).await.unwrap();
        times.push(start.elapsed());
    }
    times.sort_unstable();
    assert!(times[100] < Duration::from_millis(20), "{:?}", times[100]);
}
