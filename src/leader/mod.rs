//! A leader: one a channel. It owns the real client and serves the followers of the channel.
//!
//! ```text
//!  link ──► Session ──► calls         (call.rs, share.rs)
//!                   ──► topics        (topics.rs drives; topic.rs and work.rs are the state)
//!                   ──► publications  (publication.rs: by owner; cell.rs: by key)
//!                          │
//!                          ▼
//!                    dyn Upstream     the real client
//! ```
//! Users in the leader's own process are followers, too, over a pipe in memory: one way to do each
//! thing, and the same semantics in every role.

mod call;
mod cell;
mod client;
#[cfg(any(test, all(unix, feature = "process")))]
mod hand_over;
#[cfg(test)]
mod interleavings;
mod peer;
mod publication;
mod session;
mod share;
mod sink;
mod stats;
mod topic;
mod topics;
mod upstream;
mod work;

use std::{
    collections::HashMap,
    sync::{
        Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

#[cfg(all(unix, feature = "process"))]
use dashmap::DashMap;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    runtime::Handle,
    sync::{Notify, OnceCell, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

#[cfg(test)]
use self::interleavings::between;
use self::{
    call::guarded, client::Client, peer::Peer, publication::Publications, session::Session,
    share::Shares, topics::Topics,
};
pub(crate) use self::{
    call::guarded_now,
    stats::Stats,
    upstream::{Connector, Upstream},
};
pub use self::{sink::Sink, stats::LeaderStats};
use crate::{
    connection::{Link, drive},
    error::{Error, ErrorKind, Result},
    options::Options,
    protocol::{Frame, FrameReader, MethodMap, handshake, pb},
    server::{Incoming, Lead, Reservation},
    spec::ChannelSpec,
};

/// How long withdrawing the publications may take, with what else is under way; and after it closing
/// the client: 5 s together.
const WITHDRAW: Duration = Duration::from_secs(3);
const CLOSE: Duration = Duration::from_secs(2);

/// The leaders of this process that close in the background.
static CLOSING: LazyLock<TaskTracker> = LazyLock::new(TaskTracker::new);

/// The leaders of this process that are not dropped, by epoch.
#[cfg(all(unix, feature = "process"))]
static LEADERS: LazyLock<DashMap<u64, Weak<Leader>>> = LazyLock::new(DashMap::new);

/// How a leader stands, for people who look at their cluster.
#[cfg(all(unix, feature = "process"))]
#[derive(Debug)]
pub(crate) struct LeaderReport {
    pub(crate) channel: String,
    /// Why the client can't be used.
    pub(crate) trouble: Option<Error>,
    pub(crate) stats: LeaderStats,
}

/// Reports of all leaders of this process. It takes their locks for a moment each.
#[cfg(all(unix, feature = "process"))]
pub(crate) fn reports() -> Vec<LeaderReport> {
    let leaders: Vec<_> = LEADERS.iter().filter_map(|leader| leader.upgrade()).collect();
    leaders.into_iter().filter_map(|leader| leader.report()).collect()
}

/// A leader. It lives until it is [closed](Leader::close), or dropped by all who hold it and all
/// its links.
pub(crate) struct Leader {
    channel: String,
    spec: ChannelSpec,
    connector: Box<dyn Connector>,
    options: Options,
    /// Random; tells this start of the leader from others.
    epoch: u64,
    runtime: Handle,
    client: watch::Sender<Client>,
    /// Turns with each report of `#[health]`. An error: the upstream is lost.
    health: watch::Sender<Result<()>>,
    topics: Topics,
    shares: Shares,
    publications: Publications,
    peers: Mutex<HashMap<u64, Link>>,
    /// A peer is gone.
    peer_left: Notify,
    last_peer: AtomicU64,
    stats: Stats,
    tasks: TaskTracker,
    /// Tasks that the end of the leader waits for, because nobody would do again what they do: oneway
    /// calls, and what is withdrawn.
    errands: TaskTracker,
    /// It hands the channel over: sessions take no more requests.
    leaving: AtomicBool,
    closing: CancellationToken,
    /// Done by one, however many close.
    closed: OnceCell<()>,
    /// The place on the Local Server; given up at close.
    reservation: Mutex<Option<Reservation>>,
}

/// What a leader is made of.
pub(crate) struct Setup {
    pub(crate) channel: String,
    pub(crate) spec: ChannelSpec,
    pub(crate) connector: Box<dyn Connector>,
    pub(crate) options: Options,
    /// A failure to connect is tried again instead of ending the start, as in a replacement of a
    /// leader that served before.
    pub(crate) retry_connect: bool,
}

impl Leader {
    /// Connects the real client and takes up the lead of the channel.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Connect`] if the client can't be connected; who waits for the channel is told
    /// the same.
    ///
    /// # Cancel safety
    ///
    /// Dropping it gives the channel up.
    pub(crate) async fn start(setup: Setup, reservation: Option<Reservation>) -> Result<Arc<Self>> {
        let retry = setup.retry_connect;
        let leader = Arc::new(Self::new(setup)?);
        #[cfg(all(unix, feature = "process"))]
        LEADERS.insert(leader.epoch, Arc::downgrade(&leader));
        leader.watch_runtime();
        if !retry {
            match leader.connect().await {
                Ok(client) => leader.ready(client).await,
                Err(error) => {
                    if let Some(reservation) = reservation {
                        reservation.fail(&error);
                    }
                    return Err(error);
                }
            }
        } else {
            let retrying = Arc::clone(&leader);
            leader
                .tasks
                .spawn_on(async move { retrying.connect_until_ready().await }, &leader.runtime);
        }
        if let Some(reservation) = reservation {
            let opened = reservation.open(Arc::new(Door(Arc::downgrade(&leader))));
            *lock(&leader.reservation) = Some(reservation);
            if let Err(error) = opened {
                leader.close().await;
                return Err(error.with_channel(&leader.channel));
            }
        }
        Ok(leader)
    }

    fn new(setup: Setup) -> Result<Self> {
        let Setup { channel, spec, connector, options, retry_connect: _ } = setup;
        Ok(Self {
            epoch: u64::from_be_bytes(handshake::random()?).max(1),
            channel,
            spec,
            connector,
            options,
            runtime: Handle::current(),
            client: watch::Sender::new(Client::Connecting(None)),
            health: watch::Sender::new(Ok(())),
            topics: Topics::default(),
            shares: Shares::default(),
            publications: Publications::default(),
            peers: Mutex::default(),
            peer_left: Notify::new(),
            last_peer: AtomicU64::new(0),
            stats: Stats::default(),
            tasks: TaskTracker::new(),
            errands: TaskTracker::new(),
            leaving: AtomicBool::new(false),
            closing: CancellationToken::new(),
            closed: OnceCell::new(),
            reservation: Mutex::default(),
        })
    }

    /// A runtime that is shut down takes the leader's tasks with it, but not the leader, which
    /// others in this process may hold. It is closed then, so that they look for another.
    fn watch_runtime(self: &Arc<Self>) {
        struct Abandon(Weak<Leader>);
        impl Drop for Abandon {
            fn drop(&mut self) {
                if let Some(leader) = self.0.upgrade().filter(|leader| !leader.is_closed()) {
                    leader.closing.cancel();
                    leader.client.send_replace(Client::Closed);
                    drop(lock(&leader.reservation).take());
                }
            }
        }
        let abandon = Abandon(Arc::downgrade(self));
        let closing = self.closing.clone();
        self.runtime.spawn(async move {
            closing.cancelled().await;
            drop(abandon);
        });
    }

    fn closed(&self) -> Error {
        Error::closed("the leader").with_channel(&self.channel)
    }

    /// Compares a follower with this leader.
    pub(crate) fn admit(&self, follower: &pb::Channel) -> Result<(pb::RegisteredBody, MethodMap)> {
        if follower.codec != self.spec.codec {
            return Err(Error::new(
                ErrorKind::CodecMismatch,
                format!(
                    "the leader uses the codec {}, this process {}; build both from the same \
                     version of the client",
                    self.spec.codec, follower.codec
                ),
            )
            .with_channel(&self.channel));
        }
        let methods = MethodMap::compare(self.spec.methods, &follower.methods);
        let answer = pb::RegisteredBody {
            refused: None,
            epoch: self.epoch,
            pid: std::process::id(),
            mismatches: methods.mismatches(),
            max_payload: self.options.max_payload as u64,
            max_queued: self.options.max_queued as u64,
        };
        Ok((answer, methods))
    }

    /// Serves a link until it closes.
    pub(crate) fn serve<S>(
        self: &Arc<Self>,
        stream: S,
        reader: FrameReader,
        owner: [u8; 16],
        methods: MethodMap,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let leader = Arc::clone(self);
        let id = self.last_peer.fetch_add(1, Ordering::Relaxed) + 1;
        let link = Link::new(self.options.max_queued);
        lock(&self.peers).insert(id, link.clone());
        if self.closing.is_cancelled() {
            // Closing has told all links that it saw, which this one may have missed.
            self.say_goodbye(&link);
        }
        let peer = Peer::new(id, link, owner, self.options.max_payload);
        let serve = async move {
            let peer = Arc::new(peer);
            let options = leader.options.clone();
            let mut session = Session::new(leader, Arc::clone(&peer), methods);
            let reason = drive(stream, reader, &peer.link, &mut session, &options).await;
            if reason.kind() == ErrorKind::Protocol {
                tracing::warn!(%reason, "a follower broke the protocol; its link is closed");
            } else {
                tracing::debug!(%reason, "a follower's link closed");
            }
        };
        self.tasks.spawn_on(serve, &self.runtime);
    }

    fn say_goodbye(&self, link: &Link) {
        let reason = self.closed();
        let goodbye = pb::GoAway { reason: Some((&reason).into()), last_id: None };
        // Also where much is queued already. An error means that the link is closed.
        let _ = link.replay(Frame::new(0, goodbye), None);
        link.finish(reason);
    }

    fn forget_peer(&self, peer: u64) {
        lock(&self.peers).remove(&peer);
        self.peer_left.notify_waiters();
    }

    /// Gives the channel up: tells the followers, withdraws what was published, closes the client.
    /// Nobody else can lead it before that is done: there are never two clients, and what is
    /// withdrawn here was not published by the next leader.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: what was not done is done by whoever closes next, or by nobody; the client is
    /// dropped in any case.
    pub(crate) async fn close(&self) {
        self.closed.get_or_init(|| self.close_once()).await;
    }

    async fn close_once(&self) {
        // No new link from here on.
        if let Some(reservation) = &*lock(&self.reservation) {
            reservation.hold();
        }
        self.closing.cancel();
        let links: Vec<Link> = lock(&self.peers).values().cloned().collect();
        for link in links {
            self.say_goodbye(&link);
        }
        // What the next leader is to have stays, though the hand-over was cut short.
        let withdraws = self.client().is_some() && !self.is_leaving();
        if withdraws && timeout(WITHDRAW, self.wind_up()).await.is_err() {
            let (channel, errands) = (&self.channel, self.errands.len());
            tracing::error!(%channel, errands, "ending took longer than {WITHDRAW:?}; giving up");
        }
        self.end().await;
    }

    /// Nothing stays published, and what nobody would do again is done.
    async fn wind_up(&self) {
        let errands = async {
            // What was sent before the goodbye is taken yet.
            self.all_left().await;
            self.errands.close();
            self.errands.wait().await;
        };
        tokio::join!(self.withdraw_all(), errands);
    }

    /// Ready when no follower is connected any more.
    async fn all_left(&self) {
        loop {
            let left = self.peer_left.notified();
            if lock(&self.peers).is_empty() {
                return;
            }
            left.await;
        }
    }

    /// The real client goes, and after it the place.
    async fn end(&self) {
        if let Client::Ready(client) = self.client.send_replace(Client::Closed) {
            self.close_client(client).await;
        }
        drop(lock(&self.reservation).take());
    }

    async fn close_client(&self, client: Arc<dyn Upstream>) {
        match timeout(CLOSE, guarded(client.close())).await {
            Ok(Ok(())) => {}
            Ok(Err(panicked)) => self.stats.note_panic(&panicked),
            Err(_) => {
                let channel = &self.channel;
                tracing::error!(%channel, "#[close] took longer than {CLOSE:?}; giving up");
            }
        }
    }

    /// Closes whether or not it is waited for; the runtime may be gone already.
    pub(crate) fn close_in_background(self: &Arc<Self>) -> JoinHandle<()> {
        let leader = Arc::clone(self);
        CLOSING.spawn_on(async move { leader.close().await }, &self.runtime)
    }

    /// Waits for all leaders of this process that close in the background.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    #[cfg(all(unix, feature = "process"))]
    pub(crate) async fn all_closed() {
        CLOSING.close();
        CLOSING.wait().await;
    }

    /// Whether it was closed.
    pub(crate) fn is_closed(&self) -> bool {
        self.closing.is_cancelled()
    }

    /// `None` where it is closed.
    #[cfg(all(unix, feature = "process"))]
    fn report(&self) -> Option<LeaderReport> {
        let trouble = match &*self.client.borrow() {
            Client::Connecting(error) => Some(error.clone().unwrap_or_else(|| {
                Error::new(ErrorKind::Connect, "the client is not connected yet")
            })),
            Client::Ready(_) => self.health.borrow().as_ref().err().cloned(),
            Client::Closed => return None,
        };
        Some(LeaderReport { channel: self.channel.clone(), trouble, stats: self.stats() })
    }

    /// Whether it hands the channel over to the next leader, or has.
    fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    /// Whether it takes requests: neither closed nor about to be.
    pub(crate) fn leads(&self) -> bool {
        !self.is_closed() && !self.is_leaving()
    }

    pub(crate) fn stats(&self) -> LeaderStats {
        LeaderStats {
            topics: self.topics.len(),
            publications: self.publication_count(),
            followers: lock(&self.peers).len(),
            ..self.stats.snapshot()
        }
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        // Lets the tasks go that wait for it and hold nothing else.
        self.closing.cancel();
        #[cfg(all(unix, feature = "process"))]
        LEADERS.remove(&self.epoch);
    }
}

/// Why a link ends at a hand-over.
fn replaced() -> Error {
    Error::new(ErrorKind::Disconnected, "the leader is being replaced")
}

/// What the Local Server holds of a leader; it keeps no leader alive.
struct Door(Weak<Leader>);

impl Lead for Door {
    #[cfg(all(unix, feature = "process"))]
    fn hand_over(&self, drain: Duration) -> Option<JoinHandle<()>> {
        self.0.upgrade().map(|leader| leader.start_hand_over(drain))
    }

    fn admit(&self, follower: &pb::Channel) -> Result<(pb::RegisteredBody, MethodMap)> {
        match self.0.upgrade() {
            Some(leader) => leader.admit(follower),
            None => Err(Error::closed("the leader")),
        }
    }

    fn take(&self, link: Incoming) {
        let Some(leader) = self.0.upgrade() else { return };
        let Incoming { stream, reader, owner, methods, pid } = link;
        tracing::debug!(channel = %leader.channel, pid, "a follower registered");
        // The socket becomes one of the runtime that runs the client, so that a call needs no hop
        // to another thread.
        let _context = leader.runtime.enter();
        match TcpStream::from_std(stream) {
            Ok(stream) => leader.serve(stream, reader, owner, methods),
            Err(error) => tracing::warn!(%error, pid, "a link could not be taken over"),
        }
    }
}

/// A moment between two locks, in which another thread may do something. Tests try what.
#[cfg(not(test))]
fn between() {}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for Leader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leader").field("channel", &self.channel).finish_non_exhaustive()
    }
}
