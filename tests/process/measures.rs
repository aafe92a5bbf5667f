//! What the status tells of each process, and who is replaced for its memory.

use serde_json::Value;

use crate::support::{Asks, Cluster, Signal, is_alive, send, until};

crate::tests![
    the_status_has_memory_time_panics_and_silence_of_each_process,
    a_worker_that_has_grown_too_large_is_replaced_without_a_gap,
];

fn stop(mut cluster: Cluster) -> Cluster {
    cluster.signal(Signal::TERM);
    assert_eq!(cluster.end().0.code(), Some(0));
    cluster
}

/// The entry of the process with this pid.
fn entry(asks: &Asks, pid: u32) -> Value {
    let status = asks.status();
    let processes = status["processes"].as_array().unwrap();
    processes.iter().find(|process| process["pid"] == pid).unwrap().clone()
}

fn the_status_has_memory_time_panics_and_silence_of_each_process() {
    let arguments =
        "workers=2 worker0=grow:96 worker1=compute agent=panics:3 frozen_ms=4000 remedy=report";
    let (mut cluster, asks) = Cluster::asked(arguments);
    let [agent, large, busy] = ["agent", "worker-0", "worker-1"].map(|name| cluster.pid(name));
    let mib = |pid| entry(&asks, pid)["rss_bytes"].as_u64().unwrap() / (1024 * 1024);
    until("it has grown", || mib(large) >= 96);
    assert!((1..96).contains(&mib(busy)));
    let seconds = |pid| entry(&asks, pid)["cpu_seconds"].as_f64().unwrap();
    let before = seconds(busy);
    until("it has computed", || seconds(busy) > before);
    until("the panics are told", || entry(&asks, agent)["panics"] == 3);
    assert_eq!(entry(&asks, large)["panics"], 0);

    send(large, Signal::STOP);
    until("it is frozen", || entry(&asks, large)["unresponsive"] == "frozen");
    assert_eq!(entry(&asks, busy)["unresponsive"], Value::Null);
    send(large, Signal::CONT);
    until("it answers", || entry(&asks, large)["unresponsive"] == Value::Null);
    stop(cluster);
}

fn a_worker_that_has_grown_too_large_is_replaced_without_a_gap() {
    let arguments = "workers=2 worker0=grow:200 worker_next=none healthy_ms=0 recycle_mib=150";
    let mut cluster = Cluster::ready(arguments);
    let [large, other] = ["worker-0", "worker-1"].map(|name| cluster.pid(name));
    cluster.find(" replacing worker 0 ");
    until("it is gone", || !is_alive(large));
    assert!(is_alive(other));
    let cluster = stop(cluster);
    let said = &cluster.said[cluster.position(" replacing worker 0 ")];
    assert!(said.contains("MiB, more than 150 MiB"), "{said}");
    let new_is_ready = cluster.said.iter().rposition(|line| line.contains(" ready worker 0 "));
    // The lines of two processes may cross; those of the master do not.
    assert!(new_is_ready.unwrap() < cluster.position(&format!(" stopped worker 0 {large} ")));
    assert_eq!(cluster.count(" started worker 1 "), 1);
}
