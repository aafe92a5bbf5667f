//! From a port to a registered link.

use std::{net::Ipv4Addr, pin::Pin, sync::Arc, time::Duration};

use tokio::{
    io::DuplexStream,
    net::TcpStream,
    time::{Instant, timeout},
};

use crate::{
    connection::{exchange, prepare},
    error::{Error, ErrorKind, Result},
    leader::Leader,
    protocol::{
        FrameReader,
        handshake::{FollowerSide, Token},
        pb::{self, packet::Body},
    },
};

/// Hears why a dial takes long, while it goes on.
pub(crate) type Report<'a> = &'a (dyn Fn(Error) + Send + Sync);

/// A dial under way.
pub(crate) type Dialing<'a> = Pin<Box<dyn Future<Output = Result<Dialed, DialError>> + Send + 'a>>;

/// Finds the leader of a channel, again after each loss.
pub(crate) trait Dial: Send {
    /// One try.
    fn dial<'a>(&'a mut self, channel: &'a pb::Channel, report: Report<'a>) -> Dialing<'a>;
}

/// A link that is registered, and what the leader said.
pub(crate) struct Dialed {
    pub(crate) stream: Stream,
    pub(crate) reader: FrameReader,
    pub(crate) answer: pb::RegisteredBody,
}

/// Where the bytes of a link go.
pub(crate) enum Stream {
    Tcp(TcpStream),
    /// A pipe to a leader in this process.
    Memory(DuplexStream),
}

/// Why there is no link.
#[derive(Debug)]
pub(crate) enum DialError {
    /// Nobody is there, or the connection failed; the next try may find somebody.
    Unreachable(Error),
    /// Somebody is there and says no. Creating a client fails with it at once; a client that was
    /// up before tries again.
    Refused(Error),
}

/// Dials a port and registers. Hears of a server that says nothing, and goes on waiting: whoever
/// has the port may only be busy or paused.
///
/// # Cancel safety
///
/// Dropping it closes the connection.
pub(crate) async fn register(
    port: u16,
    token: &Token,
    body: &pb::RegisterBody,
    patience: Duration,
    report: Report<'_>,
) -> Result<(TcpStream, FrameReader, pb::RegisteredBody), DialError> {
    let connecting = timeout(patience, connect(port));
    let late = |_| Err(Error::timeout(patience, format_args!("connecting to port {port}")));
    let mut stream = connecting.await.unwrap_or_else(late).map_err(DialError::Unreachable)?;
    let mut reader = FrameReader::default();
    let first = patiently(port, patience, report, &mut stream, &mut reader).await?;
    let Body::Hello(hello) = first else { return Err(DialError::Refused(no_server(port))) };
    let (side, frame) =
        FollowerSide::register(token, port, &hello, body).map_err(DialError::Refused)?;
    exchange::write(&mut stream, frame).await.map_err(DialError::Unreachable)?;
    let held_back = match &body.purpose {
        Some(pb::register_body::Purpose::Channel(channel)) => channel.wait_ms,
        _ => 0,
    };
    let patience = patience + Duration::from_millis(held_back.into());
    let answer = match patiently(port, patience, report, &mut stream, &mut reader).await? {
        Body::Registered(registered) => {
            side.check(token, &registered).map_err(DialError::Refused)?
        }
        _ => return Err(DialError::Refused(no_server(port))),
    };
    match answer.refused {
        Some(refused) => Err(DialError::Refused(refused.into())),
        None => Ok((stream, reader, answer)),
    }
}

async fn connect(port: u16) -> Result<TcpStream> {
    let unreachable = |error: std::io::Error| {
        Error::new(
            ErrorKind::Disconnected,
            format!("nobody serves port {port}: {error}; start the process that leads"),
        )
    };
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.map_err(unreachable)?;
    let ends =
        (stream.local_addr().map_err(unreachable)?, stream.peer_addr().map_err(unreachable)?);
    if ends.0 == ends.1 {
        // The port is among those that the system gives to outgoing connections, and it gave it to
        // this very one.
        return Err(unreachable(std::io::ErrorKind::ConnectionRefused.into()));
    }
    prepare(&stream).map_err(unreachable)?;
    Ok(stream)
}

async fn patiently(
    port: u16,
    patience: Duration,
    report: Report<'_>,
    stream: &mut TcpStream,
    reader: &mut FrameReader,
) -> Result<Body, DialError> {
    let start = Instant::now();
    let lost = |error: Error| match error.kind() {
        ErrorKind::Protocol => DialError::Refused(no_server(port).with_source(error)),
        _ => DialError::Unreachable(error),
    };
    loop {
        match timeout(patience, exchange::read(stream, reader)).await {
            Ok(body) => return body.map_err(lost),
            Err(_) => report(Error::new(
                ErrorKind::Disconnected,
                format!(
                    "the owner of port {port} has not answered for {:?}; it is busy, paused, or no \
                     cluster-client server",
                    start.elapsed()
                ),
            )),
        }
    }
}

fn no_server(port: u16) -> Error {
    Error::new(
        ErrorKind::Protocol,
        format!("the owner of port {port} is no cluster-client server; choose another port"),
    )
}

/// Bytes that a pipe in memory holds.
const PIPE: usize = 256 << 10;

/// Registers with a leader in this process.
pub(crate) fn register_here(leader: &Arc<Leader>, channel: &pb::Channel) -> Result<Dialed> {
    let owner: [u8; 16] = channel.owner[..]
        .try_into()
        .map_err(|_| Error::protocol("the id of the owner is not 16 bytes long"))?;
    let (answer, methods) = leader.admit(channel)?;
    let (ours, theirs) = tokio::io::duplex(PIPE);
    leader.serve(theirs, FrameReader::default(), owner, methods);
    Ok(Dialed { stream: Stream::Memory(ours), reader: FrameReader::default(), answer })
}
