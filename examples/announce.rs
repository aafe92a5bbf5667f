//! Workers announce themselves, the agent counts them, and gives work that is to be done once to one
//! of them.
//!
//! ```sh
//! cargo run --example announce
//! ```
//!
//! Nobody has to know who else there is, or when: what is sent before the cluster is ready is held
//! until everybody can have it.

use std::{error::Error, os::unix::process::parent_id, process::ExitCode, time::Duration};

use cluster_client::{Agent, Master, MasterHandle, Worker};
use serde::{Deserialize, Serialize};

const WORKERS: u32 = 4;

/// What a worker says of itself.
#[derive(Serialize, Deserialize)]
struct Announcement {
    index: u32,
    speciality: String,
}

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

pub(crate) fn main() -> ExitCode {
    Master::builder().workers(WORKERS).agent(agent).worker(worker).observe(observe).run_blocking()
}

async fn worker(worker: Worker) -> Outcome {
    let messenger = worker.messenger();
    let mut chores = messenger.on::<String>("chore");
    let index = worker.index();
    let speciality = ["cache", "mail", "search", "reports"][index as usize % 4].to_owned();
    // The cluster is not ready yet, so this is held. Nothing has to wait for it.
    messenger.send_to_agent("announce", &Announcement { index, speciality })?;
    worker.ready().await?;
    loop {
        tokio::select! {
            chore = chores.recv() => {
                let chore = chore?;
                println!("worker {index} was chosen to {}", chore.data);
                messenger.send_to(chore.pid, "done", &index)?.await?;
            }
            () = worker.shutdown() => return Ok(()),
        }
    }
}

async fn agent(agent: Agent) -> Outcome {
    let messenger = agent.messenger();
    // Who listens before `ready` misses nothing.
    let mut announcements = messenger.on::<Announcement>("announce");
    agent.ready().await?;
    for count in 1..=WORKERS {
        let announced = announcements.recv().await?;
        let Announcement { index, speciality } = announced.data;
        println!("agent: {} (pid {}) does {speciality}", announced.from, announced.pid);
        assert_eq!(announced.from.to_string(), format!("worker {index}"));
        println!("agent: {count} of {WORKERS} are here");
    }

    let done = messenger.once::<u32>("done");
    let receipt = messenger.send_random("chore", "rebuild the index")?.await?;
    println!("agent: {} worker has the chore", receipt.taken);
    println!("agent: worker {} has done it", done.await?.data);

    messenger.send_to(parent_id(), "finished", &WORKERS)?.await?;
    agent.shutdown().await;
    Ok(())
}

/// Runs beside the master, and ends the show.
async fn observe(master: MasterHandle) {
    let finished = master.messenger().once::<u32>("finished");
    match tokio::time::timeout(Duration::from_secs(20), finished).await {
        Ok(Ok(workers)) => {
            println!("master: {} saw {} workers; stopping", workers.from, workers.data);
            master.stop();
        }
        Ok(Err(error)) => master.fail(error.to_string()),
        Err(_) => master.fail("the chore was not done in time"),
    }
}
