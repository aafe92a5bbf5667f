//! Moves bytes between a socket, the queue of a [`Link`] and its [`Endpoint`].

use std::{
    future::{Future as _, poll_fn},
    io::{self, IoSlice},
    pin::{Pin, pin},
    sync::atomic::Ordering,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::yield_now,
    time::{Instant, Sleep, sleep_until},
};
use tokio_util::io::poll_read_buf;

use super::{Endpoint, Link};
use crate::{
    error::{Error, ErrorKind, Result},
    options::Options,
    protocol::{
        Assembler, Batch, Frame, FrameReader,
        pb::{Heartbeat, packet::Body},
    },
};

/// Bytes read before other tasks get their turn: a read that is offered all of its buffer is one. Few
/// enough that what was read is still in the cache when its readers come to it.
const READ_TURN: usize = 48 << 10;

/// Bytes written before other tasks get their turn.
const WRITE_TURN: usize = 128 << 10;

/// How long a link that is to close may take to write what is queued.
const FLUSH: Duration = Duration::from_secs(1);

/// Drives a link until it closes, and says why it did.
///
/// # Cancel safety
///
/// Dropping it closes the socket; the link refuses what is sent from then on.
pub(crate) async fn drive<S, E>(
    stream: S,
    reader: FrameReader,
    link: &Link,
    endpoint: &mut E,
    options: &Options,
) -> Error
where
    S: AsyncRead + AsyncWrite + Unpin,
    E: Endpoint,
{
    let now = Instant::now();
    link.note_heard(now);
    let next = now + options.heartbeat;
    let _shut = ShutOnDrop(link);
    let mut driver = Driver {
        stream,
        reader,
        assembler: Assembler::new(options.max_payload, options.max_queued),
        batch: Batch::new(options.max_queued),
        link,
        endpoint,
        options,
        timer: Box::pin(sleep_until(next)),
        next_heartbeat: next,
        flush_until: None,
    };
    // The peer may have sent more right behind the handshake.
    let reason = match driver.take_packets() {
        Ok(()) => poll_fn(|cx| driver.poll(cx)).await,
        Err(error) => error,
    };
    link.shut(&reason);
    reason
}

struct ShutOnDrop<'a>(&'a Link);

impl Drop for ShutOnDrop<'_> {
    fn drop(&mut self) {
        self.0.shut(&Error::new(ErrorKind::Disconnected, "the link was dropped"));
    }
}

/// What came of writing.
enum Written {
    /// Nothing is left.
    All,
    /// Enough for this turn; there is more.
    ATurn,
}

struct Driver<'a, S, E> {
    stream: S,
    reader: FrameReader,
    assembler: Assembler,
    batch: Batch,
    link: &'a Link,
    endpoint: &'a mut E,
    options: &'a Options,
    timer: Pin<Box<Sleep>>,
    next_heartbeat: Instant,
    /// Set once the link is to close: until when it may still write.
    flush_until: Option<Instant>,
}

impl<S: AsyncRead + AsyncWrite + Unpin, E: Endpoint> Driver<'_, S, E> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        // What is queued from here on is written below, so that nobody need wake this task.
        drop(self.link.0.waker.take());
        // Reading comes before the timer: a process that was frozen or busy sees what the peer sent
        // meanwhile before it judges the peer's silence.
        let (mut read_in_turn, mut broken) = (0, None);
        while read_in_turn < READ_TURN {
            match self.poll_read(cx) {
                Poll::Ready(Ok(read)) => read_in_turn += read,
                // What was asked for before the end is answered, as far as the socket takes it.
                Poll::Ready(Err(error)) if read_in_turn > 0 => {
                    broken = Some(error);
                    break;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(error),
                Poll::Pending => break,
            }
        }
        if let Err(error) = self.poll_timer(cx) {
            return Poll::Ready(error);
        }
        // Registered before the queue is looked at, so that nothing queued later is missed.
        self.link.0.waker.register(cx.waker());
        let written = self.poll_write(cx);
        if let Some(error) = broken {
            return Poll::Ready(error);
        }
        match written {
            Poll::Ready(Err(error)) => return Poll::Ready(error),
            Poll::Ready(Ok(Written::All)) => {
                if let Poll::Ready(reason) = self.poll_finish(cx) {
                    return Poll::Ready(reason);
                }
            }
            Poll::Ready(Ok(Written::ATurn)) => {
                // Behind a look at the sockets, so that a call which came meanwhile is heard
                // before the next part of a large answer is written.
                let _ = pin!(yield_now()).poll(cx);
                return Poll::Pending;
            }
            Poll::Pending => {
                if let Some(reason) = self.flush_expired() {
                    return Poll::Ready(reason);
                }
            }
        }
        if read_in_turn >= READ_TURN {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// One read, and all packets that are whole then. How much was read.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize>> {
        let stream = Pin::new(&mut self.stream);
        let missing = self.reader.missing();
        let read = match missing {
            // What a part lacks is read to where it belongs.
            Some((part, bytes)) => {
                poll_read_buf(stream, cx, &mut self.assembler.room_and_beyond(part, bytes)?)
            }
            None => poll_read_buf(stream, cx, &mut self.reader.room()),
        };
        let read = ready!(read).map_err(|error| lost(&error))?;
        if read == 0 {
            return Poll::Ready(Err(Error::new(
                ErrorKind::Disconnected,
                "the peer closed the connection",
            )));
        }
        let now = Instant::now();
        self.link.note_heard(now);
        self.endpoint.on_heard(now);
        let taken = match missing {
            Some((part, bytes)) => self.take_of_part(part, bytes, read),
            None => {
                self.reader.filled(read);
                self.take_packets()
            }
        };
        Poll::Ready(taken.map(|()| read))
    }

    /// Hands on all packets that are whole.
    fn take_packets(&mut self) -> Result<()> {
        let taken = self.take_each_packet();
        self.endpoint.on_all_taken();
        taken
    }

    /// What a part lacks was read to where it belongs, or some of it, or more than that.
    fn take_of_part(&mut self, stream: u64, missing: usize, read: usize) -> Result<()> {
        let beyond = read.saturating_sub(missing);
        if beyond > 0 {
            self.assembler.move_beyond(stream, beyond, &mut self.reader);
        }
        self.reader.skip(read - beyond);
        if let Some(whole) = self.assembler.filled(stream, read - beyond)? {
            self.endpoint.on_packet(whole)?;
        }
        self.take_packets()
    }

    fn take_each_packet(&mut self) -> Result<()> {
        while let Some(packet) = self.reader.next()? {
            let packet = match packet.body {
                Some(Body::Part(part)) => match self.assembler.push(part)? {
                    Some(whole) => whole,
                    None => continue,
                },
                _ => packet,
            };
            self.endpoint.on_packet(packet)?;
        }
        Ok(())
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Result<()> {
        while self.timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            let late = now.duration_since(self.timer.deadline()) > self.options.heartbeat / 4;
            if now >= self.next_heartbeat {
                self.next_heartbeat = now + self.options.heartbeat;
                self.reader.release();
                self.assembler.release();
                self.batch.release();
                self.link.release();
                self.batch.push(Frame::new(0, Heartbeat::default()), None);
            }
            if late {
                // This process was frozen or busy. What the peer sent meanwhile may not have been
                // seen yet, so its silence is judged a moment later.
                self.timer.as_mut().reset(now + self.options.heartbeat / 4);
                continue;
            }
            let silence = self.link.silence();
            self.endpoint.on_silence(silence);
            if silence >= self.options.drop_after {
                return Err(Error::new(
                    ErrorKind::Disconnected,
                    format!("nothing was heard of the peer for {silence:?}"),
                ));
            }
            let next = self.next_look(now, silence);
            self.timer.as_mut().reset(next);
        }
        Ok(())
    }

    /// The next heartbeat, or the moment from which on the silence counts, whichever is first.
    fn next_look(&self, now: Instant, silence: Duration) -> Instant {
        let mut next = self.next_heartbeat;
        for bound in [self.options.stale_after, self.options.drop_after] {
            if let Some(left) = bound.checked_sub(silence).filter(|left| !left.is_zero()) {
                // One more millisecond, because the clock of the silence counts in milliseconds.
                next = next.min(now + left + Duration::from_millis(1));
            }
        }
        // Once it is over, the writer ends the link, and a timer in the past would only spin.
        if let Some(until) = self.flush_until.filter(|until| *until > now) {
            next = next.min(until);
        }
        next
    }

    /// Pending while the socket takes no more.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<Written>> {
        let mut written_in_turn = 0;
        // Known only of what was looked for in this turn: whoever had more while an earlier write
        // was under way has woken this task in vain, and whoever has more from here on wakes it.
        let mut is_all_staged = false;
        loop {
            if !self.batch.is_staged() {
                is_all_staged = self.stage();
                if !self.batch.is_staged() {
                    return Poll::Ready(Ok(Written::All));
                }
            }
            if written_in_turn >= WRITE_TURN {
                return Poll::Ready(Ok(Written::ATurn));
            }
            let mut slices = [IoSlice::new(&[]); Batch::MAX_PIECES];
            let count = self.batch.slices(&mut slices);
            let stream = Pin::new(&mut self.stream);
            // The system call for one piece is the cheaper one.
            let written = match &slices[..count] {
                [piece] => stream.poll_write(cx, piece),
                pieces => stream.poll_write_vectored(cx, pieces),
            };
            let written = ready!(written).map_err(|error| lost(&error))?;
            if written == 0 {
                return Poll::Ready(Err(lost(&io::ErrorKind::WriteZero.into())));
            }
            {
                let mut started = self.batch.advance(written).peekable();
                if started.peek().is_some() {
                    self.endpoint.on_sent(started);
                }
            }
            self.note_backlog();
            if is_all_staged && !self.batch.is_staged() {
                return Poll::Ready(Ok(Written::All));
            }
            written_in_turn += written;
        }
    }

    /// Takes over what is queued and makes up the next write. True: nothing is left out of it.
    fn stage(&mut self) -> bool {
        self.link.move_to(&mut self.batch);
        if self.batch.has_room() {
            self.endpoint.fill(&mut self.batch);
        }
        // What has more than there is room for is asked again.
        let had_room = self.batch.has_room();
        self.batch.stage();
        for topic in self.batch.finished() {
            self.endpoint.on_value_written(topic);
        }
        self.note_backlog();
        had_room && self.batch.is_all_staged()
    }

    fn note_backlog(&self) {
        self.link.0.backlog.store(self.batch.len(), Ordering::Relaxed);
    }

    /// The link was asked to close, and the peer took too long to read what is queued.
    fn flush_expired(&mut self) -> Option<Error> {
        let reason = self.link.queue().closing.clone()?;
        let now = Instant::now();
        let until = *self.flush_until.get_or_insert(now + FLUSH);
        if now >= until {
            return Some(reason);
        }
        if self.timer.deadline() > until {
            self.timer.as_mut().reset(until);
        }
        None
    }

    /// Ready when the link was asked to close and nothing is left to write, or time is up.
    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        let queue = self.link.queue();
        // What was queued since the last look goes first; whoever queued it has woken this task.
        let closing = queue.closing.as_ref().filter(|_| queue.frames.is_empty());
        let Some(reason) = closing.cloned() else { return Poll::Pending };
        drop(queue);
        // The peer's end of file is worth waiting for no longer than for the write itself.
        let _ = Pin::new(&mut self.stream).poll_shutdown(cx);
        Poll::Ready(reason)
    }
}

fn lost(error: &io::Error) -> Error {
    Error::new(ErrorKind::Disconnected, format!("the connection was lost: {error}"))
}

#[cfg(test)]
mod tests;
