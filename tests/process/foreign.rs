//! Agents and workers that are programs of another kind: `foreign.py`, and some that know nothing of
//! the control link.

use std::{fs, os::unix::fs::PermissionsExt};

use crate::support::{Cluster, Signal, is_alive, send, until};

crate::tests![
    workers_of_another_language_are_welcomed_ready_and_stopped,
    an_agent_of_another_language_has_the_port_and_rust_workers,
    a_cluster_can_be_without_any_function,
    one_that_dies_is_replaced_and_one_that_fails_says_why,
    one_that_is_never_ready_ends_the_start,
    one_that_answers_pings_is_judged_and_others_are_not,
    one_that_tells_of_an_exception_is_treated_as_one_that_panicked,
    a_reload_replaces_them_in_order,
    a_master_that_is_killed_takes_them_along,
    one_that_knows_nothing_of_the_link_is_ready_when_it_has_lived,
    one_that_knows_nothing_and_dies_is_not_ready,
    what_cannot_be_executed_is_named_with_its_path,
];

fn stop(mut cluster: Cluster) -> Cluster {
    cluster.signal(Signal::TERM);
    let (status, stderr) = cluster.end();
    assert_eq!(status.code(), Some(0), "{stderr}");
    cluster
}

/// What a start that fails writes to stderr.
fn failed_start(arguments: &str) -> String {
    let mut cluster = Cluster::start(arguments);
    let (status, stderr) = cluster.end();
    assert_eq!(status.code(), Some(1), "{arguments}: {stderr}");
    stderr
}

fn workers_of_another_language_are_welcomed_ready_and_stopped() {
    for runs in ["", "run"] {
        let mut cluster = Cluster::ready(&format!("workers=2 worker_program=python: {runs}"));
        let port = cluster.find("^master ")[3].clone();
        for index in 0..2 {
            cluster.find(&format!(" runs {port} 0 of 2 in Python"));
            let name = format!("worker-{index}");
            let pid = cluster.pid(&name);
            cluster.find(&format!("{name} {pid} has seen the agent"));
            cluster.find(&format!("{name} {pid} cluster-ready"));
        }
        let cluster = stop(cluster);
        assert_eq!(cluster.count("shuts down"), 3);
        for index in 0..2 {
            let stopped = cluster.position(&format!(" stopped worker {index} "));
            assert!(cluster.said[stopped].ends_with("exit code 0"), "{}", cluster.said[stopped]);
        }
    }
}

fn an_agent_of_another_language_has_the_port_and_rust_workers() {
    let mut cluster = Cluster::ready("workers=1 agent_program=python:");
    let port = cluster.find("^master ")[3].clone();
    cluster.find(&format!(" runs {port} 0 in Python"));
    cluster.find(&format!(" runs {port} 0 of 1"));
    let agent = cluster.pid("agent");
    send(agent, Signal::KILL);
    cluster.wait(" ready agent ");
    cluster.find(&format!(" runs {port} 1 in Python"));
    let cluster = stop(cluster);
    assert_eq!(cluster.count(" started worker 0 "), 1);
}

fn a_cluster_can_be_without_any_function() {
    let cluster = Cluster::ready("workers=1 agent_program=python: worker_program=python:pings");
    let cluster = stop(cluster);
    assert_eq!(cluster.count(" in Python"), 2);
    assert_eq!(cluster.count("shuts down"), 2);
}

fn one_that_dies_is_replaced_and_one_that_fails_says_why() {
    let mut cluster = Cluster::ready("workers=1 worker_program=python: backoff_ms=50");
    let pid = cluster.pid("worker-0");
    send(pid, Signal::KILL);
    cluster.wait(&format!(" died worker 0 (pid {pid}) died of signal 9;"));
    cluster.wait(" ready worker 0 ");
    stop(cluster);

    let stderr = failed_start("workers=1 worker_program=python:die");
    assert!(stderr.contains("did not start: worker 0 (pid "), "{stderr}");
    assert!(stderr.contains("    a line of Python before its end"), "{stderr}");
    let stderr = failed_start("workers=1 worker_program=python:fail");
    assert!(stderr.contains("failed: no upstream for Python (exit code 1)"), "{stderr}");
}

fn one_that_is_never_ready_ends_the_start() {
    let stderr = failed_start("workers=1 worker_program=python:hang ready_ms=12000 stop_ms=2000");
    assert!(stderr.contains("was not ready within 12s"), "{stderr}");
    // One that does not even read the link.
    let stderr = failed_start("agent_program=sleep program_args=1000 ready_ms=500");
    assert!(stderr.contains("did not take its place within 500ms"), "{stderr}");
}

fn one_that_answers_pings_is_judged_and_others_are_not() {
    // The agent says that it answers, and does not.
    let arguments = "workers=1 agent_program=python: worker_program=python:pings \
                     frozen_ms=6000 blocked_ms=6000 remedy=report";
    let mut cluster = Cluster::ready(arguments);
    cluster.find("answered three pings");
    let cluster = stop(cluster);
    assert_eq!(cluster.count(" unresponsive "), 0, "{:#?}", cluster.said);

    let arguments = "workers=1 worker_program=python:frozen frozen_ms=3000 remedy=replace \
                     backoff_ms=50";
    let mut cluster = Cluster::ready(arguments);
    let pid = cluster.pid("worker-0");
    cluster.wait(&format!(" unresponsive worker 0 {pid} frozen Replace"));
    cluster.wait(&format!(" died worker 0 (pid {pid}) was frozen"));
    cluster.wait(" ready worker 0 ");
    stop(cluster);
}

fn one_that_tells_of_an_exception_is_treated_as_one_that_panicked() {
    let arguments = "workers=1 worker_program=python:panics on_panic=report";
    let mut cluster = Cluster::ready(arguments);
    let pid = cluster.pid("worker-0");
    cluster.find(&format!(" panicked worker 0 {pid} 1 an exception of Python"));
    let cluster = stop(cluster);
    assert_eq!(cluster.count(" started worker 0 "), 1);
    let arguments = "workers=1 worker_program=python:panics healthy_ms=0";
    let mut cluster = Cluster::ready(arguments);
    let pid = cluster.pid("worker-0");
    cluster.find(&format!(" panicked worker 0 {pid} 1 an exception of Python"));
    until("it is replaced", || !is_alive(pid));
    stop(cluster);
}

fn a_reload_replaces_them_in_order() {
    let programs = "agent_program=python: worker_program=python:pings";
    let (cluster, asks) = Cluster::asked(&format!("workers=2 {programs}"));
    let pids = || {
        let all = [asks.processes("agent"), asks.processes("worker")].concat();
        all.into_iter().map(|(pid, _)| pid.unwrap()).collect::<Vec<u32>>()
    };
    let old = pids();
    assert_eq!(asks.ask("reload"), "ok");
    let new = pids();
    assert_eq!((old.len(), new.len()), (3, 3));
    assert!(old.iter().all(|pid| !is_alive(*pid) && !new.contains(pid)));
    let cluster = stop(cluster);
    assert_eq!(cluster.count(" died "), 0);
    let shut_down = cluster.position(&format!("^agent {} shuts down", old[0]));
    assert!(cluster.position(&format!("^agent {} stands by", new[0])) < shut_down);
    assert!(shut_down < cluster.position(&format!("^agent {} ready", new[0])));
    assert_eq!(cluster.count("shuts down"), 6);
}

fn a_master_that_is_killed_takes_them_along() {
    // No agent in Python serves the port, so that its worker does not look at it.
    let programs = "agent_program=python: worker_program=python:pings";
    let mut cluster = Cluster::ready(&format!("workers=1 {programs}"));
    let pids = [cluster.pid("agent"), cluster.pid("worker-0")];
    cluster.signal(Signal::KILL);
    for pid in pids {
        assert_eq!(crate::support::status_of_orphan(pid).exit_status(), Some(110));
    }
    cluster.end();
}

fn one_that_knows_nothing_of_the_link_is_ready_when_it_has_lived() {
    for time in [0, 300] {
        let arguments = format!(
            "workers=2 worker_program=sleep program_args=1000 ready_after_ms={time} backoff_ms=50"
        );
        let mut cluster = Cluster::ready(&arguments);
        let pid: u32 = cluster.find(" ready worker 1 ").pop().unwrap().parse().unwrap();
        assert_eq!(fs::read_link(format!("/proc/{pid}/fd/0")).unwrap().to_str(), Some("/dev/null"));
        send(pid, Signal::KILL);
        cluster.wait(&format!(" died worker 1 (pid {pid}) died of signal 9"));
        cluster.wait(" ready worker 1 ");
        cluster.signal(Signal::TERM);
        // It dies of the SIGTERM that it is asked to stop with.
        assert_eq!(cluster.end().0.code(), Some(0));
        let stopped = &cluster.said[cluster.position(" stopped worker 0 ")];
        assert!(stopped.ends_with(" signal 15"), "{stopped}");
        until("it is gone", || !is_alive(pid));
    }
}

fn one_that_knows_nothing_and_dies_is_not_ready() {
    let stderr = failed_start("workers=1 worker_program=false ready_after_ms=10000");
    assert!(stderr.contains("worker 0 (pid ") && stderr.contains("exit code 1"), "{stderr}");
}

fn what_cannot_be_executed_is_named_with_its_path() {
    let folder = tempfile::tempdir().unwrap();
    let plain = folder.path().join("no-program");
    fs::write(&plain, "just text").unwrap();
    fs::set_permissions(&plain, fs::Permissions::from_mode(0o644)).unwrap();
    let plain = plain.to_str().unwrap();
    let stderr = failed_start(&format!("workers=1 worker_program={plain}"));
    let expected = format!("worker 0 could not be started: {plain}: Permission denied");
    assert!(stderr.contains(&expected), "{stderr}");
    let stderr = failed_start("agent_program=/no/such/program");
    assert!(stderr.contains("agent could not be started: /no/such/program: No such"), "{stderr}");
}
