//! The whole: a master, an agent, workers, and an etcd that dies and comes back.

use config_center::report::Event;
use etcd_client::{Client, KeyValue, PutOptions};

use crate::support::{
    Etcd, eventually,
    group::{Group, KEY},
    send_signal,
};

const SERVICE: &str = "services/config_center/";

async fn put(etcd: &mut Client, value: &str) -> i64 {
    let put = etcd.put(KEY, value, None::<PutOptions>).await.expect("put");
    put.header().expect("a header").revision()
}

/// The registrations, with the lease that each is bound to.
async fn registrations(etcd: &mut Client) -> Vec<KeyValue> {
    let prefix = etcd_client::GetOptions::new().with_prefix();
    etcd.get(SERVICE, Some(prefix)).await.expect("get").kvs().to_vec()
}

/// The one watcher of etcd: opening and closing one is not at rest.
async fn wait_for_watchers(etcd: &Etcd, expected: u32) {
    eventually(async || {
        let watchers = etcd.metric("etcd_debugging_mvcc_watcher_total");
        (watchers == f64::from(expected)).then_some(())
    })
    .await;
}

fn is_stale(event: &Event) -> bool {
    matches!(event, Event::Stale { .. })
}

fn is_live(event: &Event) -> bool {
    matches!(event, Event::Live { .. })
}

#[tokio::test]
async fn eight_workers_share_one_watcher_and_one_connection() {
    let etcd = Etcd::start();
    let mut client = etcd.client().await;
    put(&mut client, "v1").await;

    let group = Group::start(&etcd.url(), 8, &[]);
    let workers = group.wait_for_value(0, 8, "v1");
    wait_for_watchers(&etcd, 1).await;
    assert_eq!(etcd.connections_of(group.wait_for_leader(0)), 1);
    for pid in workers.into_values() {
        assert_eq!(etcd.connections_of(pid), 0);
    }

    assert_eq!(registrations(&mut client).await.len(), 8);
    for value in ["v2", "v3"] {
        put(&mut client, value).await;
        group.wait_for_value(0, 8, value);
    }
    wait_for_watchers(&etcd, 1).await;
    group.assert_readable_throughout();

    assert_eq!(group.stop(), Some(0));
    // What was registered is withdrawn by those who leave, not by a lease that runs out.
    assert_eq!(registrations(&mut client).await.len(), 0);
    wait_for_watchers(&etcd, 0).await;
}

#[tokio::test]
async fn every_worker_sees_the_instances_of_all() {
    let etcd = Etcd::start();
    let group = Group::start(&etcd.url(), 3, &["--instances"]);
    let all = ["127.0.0.1:8000", "127.0.0.1:8001", "127.0.0.1:8002"];
    group.wait_for_each(
        0,
        3,
        "all instances",
        |event| matches!(event, Event::Instances { addresses } if addresses == &all),
    );
    wait_for_watchers(&etcd, 2).await;
}

#[tokio::test]
async fn a_killed_agent_is_survived() {
    let etcd = Etcd::start();
    let mut client = etcd.client().await;
    put(&mut client, "v1").await;
    let group = Group::start(&etcd.url(), 4, &[]);
    let workers = group.wait_for_value(0, 4, "v1");
    let agent = group.wait_for_leader(0);

    let killed = group.now();
    send_signal(agent, "KILL");
    assert_eq!(group.wait_for_each(killed, 4, "stale", is_stale), workers);
    let next_agent = group.wait_for_leader(killed);
    assert_ne!(next_agent, agent);
    assert_eq!(group.wait_for_each(killed, 4, "live again", is_live), workers);

    put(&mut client, "v2").await;
    assert_eq!(group.wait_for_value(killed, 4, "v2"), workers);
    wait_for_watchers(&etcd, 1).await;
    // The registrations are bound to the lease of the new agent before that of the old one ends.
    wait_for_own_lease(&mut client, 4).await;
    group.assert_readable_throughout();
}

#[tokio::test]
async fn a_value_that_changed_while_no_agent_lived_reaches_all() {
    let etcd = Etcd::start();
    let mut client = etcd.client().await;
    put(&mut client, "v1").await;
    let group = Group::start(&etcd.url(), 4, &[]);
    let workers = group.wait_for_value(0, 4, "v1");
    let agent = group.wait_for_leader(0);

    let killed = group.now();
    send_signal(agent, "KILL");
    put(&mut client, "v2").await;
    assert_eq!(group.wait_for_value(killed, 4, "v2"), workers);
    group.assert_readable_throughout();
}

#[tokio::test]
async fn a_killed_worker_is_survived_and_stays_registered() {
    let etcd = Etcd::start();
    let mut client = etcd.client().await;
    put(&mut client, "v1").await;
    let group = Group::start(&etcd.url(), 4, &[]);
    let workers = group.wait_for_value(0, 4, "v1");
    group.wait_for_each(0, 4, "ready", |event| *event == Event::Ready);
    let registered = registrations(&mut client).await;
    assert_eq!(registered.len(), 4);

    let killed = group.now();
    let victim = workers["worker 2"];
    send_signal(victim, "KILL");
    let replacement = group.wait_for_value(killed, 1, "v1");
    assert_ne!(replacement["worker 2"], victim);
    put(&mut client, "v2").await;
    let after = group.wait_for_value(killed, 4, "v2");
    for survivor in ["worker 0", "worker 1", "worker 3"] {
        assert_eq!(after[survivor], workers[survivor]);
    }
    group.wait(killed, "nobody was stale", |reports| {
        (!reports.iter().any(|report| is_stale(&report.event))).then_some(())
    });
    wait_for_watchers(&etcd, 1).await;
    // The replacement is the next owner of what its predecessor registered: etcd saw no change.
    let revisions = |kvs: &[KeyValue]| kvs.iter().map(KeyValue::mod_revision).collect::<Vec<_>>();
    assert_eq!(revisions(&registrations(&mut client).await), revisions(&registered));
    group.assert_readable_throughout();
}

#[tokio::test]
async fn a_killed_etcd_is_survived_with_an_expired_lease_and_a_compacted_revision() {
    let mut etcd = Etcd::start();
    let mut client = etcd.client().await;
    put(&mut client, "v1").await;
    let group = Group::start(&etcd.url(), 4, &[]);
    let workers = group.wait_for_value(0, 4, "v1");
    let agent = group.wait_for_leader(0);
    group.wait_for_each(0, 4, "ready", |event| *event == Event::Ready);

    let killed = group.now();
    etcd.kill();
    assert_eq!(group.wait_for_each(killed, 4, "stale", is_stale), workers);

    // Where the agent does not find it, etcd runs on: the lease ends, values change, and the
    // revision that the agent has is compacted away.
    let hidden = etcd.start_again_hidden();
    let mut other = Client::connect([hidden], None).await.expect("a client");
    eventually(async || registrations(&mut other).await.is_empty().then_some(())).await;
    put(&mut other, "v2").await;
    let revision = put(&mut other, "v3").await;
    other.compact(revision, None).await.expect("compact");
    etcd.kill();
    etcd.start_again();

    assert_eq!(group.wait_for_value(killed, 4, "v3"), workers);
    let mut client = etcd.client().await;
    eventually(async || (registrations(&mut client).await.len() == 4).then_some(())).await;
    wait_for_own_lease(&mut client, 4).await;
    put(&mut client, "v4").await;
    assert_eq!(group.wait_for_value(killed, 4, "v4"), workers);
    wait_for_watchers(&etcd, 1).await;
    group.wait(killed, "no other agent was needed", |reports| {
        (!reports.iter().any(|report| report.event == Event::Leads)).then_some(())
    });
    send_signal(agent, "0");
    group.assert_readable_throughout();
    assert_eq!(group.stop(), Some(0));
}

#[tokio::test]
async fn a_frozen_etcd_is_told_and_survived() {
    let etcd = Etcd::start();
    let mut client = etcd.client().await;
    put(&mut client, "v1").await;
    let group = Group::start(&etcd.url(), 2, &[]);
    let workers = group.wait_for_value(0, 2, "v1");

    let frozen = group.now();
    etcd.signal("STOP");
    assert_eq!(group.wait_for_each(frozen, 2, "stale", is_stale), workers);
    etcd.signal("CONT");
    assert_eq!(group.wait_for_each(frozen, 2, "live again", is_live), workers);
    put(&mut client, "v2").await;
    assert_eq!(group.wait_for_value(frozen, 2, "v2"), workers);
    group.assert_readable_throughout();
}

#[tokio::test]
async fn an_agent_that_dies_while_etcd_is_away_is_survived() {
    let mut etcd = Etcd::start();
    let mut client = etcd.client().await;
    put(&mut client, "v1").await;
    let group = Group::start(&etcd.url(), 2, &[]);
    let workers = group.wait_for_value(0, 2, "v1");
    let agent = group.wait_for_leader(0);

    let killed = group.now();
    etcd.kill();
    group.wait_for_each(killed, 2, "stale", is_stale);
    send_signal(agent, "KILL");
    etcd.start_again();
    assert_ne!(group.wait_for_leader(killed), agent);
    assert_eq!(group.wait_for_each(killed, 2, "live again", is_live), workers);
    let mut client = etcd.client().await;
    put(&mut client, "v2").await;
    assert_eq!(group.wait_for_value(killed, 2, "v2"), workers);
    group.assert_readable_throughout();
}

#[tokio::test]
async fn without_etcd_the_program_does_not_start() {
    let mut etcd = Etcd::start();
    etcd.kill();
    let mut group = Group::start(&etcd.url(), 2, &[]);
    assert_eq!(group.wait_for_exit(), Some(1));
    assert_eq!(group.now(), 0, "no worker was started");
}

/// Waits until so many registrations are bound to one lease, and that is the only one there is.
async fn wait_for_own_lease(etcd: &mut Client, expected: usize) {
    eventually(async || {
        let leases = etcd.leases().await.expect("leases");
        let [lease] = leases.leases() else { return None };
        let registered = registrations(etcd).await;
        let all = registered.iter().all(|kv| kv.lease() == lease.id());
        (registered.len() == expected && all).then_some(())
    })
    .await;
}
