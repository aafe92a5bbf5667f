//! The handle that the master gives to its observer.

use std::{net::SocketAddr, pin::Pin, sync::Arc, thread};

use tokio::{
    runtime,
    sync::{broadcast, mpsc, oneshot},
};

use super::{answers::Answer, channels::Channels, event::MasterEvent, status::Status};
#[cfg(feature = "schedule")]
use crate::process::schedule::{JobStatus, RunOutcome};
use crate::{
    error::{Error, ErrorKind, Result},
    process::messenger::{Hub, Messenger},
};

/// Most workers that a cluster can have.
pub(super) const MAX_WORKERS: u32 = 1024;

/// How many events wait for an observer that is behind; the oldest are dropped beyond it.
pub(super) const EVENTS: usize = 1024;

/// What is asked of the master from outside of it.
#[derive(Debug)]
pub(super) enum Request {
    /// To stop, with an error where that is the reason; a second one hurries it.
    Stop(Option<String>),
    /// What channels the processes take part in; answered within about a second.
    Inspect(oneshot::Sender<Channels>),
    /// To replace all processes by new ones; answered when the reload that it stands for is done.
    Reload(Answer),
    /// To have so many workers; answered when the new ones are ready, or the surplus is gone.
    Scale(u32, Answer),
    Status(oneshot::Sender<Status>),
    /// Something about jobs.
    #[cfg(feature = "schedule")]
    Jobs(AboutJobs),
}

/// What is asked about jobs.
#[cfg(feature = "schedule")]
#[derive(Debug)]
pub(super) enum AboutJobs {
    Status(oneshot::Sender<Vec<JobStatus>>),
    /// To run the one of this name.
    Run(String, super::jobs::Answer),
}

/// The way to ask. Unbounded, so that no stop is ever lost; what waits for an answer is bounded by
/// its waiters.
pub(super) type Requests = mpsc::UnboundedSender<Request>;

/// The function given to [`MasterBuilder::observe`](super::MasterBuilder::observe).
pub(super) type Observe = Box<dyn FnOnce(MasterHandle) -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// Shows what happens to the cluster, and can stop it. It exists in the master process alone; see
/// [`MasterBuilder::observe`](super::MasterBuilder::observe). A clone asks the same master; its
/// events start with the next one.
#[derive(Debug)]
pub struct MasterHandle {
    requests: Requests,
    events: broadcast::Receiver<MasterEvent>,
    hub: Arc<Hub>,
    port: u16,
    /// The application's listening sockets.
    listening: Arc<[(String, SocketAddr)]>,
}

impl Clone for MasterHandle {
    fn clone(&self) -> Self {
        let events = self.events.resubscribe();
        let (requests, hub) = (self.requests.clone(), Arc::clone(&self.hub));
        let listening = Arc::clone(&self.listening);
        Self { requests, events, hub, port: self.port, listening }
    }
}

impl MasterHandle {
    pub(super) fn new(
        requests: Requests,
        events: broadcast::Receiver<MasterEvent>,
        hub: Arc<Hub>,
        port: u16,
        listening: Arc<[(String, SocketAddr)]>,
    ) -> Self {
        Self { requests, events, hub, port, listening }
    }

    /// Waits for the next event. `None` after the last process is gone. An observer that is more
    /// than 1,024 events behind misses the oldest.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: no event is lost.
    pub async fn next_event(&mut self) -> Option<MasterEvent> {
        loop {
            match self.events.recv().await {
                Ok(event) => return Some(event),
                Err(broadcast::error::RecvError::Closed) => return None,
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    tracing::warn!(missed, "the observer is behind and misses events");
                }
            }
        }
    }

    /// Starts the ordered stop, as a SIGTERM does; a second call hurries it, as a second SIGTERM
    /// does.
    pub fn stop(&self) {
        // A master that is gone has stopped.
        let _ = self.requests.send(Request::Stop(None));
    }

    /// Starts the ordered stop, after which the master fails with this error.
    pub fn fail(&self, error: impl Into<String>) {
        // As above.
        let _ = self.requests.send(Request::Stop(Some(error.into())));
    }

    /// Replaces the agent and all workers by new processes of the program that is on disk now, as a
    /// SIGHUP does. The program is looked for by the name that the master was started by, so a
    /// symbolic link in it leads to what is newest. The arguments stay.
    ///
    /// First the agent: the new one starts and waits, the old one finishes the calls that it took
    /// and goes, then the new one connects. Then all workers: when all new ones are ready, beside
    /// the old ones, the old ones stop. It is done when they are gone.
    ///
    /// However often it is asked for while a reload runs, one more follows, and answers all of them.
    ///
    /// # Errors
    ///
    /// Where a new process fails or is not ready in time: with its name, why, and its last lines.
    /// The new processes are ended and the old ones go on; where the agent was new already, it is
    /// replaced by one of the old program, in the same order. And where the cluster stops.
    ///
    /// # Cancel safety
    ///
    /// Once polled, the reload happens whether it is waited for or not.
    pub async fn reload(&self) -> Result<()> {
        let (answer, answered) = oneshot::channel();
        self.ask(Request::Reload(answer), answered).await?
    }

    /// Changes the number of workers, 0 to 1,024: adds some with the next indexes, or stops those
    /// with the highest. It is done when the new ones are ready, or the others gone. During a reload
    /// it happens after it.
    ///
    /// Workers that run keep the [`count`](crate::Worker::count) that they were started with; later
    /// ones have the new one.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] for a number that is too large. Where a new worker dies before it is
    /// ready: the number stays, and the worker is started again as any. Where another call asked for
    /// another number meanwhile, which is the one that holds. Where the cluster stops.
    ///
    /// # Cancel safety
    ///
    /// Once polled, it happens whether it is waited for or not.
    pub async fn scale(&self, workers: u32) -> Result<()> {
        check_workers(workers)?;
        let (answer, answered) = oneshot::channel();
        self.ask(Request::Scale(workers, answer), answered).await?
    }

    /// The cluster at this moment, with what its processes say of their channels. A process that does
    /// not answer holds it up for a second, and is told as silent.
    ///
    /// # Errors
    ///
    /// Where the cluster has stopped.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn status(&self) -> Result<Status> {
        let (answer, answered) = oneshot::channel();
        let mut channels = self.ask(Request::Inspect(answer), answered).await?;
        let mut status = self.pulse().await?;
        for process in &mut status.processes {
            let heard = process.pid.and_then(|pid| channels.remove(&pid));
            process.silent = matches!(heard, Some(None));
            process.channels = heard.flatten();
        }
        Ok(status)
    }

    /// The cluster at this moment, of the master's own knowledge: an answer means that its loop turns.
    pub(in crate::process) async fn pulse(&self) -> Result<Status> {
        let (answer, answered) = oneshot::channel();
        self.ask(Request::Status(answer), answered).await
    }

    async fn ask<T>(&self, request: Request, answered: oneshot::Receiver<T>) -> Result<T> {
        let stopped = || Error::new(ErrorKind::Process, "the cluster has stopped");
        self.requests.send(request).map_err(|_| stopped())?;
        answered.await.map_err(|_| stopped())
    }

    /// Sends messages to agent and workers, and gets what they send to the master's pid.
    #[must_use]
    pub fn messenger(&self) -> Messenger {
        Messenger::new(Arc::clone(&self.hub))
    }

    /// The address of a listening socket of the application, as
    /// [`MasterBuilder::listen`](super::MasterBuilder::listen) named it; with the port that the
    /// system chose where that was asked for. `None`: there is none of this name.
    #[must_use]
    pub fn listening(&self, name: &str) -> Option<SocketAddr> {
        let found = self.listening.iter().find(|(known, _)| known == name);
        found.map(|(_, address)| *address)
    }

    /// The cluster port, on `127.0.0.1`.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

#[cfg(feature = "schedule")]
impl MasterHandle {
    /// The jobs of the cluster, by name, with their last runs. There are none once the cluster has
    /// stopped.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only looks.
    pub async fn jobs(&self) -> Vec<JobStatus> {
        let (answer, answered) = oneshot::channel();
        // A master that is gone drops the request, and with it the answer.
        let _ = self.requests.send(Request::Jobs(AboutJobs::Status(answer)));
        answered.await.unwrap_or_default()
    }

    /// Runs a job now, whether it is due, disabled, or for another environment, and waits for the end
    /// of the run. Its overlap policy holds: the outcome may be [`RunOutcome::Skipped`]. Of a job on
    /// all workers it is the first outcome that is no success, when all have run it.
    ///
    /// Who wants to decide by rules of its own when a job runs, can disable it and call this.
    ///
    /// # Errors
    ///
    /// Where there is no such job (the error names those that there are), no ready worker has it, or
    /// the cluster is not ready yet or stops.
    ///
    /// # Cancel safety
    ///
    /// The job runs, even where the future is dropped after its first poll.
    pub async fn run_job(&self, name: impl Into<String>) -> Result<RunOutcome> {
        let (answer, answered) = oneshot::channel();
        // As above.
        let _ = self.requests.send(Request::Jobs(AboutJobs::Run(name.into(), answer)));
        answered.await.unwrap_or_else(|_| Err(Error::closed("the cluster")))
    }
}

/// Checks a number of workers.
pub(super) fn check_workers(workers: u32) -> Result<()> {
    if workers > MAX_WORKERS {
        return Err(Error::config(format!(
            "{workers} workers: a cluster has at most {MAX_WORKERS}"
        )));
    }
    Ok(())
}

/// Runs the observer on a thread and runtime of its own, so that it can't keep the master busy. The
/// receiver resolves when it is done.
pub(super) fn start_observer(
    observe: Observe,
    handle: MasterHandle,
) -> std::io::Result<oneshot::Receiver<()>> {
    let (ends, ended) = oneshot::channel::<()>();
    let fail = FailOnPanic(handle.requests.clone());
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("cluster-observer".into()).spawn(move || {
        let _ends = ends;
        let _fail = fail;
        runtime.block_on(async { observe(handle).await });
    })?;
    Ok(ended)
}

/// A panic of the observer is the end of the cluster: whoever was to stop it is gone.
struct FailOnPanic(Requests);

impl Drop for FailOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            let _ = self.0.send(Request::Stop(Some("the observer panicked".into())));
        }
    }
}
