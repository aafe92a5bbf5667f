//! What the fixture can do about the agent's hand-over: a client whose upstream is a file.
//!
//! The behaviour `ledger` of agent and workers, with the key `ledger=PATH` of the master. The agent
//! writes a line for each thing that is asked of it. A worker publishes its name, watches, and calls
//! in eight loops until it shuts down; it says what it sees, and at its end how many calls there were
//! and how many of them failed.

use std::{
    fs::OpenOptions,
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use cluster_client::{Agent, Change, Cluster, Error, Result, Worker, cluster_client};
use futures::{Stream, StreamExt as _};
use tokio::task::JoinHandle;

use crate::fixture::{Keys, say};

struct Ledger(String);

impl Ledger {
    /// One line, in one write, so that lines of several processes do not mix.
    fn write(&self, line: &str) {
        let file = OpenOptions::new().create(true).append(true).open(&self.0);
        file.unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}

#[cluster_client]
impl Ledger {
    #[connect]
    async fn connect(path: String) -> Result<Self> {
        let ledger = Self(path);
        ledger.write("connect");
        Ok(ledger)
    }

    #[invoke]
    async fn note(&self, call: String) -> Result<()> {
        tokio::time::sleep(Duration::from_millis(2)).await;
        self.write(&format!("call {call}"));
        Ok(())
    }

    #[publish]
    async fn publish(&self, name: String) -> Result<()> {
        self.write(&format!("publish {name}"));
        Ok(())
    }

    #[unpublish]
    async fn unpublish(&self, name: String) -> Result<()> {
        self.write(&format!("withdraw {name}"));
        Ok(())
    }

    #[subscribe]
    fn watch(&self) -> impl Stream<Item = u32> {
        futures::stream::iter([7]).chain(futures::stream::pending())
    }

    #[close]
    async fn close(&self) {
        self.write("close");
    }
}

pub(crate) async fn agent(agent: &Agent, keys: &Keys, behaviour: &str) -> Result<()> {
    if behaviour == "ledger" {
        let ledger = agent.cluster::<Ledger>(keys["ledger"].clone()).await?;
        std::mem::forget(ledger);
    }
    Ok(())
}

/// What a worker does with its ledger.
pub(crate) struct Calls(Option<Calling>);

struct Calling {
    ledger: Cluster<Ledger>,
    loops: Vec<JoinHandle<()>>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    calls: AtomicU64,
    failures: AtomicU64,
}

pub(crate) async fn worker(worker: &Worker, name: &str, behaviour: &str) -> Result<Calls> {
    if behaviour != "ledger" {
        return Ok(Calls(None));
    }
    let ledger = worker.cluster::<Ledger>().await?;
    ledger.publish(name.to_owned()).await?;
    tokio::spawn(watch(ledger.clone(), name.to_owned()));
    let counts = Arc::new(Counts::default());
    let loops = (0..8).map(|number| {
        let (worker, name) = (worker.clone(), name.to_owned());
        tokio::spawn(call(worker, ledger.clone(), name, number, Arc::clone(&counts)))
    });
    let loops = loops.collect();
    Ok(Calls(Some(Calling { ledger, loops, counts })))
}

async fn watch(ledger: Cluster<Ledger>, name: String) {
    let mut values = ledger.watch();
    loop {
        match values.changed().await {
            Change::Value { value, .. } => say(&name, &format!("sees {value}")),
            Change::Stale { cause, .. } => say(&name, &format!("sees stale: {cause}")),
            Change::Live { .. } => say(&name, "sees live"),
            _ => return,
        }
    }
}

async fn call(
    worker: Worker,
    ledger: Cluster<Ledger>,
    name: String,
    number: u32,
    counts: Arc<Counts>,
) {
    let stops = worker.shutdown();
    let mut stops = std::pin::pin!(stops);
    let pid = std::process::id();
    for round in 0_u64.. {
        if futures::poll!(&mut stops).is_ready() {
            return;
        }
        counts.calls.fetch_add(1, SeqCst);
        if let Err(error) = ledger.note(format!("{pid}-{number}-{round}")).await {
            counts.failures.fetch_add(1, SeqCst);
            say(&name, &format!("lost a call: {error}"));
        }
    }
}

impl Calls {
    /// When the worker shuts down.
    pub(crate) async fn end(self, name: &str) -> Result<()> {
        let Some(Calling { ledger, loops, counts }) = self.0 else { return Ok(()) };
        for each in loops {
            let ended = each.await;
            ended
                .map_err(|error| Error::new(cluster_client::ErrorKind::Other, error.to_string()))?;
        }
        let (calls, failures) = (counts.calls.load(SeqCst), counts.failures.load(SeqCst));
        say(name, &format!("called {calls} failed {failures}"));
        drop(ledger);
        Ok(())
    }
}
