//! What the public types and futures are to the compiler: a table that holds if this compiles.

use std::{fmt::Debug, sync::Arc};

use cluster_client::{
    Builder, Change, Cluster, Deliveries, Delivery, Error, ErrorKind, Health, LeaderStats, Options,
    Role, State, Subscription,
};

use crate::{backend::Backend, client::packed::Registry};

fn is_shared<T: Debug + Send + Sync + Unpin + 'static>() {}

fn is_cloned<T: Clone>() {}

fn is_error<T: std::error::Error + serde::Serialize + serde::de::DeserializeOwned>() {}

fn is_stream<T: futures::Stream>() {}

#[test]
fn types_can_be_shared_shown_and_moved() {
    is_shared::<Builder<Registry>>();
    is_shared::<Change<String>>();
    is_shared::<Cluster<Registry>>();
    is_shared::<Deliveries<String>>();
    is_shared::<Delivery<String>>();
    is_shared::<Error>();
    is_shared::<ErrorKind>();
    is_shared::<Health>();
    is_shared::<LeaderStats>();
    is_shared::<Options>();
    is_shared::<Role>();
    is_shared::<State>();
    is_shared::<Subscription<String>>();
    is_cloned::<Cluster<Registry>>();
    is_cloned::<Error>();
    is_cloned::<State>();
    is_cloned::<Subscription<String>>();
    is_error::<Error>();
    is_stream::<Subscription<String>>();
    is_stream::<Deliveries<String>>();
}

#[cfg(unix)]
#[test]
fn types_of_the_process_plane_can_be_sent_and_shown() {
    use cluster_client::{
        Agent, Death, Exit, Joining, MasterBuilder, MasterEvent, MasterHandle, ProcessName, Worker,
    };

    fn is_sent<T: Debug + Send + 'static>() {}

    is_shared::<Agent>();
    is_shared::<Worker>();
    is_cloned::<Agent>();
    is_cloned::<Worker>();
    is_shared::<Death>();
    is_shared::<Exit>();
    is_shared::<ProcessName>();
    is_shared::<MasterEvent>();
    is_sent::<Joining<Registry>>();
    is_sent::<MasterBuilder>();
    is_sent::<MasterHandle>();
}

#[tokio::test]
async fn futures_can_be_spawned() {
    fn is_send<F: Future + Send>(future: F) {
        drop(future);
    }

    let backend = Backend::new();
    let client = crate::support::single::<Registry>(&backend, Options::default()).await;
    let mut watch = client.watch("k");
    is_send(watch.changed());
    is_send(watch.ready());
    is_send(client.work().recv());
    is_send(client.echo(Vec::new()));
    is_send(client.watch_known("k".to_owned()));
    is_send(Cluster::<Registry>::builder().create(Arc::clone(&backend)));
    is_send(Cluster::<Registry>::builder().join());
    is_send(Cluster::close(client.clone()));
    // None was polled, and so nothing was done.
    assert_eq!(client.echo(vec![1]).await, Ok(vec![1]));
}
