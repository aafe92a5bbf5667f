//! What must hold of the model at every step, at rest, and when all have left.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};

use super::{
    super::{
        operation::{PLACES, keys},
        publisher::Publisher,
        subscriber::{Hop, Subscriber},
        upstream::{Calls, Item},
    },
    LATER_TICK, World,
};
use crate::spec::Health;

impl World {
    /// Looks how the hops are.
    fn look(&mut self) {
        let now = Instant::now();
        for place in 0..PLACES {
            let (hop, relay) = match self.hub.links(place).relays.last() {
                Some(relay) if relay.is_frozen() => (Hop::Frozen, Arc::as_ptr(relay).addr()),
                Some(relay) if self.is_leaving => (Hop::Leaving, Arc::as_ptr(relay).addr()),
                Some(relay) => (Hop::Up, Arc::as_ptr(relay).addr()),
                None => (Hop::Down, 0),
            };
            let known = &mut self.places[place];
            if (hop, relay) != (known.link.0, known.relay) {
                known.link = (hop, now);
                known.relay = relay;
                known.era_noted = false;
            }
            let over =
                hop == Hop::Down && known.link.1.elapsed() + 2 * LATER_TICK > self.options.linger;
            if over && !std::mem::replace(&mut known.era_noted, true) {
                self.new_era(place..place + 1);
            }
        }
        let upstream = self.upstream.lock();
        for (key, known) in &mut self.streams {
            let hop = if upstream.is_well(*key) { Hop::Up } else { Hop::Down };
            if hop != known.0 {
                *known = (hop, now);
            }
        }
    }

    /// What must hold at every step.
    pub(super) async fn check(&mut self) -> Result<(), String> {
        self.look();
        self.take_answers().await;
        self.check_logs()?;
        if self.subscribers.iter().any(|subscriber| subscriber.check_shown().is_err()) {
            // A bound may pass at this very millisecond.
            sleep(Duration::from_millis(5)).await;
            self.look();
            self.check_logs()?;
            self.subscribers.iter().try_for_each(Subscriber::check_shown)?;
        }
        let mut upstream = self.upstream.lock();
        for subscriber in &self.subscribers {
            let (link, stream) =
                (self.places[subscriber.place].link, self.streams[&subscriber.key]);
            let value = upstream.value(subscriber.key);
            subscriber.check_state(link, stream, self.options.stale_after, value)?;
        }
        if upstream.doubled > 0 {
            return Err("two streams of one key were open at a time".to_owned());
        }
        self.faults.stream_faults = upstream.faults;
        for place in 0..PLACES {
            if self.hub.links(place).relays.iter().any(|relay| !relay.held_still()) {
                return Err("a frozen link carried something".to_owned());
            }
        }
        Ok(())
    }

    fn check_logs(&mut self) -> Result<(), String> {
        for subscriber in &mut self.subscribers {
            let link = self.places[subscriber.place].link.0;
            subscriber.check_log(link, &self.upstream.lock())?;
        }
        for place in &mut self.places {
            self.faults.publish_failures += place.publisher.take_answers();
        }
        let missed = self.subscribers.iter().map(|subscriber| subscriber.missed).sum();
        self.faults.missed = self.faults.missed.max(missed);
        Ok(())
    }

    /// Mends all faults. Then everything must be whole.
    pub(super) async fn rest(&mut self) -> Result<(), String> {
        for place in 0..PLACES {
            self.thaw(place).await;
        }
        self.set_calls(Calls::Work);
        {
            let mut upstream = self.upstream.lock();
            upstream.refuses = false;
            upstream.report(Health::Restored);
        }
        self.subscribers.iter().for_each(|subscriber| subscriber.read(true));
        self.wait(Duration::from_secs(5)).await?;
        for key in keys() {
            // An error of the stream is mended by the next value, and by nothing else.
            self.upstream.lock().give(key, || Item::Value(0));
        }
        // The longest of: linger, grace, the deadline of a call that was slow.
        self.wait(Duration::from_secs(35)).await?;
        self.check_whole()
    }

    fn check_whole(&self) -> Result<(), String> {
        let upstream = self.upstream.lock();
        for (place, known) in self.places.iter().enumerate() {
            if known.link.0 != Hop::Up {
                return Err(format!("the link of place {place} is {:?}", known.link.0));
            }
        }
        let mut demanded = 0;
        for key in keys() {
            let is_demanded = self.subscribers.iter().any(|subscriber| subscriber.key == key);
            let open = upstream.open_streams(key);
            if open != usize::from(is_demanded) {
                return Err(format!("{open} streams of {key:?} are open, wanted: {is_demanded}"));
            }
            if is_demanded && self.streams[&key].0 != Hop::Up {
                return Err(format!("the stream of {key:?} is not well"));
            }
            demanded += usize::from(is_demanded);
        }
        let topics = self.hub.leader().as_ref().map_or(0, |leader| leader.stats().topics);
        if topics != demanded {
            return Err(format!("the leader has {topics} topics instead of {demanded}"));
        }
        Publisher::check(self.places.iter().map(|place| &place.publisher), &upstream.published)
    }

    /// All followers vanish; then nothing may be left of them.
    pub(super) async fn leave(&mut self) -> Result<(), String> {
        self.subscribers.clear();
        for place in 0..PLACES {
            let follower = self.places[place].follower.take();
            let mut links = self.hub.links(place);
            links.life += 1;
            if place > 0 {
                links.relays.iter().for_each(|relay| relay.cut());
            }
            if let Some(follower) = follower {
                follower.follower().close();
            }
        }
        self.wait(Duration::from_secs(25)).await?;
        let stats = self.hub.leader().as_ref().map(|leader| leader.stats()).unwrap_or_default();
        let left = (stats.topics, stats.publications, stats.followers);
        if left != (0, 0, 0) || !self.upstream.lock().published.is_empty() {
            return Err(format!("{left:?} topics, publications and followers are left"));
        }
        Ok(())
    }
}
