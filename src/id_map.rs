//! Maps whose keys are numbers that one of the ends counts up.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hasher, RandomState},
};

/// A map by a request, a topic or a peer.
pub(crate) type IdMap<V> = HashMap<u64, V, IdState>;

/// Hashes a number with one multiplication, where the standard hasher takes as long as all the rest
/// of a look-up. The random seed keeps a peer, which chooses some of the numbers, from choosing
/// such that collide.
#[derive(Debug, Clone)]
pub(crate) struct IdState(u64);

impl Default for IdState {
    fn default() -> Self {
        Self(RandomState::new().hash_one(0))
    }
}

impl BuildHasher for IdState {
    type Hasher = IdHasher;

    fn build_hasher(&self) -> IdHasher {
        IdHasher(self.0)
    }
}

#[derive(Debug)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, id: u64) {
        // The golden ratio, as is usual: odd, and without a pattern in its bits.
        let product = u128::from(self.0 ^ id) * 0x9e37_79b9_7f4a_7c15;
        self.0 = (product >> 64) as u64 ^ product as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_are_counted_or_aligned_spread_over_the_buckets() {
        let state = IdState::default();
        for step in [1, 2, 64, 1 << 20, 1 << 40] {
            let mut buckets = [0; 256];
            for id in 0..4096_u64 {
                let hash = state.hash_one(id.wrapping_mul(step));
                buckets[(hash % 256) as usize] += 1;
            }
            assert!(buckets.iter().all(|count| *count < 64), "step {step}: {buckets:?}");
        }
    }
}
