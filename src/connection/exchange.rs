//! Single packets on a socket that no driver owns yet: the handshake.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    error::{Error, ErrorKind, Result},
    protocol::{Frame, FrameReader, pb::packet::Body},
};

/// Writes one packet.
pub(crate) async fn write(stream: &mut TcpStream, frame: Frame) -> Result<()> {
    for chunk in frame.chunks() {
        stream.write_all(chunk).await.map_err(|error| lost(&error))?;
    }
    Ok(())
}

/// Reads one packet. What was read beyond it stays in `reader`.
///
/// # Cancel safety
///
/// Cancel safe: what was read is in `reader`.
pub(crate) async fn read(stream: &mut TcpStream, reader: &mut FrameReader) -> Result<Body> {
    loop {
        if let Some(packet) = reader.next()? {
            return packet.body.ok_or_else(|| Error::protocol("a packet without a body"));
        }
        let read = stream.read_buf(reader.buffer()).await.map_err(|error| lost(&error))?;
        if read == 0 {
            return Err(Error::new(
                ErrorKind::Disconnected,
                "the peer closed the connection during the handshake",
            ));
        }
    }
}

fn lost(error: &std::io::Error) -> Error {
    Error::new(
        ErrorKind::Disconnected,
        format!("the connection was lost during the handshake: {error}"),
    )
}
