//! What is to be written to one peer, and in which order.

use std::{collections::VecDeque, io::IoSlice};

use bytes::{Buf, Bytes, BytesMut};
use prost::Message;

use super::{
    frame::{COPY, Frame, Head, LENGTH, PART},
    pb::Part,
    run::{Item, Run},
};

/// One write takes at most this much.
const MAX_WRITE: usize = 256 << 10;

/// Frames on their way to the socket: small ones in order and first, then one part of each large
/// one in turn, so that a small answer never waits behind a large one.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    small: VecDeque<Item>,
    /// Those that are begun, in turn; and those that are not, because the peer holds what it has
    /// of each until it is whole.
    large: VecDeque<Large>,
    waiting: VecDeque<Large>,
    /// Bytes of the whole packets that are begun, and the most of them.
    begun: usize,
    max_begun: usize,
    /// Bytes of large values that are not staged to their end.
    values: usize,
    /// Pieces of the write that is under way, and the one that is still being added to.
    pieces: VecDeque<Bytes>,
    open: BytesMut,
    /// Bytes in `pieces` and `open`.
    staged: usize,
    /// Bytes of frames not yet staged, without large values, and those of small ones among them.
    queued: usize,
    queued_small: usize,
    /// Bytes of those that will be put together.
    queued_copied: usize,
    /// Bytes staged and written since the start; the marks count in `staged_total`.
    staged_total: u64,
    written_total: u64,
    /// Where a marked frame starts in the stream of bytes.
    marks: VecDeque<(u64, u64)>,
    next_stream: u64,
    /// Topics whose large value was staged to its end.
    finished: Vec<u64>,
    /// A run that was staged, whose memory can be used again.
    spare: Option<Run>,
}

#[derive(Debug)]
struct Large {
    frame: Frame,
    stream: u64,
    from: usize,
    mark: Option<u64>,
    topic: Option<u64>,
    /// Not to be begun before what was added before it is written.
    is_last: bool,
}

impl Batch {
    /// Pieces in one `writev`.
    pub(crate) const MAX_PIECES: usize = 128;

    /// A batch for a peer that holds at most this many bytes of packets that are partly there.
    pub(crate) fn new(max_begun: usize) -> Self {
        Self { max_begun, ..Self::default() }
    }

    /// Adds a frame. Its `mark` is given back by [`Batch::advance`] when its first byte is written.
    pub(crate) fn push(&mut self, frame: Frame, mark: Option<u64>) {
        self.push_item(Item::Frame(frame, mark));
    }

    pub(super) fn push_item(&mut self, item: Item) {
        let (frame, mark) = match item {
            Item::Frame(frame, mark) => (frame, mark),
            Item::Run(run) => {
                self.queued += run.bytes.len();
                self.queued_small += run.bytes.len();
                return self.small.push_back(Item::Run(run));
            }
        };
        self.queued += frame.packet_len();
        let has_large = !(self.large.is_empty() && self.waiting.is_empty());
        let is_last = frame.keeps_order() && has_large;
        if frame.is_large() || is_last {
            self.next_stream += 1;
            let stream = self.next_stream;
            self.waiting.push_back(Large { frame, stream, from: 0, mark, topic: None, is_last });
        } else {
            self.queued_small += frame.packet_len();
            self.queued_copied += copied(&frame);
            self.small.push_back(Item::Frame(frame, mark));
        }
    }

    /// Adds the value of a topic. True: it is large, and [`Batch::finished`] will name the topic
    /// when it is through, until when no newer value should be added.
    pub(crate) fn push_value(&mut self, frame: Frame, topic: u64) -> bool {
        let large = frame.is_large();
        debug_assert!(!frame.keeps_order());
        self.push(frame, None);
        if large && let Some(added) = self.waiting.back_mut() {
            added.topic = Some(topic);
            let len = added.frame.packet_len();
            self.queued -= len;
            self.values += len;
        }
        large
    }

    /// Whether a large value of this topic is not through yet.
    pub(crate) fn carries(&self, topic: u64) -> bool {
        self.values > 0
            && self.large.iter().chain(&self.waiting).any(|large| large.topic == Some(topic))
    }

    /// Takes the topics whose large value was staged to its end.
    pub(crate) fn finished(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.finished)
    }

    /// Bytes that wait here, staged ones included, large values not.
    pub(crate) fn len(&self) -> usize {
        self.queued + self.staged
    }

    /// Bytes of large values that wait here. They are bounded by themselves, since no value must
    /// keep an answer from being queued.
    pub(crate) fn values(&self) -> usize {
        self.values
    }

    /// Whether small frames can still be added to the write that comes next.
    pub(crate) fn has_room(&self) -> bool {
        self.queued_small + self.staged < MAX_WRITE
    }

    /// Moves frames into the write that comes next, up to its bound.
    pub(crate) fn stage(&mut self) {
        // At once what all of it needs, so that it does not move while it grows.
        self.open.reserve(self.queued_copied.min(MAX_WRITE));
        // One part at least has its place, so that no flood of small frames can hold it up.
        let is_large_there = !(self.large.is_empty() && self.waiting.is_empty());
        let bound = if is_large_there { MAX_WRITE - PART } else { MAX_WRITE };
        while self.staged < bound
            && let Some(item) = self.small.pop_front()
        {
            let (frame, mark) = match item {
                Item::Frame(frame, mark) => (frame, mark),
                Item::Run(run) => {
                    self.put_run(run);
                    continue;
                }
            };
            self.queued -= frame.packet_len();
            self.queued_small -= frame.packet_len();
            self.queued_copied -= copied(&frame);
            self.mark(mark);
            match frame.into_parts() {
                (Head::Heap(head), payload) => {
                    self.put(head);
                    self.put(payload);
                }
                (head, payload) => {
                    self.copy(head.as_ref());
                    self.put(payload);
                }
            }
        }
        // One part of each, so that what is asked for while it is written soon has its turn.
        for _ in 0..self.large.len().max(1) {
            let Some(large) = self.next_large() else { break };
            self.put_part(large);
            if self.staged >= MAX_WRITE {
                break;
            }
        }
        self.seal();
    }

    fn put_run(&mut self, mut run: Run) {
        let len = run.bytes.len();
        self.queued -= len;
        self.queued_small -= len;
        let start = self.staged_total;
        self.marks.extend(run.marks.drain(..).map(|(at, mark)| (start + at as u64, mark)));
        self.seal();
        self.staged += len;
        self.staged_total += len as u64;
        self.pieces.push_back(run.bytes.split().freeze());
        self.spare = Some(run);
    }

    /// Takes a run that was staged.
    pub(super) fn take_spare(&mut self) -> Option<Run> {
        self.spare.take()
    }

    /// The large frame whose turn it is. Another one is begun while the peer has room for it.
    fn next_large(&mut self) -> Option<Large> {
        while let Some(next) = self.waiting.front() {
            let len = next.frame.packet_len();
            let must_wait = next.is_last && !self.large.is_empty();
            if must_wait || self.begun > 0 && self.begun + len > self.max_begun {
                break;
            }
            self.begun += len;
            self.large.extend(self.waiting.pop_front());
        }
        self.large.pop_front()
    }

    fn put_part(&mut self, mut large: Large) {
        if large.is_last && !large.frame.is_large() {
            let len = large.frame.packet_len();
            self.queued -= len;
            self.begun -= len;
            self.mark(large.mark);
            return large.frame.chunks().iter().for_each(|chunk| self.copy(chunk));
        }
        let pieces = large.frame.part(large.from);
        let len = pieces[0].len() + pieces[1].len();
        let total = if large.from == 0 { large.frame.packet_len() as u64 } else { 0 };
        self.mark(large.mark.take());
        // A part's data is its last field, so its head can be made with prost and the data be
        // written from where it lies.
        let head = part_head(large.stream, total, len);
        self.put(head);
        for piece in pieces {
            self.put(piece);
        }
        if large.topic.is_none() {
            self.queued -= len;
        }
        large.from += len;
        let whole = large.frame.packet_len();
        if large.from < whole {
            return self.large.push_back(large);
        }
        self.begun -= whole;
        if let Some(topic) = large.topic {
            self.values -= whole;
            self.finished.push(topic);
        }
    }

    fn mark(&mut self, mark: Option<u64>) {
        if let Some(mark) = mark {
            self.marks.push_back((self.staged_total, mark));
        }
    }

    fn put(&mut self, piece: Bytes) {
        if piece.len() < COPY {
            return self.copy(&piece);
        }
        self.seal();
        self.staged += piece.len();
        self.staged_total += piece.len() as u64;
        self.pieces.push_back(piece);
    }

    fn copy(&mut self, piece: &[u8]) {
        self.staged += piece.len();
        self.staged_total += piece.len() as u64;
        self.open.extend_from_slice(piece);
    }

    fn seal(&mut self) {
        if !self.open.is_empty() {
            self.pieces.push_back(self.open.split().freeze());
        }
    }

    /// The pieces of the write under way.
    pub(crate) fn slices<'a>(&'a self, into: &mut [IoSlice<'a>; Self::MAX_PIECES]) -> usize {
        let mut count = 0;
        for (slot, piece) in into.iter_mut().zip(&self.pieces) {
            *slot = IoSlice::new(piece);
            count += 1;
        }
        count
    }

    /// Notes that `bytes` were written; the mark of each frame whose first byte was among them.
    pub(crate) fn advance(&mut self, mut bytes: usize) -> impl Iterator<Item = u64> {
        self.staged -= bytes;
        self.written_total += bytes as u64;
        while let Some(piece) = self.pieces.front_mut() {
            if piece.len() > bytes {
                piece.advance(bytes);
                break;
            }
            bytes -= piece.len();
            self.pieces.pop_front();
        }
        let started = self.marks.partition_point(|(start, _)| *start < self.written_total);
        self.marks.drain(..started).map(|(_, mark)| mark)
    }

    /// Lets go of memory that is not in use.
    pub(crate) fn release(&mut self) {
        self.spare = None;
        if self.len() == 0 {
            self.open = BytesMut::new();
        }
    }

    /// Whether nothing waits but what is in the write under way.
    pub(crate) fn is_all_staged(&self) -> bool {
        self.queued == 0 && self.values == 0
    }

    /// Whether a write is under way.
    pub(crate) fn is_staged(&self) -> bool {
        self.staged > 0
    }

    #[cfg(test)]
    pub(super) fn staged_bytes(&self) -> Vec<u8> {
        self.pieces.iter().flatten().copied().collect()
    }

    #[cfg(test)]
    pub(crate) fn next_write(&mut self) -> Option<Vec<u8>> {
        self.stage();
        let bytes = self.staged_bytes();
        let _ = self.advance(bytes.len());
        (!bytes.is_empty()).then_some(bytes)
    }
}

/// How much of a small frame is put together with others.
fn copied(frame: &Frame) -> usize {
    if frame.packet_len() < COPY { LENGTH + frame.packet_len() } else { 0 }
}

/// A frame with a part, up to the length of its data.
fn part_head(stream: u64, total: u64, len: usize) -> Bytes {
    const DATA_TAG: u32 = 3 << 3 | 2;
    const PART_TAG: u32 = 8 << 3 | 2;
    let part = Part { stream, total, data: Bytes::new() };
    let mut inner = BytesMut::new();
    part.encode_raw(&mut inner);
    prost::encoding::encode_varint(u64::from(DATA_TAG), &mut inner);
    prost::encoding::encode_varint(len as u64, &mut inner);
    let mut head = BytesMut::with_capacity(40);
    head.extend_from_slice(&[0; 4]);
    prost::encoding::encode_varint(u64::from(PART_TAG), &mut head);
    prost::encoding::encode_varint((inner.len() + len) as u64, &mut head);
    head.extend_from_slice(&inner);
    let frame_len = (head.len() - 4 + len) as u32;
    head[..4].copy_from_slice(&frame_len.to_be_bytes());
    debug_assert!(len <= PART);
    head.freeze()
}

#[cfg(test)]
mod tests;
