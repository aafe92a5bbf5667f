//! The process plane: a master, one agent and a number of workers, all of one program.
//!
//! ```text
//!   master ── binds the cluster port and keeps it, runs no user code, supervises
//!     ├── agent      the real clients; serves the cluster port, which it inherits
//!     ├── worker 0   connects to the cluster port
//!     └── worker …
//! ```
//!
//! [`Master::builder`] describes the cluster. The same `main` runs in every process; which one it is
//! in, it learns from the control link, a unix socket that a child finds as its fd 0. Nothing of it
//! is in arguments or environment, but for the master's pid, which proves nothing alone.
//!
//! - **Start**: the agent; when it is ready, the workers; when all are ready, `cluster_ready`. Who
//!   fails or is not ready in time ends the start, with exit code 1 and its name.
//! - **Life**: the life of a process is that of its function. After the start a death never ends the
//!   master: the next one is started, at once after ten healthy seconds, else after a pause that
//!   doubles up to 30 s. Five that die in a row before they are ready make their slot a failed one: it
//!   is shown in the [`Status`] with their last lines, and retried ever more slowly, up to once in five
//!   minutes. While the agent is away, connections wait on the port.
//! - **Reload**: SIGHUP or [`MasterHandle::reload`] replaces all processes by new ones of the program
//!   that is on disk now. The new agent starts and waits; the old one finishes the calls that it took,
//!   withdraws nothing, closes its clients and goes; then the new one connects: there are never two
//!   real clients. Then all new workers get ready beside the old ones, and the old ones stop. Where a
//!   new one fails, the new ones are ended and the old ones go on.
//! - **Change**: [`MasterHandle::scale`] changes the number of workers; [`Recycle`] replaces workers by
//!   age or memory, the replacement being ready first.
//! - **Jobs** (feature `schedule`): workers schedule them; the master has the table of jobs and runs,
//!   decides what runs when and where, and nothing starts without its word. See `Worker::schedule`.
//! - **Stop**: SIGTERM, SIGINT or SIGQUIT to the master. Workers first, then the agent: SIGTERM to
//!   the process group, SIGKILL after `stop_timeout`. A second signal kills at once, in the same
//!   order. When a process is gone, what is left of its group is killed.
//! - **Loss**: without their master all processes exit by themselves, with code 110, blocked and
//!   stopped ones too, and take their process groups with them.
//!
//! - **Messages**: [`Messenger`] sends small values to all, to one, or to a random process, through the
//!   master, which says where they come from; [`Receipt`]s say who took them.
//! - **Liveness**: the master asks each process now and then; who is frozen is replaced, whose runtime
//!   is blocked is reported, as [`Liveness`] sets it. Panics of tasks are counted and told.
//! - **Orphans**: what left its process group becomes a child of the master, is reaped, and ends when
//!   the cluster has stopped.
//!
//! [`Exit`] has the table of exit codes. Only on Linux are stopped children woken, and processes that
//! children started killed, when the master is lost; and only there is the program kept open, so that
//! what is replaced on disk has no effect before the next reload.

// In reading order; a room imports only those before it.
mod control;
mod name;
mod reason;
mod times;
mod words;

mod output;

mod inspect;

mod inherit;
mod lead;
mod messenger;
mod panics;

#[cfg(feature = "schedule")]
mod schedule;

mod place;

mod joining;

mod agent;
mod worker;

mod role;

mod master;

#[cfg(feature = "cli")]
pub(crate) mod cli;

#[cfg(feature = "schedule")]
pub use self::schedule::{
    Job, JobStatus, Misfire, Overlap, Run, RunOutcome, RunRecord, RunningRun, Schedule,
};
pub use self::{
    agent::Agent,
    joining::Joining,
    master::{
        ChannelRole, ChannelStatus, ClusterPhase, Death, DeathStatus, Liveness, Master,
        MasterBuilder, MasterEvent, MasterHandle, ProcessState, ProcessStatus, Program, Recycle,
        ReloadStatus, Remedy, Status, Unresponsive,
    },
    messenger::{AwaitReceipt, Message, Messages, Messenger, Once, Peer, Peers, Receipt, Sent},
    name::{Exit, ProcessName},
    worker::Worker,
};
