//! Messages as those who listen get them.

use std::{
    fmt,
    future::poll_fn,
    marker::PhantomData,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures::Stream;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::{about, check_action, hub::Hub, peers::Peer};
use crate::{
    codec::{Decode, Json},
    error::{Error, Result},
    process::name::ProcessName,
};

/// Most messages that wait for one reader.
const MAX_UNREAD: usize = 1024;

/// Most bytes of values that wait for one reader.
const MAX_UNREAD_BYTES: usize = 4 * 1024 * 1024;

/// A message that came.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Message<T> {
    /// The value that was sent.
    pub data: T,
    /// Which process sent it. The master says so; a sender can't.
    pub from: ProcessName,
    /// The sender's process id, to answer with [`Messenger::send_to`](super::Messenger::send_to).
    pub pid: u32,
}

/// Messages of one action, made by [`Messenger::on`](super::Messenger::on). Also a
/// [`Stream`], which ends with the role of this process.
///
/// A value that is not of type `T` is an error in its place; the messages after it follow. What came
/// before the role ended can be read after it.
///
/// # Examples
///
/// ```
/// use cluster_client::{Agent, Result};
///
/// async fn count_workers(agent: &Agent) -> Result<()> {
///     let mut hellos = agent.messenger().on::<u32>("hello");
///     agent.ready().await?;
///     loop {
///         let hello = hellos.recv().await?;
///         println!("{} says {}", hello.from, hello.data);
///     }
/// }
/// ```
pub struct Messages<T> {
    hub: Arc<Hub>,
    action: String,
    id: u64,
    inbox: Inbox,
    /// Why there is nothing to listen for. Told once.
    unfit: Option<Error>,
    value: PhantomData<fn() -> T>,
}

/// The end of a listener that the messages are put into.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) id: u64,
    /// Whether it wants one message alone.
    pub(super) once: bool,
    sender: mpsc::Sender<(Peer, Bytes)>,
    bytes: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct Inbox {
    receiver: mpsc::Receiver<(Peer, Bytes)>,
    bytes: Arc<AtomicUsize>,
}

impl Listener {
    /// Puts a message into its queue. `false` where there is no room.
    pub(super) fn offer(&self, from: Peer, data: &Bytes) -> bool {
        if self.bytes.load(Ordering::Relaxed) + data.len() > MAX_UNREAD_BYTES {
            return false;
        }
        // Counted first: the reader may be done with it at once.
        self.bytes.fetch_add(data.len(), Ordering::Relaxed);
        let has_room = self.sender.try_send((from, data.clone())).is_ok();
        if !has_room {
            self.bytes.fetch_sub(data.len(), Ordering::Relaxed);
        }
        has_room
    }
}

impl Inbox {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<(Peer, Bytes)>> {
        let next = ready!(self.receiver.poll_recv(cx));
        if let Some((_, data)) = &next {
            self.bytes.fetch_sub(data.len(), Ordering::Relaxed);
        }
        Poll::Ready(next)
    }
}

impl<T> Messages<T> {
    pub(super) fn new(hub: Arc<Hub>, action: &str) -> Self {
        Self::listen(hub, action, false)
    }

    fn listen(hub: Arc<Hub>, action: &str, once: bool) -> Self {
        let (sender, receiver) = mpsc::channel(if once { 1 } else { MAX_UNREAD });
        let bytes = Arc::<AtomicUsize>::default();
        let inbox = Inbox { receiver, bytes: Arc::clone(&bytes) };
        let unfit = check_action(action).err();
        let id = match &unfit {
            None => hub.listen(action, |id| Listener { id, once, sender, bytes }),
            Some(_) => 0,
        };
        Self { hub, action: action.to_owned(), id, inbox, unfit, value: PhantomData }
    }

    fn closed(&self) -> Error {
        Error::closed(format_args!("what listens for `{}`", self.action))
    }
}

impl<T: DeserializeOwned> Messages<T> {
    /// The next message.
    ///
    /// # Errors
    ///
    /// [`Closed`](crate::ErrorKind::Closed) when the role of this process has ended and nothing
    /// follows; [`Decode`](crate::ErrorKind::Decode) for a value that is not of type `T`, after which
    /// others follow; [`Config`](crate::ErrorKind::Config) for an action that can't be sent.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: no message is lost when it is dropped, as in `select!`.
    pub async fn recv(&mut self) -> Result<Message<T>> {
        match poll_fn(|cx| self.poll_message(cx)).await {
            Some(message) => message,
            None => Err(self.closed()),
        }
    }

    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Message<T>>>> {
        if let Some(error) = self.unfit.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let Some((from, data)) = ready!(self.inbox.poll(cx)) else { return Poll::Ready(None) };
        let Peer { process, pid } = from;
        Poll::Ready(Some(match Json::decode(data) {
            Ok(data) => Ok(Message { data, from: process, pid }),
            Err(error) => {
                let error = about(&self.action, &error);
                Err(Error::new(
                    error.kind(),
                    format!("{} (from {process}, pid {pid})", error.message()),
                ))
            }
        }))
    }
}

impl<T: DeserializeOwned> Stream for Messages<T> {
    type Item = Result<Message<T>>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_message(cx)
    }
}

impl<T> Drop for Messages<T> {
    fn drop(&mut self) {
        self.hub.unlisten(&self.action, self.id);
    }
}

impl<T> fmt::Debug for Messages<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Messages").field("action", &self.action).finish_non_exhaustive()
    }
}

/// The wait for one message, made by [`Messenger::once`](super::Messenger::once).
///
/// # Errors
///
/// As [`Messages::recv`].
///
/// # Examples
///
/// ```
/// use cluster_client::{Result, Worker};
///
/// async fn worker(worker: Worker) -> Result<()> {
///     let go = worker.messenger().once::<String>("go");
///     worker.ready().await?;
///     println!("it is {}", go.await?.data);
///     worker.shutdown().await;
///     Ok(())
/// }
/// ```
#[derive(Debug)]
#[must_use = "a message that nobody awaits is taken and dropped"]
pub struct Once<T>(Messages<T>);

impl<T> Once<T> {
    pub(super) fn new(hub: Arc<Hub>, action: &str) -> Self {
        Self(Messages::listen(hub, action, true))
    }
}

impl<T: DeserializeOwned> Future for Once<T> {
    type Output = Result<Message<T>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let messages = &mut self.get_mut().0;
        let message = ready!(messages.poll_message(cx));
        Poll::Ready(message.unwrap_or_else(|| Err(messages.closed())))
    }
}
