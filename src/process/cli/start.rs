//! `start`: in the foreground this process becomes the master, in the background another one does.

use super::{
    args::Start,
    console::{self, About},
    daemon::{self, Launcher, Outcome},
    instance::{Instance, Lock},
    log_files::{self, OwnLines},
    logs,
    pid_file::PidFile,
    systemd,
    wire::LogPaths,
};
use crate::{
    error::Result,
    process::{
        MasterBuilder,
        master::report,
        name::Exit,
        output::{Logs, Sink},
    },
};

/// How many lines of the log follow the reason of a failed start.
const LAST_LINES: usize = 20;

/// Starts the cluster.
///
/// # Errors
///
/// It runs already, or what it takes to start is not there.
pub(super) fn start(start: Start, mut cluster: MasterBuilder) -> Result<Exit> {
    if let Some(workers) = start.workers {
        cluster = cluster.workers(workers);
    }
    let instance = start.of.instance();
    match Launcher::take()? {
        Some(launcher) => {
            let outcome = lead(&start, cluster, &instance, Some(launcher.try_clone()?));
            if let Err(error) = &outcome {
                launcher.failed(error);
            }
            outcome
        }
        None if start.daemon => launch(&start, &cluster, &instance),
        None => lead(&start, cluster, &instance, None),
    }
}

/// This process is the master.
fn lead(
    start: &Start,
    cluster: MasterBuilder,
    instance: &Instance,
    launcher: Option<Launcher>,
) -> Result<Exit> {
    // First of all, since a descriptor that nobody knows of could be closed or handed on.
    let sockets = systemd::sockets()?;
    let (claim, listener) = instance.lock()?.bind()?;
    let pid_file = start.pid_file.as_deref().map(PidFile::write).transpose()?;
    let paths = log_paths(start, instance);
    let logs = paths.as_ref().map(log_files::open).transpose()?;
    let own_lines = logs.as_ref().map(OwnLines::redirect).transpose()?;
    let about = About {
        title: instance.title.as_str().to_owned(),
        workers: cluster.worker_count(),
        logs: paths,
        stop_limit: cluster.stop_limit(),
        // In the background the launcher has an eye on it, and stays until it is over.
        start_limit: start.timeout.filter(|_| launcher.is_none()),
    };
    let told = launcher.as_ref().map(Launcher::try_clone).transpose()?;
    let logs = logs.unwrap_or(Logs { stdout: Sink::Stdout, stderr: Sink::Stderr });
    let outcome = cluster
        .given(sockets)
        .logs(logs)
        .console(move |master| console::run(master, listener, launcher, about))
        .lead();
    let outcome = match outcome {
        // Here and only here, while the lines still go to the log.
        Err(error) if own_lines.is_some() => {
            report(&error);
            if let Some(told) = told {
                told.failed(&error);
            }
            Ok(Exit::of(&error))
        }
        outcome => outcome,
    };
    drop((own_lines, pid_file, claim));
    outcome
}

/// Where the logs go, if they go to files: where one was named, and in the background.
fn log_paths(start: &Start, instance: &Instance) -> Option<LogPaths> {
    let (stdout, stderr) = (start.stdout.as_deref(), start.stderr.as_deref());
    let to_files = start.daemon || stdout.is_some() || stderr.is_some();
    to_files.then(|| log_files::paths(&instance.title, stdout, stderr))
}

/// Starts the master in the background and waits until the cluster is ready, or why it is not.
fn launch(start: &Start, cluster: &MasterBuilder, instance: &Instance) -> Result<Exit> {
    // Nobody may rename the log files of an instance that runs.
    let lock = instance.lock()?;
    let outcome = launch_locked(start, cluster, instance, lock);
    if !matches!(outcome, Ok(Exit::Clean)) {
        instance.sweep();
    }
    outcome
}

fn launch_locked(
    start: &Start,
    cluster: &MasterBuilder,
    instance: &Instance,
    lock: Lock,
) -> Result<Exit> {
    let title = instance.title.as_str();
    if let Some(path) = &start.pid_file {
        PidFile::check(path)?;
    }
    let paths = log_files::paths(&instance.title, start.stdout.as_deref(), start.stderr.as_deref());
    log_files::rotate(&paths)?;
    let launch = daemon::Start {
        title: title.to_owned(),
        outputs: log_files::open_for_child(&paths)?,
        limit: start.timeout.unwrap_or(cluster.start_limit()),
        stop_limit: cluster.stop_limit(),
    };
    // The master takes it. Where somebody else is faster, the master says so.
    drop(lock);
    match launch.run()? {
        Outcome::Ready { pid, port, after } => {
            let seconds = after.as_secs_f64();
            println!("{title} is ready after {seconds:.1} s: pid {pid}, cluster port {port}");
            println!("logs: {}", paths.stdout.display());
            Ok(Exit::Clean)
        }
        Outcome::Failed { exit, reason } => {
            eprintln!("{title} did not start: {reason}");
            // Where another start was faster, the lines are those of its cluster.
            if !instance.is_held() {
                quote(&paths, &reason);
            }
            Ok(exit)
        }
    }
}

/// Shows what was logged last, as far as the reason does not have it already.
fn quote(paths: &LogPaths, reason: &str) {
    for path in log_files::each(paths) {
        let lines = logs::last_lines(path, LAST_LINES);
        // The log says who wrote a line, the reason does not.
        let said = |line: &String| line.split_once("]: ").unwrap_or(("", line)).1.trim().to_owned();
        if lines.iter().any(|line| !reason.contains(&said(line))) {
            eprintln!("the last lines of {}:", path.display());
            for line in lines {
                eprintln!("  {line}");
            }
        }
    }
}
