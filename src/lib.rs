//! Many processes on a host, one upstream connection.
//!
//! N processes of a host need the same registry, config center or service discovery. With this
//! crate one of them, the *agent*, holds the real client; the others, the *workers*, hold a
//! follower with the same methods and types, which forwards over one loopback socket. The author
//! of a client writes it for one process and puts [`#[cluster_client]`](macro@cluster_client) on it; its
//! users cannot tell which process has the connection.
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! use cluster_client::{Agent, Master, Result, Worker, cluster_client};
//! use futures::Stream;
//!
//! struct Clock;
//!
//! #[cluster_client]
//! impl Clock {
//!     #[connect] // in the agent alone
//!     async fn connect() -> Result<Self> {
//!         Ok(Self)
//!     }
//!
//!     #[subscribe] // one stream upstream, however many processes subscribe
//!     fn ticks(&self, zone: &str) -> impl Stream<Item = String> {
//!         futures::stream::iter([format!("noon in {zone}")])
//!     }
//! }
//!
//! async fn agent(agent: Agent) -> Result<()> {
//!     let _clock = agent.cluster::<Clock>(()).await?; // leads
//!     agent.ready().await?;
//!     agent.shutdown().await;
//!     Ok(())
//! }
//!
//! async fn worker(worker: Worker) -> Result<()> {
//!     let clock = worker.cluster::<Clock>().await?; // follows
//!     let mut ticks = clock.ticks("UTC");
//!     worker.ready().await?;
//!     println!("{:?}", ticks.changed().await);
//!     worker.shutdown().await;
//!     Ok(())
//! }
//!
//! fn main() -> ExitCode {
//!     Master::builder().agent(agent).worker(worker).workers(4).main()
//! }
//! ```
//!
//! Without a master, [`Cluster::builder`] makes any tokio program a leader, a follower, a
//! competitor for the lead, or all in one process.
//!
//! # Features
//!
//! - `process` (default, unix): [`Master`], [`Agent`] and [`Worker`].
//! - `schedule` (unix): jobs by cron or interval in the workers, [`Schedule`].
//! - `cli` (unix): `Master::builder()….main()` gives the program the commands `start`, `stop`,
//!   `status`, `reload`, `scale` and `logs`; see [`cli::Command`] and `docs/operations.md`.

// The documentation's examples are written as users write them.
extern crate self as cluster_client;

#[doc(hidden)]
pub mod __private;
mod cluster;
mod codec;
mod connection;
mod error;
mod follower;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod id_map;
mod leader;
mod options;
#[cfg(all(unix, feature = "process"))]
mod process;
mod protocol;
#[cfg(unix)]
mod runtime_dir;
mod server;
mod spec;

#[doc = include_str!("attribute.md")]
pub use cluster_client_macros::cluster_client;

#[cfg(all(unix, feature = "process"))]
pub use crate::process::{
    Agent, AwaitReceipt, ChannelRole, ChannelStatus, ClusterPhase, Death, DeathStatus, Exit,
    Joining, Liveness, Master, MasterBuilder, MasterEvent, MasterHandle, Message, Messages,
    Messenger, Once, Peer, Peers, ProcessName, ProcessState, ProcessStatus, Program, Receipt,
    Recycle, ReloadStatus, Remedy, Sent, Status, Unresponsive, Worker,
};
#[cfg(all(unix, feature = "schedule"))]
pub use crate::process::{
    Job, JobStatus, Misfire, Overlap, Run, RunOutcome, RunRecord, RunningRun, Schedule,
};
/// The command line of a cluster, for programs that have arguments of their own (feature `cli`).
#[cfg(all(unix, feature = "cli"))]
pub mod cli {
    #[cfg(feature = "schedule")]
    pub use crate::process::cli::RunJob;
    pub use crate::process::cli::{Command, Logs, Reload, Scale, Start, Status, Stop};
}

pub use crate::{
    cluster::{
        Builder, Change, Cluster, ClusterClient, Deliveries, Delivery, Role, State, Subscription,
    },
    codec::{Codec, Decode, Encode, Json, MessagePack, Protobuf},
    error::{Error, ErrorCode, ErrorKind, Result},
    leader::LeaderStats,
    options::Options,
    spec::Health,
};
