//! Publications: what the owners hold, and what the upstream was last told of each key.
//!
//! What an owner asks runs in its order, owner by owner side by side; what concerns one key runs
//! one after the other. After each step the key is *reconciled*: the upstream holds the value that
//! was published last by an owner that still holds the key, or nothing when the last owner is gone.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use tokio::time::{Instant, sleep, timeout_at};

use super::{Leader, call::guarded, lock, peer::Peer};
use crate::{
    connection::Backoff,
    error::{Error, ErrorKind},
    spec::{Failure, MethodKind, Reply},
};

/// Who published: the random id of a follower.
pub(super) type Owner = [u8; 16];

/// The publish method and the canonical key.
type Key = (usize, Bytes);

/// Tries to withdraw or publish again, before the failure is logged as final.
const TRIES: usize = 10;

#[derive(Default)]
pub(super) struct Publications {
    owners: Mutex<HashMap<Owner, OwnerState>>,
    cells: Mutex<HashMap<Key, Arc<Cell>>>,
}

#[derive(Default)]
struct OwnerState {
    /// The peer that speaks for the owner now; an older one has no say any more.
    peer: u64,
    queue: VecDeque<Step>,
    running: bool,
    /// It is gone: what is still queued runs, and is withdrawn at the end.
    gone: bool,
    /// The keys that it holds, and the peer that published each.
    held: HashMap<Key, u64>,
}

/// What is done for an owner, in its order.
enum Step {
    Request(Request),
    /// This peer has sent again all that it holds.
    Replayed(u64),
}

/// What an owner asks for.
pub(super) struct Request {
    /// The publish method.
    pub(super) method: usize,
    pub(super) args: Bytes,
    pub(super) deadline: Instant,
    pub(super) wish: Wish,
    /// Who waits for the answer.
    pub(super) asker: (Arc<Peer>, u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    Publish,
    Unpublish,
}

#[derive(Default)]
struct Cell(tokio::sync::Mutex<CellState>);

#[derive(Default)]
struct CellState {
    /// The value of each owner, the one published last at the end.
    values: Vec<(Owner, Bytes)>,
    /// The arguments that the upstream was last told, and its answer.
    upstream: Option<(Bytes, Bytes)>,
}

impl Leader {
    /// A follower registered: it speaks for its owner from now on.
    pub(super) fn owner_came(&self, owner: Owner, peer: u64) {
        let mut owners = lock(&self.publications.owners);
        let state = owners.entry(owner).or_default();
        state.peer = peer;
        state.gone = false;
    }

    /// A follower sent everything that it holds: what it held before and did not send is over.
    pub(super) fn owner_replayed(self: &Arc<Self>, owner: Owner, peer: u64) {
        let mut owners = lock(&self.publications.owners);
        let state = owners.entry(owner).or_default();
        state.queue.push_back(Step::Replayed(peer));
        self.start_owner(owner, state);
    }

    /// A follower is gone. What it published is withdrawn, at once or after the grace.
    pub(super) fn owner_left(self: &Arc<Self>, owner: Owner, peer: u64, at_once: bool) {
        let leader = Arc::clone(self);
        let left = async move {
            if !at_once {
                tokio::select! {
                    () = sleep(leader.options.grace) => {}
                    () = leader.closing.cancelled() => return,
                }
            }
            {
                let mut owners = lock(&leader.publications.owners);
                let Some(state) = owners.get_mut(&owner).filter(|state| state.peer == peer) else {
                    return;
                };
                state.gone = true;
                leader.start_owner(owner, state);
            }
        };
        self.tasks.spawn_on(left, &self.runtime);
    }

    /// Queues what an owner asks for.
    pub(super) fn publish(self: &Arc<Self>, owner: Owner, request: Request) {
        let mut owners = lock(&self.publications.owners);
        let state = owners.entry(owner).or_default();
        let bound = self.options.max_subscriptions;
        if state.queue.len() >= self.options.max_in_flight || state.held.len() >= bound {
            let (peer, id) = request.asker;
            let error = Error::new(
                ErrorKind::Overloaded,
                format!("this owner has {} publications, the bound is {bound}", state.held.len()),
            );
            return peer.answer(id, Err(error.into()));
        }
        state.queue.push_back(Step::Request(request));
        self.start_owner(owner, state);
    }

    fn start_owner(self: &Arc<Self>, owner: Owner, state: &mut OwnerState) {
        if !std::mem::replace(&mut state.running, true) {
            let leader = Arc::clone(self);
            self.tasks.spawn_on(async move { leader.run_owner(owner).await }, &self.runtime);
        }
    }

    /// The next thing to do for an owner; `None` when there is nothing left.
    fn next_step(&self, owner: Owner) -> Option<Result<Step, Vec<Key>>> {
        let mut owners = lock(&self.publications.owners);
        let state = owners.get_mut(&owner)?;
        if let Some(step) = state.queue.pop_front() {
            return Some(Ok(step));
        }
        state.running = false;
        if !state.gone {
            return None;
        }
        // The owner leaves the table under the same lock under which it could come back.
        owners.remove(&owner).map(|state| Err(state.held.into_keys().collect()))
    }

    /// Runs what an owner asks for, in order.
    async fn run_owner(self: Arc<Self>, owner: Owner) {
        while let Some(step) = self.next_step(owner) {
            let request = match step {
                Ok(Step::Request(request)) => request,
                Ok(Step::Replayed(peer)) => {
                    let keys = self.held_before(owner, peer);
                    self.withdraw(owner, keys).await;
                    continue;
                }
                Err(keys) => return self.withdraw(owner, keys).await,
            };
            let (peer, id) = (Arc::clone(&request.asker.0), request.asker.1);
            let reply = match timeout_at(request.deadline, self.grant(owner, &request)).await {
                Ok(reply) => reply,
                Err(_) => {
                    self.stats.note_late();
                    self.doubt(owner, &request).await;
                    let late = Error::new(ErrorKind::Timeout, "the upstream gave no answer");
                    Err(self.name_error(request.method, late).into())
                }
            };
            peer.answer(id, reply);
        }
    }

    /// What an owner holds that this peer did not publish.
    fn held_before(&self, owner: Owner, peer: u64) -> Vec<Key> {
        let owners = lock(&self.publications.owners);
        let held = owners.get(&owner).into_iter().flat_map(|state| &state.held);
        held.filter(|(_, by)| **by != peer).map(|(key, _)| key.clone()).collect()
    }

    async fn grant(self: &Arc<Self>, owner: Owner, request: &Request) -> Reply {
        let key = (request.method, self.connector.key(request.method, request.args.clone())?);
        let cell = self.cell(&key);
        let reply = self.grant_in(&cell, owner, &key, request).await;
        self.forget(&key);
        reply
    }

    async fn grant_in(
        self: &Arc<Self>,
        cell: &Cell,
        owner: Owner,
        key: &Key,
        request: &Request,
    ) -> Reply {
        let mut state = cell.0.lock().await;
        match request.wish {
            Wish::Publish => {
                let args = &request.args;
                let reply = match &state.upstream {
                    Some((told, reply)) if told == args => reply.clone(),
                    _ => self.tell(request.method, args).await?,
                };
                state.upstream = Some((args.clone(), reply.clone()));
                state.values.retain(|(other, _)| *other != owner);
                state.values.push((owner, args.clone()));
                self.note_held(owner, key, request.asker.0.id);
                Ok(reply)
            }
            Wish::Unpublish => {
                let before = state.values.len();
                state.values.retain(|(other, _)| *other != owner);
                let held = state.values.len() < before;
                self.note_released(owner, key);
                if held && !state.values.is_empty() {
                    self.reconcile(request.method, &mut state).await.map_err(Failure::from)?;
                    return Ok(self.connector.unit());
                }
                if !state.values.is_empty() {
                    return Ok(self.connector.unit());
                }
                let reply = self.tell_unpublish(request.method, &request.args).await;
                // Only what the upstream confirmed counts as withdrawn.
                match &reply {
                    Ok(_) => state.upstream = None,
                    Err(_) if held => self.retry_in_background(key.clone()),
                    Err(_) => {}
                }
                reply
            }
        }
    }

    /// A request did not end in time: the upstream may have done it or not. What no owner holds is
    /// withdrawn.
    async fn doubt(self: &Arc<Self>, owner: Owner, request: &Request) {
        let Ok(key) = self.connector.key(request.method, request.args.clone()) else { return };
        let key = (request.method, key);
        let cell = self.cell(&key);
        let Ok(mut state) = cell.0.try_lock() else { return };
        if request.wish == Wish::Publish {
            state.upstream = Some((request.args.clone(), self.connector.unit()));
        } else {
            state.values.retain(|(other, _)| *other != owner);
        }
        drop(state);
        self.retry_in_background(key);
    }

    /// Withdraws what an owner holds of these keys.
    async fn withdraw(self: &Arc<Self>, owner: Owner, keys: Vec<Key>) {
        for key in keys {
            self.note_released(owner, &key);
            // Not held beyond this statement: a cell that somebody uses is not forgotten.
            self.cell(&key).0.lock().await.values.retain(|(other, _)| *other != owner);
            self.settle(key).await;
        }
    }

    fn retry_in_background(self: &Arc<Self>, key: Key) {
        let leader = Arc::clone(self);
        self.tasks.spawn_on(async move { leader.settle(key).await }, &self.runtime);
    }

    /// Reconciles a key until it succeeds.
    async fn settle(&self, key: Key) {
        let mut backoff = Backoff::new(self.options.reconnect);
        for _ in 0..TRIES {
            let cell = self.cell(&key);
            let mut state = cell.0.lock().await;
            let deadline = Instant::now() + self.options.call_timeout;
            let done = timeout_at(deadline, self.reconcile(key.0, &mut state)).await;
            let is_over = state.values.is_empty() && state.upstream.is_none();
            drop(state);
            let error = match done {
                Ok(Ok(())) => {
                    if is_over {
                        self.forget(&key);
                    }
                    return;
                }
                Ok(Err(failure)) => failure,
                Err(_) => Error::new(ErrorKind::Timeout, "the upstream gave no answer"),
            };
            self.stats.note_replay_failure(&self.name_error(key.0, error));
            sleep(backoff.next_pause()).await;
        }
        tracing::error!(
            channel = %self.channel,
            method = self.spec.methods[key.0].name,
            "a publication could not be brought in line with its owners; giving up"
        );
    }

    /// Brings the upstream in line with the owners of a key.
    async fn reconcile(&self, method: usize, state: &mut CellState) -> Result<(), Error> {
        let wanted = state.values.last().map(|(_, args)| args.clone());
        match (wanted, state.upstream.clone()) {
            (None, None) => {}
            (Some(wanted), Some((told, _))) if wanted == told => {}
            (Some(wanted), _) => {
                let reply = self.tell(method, &wanted).await.map_err(Failure::into_error)?;
                state.upstream = Some((wanted, reply));
            }
            (None, Some((told, _))) => {
                self.tell_unpublish(method, &told).await.map_err(Failure::into_error)?;
                state.upstream = None;
            }
        }
        Ok(())
    }

    /// The upstream was lost and is back: it is told everything again.
    pub(super) async fn publish_again(self: &Arc<Self>) {
        let keys: Vec<Key> = lock(&self.publications.cells).keys().cloned().collect();
        for key in keys {
            let cell = self.cell(&key);
            let forgotten = {
                let mut state = cell.0.lock().await;
                if !state.values.is_empty() {
                    state.upstream = None;
                }
                state.values.is_empty() && state.upstream.is_none()
            };
            if forgotten {
                self.forget(&key);
            } else {
                self.retry_in_background(key);
            }
        }
    }

    /// The leader closes: nobody owns anything any more.
    pub(super) async fn withdraw_all(&self) {
        lock(&self.publications.owners).clear();
        let keys: Vec<Key> = lock(&self.publications.cells).keys().cloned().collect();
        let withdrawals = keys.into_iter().map(|key| async move {
            self.cell(&key).0.lock().await.values.clear();
            self.settle(key).await;
        });
        futures::future::join_all(withdrawals).await;
    }

    async fn tell(&self, method: usize, args: &Bytes) -> Reply {
        let client = self.wait_for_client().await?;
        let call = guarded(client.call(method, args.clone())?);
        call.await.unwrap_or_else(|panicked| {
            self.stats.note_panic(&panicked);
            Err(self.name_error(method, panicked).into())
        })
    }

    /// Calls the `#[unpublish]` of a publish method; without one there is nothing to withdraw.
    async fn tell_unpublish(&self, method: usize, args: &Bytes) -> Reply {
        match self.spec.methods[method].kind {
            MethodKind::Publish { unpublish: Some(unpublish) } => self.tell(unpublish, args).await,
            _ => Ok(self.connector.unit()),
        }
    }

    fn cell(&self, key: &Key) -> Arc<Cell> {
        Arc::clone(lock(&self.publications.cells).entry(key.clone()).or_default())
    }

    /// Drops an empty cell that nobody else is using.
    fn forget(&self, key: &Key) {
        let mut cells = lock(&self.publications.cells);
        let unused = cells.get(key).is_some_and(|cell| {
            Arc::strong_count(cell) <= 2
                && cell
                    .0
                    .try_lock()
                    .is_ok_and(|state| state.values.is_empty() && state.upstream.is_none())
        });
        if unused {
            cells.remove(key);
        }
    }

    fn note_held(&self, owner: Owner, key: &Key, peer: u64) {
        let mut owners = lock(&self.publications.owners);
        owners.entry(owner).or_default().held.insert(key.clone(), peer);
    }

    fn note_released(&self, owner: Owner, key: &Key) {
        if let Some(state) = lock(&self.publications.owners).get_mut(&owner) {
            state.held.remove(key);
        }
    }

    /// How many keys are published.
    pub(super) fn publication_count(&self) -> usize {
        lock(&self.publications.cells).len()
    }
}
