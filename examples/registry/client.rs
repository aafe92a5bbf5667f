//! The client of the registry, written as if for one process: one connection, plain methods.

use std::{
    collections::HashMap,
    fmt, io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use cluster_client::cluster_client;
use futures::{Stream, stream};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};

use crate::upstream::{Ask, Request, Say};

/// Where a service can be reached.
pub(crate) type Url = String;

/// Where the registry is. Only the agent needs it.
#[derive(Debug, Clone)]
pub(crate) struct RegistryOptions {
    pub(crate) address: SocketAddr,
}

/// One URL of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Registration {
    pub(crate) data_id: String,
    pub(crate) url: Url,
}

impl Registration {
    pub(crate) fn new(data_id: &str, url: impl Into<Url>) -> Self {
        Self { data_id: data_id.to_owned(), url: url.into() }
    }
}

/// A connection to the registry.
pub(crate) struct RegistryClient {
    link: Arc<Link>,
    tasks: [JoinHandle<()>; 2],
}

#[cluster_client]
impl RegistryClient {
    /// Connects to the registry.
    #[connect]
    pub(crate) async fn connect(options: RegistryOptions) -> Result<Self, RegistryError> {
        let (read, write) = TcpStream::connect(options.address).await?.into_split();
        let (out, requests) = mpsc::unbounded_channel();
        let link = Arc::new(Link { out, tables: Mutex::new(Some(Tables::default())) });
        let reader = tokio::spawn(read_all(link.clone(), read));
        let writer = tokio::spawn(write_all(requests, write));
        let client = Self { link, tasks: [reader, writer] };
        client.link.ask(Ask::Hello { pid: std::process::id() }).await?;
        Ok(client)
    }

    /// The URLs of a service, now and from now on.
    #[subscribe]
    pub(crate) fn subscribe(&self, data_id: &str) -> impl Stream<Item = Vec<Url>> + Send + use<> {
        stream::unfold(Topic::open(&self.link, data_id), |topic| async move {
            let mut topic = topic?;
            // The stream ends with the connection.
            topic.urls.changed().await.ok()?;
            let urls = topic.urls.borrow_and_update().clone();
            Some((urls, Some(topic)))
        })
    }

    /// Registers a URL of a service.
    #[publish(key = (&reg.data_id, &reg.url))]
    pub(crate) async fn publish(&self, reg: Registration) -> Result<(), RegistryError> {
        self.link.ask(Ask::Register { data_id: reg.data_id, url: reg.url }).await.map(drop)
    }

    /// Takes a URL of a service back.
    #[unpublish]
    pub(crate) async fn unpublish(&self, reg: Registration) -> Result<(), RegistryError> {
        self.link.ask(Ask::Unregister { data_id: reg.data_id, url: reg.url }).await.map(drop)
    }

    /// The configuration of a service.
    #[invoke(idempotent, share)]
    pub(crate) async fn get_config(
        &self,
        data_id: &str,
    ) -> Result<Option<Vec<String>>, RegistryError> {
        self.link.ask(Ask::GetConfig { data_id: data_id.to_owned() }).await
    }

    /// Closes the connection.
    #[close]
    async fn close(&self) {
        self.hang_up();
    }

    fn hang_up(&self) {
        // The tasks own the two halves of the connection.
        for task in &self.tasks {
            task.abort();
        }
        *self.link.lock() = None;
    }
}

impl Drop for RegistryClient {
    fn drop(&mut self) {
        self.hang_up();
    }
}

/// What the methods share with the tasks of the connection.
struct Link {
    /// Unbounded: it holds one request for each call in flight, and the leader bounds those.
    out: mpsc::UnboundedSender<Request>,
    /// `None` once the connection has ended; dropping them ends every wait and every stream.
    tables: Mutex<Option<Tables>>,
}

#[derive(Default)]
struct Tables {
    next_id: u64,
    waiting: HashMap<u64, oneshot::Sender<Option<Vec<String>>>>,
    topics: HashMap<String, watch::Sender<Vec<Url>>>,
}

impl Link {
    async fn ask(&self, ask: Ask) -> Result<Option<Vec<String>>, RegistryError> {
        let lost = || RegistryError::Lost("it hung up".to_owned());
        let answer = self.send(ask).ok_or_else(lost)?;
        answer.await.map_err(|_| lost())
    }

    /// Sends a request; what it returns gets the answer.
    fn send(&self, ask: Ask) -> Option<oneshot::Receiver<Option<Vec<String>>>> {
        let mut tables = self.lock();
        let tables = tables.as_mut()?;
        let (sender, answer) = oneshot::channel();
        tables.next_id += 1;
        tables.waiting.insert(tables.next_id, sender);
        self.out.send(Request { id: tables.next_id, ask }).ok()?;
        Some(answer)
    }

    fn take(&self, say: Say) {
        let mut tables = self.lock();
        let Some(tables) = tables.as_mut() else { return };
        match say {
            Say::Answer { id, config } => {
                if let Some(waiting) = tables.waiting.remove(&id) {
                    // Whoever asked may have gone.
                    let _ = waiting.send(config);
                }
            }
            Say::Push { data_id, urls } => {
                if let Some(topic) = tables.topics.get(&data_id) {
                    topic.send_replace(urls);
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Tables>> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One subscription at the registry, which ends when this is dropped.
struct Topic {
    link: Arc<Link>,
    data_id: String,
    urls: watch::Receiver<Vec<Url>>,
}

impl Topic {
    fn open(link: &Arc<Link>, data_id: &str) -> Option<Self> {
        let (sender, urls) = watch::channel(Vec::new());
        link.lock().as_mut()?.topics.insert(data_id.to_owned(), sender);
        link.send(Ask::Subscribe { data_id: data_id.to_owned() })?;
        Some(Self { link: link.clone(), data_id: data_id.to_owned(), urls })
    }
}

impl Drop for Topic {
    fn drop(&mut self) {
        self.link.send(Ask::Unsubscribe { data_id: std::mem::take(&mut self.data_id) });
    }
}

async fn read_all(link: Arc<Link>, read: OwnedReadHalf) {
    let mut lines = BufReader::new(read).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let Ok(say) = serde_json::from_str(&line) else { break };
        link.take(say);
    }
    *link.lock() = None;
}

async fn write_all(mut requests: mpsc::UnboundedReceiver<Request>, mut write: OwnedWriteHalf) {
    while let Some(request) = requests.recv().await {
        let Ok(mut line) = serde_json::to_vec(&request) else { continue };
        line.push(b'\n');
        if write.write_all(&line).await.is_err() {
            return;
        }
    }
}

/// Why the registry gave no answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum RegistryError {
    /// The connection to it is lost.
    Lost(String),
    /// The way to the process that holds the connection is the problem.
    Cluster(cluster_client::Error),
}

impl fmt::Display for RegistryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost(cause) => write!(f, "the registry is lost: {cause}"),
            Self::Cluster(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for RegistryError {}

impl From<io::Error> for RegistryError {
    fn from(error: io::Error) -> Self {
        Self::Lost(error.to_string())
    }
}

impl From<cluster_client::Error> for RegistryError {
    fn from(error: cluster_client::Error) -> Self {
        Self::Cluster(error)
    }
}
