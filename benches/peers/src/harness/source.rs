//! Where the values of a fan-out come from, the same for all contestants: a process of the bench
//! makes numbered values, as many as its clients have asked for on a socket of their own.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::{Stream, stream};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
};

use super::Result;

/// Which of the values: each goes to one of so many keys in turn.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Topic {
    pub(crate) key: u64,
    pub(crate) keys: u64,
}

impl Topic {
    /// All values.
    pub(crate) const ALL: Self = Self { key: 0, keys: 1 };
}

/// Bytes of a value.
const LEN: usize = 1024;

/// The values of a server.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    /// How many there are in all.
    total: watch::Sender<u64>,
}

impl Source {
    /// A source, and the port where values are asked for.
    pub(crate) async fn open() -> Result<(Self, u16)> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let source = Self { total: watch::Sender::new(0) };
        let total = source.total.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let total = total.clone();
                tokio::spawn(async move {
                    while let Ok(more) = stream.read_u64().await {
                        total.send_modify(|total| *total += more);
                    }
                });
            }
        });
        Ok((source, port))
    }

    /// The values of a topic, each as soon as it is asked for; it never ends.
    pub(crate) fn values(&self, topic: Topic) -> impl Stream<Item = Bytes> + Send + use<> {
        let state = (self.total.subscribe(), 0_u64);
        stream::unfold(state, move |(mut total, last)| async move {
            let needed = last * topic.keys + topic.key + 1;
            if *total.borrow_and_update() < needed {
                total.wait_for(|total| *total >= needed).await.ok()?;
            }
            Some((value(last + 1), (total, last + 1)))
        })
    }
}

/// The value of this number, with the time when it was made.
fn value(number: u64) -> Bytes {
    let mut value = BytesMut::with_capacity(LEN);
    value.put_u64(number);
    value.put_u64(since_epoch().as_nanos() as u64);
    value.resize(LEN, b'x');
    value.freeze()
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The number of a value; an error if it is none.
pub(crate) fn number(value: &[u8]) -> Result<u64> {
    let number = value.first_chunk().filter(|_| value.len() == LEN).ok_or("not a value")?;
    Ok(u64::from_be_bytes(*number))
}

/// Nanoseconds since the value was made, by the one clock of the host.
pub(crate) fn stamp(value: &[u8]) -> Result<u64> {
    let made = value.get(8..).and_then(|rest| rest.first_chunk()).ok_or("not a value")?;
    Ok((since_epoch().as_nanos() as u64).saturating_sub(u64::from_be_bytes(*made)))
}

/// Asks a source for values.
#[derive(Debug)]
pub(crate) struct Control(TcpStream);

impl Control {
    pub(crate) async fn connect(port: u16) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        Ok(Self(stream))
    }

    pub(crate) async fn ask(&mut self, values: u64) -> Result<()> {
        Ok(self.0.write_u64(values).await?)
    }
}
