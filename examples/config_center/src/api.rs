//! The client as application code wants it: reads that cost nothing and never wait.
//!
//! It is a plain type around [`Cluster<ConfigClient>`], so that it is the same in every process,
//! whichever of them holds the connection.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use cluster_client::{Cluster, State, Subscription};

use crate::client::{ConfigClient, ConfigError, Entry, Instance};

/// Cached configuration and service discovery. Clones share the cache.
#[derive(Clone)]
pub struct ApiClient {
    client: Cluster<ConfigClient>,
    cache: Arc<Cache>,
}

/// One subscription for each key that was ever asked for.
#[derive(Default)]
struct Cache {
    configs: Mutex<HashMap<String, Subscription<Option<Entry>>>>,
    services: Mutex<HashMap<String, Subscription<Vec<Instance>>>>,
    /// Counts the picks of [`ApiClient::pick`], so that they go round.
    picks: AtomicUsize,
}

impl ApiClient {
    /// A cache over this client.
    pub fn new(client: Cluster<ConfigClient>) -> Self {
        Self { client, cache: Arc::default() }
    }

    /// Fetches these keys, so that the first read of each gives a value.
    ///
    /// # Errors
    ///
    /// [`cluster_client::Error`] where a key has no first value within the deadline of a call.
    pub async fn load(&self, keys: &[&str]) -> Result<(), cluster_client::Error> {
        for key in keys {
            self.subscribe(key).ready().await?;
        }
        Ok(())
    }

    /// The value of a key. The first read of a key that was not loaded subscribes to it and gives
    /// `None`; each later one gives the last value known, also while etcd or the agent is away.
    pub fn config(&self, key: &str) -> Option<String> {
        let entry = self.subscribe(key).current()?;
        Some(entry.as_ref().as_ref()?.value.clone())
    }

    /// Whether what [`config`](Self::config) gives is known to be current.
    pub fn is_live(&self, key: &str) -> bool {
        matches!(self.subscribe(key).state(), State::Live)
    }

    /// The next instance of a service, in turn; `None` while none is known.
    pub fn pick(&self, service: &str) -> Option<Instance> {
        let instances = cached(&self.cache.services, service, || self.client.instances(service));
        let instances = instances.current()?;
        let turn = self.cache.picks.fetch_add(1, Ordering::Relaxed);
        instances.get(turn.checked_rem(instances.len())?).cloned()
    }

    /// Sets the value of a key.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] where etcd did not take it, or where that is unknown.
    pub async fn set(&self, key: &str, value: &str) -> Result<(), ConfigError> {
        self.client.put(key, value).await.map(drop)
    }

    fn subscribe(&self, key: &str) -> Subscription<Option<Entry>> {
        cached(&self.cache.configs, key, || self.client.watch(key))
    }
}

impl fmt::Debug for ApiClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiClient").finish_non_exhaustive()
    }
}

/// The subscription of this name, made at the first call.
fn cached<T: Send + Sync + 'static>(
    cache: &Mutex<HashMap<String, Subscription<T>>>,
    name: &str,
    subscribe: impl FnOnce() -> Subscription<T>,
) -> Subscription<T> {
    // A panic elsewhere leaves the map whole: each change of it is one insert.
    let mut cache = cache.lock().unwrap_or_else(PoisonError::into_inner);
    match cache.get(name) {
        Some(subscription) => subscription.clone(),
        None => cache.entry(name.to_owned()).or_insert_with(subscribe).clone(),
    }
}
