//! What becomes of agent and workers when the master is lost.

use crate::support::{Cluster, Signal, send, state, status_of_orphan, until};

crate::tests![
    all_exit_with_110_when_the_master_is_killed,
    blocked_ones_go_with_the_master,
    stopped_ones_go_with_the_master,
    grandchildren_go_with_the_master,
    one_that_is_starting_goes_with_the_master,
    with_run_they_exit_too,
];

/// Kills the master and asserts that these end with 110, and that nobody is left.
fn lose(mut cluster: Cluster, names: &[&str]) -> Cluster {
    let pids: Vec<u32> = names.iter().map(|name| cluster.pid(name)).collect();
    cluster.signal(Signal::KILL);
    for (name, pid) in names.iter().zip(pids) {
        let status = status_of_orphan(pid);
        assert_eq!(status.exit_status(), Some(110), "{name}: {status:?}");
    }
    // It waits for the end of the last that has stdout.
    cluster.end();
    cluster
}

fn all_exit_with_110_when_the_master_is_killed() {
    let cluster = Cluster::ready("workers=4");
    let cluster = lose(cluster, &["agent", "worker-0", "worker-1", "worker-2", "worker-3"]);
    assert_eq!(cluster.count("shuts down"), 0);
}

fn blocked_ones_go_with_the_master() {
    let mut cluster = Cluster::ready("workers=1 worker=busy agent=busy");
    cluster.find("^worker-0 ");
    while cluster.count(" blocks") < 2 {
        cluster.wait(" blocks");
    }
    lose(cluster, &["agent", "worker-0"]);
}

fn stopped_ones_go_with_the_master() {
    let mut cluster = Cluster::ready("workers=2");
    for name in ["agent", "worker-0", "worker-1"] {
        let pid = cluster.pid(name);
        send(pid, Signal::STOP);
        until("it is stopped", || state(pid) == Some('T'));
    }
    lose(cluster, &["agent", "worker-0", "worker-1"]);
}

fn grandchildren_go_with_the_master() {
    let mut cluster = Cluster::start("workers=1 worker=family");
    for _ in 0..3 {
        cluster.wait("grandchild ");
    }
    cluster.find("cluster-ready ");
    // The end that `lose` waits for includes the grandchildren.
    lose(cluster, &["agent", "worker-0"]);
}

fn one_that_is_starting_goes_with_the_master() {
    let mut cluster = Cluster::start("workers=1 worker=hang");
    cluster.wait("^worker-0 ");
    lose(cluster, &["agent", "worker-0"]);
}

fn with_run_they_exit_too() {
    lose(Cluster::ready("workers=1 run"), &["agent", "worker-0"]);
}
