//! A driver between two ends in memory.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::protocol::pb::{self, Packet};

/// Notes what arrives; queues a goodbye, and closes, while the driver makes up a write.
#[derive(Default)]
struct End {
    leaves: Option<Link>,
    seen: Vec<u64>,
}

impl Endpoint for End {
    fn on_packet(&mut self, packet: Packet) -> Result<()> {
        self.seen.push(packet.id);
        Ok(())
    }

    fn fill(&mut self, _: &mut Batch) {
        if let Some(link) = self.leaves.take() {
            link.send(Frame::new(7, pb::GoAway::default()), None).unwrap();
            link.finish(Error::closed("this end"));
        }
    }
}

async fn run(stream: impl AsyncRead + AsyncWrite + Unpin, reader: FrameReader, end: &mut End) {
    let link = end.leaves.clone().unwrap_or_else(|| Link::new(1 << 20));
    drive(stream, reader, &link, end, &Options::default()).await;
}

#[tokio::test]
async fn what_is_queued_before_the_end_is_written_whenever_it_comes() {
    let (ours, theirs) = tokio::io::duplex(1 << 10);
    let mut leaves = End { leaves: Some(Link::new(1 << 20)), ..End::default() };
    let mut stays = End::default();
    tokio::join!(
        run(ours, FrameReader::default(), &mut leaves),
        run(theirs, FrameReader::default(), &mut stays),
    );
    assert_eq!(stays.seen, [7]);
}

/// Answers each packet with one of the same number.
struct Echo(Link);

impl Endpoint for Echo {
    fn on_packet(&mut self, packet: Packet) -> Result<()> {
        self.0.send(Frame::new(packet.id, pb::GoAway::default()), None)
    }
}

#[tokio::test]
async fn what_was_asked_for_right_before_the_end_is_answered() {
    let (mut ours, theirs) = tokio::io::duplex(1 << 10);
    let question = Frame::new(9, pb::GoAway::default());
    ours.write_all(&question.chunks().concat()).await.unwrap();
    ours.shutdown().await.unwrap();
    let link = Link::new(1 << 20);
    let mut echo = Echo(link.clone());
    drive(theirs, FrameReader::default(), &link, &mut echo, &Options::default()).await;
    let mut answer = Vec::new();
    ours.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, question.chunks().concat());
}

#[tokio::test]
async fn what_is_queued_while_the_socket_is_full_is_written_when_it_is_not() {
    let (mut ours, theirs) = tokio::io::duplex(64);
    let link = Link::new(1 << 20);
    let driven = link.clone();
    // A task of its own, so that nothing polls it but what wakes it.
    let driver = tokio::spawn(async move {
        let options = Options { heartbeat: Duration::from_secs(600), ..Options::default() };
        drive(theirs, FrameReader::default(), &driven, &mut End::default(), &options).await
    });
    let mut expected = Vec::new();
    for id in 1..=3 {
        let update = pb::Update { version: 1, stale: false };
        let frame = Frame::with_payload(id, update, vec![7; 700].into());
        expected.extend(frame.chunks().concat());
        link.send(frame, None).unwrap();
        // It finds the socket full by then, and is woken in vain.
        yield_now().await;
    }
    let mut read = vec![0; expected.len()];
    let whole = tokio::time::timeout(Duration::from_secs(60), ours.read_exact(&mut read));
    whole.await.expect("it stalls").unwrap();
    assert_eq!(read, expected);
    driver.abort();
}

/// Counts what arrives, by sender.
#[derive(Default)]
struct Counts([u64; 2], tokio::sync::watch::Sender<u64>);

impl Endpoint for Counts {
    fn on_packet(&mut self, Packet { id, body, payload }: Packet) -> Result<()> {
        if matches!(body, Some(Body::Heartbeat(_))) {
            return Ok(());
        }
        let of = (id % 2) as usize;
        // Small ones may overtake large ones, so that it is only counted.
        assert!(payload.iter().all(|byte| *byte == id as u8));
        self.0[of] += 1;
        self.1.send_replace(self.0.iter().sum());
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_others_queue_while_it_reads_and_writes_is_written_though_nothing_else_wakes_it() {
    const EACH: u64 = 1500;
    let (ours, theirs) = tokio::io::duplex(3000);
    let ends = [ours, theirs].map(|stream| {
        let link = Link::new(1 << 30);
        let driven = link.clone();
        let mut counts = Counts::default();
        let seen = counts.1.subscribe();
        let driver = tokio::spawn(async move {
            let options = Options { heartbeat: Duration::from_secs(600), ..Options::default() };
            drive(stream, FrameReader::default(), &driven, &mut counts, &options).await
        });
        (link, seen, driver)
    });
    let mut senders = Vec::new();
    for (link, ..) in &ends {
        for sender in 0..2 {
            let link = link.clone();
            senders.push(tokio::spawn(async move {
                for number in 0..EACH {
                    let id = 2 * number + sender;
                    let len = [0, 9, 700, 5000, 9][number as usize % 5];
                    let len = if number % 100 == 99 { 150_000 } else { len };
                    let update = pb::Update { version: 1, stale: false };
                    let frame = Frame::with_payload(id, update, vec![id as u8; len].into());
                    link.send(frame, None).unwrap();
                    // Now in bursts, now when the driver has nothing to do any more.
                    for _ in 0..number % 7 {
                        yield_now().await;
                    }
                }
            }));
        }
    }
    for sender in senders {
        sender.await.unwrap();
    }
    let [(_, mut ours, our_driver), (_, mut theirs, their_driver)] = ends;
    for seen in [&mut ours, &mut theirs] {
        let all = seen.wait_for(|seen| *seen == 2 * EACH);
        let all = tokio::time::timeout(Duration::from_secs(120), all).await;
        all.expect("it stalls").unwrap();
    }
    // Not before both have all: one that ends closes the pipe of the other.
    our_driver.abort();
    their_driver.abort();
}

#[tokio::test]
async fn what_came_with_the_handshake_is_not_lost() {
    let (ours, theirs) = tokio::io::duplex(1 << 10);
    let mut reader = FrameReader::default();
    for chunk in Frame::new(9, pb::GoAway::default()).chunks() {
        reader.buffer().extend_from_slice(chunk);
    }
    drop(theirs);
    let mut end = End::default();
    run(ours, reader, &mut end).await;
    assert_eq!(end.seen, [9]);
}
