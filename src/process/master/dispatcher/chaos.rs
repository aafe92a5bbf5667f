//! Random events at random times: whatever happens, the invariants hold, and when the chaos ends the
//! cluster becomes what it is to be.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// How many stories are played. Each takes a few milliseconds.
const STORIES: u64 = 1000;

/// What the world knows of a process.
#[derive(Debug, Default)]
struct Process {
    name: Option<ProcessName>,
    lead: bool,
    asked: bool,
    killed: bool,
    ready: bool,
}

struct World {
    seed: u64,
    dispatcher: Dispatcher,
    random: fastrand::Rng,
    now: Instant,
    alive: BTreeMap<u32, Process>,
    /// Those that the kernel holds although they were killed.
    abandoned: BTreeSet<u32>,
    wanted_workers: u32,
    stopping: bool,
    finished: bool,
    /// Answers that are owed: reloads that were not taken up, and those that run.
    reloads: (u32, u32),
    scales: u32,
    log: Vec<String>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let workers = random.u32(0..4);
        let recycle = Recycle::default().at_once(random.usize(1..3));
        let recycle =
            if random.bool() { recycle.age(Duration::from_secs(60)).rss(1000) } else { recycle };
        let rules = Rules {
            workers,
            port: 4000,
            ready_timeout: Duration::from_secs(30),
            stop_timeout: Duration::from_secs(5),
            restart: RestartPolicy::default(),
            recycle,
        };
        let mut world = Self {
            seed,
            dispatcher: Dispatcher::new(rules, seed),
            random,
            now: Instant::now(),
            alive: BTreeMap::new(),
            abandoned: BTreeSet::new(),
            wanted_workers: workers,
            stopping: false,
            finished: false,
            reloads: (0, 0),
            scales: 0,
            log: Vec::new(),
        };
        world.happens(Event::Begin, true);
        world
    }

    #[track_caller]
    fn check(&self, holds: bool, what: &str) {
        let last = self.log.len().saturating_sub(40);
        assert!(
            holds,
            "seed {}: {what}\n{}\n{:#?}",
            self.seed,
            self.log[last..].join("\n"),
            self.dispatcher.slots
        );
    }

    /// Tells the dispatcher, and does what it wants. `lucky` says that every process can be had.
    fn happens(&mut self, event: Event, lucky: bool) {
        self.log.push(format!("{event:?}"));
        let mut answers = Vec::new();
        for action in self.dispatcher.handle(self.now, event) {
            self.log.push(format!("    {action:?}"));
            answers.extend(self.carry_out(action, lucky));
        }
        if answers.is_empty() {
            self.check_slots();
        }
        for answer in answers {
            self.happens(answer, lucky);
        }
    }

    /// No slot has two of a kind, and none that is wanted is without a future.
    fn check_slots(&self) {
        for slot in &self.dispatcher.slots {
            let count = |seat| slot.members.iter().filter(|member| member.seat == seat).count();
            let (serving, coming) = (count(Seat::Serving), count(Seat::Coming));
            self.check(serving <= 1 && coming <= 1, "one serves, one comes");
            let future = serving + coming > 0 || slot.waiting.is_some() || slot.closing;
            let is_due = self.dispatcher.phase == Phase::Running;
            self.check(future || !is_due || self.stopping, "somebody comes, some time");
        }
    }

    fn carry_out(&mut self, action: Action, lucky: bool) -> Option<Event> {
        match action {
            Action::Spawn { process, lead, .. } => {
                self.check(!self.stopping, "nothing is spawned once the stop has begun");
                if !lucky && self.random.u32(0..20) == 0 {
                    return Some(Event::SpawnFailed { process, error: "bad luck".into() });
                }
                let pid = self.next_pid();
                let name = Some(process);
                self.alive.insert(pid, Process { name, lead, ..Process::default() });
                self.check_lead();
                return Some(Event::Spawned { process, pid });
            }
            Action::GiveLead { pid } => {
                self.check(!self.alive[&pid].lead, "it is given the lead once");
                self.alive.get_mut(&pid).unwrap().lead = true;
                self.check_lead();
            }
            Action::Retire { pid, .. } => {
                self.check(self.alive[&pid].lead, "only who has the lead gives it up");
                self.alive.get_mut(&pid).unwrap().asked = true;
            }
            Action::Terminate { pid } => self.alive.get_mut(&pid).unwrap().asked = true,
            Action::Kill { pid } => {
                self.check(!self.alive[&pid].killed, "it is killed once");
                self.alive.get_mut(&pid).unwrap().killed = true;
            }
            Action::Abandon { pid, .. } => {
                self.check(self.alive[&pid].killed, "only who was killed is given up");
                self.alive.remove(&pid);
                self.abandoned.insert(pid);
            }
            Action::OpenBuild { .. } => {
                let found = lucky || self.random.u32(0..10) > 0;
                return Some(Event::Opened(found.then_some(()).ok_or_else(|| "gone".into())));
            }
            Action::Reloading => {
                self.reloads.1 += std::mem::take(&mut self.reloads.0);
            }
            Action::Reloaded(_) => self.reloads.1 = 0,
            Action::Scaled { workers, .. } => {
                self.check(workers == self.wanted_workers, "the last number that was asked for");
                self.scales = 0;
            }
            Action::Tell(MasterEvent::Stopping) => self.stopping = true,
            Action::Finish(_) => {
                self.check(self.alive.is_empty(), "everybody is reaped at the end");
                self.finished = true;
            }
            Action::SayClusterReady { pid } => {
                self.check(self.alive.contains_key(&pid), "it lives");
            }
            Action::KeepBuild { .. } | Action::Tell(_) => {}
        }
        None
    }

    /// The lowest number that nobody has, as on a host that has just run out of others: who died gives
    /// its own to the next.
    fn next_pid(&self) -> u32 {
        let has = |pid: &u32| self.alive.contains_key(pid) || self.abandoned.contains(pid);
        (100..).find(|pid| !has(pid)).unwrap_or_default()
    }

    fn check_lead(&self) {
        let leads = self.alive.values().filter(|process| process.lead);
        self.check(leads.count() <= 1, "there is one lead at most");
    }

    fn some_pid(&mut self) -> Option<u32> {
        let pids: Vec<u32> = self.alive.keys().copied().collect();
        self.random.choice(pids)
    }

    fn exits(&mut self, pid: u32, lucky: bool) {
        self.alive.remove(&pid);
        let exit = if self.random.bool() { Exit::Clean } else { Exit::Signal(9) };
        self.happens(Event::Exited { pid, exit, tail: Vec::new() }, lucky);
    }

    fn says_ready(&mut self, pid: u32) {
        let process = self.alive.get_mut(&pid).unwrap();
        let words = if process.name == Some(ProcessName::Agent) && !process.lead {
            Words::Standby
        } else {
            process.ready = true;
            Words::Ready
        };
        self.happens(Event::Said { pid, words }, true);
    }

    /// Something happens.
    fn step(&mut self, may_stop: bool) {
        let pid = self.some_pid();
        match (self.random.u32(0..100), pid) {
            (0..10, Some(pid)) => self.exits(pid, false),
            (10..50, Some(pid)) => self.says_ready(pid),
            (50..52, Some(pid)) => {
                self.happens(Event::Said { pid, words: Words::Ready }, false);
            }
            (52..55, Some(pid)) => {
                self.happens(Event::Replace { pid, why: "is unfit".into() }, false);
            }
            (55..58, Some(pid)) => {
                let how =
                    if self.random.bool() { Unresponsive::Frozen } else { Unresponsive::Blocked };
                self.happens(Event::Hangs { pid, how }, false);
            }
            (58..61, Some(pid)) => self.happens(Event::Measured { pid, rss: 2000 }, false),
            (61..65, _) => {
                self.reloads.0 += 1;
                self.happens(Event::Reload, false);
            }
            (65..69, _) => {
                self.scales += 1;
                self.wanted_workers = self.random.u32(0..5);
                self.happens(Event::Scale(self.wanted_workers), false);
            }
            (71..73, _) if !self.abandoned.is_empty() => {
                let pid = self.abandoned.pop_first().unwrap_or_default();
                let exit = Exit::Signal(9);
                self.happens(Event::Exited { pid, exit, tail: Vec::new() }, false);
            }
            (69..71, _) if may_stop => self.happens(Event::Stop(None), false),
            _ => self.time_passes(false),
        }
    }

    /// Lets time pass: up to the next deadline, or not quite as far.
    fn time_passes(&mut self, lucky: bool) {
        let Some(deadline) = self.dispatcher.next_deadline() else { return };
        if lucky || self.random.bool() {
            self.now = self.now.max(deadline);
            self.happens(Event::Tick, lucky);
            let next = self.dispatcher.next_deadline();
            self.check(next.is_none_or(|next| next > self.now), "a tick leaves nothing due");
        } else {
            self.now += (deadline.saturating_duration_since(self.now)) / 2;
        }
    }

    /// From now on everybody does what is wanted.
    fn calms_down(&mut self) {
        for _ in 0..2000 {
            let asked = self.alive.iter().find(|(_, process)| process.asked || process.killed);
            let asked = asked.map(|(pid, _)| *pid);
            let unready = self.alive.iter().find(|(_, process)| !process.ready);
            let unready: Vec<u32> = unready.into_iter().map(|(pid, _)| *pid).collect();
            if let Some(pid) = asked {
                self.exits(pid, true);
            } else if let Some(pid) = unready.first() {
                self.says_ready(*pid);
                // An agent that stands by is heard once, and waits for time to pass.
                if !self.alive.get(pid).is_none_or(|process| process.ready) {
                    self.time_passes(true);
                }
            } else if self.finished || self.is_settled() {
                return;
            } else {
                self.time_passes(true);
            }
        }
        self.check(false, "it comes to rest");
    }

    fn is_settled(&self) -> bool {
        let slots = &self.dispatcher.slots;
        self.dispatcher.phase == Phase::Running
            && self.dispatcher.reload.is_none()
            && slots.iter().all(|slot| slot.is_ready() && slot.members.len() == 1)
            && slots.iter().all(|slot| slot.wish.is_none())
    }
}

#[test]
fn whatever_happens_the_cluster_becomes_what_it_is_to_be() {
    for seed in 0..STORIES {
        let mut world = World::new(seed);
        for _ in 0..world.random.u32(0..150) {
            if world.finished {
                break;
            }
            world.step(false);
        }
        world.calms_down();
        if world.finished {
            // The start failed, which is an end as well.
            continue;
        }
        let workers = world.dispatcher.slots.len() as u32 - 1;
        world.check(workers == world.wanted_workers, "there are as many workers as wanted");
        world.check(world.alive.len() as u32 == workers + 1, "and nobody else");
        world.check(world.reloads == (0, 0) && world.scales == 0, "everybody has an answer");
        let builds = world.dispatcher.slots.iter().flat_map(|slot| &slot.members);
        let build = world.dispatcher.build;
        world.check(builds.into_iter().all(|member| member.build == build), "all are of one build");
    }
}

#[test]
fn whenever_the_stop_comes_everybody_goes() {
    for seed in 0..STORIES {
        let mut world = World::new(STORIES + seed);
        for _ in 0..world.random.u32(0..150) {
            if world.finished {
                break;
            }
            world.step(true);
        }
        if !world.stopping {
            world.happens(Event::Stop(None), true);
        }
        let mut rounds = 0;
        while !world.finished {
            rounds += 1;
            world.check(rounds < 1000, "the stop comes to an end");
            let asked = world.alive.iter().find(|(_, process)| process.killed);
            match asked.map(|(pid, _)| *pid) {
                Some(pid) => world.exits(pid, false),
                None => world.time_passes(true),
            }
        }
        world.check(world.dispatcher.next_deadline().is_none(), "nothing is due after the end");
        world.check(world.reloads == (0, 0) && world.scales == 0, "everybody has an answer");
    }
}
