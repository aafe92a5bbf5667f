//! The example of the documentation.

#![deny(warnings)]

use cluster_client::{Cluster, Error, Health, Subscription, cluster_client};
use futures::{Stream, stream};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug)]
pub struct RegistryOptions;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Registration {
    data_id: String,
    url: String,
}

#[derive(Debug)]
pub struct RegistryError(String);

impl From<Error> for RegistryError {
    fn from(error: Error) -> Self {
        Self(error.to_string())
    }
}

impl std::fmt::Display for RegistryError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for RegistryError {}

pub struct RegistryClient(RegistryOptions);

#[cluster_client]
impl RegistryClient {
    #[connect]
    pub async fn connect(options: RegistryOptions) -> Result<Self, RegistryError> {
        Ok(Self(options))
    }

    #[subscribe]
    pub fn subscribe(&self, data_id: &str) -> impl Stream<Item = Vec<String>> {
        stream::iter([vec![data_id.to_owned()]])
    }

    #[publish(key = (&reg.data_id, &reg.url))]
    pub async fn publish(&self, reg: Registration) -> Result<(), RegistryError> {
        Err(RegistryError(reg.data_id))
    }

    #[unpublish]
    pub async fn unpublish(&self, reg: Registration) -> Result<(), RegistryError> {
        Err(RegistryError(reg.url))
    }

    #[invoke]
    pub async fn get_config(&self, data_id: &str) -> Result<Option<Vec<String>>, RegistryError> {
        Ok(Some(vec![data_id.to_owned()]))
    }

    #[health]
    fn health(&self) -> impl Stream<Item = Health> {
        stream::pending()
    }

    #[close]
    async fn close(&self) {
        let _options = &self.0;
    }
}

/// The user of the client sees the client's own methods and types.
pub async fn user(registry: Cluster<RegistryClient>) -> Result<(), RegistryError> {
    let _urls: Subscription<Vec<String>> = registry.subscribe("demo.DemoService");
    let reg = Registration { data_id: "demo".into(), url: "http://10.0.0.1:80".into() };
    registry.publish(reg.clone()).await?;
    registry.unpublish(reg).await?;
    let _config: Option<Vec<String>> = registry.get_config("demo.DemoService").await?;
    Ok(())
}

fn main() {}
