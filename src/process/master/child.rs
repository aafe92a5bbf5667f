//! A child, as the master has it: started, spoken to, signalled, waited for.

mod link;

use std::{
    ffi::OsString,
    io::{self, PipeReader},
    net::TcpListener,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    path::PathBuf,
    process::{self, Command, Stdio},
};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, waitid};
use tokio::{sync::mpsc, task::JoinHandle};

pub(super) use self::link::{FromChild, Heard};
use self::link::{speak_for, talk};
use super::{
    build::Builds,
    listen::Listening,
    outbox::{Outbox, outbox},
    program::Program,
    tail::Tail,
};
use crate::{
    process::{
        control::{CLUSTER_LISTENER, Inbox, LinkError, VERSION, split, write_blocking},
        inherit::{LAUNCHER_VARIABLE, MASTER_VARIABLE},
        name::{Exit, ProcessName},
        output::{self, Logs, Sink},
    },
    protocol::{
        handshake::Token,
        pb::{AgentPlace, Peers, Welcome, WorkerPlace, control::Body, welcome},
    },
};

/// Variables of the environment that are for the master alone: those of a service manager, and the
/// one of a start in the background.
const OF_THE_MASTER: [&str; 7] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    LAUNCHER_VARIABLE,
];

/// How children are started.
#[derive(Debug, Default)]
pub(super) struct Launch {
    /// The program that agent and workers run; the master's own where there is none.
    pub(super) program: Option<PathBuf>,
    /// Its arguments; the master's own where there are none.
    pub(super) args: Option<Vec<OsString>>,
    /// Added to the environment that the master has.
    pub(super) env: Vec<(OsString, OsString)>,
    /// Whether children write to the master's stderr themselves.
    pub(super) inherit_stderr: bool,
    /// Where all that children write goes, with who wrote it. Without it their stderr goes to the
    /// master's, and they have the master's stdout.
    pub(super) logs: Option<Logs>,
    /// What runs as the agent in place of a function.
    pub(super) agent: Option<Program>,
    /// What runs as each worker in place of a function.
    pub(super) worker: Option<Program>,
}

/// What every child of a master is told.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) listener: TcpListener,
    /// The application's, for the workers.
    pub(super) listening: Vec<Listening>,
    pub(super) port: u16,
    pub(super) token: Token,
}

/// Which process is to be started.
#[derive(Debug, Clone, Copy)]
pub(super) struct Order {
    pub(super) name: ProcessName,
    pub(super) generation: u32,
    /// The number of the build that it is started from.
    pub(super) build: u32,
    /// How many workers there are to be.
    pub(super) workers: u32,
    /// Whether it is an agent that has the lead.
    pub(super) lead: bool,
}

/// A child that was started and not yet reaped.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) name: ProcessName,
    pub(super) pid: u32,
    process: process::Child,
    outbox: Outbox,
    /// Taken when it is gone.
    voice: Option<Voice>,
}

/// What is heard of a child, for a moment longer than it lives.
#[derive(Debug)]
pub(super) struct Voice {
    /// Ends with the link.
    pub(super) talk: JoinHandle<()>,
    pub(super) tail: Tail,
}

impl Child {
    /// Starts a process. It must be called on the thread that lives as long as the master: the
    /// kernel takes the death of that thread for the death of the parent.
    pub(super) fn spawn(
        launch: &Launch,
        builds: &Builds,
        shared: &Shared,
        order: Order,
        peers: Peers,
        heard: mpsc::Sender<Heard>,
    ) -> io::Result<Self> {
        let name = order.name;
        let (ours, theirs) = UnixStream::pair()?;
        let foreign = launch.foreign(name);
        let ready_after = foreign.and_then(|program| program.ready_after);
        let (mut command, path) = match foreign {
            Some(program) => program.command(),
            None => launch.command(builds, order.build)?,
        };
        launch.prepare(&mut command, foreign);
        // One that knows nothing of the link would take it for its input.
        let stdin =
            ready_after.map_or_else(|| Stdio::from(OwnedFd::from(theirs)), |_| Stdio::null());
        command.stdin(stdin).process_group(0);
        let copied = launch.copied(&mut command)?;
        let process = command.spawn().map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", path.display()))
        })?;
        // The command holds the child's ends of link and pipes; they must not outlive it here.
        drop(command);
        let pid = process.id();
        let mut orphan = KillOnDrop(Some(process));
        let mut tail = Tail::default();
        for (stream, onward) in copied {
            let tag = launch.logs.is_some().then(|| output::tag(name, pid));
            tail.follow(stream, onward, tag)?;
        }

        // One that knows nothing of the link has closed its end already.
        let welcome = Body::Welcome(shared.welcome(order, peers));
        let fds = shared.descriptors(name);
        // The socket is empty, so this does not block. A child that is gone already is noticed by
        // its death.
        match write_blocking(&ours, welcome, &fds) {
            Ok(()) | Err(LinkError::Gone) => {}
            Err(error) => return Err(io::Error::other(error.to_string())),
        }
        let link = split(ours, Inbox::default())?;
        let (outbox, outgoing) = outbox();
        let process = orphan.0.take().ok_or_else(|| io::Error::other("it is gone"))?;
        let talk = match ready_after {
            Some(time) => tokio::spawn(speak_for(time, pid, heard)),
            None => tokio::spawn(talk(link, outgoing, name, pid, heard)),
        };
        Ok(Self { name, pid, process, outbox, voice: Some(Voice { talk, tail }) })
    }

    /// Whether there is still a link to it.
    pub(super) fn listens(&self) -> bool {
        self.outbox.is_open()
    }

    /// Says something to the child. Gives back what there is no room for, because the child does
    /// not read; see [`Outbox::push`].
    pub(super) fn say(&self, body: Body) -> Result<(), Box<Body>> {
        self.outbox.push(body)
    }

    /// Signals the process group of the child.
    pub(super) fn signal(&self, signal: Signal) {
        if let Some(group) = self.group() {
            // An error means that there is nobody left to signal.
            let _ = rustix::process::kill_process_group(group, signal);
        }
    }

    /// Looks whether the child is gone, and says so once: how it ended, and what may still be heard of
    /// it. What it left behind in its process group is killed. Its pid stays its own until
    /// [`bury`](Self::bury): no process and no group can have the number that it is known by.
    pub(super) fn take_death(&mut self) -> Option<(Exit, Voice)> {
        let pid = self.group()?;
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let seen = rustix::io::retry_on_intr(|| waitid(WaitId::Pid(pid), options));
        if matches!(seen, Ok(None)) {
            return None;
        }
        let voice = self.voice.take()?;
        // Where somebody else in this program reaped it, its number is free already, and there is
        // nothing to be known.
        let Ok(Some(status)) = seen else { return Some((Exit::Code(-1), voice)) };
        self.signal(Signal::KILL);
        let killed = status.terminating_signal().map(Exit::Signal);
        let exit = killed.or(status.exit_status().map(Exit::from)).unwrap_or(Exit::Code(-1));
        Some((exit, voice))
    }

    /// Reaps the child, which is gone. From now on its pid may be that of another process.
    pub(super) fn bury(mut self) {
        // Somebody else in this program may have reaped it.
        let _ = self.process.try_wait();
    }

    /// The child's process group, which it leads.
    fn group(&self) -> Option<Pid> {
        i32::try_from(self.pid).ok().and_then(Pid::from_raw)
    }
}

/// A process that must not go on where its start failed half way.
struct KillOnDrop(Option<process::Child>);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if let Some(mut process) = self.0.take() {
            // It is gone already where this fails.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Launch {
    /// A command that runs the program, and the path to call it by.
    fn command(&self, builds: &Builds, build: u32) -> io::Result<(Command, PathBuf)> {
        let (mut command, path) = builds.command(build)?;
        match &self.args {
            Some(args) => command.args(args),
            None => command.args(std::env::args_os().skip(1)),
        };
        Ok((command, path))
    }

    /// Whether this one knows nothing of the link.
    pub(super) fn is_mute(&self, name: ProcessName) -> bool {
        self.foreign(name).is_some_and(|program| program.ready_after.is_some())
    }

    /// What runs in place of a function of ours.
    fn foreign(&self, name: ProcessName) -> Option<&Program> {
        match name {
            ProcessName::Worker(_) => self.worker.as_ref(),
            ProcessName::Master | ProcessName::Agent => self.agent.as_ref(),
        }
    }

    /// The environment of a child.
    fn prepare(&self, command: &mut Command, foreign: Option<&Program>) {
        let own = foreign.into_iter().flat_map(Program::variables);
        command.envs(self.env.iter().chain(own).map(|(key, value)| (key, value)));
        command.env(MASTER_VARIABLE, process::id().to_string());
        // What a service manager told the master is not for its children.
        for variable in OF_THE_MASTER {
            command.env_remove(variable);
        }
    }

    /// Gives the child pipes for what is to be copied, and says where it is to be copied to.
    fn copied(&self, command: &mut Command) -> io::Result<Vec<(PipeReader, Sink)>> {
        let mut copied = Vec::new();
        if self.inherit_stderr {
            return Ok(copied);
        }
        let (reader, writer) = io::pipe()?;
        command.stderr(writer);
        copied.push((reader, self.logs.as_ref().map_or(Sink::Stderr, |logs| logs.stderr.clone())));
        if let Some(logs) = &self.logs {
            let (reader, writer) = io::pipe()?;
            command.stdout(writer);
            copied.push((reader, logs.stdout.clone()));
        }
        Ok(copied)
    }
}

impl Shared {
    /// What comes with the welcome, in the order in which it names them.
    fn descriptors(&self, name: ProcessName) -> Vec<BorrowedFd<'_>> {
        match name {
            ProcessName::Worker(_) => {
                self.listening.iter().map(|listening| listening.socket.as_fd()).collect()
            }
            ProcessName::Master | ProcessName::Agent => vec![self.listener.as_fd()],
        }
    }

    fn welcome(&self, order: Order, peers: Peers) -> Welcome {
        let Order { name, generation, workers, lead, .. } = order;
        let (place, listeners) = match name {
            ProcessName::Worker(index) => {
                let place = WorkerPlace { index, count: workers };
                let names = self.listening.iter().map(|listening| listening.name.clone());
                (welcome::Place::Worker(place), names.collect())
            }
            ProcessName::Master | ProcessName::Agent => {
                (welcome::Place::Agent(AgentPlace {}), vec![CLUSTER_LISTENER.to_owned()])
            }
        };
        Welcome {
            version: VERSION,
            place: Some(place),
            generation,
            port: self.port.into(),
            token: self.token.secret().to_vec().into(),
            listeners,
            lead,
            peers: Some(peers),
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    fn state(pid: u32) -> Option<char> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    }

    #[tokio::test]
    async fn a_pid_is_kept_until_all_that_is_known_by_it_is_forgotten() {
        for (script, ends) in [("exit 7", Exit::Code(7)), ("kill -9 $$", Exit::Signal(9))] {
            let mut command = Command::new("sh");
            let process = command.args(["-c", script]).process_group(0).spawn().unwrap();
            let talk = tokio::spawn(std::future::pending());
            let voice = Some(Voice { talk, tail: Tail::default() });
            let (outbox, _outgoing) = outbox();
            let pid = process.id();
            let mut child = Child { name: ProcessName::Agent, pid, process, outbox, voice };
            let begin = std::time::Instant::now();
            let exit = loop {
                if let Some((exit, _)) = child.take_death() {
                    break exit;
                }
                assert!(begin.elapsed().as_secs() < 30, "its death is never seen");
                tokio::task::yield_now().await;
            };
            assert_eq!(exit, ends);
            assert_eq!(state(pid), Some('Z'), "nobody else can have its number");
            assert!(child.take_death().is_none(), "it dies once");
            child.bury();
            assert_eq!(state(pid), None);
        }
    }
}
