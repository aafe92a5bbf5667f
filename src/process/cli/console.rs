//! The master's side of the command line: answers on the control socket, tells the service manager
//! and whoever started this in the background how the cluster is.
//!
//! It runs as an observer does, beside the master on a thread of its own, and speaks to the master
//! through its [`MasterHandle`] alone.

use std::{
    collections::BTreeSet,
    io,
    os::unix::net::UnixListener as StdUnixListener,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Serialize;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    time::{interval, sleep, timeout},
};

use super::{
    daemon::{Launcher, Teller},
    status::Report,
    systemd::Manager,
    wire::{Answer, Ask, LogPaths, MAX_REQUEST, Reply, Request, Stopping, VERSION, WORKING, line},
};
use crate::{
    error::Result,
    process::{
        MasterEvent, MasterHandle,
        name::ProcessName,
        words::{counted, lasting},
    },
};

/// Most connections that are served at once; others wait.
const CONNECTIONS: usize = 16;

/// How long a client may take to send its request, or to take what is sent to it.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the console knows of its instance.
#[derive(Debug)]
pub(super) struct About {
    pub(super) title: String,
    pub(super) workers: u32,
    pub(super) logs: Option<LogPaths>,
    /// How long the master's own stop takes at most.
    pub(super) stop_limit: Duration,
    /// How long the start may take.
    pub(super) start_limit: Option<Duration>,
}

/// Runs the console until the cluster has ended.
pub(super) async fn run(
    master: MasterHandle,
    listener: StdUnixListener,
    launcher: Option<Launcher>,
    about: About,
) {
    let Ok(listener) = UnixListener::from_std(listener) else {
        return master.fail("can't listen on the control socket");
    };
    let about = Arc::new(about);
    tokio::spawn(accept(listener, master.clone(), Arc::clone(&about)));
    match launcher.map(Launcher::listen).transpose() {
        Ok(launcher) => watch(master, launcher, &about).await,
        Err(error) => master.fail(format!("can't listen to the launcher: {error}")),
    }
}

/// Follows what happens to the cluster, and tells those who wait for it.
async fn watch(mut master: MasterHandle, mut launcher: Option<Teller>, about: &About) {
    let begin = Instant::now();
    let manager = Manager::from_environment();
    let mut ready = BTreeSet::new();
    let mut start_limit = about.start_limit;
    let watchdog = master.clone();
    let watchdog = manager.watch_over(&watchdog);
    tokio::pin!(watchdog);
    loop {
        let left = start_limit.map(|limit| limit.saturating_sub(begin.elapsed()));
        let event = tokio::select! {
            event = master.next_event() => event,
            () = sleep_for(left) => {
                start_limit = None;
                let limit = about.start_limit.unwrap_or_default();
                master.fail(format!("the cluster was not ready within {}", lasting(limit)));
                continue;
            }
            () = abandoned(&mut launcher) => {
                launcher = None;
                master.fail("whoever started the cluster is gone, and it is not ready yet");
                continue;
            }
            never = &mut watchdog => match never {},
        };
        let Some(event) = event else { return };
        manager.tell(&event);
        note(&event);
        match event {
            MasterEvent::Ready { process, .. } => {
                ready.insert(process);
                if let Some(launcher) = &mut launcher {
                    launcher.progress(&progress(&ready, about.workers)).await;
                }
            }
            MasterEvent::ClusterReady { port } => {
                start_limit = None;
                if let Some(launcher) = launcher.take() {
                    launcher.ready(port).await;
                }
            }
            _ => {}
        }
    }
}

/// Says what went wrong where it will be seen, if the program has no log of its own to say it in.
fn note(event: &MasterEvent) {
    if tracing::dispatcher::has_been_set() {
        return;
    }
    match event {
        MasterEvent::Died(death) => eprintln!("{}", death.with_outlook()),
        MasterEvent::Unresponsive { process, pid, how, .. } => {
            eprintln!("{process} (pid {pid}) is {how}");
        }
        MasterEvent::Panicked { process, pid, count, message } => {
            eprintln!("{process} (pid {pid}) panicked ({count} so far): {message}");
        }
        _ => {}
    }
}

fn progress(ready: &BTreeSet<ProcessName>, workers: u32) -> String {
    let count = ready.iter().filter(|process| matches!(process, ProcessName::Worker(_))).count();
    format!("agent ready, {count} of {} ready", counted(workers, "worker"))
}

async fn sleep_for(left: Option<Duration>) {
    match left {
        Some(left) => sleep(left).await,
        None => std::future::pending().await,
    }
}

/// Resolves when whoever waits for the start is gone. Nobody would know that it was started.
async fn abandoned(launcher: &mut Option<Teller>) {
    match launcher {
        Some(launcher) => launcher.gone().await,
        None => std::future::pending().await,
    }
}

async fn accept(listener: UnixListener, master: MasterHandle, about: Arc<About>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "can't accept on the control socket");
                // Too many open files, say; it may pass.
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (master, about) = (master.clone(), Arc::clone(&about));
        tokio::spawn(async move {
            if let Err(error) = serve(stream, master, &about).await {
                tracing::debug!(%error, "a client of the control socket is lost");
            }
            drop(place);
        });
    }
}

/// Takes one request and answers it.
async fn serve(mut stream: UnixStream, master: MasterHandle, about: &About) -> io::Result<()> {
    let uid = stream.peer_cred()?.uid();
    if uid != rustix::process::geteuid().as_raw() && uid != 0 {
        let error = format!("user {uid} may not control this instance");
        return reply(&mut stream, Answer::Failed { error }).await;
    }
    let (reads, mut writes) = stream.split();
    let ask = match timeout(PATIENCE, request(reads)).await {
        Ok(ask) => ask?,
        Err(_) => Err("the request took too long".to_owned()),
    };
    let answer = async {
        match ask {
            Ok(ask) => answer(ask, master, about).await,
            Err(error) => Answer::Failed { error },
        }
    };
    tokio::pin!(answer);
    let mut working = interval(WORKING);
    working.reset();
    let answer = loop {
        tokio::select! {
            answer = &mut answer => break answer,
            _ = working.tick() => reply(&mut writes, Answer::Working).await?,
        }
    };
    reply(&mut writes, answer).await
}

/// Reads a request. The inner error is for the client.
async fn request(
    stream: impl tokio::io::AsyncRead + Unpin,
) -> io::Result<std::result::Result<Ask, String>> {
    let mut text = Vec::new();
    let mut reader = BufReader::new(stream.take(MAX_REQUEST));
    reader.read_until(b'\n', &mut text).await?;
    if !text.ends_with(b"\n") {
        return Ok(Err(format!("a request is a line of at most {MAX_REQUEST} bytes")));
    }
    // The version first: what a newer program asks may have another form.
    let version = serde_json::from_slice::<Value>(&text);
    let version = version.ok().and_then(|value| value.get("version")?.as_u64());
    if version.is_some_and(|version| version != u64::from(VERSION)) {
        return Ok(Err(format!(
            "the program speaks version {} of the control socket, the running master version \
             {VERSION}; restart the master",
            version.unwrap_or_default()
        )));
    }
    let request = serde_json::from_slice::<Request>(&text);
    Ok(request.map(|request| request.ask).map_err(|error| format!("no such request: {error}")))
}

async fn reply(
    stream: &mut (impl tokio::io::AsyncWrite + Unpin),
    answer: Answer,
) -> io::Result<()> {
    let line = line(&Reply { version: VERSION, answer });
    timeout(PATIENCE, stream.write_all(&line)).await?
}

async fn answer(ask: Ask, master: MasterHandle, about: &About) -> Answer {
    match ask {
        Ask::Status => match report(&master, about).await {
            Ok(report) => done(&report),
            Err(error) => Answer::Failed { error: error.to_string() },
        },
        Ask::Stop => {
            tracing::info!("asked to stop over the control socket");
            master.stop();
            let limit_ms = u64::try_from(about.stop_limit.as_millis()).unwrap_or(u64::MAX);
            done(&Stopping { limit_ms })
        }
        Ask::Reload => outcome(master.reload().await),
        Ask::Scale { workers } => outcome(master.scale(workers).await),
        #[cfg(feature = "schedule")]
        Ask::RunJob { name } => match master.run_job(name).await {
            Ok(outcome) if outcome.is_success() => done(&()),
            Ok(outcome) => Answer::Failed { error: format!("it {outcome}") },
            Err(error) => Answer::Failed { error: error.to_string() },
        },
        Ask::Logs => done(&about.logs),
    }
}

async fn report(master: &MasterHandle, about: &About) -> Result<Report> {
    Ok(Report {
        title: about.title.clone(),
        running: true,
        logs: about.logs.clone(),
        status: master.status().await?,
    })
}

fn outcome(outcome: Result<()>) -> Answer {
    match outcome {
        Ok(()) => done(&()),
        Err(error) => Answer::Failed { error: error.message().to_owned() },
    }
}

fn done(value: &impl Serialize) -> Answer {
    match serde_json::to_value(value) {
        Ok(value) => Answer::Done { value },
        Err(error) => Answer::Failed { error: error.to_string() },
    }
}
