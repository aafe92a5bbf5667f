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
//! Each place (the agent, each worker) is a small machine of its own, in [`place`].
//!
//! Two invariants. No process is spawned in a stopping phase. A place that is not stopping is never
//! `Empty`: it is alive or has a time at which it will be spawned.

mod place;

use std::{fmt::Write, time::Duration};

use tokio::time::Instant;

use self::place::{Place, State};
use super::{
    event::{Death, MasterEvent},
    liveness::Unresponsive,
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
    Said { process: ProcessName, pid: u32, words: Words },
    /// The system said that a child is gone; with its last lines on stderr.
    Exited { process: ProcessName, pid: u32, exit: Exit, tail: Vec<String> },
    /// This process is to be replaced, for this reason.
    Replace { pid: u32, why: String },
    /// This process does not answer, and is to be replaced.
    Hangs { pid: u32, how: Unresponsive },
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
    },
    /// Tell this child that the cluster is ready.
    SayClusterReady {
        pid: u32,
    },
    /// SIGTERM to the child's process group.
    Terminate {
        pid: u32,
    },
    /// SIGKILL to the child's process group.
    Kill {
        pid: u32,
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
    Pending(ProcessName),
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
    places: Vec<Place>,
    actions: Vec<Action>,
}

impl Dispatcher {
    pub(super) fn new(rules: Rules) -> Self {
        let workers = (0..rules.workers).map(ProcessName::Worker);
        let places = std::iter::once(ProcessName::Agent).chain(workers).map(Place::new).collect();
        Self {
            rules,
            phase: Phase::StartingAgent,
            verdict: Verdict::Clean,
            hurried: false,
            places,
            actions: Vec::new(),
        }
    }

    /// Takes one event at the time `now`, and says what is to be done, in this order.
    pub(super) fn handle(&mut self, now: Instant, event: Event) -> Vec<Action> {
        match event {
            Event::Begin => self.spawn(ProcessName::Agent),
            Event::Spawned { process, pid } => self.handle_spawned(now, process, pid),
            Event::SpawnFailed { process, error } => {
                let place = self.place(process);
                place.reason = Some(format!("could not be started: {error}"));
                self.handle_death(now, process, 0, Exit::Failed, &[]);
            }
            Event::Said { process, pid, words } => self.handle_words(now, process, pid, words),
            Event::Exited { process, pid, exit, tail } => {
                if self.place(process).pid() == Some(pid) {
                    self.handle_exit(now, process, pid, exit, &tail);
                }
            }
            Event::Replace { pid, why } => self.handle_replace(now, pid, why),
            Event::Hangs { pid, how } => self.handle_hang(now, pid, how),
            Event::Stop(error) => self.handle_stop(now, error),
            Event::Tick => self.handle_tick(now),
        }
        std::mem::take(&mut self.actions)
    }

    /// When [`Event::Tick`] is due.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.places.iter().filter_map(Place::deadline).min()
    }

    fn handle_spawned(&mut self, now: Instant, process: ProcessName, pid: u32) {
        let deadline = after(now, self.rules.ready_timeout);
        let place = self.place(process);
        place.state = State::Starting { pid, deadline };
        let generation = place.generation;
        self.tell(MasterEvent::Started { process, pid, generation });
    }

    fn handle_words(&mut self, now: Instant, process: ProcessName, pid: u32, words: Words) {
        let place = self.place(process);
        if place.pid() != Some(pid) {
            return;
        }
        match words {
            Words::Taken { .. } => place.taken = true,
            Words::Ready => {
                if let State::Starting { .. } = place.state {
                    place.state = State::Ready { pid, since: now };
                    self.tell(MasterEvent::Ready { process, pid });
                    self.handle_ready(pid);
                }
            }
            Words::Done => {}
            Words::Early => {
                let role = role(process);
                place.reason = Some(format!(
                    "returned before it was asked to stop; let its function wait for \
                     `{role}.shutdown().await`"
                ));
            }
            Words::Failed(text) => place.reason = Some(format!("failed: {text}")),
            Words::Panicked(text) => place.reason = Some(format!("panicked: {text}")),
        }
    }

    fn handle_ready(&mut self, pid: u32) {
        match self.phase {
            Phase::StartingAgent => {
                self.phase = Phase::StartingWorkers;
                for index in 0..self.rules.workers {
                    self.spawn(ProcessName::Worker(index));
                }
                self.check_all_ready();
            }
            Phase::StartingWorkers => self.check_all_ready(),
            // A replacement comes into a cluster that is ready.
            Phase::Running => self.actions.push(Action::SayClusterReady { pid }),
            Phase::StoppingWorkers | Phase::StoppingAgent | Phase::Finished => {}
        }
    }

    fn check_all_ready(&mut self) {
        if !self.places.iter().all(Place::is_ready) {
            return;
        }
        self.phase = Phase::Running;
        self.tell(MasterEvent::ClusterReady { port: self.rules.port });
        for pid in self.places.iter().filter_map(Place::pid) {
            self.actions.push(Action::SayClusterReady { pid });
        }
    }

    fn handle_exit(
        &mut self,
        now: Instant,
        process: ProcessName,
        pid: u32,
        exit: Exit,
        tail: &[String],
    ) {
        match self.phase {
            Phase::StartingAgent | Phase::StartingWorkers | Phase::Running => {
                self.handle_death(now, process, pid, exit, tail);
            }
            Phase::StoppingWorkers | Phase::StoppingAgent | Phase::Finished => {
                if matches!(self.verdict, Verdict::Pending(culprit) if culprit == process) {
                    let death = self.death(now, process, pid, exit);
                    self.verdict = Verdict::Failed(start_failure(&death, tail));
                }
                self.place(process).state = State::Empty;
                self.tell(MasterEvent::Stopped { process, pid, exit });
                self.go_on_stopping(now);
            }
        }
    }

    /// A process ended, or could not be started, although nobody had asked for the stop.
    fn handle_death(
        &mut self,
        now: Instant,
        process: ProcessName,
        pid: u32,
        exit: Exit,
        tail: &[String],
    ) {
        let mut death = self.death(now, process, pid, exit);
        if self.phase != Phase::Running {
            self.place(process).state = State::Empty;
            let verdict = Verdict::Failed(start_failure(&death, tail));
            self.tell(MasterEvent::Died(death));
            self.begin_stop(now, verdict);
            return;
        }
        let policy = self.rules.restart;
        let place = self.place(process);
        let pause = place.backoff.after_death(&policy, death.ready_for);
        place.generation += 1;
        place.state = State::Waiting { until: after(now, pause) };
        death.restart_in = Some(pause);
        self.tell(MasterEvent::Died(death));
        if pause.is_zero() {
            self.spawn(process);
        }
    }

    fn death(&mut self, now: Instant, process: ProcessName, pid: u32, exit: Exit) -> Death {
        let place = self.place(process);
        Death {
            process,
            pid,
            exit,
            reason: place.reason.take(),
            ready_for: place.ready_since().map(|since| now - since),
            restart_in: None,
        }
    }

    fn handle_tick(&mut self, now: Instant) {
        let due = |place: &&Place| place.deadline().is_some_and(|deadline| deadline <= now);
        let due: Vec<_> = self.places.iter().filter(due).map(|place| place.process).collect();
        for process in due {
            // An earlier one of these may have changed what this one waits for.
            match self.place(process).state {
                State::Waiting { .. } => self.spawn(process),
                State::Starting { .. } => self.handle_not_ready(now, process),
                State::Stopping { kill_at: Some(at), .. } if at <= now => self.kill(process),
                _ => {}
            }
        }
    }

    fn handle_not_ready(&mut self, now: Instant, process: ProcessName) {
        let (limit, role) = (self.rules.ready_timeout, role(process));
        let place = self.place(process);
        place.reason = Some(if place.taken {
            format!(
                "was not ready within {limit:?}; let its function call `{role}.ready().await` when \
                 its set-up is done"
            )
        } else {
            format!(
                "did not take its place within {limit:?}; its program must call `main` or `run` of \
                 `Master::builder()` first of all"
            )
        });
        if self.phase == Phase::Running {
            self.terminate(now, process);
        } else {
            self.begin_stop(now, Verdict::Pending(process));
        }
    }

    fn handle_replace(&mut self, now: Instant, pid: u32, why: String) {
        let Some(place) = self.places.iter_mut().find(|place| place.pid() == Some(pid)) else {
            return;
        };
        if let State::Ready { .. } = place.state {
            let process = place.process;
            place.reason = Some(why);
            self.terminate(now, process);
        }
    }

    /// One that is blocked still has threads that may end it in order.
    fn handle_hang(&mut self, now: Instant, pid: u32, how: Unresponsive) {
        let Some(place) = self.places.iter_mut().find(|place| place.pid() == Some(pid)) else {
            return;
        };
        if let State::Ready { since, .. } = place.state {
            let process = place.process;
            place.reason = Some(format!("was {how}: it did not answer the master in time"));
            if how == Unresponsive::Frozen {
                // Asked to stop first, it would be woken for it, and might do anything.
                place.state = State::Stopping { pid, kill_at: Some(now), since: Some(since) };
                self.kill(process);
            } else {
                self.terminate(now, process);
            }
        }
    }

    fn handle_stop(&mut self, now: Instant, error: Option<String>) {
        match self.phase {
            Phase::StartingAgent | Phase::StartingWorkers | Phase::Running => {
                self.begin_stop(now, error.map_or(Verdict::Clean, Verdict::Failed));
            }
            Phase::StoppingWorkers | Phase::StoppingAgent => {
                self.hurried = true;
                for process in self.stage() {
                    if let State::Stopping { kill_at: Some(_), .. } = self.place(process).state {
                        self.kill(process);
                    }
                }
            }
            Phase::Finished => {}
        }
    }

    fn begin_stop(&mut self, now: Instant, verdict: Verdict) {
        self.verdict = verdict;
        self.phase = Phase::StoppingWorkers;
        self.tell(MasterEvent::Stopping);
        for place in &mut self.places {
            if place.pid().is_none() {
                place.state = State::Empty;
            }
        }
        for process in self.stage() {
            self.terminate(now, process);
        }
        self.go_on_stopping(now);
    }

    /// Who is stopped in the current phase.
    fn stage(&self) -> Vec<ProcessName> {
        let wanted = |place: &&Place| match self.phase {
            Phase::StoppingWorkers => place.process != ProcessName::Agent,
            Phase::StoppingAgent => place.process == ProcessName::Agent,
            _ => false,
        };
        self.places.iter().filter(wanted).map(|place| place.process).collect()
    }

    fn go_on_stopping(&mut self, now: Instant) {
        while self.stage().into_iter().all(|process| self.place(process).pid().is_none()) {
            match self.phase {
                Phase::StoppingWorkers => {
                    self.phase = Phase::StoppingAgent;
                    self.terminate(now, ProcessName::Agent);
                }
                Phase::StoppingAgent => {
                    self.phase = Phase::Finished;
                    let verdict = std::mem::replace(&mut self.verdict, Verdict::Clean);
                    self.actions.push(Action::Finish(match verdict {
                        Verdict::Clean => Ok(()),
                        Verdict::Failed(text) => Err(text),
                        Verdict::Pending(process) => {
                            Err(format!("{process} was not ready in time"))
                        }
                    }));
                }
                _ => return,
            }
        }
    }

    fn spawn(&mut self, process: ProcessName) {
        let place = self.place(process);
        place.state = State::Spawning;
        place.taken = false;
        place.reason = None;
        let generation = place.generation;
        self.actions.push(Action::Spawn { process, generation });
    }

    /// Asks a process to stop, or kills it where there is no time to ask.
    fn terminate(&mut self, now: Instant, process: ProcessName) {
        let kill_at = Some(after(now, self.rules.stop_timeout));
        let hurried = self.hurried;
        let place = self.place(process);
        let since = place.ready_since();
        match place.state {
            State::Starting { pid, .. } | State::Ready { pid, .. } => {
                place.state = State::Stopping { pid, kill_at, since };
                if hurried {
                    self.kill(process);
                } else {
                    self.actions.push(Action::Terminate { pid });
                }
            }
            // It was asked before, and its time runs already.
            State::Stopping { kill_at: Some(_), .. } if hurried => self.kill(process),
            _ => {}
        }
    }

    fn kill(&mut self, process: ProcessName) {
        let place = self.place(process);
        if let State::Stopping { pid, since, .. } = place.state {
            place.state = State::Stopping { pid, kill_at: None, since };
            self.actions.push(Action::Kill { pid });
        }
    }

    fn tell(&mut self, event: MasterEvent) {
        self.actions.push(Action::Tell(event));
    }

    fn place(&mut self, process: ProcessName) -> &mut Place {
        let index = match process {
            ProcessName::Worker(index) => index as usize + 1,
            ProcessName::Master | ProcessName::Agent => 0,
        };
        &mut self.places[index]
    }
}

fn role(process: ProcessName) -> &'static str {
    match process {
        ProcessName::Worker(_) => "worker",
        ProcessName::Master | ProcessName::Agent => "agent",
    }
}

/// A time that may be so far off that the clock has no number for it: a year is as good.
fn after(now: Instant, time: Duration) -> Instant {
    now + time.min(Duration::from_secs(365 * 24 * 60 * 60))
}

/// What the master says when the start failed.
fn start_failure(death: &Death, tail: &[String]) -> String {
    let mut text = format!("the cluster did not start: {death}");
    if !tail.is_empty() {
        text.push_str("; its last lines:");
        for line in tail {
            // Writing to a string does not fail.
            let _ = write!(text, "\n    {line}");
        }
    }
    text
}

#[cfg(test)]
mod tests;
