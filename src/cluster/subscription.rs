//! A subscription as the user sees it.

use std::{
    fmt,
    future::poll_fn,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use tokio::{
    runtime::{self, Handle},
    task::AbortHandle,
};

use crate::{
    codec::Decode,
    connection::timeout_anywhere,
    error::{Error, ErrorKind, Result},
    follower::{Cursor, Decoded, Decoder, Entry, Event, SubscriptionState as State, TopicHandle},
    options::Options,
};

/// The values of one key, as they change.
///
/// [`changed`](Self::changed) tells everything: each value in order, and when the subscription is
/// cut off from the upstream or in touch again. As a [`Stream`] it yields the values alone.
/// [`current`](Self::current) reads the last value at any time, also while the leader is away.
///
/// A subscriber that falls behind by more than `ring_values` values or `ring_bytes` (64 or 1 MiB)
/// goes on with the newest one and is told how many it missed. Each clone has its own place.
/// Dropping the last subscriber of a key on the host ends the upstream subscription after a
/// linger time.
///
/// # Examples
///
/// ```
/// use cluster_client::{Change, Subscription};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// # let mut urls = Subscription::from_stream(futures::stream::iter(["a", "b"]));
/// loop {
///     match urls.changed().await {
///         Change::Value { value, .. } => println!("now {value}"),
///         Change::Stale { cause, .. } => println!("cut off: {cause}"),
///         Change::Live { value } => println!("in touch again, still {value}"),
///         Change::Closed { .. } => break,
///         _ => {}
///     }
/// }
/// # }
/// ```
pub struct Subscription<T> {
    handle: TopicHandle,
    cursor: Cursor,
    decoder: Decoder,
    method: usize,
    /// What feeds a fake; ends with the last clone.
    feed: Option<Arc<Feed>>,
    value: PhantomData<fn() -> Arc<T>>,
}

/// What happened to a [`Subscription`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Change<T> {
    /// A new value; the subscription is live.
    Value {
        /// The value, decoded once a process.
        value: Arc<T>,
        /// How many values before it this subscriber did not see, because it fell behind. What
        /// there was while no leader was up, or before a new one had this key, nobody counted.
        missed: u64,
    },
    /// In touch with the upstream again, which still has this value.
    Live {
        /// The value.
        value: Arc<T>,
    },
    /// Cut off from the upstream. The last value can be read with [`Subscription::current`].
    Stale {
        /// Since when.
        since: Instant,
        /// Why.
        cause: Error,
    },
    /// Over: the client was closed, or the subscription was refused. Nothing follows.
    Closed {
        /// Why.
        cause: Error,
    },
}

impl<T> Clone for Change<T> {
    fn clone(&self) -> Self {
        match self {
            Self::Value { value, missed } => {
                Self::Value { value: Arc::clone(value), missed: *missed }
            }
            Self::Live { value } => Self::Live { value: Arc::clone(value) },
            Self::Stale { since, cause } => Self::Stale { since: *since, cause: cause.clone() },
            Self::Closed { cause } => Self::Closed { cause: cause.clone() },
        }
    }
}

/// A task that feeds a fake.
struct Feed {
    task: AbortHandle,
    runtime: runtime::Id,
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(super) fn decoder<C: Decode<T>, T: Send + Sync + 'static>(
    bytes: Bytes,
) -> Result<Decoded, Error> {
    Ok(Arc::new(C::decode(bytes)?))
}

/// A decoded value as the type that its topic has. The type of a topic is that of its method, so
/// that the cast can't fail.
pub(super) fn downcast<T: Send + Sync + 'static>(value: Decoded) -> Result<Arc<T>, Error> {
    value.downcast().map_err(|_| Error::new(ErrorKind::Decode, "a value of another type"))
}

impl<T: Send + Sync + 'static> Subscription<T> {
    pub(super) fn new<C: Decode<T>>(handle: TopicHandle, method: usize) -> Self {
        let cursor = handle.topic.cursor();
        let decoder = decoder::<C, T>;
        Self { handle, cursor, decoder, method, feed: None, value: PhantomData }
    }

    /// A subscription to the items of a stream, for fakes in tests. It closes when the stream
    /// ends. Made outside of a tokio runtime, it is closed from the start.
    pub fn from_stream(stream: impl Stream<Item = T> + Send + 'static) -> Self {
        let handle = TopicHandle::detached(false);
        let topic = Arc::clone(&handle.topic);
        let feed = async move {
            let mut stream = std::pin::pin!(stream);
            while let Some(value) = stream.next().await {
                topic.push_decoded(Arc::new(value));
                tokio::task::consume_budget().await;
            }
            topic.close(Error::closed("the stream of the fake"));
        };
        let feed = match Handle::try_current() {
            Ok(runtime) => Some(Arc::new(Feed {
                task: runtime.spawn(feed).abort_handle(),
                runtime: runtime.id(),
            })),
            Err(_) => {
                handle.topic.close(Error::config("a fake needs a tokio runtime"));
                None
            }
        };
        let cursor = handle.topic.cursor();
        let decoder = |_| Err(Error::new(ErrorKind::Decode, "a fake has nothing to decode"));
        Self { handle, cursor, decoder, method: 0, feed, value: PhantomData }
    }

    /// The next thing that happens. The first is the current value, if there is one already.
    ///
    /// After [`Change::Closed`] it answers the same at once, for ever.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: nothing is lost when it is dropped, as in `select!`.
    pub async fn changed(&mut self) -> Change<T> {
        poll_fn(|cx| self.poll_changed(cx)).await
    }

    /// As [`changed`](Self::changed), for hand-written futures.
    pub fn poll_changed(&mut self, cx: &mut Context<'_>) -> Poll<Change<T>> {
        loop {
            let change = match std::task::ready!(self.handle.topic.poll_event(&mut self.cursor, cx))
            {
                Event::Value { value, missed } => {
                    let seq = value.seq();
                    match self.typed(value.decode(self.decoder)) {
                        Ok(value) => Change::Value { value, missed },
                        Err(error) => {
                            // The topic shows it as stale until a value comes that decodes.
                            self.handle.topic.note_undecodable(seq, error);
                            continue;
                        }
                    }
                }
                Event::Live { entry: Some(entry) } => match self.decode(&entry) {
                    Ok(value) => Change::Live { value },
                    Err(_) => continue,
                },
                Event::Live { entry: None } => continue,
                Event::Stale { since, cause } => Change::Stale { since, cause },
                Event::Closed { cause } => Change::Closed { cause },
            };
            return Poll::Ready(change);
        }
    }

    /// The first value, waited for until the deadline of a call (`call_timeout`, 10 s).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Timeout`], with the reason why there is no value as its source; or why the
    /// subscription is closed.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe. It has a place of its own: what it sees, `changed` will tell, too.
    pub async fn ready(&self) -> Result<Arc<T>> {
        let timeout = self.handle.follower().map_or_else(
            || Options::default().call_timeout,
            |follower| follower.options().call_timeout,
        );
        self.ready_within(timeout).await
    }

    /// The first value, waited for this long.
    ///
    /// # Errors
    ///
    /// As [`ready`](Self::ready).
    ///
    /// # Cancel safety
    ///
    /// As [`ready`](Self::ready).
    pub async fn ready_within(&self, timeout: Duration) -> Result<Arc<T>> {
        let mut other = self.clone();
        let first = async {
            loop {
                if let Some(value) = other.current() {
                    return Ok(value);
                }
                match other.changed().await {
                    Change::Value { value, .. } | Change::Live { value } => return Ok(value),
                    Change::Closed { cause } => return Err(cause),
                    Change::Stale { .. } => {}
                }
            }
        };
        let home = match (self.handle.follower(), &self.feed) {
            (Some(follower), _) => Some(follower.runtime()),
            (None, feed) => feed.as_ref().map(|feed| feed.runtime),
        };
        match timeout_anywhere(home, timeout, first)?.await {
            Ok(result) => result,
            Err(_) => {
                let late = self.name_error(Error::timeout(timeout, "no value has come"));
                Err(match self.state() {
                    State::Starting { cause: Some(cause), .. } | State::Stale { cause, .. } => {
                        late.with_source(cause)
                    }
                    _ => late,
                })
            }
        }
    }

    /// The last value that was received, decoded at most once a process. Costs nanoseconds, needs
    /// no runtime, and works while the leader is away. `None` before the first value.
    #[must_use]
    pub fn current(&self) -> Option<Arc<T>> {
        let mut entry = self.handle.topic.newest()?;
        loop {
            match self.decode(&entry) {
                Ok(value) => return Some(value),
                // One that does not decode leaves the one before in force, and stale.
                Err(error) => {
                    self.handle.topic.note_undecodable(entry.seq(), error);
                    entry = self.handle.topic.before(&entry)?;
                }
            }
        }
    }

    /// Whether the value is the upstream's current one, and why not.
    #[must_use]
    pub fn state(&self) -> State {
        self.handle.topic.state()
    }

    fn decode(&self, entry: &Entry) -> Result<Arc<T>> {
        self.typed(entry.decode(self.decoder))
    }

    fn typed(&self, decoded: Result<Decoded>) -> Result<Arc<T>> {
        decoded.and_then(downcast).map_err(|error| self.name_error(mismatch(&error)))
    }

    fn name_error(&self, error: Error) -> Error {
        match self.handle.follower() {
            Some(follower) => error
                .with_channel(follower.channel())
                .with_method(follower.method_name(self.method)),
            None => error,
        }
    }
}

/// A value of the leader that this process can't decode.
pub(super) fn mismatch(error: &Error) -> Error {
    Error::new(
        ErrorKind::MethodMismatch,
        format!(
            "a value of the leader does not decode in this process: {}; build both from the same \
             version of the client",
            error.message()
        ),
    )
}

impl<T: Send + Sync + 'static> Clone for Subscription<T> {
    fn clone(&self) -> Self {
        Self {
            cursor: self.handle.topic.clone_cursor(&self.cursor),
            handle: self.handle.clone(),
            decoder: self.decoder,
            method: self.method,
            feed: self.feed.clone(),
            value: PhantomData,
        }
    }
}

impl<T> Drop for Subscription<T> {
    fn drop(&mut self) {
        self.handle.topic.leave(&self.cursor);
    }
}

impl<T: Send + Sync + 'static> Stream for Subscription<T> {
    type Item = Arc<T>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Arc<T>>> {
        loop {
            match std::task::ready!(self.poll_changed(cx)) {
                Change::Value { value, .. } => return Poll::Ready(Some(value)),
                Change::Closed { .. } => return Poll::Ready(None),
                Change::Live { .. } | Change::Stale { .. } => {}
            }
        }
    }
}

impl<T> fmt::Debug for Subscription<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("state", &self.handle.topic.state())
            .finish_non_exhaustive()
    }
}
