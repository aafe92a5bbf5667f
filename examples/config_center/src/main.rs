//! One agent that holds the connection to etcd, and N workers that use it as if it were theirs.

use std::{error::Error, io::IsTerminal, process::ExitCode, time::Duration};

use clap::Parser;
use cluster_client::{Agent, Change, Cluster, Master, Worker, cli::Command};
use config_center::{
    api::ApiClient,
    client::{ConfigClient, ConfigOptions, Entry, Instance},
    report::{Event, Reporter},
};

/// Watches a key of etcd in many processes over one connection.
#[derive(Debug, Clone, Parser)]
struct Args {
    /// URL of a member of the etcd cluster; give it once for each.
    #[arg(long, global = true, default_value = "http://127.0.0.1:2379")]
    etcd: Vec<String>,
    /// How many workers to run.
    #[arg(long, default_value_t = 4)]
    workers: u32,
    /// The key that each worker watches.
    #[arg(long, global = true, default_value = "app/config")]
    key: String,
    /// The service of which each worker registers as an instance.
    #[arg(long, global = true, default_value = "config_center")]
    service: String,
    /// Also watch the instances of the service.
    #[arg(long, global = true)]
    instances: bool,
    /// Seconds after which etcd drops the registrations of a host that died.
    #[arg(long, global = true, default_value_t = 5)]
    lease_ttl: u64,
    /// Report as JSON, one object a line.
    #[arg(long)]
    json: bool,
    /// Without one, the cluster runs in the foreground.
    #[command(subcommand)]
    command: Option<Command>,
}

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

fn main() -> ExitCode {
    // The children get the same arguments, so that this line is the same in every process.
    let args = Args::parse();
    let is_terminal = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(is_terminal).init();
    let (for_agent, for_worker) = (args.clone(), args.clone());
    let cluster = Master::builder()
        .workers(args.workers)
        .agent(move |agent| run_agent(agent, for_agent.clone()))
        .worker(move |worker| run_worker(worker, for_worker.clone()));
    match args.command {
        Some(command) => command.run(cluster),
        // Many at once may run so, as in the tests: they are no instances to be found.
        None => cluster.run_blocking(),
    }
}

async fn run_agent(agent: Agent, args: Args) -> Outcome {
    let report = Reporter::new("agent".to_owned(), args.json);
    let options =
        ConfigOptions { endpoints: args.etcd, lease_ttl: Duration::from_secs(args.lease_ttl) };
    let client = agent.cluster::<ConfigClient>(options).await?;
    report.tell(Event::Leads);
    agent.ready().await?;
    agent.shutdown().await;
    Cluster::close(client).await;
    Ok(())
}

async fn run_worker(worker: Worker, args: Args) -> Outcome {
    let report = Reporter::new(format!("worker {}", worker.index()), args.json);
    let client = worker.cluster::<ConfigClient>().await?;
    let api = ApiClient::new(client.clone());
    api.load(&[&args.key]).await?;
    let address = format!("127.0.0.1:{}", 8000 + worker.index());
    client.register(Instance::new(&args.service, address)).await?;
    worker.ready().await?;
    report.tell(Event::Ready);

    let watch_config = watch_config(&client, &api, &args.key, &report);
    let watch_instances = watch_instances(&client, &args, &report);
    let read = read(&api, &args.key, &report);
    tokio::select! {
        () = watch_config => {}
        () = watch_instances => {}
        () = read => {}
        () = worker.shutdown() => {}
    }
    Cluster::close(client).await;
    Ok(())
}

/// Reports each change of the key, until the client is closed.
async fn watch_config(
    client: &Cluster<ConfigClient>,
    api: &ApiClient,
    key: &str,
    report: &Reporter,
) {
    let mut config = client.watch(key);
    loop {
        let key = key.to_owned();
        let text = |entry: &Option<Entry>| entry.as_ref().map(|entry| entry.value.clone());
        report.tell(match config.changed().await {
            Change::Value { value, .. } => {
                let revision = value.as_ref().as_ref().map_or(0, |entry| entry.revision);
                Event::Value { key, value: text(&value), revision }
            }
            Change::Stale { cause, .. } => {
                Event::Stale { value: api.config(&key), key, cause: cause.to_string() }
            }
            Change::Live { value } => Event::Live { key, value: text(&value) },
            _ => return,
        });
    }
}

/// Reports each change of the instances, where that is wanted.
async fn watch_instances(client: &Cluster<ConfigClient>, args: &Args, report: &Reporter) {
    if !args.instances {
        return std::future::pending().await;
    }
    let mut instances = client.instances(&args.service);
    loop {
        match instances.changed().await {
            Change::Value { value, .. } => {
                let addresses = value.iter().map(|instance| instance.address.clone()).collect();
                report.tell(Event::Instances { addresses });
            }
            Change::Closed { .. } => return,
            _ => {}
        }
    }
}

/// Reads the key all the time, as an application does for each request.
async fn read(api: &ApiClient, key: &str, report: &Reporter) {
    let mut had_value = false;
    let mut pace = tokio::time::interval(Duration::from_millis(10));
    loop {
        pace.tick().await;
        let has_value = api.config(key).is_some();
        if had_value && !has_value {
            report.tell(Event::Unreadable { key: key.to_owned() });
        }
        had_value = has_value;
    }
}
