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
mod tests;
