//! An upstream that gives work items.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::{
    codec::MessagePack,
    error::{Error, Result},
    leader::{Connector, Sink, Upstream},
    spec::{
        Answered, BoxFuture, ChannelSpec, End, Failure, Health, HealthReport, MethodKind,
        MethodSpec,
    },
};

pub(super) const SPEC: ChannelSpec = ChannelSpec {
    name: "Work",
    codec: "msgpack",
    methods: &[MethodSpec {
        name: "jobs",
        kind: MethodKind::Subscribe { one: true, answered: false, quiet: None },
        args: 0,
        version: 0,
        timeout: None,
    }],
};

/// The upstream: a queue of items.
#[derive(Default)]
pub(super) struct Jobs {
    pub(super) queue: VecDeque<u64>,
    pub(super) last: u64,
    pub(super) health: Option<Box<dyn Fn(Health) + Send + Sync>>,
    /// Turned to end the stream that is open.
    pub(super) ends: u64,
    taken: u64,
}

#[derive(Clone, Default)]
pub(super) struct Source(pub(super) Arc<(Mutex<Jobs>, Notify)>);

impl Source {
    pub(super) fn lock(&self) -> MutexGuard<'_, Jobs> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn next(&self, ends: u64) -> Option<u64> {
        loop {
            let changed = self.0.1.notified();
            {
                let mut jobs = self.lock();
                if jobs.ends != ends {
                    return None;
                }
                if let Some(job) = jobs.queue.pop_front() {
                    jobs.taken += 1;
                    return Some(job);
                }
            }
            changed.await;
        }
    }
}

impl Upstream for Source {
    fn call(&self, _: usize, _: Bytes) -> Result<BoxFuture<Answered>, Error> {
        Err(Error::config("there is nothing to call"))
    }

    fn open(&self, _: usize, _: Bytes, sink: Sink) -> Result<BoxFuture<End>, Error> {
        let source = self.clone();
        Ok(Box::pin(async move {
            let ends = source.lock().ends;
            let stream = futures::stream::unfold(source, |source| async move {
                source.next(ends).await.map(|job| (job, source))
            });
            sink.run::<MessagePack, u64, _>(stream).await
        }))
    }

    fn health(&self, report: HealthReport) -> Option<BoxFuture<()>> {
        self.lock().health = Some(report);
        None
    }

    fn close(&self) -> BoxFuture<()> {
        Box::pin(std::future::ready(()))
    }
}

impl Connector for Source {
    fn connect(&self) -> BoxFuture<Result<Arc<dyn Upstream>, Failure>> {
        let upstream = Arc::new(self.clone()) as Arc<dyn Upstream>;
        Box::pin(std::future::ready(Ok(upstream)))
    }

    fn key(&self, _: usize, args: Bytes) -> Result<Bytes, Error> {
        Ok(args)
    }

    fn unit(&self) -> Bytes {
        Bytes::new()
    }
}
