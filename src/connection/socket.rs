//! The socket under a link.

use std::io;

use socket2::SockRef;
use tokio::net::TcpStream;

/// Bytes that the system is asked to hold of one link in each direction, on the end that writes. What
/// lies there can't be overtaken by a small answer, so that it is little; but enough for the reader to
/// find more whenever it looks.
const TO_SEND: usize = 128 << 10;

/// The same on the end that reads. There is more room than the other end ever fills, since a reader that
/// makes room in a full window says so to the writer with each read, and does half of its work then.
const RECEIVED: usize = 512 << 10;

/// Sets what all sockets of links have in common, dialled and accepted ones.
///
/// # Errors
///
/// The connection is gone.
pub(crate) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_send_buffer_size(TO_SEND)?;
    socket.set_recv_buffer_size(RECEIVED)
}
