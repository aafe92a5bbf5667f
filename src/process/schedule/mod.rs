//! Schedules: what a job is, when it is due, and the half of it that runs in a worker.
//!
//! ```text
//!   worker                                    master
//!   worker.schedule(Schedule, closure) ─────► table of jobs and runs (`master/jobs`)
//!   Worker's `Jobs` ◄──── offer ───────────── timer
//!          ────────────── claim ────────────►
//!          ◄───────────── granted/revoked ───
//!   closure runs ──────── finished ─────────►
//! ```
//!
//! The master decides when and where, and keeps the table, so that no other process's death forgets
//! anything. The closure lives in the workers, because it needs what the worker has set up.

// In reading order; a room imports only those before it.
mod timing;

mod definition;

mod outcome;

mod worker;

pub use self::{
    definition::{Misfire, Overlap, Schedule},
    outcome::{JobStatus, RunOutcome, RunRecord, RunningRun},
    worker::{Job, Run},
};
pub(in crate::process) use self::{
    outcome::clip,
    timing::{Now, Timer},
    worker::{Jobs, job_fn},
};

/// Most jobs of a cluster.
pub(in crate::process) const MAX_JOBS: usize = 1_000;
