//! Puts packets that came in parts together again.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};

use super::{
    frame::decode,
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
}

impl Assembler {
    /// Packets alternating on one connection: more than a correct peer ever has under way, since
    /// it opens a stream for a call in flight or a topic.
    const MAX_STREAMS: usize = 16 << 10;

    /// Room in a packet for what is not payload: an error with its value and all its causes.
    const HEAD: usize = 128 << 10;

    pub(crate) fn new(max_payload: usize, max_held: usize) -> Self {
        Self {
            streams: HashMap::new(),
            held: 0,
            max_packet: max_payload.saturating_add(Self::HEAD),
            max_held: max_held.saturating_add(Self::HEAD),
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
        let Some((total, buffer)) = self.streams.get_mut(&part.stream) else {
            return Err(Error::protocol(format!("a part of unknown stream {}", part.stream)));
        };
        if buffer.len() + part.data.len() > *total {
            return Err(Error::protocol(format!("stream {} is longer than it said", part.stream)));
        }
        if self.held + part.data.len() > self.max_held {
            return Err(Error::protocol(format!(
                "more than {} bytes of unfinished packets",
                self.max_held
            )));
        }
        self.held += part.data.len();
        buffer.extend_from_slice(&part.data);
        if buffer.len() < *total {
            return Ok(None);
        }
        let whole = self.streams.remove(&part.stream).map_or_else(Bytes::new, |s| s.1.freeze());
        self.held -= whole.len();
        let packet = decode(whole)?;
        if matches!(packet.body, Some(super::pb::packet::Body::Part(_))) {
            return Err(Error::protocol("a part within parts"));
        }
        Ok(Some(packet))
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
        if self.streams.insert(stream, (total, BytesMut::new())).is_some() {
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
