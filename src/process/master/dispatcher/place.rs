//! The place of one process, the agent or a worker, and who is in it.
//!
//! ```text
//! Empty ──► Spawning ──► Starting ──ready──► Ready
//!              ▲             │ stop, or         │ stop
//!              │ in time     ▼ not ready        ▼
//!           Waiting        Stopping: SIGTERM was sent, SIGKILL follows at the deadline
//! ```
//!
//! When the process is gone, whatever the state was: `Waiting`, or `Empty` where the cluster stops.

use tokio::time::Instant;

use crate::process::{master::restart::Backoff, name::ProcessName};

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Place {
    /// Whose place it is.
    pub(super) process: ProcessName,
    pub(super) state: State,
    /// How many processes had this place before the current one.
    pub(super) generation: u32,
    pub(super) backoff: Backoff,
    /// Whether the current process said that it runs its role.
    pub(super) taken: bool,
    /// Why the current process is about to end, where that is known.
    pub(super) reason: Option<String>,
}

/// Where the process of a place is in its life.
#[derive(Debug, Clone, Copy)]
pub(super) enum State {
    /// There is none, and none will be started.
    Empty,
    /// It was ordered, in this very turn.
    Spawning,
    /// It has until `deadline` to be ready.
    Starting { pid: u32, deadline: Instant },
    /// It is ready since then.
    Ready { pid: u32, since: Instant },
    /// It got its SIGTERM, and will get its SIGKILL at `kill_at`, or has got it where that is
    /// `None`. `since` is when it became ready, where it did.
    Stopping { pid: u32, kill_at: Option<Instant>, since: Option<Instant> },
    /// The last one died. The next one is started then.
    Waiting { until: Instant },
}

impl Place {
    pub(super) fn new(process: ProcessName) -> Self {
        Self {
            process,
            state: State::Empty,
            generation: 0,
            backoff: Backoff::default(),
            taken: false,
            reason: None,
        }
    }

    /// The process that is alive, as far as is known.
    pub(super) fn pid(&self) -> Option<u32> {
        match self.state {
            State::Starting { pid, .. }
            | State::Ready { pid, .. }
            | State::Stopping { pid, .. } => Some(pid),
            State::Empty | State::Spawning | State::Waiting { .. } => None,
        }
    }

    /// Since when it is ready, or was before it was told to stop.
    pub(super) fn ready_since(&self) -> Option<Instant> {
        match self.state {
            State::Ready { since, .. } => Some(since),
            State::Stopping { since, .. } => since,
            _ => None,
        }
    }

    /// When something is to be done about it.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Starting { deadline, .. } => Some(deadline),
            State::Stopping { kill_at, .. } => kill_at,
            State::Waiting { until } => Some(until),
            State::Empty | State::Spawning | State::Ready { .. } => None,
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready { .. })
    }
}
