//! From an accepted connection to a link of a channel, or to a refusal with its reason.

use tokio::{
    net::TcpStream,
    sync::OwnedSemaphorePermit,
    time::{Duration, Instant, timeout},
};

use super::{Incoming, Shared, detach};
use crate::{
    connection::{Endpoint, Link, drive, exchange, prepare},
    error::{Error, Result},
    protocol::{
        FrameReader,
        handshake::ServerSide,
        pb::{self, packet::Body, register_body::Purpose},
    },
};

/// Runs the handshake; then hands the link over, or serves it as a liveness link to its end.
///
/// # Errors
///
/// Why the connection was closed without having served.
pub(super) async fn admit(
    mut stream: TcpStream,
    server: &Shared,
    permit: OwnedSemaphorePermit,
) -> Result<()> {
    let io = |error| Error::io("the connection failed during the handshake", &error);
    prepare(&stream).map_err(io)?;
    let (mut side, hello) = ServerSide::start(server.port)?;
    let mut reader = FrameReader::default();
    let patience = server.options.handshake;
    let register = timeout(patience, async {
        exchange::write(&mut stream, hello).await?;
        match exchange::read(&mut stream, &mut reader).await? {
            Body::Register(register) => Ok(register),
            _ => Err(Error::protocol("the first packet is not a registration")),
        }
    })
    .await
    .map_err(|_| Error::timeout(patience, "the peer did not register"))??;
    let checked = side.check(&server.token, &register);
    // From here on the peer is known, so that it no longer counts against the strangers.
    drop(permit);
    let outcome = match checked {
        Ok(body) => route(server, body).await,
        Err(error) => Err(error),
    };
    let answer = match &outcome {
        Ok(Routed::Channel(_, answer)) => answer.as_ref().clone(),
        Ok(Routed::Nowhere) => return Err(Error::closed("the server")),
        Ok(Routed::Liveness) => pb::RegisteredBody { pid: std::process::id(), ..<_>::default() },
        Err(error) => pb::RegisteredBody {
            refused: Some(error.into()),
            pid: std::process::id(),
            ..Default::default()
        },
    };
    let answer = side.answer(&server.token, &answer);
    timeout(patience, exchange::write(&mut stream, answer))
        .await
        .map_err(|_| Error::timeout(patience, "the peer does not read"))??;
    match outcome? {
        Routed::Channel(take, _) => take(detach(stream)?, reader),
        Routed::Liveness => tokio::select! {
            () = serve_liveness(server, stream, reader) => {}
            () = server.closing.cancelled() => {}
        },
        Routed::Nowhere => {}
    }
    Ok(())
}

/// Where a registration leads.
enum Routed {
    Channel(Box<dyn FnOnce(std::net::TcpStream, FrameReader) + Send>, Box<pb::RegisteredBody>),
    Liveness,
    /// The server was dropped: the follower is left to find the next one.
    Nowhere,
}

async fn route(server: &Shared, body: pb::RegisterBody) -> Result<Routed> {
    let channel = match body.purpose {
        Some(Purpose::Channel(channel)) => channel,
        Some(Purpose::Liveness(_)) => return Ok(Routed::Liveness),
        None => return Err(Error::protocol("a registration without a purpose")),
    };
    let owner: [u8; 16] = channel.owner[..]
        .try_into()
        .map_err(|_| Error::protocol("the id of the owner is not 16 bytes long"))?;
    let deadline = Instant::now() + Duration::from_millis(channel.wait_ms.into());
    let Some(leader) = server.leader(&channel.name, deadline).await? else {
        return Ok(Routed::Nowhere);
    };
    let (answer, methods) = leader.admit(&channel)?;
    let pid = body.pid;
    let take = move |stream, reader| leader.take(Incoming { stream, reader, owner, methods, pid });
    Ok(Routed::Channel(Box::new(take), Box::new(answer)))
}

/// Serves nothing but heartbeats, from the service thread.
async fn serve_liveness(server: &Shared, stream: TcpStream, reader: FrameReader) {
    struct Deaf;
    impl Endpoint for Deaf {
        fn on_packet(&mut self, _: pb::Packet) -> Result<()> {
            Ok(())
        }
    }
    let link = Link::new(server.options.max_queued);
    let reason = drive(stream, reader, &link, &mut Deaf, &server.options).await;
    tracing::debug!(%reason, "a liveness link closed");
}
