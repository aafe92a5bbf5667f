//! What becomes of a process that dies after the start.

use std::{
    net::TcpStream,
    process::Command,
    time::{Duration, Instant},
};

use crate::support::{Cluster, Signal, is_alive, send, until};

crate::tests![
    a_worker_is_replaced_in_its_place,
    the_agent_is_replaced_while_workers_and_port_stay,
    a_replacement_that_dies_is_replaced_too,
    a_replacement_that_hangs_is_killed_and_replaced,
    after_a_healthy_life_the_restart_is_at_once,
    a_worker_that_leaves_by_itself_names_itself,
    a_replacement_comes_from_the_program_that_was_started,
    a_panic_in_a_task_does_not_end_its_process,
    whoever_holds_stderr_open_does_not_hold_up_the_restart,
    restarts_leave_nothing_behind_in_the_master,
    nobody_waits_for_the_answer_of_the_dead,
];

fn nobody_waits_for_the_answer_of_the_dead() {
    let (mut cluster, asks) = Cluster::asked("workers=1 backoff_ms=50");
    let pid = cluster.pid("worker-0");
    send(pid, Signal::KILL);
    cluster.wait(" ready worker 0 ");
    // One that is asked and says nothing holds the answer up for a second, each time.
    until("the status is there within the second", || {
        let begin = Instant::now();
        asks.status();
        begin.elapsed() < Duration::from_millis(900)
    });
    drop(stop(cluster));
}

/// The pid of the next one that is started.
fn next_start(cluster: &mut Cluster, process: &str) -> (u32, String) {
    let words = cluster.wait(&format!(" started {process} "));
    (words[words.len() - 2].parse().unwrap(), words[words.len() - 1].clone())
}

fn stop(mut cluster: Cluster) -> Cluster {
    cluster.signal(Signal::TERM);
    assert_eq!(cluster.end().0.code(), Some(0));
    cluster
}

fn a_worker_is_replaced_in_its_place() {
    let mut cluster = Cluster::ready("workers=2");
    let others = [cluster.pid("agent"), cluster.pid("worker-0")];
    let old = cluster.pid("worker-1");
    let killed = Instant::now();
    send(old, Signal::KILL);
    let died = cluster.wait(&format!(" died worker 1 (pid {old}) died of signal 9;")).join(" ");
    assert!(died.ends_with("restart in Some(1000)"), "{died}");
    let (new, generation) = next_start(&mut cluster, "worker 1");
    assert!(killed.elapsed() >= Duration::from_secs(1));
    assert_ne!(new, old);
    assert_eq!(generation, "1");
    cluster.wait(&format!("worker-1 {new} cluster-ready"));
    assert!(others.into_iter().all(is_alive));

    let cluster = stop(cluster);
    assert_eq!(cluster.count(" started agent "), 1);
    assert_eq!(cluster.count(" started worker 0 "), 1);
    assert_eq!(cluster.count(&format!("worker-1 {new} cluster-ready")), 1);
}

fn the_agent_is_replaced_while_workers_and_port_stay() {
    let mut cluster = Cluster::ready("workers=2");
    let workers = [cluster.pid("worker-0"), cluster.pid("worker-1")];
    let old = cluster.pid("agent");
    let port: u16 = cluster.find("^agent ")[3].parse().unwrap();
    send(old, Signal::KILL);
    cluster.wait(&format!(" died agent (pid {old}) died of signal 9;"));
    // No agent lives. A connection waits in the backlog all the same.
    let waiting = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let (new, _) = next_start(&mut cluster, "agent");
    cluster.find(&format!("agent {new} runs {port} 1"));
    cluster.find(&format!("agent {new} cluster-ready"));
    assert!(workers.into_iter().all(is_alive));
    drop(waiting);

    send(new, Signal::KILL);
    cluster.wait(&format!(" died agent (pid {new})"));
    assert_eq!(next_start(&mut cluster, "agent").1, "2");
    cluster.wait(" ready agent ");

    let cluster = stop(cluster);
    assert_eq!(cluster.count(" started worker "), 2);
}

fn a_replacement_that_dies_is_replaced_too() {
    let mut cluster = Cluster::ready("workers=1 worker_next=fail backoff_ms=50");
    let first = cluster.pid("worker-0");
    send(first, Signal::KILL);
    // After five deaths before ready the slot has failed, and the pauses grow on.
    let pauses = [50, 100, 200, 400, 400, 1600];
    for (death, pause) in pauses.into_iter().enumerate() {
        let died = cluster.wait(" died worker 0 ").join(" ");
        assert!(died.ends_with(&format!("restart in Some({pause})")), "{death}: {died}");
        if death > 0 {
            assert!(died.contains("failed: no upstream for the fixture"), "{died}");
        }
    }
    let cluster = stop(cluster);
    assert!(cluster.count(" started worker 0 ") >= pauses.len());
    assert_eq!(cluster.count(" started agent "), 1);
}

fn a_replacement_that_hangs_is_killed_and_replaced() {
    let arguments = "workers=1 worker_next=hang backoff_ms=50 ready_ms=6000 stop_ms=100";
    let mut cluster = Cluster::ready(arguments);
    let first = cluster.pid("worker-0");
    send(first, Signal::KILL);
    next_start(&mut cluster, "worker 0");
    let died = cluster.wait(" died worker 0 ").join(" ");
    assert!(died.contains("was not ready within 6s") && died.contains("signal 9"), "{died}");
    next_start(&mut cluster, "worker 0");
    stop(cluster);
}

fn after_a_healthy_life_the_restart_is_at_once() {
    let mut cluster = Cluster::ready("workers=1 healthy_ms=0 backoff_ms=60000");
    let first = cluster.pid("worker-0");
    cluster.find(&format!("worker-0 {first} cluster-ready"));
    send(first, Signal::KILL);
    let died = cluster.wait(" died worker 0 ").join(" ");
    assert!(died.ends_with("restart in Some(0)"), "{died}");
    cluster.wait(" ready worker 0 ");
    stop(cluster);
}

fn a_worker_that_leaves_by_itself_names_itself() {
    let mut cluster = Cluster::ready("workers=1 worker_next=early backoff_ms=50");
    let first = cluster.pid("worker-0");
    // Whoever sends it: a SIGTERM asks it to stop, and so it ends with 0. It is replaced.
    send(first, Signal::TERM);
    let died = cluster.wait(" died worker 0 ").join(" ");
    assert!(died.contains(&format!("(pid {first}) died of exit code 0")), "{died}");
    let died = cluster.wait(" died worker 0 ").join(" ");
    assert!(died.contains("returned before it was asked to stop"), "{died}");
    assert!(died.contains("exit code 1"), "{died}");
    stop(cluster);
}

fn a_replacement_comes_from_the_program_that_was_started() {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("a-program-of-its-own");
    std::fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    let mut cluster = Cluster::start_command(Command::new(&copy), "workers=1 backoff_ms=50");
    cluster.wait("cluster-ready ");
    let worker = cluster.pid("worker-0");
    let name = |pid| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
    // The kernel keeps 15 bytes of a name.
    assert_eq!((name(worker), name(worker)), (name(cluster.master()), "a-program-of-it\n".into()));

    std::fs::remove_file(&copy).unwrap();
    std::fs::write(&copy, "#!/bin/sh\nexit 3\n").unwrap();
    send(worker, Signal::KILL);
    cluster.wait(" died worker 0 ");
    cluster.wait(" ready worker 0 ");
    let cluster = stop(cluster);
    assert_eq!(cluster.count(" died "), 1);
}

fn a_panic_in_a_task_does_not_end_its_process() {
    let mut cluster =
        Cluster::start("workers=1 agent=task_panic worker=task_panic on_panic=report");
    cluster.wait(" lost a task: true");
    cluster.wait(" lost a task: true");
    cluster.find("cluster-ready ");
    cluster.signal(Signal::TERM);
    let (status, stderr) = cluster.end();
    assert_eq!(status.code(), Some(0));
    assert_eq!(stderr.matches("a task of the fixture panics").count(), 2, "and both are logged");
    assert_eq!(cluster.count(" died "), 0);
    assert_eq!(cluster.count("shuts down"), 2);
}

fn whoever_holds_stderr_open_does_not_hold_up_the_restart() {
    let mut cluster = Cluster::start("workers=1 worker=escape backoff_ms=50");
    cluster.wait(" lets one escape");
    cluster.find("cluster-ready ");
    let killed = Instant::now();
    let worker = cluster.pid("worker-0");
    send(worker, Signal::KILL);
    cluster.wait(" ready worker 0 ");
    // The one that escaped sleeps for 60 s.
    assert!(killed.elapsed() < Duration::from_secs(20), "{:?}", killed.elapsed());
    stop(cluster);
}

fn restarts_leave_nothing_behind_in_the_master() {
    let mut cluster = Cluster::ready("workers=1 healthy_ms=0");
    let master = cluster.master();
    let count = |what: &str| std::fs::read_dir(format!("/proc/{master}/{what}")).unwrap().count();
    let restart = |cluster: &mut Cluster, process: &str, pid: u32| {
        send(pid, Signal::KILL);
        let (pid, _) = next_start(cluster, process);
        cluster.wait(&format!(" ready {process} {pid}"));
        pid
    };
    let (mut agent, mut worker) = (cluster.pid("agent"), cluster.pid("worker-0"));
    let before = (count("fd"), count("task"));
    for _ in 0..10 {
        agent = restart(&mut cluster, "agent", agent);
        worker = restart(&mut cluster, "worker 0", worker);
    }
    let what = format!("the master is back at {before:?} descriptors and threads");
    until(&what, || (count("fd"), count("task")) == before);
    stop(cluster);
}
