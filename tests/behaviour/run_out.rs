//! What nobody waits for runs to its end all the same, before the client is closed.

use std::{sync::Arc, time::Duration};

use cluster_client::{Cluster, Role, cluster_client};
use tokio::{
    sync::{Notify, mpsc},
    time::sleep,
};

use crate::support::{TOKEN, options, soon};

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
