//! Two owners of one key that publish, withdraw, vanish and come back, over an upstream that
//! refuses, is late or forgets at any moment.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    runtime::Builder,
    time::{Instant, advance},
};

use super::{
    super::{
        Connector, Leader, Setup, Sink, Upstream, lock,
        peer::Peer,
        publication::{Request, Wish},
    },
    Choices, settle,
};
use crate::{
    connection::Link,
    error::{Error, ErrorKind, Result},
    options::Options,
    protocol::{Batch, FrameReader, pb::packet::Body},
    spec::{
        Answered, BoxFuture, ChannelSpec, End, Failure, Health, HealthReport, MethodKind,
        MethodSpec,
    },
};

const PUBLISH: usize = 0;
const UNPUBLISH: usize = 1;

const fn method(name: &'static str, kind: MethodKind) -> MethodSpec {
    MethodSpec { name, kind, args: 1, version: 0, timeout: None }
}

const SPEC: ChannelSpec = ChannelSpec {
    name: "Interleavings",
    codec: "msgpack",
    methods: &[
        method("publish", MethodKind::Publish { unpublish: Some(UNPUBLISH) }),
        method("unpublish", MethodKind::Unpublish { publish: PUBLISH }),
    ],
};

/// A call under way and its deadline are over by then.
const LATE: Duration = Duration::from_secs(11);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Owner and value.
    Publish(u8, u8),
    Unpublish(u8),
    /// Its link is lost.
    Vanish(u8),
    /// It is there again, and sends what it holds.
    Return(u8),
    /// The upstream has lost all, and is back.
    Forget,
    /// All tasks run until they wait.
    Run,
    /// A deadline and the grace pass.
    Wait,
}

/// How a call of the upstream ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Done,
    Refused,
    /// It does not end in time, but is done.
    LateAndDone,
    LateAndNotDone,
}

struct Source {
    holds: Option<u8>,
    choices: Arc<Mutex<Choices>>,
    /// Calls that may still go wrong.
    faults: usize,
    outcomes: Vec<Outcome>,
}

#[derive(Clone)]
struct Shared(Arc<Mutex<Source>>);

impl Shared {
    fn outcome(&self) -> Outcome {
        use Outcome::{Done, LateAndDone, LateAndNotDone, Refused};
        let mut source = lock(&self.0);
        let all = [Done, Refused, LateAndDone, LateAndNotDone];
        let of = if source.faults > 0 { all.len() } else { 1 };
        let outcome = all[lock(&source.choices).choose(of)];
        source.faults -= usize::from(outcome != Done);
        source.outcomes.push(outcome);
        outcome
    }
}

impl Upstream for Shared {
    fn call(&self, method: usize, args: Bytes) -> Result<BoxFuture<Answered>, Error> {
        let shared = self.clone();
        Ok(Box::pin(async move {
            let outcome = shared.outcome();
            if matches!(outcome, Outcome::Done | Outcome::LateAndDone) {
                lock(&shared.0).holds = (method == PUBLISH).then(|| args[0]);
            }
            match outcome {
                Outcome::Done => Ok(Bytes::new().into()),
                Outcome::Refused => {
                    Err(Failure::Client(Error::new(ErrorKind::Client, "refused"), None))
                }
                _ => std::future::pending().await,
            }
        }))
    }

    fn open(&self, _: usize, _: Bytes, _: Sink) -> Result<BoxFuture<End>, Error> {
        Err(Error::config("there is nothing to open"))
    }

    fn health(&self, _: HealthReport) -> Option<BoxFuture<()>> {
        None
    }

    fn close(&self) -> BoxFuture<()> {
        Box::pin(std::future::ready(()))
    }
}

impl Connector for Shared {
    fn connect(&self) -> BoxFuture<Result<Arc<dyn Upstream>, Failure>> {
        let upstream = Arc::new(self.clone()) as Arc<dyn Upstream>;
        Box::pin(std::future::ready(Ok(upstream)))
    }

    fn key(&self, _: usize, _: Bytes) -> Result<Bytes, Error> {
        Ok(Bytes::from_static(b"key"))
    }

    fn unit(&self) -> Bytes {
        Bytes::new()
    }
}

/// What is known of an owner.
struct Owner {
    /// While it is there.
    peer: Option<Arc<Peer>>,
    /// What it asked for and was not answered, in order: request and value.
    asked: Vec<(u64, Option<u8>)>,
    /// What it holds, by the answers, and when that was answered.
    holds: Option<(u8, usize)>,
}

struct World {
    leader: Arc<Leader>,
    owners: BTreeMap<u8, Owner>,
    last: u64,
    taken: Vec<Step>,
}

impl World {
    fn come(&mut self, id: u8) {
        self.last += 1;
        let peer = Arc::new(Peer::new(self.last, Link::new(1 << 20), [id; 16], 1 << 20));
        self.leader.owner_came(peer.owner, peer.id);
        let owner = Owner { peer: None, asked: Vec::new(), holds: None };
        self.owners.entry(id).or_insert(owner).peer = Some(peer);
    }

    fn ask(&mut self, id: u8, value: Option<u8>) {
        let Some(owner) = self.owners.get_mut(&id) else { return };
        let Some(peer) = &owner.peer else { return };
        self.last += 1;
        owner.asked.push((self.last, value));
        let request = Request {
            method: PUBLISH,
            args: Bytes::copy_from_slice(&[value.unwrap_or(0)]),
            deadline: Instant::now() + Duration::from_secs(10),
            wish: if value.is_some() { Wish::Publish } else { Wish::Unpublish },
            asker: (Arc::clone(peer), self.last),
        };
        self.leader.publish(peer.owner, request);
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Publish(owner, value) => self.ask(owner, Some(value)),
            Step::Unpublish(owner) => self.ask(owner, None),
            Step::Vanish(id) => {
                let Some(owner) = self.owners.get_mut(&id) else { return };
                if let Some(peer) = owner.peer.take() {
                    self.leader.owner_left(peer.owner, peer.id, false);
                }
            }
            Step::Return(id) => {
                self.come(id);
                let owner = &mut self.owners.get_mut(&id).unwrap();
                // As a follower: what it holds, the end of that, and what was not answered.
                let (holds, asked) = (owner.holds, std::mem::take(&mut owner.asked));
                if let Some((value, _)) = holds {
                    self.ask(id, Some(value));
                }
                let peer = Arc::clone(self.owners[&id].peer.as_ref().unwrap());
                self.leader.owner_replayed(peer.owner, peer.id);
                asked.into_iter().for_each(|(_, value)| self.ask(id, value));
            }
            Step::Forget | Step::Run | Step::Wait => unreachable!("not of an owner"),
        }
    }

    /// Notes what the answers say.
    fn hear(&mut self) {
        let now = self.taken.len();
        let mut again = Vec::new();
        for (id, owner) in &mut self.owners {
            let Some(peer) = &owner.peer else { continue };
            let mut batch = Batch::default();
            peer.link.move_to(&mut batch);
            let mut reader = FrameReader::default();
            while let Some(bytes) = batch.next_write() {
                reader.buffer().extend_from_slice(&bytes);
            }
            while let Some(packet) = reader.next().unwrap() {
                let Some(Body::Result(result)) = packet.body else { continue };
                let place = owner.asked.iter().position(|(request, _)| *request == packet.id);
                let (_, value) = owner.asked.remove(place.expect("answered once"));
                match value {
                    Some(value) if result.error.is_none() => owner.holds = Some((value, now)),
                    // What it sent again is what it holds, until that is taken.
                    Some(value) if owner.holds.is_some_and(|(held, _)| held == value) => {
                        again.push((*id, Some(value)));
                    }
                    // A value that was refused or is late is not held; the one before stays.
                    Some(_) => {}
                    None => owner.holds = None,
                }
            }
        }
        again.into_iter().for_each(|(owner, value)| self.ask(owner, value));
    }

    /// What the upstream may hold: the value published last by an owner that is there.
    fn wanted(&self) -> BTreeSet<Option<u8>> {
        let held = self.owners.values().filter(|owner| owner.peer.is_some());
        let held: Vec<(u8, usize)> = held.filter_map(|owner| owner.holds).collect();
        let newest = held.iter().map(|(_, when)| *when).max();
        let last = held.iter().filter(|(_, when)| Some(*when) == newest);
        let wanted: BTreeSet<_> = last.map(|(value, _)| Some(*value)).collect();
        if wanted.is_empty() { BTreeSet::from([None]) } else { wanted }
    }
}

async fn run(choices: &Arc<Mutex<Choices>>, faults: usize, actors: &[&[Step]]) -> bool {
    let source = Source { holds: None, choices: Arc::clone(choices), faults, outcomes: Vec::new() };
    let source = Shared(Arc::new(Mutex::new(source)));
    let setup = Setup {
        channel: "interleavings".to_owned(),
        spec: SPEC,
        connector: Box::new(source.clone()),
        options: Options::default(),
        retry_connect: false,
    };
    let leader = Leader::start(setup, None).await.unwrap();
    let mut world = World { leader, owners: BTreeMap::new(), last: 0, taken: Vec::new() };
    [1, 2].into_iter().for_each(|owner| world.come(owner));
    let mut actors: Vec<&[Step]> = actors.to_vec();
    loop {
        actors.retain(|steps| !steps.is_empty());
        if actors.is_empty() {
            break;
        }
        let chosen = lock(choices).choose(actors.len());
        let step = actors[chosen][0];
        actors[chosen] = &actors[chosen][1..];
        world.taken.push(step);
        match step {
            Step::Run => settle().await,
            Step::Wait => {
                settle().await;
                advance(LATE).await;
                settle().await;
            }
            Step::Forget => {
                lock(&source.0).holds = None;
                world.leader.note_health(Health::Restored);
            }
            step => world.take(step),
        }
        world.hear();
    }
    for _ in 0..4 {
        settle().await;
        world.hear();
        advance(LATE).await;
    }
    settle().await;
    world.hear();
    let holds = lock(&source.0).holds;
    let outcomes = lock(&source.0).outcomes.clone();
    let told = format!("{:?} with {outcomes:?}", world.taken);
    let wanted = world.wanted();
    assert!(wanted.contains(&holds), "upstream {holds:?} instead of {wanted:?} after {told}");
    assert!(world.owners.values().all(|owner| owner.peer.is_none() || owner.asked.is_empty()));
    // At the end all go, and nothing is left.
    for owner in world.owners.values_mut() {
        if let Some(peer) = owner.peer.take() {
            world.leader.owner_left(peer.owner, peer.id, true);
        }
    }
    for _ in 0..2 {
        settle().await;
        advance(LATE).await;
    }
    settle().await;
    assert_eq!(lock(&source.0).holds, None, "left upstream after {told}");
    assert_eq!(world.leader.publication_count(), 0, "cells are left after {told}");
    assert_eq!(world.leader.owner_count(), 0, "owners are left after {told}");
    outcomes.iter().any(|outcome| *outcome != Outcome::Done)
}

/// Tries all interleavings of these actors with all outcomes of the calls, of which so many may go
/// wrong. Returns how many there are, and in how many a call went wrong.
fn explore(faults: usize, actors: &[&[Step]]) -> (u64, u64) {
    let choices = Arc::new(Mutex::new(Choices::default()));
    let (mut count, mut with_fault) = (0, 0);
    loop {
        fastrand::seed(7);
        let runtime =
            Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        with_fault += u64::from(runtime.block_on(run(&choices, faults, actors)));
        count += 1;
        if !lock(&choices).next() {
            return (count, with_fault);
        }
    }
}

mod tests {
    use super::{
        Step::{Forget, Publish, Return, Run, Unpublish, Vanish, Wait},
        explore,
    };

    #[test]
    fn one_that_unpublishes_leaves_the_value_of_the_other() {
        let (count, with_fault) =
            explore(1, &[&[Publish(1, 11), Unpublish(1)], &[Publish(2, 21)], &[Run, Run]]);
        assert!(count > 100 && with_fault > 50, "{count}, {with_fault} with a fault");
    }

    #[test]
    fn a_newer_value_replaces_an_older_one_of_either_owner() {
        let (count, with_fault) = explore(
            1,
            &[&[Publish(1, 11), Publish(1, 12)], &[Publish(2, 21), Unpublish(2)], &[Run, Wait]],
        );
        assert!(count > 500 && with_fault > 300, "{count}, {with_fault} with a fault");
    }

    #[test]
    fn one_that_vanishes_is_withdrawn_and_one_that_returns_is_not() {
        let (count, with_fault) = explore(
            1,
            &[&[Publish(1, 11), Vanish(1), Return(1)], &[Publish(2, 21), Vanish(2)], &[Run, Wait]],
        );
        assert!(count > 500 && with_fault > 300, "{count}, {with_fault} with a fault");
    }

    #[test]
    fn an_upstream_that_forgets_is_told_again() {
        let (count, with_fault) = explore(
            1,
            &[&[Publish(1, 11), Unpublish(1)], &[Publish(2, 21)], &[Run, Forget], &[Wait]],
        );
        assert!(count > 500 && with_fault > 300, "{count}, {with_fault} with a fault");
    }
}
