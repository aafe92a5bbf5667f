//! What the system knows of a process: what it uses, whether a debugger has it, and whose children
//! there are. All of it is read from `/proc` when it is asked for, a few small files a process, none
//! of which waits for the process. Elsewhere than on Linux nothing is known.

use std::time::Duration;

/// What a process uses. Of the process itself, not of those that it started.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Usage {
    /// Memory that it has in RAM, shared pages included.
    pub(super) rss_bytes: u64,
    /// Time that it computed for, since its start, in user and in kernel mode.
    pub(super) cpu: Duration,
}

/// A child of a process.
#[derive(Debug, Clone, Copy)]
pub(in crate::process) struct Relative {
    pub(in crate::process) pid: i32,
    pub(super) group: i32,
    /// Whether it is gone, and waits to be reaped.
    pub(super) is_gone: bool,
}

#[cfg(target_os = "linux")]
mod system {
    use std::ffi::OsStr;

    use procfs::process::{Process, Stat, all_processes};

    use super::{Duration, Relative, Usage};
    use crate::process::inherit::MASTER_VARIABLE;

    pub(in super::super) fn usage(pid: u32) -> Option<Usage> {
        let stat = stat(pid.try_into().ok()?)?;
        let ticks = (stat.utime + stat.stime) as f64;
        Some(Usage {
            rss_bytes: stat.rss * procfs::page_size(),
            cpu: Duration::from_secs_f64(ticks / procfs::ticks_per_second() as f64),
        })
    }

    /// Whether a debugger, or `strace`, has the process, or somebody stopped it.
    pub(in super::super) fn is_debugged(pid: u32) -> bool {
        let process = || Process::new(pid.try_into().ok()?).ok();
        let Some(process) = process() else { return false };
        let is_stopped = process.stat().is_ok_and(|stat| matches!(stat.state, 'T' | 't'));
        is_stopped || process.status().is_ok_and(|status| status.tracerpid != 0)
    }

    /// The children of a process. Every process of the host is looked at: the list that the kernel
    /// has of them is quick to read, but leaves some out while threads or other children end.
    pub(in crate::process) fn children_of(pid: i32) -> Vec<Relative> {
        let processes = all_processes().into_iter().flatten().flatten();
        let stats = processes.filter_map(|process| process.stat().ok());
        stats.filter(|stat| stat.ppid == pid).map(relative).collect()
    }

    /// The children of this process, of all its threads, as the kernel lists them: some may be left
    /// out, or all where it has no such list.
    pub(in super::super) fn listed_children() -> Vec<Relative> {
        let threads = Process::myself().and_then(|me| me.tasks()).into_iter().flatten().flatten();
        let pids = threads.filter_map(|thread| thread.children().ok()).flatten();
        pids.filter_map(|pid| stat(pid.cast_signed())).map(relative).collect()
    }

    fn relative(stat: Stat) -> Relative {
        Relative { pid: stat.pid, group: stat.pgrp, is_gone: matches!(stat.state, 'Z' | 'X') }
    }

    /// The process group of this process: 0 where it is one from outside of a container.
    pub(in super::super) fn own_group() -> i32 {
        Process::myself().and_then(|me| me.stat()).map_or(0, |stat| stat.pgrp)
    }

    /// Whether a process was started by a child of this master, or by one of theirs: it has the
    /// variable in its environment that every child is given.
    pub(in super::super) fn has_mark(pid: i32) -> bool {
        let environment = Process::new(pid).and_then(|process| process.environ());
        let me = std::process::id().to_string();
        environment.is_ok_and(|environment| {
            environment.get(OsStr::new(MASTER_VARIABLE)).is_some_and(|mark| *mark == *me)
        })
    }

    /// Whether a process is on its way out, or gone: its memory may be, though it is listed, and has
    /// children.
    pub(in super::super) fn is_ending(pid: i32) -> bool {
        /// `PF_EXITING` of the kernel's `include/linux/sched.h`, in field 9 of proc_pid_stat(5).
        const EXITING: u32 = 4;
        stat(pid).is_none_or(|stat| stat.flags & EXITING != 0)
    }

    fn stat(pid: i32) -> Option<Stat> {
        Process::new(pid).and_then(|process| process.stat()).ok()
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use super::{Relative, Usage};

    pub(in super::super) fn usage(_: u32) -> Option<Usage> {
        None
    }

    pub(in super::super) fn is_debugged(_: u32) -> bool {
        false
    }

    pub(in crate::process) fn children_of(_: i32) -> Vec<Relative> {
        Vec::new()
    }

    pub(in super::super) fn listed_children() -> Vec<Relative> {
        Vec::new()
    }

    pub(in super::super) fn own_group() -> i32 {
        0
    }

    pub(in super::super) fn has_mark(_: i32) -> bool {
        false
    }

    pub(in super::super) fn is_ending(_: i32) -> bool {
        false
    }
}

pub(in crate::process) use system::children_of;
pub(super) use system::{has_mark, is_debugged, is_ending, listed_children, own_group, usage};

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::{
        io::{Read, Write},
        os::unix::process::CommandExt,
        process::{Command, Stdio},
        time::Instant,
    };

    use super::*;

    #[test]
    fn this_process_uses_memory_and_time_and_a_missing_one_nothing() {
        let me = std::process::id();
        let filled = vec![1_u8; 32 << 20];
        let before = usage(me).unwrap();
        assert!(before.rss_bytes > filled.len() as u64, "{before:?}");
        let begin = Instant::now();
        while usage(me).unwrap().cpu <= before.cpu {
            assert!(begin.elapsed() < Duration::from_secs(30), "computing takes no time");
        }
        assert_eq!(usage(u32::MAX), None);
        assert_eq!(usage(0), None);
    }

    #[test]
    fn a_stopped_process_counts_as_debugged_and_a_running_one_does_not() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        assert!(!is_debugged(child.id()));
        let pid = rustix::process::Pid::from_raw(child.id().cast_signed()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
        let begin = Instant::now();
        while !is_debugged(child.id()) {
            assert!(begin.elapsed() < Duration::from_secs(30), "it is never seen as stopped");
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!is_debugged(child.id()));
    }

    #[test]
    fn a_traced_process_counts_as_debugged_while_it_runs() {
        // A debugger of three lines: it seizes its child, which goes on, and says the child's pid.
        let debugger = "
import ctypes, subprocess, sys
child = subprocess.Popen(['sleep', '1000'])
PTRACE_SEIZE = ctypes.c_long(0x4206)
nothing = ctypes.c_void_p(0)
assert ctypes.CDLL(None).ptrace(PTRACE_SEIZE, ctypes.c_long(child.pid), nothing, nothing) == 0
print(child.pid, flush=True)
sys.stdin.read()
child.kill()
";
        let mut debugger = Command::new("python3")
            .args(["-c", debugger])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        let mut stdout = std::io::BufReader::new(debugger.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut stdout, &mut said).unwrap();
        assert!(is_debugged(said.trim().parse().unwrap()));
        drop(debugger.stdin.take());
        assert!(debugger.wait().unwrap().success());
    }

    #[test]
    fn children_are_seen_alive_and_gone_with_their_group() {
        let mut child = Command::new("sleep").arg("1000").process_group(0).spawn().unwrap();
        let pid = child.id().cast_signed();
        let me = std::process::id().cast_signed();
        let seen = || children_of(me).into_iter().find(|relative| relative.pid == pid);
        let alive = seen().unwrap();
        assert_eq!((alive.group, alive.is_gone, is_ending(pid)), (pid, false, false));
        child.kill().unwrap();
        let begin = Instant::now();
        while !seen().unwrap().is_gone {
            assert!(begin.elapsed() < Duration::from_secs(30), "it is never seen as gone");
        }
        assert!(is_ending(pid));
        child.wait().unwrap();
        assert!(seen().is_none());
    }

    #[test]
    fn the_mark_is_that_of_this_very_process() {
        let me = std::process::id();
        for (mark, is_ours) in [(me.to_string(), true), ((me + 1).to_string(), false)] {
            let mut child = Command::new("cat")
                .env("CLUSTER_CLIENT_MASTER", mark)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            // `spawn` returns while the kernel still sets up the new program, and until it has, the
            // environment reads as empty. A program that answers is there.
            child.stdin.as_mut().unwrap().write_all(b"x").unwrap();
            child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
            assert_eq!(has_mark(child.id().cast_signed()), is_ours);
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}
