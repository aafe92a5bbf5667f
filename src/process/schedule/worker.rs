//! The worker's half: keeps the closures, claims what is offered, and runs it.
//!
//! An offer becomes a task on the runtime that scheduled the job, and this task makes the claim: a
//! worker whose runtime is blocked claims nothing, and its offers go to others.

use std::{
    collections::HashMap,
    fmt,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant, SystemTime},
};

use futures::{FutureExt, future::BoxFuture};
use jiff::Timestamp;
use tokio::{
    runtime,
    sync::{oneshot, watch},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;

use super::{MAX_JOBS, RunOutcome, Schedule, clip};
use crate::{
    error::{Error, Result},
    process::{
        panics,
        reason::{BoxError, chain},
    },
    protocol::pb::{
        ClaimRun, OfferRun, RunCut, RunDeclined, RunFinished, RunSucceeded, RunTimedOut,
        ScheduleJob, UnscheduleJob, control::Body, run_finished::Outcome,
    },
};

/// Most runs of a worker that are offered or run at a time; more are declined.
const MAX_RUNS: usize = 1_024;

/// One run of a job, as its closure gets it.
#[derive(Debug, Clone)]
pub struct Run {
    id: u64,
    job: Arc<str>,
    scheduled: SystemTime,
    attempt: u32,
}

impl Run {
    /// The number of the run. Runs of a cluster have different ones, and later runs higher ones, over
    /// restarts of the master too, unless its host's clock goes back. The attempts of a run have the
    /// same, so that what a run does can be recorded under it.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The name of the job.
    #[must_use]
    pub fn job(&self) -> &str {
        &self.job
    }

    /// When it was due. A run starts later than that by the time that it takes to hand it over, or to
    /// wait for another run, a worker or a master that was stopped.
    #[must_use]
    pub fn scheduled(&self) -> SystemTime {
        self.scheduled
    }

    /// Which attempt at this run it is, from 1. It is 1, unless the job is one to
    /// [`redeliver`](Schedule::redeliver) and a worker died with the run.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }
}

/// A job that this worker takes part in. Dropping it changes nothing: the job is the worker's for as
/// long as the process lives.
#[derive(Debug)]
pub struct Job {
    name: Arc<str>,
    jobs: Weak<Jobs>,
}

impl Job {
    /// The name of the job.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Takes part no more: this worker starts no further run of it. One that runs goes on to its end.
    /// When no worker has the job any more, its timer stops and what waits of it is dropped; the
    /// table keeps its last runs.
    pub fn unregister(self) {
        if let Some(jobs) = self.jobs.upgrade() {
            jobs.remove(&self.name);
        }
    }
}

/// The closure of a job, whatever its types.
pub(in crate::process) type JobFn =
    Box<dyn Fn(Run) -> BoxFuture<'static, Result<(), BoxError>> + Send + Sync>;

/// Erases the types of a closure. It is called when the future is polled, so that a panic of either
/// is the same.
pub(in crate::process) fn job_fn<F, Fut, E>(function: F) -> JobFn
where
    F: Fn(Run) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), E>> + Send + 'static,
    E: Into<BoxError> + 'static,
{
    let function = Arc::new(function);
    Box::new(move |run| {
        let function = Arc::clone(&function);
        async move { (*function)(run).await.map_err(Into::into) }.boxed()
    })
}

/// The jobs of a worker.
pub(in crate::process) struct Jobs {
    /// The way to the master. It never blocks.
    say: Box<dyn Fn(Body) + Send + Sync>,
    stop: watch::Receiver<bool>,
    table: Mutex<Table>,
    runs: TaskTracker,
    cut: CancellationToken,
}

#[derive(Default)]
struct Table {
    jobs: HashMap<Arc<str>, Arc<Registered>>,
    /// Claims without an answer, by offer.
    claims: HashMap<u64, oneshot::Sender<()>>,
}

struct Registered {
    name: Arc<str>,
    function: JobFn,
    limit: Option<Duration>,
    runtime: runtime::Handle,
}

impl fmt::Debug for Jobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jobs").field("runs", &self.runs.len()).finish_non_exhaustive()
    }
}

impl Jobs {
    pub(in crate::process) fn new(
        say: impl Fn(Body) + Send + Sync + 'static,
        stop: watch::Receiver<bool>,
    ) -> Arc<Self> {
        Arc::new(Self {
            say: Box::new(say),
            stop,
            table: Mutex::default(),
            runs: TaskTracker::new(),
            cut: CancellationToken::new(),
        })
    }

    /// Takes a job, and tells the master.
    pub(in crate::process) fn add(
        self: &Arc<Self>,
        schedule: &Schedule,
        function: JobFn,
    ) -> Result<Job> {
        schedule.check()?;
        let name: Arc<str> = schedule.name().into();
        let refuse = |why: &str| Error::config(format!("job `{name}`: {why}"));
        let runtime = runtime::Handle::try_current()
            .map_err(|_| refuse("schedule it inside of the worker's function, on its runtime"))?;
        let mut table = self.table();
        if table.jobs.contains_key(&name) {
            return Err(refuse("this worker has scheduled it already"));
        }
        if table.jobs.len() >= MAX_JOBS {
            return Err(refuse("there are 1,000 jobs already, and no more can be had"));
        }
        let limit = schedule.limit();
        let registered = Registered { name: Arc::clone(&name), function, limit, runtime };
        table.jobs.insert(Arc::clone(&name), Arc::new(registered));
        // Under the lock, so that the master hears of jobs and their ends in order.
        (self.say)(Body::ScheduleJob(ScheduleJob::from(schedule)));
        Ok(Job { name, jobs: Arc::downgrade(self) })
    }

    fn remove(&self, name: &str) {
        let mut table = self.table();
        let removed = table.jobs.remove(name);
        if removed.is_some() {
            (self.say)(Body::UnscheduleJob(UnscheduleJob { name: name.to_owned() }));
        }
        // What the closure holds is the user's, and its end may come back here.
        drop(table);
        drop(removed);
    }

    /// Takes a frame of the master's that is about runs. It is called on the control thread, so it
    /// neither runs user code nor logs.
    pub(in crate::process) fn on_frame(self: &Arc<Self>, body: Body) {
        match body {
            Body::OfferRun(offer) => self.offered(offer),
            Body::RunGranted(granted) => {
                if let Some(claim) = self.table().claims.remove(&granted.offer) {
                    // A task that is gone has given the run back.
                    let _ = claim.send(());
                }
            }
            Body::RunRevoked(revoked) => drop(self.table().claims.remove(&revoked.offer)),
            _ => {}
        }
    }

    fn offered(self: &Arc<Self>, offer: OfferRun) {
        let job = self.table().jobs.get(&*offer.job).cloned();
        match job {
            Some(job) if !self.is_stopping() && self.runs.len() < MAX_RUNS => {
                let runtime = job.runtime.clone();
                let claim = Claim { jobs: Arc::clone(self), offer: offer.offer, is_open: true };
                runtime.spawn(self.runs.track_future(claim.take(job, offer)));
            }
            _ => self.decline(offer.offer),
        }
    }

    async fn run(&self, job: Arc<Registered>, offer: OfferRun) {
        let scheduled = Timestamp::from_millisecond(offer.scheduled).unwrap_or(Timestamp::MAX);
        let run = Run {
            id: offer.run,
            job: Arc::clone(&job.name),
            scheduled: scheduled.into(),
            attempt: offer.attempt,
        };
        let mut report =
            Report { jobs: self, offer: offer.offer, started: Instant::now(), outcome: None };
        let works = async {
            let works = (job.function)(run);
            match job.limit {
                Some(limit) => timeout(limit, works).await.ok(),
                None => Some(works.await),
            }
        };
        let ended = tokio::select! {
            // Nothing starts once it is cut off.
            biased;
            () = self.cut.cancelled() => return,
            ended = AssertUnwindSafe(panics::run_role(works)).catch_unwind() => ended,
        };
        let outcome = match ended {
            Ok(Some(Ok(()))) => RunOutcome::Succeeded,
            Ok(Some(Err(error))) => RunOutcome::Failed(clip(chain(&*error))),
            Ok(None) => RunOutcome::TimedOut,
            Err(panic) => RunOutcome::Panicked(clip(panics::text(&*panic))),
        };
        let took = report.started.elapsed();
        match &outcome {
            RunOutcome::Succeeded => tracing::debug!(?took, "succeeded"),
            other => tracing::error!(?took, "{other}"),
        }
        report.outcome = Some(outcome);
    }

    /// Waits until the runs that were claimed are over. No other is claimed when the worker stops.
    pub(in crate::process) async fn finish(&self) {
        self.runs.close();
        self.runs.wait().await;
    }

    /// Drops what runs.
    pub(in crate::process) fn cut_off(&self) {
        self.cut.cancel();
    }

    /// Whether no run is to start any more.
    fn is_stopping(&self) -> bool {
        *self.stop.borrow() || self.cut.is_cancelled()
    }

    fn decline(&self, offer: u64) {
        (self.say)(Body::RunDeclined(RunDeclined { offer }));
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An offer until its run starts. Whatever becomes of the task, also where its runtime ends first,
/// the master gets the run back: one that it granted and that nobody has would hold up its job for
/// ever.
struct Claim {
    jobs: Arc<Jobs>,
    offer: u64,
    /// Whether the run was neither started nor revoked.
    is_open: bool,
}

impl Claim {
    /// Claims a run, and runs it if it is granted.
    async fn take(mut self, job: Arc<Registered>, offer: OfferRun) {
        let (claim, granted) = oneshot::channel();
        self.jobs.table().claims.insert(self.offer, claim);
        (self.jobs.say)(Body::ClaimRun(ClaimRun { offer: self.offer }));
        // The master answers every claim; without it this process ends.
        if granted.await.is_err() {
            self.is_open = false;
            return;
        }
        let registered = self.jobs.table().jobs.get(&job.name).cloned();
        let is_registered = registered.is_some_and(|now| Arc::ptr_eq(&now, &job));
        if self.jobs.is_stopping() || !is_registered {
            return;
        }
        self.is_open = false;
        let span = tracing::info_span!("schedule", job = %job.name, id = offer.run);
        self.jobs.run(job, offer).instrument(span).await;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.is_open {
            self.jobs.table().claims.remove(&self.offer);
            self.jobs.decline(self.offer);
        }
    }
}

/// Tells the master how a run ended, whatever becomes of the task: a run that is never over would
/// hold up its job for ever.
struct Report<'a> {
    jobs: &'a Jobs,
    offer: u64,
    started: Instant,
    outcome: Option<RunOutcome>,
}

impl Drop for Report<'_> {
    fn drop(&mut self) {
        let outcome = match self.outcome.take() {
            Some(RunOutcome::Succeeded) => Outcome::Succeeded(RunSucceeded {}),
            Some(RunOutcome::Failed(why)) => Outcome::Failed(why),
            Some(RunOutcome::Panicked(why)) => Outcome::Panicked(why),
            Some(RunOutcome::TimedOut) => Outcome::TimedOut(RunTimedOut {}),
            // A future that panics while it is dropped gets here by unwinding.
            _ if std::thread::panicking() => Outcome::Panicked("while it was dropped".into()),
            _ => Outcome::Cut(RunCut {}),
        };
        let took = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        (self.jobs.say)(Body::RunFinished(RunFinished {
            offer: self.offer,
            took,
            outcome: Some(outcome),
        }));
    }
}

#[cfg(test)]
mod tests;
