//! A watch of one key, or of all keys below a prefix, that outlives the connection it runs over.
//!
//! ```text
//!            get: value at revision R                 watch from R + 1
//!  closed ──────────────────────────────► open ◄───────────────────────┐
//!    ▲                                     │ event: next value         │
//!    │ lost: an error, then after a pause  │                           │
//!    └─────────────────────────────────────┤ compacted: get again ─────┘
//! ```
//!
//! After a loss the watch goes on from the revision that it had, so that no update in between is
//! missed; where etcd has compacted that revision away, it goes on from the current value.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use etcd_client::{
    Client, Event, EventType, GetOptions, KeyValue, WatchOptions, WatchResponse, WatchStream,
};
use futures::{Stream, stream};

use crate::client::{ConfigError, Entry};

/// All entries that a watch sees, by key.
pub(crate) type Snapshot = BTreeMap<String, Entry>;

/// What is watched.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    /// This key.
    Key(String),
    /// Every key that begins so.
    Prefix(String),
}

impl Target {
    fn start(&self) -> &str {
        let (Self::Key(start) | Self::Prefix(start)) = self;
        start
    }

    fn is_prefix(&self) -> bool {
        matches!(self, Self::Prefix(_))
    }
}

/// The state of a watch; see the module for what it goes through.
pub(crate) struct Watch {
    etcd: Client,
    target: Target,
    /// What was told last, and the revision up to which that is everything.
    known: Option<(Snapshot, i64)>,
    /// The open watch of etcd.
    open: Option<WatchStream>,
    /// Values of one response that were not yielded yet.
    queue: VecDeque<Snapshot>,
    /// Failures since the last value; the pause before the next try grows with it.
    failures: u32,
}

impl Watch {
    /// A stream that yields the current value, each later one, and an error for each loss. It never
    /// ends.
    pub(crate) fn stream(
        etcd: Client,
        target: Target,
    ) -> impl Stream<Item = Result<Snapshot, ConfigError>> + Send + use<> {
        let closed =
            Self { etcd, target, known: None, open: None, queue: VecDeque::new(), failures: 0 };
        stream::unfold(closed, |mut watch| async move {
            let item = watch.next().await;
            Some((item, watch))
        })
    }

    async fn next(&mut self) -> Result<Snapshot, ConfigError> {
        let result = self.advance().await;
        match &result {
            Ok(_) => self.failures = 0,
            Err(_) => {
                self.open = None;
                self.failures += 1;
            }
        }
        result
    }

    async fn advance(&mut self) -> Result<Snapshot, ConfigError> {
        loop {
            if let Some(snapshot) = self.queue.pop_front() {
                return Ok(snapshot);
            }
            match &mut self.open {
                Some(open) => {
                    let response = open.message().await?.ok_or_else(|| {
                        ConfigError::Unreachable("etcd ended the watch".to_owned())
                    })?;
                    self.take(&response)?;
                }
                None => {
                    tokio::time::sleep(pause(self.failures)).await;
                    self.reopen().await?;
                }
            }
        }
    }

    /// Opens the watch of etcd, and queues the current value unless events will lead to it.
    async fn reopen(&mut self) -> Result<(), ConfigError> {
        let (current, revision) = self.get().await?;
        let from = match &self.known {
            // Something changed meanwhile: the events since then come, one by one. A revision from
            // the future means that etcd was set up anew; then the past says nothing.
            Some((known, at)) if *known != current && *at <= revision => at + 1,
            _ => {
                self.queue.push_back(current.clone());
                self.known = Some((current, revision));
                revision + 1
            }
        };
        let mut options = WatchOptions::new().with_start_revision(from);
        if self.target.is_prefix() {
            options = options.with_prefix();
        }
        self.open = Some(self.etcd.watch(self.target.start(), Some(options)).await?);
        Ok(())
    }

    async fn get(&mut self) -> Result<(Snapshot, i64), ConfigError> {
        let options = self.target.is_prefix().then(|| GetOptions::new().with_prefix());
        let response = self.etcd.get(self.target.start(), options).await?;
        let revision = response.header().map_or(0, etcd_client::ResponseHeader::revision);
        Ok((response.kvs().iter().map(entry).collect(), revision))
    }

    /// Queues what a response of the watch says.
    fn take(&mut self, response: &WatchResponse) -> Result<(), ConfigError> {
        if response.canceled() {
            self.open = None;
            // Compacted: what happened since cannot be had any more, what holds now can.
            self.known = None;
            if response.compact_revision() == 0 {
                return Err(ConfigError::Refused(response.cancel_reason().to_owned()));
            }
            return Ok(());
        }
        let Some((snapshot, at)) = &mut self.known else { return Ok(()) };
        // The events of one transaction share a revision, and are one update.
        for update in response.events().chunk_by(|one, next| revision(one) == revision(next)) {
            for event in update {
                apply(snapshot, event);
            }
            *at = update.first().map_or(*at, revision);
            self.queue.push_back(snapshot.clone());
        }
        Ok(())
    }
}

fn apply(snapshot: &mut Snapshot, event: &Event) {
    let Some(kv) = event.kv() else { return };
    let (key, entry) = entry(kv);
    match event.event_type() {
        EventType::Put => snapshot.insert(key, entry),
        EventType::Delete => snapshot.remove(&key),
    };
}

fn revision(event: &Event) -> i64 {
    event.kv().map_or(0, KeyValue::mod_revision)
}

/// An entry of etcd as text; what is no UTF-8 in it is shown as replacement characters.
pub(crate) fn entry(kv: &KeyValue) -> (String, Entry) {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    (text(kv.key()), Entry { value: text(kv.value()), revision: kv.mod_revision() })
}

/// How long to wait after so many failures in a row: nothing, 100 ms, 200 ms … 1 s.
pub(crate) fn pause(failures: u32) -> Duration {
    match failures {
        0 => Duration::ZERO,
        n => Duration::from_millis(100 << (n - 1).min(4)).min(Duration::from_secs(1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_up_to_a_second() {
        let pauses: Vec<_> = (0..=6).map(|failures| pause(failures).as_millis()).collect();
        assert_eq!(pauses, [0, 100, 200, 400, 800, 1000, 1000]);
    }
}
