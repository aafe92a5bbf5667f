//! Messages through the master, beside calls over the direct link: what the messenger costs more.
//!
//! `cargo bench --bench messenger` has one worker send 128 bytes to the agent in both ways, in turns: a
//! call of a channel, and a message until its receipt is there. One at a time, then 64 at a time.
//! `-- --smoke` does a twentieth of it, and fails if anything is lost.

use std::{
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use cluster_client::{
    Agent, Cluster, Error, ErrorKind, Master, MasterHandle, Messenger, Result, Worker,
    cluster_client,
};
use futures::{StreamExt as _, TryStreamExt as _, stream};

/// How often both ways have their turn. The median of a figure is shown.
const ROUNDS: usize = 5;

/// How many are under way at a time, where it is more than one.
const AT_ONCE: usize = 64;

struct Echo;

#[cluster_client]
impl Echo {
    #[connect]
    async fn connect() -> Result<Self> {
        Ok(Self)
    }

    #[invoke]
    async fn echo(&self, text: String) -> Result<String> {
        Ok(text)
    }
}

fn main() -> ExitCode {
    let has = |flag: &str| std::env::args().any(|argument| argument == flag);
    let count = if has("--smoke") {
        1_000
    } else if has("--bench") {
        20_000
    } else {
        // `cargo test --all-targets` runs this binary, too.
        println!("nothing is measured without `cargo bench`");
        return ExitCode::SUCCESS;
    };
    Master::builder()
        .workers(1)
        .agent(agent)
        .worker(move |worker| measure(worker, count))
        .current_thread()
        .observe(observe)
        .run_blocking()
}

/// Stops the cluster when the worker has measured.
async fn observe(handle: MasterHandle) {
    match handle.messenger().once::<Option<String>>("done").await {
        Ok(message) => match message.data {
            None => handle.stop(),
            Some(why) => handle.fail(why),
        },
        Err(error) => handle.fail(error.to_string()),
    }
}

async fn agent(agent: Agent) -> Result<()> {
    let _echo = agent.cluster::<Echo>(()).await?;
    let mut messages = agent.messenger().on::<String>("echo");
    tokio::spawn(async move { while messages.recv().await.is_ok() {} });
    agent.ready().await?;
    agent.shutdown().await;
    Ok(())
}

/// The two ways.
struct Ways {
    echo: Cluster<Echo>,
    messenger: Messenger,
    text: String,
    /// How many messages found no room.
    sent_again: AtomicU64,
}

impl Ways {
    async fn call(&self) -> Result<()> {
        self.echo.echo(self.text.clone()).await.map(drop)
    }

    /// Sends until it is taken: the receipt comes when a message is in the queue of who listens, which
    /// may be full.
    async fn send(&self) -> Result<()> {
        loop {
            let receipt = self.messenger.send_to_agent("echo", &self.text)?.receipt().await?;
            match (receipt.taken, receipt.no_room) {
                (1, 0) => return Ok(()),
                (0, 1) => drop(self.sent_again.fetch_add(1, Relaxed)),
                _ => {
                    let text = format!("a message was lost: {receipt:?}");
                    return Err(Error::new(ErrorKind::Other, text));
                }
            }
        }
    }
}

async fn measure(worker: Worker, count: usize) -> Result<()> {
    let echo = worker.cluster::<Echo>().await?;
    let (messenger, text) = (worker.messenger(), "x".repeat(128));
    let ways = Ways { echo, messenger, text, sent_again: AtomicU64::new(0) };
    worker.ready().await?;
    worker.cluster_ready().await;
    let outcome = compare(&ways, count).await.err().map(|error| error.to_string());
    let master = std::os::unix::process::parent_id();
    ways.messenger.send_to(master, "done", &outcome)?.receipt().await?;
    worker.shutdown().await;
    Ok(())
}

/// What was measured of a way in one round.
#[derive(Debug, Default)]
struct Figures {
    p50: Vec<Duration>,
    p99: Vec<Duration>,
    a_second: Vec<f64>,
}

async fn compare(ways: &Ways, count: usize) -> Result<()> {
    let (mut calls, mut messages) = (Figures::default(), Figures::default());
    for _ in 0..ROUNDS {
        calls.round(count, || ways.call()).await?;
        messages.round(count, || ways.send()).await?;
    }
    let sent = ROUNDS * count;
    let again = ways.sent_again.load(Relaxed);
    println!("{sent} of 128 bytes each way, and as many {AT_ONCE} at a time; none lost");
    println!("{again} messages found the agent's queue full, and were sent again\n");
    println!("| way | p50 | p99 | a second, {AT_ONCE} at a time |");
    println!("| --- | --- | --- | --- |");
    let (calls, messages) = (calls.medians(), messages.medians());
    for (name, of) in [("call, direct link", calls), ("message, until its receipt", messages)] {
        println!("| {name} | {:.0} µs | {:.0} µs | {:.0} |", of[0], of[1], of[2]);
    }
    let ratio = |at: usize| messages[at] / calls[at];
    println!("| message to call | {:.1} | {:.1} | {:.2} |", ratio(0), ratio(1), ratio(2));
    Ok(())
}

impl Figures {
    async fn round<Fut: Future<Output = Result<()>>>(
        &mut self,
        count: usize,
        does: impl Fn() -> Fut,
    ) -> Result<()> {
        let mut took = Vec::with_capacity(count);
        for _ in 0..count {
            let begin = Instant::now();
            does().await?;
            took.push(begin.elapsed());
        }
        took.sort_unstable();
        self.p50.push(took[count / 2]);
        self.p99.push(took[count * 99 / 100]);
        let begin = Instant::now();
        let all = stream::iter(0..count).map(|_| does()).buffer_unordered(AT_ONCE);
        all.try_collect::<()>().await?;
        self.a_second.push(count as f64 / begin.elapsed().as_secs_f64());
        Ok(())
    }

    /// The median of the rounds: p50 and p99 in microseconds, and how many a second.
    fn medians(mut self) -> [f64; 3] {
        self.p50.sort_unstable();
        self.p99.sort_unstable();
        self.a_second.sort_unstable_by(f64::total_cmp);
        let micros = |times: &[Duration]| times[times.len() / 2].as_secs_f64() * 1e6;
        [micros(&self.p50), micros(&self.p99), self.a_second[self.a_second.len() / 2]]
    }
}
