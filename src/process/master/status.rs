//! What a cluster looks like at one moment.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::{channels::ChannelStatus, liveness::Unresponsive};
#[cfg(feature = "schedule")]
use crate::process::schedule::JobStatus;
use crate::process::{
    name::ProcessName,
    times::{maybe_seconds, seconds, since_1970},
};

/// The cluster at one moment, as [`MasterHandle::status`](super::MasterHandle::status) gives it.
///
/// Serialized, times are numbers of seconds with a fraction, moments are seconds since 1970, and
/// names of states are lower case.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Status {
    /// The master's process id.
    pub pid: u32,
    /// The cluster port, on `127.0.0.1`.
    pub port: u16,
    /// What the cluster as a whole is doing.
    pub phase: ClusterPhase,
    /// Since when the master runs.
    #[serde(rename = "uptime_seconds", with = "seconds")]
    pub uptime: Duration,
    /// How many reloads have been done.
    pub generation: u32,
    /// How many workers there are to be.
    pub workers: u32,
    /// How the last reload ended, where there was one.
    pub last_reload: Option<ReloadStatus>,
    /// The agent, then the workers by index. While a process is replaced there are two of a name;
    /// one that died and waits for its restart has an entry without a pid.
    pub processes: Vec<ProcessStatus>,
    /// The jobs, by name.
    #[cfg(feature = "schedule")]
    #[serde(default)]
    pub jobs: Vec<JobStatus>,
}

/// What a cluster as a whole is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ClusterPhase {
    /// Not all processes have been ready yet.
    Starting,
    /// All were ready once.
    Running,
    /// It runs, and all processes are being replaced.
    Reloading,
    /// The ordered stop has begun.
    Stopping,
}

/// How a reload ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ReloadStatus {
    /// When.
    #[serde(with = "since_1970")]
    pub at: SystemTime,
    /// Why it failed, with the last lines of the process that did it; `None` where it did not.
    pub failure: Option<String>,
}

/// One process.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ProcessStatus {
    /// Which one. Serialized as `role`, and `index` where it is a worker.
    #[serde(flatten)]
    pub process: ProcessName,
    /// Its process id; `None` where it waits to be started.
    pub pid: Option<u32>,
    /// Where it is in its life.
    pub state: ProcessState,
    /// How many processes had this name before.
    pub generation: u32,
    /// Since when it lives.
    #[serde(rename = "uptime_seconds", with = "maybe_seconds")]
    pub uptime: Option<Duration>,
    /// How often a process of this name was started again because one had died.
    pub restarts: u32,
    /// When it is started, where it waits.
    #[serde(rename = "restart_in_seconds", with = "maybe_seconds")]
    pub restart_in: Option<Duration>,
    /// How the last one of this name died, if one did.
    pub last_death: Option<DeathStatus>,
    /// Memory that it has in RAM, in bytes; `None` where the system does not tell.
    pub rss_bytes: Option<u64>,
    /// How long it has computed since its start, on all cores together; `None` where the system does
    /// not tell.
    #[serde(rename = "cpu_seconds", with = "maybe_seconds")]
    pub cpu: Option<Duration>,
    /// How it does not answer the master, where it does not.
    pub unresponsive: Option<Unresponsive>,
    /// How many panics there were in it that did not end it.
    pub panics: u64,
    /// Whether it was asked for its channels and did not answer within a second: it is stopped, or
    /// the host has no time for it.
    pub silent: bool,
    /// The channels that it takes part in, at most 64. `None` where it did not answer, or is a program
    /// that is not asked.
    pub channels: Option<Vec<ChannelStatus>>,
}

/// Where a process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ProcessState {
    /// It was started and is not ready yet.
    Starting,
    /// It is an agent that waits for the one before it to go.
    Standby,
    /// It is ready.
    Ready,
    /// It was asked to stop.
    Stopping,
    /// One died; the next is started after a pause.
    Waiting,
    /// Several in a row died before they were ready. The next is started after a longer pause.
    Failed,
}

impl std::fmt::Display for ProcessState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Starting => "starting",
            Self::Standby => "standby",
            Self::Ready => "ready",
            Self::Stopping => "stopping",
            Self::Waiting => "waiting",
            Self::Failed => "failed",
        })
    }
}

/// A death that is past.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DeathStatus {
    /// How long ago.
    #[serde(rename = "ago_seconds", with = "seconds")]
    pub ago: Duration,
    /// Who, and why.
    pub reason: String,
    /// The last lines that it wrote, at most 20.
    pub lines: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_plain_json_and_can_be_read_back() {
        let process = ProcessStatus {
            process: ProcessName::Worker(3),
            pid: Some(7),
            state: ProcessState::Ready,
            generation: 1,
            uptime: Some(Duration::from_millis(1500)),
            restarts: 1,
            restart_in: None,
            last_death: None,
            rss_bytes: None,
            cpu: Some(Duration::from_millis(2500)),
            unresponsive: Some(Unresponsive::Frozen),
            panics: 3,
            silent: false,
            channels: None,
        };
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(10);
        let status = Status {
            pid: 1,
            port: 4000,
            phase: ClusterPhase::Reloading,
            uptime: Duration::from_secs(2),
            generation: 4,
            workers: 4,
            last_reload: Some(ReloadStatus { at, failure: None }),
            processes: vec![process],
            #[cfg(feature = "schedule")]
            jobs: Vec::new(),
        };
        let json = serde_json::to_value(&status).unwrap();
        assert_eq!(json["phase"], "reloading");
        assert_eq!(json["last_reload"]["at"], 10.0);
        let process = &json["processes"][0];
        assert_eq!((&process["role"], &process["index"]), (&"worker".into(), &3.into()));
        assert_eq!(process["cpu_seconds"], 2.5);
        assert_eq!(process["unresponsive"], "frozen");
        assert_eq!((&process["state"], &process["uptime_seconds"]), (&"ready".into(), &1.5.into()));
        let back: Status = serde_json::from_value(json.clone()).unwrap();
        assert_eq!(serde_json::to_value(&back).unwrap(), json);
    }
}
