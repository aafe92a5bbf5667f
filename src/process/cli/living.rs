//! Processes that can't be mistaken for others: a pid alone may be another's by the time it is used.

use std::{
    fs::Metadata,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal};

use crate::process::master::children_of;

/// A process, as long as it lives.
#[derive(Debug)]
pub(super) struct Living {
    pid: Pid,
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fd: std::os::fd::OwnedFd,
}

impl Living {
    /// The process that has this pid now. `None` where there is none.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub(super) fn find(pid: Pid) -> Option<Self> {
        let fd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()?;
        Some(Self { pid, fd })
    }

    /// The process that has this pid now. `None` where there is none.
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    pub(super) fn find(pid: Pid) -> Option<Self> {
        Some(Self { pid }).filter(|process| !process.is_gone())
    }

    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    /// Whether it has ended, reaped or not.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub(super) fn is_gone(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};

        let mut ends = [PollFd::new(&self.fd, PollFlags::IN)];
        poll(&mut ends, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ended| ended > 0)
    }

    /// Whether it has ended.
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    pub(super) fn is_gone(&self) -> bool {
        rustix::process::test_kill_process(self.pid).is_err()
    }

    /// Signals it. One that is gone does not hear it, and need not.
    pub(super) fn signal(&self, signal: Signal) {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        let _ = rustix::process::pidfd_send_signal(&self.fd, signal);
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        let _ = rustix::process::kill_process(self.pid, signal);
    }

    /// Kills it, and with it the process group that it leads.
    pub(super) fn kill_group(&self) {
        // Until it is gone nobody else can have its number as a group.
        if !self.is_gone() {
            let _ = rustix::process::kill_process_group(self.pid, Signal::KILL);
        }
        self.signal(Signal::KILL);
    }

    /// Whether it has this file open: a number that was written down may be that of a process in
    /// another container, and of somebody else here.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub(super) fn has_open(&self, file: &Metadata) -> bool {
        use std::{fs, os::unix::fs::MetadataExt as _};

        let is_it = |open: Metadata| (open.dev(), open.ino()) == (file.dev(), file.ino());
        let path = format!("/proc/{}/fd", self.pid.as_raw_pid());
        let open = fs::read_dir(path).into_iter().flatten().flatten();
        open.filter_map(|entry| fs::metadata(entry.path()).ok()).any(is_it) && !self.is_gone()
    }

    /// Elsewhere than on Linux there is nothing but the number.
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    pub(super) fn has_open(&self, _: &Metadata) -> bool {
        true
    }

    /// Its children: agent and workers, where it is a master. They can't be known elsewhere than on
    /// Linux.
    pub(super) fn children(&self) -> Vec<Self> {
        let children = children_of(self.pid.as_raw_pid()).into_iter();
        let children = children.filter_map(|child| Self::find(Pid::from_raw(child.pid)?)).collect();
        // What was read is true of this process if it lives on.
        if self.is_gone() { Vec::new() } else { children }
    }
}

/// Waits until all are gone, or for `limit`; leaves those that are not.
pub(super) fn wait_for(processes: &mut Vec<Living>, limit: Duration) {
    let deadline = Instant::now() + limit;
    loop {
        processes.retain(|process| !process.is_gone());
        if processes.is_empty() || Instant::now() >= deadline {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_is_known_until_it_is_gone_and_its_number_is_never_another() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = Pid::from_raw(child.id() as i32).unwrap();
        let living = Living::find(pid).unwrap();
        assert!(!living.is_gone());
        let me = Living::find(rustix::process::getpid()).unwrap();
        assert!(me.children().iter().any(|child| child.pid() == pid));
        let mut all = vec![living];
        wait_for(&mut all, Duration::from_millis(1));
        assert_eq!(all.len(), 1);
        all[0].signal(Signal::KILL);
        wait_for(&mut all, Duration::from_secs(30));
        assert!(all.is_empty(), "a zombie is gone");
        child.wait().unwrap();
        assert!(Living::find(pid).is_none_or(|other| !other.is_gone()));
    }
}
