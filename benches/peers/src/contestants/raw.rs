//! The bare socket, the practical limit: tokio and `LengthDelimitedCodec`, an 8-byte tag and the
//! payload. Reads and writes are batched as far as they can be: what is queued is written in one
//! go. It has no table of calls, deadlines, codec, limits or tasks; its client is one loop.

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use futures::{FutureExt as _, SinkExt, StreamExt as _, stream::BoxStream};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use super::{Ask, Feed, Pipe, SMALL, hub::Hub, only_one_key};
use crate::harness::{Result, Source};

type Socket = Framed<TcpStream, LengthDelimitedCodec>;

/// Length of the tag before each payload.
const TAG: usize = 8;

/// In a tag: the payload is a length, and the answer has so many bytes.
const LARGE: u64 = 1 << 63;

/// In a tag: the connection is given values from here on.
const SUBSCRIBE: u64 = 1 << 62;

/// Bytes that are read, and written, at once at most.
const BUFFER: usize = 256 << 10;

fn framed(stream: TcpStream) -> Result<Socket> {
    stream.set_nodelay(true)?;
    let mut codec = LengthDelimitedCodec::new();
    codec.set_max_frame_length(64 << 20);
    let mut framed = Framed::with_capacity(stream, codec, 64 << 10);
    framed.set_backpressure_boundary(BUFFER);
    Ok(framed)
}

async fn connect(port: u16) -> Result<Socket> {
    framed(TcpStream::connect(("127.0.0.1", port)).await?)
}

async fn flush(socket: &mut Socket) -> Result<()> {
    Ok(SinkExt::<Bytes>::flush(socket).await?)
}

fn frame(tag: u64, payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(TAG + payload.len());
    frame.extend_from_slice(&tag.to_be_bytes());
    frame.extend_from_slice(payload);
    frame.freeze()
}

fn tag(frame: &[u8]) -> Result<u64> {
    Ok(u64::from_be_bytes(*frame.first_chunk().ok_or("a frame without a tag")?))
}

/// What a server makes of the payload of a small call.
pub(super) type Echo = fn(&[u8]) -> Result<Vec<u8>>;

/// Answers and gives values, each connection in a task of its own; the port. Without a method small
/// calls get their own frame back.
pub(super) async fn serve(source: Source, method: Option<Echo>) -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let port = listener.local_addr()?.port();
    let hub = Hub::start(&source, |value| frame(0, &value));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(socket) = framed(stream) {
                tokio::spawn(connection(socket, hub.clone(), method));
            }
        }
    });
    Ok(port)
}

async fn connection(mut socket: Socket, hub: Hub, method: Option<Echo>) -> Result<()> {
    // The last large answer; the next one is likely to be the same.
    let mut large = Bytes::new();
    while let Some(frame) = socket.next().await {
        let mut next = Some(frame);
        while let Some(frame) = next {
            let frame = frame?;
            let tag = tag(&frame)?;
            if tag & SUBSCRIBE != 0 {
                return feed(socket, &hub).await;
            }
            let answer = if tag & LARGE != 0 {
                answer_large(&mut large, tag, &frame)?
            } else if let Some(method) = method {
                self::frame(tag, &method(&frame[TAG..])?)
            } else {
                frame.freeze()
            };
            socket.feed(answer).await?;
            next = socket.next().now_or_never().flatten();
        }
        flush(&mut socket).await?;
    }
    Ok(())
}

fn answer_large(last: &mut Bytes, tag: u64, question: &[u8]) -> Result<Bytes> {
    let len = self::tag(&question[TAG..])? as usize;
    if last.len() != TAG + len {
        *last = frame(tag, &vec![b'x'; len]);
    }
    Ok(last.clone())
}

/// Writes what is queued, all in one go where there is room.
async fn feed(mut socket: Socket, hub: &Hub) -> Result<()> {
    let mut queue = hub.subscribe();
    socket.send(frame(SUBSCRIBE, &[])).await?;
    while let Some(value) = queue.recv().await {
        socket.feed(value).await?;
        while let Ok(value) = queue.try_recv() {
            socket.feed(value).await?;
        }
        flush(&mut socket).await?;
    }
    Ok(())
}

/// A connection that calls are made on.
pub(crate) struct Raw {
    socket: Socket,
}

impl Raw {
    fn question(ask: Ask, call: u64) -> Bytes {
        match ask {
            Ask::Echo => frame(call, &[b'x'; SMALL]),
            Ask::Large(len) => frame(LARGE, &len.to_be_bytes()),
        }
    }

    async fn answer(&mut self) -> Result<BytesMut> {
        Ok(self.socket.next().await.ok_or("the server has gone")??)
    }

    fn check(ask: Ask, call: u64, answer: &[u8]) -> Result<()> {
        if matches!(ask, Ask::Echo) && tag(answer)? != call {
            return Err("an answer of another call".into());
        }
        ask.check(answer.len() - TAG)
    }
}

impl Pipe for Raw {
    async fn open(port: u16) -> Result<Self> {
        Ok(Self { socket: connect(port).await? })
    }

    async fn call(&mut self, ask: Ask) -> Result<()> {
        self.socket.send(Self::question(ask, 1)).await?;
        let answer = self.answer().await?;
        Self::check(ask, 1, &answer)
    }

    /// Keeps the pipe full: for each answer that is here a new call, then one write for them all.
    async fn keep(&mut self, ask: Ask, calls: u64, flight: u64) -> Result<()> {
        let mut asked = flight.min(calls);
        for call in 0..asked {
            self.socket.feed(Self::question(ask, call)).await?;
        }
        flush(&mut self.socket).await?;
        let mut answered = 0;
        while answered < calls {
            let mut next = Some(self.socket.next().await);
            while let Some(answer) = next {
                Self::check(ask, answered, &answer.ok_or("the server has gone")??)?;
                answered += 1;
                if asked < calls {
                    self.socket.feed(Self::question(ask, asked)).await?;
                    asked += 1;
                }
                next = self.socket.next().now_or_never();
            }
            flush(&mut self.socket).await?;
        }
        Ok(())
    }

    async fn beside(&mut self, large: u64, calls: u64) -> Result<Vec<f64>> {
        let large = Ask::Large(large);
        let mut times = Vec::new();
        self.socket.send(Self::question(large, 0)).await?;
        for call in 0..calls {
            let start = Instant::now();
            self.socket.send(Self::question(Ask::Echo, call)).await?;
            loop {
                let answer = self.answer().await?;
                if tag(&answer)? & LARGE == 0 {
                    Self::check(Ask::Echo, call, &answer)?;
                    break;
                }
                self.socket.send(Self::question(large, 0)).await?;
            }
            times.push(start.elapsed().as_nanos() as f64);
        }
        // The last large answer.
        self.answer().await?;
        Ok(times)
    }
}

impl Feed for Raw {
    type Value = Bytes;
    type Values = BoxStream<'static, Result<Bytes>>;

    async fn subscribe(port: u16, keys: u64) -> Result<Vec<Self::Values>> {
        only_one_key(keys)?;
        let mut socket = connect(port).await?;
        socket.send(frame(SUBSCRIBE, &[])).await?;
        socket.next().await.ok_or("the server has gone")??;
        Ok(vec![socket.map(|frame| Ok(frame?.freeze().slice(TAG..))).boxed()])
    }
}
