//! The processes of a contestant, seen by the one that compares.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::{Child, Part, Plan, Result};
use crate::contestants::{self, Who};

/// The server of a contestant and its clients.
pub(crate) struct Team {
    /// Declared before the server, so that they are gone before it.
    clients: Vec<Process>,
    server: Process,
    /// The process behind the server, which ends it.
    broker: Option<u32>,
}

/// What a team has done in one slice.
pub(crate) struct Slice {
    /// From the word until the last client was done.
    pub(crate) elapsed: Duration,
    /// Nanoseconds that all threads of all its processes have run.
    pub(crate) cpu: f64,
    /// Bytes by which the resident memory of the server, or its broker, has grown.
    pub(crate) grown: f64,
    /// What the first client says.
    pub(crate) told: Vec<f64>,
}

impl Team {
    /// Starts the server, then so many clients.
    pub(crate) fn start(job: &str, who: Who, shape: Shape, plan: &Plan) -> Result<Self> {
        let Shape { clients, n, keys } = shape;
        let job = job.to_owned();
        let mut child = Child { job, who, part: Part::Server, port: 0, control: 0, n, keys };
        let mut server = Process::start(command(&child, plan, "server")?)?;
        let told = server.read()?;
        let &[port, control, ref broker @ ..] = &*told else { return Err("no port".into()) };
        let broker = broker.first().map(|pid| *pid as u32);
        child = Child { part: Part::Client, port: port as u16, control: control as u16, ..child };
        let mut team = Self { clients: Vec::new(), server, broker };
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

    /// Ends the clients and the server, and gives the last line that each of them said.
    pub(crate) fn finish(mut self) -> Result<Vec<Vec<f64>>> {
        let mut last = Vec::new();
        for process in self.clients.iter_mut().chain([&mut self.server]) {
            last.push(process.finish()?);
        }
        Ok(last)
    }

    fn cpu(&self) -> f64 {
        let own = self.clients.iter().chain([&self.server]).map(|process| process.child.id());
        own.chain(self.broker).map(cpu).sum()
    }

    fn memory(&self) -> f64 {
        memory(self.broker.unwrap_or_else(|| self.server.child.id()))
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
        Some(folder) => {
            strace(folder, &format!("{}-{}-{}-{name}", child.job, child.n, child.who.name()))?
        }
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

/// One process; killed when dropped.
pub(crate) struct Process {
    child: std::process::Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
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
        Ok(Self { child, input, output })
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
}

/// Nanoseconds that the threads of a process have run; NaN where the system does not tell.
fn cpu(process: u32) -> f64 {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{process}/task")) else { return f64::NAN };
    let run = |task: std::fs::DirEntry| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<f64>().ok()
    };
    // A thread may end between the two looks.
    tasks.flatten().filter_map(run).sum()
}

/// Bytes of the memory of a process that are resident; NaN where the system does not tell.
fn memory(process: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.map_or(f64::NAN, |kib| kib * 1024.0)
}

/// How long a process has to end by itself, once its input is closed.
const PATIENCE: Duration = Duration::from_secs(2);

impl Drop for Process {
    fn drop(&mut self) {
        // Most end by themselves then, which strace needs to write down what it counted.
        self.input = None;
        let start = Instant::now();
        while let Ok(None) = self.child.try_wait() {
            if start.elapsed() > PATIENCE {
                // It may have ended by itself just now, which is as well.
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
}
