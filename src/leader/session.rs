//! The leader's end of one follower's link.

use std::sync::Arc;

use bytes::Bytes;
use tokio::{sync::Semaphore, time::Instant};

use super::{
    Leader,
    call::{Call, InFlight, Running, deadline},
    peer::Peer,
    publication::{Request, Wish},
    replaced,
    topics::{Has, Topic},
};
use crate::{
    connection::Endpoint,
    error::{Error, ErrorKind, Result},
    id_map::IdMap,
    protocol::{
        Batch, Frame, MethodMap, PART,
        pb::{self, Packet, packet::Body},
    },
    spec::{MethodKind, MethodSpec},
};

/// One follower, from registration to the end of its link.
pub(super) struct Session {
    leader: Arc<Leader>,
    peer: Arc<Peer>,
    methods: MethodMap,
    in_flight: InFlight,
    /// When the packets that are handled now arrived: their deadlines count from then.
    arrived: Instant,
    /// Room for oneway calls, which are on no table because nobody waits for them.
    oneway: Arc<Semaphore>,
    /// Its subscriptions by the request that made each, and by the number of the topic.
    requests: IdMap<Arc<Topic>>,
    numbers: IdMap<Arc<Topic>>,
    /// Empty, but for the memory.
    woken: Vec<Arc<Topic>>,
    /// The highest request that was taken, and, once this leader has said that it goes, up to which
    /// it takes any.
    last_taken: u64,
    last_to_take: Option<u64>,
    farewell: Option<Farewell>,
}

/// What a follower said before its link ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Farewell {
    /// What it published is withdrawn at once.
    Goodbye,
    /// It goes to the next leader, and has nothing to wait for here.
    ToNextLeader,
}

impl Session {
    pub(super) fn new(leader: Arc<Leader>, peer: Arc<Peer>, methods: MethodMap) -> Self {
        leader.owner_came(peer.owner, peer.id);
        let oneway = Arc::new(Semaphore::new(leader.options.max_in_flight));
        Self {
            leader,
            peer,
            methods,
            in_flight: InFlight::default(),
            arrived: Instant::now(),
            oneway,
            requests: IdMap::default(),
            numbers: IdMap::default(),
            woken: Vec::new(),
            last_taken: 0,
            last_to_take: None,
            farewell: None,
        }
    }

    /// The method of a request, if it is of the right kind.
    #[inline]
    fn method(
        &self,
        index: u32,
        is_kind: fn(MethodKind) -> bool,
    ) -> Result<(usize, &'static MethodSpec)> {
        let mismatch = |reason| {
            Error::new(ErrorKind::MethodMismatch, reason).with_channel(&self.leader.channel)
        };
        let index = self.methods.get(index).map_err(mismatch)?;
        let spec = &self.leader.spec.methods[index];
        if !is_kind(spec.kind) {
            let reason = "a request of another kind than the method".to_owned();
            return Err(mismatch(reason).with_method(spec.name));
        }
        Ok((index, spec))
    }

    #[inline]
    fn invoke(&mut self, id: u64, invoke: &pb::Invoke, args: Bytes) {
        let is_invoke = |kind| matches!(kind, MethodKind::Invoke { .. });
        let (method, spec) = match self.method(invoke.method, is_invoke) {
            Ok(found) => found,
            Err(error) => return self.peer.answer(id, Err(error.into())),
        };
        let deadline = deadline(self.arrived, invoke.timeout_ms, self.leader.options.call_timeout);
        let call = Call { method, args, deadline };
        let bound = self.leader.options.max_in_flight;
        let busy = self.in_flight.len() >= bound;
        match spec.kind {
            MethodKind::Invoke { oneway: true, .. } => self.leader.start_oneway(call, &self.oneway),
            _ if busy => {
                let reason = format!("{bound} calls are in flight on this link already");
                let error = Error::new(ErrorKind::Overloaded, reason);
                self.peer.answer(id, Err(error.into()));
            }
            MethodKind::Invoke { share: true, .. } => {
                self.leader.share_call(&self.peer, id, call, &self.in_flight);
            }
            _ => self.leader.start_call(&self.peer, id, call, &self.in_flight),
        }
    }

    fn cancel(&self, id: u64) {
        match self.in_flight.remove(id) {
            Some(Running::Alone(task)) => task.abort(),
            Some(Running::Shared) => self.leader.leave_share(self.peer.id, id),
            None => {}
        }
    }

    fn publish(&self, id: u64, index: u32, timeout_ms: u32, args: Bytes, wish: Wish) {
        let is_kind = match wish {
            Wish::Publish => |kind| matches!(kind, MethodKind::Publish { .. }),
            Wish::Unpublish => |kind| matches!(kind, MethodKind::Unpublish { .. }),
        };
        let method = match self.method(index, is_kind) {
            // What is withdrawn is kept under the method that published it.
            Ok((_, MethodSpec { kind: MethodKind::Unpublish { publish }, .. })) => *publish,
            Ok((method, _)) => method,
            Err(error) => return self.peer.answer(id, Err(error.into())),
        };
        // It is kept for long, and must not keep the whole buffer that it was read into.
        let args = if args.len() <= PART { Bytes::copy_from_slice(&args) } else { args };
        let deadline = deadline(self.arrived, timeout_ms, self.leader.options.call_timeout);
        let asker = (Arc::clone(&self.peer), id);
        let request = Request { method, args, deadline, wish, asker };
        self.leader.publish(self.peer.owner, request);
    }

    fn subscribe(&mut self, id: u64, subscribe: &pb::Subscribe, args: Bytes) -> Result<()> {
        // The follower does not end what was refused.
        for refused in self.peer.take_refused() {
            self.unsubscribe(refused);
        }
        if self.requests.contains_key(&id) {
            return Err(Error::protocol(format!("request {id} was used twice")));
        }
        match self.try_subscribe(id, subscribe, args) {
            Ok(topic) => {
                self.numbers.insert(topic.number, Arc::clone(&topic));
                self.requests.insert(id, topic);
            }
            Err(error) => self.peer.answer_subscribe(id, Err(&error.into())),
        }
        Ok(())
    }

    fn try_subscribe(&self, id: u64, subscribe: &pb::Subscribe, args: Bytes) -> Result<Arc<Topic>> {
        let is_subscribe = |kind| matches!(kind, MethodKind::Subscribe { .. });
        let (method, _) = self.method(subscribe.method, is_subscribe)?;
        let bound = self.leader.options.max_subscriptions;
        // Twice, because one may subscribe again before its unsubscribe has arrived.
        if self.requests.len() >= bound.saturating_mul(2) {
            return Err(Error::new(
                ErrorKind::Overloaded,
                format!("this process has {bound} subscriptions already"),
            ));
        }
        let key = self
            .leader
            .connector
            .key(method, args)
            .map_err(|error| self.leader.name_error(method, error))?;
        let has =
            Has { epoch: subscribe.epoch, topic: subscribe.topic, version: subscribe.version };
        self.leader
            .topics
            .attach(&self.leader, (method, key), &self.peer, id, has)
            .map_err(|error| self.leader.name_error(method, error))
    }

    /// Says that this leader goes, once it does.
    #[inline]
    fn notice_hand_over(&mut self) {
        if !self.leader.is_leaving() || self.last_to_take.is_some() {
            return;
        }
        let last_id = Some(self.last_taken);
        self.last_to_take = last_id;
        for (request, topic) in &self.requests {
            topic.deliver_no_more((self.peer.id, *request));
        }
        let reason = replaced().with_channel(&self.leader.channel);
        let goodbye = pb::GoAway { reason: Some((&reason).into()), last_id };
        // A link that takes no more is gone already.
        let _ = self.peer.link.replay(Frame::new(0, goodbye), None);
    }

    /// Whether a request is one of this leader's, or the next one's.
    #[inline]
    fn takes(&mut self, id: u64, body: &Body) -> bool {
        match body {
            Body::Invoke(_) | Body::Publish(_) | Body::Unpublish(_) => match self.last_to_take {
                Some(last) => id <= last || self.is_oneway(body),
                None => {
                    self.last_taken = self.last_taken.max(id);
                    true
                }
            },
            Body::Subscribe(_) => self.last_to_take.is_none(),
            _ => true,
        }
    }

    /// Nobody waits for it, so that nobody would send it to the next leader.
    fn is_oneway(&self, body: &Body) -> bool {
        let is_oneway = |kind| matches!(kind, MethodKind::Invoke { oneway: true, .. });
        let Body::Invoke(invoke) = body else { return false };
        self.methods
            .get(invoke.method)
            .is_ok_and(|method| is_oneway(self.leader.spec.methods[method].kind))
    }

    fn unsubscribe(&mut self, id: u64) {
        let Some(topic) = self.requests.remove(&id) else { return };
        topic.detach(self.peer.id, id);
        if !self.requests.values().any(|other| other.number == topic.number) {
            self.numbers.remove(&topic.number);
        }
    }
}

impl Endpoint for Session {
    fn on_heard(&mut self, now: Instant) {
        self.arrived = now;
    }

    fn on_packet(&mut self, packet: Packet) -> Result<()> {
        let Packet { id, body, payload } = packet;
        let limit = self.leader.options.max_payload;
        if payload.len() > limit {
            return Err(Error::protocol(format!("a payload is over the limit of {limit} bytes")));
        }
        if matches!(body, Some(Body::Invoke(_) | Body::Subscribe(_)))
            && (self.in_flight.contains(id) || self.requests.contains_key(&id))
        {
            // What the first one began could never be ended.
            return Err(Error::protocol(format!("request {id} was begun twice")));
        }
        self.notice_hand_over();
        if !body.as_ref().is_some_and(|body| self.takes(id, body)) {
            return Ok(());
        }
        match body {
            Some(Body::Invoke(invoke)) => self.invoke(id, &invoke, payload),
            Some(Body::Cancel(_)) => self.cancel(id),
            Some(Body::Subscribe(subscribe)) => self.subscribe(id, &subscribe, payload)?,
            Some(Body::Unsubscribe(_)) => self.unsubscribe(id),
            Some(Body::Publish(publish)) => {
                self.publish(id, publish.method, publish.timeout_ms, payload, Wish::Publish);
            }
            Some(Body::Unpublish(unpublish)) => {
                self.publish(id, unpublish.method, unpublish.timeout_ms, payload, Wish::Unpublish);
            }
            Some(Body::Replayed(_)) => self.leader.owner_replayed(self.peer.owner, self.peer.id),
            Some(Body::Settle(settle)) => {
                if let Some(topic) = self.requests.get(&id) {
                    topic.settle((self.peer.id, id), settle.item, settle.done, settle.room);
                }
            }
            Some(Body::GoAway(pb::GoAway { last_id: Some(_), .. }))
                if self.last_to_take.is_some() =>
            {
                self.farewell = Some(Farewell::ToNextLeader);
                self.peer.link.finish(replaced());
            }
            Some(Body::GoAway(_)) => self.farewell = Some(Farewell::Goodbye),
            // Unknown and meaningless packets are ignored, so that the protocol can grow.
            _ => {}
        }
        Ok(())
    }

    fn fill(&mut self, batch: &mut Batch) {
        self.notice_hand_over();
        self.peer.take_woken(&mut self.woken);
        if self.woken.is_empty() {
            return;
        }
        // Another task may have opened a topic since the queue was looked at: its answer was
        // queued before the topic was woken, and goes out before what the topic has to say.
        self.peer.link.move_to(batch);
        let mut woken = self.woken.drain(..);
        let bound = self.leader.options.max_queued;
        while batch.has_room()
            && batch.values() < bound
            && let Some(topic) = woken.next()
        {
            if topic.drain(self.peer.id, batch) {
                self.peer.put_back([topic]);
            }
        }
        if woken.len() > 0 {
            self.peer.put_back(woken);
        }
    }

    fn on_value_written(&mut self, topic: u64) {
        if let Some(topic) = self.numbers.get(&topic)
            && topic.value_written(self.peer.id)
        {
            self.peer.wake(Arc::clone(topic));
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let stays = self.farewell == Some(Farewell::ToNextLeader);
        for (request, topic) in self.requests.drain() {
            if stays {
                topic.leave_items((self.peer.id, request));
            }
            topic.detach(self.peer.id, request);
        }
        for (request, running) in self.in_flight.take() {
            match running {
                Running::Alone(task) => task.abort(),
                Running::Shared => self.leader.leave_share(self.peer.id, request),
            }
        }
        self.peer.take_woken(&mut Vec::new());
        if !stays {
            let at_once = self.farewell == Some(Farewell::Goodbye);
            self.leader.owner_left(self.peer.owner, self.peer.id, at_once);
        }
        self.leader.forget_peer(self.peer.id);
    }
}
