//! The control thread of a child: what the master says, what is said to it, and SIGTERM.

use std::{
    io,
    sync::{Arc, mpsc as std_mpsc},
    thread,
    time::Duration,
};

use tokio::{
    runtime,
    signal::unix::Signal,
    sync::{mpsc, watch},
};

use super::{Say, lost::lose_master, say_soon};
#[cfg(feature = "schedule")]
use crate::process::schedule::Jobs;
use crate::{
    process::{
        control::{Reader, Writer},
        inspect,
        lead::LeadTeller,
        messenger::Hub,
    },
    protocol::pb::{Panicked, Pong, control::Body},
};

/// Starts the control thread and waits until it has its signal handler and its end of the link.
pub(super) fn start_thread(
    set_up: impl FnOnce() -> io::Result<Control> + Send + 'static,
) -> io::Result<()> {
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
pub(super) struct Control {
    pub(super) reader: Reader,
    pub(super) writer: Writer,
    pub(super) sigterm: Signal,
    pub(super) say: mpsc::UnboundedSender<Say>,
    pub(super) sayings: mpsc::UnboundedReceiver<Say>,
    pub(super) hub: Arc<Hub>,
    pub(super) stop: watch::Sender<bool>,
    pub(super) lead: LeadTeller,
    pub(super) cluster_ready: watch::Sender<bool>,
    pub(super) asked: watch::Sender<u64>,
    pub(super) panicked: watch::Receiver<Panicked>,
    #[cfg(feature = "schedule")]
    pub(super) jobs: Arc<Jobs>,
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
