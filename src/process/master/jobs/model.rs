//! The table against workers that claim, finish, decline, hang and die at random, in virtual time.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::{
    job::ATTEMPTS,
    lane::{LANE, OFFER},
    tests::Desk,
    *,
};
use crate::{
    process::schedule::{Misfire, Overlap},
    protocol::pb::{OfferRun, RunDeclined, UnscheduleJob},
};

/// What happens next. Numbers choose among what there is.
#[derive(Debug, Clone)]
enum Step {
    Pass { millis: u64 },
    Hire,
    Die { worker: usize },
    Claim { offer: usize },
    Decline { offer: usize },
    Finish { run: usize },
    Unregister { worker: usize },
    Run,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1_u64..3_000).prop_map(|millis| Step::Pass { millis }),
        1 => (30_000_u64..200_000).prop_map(|millis| Step::Pass { millis }),
        2 => Just(Step::Hire),
        1 => any::<usize>().prop_map(|worker| Step::Die { worker }),
        6 => any::<usize>().prop_map(|offer| Step::Claim { offer }),
        1 => any::<usize>().prop_map(|offer| Step::Decline { offer }),
        4 => any::<usize>().prop_map(|run| Step::Finish { run }),
        1 => any::<usize>().prop_map(|worker| Step::Unregister { worker }),
        1 => Just(Step::Run),
    ];
    prop::collection::vec(step, 1..120)
}

fn schedules() -> impl Strategy<Value = Schedule> {
    let overlap = prop_oneof![Just(Overlap::Skip), Just(Overlap::Queue), Just(Overlap::Allow)];
    let misfire = prop_oneof![Just(Misfire::Skip), Just(Misfire::Once)];
    (overlap, misfire, 0..3, 100_u64..5_000).prop_map(|(overlap, misfire, kind, every)| {
        let schedule = Schedule::every("job", Duration::from_millis(every));
        let schedule = schedule.overlap(overlap).misfire(misfire).immediate();
        match kind {
            0 => schedule,
            1 => schedule.redeliver(),
            _ => schedule.on_all(),
        }
    })
}

/// The workers, as they see it.
struct World {
    desk: Desk,
    schedule: Schedule,
    next_pid: u32,
    alive: Vec<u32>,
    offers: Vec<(u32, OfferRun)>,
    /// What was granted and is not over, in workers that live.
    running: Vec<(u32, OfferRun)>,
    /// How often each run was started.
    started: BTreeMap<u64, u32>,
    /// Runs that were lost and are to be delivered again.
    owed: BTreeSet<u64>,
}

impl World {
    fn new(schedule: Schedule) -> Self {
        let mut world = Self {
            desk: Desk::new(None),
            schedule,
            next_pid: 100,
            alive: Vec::new(),
            offers: Vec::new(),
            running: Vec::new(),
            started: BTreeMap::new(),
            owed: BTreeSet::new(),
        };
        world.hire();
        world.hire();
        world.desk.event(MasterEvent::ClusterReady { port: 1 });
        world.collect();
        world
    }

    fn hire(&mut self) {
        if self.alive.len() < 4 {
            let pid = self.next_pid;
            self.next_pid += 1;
            self.desk.hire(pid, pid);
            self.desk.register(pid, &self.schedule);
            self.desk.ready(pid);
            self.alive.push(pid);
        }
    }

    fn collect(&mut self) {
        self.offers.append(&mut self.desk.offers);
        assert!(self.desk.answers.is_empty(), "only claims are answered");
    }

    fn play(&mut self, step: Step) {
        match step {
            Step::Pass { millis } => self.desk.pass(Duration::from_millis(millis)),
            Step::Hire => self.hire(),
            Step::Die { worker } if !self.alive.is_empty() => {
                let pid = self.alive.remove(worker % self.alive.len());
                self.desk.die(pid);
                let lost = self.running.extract_if(.., |(at, _)| *at == pid);
                let again = lost.filter(|(_, offer)| offer.attempt < ATTEMPTS);
                self.owed.extend(again.map(|(_, offer)| offer.run));
                self.offers.retain(|(at, _)| *at != pid);
            }
            Step::Claim { offer } => self.claim(offer),
            Step::Decline { offer } if !self.offers.is_empty() => {
                let (pid, offer) = self.offers.remove(offer % self.offers.len());
                let declined = RunDeclined { offer: offer.offer };
                self.desk.frame(pid, Body::RunDeclined(declined));
            }
            Step::Finish { run } if !self.running.is_empty() => {
                let (pid, offer) = self.running.remove(run % self.running.len());
                self.desk.succeed(pid, offer.offer);
            }
            Step::Unregister { worker } if self.alive.len() > 1 => {
                let pid = self.alive[worker % self.alive.len()];
                let name = "job".to_owned();
                self.desk.frame(pid, Body::UnscheduleJob(UnscheduleJob { name }));
            }
            Step::Run => {
                let (answer, _) = tokio::sync::oneshot::channel();
                let out = self.desk.jobs.run("job", answer, self.desk.now);
                for (pid, body) in out {
                    if let Body::OfferRun(offer) = body {
                        self.offers.push((pid, offer));
                    }
                }
            }
            _ => {}
        }
        if self.desk.status().ended || !self.schedule.redelivers() {
            self.owed.clear();
        }
        self.collect();
        self.check();
    }

    /// A worker claims, however late it is.
    fn claim(&mut self, offer: usize) {
        if self.offers.is_empty() {
            return;
        }
        let (pid, offer) = self.offers.remove(offer % self.offers.len());
        if self.desk.claim(pid, offer.offer) {
            *self.started.entry(offer.run).or_default() += 1;
            self.owed.remove(&offer.run);
            self.running.push((pid, offer));
        }
    }

    /// What holds at any time.
    fn check(&self) {
        for (run, starts) in &self.started {
            assert!(*starts == 1 || self.schedule.redelivers(), "run {run} started {starts} times");
        }
        let ids: BTreeSet<_> = self.running.iter().map(|(_, offer)| offer.run).collect();
        assert_eq!(ids.len(), self.running.len(), "a run is in one worker at a time");
        let most = match self.schedule.overlaps() {
            Overlap::Skip | Overlap::Queue => 1,
            Overlap::Allow => LANE,
        };
        if self.schedule.is_on_all() {
            for pid in &self.alive {
                let here = self.running.iter().filter(|(at, _)| at == pid).count();
                assert!(here <= most, "{here} runs in one worker");
            }
        } else {
            assert!(self.running.len() <= most, "{:?}", self.running);
        }
        let status = self.desk.status();
        assert_eq!(status.running.len(), self.running.len(), "the table knows what runs");
        assert!(status.waiting <= LANE * 5);
    }

    /// From now on all goes well: what was started and lost is delivered again, and all comes to rest.
    fn settle(&mut self) {
        self.hire();
        while let Some((pid, offer)) = self.running.pop() {
            self.desk.succeed(pid, offer.offer);
        }
        let pids = self.alive.clone();
        for pid in pids {
            self.desk.register(pid, &self.schedule);
        }
        self.collect();
        let is_at_rest = |world: &Self| {
            let status = world.desk.status();
            status.waiting + status.running.len() == 0
        };
        for _ in 0..200 {
            while !self.offers.is_empty() {
                self.claim(0);
                while let Some((pid, offer)) = self.running.pop() {
                    self.desk.succeed(pid, offer.offer);
                }
                self.collect();
                self.check();
            }
            if is_at_rest(self) {
                break;
            }
            self.desk.pass(OFFER / 50);
            self.collect();
        }
        assert!(is_at_rest(self), "{:?}", self.desk.status());
        assert!(self.owed.is_empty(), "never delivered again: {:?}", self.owed);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn whatever_workers_do_no_run_starts_twice_that_must_not(
        schedule in schedules(),
        steps in steps(),
    ) {
        let mut world = World::new(schedule);
        for step in steps {
            world.play(step);
        }
        world.settle();
    }
}
