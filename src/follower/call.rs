//! Calls and publications: how they are asked, and what becomes of them.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::time::{Duration, Instant};

use super::{
    Follower, Shared, State,
    pending::{Kind, Pending},
    requests::MAX_CALLS,
};
use crate::{
    codec::Encoded,
    error::{Error, ErrorKind},
    protocol::{Frame, pb},
    spec::{Failure, MethodKind, Reply},
};

impl Follower {
    /// Calls a method and waits for its answer.
    ///
    /// # Cancel safety
    ///
    /// Dropping it cancels an invoke in the leader; a publish or unpublish that is on its way runs
    /// to its end.
    pub(crate) fn invoke(&self, method: usize, args: Result<Encoded, Error>) -> Asked<'_> {
        let idempotent =
            matches!(self.spec_kind(method), MethodKind::Invoke { idempotent: true, .. });
        self.ask(Kind::Invoke { idempotent }, method, args)
    }

    /// Publishes or withdraws under a key.
    pub(crate) async fn publish(
        &self,
        method: usize,
        key: Result<Bytes, Error>,
        args: Result<Bytes, Error>,
    ) -> Reply {
        let key = key.map_err(|error| self.shared().name_error(method, error))?;
        let kind = match self.spec_kind(method) {
            // What is withdrawn is known under the method that published it.
            MethodKind::Unpublish { publish } => Kind::Unpublish(Box::new((publish, key))),
            _ => Kind::Publish(Box::new((method, key))),
        };
        self.ask(kind, method, args.map(Encoded::from)).await
    }

    /// Sends a call that nobody waits for.
    ///
    /// # Errors
    ///
    /// It could not be queued: there is no leader now, or too much is queued already.
    pub(crate) fn oneway(&self, method: usize, args: Result<Bytes, Error>) -> Result<(), Error> {
        let shared = self.shared();
        let send = || {
            let args = args?;
            shared.check_size(args.len())?;
            let mut state = shared.lock();
            if let Some(error) = shared.unusable(&state, method) {
                return Err(error);
            }
            let id = state.requests.next_id();
            let timeout_ms = u32::try_from(shared.timeout(method).as_millis()).unwrap_or(u32::MAX);
            let invoke = pb::Invoke { method: method as u32, timeout_ms };
            match &state.link {
                Some(registered) => {
                    registered.check_size(args.len())?;
                    registered.link.send(Frame::with_payload(id, invoke, args), None)
                }
                None => {
                    drop(state);
                    Err(shared.why_down())
                }
            }
        };
        send().map_err(|error| shared.name_error(method, error))
    }

    fn spec_kind(&self, method: usize) -> MethodKind {
        self.shared().spec.methods[method].kind
    }

    fn ask(&self, kind: Kind, method: usize, args: Result<Encoded, Error>) -> Asked<'_> {
        let question = Some((kind, args));
        Asked { shared: self.shared(), method, question, answer: None, detour: None }
    }
}

/// A call or publish, which begins when it is first polled. It is a future by hand, since calls are
/// many and what the compiler makes of `async` is moved more often.
///
/// # Cancel safety
///
/// As [`Follower::invoke`].
pub(crate) struct Asked<'a> {
    shared: &'a Shared,
    method: usize,
    /// Not begun yet.
    question: Option<(Kind, Result<Encoded, Error>)>,
    answer: Option<Answer<'a>>,
    /// Under way to an answer in a way that is not the usual one.
    detour: Option<BoxFuture<'a, Reply>>,
}

impl Future for Asked<'_> {
    type Output = Reply;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Reply> {
        let this = &mut *self;
        if let Some((kind, args)) = this.question.take() {
            match this.begin(kind, args, cx) {
                // It is woken by the answer.
                Ok(()) if this.answer.is_some() => return Poll::Pending,
                Ok(()) => {}
                Err(error) => return Poll::Ready(Err(this.failed(error.into()))),
            }
        }
        let reply = match (&mut this.answer, &mut this.detour) {
            (Some(answer), _) => ready!(Pin::new(answer).poll(cx)),
            (None, Some(detour)) => ready!(detour.as_mut().poll(cx)),
            (None, None) => Err(this.shared.closed().into()),
        };
        match reply {
            Ok(value) => Poll::Ready(Ok(value)),
            Err(failure) => Poll::Ready(Err(this.failed(failure))),
        }
    }
}

impl Asked<'_> {
    pub(crate) fn method(&self) -> usize {
        self.method
    }

    #[inline]
    fn begin(
        &mut self,
        kind: Kind,
        args: Result<Encoded, Error>,
        cx: &Context<'_>,
    ) -> Result<(), Error> {
        let (shared, method) = (self.shared, self.method);
        let args = args?;
        shared.check_size(args.len())?;
        let timeout = shared.timeout(method);
        let deadline = Instant::now() + timeout;
        let cancels = matches!(kind, Kind::Invoke { .. });
        let pending = Pending::new(kind, method, args, deadline);
        let answer = move |id| Answer { shared, method, id, deadline, cancels, is_over: false };
        match shared.start(pending, timeout, cx.waker().clone()) {
            Ok(id) if shared.watches_deadlines_here() => self.answer = Some(answer(id)),
            Ok(id) => self.detour = Some(Box::pin(answer(id).in_time())),
            Err(Refused::With(error)) => return Err(error),
            Err(Refused::Full(pending)) => {
                self.detour = Some(Box::pin(async move {
                    let id = shared.start_when_there_is_room(*pending, timeout).await?;
                    answer(id).in_time().await
                }));
            }
        }
        Ok(())
    }

    /// It is over; names channel and method.
    #[cold]
    fn failed(&mut self, failure: Failure) -> Failure {
        (self.answer, self.detour) = (None, None);
        let named = |error| self.shared.name_error(self.method, error);
        match failure {
            Failure::Cluster(error) => Failure::Cluster(named(error)),
            Failure::Client(error, value) => Failure::Client(named(error), value),
        }
    }
}

/// Why a call was not started.
enum Refused {
    /// As many as may be are in flight. The caller is counted as one who waits.
    Full(Box<Pending>),
    With(Error),
}

/// Room for calls in flight. Who finds none waits for a permit of the semaphore, in turn.
#[derive(Debug, Default)]
pub(super) struct Room {
    free: usize,
    waiting: usize,
}

impl Room {
    pub(super) fn new(most: usize) -> Self {
        Self { free: most, waiting: 0 }
    }

    #[cfg(test)]
    pub(super) fn free(&self) -> usize {
        self.free
    }

    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }
}

impl State {
    /// A call is over. True: one who waits is to be [given](Shared::give_room) its room.
    #[must_use]
    fn make_room(&mut self) -> bool {
        let is_waited_for = self.room.waiting > 0;
        if !is_waited_for {
            self.room.free += 1;
        }
        is_waited_for
    }
}

impl Shared {
    fn timeout(&self, method: usize) -> Duration {
        self.spec.methods[method].timeout.unwrap_or(self.options.call_timeout)
    }

    pub(super) fn check_size(&self, args: usize) -> Result<(), Error> {
        let limit = self.options.max_payload;
        if args <= limit {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::TooLarge,
            format!("the arguments have {args} bytes, more than options.max_payload of {limit}"),
        ))
    }

    fn too_many(&self, timeout: Duration) -> Error {
        let bound = self.options.max_in_flight;
        Error::new(
            ErrorKind::Overloaded,
            format!("{bound} calls were in flight for {timeout:?}; raise options.max_in_flight"),
        )
    }

    fn timed_out(&self, method: usize) -> Error {
        let timeout = self.timeout(method);
        let down = match &*self.status.borrow() {
            super::Status::Up => None,
            super::Status::Down(error) => Some(error.clone().unwrap_or_else(super::not_connected)),
            super::Status::Refused(error) => Some(error.clone()),
            super::Status::Closed => Some(self.closed()),
        };
        match down {
            Some(why) => Error::timeout(timeout, "there is no leader").with_source(why),
            None => Error::timeout(timeout, "the leader did not answer"),
        }
    }

    /// Puts a call on the table, and on the link if there is one.
    #[inline]
    fn start(&self, pending: Pending, left: Duration, waker: Waker) -> Result<u64, Refused> {
        let mut state = self.lock();
        let Some(free) = state.room.free.checked_sub(1) else {
            state.room.waiting += 1;
            return Err(Refused::Full(Box::new(pending)));
        };
        state.room.free = free;
        let put = self.put(&mut state, pending, left, waker);
        let is_waited_for = put.is_err() && state.make_room();
        drop(state);
        self.give_room(is_waited_for);
        put.map_err(Refused::With)
    }

    /// As [`Shared::start`], for one that was counted as waiting.
    ///
    /// # Cancel safety
    ///
    /// Dropping it gives up.
    async fn start_when_there_is_room(
        &self,
        pending: Pending,
        timeout: Duration,
    ) -> Result<u64, Error> {
        struct Waits<'a>(&'a Shared);
        impl Drop for Waits<'_> {
            fn drop(&mut self) {
                self.0.lock().room.waiting -= 1;
            }
        }
        let waits = Waits(self);
        let permit = self
            .until(pending.deadline, self.in_flight.acquire())
            .await?
            .ok_or_else(|| self.too_many(timeout))?
            .map_err(|_| self.closed())?;
        permit.forget();
        drop(waits);
        let waker = poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
        let left = pending.deadline.saturating_duration_since(Instant::now());
        let mut state = self.lock();
        let put = self.put(&mut state, pending, left, waker);
        let is_waited_for = put.is_err() && state.make_room();
        drop(state);
        self.give_room(is_waited_for);
        put
    }

    /// Gives the room of a call that is over to one who waits, without the lock, as all are woken.
    fn give_room(&self, is_waited_for: bool) {
        if is_waited_for {
            self.in_flight.add_permits(1);
        }
    }

    #[inline]
    fn put(
        &self,
        state: &mut State,
        pending: Pending,
        left: Duration,
        waker: Waker,
    ) -> Result<u64, Error> {
        if let Some(error) = self.unusable(state, pending.method) {
            return Err(error);
        }
        if !matches!(pending.kind, Kind::Invoke { .. }) {
            self.note_publication(state, &pending.kind)?;
        }
        let Some(id) = state.requests.call_id() else {
            let reason = format!("more than {MAX_CALLS} requests are not answered");
            return Err(Error::new(ErrorKind::Overloaded, reason));
        };
        if let Some(registered) = &state.link {
            registered.check_size(pending.args.len())?;
            match pending.send(&registered.link, id, left) {
                // A link that is closed already: the next one will send it.
                Err(error) if error.kind() == ErrorKind::Overloaded => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        self.watch_deadline(state, pending.deadline);
        state.requests.open(id, pending, waker);
        Ok(id)
    }

    /// A key is about to be published, or withdrawn.
    fn note_publication(&self, state: &mut State, kind: &Kind) -> Result<(), Error> {
        if let Kind::Publish(key) = kind
            && state.publications.len() >= self.options.max_subscriptions
            && !state.publications.contains_key(&**key)
        {
            let bound = self.options.max_subscriptions;
            let reason = format!("this client has {bound} publications already");
            return Err(Error::new(ErrorKind::Overloaded, reason));
        }
        if let Kind::Unpublish(key) = kind {
            // From here on it must not be published again, whatever becomes of the request, or of
            // a publish that is on its way.
            state.publications.remove(&**key);
            for (_, before) in state.requests.calls_mut() {
                let is_publish = matches!(before.kind, Kind::Publish(_));
                before.is_superseded |= is_publish && before.concerns(key);
            }
        }
        Ok(())
    }

    /// Nobody waits for this call any more.
    fn cancel(&self, id: u64, cancels: bool) {
        let mut state = self.lock();
        let is_waited_for = state.make_room();
        let is_linked = state.link_of(id).is_some();
        // Wakers are dropped without the lock: one may be the last that keeps a task with calls.
        if !cancels && is_linked {
            // What is queued can't be taken back: it runs to its end, and its answer says whether
            // it is published.
            let waker = state.requests.abandon(id);
            if waker.is_some() {
                drop(state);
                return self.give_room(is_waited_for);
            }
        }
        let waker = state.requests.close(id);
        if waker.is_some()
            && let Some(link) = state.link_of(id)
        {
            // Never refused: there are no more of them than of the calls that were queued.
            let _ = link.replay(Frame::new(id, pb::Cancel {}).in_order(), None);
        }
        state.leave_if_done();
        drop(state);
        self.give_room(is_waited_for);
        drop(waker);
    }

    /// Answers a call.
    pub(super) fn answer(&self, id: u64, reply: Reply) {
        let answered = self.lock().requests.answer(id, reply);
        if let Some((_, Some(waker))) = answered {
            waker.wake();
        }
    }
}

/// The answer of a call that was started, an error once its deadline has passed. Dropping it cancels
/// the call.
struct Answer<'a> {
    shared: &'a Shared,
    method: usize,
    id: u64,
    deadline: Instant,
    cancels: bool,
    is_over: bool,
}

impl Answer<'_> {
    /// With a timer of its own, which goes on though the runtime of the follower may be blocked.
    async fn in_time(self) -> Reply {
        let (shared, method, deadline) = (self.shared, self.method, self.deadline);
        let reply = shared.until(deadline, self).await?;
        reply.unwrap_or_else(|| Err(shared.timed_out(method).into()))
    }
}

impl Future for Answer<'_> {
    type Output = Reply;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Reply> {
        // Declared first, so that it is dropped after the lock.
        let mut stale = None;
        let mut state = self.shared.lock();
        match state.requests.poll_answer(self.id, cx.waker(), &mut stale) {
            Poll::Ready(Some(reply)) => {
                let is_waited_for = state.make_room();
                drop(state);
                self.shared.give_room(is_waited_for);
                self.is_over = true;
                Poll::Ready(reply)
            }
            Poll::Pending if Instant::now() < self.deadline => Poll::Pending,
            Poll::Ready(None) | Poll::Pending => {
                drop(state);
                Poll::Ready(Err(self.shared.timed_out(self.method).into()))
            }
        }
    }
}

impl Drop for Answer<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.shared.cancel(self.id, self.cancels);
        }
    }
}
