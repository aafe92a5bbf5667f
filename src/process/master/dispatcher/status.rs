//! What the dispatcher knows, for people and programs to look at.

use tokio::time::Instant;

use super::{Dispatcher, Life, Phase, Slot, slot::Member};
use crate::process::master::status::{
    ClusterPhase, DeathStatus, ProcessState, ProcessStatus, ReloadStatus, Status,
};

impl Dispatcher {
    /// The cluster at this moment, of a master that has run since `since`.
    pub(in crate::process::master) fn status(&self, now: Instant, since: Instant) -> Status {
        Status {
            pid: std::process::id(),
            port: self.rules.port,
            phase: match self.phase {
                Phase::StartingAgent | Phase::StartingWorkers => ClusterPhase::Starting,
                Phase::Running if self.reload.is_some() => ClusterPhase::Reloading,
                Phase::Running => ClusterPhase::Running,
                _ => ClusterPhase::Stopping,
            },
            uptime: now - since,
            generation: self.generation,
            workers: self.workers,
            last_reload: self
                .last_reload
                .as_ref()
                .map(|last| ReloadStatus { at: last.at, failure: last.outcome.clone().err() }),
            processes: self.slots.iter().flat_map(|slot| slot.status(now)).collect(),
            #[cfg(feature = "schedule")]
            jobs: Vec::new(),
        }
    }
}

impl Slot {
    fn status(&self, now: Instant) -> Vec<ProcessStatus> {
        let waits = self.restart_at().map(|at| ProcessStatus {
            process: self.process,
            pid: None,
            state: if self.failed { ProcessState::Failed } else { ProcessState::Waiting },
            generation: self.generation,
            uptime: None,
            restarts: self.restarts,
            restart_in: Some(at.saturating_duration_since(now)),
            last_death: self.death_status(now),
            rss_bytes: None,
            cpu: None,
            silent: false,
            channels: None,
            unresponsive: None,
            panics: 0,
        });
        let lives = self.members.iter().map(|member| ProcessStatus {
            process: self.process,
            pid: Some(member.pid),
            state: self.state(member),
            generation: member.generation,
            uptime: Some(now - member.since),
            restarts: self.restarts,
            restart_in: None,
            last_death: self.death_status(now),
            rss_bytes: member.rss,
            cpu: None,
            silent: false,
            channels: None,
            unresponsive: None,
            panics: 0,
        });
        waits.into_iter().chain(lives).collect()
    }

    fn state(&self, member: &Member) -> ProcessState {
        match member.life {
            // What was started once more and may fail once more.
            Life::Spawning | Life::Starting { .. } if self.failed => ProcessState::Failed,
            Life::Spawning | Life::Starting { .. } => ProcessState::Starting,
            Life::Standby => ProcessState::Standby,
            Life::Ready => ProcessState::Ready,
            Life::Retiring { .. } | Life::Stopping { .. } | Life::Killed { .. } => {
                ProcessState::Stopping
            }
        }
    }

    fn death_status(&self, now: Instant) -> Option<DeathStatus> {
        self.last_death.as_ref().map(|(at, death)| DeathStatus {
            ago: now - *at,
            reason: death.to_string(),
            lines: death.lines.clone(),
        })
    }
}
