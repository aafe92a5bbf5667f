//! [`Master::builder`]: what the cluster consists of, and the ways to run it.

#[cfg(feature = "cli")]
mod command_line;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt,
    net::{Ipv4Addr, TcpListener},
    path::PathBuf,
    process::ExitCode,
    thread,
    time::Duration,
};

use tokio::{
    runtime,
    sync::{mpsc, oneshot},
};

use super::{
    child::{Launch, Shared},
    dispatcher::Rules,
    handle::{MasterHandle, Observe, Request, Requests, check_workers},
    listen::{self, Wanted},
    liveness::{Liveness, Remedy},
    program::Program,
    recycle::Recycle,
    restart::RestartPolicy,
    supervisor::{Setup, supervise},
};
use crate::{
    error::{Error, ErrorKind, Result},
    process::{
        agent::Agent,
        inherit::{Identity, Inheritance, identify},
        name::{Exit, ProcessName},
        place::{Place, refuse_orphan},
        role::{RoleFn, Roles, live, role_fn},
        worker::Worker,
    },
    protocol::handshake::Token,
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

    /// Runs the cluster, and makes the runtimes for it: in the master until the cluster has stopped,
    /// in a child until its function is done. It takes SIGTERM, SIGINT and SIGQUIT, and prints what
    /// went wrong. Call it first in `main`, outside any runtime, and return what it returns.
    ///
    /// With the feature `cli` it also reads the program's arguments: `start`, `stop`, `status` and
    /// the other commands of `cli::Command`; without arguments the cluster runs in the foreground. A
    /// program that has arguments of its own embeds `cli::Command`, or uses
    /// [`run_blocking`](Self::run_blocking) or [`run`](Self::run).
    ///
    /// The code is that of an [`Exit`]. A child that loses its master does not return; it exits with
    /// 110.
    pub fn main(self) -> ExitCode {
        #[cfg(feature = "cli")]
        return self.live_or(crate::process::cli::main);
        #[cfg(not(feature = "cli"))]
        return self.run_blocking();
    }

    /// As [`main`](Self::main), and leaves the program's arguments alone, whatever the features.
    pub fn run_blocking(self) -> ExitCode {
        self.live_or(Self::lead)
    }

    /// In a child, lives its life; elsewhere does something else. Prints what went wrong.
    pub(in crate::process) fn live_or(
        self,
        otherwise: impl FnOnce(Self) -> Result<Exit>,
    ) -> ExitCode {
        let in_a_runtime =
            || Error::config("`main` starts its own runtimes; in a runtime, await `run` instead");
        let outcome = match identify() {
            Ok(_) if runtime::Handle::try_current().is_ok() => Err(in_a_runtime()),
            Ok(Identity::Master) => otherwise(self),
            Ok(Identity::Child(inheritance)) => {
                self.main_of_child(*inheritance).map(|()| Exit::Clean)
            }
            Ok(Identity::Orphan) => refuse_orphan(),
            Err(error) => Err(error),
        };
        let exit = outcome.unwrap_or_else(|error| {
            report(&error);
            Exit::of(&error)
        });
        ExitCode::from(u8::try_from(exit.code()).unwrap_or(1))
    }

    /// Is the master, until the cluster has stopped.
    pub(in crate::process) fn lead(self) -> Result<Exit> {
        let setup = self.set_up()?;
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Error::io("can't start the runtime", &error))?;
        runtime.block_on(supervise(setup, mpsc::unbounded_channel()))?;
        Ok(Exit::Clean)
    }

    fn main_of_child(self, inheritance: Inheritance) -> Result<()> {
        let current_thread = self.current_thread;
        let roles = self.roles();
        let mut builder = if current_thread {
            runtime::Builder::new_current_thread()
        } else {
            runtime::Builder::new_multi_thread()
        };
        let runtime = builder.enable_all().build();
        let runtime = runtime.map_err(|error| Error::io("can't start the runtime", &error))?;
        let place = Place::take(inheritance)?;
        // Spawned, because the thread that blocks is not one of the runtime's own.
        let life = runtime.block_on(runtime.spawn(live(place, roles)));
        // What the function left behind must not hold up the exit.
        runtime.shutdown_background();
        life.unwrap_or_else(|error| Err(Error::new(ErrorKind::Panicked, error.to_string())))
    }

    /// Runs the cluster on the runtime that is current, and returns in every process: in the master
    /// when the cluster has stopped, in a child when its function is done. The value says which
    /// process it was. Await it first in `main`, and exit soon after it returns.
    ///
    /// It takes SIGTERM, SIGINT and SIGQUIT. A child that loses its master does not return; it exits
    /// with code 110.
    ///
    /// # Errors
    ///
    /// In the master, where the start failed, naming the process that did it. In a child, where its
    /// function returned an error, panicked, or returned before it was asked to stop.
    ///
    /// # Cancel safety
    ///
    /// In the master, dropping the future starts the ordered stop and does not wait for it. In a
    /// child, it drops the function.
    pub async fn run(self) -> Result<ProcessName> {
        match identify()? {
            Identity::Master => {
                let setup = self.set_up()?;
                run_master(setup).await?;
                Ok(ProcessName::Master)
            }
            Identity::Child(inheritance) => {
                let roles = self.roles();
                let place = Place::take(*inheritance)?;
                let name = place.name;
                live(place, roles).await?;
                Ok(name)
            }
            Identity::Orphan => refuse_orphan(),
        }
    }

    fn roles(self) -> Roles {
        Roles { agent: self.agent, worker: self.worker }
    }

    /// Each role has a function or a program, and not both.
    fn check_roles(&self) -> Result<()> {
        let roles = [
            ("agent", self.agent.is_some(), self.launch.agent.is_some()),
            ("worker", self.worker.is_some(), self.launch.worker.is_some()),
        ];
        for (role, function, program) in roles {
            match (function, program) {
                (false, false) => {
                    return Err(Error::config(format!(
                        "the cluster has no {role}; give `.{role}(…)` or `.{role}_command(…)`"
                    )));
                }
                (true, true) => {
                    return Err(Error::config(format!(
                        "the cluster has two {role}s; give either `.{role}(…)` or \
                         `.{role}_command(…)`"
                    )));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Checks everything and binds the ports.
    fn set_up(mut self) -> Result<Setup> {
        self.check_roles()?;
        self.liveness.check()?;
        self.recycle.check()?;
        if self.restart.crash_loop == 0 {
            return Err(Error::config("crash_loop(0): it must be at least 1"));
        }
        if self.restart.shortest.is_zero() || self.restart.shortest > self.restart.longest {
            return Err(Error::config(format!(
                "restart_backoff({:?}, {:?}): the first must be more than zero and at most the \
                 second",
                self.restart.shortest, self.restart.longest
            )));
        }
        let workers = self.workers.unwrap_or_else(default_workers);
        check_workers(workers)?;
        let listening = listen::bind(&self.listeners, std::mem::take(&mut self.given))?;
        let (listener, address) = listen::listen((Ipv4Addr::LOCALHOST, 0).into())
            .map_err(|error| Error::io("can't bind the cluster port", &error))?;
        let port = address.port();
        let token = Token::random()?;
        let setup = Setup {
            rules: Rules {
                workers,
                port,
                ready_timeout: self.ready_timeout,
                stop_timeout: self.stop_timeout,
                restart: self.restart,
                recycle: self.recycle,
            },
            launch: std::mem::take(&mut self.launch),
            shared: Shared { listener, listening, port, token },
            liveness: self.liveness,
            #[cfg(feature = "schedule")]
            environment: self.environment.take().or_else(environment),
            observers: self.observe.take().into_iter().chain(self.console.take()).collect(),
            on_worker_panic: self.on_worker_panic,
        };
        Ok(setup)
    }
}

/// Runs the master on a thread of its own, whatever runtime the program has: the children take the
/// end of the thread that started them for the end of their master.
async fn run_master(setup: Setup) -> Result<()> {
    let (asks, asked) = mpsc::unbounded_channel();
    let _stop = StopOnDrop(asks.clone());
    let (ends, ended) = oneshot::channel();
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::io("can't start the runtime", &error))?;
    let spawned = thread::Builder::new().name("cluster-master".into()).spawn(move || {
        // Whoever waited for it may be gone.
        let _ = ends.send(runtime.block_on(supervise(setup, (asks, asked))));
    });
    spawned.map_err(|error| Error::io("can't start the master's thread", &error))?;
    ended.await.unwrap_or_else(|_| Err(Error::new(ErrorKind::Panicked, "the master panicked")))
}

struct StopOnDrop(Requests);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        // After the end nobody listens.
        let _ = self.0.send(Request::Stop(None));
    }
}

/// What the environment is called by who started the master.
#[cfg(feature = "schedule")]
fn environment() -> Option<String> {
    std::env::var("CLUSTER_CLIENT_ENV").ok().filter(|name| !name.is_empty())
}

fn default_workers() -> u32 {
    thread::available_parallelism().map_or(1, |count| count.get() as u32)
}

/// Says what went wrong where it will be seen: in the log, or without one on stderr.
pub(in crate::process) fn report(error: &Error) {
    if tracing::dispatcher::has_been_set() {
        tracing::error!("{error}");
    } else {
        eprintln!("{error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole() -> MasterBuilder {
        async fn agent(_: Agent) -> Result<()> {
            Ok(())
        }
        async fn worker(_: Worker) -> Result<()> {
            Ok(())
        }
        Master::builder().agent(agent).worker(worker)
    }

    #[tokio::test]
    async fn a_cluster_that_lacks_a_function_is_refused_with_the_way_out() {
        let error = Master::builder().run().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains("give `.agent(…)`"), "{error}");
        let MasterBuilder { agent, .. } = whole();
        let error = MasterBuilder { agent, ..Master::builder() }.run().await.unwrap_err();
        assert!(error.to_string().contains("give `.worker(…)`"), "{error}");
        let error = whole().agent_command(Program::new("true")).run().await.unwrap_err();
        assert!(error.to_string().contains("has two agents"), "{error}");
    }

    #[tokio::test]
    async fn a_backoff_that_would_not_pause_is_refused() {
        let second = Duration::from_secs(1);
        for (shortest, longest) in [(Duration::ZERO, second), (2 * second, second)] {
            let error = whole().restart_backoff(shortest, longest).run().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{error}");
        }
    }

    #[test]
    fn a_run_can_be_spawned() {
        fn is_send<T: Send>(_: &T) {}
        is_send(&whole().run());
    }

    #[test]
    fn defaults_are_those_of_the_documentation() {
        let setup = whole().set_up().unwrap();
        let cores = thread::available_parallelism().unwrap().get();
        assert_eq!(setup.rules.workers as usize, cores);
        assert_eq!(setup.rules.ready_timeout, Duration::from_secs(30));
        assert_eq!(setup.rules.stop_timeout, Duration::from_secs(5));
        let address = setup.shared.listener.local_addr().unwrap();
        assert!(address.ip().is_loopback());
        assert_eq!(address.port(), setup.rules.port);
        assert_eq!(setup.shared.port, setup.rules.port);
    }

    #[test]
    fn the_environment_of_children_is_not_shown() {
        let shown = format!("{:?}", whole().env("PASSWORD", "secret"));
        assert!(!shown.contains("secret"), "{shown}");
    }
}
