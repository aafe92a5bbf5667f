//! What the fixture knows of schedules.
//!
//! Keys of the master: `environment`; `by_hand=NAME,NAME`, jobs that are run by hand, one after the
//! other, once the cluster is ready, after which it is said what the table has.
//!
//! `jobs=JOB,JOB…` are the jobs of all workers. A job is its parts, separated by `:`. The first is its
//! name, the others are: `MS` (interval), `cron@PATTERN` (with `_` for the spaces), `once`, `all`,
//! `immediate`, `disabled`, `only@ENV`, `queue`, `allow`, `redeliver`, `limit@MS`; and what a run
//! does after it has said that it starts: `takes@MS`, `until@PATH` (that file is there), `hangs`, `hangs_first` (in its first attempt),
//! `fails`, `panics`.
//!
//! `jobs=file:PATH` has them in a file, which each worker reads when it starts.
//!
//! Each run says `NAME PID runs JOB ID ATTEMPT DUE` (in milliseconds since 1970) and, if it comes so far, `… ends JOB ID ATTEMPT`.

use std::{
    path::Path,
    time::{Duration, UNIX_EPOCH},
};

use cluster_client::{
    Error, ErrorKind, MasterBuilder, MasterHandle, Overlap, Result, Run, Schedule, Worker,
};

use crate::fixture::{Keys, behaviour, say};

pub(crate) fn describe(cluster: MasterBuilder, keys: &Keys) -> MasterBuilder {
    match keys.get("environment") {
        Some(name) => cluster.environment(name),
        None => cluster,
    }
}

/// Runs jobs by hand, and tells how they ended.
pub(crate) async fn by_hand(handle: MasterHandle, keys: Keys) {
    let Some(names) = keys.get("by_hand") else { return };
    for name in names.split(',') {
        match handle.run_job(name).await {
            Ok(outcome) => say("master", &format!("ran {name}: {outcome}")),
            Err(error) => say("master", &format!("can't run {name}: {error}")),
        }
    }
    for job in handle.jobs().await {
        say("master", &format!("table {}", serde_json::to_string(&job).unwrap()));
    }
}

pub(crate) fn schedule(worker: &Worker, name: &str, keys: &Keys) -> Result<()> {
    let jobs = behaviour(keys, [Some("jobs")]);
    for job in jobs.split(',').filter(|job| !job.is_empty()) {
        let (schedule, works) = read(job)?;
        let name = name.to_owned();
        let handle = worker.schedule(schedule, move |run: Run| {
            let (works, name) = (works.clone(), name.clone());
            async move {
                let what = format!("{} {} {}", run.job(), run.id(), run.attempt());
                let due = run.scheduled().duration_since(UNIX_EPOCH).unwrap_or_default();
                say(&name, &format!("runs {what} {}", due.as_millis()));
                work(&works, &run).await?;
                say(&name, &format!("ends {what}"));
                Ok::<_, Error>(())
            }
        })?;
        if job.contains(":unregistered") {
            handle.unregister();
        }
    }
    Ok(())
}

/// What a job is, and what its runs do.
fn read(job: &str) -> Result<(Schedule, String)> {
    let mut parts = job.split(':');
    let name = parts.next().unwrap_or_default();
    let mut schedule = Schedule::once(name);
    let mut works = String::new();
    for part in parts {
        schedule = match part.split_once('@').unwrap_or((part, "")) {
            ("cron", pattern) => Schedule::cron(name, pattern.replace('_', " "))?,
            ("once" | "unregistered", _) => schedule,
            ("all", _) => schedule.on_all(),
            ("immediate", _) => schedule.immediate(),
            ("disabled", _) => schedule.disabled(true),
            ("only", environment) => schedule.only_in([environment]),
            ("queue", _) => schedule.overlap(Overlap::Queue),
            ("allow", _) => schedule.overlap(Overlap::Allow),
            ("redeliver", _) => schedule.redeliver(),
            ("limit", millis) => schedule.timeout(millis_of(millis)),
            (millis, "") if millis.parse::<u64>().is_ok() => {
                Schedule::every(name, millis_of(millis))
            }
            _ => {
                works = part.to_owned();
                schedule
            }
        };
    }
    Ok((schedule, works))
}

async fn work(works: &str, run: &Run) -> Result<()> {
    match works.split_once('@').unwrap_or((works, "")) {
        ("takes", millis) => tokio::time::sleep(millis_of(millis)).await,
        ("until", path) => {
            while !Path::new(path).exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        ("hangs", _) => std::future::pending().await,
        ("hangs_first", _) if run.attempt() == 1 => std::future::pending().await,
        ("fails", _) => return Err(Error::new(ErrorKind::Connect, "no upstream for the job")),
        ("panics", _) => panic!("the job panics"),
        _ => {}
    }
    Ok(())
}

fn millis_of(text: &str) -> Duration {
    Duration::from_millis(text.parse().unwrap())
}
