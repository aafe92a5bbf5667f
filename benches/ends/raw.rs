//! The bare socket: 4 bytes of length, an 8-byte tag, the payload. Reads and writes are batched as
//! far as they can be: what is queued is written in one go.

use std::future::Future;

use bytes::{Bytes, BytesMut};
use futures::{FutureExt as _, SinkExt, StreamExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use crate::contest::Result;

pub(crate) type Socket = Framed<TcpStream, LengthDelimitedCodec>;

/// Length of the tag before each payload.
pub(crate) const TAG: usize = 8;

/// Bytes that are read, and written, at once at most.
const BUFFER: usize = 256 << 10;

pub(crate) fn framed(stream: TcpStream) -> Result<Socket> {
    stream.set_nodelay(true)?;
    let mut framed = Framed::with_capacity(stream, LengthDelimitedCodec::new(), 64 << 10);
    framed.set_backpressure_boundary(BUFFER);
    Ok(framed)
}

pub(crate) async fn connect(port: u16) -> Result<Socket> {
    framed(TcpStream::connect(("127.0.0.1", port)).await?)
}

/// Writes what was fed.
pub(crate) async fn flush(socket: &mut Socket) -> Result<()> {
    Ok(SinkExt::<Bytes>::flush(socket).await?)
}

/// Accepts connections, each with a task of its own; the port.
pub(crate) async fn listen<F, T>(task: F) -> Result<u16>
where
    F: Fn(Socket) -> T + Send + 'static,
    T: Future<Output = Result<()>> + Send + 'static,
{
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(socket) = framed(stream) {
                tokio::spawn(task(socket));
            }
        }
    });
    Ok(port)
}

/// Sends back whatever comes.
pub(crate) async fn echo(mut socket: Socket) -> Result<()> {
    while let Some(frame) = socket.next().await {
        socket.feed(frame?.freeze()).await?;
        while let Some(Some(frame)) = socket.next().now_or_never() {
            socket.feed(frame?.freeze()).await?;
        }
        flush(&mut socket).await?;
    }
    Ok(())
}

/// A frame with this tag and a payload of this length.
pub(crate) fn frame(tag: u64, payload: usize) -> Bytes {
    let mut frame = BytesMut::with_capacity(TAG + payload);
    frame.extend_from_slice(&tag.to_be_bytes());
    frame.resize(TAG + payload, b'x');
    frame.freeze()
}

/// The tag of a frame.
pub(crate) fn tag(frame: &[u8]) -> Result<u64> {
    Ok(u64::from_be_bytes(*frame.first_chunk().ok_or("a frame without a tag")?))
}
