//! Clients that are used outside of the runtime that they were made in: in a thread without any, in a
//! runtime without a timer, and while their own is blocked.

use std::{
    pin::pin,
    sync::{Arc, atomic::Ordering::SeqCst},
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::{Duration, Instant},
};

use cluster_client::{Cluster, Delivery, ErrorKind, Options, Subscription};
use futures::future::join;

use crate::{
    backend::Backend,
    client::{Registration, RegistryError, packed::Registry},
    support::{Cast, PATIENCE, Place, cast_with, options, soon, until},
};

/// What a thread waits with that knows of no runtime.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park_timeout(PATIENCE),
        }
    }
}

/// Runs it to its end in a plain thread, while this runtime goes on.
async fn in_a_thread<R: Send + 'static>(what: &str, run: impl FnOnce() -> R + Send + 'static) -> R {
    let (done, mut ends) = tokio::sync::mpsc::channel(1);
    let thread = thread::spawn(move || done.blocking_send(run()).ok());
    let result = soon(what, ends.recv()).await;
    thread.join().unwrap();
    result.expect("it does not panic")
}

/// All that a user can do with a client.
async fn use_all(user: Cluster<Registry>, backend: Arc<Backend>) {
    assert_eq!(user.get("k").await, Ok("v".to_owned()));
    let mut watch = user.watch("k");
    assert_eq!(*watch.ready().await.unwrap(), "v");
    assert_eq!(crate::support::show(&watch.changed().await), "v");
    let never = user.watch("nothing").ready_within(Duration::from_millis(20)).await;
    assert_eq!(never.unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(*user.watch_known("k".to_owned()).await.unwrap().ready().await.unwrap(), "v");
    let refused = user.watch_known("nope".to_owned()).await.unwrap_err();
    assert_eq!(refused, RegistryError::NotFound { key: "nope".to_owned() });
    let registration = Registration::new("k", "u");
    user.publish(registration.clone()).await.unwrap();
    assert_eq!(backend.registered(), ["k=u#1"]);
    user.unpublish(registration).await.unwrap();
    backend.add_work("w");
    Delivery::ack(user.work().recv().await.unwrap());
    let late = user.hasty().await.unwrap_err();
    assert!(matches!(&late, RegistryError::Link(kind, _) if kind == "timeout"), "{late:?}");
    user.note("noted".to_owned()).await.unwrap();
    Cluster::close(user).await;
}

fn timerless() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

async fn everything_works(place: Place) {
    for has_runtime in [false, true] {
        let Cast { leader, user, backend } = cast_with(place, options()).await;
        backend.set("k", "v");
        let used = use_all(user, Arc::clone(&backend));
        in_a_thread("all", move || match has_runtime {
            false => block_on(used),
            true => timerless().block_on(used),
        })
        .await;
        until("the note", || backend.log().ends_with(&["noted".to_owned()])).await;
        drop(leader);
    }
}

#[tokio::test]
async fn everything_works_elsewhere_in_the_leader() {
    everything_works(Place::Leader).await;
}

#[tokio::test]
async fn everything_works_elsewhere_in_a_follower() {
    everything_works(Place::Follower).await;
}

#[tokio::test]
async fn everything_works_elsewhere_alone() {
    everything_works(Place::Single).await;
}

#[tokio::test]
async fn calls_wait_for_room_elsewhere() {
    let one = Options { max_in_flight: 1, ..options() };
    let Cast { leader: _leader, user, backend } = cast_with::<Registry>(Place::Follower, one).await;
    // The second waits for room until its deadline, the third until the first is answered.
    let (first, second, third) = (user.clone(), user.clone(), user);
    let gate = Arc::clone(&backend);
    in_a_thread("the calls", move || {
        block_on(async {
            let full = async {
                let late = second.hasty().await.unwrap_err();
                assert!(matches!(&late, RegistryError::Link(kind, _) if kind == "overloaded"));
                let open = async { gate.gate.notify_one() };
                let (echoed, ()) = join(third.echo(vec![1]), open).await;
                assert_eq!(echoed, Ok(vec![1]));
            };
            let (slow, ()) = join(first.slow(), full).await;
            assert_eq!(slow, Ok(0));
        });
    })
    .await;
    assert_eq!(backend.calls.load(SeqCst), 2);
}

#[tokio::test]
async fn a_deadline_elsewhere_holds_though_the_runtime_is_blocked() {
    let Cast { leader: _leader, user, .. } = cast_with::<Registry>(Place::Single, options()).await;
    let start = Instant::now();
    let thread = thread::spawn(move || block_on(user.hasty()));
    // The only thread of this runtime waits here.
    let late = thread.join().unwrap().unwrap_err();
    assert!(matches!(&late, RegistryError::Link(kind, _) if kind == "timeout"), "{late:?}");
    // Else only the end of the thread's own patience has shown it.
    assert!(start.elapsed() < PATIENCE);
}

#[test]
fn a_client_that_is_made_outside_of_a_runtime_says_what_it_needs() {
    let created = block_on(Cluster::<Registry>::builder().port(1).create(Backend::new()));
    let error = created.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert_eq!(error.channel(), Some("Registry"));
}

#[test]
fn a_fake_that_is_made_outside_of_a_runtime_is_closed() {
    let fake = Subscription::from_stream(futures::stream::iter([1]));
    assert_eq!(block_on(fake.ready()).unwrap_err().kind(), ErrorKind::Config);
}
