//! One agent holds the connection to a registry, N workers use it as if each had its own.
//!
//! ```sh
//! cargo run --example registry                            # a show of ten seconds at most
//! cargo run --example registry -- --workers 8             # with more workers
//! cargo run --example registry -- --workers 4 --keep      # stays up; ctrl-c stops it
//! ```
//!
//! The registry itself is in `upstream.rs`, the client of it in `client.rs`. `stage.rs` and
//! `show.rs` are the show: kill the agent, kill a worker, and tell what everybody saw.

mod client;
mod show;
mod stage;
mod upstream;

use std::{error::Error, net::SocketAddr, process::ExitCode};

use cluster_client::{Agent, Change, Cluster, Master, MasterBuilder, Worker};

use crate::{
    client::{Registration, RegistryClient, RegistryOptions},
    stage::{Actor, Saw, Stage},
    upstream::Upstream,
};

/// The service whose instances register and find each other.
const SERVICE: &str = "demo.DemoService";

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

fn main() -> ExitCode {
    let args = match Args::parse(std::env::args().skip(1)) {
        Ok(Some(args)) => args,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(problem) => {
            eprintln!("{problem}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    // The children find the registry and the stage by these, which the first process sets.
    match (address(REGISTRY), address(STAGE)) {
        (Some(registry), Some(stage)) => cluster(args, registry, stage).main(),
        _ => match (Upstream::start(), Stage::open()) {
            (Ok(upstream), Ok(stage)) => cluster(args, upstream.address(), stage.address())
                .observe(move |master| show::run(master, stage, upstream, args))
                .main(),
            (Err(error), _) | (_, Err(error)) => {
                eprintln!("can't listen: {error}");
                ExitCode::FAILURE
            }
        },
    }
}

/// The cluster, as each of its processes describes it.
fn cluster(args: Args, registry: SocketAddr, stage: SocketAddr) -> MasterBuilder {
    Master::builder()
        .workers(args.workers)
        .env(REGISTRY, registry.to_string())
        .env(STAGE, stage.to_string())
        .agent(move |agent| run_agent(agent, registry, stage))
        .worker(move |worker| run_worker(worker, stage))
}

async fn run_agent(agent: Agent, registry: SocketAddr, stage: SocketAddr) -> Outcome {
    let actor = Actor::enter(stage, "agent".to_owned())?;
    let options = RegistryOptions { address: registry };
    let client = agent.cluster::<RegistryClient>(options).await?;
    actor.say(Saw::Leads);
    agent.ready().await?;
    agent.shutdown().await;
    Cluster::close(client).await;
    Ok(())
}

async fn run_worker(worker: Worker, stage: SocketAddr) -> Outcome {
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

const USAGE: &str = "usage: registry [--workers N] [--keep]

  --workers N   how many workers to run, at least 2 (default 3)
  --keep        stay up until ctrl-c, and kill nobody";

/// What the user asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Args {
    workers: u32,
    keep: bool,
}

impl Args {
    /// What the arguments say; `None` where they ask for help.
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Option<Self>, String> {
        let mut parsed = Self { workers: 3, keep: false };
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--help" | "-h" => return Ok(None),
                "--keep" => parsed.keep = true,
                "--workers" => {
                    let number = args.next().and_then(|number| number.parse().ok());
                    parsed.workers = number
                        .filter(|number| (2..=250).contains(number))
                        .ok_or("--workers takes a number from 2 to 250")?;
                }
                other => return Err(format!("unknown argument {other}")),
            }
        }
        Ok(Some(parsed))
    }
}
