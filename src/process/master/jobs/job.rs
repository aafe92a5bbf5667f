//! One job of the table: its definition, its timer, its lanes, and what is known of its runs.
//!
//! A job on one worker has one lane, a job on all workers a lane for each of them. Overlap is a matter
//! of a lane.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use tokio::time::Instant;

use super::{
    lane::{Active, GRACE, LANE, Lane, OFFER, Stage, Waiting, most_active},
    office::{Office, Phase},
};
use crate::{
    process::schedule::{
        JobStatus, Misfire, Now, Overlap, RunOutcome, RunRecord, RunningRun, Schedule, Timer, clip,
    },
    protocol::pb::{OfferRun, RunGranted, ScheduleJob, control::Body},
};

/// Most attempts at a run.
pub(super) const ATTEMPTS: u32 = 5;

/// How many runs that are over are kept.
pub(super) const RECORDS: usize = 20;

/// Why a run that was asked for by hand will never be.
const DROPPED: &str = "the run was dropped: its job, or the cluster, has ended";

/// What a job is, as a worker said.
#[derive(Debug)]
pub(super) struct Definition {
    pub(super) said: ScheduleJob,
    pub(super) schedule: Schedule,
    /// Whether it is ever due here.
    pub(super) due: bool,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Job {
    name: Arc<str>,
    /// The one that holds.
    definition: Arc<Definition>,
    /// Processes that have it, ready or not, and how they define it.
    workers: BTreeMap<u32, Arc<Definition>>,
    timer: Option<Timer>,
    /// Whether the run at the start is behind it.
    begun: bool,
    ended: bool,
    /// By the worker that it is for; `None` where any will do.
    lanes: BTreeMap<Option<u32>, Lane>,
    records: VecDeque<RunRecord>,
    skipped: u64,
    missed: u64,
    /// Whether the skipping was logged since a run last started.
    said_skipping: bool,
}

impl Job {
    pub(super) fn new(name: Arc<str>, definition: Arc<Definition>) -> Self {
        Self {
            name,
            definition,
            workers: BTreeMap::new(),
            timer: None,
            begun: false,
            ended: false,
            lanes: BTreeMap::new(),
            records: VecDeque::new(),
            skipped: 0,
            missed: 0,
            said_skipping: false,
        }
    }

    fn schedule(&self) -> &Schedule {
        &self.definition.schedule
    }

    /// A worker has it.
    pub(super) fn registered(
        &mut self,
        pid: u32,
        definition: Arc<Definition>,
        now: Now,
        office: &mut Office,
    ) {
        self.workers.insert(pid, definition);
        self.ended = false;
        self.refresh(now, office);
    }

    /// Something about the workers has changed, or the cluster is ready: sees to it that the right
    /// definition holds, that the timer runs, and that what waits is offered.
    pub(super) fn refresh(&mut self, now: Now, office: &mut Office) {
        self.adopt(office);
        if office.phase == Phase::Running && !self.ended && self.definition.due {
            self.timer.get_or_insert_with(|| self.definition.schedule.timer(now));
            // A worker that has the job may have yet to become ready.
            let is_served = self.workers.keys().any(|pid| office.is_open(*pid));
            if self.schedule().is_immediate() && is_served && !self.begun {
                self.begun = true;
                self.start(now.wall, now.clock, None, now, office);
            }
        }
        self.serve_all(now, office);
    }

    /// Where workers define it differently, the one that was started last is right, if it is ready:
    /// a reload may yet fail before that.
    fn adopt(&mut self, office: &Office) {
        let rank = |pid: u32| (office.is_ready(pid), office.order_of(pid));
        let newest = self.workers.iter().max_by_key(|(pid, _)| rank(**pid));
        let Some((pid, definition)) = newest else { return };
        if definition.said != self.definition.said {
            tracing::info!(job = &*self.name, pid, "its definition is now that of another worker");
            self.definition = Arc::clone(definition);
            self.timer = None;
        }
    }

    pub(super) fn unregistered(&mut self, pid: u32, now: Now, office: &mut Office) {
        if self.workers.remove(&pid).is_some() {
            if self.workers.is_empty() {
                self.end(office, "it was unregistered");
            }
            self.refresh(now, office);
        }
    }

    /// Plans no more runs. What a worker runs goes on.
    fn end(&mut self, office: &mut Office, why: &str) {
        tracing::info!(job = &*self.name, "no more runs: {why}");
        self.ended = true;
        self.stop(office);
    }

    /// Stops the timer, and drops what no worker has claimed.
    pub(super) fn stop(&mut self, office: &mut Office) {
        self.timer = None;
        for lane in self.lanes.values_mut() {
            for run in lane.clear_unclaimed(office) {
                office.refuse(run.hand, DROPPED);
            }
        }
    }

    pub(super) fn is_ended(&self) -> bool {
        self.ended
    }

    /// Whether nothing of it is left to wait for.
    pub(super) fn is_over(&self) -> bool {
        self.ended && self.lanes.values().all(|lane| lane.active.is_empty())
    }

    /// The lanes that a new run is for.
    pub(super) fn targets(&self, office: &Office) -> Vec<Option<u32>> {
        let open = self.workers.keys().filter(|pid| office.is_open(**pid));
        if self.schedule().is_on_all() { open.map(|pid| Some(*pid)).collect() } else { vec![None] }
    }

    /// A run is due, since then.
    pub(super) fn start(
        &mut self,
        scheduled: Timestamp,
        since: Instant,
        hand: Option<u64>,
        now: Now,
        office: &mut Office,
    ) {
        let targets = self.targets(office);
        if targets.is_empty() {
            self.missed += 1;
            tracing::warn!(job = &*self.name, "a run is missed: no worker is there");
        }
        for target in targets {
            let id = office.new_run();
            let run = Waiting { id, attempt: 1, scheduled, since, hand, tried: Vec::new() };
            self.admit(target, run, office);
            self.serve(target, now, office);
        }
    }

    /// Puts a run into its lane, if the overlap policy has room for it.
    fn admit(&mut self, target: Option<u32>, run: Waiting, office: &mut Office) {
        let overlap = self.schedule().overlaps();
        let lane = self.lanes.entry(target).or_default();
        // What nobody took since the last tick makes room for what is due now.
        while overlap != Overlap::Queue
            && lane.waiting.pop_front_if(|old| old.is_replaceable()).is_some()
        {
            self.missed += 1;
        }
        let has_room = match overlap {
            Overlap::Queue => lane.waiting.len() < LANE,
            Overlap::Skip => lane.waiting.is_empty() && lane.active.is_empty(),
            Overlap::Allow => lane.waiting.is_empty() && lane.active.len() < LANE,
        };
        if has_room {
            return lane.waiting.push_back(run);
        }
        self.skipped += 1;
        if !std::mem::replace(&mut self.said_skipping, true) {
            tracing::warn!(job = &*self.name, id = run.id, "skipped: another run is not over");
        }
        office.settle(run.hand, &RunOutcome::Skipped);
    }

    pub(super) fn serve_all(&mut self, now: Now, office: &mut Office) {
        let targets: Vec<_> = self.lanes.keys().copied().collect();
        for target in targets {
            self.serve(target, now, office);
        }
    }

    /// Offers what waits in a lane, as far as there are workers and the overlap policy allows.
    fn serve(&mut self, target: Option<u32>, now: Now, office: &mut Office) {
        if let Some(only) = target
            && !self.workers.contains_key(&only)
        {
            return self.close(target, office);
        }
        let most = most_active(self.schedule());
        let Some(lane) = self.lanes.get_mut(&target) else { return };
        let workers = self.workers.keys().copied();
        let open: Vec<u32> = workers
            .filter(|pid| target.is_none_or(|only| only == *pid) && office.is_open(*pid))
            .collect();
        while lane.active.len() < most
            && let Some((run, pid)) = lane.next(&open, now, office)
        {
            let offer = office.new_offer(&self.name);
            office.say(
                pid,
                Body::OfferRun(OfferRun {
                    offer,
                    job: self.name.to_string(),
                    run: run.id,
                    scheduled: run.scheduled.as_millisecond(),
                    attempt: run.attempt,
                }),
            );
            let stage = Stage::Offered { until: now.clock + OFFER };
            lane.active.push(Active { run, pid, offer, stage });
        }
    }

    /// The lane of a worker that does not have the job any more: what it runs is waited for alone.
    fn close(&mut self, target: Option<u32>, office: &mut Office) {
        let Some(lane) = self.lanes.get_mut(&target) else { return };
        for run in lane.waiting.drain(..) {
            self.missed += 1;
            office.settle(run.hand, &RunOutcome::Missed);
        }
        if lane.active.is_empty() {
            self.lanes.remove(&target);
        }
    }

    /// A worker wants to start what it was offered. Says whether it may.
    pub(super) fn claimed(&mut self, pid: u32, offer: u64, now: Now, office: &mut Office) -> bool {
        let mut active = self.lanes.values_mut().flat_map(|lane| &mut lane.active);
        let Some(active) = active.find(|active| active.is(offer, pid)) else { return false };
        // An offer can be claimed once.
        if active.is_running() {
            return false;
        }
        active.stage = Stage::Running { since: now.clock };
        self.said_skipping = false;
        office.say(pid, Body::RunGranted(RunGranted { offer }));
        true
    }

    /// A worker did not start what it was offered.
    pub(super) fn declined(&mut self, pid: u32, offer: u64, now: Now, office: &mut Office) {
        if let Some((target, active)) = self.take(pid, offer, office) {
            tracing::debug!(job = &*self.name, id = active.run.id, pid, "declined");
            self.put_back(target, active.run, Some(pid), now, office);
            self.serve(target, now, office);
        }
    }

    /// A run is over.
    pub(super) fn finished(
        &mut self,
        pid: u32,
        offer: u64,
        took: Duration,
        outcome: RunOutcome,
        now: Now,
        office: &mut Office,
    ) {
        if let Some((target, active)) = self.take(pid, offer, office) {
            if active.is_running() {
                self.over(target, active, took, outcome, now, office);
            } else {
                self.put_back(target, active.run, Some(pid), now, office);
            }
            self.serve(target, now, office);
        }
    }

    /// A worker is gone. If it went because it was asked to, the job goes with its last worker.
    pub(super) fn gone(&mut self, pid: u32, ends: bool, now: Now, office: &mut Office) {
        let had_it = self.workers.remove(&pid).is_some();
        if had_it && ends && self.workers.is_empty() {
            self.end(office, "the last worker that had it was stopped");
        }
        let active = self.lanes.values().flat_map(|lane| &lane.active);
        let held: Vec<u64> =
            active.filter(|active| active.pid == pid).map(|active| active.offer).collect();
        for offer in held {
            let Some((target, active)) = self.take(pid, offer, office) else { continue };
            match active.stage {
                Stage::Offered { .. } => self.put_back(target, active.run, None, now, office),
                Stage::Running { since } => {
                    let took = now.clock.duration_since(since);
                    self.over(target, active, took, RunOutcome::Lost, now, office);
                }
            }
        }
        self.refresh(now, office);
    }

    /// Takes a run out of its lane.
    fn take(&mut self, pid: u32, offer: u64, office: &mut Office) -> Option<(Option<u32>, Active)> {
        let (target, lane, at) = self.lanes.iter_mut().find_map(|(target, lane)| {
            let at = lane.active.iter().position(|active| active.is(offer, pid))?;
            Some((*target, lane, at))
        })?;
        office.end_offer(offer);
        Some((target, lane.active.remove(at)))
    }

    /// Has a run that did not start wait again, before those that came later.
    fn put_back(
        &mut self,
        target: Option<u32>,
        mut run: Waiting,
        not: Option<u32>,
        now: Now,
        office: &mut Office,
    ) {
        if self.ended || office.phase == Phase::Stopping {
            return office.refuse(run.hand, DROPPED);
        }
        run.tried.extend(not);
        let lane = self.lanes.entry(target).or_default();
        lane.wait_anew(now);
        lane.waiting.push_front(run);
    }

    /// Records a run that is over, and has one that was lost delivered again, if that is wanted.
    fn over(
        &mut self,
        target: Option<u32>,
        Active { run, pid, .. }: Active,
        took: Duration,
        outcome: RunOutcome,
        now: Now,
        office: &mut Office,
    ) {
        let outcome = match outcome {
            RunOutcome::Failed(why) => RunOutcome::Failed(clip(why)),
            RunOutcome::Panicked(why) => RunOutcome::Panicked(clip(why)),
            other => other,
        };
        if self.records.len() == RECORDS {
            self.records.pop_front();
        }
        self.records.push_back(RunRecord {
            id: run.id,
            attempt: run.attempt,
            pid,
            scheduled: run.scheduled.into(),
            took,
            outcome: outcome.clone(),
        });
        if let Some(lane) = self.lanes.get_mut(&target) {
            lane.wait_anew(now);
        }
        let lost = outcome == RunOutcome::Lost;
        let again = lost && self.schedule().redelivers() && run.attempt < ATTEMPTS;
        if lost {
            tracing::error!(job = &*self.name, id = run.id, pid, again, "the run {outcome}");
        }
        if again {
            let attempt = run.attempt + 1;
            let run = Waiting { attempt, since: now.clock, tried: Vec::new(), ..run };
            self.put_back(target, run, None, now, office);
        } else {
            office.settle(run.hand, &outcome);
        }
    }

    pub(super) fn tick(&mut self, now: Now, office: &mut Office) {
        self.expire(now, office);
        self.give_up(now, office);
        if let Some(tick) = self.timer.as_mut().and_then(|timer| timer.poll(now)) {
            let in_time = tick.late <= GRACE;
            if tick.others_passed || !in_time {
                let late = tick.late;
                tracing::warn!(job = &*self.name, ?late, "its time has passed without a run");
            }
            if in_time {
                let since = now.clock.checked_sub(tick.late).unwrap_or(now.clock);
                self.start(tick.scheduled, since, None, now, office);
            } else if self.schedule().misfires() == Misfire::Once {
                self.start(tick.scheduled, now.clock, None, now, office);
            } else {
                self.missed += 1;
            }
        }
        self.serve_all(now, office);
    }

    /// Takes back the offers that nobody claimed in time.
    fn expire(&mut self, now: Now, office: &mut Office) {
        let active = self.lanes.values().flat_map(|lane| &lane.active);
        let expired: Vec<_> = active
            .filter(|active| active.offered_until().is_some_and(|until| until <= now.clock))
            .map(|active| (active.pid, active.offer))
            .collect();
        for (pid, offer) in expired {
            if let Some((target, active)) = self.take(pid, offer, office) {
                let id = active.run.id;
                tracing::warn!(job = &*self.name, id, pid, "the worker did not claim the run");
                self.put_back(target, active.run, Some(pid), now, office);
            }
        }
    }

    /// Ends what has waited for a worker for too long.
    fn give_up(&mut self, now: Now, office: &mut Office) {
        let schedule = &self.definition.schedule;
        for lane in self.lanes.values_mut() {
            for run in lane.give_up(schedule, now) {
                self.missed += 1;
                let (job, id) = (&*self.name, run.id);
                tracing::warn!(job, id, "the run is missed: no worker took it within a minute");
                office.settle(run.hand, &RunOutcome::Missed);
            }
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let lanes = self.lanes.values().filter_map(|lane| lane.next_deadline(self.schedule()));
        lanes.chain(self.timer.as_ref().and_then(Timer::look)).min()
    }

    pub(super) fn status(&self, now: Now, office: &Office) -> JobStatus {
        let active = self.lanes.values().flat_map(|lane| &lane.active);
        let running = active.filter_map(|active| match active.stage {
            Stage::Offered { .. } => None,
            Stage::Running { since } => Some(RunningRun {
                id: active.run.id,
                attempt: active.run.attempt,
                pid: active.pid,
                scheduled: active.run.scheduled.into(),
                running_for: now.clock.duration_since(since),
            }),
        });
        let running: Vec<_> = running.collect();
        let lanes = self.lanes.values();
        let held: usize = lanes.map(|lane| lane.waiting.len() + lane.active.len()).sum();
        JobStatus {
            name: self.name.to_string(),
            schedule: self.schedule().timing_text(),
            on_all: self.schedule().is_on_all(),
            enabled: self.definition.due,
            ended: self.ended,
            workers: self.workers.keys().copied().filter(|pid| office.is_ready(*pid)).collect(),
            next: self.timer.as_ref().and_then(|timer| timer.next(now)),
            waiting: held - running.len(),
            running,
            last: self.records.iter().cloned().collect(),
            skipped: self.skipped,
            missed: self.missed,
        }
    }
}
