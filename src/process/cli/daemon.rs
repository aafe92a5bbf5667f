//! A start in the background: the process that starts it waits for the cluster, then leaves it.
//!
//! ```text
//!   start --daemon ── spawns itself ──► the same program with the same arguments: the master
//!         │                                 │ setsid, and then as in the foreground
//!         │ ◄──── progress, ready, failed ──┤ over the socket pair that is its fd 0
//!         ▼                                 ▼
//!   exit 0, or what it died of           lives on
//! ```
//! The master finds its launcher as a child finds its master, see [`inherit`]: by a variable, the
//! parent's pid and the socket's peer, which must agree. Whichever of the two ends too early, the
//! other notices at once, since the socket ends with it.
//!
//! [`inherit`]: crate::process::inherit

use std::{
    io::{self, IsTerminal as _, Write as _},
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream as StdUnixStream, process::CommandExt as _},
    },
    process::{self, Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, WaitOptions, waitpid};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    runtime,
    signal::unix::{SignalKind, signal},
    time::{sleep, sleep_until, timeout},
};

use super::{living::Living, wire::line};
use crate::{
    error::{Error, Result},
    process::{
        inherit::{LAUNCHER_VARIABLE, take_launcher},
        name::Exit,
        words::lasting,
    },
};

/// What a master that is being started tells.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum News {
    Progress(String),
    Ready { port: u16 },
    Failed(String),
}

/// Why a start is over whose master ended in good order.
const STOPPED: &str =
    "it was stopped before the cluster was ready, by `stop`, a signal or its own program";

/// Longest piece of news.
const MAX_NEWS: u64 = 64 * 1024;

/// How long a launcher may take to hear the news.
const PATIENCE: Duration = Duration::from_secs(5);

/// The master's end of the link to the process that started it in the background.
#[derive(Debug)]
pub(super) struct Launcher(StdUnixStream);

impl Launcher {
    /// The launcher of this process, where it has one; the process leaves its session then.
    ///
    /// # Errors
    ///
    /// The launcher is gone already, or the session can't be left.
    pub(super) fn take() -> Result<Option<Self>> {
        let Some(link) = take_launcher()? else { return Ok(None) };
        // Without it, the terminal of the launcher would end this process with itself.
        rustix::process::setsid()
            .map_err(|error| Error::io("can't leave the session", &error.into()))?;
        Ok(Some(Self(link)))
    }

    /// A second one, for what is to be told after the first is given away.
    pub(super) fn try_clone(&self) -> Result<Self> {
        let clone = self.0.try_clone();
        clone.map(Self).map_err(|error| Error::io("can't duplicate the launcher's link", &error))
    }

    /// Tells that the start failed. What the launcher can't hear, it will see from the exit code.
    pub(super) fn failed(&self, error: &Error) {
        let _ = self.0.set_nonblocking(false);
        let _ = self.0.set_write_timeout(Some(PATIENCE));
        let _ = (&self.0).write_all(&line(&News::Failed(error.to_string())));
    }

    /// To be used on the runtime that is current.
    pub(super) fn listen(self) -> io::Result<Teller> {
        self.0.set_nonblocking(true)?;
        let (reads, writes) = UnixStream::from_std(self.0)?.into_split();
        Ok(Teller { reads, writes })
    }
}

/// A [`Launcher`] on a runtime.
#[derive(Debug)]
pub(super) struct Teller {
    reads: OwnedReadHalf,
    writes: OwnedWriteHalf,
}

impl Teller {
    /// Tells how far the start is.
    pub(super) async fn progress(&mut self, text: &str) {
        self.tell(News::Progress(text.to_owned())).await;
    }

    /// Tells that the cluster is ready, which is the last that the launcher hears.
    pub(super) async fn ready(mut self, port: u16) {
        self.tell(News::Ready { port }).await;
    }

    async fn tell(&mut self, news: News) {
        // One that is gone is noticed by `gone`.
        let _ = timeout(PATIENCE, self.writes.write_all(&line(&news))).await;
    }

    /// Resolves when the launcher is gone. It says nothing itself.
    pub(super) async fn gone(&mut self) {
        let mut byte = [0];
        while matches!(self.reads.read(&mut byte).await, Ok(1..)) {}
    }
}

/// A start in the background, as the launcher sees it.
pub(super) struct Start {
    pub(super) title: String,
    /// Stdout and stderr of the master until it has its log files open.
    pub(super) outputs: [std::fs::File; 2],
    /// How long it may take.
    pub(super) limit: Duration,
    /// How long the master's own stop takes at most.
    pub(super) stop_limit: Duration,
}

/// How a start in the background ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It is ready, with this pid.
    Ready { pid: u32, port: u16, after: Duration },
    /// It is gone, for this reason.
    Failed { exit: Exit, reason: String },
}

impl Start {
    /// Starts the master and waits for what becomes of it.
    ///
    /// # Errors
    ///
    /// It could not be started at all.
    pub(super) fn run(self) -> Result<Outcome> {
        let failed = |error: io::Error| Error::io("can't start in the background", &error);
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(failed)?;
        // What the master leaves behind where it is killed comes to this process.
        let orphans = Orphans::adopt();
        runtime.block_on(self.watch(&orphans)).map_err(failed)
    }

    fn spawn(&self, link: StdUnixStream) -> io::Result<Child> {
        let mut arguments = std::env::args_os();
        let mut command = Command::new(std::env::current_exe()?);
        if let Some(name) = arguments.next() {
            command.arg0(name);
        }
        let [stdout, stderr] = &self.outputs;
        command
            .args(arguments)
            .env(LAUNCHER_VARIABLE, process::id().to_string())
            .stdin(OwnedFd::from(link))
            .stdout(Stdio::from(stdout.try_clone()?))
            .stderr(Stdio::from(stderr.try_clone()?))
            .spawn()
    }

    /// Starts the master, and waits on it and on what it says together, so that neither is noticed
    /// late.
    async fn watch(&self, orphans: &Orphans) -> io::Result<Outcome> {
        let begin = Instant::now();
        // Before there is anybody who may die, or whom an interrupt must not leave behind.
        let mut deaths = signal(SignalKind::child())?;
        let mut interrupts = Interrupts::new()?;
        let (link, theirs) = StdUnixStream::pair()?;
        let mut child = self.spawn(theirs)?;
        link.set_nonblocking(true)?;
        let (reads, _writes) = UnixStream::from_std(link)?.into_split();
        let mut news = BufReader::new(reads);
        let deadline = tokio::time::Instant::now() + self.limit;
        let mut progress = Progress::new(&self.title);
        let mut text = Vec::new();
        let mut told = true;
        loop {
            let heard = tokio::select! {
                heard = next(&mut news, &mut text), if told => heard,
                _ = deaths.recv() => {
                    let Some(status) = child.try_wait()? else { continue };
                    let reason = last_words(&mut news, &mut text).await;
                    orphans.end().await;
                    return Ok(self.died(status.into(), reason));
                }
                () = sleep_until(deadline) => {
                    let reason = format!("it was not ready within {}", lasting(self.limit));
                    return self.give_up(child, orphans, Exit::Failed, reason).await;
                }
                number = interrupts.recv() => {
                    let exit = Exit::Signal(number);
                    return self.give_up(child, orphans, exit, format!("the start got {exit}")).await;
                }
                () = progress.tick(), if progress.is_shown => continue,
            };
            match heard {
                Some(News::Progress(text)) => progress.now(text),
                Some(News::Ready { port }) => {
                    let after = begin.elapsed();
                    return Ok(Outcome::Ready { pid: child.id(), port, after });
                }
                Some(News::Failed(reason)) => {
                    let exit = self.wait_for_exit(&mut child, &mut deaths).await?;
                    orphans.end().await;
                    return Ok(Outcome::Failed { exit, reason });
                }
                // It is about to be gone.
                None => told = false,
            }
        }
    }

    fn died(&self, exit: Exit, reason: Option<String>) -> Outcome {
        let reason = reason.unwrap_or_else(|| match exit {
            Exit::Clean => STOPPED.to_owned(),
            Exit::Signal(number) => format!("its master was killed by signal {number}"),
            _ => format!("its master ended with {exit} before the cluster was ready"),
        });
        // To end in good order before being ready is no success.
        let exit = if exit == Exit::Clean { Exit::Failed } else { exit };
        Outcome::Failed { exit, reason }
    }

    /// Waits for the end of a master that ends by itself.
    async fn wait_for_exit(
        &self,
        child: &mut Child,
        deaths: &mut tokio::signal::unix::Signal,
    ) -> io::Result<Exit> {
        let gone = async {
            loop {
                if let Some(status) = child.try_wait()? {
                    return io::Result::Ok(Exit::from(status));
                }
                deaths.recv().await;
            }
        };
        let exit = match timeout(self.stop_limit, gone).await {
            Ok(exit) => exit?,
            Err(_) => {
                child.kill()?;
                child.wait()?;
                Exit::Failed
            }
        };
        Ok(if exit == Exit::Clean { Exit::Failed } else { exit })
    }

    /// Stops a master that takes too long, and waits until nothing of it is left.
    async fn give_up(
        &self,
        mut child: Child,
        orphans: &Orphans,
        exit: Exit,
        reason: String,
    ) -> io::Result<Outcome> {
        signal_child(&child, Signal::TERM);
        signal_child(&child, Signal::CONT);
        let mut deaths = signal(SignalKind::child())?;
        self.wait_for_exit(&mut child, &mut deaths).await?;
        orphans.end().await;
        Ok(Outcome::Failed { exit, reason })
    }
}

fn signal_child(child: &Child, signal: Signal) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // It is not reaped yet, so the number is its own.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// The next piece of news; `None` after the last.
async fn next(news: &mut BufReader<OwnedReadHalf>, text: &mut Vec<u8>) -> Option<News> {
    // What was read of a line stays in `text` where this is dropped.
    let left = MAX_NEWS.saturating_sub(text.len() as u64);
    match news.take(left).read_until(b'\n', text).await {
        Ok(1..) if text.ends_with(b"\n") => {
            let news = serde_json::from_slice(text);
            text.clear();
            news.ok()
        }
        _ => None,
    }
}

/// Why a master that is gone says that it failed, if it does.
async fn last_words(news: &mut BufReader<OwnedReadHalf>, text: &mut Vec<u8>) -> Option<String> {
    let read = async {
        loop {
            match next(news, text).await? {
                News::Failed(reason) => return Some(reason),
                News::Progress(_) | News::Ready { .. } => {}
            }
        }
    };
    // All of it is there already, unless somebody else holds the link open.
    timeout(Duration::from_millis(200), read).await.ok().flatten()
}

/// The signals that break off a start.
struct Interrupts([tokio::signal::unix::Signal; 4]);

impl Interrupts {
    fn new() -> io::Result<Self> {
        Ok(Self([
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
            signal(SignalKind::quit())?,
        ]))
    }

    async fn recv(&mut self) -> i32 {
        let [interrupt, terminate, hangup, quit] = &mut self.0;
        let kind = tokio::select! {
            _ = interrupt.recv() => SignalKind::interrupt(),
            _ = terminate.recv() => SignalKind::terminate(),
            _ = hangup.recv() => SignalKind::hangup(),
            _ = quit.recv() => SignalKind::quit(),
        };
        kind.as_raw_value()
    }
}

/// A line on a terminal that says how far the start is.
struct Progress<'a> {
    title: &'a str,
    is_shown: bool,
    begin: Instant,
    text: String,
}

impl<'a> Progress<'a> {
    fn new(title: &'a str) -> Self {
        let is_shown = io::stderr().is_terminal();
        Self { title, is_shown, begin: Instant::now(), text: "starting the agent".to_owned() }
    }

    fn now(&mut self, text: String) {
        self.text = text;
        self.show();
    }

    async fn tick(&mut self) {
        sleep(Duration::from_secs(1)).await;
        self.show();
    }

    fn show(&self) {
        if self.is_shown {
            let seconds = self.begin.elapsed().as_secs();
            eprint!("\r\x1b[Kstarting {}: {}, {seconds} s", self.title, self.text);
        }
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        if self.is_shown {
            eprint!("\r\x1b[K");
        }
    }
}

/// Those whose parent is the master until it is gone, and then this process. Only Linux has such
/// foster parents; elsewhere who lost its master ends unseen.
struct Orphans {
    /// What this process started before, and is no matter of the start.
    others: Vec<Pid>,
}

impl Orphans {
    fn adopt() -> Self {
        // Where it can't be had, orphans end by themselves all the same.
        #[cfg(any(target_os = "linux", target_os = "android"))]
        let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
        Self { others: own_children().iter().map(Living::pid).collect() }
    }

    /// Waits until all are gone: without their master they end by themselves, and who does not is
    /// killed.
    async fn end(&self) {
        let begin = Instant::now();
        while begin.elapsed() < 2 * ORPHANS {
            let mut left = own_children();
            left.retain(|child| !self.others.contains(&child.pid()));
            if left.is_empty() {
                return;
            }
            for child in left {
                if begin.elapsed() > ORPHANS {
                    child.kill_group();
                }
                // Not gone yet, or not a child any more: the next look will tell.
                let _ = waitpid(Some(child.pid()), WaitOptions::NOHANG);
            }
            sleep(Duration::from_millis(5)).await;
        }
    }
}

/// How long those whose master is gone may take to end by themselves.
const ORPHANS: Duration = Duration::from_secs(3);

fn own_children() -> Vec<Living> {
    Living::find(rustix::process::getpid()).map(|own| own.children()).unwrap_or_default()
}
