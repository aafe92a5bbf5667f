//! What the master tells of its cluster.

use std::{fmt, time::Duration};

use super::liveness::{Remedy, Unresponsive};
use crate::process::name::{Exit, ProcessName};

/// Something that happened to the cluster, as [`MasterHandle::next_event`] gives it.
///
/// [`MasterHandle::next_event`]: super::MasterHandle::next_event
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum MasterEvent {
    /// A process was started.
    #[non_exhaustive]
    Started {
        /// Which one.
        process: ProcessName,
        /// Its process id.
        pid: u32,
        /// How many processes had this place before.
        generation: u32,
    },
    /// A process is ready.
    #[non_exhaustive]
    Ready {
        /// Which one.
        process: ProcessName,
        /// Its process id.
        pid: u32,
    },
    /// The agent and all workers were ready for the first time.
    #[non_exhaustive]
    ClusterReady {
        /// The cluster port.
        port: u16,
    },
    /// A process ended although it was not asked to.
    Died(Death),
    /// A process that is ready does not answer the master; see
    /// [`Liveness`](super::Liveness).
    #[non_exhaustive]
    Unresponsive {
        /// Which one.
        process: ProcessName,
        /// Its process id.
        pid: u32,
        /// In which way it does not answer.
        how: Unresponsive,
        /// What is done about it.
        remedy: Remedy,
    },
    /// A process that did not answer, and was left alone, does again.
    #[non_exhaustive]
    Responsive {
        /// Which one.
        process: ProcessName,
        /// Its process id.
        pid: u32,
    },
    /// Something in a process panicked, and the process lives on: a task, a thread, or a method of
    /// a client that the leader called. Panics that follow within a second are told together.
    #[non_exhaustive]
    Panicked {
        /// Which one.
        process: ProcessName,
        /// Its process id.
        pid: u32,
        /// How many panics there were in the life of this process.
        count: u64,
        /// What the last of them said, and where.
        message: String,
    },
    /// A process has died before it was ready as often in a row as
    /// [`crash_loop`](super::MasterBuilder::crash_loop) says. It is retried ever more slowly, up to
    /// once in five minutes; the next [`Ready`](Self::Ready) of this process ends it.
    #[non_exhaustive]
    SlotFailed {
        /// Which one.
        process: ProcessName,
        /// How many deaths in a row.
        deaths: u32,
        /// The last lines that the last one wrote, at most 20.
        lines: Vec<String>,
    },
    /// A replacement is started for a process that lives, which goes when the replacement is ready.
    #[non_exhaustive]
    Replacing {
        /// Which one.
        process: ProcessName,
        /// The process id of the one that is replaced.
        pid: u32,
        /// What it is replaced for.
        why: String,
    },
    /// A process is asked to stop while the cluster goes on: it was replaced, a reload failed, or
    /// there are to be fewer workers. [`Stopped`](Self::Stopped) follows.
    #[non_exhaustive]
    Leaving {
        /// Which one.
        process: ProcessName,
        /// Its process id.
        pid: u32,
    },
    /// A reload has begun.
    Reloading,
    /// A reload is done: all processes are new, and the old ones are gone.
    #[non_exhaustive]
    Reloaded {
        /// How many reloads have been done.
        generation: u32,
    },
    /// A reload has failed. The old processes go on.
    #[non_exhaustive]
    ReloadFailed {
        /// Who failed and why, with its last lines.
        reason: String,
    },
    /// The number of workers has changed: the new ones are ready, or the surplus is gone.
    #[non_exhaustive]
    Scaled {
        /// How many workers there are.
        workers: u32,
    },
    /// The ordered stop has begun. No process is started after it.
    Stopping,
    /// A process ended that was asked to: in the stop, or after [`Leaving`](Self::Leaving).
    #[non_exhaustive]
    Stopped {
        /// Which one.
        process: ProcessName,
        /// Its process id.
        pid: u32,
        /// How it ended.
        exit: Exit,
    },
}

/// The end of a process that nobody had asked to stop.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Death {
    /// Which process.
    pub process: ProcessName,
    /// Its process id; 0 where it could not be started at all.
    pub pid: u32,
    /// How it ended.
    pub exit: Exit,
    /// Why, where it is known: its own error, or what the master had against it.
    pub reason: Option<String>,
    /// How long it was ready, where it was.
    pub ready_for: Option<Duration>,
    /// After what time it is started again. `None` where its death ends what it was started for: the
    /// start of the cluster, or a reload.
    pub restart_in: Option<Duration>,
    /// The last lines that it wrote to stderr, at most 20. None with
    /// [`inherit_stderr`](super::MasterBuilder::inherit_stderr).
    pub lines: Vec<String>,
}

impl Death {
    /// What it says for people, with what comes next.
    pub(in crate::process) fn with_outlook(&self) -> String {
        match self.restart_in {
            Some(Duration::ZERO) => format!("{self}; starting it again at once"),
            Some(pause) => format!("{self}; starting it again in {pause:?}"),
            None => self.to_string(),
        }
    }
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.process)?;
        if self.pid != 0 {
            write!(f, " (pid {})", self.pid)?;
        }
        match (&self.reason, self.pid) {
            (Some(reason), 0) => write!(f, " {reason}"),
            (Some(reason), _) => write!(f, " {reason} ({})", self.exit),
            (None, _) => write!(f, " died of {}", self.exit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_death_says_who_and_why() {
        let mut death = Death {
            process: ProcessName::Worker(2),
            pid: 123,
            exit: Exit::Signal(9),
            reason: None,
            ready_for: None,
            restart_in: None,
            lines: Vec::new(),
        };
        assert_eq!(death.to_string(), "worker 2 (pid 123) died of signal 9");
        assert_eq!(death.with_outlook(), death.to_string());
        death.restart_in = Some(Duration::ZERO);
        assert!(death.with_outlook().ends_with("signal 9; starting it again at once"));
        death.restart_in = Some(Duration::from_secs(2));
        assert!(death.with_outlook().ends_with("signal 9; starting it again in 2s"));
        death.reason = Some("failed: no route".into());
        death.exit = Exit::Failed;
        assert_eq!(death.to_string(), "worker 2 (pid 123) failed: no route (exit code 1)");
        death.pid = 0;
        death.reason = Some("could not be started: no such file".into());
        assert_eq!(death.to_string(), "worker 2 could not be started: no such file");
    }
}
