//! The socket under a link.

use std::io;

use socket2::SockRef;
use tokio::net::TcpStream;

/// Bytes that the system is asked to hold of one link, in each direction on each end. What lies there
/// can't be overtaken by a small answer, so that it is little; but enough for the reader to find more
/// whenever it looks.
const BUFFER: usize = 128 << 10;

/// Sets what all sockets of links have in common, dialled and accepted ones.
///
/// # Errors
///
/// The connection is gone.
pub(crate) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_send_buffer_size(BUFFER)?;
    socket.set_recv_buffer_size(BUFFER)
}
