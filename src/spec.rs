//! The vocabulary that the macro, the leader and the follower share: the compiled-in description of
//! a wrapped client, and what its calls and streams come to.

use std::{future::Future, pin::Pin, time::Duration};

use bytes::Bytes;

use crate::{codec::Encoded, error::Error};

/// Takes what `#[health]` yields.
pub type HealthReport = Box<dyn Fn(Health) + Send + Sync>;

/// A boxed future, as the leader runs them.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send + 'static>>;

/// What a client that reconnects by itself knows about its upstream; yielded by `#[health]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Health {
    /// The upstream is lost: every subscription of the channel becomes `Stale` with this cause.
    Lost(String),
    /// The upstream is back: subscriptions are opened and publications are published again.
    Restored,
}

/// What a call gave: the encoded value, or why there is none.
pub(crate) type Reply = Result<Bytes, Failure>;

/// What a call of the client gave, as the leader sends it.
pub type Answered = Result<Payload, Failure>;

/// An encoded value, in two pieces where the second one is large and lies elsewhere already.
#[derive(Debug, Clone)]
pub struct Payload {
    head: Bytes,
    bytes: Encoded,
}

impl Payload {
    pub(crate) fn of_pieces(head: Bytes, bytes: Bytes) -> Self {
        Self { head, bytes: bytes.into() }
    }

    /// How many bytes it has.
    pub(crate) fn len(&self) -> usize {
        self.head.len() + self.bytes.len()
    }

    /// In one piece.
    pub fn into_bytes(self) -> Bytes {
        if self.head.is_empty() {
            return self.bytes.into_bytes();
        }
        [&self.head[..], &self.bytes].concat().into()
    }

    /// Its pieces; the first one is most often empty.
    pub(crate) fn into_pieces(self) -> (Bytes, Encoded) {
        (self.head, self.bytes)
    }
}

impl From<Encoded> for Payload {
    fn from(bytes: Encoded) -> Self {
        Self { head: Bytes::new(), bytes }
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Self::from(Encoded::from(bytes))
    }
}

/// Why a call has no value.
#[derive(Debug, Clone)]
pub enum Failure {
    /// A fault of the link or of this library.
    Cluster(Error),
    /// The client's own error, with its value as MessagePack where its type is serde.
    Client(Error, Option<Bytes>),
}

impl Failure {
    /// The error without the value.
    pub fn into_error(self) -> Error {
        match self {
            Self::Cluster(error) | Self::Client(error, _) => error,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Cluster(error)
    }
}

/// How an upstream stream came to its end.
#[derive(Debug)]
pub enum End {
    /// The stream ended.
    Ended,
    /// The async subscribe method returned an error instead of a stream.
    Refused(Failure),
}

/// The compiled-in description of a wrapped client.
#[derive(Debug, Clone, Copy)]
pub struct ChannelSpec {
    /// Default name of the channel: the name of the type, or `name = "…"`.
    pub name: &'static str,
    /// Name of the codec.
    pub codec: &'static str,
    /// The methods that can be reached over the wire; requests name one by its index.
    pub methods: &'static [MethodSpec],
}

/// One method of a wrapped client.
#[derive(Debug, Clone, Copy)]
pub struct MethodSpec {
    /// Name of the method.
    pub name: &'static str,
    /// What it does.
    pub kind: MethodKind,
    /// Number of arguments without `self`.
    pub args: u32,
    /// `version = N`, or 0.
    pub version: u32,
    /// `timeout = "5s"`, where given.
    pub timeout: Option<Duration>,
}

/// What a method does, with its flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MethodKind {
    /// `#[subscribe]`.
    Subscribe {
        /// `deliver = "one"`.
        one: bool,
        /// It is an `async fn` that returns `Result<impl Stream, E>`.
        answered: bool,
        /// `quiet = "30s"`.
        quiet: Option<Duration>,
    },
    /// `#[publish]`, and the index of its `#[unpublish]` where there is one.
    Publish {
        /// The method that withdraws it; it takes the same arguments.
        unpublish: Option<usize>,
    },
    /// `#[unpublish]`, and the index of its `#[publish]`.
    Unpublish {
        /// The method whose effect it withdraws.
        publish: usize,
    },
    /// `#[invoke]`.
    Invoke {
        /// Nobody waits for the answer.
        oneway: bool,
        /// It may be sent again when the leader is lost.
        idempotent: bool,
        /// Equal calls in flight become one.
        share: bool,
    },
}
