//! tarpc over TCP, with MessagePack, which is our codec, too.

use bytes::Bytes;
use futures::StreamExt as _;
use serde::{Serialize, de::DeserializeOwned};
use tarpc::{
    client::Config,
    context::{self, Context},
    serde_transport::{self, Transport},
    server::{BaseChannel, Channel as _},
};
use tokio::net::{TcpListener, TcpStream};
use tokio_serde::formats::MessagePack;
use tokio_util::codec::LengthDelimitedCodec;

use super::{Ask, Caller, large, small};
use crate::harness::Result;

#[tarpc::service]
trait Peer {
    async fn echo(payload: Bytes) -> Bytes;
    async fn large(len: u64) -> Bytes;
}

#[derive(Debug, Clone)]
struct Service;

impl Peer for Service {
    async fn echo(self, _: Context, payload: Bytes) -> Bytes {
        payload
    }

    async fn large(self, _: Context, len: u64) -> Bytes {
        large(len)
    }
}

/// Calls in flight, of which tarpc takes 100 by default.
const FLIGHT: usize = 1024;

fn transport<In, Out>(
    stream: TcpStream,
) -> Result<Transport<TcpStream, In, Out, MessagePack<In, Out>>>
where
    In: DeserializeOwned,
    Out: Serialize,
{
    stream.set_nodelay(true)?;
    let codec = LengthDelimitedCodec::builder().max_frame_length(64 << 20).new_codec();
    let framed = tokio_util::codec::Framed::new(stream, codec);
    Ok(serde_transport::new(framed, MessagePack::default()))
}

pub(super) async fn serve() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(transport) = transport(stream) else { continue };
            let config = tarpc::server::Config { pending_response_buffer: FLIGHT };
            let answers = BaseChannel::new(config, transport).execute(Service.serve());
            tokio::spawn(answers.for_each(|answer| async {
                tokio::spawn(answer);
            }));
        }
    });
    Ok(port)
}

/// A client of one connection.
#[derive(Debug, Clone)]
pub(crate) struct Tarpc(PeerClient);

impl Caller for Tarpc {
    async fn connect(port: u16) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let mut config = Config::default();
        config.max_in_flight_requests = FLIGHT;
        config.pending_request_buffer = FLIGHT;
        Ok(Self(PeerClient::new(config, transport(stream)?).spawn()))
    }

    async fn ask(&self, ask: Ask) -> Result<()> {
        let answer = match ask {
            Ask::Echo => self.0.echo(context::current(), small()).await?,
            Ask::Large(len) => self.0.large(context::current(), len).await?,
        };
        ask.check(answer.len())
    }
}
