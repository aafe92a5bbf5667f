//! kill -9 of the agent: how long until every subscription of every worker is live again with a
//! value of the new agent's client, and how often that client was asked to subscribe.
//!
//! A master runs one agent and the workers, each a process; the master keeps the port, so that
//! connections wait while there is no agent. The value of every key is the agent's generation, so
//! that one which is left over counts for nothing.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    process::{Command, ExitCode},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use cluster_client::{Agent, Change, Cluster, Error, Master, Worker, cluster_client};
use futures::{Stream, StreamExt as _, stream};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncReadExt as _;

use crate::{
    contestants::Who,
    harness::{Child, Part, Plan, Process, Result},
    report::{Goal, Row},
};

pub(crate) const RECOVERY: &str = "recovery";

/// How long the cluster may take to start, or to recover.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn run(plan: &Plan) -> Result<Vec<Row>> {
    let (followers, keys) = if plan.smoke { (4, 50) } else { (64, 500) };
    let (stage, mut show) = Show::open()?;
    let child = Child {
        job: RECOVERY.to_owned(),
        who: Who::Ours,
        part: Part::Server,
        port: 0,
        control: stage,
        n: followers,
        keys,
    };
    let mut command = Command::new(std::env::current_exe()?);
    command.args(child.to_args());
    let _master = Process::start(command)?;
    let mut agent = show.until_live(0, followers)?.agent;
    let (mut times, mut subscribes) = (Vec::new(), Vec::new());
    for round in 0..plan.rounds.min(5) {
        let killed = Instant::now();
        kill_process(agent, Signal::KILL)?;
        let scene = show.until_live(round as u64 + 1, followers)?;
        times.push((scene.at - killed).as_secs_f64() * 1e3);
        subscribes.push(scene.subscribes as f64);
        agent = scene.agent;
    }
    let workload = format!("recovery, {followers} followers × {keys} keys");
    let row = |figure, unit, goal| Row::new(&workload, figure, unit, Goal::AtMost(goal));
    Ok(vec![
        row("kill -9 to all live", "ms", 1_000.0).with_rounds(Who::Ours, times),
        row("upstream subscribes", "", keys as f64).with_rounds(Who::Ours, subscribes),
    ])
}

/// What the processes of the cluster say.
struct Show(mpsc::Receiver<(String, u64, i32, Instant)>);

/// All workers live under one generation of the agent.
struct Scene {
    agent: Pid,
    subscribes: u64,
    at: Instant,
}

impl Show {
    fn open() -> Result<(u16, Self)> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let port = listener.local_addr()?.port();
        let (sender, said) = mpsc::channel();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let sender = sender.clone();
                thread::spawn(move || {
                    for line in BufReader::new(stream).lines().map_while(std::io::Result::ok) {
                        let mut words = line.split(' ');
                        let (Some(what), Some(generation), Some(pid)) =
                            (words.next(), number(words.next()), number(words.next()))
                        else {
                            return;
                        };
                        // The bench may be over.
                        let _ =
                            sender.send((what.to_owned(), generation, pid as i32, Instant::now()));
                    }
                });
            }
        });
        Ok((port, Self(said)))
    }

    fn until_live(&mut self, generation: u64, followers: u64) -> Result<Scene> {
        let (mut agent, mut subscribes, mut live) = (None, 0, 0);
        loop {
            let (what, of, pid, at) = self
                .0
                .recv_timeout(PATIENCE)
                .map_err(|_| format!("{live} of {followers} workers are live after a minute"))?;
            if of != generation {
                continue;
            }
            match &*what {
                "agent" => agent = Pid::from_raw(pid),
                "subscribed" => subscribes += 1,
                _ => live += 1,
            }
            if let Some(agent) = agent.filter(|_| live == followers) {
                return Ok(Scene { agent, subscribes, at });
            }
        }
    }
}

fn number(word: Option<&str>) -> Option<u64> {
    word?.parse().ok()
}

/// A process's line to the show.
#[derive(Debug, Clone)]
struct Stage(Arc<Mutex<TcpStream>>);

impl Stage {
    fn enter(port: u16) -> std::io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        Ok(Self(Arc::new(Mutex::new(stream))))
    }

    fn say(&self, what: &str, generation: u64) {
        let line = format!("{what} {generation} {}\n", std::process::id());
        let mut stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A bench that is over needs no more lines.
        let _ = stream.write_all(line.as_bytes());
    }
}

/// The client that the agent holds.
struct Upstream {
    stage: Stage,
    generation: u64,
}

#[cluster_client]
impl Upstream {
    #[connect]
    async fn connect(upstream: (Stage, u64)) -> std::result::Result<Self, Error> {
        Ok(Self { stage: upstream.0, generation: upstream.1 })
    }

    /// The agent's generation, for ever.
    #[subscribe]
    fn generation_of(&self, key: u64) -> impl Stream<Item = (u64, u64)> + Send + use<> {
        self.stage.say("subscribed", self.generation);
        let generation = self.generation;
        stream::once(async move { (generation, key) }).chain(stream::pending())
    }
}

/// Runs the master, the agent or a worker, whichever this process is.
pub(crate) fn cluster(child: &Child) -> ExitCode {
    let (stage, keys) = (child.control, child.keys);
    Master::builder()
        .workers(child.n as u32)
        .current_thread()
        .healthy_after(Duration::ZERO)
        .ready_timeout(PATIENCE)
        .agent(move |agent| run_agent(agent, stage))
        .worker(move |worker| run_worker(worker, stage, keys))
        .observe(|master| async move {
            // The bench closes it when it is done.
            let _ = tokio::io::stdin().read_to_end(&mut Vec::new()).await;
            master.stop();
        })
        .run_blocking()
}

async fn run_agent(agent: Agent, stage: u16) -> Result<()> {
    let stage = Stage::enter(stage)?;
    let generation = u64::from(agent.generation());
    let _upstream = agent.cluster::<Upstream>((stage.clone(), generation)).await?;
    stage.say("agent", generation);
    agent.ready().await?;
    agent.shutdown().await;
    Ok(())
}

async fn run_worker(worker: Worker, stage: u16, keys: u64) -> Result<()> {
    let stage = Stage::enter(stage)?;
    let upstream = worker.cluster::<Upstream>().await?;
    worker.ready().await?;
    tokio::select! {
        () = worker.shutdown() => Ok(()),
        outcome = watch(&upstream, &stage, keys) => outcome,
    }
}

/// Says so whenever all keys are live with a value of the same agent.
async fn watch(upstream: &Cluster<Upstream>, stage: &Stage, keys: u64) -> Result<()> {
    let changes = (0..keys).map(|key| {
        let mut subscription = upstream.generation_of(key);
        stream::poll_fn(move |cx| subscription.poll_changed(cx).map(Some))
    });
    let mut changes = stream::select_all(changes);
    let (mut generation, mut live) = (0, 0);
    while let Some(change) = changes.next().await {
        match change {
            Change::Value { value, .. } => {
                if value.0 != generation {
                    (generation, live) = (value.0, 0);
                }
                live += 1;
                if live == keys {
                    stage.say("live", generation);
                }
            }
            Change::Closed { cause } => return Err(cause.into()),
            _ => {}
        }
    }
    Ok(())
}
