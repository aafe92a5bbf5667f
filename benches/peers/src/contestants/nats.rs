//! NATS: a publisher, the broker, subscribers. The client speaks the protocol itself, with no more
//! than it takes, so that what is measured is the broker and not a client library.

use std::process::Command;

use bytes::{Buf as _, Bytes, BytesMut};
use futures::{StreamExt as _, stream::BoxStream};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpStream, tcp::OwnedReadHalf},
};
use tokio_util::codec::{Decoder, FramedRead};

use super::{Feed, broker::publish_values, find, only_one_key};
use crate::harness::{Result, Source};

const PROGRAM: &str = "nats-server";

pub(super) fn missing() -> Option<String> {
    find(PROGRAM).is_none().then(|| "nats-server is not installed (Debian: nats-server)".to_owned())
}

pub(super) fn broker(port: u16) -> Option<Command> {
    let mut command = Command::new(find(PROGRAM)?);
    command.args(["-a", "127.0.0.1", "-l", "/dev/null", "-p", &port.to_string()]);
    Some(command)
}

/// Connects, and waits until all that was sent has been taken.
async fn connect(port: u16, first: &str) -> Result<(FramedRead<OwnedReadHalf, Messages>, Half)> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    let (read, mut write) = stream.into_split();
    let hello = format!("CONNECT {{\"verbose\":false}}\r\n{first}PING\r\n");
    write.write_all(hello.as_bytes()).await?;
    let mut messages = FramedRead::with_capacity(read, Messages, 64 << 10);
    match messages.next().await.ok_or("the broker has gone")?? {
        Message::Pong => Ok((messages, write)),
        Message::Value(_) => Err("a value before the subscription was taken".into()),
    }
}

type Half = tokio::net::tcp::OwnedWriteHalf;

/// Publishes the values of the source.
pub(super) async fn publish(port: u16, source: Source) -> Result<()> {
    let (mut messages, write) = connect(port, "").await?;
    // What the broker says must be read, though nothing comes of it.
    tokio::spawn(async move { while messages.next().await.is_some() {} });
    publish_values(write, source, |len| format!("PUB v {len}\r\n"));
    Ok(())
}

/// A subscriber.
pub(crate) struct Nats;

impl Feed for Nats {
    type Value = Bytes;
    type Values = BoxStream<'static, Result<Bytes>>;

    async fn subscribe(port: u16, keys: u64) -> Result<Vec<Self::Values>> {
        only_one_key(keys)?;
        let (messages, write) = connect(port, "SUB v 1\r\n").await?;
        let values = messages.filter_map(move |message| {
            // The connection lives as long as the values are wanted.
            let _held = &write;
            std::future::ready(match message {
                Ok(Message::Value(value)) => Some(Ok(value)),
                Ok(Message::Pong) => None,
                Err(error) => Some(Err(error)),
            })
        });
        Ok(vec![values.boxed()])
    }
}

/// What the broker says, as far as it matters here.
enum Message {
    Pong,
    Value(Bytes),
}

/// The broker's half of the protocol.
struct Messages;

impl Decoder for Messages {
    type Item = Message;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn decode(&mut self, bytes: &mut BytesMut) -> Result<Option<Message>> {
        loop {
            let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") else {
                return Ok(None);
            };
            let line = &bytes[..end];
            if line.starts_with(b"MSG ") {
                let len = line.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
                let len: usize = std::str::from_utf8(len)?.parse()?;
                if bytes.len() < end + 2 + len + 2 {
                    bytes.reserve(end + 2 + len + 2 - bytes.len());
                    return Ok(None);
                }
                bytes.advance(end + 2);
                let value = bytes.split_to(len).freeze();
                bytes.advance(2);
                return Ok(Some(Message::Value(value)));
            }
            let (pong, error) = (line == b"PONG", line.starts_with(b"-ERR"));
            let said = bytes.split_to(end + 2);
            if error {
                return Err(String::from_utf8_lossy(&said).into_owned().into());
            }
            if pong {
                return Ok(Some(Message::Pong));
            }
        }
    }
}
