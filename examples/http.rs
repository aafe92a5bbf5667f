//! An HTTP server whose workers are replaced under load without losing a request.
//!
//! The master binds the port, all workers serve axum on it. The example makes requests, reloads the
//! cluster in the midst of them, counts, and ends: with an error, if one request was lost.
//!
//! `cargo run --example http -- --keep` goes on until ctrl-c; `kill -HUP` of the master reloads it.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{Router, extract::State, routing::get};
use cluster_client::{Agent, Error, Master, MasterEvent, MasterHandle, Result, Worker};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::sleep,
};

#[path = "http/drain.rs"]
mod drain;

/// How long a worker that is to go holds idle connections. Less than the master's `stop_timeout`.
const DRAIN: Duration = Duration::from_secs(1);

/// How many clients ask at a time in the demonstration.
const CLIENTS: usize = 16;

pub(crate) fn main() -> ExitCode {
    let keep = std::env::args().any(|argument| argument == "--keep");
    let address = if keep { "127.0.0.1:7001" } else { "127.0.0.1:0" };
    Master::builder()
        .workers(2)
        .listen("http", address)
        .agent(agent)
        .worker(worker)
        .observe(move |handle| observe(handle, keep))
        .run_blocking()
}

/// Here the one client of each upstream would be led; see the other examples.
async fn agent(agent: Agent) -> Result<()> {
    agent.ready().await?;
    agent.shutdown().await;
    Ok(())
}

async fn worker(worker: Worker) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let listener = worker.listener("http")?;
    let app = Router::new().route("/", get(who)).with_state(worker.clone());
    worker.ready().await?;
    let shutdown = async move { worker.shutdown().await };
    drain::serve(listener, app, shutdown, DRAIN).await?;
    Ok(())
}

/// Says which process answers.
async fn who(State(worker): State<Worker>) -> String {
    format!("worker {} (pid {})", worker.index(), std::process::id())
}

/// Runs beside the master.
async fn observe(mut handle: MasterHandle, keep: bool) {
    while let Some(event) = handle.next_event().await {
        if let MasterEvent::ClusterReady { .. } = event {
            break;
        }
    }
    let Some(address) = handle.listening("http") else { return };
    println!("listening on http://{address}");
    if keep {
        return;
    }
    match demonstrate(&handle, address).await {
        Ok(()) => handle.stop(),
        Err(error) => handle.fail(error.to_string()),
    }
}

/// Requests all the while, and a reload in the middle.
async fn demonstrate(handle: &MasterHandle, address: SocketAddr) -> Result<()> {
    let enough = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> =
        (0..CLIENTS).map(|_| tokio::spawn(ask_until(address, Arc::clone(&enough)))).collect();
    sleep(Duration::from_millis(500)).await;
    handle.reload().await?;
    sleep(Duration::from_millis(500)).await;
    enough.store(true, Ordering::Relaxed);

    let mut answers = BTreeMap::new();
    for client in clients {
        let asked = client.await.map_err(|error| failed(error.to_string()))?;
        for answer in asked.map_err(|error| failed(format!("a request was lost: {error}")))? {
            *answers.entry(answer).or_insert(0) += 1;
        }
    }
    for (who, count) in &answers {
        println!("{count:>6} answers of {who}");
    }
    if answers.len() < 3 {
        return Err(failed("no worker was replaced".to_owned()));
    }
    println!(
        "{} requests, none lost while all workers were replaced",
        answers.values().sum::<u32>()
    );
    Ok(())
}

fn failed(what: String) -> Error {
    Error::new(cluster_client::ErrorKind::Other, what)
}

/// One request after another, each on a connection of its own. Who answered.
async fn ask_until(address: SocketAddr, enough: Arc<AtomicBool>) -> std::io::Result<Vec<String>> {
    let mut answers = Vec::new();
    while !enough.load(Ordering::Relaxed) {
        let mut connection = TcpStream::connect(address).await?;
        connection.write_all(b"GET / HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n").await?;
        let mut response = String::new();
        connection.read_to_string(&mut response).await?;
        match response.split_once("\r\n\r\n") {
            Some((head, body)) if head.starts_with("HTTP/1.1 200") => answers.push(body.to_owned()),
            _ => return Err(std::io::Error::other(format!("no answer but {response:?}"))),
        }
        sleep(Duration::from_millis(2)).await;
    }
    Ok(answers)
}
