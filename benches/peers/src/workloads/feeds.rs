//! Values of 1 KiB to all connections: fan-out, the latency of one update, the memory of those who
//! wait for one.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use futures::{Stream, StreamExt as _};
use tokio::sync::mpsc;

use crate::{
    contestants::{Feed, Who},
    harness::{Child, Contest, Control, Plan, Result, Slices, number, quantile, stamp},
    report::{Goal, Row},
};

pub(crate) const FAN_OUT: &str = "fan-out";
pub(crate) const UPDATE: &str = "update";
pub(crate) const MEMORY: &str = "memory";

/// What [`client`] does.
pub(crate) const JOBS: [&str; 3] = [FAN_OUT, UPDATE, MEMORY];

/// Who gives values.
const FEEDS: [Who; 6] = [Who::Raw, Who::Ours, Who::Tonic, Who::Nats, Who::Redis, Who::Node];

/// Values that are on their way at one time.
const WINDOW: u64 = 512;

pub(crate) fn fan_out(plan: &Plan) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (n, values) in [(8, 16_384), (64, 2_048), (512, 512)] {
        let contest = Contest { n, units: n, ..Contest::new(FAN_OUT, &FEEDS, values) };
        let figures = contest.run(plan)?;
        let workload = format!("fan-out, 1 KiB to {n}");
        rows.extend([
            Row::new(&workload, "deliveries", "k/s", Goal::RatioAtLeast(0.9))
                .with(&figures, 0, 1e-3),
            Row::new(&workload, "CPU a delivery", "µs", Goal::RatioAtMost(1.2))
                .with(&figures, 1, 1e-3),
        ]);
    }
    Ok(rows)
}

pub(crate) fn update(plan: &Plan) -> Result<Vec<Row>> {
    let figures =
        Contest { n: 64, paced: false, ..Contest::new(UPDATE, &FEEDS[..5], 400) }.run(plan)?;
    let workload = "one update, 1 KiB, to the last of 64";
    Ok(vec![
        Row::new(workload, "p50", "µs", Goal::RatioAtMost(1.05)).with(&figures, 3, 1e-3),
        Row::new(workload, "p99", "µs", Goal::RatioAtMost(1.1)).with(&figures, 4, 1e-3),
    ])
}

pub(crate) fn memory(plan: &Plan) -> Result<Vec<Row>> {
    let contest = Contest { paced: false, ..Contest::new(MEMORY, &FEEDS[..5], 256) };
    let figures = contest.run(&Plan { rounds: plan.rounds.min(3), ..plan.clone() })?;
    let workload = "memory of the server";
    let figure = "an idle subscribed connection";
    Ok(vec![Row::new(workload, figure, "KiB", Goal::AtMost(16.0)).with(&figures, 2, 1.0 / 1024.0)])
}

/// The slices of a client that subscribes.
pub(crate) async fn client<F: Feed>(child: &Child) -> Result<()> {
    match &*child.job {
        MEMORY => idle::<F>(child).await,
        UPDATE => updates::<F>(child).await,
        _ => windows::<F>(child).await,
    }
}

/// Keeps `n` connections with `keys` subscriptions each, and has values flow.
async fn windows<F: Feed>(child: &Child) -> Result<()> {
    let mut receivers = Receivers::open::<F>(child).await?;
    let mut slices = Slices::new()?;
    while let Some(values) = slices.next().await? {
        let mut left = values.div_ceil(child.keys);
        while left > 0 {
            // So many of each key.
            let window = left.min((WINDOW / child.keys).max(1));
            left -= window;
            receivers.window(window).await?;
        }
        slices.done(&[])?;
    }
    Ok(())
}

/// One value after the other; how long each took to the last connection.
async fn updates<F: Feed>(child: &Child) -> Result<()> {
    let mut receivers = Receivers::open::<F>(child).await?;
    let mut slices = Slices::new()?;
    while let Some(values) = slices.next().await? {
        let mut times = Vec::new();
        for _ in 0..values {
            receivers.window(1).await?;
            times.push(receivers.shared.slowest.swap(0, Relaxed) as f64);
        }
        slices.done(&[quantile(&times, 0.5), quantile(&times, 0.99)])?;
    }
    Ok(())
}

/// Opens so many more connections a slice; the process that compares looks at the server's memory.
async fn idle<F: Feed>(child: &Child) -> Result<()> {
    let mut held = Vec::new();
    let mut slices = Slices::new()?;
    while let Some(more) = slices.next().await? {
        for _ in 0..more {
            held.extend(F::subscribe(child.port, 1).await?);
        }
        slices.done(&[])?;
    }
    Ok(())
}

/// The tasks that take the values, one a subscription.
struct Receivers {
    shared: Arc<Shared>,
    control: Control,
    /// Each subscription tells when it has what was asked for, or why it will not.
    arrived: mpsc::UnboundedReceiver<Result<()>>,
    subscriptions: u64,
    keys: u64,
}

#[derive(Default)]
struct Shared {
    /// How many values each subscription was promised.
    asked: AtomicU64,
    /// How old the value was that the slowest subscription got last.
    slowest: AtomicU64,
}

impl Receivers {
    async fn open<F: Feed>(child: &Child) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let (sender, arrived) = mpsc::unbounded_channel();
        let timed = child.job == UPDATE;
        let mut subscriptions = 0;
        for _ in 0..child.n {
            for values in F::subscribe(child.port, child.keys).await? {
                subscriptions += 1;
                tokio::spawn(receive(values, timed, Arc::clone(&shared), sender.clone()));
            }
        }
        let control = Control::connect(child.control).await?;
        Ok(Self { shared, control, arrived, subscriptions, keys: child.keys })
    }

    /// Asks for so many values of each key and waits until all have them.
    async fn window(&mut self, values: u64) -> Result<()> {
        self.shared.asked.fetch_add(values, Relaxed);
        self.control.ask(values * self.keys).await?;
        for _ in 0..self.subscriptions {
            self.arrived.recv().await.ok_or("the connections have gone")??;
        }
        Ok(())
    }
}

/// Takes values as long as each is the next one.
async fn receive(
    mut values: impl Stream<Item = Result<impl AsRef<[u8]>>> + Unpin,
    timed: bool,
    shared: Arc<Shared>,
    arrived: mpsc::UnboundedSender<Result<()>>,
) {
    let mut last = 0;
    while let Some(value) = values.next().await {
        last += 1;
        let outcome = value.and_then(|value| {
            if timed {
                shared.slowest.fetch_max(stamp(value.as_ref())?, Relaxed);
            }
            if number(value.as_ref())? == last { Ok(()) } else { Err("not the next value".into()) }
        });
        let failed = outcome.is_err();
        if failed || last == shared.asked.load(Relaxed) {
            // Nobody listens any more once another subscription has failed.
            let _ = arrived.send(outcome);
        }
        if failed {
            return;
        }
    }
    let _ = arrived.send(Err("the values ended".into()));
}
