//! More workers, fewer workers, and those that can't be had.

use std::io::BufRead;

use crate::support::{Asks, Cluster, Signal, is_alive, send, until};

crate::tests![
    workers_are_added_and_drained_by_index,
    a_new_worker_that_fails_is_the_answer,
    another_number_takes_the_place_of_the_first,
    a_slot_that_fails_is_seen_and_recovers,
    the_status_tells_who_is_there,
];

fn stop(mut cluster: Cluster) -> Cluster {
    cluster.signal(Signal::TERM);
    let (status, stderr) = cluster.end();
    assert_eq!(status.code(), Some(0), "{stderr}");
    cluster
}

fn workers(asks: &Asks) -> Vec<u32> {
    let workers = asks.processes("worker");
    assert!(workers.iter().all(|(_, state)| state == "ready"), "{workers:?}");
    workers.into_iter().map(|(pid, _)| pid.unwrap()).collect()
}

fn workers_are_added_and_drained_by_index() {
    let (mut cluster, asks) = Cluster::asked("workers=1 backoff_ms=50");
    let first = workers(&asks);
    assert_eq!(asks.ask("scale 3"), "ok");
    let three = workers(&asks);
    assert_eq!((three.len(), three[0]), (3, first[0]));
    let third = cluster.find("^worker-2 ").join(" ");
    assert!(third.ends_with(" of 3"), "{third}");
    // A restart keeps the number.
    send(three[2], Signal::KILL);
    cluster.wait(" died worker 2 ");
    cluster.wait(" ready worker 2 ");
    assert_eq!(asks.ask("scale 1"), "ok");
    assert_eq!(workers(&asks), first);
    assert!(!is_alive(three[1]) && !is_alive(three[2]));
    assert_eq!(asks.ask("scale 0"), "ok");
    assert!(!is_alive(first[0]));
    assert_eq!(asks.status()["workers"], 0);
    let answer = asks.ask("scale 5000");
    assert!(answer.contains("at most 1024"), "{answer}");
    assert_eq!(asks.ask("scale 2"), "ok");
    let cluster = stop(cluster);
    assert_eq!(cluster.count(" died "), 1);
}

fn a_new_worker_that_fails_is_the_answer() {
    let (cluster, asks) = Cluster::asked("workers=1 worker1=fail worker_next=none backoff_ms=50");
    let answer = asks.ask("scale 2");
    assert!(answer.contains("there are to be 2 workers now, but worker 1"), "{answer}");
    assert!(answer.contains("no upstream for the fixture"), "{answer}");
    until("its replacement is ready", || {
        let workers = asks.processes("worker");
        workers.len() == 2 && workers.iter().all(|(_, state)| state == "ready")
    });
    stop(cluster);
}

fn another_number_takes_the_place_of_the_first() {
    let (mut cluster, asks) = Cluster::asked("workers=1 worker1=slow:60000");
    let mut first = asks.say("scale 2");
    cluster.wait(" started worker 1 ");
    assert_eq!(asks.ask("scale 1"), "ok");
    let mut answer = String::new();
    first.read_line(&mut answer).unwrap();
    assert!(answer.contains("asked for 2 workers, and then for 1"), "{answer}");
    stop(cluster);
}

fn a_slot_that_fails_is_seen_and_recovers() {
    let behaviour = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(behaviour.path(), "fail").unwrap();
    let (mut cluster, asks) = Cluster::asked(&format!(
        "workers=1 worker_next=file:{} backoff_ms=100 crash_loop=2",
        behaviour.path().display()
    ));
    let pid = cluster.pid("worker-0");
    send(pid, Signal::KILL);
    cluster.wait(" failed worker 0 after 2");
    let status = asks.status();
    let worker = &status["processes"][1];
    assert_eq!(worker["state"], "failed", "{worker}");
    assert_eq!(worker["last_death"]["lines"][0], "a line before the failure", "{worker}");
    let reason = worker["last_death"]["reason"].as_str().unwrap();
    assert!(reason.contains("no upstream for the fixture"), "{reason}");
    std::fs::write(behaviour.path(), "none").unwrap();
    cluster.wait(" ready worker 0 ");
    assert_eq!(workers(&asks).len(), 1);
    let cluster = stop(cluster);
    assert_eq!(cluster.count(" failed worker 0 "), 1);
}

fn the_status_tells_who_is_there() {
    let (mut cluster, asks) = Cluster::asked("workers=2 backoff_ms=50");
    let status = asks.status();
    assert_eq!(status["pid"], cluster.master());
    assert_eq!(status["phase"], "running");
    assert!(status["last_reload"].is_null());
    let processes = status["processes"].as_array().unwrap();
    let roles: Vec<_> = processes.iter().map(|of| of["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["agent", "worker", "worker"]);
    assert_eq!(processes[2]["index"], 1);
    assert_eq!(processes[0]["pid"], cluster.pid("agent"));
    assert!(processes[0]["uptime_seconds"].as_f64().unwrap() >= 0.0);
    let pid = cluster.pid("worker-1");
    send(pid, Signal::KILL);
    cluster.wait(" ready worker 1 ");
    let status = asks.status();
    let worker = &status["processes"][2];
    assert_eq!((&worker["restarts"], &worker["generation"]), (&1.into(), &1.into()));
    assert!(worker["last_death"]["reason"].as_str().unwrap().contains("signal 9"));
    stop(cluster);
}
