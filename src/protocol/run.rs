//! What waits to be handed to a [`Batch`]: short frames are written behind one another at once, so
//! that each costs a copy of its bytes and nothing else.

use bytes::BytesMut;

use super::{
    Batch, PART,
    frame::{COPY, Frame},
    hot,
    pb::packet::Body,
};
use crate::codec::Encoded;

/// Frames in the order in which they were queued.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    items: Vec<Item>,
    /// Bytes of all of them.
    bytes: usize,
    /// An empty run, for the sake of its memory.
    spare: Run,
    /// About how many bytes are handed on at once.
    usual: usize,
}

#[derive(Debug)]
pub(super) enum Item {
    Frame(Frame, Option<u64>),
    Run(Run),
}

/// Short frames as they are written.
#[derive(Debug, Default)]
pub(super) struct Run {
    pub(super) bytes: BytesMut,
    /// Where marked frames start.
    pub(super) marks: Vec<(usize, u64)>,
}

impl Run {
    /// A run is not longer, so that what is urgent need not wait for the end of one.
    const MAX: usize = PART;
}

impl Queue {
    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Bytes that wait here.
    pub(crate) fn len(&self) -> usize {
        self.bytes
    }

    /// Adds a frame. Its `mark` is told when its first byte is written.
    pub(crate) fn push(&mut self, frame: Frame, mark: Option<u64>) {
        if frame.packet_len() >= COPY || frame.keeps_order() {
            self.bytes += frame.packet_len();
            return self.items.push(Item::Frame(frame, mark));
        }
        self.append(frame.chunks(), mark);
    }

    /// Adds a packet with a payload that is most often short.
    #[inline]
    pub(crate) fn push_packet(
        &mut self,
        id: u64,
        body: impl Into<Body>,
        payload: &Encoded,
        mark: Option<u64>,
    ) {
        let body = body.into();
        let mut head = [0; hot::MAX_HEAD];
        let is_short = payload.len() < COPY - hot::MAX_HEAD;
        match hot::write(&mut head, id, &body, payload.len()).filter(|_| is_short) {
            Some(len) => {
                let run = self.run(len + payload.len(), mark);
                // As an array, whose length is known here, and without what is not written.
                let end = run.bytes.len() + len;
                run.bytes.extend_from_slice(&head);
                run.bytes.truncate(end);
                run.bytes.extend_from_slice(payload);
            }
            None => self.push(Frame::with_payload(id, body, payload.to_bytes()), mark),
        }
    }

    fn append(&mut self, chunks: [&[u8]; 2], mark: Option<u64>) {
        let run = self.run(chunks[0].len() + chunks[1].len(), mark);
        run.bytes.extend_from_slice(chunks[0]);
        run.bytes.extend_from_slice(chunks[1]);
    }

    /// The run that a frame of this length is written to.
    #[inline]
    fn run(&mut self, len: usize, mark: Option<u64>) -> &mut Run {
        self.bytes += len;
        let has_room = |run: &Run| run.bytes.len() + len <= Run::MAX;
        if !matches!(self.items.last(), Some(Item::Run(run)) if has_room(run)) {
            self.begin_run();
        }
        let Some(Item::Run(run)) = self.items.last_mut() else { return &mut self.spare };
        if let Some(mark) = mark {
            run.marks.push((run.bytes.len(), mark));
        }
        run
    }

    fn begin_run(&mut self) {
        let mut run = std::mem::take(&mut self.spare);
        // So that it need not be moved while it grows.
        run.bytes.reserve((self.usual + self.usual / 8).min(Run::MAX) + hot::MAX_HEAD);
        self.items.push(Item::Run(run));
    }

    /// Hands everything on.
    pub(crate) fn move_to(&mut self, batch: &mut Batch) {
        if self.items.is_empty() {
            if let Some(run) = batch.take_spare() {
                self.spare = run;
            }
            return;
        }
        let bytes = std::mem::take(&mut self.bytes);
        for item in self.items.drain(..) {
            batch.push_item(item);
        }
        if let Some(run) = batch.take_spare() {
            self.spare = run;
        }
        if bytes > 0 {
            self.usual = bytes.max(self.usual - self.usual / 8);
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Lets go of memory that is not in use.
    pub(crate) fn release(&mut self) {
        self.spare = Run::default();
        self.usual = 0;
        self.items.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::{Assembler, FrameReader, pb};

    #[derive(Debug, Clone)]
    struct Sent {
        len: usize,
        is_marked: bool,
        keeps_order: bool,
        /// What is queued is handed on and written before this one.
        is_after_write: bool,
    }

    fn sent() -> impl Strategy<Value = Sent> {
        let len = prop_oneof![4 => 0..COPY, 4 => COPY..4 * COPY, 1 => PART - 100..PART + 100];
        (len, any::<bool>(), prop::bool::weighted(0.1), prop::bool::weighted(0.2)).prop_map(
            |(len, is_marked, keeps_order, is_after_write)| Sent {
                len,
                is_marked,
                keeps_order,
                is_after_write,
            },
        )
    }

    /// What of a batch is written: the packets that came whole, and the marks as they were told; of
    /// short and of large ones, since where parts come between is up to the size of a write.
    fn written(batch: &mut Batch, is_large: impl Fn(u64) -> bool) -> [[Vec<u64>; 2]; 2] {
        let (mut packets, mut marks) = (Vec::new(), Vec::new());
        let (mut reader, mut assembler) =
            (FrameReader::default(), Assembler::new(1 << 20, 1 << 24));
        loop {
            batch.stage();
            let write = batch.staged_bytes();
            if write.is_empty() {
                assert_eq!(batch.len(), 0);
                let sort = |all: Vec<u64>| {
                    let (large, short) = all.into_iter().partition(|id| is_large(*id));
                    [large, short]
                };
                return [sort(packets), sort(marks)];
            }
            // In two goes, so that marks are told as the bytes are.
            let cut = write.len() / 2;
            marks.extend(batch.advance(cut));
            marks.extend(batch.advance(write.len() - cut));
            reader.buffer().extend_from_slice(&write);
            while let Some(packet) = reader.next().unwrap() {
                let packet = match packet.body {
                    Some(Body::Part(part)) => assembler.push(part).unwrap(),
                    _ => Some(packet),
                };
                packets.extend(packet.map(|packet| packet.id));
            }
        }
    }

    proptest! {
        #[test]
        fn a_queue_changes_neither_the_order_nor_the_marks(
            frames in prop::collection::vec(sent(), 0..40),
        ) {
            let (mut straight, mut queued) = (Batch::new(1 << 20), Batch::new(1 << 20));
            let mut queue = Queue::default();
            let is_large = |id: u64| {
                let sent = &frames[id as usize - 1];
                sent.keeps_order || sent.len > PART - 64
            };
            for (frame, id) in frames.iter().zip(1..) {
                if frame.is_after_write {
                    queue.move_to(&mut queued);
                    prop_assert_eq!(queue.len(), 0);
                    let (ours, expected) =
                        (written(&mut queued, is_large), written(&mut straight, is_large));
                    prop_assert_eq!(ours, expected);
                }
                let (mark, payload) = (frame.is_marked.then_some(id), Bytes::from(vec![7; frame.len]));
                let invoke = pb::Invoke { method: 1, timeout_ms: 10_000 };
                let plain = Frame::with_payload(id, invoke, payload.clone());
                if frame.keeps_order {
                    straight.push(plain.clone().in_order(), mark);
                    queue.push(plain.in_order(), mark);
                } else {
                    straight.push(plain, mark);
                    queue.push_packet(id, invoke, &payload.into(), mark);
                }
            }
            queue.move_to(&mut queued);
            prop_assert_eq!(written(&mut queued, is_large), written(&mut straight, is_large));
        }
    }
}
