//! The table of jobs and their runs: decides what runs when, and in which worker.
//!
//! It has no clock and no socket: it is told what happens and what time it is, and says what to send.
//! It lives in the master, so that no other process's death forgets anything.
//!
//! A run: *waiting* → *offered* to a worker ─ claimed → *running* → over. An offer that is not claimed
//! in time, or is declined, is waiting again; a claim that comes too late is revoked. What a worker
//! claimed and took to its grave is lost, or waits again where its job is to be redelivered.

mod job;
mod lane;
mod office;

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::time::Instant;

pub(in crate::process::master) use self::office::Answer;
use self::{
    job::{Definition, Job},
    office::{Office, Phase},
};
use super::{event::MasterEvent, router::ToPid};
use crate::{
    error::{Error, ErrorKind, Result},
    process::{
        name::ProcessName,
        schedule::{JobStatus, MAX_JOBS, Now, RunOutcome, Schedule},
    },
    protocol::pb::{RunFinished, RunRevoked, ScheduleJob, control::Body, run_finished::Outcome},
};

/// The table. See the [module](self).
#[derive(Debug)]
pub(in crate::process::master) struct Jobs {
    environment: Option<String>,
    jobs: BTreeMap<Arc<str>, Job>,
    office: Office,
}

impl Jobs {
    /// A table without jobs, of a master in this environment.
    pub(in crate::process::master) fn new(environment: Option<String>, now: Now) -> Self {
        Self { environment, jobs: BTreeMap::new(), office: Office::new(now) }
    }

    /// Whether a frame is about jobs.
    pub(in crate::process::master) fn takes(body: &Body) -> bool {
        matches!(
            body,
            Body::ScheduleJob(_)
                | Body::UnscheduleJob(_)
                | Body::ClaimRun(_)
                | Body::RunDeclined(_)
                | Body::RunFinished(_)
        )
    }

    /// Takes what a process said about jobs.
    pub(in crate::process::master) fn on_frame(
        &mut self,
        pid: u32,
        body: Body,
        now: Now,
    ) -> Vec<ToPid> {
        match body {
            Body::ScheduleJob(said) => self.registered(pid, said, now),
            Body::UnscheduleJob(said) => {
                if let Some(job) = self.jobs.get_mut(said.name.as_str()) {
                    job.unregistered(pid, now, &mut self.office);
                }
            }
            Body::ClaimRun(claim) => {
                let granted = self.with_offer(claim.offer, |job, office| {
                    job.claimed(pid, claim.offer, now, office)
                });
                if granted != Some(true) {
                    let revoked = RunRevoked { offer: claim.offer };
                    self.office.say(pid, Body::RunRevoked(revoked));
                }
            }
            Body::RunDeclined(declined) => {
                self.with_offer(declined.offer, |job, office| {
                    job.declined(pid, declined.offer, now, office);
                });
            }
            Body::RunFinished(finished) => {
                let offer = finished.offer;
                let (took, outcome) = result(finished);
                self.with_offer(offer, |job, office| {
                    job.finished(pid, offer, took, outcome, now, office);
                });
            }
            _ => {}
        }
        self.office.drain()
    }

    fn with_offer<T>(
        &mut self,
        offer: u64,
        then: impl FnOnce(&mut Job, &mut Office) -> T,
    ) -> Option<T> {
        let job = self.jobs.get_mut(self.office.job_of(offer)?)?;
        Some(then(job, &mut self.office))
    }

    fn registered(&mut self, pid: u32, said: ScheduleJob, now: Now) {
        let name: Arc<str> = said.name.as_str().into();
        let schedule = match Schedule::try_from(&said) {
            Ok(schedule) => schedule,
            Err(error) => return tracing::error!(pid, "a job is refused: {error}"),
        };
        if self.office.order_of(pid).is_none() {
            return;
        }
        let due = schedule.is_due_in(self.environment.as_deref());
        let definition = Arc::new(Definition { said, schedule, due });
        if !self.jobs.contains_key(&name) {
            if !self.make_room() {
                return tracing::error!(pid, job = %name, "refused: there are 1,000 jobs already");
            }
            let job = Job::new(Arc::clone(&name), Arc::clone(&definition));
            self.jobs.insert(Arc::clone(&name), job);
        }
        if let Some(job) = self.jobs.get_mut(&name) {
            job.registered(pid, definition, now, &mut self.office);
        }
    }

    /// Forgets a job that has ended, where there is no room for another.
    fn make_room(&mut self) -> bool {
        if self.jobs.len() < MAX_JOBS {
            return true;
        }
        let forgotten = self.jobs.iter().find(|(_, job)| job.is_over());
        let forgotten = forgotten.map(|(name, _)| Arc::clone(name));
        forgotten.is_some_and(|name| self.jobs.remove(&name).is_some())
    }

    /// Takes what happened to the cluster.
    pub(in crate::process::master) fn on_event(
        &mut self,
        event: &MasterEvent,
        now: Now,
    ) -> Vec<ToPid> {
        match event {
            MasterEvent::Started { process: name @ ProcessName::Worker(_), pid, .. } => {
                self.office.hire(*pid, *name);
            }
            MasterEvent::Ready { pid, .. } => {
                self.office.open(*pid);
                self.each(|job, office| job.refresh(now, office));
            }
            MasterEvent::ClusterReady { .. } => {
                self.office.phase = Phase::Running;
                self.each(|job, office| job.refresh(now, office));
            }
            MasterEvent::Died(death) => self.gone(death.pid, false, now),
            MasterEvent::Stopped { pid, .. } => self.gone(*pid, true, now),
            MasterEvent::Stopping => {
                self.office.phase = Phase::Stopping;
                self.each(|job, office| job.stop(office));
            }
            _ => {}
        }
        self.office.drain()
    }

    /// A worker is asked to go: it is offered nothing more.
    pub(in crate::process::master) fn on_leaving(&mut self, pid: u32) {
        self.office.close(pid);
    }

    /// A process is gone. One that was asked to go takes its jobs along.
    fn gone(&mut self, pid: u32, asked: bool, now: Now) {
        if self.office.dismiss(pid) {
            let ends = asked && self.office.phase == Phase::Running;
            self.each(|job, office| job.gone(pid, ends, now, office));
        }
    }

    fn each(&mut self, then: impl Fn(&mut Job, &mut Office)) {
        for job in self.jobs.values_mut() {
            then(job, &mut self.office);
        }
    }

    /// When to call [`handle_tick`](Self::handle_tick).
    pub(in crate::process::master) fn next_deadline(&self) -> Option<Instant> {
        self.jobs.values().filter_map(Job::next_deadline).min()
    }

    pub(in crate::process::master) fn handle_tick(&mut self, now: Now) -> Vec<ToPid> {
        self.each(|job, office| job.tick(now, office));
        self.office.drain()
    }

    /// Runs a job now, by hand.
    pub(in crate::process::master) fn run(
        &mut self,
        name: &str,
        answer: Answer,
        now: Now,
    ) -> Vec<ToPid> {
        match self.runs_of(name) {
            Ok(runs) => {
                let hand = self.office.take_hand(answer, runs);
                if let Some(job) = self.jobs.get_mut(name) {
                    job.start(now.wall, now.clock, Some(hand), now, &mut self.office);
                }
            }
            // Whoever asked may have gone.
            Err(error) => drop(answer.send(Err(error))),
        }
        self.office.drain()
    }

    /// How many runs a job has when it is run.
    fn runs_of(&self, name: &str) -> Result<usize> {
        let refuse = |kind, why: &str| Err(Error::new(kind, format!("job `{name}`: {why}")));
        match self.office.phase {
            Phase::Starting => return refuse(ErrorKind::Process, "the cluster is not ready yet"),
            Phase::Stopping => return refuse(ErrorKind::Closed, "the cluster is stopping"),
            Phase::Running => {}
        }
        let Some(job) = self.jobs.get(name).filter(|job| !job.is_ended()) else {
            let names = self.names();
            return Err(Error::config(format!("there is no job `{name}`; {names}")));
        };
        match job.targets(&self.office).len() {
            0 => refuse(ErrorKind::Process, "no worker that has it is ready"),
            runs => Ok(runs),
        }
    }

    fn names(&self) -> String {
        /// How many are named.
        const NAMED: usize = 20;
        let jobs = self.jobs.iter().filter(|(_, job)| !job.is_ended());
        let jobs: Vec<&str> = jobs.map(|(name, _)| &**name).collect();
        match jobs.len() {
            0 => "there are no jobs".into(),
            1..=NAMED => format!("the jobs are {}", jobs.join(", ")),
            all => format!("the first of {all} jobs are {}", jobs[..NAMED].join(", ")),
        }
    }

    /// What the table has of all jobs.
    pub(in crate::process::master) fn status(&self, now: Now) -> Vec<JobStatus> {
        self.jobs.values().map(|job| job.status(now, &self.office)).collect()
    }
}

fn result(finished: RunFinished) -> (Duration, RunOutcome) {
    let outcome = match finished.outcome {
        Some(Outcome::Succeeded(_)) => RunOutcome::Succeeded,
        Some(Outcome::Failed(why)) => RunOutcome::Failed(why),
        Some(Outcome::Panicked(why)) => RunOutcome::Panicked(why),
        Some(Outcome::TimedOut(_)) => RunOutcome::TimedOut,
        Some(Outcome::Cut(_)) | None => RunOutcome::Lost,
    };
    (Duration::from_micros(finished.took), outcome)
}
