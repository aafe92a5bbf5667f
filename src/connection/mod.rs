//! One framed link, the same on both ends: what is queued to the peer, when the peer was last
//! heard, why the link closed. The [driver] owns the socket; an [`Endpoint`] gives the packets
//! their meaning.
//!
//! [driver]: drive

mod backoff;
mod driver;
pub(crate) mod exchange;
mod service;
mod socket;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::task::AtomicWaker;
use tokio::time::Instant;

pub(crate) use self::{
    backoff::Backoff,
    driver::drive,
    service::{service, timeout_anywhere},
    socket::prepare,
};
use crate::{
    codec::Encoded,
    error::{Error, ErrorKind, Result},
    protocol::{
        Batch, Frame, Queue,
        pb::{Packet, packet::Body},
    },
};

/// What the two kinds of ends do with a link: the leader's session and the follower's.
pub(crate) trait Endpoint: Send {
    /// A whole packet of the peer. An error closes the link with it.
    fn on_packet(&mut self, packet: Packet) -> Result<()>;

    /// All packets that are whole for now were given to [`Endpoint::on_packet`].
    fn on_all_taken(&mut self) {}

    /// The first bytes of the frames with these marks were written.
    fn on_sent(&mut self, _marks: impl Iterator<Item = u64>) {}

    /// Bytes of the peer arrived, whose packets come next.
    fn on_heard(&mut self, _now: Instant) {}

    /// Nothing was heard of the peer for this long. Called at least each heartbeat.
    fn on_silence(&mut self, _silence: Duration) {}

    /// The next write has room: add what is kept elsewhere than in the queue.
    fn fill(&mut self, _batch: &mut Batch) {}

    /// The large value of this topic was written to its end.
    fn on_value_written(&mut self, _topic: u64) {}
}

/// A handle to one link. What is sent is queued, up to a bound, and written by the driver.
#[derive(Debug, Clone)]
pub(crate) struct Link(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    queue: Mutex<Outgoing>,
    /// Wakes the driver.
    waker: AtomicWaker,
    /// Bytes in the driver's batch, so that the bound covers them, too.
    backlog: AtomicUsize,
    max_queued: usize,
    start: Instant,
    /// Milliseconds from `start` to the last byte of the peer.
    heard: AtomicU64,
}

#[derive(Debug, Default)]
struct Outgoing {
    frames: Queue,
    /// Set: write what is queued, then close.
    closing: Option<Error>,
    /// Set: the link is closed.
    closed: Option<Error>,
}

impl Link {
    /// A link whose queue holds at most `max_queued` bytes.
    pub(crate) fn new(max_queued: usize) -> Self {
        Self(Arc::new(Shared {
            queue: Mutex::default(),
            waker: AtomicWaker::new(),
            backlog: AtomicUsize::new(0),
            max_queued,
            start: Instant::now(),
            heard: AtomicU64::new(0),
        }))
    }

    /// Queues a frame.
    ///
    /// # Errors
    ///
    /// The link is closed, or too much is queued already. Nothing is queued then.
    pub(crate) fn send(&self, frame: Frame, mark: Option<u64>) -> Result<()> {
        let len = frame.packet_len();
        self.queue_up(len, self.0.max_queued, |queue| queue.push(frame, mark))
    }

    /// Queues a packet, whose payload is copied where it is short.
    ///
    /// # Errors
    ///
    /// As [`Link::send`].
    #[inline]
    pub(crate) fn send_packet(
        &self,
        id: u64,
        body: impl Into<Body>,
        payload: &Encoded,
        mark: Option<u64>,
    ) -> Result<()> {
        let len = payload.len();
        self.queue_up(len, self.0.max_queued, |queue| queue.push_packet(id, body, payload, mark))
    }

    /// Queues a frame that is bounded elsewhere, by what it speaks of: replays, acknowledgements,
    /// goodbyes. Losing one would break a promise, so that the bound in bytes does not hold for it.
    ///
    /// # Errors
    ///
    /// The link is closed.
    pub(crate) fn replay(&self, frame: Frame, mark: Option<u64>) -> Result<()> {
        self.queue_up(0, usize::MAX, |queue| queue.push(frame, mark))
    }

    #[inline]
    fn queue_up(&self, len: usize, bound: usize, push: impl FnOnce(&mut Queue)) -> Result<()> {
        let was_empty = {
            let mut queue = self.queue();
            if let Some(error) = queue.closed.as_ref().or(queue.closing.as_ref()) {
                return Err(error.clone());
            }
            let bytes = queue.frames.len() + self.0.backlog.load(Ordering::Relaxed);
            if bytes.saturating_add(len) > bound {
                return Err(self.overloaded());
            }
            let was_empty = queue.frames.is_empty();
            push(&mut queue.frames);
            was_empty
        };
        // Whoever found it empty has woken the driver, which takes all that is queued.
        if was_empty {
            self.wake();
        }
        Ok(())
    }

    #[cold]
    fn overloaded(&self) -> Error {
        Error::new(
            ErrorKind::Overloaded,
            format!(
                "more than {} bytes are queued to this peer, which reads too slowly",
                self.0.max_queued
            ),
        )
    }

    /// Lets the driver ask its endpoint for more.
    pub(crate) fn wake(&self) {
        self.0.waker.wake();
    }

    /// Moves what is queued into a batch.
    pub(crate) fn move_to(&self, batch: &mut Batch) {
        self.queue().frames.move_to(batch);
    }

    /// Writes what is queued, then closes.
    pub(crate) fn finish(&self, reason: Error) {
        self.queue().closing.get_or_insert(reason);
        self.wake();
    }

    /// How long nothing was heard of the peer.
    pub(crate) fn silence(&self) -> Duration {
        let heard = Duration::from_millis(self.0.heard.load(Ordering::Relaxed));
        self.0.start.elapsed().saturating_sub(heard)
    }

    fn note_heard(&self, now: Instant) {
        let since_start = now.saturating_duration_since(self.0.start);
        let millis = u64::try_from(since_start.as_millis()).unwrap_or(u64::MAX);
        self.0.heard.store(millis, Ordering::Relaxed);
    }

    /// Nothing can be queued from here on.
    fn shut(&self, reason: &Error) {
        let mut queue = self.queue();
        queue.closed.get_or_insert_with(|| reason.clone());
        queue.frames.clear();
    }

    /// Lets go of memory that is not in use.
    fn release(&self) {
        self.queue().frames.release();
    }

    #[inline]
    fn queue(&self) -> MutexGuard<'_, Outgoing> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
