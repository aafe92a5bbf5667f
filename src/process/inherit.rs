//! Which process am I: the first question that every process of a cluster answers.
//!
//! The same program runs as master, agent and worker. A child of a master is told apart by three
//! things that must agree: the pid in the environment, the pid of its parent, and the pid that the
//! kernel wrote into the socket that is its fd 0. A variable that leaked into a shell, or a process
//! that a worker started, has at most one of them, and is a master of its own.
//!
//! [`identify`] also takes the inheritance out of reach: the link moves to a close-on-exec
//! descriptor, fd 0 becomes `/dev/null`, and the kernel is asked to tell when the master dies.

use std::{
    env,
    fs::File,
    io::stdin,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::{
    net::AddressFamily,
    process::{Pid, getppid},
};

use super::control::{Inbox, LinkError, VERSION, read_blocking};
use crate::{
    error::{Error, ErrorKind, Result},
    protocol::pb::{Welcome, control::Body},
};

/// Names the master's pid to its children. It is not a secret and proves nothing alone.
pub(super) const MASTER_VARIABLE: &str = "CLUSTER_CLIENT_MASTER";

/// Names the pid of a process that starts a master in the background. It proves as little.
pub(super) const LAUNCHER_VARIABLE: &str = "CLUSTER_CLIENT_LAUNCHER";

/// What a process finds out about itself.
pub(super) enum Identity {
    /// Nobody's child: it is the master.
    Master,
    /// A child of a living master.
    Child(Box<Inheritance>),
    /// A child whose master is gone already, or is not its parent.
    Orphan,
}

/// What a child got from its master. Not `Debug`, since the welcome has the token.
pub(super) struct Inheritance {
    pub(super) link: UnixStream,
    pub(super) inbox: Inbox,
    pub(super) welcome: Welcome,
}

/// Finds out which process this is, and takes what it inherited.
///
/// # Errors
///
/// A second call in one child, a master of another version, or a link that fails.
pub(super) fn identify() -> Result<Identity> {
    static TAKEN: AtomicBool = AtomicBool::new(false);

    let Some(master) = announced_master() else { return Ok(Identity::Master) };
    if TAKEN.load(Ordering::Acquire) {
        return Err(Error::config(
            "this process is an agent or worker already; call `main` or `run` only once",
        ));
    }
    if !stdin_is_link_of(master) {
        return Ok(Identity::Master);
    }
    if getppid() != Some(master) {
        return Ok(Identity::Orphan);
    }
    TAKEN.store(true, Ordering::Release);
    let link = take_stdin().map_err(|error| Error::io("can't take the control link", &error))?;
    watch_parent()?;
    // The signal is sent when the parent dies; a parent that died before it was asked for leaves
    // only this trace.
    if getppid() != Some(master) {
        return Ok(Identity::Orphan);
    }
    name_main_thread();
    be_welcomed(link)
}

fn announced_master() -> Option<Pid> {
    announced(MASTER_VARIABLE)
}

/// The link to the process that starts this one in the background as a master, where there is one.
///
/// # Errors
///
/// That process is gone already, so that nobody would hear of the start; or the link can't be taken.
#[cfg(feature = "cli")]
pub(super) fn take_launcher() -> Result<Option<UnixStream>> {
    let Some(launcher) = announced(LAUNCHER_VARIABLE) else { return Ok(None) };
    if !stdin_is_link_of(launcher) {
        return Ok(None);
    }
    if getppid() != Some(launcher) {
        return Err(Error::new(
            ErrorKind::Process,
            "the process that started this one in the background is gone",
        ));
    }
    let link = take_stdin();
    link.map(Some).map_err(|error| Error::io("can't take the launcher's link", &error))
}

fn announced(variable: &str) -> Option<Pid> {
    env::var(variable).ok()?.parse().ok().and_then(Pid::from_raw)
}

/// Whether fd 0 is the link of a child of the process `master`.
fn stdin_is_link_of(master: Pid) -> bool {
    is_link_of(stdin().as_fd(), master)
}

/// Whether this is a unix socket that the process `master` made.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn is_link_of(fd: BorrowedFd<'_>, master: Pid) -> bool {
    // Only a connected unix socket has a peer with a pid.
    rustix::net::getsockname(fd).is_ok_and(|name| name.address_family() == AddressFamily::UNIX)
        && rustix::net::getpeername(fd).is_ok_and(|name| name.is_some())
        && rustix::net::sockopt::socket_peercred(fd).is_ok_and(|peer| peer.pid == master)
}

/// Whether this is a unix socket. Its maker's pid can't be had in safe code on this platform, so the
/// parent's pid has to do.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn is_link_of(fd: BorrowedFd<'_>, master: Pid) -> bool {
    rustix::net::getsockname(fd).is_ok_and(|name| name.address_family() == AddressFamily::UNIX)
        && getppid() == Some(master)
}

/// Moves the link to a descriptor of its own and leaves `/dev/null` as fd 0, so that what this
/// process starts neither holds the link open nor reads from it.
fn take_stdin() -> std::io::Result<UnixStream> {
    let link = stdin().as_fd().try_clone_to_owned()?;
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    Ok(UnixStream::from(link))
}

/// Asks the kernel to wake this process when the master dies.
///
/// The signal is SIGCONT, for the one case that the end of the link can't reach: a stopped process.
/// SIGCONT wakes it whatever its handlers and masks, it then sees the end of the link, kills what
/// is left of its process group, and exits. A SIGKILL would leave its own children behind.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn watch_parent() -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::CONT))
        .map_err(|error| Error::io("can't watch the master", &error.into()))
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn watch_parent() -> Result<()> {
    Ok(())
}

/// Gives the process the name that its program has. Started through a descriptor, it would be a
/// number in the system's lists, or `exe`.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn name_main_thread() {
    let is_main_thread = rustix::thread::gettid() == rustix::process::getpid();
    let is_number = |name: &[u8]| name.iter().all(u8::is_ascii_digit);
    let has_no_name = || {
        std::fs::read("/proc/self/comm")
            .is_ok_and(|name| name == b"exe\n" || name.strip_suffix(b"\n").is_some_and(is_number))
    };
    if !is_main_thread || !has_no_name() {
        return;
    }
    let program = env::args_os().next().map(PathBuf::from);
    let name = program.as_ref().and_then(|path| path.file_name()?.to_str());
    if let Some(name) = name.and_then(|name| std::ffi::CString::new(name).ok()) {
        // A process without its name works as well.
        let _ = rustix::thread::set_name(&name);
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn name_main_thread() {}

fn be_welcomed(link: UnixStream) -> Result<Identity> {
    let mut inbox = Inbox::default();
    let welcome = match read_blocking(&link, &mut inbox) {
        Ok(Body::Welcome(welcome)) => welcome,
        Ok(_) => {
            return Err(Error::protocol(
                "the master's first word on the control link is no welcome",
            ));
        }
        Err(LinkError::Gone) => return Ok(Identity::Orphan),
        Err(error) => {
            return Err(Error::new(ErrorKind::Process, format!("the control link: {error}")));
        }
    };
    if welcome.version != VERSION {
        return Err(Error::new(
            ErrorKind::VersionMismatch,
            format!(
                "the master speaks version {} of the control link, this program version {VERSION}; \
                 restart the master",
                welcome.version
            ),
        ));
    }
    Ok(Identity::Child(Box::new(Inheritance { link, inbox, welcome })))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn without_a_link_on_fd_0_nobody_is_a_child() {
        // The harness's stdin is no socket of this process's parent.
        let parent = getppid().unwrap();
        assert!(!stdin_is_link_of(parent));
    }

    #[test]
    fn a_link_tells_who_made_it_even_after_that_process_let_go() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let me = rustix::process::getpid();
        assert!(is_link_of(ours.as_fd(), me));
        assert!(!is_link_of(ours.as_fd(), getppid().unwrap()));
        drop(theirs);
        assert!(is_link_of(ours.as_fd(), me));
    }

    #[test]
    fn no_other_descriptor_is_a_link() {
        let me = rustix::process::getpid();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(!is_link_of(listener.as_fd(), me));
        assert!(!is_link_of(File::open("/dev/null").unwrap().as_fd(), me));
        let unconnected = std::os::unix::net::UnixDatagram::unbound().unwrap();
        assert!(!is_link_of(unconnected.as_fd(), me));
    }
}
