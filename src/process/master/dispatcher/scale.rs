//! Another number of workers: new ones with the next indexes, or the highest indexes go.

use tokio::time::Instant;

use super::{Action, Death, Dispatcher, MasterEvent, ProcessName, Seat, Slot};
use crate::process::words::counted;

/// A change of the number of workers that somebody waits for.
#[derive(Debug)]
pub(super) struct Scaling {
    /// The first worker that is new.
    from: u32,
    /// Why one of the new ones is not ready at its first attempt, which is the answer. It is started
    /// again as any.
    failed: Option<String>,
}

impl Dispatcher {
    pub(super) fn handle_scale(&mut self, workers: u32) {
        if self.is_stopping() {
            let outcome = Err("the cluster stops".to_owned());
            self.actions.push(Action::Scaled { workers, outcome });
            return;
        }
        let from = self.scaling.as_ref().map_or(self.workers, |scaling| scaling.from);
        self.workers = workers;
        self.scaling = Some(Scaling { from: from.min(workers), failed: None });
    }

    pub(super) fn settle_scale(&mut self, now: Instant) {
        while self.slots.last().is_some_and(|slot| slot.closing && slot.members.is_empty()) {
            self.slots.pop();
        }
        // A reload is not to be disturbed. It is waited for.
        if self.scaling.is_none() || self.reload.is_some() {
            return;
        }
        self.open_slots(now);
        self.close_slots(now);
        self.answer_scaling();
    }

    fn open_slots(&mut self, now: Instant) {
        for index in 0..self.workers {
            let process = ProcessName::Worker(index);
            if self.slots.len() <= index as usize + 1 {
                self.slots.push(Slot::new(process));
            } else if !std::mem::take(&mut self.slot(process).closing) {
                continue;
            }
            self.slot(process).failed = false;
            self.spawn(now, process, Seat::Serving);
        }
    }

    fn close_slots(&mut self, now: Instant) {
        for at in (self.workers as usize + 1..self.slots.len()).rev() {
            let slot = &mut self.slots[at];
            if std::mem::replace(&mut slot.closing, true) {
                continue;
            }
            slot.waiting = None;
            slot.wish = None;
            let process = slot.process;
            let stays = slot.members.iter().filter(|member| member.seat != Seat::Leaving);
            for pid in stays.map(|member| member.pid).collect::<Vec<_>>() {
                self.leave(now, process, pid);
            }
        }
        while self.slots.last().is_some_and(|slot| slot.closing && slot.members.is_empty()) {
            self.slots.pop();
        }
    }

    fn answer_scaling(&mut self) {
        let Some(Scaling { from, failed }) = &self.scaling else { return };
        let workers = self.workers;
        let mut new = self.slots.iter().skip(*from as usize + 1);
        let done = new.all(|slot| !slot.closing && slot.is_ready());
        let outcome = match failed {
            Some(text) => Err(text.clone()),
            None if done => Ok(()),
            None => return,
        };
        self.scaling = None;
        if outcome.is_ok() {
            self.tell(MasterEvent::Scaled { workers });
        }
        self.actions.push(Action::Scaled { workers, outcome });
    }

    /// Remembers the death of a new worker for whoever waits for it.
    pub(super) fn note_start_of_scaled(&mut self, death: &Death) {
        let Some(scaling) = &mut self.scaling else { return };
        let ProcessName::Worker(index) = death.process else { return };
        if index >= scaling.from && death.ready_for.is_none() && scaling.failed.is_none() {
            scaling.failed = Some(format!(
                "there are to be {} now, but {death}; it is started again",
                counted(self.workers, "worker")
            ));
        }
    }

    /// The stop ends the wait.
    pub(super) fn give_up_scaling(&mut self) {
        if self.scaling.take().is_some() {
            let outcome = Err("the cluster stops".to_owned());
            self.actions.push(Action::Scaled { workers: self.workers, outcome });
        }
    }
}
