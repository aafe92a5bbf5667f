//! A follower: the end that users hold. It forwards calls, publications and subscriptions to the
//! leader of its channel, and makes them whole again after each loss.
//!
//! ```text
//!  call / publish / subscribe ──► State (one lock) ──► Link ──► leader
//!                                   ▲                           │
//!                  LinkEnd ─────────┴──── answers, values ◄─────┘
//! ```
//! All that must survive a link is in [`State`]: requests that wait for an answer, topics,
//! publications. One task ([`link`]) dials, registers, replays and drives, again and again.

mod call;
mod deadline;
mod dial;
mod hand_over;
mod handle;
mod link;
mod liveness;
mod pending;
mod reach;
mod requests;
#[cfg(test)]
mod tests;
mod topic;

use std::{
    collections::HashMap,
    sync::{
        Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use dashmap::DashMap;
use tokio::{
    runtime,
    sync::{Notify, Semaphore, oneshot, watch},
    time::{Instant, timeout_at},
};

pub use self::topic::State as SubscriptionState;
pub(crate) use self::{
    call::Asked,
    dial::{Dial, DialError, Dialed, Dialing, Report, Stream, register, register_here},
    handle::TopicHandle,
    liveness::Liveness,
    topic::{Cursor, Decoded, Decoder, Entry, Event, Item, ItemValue, Topic},
};
use self::{
    call::Room,
    reach::Reach,
    requests::{Request, Requests},
};
use crate::{
    connection::Link,
    error::{Error, ErrorKind, Result},
    id_map::IdMap,
    options::Options,
    protocol::{Frame, handshake, method_table, pb},
    spec::{ChannelSpec, Failure, MethodKind},
};

/// The followers of this process that have not ended, by owner.
static FOLLOWERS: LazyLock<DashMap<[u8; 16], Weak<Shared>>> = LazyLock::new(DashMap::new);

/// Closes all followers of this process, and waits until their goodbyes are written.
///
/// # Cancel safety
///
/// Cancel safe: they are closed from the first poll on.
#[cfg(all(unix, feature = "process"))]
pub(crate) async fn close_all() {
    let followers: Vec<_> = FOLLOWERS.iter().filter_map(|follower| follower.upgrade()).collect();
    for follower in &followers {
        follower.shut();
    }
    for follower in &followers {
        follower.status.closed().await;
    }
}

/// Waits for the next leaders of those who have published something, where the last leader handed its
/// channel over: nobody else can withdraw it.
///
/// # Cancel safety
///
/// Cancel safe.
#[cfg(all(unix, feature = "process"))]
pub(crate) async fn meet_next_leaders() {
    let followers: Vec<_> = FOLLOWERS.iter().filter_map(|follower| follower.upgrade()).collect();
    for follower in followers {
        let mut status = follower.status.subscribe();
        let is_missed = {
            let state = follower.lock();
            state.awaits_next && !state.publications.is_empty()
        };
        if is_missed {
            // An error means that it is gone.
            let _ = status.wait_for(|status| !matches!(status, Status::Down(_))).await;
        }
    }
}

/// How a follower stands, for people who look at their cluster.
#[cfg(all(unix, feature = "process"))]
#[derive(Debug)]
pub(crate) struct FollowerReport {
    pub(crate) channel: String,
    /// Why there is no link.
    pub(crate) trouble: Option<Error>,
    pub(crate) subscriptions: usize,
    pub(crate) publications: usize,
    /// Calls that wait for their answer.
    pub(crate) calls: usize,
}

/// Reports of all followers of this process. It takes their locks for a moment each.
#[cfg(all(unix, feature = "process"))]
pub(crate) fn reports() -> Vec<FollowerReport> {
    let followers: Vec<_> = FOLLOWERS.iter().filter_map(|follower| follower.upgrade()).collect();
    followers.into_iter().filter_map(|follower| follower.report()).collect()
}

/// A follower, which ends when the last clone and the last subscription are dropped.
#[derive(Clone)]
pub(crate) struct Follower(Arc<Guard>);

/// Closes the follower when nobody holds it any more.
struct Guard(Arc<Shared>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.shut();
    }
}

/// What the users and the link's task share.
struct Shared {
    channel: String,
    spec: ChannelSpec,
    options: Options,
    /// Random: the owner of what is published here.
    owner: [u8; 16],
    state: Mutex<State>,
    reach: Arc<Reach>,
    /// Permits for those who wait for room in `State::room`.
    in_flight: Semaphore,
    /// A deadline lies before the one that is watched.
    earlier_deadline: Notify,
    /// The runtime that drives the links.
    runtime: runtime::Id,
    status: watch::Sender<Status>,
    replay_failures: AtomicU64,
}

/// How the follower stands with its leader.
#[derive(Debug, Clone)]
enum Status {
    /// Not registered; why, if it was tried.
    Down(Option<Error>),
    /// Refused by the owner of the port.
    Refused(Error),
    Up,
    Closed,
}

/// All that outlives a link, under one lock: so that what is asked for while a link comes or goes
/// is either replayed on it or sent on it, and never both or neither.
#[derive(Default)]
struct State {
    link: Option<Registered>,
    requests: Requests,
    room: Room,
    /// The deadline that is watched: none of those who wait lies before it.
    next_deadline: Option<Instant>,
    topics: IdMap<TopicEntry>,
    /// Topics that several subscribers of this process share.
    shared: HashMap<(usize, Bytes), u64>,
    /// What this process has published, by publish method and key: the arguments.
    publications: HashMap<(usize, Bytes), Bytes>,
    closed: Option<Error>,
    /// The link to a leader that goes. It is not `link` any more, so that nothing new is sent on it.
    leaving: Option<Leaving>,
    /// Whether the last leader said that another one takes its place, which is not there yet.
    awaits_next: bool,
    /// The links whose leader went with a hand-over, one a reload: work items that came on them are
    /// still this process's.
    handed_over: Vec<u64>,
}

/// A link to a leader that hands its channel over: what it still answers is waited for.
struct Leaving {
    link: Link,
    /// Later requests are the next leader's.
    last_id: u64,
    /// Nothing is waited for any more, and the leader knows.
    is_done: bool,
}

/// A link that is registered.
struct Registered {
    link: Link,
    generation: u64,
    mismatches: Vec<String>,
    max_payload: usize,
}

impl Registered {
    /// The leader closes a link on which more comes than it takes.
    fn check_size(&self, payload: usize) -> Result<()> {
        if payload <= self.max_payload {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::TooLarge,
            format!(
                "the arguments have {payload} bytes, more than the leader's limit of {}",
                self.max_payload
            ),
        ))
    }
}

struct TopicEntry {
    topic: Arc<Topic>,
    subscribers: usize,
    /// The request that subscribed on the present link; 0 without a link.
    request: u64,
    /// A leader took it once.
    is_accepted: bool,
    /// How often leaders have refused it since.
    refusals: u32,
    /// Who waits for the leader's answer to the first request. They are woken, and dropped, without
    /// the lock, as all wakers are: what a waker runs or drops may use the follower.
    answers: Vec<oneshot::Sender<Result<(), Failure>>>,
}

/// What a follower is made of.
pub(crate) struct FollowerSetup {
    pub(crate) channel: String,
    pub(crate) spec: ChannelSpec,
    pub(crate) options: Options,
    pub(crate) dial: Box<dyn Dial>,
    pub(crate) liveness: Option<Arc<Liveness>>,
}

impl Follower {
    /// Registers at the leader of the channel.
    ///
    /// # Errors
    ///
    /// The refusal of the leader, or why none was found within `create_timeout`.
    ///
    /// # Cancel safety
    ///
    /// Dropping it gives up.
    pub(crate) async fn create(setup: FollowerSetup) -> Result<Self> {
        let deadline = Instant::now() + setup.options.create_timeout;
        let shared = Arc::new(Shared {
            owner: handshake::random()?,
            reach: Arc::new(Reach::new(setup.options.stale_after)),
            in_flight: Semaphore::new(0),
            earlier_deadline: Notify::new(),
            runtime: runtime::Handle::current().id(),
            state: Mutex::new(State {
                room: Room::new(setup.options.max_in_flight),
                ..State::default()
            }),
            status: watch::Sender::new(Status::Down(None)),
            replay_failures: AtomicU64::new(0),
            channel: setup.channel,
            spec: setup.spec,
            options: setup.options,
        });
        let follower = Self(Arc::new(Guard(Arc::clone(&shared))));
        FOLLOWERS.insert(shared.owner, Arc::downgrade(&shared));
        let mut status = shared.status.subscribe();
        let run = link::run(Arc::clone(&shared), status.clone(), setup.dial, setup.liveness);
        tokio::spawn(run);
        let settled = |status: &Status| !matches!(status, Status::Down(_));
        let outcome = timeout_at(deadline, status.wait_for(settled)).await;
        let outcome = outcome.map(|settled| settled.map(|status| status.clone()));
        match outcome {
            Ok(Ok(Status::Up)) => Ok(follower),
            // The wire does not carry the name.
            Ok(Ok(Status::Refused(error))) => Err(error.with_channel(&shared.channel)),
            Ok(_) => Err(shared.closed()),
            Err(_) => Err(shared.why_down().with_channel(&shared.channel)),
        }
    }

    /// What a follower sends to register.
    fn registration(shared: &Shared) -> pb::Channel {
        // The refusal names the owner of the port and what it leads, so it should come before
        // `create` gives up by itself.
        let wait = shared.options.create_timeout / 8 * 7;
        pb::Channel {
            name: shared.channel.clone(),
            codec: shared.spec.codec.to_owned(),
            methods: method_table(shared.spec.methods),
            owner: shared.owner.to_vec().into(),
            wait_ms: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX),
        }
    }

    pub(crate) fn channel(&self) -> &str {
        &self.shared().channel
    }

    /// The runtime that drives the links.
    pub(crate) fn runtime(&self) -> runtime::Id {
        self.shared().runtime
    }

    pub(crate) fn options(&self) -> &Options {
        &self.shared().options
    }

    pub(crate) fn method_name(&self, method: usize) -> &'static str {
        self.shared().spec.methods.get(method).map_or("?", |spec| spec.name)
    }

    /// Why there is no link at the moment.
    pub(crate) fn down(&self) -> Option<Error> {
        match &*self.shared().status.borrow() {
            Status::Up => None,
            Status::Down(error) => Some(error.clone().unwrap_or_else(not_connected)),
            Status::Refused(error) => Some(error.clone()),
            Status::Closed => Some(self.shared().closed()),
        }
    }

    /// Tries to publish again after a reconnect that failed.
    pub(crate) fn replay_failures(&self) -> u64 {
        self.shared().replay_failures.load(Ordering::Relaxed)
    }

    /// Ends the link with a goodbye: what was published here is withdrawn at once.
    pub(crate) fn close(&self) {
        self.shared().shut();
    }

    /// Waits until the goodbye is written.
    pub(crate) async fn closed(&self) {
        self.shared().status.closed().await;
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.0.0
    }

    /// Subscribes to a topic. Subscribers of one process to one key share it, except for work
    /// items. `answer` hears whether the leader took it.
    ///
    /// Where it can't be subscribed to, the subscription is there, closed with the reason.
    pub(crate) fn subscribe(
        &self,
        method: usize,
        key: Result<Bytes>,
        answer: Option<oneshot::Sender<Result<(), Failure>>>,
    ) -> TopicHandle {
        let shared = self.shared();
        let is_one =
            matches!(shared.spec.methods[method].kind, MethodKind::Subscribe { one: true, .. });
        let bounds = (shared.options.ring_values, shared.options.ring_bytes);
        let key = key.and_then(|key| shared.check_size(key.len()).map(|()| key));
        let (key, refusal) = match key {
            Ok(key) => (key, None),
            Err(error) => (Bytes::new(), Some(error)),
        };
        let mut state = shared.lock();
        let refusal = refusal.or_else(|| shared.unusable(&state, method));
        if refusal.is_none()
            && !is_one
            && let Some(id) = state.shared.get(&(method, key.clone())).copied()
            && let Some(entry) = state.topics.get_mut(&id)
        {
            entry.subscribers += 1;
            let topic = Arc::clone(&entry.topic);
            let answered = if entry.is_accepted {
                answer
            } else {
                entry.answers.extend(answer);
                None
            };
            drop(state);
            if let Some(answer) = answered {
                let _ = answer.send(Ok(()));
            }
            return TopicHandle { follower: Some(self.clone()), id, topic };
        }
        let reach = Arc::clone(&shared.reach);
        let topic = Arc::new(Topic::new((method, key.clone()), is_one, reach, bounds));
        // Only a new topic counts: one more subscriber to a known one costs the leader nothing.
        if let Some(error) = refusal.or_else(|| shared.too_many_topics(&state)) {
            drop(state);
            let error = shared.name_error(method, error);
            topic.close(error.clone());
            if let Some(answer) = answer {
                let _ = answer.send(Err(error.into()));
            }
            return TopicHandle { follower: Some(self.clone()), id: 0, topic };
        }
        let id = state.requests.next_id();
        let entry = TopicEntry {
            topic: Arc::clone(&topic),
            subscribers: 1,
            request: 0,
            is_accepted: false,
            refusals: 0,
            answers: answer.into_iter().collect(),
        };
        state.topics.insert(id, entry);
        if !is_one {
            state.shared.insert((method, key), id);
        }
        shared.send_subscribe(&mut state, id);
        TopicHandle { follower: Some(self.clone()), id, topic }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        FOLLOWERS.remove(&self.owner);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None` where it is closed.
    #[cfg(all(unix, feature = "process"))]
    fn report(&self) -> Option<FollowerReport> {
        let trouble = match &*self.status.borrow() {
            Status::Up => None,
            Status::Down(error) => Some(error.clone().unwrap_or_else(not_connected)),
            Status::Refused(error) => Some(error.clone()),
            Status::Closed => return None,
        };
        let state = self.lock();
        Some(FollowerReport {
            channel: self.channel.clone(),
            trouble,
            subscriptions: state.topics.len(),
            publications: state.publications.len(),
            calls: state.requests.calls().count(),
        })
    }

    fn closed(&self) -> Error {
        Error::closed("the client").with_channel(&self.channel)
    }

    fn why_down(&self) -> Error {
        match &*self.status.borrow() {
            Status::Down(Some(error)) | Status::Refused(error) => error.clone(),
            Status::Down(None) | Status::Up => not_connected(),
            Status::Closed => self.closed(),
        }
    }

    fn name_error(&self, method: usize, error: Error) -> Error {
        let name = self.spec.methods.get(method).map_or("?", |spec| spec.name);
        error.with_channel(&self.channel).with_method(name)
    }

    /// Why a method can't be used now, if so.
    fn unusable(&self, state: &State, method: usize) -> Option<Error> {
        if let Some(error) = &state.closed {
            return Some(error.clone());
        }
        let reason = state.link.as_ref()?.mismatches.get(method)?;
        (!reason.is_empty()).then(|| Error::new(ErrorKind::MethodMismatch, reason.as_str()))
    }

    /// Why a topic can't be added, if so.
    fn too_many_topics(&self, state: &State) -> Option<Error> {
        let bound = self.options.max_subscriptions;
        (state.topics.len() >= bound).then(|| {
            let reason = format!("this client has {bound} subscriptions already");
            Error::new(ErrorKind::Overloaded, reason)
        })
    }

    /// Sends the subscribe request of a topic, if there is a link. Its subscribers are to be woken
    /// after it, without the lock.
    fn send_subscribe(&self, state: &mut State, topic: u64) {
        let Some(registered) = &state.link else { return };
        let Some(entry) = state.topics.get_mut(&topic) else { return };
        if let Err(error) = registered.check_size(entry.topic.key.len()) {
            return entry.topic.refused(self.name_error(entry.topic.method, error));
        }
        let id = state.requests.next_id();
        entry.request = id;
        let has = entry.topic.has();
        let subscribe = pb::Subscribe {
            method: entry.topic.method as u32,
            epoch: has.epoch,
            topic: has.topic,
            version: has.version,
        };
        state.requests.insert(id, Request::Subscribe(topic));
        let frame = Frame::with_payload(id, subscribe, entry.topic.key.clone());
        // Bounded by the number of topics. An error means that the link is gone, and then all this
        // is done again on the next one.
        let _ = registered.link.replay(frame, None);
    }

    /// Closes, once. What waits is answered, and the leader is told goodbye.
    fn shut(&self) {
        let closed = self.closed();
        let mut state = self.lock();
        if state.closed.is_some() {
            return;
        }
        state.closed = Some(closed.clone());
        let leaving = state.leaving.take().map(|leaving| leaving.link);
        if let Some(link) = state.link.take().map(|registered| registered.link).or(leaving) {
            let goodbye = pb::GoAway { reason: None, last_id: None };
            let _ = link.replay(Frame::new(0, goodbye), None);
            link.finish(closed.clone());
        }
        let calls: Vec<u64> = state.requests.calls().map(|(id, _)| id).collect();
        state.requests.link_is_lost();
        let topics = std::mem::take(&mut state.topics);
        state.shared.clear();
        state.publications.clear();
        drop(state);
        for id in calls {
            self.answer(id, Err(closed.clone().into()));
        }
        for (_, entry) in topics {
            entry.topic.close(closed.clone());
            for answer in entry.answers {
                let _ = answer.send(Err(closed.clone().into()));
            }
        }
        self.status.send_replace(Status::Closed);
    }
}

fn not_connected() -> Error {
    Error::new(ErrorKind::Disconnected, "not connected to a leader yet")
}
