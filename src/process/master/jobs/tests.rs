//! The table against scripts, in virtual time.

use std::time::SystemTime;

use futures::FutureExt;

use super::{
    job::{ATTEMPTS, RECORDS},
    lane::{GRACE, LANE, OFFER},
    *,
};
use crate::{
    process::{
        master::event::Death,
        name::Exit,
        schedule::{Misfire, Overlap},
    },
    protocol::pb::{
        ClaimRun, OfferRun, RunCut, RunDeclined, RunFinished, RunSucceeded, UnscheduleJob,
    },
};

const SECOND: Duration = Duration::from_secs(1);

/// A table, its clocks, and what it said.
pub(super) struct Desk {
    pub(super) jobs: Jobs,
    pub(super) now: Now,
    /// Offers that were made and not looked at.
    pub(super) offers: Vec<(u32, OfferRun)>,
    /// Answers to claims, not looked at: whether it was granted.
    pub(super) answers: Vec<(u32, u64, bool)>,
}

impl Desk {
    pub(super) fn new(environment: Option<&str>) -> Self {
        let wall = "2026-06-01T12:00:00Z".parse().unwrap();
        let now = Now { clock: Instant::now(), wall };
        let jobs = Jobs::new(environment.map(str::to_owned), now);
        Self { jobs, now, offers: Vec::new(), answers: Vec::new() }
    }

    /// A cluster of these workers, which have the job and are ready.
    pub(super) fn running(schedule: &Schedule, workers: &[u32]) -> Self {
        let mut desk = Self::new(None);
        for pid in workers {
            desk.hire(*pid, *pid);
            desk.register(*pid, schedule);
            desk.ready(*pid);
        }
        desk.event(MasterEvent::ClusterReady { port: 1 });
        desk
    }

    fn take(&mut self, out: Vec<ToPid>) {
        for (pid, body) in out {
            match body {
                Body::OfferRun(offer) => self.offers.push((pid, offer)),
                Body::RunGranted(granted) => self.answers.push((pid, granted.offer, true)),
                Body::RunRevoked(revoked) => self.answers.push((pid, revoked.offer, false)),
                other => panic!("{other:?}"),
            }
        }
    }

    pub(super) fn event(&mut self, event: MasterEvent) {
        let out = self.jobs.on_event(&event, self.now);
        self.take(out);
    }

    pub(super) fn frame(&mut self, pid: u32, body: Body) {
        assert!(Jobs::takes(&body));
        let out = self.jobs.on_frame(pid, body, self.now);
        self.take(out);
    }

    /// Starts a worker in a place.
    pub(super) fn hire(&mut self, pid: u32, index: u32) {
        let process = ProcessName::Worker(index);
        self.event(MasterEvent::Started { process, pid, generation: 0 });
    }

    pub(super) fn register(&mut self, pid: u32, schedule: &Schedule) {
        self.frame(pid, Body::ScheduleJob(schedule.into()));
    }

    pub(super) fn ready(&mut self, pid: u32) {
        self.event(MasterEvent::Ready { process: ProcessName::Worker(0), pid });
    }

    pub(super) fn die(&mut self, pid: u32) {
        self.event(MasterEvent::Died(Death {
            process: ProcessName::Worker(0),
            pid,
            exit: Exit::Signal(9),
            reason: None,
            ready_for: None,
            restart_in: None,
            lines: Vec::new(),
        }));
    }

    fn stop(&mut self, pid: u32) {
        let process = ProcessName::Worker(0);
        self.event(MasterEvent::Stopped { process, pid, exit: Exit::Clean });
    }

    /// Time passes, and the table is called when it wants to be.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now.clock + time;
        while let Some(deadline) = self.jobs.next_deadline().filter(|deadline| *deadline <= end) {
            self.sleep(deadline.saturating_duration_since(self.now.clock));
            self.tick();
            let next = self.jobs.next_deadline();
            assert!(next.is_none_or(|next| next > self.now.clock), "it turns on the spot");
        }
        self.sleep(end.duration_since(self.now.clock));
    }

    /// Time passes, and the master does not notice.
    fn sleep(&mut self, time: Duration) {
        self.now.clock += time;
        self.now.wall = self.now.wall.checked_add(time).unwrap();
    }

    pub(super) fn tick(&mut self) {
        let out = self.jobs.handle_tick(self.now);
        self.take(out);
    }

    /// The only offer since the last look.
    fn offer(&mut self) -> (u32, OfferRun) {
        assert_eq!(self.offers.len(), 1, "{:?}", self.offers);
        self.offers.remove(0)
    }

    pub(super) fn claim(&mut self, pid: u32, offer: u64) -> bool {
        self.frame(pid, Body::ClaimRun(ClaimRun { offer }));
        let answer = self.answers.pop().unwrap();
        assert_eq!((answer.0, answer.1), (pid, offer));
        answer.2
    }

    pub(super) fn finish(&mut self, pid: u32, offer: u64, outcome: Outcome) {
        let finished = RunFinished { offer, took: 1_500_000, outcome: Some(outcome) };
        self.frame(pid, Body::RunFinished(finished));
    }

    pub(super) fn succeed(&mut self, pid: u32, offer: u64) {
        self.finish(pid, offer, Outcome::Succeeded(RunSucceeded {}));
    }

    /// Takes the only offer, claims it and is granted it.
    fn begin(&mut self) -> (u32, OfferRun) {
        let (pid, offer) = self.offer();
        assert!(self.claim(pid, offer.offer));
        (pid, offer)
    }

    pub(super) fn status(&self) -> JobStatus {
        self.jobs.status(self.now).remove(0)
    }

    fn outcomes(&self) -> Vec<RunOutcome> {
        self.status().last.into_iter().map(|record| record.outcome).collect()
    }

    fn run(&mut self, name: &str) -> oneshot::Receiver<Result<RunOutcome>> {
        let (answer, answered) = oneshot::channel();
        let out = self.jobs.run(name, answer, self.now);
        self.take(out);
        answered
    }
}

use tokio::sync::oneshot;

fn every(interval: Duration) -> Schedule {
    Schedule::every("job", interval)
}

fn answer(answered: oneshot::Receiver<Result<RunOutcome>>) -> Result<RunOutcome> {
    answered.now_or_never().expect("it is answered").unwrap()
}

#[test]
fn one_worker_has_a_run_and_all_have_it_where_that_is_wanted() {
    let mut desk = Desk::running(&every(SECOND), &[1, 2, 3]);
    let mut had = [0; 4];
    for _ in 0..60 {
        desk.pass(SECOND);
        let (pid, offer) = desk.begin();
        assert_eq!((offer.job.as_str(), offer.attempt), ("job", 1));
        desk.succeed(pid, offer.offer);
        had[pid as usize] += 1;
    }
    assert!(had[1..].iter().all(|runs| *runs > 5), "any may have it: {had:?}");

    let mut desk = Desk::running(&every(SECOND).on_all(), &[1, 2, 3]);
    for _ in 0..5 {
        desk.pass(SECOND);
        let mut offers = std::mem::take(&mut desk.offers);
        offers.sort_by_key(|(pid, _)| *pid);
        assert_eq!(offers.iter().map(|(pid, _)| *pid).collect::<Vec<_>>(), [1, 2, 3]);
        for (pid, offer) in offers {
            assert!(desk.claim(pid, offer.offer));
            desk.succeed(pid, offer.offer);
        }
    }
    let ids: std::collections::BTreeSet<u64> =
        desk.status().last.iter().map(|record| record.id).collect();
    assert_eq!(ids.len(), 15, "each run has an id of its own");
    assert!(desk.jobs.office.is_idle());
}

#[test]
fn nothing_runs_before_the_cluster_is_ready_and_nothing_starts_after_its_stop() {
    let mut desk = Desk::new(None);
    desk.hire(1, 0);
    desk.register(1, &every(SECOND).immediate());
    desk.ready(1);
    assert_eq!(desk.jobs.next_deadline(), None);
    desk.pass(5 * SECOND);
    assert!(desk.offers.is_empty());
    let error = answer(desk.run("job")).unwrap_err();
    assert!(error.to_string().contains("not ready yet"), "{error}");

    desk.event(MasterEvent::ClusterReady { port: 1 });
    let (_, first) = desk.begin();
    desk.succeed(1, first.offer);
    desk.pass(SECOND);
    let (_, granted) = desk.begin();
    desk.register(1, &Schedule::every("other", SECOND).overlap(Overlap::Allow));
    desk.pass(SECOND);
    let (_, offered) = desk.offer();
    desk.event(MasterEvent::Stopping);
    assert!(!desk.claim(1, offered.offer), "it was offered, and is not granted any more");
    desk.pass(5 * SECOND);
    assert!(desk.offers.is_empty());
    assert_eq!(desk.jobs.next_deadline(), None);
    let error = answer(desk.run("job")).unwrap_err();
    assert!(error.to_string().contains("stopping"), "{error}");
    // What ran goes on to its end.
    desk.succeed(1, granted.offer);
    assert_eq!(desk.outcomes(), [RunOutcome::Succeeded, RunOutcome::Succeeded]);
}

#[test]
fn immediate_is_once_in_the_life_of_a_master() {
    let schedule = every(60 * SECOND).immediate();
    let mut desk = Desk::running(&schedule, &[1, 2]);
    let (pid, offer) = desk.begin();
    desk.succeed(pid, offer.offer);
    // A crash of all, a reload, and even the end and a new beginning of the job bring no other.
    for (old, new) in [(1, 11), (2, 12)] {
        desk.die(old);
        desk.hire(new, old);
        desk.register(new, &schedule);
        desk.ready(new);
    }
    desk.hire(21, 1);
    desk.register(21, &schedule);
    desk.ready(21);
    desk.stop(11);
    for pid in [12, 21] {
        desk.frame(pid, Body::UnscheduleJob(UnscheduleJob { name: "job".into() }));
    }
    assert!(desk.status().ended);
    desk.register(12, &schedule);
    assert!(!desk.status().ended);
    assert!(desk.offers.is_empty(), "{:?}", desk.offers);

    let once = Desk::running(&Schedule::once("job"), &[1]);
    assert_eq!((once.offers.len(), once.jobs.next_deadline().is_some()), (1, true));
    let mut once = once;
    let (pid, offer) = once.begin();
    once.succeed(pid, offer.offer);
    assert_eq!(once.jobs.next_deadline(), None, "without an interval it is the only one");
}

#[test]
fn the_run_at_the_start_waits_for_the_first_worker_that_is_ready() {
    for schedule in [Schedule::once("job"), Schedule::once("job").on_all()] {
        // A reload brings a job that the cluster did not have.
        let mut desk = Desk::new(None);
        desk.event(MasterEvent::ClusterReady { port: 1 });
        desk.hire(1, 0);
        desk.register(1, &schedule);
        desk.pass(2 * GRACE);
        desk.ready(1);
        let (pid, offer) = desk.begin();
        desk.succeed(pid, offer.offer);
        assert_eq!(desk.status().missed, 0);
        assert_eq!(desk.outcomes(), [RunOutcome::Succeeded]);
        desk.die(1);
        desk.hire(2, 0);
        desk.register(2, &schedule);
        desk.ready(2);
        assert!(desk.offers.is_empty(), "{:?}", desk.offers);
    }
}

#[test]
fn a_job_that_is_disabled_or_of_another_environment_runs_by_hand_alone() {
    let disabled = every(SECOND).disabled(true).immediate();
    let elsewhere = every(SECOND).only_in(["prod"]).immediate();
    for (schedule, environment) in
        [(&disabled, None), (&elsewhere, None), (&elsewhere, Some("test"))]
    {
        let mut desk = Desk::new(environment);
        desk.hire(1, 0);
        desk.register(1, schedule);
        desk.ready(1);
        desk.event(MasterEvent::ClusterReady { port: 1 });
        desk.pass(10 * SECOND);
        assert!(desk.offers.is_empty());
        assert_eq!((desk.status().enabled, desk.status().next), (false, None));
        let answered = desk.run("job");
        let (pid, offer) = desk.begin();
        desk.succeed(pid, offer.offer);
        assert_eq!(answer(answered).unwrap(), RunOutcome::Succeeded);
    }
    let mut desk = Desk::new(Some("prod"));
    desk.hire(1, 0);
    desk.register(1, &elsewhere);
    desk.ready(1);
    desk.event(MasterEvent::ClusterReady { port: 1 });
    assert!(desk.status().enabled);
    desk.begin();
}

#[test]
fn runs_by_hand_have_their_outcome_told() {
    let mut desk = Desk::running(&every(3_600 * SECOND).on_all(), &[1, 2]);
    let answered = desk.run("job");
    let outcomes =
        [Outcome::Succeeded(RunSucceeded {}), Outcome::Failed("no route".into())].into_iter();
    let offers = std::mem::take(&mut desk.offers);
    assert_eq!(offers.len(), 2);
    for ((pid, offer), outcome) in offers.into_iter().zip(outcomes) {
        assert!(desk.claim(pid, offer.offer));
        desk.finish(pid, offer.offer, outcome);
    }
    assert_eq!(answer(answered).unwrap(), RunOutcome::Failed("no route".into()));

    let error = answer(desk.run("jbo")).unwrap_err();
    assert_eq!(error.to_string(), "there is no job `jbo`; the jobs are job");
    desk.die(1);
    desk.die(2);
    let error = answer(desk.run("job")).unwrap_err();
    assert!(error.to_string().contains("no worker"), "{error}");

    let mut desk = Desk::running(&every(3_600 * SECOND), &[1]);
    let (first, second) = (desk.run("job"), desk.run("job"));
    assert_eq!(answer(second).unwrap(), RunOutcome::Skipped, "its overlap policy holds");
    desk.event(MasterEvent::Stopping);
    assert_eq!(answer(first).unwrap_err().kind(), ErrorKind::Closed);
}

#[test]
fn an_offer_that_is_not_claimed_goes_to_another_and_its_late_claim_is_revoked() {
    let mut desk = Desk::running(&every(60 * SECOND), &[1, 2]);
    desk.pass(60 * SECOND);
    let (blocked, first) = desk.offer();
    desk.pass(OFFER);
    let (other, second) = desk.offer();
    assert_ne!(blocked, other);
    assert_eq!((first.run, 1), (second.run, second.attempt), "it never started");
    assert!(!desk.claim(blocked, first.offer));
    assert!(!desk.claim(blocked, second.offer), "an offer is for one worker");
    assert!(desk.claim(other, second.offer));
    assert!(!desk.claim(other, second.offer), "an offer is claimed once");
    desk.succeed(other, second.offer);
    // When nobody claims, all are asked again, and again.
    desk.pass(60 * SECOND);
    let run = desk.offers[0].1.run;
    desk.pass(20 * SECOND);
    let asked = std::mem::take(&mut desk.offers);
    assert!(asked.len() >= 5 && asked.iter().all(|(_, offer)| offer.run == run), "{asked:?}");
    for pid in [1, 2] {
        assert!(asked.iter().any(|(asked, _)| *asked == pid));
    }
}

#[test]
fn what_is_declined_goes_to_another_at_once_and_to_the_same_one_after_a_pause() {
    let mut desk = Desk::running(&every(60 * SECOND), &[1, 2]);
    desk.pass(60 * SECOND);
    let (first, offer) = desk.offer();
    desk.frame(first, Body::RunDeclined(RunDeclined { offer: offer.offer }));
    let (second, offer) = desk.offer();
    assert_ne!(first, second);
    desk.frame(second, Body::RunDeclined(RunDeclined { offer: offer.offer }));
    assert!(desk.offers.is_empty());
    desk.pass(OFFER);
    let (pid, offer) = desk.begin();
    // Even what was granted may turn out not to have started.
    desk.frame(pid, Body::RunDeclined(RunDeclined { offer: offer.offer }));
    let (_, again) = desk.offer();
    assert_eq!((again.run, again.attempt), (offer.run, 1));
}

#[test]
fn at_most_once_by_default() {
    let mut desk = Desk::running(&every(60 * SECOND), &[1, 2]);
    desk.pass(60 * SECOND);
    let (pid, offer) = desk.begin();
    desk.pass(SECOND);
    desk.die(pid);
    assert!(desk.offers.is_empty(), "nobody runs it again");
    let record = desk.status().last.remove(0);
    assert_eq!((record.id, record.pid, record.took), (offer.run, pid, SECOND));
    assert_eq!(record.outcome, RunOutcome::Lost);
    // A run that was offered and not claimed has not started, and is not lost with its worker.
    desk.hire(3, pid);
    desk.register(3, &every(60 * SECOND));
    desk.ready(3);
    desk.pass(59 * SECOND);
    let (holder, first) = desk.offer();
    desk.die(holder);
    let (_, second) = desk.offer();
    assert_eq!((second.run, second.attempt), (first.run, 1));
}

#[test]
fn at_least_once_where_it_is_to_be_redelivered() {
    let mut desk = Desk::running(&every(3_600 * SECOND).redeliver(), &[1, 2]);
    let answered = desk.run("job");
    let (pid, first) = desk.begin();
    desk.die(pid);
    let (other, second) = desk.begin();
    assert_eq!((second.run, second.attempt), (first.run, 2));
    // Nobody is left: it waits for as long as it takes.
    desk.die(other);
    desk.pass(30 * GRACE);
    assert!(desk.offers.is_empty());
    desk.hire(3, 1);
    desk.register(3, &every(3_600 * SECOND).redeliver());
    desk.ready(3);
    let (_, third) = desk.begin();
    assert_eq!((third.run, third.attempt), (first.run, 3));
    // A worker whose function ends cuts its runs off: that is no success either.
    desk.finish(3, third.offer, Outcome::Cut(RunCut {}));
    let (_, fourth) = desk.begin();
    desk.succeed(3, fourth.offer);
    assert_eq!(answer(answered).unwrap(), RunOutcome::Succeeded);
    let outcomes = desk.outcomes();
    assert_eq!(outcomes[..3], [RunOutcome::Lost, RunOutcome::Lost, RunOutcome::Lost]);
    assert_eq!(outcomes[3], RunOutcome::Succeeded);
}

#[test]
fn a_run_that_kills_its_workers_does_so_a_few_times_alone() {
    let schedule = every(36_000 * SECOND).redeliver();
    let mut desk = Desk::running(&schedule, &[1]);
    let answered = desk.run("job");
    for attempt in 1..=ATTEMPTS {
        let (pid, offer) = desk.begin();
        assert_eq!(offer.attempt, attempt);
        desk.die(pid);
        desk.hire(pid + 1, 0);
        desk.register(pid + 1, &schedule);
        desk.ready(pid + 1);
    }
    assert!(desk.offers.is_empty());
    assert_eq!(answer(answered).unwrap(), RunOutcome::Lost);
}

#[test]
fn overlapping_runs_are_skipped_queued_or_allowed() {
    let mut desk = Desk::running(&every(SECOND), &[1, 2]);
    desk.pass(SECOND);
    let (pid, offer) = desk.begin();
    desk.pass(5 * SECOND);
    assert!(desk.offers.is_empty());
    assert_eq!((desk.status().skipped, desk.status().running.len()), (5, 1));
    desk.succeed(pid, offer.offer);
    desk.pass(SECOND);
    desk.offer();

    let mut desk = Desk::running(&every(SECOND).overlap(Overlap::Queue), &[1, 2]);
    desk.pass(SECOND);
    let (mut pid, mut offer) = desk.begin();
    desk.pass(200 * SECOND);
    assert!(desk.offers.is_empty());
    assert_eq!((desk.status().waiting, desk.status().skipped), (LANE, 100));
    let mut scheduled = Vec::new();
    for _ in 0..LANE {
        desk.succeed(pid, offer.offer);
        (pid, offer) = desk.begin();
        scheduled.push(offer.scheduled);
    }
    assert!(scheduled.is_sorted(), "in their order");
    assert_eq!((desk.status().missed, desk.status().waiting), (0, 0));

    let mut desk = Desk::running(&every(SECOND).overlap(Overlap::Allow), &[1, 2]);
    for running in 1..=LANE {
        desk.pass(SECOND);
        desk.begin();
        assert_eq!(desk.status().running.len(), running);
    }
    desk.pass(SECOND);
    assert_eq!((desk.offers.len(), desk.status().skipped), (0, 1));
}

#[test]
fn on_all_workers_each_has_its_own_overlap() {
    let mut desk = Desk::running(&every(SECOND).on_all(), &[1, 2]);
    desk.pass(SECOND);
    let offers = std::mem::take(&mut desk.offers);
    for (pid, offer) in offers {
        assert!(desk.claim(pid, offer.offer));
        if pid == 1 {
            desk.succeed(pid, offer.offer);
        }
    }
    desk.pass(SECOND);
    let (pid, offer) = desk.begin();
    assert_eq!((pid, desk.status().skipped), (1, 1));
    // The death of a worker concerns its own runs alone.
    desk.die(2);
    assert_eq!(desk.outcomes(), [RunOutcome::Succeeded, RunOutcome::Lost]);
    desk.succeed(1, offer.offer);
    desk.pass(SECOND);
    assert_eq!(desk.begin().0, 1);
}

#[test]
fn what_the_master_slept_over_is_skipped_or_made_up_for_once() {
    for (misfire, runs) in [(Misfire::Skip, 0), (Misfire::Once, 1)] {
        let mut desk = Desk::running(&every(3_600 * SECOND).misfire(misfire), &[1, 2]);
        desk.sleep(3 * 3_600 * SECOND + 30 * 60 * SECOND);
        desk.tick();
        assert_eq!(desk.offers.len(), runs, "{misfire:?}");
        assert_eq!(desk.status().missed, 1 - runs as u64);
        if runs == 1 {
            let (pid, offer) = desk.begin();
            assert_eq!(offer.scheduled, scheduled("2026-06-01T15:00:00Z"));
            desk.succeed(pid, offer.offer);
        }
        desk.pass(30 * 60 * SECOND);
        let (_, offer) = desk.begin();
        assert_eq!(offer.scheduled, scheduled("2026-06-01T16:00:00Z"), "the rate is kept");
    }
    // A run that is late by less than the grace is not missed.
    let mut desk = Desk::running(&every(3_600 * SECOND), &[1]);
    desk.sleep(3_600 * SECOND + GRACE);
    desk.tick();
    desk.begin();
}

fn scheduled(text: &str) -> i64 {
    text.parse::<jiff::Timestamp>().unwrap().as_millisecond()
}

#[test]
fn without_a_worker_a_run_waits_a_minute_or_as_long_as_it_takes() {
    for (misfire, runs) in [(Misfire::Skip, 0), (Misfire::Once, 1)] {
        let schedule = every(3_600 * SECOND).misfire(misfire);
        let mut desk = Desk::running(&schedule, &[1]);
        desk.die(1);
        desk.pass(3_600 * SECOND);
        assert_eq!(desk.status().waiting, 1);
        desk.pass(GRACE + SECOND);
        assert_eq!((desk.status().waiting, desk.status().missed), (runs, 1 - runs as u64));
        desk.hire(2, 0);
        desk.register(2, &schedule);
        desk.ready(2);
        assert_eq!(desk.offers.len(), runs);
    }
    // A frequent job does not pile up: the last run takes the place of the one before.
    let mut desk = Desk::running(&every(SECOND), &[1]);
    desk.die(1);
    desk.pass(10 * SECOND);
    assert_eq!((desk.status().waiting, desk.status().missed), (1, 9));
    desk.hire(2, 0);
    desk.register(2, &every(SECOND));
    desk.ready(2);
    assert_eq!(desk.offer().1.scheduled, scheduled("2026-06-01T12:00:10Z"));
}

#[test]
fn what_is_asked_for_by_hand_does_not_wait_as_long_as_the_run_before_it() {
    let schedule = every(3_600 * SECOND).misfire(Misfire::Once).overlap(Overlap::Queue);
    let mut desk = Desk::running(&schedule, &[1]);
    desk.die(1);
    desk.pass(3_600 * SECOND);
    let mut answered = desk.run("job");
    assert_eq!(desk.status().waiting, 2);
    desk.pass(GRACE);
    assert_eq!(desk.status().waiting, 1);
    assert_eq!(answered.try_recv().unwrap().unwrap(), RunOutcome::Missed);
}

#[test]
fn a_crash_of_all_workers_forgets_nothing_and_the_last_one_unregistering_ends_the_job() {
    let schedule = every(SECOND);
    let mut desk = Desk::running(&schedule, &[1, 2]);
    desk.die(1);
    desk.die(2);
    assert!(!desk.status().ended);
    desk.hire(3, 0);
    desk.register(3, &schedule);
    desk.ready(3);
    desk.hire(4, 1);
    desk.register(4, &schedule);
    desk.ready(4);
    desk.pass(SECOND);
    let (pid, offer) = desk.begin();
    let end = |pid, desk: &mut Desk| {
        desk.frame(pid, Body::UnscheduleJob(UnscheduleJob { name: "job".into() }));
    };
    end(3, &mut desk);
    assert_eq!((desk.status().ended, desk.status().workers), (false, vec![4]));
    end(4, &mut desk);
    assert_eq!((desk.status().ended, desk.jobs.next_deadline()), (true, None));
    desk.pass(10 * SECOND);
    assert!(desk.offers.is_empty(), "its timer has stopped");
    desk.succeed(pid, offer.offer);
    assert_eq!(desk.outcomes(), [RunOutcome::Succeeded], "what ran is known");
    assert!(answer(desk.run("job")).is_err());
    assert!(desk.jobs.office.is_idle());

    // The last worker that had it was asked to go: nothing registers it any more.
    let mut desk = Desk::running(&schedule, &[1]);
    desk.hire(2, 0);
    desk.ready(2);
    desk.stop(1);
    assert!(desk.status().ended);
}

#[test]
fn one_that_is_asked_to_go_is_offered_nothing_more() {
    let mut desk = Desk::running(&every(SECOND), &[1, 2]);
    desk.jobs.on_leaving(1);
    assert_eq!(desk.status().workers, [2]);
    for _ in 0..20 {
        desk.pass(SECOND);
        let (pid, offer) = desk.begin();
        assert_eq!(pid, 2);
        desk.succeed(pid, offer.offer);
    }
    desk.stop(1);
    assert!(!desk.status().ended);
}

#[test]
fn in_a_reload_runs_go_to_the_new_ones_once_they_are_ready() {
    let old = every(SECOND);
    let mut desk = Desk::running(&old, &[1, 2]);
    let new = every(2 * SECOND);
    desk.hire(11, 1);
    desk.register(11, &new);
    assert_eq!(desk.status().schedule, "every 1s", "the new one may yet fail");
    let mut seen = std::collections::BTreeSet::new();
    let mut run = |desk: &mut Desk| {
        for _ in 0..40 {
            desk.pass(2 * SECOND);
            let (pid, offer) = desk.begin();
            desk.succeed(pid, offer.offer);
            seen.insert(pid);
        }
        std::mem::take(&mut seen).into_iter().collect::<Vec<_>>()
    };
    assert_eq!(run(&mut desk), [1, 2], "the new one is not ready");
    desk.ready(11);
    assert_eq!(desk.status().schedule, "every 2s", "the newest definition holds");
    desk.register(1, &old);
    assert_eq!(desk.status().schedule, "every 2s", "an older one does not take it back");
    assert_eq!(run(&mut desk), [2, 11], "the old one in its place has no more");
    desk.hire(12, 2);
    desk.register(12, &new);
    desk.ready(12);
    assert_eq!(run(&mut desk), [11, 12]);
    desk.stop(1);
    desk.stop(2);
    assert_eq!(run(&mut desk), [11, 12]);
    assert!(!desk.status().ended);
    // The next reload fails after all: those that go on are right.
    desk.hire(21, 1);
    desk.register(21, &every(3 * SECOND));
    desk.ready(21);
    assert_eq!(desk.status().schedule, "every 3s");
    desk.stop(21);
    assert_eq!(desk.status().schedule, "every 2s");
    assert_eq!(run(&mut desk), [11, 12]);
}

#[test]
fn jobs_records_and_reasons_are_bounded() {
    let mut desk = Desk::running(&every(SECOND), &[1]);
    for run in 0..2 * RECORDS {
        desk.pass(SECOND);
        let (pid, offer) = desk.begin();
        desk.finish(pid, offer.offer, Outcome::Failed(format!("{run} {}", "x".repeat(9_000))));
    }
    let status = desk.status();
    assert_eq!(status.last.len(), RECORDS);
    for (record, run) in status.last.iter().zip(RECORDS..) {
        let RunOutcome::Failed(why) = &record.outcome else { panic!("{record:?}") };
        assert!(why.starts_with(&format!("{run} ")) && why.len() <= 1_024);
        assert_eq!(record.took, Duration::from_millis(1_500));
    }
    for job in 0..2 * MAX_JOBS {
        desk.register(1, &Schedule::once(format!("job {job}")).disabled(true));
    }
    assert_eq!(desk.jobs.status(desk.now).len(), MAX_JOBS);
    let error = answer(desk.run("none")).unwrap_err().to_string();
    assert!(error.contains("the first of 1000 jobs are job, job 0, ") && error.len() < 400);
    // One that has ended makes room.
    desk.frame(1, Body::UnscheduleJob(UnscheduleJob { name: "job 7".into() }));
    desk.register(1, &Schedule::once("the next"));
    let names: Vec<_> = desk.jobs.status(desk.now).into_iter().map(|job| job.name).collect();
    assert!(names.contains(&"the next".to_owned()) && !names.contains(&"job 7".to_owned()));
}

#[test]
fn what_a_worker_says_out_of_turn_changes_nothing() {
    let mut desk = Desk::running(&every(60 * SECOND), &[1, 2]);
    desk.pass(60 * SECOND);
    let (pid, offer) = desk.offer();
    let other = 3 - pid;
    desk.succeed(other, offer.offer);
    desk.frame(other, Body::RunDeclined(RunDeclined { offer: offer.offer }));
    desk.succeed(pid, 999);
    assert!(!desk.claim(other, 999));
    assert!(desk.claim(pid, offer.offer));
    desk.succeed(other, offer.offer);
    assert_eq!(desk.status().running.len(), 1);
    desk.succeed(pid, offer.offer);
    desk.succeed(pid, offer.offer);
    assert_eq!(desk.outcomes(), [RunOutcome::Succeeded]);
    // Whoever is no worker has no jobs, and what is no definition is none.
    desk.register(77, &Schedule::once("stranger"));
    let nonsense = ScheduleJob { name: "x".repeat(999), ..ScheduleJob::default() };
    desk.frame(1, Body::ScheduleJob(nonsense));
    assert_eq!(desk.jobs.status(desk.now).len(), 1);
}

#[test]
fn the_status_tells_what_runs_and_what_comes() {
    let schedule = Schedule::cron("job", "0 0 * * * *").unwrap().time_zone("UTC").unwrap();
    let mut desk = Desk::running(&schedule, &[1, 2]);
    let next: SystemTime = "2026-06-01T13:00:00Z".parse::<jiff::Timestamp>().unwrap().into();
    let status = desk.status();
    assert_eq!((status.next, status.schedule.as_str()), (Some(next), "0 0 * * * * UTC"));
    assert_eq!((status.workers, status.waiting), (vec![1, 2], 0));
    desk.pass(3_600 * SECOND);
    assert_eq!(desk.status().waiting, 1, "it is offered");
    let (pid, offer) = desk.begin();
    desk.pass(5 * SECOND);
    let running = desk.status().running.remove(0);
    assert_eq!((running.id, running.pid, running.attempt), (offer.run, pid, 1));
    assert_eq!((running.scheduled, running.running_for), (next, 5 * SECOND));
    assert!(offer.run > 1_780_000_000 << 20 && offer.run < 1 << 53);
}
