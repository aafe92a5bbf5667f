//! How to test code that uses a wrapped client, without a cluster, sockets or the upstream.
//!
//! ```sh
//! cargo run --example fake     # the code with the real client, in this one process
//! cargo test --example fake    # its unit tests, with a fake
//! ```
//!
//! `trait = Registry` makes `#[cluster_client]` emit a trait with the methods that every process can
//! call. `Cluster<RegistryClient>` implements it, and so can a fake.

use std::{fmt, future::Future};

use cluster_client::{Cluster, Role, Subscription, cluster_client};
use futures::{Stream, StreamExt, stream};
use serde::{Deserialize, Serialize};

/// The client of the registry. It would hold a connection; this one knows two URLs by heart.
struct RegistryClient;

#[cluster_client(trait = Registry)]
impl RegistryClient {
    /// Connects to nothing.
    #[connect]
    async fn connect() -> Result<Self, RegistryError> {
        Ok(Self)
    }

    /// The URLs of a service.
    #[subscribe]
    fn urls(&self, service: &str) -> impl Stream<Item = Vec<String>> + Send + use<> {
        let urls = ["a", "b"].map(|host| format!("http://{host}/{service}"));
        stream::once(async { Vec::from(urls) }).chain(stream::pending())
    }

    /// How much of the traffic a URL gets, in percent.
    #[invoke(idempotent)]
    async fn weight(&self, url: &str) -> Result<u32, RegistryError> {
        Ok(if url.starts_with("http://a/") { 90 } else { 10 })
    }
}

/// Why the registry gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum RegistryError {
    /// It does not know the URL.
    UnknownUrl(String),
    /// The way to it is the problem.
    Unreachable(String),
}

impl fmt::Display for RegistryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownUrl(url) => write!(f, "unknown URL {url}"),
            Self::Unreachable(cause) => write!(f, "the registry can't be reached: {cause}"),
        }
    }
}

impl std::error::Error for RegistryError {}

impl From<cluster_client::Error> for RegistryError {
    fn from(error: cluster_client::Error) -> Self {
        Self::Unreachable(error.to_string())
    }
}

/// The code under test. It takes whatever behaves like the registry.
async fn heaviest_url(
    registry: &impl Registry,
    service: &str,
) -> Result<Option<String>, RegistryError> {
    let mut urls = registry.urls(service);
    let Some(urls) = urls.next().await else { return Ok(None) };
    let mut heaviest = None;
    for url in urls.iter() {
        // A URL that just went is no reason to fail.
        let weight = match registry.weight(url).await {
            Err(RegistryError::UnknownUrl(_)) => continue,
            weight => weight?,
        };
        if heaviest.as_ref().is_none_or(|(most, _)| weight > *most) {
            heaviest = Some((weight, url.clone()));
        }
    }
    Ok(heaviest.map(|(_, url)| url))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let registry = Cluster::<RegistryClient>::builder().role(Role::Single).create(()).await?;
    let url = heaviest_url(&registry, "orders").await?;
    println!("with the client, in one process: {url:?}");
    assert_eq!(url.as_deref(), Some("http://a/orders"));

    let url = heaviest_url(&fakes::Fixed(&[("http://x", 1), ("http://y", 2)]), "orders").await?;
    println!("with a fake: {url:?}");
    assert_eq!(url.as_deref(), Some("http://y"));
    Ok(())
}

/// Fakes, as the unit tests of a user would have them.
mod fakes {
    use super::*;

    /// Knows these URLs with their weights; a weight of 0 is a URL that just went.
    pub(crate) struct Fixed(pub(crate) &'static [(&'static str, u32)]);

    impl Registry for Fixed {
        fn urls(&self, _: &str) -> Subscription<Vec<String>> {
            let urls = self.0.iter().map(|(url, _)| (*url).to_owned()).collect();
            Subscription::from_stream(stream::once(async { urls }))
        }

        fn weight(&self, url: &str) -> impl Future<Output = Result<u32, RegistryError>> + Send {
            let found = self.0.iter().find(|(known, weight)| *known == url && *weight > 0);
            let weight = found.map(|(_, weight)| *weight);
            let result = weight.ok_or_else(|| RegistryError::UnknownUrl(url.to_owned()));
            async { result }
        }
    }

    /// Is out of order.
    #[cfg(test)]
    pub(crate) struct Broken;

    #[cfg(test)]
    impl Registry for Broken {
        fn urls(&self, _: &str) -> Subscription<Vec<String>> {
            Subscription::from_stream(stream::once(async { vec!["http://x".to_owned()] }))
        }

        async fn weight(&self, _: &str) -> Result<u32, RegistryError> {
            Err(RegistryError::Unreachable("by order of the test".to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{fakes::*, *};

    #[tokio::test]
    async fn the_heaviest_url_is_chosen() {
        let registry = Fixed(&[("http://x", 20), ("http://y", 70), ("http://z", 10)]);
        assert_eq!(heaviest_url(&registry, "orders").await, Ok(Some("http://y".to_owned())));
    }

    #[tokio::test]
    async fn a_url_that_just_went_is_passed_over() {
        let registry = Fixed(&[("http://x", 0), ("http://y", 1)]);
        assert_eq!(heaviest_url(&registry, "orders").await, Ok(Some("http://y".to_owned())));
    }

    #[tokio::test]
    async fn a_service_without_urls_has_no_heaviest() {
        assert_eq!(heaviest_url(&Fixed(&[]), "orders").await, Ok(None));
    }

    #[tokio::test]
    async fn an_unreachable_registry_is_an_error() {
        let error = heaviest_url(&Broken, "orders").await.unwrap_err();
        assert!(matches!(error, RegistryError::Unreachable(_)), "{error}");
    }
}
