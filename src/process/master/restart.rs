//! When a process that died is started again.

use std::time::Duration;

/// The rule: at once after a healthy life, else after a pause that doubles.
///
/// The pause is also the limit of a crash loop: it grows up to `longest` and stays there. A place
/// is never given up, because what made its process die (a full disk, an upstream that is down) may
/// end, and nobody should have to be there when it does.
#[derive(Debug, Clone, Copy)]
pub(super) struct RestartPolicy {
    /// First pause after a death that came too soon.
    pub(super) shortest: Duration,
    /// Longest pause.
    pub(super) longest: Duration,
    /// How long a process must have been ready for its death to count as the first.
    pub(super) healthy_after: Duration,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            shortest: Duration::from_secs(1),
            longest: Duration::from_secs(30),
            healthy_after: Duration::from_secs(10),
        }
    }
}

/// The deaths of one place that followed each other too soon.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    deaths: u32,
}

impl Backoff {
    /// Notes a death after `ready_for` of being ready (`None` where it never was) and says how long
    /// to wait before the next start.
    pub(super) fn after_death(
        &mut self,
        policy: &RestartPolicy,
        ready_for: Option<Duration>,
    ) -> Duration {
        if ready_for.is_some_and(|time| time >= policy.healthy_after) {
            self.deaths = 0;
            return Duration::ZERO;
        }
        let doubled = 2_u32.checked_pow(self.deaths).and_then(|by| policy.shortest.checked_mul(by));
        self.deaths = self.deaths.saturating_add(1);
        doubled.unwrap_or(policy.longest).min(policy.longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(deaths: impl IntoIterator<Item = u64>) -> Vec<u64> {
        let (policy, mut backoff) = (RestartPolicy::default(), Backoff::default());
        let pause = |ready_for| {
            backoff.after_death(&policy, Some(Duration::from_secs(ready_for))).as_secs()
        };
        deaths.into_iter().map(pause).collect()
    }

    #[test]
    fn early_deaths_double_the_pause_up_to_its_limit() {
        assert_eq!(seconds([0; 8]), [1, 2, 4, 8, 16, 30, 30, 30]);
    }

    #[test]
    fn a_healthy_life_ends_the_series() {
        assert_eq!(seconds([10, 11]), [0, 0]);
        assert_eq!(seconds([0, 3, 9, 10, 9, 0]), [1, 2, 4, 0, 1, 2]);
    }

    #[test]
    fn one_that_was_never_ready_is_never_healthy() {
        let policy = RestartPolicy { healthy_after: Duration::ZERO, ..RestartPolicy::default() };
        let mut backoff = Backoff::default();
        assert_eq!(backoff.after_death(&policy, None), policy.shortest);
        assert_eq!(backoff.after_death(&policy, Some(Duration::ZERO)), Duration::ZERO);
    }

    #[test]
    fn no_number_of_deaths_overflows_or_ends_the_retries() {
        let pauses = seconds(std::iter::repeat_n(0, 100));
        assert!(pauses[6..].iter().all(|pause| *pause == 30));
        let mut backoff = Backoff { deaths: u32::MAX };
        let policy = RestartPolicy::default();
        assert_eq!(backoff.after_death(&policy, None), policy.longest);
    }
}
