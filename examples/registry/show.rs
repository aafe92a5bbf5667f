//! The show that the first process gives: what all saw, who was killed, and how it went on.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use cluster_client::MasterHandle;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::timeout;

use crate::{
    SERVICE,
    stage::{Line, Saw, Stage},
    upstream::{Upstream, Visit},
};

/// Runs in the first process, beside the master.
pub(crate) async fn run(master: MasterHandle, stage: Stage, upstream: Upstream, workers: usize) {
    println!("the cluster port is {}", master.port());
    let mut show = Show { stage, upstream, workers };
    match timeout(PATIENCE, show.play()).await {
        Ok(()) => master.stop(),
        Err(_) => master.fail(format!("not all of it happened within {PATIENCE:?}")),
    }
}

struct Show {
    stage: Stage,
    upstream: Upstream,
    workers: usize,
}

impl Show {
    async fn play(&mut self) {
        title("all workers see what every worker published");
        let workers = self.wait_for_all(0, is_complete(self.workers)).await;
        let agent = self.wait_for_leader(0).await;

        title(&format!("the agent, pid {agent}, is killed"));
        let killed = self.stage.now();
        kill(agent);
        self.wait_for_all(killed, |saw| matches!(saw, Saw::Stale(..))).await;
        let next_agent = self.wait_for_leader(killed).await;
        let survivors = self.wait_for_all(killed, is_complete(self.workers)).await;
        check(survivors == workers, "the workers are the ones that were there before");
        check(next_agent != agent, "another agent holds the real client");

        let (name, victim) =
            workers.last_key_value().map(|(n, p)| (n.clone(), *p)).unwrap_or_default();
        title(&format!("{name}, pid {victim}, is killed"));
        let killed = self.stage.now();
        kill(victim);
        let complete = is_complete(self.workers);
        let replacement = self
            .stage
            .wait(killed, |lines| {
                lines
                    .iter()
                    .find(|line| line.who == name && complete(&line.saw))
                    .map(|line| line.pid)
            })
            .await;
        check(replacement != victim, "its replacement sees what all see");
        let undisturbed =
            self.stage.wait(killed, |lines| Some(lines.iter().all(|line| line.who == name)));
        check(undisturbed.await, "no other worker noticed: its publication stayed");

        title("what the registry saw of it all");
        let visits = self.upstream.visits();
        for Visit { pid, subscribed, registered, .. } in &visits {
            println!(
                "  connection of pid {pid}: subscribed {subscribed:?}, {registered} registrations"
            );
        }
        let pids: Vec<_> = visits.iter().map(|visit| visit.pid).collect();
        check(pids == [agent, next_agent], "one connection for each agent, none for a worker");
        let once = |visit: &Visit| visit.subscribed.iter().eq([(&SERVICE.to_owned(), &1)]);
        check(visits.iter().all(once), "one subscription on each connection");

        title("the cluster stops; who leaves takes back what it published");
    }

    /// Waits until every worker saw it; returns their pids by name.
    async fn wait_for_all(
        &mut self,
        since: usize,
        it: impl Fn(&Saw) -> bool,
    ) -> BTreeMap<String, u32> {
        let workers = self.workers;
        self.stage
            .wait(since, |lines| {
                let saw = |line: &&Line| line.who != "agent" && it(&line.saw);
                let found: BTreeMap<_, _> =
                    lines.iter().filter(saw).map(|line| (line.who.clone(), line.pid)).collect();
                (found.len() == workers).then_some(found)
            })
            .await
    }

    async fn wait_for_leader(&mut self, since: usize) -> u32 {
        let leads = |line: &&Line| matches!(line.saw, Saw::Leads);
        self.stage.wait(since, |lines| lines.iter().find(leads).map(|line| line.pid)).await
    }
}

/// Whether a subscription is live with the URLs of all workers.
fn is_complete(workers: usize) -> impl Fn(&Saw) -> bool {
    move |saw| {
        let (Saw::Urls(urls) | Saw::Live(urls)) = saw else { return false };
        urls.iter().collect::<BTreeSet<_>>().len() == workers
    }
}

fn kill(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let killed = pid.map(|pid| kill_process(pid, Signal::KILL));
    check(matches!(killed, Some(Ok(()))), "kill -9");
}

fn title(text: &str) {
    println!("\n{text}");
}

/// Prints what holds.
///
/// # Panics
///
/// Where it does not.
#[track_caller]
fn check(holds: bool, what: &str) {
    assert!(holds, "not so: {what}");
    println!("  ok: {what}");
}

/// How long the whole show may take.
const PATIENCE: Duration = Duration::from_secs(8);
