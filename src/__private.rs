//! All that code expanded from `#[cluster_client]` may name, and nothing else. Not public API.

use std::{fmt, future::Future, hash::Hash, marker::PhantomData};

pub use bytes::Bytes;
pub use futures::{Stream, StreamExt};
pub use std::sync::Arc;

pub use crate::{
    cluster::{ClusterClient, Deliveries, ProxyCore, Subscription},
    codec::{Codec, Decode, Encode, Json, MessagePack, Protobuf},
    error::{Error, ErrorCode, ErrorKind},
    leader::Sink,
    spec::{
        BoxFuture, ChannelSpec, End, Failure, Health, HealthReport, MethodKind, MethodSpec, Reply,
    },
};

use crate::codec::{DecodeArgs, EncodeArgs};

/// The value and error types of a method's result, found by projection.
pub trait Outcome {
    /// `T` of `Result<T, E>`.
    type Value;
    /// `E` of `Result<T, E>`.
    type Error;
    /// As a plain `Result`.
    fn into_result(self) -> Result<Self::Value, Self::Error>;
}

impl<T, E> Outcome for Result<T, E> {
    type Value = T;
    type Error = E;
    fn into_result(self) -> Result<T, E> {
        self
    }
}

/// What a oneway method may return: nothing, or a `Result` whose error is counted and logged.
pub trait OnewayOutcome {
    /// The error, where there is one.
    type Error;
    /// As a `Result`.
    fn into_result(self) -> Result<(), Self::Error>;
    /// What the proxy returns: `accepted` is whether the call was queued.
    fn from_queued(queued: Result<(), Error>) -> Self
    where
        Self::Error: From<Error>;
}

impl OnewayOutcome for () {
    type Error = Error;
    fn into_result(self) -> Result<(), Error> {
        Ok(())
    }
    fn from_queued(_: Result<(), Error>) -> Self {}
}

impl<E> OnewayOutcome for Result<(), E> {
    type Error = E;
    fn into_result(self) -> Self {
        self
    }
    fn from_queued(queued: Result<(), Error>) -> Self
    where
        E: From<Error>,
    {
        queued.map_err(E::from)
    }
}

/// Encodes the arguments of a call: a tuple of references.
pub fn encode_args<C, A: EncodeArgs<C>>(args: A) -> Result<Bytes, Error> {
    args.encode_args()
}

/// Decodes the arguments of a call into a tuple of owned values.
pub fn decode_args<C, A: DecodeArgs<C>>(args: Bytes) -> Result<A, Error> {
    A::decode_args(args)
}

/// `()` in a codec.
pub fn unit<C: Encode<()>>() -> Bytes {
    crate::codec::encode_value::<C, ()>(&()).unwrap_or_default()
}

/// Asserts at compile time that an argument can be part of a key.
pub fn assert_key<K: Eq + Hash + ?Sized>(_: &K) {}

/// The reply of a call: its value encoded, or its error with all that can be told of it.
pub fn reply<C: Encode<T>, T, E>(result: Result<T, E>, describe: fn(&E) -> Failure) -> Reply {
    match result {
        Ok(value) => crate::codec::encode_value::<C, T>(&value).map_err(Failure::Cluster),
        Err(error) => Err(describe(&error)),
    }
}

/// The result that the caller of a proxy method sees.
pub fn outcome<C: Decode<T>, T, E: From<Error>>(
    reply: Reply,
    revive: fn(&[u8]) -> Option<E>,
) -> Result<T, E> {
    match reply {
        Ok(bytes) => C::decode(bytes).map_err(E::from),
        Err(failure) => Err(self::failure(failure, revive)),
    }
}

/// The error that the caller of a proxy method sees.
pub fn failure<E: From<Error>>(failure: Failure, revive: fn(&[u8]) -> Option<E>) -> E {
    match failure {
        Failure::Client(error, Some(value)) => revive(&value).unwrap_or_else(|| E::from(error)),
        Failure::Client(error, None) | Failure::Cluster(error) => E::from(error),
    }
}

/// Chooses, without an attribute, what is known of an error type: method resolution takes the
/// first trait below whose bound holds (`&Probe` before `&&Probe`).
pub struct Probe<E>(PhantomData<fn() -> E>);

impl<E> Probe<E> {
    /// A probe of `E`.
    #[must_use]
    pub const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<E> Default for Probe<E> {
    fn default() -> Self {
        Self::new()
    }
}

impl<E> fmt::Debug for Probe<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Probe")
    }
}

/// `E` is serde: its value crosses.
pub trait ViaSerde<E> {
    /// Encodes the value of the error.
    fn value(&self) -> fn(&E) -> Option<Bytes>;
    /// Decodes the value of the error.
    fn revive(&self) -> fn(&[u8]) -> Option<E>;
}

impl<E: serde::Serialize + serde::de::DeserializeOwned> ViaSerde<E> for Probe<E> {
    fn value(&self) -> fn(&E) -> Option<Bytes> {
        |error| rmp_serde::to_vec_named(error).ok().map(Bytes::from)
    }
    fn revive(&self) -> fn(&[u8]) -> Option<E> {
        |bytes| rmp_serde::from_slice(bytes).ok()
    }
}

/// `E` is not serde: the caller gets `E::from(Error)`.
pub trait ViaText<E> {
    /// No value.
    fn value(&self) -> fn(&E) -> Option<Bytes>;
    /// No value.
    fn revive(&self) -> fn(&[u8]) -> Option<E>;
}

impl<E> ViaText<E> for &Probe<E> {
    fn value(&self) -> fn(&E) -> Option<Bytes> {
        |_| None
    }
    fn revive(&self) -> fn(&[u8]) -> Option<E> {
        |_| None
    }
}

/// `E` has a code.
pub trait ViaCode<E> {
    /// The code of the error.
    fn code(&self) -> fn(&E) -> Option<String>;
}

impl<E: ErrorCode> ViaCode<E> for Probe<E> {
    fn code(&self) -> fn(&E) -> Option<String> {
        |error| Some(error.code())
    }
}

/// `E` has no code.
pub trait ViaNoCode<E> {
    /// None.
    fn code(&self) -> fn(&E) -> Option<String>;
}

impl<E> ViaNoCode<E> for &Probe<E> {
    fn code(&self) -> fn(&E) -> Option<String> {
        |_| None
    }
}

/// `E` has causes.
pub trait ViaSource<E> {
    /// The texts of its causes, outermost first.
    fn chain(&self) -> fn(&E) -> Vec<String>;
}

impl<E: std::error::Error> ViaSource<E> for Probe<E> {
    fn chain(&self) -> fn(&E) -> Vec<String> {
        |error| {
            std::iter::successors(error.source(), |cause| cause.source())
                .take(MAX_CAUSES)
                .map(ToString::to_string)
                .collect()
        }
    }
}

/// `E` only has a text.
pub trait ViaNoSource<E> {
    /// None.
    fn chain(&self) -> fn(&E) -> Vec<String>;
}

impl<E> ViaNoSource<E> for &Probe<E> {
    fn chain(&self) -> fn(&E) -> Vec<String> {
        |_| Vec::new()
    }
}

/// Causes beyond this many are left out: a cyclic `source()` must not hang the leader.
const MAX_CAUSES: usize = 16;

/// All that can be told of an error of the client.
pub fn describe<E: fmt::Display>(
    error: &E,
    value: fn(&E) -> Option<Bytes>,
    code: fn(&E) -> Option<String>,
    chain: fn(&E) -> Vec<String>,
) -> Failure {
    let name = std::any::type_name::<E>();
    let name = name.split('<').next().unwrap_or(name);
    let name = name.rsplit("::").next().unwrap_or(name);
    let source = chain(error).into_iter().rev().fold(None, |inner: Option<Error>, text| {
        let cause = Error::new(ErrorKind::Client, text);
        Some(match inner {
            Some(inner) => cause.with_source(inner),
            None => cause,
        })
    });
    let mut told = Error::new(ErrorKind::Client, error.to_string())
        .with_client(Some(name.to_owned()), code(error));
    if let Some(source) = source {
        told = told.with_source(source);
    }
    Failure::Client(told, value(error))
}

/// The `describe` function of an error type, with everything found by probing.
#[doc(hidden)]
#[macro_export]
macro_rules! __describe {
    ($error:ty) => {{
        #[allow(unused_imports)]
        use $crate::__private::{
            Probe, ViaCode as _, ViaNoCode as _, ViaNoSource as _, ViaSerde as _, ViaSource as _,
            ViaText as _,
        };
        |error: &$error| {
            $crate::__private::describe::<$error>(
                error,
                (&Probe::<$error>::new()).value(),
                (&Probe::<$error>::new()).code(),
                (&Probe::<$error>::new()).chain(),
            )
        }
    }};
}

/// The `revive` function of an error type.
#[doc(hidden)]
#[macro_export]
macro_rules! __revive {
    ($error:ty) => {{
        #[allow(unused_imports)]
        use $crate::__private::{Probe, ViaSerde as _, ViaText as _};
        (&Probe::<$error>::new()).revive()
    }};
}

/// Runs a `#[health]` stream to its end.
pub async fn run_health(stream: impl Stream<Item = Health> + Send, report: HealthReport) {
    let mut stream = std::pin::pin!(stream);
    while let Some(health) = stream.next().await {
        report(health);
    }
}

/// An assertion helper for futures: the user's futures must be `Send`.
pub fn boxed<F: Future + Send + 'static>(future: F) -> BoxFuture<F::Output> {
    Box::pin(future)
}
