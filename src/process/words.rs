//! Counts and times as people say them.

use std::time::Duration;

/// A count with its noun: `1 worker`, `2 workers`.
pub(super) fn counted(count: impl Into<u64>, noun: &str) -> String {
    match count.into() {
        1 => format!("1 {noun}"),
        count => format!("{count} {noun}s"),
    }
}

/// How long something takes: `300ms`, `30s`. None at all has the unit of seconds, too.
pub(super) fn lasting(time: Duration) -> String {
    if time.is_zero() { "0s".to_owned() } else { format!("{time:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_no_plural_and_nothing_is_no_nanosecond() {
        assert_eq!(
            [0_u32, 1, 2].map(|count| counted(count, "topic")).concat(),
            "0 topics1 topic2 topics"
        );
        let times = [Duration::ZERO, Duration::from_millis(1500), Duration::from_secs(76)];
        assert_eq!(times.map(lasting), ["0s", "1.5s", "76s"]);
    }
}
