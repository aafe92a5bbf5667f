//! Where the lines of a cluster go: this process's own stdout and stderr, or files.
//!
//! All processes of a cluster write to the master, and the master alone writes to the files, each
//! line in one piece and with who wrote it before it. So a file can be renamed at any time, as
//! logrotate does: the next line finds that the path no longer leads to the file, and opens a new
//! one.

#[cfg(feature = "cli")]
mod file;

use std::io::{self, BufRead, BufReader, Read, Write};
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

    /// Writes a line, or a piece of one that is too long, as a line that has this tag.
    pub(super) fn write_tagged(&self, tag: &str, line: &[u8]) {
        let end: &[u8] = if line.ends_with(b"\n") { b"" } else { b"\n" };
        // In one piece, so that the lines of several processes do not mix.
        self.write(&[tag.as_bytes(), line, end].concat());
    }
}

/// Reads lines until the end of the stream, with their ends, and in pieces where they are too long.
pub(super) fn copy_lines(stream: impl Read, mut to: impl FnMut(&[u8])) {
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        match reader.by_ref().take(LINE_BYTES).read_until(b'\n', &mut line) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return,
        }
        to(&line);
        line.clear();
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
