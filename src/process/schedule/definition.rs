//! [`Schedule`]: the description of a job, as the user writes it and as it travels.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;

use super::timing::{CronTiming, MAX_INTERVAL, MIN_INTERVAL, Now, Timer, Timing};
use crate::{
    error::{Error, Result},
    process::words::lasting,
    protocol::pb::{self, schedule_job},
};

/// Longest name of a job and of an environment, and longest pattern, in bytes.
const MAX_NAME: usize = 128;
const MAX_PATTERN: usize = 256;

/// Most environments of a job.
const MAX_ENVIRONMENTS: usize = 32;

/// A job: its name, when it is due, and how it runs. [`Worker::schedule`](crate::Worker::schedule)
/// takes it.
///
/// The name is one job in the whole cluster, however many workers schedule it. By default each run
/// is in one worker, at random; a run that is due while the one before is not over is skipped, and
/// one that can't start within a minute is missed.
///
/// **Interval.** At a fixed rate, counted from when the cluster was ready, or from when the job was
/// scheduled first where that is later. Changes of the host's clock do not matter.
///
/// **Cron.** Five fields (minute, hour, day of month, month, day of week), or six, with seconds
/// first, or a nickname as `@daily`. In the zone of the master's host, unless
/// [`time_zone`](Self::time_zone) says otherwise. At a change to daylight-saving time and back:
///
/// | pattern | the hour is left out | the hour comes twice |
/// | --- | --- | --- |
/// | a fixed time, `30 2 * * *` | runs at the first moment after the gap | runs once, in the first |
/// | with `*` or steps in its minutes or hours, `*/15 * * * *` | does not run in it | runs in both |
///
/// When the clock of the host is put forward, what was due in between is a single late run. When it
/// is put back by up to three hours, nothing runs twice; by more, the times after it count.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use cluster_client::{Misfire, Schedule};
///
/// # fn main() -> cluster_client::Result<()> {
/// let report = Schedule::cron("report", "0 0 3 * * *")?
///     .time_zone("Europe/Berlin")?
///     .timeout(Duration::from_secs(600))
///     .misfire(Misfire::Once);
/// let sweep = Schedule::every("sweep", Duration::from_secs(30)).on_all();
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a job runs when `Worker::schedule` has it"]
pub struct Schedule {
    name: String,
    timing: Timing,
    on_all: bool,
    immediate: bool,
    disabled: bool,
    only_in: Vec<String>,
    overlap: Overlap,
    misfire: Misfire,
    redeliver: bool,
    timeout: Option<Duration>,
    until: Option<SystemTime>,
}

/// What becomes of a run that is due while the one before is not over. For a job on all workers it
/// is judged for each worker by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Overlap {
    /// It is skipped, and counted. There is never more than one run at a time.
    #[default]
    Skip,
    /// It waits for the one before. Up to 100 wait; more are skipped.
    Queue,
    /// It runs beside it. Up to 100 run at a time; more are skipped.
    Allow,
}

/// What becomes of a run that could not start within a minute of its time: the master was stopped
/// or the host suspended, the clock was put forward, or no worker was there to take it. Several such
/// runs of a job are never made up for one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Misfire {
    /// It is missed, and counted.
    #[default]
    Skip,
    /// It runs as soon as it can, once, whatever number of runs was missed. On all workers, it runs
    /// on those that are there.
    Once,
}

impl Schedule {
    fn new(name: String, timing: Timing) -> Self {
        Self {
            name,
            timing,
            on_all: false,
            immediate: false,
            disabled: false,
            only_in: Vec::new(),
            overlap: Overlap::default(),
            misfire: Misfire::default(),
            redeliver: false,
            timeout: None,
            until: None,
        }
    }

    /// A job that is due at the times of a cron pattern. See [`Schedule`] for what patterns mean.
    ///
    /// # Errors
    ///
    /// Where the pattern is none, or its time never comes, as that of a 30th of February; the error
    /// names the job. Return it from the worker's function, and it ends the start.
    pub fn cron(name: impl Into<String>, pattern: impl AsRef<str>) -> Result<Self> {
        let (name, pattern) = (name.into(), pattern.as_ref());
        let refuse =
            |why: &str| Error::config(format!("job `{name}`: the cron pattern `{pattern}`: {why}"));
        if pattern.len() > MAX_PATTERN {
            return Err(refuse(&format!("it is longer than {MAX_PATTERN} bytes")));
        }
        let timing = CronTiming::parse(pattern).map_err(|why| refuse(&why))?;
        Ok(Self::new(name, Timing::Cron(timing)))
    }

    /// A job that is due at a fixed rate: from 10 ms to a hundred years. The rate does not depend on
    /// how long a run takes. The first run is one interval after the cluster is ready, unless it is
    /// [`immediate`](Self::immediate).
    pub fn every(name: impl Into<String>, interval: Duration) -> Self {
        Self::new(name.into(), Timing::Every(interval))
    }

    /// A job that runs once, when the cluster is ready.
    pub fn once(name: impl Into<String>) -> Self {
        Self::new(name.into(), Timing::Once)
    }

    /// The time zone of a cron pattern, by its IANA name. Default: the zone of the master's host.
    ///
    /// # Errors
    ///
    /// Where there is no such zone, or the job has no cron pattern.
    pub fn time_zone(mut self, name: impl AsRef<str>) -> Result<Self> {
        let refuse = |why: String| Error::config(format!("job `{}`: {why}", self.name));
        let zone = CronTiming::zone_named(name.as_ref()).map_err(refuse)?;
        match &mut self.timing {
            Timing::Cron(cron) => cron.zone = Some(zone),
            Timing::Once | Timing::Every(_) => {
                return Err(refuse("only a cron pattern has a time zone".into()));
            }
        }
        Ok(self)
    }

    /// Runs on all workers that are ready when it is due. Default: on one of them.
    pub fn on_all(mut self) -> Self {
        self.on_all = true;
        self
    }

    /// Runs also when the cluster is ready, before its first time. That is once in the life of a
    /// master: no restart of a process and no reload brings it again.
    pub fn immediate(mut self) -> Self {
        self.immediate = true;
        self
    }

    /// Never due, if `true`. It can still be run by hand.
    pub fn disabled(mut self, disabled: bool) -> Self {
        self.disabled = disabled;
        self
    }

    /// Due in these environments alone; the master's own is said by
    /// [`MasterBuilder::environment`](crate::MasterBuilder::environment). Elsewhere, or where the
    /// master has none, the job is as if [disabled](Self::disabled). Default: due in all. At most 32.
    pub fn only_in<I, S>(mut self, environments: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        self.only_in = environments.into_iter().map(Into::into).collect();
        self
    }

    /// What becomes of a run that is due while the one before is not over. Default:
    /// [`Overlap::Skip`].
    pub fn overlap(mut self, overlap: Overlap) -> Self {
        self.overlap = overlap;
        self
    }

    /// What becomes of a run that could not start within a minute. Default: [`Misfire::Skip`].
    pub fn misfire(mut self, misfire: Misfire) -> Self {
        self.misfire = misfire;
        self
    }

    /// How long a run may take; then its future is dropped. Default: without a limit.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }

    /// Offers a run to another worker where the one that had it died: *at least once* in place of
    /// *at most once*. Up to five attempts; the [`Run`](super::Run) says which one it is. Of two
    /// attempts both may have done the work; no setting makes it exactly once.
    pub fn redeliver(mut self) -> Self {
        self.redeliver = true;
        self
    }

    /// The end: no time after it counts.
    pub fn until(mut self, end: SystemTime) -> Self {
        self.until = Some(end);
        self
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn limit(&self) -> Option<Duration> {
        self.timeout
    }

    pub(in crate::process) fn is_on_all(&self) -> bool {
        self.on_all
    }

    /// Whether there is a run when the cluster is ready.
    pub(in crate::process) fn is_immediate(&self) -> bool {
        self.immediate || matches!(self.timing, Timing::Once)
    }

    pub(in crate::process) fn is_due_in(&self, environment: Option<&str>) -> bool {
        let here = |only: &String| Some(only.as_str()) == environment;
        !self.disabled && (self.only_in.is_empty() || self.only_in.iter().any(here))
    }

    pub(in crate::process) fn overlaps(&self) -> Overlap {
        self.overlap
    }

    pub(in crate::process) fn misfires(&self) -> Misfire {
        self.misfire
    }

    pub(in crate::process) fn redelivers(&self) -> bool {
        self.redeliver
    }

    /// A timer that starts now.
    pub(in crate::process) fn timer(&self, now: Now) -> Timer {
        let until = self.until.and_then(|until| Timestamp::try_from(until).ok());
        Timer::new(self.timing.clone(), until, now)
    }

    /// When it is due, for people.
    pub(in crate::process) fn timing_text(&self) -> String {
        match &self.timing {
            Timing::Once => "once".into(),
            Timing::Every(every) => format!("every {every:?}"),
            Timing::Cron(cron) => {
                let zone = cron.zone.as_ref().and_then(|zone| zone.iana_name());
                format!("{} {}", cron.pattern, zone.unwrap_or("(local time)"))
            }
        }
    }

    /// Checks all that the builder could not refuse at once.
    pub(super) fn check(&self) -> Result<()> {
        let refuse = |why: String| Err(Error::config(format!("job `{}`: {why}", self.name)));
        if self.name.is_empty() || self.name.len() > MAX_NAME {
            return refuse(format!("its name must have 1 to {MAX_NAME} bytes"));
        }
        if let Timing::Every(every) = self.timing
            && !(MIN_INTERVAL..=MAX_INTERVAL).contains(&every)
        {
            let every = lasting(every);
            return refuse(format!("the interval {every} is not from 10 ms to a hundred years"));
        }
        if self.only_in.len() > MAX_ENVIRONMENTS {
            return refuse(format!("it has more than {MAX_ENVIRONMENTS} environments"));
        }
        if self.only_in.iter().any(|name| name.is_empty() || name.len() > MAX_NAME) {
            return refuse(format!("an environment must have 1 to {MAX_NAME} bytes"));
        }
        if self.timeout.is_some_and(|limit| limit < Duration::from_millis(1)) {
            return refuse("its timeout is less than a millisecond".into());
        }
        if self.redeliver && self.on_all {
            return refuse("`redeliver` has no other worker to turn to where all run it".into());
        }
        Ok(())
    }
}

impl From<&Schedule> for pb::ScheduleJob {
    fn from(schedule: &Schedule) -> Self {
        let timing = match &schedule.timing {
            Timing::Once => None,
            Timing::Every(every) => Some(schedule_job::Timing::Every(millis(*every))),
            Timing::Cron(cron) => Some(schedule_job::Timing::Cron(pb::CronTiming {
                pattern: cron.pattern.clone(),
                zone: cron.zone.as_ref().and_then(|zone| zone.iana_name()).unwrap_or("").into(),
            })),
        };
        let overlap = match schedule.overlap {
            Overlap::Skip => schedule_job::Overlap::Skip,
            Overlap::Queue => schedule_job::Overlap::Queue,
            Overlap::Allow => schedule_job::Overlap::Allow,
        };
        let misfire = match schedule.misfire {
            Misfire::Skip => schedule_job::Misfire::Drop,
            Misfire::Once => schedule_job::Misfire::Once,
        };
        let until = schedule.until.and_then(|until| Timestamp::try_from(until).ok());
        Self {
            name: schedule.name.clone(),
            timing,
            on_all: schedule.on_all,
            immediate: schedule.immediate,
            disabled: schedule.disabled,
            only_in: schedule.only_in.clone(),
            overlap: overlap.into(),
            misfire: misfire.into(),
            redeliver: schedule.redeliver,
            timeout: schedule.timeout.map_or(0, millis),
            until: until.map(Timestamp::as_millisecond),
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl TryFrom<&pb::ScheduleJob> for Schedule {
    type Error = Error;

    fn try_from(said: &pb::ScheduleJob) -> Result<Self> {
        let name = said.name.clone();
        let mut schedule = match &said.timing {
            None => Self::once(name),
            Some(schedule_job::Timing::Every(every)) => {
                Self::every(name, Duration::from_millis(*every))
            }
            Some(schedule_job::Timing::Cron(cron)) => {
                let schedule = Self::cron(name, &cron.pattern)?;
                if cron.zone.is_empty() { schedule } else { schedule.time_zone(&cron.zone)? }
            }
        };
        schedule.on_all = said.on_all;
        schedule.immediate = said.immediate;
        schedule.disabled = said.disabled;
        schedule.only_in = said.only_in.clone();
        schedule.overlap = match said.overlap() {
            schedule_job::Overlap::Skip => Overlap::Skip,
            schedule_job::Overlap::Queue => Overlap::Queue,
            schedule_job::Overlap::Allow => Overlap::Allow,
        };
        schedule.misfire = match said.misfire() {
            schedule_job::Misfire::Drop => Misfire::Skip,
            schedule_job::Misfire::Once => Misfire::Once,
        };
        schedule.redeliver = said.redeliver;
        schedule.timeout = (said.timeout > 0).then(|| Duration::from_millis(said.timeout));
        schedule.until = said
            .until
            .map(|until| Timestamp::from_millisecond(until).unwrap_or(Timestamp::MAX).into());
        schedule.check()?;
        Ok(schedule)
    }
}

#[cfg(test)]
mod tests;
