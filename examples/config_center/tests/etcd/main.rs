//! The client and the processes around it, against a real etcd that each test starts for itself.

mod client;
mod cluster;
mod support;
