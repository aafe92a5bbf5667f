//! How a cluster that is described comes to run: what it is in each process.

use std::{net::Ipv4Addr, process::ExitCode, thread};

use tokio::{
    runtime,
    sync::{mpsc, oneshot},
};

use super::MasterBuilder;
use crate::{
    error::{Error, ErrorKind, Result},
    process::{
        inherit::{Identity, Inheritance, identify},
        master::{
            child::Shared,
            dispatcher::Rules,
            handle::{Request, Requests, check_workers},
            listen,
            supervisor::{Setup, supervise},
        },
        name::{Exit, ProcessName},
        place::{Place, refuse_orphan},
        role::{Roles, live},
        words::lasting,
    },
    protocol::handshake::Token,
};

impl MasterBuilder {
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
                "restart_backoff({}, {}): the first must be more than zero and at most the \
                 second",
                lasting(self.restart.shortest),
                lasting(self.restart.longest)
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

pub(super) fn default_workers() -> u32 {
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
    use std::time::Duration;

    use super::*;
    use crate::process::{
        agent::Agent,
        master::{Master, Program},
        worker::Worker,
    };

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
}
