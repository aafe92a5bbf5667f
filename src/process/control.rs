//! The control link between the master and a child: frames and descriptors on a unix socket.
//!
//! `proto/cluster/v1/control.proto` says what travels on it. This module owns the bytes: it frames,
//! checks what the peer sent, and passes descriptors by SCM_RIGHTS. It knows nothing of processes.

use std::{
    collections::VecDeque,
    fmt,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream as StdUnixStream,
    },
    sync::Arc,
};

use bytes::{Buf, BytesMut};
use prost::Message;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use tokio::{io::Interest, net::UnixStream};

use crate::protocol::pb::{Control, control::Body};

/// The version of the control link. The two ends must have the same.
pub(super) const VERSION: u32 = 2;

/// Name of the cluster port's listener in `Welcome`.
pub(super) const CLUSTER_LISTENER: &str = "cluster";

/// Longest frame. Everything that is said on the link is small; see the wire contract.
const MAX_FRAME: usize = 64 * 1024;

/// Most descriptors that come with one frame, and most that may wait for the frame that names them.
pub(super) const MAX_FDS: usize = 32;

/// Longest text of an `Ended`, so that the frame always fits.
const MAX_TEXT: usize = 16 * 1024;

/// Why a control link can't be used any more.
#[derive(Debug)]
pub(super) enum LinkError {
    /// The stream ended, or was reset: the peer is gone. A reset is what a unix socket reports
    /// when the peer died with unread bytes.
    Gone,
    /// The peer sent something that the contract does not allow.
    Malformed(String),
    /// The socket failed.
    Io(io::Error),
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => f.write_str("the other end is gone"),
            Self::Malformed(what) => write!(f, "the other end broke the protocol: {what}"),
            Self::Io(error) => write!(f, "the socket failed: {error}"),
        }
    }
}

impl From<io::Error> for LinkError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Self::Gone,
            _ => Self::Io(error),
        }
    }
}

/// What was received and not yet taken: bytes of frames and descriptors.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    bytes: BytesMut,
    fds: VecDeque<OwnedFd>,
}

impl Inbox {
    /// Takes the next whole frame out of what was received.
    fn next_frame(&mut self) -> Result<Option<Body>, LinkError> {
        loop {
            let Some(head) = self.bytes.first_chunk::<4>() else { return Ok(None) };
            let length = u32::from_be_bytes(*head) as usize;
            if length > MAX_FRAME {
                return Err(LinkError::Malformed(format!("a frame of {length} bytes")));
            }
            if self.bytes.len() < 4 + length {
                return Ok(None);
            }
            self.bytes.advance(4);
            let frame = self.bytes.split_to(length).freeze();
            let control = Control::decode(frame).map_err(|error| {
                LinkError::Malformed(format!("a frame that is no frame: {error}"))
            })?;
            // No body is the body of a newer version.
            if let Some(body) = control.body {
                return Ok(Some(body));
            }
        }
    }

    /// The descriptor that was received first and not yet taken.
    pub(super) fn take_fd(&mut self) -> Option<OwnedFd> {
        self.fds.pop_front()
    }

    /// Receives once. Blocks where the socket blocks.
    fn receive(&mut self, socket: BorrowedFd<'_>) -> Result<(), LinkError> {
        let mut bytes = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::net::recvmsg(
            socket,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut ancillary,
            RECEIVE,
        )
        .map_err(io::Error::from)?;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                for fd in fds {
                    keep_from_children(&fd)?;
                    self.fds.push_back(fd);
                }
            }
        }
        if received.bytes == 0 {
            return Err(LinkError::Gone);
        }
        if self.fds.len() > MAX_FDS {
            return Err(LinkError::Malformed("too many descriptors".into()));
        }
        self.bytes.extend_from_slice(&bytes[..received.bytes]);
        Ok(())
    }
}

/// Waits for the next frame on a socket that blocks.
pub(super) fn read_blocking(socket: &StdUnixStream, inbox: &mut Inbox) -> Result<Body, LinkError> {
    loop {
        if let Some(body) = inbox.next_frame()? {
            return Ok(body);
        }
        match inbox.receive(socket.as_fd()) {
            Err(LinkError::Io(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            other => other?,
        }
    }
}

/// Writes one frame, with its descriptors, to a socket that blocks.
pub(super) fn write_blocking(
    socket: &StdUnixStream,
    body: Body,
    fds: &[BorrowedFd<'_>],
) -> Result<(), LinkError> {
    let frame = encode(body);
    let mut sent = 0;
    while sent < frame.len() {
        // The descriptors go with the first byte.
        let fds = if sent == 0 { fds } else { &[] };
        match send(socket.as_fd(), &frame[sent..], fds) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => sent += other?,
        }
    }
    Ok(())
}

fn encode(body: Body) -> Vec<u8> {
    let control = Control { body: Some(body) };
    let length = control.encoded_len();
    debug_assert!(length <= MAX_FRAME, "all that is said on the link is bounded");
    let mut frame = Vec::with_capacity(4 + length);
    frame.extend_from_slice(&(length as u32).to_be_bytes());
    control.encode_raw(&mut frame);
    frame
}

fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "too many descriptors for a frame",
        ));
    }
    Ok(rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SEND)?)
}

/// Descriptors arrive close-on-exec, and a peer that is gone is an error and no SIGPIPE.
#[cfg(not(target_vendor = "apple"))]
const RECEIVE: RecvFlags = RecvFlags::CMSG_CLOEXEC;
#[cfg(not(target_vendor = "apple"))]
const SEND: SendFlags = SendFlags::NOSIGNAL;

#[cfg(not(target_vendor = "apple"))]
fn keep_from_children(_: &OwnedFd) -> io::Result<()> {
    Ok(())
}

/// These systems know neither flag. The standard library makes its socket pairs without SIGPIPE
/// there, and close-on-exec is set after the fact.
#[cfg(target_vendor = "apple")]
const RECEIVE: RecvFlags = RecvFlags::empty();
#[cfg(target_vendor = "apple")]
const SEND: SendFlags = SendFlags::empty();

#[cfg(target_vendor = "apple")]
fn keep_from_children(fd: &OwnedFd) -> io::Result<()> {
    Ok(rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC)?)
}

/// Takes a socket, and what was received on it already, into the runtime that is current. The two
/// halves work side by side: whoever waits to write goes on reading, so that two ends with full
/// buffers never wait for each other. The socket closes with the second half.
pub(super) fn split(socket: StdUnixStream, inbox: Inbox) -> io::Result<(Reader, Writer)> {
    socket.set_nonblocking(true)?;
    let socket = Arc::new(UnixStream::from_std(socket)?);
    Ok((Reader { socket: Arc::clone(&socket), inbox }, Writer { socket }))
}

/// The half of a control link that reads.
#[derive(Debug)]
pub(super) struct Reader {
    socket: Arc<UnixStream>,
    inbox: Inbox,
}

impl Reader {
    /// Waits for the next frame.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: what was received stays for the next call.
    pub(super) async fn read(&mut self) -> Result<Body, LinkError> {
        loop {
            if let Some(body) = self.inbox.next_frame()? {
                return Ok(body);
            }
            self.socket.readable().await?;
            let (socket, inbox) = (&self.socket, &mut self.inbox);
            let mut outcome = Ok(());
            let tried = socket.try_io(Interest::READABLE, || match inbox.receive(socket.as_fd()) {
                Err(LinkError::Io(error)) => Err(error),
                other => {
                    outcome = other;
                    Ok(())
                }
            });
            match tried {
                Ok(()) => outcome?,
                Err(error) if is_transient(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// The half of a control link that writes.
#[derive(Debug)]
pub(super) struct Writer {
    socket: Arc<UnixStream>,
}

impl Writer {
    /// Writes one frame.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: a frame may be cut in the middle, after which the link is of no use.
    pub(super) async fn write(&mut self, body: Body) -> Result<(), LinkError> {
        let frame = encode(body);
        let mut sent = 0;
        while sent < frame.len() {
            self.socket.writable().await?;
            let socket = &self.socket;
            match socket.try_io(Interest::WRITABLE, || send(socket.as_fd(), &frame[sent..], &[])) {
                Ok(count) => sent += count,
                Err(error) if is_transient(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Cuts a text to what a frame has room for.
pub(super) fn clip(mut text: String) -> String {
    if text.len() > MAX_TEXT {
        text.truncate(text.floor_char_boundary(MAX_TEXT));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use std::{io::Write, net::TcpListener, time::Duration};

    use super::*;
    use crate::protocol::pb::{ClusterReady, Ended, Ready, Taken, Welcome, ended::How};

    fn failed(text: &str) -> Body {
        Body::Ended(Ended { how: Some(How::Failed(text.into())) })
    }

    #[test]
    fn frames_arrive_whole_and_in_order_whatever_the_cuts() {
        let (mut ours, theirs) = StdUnixStream::pair().unwrap();
        let bodies = [
            Body::Taken(Taken { version: 7, answers_pings: true, ..Taken::default() }),
            failed("why"),
            Body::Ready(Ready {}),
        ];
        let mut inbox = Inbox::default();
        let mut seen = Vec::new();
        for byte in bodies.iter().cloned().flat_map(encode) {
            ours.write_all(&[byte]).unwrap();
            inbox.receive(theirs.as_fd()).unwrap();
            seen.extend(inbox.next_frame().unwrap());
        }
        assert_eq!(seen, bodies);

        let together: Vec<u8> = bodies.iter().cloned().flat_map(encode).collect();
        ours.write_all(&together).unwrap();
        for body in bodies {
            assert_eq!(read_blocking(&theirs, &mut inbox).unwrap(), body);
        }
    }

    #[test]
    fn a_listener_comes_with_its_frame_and_still_listens() {
        let (ours, theirs) = StdUnixStream::pair().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let welcome = Body::Welcome(Welcome { version: 1, ..Welcome::default() });
        write_blocking(&ours, welcome.clone(), &[listener.as_fd()]).unwrap();
        drop(listener);

        let mut inbox = Inbox::default();
        assert_eq!(read_blocking(&theirs, &mut inbox).unwrap(), welcome);
        let inherited = TcpListener::from(inbox.take_fd().unwrap());
        assert_eq!(inherited.local_addr().unwrap(), address);
        std::net::TcpStream::connect(address).unwrap();
        inherited.accept().unwrap();
        let flags = rustix::io::fcntl_getfd(&inherited).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    }

    #[test]
    fn an_oversized_frame_is_refused_from_its_length_alone() {
        let (mut ours, theirs) = StdUnixStream::pair().unwrap();
        ours.write_all(&0x8000_0000_u32.to_be_bytes()).unwrap();
        let error = read_blocking(&theirs, &mut Inbox::default()).unwrap_err();
        assert!(matches!(error, LinkError::Malformed(_)), "{error}");
    }

    #[test]
    fn an_end_and_a_reset_both_mean_that_the_peer_is_gone() {
        let (ours, theirs) = StdUnixStream::pair().unwrap();
        drop(ours);
        let end = read_blocking(&theirs, &mut Inbox::default()).unwrap_err();
        assert!(matches!(end, LinkError::Gone), "{end}");

        let (ours, mut theirs) = StdUnixStream::pair().unwrap();
        theirs.write_all(b"unread").unwrap();
        drop(ours);
        let reset = read_blocking(&theirs, &mut Inbox::default()).unwrap_err();
        assert!(matches!(reset, LinkError::Gone), "{reset}");
    }

    #[tokio::test]
    async fn an_async_end_talks_to_a_blocking_one() {
        let (ours, theirs) = StdUnixStream::pair().unwrap();
        let (mut reader, mut writer) = split(ours, Inbox::default()).unwrap();
        writer.write(failed("no")).await.unwrap();
        assert_eq!(read_blocking(&theirs, &mut Inbox::default()).unwrap(), failed("no"));
        write_blocking(&theirs, Body::ClusterReady(ClusterReady {}), &[]).unwrap();
        assert_eq!(reader.read().await.unwrap(), Body::ClusterReady(ClusterReady {}));
        drop(theirs);
        assert!(matches!(reader.read().await, Err(LinkError::Gone)));
    }

    #[tokio::test]
    async fn two_ends_that_both_write_more_than_the_socket_holds_go_on_reading() {
        async fn talk((mut reader, mut writer): (Reader, Writer)) {
            let says = async {
                for _ in 0..200 {
                    writer.write(failed(&"x".repeat(MAX_TEXT))).await.unwrap();
                }
            };
            let hears = async {
                for _ in 0..200 {
                    reader.read().await.unwrap();
                }
            };
            tokio::join!(says, hears);
        }
        let (ours, theirs) = StdUnixStream::pair().unwrap();
        let ends = [ours, theirs].map(|end| split(end, Inbox::default()).unwrap());
        let [ours, theirs] = ends.map(talk);
        tokio::time::timeout(Duration::from_secs(60), async { tokio::join!(ours, theirs) })
            .await
            .expect("neither waits for the other");
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let clipped = clip("ä".repeat(MAX_TEXT));
        assert!(clipped.len() <= MAX_TEXT + '…'.len_utf8());
        assert!(clipped.ends_with('…'));
        assert_eq!(clip("short".into()), "short");
    }
}
