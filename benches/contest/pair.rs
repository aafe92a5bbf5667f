//! The two processes of a contestant, and rounds of slices over both contestants.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{ChildStdin, ChildStdout, Command, Stdio},
};

use super::{Child, Plan, Result, Who};

/// Runs slices of `size` units with each contestant in turn. Gives, for each contestant, the
/// figures of each round; CPU time a unit in nanoseconds, of both processes together, is added to
/// them as the last one.
pub(crate) fn compare(suite: &str, size: u64, plan: &Plan) -> Result<[Vec<Vec<f64>>; 2]> {
    let size = (size / plan.divisor).max(1);
    let mut pairs = [Pair::start(suite, Who::Raw)?, Pair::start(suite, Who::Ours)?];
    let mut figures = [Vec::new(), Vec::new()];
    for round in 0..=plan.rounds {
        let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
        for contestant in order {
            let slice = pairs[contestant].slice(size)?;
            // The first round warms up.
            if round > 0 {
                figures[contestant].push(slice);
            }
        }
    }
    Ok(figures)
}

/// The server and the client of one contestant.
struct Pair {
    server: Process,
    client: Process,
}

impl Pair {
    fn start(suite: &str, who: Who) -> Result<Self> {
        let child = Child { suite: suite.to_owned(), who, port: None };
        let mut server = Process::start(&child)?;
        let port = server.read()?.first().copied().ok_or("the server told no port")?;
        let mut client = Process::start(&Child { port: Some(port as u16), ..child })?;
        client.read()?;
        Ok(Self { server, client })
    }

    fn slice(&mut self, size: u64) -> Result<Vec<f64>> {
        let before = self.cpu();
        writeln!(self.client.input, "{size}")?;
        let mut figures = self.client.read()?;
        figures.push((self.cpu() - before) / size as f64);
        Ok(figures)
    }

    fn cpu(&self) -> f64 {
        self.server.cpu() + self.client.cpu()
    }
}

/// One process; killed when dropped.
struct Process {
    child: std::process::Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Process {
    fn start(child: &Child) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(child.to_args())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = child.stdin.take().ok_or("no stdin")?;
        let output = BufReader::new(child.stdout.take().ok_or("no stdout")?);
        Ok(Self { child, input, output })
    }

    fn read(&mut self) -> Result<Vec<f64>> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            return Err(format!("a process of the bench ended: {}", self.child.wait()?).into());
        }
        Ok(line.split_whitespace().map(str::parse).collect::<std::result::Result<_, _>>()?)
    }

    /// Nanoseconds that its threads have run; NaN where the system does not tell.
    fn cpu(&self) -> f64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id()));
        let Ok(tasks) = tasks else { return f64::NAN };
        let run = |task: std::fs::DirEntry| {
            let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
            text.split_whitespace().next()?.parse::<f64>().ok()
        };
        tasks.flatten().map(|task| run(task).unwrap_or(f64::NAN)).sum()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself, which is as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
