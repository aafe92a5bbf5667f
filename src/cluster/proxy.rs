//! What a generated proxy is made of.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{Deliveries, Subscription, subscription::mismatch};
use crate::{
    codec::{ArgsWriter, Decode},
    connection::timeout_anywhere,
    error::Error,
    follower::{Asked, Follower, TopicHandle},
    spec::{Failure, Reply},
};

/// Forwards the calls of a proxy, by the index of the method.
#[derive(Clone)]
pub struct ProxyCore(Follower);

impl ProxyCore {
    pub(super) fn new(follower: Follower) -> Self {
        Self(follower)
    }

    pub(super) fn follower(&self) -> &Follower {
        &self.0
    }

    /// Calls an invoke method.
    pub fn invoke(
        &self,
        method: usize,
        args: ArgsWriter,
    ) -> impl Future<Output = Answer<'_>> + Send + Unpin {
        Invoke { asked: self.0.invoke(method, args.encoded()), core: self }
    }

    /// Sends a oneway call.
    ///
    /// # Errors
    ///
    /// It could not be queued.
    pub fn oneway(&self, method: usize, args: Result<Bytes, Error>) -> Result<(), Error> {
        self.0.oneway(method, args)
    }

    /// Calls a publish or unpublish method.
    pub async fn publish(
        &self,
        method: usize,
        key: Result<Bytes, Error>,
        args: Result<Bytes, Error>,
    ) -> Answer<'_> {
        Answer { reply: self.0.publish(method, key, args).await, core: self, method }
    }

    /// Subscribes; the leader's answer comes as a state.
    pub fn subscribe<C, T>(&self, method: usize, args: Result<Bytes, Error>) -> Subscription<T>
    where
        C: Decode<T>,
        T: Send + Sync + 'static,
    {
        Subscription::new::<C>(self.0.subscribe(method, args, None), method)
    }

    /// Subscribes, and waits for the leader's answer.
    ///
    /// # Errors
    ///
    /// The refusal of the leader or the client, or none within the deadline.
    pub async fn subscribe_answered<C, T>(
        &self,
        method: usize,
        args: Result<Bytes, Error>,
    ) -> Result<Subscription<T>, Failure>
    where
        C: Decode<T>,
        T: Send + Sync + 'static,
    {
        Ok(Subscription::new::<C>(self.answered(method, args).await?, method))
    }

    /// Subscribes to work items.
    pub fn deliveries<C, T>(&self, method: usize, args: Result<Bytes, Error>) -> Deliveries<T>
    where
        C: Decode<T>,
        T: Send + Sync + 'static,
    {
        Deliveries::new::<C>(self.0.subscribe(method, args, None), method)
    }

    /// Subscribes to work items, and waits for the leader's answer.
    ///
    /// # Errors
    ///
    /// As [`ProxyCore::subscribe_answered`].
    pub async fn deliveries_answered<C, T>(
        &self,
        method: usize,
        args: Result<Bytes, Error>,
    ) -> Result<Deliveries<T>, Failure>
    where
        C: Decode<T>,
        T: Send + Sync + 'static,
    {
        Ok(Deliveries::new::<C>(self.answered(method, args).await?, method))
    }

    fn name_error(&self, method: usize, error: Error) -> Error {
        error.with_channel(self.0.channel()).with_method(self.0.method_name(method))
    }

    async fn answered(
        &self,
        method: usize,
        args: Result<Bytes, Error>,
    ) -> Result<TopicHandle, Failure> {
        let (sender, answer) = oneshot::channel();
        let handle = self.0.subscribe(method, args, Some(sender));
        let timeout = self.0.options().call_timeout;
        let named = |error| self.name_error(method, error);
        let answer = timeout_anywhere(Some(self.0.runtime()), timeout, answer).map_err(named)?;
        match answer.await {
            Ok(Ok(Ok(()))) => Ok(handle),
            Ok(Ok(Err(Failure::Client(error, value)))) => Err(Failure::Client(named(error), value)),
            Ok(Ok(Err(Failure::Cluster(error)))) => Err(named(error).into()),
            Ok(Err(_)) => Err(named(Error::closed("the client")).into()),
            Err(_) => {
                Err(named(Error::timeout(timeout, "the subscription was not answered")).into())
            }
        }
    }
}

/// A call of an invoke method, which begins when it is first polled.
struct Invoke<'a> {
    asked: Asked<'a>,
    core: &'a ProxyCore,
}

impl<'a> Future for Invoke<'a> {
    type Output = Answer<'a>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer<'a>> {
        let (core, method) = (self.core, self.asked.method());
        Pin::new(&mut self.asked).poll(cx).map(|reply| Answer { reply, core, method })
    }
}

/// What came of a request, and of which: a value that does not decode is told with its method.
#[derive(Debug)]
pub struct Answer<'a> {
    reply: Reply,
    core: &'a ProxyCore,
    method: usize,
}

impl Answer<'_> {
    /// The value of the reply.
    ///
    /// # Errors
    ///
    /// The reply is a failure, or does not decode.
    pub fn value<C: Decode<T>, T>(self) -> Result<T, Failure> {
        let Self { reply, core, method } = self;
        C::decode(reply?)
            .map_err(|error| Failure::Cluster(core.name_error(method, mismatch(&error))))
    }
}

impl std::fmt::Debug for ProxyCore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ProxyCore").field(&self.0.channel()).finish()
    }
}
