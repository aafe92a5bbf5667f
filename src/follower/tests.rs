//! Followers whose leader is the test: it has the other end of a pipe in memory.

use std::{task::Poll, time::Duration};

use bytes::Bytes;
use futures::poll;
use tokio::io::{AsyncReadExt as _, DuplexStream};

use super::{Dial, DialError, Dialed, Dialing, Follower, FollowerSetup, Report, Stream};
use crate::{
    error::{Error, ErrorKind},
    options::Options,
    protocol::{
        FrameReader,
        pb::{self, Packet, packet::Body},
    },
    spec::{ChannelSpec, Failure, MethodKind, MethodSpec, Reply},
};

const CALL: usize = 0;

const SPEC: ChannelSpec = ChannelSpec {
    name: "tested",
    codec: "none",
    methods: &[MethodSpec {
        name: "call",
        kind: MethodKind::Invoke { oneway: false, idempotent: false, share: false },
        args: 1,
        version: 0,
        timeout: None,
    }],
};

/// Gives the pipes that it has, one after the other, and then waits for ever.
struct Pipes(Vec<DuplexStream>);

impl Dial for Pipes {
    fn dial<'a>(&'a mut self, _: &'a pb::Channel, _: Report<'a>) -> Dialing<'a> {
        let pipe = self.0.pop();
        Box::pin(async {
            let Some(pipe) = pipe else { return std::future::pending().await };
            let limit = 1 << 20;
            let answer = pb::RegisteredBody {
                epoch: 1,
                max_payload: limit,
                max_queued: limit,
                mismatches: vec![String::new(); SPEC.methods.len()],
                ..Default::default()
            };
            let (stream, reader) = (Stream::Memory(pipe), FrameReader::default());
            Ok::<_, DialError>(Dialed { stream, reader, answer })
        })
    }
}

/// A follower, and its leader's end of the pipe, which holds this many bytes.
async fn follower(options: Options, pipe: usize) -> (Follower, Leader) {
    let (ours, stream) = tokio::io::duplex(pipe);
    let setup = FollowerSetup {
        channel: SPEC.name.to_owned(),
        spec: SPEC,
        options,
        dial: Box::new(Pipes(vec![ours])),
        liveness: None,
    };
    let leader = Leader { stream, reader: FrameReader::default() };
    (Follower::create(setup).await.unwrap(), leader)
}

struct Leader {
    stream: DuplexStream,
    reader: FrameReader,
}

impl Leader {
    async fn next(&mut self) -> Packet {
        loop {
            if let Some(packet) = self.reader.next().unwrap() {
                return packet;
            }
            assert!(self.stream.read_buf(self.reader.buffer()).await.unwrap() > 0, "closed");
        }
    }
}

fn is_overloaded(reply: &Reply) -> bool {
    matches!(reply, Err(Failure::Cluster(error)) if error.kind() == ErrorKind::Overloaded)
}

#[tokio::test]
async fn a_call_that_is_dropped_is_cancelled_though_the_queue_is_full() {
    let options = Options { max_queued: 4096, ..Options::default() };
    let (follower, mut leader) = follower(options, 64).await;
    let args = || Ok::<_, Error>(Bytes::from(vec![0; 100]));
    let mut calls = Vec::new();
    loop {
        let mut call = Box::pin(follower.invoke(CALL, args()));
        match poll!(&mut call) {
            Poll::Ready(reply) => break assert!(is_overloaded(&reply), "{reply:?}"),
            Poll::Pending => calls.push(call),
        }
    }
    let count = calls.len();
    assert!(count > 20, "only {count} calls were queued");
    drop(calls);
    let (mut called, mut cancelled) = (Vec::new(), Vec::new());
    let all = async {
        while cancelled.len() < count {
            let Packet { id, body, .. } = leader.next().await;
            match body {
                Some(Body::Invoke(_)) => called.push(id),
                Some(Body::Cancel(_)) => cancelled.push(id),
                _ => {}
            }
        }
    };
    let patience = Duration::from_secs(20);
    tokio::time::timeout(patience, all).await.expect("the leader hears of each");
    assert_eq!(called, cancelled);
}
