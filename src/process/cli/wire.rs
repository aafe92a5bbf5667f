//! What is said on the control socket: one request a connection, and its answer.
//!
//! Both are JSON, one value a line. As long as the answer takes, the master says `"working"` every
//! second, so that one that is silent can be told from one that is busy:
//!
//! ```text
//! → {"version":1,"command":"scale","workers":6}
//! ← {"version":1,"answer":"working"}
//! ← {"version":1,"answer":"done","value":null}       or   "answer":"failed","error":"…"
//! ```

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The version of what is said. A program and a master of different versions do not talk.
pub(super) const VERSION: u32 = 1;

/// Longest request.
pub(super) const MAX_REQUEST: u64 = 16 * 1024;

/// Longest answer: a status with the last lines of many processes.
pub(super) const MAX_ANSWER: u64 = 16 * 1024 * 1024;

/// How often a master that is busy says so.
pub(super) const WORKING: Duration = Duration::from_secs(1);

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) version: u32,
    #[serde(flatten)]
    pub(super) ask: Ask,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub(super) enum Ask {
    /// The value is the status; see `docs/operations.md`.
    Status,
    /// The value is [`Stopping`]; the stop goes on after it.
    Stop,
    /// Answered when the reload is done.
    Reload,
    /// Answered when there are as many.
    Scale { workers: u32 },
    /// Answered when the run of the job is over; the value says how it ended, and is null where it
    /// succeeded.
    #[cfg(feature = "schedule")]
    RunJob { name: String },
    /// The value is [`LogPaths`], or null where the instance has no log files.
    Logs,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Reply {
    pub(super) version: u32,
    #[serde(flatten)]
    pub(super) answer: Answer,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub(super) enum Answer {
    Working,
    Done { value: Value },
    Failed { error: String },
}

/// How long the master's own stop takes at most, in milliseconds.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Stopping {
    pub(super) limit_ms: u64,
}

/// Where the lines of an instance go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LogPaths {
    pub(super) stdout: PathBuf,
    pub(super) stderr: PathBuf,
}

/// One line with its end.
pub(super) fn line(value: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(value: &impl Serialize) -> String {
        String::from_utf8(line(value)).unwrap()
    }

    #[test]
    fn requests_and_answers_are_as_documented() {
        let request = Request { version: 1, ask: Ask::Scale { workers: 6 } };
        assert_eq!(json(&request), "{\"version\":1,\"command\":\"scale\",\"workers\":6}\n");
        let request = Request { version: 1, ask: Ask::Status };
        assert_eq!(json(&request), "{\"version\":1,\"command\":\"status\"}\n");
        let reply = Reply { version: 1, answer: Answer::Working };
        assert_eq!(json(&reply), "{\"version\":1,\"answer\":\"working\"}\n");
        let done = json(&Reply { version: 1, answer: Answer::Done { value: Value::Null } });
        assert_eq!(done, "{\"version\":1,\"answer\":\"done\",\"value\":null}\n");
        let back: Reply = serde_json::from_str(&done).unwrap();
        assert_eq!(back.answer, Answer::Done { value: Value::Null });
    }
}
