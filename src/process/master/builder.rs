//! [`Master::builder`]: what the cluster consists of. How it runs is in [`run`].

#[cfg(feature = "cli")]
mod command_line;
mod run;

#[cfg(feature = "cli")]
pub(in crate::process) use run::report;

use std::{
    collections::BTreeMap, ffi::OsString, fmt, net::TcpListener, path::PathBuf, time::Duration,
};

use super::{
    child::Launch,
    handle::{MasterHandle, Observe},
    listen::Wanted,
    liveness::{Liveness, Remedy},
    program::Program,
    recycle::Recycle,
    restart::RestartPolicy,
};
use crate::{
    error::Result,
    process::{
        agent::Agent,
        role::{RoleFn, role_fn},
        worker::Worker,
    },
};

/// The front door of the process plane: [`Master::builder`].
#[derive(Debug)]
pub struct Master(());

impl Master {
    /// Describes a cluster: one agent, a number of workers, and how to run them.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use std::process::ExitCode;
    /// use cluster_client::{Agent, Master, Result, Worker};
    ///
    /// async fn agent(agent: Agent) -> Result<()> {
    ///     agent.ready().await?;
    ///     agent.shutdown().await;
    ///     Ok(())
    /// }
    ///
    /// async fn worker(worker: Worker) -> Result<()> {
    ///     worker.ready().await?;
    ///     worker.shutdown().await;
    ///     Ok(())
    /// }
    ///
    /// fn main() -> ExitCode {
    ///     Master::builder().workers(4).agent(agent).worker(worker).main()
    /// }
    /// ```
    pub fn builder() -> MasterBuilder {
        MasterBuilder {
            workers: None,
            agent: None,
            worker: None,
            launch: Launch::default(),
            listeners: Vec::new(),
            given: BTreeMap::new(),
            ready_timeout: Duration::from_secs(30),
            stop_timeout: Duration::from_secs(5),
            restart: RestartPolicy::default(),
            recycle: Recycle::default(),
            liveness: Liveness::default(),
            #[cfg(feature = "schedule")]
            environment: None,
            on_worker_panic: Remedy::Replace,
            current_thread: false,
            observe: None,
            console: None,
        }
    }
}

/// A cluster that is being described. [`main`](Self::main) or [`run`](Self::run) starts it, and
/// must be the first thing that the program does: in a child it becomes the agent or a worker.
#[must_use = "a cluster starts with `main` or `run`"]
pub struct MasterBuilder {
    workers: Option<u32>,
    agent: Option<RoleFn<Agent>>,
    worker: Option<RoleFn<Worker>>,
    launch: Launch,
    listeners: Vec<Wanted>,
    /// Sockets that the service manager gives, by name.
    given: BTreeMap<String, TcpListener>,
    ready_timeout: Duration,
    stop_timeout: Duration,
    restart: RestartPolicy,
    recycle: Recycle,
    liveness: Liveness,
    #[cfg(feature = "schedule")]
    environment: Option<String>,
    on_worker_panic: Remedy,
    current_thread: bool,
    observe: Option<Observe>,
    /// The command line's own observer.
    console: Option<Observe>,
}

impl fmt::Debug for MasterBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the environment: it may hold secrets.
        f.debug_struct("MasterBuilder")
            .field("workers", &self.workers)
            .field("ready_timeout", &self.ready_timeout)
            .field("stop_timeout", &self.stop_timeout)
            .field("restart", &self.restart)
            .finish_non_exhaustive()
    }
}

impl MasterBuilder {
    /// How many workers there are, at most 1,024. Default: as many as the host runs threads at once.
    /// [`MasterHandle::scale`] changes it later.
    pub fn workers(mut self, workers: u32) -> Self {
        self.workers = Some(workers);
        self
    }

    /// The agent's function. Its life is the process's life: it sets up, calls [`Agent::ready`],
    /// waits for [`Agent::shutdown`], cleans up and returns.
    pub fn agent<F, Fut, E>(mut self, agent: F) -> Self
    where
        F: Fn(Agent) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
    {
        self.agent = Some(role_fn(agent));
        self
    }

    /// The function of each worker. Its life is the process's life: it sets up, calls
    /// [`Worker::ready`], waits for [`Worker::shutdown`], cleans up and returns.
    ///
    /// What it started and left behind is killed when its process is gone, as far as it is in the
    /// process group. A process that left the group (`setsid`) outlives it, and ends with the cluster.
    pub fn worker<F, Fut, E>(mut self, worker: F) -> Self
    where
        F: Fn(Worker) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
    {
        self.worker = Some(role_fn(worker));
        self
    }

    /// A program that runs as the agent, in place of a function.
    pub fn agent_command(mut self, program: Program) -> Self {
        self.launch.agent = Some(program);
        self
    }

    /// A program that runs as each worker, in place of a function.
    pub fn worker_command(mut self, program: Program) -> Self {
        self.launch.worker = Some(program);
        self
    }

    /// The program that agent and workers run; a name without a slash is looked for in `PATH`.
    /// Default: the master's own. It is found at the start and at each reload, and kept open: what
    /// is replaced on disk has no effect before the next reload. (A script is run by its path, so
    /// what replaces it takes effect with the next process.) Whatever it is, it must come to [`main`](Self::main) or [`run`](Self::run),
    /// in the process that was started and not in a child of it.
    pub fn program(mut self, program: impl Into<PathBuf>) -> Self {
        self.launch.program = Some(program.into());
        self
    }

    /// The arguments of agent and workers. Default: the master's own.
    pub fn args<I, S>(mut self, args: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<OsString>,
    {
        self.launch.args = Some(args.into_iter().map(Into::into).collect());
        self
    }

    /// A variable for agent and workers, beside the environment of the master. Others on the host
    /// can read it; it is no place for secrets.
    pub fn env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.launch.env.push((key.into(), value.into()));
        self
    }

    /// Lets agent and workers write to the master's stderr themselves. By default they write to a
    /// pipe that the master copies to its stderr, and the last 20 lines of a process that fails at
    /// start are in the error. With it they keep the terminal, and the lines are not in the error.
    pub fn inherit_stderr(mut self) -> Self {
        self.launch.inherit_stderr = true;
        self
    }

    /// A listening TCP socket for the workers, which [`Worker::listener`] gives them by this name.
    /// The master binds it before it starts anybody and keeps it, so that connections wait in its
    /// backlog (4,096, or what the system allows) while no worker accepts them, and none is refused
    /// when workers are replaced. All workers accept on the one socket.
    ///
    /// `address` is what [`ToSocketAddrs`](std::net::ToSocketAddrs) reads: `"127.0.0.1:7001"`,
    /// `"[::]:80"`, `"localhost:7001"`, or a [`SocketAddr`](std::net::SocketAddr). Port 0 is one of
    /// the system's choice, which [`MasterHandle::listening`] tells. Of a name that stands for
    /// several addresses, the first that can be bound is taken.
    ///
    /// It is an error of the start if the address can't be bound, if two have one name, if a name is
    /// `cluster` or longer than 64 bytes, or if there are more than 32.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use std::process::ExitCode;
    /// use cluster_client::{Agent, Error, Master, Worker};
    ///
    /// async fn worker(worker: Worker) -> Result<(), Error> {
    ///     let listener = worker.listener("http")?;
    ///     worker.ready().await?;
    ///     loop {
    ///         tokio::select! {
    ///             Ok((connection, _)) = listener.accept() => drop(connection),
    ///             () = worker.shutdown() => return Ok(()),
    ///         }
    ///     }
    /// }
    /// # async fn agent(agent: Agent) -> Result<(), Error> { Ok(()) }
    ///
    /// fn main() -> ExitCode {
    ///     Master::builder().listen("http", "127.0.0.1:7001").agent(agent).worker(worker).main()
    /// }
    /// ```
    pub fn listen(mut self, name: impl Into<String>, address: impl fmt::Display) -> Self {
        self.listeners.push(Wanted { name: name.into(), address: address.to_string() });
        self
    }

    /// How long a process may take from its start until it is ready. Default 30 s. One that takes
    /// longer ends the start; as a replacement it is killed and started again.
    pub fn ready_timeout(mut self, limit: Duration) -> Self {
        self.ready_timeout = limit;
        self
    }

    /// How long a process may take from SIGTERM until it is gone, before it gets a SIGKILL. Default
    /// 5 s. Workers and agent take turns, so a stop may take twice as long.
    pub fn stop_timeout(mut self, limit: Duration) -> Self {
        self.stop_timeout = limit;
        self
    }

    /// The pause before a process that died too soon is started again: the first, and the longest.
    /// It doubles with each death. Default 1 s and 30 s.
    pub fn restart_backoff(mut self, shortest: Duration, longest: Duration) -> Self {
        self.restart.shortest = shortest;
        self.restart.longest = longest;
        self
    }

    /// How long a process must have been ready for it to be started again at once when it dies.
    /// Default 10 s.
    pub fn healthy_after(mut self, time: Duration) -> Self {
        self.restart.healthy_after = time;
        self
    }

    /// How many processes in a row must die before they are ready for their slot to count as failed:
    /// [`MasterEvent::SlotFailed`](super::MasterEvent::SlotFailed) tells of it, the
    /// [status](MasterHandle::status) shows the last lines, and the pause before the next attempt
    /// grows on, up to 5 minutes (or `restart_backoff`'s longest, if that is more). It is never
    /// given up, and over as soon as one is ready. Default 5.
    ///
    /// It is about a cluster that was ready once. While it starts, the first process that fails or
    /// is not ready in time ends the start: whoever started it is there to be told.
    pub fn crash_loop(mut self, deaths: u32) -> Self {
        self.restart.crash_loop = deaths;
        self
    }

    /// When workers are replaced although they do what they should. Default: never; see [`Recycle`].
    pub fn recycle(mut self, recycle: Recycle) -> Self {
        self.recycle = recycle;
        self
    }

    /// What the master does about processes that live but do not answer. Default: one that is
    /// frozen for 30 s is replaced, one whose runtime is blocked for 30 s is reported; see
    /// [`Liveness`].
    pub fn liveness(mut self, liveness: Liveness) -> Self {
        self.liveness = liveness;
        self
    }

    /// What the environment of this cluster is called, as `prod`: jobs that are
    /// [`only_in`](crate::Schedule::only_in) others are not due here. Default: the value of the
    /// variable `CLUSTER_CLIENT_ENV`, where it is set and not empty.
    #[cfg(feature = "schedule")]
    pub fn environment(mut self, name: impl Into<String>) -> Self {
        self.environment = Some(name.into());
        self
    }

    /// What is done about a worker in which something else than its function panicked: a task, say.
    /// Default: [`Remedy::Replace`], since a part of it may be missing now; its replacement is ready
    /// before it is asked to stop. It comes at once where the worker was ready for `healthy_after`,
    /// else after the pause of `restart_backoff`, during which the worker goes on.
    ///
    /// An agent lives on in any case. [`MasterEvent::Panicked`](super::MasterEvent::Panicked) tells
    /// of both.
    pub fn on_worker_panic(mut self, remedy: Remedy) -> Self {
        self.on_worker_panic = remedy;
        self
    }

    /// Runs the functions of agent and workers on a current-thread runtime. Default: a
    /// multi-thread one. Where the program has made the runtime, in [`run`](Self::run), it has no effect.
    pub fn current_thread(mut self) -> Self {
        self.current_thread = true;
        self
    }

    /// A function that runs in the master process alone, beside the master, on a thread and runtime
    /// of its own. It is told what happens and can stop the cluster. When the cluster has stopped it
    /// has `stop_timeout` to end. A panic in it stops the cluster with a failure.
    pub fn observe<F, Fut>(mut self, observe: F) -> Self
    where
        F: FnOnce(MasterHandle) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        self.observe = Some(Box::new(move |handle| Box::pin(observe(handle))));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_of_children_is_not_shown() {
        let shown = format!("{:?}", Master::builder().env("PASSWORD", "secret"));
        assert!(!shown.contains("secret"), "{shown}");
    }
}
