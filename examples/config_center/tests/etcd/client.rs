//! The plain client alone, in one process.

use std::{pin::pin, time::Duration};

use cluster_client::Health;
use config_center::client::{ConfigClient, ConfigError, ConfigOptions, Entry, Instance};
use futures::{Stream, StreamExt};
use tokio::time::timeout;

use crate::support::{DEADLINE, Etcd, eventually};

fn options(etcd: &Etcd) -> ConfigOptions {
    ConfigOptions { endpoints: vec![etcd.url()], lease_ttl: Duration::from_secs(2) }
}

async fn connect(etcd: &Etcd) -> ConfigClient {
    ConfigClient::connect(options(etcd)).await.expect("a client")
}

/// The next item of a stream that never ends.
async fn next<T>(stream: &mut (impl Stream<Item = T> + Unpin)) -> T {
    timeout(DEADLINE, stream.next()).await.expect("an item in time").expect("the stream goes on")
}

/// The next value; errors before it are what a loss looks like.
async fn next_value<T>(
    stream: &mut (impl Stream<Item = Result<T, ConfigError>> + Unpin),
) -> (T, Vec<ConfigError>) {
    let mut errors = Vec::new();
    loop {
        match next(stream).await {
            Ok(value) => return (value, errors),
            Err(error) => errors.push(error),
        }
    }
}

fn value(entry: Option<Entry>) -> Option<String> {
    entry.map(|entry| entry.value)
}

#[tokio::test]
async fn a_watch_yields_the_current_value_and_each_later_one_in_order() {
    let etcd = Etcd::start();
    let client = connect(&etcd).await;
    let mut empty = pin!(client.watch("app/config"));
    assert_eq!(next(&mut empty).await.expect("a value"), None);

    client.put("app/config", "v1").await.expect("put");
    let mut late = pin!(client.watch("app/config"));
    assert_eq!(value(next(&mut late).await.expect("a value")), Some("v1".to_owned()));
    for i in 2..=20 {
        client.put("app/config", &format!("v{i}")).await.expect("put");
    }
    for stream in [&mut empty, &mut late] {
        let mut seen = Vec::new();
        while seen.last() != Some(&"v20".to_owned()) {
            seen.extend(value(next(stream).await.expect("a value")));
        }
        let last = &seen[seen.len() - 19..];
        assert_eq!(last, (2..=20).map(|i| format!("v{i}")).collect::<Vec<_>>());
    }
    etcd.client().await.delete("app/config", None).await.expect("delete");
    assert_eq!(next(&mut late).await.expect("a value"), None);
    let entry = client.get("app/config").await.expect("get");
    assert_eq!(entry, None);
}

#[tokio::test]
async fn a_watch_goes_on_after_etcd_died_without_missing_an_update() {
    let mut etcd = Etcd::start();
    let client = connect(&etcd).await;
    client.put("app/config", "v1").await.expect("put");
    let mut watch = pin!(client.watch("app/config"));
    next(&mut watch).await.expect("a value");

    etcd.kill();
    let lost = next(&mut watch).await;
    assert!(matches!(lost, Err(ConfigError::Unreachable(_))), "{lost:?}");
    let hidden = etcd.start_again_hidden();
    let mut other = etcd_client::Client::connect([hidden], None).await.expect("a client");
    for new in ["v2", "v3"] {
        other.put("app/config", new, None).await.expect("put");
    }
    etcd.kill();
    etcd.start_again();

    assert_eq!(value(next_value(&mut watch).await.0), Some("v2".to_owned()));
    assert_eq!(value(next_value(&mut watch).await.0), Some("v3".to_owned()));
}

#[tokio::test]
async fn a_watch_whose_revision_was_compacted_goes_on_from_the_current_value() {
    let mut etcd = Etcd::start();
    let client = connect(&etcd).await;
    client.put("app/config", "v1").await.expect("put");
    let mut watch = pin!(client.watch("app/config"));
    next(&mut watch).await.expect("a value");

    etcd.kill();
    assert!(next(&mut watch).await.is_err());
    let hidden = etcd.start_again_hidden();
    let mut other = etcd_client::Client::connect([hidden], None).await.expect("a client");
    other.put("app/config", "v2", None).await.expect("put");
    let put = other.put("app/config", "v3", None).await.expect("put");
    let revision = put.header().expect("a header").revision();
    other.compact(revision, None).await.expect("compact");
    etcd.kill();
    etcd.start_again();

    assert_eq!(value(next_value(&mut watch).await.0), Some("v3".to_owned()));
    client.put("app/config", "v4").await.expect("put");
    assert_eq!(value(next_value(&mut watch).await.0), Some("v4".to_owned()));
}

#[tokio::test]
async fn a_watch_shows_the_same_value_again_once_etcd_is_back() {
    let mut etcd = Etcd::start();
    let client = connect(&etcd).await;
    client.put("app/config", "v1").await.expect("put");
    let mut watch = pin!(client.watch("app/config"));
    let before = next(&mut watch).await.expect("a value");

    etcd.kill();
    assert!(next(&mut watch).await.is_err());
    etcd.start_again();
    assert_eq!(next_value(&mut watch).await.0, before);
}

#[tokio::test]
async fn an_instance_is_registered_until_its_client_closes() {
    let etcd = Etcd::start();
    let (one, two) = (connect(&etcd).await, connect(&etcd).await);
    let mut instances = pin!(one.instances("demo"));
    assert_eq!(next(&mut instances).await.expect("a value"), []);

    one.register(Instance::new("demo", "10.0.0.1:80")).await.expect("register");
    assert_eq!(next(&mut instances).await.expect("a value").len(), 1);
    two.register(Instance::new("demo", "10.0.0.2:80")).await.expect("register");
    two.register(Instance::new("demo", "10.0.0.3:80")).await.expect("register");
    next(&mut instances).await.expect("a value");
    let all = next(&mut instances).await.expect("a value");
    let addresses: Vec<_> = all.iter().map(|instance| instance.address.as_str()).collect();
    assert_eq!(addresses, ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]);

    two.deregister(Instance::new("demo", "10.0.0.3:80")).await.expect("deregister");
    assert_eq!(next(&mut instances).await.expect("a value").len(), 2);
    // What is bound to one lease goes as one update.
    two.close().await;
    let left = next(&mut instances).await.expect("a value");
    assert_eq!(left, [Instance::new("demo", "10.0.0.1:80")]);
}

#[tokio::test]
async fn an_expired_lease_is_replaced_and_a_registration_after_it_succeeds() {
    let etcd = Etcd::start();
    let client = connect(&etcd).await;
    let instance = Instance::new("demo", "10.0.0.1:80");
    client.register(instance.clone()).await.expect("register");

    let mut other = etcd.client().await;
    let leases = other.leases().await.expect("leases");
    let old = leases.leases().first().expect("one lease").id();
    other.lease_revoke(old).await.expect("the lease is gone as if it had expired");

    // At once, before a renewal could have found it out.
    client.register(instance).await.expect("register again");
    let leases = other.leases().await.expect("leases");
    let new = leases.leases().first().expect("one lease").id();
    assert_ne!(new, old);
    let bound = other.get("services/demo/10.0.0.1:80", None).await.expect("get");
    assert_eq!(bound.kvs().first().expect("it is there").lease(), new);
}

#[tokio::test]
async fn a_registration_outlives_many_terms_of_its_lease() {
    let etcd = Etcd::start();
    let client = connect(&etcd).await;
    client.register(Instance::new("demo", "10.0.0.1:80")).await.expect("register");
    let mut other = etcd.client().await;
    let lease = other.leases().await.expect("leases").leases().first().expect("one lease").id();

    // There are three renewals in a term, so that seven of them are more than two terms.
    eventually(async || (etcd.metric("etcd_debugging_lease_renewed_total") >= 7.0).then_some(()))
        .await;
    let alive = other.lease_time_to_live(lease, None).await.expect("it is known").ttl();
    assert!(alive > 0, "the lease expired");
    let bound = other.get("services/demo/10.0.0.1:80", None).await.expect("get");
    assert_eq!(bound.kvs().len(), 1);
}

#[tokio::test]
async fn a_frozen_etcd_is_told_by_health_and_by_the_watch() {
    let etcd = Etcd::start();
    let client = connect(&etcd).await;
    let mut watch = pin!(client.watch("app/config"));
    next(&mut watch).await.expect("a value");
    let mut health = pin!(client.health());

    etcd.signal("STOP");
    assert!(matches!(next(&mut health).await, Health::Lost(_)));
    let lost = next(&mut watch).await;
    assert!(matches!(lost, Err(ConfigError::Unreachable(_))), "{lost:?}");
    etcd.signal("CONT");
    assert_eq!(next(&mut health).await, Health::Restored);
    assert_eq!(next_value(&mut watch).await.0, None);
}

#[tokio::test]
async fn health_is_restored_when_a_lease_was_replaced() {
    let etcd = Etcd::start();
    let client = connect(&etcd).await;
    let mut health = pin!(client.health());
    let mut other = etcd.client().await;
    let lease = other.leases().await.expect("leases").leases().first().expect("one lease").id();
    other.lease_revoke(lease).await.expect("the lease is gone as if it had expired");
    // The loss may be over before anybody looks.
    while next(&mut health).await != Health::Restored {}
}

#[tokio::test]
async fn without_etcd_nothing_hangs() {
    let mut etcd = Etcd::start();
    let client = connect(&etcd).await;
    etcd.kill();
    let get = timeout(DEADLINE, client.get("app/config")).await.expect("an answer");
    assert!(matches!(get, Err(ConfigError::Unreachable(_))), "{get:?}");
    let again = timeout(DEADLINE, ConfigClient::connect(options(&etcd))).await.expect("an answer");
    assert!(matches!(again, Err(ConfigError::Unreachable(_))), "{again:?}");
}
