//! Messages between the processes of a cluster, through the master.
//!
//! ```text
//!   Messenger ── send ──► Hub.outbox ──► link ──► master/router ──► link ──► Hub.listeners ──► Messages
//!   Sent      ◄── receipt ─────────────── link ◄───────┴──────────── link ◄─── answer
//! ```
//!
//! [`Hub`] is the half that each process has, the master's own program too: what waits to be sent,
//! who waits for receipts, who listens. It knows neither socket nor clock. Of its two sides the
//! user's is synchronous; the other takes frames out with [`Hub::next`] and puts them in with
//! [`Hub::hear`], and runs no code of the user, so it can be the control thread.

mod hub;
mod messages;
mod peers;
mod sent;

use std::sync::Arc;

use serde::Serialize;

pub(super) use self::hub::Hub;
pub use self::{
    messages::{Message, Messages, Once},
    peers::{Peer, Peers},
    sent::{AwaitReceipt, Receipt, Sent},
};
use crate::{
    codec::{Json, encode_value},
    error::{Error, ErrorKind, Result},
};

/// Longest action, in bytes.
pub(super) const MAX_ACTION: usize = 256;

/// Longest value, in bytes of JSON, so that a message fits in one frame of the control link.
pub(super) const MAX_DATA: usize = 60 * 1024;

/// Who gets a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    All,
    Workers,
    Agent,
    Random,
    Pid(u32),
}

/// Sends messages to the other processes of the cluster, and gets theirs. A clone is the same.
///
/// Given by [`Agent::messenger`](crate::Agent::messenger),
/// [`Worker::messenger`](crate::Worker::messenger), and for the program around the master by
/// [`MasterHandle::messenger`](crate::MasterHandle::messenger). It is for small things that are said
/// now and then; what all processes are to see alike, and streams of data, belong on a channel (see
/// [`cluster_client`](macro@crate::cluster_client)), which does not pass the master.
///
/// A message is an *action*, which is a name of 1 to 256 bytes, and a value, which travels as JSON
/// of 60 KiB at most. Whoever listens for the action with [`on`](Self::on) or [`once`](Self::once)
/// gets it, with the name and pid of the sender, which the master vouches for.
///
/// **Sending never waits.** The value is encoded, put into a queue, and the call returns. What is
/// sent before the cluster is ready is [`Held`](Sent::Held) in this process and goes out, in its
/// order, with `cluster_ready`; so nothing in the set-up can wait for itself. The queue takes 1,024
/// messages or 4 MiB, held or on their way to the master. Messages of one sender to one receiver
/// keep their order.
///
/// **Delivery.** A process is addressed from its own `ready()` on, and gets nothing that is older:
/// what listens before `ready()` misses nothing. Awaiting what a send returns gives a [`Receipt`]:
/// how many processes took the message, or why none could. At most once: nothing is sent again, and
/// a message to a process that dies may be lost, which the receipt says. At most 1,024 messages are
/// on their way to one process without its answer; one more has no room there.
///
/// # Examples
///
/// ```
/// use cluster_client::{Result, Worker};
///
/// async fn worker(worker: Worker) -> Result<()> {
///     let messenger = worker.messenger();
///     let mut refreshes = messenger.on::<String>("refresh");
///     worker.ready().await?;
///     // To all processes, this one too. It need not be awaited.
///     messenger.broadcast("refresh", "prices")?;
///     tokio::select! {
///         message = refreshes.recv() => {
///             let message = message?;
///             println!("{} (pid {}): {}", message.from, message.pid, message.data);
///         }
///         () = worker.shutdown() => {}
///     }
///     Ok(())
/// }
/// ```
#[derive(Debug, Clone)]
pub struct Messenger {
    hub: Arc<Hub>,
}

impl Messenger {
    pub(super) fn new(hub: Arc<Hub>) -> Self {
        Self { hub }
    }

    /// To the agent and all workers, the sender among them.
    ///
    /// # Errors
    ///
    /// At once, and the message is not sent:
    /// [`Config`](ErrorKind::Config) for an action that is empty or longer than 256 bytes;
    /// [`Encode`](ErrorKind::Encode) for a value that has no form in JSON;
    /// [`TooLarge`](ErrorKind::TooLarge) for one of more than 60 KiB;
    /// [`Overloaded`](ErrorKind::Overloaded) where 1,024 messages or 4 MiB wait already;
    /// [`Closed`](ErrorKind::Closed) when the role of this process has ended.
    pub fn broadcast<T: Serialize + ?Sized>(&self, action: &str, data: &T) -> Result<Sent> {
        self.send(Target::All, action, data)
    }

    /// To all workers; from a worker, to itself too. Where none is ready, the receipt is
    /// [`NoWorker`](ErrorKind::NoWorker).
    ///
    /// # Errors
    ///
    /// As [`broadcast`](Self::broadcast).
    pub fn send_to_app<T: Serialize + ?Sized>(&self, action: &str, data: &T) -> Result<Sent> {
        self.send(Target::Workers, action, data)
    }

    /// To the agent. While it is away, between its death and its replacement's `ready()`, the receipt
    /// is [`AgentAway`](ErrorKind::AgentAway).
    ///
    /// # Errors
    ///
    /// As [`broadcast`](Self::broadcast).
    pub fn send_to_agent<T: Serialize + ?Sized>(&self, action: &str, data: &T) -> Result<Sent> {
        self.send(Target::Agent, action, data)
    }

    /// From the agent and the master's program: to one ready worker, chosen at random, that was not
    /// asked to stop. From a worker: to the agent. Where there is none, the receipt is
    /// [`NoWorker`](ErrorKind::NoWorker) or [`AgentAway`](ErrorKind::AgentAway).
    ///
    /// # Errors
    ///
    /// As [`broadcast`](Self::broadcast).
    pub fn send_random<T: Serialize + ?Sized>(&self, action: &str, data: &T) -> Result<Sent> {
        self.send(Target::Random, action, data)
    }

    /// To the process with this pid, which may be the sender itself, or the master, whose program
    /// listens with [`MasterHandle::messenger`](crate::MasterHandle::messenger). Where no such
    /// process is ready, the receipt is [`NoSuchProcess`](ErrorKind::NoSuchProcess).
    ///
    /// # Errors
    ///
    /// As [`broadcast`](Self::broadcast).
    pub fn send_to<T: Serialize + ?Sized>(&self, pid: u32, action: &str, data: &T) -> Result<Sent> {
        self.send(Target::Pid(pid), action, data)
    }

    /// All messages of an action, from now until it is dropped or the role of this process ends.
    /// Each of several that listen for one action gets each message.
    ///
    /// 1,024 messages or 4 MiB wait for their reader; one more is not taken, and the sender's receipt
    /// says so. An action that can't be sent (empty, or longer than 256 bytes) gives one
    /// [`Config`](ErrorKind::Config) error and ends.
    pub fn on<T>(&self, action: &str) -> Messages<T> {
        Messages::new(Arc::clone(&self.hub), action)
    }

    /// The next message of an action, from now on; whether the future is polled yet or not.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe where it is polled by reference, as in `select!`; dropping it stops listening.
    pub fn once<T>(&self, action: &str) -> Once<T> {
        Once::new(Arc::clone(&self.hub), action)
    }

    fn send<T: Serialize + ?Sized>(&self, target: Target, action: &str, data: &T) -> Result<Sent> {
        check_action(action)?;
        let data = encode_value::<Json, T>(data).map_err(|error| about(action, &error))?;
        if data.len() > MAX_DATA {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!(
                    "message `{action}`: {} bytes of JSON, and {MAX_DATA} is the limit; send where \
                     to find it, or use a channel",
                    data.len()
                ),
            ));
        }
        Hub::send(&self.hub, target, action, data)
    }
}

fn check_action(action: &str) -> Result<()> {
    match action.len() {
        0 => Err(Error::config("a message needs an action; name what it is about")),
        1..=MAX_ACTION => Ok(()),
        len => Err(Error::config(format!(
            "an action of {len} bytes, and {MAX_ACTION} is the limit; put what varies into the data"
        ))),
    }
}

/// The same error, naming the message.
fn about(action: &str, error: &Error) -> Error {
    Error::new(error.kind(), format!("message `{action}`: {}", error.message()))
}
