//! The wrapped client, as any user would write and use it.

use cluster_client::{Cluster, Error, Options, Role, cluster_client};
use futures::Stream;
use tokio::sync::watch;

use crate::contest::Result;

const TOKEN: &[u8] = b"nothing of this bench is secret";

/// The client that is shared.
pub(crate) struct Upstream {
    /// How many values the feed has in all.
    total: watch::Sender<u64>,
}

#[cluster_client]
impl Upstream {
    #[connect]
    async fn connect() -> std::result::Result<Self, Error> {
        Ok(Self { total: watch::Sender::new(0) })
    }

    /// Answers with what it is given.
    #[invoke]
    pub(crate) async fn echo(&self, text: String) -> std::result::Result<String, Error> {
        Ok(text)
    }

    /// Lets the feed go on by so many values.
    #[invoke]
    pub(crate) async fn go_on(&self, values: u64) -> std::result::Result<(), Error> {
        self.total.send_modify(|total| *total += values);
        Ok(())
    }

    /// Numbered values of `len` bytes, as fast as they are taken.
    #[subscribe]
    pub(crate) async fn feed(
        &self,
        len: u64,
    ) -> std::result::Result<impl Stream<Item = String>, Error> {
        let state = (self.total.subscribe(), 0_u64);
        Ok(futures::stream::unfold(state, move |(mut total, last)| async move {
            total.wait_for(|total| *total > last).await.ok()?;
            let number = format!("{:020}", last + 1);
            let value = number + &"x".repeat((len as usize).saturating_sub(20));
            Some((value, (total, last + 1)))
        }))
    }
}

/// Room for every value of a slice, so that a subscriber that misses one is told and fails.
fn options() -> Options {
    Options { ring_values: 4096, ring_bytes: 16 << 20, ..Options::default() }
}

/// Leads; the leader lives as long as what is returned.
pub(crate) async fn lead() -> Result<(Cluster<Upstream>, u16)> {
    let cluster = Cluster::<Upstream>::builder()
        .role(Role::Leader)
        .port(0)
        .token(TOKEN)
        .options(options())
        .create(())
        .await?;
    let port = Cluster::port(&cluster).ok_or("a leader without a port")?;
    Ok((cluster, port))
}

/// Connects to the leader, on a link of its own.
pub(crate) async fn follow(port: u16) -> Result<Cluster<Upstream>> {
    let builder = Cluster::<Upstream>::builder().role(Role::Follower).port(port).token(TOKEN);
    Ok(builder.options(options()).join().await?)
}
