//! Values and work items of a topic.

use std::{
    any::Any,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;

use crate::error::Error;

/// A decoded value, shared by all subscribers of the process.
pub(crate) type Decoded = Arc<dyn Any + Send + Sync>;

/// How the values of a topic are decoded.
pub(crate) type Decoder = fn(Bytes) -> Result<Decoded, Error>;

/// One value.
pub(crate) struct Entry {
    /// Counts the values of this process, over all epochs.
    pub(super) seq: u64,
    /// Counts the values that the topic is known to have had, skipped ones included.
    pub(super) total: u64,
    /// Empty where the value never was encoded, as in a fake.
    pub(super) bytes: Bytes,
    pub(super) decoded: OnceLock<Result<Decoded, Error>>,
}

impl Entry {
    /// The value; decoded once, by whoever reads it first.
    pub(crate) fn decode(&self, decoder: Decoder) -> Result<Decoded, Error> {
        self.decoded.get_or_init(|| decoder(self.bytes.clone())).clone()
    }
}

/// A work item.
#[derive(Clone)]
pub(crate) struct Item {
    pub(crate) number: u64,
    pub(crate) redelivered: bool,
    pub(crate) value: ItemValue,
    /// The link that it came on; on another one it can't be settled any more.
    pub(crate) generation: u64,
}

/// The value of a work item.
#[derive(Clone)]
pub(crate) enum ItemValue {
    Encoded(Bytes),
    /// It never was encoded, as in a fake.
    Decoded(Decoded),
}
