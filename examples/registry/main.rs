//! One agent holds the connection to a registry, N workers use it as if each had its own.
//!
//! ```sh
//! cargo run --example registry                                # a show of ten seconds at most
//! cargo run --example registry -- --workers 8                 # with more workers
//! cargo run --example registry -- start                       # stays up; ctrl-c stops it
//! cargo run --example registry -- start --daemon --workers 4  # stays up in the background
//! cargo run --example registry -- status                      # and reload, scale 6, logs, stop
//! ```
//!
//! The registry itself is in `upstream.rs`, the client of it in `client.rs`. `stage.rs` and
//! `show.rs` are the show: kill the agent, kill a worker, and tell what everybody saw.

mod client;
mod show;
mod stage;
mod upstream;

use std::{error::Error, net::SocketAddr, process::ExitCode};

use clap::Parser;
use cluster_client::{Agent, Change, Cluster, Master, MasterBuilder, Worker, cli::Command};

use crate::{
    client::{Registration, RegistryClient, RegistryOptions},
    stage::{Actor, Saw, Stage},
    upstream::Upstream,
};

/// The service whose instances register and find each other.
const SERVICE: &str = "demo.DemoService";

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

/// One agent holds the connection to a registry, N workers use it as if each had its own. Without a
/// command: a show, in which processes are killed, of ten seconds at most.
#[derive(Debug, Parser)]
struct Args {
    /// How many workers the show has
    #[arg(long, value_name = "N", default_value_t = 3)]
    #[arg(value_parser = clap::value_parser!(u32).range(2..=250))]
    workers: u32,
    #[command(subcommand)]
    command: Option<Command>,
}

fn main() -> ExitCode {
    // Agent and workers get the same arguments, so that this is the same in every process.
    let Args { workers, command } = Args::parse();
    // They find the registry and the stage by these, which the first process sets.
    let outcome = match (address(REGISTRY), command) {
        (Some(registry), command) => {
            Ok(command.unwrap_or_default().run(cluster(registry, address(STAGE))))
        }
        (None, Some(command)) => Upstream::start()
            .map(|upstream| command.run(cluster(upstream.address(), None).workers(workers))),
        (None, None) => give_show(workers),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("can't listen: {error}");
        ExitCode::FAILURE
    })
}

fn give_show(workers: u32) -> std::io::Result<ExitCode> {
    let (upstream, stage) = (Upstream::start()?, Stage::open()?);
    let cluster = cluster(upstream.address(), Some(stage.address())).workers(workers);
    let show = move |master| show::run(master, stage, upstream, workers as usize);
    Ok(cluster.observe(show).run_blocking())
}

/// The cluster, as each of its processes describes it.
fn cluster(registry: SocketAddr, stage: Option<SocketAddr>) -> MasterBuilder {
    let mut cluster = Master::builder().env(REGISTRY, registry.to_string());
    if let Some(stage) = stage {
        cluster = cluster.env(STAGE, stage.to_string());
    }
    cluster
        .agent(move |agent| run_agent(agent, registry, stage))
        .worker(move |worker| run_worker(worker, stage))
}

async fn run_agent(agent: Agent, registry: SocketAddr, stage: Option<SocketAddr>) -> Outcome {
    let actor = Actor::enter(stage, "agent".to_owned())?;
    let options = RegistryOptions { address: registry };
    let client = agent.cluster::<RegistryClient>(options).await?;
    actor.say(Saw::Leads);
    agent.ready().await?;
    agent.shutdown().await;
    Cluster::close(client).await;
    Ok(())
}

async fn run_worker(worker: Worker, stage: Option<SocketAddr>) -> Outcome {
    let actor = Actor::enter(stage, format!("worker {}", worker.index()))?;
    let registry = worker.cluster::<RegistryClient>().await?;
    let mut urls = registry.subscribe(SERVICE);
    let url = format!("http://10.0.0.{}:80", worker.index() + 1);
    registry.publish(Registration::new(SERVICE, url)).await?;
    actor.say(Saw::Config(registry.get_config(SERVICE).await?));
    worker.ready().await?;
    loop {
        let change = tokio::select! {
            change = urls.changed() => change,
            () = worker.shutdown() => break,
        };
        match change {
            Change::Value { value, .. } => actor.say(Saw::Urls(value.to_vec())),
            Change::Stale { cause, .. } => {
                // The last value can be read all the same.
                let still = urls.current().map(|urls| urls.to_vec()).unwrap_or_default();
                actor.say(Saw::Stale(cause.to_string(), still));
            }
            Change::Live { value } => actor.say(Saw::Live(value.to_vec())),
            _ => break,
        }
    }
    Cluster::close(registry).await;
    Ok(())
}

/// Names of the environment variables with the addresses of the registry and of the stage.
const REGISTRY: &str = "EXAMPLE_REGISTRY";
const STAGE: &str = "EXAMPLE_STAGE";

fn address(variable: &str) -> Option<SocketAddr> {
    std::env::var(variable).ok()?.parse().ok()
}
