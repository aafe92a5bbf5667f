//! Equal calls in flight (`share`) become one upstream call. It runs while one waiter lives, under
//! the longest deadline.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use tokio::{
    task::AbortHandle,
    time::{Instant, sleep_until},
};

use super::{
    Leader,
    call::{Call, InFlight, Running, guarded},
    lock,
    peer::Peer,
};
use crate::spec::Failure;

/// The shared calls under way, by method and canonical arguments.
#[derive(Default)]
pub(super) struct Shares {
    calls: Mutex<HashMap<(usize, Bytes), Shared>>,
}

struct Shared {
    waiters: Vec<Waiter>,
    task: AbortHandle,
}

struct Waiter {
    peer: Arc<Peer>,
    request: u64,
    deadline: Instant,
    in_flight: InFlight,
}

impl Leader {
    /// Joins the equal call under way, or starts it.
    pub(super) fn share_call(
        self: &Arc<Self>,
        peer: &Arc<Peer>,
        request: u64,
        call: Call,
        in_flight: &InFlight,
    ) {
        let key = match self.connector.key(call.method, call.args.clone()) {
            Ok(key) => (call.method, key),
            Err(error) => return peer.answer(request, Err(error.into())),
        };
        in_flight.insert(request, || Running::Shared);
        let waiter = Waiter {
            peer: Arc::clone(peer),
            request,
            deadline: call.deadline,
            in_flight: in_flight.clone(),
        };
        let mut calls = lock(&self.shares.calls);
        if let Some(shared) = calls.get_mut(&key) {
            shared.waiters.push(waiter);
            return;
        }
        let task = self.tasks.spawn_on(Arc::clone(self).run_shared(key.clone()), &self.runtime);
        calls.insert(key, Shared { waiters: vec![waiter], task: task.abort_handle() });
    }

    async fn run_shared(self: Arc<Self>, key: (usize, Bytes)) {
        let method = key.0;
        let call = guarded(self.call(method, key.1.clone()));
        let result = tokio::select! {
            result = call => result,
            () = self.longest_deadline(&key) => {
                self.stats.note_late();
                return;
            }
        };
        let reply = result.unwrap_or_else(|panicked| {
            self.stats.note_panic(&panicked);
            Err(Failure::Cluster(self.name_error(method, panicked)))
        });
        let shared = lock(&self.shares.calls).remove(&key);
        for waiter in shared.into_iter().flat_map(|shared| shared.waiters) {
            waiter.in_flight.remove(waiter.request);
            waiter.peer.answer(waiter.request, reply.clone());
        }
    }

    /// Ready when the deadlines of all waiters have passed; the call is off the table then.
    async fn longest_deadline(&self, key: &(usize, Bytes)) {
        loop {
            let longest = {
                let mut calls = lock(&self.shares.calls);
                let waiters = calls.get(key).map(|shared| &shared.waiters);
                let longest = waiters.into_iter().flatten().map(|waiter| waiter.deadline).max();
                match longest.filter(|longest| *longest > Instant::now()) {
                    Some(longest) => longest,
                    None => {
                        let over = calls.remove(key);
                        for waiter in over.into_iter().flat_map(|shared| shared.waiters) {
                            waiter.in_flight.remove(waiter.request);
                        }
                        return;
                    }
                }
            };
            sleep_until(longest).await;
        }
    }

    /// A waiter is gone; the call goes with the last one.
    pub(super) fn leave_share(&self, peer: u64, request: u64) {
        lock(&self.shares.calls).retain(|_, shared| {
            shared.waiters.retain(|waiter| (waiter.peer.id, waiter.request) != (peer, request));
            if shared.waiters.is_empty() {
                shared.task.abort();
            }
            !shared.waiters.is_empty()
        });
    }
}
