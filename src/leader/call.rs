//! Runs calls of the real client: guarded against panics, bounded by their deadline, cancelled when
//! nobody waits any more.

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{Arc, Mutex},
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
    std::panic::catch_unwind(AssertUnwindSafe(decode)).unwrap_or_else(|panic| Err(panicked(panic)))
}

fn panicked(panic: Box<dyn std::any::Any + Send>) -> Error {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned());
    Error::new(ErrorKind::Panicked, format!("the client panicked in the leader: {text}"))
}

/// The calls of one follower that are under way, by request.
pub(super) type InFlight = Arc<Mutex<IdMap<Running>>>;

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
            self.call(method, call.args)
        };
        let mut future = guarded(future);
        if !large && let Poll::Ready(result) = poll_once(Pin::new(&mut future)) {
            self.answer(peer, request, method, result);
            return;
        }
        let leader = Arc::clone(self);
        let peer = Arc::clone(peer);
        let done = Arc::clone(in_flight);
        // The lock is held until the handle is in the table, so that the task, which takes itself
        // off it, can't be faster.
        let mut table = lock(in_flight);
        let task = self.tasks.spawn_on(
            async move {
                let result = timeout_at(deadline, future).await;
                lock(&done).remove(&request);
                match result {
                    Ok(result) => leader.answer(&peer, request, method, result),
                    // The caller has its own clock, and is gone.
                    Err(_) => leader.stats.note_late(),
                }
            },
            &self.runtime,
        );
        table.insert(request, Running::Alone(task.abort_handle()));
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

fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    // Whoever polls next gives its own waker, which a future has to use from then on.
    future.poll(&mut Context::from_waker(noop_waker_ref()))
}

/// The deadline of a request that arrived then; a request without one gets the default.
pub(super) fn deadline(arrived: Instant, timeout_ms: u32, default: Duration) -> Instant {
    let timeout = match timeout_ms {
        0 => default,
        millis => Duration::from_millis(millis.into()),
    };
    arrived + timeout
}
