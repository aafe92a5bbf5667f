//! The life of a follower's links: dial, register, replay, drive, and again.

use std::{
    sync::{Arc, MutexGuard, Weak, atomic::Ordering},
    task::Waker,
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{
    Dial, DialError, Dialed, Follower, Item, ItemValue, Liveness, Registered, Request, Shared,
    State, Status, Stream, Topic, hand_over::replaced, requests::is_call,
};
use crate::{
    connection::{Backoff, Endpoint, Link, drive},
    error::{Error, ErrorKind, Result},
    id_map::IdMap,
    options::Options,
    protocol::{
        Frame,
        pb::{self, Packet, packet::Body},
    },
    spec::Failure,
};

/// Keeps a follower registered until it is closed, or until the runtime ends, which closes it.
///
/// Whoever waits for the end waits for `status` to be dropped; `dial`, which holds a leader in this
/// process, is dropped before it.
pub(super) async fn run(
    shared: Arc<Shared>,
    status: watch::Receiver<Status>,
    dial: Box<dyn Dial>,
    liveness: Option<Arc<Liveness>>,
) {
    let _shut = ShutOnDrop(&shared);
    tokio::select! {
        biased;
        () = keep_registered(&shared, status, dial, liveness) => {}
        () = shared.watch_deadlines() => {}
    }
}

async fn keep_registered(
    shared: &Arc<Shared>,
    mut status: watch::Receiver<Status>,
    mut dial: Box<dyn Dial>,
    liveness: Option<Arc<Liveness>>,
) {
    let channel = Follower::registration(shared);
    let mut backoff = Backoff::new(shared.options.reconnect);
    loop {
        let dialed = {
            let report = |error: Error| shared.note_down(Status::Down(Some(error)));
            tokio::select! {
                dialed = dial.dial(&channel, &report) => dialed,
                () = closed(&mut status) => return,
            }
        };
        match dialed {
            Ok(dialed) => {
                let begin = Instant::now();
                let reason = shared.serve(dialed, liveness.as_deref()).await;
                let is_handed_over = shared.lost(&reason);
                if shared.lock().closed.is_some() {
                    return;
                }
                // The first redial comes at once: whoever takes over is found within milliseconds.
                // But a leader that takes links and loses them is not dialled in a busy loop.
                if is_handed_over || begin.elapsed() > shared.options.reconnect.1 {
                    backoff.reset();
                    continue;
                }
            }
            Err(DialError::Unreachable(error)) => shared.note_down(Status::Down(Some(error))),
            Err(DialError::Refused(error)) => shared.note_down(Status::Refused(error)),
        }
        tokio::select! {
            () = sleep(backoff.next_pause()) => {}
            () = closed(&mut status) => return,
        }
    }
}

/// Nothing can come of calls once the task that drives the link is gone.
struct ShutOnDrop<'a>(&'a Shared);

impl Drop for ShutOnDrop<'_> {
    fn drop(&mut self) {
        self.0.shut();
    }
}

async fn closed(status: &mut watch::Receiver<Status>) {
    let is_closed = |status: &Status| matches!(status, Status::Closed);
    if status.wait_for(is_closed).await.is_err() {
        // The sender lives in what `run` holds itself.
        std::future::pending::<()>().await;
    }
}

impl Shared {
    pub(super) fn note_down(&self, status: Status) {
        let error = match &status {
            Status::Down(Some(error)) | Status::Refused(error) => error.clone(),
            _ => return,
        };
        self.status.send_if_modified(|now| {
            if matches!(now, Status::Closed) {
                return false;
            }
            *now = status;
            true
        });
        self.reach.down(error);
        self.wake_topics();
    }

    fn wake_topics(&self) {
        let topics: Vec<_> =
            self.lock().topics.values().map(|entry| Arc::clone(&entry.topic)).collect();
        for topic in topics {
            topic.wake();
        }
    }

    /// Serves one link to its end.
    async fn serve(self: &Arc<Self>, dialed: Dialed, liveness: Option<&Liveness>) -> Error {
        let Dialed { stream, reader, answer } = dialed;
        let link = Link::new(self.options.max_queued);
        let Some(generation) = self.up(&link, &answer) else { return self.closed() };
        let mut end = LinkEnd {
            shared: Arc::clone(self),
            generation,
            epoch: answer.epoch,
            numbers: IdMap::default(),
            liveness,
            last_id: None,
            results: Vec::new(),
            wakers: Vec::new(),
            values: Vec::new(),
            of: 0,
            goodbye: None,
        };
        // Its limits hold on its links: what it may send must not close them.
        let limit = |told: u64| usize::try_from(told).unwrap_or(usize::MAX);
        let options = Options {
            max_payload: limit(answer.max_payload),
            max_queued: limit(answer.max_queued),
            ..self.options.clone()
        };
        let reason = match stream {
            Stream::Tcp(stream) => drive(stream, reader, &link, &mut end, &options).await,
            Stream::Memory(stream) => drive(stream, reader, &link, &mut end, &options).await,
        };
        end.goodbye.take().unwrap_or(reason)
    }

    /// A link is registered: everything that is not answered, subscribed or published goes out on
    /// it, in the order that makes it whole: publications, then what was asked for since.
    fn up(self: &Arc<Self>, link: &Link, answer: &pb::RegisteredBody) -> Option<u64> {
        let mut state = self.lock();
        if state.closed.is_some() {
            return None;
        }
        self.reach.up(link.clone());
        let generation = self.reach.generation();
        state.awaits_next = false;
        state.link = Some(Registered {
            link: link.clone(),
            generation,
            mismatches: answer.mismatches.clone(),
            max_payload: usize::try_from(answer.max_payload).unwrap_or(usize::MAX),
        });
        let publications: Vec<_> = state.publications.keys().cloned().collect();
        for key in publications {
            self.send_replay(&mut state, key, 0);
        }
        let _ = link.replay(Frame::new(0, pb::Replayed {}).in_order(), None);
        let topics: Vec<u64> = state.topics.keys().copied().collect();
        for topic in topics {
            self.send_subscribe(&mut state, topic);
        }
        let mut calls: Vec<u64> = state.requests.calls().map(|(id, _)| id).collect();
        calls.sort_unstable();
        let now = Instant::now();
        let mut refused = Vec::new();
        for id in calls {
            let Some(pending) = state.requests.call(id) else { continue };
            let len = pending.args.len();
            let fits = state.link.as_ref().map_or(Ok(()), |link| link.check_size(len));
            if let Err(error) = fits {
                refused.push((id, error));
            } else if pending.deadline > now {
                let left = pending.deadline - now;
                let _ = link.replay(pending.frame(id, left), Some(id));
            } else if pending.is_abandoned {
                state.requests.close(id);
            }
            // Else its caller is about to notice, and takes it off the table.
        }
        drop(state);
        for (id, error) in refused {
            self.answer(id, Err(error.into()));
        }
        self.status.send_if_modified(|now| {
            let open = !matches!(now, Status::Closed);
            if open {
                *now = Status::Up;
            }
            open
        });
        self.wake_topics();
        tracing::debug!(channel = %self.channel, pid = answer.pid, "registered at the leader");
        Some(generation)
    }

    fn send_replay(&self, state: &mut State, key: (usize, Bytes), failures: u32) {
        let Some(registered) = &state.link else { return };
        let Some(args) = state.publications.get(&key).cloned() else { return };
        if let Err(error) = registered.check_size(args.len()) {
            return self.note_replay_failure(key.0, &error);
        }
        let id = state.requests.next_id();
        let timeout_ms = u32::try_from(self.options.call_timeout.as_millis()).unwrap_or(u32::MAX);
        let publish = pb::Publish { method: key.0 as u32, timeout_ms };
        let _ = registered.link.replay(Frame::with_payload(id, publish, args).in_order(), None);
        state.requests.insert(id, Request::Replay(key, failures));
    }

    fn note_replay_failure(&self, method: usize, error: &Error) {
        let count = self.replay_failures.fetch_add(1, Ordering::Relaxed) + 1;
        tracing::warn!(
            channel = %self.channel,
            method = self.spec.methods[method].name,
            %error,
            count,
            "publishing again failed"
        );
    }

    /// A publication was refused when it was sent again. It stays what this process wants
    /// published, so it is tried until it is taken or withdrawn.
    fn replay_later(self: &Arc<Self>, generation: u64, key: (usize, Bytes), failures: u32) {
        self.later(generation, failures, move |shared, mut state| {
            if state.requests.calls().any(|(_, pending)| pending.concerns(&key)) {
                // It must not overtake what was asked for since.
                shared.replay_later(generation, key, failures);
            } else {
                shared.send_replay(&mut state, key, failures);
            }
        });
    }

    /// Sends something again after a pause, if the link is still the same then.
    fn later(
        self: &Arc<Self>,
        generation: u64,
        failures: u32,
        send: impl FnOnce(&Arc<Self>, MutexGuard<'_, State>) + Send + 'static,
    ) {
        let shared = Arc::clone(self);
        let (shortest, longest) = shared.options.reconnect;
        let pause = shortest.saturating_mul(1 << failures.min(16)).min(longest);
        tokio::spawn(async move {
            sleep(pause).await;
            let state = shared.lock();
            if state.link.as_ref().is_some_and(|link| link.generation == generation) {
                send(&shared, state);
            }
        });
    }

    /// The link is lost. True: its leader has said that another one takes its place.
    fn lost(&self, reason: &Error) -> bool {
        tracing::debug!(channel = %self.channel, %reason, "the link to the leader is lost");
        let mut state = self.lock();
        state.link = None;
        let is_handed_over = state.leaving.take().is_some();
        let mut failed = Vec::new();
        for (id, pending) in state.requests.calls_mut() {
            if pending.survives_link() {
                pending.is_sent = false;
            } else {
                failed.push(id);
            }
        }
        state.requests.link_is_lost();
        for entry in state.topics.values_mut() {
            entry.request = 0;
            if !is_handed_over {
                entry.topic.drop_items();
            }
        }
        drop(state);
        self.note_down(Status::Down(Some(reason.clone())));
        for id in failed {
            let lost = Error::new(
                ErrorKind::LeaderLost,
                "the leader was lost after the call was sent; it may have run. Mark the method \
                 idempotent to have it sent again",
            );
            self.answer(id, Err(lost.with_source(reason.clone()).into()));
        }
        is_handed_over
    }
}

/// The follower's end of one link.
struct LinkEnd<'a> {
    shared: Arc<Shared>,
    generation: u64,
    epoch: u64,
    /// The topics by the leader's number. Two keys that differ here can be one there. Who holds a
    /// topic are its subscribers.
    numbers: IdMap<Vec<Weak<Topic>>>,
    liveness: Option<&'a Liveness>,
    /// The last request that the leader takes, once it has said that it goes.
    last_id: Option<u64>,
    /// Answers that arrived behind one another, and whom they wake.
    results: Vec<(u64, pb::Result, Bytes)>,
    wakers: Vec<Waker>,
    /// Values of one topic that arrived behind one another.
    values: Vec<(pb::Update, Bytes)>,
    /// The number of their topic.
    of: u64,
    /// Why the leader said that it goes.
    goodbye: Option<Error>,
}

/// So much of one topic at a time is a burst: a quarter of what is read at once, so that values which
/// are kept where they were read keep no more than four times their own memory.
const BURST: usize = 16 << 10;

impl LinkEnd<'_> {
    /// Hands on the answers that arrived, under one lock.
    fn hand_on_results(&mut self) {
        if self.results.is_empty() {
            return;
        }
        let mut failed = Vec::new();
        let mut state = self.shared.lock();
        for (id, result, payload) in self.results.drain(..) {
            if !is_call(id) {
                if let Some(Request::Replay(key, failures)) = state.requests.remove(id)
                    && let Some(error) = result.error
                {
                    failed.push((key, failures, error));
                }
                continue;
            }
            let is_ok = result.error.is_none();
            let reply = match result.error {
                Some(error) => Err(Failure::from(error)),
                None => Ok(payload),
            };
            let Some((pending, waker)) = state.requests.answer(id, reply) else { continue };
            match pending.published(is_ok) {
                Some((key, Some(args))) => drop(state.publications.insert(key, args)),
                Some((key, None)) => drop(state.publications.remove(&key)),
                None => {}
            }
            self.wakers.extend(waker);
        }
        state.leave_if_done();
        drop(state);
        self.wakers.drain(..).for_each(Waker::wake);
        for (key, failures, error) in failed {
            self.shared.note_replay_failure(key.0, &error.into());
            self.shared.replay_later(self.generation, key, failures + 1);
        }
    }

    /// The leader refuses a subscription. One that a leader had taken goes on all the same: what
    /// keeps the client of a new leader from opening it may be over soon.
    fn refused(&self, mut state: MutexGuard<'_, State>, id: u64, failure: &Failure) {
        let Some(entry) = state.topics.get_mut(&id) else { return };
        let error = self.shared.name_error(entry.topic.method, failure.clone().into_error());
        if entry.is_accepted
            && !matches!(error.kind(), ErrorKind::MethodMismatch | ErrorKind::Decode)
        {
            entry.request = 0;
            entry.refusals += 1;
            let (topic, refusals) = (Arc::clone(&entry.topic), entry.refusals);
            drop(state);
            topic.refused(error);
            topic.wake();
            let again = move |shared: &Arc<Shared>, mut state: MutexGuard<'_, State>| {
                shared.send_subscribe(&mut state, id);
                drop(state);
                topic.wake();
            };
            return self.shared.later(self.generation, refusals, again);
        }
        let Some(entry) = state.topics.remove(&id) else { return };
        state.shared.remove(&(entry.topic.method, entry.topic.key.clone()));
        drop(state);
        entry.topic.close(error);
        for answer in entry.answers {
            let _ = answer.send(Err(failure.clone()));
        }
    }

    fn subscribed(&mut self, id: u64, result: pb::SubscribeResult) {
        let mut state = self.shared.lock();
        let Some(Request::Subscribe(topic)) = state.requests.remove(id) else { return };
        if let Some(refused) = result.refused {
            return self.refused(state, topic, &refused.into());
        }
        let Some(entry) = state.topics.get_mut(&topic) else { return };
        let topic = Arc::clone(&entry.topic);
        topic.accepted(self.epoch, result.topic);
        let known = self.numbers.entry(result.topic).or_default();
        known.retain(|other| !std::ptr::eq(other.as_ptr(), Arc::as_ptr(&topic)));
        known.push(Arc::downgrade(&topic));
        entry.is_accepted = true;
        entry.refusals = 0;
        let answers = std::mem::take(&mut entry.answers);
        if self.numbers.len() > 2 * state.topics.len() {
            self.numbers.retain(|_, topics| topics.iter().any(|topic| topic.strong_count() > 0));
        }
        if topic.is_one
            && let Some(registered) = &state.link
        {
            let room = u32::try_from(self.shared.options.deliver_window).unwrap_or(u32::MAX);
            let open = pb::Settle { item: 0, done: true, room };
            let _ = registered.link.replay(Frame::new(id, open), None);
        }
        drop(state);
        for answer in answers {
            let _ = answer.send(Ok(()));
        }
    }

    fn topics(&self, number: u64) -> impl Iterator<Item = Arc<Topic>> {
        self.numbers.get(&number).into_iter().flatten().filter_map(Weak::upgrade)
    }

    /// Hands the values that arrived to their topic, in one go.
    fn hand_on_values(&mut self) {
        if self.values.is_empty() {
            return;
        }
        let len: usize = self.values.iter().map(|(_, value)| value.len()).sum();
        let (generation, is_burst) = (self.generation, len >= BURST);
        let mut values = std::mem::take(&mut self.values);
        let mut topics = self.topics(self.of).peekable();
        while let Some(topic) = topics.next() {
            if topics.peek().is_some() {
                topic.update(generation, values.iter().cloned(), is_burst);
            } else {
                topic.update(generation, values.drain(..), is_burst);
            }
        }
        drop(topics);
        values.clear();
        self.values = values;
    }

    fn delivered(&self, id: u64, deliver: &pb::Deliver, value: Bytes) {
        let state = self.shared.lock();
        let found = state.topics.values().find(|entry| entry.request == id);
        let topic = found.map(|entry| Arc::clone(&entry.topic));
        drop(state);
        if let Some(topic) = topic {
            topic.delivered(Item {
                number: deliver.item,
                redelivered: deliver.redelivered,
                value: ItemValue::Encoded(value),
                generation: self.generation,
            });
        }
        // Else it was unsubscribed meanwhile, and the leader gives the item to another.
    }
}

impl Endpoint for LinkEnd<'_> {
    fn on_packet(&mut self, packet: Packet) -> Result<()> {
        let Packet { id, body, payload } = packet;
        // What is put together keeps its place among the others.
        if self.of != id || !matches!(body, Some(Body::Update(_))) {
            self.hand_on_values();
        }
        if !matches!(body, Some(Body::Result(_))) {
            self.hand_on_results();
        }
        match body {
            Some(Body::Result(result)) => self.results.push((id, result, payload)),
            Some(Body::Update(update)) => {
                self.of = id;
                self.values.push((update, payload));
            }
            Some(Body::State(state)) => {
                for topic in self.topics(id) {
                    topic.told(state.clone());
                }
            }
            Some(Body::SubscribeResult(result)) => self.subscribed(id, result),
            Some(Body::Deliver(deliver)) => self.delivered(id, &deliver, payload),
            Some(Body::GoAway(pb::GoAway { last_id: Some(last_id), .. })) => {
                self.last_id.get_or_insert(last_id);
                self.goodbye = Some(replaced());
                self.shared.leader_leaves(last_id);
            }
            Some(Body::GoAway(goodbye)) => {
                let reason = goodbye.reason.map_or_else(|| self.shared.closed(), Error::from);
                self.goodbye = Some(Error::new(
                    ErrorKind::Disconnected,
                    format!("the leader went away: {reason}"),
                ));
            }
            // Unknown and meaningless packets are ignored, so that the protocol can grow.
            _ => {}
        }
        Ok(())
    }

    fn on_all_taken(&mut self) {
        self.hand_on_values();
        self.hand_on_results();
    }

    fn on_sent(&mut self, ids: impl Iterator<Item = u64>) {
        let mut state = self.shared.lock();
        let last_id = self.last_id.unwrap_or(u64::MAX);
        for id in ids.filter(|id| *id <= last_id) {
            if let Some(pending) = state.requests.call_mut(id) {
                pending.is_sent = true;
            }
        }
    }

    fn on_heard(&mut self, _now: Instant) {
        if self.shared.reach.heard() {
            self.shared.wake_topics();
        }
    }

    fn on_silence(&mut self, silence: Duration) {
        if silence < self.shared.options.stale_after {
            return;
        }
        // The last heartbeats of a process that stopped came up to one interval apart, so that the
        // liveness link must have been heard more recently than this link's silence began.
        let bound = self.shared.options.stale_after - self.shared.options.heartbeat;
        let lives = self.liveness.is_some_and(|link| link.heard_within(bound));
        if self.shared.reach.silent(silence, lives) {
            self.shared.wake_topics();
        }
    }
}
