//! How one process takes the place of another: the new one is ready before the old one goes.
//!
//! An agent is special: the new one gets ready only when it has the lead, and gets the lead only
//! when the old one is gone. It starts and stands by; the old one gives up what it leads; then the
//! new one has its turn.

use tokio::time::Instant;

use super::{
    Action, Death, Dispatcher, Life, MasterEvent, Phase, ProcessName, Seat, Slot, after, failure,
    slot::Wish,
};

impl Dispatcher {
    /// Wants this process replaced, as soon as it may be.
    pub(super) fn wish(&mut self, pid: u32, why: String) {
        let is_open = !self.is_stopping();
        let Some(slot) = self.slot_of(pid).filter(|slot| is_open && !slot.closing) else { return };
        let has_none = slot.wish.is_none();
        let Some(member) = slot.by_pid_mut(pid) else { return };
        match member.seat {
            Seat::Serving if has_none => slot.wish = Some(Wish::new(why)),
            // It waits for the others of a reload.
            Seat::Coming => member.unwanted = Some(why),
            Seat::Serving | Seat::Leaving => {}
        }
    }

    /// Starts the replacements that are wanted and that there is room for.
    pub(super) fn settle_wishes(&mut self, now: Instant) {
        if self.reload.is_some() {
            // It replaces all of them.
            return;
        }
        for process in self.names() {
            let changing = |slot: &&Slot| {
                slot.process != ProcessName::Agent && !slot.closing && slot.is_changing()
            };
            let room = process == ProcessName::Agent
                || self.slots.iter().filter(changing).count() < self.rules.recycle.at_once;
            let slot = self.slot(process);
            let can_be = room && !slot.closing && slot.is_ready() && !slot.is_changing();
            let is_wanted = slot.wish.as_ref().is_some_and(|wish| wish.not_before.is_none());
            if !can_be || !is_wanted {
                continue;
            }
            let pid = slot.of(Seat::Serving).map_or(0, |member| member.pid);
            let why = slot.wish.as_ref().map(|wish| wish.why.clone()).unwrap_or_default();
            self.tell(MasterEvent::Replacing { process, pid, why });
            self.spawn(now, process, Seat::Coming);
        }
    }

    /// A process that came is ready: it serves from now on, and the old one goes.
    pub(super) fn take_over(&mut self, now: Instant, process: ProcessName) {
        if let Some(old) = self.slot(process).of(Seat::Serving).map(|member| member.pid) {
            self.leave(now, process, old);
        }
        self.promote(process);
    }

    /// Gives the seat of the one that serves to the one that comes.
    fn promote(&mut self, process: ProcessName) {
        let slot = self.slot(process);
        let Some(new) = slot.of_mut(Seat::Coming) else { return };
        new.seat = Seat::Serving;
        slot.wish = new.unwanted.take().map(Wish::new);
        slot.failed &= !slot.is_ready();
        slot.waiting = None;
    }

    /// Lets a process go that is no longer wanted. An agent with the lead gives that up first.
    pub(super) fn leave(&mut self, now: Instant, process: ProcessName, pid: u32) {
        let stop_at = after(now, self.rules.stop_timeout);
        let drain = self.rules.stop_timeout;
        let Some(member) = self.slot(process).members.iter_mut().find(|of| of.pid == pid) else {
            return;
        };
        member.seat = Seat::Leaving;
        match member.life {
            // It is asked to go when it is there.
            Life::Spawning => return,
            Life::Starting { .. } | Life::Ready if member.lead => {
                member.life = Life::Retiring { stop_at };
                self.actions.push(Action::Retire { pid, drain });
            }
            _ => self.terminate(now, pid),
        }
        self.tell(MasterEvent::Leaving { process, pid });
    }

    /// An agent has come to where it needs the lead.
    pub(super) fn handle_standby(&mut self, now: Instant, process: ProcessName) {
        if self.phase != Phase::Running {
            return;
        }
        if let Some(old) = self.slot(process).of(Seat::Serving).map(|member| member.pid) {
            self.leave(now, process, old);
        }
        self.pass_lead(now);
    }

    /// Gives the lead to the agent that is to have it next, once nobody has it.
    pub(super) fn pass_lead(&mut self, now: Instant) {
        // Workers that stop still have something to tell the agent, unless there is no time for it.
        if self.hurried || !matches!(self.phase, Phase::Running | Phase::StoppingWorkers) {
            return;
        }
        let deadline = after(now, self.rules.ready_timeout);
        let slot = self.agent();
        if slot.is_led() {
            return;
        }
        let heir = slot.of_mut(Seat::Coming).filter(|heir| !heir.is_stopping() && heir.pid != 0);
        let Some(heir) = heir else { return };
        heir.lead = true;
        heir.life = Life::Starting { deadline };
        let (pid, said_ready) = (heir.pid, heir.said_ready);
        self.actions.push(Action::GiveLead { pid });
        self.promote(ProcessName::Agent);
        if said_ready {
            self.handle_ready(now, ProcessName::Agent, pid);
        }
    }

    /// A process that came was lost before it served. The old one goes on.
    pub(super) fn handle_lost_newcomer(&mut self, now: Instant, build: u32, mut death: Death) {
        let process = death.process;
        let failed_reload = self.is_reloading_to(build);
        let policy = self.rules.restart;
        let slot = self.slot(process);
        slot.last_death = Some((now, death.clone()));
        if failed_reload {
            let text = failure("the reload failed", &death);
            self.tell(MasterEvent::Died(death));
            self.fail_reload(now, text);
            return;
        }
        let pause = match &mut slot.wish {
            Some(wish) => {
                let pause = wish.backoff.after_death(&policy, None).time;
                wish.not_before = Some(after(now, pause));
                pause
            }
            None => policy.shortest,
        };
        if slot.of(Seat::Serving).is_none() {
            slot.wish = None;
            slot.waiting = Some(after(now, pause));
        }
        death.restart_in = Some(pause);
        self.tell(MasterEvent::Died(death));
    }

    /// When a worker that is ready now is to be recycled for its age. They do not all go at once:
    /// each lives up to a fifth longer than it may.
    pub(super) fn recycle_at(&mut self, now: Instant, process: ProcessName) -> Option<Instant> {
        let age = self.rules.recycle.age.filter(|_| process != ProcessName::Agent)?;
        Some(after(now, age.saturating_add(age.mul_f64(self.random.f64() / 5.0))))
    }

    pub(super) fn recycle_if_old(&mut self, now: Instant, process: ProcessName) {
        let slot = self.slot(process);
        let Some(member) = slot.of_mut(Seat::Serving) else { return };
        let Some(since) = member.ready_since else { return };
        if member.recycle_at.is_some_and(|at| at <= now) {
            member.recycle_at = None;
            let (pid, age) = (member.pid, (now - since).as_secs());
            self.wish(pid, format!("it has been ready for {age} s"));
        }
    }

    pub(super) fn handle_measured(&mut self, now: Instant, pid: u32, rss: u64) {
        let (limit, settled) = (self.rules.recycle.rss, self.rules.restart.healthy_after);
        let Some(slot) = self.slot_of(pid) else { return };
        let is_worker = slot.process != ProcessName::Agent;
        let Some(member) = slot.by_pid_mut(pid) else { return };
        member.rss = Some(rss);
        // One that needs as much from its start on would be replaced for ever.
        let is_settled = member.ready_since.is_some_and(|since| now - since >= settled);
        if let Some(limit) = limit.filter(|limit| is_worker && is_settled && rss > *limit) {
            let mib = |bytes: u64| bytes / (1024 * 1024);
            self.wish(pid, format!("it has {} MiB, more than {} MiB", mib(rss), mib(limit)));
        }
    }
}
