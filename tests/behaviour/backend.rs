//! The upstream of the tests: a registry in memory, with counters and with faults to inject.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
};

use cluster_client::Health;
use tokio::sync::{Notify, broadcast, mpsc};

/// What a stream of the upstream gives.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Value(String),
    Error(String),
    End,
    Panic,
}

#[derive(Debug, Default)]
pub(crate) struct Backend {
    pub(crate) connects: AtomicU64,
    pub(crate) fail_connect: AtomicBool,
    pub(crate) closes: AtomicU64,
    /// How often each key was subscribed, and how many streams of it are open.
    pub(crate) subscribes: Mutex<BTreeMap<String, usize>>,
    pub(crate) open: Mutex<BTreeMap<String, usize>>,
    /// Current values, which a new stream gives first.
    pub(crate) values: Mutex<BTreeMap<String, String>>,
    streams: Mutex<Vec<(String, mpsc::UnboundedSender<Step>)>>,
    /// What is registered, and every publish and unpublish in order.
    pub(crate) registered: Mutex<BTreeSet<(String, String)>>,
    pub(crate) log: Mutex<Vec<String>>,
    pub(crate) fail_publish: AtomicUsize,
    /// How many more times a stream can't be opened.
    pub(crate) fail_open: AtomicUsize,
    pub(crate) calls: AtomicU64,
    pub(crate) cancelled: AtomicU64,
    /// Calls of `slow` wait for it.
    pub(crate) gate: Notify,
    pub(crate) work: Mutex<VecDeque<String>>,
    pub(crate) work_added: Notify,
    pub(crate) work_taken: AtomicU64,
    health: Mutex<Option<broadcast::Sender<Health>>>,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Backend {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Changes a value and tells the open streams of the key.
    pub(crate) fn set(&self, key: &str, value: &str) {
        lock(&self.values).insert(key.to_owned(), value.to_owned());
        self.inject(key, Step::Value(value.to_owned()));
    }

    /// Gives a step to the open streams of the key; true if there was one.
    pub(crate) fn inject(&self, key: &str, step: Step) -> bool {
        let mut given = false;
        lock(&self.streams).retain(|(name, stream)| {
            if name == key {
                given |= stream.send(step.clone()).is_ok();
            }
            !stream.is_closed()
        });
        given
    }

    pub(crate) fn stream(self: &Arc<Self>, key: &str) -> impl futures::Stream<Item = Step> + use<> {
        let (sender, receiver) = mpsc::unbounded_channel();
        *lock(&self.subscribes).entry(key.to_owned()).or_default() += 1;
        *lock(&self.open).entry(key.to_owned()).or_default() += 1;
        if let Some(value) = lock(&self.values).get(key) {
            sender.send(Step::Value(value.clone())).expect("the receiver is here");
        }
        lock(&self.streams).push((key.to_owned(), sender));
        let open = Open { backend: Arc::clone(self), key: key.to_owned() };
        futures::stream::unfold((receiver, open), |(mut receiver, open)| async move {
            match receiver.recv().await? {
                Step::End => None,
                Step::Panic => panic!("injected into {}", open.key),
                step => Some((step, (receiver, open))),
            }
        })
    }

    pub(crate) fn subscribes(&self, key: &str) -> usize {
        lock(&self.subscribes).get(key).copied().unwrap_or_default()
    }

    pub(crate) fn open_streams(&self, key: &str) -> usize {
        lock(&self.open).get(key).copied().unwrap_or_default()
    }

    pub(crate) fn register(&self, key: &str, url: &str) -> Result<(), String> {
        let fail = self.fail_publish.try_update(SeqCst, SeqCst, |left| left.checked_sub(1));
        if fail.is_ok() {
            lock(&self.log).push(format!("refuse {key}={url}"));
            return Err("refused".to_owned());
        }
        lock(&self.log).push(format!("publish {key}={url}"));
        lock(&self.registered).insert((key.to_owned(), url.to_owned()));
        Ok(())
    }

    pub(crate) fn unregister(&self, key: &str, url: &str) {
        lock(&self.log).push(format!("unpublish {key}={url}"));
        lock(&self.registered).remove(&(key.to_owned(), url.to_owned()));
    }

    pub(crate) fn log(&self) -> Vec<String> {
        lock(&self.log).clone()
    }

    pub(crate) fn registered(&self) -> Vec<String> {
        lock(&self.registered).iter().map(|(key, url)| format!("{key}={url}")).collect()
    }

    pub(crate) fn add_work(&self, item: &str) {
        lock(&self.work).push_back(item.to_owned());
        self.work_added.notify_one();
    }

    pub(crate) async fn next_work(&self) -> String {
        loop {
            let added = self.work_added.notified();
            if let Some(item) = lock(&self.work).pop_front() {
                self.work_taken.fetch_add(1, SeqCst);
                return item;
            }
            added.await;
        }
    }

    pub(crate) fn health(&self) -> broadcast::Receiver<Health> {
        let mut health = lock(&self.health);
        health.get_or_insert_with(|| broadcast::channel(16).0).subscribe()
    }

    pub(crate) fn report(&self, report: Health) {
        let health = lock(&self.health).clone().expect("a client has subscribed to its health");
        health.send(report).expect("a client listens");
    }
}

struct Open {
    backend: Arc<Backend>,
    key: String,
}

impl Drop for Open {
    fn drop(&mut self) {
        *lock(&self.backend.open).entry(self.key.clone()).or_default() -= 1;
    }
}
