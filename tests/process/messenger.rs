//! Messages between processes.

use std::fs;

use crate::support::{Cluster, Signal, send, state, until};

crate::tests![
    each_target_reaches_whom_it_says_and_receipts_count_them,
    what_is_sent_last_goes_out_before_the_process,
    without_workers_a_send_to_one_is_an_error,
    a_random_worker_is_any_of_them,
    what_is_sent_before_the_cluster_is_ready_comes_in_order_after_it,
    the_agent_knows_its_workers_and_they_know_it,
    a_killed_agent_leaves_no_receipt_open,
    a_flood_costs_the_master_a_bound,
    a_worker_of_another_language_talks_too,
];

/// All lines that contain this, without name and pid.
fn lines(cluster: &Cluster, text: &str) -> Vec<String> {
    let found = cluster.said.iter().filter(|line| line.contains(text));
    found.map(|line| line.splitn(3, ' ').nth(2).unwrap().to_owned()).collect()
}

fn each_target_reaches_whom_it_says_and_receipts_count_them() {
    let mut cluster = Cluster::ready("messenger=fanout workers=2");
    cluster.find("master ");
    for (line, count) in [
        // Three processes broadcast once each, themselves included.
        (" got all ", 9),
        (" receipt all 3 0 0 0", 3),
        // Two workers send to all workers.
        (" got app ", 4),
        (" receipt app 2 0 0 0", 2),
        // Two workers, and the master's program.
        (" receipt agent 1 0 0 0", 2),
        (" receipt m-agent 1 0 0 0", 1),
        (" got agent ", 3),
        (" got one ", 1),
        (" receipt one 1 0 0 0", 1),
        (" receipt ping 3 0 0 0", 1),
        (" got pong ", 3),
        (" receipt m-app 2 0 0 0", 1),
        (" got m-app 9 from master ", 2),
        (" receipt m-random 1 0 0 0", 1),
        (" got m-random 9 from master ", 1),
        (" failed nobody no_such_process", 1),
        (" failed large too_large", 1),
        (" receipt unheard 0 3 0 0", 1),
        // The first one makes a handler panic in each worker; the others go on.
        (" receipt boom 3 0 0 0", 2),
        (" got boom ", 6),
    ] {
        cluster.wait_count(line, count);
    }
    let [agent, worker] = ["agent", "worker-0"].map(|name| cluster.pid(name));
    let master = cluster.master();
    cluster.signal(Signal::TERM);
    let (status, _) = cluster.end();
    assert_eq!(status.code(), Some(0));

    assert_eq!(lines(&cluster, " got all ").len(), 9);
    assert_eq!(lines(&cluster, " got app ").len(), 4);
    assert_eq!(lines(&cluster, " got agent ").len(), 3);
    assert_eq!(lines(&cluster, " got one "), [format!("got one 1 from agent {agent}")]);
    assert_eq!(cluster.count(&format!("worker-0 {worker} got one ")), 1);
    assert_eq!(cluster.count(&format!("agent {agent} got agent ")), 3);
    assert_eq!(cluster.count(&format!("got all 0 from worker 0 {worker}")), 3);
    assert_eq!(cluster.count(&format!("got m-app 9 from master {master}")), 2);
    assert_eq!(
        cluster.count("held true"),
        1,
        "the master's program sends before the start is done"
    );
    assert_eq!(cluster.count(" died "), 0);
}

fn what_is_sent_last_goes_out_before_the_process() {
    let mut cluster = Cluster::ready("messenger=fanout workers=2");
    cluster.wait_count(" receipt agent 1 0 0 0", 2);
    cluster.signal(Signal::TERM);
    assert_eq!(cluster.end().0.code(), Some(0));
    let agent = cluster.pid("agent");
    for index in 0..2 {
        let bye = format!("agent {agent} got bye {index} from worker {index} ");
        assert_eq!(cluster.count(&bye), 1, "{:#?}", cluster.said);
    }
}

fn without_workers_a_send_to_one_is_an_error() {
    let mut cluster = Cluster::ready("messenger=fanout workers=0");
    cluster.wait_count("agent ", 1);
    cluster.wait_count(" failed random no_worker", 1);
    cluster.wait_count(" failed m-app no_worker", 1);
    cluster.wait_count(" failed m-random no_worker", 1);
    cluster.signal(Signal::TERM);
    assert_eq!(cluster.end().0.code(), Some(0));
}

fn a_random_worker_is_any_of_them() {
    let mut cluster = Cluster::ready("messenger=random workers=4");
    cluster.wait_count(" was picked ", 4);
    cluster.signal(Signal::TERM);
    cluster.end();
    let picked = lines(&cluster, " was picked ");
    let counts: Vec<u32> =
        picked.iter().map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
    assert_eq!(counts.iter().sum::<u32>(), 1000);
    assert!(counts.iter().all(|count| (150..=350).contains(count)), "{counts:?}");
}

fn what_is_sent_before_the_cluster_is_ready_comes_in_order_after_it() {
    let mut cluster = Cluster::start("messenger=held workers=2");
    cluster.wait_count(" got 1024 in order true", 3);
    cluster.signal(Signal::TERM);
    assert_eq!(cluster.end().0.code(), Some(0));
    let agent = cluster.pid("agent");
    let held = lines(&cluster, &format!("agent {agent} held "));
    assert_eq!(held, ["held true", "held 1024 then overloaded"]);
    let waited = lines(&cluster, " waited ").remove(0);
    assert!(waited.starts_with("waited timeout: ") && waited.contains("is held"), "{waited}");
    // Nothing of it came before everybody was ready.
    let first = cluster.position(" got 1024 ");
    assert!(cluster.position(" held 1024 ") < first);
    assert_eq!(lines(&cluster, " got 1024 ").len(), 3);
}

fn the_agent_knows_its_workers_and_they_know_it() {
    let gates = tempfile::tempdir().unwrap();
    let gates_key = gates.path().display();
    let mut cluster =
        Cluster::ready(&format!("messenger=peers workers=2 backoff_ms=100 gates={gates_key}"));
    let [agent, first, second] = ["agent", "worker-0", "worker-1"].map(|name| cluster.pid(name));
    cluster.wait_count(&format!(" peers 2: {first},{second}"), 1);

    send(first, Signal::KILL);
    cluster.wait_count(" receipt news 1 1 0 0", 1);
    cluster.wait_count(" receipt news 2 1 0 0", 1);
    cluster.wait_count(" got news 2 ", 2);
    let news: Vec<_> = cluster.said.iter().filter(|line| line.contains(" got news 2 ")).collect();
    let replacement = news.iter().find(|line| line.starts_with("worker-0 ")).unwrap();
    let replacement: u32 = replacement.split(' ').nth(1).unwrap().parse().unwrap();
    assert_eq!(cluster.count(&format!("worker-0 {replacement} got news 1 ")), 0, "it is older");
    let seen = lines(&cluster, &format!("agent {agent} peers "));
    let expected = [
        "peers 0:  at once".to_owned(),
        format!("peers 1: {first}"),
        format!("peers 2: {first},{second}"),
        format!("peers 1: {second}"),
        format!("peers 2: {replacement},{second}"),
    ];
    assert_eq!(seen, expected);

    send(agent, Signal::KILL);
    cluster.wait_count(" has agent none", 2);
    cluster.wait_count(&format!(" peers 2: {replacement},{second} at once"), 1);
    let next = cluster.said.iter().find(|line| line.ends_with(" at once") && line.contains(" 2: "));
    let next = next.unwrap().split(' ').nth(1).unwrap().to_owned();
    cluster.wait_count(&format!(" has agent {next}"), 2);
    for worker in [replacement, second] {
        let told: Vec<_> = cluster
            .said
            .iter()
            .filter(|line| line.contains(&format!(" {worker} has agent")))
            .collect();
        let ends: Vec<_> = told.iter().map(|line| line.rsplit(' ').next().unwrap()).collect();
        assert_eq!(ends, [&agent.to_string(), "none", &next]);
    }
    cluster.signal(Signal::TERM);
    assert_eq!(cluster.end().0.code(), Some(0));
}

fn a_killed_agent_leaves_no_receipt_open() {
    let mut cluster = Cluster::ready("messenger=away workers=1 backoff_ms=300");
    let agent = cluster.pid("agent");
    cluster.wait_count(" receipt note 1 0 0 0", 3);
    send(agent, Signal::STOP);
    until("it is stopped", || state(agent) == Some('T'));
    let sent = cluster.count(" sends ");
    // The first of these may have been sent before; those after it can't be answered.
    cluster.wait_count(" sends ", sent + 4);
    send(agent, Signal::KILL);
    cluster.wait(" sent ");
    cluster.signal(Signal::TERM);
    assert_eq!(cluster.end().0.code(), Some(0));

    let sends = cluster.count(" sends ");
    assert_eq!(cluster.count(&format!(" sent {sends} notes")), 1);
    let outcome = |text: &str| lines(&cluster, text).len();
    let [taken, lost, away] =
        [" receipt note 1 0 0 0", " receipt note 0 0 0 1", " failed note agent_away"].map(outcome);
    assert!(lost >= 3, "{:#?}", cluster.said);
    assert!(away >= 1, "{:#?}", cluster.said);
    assert_eq!(taken + lost + away, sends, "each has one outcome: {:#?}", cluster.said);
    // Receipts come in the order of what is known, so the last one is of the replacement.
    let last = cluster.said.iter().rfind(|line| line.contains(" note ") && !line.contains(" got "));
    assert!(last.unwrap().ends_with("receipt note 1 0 0 0"), "{:#?}", cluster.said);
}

/// Resident memory of a process, in KiB.
fn memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn a_flood_costs_the_master_a_bound() {
    let mut cluster = Cluster::ready("messenger=flood workers=1");
    let master = cluster.master();
    let before = memory(master);
    for count in 1..=20 {
        cluster.wait_count(" flooded ", count);
        let grown = memory(master).saturating_sub(before);
        assert!(grown < 32 * 1024, "{grown} KiB more after {} messages", count * 5000);
    }
    // The agent has 1,024 that it does not read, and no room for more.
    cluster.wait(" receipt flood 0 0 1 0");
    cluster.signal(Signal::TERM);
    assert_eq!(cluster.end().0.code(), Some(0));
}

fn a_worker_of_another_language_talks_too() {
    let mut cluster = Cluster::ready("messenger=fanout workers=1 worker_program=python:talks");
    let [agent, worker] = ["agent", "worker-0"].map(|name| cluster.pid(name));
    cluster.wait_count(&format!("agent {agent} got all 7 from worker 0 {worker}"), 1);
    cluster.wait_count(&format!("worker-0 {worker} has receipt 1 2 0"), 1);
    cluster.wait_count(&format!("worker-0 {worker} heard all 0 from role 2 {agent}"), 1);
    cluster.wait_count(&format!("worker-0 {worker} heard all 7 from role 3 {worker}"), 1);
    cluster.wait_count(" receipt all 2 0 0 0", 1);
    // It listens for nothing else.
    cluster.wait_count(" receipt one 0 1 0 0", 1);
    cluster.signal(Signal::TERM);
    assert_eq!(cluster.end().0.code(), Some(0));
}
