//! Pauses between tries: drawn at random below a bound that doubles ("full jitter").

use std::time::Duration;

/// The next pause of a series of failed tries.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    shortest: Duration,
    longest: Duration,
    bound: Duration,
}

impl Backoff {
    pub(crate) fn new((shortest, longest): (Duration, Duration)) -> Self {
        Self { shortest, longest, bound: shortest }
    }

    /// A try succeeded: the series starts anew.
    pub(crate) fn reset(&mut self) {
        self.bound = self.shortest;
    }

    /// The pause before the next try: between half of `shortest` and the bound, so that a series
    /// of lucky draws is no busy loop.
    pub(crate) fn next_pause(&mut self) -> Duration {
        let pause = self.bound.mul_f64(fastrand::f64()).max(self.shortest / 2);
        self.bound = (self.bound * 2).min(self.longest);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_stay_within_their_bounds_and_reset() {
        let (shortest, longest) = (Duration::from_millis(20), Duration::from_secs(2));
        let mut backoff = Backoff::new((shortest, longest));
        for _ in 0..100 {
            let pause = backoff.next_pause();
            assert!(pause >= shortest / 2 && pause <= longest, "{pause:?}");
        }
        backoff.reset();
        assert!(backoff.next_pause() <= shortest);
    }
}
