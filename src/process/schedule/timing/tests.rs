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
