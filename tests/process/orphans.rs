//! What processes start and leave behind: reaped by the master, and ended with the cluster.

use std::time::{Duration, Instant};

use crate::support::{Cluster, Signal, children, is_alive, send, state, until};

crate::tests![
    an_orphan_becomes_a_child_of_the_master_and_is_reaped,
    what_left_its_group_ends_with_the_cluster,
    a_second_signal_does_not_wait_for_what_left_its_group,
    as_pid_1_the_master_starts_reaps_restarts_and_stops,
    as_pid_1_a_failed_start_is_exit_code_1,
];

fn daemon(cluster: &mut Cluster) -> u32 {
    cluster.find("^daemon ").pop().unwrap().parse().unwrap()
}

fn an_orphan_becomes_a_child_of_the_master_and_is_reaped() {
    let mut cluster = Cluster::start("workers=1 worker=daemon");
    let orphan = daemon(&mut cluster);
    cluster.find("cluster-ready ");
    let master = cluster.master();
    until("it is adopted", || children(master).contains(&orphan));
    send(orphan, Signal::KILL);
    until("nothing is left of it, not even a zombie", || state(orphan).is_none());
    cluster.signal(Signal::TERM);
    assert_eq!(cluster.end().0.code(), Some(0));
    assert_eq!(cluster.count(" died "), 0);
}

fn what_left_its_group_ends_with_the_cluster() {
    for (behaviour, role) in [("daemon", "worker"), ("stubborn_daemon", "agent")] {
        for runs in ["", "run"] {
            let arguments = format!("workers=1 {role}={behaviour} stop_ms=1000 {runs}");
            let mut cluster = Cluster::start(&arguments);
            let orphan = daemon(&mut cluster);
            cluster.find("cluster-ready ");
            assert!(is_alive(orphan));
            cluster.signal(Signal::TERM);
            assert_eq!(cluster.end().0.code(), Some(0));
            assert!(!is_alive(orphan));
        }
    }
}

fn a_second_signal_does_not_wait_for_what_left_its_group() {
    let mut cluster = Cluster::start("workers=1 worker=stubborn_daemon stop_ms=600000");
    let orphan = daemon(&mut cluster);
    cluster.find("cluster-ready ");
    cluster.signal(Signal::TERM);
    cluster.wait(" stopped agent ");
    assert!(is_alive(orphan));
    cluster.signal(Signal::TERM);
    assert_eq!(cluster.end().0.code(), Some(0));
    assert!(!is_alive(orphan));
}

/// The pid outside of its namespace of a master that is PID 1 inside.
fn init_of(cluster: &Cluster) -> u32 {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let [init] = children(cluster.master())[..] {
            return init;
        }
        assert!(
            Instant::now() < deadline,
            "`unshare --pid --fork --mount-proc` starts nothing; it takes root or user namespaces"
        );
    }
}

fn as_pid_1_the_master_starts_reaps_restarts_and_stops() {
    let arguments = "workers=2 worker0=daemon worker1=family backoff_ms=50";
    let mut cluster = Cluster::start_as_init(arguments);
    let init = init_of(&cluster);
    cluster.find("cluster-ready ");
    cluster.find("^daemon ");
    while cluster.count("grandchild ") < 3 {
        cluster.wait("grandchild ");
    }
    assert_eq!(cluster.pid("master"), 1);
    // The worker with its family dies. Nothing of it stays, not even zombies; the other's daemon
    // does, as a child of PID 1.
    // Agent, workers, and the daemon, which speaks before its parent is gone.
    until("the daemon is adopted", || children(init).len() == 4);
    let worker = children(init).into_iter().find(|pid| children(*pid).len() == 3).unwrap();
    send(worker, Signal::KILL);
    cluster.wait(" died worker 1 ");
    cluster.wait(" ready worker 1 ");
    let zombies = || children(init).into_iter().filter(|pid| state(*pid) == Some('Z')).count();
    until("all orphans are reaped", || zombies() == 0 && children(init).len() == 4);
    send(init, Signal::TERM);
    let (status, stderr) = cluster.end();
    assert_eq!(status.code(), Some(0), "{stderr}");
    assert_eq!(cluster.count("shuts down"), 3);
    assert!(!is_alive(init));
}

fn as_pid_1_a_failed_start_is_exit_code_1() {
    let mut cluster = Cluster::start_as_init("workers=1 worker=fail");
    let (status, stderr) = cluster.end();
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("the cluster did not start: worker 0 (pid "), "{stderr}");
}
