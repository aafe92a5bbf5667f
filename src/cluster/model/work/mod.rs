//! Work items in the model: each is with one subscriber at a time, and none is lost, whatever
//! links are cut or frozen and however often the upstream is lost and back.

mod source;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use proptest::{
    prelude::*,
    test_runner::{TestCaseError, TestRunner},
};
use tokio::time::sleep;

use self::source::{SPEC, Source};
use super::{
    configuration,
    hub::{Hub, ModelDial},
    in_virtual_time,
};
use crate::{
    cluster::{Deliveries, Delivery, ProxyCore},
    codec::MessagePack,
    error::{Error, Result},
    follower::{Follower, FollowerSetup},
    leader::{Leader, Setup},
    options::Options,
    spec::Health,
};

const PLACES: usize = 3;
const WINDOW: usize = 2;

#[derive(Debug, Clone)]
enum Operation {
    Subscribe {
        place: usize,
    },
    /// Drops a subscription, but not what was received of it.
    Leave {
        which: usize,
    },
    /// So many new items.
    Offer(u8),
    Receive {
        which: usize,
    },
    Done {
        which: usize,
    },
    GiveBack {
        which: usize,
    },
    End,
    LoseAndRestore,
    Cut {
        place: usize,
    },
    Freeze {
        place: usize,
    },
    Thaw {
        place: usize,
    },
    Wait(u64),
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation as O;
    let place = || 0..PLACES;
    let which = || 0_usize..8;
    prop_oneof![
        4 => place().prop_map(|place| O::Subscribe { place }),
        2 => which().prop_map(|which| O::Leave { which }),
        5 => (1_u8..5).prop_map(O::Offer),
        10 => which().prop_map(|which| O::Receive { which }),
        6 => which().prop_map(|which| O::Done { which }),
        3 => which().prop_map(|which| O::GiveBack { which }),
        2 => Just(O::End),
        2 => Just(O::LoseAndRestore),
        3 => place().prop_map(|place| O::Cut { place }),
        2 => place().prop_map(|place| O::Freeze { place }),
        2 => place().prop_map(|place| O::Thaw { place }),
        4 => prop_oneof![1_u64..100, 100_u64..12_000, Just(61_000)].prop_map(O::Wait),
    ]
}

/// How often each fault really happened.
#[derive(Debug, Default)]
struct Faults {
    cuts_with_items_out: u64,
    freezes: u64,
    reopened: u64,
    redelivered: u64,
    given_back: u64,
}

struct Subscriber {
    id: u64,
    place: usize,
    jobs: Deliveries<u64>,
}

/// An item that a subscriber has.
struct Held {
    subscriber: u64,
    place: usize,
    hold: Hold,
    delivery: Delivery<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hold {
    Ours,
    /// The link was frozen since, and may be dropped for that at any time.
    Unsure,
    /// The link or the subscription that it came by is no more.
    Lost,
}

struct World {
    hub: Arc<Hub>,
    source: Source,
    followers: Vec<ProxyCore>,
    subscribers: Vec<Subscriber>,
    held: Vec<Held>,
    last_subscriber: u64,
    /// How often each item was received, which were acknowledged while they were ours, and which
    /// while that was not sure.
    received: BTreeMap<u64, u64>,
    done: BTreeSet<u64>,
    perhaps_done: BTreeSet<u64>,
    faults: Faults,
}

impl World {
    async fn new() -> Result<Self, Error> {
        let (hub, source) = (Hub::new(PLACES), Source::default());
        let options = Options { deliver_window: WINDOW, ..Options::default() };
        let setup = Setup {
            channel: "work".to_owned(),
            spec: SPEC,
            connector: Box::new(source.clone()),
            options: options.clone(),
            retry_connect: false,
        };
        *hub.leader() = Some(Leader::start(setup, None).await?);
        let mut followers = Vec::new();
        for place in 0..PLACES {
            let setup = FollowerSetup {
                channel: "work".to_owned(),
                spec: SPEC,
                options: options.clone(),
                dial: Box::new(ModelDial { hub: Arc::clone(&hub), place, life: 0 }),
                liveness: None,
            };
            followers.push(ProxyCore::new(Follower::create(setup).await?));
        }
        Ok(Self {
            hub,
            source,
            followers,
            subscribers: Vec::new(),
            held: Vec::new(),
            last_subscriber: 0,
            received: BTreeMap::new(),
            done: BTreeSet::new(),
            perhaps_done: BTreeSet::new(),
            faults: Faults::default(),
        })
    }

    async fn run(mut self, operations: &[Operation]) -> Result<Faults, String> {
        for (step, operation) in operations.iter().enumerate() {
            let applied = self.apply(operation).await;
            applied.map_err(|why| format!("step {step}, {operation:?}: {why}"))?;
        }
        self.rest().await?;
        Ok(self.faults)
    }

    async fn apply(&mut self, operation: &Operation) -> Result<(), String> {
        use Operation as O;
        match *operation {
            O::Subscribe { place } => self.subscribe(place),
            O::Leave { which } => {
                if let Some(chosen) = pick(which, self.subscribers.len()) {
                    let left = self.subscribers.swap_remove(chosen);
                    self.weaken(Hold::Lost, |held| held.subscriber == left.id);
                }
            }
            O::Offer(count) => {
                let mut jobs = self.source.lock();
                for _ in 0..count {
                    jobs.last += 1;
                    let job = jobs.last;
                    jobs.queue.push_back(job);
                }
                drop(jobs);
                self.source.0.1.notify_waiters();
            }
            O::Receive { which } => {
                if let Some(chosen) = pick(which, self.subscribers.len()) {
                    self.receive(chosen)?;
                }
            }
            O::Done { which } => {
                if let Some(chosen) = pick(which, self.held.len()) {
                    self.finish(chosen, true);
                }
            }
            O::GiveBack { which } => {
                if let Some(chosen) = pick(which, self.held.len()) {
                    self.finish(chosen, false);
                }
            }
            O::End => {
                self.source.lock().ends += 1;
                self.source.0.1.notify_waiters();
            }
            O::LoseAndRestore => {
                for health in [Health::Lost("the model says so".to_owned()), Health::Restored] {
                    if let Some(report) = &self.source.lock().health {
                        report(health);
                    }
                    sleep(Duration::from_millis(1)).await;
                }
                self.faults.reopened += 1;
            }
            O::Cut { place } => self.cut(place),
            O::Freeze { place } => self.freeze(place),
            O::Thaw { place } => self.thaw(place),
            O::Wait(millis) => {
                // Long enough for a frozen link to be dropped.
                sleep(Duration::from_millis(millis)).await;
            }
        }
        sleep(Duration::from_millis(1)).await;
        Ok(())
    }

    fn subscribe(&mut self, place: usize) {
        self.last_subscriber += 1;
        let jobs = self.followers[place].deliveries::<MessagePack, u64>(0, Ok(Bytes::new()));
        self.subscribers.push(Subscriber { id: self.last_subscriber, place, jobs });
    }

    fn receive(&mut self, chosen: usize) -> Result<(), String> {
        use futures::FutureExt as _;
        let subscriber = &mut self.subscribers[chosen];
        let Some(received) = subscriber.jobs.recv().now_or_never() else { return Ok(()) };
        let delivery = received.map_err(|error| error.to_string())?;
        let job = *delivery;
        let count = self.received.entry(job).or_insert(0);
        *count += 1;
        if Delivery::redelivered(&delivery) {
            self.faults.redelivered += 1;
        } else if *count > 1 {
            return Err(format!("item {job} came again, and was not marked"));
        }
        if self.done.contains(&job) {
            return Err(format!("item {job} was done, and came again"));
        }
        if self.held.iter().any(|held| held.hold == Hold::Ours && *held.delivery == job) {
            return Err(format!("item {job} is with two subscribers"));
        }
        let (subscriber, place) = (subscriber.id, subscriber.place);
        let is_frozen = self.hub.links(place).relays.last().is_none_or(|relay| relay.is_frozen());
        let hold = if is_frozen { Hold::Unsure } else { Hold::Ours };
        self.held.push(Held { subscriber, place, hold, delivery });
        let with_one = |held: &&Held| held.subscriber == subscriber && held.hold == Hold::Ours;
        if self.held.iter().filter(with_one).count() > WINDOW {
            return Err("more items than the window are with one subscriber".to_owned());
        }
        Ok(())
    }

    fn finish(&mut self, chosen: usize, done: bool) {
        let held = self.held.swap_remove(chosen);
        if done {
            match held.hold {
                Hold::Ours => self.done.insert(*held.delivery),
                Hold::Unsure => self.perhaps_done.insert(*held.delivery),
                Hold::Lost => false,
            };
            Delivery::ack(held.delivery);
        } else {
            self.faults.given_back += 1;
            drop(held);
        }
    }

    fn weaken(&mut self, to: Hold, whose: impl Fn(&Held) -> bool) {
        for held in self.held.iter_mut().filter(|held| whose(held) && held.hold != Hold::Lost) {
            held.hold = to;
        }
    }

    fn cut(&mut self, place: usize) {
        let relays = self.hub.links(place).relays.clone();
        relays.iter().for_each(|relay| relay.cut());
        let is_out = self.held.iter().any(|held| held.place == place && held.hold != Hold::Lost);
        self.faults.cuts_with_items_out += u64::from(is_out && !relays.is_empty());
        self.weaken(Hold::Lost, |held| held.place == place);
    }

    fn freeze(&mut self, place: usize) {
        let relays = self.hub.links(place).relays.clone();
        let Some(relay) = relays.last().filter(|relay| !relay.is_frozen()) else { return };
        relay.freeze();
        self.faults.freezes += 1;
        self.weaken(Hold::Unsure, |held| held.place == place);
    }

    fn thaw(&mut self, place: usize) {
        self.hub.links(place).relays.iter().for_each(|relay| relay.thaw());
    }

    /// All faults are mended, and one subscriber works: it gets all that is not done.
    async fn rest(&mut self) -> Result<(), String> {
        (0..PLACES).for_each(|place| self.thaw(place));
        self.held.clear();
        self.subscribers.clear();
        self.subscribe(0);
        for _ in 0..200 {
            sleep(Duration::from_secs(1)).await;
            self.receive(0)?;
            while !self.held.is_empty() {
                self.finish(0, true);
            }
        }
        let last = self.source.lock().last;
        let lost: Vec<u64> = (1..=last)
            .filter(|job| !self.done.contains(job) && !self.perhaps_done.contains(job))
            .collect();
        if !lost.is_empty() {
            return Err(format!("items {lost:?} of {last} are lost"));
        }
        self.subscribers.clear();
        sleep(Duration::from_secs(15)).await;
        match self.hub.leader().as_ref().map_or(0, |leader| leader.stats().topics) {
            0 => Ok(()),
            topics => Err(format!("{topics} topics are left")),
        }
    }
}

fn pick(which: usize, of: usize) -> Option<usize> {
    (of > 0).then(|| which % of)
}

#[test]
fn every_work_item_is_done_by_somebody_and_is_with_one_at_a_time() {
    let sum = Mutex::new(Faults::default());
    let operations = prop::collection::vec(operation(), 1..60);
    let outcome = TestRunner::new(configuration(100)).run(&operations, |operations| {
        let faults = in_virtual_time(async {
            let world = World::new().await.map_err(|error| error.to_string())?;
            world.run(&operations).await
        });
        let faults = faults.map_err(TestCaseError::fail)?;
        let mut sum = sum.lock().unwrap();
        sum.cuts_with_items_out += faults.cuts_with_items_out;
        sum.freezes += faults.freezes;
        sum.reopened += faults.reopened;
        sum.redelivered += faults.redelivered;
        sum.given_back += faults.given_back;
        Ok(())
    });
    super::assert_passed(outcome);
    let Faults { cuts_with_items_out, freezes, reopened, redelivered, given_back } =
        sum.into_inner().unwrap();
    for fault in [cuts_with_items_out, freezes, reopened, redelivered, given_back] {
        assert!(fault > 0, "a fault never happened");
    }
}
