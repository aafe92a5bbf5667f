//! The end of a child that has lost its master, or never had one.

use std::{
    io::{self, Write},
    thread,
    time::Duration,
};

use crate::process::name::Exit;

/// Ends this process, and whatever it started that is still in its process group, because the
/// master is gone. Does not return.
pub(super) fn lose_master() -> ! {
    limit_exit();
    kill_group_mates();
    std::process::exit(Exit::LostMaster.code())
}

/// Ends this process because it is not what it seems: its master is gone already, or is not its
/// parent. Does not return.
pub(in crate::process) fn refuse_orphan() -> ! {
    limit_exit();
    // Where stderr is gone with the master, nobody is left to be told.
    let _ = writeln!(
        io::stderr(),
        "the master that this process was started for is gone, or started it through another \
         process; let `Master::builder().program(…)` name this program itself"
    );
    std::process::exit(Exit::LostMaster.code())
}

/// Handlers that run at exit are user code, and user code can hang, as can stderr. Then the process
/// and its group are killed.
fn limit_exit() {
    // Where there is no thread to be had, the exit is as good as it is.
    let _ = thread::Builder::new().name("cluster-exit".into()).spawn(|| {
        thread::sleep(EXIT_LIMIT);
        kill_own_group();
    });
}

/// How long the handlers that run at exit may take once the master is gone.
const EXIT_LIMIT: Duration = Duration::from_secs(1);

fn kill_own_group() {
    // An error means that there is no such group, and so nobody to kill.
    let me = rustix::process::getpid();
    let _ = rustix::process::kill_process_group(me, rustix::process::Signal::KILL);
    let _ = rustix::process::kill_process(me, rustix::process::Signal::KILL);
}

/// Kills the members of this process's group, but not this process, so that its exit code can tell
/// what happened. Reads `/proc` until nobody is left, since one that is seen may be forking.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn kill_group_mates() {
    use rustix::process::{Pid, Signal, getpgrp, getpid, kill_process};

    let me = getpid();
    // A process that does not lead its group was not started by a master, and shares the group.
    if getpgrp() != me {
        return;
    }
    // A mate that is killed leaves the group when it is reaped, which may be late: what counts as
    // new is a pid that was not killed yet.
    let mut killed = std::collections::HashSet::new();
    loop {
        let Ok(processes) = std::fs::read_dir("/proc") else { return };
        let mates: Vec<Pid> = processes
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|pid| group_of(*pid) == Some(me.as_raw_pid()))
            .filter_map(Pid::from_raw)
            .filter(|pid| *pid != me && !killed.contains(pid))
            .collect();
        if mates.is_empty() {
            return;
        }
        for mate in mates {
            // It may be gone already.
            let _ = kill_process(mate, Signal::KILL);
            killed.insert(mate);
        }
    }
}

/// The process group of a process. The system call would do, but its safe wrapper can't express the
/// group 0 that processes from outside of a container have.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn group_of(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may contain anything. After it: state, parent, group.
    stat.rsplit_once(") ")?.1.split(' ').nth(2)?.parse().ok()
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn kill_group_mates() {}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_group_of_a_process_is_read_whatever_it_is() {
        let me = rustix::process::getpid().as_raw_pid();
        assert_eq!(group_of(me), Some(rustix::process::getpgrp().as_raw_pid()));
        assert!(group_of(1).is_some());
        assert_eq!(group_of(-1), None);
    }
}
