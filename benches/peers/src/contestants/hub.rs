//! Fan-out as one writes it without a framework: a queue for each subscriber.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::StreamExt as _;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::harness::{Source, Topic};

/// Gives each value to all who have subscribed. Nothing bounds the queues.
#[derive(Debug, Clone, Default)]
pub(super) struct Hub {
    queues: Arc<Queues>,
}

type Queues = Mutex<Vec<UnboundedSender<Bytes>>>;

fn give(queues: &Queues, value: Bytes) {
    let mut queues = queues.lock().unwrap_or_else(PoisonError::into_inner);
    queues.retain(|queue| queue.send(value.clone()).is_ok());
}

impl Hub {
    /// Starts to give the values of the source, each made into what is sent, once.
    pub(super) fn start(source: &Source, form: fn(Bytes) -> Bytes) -> Self {
        let hub = Self::default();
        let values = source.values(Topic::ALL);
        let queues = Arc::clone(&hub.queues);
        tokio::spawn(async move {
            let mut values = std::pin::pin!(values);
            while let Some(value) = values.next().await {
                give(&queues, form(value));
                tokio::task::consume_budget().await;
            }
        });
        hub
    }

    pub(super) fn subscribe(&self) -> UnboundedReceiver<Bytes> {
        let (sender, receiver) = unbounded_channel();
        self.queues.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        receiver
    }
}
