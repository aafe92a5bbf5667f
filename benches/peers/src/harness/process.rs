//! The processes of a contestant, seen by the one that compares.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::{Child, Part, Plan, Result};
use crate::contestants::{self, Who};

/// The servers of a contestant and its clients.
pub(crate) struct Team {
    /// Declared before the servers, so that they are gone before them.
    clients: Vec<Process>,
    servers: Vec<Process>,
}

/// What a team has done in one slice.
pub(crate) struct Slice {
    /// From the word until the last client was done.
    pub(crate) elapsed: Duration,
    /// Nanoseconds that all threads of all its processes have run.
    pub(crate) cpu: f64,
    /// Bytes by which the first server's resident memory has grown.
    pub(crate) grown: f64,
    /// What the first client says.
    pub(crate) told: Vec<f64>,
}

impl Team {
    /// Starts the server, with the broker behind it if it has one, then so many clients.
    pub(crate) fn start(job: &str, who: Who, shape: Shape, plan: &Plan) -> Result<Self> {
        let Shape { clients, n, keys } = shape;
        let mut servers = Vec::new();
        let port = free_port()?;
        if let Some(command) = contestants::broker(who, port) {
            let mut broker = Process::start(command)?;
            // It does not look at its input.
            broker.patience = Duration::ZERO;
            servers.push(broker);
            wait_for_port(port)?;
        }
        let job = job.to_owned();
        let mut child = Child { job, who, part: Part::Server, port, control: 0, n, keys };
        let mut server = Process::start(command(&child, plan, "server")?)?;
        let &[port, control] = &*server.read()? else { return Err("no port was told".into()) };
        servers.push(server);
        child = Child { part: Part::Client, port: port as u16, control: control as u16, ..child };
        let mut team = Self { clients: Vec::new(), servers };
        for index in 0..clients {
            let client = command(&child, plan, &format!("client{index}"))?;
            team.clients.push(Process::start(client)?);
        }
        for client in &mut team.clients {
            client.read()?;
        }
        Ok(team)
    }

    /// Has each client do its share of a slice, all at once.
    pub(crate) fn slice(&mut self, size: u64) -> Result<Slice> {
        let (cpu, memory) = (self.cpu(), self.memory());
        let share = size.div_ceil(self.clients.len() as u64);
        let start = Instant::now();
        for client in &mut self.clients {
            client.write(share)?;
        }
        let told: Vec<Vec<f64>> =
            self.clients.iter_mut().map(Process::read).collect::<Result<_>>()?;
        Ok(Slice {
            elapsed: start.elapsed(),
            cpu: self.cpu() - cpu,
            grown: self.memory() - memory,
            told: told.into_iter().next().unwrap_or_default(),
        })
    }

    /// Ends the clients and the last server, and gives the last line that each of them said.
    pub(crate) fn finish(mut self) -> Result<Vec<Vec<f64>>> {
        let mut last = Vec::new();
        for process in self.clients.iter_mut().chain(self.servers.last_mut()) {
            last.push(process.finish()?);
        }
        Ok(last)
    }

    fn cpu(&self) -> f64 {
        self.servers.iter().chain(&self.clients).map(Process::cpu).sum()
    }

    fn memory(&self) -> f64 {
        self.servers.first().map_or(f64::NAN, Process::memory)
    }
}

/// How many clients a team has and what each of them is told.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) clients: u64,
    pub(crate) n: u64,
    pub(crate) keys: u64,
}

/// The command that starts a child, under strace if that is asked for.
fn command(child: &Child, plan: &Plan, name: &str) -> Result<Command> {
    if let Some(command) = contestants::foreign(child) {
        return Ok(command);
    }
    let program = std::env::current_exe()?;
    let mut command = match &plan.strace {
        Some(folder) => strace(folder, &format!("{}-{}-{name}", child.job, child.who.name()))?,
        None => Command::new(&program),
    };
    if plan.strace.is_some() {
        command.arg(&program);
    }
    command.args(child.to_args());
    Ok(command)
}

fn strace(folder: &Path, name: &str) -> Result<Command> {
    std::fs::create_dir_all(folder)?;
    let mut command = Command::new("strace");
    command.args(["-f", "-c", "-o"]).arg(folder.join(name).with_extension("txt"));
    Ok(command)
}

/// A port that nobody listens on, for servers that can't pick one themselves.
pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

fn wait_for_port(port: u16) -> Result<()> {
    let start = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        if start.elapsed() > Duration::from_secs(10) {
            return Err(format!("nobody listens on port {port} after 10 s").into());
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// One process; killed when dropped.
pub(crate) struct Process {
    child: std::process::Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    /// How long it has to end by itself, once its input is closed.
    patience: Duration,
}

impl Process {
    pub(crate) fn start(mut command: Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("can't start {command:?}: {error}"))?;
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().ok_or("no stdout")?);
        Ok(Self { child, input, output, patience: Duration::from_secs(2) })
    }

    pub(crate) fn write(&mut self, size: u64) -> Result<()> {
        let input = self.input.as_mut().ok_or("the process was told to end")?;
        Ok(writeln!(input, "{size}")?)
    }

    pub(crate) fn read(&mut self) -> Result<Vec<f64>> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            return Err(format!("a process of the bench ended: {}", self.child.wait()?).into());
        }
        Ok(line.split_whitespace().map(str::parse).collect::<std::result::Result<_, _>>()?)
    }

    /// Closes its input and gives the last line that it says.
    fn finish(&mut self) -> Result<Vec<f64>> {
        self.input = None;
        self.read()
    }

    /// Nanoseconds that its threads have run; NaN where the system does not tell.
    fn cpu(&self) -> f64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id()));
        let Ok(tasks) = tasks else { return f64::NAN };
        let run = |task: std::fs::DirEntry| {
            let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
            text.split_whitespace().next()?.parse::<f64>().ok()
        };
        // A thread may end between the two looks.
        tasks.flatten().filter_map(run).sum()
    }

    /// Bytes of its memory that are resident; NaN where the system does not tell.
    fn memory(&self) -> f64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let text = text.unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
        kib.map_or(f64::NAN, |kib| kib * 1024.0)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Most end by themselves then, which strace needs to write down what it counted.
        self.input = None;
        let start = Instant::now();
        while let Ok(None) = self.child.try_wait() {
            if start.elapsed() >= self.patience {
                // It may have ended by itself just now, which is as well.
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
}
