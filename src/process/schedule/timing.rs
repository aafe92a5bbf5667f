//! When a job is due. The library parses and computes; this module decides what counts.
//!
//! Intervals run on the monotonic clock, from an anchor, at a fixed rate; no change of the wall clock
//! touches them. Cron patterns run on the wall clock in a zone:
//!
//! - The clock goes forward, or the master was suspended: what was due in between is one late tick.
//! - The clock goes back by up to three hours: nothing runs twice. By more: it was wrong, and the
//!   next time is computed anew.
//! - In a time zone, as the library says: a fixed time that a daylight-saving change leaves out is due
//!   at the first moment after the gap, one that comes twice is due at its first; patterns with `*`
//!   or steps in hours or minutes are due whenever the clock on the wall says so.

use std::time::{Duration, SystemTime};

use croner::{Cron, parser::CronParser};
use jiff::{Timestamp, tz::TimeZone};
use tokio::time::Instant;

/// Shortest interval.
pub(super) const MIN_INTERVAL: Duration = Duration::from_millis(10);

/// Longest interval: a hundred years.
pub(super) const MAX_INTERVAL: Duration = Duration::from_secs(100 * 366 * 86_400);

/// How often the wall clock is looked at: a change of it is noticed that late at the most.
const LOOK: Duration = Duration::from_secs(10);

/// How far the wall clock may go back as a correction of itself.
const BACK: Duration = Duration::from_secs(3 * 3_600);

/// One moment on both clocks.
#[derive(Debug, Clone, Copy)]
pub(in crate::process) struct Now {
    pub(in crate::process) clock: Instant,
    pub(in crate::process) wall: Timestamp,
}

impl Now {
    pub(in crate::process) fn read() -> Self {
        Self { clock: Instant::now(), wall: Timestamp::now() }
    }

    /// What the wall clock showed, or will show, at a moment of the other one.
    fn wall_at(self, moment: Instant) -> Timestamp {
        let wall = match moment.checked_duration_since(self.clock) {
            Some(ahead) => self.wall.checked_add(ahead),
            None => self.wall.checked_sub(self.clock.duration_since(moment)),
        };
        wall.unwrap_or(Timestamp::MAX)
    }

    /// When the wall clock showed this; now, if it has yet to.
    fn clock_at(self, wall: Timestamp) -> Instant {
        let ago = Duration::try_from(self.wall.duration_since(wall)).unwrap_or_default();
        self.clock.checked_sub(ago).unwrap_or(self.clock)
    }
}

/// When a job is due, as it was said.
#[derive(Debug, Clone)]
pub(super) enum Timing {
    /// When the cluster is ready, and then no more.
    Once,
    Every(Duration),
    Cron(CronTiming),
}

#[derive(Debug, Clone)]
pub(super) struct CronTiming {
    /// As it was written.
    pub(super) pattern: String,
    cron: Box<Cron>,
    /// `None` is the zone of the host.
    pub(super) zone: Option<TimeZone>,
}

impl CronTiming {
    /// Reads a pattern, and makes sure that it ever comes.
    pub(super) fn parse(pattern: &str) -> Result<Self, String> {
        let cron = CronParser::new().parse(pattern).map_err(|error| error.to_string())?;
        let timing = Self { pattern: pattern.to_owned(), cron: Box::new(cron), zone: None };
        match timing.after(Timestamp::now()) {
            Some(_) => Ok(timing),
            None => Err("this time never comes".into()),
        }
    }

    pub(super) fn zone_named(name: &str) -> Result<TimeZone, String> {
        TimeZone::get(name).map_err(|_| {
            format!("there is no time zone `{name}`; take a name as `Europe/Berlin` or `UTC`")
        })
    }

    fn zone(&self) -> TimeZone {
        self.zone.clone().unwrap_or_else(TimeZone::system)
    }

    fn after(&self, moment: Timestamp) -> Option<Timestamp> {
        let moment = moment.to_zoned(self.zone());
        self.cron.find_next_occurrence(&moment, false).ok().map(|found| found.timestamp())
    }

    fn last_until(&self, moment: Timestamp) -> Option<Timestamp> {
        let moment = moment.to_zoned(self.zone());
        self.cron.find_previous_occurrence(&moment, true).ok().map(|found| found.timestamp())
    }
}

/// One tick of a timer: a job is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::process) struct Tick {
    /// When it was due. Where several ticks had passed, the last of them.
    pub(in crate::process) scheduled: Timestamp,
    /// How long ago that is.
    pub(in crate::process) late: Duration,
    /// Whether others had passed before it and never came up.
    pub(in crate::process) others_passed: bool,
}

/// What a job is due next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    Never,
    Clock(Instant),
    Wall(Timestamp),
}

/// The timer of one job. It is looked at when [`look`](Self::look) says so, and at any other time.
#[derive(Debug)]
pub(in crate::process) struct Timer {
    timing: Timing,
    until: Option<Timestamp>,
    /// What an interval is counted from.
    anchor: Instant,
    due: Due,
    seen: Timestamp,
    look: Option<Instant>,
}

impl Timer {
    pub(super) fn new(timing: Timing, until: Option<Timestamp>, now: Now) -> Self {
        let mut timer =
            Self { timing, until, anchor: now.clock, due: Due::Never, seen: now.wall, look: None };
        timer.plan(now);
        timer
    }

    /// When to look at the timer again.
    pub(in crate::process) fn look(&self) -> Option<Instant> {
        self.look
    }

    /// What the wall clock will show at the next tick.
    pub(in crate::process) fn next(&self, now: Now) -> Option<SystemTime> {
        match self.due {
            Due::Never => None,
            Due::Clock(due) => Some(now.wall_at(due).into()),
            Due::Wall(due) => Some(due.into()),
        }
    }

    /// The tick that is due, if any; several that have passed are one.
    pub(in crate::process) fn poll(&mut self, now: Now) -> Option<Tick> {
        let seen = std::mem::replace(&mut self.seen, now.wall);
        let went_back = Duration::try_from(seen.duration_since(now.wall)).unwrap_or_default();
        if went_back > BACK && matches!(self.due, Due::Wall(_)) {
            self.plan(now);
        }
        let tick = self.tick(now);
        if tick.is_some() {
            self.plan(now);
        } else {
            self.look = self.next_look(now);
        }
        tick
    }

    fn tick(&self, now: Now) -> Option<Tick> {
        let (first, last, late) = match (self.due, &self.timing) {
            (Due::Clock(due), Timing::Every(every)) if due <= now.clock => {
                // What has passed after the end does not count.
                let end = self.until.map_or(now.clock, |until| now.clock_at(until));
                let last = due + periods(end.saturating_duration_since(due), *every);
                (now.wall_at(due), now.wall_at(last), now.clock.duration_since(last))
            }
            (Due::Wall(due), Timing::Cron(cron)) if due <= now.wall => {
                let mut last = cron.last_until(now.wall).unwrap_or(due).max(due);
                if let Some(until) = self.until {
                    last = last.min(until).max(due);
                }
                (due, last, now.wall.duration_since(last).unsigned_abs())
            }
            _ => return None,
        };
        Some(Tick { scheduled: last, late, others_passed: first != last })
    }

    /// Works out what is due next.
    fn plan(&mut self, now: Now) {
        self.due = match &self.timing {
            Timing::Once => Due::Never,
            Timing::Every(every) => {
                let passed = periods(now.clock.duration_since(self.anchor), *every);
                match self.anchor.checked_add(passed).and_then(|last| last.checked_add(*every)) {
                    Some(next) if self.is_in_time(now.wall_at(next)) => Due::Clock(next),
                    _ => Due::Never,
                }
            }
            Timing::Cron(cron) => match cron.after(now.wall) {
                Some(next) if self.is_in_time(next) => Due::Wall(next),
                _ => Due::Never,
            },
        };
        self.look = self.next_look(now);
    }

    fn is_in_time(&self, moment: Timestamp) -> bool {
        self.until.is_none_or(|until| moment <= until)
    }

    fn next_look(&self, now: Now) -> Option<Instant> {
        match self.due {
            Due::Never => None,
            Due::Clock(due) => Some(due),
            Due::Wall(due) => {
                let left = due.duration_since(now.wall).try_into().unwrap_or(Duration::ZERO);
                Some(now.clock + LOOK.min(left))
            }
        }
    }
}

/// The whole periods in a time.
fn periods(time: Duration, every: Duration) -> Duration {
    let rest = time.as_nanos() % every.as_nanos().max(1);
    time - Duration::new((rest / 1_000_000_000) as u64, (rest % 1_000_000_000) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two clocks that the test turns.
    struct Clocks {
        start: Instant,
        now: Now,
    }

    impl Clocks {
        fn at(wall: &str) -> Self {
            let start = Instant::now();
            Self { start, now: Now { clock: start, wall: wall.parse().unwrap() } }
        }

        /// Time passes.
        fn pass(&mut self, time: Duration) -> Now {
            self.now.clock += time;
            self.now.wall = self.now.wall.checked_add(time).unwrap();
            self.now
        }

        /// Somebody sets the wall clock.
        fn set(&mut self, wall: &str) -> Now {
            self.now.wall = wall.parse().unwrap();
            self.now
        }

        fn passed(&self) -> Duration {
            self.now.clock.duration_since(self.start)
        }

        /// The next ticks, each seen when the timer says that it is to be looked at.
        fn ticks(&mut self, timer: &mut Timer, count: usize) -> Vec<String> {
            let mut ticks = Vec::new();
            while ticks.len() < count {
                let Some(look) = timer.look() else { break };
                self.pass(look.duration_since(self.now.clock));
                if let Some(tick) = timer.poll(self.now) {
                    assert_eq!((tick.late, tick.others_passed), (Duration::ZERO, false));
                    ticks.push(tick.scheduled.to_string());
                }
            }
            ticks
        }
    }

    fn cron(pattern: &str, zone: &str, now: Now) -> Timer {
        let mut timing = CronTiming::parse(pattern).unwrap();
        timing.zone = Some(CronTiming::zone_named(zone).unwrap());
        Timer::new(Timing::Cron(timing), None, now)
    }

    fn every(time: Duration, now: Now) -> Timer {
        Timer::new(Timing::Every(time), None, now)
    }

    const HOUR: Duration = Duration::from_secs(3_600);
    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn an_interval_keeps_its_rate_however_late_it_is_looked_at() {
        let mut clocks = Clocks::at("2026-06-01T12:00:00Z");
        let mut timer = every(Duration::from_secs(10), clocks.now);
        assert_eq!(timer.poll(clocks.now), None);
        assert_eq!(timer.poll(clocks.pass(Duration::from_millis(9_999))), None);
        let tick = timer.poll(clocks.pass(Duration::from_millis(301))).unwrap();
        assert_eq!(tick.scheduled.to_string(), "2026-06-01T12:00:10Z");
        assert_eq!((tick.late, tick.others_passed), (Duration::from_millis(300), false));
        assert_eq!(timer.poll(clocks.now), None);
        assert_eq!(clocks.ticks(&mut timer, 2), ["2026-06-01T12:00:20Z", "2026-06-01T12:00:30Z"]);
        // The master was suspended: what has passed is one tick, the last.
        let tick = timer.poll(clocks.pass(Duration::from_secs(38))).unwrap();
        assert_eq!(tick.scheduled.to_string(), "2026-06-01T12:01:00Z");
        assert_eq!((tick.late, tick.others_passed), (Duration::from_secs(8), true));
        assert_eq!(clocks.ticks(&mut timer, 1), ["2026-06-01T12:01:10Z"]);
    }

    #[test]
    fn an_interval_of_forty_days_is_due_in_forty_days() {
        let mut clocks = Clocks::at("2026-01-01T00:00:00Z");
        let mut timer = every(40 * DAY, clocks.now);
        assert_eq!(clocks.ticks(&mut timer, 1), ["2026-02-10T00:00:00Z"]);
        assert_eq!(clocks.passed(), 40 * DAY);
        let mut century = every(MAX_INTERVAL, clocks.now);
        assert_eq!(clocks.ticks(&mut century, 1).len(), 1);
        assert_eq!(clocks.passed(), 40 * DAY + MAX_INTERVAL);
    }

    #[test]
    fn an_interval_does_not_heed_the_wall_clock() {
        let mut clocks = Clocks::at("2026-06-01T12:00:00Z");
        let mut timer = every(HOUR, clocks.now);
        for set in ["2030-01-01T00:00:00Z", "1990-01-01T00:00:00Z"] {
            assert_eq!(timer.poll(clocks.set(set)), None);
            assert_eq!(timer.poll(clocks.pass(HOUR / 2)), None);
            assert!(timer.poll(clocks.pass(HOUR / 2)).is_some());
        }
    }

    #[test]
    fn cron_runs_on_the_wall_clock_with_or_without_seconds() {
        let mut clocks = Clocks::at("2026-06-01T12:00:00.500Z");
        let mut seconds = cron("*/20 * * * * *", "UTC", clocks.now);
        let ticks = ["2026-06-01T12:00:20Z", "2026-06-01T12:00:40Z", "2026-06-01T12:01:00Z"];
        assert_eq!(clocks.ticks(&mut seconds, 3), ticks);
        let mut minutes = cron("*/5 * * * *", "UTC", clocks.now);
        let ticks = ["2026-06-01T12:05:00Z", "2026-06-01T12:10:00Z"];
        assert_eq!(clocks.ticks(&mut minutes, 2), ticks);
        let mut daily = cron("@daily", "Asia/Kolkata", clocks.now);
        assert_eq!(clocks.ticks(&mut daily, 1), ["2026-06-01T18:30:00Z"]);
    }

    #[test]
    fn the_hour_that_daylight_saving_leaves_out() {
        // In Berlin, 2:00 to 3:00 does not exist on 2027-03-28; summer time is UTC+2.
        let at = |pattern: &str, count| {
            let mut clocks = Clocks::at("2027-03-27T12:00:00Z");
            let mut timer = cron(pattern, "Europe/Berlin", clocks.now);
            clocks.ticks(&mut timer, count)
        };
        // A fixed time is made up for at the first moment after the gap.
        assert_eq!(at("0 30 2 * * *", 2), ["2027-03-28T01:00:00Z", "2027-03-29T00:30:00Z"]);
        assert_eq!(at("0 0 3 * * *", 2), ["2027-03-28T01:00:00Z", "2027-03-29T01:00:00Z"]);
        // What repeats goes on with the clock on the wall.
        let around = at("0 30 * * * *", 15);
        assert_eq!(
            around[12..],
            ["2027-03-28T00:30:00Z", "2027-03-28T01:30:00Z", "2027-03-28T02:30:00Z"]
        );
    }

    #[test]
    fn the_hour_that_comes_twice() {
        // In Berlin, 2:00 to 3:00 comes twice on 2027-10-31: in UTC, at 0:00 and at 1:00.
        let at = |pattern: &str, count| {
            let mut clocks = Clocks::at("2027-10-30T23:00:00Z");
            let mut timer = cron(pattern, "Europe/Berlin", clocks.now);
            clocks.ticks(&mut timer, count)
        };
        assert_eq!(at("0 30 2 * * *", 2), ["2027-10-31T00:30:00Z", "2027-11-01T01:30:00Z"]);
        let twice = [
            "2027-10-30T23:30:00Z",
            "2027-10-31T00:30:00Z",
            "2027-10-31T01:30:00Z",
            "2027-10-31T02:30:00Z",
        ];
        assert_eq!(at("0 30 * * * *", 4), twice);
    }

    #[test]
    fn a_clock_that_is_put_forward_passes_ticks_as_one() {
        let mut clocks = Clocks::at("2026-06-01T12:00:00Z");
        let mut timer = cron("0 0 * * * *", "UTC", clocks.now);
        let tick = timer.poll(clocks.set("2026-06-01T18:20:00Z")).unwrap();
        assert_eq!(tick.scheduled.to_string(), "2026-06-01T18:00:00Z");
        assert_eq!((tick.late, tick.others_passed), (HOUR / 3, true));
        assert_eq!(clocks.ticks(&mut timer, 1), ["2026-06-01T19:00:00Z"]);
    }

    #[test]
    fn a_clock_that_is_put_back_a_little_repeats_nothing() {
        let mut clocks = Clocks::at("2026-06-01T12:59:50Z");
        let mut timer = cron("0 0 * * * *", "UTC", clocks.now);
        assert_eq!(clocks.ticks(&mut timer, 1), ["2026-06-01T13:00:00Z"]);
        assert_eq!(timer.poll(clocks.set("2026-06-01T11:30:00Z")), None);
        assert_eq!(clocks.ticks(&mut timer, 1), ["2026-06-01T14:00:00Z"]);
        assert_eq!(clocks.passed(), 2 * HOUR + HOUR / 2 + Duration::from_secs(10));
    }

    #[test]
    fn a_clock_that_was_wrong_by_years_does_not_stop_a_job_for_years() {
        let mut clocks = Clocks::at("2036-06-01T12:00:00Z");
        let mut timer = cron("0 0 * * * *", "UTC", clocks.now);
        assert_eq!(timer.poll(clocks.set("2026-06-01T12:10:00Z")), None);
        assert_eq!(clocks.ticks(&mut timer, 1), ["2026-06-01T13:00:00Z"]);
    }

    #[test]
    fn a_change_of_the_clock_is_noticed_while_nothing_is_due() {
        let mut clocks = Clocks::at("2026-06-01T00:00:00Z");
        let timer = cron("0 0 12 * * *", "UTC", clocks.now);
        assert_eq!(timer.look(), Some(clocks.now.clock + LOOK));
        assert_eq!(
            timer.next(clocks.pass(HOUR)),
            Some("2026-06-01T12:00:00Z".parse::<Timestamp>().unwrap().into())
        );
    }

    #[test]
    fn nothing_is_due_after_the_end() {
        let end = Some("2026-06-01T12:00:30Z".parse().unwrap());
        let mut clocks = Clocks::at("2026-06-01T12:00:00Z");
        let mut minutely = CronTiming::parse("*/10 * * * * *").unwrap();
        minutely.zone = Some(TimeZone::UTC);
        let mut timer = Timer::new(Timing::Cron(minutely), end, clocks.now);
        assert_eq!(clocks.ticks(&mut timer, 10).len(), 3);
        assert_eq!((timer.look(), timer.next(clocks.now)), (None, None));

        let mut clocks = Clocks::at("2026-06-01T12:00:00Z");
        let mut timer = Timer::new(Timing::Every(Duration::from_secs(12)), end, clocks.now);
        assert_eq!(clocks.ticks(&mut timer, 10).len(), 2);

        // The master slept over the end: the last tick before it counts.
        let mut clocks = Clocks::at("2026-06-01T12:00:00Z");
        let mut timer = Timer::new(Timing::Every(Duration::from_secs(12)), end, clocks.now);
        let tick = timer.poll(clocks.pass(HOUR)).unwrap();
        assert_eq!(tick.scheduled.to_string(), "2026-06-01T12:00:24Z");
        assert_eq!(timer.look(), None);
    }

    #[test]
    fn a_job_without_times_has_none() {
        let clocks = Clocks::at("2026-06-01T12:00:00Z");
        let mut timer = Timer::new(Timing::Once, None, clocks.now);
        assert_eq!((timer.look(), timer.poll(clocks.now)), (None, None));
    }
}
