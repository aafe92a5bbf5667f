//! How processes end, and with what code.

use std::os::unix::process::ExitStatusExt;

use crate::support::{Cluster, Signal, is_alive, send, until};

crate::tests![
    each_end_of_a_process_has_its_code,
    each_end_of_the_master_has_its_code,
    a_clean_up_that_fails_ends_its_process_with_its_code_and_nothing_else,
    a_clean_up_runs_once,
    what_a_process_that_panicked_had_started_goes_with_it,
];

fn each_end_of_a_process_has_its_code() {
    let ends = [
        ("early", "returned before it was asked to stop", "exit code 1"),
        ("panic_later", "panicked: the fixture panics later", "exit code 101"),
        ("exit:0", "died of", "exit code 0"),
        ("exit:42", "died of", "exit code 42"),
        ("abort", "died of", "signal 6"),
    ];
    for (role, process) in [("worker", "worker 0"), ("agent", "agent")] {
        for (behaviour, reason, exit) in ends {
            // What is told comes after the first ready, so that it is no failed start.
            let mut cluster = Cluster::ready(&format!(
                "workers=1 {role}_next={behaviour} backoff_ms=50 worker=none agent=none"
            ));
            let pid = cluster.pid(if role == "agent" { "agent" } else { "worker-0" });
            send(pid, Signal::KILL);
            let killed = cluster.wait(&format!(" died {process} (pid {pid})")).join(" ");
            assert!(killed.contains("signal 9"), "{killed}");
            let died = cluster.wait(&format!(" died {process} ")).join(" ");
            assert!(died.contains(reason) && died.contains(exit), "{behaviour}: {died}");
            cluster.signal(Signal::TERM);
            assert_eq!(cluster.end().0.code(), Some(0));
        }
    }
}

fn each_end_of_the_master_has_its_code() {
    for (arguments, code) in [
        ("workers=1 observer=stop", 0),
        ("workers=1 observer=fail", 1),
        ("workers=1 observer=panic", 1),
        ("workers=1 worker=fail", 1),
        ("workers=1 worker=panic", 1),
        ("workers=1 backoff_ms=0", 1),
    ] {
        let (status, stderr) = Cluster::start(arguments).end();
        assert_eq!(status.code(), Some(code), "{arguments}: {stderr}");
    }
    let mut cluster = Cluster::ready("workers=1");
    cluster.signal(Signal::KILL);
    assert_eq!(cluster.end().0.signal(), Some(9), "a shell shows 137");
}

fn a_clean_up_that_fails_ends_its_process_with_its_code_and_nothing_else() {
    let ends = [("end_fails", "exit code 1"), ("end_panics", "exit code 101")];
    for (behaviour, exit) in ends {
        let mut cluster =
            Cluster::ready(&format!("workers=2 worker0={behaviour} agent={behaviour}"));
        cluster.signal(Signal::TERM);
        let (status, stderr) = cluster.end();
        assert_eq!(status.code(), Some(0), "the cluster was stopped as it was asked to");
        assert_eq!(cluster.count("shuts down"), 3);
        for (process, expected) in
            [("worker 0", exit), ("worker 1", "exit code 0"), ("agent", exit)]
        {
            let stopped = &cluster.said[cluster.position(&format!(" stopped {process} "))];
            assert!(stopped.ends_with(expected), "{stopped}");
        }
        let text = if behaviour == "end_fails" { "failed" } else { "panics" };
        assert!(stderr.contains(&format!("the clean-up of the fixture {text}")), "{stderr}");
    }
}

fn a_clean_up_runs_once() {
    let arguments = "workers=1 worker=hook:700 agent=hook:700 stop_ms=60000";
    let mut cluster = Cluster::ready(arguments);
    let pids = [cluster.pid("agent"), cluster.pid("worker-0")];
    cluster.signal(Signal::TERM);
    for pid in [pids[1], pids[0]] {
        cluster.wait(&format!("{pid} shuts down"));
        for _ in 0..3 {
            send(pid, Signal::TERM);
        }
    }
    assert_eq!(cluster.end().0.code(), Some(0));
    assert_eq!(cluster.count("shuts down"), 2);
    assert_eq!(cluster.count("hook is done"), 2);
}

fn what_a_process_that_panicked_had_started_goes_with_it() {
    let arguments = "workers=1 worker=none worker_next=family_panic backoff_ms=200";
    let mut cluster = Cluster::ready(arguments);
    let pid = cluster.pid("worker-0");
    send(pid, Signal::KILL);
    cluster.wait(&format!(" died worker 0 (pid {pid})"));
    let mut family = Vec::new();
    for _ in 0..3 {
        family.push(cluster.find_after_grandchild());
    }
    let died = cluster.wait(" died worker 0 ").join(" ");
    assert!(died.contains("panicked: the fixture panics with a family (exit code 101)"), "{died}");
    until("all of the family is gone", || !family.iter().any(|pid| is_alive(*pid)));
    cluster.signal(Signal::TERM);
    assert_eq!(cluster.end().0.code(), Some(0));
}

impl Cluster {
    fn find_after_grandchild(&mut self) -> u32 {
        self.wait("grandchild ").pop().unwrap().parse().unwrap()
    }
}
