//! The slot of one process name, the agent or a worker, and who is in it.
//!
//! A slot has at most one process that serves and one that comes to replace it, and any number that
//! leave. A process goes from seat to seat:
//!
//! ```text
//!   start, restart ──► Serving ──────────────► Leaving ──► gone
//!   replacement ─────► Coming ──ready──► Serving
//!                         └── given up ──► Leaving
//! ```
//!
//! and lives its own life meanwhile:
//!
//! ```text
//! Spawning ──► Starting ──────────────ready──► Ready
//!                 │ (an agent without the lead:  │
//!                 │   ──► Standby ──lead─►)      │ Retire, an agent with the lead
//!                 │ not ready, stop              ▼
//!                 └─────────► Stopping ◄───── Retiring
//!                                │ not gone in time
//!                                ▼
//!                              Killed
//! ```

use std::time::Duration;

use tokio::time::Instant;

use crate::process::{
    master::{
        event::Death,
        restart::{Backoff, Pause, RestartPolicy},
    },
    name::ProcessName,
};

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Slot {
    /// Whose slot it is.
    pub(super) process: ProcessName,
    /// All who live in it, or were ordered in this very turn.
    pub(super) members: Vec<Member>,
    /// When a process that serves is to be started, where there is none.
    pub(super) waiting: Option<Instant>,
    /// The replacement that is wanted for the process that serves.
    pub(super) wish: Option<Wish>,
    /// Whether it goes as soon as nobody is in it: there are to be fewer workers.
    pub(super) closing: bool,
    /// How many processes it had before the next one.
    pub(super) generation: u32,
    /// How many of them were started because one before had died.
    pub(super) restarts: u32,
    pub(super) backoff: Backoff,
    /// Whether too many in a row died before they were ready.
    pub(super) failed: bool,
    /// The last death, and when it was.
    pub(super) last_death: Option<(Instant, Death)>,
}

/// A replacement that is wanted.
#[derive(Debug)]
pub(super) struct Wish {
    pub(super) why: String,
    /// Not before this time, where one failed already. `None` once it is over.
    pub(super) not_before: Option<Instant>,
    pub(super) backoff: Backoff,
}

/// A process.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) seat: Seat,
    pub(super) life: Life,
    /// 0 until it is known.
    pub(super) pid: u32,
    pub(super) generation: u32,
    /// From which build it was started.
    pub(super) build: u32,
    /// Whether it is an agent that may accept and connect.
    pub(super) lead: bool,
    /// Whether it said that it runs its role.
    pub(super) taken: bool,
    /// Whether it said that it is ready.
    pub(super) said_ready: bool,
    /// When it was started.
    pub(super) since: Instant,
    /// When it became ready, where it did.
    pub(super) ready_since: Option<Instant>,
    /// Why it is about to end, where that is known.
    pub(super) reason: Option<String>,
    /// Why it is to be replaced as soon as it serves.
    pub(super) unwanted: Option<String>,
    /// When it is recycled for its age.
    pub(super) recycle_at: Option<Instant>,
    /// Memory at the last measurement, in bytes.
    pub(super) rss: Option<u64>,
}

/// What a process is in its slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seat {
    /// It is the process of this name.
    Serving,
    /// It will be, when it is ready.
    Coming,
    /// It was, or was to be.
    Leaving,
}

/// Where a process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    /// It was ordered, in this very turn.
    Spawning,
    /// It has until `deadline` to be ready, or to stand by.
    Starting { deadline: Instant },
    /// It is an agent that waits for the lead.
    Standby,
    /// It is ready.
    Ready,
    /// It is an agent that gives up the lead, and gets its SIGTERM at `stop_at`.
    Retiring { stop_at: Instant },
    /// It got its SIGTERM, and will get its SIGKILL at `kill_at`.
    Stopping { kill_at: Instant },
    /// It got its SIGKILL, and is not waited for beyond `give_up_at`.
    Killed { give_up_at: Instant },
}

impl Slot {
    pub(super) fn new(process: ProcessName) -> Self {
        Self {
            process,
            members: Vec::new(),
            waiting: None,
            wish: None,
            closing: false,
            generation: 0,
            restarts: 0,
            backoff: Backoff::default(),
            failed: false,
            last_death: None,
        }
    }

    pub(super) fn of(&self, seat: Seat) -> Option<&Member> {
        self.members.iter().find(|member| member.seat == seat)
    }

    pub(super) fn of_mut(&mut self, seat: Seat) -> Option<&mut Member> {
        self.members.iter_mut().find(|member| member.seat == seat)
    }

    pub(super) fn by_pid(&self, pid: u32) -> Option<&Member> {
        self.members.iter().find(|member| pid != 0 && member.pid == pid)
    }

    pub(super) fn by_pid_mut(&mut self, pid: u32) -> Option<&mut Member> {
        self.members.iter_mut().find(|member| pid != 0 && member.pid == pid)
    }

    /// The pids of those about whom something is to be done.
    pub(super) fn due(&self, now: Instant) -> Vec<u32> {
        let is_due = |member: &&Member| member.deadline().is_some_and(|deadline| deadline <= now);
        self.members.iter().filter(is_due).map(|member| member.pid).collect()
    }

    /// The process that was ordered and has no pid yet. There is one at most.
    pub(super) fn spawning(&mut self) -> Option<&mut Member> {
        self.members.iter_mut().find(|member| member.life == Life::Spawning)
    }

    /// Whether the process that serves is ready.
    pub(super) fn is_ready(&self) -> bool {
        self.of(Seat::Serving).is_some_and(Member::is_ready)
    }

    /// Whether an agent lives that has the lead.
    pub(super) fn is_led(&self) -> bool {
        self.members.iter().any(|member| member.lead)
    }

    /// Whether a replacement is under way: it comes, or somebody leaves.
    pub(super) fn is_changing(&self) -> bool {
        self.members.iter().any(|member| member.seat != Seat::Serving)
    }

    /// Whether a process that serves can be started: nobody comes, and nobody has the lead.
    fn is_vacant(&self) -> bool {
        !self.is_led() && self.members.iter().all(|member| member.seat == Seat::Leaving)
    }

    /// When a process that serves is to be started.
    pub(super) fn restart_at(&self) -> Option<Instant> {
        self.waiting.filter(|_| self.is_vacant())
    }

    /// When something is to be done about it.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let members = self.members.iter().filter_map(Member::deadline);
        let wish = self.wish.as_ref().and_then(|wish| wish.not_before);
        // Whoever is about to be replaced is not to be replaced for its age.
        let recycle = self.of(Seat::Serving).and_then(|member| member.recycle_at);
        let recycle = recycle.filter(|_| self.wish.is_none());
        members.chain(self.restart_at()).chain(wish).chain(recycle).min()
    }

    /// Notes a death of a process that served, and says how long to wait before the next start.
    pub(super) fn after_death(
        &mut self,
        policy: &RestartPolicy,
        ready_for: Option<Duration>,
    ) -> Pause {
        let pause = self.backoff.after_death(policy, ready_for);
        self.failed |= pause.failed;
        self.restarts = self.restarts.saturating_add(1);
        pause
    }
}

impl Wish {
    pub(super) fn new(why: String) -> Self {
        Self { why, not_before: None, backoff: Backoff::default() }
    }
}

impl Member {
    pub(super) fn is_ready(&self) -> bool {
        self.life == Life::Ready
    }

    /// Whether it was asked to go, in whatever way.
    pub(super) fn is_stopping(&self) -> bool {
        matches!(self.life, Life::Retiring { .. } | Life::Stopping { .. } | Life::Killed { .. })
    }

    fn deadline(&self) -> Option<Instant> {
        match self.life {
            Life::Starting { deadline } => Some(deadline),
            Life::Retiring { stop_at } => Some(stop_at),
            Life::Stopping { kill_at } => Some(kill_at),
            Life::Killed { give_up_at } => Some(give_up_at),
            Life::Spawning | Life::Standby | Life::Ready => None,
        }
    }
}
