//! The Local Server: one a port. It accepts on the service thread, authenticates, and hands each
//! link to the leader of the channel that it registers.
//!
//! It knows leaders only as [`Lead`]s, by the name of their channel, and nothing of what they do.

mod admission;
mod reservation;

use std::{
    collections::HashMap,
    future::poll_fn,
    io,
    net::{Ipv4Addr, SocketAddrV4},
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak},
    task::Poll,
    time::Duration,
};

use dashmap::{DashMap, Entry};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{Semaphore, watch},
    task::AbortHandle,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

pub(crate) use self::reservation::Reservation;
use crate::{
    connection::service,
    error::{Error, ErrorKind, Result},
    options::Options,
    protocol::{FrameReader, MethodMap, handshake::Token, pb},
};

/// Connections that wait to be accepted; enough for every process of a large host to redial at
/// once while the agent restarts.
const BACKLOG: u32 = 4096;

/// Handshakes at one time; further connections wait in the backlog.
const HANDSHAKES: usize = 1024;

/// Pause after `accept` failed, as it does while the process has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The servers of this process by port.
static SERVERS: LazyLock<DashMap<u16, Weak<LocalServer>>> = LazyLock::new(DashMap::new);

/// A leader, as far as the server needs to know it.
pub(crate) trait Lead: Send + Sync {
    /// Compares the ends; the answer to the registration.
    fn admit(&self, follower: &pb::Channel) -> Result<(pb::RegisteredBody, MethodMap)>;

    /// Takes over a link that is registered.
    fn take(&self, link: Incoming);

    /// Hands the channel over to the next leader, in a task that ends when the real client is
    /// closed. `None`: the leader is gone already.
    #[cfg(all(unix, feature = "process"))]
    fn hand_over(&self, drain: Duration) -> Option<tokio::task::JoinHandle<()>>;
}

/// A link of a follower that was admitted.
pub(crate) struct Incoming {
    /// The socket, of no runtime yet.
    pub(crate) stream: std::net::TcpStream,
    /// What was read of it already.
    pub(crate) reader: FrameReader,
    pub(crate) owner: [u8; 16],
    pub(crate) methods: MethodMap,
    pub(crate) pid: u32,
}

/// Accepts connections on one port, for all channels that this process leads on it. The port is
/// free at the moment when the last `Arc` is dropped, whoever is still connected.
pub(crate) struct LocalServer {
    shared: Arc<Shared>,
    accepting: AbortHandle,
}

/// What the server and its connections share. It does not keep the port.
struct Shared {
    port: u16,
    token: Token,
    options: Options,
    /// Taken, and so closed, when the server is dropped.
    listener: Mutex<Option<TcpListener>>,
    slots: Mutex<Slots>,
    /// Turns whenever a slot changed.
    changed: watch::Sender<u64>,
    handshakes: Arc<Semaphore>,
    /// The server was dropped.
    closing: CancellationToken,
}

#[derive(Default)]
struct Slots {
    channels: HashMap<String, Slot>,
    /// Counts failures to connect, so that a waiting registration can tell a new one.
    failures: u64,
}

enum Slot {
    /// The real client is being connected.
    Connecting,
    /// It could not be connected, the `n`-th such failure.
    Failed(u64, Error),
    Ready(Arc<dyn Lead>),
    /// It is being closed.
    Closing,
}

impl LocalServer {
    /// The server of this process on `port`, bound if there is none yet. 0: any free port.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::PortBusy`] if another process has the port.
    pub(crate) fn bind(port: u16, token: &Token, options: &Options) -> Result<Arc<Self>> {
        if port == 0 {
            return Self::open(listen(0)?, token, options, None);
        }
        let known = match SERVERS.entry(port) {
            Entry::Occupied(known) => match known.get().upgrade() {
                Some(server) => server,
                None => {
                    return Self::open(listen(port)?, token, options, Some(Entry::Occupied(known)));
                }
            },
            vacant @ Entry::Vacant(_) => {
                return Self::open(listen(port)?, token, options, Some(vacant));
            }
        };
        if known.shared.token != *token {
            return Err(Error::config(format!(
                "this process serves port {port} with another token already"
            )));
        }
        Ok(known)
    }

    /// Serves on a listener that was bound elsewhere, as by the master.
    #[cfg(all(unix, feature = "process"))]
    pub(crate) fn adopt(
        listener: std::net::TcpListener,
        token: &Token,
        options: &Options,
    ) -> Result<Arc<Self>> {
        let io = |error| Error::io("the inherited listener can't be used", &error);
        listener.set_nonblocking(true).map_err(io)?;
        let _context = service()?.enter();
        Self::open(TcpListener::from_std(listener).map_err(io)?, token, options, None)
    }

    /// The server of this process on `port`, if there is one.
    pub(crate) fn find(port: u16) -> Option<Arc<Self>> {
        SERVERS.get(&port).and_then(|server| server.upgrade())
    }

    /// Gives the port and all channels to the next process that accepts on the listener, which must
    /// be held open elsewhere: followers that dial meanwhile wait in its backlog.
    ///
    /// Nothing is accepted any more. Each follower is told up to which request its calls and
    /// publishes are still taken; those that are end within `drain`, or are lost. Nothing is withdrawn
    /// from the upstream. Then the real clients are closed. When it resolves, nothing of this server
    /// is left, and no channel can be led on it any more. Takes at most 5 s longer than `drain`,
    /// and as long as a `#[connect]` that is under way.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: the channels are handed over in the background once it was polled.
    #[cfg(all(unix, feature = "process"))]
    pub(crate) async fn hand_over(&self, drain: Duration) {
        self.shut();
        let leads: Vec<Arc<dyn Lead>> = lock(&self.shared.slots)
            .channels
            .values()
            .filter_map(|slot| match slot {
                Slot::Ready(lead) => Some(Arc::clone(lead)),
                Slot::Connecting | Slot::Failed(..) | Slot::Closing => None,
            })
            .collect();
        let tasks: Vec<_> = leads.iter().filter_map(|lead| lead.hand_over(drain)).collect();
        for task in tasks {
            // Fails only where the leader's runtime is gone, and the leader with it.
            let _ = task.await;
        }
        // A client that was being connected closes as soon as it is.
        let mut changed = self.shared.changed.subscribe();
        let is_over =
            |slots: &Slots| slots.channels.values().all(|slot| matches!(slot, Slot::Failed(..)));
        while !is_over(&lock(&self.shared.slots)) && changed.changed().await.is_ok() {}
    }

    /// Nobody is accepted from here on, and the port is free as far as this process is concerned.
    fn shut(&self) {
        self.accepting.abort();
        drop(lock(&self.shared.listener).take());
        self.shared.closing.cancel();
        self.shared.changed.send_modify(|turn| *turn += 1);
        let is_this = |_: &u16, server: &Weak<Self>| {
            server.strong_count() == 0 || std::ptr::eq(server.as_ptr(), self)
        };
        SERVERS.remove_if(&self.shared.port, is_this);
    }

    fn open(
        listener: TcpListener,
        token: &Token,
        options: &Options,
        entry: Option<Entry<'_, u16, Weak<Self>>>,
    ) -> Result<Arc<Self>> {
        let address =
            listener.local_addr().map_err(|error| Error::io("the port is unknown", &error))?;
        let shared = Arc::new(Shared {
            port: address.port(),
            token: token.clone(),
            options: options.clone(),
            listener: Mutex::new(Some(listener)),
            slots: Mutex::default(),
            changed: watch::Sender::new(0),
            handshakes: Arc::new(Semaphore::new(HANDSHAKES)),
            closing: CancellationToken::new(),
        });
        let accepting = service()?.spawn(accept(Arc::clone(&shared))).abort_handle();
        let server = Arc::new(Self { shared, accepting });
        match entry {
            Some(entry) => drop(entry.insert(Arc::downgrade(&server))),
            None => drop(SERVERS.insert(address.port(), Arc::downgrade(&server))),
        }
        Ok(server)
    }

    pub(crate) fn port(&self) -> u16 {
        self.shared.port
    }

    #[cfg(all(unix, feature = "process"))]
    pub(crate) fn token(&self) -> &Token {
        &self.shared.token
    }

    /// Reserves a channel while its real client is being connected.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::ChannelTaken`] if it has a leader here; [`ErrorKind::Closed`] after a hand-over.
    pub(crate) fn reserve(self: &Arc<Self>, channel: &str) -> Result<Reservation> {
        let mut slots = lock(&self.shared.slots);
        if self.shared.closing.is_cancelled() {
            return Err(self.shared.handed_over().with_channel(channel));
        }
        let port = self.shared.port;
        let taken = match slots.channels.get(channel) {
            Some(Slot::Connecting | Slot::Ready(_)) => Some(format!(
                "it has a leader on port {port} already; join it by asking without options, or \
                 name a second instance with .channel(..)"
            )),
            Some(Slot::Closing) => Some(format!(
                "its leader on port {port} is still closing; wait for Cluster::close, or try again"
            )),
            Some(Slot::Failed(..)) | None => None,
        };
        if let Some(reason) = taken {
            return Err(Error::new(ErrorKind::ChannelTaken, reason).with_channel(channel));
        }
        slots.channels.insert(channel.to_owned(), Slot::Connecting);
        Ok(Reservation { server: Arc::clone(self), channel: channel.to_owned(), failed: false })
    }
}

impl Shared {
    /// The leader of a channel, waited for until the deadline. `None`: the server was dropped.
    ///
    /// # Errors
    ///
    /// Why its client could not be connected, if that fails meanwhile;
    /// [`ErrorKind::NoSuchChannel`] at the deadline.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    async fn leader(&self, channel: &str, deadline: Instant) -> Result<Option<Arc<dyn Lead>>> {
        let mut changed = self.changed.subscribe();
        let seen = lock(&self.slots).failures;
        loop {
            changed.mark_unchanged();
            match lock(&self.slots).channels.get(channel) {
                // The next server answers.
                _ if self.closing.is_cancelled() => return Ok(None),
                Some(Slot::Ready(leader)) => return Ok(Some(Arc::clone(leader))),
                Some(Slot::Failed(at, error)) if *at > seen => return Err(error.clone()),
                _ => {}
            }
            if timeout_at(deadline, changed.changed()).await.is_err() {
                return Err(self.no_such_channel(channel));
            }
        }
    }

    /// The next connection. `None`: the server was dropped.
    async fn next_connection(&self) -> Option<io::Result<TcpStream>> {
        poll_fn(|cx| match &*lock(&self.listener) {
            Some(listener) => listener.poll_accept(cx).map_ok(|(stream, _)| stream).map(Some),
            None => Poll::Ready(None),
        })
        .await
    }

    fn no_such_channel(&self, channel: &str) -> Error {
        let mut led: Vec<String> = lock(&self.slots)
            .channels
            .iter()
            .filter(|(_, slot)| matches!(slot, Slot::Ready(_)))
            .map(|(name, _)| name.clone())
            .collect();
        led.sort();
        Error::new(
            ErrorKind::NoSuchChannel,
            format!(
                "process {}, which owns port {}, does not lead it (it leads: {}); create it there",
                std::process::id(),
                self.port,
                if led.is_empty() { "none".to_owned() } else { led.join(", ") },
            ),
        )
        .with_channel(channel)
    }

    fn handed_over(&self) -> Error {
        let port = self.port;
        let reason = format!("this process has handed port {port} over and leads nothing more");
        Error::new(ErrorKind::Closed, reason)
    }

    fn set(&self, channel: &str, slot: Option<Slot>) {
        {
            let mut slots = lock(&self.slots);
            match slot {
                Some(slot) => drop(slots.channels.insert(channel.to_owned(), slot)),
                None => drop(slots.channels.remove(channel)),
            }
        }
        self.changed.send_modify(|turn| *turn += 1);
    }
}

impl Drop for LocalServer {
    fn drop(&mut self) {
        self.shut();
    }
}

fn listen(port: u16) -> Result<TcpListener> {
    let _context = service()?.enter();
    let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
    let listen = || {
        let socket = TcpSocket::new_v4()?;
        // The port of a leader that just died must be free for the next one at once.
        #[cfg(unix)]
        socket.set_reuseaddr(true)?;
        socket.bind(address.into())?;
        socket.listen(BACKLOG)
    };
    listen().map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => port_busy(port),
        _ => Error::io(format_args!("port {port} can't be bound"), &error),
    })
}

fn port_busy(port: u16) -> Error {
    Error::new(
        ErrorKind::PortBusy,
        format!("port {port} is in use by another process; stop it or choose another port"),
    )
}

async fn accept(server: Arc<Shared>) {
    loop {
        let Ok(permit) = Arc::clone(&server.handshakes).acquire_owned().await else { return };
        let stream = match server.next_connection().await {
            Some(Ok(stream)) => stream,
            Some(Err(error)) => {
                tracing::warn!(%error, "accept failed; trying again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
            None => return,
        };
        let server = Arc::clone(&server);
        tokio::spawn(async move {
            if let Err(error) = admission::admit(stream, &server, permit).await {
                tracing::warn!(port = server.port, %error, "a connection was refused");
            }
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for LocalServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalServer").field("port", &self.shared.port).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Incoming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Incoming").field("pid", &self.pid).finish_non_exhaustive()
    }
}

/// Takes the stream off the service thread's runtime.
fn detach(stream: TcpStream) -> Result<std::net::TcpStream> {
    stream.into_std().map_err(|error| Error::io("the connection can't be handed over", &error))
}
