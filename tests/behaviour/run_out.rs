//! What runs to its end though nobody waits for it, what does not, and in which order.

use std::{
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use cluster_client::{Cluster, Options, Role, cluster_client};
use futures::{FutureExt as _, future::join_all};
use tokio::{
    sync::{Notify, mpsc},
    time::sleep,
};

use crate::{
    backend::Backend,
    client::{Registration, RegistryError, packed::Registry},
    support::{
        Cast, Place, TOKEN, calm, cast_with, follow, free_port, lead, options, port, soon, until,
    },
};

/// What happens to the client, in order, and what lets its methods end.
struct Doings {
    done: mpsc::UnboundedSender<&'static str>,
    begun: Notify,
}

struct Office(Arc<Doings>);

#[cluster_client]
impl Office {
    #[connect]
    async fn connect(doings: Arc<Doings>) -> Result<Self, cluster_client::Error> {
        Ok(Self(doings))
    }

    #[invoke(oneway)]
    async fn note(&self) {
        self.0.begun.notify_one();
        sleep(Duration::from_millis(50)).await;
        let _ = self.0.done.send("noted");
    }

    #[close]
    async fn close(&self) {
        let _ = self.0.done.send("closed");
    }
}

async fn closes_behind_what_runs(role: Role, has_begun: bool) {
    let (done, mut hears) = mpsc::unbounded_channel();
    let doings = Arc::new(Doings { done, begun: Notify::new() });
    let builder = Cluster::<Office>::builder().channel(format!("office {role:?} {has_begun}"));
    let builder = builder.role(role).port(0).token(TOKEN).options(options());
    let office = builder.create(Arc::clone(&doings)).await.unwrap();
    office.note().await;
    if has_begun {
        soon("the note", doings.begun.notified()).await;
    }
    soon("the close", Cluster::close(office)).await;
    assert_eq!(hears.try_recv(), Ok("noted"));
    assert_eq!(hears.try_recv(), Ok("closed"));
}

#[tokio::test]
async fn a_leader_that_closes_waits_for_the_oneway_calls_that_run() {
    closes_behind_what_runs(Role::Leader, true).await;
    closes_behind_what_runs(Role::Single, true).await;
}

#[tokio::test]
async fn a_leader_that_closes_runs_the_oneway_calls_that_were_sent_before() {
    closes_behind_what_runs(Role::Leader, false).await;
    closes_behind_what_runs(Role::Single, false).await;
}

#[tokio::test]
async fn a_oneway_call_of_a_process_that_leaves_at_once_runs_to_its_end() {
    for closes in [true, false] {
        let Cast { leader: _leader, user, backend } =
            cast_with::<Registry>(Place::Follower, options()).await;
        user.note("last words".to_owned()).await.unwrap();
        if closes {
            Cluster::close(user).await;
        } else {
            drop(user);
        }
        until("the note", || backend.log() == ["last words"]).await;
    }
}

#[tokio::test]
async fn an_unpublish_that_is_dropped_on_its_way_runs_to_its_end() {
    let (backend, port) = (Backend::new(), free_port());
    let leader = lead::<Registry>(&backend, port, calm()).await;
    let user = follow::<Registry>(port, calm()).await;
    for url in ["a", "b"] {
        user.publish(Registration::new("k", url)).await.unwrap();
    }
    // One poll: it is queued and not yet written.
    assert!(user.unpublish(Registration::new("k", "a")).now_or_never().is_none());
    until("withdrawn", || backend.registered() == ["k=b#1"]).await;
    Cluster::close(leader).await;
    let backend = Backend::new();
    let _leader = lead::<Registry>(&backend, port, calm()).await;
    until("published again", || backend.registered() == ["k=b#1"]).await;
    user.echo(Vec::new()).await.unwrap();
    assert_eq!(backend.log(), ["publish k=b#1"]);
}

#[tokio::test]
async fn what_one_owner_publishes_keeps_its_order_however_large_each_is() {
    let Cast { leader: _leader, user, backend } =
        cast_with::<Registry>(Place::Follower, options()).await;
    let urls = ["x".repeat(300 << 10), "s".to_owned(), "y".repeat(200 << 10), "t".to_owned()];
    let publish = |url: &String| {
        let (user, registration) = (user.clone(), Registration::new("k", url));
        async move { user.publish(registration).await }
    };
    for published in soon("all", join_all(urls.iter().map(publish))).await {
        published.unwrap();
    }
    let wanted: Vec<_> = urls.iter().map(|url| format!("publish k={url}#1")).collect();
    assert!(backend.log() == wanted, "another order");
}

#[tokio::test]
async fn calls_on_their_way_end_when_their_client_is_closed() {
    let Cast { leader: _leader, user, backend } =
        cast_with::<Registry>(Place::Follower, options()).await;
    let caller = user.clone();
    let slow = tokio::spawn(async move { caller.slow().await });
    until("called", || backend.calls.load(SeqCst) == 1).await;
    Cluster::close(user).await;
    let ended = soon("the end", slow).await.unwrap().unwrap_err();
    assert!(matches!(&ended, RegistryError::Link(kind, _) if kind == "closed"), "{ended:?}");
    until("cancelled", || backend.cancelled.load(SeqCst) == 1).await;
}

#[tokio::test]
async fn a_shared_call_runs_under_the_longest_deadline() {
    let backend = Backend::new();
    let leader = lead::<Registry>(&backend, 0, options()).await;
    let hasty = Options { call_timeout: Duration::from_secs(2), ..options() };
    let (hasty, patient) =
        (follow::<Registry>(port(&leader), hasty).await, follow(port(&leader), options()).await);
    let call = |user: &Cluster<Registry>| {
        let user = user.clone();
        tokio::spawn(async move { user.shared("k").await })
    };
    let first = call(&hasty);
    until("called", || backend.calls.load(SeqCst) == 1).await;
    let second = call(&patient);
    let late = soon("the deadline", first).await.unwrap().unwrap_err();
    assert!(matches!(&late, RegistryError::Link(kind, _) if kind == "timeout"), "{late:?}");
    // Of what is past its deadline the leader has heard once it answers this.
    hasty.echo(Vec::new()).await.unwrap();
    assert_eq!(backend.cancelled.load(SeqCst), 0);
    backend.gate.notify_waiters();
    assert_eq!(soon("the answer", second).await.unwrap(), Ok("k 0".to_owned()));
}
