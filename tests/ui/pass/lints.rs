//! Generated code is quiet under strict lints. `tests/ui.rs` takes this file in as a module too, so
//! that clippy reads it.

#![deny(warnings, missing_docs, missing_debug_implementations, unreachable_pub, unused)]
#![deny(unused_qualifications, unused_results, rust_2018_idioms, let_underscore_drop)]
#![deny(trivial_casts, trivial_numeric_casts, single_use_lifetimes, unnameable_types)]
#![deny(clippy::all, clippy::pedantic, clippy::nursery)]
#![deny(clippy::absolute_paths, clippy::allow_attributes, clippy::arithmetic_side_effects)]
#![deny(clippy::as_conversions, clippy::exhaustive_structs)]
#![deny(
    clippy::indexing_slicing,
    clippy::missing_trait_methods,
    clippy::single_char_lifetime_names
)]
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

use cluster_client::{Error, Health, cluster_client};
use futures::{Stream, StreamExt, stream};

/// A client.
#[derive(Debug, Default)]
pub struct StrictClient {
    lines: AtomicU64,
}

#[cluster_client(trait = pub Strict)]
impl StrictClient {
    /// Connects.
    ///
    /// # Errors
    ///
    /// Never.
    #[connect]
    #[expect(clippy::unused_async, reason = "a test")]
    pub async fn connect(_a: String, _b: String) -> Result<Self, Error> {
        Ok(Self::default())
    }

    /// Values.
    #[subscribe]
    pub fn values(&self, _id: &str) -> impl Stream<Item = Result<u64, Error>> + use<> {
        stream::pending()
    }

    /// Work.
    ///
    /// # Errors
    ///
    /// Never.
    #[subscribe(deliver = "one")]
    #[expect(clippy::unused_async, reason = "a test")]
    pub async fn work(&self) -> Result<impl Stream<Item = u64> + use<>, Error> {
        Ok(stream::pending())
    }

    /// Puts a value.
    ///
    /// # Errors
    ///
    /// Never.
    #[publish(key = id)]
    #[deprecated = "for the test"]
    #[expect(clippy::unused_async, reason = "a test")]
    pub async fn put(&self, id: &str, _value: u64) -> Result<(), Error> {
        let _ = id.len();
        Ok(())
    }

    /// Removes a value.
    ///
    /// # Errors
    ///
    /// Never.
    #[unpublish]
    #[expect(clippy::unused_async, reason = "a test")]
    pub async fn remove(&self, id: &str, _value: u64) -> Result<(), Error> {
        let _ = id.len();
        Ok(())
    }

    /// Gets a value.
    ///
    /// # Errors
    ///
    /// Never.
    #[invoke(share)]
    #[expect(clippy::unused_async, reason = "a test")]
    #[expect(non_snake_case, reason = "a test")]
    pub async fn Get(&self) -> Result<u64, Error> {
        Ok(1)
    }

    /// Logs.
    #[invoke(oneway)]
    pub fn log(&self) {
        let _: u64 = self.lines.fetch_add(1, Ordering::Relaxed);
    }

    #[health]
    fn health(&self) -> impl Stream<Item = Health> + use<> {
        stream::repeat(Health::Restored).skip(usize::from(self.lines.load(Ordering::Relaxed) > 0))
    }

    #[close]
    #[expect(clippy::unused_async, reason = "a test")]
    async fn close(&self) {}
}

pub(crate) fn main() {
    let _client = StrictClient::default();
}
