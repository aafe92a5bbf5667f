//! Subscribers that come and go while a topic ends, opens again or is refused: at every
//! interleaving.
//!
//! A step can also fall [between] two locks of the topic's driver, as that of another thread can.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    rc::Rc,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use tokio::{runtime::Builder, sync::mpsc, time::advance};

use super::{
    super::{
        Connector, Leader, Setup, Sink, Upstream, lock,
        peer::Peer,
        topics::{Has, Topic},
    },
    Choices, settle,
};
use crate::{
    codec::MessagePack,
    connection::Link,
    error::{Error, ErrorKind, Result},
    options::Options,
    protocol::{Batch, FrameReader, pb::packet::Body},
    spec::{Answered, BoxFuture, ChannelSpec, End, Failure, HealthReport, MethodKind, MethodSpec},
};

const fn method(name: &'static str, answered: bool) -> MethodSpec {
    let kind = MethodKind::Subscribe { one: false, answered, quiet: None };
    MethodSpec { name, kind, args: 1, version: 0, timeout: None }
}

const SPEC: ChannelSpec = ChannelSpec {
    name: "Interleavings",
    codec: "msgpack",
    methods: &[method("watch", false), method("watch_answered", true)],
};

const LINGER: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Peer and request.
    Subscribe(u64, u64),
    Unsubscribe(u64, u64),
    /// The open stream ends.
    StreamEnds,
    /// From here on the upstream takes subscriptions.
    Accept,
    /// All tasks run until they wait.
    Run,
    /// The linger time passes.
    Linger,
}

/// The upstream: how it answers, and the stream that is open.
#[derive(Default)]
struct Source {
    refuses: bool,
    open: Vec<(u64, mpsc::UnboundedSender<u64>)>,
    opened: u64,
    most: usize,
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Source>>);

/// Takes a stream off the list when it is dropped.
struct Listed(Shared, u64);

impl Drop for Listed {
    fn drop(&mut self) {
        lock(&self.0.0).open.retain(|(id, _)| *id != self.1);
    }
}

impl Upstream for Shared {
    fn call(&self, _: usize, _: Bytes) -> Result<BoxFuture<Answered>, Error> {
        Err(Error::config("there is nothing to call"))
    }

    fn open(&self, method: usize, _: Bytes, sink: Sink) -> Result<BoxFuture<End>, Error> {
        let shared = self.clone();
        Ok(Box::pin(async move {
            let (values, mut receiver) = mpsc::unbounded_channel();
            let listed = {
                let mut source = lock(&shared.0);
                if method == 1 && source.refuses {
                    let refused = Error::new(ErrorKind::Client, "refused");
                    return End::Refused(Failure::Client(refused, None));
                }
                source.opened += 1;
                let id = source.opened;
                let _ = values.send(7);
                source.open.push((id, values));
                source.most = source.most.max(source.open.len());
                Listed(shared.clone(), id)
            };
            let stream = futures::stream::poll_fn(move |cx| receiver.poll_recv(cx));
            let end = sink.run::<MessagePack, u64, _>(stream).await;
            drop(listed);
            end
        }))
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

    fn key(&self, _: usize, args: Bytes) -> Result<Bytes, Error> {
        Ok(args)
    }

    fn unit(&self) -> Bytes {
        Bytes::new()
    }
}

/// All that the steps act on.
struct World {
    leader: Arc<Leader>,
    source: Shared,
    method: usize,
    peers: BTreeMap<u64, Arc<Peer>>,
    /// The subscriptions that are not over, each with its topic.
    subscribed: HashMap<(u64, u64), Arc<Topic>>,
    actors: Vec<Vec<Step>>,
    choices: Rc<RefCell<Choices>>,
    /// The steps in the order in which they were taken; a step between two locks is marked.
    taken: Vec<(Step, bool)>,
}

#[derive(Default)]
struct Received {
    /// By peer and request, whether it was taken. More than one would be a mistake.
    answers: BTreeMap<(u64, u64), Vec<bool>>,
    /// How many values came to each peer.
    values: BTreeMap<u64, u64>,
}

thread_local! {
    static WORLD: RefCell<Option<Rc<RefCell<World>>>> = const { RefCell::new(None) };
}

/// Steps of other actors, as many as are chosen, between two locks of a driver.
pub(in crate::leader) fn between() {
    let Some(world) = WORLD.with(|world| world.borrow().clone()) else { return };
    let Ok(mut world) = world.try_borrow_mut() else { return };
    while let Some(step) = world.next_step(|step| !matches!(step, Step::Run | Step::Linger), true) {
        world.take(step);
    }
}

impl World {
    /// Chooses whose step is next, of those that have one. `None`: nobody's.
    fn next_step(&mut self, is_possible: impl Fn(Step) -> bool, or_none: bool) -> Option<Step> {
        let has_step = |actor: &Vec<Step>| actor.first().is_some_and(|step| is_possible(*step));
        let ready: Vec<usize> =
            (0..self.actors.len()).filter(|actor| has_step(&self.actors[*actor])).collect();
        let of = ready.len() + usize::from(or_none);
        if of == 0 {
            return None;
        }
        let chosen = self.choices.borrow_mut().choose(of);
        let step = self.actors[*ready.get(chosen)?].remove(0);
        self.taken.push((step, or_none));
        Some(step)
    }

    /// Takes a step that needs no time.
    fn take(&mut self, step: Step) {
        match step {
            Step::Subscribe(peer, request) => {
                let has = Has { epoch: 0, topic: 0, version: 0 };
                let key = (self.method, Bytes::from_static(b"key"));
                let link = &self.peers[&peer];
                let topic = self.leader.topics.attach(&self.leader, key, link, request, has);
                self.subscribed.insert((peer, request), topic.expect("there is room"));
            }
            Step::Unsubscribe(peer, request) => {
                if let Some(topic) = self.subscribed.remove(&(peer, request)) {
                    topic.detach(peer, request);
                }
            }
            Step::StreamEnds => lock(&self.source.0).open.clear(),
            Step::Accept => lock(&self.source.0).refuses = false,
            Step::Run | Step::Linger => unreachable!("it takes time"),
        }
    }

    /// What the peers were sent.
    fn received(&self) -> Received {
        let Received { mut answers, mut values } = Received::default();
        for (id, peer) in &self.peers {
            let mut batch = Batch::default();
            peer.link.move_to(&mut batch);
            let mut woken = Vec::new();
            peer.take_woken(&mut woken);
            for topic in woken {
                topic.drain(*id, &mut batch);
            }
            let mut reader = FrameReader::default();
            while let Some(bytes) = batch.next_write() {
                reader.buffer().extend_from_slice(&bytes);
            }
            while let Some(packet) = reader.next().unwrap() {
                match packet.body.unwrap() {
                    Body::SubscribeResult(result) => {
                        answers.entry((*id, packet.id)).or_default().push(result.refused.is_none());
                    }
                    Body::Update(_) => *values.entry(*id).or_insert(0) += 1,
                    _ => {}
                }
            }
        }
        Received { answers, values }
    }

    /// Whatever the order was: who subscribed and was not refused is on the map, was answered
    /// once, and has the value; and nothing is left of the others.
    fn check(&self, all: &[(u64, u64)]) {
        let Received { answers, values } = self.received();
        let told = format!("{:?}", self.taken);
        let on_map = self.leader.topics.find(self.method, b"key");
        let mut live = 0;
        for (peer, request) in all {
            let answers = answers.get(&(*peer, *request)).map_or(&[][..], Vec::as_slice);
            assert!(answers.len() <= 1, "answered twice after {told}");
            let Some(topic) = self.subscribed.get(&(*peer, *request)) else { continue };
            assert_eq!(answers.len(), 1, "{peer}/{request} was not answered after {told}");
            if answers == [false] {
                assert!(!topic.has_member(*peer, *request), "refused and there after {told}");
                continue;
            }
            live += 1;
            let on_map = on_map.as_ref().expect("a topic with subscribers is on the map");
            assert!(Arc::ptr_eq(on_map, topic), "{peer}/{request} is off the map after {told}");
            assert!(topic.has_member(*peer, *request), "not a member after {told}");
            assert!(values.contains_key(peer), "{peer}/{request} has no value after {told}");
        }
        let open = lock(&self.source.0).open.len();
        assert_eq!(open, usize::from(live > 0), "open streams after {told}");
        assert_eq!(on_map.is_some(), live > 0, "left on the map after {told}");
        assert_eq!(lock(&self.source.0).most.max(1), 1, "two streams at a time after {told}");
    }
}

async fn run(world: &Rc<RefCell<World>>) {
    loop {
        let step = world.borrow_mut().next_step(|_| true, false);
        match step {
            None => break,
            Some(Step::Run) => settle().await,
            Some(Step::Linger) => {
                settle().await;
                advance(LINGER + Duration::from_millis(1)).await;
                settle().await;
            }
            Some(step) => world.borrow_mut().take(step),
        }
    }
    settle().await;
    // A stream that ended is opened again after a pause; what nobody wants is over after the linger.
    for _ in 0..2 {
        advance(LINGER).await;
        settle().await;
    }
}

/// Tries all interleavings of these actors. Returns how many there are, and how many had a step
/// between two locks.
fn explore(method: usize, refuses: bool, actors: &[&[Step]]) -> (u64, u64) {
    let choices = Rc::new(RefCell::new(Choices::default()));
    let is_subscribe = |step: &Step| match step {
        Step::Subscribe(peer, request) => Some((*peer, *request)),
        _ => None,
    };
    let all: Vec<_> = actors.iter().copied().flatten().filter_map(is_subscribe).collect();
    let (mut count, mut with_between) = (0, 0);
    loop {
        fastrand::seed(7);
        let runtime =
            Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let choices_now = Rc::clone(&choices);
        let all = &all;
        let had_between = runtime.block_on(async move {
            let source = Shared::default();
            lock(&source.0).refuses = refuses;
            let setup = Setup {
                channel: "interleavings".to_owned(),
                spec: SPEC,
                connector: Box::new(source.clone()),
                options: Options { linger: LINGER, ..Options::default() },
                retry_connect: false,
            };
            let leader = Leader::start(setup, None).await.unwrap();
            let peer = |id| {
                let link = Link::new(1 << 20);
                (id, Arc::new(Peer::new(id, link, [id as u8; 16], 1 << 20)))
            };
            let world = Rc::new(RefCell::new(World {
                leader,
                source,
                method,
                peers: [1, 2].map(peer).into(),
                subscribed: HashMap::new(),
                actors: actors.iter().map(|steps| steps.to_vec()).collect(),
                choices: choices_now,
                taken: Vec::new(),
            }));
            WORLD.with(|current| *current.borrow_mut() = Some(Rc::clone(&world)));
            run(&world).await;
            WORLD.with(|current| *current.borrow_mut() = None);
            world.borrow().check(all);
            world.borrow().taken.iter().any(|(_, between)| *between)
        });
        count += 1;
        with_between += u64::from(had_between);
        if !choices.borrow_mut().next() {
            return (count, with_between);
        }
    }
}

mod tests {
    use super::{
        Step::{Accept, Linger, Run, StreamEnds, Subscribe, Unsubscribe},
        explore,
    };

    #[test]
    fn one_that_comes_while_the_last_one_s_topic_ends_is_never_left_behind() {
        let (count, with_between) = explore(
            0,
            false,
            &[&[Subscribe(1, 10), Unsubscribe(1, 10)], &[Subscribe(2, 20)], &[Run, Linger]],
        );
        assert!(count > 20 && with_between > 0, "{count} interleavings, {with_between} between");
    }

    #[test]
    fn one_that_comes_back_and_another_that_goes_at_any_moment_of_a_stream_s_end() {
        let (count, with_between) = explore(
            0,
            false,
            &[
                &[Subscribe(1, 10), Unsubscribe(1, 10), Subscribe(1, 11)],
                &[Subscribe(2, 20), Unsubscribe(2, 20)],
                &[Run, StreamEnds, Linger],
            ],
        );
        assert!(count > 500 && with_between > 0, "{count} interleavings, {with_between} between");
    }

    #[test]
    fn one_that_comes_while_others_are_refused_is_refused_or_served_but_answered() {
        let (count, with_between) = explore(
            1,
            true,
            &[
                &[Subscribe(1, 10), Unsubscribe(1, 10), Subscribe(1, 11)],
                &[Subscribe(2, 20)],
                &[Run, Accept, Run, StreamEnds],
            ],
        );
        assert!(count > 500 && with_between > 0, "{count} interleavings, {with_between} between");
    }

    #[test]
    fn two_subscriptions_of_one_follower_overlap_at_any_moment() {
        let (count, _) = explore(
            0,
            false,
            &[
                &[Subscribe(1, 10), Subscribe(1, 11), Unsubscribe(1, 10)],
                &[Subscribe(2, 20), Unsubscribe(2, 20)],
                &[Run, StreamEnds, Linger],
            ],
        );
        assert!(count > 500, "{count} interleavings");
    }
}
