//! A broker: a server that is not ours, between one that publishes and those that subscribe.

use std::{
    net::{TcpListener, TcpStream},
    process::Stdio,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use futures::{FutureExt as _, StreamExt as _};
use tokio::{
    io::AsyncWriteExt as _,
    net::tcp::OwnedWriteHalf,
    process::{Child, Command},
};

use super::{Who, nats, redis};
use crate::harness::{Result, Source, Topic};

/// The most that a publisher puts into one write.
const WRITE: usize = 256 << 10;

/// A running one. It belongs to the process that publishes, which ends with the bench, whatever
/// ends that; dropping it kills it.
#[derive(Debug)]
pub(super) struct Broker {
    pub(super) port: u16,
    pub(super) process: Child,
}

impl Broker {
    /// Starts one and waits until it listens.
    pub(super) async fn start(who: Who) -> Result<Self> {
        // One that nobody listens on now; the brokers can't pick one themselves.
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let command = if who == Who::Nats { nats::broker(port) } else { redis::broker(port) };
        let mut command = Command::from(command.ok_or("the broker is not installed")?);
        command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
        let process = command.spawn()?;
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if start.elapsed() > Duration::from_secs(10) {
                return Err(format!("nobody listens on port {port} after 10 s").into());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(Self { port, process })
    }
}

/// Publishes the values of the source, in the background: each behind the head that the broker wants
/// for its length, and with all that is there already in one write.
pub(super) fn publish_values(
    mut write: OwnedWriteHalf,
    source: Source,
    head: impl Fn(usize) -> String + Send + 'static,
) {
    tokio::spawn(async move {
        let mut values = std::pin::pin!(source.values(Topic::ALL));
        let mut out = BytesMut::new();
        while let Some(value) = values.next().await {
            let mut next = Some(value);
            while let Some(value) = next {
                out.extend_from_slice(head(value.len()).as_bytes());
                out.extend_from_slice(&value);
                out.extend_from_slice(b"\r\n");
                let is_full = out.len() > WRITE;
                next = if is_full { None } else { values.next().now_or_never().flatten() };
            }
            if write.write_all_buf(&mut out).await.is_err() {
                return;
            }
        }
    });
}
