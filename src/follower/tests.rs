//! Followers whose leader is the test: it has the other end of a pipe in memory.

use std::{
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use bytes::Bytes;
use futures::poll;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    sync::oneshot,
    time::Instant,
};

use super::{Dial, DialError, Dialed, Dialing, Follower, FollowerSetup, Report, Stream};
use crate::{
    error::{Error, ErrorKind},
    options::Options,
    protocol::{
        Frame, FrameReader,
        pb::{self, Packet, packet::Body},
    },
    spec::{ChannelSpec, Failure, MethodKind, MethodSpec, Reply},
};

const CALL: usize = 0;
const WATCH: usize = 1;
const CALL_AGAIN: usize = 2;
const TELL: usize = 3;

const SPEC: ChannelSpec = ChannelSpec {
    name: "tested",
    codec: "none",
    methods: &[
        method("call", MethodKind::Invoke { oneway: false, idempotent: false, share: false }),
        method("watch", MethodKind::Subscribe { one: false, answered: true, quiet: None }),
        method("again", MethodKind::Invoke { oneway: false, idempotent: true, share: false }),
        method("tell", MethodKind::Invoke { oneway: true, idempotent: false, share: false }),
    ],
};

const fn method(name: &'static str, kind: MethodKind) -> MethodSpec {
    MethodSpec { name, kind, args: 1, version: 0, timeout: None }
}

/// Most bytes of one payload that the leader takes.
const LEADERS_LIMIT: usize = 1 << 20;

/// Gives the pipes that it has, the last one first, and then waits for ever.
struct Pipes(Vec<DuplexStream>);

impl Dial for Pipes {
    fn dial<'a>(&'a mut self, _: &'a pb::Channel, _: Report<'a>) -> Dialing<'a> {
        let pipe = self.0.pop();
        Box::pin(async {
            let Some(pipe) = pipe else { return std::future::pending().await };
            let limit = LEADERS_LIMIT as u64;
            let answer = pb::RegisteredBody {
                epoch: 1,
                max_payload: limit,
                max_queued: limit,
                mismatches: vec![String::new(); SPEC.methods.len()],
                ..Default::default()
            };
            let (stream, reader) = (Stream::Memory(pipe), FrameReader::default());
            Ok::<_, DialError>(Dialed { stream, reader, answer })
        })
    }
}

/// A follower, and its leader's end of the pipe, which holds this many bytes.
async fn follower(options: Options, pipe: usize) -> (Follower, Leader) {
    let (follower, [leader]) = follower_of(options, pipe).await;
    (follower, leader)
}

/// A follower that has these leaders one after the other.
async fn follower_of<const N: usize>(options: Options, pipe: usize) -> (Follower, [Leader; N]) {
    let mut pipes = Vec::new();
    let leaders = std::array::from_fn(|_| {
        let (ours, stream) = tokio::io::duplex(pipe);
        pipes.insert(0, ours);
        Leader { stream, reader: FrameReader::default() }
    });
    let setup = FollowerSetup {
        channel: SPEC.name.to_owned(),
        spec: SPEC,
        options,
        dial: Box::new(Pipes(pipes)),
        liveness: None,
    };
    (Follower::create(setup).await.unwrap(), leaders)
}

struct Leader {
    stream: DuplexStream,
    reader: FrameReader,
}

impl Leader {
    async fn next(&mut self) -> Packet {
        loop {
            if let Some(packet) = self.reader.next().unwrap() {
                return packet;
            }
            assert!(self.stream.read_buf(self.reader.buffer()).await.unwrap() > 0, "closed");
        }
    }

    /// What is wanted of the next request that is of the right kind.
    async fn next_of<T>(&mut self, wanted: impl Fn(Packet) -> Option<T>) -> T {
        let next = async {
            loop {
                if let Some(found) = wanted(self.next().await) {
                    return found;
                }
            }
        };
        tokio::time::timeout(PATIENCE, next).await.expect("the request comes")
    }

    async fn next_subscribe(&mut self) -> u64 {
        self.next_of(|packet| matches!(packet.body, Some(Body::Subscribe(_))).then_some(packet.id))
            .await
    }

    async fn next_invoke(&mut self) -> pb::Invoke {
        self.next_of(|packet| match packet.body {
            Some(Body::Invoke(invoke)) => Some(invoke),
            _ => None,
        })
        .await
    }

    async fn say(&mut self, id: u64, body: impl Into<Body>) {
        for chunk in Frame::new(id, body).chunks() {
            self.stream.write_all(chunk).await.unwrap();
        }
    }
}

/// Longest time that anything may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A waker that uses the follower, as one does that drops the last hold on a task with calls. It counts
/// how often it could, and how often not.
struct UsesFollower(Follower, AtomicUsize, AtomicUsize);

impl UsesFollower {
    fn new(follower: &Follower) -> Arc<Self> {
        Arc::new(Self(follower.clone(), AtomicUsize::new(0), AtomicUsize::new(0)))
    }

    fn counts(&self) -> (usize, usize) {
        (self.1.load(Ordering::Relaxed), self.2.load(Ordering::Relaxed))
    }

    async fn woken(&self, times: usize) {
        let woken = async {
            while self.counts().0 + self.counts().1 < times {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, woken).await.expect("it is woken");
    }
}

impl Wake for UsesFollower {
    fn wake(self: Arc<Self>) {
        let is_free = self.0.shared().state.try_lock().is_ok();
        let count = if is_free { &self.1 } else { &self.2 };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

fn is_overloaded(reply: &Reply) -> bool {
    matches!(reply, Err(Failure::Cluster(error)) if error.kind() == ErrorKind::Overloaded)
}

#[tokio::test]
async fn a_call_that_is_dropped_is_cancelled_though_the_queue_is_full() {
    let options = Options { max_queued: 4096, ..Options::default() };
    let (follower, mut leader) = follower(options, 64).await;
    let args = || Ok::<_, Error>(Bytes::from(vec![0; 100]).into());
    let mut calls = Vec::new();
    loop {
        let mut call = Box::pin(follower.invoke(CALL, args()));
        match poll!(&mut call) {
            Poll::Ready(reply) => break assert!(is_overloaded(&reply), "{reply:?}"),
            Poll::Pending => calls.push(call),
        }
    }
    let count = calls.len();
    assert!(count > 20, "only {count} calls were queued");
    drop(calls);
    let (mut called, mut cancelled) = (Vec::new(), Vec::new());
    let all = async {
        while cancelled.len() < count {
            let Packet { id, body, .. } = leader.next().await;
            match body {
                Some(Body::Invoke(_)) => called.push(id),
                Some(Body::Cancel(_)) => cancelled.push(id),
                _ => {}
            }
        }
    };
    tokio::time::timeout(PATIENCE, all).await.expect("the leader hears of each");
    assert_eq!(called, cancelled);
}

#[tokio::test]
async fn wakers_may_use_the_follower() {
    let options = Options { max_in_flight: 1, ..Options::default() };
    let (follower, mut leader) = follower(options, 4096).await;
    let uses = UsesFollower::new(&follower);
    let waker = Waker::from(Arc::clone(&uses));
    let mut cx = Context::from_waker(&waker);
    let mut subscribe = |key: &'static str| {
        let (answer, mut hears) = oneshot::channel();
        assert!(Pin::new(&mut hears).poll(&mut cx).is_pending());
        let key = Ok(Bytes::from_static(key.as_bytes()));
        (follower.subscribe(WATCH, key, Some(answer)), hears)
    };
    // The leader takes it; it has taken it already.
    let (_taken, hears) = subscribe("taken");
    let id = leader.next_subscribe().await;
    leader.say(id, pb::SubscribeResult { refused: None, topic: 1 }).await;
    uses.woken(1).await;
    hears.await.unwrap().unwrap();
    let (_again, _) = subscribe("taken");
    uses.woken(2).await;
    // It refuses; nobody waits for its answer.
    let (_refused, _hears) = subscribe("refused");
    let id = leader.next_subscribe().await;
    let refused = Some((&Error::closed("the test")).into());
    leader.say(id, pb::SubscribeResult { refused, topic: 0 }).await;
    uses.woken(3).await;
    drop(subscribe("dropped").0);
    uses.woken(4).await;
    // It is not even sent.
    let (answer, mut hears) = oneshot::channel();
    assert!(Pin::new(&mut hears).poll(&mut Context::from_waker(&waker)).is_pending());
    let _unsent = follower.subscribe(WATCH, Err(Error::closed("the test")), Some(answer));
    uses.woken(5).await;
    // The room of a call is given to the next one.
    let mut first = Box::pin(follower.invoke(CALL, Ok(Bytes::new().into())));
    let mut second = pin!(follower.invoke(CALL, Ok(Bytes::new().into())));
    assert!(poll!(&mut first).is_pending());
    assert!(second.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    drop(first);
    uses.woken(6).await;
    assert_eq!(uses.counts(), (6, 0));
}

#[tokio::test(start_paused = true)]
async fn the_deadline_of_a_call_covers_all_tries() {
    let options = Options { call_timeout: Duration::from_secs(10), ..Options::default() };
    let (follower, [mut first, mut second]) = follower_of(options, 4096).await;
    let start = Instant::now();
    let mut call = Box::pin(follower.invoke(CALL_AGAIN, Ok(Bytes::new().into())));
    assert!(poll!(&mut call).is_pending());
    assert_eq!(first.next_invoke().await.timeout_ms, 10_000);
    tokio::time::advance(Duration::from_secs(4)).await;
    drop(first);
    let left = second.next_invoke().await.timeout_ms;
    assert!((5_500..=6_000).contains(&left), "{left} ms are left");
    let late = call.await.unwrap_err().into_error();
    assert_eq!(late.kind(), ErrorKind::Timeout);
    let took = start.elapsed();
    assert!((Duration::from_secs(10)..Duration::from_millis(10_100)).contains(&took), "{took:?}");
}

#[tokio::test]
async fn what_is_over_the_limit_of_the_leader_is_refused_and_never_sent() {
    let (follower, mut leader) = follower(Options::default(), 1 << 16).await;
    let args = || Bytes::from(vec![0; LEADERS_LIMIT + 1]);
    let call = follower.invoke(CALL, Ok(args().into())).await.unwrap_err().into_error();
    let tell = follower.oneway(TELL, Ok(args())).unwrap_err();
    for error in [call, tell] {
        assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}");
    }
    follower.oneway(TELL, Ok(Bytes::new())).unwrap();
    assert_eq!(leader.next_invoke().await.method, TELL as u32);
}

mod room {
    use std::{collections::VecDeque, future::Future as _};

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Call,
        /// A call is polled, with one waker or another.
        Poll(prop::sample::Index, bool),
        Drop(prop::sample::Index),
        Answer(prop::sample::Index),
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let index = any::<prop::sample::Index>;
        prop_oneof![
            4 => Just(Step::Call),
            4 => (index(), any::<bool>()).prop_map(|(at, other)| Step::Poll(at, other)),
            2 => index().prop_map(Step::Drop),
            2 => index().prop_map(Step::Answer),
            1 => (1..6_u64).prop_map(Step::Wait),
        ]
    }

    const MOST: usize = 2;

    async fn try_steps(steps: Vec<Step>) {
        let timeout = Duration::from_secs(10);
        let options = Options { max_in_flight: MOST, call_timeout: timeout, ..Options::default() };
        let (follower, mut leader) = follower(options, 1 << 16).await;
        let uses = UsesFollower::new(&follower);
        let wakers = [Waker::noop().clone(), Waker::from(uses.clone())];
        let (mut calls, mut asked) = (Vec::new(), VecDeque::new());
        for step in steps {
            match step {
                Step::Call => {
                    let mut call = Box::pin(follower.invoke(CALL, Ok(Bytes::new().into())));
                    assert!(call.as_mut().poll(&mut Context::from_waker(&wakers[1])).is_pending());
                    calls.push((Instant::now() + timeout, call));
                }
                Step::Poll(at, other) if !calls.is_empty() => {
                    let at = at.index(calls.len());
                    let mut cx = Context::from_waker(&wakers[usize::from(other)]);
                    if calls[at].1.as_mut().poll(&mut cx).is_ready() {
                        drop(calls.remove(at));
                    }
                }
                Step::Drop(at) if !calls.is_empty() => {
                    drop(calls.remove(at.index(calls.len())));
                }
                Step::Answer(at) if !asked.is_empty() => {
                    let id = asked.remove(at.index(asked.len())).unwrap();
                    leader.say(id, pb::Result::default()).await;
                }
                Step::Wait(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
                _ => {}
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
            while let Poll::Ready(packet) = poll!(pin!(leader.next())) {
                if let Some(Body::Invoke(_)) = packet.body {
                    asked.push_back(packet.id);
                }
            }
            let state = follower.shared().lock();
            assert!(state.requests.calls().count() <= MOST);
            assert!(state.room.waiting() <= calls.len());
        }
        // Each comes to its end in time.
        let end = Instant::now();
        let late = tokio::time::sleep(2 * timeout);
        let all = futures::future::join_all(calls.into_iter().map(|(deadline, call)| async move {
            drop(call.await);
            let late = Instant::now().saturating_duration_since(deadline.max(end));
            assert!(late < Duration::from_millis(100), "{late:?} late");
        }));
        tokio::select! {
            biased;
            _ = all => {}
            () = late => panic!("a call does not end"),
        }
        let state = follower.shared().lock();
        assert_eq!(state.requests.calls().count(), 0);
        assert_eq!(state.room.waiting(), 0);
        let free = state.room.free() + follower.shared().in_flight.available_permits();
        assert_eq!(free, MOST, "room was lost or made up");
        assert_eq!(uses.counts().1, 0, "woken or dropped under the lock");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn no_room_is_lost_whatever_becomes_of_calls(
            steps in prop::collection::vec(step(), 1..40),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .start_paused(true)
                .build()
                .unwrap();
            runtime.block_on(try_steps(steps));
        }
    }
}
