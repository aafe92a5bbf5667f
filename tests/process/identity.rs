//! Which process is which, what it inherits, and what nobody else can read.

use std::{fs, process::Command};

use crate::support::{Cluster, Signal};

crate::tests![
    neither_arguments_nor_environment_tell_anything,
    nothing_is_inherited_by_what_a_child_starts,
    a_leaked_variable_makes_nobody_a_child,
    a_program_that_a_worker_starts_is_a_master_of_its_own,
    run_returns_in_every_process,
    run_fails_with_the_start,
];

fn neither_arguments_nor_environment_tell_anything() {
    let mut cluster = Cluster::ready("workers=1");
    let port = cluster.find(" runs ")[3].clone();
    let read = |pid: u32, file: &str| {
        String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/{file}")).unwrap()).into_owned()
    };
    let master = cluster.master();
    for name in ["agent", "worker-0"] {
        let pid = cluster.pid(name);
        assert_eq!(read(pid, "cmdline"), read(master, "cmdline"));
        let environment = read(pid, "environ");
        let ours = |variable: &&str| {
            variable.starts_with("CLUSTER_CLIENT") || variable.starts_with("FIXTURE")
        };
        let mut ours: Vec<_> = environment.split('\0').filter(ours).collect();
        ours.sort_unstable();
        let marker = format!("CLUSTER_CLIENT_MASTER={master}");
        assert_eq!(ours, [marker.as_str(), "FIXTURE_ENV=from the master"]);
        assert!(!environment.contains(&format!("={port}")));
        let stdin = fs::read_link(format!("/proc/{pid}/fd/0")).unwrap();
        assert_eq!(stdin.to_str(), Some("/dev/null"));
    }
    cluster.signal(Signal::TERM);
    assert_eq!(cluster.end().0.code(), Some(0));
}

fn nothing_is_inherited_by_what_a_child_starts() {
    // What any program here is born with: what these tests were started with, and the folder that
    // it reads.
    let usual = Command::new("ls").arg("/proc/self/fd").output().unwrap().stdout;
    let usual = String::from_utf8(usual).unwrap().split_whitespace().collect::<Vec<_>>().join(",");
    let mut cluster = Cluster::start("workers=1 worker=fds agent=fds");
    for _ in 0..2 {
        assert_eq!(cluster.wait(" fds ")[3], usual);
    }
    cluster.find("cluster-ready ");
    cluster.signal(Signal::TERM);
    assert_eq!(cluster.end().0.code(), Some(0));
}

fn a_leaked_variable_makes_nobody_a_child() {
    for pid in [std::process::id().to_string(), "1".into(), "no pid".into(), String::new()] {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env("CLUSTER_CLIENT_MASTER", pid);
        let mut cluster = Cluster::start_command(command, "workers=1 observer=stop");
        assert_eq!(cluster.end().0.code(), Some(0));
        assert_eq!(cluster.count(" cluster-ready "), 1);
    }
}

fn a_program_that_a_worker_starts_is_a_master_of_its_own() {
    let mut cluster = Cluster::start("workers=1 worker=nested");
    let nested = cluster.wait(" nests ").pop().unwrap();
    // It has the outer master's pid in its environment, starts its own cluster, and stops it.
    cluster.wait(&format!("master {nested} observed the end"));
    cluster.find(&format!("master {} cluster-ready ", cluster.master()));
    cluster.signal(Signal::TERM);
    assert_eq!(cluster.end().0.code(), Some(0));
    assert_eq!(cluster.count(&format!("master {nested} cluster-ready ")), 1);
    assert_eq!(cluster.count(" died "), 0);
}

fn run_returns_in_every_process() {
    let mut cluster = Cluster::start("workers=2 run observer=stop");
    let (status, stderr) = cluster.end();
    assert_eq!((status.code(), stderr.as_str()), (Some(0), ""));
    for name in ["agent", "worker 0", "worker 1", "master"] {
        assert_eq!(cluster.count(&format!(" returned {name}")), 1);
    }
    assert_eq!(cluster.said.last().map(|line| line.ends_with("returned master")), Some(true));
}

fn run_fails_with_the_start() {
    let mut cluster = Cluster::start("workers=1 run worker=fail");
    let (status, stderr) = cluster.end();
    assert_eq!(status.code(), Some(7));
    let master = "run failed: the cluster did not start: worker 0 (pid ";
    assert!(stderr.contains(master), "{stderr}");
    assert!(stderr.contains("run failed: worker 0 failed: no upstream"), "{stderr}");
    assert_eq!(cluster.count(" returned agent"), 1);
}
