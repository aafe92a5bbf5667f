//! Jobs: who runs them, and what becomes of runs when processes die.

use std::collections::BTreeSet;

use crate::support::{Cluster, Signal, send};

crate::tests![
    each_run_is_in_one_worker_or_in_all,
    nothing_runs_before_the_whole_cluster_is_ready,
    a_run_dies_with_its_worker_once,
    a_run_is_delivered_again_where_that_is_wanted,
    no_death_of_the_agent_or_of_all_workers_runs_anything_twice,
    a_worker_that_is_blocked_holds_up_no_run,
    runs_do_not_overlap,
    failures_panics_and_timeouts_end_their_run_alone,
    jobs_are_run_by_hand_whatever_their_times,
    an_environment_has_its_own_jobs,
    a_mistake_ends_the_start_and_names_the_job,
    an_unregistered_job_is_never_due,
    a_stop_waits_for_runs_within_its_limit,
];

/// A line of a run: who, and which one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Said {
    pid: u32,
    job: String,
    id: u64,
    attempt: u32,
}

fn read(words: &[String]) -> Said {
    Said {
        pid: words[1].parse().unwrap(),
        job: words[3].clone(),
        id: words[4].parse().unwrap(),
        attempt: words[5].parse().unwrap(),
    }
}

/// The runs of a job that have been told of so far.
fn runs(cluster: &Cluster, job: &str) -> Vec<Said> {
    let marker = format!(" runs {job} ");
    let said = cluster.said.iter().filter(|line| line.contains(&marker));
    said.map(|line| read(&line.split(' ').map(str::to_owned).collect::<Vec<_>>())).collect()
}

fn wait_for_run(cluster: &mut Cluster, job: &str) -> Said {
    read(&cluster.wait(&format!(" runs {job} ")))
}

/// Waits until as many lines as this contain the text.
fn wait_for_count(cluster: &mut Cluster, text: &str, count: usize) {
    while cluster.count(text) < count {
        cluster.wait("");
    }
}

fn assert_each_once(runs: &[Said]) {
    let ids: BTreeSet<_> = runs.iter().map(|run| run.id).collect();
    assert_eq!(ids.len(), runs.len(), "{runs:?}");
    assert!(runs.iter().all(|run| run.attempt == 1), "{runs:?}");
}

fn stop(mut cluster: Cluster) -> Cluster {
    cluster.signal(Signal::TERM);
    let (status, stderr) = cluster.end();
    assert_eq!(status.code(), Some(0), "{stderr}");
    cluster
}

fn each_run_is_in_one_worker_or_in_all() {
    let mut cluster = Cluster::start("workers=2 jobs=one:100,two:cron@*_*_*_*_*_*,all:100:all");
    let workers: BTreeSet<_> = ["worker-0", "worker-1"].map(|name| cluster.pid(name)).into();
    let both = |runs: &[Said]| {
        let seen: BTreeSet<_> = runs.iter().map(|run| run.pid).collect();
        seen == workers
    };
    // Which one has a run is a matter of chance, which is patient.
    while runs(&cluster, "one").len() < 10 || !both(&runs(&cluster, "one")) {
        wait_for_run(&mut cluster, "one");
    }
    for _ in 0..2 {
        wait_for_run(&mut cluster, "two");
    }
    let cluster = stop(cluster);
    for job in ["one", "two", "all"] {
        assert_each_once(&runs(&cluster, job));
    }
    let all = runs(&cluster, "all");
    for pid in workers {
        let its = all.iter().filter(|run| run.pid == pid).count();
        assert!(its >= 5, "{all:?}");
    }
}

fn nothing_runs_before_the_whole_cluster_is_ready() {
    let start = "workers=2 worker1=hang ready_ms=6000 jobs=tick:20,first:once";
    let mut cluster = Cluster::start(start);
    cluster.find("worker-0 ");
    assert_eq!(cluster.end().0.code(), Some(1));
    assert_eq!(cluster.count(" ready worker 0 "), 1, "it was ready, and had jobs");
    assert_eq!(cluster.count(" runs tick ") + cluster.count(" runs first "), 0);
}

fn a_run_dies_with_its_worker_once() {
    let start = "workers=2 backoff_ms=50 jobs=hold:disabled:hangs,tick:50 by_hand=hold";
    let mut cluster = Cluster::start(start);
    let held = wait_for_run(&mut cluster, "hold");
    send(held.pid, Signal::KILL);
    cluster.wait(" ran hold: was lost with its worker");
    wait_for_count(&mut cluster, " ready worker ", 3);
    let table = cluster.find(" table {\"name\":\"hold\"").join(" ");
    assert!(table.contains(&format!("\"id\":{}", held.id)), "{table}");
    assert!(table.contains("\"result\":\"lost\""), "{table}");
    // Other jobs go on, with those workers that there are.
    for _ in 0..5 {
        wait_for_run(&mut cluster, "tick");
    }
    let cluster = stop(cluster);
    assert_eq!(runs(&cluster, "hold"), [held]);
    assert_each_once(&runs(&cluster, "tick"));
}

fn a_run_is_delivered_again_where_that_is_wanted() {
    let start = "workers=2 backoff_ms=50 jobs=hold:disabled:redeliver:hangs_first by_hand=hold";
    let mut cluster = Cluster::start(start);
    let first = wait_for_run(&mut cluster, "hold");
    send(first.pid, Signal::KILL);
    let second = wait_for_run(&mut cluster, "hold");
    assert_eq!((second.id, second.attempt), (first.id, 2));
    assert_ne!(second.pid, first.pid);
    cluster.wait(" ran hold: succeeded");
    assert_eq!(runs(&stop(cluster), "hold").len(), 2);
}

fn no_death_of_the_agent_or_of_all_workers_runs_anything_twice() {
    let start = "workers=2 backoff_ms=50 jobs=tick:100,first:100000:immediate,once:once:all";
    let mut cluster = Cluster::start(start);
    wait_for_run(&mut cluster, "tick");
    let agent = cluster.pid("agent");
    send(agent, Signal::KILL);
    cluster.wait(" died agent");
    // Without an agent too.
    wait_for_run(&mut cluster, "tick");
    wait_for_count(&mut cluster, " ready agent ", 2);
    for _ in 0..3 {
        wait_for_run(&mut cluster, "tick");
    }
    for worker in ["worker-0", "worker-1"] {
        let pid = cluster.pid(worker);
        send(pid, Signal::KILL);
    }
    wait_for_count(&mut cluster, " ready worker ", 4);
    for _ in 0..3 {
        wait_for_run(&mut cluster, "tick");
    }
    let cluster = stop(cluster);
    assert_each_once(&runs(&cluster, "tick"));
    assert_eq!(runs(&cluster, "first").len(), 1);
    assert_eq!(runs(&cluster, "once").len(), 2, "one in each of the first workers");
}

fn a_worker_that_is_blocked_holds_up_no_run() {
    let mut cluster = Cluster::start("workers=2 stop_ms=500 worker0=busy jobs=tick:200");
    cluster.find(" blocks");
    let blocked = cluster.pid("worker-0");
    let mut others = 0;
    // As many runs as it takes for some to have been offered to the blocked one first.
    while others < 10 {
        others += u32::from(wait_for_run(&mut cluster, "tick").pid != blocked);
    }
    assert_each_once(&runs(&stop(cluster), "tick"));
}

fn runs_do_not_overlap() {
    let mut cluster = Cluster::start("workers=2 jobs=slow:50:takes@200");
    for _ in 0..5 {
        wait_for_run(&mut cluster, "slow");
    }
    let cluster = stop(cluster);
    let mut running = 0;
    for line in &cluster.said {
        if line.contains(" runs slow ") {
            running += 1;
        } else if line.contains(" ends slow ") {
            running -= 1;
        }
        assert!((0..=1).contains(&running), "{:#?}", cluster.said);
    }
    assert_each_once(&runs(&cluster, "slow"));
}

fn failures_panics_and_timeouts_end_their_run_alone() {
    let start = "workers=1 jobs=fails:20:fails,panics:disabled:panics,tardy:disabled:limit@50:hangs \
                 by_hand=panics,tardy,fails";
    let mut cluster = Cluster::start(start);
    cluster.wait(" ran panics: panicked: the job panics");
    cluster.wait(" ran tardy: timed out");
    // It may be due just now.
    cluster.wait(" ran fails: ");
    let table = cluster.wait(" table {\"name\":\"fails\"").join(" ");
    assert!(
        table.contains("\"result\":\"failed\",\"reason\":\"no upstream for the job\""),
        "{table}"
    );
    let table = cluster.wait(" table {\"name\":\"tardy\"").join(" ");
    assert!(table.contains("\"result\":\"timed_out\""), "{table}");
    // It goes on at the next tick.
    for _ in 0..3 {
        wait_for_run(&mut cluster, "fails");
    }
    let cluster = stop(cluster);
    assert_eq!(cluster.count(" died ") + cluster.count(" panicked worker"), 0);
}

fn jobs_are_run_by_hand_whatever_their_times() {
    let start = "workers=2 jobs=off:20:disabled,rare:cron@0_0_1_1_*,both:100000:all \
                 by_hand=off,rare,both,none";
    let mut cluster = Cluster::start(start);
    for job in ["off", "rare", "both"] {
        cluster.wait(&format!(" ran {job}: succeeded"));
    }
    let refused = cluster.wait(" can't run none: ").join(" ");
    assert!(refused.ends_with("there is no job `none`; the jobs are both, off, rare"), "{refused}");
    let table = cluster.find(" table {\"name\":\"off\"").join(" ");
    assert!(table.contains("\"enabled\":false,\"ended\":false"), "{table}");
    let cluster = stop(cluster);
    let counts = ["off", "rare", "both"].map(|job| runs(&cluster, job).len());
    assert_eq!(counts, [1, 1, 2]);
}

fn an_environment_has_its_own_jobs() {
    let jobs = "workers=1 jobs=here:30:only@prod,there:30:only@test,all:30 by_hand=there";
    let mut cluster = Cluster::start(&format!("{jobs} environment=prod"));
    cluster.wait(" ran there: succeeded");
    for _ in 0..5 {
        wait_for_run(&mut cluster, "here");
    }
    assert_eq!(runs(&stop(cluster), "there").len(), 1, "by hand");

    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.env("CLUSTER_CLIENT_ENV", "test");
    let mut cluster = Cluster::start_command(command, jobs);
    for _ in 0..5 {
        wait_for_run(&mut cluster, "there");
    }
    assert_eq!(runs(&stop(cluster), "here").len(), 0);
}

fn a_mistake_ends_the_start_and_names_the_job() {
    let mistakes = [
        ("report:cron@61_*_*_*_*", "job `report`: the cron pattern `61 * * * *`: "),
        ("twice:once,twice:once", "job `twice`: this worker has scheduled it already"),
        ("fast:1", "job `fast`: the interval 1ms is not from 10 ms to a hundred years"),
    ];
    for (jobs, says) in mistakes {
        let mut cluster = Cluster::start(&format!("workers=1 jobs={jobs}"));
        let (status, stderr) = cluster.end();
        assert_eq!(status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(says), "{stderr}");
    }
}

fn an_unregistered_job_is_never_due() {
    let mut cluster = Cluster::start("workers=2 jobs=gone:20:unregistered,tick:20 by_hand=gone");
    let refused = cluster.wait(" can't run gone: ").join(" ");
    assert!(refused.ends_with("the jobs are tick"), "{refused}");
    for _ in 0..20 {
        wait_for_run(&mut cluster, "tick");
    }
    assert_eq!(runs(&stop(cluster), "gone").len(), 0);
}

fn a_stop_waits_for_runs_within_its_limit() {
    // It takes long enough to be at work still when the signal comes.
    let mut cluster = Cluster::start("workers=2 stop_ms=60000 jobs=slow:once:takes@4000,tick:50");
    wait_for_run(&mut cluster, "slow");
    let cluster = stop(cluster);
    assert_eq!(cluster.count(" ends slow "), 1);
    assert!(cluster.position("shuts down") < cluster.position(" ends slow "));
    // No run was begun by a worker that has stopped, nor left without its end.
    assert_eq!(cluster.count(" runs tick "), cluster.count(" ends tick "));

    let mut cluster = Cluster::start("workers=1 stop_ms=3000 jobs=hold:once:hangs");
    wait_for_run(&mut cluster, "hold");
    let cluster = stop(cluster);
    assert_eq!(cluster.count(" stopped worker 0 "), 1);
    assert_eq!(cluster.count("signal 9"), 1, "{:#?}", cluster.said);
}
