//! The command line's side of the control socket.

use std::{
    io::{self, BufRead, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    time::Duration,
};

use rustix::process::Pid;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    instance::Instance,
    living::Living,
    wire::{Answer, Ask, MAX_ANSWER, Reply, Request, VERSION, line},
};
use crate::error::{Error, ErrorKind, Result};

/// A master that runs.
pub(super) struct Client {
    title: String,
    stream: UnixStream,
    pub(super) master: Living,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum NoAnswer {
    /// The master said nothing within the limit.
    Silent,
    /// The master ended.
    Gone,
    /// It could not, or would not, and says why.
    Failed(String),
}

impl Client {
    /// Connects to the master of an instance. `None` where none runs.
    pub(super) fn connect(instance: &Instance) -> Result<Option<Self>> {
        let Some(stream) = instance.connect()? else { return Ok(None) };
        let title = instance.title.as_str().to_owned();
        let Some(pid) = listener(&stream)? else { return Ok(None) };
        // The connection stands as long as the master does, so this pid is no other's.
        Ok(Living::find(pid).map(|master| Self { title, stream, master }))
    }

    /// As [`connect`](Self::connect), where none is an error.
    pub(super) fn require(instance: &Instance) -> Result<Self> {
        Self::connect(instance)?.ok_or_else(|| {
            let title = instance.title.as_str();
            Error::new(
                ErrorKind::Process,
                format!("{title} is not running; `start --title {title}` starts it"),
            )
        })
    }

    pub(super) fn pid(&self) -> i32 {
        self.master.pid().as_raw_pid()
    }

    /// Asks, and waits for the answer as long as the master says that it is at work.
    pub(super) fn ask<T: DeserializeOwned>(
        &self,
        ask: Ask,
        silence: Duration,
    ) -> Result<T, NoAnswer> {
        self.stream.set_write_timeout(Some(silence))?;
        (&self.stream).write_all(&line(&Request { version: VERSION, ask }))?;
        self.answer(silence)
    }

    /// Waits for the answer to what was asked before, once more.
    pub(super) fn answer<T: DeserializeOwned>(&self, silence: Duration) -> Result<T, NoAnswer> {
        let value = self.listen(silence)?;
        let wrong = |error| NoAnswer::Failed(format!("it gave an answer of another form: {error}"));
        serde_json::from_value(value).map_err(wrong)
    }

    fn listen(&self, silence: Duration) -> Result<Value, NoAnswer> {
        self.stream.set_read_timeout(Some(silence))?;
        let mut reader = BufReader::new(&self.stream);
        loop {
            let mut text = Vec::new();
            if reader.by_ref().take(MAX_ANSWER).read_until(b'\n', &mut text)? == 0 {
                return Err(NoAnswer::Gone);
            }
            let reply: Reply = serde_json::from_slice(&text)
                .map_err(|error| NoAnswer::Failed(format!("it gave no answer: {error}")))?;
            match reply.answer {
                Answer::Working => {}
                Answer::Done { value } => return Ok(value),
                Answer::Failed { error } => return Err(NoAnswer::Failed(error)),
            }
        }
    }

    /// The error of a command that got no answer.
    pub(super) fn error(&self, what: &str, why: NoAnswer) -> Error {
        let (title, pid) = (&self.title, self.pid());
        let text = match why {
            NoAnswer::Silent => format!(
                "{what} {title}: its master (pid {pid}) does not answer; it is stopped, or stuck. \
                 `stop` ends it all the same"
            ),
            NoAnswer::Gone => format!("{what} {title}: its master (pid {pid}) ended meanwhile"),
            NoAnswer::Failed(error) => format!("{what} {title}: {error}"),
        };
        Error::new(ErrorKind::Process, text)
    }
}

impl NoAnswer {
    /// The same without how a reason begins, where the error begins so already.
    pub(super) fn without(self, beginning: &str) -> Self {
        match self {
            Self::Failed(why) => {
                Self::Failed(why.strip_prefix(beginning).unwrap_or(&why).to_owned())
            }
            other => other,
        }
    }
}

impl From<io::Error> for NoAnswer {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::Silent,
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Self::Gone,
            _ => Self::Failed(error.to_string()),
        }
    }
}

/// The process at the other end, if it is this user's.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn listener(stream: &UnixStream) -> Result<Option<Pid>> {
    // A process of another pid namespace has no number here.
    let peer = rustix::net::sockopt::socket_peercred(stream).map_err(|_| {
        Error::new(
            ErrorKind::Process,
            "can't tell who runs the instance: its master is in another container (pid namespace); \
             give the command there",
        )
    })?;
    if peer.uid != rustix::process::geteuid() {
        return Err(Error::config("the control socket belongs to another user"));
    }
    Ok(Some(peer.pid))
}

/// The process at the other end. Its own word has to do on this platform, where the credentials
/// can't be had in safe code; the directory is this user's alone.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn listener(stream: &UnixStream) -> Result<Option<Pid>> {
    let address = stream.peer_addr().ok();
    let lock =
        address.as_ref().and_then(|address| Some(address.as_pathname()?.with_file_name("lock")));
    let pid = lock.and_then(|lock| std::fs::read_to_string(lock).ok()?.trim().parse().ok());
    Ok(pid.and_then(Pid::from_raw))
}
