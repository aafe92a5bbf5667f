//! The place of a channel on a server.

use std::sync::Arc;

use super::{Lead, LocalServer, Slot, lock};
use crate::error::{Error, Result};

/// A channel's place on a server; dropping it frees the place.
pub(crate) struct Reservation {
    pub(super) server: Arc<LocalServer>,
    pub(super) channel: String,
    /// The place is free already, and may be another's.
    pub(super) failed: bool,
}

impl Reservation {
    /// From now on the leader takes links.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Closed`](crate::ErrorKind::Closed) if the port was handed over meanwhile.
    pub(crate) fn open(&self, leader: Arc<dyn Lead>) -> Result<()> {
        let shared = &self.server.shared;
        let mut slots = lock(&shared.slots);
        if shared.closing.is_cancelled() {
            return Err(shared.handed_over());
        }
        slots.channels.insert(self.channel.clone(), Slot::Ready(leader));
        drop(slots);
        shared.changed.send_modify(|turn| *turn += 1);
        Ok(())
    }

    /// From now on the leader takes no link, but the place is still its own.
    pub(crate) fn hold(&self) {
        self.server.shared.set(&self.channel, Some(Slot::Closing));
    }

    /// All who wait for the channel fail with this error; it can be reserved again.
    pub(crate) fn fail(mut self, error: &Error) {
        self.failed = true;
        let at = {
            let mut slots = lock(&self.server.shared.slots);
            slots.failures += 1;
            slots.failures
        };
        self.server.shared.set(&self.channel, Some(Slot::Failed(at, error.clone())));
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if !self.failed {
            self.server.shared.set(&self.channel, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{error::ErrorKind, options::Options, protocol::handshake::Token};

    #[tokio::test]
    async fn a_place_is_taken_until_its_reservation_is_gone() {
        let token = Token::random().unwrap();
        let server = LocalServer::bind(0, &token, &Options::default()).unwrap();
        let taken = |server: &Arc<LocalServer>| {
            server.reserve("c").err().map(|error| (error.kind(), error.to_string()))
        };
        let first = server.reserve("c").unwrap();
        assert!(taken(&server).unwrap().1.contains("has a leader"));
        first.hold();
        let (kind, text) = taken(&server).unwrap();
        assert!(kind == ErrorKind::ChannelTaken && text.contains("closing"), "{text}");
        first.fail(&Error::closed("it"));
        let second = server.reserve("c").unwrap();
        drop(second);
        assert!(taken(&server).is_none());
    }
}
