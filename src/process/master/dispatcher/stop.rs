//! The ordered stop of the cluster, and the end of single processes.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    Action, Death, Dispatcher, Exit, Life, MasterEvent, Phase, ProcessName, Verdict, after, failure,
};

impl Dispatcher {
    pub(super) fn is_stopping(&self) -> bool {
        matches!(self.phase, Phase::StoppingWorkers | Phase::StoppingAgent | Phase::Finished)
    }

    pub(super) fn handle_stop(&mut self, now: Instant, error: Option<String>) {
        match self.phase {
            Phase::StartingAgent | Phase::StartingWorkers | Phase::Running => {
                self.begin_stop(now, error.map_or(Verdict::Clean, Verdict::Failed));
            }
            Phase::StoppingWorkers | Phase::StoppingAgent => {
                self.hurried = true;
                for pid in self.in_stage() {
                    self.terminate(now, pid);
                }
            }
            Phase::Finished => {}
        }
    }

    pub(super) fn begin_stop(&mut self, now: Instant, verdict: Verdict) {
        self.verdict = verdict;
        self.phase = Phase::StoppingWorkers;
        self.tell(MasterEvent::Stopping);
        self.give_up_reload();
        self.give_up_scaling();
        for slot in &mut self.slots {
            slot.waiting = None;
            slot.wish = None;
            for member in &mut slot.members {
                member.recycle_at = None;
            }
        }
        for pid in self.in_stage() {
            self.terminate(now, pid);
        }
        self.go_on_stopping(now);
    }

    /// Who is stopped in the current phase.
    fn in_stage(&self) -> Vec<u32> {
        let in_stage = self.slots.iter().filter(|slot| self.is_in_stage(slot.process));
        in_stage.flat_map(|slot| &slot.members).map(|member| member.pid).collect()
    }

    fn is_in_stage(&self, process: ProcessName) -> bool {
        match self.phase {
            Phase::StoppingWorkers => process != ProcessName::Agent,
            Phase::StoppingAgent => process == ProcessName::Agent,
            _ => false,
        }
    }

    pub(super) fn handle_exit_in_stop(&mut self, now: Instant, death: &Death) {
        let Death { process, pid, exit, .. } = *death;
        if matches!(self.verdict, Verdict::Pending(culprit) if culprit == pid) {
            self.verdict = Verdict::Failed(failure("the cluster did not start", death));
        }
        self.tell(MasterEvent::Stopped { process, pid, exit });
        self.go_on_stopping(now);
    }

    fn go_on_stopping(&mut self, now: Instant) {
        while self
            .slots
            .iter()
            .all(|slot| slot.members.is_empty() || !self.is_in_stage(slot.process))
        {
            match self.phase {
                Phase::StoppingWorkers => {
                    self.phase = Phase::StoppingAgent;
                    for pid in self.in_stage() {
                        self.terminate(now, pid);
                    }
                }
                Phase::StoppingAgent => {
                    self.phase = Phase::Finished;
                    let verdict = std::mem::replace(&mut self.verdict, Verdict::Clean);
                    let failure = match verdict {
                        Verdict::Clean => None,
                        Verdict::Failed(text) => Some(text),
                        Verdict::Pending(pid) => {
                            Some(format!("the process {pid} was not ready in time"))
                        }
                    };
                    let left = self.abandoned.values().cloned();
                    let failures: Vec<String> = failure.into_iter().chain(left).collect();
                    let is_clean = failures.is_empty();
                    let outcome = is_clean.then_some(()).ok_or_else(|| failures.join("\n"));
                    self.actions.push(Action::Finish(outcome));
                }
                _ => return,
            }
        }
    }

    /// Asks a process to stop, or kills it where there is no time to ask. One that is only ordered
    /// is asked when it is there.
    pub(super) fn terminate(&mut self, now: Instant, pid: u32) {
        let kill_at = after(now, self.rules.stop_timeout);
        let hurried = self.hurried;
        let Some(member) = self.member(pid) else { return };
        match member.life {
            Life::Starting { .. } | Life::Standby | Life::Ready | Life::Retiring { .. } => {
                member.life = Life::Stopping { kill_at };
                if hurried {
                    self.kill(now, pid);
                } else {
                    self.actions.push(Action::Terminate { pid });
                }
            }
            // It was asked before, and its time runs already.
            Life::Stopping { .. } if hurried => self.kill(now, pid),
            Life::Spawning | Life::Stopping { .. } | Life::Killed { .. } => {}
        }
    }

    /// Kills a process, unless it was killed already.
    pub(super) fn kill(&mut self, now: Instant, pid: u32) {
        let Some(member) = self.member(pid) else { return };
        if !matches!(member.life, Life::Killed { .. }) {
            member.life = Life::Killed { give_up_at: after(now, GIVE_UP) };
            self.actions.push(Action::Kill { pid });
        }
    }

    /// Waits no more for a process that was killed, unless the master noticed too `late` that its time
    /// is over: its death may be still to be heard. It will never run its own code again, so that
    /// whoever takes its place is the only one there.
    pub(super) fn give_up(&mut self, now: Instant, pid: u32, late: bool) {
        let Some(slot) = self.slot_of(pid) else { return };
        let process = slot.process;
        let Some(member) = slot.by_pid_mut(pid) else { return };
        if late {
            member.life = Life::Killed { give_up_at: after(now, GIVE_UP) };
            return;
        }
        let text = format!(
            "is not gone {GIVE_UP:?} after its SIGKILL, and is left behind: the kernel or a debugger \
             holds it"
        );
        let before =
            member.reason.take().map(|reason| format!("{reason}; it ")).unwrap_or_default();
        member.reason = Some(format!("{before}{text}"));
        let text = format!("{process} (pid {pid}) {text}");
        self.actions.push(Action::Abandon { pid, text: text.clone() });
        self.abandoned.insert(pid, text);
        self.handle_exit(now, pid, Exit::Signal(KILLED), Vec::new());
    }
}

/// The number of SIGKILL.
const KILLED: i32 = 9;

/// How long a process that was killed is waited for. It takes that long where the kernel has a lot of
/// its memory to give back, and for ever in a system call that does not come back, or in the hands of
/// a debugger.
pub(super) const GIVE_UP: Duration = Duration::from_secs(10);
