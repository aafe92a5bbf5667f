//! Processes that are not gone although they were killed: a debugger holds them, as the kernel may.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

use crate::support::{Cluster, Signal, send, state, until};

crate::tests![
    a_stop_does_not_wait_without_end_for_one_that_can_not_be_killed,
    one_that_can_not_be_killed_is_replaced,
];

/// A debugger that lets go of nothing: signals do not reach the process, and the parent is not told of
/// its end.
struct Debugger(Child);

impl Debugger {
    fn hold(pid: u32) -> Self {
        let script = format!(
            "
import ctypes, sys
PTRACE_SEIZE = ctypes.c_long(0x4206)
nothing = ctypes.c_void_p(0)
assert ctypes.CDLL(None).ptrace(PTRACE_SEIZE, ctypes.c_long({pid}), nothing, nothing) == 0
print('holds', flush=True)
sys.stdin.read()
"
        );
        let mut command = Command::new("python3");
        command.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut debugger = command.spawn().unwrap();
        let mut said = String::new();
        BufReader::new(debugger.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "holds\n");
        Self(debugger)
    }
}

impl Drop for Debugger {
    /// Lets go.
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

fn a_stop_does_not_wait_without_end_for_one_that_can_not_be_killed() {
    let mut cluster = Cluster::ready("workers=2 worker1=traceable stop_ms=200");
    cluster.find(" may be traced");
    let held = cluster.pid("worker-1");
    let debugger = Debugger::hold(held);
    cluster.signal(Signal::TERM);
    let (status, stderr) = cluster.end();
    assert_eq!(status.code(), Some(1), "{stderr}");
    let says = format!("worker 1 (pid {held}) is not gone 10s after its SIGKILL");
    assert!(stderr.contains(&says), "{stderr}");
    // The rest of the stop was in order.
    for stopped in [" stopped worker 0 ", " stopped agent "] {
        let line = &cluster.said[cluster.position(stopped)];
        assert!(line.ends_with("exit code 0"), "{line}");
    }
    assert!(cluster.position(" stopped worker 1 ") < cluster.position(" stopped agent "));
    drop(debugger);
}

fn one_that_can_not_be_killed_is_replaced() {
    let start = "workers=1 worker=traceable worker_next=none backoff_ms=50 frozen_ms=3000";
    let mut cluster = Cluster::ready(start);
    cluster.find(" may be traced");
    let held = cluster.pid("worker-0");
    let debugger = Debugger::hold(held);
    // Its parent is not told.
    send(held, Signal::KILL);
    cluster.wait(&format!(" unresponsive worker 0 {held} frozen"));
    let died = cluster.wait(&format!(" died worker 0 (pid {held}) was frozen: ")).join(" ");
    assert!(died.contains("; it is not gone 10s after its SIGKILL"), "{died}");
    cluster.wait(" ready worker 0 ");
    // Its end is no news, and no failure.
    drop(debugger);
    until("it is gone", || state(held).is_none());
    cluster.signal(Signal::TERM);
    let (status, stderr) = cluster.end();
    assert_eq!(status.code(), Some(0), "{stderr}");
}
