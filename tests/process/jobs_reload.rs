//! Jobs while the workers are replaced by new ones.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::Value;

use crate::support::{Cluster, Signal, until};

crate::tests![
    the_definition_of_the_new_workers_holds,
    a_run_ends_in_the_old_worker_that_has_it_and_no_tick_runs_twice,
    a_reload_that_fails_leaves_the_jobs_as_they_were,
];

/// The entry of a job in the table, if there is one.
fn job(status: &Value, name: &str) -> Option<Value> {
    status["jobs"].as_array().unwrap().iter().find(|job| job["name"] == name).cloned()
}

fn write(path: &Path, text: &str) {
    // In one step, since workers may be reading it.
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}

fn stop(mut cluster: Cluster) -> Cluster {
    cluster.signal(Signal::TERM);
    let (status, stderr) = cluster.end();
    assert_eq!(status.code(), Some(0), "{stderr}");
    cluster
}

/// The ids and due times of the runs of a job that were told of.
fn runs(cluster: &Cluster, job: &str) -> Vec<(String, String)> {
    let marker = format!(" runs {job} ");
    let said = cluster.said.iter().filter_map(|line| line.split_once(&marker));
    said.map(|(_, run)| {
        let words: Vec<&str> = run.split(' ').collect();
        (words[0].to_owned(), words[2].to_owned())
    })
    .collect()
}

fn the_definition_of_the_new_workers_holds() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs");
    write(&path, "tick:50,old:100000,both:cron@0_0_1_1_*");
    let start = format!("workers=2 jobs=file:{}", path.display());
    let (mut cluster, asks) = Cluster::asked(&start);
    cluster.wait(" runs tick ");
    write(&path, "tick:100000,new:disabled,both:cron@0_0_2_1_*");
    assert_eq!(asks.ask("reload"), "ok");
    let status = asks.status();
    let schedule = |name: &str| job(&status, name).map(|job| job["schedule"].clone());
    assert_eq!(schedule("tick"), Some("every 100s".into()), "{status:#}");
    assert_eq!(schedule("both"), Some("0 0 2 1 * (local time)".into()), "{status:#}");
    assert_eq!(job(&status, "new").unwrap()["enabled"], false, "{status:#}");
    // Nobody has it any more; the table keeps its last runs.
    assert_eq!(job(&status, "old").unwrap()["ended"], true, "{status:#}");
    assert_eq!(job(&status, "old").unwrap()["next"], Value::Null, "{status:#}");
    for name in ["tick", "new", "both"] {
        let job = job(&status, name).unwrap();
        let workers: BTreeSet<u64> =
            job["workers"].as_array().unwrap().iter().filter_map(Value::as_u64).collect();
        let pids = status["processes"].as_array().unwrap().iter();
        let new = pids.filter(|of| of["role"] == "worker").filter_map(|of| of["pid"].as_u64());
        assert_eq!(workers, new.collect(), "the new ones alone have it: {status:#}");
    }
    // The short interval ended with the old definition.
    let next = job(&status, "tick").unwrap()["next"].as_f64().unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    assert!(next - now > 20.0, "{now} {status:#}");
    stop(cluster);
}

fn a_run_ends_in_the_old_worker_that_has_it_and_no_tick_runs_twice() {
    let folder = tempfile::tempdir().unwrap();
    let finished = folder.path().join("finished");
    let start = format!(
        "workers=2 stop_ms=60000 jobs=long:once:until@{},tick:20,all:20:all",
        finished.display()
    );
    let (mut cluster, asks) = Cluster::asked(&start);
    let long = cluster.find(" runs long ");
    let (worker, id) = (long[1].clone(), long[4].clone());
    cluster.wait_count(" runs tick ", 5);
    let mut answer = asks.say("reload");
    // The old workers drain, and one of them has the run. The new ones have the ticks.
    cluster.wait(" leaving worker ");
    cluster.wait(" leaving worker ");
    cluster.wait_count(" runs tick ", cluster.count(" runs tick ") + 10);
    let is_there = |states: Vec<(Option<u32>, String)>| {
        states.iter().any(|(pid, state)| {
            pid.is_some_and(|pid| pid.to_string() == worker) && state == "stopping"
        })
    };
    assert!(is_there(asks.processes("worker")), "it lives on with its run");
    assert_eq!(cluster.count(" reloaded "), 0);
    let running = job(&asks.status(), "long").unwrap()["running"].clone();
    assert_eq!(running[0]["id"].to_string(), id, "{running}");
    write(&finished, "");
    let mut text = String::new();
    std::io::BufRead::read_line(&mut answer, &mut text).unwrap();
    assert_eq!(text.trim(), "ok");
    let last = job(&asks.status(), "long").unwrap()["last"].clone();
    assert_eq!(last.as_array().unwrap().len(), 1, "{last}");
    assert_eq!(
        (last[0]["id"].to_string(), &last[0]["result"]),
        (id, &"succeeded".into()),
        "{last}"
    );
    assert_eq!(last[0]["pid"].to_string(), worker, "{last}");

    let cluster = stop(cluster);
    assert_eq!(cluster.count(" runs long "), 1, "the new workers do not run it again");
    assert_eq!(cluster.count(" ends long "), 1);
    let ticks = runs(&cluster, "tick");
    let ids: BTreeSet<_> = ticks.iter().map(|(id, _)| id).collect();
    let due: BTreeSet<_> = ticks.iter().map(|(_, due)| due).collect();
    assert_eq!((ids.len(), due.len()), (ticks.len(), ticks.len()), "{ticks:?}");
    // Of those that run in all workers, each worker has each once.
    for (pid, runs) in by_worker(&cluster, "all") {
        let due: BTreeSet<_> = runs.iter().collect();
        assert_eq!(due.len(), runs.len(), "{pid}: {runs:?}");
    }
}

/// The due times of the runs of a job, by the pid of the worker.
fn by_worker(cluster: &Cluster, job: &str) -> BTreeMap<String, Vec<String>> {
    let mut all = BTreeMap::<String, Vec<String>>::new();
    for line in cluster.said.iter().filter(|line| line.contains(&format!(" runs {job} "))) {
        let words: Vec<&str> = line.split(' ').collect();
        all.entry(words[1].to_owned()).or_default().push(words[6].to_owned());
    }
    assert_eq!(all.len(), 4, "two old ones and two new ones");
    all
}

fn a_reload_that_fails_leaves_the_jobs_as_they_were() {
    let folder = tempfile::tempdir().unwrap();
    let [jobs, worker] = ["jobs", "worker"].map(|name| folder.path().join(name));
    write(&jobs, "tick:20");
    write(&worker, "");
    let start = format!(
        "workers=2 backoff_ms=50 jobs=file:{} worker=file:{}",
        jobs.display(),
        worker.display()
    );
    let (mut cluster, asks) = Cluster::asked(&start);
    cluster.wait(" runs tick ");
    // The new workers have registered their jobs when they fail.
    write(&jobs, "tick:100000,new:20");
    write(&worker, "fail");
    let answer = asks.ask("reload");
    assert!(answer.starts_with("error: "), "{answer}");
    write(&jobs, "tick:20");
    write(&worker, "");
    until("the new ones are gone", || asks.processes("worker").len() == 2);
    let status = asks.status();
    assert_eq!(job(&status, "tick").unwrap()["schedule"], "every 20ms", "{status:#}");
    cluster.wait_count(" runs tick ", cluster.count(" runs tick ") + 5);
    let cluster = stop(cluster);
    assert_eq!(cluster.count(" runs new "), 0, "only those that are ready run anything");
    let ticks = runs(&cluster, "tick");
    let due: BTreeSet<_> = ticks.iter().map(|(_, due)| due).collect();
    assert_eq!(due.len(), ticks.len(), "{ticks:?}");
}
