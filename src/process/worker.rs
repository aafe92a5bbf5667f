//! A worker, as its own function sees it.

use std::sync::Arc;

use tokio::runtime::Handle;

#[cfg(feature = "schedule")]
use super::schedule::{Job, Run, Schedule, job_fn};
use super::{
    joining::Joining,
    messenger::{Messenger, Peer, Peers},
    name::ProcessName,
    place::Place,
};
use crate::{
    cluster::{Builder, ClusterClient, Role},
    error::{Error, Result},
};

/// A worker's side of the cluster: given to the function that was passed to
/// [`MasterBuilder::worker`](super::MasterBuilder::worker). A clone is the same worker.
///
/// Workers are started when the agent is ready. The function's life is the process's life: when it
/// returns, what it published is withdrawn, whoever still holds its clients.
///
/// # Examples
///
/// ```
/// use cluster_client::{Result, Worker};
///
/// async fn worker(worker: Worker) -> Result<()> {
///     let name = format!("worker {} of {}", worker.index(), worker.count());
///     worker.ready().await?;
///     worker.shutdown().await;
///     println!("{name} stops");
///     Ok(())
/// }
/// ```
#[derive(Debug, Clone)]
pub struct Worker {
    place: Arc<Place>,
}

impl Worker {
    pub(super) fn new(place: Arc<Place>) -> Self {
        Self { place }
    }

    /// Follows a channel that the agent leads: the client's methods, without its options and
    /// credentials.
    ///
    /// # Errors
    ///
    /// As [`Builder::join`]; and [`ErrorKind::Process`](crate::ErrorKind::Process) where the worker is
    /// asked to stop before it was [`ready`](Self::ready), and no leader is there. To return this
    /// error is a stop like any other.
    ///
    /// # Cancel safety
    ///
    /// Dropping it gives up; nothing stays.
    pub fn cluster<T: ClusterClient>(&self) -> Joining<T> {
        let builder = Builder::new()
            .role(Role::Follower)
            .port(self.place.port)
            .token(self.place.token.secret().to_vec());
        Joining::follow(builder, Arc::clone(&self.place))
    }

    /// A listening socket that the master has bound, by its name in
    /// [`MasterBuilder::listen`](super::MasterBuilder::listen). All workers accept on the same
    /// socket; each call gives another descriptor of it. While none accepts, connections wait in its
    /// backlog. Dropping it closes nothing for others.
    ///
    /// A worker that stops accepting, as it should when it shuts down, leaves what waits to the
    /// others; what it accepted already is its own to finish.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use cluster_client::{Result, Worker};
    /// # async fn worker(worker: Worker) -> Result<()> {
    /// let listener = worker.listener("http")?;
    /// println!("worker {} accepts on {:?}", worker.index(), listener.local_addr());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) for a name that the master does not have,
    /// naming those that it has, and outside of a tokio runtime;
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) where the system gives no descriptor.
    pub fn listener(&self, name: &str) -> Result<tokio::net::TcpListener> {
        let listeners = &self.place.listeners;
        let Some((_, listener)) = listeners.iter().find(|(known, _)| known == name) else {
            let names: Vec<_> = listeners.iter().map(|(known, _)| format!("{known:?}")).collect();
            let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            return Err(Error::config(format!(
                "the master has no listener {name:?} (it has: {names}); name it with \
                 `Master::builder().listen({name:?}, …)`"
            )));
        };
        if Handle::try_current().is_err() {
            return Err(Error::config(format!(
                "listener {name:?} belongs to a runtime; ask for it within the worker's function"
            )));
        }
        let io = |error| Error::io(format_args!("listener {name:?} can't be used"), &error);
        let socket = listener.try_clone().map_err(io)?;
        socket.set_nonblocking(true).map_err(io)?;
        tokio::net::TcpListener::from_std(socket).map_err(io)
    }

    /// Takes part in a job: when it is due, the master offers the run to one of the workers that have
    /// scheduled it and are ready, or to all of them, and they run the closure, on the runtime that
    /// this was called on. Best called in the set-up, before [`ready`](Self::ready); where all workers
    /// run the same function, all of them have the job.
    ///
    /// Nothing runs before the whole cluster is ready, and nothing starts when the stop has begun.
    /// A worker that is asked to stop takes no more runs, and when its function has returned, the
    /// process waits for those that it has, until the master's `stop_timeout` cuts them off. One that
    /// wants to end sooner waits for [`shutdown`](Self::shutdown) beside its work.
    ///
    /// *At most once*: a worker claims a run before it starts, and a run whose worker died is
    /// recorded as lost and not run again, unless the job is to be
    /// [redelivered](crate::Schedule::redeliver). The master has the table of jobs and runs, so that
    /// the death of any other process forgets nothing; see [`MasterHandle::jobs`]. Where workers
    /// describe a job differently, as the old and the new ones of a reload may, the description of
    /// the one that was started last holds. A cluster has at most 1,000 jobs.
    ///
    /// What comes of each run is logged in a span `schedule` with its job and id: success at level
    /// debug, anything else as an error.
    ///
    /// [`MasterHandle::jobs`]: crate::MasterHandle::jobs
    ///
    /// # Examples
    ///
    /// ```
    /// use std::{sync::Arc, time::Duration};
    /// use cluster_client::{Misfire, Result, Run, Schedule, Worker};
    ///
    /// # struct Database;
    /// # impl Database {
    /// #     async fn open() -> Result<Self> { Ok(Self) }
    /// #     async fn write_report(&self, _: u64) -> Result<()> { Ok(()) }
    /// # }
    /// async fn worker(worker: Worker) -> Result<()> {
    ///     let database = Arc::new(Database::open().await?);
    ///     worker.schedule(
    ///         Schedule::cron("report", "0 0 3 * * *")?.time_zone("Europe/Berlin")?,
    ///         move |run: Run| {
    ///             let database = Arc::clone(&database);
    ///             async move { database.write_report(run.id()).await }
    ///         },
    ///     )?;
    ///     worker.ready().await?;
    ///     worker.shutdown().await;
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// Where the description has a mistake, this worker has scheduled a job of the name already, or
    /// it is called outside of a tokio runtime. The error names the job.
    #[cfg(feature = "schedule")]
    pub fn schedule<F, Fut, E>(&self, schedule: Schedule, job: F) -> Result<Job>
    where
        F: Fn(Run) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
    {
        self.place.jobs.add(&schedule, job_fn(job))
    }

    /// Tells the master that the set-up is done. Calling it again does nothing.
    ///
    /// # Errors
    ///
    /// Where the control link is gone; the process ends then anyway.
    ///
    /// # Cancel safety
    ///
    /// The master is told even where the future is dropped after its first poll.
    pub async fn ready(&self) -> Result<()> {
        self.place.ready().await
    }

    /// Waits until the process is to stop: the master says so, or it got a SIGTERM. The agent lives
    /// on until all workers are gone. Return `Ok` from the worker's function soon after; what is not
    /// gone within the master's `stop_timeout` is killed.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe; it resolves for every waiter, now and later.
    pub async fn shutdown(&self) {
        self.place.stopped().await;
    }

    /// Waits until the whole cluster is up: the agent and all workers were ready once. Nothing in
    /// the set-up may wait for it, since it comes after [`ready`](Self::ready) of every worker.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn cluster_ready(&self) {
        self.place.cluster_ready().await;
    }

    /// Sends messages to the other processes of the cluster, and gets theirs.
    #[must_use]
    pub fn messenger(&self) -> Messenger {
        Messenger::new(Arc::clone(&self.place.hub))
    }

    /// The agent, where it is ready; `None` while it is away, between its death and its
    /// replacement's `ready()`.
    #[must_use]
    pub fn peers(&self) -> Peers<Option<Peer>> {
        self.place.hub.readiness().agent()
    }

    /// Which worker it is, from 0. A replacement has the index of the worker that it replaces.
    #[must_use]
    pub fn index(&self) -> u32 {
        match self.place.name {
            ProcessName::Worker(index) => index,
            ProcessName::Master | ProcessName::Agent => 0,
        }
    }

    /// How many workers there were to be when this one was started. [`MasterHandle::scale`] changes it
    /// for later ones.
    ///
    /// [`MasterHandle::scale`]: crate::MasterHandle::scale
    #[must_use]
    pub fn count(&self) -> u32 {
        self.place.count
    }

    /// The cluster port, on `127.0.0.1`.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.place.port
    }

    /// How many processes had this worker's place before: 0 for the first, counted up by each
    /// replacement.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.place.generation
    }
}
