//! gRPC: unary calls and server streams, with tonic's defaults but for the size of a message.

use std::pin::Pin;

use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream, stream::BoxStream};
use tokio::net::TcpListener;
use tonic::{
    Request, Response, Status,
    transport::{Channel, Server, server::TcpIncoming},
};

use self::generated::{
    peer_client::PeerClient,
    peer_server::{Peer, PeerServer},
};
use super::{Ask, Caller, Feed, hub::Hub, large, only_one_key, small};
use crate::harness::{Result, Source};

#[expect(clippy::allow_attributes, unreachable_pub, unused_qualifications, reason = "generated")]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/peers.Peer.rs"));
}

/// Bytes of a message at most, beyond those of the largest answer.
const LIMIT: usize = 16 << 20;

/// Bytes.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Payload {
    #[prost(bytes = "bytes", tag = "1")]
    data: Bytes,
}

/// How many bytes are wanted.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Wanted {
    #[prost(uint64, tag = "1")]
    len: u64,
}

struct Service {
    hub: Hub,
}

type Answer = std::result::Result<Response<Payload>, Status>;

#[tonic::async_trait]
impl Peer for Service {
    type ValuesStream = Pin<Box<dyn Stream<Item = std::result::Result<Payload, Status>> + Send>>;

    async fn echo(&self, request: Request<Payload>) -> Answer {
        Ok(Response::new(request.into_inner()))
    }

    async fn large(&self, request: Request<Wanted>) -> Answer {
        Ok(Response::new(Payload { data: large(request.into_inner().len) }))
    }

    async fn values(
        &self,
        _: Request<Wanted>,
    ) -> std::result::Result<Response<Self::ValuesStream>, Status> {
        let queue = self.hub.subscribe();
        let values = stream::unfold(queue, |mut queue| async {
            let data = queue.recv().await?;
            Some((Ok(Payload { data }), queue))
        });
        Ok(Response::new(Box::pin(values)))
    }
}

pub(super) async fn serve(source: Source) -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let port = listener.local_addr()?.port();
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let service = PeerServer::new(Service { hub: Hub::start(&source, |value| value) });
    let service = service.max_encoding_message_size(LIMIT);
    tokio::spawn(Server::builder().serve_with_incoming(service, incoming));
    Ok(port)
}

/// A channel of one connection.
#[derive(Debug, Clone)]
pub(crate) struct Tonic(PeerClient<Channel>);

impl Caller for Tonic {
    async fn connect(port: u16) -> Result<Self> {
        let client = PeerClient::connect(format!("http://127.0.0.1:{port}")).await?;
        Ok(Self(client.max_decoding_message_size(LIMIT)))
    }

    async fn ask(&self, ask: Ask) -> Result<()> {
        let mut client = self.0.clone();
        let answer = match ask {
            Ask::Echo => client.echo(Payload { data: small() }).await?,
            Ask::Large(len) => client.large(Wanted { len }).await?,
        };
        ask.check(answer.into_inner().data.len())
    }
}

impl Feed for Tonic {
    type Value = Bytes;
    type Values = BoxStream<'static, Result<Bytes>>;

    async fn subscribe(port: u16, keys: u64) -> Result<Vec<Self::Values>> {
        only_one_key(keys)?;
        let mut client = Self::connect(port).await?.0;
        let values = client.values(Wanted { len: 0 }).await?.into_inner();
        Ok(vec![values.map(|value| Ok(value?.data)).boxed()])
    }
}
