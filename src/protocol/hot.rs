//! The packets of calls and updates, read and written by hand: nearly all that a busy link carries.
//! Prost's code, which is made for any message, takes several times as long for them.
//!
//! What is written is byte for byte what prost writes. What is read is what such a writer writes;
//! of anything else prost decides, so that the contract is the same.

use std::ops::Range;

use bytes::Bytes;

use super::{
    frame::LENGTH,
    pb::{self, packet::Body},
};

/// Tags of the fields of `Packet`.
const ID: u8 = 1 << 3;
const RESULT: u8 = 2 << 3 | 2;
const INVOKE: u8 = 3 << 3 | 2;
const UPDATE: u8 = 4 << 3 | 2;
const PART: u8 = 8 << 3 | 2;
const PAYLOAD: [u8; 2] = [250, 1];

/// Tags of the two numbers of `Invoke` and `Update`.
const FIRST: u8 = 1 << 3;
const SECOND: u8 = 2 << 3;
const DATA: u8 = 3 << 3 | 2;

/// The most bytes of a frame before its payload: length, id, body, and the payload's tag and length.
pub(super) const MAX_HEAD: usize = LENGTH + 11 + 2 + 13 + 7;

/// Writes a frame up to where its payload of this length starts. `None`: prost is to write it.
#[inline]
pub(super) fn write(
    out: &mut [u8; MAX_HEAD],
    id: u64,
    body: &Body,
    payload: usize,
) -> Option<usize> {
    let (tag, first, second) = match body {
        Body::Result(pb::Result { error: None }) => (RESULT, 0, 0),
        Body::Invoke(invoke) => (INVOKE, invoke.method.into(), invoke.timeout_ms.into()),
        Body::Update(update) => (UPDATE, update.version, update.stale.into()),
        _ => return None,
    };
    let mut out = Writer { out, at: LENGTH };
    out.field(ID, id);
    out.byte(tag);
    let len = out.at;
    out.byte(0);
    out.field(FIRST, first);
    out.field(SECOND, second);
    out.out[len] = (out.at - len - 1) as u8;
    if payload > 0 {
        out.byte(PAYLOAD[0]);
        out.byte(PAYLOAD[1]);
        out.varint(payload as u64);
    }
    // Of a packet that goes in parts the length is never written, so saturating is harmless.
    let len = u32::try_from(out.at - LENGTH + payload).unwrap_or(u32::MAX);
    out.out[..LENGTH].copy_from_slice(&len.to_be_bytes());
    Some(out.at)
}

/// Reads a packet: its id, its body, and where its payload is. `None`: prost is to read it.
#[inline]
pub(super) fn read(packet: &[u8]) -> Option<(u64, Body, Range<usize>)> {
    let mut rest = Reader(packet);
    let id = rest.field(ID)?;
    if id == 0 {
        return None;
    }
    let tag = rest.byte()?;
    let len = usize::try_from(rest.varint()?).ok()?;
    let behind = rest.0.len().checked_sub(len)?;
    let body = match tag {
        RESULT => Body::Result(pb::Result { error: None }),
        INVOKE => Body::Invoke(pb::Invoke {
            method: rest.field(FIRST)? as u32,
            timeout_ms: rest.field(SECOND)? as u32,
        }),
        UPDATE => {
            Body::Update(pb::Update { version: rest.field(FIRST)?, stale: rest.field(SECOND)? > 0 })
        }
        _ => return None,
    };
    if rest.0.len() != behind {
        return None;
    }
    if behind > 0 {
        let (tag, payload) = rest.0.split_first_chunk()?;
        rest.0 = payload;
        if *tag != PAYLOAD || rest.varint()? != rest.0.len() as u64 {
            return None;
        }
    }
    Some((id, body, packet.len() - rest.0.len()..packet.len()))
}

/// Reads the head of a packet of `length` bytes that is a part and nothing else, up to where its data
/// begins, of which there is some. `None`: it is something else, or not enough is here.
pub(super) fn read_part_head(packet: &[u8], length: usize) -> Option<(pb::Part, usize)> {
    let mut rest = Reader(packet);
    let at = |rest: &Reader| packet.len() - rest.0.len();
    if rest.byte()? != PART || rest.varint()? != length.checked_sub(at(&rest))? as u64 {
        return None;
    }
    let (stream, total) = (rest.field(FIRST)?, rest.field(SECOND)?);
    if rest.byte()? != DATA || rest.varint()? != length.checked_sub(at(&rest))? as u64 {
        return None;
    }
    let is_some = !rest.0.is_empty();
    is_some.then(|| (pb::Part { stream, total, data: Bytes::new() }, at(&rest)))
}

struct Writer<'a> {
    out: &'a mut [u8; MAX_HEAD],
    at: usize,
}

impl Writer<'_> {
    #[inline]
    fn byte(&mut self, byte: u8) {
        self.out[self.at] = byte;
        self.at += 1;
    }

    #[inline]
    fn varint(&mut self, mut value: u64) {
        if (1 << 14..1 << 56).contains(&value)
            && let Some(out) = self.out[self.at..].first_chunk_mut()
        {
            let (bytes, len) = spread(value);
            *out = bytes.to_le_bytes();
            self.at += len;
            return;
        }
        while value > 0x7f {
            self.byte(value as u8 | 0x80);
            value >>= 7;
        }
        self.byte(value as u8);
    }

    /// A number, which is left out where it is 0.
    #[inline]
    fn field(&mut self, tag: u8, value: u64) {
        if value > 0 {
            self.byte(tag);
            self.varint(value);
        }
    }
}

/// The highest bit of each byte: in a varint, another byte follows.
const MORE: u64 = 0x8080_8080_8080_8080;

/// The groups of seven bits of a number of at most 56 bits, a byte each, as a varint; how many
/// bytes that is. All groups at once: a loop takes several times as long.
fn spread(value: u64) -> (u64, usize) {
    let mut x = value & 0x0fff_ffff | (value & 0x00ff_ffff_f000_0000) << 4;
    x = x & 0x0000_3fff_0000_3fff | (x & 0x0fff_c000_0fff_c000) << 2;
    x = x & 0x007f_007f_007f_007f | (x & 0x3f80_3f80_3f80_3f80) << 1;
    let last = (63 - (x | 1).leading_zeros()) / 8;
    (x | MORE & ((1 << (8 * last)) - 1), last as usize + 1)
}

/// The number of a varint of so many bytes, at most eight; what follows them is left out.
fn gather(bytes: u64, len: u32) -> u64 {
    let mut x = bytes & !MORE & u64::MAX >> (64 - 8 * len);
    x = x & 0x007f_007f_007f_007f | (x & 0x7f00_7f00_7f00_7f00) >> 1;
    x = x & 0x0000_3fff_0000_3fff | (x & 0x3fff_0000_3fff_0000) >> 2;
    x & 0x0fff_ffff | (x & 0x0fff_ffff_0000_0000) >> 4
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    #[inline]
    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    /// A number of at most nine bytes; a tenth has rules of its own.
    #[inline]
    fn varint(&mut self) -> Option<u64> {
        match *self.0 {
            [first @ ..0x80, ref rest @ ..] => {
                self.0 = rest;
                Some(first.into())
            }
            [first, second @ ..0x80, ref rest @ ..] => {
                self.0 = rest;
                Some(u64::from(first & 0x7f) | u64::from(second) << 7)
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Option<u64> {
        if let Some(bytes) = self.0.first_chunk() {
            let bytes = u64::from_le_bytes(*bytes);
            let ends = !bytes & MORE;
            if ends != 0 {
                let len = ends.trailing_zeros() / 8 + 1;
                self.0 = &self.0[len as usize..];
                return Some(gather(bytes, len));
            }
        }
        let mut value = 0;
        for shift in (0..63).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    /// A number, which is 0 where it is left out.
    #[inline]
    fn field(&mut self, tag: u8) -> Option<u64> {
        if self.0.first() != Some(&tag) {
            return Some(0);
        }
        self.0 = &self.0[1..];
        self.varint()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;

    fn hot() -> impl Strategy<Value = Body> {
        let number = || prop_oneof![Just(0), Just(u32::MAX), any::<u32>(), 0..300_u32];
        prop_oneof![
            Just(Body::Result(pb::Result { error: None })),
            (number(), number()).prop_map(|(method, timeout_ms)| {
                Body::Invoke(pb::Invoke { method, timeout_ms })
            }),
            (any::<u64>(), any::<bool>())
                .prop_map(|(version, stale)| Body::Update(pb::Update { version, stale })),
        ]
    }

    fn packet() -> impl Strategy<Value = pb::Packet> {
        let id = prop_oneof![Just(0), Just(u64::MAX), any::<u64>(), 0..300_u64];
        let payload = prop::collection::vec(any::<u8>(), 0..300);
        (id, hot(), payload).prop_map(|(id, body, payload)| pb::Packet {
            id,
            body: Some(body),
            payload: payload.into(),
        })
    }

    /// What `read` makes of bytes is what prost makes of them, or it leaves them to prost.
    fn check(bytes: &[u8]) -> Result<bool, TestCaseError> {
        let Some((id, body, payload)) = read(bytes) else { return Ok(false) };
        let payload = Bytes::copy_from_slice(&bytes[payload]);
        let ours = pb::Packet { id, body: Some(body), payload };
        prop_assert_eq!(Ok(ours), pb::Packet::decode(bytes));
        Ok(true)
    }

    proptest! {
        #[test]
        fn what_is_written_is_what_prost_writes_and_is_read_again(packet in packet()) {
            let expected = packet.encode_to_vec();
            let mut head = [0; MAX_HEAD];
            let body = packet.body.as_ref().unwrap();
            let len = write(&mut head, packet.id, body, packet.payload.len()).unwrap();
            let (length, head) = head[..len].split_first_chunk().unwrap();
            prop_assert_eq!(u32::from_be_bytes(*length) as usize, expected.len());
            let written = [head, &packet.payload].concat();
            prop_assert_eq!(&written, &expected);
            let is_usual = packet.id > 0 && packet.id < 1 << 63;
            let is_read = check(&written)?;
            prop_assert!(is_read || !is_usual || matches!(
                body, Body::Update(update) if update.version >= 1 << 63
            ));
        }

        #[test]
        fn what_is_read_of_damaged_packets_is_what_prost_reads(
            packet in packet(),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            cut in any::<prop::sample::Index>(),
            more in prop::collection::vec(any::<u8>(), 0..4),
        ) {
            let mut bytes = packet.encode_to_vec();
            for (at, byte) in damage {
                if !bytes.is_empty() {
                    let at = at.index(bytes.len().min(24));
                    bytes[at] = byte;
                }
            }
            check(&bytes)?;
            check(&bytes[..cut.index(bytes.len() + 1)])?;
            bytes.extend_from_slice(&more);
            check(&bytes)?;
        }
    }

    #[test]
    fn longer_forms_of_numbers_and_fields_in_another_order_mean_what_they_mean_to_prost() {
        for bytes in [
            &[8, 0x81, 0, 18, 0][..],
            &[8, 1, 26, 4, 16, 1, 8, 2],
            &[8, 1, 26, 4, 8, 1, 8, 2],
            &[18, 0, 8, 1],
            &[8, 1, 34, 4, 8, 1, 16, 2],
            &[8, 1, 18, 0, 250, 1, 0],
            &[8, 1, 18, 0, 18, 0],
            &[8, 1, 26, 8, 8, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f, 16],
            &[],
        ] {
            let _ = check(bytes).unwrap();
        }
    }
}
