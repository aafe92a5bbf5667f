//! Who is who: senders of messages, and the lists of those who are ready.

use tokio::sync::watch;

use crate::{
    process::name::ProcessName,
    protocol::pb::{self, PeerRole},
};

/// A process of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Peer {
    /// Which one.
    pub process: ProcessName,
    /// Its process id, for [`Messenger::send_to`](super::Messenger::send_to).
    pub pid: u32,
}

impl Peer {
    pub(in crate::process) fn new(process: ProcessName, pid: u32) -> Self {
        Self { process, pid }
    }
}

impl From<Peer> for pb::Peer {
    fn from(Peer { process, pid }: Peer) -> Self {
        let (role, index) = match process {
            ProcessName::Master => (PeerRole::Master, 0),
            ProcessName::Agent => (PeerRole::Agent, 0),
            ProcessName::Worker(index) => (PeerRole::Worker, index),
        };
        Self { role: role.into(), index, pid }
    }
}

/// `None` for a role that this version does not know.
pub(super) fn peer(peer: &pb::Peer) -> Option<Peer> {
    let process = match peer.role() {
        PeerRole::Unspecified => return None,
        PeerRole::Master => ProcessName::Master,
        PeerRole::Agent => ProcessName::Agent,
        PeerRole::Worker => ProcessName::Worker(peer.index),
    };
    Some(Peer { process, pid: peer.pid })
}

/// A value that is always current, and can be waited for: who of the other role is ready.
///
/// Given by [`Agent::peers`](crate::Agent::peers) and [`Worker::peers`](crate::Worker::peers). A
/// clone has seen what it was cloned from has seen.
///
/// # Examples
///
/// ```
/// use cluster_client::Agent;
///
/// async fn wait_for_three(agent: &Agent) {
///     let mut peers = agent.peers();
///     let mut workers = peers.current();
///     while workers.len() < 3 {
///         workers = peers.changed().await;
///     }
///     println!("pids {:?}", workers.iter().map(|worker| worker.pid).collect::<Vec<_>>());
/// }
/// ```
#[derive(Debug, Clone)]
pub struct Peers<T> {
    watch: watch::Receiver<T>,
}

impl<T: Clone> Peers<T> {
    /// Who is ready now. The next [`changed`](Self::changed) waits for something else.
    pub fn current(&mut self) -> T {
        self.watch.borrow_and_update().clone()
    }

    /// Waits until it is another value than was seen last, and gives it. What changes more than once
    /// meanwhile is seen as it is in the end. It never resolves once nothing can change any more.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: what was not given counts as not seen.
    pub async fn changed(&mut self) -> T {
        if self.watch.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        self.current()
    }
}

/// Who is ready, as the process was told. One of the two is used: the agent's workers, or a worker's
/// agent.
#[derive(Debug)]
pub(in crate::process) struct Readiness {
    workers: watch::Sender<Vec<Peer>>,
    agent: watch::Sender<Option<Peer>>,
}

impl Readiness {
    pub(super) fn new() -> Self {
        Self { workers: watch::Sender::new(Vec::new()), agent: watch::Sender::new(None) }
    }

    /// Takes over what the master says.
    pub(super) fn set(&self, peers: &pb::Peers) {
        let peers: Vec<Peer> = peers.peers.iter().filter_map(peer).collect();
        let agent = peers.iter().find(|peer| peer.process == ProcessName::Agent).copied();
        let is_worker = |peer: &Peer| matches!(peer.process, ProcessName::Worker(_));
        let workers: Vec<Peer> = peers.into_iter().filter(is_worker).collect();
        self.agent.send_if_modified(|known| replace(known, agent));
        self.workers.send_if_modified(|known| replace(known, workers));
    }

    pub(in crate::process) fn workers(&self) -> Peers<Vec<Peer>> {
        Peers { watch: self.workers.subscribe() }
    }

    pub(in crate::process) fn agent(&self) -> Peers<Option<Peer>> {
        Peers { watch: self.agent.subscribe() }
    }
}

fn replace<T: PartialEq>(known: &mut T, new: T) -> bool {
    let changed = *known != new;
    *known = new;
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(peers: &[Peer]) -> pb::Peers {
        pb::Peers { peers: peers.iter().copied().map(Into::into).collect() }
    }

    #[test]
    fn a_peer_comes_back_as_it_was() {
        for process in [ProcessName::Master, ProcessName::Agent, ProcessName::Worker(7)] {
            let sent = Peer::new(process, 99);
            assert_eq!(peer(&sent.into()), Some(sent));
        }
        assert_eq!(peer(&pb::Peer::default()), None);
    }

    #[tokio::test]
    async fn a_list_is_current_at_once_and_tells_each_change_once() {
        let readiness = Readiness::new();
        let [one, two] = [0, 1].map(|index| Peer::new(ProcessName::Worker(index), 10 + index));
        readiness.set(&list(&[one]));
        let mut peers = readiness.workers();
        assert_eq!(peers.current(), [one]);

        readiness.set(&list(&[one]));
        let changed = peers.changed();
        tokio::pin!(changed);
        assert!(futures::poll!(&mut changed).is_pending(), "the same is no change");
        readiness.set(&list(&[one, two]));
        assert_eq!(changed.await, [one, two]);

        let agent = Peer::new(ProcessName::Agent, 5);
        readiness.set(&list(&[agent]));
        assert_eq!(readiness.agent().current(), Some(agent));
        readiness.set(&list(&[]));
        assert_eq!(readiness.agent().current(), None);
    }
}
