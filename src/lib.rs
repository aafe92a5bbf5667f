//! cluster-client (work in progress).
#![allow(dead_code)]

extern crate self as cluster_client;

#[doc(hidden)]
pub mod __private;
mod cluster;
mod codec;
mod connection;
mod error;
mod follower;
mod leader;
mod options;
#[cfg(all(unix, feature = "process"))]
pub mod process;
mod protocol;
mod server;
mod spec;

pub use cluster_client_macros::cluster_client;

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

#[cfg(all(unix, feature = "process"))]
pub use crate::process::{Agent, Master, Worker};
