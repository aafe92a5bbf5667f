//! Puts packets that came in parts together again.

use std::collections::{HashMap, VecDeque};

use bytes::{BufMut as _, Bytes, BytesMut, buf::Limit};

use super::{
    frame::{FrameReader, decode},
    pb::{Packet, Part},
};
use crate::error::{Error, Result};

/// The packets of one peer that are partly here.
///
/// Memory grows only as bytes arrive, never by what a first part announces.
#[derive(Debug)]
pub(crate) struct Assembler {
    streams: HashMap<u64, (usize, BytesMut)>,
    /// Bytes that are here of all streams together.
    held: usize,
    max_packet: usize,
    max_held: usize,
    /// Packets that were given, the oldest first. The memory of one that nobody else holds any more
    /// is used again, since memory that is fresh from the system costs more than all copies.
    given: VecDeque<Bytes>,
    given_bytes: usize,
}

impl Assembler {
    /// Packets alternating on one connection: more than a correct peer ever has under way, since
    /// it opens a stream for a call in flight or a topic.
    const MAX_STREAMS: usize = 16 << 10;

    /// A buffer that is full grows by this factor, up to the length of its packet: few copies, and
    /// no more memory than this many times what has arrived.
    const GROWTH: usize = 4;

    /// Room for what follows a part: its head, and as much data as is not worth a read.
    const BEYOND: usize = 4 << 10;

    /// So much of what was given is kept, until the next heartbeat, to be used again.
    const MAX_GIVEN: usize = 16 << 20;

    /// Room in a packet for what is not payload: an error with its value and all its causes.
    const HEAD: usize = 128 << 10;

    pub(crate) fn new(max_payload: usize, max_held: usize) -> Self {
        Self {
            streams: HashMap::new(),
            held: 0,
            max_packet: max_payload.saturating_add(Self::HEAD),
            max_held: max_held.saturating_add(Self::HEAD),
            given: VecDeque::new(),
            given_bytes: 0,
        }
    }

    /// Takes a part; gives the packet when it was the last one.
    ///
    /// # Errors
    ///
    /// A part that breaks a limit or the order of parts.
    pub(crate) fn push(&mut self, part: Part) -> Result<Option<Packet>> {
        if part.data.is_empty() {
            return Err(Error::protocol("an empty part"));
        }
        if part.total > 0 {
            self.open(part.stream, part.total)?;
        }
        self.room(part.stream, part.data.len())?.put_slice(&part.data);
        self.filled(part.stream, part.data.len())
    }

    /// Where the next bytes of a stream are to be written, with room for just so many.
    ///
    /// # Errors
    ///
    /// So many break a limit.
    pub(crate) fn room(&mut self, stream: u64, bytes: usize) -> Result<Limit<&mut BytesMut>> {
        let Some((total, buffer)) = self.streams.get_mut(&stream) else {
            return Err(Error::protocol(format!("a part of unknown stream {stream}")));
        };
        let len = buffer.len() + bytes;
        if len > *total {
            return Err(Error::protocol(format!("stream {stream} is longer than it said")));
        }
        if self.held + bytes > self.max_held {
            return Err(Error::protocol(format!(
                "more than {} bytes of unfinished packets",
                self.max_held
            )));
        }
        if buffer.capacity() < len {
            let capacity = len.saturating_mul(Self::GROWTH).min(*total);
            // Room beyond its end is there from the start, so that it need not move for that.
            let beyond = if capacity > Self::BEYOND { Self::BEYOND } else { 0 };
            buffer.reserve(capacity + beyond - buffer.len());
        }
        Ok(buffer.limit(bytes))
    }

    /// As [`Assembler::room`], and a little more: a read that brings what a part lacks brings the head
    /// of what follows along, so that it needs no read of its own.
    ///
    /// # Errors
    ///
    /// As there.
    pub(crate) fn room_and_beyond(
        &mut self,
        stream: u64,
        bytes: usize,
    ) -> Result<Limit<&mut BytesMut>> {
        let buffer = self.room(stream, bytes)?.into_inner();
        buffer.reserve(bytes + Self::BEYOND);
        Ok(buffer.limit(bytes + Self::BEYOND))
    }

    /// The last of the bytes that were written to a stream are not of it, but what follows.
    pub(crate) fn move_beyond(&mut self, stream: u64, bytes: usize, to: &mut FrameReader) {
        if let Some((_, buffer)) = self.streams.get_mut(&stream) {
            let end = buffer.len() - bytes;
            to.put(&buffer[end..]);
            buffer.truncate(end);
        }
    }

    /// So many bytes of a stream were written; gives the packet when they were the last.
    ///
    /// # Errors
    ///
    /// The packet is none.
    pub(crate) fn filled(&mut self, stream: u64, bytes: usize) -> Result<Option<Packet>> {
        self.held += bytes;
        let is_whole = |(total, buffer): &(usize, BytesMut)| buffer.len() == *total;
        if !self.streams.get(&stream).is_some_and(is_whole) {
            return Ok(None);
        }
        let whole = self.streams.remove(&stream).map_or_else(Bytes::new, |s| s.1.freeze());
        self.held -= whole.len();
        self.note_given(&whole);
        let packet = decode(whole)?;
        if matches!(packet.body, Some(super::pb::packet::Body::Part(_))) {
            return Err(Error::protocol("a part within parts"));
        }
        Ok(Some(packet))
    }

    fn note_given(&mut self, whole: &Bytes) {
        self.given.push_back(whole.clone());
        self.given_bytes += whole.len();
        while self.given_bytes > Self::MAX_GIVEN {
            let Some(oldest) = self.given.pop_front() else { break };
            self.given_bytes -= oldest.len();
        }
    }

    /// A buffer for a packet of this length: one of about that length that was given and is not in
    /// use any more, or an empty one.
    fn spare(&mut self, total: usize) -> BytesMut {
        let fits = |given: &Bytes| given.len() >= total && given.len() / 4 <= total;
        let at = self.given.iter().position(|given| fits(given) && given.is_unique());
        let Some(given) = at.and_then(|at| self.given.remove(at)) else { return BytesMut::new() };
        self.given_bytes -= given.len();
        let mut buffer = BytesMut::from(given);
        buffer.clear();
        buffer
    }

    /// Lets go of memory that is not in use.
    pub(crate) fn release(&mut self) {
        self.given.clear();
        self.given_bytes = 0;
    }

    /// Bytes of unfinished packets that are here.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    fn open(&mut self, stream: u64, total: u64) -> Result<()> {
        if total > self.max_packet as u64 {
            return Err(Error::protocol(format!(
                "a packet of {total} bytes is over the limit of {}",
                self.max_packet
            )));
        }
        if self.streams.len() >= Self::MAX_STREAMS {
            return Err(Error::protocol("too many unfinished packets"));
        }
        let total = usize::try_from(total).unwrap_or(usize::MAX);
        let buffer = self.spare(total);
        if self.streams.insert(stream, (total, buffer)).is_some() {
            return Err(Error::protocol(format!("stream {stream} was opened twice")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Batch, Frame, FrameReader, PART, pb};

    fn part(stream: u64, total: u64, data: &'static [u8]) -> Part {
        Part { stream, total, data: Bytes::from_static(data) }
    }

    #[test]
    fn large_packets_that_alternate_come_back_whole_and_small_ones_do_not_wait() {
        let large = |id: u64, len: usize| {
            Frame::with_payload(id, pb::Result::default(), Bytes::from(vec![id as u8; len]))
        };
        let mut batch = Batch::new(1 << 20);
        batch.push(large(1, 300_000), None);
        batch.push(large(2, PART + 10), None);
        batch.push(Frame::new(3, pb::Result::default()), None);
        let mut reader = FrameReader::default();
        let mut assembler = Assembler::new(1 << 20, 1 << 20);
        let mut order = Vec::new();
        while let Some(bytes) = batch.next_write() {
            reader.buffer().extend_from_slice(&bytes);
            while let Some(packet) = reader.next().unwrap() {
                let packet = match packet.body {
                    Some(pb::packet::Body::Part(part)) => match assembler.push(part).unwrap() {
                        Some(whole) => whole,
                        None => continue,
                    },
                    _ => packet,
                };
                assert!(packet.payload.iter().all(|byte| u64::from(*byte) == packet.id));
                order.push((packet.id, packet.payload.len()));
            }
        }
        assert_eq!(order, [(3, 0), (2, PART + 10), (1, 300_000)]);
        assert_eq!(assembler.held, 0);
    }

    /// Packets of this length, each written and read as a driver does that reads what a part lacks to
    /// where it belongs, at most `cut` bytes at a time.
    fn read(assembler: &mut Assembler, len: usize, count: u64, cut: usize) -> Vec<Packet> {
        read_beyond(assembler, len, count, cut, Assembler::BEYOND)
    }

    fn read_beyond(
        assembler: &mut Assembler,
        len: usize,
        count: u64,
        cut: usize,
        beyond: usize,
    ) -> Vec<Packet> {
        let mut batch = Batch::new(1 << 30);
        for id in 1..=count {
            let payload = Bytes::from(vec![id as u8; len]);
            batch.push(Frame::with_payload(id, pb::Result::default(), payload), None);
            batch.push(Frame::new(count + id, pb::Result::default()), None);
        }
        let mut stream = Vec::new();
        while let Some(bytes) = batch.next_write() {
            stream.extend(bytes);
        }
        let (mut stream, mut reader, mut seen) = (&stream[..], FrameReader::default(), Vec::new());
        while !stream.is_empty() {
            let missing = reader.missing();
            let room = missing.map_or(usize::MAX, |(_, bytes)| bytes + beyond);
            let (now, later) = stream.split_at(room.min(cut).min(stream.len()));
            stream = later;
            if let Some((part, bytes)) = missing {
                assembler.room_and_beyond(part, bytes).unwrap().put_slice(now);
                let beyond = now.len().saturating_sub(bytes);
                assembler.move_beyond(part, beyond, &mut reader);
                reader.skip(now.len() - beyond);
                seen.extend(assembler.filled(part, now.len() - beyond).unwrap());
            } else {
                reader.buffer().extend_from_slice(now);
            }
            while let Some(packet) = reader.next().unwrap() {
                match packet.body {
                    Some(pb::packet::Body::Part(part)) => {
                        seen.extend(assembler.push(part).unwrap());
                    }
                    _ => seen.push(packet),
                }
            }
        }
        assert_eq!(assembler.held, 0);
        seen
    }

    #[test]
    fn parts_come_back_whole_however_the_stream_is_cut() {
        for cut in [1, 7, 100, 4096, 5000, 70_000, 1 << 20] {
            let mut assembler = Assembler::new(1 << 20, 8 << 20);
            let len = if cut < 100 { PART + 100 } else { 300_000 };
            for beyond in [0, 1, 5, 13, 700, Assembler::BEYOND] {
                let seen = read_beyond(&mut assembler, len, 3, cut, beyond);
                assert_eq!(seen.len(), 6, "cut {cut}, beyond {beyond}");
                for packet in seen {
                    let is_large = packet.id <= 3;
                    assert_eq!(packet.payload.len(), if is_large { len } else { 0 });
                    assert!(packet.payload.iter().all(|byte| u64::from(*byte) == packet.id));
                }
            }
        }
    }

    #[test]
    fn memory_that_is_not_in_use_any_more_is_used_again() {
        let mut assembler = Assembler::new(1 << 20, 64 << 20);
        let at = |packets: &[Packet]| packets.iter().find(|p| p.id == 1).unwrap().payload.as_ptr();
        let first = read(&mut assembler, 300_000, 1, 4096);
        let second = read(&mut assembler, 300_000, 1, 4096);
        assert_ne!(at(&first), at(&second), "the first one is in use");
        assert!(first.iter().all(|packet| packet.payload.iter().all(|byte| *byte == 1)));
        let before = at(&first);
        drop(first);
        assert_eq!(at(&read(&mut assembler, 290_000, 1, 4096)), before);
        assembler.release();
        assert!(assembler.given.is_empty() && assembler.given_bytes == 0);
        drop(read(&mut assembler, 900_000, 20, 1 << 20));
        assert!(assembler.given_bytes <= Assembler::MAX_GIVEN);
    }

    #[test]
    fn memory_grows_only_as_bytes_arrive() {
        let mut assembler = Assembler::new(16 << 20, 64 << 20);
        assert!(assembler.push(part(1, 8 << 20, b"x")).unwrap().is_none());
        assert!(assembler.streams[&1].1.capacity() < 100);
        assert_eq!(assembler.room(1, PART).unwrap().remaining_mut(), PART);
        assert!(assembler.streams[&1].1.capacity() <= 5 * PART);
    }

    #[test]
    fn what_breaks_a_limit_or_the_order_is_refused() {
        let mut assembler = Assembler::new(100, 10);
        assert!(assembler.push(part(1, 0, b"x")).is_err(), "unknown stream");
        assert!(assembler.push(part(1, 1 << 40, b"x")).is_err(), "over the limit");
        assert!(assembler.push(part(1, 3, b"")).is_err(), "empty");
        assert!(assembler.push(part(1, 3, b"xx")).unwrap().is_none());
        assert!(assembler.push(part(1, 3, b"x")).is_err(), "opened twice");
        let mut assembler = Assembler::new(100, 10);
        assert!(assembler.push(part(1, 3, b"xxxx")).is_err(), "longer than it said");
    }
}
