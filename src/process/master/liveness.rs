//! Who does not answer any more: asks each process now and then, and judges what comes back. No
//! socket and no clock.
//!
//! A process is asked anew every third of the shortest limit, and only when it answered before; what
//! is left of the limit is the time that it has for the answer. So whatever the moment at which it
//! hangs, it is noticed within the limit.
//!
//! A master that was stopped itself, or got no turn, must not take that for the silence of others:
//! when a deadline is noticed late, nobody is judged, and all waits start again.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::{
    error::{Error, Result},
    process::words::lasting,
    protocol::pb::{Ping, Pong},
};

/// What the master does about processes that live but do not answer; given to
/// [`MasterBuilder::liveness`](super::MasterBuilder::liveness).
///
/// The master asks each process that is ready, over the control link. A thread of this crate answers
/// for the process, and a task on the runtime of the agent's or worker's function answers for that.
/// So there are two ways not to answer:
///
/// | | what it is | noticed within | default remedy |
/// | --- | --- | --- | --- |
/// | [`Frozen`](Unresponsive::Frozen) | nothing of the process runs: it is stopped (SIGSTOP), hangs in the kernel, or its host has no memory left | 30 s | [`Replace`](Remedy::Replace): it is of no use to anybody |
/// | [`Blocked`](Unresponsive::Blocked) | the process runs, but its runtime takes up no task: each of its threads computes, or waits in a call that blocks | 30 s | [`Report`](Remedy::Report): it may be at work, if not as one should |
///
/// A process has 20 of these 30 s for its answer, which takes a fraction of a millisecond on an idle
/// host. That is long enough that a host under heavy load has no healthy process killed. The cost
/// of being asked is a few wake-ups of each process every 10 s.
///
/// Programs of other languages take part as far as they say that they answer; see
/// `docs/operations.md`.
///
/// # Examples
///
/// ```no_run
/// use std::{process::ExitCode, time::Duration};
///
/// use cluster_client::{Liveness, Master, Remedy};
/// # use cluster_client::{Agent, Result, Worker};
/// # async fn agent(_: Agent) -> Result<()> { Ok(()) }
/// # async fn worker(_: Worker) -> Result<()> { Ok(()) }
///
/// fn main() -> ExitCode {
///     let liveness = Liveness::default()
///         .frozen(Duration::from_secs(10), Remedy::Replace)
///         .blocked(Duration::from_secs(20), Remedy::Replace)
///         .spare_debugged(cfg!(debug_assertions));
///     Master::builder().agent(agent).worker(worker).liveness(liveness).main()
/// }
/// ```
#[derive(Debug, Clone, Copy)]
#[must_use]
pub struct Liveness {
    frozen: Limit,
    blocked: Limit,
    spare_debugged: bool,
    asks: bool,
}

/// What is done about a process that does not answer ([`Liveness`]), or about a worker in which
/// something panicked ([`MasterBuilder::on_worker_panic`](super::MasterBuilder::on_worker_panic)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Remedy {
    /// It is left alone. The log, the events and the status tell of it.
    Report,
    /// It is told of in the same places, and replaced. One that is frozen is killed with its process
    /// group and started again, as after any death; any other is asked to stop, and a worker's
    /// replacement is ready before.
    Replace,
}

/// How a process does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Unresponsive {
    /// Nothing of the process runs.
    Frozen,
    /// The process runs, but its runtime takes up no task.
    Blocked,
}

impl std::fmt::Display for Unresponsive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Frozen => "frozen",
            Self::Blocked => "blocked",
        })
    }
}

#[derive(Debug, Clone, Copy)]
struct Limit {
    within: Duration,
    remedy: Remedy,
}

/// Shortest limit. What is silent for less is no more than busy.
const SHORTEST: Duration = Duration::from_millis(100);

impl Default for Liveness {
    fn default() -> Self {
        let within = Duration::from_secs(30);
        Self {
            frozen: Limit { within, remedy: Remedy::Replace },
            blocked: Limit { within, remedy: Remedy::Report },
            spare_debugged: false,
            asks: true,
        }
    }
}

impl Liveness {
    /// Nobody is asked, and nobody judged.
    pub fn off() -> Self {
        Self { asks: false, ..Self::default() }
    }

    /// Within what time a process is noticed of which nothing runs, and what is done about it.
    /// Default 30 s and [`Remedy::Replace`]; the limit is at least 100 ms.
    pub fn frozen(mut self, within: Duration, remedy: Remedy) -> Self {
        self.frozen = Limit { within, remedy };
        self
    }

    /// Within what time a process is noticed whose runtime does not turn, and what is done about it.
    /// Default 30 s and [`Remedy::Report`]; the limit is at least 100 ms.
    pub fn blocked(mut self, within: Duration, remedy: Remedy) -> Self {
        self.blocked = Limit { within, remedy };
        self
    }

    /// Whether a process is only reported, and not replaced, while a debugger or `strace` has it
    /// (`TracerPid` in `/proc/PID/status`) or somebody stopped it (its state is `T` or `t`).
    /// Default `false`. It has an effect where there is a `/proc`.
    pub fn spare_debugged(mut self, spare: bool) -> Self {
        self.spare_debugged = spare;
        self
    }

    pub(super) fn check(&self) -> Result<()> {
        for (name, limit) in [("frozen", self.frozen), ("blocked", self.blocked)] {
            if limit.within < SHORTEST {
                return Err(Error::config(format!(
                    "liveness: the limit of `{name}` is {}; it must be at least {SHORTEST:?}",
                    lasting(limit.within)
                )));
            }
        }
        Ok(())
    }

    /// How often a process is asked.
    fn period(&self) -> Duration {
        self.frozen.within.min(self.blocked.within) / 3
    }

    /// How long an answer may take.
    fn patience(&self, of: Unresponsive) -> Duration {
        self.limit(of).within - self.period()
    }

    fn limit(&self, of: Unresponsive) -> Limit {
        match of {
            Unresponsive::Frozen => self.frozen,
            Unresponsive::Blocked => self.blocked,
        }
    }
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Send this to the process with this pid.
    Ask(u32, Ping),
    /// This process does not answer, and this is done about it.
    Hangs(u32, Unresponsive, Remedy),
    /// This process, which did not answer, does again.
    Answers(u32),
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Judge {
    liveness: Liveness,
    watched: BTreeMap<u32, Watched>,
}

/// What is known of one process.
#[derive(Debug, Default)]
struct Watched {
    /// Number of the last ping.
    asked: u64,
    /// When it is asked next. `None` before it is ready: until then the limit of the start holds.
    ask_at: Option<Instant>,
    /// Since when an answer of the process is waited for. It is not asked again before.
    process: Option<Instant>,
    /// Since when an answer of its runtime is waited for.
    runtime: Option<Instant>,
    /// Whether it had been to be replaced, but for a debugger.
    spared: bool,
    /// What was said of it.
    found: Option<Unresponsive>,
}

impl Judge {
    pub(super) fn new(liveness: Liveness) -> Self {
        Self { liveness, watched: BTreeMap::new() }
    }

    /// A process said that it answers pings.
    pub(super) fn take(&mut self, pid: u32) {
        if self.liveness.asks {
            self.watched.insert(pid, Watched::default());
        }
    }

    /// A process is ready: from now on it is asked.
    pub(super) fn watch(&mut self, now: Instant, pid: u32) {
        if let Some(watched) = self.watched.get_mut(&pid) {
            watched.ask_at = Some(now + self.liveness.period());
        }
    }

    /// A process is gone, or was asked to stop, for which there is a limit of its own.
    pub(super) fn forget(&mut self, pid: u32) {
        self.watched.remove(&pid);
    }

    /// How a process does not answer, as far as it was said.
    pub(super) fn found(&self, pid: u32) -> Option<Unresponsive> {
        self.watched.get(&pid)?.found
    }

    pub(super) fn handle_pong(&mut self, now: Instant, pid: u32, pong: Pong) -> Option<Verdict> {
        let watched = self.watched.get_mut(&pid)?;
        // What was not asked is no answer.
        if pong.seq == 0 || pong.seq > watched.asked {
            return None;
        }
        watched.spared = false;
        let waited = watched.process.take().map(|since| now - since);
        if waited.is_some() {
            // Not before now, or the master would take itself for late.
            watched.ask_at = watched.ask_at.map(|at| at.max(now));
        }
        if pong.runtime {
            watched.runtime = None;
        } else if waited.is_some_and(|waited| waited > self.liveness.period()) {
            // While the process did not run, its runtime had no chance to answer.
            watched.runtime = Some(now);
        }
        if pong.runtime || watched.found == Some(Unresponsive::Frozen) {
            watched.found.take().map(|_| Verdict::Answers(pid))
        } else {
            None
        }
    }

    /// When [`handle_tick`](Self::handle_tick) is due.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.watched.values().filter_map(|watched| watched.deadline(&self.liveness)).min()
    }

    /// Asks and judges whose time has come. `is_debugged` is looked at where it matters.
    pub(super) fn handle_tick(
        &mut self,
        now: Instant,
        is_debugged: impl Fn(u32) -> bool,
    ) -> Vec<Verdict> {
        let liveness = self.liveness;
        let Some(due) = self.next_deadline().filter(|due| *due <= now) else { return Vec::new() };
        if now > due + liveness.period() / 2 {
            for watched in self.watched.values_mut() {
                watched.wait_again(now);
            }
        }
        let mut verdicts = Vec::new();
        for (pid, watched) in &mut self.watched {
            if let Some(how) = watched.hangs(now, &liveness) {
                let mut remedy = liveness.limit(how).remedy;
                if remedy == Remedy::Replace && liveness.spare_debugged {
                    let was_spared = watched.spared;
                    watched.spared = is_debugged(*pid);
                    // One that was let go has the whole time for its answer from now on.
                    if watched.spared || was_spared {
                        watched.wait_again(now);
                        remedy = Remedy::Report;
                    }
                }
                let is_news = watched.found.replace(how) != Some(how);
                if is_news || remedy == Remedy::Replace {
                    verdicts.push(Verdict::Hangs(*pid, how, remedy));
                }
            }
            if let Some(ping) = watched.ask(now, liveness.period()) {
                verdicts.push(Verdict::Ask(*pid, ping));
            }
        }
        // Whoever is replaced is judged no more.
        for verdict in &verdicts {
            if let Verdict::Hangs(pid, _, Remedy::Replace) = verdict {
                self.watched.remove(pid);
            }
        }
        verdicts
    }
}

impl Watched {
    fn deadline(&self, liveness: &Liveness) -> Option<Instant> {
        let ask = self.ask_at.filter(|_| self.process.is_none());
        let hangs =
            [Unresponsive::Frozen, Unresponsive::Blocked].map(|how| self.due(how, liveness));
        hangs.into_iter().chain([ask]).flatten().min()
    }

    /// When it is to be said that the process hangs in this way.
    fn due(&self, how: Unresponsive, liveness: &Liveness) -> Option<Instant> {
        // What was said is not said again. Who was spared is looked at again.
        if self.found == Some(how) && liveness.limit(how).remedy == Remedy::Report {
            return None;
        }
        let since = match how {
            Unresponsive::Frozen => self.process,
            // A runtime is blocked only in a process that answers.
            Unresponsive::Blocked => self.runtime.filter(|_| self.process.is_none()),
        };
        Some(since? + liveness.patience(how))
    }

    fn hangs(&self, now: Instant, liveness: &Liveness) -> Option<Unresponsive> {
        let is_due = |how: &Unresponsive| self.due(*how, liveness).is_some_and(|due| due <= now);
        [Unresponsive::Frozen, Unresponsive::Blocked].into_iter().find(is_due)
    }

    fn ask(&mut self, now: Instant, period: Duration) -> Option<Ping> {
        if self.process.is_some() || self.ask_at.is_none_or(|at| at > now) {
            return None;
        }
        self.asked += 1;
        self.ask_at = Some(now + period);
        self.process = Some(now);
        self.runtime.get_or_insert(now);
        Some(Ping { seq: self.asked })
    }

    /// Gives every answer that is waited for its whole time once more.
    fn wait_again(&mut self, now: Instant) {
        for since in [&mut self.process, &mut self.runtime].into_iter().flatten() {
            *since = now;
        }
    }
}

#[cfg(test)]
mod tests;
