//! An example of cluster-client: all processes of a host share one client of etcd.
//!
//! [`client`] is the client, written as if for one process. [`api`] is what application code uses.
//! The program in `main.rs` runs them in one agent and N workers.

pub mod api;
pub mod client;
mod lease;
pub mod report;
mod watch;
