//! The ordered stop, and what it does with those who do not want to.

use std::time::{Duration, Instant};

use crate::support::{Cluster, Signal, is_alive, send, state, until};

crate::tests![
    each_stop_signal_stops_workers_then_agent_with_code_0,
    those_who_ignore_the_stop_are_killed_in_order,
    a_second_signal_hurries_and_keeps_the_order,
    stopped_processes_are_woken_and_stop,
    a_death_during_the_stop_is_no_crash,
    clean_up_is_waited_for_and_a_second_sigterm_does_not_cut_it,
    grandchildren_go_with_their_worker_whatever_they_ignore,
    grandchildren_of_a_worker_that_died_go_too,
    an_observer_can_stop_and_fail_the_cluster,
    a_worker_that_waits_for_its_leader_does_not_hold_up_the_stop,
    a_worker_that_stops_withdraws_at_once,
    an_agent_that_stops_withdraws_all_and_closes_its_clients,
    a_worker_ends_its_runs_then_its_clients_then_its_messenger,
];

fn each_stop_signal_stops_workers_then_agent_with_code_0() {
    for signal in [Signal::TERM, Signal::INT, Signal::QUIT] {
        // Nobody has to be killed, and so the limit is far off.
        let mut cluster = Cluster::ready("workers=2 stop_ms=60000");
        cluster.signal(signal);
        let (status, stderr) = cluster.end();
        assert_eq!((status.code(), stderr.as_str()), (Some(0), ""));
        let agent = cluster.pid("agent");
        let agent_is_asked = cluster.position(&format!("^agent {agent} shuts down"));
        for index in 0..2 {
            let stopped = cluster.position(&format!(" stopped worker {index} "));
            assert!(cluster.said[stopped].ends_with("exit code 0"));
            // The lines of two processes may cross; the agent's own end is after the workers'.
            assert!(stopped < cluster.position(" stopped agent "));
            let name = format!("worker-{index} ");
            let asked = |line: &String| line.starts_with(&name) && line.ends_with("shuts down");
            assert!(cluster.said.iter().position(asked).unwrap() < agent_is_asked);
        }
        assert_eq!(cluster.count(" died "), 0);
        assert_eq!(cluster.count("observed the end"), 1);
    }
}

fn those_who_ignore_the_stop_are_killed_in_order() {
    for deaf in ["deaf", "busy"] {
        let mut cluster =
            Cluster::ready(&format!("workers=2 worker={deaf} agent={deaf} stop_ms=500"));
        if deaf == "busy" {
            for name in ["agent", "worker-0", "worker-1"] {
                cluster.find(&format!("^{name} "));
                let blocks = |line: &String| line.starts_with(name) && line.ends_with(" blocks");
                while !cluster.said.iter().any(blocks) {
                    cluster.wait(" blocks");
                }
            }
        }
        let begun = Instant::now();
        cluster.signal(Signal::TERM);
        let (status, _) = cluster.end();
        let took = begun.elapsed();
        assert_eq!(status.code(), Some(0));
        // The limit for the workers together, and then the limit for the agent.
        assert!(took >= Duration::from_millis(1000), "{took:?}");
        // The default of the limit would be ten times as long.
        assert!(took < Duration::from_secs(10), "{took:?}");
        for name in ["worker 0", "worker 1", "agent"] {
            let stopped = cluster.position(&format!(" stopped {name} "));
            assert!(cluster.said[stopped].ends_with("signal 9"), "{}", cluster.said[stopped]);
            assert!(stopped <= cluster.position(" stopped agent "));
        }
    }
}

fn a_second_signal_hurries_and_keeps_the_order() {
    let mut cluster = Cluster::ready("workers=2 worker=deaf agent=deaf stop_ms=60000");
    cluster.signal(Signal::TERM);
    cluster.wait(" stopping");
    let begun = Instant::now();
    cluster.signal(Signal::INT);
    let (status, _) = cluster.end();
    assert_eq!(status.code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(30));
    let agent = cluster.position(" stopped agent ");
    assert!(cluster.position(" stopped worker 0 ") < agent);
    assert!(cluster.position(" stopped worker 1 ") < agent);
    assert!(cluster.said[agent].ends_with("signal 9"));
}

fn stopped_processes_are_woken_and_stop() {
    let mut cluster = Cluster::ready("workers=1 stop_ms=60000");
    let pids = [cluster.pid("agent"), cluster.pid("worker-0")];
    for pid in pids {
        send(pid, Signal::STOP);
        until("it is stopped", || state(pid) == Some('T'));
    }
    let begun = Instant::now();
    cluster.signal(Signal::TERM);
    assert_eq!(cluster.end().0.code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(30));
    assert_eq!(cluster.count("shuts down"), 2);
}

fn a_death_during_the_stop_is_no_crash() {
    let mut cluster = Cluster::ready("workers=2 worker0=hook:600 worker1=deaf stop_ms=20000");
    let deaf = cluster.pid("worker-1");
    cluster.signal(Signal::TERM);
    cluster.wait(" stopping");
    send(deaf, Signal::KILL);
    let (status, stderr) = cluster.end();
    assert_eq!((status.code(), stderr.as_str()), (Some(0), ""));
    assert_eq!(cluster.count(" died "), 0);
    assert_eq!(cluster.count(" started worker "), 2);
    assert_eq!(cluster.count("hook is done"), 1);
}

fn clean_up_is_waited_for_and_a_second_sigterm_does_not_cut_it() {
    let mut cluster = Cluster::ready("workers=1 worker=hook:500 agent=hook:500 stop_ms=60000");
    let worker = cluster.pid("worker-0");
    cluster.signal(Signal::TERM);
    cluster.wait("shuts down");
    send(worker, Signal::TERM);
    let (status, _) = cluster.end();
    assert_eq!(status.code(), Some(0));
    assert_eq!(cluster.count("hook is done"), 2);
    let stopped = cluster.position(" stopped worker 0 ");
    assert!(cluster.said[stopped].ends_with("exit code 0"));
}

/// Waits until a worker has its three grandchildren.
fn family(cluster: &mut Cluster) -> Vec<u32> {
    (0..3).map(|_| cluster.find_next("grandchild ")).collect()
}

impl Cluster {
    fn find_next(&mut self, text: &str) -> u32 {
        self.wait(text).last().unwrap().parse().unwrap()
    }
}

fn grandchildren_go_with_their_worker_whatever_they_ignore() {
    // One limit that is too short for anything, and one in which a fork comes late.
    for limit in [200, 1500] {
        let mut cluster = Cluster::start(&format!("workers=1 worker=family stop_ms={limit}"));
        let grandchildren = family(&mut cluster);
        assert!(grandchildren.iter().all(|pid| is_alive(*pid)));
        cluster.find("cluster-ready ");
        cluster.signal(Signal::TERM);
        // It asserts that everybody who was named is gone, the late one included.
        let (status, _) = cluster.end();
        assert_eq!(status.code(), Some(0));
        assert!(!grandchildren.into_iter().any(is_alive));
    }
}

fn grandchildren_of_a_worker_that_died_go_too() {
    let mut cluster = Cluster::start("workers=1 worker=family worker_next=none backoff_ms=50");
    let grandchildren = family(&mut cluster);
    cluster.find("cluster-ready ");
    let worker = cluster.pid("worker-0");
    send(worker, Signal::KILL);
    until("the grandchildren are gone", || !grandchildren.iter().any(|pid| is_alive(*pid)));
    cluster.wait(" ready worker 0 ");
    cluster.signal(Signal::TERM);
    assert_eq!(cluster.end().0.code(), Some(0));
}

fn an_observer_can_stop_and_fail_the_cluster() {
    let endings = [
        ("stop", 0, ""),
        ("fail", 1, "the observer has seen enough\n"),
        ("panic", 1, "the observer panicked\n"),
    ];
    for (observer, code, says) in endings {
        let mut cluster = Cluster::start(&format!("workers=1 observer={observer}"));
        let (status, stderr) = cluster.end();
        assert_eq!(status.code(), Some(code), "{observer}: {stderr}");
        assert!(stderr.ends_with(says), "{observer}: {stderr}");
        assert_eq!(cluster.count("shuts down"), 2, "{observer}: the stop is in order");
    }
}

fn a_worker_that_waits_for_its_leader_does_not_hold_up_the_stop() {
    let arguments = "workers=1 agent=share worker=share stop_ms=60000";
    let (mut cluster, asks) = Cluster::asked(arguments);
    let agent = cluster.pid("agent");
    send(agent, Signal::STOP);
    until("it is stopped", || state(agent) == Some('T'));
    let _answer = asks.say("scale 2");
    cluster.find("^worker-1 ");
    cluster.signal(Signal::TERM);
    let (status, stderr) = cluster.end();
    assert_eq!((status.code(), stderr.as_str()), (Some(0), ""));
    for process in ["worker 0", "worker 1", "agent"] {
        let stopped = &cluster.said[cluster.position(&format!(" stopped {process} "))];
        assert!(stopped.ends_with("exit code 0"), "{stopped}");
    }
    assert_eq!(cluster.count(" died "), 0);
}

fn a_worker_that_stops_withdraws_at_once() {
    for runs in ["", "run"] {
        let start = format!("workers=1 agent=share worker=share worker_next=none {runs}");
        let mut cluster = Cluster::ready(&start);
        cluster.find("publishes worker-0");
        // The worker alone, so that it is not the agent that withdraws. The grace is 10 minutes.
        let worker = cluster.pid("worker-0");
        send(worker, Signal::TERM);
        cluster.wait("withdraws worker-0");
        cluster.signal(Signal::TERM);
        assert_eq!(cluster.end().0.code(), Some(0));
    }
}

fn an_agent_that_stops_withdraws_all_and_closes_its_clients() {
    for runs in ["", "run"] {
        let mut cluster = Cluster::ready(&format!("workers=1 agent=share worker=share {runs}"));
        cluster.signal(Signal::TERM);
        assert_eq!(cluster.end().0.code(), Some(0));
        for what in ["withdraws agent", "withdraws worker-0", "closes"] {
            assert_eq!(cluster.count(what), 1, "{what}: {:#?}", cluster.said);
        }
        assert!(cluster.position("withdraws agent") < cluster.position("closes"));
    }
}

fn a_worker_ends_its_runs_then_its_clients_then_its_messenger() {
    let folder = tempfile::tempdir().unwrap();
    let finished = folder.path().join("finished");
    let start = format!(
        "workers=1 stop_ms=60000 agent=order worker=order jobs=long:once:until@{},tick:20",
        finished.display()
    );
    let mut cluster = Cluster::ready(&start);
    cluster.find(" runs long ");
    cluster.find(" runs tick ");
    cluster.signal(Signal::TERM);
    cluster.wait("^worker-0 ");
    cluster.find(" shuts down");
    std::fs::write(&finished, "").unwrap();
    let (status, stderr) = cluster.end();
    assert_eq!((status.code(), stderr.as_str()), (Some(0), ""));
    let order = [" shuts down", " ends long ", " closes its client, and says farewell"];
    let at = order.map(|what| cluster.position(what));
    assert!(at.is_sorted(), "{:#?}", cluster.said);
    // No run begins after the stop did, and none is left without its end.
    assert_eq!(cluster.count(" runs tick "), cluster.count(" ends tick "));
    assert!(!cluster.said[at[1]..].iter().any(|line| line.contains(" runs ")));
    // What the client sent when it closed went out before the process.
    assert_eq!(cluster.count("hears farewell of worker-0"), 1);
    assert_eq!(cluster.count("closes its client"), 1, "once");
    let stopped = cluster.position(" stopped worker 0 ");
    assert!(cluster.said[stopped].ends_with("exit code 0"));
}
