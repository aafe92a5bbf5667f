//! When a process that died is started again.

use std::time::Duration;

/// The longest pause of a slot that has failed, where that of the others is not longer.
const LONGEST_WHEN_FAILED: Duration = Duration::from_secs(5 * 60);

/// The rule: at once after a healthy life, else after a pause that doubles.
///
/// The pause grows up to `longest`. A slot whose processes die before they are ready, `crash_loop`
/// in a row, has failed, and its pause grows on. It is never given up, because what makes its
/// processes die (a full disk, an upstream that is down) may end, and nobody should have to be there
/// when it does.
#[derive(Debug, Clone, Copy)]
pub(super) struct RestartPolicy {
    /// First pause after a death that came too soon.
    pub(super) shortest: Duration,
    /// Longest pause of a slot that has not failed.
    pub(super) longest: Duration,
    /// How long a process must have been ready for its death to count as the first.
    pub(super) healthy_after: Duration,
    /// How many deaths in a row before ready make a slot a failed one.
    pub(super) crash_loop: u32,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            shortest: Duration::from_secs(1),
            longest: Duration::from_secs(30),
            healthy_after: Duration::from_secs(10),
            crash_loop: 5,
        }
    }
}

/// The deaths of one slot that followed each other too soon.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    deaths: u32,
    /// How many of the last ones came before the process was ready.
    unready: u32,
}

/// What follows from a death.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pause {
    pub(super) time: Duration,
    /// Whether the slot has failed.
    pub(super) failed: bool,
}

impl Backoff {
    /// Notes a death after `ready_for` of being ready (`None` where it never was) and says how long
    /// to wait before the next start.
    pub(super) fn after_death(
        &mut self,
        policy: &RestartPolicy,
        ready_for: Option<Duration>,
    ) -> Pause {
        self.unready = if ready_for.is_some() { 0 } else { self.unready.saturating_add(1) };
        if ready_for.is_some_and(|time| time >= policy.healthy_after) {
            self.deaths = 0;
            return Pause { time: Duration::ZERO, failed: false };
        }
        let failed = self.unready >= policy.crash_loop;
        let longest = if failed { policy.longest.max(LONGEST_WHEN_FAILED) } else { policy.longest };
        let doubled = 2_u32.checked_pow(self.deaths).and_then(|by| policy.shortest.checked_mul(by));
        self.deaths = self.deaths.saturating_add(1);
        Pause { time: doubled.unwrap_or(longest).min(longest), failed }
    }

    /// How many processes in a row died before they were ready.
    pub(super) fn unready(&self) -> u32 {
        self.unready
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(deaths: impl IntoIterator<Item = Option<u64>>) -> Vec<u64> {
        let (policy, mut backoff) = (RestartPolicy::default(), Backoff::default());
        let pause = |ready_for: Option<u64>| {
            backoff.after_death(&policy, ready_for.map(Duration::from_secs)).time.as_secs()
        };
        deaths.into_iter().map(pause).collect()
    }

    #[test]
    fn early_deaths_double_the_pause_up_to_its_limit() {
        assert_eq!(seconds([Some(0); 8]), [1, 2, 4, 8, 16, 30, 30, 30]);
    }

    #[test]
    fn a_healthy_life_ends_the_series() {
        assert_eq!(seconds([10, 11].map(Some)), [0, 0]);
        assert_eq!(seconds([0, 3, 9, 10, 9, 0].map(Some)), [1, 2, 4, 0, 1, 2]);
    }

    #[test]
    fn one_that_was_never_ready_is_never_healthy() {
        let policy = RestartPolicy { healthy_after: Duration::ZERO, ..RestartPolicy::default() };
        let mut backoff = Backoff::default();
        assert_eq!(backoff.after_death(&policy, None).time, policy.shortest);
        assert_eq!(backoff.after_death(&policy, Some(Duration::ZERO)).time, Duration::ZERO);
    }

    #[test]
    fn a_slot_that_never_gets_ready_fails_and_is_retried_ever_more_slowly() {
        assert_eq!(seconds([None; 11]), [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        let (policy, mut backoff) = (RestartPolicy::default(), Backoff::default());
        let failed = |ready_for: Option<u64>| {
            backoff.after_death(&policy, ready_for.map(Duration::from_secs)).failed
        };
        let deaths = [None, None, Some(1), None, None, None, None, None, None, Some(1)];
        let seen = deaths.map(failed);
        assert_eq!(seen, [false, false, false, false, false, false, false, true, true, false]);
    }

    #[test]
    fn no_number_of_deaths_overflows_or_ends_the_retries() {
        let pauses = seconds(std::iter::repeat_n(Some(0), 100));
        assert!(pauses[6..].iter().all(|pause| *pause == 30));
        let mut backoff = Backoff { deaths: u32::MAX, unready: u32::MAX };
        let policy = RestartPolicy::default();
        assert_eq!(backoff.after_death(&policy, None).time, LONGEST_WHEN_FAILED);
    }
}
