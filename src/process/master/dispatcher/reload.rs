//! All processes anew, from the program that is on disk now, while the old ones serve.
//!
//! ```text
//! Opening ──► Agent ──────► Workers ─────────► Draining ──► done
//!    │          │ ordered      │ all are ready     the old ones go
//!    │          │ hand-over    │ beside the old ones
//!    └──────────┴──────────────┴──► failed: the new ones go, the old ones stay
//! ```
//!
//! A reload that fails after the agent was handed over has the agent replaced once more, by one of
//! the old build. Until a reload is done, processes that die are started from the old build; the
//! agent, once it was handed over, from the new one.

use std::time::SystemTime;

use tokio::time::Instant;

use super::{Action, Dispatcher, MasterEvent, Member, ProcessName, Seat, slot::Wish};
use crate::process::master::restart::Backoff;

/// A reload that is under way.
#[derive(Debug)]
pub(super) struct Reload {
    build: u32,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// The program is being looked for.
    Opening,
    /// The new agent is to be started as soon as nothing else happens to the agent, or was.
    Agent { started: bool },
    /// The new workers start.
    Workers,
    /// The new processes serve; these old ones are not gone yet.
    Draining(Vec<u32>),
}

/// How the last reload ended.
#[derive(Debug)]
pub(super) struct LastReload {
    pub(super) at: SystemTime,
    pub(super) outcome: Result<(), String>,
}

impl Reload {
    /// Whether the reload fails if this process, which serves, is lost: a new agent that had to take
    /// over, and was never ready.
    pub(super) fn needs(&self, process: ProcessName, member: &Member) -> bool {
        process == ProcessName::Agent
            && matches!(self.stage, Stage::Agent { started: true })
            && member.build == self.build
    }
}

impl Dispatcher {
    /// Whether a reload is under way that starts processes from this build.
    pub(super) fn is_reloading_to(&self, build: u32) -> bool {
        self.reload.as_ref().is_some_and(|reload| reload.build == build)
    }

    /// From which build a process of this name is started now.
    pub(super) fn build_for(&self, process: ProcessName, seat: Seat) -> u32 {
        match &self.reload {
            Some(reload) if seat == Seat::Coming => reload.build,
            Some(Reload { build, stage: Stage::Workers }) if process == ProcessName::Agent => {
                *build
            }
            _ => self.build,
        }
    }

    pub(super) fn handle_reload(&mut self) {
        if self.is_stopping() {
            self.actions.push(Action::Reloading);
            self.actions.push(Action::Reloaded(Err("the cluster stops".into())));
        } else {
            // However often it is asked for while one runs, one more follows.
            self.reload_again = true;
        }
    }

    pub(super) fn handle_opened(&mut self, now: Instant, outcome: Result<(), String>) {
        match (outcome, &mut self.reload) {
            (Ok(()), Some(reload)) => reload.stage = Stage::Agent { started: false },
            (Err(error), Some(_)) => {
                let text = format!("the reload failed: the program can't be had: {error}");
                self.fail_reload(now, text);
            }
            (_, None) => {}
        }
    }

    /// Begins the reload that is wanted, unless one is under way.
    pub(super) fn begin_reload(&mut self, now: Instant) {
        if self.reload.is_some() || !std::mem::take(&mut self.reload_again) {
            return;
        }
        // Replacements that are under way would be of the old build. An agent that takes over
        // already is waited for. What was wished for stays so, should the reload fail.
        for process in self.names() {
            let slot = self.slot(process);
            let takes_over = process == ProcessName::Agent && slot.of(Seat::Serving).is_none();
            let coming = slot.of(Seat::Coming).filter(|_| !takes_over).map(|member| member.pid);
            if let Some(pid) = coming {
                self.leave(now, process, pid);
            }
        }
        let build = self.builds;
        self.builds += 1;
        self.reload = Some(Reload { build, stage: Stage::Opening });
        self.tell(MasterEvent::Reloading);
        self.actions.push(Action::Reloading);
        self.actions.push(Action::OpenBuild { build });
    }

    /// Takes the next step, if it can be taken now.
    pub(super) fn advance_reload(&mut self, now: Instant) -> bool {
        let Some(Reload { build, stage }) = &self.reload else { return false };
        let build = *build;
        match stage {
            Stage::Opening => false,
            Stage::Agent { started: false } => self.start_new_agent(now),
            Stage::Agent { started: true } => self.start_new_workers(now, build),
            Stage::Workers => self.take_over_all(now, build),
            Stage::Draining(old) => {
                let gone = old.is_empty();
                if gone {
                    self.end_reload();
                }
                gone
            }
        }
    }

    fn stage(&mut self, stage: Stage) {
        if let Some(reload) = &mut self.reload {
            reload.stage = stage;
        }
    }

    fn start_new_agent(&mut self, now: Instant) -> bool {
        let slot = self.agent();
        let is_settled =
            !slot.is_changing() && (slot.is_ready() || slot.of(Seat::Serving).is_none());
        if !is_settled {
            return false;
        }
        self.stage(Stage::Agent { started: true });
        self.spawn(now, ProcessName::Agent, Seat::Coming);
        if self.agent().of(Seat::Serving).is_none() {
            // There is nobody whom it had to wait for.
            self.take_over(now, ProcessName::Agent);
        }
        true
    }

    fn start_new_workers(&mut self, now: Instant, build: u32) -> bool {
        let new = |member: &Member| member.is_ready() && member.build == build;
        if !self.agent().of(Seat::Serving).is_some_and(new) {
            return false;
        }
        self.stage(Stage::Workers);
        for process in self.open_workers() {
            self.spawn(now, process, Seat::Coming);
        }
        true
    }

    fn take_over_all(&mut self, now: Instant, build: u32) -> bool {
        let workers = self.open_workers();
        let all_ready = workers
            .iter()
            .all(|process| self.slot(*process).of(Seat::Coming).is_some_and(Member::is_ready));
        if !all_ready {
            return false;
        }
        self.build = build;
        self.generation += 1;
        self.actions.push(Action::KeepBuild { build });
        for process in workers {
            self.take_over(now, process);
            self.slot(process).backoff = Backoff::default();
        }
        let members = self.slots.iter().flat_map(|slot| &slot.members);
        let old = members.filter(|member| member.build != build).map(|member| member.pid);
        // One that was ordered in this very turn has no pid, and is not waited for.
        let old = old.filter(|pid| *pid != 0).collect();
        self.stage(Stage::Draining(old));
        true
    }

    /// A process is gone. Another one may have its pid from now on, which the reload does not wait for.
    pub(super) fn note_exit(&mut self, pid: u32) {
        if let Some(Reload { stage: Stage::Draining(old), .. }) = &mut self.reload {
            old.retain(|left| *left != pid);
        }
    }

    fn end_reload(&mut self) {
        self.reload = None;
        self.last_reload = Some(LastReload { at: SystemTime::now(), outcome: Ok(()) });
        self.tell(MasterEvent::Reloaded { generation: self.generation });
        self.actions.push(Action::Reloaded(Ok(())));
    }

    /// Ends the new processes. The old ones go on.
    pub(super) fn fail_reload(&mut self, now: Instant, reason: String) {
        let failed = self.reload.take().map(|reload| reload.build);
        for process in self.names() {
            // An agent that takes over since before the reload is none of its new ones.
            let new = self.slot(process).of(Seat::Coming);
            let new = new.filter(|member| Some(member.build) == failed);
            if let Some(pid) = new.map(|member| member.pid) {
                self.leave(now, process, pid);
            }
            let slot = self.slot(process);
            let is_empty = slot.members.iter().all(|member| member.seat == Seat::Leaving);
            if is_empty && !slot.closing {
                slot.waiting.get_or_insert(now);
            }
        }
        let build = self.build;
        let slot = self.agent();
        if slot.of(Seat::Serving).is_some_and(|member| member.build != build) {
            let why = "it is of the build whose reload failed".to_owned();
            slot.wish = Some(Wish::new(why));
        }
        self.actions.push(Action::KeepBuild { build });
        self.last_reload = Some(LastReload { at: SystemTime::now(), outcome: Err(reason.clone()) });
        self.tell(MasterEvent::ReloadFailed { reason: reason.clone() });
        self.actions.push(Action::Reloaded(Err(reason)));
    }

    /// The stop ends a reload, and those that were to follow.
    pub(super) fn give_up_reload(&mut self) {
        let stops = || Action::Reloaded(Err("the cluster stops".into()));
        if self.reload.take().is_some() {
            self.actions.push(stops());
        }
        if std::mem::take(&mut self.reload_again) {
            self.actions.push(Action::Reloading);
            self.actions.push(stops());
        }
    }

    /// The workers that there are to be.
    fn open_workers(&self) -> Vec<ProcessName> {
        let workers = self.slots.iter().skip(1).filter(|slot| !slot.closing);
        workers.map(|slot| slot.process).collect()
    }
}
