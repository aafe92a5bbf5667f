//! How a cluster starts, and how a start fails.

use std::{net::TcpListener, time::Instant};

use crate::support::{Cluster, Signal};

crate::tests![
    agent_first_then_workers_then_cluster_ready,
    two_masters_have_a_port_each,
    agent_faults_end_the_start_before_any_worker,
    worker_faults_end_the_start,
    a_death_during_the_start_ends_it_even_after_ready,
    a_hang_is_told_apart_from_a_program_that_is_none,
    a_start_that_waits_for_itself_times_out,
    a_signal_during_the_start_stops_in_order,
    a_program_that_does_not_exist_is_named,
    a_cluster_without_workers_is_ready,
];

fn agent_first_then_workers_then_cluster_ready() {
    let mut cluster = Cluster::ready("workers=3");
    let port = cluster.find("^master ")[3].clone();
    for name in ["agent", "worker-0", "worker-1", "worker-2"] {
        cluster.find(&format!("^{name} "));
        let told = |line: &&String| line.starts_with(name) && line.ends_with(" cluster-ready");
        while !cluster.said.iter().any(|line| told(&line)) {
            cluster.wait(" cluster-ready");
        }
    }
    cluster.signal(Signal::TERM);
    let (status, _) = cluster.end();
    assert_eq!(status.code(), Some(0));

    let agent_ready = cluster.position(" ready agent ");
    let all_ready = cluster.position(" cluster-ready ");
    for index in 0..3 {
        let started = cluster.position(&format!(" started worker {index} "));
        let ready = cluster.position(&format!(" ready worker {index} "));
        assert!(agent_ready < started && started < ready && ready < all_ready);
        let runs = format!(" runs {port} 0 of 3");
        let place =
            |line: &&String| line.starts_with(&format!("worker-{index} ")) && line.ends_with(&runs);
        assert_eq!(cluster.said.iter().filter(place).count(), 1);
    }
    assert_eq!(cluster.count(" started agent "), 1);
    assert_eq!(cluster.count(" started worker "), 3);
    // Each child heard of it once.
    assert_eq!(cluster.said.iter().filter(|line| line.ends_with(" cluster-ready")).count(), 4);
}

fn two_masters_have_a_port_each() {
    let mut one = Cluster::ready("workers=1");
    let mut other = Cluster::ready("workers=1");
    let ports = [&mut one, &mut other].map(|cluster| cluster.find(" runs ")[3].clone());
    assert_ne!(ports[0], ports[1]);
    one.signal(Signal::KILL);
    one.end();
    other.signal(Signal::TERM);
    assert_eq!(other.end().0.code(), Some(0), "the other cluster does not notice");
}

/// Starts a cluster that can't, and gives what it wrote to stderr.
fn failed_start(arguments: &str) -> (Cluster, String) {
    let mut cluster = Cluster::start(arguments);
    let (status, stderr) = cluster.end();
    assert_eq!(status.code(), Some(1), "{arguments}: {stderr}");
    assert_eq!(cluster.count("cluster-ready"), 0, "{arguments}");
    (cluster, stderr)
}

fn agent_faults_end_the_start_before_any_worker() {
    let faults = [
        ("agent=fail", "failed: no upstream for the fixture (exit code 1)"),
        ("agent=panic", "panicked: the fixture panics (exit code 101)"),
        ("agent=die", "died of signal 6"),
    ];
    for (fault, reason) in faults {
        let (cluster, stderr) = failed_start(&format!("workers=2 {fault}"));
        assert_eq!(cluster.count("worker"), 0, "{fault}: {:#?}", cluster.said);
        let pid = cluster.said[cluster.position(" started agent ")].split(' ').nth(4).unwrap();
        let expected = format!("the cluster did not start: agent (pid {pid}) {reason}");
        assert!(stderr.contains(&expected), "{expected}: {stderr}");
    }
    let (_, stderr) = failed_start("agent=fail");
    let last_line = "its last lines:\n    a line before the failure";
    assert!(stderr.contains(last_line), "{stderr}");
}

fn worker_faults_end_the_start() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let faults = [
        ("worker1=fail".to_owned(), "failed: no upstream for the fixture"),
        ("worker1=panic".to_owned(), "panicked: the fixture panics"),
        (format!("worker1=bind:{port}"), "failed: bind: Address already in use"),
        (
            "worker1=hang ready_ms=6000".to_owned(),
            "was not ready within 6s; let its function \
          call `worker.ready().await`",
        ),
        (
            "worker1=early worker0=hang".to_owned(),
            "returned before it was asked to stop; let its \
          function wait for `worker.shutdown().await`",
        ),
    ];
    for (fault, reason) in faults {
        let (cluster, stderr) = failed_start(&format!("workers=2 {fault} stop_ms=4000"));
        assert!(stderr.contains("did not start: worker 1 (pid "), "{fault}: {stderr}");
        assert!(stderr.contains(reason), "{fault}: {stderr}");
        // The clean-up of the others still runs.
        assert_eq!(cluster.count(&format!("agent {} shuts down", agent_of(&cluster))), 1);
    }
}

fn agent_of(cluster: &Cluster) -> &str {
    cluster.said[cluster.position(" started agent ")].split(' ').nth(4).unwrap()
}

fn a_death_during_the_start_ends_it_even_after_ready() {
    let mut cluster = Cluster::start("workers=2 worker1=hang");
    cluster.wait(" ready worker 0 ");
    let agent = cluster.pid("agent");
    crate::support::send(agent, Signal::KILL);
    let (status, stderr) = cluster.end();
    assert_eq!(status.code(), Some(1));
    assert!(stderr.contains(&format!("agent (pid {agent}) died of signal 9")), "{stderr}");
}

fn a_hang_is_told_apart_from_a_program_that_is_none() {
    let (_, stderr) = failed_start("agent=hang ready_ms=6000 stop_ms=200");
    let hint = "let its function call `agent.ready().await` when its set-up is done";
    assert!(stderr.contains(hint) && stderr.contains("    a line before the hang"), "{stderr}");

    let (_, stderr) = failed_start("program=/bin/sleep ready_ms=300");
    assert!(stderr.contains("did not take its place within 300ms"), "{stderr}");
}

fn a_start_that_waits_for_itself_times_out() {
    let (_, stderr) = failed_start("worker0=wait_cluster ready_ms=6000 stop_ms=200");
    assert!(stderr.contains("worker 0") && stderr.contains("was not ready"), "{stderr}");
}

fn a_signal_during_the_start_stops_in_order() {
    let mut cluster = Cluster::start("workers=2 worker1=slow:20000 stop_ms=400");
    cluster.wait(" ready worker 0 ");
    cluster.find("^worker-1 ");
    let begun = Instant::now();
    cluster.signal(Signal::TERM);
    let (status, stderr) = cluster.end();
    assert_eq!(status.code(), Some(0), "{stderr}");
    assert!(begun.elapsed().as_secs() < 15);
    assert_eq!(cluster.count(" died "), 0);
    assert!(cluster.position(" stopped worker 1 ") < cluster.position(" stopped agent "));
}

fn a_program_that_does_not_exist_is_named() {
    let (_, stderr) = failed_start("program=/no/such/program");
    assert!(
        stderr.contains("agent could not be started: /no/such/program: No such file"),
        "{stderr}"
    );
}

fn a_cluster_without_workers_is_ready() {
    let mut cluster = Cluster::ready("workers=0 observer=stop");
    assert_eq!(cluster.end().0.code(), Some(0));
    assert_eq!(cluster.count("observed the end"), 1);
}
