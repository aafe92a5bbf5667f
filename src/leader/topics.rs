//! The topics of a leader: one upstream stream each, however many followers subscribe.
//!
//! A topic is driven by one task from its first subscriber to its last. Attaching happens under
//! the lock of the map, and so does the decision that a topic is over; so no subscriber can be
//! attached to a topic that has ended.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures::FutureExt as _;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use super::{
    Leader, Sink, between,
    call::guarded,
    lock,
    peer::Peer,
    topic::{Given, Ring, TopicState},
    work::{SubscriptionId, WorkState},
};
use crate::{
    connection::Backoff,
    error::{Error, ErrorKind, Result},
    protocol::Batch,
    spec::{End, Failure, MethodKind, MethodSpec},
};

/// The topics by method and canonical key.
#[derive(Default)]
pub(super) struct Topics {
    map: Mutex<TopicMap>,
}

#[derive(Default)]
struct TopicMap {
    topics: HashMap<(usize, Bytes), Arc<Topic>>,
    /// Numbers are never used again while the leader lives.
    last_number: u64,
}

/// What a follower says that it has of a topic.
#[derive(Debug, Clone, Copy)]
pub(super) struct Has {
    pub(super) epoch: u64,
    pub(super) topic: u64,
    pub(super) version: u64,
}

pub(super) struct Topic {
    pub(super) number: u64,
    pub(super) method: usize,
    pub(super) key: Bytes,
    spec: &'static MethodSpec,
    inner: Mutex<Inner>,
    /// How many subscribe or wait to.
    demand: watch::Sender<usize>,
    /// A work item may be wanted.
    room: Notify,
}

struct Inner {
    state: TopicState<Arc<Peer>>,
    /// Of a topic whose items are given to one follower each.
    work: Option<WorkState<Arc<Peer>>>,
    /// False until the client has opened the first stream of an `async` subscribe method.
    opened: bool,
    /// Who subscribed before that.
    waiting: Vec<(Arc<Peer>, u64)>,
    /// Peer and request of each subscription. One follower can have two for a moment, when it
    /// subscribes again before it has unsubscribed.
    members: HashSet<(u64, u64)>,
}

impl Topics {
    /// Adds a follower to the topic of this key, which is made if there is none.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Overloaded`] if there are too many topics already.
    pub(super) fn attach(
        &self,
        leader: &Arc<Leader>,
        (method, key): (usize, Bytes),
        peer: &Arc<Peer>,
        request: u64,
        has: Has,
    ) -> Result<Arc<Topic>> {
        let mut map = lock(&self.map);
        let bound = leader.options.max_topics;
        if map.topics.len() >= bound && !map.topics.contains_key(&(method, key.clone())) {
            let reason = format!("the leader has {bound} topics already; raise options.max_topics");
            return Err(Error::new(ErrorKind::Overloaded, reason));
        }
        let number = map.last_number + 1;
        let made = map.topics.entry((method, key.clone())).or_insert_with(|| {
            let topic = Arc::new(Topic::new(leader, number, method, key));
            leader.tasks.spawn_on(drive(Arc::clone(leader), Arc::clone(&topic)), &leader.runtime);
            topic
        });
        let topic = Arc::clone(made);
        map.last_number = map.last_number.max(topic.number);
        let is_this = has.epoch == leader.epoch && has.topic == topic.number;
        topic.attach(peer, request, is_this.then_some(has.version));
        Ok(topic)
    }

    /// Takes an unused topic off the map. False: somebody subscribed meanwhile.
    fn retire(&self, topic: &Topic) -> bool {
        let mut map = lock(&self.map);
        if !topic.is_unused() {
            return false;
        }
        map.topics.remove(&(topic.method, topic.key.clone()));
        true
    }

    pub(super) fn len(&self) -> usize {
        lock(&self.map).topics.len()
    }

    #[cfg(test)]
    pub(super) fn find(&self, method: usize, key: &'static [u8]) -> Option<Arc<Topic>> {
        lock(&self.map).topics.get(&(method, Bytes::from_static(key))).cloned()
    }
}

impl Topic {
    fn new(leader: &Leader, number: u64, method: usize, key: Bytes) -> Self {
        let spec = &leader.spec.methods[method];
        let (one, answered) = match spec.kind {
            MethodKind::Subscribe { one, answered, .. } => (one, answered),
            _ => (false, false),
        };
        let bounds = Ring { values: leader.options.ring_values, bytes: leader.options.ring_bytes };
        Self {
            number,
            method,
            key,
            spec,
            inner: Mutex::new(Inner {
                state: TopicState::new(number, bounds),
                // Half, so that answers have their place in the queue, too.
                work: one.then(|| WorkState::new(leader.options.max_queued / 2)),
                opened: !answered,
                waiting: Vec::new(),
                members: HashSet::new(),
            }),
            demand: watch::Sender::new(0),
            room: Notify::new(),
        }
    }

    pub(super) fn quiet(&self) -> Option<Duration> {
        match self.spec.kind {
            MethodKind::Subscribe { quiet, .. } => quiet,
            _ => None,
        }
    }

    fn attach(self: &Arc<Self>, peer: &Arc<Peer>, request: u64, has: Option<u64>) {
        let mut inner = lock(&self.inner);
        inner.members.insert((peer.id, request));
        self.demand.send_replace(inner.members.len());
        if inner.opened {
            self.admit(&mut inner, peer, request, has);
        } else {
            inner.waiting.push((Arc::clone(peer), request));
        }
    }

    fn admit(
        self: &Arc<Self>,
        inner: &mut Inner,
        peer: &Arc<Peer>,
        request: u64,
        has: Option<u64>,
    ) {
        // The answer is queued before the topic can say anything to this follower.
        peer.answer_subscribe(request, Ok(self.number));
        inner.state.attach(peer.id, Arc::clone(peer), request, has);
        if let Some(work) = &mut inner.work {
            work.attach((peer.id, request), Arc::clone(peer));
        }
        peer.wake(Arc::clone(self));
    }

    /// Ends the subscription that this request began.
    pub(super) fn detach(self: &Arc<Self>, peer: u64, request: u64) {
        let mut inner = lock(&self.inner);
        inner.waiting.retain(|(other, theirs)| (other.id, *theirs) != (peer, request));
        inner.members.remove(&(peer, request));
        // Another subscription of the same follower goes on.
        let other = inner.members.iter().find(|(id, _)| *id == peer).map(|(_, other)| *other);
        inner.state.detach(peer, request, other);
        if let Some(work) = &mut inner.work {
            work.detach((peer, request));
        }
        self.demand.send_replace(inner.members.len());
        self.hand_out(inner);
    }

    fn is_unused(&self) -> bool {
        let inner = lock(&self.inner);
        inner.members.is_empty() && !inner.work.as_ref().is_some_and(WorkState::has_waiting)
    }

    #[cfg(test)]
    pub(super) fn has_member(&self, peer: u64, request: u64) -> bool {
        lock(&self.inner).members.contains(&(peer, request))
    }

    /// A value of the upstream.
    pub(super) fn push(self: &Arc<Self>, value: Bytes) {
        let woken = lock(&self.inner).state.push(value);
        self.wake(woken);
    }

    /// The topic is cut off from the upstream.
    pub(super) fn fail(self: &Arc<Self>, cause: Error) {
        let cause = cause.with_method(self.spec.name);
        tracing::debug!(method = self.spec.name, %cause, "a topic is stale");
        let woken = lock(&self.inner).state.fail(cause, Instant::now());
        self.wake(woken);
    }

    fn wake(self: &Arc<Self>, woken: Vec<Arc<Peer>>) {
        for peer in woken {
            peer.wake(Arc::clone(self));
        }
    }

    /// The client has opened the stream.
    pub(super) fn opened(self: &Arc<Self>) {
        let mut inner = lock(&self.inner);
        inner.opened = true;
        for (peer, request) in std::mem::take(&mut inner.waiting) {
            self.admit(&mut inner, &peer, request, None);
        }
    }

    /// The client did not open the stream. True: it never had, and who waited was told.
    fn refused(&self, failure: &Failure) -> bool {
        let mut inner = lock(&self.inner);
        if inner.opened {
            return false;
        }
        for (peer, request) in std::mem::take(&mut inner.waiting) {
            peer.answer_subscribe(request, Err(failure));
            inner.members.remove(&(peer.id, request));
        }
        self.demand.send_replace(inner.members.len());
        true
    }

    /// Waits until a follower has room for a work item.
    pub(super) async fn wants_item(&self) {
        loop {
            let room = self.room.notified();
            if self.has_room() {
                return;
            }
            room.await;
        }
    }

    /// Whether a follower has room for a work item.
    pub(super) fn has_room(&self) -> bool {
        lock(&self.inner).work.as_ref().is_some_and(WorkState::wants_item)
    }

    /// A work item of the upstream.
    pub(super) fn deliver(&self, value: Bytes) {
        let mut inner = lock(&self.inner);
        if let Some(work) = &mut inner.work {
            work.push(value);
        }
        self.hand_out(inner);
    }

    /// A follower settled a work item.
    pub(super) fn settle(&self, by: SubscriptionId, item: u64, done: bool, room: u32) {
        let mut inner = lock(&self.inner);
        if let Some(work) = &mut inner.work {
            work.settle(by, item, done, room);
        }
        self.hand_out(inner);
    }

    /// A follower is given no more work items, because this leader goes. What it was given is
    /// queued to it by then.
    pub(super) fn deliver_no_more(&self, id: SubscriptionId) {
        if let Some(work) = &mut lock(&self.inner).work {
            work.shut_out(id);
        }
    }

    /// A follower goes to the next leader, and takes along what it has not settled.
    pub(super) fn leave_items(&self, id: SubscriptionId) {
        if let Some(work) = &mut lock(&self.inner).work {
            work.leave(id);
        }
    }

    fn hand_out(&self, mut inner: std::sync::MutexGuard<'_, Inner>) {
        let Some(work) = &mut inner.work else { return };
        // Queued under the lock, so that what a follower was given is on its link when it is shut
        // out.
        for (peer, frame) in work.assign() {
            // A link that takes no more is closed; what it held goes to others then.
            if let Err(error) = peer.link.send(frame, None) {
                peer.link.finish(error);
            }
        }
        drop(inner);
        self.room.notify_one();
    }

    /// Work items have no values that could make the topic live; being open does.
    pub(super) fn is_one(&self) -> bool {
        matches!(self.spec.kind, MethodKind::Subscribe { one: true, .. })
    }

    /// The stream of work items is open.
    pub(super) fn live(self: &Arc<Self>) {
        let woken = lock(&self.inner).state.live();
        self.wake(woken);
    }

    /// Adds to a follower's next write what the follower does not have. True: there is more.
    pub(super) fn drain(&self, peer: u64, batch: &mut Batch) -> bool {
        let mut inner = lock(&self.inner);
        if batch.carries(self.number) {
            inner.state.hold_back(peer);
            return false;
        }
        inner.state.drain(peer, Instant::now(), &mut |frame| {
            if batch.push_value(frame, self.number) {
                Given::InParts
            } else if batch.has_room() {
                Given::AndRoom
            } else {
                Given::NoRoom
            }
        });
        inner.state.is_woken(peer)
    }

    /// A large value of this topic was written. True: there is more.
    pub(super) fn value_written(&self, peer: u64) -> bool {
        lock(&self.inner).state.value_written(peer)
    }
}

/// Drives a topic from its first subscriber until it was unused for the linger time.
async fn drive(leader: Arc<Leader>, topic: Arc<Topic>) {
    loop {
        tokio::select! {
            // In this order, so that what nobody uses any more is not opened once more.
            biased;
            () = leader.closing.cancelled() => return,
            () = unused(&leader, &topic) => {}
            () = run(&leader, &topic) => return,
        }
        // The stream is closed by now, so that it is never open twice: the next topic of this key
        // can be made only from here on.
        between();
        if leader.topics.retire(&topic) {
            return;
        }
        let reopened = "somebody subscribed just when the upstream stream was closed";
        topic.fail(Error::new(ErrorKind::UpstreamEnded, reopened));
    }
}

/// Ready once nobody has used the topic for the linger time.
async fn unused(leader: &Leader, topic: &Topic) {
    // The sender lives in the topic, so that a wait ends only with what it waits for.
    let mut demand = topic.demand.subscribe();
    loop {
        let _ = demand.wait_for(|demand| *demand == 0).await;
        tokio::select! {
            biased;
            // Somebody came, if only for a moment: the time counts from the last who left.
            _ = demand.changed() => {}
            () = tokio::time::sleep(leader.options.linger) => {
                between();
                if topic.is_unused() {
                    return;
                }
            }
        }
    }
}

/// Opens the upstream stream again and again.
async fn run(leader: &Leader, topic: &Arc<Topic>) {
    let mut backoff = Backoff::new(leader.options.reconnect);
    loop {
        let (client, mut health) = match leader.healthy_client(|cause| topic.fail(cause)).await {
            Ok(client) => client,
            Err(_closed) => return,
        };
        between();
        let opened = Instant::now();
        let sink = Sink::new(Arc::clone(topic), leader.options.max_payload);
        let stream = match client.open(topic.method, topic.key.clone(), sink) {
            Ok(stream) => stream,
            Err(error) => return give_up(leader, topic, &Failure::Cluster(error)).await,
        };
        let end = tokio::select! {
            end = guarded(stream).map(Some) => end,
            // Lost: the loop tells why. Restored without a loss: opened again.
            _ = health.changed() => None,
        };
        between();
        let cause = match end {
            None => {
                backoff.reset();
                continue;
            }
            Some(Ok(End::Ended)) => {
                Error::new(ErrorKind::UpstreamEnded, "the upstream stream ended; opening it again")
            }
            Some(Ok(End::Refused(failure))) => {
                if topic.refused(&failure) {
                    return give_up(leader, topic, &failure).await;
                }
                failure.into_error()
            }
            Some(Err(panicked)) => {
                leader.stats.note_panic(&panicked);
                if topic.refused(&Failure::Cluster(panicked.clone())) {
                    return give_up(leader, topic, &Failure::Cluster(panicked)).await;
                }
                panicked
            }
        };
        topic.fail(cause);
        if opened.elapsed() > leader.options.reconnect.1 {
            backoff.reset();
        }
        tokio::time::sleep(backoff.next_pause()).await;
    }
}

/// Refuses all who wait, now and until the topic is off the map.
async fn give_up(leader: &Leader, topic: &Arc<Topic>, failure: &Failure) {
    let mut demand = topic.demand.subscribe();
    loop {
        if !topic.refused(failure) {
            // It takes subscribers without asking the client: they are told as a state.
            topic.fail(failure.clone().into_error());
        }
        between();
        if leader.topics.retire(topic) {
            return;
        }
        between();
        if demand.changed().await.is_err() {
            return;
        }
    }
}
