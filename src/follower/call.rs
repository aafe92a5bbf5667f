//! Requests that wait for an answer, over all links.

use std::sync::Arc;

use bytes::Bytes;
use tokio::{
    sync::oneshot,
    time::{Duration, Instant, timeout_at},
};

use super::{Follower, Shared, State};
use crate::{
    connection::Link,
    error::{Error, ErrorKind},
    protocol::{Frame, pb},
    spec::{Failure, MethodKind, Reply},
};

/// What a request of this follower is about.
pub(super) enum Request {
    Call(Pending),
    /// The subscribe request of this topic.
    Subscribe(u64),
    /// A publication that is sent again: its key, and how often that failed before.
    Replay((usize, Bytes), u32),
}

/// A call or publish that waits for its answer.
pub(super) struct Pending {
    kind: Kind,
    method: usize,
    pub(super) args: Bytes,
    deadline: Instant,
    /// Its first byte was written on the present link.
    pub(super) is_sent: bool,
    /// A publish whose key was withdrawn since: it is not remembered, and once sent, not sent again.
    is_superseded: bool,
    reply: oneshot::Sender<Reply>,
}

/// What kind of call.
#[derive(Debug, Clone)]
enum Kind {
    Invoke {
        idempotent: bool,
    },
    /// Under this publish method and key.
    Publish((usize, Bytes)),
    Unpublish((usize, Bytes)),
}

impl Pending {
    pub(super) fn answer(self, reply: Reply) {
        // Nobody may wait any more.
        let _ = self.reply.send(reply);
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Whether it may be sent on the next link though it was sent on this one.
    pub(super) fn survives_link(&self) -> bool {
        match self.kind {
            Kind::Invoke { idempotent } => idempotent || !self.is_sent,
            Kind::Publish(_) | Kind::Unpublish(_) => {
                let is_over = if self.is_sent { self.is_superseded } else { self.is_abandoned() };
                !is_over
            }
        }
    }

    /// Nobody waits for the answer any more.
    pub(super) fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }

    /// Whether it is about to change what is published under this key.
    pub(super) fn concerns(&self, key: &(usize, Bytes)) -> bool {
        matches!(&self.kind, Kind::Publish(other) | Kind::Unpublish(other) if other == key)
    }

    fn timeout_ms(&self, now: Instant) -> u32 {
        let left = self.deadline.saturating_duration_since(now);
        u32::try_from(left.as_millis()).unwrap_or(u32::MAX).max(1)
    }

    /// Sends it for the first time.
    fn send(&self, link: &Link, id: u64, now: Instant) -> Result<(), Error> {
        if !matches!(self.kind, Kind::Invoke { .. }) {
            return link.send(self.frame(id, now), Some(id));
        }
        let invoke = pb::Invoke { method: self.method as u32, timeout_ms: self.timeout_ms(now) };
        link.send_packet(id, invoke, &self.args, Some(id))
    }

    /// The frame for it, with the time that remains from `now`.
    pub(super) fn frame(&self, id: u64, now: Instant) -> Frame {
        let timeout_ms = self.timeout_ms(now);
        let method = self.method as u32;
        let args = self.args.clone();
        match self.kind {
            Kind::Invoke { .. } => Frame::with_payload(id, pb::Invoke { method, timeout_ms }, args),
            // What one owner publishes keeps its order, however large each is.
            Kind::Publish(_) => {
                Frame::with_payload(id, pb::Publish { method, timeout_ms }, args).in_order()
            }
            Kind::Unpublish(_) => {
                Frame::with_payload(id, pb::Unpublish { method, timeout_ms }, args).in_order()
            }
        }
    }

    /// Notes in what this process has published what an answer says of it.
    pub(super) fn note_publication(&self, state: &mut State, is_ok: bool) {
        match &self.kind {
            Kind::Publish(key) if is_ok && !self.is_superseded => {
                state.publications.insert(key.clone(), self.args.clone());
            }
            Kind::Unpublish(key) => drop(state.publications.remove(key)),
            Kind::Publish(_) | Kind::Invoke { .. } => {}
        }
    }
}

impl Follower {
    /// Calls a method and waits for its answer.
    ///
    /// # Cancel safety
    ///
    /// Dropping it cancels an invoke in the leader; a publish or unpublish that is on its way runs
    /// to its end.
    pub(crate) async fn invoke(&self, method: usize, args: Result<Bytes, Error>) -> Reply {
        let idempotent =
            matches!(self.spec_kind(method), MethodKind::Invoke { idempotent: true, .. });
        self.ask(Kind::Invoke { idempotent }, method, args).await
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
            MethodKind::Unpublish { publish } => Kind::Unpublish((publish, key)),
            _ => Kind::Publish((method, key)),
        };
        self.ask(kind, method, args).await
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
            shared.check_size(&args)?;
            let mut state = shared.lock();
            if let Some(error) = shared.unusable(&state, method) {
                return Err(error);
            }
            state.last_id += 1;
            let id = state.last_id;
            let timeout_ms = u32::try_from(shared.timeout(method).as_millis()).unwrap_or(u32::MAX);
            let invoke = pb::Invoke { method: method as u32, timeout_ms };
            match &state.link {
                Some(registered) => {
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

    async fn ask(&self, kind: Kind, method: usize, args: Result<Bytes, Error>) -> Reply {
        let shared = self.shared();
        let named = |error| Failure::Cluster(shared.name_error(method, error));
        let args = args.and_then(|args| shared.check_size(&args).map(|()| args)).map_err(named)?;
        let timeout = shared.timeout(method);
        let mut now = Instant::now();
        let deadline = now + timeout;
        // Whoever finds no room waits, within the deadline.
        let permit = match shared.in_flight.try_acquire() {
            Ok(permit) => permit,
            Err(_) => {
                let permit = timeout_at(deadline, shared.in_flight.acquire())
                    .await
                    .map_err(|_| named(shared.too_many(timeout)))?
                    .map_err(|_| named(shared.closed()))?;
                now = Instant::now();
                permit
            }
        };
        let cancels = matches!(kind, Kind::Invoke { .. });
        let (reply, answer) = oneshot::channel();
        let pending =
            Pending { kind, method, args, deadline, is_sent: false, is_superseded: false, reply };
        let id = shared.start(pending, now).map_err(named)?;
        let guard = CancelOnDrop { shared, id, cancels };
        let answer = timeout_at(deadline, answer).await;
        drop(permit);
        match answer {
            Ok(Ok(reply)) => {
                std::mem::forget(guard);
                reply.map_err(|failure| match failure {
                    Failure::Cluster(error) => named(error),
                    Failure::Client(error, value) => {
                        Failure::Client(shared.name_error(method, error), value)
                    }
                })
            }
            Ok(Err(_)) => Err(named(shared.closed())),
            Err(_) => Err(named(shared.timed_out(timeout))),
        }
    }
}

impl Shared {
    fn timeout(&self, method: usize) -> Duration {
        self.spec.methods[method].timeout.unwrap_or(self.options.call_timeout)
    }

    pub(super) fn check_size(&self, args: &Bytes) -> Result<(), Error> {
        let limit = self.options.max_payload;
        if args.len() <= limit {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::TooLarge,
            format!(
                "the arguments have {} bytes, more than options.max_payload of {limit}",
                args.len()
            ),
        ))
    }

    fn too_many(&self, timeout: Duration) -> Error {
        let bound = self.options.max_in_flight;
        Error::new(
            ErrorKind::Overloaded,
            format!("{bound} calls were in flight for {timeout:?}; raise options.max_in_flight"),
        )
    }

    fn timed_out(&self, timeout: Duration) -> Error {
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
    fn start(&self, pending: Pending, now: Instant) -> Result<u64, Error> {
        let mut state = self.lock();
        if let Some(error) = self.unusable(&state, pending.method) {
            return Err(error);
        }
        if let Kind::Publish(key) = &pending.kind
            && state.publications.len() >= self.options.max_subscriptions
            && !state.publications.contains_key(key)
        {
            let bound = self.options.max_subscriptions;
            let reason = format!("this client has {bound} publications already");
            return Err(Error::new(ErrorKind::Overloaded, reason));
        }
        if let Kind::Unpublish(key) = &pending.kind {
            // From here on it must not be published again, whatever becomes of the request, or of
            // a publish that is on its way.
            state.publications.remove(key);
            for request in state.requests.values_mut() {
                if let Request::Call(before) = request {
                    let is_publish = matches!(before.kind, Kind::Publish(_));
                    before.is_superseded |= is_publish && before.concerns(key);
                }
            }
        }
        state.last_id += 1;
        let id = state.last_id;
        if let Some(registered) = &state.link {
            registered.check_size(&pending.args)?;
            match pending.send(&registered.link, id, now) {
                // A link that is closed already: the next one will send it.
                Err(error) if error.kind() == ErrorKind::Overloaded => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        state.requests.insert(id, Request::Call(pending));
        Ok(id)
    }

    /// Nobody waits for this call any more.
    fn cancel(&self, id: u64, cancels: bool) {
        let mut state = self.lock();
        if !cancels && state.link_of(id).is_some() {
            // What is queued can't be taken back: it runs to its end, and its answer says whether
            // it is published.
            return;
        }
        if state.requests.remove(&id).is_some()
            && let Some(link) = state.link_of(id)
        {
            let _ = link.send(Frame::new(id, pb::Cancel {}).in_order(), None);
        }
        state.leave_if_done();
    }
}

/// Cancels a call whose future is dropped.
struct CancelOnDrop<'a> {
    shared: &'a Arc<Shared>,
    id: u64,
    cancels: bool,
}

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        self.shared.cancel(self.id, self.cancels);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> (usize, Bytes) {
        (0, Bytes::from_static(b"key"))
    }

    fn pending(kind: Kind) -> (Pending, oneshot::Receiver<Reply>) {
        let (reply, answer) = oneshot::channel();
        let (method, args, deadline) = (0, Bytes::from_static(b"args"), Instant::now());
        let (is_sent, is_superseded) = (false, false);
        (Pending { kind, method, args, deadline, is_sent, is_superseded, reply }, answer)
    }

    #[test]
    fn a_publish_that_was_withdrawn_on_its_way_is_neither_remembered_nor_sent_twice() {
        let (mut publish, _answer) = pending(Kind::Publish(key()));
        publish.is_superseded = true;
        assert!(publish.survives_link(), "not sent yet, it goes before its withdrawal");
        publish.is_sent = true;
        assert!(!publish.survives_link());
        let mut state = State::default();
        publish.note_publication(&mut state, true);
        assert!(state.publications.is_empty());
    }

    #[test]
    fn a_publish_that_was_sent_survives_its_link_though_nobody_waits() {
        let (mut publish, answer) = pending(Kind::Publish(key()));
        drop(answer);
        assert!(!publish.survives_link(), "nobody waits and nobody has it");
        publish.is_sent = true;
        assert!(publish.survives_link());
        let mut state = State::default();
        publish.note_publication(&mut state, true);
        assert_eq!(state.publications.get(&key()), Some(&publish.args));
    }
}
