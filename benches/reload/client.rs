//! The clients: each asks at its own fixed times, whatever becomes of the requests before.

use std::{
    collections::HashSet,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
    time::{Instant, sleep_until, timeout},
};

/// How many clients there are, and so connections with keep-alive.
const CLIENTS: u32 = 64;

/// A request that takes longer is lost.
const PATIENCE: Duration = Duration::from_secs(10);

/// What became of the requests.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Of those that were answered, from the time at which each was due.
    pub(crate) latencies: Vec<Duration>,
    /// Why each that was not answered was lost.
    pub(crate) losses: Vec<String>,
    /// Requests that were sent again, because a connection that was kept had been closed.
    pub(crate) retries: u64,
    /// Who answered.
    pub(crate) pids: HashSet<u32>,
}

/// Requests at a steady rate until it is stopped.
pub(crate) struct Load {
    enough: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Counts>>,
}

impl Load {
    pub(crate) fn start(address: SocketAddr, requests_a_second: u32, keep_alive: bool) -> Self {
        let enough = Arc::new(AtomicBool::new(false));
        let every = Duration::from_secs(1) * CLIENTS / requests_a_second;
        let start = Instant::now();
        let client = |number: u32| {
            let first = start + every * number / CLIENTS;
            let client = Client { address, keep_alive, kept: None, counts: Counts::default() };
            tokio::spawn(client.run(first, every, Arc::clone(&enough)))
        };
        let clients = (0..CLIENTS).map(client).collect();
        Self { enough, clients }
    }

    /// The sum of all clients.
    pub(crate) async fn stop(self) -> Counts {
        self.enough.store(true, Ordering::Relaxed);
        let mut sum = Counts::default();
        for client in self.clients {
            let counts = client.await.unwrap_or_else(|error| Counts {
                losses: vec![format!("a client ended: {error}")],
                ..Counts::default()
            });
            sum.latencies.extend(counts.latencies);
            sum.losses.extend(counts.losses);
            sum.retries += counts.retries;
            sum.pids.extend(counts.pids);
        }
        sum
    }
}

struct Client {
    address: SocketAddr,
    keep_alive: bool,
    /// The connection for the next request.
    kept: Option<TcpStream>,
    counts: Counts,
}

impl Client {
    async fn run(mut self, first: Instant, every: Duration, enough: Arc<AtomicBool>) -> Counts {
        let mut due = first;
        while !enough.load(Ordering::Relaxed) {
            sleep_until(due).await;
            match timeout(PATIENCE, self.ask()).await {
                Ok(Ok(pid)) => {
                    self.counts.latencies.push(due.elapsed());
                    self.counts.pids.insert(pid);
                }
                Ok(Err(error)) => self.counts.losses.push(error.to_string()),
                Err(_) => self.counts.losses.push(format!("no answer within {PATIENCE:?}")),
            }
            due += every;
        }
        self.counts
    }

    /// Who answers. A connection that was kept may turn out to be closed, and then the request goes
    /// out once more on a new one.
    async fn ask(&mut self) -> io::Result<u32> {
        if let Some(kept) = self.kept.take() {
            match self.ask_on(kept).await {
                Ok(pid) => return Ok(pid),
                Err(_) => self.counts.retries += 1,
            }
        }
        let fresh = TcpStream::connect(self.address).await?;
        fresh.set_nodelay(true)?;
        self.ask_on(fresh).await
    }

    async fn ask_on(&mut self, mut connection: TcpStream) -> io::Result<u32> {
        let how = if self.keep_alive { "keep-alive" } else { "close" };
        let request = format!("GET / HTTP/1.1\r\nHost: here\r\nConnection: {how}\r\n\r\n");
        connection.write_all(request.as_bytes()).await?;
        let mut response = Vec::new();
        loop {
            if let Some((pid, closes)) = parse(&response)? {
                if self.keep_alive && !closes {
                    self.kept = Some(connection);
                }
                return Ok(pid);
            }
            if connection.read_buf(&mut response).await? == 0 {
                return Err(io::Error::other(format!("closed after {} bytes", response.len())));
            }
        }
    }
}

/// The body of a response, and whether the connection closes after it. `None`: there is more to come.
fn parse(response: &[u8]) -> io::Result<Option<(u32, bool)>> {
    let text = std::str::from_utf8(response).map_err(io::Error::other)?;
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return Ok(None) };
    let head = head.to_ascii_lowercase();
    let mut lines = head.lines();
    let status = lines.next().unwrap_or_default();
    if !status.starts_with("http/1.1 200") {
        return Err(io::Error::other(format!("the answer is {status}")));
    }
    let header = |name: &str| {
        let found = lines.clone().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        found.unwrap_or_default()
    };
    let length: usize = header("content-length").parse().map_err(io::Error::other)?;
    if body.len() < length {
        return Ok(None);
    }
    let pid = body.parse().map_err(io::Error::other)?;
    Ok(Some((pid, header("connection") == "close")))
}
