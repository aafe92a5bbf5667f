use super::*;
use crate::protocol::pb;

fn small(id: u64) -> Frame {
    Frame::new(id, pb::Cancel {})
}

#[test]
fn a_mark_is_given_when_the_first_byte_of_its_frame_is_written() {
    let mut batch = Batch::default();
    batch.push(small(1), Some(1));
    batch.push(small(2), Some(2));
    batch.stage();
    let first = small(1).packet_len() + 4;
    let mut started = Vec::new();
    started.extend(batch.advance(1));
    assert_eq!(started, [1]);
    started.extend(batch.advance(first - 1));
    assert_eq!(started, [1], "frame 1 is written whole, nothing of frame 2");
    started.extend(batch.advance(1));
    assert_eq!(started, [1, 2]);
}

#[test]
fn one_write_is_bounded() {
    let mut batch = Batch::default();
    for id in 0..3 {
        let payload = Bytes::from(vec![0; 1 << 20]);
        batch.push(Frame::with_payload(id, pb::Result::default(), payload), None);
    }
    batch.stage();
    assert!(batch.staged <= MAX_WRITE + PART + 64, "{}", batch.staged);
    assert!(batch.len() > 3 << 20);
}

fn large(id: u64, len: usize) -> Frame {
    Frame::with_payload(id, pb::Result::default(), Bytes::from(vec![0; len]))
}

#[test]
fn no_more_is_begun_than_the_peer_takes() {
    let mut batch = Batch::new(1 << 20);
    let frames = [300 << 10, 2 << 20, 70 << 10, 600 << 10, 380 << 10, 1 << 20];
    for (id, len) in (1..).zip(frames) {
        batch.push(large(id, len), None);
    }
    let mut reader = crate::protocol::FrameReader::default();
    let mut assembler = crate::protocol::Assembler::new(2 << 20, 2 << 20);
    let mut whole = Vec::new();
    while let Some(bytes) = batch.next_write() {
        reader.buffer().extend_from_slice(&bytes);
        while let Some(packet) = reader.next().unwrap() {
            let Some(pb::packet::Body::Part(part)) = packet.body else { panic!("no part") };
            whole.extend(assembler.push(part).unwrap().map(|packet| packet.id));
        }
    }
    assert_eq!(whole, [1, 2, 3, 5, 4, 6]);
    assert_eq!((batch.len(), batch.begun), (0, 0));
}

#[test]
fn a_flood_of_small_frames_does_not_hold_up_a_large_one() {
    let mut batch = Batch::new(1 << 20);
    let flood = |batch: &mut Batch| {
        while batch.has_room() {
            batch.push(large(1, PART / 2), None);
        }
    };
    assert!(batch.push_value(large(2, 3 * PART), 2));
    assert!(batch.carries(2) && batch.values() > 3 * PART);
    for _ in 0..4 {
        flood(&mut batch);
        batch.next_write().unwrap();
    }
    assert_eq!(batch.finished(), [2]);
    assert!(!batch.carries(2) && batch.values() == 0);
}

#[test]
fn what_keeps_the_order_waits_for_what_was_added_before_and_for_nothing_else() {
    let large = |id| {
        let payload = Bytes::from(vec![0; 6 * PART]);
        Frame::with_payload(id, pb::Publish::default(), payload)
    };
    let mut batch = Batch::new(1 << 20);
    batch.push(large(1), Some(1));
    batch.push(large(2), Some(2));
    batch.push(small(3).in_order(), Some(3));
    batch.push(large(4), Some(4));
    batch.push(small(5), Some(5));
    let mut begun = Vec::new();
    while batch.len() > 0 {
        batch.stage();
        let staged = batch.staged;
        begun.extend(batch.advance(staged));
    }
    assert_eq!(begun, [5, 1, 2, 3, 4]);
    batch.push(large(7), Some(7));
    batch.push(large(8).in_order(), Some(8));
    batch.stage();
    let staged = batch.staged;
    assert_eq!(batch.advance(staged).collect::<Vec<_>>(), [7], "one after the other");
    while batch.len() > 0 {
        batch.stage();
        let staged = batch.staged;
        begun.extend(batch.advance(staged));
    }
    assert_eq!(begun.last(), Some(&8));
    batch.push(small(6).in_order(), Some(6));
    batch.stage();
    assert!(batch.is_staged(), "alone it waits for nothing");
}

#[test]
fn many_small_frames_become_one_piece() {
    let mut batch = Batch::default();
    (0..100).for_each(|id| batch.push(small(id), None));
    batch.stage();
    assert_eq!(batch.pieces.len(), 1);
}
