//! The handle that the master gives to its observer.

use std::{pin::Pin, sync::Arc, thread};

use tokio::{
    runtime,
    sync::{broadcast, mpsc, oneshot},
};

use super::{channels::Channels, event::MasterEvent};
use crate::process::messenger::{Hub, Messenger};

/// How many events wait for an observer that is behind; the oldest are dropped beyond it.
pub(super) const EVENTS: usize = 1024;

/// What is asked of the master from outside of it.
#[derive(Debug)]
pub(super) enum Request {
    /// To stop, with an error where that is the reason; a second one hurries it.
    Stop(Option<String>),
    /// What channels the processes take part in; answered within about a second.
    Inspect(oneshot::Sender<Channels>),
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
