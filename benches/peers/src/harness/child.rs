//! The processes of a contestant, seen from within: their arguments, and how they talk to the
//! process that compares.

use std::io::Write as _;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader, Lines, Stdin, stdin};

use super::Result;
use crate::contestants::Who;

/// Which process of which contestant this is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Child {
    /// What its clients do.
    pub(crate) job: String,
    pub(crate) who: Who,
    pub(crate) part: Part,
    /// Where the server listens, or the broker behind it.
    pub(crate) port: u16,
    /// Where values are asked for, see [`Control`](super::Control).
    pub(crate) control: u16,
    /// How many connections, calls in flight or whatever the job counts.
    pub(crate) n: u64,
    /// How many keys each connection subscribes to.
    pub(crate) keys: u64,
}

/// One side of a contestant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Server,
    Client,
}

impl Child {
    const MARK: &str = "--child";

    /// The child that these arguments describe.
    pub(crate) fn from_args(args: &[String]) -> Option<Self> {
        let [mark, job, who, part, numbers @ ..] = args else { return None };
        let [port, control, n, keys] = numbers else { return None };
        if mark != Self::MARK {
            return None;
        }
        Some(Self {
            job: job.clone(),
            who: Who::from_name(who)?,
            part: if part == "server" { Part::Server } else { Part::Client },
            port: port.parse().ok()?,
            control: control.parse().ok()?,
            n: n.parse().ok()?,
            keys: keys.parse().ok()?,
        })
    }

    pub(crate) fn to_args(&self) -> Vec<String> {
        let part = match self.part {
            Part::Server => "server",
            Part::Client => "client",
        };
        let words = [Self::MARK, self.job.as_str(), self.who.name(), part];
        let numbers = [u64::from(self.port), u64::from(self.control), self.n, self.keys];
        words.map(str::to_owned).into_iter().chain(numbers.map(|n| n.to_string())).collect()
    }
}

/// Tells where a server listens, where it is asked for values, and which process is behind it, if
/// one is. Waits until the process that compares is done or gone.
pub(crate) async fn serve_until_closed(port: u16, control: u16, broker: Option<u32>) -> Result<()> {
    let numbers = [Some(port.into()), Some(control.into()), broker];
    tell(&numbers.into_iter().flatten().map(f64::from).collect::<Vec<_>>())?;
    stdin().read_to_end(&mut Vec::new()).await?;
    Ok(())
}

/// The slices that a client is asked to run, one line each.
#[derive(Debug)]
pub(crate) struct Slices(Lines<BufReader<Stdin>>);

impl Slices {
    /// The client is connected.
    pub(crate) fn new() -> Result<Self> {
        tell(&[])?;
        Ok(Self(BufReader::new(stdin()).lines()))
    }

    /// The size of the next slice; `None` when there are no more.
    pub(crate) async fn next(&mut self) -> Result<Option<u64>> {
        let line = self.0.next_line().await?;
        Ok(line.map(|line| line.parse()).transpose()?)
    }

    /// The slice that was asked for last is done, with these figures.
    pub(crate) fn done(&self, figures: &[f64]) -> Result<()> {
        tell(figures)
    }
}

/// One line to the process that compares.
pub(crate) fn tell(figures: &[f64]) -> Result<()> {
    let words: Vec<String> = figures.iter().map(f64::to_string).collect();
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", words.join(" "))?;
    Ok(out.flush()?)
}
