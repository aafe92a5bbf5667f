//! Every value of 1 KiB to each of 64 connections.
//!
//! The server gives as many values as the client asks for, at once; the client asks again when all
//! connections have them all. Both count deliveries, and a missed one is an error.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use bytes::Bytes;
use cluster_client::Change;
use futures::{SinkExt as _, Stream, StreamExt as _, stream};
use tokio::sync::{Mutex, mpsc};

use crate::{
    contest::{Child, Plan, Result, Row, Slices, Who, compare, serve_until_closed},
    ends::{ours, raw},
};

pub(crate) const NAME: &str = "fan-out";

const CONNECTIONS: u64 = 64;
const PAYLOAD: usize = 1024;

/// Values that are on their way at one time.
const WINDOW: u64 = 512;

/// What a raw connection sends to subscribe, where it else sends how many values it wants.
const SUBSCRIBE: u64 = 0;

pub(crate) fn run(plan: &Plan) -> Result<Vec<Row>> {
    let figures = compare(NAME, 4 * WINDOW * CONNECTIONS, plan)?;
    Ok(vec![
        Row::new(("fan-out, 1 KiB to 64, deliveries", "k/s", "≥ 0.9"), &figures, 0, 1e-3),
        Row::new(("CPU a delivery", "µs", "≤ 1.2"), &figures, 1, 1e-3),
    ])
}

pub(crate) async fn child(child: &Child) -> Result<()> {
    match (child.who, child.port) {
        (Who::Raw, None) => raw_server().await,
        (Who::Ours, None) => {
            let (_leader, port) = ours::lead().await?;
            serve_until_closed(port).await
        }
        (Who::Raw, Some(port)) => raw_client(port).await,
        (Who::Ours, Some(port)) => our_client(port).await,
    }
}

/// Where the client stands: how many values it has asked for, and who has them all.
struct Progress {
    asked: Arc<AtomicU64>,
    /// Each connection tells when it has what was asked for, or why it will not.
    arrived: mpsc::UnboundedReceiver<Result<()>>,
}

/// Takes the values of all connections, a task each.
fn receive<S>(connections: impl IntoIterator<Item = S>) -> Progress
where
    S: Stream<Item = Result<()>> + Send + Unpin + 'static,
{
    let asked = Arc::new(AtomicU64::new(0));
    let (sender, arrived) = mpsc::unbounded_channel();
    for mut values in connections {
        let (asked, sender) = (Arc::clone(&asked), sender.clone());
        tokio::spawn(async move {
            let mut count = 0;
            while let Some(value) = values.next().await {
                count += 1;
                if value.is_err() || count == asked.load(Relaxed) {
                    // Nobody listens any more once another connection has failed.
                    let _ = sender.send(value);
                }
            }
        });
    }
    Progress { asked, arrived }
}

/// Asks for windows of values and waits until all connections have them.
async fn measure<A>(mut progress: Progress, ask: impl Fn(u64) -> A) -> Result<()>
where
    A: Future<Output = Result<()>>,
{
    let mut slices = Slices::new()?;
    while let Some(deliveries) = slices.next().await? {
        let start = Instant::now();
        let mut left = deliveries.div_ceil(CONNECTIONS);
        while left > 0 {
            let window = left.min(WINDOW);
            left -= window;
            progress.asked.fetch_add(window, Relaxed);
            ask(window).await?;
            for _ in 0..CONNECTIONS {
                progress.arrived.recv().await.ok_or("the connections have gone")??;
            }
        }
        slices.done(&[deliveries as f64 / start.elapsed().as_secs_f64()])?;
    }
    Ok(())
}

async fn our_client(port: u16) -> Result<()> {
    let mut feeds = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut feed = ours::follow(port).await?.feed(PAYLOAD as u64).await?;
        feeds.push(stream::poll_fn(move |cx| {
            feed.poll_changed(cx).map(|change| {
                Some(match change {
                    Change::Value { value, missed: 0 } if value.len() == PAYLOAD => Ok(()),
                    other => Err(format!("not the next value: {other:?}").into()),
                })
            })
        }));
    }
    let asker = ours::follow(port).await?;
    measure(receive(feeds), |values| {
        let asker = asker.clone();
        async move { Ok(asker.go_on(values).await?) }
    })
    .await
}

async fn raw_client(port: u16) -> Result<()> {
    let mut feeds = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut socket = raw::connect(port).await?;
        socket.send(raw::frame(SUBSCRIBE, 0)).await?;
        socket.next().await.ok_or("the server has gone")??;
        let mut last = 0;
        feeds.push(socket.map(move |frame| {
            let frame = frame?;
            last += 1;
            let is_next = raw::tag(&frame)? == last && frame.len() == raw::TAG + PAYLOAD;
            is_next.then_some(()).ok_or_else(|| "not the next value".into())
        }));
    }
    let asker = Arc::new(Mutex::new(raw::connect(port).await?));
    measure(receive(feeds), |values| {
        let asker = Arc::clone(&asker);
        async move { Ok(asker.lock().await.send(raw::frame(values, 0)).await?) }
    })
    .await
}

/// The queues of the connections that have subscribed, and the number of the last value.
#[derive(Default)]
struct Subscribers {
    queues: Vec<mpsc::UnboundedSender<Bytes>>,
    last: u64,
}

async fn raw_server() -> Result<()> {
    let subscribers = Arc::new(Mutex::new(Subscribers::default()));
    let serve = move |socket| raw_connection(socket, Arc::clone(&subscribers));
    serve_until_closed(raw::listen(serve).await?).await
}

/// A connection that subscribes is given what others ask for.
async fn raw_connection(
    mut socket: raw::Socket,
    subscribers: Arc<Mutex<Subscribers>>,
) -> Result<()> {
    while let Some(frame) = socket.next().await {
        let values = raw::tag(&frame?)?;
        if values == SUBSCRIBE {
            let (sender, queue) = mpsc::unbounded_channel();
            subscribers.lock().await.queues.push(sender);
            socket.send(raw::frame(SUBSCRIBE, 0)).await?;
            return raw_feed(socket, queue).await;
        }
        for _ in 0..values {
            let mut subscribers = subscribers.lock().await;
            subscribers.last += 1;
            let value = raw::frame(subscribers.last, PAYLOAD);
            subscribers.queues.retain(|queue| queue.send(value.clone()).is_ok());
            drop(subscribers);
            tokio::task::consume_budget().await;
        }
    }
    Ok(())
}

/// Writes what is queued, all in one go where there is room.
async fn raw_feed(
    mut socket: raw::Socket,
    mut queue: mpsc::UnboundedReceiver<Bytes>,
) -> Result<()> {
    while let Some(value) = queue.recv().await {
        socket.feed(value).await?;
        while let Ok(value) = queue.try_recv() {
            socket.feed(value).await?;
        }
        raw::flush(&mut socket).await?;
    }
    Ok(())
}
