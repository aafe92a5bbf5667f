//! Work items (`#[subscribe(deliver = "one")]`) as the user sees them.

use std::{
    fmt,
    future::poll_fn,
    marker::PhantomData,
    ops::Deref,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures::{Stream, StreamExt as _};
use tokio::{runtime::Handle, task::AbortHandle};

use super::subscription::{decoder, downcast, mismatch};
use crate::{
    codec::Decode,
    error::{Error, Result},
    follower::{Cursor, Decoder, Item, ItemValue, SubscriptionState as State, TopicHandle},
};

/// Work items of the upstream, each given to one subscriber on the host.
///
/// An item is out until it is [acknowledged](Delivery::ack). One that is dropped, or held by a
/// process that dies, is given to another subscriber and marked as redelivered: at least once. A
/// subscriber holds at most `deliver_window` items (16) at a time; when no subscriber has room,
/// the upstream stream is not polled. Dropping the subscriber gives back all that it has out: an
/// acknowledgement after that comes too late. What it has out when the agent is reloaded stays its
/// own, beside what the next leader gives it. What nobody has when the agent ends, since it was
/// given back just then, is lost unless the upstream gives it again.
pub struct Deliveries<T> {
    handle: Arc<TopicHandle>,
    cursor: Cursor,
    decoder: Decoder,
    feed: Option<AbortHandle>,
    value: PhantomData<fn() -> T>,
}

/// One work item. Dropping it without [`ack`](Delivery::ack) gives it to another subscriber.
pub struct Delivery<T> {
    handle: Arc<TopicHandle>,
    item: Option<Item>,
    value: Arc<T>,
}

impl<T: Send + Sync + 'static> Deliveries<T> {
    pub(super) fn new<C: Decode<T>>(handle: TopicHandle, _method: usize) -> Self {
        let cursor = handle.topic.cursor();
        let decoder = decoder::<C, T>;
        Self { handle: Arc::new(handle), cursor, decoder, feed: None, value: PhantomData }
    }

    /// The items of a stream, for fakes in tests. It ends when the stream ends. Made outside of a
    /// tokio runtime, it is closed from the start.
    pub fn from_stream(stream: impl Stream<Item = T> + Send + 'static) -> Self {
        let handle = TopicHandle::detached(true);
        let topic = Arc::clone(&handle.topic);
        let feed = async move {
            let mut stream = std::pin::pin!(stream);
            let mut number = 0;
            while let Some(value) = stream.next().await {
                number += 1;
                let value = ItemValue::Decoded(Arc::new(value));
                topic.delivered(Item { number, redelivered: false, value, generation: 0 });
                tokio::task::consume_budget().await;
            }
            topic.end(Error::closed("the stream of the fake"));
        };
        let feed = match Handle::try_current() {
            Ok(runtime) => Some(runtime.spawn(feed).abort_handle()),
            Err(_) => {
                handle.topic.close(Error::config("a fake needs a tokio runtime"));
                None
            }
        };
        let cursor = handle.topic.cursor();
        let decoder = |_| Err(Error::config("a fake has nothing to decode"));
        Self { handle: Arc::new(handle), cursor, decoder, feed, value: PhantomData }
    }

    /// The next item.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Closed`](crate::ErrorKind::Closed), or the refusal, when nothing follows;
    /// [`ErrorKind::MethodMismatch`](crate::ErrorKind::MethodMismatch) for an item that does not
    /// decode here, which is out of the queue then and given to nobody else.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: no item is lost when it is dropped, as in `select!`.
    pub async fn recv(&mut self) -> Result<Delivery<T>> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Delivery<T>>> {
        let item = ready!(self.handle.topic.poll_item(&self.cursor, cx))?;
        let decoded = match &item.value {
            ItemValue::Encoded(bytes) => (self.decoder)(bytes.clone()),
            ItemValue::Decoded(value) => Ok(Arc::clone(value)),
        };
        Poll::Ready(match decoded.and_then(downcast) {
            Ok(value) => {
                let handle = Arc::clone(&self.handle);
                Ok(Delivery { handle, item: Some(item), value })
            }
            Err(error) => {
                self.handle.settle(&item, true);
                let error = mismatch(&error);
                tracing::error!(%error, "a work item was dropped");
                Err(error)
            }
        })
    }

    /// Whether items can come, and why not.
    #[must_use]
    pub fn state(&self) -> State {
        self.handle.topic.state()
    }
}

impl<T> Delivery<T> {
    /// The work is done: the item is given to nobody else.
    pub fn ack(mut this: Self) {
        if let Some(item) = this.item.take() {
            this.handle.settle(&item, true);
        }
    }

    /// Whether it was given to a subscriber before, which may have done part of the work.
    #[must_use]
    pub fn redelivered(this: &Self) -> bool {
        this.item.as_ref().is_some_and(|item| item.redelivered)
    }
}

impl<T> Drop for Delivery<T> {
    fn drop(&mut self) {
        if let Some(item) = self.item.take() {
            self.handle.settle(&item, false);
        }
    }
}

impl<T> Deref for Delivery<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> Drop for Deliveries<T> {
    fn drop(&mut self) {
        if let Some(feed) = self.feed.take() {
            feed.abort();
        }
        self.handle.topic.leave(&self.cursor);
        self.handle.retire();
    }
}

/// Ends when nothing follows. An error is an item that does not decode here.
impl<T: Send + Sync + 'static> Stream for Deliveries<T> {
    type Item = Result<Delivery<T>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match ready!(self.poll_recv(cx)) {
            Err(_) if matches!(self.state(), State::Closed { .. }) => Poll::Ready(None),
            item => Poll::Ready(Some(item)),
        }
    }
}

impl<T> fmt::Debug for Deliveries<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deliveries")
            .field("state", &self.handle.topic.state())
            .finish_non_exhaustive()
    }
}

impl<T: fmt::Debug> fmt::Debug for Delivery<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("value", &self.value)
            .field("redelivered", &Self::redelivered(self))
            .finish_non_exhaustive()
    }
}
