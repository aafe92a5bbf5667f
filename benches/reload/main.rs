//! Requests while the cluster is reloaded again and again: how many are lost, and how long they take.
//!
//! `cargo bench --bench reload` sends 2,000 requests a second to an axum server in 4 workers and
//! reloads 20 times; first with a connection a request, then with keep-alive. Everything is in
//! processes of its own but the client, which runs beside the master. `-- --smoke` reloads twice, at a
//! tenth of the rate, and fails if a request is lost.

mod client;

#[path = "../../examples/http/drain.rs"]
mod drain;

use std::{
    net::SocketAddr,
    process::ExitCode,
    time::{Duration, Instant},
};

use axum::{Router, routing::get};
use client::{Counts, Load};
use cluster_client::{Agent, Error, ErrorKind, Master, MasterEvent, MasterHandle, Result, Worker};
use tokio::time::sleep;

const WORKERS: u32 = 4;

/// How long a worker that is to go holds idle connections.
const DRAIN: Duration = Duration::from_secs(1);

/// How long a request is worked on, so that some are under way whenever a worker is told to go.
const WORK: Duration = Duration::from_millis(2);

/// Time before the first reload, between two, and after the last.
const PAUSE: Duration = Duration::from_millis(500);

/// What is measured.
#[derive(Debug, Clone, Copy)]
struct Plan {
    reloads: u32,
    requests_a_second: u32,
}

fn main() -> ExitCode {
    let has = |flag: &str| std::env::args().any(|argument| argument == flag);
    let plan = if has("--smoke") {
        Plan { reloads: 2, requests_a_second: 200 }
    } else if has("--bench") {
        Plan { reloads: 20, requests_a_second: 2_000 }
    } else {
        // `cargo test --all-targets` runs this binary, too.
        println!("nothing is measured without `cargo bench`");
        return ExitCode::SUCCESS;
    };
    Master::builder()
        .workers(WORKERS)
        .listen("http", "127.0.0.1:0")
        .agent(agent)
        .worker(worker)
        .observe(move |handle| observe(handle, plan))
        .run_blocking()
}

async fn agent(agent: Agent) -> Result<()> {
    agent.ready().await?;
    agent.shutdown().await;
    Ok(())
}

async fn worker(worker: Worker) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let listener = worker.listener("http")?;
    let answer = || async {
        sleep(WORK).await;
        std::process::id().to_string()
    };
    let app = Router::new().route("/", get(answer));
    worker.ready().await?;
    let shutdown = async move { worker.shutdown().await };
    drain::serve(listener, app, shutdown, DRAIN).await?;
    Ok(())
}

async fn observe(mut handle: MasterHandle, plan: Plan) {
    while let Some(event) = handle.next_event().await {
        if let MasterEvent::ClusterReady { .. } = event {
            break;
        }
    }
    let Some(address) = handle.listening("http") else { return };
    match measure(&handle, address, plan).await {
        Ok(()) => handle.stop(),
        Err(error) => handle.fail(error.to_string()),
    }
}

async fn measure(handle: &MasterHandle, address: SocketAddr, plan: Plan) -> Result<()> {
    let Plan { reloads, requests_a_second } = plan;
    println!("{requests_a_second} requests/s, {WORKERS} workers, {reloads} reloads\n");
    println!(
        "| connections | requests | lost | retries | p50 | p99 | most | processes | a reload |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    let mut lost = Vec::new();
    for (name, keep_alive) in [("one a request", false), ("keep-alive", true)] {
        let load = Load::start(address, requests_a_second, keep_alive);
        sleep(PAUSE).await;
        let mut took = Vec::new();
        for _ in 0..reloads {
            let start = Instant::now();
            handle.reload().await?;
            took.push(start.elapsed());
            sleep(PAUSE).await;
        }
        let mut counts = load.stop().await;
        took.sort_unstable();
        let median = took[took.len() / 2].as_secs_f64();
        println!("| {name} | {} | {median:.1} s |", row(&mut counts));
        if counts.pids.len() <= WORKERS as usize {
            return Err(failed("no worker was replaced".to_owned()));
        }
        lost.extend(counts.losses);
    }
    match lost.first() {
        None => Ok(()),
        Some(first) => {
            Err(failed(format!("{} requests were lost; the first: {first}", lost.len())))
        }
    }
}

fn row(counts: &mut Counts) -> String {
    let (requests, lost, retries) =
        (counts.latencies.len() + counts.losses.len(), counts.losses.len(), counts.retries);
    counts.latencies.sort_unstable();
    let at = |share: f64| {
        let last = counts.latencies.len().saturating_sub(1);
        let latency = counts.latencies.get((last as f64 * share) as usize);
        latency.map_or(0.0, |latency| latency.as_secs_f64() * 1e3)
    };
    let (p50, p99, most, pids) = (at(0.5), at(0.99), at(1.0), counts.pids.len());
    format!("{requests} | {lost} | {retries} | {p50:.1} ms | {p99:.1} ms | {most:.1} ms | {pids}")
}

fn failed(what: String) -> Error {
    Error::new(ErrorKind::Other, what)
}
