//! The master's hands: makes events of what the system and the children say, and carries out what
//! the [dispatcher](super::dispatcher) decides.

use std::{collections::BTreeMap, collections::VecDeque, io, time::Duration};

use rustix::process::Signal as Kill;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{broadcast, mpsc, oneshot},
    time::{Instant, sleep_until, timeout},
};

use super::{
    child::{Child, Launch, Shared},
    dispatcher::{Action, Dispatcher, Event, Rules},
    event::MasterEvent,
    handle::{EVENTS, MasterHandle, Observe, StopRequest, start_observer},
};
use crate::{
    error::{Error, ErrorKind, Result},
    process::name::{Exit, ProcessName},
    protocol::pb::{ClusterReady, control::Body},
};

/// How long the last words and lines of a child that is gone are waited for. They are there already
/// unless a process that left its group holds them open.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// How many events of children wait; beyond it their links are not read.
const QUEUE: usize = 64;

/// All that a master is made of.
pub(super) struct Setup {
    pub(super) rules: Rules,
    pub(super) launch: Launch,
    pub(super) shared: Shared,
    pub(super) observe: Option<Observe>,
}

/// Runs the whole life of the cluster, on a current-thread runtime, so that all children have the
/// thread as their parent. `stop` is the way to ask it to stop from outside.
pub(super) async fn supervise(
    setup: Setup,
    stop: (mpsc::UnboundedSender<StopRequest>, mpsc::UnboundedReceiver<StopRequest>),
) -> Result<()> {
    let (stop_sender, stop_receiver) = stop;
    let stop_timeout = setup.rules.stop_timeout;
    let no_signals = |error| Error::io("can't handle signals", &error);
    let deaths = signal(SignalKind::child()).map_err(no_signals)?;
    let mut signals = (Stops::new().map_err(no_signals)?, deaths);
    let (events_sender, events) = mpsc::channel(QUEUE);
    let (tell, told) = broadcast::channel(EVENTS);
    let observer = match setup.observe {
        Some(observe) => {
            let handle = MasterHandle::new(stop_sender.clone(), told, setup.shared.port);
            let started = start_observer(observe, handle);
            Some(started.map_err(|error| Error::io("can't start the observer", &error))?)
        }
        None => None,
    };
    let mut supervisor = Supervisor {
        dispatcher: Dispatcher::new(setup.rules),
        launch: setup.launch,
        shared: setup.shared,
        children: BTreeMap::new(),
        events: events_sender,
        tell,
    };
    let verdict = supervisor.run(&mut signals, events, stop_receiver).await;
    drop(supervisor);
    wait_for_observer(observer, stop_timeout).await;
    verdict.map_err(|text| Error::new(ErrorKind::Process, text))
}

/// The observer gets the time to say its last; what it does beyond that is cut off by the exit.
async fn wait_for_observer(observer: Option<oneshot::Receiver<()>>, limit: Duration) {
    if let Some(observer) = observer
        && timeout(limit, observer).await.is_err()
    {
        tracing::warn!("the observer has not ended with the cluster; leaving it");
    }
}

struct Supervisor {
    dispatcher: Dispatcher,
    launch: Launch,
    shared: Shared,
    /// Those that are not reaped yet.
    children: BTreeMap<ProcessName, Child>,
    events: mpsc::Sender<Event>,
    tell: broadcast::Sender<MasterEvent>,
}

impl Supervisor {
    async fn run(
        &mut self,
        (stops, deaths): &mut (Stops, Signal),
        mut events: mpsc::Receiver<Event>,
        mut stop: mpsc::UnboundedReceiver<StopRequest>,
    ) -> Result<(), String> {
        let mut verdict = self.dispatch(Event::Begin);
        loop {
            if let Some(verdict) = verdict {
                return verdict;
            }
            let deadline = self.dispatcher.next_deadline();
            let event = tokio::select! {
                // A signal must not wait behind what children say.
                biased;
                signal = stops.recv() => {
                    tracing::info!("got {signal}");
                    Event::Stop(None)
                }
                // The sender lives in `supervise`.
                Some(request) = stop.recv() => Event::Stop(request),
                Some(()) = deaths.recv() => {
                    self.reap();
                    continue;
                }
                Some(event) = events.recv() => event,
                () = sleep_to(deadline) => Event::Tick,
            };
            verdict = self.dispatch(event);
        }
    }

    /// Has the event decided upon, and does what follows from it, until nothing more does.
    fn dispatch(&mut self, event: Event) -> Option<Result<(), String>> {
        let mut events = VecDeque::from([event]);
        let mut verdict = None;
        while let Some(event) = events.pop_front() {
            for action in self.dispatcher.handle(Instant::now(), event) {
                match action {
                    Action::Spawn { process, generation } => {
                        events.push_back(self.spawn(process, generation));
                    }
                    Action::SayClusterReady { process } => {
                        if let Some(child) = self.children.get(&process) {
                            child.say(Body::ClusterReady(ClusterReady {}));
                        }
                    }
                    Action::Terminate { process, pid } => {
                        self.signal(process, pid, Kill::TERM);
                        // A stopped process takes no other signal until it goes on.
                        self.signal(process, pid, Kill::CONT);
                    }
                    Action::Kill { process, pid } => self.signal(process, pid, Kill::KILL),
                    Action::Tell(event) => {
                        log(&event);
                        // There may be no observer.
                        let _ = self.tell.send(event);
                    }
                    Action::Finish(outcome) => verdict = Some(outcome),
                }
            }
        }
        verdict
    }

    fn spawn(&mut self, process: ProcessName, generation: u32) -> Event {
        let events = self.events.clone();
        match Child::spawn(&self.launch, &self.shared, process, generation, events) {
            Ok(child) => {
                let pid = child.pid;
                self.children.insert(process, child);
                Event::Spawned { process, pid }
            }
            Err(error) => Event::SpawnFailed { process, error: error.to_string() },
        }
    }

    /// Signals a child, unless it is gone: its number may be another's by now.
    fn signal(&self, process: ProcessName, pid: u32, signal: Kill) {
        if let Some(child) = self.children.get(&process).filter(|child| child.pid == pid) {
            child.signal(signal);
        }
    }

    /// Looks which children are gone. One SIGCHLD may stand for several.
    fn reap(&mut self) {
        let gone: Vec<_> = self
            .children
            .iter_mut()
            .filter_map(|(process, child)| Some((*process, child.reap()?)))
            .collect();
        for (process, exit) in gone {
            if let Some(child) = self.children.remove(&process) {
                tokio::spawn(bury(child, process, exit, self.events.clone()));
            }
        }
    }
}

/// Collects what a child that is gone said last, and then reports its death.
async fn bury(mut child: Child, process: ProcessName, exit: Exit, events: mpsc::Sender<Event>) {
    let pid = child.pid;
    let last_words = async {
        // It ends with the link, and then all that came by it is in `events`, before the death.
        let _ = (&mut child.talk).await;
        if let Some(tail) = &mut child.tail {
            tail.ended().await;
        }
    };
    if timeout(LAST_WORDS, last_words).await.is_err() {
        child.talk.abort();
    }
    let tail = child.tail.as_ref().map(|tail| tail.lines()).unwrap_or_default();
    // The master is gone only when no child is left.
    let _ = events.send(Event::Exited { process, pid, exit, tail }).await;
}

async fn sleep_to(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// The signals that ask the master to stop.
struct Stops {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
}

impl Stops {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    /// Waits for one of them, and gives its name. Cancel safe.
    async fn recv(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.quit.recv() => "SIGQUIT",
        }
    }
}

fn log(event: &MasterEvent) {
    match event {
        MasterEvent::Started { process, pid, generation } => {
            tracing::info!(pid, generation, "{process} started");
        }
        MasterEvent::Ready { process, pid } => tracing::info!(pid, "{process} is ready"),
        MasterEvent::ClusterReady { port } => tracing::info!(port, "the cluster is ready"),
        MasterEvent::Died(death) => match death.restart_in {
            Some(pause) => tracing::error!("{death}; starting it again in {pause:?}"),
            None => tracing::error!("{death}"),
        },
        MasterEvent::Stopping => tracing::info!("stopping"),
        MasterEvent::Stopped { process, pid, exit: Exit::Clean } => {
            tracing::info!(pid, "{process} stopped");
        }
        MasterEvent::Stopped { process, pid, exit } => {
            tracing::warn!(pid, "{process} stopped with {exit}");
        }
    }
}
