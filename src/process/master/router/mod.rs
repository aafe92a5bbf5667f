//! The master's half of the messenger: who is ready, who gets a message, and who has answered. It has
//! no socket, clock or task.
//!
//! A message is under way from the moment it is handed to its receivers until all of them have
//! answered, or are dead. At most [`WINDOW`] messages are under way to one process, so what a process
//! that does not answer costs is bounded, whoever sends to it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::Instant;

use super::event::MasterEvent;
use crate::{
    process::{
        messenger::{MAX_ACTION, MAX_DATA, Peer, Target},
        name::ProcessName,
    },
    protocol::pb::{
        self, DeliverMessage, MessageDelivered, MessageReceipt, Outcome, Refusal, SendMessage,
        Taken, control::Body,
    },
};

/// Most messages under way to one process.
const WINDOW: usize = 1024;

/// After what time a sender is told what is known so far.
const SO_FAR: Duration = Duration::from_secs(1);

/// After what time those who have not answered count as lost.
const GIVE_UP: Duration = Duration::from_secs(60);

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Router {
    /// By pid: the master's own program, and all children that live.
    processes: BTreeMap<u32, Process>,
    /// By number, and so in the order of their times.
    under_way: BTreeMap<u64, UnderWay>,
    /// The number of the last message.
    last: u64,
    /// Up to this number, senders were told what is known so far.
    told: u64,
    /// Who is ready, as the others were told.
    ready: [Vec<Peer>; 2],
    random: fastrand::Rng,
}

#[derive(Debug)]
struct Process {
    name: ProcessName,
    life: Life,
    /// Whether it knows of messages at all.
    takes_messages: bool,
    /// The messages that it has not answered.
    unanswered: BTreeSet<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Life {
    Starting,
    Ready,
    /// It was asked to stop. It gets what goes to all, and is chosen for nothing.
    Leaving,
}

#[derive(Debug)]
struct UnderWay {
    sender: u32,
    since: Instant,
    receipt: MessageReceipt,
}

/// A frame for the process with this pid.
pub(super) type ToPid = (u32, Body);

impl Router {
    /// A router of the master with this pid.
    pub(super) fn new(own: u32, random: fastrand::Rng) -> Self {
        let master = Process {
            life: Life::Ready,
            takes_messages: true,
            ..Process::new(ProcessName::Master)
        };
        Self {
            processes: BTreeMap::from([(own, master)]),
            under_way: BTreeMap::new(),
            last: 0,
            told: 0,
            ready: [Vec::new(), Vec::new()],
            random,
        }
    }

    /// Takes a frame of a process. What is no matter of the messenger is left alone.
    pub(super) fn on_frame(&mut self, from: Peer, body: &Body, now: Instant) -> Vec<ToPid> {
        match body {
            Body::Taken(Taken { takes_messages, .. }) => {
                if let Some(process) = self.processes.get_mut(&from.pid) {
                    process.takes_messages = *takes_messages;
                }
                Vec::new()
            }
            Body::SendMessage(message) => self.send(from, message, now),
            Body::MessageDelivered(MessageDelivered { id, outcome }) => {
                let outcome = Outcome::try_from(*outcome).unwrap_or(Outcome::Unspecified);
                self.answered(from.pid, *id, |receipt| match outcome {
                    Outcome::Taken => &mut receipt.taken,
                    Outcome::NoRoom => &mut receipt.no_room,
                    Outcome::Unhandled | Outcome::Unspecified => &mut receipt.unhandled,
                })
            }
            _ => Vec::new(),
        }
    }

    /// This message could not be given to the link of a process, because it is full, or is gone.
    pub(super) fn on_undelivered(
        &mut self,
        pid: u32,
        message: &DeliverMessage,
        is_full: bool,
    ) -> Vec<ToPid> {
        self.answered(pid, message.id, |receipt| {
            if is_full { &mut receipt.no_room } else { &mut receipt.lost }
        })
    }

    /// Follows who lives and who is ready.
    pub(super) fn on_event(&mut self, event: &MasterEvent) -> Vec<ToPid> {
        match event {
            MasterEvent::Started { process, pid, .. } => {
                self.processes.insert(*pid, Process::new(*process));
                Vec::new()
            }
            MasterEvent::Ready { pid, .. } => self.changed(*pid, Life::Ready),
            MasterEvent::Died(death) => self.gone(death.pid),
            MasterEvent::Stopped { pid, .. } => self.gone(*pid),
            _ => Vec::new(),
        }
    }

    /// This process was asked to stop.
    pub(super) fn on_leaving(&mut self, pid: u32) -> Vec<ToPid> {
        self.changed(pid, Life::Leaving)
    }

    /// Who is ready, for a process that is about to be started.
    pub(super) fn peers_of(&self, process: ProcessName) -> pb::Peers {
        let peers = self.ready[side_of_peers(process)].iter();
        pb::Peers { peers: peers.copied().map(Into::into).collect() }
    }

    /// When [`handle_tick`](Self::handle_tick) has something to do.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let so_far = self.under_way.range(self.told + 1..).next();
        let so_far = so_far.map(|(_, message)| message.since + SO_FAR);
        let oldest = self.under_way.values().next().map(|message| message.since + GIVE_UP);
        so_far.into_iter().chain(oldest).min()
    }

    pub(super) fn handle_tick(&mut self, now: Instant) -> Vec<ToPid> {
        let mut out = Vec::new();
        while let Some(oldest) = self.under_way.first_entry() {
            if oldest.get().since + GIVE_UP > now {
                break;
            }
            let mut message = oldest.remove();
            message.receipt.lost += std::mem::take(&mut message.receipt.waiting);
            out.push(message.receipt());
        }
        for (id, message) in self.under_way.range(self.told + 1..) {
            if message.since + SO_FAR > now {
                break;
            }
            self.told = *id;
            out.push(message.receipt());
        }
        out
    }

    fn send(&mut self, from: Peer, message: &SendMessage, now: Instant) -> Vec<ToPid> {
        let mut receipt = MessageReceipt { id: message.id, ..MessageReceipt::default() };
        let receivers = match self.receivers(from, message) {
            Ok(receivers) => receivers,
            Err(refusal) => {
                receipt.refusal = refusal.into();
                return vec![(from.pid, Body::MessageReceipt(receipt))];
            }
        };
        self.last += 1;
        let id = self.last;
        let delivery = DeliverMessage {
            id,
            from: Some(from.into()),
            action: message.action.clone(),
            // A slice would keep alive all that was read together with it.
            data: Bytes::copy_from_slice(&message.data),
        };
        let mut out = Vec::with_capacity(receivers.len());
        for pid in receivers {
            let Some(receiver) = self.processes.get_mut(&pid) else { continue };
            if !receiver.takes_messages {
                receipt.unhandled += 1;
            } else if receiver.unanswered.len() >= WINDOW {
                receipt.no_room += 1;
            } else {
                receiver.unanswered.insert(id);
                receipt.waiting += 1;
                out.push((pid, Body::DeliverMessage(delivery.clone())));
            }
        }
        let message = UnderWay { sender: from.pid, since: now, receipt };
        if receipt.waiting == 0 {
            out.push(message.receipt());
        } else {
            self.under_way.insert(id, message);
        }
        out
    }

    fn receivers(&mut self, from: Peer, message: &SendMessage) -> Result<Vec<u32>, Refusal> {
        let is_fit = (1..=MAX_ACTION).contains(&message.action.len());
        let target = Target::from_pb(message.target(), message.pid);
        let target = target.filter(|_| is_fit && message.data.len() <= MAX_DATA);
        let is_agent = |name: ProcessName| name == ProcessName::Agent;
        let is_worker = |name: ProcessName| matches!(name, ProcessName::Worker(_));
        match target.ok_or(Refusal::Invalid)? {
            Target::All => Ok(self.reached(|name| is_agent(name) || is_worker(name))),
            Target::Workers => some(self.reached(is_worker), Refusal::NoWorker),
            Target::Agent => self.agent(),
            Target::Random if is_worker(from.process) => self.agent(),
            Target::Random => {
                let workers = &self.ready[WORKERS];
                let chosen = self.random.choice(workers).ok_or(Refusal::NoWorker)?;
                Ok(vec![chosen.pid])
            }
            Target::Pid(pid) => {
                let process = self.processes.get(&pid).filter(|it| it.life >= Life::Ready);
                process.map(|_| vec![pid]).ok_or(Refusal::NoSuchProcess)
            }
        }
    }

    /// The agent: the ready one, or where there is none one that is leaving.
    fn agent(&self) -> Result<Vec<u32>, Refusal> {
        let ready = self.ready[AGENT].last().map(|agent| vec![agent.pid]);
        let leaving = || self.reached(|name| name == ProcessName::Agent);
        some(ready.unwrap_or_else(leaving), Refusal::AgentAway)
    }

    /// The pids of those of these names that were ready once.
    fn reached(&self, is_meant: impl Fn(ProcessName) -> bool) -> Vec<u32> {
        let reached = |process: &Process| process.life >= Life::Ready && is_meant(process.name);
        let processes = self.processes.iter();
        processes.filter(|(_, process)| reached(process)).map(|(pid, _)| *pid).collect()
    }

    fn answered(
        &mut self,
        pid: u32,
        id: u64,
        counter: impl FnOnce(&mut MessageReceipt) -> &mut u32,
    ) -> Vec<ToPid> {
        let process = self.processes.get_mut(&pid);
        // Else it is an answer to what it was not asked, or its second one.
        let was_asked = process.is_some_and(|process| process.unanswered.remove(&id));
        Vec::from_iter(was_asked.then(|| self.count(id, counter)).flatten())
    }

    /// Counts one receiver that was waited for. Gives the receipt where it was the last one. A
    /// message that was given up counts nothing more.
    fn count(
        &mut self,
        id: u64,
        counter: impl FnOnce(&mut MessageReceipt) -> &mut u32,
    ) -> Option<ToPid> {
        let message = self.under_way.get_mut(&id)?;
        message.receipt.waiting -= 1;
        *counter(&mut message.receipt) += 1;
        if message.receipt.waiting > 0 {
            return None;
        }
        self.under_way.remove(&id).map(|message| message.receipt())
    }

    fn changed(&mut self, pid: u32, life: Life) -> Vec<ToPid> {
        let Some(process) = self.processes.get_mut(&pid) else { return Vec::new() };
        // Nobody gets younger.
        process.life = process.life.max(life);
        self.tell_peers()
    }

    fn gone(&mut self, pid: u32) -> Vec<ToPid> {
        let Some(process) = self.processes.remove(&pid) else { return Vec::new() };
        let unanswered = process.unanswered.into_iter();
        let mut out: Vec<_> =
            unanswered.filter_map(|id| self.count(id, |receipt| &mut receipt.lost)).collect();
        out.extend(self.tell_peers());
        out
    }

    /// Tells each side who of the other is ready, where that has changed.
    fn tell_peers(&mut self) -> Vec<ToPid> {
        let mut ready = [Vec::new(), Vec::new()];
        for (pid, process) in &self.processes {
            if process.life == Life::Ready && process.name != ProcessName::Master {
                ready[side(process.name)].push(Peer::new(process.name, *pid));
            }
        }
        // Pids say nothing of the order of workers.
        ready[WORKERS].sort_unstable();
        let known = std::mem::replace(&mut self.ready, ready);
        let has_changed = [AGENT, WORKERS].map(|side| known[side] != self.ready[side]);
        let others = self.processes.iter().filter(|(_, process)| {
            process.name != ProcessName::Master && has_changed[side_of_peers(process.name)]
        });
        others.map(|(pid, process)| (*pid, Body::Peers(self.peers_of(process.name)))).collect()
    }
}

impl Process {
    fn new(name: ProcessName) -> Self {
        let unanswered = BTreeSet::new();
        Self { name, life: Life::Starting, takes_messages: false, unanswered }
    }
}

impl UnderWay {
    fn receipt(&self) -> ToPid {
        (self.sender, Body::MessageReceipt(self.receipt))
    }
}

const AGENT: usize = 0;
const WORKERS: usize = 1;

fn side(process: ProcessName) -> usize {
    if process == ProcessName::Agent { AGENT } else { WORKERS }
}

/// The side that a process has its peers on.
fn side_of_peers(process: ProcessName) -> usize {
    if process == ProcessName::Agent { WORKERS } else { AGENT }
}

fn some(pids: Vec<u32>, otherwise: Refusal) -> Result<Vec<u32>, Refusal> {
    if pids.is_empty() { Err(otherwise) } else { Ok(pids) }
}

#[cfg(test)]
mod tests;
