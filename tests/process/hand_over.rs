//! The agent's place is taken by another one, in the middle of calls.

use std::{collections::HashSet, fs, path::Path, time::Instant};

use crate::support::{Cluster, Signal, send, until};

// A line a test, which the table of conformance is checked against.
#[rustfmt::skip]
crate::tests![
    no_call_fails_or_runs_twice_while_the_agent_and_all_workers_are_replaced,
    a_stop_during_the_hand_over_leaves_nothing_published,
    a_stop_during_the_hand_over_does_not_wait_for_a_leader_that_never_comes,
];

fn no_call_fails_or_runs_twice_while_the_agent_and_all_workers_are_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger");
    let lines = || -> Vec<String> {
        let text = fs::read_to_string(&path).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    };
    let more_calls = || {
        let before = lines().len();
        until("more calls", || lines().len() > before + 200);
    };
    let arguments = format!("workers=2 agent=ledger worker=ledger ledger={}", path.display());
    let mut cluster = Cluster::ready(&arguments);
    let old = [cluster.pid("agent"), cluster.pid("worker-0"), cluster.pid("worker-1")];
    for _ in 0..2 {
        more_calls();
        cluster.signal(Signal::HUP);
        cluster.wait("^agent ");
        for _ in 0..2 {
            cluster.wait(" stopped worker ");
        }
    }
    more_calls();
    let before_stop = lines();
    cluster.signal(Signal::TERM);
    let (status, stderr) = cluster.end();
    assert_eq!(status.code(), Some(0), "{stderr}");

    assert_eq!(cluster.count(" lost a call: "), 0, "{:#?}", cluster.said);
    let called = cluster.said.iter().filter_map(|line| line.split_once(" called "));
    let calls: Vec<&str> = called.filter_map(|(_, rest)| rest.strip_suffix(" failed 0")).collect();
    assert_eq!(calls.len(), 6, "{:#?}", cluster.said);
    let calls: usize = calls.iter().map(|count| count.parse::<usize>().unwrap()).sum();
    let lines = lines();
    let ran: Vec<&str> = lines.iter().filter_map(|line| line.strip_prefix("call ")).collect();
    assert_eq!(ran.len(), calls);
    assert_eq!(ran.iter().collect::<HashSet<_>>().len(), calls, "a call ran twice");

    let is_life = |line: &&String| ["connect", "close"].contains(&line.as_str());
    let lives: Vec<&String> = lines.iter().filter(is_life).collect();
    let expected = ["connect", "close"].repeat(3);
    assert_eq!(lives, expected.iter().collect::<Vec<_>>(), "never two real clients");
    let withdrawn: Vec<_> = before_stop.iter().filter(|line| line.contains("withdraw")).collect();
    assert!(withdrawn.is_empty(), "{withdrawn:?}");
    let published = before_stop.iter().filter(|line| *line == "publish worker-0").count();
    assert!(published >= 3, "each agent publishes it: {published}");

    for worker in [1, 2] {
        let of_old = |line: &&String| line.split(' ').nth(1) == Some(&old[worker].to_string());
        let seen: Vec<&str> = cluster.said.iter().filter(of_old).map(String::as_str).collect();
        let at = |what: &str| seen.iter().position(|line| line.contains(what));
        let stale = at(" sees stale: ").expect("it was told");
        assert!(seen[stale].contains("the leader is being replaced"), "{seen:?}");
        assert!(at(" sees live") > Some(stale), "{seen:?}");
    }
    assert!(!cluster.said.iter().any(|line| line.starts_with("master") && line.contains(" died ")));
}

/// A cluster whose worker has published its name, in the middle of a hand-over: the old agent serves
/// nobody any more, and goes when the gate is there; only then has the new one its turn.
fn between_two_agents(gate: &Path) -> Cluster {
    let keys = "workers=1 agent=share worker=share stop_ms=20000";
    let mut cluster = Cluster::ready(&format!("{keys} close_gate={}", gate.display()));
    cluster.find(" publishes worker-0");
    cluster.signal(Signal::HUP);
    cluster.wait(" waits to close");
    assert_eq!(cluster.count(" withdraws "), 0);
    cluster
}

fn a_stop_during_the_hand_over_leaves_nothing_published() {
    let folder = tempfile::tempdir().unwrap();
    let gate = folder.path().join("gate");
    let mut cluster = between_two_agents(&gate);
    cluster.signal(Signal::TERM);
    cluster.wait(" shuts down");
    fs::write(&gate, "").unwrap();
    let (status, stderr) = cluster.end();
    assert_eq!(status.code(), Some(0), "{stderr}");
    // By the new agent, which the worker has waited for.
    for what in [" publishes worker-0", " withdraws worker-0", " closes"] {
        let last = cluster.said.iter().rposition(|line| line.ends_with(what));
        let next = cluster.said.iter().rposition(|line| line.ends_with(" connects"));
        assert!(last > next, "{what}: {:#?}", cluster.said);
    }
    assert_eq!(cluster.count(" connects"), 2);
}

fn a_stop_during_the_hand_over_does_not_wait_for_a_leader_that_never_comes() {
    let folder = tempfile::tempdir().unwrap();
    let gate = folder.path().join("gate");
    let mut cluster = between_two_agents(&gate);
    let agent = cluster.pid("agent");
    send(agent, Signal::STOP);
    let begun = Instant::now();
    cluster.signal(Signal::TERM);
    cluster.wait(" stopped worker 0 ");
    let line = &cluster.said[cluster.position(" stopped worker 0 ")];
    assert!(line.ends_with("exit code 0"), "{line}");
    let took = begun.elapsed();
    assert!((3..15).contains(&took.as_secs()), "long before its SIGKILL: {took:?}");
    fs::write(&gate, "").unwrap();
    assert_eq!(cluster.end().0.code(), Some(0));
}
