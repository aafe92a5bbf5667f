//! Who is measured: what each contestant's server does, and how its clients call and subscribe.

mod broker;
mod hub;
mod nats;
mod node;
mod ours;
mod raw;
mod redis;
#[cfg(feature = "tarpc")]
mod tarpc;
mod tasks;
#[cfg(feature = "tonic")]
mod tonic;

use std::{path::PathBuf, process::Command, sync::LazyLock, time::Instant};

use bytes::Bytes;
use futures::{Stream, future::try_join_all};

use self::broker::Broker;
use crate::harness::{Child, Plan, Result, Source, serve_until_closed};

pub(crate) use self::ours::{OursVec, follow, lead};
#[cfg(feature = "tarpc")]
pub(crate) use self::tarpc::Tarpc;
#[cfg(feature = "tonic")]
pub(crate) use self::tonic::Tonic;
pub(crate) use self::{nats::Nats, ours::Ours, raw::Raw, redis::Redis, tasks::RawTasks};

/// A contestant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Who {
    Raw,
    Ours,
    /// Ours, with `Vec<u8>` for what is else `Bytes`.
    OursVec,
    /// Raw, where each call is a task's.
    RawTasks,
    Tonic,
    Tarpc,
    Nats,
    Redis,
    Node,
    /// Raw and ours on a multi-thread runtime; all others run on a current-thread one.
    RawThreads,
    OursThreads,
}

impl Who {
    pub(crate) const ALL: [Self; 11] = [
        Self::Raw,
        Self::Ours,
        Self::OursVec,
        Self::RawTasks,
        Self::Tonic,
        Self::Tarpc,
        Self::Nats,
        Self::Redis,
        Self::Node,
        Self::RawThreads,
        Self::OursThreads,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw-tcp",
            Self::Ours => "ours",
            Self::OursVec => "ours-vec",
            Self::RawTasks => "raw-tasks",
            Self::Tonic => "tonic",
            Self::Tarpc => "tarpc",
            Self::Nats => "nats",
            Self::Redis => "redis",
            Self::Node => "node",
            Self::RawThreads => "raw-tcp-threads",
            Self::OursThreads => "ours-threads",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|who| who.name() == name)
    }

    /// Whether its failure is that of the bench.
    pub(crate) fn is_essential(self) -> bool {
        self.is_raw()
            || matches!(self, Self::RawTasks | Self::Ours | Self::OursVec | Self::OursThreads)
    }

    fn is_raw(self) -> bool {
        matches!(self, Self::Raw | Self::RawThreads)
    }

    pub(crate) fn is_multi_thread(self) -> bool {
        matches!(self, Self::RawThreads | Self::OursThreads)
    }

    /// Whether it is measured under this plan.
    pub(crate) fn takes_part(self, plan: &Plan) -> bool {
        self.is_essential() || !plan.smoke && self.absent().is_none()
    }

    /// How much shorter its slices are, so that the slow ones do not take all of the time.
    pub(crate) fn pace(self) -> u64 {
        match self {
            Self::Node => 16,
            Self::Tonic => 8,
            Self::Tarpc | Self::Nats | Self::Redis => 2,
            _ => 1,
        }
    }

    /// Why it can't be measured here, if so.
    pub(crate) fn absent(self) -> Option<String> {
        match self {
            Self::Tonic => (!cfg!(feature = "tonic")).then(|| "built without it".to_owned()),
            Self::Tarpc => (!cfg!(feature = "tarpc")).then(|| "built without it".to_owned()),
            Self::Nats => nats::missing(),
            Self::Redis => redis::missing(),
            Self::Node => node::missing(),
            _ => None,
        }
    }
}

/// The program, if it is in PATH or where Debian puts servers.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    folders.map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// The command of a process that is not the bench's own program.
pub(crate) fn foreign(child: &Child) -> Option<Command> {
    (child.who == Who::Node).then(|| node::command(child))
}

/// Runs the server of a contestant.
pub(crate) async fn serve(child: &Child) -> Result<()> {
    let (source, control) = Source::open().await?;
    let port = match child.who {
        Who::Raw | Who::RawThreads => raw::serve(source, None).await?,
        Who::RawTasks => raw::serve(source, Some(tasks::echo)).await?,
        Who::Ours | Who::OursVec | Who::OursThreads => {
            let (port, _leader) = lead(source).await?;
            return serve_until_closed(port, control, None).await;
        }
        #[cfg(feature = "tonic")]
        Who::Tonic => tonic::serve(source).await?,
        #[cfg(feature = "tarpc")]
        Who::Tarpc => tarpc::serve().await?,
        Who::Nats | Who::Redis => {
            let broker = Broker::start(child.who).await?;
            match child.who {
                Who::Nats => nats::publish(broker.port, source).await?,
                _ => redis::publish(broker.port, source).await?,
            }
            return serve_until_closed(broker.port, control, broker.process.id()).await;
        }
        Who::Node => return Err("the server of node is a script".into()),
        #[cfg(not(all(feature = "tonic", feature = "tarpc")))]
        other => return Err(format!("built without {}", other.name()).into()),
    };
    serve_until_closed(port, control, None).await
}

/// Bytes of a small call, both ways.
pub(crate) const SMALL: usize = 128;

/// What a call asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ask {
    /// The payload of [`SMALL`] bytes back.
    Echo,
    /// So many bytes.
    Large(u64),
}

impl Ask {
    /// Checks the answer's length.
    fn check(self, len: usize) -> Result<()> {
        let expected = match self {
            Self::Echo => SMALL as u64,
            Self::Large(len) => len,
        };
        if len as u64 == expected { Ok(()) } else { Err("an answer to something else".into()) }
    }
}

/// The payload of a small call.
fn small() -> Bytes {
    const PAYLOAD: [u8; SMALL] = [b'x'; SMALL];
    Bytes::from_static(&PAYLOAD)
}

/// Bytes of the largest answer.
const LARGEST: usize = 8 << 20;

/// The payload of a large answer; making it costs no copy.
fn large(len: u64) -> Bytes {
    static PAYLOAD: LazyLock<Bytes> = LazyLock::new(|| Bytes::from(vec![b'x'; LARGEST]));
    PAYLOAD.slice(..(len as usize).min(LARGEST))
}

/// A client whose handle can be shared, as users have it.
pub(crate) trait Caller: Clone + Send + Sync + Sized + 'static {
    fn connect(port: u16) -> impl Future<Output = Result<Self>> + Send;

    /// One call, whose answer is checked.
    fn ask(&self, ask: Ask) -> impl Future<Output = Result<()>> + Send;
}

/// One connection that calls are made on.
pub(crate) trait Pipe: Send + Sized + 'static {
    fn open(port: u16) -> impl Future<Output = Result<Self>> + Send;

    /// One call.
    fn call(&mut self, ask: Ask) -> impl Future<Output = Result<()>> + Send;

    /// So many calls, of which so many are in flight.
    fn keep(
        &mut self,
        ask: Ask,
        calls: u64,
        flight: u64,
    ) -> impl Future<Output = Result<()>> + Send;

    /// The nanoseconds of so many small calls, one after the other, while answers of `large` bytes
    /// are on the same connection, one after the other, too.
    fn beside(&mut self, large: u64, calls: u64) -> impl Future<Output = Result<Vec<f64>>> + Send;
}

impl<C: Caller> Pipe for C {
    async fn open(port: u16) -> Result<Self> {
        Self::connect(port).await
    }

    async fn call(&mut self, ask: Ask) -> Result<()> {
        self.ask(ask).await
    }

    async fn keep(&mut self, ask: Ask, calls: u64, flight: u64) -> Result<()> {
        let tasks = (0..flight).map(|task| {
            let caller = self.clone();
            let share = calls / flight + u64::from(task < calls % flight);
            tokio::spawn(async move {
                for _ in 0..share {
                    caller.ask(ask).await?;
                }
                Ok(())
            })
        });
        try_join_all(tasks).await?.into_iter().collect()
    }

    async fn beside(&mut self, large: u64, calls: u64) -> Result<Vec<f64>> {
        let other = self.clone();
        let busy: tokio::task::JoinHandle<Result<()>> = tokio::spawn(async move {
            loop {
                other.ask(Ask::Large(large)).await?;
            }
        });
        self.ask(Ask::Large(large)).await?;
        let mut times = Vec::new();
        for _ in 0..calls {
            let start = Instant::now();
            self.ask(Ask::Echo).await?;
            times.push(start.elapsed().as_nanos() as f64);
        }
        if busy.is_finished() {
            busy.await??;
            return Err("the large calls ended".into());
        }
        busy.abort();
        Ok(times)
    }
}

/// Connections that values come on.
pub(crate) trait Feed: 'static {
    /// A value in the form in which the contestant hands it to its user.
    type Value: AsRef<[u8]> + Send;
    type Values: Stream<Item = Result<Self::Value>> + Send + Unpin + 'static;

    /// One connection of its own, subscribed to so many keys.
    fn subscribe(port: u16, keys: u64) -> impl Future<Output = Result<Vec<Self::Values>>> + Send;
}

/// The values of a contestant that has no keys.
fn only_one_key(keys: u64) -> Result<()> {
    if keys == 1 { Ok(()) } else { Err("this contestant has no keys".into()) }
}
