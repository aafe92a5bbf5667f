//! What the tests of the command line have in common.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::{
    fixture::KEYS,
    support::{PATIENCE, is_alive, send},
};

/// A user with a home of their own: a runtime directory, and a place for logs.
pub(crate) struct Home {
    directory: TempDir,
    keys: String,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Home {
    /// A home whose clusters behave as the keys say; see `fixture.rs`.
    pub(crate) fn new(keys: &str) -> Self {
        Self { directory: tempfile::tempdir().unwrap(), keys: keys.to_owned() }
    }

    /// The same home, where clusters that are started from now on behave so.
    pub(crate) fn keys(&mut self, keys: &str) {
        keys.clone_into(&mut self.keys);
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(arguments.split_whitespace());
        command.env(KEYS, &self.keys);
        command.env("XDG_RUNTIME_DIR", self.path()).env("XDG_STATE_HOME", self.path());
        command.env_remove("NOTIFY_SOCKET");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, arguments: &str) -> Ran {
        self.run_command(self.command(arguments))
    }

    pub(crate) fn run_command(&self, mut command: Command) -> Ran {
        let child = command.spawn().unwrap();
        finish(child)
    }

    /// Runs a command that must succeed; gives what it printed.
    #[track_caller]
    pub(crate) fn ok(&self, arguments: &str) -> String {
        let ran = self.run(arguments);
        assert_eq!(ran.code, Some(0), "{arguments}: {ran:#?} {}", self.log());
        ran.stdout
    }

    /// The pid of the master that holds the lock of this title.
    pub(crate) fn pid(&self, title: &str) -> u32 {
        let lock = self.instance(title).join("lock");
        fs::read_to_string(lock).unwrap().parse().unwrap()
    }

    pub(crate) fn instance(&self, title: &str) -> PathBuf {
        self.path().join("cluster-client/instances").join(title)
    }

    pub(crate) fn log_path(&self, title: &str) -> PathBuf {
        self.path().join(format!("cluster-client/{title}.log"))
    }

    /// What all logs of this home have.
    pub(crate) fn log(&self) -> String {
        let logs = fs::read_dir(self.path().join("cluster-client")).into_iter().flatten().flatten();
        let read = |path: PathBuf| Some((fs::read_to_string(&path).ok()?, path));
        logs.filter_map(|entry| read(entry.path()))
            .map(|(text, path)| format!("{}:\n{text}", path.display()))
            .collect()
    }

    /// What the log of a title has, when it has this.
    pub(crate) fn wait_log(&self, title: &str, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let log = fs::read_to_string(self.log_path(title)).unwrap_or_default();
            if log.contains(text) {
                return log;
            }
            assert!(Instant::now() < deadline, "no `{text}` in {log}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The pids of this process of a cluster that is or was ready, as `worker-0`, the oldest first.
    pub(crate) fn pids(&self, title: &str, process: &str) -> Vec<u32> {
        let log = self.wait_log(title, " cluster-ready ");
        started(&log).filter(|(name, _)| name == process).map(|(_, pid)| pid).collect()
    }

    /// The pids of all processes of a cluster that is or was ready.
    pub(crate) fn running(&self, title: &str) -> Vec<u32> {
        let log = self.wait_log(title, " cluster-ready ");
        started(&log).map(|(_, pid)| pid).chain([self.pid(title)]).collect()
    }

    /// The pids of all that were started in the cluster, as far as the log has them.
    pub(crate) fn started(&self, title: &str) -> Vec<u32> {
        let log = fs::read_to_string(self.log_path(title)).unwrap_or_default();
        started(&log).map(|(_, pid)| pid).collect()
    }

    /// Asserts that nothing of any instance is in the runtime directory.
    #[track_caller]
    pub(crate) fn assert_clean(&self) {
        let left = self.path().join("cluster-client/instances");
        assert!(!left.exists(), "{:?}", fs::read_dir(left).unwrap().collect::<Vec<_>>());
    }
}

impl Drop for Home {
    /// A test that failed must not leave processes behind.
    fn drop(&mut self) {
        let instances = fs::read_dir(self.path().join("cluster-client/instances"));
        for entry in instances.into_iter().flatten().flatten() {
            let pid = fs::read_to_string(entry.path().join("lock"));
            let Some(pid) = pid.ok().and_then(|pid| pid.parse().ok()) else { continue };
            if pid != std::process::id() && is_alive(pid) {
                send(pid, Signal::KILL);
            }
        }
    }
}

/// Waits for the end of a command, and reads what it wrote meanwhile.
pub(crate) fn finish(mut child: Child) -> Ran {
    let pid = child.id();
    let (ends, ended) = std::sync::mpsc::channel();
    let guard = thread::spawn(move || {
        if ended.recv_timeout(2 * PATIENCE).is_err() {
            send(pid, Signal::KILL);
        }
    });
    drop(child.stdin.take());
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    let _ = ends.send(());
    guard.join().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ran { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
}

/// The names and pids in the lines `started agent PID …` and `started worker 0 PID …`.
fn started(log: &str) -> impl Iterator<Item = (String, u32)> {
    let parts = log.lines().filter_map(|line| line.split_once(" started "));
    parts.filter_map(|(_, rest)| {
        let mut words = rest.split(' ');
        let name = match words.next()? {
            "worker" => format!("worker-{}", words.next()?),
            name => name.to_owned(),
        };
        Some((name, words.next()?.parse().ok()?))
    })
}
