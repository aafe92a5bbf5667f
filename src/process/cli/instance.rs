//! Instances: clusters of this user that run, by title, each with a directory of its own.
//!
//! ```text
//!   <runtime directory>/cluster-client/instances/<title>/
//!       lock      held (flock) by the master as long as it lives; has its pid
//!       control   the control socket of the master
//! ```
//! The lock says whether an instance runs, and nothing else does: a master that was killed holds
//! none, so that what it left behind is taken over. Who runs is found by connecting to the socket,
//! whose other end the kernel names. The process list is never searched.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::{
        fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    str::FromStr,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::FlockOperation,
    io::FdFlags,
    net::{AddressFamily, SocketAddrUnix, SocketType},
    process::Pid,
};

use super::living::Living;
use crate::{
    error::{Error, ErrorKind, Result},
    runtime_dir,
};

/// What an instance is called: 1 to 64 letters, digits, `-`, `_` and `.`, the last not first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Title(String);

impl Title {
    /// The name of the program as it was called.
    pub(super) fn of_program() -> Self {
        let called = std::env::args_os().next().map(PathBuf::from);
        let name = called.as_deref().and_then(Path::file_name).and_then(|name| name.to_str());
        let is_allowed = |c: char| if is_allowed(c) { c } else { '-' };
        let name: String = name.unwrap_or_default().chars().map(is_allowed).take(64).collect();
        name.trim_start_matches('.').parse().unwrap_or_else(|_| Self("cluster".to_owned()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Title {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits = (1..=64).contains(&text.len()) && !text.starts_with('.');
        if fits && text.chars().all(is_allowed) {
            return Ok(Self(text.to_owned()));
        }
        Err("a title has 1 to 64 letters, digits, `-`, `_` and `.`, and does not start with `.`")
    }
}

fn is_allowed(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-_.".contains(c)
}

/// Where an instance of this title is, whether it runs or not.
#[derive(Debug, Clone)]
pub(super) struct Instance {
    pub(super) title: Title,
    /// The directories from the shared one down to its own.
    path: [PathBuf; 3],
}

impl Instance {
    pub(super) fn new(title: Title) -> Self {
        Self::below(runtime_dir::directory(), title)
    }

    fn below(base: PathBuf, title: Title) -> Self {
        let all = base.join("instances");
        let own = all.join(title.as_str());
        Self { title, path: [base, all, own] }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path[2].join(name)
    }

    /// Makes this process the only one that starts or runs the instance.
    ///
    /// # Errors
    ///
    /// Another process is that already, with its pid; or the directory is not this user's alone.
    pub(super) fn lock(&self) -> Result<Lock> {
        let begin = Instant::now();
        loop {
            let why = match self.try_lock()? {
                Try::Locked(lock) => return Ok(lock),
                // Somebody who ends removed the directory meanwhile.
                Try::Gone => Error::config(format!("{} comes and goes", self.path[2].display())),
                // A process that is killed lets go of its files shortly after it looks dead.
                Try::Held(file) => self.runs_already(file),
            };
            if begin.elapsed() > LOCK_PATIENCE {
                return Err(why);
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn try_lock(&self) -> Result<Try> {
        let [base, below @ ..] = &self.path;
        runtime_dir::own(base)?;
        for directory in below {
            match runtime_dir::own(directory) {
                Err(_) if !directory.exists() => return Ok(Try::Gone),
                other => other?,
            }
        }
        let path = self.file("lock");
        let failed = |error: io::Error| {
            Error::io(format_args!("the lock {} can't be used", path.display()), &error)
        };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = match options.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Try::Gone),
            opened => opened.map_err(failed)?,
        };
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(Try::Held(file)),
            Err(error) => return Err(failed(error.into())),
        }
        let ours = file.metadata().map_err(failed)?;
        let is_there = |meta: fs::Metadata| (meta.dev(), meta.ino()) == (ours.dev(), ours.ino());
        if !fs::symlink_metadata(&path).is_ok_and(is_there) {
            return Ok(Try::Gone);
        }
        let write_pid = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            write!(file, "{}", std::process::id())
        };
        write_pid(&mut file).map_err(failed)?;
        Ok(Try::Locked(Lock { instance: self.clone(), _file: file }))
    }

    fn runs_already(&self, file: File) -> Error {
        let pid = read_pid(file);
        let title = self.title.as_str();
        Error::new(
            ErrorKind::Process,
            format!("{title} runs already (pid {pid}); stop it first, or give another --title"),
        )
    }

    /// Connects to the master of the instance. `None` where none runs.
    ///
    /// # Errors
    ///
    /// The directory is not this user's alone, or the socket can't be used. [`ErrorKind::Timeout`]
    /// where so many wait for the master already that nobody else can.
    pub(super) fn connect(&self) -> Result<Option<UnixStream>> {
        for directory in &self.path {
            match fs::symlink_metadata(directory) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                // Where it can't be looked at, nobody knows whether one runs.
                _ => runtime_dir::check(directory)?,
            }
        }
        let begin = Instant::now();
        loop {
            match connect_now(&self.file("control")) {
                Ok(stream) => return Ok(Some(stream)),
                Err(error) => match error.kind() {
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => return Ok(None),
                    io::ErrorKind::WouldBlock if begin.elapsed() > CONNECT_PATIENCE => {
                        return Err(self.takes_nobody());
                    }
                    io::ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(5)),
                    _ => return Err(self.socket_failed(&error)),
                },
            }
        }
    }

    /// Who runs the instance, by its lock: for those who can't ask the socket. `None` where it is in
    /// another container.
    pub(super) fn holder(&self) -> Option<Living> {
        let Ok(Try::Held(file)) = self.try_lock() else { return None };
        let lock = file.metadata().ok()?;
        let pid = read_pid(file).trim().parse().ok().and_then(Pid::from_raw)?;
        Living::find(pid).filter(|holder| holder.has_open(&lock))
    }

    /// Whether somebody runs or starts the instance.
    pub(super) fn is_held(&self) -> bool {
        matches!(self.try_lock(), Ok(Try::Held(_)))
    }

    fn takes_nobody(&self) -> Error {
        let title = self.title.as_str();
        let text = match self.holder() {
            Some(holder) => format!(
                "the master of {title} (pid {}) takes no connections; it is stopped, or stuck. \
                 `stop` ends it all the same",
                holder.pid().as_raw_pid()
            ),
            None => format!(
                "the master of {title} takes no connections; it is stopped, or stuck, and in another \
                 container (pid namespace); give `stop` there"
            ),
        };
        Error::new(ErrorKind::Timeout, text)
    }

    /// Removes what a killed master left behind, unless somebody has taken it over.
    pub(super) fn sweep(&self) {
        if self.path[2].exists()
            && let Ok(lock) = self.lock()
        {
            lock.remove();
        }
    }

    fn socket_failed(&self, error: &io::Error) -> Error {
        let path = self.file("control");
        if error.kind() == io::ErrorKind::InvalidInput {
            return Error::config(format!(
                "the path of the control socket is too long for a socket: {}; give a shorter \
                 --title, or a shorter XDG_RUNTIME_DIR",
                path.display()
            ));
        }
        Error::io(format_args!("the control socket {} can't be used", path.display()), error)
    }
}

/// Connects to a socket, or says [`io::ErrorKind::WouldBlock`] where its backlog is full: nothing is
/// waited for.
fn connect_now(path: &Path) -> io::Result<UnixStream> {
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
    rustix::io::fcntl_setfd(&socket, FdFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&socket, true)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::io::ioctl_fionbio(&socket, false)?;
    Ok(socket.into())
}

/// The pid in a lock. Without it an error is still true.
fn read_pid(lock: File) -> String {
    let mut pid = String::new();
    let _ = lock.take(32).read_to_string(&mut pid);
    pid
}

/// How long a master is tried for that takes no connections.
const CONNECT_PATIENCE: Duration = Duration::from_secs(2);

/// How long a lock is tried for.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);

/// What came of a try to lock.
enum Try {
    Locked(Lock),
    /// The lock was removed meanwhile.
    Gone,
    /// Another process has it. The file has its pid.
    Held(File),
}

/// The right to start and run an instance. It ends with this process at the latest.
#[derive(Debug)]
pub(super) struct Lock {
    instance: Instance,
    _file: File,
}

impl Lock {
    /// Binds the control socket, in place of what a killed master left there.
    pub(super) fn bind(self) -> Result<(Claim, UnixListener)> {
        let path = self.instance.file("control");
        let bind = || {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let listener = UnixListener::bind(&path)?;
            // The directory is closed to others all along.
            fs::set_permissions(&path, Permissions::from_mode(0o600))?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        let bound = bind().map_err(|error| self.instance.socket_failed(&error));
        let claim = Claim(Some(self));
        Ok((claim, bound?))
    }

    /// Removes the instance's directory, and those above it if they are empty.
    fn remove(self) {
        let Instance { path: [base, all, own], .. } = &self.instance;
        // The lock last, and by its name: whoever makes another one from then on keeps it, since the
        // directory is not empty. What is missing need not be removed; what is not empty has other
        // instances or tokens.
        let _ = fs::remove_file(own.join("control"));
        let _ = fs::remove_file(own.join("lock"));
        let _ = fs::remove_dir(own);
        let _ = fs::remove_dir(all);
        let _ = fs::remove_dir(base);
    }
}

/// A running instance, which is removed when this is dropped.
#[derive(Debug)]
pub(super) struct Claim(Option<Lock>);

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(lock) = self.0.take() {
            lock.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(base: &Path, title: &str) -> Instance {
        Instance::below(base.join("cluster-client"), title.parse().unwrap())
    }

    #[test]
    fn titles_are_names_of_files_and_nothing_else() {
        for good in ["a", "registry-2", "my_app.v1", &"x".repeat(64)] {
            assert_eq!(good.parse::<Title>().unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", ".hidden", "a/b", "a b", "ä", "a\0", &"x".repeat(65)] {
            assert!(bad.parse::<Title>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn one_at_a_time_and_nothing_stays() {
        let base = tempfile::tempdir().unwrap();
        let (one, other) = (instance(base.path(), "app"), instance(base.path(), "app-2"));
        let (claim, _listener) = one.lock().unwrap().bind().unwrap();
        let error = one.lock().unwrap_err();
        let expected = format!("app runs already (pid {})", std::process::id());
        assert!(error.to_string().contains(&expected), "{error}");
        let lock = other.lock().unwrap();
        assert!(one.connect().unwrap().is_some());
        assert!(other.connect().unwrap().is_none());
        drop(claim);
        assert!(one.connect().unwrap().is_none());
        drop(lock);
        other.sweep();
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_a_killed_master_left_is_taken_over() {
        let base = tempfile::tempdir().unwrap();
        let instance = instance(base.path(), "app");
        let (claim, listener) = instance.lock().unwrap().bind().unwrap();
        // As a SIGKILL does: the files stay, and nobody holds them.
        let Claim(lock) = &mut { claim };
        drop((lock.take(), listener));
        assert!(instance.connect().unwrap().is_none());
        let (_claim, _listener) = instance.lock().unwrap().bind().unwrap();
        assert!(instance.connect().unwrap().is_some());
    }

    #[test]
    fn a_master_whose_backlog_is_full_is_not_waited_for_without_end() {
        let base = tempfile::tempdir().unwrap();
        let instance = instance(base.path(), "app");
        let (claim, listener) = instance.lock().unwrap().bind().unwrap();
        // Those who hang up stay in the backlog until they are accepted.
        while connect_now(&instance.file("control")).is_ok() {}
        let error = instance.connect().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        let expected = format!("the master of app (pid {}) takes no", std::process::id());
        assert!(error.to_string().contains(&expected), "{error}");
        // The number that a master in another container has there is somebody else's here.
        let mut other = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        fs::write(instance.file("lock"), other.id().to_string()).unwrap();
        assert!(instance.holder().is_none());
        let error = instance.connect().unwrap_err();
        assert!(error.to_string().contains("another container"), "{error}");
        other.kill().unwrap();
        other.wait().unwrap();
        // With the first one that is accepted there is room.
        listener.accept().unwrap();
        assert!(instance.connect().unwrap().is_some());
        drop(claim);
        assert!(instance.connect().unwrap().is_none());
    }

    #[test]
    fn a_path_that_is_too_long_for_a_socket_is_told_of_with_the_way_out() {
        let base = tempfile::tempdir().unwrap();
        let deep = base.path().join("x".repeat(60));
        fs::create_dir(&deep).unwrap();
        let instance = instance(&deep, &"t".repeat(64));
        let error = instance.lock().unwrap().bind().unwrap_err();
        assert!(error.to_string().contains("give a shorter --title"), "{error}");
        // What was begun is gone.
        assert_eq!(fs::read_dir(&deep).unwrap().count(), 0);
        assert!(instance.connect().unwrap().is_none());
    }

    #[test]
    fn a_directory_that_can_not_be_looked_at_is_no_sign_that_nothing_runs() {
        let base = tempfile::tempdir().unwrap();
        let file = base.path().join("file");
        fs::write(&file, "").unwrap();
        let error = instance(&file, "app").connect().unwrap_err();
        assert!(error.to_string().contains("file/cluster-client"), "{error}");
    }

    #[test]
    fn a_directory_that_is_open_to_others_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let instance = instance(base.path(), "app");
        drop(instance.lock().unwrap());
        let open = Permissions::from_mode(0o755);
        fs::set_permissions(&instance.path[2], open).unwrap();
        assert_eq!(instance.lock().unwrap_err().kind(), ErrorKind::Config);
        assert_eq!(instance.connect().unwrap_err().kind(), ErrorKind::Config);
    }
}
