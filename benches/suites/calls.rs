//! Calls on one connection: latency with 1 in flight, throughput with 256; 128 B both ways.

use std::time::Instant;

use futures::{FutureExt as _, SinkExt as _, StreamExt as _, future::try_join_all};

use crate::{
    contest::{Child, Plan, Result, Row, Slices, Who, compare, quantile, serve_until_closed},
    ends::{ours, raw},
};

pub(crate) const LATENCY: &str = "latency";
pub(crate) const THROUGHPUT: &str = "throughput";

const PAYLOAD: usize = 128;
const IN_FLIGHT: u64 = 256;

pub(crate) fn latency(plan: &Plan) -> Result<Vec<Row>> {
    let figures = compare(LATENCY, 5_000, plan)?;
    Ok(vec![
        Row::new(("latency p50, 1 in flight, 128 B", "µs", "≤ 1.15"), &figures, 0, 1e-3),
        Row::new(("latency p99", "µs", "≤ 1.3"), &figures, 1, 1e-3),
        Row::new(("CPU a call, 1 in flight", "µs", "≤ 1.5"), &figures, 2, 1e-3),
    ])
}

pub(crate) fn throughput(plan: &Plan) -> Result<Vec<Row>> {
    let figures = compare(THROUGHPUT, 200_000, plan)?;
    Ok(vec![
        Row::new(("calls, 256 in flight, 128 B", "k/s", "≥ 0.7"), &figures, 0, 1e-3),
        Row::new(("CPU a call, 256 in flight", "µs", "≤ 1.5"), &figures, 1, 1e-3),
    ])
}

pub(crate) async fn child(child: &Child) -> Result<()> {
    let latency = child.suite == LATENCY;
    match (child.who, child.port) {
        (Who::Raw, None) => serve_until_closed(raw::listen(raw::echo).await?).await,
        (Who::Ours, None) => {
            let (_leader, port) = ours::lead().await?;
            serve_until_closed(port).await
        }
        (Who::Raw, Some(port)) => raw_client(port, latency).await,
        (Who::Ours, Some(port)) => our_client(port, latency).await,
    }
}

async fn raw_client(port: u16, latency: bool) -> Result<()> {
    let mut socket = raw::connect(port).await?;
    let mut slices = Slices::new()?;
    while let Some(calls) = slices.next().await? {
        if latency {
            let mut times = Vec::new();
            for call in 0..calls {
                let start = Instant::now();
                socket.send(raw::frame(call, PAYLOAD)).await?;
                let answer = socket.next().await.ok_or("the server has gone")??;
                times.push(start.elapsed().as_nanos() as f64);
                check(&answer, call)?;
            }
            slices.done(&[quantile(&times, 0.5), quantile(&times, 0.99)])?;
        } else {
            let start = Instant::now();
            raw_pipeline(&mut socket, calls).await?;
            slices.done(&[calls as f64 / start.elapsed().as_secs_f64()])?;
        }
    }
    Ok(())
}

/// Keeps the pipe full: for each answer that is here a new call, then one write for them all.
async fn raw_pipeline(socket: &mut raw::Socket, calls: u64) -> Result<()> {
    let mut asked = IN_FLIGHT.min(calls);
    for call in 0..asked {
        socket.feed(raw::frame(call, PAYLOAD)).await?;
    }
    raw::flush(socket).await?;
    let mut answered = 0;
    while answered < calls {
        let mut next = Some(socket.next().await);
        while let Some(answer) = next {
            check(&answer.ok_or("the server has gone")??, answered)?;
            answered += 1;
            if asked < calls {
                socket.feed(raw::frame(asked, PAYLOAD)).await?;
                asked += 1;
            }
            next = socket.next().now_or_never();
        }
        raw::flush(socket).await?;
    }
    Ok(())
}

fn check(answer: &[u8], call: u64) -> Result<()> {
    if answer.len() == raw::TAG + PAYLOAD && raw::tag(answer)? == call {
        return Ok(());
    }
    Err("an answer of another call".into())
}

async fn our_client(port: u16, latency: bool) -> Result<()> {
    let cluster = ours::follow(port).await?;
    let payload = "x".repeat(PAYLOAD);
    let mut slices = Slices::new()?;
    while let Some(calls) = slices.next().await? {
        if latency {
            let mut times = Vec::new();
            for _ in 0..calls {
                let start = Instant::now();
                let answer = cluster.echo(payload.clone()).await?;
                times.push(start.elapsed().as_nanos() as f64);
                assert_eq!(answer.len(), PAYLOAD, "the answer of the call");
            }
            slices.done(&[quantile(&times, 0.5), quantile(&times, 0.99)])?;
        } else {
            let start = Instant::now();
            let callers = (0..IN_FLIGHT).map(|_| {
                let (cluster, payload) = (cluster.clone(), payload.clone());
                tokio::spawn(async move {
                    for _ in 0..calls.div_ceil(IN_FLIGHT) {
                        let answer = cluster.echo(payload.clone()).await?;
                        assert_eq!(answer.len(), PAYLOAD, "the answer of the call");
                    }
                    Ok::<_, cluster_client::Error>(())
                })
            });
            for done in try_join_all(callers).await? {
                done?;
            }
            slices.done(&[calls as f64 / start.elapsed().as_secs_f64()])?;
        }
    }
    Ok(())
}
