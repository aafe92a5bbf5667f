//! Three independent processes share a client on one port, without a master: whoever binds the port
//! leads, and when it dies the others elect the next.
//!
//! ```sh
//! cargo run --example compete
//! ```
//!
//! The first process starts this program three more times and kills the one that leads.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    io::Read,
    process::Stdio,
    time::Duration,
};

use cluster_client::{Change, Cluster, Role, cluster_client};
use futures::{Stream, StreamExt, stream};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    sync::mpsc,
    time::timeout,
};

/// A client that only the leader has. Its one subscription tells who that is.
struct Clerk;

#[cluster_client]
impl Clerk {
    /// Takes no options, and never fails.
    #[connect]
    async fn connect() -> Result<Self, cluster_client::Error> {
        println!("connects");
        Ok(Self)
    }

    /// The pid of the process that holds the real client.
    #[subscribe]
    fn leader(&self) -> impl Stream<Item = u32> + Send + use<> {
        stream::once(async { std::process::id() }).chain(stream::pending())
    }

    /// The pid of the process that runs this call.
    #[invoke(idempotent)]
    async fn who_answers(&self) -> Result<u32, cluster_client::Error> {
        Ok(std::process::id())
    }
}

type Outcome = Result<(), Box<dyn Error>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    match std::env::args().nth(1) {
        Some(port) => contend(port.parse()?).await,
        None => timeout(PATIENCE, watch_them()).await?,
    }
}

/// One of the three: it takes part, and tells what it sees.
async fn contend(port: u16) -> Outcome {
    end_with_parent();
    let clerk = Cluster::<Clerk>::builder().port(port).role(Role::Compete).create(()).await?;
    let mut leader = clerk.leader();
    loop {
        match leader.changed().await {
            Change::Value { value, .. } => {
                println!("leader {value}, and {} answers calls", clerk.who_answers().await?);
            }
            Change::Stale { cause, .. } => println!("stale: {cause}"),
            Change::Live { value } => println!("leader {value} again"),
            _ => return Ok(()),
        }
    }
}

/// Ends this process when the one that started it is gone and the pipe to it with it.
fn end_with_parent() {
    std::thread::spawn(|| {
        // Nothing is ever written to it, so that this returns at its end.
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
}

/// The first process: starts three, kills the leader, starts another.
async fn watch_them() -> Outcome {
    // Free now. Had another process taken it since, the contenders would say so.
    let port = std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
    let mut field = Field::new(port);
    for _ in 0..3 {
        field.enter()?;
    }
    let first = field.wait_for_one_leader().await?;
    println!("--- all three agree on {first}; it is killed");
    field.kill(first).await?;
    let second = field.wait_for_one_leader().await?;
    assert_ne!(second, first);
    println!("--- the two others agree on {second}; a third joins");
    field.enter()?;
    assert_eq!(field.wait_for_one_leader().await?, second);
    println!("--- it follows {second}, and nobody had to be told");
    Ok(())
}

/// The contenders, and whom each of them said it follows.
struct Field {
    port: u16,
    contenders: BTreeMap<u32, Child>,
    follows: BTreeMap<u32, u32>,
    lines: mpsc::Receiver<(u32, String)>,
    sender: mpsc::Sender<(u32, String)>,
}

impl Field {
    fn new(port: u16) -> Self {
        let (sender, lines) = mpsc::channel(64);
        Self { port, contenders: BTreeMap::new(), follows: BTreeMap::new(), lines, sender }
    }

    fn enter(&mut self) -> Outcome {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(self.port.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let pid = child.id().ok_or("it has ended already")?;
        let mut out = BufReader::new(child.stdout.take().ok_or("it has no output")?).lines();
        let sender = self.sender.clone();
        tokio::spawn(async move {
            while let Ok(Some(line)) = out.next_line().await {
                if sender.send((pid, line)).await.is_err() {
                    return;
                }
            }
        });
        self.contenders.insert(pid, child);
        Ok(())
    }

    async fn kill(&mut self, pid: u32) -> Outcome {
        let mut child = self.contenders.remove(&pid).ok_or("nobody of that pid contends")?;
        child.kill().await?;
        self.follows.clear();
        Ok(())
    }

    /// Waits until all contenders follow the same one of them.
    async fn wait_for_one_leader(&mut self) -> Result<u32, Box<dyn Error>> {
        loop {
            let leaders: BTreeSet<_> = self.follows.values().copied().collect();
            if let (Some(leader), 1) = (leaders.first(), leaders.len())
                && self.follows.keys().eq(self.contenders.keys())
            {
                return Ok(*leader);
            }
            let (pid, line) = self.lines.recv().await.ok_or("nobody is left")?;
            println!("pid {pid} {line}");
            let leader =
                line.strip_prefix("leader ").and_then(|rest| rest.split([',', ' ']).next());
            if let Some(leader) = leader
                && self.contenders.contains_key(&pid)
            {
                self.follows.insert(pid, leader.parse()?);
            }
        }
    }
}

/// How long the whole may take.
const PATIENCE: Duration = Duration::from_secs(20);
