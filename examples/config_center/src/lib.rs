//! A client of etcd that all processes of a host share.

pub mod client;
mod lease;
mod watch;
