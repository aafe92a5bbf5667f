//! Processes that send each other messages, as the key `messenger` says. A line `NAME PID got ACTION
//! DATA from NAME PID` is a message that came; `receipt ACTION TAKEN UNHANDLED NO_ROOM LOST` and
//! `failed ACTION KIND` are what became of one that was sent.

use std::{fs, path::PathBuf, time::Duration};

use cluster_client::{Agent, Messenger, Result, Sent, Worker};
use tokio::task::JoinSet;

use crate::fixture::{keys, say};

/// Longer than anything takes on a busy machine.
const LONG: Duration = Duration::from_secs(25);

fn scene() -> String {
    keys().remove("messenger").unwrap_or_default()
}

/// Says what comes under these actions.
fn listen(name: &str, messenger: &Messenger, actions: &[&'static str]) {
    for action in actions.iter().copied() {
        let (name, mut messages) = (name.to_owned(), messenger.on::<u32>(action));
        tokio::spawn(async move {
            while let Ok(message) = messages.recv().await {
                let (data, from, pid) = (message.data, message.from, message.pid);
                say(&name, &format!("got {action} {data} from {from} {pid}"));
            }
        });
    }
}

/// Says what becomes of what was sent.
async fn tell(name: &str, action: &str, sent: Result<Sent>) -> bool {
    let receipt = match sent {
        Ok(sent) => sent.receipt().within(LONG).await,
        Err(error) => Err(error),
    };
    match &receipt {
        Ok(it) => {
            let counts = format!("{} {} {} {}", it.taken, it.unhandled, it.no_room, it.lost);
            say(name, &format!("receipt {action} {counts}"));
        }
        Err(error) => say(name, &format!("failed {action} {}", error.kind())),
    }
    receipt.is_ok()
}

pub(crate) async fn master(messenger: Messenger, scene: String) {
    if scene != "fanout" {
        return;
    }
    listen("master", &messenger, &["pong"]);
    let ping = messenger.broadcast("ping", &0);
    say("master", &format!("held {}", ping.as_ref().is_ok_and(Sent::is_held)));
    tell("master", "ping", ping).await;
    tell("master", "m-agent", messenger.send_to_agent("agent", &9)).await;
    tell("master", "m-app", messenger.send_to_app("m-app", &9)).await;
    tell("master", "m-random", messenger.send_random("m-random", &9)).await;
}

pub(crate) async fn agent(agent: Agent) -> Result<()> {
    let messenger = agent.messenger();
    let scene = scene();
    say("agent", &format!("runs {}", agent.generation()));
    match scene.as_str() {
        "fanout" => agent_fans_out(&agent, &messenger).await?,
        "random" => agent_picks(&agent, &messenger).await?,
        "held" => agent_holds(&agent, &messenger).await?,
        "peers" => agent_watches(&agent, &messenger).await?,
        "away" => {
            listen("agent", &messenger, &["note"]);
            agent.ready().await?;
        }
        "flood" => {
            // It listens, and never reads.
            let flood = messenger.on::<String>("flood");
            agent.ready().await?;
            agent.shutdown().await;
            drop(flood);
        }
        other => panic!("no scene `{other}`"),
    }
    agent.shutdown().await;
    Ok(())
}

pub(crate) async fn worker(worker: Worker) -> Result<()> {
    let name = format!("worker-{}", worker.index());
    let messenger = worker.messenger();
    let scene = scene();
    say(&name, &format!("runs {}", worker.generation()));
    match scene.as_str() {
        "fanout" => worker_fans_out(&name, &worker, &messenger).await?,
        "random" => worker_counts(&name, &worker, &messenger).await?,
        "held" => {
            count_early(&name, &messenger);
            worker.ready().await?;
        }
        "peers" => worker_watches(&name, &worker, &messenger).await?,
        "away" => worker_notes(&name, &worker, &messenger).await?,
        "flood" => worker_floods(&name, &worker, &messenger).await?,
        other => panic!("no scene `{other}`"),
    }
    worker.shutdown().await;
    if scene == "fanout" {
        // Not awaited: the process ends at once.
        messenger.broadcast("bye", &worker.index())?;
    }
    Ok(())
}

/// Answers the sender of a ping.
fn answer_pings(messenger: &Messenger) {
    let (messenger, mut pings) = (messenger.clone(), messenger.on::<u32>("ping"));
    tokio::spawn(async move {
        while let Ok(ping) = pings.recv().await {
            messenger.send_to(ping.pid, "pong", &1).unwrap();
        }
    });
}

async fn agent_fans_out(agent: &Agent, messenger: &Messenger) -> Result<()> {
    listen("agent", messenger, &["all", "app", "agent", "one", "boom", "bye"]);
    answer_pings(messenger);
    agent.ready().await?;
    agent.cluster_ready().await;
    tell("agent", "all", messenger.broadcast("all", &0)).await;
    let peers = agent.peers().current();
    if let Some(worker) = peers.first() {
        tell("agent", "one", messenger.send_to(worker.pid, "one", &1)).await;
    }
    tell("agent", "nobody", messenger.send_to(u32::MAX, "one", &1)).await;
    tell("agent", "large", messenger.broadcast("all", &"x".repeat(70_000))).await;
    tell("agent", "unheard", messenger.broadcast("unheard", &1)).await;
    if peers.is_empty() {
        tell("agent", "random", messenger.send_random("all", &1)).await;
    }
    for number in 0..2 {
        tell("agent", "boom", messenger.broadcast("boom", &number)).await;
    }
    Ok(())
}

async fn worker_fans_out(name: &str, worker: &Worker, messenger: &Messenger) -> Result<()> {
    listen(name, messenger, &["all", "app", "agent", "one", "boom", "m-app", "m-random"]);
    answer_pings(messenger);
    let mut booms = messenger.on::<u32>("boom");
    tokio::spawn(async move {
        booms.recv().await.unwrap();
        panic!("a handler of the fixture panics");
    });
    worker.ready().await?;
    worker.cluster_ready().await;
    tell(name, "all", messenger.broadcast("all", &0)).await;
    tell(name, "app", messenger.send_to_app("app", &0)).await;
    tell(name, "agent", messenger.send_random("agent", &0)).await;
    Ok(())
}

/// Picks a worker at random a thousand times, and lets them count.
async fn agent_picks(agent: &Agent, messenger: &Messenger) -> Result<()> {
    agent.ready().await?;
    agent.cluster_ready().await;
    // Some at a time, so that a busy machine need not take a thousand turns.
    for _ in 0..10 {
        let sent: Vec<_> = (0..100_u32)
            .map(|number| messenger.send_random("pick", &number))
            .collect::<Result<_>>()?;
        for sent in sent {
            let receipt = sent.receipt().within(LONG).await?;
            assert_eq!((receipt.taken, receipt.unhandled), (1, 0));
        }
    }
    tell("agent", "tally", messenger.send_to_app("tally", &())).await;
    Ok(())
}

async fn worker_counts(name: &str, worker: &Worker, messenger: &Messenger) -> Result<()> {
    let mut picks = messenger.on::<u32>("pick");
    let mut tallies = messenger.on::<()>("tally");
    worker.ready().await?;
    let mut count = 0;
    loop {
        tokio::select! {
            biased;
            pick = picks.recv() => {
                pick?;
                count += 1;
            }
            tally = tallies.recv() => {
                tally?;
                say(name, &format!("was picked {count}"));
                return Ok(());
            }
        }
    }
}

/// Sends in its set-up as much as it can.
async fn agent_holds(agent: &Agent, messenger: &Messenger) -> Result<()> {
    count_early("agent", messenger);
    let first = messenger.broadcast("early", &0_u32)?;
    say("agent", &format!("held {}", first.is_held()));
    let error = first.receipt().within(Duration::from_millis(100)).await.unwrap_err();
    say("agent", &format!("waited {}: {error}", error.kind()));
    let mut sends = 1_u32;
    let error = loop {
        match messenger.broadcast("early", &sends) {
            Ok(_) => sends += 1,
            Err(error) => break error,
        }
    };
    say("agent", &format!("held {sends} then {}", error.kind()));
    agent.ready().await
}

/// Says when 1,024 messages have come, and whether their order was that of the sender.
fn count_early(name: &str, messenger: &Messenger) {
    let (name, mut early) = (name.to_owned(), messenger.on::<u32>("early"));
    tokio::spawn(async move {
        let mut numbers = Vec::new();
        while let Ok(message) = early.recv().await {
            numbers.push(message.data);
            if numbers.len() == 1024 {
                say(&name, &format!("got 1024 in order {}", numbers.is_sorted()));
            }
        }
    });
}

fn gate(number: usize) -> PathBuf {
    PathBuf::from(keys().remove("gates").unwrap_or_default()).join(number.to_string())
}

/// Says who is there. Each time it has seen one worker alone, it lets the next one come.
async fn agent_watches(agent: &Agent, messenger: &Messenger) -> Result<()> {
    let mut peers = agent.peers();
    let mut current = peers.current();
    say("agent", &format!("peers {} at once", pids(&current)));
    agent.ready().await?;
    let messenger = messenger.clone();
    tokio::spawn(async move {
        let mut opened = 0;
        let mut was_full = false;
        loop {
            if was_full {
                tell("agent", "news", messenger.broadcast("news", &current.len())).await;
            }
            was_full |= current.len() == 2;
            if current.len() == 1 {
                opened += 1;
                fs::write(gate(opened), "").unwrap();
            }
            current = peers.changed().await;
            say("agent", &format!("peers {}", pids(&current)));
        }
    });
    Ok(())
}

fn pids(peers: &[cluster_client::Peer]) -> String {
    let pids: Vec<_> = peers.iter().map(|peer| peer.pid.to_string()).collect();
    format!("{}: {}", pids.len(), pids.join(","))
}

async fn worker_watches(name: &str, worker: &Worker, messenger: &Messenger) -> Result<()> {
    listen(name, messenger, &["news"]);
    let gate = match (worker.generation(), worker.index()) {
        (0, 0) => None,
        (0, _) => Some(gate(1)),
        (..) => Some(gate(2)),
    };
    while gate.as_ref().is_some_and(|gate| !gate.exists()) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut agents = worker.peers();
    let mut current = agents.current();
    worker.ready().await?;
    let name = name.to_owned();
    tokio::spawn(async move {
        loop {
            let agent = current.map_or("none".to_owned(), |agent| agent.pid.to_string());
            say(&name, &format!("has agent {agent}"));
            current = agents.changed().await;
        }
    });
    Ok(())
}

/// Sends notes to the agent all the time, until a second agent has taken one.
async fn worker_notes(name: &str, worker: &Worker, messenger: &Messenger) -> Result<()> {
    worker.ready().await?;
    worker.cluster_ready().await;
    let mut agents = worker.peers();
    let first = agents.current();
    let mut notes = JoinSet::new();
    for number in 1_u32.. {
        let agent = agents.current();
        let sent = messenger.send_to_agent("note", &number);
        say(name, &format!("sends {number}"));
        let owned = name.to_owned();
        notes.spawn(async move { tell(&owned, "note", sent).await });
        if agent.is_some() && agent != first {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let sent = notes.len();
    notes.join_all().await;
    say(name, &format!("sent {sent} notes"));
    Ok(())
}

/// Sends 100,000 messages as fast as they are taken.
async fn worker_floods(name: &str, worker: &Worker, messenger: &Messenger) -> Result<()> {
    worker.ready().await?;
    worker.cluster_ready().await;
    let text = "x".repeat(1024);
    let mut last = None;
    let mut sent = 0;
    while sent < 100_000 {
        match messenger.send_to_agent("flood", &text) {
            Ok(message) => {
                last = Some(message);
                sent += 1;
                if sent % 5000 == 0 {
                    say(name, &format!("flooded {sent}"));
                }
            }
            // What is waiting must be read first.
            Err(_) => match last.take() {
                Some(message) => drop(message.receipt().within(LONG).await?),
                None => tokio::task::yield_now().await,
            },
        }
    }
    tell(name, "flood", messenger.send_to_agent("flood", &text)).await;
    Ok(())
}
