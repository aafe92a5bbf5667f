//! cluster-client (work in progress).
#![allow(dead_code)]
mod codec;
mod error;
mod options;
mod protocol;
mod spec;

pub use crate::{
    codec::{Codec, Decode, Encode, Json, MessagePack, Protobuf},
    error::{Error, ErrorCode, ErrorKind, Result},
    options::Options,
};
