//! Where the followers of the model find the leader: each link goes through a relay.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::relay::Relay;
use crate::{
    error::{Error, ErrorKind, Result},
    follower::{Dial, DialError, Dialed, Dialing, Report, Stream},
    leader::Leader,
    protocol::{FrameReader, pb},
};

/// The leader of the moment, and the links to it by the place of their follower.
pub(super) struct Hub {
    leader: Mutex<Option<Arc<Leader>>>,
    places: Vec<Mutex<Links>>,
}

#[derive(Default)]
pub(super) struct Links {
    /// Counts the followers at this place; an earlier one dials in vain.
    pub(super) life: u64,
    /// The newest at the end. An older one may be left, frozen.
    pub(super) relays: Vec<Arc<Relay>>,
}

impl Hub {
    pub(super) fn new(places: usize) -> Arc<Self> {
        let places = (0..places).map(|_| Mutex::default()).collect();
        Arc::new(Self { leader: Mutex::default(), places })
    }

    pub(super) fn leader(&self) -> MutexGuard<'_, Option<Arc<Leader>>> {
        self.leader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn links(&self, place: usize) -> MutexGuard<'_, Links> {
        let mut links = self.places[place].lock().unwrap_or_else(PoisonError::into_inner);
        links.relays.retain(|relay| relay.is_up());
        links
    }

    fn dial(&self, place: usize, life: u64, channel: &pb::Channel) -> Result<Dialed, DialError> {
        let nobody = || Error::new(ErrorKind::Disconnected, "nobody leads");
        let leader = self.leader().clone().ok_or_else(|| DialError::Unreachable(nobody()))?;
        let mut links = self.links(place);
        if links.life != life || leader.is_closed() {
            return Err(DialError::Unreachable(nobody()));
        }
        let owner = channel.owner[..].try_into().expect("an owner has 16 bytes");
        let (answer, methods) = leader.admit(channel).map_err(DialError::Refused)?;
        let (relay, ours, theirs) = Relay::start();
        links.relays.push(relay);
        leader.serve(theirs, FrameReader::default(), owner, methods);
        Ok(Dialed { stream: Stream::Memory(ours), reader: FrameReader::default(), answer })
    }
}

/// The way of one follower to the leader.
pub(super) struct ModelDial {
    pub(super) hub: Arc<Hub>,
    pub(super) place: usize,
    pub(super) life: u64,
}

impl Dial for ModelDial {
    fn dial<'a>(&'a mut self, channel: &'a pb::Channel, _: Report<'a>) -> Dialing<'a> {
        Box::pin(std::future::ready(self.hub.dial(self.place, self.life, channel)))
    }
}
