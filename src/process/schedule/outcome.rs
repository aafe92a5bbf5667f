//! How runs end, and what the master's table tells of jobs.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use crate::process::times::{maybe_since_1970, seconds, since_1970};

/// How a run of a job ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "result", content = "reason")]
#[non_exhaustive]
pub enum RunOutcome {
    /// It returned `Ok`.
    Succeeded,
    /// It returned an error: the error and its causes, cut to 1 KiB.
    Failed(String),
    /// It panicked: the message, cut to 1 KiB.
    Panicked(String),
    /// It took longer than its limit and was dropped.
    TimedOut,
    /// Its worker ended before the run did. How far it came is not known.
    Lost,
    /// It did not start: no worker took it within a minute.
    Missed,
    /// It did not start: another one was not over.
    Skipped,
}

impl RunOutcome {
    /// Whether the run returned `Ok`.
    #[must_use]
    pub fn is_success(&self) -> bool {
        *self == Self::Succeeded
    }
}

impl fmt::Display for RunOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Succeeded => f.write_str("succeeded"),
            Self::Failed(why) => write!(f, "failed: {why}"),
            Self::Panicked(why) => write!(f, "panicked: {why}"),
            Self::TimedOut => f.write_str("timed out"),
            Self::Lost => f.write_str("was lost with its worker"),
            Self::Missed => f.write_str("was missed: no worker took it in time"),
            Self::Skipped => f.write_str("was skipped: another run was not over"),
        }
    }
}

/// A job, as the master has it. In JSON times are seconds since 1970 UTC, and durations seconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct JobStatus {
    /// Its name.
    pub name: String,
    /// When it is due, in words: `every 30s`, `0 0 3 * * * Europe/Berlin`.
    pub schedule: String,
    /// Whether it runs on all workers, and not on one of them.
    pub on_all: bool,
    /// Whether it is ever due: it is not disabled, and this is one of its environments.
    pub enabled: bool,
    /// Whether the last worker that had it has unregistered it, or was stopped.
    pub ended: bool,
    /// The pids of the ready workers that have it.
    pub workers: Vec<u32>,
    /// When it is due next.
    #[serde(with = "maybe_since_1970")]
    pub next: Option<SystemTime>,
    /// Runs that wait for a worker, or for another run.
    pub waiting: usize,
    /// Runs that are in a worker.
    pub running: Vec<RunningRun>,
    /// The last runs that started and are over, oldest first; at most 20.
    pub last: Vec<RunRecord>,
    /// How many runs have been skipped since another one was not over.
    pub skipped: u64,
    /// How many runs have been missed since no worker took them in time.
    pub missed: u64,
}

/// A run that is not over. See [`JobStatus::running`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RunningRun {
    /// The run.
    pub id: u64,
    /// From 1; more, where a worker died with it.
    pub attempt: u32,
    /// The worker that has it.
    pub pid: u32,
    /// When it was due.
    #[serde(with = "since_1970")]
    pub scheduled: SystemTime,
    /// For how long it has been running.
    #[serde(rename = "running_seconds", with = "seconds")]
    pub running_for: Duration,
}

/// A run that is over. See [`JobStatus::last`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RunRecord {
    /// The run.
    pub id: u64,
    /// From 1; more, where a worker died with it.
    pub attempt: u32,
    /// The worker that had it.
    pub pid: u32,
    /// When it was due.
    #[serde(with = "since_1970")]
    pub scheduled: SystemTime,
    /// How long it took.
    #[serde(rename = "took_seconds", with = "seconds")]
    pub took: Duration,
    /// How it ended.
    #[serde(flatten)]
    pub outcome: RunOutcome,
}

/// Longest reason of a run's failure, in bytes.
const MAX_REASON: usize = 1024;

/// Cuts a reason to its limit.
pub(in crate::process) fn clip(mut reason: String) -> String {
    if reason.len() > MAX_REASON {
        reason.truncate(reason.floor_char_boundary(MAX_REASON - '…'.len_utf8()));
        reason.push('…');
    }
    reason
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_record_reads_well_in_json() {
        let scheduled = SystemTime::UNIX_EPOCH + Duration::from_millis(1_800_000_000_250);
        let mut record = RunRecord {
            id: 7,
            attempt: 1,
            pid: 42,
            scheduled,
            took: Duration::from_millis(1_500),
            outcome: RunOutcome::Failed("no route".into()),
        };
        let said = serde_json::to_value(&record).unwrap();
        let expected = json!({
            "id": 7, "attempt": 1, "pid": 42, "scheduled": 1_800_000_000.25,
            "took_seconds": 1.5, "result": "failed", "reason": "no route",
        });
        assert_eq!(said, expected);
        let read: RunRecord = serde_json::from_value(said).unwrap();
        assert_eq!((read.scheduled, read.outcome), (scheduled, record.outcome.clone()));
        record.outcome = RunOutcome::TimedOut;
        assert_eq!(serde_json::to_value(&record).unwrap()["result"], "timed_out");
    }

    #[test]
    fn a_reason_is_cut_between_characters() {
        assert_eq!(clip("short".into()), "short");
        let cut = clip("ä".repeat(2_000));
        assert!(cut.len() <= MAX_REASON && cut.ends_with('…'), "{}", cut.len());
    }
}
