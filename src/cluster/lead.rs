//! Leaders of this process, shared by all who use their channel here.

use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};

use dashmap::DashMap;

use super::{ClusterClient, wrapped::Connect};
use crate::{
    error::Result,
    leader::{Leader, LeaderStats, Setup},
    options::Options,
    server::LocalServer,
};

/// The leaders of this process by port (0: without sockets) and channel.
static LEADERS: LazyLock<DashMap<(u16, String), Weak<Lead>>> = LazyLock::new(DashMap::new);

/// A leader in this process; closed when nobody uses it any more.
pub(super) struct Lead {
    leader: Arc<Leader>,
    key: (u16, String),
}

impl Lead {
    pub(super) fn leader(&self) -> &Arc<Leader> {
        &self.leader
    }

    /// The leader of this process for the channel, if there is one.
    pub(super) fn find(port: u16, channel: &str) -> Option<Arc<Self>> {
        let lead = LEADERS.get(&(port, channel.to_owned()))?.upgrade()?;
        lead.leader.leads().then_some(lead)
    }

    /// Starts to lead the channel.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::ChannelTaken`](crate::ErrorKind::ChannelTaken) if it has a leader on this port, or why its client can't be
    /// connected.
    pub(super) async fn start<T: ClusterClient>(
        server: Option<&Arc<LocalServer>>,
        channel: &str,
        client: T::Options,
        options: &Options,
        retry_connect: bool,
    ) -> Result<Arc<Self>> {
        let reservation = server.map(|server| server.reserve(channel)).transpose()?;
        let setup = Setup {
            channel: channel.to_owned(),
            spec: T::SPEC,
            connector: Box::new(Connect::<T>(client)),
            options: options.clone(),
            retry_connect,
        };
        let leader = Leader::start(setup, reservation).await?;
        let key = (server.map_or(0, |server| server.port()), channel.to_owned());
        let lead = Arc::new(Self { leader, key });
        if let Some(first) = lead.enlist() {
            // Only without a server, whose reservation would have been refused.
            lead.leader.close().await;
            return Ok(first);
        }
        Ok(lead)
    }

    /// Makes it the one that is [found](Self::find), unless another one was faster.
    fn enlist(self: &Arc<Self>) -> Option<Arc<Self>> {
        // Not dropped while the entry is locked: the last one to drop a leader takes it off the map.
        let (first, is_alive) = {
            let mut entry = LEADERS.entry(self.key.clone()).or_default();
            let first = entry.upgrade();
            let is_alive = first.as_ref().is_some_and(|first| first.leader.leads());
            if !is_alive {
                *entry = Arc::downgrade(self);
            }
            (first, is_alive)
        };
        first.filter(|_| is_alive)
    }
}

/// Waits for the leaders of this process that hand their channel over.
///
/// # Cancel safety
///
/// Cancel safe.
#[cfg(all(unix, feature = "process"))]
pub(super) async fn handed_over() {
    let leads: Vec<_> = LEADERS.iter().filter_map(|lead| lead.upgrade()).collect();
    for lead in leads.iter().filter(|lead| !lead.leader.leads() && !lead.leader.is_closed()) {
        lead.leader.close().await;
    }
}

/// Closes all leaders of this process, those that users still hold, too.
///
/// # Cancel safety
///
/// Cancel safe: they close in tasks of their own from the first poll on.
#[cfg(all(unix, feature = "process"))]
pub(super) async fn close_all() {
    let leads: Vec<_> = LEADERS.iter().filter_map(|lead| lead.upgrade()).collect();
    for lead in leads.iter().filter(|lead| !lead.leader.is_closed()) {
        drop(lead.leader.close_in_background());
    }
    Leader::all_closed().await;
}

impl Drop for Lead {
    fn drop(&mut self) {
        LEADERS.remove_if(&self.key, |_, lead| lead.strong_count() == 0);
        if !self.leader.is_closed() {
            drop(self.leader.close_in_background());
        }
    }
}

/// Where a follower's route and its handle meet over the leader that they use, if it is here.
#[derive(Clone, Default)]
pub(super) struct LeadCell(Arc<Mutex<Option<Arc<Lead>>>>);

impl LeadCell {
    pub(super) fn set(&self, lead: Arc<Lead>) {
        *self.lock() = Some(lead);
    }

    pub(super) fn get(&self) -> Option<Arc<Lead>> {
        self.lock().clone()
    }

    pub(super) fn clear(&self) {
        let lead = self.lock().take();
        drop(lead);
    }

    pub(super) fn leads(&self) -> bool {
        self.lock().as_ref().is_some_and(|lead| lead.leader.leads())
    }

    pub(super) fn stats(&self) -> Option<LeaderStats> {
        self.lock().as_ref().map(|lead| lead.leader.stats())
    }

    /// Lets go of the leader, and closes it if nobody else in this process uses it.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: the leader closes in a task of its own.
    pub(super) async fn release(&self) {
        let lead = self.lock().take();
        if let Some(last) = lead.and_then(Arc::into_inner) {
            // Fails only where the leader's runtime is gone, and the leader with it.
            let _ = last.leader.close_in_background().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Lead>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
