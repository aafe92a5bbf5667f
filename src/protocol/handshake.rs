//! Proof that both ends hold the host's token: a nonce of each end, HMAC-SHA256 over both, the
//! role, the version, the port and the body that is sent with it.
//!
//! The role keeps a proof from being reflected to its maker, the port from being relayed to
//! another server, the nonces from being used twice.

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use prost::Message;
use sha2::{Digest, Sha256};

use super::{Frame, VERSION, pb};
use crate::error::{Error, ErrorKind, Result};

/// The secret that the processes of one cluster share.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Token(Bytes);

impl Token {
    /// Shortest token that is taken, in bytes.
    pub(crate) const MIN: usize = 16;

    pub(crate) fn new(secret: impl Into<Bytes>) -> Result<Self> {
        let secret = secret.into();
        if secret.len() < Self::MIN {
            return Err(Error::config(format!(
                "the token has {} bytes; give at least {} random ones",
                secret.len(),
                Self::MIN
            )));
        }
        Ok(Self(secret))
    }

    /// A fresh random token.
    pub(crate) fn random() -> Result<Self> {
        Self::new(random::<32>()?.to_vec())
    }

    pub(crate) fn secret(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

/// `N` bytes from the operating system.
pub(crate) fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| {
        Error::new(ErrorKind::Io, format!("the operating system gives no random bytes: {error}"))
    })?;
    Ok(bytes)
}

/// What both ends know of one connection before anything is proven.
#[derive(Debug, Clone)]
pub(crate) struct Transcript {
    port: u16,
    server_nonce: Bytes,
    follower_nonce: Bytes,
}

#[derive(Clone, Copy)]
enum Role {
    Follower,
    Leader,
}

impl Transcript {
    fn mac(&self, token: &Token, role: Role, body: &[u8]) -> Hmac<Sha256> {
        let label: &[u8] = match role {
            Role::Follower => b"cluster-client follower",
            Role::Leader => b"cluster-client leader",
        };
        let mut mac =
            Hmac::<Sha256>::new_from_slice(token.secret()).expect("HMAC takes a key of any length");
        mac.update(label);
        mac.update(&VERSION.to_be_bytes());
        mac.update(&self.port.to_be_bytes());
        mac.update(&self.server_nonce);
        mac.update(&self.follower_nonce);
        mac.update(&Sha256::digest(body));
        mac
    }

    fn sign(&self, token: &Token, role: Role, body: &[u8]) -> Bytes {
        self.mac(token, role, body).finalize().into_bytes().to_vec().into()
    }

    /// Compares in constant time.
    fn proves(&self, token: &Token, role: Role, body: &[u8], mac: &[u8]) -> bool {
        self.mac(token, role, body).verify_slice(mac).is_ok()
    }
}

fn check_version(theirs: u32) -> Result<()> {
    if theirs == VERSION {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::VersionMismatch,
        format!(
            "the peer speaks version {theirs} of the protocol, this process version {VERSION}; \
             build both from the same version of cluster-client"
        ),
    ))
}

fn check_nonce(nonce: &Bytes) -> Result<()> {
    if nonce.len() == 32 {
        return Ok(());
    }
    Err(Error::protocol(format!("a nonce of {} bytes instead of 32", nonce.len())))
}

/// The server's half: says hello, checks the registration, answers.
#[derive(Debug)]
pub(crate) struct ServerSide {
    transcript: Transcript,
}

impl ServerSide {
    pub(crate) fn start(port: u16) -> Result<(Self, Frame)> {
        let nonce = Bytes::from(random::<32>()?.to_vec());
        let hello = Frame::new(0, pb::Hello { version: VERSION, nonce: nonce.clone() });
        let transcript = Transcript { port, server_nonce: nonce, follower_nonce: Bytes::new() };
        Ok((Self { transcript }, hello))
    }

    /// The body of a registration that is proven. It is decoded only after its proof was checked.
    pub(crate) fn check(
        &mut self,
        token: &Token,
        register: &pb::Register,
    ) -> Result<pb::RegisterBody> {
        // The follower's nonce is noted first, so that a refusal can be proven, too.
        check_nonce(&register.nonce)?;
        self.transcript.follower_nonce = register.nonce.clone();
        check_version(register.version)?;
        if !self.transcript.proves(token, Role::Follower, &register.body, &register.mac) {
            return Err(Error::new(
                ErrorKind::Unauthorized,
                "the registration is not proven: the follower has another token, or dialled \
                 another port; give both ends the same token",
            ));
        }
        pb::RegisterBody::decode(register.body.clone())
            .map_err(|error| Error::protocol(format!("not a registration: {error}")))
    }

    pub(crate) fn answer(&self, token: &Token, body: &pb::RegisteredBody) -> Frame {
        let body = Bytes::from(body.encode_to_vec());
        let mac = self.transcript.sign(token, Role::Leader, &body);
        Frame::new(0, pb::Registered { mac, body })
    }
}

/// The follower's half: answers the hello, checks the answer.
#[derive(Debug)]
pub(crate) struct FollowerSide {
    transcript: Transcript,
}

impl FollowerSide {
    /// The registration for this hello.
    pub(crate) fn register(
        token: &Token,
        port: u16,
        hello: &pb::Hello,
        body: &pb::RegisterBody,
    ) -> Result<(Self, Frame)> {
        check_version(hello.version)?;
        check_nonce(&hello.nonce)?;
        let nonce = Bytes::from(random::<32>()?.to_vec());
        let server_nonce = hello.nonce.clone();
        let transcript = Transcript { port, server_nonce, follower_nonce: nonce.clone() };
        let body = Bytes::from(body.encode_to_vec());
        let mac = transcript.sign(token, Role::Follower, &body);
        let frame = Frame::new(0, pb::Register { version: VERSION, nonce, mac, body });
        Ok((Self { transcript }, frame))
    }

    /// The body of an answer that is proven.
    pub(crate) fn check(
        &self,
        token: &Token,
        registered: &pb::Registered,
    ) -> Result<pb::RegisteredBody> {
        if !self.transcript.proves(token, Role::Leader, &registered.body, &registered.mac) {
            return Err(Error::new(
                ErrorKind::Unauthorized,
                format!(
                    "the owner of port {} did not prove that it has the token of this cluster; \
                     give both ends the same token, or find out who owns the port",
                    self.transcript.port
                ),
            ));
        }
        pb::RegisteredBody::decode(registered.body.clone())
            .map_err(|error| Error::protocol(format!("not an answer to a registration: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::FrameReader;

    fn packet(frame: Frame) -> pb::packet::Body {
        let mut reader = FrameReader::default();
        for chunk in frame.chunks() {
            reader.buffer().extend_from_slice(chunk);
        }
        reader.next().unwrap().unwrap().body.unwrap()
    }

    fn hello(frame: Frame) -> pb::Hello {
        match packet(frame) {
            pb::packet::Body::Hello(hello) => hello,
            other => panic!("{other:?}"),
        }
    }

    fn register(frame: Frame) -> pb::Register {
        match packet(frame) {
            pb::packet::Body::Register(register) => *register,
            other => panic!("{other:?}"),
        }
    }

    fn registered(frame: Frame) -> pb::Registered {
        match packet(frame) {
            pb::packet::Body::Registered(registered) => *registered,
            other => panic!("{other:?}"),
        }
    }

    fn body() -> pb::RegisterBody {
        pb::RegisterBody { pid: 7, purpose: None }
    }

    #[test]
    fn both_ends_prove_the_token() {
        let token = Token::random().unwrap();
        let (mut server, frame) = ServerSide::start(80).unwrap();
        let (follower, frame) = FollowerSide::register(&token, 80, &hello(frame), &body()).unwrap();
        assert_eq!(server.check(&token, &register(frame)).unwrap(), body());
        let answer = pb::RegisteredBody { epoch: 9, ..Default::default() };
        let frame = server.answer(&token, &answer);
        assert_eq!(follower.check(&token, &registered(frame)).unwrap(), answer);
    }

    #[test]
    fn another_token_another_port_or_a_changed_body_is_refused() {
        let token = Token::random().unwrap();
        let (mut server, frame) = ServerSide::start(80).unwrap();
        let hello = hello(frame);
        let other = Token::random().unwrap();
        let (_, frame) = FollowerSide::register(&other, 80, &hello, &body()).unwrap();
        let kind = |error: Error| error.kind();
        let refused = server.check(&token, &register(frame)).unwrap_err();
        assert_eq!(kind(refused), ErrorKind::Unauthorized);
        let (_, frame) = FollowerSide::register(&token, 81, &hello, &body()).unwrap();
        let relayed = server.check(&token, &register(frame)).unwrap_err();
        assert_eq!(kind(relayed), ErrorKind::Unauthorized);
        let (_, frame) = FollowerSide::register(&token, 80, &hello, &body()).unwrap();
        let mut changed = register(frame);
        changed.body = Bytes::from_static(b"x");
        assert_eq!(kind(server.check(&token, &changed).unwrap_err()), ErrorKind::Unauthorized);
    }

    #[test]
    fn a_proof_can_be_neither_reflected_nor_used_again() {
        let token = Token::random().unwrap();
        let (mut server, frame) = ServerSide::start(80).unwrap();
        let hello = hello(frame);
        let (follower, frame) = FollowerSide::register(&token, 80, &hello, &body()).unwrap();
        let register = register(frame);
        let reflected = pb::Registered { mac: register.mac.clone(), body: register.body.clone() };
        assert!(follower.check(&token, &reflected).is_err());
        server.check(&token, &register).unwrap();
        let (mut again, _) = ServerSide::start(80).unwrap();
        assert!(again.check(&token, &register).is_err());
    }

    #[test]
    fn another_version_is_named_on_both_ends() {
        let token = Token::random().unwrap();
        let (mut server, frame) = ServerSide::start(80).unwrap();
        let hello = hello(frame);
        let old = pb::Hello { version: 0, ..hello.clone() };
        let error = FollowerSide::register(&token, 80, &old, &body()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::VersionMismatch);
        let (_, frame) = FollowerSide::register(&token, 80, &hello, &body()).unwrap();
        let newer = pb::Register { version: 2, ..register(frame) };
        let error = server.check(&token, &newer).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::VersionMismatch);
        assert!(error.to_string().contains("version 2"), "{error}");
    }

    #[test]
    fn a_short_token_is_refused_and_never_printed() {
        assert_eq!(Token::new("secret").unwrap_err().kind(), ErrorKind::Config);
        let token = Token::new("0123456789abcdef").unwrap();
        assert_eq!(format!("{token:?}"), "Token(..)");
    }
}
