//! The ordered stop of the cluster, and the end of single processes.

use tokio::time::Instant;

use super::{
    Action, Death, Dispatcher, Life, MasterEvent, Phase, ProcessName, Verdict, after, failure,
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
                    self.actions.push(Action::Finish(match verdict {
                        Verdict::Clean => Ok(()),
                        Verdict::Failed(text) => Err(text),
                        Verdict::Pending(pid) => {
                            Err(format!("the process {pid} was not ready in time"))
                        }
                    }));
                }
                _ => return,
            }
        }
    }

    /// Asks a process to stop, or kills it where there is no time to ask. One that is only ordered
    /// is asked when it is there.
    pub(super) fn terminate(&mut self, now: Instant, pid: u32) {
        let kill_at = Some(after(now, self.rules.stop_timeout));
        let hurried = self.hurried;
        let Some(member) = self.member(pid) else { return };
        match member.life {
            Life::Starting { .. } | Life::Standby | Life::Ready | Life::Retiring { .. } => {
                member.life = Life::Stopping { kill_at };
                if hurried {
                    self.kill(pid);
                } else {
                    self.actions.push(Action::Terminate { pid });
                }
            }
            // It was asked before, and its time runs already.
            Life::Stopping { kill_at: Some(_) } if hurried => self.kill(pid),
            Life::Spawning | Life::Stopping { .. } => {}
        }
    }

    /// Kills a process that was asked to stop, unless it was killed already.
    pub(super) fn kill(&mut self, pid: u32) {
        let Some(member) = self.member(pid) else { return };
        if let Life::Stopping { kill_at: Some(_) } = member.life {
            self.kill_now(pid);
        }
    }

    pub(super) fn kill_now(&mut self, pid: u32) {
        let Some(member) = self.member(pid) else { return };
        member.life = Life::Stopping { kill_at: None };
        self.actions.push(Action::Kill { pid });
    }
}
