//! Runs calls of the real client: guarded against panics, bounded by their deadline, cancelled when
//! nobody waits any more.

use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::{
    FutureExt as _, TryFutureExt as _,
    future::{CatchUnwind, MapErr},
    task::noop_waker_ref,
};
use tokio::{
    sync::Semaphore,
    task::AbortHandle,
    time::{Instant, timeout_at},
};

use super::{Leader, lock, peer::Peer};
use crate::{
    error::{Error, ErrorKind},
    id_map::IdMap,
    protocol::PART,
    spec::{Answered, BoxFuture, Failure, MethodSpec},
};

/// A future whose panic is an error.
type Guarded<F> =
    MapErr<CatchUnwind<AssertUnwindSafe<F>>, fn(Box<dyn std::any::Any + Send>) -> Error>;

/// A future whose panic is an error.
pub(super) fn guarded<F: Future>(future: F) -> Guarded<F> {
    AssertUnwindSafe(future).catch_unwind().map_err(panicked)
}

/// What the client's own types make of arguments, whose panic is an error.
pub(crate) fn guarded_now<T>(decode: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(decode)).unwrap_or_else(|panic| Err(panicked(panic)))
}

#[cold]
fn panicked(panic: Box<dyn std::any::Any + Send>) -> Error {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned());
    Error::new(ErrorKind::Panicked, format!("the client panicked in the leader: {text}"))
}

/// The calls of one follower that are under way, by request. Its session alone adds any, so that it
/// need not lock what it knows to be empty.
#[derive(Clone, Default)]
pub(super) struct InFlight(Arc<Table>);

#[derive(Default)]
struct Table {
    running: Mutex<IdMap<Running>>,
    len: AtomicUsize,
}

impl InFlight {
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.0.len.load(Ordering::Relaxed)
    }

    #[inline]
    pub(super) fn contains(&self, request: u64) -> bool {
        self.len() > 0 && lock(&self.0.running).contains_key(&request)
    }

    /// Adds what `start` gives, which can't take itself off before it is there.
    pub(super) fn insert(&self, request: u64, start: impl FnOnce() -> Running) {
        let mut running = lock(&self.0.running);
        running.insert(request, start());
        self.0.len.store(running.len(), Ordering::Relaxed);
    }

    pub(super) fn remove(&self, request: u64) -> Option<Running> {
        let mut running = lock(&self.0.running);
        let removed = running.remove(&request);
        self.0.len.store(running.len(), Ordering::Relaxed);
        removed
    }

    /// All of them, which are on the table no more.
    pub(super) fn take(&self) -> IdMap<Running> {
        self.0.len.store(0, Ordering::Relaxed);
        std::mem::take(&mut *lock(&self.0.running))
    }
}

/// A call under way.
pub(super) enum Running {
    /// In a task of its own.
    Alone(AbortHandle),
    /// Together with equal calls.
    Shared,
}

/// One request to call a method.
pub(super) struct Call {
    pub(super) method: usize,
    pub(super) args: Bytes,
    pub(super) deadline: Instant,
}

impl Leader {
    /// The future of a call, which waits for the client where it is not connected yet.
    #[inline]
    pub(super) fn call(self: &Arc<Self>, method: usize, args: Bytes) -> BoxFuture<Answered> {
        if let Some(client) = self.client() {
            return match client.call(method, args) {
                Ok(future) => future,
                Err(error) => Box::pin(std::future::ready(Err(Failure::Cluster(error)))),
            };
        }
        let leader = Arc::clone(self);
        Box::pin(async move {
            let client = leader.wait_for_client().await?;
            client.call(method, args)?.await
        })
    }

    /// Starts a call of a follower; the answer goes to its link.
    ///
    /// A call that is done at its first poll costs no task.
    pub(super) fn start_call(
        self: &Arc<Self>,
        peer: &Arc<Peer>,
        request: u64,
        call: Call,
        in_flight: &InFlight,
    ) {
        let large = call.args.len() > PART;
        let (method, deadline) = (call.method, call.deadline);
        let future = if large {
            // Decoding is part of the task then, outside of the link's.
            let leader = Arc::clone(self);
            Box::pin(async move { leader.call(method, call.args).await })
        } else {
            let mut future = self.call(method, call.args);
            match poll_once(future.as_mut()) {
                Ok(Poll::Ready(reply)) => return peer.answer(request, reply),
                Ok(Poll::Pending) => future,
                Err(panicked) => return self.answer(peer, request, method, Err(panicked)),
            }
        };
        let future = guarded(future);
        let leader = Arc::clone(self);
        let peer = Arc::clone(peer);
        let done = in_flight.clone();
        in_flight.insert(request, || {
            let task = async move {
                let result = timeout_at(deadline, future).await;
                done.remove(request);
                match result {
                    Ok(result) => leader.answer(&peer, request, method, result),
                    // The caller has its own clock, and is gone.
                    Err(_) => leader.stats.note_late(),
                }
            };
            Running::Alone(self.tasks.spawn_on(task, &self.runtime).abort_handle())
        });
    }

    fn answer(&self, peer: &Peer, request: u64, method: usize, result: Result<Answered, Error>) {
        let reply = match result {
            Ok(reply) => reply,
            Err(panicked) => {
                self.stats.note_panic(&panicked);
                Err(Failure::Cluster(self.name_error(method, panicked)))
            }
        };
        peer.answer(request, reply);
    }

    /// Starts a call that nobody waits for, if there is room. It runs to its end, within its
    /// deadline.
    pub(super) fn start_oneway(self: &Arc<Self>, call: Call, room: &Arc<Semaphore>) {
        let Ok(permit) = Arc::clone(room).try_acquire_owned() else {
            let bound = self.options.max_in_flight;
            let reason = format!("{bound} oneway calls are in flight on this link already");
            let error = Error::new(ErrorKind::Overloaded, reason);
            return self.stats.note_oneway_failure(&self.name_error(call.method, error));
        };
        let leader = Arc::clone(self);
        let future = async move {
            let _permit = permit;
            let method = call.method;
            let future = guarded(leader.call(method, call.args));
            let error = match timeout_at(call.deadline, future).await {
                Ok(Ok(Ok(_))) => return,
                Ok(Ok(Err(failure))) => failure.into_error(),
                Ok(Err(panicked)) => panicked,
                Err(_) => Error::new(ErrorKind::Timeout, "it did not end before its deadline"),
            };
            leader.stats.note_oneway_failure(&leader.name_error(method, error));
        };
        self.errands.spawn_on(future, &self.runtime);
    }

    /// Names channel and method in an error.
    pub(super) fn name_error(&self, method: usize, error: Error) -> Error {
        let name = self.spec.methods.get(method).map_or("?", |spec: &MethodSpec| spec.name);
        error.with_channel(&self.channel).with_method(name)
    }
}

/// One poll, whose panic is an error.
#[inline]
fn poll_once<F: Future + ?Sized>(future: Pin<&mut F>) -> Result<Poll<F::Output>, Error> {
    // Whoever polls next gives its own waker, which a future has to use from then on.
    let poll = || future.poll(&mut Context::from_waker(noop_waker_ref()));
    catch_unwind(AssertUnwindSafe(poll)).map_err(panicked)
}

/// The deadline of a request that arrived then; a request without one gets the default.
pub(super) fn deadline(arrived: Instant, timeout_ms: u32, default: Duration) -> Instant {
    let timeout = match timeout_ms {
        0 => default,
        millis => Duration::from_millis(millis.into()),
    };
    arrived + timeout
}
