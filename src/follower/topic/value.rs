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
    pub(crate) fn seq(&self) -> u64 {
        self.seq
    }

    /// The value; decoded once, by whoever reads it first.
    pub(crate) fn decode(&self, decoder: Decoder) -> Result<Decoded, Error> {
        self.decoded.get_or_init(|| decoder(self.bytes.clone())).clone()
    }
}

/// A value of the ring. Most values of a burst are taken by one subscriber and never looked at again:
/// they are moved to it, and nothing is allocated for them.
pub(crate) enum Held {
    Own(Own),
    Shared(Arc<Entry>),
}

/// A value that nobody shares yet, and that is not decoded.
#[derive(Clone)]
pub(crate) struct Own {
    pub(super) seq: u64,
    pub(super) total: u64,
    pub(super) bytes: Bytes,
}

impl Held {
    pub(crate) fn seq(&self) -> u64 {
        match self {
            Self::Own(own) => own.seq,
            Self::Shared(entry) => entry.seq,
        }
    }

    pub(super) fn total(&self) -> u64 {
        match self {
            Self::Own(own) => own.total,
            Self::Shared(entry) => entry.total,
        }
    }

    pub(super) fn bytes(&self) -> &Bytes {
        match self {
            Self::Own(own) => &own.bytes,
            Self::Shared(entry) => &entry.bytes,
        }
    }

    /// Whether it decodes, if that is known.
    pub(super) fn decodes(&self) -> Option<bool> {
        match self {
            Self::Own(_) => None,
            Self::Shared(entry) => entry.decoded.get().map(Result::is_ok),
        }
    }

    /// The value, for one more who reads it.
    pub(super) fn share(&mut self) -> Arc<Entry> {
        match self {
            Self::Shared(entry) => Arc::clone(entry),
            Self::Own(own) => {
                let Own { seq, total, bytes } = own.clone();
                let entry = Arc::new(Entry { seq, total, bytes, decoded: OnceLock::new() });
                *self = Self::Shared(Arc::clone(&entry));
                entry
            }
        }
    }

    /// The value, decoded.
    pub(crate) fn decode(self, decoder: Decoder) -> Result<Decoded, Error> {
        match self {
            Self::Own(own) => decoder(own.bytes),
            Self::Shared(entry) => entry.decode(decoder),
        }
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
