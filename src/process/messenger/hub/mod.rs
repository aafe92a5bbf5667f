//! The half of the messenger that is in each process.

use std::{
    collections::{HashMap, VecDeque},
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker},
};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{
    Target,
    messages::Listener,
    peers::{Readiness, peer},
    sent::{AwaitReceipt, Known, Receipt, Sent, refused},
};
use crate::{
    error::{Error, ErrorKind, Result},
    protocol::pb::{
        self, DeliverMessage, MessageDelivered, MessageReceipt, Outcome, Refusal, SendMessage,
        control::Body,
    },
};

/// Most messages that wait in this process to be sent.
const MAX_WAITING: usize = 1024;

/// Most bytes of values that wait in this process to be sent.
const MAX_WAITING_BYTES: usize = 4 * 1024 * 1024;

/// See the [module](super).
#[derive(Debug)]
pub(in crate::process) struct Hub {
    state: Mutex<State>,
    readiness: Readiness,
}

#[derive(Debug, Default)]
struct State {
    phase: Phase,
    /// What waits to be sent, in its order.
    outbox: VecDeque<SendMessage>,
    outbox_bytes: usize,
    /// Answers to the master, which wait for nothing. As many as the master leaves unanswered.
    answers: VecDeque<MessageDelivered>,
    /// The link, where it waits for something to write.
    writer: Option<Waker>,
    /// The number of the last message.
    sent: u64,
    /// Receipts that somebody waits for: as many as the user holds.
    awaited: HashMap<u64, Awaited>,
    listeners: HashMap<String, Vec<Listener>>,
    /// The number of the last listener.
    listened: u64,
}

/// Before the cluster is ready, in the life of the role, after it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Phase {
    #[default]
    Holding,
    Open,
    Closed,
}

#[derive(Debug)]
struct Awaited {
    target: Target,
    action: Arc<str>,
    known: Known,
    receipt: oneshot::Sender<Result<Receipt>>,
}

/// What the user does.
impl Hub {
    pub(in crate::process) fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), readiness: Readiness::new() })
    }

    pub(in crate::process) fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    pub(super) fn send(
        this: &Arc<Self>,
        target: Target,
        action: &str,
        data: Bytes,
    ) -> Result<Sent> {
        let mut state = this.lock();
        let held = match state.phase {
            Phase::Holding => true,
            Phase::Open => false,
            Phase::Closed => return Err(closed(action)),
        };
        if state.outbox.len() >= MAX_WAITING || state.outbox_bytes + data.len() > MAX_WAITING_BYTES
        {
            return Err(overloaded(action, held));
        }
        state.sent += 1;
        let id = state.sent;
        state.outbox_bytes += data.len();
        let (pb_target, pid) = target.to_pb();
        state.outbox.push_back(SendMessage {
            id,
            target: pb_target.into(),
            pid,
            action: action.to_owned(),
            data,
        });
        let (receipt, receiver) = oneshot::channel();
        let known = if held { Known::Held } else { Known::Waits };
        let action: Arc<str> = action.into();
        let awaited = Awaited { target, action: Arc::clone(&action), known, receipt };
        state.awaited.insert(id, awaited);
        if !held {
            state.wake();
        }
        drop(state);
        let receipt = AwaitReceipt::new(Arc::clone(this), id, action, receiver);
        Ok(if held { Sent::Held(receipt) } else { Sent::Passed(receipt) })
    }

    /// Nobody waits for this receipt any more. What is known of it so far.
    pub(super) fn forget(&self, id: u64) -> Option<Known> {
        self.lock().awaited.remove(&id).map(|awaited| awaited.known)
    }

    /// Adds a listener, under the number that it is removed by. One that comes too late is dropped.
    pub(super) fn listen(&self, action: &str, listener: impl FnOnce(u64) -> Listener) -> u64 {
        let mut state = self.lock();
        state.listened += 1;
        let id = state.listened;
        if state.phase != Phase::Closed {
            state.listeners.entry(action.to_owned()).or_default().push(listener(id));
        }
        id
    }

    pub(super) fn unlisten(&self, action: &str, id: u64) {
        self.lock().unlisten(action, |listener| listener.id != id);
    }

    /// Ends the messenger with its role: what was sent still goes out, what is held does not;
    /// nothing more is delivered.
    pub(in crate::process) fn close(&self) {
        let mut state = self.lock();
        if state.phase == Phase::Holding {
            state.outbox.clear();
            state.outbox_bytes = 0;
        }
        state.phase = Phase::Closed;
        state.listeners.clear();
        for awaited in std::mem::take(&mut state.awaited).into_values() {
            // Whoever waited may be gone.
            let _ = awaited.receipt.send(Err(closed(&awaited.action)));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the link does.
impl Hub {
    /// Waits for the next frame to write.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe. One task at a time may wait.
    pub(in crate::process) async fn next(&self) -> Body {
        poll_fn(|cx| {
            let mut state = self.lock();
            match state.take() {
                Some(body) => Poll::Ready(body),
                None => {
                    state.writer = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// The next frame to write, where there is one.
    pub(in crate::process) fn take(&self) -> Option<Body> {
        self.lock().take()
    }

    /// Takes what came over the link. Never blocks and runs no code of the user. Gives back what is
    /// no matter of the messenger.
    pub(in crate::process) fn hear(&self, body: Body) -> Option<Body> {
        match body {
            Body::DeliverMessage(message) => {
                let mut state = self.lock();
                let answer = state.deliver(message);
                state.answers.push_back(answer);
                state.wake();
            }
            Body::MessageReceipt(receipt) => self.lock().receipt(&receipt),
            Body::Peers(peers) => self.readiness.set(&peers),
            other => return Some(other),
        }
        None
    }

    /// The cluster is ready: lets go of what was held.
    pub(in crate::process) fn open(&self) {
        let mut state = self.lock();
        if state.phase == Phase::Holding {
            state.phase = Phase::Open;
            for awaited in state.awaited.values_mut() {
                awaited.known = Known::Waits;
            }
            state.wake();
        }
    }
}

impl State {
    fn wake(&mut self) {
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
    }

    fn take(&mut self) -> Option<Body> {
        if let Some(answer) = self.answers.pop_front() {
            return Some(Body::MessageDelivered(answer));
        }
        if self.phase == Phase::Holding {
            return None;
        }
        let message = self.outbox.pop_front()?;
        self.outbox_bytes -= message.data.len();
        if let Some(awaited) = self.awaited.get_mut(&message.id) {
            awaited.known = Known::Passed;
        }
        Some(Body::SendMessage(message))
    }

    fn deliver(&mut self, message: DeliverMessage) -> MessageDelivered {
        let answer =
            |outcome: Outcome| MessageDelivered { id: message.id, outcome: outcome.into() };
        let from = message.from.as_ref().and_then(peer);
        let listeners = self.listeners.get_mut(&message.action);
        let (Some(from), Some(listeners)) = (from, listeners) else {
            return answer(Outcome::Unhandled);
        };
        // A slice would keep alive all that was read together with it.
        let data = Bytes::copy_from_slice(&message.data);
        let full = listeners.iter().filter(|each| !each.offer(from, &data)).count();
        self.unlisten(&message.action, |listener| !listener.once);
        answer(if full == 0 { Outcome::Taken } else { Outcome::NoRoom })
    }

    fn unlisten(&mut self, action: &str, stays: impl Fn(&Listener) -> bool) {
        if let Some(listeners) = self.listeners.get_mut(action) {
            listeners.retain(stays);
            if listeners.is_empty() {
                self.listeners.remove(action);
            }
        }
    }

    fn receipt(&mut self, receipt: &MessageReceipt) {
        let counts = Receipt::from(receipt);
        if receipt.waiting > 0 {
            if let Some(awaited) = self.awaited.get_mut(&receipt.id) {
                awaited.known = Known::SoFar(counts, receipt.waiting);
            }
            return;
        }
        let Some(awaited) = self.awaited.remove(&receipt.id) else { return };
        let outcome = match receipt.refusal() {
            Refusal::None => Ok(counts),
            refusal => Err(refused(&awaited.action, awaited.target, refusal)),
        };
        // Whoever waited may be gone.
        let _ = awaited.receipt.send(outcome);
    }
}

impl Target {
    fn to_pb(self) -> (pb::Target, u32) {
        match self {
            Self::All => (pb::Target::All, 0),
            Self::Workers => (pb::Target::Workers, 0),
            Self::Agent => (pb::Target::Agent, 0),
            Self::Random => (pb::Target::Random, 0),
            Self::Pid(pid) => (pb::Target::Pid, pid),
        }
    }

    /// `None` for a target that this version does not know.
    pub(in crate::process) fn from_pb(target: pb::Target, pid: u32) -> Option<Self> {
        match target {
            pb::Target::Unspecified => None,
            pb::Target::All => Some(Self::All),
            pb::Target::Workers => Some(Self::Workers),
            pb::Target::Agent => Some(Self::Agent),
            pb::Target::Random => Some(Self::Random),
            pb::Target::Pid => Some(Self::Pid(pid)),
        }
    }
}

fn closed(action: &str) -> Error {
    let text =
        format!("message `{action}`: the role of this process has ended; send before it does");
    Error::new(ErrorKind::Closed, text)
}

fn overloaded(action: &str, held: bool) -> Error {
    let why = if held {
        "are held until the cluster is ready; send less in the set-up, or after `cluster_ready()`"
    } else {
        "wait for the master to read them; await receipts to keep its pace"
    };
    let text = format!("message `{action}`: {MAX_WAITING} messages or 4 MiB {why}");
    Error::new(ErrorKind::Overloaded, text)
}

#[cfg(test)]
mod tests;
