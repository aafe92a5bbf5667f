//! The inside of a child: its place in the cluster, and the thread that talks to the master.
//!
//! ```text
//!   user's runtime                      thread "cluster-control"
//!   role function ── Say (channel) ──►  link.write           ──► master
//!        ▲                              link.read            ◄── master
//!        └── watch: stop, cluster ready ─┘   SIGTERM, end of the link
//! ```
//!
//! The thread has a runtime of its own, so that user code that blocks its runtime can delay neither
//! SIGTERM nor the end of the link. It never logs: a log line can block on a full pipe, and the one
//! promise of this thread is to be there when the master dies.

use std::{
    io::{self, Write},
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc as std_mpsc,
    },
    thread,
    time::Duration,
};

use tokio::{
    runtime,
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, oneshot, watch},
};

#[cfg(feature = "schedule")]
use super::schedule::Jobs;
use super::{
    control::{CLUSTER_LISTENER, Reader, VERSION, Writer, split},
    inherit::Inheritance,
    inspect,
    lead::{Lead, LeadTeller, lead},
    messenger::Hub,
    name::{Exit, ProcessName},
    panics,
};
use crate::{
    error::{Error, ErrorKind, Result},
    protocol::{
        handshake::Token,
        pb::{Panicked, Pong, Ready, Standby, Taken, control::Body, welcome},
    },
};

/// What [`Agent`](super::Agent) and [`Worker`](super::Worker) share: which process this is, what it
/// inherited, and its way to the master.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) name: ProcessName,
    /// Number of workers, in a worker. 0 in the agent.
    pub(super) count: u32,
    pub(super) generation: u32,
    pub(super) port: u16,
    pub(super) token: Token,
    /// The listener of the cluster port, in the agent.
    pub(super) listener: Option<TcpListener>,
    /// The listening sockets of the application by name, in a worker.
    pub(super) listeners: Vec<(String, TcpListener)>,
    pub(super) hub: Arc<Hub>,
    /// Of use in the agent alone.
    pub(super) lead: Lead,
    stop: watch::Sender<bool>,
    cluster_ready: watch::Receiver<bool>,
    said_ready: AtomicBool,
    /// The last ping, which the user's runtime has to answer.
    asked: watch::Receiver<u64>,
    /// The jobs that it runs.
    #[cfg(feature = "schedule")]
    pub(super) jobs: Arc<Jobs>,
    /// Unbounded, because what it holds is: three things in a life, two answers to each of the
    /// master's pings and one to each time that it inspects, of which few are under way at a time,
    /// a panic a second, and what is said of jobs and of the runs that are offered, which are
    /// bounded.
    say: mpsc::UnboundedSender<Say>,
}

/// A frame for the master, and who waits for it to be written.
#[derive(Debug)]
struct Say {
    body: Body,
    written: oneshot::Sender<()>,
}

impl Place {
    /// Takes the place that was inherited, and starts the thread.
    pub(super) fn take(inheritance: Inheritance) -> Result<Arc<Self>> {
        let Inheritance { link, mut inbox, welcome } = inheritance;
        let malformed = |what: &str| Error::protocol(format!("the master's welcome has {what}"));
        let (name, count) = match welcome.place {
            Some(welcome::Place::Agent(_)) => (ProcessName::Agent, 0),
            Some(welcome::Place::Worker(place)) => (ProcessName::Worker(place.index), place.count),
            None => return Err(malformed("no place")),
        };
        let (mut listener, mut listeners) = (None, Vec::new());
        for listens in &welcome.listeners {
            let fd = inbox.take_fd().ok_or_else(|| malformed("too few descriptors"))?;
            if listens == CLUSTER_LISTENER {
                listener = Some(TcpListener::from(fd));
            } else {
                listeners.push((listens.clone(), TcpListener::from(fd)));
            }
        }
        if name == ProcessName::Agent && listener.is_none() {
            return Err(malformed("no cluster listener"));
        }
        let hub = Hub::new();
        // Nobody else knows the hub yet; what it does not know of is no peers.
        hub.hear(Body::Peers(welcome.peers.unwrap_or_default()));
        let (lead_teller, lead) = lead(welcome.lead);
        let stop = watch::Sender::new(false);
        let (cluster_ready_sender, cluster_ready) = watch::channel(false);
        let (asked_sender, asked) = watch::channel(0);
        let (panics, panicked) = watch::channel(Panicked::default());
        let (say, sayings) = mpsc::unbounded_channel();
        #[cfg(feature = "schedule")]
        let jobs = {
            let say = say.clone();
            Jobs::new(move |body| drop(say_soon(&say, body)), stop.subscribe())
        };
        let place = Self {
            #[cfg(feature = "schedule")]
            jobs,
            name,
            count,
            generation: welcome.generation,
            port: welcome.port.try_into().map_err(|_| malformed("no port"))?,
            token: Token::new(welcome.token)?,
            listener,
            listeners,
            hub: Arc::clone(&hub),
            lead,
            stop: stop.clone(),
            cluster_ready,
            said_ready: AtomicBool::new(false),
            asked,
            say,
        };
        let say = place.say.clone();
        #[cfg(feature = "schedule")]
        let jobs = Arc::clone(&place.jobs);
        start_thread(move || {
            let sigterm = signal(SignalKind::terminate())?;
            let (reader, writer) = split(link, inbox)?;
            Ok(Control {
                reader,
                writer,
                sigterm,
                say,
                sayings,
                hub,
                stop,
                lead: lead_teller,
                cluster_ready: cluster_ready_sender,
                asked: asked_sender,
                panicked,
                #[cfg(feature = "schedule")]
                jobs,
            })
        })
        .map_err(|error| Error::io("can't start the control thread", &error))?;
        panics::count(panics);
        place.say_soon(Body::Taken(Taken {
            version: VERSION,
            answers_pings: true,
            takes_messages: true,
        }));
        Ok(Arc::new(place))
    }

    /// Tells the master that the set-up is done, once.
    pub(super) async fn ready(&self) -> Result<()> {
        if self.said_ready.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let written = self.say_soon(Body::Ready(Ready {}));
        written.await.map_err(|_| {
            Error::new(ErrorKind::Process, format!("{}: the control link is gone", self.name))
        })
    }

    /// Says something, and waits until it is written, or for `limit`.
    pub(super) async fn say_within(&self, body: Body, limit: Duration) {
        // Whether it was heard or not, the process goes on to exit.
        let _ = tokio::time::timeout(limit, self.say_soon(body)).await;
    }

    /// Answers the master's pings for the runtime that it runs on, which is the user's. It does
    /// nothing but when it is asked.
    pub(super) async fn answer_for_runtime(self: Arc<Self>) {
        let mut asked = self.asked.clone();
        while asked.changed().await.is_ok() {
            let seq = *asked.borrow_and_update();
            self.say_soon(Body::Pong(Pong { seq, runtime: true }));
        }
    }

    fn say_soon(&self, body: Body) -> oneshot::Receiver<()> {
        say_soon(&self.say, body)
    }

    pub(super) fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }

    /// Asks this process to stop, as a SIGTERM does.
    pub(super) fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Waits until this agent has the lead. The first wait tells the master that it is needed.
    pub(super) async fn wait_for_lead(&self) -> Result<()> {
        if self.lead.is_given() {
            return Ok(());
        }
        if self.lead.begin_standby() {
            self.say_soon(Body::Standby(Standby {}));
        }
        tokio::select! {
            biased;
            () = self.lead.given() => Ok(()),
            () = self.stopped() => {
                let text = "the agent was asked to stop before it had anything to lead";
                Err(Error::new(ErrorKind::Process, text))
            }
        }
    }

    /// Whether this is an agent that never had the lead.
    pub(super) fn never_led(&self) -> bool {
        self.name == ProcessName::Agent && !self.lead.is_given()
    }

    pub(super) async fn stopped(&self) {
        wait_true(self.stop.subscribe()).await;
    }

    pub(super) async fn cluster_ready(&self) {
        wait_true(self.cluster_ready.clone()).await;
    }
}

fn say_soon(say: &mpsc::UnboundedSender<Say>, body: Body) -> oneshot::Receiver<()> {
    let (written, receiver) = oneshot::channel();
    // A thread that is gone drops `written`, which is what the waiter sees.
    let _ = say.send(Say { body, written });
    receiver
}

async fn wait_true(mut watched: watch::Receiver<bool>) {
    if watched.wait_for(|value| *value).await.is_err() {
        // The control thread is gone only when the process is about to be.
        std::future::pending().await
    }
}

/// Starts the control thread and waits until it has its signal handler and its end of the link.
fn start_thread(set_up: impl FnOnce() -> io::Result<Control> + Send + 'static) -> io::Result<()> {
    let (started, outcome) = std_mpsc::channel();
    thread::Builder::new().name("cluster-control".into()).spawn(move || {
        let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return drop(started.send(Err(error))),
        };
        runtime.block_on(async {
            match set_up() {
                Ok(control) => {
                    drop(started.send(Ok(())));
                    control.run().await;
                }
                Err(error) => drop(started.send(Err(error))),
            }
        });
    })?;
    outcome.recv().unwrap_or_else(|_| Err(io::Error::other("it ended at once")))
}

/// What the control thread owns.
struct Control {
    reader: Reader,
    writer: Writer,
    sigterm: Signal,
    say: mpsc::UnboundedSender<Say>,
    sayings: mpsc::UnboundedReceiver<Say>,
    hub: Arc<Hub>,
    stop: watch::Sender<bool>,
    lead: LeadTeller,
    cluster_ready: watch::Sender<bool>,
    asked: watch::Sender<u64>,
    panicked: watch::Receiver<Panicked>,
    #[cfg(feature = "schedule")]
    jobs: Arc<Jobs>,
}

impl Control {
    async fn run(self) {
        let Self { mut reader, writer, mut sigterm, say, sayings, .. } = self;
        let Self { hub, stop, lead, cluster_ready, asked, panicked, .. } = self;
        #[cfg(feature = "schedule")]
        let jobs = self.jobs;
        // Beside the rest, so that a master that is slow to read is heard nonetheless.
        tokio::spawn(write(writer, sayings, Arc::clone(&hub)));
        tokio::spawn(tell_panics(panicked, say.clone()));
        loop {
            tokio::select! {
                frame = reader.read() => match frame {
                    Ok(Body::ClusterReady(_)) => {
                        hub.open();
                        cluster_ready.send_replace(true);
                    }
                    Ok(Body::Inspect(inspect)) => {
                        let say = say.clone();
                        // On another thread, since it takes locks that the user's threads hold.
                        tokio::task::spawn_blocking(move || {
                            say_soon(&say, Body::Inspected(inspect::answer(inspect)));
                        });
                    }
                    Ok(Body::Ping(ping)) => {
                        say_soon(&say, Body::Pong(Pong { seq: ping.seq, runtime: false }));
                        asked.send_replace(ping.seq);
                    }
                    Ok(Body::Lead(_)) => lead.give(),
                    Ok(Body::Retire(retire)) => lead.retire(Duration::from_millis(retire.drain_ms)),
                    Ok(body) => {
                        // What nobody takes is what a newer master may say to a program that does
                        // not know it.
                        let rest = hub.hear(body);
                        #[cfg(feature = "schedule")]
                        if let Some(body) = rest {
                            jobs.on_frame(body);
                        }
                        #[cfg(not(feature = "schedule"))]
                        drop(rest);
                    }
                    Err(_) => lose_master(),
                },
                Some(()) = sigterm.recv() => drop(stop.send_replace(true)),
            }
        }
    }
}

async fn write(mut writer: Writer, mut sayings: mpsc::UnboundedReceiver<Say>, hub: Arc<Hub>) {
    loop {
        let Say { body, written } = tokio::select! {
            message = hub.next() => {
                write_or_lose(&mut writer, message).await;
                continue;
            }
            Some(say) = sayings.recv() => say,
        };
        // The last words come after the last messages. The hub is closed by now.
        if matches!(body, Body::Ended(_)) {
            while let Some(message) = hub.take() {
                write_or_lose(&mut writer, message).await;
            }
        }
        write_or_lose(&mut writer, body).await;
        // Nobody may wait for it any more.
        let _ = written.send(());
    }
}

/// Tells the master of panics: of the first at once, of those that follow together.
async fn tell_panics(mut panicked: watch::Receiver<Panicked>, say: mpsc::UnboundedSender<Say>) {
    while panicked.changed().await.is_ok() {
        let panics = panicked.borrow_and_update().clone();
        // Gone only with the whole process.
        let _ = say_soon(&say, Body::Panicked(panics)).await;
        tokio::time::sleep(BETWEEN_PANICS).await;
    }
}

/// The shortest time between two frames that tell of panics, however many there are.
const BETWEEN_PANICS: Duration = Duration::from_secs(1);

async fn write_or_lose(writer: &mut Writer, body: Body) {
    if writer.write(body).await.is_err() {
        lose_master();
    }
}

/// Ends this process, and whatever it started that is still in its process group, because the
/// master is gone. Does not return.
fn lose_master() -> ! {
    limit_exit();
    kill_group_mates();
    std::process::exit(Exit::LostMaster.code())
}

/// Ends this process because it is not what it seems: its master is gone already, or is not its
/// parent. Does not return.
pub(super) fn refuse_orphan() -> ! {
    limit_exit();
    // Where stderr is gone with the master, nobody is left to be told.
    let _ = writeln!(
        io::stderr(),
        "the master that this process was started for is gone, or started it through another \
         process; let `Master::builder().program(…)` name this program itself"
    );
    std::process::exit(Exit::LostMaster.code())
}

/// Handlers that run at exit are user code, and user code can hang, as can stderr. Then the process
/// and its group are killed.
fn limit_exit() {
    // Where there is no thread to be had, the exit is as good as it is.
    let _ = thread::Builder::new().name("cluster-exit".into()).spawn(|| {
        thread::sleep(EXIT_LIMIT);
        kill_own_group();
    });
}

/// How long the handlers that run at exit may take once the master is gone.
const EXIT_LIMIT: Duration = Duration::from_secs(1);

fn kill_own_group() {
    // An error means that there is no such group, and so nobody to kill.
    let me = rustix::process::getpid();
    let _ = rustix::process::kill_process_group(me, rustix::process::Signal::KILL);
    let _ = rustix::process::kill_process(me, rustix::process::Signal::KILL);
}

/// Kills the members of this process's group, but not this process, so that its exit code can tell
/// what happened. Reads `/proc` until nobody is left, since one that is seen may be forking.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn kill_group_mates() {
    use rustix::process::{Pid, Signal, getpgrp, getpid, kill_process};

    let me = getpid();
    // A process that does not lead its group was not started by a master, and shares the group.
    if getpgrp() != me {
        return;
    }
    // A mate that is killed leaves the group when it is reaped, which may be late: what counts as
    // new is a pid that was not killed yet.
    let mut killed = std::collections::HashSet::new();
    loop {
        let Ok(processes) = std::fs::read_dir("/proc") else { return };
        let mates: Vec<Pid> = processes
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|pid| group_of(*pid) == Some(me.as_raw_pid()))
            .filter_map(Pid::from_raw)
            .filter(|pid| *pid != me && !killed.contains(pid))
            .collect();
        if mates.is_empty() {
            return;
        }
        for mate in mates {
            // It may be gone already.
            let _ = kill_process(mate, Signal::KILL);
            killed.insert(mate);
        }
    }
}

/// The process group of a process. The system call would do, but its safe wrapper can't express the
/// group 0 that processes from outside of a container have.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn group_of(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may contain anything. After it: state, parent, group.
    stat.rsplit_once(") ")?.1.split(' ').nth(2)?.parse().ok()
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn kill_group_mates() {}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_group_of_a_process_is_read_whatever_it_is() {
        let me = rustix::process::getpid().as_raw_pid();
        assert_eq!(group_of(me), Some(rustix::process::getpgrp().as_raw_pid()));
        assert!(group_of(1).is_some());
        assert_eq!(group_of(-1), None);
    }
}
