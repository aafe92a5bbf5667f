//! All that code expanded from `#[cluster_client]` may name, and nothing else. Not public API.

use std::{fmt, future::Future, hash::Hash, marker::PhantomData};

pub use bytes::Bytes;
pub use futures::{Stream, StreamExt};
pub use std::sync::Arc;

pub use crate::{
    cluster::{Answer, ClusterClient, Deliveries, ProxyCore, Subscription},
    codec::{ArgsReader, ArgsWriter, Codec, Decode, Encode, Json, MessagePack, Protobuf},
    error::{Error, ErrorCode, ErrorKind},
    leader::Sink,
    spec::{
        Answered as Reply, BoxFuture, ChannelSpec, End, Failure, Health, HealthReport, MethodKind,
        MethodSpec,
    },
};

/// The value and error types of a method's result, found by projection.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no `Result`",
    label = "return `Result<_, E>` where `E: From<cluster_client::Error>`",
    note = "a call can fail between the processes, and the caller must be told; for methods that \
            cannot fail by themselves give `error = E` to `#[cluster_client]`"
)]
pub trait Outcome {
    /// `T` of `Result<T, E>`.
    type Value;
    /// `E` of `Result<T, E>`.
    type Error;
    /// As a plain `Result`.
    fn into_result(self) -> Result<Self::Value, Self::Error>;
    /// From a plain `Result`.
    fn from_result(result: Result<Self::Value, Self::Error>) -> Self;
}

impl<T, E> Outcome for Result<T, E> {
    type Value = T;
    type Error = E;
    fn into_result(self) -> Self {
        self
    }
    fn from_result(result: Self) -> Self {
        result
    }
}

/// What a oneway method may return: nothing, or a `Result` whose error is counted and logged.
#[diagnostic::on_unimplemented(
    message = "a oneway method cannot return `{Self}`",
    label = "return nothing, or `Result<(), E>` where `E: From<cluster_client::Error>`",
    note = "nobody waits for the answer of a oneway call"
)]
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

/// What can be part of a key.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be part of a key",
    label = "this is not `Eq + Hash`",
    note = "equal keys share one topic, publication or call; `#[publish(key = …)]` names the parts \
            of the arguments that are the key"
)]
pub trait Key {}

#[diagnostic::do_not_recommend]
impl<K: Eq + Hash + ?Sized> Key for K {}

/// Asserts at compile time that an argument can be part of a key, and gives it back.
pub const fn assert_key<K: Key + ?Sized>(key: &K) -> &K {
    key
}

/// The same type: what is withdrawn and what was published.
#[diagnostic::on_unimplemented(
    message = "`{T}` was published, but `{Self}` is withdrawn",
    label = "take `{T}` here, as the `#[publish]` method does"
)]
pub trait SameAs<T> {}

impl<T> SameAs<T> for T {}

/// Asserts at compile time that an unpublish method takes what its publish method takes.
pub const fn assert_same<P, W: SameAs<P>>() {}

/// What a publish or unpublish method gives.
#[diagnostic::on_unimplemented(
    message = "a publish or unpublish method cannot give `{Self}`",
    label = "return `Result<(), E>`",
    note = "an equal publication of another process is answered without calling the client; for a \
            value use `#[invoke]`"
)]
pub trait NoValue {}

impl NoValue for () {}

/// Asserts at compile time that a publish or unpublish method gives no value.
pub const fn assert_no_value<V: NoValue>() {}

/// A request names a method that the client does not have.
pub fn no_such_method(method: usize) -> Error {
    Error::new(
        ErrorKind::MethodMismatch,
        format!(
            "the client has no method number {method} of this kind; build both ends from the same \
             version of the client"
        ),
    )
}

/// The client, or why it could not connect.
///
/// # Errors
///
/// The client's own error, described.
pub fn connected<R: Outcome>(
    result: R,
    describe: fn(&R::Error) -> Failure,
) -> Result<R::Value, Failure> {
    result.into_result().map_err(|error| describe(&error))
}

/// Why an answered subscribe method gave no stream.
pub fn refused<E>(error: &E, describe: fn(&E) -> Failure) -> End {
    End::Refused(describe(error))
}

/// `()` in a codec.
pub fn unit<C: Encode<()>>() -> Bytes {
    crate::codec::encode_value::<C, ()>(&()).unwrap_or_default()
}

/// The reply of a call: its value encoded, or its error with all that can be told of it.
pub fn reply<C: Encode<R::Value> + 'static, R: Outcome<Value: 'static>>(
    result: R,
    describe: fn(&R::Error) -> Failure,
) -> Reply {
    let value = connected(result, describe)?;
    crate::codec::encode_result::<C, R::Value>(&value).map_err(Failure::Cluster)
}

/// The reply of a oneway call, which nobody waits for: whether it succeeded.
pub fn reply_oneway<R: OnewayOutcome>(result: R, describe: fn(&R::Error) -> Failure) -> Reply {
    result.into_result().map(|()| Bytes::new().into()).map_err(|error| describe(&error))
}

/// Decodes the value of an error, where its type is serde. The probe is how `__revive` comes to
/// know the type.
pub type Revive<E> = fn(Probe<E>, &[u8]) -> Option<E>;

/// The result that the caller of a proxy method sees.
pub fn outcome<C: Decode<R::Value>, R: Outcome>(answer: Answer<'_>, revive: Revive<R::Error>) -> R
where
    R::Error: From<Error>,
{
    R::from_result(answer.value::<C, R::Value>().map_err(|failure| self::failure(failure, revive)))
}

/// The result that the caller of an answered subscribe method sees.
pub fn opened<R: Outcome>(opened: Result<R::Value, Failure>, revive: Revive<R::Error>) -> R
where
    R::Error: From<Error>,
{
    R::from_result(opened.map_err(|failure| self::failure(failure, revive)))
}

/// The error that the caller of a proxy method sees.
pub fn failure<E: From<Error>>(failure: Failure, revive: Revive<E>) -> E {
    match failure {
        Failure::Client(error, Some(value)) => {
            revive(Probe::new(), &value).unwrap_or_else(|| E::from(error))
        }
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

    /// A probe of the type of this value.
    #[must_use]
    pub const fn of(_: &E) -> Self {
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

/// The `describe` function of the error type that is expected where this stands, with everything
/// found by probing. The type is not named, so that what is wrong with it is told once.
#[doc(hidden)]
#[macro_export]
macro_rules! __describe {
    () => {{
        #[allow(unused_imports)]
        use $crate::__private::{
            Probe, ViaCode as _, ViaNoCode as _, ViaNoSource as _, ViaSerde as _, ViaSource as _,
            ViaText as _,
        };
        |error| {
            let probe = Probe::of(error);
            let (value, code, chain) = ((&probe).value(), (&probe).code(), (&probe).chain());
            $crate::__private::describe(error, value, code, chain)
        }
    }};
}

/// The [`Revive`](crate::__private::Revive) of the error type that is expected where this stands.
#[doc(hidden)]
#[macro_export]
macro_rules! __revive {
    () => {{
        #[allow(unused_imports)]
        use $crate::__private::{ViaSerde as _, ViaText as _};
        |probe, bytes| (&probe).revive()(bytes)
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
