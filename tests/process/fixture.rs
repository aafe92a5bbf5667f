//! The program under test: a cluster whose processes behave as the arguments say.
//!
//! Keys of the master: `workers`, `ready_ms`, `stop_ms`, `backoff_ms` (first pause), `healthy_ms`,
//! `crash_loop`, `recycle_ms`, `program`, `asks=PATH` (see `fixture_ask.rs`),
//! `observer=fail|panic|stop` when the cluster is ready, `observer=abort|exit:CODE` at once, `run`
//! (`run().await` in place of `run_blocking()`).
//!
//! Behaviours of `agent=…`, `worker=…` (all workers), `worker0=…` (that one), `agent_next=…`,
//! `worker_next=…` (replacements alone):
//! `fail`, `panic`, `hang`, `die` before ready; `slow:MS` is ready late; `bind:PORT` fails
//! where the port is taken; after ready: `early` returns, `deaf`
//! never returns, `busy` blocks its whole runtime,
//! `hook:MS` cleans up for that long, `family` starts processes of its own, `family_panic` panics then,
//! `escape` starts one that leaves the process group
//! and keeps stderr open, `task_panic` has a task of its own panic, `fds` has a child list
//! its descriptors, `nested` starts this program again, `wait_cluster` waits for the cluster in its
//! set-up, which must not be possible to lock up anything but itself, `share` takes part in a
//! channel and publishes its name there.
//!
//! More keys and behaviours are in `fixture_health.rs`, `fixture_jobs.rs`, `fixture_ledger.rs`,
//! `fixture_listen.rs` and `fixture_order.rs`.
//! With the key `messenger` agent and workers send each other messages; see `talk.rs`.
//!
//! Each process writes lines `NAME PID WHAT …` to stdout.

use std::{
    collections::HashMap,
    io::Write,
    net::TcpListener,
    process::{Command, ExitCode, Stdio},
    thread,
    time::Duration,
};

use clap::Parser;
use cluster_client::{
    Agent, Cluster, Error, ErrorKind, Joining, Master, MasterBuilder, MasterEvent, MasterHandle,
    Options, Recycle, Result, Worker, cli, cluster_client,
};

use crate::{
    fixture_ask, fixture_health, fixture_jobs, fixture_ledger, fixture_listen, fixture_order, talk,
};

/// The arguments, as key and value.
pub(crate) type Keys = HashMap<String, String>;

pub(crate) fn main() -> ExitCode {
    let keys = keys();
    let cluster = describe(&keys);
    if keys.contains_key("run") {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        return match runtime.block_on(cluster.run()) {
            Ok(name) => {
                say("program", &format!("returned {name}"));
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("run failed: {error}");
                ExitCode::from(7)
            }
        };
    }
    cluster.run_blocking()
}

/// Names the variable with the keys of a fixture whose arguments are those of the command line.
pub(crate) const KEYS: &str = "FIXTURE_KEYS";

/// A fixture with the command line: the program's own arguments, or with the key `embed` beside
/// others.
pub(crate) fn command_line() -> ExitCode {
    let keys = keys();
    let cluster = describe(&keys);
    if !keys.contains_key("embed") {
        return cluster.main();
    }
    let Args { greeting, command } = Args::parse();
    match command {
        Some(command) => command.run(cluster.env("GREETING", greeting)),
        None => {
            println!("no command, {greeting}");
            ExitCode::SUCCESS
        }
    }
}

/// A program with arguments of its own.
#[derive(Parser)]
struct Args {
    #[arg(long, default_value = "hello", global = true)]
    greeting: String,
    #[command(subcommand)]
    command: Option<cli::Command>,
}

pub(crate) fn keys() -> Keys {
    let pair = |argument: String| match argument.split_once('=') {
        Some((key, value)) => (key.to_owned(), value.to_owned()),
        None => (argument, String::new()),
    };
    match std::env::var(KEYS) {
        Ok(keys) => keys.split_whitespace().map(str::to_owned).map(pair).collect(),
        Err(_) => std::env::args().skip(2).map(pair).collect(),
    }
}

fn describe(keys: &Keys) -> MasterBuilder {
    let number = |key: &str| keys.get(key).map(|value| value.parse::<u64>().unwrap());
    let millis = |key: &str| number(key).map(Duration::from_millis);
    let talks = keys.contains_key("messenger");
    let mut cluster = Master::builder()
        .workers(number("workers").unwrap_or(2) as u32)
        .env("FIXTURE_ENV", "from the master");
    if !keys.contains_key("agent_program") {
        cluster = if talks { cluster.agent(talk::agent) } else { cluster.agent(agent) };
    }
    if !keys.contains_key("worker_program") {
        cluster = if talks { cluster.worker(talk::worker) } else { cluster.worker(worker) };
    }
    if let Some(limit) = millis("ready_ms") {
        cluster = cluster.ready_timeout(limit);
    }
    if let Some(limit) = millis("stop_ms") {
        cluster = cluster.stop_timeout(limit);
    }
    if let Some(pause) = millis("backoff_ms") {
        cluster = cluster.restart_backoff(pause, pause * 8);
    }
    if let Some(time) = millis("healthy_ms") {
        cluster = cluster.healthy_after(time);
    }
    if let Some(deaths) = number("crash_loop") {
        cluster = cluster.crash_loop(deaths as u32);
    }
    if let Some(age) = millis("recycle_ms") {
        cluster = cluster.recycle(Recycle::default().age(age));
    }
    if let Some(program) = keys.get("program") {
        cluster = cluster.program(program).args(["1000"]);
    }
    cluster = fixture_health::describe(cluster, keys);
    cluster = fixture_jobs::describe(cluster, keys);
    cluster = fixture_listen::describe(cluster, keys);
    let observer = keys.get("observer").cloned().unwrap_or_default();
    cluster.observe(|handle| observe(handle, observer))
}

/// One line, in one write, so that lines of several processes do not mix.
pub(crate) fn say(name: &str, what: &str) {
    let line = format!("{name} {} {what}\n", std::process::id());
    std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
}

async fn observe(mut handle: MasterHandle, observer: String) {
    say("master", &format!("observes {}", handle.port()));
    fixture_listen::observe(&handle, &keys());
    match observer.split_once(':').unwrap_or((&observer, "")) {
        ("exit", code) => std::process::exit(code.parse().unwrap()),
        ("abort", _) => std::process::abort(),
        _ => {}
    }
    if let Some(scene) = keys().remove("messenger") {
        tokio::spawn(talk::master(handle.messenger(), scene));
    }
    if let Some(path) = keys().remove("asks") {
        let handle = handle.clone();
        tokio::spawn(async move { fixture_ask::answer(handle, path.as_ref()).await });
    }
    while let Some(event) = handle.next_event().await {
        match event {
            MasterEvent::Started { process, pid, generation, .. } => {
                say("master", &format!("started {process} {pid} {generation}"));
            }
            MasterEvent::Ready { process, pid, .. } => {
                say("master", &format!("ready {process} {pid}"));
            }
            MasterEvent::ClusterReady { port, .. } => {
                say("master", &format!("cluster-ready {port}"));
                tokio::spawn(fixture_jobs::by_hand(handle.clone(), keys()));
                match observer.as_str() {
                    "fail" => handle.fail("the observer has seen enough"),
                    "panic" => panic!("the observer is done for"),
                    "stop" => handle.stop(),
                    _ => {}
                }
            }
            MasterEvent::Died(death) => {
                let pause = death.restart_in.map(|pause| pause.as_millis());
                say("master", &format!("died {death}; restart in {pause:?}"));
            }
            MasterEvent::Unresponsive { process, pid, how, remedy, .. } => {
                say("master", &format!("unresponsive {process} {pid} {how} {remedy:?}"));
            }
            MasterEvent::Responsive { process, pid, .. } => {
                say("master", &format!("responsive {process} {pid}"));
            }
            MasterEvent::Panicked { process, pid, count, message, .. } => {
                say("master", &format!("panicked {process} {pid} {count} {message}"));
            }
            MasterEvent::SlotFailed { process, deaths, .. } => {
                say("master", &format!("failed {process} after {deaths}"));
            }
            MasterEvent::Replacing { process, pid, why, .. } => {
                say("master", &format!("replacing {process} {pid}: {why}"));
            }
            MasterEvent::Leaving { process, pid, .. } => {
                say("master", &format!("leaving {process} {pid}"));
            }
            MasterEvent::Reloading => say("master", "reloading"),
            MasterEvent::Reloaded { generation, .. } => {
                say("master", &format!("reloaded {generation}"));
            }
            MasterEvent::ReloadFailed { reason, .. } => {
                say("master", &format!("not-reloaded {}", reason.replace('\n', "|")));
            }
            MasterEvent::Scaled { workers, .. } => say("master", &format!("scaled to {workers}")),
            MasterEvent::Stopping => say("master", "stopping"),
            MasterEvent::Stopped { process, pid, exit, .. } => {
                say("master", &format!("stopped {process} {pid} {exit}"));
            }
            other => say("master", &format!("unknown {other:?}")),
        }
    }
    say("master", "observed the end");
}

/// A client that says what it is told.
struct Upstream;

#[cluster_client]
impl Upstream {
    #[connect]
    async fn connect() -> Result<Self> {
        say("agent", "connects");
        Ok(Self)
    }

    #[invoke]
    async fn add(&self, one: u64, other: u64) -> Result<u64> {
        tokio::time::sleep(Duration::from_millis(one % 20)).await;
        Ok(one + other)
    }

    #[publish]
    async fn publish(&self, name: String) -> Result<()> {
        say("agent", &format!("publishes {name}"));
        Ok(())
    }

    #[unpublish]
    async fn unpublish(&self, name: String) -> Result<()> {
        // As slow as a network.
        tokio::time::sleep(Duration::from_millis(200)).await;
        say("agent", &format!("withdraws {name}"));
        Ok(())
    }

    #[close]
    async fn close(&self) {
        if let Some(gate) = keys().get("close_gate") {
            say("agent", "waits to close");
            while !std::path::Path::new(gate).exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        say("agent", "closes");
    }
}

/// Takes part in the channel for ever, as one that keeps its clients in a static does.
async fn share(name: &str, behaviour: &str, joining: Joining<Upstream>) -> Result<()> {
    if behaviour == "calls" {
        let upstream = joining.await?;
        if name == "agent" {
            std::mem::forget(upstream);
        } else {
            tokio::spawn(call_for_ever(name.to_owned(), upstream));
        }
        return Ok(());
    }
    if behaviour == "share" {
        let options = Options { grace: Duration::from_secs(600), ..Options::default() };
        let upstream: Cluster<Upstream> = joining.options(options).await?;
        upstream.publish(name.to_owned()).await?;
        std::mem::forget(upstream);
    }
    Ok(())
}

/// Calls without a pause, and says so now and then, and when a call fails.
async fn call_for_ever(name: String, upstream: Cluster<Upstream>) {
    for count in 0_u64.. {
        match upstream.add(count, 1).await {
            Ok(sum) if sum == count + 1 => {}
            Ok(sum) => say(&name, &format!("got {sum} for {count} + 1")),
            // This process leaves its channels, because its function is done.
            Err(error) if error.kind() == ErrorKind::Closed => return,
            Err(error) => say(&name, &format!("lost a call: {error}")),
        }
        if count % 20 == 0 {
            say(&name, &format!("has called {count}"));
        }
    }
}

async fn agent(agent: Agent) -> Result<()> {
    let keys = keys();
    let replacement = (agent.generation() > 0).then_some("agent_next");
    let behaviour = behaviour(&keys, [replacement, Some("agent")]);
    say("agent", &format!("runs {} {}", agent.port(), agent.generation()));
    before_ready(&behaviour).await?;
    if behaviour == "wait_cluster" {
        agent.cluster_ready().await;
    }
    share("agent", &behaviour, agent.cluster(())).await?;
    fixture_ledger::agent(&agent, &keys, &behaviour).await?;
    let farewells = fixture_order::listen(&agent, &behaviour);
    agent.ready().await?;
    say("agent", "ready");
    let waits = agent.clone();
    tokio::spawn(async move {
        waits.cluster_ready().await;
        say("agent", "cluster-ready");
    });
    if behaviour == "early" {
        return Ok(());
    }
    after_ready("agent", &behaviour).await;
    agent.shutdown().await;
    fixture_order::hear(farewells).await;
    finish("agent", &behaviour).await;
    fixture_health::end(&behaviour)
}

async fn worker(worker: Worker) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let keys = keys();
    let name = format!("worker-{}", worker.index());
    let replacement = (worker.generation() > 0).then_some("worker_next");
    let own = format!("worker{}", worker.index());
    let behaviour = behaviour(&keys, [replacement, Some(&own), Some("worker")]);
    let (port, count, generation) = (worker.port(), worker.count(), worker.generation());
    say(&name, &format!("runs {port} {generation} of {count}"));
    fixture_jobs::schedule(&worker, &name, &keys)?;
    before_ready(&behaviour).await?;
    if behaviour == "wait_cluster" {
        worker.cluster_ready().await;
    }
    share(&name, &behaviour, worker.cluster()).await?;
    fixture_listen::serve(&worker, &keys, &behaviour)?;
    let calls = fixture_ledger::worker(&worker, &name, &behaviour).await?;
    fixture_order::worker(&worker, &name, &behaviour).await?;
    worker.ready().await?;
    worker.ready().await?;
    say(&name, "ready");
    let (waits, waits_name) = (worker.clone(), name.clone());
    tokio::spawn(async move {
        waits.cluster_ready().await;
        say(&waits_name, "cluster-ready");
    });
    if behaviour == "early" {
        return Ok(());
    }
    after_ready(&name, &behaviour).await;
    worker.shutdown().await;
    calls.end(&name).await?;
    finish(&name, &behaviour).await;
    Ok(fixture_health::end(&behaviour)?)
}

/// The behaviour under the first of these keys that was given; `file:PATH` is what is in that file
/// when the process starts.
pub(crate) fn behaviour<const N: usize>(keys: &Keys, of: [Option<&str>; N]) -> String {
    let given = of.into_iter().flatten().find_map(|key| keys.get(key).cloned());
    let given = given.unwrap_or_default();
    match given.strip_prefix("file:") {
        Some(path) => std::fs::read_to_string(path).unwrap(),
        None => given,
    }
}

async fn before_ready(behaviour: &str) -> Result<()> {
    match behaviour.split_once(':').unwrap_or((behaviour, "")) {
        ("fail", _) => {
            eprintln!("a line before the failure");
            return Err(Error::new(ErrorKind::Connect, "no upstream for the fixture"));
        }
        ("panic", _) => panic!("the fixture panics"),
        ("hang", _) => {
            eprintln!("a line before the hang");
            std::future::pending().await
        }
        ("die", _) => std::process::abort(),
        ("slow", millis) => tokio::time::sleep(millis_of(millis)).await,
        ("bind", port) => {
            let port: u16 = port.parse().unwrap();
            TcpListener::bind(("127.0.0.1", port))
                .map_err(|error| Error::new(ErrorKind::PortBusy, format!("bind: {error}")))?;
        }
        _ => {}
    }
    Ok(())
}

async fn after_ready(name: &str, behaviour: &str) {
    match behaviour {
        "deaf" => std::future::pending().await,
        "busy" => {
            say(name, "blocks");
            let handle = tokio::runtime::Handle::current();
            for _ in 0..handle.metrics().num_workers() + 1 {
                handle.spawn(async {
                    loop {
                        thread::sleep(Duration::from_secs(3600));
                    }
                });
            }
            loop {
                thread::sleep(Duration::from_secs(3600));
            }
        }
        "family" => start_family(name),
        "family_panic" => {
            start_family(name);
            panic!("the fixture panics with a family");
        }
        "escape" => {
            let mut escaped = Command::new("setsid");
            escaped.args(["sleep", "60"]).stdout(Stdio::null());
            let mut escaped = escaped.spawn().unwrap();
            thread::spawn(move || escaped.wait());
            say(name, "lets one escape");
        }
        "task_panic" => {
            let task = tokio::spawn(async { panic!("a task of the fixture panics") });
            say(name, &format!("lost a task: {}", task.await.unwrap_err().is_panic()));
        }
        "fds" => {
            let listed = Command::new("ls").arg("/proc/self/fd").output().unwrap();
            let listed = String::from_utf8(listed.stdout).unwrap();
            say(name, &format!("fds {}", listed.split_whitespace().collect::<Vec<_>>().join(",")));
        }
        "nested" => {
            let own = std::env::current_exe().unwrap();
            let mut nested = Command::new(own);
            nested.args(["--fixture", "workers=1", "observer=stop"]);
            nested.stdout(Stdio::inherit());
            let mut nested = nested.spawn().unwrap();
            say(name, &format!("nests {}", nested.id()));
            thread::spawn(move || nested.wait());
        }
        other => fixture_health::after_ready(name, other).await,
    }
}

/// Three grandchildren: one that goes at SIGTERM, one that does not, and one that does not and
/// forks another at SIGTERM.
fn start_family(name: &str) {
    let scripts = [
        "exec sleep 1000",
        "trap '' TERM; while :; do sleep 1000; done",
        "trap 'sleep 1000 & echo \"late $$ $!\"' TERM; while :; do sleep 1000; done",
    ];
    for script in scripts {
        let mut grandchild = Command::new("sh").args(["-c", script]).spawn().unwrap();
        say(name, &format!("grandchild {}", grandchild.id()));
        thread::spawn(move || grandchild.wait());
    }
}

async fn finish(name: &str, behaviour: &str) {
    say(name, "shuts down");
    if let Some(("hook", millis)) = behaviour.split_once(':') {
        tokio::time::sleep(millis_of(millis)).await;
        say(name, "hook is done");
    }
}

pub(crate) fn millis_of(text: &str) -> Duration {
    Duration::from_millis(text.parse().unwrap())
}
