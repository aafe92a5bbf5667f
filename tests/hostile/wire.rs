//! A peer that speaks the wire by hand, and so can break every rule of it.

use bytes::{Buf as _, BufMut as _, BytesMut};
use hmac::{Hmac, KeyInit as _, Mac as _};
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    TOKEN,
    pb::{self, packet::Body},
    soon,
};

pub(crate) const NONCE: [u8; 32] = [7; 32];

/// One end of a connection.
pub(crate) struct Wire {
    pub(crate) stream: TcpStream,
    buffer: BytesMut,
}

impl Wire {
    pub(crate) async fn dial(port: u16) -> Self {
        Self::over(TcpStream::connect(("127.0.0.1", port)).await.unwrap())
    }

    pub(crate) fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: BytesMut::new() }
    }

    /// A follower of the channel that did everything right so far.
    pub(crate) async fn registered(port: u16) -> Self {
        let mut wire = Self::dial(port).await;
        let hello = wire.hello().await;
        wire.send(&register(port, &hello, channel().into())).await;
        let answer = wire.registered_body().await;
        assert_eq!(answer.refused, None);
        assert_eq!(answer.mismatches, [""; 4]);
        wire
    }

    /// Sends bytes. The peer may have closed already, which shows at the next read.
    pub(crate) async fn raw(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
    }

    pub(crate) async fn send(&mut self, packet: &pb::Packet) {
        self.raw(&frame(packet)).await;
    }

    /// The next packet but heartbeats; `None` once the peer has closed.
    pub(crate) async fn next(&mut self) -> Option<pb::Packet> {
        soon("a packet", async {
            loop {
                if let Some(packet) = self.buffered() {
                    if !matches!(packet.body, Some(Body::Heartbeat(_))) {
                        return Some(packet);
                    }
                } else if !matches!(self.stream.read_buf(&mut self.buffer).await, Ok(1..)) {
                    return None;
                }
            }
        })
        .await
    }

    fn buffered(&mut self) -> Option<pb::Packet> {
        let length = u32::from_be_bytes(*self.buffer.first_chunk()?) as usize;
        if self.buffer.len() < 4 + length {
            return None;
        }
        self.buffer.advance(4);
        Some(pb::Packet::decode(self.buffer.split_to(length)).unwrap())
    }

    pub(crate) async fn hello(&mut self) -> pb::Hello {
        match self.next().await.expect("a hello").body {
            Some(Body::Hello(hello)) => hello,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn registered_body(&mut self) -> pb::RegisteredBody {
        match self.next().await.expect("an answer to the registration").body {
            Some(Body::Registered(answer)) => pb::RegisteredBody::decode(answer.body).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    /// The answer to a request.
    pub(crate) async fn result(&mut self, id: u64) -> Result<Vec<u8>, pb::Error> {
        let packet = self.next().await.expect("an answer");
        assert_eq!(packet.id, id);
        match packet.body {
            Some(Body::Result(pb::Result { error: None })) => Ok(packet.payload.to_vec()),
            Some(Body::Result(pb::Result { error: Some(error) })) => Err(*error),
            other => panic!("{other:?}"),
        }
    }

    /// Waits until the peer has closed.
    pub(crate) async fn closed(mut self) {
        while self.next().await.is_some() {}
    }
}

pub(crate) fn packet(id: u64, body: Body, payload: &[u8]) -> pb::Packet {
    pb::Packet { id, body: Some(body), payload: payload.to_vec().into() }
}

pub(crate) fn frame(packet: &pb::Packet) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.put_u32(packet.encoded_len() as u32);
    packet.encode(&mut bytes).unwrap();
    bytes
}

/// A call of the method at this index of [`channel`].
pub(crate) fn invoke(id: u64, method: u32, args: &[u8]) -> pb::Packet {
    packet(id, Body::Invoke(pb::Invoke { method, timeout_ms: 5_000 }), args)
}

/// The number 7, as the one argument of a method.
pub(crate) const SEVEN: &[u8] = &[0, 0, 0, 1, 7];

/// What a follower of the tests' client registers.
pub(crate) fn channel() -> pb::Channel {
    let method = |name: &str, kind: pb::Kind, args, flags| pb::Method {
        name: name.to_owned(),
        kind: kind.into(),
        args,
        flags,
        version: 0,
    };
    pb::Channel {
        name: "Echo".to_owned(),
        codec: "messagepack".to_owned(),
        methods: vec![
            method("echo", pb::Kind::Invoke, 1, 0),
            method("watch", pb::Kind::Subscribe, 1, 0),
            method("slow", pb::Kind::Invoke, 0, 0),
            method("note", pb::Kind::Invoke, 1, 1),
        ],
        owner: vec![1; 16].into(),
        wait_ms: 100,
    }
}

impl From<pb::Channel> for pb::RegisterBody {
    fn from(channel: pb::Channel) -> Self {
        let purpose = Some(pb::register_body::Purpose::Channel(channel));
        Self { purpose, pid: std::process::id() }
    }
}

/// A registration with the right proof.
pub(crate) fn register(port: u16, hello: &pb::Hello, body: pb::RegisterBody) -> pb::Packet {
    let body = body.encode_to_vec();
    let mac = mac(TOKEN, b"cluster-client follower", port, &hello.nonce, &NONCE, &body);
    let register = pb::Register {
        version: 1,
        nonce: NONCE.to_vec().into(),
        mac: mac.into(),
        body: body.into(),
    };
    packet(0, Body::Register(register.into()), &[])
}

/// An answer to a registration, as a leader with the token gives it.
pub(crate) fn registered(
    port: u16,
    hello: &pb::Hello,
    nonce: &[u8],
    body: &pb::RegisteredBody,
) -> pb::Packet {
    let body = body.encode_to_vec();
    let mac = mac(TOKEN, b"cluster-client leader", port, &hello.nonce, nonce, &body);
    let registered = pb::Registered { mac: mac.into(), body: body.into() };
    packet(0, Body::Registered(registered.into()), &[])
}

fn mac(
    token: &[u8],
    label: &[u8],
    port: u16,
    server: &[u8],
    follower: &[u8],
    body: &[u8],
) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(token).unwrap();
    mac.update(label);
    mac.update(&1_u32.to_be_bytes());
    mac.update(&port.to_be_bytes());
    mac.update(server);
    mac.update(follower);
    mac.update(&Sha256::digest(body));
    mac.finalize().into_bytes().to_vec()
}

/// The registration that a follower sent.
pub(crate) fn as_register(packet: pb::Packet) -> pb::Register {
    match packet.body {
        Some(Body::Register(register)) => *register,
        other => panic!("{other:?}"),
    }
}
