//! Where the upstream stream of a subscription pours its items: the upstream's end of a topic.

use std::{future::poll_fn, pin::pin, sync::Arc, task::Poll, time::Duration};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use tokio::time::timeout;

use super::topics::Topic;
use crate::{
    codec::{Encode, encode_value},
    error::{Error, ErrorKind},
    spec::{End, Failure},
};

/// Takes the items of one run of an upstream stream.
#[derive(Clone)]
pub struct Sink {
    topic: Arc<Topic>,
    max_payload: usize,
}

impl Sink {
    pub(super) fn new(topic: Arc<Topic>, max_payload: usize) -> Self {
        Self { topic, max_payload }
    }

    /// Runs a stream of values to its end.
    pub async fn run<C, T, S>(self, stream: S) -> End
    where
        C: Encode<T>,
        S: Stream<Item = T> + Send,
    {
        self.pour(stream.map(|item| self.encode::<C, T>(&item))).await
    }

    /// Runs a stream of results to its end. An error makes the topic stale.
    pub async fn run_results<C, T, E, S>(self, stream: S, describe: fn(&E) -> Failure) -> End
    where
        C: Encode<T>,
        S: Stream<Item = Result<T, E>> + Send,
    {
        let items = stream.map(|item| match item {
            Ok(item) => self.encode::<C, T>(&item),
            Err(error) => Err(describe(&error).into_error()),
        });
        self.pour(items).await
    }

    fn encode<C: Encode<T>, T>(&self, item: &T) -> Result<Bytes, Error> {
        let bytes = encode_value::<C, T>(item)?;
        if bytes.len() <= self.max_payload {
            return Ok(bytes);
        }
        Err(Error::new(
            ErrorKind::TooLarge,
            format!(
                "a value has {} bytes, more than options.max_payload of {}",
                bytes.len(),
                self.max_payload
            ),
        ))
    }

    async fn pour(&self, items: impl Stream<Item = Result<Bytes, Error>>) -> End {
        self.topic.opened();
        let mut items = pin!(items);
        if self.topic.is_one() {
            self.topic.live();
            loop {
                // An item is taken from the upstream only when somebody has room for it.
                self.topic.wants_item().await;
                let next = poll_fn(|cx| match self.topic.has_room() {
                    true => items.poll_next_unpin(cx).map(Some),
                    // Whoever had room is gone, and the item stays in the upstream.
                    false => Poll::Ready(None),
                });
                match next.await {
                    Some(Some(Ok(item))) => self.topic.deliver(item),
                    Some(Some(Err(cause))) => self.topic.fail(cause),
                    Some(None) => return End::Ended,
                    None => {}
                }
            }
        }
        loop {
            let next = match self.topic.quiet() {
                Some(quiet) => match timeout(quiet, items.next()).await {
                    Ok(next) => next,
                    Err(_) => {
                        self.topic.fail(quiet_for(quiet));
                        items.next().await
                    }
                },
                None => items.next().await,
            };
            match next {
                Some(Ok(value)) => self.topic.push(value),
                Some(Err(cause)) => self.topic.fail(cause),
                None => return End::Ended,
            }
            // A stream that is always ready must not starve its neighbours.
            tokio::task::consume_budget().await;
        }
    }
}

fn quiet_for(quiet: Duration) -> Error {
    Error::new(ErrorKind::Quiet, format!("nothing came from the upstream for {quiet:?}"))
}

impl std::fmt::Debug for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sink").field("topic", &self.topic.number).finish_non_exhaustive()
    }
}
