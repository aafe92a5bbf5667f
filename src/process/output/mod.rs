//! Where the lines of a cluster go: this process's own stdout and stderr, or files.
//!
//! All processes of a cluster write to the master, and the master alone writes to the files, each
//! line in one piece and with who wrote it before it. So a file can be renamed at any time, as
//! logrotate does: the next line finds that the path no longer leads to the file, and opens a new
//! one.

#[cfg(feature = "cli")]
mod file;

use std::io::{self, Write};
#[cfg(feature = "cli")]
use std::sync::{Arc, Mutex, PoisonError};

#[cfg(feature = "cli")]
pub(super) use self::file::LogFile;
use super::name::ProcessName;

/// Longest line. A longer one goes on in pieces.
pub(super) const LINE_BYTES: u64 = 4 * 1024;

/// A place for lines.
#[derive(Debug, Clone)]
pub(super) enum Sink {
    #[cfg(feature = "cli")]
    Stdout,
    Stderr,
    #[cfg(feature = "cli")]
    File(Arc<Mutex<LogFile>>),
}

impl Sink {
    /// Writes what is to stay together. What can't be written is lost: who writes lines must not
    /// be held up by a full disk.
    pub(super) fn write(&self, bytes: &[u8]) {
        let _ = match self {
            #[cfg(feature = "cli")]
            Self::Stdout => io::stdout().lock().write_all(bytes),
            Self::Stderr => io::stderr().lock().write_all(bytes),
            #[cfg(feature = "cli")]
            Self::File(file) => file.lock().unwrap_or_else(PoisonError::into_inner).write(bytes),
        };
    }
}

/// Where stdout and stderr of agent and workers go, when they go through the master.
#[derive(Debug, Clone)]
pub(super) struct Logs {
    pub(super) stdout: Sink,
    pub(super) stderr: Sink,
}

/// What stands before each line of a process.
pub(super) fn tag(process: ProcessName, pid: u32) -> String {
    match process {
        ProcessName::Worker(index) => format!("worker-{index}[{pid}]: "),
        ProcessName::Master | ProcessName::Agent => format!("{process}[{pid}]: "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_who_wrote_it() {
        assert_eq!(tag(ProcessName::Agent, 7), "agent[7]: ");
        assert_eq!(tag(ProcessName::Worker(2), 8), "worker-2[8]: ");
        assert_eq!(tag(ProcessName::Master, 9), "master[9]: ");
    }
}
