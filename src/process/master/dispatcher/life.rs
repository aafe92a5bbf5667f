//! How processes start, get ready and die while nobody has asked for the stop.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    Action, Death, Dispatcher, Exit, Life, MasterEvent, Member, Phase, ProcessName, Seat,
    Unresponsive, Verdict, Words, after, failure, role,
};
use crate::process::words::lasting;

impl Dispatcher {
    /// Starts a process in this slot.
    pub(super) fn spawn(&mut self, now: Instant, process: ProcessName, seat: Seat) {
        let build = self.build_for(process, seat);
        let workers = self.workers;
        let slot = self.slot(process);
        let lead = process == ProcessName::Agent && !slot.is_led();
        let generation = slot.generation;
        slot.generation += 1;
        if seat == Seat::Serving {
            slot.waiting = None;
            slot.wish = None;
        }
        slot.members.push(Member {
            seat,
            life: Life::Spawning,
            pid: 0,
            generation,
            build,
            lead,
            taken: false,
            said_ready: false,
            since: now,
            ready_since: None,
            reason: None,
            unwanted: None,
            recycle_at: None,
            rss: None,
        });
        self.actions.push(Action::Spawn { process, generation, build, workers, lead });
    }

    pub(super) fn handle_spawned(&mut self, now: Instant, process: ProcessName, pid: u32) {
        let deadline = after(now, self.rules.ready_timeout);
        let is_stopping = self.is_stopping();
        let Some(member) = self.slot(process).spawning() else { return };
        member.pid = pid;
        member.life = Life::Starting { deadline };
        let generation = member.generation;
        // It may be unwanted already, because of what was ordered together with it.
        let is_unwanted = is_stopping || member.seat == Seat::Leaving;
        self.tell(MasterEvent::Started { process, pid, generation });
        if is_unwanted {
            self.terminate(now, pid);
        }
    }

    pub(super) fn handle_no_spawn(&mut self, now: Instant, process: ProcessName, error: &str) {
        let slot = self.slot(process);
        let spawning = slot.members.iter().position(|member| member.life == Life::Spawning);
        if let Some(at) = spawning {
            let mut member = slot.members.remove(at);
            member.reason = Some(format!("could not be started: {error}"));
            self.handle_end(now, process, &member, Exit::Failed, Vec::new());
        }
    }

    pub(super) fn handle_words(&mut self, now: Instant, pid: u32, words: Words) {
        let Some(slot) = self.slot_of(pid) else { return };
        let process = slot.process;
        let Some(member) = slot.by_pid_mut(pid) else { return };
        match words {
            Words::Taken { .. } => member.taken = true,
            Words::Standby => {
                if let Life::Starting { .. } = member.life
                    && !member.lead
                {
                    member.life = Life::Standby;
                    self.handle_standby(now, process);
                }
            }
            Words::Ready => {
                member.said_ready = true;
                self.handle_ready(now, process, pid);
            }
            Words::Done => {}
            Words::Early => {
                let role = role(process);
                member.reason = Some(format!(
                    "returned before it was asked to stop; let its function wait for \
                     `{role}.shutdown().await`"
                ));
            }
            Words::Failed(text) => member.reason = Some(format!("failed: {text}")),
            Words::Panicked(text) => member.reason = Some(format!("panicked: {text}")),
        }
    }

    /// A process said that it is ready.
    pub(super) fn handle_ready(&mut self, now: Instant, process: ProcessName, pid: u32) {
        let recycle_at = self.recycle_at(now, process);
        let slot = self.slot(process);
        let Some(member) = slot.by_pid_mut(pid) else { return };
        let Life::Starting { .. } = member.life else { return };
        if process == ProcessName::Agent && !member.lead {
            // A program that knows nothing of the lead, and is ready without it.
            member.life = Life::Standby;
            self.handle_standby(now, process);
            return;
        }
        member.life = Life::Ready;
        member.ready_since = Some(now);
        member.recycle_at = recycle_at;
        let seat = member.seat;
        if seat == Seat::Serving {
            slot.failed = false;
        }
        self.tell(MasterEvent::Ready { process, pid });
        match self.phase {
            Phase::StartingAgent => {
                self.phase = Phase::StartingWorkers;
                for worker in self.names().into_iter().skip(1) {
                    self.spawn(now, worker, Seat::Serving);
                }
                self.check_all_ready();
            }
            Phase::StartingWorkers => self.check_all_ready(),
            Phase::Running => {
                // It comes into a cluster that is ready.
                self.actions.push(Action::SayClusterReady { pid });
                // In a reload all take over together.
                if seat == Seat::Coming && self.reload.is_none() {
                    self.take_over(now, process);
                }
            }
            Phase::StoppingWorkers | Phase::StoppingAgent | Phase::Finished => {}
        }
    }

    fn check_all_ready(&mut self) {
        if !self.slots.iter().all(super::Slot::is_ready) {
            return;
        }
        self.phase = Phase::Running;
        self.tell(MasterEvent::ClusterReady { port: self.rules.port });
        for pid in self.slots.iter().flat_map(|slot| slot.members.iter().map(|member| member.pid)) {
            self.actions.push(Action::SayClusterReady { pid });
        }
    }

    /// Gives a process that starts its whole time once more.
    pub(super) fn start_again_to_wait(&mut self, now: Instant, pid: u32) {
        let deadline = after(now, self.rules.ready_timeout);
        if let Some(member) = self.member(pid) {
            member.life = Life::Starting { deadline };
        }
    }

    pub(super) fn handle_not_ready(&mut self, now: Instant, pid: u32) {
        let limit = lasting(self.rules.ready_timeout);
        let Some(slot) = self.slot_of(pid) else { return };
        let role = role(slot.process);
        let Some(member) = slot.by_pid_mut(pid) else { return };
        member.reason = Some(if member.taken {
            format!(
                "was not ready within {limit}; let its function call `{role}.ready().await` when \
                 its set-up is done"
            )
        } else {
            format!(
                "did not take its place within {limit}; its program must call `main` or `run` of \
                 `Master::builder()` first of all"
            )
        });
        match self.phase {
            Phase::StartingAgent | Phase::StartingWorkers => {
                self.begin_stop(now, Verdict::Pending(pid));
            }
            _ => self.terminate(now, pid),
        }
    }

    pub(super) fn handle_exit(&mut self, now: Instant, pid: u32, exit: Exit, tail: Vec<String>) {
        let Some(slot) = self.slot_of(pid) else { return };
        let process = slot.process;
        if let Some(at) = slot.members.iter().position(|member| member.pid == pid) {
            let member = slot.members.remove(at);
            self.note_exit(pid);
            self.handle_end(now, process, &member, exit, tail);
        }
    }

    /// A process is gone, or could not be started. It is in its slot no more.
    fn handle_end(
        &mut self,
        now: Instant,
        process: ProcessName,
        member: &Member,
        exit: Exit,
        tail: Vec<String>,
    ) {
        let pid = member.pid;
        let death = Death {
            process,
            pid,
            exit,
            reason: member.reason.clone(),
            ready_for: member.ready_since.map(|since| now - since),
            restart_in: None,
            lines: tail,
        };
        match (self.phase, member.seat) {
            (Phase::StartingAgent | Phase::StartingWorkers, _) => {
                let verdict = Verdict::Failed(failure("the cluster did not start", &death));
                self.tell(MasterEvent::Died(death));
                self.begin_stop(now, verdict);
            }
            (Phase::Running, Seat::Serving) => self.handle_death(now, member, death),
            (Phase::Running, Seat::Coming) => {
                self.handle_lost_newcomer(now, member.build, death);
            }
            (Phase::Running, Seat::Leaving) => {
                self.tell(MasterEvent::Stopped { process, pid, exit });
            }
            (Phase::StoppingWorkers | Phase::StoppingAgent | Phase::Finished, _) => {
                self.handle_exit_in_stop(now, &death);
            }
        }
        if member.lead {
            self.pass_lead(now);
        }
    }

    /// The process that served in a slot of a cluster that runs is gone, and nobody had asked for it.
    fn handle_death(&mut self, now: Instant, member: &Member, mut death: Death) {
        let (policy, process) = (self.rules.restart, death.process);
        let failed_reload = self
            .reload
            .as_ref()
            .is_some_and(|reload| reload.needs(process, member))
            .then(|| failure("the reload failed", &death));
        let wants_none = self.reload.is_none();
        let slot = self.slot(process);
        let was_failed = slot.failed;
        let pause = slot.after_death(&policy, death.ready_for);
        let deaths = slot.backoff.unready();
        // Whoever was to replace it does so now. An agent that comes gets the lead next.
        let heir = slot.of_mut(Seat::Coming).filter(|heir| !heir.is_stopping());
        let has_heir = heir.is_some() && (wants_none || process == ProcessName::Agent);
        if let Some(heir) = heir
            && wants_none
            && process != ProcessName::Agent
        {
            heir.seat = Seat::Serving;
            slot.wish = None;
        }
        let pause_time = if has_heir { Duration::ZERO } else { pause.time };
        slot.waiting = (!has_heir).then(|| after(now, pause_time));
        death.restart_in = Some(pause_time);
        slot.last_death = Some((now, death.clone()));
        self.tell(MasterEvent::Died(death.clone()));
        if pause.failed && !was_failed {
            let lines = death.lines.clone();
            self.tell(MasterEvent::SlotFailed { process, deaths, lines });
        }
        self.note_start_of_scaled(&death);
        if let Some(text) = failed_reload {
            self.fail_reload(now, text);
        }
        if self.slot(process).restart_at().is_some_and(|at| at <= now) {
            self.spawn(now, process, Seat::Serving);
        }
    }

    /// One that is blocked still has threads that may end it in order.
    pub(super) fn handle_hang(&mut self, now: Instant, pid: u32, how: Unresponsive) {
        let reason = format!("was {how}: it did not answer the master in time");
        let is_running = self.phase == Phase::Running;
        let Some(slot) = self.slot_of(pid) else { return };
        let is_worker = slot.process != ProcessName::Agent;
        let Some(member) = slot.by_pid_mut(pid).filter(|member| member.is_ready()) else { return };
        let serves = member.seat == Seat::Serving;
        if how == Unresponsive::Blocked && serves && is_worker && is_running {
            // It still has what it began, and its place is to be kept.
            self.wish(pid, format!("it {reason}"));
            return;
        }
        member.reason = Some(reason);
        if how == Unresponsive::Frozen {
            // It must not come to itself and end as if nothing had been.
            self.kill(now, pid);
        } else {
            self.terminate(now, pid);
        }
    }
}
