//! Where the processes say what they see. In the show: to the first process, which prints it, and
//! waits until they say what it expects; without a stage: to their stdout. It has nothing to do with
//! the registry.

use std::{
    fmt,
    io::{self, BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// Something that a process saw.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Line {
    pub(crate) who: String,
    pub(crate) pid: u32,
    pub(crate) saw: Saw,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Saw {
    /// It holds the real client.
    Leads,
    /// It asked for the configuration and got this.
    Config(Option<Vec<String>>),
    /// Its subscription has this new value.
    Urls(Vec<String>),
    /// Its subscription is stale, for this cause; a read still gives these.
    Stale(String, Vec<String>),
    /// Its subscription is live again, with the value that it had.
    Live(Vec<String>),
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "  {:<9} pid {:<7} {}", self.who, self.pid, self.saw)
    }
}

impl fmt::Display for Saw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leads => write!(f, "holds the real client"),
            Self::Config(config) => write!(f, "got the config {config:?}"),
            Self::Urls(urls) => write!(f, "sees {} URLs: {}", urls.len(), urls.join(" ")),
            Self::Stale(cause, urls) => {
                write!(f, "is stale: {cause}; still reads {} URLs", urls.len())
            }
            Self::Live(urls) => write!(f, "is live again with {} URLs", urls.len()),
        }
    }
}

/// The side of a process that says what it sees.
#[derive(Clone)]
pub(crate) struct Actor {
    who: String,
    stage: Option<Arc<Mutex<TcpStream>>>,
}

impl Actor {
    pub(crate) fn enter(stage: Option<SocketAddr>, who: String) -> io::Result<Self> {
        let stage = stage.map(TcpStream::connect).transpose()?;
        Ok(Self { who, stage: stage.map(|stage| Arc::new(Mutex::new(stage))) })
    }

    pub(crate) fn say(&self, saw: Saw) {
        let Some(stage) = &self.stage else { return println!("{saw}") };
        let line = Line { who: self.who.clone(), pid: std::process::id(), saw };
        let Ok(mut json) = serde_json::to_vec(&line) else { return };
        json.push(b'\n');
        let mut stage = stage.lock().unwrap_or_else(PoisonError::into_inner);
        // Where the first process is gone, this one is about to go too.
        let _ = stage.write_all(&json);
    }
}

/// The side of the first process: everything that was said, in the order in which it came.
pub(crate) struct Stage {
    address: SocketAddr,
    lines: watch::Receiver<Vec<Line>>,
}

impl Stage {
    pub(crate) fn open() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let (sender, lines) = watch::channel(Vec::new());
        let sender = Arc::new(sender);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let sender = sender.clone();
                thread::spawn(move || hear(stream, &sender));
            }
        });
        Ok(Self { address, lines })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many lines there were so far: a point in time to wait from.
    pub(crate) fn now(&self) -> usize {
        self.lines.borrow().len()
    }

    /// Waits until the lines since then say it.
    pub(crate) async fn wait<T>(
        &mut self,
        since: usize,
        mut says: impl FnMut(&[Line]) -> Option<T>,
    ) -> T {
        loop {
            if let Some(found) = says(&self.lines.borrow_and_update()[since..]) {
                return found;
            }
            if self.lines.changed().await.is_err() {
                // The thread that accepts never ends.
                std::future::pending::<()>().await;
            }
        }
    }
}

fn hear(stream: TcpStream, lines: &watch::Sender<Vec<Line>>) {
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        if let Ok(line) = serde_json::from_str::<Line>(&line) {
            println!("{line}");
            lines.send_modify(|lines| lines.push(line));
        }
    }
}
