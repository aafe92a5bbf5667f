//! The master's hands: makes events of what the system and the children say, and carries out what
//! the [dispatcher](super::dispatcher) decides.

mod components;

use std::{
    collections::{BTreeMap, VecDeque},
    iter,
    sync::Arc,
    time::Duration,
};

use rustix::process::Signal as Kill;
use tokio::{
    sync::{broadcast, mpsc, oneshot},
    time::{Instant, sleep_until, timeout},
};

#[cfg(feature = "schedule")]
use super::jobs::Jobs;
use super::{
    answers::Answers,
    build::Builds,
    channels::Inspector,
    child::{Child, FromChild, Heard, Launch, Order, Shared, Voice},
    dispatcher::{Action, Dispatcher, Event, Rules, Words},
    event::MasterEvent,
    handle::{EVENTS, MasterHandle, Observe, Request, Requests, start_observer},
    liveness::{Judge, Liveness, Remedy},
    orphans::Orphans,
    panics::Panics,
    proc::is_debugged,
    router::Router,
    signals::{Got, Signals},
};
#[cfg(feature = "schedule")]
use crate::process::schedule::Now;
use crate::{
    error::{Error, ErrorKind, Result},
    process::{
        messenger::Hub,
        name::{Exit, ProcessName},
    },
    protocol::pb::{ClusterReady, Lead, Retire, control::Body},
};

/// How long the last words and lines of a child that is gone are waited for. They are there already
/// unless a process that left its group holds them open.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// How often the memory of the processes is measured, where there is a limit to it.
const MEASURE_EVERY: Duration = Duration::from_secs(5);

/// How many events of children wait; beyond it their links are not read.
const QUEUE: usize = 64;

/// All that a master is made of.
pub(super) struct Setup {
    pub(super) rules: Rules,
    pub(super) launch: Launch,
    pub(super) shared: Shared,
    pub(super) liveness: Liveness,
    /// The environment that jobs are told apart by.
    #[cfg(feature = "schedule")]
    pub(super) environment: Option<String>,
    pub(super) observers: Vec<Observe>,
    pub(super) on_worker_panic: Remedy,
}

/// Runs the whole life of the cluster, on a current-thread runtime, so that all children have the
/// thread as their parent. `requests` are the two ends of the way to ask something of it.
pub(super) async fn supervise(
    setup: Setup,
    requests: (Requests, mpsc::UnboundedReceiver<Request>),
) -> Result<()> {
    let (asks, asked) = requests;
    let stop_timeout = setup.rules.stop_timeout;
    let no_signals = |error| Error::io("can't handle signals", &error);
    let mut signals = Signals::new().map_err(no_signals)?;
    let (hears, heard) = mpsc::channel(QUEUE);
    let tell = broadcast::Sender::new(EVENTS);
    let hub = Hub::new();
    let mut observers = Vec::new();
    for observe in setup.observers {
        let listening = &setup.shared.listening;
        let listening = listening.iter().map(|one| (one.name.clone(), one.address)).collect();
        let (told, hub, port) = (tell.subscribe(), Arc::clone(&hub), setup.shared.port);
        let handle = MasterHandle::new(asks.clone(), told, hub, port, listening);
        let started = start_observer(observe, handle);
        observers.push(started.map_err(|error| Error::io("can't start the observer", &error))?);
    }
    let mut supervisor = Supervisor {
        panics: Panics::new(setup.rules.restart),
        measure_at: setup.rules.recycle.rss.map(|_| Instant::now() + MEASURE_EVERY),
        on_worker_panic: setup.on_worker_panic,
        dispatcher: Dispatcher::new(setup.rules, fastrand::u64(..)),
        since: Instant::now(),
        builds: Builds::new(setup.launch.program.as_deref()),
        answers: Answers::default(),
        launch: setup.launch,
        shared: setup.shared,
        children: BTreeMap::new(),
        router: Router::new(std::process::id(), fastrand::Rng::new()),
        hub: Arc::clone(&hub),
        hears,
        judge: Judge::new(setup.liveness),
        #[cfg(feature = "schedule")]
        jobs: Jobs::new(setup.environment, Now::read()),
        orphans: Orphans::adopt(),
        inspector: Inspector::default(),
        tell,
    };
    let verdict = supervisor.run(&mut signals, heard, asked).await;
    let hurry = async {
        signals.stop().await;
    };
    // Who was abandoned is left in peace.
    let is_child = |pid| supervisor.children.contains_key(&pid);
    supervisor.orphans.end(stop_timeout, is_child, hurry).await;
    drop(supervisor);
    hub.close();
    wait_for_observers(observers, stop_timeout).await;
    verdict.map_err(|text| Error::new(ErrorKind::Process, text))
}

/// Observers get the time to say their last; what they do beyond that is cut off by the exit.
async fn wait_for_observers(observers: Vec<oneshot::Receiver<()>>, limit: Duration) {
    if timeout(limit, futures::future::join_all(observers)).await.is_err() {
        tracing::warn!("an observer has not ended with the cluster; leaving it");
    }
}

struct Supervisor {
    dispatcher: Dispatcher,
    /// When the master began.
    since: Instant,
    builds: Builds,
    answers: Answers,
    launch: Launch,
    shared: Shared,
    /// Those that are not reaped yet, by pid: two processes can have one name for a while.
    children: BTreeMap<u32, Child>,
    router: Router,
    /// The messenger of the program around the master, which the router has for one process more.
    hub: Arc<Hub>,
    hears: mpsc::Sender<Heard>,
    /// Asks the processes about their channels.
    inspector: Inspector,
    judge: Judge,
    #[cfg(feature = "schedule")]
    jobs: Jobs,
    panics: Panics,
    on_worker_panic: Remedy,
    /// When the processes are measured next, where one may be replaced for it.
    measure_at: Option<Instant>,
    orphans: Orphans,
    tell: broadcast::Sender<MasterEvent>,
}

impl Supervisor {
    async fn run(
        &mut self,
        signals: &mut Signals,
        mut heard: mpsc::Receiver<Heard>,
        mut asked: mpsc::UnboundedReceiver<Request>,
    ) -> Result<(), String> {
        let mut verdict = self.dispatch(Event::Begin);
        loop {
            if let Some(verdict) = verdict {
                return verdict;
            }
            // Time must not wait behind what children say without end.
            let deadline = self.next_deadline();
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                verdict = self.tick();
                continue;
            }
            let event = tokio::select! {
                // A signal must not wait behind what children say.
                biased;
                signal = signals.recv() => match signal {
                    Got::Stop(name) => {
                        tracing::info!("got {name}");
                        Some(Event::Stop(None))
                    }
                    Got::Reload => {
                        tracing::info!("got SIGHUP");
                        Some(Event::Reload)
                    }
                    Got::Death => {
                        self.reap();
                        None
                    }
                },
                // The sender lives in `supervise`.
                Some(request) = asked.recv() => self.handle_request(request),
                heard = next_heard(&mut heard, &self.hub) => match heard {
                    Heard::Event(event) => Some(event),
                    Heard::Frame(frame) => {
                        self.handle_frame(frame);
                        None
                    }
                },
                () = sleep_to(deadline) => None,
            };
            verdict = event.and_then(|event| self.dispatch(event));
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let deadlines = [
            self.measure_at,
            self.dispatcher.next_deadline(),
            self.router.next_deadline(),
            self.judge.next_deadline(),
            self.panics.next_deadline(),
            #[cfg(feature = "schedule")]
            self.jobs.next_deadline(),
            self.inspector.next_deadline(),
        ];
        deadlines.into_iter().flatten().min()
    }

    /// Answers what can be answered at once; gives the event where there is more to it.
    fn handle_request(&mut self, request: Request) -> Option<Event> {
        match request {
            Request::Stop(error) => Some(Event::Stop(error)),
            Request::Reload(answer) => {
                self.answers.await_reload(answer);
                Some(Event::Reload)
            }
            Request::Scale(workers, answer) => {
                self.answers.await_scale(workers, answer);
                Some(Event::Scale(workers))
            }
            Request::Status(answer) => {
                // Who asked may have gone.
                let _ = answer.send(self.status());
                None
            }
            Request::Inspect(answer) => {
                for (pid, question) in self.inspector.ask(Instant::now(), answer) {
                    self.say(pid, question);
                }
                None
            }
            #[cfg(feature = "schedule")]
            Request::Jobs(about) => {
                self.ask_jobs(about);
                None
            }
        }
    }

    /// Does what is due.
    fn tick(&mut self) -> Option<Result<(), String>> {
        let now = Instant::now();
        let frames = self.router.handle_tick(now);
        self.say_all(frames);
        #[cfg(feature = "schedule")]
        self.with_jobs(|jobs, now| jobs.handle_tick(now));
        self.inspector.handle_tick(now);
        let verdicts = self.judge.handle_tick(now, is_debugged);
        let hangs = verdicts.into_iter().filter_map(|verdict| self.carry_out_verdict(verdict));
        let mut events: Vec<_> = iter::once(Event::Tick).chain(hangs).collect();
        events.extend(self.measure(now));
        let replace = |pid| Event::Replace { pid, why: "something in it panicked".into() };
        events.extend(self.panics.take_due(now).into_iter().map(replace));
        events.into_iter().find_map(|event| self.dispatch(event))
    }

    /// Has the event decided upon, and does what follows from it, until nothing more does.
    fn dispatch(&mut self, event: Event) -> Option<Result<(), String>> {
        let gone = if let Event::Exited { pid, .. } = event { Some(pid) } else { None };
        let mut events = VecDeque::from([event]);
        let mut verdict = None;
        while let Some(event) = events.pop_front() {
            if let Event::Said { pid, words: Words::Taken { answers_pings: true }, .. } = event {
                self.judge.take(pid);
                self.inspector.watch(pid);
            }
            // Only now, since what it said last was heard after its end.
            if let Event::Exited { pid, .. } = event {
                self.forget(pid);
                self.panics.bury(pid);
            }
            for action in self.dispatcher.handle(Instant::now(), event) {
                match action {
                    Action::Spawn { process, generation, build, workers, lead } => {
                        let order = Order { name: process, generation, build, workers, lead };
                        events.push_back(self.spawn(order));
                    }
                    Action::SayClusterReady { pid } => {
                        self.say(pid, Body::ClusterReady(ClusterReady {}));
                    }
                    Action::GiveLead { pid } => self.say(pid, Body::Lead(Lead {})),
                    Action::Retire { pid, drain } => self.retire(pid, drain),
                    Action::Terminate { pid } => {
                        self.let_go(pid);
                        self.signal(pid, Kill::TERM);
                        // A stopped process takes no other signal until it goes on.
                        self.signal(pid, Kill::CONT);
                    }
                    Action::Kill { pid } => {
                        self.let_go(pid);
                        self.signal(pid, Kill::KILL);
                    }
                    Action::Abandon { pid, text } => tracing::error!(pid, "{text}"),
                    Action::Tell(event) => self.tell(event),
                    Action::OpenBuild { build } => {
                        let opened = self.builds.open(build);
                        let opened = opened.map_err(|error| error.to_string());
                        events.push_back(Event::Opened(opened));
                    }
                    Action::KeepBuild { build } => self.builds.keep(build),
                    Action::Reloading => self.answers.begin_reload(),
                    Action::Reloaded(outcome) => self.answers.end_reload(&outcome),
                    Action::Scaled { workers, outcome } => {
                        self.answers.end_scale(workers, &outcome);
                    }
                    Action::Finish(outcome) => verdict = Some(outcome),
                }
            }
        }
        // Last, so that no other process, not even one that was just started in its place, can have
        // its pid while anybody here knows it by that.
        if let Some(child) = gone.and_then(|pid| self.children.remove(&pid)) {
            child.bury();
        }
        verdict
    }

    fn spawn(&mut self, order: Order) -> Event {
        let (process, hears) = (order.name, self.hears.clone());
        let peers = self.router.peers_of(process);
        match Child::spawn(&self.launch, &self.builds, &self.shared, order, peers, hears) {
            Ok(child) => {
                let pid = child.pid;
                self.children.insert(pid, child);
                Event::Spawned { process, pid }
            }
            Err(error) => Event::SpawnFailed { process, error: error.to_string() },
        }
    }

    /// Tells an agent to give up the lead. One that can't be told has nothing but its end to do so.
    fn retire(&mut self, pid: u32, drain: Duration) {
        self.let_go(pid);
        if self.launch.is_mute(ProcessName::Agent) {
            self.signal(pid, Kill::TERM);
        } else {
            let drain_ms = u64::try_from(drain.as_millis()).unwrap_or(u64::MAX);
            self.say(pid, Body::Retire(Retire { drain_ms }));
            // A stopped process reads nothing until it goes on.
            self.signal(pid, Kill::CONT);
        }
    }

    /// Signals a child, unless it is gone: its number may be another's by now.
    fn signal(&self, pid: u32, signal: Kill) {
        if let Some(child) = self.children.get(&pid) {
            child.signal(signal);
        }
    }

    /// Looks which children are gone. One SIGCHLD may stand for several.
    fn reap(&mut self) {
        for (pid, child) in &mut self.children {
            if let Some((exit, voice)) = child.take_death() {
                tokio::spawn(hear_out(*pid, exit, voice, self.hears.clone()));
            }
        }
        self.orphans.reap(|pid| self.children.contains_key(&pid));
    }
}

/// Collects what a child that is gone said last, and then reports its death.
async fn hear_out(pid: u32, exit: Exit, mut voice: Voice, hears: mpsc::Sender<Heard>) {
    let last_words = async {
        // It ends with the link, and then all that came by it is in `hears`, before the death.
        let _ = (&mut voice.talk).await;
        voice.tail.ended().await;
    };
    if timeout(LAST_WORDS, last_words).await.is_err() {
        voice.talk.abort();
    }
    let tail = voice.tail.lines();
    // The master is gone only when no child is left.
    let _ = hears.send(Heard::Event(Event::Exited { pid, exit, tail })).await;
}

/// What comes next from the children, or from the program around the master; neither waits for the
/// other for long.
async fn next_heard(heard: &mut mpsc::Receiver<Heard>, hub: &Hub) -> Heard {
    tokio::select! {
        // The other end lives in the supervisor.
        Some(heard) = heard.recv() => heard,
        body = hub.next() => Heard::Frame(FromChild {
            process: ProcessName::Master,
            pid: std::process::id(),
            body: Box::new(body),
        }),
    }
}

async fn sleep_to(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
