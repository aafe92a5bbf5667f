//! Processes that children started and left behind.
//!
//! What stays in the process group of a child is killed with the child. What left the group
//! (`setsid`, a daemon that forks twice) becomes a child of the master when its parent dies, since
//! the master is the reaper of all its descendants: as PID 1 by its nature, elsewhere because it
//! asks the kernel for it. It reaps those that end, and ends those that are left when the cluster
//! has stopped.
//!
//! The program around the master may have children of its own. Not to be mistaken for an orphan,
//! they have been there before the master, or are in its process group; and only what carries the
//! mark of this master in its environment is ever signalled.

use std::{
    collections::{BTreeSet, HashSet},
    time::Duration,
};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use tokio::time::{Instant, sleep};

use super::proc::{Relative, children_of, has_mark, is_ending, listed_children, own_group};

/// How often those who were asked to end are looked at.
const POLL: Duration = Duration::from_millis(10);

/// How long those that were killed may take to go. One that the kernel holds takes longer.
const LAST: Duration = Duration::from_secs(5);

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Orphans {
    /// The children that this process had before it was a master.
    before: BTreeSet<i32>,
    /// Whether this process was the reaper of its descendants before.
    was_reaper: bool,
}

impl Orphans {
    /// Makes this process the parent of all orphans among its descendants, until it is dropped.
    pub(super) fn adopt() -> Self {
        let before = children().into_iter().map(|child| child.pid).collect();
        Self { before, was_reaper: become_reaper() }
    }

    /// Reaps those that are gone. `is_child` tells the master's own children, which are not. One that
    /// the kernel's list leaves out is reaped the next time.
    pub(super) fn reap(&self, is_child: impl Fn(u32) -> bool) {
        let listed = listed_children().into_iter().filter(|relative| relative.is_gone);
        for orphan in self.orphans(listed, is_child) {
            if let Some(pid) = Pid::from_raw(orphan.pid) {
                // Somebody else in this program may have reaped it.
                let _ = waitpid(Some(pid), WaitOptions::NOHANG);
            }
        }
    }

    /// Ends those that are left, once no child is but those that were given up: SIGTERM, and SIGKILL
    /// after `limit`, or as soon as `hurry` resolves. What they started becomes an orphan with their
    /// end, and has its turn. Gives up 5 s after the first SIGKILL.
    pub(super) async fn end(
        &self,
        limit: Duration,
        is_child: impl Fn(u32) -> bool,
        hurry: impl Future<Output = ()>,
    ) {
        let begin = Instant::now();
        let mut hurry = std::pin::pin!(hurry);
        let mut asked = HashSet::new();
        let mut killing_since = None;
        loop {
            self.reap(&is_child);
            // One that is ending shows no mark any more, but may still be the parent of others.
            let is_ours = |pid: &i32| has_mark(*pid) || is_ending(*pid);
            let left = self.orphans(children(), &is_child).map(|orphan| orphan.pid);
            let left: Vec<i32> = left.filter(is_ours).collect();
            if left.is_empty() {
                return;
            }
            if begin.elapsed() >= limit {
                killing_since.get_or_insert_with(Instant::now);
            }
            if killing_since.is_some_and(|since: Instant| since.elapsed() >= LAST) {
                return tracing::error!("killed, but not gone: {left:?}");
            }
            let kill = killing_since.is_some();
            for pid in left.into_iter().filter_map(Pid::from_raw) {
                // It may be gone by now. It can't be another process, since it is not reaped.
                if kill {
                    let _ = kill_process(pid, Signal::KILL);
                } else if asked.insert(pid) {
                    tracing::info!(pid = pid.as_raw_pid(), "stopping what a process left behind");
                    let _ = kill_process(pid, Signal::TERM);
                    // A stopped process takes no other signal until it goes on.
                    let _ = kill_process(pid, Signal::CONT);
                }
                // The kernel's list may leave it out for ever, where there is no such list at all.
                let _ = waitpid(Some(pid), WaitOptions::NOHANG);
            }
            tokio::select! {
                () = sleep(POLL) => {}
                () = &mut hurry, if !kill => killing_since = Some(Instant::now()),
            }
        }
    }

    /// Those among the children of this process that it did not start.
    fn orphans(
        &self,
        children: impl IntoIterator<Item = Relative>,
        is_child: impl Fn(u32) -> bool,
    ) -> impl Iterator<Item = Relative> {
        let own_group = own_group();
        children.into_iter().filter(move |relative| {
            relative.group != own_group
                && !self.before.contains(&relative.pid)
                && !is_child(relative.pid.cast_unsigned())
        })
    }
}

fn children() -> Vec<Relative> {
    children_of(std::process::id().cast_signed())
}

impl Drop for Orphans {
    fn drop(&mut self) {
        if !self.was_reaper {
            set_reaper(false);
        }
    }
}

/// Whether it was one before.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn become_reaper() -> bool {
    let was = rustix::process::child_subreaper().is_ok_and(|was| was.is_some());
    set_reaper(true);
    was
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn set_reaper(on: bool) {
    let me = on.then(rustix::process::getpid);
    // Where it can't be had, orphans go to the system's init, as they do without a master.
    if let Err(error) = rustix::process::set_child_subreaper(me) {
        tracing::debug!("this process can't be the parent of orphans: {error}");
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn become_reaper() -> bool {
    true
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn set_reaper(_: bool) {}
