//! What waits to be written to a child.
//!
//! A child that does not read must cost the master no more than this. What the life of a process
//! hangs on always fits, since there are only a few such frames in a life. Receipts fit too: a child
//! that has half of the bound waiting is not read, so it can't ask for more of them.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use tokio::sync::{Notify, mpsc};

use crate::protocol::pb::control::Body;

/// Most frames that wait for one child.
const FRAMES: usize = 1024;

/// Most bytes of frames that wait for one child.
const BYTES: usize = 4 * 1024 * 1024;

/// The end that the master puts frames into.
#[derive(Debug)]
pub(super) struct Outbox {
    sender: mpsc::UnboundedSender<Body>,
    load: Arc<Load>,
}

/// The end that is written to the child.
#[derive(Debug)]
pub(super) struct Outgoing {
    receiver: mpsc::UnboundedReceiver<Body>,
    load: Arc<Load>,
}

#[derive(Debug, Default)]
struct Load {
    frames: AtomicUsize,
    bytes: AtomicUsize,
    /// Wakes whoever waits for room.
    less: Notify,
}

/// Knows whether there is much waiting.
#[derive(Debug)]
pub(super) struct Room(Arc<Load>);

impl Room {
    /// Waits until less than half of the bound is used.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe. One task at a time may wait.
    pub(super) async fn wait(&self) {
        while self.0.frames.load(Relaxed) >= FRAMES / 2 {
            self.0.less.notified().await;
        }
    }
}

/// A queue with nothing in it.
pub(super) fn outbox() -> (Outbox, Outgoing) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let load = Arc::<Load>::default();
    (Outbox { sender, load: Arc::clone(&load) }, Outgoing { receiver, load })
}

impl Outbox {
    /// Whether somebody writes what is put into it.
    pub(super) fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    /// Puts a frame at the end. Gives back one that there is no room for.
    pub(super) fn push(&self, body: Body) -> Result<(), Box<Body>> {
        let bytes = body.encoded_len();
        let full = self.load.frames.load(Relaxed) >= FRAMES
            || self.load.bytes.load(Relaxed) + bytes > BYTES;
        if full && !is_vital(&body) {
            return Err(Box::new(body));
        }
        self.load.frames.fetch_add(1, Relaxed);
        self.load.bytes.fetch_add(bytes, Relaxed);
        // A child that is gone does not hear it, and need not.
        let _ = self.sender.send(body);
        Ok(())
    }
}

/// Whether the life of the child hangs on it, or what it believes of others.
fn is_vital(body: &Body) -> bool {
    // Of answers to claims there are few at a time.
    matches!(
        body,
        Body::Welcome(_)
            | Body::ClusterReady(_)
            | Body::Lead(_)
            | Body::Retire(_)
            | Body::Peers(_)
            | Body::MessageReceipt(_)
            | Body::RunGranted(_)
            | Body::RunRevoked(_)
    )
}

impl Outgoing {
    pub(super) fn room(&self) -> Room {
        Room(Arc::clone(&self.load))
    }

    /// The next frame; it no longer counts. `None` when the other end is gone.
    pub(super) async fn next(&mut self) -> Option<Body> {
        let body = self.receiver.recv().await?;
        if self.load.frames.fetch_sub(1, Relaxed) == FRAMES / 2 {
            self.load.less.notify_one();
        }
        self.load.bytes.fetch_sub(body.encoded_len(), Relaxed);
        Some(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::pb::{ClusterReady, Ended, Ready, ended::How};

    #[tokio::test]
    async fn a_queue_that_is_full_takes_what_is_vital_alone() {
        let (outbox, mut outgoing) = outbox();
        for _ in 0..FRAMES {
            outbox.push(Body::Ready(Ready {})).unwrap();
        }
        let refused = outbox.push(Body::Ready(Ready {})).unwrap_err();
        assert_eq!(*refused, Body::Ready(Ready {}));
        outbox.push(Body::ClusterReady(ClusterReady {})).unwrap();
        for _ in 0..2 {
            assert_eq!(outgoing.next().await, Some(Body::Ready(Ready {})));
        }
        outbox.push(Body::Ready(Ready {})).unwrap();
        assert!(outbox.push(Body::Ready(Ready {})).is_err(), "the vital one counts too");
    }

    #[tokio::test]
    async fn one_with_much_waiting_is_told_to_wait_until_it_has_read() {
        let (outbox, mut outgoing) = outbox();
        let room = outgoing.room();
        for _ in 0..FRAMES / 2 {
            room.wait().await;
            outbox.push(Body::Ready(Ready {})).unwrap();
        }
        let wait = room.wait();
        tokio::pin!(wait);
        assert!(futures::poll!(&mut wait).is_pending());
        outgoing.next().await;
        wait.await;
    }

    #[tokio::test]
    async fn bytes_count_as_frames_do() {
        let (outbox, mut outgoing) = outbox();
        let large = || Body::Ended(Ended { how: Some(How::Failed("x".repeat(BYTES / 2))) });
        outbox.push(large()).unwrap();
        assert!(outbox.push(large()).is_err());
        outgoing.next().await;
        outbox.push(large()).unwrap();
    }
}
