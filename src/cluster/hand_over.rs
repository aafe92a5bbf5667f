//! Tests of a leader that hands its port over to the next one: both on one listener that outlives
//! them, as the master's does, over real TCP.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    net::TcpListener,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use futures::Stream;
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::sleep,
};

use super::{Change, Cluster, Deliveries, Delivery, Role};
use crate::{
    cluster_client,
    error::{ErrorKind, Result},
    options::Options,
    protocol::handshake::Token,
    server::LocalServer,
};

/// What the real clients talk to, one after the other.
struct Backend {
    clients: AtomicUsize,
    /// The most clients that were connected at a time.
    most: AtomicUsize,
    closes: AtomicUsize,
    /// How often each call ran.
    ran: Mutex<HashMap<u64, u32>>,
    published: Mutex<BTreeMap<u32, u64>>,
    publishes: AtomicUsize,
    withdrawals: AtomicUsize,
    value: watch::Sender<u64>,
    jobs: Mutex<VecDeque<u64>>,
    offered: Notify,
}

impl Backend {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            clients: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            closes: AtomicUsize::new(0),
            ran: Mutex::default(),
            published: Mutex::default(),
            publishes: AtomicUsize::new(0),
            withdrawals: AtomicUsize::new(0),
            value: watch::Sender::new(0),
            jobs: Mutex::default(),
            offered: Notify::new(),
        })
    }

    fn note(&self, call: u64) -> u32 {
        let mut ran = lock(&self.ran);
        let count = ran.entry(call).or_default();
        *count += 1;
        *count
    }

    fn offer(&self, jobs: impl IntoIterator<Item = u64>) {
        lock(&self.jobs).extend(jobs);
        self.offered.notify_waiters();
    }

    async fn next_job(&self) -> u64 {
        loop {
            let offered = self.offered.notified();
            if let Some(job) = lock(&self.jobs).pop_front() {
                return job;
            }
            offered.await;
        }
    }
}

struct Office(Arc<Backend>);

#[cluster_client]
impl Office {
    #[connect]
    async fn connect(backend: Arc<Backend>) -> Result<Self> {
        let now = backend.clients.fetch_add(1, SeqCst) + 1;
        backend.most.fetch_max(now, SeqCst);
        Ok(Self(backend))
    }

    /// `filler` makes the request large.
    #[invoke]
    async fn run(&self, call: u64, millis: u64, filler: Vec<u8>) -> Result<u64> {
        drop(filler);
        self.0.note(call);
        if millis > 0 {
            sleep(Duration::from_millis(millis)).await;
        }
        Ok(call)
    }

    /// Takes long the first time.
    #[invoke(idempotent)]
    async fn run_again(&self, call: u64) -> Result<u32> {
        let count = self.0.note(call);
        if count == 1 {
            sleep(Duration::from_secs(60)).await;
        }
        Ok(count)
    }

    #[invoke(share)]
    async fn shared(&self, call: u64, millis: u64) -> Result<u64> {
        self.0.note(call);
        sleep(Duration::from_millis(millis)).await;
        Ok(call)
    }

    #[invoke(oneway)]
    async fn tell(&self, call: u64) -> Result<()> {
        self.0.note(call);
        Ok(())
    }

    #[publish(key = name)]
    async fn publish(&self, name: u32, value: u64, millis: u64) -> Result<()> {
        sleep(Duration::from_millis(millis)).await;
        lock(&self.0.published).insert(name, value);
        self.0.publishes.fetch_add(1, SeqCst);
        Ok(())
    }

    #[unpublish]
    async fn unpublish(&self, name: u32, _value: u64, _millis: u64) -> Result<()> {
        lock(&self.0.published).remove(&name);
        self.0.withdrawals.fetch_add(1, SeqCst);
        Ok(())
    }

    #[subscribe]
    fn watch(&self) -> impl Stream<Item = u64> {
        futures::stream::unfold(None, {
            let value = self.0.value.clone();
            move |receiver: Option<watch::Receiver<u64>>| {
                let value = value.clone();
                async move {
                    let mut receiver = match receiver {
                        None => value.subscribe(),
                        Some(mut receiver) => {
                            receiver.changed().await.ok()?;
                            receiver
                        }
                    };
                    let now = *receiver.borrow_and_update();
                    Some((now, Some(receiver)))
                }
            }
        })
    }

    #[subscribe(deliver = "one")]
    fn jobs(&self) -> impl Stream<Item = u64> {
        let backend = Arc::clone(&self.0);
        futures::stream::unfold(backend, |backend| async move {
            let job = backend.next_job().await;
            Some((job, backend))
        })
    }

    #[close]
    async fn close(&self) {
        self.0.clients.fetch_sub(1, SeqCst);
        self.0.closes.fetch_add(1, SeqCst);
    }
}

/// What the master has: the listener that every agent inherits.
struct Port {
    listener: TcpListener,
    token: Token,
    backend: Arc<Backend>,
}

/// An agent, which leads the channel and uses it as well.
struct Agent {
    server: Arc<LocalServer>,
    office: Cluster<Office>,
}

impl Port {
    fn bind() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Self { listener, token: Token::random().unwrap(), backend: Backend::new() }
    }

    async fn lead(&self) -> Agent {
        let listener = self.listener.try_clone().unwrap();
        let server = LocalServer::adopt(listener, &self.token, &Options::default()).unwrap();
        let builder = Cluster::<Office>::builder().role(Role::Leader).server(Arc::clone(&server));
        let office = builder.create(Arc::clone(&self.backend)).await.unwrap();
        Agent { server, office }
    }

    async fn follow(&self) -> Cluster<Office> {
        Cluster::<Office>::builder()
            .role(Role::Follower)
            .port(self.listener.local_addr().unwrap().port())
            .token(self.token.secret().to_vec())
            .join()
            .await
            .unwrap()
    }
}

impl Agent {
    async fn hand_over(&self, drain: Duration) {
        self.server.hand_over(drain).await;
    }
}

const LONG: Duration = Duration::from_secs(30);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < LONG, "{what} never came");
        sleep(Duration::from_millis(2)).await;
    }
}

/// Calls in a loop until it is stopped. How many calls there were.
fn call_in_a_loop(
    office: Cluster<Office>,
    number: u64,
    next: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
) -> JoinHandle<(u64, Vec<u64>)> {
    tokio::spawn(async move {
        let mut count = 0;
        let mut told = Vec::new();
        while !stop.load(SeqCst) {
            let call = next.fetch_add(1, SeqCst);
            // Every eighth sends requests in parts, which small ones overtake.
            let filler = vec![7; if number.is_multiple_of(8) { 200_000 } else { 0 }];
            assert_eq!(office.run(call, number % 3, filler).await.unwrap(), call);
            count += 1;
            let note = next.fetch_add(1, SeqCst);
            match office.tell(note).await {
                Ok(()) => told.push(note),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Disconnected, "{error}"),
            }
        }
        (count, told)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_and_none_runs_twice() {
    let port = Port::bind();
    let mut agent = port.lead().await;
    let (next, stop) = (Arc::new(AtomicU64::new(1)), Arc::new(AtomicBool::new(false)));
    let mut callers = Vec::new();
    let mut offices = Vec::new();
    for number in 0_u64..64 {
        if number.is_multiple_of(8) {
            offices.push(port.follow().await);
        }
        let office = offices.last().unwrap().clone();
        callers.push(call_in_a_loop(office, number, Arc::clone(&next), Arc::clone(&stop)));
    }
    for _ in 0..4 {
        let before = lock(&port.backend.ran).len();
        until("more calls", || lock(&port.backend.ran).len() > before + 200).await;
        agent.hand_over(LONG).await;
        assert_eq!(port.backend.clients.load(SeqCst), 0, "the real client is closed");
        assert_eq!(Cluster::role(&agent.office), Role::Leader);
        agent = port.lead().await;
    }
    let before = lock(&port.backend.ran).len();
    until("more calls", || lock(&port.backend.ran).len() > before + 200).await;
    stop.store(true, SeqCst);
    let mut calls = 0;
    let mut told = Vec::new();
    for caller in callers {
        let (count, notes) = caller.await.unwrap();
        calls += count;
        told.extend(notes);
    }
    assert!(calls >= 64);
    until("what was told", || told.iter().all(|note| lock(&port.backend.ran).contains_key(note)))
        .await;
    let ran = lock(&port.backend.ran);
    let twice: Vec<_> = ran.iter().filter(|(_, count)| **count != 1).collect();
    assert!(twice.is_empty(), "{twice:?} of {}", ran.len());
    assert_eq!(port.backend.most.load(SeqCst), 1, "never two real clients");
    assert_eq!(port.backend.closes.load(SeqCst), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_takes_longer_than_the_drain_is_lost_and_the_rest_is_answered() {
    let port = Port::bind();
    let agent = port.lead().await;
    let office = port.follow().await;
    let spawn = |call: u64, millis: u64| {
        let office = office.clone();
        tokio::spawn(async move { office.run(call, millis, Vec::new()).await })
    };
    let (short, long) = (spawn(1, 400), spawn(2, 60_000));
    let again = tokio::spawn({
        let office = office.clone();
        async move { office.run_again(3).await }
    });
    let shared: Vec<_> = (0..2)
        .map(|_| {
            let office = office.clone();
            tokio::spawn(async move { office.shared(4, 300).await })
        })
        .collect();
    until("the calls", || (1..=4).all(|call| lock(&port.backend.ran).contains_key(&call))).await;
    agent.hand_over(Duration::from_secs(2)).await;
    assert_eq!(short.await.unwrap().unwrap(), 1);
    assert_eq!(long.await.unwrap().unwrap_err().kind(), ErrorKind::LeaderLost);
    for shared in shared {
        assert_eq!(shared.await.unwrap().unwrap(), 4);
    }
    assert!(!again.is_finished());
    // What is asked for while nobody leads waits for the next.
    let late = spawn(5, 0);
    until("the loss", || Cluster::down(&office).is_some()).await;
    let _agent = port.lead().await;
    assert_eq!(again.await.unwrap().unwrap(), 2, "an idempotent call runs again");
    assert_eq!(late.await.unwrap().unwrap(), 5);
    let ran = lock(&port.backend.ran);
    assert!([1, 2, 4, 5].iter().all(|call| ran[call] == 1), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_withdrawn_and_everything_is_published_at_the_next_leader() {
    let port = Port::bind();
    let agent = port.lead().await;
    let offices = [port.follow().await, port.follow().await];
    for (name, office) in (0..).zip(&offices) {
        office.publish(name, 1, 0).await.unwrap();
    }
    agent.office.publish(9, 1, 0).await.unwrap();
    // One is on its way while the leader goes, and another one of the same owner behind it.
    let publishing: Vec<_> = [(2, 300), (3, 0)]
        .map(|(name, millis)| {
            let office = offices[0].clone();
            tokio::spawn(async move { office.publish(name, 1, millis).await })
        })
        .into();
    sleep(Duration::from_millis(100)).await;
    agent.hand_over(LONG).await;
    for publish in publishing {
        publish.await.unwrap().unwrap();
    }
    let backend = &port.backend;
    let names = || lock(&backend.published).keys().copied().collect::<Vec<_>>();
    assert_eq!(names(), [0, 1, 2, 3, 9]);
    let before = backend.publishes.load(SeqCst);
    drop(agent);
    let agent = port.lead().await;
    until("the replays", || backend.publishes.load(SeqCst) >= before + 4).await;
    assert_eq!(backend.withdrawals.load(SeqCst), 0);
    // The next leader knows whose they are.
    let [first, second] = offices;
    Cluster::close(first).await;
    until("the withdrawal", || names() == [1, 9]).await;
    // A follower that goes during a hand-over is withdrawn by the leader that goes.
    let held = tokio::spawn({
        let office = port.follow().await;
        async move { office.run(70, 1_000, Vec::new()).await }
    });
    until("the call", || lock(&backend.ran).contains_key(&70)).await;
    let server = Arc::clone(&agent.server);
    let leaving = tokio::spawn(async move { server.hand_over(LONG).await });
    Cluster::close(second).await;
    leaving.await.unwrap();
    held.await.unwrap().unwrap();
    assert_eq!(backend.closes.load(SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_is_stale_and_live_again_and_misses_no_value() {
    let port = Port::bind();
    let mut agent = port.lead().await;
    let office = port.follow().await;
    let mut values = office.watch();
    assert_eq!(*values.ready().await.unwrap(), 0);
    let mut seen = vec![*values.current().unwrap()];
    let mut next = 0;
    for _ in 0..3 {
        agent.hand_over(LONG).await;
        // Nobody leads: the value changes, and the next leader has it.
        next += 1;
        port.backend.value.send_replace(next);
        loop {
            match tokio::time::timeout(LONG, values.changed()).await.unwrap() {
                Change::Value { value, .. } => seen.push(*value),
                Change::Stale { cause, .. } => {
                    assert_eq!(cause.kind(), ErrorKind::Disconnected, "{cause}");
                    break;
                }
                Change::Live { .. } => {}
                Change::Closed { cause } => panic!("{cause}"),
            }
        }
        assert!(matches!(values.state(), super::State::Stale { .. }));
        agent = port.lead().await;
        while seen.last() != Some(&next) {
            if let Change::Value { value, .. } =
                tokio::time::timeout(LONG, values.changed()).await.unwrap()
            {
                seen.push(*value);
            }
        }
        assert!(matches!(values.state(), super::State::Live), "{:?}", values.state());
        next += 1;
        port.backend.value.send_replace(next);
        assert!(matches!(
            tokio::time::timeout(LONG, values.changed()).await.unwrap(),
            Change::Value { value, missed: 0 } if *value == next
        ));
        seen.push(next);
    }
    assert!(seen.is_sorted(), "{seen:?}");
    seen.dedup();
    assert_eq!(seen, (0..=next).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cause_says_that_the_leader_is_being_replaced() {
    let port = Port::bind();
    let agent = port.lead().await;
    let office = port.follow().await;
    let mut values = office.watch();
    values.ready().await.unwrap();
    while !matches!(values.changed().await, Change::Value { .. }) {}
    agent.hand_over(LONG).await;
    match tokio::time::timeout(LONG, values.changed()).await.unwrap() {
        Change::Stale { cause, .. } => {
            assert!(cause.to_string().contains("being replaced"), "{cause}");
        }
        other => panic!("{other:?}"),
    }
    assert!(values.current().is_some());
}

/// Takes what is there for a moment.
async fn take(jobs: &mut Deliveries<u64>, count: usize) -> Vec<Delivery<u64>> {
    let mut taken = Vec::new();
    while taken.len() < count {
        taken.push(tokio::time::timeout(LONG, jobs.recv()).await.unwrap().unwrap());
    }
    taken
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_work_item_stays_with_the_subscriber_that_has_it() {
    let port = Port::bind();
    let agent = port.lead().await;
    let office = port.follow().await;
    let mut jobs = office.jobs();
    port.backend.offer(1..=40);
    let mut held = take(&mut jobs, 3).await;
    Delivery::ack(held.remove(0));
    agent.hand_over(LONG).await;
    let _agent = port.lead().await;
    // What it held comes again only where it is given back; all else comes once.
    let given_back = *held[0];
    drop(held.remove(0));
    Delivery::ack(held.remove(0));
    let mut seen = vec![1, 2, 3];
    let mut again = Vec::new();
    while seen.len() < 40 || again.is_empty() {
        for job in take(&mut jobs, 1).await {
            match Delivery::redelivered(&job) {
                true => again.push(*job),
                false => seen.push(*job),
            }
            Delivery::ack(job);
        }
    }
    seen.sort_unstable();
    assert_eq!(seen, (1..=40).collect::<Vec<_>>());
    assert_eq!(again, [given_back]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_comes_while_nobody_accepts_waits_for_the_next_leader() {
    let port = Port::bind();
    let agent = port.lead().await;
    agent.hand_over(LONG).await;
    let refused = Cluster::<Office>::builder()
        .channel("late")
        .role(Role::Leader)
        .server(Arc::clone(&agent.server))
        .create(Arc::clone(&port.backend))
        .await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Closed);
    let create = port.follow();
    let lead = async {
        sleep(Duration::from_millis(300)).await;
        port.lead().await
    };
    let (office, _agent) = tokio::join!(create, lead);
    assert_eq!(office.run(1, 0, Vec::new()).await.unwrap(), 1);
    assert_eq!(port.backend.most.load(SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_close_after_a_hand_over_withdraws_nothing() {
    let port = Port::bind();
    let agent = port.lead().await;
    agent.office.publish(1, 1, 0).await.unwrap();
    let server = Arc::clone(&agent.server);
    let slow = tokio::spawn({
        let office = port.follow().await;
        async move { office.run(1, 500, Vec::new()).await }
    });
    until("the call", || !lock(&port.backend.ran).is_empty()).await;
    let leaving = tokio::spawn(async move { server.hand_over(LONG).await });
    until("the hand-over", || Cluster::down(&agent.office).is_some()).await;
    Cluster::close(agent.office).await;
    leaving.await.unwrap();
    slow.await.unwrap().unwrap();
    assert_eq!(port.backend.withdrawals.load(SeqCst), 0);
    assert_eq!(port.backend.closes.load(SeqCst), 1);
}
