//! The client of etcd, written as if for one process.

use std::{fmt, time::Duration};

use cluster_client::{ErrorCode, Health, cluster_client};
use etcd_client::{Client, ConnectOptions, PutOptions};
use futures::{Stream, StreamExt};
use serde::{Deserialize, Serialize};

use crate::{
    lease::{Lease, Pulse},
    watch::{self, Target, Watch},
};

/// How to reach etcd. Only the agent needs it.
#[derive(Debug, Clone)]
pub struct ConfigOptions {
    /// URLs of the members of the etcd cluster.
    pub endpoints: Vec<String>,
    /// After how long etcd drops the registrations of a host that died. Renewed three times in it.
    /// Lower drops sooner, and also a host that was only slow; etcd takes whole seconds, at least
    /// about 2.
    pub lease_ttl: Duration,
}

/// A value with the revision of etcd that set it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The value.
    pub value: String,
    /// The revision of its last change; it grows with each change of anything in etcd.
    pub revision: i64,
}

/// One instance of a service, registered as long as its process lives.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Instance {
    /// Name of the service.
    pub service: String,
    /// Where the instance listens.
    pub address: String,
}

impl Instance {
    /// An instance of this service at this address.
    pub fn new(service: impl Into<String>, address: impl Into<String>) -> Self {
        Self { service: service.into(), address: address.into() }
    }

    fn key(&self) -> String {
        format!("{}{}", services(&self.service), self.address)
    }
}

fn services(service: &str) -> String {
    format!("services/{service}/")
}

/// The client: configuration by key, and instances of services that are bound to a lease.
pub struct ConfigClient {
    etcd: Client,
    lease: Lease,
}

impl fmt::Debug for ConfigClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigClient").finish_non_exhaustive()
    }
}

#[cluster_client]
impl ConfigClient {
    /// Connects, and proves it by the grant of the lease.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Unreachable`] where no etcd answers.
    #[connect]
    pub async fn connect(options: ConfigOptions) -> Result<Self, ConfigError> {
        let connect = ConnectOptions::new()
            .with_connect_timeout(CONNECT)
            .with_timeout(REQUEST)
            // etcd closes the connection of whoever asks more often than every 5 s.
            .with_keep_alive(Duration::from_secs(6), Duration::from_secs(2));
        let etcd = Client::connect(&options.endpoints, Some(connect)).await?;
        let lease = Lease::grant(etcd.lease_client(), options.lease_ttl).await?;
        Ok(Self { etcd, lease })
    }

    /// The value of a key, now and from now on; `None` while it has none.
    #[subscribe]
    pub fn watch(
        &self,
        key: &str,
    ) -> impl Stream<Item = Result<Option<Entry>, ConfigError>> + Send + use<> {
        let key = key.to_owned();
        Watch::stream(self.etcd.clone(), Target::Key(key.clone()))
            .map(move |item| item.map(|mut snapshot| snapshot.remove(&key)))
    }

    /// The instances of a service, now and from now on, sorted by address.
    #[subscribe]
    pub fn instances(
        &self,
        service: &str,
    ) -> impl Stream<Item = Result<Vec<Instance>, ConfigError>> + Send + use<> {
        let service = service.to_owned();
        let prefix = services(&service);
        let watch = Watch::stream(self.etcd.clone(), Target::Prefix(prefix.clone()));
        watch.map(move |item| {
            let addresses =
                item?.into_keys().filter_map(|key| Some(key.strip_prefix(&prefix)?.to_owned()));
            Ok(addresses.map(|address| Instance::new(&service, address)).collect())
        })
    }

    /// Registers an instance until it is deregistered, or its host dies.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] where etcd did not take it.
    #[publish(key = (&instance.service, &instance.address))]
    pub async fn register(&self, instance: Instance) -> Result<(), ConfigError> {
        let mut etcd = self.etcd.kv_client();
        let mut lease = self.lease.id().await?;
        loop {
            let bound = PutOptions::new().with_lease(lease);
            let result = etcd.put(instance.key(), "", Some(bound)).await;
            match result {
                Ok(_) => return Ok(()),
                // It expired a moment ago, and the next renewal would find that out.
                Err(error) if is_not_found(&error) => lease = self.lease.id_after(lease).await?,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Takes an instance back.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] where etcd did not take it.
    #[unpublish]
    pub async fn deregister(&self, instance: Instance) -> Result<(), ConfigError> {
        self.etcd.kv_client().delete(instance.key(), None).await?;
        Ok(())
    }

    /// The value of a key, asked of etcd at this moment.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] where etcd did not answer.
    #[invoke(idempotent, share)]
    pub async fn get(&self, key: &str) -> Result<Option<Entry>, ConfigError> {
        let response = self.etcd.kv_client().get(key, None).await?;
        Ok(response.kvs().first().map(|kv| watch::entry(kv).1))
    }

    /// Sets the value of a key; returns the revision that did.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] where etcd did not take it, or where that is unknown.
    #[invoke]
    pub async fn put(&self, key: &str, value: &str) -> Result<i64, ConfigError> {
        let response = self.etcd.kv_client().put(key, value, None).await?;
        Ok(response.header().map_or(0, etcd_client::ResponseHeader::revision))
    }

    /// Whether etcd is there. When it is back, registrations are made again: the lease that they
    /// were bound to may have expired meanwhile.
    #[health]
    pub fn health(&self) -> impl Stream<Item = Health> + Send + use<> {
        self.lease.changes().map(|pulse| match pulse {
            Pulse::Alive(_) => Health::Restored,
            Pulse::Lost(cause) => Health::Lost(cause),
        })
    }

    /// Gives the lease back.
    #[close]
    pub async fn close(&self) {
        self.lease.revoke().await;
    }
}

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(2);

/// How long etcd may take for the answer to a request.
const REQUEST: Duration = Duration::from_secs(5);

/// Why etcd gave no value.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum ConfigError {
    /// It did not answer; whether a write was done is unknown.
    Unreachable(String),
    /// It answered with an error.
    Refused(String),
    /// The way to the process that holds the connection is the problem, not etcd.
    Cluster(cluster_client::Error),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(cause) => write!(f, "etcd can't be reached: {cause}"),
            Self::Refused(cause) => write!(f, "etcd refused: {cause}"),
            Self::Cluster(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ConfigError {}

impl ErrorCode for ConfigError {
    fn code(&self) -> String {
        match self {
            Self::Unreachable(_) => "UNREACHABLE".to_owned(),
            Self::Refused(_) => "REFUSED".to_owned(),
            Self::Cluster(error) => error.kind().to_string(),
        }
    }
}

impl From<cluster_client::Error> for ConfigError {
    fn from(error: cluster_client::Error) -> Self {
        Self::Cluster(error)
    }
}

impl From<etcd_client::Error> for ConfigError {
    fn from(error: etcd_client::Error) -> Self {
        use etcd_client::Error::{GRpcStatus, IoError, TransportError};
        match &error {
            TransportError(_) | IoError(_) => Self::Unreachable(innermost(&error)),
            GRpcStatus(status) if AWAY.contains(&(status.code() as i32)) => {
                Self::Unreachable(innermost(&error))
            }
            GRpcStatus(status) => Self::Refused(status.message().to_owned()),
            _ => Self::Refused(error.to_string()),
        }
    }
}

/// The codes of gRPC that say nothing about the request: cancelled, unknown (of the transport),
/// deadline exceeded, unavailable.
const AWAY: [i32; 4] = [1, 2, 4, 14];

/// The code of gRPC for what is not there.
const NOT_FOUND: i32 = 5;

fn is_not_found(error: &etcd_client::Error) -> bool {
    matches!(error, etcd_client::Error::GRpcStatus(status) if status.code() as i32 == NOT_FOUND)
}

/// The cause that says most: "connection refused" and not "transport error".
fn innermost(error: &etcd_client::Error) -> String {
    let first: &dyn std::error::Error = match error {
        etcd_client::Error::GRpcStatus(status) => status,
        other => other,
    };
    std::iter::successors(Some(first), |error| error.source())
        .last()
        .map_or_else(|| error.to_string(), ToString::to_string)
}
