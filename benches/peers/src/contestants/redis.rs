//! Redis: a publisher, the broker, subscribers. The client speaks the protocol itself, with no
//! more than it takes, so that what is measured is the broker and not a client library.

use std::process::Command;

use bytes::{Buf as _, Bytes, BytesMut};
use futures::{StreamExt as _, stream::BoxStream};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_util::codec::{Decoder, FramedRead};

use super::{Feed, broker::publish_values, find, only_one_key};
use crate::harness::{Result, Source};

const PROGRAM: &str = "redis-server";

pub(super) fn missing() -> Option<String> {
    find(PROGRAM)
        .is_none()
        .then(|| "redis-server is not installed (Debian: redis-server)".to_owned())
}

pub(super) fn broker(port: u16) -> Option<Command> {
    let mut command = Command::new(find(PROGRAM)?);
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1"]);
    // It keeps nothing, and says nothing on the bench's stdout.
    command.args(["--save", "", "--appendonly", "no", "--logfile", "/dev/null"]);
    Some(command)
}

async fn connect(port: u16) -> Result<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Publishes the values of the source.
pub(super) async fn publish(port: u16, source: Source) -> Result<()> {
    let (mut read, write) = connect(port).await?.into_split();
    // The broker tells how many it gave each value to; it must be read, and nothing comes of it.
    tokio::spawn(async move {
        let mut answers = vec![0; 64 << 10];
        while read.read(&mut answers).await.is_ok_and(|len| len > 0) {}
    });
    publish_values(write, source, |len| format!("*3\r\n$7\r\nPUBLISH\r\n$1\r\nv\r\n${len}\r\n"));
    Ok(())
}

/// A subscriber.
pub(crate) struct Redis;

impl Feed for Redis {
    type Value = Bytes;
    type Values = BoxStream<'static, Result<Bytes>>;

    async fn subscribe(port: u16, keys: u64) -> Result<Vec<Self::Values>> {
        only_one_key(keys)?;
        let mut stream = connect(port).await?;
        stream.write_all(b"*2\r\n$9\r\nSUBSCRIBE\r\n$1\r\nv\r\n").await?;
        let mut taken = [0; SUBSCRIBED.len()];
        stream.read_exact(&mut taken).await?;
        if taken != *SUBSCRIBED {
            return Err("the broker did not take the subscription".into());
        }
        Ok(vec![FramedRead::with_capacity(stream, Messages, 64 << 10).boxed()])
    }
}

/// What it says when it did.
const SUBSCRIBED: &[u8; 30] = b"*3\r\n$9\r\nsubscribe\r\n$1\r\nv\r\n:1\r\n";

/// The messages of one channel: `*3`, `message`, its name, the value.
struct Messages;

const HEAD: &[u8] = b"*3\r\n$7\r\nmessage\r\n$1\r\nv\r\n$";

impl Decoder for Messages {
    type Item = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn decode(&mut self, bytes: &mut BytesMut) -> Result<Option<Bytes>> {
        let Some(rest) = bytes.get(HEAD.len()..) else { return Ok(None) };
        if !bytes.starts_with(HEAD) {
            return Err("the broker says something else than a message".into());
        }
        let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") else { return Ok(None) };
        let len: usize = std::str::from_utf8(&rest[..end])?.parse()?;
        let start = HEAD.len() + end + 2;
        if bytes.len() < start + len + 2 {
            bytes.reserve(start + len + 2 - bytes.len());
            return Ok(None);
        }
        bytes.advance(start);
        let value = bytes.split_to(len).freeze();
        bytes.advance(2);
        Ok(Some(value))
    }
}
