//! Every default of the client plane, with its number and unit.

use std::time::Duration;

use crate::error::{Error, Result};

/// Timings and bounds of a [`Cluster`](crate::Cluster). [`Options::default`] is right for most. No
/// time may be more than a year.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use cluster_client::Options;
///
/// let options = Options { call_timeout: Duration::from_secs(60), ..Options::default() };
/// assert_eq!(options.heartbeat, Duration::from_secs(2));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// How often each end sends a heartbeat. Default 2 s. Must be at most half of `stale_after`.
    pub heartbeat: Duration,
    /// After how long without a received byte subscriptions become `Stale`. Default 5 s. Lower
    /// tells sooner and cries wolf on a busy host.
    pub stale_after: Duration,
    /// After how long without a received byte the link is closed. Default 60 s. A paused or
    /// debugged process comes back to its link within this time.
    pub drop_after: Duration,
    /// How long the handshake may take, on both ends. Default 5 s.
    pub handshake: Duration,
    /// Shortest and longest pause before a connection or a stream is tried again; the pause is
    /// drawn at random below a bound that doubles (full jitter). Default 20 ms and 2 s.
    pub reconnect: (Duration, Duration),
    /// Deadline of a call or publish that gives none, over all tries. Default 10 s.
    pub call_timeout: Duration,
    /// How long `create` waits for a leader or for `#[connect]`. Default 10 s.
    pub create_timeout: Duration,
    /// How long the leader keeps an upstream subscription after its last subscriber left. Default
    /// 10 s.
    pub linger: Duration,
    /// How long the leader keeps publications of an owner that vanished. It covers a restart of
    /// that process. Default 10 s.
    pub grace: Duration,
    /// Most values that a topic keeps for a subscriber that is behind; the newest is always kept.
    /// Default 64.
    pub ring_values: usize,
    /// Most bytes of those values. Default 1 MiB.
    pub ring_bytes: usize,
    /// Largest payload: arguments, a result or a value. On a link that of the leader holds, too.
    /// Default 16 MiB.
    pub max_payload: usize,
    /// Most bytes queued to, or partly received from, one peer; for what is partly received that
    /// of the leader holds. Default 64 MiB.
    pub max_queued: usize,
    /// Most calls in flight on one link; more wait within their deadline. Default 1,024, at most
    /// 1,048,575.
    pub max_in_flight: usize,
    /// Most topics that one follower subscribes to. Default 10,000.
    pub max_subscriptions: usize,
    /// Most topics of a leader, over all its followers, those that linger included. Default 65,536.
    /// Beyond it a new key is refused as `Overloaded`.
    pub max_topics: usize,
    /// Most work items (`deliver = "one"`) that are given to one subscriber and not yet settled.
    /// Default 16. 1 gives the fairest spread, more hides the round trip.
    pub deliver_window: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(2),
            stale_after: Duration::from_secs(5),
            drop_after: Duration::from_secs(60),
            handshake: Duration::from_secs(5),
            reconnect: (Duration::from_millis(20), Duration::from_secs(2)),
            call_timeout: Duration::from_secs(10),
            create_timeout: Duration::from_secs(10),
            linger: Duration::from_secs(10),
            grace: Duration::from_secs(10),
            ring_values: 64,
            ring_bytes: 1 << 20,
            max_payload: 16 << 20,
            max_queued: 64 << 20,
            max_in_flight: 1024,
            max_subscriptions: 10_000,
            max_topics: 65_536,
            deliver_window: 16,
        }
    }
}

/// Longest of all times; a deadline that is farther off than the clock reaches is none.
const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// As many calls as a request's id can tell apart by their place.
pub(crate) const MAX_IN_FLIGHT: usize = (1 << 20) - 1;

impl Options {
    /// Checks that the options make sense together.
    pub(crate) fn check(&self) -> Result<()> {
        let positive = [
            ("heartbeat", self.heartbeat),
            ("stale_after", self.stale_after),
            ("drop_after", self.drop_after),
            ("handshake", self.handshake),
            ("reconnect.0", self.reconnect.0),
            ("call_timeout", self.call_timeout),
            ("create_timeout", self.create_timeout),
        ];
        for (name, value) in positive {
            if value.is_zero() {
                return Err(Error::config(format!("options.{name} is zero; give a duration")));
            }
        }
        let times =
            [("reconnect.1", self.reconnect.1), ("linger", self.linger), ("grace", self.grace)];
        for (name, value) in positive.into_iter().chain(times) {
            if value > YEAR {
                return Err(Error::config(format!("options.{name} is more than a year")));
            }
        }
        let counts = [
            ("ring_values", self.ring_values),
            ("max_payload", self.max_payload),
            ("max_queued", self.max_queued),
            ("max_in_flight", self.max_in_flight),
            ("max_subscriptions", self.max_subscriptions),
            ("max_topics", self.max_topics),
            ("deliver_window", self.deliver_window),
        ];
        for (name, value) in counts {
            if value == 0 {
                return Err(Error::config(format!("options.{name} is zero; give at least 1")));
            }
        }
        if self.max_in_flight > MAX_IN_FLIGHT {
            return Err(Error::config(format!(
                "options.max_in_flight must be at most {MAX_IN_FLIGHT}"
            )));
        }
        if self.heartbeat * 2 > self.stale_after {
            return Err(Error::config(format!(
                "options.heartbeat ({:?}) must be at most half of stale_after ({:?})",
                self.heartbeat, self.stale_after
            )));
        }
        if self.stale_after > self.drop_after {
            return Err(Error::config(format!(
                "options.stale_after ({:?}) must not be more than drop_after ({:?})",
                self.stale_after, self.drop_after
            )));
        }
        if self.reconnect.0 > self.reconnect.1 {
            return Err(Error::config("options.reconnect: the first must not exceed the second"));
        }
        if self.max_payload > u32::MAX as usize / 2 || self.max_payload > self.max_queued {
            return Err(Error::config(
                "options.max_payload must be at most 2 GiB and at most max_queued",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid() {
        Options::default().check().unwrap();
    }

    #[test]
    fn contradictions_are_named() {
        let slow = Options { heartbeat: Duration::from_secs(4), ..Options::default() };
        assert!(slow.check().unwrap_err().to_string().contains("heartbeat"));
        let none = Options { ring_values: 0, ..Options::default() };
        assert!(none.check().unwrap_err().to_string().contains("ring_values"));
    }

    #[test]
    fn numbers_that_mean_never_and_any_are_refused_and_do_not_panic_later() {
        let never = Duration::MAX;
        let endless = [
            ("drop_after", Options { drop_after: never, ..Options::default() }),
            ("call_timeout", Options { call_timeout: never, ..Options::default() }),
            ("heartbeat", Options { heartbeat: never, ..Options::default() }),
            ("grace", Options { grace: never, ..Options::default() }),
            ("max_in_flight", Options { max_in_flight: usize::MAX, ..Options::default() }),
        ];
        for (name, options) in endless {
            assert!(options.check().unwrap_err().to_string().contains(name), "{name}");
        }
    }
}
