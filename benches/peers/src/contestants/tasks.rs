//! The least that calls by `async fn` cost: raw's frames and raw's server, but callers that are tasks,
//! each of which waits for its own answer, and arguments and results in MessagePack, which the server
//! reads and writes as well. It has no deadlines, cancellation, limits, errors or second try.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Notify, oneshot},
};

use super::{Ask, Caller, small};
use crate::harness::Result;

/// Length of a frame, and tag.
const HEAD: usize = 4 + 8;

/// Bytes that are read at once.
const BUFFER: usize = 64 << 10;

/// The payload of a frame as a method takes it, and what it gives.
pub(super) fn echo(payload: &[u8]) -> Result<Vec<u8>> {
    let argument = rmp_serde::from_slice(payload)?;
    encode(&argument)
}

fn encode(value: &Bytes) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(5 + value.len());
    rmp_serde::encode::write(&mut out, value)?;
    Ok(out)
}

/// A client that is shared by tasks.
#[derive(Debug, Clone)]
pub(crate) struct RawTasks(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// There is something to write.
    queued: Notify,
}

#[derive(Debug, Default)]
struct State {
    out: BytesMut,
    /// Who waits, by tag.
    calls: Vec<Option<oneshot::Sender<BytesMut>>>,
    free: Vec<usize>,
}

impl Shared {
    fn ask(&self, payload: &[u8]) -> oneshot::Receiver<BytesMut> {
        let (sender, answer) = oneshot::channel();
        let mut state = self.lock();
        let tag = state.free.pop().unwrap_or(state.calls.len());
        if tag == state.calls.len() {
            state.calls.push(None);
        }
        state.calls[tag] = Some(sender);
        let is_first = state.out.is_empty();
        state.out.put_u32((HEAD - 4 + payload.len()) as u32);
        state.out.put_u64(tag as u64);
        state.out.extend_from_slice(payload);
        drop(state);
        if is_first {
            self.queued.notify_one();
        }
        answer
    }

    async fn write(self: Arc<Self>, mut socket: OwnedWriteHalf) -> Result<()> {
        loop {
            self.queued.notified().await;
            let out = self.take_queued();
            socket.write_all(&out).await?;
        }
    }

    fn take_queued(&self) -> BytesMut {
        let mut state = self.lock();
        let out = state.out.split();
        state.out.reserve(out.len());
        out
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn read(self: Arc<Self>, mut socket: OwnedReadHalf) -> Result<()> {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(BUFFER);
            if socket.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
            let mut state = self.lock();
            while let Some(length) = buffer.first_chunk() {
                let length = u32::from_be_bytes(*length) as usize;
                if buffer.len() < 4 + length {
                    break;
                }
                let mut frame = buffer.split_to(4 + length);
                frame.advance(4);
                let tag = frame.get_u64() as usize;
                let sender = state.calls.get_mut(tag).and_then(Option::take);
                let sender = sender.ok_or("an answer of another call")?;
                state.free.push(tag);
                // Who waits has gone, if not.
                let _ = sender.send(frame);
            }
        }
    }
}

impl Caller for RawTasks {
    async fn connect(port: u16) -> Result<Self> {
        let socket = TcpStream::connect(("127.0.0.1", port)).await?;
        socket.set_nodelay(true)?;
        let (reader, writer) = socket.into_split();
        let shared = Arc::<Shared>::default();
        tokio::spawn(Arc::clone(&shared).write(writer));
        tokio::spawn(Arc::clone(&shared).read(reader));
        Ok(Self(shared))
    }

    async fn ask(&self, ask: Ask) -> Result<()> {
        let payload = match ask {
            Ask::Echo => encode(&small())?,
            Ask::Large(_) => return Err("it has small calls alone".into()),
        };
        let answer = self.0.ask(&payload).await?;
        let answer: Bytes = rmp_serde::from_slice(&answer)?;
        ask.check(answer.len())
    }
}
