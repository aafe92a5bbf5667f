//! The wrapped client, as any user would write and use it, with all limits on.

use std::sync::Arc;

use bytes::Bytes;
use cluster_client::{Change, Cluster, Error, Options, Role, Subscription, cluster_client};
use futures::{Stream, StreamExt as _, stream, stream::BoxStream};

use super::{Ask, Caller, Feed, large, small};
use crate::harness::{Result, Source, Topic};

const TOKEN: &[u8] = b"nothing of this bench is secret";

/// The client that is shared.
pub(crate) struct Upstream {
    source: Source,
}

#[cluster_client]
impl Upstream {
    #[connect]
    async fn connect(source: Source) -> std::result::Result<Self, Error> {
        Ok(Self { source })
    }

    /// Answers with what it is given.
    #[invoke]
    pub(crate) async fn echo(&self, payload: Bytes) -> std::result::Result<Bytes, Error> {
        Ok(payload)
    }

    /// So many bytes.
    #[invoke]
    pub(crate) async fn large(&self, len: u64) -> std::result::Result<Bytes, Error> {
        Ok(large(len))
    }

    /// So many bytes in a `Vec<u8>`, which serde takes one by one.
    #[invoke]
    pub(crate) async fn large_vec(&self, len: u64) -> std::result::Result<Vec<u8>, Error> {
        Ok(large(len).to_vec())
    }

    /// The values of a topic.
    #[subscribe]
    pub(crate) async fn values(
        &self,
        key: u64,
        keys: u64,
    ) -> std::result::Result<impl Stream<Item = Bytes>, Error> {
        Ok(self.source.values(Topic { key, keys }))
    }
}

/// Room for every value of a window, so that a subscriber that misses one is told and fails.
fn options() -> Options {
    Options { ring_values: 4096, ring_bytes: 16 << 20, ..Options::default() }
}

/// Leads, on any free port; the leader lives as long as what is returned.
pub(crate) async fn lead(source: Source) -> Result<(u16, Cluster<Upstream>)> {
    let builder = Cluster::<Upstream>::builder().role(Role::Leader).port(0).token(TOKEN);
    let cluster = builder.options(options()).create(source).await?;
    let port = Cluster::port(&cluster).ok_or("a leader without a port")?;
    Ok((port, cluster))
}

/// Connects to the leader, on a link of its own.
pub(crate) async fn follow(port: u16) -> Result<Cluster<Upstream>> {
    let builder = Cluster::<Upstream>::builder().role(Role::Follower).port(port).token(TOKEN);
    Ok(builder.options(options()).join().await?)
}

/// A follower.
#[derive(Debug, Clone)]
pub(crate) struct Ours(Cluster<Upstream>);

impl Caller for Ours {
    async fn connect(port: u16) -> Result<Self> {
        Ok(Self(follow(port).await?))
    }

    async fn ask(&self, ask: Ask) -> Result<()> {
        let answer = match ask {
            Ask::Echo => self.0.echo(small()).await?,
            Ask::Large(len) => self.0.large(len).await?,
        };
        ask.check(answer.len())
    }
}

/// A follower whose large answers are `Vec<u8>`.
#[derive(Debug, Clone)]
pub(crate) struct OursVec(Cluster<Upstream>);

impl Caller for OursVec {
    async fn connect(port: u16) -> Result<Self> {
        Ok(Self(follow(port).await?))
    }

    async fn ask(&self, ask: Ask) -> Result<()> {
        match ask {
            Ask::Echo => ask.check(self.0.echo(small()).await?.len()),
            Ask::Large(len) => ask.check(self.0.large_vec(len).await?.len()),
        }
    }
}

impl Feed for Ours {
    type Value = Shared;
    type Values = BoxStream<'static, Result<Shared>>;

    async fn subscribe(port: u16, keys: u64) -> Result<Vec<Self::Values>> {
        let cluster = follow(port).await?;
        let mut all = Vec::new();
        for key in 0..keys {
            all.push(values(cluster.values(key, keys).await?).boxed());
        }
        Ok(all)
    }
}

/// A value, which all subscribers of a process share.
pub(crate) struct Shared(Arc<Bytes>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// The values, as long as none is missed and the leader is there.
fn values(mut subscription: Subscription<Bytes>) -> impl Stream<Item = Result<Shared>> + Unpin {
    stream::poll_fn(move |cx| {
        subscription.poll_changed(cx).map(|change| {
            Some(match change {
                Change::Value { value, missed: 0 } => Ok(Shared(value)),
                Change::Value { missed, .. } => Err(format!("{missed} values missed").into()),
                other => Err(format!("not a value: {other:?}").into()),
            })
        })
    })
}
