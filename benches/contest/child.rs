//! The processes of a contestant, seen from within: their arguments, and how they talk to the
//! process that compares.

use std::io::Write as _;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader, Lines, Stdin, stdin};

use super::{Result, Who};

/// Which process of which contestant this is.
#[derive(Debug, Clone)]
pub(crate) struct Child {
    pub(crate) suite: String,
    pub(crate) who: Who,
    /// The port to connect to; `None`: this is the server.
    pub(crate) port: Option<u16>,
}

impl Child {
    const MARK: &str = "--as-child";

    /// The child that these arguments describe.
    pub(crate) fn from_args(args: &[String]) -> Option<Self> {
        let [mark, suite, who, port] = args else { return None };
        let who = Who::ALL.into_iter().find(|known| known.name() == who)?;
        let port = port.parse().ok().filter(|port| *port > 0);
        (mark == Self::MARK).then(|| Self { suite: suite.clone(), who, port })
    }

    pub(crate) fn to_args(&self) -> [String; 4] {
        let port = self.port.unwrap_or(0).to_string();
        [Self::MARK.to_owned(), self.suite.clone(), self.who.name().to_owned(), port]
    }
}

/// Tells the port of a server, and waits until the process that compares is done or gone.
pub(crate) async fn serve_until_closed(port: u16) -> Result<()> {
    tell(&[f64::from(port)])?;
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

    /// The figures of the slice that was asked for last.
    pub(crate) fn done(&self, figures: &[f64]) -> Result<()> {
        tell(figures)
    }
}

fn tell(figures: &[f64]) -> Result<()> {
    let words: Vec<String> = figures.iter().map(f64::to_string).collect();
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", words.join(" "))?;
    Ok(out.flush()?)
}
