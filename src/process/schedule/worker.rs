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
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use tokio::{sync::mpsc, time::sleep};

    use super::*;
    use crate::{
        error::ErrorKind,
        protocol::pb::{RunGranted, RunRevoked},
    };

    /// A worker's jobs, and the master's end of its link.
    struct Worker {
        jobs: Arc<Jobs>,
        said: mpsc::UnboundedReceiver<Body>,
        stop: watch::Sender<bool>,
        begun: Arc<AtomicU32>,
    }

    impl Worker {
        /// One that has a job, whose runs count themselves and then do this.
        fn with<F, Fut>(schedule: Schedule, works: F) -> Self
        where
            F: Fn(Run) -> Fut + Send + Sync + 'static,
            Fut: Future<Output = Result<(), Error>> + Send + 'static,
        {
            let (says, said) = mpsc::unbounded_channel();
            let (stop, stopped) = watch::channel(false);
            let jobs = Jobs::new(move |body| drop(says.send(body)), stopped);
            let begun = Arc::new(AtomicU32::new(0));
            let counts = Arc::clone(&begun);
            let function = move |run| {
                counts.fetch_add(1, Relaxed);
                works(run)
            };
            let mut worker = Self { jobs, said, stop, begun };
            worker.jobs.add(&schedule, job_fn(function)).unwrap();
            assert!(matches!(worker.said.try_recv(), Ok(Body::ScheduleJob(_))));
            worker
        }

        fn offer(&self, offer: u64) {
            self.offer_of("job", offer);
        }

        fn offer_of(&self, job: &str, offer: u64) {
            let run = offer + 1_000;
            let job = job.to_owned();
            let offer = OfferRun { offer, job, run, scheduled: 1_800_000_000_000, attempt: 2 };
            self.jobs.on_frame(Body::OfferRun(offer));
        }

        fn grant(&self, offer: u64) {
            self.jobs.on_frame(Body::RunGranted(RunGranted { offer }));
        }

        async fn says(&mut self) -> Body {
            self.said.recv().await.unwrap()
        }

        async fn claims(&mut self, offer: u64) {
            assert_eq!(self.says().await, Body::ClaimRun(ClaimRun { offer }));
        }

        async fn declines(&mut self, offer: u64) {
            assert_eq!(self.says().await, Body::RunDeclined(RunDeclined { offer }));
        }

        /// Has a run granted, and gives how it ended.
        async fn outcome(&mut self, offer: u64) -> Outcome {
            self.offer(offer);
            self.claims(offer).await;
            self.grant(offer);
            self.finished(offer).await
        }

        async fn finished(&mut self, offer: u64) -> Outcome {
            match self.says().await {
                Body::RunFinished(finished) if finished.offer == offer => finished.outcome.unwrap(),
                other => panic!("{other:?}"),
            }
        }
    }

    fn job() -> Schedule {
        Schedule::once("job")
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_starts_when_it_is_granted() {
        let mut worker = Worker::with(job(), |run| async move {
            assert_eq!((run.id(), run.job(), run.attempt()), (1_007, "job", 2));
            let scheduled = run.scheduled().duration_since(SystemTime::UNIX_EPOCH).unwrap();
            assert_eq!(scheduled.as_secs(), 1_800_000_000);
            Ok(())
        });
        worker.offer(7);
        worker.claims(7).await;
        sleep(Duration::from_secs(60)).await;
        assert_eq!(worker.begun.load(Relaxed), 0);
        worker.grant(7);
        assert_eq!(worker.finished(7).await, Outcome::Succeeded(RunSucceeded {}));
        // A second grant of the same offer starts nothing.
        worker.grant(7);
        worker.jobs.finish().await;
        assert_eq!(worker.begun.load(Relaxed), 1);
    }

    #[tokio::test]
    async fn a_revoked_run_does_not_start() {
        let mut worker = Worker::with(job(), |_| async { Ok(()) });
        worker.offer(1);
        worker.claims(1).await;
        worker.jobs.on_frame(Body::RunRevoked(RunRevoked { offer: 1 }));
        worker.jobs.finish().await;
        assert_eq!(worker.begun.load(Relaxed), 0);
        assert!(worker.said.try_recv().is_err(), "there is nothing to say about it");
    }

    #[tokio::test(start_paused = true)]
    async fn each_end_of_a_run_is_told() {
        /// Panics where it is dropped.
        struct Trap;
        impl Drop for Trap {
            fn drop(&mut self) {
                std::panic::resume_unwind(Box::new("in the drop"));
            }
        }
        let limit = Duration::from_millis(100);
        let mut worker = Worker::with(job().timeout(limit), |run| async move {
            match run.id() - 1_000 {
                1 => Err(Error::new(ErrorKind::Connect, "no route")),
                2 => std::panic::resume_unwind(Box::new("a panic")),
                3 => std::future::pending().await,
                4 => {
                    let _trap = Trap;
                    std::future::pending().await
                }
                _ => Ok(()),
            }
        });
        assert_eq!(worker.outcome(1).await, Outcome::Failed("no route".into()));
        assert_eq!(worker.outcome(2).await, Outcome::Panicked("a panic".into()));
        assert_eq!(worker.outcome(3).await, Outcome::TimedOut(RunTimedOut {}));
        assert!(matches!(worker.outcome(4).await, Outcome::Panicked(_)));
        assert_eq!(worker.outcome(5).await, Outcome::Succeeded(RunSucceeded {}));
    }

    #[tokio::test]
    async fn what_it_does_not_have_is_declined() {
        let mut worker = Worker::with(job(), |_| async { Ok(()) });
        worker.offer_of("another", 1);
        worker.declines(1).await;
        // It was unregistered while the claim was on its way.
        worker.offer(2);
        worker.claims(2).await;
        worker.jobs.remove("job");
        let name = "job".to_owned();
        assert_eq!(worker.says().await, Body::UnscheduleJob(UnscheduleJob { name }));
        worker.grant(2);
        worker.declines(2).await;
        worker.offer(3);
        worker.declines(3).await;
        assert_eq!(worker.begun.load(Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_stops_finishes_what_it_runs_and_takes_no_more() {
        let mut worker = Worker::with(job(), |_| async {
            sleep(Duration::from_secs(1)).await;
            Ok(())
        });
        for offer in [1, 2] {
            worker.offer(offer);
            worker.claims(offer).await;
        }
        worker.grant(1);
        while worker.begun.load(Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        worker.stop.send_replace(true);
        worker.grant(2);
        worker.declines(2).await;
        worker.offer(3);
        worker.declines(3).await;
        worker.jobs.finish().await;
        assert_eq!(worker.finished(1).await, Outcome::Succeeded(RunSucceeded {}));
        assert_eq!(worker.begun.load(Relaxed), 1);
    }

    #[tokio::test]
    async fn one_that_ends_without_being_asked_cuts_its_runs_off_and_says_so() {
        let mut worker = Worker::with(job(), |_| std::future::pending());
        worker.offer(1);
        worker.claims(1).await;
        worker.grant(1);
        while worker.begun.load(Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        worker.jobs.cut_off();
        assert_eq!(worker.finished(1).await, Outcome::Cut(RunCut {}));
    }

    #[tokio::test]
    async fn a_runtime_that_ends_gives_back_what_it_claimed() {
        let mut worker = Worker::with(job(), |_| std::future::pending());
        let runtime = runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        {
            let _guard = runtime.enter();
            let function = job_fn(|_| std::future::pending::<Result<(), Error>>());
            worker.jobs.add(&Schedule::once("other"), function).unwrap();
        }
        assert!(matches!(worker.says().await, Body::ScheduleJob(_)));
        worker.offer_of("other", 1);
        worker.claims(1).await;
        runtime.shutdown_background();
        worker.declines(1).await;
        worker.grant(1);
        // Where the runtime is gone, nothing is claimed.
        worker.offer_of("other", 2);
        worker.declines(2).await;
        assert!(worker.jobs.table().claims.is_empty());
    }

    #[tokio::test]
    async fn what_a_job_holds_may_use_the_jobs_when_it_is_dropped() {
        /// Unregisters a job where it is dropped.
        struct Held(Mutex<Option<Job>>);
        impl Drop for Held {
            fn drop(&mut self) {
                self.0.get_mut().unwrap().take().unwrap().unregister();
            }
        }
        let mut worker = Worker::with(job(), |_| async { Ok(()) });
        let job = Job { name: "job".into(), jobs: Arc::downgrade(&worker.jobs) };
        let held = Arc::new(Held(Mutex::new(Some(job))));
        let function = job_fn(move |_| {
            let _held = Arc::clone(&held);
            async { Ok::<_, Error>(()) }
        });
        let outer = worker.jobs.add(&Schedule::once("outer"), function).unwrap();
        assert!(matches!(worker.says().await, Body::ScheduleJob(_)));
        // On a thread of its own, so that a test that fails ends.
        let (done, is_done) = oneshot::channel();
        std::thread::spawn(move || {
            outer.unregister();
            let _ = done.send(());
        });
        timeout(Duration::from_secs(30), is_done).await.expect("it waits for itself").unwrap();
        for name in ["outer", "job"].map(str::to_owned) {
            assert_eq!(worker.says().await, Body::UnscheduleJob(UnscheduleJob { name }));
        }
    }

    #[tokio::test]
    async fn nothing_starts_in_one_that_is_cut_off() {
        let mut worker = Worker::with(job(), |_| std::future::pending());
        for offer in 0..20 {
            worker.offer(offer);
            worker.claims(offer).await;
        }
        worker.jobs.cut_off();
        for offer in 0..20 {
            worker.grant(offer);
            worker.declines(offer).await;
        }
        worker.offer(20);
        worker.declines(20).await;
        assert_eq!(worker.begun.load(Relaxed), 0);
    }

    #[tokio::test]
    async fn offers_are_bounded() {
        let mut worker = Worker::with(job(), |_| std::future::pending());
        for offer in 0..MAX_RUNS as u64 {
            worker.offer(offer);
            worker.claims(offer).await;
        }
        worker.offer(5_000);
        worker.declines(5_000).await;
    }

    #[test]
    fn a_job_wants_a_runtime_and_a_name_of_its_own() {
        let (_stop, stopped) = watch::channel(false);
        let jobs = Jobs::new(drop, stopped);
        let add = || jobs.add(&job(), job_fn(|_| async { Ok::<_, Error>(()) }));
        let error = add().unwrap_err().to_string();
        assert!(error.starts_with("job `job`: schedule it inside of the worker's"), "{error}");
        let runtime = runtime::Builder::new_current_thread().build().unwrap();
        let _guard = runtime.enter();
        assert_eq!(add().unwrap().name(), "job");
        let error = add().unwrap_err().to_string();
        assert_eq!(error, "job `job`: this worker has scheduled it already");
    }
}
