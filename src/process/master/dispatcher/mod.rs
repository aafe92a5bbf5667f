//! The master's mind: events in, actions out, no process, socket or clock.
//!
//! ```text
//!              agent ready           all workers ready
//! StartingAgent ────► StartingWorkers ────► Running ─┐ deaths are restarts
//!        │ a death, or      │                 │  ▲────┘
//!        │ not ready in time│                 │ stop
//!        └──────────────────┴──► StoppingWorkers ──► StoppingAgent ──► Finished
//! ```
//!
//! Each name (the agent, each worker) has a [`slot`], a small machine of its own. What changes a
//! cluster that runs is in files of its own: [`life`] (starts and deaths), [`replace`] (one process
//! by another), [`reload`] (all of them), [`scale`], [`stop`].
//!
//! Invariants. No process is spawned in a stopping phase. A slot that is wanted is never without a
//! future: a process serves or comes, or there is a time at which one will be spawned. Never has
//! more than one agent the lead.

mod life;
mod reload;
mod replace;
mod scale;
mod slot;
mod status;
mod stop;

use std::{collections::BTreeMap, fmt::Write, time::Duration};

use tokio::time::Instant;

use self::{
    reload::{LastReload, Reload},
    scale::Scaling,
    slot::{Life, Member, Seat, Slot},
};
use super::{
    event::{Death, MasterEvent},
    liveness::Unresponsive,
    recycle::Recycle,
    restart::RestartPolicy,
};
use crate::process::name::{Exit, ProcessName};

/// What happened.
#[derive(Debug)]
pub(super) enum Event {
    /// The master itself is set up.
    Begin,
    /// The answer to [`Action::Spawn`].
    Spawned { process: ProcessName, pid: u32 },
    /// The other answer to [`Action::Spawn`].
    SpawnFailed { process: ProcessName, error: String },
    /// A child said something about itself.
    Said { pid: u32, words: Words },
    /// The system said that a child is gone; with its last lines on stderr.
    Exited { pid: u32, exit: Exit, tail: Vec<String> },
    /// This process does not answer, and is to be replaced.
    Hangs { pid: u32, how: Unresponsive },
    /// How much memory this process has, in bytes.
    Measured { pid: u32, rss: u64 },
    /// This process is to be replaced, its replacement being ready first.
    Replace { pid: u32, why: String },
    /// All processes are to be replaced.
    Reload,
    /// The answer to [`Action::OpenBuild`], or the reason why there is none.
    Opened(Result<(), String>),
    /// There are to be so many workers.
    Scale(u32),
    /// A signal, or the handle, asks to stop; with an error where that is the reason.
    Stop(Option<String>),
    /// The deadline that [`Dispatcher::next_deadline`] gave may have passed.
    Tick,
}

/// What a child can say. It speaks of itself alone.
#[derive(Debug)]
pub(super) enum Words {
    /// It runs the role that it was given, and may answer pings.
    Taken { answers_pings: bool },
    /// It is an agent that has come to where it needs the lead.
    Standby,
    /// Its set-up is done.
    Ready,
    /// Its function returned `Ok` after the stop.
    Done,
    /// Its function returned `Ok` without a stop.
    Early,
    /// Its function returned this error.
    Failed(String),
    /// Its function panicked with this message.
    Panicked(String),
}

/// What is to be done.
#[derive(Debug)]
pub(super) enum Action {
    Spawn {
        process: ProcessName,
        generation: u32,
        /// The number of the build that it is started from.
        build: u32,
        /// How many workers there are to be.
        workers: u32,
        /// Whether it is an agent that may accept and connect at once.
        lead: bool,
    },
    /// Tell this child that the cluster is ready.
    SayClusterReady {
        pid: u32,
    },
    /// Tell this agent that it has the lead.
    GiveLead {
        pid: u32,
    },
    /// Tell this agent to give up the lead, finish what it has begun within this time, and stop.
    Retire {
        pid: u32,
        drain: Duration,
    },
    /// SIGTERM to the child's process group.
    Terminate {
        pid: u32,
    },
    /// SIGKILL to the child's process group.
    Kill {
        pid: u32,
    },
    /// The child was killed and is not gone. It is not waited for any more.
    Abandon {
        pid: u32,
        /// Who it is, and why.
        text: String,
    },
    /// Find the program anew, and keep it under this number. [`Event::Opened`] answers.
    OpenBuild {
        build: u32,
    },
    /// All builds but this one are no longer needed.
    KeepBuild {
        build: u32,
    },
    /// What was asked for up to now is answered by the reload that begins.
    Reloading,
    /// The answer to the reload that began last.
    Reloaded(Result<(), String>),
    /// The answer to all who wanted another number of workers.
    Scaled {
        workers: u32,
        outcome: Result<(), String>,
    },
    Tell(MasterEvent),
    /// Everything is gone; with the reason where the end is a failure.
    Finish(Result<(), String>),
}

/// The numbers that the dispatcher decides by.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    pub(super) workers: u32,
    pub(super) port: u16,
    pub(super) ready_timeout: Duration,
    pub(super) stop_timeout: Duration,
    pub(super) restart: RestartPolicy,
    pub(super) recycle: Recycle,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    StartingAgent,
    StartingWorkers,
    Running,
    StoppingWorkers,
    StoppingAgent,
    Finished,
}

/// What the master will say of itself at the end.
#[derive(Debug)]
enum Verdict {
    Clean,
    Failed(String),
    /// This process was not ready in time. What there is to say is known when it is gone.
    Pending(u32),
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Dispatcher {
    rules: Rules,
    phase: Phase,
    verdict: Verdict,
    /// Whether a second stop was asked for: everything that stops from now on is killed at once.
    hurried: bool,
    /// The agent, then the workers by index.
    slots: Vec<Slot>,
    /// How many workers there are to be.
    workers: u32,
    scaling: Option<Scaling>,
    /// The build that processes are started from.
    build: u32,
    /// How many builds there were.
    builds: u32,
    /// How many reloads there were that did not fail.
    generation: u32,
    reload: Option<Reload>,
    /// Whether another reload is to follow.
    reload_again: bool,
    last_reload: Option<LastReload>,
    /// Who was killed and is not gone, by pid, in words.
    abandoned: BTreeMap<u32, String>,
    random: fastrand::Rng,
    actions: Vec<Action>,
}

impl Dispatcher {
    pub(super) fn new(rules: Rules, seed: u64) -> Self {
        let workers = (0..rules.workers).map(ProcessName::Worker);
        let slots = std::iter::once(ProcessName::Agent).chain(workers).map(Slot::new).collect();
        Self {
            workers: rules.workers,
            rules,
            phase: Phase::StartingAgent,
            verdict: Verdict::Clean,
            hurried: false,
            slots,
            scaling: None,
            build: 0,
            builds: 1,
            generation: 0,
            reload: None,
            reload_again: false,
            last_reload: None,
            abandoned: BTreeMap::new(),
            random: fastrand::Rng::with_seed(seed),
            actions: Vec::new(),
        }
    }

    /// Takes one event at the time `now`, and says what is to be done, in this order.
    pub(super) fn handle(&mut self, now: Instant, event: Event) -> Vec<Action> {
        match event {
            Event::Begin => self.spawn(now, ProcessName::Agent, Seat::Serving),
            Event::Spawned { process, pid } => self.handle_spawned(now, process, pid),
            Event::SpawnFailed { process, error } => self.handle_no_spawn(now, process, &error),
            Event::Said { pid, words } => self.handle_words(now, pid, words),
            Event::Exited { pid, exit, tail } => {
                self.abandoned.remove(&pid);
                self.handle_exit(now, pid, exit, tail);
            }
            Event::Hangs { pid, how } => self.handle_hang(now, pid, how),
            Event::Measured { pid, rss } => self.handle_measured(now, pid, rss),
            Event::Replace { pid, why } => self.wish(pid, why),
            Event::Reload => self.handle_reload(),
            Event::Opened(outcome) => self.handle_opened(now, outcome),
            Event::Scale(workers) => self.handle_scale(workers),
            Event::Stop(error) => self.handle_stop(now, error),
            Event::Tick => self.handle_tick(now),
        }
        self.settle(now);
        std::mem::take(&mut self.actions)
    }

    /// When [`Event::Tick`] is due.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.slots.iter().filter_map(Slot::deadline).min()
    }

    /// Brings a cluster that runs closer to what it is to be, as far as it can be done now.
    fn settle(&mut self, now: Instant) {
        if self.phase == Phase::Running {
            while self.advance_reload(now) {}
            self.settle_scale(now);
            self.begin_reload(now);
            self.settle_wishes(now);
        }
    }

    fn handle_tick(&mut self, now: Instant) {
        for process in self.names() {
            for pid in self.slot(process).due(now) {
                // An earlier one of these may have changed what this one waits for.
                let Some(member) = self.member(pid) else { continue };
                match member.life {
                    Life::Starting { deadline } if now > deadline + OVERSLEPT => {
                        self.start_again_to_wait(now, pid);
                    }
                    Life::Starting { deadline } if deadline <= now => {
                        self.handle_not_ready(now, pid);
                    }
                    Life::Retiring { stop_at } if stop_at <= now => self.terminate(now, pid),
                    Life::Stopping { kill_at } if kill_at <= now => self.kill(now, pid),
                    Life::Killed { give_up_at } if give_up_at <= now => {
                        self.give_up(now, pid, now > give_up_at + OVERSLEPT);
                    }
                    _ => {}
                }
            }
        }
        // What became of one process may have others started at once.
        for process in self.names() {
            let is_due = |deadline: Option<Instant>| deadline.is_some_and(|at| at <= now);
            let slot = self.slot(process);
            if let Some(wish) = &mut slot.wish
                && is_due(wish.not_before)
            {
                wish.not_before = None;
            }
            if is_due(slot.restart_at()) {
                self.spawn(now, process, Seat::Serving);
            }
            self.recycle_if_old(now, process);
        }
    }

    fn tell(&mut self, event: MasterEvent) {
        self.actions.push(Action::Tell(event));
    }

    fn slot(&mut self, process: ProcessName) -> &mut Slot {
        let index = match process {
            ProcessName::Worker(index) => index as usize + 1,
            ProcessName::Master | ProcessName::Agent => 0,
        };
        &mut self.slots[index]
    }

    fn agent(&mut self) -> &mut Slot {
        &mut self.slots[0]
    }

    /// The slot that a process lives in.
    fn slot_of(&mut self, pid: u32) -> Option<&mut Slot> {
        self.slots.iter_mut().find(|slot| slot.by_pid(pid).is_some())
    }

    fn member(&mut self, pid: u32) -> Option<&mut Member> {
        self.slots.iter_mut().find_map(|slot| slot.by_pid_mut(pid))
    }

    fn names(&self) -> Vec<ProcessName> {
        self.slots.iter().map(|slot| slot.process).collect()
    }
}

fn role(process: ProcessName) -> &'static str {
    match process {
        ProcessName::Worker(_) => "worker",
        ProcessName::Master | ProcessName::Agent => "agent",
    }
}

/// A master that notices a deadline so late was stopped itself, or got no turn. What a process said
/// meanwhile is still to be heard.
const OVERSLEPT: Duration = Duration::from_secs(1);

/// A time that may be so far off that the clock has no number for it: a year is as good.
fn after(now: Instant, time: Duration) -> Instant {
    now + time.min(Duration::from_secs(365 * 24 * 60 * 60))
}

/// What failed because of a death, with what the process said last.
fn failure(what: &str, death: &Death) -> String {
    let mut text = format!("{what}: {death}");
    if !death.lines.is_empty() {
        text.push_str("; its last lines:");
        for line in &death.lines {
            // Writing to a string does not fail.
            let _ = write!(text, "\n    {line}");
        }
    }
    text
}

#[cfg(test)]
mod chaos;
#[cfg(test)]
mod tests;
