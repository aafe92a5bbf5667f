//! What processes of a cluster are called, and how they end.

use std::{fmt, os::unix::process::ExitStatusExt, process::ExitStatus};

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind};

/// Which process of the cluster: its role, and of a worker its index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "role", content = "index", rename_all = "lowercase")]
#[non_exhaustive]
pub enum ProcessName {
    /// The process that started the others and supervises them.
    Master,
    /// The process that holds the real clients.
    Agent,
    /// A worker, by its index from 0.
    Worker(u32),
}

impl fmt::Display for ProcessName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Master => f.write_str("master"),
            Self::Agent => f.write_str("agent"),
            Self::Worker(index) => write!(f, "worker {index}"),
        }
    }
}

/// How a process ended. Its [`code`](Exit::code) is what a shell shows as `$?`.
///
/// | code | process | meaning |
/// | --- | --- | --- |
/// | 0 | any | it was asked to stop, and did |
/// | 1 | master | the start failed, its observer failed, or a process that was killed is not gone |
/// | 1 | command line | it was not done, and says why |
/// | 2 | command line | the arguments make no sense |
/// | 3 | `status` | the instance does not run |
/// | 1 | agent, worker | its function returned an error, or returned before it was asked to stop |
/// | 101 | agent, worker | its function panicked |
/// | 110 | agent, worker | the master is gone |
/// | 128 + n | any | it was killed by signal n |
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Exit {
    /// It was asked to stop, and did.
    Clean,
    /// It failed, and said so.
    Failed,
    /// Its function panicked.
    Panicked,
    /// The master was gone.
    LostMaster,
    /// It exited by itself with another code.
    Code(i32),
    /// A signal killed it.
    Signal(i32),
}

impl Exit {
    /// The code that the system and shells show.
    #[must_use]
    pub fn code(self) -> i32 {
        match self {
            Self::Clean => 0,
            Self::Failed => 1,
            Self::Panicked => 101,
            Self::LostMaster => 110,
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

impl Exit {
    /// Of a process that ends with this error.
    pub(super) fn of(error: &Error) -> Self {
        if error.kind() == ErrorKind::Panicked { Self::Panicked } else { Self::Failed }
    }
}

impl From<i32> for Exit {
    /// Of a process that exited by itself.
    fn from(code: i32) -> Self {
        match code {
            0 => Self::Clean,
            1 => Self::Failed,
            101 => Self::Panicked,
            110 => Self::LostMaster,
            code => Self::Code(code),
        }
    }
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::from(code),
            (None, Some(signal)) => Self::Signal(signal),
            // A status that was waited for is one of the two; a value no process has stands for
            // what the platform may invent.
            (None, None) => Self::Code(-1),
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signal(signal) => write!(f, "signal {signal}"),
            other => write!(f, "exit code {}", other.code()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_leads_back_to_its_exit() {
        for exit in [Exit::Clean, Exit::Failed, Exit::Panicked, Exit::LostMaster, Exit::Code(7)] {
            assert_eq!(Exit::from(ExitStatus::from_raw(exit.code() << 8)), exit);
        }
        let killed = Exit::from(ExitStatus::from_raw(9));
        assert_eq!((killed, killed.code()), (Exit::Signal(9), 137));
        assert_eq!(killed.to_string(), "signal 9");
        assert_eq!(Exit::LostMaster.to_string(), "exit code 110");
    }
}
