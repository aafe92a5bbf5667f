//! A leader, followers and subscribers in one process and in virtual time, and what must hold of
//! them.

mod checks;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};

use super::{
    faults::Faults,
    hub::{Hub, ModelDial},
    operation::{Operation, PLACES, keys},
    publisher::Publisher,
    subscriber::{Hop, Subscriber},
    upstream::{Calls, Connect, Item, Key, Registry, SPEC, WATCH, args},
};
use crate::{
    cluster::{ProxyCore, Subscription},
    codec::MessagePack,
    follower::{Follower, FollowerSetup},
    leader::{Leader, Setup},
    options::Options,
    spec::Health,
};

/// How often it is looked while time passes: often at first, when most happens.
const TICK: Duration = Duration::from_millis(100);
const LATER_TICK: Duration = Duration::from_millis(500);
const CHANNEL: &str = "model";

pub(super) struct World {
    options: Options,
    hub: Arc<Hub>,
    upstream: Registry,
    places: Vec<Place>,
    streams: BTreeMap<Key, (Hop, Instant)>,
    subscribers: Vec<Subscriber>,
    answered: Vec<Answered>,
    /// The leader hands over: a link that is up ends soon.
    is_leaving: bool,
    /// When the upstream did its work badly last.
    in_trouble: Instant,
    pub(super) faults: Faults,
}

struct Place {
    follower: Option<ProxyCore>,
    link: (Hop, Instant),
    /// Which links there are; another one is another `Hop`.
    relay: usize,
    /// It was noted that the topics of the follower may have become others.
    era_noted: bool,
    publisher: Publisher,
}

/// A subscribe request that waits for its answer.
struct Answered {
    place: usize,
    key: Key,
    eager: bool,
    answer: tokio::task::JoinHandle<Option<Subscription<u64>>>,
}

impl World {
    pub(super) async fn new(options: Options) -> Self {
        let hub = Hub::new(PLACES);
        let down = (Hop::Down, Instant::now());
        let place = |_| Place {
            follower: None,
            link: down,
            relay: 0,
            era_noted: false,
            publisher: Publisher::default(),
        };
        let mut world = Self {
            options,
            hub,
            upstream: Registry::default(),
            places: (0..PLACES).map(place).collect(),
            streams: keys().map(|key| (key, down)).collect(),
            subscribers: Vec::new(),
            answered: Vec::new(),
            is_leaving: false,
            in_trouble: Instant::now(),
            faults: Faults::default(),
        };
        world.start_leader().await;
        world
    }

    pub(super) fn follower(&self, place: usize) -> &ProxyCore {
        self.places[place].follower.as_ref().expect("it was not stopped")
    }

    pub(super) fn upstream(&self) -> &Registry {
        &self.upstream
    }

    pub(super) async fn run(&mut self, operations: &[Operation]) -> Result<(), String> {
        for (step, operation) in operations.iter().enumerate() {
            self.apply(operation)
                .await
                .map_err(|why| format!("step {step}, {operation:?}: {why}"))?;
        }
        self.rest().await.map_err(|why| format!("at rest: {why}"))?;
        self.leave().await.map_err(|why| format!("when all have left: {why}"))
    }

    pub(super) async fn apply(&mut self, operation: &Operation) -> Result<(), String> {
        use Operation as O;
        match *operation {
            O::Subscribe { place, key, alias, eager } => self.subscribe(place, key, alias, eager),
            O::Clone { which, eager } => {
                if let Some(chosen) = pick(which, self.subscribers.len()) {
                    self.subscribers.push(self.subscribers[chosen].again(eager));
                }
            }
            O::Drop { which } => {
                if let Some(chosen) = pick(which, self.subscribers.len()) {
                    self.subscribers.swap_remove(chosen);
                }
            }
            O::Read { which, open } => {
                if let Some(chosen) = pick(which, self.subscribers.len()) {
                    self.subscribers[chosen].read(open);
                }
            }
            O::Update { key, count } => {
                (0..count).for_each(|_| self.upstream.lock().update(key));
            }
            O::Repeat { key } => self.upstream.lock().give(key, || Item::Value(0)),
            O::Error { key } => self.upstream.lock().give(key, || Item::Error),
            O::Panic { key } => self.upstream.lock().give(key, || Item::Panic),
            O::End { key } => self.upstream.lock().end(key),
            O::Refuse(refuses) => self.upstream.lock().refuses = refuses,
            O::Lose => self.lose(),
            O::Restore => self.upstream.lock().report(Health::Restored),
            O::Cut { place } => self.cut(place).await?,
            O::Freeze { place } => self.freeze(place),
            O::Thaw { place } => self.thaw(place).await,
            O::RestartLeader { abrupt, pause } => self.restart_leader(abrupt, pause).await?,
            O::HandOver { drain, pause } => {
                let (drain, pause) = (Duration::from_millis(drain), Duration::from_millis(pause));
                self.hand_over(drain, pause).await?;
            }
            O::RestartFollower { place, abrupt } => self.restart_follower(place, abrupt).await?,
            O::Publish { place, key } => self.publish(place, key, true),
            O::Unpublish { place, key } => self.publish(place, key, false),
            O::Calls(calls) => self.set_calls(calls),
            O::Wait(millis) => return self.wait(Duration::from_millis(millis)).await,
            O::Rest => return self.rest().await,
        }
        self.wait(Duration::ZERO).await
    }

    /// Lets time pass, and checks all the while.
    async fn wait(&mut self, time: Duration) -> Result<(), String> {
        let start = Instant::now();
        let end = start + time;
        loop {
            // All tasks run until they wait before virtual time goes on.
            sleep(Duration::from_millis(1)).await;
            self.check().await?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            let is_early = start.elapsed() < Duration::from_secs(1);
            sleep(left.min(if is_early { TICK } else { LATER_TICK })).await;
        }
    }

    fn subscribe(&mut self, place: usize, key: Key, alias: u8, eager: bool) {
        let Some(follower) = &self.places[place].follower else { return };
        if key.0 == WATCH {
            let subscription = follower.subscribe::<MessagePack, u64>(key.0, args(key.1, alias));
            let link = self.places[place].link.0;
            self.subscribers.push(Subscriber::new(place, key, subscription, eager, link));
            return;
        }
        let follower = follower.clone();
        let answer = tokio::spawn(async move {
            let args = args(key.1, alias);
            follower.subscribe_answered::<MessagePack, u64>(key.0, args).await.ok()
        });
        self.answered.push(Answered { place, key, eager, answer });
    }

    async fn take_answers(&mut self) {
        let mut open = Vec::new();
        for answered in std::mem::take(&mut self.answered) {
            if !answered.answer.is_finished() {
                open.push(answered);
                continue;
            }
            let Answered { place, key, eager, answer } = answered;
            match answer.await.ok().flatten() {
                Some(subscription) => {
                    let link = self.places[place].link.0;
                    self.subscribers.push(Subscriber::new(place, key, subscription, eager, link));
                }
                None => self.faults.refusals += 1,
            }
        }
        self.answered = open;
    }

    fn publish(&mut self, place: usize, key: u8, publish: bool) {
        let place = &mut self.places[place];
        if let Some(follower) = &place.follower {
            place.publisher.start(follower, key, publish);
        }
    }

    fn set_calls(&mut self, calls: Calls) {
        let before = std::mem::replace(&mut self.upstream.lock().calls, calls);
        if !matches!(before, Calls::Work) {
            self.in_trouble = Instant::now();
        }
    }

    /// Whether the upstream was well for so long that closing can withdraw all in its time.
    fn can_withdraw(&self) -> bool {
        let works = matches!(self.upstream.lock().calls, Calls::Work);
        works && self.in_trouble.elapsed() > Duration::from_secs(16)
    }

    fn lose(&mut self) {
        let mut upstream = self.upstream.lock();
        self.faults.losses += u64::from(upstream.alive);
        upstream.report(Health::Lost("the model says so".to_owned()));
    }

    async fn cut(&mut self, place: usize) -> Result<(), String> {
        let Some(relay) = self.hub.links(place).relays.last().cloned() else { return Ok(()) };
        relay.cut();
        sleep(Duration::from_millis(1)).await;
        if relay.is_up() {
            return Err("the link is still up".to_owned());
        }
        self.faults.cuts += 1;
        Ok(())
    }

    fn freeze(&mut self, place: usize) {
        let Some(relay) = self.hub.links(place).relays.last().cloned() else { return };
        if !relay.is_frozen() {
            relay.freeze();
            self.faults.freezes += 1;
        }
    }

    async fn thaw(&mut self, place: usize) {
        let relays = self.hub.links(place).relays.clone();
        for relay in relays.into_iter().filter(|relay| relay.is_frozen()) {
            let before = relay.carried();
            relay.thaw();
            sleep(Duration::from_millis(1)).await;
            self.faults.bytes_after_thaw += relay.carried() - before;
        }
    }

    async fn start_leader(&mut self) {
        let setup = Setup {
            channel: CHANNEL.to_owned(),
            spec: SPEC,
            connector: Box::new(Connect(self.upstream.clone())),
            options: self.options.clone(),
            retry_connect: false,
        };
        let leader = Leader::start(setup, None).await.expect("the model connects");
        *self.hub.leader() = Some(leader);
        for place in 0..PLACES {
            self.start_follower(place).await;
        }
    }

    async fn restart_leader(&mut self, abrupt: bool, pause: u64) -> Result<(), String> {
        let Some(leader) = self.hub.leader().take() else { return Ok(()) };
        self.new_era(0..PLACES);
        if abrupt {
            self.upstream.kill();
            (0..PLACES).for_each(|place| {
                self.hub.links(place).relays.iter().for_each(|relay| relay.cut());
            });
            leader.close_in_background();
            self.faults.leader_kills += 1;
        } else {
            let can_withdraw = self.can_withdraw();
            leader.close().await;
            let left = self.upstream.lock().published.len();
            if can_withdraw && left > 0 {
                return Err(format!("the leader went, and left {left} publications"));
            }
            self.upstream.kill();
            self.faults.leader_stops += 1;
        }
        drop(leader);
        self.wait(Duration::from_millis(pause)).await?;
        self.new_era(0..PLACES);
        self.start_leader().await;
        Ok(())
    }

    /// The next leader comes when the one before it is gone.
    async fn hand_over(&mut self, drain: Duration, pause: Duration) -> Result<(), String> {
        let Some(leader) = self.hub.leader().take() else { return Ok(()) };
        self.new_era(0..PLACES);
        self.is_leaving = true;
        let start = Instant::now();
        let handed_over = leader.start_hand_over(drain);
        while !handed_over.is_finished() {
            self.wait(Duration::from_millis(10)).await?;
            if start.elapsed() > drain + Duration::from_secs(5) {
                return Err("the hand-over takes too long".to_owned());
            }
        }
        self.is_leaving = false;
        self.upstream.kill();
        self.faults.hand_overs += 1;
        drop(leader);
        self.wait(pause).await?;
        self.new_era(0..PLACES);
        self.start_leader().await;
        Ok(())
    }

    async fn start_follower(&mut self, place: usize) {
        if self.places[place].follower.is_some() || self.hub.leader().is_none() {
            return;
        }
        let life = {
            let mut links = self.hub.links(place);
            links.life += 1;
            links.life
        };
        let setup = FollowerSetup {
            channel: CHANNEL.to_owned(),
            spec: SPEC,
            options: self.options.clone(),
            dial: Box::new(ModelDial { hub: Arc::clone(&self.hub), place, life }),
            liveness: None,
        };
        let follower = Follower::create(setup).await.expect("the leader is there");
        self.places[place].follower = Some(ProxyCore::new(follower));
        self.places[place].publisher = Publisher::default();
    }

    async fn restart_follower(&mut self, place: usize, abrupt: bool) -> Result<(), String> {
        let Some(follower) = self.places[place].follower.take() else { return Ok(()) };
        if abrupt {
            let mut links = self.hub.links(place);
            links.life += 1;
            links.relays.iter().for_each(|relay| relay.cut());
            self.faults.follower_kills += 1;
        } else {
            self.faults.follower_stops += 1;
        }
        self.subscribers.retain(|subscriber| subscriber.place != place);
        self.answered.retain(|answered| answered.place != place);
        follower.follower().close();
        drop(follower);
        self.new_era(place..place + 1);
        self.wait(Duration::ZERO).await?;
        self.start_follower(place).await;
        Ok(())
    }

    fn new_era(&mut self, places: std::ops::Range<usize>) {
        let subscribers = self.subscribers.iter_mut();
        subscribers.filter(|other| places.contains(&other.place)).for_each(Subscriber::note_era);
    }
}

fn pick(which: usize, of: usize) -> Option<usize> {
    (of > 0).then(|| which % of)
}
