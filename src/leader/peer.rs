//! One follower of a leader, as the topics and calls see it.

use std::sync::{Arc, Mutex};

use super::{lock, topics::Topic};
use crate::{
    connection::Link,
    error::{Error, ErrorKind},
    protocol::{Frame, pb},
    spec::{Answered, Failure},
};

/// A follower's link, and what there is for it beside the queue.
pub(super) struct Peer {
    /// Unique among the peers of this leader.
    pub(super) id: u64,
    pub(super) link: Link,
    /// The owner of what this follower publishes.
    pub(super) owner: [u8; 16],
    pub(super) max_payload: usize,
    /// Topics that have something for this follower. A topic is here at most once.
    woken: Mutex<Vec<Arc<Topic>>>,
    /// Requests to subscribe that were refused, and that the session still has to forget.
    refused: Mutex<Vec<u64>>,
}

impl Peer {
    pub(super) fn new(id: u64, link: Link, owner: [u8; 16], max_payload: usize) -> Self {
        Self { id, link, owner, max_payload, woken: Mutex::default(), refused: Mutex::default() }
    }

    /// A topic has something for this follower.
    pub(super) fn wake(&self, topic: Arc<Topic>) {
        lock(&self.woken).push(topic);
        self.link.wake();
    }

    /// Takes the topics that have something, in exchange for an empty list, for the sake of its
    /// memory.
    pub(super) fn take_woken(&self, into: &mut Vec<Arc<Topic>>) {
        std::mem::swap(&mut *lock(&self.woken), into);
    }

    /// Puts back topics that could not be drained for want of room.
    pub(super) fn put_back(&self, topics: impl IntoIterator<Item = Arc<Topic>>) {
        lock(&self.woken).extend(topics);
    }

    /// Takes the requests to subscribe that were refused.
    pub(super) fn take_refused(&self) -> Vec<u64> {
        std::mem::take(&mut *lock(&self.refused))
    }

    /// Answers a request. An answer that can't be queued is replaced by the reason; if not even
    /// that can, the link is closed, because its follower would wait in vain.
    #[inline]
    pub(super) fn answer(&self, request: u64, reply: Answered) {
        let answer = match reply {
            Ok(payload) if payload.len() > self.max_payload => Err(too_large(payload.len())),
            reply => reply.map_err(|failure| pb::Error::from(&failure)),
        };
        let queued = match answer {
            Ok(payload) => {
                let (head, bytes) = payload.into_pieces();
                let result = pb::Result::default();
                if head.is_empty() {
                    self.link.send_packet(request, result, &bytes, None)
                } else {
                    let bytes = bytes.into_bytes();
                    self.link.send(Frame::with_pieces(request, result, &head, bytes), None)
                }
            }
            Err(error) => {
                let result = pb::Result { error: Some(Box::new(error)) };
                self.link.send(Frame::new(request, result), None)
            }
        };
        if let Err(error) = queued
            && error.kind() == ErrorKind::Overloaded
        {
            let told = Frame::new(request, pb::Result { error: Some((&error).into()) });
            if self.link.send(told, None).is_err() {
                self.link.finish(error);
            }
        }
    }

    /// Answers a subscribe request.
    pub(super) fn answer_subscribe(&self, request: u64, topic: Result<u64, &Failure>) {
        if topic.is_err() {
            lock(&self.refused).push(request);
        }
        let result = match topic {
            Ok(topic) => pb::SubscribeResult { refused: None, topic },
            Err(refused) => pb::SubscribeResult { refused: Some(refused.into()), topic: 0 },
        };
        if let Err(error) = self.link.send(Frame::new(request, result), None) {
            self.link.finish(error);
        }
    }
}

fn too_large(len: usize) -> pb::Error {
    (&Error::new(
        ErrorKind::TooLarge,
        format!("the result has {len} bytes, more than options.max_payload of the leader"),
    ))
        .into()
}
