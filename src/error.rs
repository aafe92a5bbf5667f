//! The one error type of the crate.
//!
//! [`Error`] is cheap to clone, so that one failure can be told to every waiter, and it is serde,
//! so that an error type of the user can hold it and still cross the wire.

use std::{fmt, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

/// A result whose error is [`Error`] unless said otherwise.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of failure an [`Error`] is; match on this to decide what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No answer before the deadline.
    Timeout,
    /// The client, leader or subscription was closed.
    Closed,
    /// The leader was lost after the call had been sent; whether it ran is unknown.
    LeaderLost,
    /// Nothing was heard from the leader's process for `stale_after`.
    LeaderSilent,
    /// The leader's process lives, but its runtime has not turned for `stale_after`.
    LeaderBlocked,
    /// There is no connection to a leader at the moment.
    Disconnected,
    /// The owner of the port does not lead this channel.
    NoSuchChannel,
    /// The channel has a leader on this port already.
    ChannelTaken,
    /// The port is in use by somebody else.
    PortBusy,
    /// The two ends do not have the same token, or the peer is not who it says it is.
    Unauthorized,
    /// The two ends speak different versions of the protocol.
    VersionMismatch,
    /// The two ends do not agree about a method: its existence, kind, arguments, flags, version, or
    /// the type of a value.
    MethodMismatch,
    /// The two ends use different codecs for the channel.
    CodecMismatch,
    /// A payload is larger than the limit.
    TooLarge,
    /// A bound (calls in flight, subscriptions, bytes queued) is reached.
    Overloaded,
    /// The real client could not be connected.
    Connect,
    /// The wrapped client returned an error.
    Client,
    /// The wrapped client panicked.
    Panicked,
    /// The upstream reported through `#[health]` that it is lost.
    UpstreamLost,
    /// The upstream stream of a subscription ended.
    UpstreamEnded,
    /// Nothing came from the upstream for the `quiet` time of the subscription.
    Quiet,
    /// A value could not be encoded.
    Encode,
    /// A value could not be decoded.
    Decode,
    /// The peer broke the protocol.
    Protocol,
    /// An option or argument is not valid.
    Config,
    /// The operating system refused something.
    Io,
    /// A process of the cluster failed.
    Process,
    /// No process of the cluster that is ready has this pid.
    NoSuchProcess,
    /// The agent is away: its replacement is not ready yet.
    AgentAway,
    /// No worker is ready.
    NoWorker,
    /// A kind that this version does not know.
    Other,
}

impl ErrorKind {
    const NAMES: [(Self, &'static str); 31] = [
        (Self::Timeout, "timeout"),
        (Self::Closed, "closed"),
        (Self::LeaderLost, "leader_lost"),
        (Self::LeaderSilent, "leader_silent"),
        (Self::LeaderBlocked, "leader_blocked"),
        (Self::Disconnected, "disconnected"),
        (Self::NoSuchChannel, "no_such_channel"),
        (Self::ChannelTaken, "channel_taken"),
        (Self::PortBusy, "port_busy"),
        (Self::Unauthorized, "unauthorized"),
        (Self::VersionMismatch, "version_mismatch"),
        (Self::MethodMismatch, "method_mismatch"),
        (Self::CodecMismatch, "codec_mismatch"),
        (Self::TooLarge, "too_large"),
        (Self::Overloaded, "overloaded"),
        (Self::Connect, "connect"),
        (Self::Client, "client"),
        (Self::Panicked, "panicked"),
        (Self::UpstreamLost, "upstream_lost"),
        (Self::UpstreamEnded, "upstream_ended"),
        (Self::Quiet, "quiet"),
        (Self::Encode, "encode"),
        (Self::Decode, "decode"),
        (Self::Protocol, "protocol"),
        (Self::Config, "config"),
        (Self::Io, "io"),
        (Self::Process, "process"),
        (Self::NoSuchProcess, "no_such_process"),
        (Self::AgentAway, "agent_away"),
        (Self::NoWorker, "no_worker"),
        (Self::Other, "other"),
    ];

    /// The name of the kind, as it stands on the wire and in logs: `"leader_lost"`.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(kind, _)| *kind == self).map_or("other", |(_, name)| name)
    }

    /// The kind of this name; [`ErrorKind::Other`] for a name that this version does not know.
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        Self::NAMES.iter().find(|(_, known)| *known == name).map_or(Self::Other, |(kind, _)| *kind)
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A failure: its [kind](Error::kind), what failed, and what to do about it.
///
/// # Examples
///
/// ```
/// use cluster_client::{Error, ErrorKind};
///
/// fn is_worth_a_retry(error: &Error) -> bool {
///     matches!(error.kind(), ErrorKind::Timeout | ErrorKind::LeaderLost)
/// }
/// # assert!(is_worth_a_retry(&Error::new(ErrorKind::Timeout, "no answer")));
/// ```
#[derive(Clone, Serialize, Deserialize)]
pub struct Error(Arc<Inner>);

#[derive(Clone, Serialize, Deserialize)]
struct Inner {
    kind: ErrorKind,
    message: String,
    channel: Option<String>,
    method: Option<String>,
    /// Of an error of the wrapped client: the name of its type.
    name: Option<String>,
    code: Option<String>,
    source: Option<Error>,
}

impl Error {
    /// An error of this kind. `message` is lower case, without a full stop, and says what to do.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Arc::new(Inner {
            kind,
            message: message.into(),
            channel: None,
            method: None,
            name: None,
            code: None,
            source: None,
        }))
    }

    /// What kind of failure it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The message alone, without channel, method and causes.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The channel that it concerns, where there is one.
    #[must_use]
    pub fn channel(&self) -> Option<&str> {
        self.0.channel.as_deref()
    }

    /// The method that it concerns, where there is one.
    #[must_use]
    pub fn method(&self) -> Option<&str> {
        self.0.method.as_deref()
    }

    /// Of an error of the wrapped client: the name of its type, as `"RegistryError"`.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.0.name.as_deref()
    }

    /// Of an error of the wrapped client: what [`ErrorCode`](crate::ErrorCode) says of it.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        self.0.code.as_deref()
    }

    /// Whether a deadline passed.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        self.kind() == ErrorKind::Timeout
    }

    /// Whether the operation failed because its client or subscription was closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.kind() == ErrorKind::Closed
    }

    pub(crate) fn with_channel(self, channel: &str) -> Self {
        self.edit(|inner| inner.channel = Some(channel.to_owned()))
    }

    pub(crate) fn with_method(self, method: &str) -> Self {
        self.edit(|inner| inner.method = Some(method.to_owned()))
    }

    pub(crate) fn with_source(self, source: Self) -> Self {
        self.edit(|inner| inner.source = Some(source))
    }

    pub(crate) fn with_client(self, name: Option<String>, code: Option<String>) -> Self {
        self.edit(|inner| {
            inner.name = name;
            inner.code = code;
        })
    }

    fn edit(mut self, edit: impl FnOnce(&mut Inner)) -> Self {
        edit(Arc::make_mut(&mut self.0));
        self
    }

    pub(crate) fn cause(&self) -> Option<&Self> {
        self.0.source.as_ref()
    }

    pub(crate) fn closed(what: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Closed, format!("{what} is closed; create it again to use it"))
    }

    pub(crate) fn timeout(after: Duration, what: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Timeout, format!("no answer within {after:?}: {what}"))
    }

    pub(crate) fn protocol(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Protocol, message)
    }

    pub(crate) fn config(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Config, message)
    }

    pub(crate) fn io(what: impl fmt::Display, error: &std::io::Error) -> Self {
        Self::new(ErrorKind::Io, format!("{what}: {error}"))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.0.channel, &self.0.method) {
            (Some(channel), Some(method)) => write!(f, "{channel}::{method}: ")?,
            (Some(channel), None) => write!(f, "channel {channel}: ")?,
            (None, Some(method)) => write!(f, "{method}: ")?,
            (None, None) => {}
        }
        if let Some(name) = &self.0.name {
            write!(f, "{name}: ")?;
        }
        f.write_str(&self.0.message)?;
        if let Some(code) = &self.0.code {
            write!(f, " (code {code})")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Error({}: {self}", self.kind())?;
        if let Some(source) = &self.0.source {
            write!(f, ", caused by {source:?}")?;
        }
        f.write_str(")")
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|source| source as _)
    }
}

/// So that methods of a wrapped client can return `std::io::Result`.
impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        let kind = match error.kind() {
            ErrorKind::Timeout => std::io::ErrorKind::TimedOut,
            ErrorKind::Unauthorized => std::io::ErrorKind::PermissionDenied,
            ErrorKind::PortBusy => std::io::ErrorKind::AddrInUse,
            ErrorKind::Closed | ErrorKind::Disconnected => std::io::ErrorKind::NotConnected,
            ErrorKind::LeaderLost => std::io::ErrorKind::ConnectionAborted,
            _ => std::io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

/// Gives errors of a wrapped client a code that crosses the wire beside the message.
///
/// Optional: without it an error crosses with the name of its type, its message and its causes.
///
/// # Examples
///
/// ```
/// # #[derive(Debug)] enum RegistryError { NotFound, Busy }
/// impl cluster_client::ErrorCode for RegistryError {
///     fn code(&self) -> String {
///         match self {
///             Self::NotFound => "NOT_FOUND".into(),
///             Self::Busy => "BUSY".into(),
///         }
///     }
/// }
/// ```
pub trait ErrorCode {
    /// The code of this error.
    fn code(&self) -> String;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_name_that_leads_back_to_it() {
        for (kind, name) in ErrorKind::NAMES {
            assert_eq!(kind.name(), name);
            assert_eq!(ErrorKind::from_name(name), kind);
        }
        assert_eq!(ErrorKind::from_name("from the future"), ErrorKind::Other);
    }

    #[test]
    fn text_names_channel_method_type_and_code() {
        let error = Error::new(ErrorKind::Client, "no such key")
            .with_channel("Registry")
            .with_method("get")
            .with_client(Some("RegistryError".into()), Some("E404".into()));
        assert_eq!(error.to_string(), "Registry::get: RegistryError: no such key (code E404)");
    }

    #[test]
    fn an_io_error_holds_it_whole() {
        let error = std::io::Error::from(Error::new(ErrorKind::Timeout, "no answer"));
        assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
        assert_eq!(inner.map(Error::message), Some("no answer"));
    }

    #[test]
    fn survives_serde_with_its_source() {
        let error =
            Error::new(ErrorKind::Connect, "outer").with_source(Error::new(ErrorKind::Io, "inner"));
        let bytes = rmp_serde::to_vec_named(&error).unwrap();
        let back: Error = rmp_serde::from_slice(&bytes).unwrap();
        assert_eq!(format!("{error:?}"), format!("{back:?}"));
    }
}
