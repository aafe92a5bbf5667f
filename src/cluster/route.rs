//! How a follower finds its leader: over a port, in this process, or by election.

use std::sync::Arc;

use super::{
    ClusterClient,
    lead::{Lead, LeadCell},
};
use crate::{
    error::{Error, ErrorKind},
    follower::{Dial, DialError, Dialed, Dialing, Report, Stream, register, register_here},
    options::Options,
    protocol::{handshake::Token, pb},
    server::LocalServer,
};

/// To whoever leads on a port.
pub(super) struct ToPort {
    pub(super) port: u16,
    pub(super) token: Token,
    pub(super) options: Options,
}

impl ToPort {
    async fn register(
        &self,
        channel: &pb::Channel,
        report: Report<'_>,
    ) -> Result<Dialed, DialError> {
        let purpose = Some(pb::register_body::Purpose::Channel(channel.clone()));
        let body = pb::RegisterBody { purpose, pid: std::process::id() };
        let patience = self.options.handshake;
        let (stream, reader, answer) =
            register(self.port, &self.token, &body, patience, report).await?;
        Ok(Dialed { stream: Stream::Tcp(stream), reader, answer })
    }
}

impl Dial for ToPort {
    fn dial<'a>(&'a mut self, channel: &'a pb::Channel, report: Report<'a>) -> Dialing<'a> {
        Box::pin(self.register(channel, report))
    }
}

/// To a leader in this process.
pub(super) struct Here(pub(super) LeadCell);

impl Dial for Here {
    fn dial<'a>(&'a mut self, channel: &'a pb::Channel, _: Report<'a>) -> Dialing<'a> {
        let dialed = match self.0.get() {
            Some(lead) => dial_here(&lead, channel),
            None => Err(DialError::Refused(Error::closed("the leader"))),
        };
        Box::pin(std::future::ready(dialed))
    }
}

fn dial_here(lead: &Lead, channel: &pb::Channel) -> Result<Dialed, DialError> {
    if !lead.leader().leads() {
        return Err(DialError::Refused(Error::closed("the leader")));
    }
    register_here(lead.leader(), channel).map_err(DialError::Refused)
}

/// Whoever binds the port leads. Only a port that nobody listens on is bound: a frozen owner keeps
/// the lead.
pub(super) struct Compete<T: ClusterClient> {
    pub(super) to_port: ToPort,
    pub(super) client: T::Options,
    pub(super) lead: LeadCell,
}

impl<T: ClusterClient> Compete<T> {
    async fn find(
        &mut self,
        channel: &pb::Channel,
        report: Report<'_>,
    ) -> Result<Dialed, DialError> {
        if self.lead.leads() || LocalServer::find(self.to_port.port).is_some() {
            return self.lead_here(channel).await;
        }
        self.lead.clear();
        match self.to_port.register(channel, report).await {
            Err(DialError::Unreachable(_)) => self.lead_here(channel).await,
            dialed => dialed,
        }
    }

    /// Leads the channel in this process, if it has or gets the port.
    async fn lead_here(&mut self, channel: &pb::Channel) -> Result<Dialed, DialError> {
        let ToPort { port, token, options } = &self.to_port;
        let server =
            LocalServer::bind(*port, token, options).map_err(|error| match error.kind() {
                // Another process was faster: it is found at the next try.
                ErrorKind::PortBusy => DialError::Unreachable(elsewhere(*port)),
                _ => DialError::Refused(error),
            })?;
        let lead = match Lead::find(*port, &channel.name) {
            Some(lead) => lead,
            None => {
                let client = self.client.clone();
                Lead::start::<T>(Some(&server), &channel.name, client, options, false)
                    .await
                    .map_err(|error| match error.kind() {
                        // Another client of this process is about to lead it.
                        ErrorKind::ChannelTaken => DialError::Unreachable(elsewhere(*port)),
                        _ => DialError::Refused(error),
                    })?
            }
        };
        self.lead.set(Arc::clone(&lead));
        dial_here(&lead, channel)
    }
}

/// Somebody else has won, which is not an error to show to a user as such.
fn elsewhere(port: u16) -> Error {
    let reason = format!("another one is about to lead on port {port}");
    Error::new(ErrorKind::Disconnected, reason)
}

impl<T: ClusterClient> Dial for Compete<T> {
    fn dial<'a>(&'a mut self, channel: &'a pb::Channel, report: Report<'a>) -> Dialing<'a> {
        Box::pin(self.find(channel, report))
    }
}
