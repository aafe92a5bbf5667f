//! What one follower of the model publishes, and what must be upstream of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicU64, Ordering},
};

use tokio::task::JoinHandle;

use super::upstream::{PUBLISH, UNPUBLISH, publication};
use crate::{
    cluster::ProxyCore,
    codec::{MessagePack, encode_value},
    error::ErrorKind,
    spec::Reply,
};

/// Values are never used twice, so that each tells who published it.
static LAST_VALUE: AtomicU64 = AtomicU64::new(0);

#[derive(Default)]
pub(super) struct Publisher {
    /// What each key may hold for this follower: more than one thing where a call failed in a way
    /// that leaves open whether it was done.
    may_hold: BTreeMap<u8, BTreeSet<Option<u64>>>,
    /// One call a key at a time.
    open: BTreeMap<u8, (Option<u64>, JoinHandle<Reply>)>,
}

impl Publisher {
    pub(super) fn start(&mut self, follower: &ProxyCore, key: u8, publish: bool) {
        if self.open.contains_key(&key) {
            return;
        }
        let value = LAST_VALUE.fetch_add(1, Ordering::Relaxed);
        let follower = follower.clone();
        let method = if publish { PUBLISH } else { UNPUBLISH };
        let call = tokio::spawn(async move {
            let (key, args) = (encode_value::<MessagePack, _>(&key), publication(key, value));
            follower.follower().publish(method, key, args).await
        });
        self.open.insert(key, (publish.then_some(value), call));
    }

    /// Notes what the answers say. Returns how many failed.
    pub(super) fn take_answers(&mut self) -> u64 {
        let is_done = |_: &u8, (_, call): &mut (_, JoinHandle<_>)| call.is_finished();
        let mut failures = 0;
        let done: Vec<_> = self.open.extract_if(.., is_done).collect();
        for (key, (value, call)) in done {
            use futures::FutureExt as _;
            let reply = call.now_or_never().and_then(Result::ok);
            let may_hold = self.may_hold.entry(key).or_insert_with(|| BTreeSet::from([None]));
            match (reply, value) {
                // Once asked for, a withdrawal is done sooner or later.
                (Some(Ok(_)), _) | (_, None) => *may_hold = BTreeSet::from([value]),
                // What the upstream refuses is not remembered.
                (Some(Err(failure)), _)
                    if failure.clone().into_error().kind() == ErrorKind::Client => {}
                _ => drop(may_hold.insert(value)),
            }
            failures += u64::from(value.is_some() && !may_hold.contains(&value));
        }
        failures
    }

    /// At rest the upstream holds of each key what a living owner holds, and nothing else.
    pub(super) fn check<'a>(
        publishers: impl Iterator<Item = &'a Self> + Clone,
        upstream: &BTreeMap<u8, u64>,
    ) -> Result<(), String> {
        let keys = publishers.clone().flat_map(|publisher| publisher.may_hold.keys());
        let keys: BTreeSet<u8> = keys.chain(upstream.keys()).copied().collect();
        for key in keys {
            let held = publishers.clone().filter_map(|publisher| publisher.may_hold.get(&key));
            let held: Vec<_> = held.collect();
            let is_right = match upstream.get(&key) {
                Some(value) => held.iter().any(|held| held.contains(&Some(*value))),
                None => held.iter().all(|held| held.contains(&None)),
            };
            if !is_right {
                let is = upstream.get(&key);
                return Err(format!("upstream {key} is {is:?}, but the owners hold {held:?}"));
            }
        }
        Ok(())
    }
}
