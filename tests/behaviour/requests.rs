//! What becomes of calls when the leader goes.

use std::{
    error::Error as _,
    pin::Pin,
    sync::{Arc, Mutex, atomic::Ordering::SeqCst, mpsc},
    task::{Context, Wake, Waker},
};

use cluster_client::{Cluster, ErrorKind, Options, State};

use crate::{
    actor::Actor,
    backend::Backend,
    client::{Registration, RegistryError, packed::Registry},
    support::{calm, follow, free_port, lead, port, soon, until},
};

fn is_kind<T: std::fmt::Debug>(result: &Result<T, RegistryError>, wanted: &str) -> bool {
    matches!(result, Err(RegistryError::Link(kind, _)) if kind == wanted)
}

#[tokio::test]
async fn an_unsent_call_waits_for_the_next_leader() {
    let (backend, port) = (Backend::new(), free_port());
    let leader = lead::<Registry>(&backend, port, calm()).await;
    let user = follow::<Registry>(port, calm()).await;
    Cluster::close(leader).await;
    until("lost", || Cluster::down(&user).is_some()).await;
    let call = tokio::spawn({
        let user = user.clone();
        async move { user.echo(vec![1]).await }
    });
    let publish = tokio::spawn({
        let user = user.clone();
        async move { user.publish(Registration::new("k", "a")).await }
    });
    let _leader = lead::<Registry>(&backend, port, calm()).await;
    assert_eq!(soon("the call", call).await.unwrap(), Ok(vec![1]));
    assert_eq!(soon("the publish", publish).await.unwrap(), Ok(()));
    assert_eq!(backend.registered(), ["k=a#1"]);
}

#[tokio::test]
async fn a_sent_call_fails_and_an_idempotent_one_is_sent_again() {
    let (backend, port) = (Backend::new(), free_port());
    let leader = lead::<Registry>(&backend, port, calm()).await;
    let user = follow::<Registry>(port, calm()).await;
    let call = tokio::spawn({
        let user = user.clone();
        async move { user.slow().await }
    });
    let idempotent = tokio::spawn({
        let user = user.clone();
        async move { user.slow_idempotent().await }
    });
    until("called", || backend.calls.load(SeqCst) == 2).await;
    Cluster::close(leader).await;
    let lost = soon("the call", call).await.unwrap();
    assert!(is_kind(&lost, "leader_lost"), "{lost:?}");
    until("cancelled with the leader", || backend.cancelled.load(SeqCst) == 2).await;
    let backend = Backend::new();
    let _leader = lead::<Registry>(&backend, port, calm()).await;
    until("sent again", || backend.calls.load(SeqCst) == 1).await;
    backend.gate.notify_waiters();
    assert_eq!(soon("the idempotent call", idempotent).await.unwrap(), Ok(0));
    assert_eq!(backend.calls.load(SeqCst), 1);
}

#[tokio::test]
async fn a_call_that_was_answered_before_the_loss_keeps_its_answer() {
    let port = free_port();
    let leader = Actor::lead(port).await;
    let user = follow::<Registry>(port, calm()).await;
    // The leader takes nothing from the link while it is frozen; then it dies.
    leader.freeze();
    let call = tokio::spawn({
        let user = user.clone();
        async move { user.echo(vec![1]).await }
    });
    let idempotent = tokio::spawn({
        let user = user.clone();
        async move { user.publish(Registration::new("k", "a")).await }
    });
    tokio::task::yield_now().await;
    leader.kill();
    let lost = soon("the call", call).await.unwrap();
    assert!(is_kind(&lost, "leader_lost"), "{lost:?}");
    let mut leader = Actor::lead(port).await;
    assert_eq!(soon("the publish", idempotent).await.unwrap(), Ok(()));
    assert_eq!(leader.ask("log").await, "publish k=a#1");
}

#[tokio::test]
async fn without_a_leader_a_call_ends_at_its_deadline_with_the_cause() {
    let (backend, port) = (Backend::new(), free_port());
    let leader = lead::<Registry>(&backend, port, calm()).await;
    let options = Options { call_timeout: std::time::Duration::from_millis(300), ..calm() };
    let user = follow::<Registry>(port, options).await;
    Cluster::close(leader).await;
    until("lost", || Cluster::down(&user).is_some()).await;
    let error = user.plain().await.unwrap_err().0;
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert_eq!(error.method(), Some("plain"));
    let cause = error.source().expect("why there is no leader").to_string();
    assert!(cause.contains(&port.to_string()), "{cause}");
    let published = user.publish(Registration::new("k", "a")).await;
    assert!(is_kind(&published, "timeout"), "{published:?}");
    // Given up: it is not published behind the back of the caller.
    let _leader = lead::<Registry>(&backend, port, calm()).await;
    until("back", || Cluster::down(&user).is_none()).await;
    user.echo(Vec::new()).await.unwrap();
    assert_eq!(backend.log(), [""; 0]);
}

#[tokio::test]
async fn a_frozen_leader_fails_no_call_before_its_deadline() {
    let port = free_port();
    let leader = Actor::lead(port).await;
    let user = follow::<Registry>(port, calm()).await;
    let mut watch = user.watch("k");
    leader.freeze();
    let call = tokio::spawn({
        let user = user.clone();
        async move { user.echo(vec![1]).await }
    });
    until("told", || matches!(watch.state(), State::Starting { cause: Some(_), .. })).await;
    assert!(!call.is_finished(), "{:?}", call.await);
    leader.thaw();
    assert_eq!(soon("the call", call).await.unwrap(), Ok(vec![1]));
    assert!(watch.current().is_none());
    drop(watch.changed());
}

#[tokio::test]
async fn oneway_without_a_leader_says_so_at_once() {
    let (backend, port) = (Backend::new(), free_port());
    let leader = lead::<Registry>(&backend, port, calm()).await;
    let user = follow::<Registry>(port, calm()).await;
    Cluster::close(leader).await;
    until("lost", || Cluster::down(&user).is_some()).await;
    let noted = user.note("x".to_owned()).await;
    assert!(is_kind(&noted, "disconnected"), "{noted:?}");
}

#[tokio::test]
async fn what_is_too_large_for_a_new_leader_fails_alone() {
    let (backend, port) = (Backend::new(), free_port());
    let leader = lead::<Registry>(&backend, port, calm()).await;
    let user = follow::<Registry>(port, calm()).await;
    let large = "x".repeat(2_000);
    user.publish(Registration::new("k", &large)).await.unwrap();
    let watch = user.watch(&large);
    Cluster::close(leader).await;
    until("lost", || Cluster::down(&user).is_some()).await;
    let call = tokio::spawn({
        let user = user.clone();
        async move { user.echo(vec![1; 2_000]).await }
    });
    // A current-thread runtime: it runs until it waits.
    tokio::task::yield_now().await;
    let options = Options { max_payload: 1_000, ..calm() };
    let leader = lead::<Registry>(&backend, port, options).await;
    let refused = soon("the call", call).await.unwrap();
    assert!(is_kind(&refused, "too_large"), "{refused:?}");
    assert_eq!(soon("a small call", user.echo(vec![1])).await, Ok(vec![1]));
    assert_eq!(Cluster::replay_failures(&user), 1);
    let State::Starting { cause, .. } = watch.state() else { panic!("{:?}", watch.state()) };
    assert_eq!(cause.unwrap().kind(), ErrorKind::TooLarge);
    assert_eq!(Cluster::stats(&leader).unwrap().followers, 2, "the link is still up");
}

#[tokio::test]
async fn a_key_that_is_too_large_is_refused_here() {
    let backend = Backend::new();
    let options = Options { max_payload: 1_000, ..calm() };
    let leader = lead::<Registry>(&backend, 0, options.clone()).await;
    let user = follow::<Registry>(port(&leader), options).await;
    let watch = user.watch(&"x".repeat(2_000));
    let State::Closed { cause } = watch.state() else { panic!("{:?}", watch.state()) };
    assert_eq!(cause.kind(), ErrorKind::TooLarge);
    assert_eq!(user.echo(vec![1]).await, Ok(vec![1]));
}

/// A task of another executor that is gone: all that keeps it, and its call, is a waker of it.
struct Orphan {
    /// It is there to be dropped.
    _task: Mutex<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Wake for Orphan {
    fn wake(self: Arc<Self>) {}
}

#[tokio::test]
async fn a_waker_may_hold_the_last_of_a_task_with_a_call_of_its_own() {
    let backend = Backend::new();
    let user = lead::<Registry>(&backend, 0, calm()).await;
    let call = || {
        let user = user.clone();
        let mut call: Pin<Box<dyn Future<Output = ()> + Send>> =
            Box::pin(async move { drop(user.slow().await) });
        let polled = call.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending());
        call
    };
    let orphan = || Waker::from(Arc::new(Orphan { _task: Mutex::new(call()) }));
    // Polled by the orphan first, then by this task; and polled by the orphan, then dropped.
    let (mut moved, mut dropped) = (call(), call());
    for call in [&mut moved, &mut dropped] {
        assert!(call.as_mut().poll(&mut Context::from_waker(&orphan())).is_pending());
    }
    let (done, is_done) = mpsc::channel();
    std::thread::spawn(move || {
        let _ = moved.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        drop(dropped);
        let _ = done.send(());
    });
    until("no deadlock", || is_done.try_recv().is_ok()).await;
}
