//! A call, or a change of what is published, until it is answered.

use bytes::Bytes;
use tokio::time::{Duration, Instant};

use crate::{
    codec::Encoded,
    connection::Link,
    error::Error,
    protocol::{Frame, pb},
};

/// A call or publish that waits for its answer.
pub(super) struct Pending {
    pub(super) kind: Kind,
    pub(super) method: usize,
    pub(super) args: Encoded,
    pub(super) deadline: Instant,
    /// Its first byte was written on the present link.
    pub(super) is_sent: bool,
    /// A publish whose key was withdrawn since: it is not remembered, and once sent, not sent again.
    pub(super) is_superseded: bool,
    /// Nobody waits for the answer any more.
    pub(super) is_abandoned: bool,
}

/// What kind of call.
#[derive(Debug, Clone)]
pub(super) enum Kind {
    Invoke {
        idempotent: bool,
    },
    /// Under this publish method and key, which is boxed so that calls are small to move.
    Publish(Box<(usize, Bytes)>),
    Unpublish(Box<(usize, Bytes)>),
}

impl Pending {
    /// One that is not sent yet.
    #[inline]
    pub(super) fn new(kind: Kind, method: usize, args: Encoded, deadline: Instant) -> Self {
        let (is_sent, is_superseded, is_abandoned) = (false, false, false);
        Self { kind, method, args, deadline, is_sent, is_superseded, is_abandoned }
    }

    /// Whether it may be sent on the next link though it was sent on this one.
    pub(super) fn survives_link(&self) -> bool {
        match self.kind {
            Kind::Invoke { idempotent } => idempotent || !self.is_sent,
            Kind::Publish(_) | Kind::Unpublish(_) => {
                let is_over = if self.is_sent { self.is_superseded } else { self.is_abandoned };
                !is_over
            }
        }
    }

    /// Whether it is about to change what is published under this key.
    pub(super) fn concerns(&self, key: &(usize, Bytes)) -> bool {
        matches!(&self.kind, Kind::Publish(other) | Kind::Unpublish(other) if **other == *key)
    }

    /// Sends it for the first time, with so much time left.
    #[inline]
    pub(super) fn send(&self, link: &Link, id: u64, left: Duration) -> Result<(), Error> {
        if !matches!(self.kind, Kind::Invoke { .. }) {
            return link.send(self.frame(id, left), Some(id));
        }
        let invoke = pb::Invoke { method: self.method as u32, timeout_ms: millis(left) };
        link.send_packet(id, invoke, &self.args, Some(id))
    }

    /// The frame for it, with so much time left.
    pub(super) fn frame(&self, id: u64, left: Duration) -> Frame {
        let timeout_ms = millis(left);
        let method = self.method as u32;
        let args = self.args.to_bytes();
        match self.kind {
            Kind::Invoke { .. } => Frame::with_payload(id, pb::Invoke { method, timeout_ms }, args),
            // What one owner publishes keeps its order, however large each is.
            Kind::Publish(_) => {
                Frame::with_payload(id, pb::Publish { method, timeout_ms }, args).in_order()
            }
            Kind::Unpublish(_) => {
                Frame::with_payload(id, pb::Unpublish { method, timeout_ms }, args).in_order()
            }
        }
    }

    /// What an answer says of what this process has published: what is published under the key now.
    pub(super) fn published(&self, is_ok: bool) -> Option<Published> {
        match &self.kind {
            Kind::Publish(key) if is_ok && !self.is_superseded => {
                Some(((**key).clone(), Some(self.args.to_bytes())))
            }
            Kind::Unpublish(key) => Some(((**key).clone(), None)),
            Kind::Publish(_) | Kind::Invoke { .. } => None,
        }
    }
}

/// At least one, since none means the default of the leader.
fn millis(left: Duration) -> u32 {
    u32::try_from(left.as_millis()).unwrap_or(u32::MAX).max(1)
}

/// What is published under a key: the arguments, or nothing any more.
pub(super) type Published = ((usize, Bytes), Option<Bytes>);

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> (usize, Bytes) {
        (0, Bytes::from_static(b"key"))
    }

    fn publish() -> Pending {
        let args = Encoded::from(Bytes::from_static(b"args"));
        Pending::new(Kind::Publish(Box::new(key())), 0, args, Instant::now())
    }

    #[test]
    fn a_publish_that_was_withdrawn_on_its_way_is_neither_remembered_nor_sent_twice() {
        let mut publish = publish();
        publish.is_superseded = true;
        assert!(publish.survives_link(), "not sent yet, it goes before its withdrawal");
        publish.is_sent = true;
        assert!(!publish.survives_link());
        assert_eq!(publish.published(true), None);
    }

    #[test]
    fn a_publish_that_was_sent_survives_its_link_though_nobody_waits() {
        let mut publish = publish();
        publish.is_abandoned = true;
        assert!(!publish.survives_link(), "nobody waits and nobody has it");
        publish.is_sent = true;
        assert!(publish.survives_link());
        assert_eq!(publish.published(true), Some((key(), Some(publish.args.to_bytes()))));
    }
}
