//! Who does not answer is noticed, and treated as it was set.

use std::time::{Duration, Instant};

use crate::support::{Cluster, Signal, is_alive, send, state, until};

crate::tests![
    frozen_processes_of_both_roles_are_noticed_and_replaced,
    blocked_runtimes_of_both_roles_are_noticed_and_replaced,
    who_is_only_reported_is_left_alone_and_said_to_answer_again,
    a_runtime_that_goes_on_after_a_block_answers_again,
    one_that_is_debugged_is_spared_when_told_so,
    a_master_that_was_stopped_takes_nobody_for_frozen,
    those_who_compute_but_yield_answer_in_time,
    without_pings_nobody_is_judged,
    with_the_process_go_those_in_its_group,
];

fn freeze(pid: u32) {
    send(pid, Signal::STOP);
    until("it is stopped", || state(pid) == Some('T'));
}

fn stop(mut cluster: Cluster) -> Cluster {
    cluster.signal(Signal::TERM);
    assert_eq!(cluster.end().0.code(), Some(0));
    cluster
}

fn frozen_processes_of_both_roles_are_noticed_and_replaced() {
    let mut cluster = Cluster::ready("workers=2 frozen_ms=3000 remedy=replace backoff_ms=50");
    let others = cluster.pid("worker-1");
    for (process, name) in [("worker 0", "worker-0"), ("agent", "agent")] {
        let pid = cluster.pid(name);
        freeze(pid);
        cluster.wait(&format!(" unresponsive {process} {pid} frozen Replace"));
        let died = cluster.wait(&format!(" died {process} (pid {pid}) was frozen")).join(" ");
        assert!(died.contains("(signal 9)"), "{died}");
        cluster.wait(&format!(" ready {process} "));
        assert!(!is_alive(pid));
    }
    assert!(is_alive(others));
    let cluster = stop(cluster);
    assert_eq!(cluster.count(" unresponsive "), 2);
    assert_eq!(cluster.count(" died "), 2);
}

fn blocked_runtimes_of_both_roles_are_noticed_and_replaced() {
    for (process, key) in [("worker 0", "worker"), ("agent", "agent")] {
        for runtime in ["", "run"] {
            let mut cluster = Cluster::ready(&format!(
                "workers=1 {key}=busy {key}_next=none blocked_ms=3000 remedy=replace \
                 stop_ms=300 backoff_ms=50 {runtime}"
            ));
            cluster.wait(&format!(" unresponsive {process} "));
            let said = cluster.said[cluster.position(" unresponsive ")].clone();
            assert!(said.ends_with("blocked Replace"), "{said}");
            until_ready_twice(&mut cluster, process);
            // It was asked first, did not hear it, and was killed when its time was up; a worker
            // when its replacement was ready.
            let (why, end) = match process {
                "agent" => (" died agent ", " died agent "),
                _ => (" replacing worker 0 ", " stopped worker 0 "),
            };
            let why = cluster.find(why).join(" ");
            let end = cluster.find(end).join(" ");
            assert!(why.contains("blocked") && end.contains("signal 9"), "{why}; {end}");
            stop(cluster);
        }
    }
}

fn until_ready_twice(cluster: &mut Cluster, process: &str) {
    let ready = format!(" ready {process} ");
    while cluster.count(&ready) < 2 {
        cluster.wait(&ready);
    }
}

fn who_is_only_reported_is_left_alone_and_said_to_answer_again() {
    let mut cluster = Cluster::ready("workers=1 frozen_ms=3000 remedy=report");
    let pid = cluster.pid("worker-0");
    for _ in 0..2 {
        freeze(pid);
        cluster.wait(&format!(" unresponsive worker 0 {pid} frozen Report"));
        send(pid, Signal::CONT);
        cluster.wait(&format!(" responsive worker 0 {pid}"));
    }
    let cluster = stop(cluster);
    assert_eq!(cluster.count(" unresponsive "), 2);
    assert_eq!(cluster.count(" died "), 0);
}

fn a_runtime_that_goes_on_after_a_block_answers_again() {
    let arguments = "workers=1 worker=block:8000 blocked_ms=3000 remedy=report";
    let mut cluster = Cluster::ready(arguments);
    cluster.find(" unresponsive worker 0 ");
    cluster.find(" responsive worker 0 ");
    let cluster = stop(cluster);
    let said = &cluster.said[cluster.position(" unresponsive ")];
    assert!(said.ends_with(" blocked Report"), "{said}");
    assert_eq!(cluster.count(" died "), 0);
}

fn one_that_is_debugged_is_spared_when_told_so() {
    let arguments = "workers=1 frozen_ms=3000 blocked_ms=3000 remedy=replace spare";
    let mut cluster = Cluster::ready(arguments);
    for (process, name) in [("worker 0", "worker-0"), ("agent", "agent")] {
        let pid = cluster.pid(name);
        freeze(pid);
        cluster.wait(&format!(" unresponsive {process} {pid} frozen Report"));
        // It is looked at again after the limit, and spared again.
        let begin = Instant::now();
        until("some more limits have passed", || begin.elapsed() > Duration::from_millis(4500));
        assert!(is_alive(pid));
        send(pid, Signal::CONT);
        cluster.wait(&format!(" responsive {process} {pid}"));
    }
    let cluster = stop(cluster);
    assert_eq!(cluster.count(" unresponsive "), 2);
    assert_eq!(cluster.count(" died "), 0);
}

fn a_master_that_was_stopped_takes_nobody_for_frozen() {
    let arguments = "workers=2 frozen_ms=4000 blocked_ms=4000 remedy=replace";
    let cluster = Cluster::ready(arguments);
    for _ in 0..2 {
        freeze(cluster.master());
        let begin = Instant::now();
        until("the limit has passed", || begin.elapsed() > Duration::from_millis(4500));
        cluster.signal(Signal::CONT);
        let begin = Instant::now();
        until("pings were answered", || begin.elapsed() > Duration::from_millis(1500));
    }
    let cluster = stop(cluster);
    assert_eq!(cluster.count(" unresponsive "), 0, "{:#?}", cluster.said);
    assert_eq!(cluster.count(" died "), 0);
}

fn those_who_compute_but_yield_answer_in_time() {
    let arguments =
        "workers=2 worker=compute agent=compute frozen_ms=9000 blocked_ms=9000 remedy=replace";
    let cluster = Cluster::ready(arguments);
    let begin = Instant::now();
    until("the limit has passed", || begin.elapsed() > Duration::from_millis(11_000));
    let cluster = stop(cluster);
    assert_eq!(cluster.count(" unresponsive "), 0, "{:#?}", cluster.said);
}

fn without_pings_nobody_is_judged() {
    let mut cluster = Cluster::ready("workers=1 liveness=off frozen_ms=300 blocked_ms=300");
    let pid = cluster.pid("worker-0");
    freeze(pid);
    let begin = Instant::now();
    until("many limits have passed", || begin.elapsed() > Duration::from_millis(1500));
    send(pid, Signal::CONT);
    let cluster = stop(cluster);
    assert_eq!(cluster.count("responsive "), 0);
}

fn with_the_process_go_those_in_its_group() {
    let arguments = "workers=1 worker=family worker_next=none frozen_ms=3000 remedy=replace \
                     backoff_ms=50";
    let mut cluster = Cluster::start(arguments);
    let mut family = Vec::new();
    for _ in 0..3 {
        family.push(cluster.wait("grandchild ").pop().unwrap().parse().unwrap());
    }
    cluster.find("cluster-ready ");
    let pid = cluster.pid("worker-0");
    freeze(pid);
    until("all of the family is gone", || !family.iter().any(|pid| is_alive(*pid)));
    until_ready_twice(&mut cluster, "worker 0");
    stop(cluster);
}
