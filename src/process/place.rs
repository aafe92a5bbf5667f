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

mod lost;
mod thread;

use std::{
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot, watch},
};

pub(super) use self::lost::refuse_orphan;
use self::thread::{Control, start_thread};

#[cfg(feature = "schedule")]
use super::schedule::Jobs;
use super::{
    control::{CLUSTER_LISTENER, VERSION, split},
    inherit::Inheritance,
    lead::{Lead, lead},
    messenger::Hub,
    name::ProcessName,
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
    /// Whether it was asked to stop in its set-up while it waited for a leader.
    waited_in_vain: AtomicBool,
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
            waited_in_vain: AtomicBool::new(false),
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

    /// Whether it was asked to stop before that came what it waited for: a leader, or the lead.
    pub(super) fn waited_in_vain(&self) -> bool {
        let never_led = self.name == ProcessName::Agent && !self.lead.is_given();
        never_led || self.waited_in_vain.load(Ordering::Relaxed)
    }

    /// Resolves where this process is asked to stop in its set-up: the leader that it waits for may
    /// never come, and its function does not look at the stop yet.
    pub(super) async fn stopped_in_set_up(&self) -> Error {
        if self.said_ready.load(Ordering::Relaxed) {
            return std::future::pending().await;
        }
        self.stopped().await;
        self.waited_in_vain.store(true, Ordering::Relaxed);
        let text = format!("{} was asked to stop before it had a leader to follow", self.name);
        Error::new(ErrorKind::Process, text)
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
