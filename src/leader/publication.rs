//! Publications: what the owners ask for and hold.
//!
//! What an owner asks runs in its order, owner by owner side by side; what concerns one key runs
//! one after the other. After each step the key is [reconciled](super::cell): the upstream holds
//! the value that was published last by an owner that still holds the key, or nothing when the
//! last owner is gone.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use tokio::time::{Instant, sleep, timeout_at};

use super::{
    Leader,
    cell::{Cells, Key},
    lock,
    peer::Peer,
};
use crate::{
    error::{Error, ErrorKind, Result},
    spec::{Failure, Payload, Reply},
};

/// Who published: the random id of a follower.
pub(super) type Owner = [u8; 16];

#[derive(Default)]
pub(super) struct Publications {
    owners: Mutex<HashMap<Owner, OwnerState>>,
    pub(super) cells: Cells,
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

/// What there is to do for an owner.
enum Next {
    Step(Step),
    Nothing,
    /// It is gone, and what it held of these keys.
    Gone(Vec<Key>),
}

impl Leader {
    /// A follower registered: it speaks for its owner from now on.
    pub(super) fn owner_came(&self, owner: Owner, peer: u64) {
        let mut owners = lock(&self.publications.owners);
        let state = owners.entry(owner).or_default();
        // The session of an older link can start late.
        if peer > state.peer {
            state.peer = peer;
            state.gone = false;
        }
    }

    /// A follower sent everything that it holds: what it held before and did not send is over.
    pub(super) fn owner_replayed(self: &Arc<Self>, owner: Owner, peer: u64) {
        let mut owners = lock(&self.publications.owners);
        let state = owners.entry(owner).or_default();
        // Said twice in a row it means nothing more, and would only fill the queue.
        if !matches!(state.queue.back(), Some(Step::Replayed(by)) if *by == peer) {
            state.queue.push_back(Step::Replayed(peer));
        }
        self.start_owner(owner, state);
    }

    /// A follower is gone. What it published is withdrawn, at once or after the grace.
    pub(super) fn owner_left(self: &Arc<Self>, owner: Owner, peer: u64, at_once: bool) {
        if at_once {
            return self.owner_gone(owner, peer);
        }
        let leader = Arc::clone(self);
        let left = async move {
            tokio::select! {
                () = sleep(leader.options.grace) => leader.owner_gone(owner, peer),
                () = leader.closing.cancelled() => {}
            }
        };
        self.tasks.spawn_on(left, &self.runtime);
    }

    /// Nobody speaks for an owner any more, unless another peer does.
    fn owner_gone(self: &Arc<Self>, owner: Owner, peer: u64) {
        let mut owners = lock(&self.publications.owners);
        if let Some(state) = owners.get_mut(&owner).filter(|state| state.peer == peer) {
            state.gone = true;
            self.start_owner(owner, state);
        }
    }

    /// Queues what an owner asks for.
    pub(super) fn publish(self: &Arc<Self>, owner: Owner, request: Request) {
        let mut owners = lock(&self.publications.owners);
        let state = owners.entry(owner).or_default();
        // After a reconnect an owner sends all that it holds at once.
        let bound = self.options.max_in_flight + self.options.max_subscriptions;
        if state.queue.len() >= bound {
            let (peer, id) = request.asker;
            let reason = format!("{bound} requests of this owner are waiting already");
            return peer.answer(id, Err(Error::new(ErrorKind::Overloaded, reason).into()));
        }
        state.queue.push_back(Step::Request(request));
        self.start_owner(owner, state);
    }

    fn start_owner(self: &Arc<Self>, owner: Owner, state: &mut OwnerState) {
        if !std::mem::replace(&mut state.running, true) {
            let leader = Arc::clone(self);
            self.errands.spawn_on(async move { leader.run_owner(owner).await }, &self.runtime);
        }
    }

    fn next_step(&self, owner: Owner) -> Next {
        let mut owners = lock(&self.publications.owners);
        let Some(state) = owners.get_mut(&owner) else { return Next::Nothing };
        if let Some(step) = state.queue.pop_front() {
            return Next::Step(step);
        }
        state.running = false;
        if !state.gone {
            return Next::Nothing;
        }
        // The owner leaves the table, and the keys, under the same lock under which it could come
        // back; so what it publishes then is not taken for what it held before.
        let held = owners.remove(&owner).map(|state| state.held).unwrap_or_default();
        let keys: Vec<Key> = held.into_keys().collect();
        keys.iter().for_each(|key| self.publications.cells.release(key, owner));
        Next::Gone(keys)
    }

    /// Runs what an owner asks for, in order.
    async fn run_owner(self: Arc<Self>, owner: Owner) {
        loop {
            let request = match self.next_step(owner) {
                Next::Step(Step::Request(request)) => request,
                Next::Step(Step::Replayed(peer)) => {
                    self.settle_in_background(self.release_before(owner, peer));
                    continue;
                }
                Next::Gone(keys) => return self.settle_in_background(keys),
                Next::Nothing => return,
            };
            let (peer, id) = (Arc::clone(&request.asker.0), request.asker.1);
            peer.answer(id, self.grant_in_time(owner, &request).await.map(Payload::from));
        }
    }

    /// Lets go of what an owner holds that this peer did not publish.
    fn release_before(&self, owner: Owner, peer: u64) -> Vec<Key> {
        let mut owners = lock(&self.publications.owners);
        let Some(state) = owners.get_mut(&owner) else { return Vec::new() };
        let keys: Vec<Key> =
            state.held.extract_if(|_, by| *by != peer).map(|(key, _)| key).collect();
        keys.iter().for_each(|key| self.publications.cells.release(key, owner));
        keys
    }

    async fn grant_in_time(self: &Arc<Self>, owner: Owner, request: &Request) -> Reply {
        let method = request.method;
        let key = (method, self.connector.key(method, request.args.clone())?);
        let grant = async {
            match request.wish {
                Wish::Publish => self.grant(owner, &key, request).await,
                Wish::Unpublish => self.revoke(owner, &key, &request.args).await,
            }
        };
        timeout_at(request.deadline, grant).await.unwrap_or_else(|_| {
            self.stats.note_late();
            // The upstream may have done it or not.
            self.settle_in_background(vec![key.clone()]);
            let late = Error::new(ErrorKind::Timeout, "the upstream gave no answer");
            Err(self.name_error(method, late).into())
        })
    }

    async fn grant(&self, owner: Owner, key: &Key, request: &Request) -> Reply {
        self.check_bound(owner, key)?;
        let cell = self.publications.cells.get(key);
        let mut told = cell.told().await;
        if self.is_closed() {
            // All is being withdrawn.
            return Err(self.closed().into());
        }
        let reply = match told.reply_to(&request.args) {
            Some(reply) => reply,
            None => self.tell_value(key.0, &mut told, &request.args).await?,
        };
        if let Some(state) = lock(&self.publications.owners).get_mut(&owner) {
            state.held.insert(key.clone(), request.asker.0.id);
            cell.hold(owner, request.args.clone());
        }
        Ok(reply)
    }

    async fn revoke(self: &Arc<Self>, owner: Owner, key: &Key, args: &Bytes) -> Reply {
        let cell = self.publications.cells.get(key);
        if let Some(state) = lock(&self.publications.owners).get_mut(&owner) {
            // Whatever the upstream says, this owner does not want it any more.
            state.held.remove(key);
            cell.release(owner);
        }
        let mut told = cell.told().await;
        let reply = if cell.wanted().is_some() {
            let reconciled = self.reconcile(key.0, &cell, &mut told).await;
            reconciled.map(|()| self.connector.unit()).map_err(Failure::from)
        } else {
            self.tell_nothing(key.0, &mut told, args).await
        };
        if reply.is_err() {
            self.settle_in_background(vec![key.clone()]);
        }
        reply
    }

    fn check_bound(&self, owner: Owner, key: &Key) -> Result<()> {
        let bound = self.options.max_subscriptions;
        let owners = lock(&self.publications.owners);
        let is_full = |held: &HashMap<Key, u64>| held.len() >= bound && !held.contains_key(key);
        if !owners.get(&owner).is_some_and(|state| is_full(&state.held)) {
            return Ok(());
        }
        let reason = format!("this owner has {bound} publications already");
        Err(Error::new(ErrorKind::Overloaded, reason))
    }

    pub(super) fn forget_owners(&self) {
        lock(&self.publications.owners).clear();
    }

    #[cfg(test)]
    pub(super) fn owner_count(&self) -> usize {
        lock(&self.publications.owners).len()
    }

    /// The leader closes: nobody owns anything any more.
    pub(super) async fn withdraw_all(&self) {
        self.forget_owners();
        let keys = self.publications.cells.keys();
        futures::future::join_all(keys.iter().map(|key| self.bring_in_line(key))).await;
    }
}
