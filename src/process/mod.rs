//! The process plane: a master, one agent, and workers, all of the same program.
//!
//! The master binds the cluster port and keeps it, starts the agent, then the workers, starts again
//! what dies, and stops all in order. The control link, a unix socket, tells each child what it is.
//!
//! In reading order: `control` (the link), `inherit` (which process am I), `place` (the inside of a
//! child), `joining`, `agent` and `worker` (what the user's functions get), `master`.

mod agent;
mod control;
mod inherit;
mod joining;
mod master;
mod name;
mod place;
mod role;
mod worker;

pub use agent::Agent;
pub use joining::Joining;
pub use master::{Death, Master, MasterBuilder, MasterEvent, MasterHandle};
pub use name::{Exit, ProcessName};
pub use worker::Worker;
