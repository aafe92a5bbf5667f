//! Starts fixtures, reads what they say, and knows who is alive.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        atomic::{AtomicU32, Ordering},
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

pub(crate) use rustix::process::Signal;
use rustix::process::{Pid, WaitOptions, WaitStatus, kill_process, waitpid};

/// How long a test waits for what must happen. Far beyond what it takes, for busy machines.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// How long processes may outlive their master, which they notice at once: far less than anything
/// that a fixture leaves behind would live by itself.
const AFTERLIFE: Duration = Duration::from_secs(10);

/// Makes this process the parent of those whose parent died, so that a test can see how they end.
pub(crate) fn adopt_orphans() {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
}

/// A master and what it started.
pub(crate) struct Cluster {
    master: Child,
    lines: Receiver<String>,
    /// Every line so far.
    pub(crate) said: Vec<String>,
    /// How many of them were looked at by `wait`.
    read: usize,
    stderr: Option<JoinHandle<String>>,
    /// What all its processes have in their environment, and nobody else.
    mark: String,
}

/// Names the cluster of a test in the environment of its processes.
const MARK: &str = "CLUSTER_TEST_MARK";

impl Cluster {
    /// Starts a fixture with these arguments.
    pub(crate) fn start(arguments: &str) -> Self {
        let own = std::env::current_exe().unwrap();
        Self::start_command(Command::new(own), arguments)
    }

    pub(crate) fn start_command(mut command: Command, arguments: &str) -> Self {
        command.arg("--fixture").args(arguments.split_whitespace());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        static CLUSTERS: AtomicU32 = AtomicU32::new(0);
        let number = CLUSTERS.fetch_add(1, Ordering::Relaxed);
        let mark = format!("{}-{number}", std::process::id());
        command.env(MARK, &mark);
        let mut master = command.spawn().unwrap();
        let (sender, lines) = channel();
        let stdout = BufReader::new(master.stdout.take().unwrap());
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut stderr = master.stderr.take().unwrap();
        let stderr = thread::spawn(move || {
            let mut text = Vec::new();
            stderr.read_to_end(&mut text).unwrap();
            String::from_utf8_lossy(&text).into_owned()
        });
        Self { master, lines, said: Vec::new(), read: 0, stderr: Some(stderr), mark }
    }

    /// Starts a fixture and waits until its cluster is ready.
    pub(crate) fn ready(arguments: &str) -> Self {
        let mut cluster = Self::start(arguments);
        cluster.wait("cluster-ready ");
        cluster
    }

    /// Starts a fixture that is PID 1 of a namespace of its own. `master` is then the process
    /// outside of it that waits for it. Who is not root needs namespaces of users for it.
    pub(crate) fn start_as_init(arguments: &str) -> Self {
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child", "--mount-proc"]);
        if !rustix::process::geteuid().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        command.arg(std::env::current_exe().unwrap());
        Self::start_command(command, arguments)
    }

    /// As `ready`, of a cluster whose master's handle can be asked.
    pub(crate) fn asked(arguments: &str) -> (Self, Asks) {
        let own = std::env::current_exe().unwrap();
        Self::asked_command(Command::new(own), arguments)
    }

    pub(crate) fn asked_command(command: Command, arguments: &str) -> (Self, Asks) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("asks");
        let arguments = format!("asks={} {arguments}", path.display());
        let mut cluster = Self::start_command(command, &arguments);
        cluster.wait("cluster-ready ");
        (cluster, Asks { path, _folder: folder })
    }

    pub(crate) fn master(&self) -> u32 {
        self.master.id()
    }

    /// Waits for a line that contains this, after the one found last; gives its words. A text that
    /// starts with `^` is looked for at the start of a line.
    pub(crate) fn wait(&mut self, text: &str) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            while self.read < self.said.len() {
                self.read += 1;
                let line = &self.said[self.read - 1];
                if has(line, text) {
                    return line.split(' ').map(str::to_owned).collect();
                }
            }
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.said.push(line),
                Err(why) => panic!("no line `{text}` ({why}) in {:#?}", self.said),
            }
        }
    }

    /// As `wait`, for lines whose order is not known: looks at all lines from the start.
    pub(crate) fn find(&mut self, text: &str) -> Vec<String> {
        let at = std::mem::replace(&mut self.read, 0);
        let words = self.wait(text);
        self.read = self.read.max(at);
        words
    }

    /// The pid in the first line of this process, as `worker-0`.
    pub(crate) fn pid(&mut self, name: &str) -> u32 {
        self.find(&format!("^{name} "))[1].parse().unwrap()
    }

    /// The lines that contain this, once all processes are gone.
    pub(crate) fn count(&self, text: &str) -> usize {
        self.said.iter().filter(|line| has(line, text)).count()
    }

    /// Waits until this many lines contain this.
    pub(crate) fn wait_count(&mut self, text: &str, count: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.count(text) < count {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.said.push(line),
                Err(why) => panic!("no {count} lines `{text}` ({why}) in {:#?}", self.said),
            }
        }
    }

    /// Where the first line that contains this is.
    pub(crate) fn position(&self, text: &str) -> usize {
        let found = self.said.iter().position(|line| has(line, text));
        found.unwrap_or_else(|| panic!("no line `{text}` in {:#?}", self.said))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        send(self.master(), signal);
    }

    /// Waits for the end of the master, and asserts that nothing outlived it for long. Gives its
    /// exit status and what was written to stderr.
    pub(crate) fn end(&mut self) -> (ExitStatus, String) {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.master.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "the master lives on: {:#?}", self.said);
            thread::sleep(Duration::from_millis(2));
        };
        // All processes hold stdout, so its end is the end of the last of them.
        let limit = Instant::now() + AFTERLIFE;
        loop {
            match self.lines.recv_timeout(limit.saturating_duration_since(Instant::now())) {
                Ok(line) => self.said.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    panic!("somebody outlives the master: {:?} of {:#?}", self.alive(), self.said)
                }
            }
        }
        // A process closes its files shortly before it is gone.
        while !self.alive().is_empty() {
            assert!(Instant::now() < limit, "{:?} of {:#?}", self.alive(), self.said);
            thread::sleep(Duration::from_millis(2));
        }
        let stderr = self.stderr.take().map(|stderr| stderr.join().unwrap());
        (status, stderr.unwrap_or_default())
    }

    /// All processes of this cluster that are alive, the master and what they started included.
    /// They may be killed, so no line is believed: only the environment tells whose they are.
    fn alive(&self) -> Vec<u32> {
        let mark = format!("{MARK}={}", self.mark);
        let is_ours = |pid: &u32| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
        };
        processes().filter(|pid| is_alive(*pid) && is_ours(pid)).collect()
    }
}

impl Drop for Cluster {
    /// A test that failed must not leave processes behind.
    fn drop(&mut self) {
        let limit = Instant::now() + PATIENCE;
        loop {
            let alive = self.alive();
            // One that was seen may have forked before it was killed.
            if alive.is_empty() || Instant::now() > limit {
                break;
            }
            alive.into_iter().for_each(|pid| send(pid, Signal::KILL));
            thread::sleep(Duration::from_millis(2));
        }
        let _ = self.master.wait();
    }
}

/// The way to the handle of a master; see `fixture_ask.rs`.
pub(crate) struct Asks {
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl Asks {
    /// Asks, and waits for the answer.
    #[track_caller]
    pub(crate) fn ask(&self, what: &str) -> String {
        let mut stream = self.say(what);
        let mut answer = String::new();
        stream.read_line(&mut answer).unwrap();
        assert!(!answer.is_empty(), "the master hung up on {what}");
        answer.trim_end().to_owned()
    }

    /// Asks. The answer can be read later, if at all.
    pub(crate) fn say(&self, what: &str) -> BufReader<UnixStream> {
        let connect = || UnixStream::connect(&self.path).ok();
        until("the master can be asked", || connect().is_some());
        let mut stream = connect().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(format!("{what}\n").as_bytes()).unwrap();
        BufReader::new(stream)
    }

    pub(crate) fn status(&self) -> serde_json::Value {
        serde_json::from_str(&self.ask("status")).unwrap()
    }

    /// The pids and states of all processes that have this role.
    pub(crate) fn processes(&self, role: &str) -> Vec<(Option<u32>, String)> {
        let status = self.status();
        let of = status["processes"].as_array().unwrap().iter().filter(|of| of["role"] == role);
        of.map(|of| {
            let pid = of["pid"].as_u64().map(|pid| pid as u32);
            (pid, of["state"].as_str().unwrap().to_owned())
        })
        .collect()
    }
}

fn has(line: &str, text: &str) -> bool {
    text.strip_prefix('^').map_or_else(|| line.contains(text), |start| line.starts_with(start))
}

/// Whether a process runs or is stopped. A zombie is gone: it waits for its parent alone.
pub(crate) fn is_alive(pid: u32) -> bool {
    !matches!(state(pid), None | Some('Z' | 'X'))
}

/// The state letter of `/proc/PID/stat`, which comes after the name in parentheses.
pub(crate) fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// The processes whose parent this is, those that are gone and not reaped included. The kernel's own
/// list leaves some out at times.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let is_parent = |child: &u32| {
        let stat = fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        let rest = stat.rsplit_once(") ").map(|(_, rest)| rest.split(' '));
        rest.and_then(|mut words| words.nth(1)?.parse().ok()) == Some(pid)
    };
    processes().filter(is_parent).collect()
}

/// Every process of the host.
fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

pub(crate) fn send(pid: u32, signal: Signal) {
    // It may be gone by now, which is no matter of this function.
    let _ = kill_process(to_pid(pid), signal);
}

/// Waits until this is true.
pub(crate) fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// How a process ended whose master died before it, which made it a child of this process.
pub(crate) fn status_of_orphan(pid: u32) -> WaitStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Ok(Some((_, status))) = waitpid(Some(to_pid(pid)), WaitOptions::NOHANG) {
            return status;
        }
        assert!(Instant::now() < deadline, "{pid} lives on");
        thread::sleep(Duration::from_millis(2));
    }
}

fn to_pid(pid: u32) -> Pid {
    Pid::from_raw(pid as i32).unwrap()
}
