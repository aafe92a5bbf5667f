//! The Local Server: one a port. It accepts on the service thread, authenticates, and hands each
//! link to the leader of the channel that it registers.
//!
//! It knows leaders only as [`Lead`]s, by the name of their channel, and nothing of what they do.

mod admission;

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddrV4},
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use dashmap::{DashMap, Entry};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{Semaphore, watch},
    task::AbortHandle,
    time::{Instant, timeout_at},
};

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
/// released when the last `Arc` is dropped.
pub(crate) struct LocalServer {
    port: u16,
    token: Token,
    handshake: Duration,
    slots: Mutex<Slots>,
    /// Turns whenever a slot changed.
    changed: watch::Sender<u64>,
    handshakes: Arc<Semaphore>,
    accepting: Mutex<Option<AbortHandle>>,
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
        if known.token != *token {
            return Err(Error::config(format!(
                "this process serves port {port} with another token already"
            )));
        }
        Ok(known)
    }

    /// Serves on a listener that was bound elsewhere, as by the master.
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

    fn open(
        listener: TcpListener,
        token: &Token,
        options: &Options,
        entry: Option<Entry<'_, u16, Weak<Self>>>,
    ) -> Result<Arc<Self>> {
        let address =
            listener.local_addr().map_err(|error| Error::io("the port is unknown", &error))?;
        let server = Arc::new(Self {
            port: address.port(),
            token: token.clone(),
            handshake: options.handshake,
            slots: Mutex::default(),
            changed: watch::Sender::new(0),
            handshakes: Arc::new(Semaphore::new(HANDSHAKES)),
            accepting: Mutex::default(),
        });
        let weak = Arc::downgrade(&server);
        match entry {
            Some(entry) => drop(entry.insert(weak.clone())),
            None => drop(SERVERS.insert(server.port, weak.clone())),
        }
        let accepting = service()?.spawn(accept(listener, weak, Arc::clone(&server.handshakes)));
        *lock(&server.accepting) = Some(accepting.abort_handle());
        Ok(server)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn token(&self) -> &Token {
        &self.token
    }

    /// Reserves a channel while its real client is being connected.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::ChannelTaken`] if it has a leader here.
    pub(crate) fn reserve(self: &Arc<Self>, channel: &str) -> Result<Reservation> {
        let mut slots = lock(&self.slots);
        if let Some(Slot::Connecting | Slot::Ready(_)) = slots.channels.get(channel) {
            return Err(Error::new(
                ErrorKind::ChannelTaken,
                format!(
                    "it has a leader on port {} already; join it by asking without options, or \
                     name a second instance with .channel(..)",
                    self.port
                ),
            )
            .with_channel(channel));
        }
        slots.channels.insert(channel.to_owned(), Slot::Connecting);
        Ok(Reservation { server: Arc::clone(self), channel: channel.to_owned() })
    }

    /// The leader of a channel, waited for until the deadline.
    ///
    /// # Errors
    ///
    /// Why its client could not be connected, if that fails meanwhile;
    /// [`ErrorKind::NoSuchChannel`] at the deadline.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(crate) async fn leader(&self, channel: &str, deadline: Instant) -> Result<Arc<dyn Lead>> {
        let mut changed = self.changed.subscribe();
        let seen = lock(&self.slots).failures;
        loop {
            changed.mark_unchanged();
            match lock(&self.slots).channels.get(channel) {
                Some(Slot::Ready(leader)) => return Ok(Arc::clone(leader)),
                Some(Slot::Failed(at, error)) if *at > seen => return Err(error.clone()),
                _ => {}
            }
            if timeout_at(deadline, changed.changed()).await.is_err() {
                return Err(self.no_such_channel(channel));
            }
        }
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
        if let Some(accepting) = lock(&self.accepting).take() {
            accepting.abort();
        }
        SERVERS.remove_if(&self.port, |_, server| server.strong_count() == 0);
    }
}

/// A channel's place on a server; dropping it frees the place.
pub(crate) struct Reservation {
    server: Arc<LocalServer>,
    channel: String,
}

impl Reservation {
    /// From now on the leader takes links.
    pub(crate) fn open(&self, leader: Arc<dyn Lead>) {
        self.server.set(&self.channel, Some(Slot::Ready(leader)));
    }

    /// All who wait for the channel fail with this error; it can be reserved again.
    pub(crate) fn fail(self, error: &Error) {
        let at = {
            let mut slots = lock(&self.server.slots);
            slots.failures += 1;
            slots.failures
        };
        self.server.set(&self.channel, Some(Slot::Failed(at, error.clone())));
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let failed =
            matches!(lock(&self.server.slots).channels.get(&self.channel), Some(Slot::Failed(..)));
        if !failed {
            self.server.set(&self.channel, None);
        }
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
        std::io::ErrorKind::AddrInUse => port_busy(port),
        _ => Error::io(format_args!("port {port} can't be bound"), &error),
    })
}

fn port_busy(port: u16) -> Error {
    Error::new(
        ErrorKind::PortBusy,
        format!("port {port} is in use by another process; stop it or choose another port"),
    )
}

async fn accept(listener: TcpListener, server: Weak<LocalServer>, handshakes: Arc<Semaphore>) {
    loop {
        let Ok(permit) = Arc::clone(&handshakes).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "accept failed; trying again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(server) = server.upgrade() else { return };
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
        f.debug_struct("LocalServer").field("port", &self.port).finish_non_exhaustive()
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
