//! cluster-client (work in progress).
#![allow(dead_code)]
mod codec;
mod connection;
mod error;
mod leader;
mod options;
mod protocol;
mod server;
mod spec;

pub use crate::{
    codec::{Codec, Decode, Encode, Json, MessagePack, Protobuf},
    error::{Error, ErrorCode, ErrorKind, Result},
    options::Options,
};
