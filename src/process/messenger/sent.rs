//! What a send gives: that it was taken, and in time what became of it.

use std::{
    fmt,
    future::IntoFuture,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    sync::oneshot,
    time::{Sleep, sleep},
};

use super::{Target, hub::Hub};
use crate::{
    error::{Error, ErrorKind, Result},
    process::words::lasting,
    protocol::pb::{MessageReceipt, Refusal},
};

/// How long a receipt is waited for unless said otherwise.
const PATIENCE: Duration = Duration::from_secs(5);

/// A message that was sent. Await it for its [`Receipt`]; dropping it does not take the message back.
///
/// # Examples
///
/// ```
/// use cluster_client::{Messenger, Result, Sent};
///
/// async fn refresh(messenger: &Messenger) -> Result<()> {
///     let sent = messenger.broadcast("refresh", &["prices"])?;
///     if let Sent::Held(_) = &sent {
///         println!("it goes out when the cluster is ready");
///     }
///     let receipt = sent.await?;
///     println!("{} processes have it", receipt.taken);
///     Ok(())
/// }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Sent {
    /// It was sent before the cluster was ready, and is kept in this process until then.
    Held(AwaitReceipt),
    /// It is on its way.
    Passed(AwaitReceipt),
}

impl Sent {
    /// The receipt, to be awaited with another limit than 5 s.
    pub fn receipt(self) -> AwaitReceipt {
        match self {
            Self::Held(receipt) | Self::Passed(receipt) => receipt,
        }
    }

    /// Whether it is kept in this process until the cluster is ready.
    #[must_use]
    pub fn is_held(&self) -> bool {
        matches!(self, Self::Held(_))
    }
}

impl IntoFuture for Sent {
    type Output = Result<Receipt>;
    type IntoFuture = AwaitReceipt;

    fn into_future(self) -> AwaitReceipt {
        self.receipt()
    }
}

/// What became of a message, in numbers of processes. Their sum is how many it was meant for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Receipt {
    /// In these, all that listen for the action have it.
    pub taken: u32,
    /// In these, nothing listens for the action.
    pub unhandled: u32,
    /// In these, something that listens for the action is too far behind and does not have it: 1,024
    /// messages or 4 MiB are not read; or as many are on their way to the process.
    pub no_room: u32,
    /// These died before they answered, or did not answer for a minute. They may have had it.
    pub lost: u32,
}

impl From<&MessageReceipt> for Receipt {
    fn from(receipt: &MessageReceipt) -> Self {
        let MessageReceipt { taken, unhandled, no_room, lost, .. } = *receipt;
        Self { taken, unhandled, no_room, lost }
    }
}

/// What a sender knows of a message before its receipt has come.
#[derive(Debug, Clone, Copy)]
pub(super) enum Known {
    Held,
    Waits,
    Passed,
    /// Some have answered; this many have not.
    SoFar(Receipt, u32),
}

impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held => f.write_str("it is held in this process until the cluster is ready"),
            Self::Waits => f.write_str("it waits in this process for the master to read it"),
            Self::Passed => f.write_str("the master has it, and not all its receivers answered"),
            Self::SoFar(receipt, waiting) => write!(
                f,
                "taken by {}, no handler in {}, no room in {}, lost with {}, no answer of {waiting}",
                receipt.taken, receipt.unhandled, receipt.no_room, receipt.lost
            ),
        }
    }
}

/// The wait for a [`Receipt`]. It ends with an error after 5 s, or after what
/// [`within`](Self::within) says.
///
/// # Errors
///
/// Where nobody could get the message: [`NoSuchProcess`](ErrorKind::NoSuchProcess),
/// [`AgentAway`](ErrorKind::AgentAway), [`NoWorker`](ErrorKind::NoWorker). After the limit
/// [`Timeout`](ErrorKind::Timeout), with what is known so far; the message is not taken back.
/// [`Closed`](ErrorKind::Closed) when the role of this process ends first.
///
/// # Cancel safety
///
/// Dropping it gives up the receipt, not the message.
#[must_use = "it does nothing unless it is awaited; the message is sent in any case"]
pub struct AwaitReceipt {
    hub: Arc<Hub>,
    id: u64,
    action: Arc<str>,
    receiver: oneshot::Receiver<Result<Receipt>>,
    limit: Duration,
    /// Made when it is polled first.
    sleep: Option<Pin<Box<Sleep>>>,
}

impl AwaitReceipt {
    pub(super) fn new(
        hub: Arc<Hub>,
        id: u64,
        action: Arc<str>,
        receiver: oneshot::Receiver<Result<Receipt>>,
    ) -> Self {
        Self { hub, id, action, receiver, limit: PATIENCE, sleep: None }
    }

    /// How long it may take, from the first poll. Default 5 s.
    pub fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }
}

impl Future for AwaitReceipt {
    type Output = Result<Receipt>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let Poll::Ready(outcome) = Pin::new(&mut this.receiver).poll(cx) {
            // The hub answers before it drops what is awaited.
            let closed = |_| Err(Error::closed(format_args!("message `{}`", this.action)));
            return Poll::Ready(outcome.unwrap_or_else(closed));
        }
        let sleep = this.sleep.get_or_insert_with(|| Box::pin(sleep(this.limit)));
        if sleep.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        let known = this.hub.forget(this.id).unwrap_or(Known::Passed);
        let text = format!(
            "message `{}`: no receipt within {}; {known}",
            this.action,
            lasting(this.limit)
        );
        Poll::Ready(Err(Error::new(ErrorKind::Timeout, text)))
    }
}

impl Drop for AwaitReceipt {
    fn drop(&mut self) {
        self.hub.forget(self.id);
    }
}

impl fmt::Debug for AwaitReceipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwaitReceipt")
            .field("action", &self.action)
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

/// Why a message went to nobody.
pub(super) fn refused(action: &str, target: Target, refusal: Refusal) -> Error {
    let (kind, why) = match (refusal, target) {
        (Refusal::NoSuchProcess, Target::Pid(pid)) => (
            ErrorKind::NoSuchProcess,
            format!("no process with pid {pid} is ready; take pids from `peers()` or a message"),
        ),
        (Refusal::NoSuchProcess, _) => {
            (ErrorKind::NoSuchProcess, "no such process is ready".to_owned())
        }
        (Refusal::AgentAway, _) => (
            ErrorKind::AgentAway,
            "the agent is away; send it again when its replacement is ready".to_owned(),
        ),
        (Refusal::NoWorker, _) => {
            (ErrorKind::NoWorker, "no worker is ready; send it again when one is".to_owned())
        }
        (Refusal::None | Refusal::Invalid, _) => {
            (ErrorKind::Protocol, "the master does not understand it".to_owned())
        }
    };
    Error::new(kind, format!("message `{action}`: {why}"))
}
