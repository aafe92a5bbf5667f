//! The upstream of the model: keys with values, the streams that are open on them, and what is
//! published; and the client of it that leaders connect.

use std::{
    collections::{BTreeMap, HashMap},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::Stream;
use tokio::{sync::mpsc, time::sleep};

use crate::{
    codec::{Decode as _, MessagePack, encode_value},
    error::{Error, ErrorKind},
    leader::{Connector, Sink, Upstream},
    spec::{
        Answered, BoxFuture, ChannelSpec, End, Failure, Health, HealthReport, MethodKind,
        MethodSpec,
    },
};

/// The methods of the model's client.
pub(super) const WATCH: usize = 0;
pub(super) const WATCH_ANSWERED: usize = 1;
pub(super) const PUBLISH: usize = 2;
pub(super) const UNPUBLISH: usize = 3;

pub(super) const SPEC: ChannelSpec = ChannelSpec {
    name: "Model",
    codec: "msgpack",
    methods: &[
        method("watch", MethodKind::Subscribe { one: false, answered: false, quiet: None }),
        method("watch_answered", MethodKind::Subscribe { one: false, answered: true, quiet: None }),
        method("publish", MethodKind::Publish { unpublish: Some(UNPUBLISH) }),
        method("unpublish", MethodKind::Unpublish { publish: PUBLISH }),
    ],
};

const fn method(name: &'static str, kind: MethodKind) -> MethodSpec {
    MethodSpec { name, kind, args: 1, version: 0, timeout: None }
}

/// A key of the upstream: method and number.
pub(super) type Key = (usize, u8);

/// What a client subscribes with. Two arguments that differ in the alias alone are one key.
pub(super) fn args(key: u8, alias: u8) -> Result<Bytes, Error> {
    encode_value::<MessagePack, _>(&(key, alias))
}

/// What a client publishes with: key and value.
pub(super) fn publication(key: u8, value: u64) -> Result<Bytes, Error> {
    encode_value::<MessagePack, _>(&(key, value))
}

pub(super) enum Item {
    Value(u64),
    Error,
    Panic,
}

/// How publish and unpublish behave.
#[derive(Debug, Clone, Copy, Default)]
pub(super) enum Calls {
    #[default]
    Work,
    Refuse,
    /// They take this long, in milliseconds; what they do is done first or last.
    Slow(u64, bool),
}

#[derive(Default)]
pub(super) struct State {
    /// The connected clients; a dead one has no effect any more.
    pub(super) instance: u64,
    pub(super) alive: bool,
    pub(super) calls: Calls,
    /// Whether `watch_answered` gives a stream.
    pub(super) refuses: bool,
    last_value: u64,
    current: HashMap<Key, u64>,
    streams: Vec<Open>,
    last_stream: u64,
    health: Option<mpsc::UnboundedSender<Health>>,
    /// What was taken from the streams of an instance, without repetitions in a row.
    given: HashMap<(u64, Key), Vec<u64>>,
    pub(super) published: BTreeMap<u8, u64>,
    /// A second stream of a key was opened.
    pub(super) doubled: u64,
    /// Faults that really hit a stream.
    pub(super) faults: u64,
}

struct Open {
    id: u64,
    key: Key,
    items: mpsc::UnboundedSender<Item>,
    /// Its last item was a value, which was taken.
    is_well: bool,
}

#[derive(Clone, Default)]
pub(super) struct Registry(Arc<Mutex<State>>);

impl Registry {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The process of the client dies, and with it its session.
    pub(super) fn kill(&self) {
        let mut state = self.lock();
        state.alive = false;
        state.streams.clear();
        state.published.clear();
        state.health = None;
    }

    fn open(&self, instance: u64, key: Key) -> Values {
        let mut state = self.lock();
        let (items, receiver) = mpsc::unbounded_channel();
        state.last_stream += 1;
        let id = state.last_stream;
        if state.alive && state.instance == instance {
            let current = state.value(key);
            let _ = items.send(Item::Value(current));
            state.doubled += u64::from(state.streams.iter().any(|open| open.key == key));
            state.streams.push(Open { id, key, items, is_well: false });
            return Values { registry: self.clone(), instance, key, id, receiver, _held: None };
        }
        // A dead client's stream: it neither gives anything nor ends.
        Values { registry: self.clone(), instance, key, id, receiver, _held: Some(items) }
    }
}

impl State {
    /// The value of a key; one that was never asked for comes into being.
    pub(super) fn value(&mut self, key: Key) -> u64 {
        let fresh = self.last_value + 1;
        let value = *self.current.entry(key).or_insert(fresh);
        self.last_value = self.last_value.max(value);
        value
    }

    pub(super) fn update(&mut self, key: Key) {
        self.last_value += 1;
        self.current.insert(key, self.last_value);
        self.give(key, || Item::Value(0));
    }

    /// Gives an item to the streams of a key; a value is always the current one.
    pub(super) fn give(&mut self, key: Key, item: impl Fn() -> Item) {
        let current = self.value(key);
        for open in self.streams.iter_mut().filter(|open| open.key == key) {
            let item = match item() {
                Item::Value(_) => Item::Value(current),
                fault => {
                    self.faults += 1;
                    open.is_well = false;
                    fault
                }
            };
            let _ = open.items.send(item);
        }
    }

    /// Ends the streams of a key.
    pub(super) fn end(&mut self, key: Key) {
        let before = self.streams.len();
        self.streams.retain(|open| open.key != key);
        self.faults += (before - self.streams.len()) as u64;
    }

    pub(super) fn report(&mut self, health: Health) {
        if let Some(sender) = &self.health {
            let _ = sender.send(health);
        }
    }

    pub(super) fn is_well(&self, key: Key) -> bool {
        self.streams.iter().any(|open| open.key == key && open.is_well)
    }

    pub(super) fn open_streams(&self, key: Key) -> usize {
        self.streams.iter().filter(|open| open.key == key).count()
    }

    /// The values that the leader of today was given.
    pub(super) fn given(&self, key: Key) -> &[u64] {
        self.given.get(&(self.instance, key)).map_or(&[], Vec::as_slice)
    }

    /// Whether any leader was given this value.
    pub(super) fn was_given(&self, key: Key, value: u64) -> bool {
        self.given
            .iter()
            .any(|((_, other), values)| *other == key && values.binary_search(&value).is_ok())
    }
}

/// A stream of the upstream.
struct Values {
    registry: Registry,
    instance: u64,
    key: Key,
    id: u64,
    receiver: mpsc::UnboundedReceiver<Item>,
    _held: Option<mpsc::UnboundedSender<Item>>,
}

impl Stream for Values {
    type Item = Result<u64, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let item = std::task::ready!(self.receiver.poll_recv(cx));
        let (instance, key, id) = (self.instance, self.key, self.id);
        let mut state = self.registry.lock();
        let open = state.streams.iter_mut().find(|open| open.id == id);
        Poll::Ready(match item {
            Some(Item::Value(value)) => {
                if let Some(open) = open {
                    open.is_well = true;
                }
                let given = state.given.entry((instance, key)).or_default();
                if given.last() != Some(&value) {
                    given.push(value);
                }
                Some(Ok(value))
            }
            Some(Item::Error) => {
                if let Some(open) = open {
                    open.is_well = false;
                }
                Some(Err(Error::new(ErrorKind::Client, "the model's error")))
            }
            Some(Item::Panic) => {
                drop(state);
                // No message, and no hook: it is part of the test.
                std::panic::resume_unwind(Box::new("the model's panic"));
            }
            None => None,
        })
    }
}

impl Drop for Values {
    fn drop(&mut self) {
        let id = self.id;
        self.registry.lock().streams.retain(|open| open.id != id);
    }
}

/// The client as a leader connects it.
pub(super) struct Client {
    registry: Registry,
    instance: u64,
}

impl Client {
    async fn publish(self: Arc<Self>, method: usize, args: Bytes) -> Answered {
        let (key, value): (u8, u64) = MessagePack::decode(args)?;
        let calls = self.registry.lock().calls;
        match calls {
            Calls::Refuse => {
                return Err(Failure::Client(Error::new(ErrorKind::Client, "refused"), None));
            }
            Calls::Slow(millis, true) => {
                self.apply(method, key, value);
                sleep(Duration::from_millis(millis)).await;
            }
            Calls::Slow(millis, false) => {
                sleep(Duration::from_millis(millis)).await;
                self.apply(method, key, value);
            }
            Calls::Work => self.apply(method, key, value),
        }
        Ok(Bytes::new().into())
    }

    fn apply(&self, method: usize, key: u8, value: u64) {
        let mut state = self.registry.lock();
        if !state.alive || state.instance != self.instance {
            return;
        }
        match method {
            PUBLISH => drop(state.published.insert(key, value)),
            _ => drop(state.published.remove(&key)),
        }
    }
}

/// [`Client`] as the leader sees it.
struct Shared(Arc<Client>);

impl Upstream for Shared {
    fn call(&self, method: usize, args: Bytes) -> Result<BoxFuture<Answered>, Error> {
        Ok(Box::pin(Arc::clone(&self.0).publish(method, args)))
    }

    fn open(&self, method: usize, args: Bytes, sink: Sink) -> Result<BoxFuture<End>, Error> {
        let (key, _): (u8, u8) = MessagePack::decode(args)?;
        let client = Arc::clone(&self.0);
        Ok(Box::pin(async move {
            if method == WATCH_ANSWERED && client.registry.lock().refuses {
                let refused = Error::new(ErrorKind::Client, "refused");
                return End::Refused(Failure::Client(refused, None));
            }
            let stream = client.registry.open(client.instance, (method, key));
            sink.run_results::<MessagePack, u64, Error, _>(stream, |error| {
                Failure::Client(error.clone(), None)
            })
            .await
        }))
    }

    fn health(&self, report: HealthReport) -> Option<BoxFuture<()>> {
        let (sender, mut health) = mpsc::unbounded_channel();
        self.0.registry.lock().health = Some(sender);
        Some(Box::pin(async move {
            while let Some(health) = health.recv().await {
                report(health);
            }
        }))
    }

    fn close(&self) -> BoxFuture<()> {
        Box::pin(std::future::ready(()))
    }
}

pub(super) struct Connect(pub(super) Registry);

impl Connector for Connect {
    fn connect(&self) -> BoxFuture<Result<Arc<dyn Upstream>, Failure>> {
        let registry = self.0.clone();
        Box::pin(async move {
            let instance = {
                let mut state = registry.lock();
                state.instance += 1;
                state.alive = true;
                state.instance
            };
            Ok(Arc::new(Shared(Arc::new(Client { registry, instance }))) as Arc<dyn Upstream>)
        })
    }

    fn key(&self, method: usize, args: Bytes) -> Result<Bytes, Error> {
        match method {
            PUBLISH | UNPUBLISH => {
                let (key, _): (u8, u64) = MessagePack::decode(args)?;
                encode_value::<MessagePack, _>(&key)
            }
            _ => {
                let (key, _): (u8, u8) = MessagePack::decode(args)?;
                self::args(key, 0)
            }
        }
    }

    fn unit(&self) -> Bytes {
        Bytes::new()
    }
}
