//! Processes of their own: this test binary, run again, and told what to do by lines on its stdin.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use cluster_client::{Change, Cluster, Role};
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::mpsc;

use crate::{
    backend::Backend,
    client::{Registration, packed::Registry},
    support::{PATIENCE, TOKEN, calm, next, show, soon, until},
};

/// Tells the binary that it is an actor: role, port and milliseconds of `drop_after`.
const ENV: &str = "CLUSTER_CLIENT_TEST_ACTOR";

/// A process with a [`Registry`] of its own role.
pub(crate) struct Actor {
    child: Child,
    stdin: ChildStdin,
    replies: mpsc::UnboundedReceiver<String>,
    events: mpsc::UnboundedReceiver<String>,
}

impl Actor {
    pub(crate) async fn lead(port: u16) -> Self {
        Self::ready("lead", port, calm().drop_after).await
    }

    pub(crate) async fn follow(port: u16) -> Self {
        Self::ready("follow", port, calm().drop_after).await
    }

    pub(crate) async fn ready(role: &str, port: u16, drop_after: Duration) -> Self {
        loop {
            let mut actor = Self::spawn(role, port, drop_after);
            match actor.reply().await.as_str() {
                "ready" => return actor,
                // As in `support::lead`.
                reply => assert_eq!(reply, "port_busy"),
            }
        }
    }

    /// Starts it; `ready` is its first reply.
    pub(crate) fn spawn(role: &str, port: u16, drop_after: Duration) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["actor::an_actor_does_what_it_is_told", "--exact", "--nocapture"])
            .env(ENV, format!("{role} {port} {}", drop_after.as_millis()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (reply, replies) = mpsc::unbounded_channel();
        let (event, events) = mpsc::unbounded_channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                // What the test harness prints is neither.
                if let Some(text) = line.strip_prefix("reply ") {
                    let _ = reply.send(text.to_owned());
                } else if let Some(text) = line.strip_prefix("event ") {
                    let _ = event.send(text.to_owned());
                }
            }
        });
        let stdin = child.stdin.take().unwrap();
        Self { child, stdin, replies, events }
    }

    /// Has it do something, and waits for what it says.
    pub(crate) async fn ask(&mut self, command: &str) -> String {
        self.tell(command);
        self.reply().await
    }

    /// Has it do something.
    pub(crate) fn tell(&mut self, command: &str) {
        writeln!(self.stdin, "{command}").unwrap();
    }

    pub(crate) async fn reply(&mut self) -> String {
        soon("a reply of the actor", self.replies.recv()).await.expect("the actor lives")
    }

    /// What it saw next of what it watches.
    pub(crate) async fn event(&mut self) -> String {
        soon("an event of the actor", self.events.recv()).await.expect("the actor lives")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Stops it; none of its threads runs when this returns. A signal alone is not there at once: a
    /// thread that is on another processor may answer one more call.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
        let begin = std::time::Instant::now();
        while !self.is_stopped() {
            assert!(begin.elapsed() < PATIENCE, "it does not stop");
            std::thread::yield_now();
        }
    }

    fn is_stopped(&self) -> bool {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        threads.map(|thread| thread.unwrap().path().join("stat")).all(|stat| {
            // A thread that has just ended has no file any more.
            let stat = std::fs::read_to_string(stat).unwrap_or_default();
            // The state follows the name, which is in parentheses.
            stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('T'))
        })
    }

    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// kill -9.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// The memory that it has in use, in KiB.
    pub(crate) fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// In an actor: all it does. In a test run: a test of this module.
#[test]
fn an_actor_does_what_it_is_told() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    match std::env::var(ENV) {
        Ok(part) => runtime.block_on(act(&part)),
        Err(_) => runtime.block_on(async {
            let mut actor = Actor::lead(0).await;
            assert_eq!(actor.ask("role").await, "Leader");
            assert_eq!(actor.ask("echo hello").await, "hello");
            assert_ne!(actor.pid(), std::process::id());
        }),
    }
}

/// Also ends the line that the test harness has begun.
fn say(kind: &str, text: &str) {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "\n{kind} {text}").unwrap();
    stdout.flush().unwrap();
}

async fn act(part: &str) {
    let words: Vec<&str> = part.split(' ').collect();
    let role = match words[0] {
        "lead" => Role::Leader,
        "compete" => Role::Compete,
        _ => Role::Follower,
    };
    let drop_after = Duration::from_millis(words[2].parse().unwrap());
    let options = cluster_client::Options { drop_after, ..calm() };
    let backend = Backend::new();
    let cluster = Cluster::<Registry>::builder()
        .role(role)
        .port(words[1].parse().unwrap())
        .token(TOKEN)
        .options(options)
        .create(Arc::clone(&backend))
        .await;
    let cluster = match cluster {
        Ok(cluster) => cluster,
        Err(error) => return say("reply", error.kind().name()),
    };
    say("reply", "ready");
    let (line, mut lines) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for command in std::io::stdin().lines().map_while(Result::ok) {
            let _ = line.send(command);
        }
        // Whoever started it is gone.
        std::process::exit(0);
    });
    while let Some(command) = lines.recv().await {
        if let Some(rest) = command.strip_prefix("later ") {
            let (cluster, backend, rest) = (cluster.clone(), Arc::clone(&backend), rest.to_owned());
            tokio::spawn(async move { say("event", &obey(&cluster, &backend, &rest).await) });
        } else {
            say("reply", &obey(&cluster, &backend, &command).await);
        }
    }
}

async fn obey(cluster: &Cluster<Registry>, backend: &Arc<Backend>, command: &str) -> String {
    let done = || "done".to_owned();
    match command.split(' ').collect::<Vec<_>>()[..] {
        ["set", key, value] => {
            backend.set(key, value);
            done()
        }
        // Another number each millisecond, for ever.
        ["count", key] => {
            let (backend, key) = (Arc::clone(backend), key.to_owned());
            tokio::spawn(async move {
                for number in 0_u64.. {
                    backend.set(&key, &number.to_string());
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            });
            done()
        }
        // Large values, each waited for by a subscriber here.
        ["flood", key, count, size] => {
            let mut watch = cluster.watch(key);
            until("opened", || backend.open_streams(key) == 1).await;
            let text = "x".repeat(size.parse().unwrap());
            for number in 0..count.parse::<usize>().unwrap() {
                backend.set(key, &format!("{number}{text}"));
                next(&mut watch).await;
            }
            done()
        }
        // Blocks the runtime.
        ["block", millis] => {
            std::thread::sleep(Duration::from_millis(millis.parse().unwrap()));
            done()
        }
        ["watch", key] => {
            let mut watch = cluster.watch(key);
            tokio::spawn(async move {
                loop {
                    let change = watch.changed().await;
                    say("event", &show(&change));
                    if matches!(change, Change::Closed { .. }) {
                        return;
                    }
                }
            });
            done()
        }
        ["hold", key] => {
            // Subscribed and never read.
            std::mem::forget(cluster.watch(key));
            done()
        }
        // One work item, which is never settled.
        ["take"] => {
            let mut work = cluster.work();
            let item = soon("a work item", work.recv()).await.unwrap();
            let text = item.to_string();
            std::mem::forget((work, item));
            text
        }
        ["publish", key, url] => {
            let published = cluster.publish(Registration::new(key, url)).await;
            published.map_or_else(|error| error.to_string(), |()| done())
        }
        ["echo", text] => match cluster.echo(text.as_bytes().to_vec()).await {
            Ok(bytes) => String::from_utf8(bytes).unwrap(),
            Err(error) => error.to_string(),
        },
        ["port"] => crate::support::port(cluster).to_string(),
        ["role"] => format!("{:?}", Cluster::role(cluster)),
        ["log"] => backend.log().join(","),
        ["connects"] => backend.connects.load(std::sync::atomic::Ordering::SeqCst).to_string(),
        ["subscribes", key] => backend.subscribes(key).to_string(),
        ["close"] => {
            Cluster::close(cluster.clone()).await;
            done()
        }
        _ => panic!("an actor can't {command}"),
    }
}
