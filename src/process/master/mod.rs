//! The master: starts one agent and N workers, watches over them, and stops them in order.
//!
//! It runs no user code, and nothing that can block. [`dispatcher`] decides, and is pure;
//! [`supervisor`] makes its events and carries out its actions; [`child`] is one process, [`build`] the
//! program that it is started from.

mod answers;
mod build;
mod builder;
mod channels;
mod child;
mod dispatcher;
mod event;
mod handle;
#[cfg(feature = "schedule")]
mod jobs;
mod listen;
mod liveness;
mod log;
mod orphans;
mod outbox;
mod panics;
mod proc;
mod program;
mod recycle;
mod restart;
mod router;
mod signals;
mod status;
mod supervisor;
mod tail;

pub use builder::{Master, MasterBuilder};
pub use channels::{ChannelRole, ChannelStatus};
pub use event::{Death, MasterEvent};
pub use handle::MasterHandle;
pub use liveness::{Liveness, Remedy, Unresponsive};
pub use program::Program;
pub use recycle::Recycle;
pub use status::{ClusterPhase, DeathStatus, ProcessState, ProcessStatus, ReloadStatus, Status};
#[cfg(feature = "cli")]
pub(super) use {builder::report, proc::children_of};
