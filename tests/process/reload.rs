//! All processes anew, while the old ones serve.

use std::{
    fs,
    io::BufRead,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::Command,
};

use crate::support::{Asks, Cluster, Signal, is_alive, send, until};

crate::tests![
    all_processes_are_new_and_no_two_agents_lead,
    calls_live_through_reloads,
    signals_at_once_are_two_reloads_at_most,
    a_reload_takes_the_program_that_is_on_disk,
    a_program_that_fails_leaves_the_old_one_serving,
    a_new_worker_that_fails_brings_the_old_agent_back,
    a_new_worker_that_hangs_fails_the_reload,
    one_that_dies_during_a_reload_is_replaced_all_the_same,
    a_stop_during_a_reload_ends_old_and_new,
    a_second_stop_during_a_reload_kills_in_order,
    an_agent_that_does_not_retire_is_killed,
    many_reloads_leave_nothing_behind_in_the_master,
    the_old_are_recycled_without_a_gap,
];

fn stop(mut cluster: Cluster) -> Cluster {
    cluster.signal(Signal::TERM);
    let (status, stderr) = cluster.end();
    assert_eq!(status.code(), Some(0), "{stderr}");
    cluster
}

fn all_ready(asks: &Asks) -> Vec<u32> {
    let all = [asks.processes("agent"), asks.processes("worker")].concat();
    assert!(all.iter().all(|(_, state)| state == "ready"), "{all:?}");
    all.into_iter().map(|(pid, _)| pid.unwrap()).collect()
}

fn all_processes_are_new_and_no_two_agents_lead() {
    let (cluster, asks) = Cluster::asked("workers=4 agent=share worker=share");
    let old = all_ready(&asks);
    for generation in 1..=3 {
        assert_eq!(asks.ask("reload"), "ok");
        assert_eq!(asks.status()["generation"], generation);
    }
    let new = all_ready(&asks);
    assert_eq!(new.len(), 5, "as many as before");
    assert!(old.iter().all(|pid| !is_alive(*pid) && !new.contains(pid)));

    let cluster = stop(cluster);
    assert_eq!(cluster.count(" died "), 0, "{:#?}", cluster.said);
    // Of the real clients, one is closed before the next is connected.
    let of_agents = cluster.said.iter().filter(|line| line.starts_with("agent "));
    let clients = of_agents.map(|line| line.split(' ').nth(2).unwrap());
    let clients: Vec<_> = clients.filter(|what| ["connects", "closes"].contains(what)).collect();
    assert_eq!(clients, ["connects", "closes"].repeat(4));
    // Nothing is withdrawn but by the last agent and its workers.
    let last = cluster.said.iter().rposition(|line| line.ends_with(" connects")).unwrap();
    assert!(last < cluster.position(" withdraws "), "{:#?}", cluster.said);
}

fn calls_live_through_reloads() {
    let (mut cluster, asks) = Cluster::asked("workers=3 agent=calls worker=calls");
    for _ in 0..3 {
        cluster.wait(" has called ");
        assert_eq!(asks.ask("reload"), "ok");
    }
    cluster.wait(" has called 20");
    let cluster = stop(cluster);
    // What is called when the whole cluster stops may be lost.
    let lived = &cluster.said[..cluster.position(" stopping")];
    let wrong = |line: &&String| line.contains("lost a call") || line.contains(" got ");
    let wrong: Vec<_> = lived.iter().filter(wrong).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn signals_at_once_are_two_reloads_at_most() {
    let (mut cluster, asks) = Cluster::asked("workers=2");
    for _ in 0..3 {
        cluster.signal(Signal::HUP);
    }
    cluster.wait(" reloaded 1");
    until("no reload is under way", || asks.status()["phase"] == "running");
    let cluster = stop(cluster);
    let reloads = cluster.count(" reloading");
    assert!((1..=2).contains(&reloads), "{reloads}");
    assert_eq!(cluster.count(" died "), 0);
}

/// Puts a copy of this program where the symbolic link `current` then leads to.
fn install(root: &Path, version: &str) {
    let folder = root.join(version);
    fs::create_dir(&folder).unwrap();
    fs::copy(std::env::current_exe().unwrap(), folder.join("program")).unwrap();
    point(root, version);
}

fn point(root: &Path, version: &str) {
    let new = root.join("new");
    symlink(version, &new).unwrap();
    fs::rename(&new, root.join("current")).unwrap();
}

fn program_of(pid: u32) -> String {
    fs::read_link(format!("/proc/{pid}/exe")).unwrap().to_string_lossy().into_owned()
}

fn a_reload_takes_the_program_that_is_on_disk() {
    let root = tempfile::tempdir().unwrap();
    install(root.path(), "one");
    let command = Command::new(root.path().join("current/program"));
    let (cluster, asks) = Cluster::asked_command(command, "workers=1 backoff_ms=50");
    install(root.path(), "two");
    let old = all_ready(&asks);
    assert_eq!(asks.ask("reload"), "ok");
    let new = all_ready(&asks);
    assert!(old.iter().all(|pid| !new.contains(pid)));
    for pid in &new {
        assert!(program_of(*pid).ends_with("/two/program"), "{}", program_of(*pid));
    }
    let name = fs::read_to_string(format!("/proc/{}/comm", new[1])).unwrap();
    assert_eq!(name, "program\n");

    // What dies later is started from the build of the reload, whatever is on disk.
    fs::remove_dir_all(root.path().join("two")).unwrap();
    send(new[1], Signal::KILL);
    until("it is replaced", || {
        let workers = asks.processes("worker");
        workers[0].1 == "ready" && workers[0].0 != Some(new[1])
    });
    let latest = all_ready(&asks)[1];
    assert!(program_of(latest).ends_with("/two/program (deleted)"), "{}", program_of(latest));

    // And one that is not there is an error that changes nothing.
    let answer = asks.ask("reload");
    assert!(answer.contains("the program can't be had"), "{answer}");
    assert!(answer.contains("current/program"), "{answer}");
    assert!(is_alive(latest));
    stop(cluster);
}

fn a_program_that_fails_leaves_the_old_one_serving() {
    let root = tempfile::tempdir().unwrap();
    install(root.path(), "one");
    let command = Command::new(root.path().join("current/program"));
    let (mut cluster, asks) = Cluster::asked_command(command, "workers=2 backoff_ms=50");
    let old = all_ready(&asks);
    let broken = root.path().join("broken/program");
    fs::create_dir(broken.parent().unwrap()).unwrap();
    fs::write(&broken, "#!/bin/sh\necho a broken program >&2\nexit 3\n").unwrap();
    fs::set_permissions(&broken, fs::Permissions::from_mode(0o755)).unwrap();
    point(root.path(), "broken");

    let answer = asks.ask("reload");
    assert!(answer.starts_with("error: ") && answer.contains("agent (pid "), "{answer}");
    assert!(answer.contains("died of exit code 3"), "{answer}");
    assert!(answer.ends_with("its last lines:|    a broken program"), "{answer}");
    cluster.wait(" not-reloaded the reload failed: agent ");
    let status = asks.status();
    assert!(status["last_reload"]["failure"].as_str().unwrap().contains("a broken program"));
    assert_eq!((&status["generation"], &status["phase"]), (&0.into(), &"running".into()));
    assert_eq!(all_ready(&asks), old, "they were not touched");

    // The build in force is still the first.
    send(old[1], Signal::KILL);
    cluster.wait(" ready worker 0 ");
    point(root.path(), "one");
    assert_eq!(asks.ask("reload"), "ok");
    assert!(asks.status()["last_reload"]["failure"].is_null());
    stop(cluster);
}

fn a_new_worker_that_fails_brings_the_old_agent_back() {
    let (mut cluster, asks) =
        Cluster::asked("workers=2 worker=share agent=share worker_next=fail agent_next=share");
    let old = all_ready(&asks);
    let answer = asks.ask("reload");
    assert!(answer.contains("failed: no upstream for the fixture"), "{answer}");
    assert!(answer.contains("a line before the failure"), "{answer}");
    // First the agent of the new build, then one of the old build again.
    cluster.wait(" replacing agent ");
    cluster.wait(" ready agent ");
    until("the cluster is at rest", || {
        asks.processes("worker").len() == 2 && asks.processes("agent").len() == 1
    });
    let now = all_ready(&asks);
    assert_eq!(now[1..], old[1..], "the old workers serve");
    assert_ne!(now[0], old[0]);
    let cluster = stop(cluster);
    assert_eq!(cluster.count(" ready agent "), 3);
}

fn a_new_worker_that_hangs_fails_the_reload() {
    let (cluster, asks) = Cluster::asked("workers=1 worker_next=hang ready_ms=6000 stop_ms=500");
    let old = all_ready(&asks);
    let answer = asks.ask("reload");
    assert!(answer.contains("was not ready within 6s"), "{answer}");
    assert!(answer.contains("a line before the hang"), "{answer}");
    assert!(is_alive(old[1]));
    stop(cluster);
}

fn one_that_dies_during_a_reload_is_replaced_all_the_same() {
    for (victim, name) in [("agent", "agent"), ("worker-1", "worker 1")] {
        let (mut cluster, asks) =
            Cluster::asked("workers=2 worker_next=slow:1000 agent_next=slow:1000 backoff_ms=50");
        let old = cluster.pid(victim);
        let mut answer = asks.say("reload");
        cluster.wait(" reloading");
        cluster.wait(&format!(" started {name} "));
        send(old, Signal::KILL);
        let mut line = String::new();
        answer.read_line(&mut line).unwrap();
        assert_eq!(line, "ok\n", "{victim}: {:#?}", cluster.said);
        assert_eq!(all_ready(&asks).len(), 3);
        let cluster = stop(cluster);
        assert_eq!(cluster.count(" died "), 1, "{:#?}", cluster.said);
    }
}

fn a_stop_during_a_reload_ends_old_and_new() {
    // While the new agent starts, and while the new workers do.
    for (keys, started) in [("agent_next=slow:60000", "agent"), ("worker_next=hang", "worker 1")] {
        let (mut cluster, asks) = Cluster::asked(&format!("workers=2 {keys}"));
        let mut answer = asks.say("reload");
        cluster.wait(" reloading");
        cluster.wait(&format!(" started {started} "));
        cluster.signal(Signal::TERM);
        let mut line = String::new();
        answer.read_line(&mut line).unwrap();
        assert!(line.contains("the cluster stops"), "{line}");
        let (status, stderr) = cluster.end();
        assert_eq!(status.code(), Some(0), "{stderr}");
        assert_eq!(cluster.count(" died "), 0);
    }
}

fn a_second_stop_during_a_reload_kills_in_order() {
    let (mut cluster, asks) =
        Cluster::asked("workers=2 worker=deaf agent_next=deaf worker_next=hang stop_ms=60000");
    let _answer = asks.say("reload");
    cluster.wait(" reloading");
    cluster.wait(" started worker 0 ");
    cluster.wait(" started worker 1 ");
    cluster.signal(Signal::TERM);
    cluster.wait(" stopping");
    cluster.signal(Signal::TERM);
    let (status, _) = cluster.end();
    assert_eq!(status.code(), Some(0));
    let last = |text: &str| cluster.said.iter().rposition(|line| line.contains(text)).unwrap();
    assert!(last(" stopped worker ") < last(" stopped agent "));
    assert_eq!(cluster.count(" stopped worker "), 4);
}

fn an_agent_that_does_not_retire_is_killed() {
    let (cluster, asks) = Cluster::asked("workers=1 agent=deaf agent_next=none stop_ms=500");
    assert_eq!(asks.ask("reload"), "ok");
    let cluster = stop(cluster);
    let old = cluster.position(" stopped agent ");
    assert!(cluster.said[old].ends_with("signal 9"), "{}", cluster.said[old]);
}

fn many_reloads_leave_nothing_behind_in_the_master() {
    let (cluster, asks) = Cluster::asked("workers=2");
    let master = cluster.master();
    let count = |what: &str| fs::read_dir(format!("/proc/{master}/{what}")).unwrap().count();
    assert_eq!(asks.ask("reload"), "ok");
    let before = (count("fd"), count("task"));
    for _ in 0..20 {
        assert_eq!(asks.ask("reload"), "ok");
    }
    until(&format!("the master is back at {before:?} descriptors and threads"), || {
        count("fd") <= before.0 && count("task") <= before.1
    });
    assert_eq!(all_ready(&asks).len(), 3);
    stop(cluster);
}

fn the_old_are_recycled_without_a_gap() {
    let (mut cluster, _asks) = Cluster::asked("workers=2 recycle_ms=1500");
    for _ in 0..2 {
        let words = cluster.wait(" replacing worker ");
        let (index, pid) = (&words[4], words[5].trim_end_matches(':'));
        let ready = cluster.wait(&format!(" ready worker {index} ")).join(" ");
        assert!(!ready.ends_with(pid), "{ready}");
        let leaving = cluster.wait(&format!(" leaving worker {index} ")).join(" ");
        assert!(leaving.ends_with(pid), "{leaving}");
    }
    let cluster = stop(cluster);
    assert_eq!(cluster.count(" started agent "), 1);
    assert_eq!(cluster.count(" died "), 0);
}
