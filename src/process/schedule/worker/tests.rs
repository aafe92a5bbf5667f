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
