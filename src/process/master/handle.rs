//! The handle that the master gives to its observer.

use std::{pin::Pin, sync::Arc, thread};

use tokio::{
    runtime,
    sync::{broadcast, mpsc, oneshot},
};

use super::{answers::Answer, event::MasterEvent, status::Status};
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
    /// To replace all processes by new ones; answered when the reload that it stands for is done.
    Reload(Answer),
    /// To have so many workers; answered when the new ones are ready, or the surplus is gone.
    Scale(u32, Answer),
    Status(oneshot::Sender<Status>),
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
}

impl Clone for MasterHandle {
    fn clone(&self) -> Self {
        let events = self.events.resubscribe();
        let (requests, hub) = (self.requests.clone(), Arc::clone(&self.hub));
        Self { requests, events, hub, port: self.port }
    }
}

impl MasterHandle {
    pub(super) fn new(
        requests: Requests,
        events: broadcast::Receiver<MasterEvent>,
        hub: Arc<Hub>,
        port: u16,
    ) -> Self {
        Self { requests, events, hub, port }
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

    /// The cluster at this moment.
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

    /// The cluster port, on `127.0.0.1`.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
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
