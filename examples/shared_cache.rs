//! Every process has a cache of its own. Who changes an entry tells all; who comes late, or comes back
//! after a kill -9, asks for what the others have.
//!
//! ```sh
//! cargo run --example shared_cache
//! ```
//!
//! Messages of different senders have no order among each other, so each entry has a version, and the
//! newest wins wherever it comes from. For values that must come from one place, in order and to late
//! comers by themselves, wrap a client instead: see the example `registry`.

use std::{
    collections::BTreeMap,
    error::Error,
    process::ExitCode,
    time::{Duration, Instant},
};

use cluster_client::{
    Agent, Master, MasterEvent, MasterHandle, Messages, Messenger, ProcessName, Worker,
};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

const WORKERS: u32 = 3;

/// How long the show waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(20);

type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

pub(crate) fn main() -> ExitCode {
    Master::builder()
        .workers(WORKERS)
        .restart_backoff(Duration::from_millis(200), Duration::from_secs(1))
        .agent(agent)
        .worker(worker)
        .observe(|mut master| async move {
            match show(&mut master).await {
                Ok(()) => master.stop(),
                Err(error) => master.fail(error.to_string()),
            }
        })
        .run_blocking()
}

/// A value, and how often it was changed. Of two the greater one is newer, for all processes alike.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Entry {
    version: u64,
    value: String,
}

type Entries = BTreeMap<String, Entry>;

/// The cache of one process.
struct Cache {
    entries: Entries,
    messenger: Messenger,
    /// Entries that somebody changed, or that were asked for.
    news: Messages<Entries>,
    /// Who asks for all entries.
    questions: Messages<()>,
    /// What the show wants to be changed here.
    orders: Messages<(String, String)>,
}

impl Cache {
    /// Make it before `ready`: from then on it misses nothing.
    fn new(messenger: Messenger) -> Self {
        Self {
            entries: Entries::new(),
            news: messenger.on("cache.news"),
            questions: messenger.on("cache.question"),
            orders: messenger.on("cache.order"),
            messenger,
        }
    }

    /// Changes an entry everywhere; this process gets the news as all do.
    fn put(&self, key: String, value: String) -> Outcome {
        let version = self.entries.get(&key).map_or(0, |entry| entry.version) + 1;
        let news = Entries::from([(key, Entry { version, value })]);
        self.messenger.broadcast("cache.news", &news)?;
        Ok(())
    }

    /// Asks the others for what they have: all of them answer, and the newest of each entry wins.
    fn ask(&self) -> Outcome {
        self.messenger.broadcast("cache.question", &())?;
        Ok(())
    }

    /// Keeps the cache up to date.
    async fn run(&mut self) -> Outcome {
        loop {
            tokio::select! {
                news = self.news.recv() => {
                    for (key, entry) in news?.data {
                        let known = self.entries.entry(key).or_insert_with(|| entry.clone());
                        *known = entry.max(known.clone());
                    }
                }
                question = self.questions.recv() => {
                    self.messenger.send_to(question?.pid, "cache.news", &self.entries)?;
                }
                order = self.orders.recv() => {
                    let (key, value) = order?.data;
                    self.put(key, value)?;
                }
            }
        }
    }
}

async fn agent(agent: Agent) -> Outcome {
    let mut cache = Cache::new(agent.messenger());
    agent.ready().await?;
    cache.ask()?;
    tokio::select! {
        outcome = cache.run() => outcome,
        () = agent.shutdown() => Ok(()),
    }
}

async fn worker(worker: Worker) -> Outcome {
    let mut cache = Cache::new(worker.messenger());
    worker.ready().await?;
    cache.ask()?;
    tokio::select! {
        outcome = cache.run() => outcome,
        () = worker.shutdown() => Ok(()),
    }
}

/// What the program around the master does: has things changed, kills a worker, and compares.
async fn show(master: &mut MasterHandle) -> Outcome {
    let messenger = master.messenger();
    let order = |key: &str, value: &str| {
        messenger.send_random("cache.order", &(key, value)).map(|_| println!("{key} = {value}"))
    };
    order("price", "10")?;
    order("stock", "7")?;
    agree(&messenger, WORKERS as usize + 1, &["10", "7"]).await?;

    let victim = wait(master, |event| match event {
        MasterEvent::Ready { process: ProcessName::Worker(1), pid, .. } => Some(*pid),
        _ => None,
    });
    let victim = victim.await?;
    println!("kill -9 of worker 1 (pid {victim})");
    let pid = i32::try_from(victim).ok().and_then(Pid::from_raw).ok_or("no pid")?;
    kill_process(pid, Signal::KILL)?;
    wait(master, |event| matches!(event, MasterEvent::Died(_)).then_some(())).await?;
    // The replacement is not there yet, so nobody tells it of this.
    order("price", "12")?;
    agree(&messenger, WORKERS as usize, &["12", "7"]).await?;
    wait(master, |event| matches!(event, MasterEvent::Ready { .. }).then_some(())).await?;
    println!("its replacement is ready");
    agree(&messenger, WORKERS as usize + 1, &["12", "7"]).await
}

/// Waits for an event of the master.
async fn wait<T>(
    master: &mut MasterHandle,
    is_it: impl Fn(&MasterEvent) -> Option<T>,
) -> Outcome<T> {
    let events = async {
        while let Some(event) = master.next_event().await {
            if let Some(found) = is_it(&event) {
                return Ok(found);
            }
        }
        Err("the cluster has stopped".into())
    };
    tokio::time::timeout(PATIENCE, events).await?
}

/// Waits until this many processes have these values, each in its own cache.
async fn agree(messenger: &Messenger, processes: usize, values: &[&str]) -> Outcome {
    let mut answers = messenger.on::<Entries>("cache.news");
    let deadline = Instant::now() + PATIENCE;
    loop {
        let asked = messenger.broadcast("cache.question", &())?.receipt().within(PATIENCE).await?;
        let mut agreed = 0;
        for _ in 0..asked.taken {
            let answer = tokio::time::timeout(PATIENCE, answers.recv()).await??;
            agreed += usize::from(answer.data.values().map(|it| &it.value).eq(values));
        }
        if agreed == processes {
            println!("{processes} processes have {values:?}");
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("only {agreed} processes have {values:?}").into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
