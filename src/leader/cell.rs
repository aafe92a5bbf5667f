//! The keys of publications: what the owners want of each, and what the upstream was told.
//!
//! A key is *in line* when the upstream holds what is wanted. It gets out of line when an owner
//! goes, a call fails or is not awaited to its end, or the upstream was lost; then it is *settled*,
//! in the background, until it is in line.

use std::{
    collections::HashMap,
    ops::Deref,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use futures::StreamExt as _;
use tokio::{
    sync::MutexGuard,
    time::{Instant, sleep, timeout_at},
};

use super::{Leader, call::guarded, lock, publication::Owner};
use crate::{
    connection::Backoff,
    error::{Error, ErrorKind},
    spec::{Failure, MethodKind, Payload, Reply},
};

/// The publish method and the canonical key.
pub(super) type Key = (usize, Bytes);

/// Tries to withdraw what nobody wants, before the failure is logged as final. It is tried again
/// when the upstream is restored, and at close.
const TRIES: usize = 10;

/// Keys of one cause that are settled at a time.
const AT_A_TIME: usize = 32;

#[derive(Default)]
pub(super) struct Cells(Mutex<HashMap<Key, Arc<Cell>>>);

#[derive(Default)]
pub(super) struct Cell {
    wishes: Mutex<Wishes>,
    /// Locked while the upstream is told something.
    told: tokio::sync::Mutex<Told>,
}

#[derive(Default)]
struct Wishes {
    /// The value of each owner, the one published last at the end.
    values: Vec<(Owner, Bytes)>,
    settling: Settling,
}

/// Whether the key is being settled.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Settling {
    #[default]
    No,
    Yes,
    /// It got out of line once more since the last look.
    Again,
}

/// What the upstream holds of a key, as far as is known.
#[derive(Default)]
pub(super) enum Told {
    #[default]
    Nothing,
    /// These arguments, and its answer.
    Holds(Bytes, Bytes),
    /// It may hold these arguments, others, or nothing: the call was not awaited to its end, or
    /// the upstream was lost since.
    Unsure(Bytes),
}

impl Cells {
    /// The cell of a key, which is made if there is none. It is dropped after use if there is
    /// nothing to remember.
    pub(super) fn get(&self, key: &Key) -> InUse<'_> {
        let cell = Arc::clone(lock(&self.0).entry(key.clone()).or_default());
        InUse { cells: self, key: key.clone(), cell: Some(cell) }
    }

    pub(super) fn keys(&self) -> Vec<Key> {
        lock(&self.0).keys().cloned().collect()
    }

    /// An owner does not want a key any more.
    pub(super) fn release(&self, key: &Key, owner: Owner) {
        self.get(key).release(owner);
    }

    pub(super) fn len(&self) -> usize {
        lock(&self.0).len()
    }
}

/// A cell that somebody uses.
pub(super) struct InUse<'a> {
    cells: &'a Cells,
    key: Key,
    /// `None` only within `drop`.
    cell: Option<Arc<Cell>>,
}

impl Deref for InUse<'_> {
    type Target = Arc<Cell>;

    fn deref(&self) -> &Arc<Cell> {
        self.cell.as_ref().expect("only dropping takes it")
    }
}

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        let mut cells = lock(&self.cells.0);
        self.cell = None;
        let is_over = cells.get(&self.key).is_some_and(|cell| {
            Arc::strong_count(cell) == 1
                && lock(&cell.wishes).values.is_empty()
                && cell.told.try_lock().is_ok_and(|told| matches!(*told, Told::Nothing))
        });
        if is_over {
            cells.remove(&self.key);
        }
    }
}

impl Cell {
    pub(super) fn hold(&self, owner: Owner, args: Bytes) {
        let mut wishes = lock(&self.wishes);
        wishes.values.retain(|(other, _)| *other != owner);
        wishes.values.push((owner, args));
    }

    pub(super) fn release(&self, owner: Owner) {
        lock(&self.wishes).values.retain(|(other, _)| *other != owner);
    }

    /// The value that was published last by an owner that still holds the key.
    pub(super) fn wanted(&self) -> Option<Bytes> {
        lock(&self.wishes).values.last().map(|(_, args)| args.clone())
    }

    /// What the upstream was told. Who waits here comes in the order of asking.
    pub(super) async fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().await
    }

    /// False: somebody settles it already, who looks once more.
    fn start_settling(&self) -> bool {
        let settling = &mut lock(&self.wishes).settling;
        let is_free = *settling == Settling::No;
        *settling = if is_free { Settling::Yes } else { Settling::Again };
        is_free
    }

    /// False: it got out of line once more meanwhile.
    fn stop_settling(&self) -> bool {
        let settling = &mut lock(&self.wishes).settling;
        let is_done = *settling != Settling::Again;
        *settling = if is_done { Settling::No } else { Settling::Yes };
        is_done
    }
}

impl Told {
    /// The answer of the upstream, if it was told just this.
    pub(super) fn reply_to(&self, args: &Bytes) -> Option<Bytes> {
        match self {
            Self::Holds(told, reply) if told == args => Some(reply.clone()),
            _ => None,
        }
    }

    /// The upstream may have forgotten it.
    fn doubt(&mut self) {
        if let Self::Holds(args, _) = self {
            *self = Self::Unsure(std::mem::take(args));
        }
    }
}

impl Leader {
    /// Tells the upstream a value.
    pub(super) async fn tell_value(&self, method: usize, told: &mut Told, args: &Bytes) -> Reply {
        // Dropped on the way, it stays unsure.
        let before = std::mem::replace(told, Told::Unsure(args.clone()));
        let reply = self.tell(method, args).await;
        *told = match &reply {
            Ok(reply) => Told::Holds(args.clone(), reply.clone()),
            Err(_) => before,
        };
        reply
    }

    /// Calls the `#[unpublish]` of a publish method; without one there is nothing to withdraw.
    pub(super) async fn tell_nothing(&self, method: usize, told: &mut Told, args: &Bytes) -> Reply {
        let MethodKind::Publish { unpublish: Some(unpublish) } = self.spec.methods[method].kind
        else {
            *told = Told::Nothing;
            return Ok(self.connector.unit());
        };
        let before = std::mem::replace(told, Told::Unsure(args.clone()));
        let reply = self.tell(unpublish, args).await;
        // Only what the upstream confirmed counts as withdrawn.
        *told = if reply.is_ok() { Told::Nothing } else { before };
        reply
    }

    async fn tell(&self, method: usize, args: &Bytes) -> Reply {
        let client = self.wait_for_client().await?;
        let call = guarded(client.call(method, args.clone())?);
        match call.await {
            Ok(answered) => answered.map(Payload::into_bytes),
            Err(panicked) => {
                self.stats.note_panic(&panicked);
                Err(self.name_error(method, panicked).into())
            }
        }
    }

    /// Brings the upstream in line with what is wanted of a key, once.
    pub(super) async fn reconcile(
        &self,
        method: usize,
        cell: &Cell,
        told: &mut Told,
    ) -> Result<(), Error> {
        // A leader that closes withdraws all.
        let wanted = cell.wanted().filter(|_| !self.is_closed());
        let done = match (wanted, &*told) {
            (Some(wanted), told_now) if told_now.reply_to(&wanted).is_some() => return Ok(()),
            (Some(wanted), _) => self.tell_value(method, told, &wanted).await,
            (None, Told::Nothing) => return Ok(()),
            (None, Told::Holds(args, _) | Told::Unsure(args)) => {
                let args = args.clone();
                self.tell_nothing(method, told, &args).await
            }
        };
        done.map(drop).map_err(Failure::into_error)
    }

    /// Settles keys, each until it is in line.
    pub(super) fn settle_in_background(self: &Arc<Self>, keys: Vec<Key>) {
        if keys.is_empty() {
            return;
        }
        let leader = Arc::clone(self);
        let settle = async move {
            let each = |key| settle(&leader, key);
            futures::stream::iter(keys).for_each_concurrent(AT_A_TIME, each).await;
        };
        self.errands.spawn_on(settle, &self.runtime);
    }

    /// The upstream was lost and is back: it is told everything again.
    pub(super) fn publish_again(self: &Arc<Self>) {
        for key in self.publications.cells.keys() {
            let leader = Arc::clone(self);
            let again = async move {
                let cell = leader.publications.cells.get(&key);
                cell.told().await.doubt();
                settle(&leader, key.clone()).await;
            };
            self.tasks.spawn_on(again, &self.runtime);
        }
    }

    /// Reconciles a key until it succeeds, or nobody wants it and it can't be withdrawn.
    pub(super) async fn bring_in_line(&self, key: &Key) {
        let cell = self.publications.cells.get(key);
        let mut backoff = Backoff::new(self.options.reconnect);
        let mut failures = 0;
        loop {
            let mut told = cell.told().await;
            let deadline = Instant::now() + self.options.call_timeout;
            let done = timeout_at(deadline, self.reconcile(key.0, &cell, &mut told)).await;
            drop(told);
            let late = |_| Err(Error::new(ErrorKind::Timeout, "the upstream gave no answer"));
            let Err(error) = done.unwrap_or_else(late) else { return };
            self.stats.note_replay_failure(&self.name_error(key.0, error));
            failures += 1;
            if failures >= TRIES && (self.is_closed() || cell.wanted().is_none()) {
                return tracing::error!(
                    channel = %self.channel,
                    method = self.spec.methods[key.0].name,
                    "a publication that nobody wants any more could not be withdrawn; giving up"
                );
            }
            sleep(backoff.next_pause()).await;
        }
    }

    /// How many keys are published.
    pub(super) fn publication_count(&self) -> usize {
        self.publications.cells.len()
    }
}

async fn settle(leader: &Leader, key: Key) {
    let cell = leader.publications.cells.get(&key);
    if !cell.start_settling() {
        return;
    }
    loop {
        leader.bring_in_line(&key).await;
        if cell.stop_settling() {
            return;
        }
    }
}
