//! What the fuzz targets call: bytes of a peer go through everything that reads them, without a
//! socket. The corpus is replayed by a plain test.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    cluster::ClusterClient,
    cluster_client,
    error::{Error, Result},
    leader::{Connector, Leader, Setup, Sink, Upstream},
    options::Options,
    protocol::{
        Assembler, FrameReader,
        handshake::{ServerSide, Token},
        method_table,
        pb::{self, packet::Body},
    },
    spec::{Answered, BoxFuture, End, Failure, HealthReport},
};

/// Reads bytes as a stream of frames that arrives in pieces of the length that the first byte says,
/// and puts parts together.
pub fn frames(input: &[u8]) {
    const LIMIT: usize = 256 << 10;
    let Some((piece, stream)) = input.split_first() else { return };
    let mut reader = FrameReader::default();
    let mut assembler = Assembler::new(LIMIT, LIMIT);
    for bytes in stream.chunks(usize::from(*piece).max(1)) {
        reader.buffer().extend_from_slice(bytes);
        reader.filled(bytes.len());
        loop {
            match reader.next() {
                Ok(Some(pb::Packet { body: Some(Body::Part(part)), .. })) => {
                    if let Ok(Some(whole)) = assembler.push(part) {
                        assert!(!matches!(whole.body, Some(Body::Part(_))));
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
        assert!(assembler.held() <= LIMIT * 2, "{}", assembler.held());
    }
}

/// Two bytes of length and a registration, which is read as it comes and, as if it had been proven,
/// registered at a leader; what follows is what the follower sends then. What the leader says.
pub fn registration(input: &[u8]) -> Vec<u8> {
    let Some((length, rest)) = input.split_first_chunk() else { return Vec::new() };
    let (body, stream) = rest.split_at(usize::from(u16::from_be_bytes(*length)).min(rest.len()));
    unproven(body);
    let registered = pb::RegisterBody::decode(body).ok().and_then(|body| body.purpose);
    let channel = match registered {
        Some(pb::register_body::Purpose::Channel(channel)) => channel,
        _ => proper(),
    };
    RUNTIME.block_on(async {
        let leader = Leader::start(setup(), None).await.expect("it connects to nothing");
        let answers = serve(&leader, &channel, stream).await;
        leader.close().await;
        assert_eq!(leader.stats().panics, 0);
        answers
    })
}

/// A registration without the token leads nowhere.
fn unproven(body: &[u8]) {
    let token = Token::random().expect("the system gives random bytes");
    let (mut side, _) = ServerSide::start(7777).expect("the system gives random bytes");
    if let Ok(register) = pb::Register::decode(body) {
        assert!(side.check(&token, &register).is_err());
    }
}

/// One follower, from its registration to the end of what it sends.
async fn serve(leader: &Arc<Leader>, channel: &pb::Channel, stream: &[u8]) -> Vec<u8> {
    let Ok((_, methods)) = leader.admit(channel) else { return Vec::new() };
    let (ours, theirs) = tokio::io::duplex(64 << 10);
    leader.serve(theirs, FrameReader::default(), [1; 16], methods);
    let (mut answers, mut requests) = tokio::io::split(ours);
    let send = async {
        // The leader closes where a rule is broken.
        let _ = requests.write_all(stream).await;
        let _ = requests.shutdown().await;
    };
    let mut read = Vec::new();
    let (_, end) = tokio::join!(send, answers.read_to_end(&mut read));
    end.expect("a pipe in memory has no errors");
    read
}

fn setup() -> Setup {
    let options = Options {
        max_payload: 64 << 10,
        max_queued: 256 << 10,
        max_in_flight: 16,
        max_subscriptions: 8,
        ..Options::default()
    };
    Setup {
        channel: Target::SPEC.name.to_owned(),
        spec: Target::SPEC,
        connector: Box::new(Wrapped(Arc::new(Target))),
        options,
        retry_connect: false,
    }
}

/// What a follower of the same build registers.
pub(crate) fn proper() -> pb::Channel {
    pb::Channel {
        name: Target::SPEC.name.to_owned(),
        codec: Target::SPEC.codec.to_owned(),
        methods: method_table(Target::SPEC.methods),
        owner: Bytes::from_static(&[1; 16]),
        wait_ms: 0,
    }
}

static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
});

/// A client with a method of each kind.
struct Target;

#[cluster_client]
impl Target {
    #[connect]
    async fn connect() -> Result<Self> {
        Ok(Self)
    }

    #[invoke]
    async fn echo(&self, text: String, numbers: Vec<u64>) -> Result<(String, Vec<u64>)> {
        Ok((text, numbers))
    }

    #[invoke]
    async fn slow(&self) -> Result<()> {
        std::future::pending().await
    }

    #[invoke(share)]
    async fn shared(&self, key: u8) -> Result<u8> {
        tokio::task::yield_now().await;
        Ok(key)
    }

    #[invoke(oneway)]
    async fn note(&self, text: Option<String>) -> Result<()> {
        text.map(|_| ()).ok_or_else(|| Error::config("nothing to note"))
    }

    #[subscribe]
    fn watch(&self, key: &str) -> impl Stream<Item = String> {
        futures::stream::iter([key.to_owned()]).chain(futures::stream::pending())
    }

    #[subscribe(deliver = "one")]
    fn work(&self) -> impl Stream<Item = u32> {
        futures::stream::iter(0..4).chain(futures::stream::pending())
    }

    #[publish(key = name)]
    async fn publish(&self, name: String, value: u32) -> Result<()> {
        if value == 13 { Err(Error::config(name)) } else { Ok(()) }
    }

    #[unpublish]
    async fn unpublish(&self, name: String, _value: u32) -> Result<()> {
        drop(name);
        Ok(())
    }
}

#[derive(Clone)]
struct Wrapped(Arc<Target>);

impl Upstream for Wrapped {
    fn call(&self, method: usize, args: Bytes) -> Result<BoxFuture<Answered>> {
        Arc::clone(&self.0).call(method, args)
    }

    fn open(&self, method: usize, args: Bytes, sink: Sink) -> Result<BoxFuture<End>> {
        Arc::clone(&self.0).open(method, args, sink)
    }

    fn health(&self, _: HealthReport) -> Option<BoxFuture<()>> {
        None
    }

    fn close(&self) -> BoxFuture<()> {
        Box::pin(std::future::ready(()))
    }
}

impl Connector for Wrapped {
    fn connect(&self) -> BoxFuture<Result<Arc<dyn Upstream>, Failure>> {
        let client = Arc::new(self.clone());
        Box::pin(async move { Ok(client as Arc<dyn Upstream>) })
    }

    fn key(&self, method: usize, args: Bytes) -> Result<Bytes> {
        Target::key(method, args)
    }

    fn unit(&self) -> Bytes {
        Target::unit()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// All inputs that were kept for a target.
    fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
        let files = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
        let read = |file: std::fs::DirEntry| {
            (file.file_name().to_string_lossy().into_owned(), std::fs::read(file.path()).unwrap())
        };
        files.map(read).collect()
    }

    #[test]
    fn the_corpus_of_frames_is_read_without_a_panic() {
        let corpus = corpus("frames");
        assert!(corpus.len() >= 8, "{}", corpus.len());
        for (name, input) in corpus {
            println!("{name}");
            super::frames(&input);
        }
    }

    #[test]
    fn the_corpus_of_registrations_is_served_without_a_panic() {
        let corpus = corpus("registration");
        assert!(corpus.len() >= 8, "{}", corpus.len());
        for (name, input) in corpus {
            println!("{name}");
            let answers = super::registration(&input);
            if name == "calls" {
                assert!(answers.windows(5).any(|text| text == b"hello"), "{answers:?}");
            }
        }
    }
}
