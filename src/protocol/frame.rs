//! One frame: a 4-byte big-endian length and an encoded packet.

use bytes::{Buf, BufMut, Bytes, BytesMut, buf::Limit};
use prost::Message;

use super::{
    hot,
    pb::{Packet, Part, packet::Body},
};
use crate::error::{Error, Result};

/// A packet larger than this goes in parts of this size.
pub(crate) const PART: usize = 64 << 10;

/// No frame is longer: a part with its own head.
pub(crate) const MAX_FRAME: usize = PART + 64;

/// Pieces shorter than this are put together for a write: a copy costs less than one more piece in
/// a `writev`.
pub(super) const COPY: usize = 512;

/// A payload from [`COPY`] up to this is put behind its head when the frame is made, so that the
/// frame is one piece however often it is written. A shorter one is copied when it is written, a
/// longer one is written from where it lies.
const INLINE: usize = 4 << 10;

/// Tag of `Packet.payload` (field 31, length-delimited).
const PAYLOAD_TAG: u32 = 31 << 3 | 2;
const PAYLOAD_TAG_LEN: usize = 2;

/// Bytes of the length before a packet.
pub(super) const LENGTH: usize = 4;

/// An encoded packet. Cheap to clone: every follower of a topic gets the same bytes.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    /// The length, then the packet, without the payload where that is kept apart.
    head: Head,
    payload: Bytes,
    keeps_order: bool,
}

/// The head of nearly every frame is a few bytes, for which an allocation would cost more than the
/// copies.
#[derive(Debug, Clone)]
pub(super) enum Head {
    Small { bytes: [u8; Self::SMALL], len: u8 },
    Heap(Bytes),
}

impl Head {
    const SMALL: usize = hot::MAX_HEAD;
}

impl AsRef<[u8]> for Head {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Small { bytes, len } => &bytes[..usize::from(*len)],
            Self::Heap(bytes) => bytes,
        }
    }
}

impl Frame {
    /// Encodes a packet without payload.
    pub(crate) fn new(id: u64, body: impl Into<Body>) -> Self {
        Self::with_payload(id, body, Bytes::new())
    }

    /// Encodes a packet.
    pub(crate) fn with_payload(id: u64, body: impl Into<Body>, payload: Bytes) -> Self {
        let body = body.into();
        let mut head = [0; hot::MAX_HEAD];
        if let Some(head_len) = hot::write(&mut head, id, &body, payload.len()) {
            return Self::of_head(head, head_len, payload);
        }
        // The payload is the last field, so it is appended by hand and never passes through prost.
        let packet = Packet { id, body: Some(body), payload: Bytes::new() };
        let mut len = packet.encoded_len();
        if !payload.is_empty() {
            len += PAYLOAD_TAG_LEN + prost::length_delimiter_len(payload.len()) + payload.len();
        }
        let head_len = LENGTH + len - payload.len();
        if (COPY..=INLINE).contains(&payload.len()) {
            let mut head = BytesMut::with_capacity(LENGTH + len);
            put_head(&mut head, len, &packet, payload.len());
            head.extend_from_slice(&payload);
            Self { head: Head::Heap(head.freeze()), payload: Bytes::new(), keeps_order: false }
        } else if head_len <= Head::SMALL {
            let mut bytes = [0; Head::SMALL];
            put_head(&mut bytes.as_mut_slice(), len, &packet, payload.len());
            Self { head: Head::Small { bytes, len: head_len as u8 }, payload, keeps_order: false }
        } else {
            let mut head = BytesMut::with_capacity(head_len);
            put_head(&mut head, len, &packet, payload.len());
            Self { head: Head::Heap(head.freeze()), payload, keeps_order: false }
        }
    }

    /// As [`Frame::with_payload`], where the payload is in two pieces.
    pub(crate) fn with_pieces(
        id: u64,
        body: impl Into<Body>,
        first: &[u8],
        payload: Bytes,
    ) -> Self {
        let packet = Packet { id, body: Some(body.into()), payload: Bytes::new() };
        let payload_len = first.len() + payload.len();
        let len = packet.encoded_len()
            + PAYLOAD_TAG_LEN
            + prost::length_delimiter_len(payload_len)
            + payload_len;
        let mut head = BytesMut::with_capacity(LENGTH + len - payload.len());
        put_head(&mut head, len, &packet, payload_len);
        head.extend_from_slice(first);
        Self { head: Head::Heap(head.freeze()), payload, keeps_order: false }
    }

    /// A packet whose head is encoded already.
    fn of_head(bytes: [u8; hot::MAX_HEAD], len: usize, payload: Bytes) -> Self {
        if (COPY..=INLINE).contains(&payload.len()) {
            let mut whole = Vec::with_capacity(len + payload.len());
            whole.extend_from_slice(&bytes[..len]);
            whole.extend_from_slice(&payload);
            let head = Head::Heap(Bytes::from(whole));
            return Self { head, payload: Bytes::new(), keeps_order: false };
        }
        Self { head: Head::Small { bytes, len: len as u8 }, payload, keeps_order: false }
    }

    /// Not to be written before large frames that were queued before it, as what speaks of them.
    pub(crate) fn in_order(self) -> Self {
        Self { keeps_order: true, ..self }
    }

    pub(super) fn keeps_order(&self) -> bool {
        self.keeps_order
    }

    /// Size of the encoded packet, without the length before it.
    pub(crate) fn packet_len(&self) -> usize {
        self.head.as_ref().len() - LENGTH + self.payload.len()
    }

    /// Whether it must go in parts.
    pub(crate) fn is_large(&self) -> bool {
        self.packet_len() > PART
    }

    /// The whole frame in at most two pieces.
    pub(crate) fn chunks(&self) -> [&[u8]; 2] {
        [self.head.as_ref(), &self.payload]
    }

    /// The head and the payload that is kept apart from it.
    pub(super) fn into_parts(self) -> (Head, Bytes) {
        (self.head, self.payload)
    }

    /// The bytes `from..from + PART` of the packet (fewer at the end), in at most two pieces.
    pub(super) fn part(&self, from: usize) -> [Bytes; 2] {
        let head = &self.head.as_ref()[LENGTH..];
        let to = (from + PART).min(self.packet_len());
        let in_head = Bytes::copy_from_slice(&head[from.min(head.len())..to.min(head.len())]);
        let shift = |at: usize| at.saturating_sub(head.len());
        [in_head, self.payload.slice(shift(from)..shift(to))]
    }
}

/// Writes a packet of `len` bytes with the length before it, up to where its payload starts.
fn put_head(out: &mut impl BufMut, len: usize, packet: &Packet, payload: usize) {
    // Of a packet that goes in parts the length is never written, so saturating is harmless.
    out.put_u32(u32::try_from(len).unwrap_or(u32::MAX));
    packet.encode_raw(out);
    if payload > 0 {
        prost::encoding::encode_varint(u64::from(PAYLOAD_TAG), out);
        prost::encoding::encode_varint(payload as u64, out);
    }
}

macro_rules! bodies {
    ($($name:ident),*) => {$(
        impl From<super::pb::$name> for Body {
            fn from(body: super::pb::$name) -> Self {
                Self::$name(body)
            }
        }
    )*};
}

bodies!(
    Result,
    Invoke,
    Update,
    State,
    Cancel,
    Heartbeat,
    Deliver,
    Settle,
    Subscribe,
    SubscribeResult,
    Unsubscribe,
    Publish,
    Unpublish,
    Replayed,
    GoAway,
    Hello
);

macro_rules! boxed_bodies {
    ($($name:ident),*) => {$(
        impl From<super::pb::$name> for Body {
            fn from(body: super::pb::$name) -> Self {
                Self::$name(Box::new(body))
            }
        }
    )*};
}

boxed_bodies!(Register, Registered);

/// Cuts a stream of bytes into packets.
#[derive(Debug, Default)]
pub(crate) struct FrameReader {
    buffer: BytesMut,
    /// How much room the next read is offered: grows while reads fill it, shrinks when idle, so
    /// that a busy link needs few reads and an idle one little memory.
    room: usize,
    /// The part whose data is only partly here: its stream, and how much is missing.
    rest: Option<(u64, usize)>,
    /// How much of `room` was left for the read that is under way.
    offered: usize,
    /// What was read last was of a part, so that what comes next is likely to be of one, too.
    is_in_parts: bool,
}

impl FrameReader {
    const ROOM: (usize, usize) = (4 << 10, 64 << 10);

    /// The buffer to read into, with room reserved: as much as is left of what is offered beside the
    /// frame that is partly here, so that the buffer is used again as it is. While what was read
    /// before is still in use there, what is left behind it will do, if that is not too little.
    pub(crate) fn buffer(&mut self) -> &mut BytesMut {
        self.room = self.room.clamp(Self::ROOM.0, Self::ROOM.1);
        let least = self.room / 4;
        let most = self.room.saturating_sub(self.buffer.len()).max(least);
        let left = |buffer: &BytesMut| buffer.capacity() - buffer.len();
        if !self.buffer.try_reclaim(most) && left(&self.buffer) < least {
            self.buffer.reserve(most);
        }
        self.offered = left(&self.buffer).min(most);
        &mut self.buffer
    }

    /// The buffer to read into, and how much: little where parts arrive, so that most of their data
    /// is left for [`FrameReader::missing`].
    pub(crate) fn room(&mut self) -> Limit<&mut BytesMut> {
        if self.is_in_parts {
            return self.buffer().limit(Self::ROOM.0);
        }
        self.buffer();
        (&mut self.buffer).limit(self.offered)
    }

    /// The stream of the part that is only partly here and how much of it is missing, where that is
    /// worth a read of its own. Whoever reads it elsewhere says so with [`FrameReader::skip`].
    pub(crate) fn missing(&self) -> Option<(u64, usize)> {
        self.rest.filter(|(_, missing)| *missing >= Self::ROOM.0 && self.buffer.is_empty())
    }

    /// What was read elsewhere behind the end of a part.
    pub(crate) fn put(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// So much of what is missing was read elsewhere.
    pub(crate) fn skip(&mut self, bytes: usize) {
        self.rest = self
            .rest
            .and_then(|(stream, missing)| Some((stream, missing.checked_sub(bytes)?)))
            .filter(|(_, missing)| *missing > 0);
    }

    /// Notes how much the last read brought.
    pub(crate) fn filled(&mut self, bytes: usize) {
        if bytes >= self.offered {
            self.room *= 2;
        } else if bytes < self.room / 4 {
            self.room /= 2;
        }
    }

    /// The next whole packet, or `None` until more bytes are here.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Protocol`](crate::ErrorKind::Protocol) if the length is over the limit, which
    /// is checked before anything is allocated, or if the bytes are no packet.
    #[inline]
    pub(crate) fn next(&mut self) -> Result<Option<Packet>> {
        if let Some((stream, missing)) = self.rest {
            return Ok(self.next_of_part(stream, 0, missing));
        }
        let Some(length) = self.buffer.first_chunk::<LENGTH>() else { return Ok(None) };
        let length = u32::from_be_bytes(*length) as usize;
        if length > MAX_FRAME {
            return Err(Error::protocol(format!(
                "a frame of {length} bytes is over the limit of {MAX_FRAME}; is this a \
                 cluster-client peer?"
            )));
        }
        if self.buffer.len() < LENGTH + length {
            let part = self.begin_part(length);
            self.is_in_parts = part.is_some();
            return Ok(part);
        }
        self.is_in_parts = false;
        let packet = &self.buffer[LENGTH..LENGTH + length];
        if let Some((id, body, at)) = hot::read(packet) {
            let payload = if at.is_empty() {
                self.buffer.advance(LENGTH + length);
                Bytes::new()
            } else {
                let mut frame = self.buffer.split_to(LENGTH + length).freeze();
                frame.advance(LENGTH + at.start);
                frame
            };
            return Ok(Some(Packet { id, body: Some(body), payload }));
        }
        self.buffer.advance(LENGTH);
        decode(self.buffer.split_to(length).freeze()).map(Some)
    }

    /// The head of a part whose data is not whole yet, and what there is of it.
    fn begin_part(&mut self, length: usize) -> Option<Packet> {
        let here = &self.buffer[LENGTH..];
        let (part, head) = hot::read_part_head(here, length)?;
        self.buffer.advance(LENGTH + head);
        self.next_of_part(part.stream, part.total, length - head)
    }

    /// A part is taken in pieces, each a smaller part, so that the rest of a large one need not
    /// pass through this buffer.
    fn next_of_part(&mut self, stream: u64, total: u64, missing: usize) -> Option<Packet> {
        let here = missing.min(self.buffer.len());
        if here == 0 {
            return None;
        }
        self.is_in_parts = true;
        self.rest = Some((stream, missing - here)).filter(|(_, missing)| *missing > 0);
        let data = self.buffer.split_to(here).freeze();
        Some(Packet {
            id: 0,
            body: Some(Body::Part(Part { stream, total, data })),
            payload: Bytes::new(),
        })
    }

    /// Lets the buffer go, if nothing is in it. Called now and then, so that a busy link keeps its
    /// buffer and an idle one keeps none.
    pub(crate) fn release(&mut self) {
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
    }
}

/// Decodes a packet; its payload is a slice of `bytes`.
pub(super) fn decode(bytes: Bytes) -> Result<Packet> {
    Packet::decode(bytes).map_err(|error| Error::protocol(format!("not a packet: {error}")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::pb;

    fn whole(frame: Frame) -> Vec<u8> {
        frame.chunks().concat()
    }

    #[test]
    fn a_frame_is_the_bytes_that_the_contract_says() {
        let invoke = pb::Invoke { method: 3, timeout_ms: 500 };
        let frame = Frame::with_payload(7, invoke, Bytes::from_static(b"ab"));
        let expected = [
            0, 0, 0, 14, // length
            8, 7, // id = 7
            26, 5, 8, 3, 16, 244, 3, // invoke { method = 3, timeout_ms = 500 }
            250, 1, 2, b'a', b'b', // payload
        ];
        // 2 + 7 + 5 bytes of packet.
        assert_eq!(whole(frame), expected);
    }

    proptest! {
        #[test]
        fn packets_come_back_however_the_stream_is_cut(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9000), 1..6),
            cut in 1_usize..5000,
        ) {
            let stream: Vec<u8> = payloads
                .iter()
                .zip(0_u64..)
                .flat_map(|(payload, id)| {
                    let update = pb::Update { version: id, stale: false };
                    whole(Frame::with_payload(id, update, Bytes::from(payload.clone())))
                })
                .collect();
            let mut reader = FrameReader::default();
            let mut seen = Vec::new();
            for piece in stream.chunks(cut) {
                reader.buffer().extend_from_slice(piece);
                while let Some(packet) = reader.next().unwrap() {
                    seen.push(packet.payload.to_vec());
                }
            }
            prop_assert_eq!(seen, payloads);
        }

        #[test]
        fn garbage_is_refused_or_waited_for_but_never_a_panic(bytes in any::<Vec<u8>>()) {
            let mut reader = FrameReader::default();
            reader.buffer().extend_from_slice(&bytes);
            while let Ok(Some(_)) = reader.next() {}
        }
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_it_is_reserved() {
        let mut reader = FrameReader::default();
        reader.buffer().extend_from_slice(&(2_u32 << 30).to_be_bytes());
        let before = reader.buffer.capacity();
        let error = reader.next().unwrap_err();
        assert!(error.to_string().contains("2147483648"), "{error}");
        assert_eq!(reader.buffer.capacity(), before);
    }

    #[test]
    fn a_packet_is_small_to_move() {
        assert!(size_of::<Packet>() <= 96, "{} bytes", size_of::<Packet>());
    }

    #[test]
    fn an_http_request_is_refused() {
        let mut reader = FrameReader::default();
        reader.buffer().extend_from_slice(b"GET / HTTP/1.1\r\n\r\n");
        assert!(reader.next().is_err());
    }
}
