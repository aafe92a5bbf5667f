//! What can happen in the model.

use proptest::prelude::*;

use super::upstream::{Calls, Key, WATCH, WATCH_ANSWERED};

/// Followers, and keys of each method.
pub(super) const PLACES: usize = 3;
const KEYS: u8 = 2;

#[derive(Debug, Clone)]
pub(super) enum Operation {
    Subscribe {
        place: usize,
        key: Key,
        alias: u8,
        eager: bool,
    },
    /// Of the subscribers that there are, counted round.
    Clone {
        which: usize,
        eager: bool,
    },
    Drop {
        which: usize,
    },
    /// Starts or stops to read.
    Read {
        which: usize,
        open: bool,
    },
    /// So many new values at once.
    Update {
        key: Key,
        count: u8,
    },
    /// The same value again.
    Repeat {
        key: Key,
    },
    Error {
        key: Key,
    },
    End {
        key: Key,
    },
    Panic {
        key: Key,
    },
    Refuse(bool),
    Lose,
    Restore,
    Cut {
        place: usize,
    },
    Freeze {
        place: usize,
    },
    Thaw {
        place: usize,
    },
    RestartLeader {
        abrupt: bool,
        pause: u64,
    },
    /// Milliseconds to drain, and until the next leader starts.
    HandOver {
        drain: u64,
        pause: u64,
    },
    RestartFollower {
        place: usize,
        abrupt: bool,
    },
    Publish {
        place: usize,
        key: u8,
    },
    Unpublish {
        place: usize,
        key: u8,
    },
    Calls(Calls),
    /// Milliseconds.
    Wait(u64),
    /// All faults are mended; then everything must be whole.
    Rest,
}

pub(super) fn operations(most: usize) -> impl Strategy<Value = Vec<Operation>> {
    prop::collection::vec(operation(), 1..most)
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation as O;
    let place = || 0..PLACES;
    let which = || 0_usize..8;
    prop_oneof![
        10 => (place(), key(), 0_u8..2, prop::bool::weighted(0.7))
            .prop_map(|(place, key, alias, eager)| O::Subscribe { place, key, alias, eager }),
        2 => (which(), any::<bool>()).prop_map(|(which, eager)| O::Clone { which, eager }),
        4 => which().prop_map(|which| O::Drop { which }),
        3 => (which(), any::<bool>()).prop_map(|(which, open)| O::Read { which, open }),
        10 => (key(), prop_oneof![4 => 1_u8..3, 1 => 3_u8..12])
            .prop_map(|(key, count)| O::Update { key, count }),
        2 => key().prop_map(|key| O::Repeat { key }),
        3 => key().prop_map(|key| O::Error { key }),
        3 => key().prop_map(|key| O::End { key }),
        2 => key().prop_map(|key| O::Panic { key }),
        2 => any::<bool>().prop_map(O::Refuse),
        2 => Just(O::Lose),
        3 => Just(O::Restore),
        5 => place().prop_map(|place| O::Cut { place }),
        5 => place().prop_map(|place| O::Freeze { place }),
        4 => place().prop_map(|place| O::Thaw { place }),
        2 => (any::<bool>(), 0_u64..15_000)
            .prop_map(|(abrupt, pause)| O::RestartLeader { abrupt, pause }),
        2 => (prop_oneof![0_u64..100, 100_u64..15_000], 0_u64..15_000)
            .prop_map(|(drain, pause)| O::HandOver { drain, pause }),
        2 => (place(), any::<bool>())
            .prop_map(|(place, abrupt)| O::RestartFollower { place, abrupt }),
        6 => (place(), 0..KEYS).prop_map(|(place, key)| O::Publish { place, key }),
        3 => (place(), 0..KEYS).prop_map(|(place, key)| O::Unpublish { place, key }),
        2 => calls().prop_map(O::Calls),
        8 => prop_oneof![1_u64..300, 300_u64..3_000, 3_000_u64..14_000, Just(61_000)]
            .prop_map(O::Wait),
        1 => Just(O::Rest),
    ]
}

fn key() -> impl Strategy<Value = Key> {
    (prop_oneof![3 => Just(WATCH), 1 => Just(WATCH_ANSWERED)], 0..KEYS)
}

fn calls() -> impl Strategy<Value = Calls> {
    prop_oneof![
        2 => Just(Calls::Work),
        1 => Just(Calls::Refuse),
        2 => (1_u64..15_000, any::<bool>()).prop_map(|(millis, first)| Calls::Slow(millis, first)),
    ]
}

/// All keys of the upstream.
pub(super) fn keys() -> impl Iterator<Item = Key> {
    [WATCH, WATCH_ANSWERED].into_iter().flat_map(|method| (0..KEYS).map(move |key| (method, key)))
}
