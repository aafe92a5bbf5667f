//! How a process takes part in a channel, and the start of it.

use std::{fmt, marker::PhantomData, sync::Arc};

use bytes::Bytes;
use tokio::runtime::Handle;

use super::{
    Cluster, ClusterClient, Inner, ProxyCore, Role,
    lead::{Lead, LeadCell},
    route::{Compete, Here, ToPort},
};
use crate::{
    error::{Error, ErrorKind, Result},
    follower::{Dial, Follower, FollowerSetup, Liveness},
    options::Options,
    protocol::handshake::Token,
    server::LocalServer,
};

/// Describes how this process takes part in a channel; made by [`Cluster::builder`].
///
/// # Examples
///
/// ```no_run
/// # use cluster_client::{Cluster, Error, Role, cluster_client};
/// # struct Greeter;
/// # #[cluster_client] impl Greeter {
/// #     #[connect] async fn connect() -> Result<Self, Error> { Ok(Self) }
/// #     #[invoke] async fn greet(&self) -> Result<String, Error> { Ok("hi".into()) }
/// # }
/// # async fn example() -> Result<(), Error> {
/// // Whoever comes first leads; the others follow, and elect anew when it dies.
/// let greeter = Cluster::<Greeter>::builder().port(7777).role(Role::Compete).create(()).await?;
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing happens before create() or join()"]
pub struct Builder<T: ClusterClient> {
    channel: String,
    role: Role,
    port: Option<u16>,
    token: Option<Bytes>,
    options: Options,
    /// A server that this process runs already, as the agent does.
    server: Option<Arc<LocalServer>>,
    retry_connect: bool,
    client: PhantomData<fn() -> T>,
}

impl<T: ClusterClient> Builder<T> {
    pub(crate) fn new() -> Self {
        Self {
            channel: T::SPEC.name.to_owned(),
            role: Role::default(),
            port: None,
            token: None,
            options: Options::default(),
            server: None,
            retry_connect: false,
            client: PhantomData,
        }
    }

    /// Names the channel, where there are two of a client's type. Default: the name of the type.
    pub fn channel(mut self, name: impl Into<String>) -> Self {
        self.channel = name.into();
        self
    }

    /// The role of this process. Default: [`Role::Compete`].
    pub fn role(mut self, role: Role) -> Self {
        self.role = role;
        self
    }

    /// The port on the loopback address. Needed in all roles but [`Role::Single`]. A leader may
    /// give 0 for any free one, which [`Cluster::port`] tells.
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// The secret that the processes share, at least 16 bytes. Default: random, kept in a file
    /// that only this user can read, one a port.
    pub fn token(mut self, token: impl Into<Bytes>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Timings and bounds.
    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// Leads on this server instead of one of its own.
    #[cfg(all(unix, feature = "process"))]
    pub(crate) fn server(mut self, server: Arc<LocalServer>) -> Self {
        self.port = Some(server.port());
        self.token = Some(Bytes::copy_from_slice(server.token().secret()));
        self.server = Some(server);
        self
    }

    /// A client that can't be connected is tried again, in the background.
    #[cfg(all(unix, feature = "process"))]
    pub(crate) fn retry_connect(mut self, retry: bool) -> Self {
        self.retry_connect = retry;
        self
    }

    /// Takes part. `client` is what `#[connect]` takes; it is used where this process leads.
    ///
    /// # Errors
    ///
    /// Why the client can't be connected; [`ErrorKind::PortBusy`], [`ErrorKind::ChannelTaken`]; in
    /// a follower why no leader was found within `create_timeout` (default 10 s), or its refusal.
    /// It can be tried again. [`ErrorKind::Config`] outside of a tokio runtime, which the client
    /// lives on; it needs its timer and its I/O. What is made then can be used anywhere.
    ///
    /// # Cancel safety
    ///
    /// Dropping it gives up; nothing stays.
    pub async fn create(self, client: T::Options) -> Result<Cluster<T>> {
        self.start(Some(client)).await
    }

    /// Takes part without the options of the client: as a follower, or, as leader or single, in a
    /// channel that this process leads already.
    ///
    /// # Errors
    ///
    /// As [`Builder::create`]; [`ErrorKind::Config`] if the options of the client are needed.
    ///
    /// # Cancel safety
    ///
    /// Dropping it gives up; nothing stays.
    pub async fn join(self) -> Result<Cluster<T>> {
        self.start(None).await
    }

    async fn start(self, client: Option<T::Options>) -> Result<Cluster<T>> {
        self.options.check()?;
        if Handle::try_current().is_err() {
            let reason =
                "a client lives on a tokio runtime; create it in one, as in #[tokio::main]";
            return Err(Error::config(reason).with_channel(&self.channel));
        }
        let lead = LeadCell::default();
        let (port, dial, liveness): (_, Box<dyn Dial>, _) = match (self.role, client) {
            (Role::Follower, _) => {
                let to_port = self.to_port(self.needed_port()?)?;
                let liveness = Liveness::of(to_port.port, &to_port.token, &to_port.options)?;
                (Some(to_port.port), Box::new(to_port), Some(liveness))
            }
            (Role::Compete, Some(client)) => {
                let to_port = self.to_port(self.needed_port()?)?;
                let liveness = Liveness::of(to_port.port, &to_port.token, &to_port.options)?;
                let port = to_port.port;
                let compete = Compete::<T> { to_port, client, lead: lead.clone() };
                (Some(port), Box::new(compete), Some(liveness))
            }
            (Role::Leader, client) => {
                let port = self.lead(client, &lead).await?;
                (Some(port), Box::new(Here(lead.clone())), None)
            }
            (Role::Single, client) => {
                self.lead_alone(client, &lead).await?;
                (None, Box::new(Here(lead.clone())), None)
            }
            (Role::Compete, None) => return Err(self.needs_client()),
        };
        let setup = FollowerSetup {
            channel: self.channel,
            spec: T::SPEC,
            options: self.options,
            dial,
            liveness,
        };
        let core = ProxyCore::new(Follower::create(setup).await?);
        let proxy = T::proxy(core.clone());
        Ok(Cluster(Arc::new(Inner { proxy, core, lead, role: self.role, port })))
    }

    /// Leads on a port, or joins the leader that is in this process.
    async fn lead(&self, client: Option<T::Options>, cell: &LeadCell) -> Result<u16> {
        let port = self.needed_port()?;
        let Some(client) = client else {
            cell.set(Lead::find(port, &self.channel).ok_or_else(|| self.needs_client())?);
            return Ok(port);
        };
        let server = match &self.server {
            Some(server) => Arc::clone(server),
            None if port == 0 => LocalServer::bind(0, &self.token_or_random()?, &self.options)?,
            None => LocalServer::bind(port, &self.needed_token(port)?, &self.options)?,
        };
        let retry = self.retry_connect;
        cell.set(
            Lead::start::<T>(Some(&server), &self.channel, client, &self.options, retry).await?,
        );
        Ok(server.port())
    }

    /// Leads without a port, or joins the leader that is in this process.
    async fn lead_alone(&self, client: Option<T::Options>, cell: &LeadCell) -> Result<()> {
        let lead = match (Lead::find(0, &self.channel), client) {
            (Some(lead), _) => lead,
            (None, Some(client)) => {
                Lead::start::<T>(None, &self.channel, client, &self.options, false).await?
            }
            (None, None) => return Err(self.needs_client()),
        };
        cell.set(lead);
        Ok(())
    }

    fn to_port(&self, port: u16) -> Result<ToPort> {
        if port == 0 {
            return Err(Error::config(format!(
                "{:?} can't use port 0; give the port of the leader",
                self.role
            )));
        }
        Ok(ToPort { port, token: self.needed_token(port)?, options: self.options.clone() })
    }

    fn needed_port(&self) -> Result<u16> {
        self.port.ok_or_else(|| {
            Error::config(format!("{:?} needs a port; give one with .port(..)", self.role))
        })
    }

    fn needed_token(&self, port: u16) -> Result<Token> {
        match &self.token {
            Some(token) => Token::new(token.clone()),
            None => default_token(port),
        }
    }

    /// A port that is not known yet has no file that could be shared already.
    fn token_or_random(&self) -> Result<Token> {
        match &self.token {
            Some(token) => Token::new(token.clone()),
            None => Err(Error::config("port 0 needs a token; give one with .token(..)")),
        }
    }

    fn needs_client(&self) -> Error {
        Error::new(
            ErrorKind::Config,
            format!("{:?} needs the options of the client; use create(..)", self.role),
        )
        .with_channel(&self.channel)
    }
}

#[cfg(unix)]
fn default_token(port: u16) -> Result<Token> {
    super::token::of_port(port)
}

#[cfg(not(unix))]
fn default_token(_: u16) -> Result<Token> {
    Err(Error::config("there is no default token on this platform; give one with .token(..)"))
}

impl<T: ClusterClient> fmt::Debug for Builder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("channel", &self.channel)
            .field("role", &self.role)
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}
