//! The wrapped client of the tests, once for each codec.

/// What the client can fail with.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub(crate) enum RegistryError {
    Refused(String),
    NotFound {
        key: String,
    },
    /// A fault between this process and the client.
    Link(String, String),
}

impl std::fmt::Display for RegistryError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(reason) => write!(f, "refused: {reason}"),
            Self::NotFound { key } => write!(f, "no such key: {key}"),
            Self::Link(kind, text) => write!(f, "{kind}: {text}"),
        }
    }
}

impl std::error::Error for RegistryError {}

impl From<cluster_client::Error> for RegistryError {
    fn from(error: cluster_client::Error) -> Self {
        Self::Link(error.kind().to_string(), error.to_string())
    }
}

impl cluster_client::ErrorCode for RegistryError {
    fn code(&self) -> String {
        match self {
            Self::Refused(_) => "REFUSED",
            Self::NotFound { .. } => "NOT_FOUND",
            Self::Link(..) => "LINK",
        }
        .to_owned()
    }
}

/// An error that can't cross by value.
#[derive(Debug)]
pub(crate) struct PlainError(pub(crate) cluster_client::Error);

impl From<cluster_client::Error> for PlainError {
    fn from(error: cluster_client::Error) -> Self {
        Self(error)
    }
}

impl std::fmt::Display for PlainError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "plain: {}", self.0)
    }
}

#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Registration {
    pub(crate) key: String,
    pub(crate) url: String,
    pub(crate) weight: u32,
}

impl Registration {
    pub(crate) fn new(key: &str, url: &str) -> Self {
        Self { key: key.to_owned(), url: url.to_owned(), weight: 1 }
    }
}

macro_rules! registry {
    ($name:ident, $codec:ident) => {
        pub(crate) struct $name(pub(crate) std::sync::Arc<crate::backend::Backend>);

        #[cluster_client::cluster_client(codec = $codec)]
        impl $name {
            #[connect]
            pub(crate) async fn connect(
                backend: std::sync::Arc<crate::backend::Backend>,
            ) -> Result<Self, RegistryError> {
                backend.connects.fetch_add(1, SeqCst);
                if backend.fail_connect.load(SeqCst) {
                    return Err(RegistryError::Refused("no route".to_owned()));
                }
                Ok(Self(backend))
            }

            #[subscribe]
            pub(crate) fn watch(
                &self,
                key: &str,
            ) -> impl Stream<Item = Result<String, RegistryError>> {
                self.0.stream(key).map(|step| match step {
                    Step::Value(value) => Ok(value),
                    Step::Error(reason) => Err(RegistryError::Refused(reason)),
                    Step::End | Step::Panic => unreachable!("the stream itself does these"),
                })
            }

            /// Refuses keys that start with `no`.
            #[subscribe]
            pub(crate) async fn watch_known(
                &self,
                key: String,
            ) -> Result<impl Stream<Item = String>, RegistryError> {
                if key.starts_with("no") {
                    return Err(RegistryError::NotFound { key });
                }
                let fail = self.0.fail_open.try_update(SeqCst, SeqCst, |left| left.checked_sub(1));
                if fail.is_ok() {
                    return Err(RegistryError::Refused("not yet".to_owned()));
                }
                Ok(self.0.stream(&key).filter_map(|step| async move {
                    match step {
                        Step::Value(value) => Some(value),
                        _ => None,
                    }
                }))
            }

            #[subscribe(quiet = "3s")]
            pub(crate) fn ticks(
                &self,
                key: &str,
            ) -> impl Stream<Item = Result<String, RegistryError>> {
                self.watch(key)
            }

            #[subscribe(deliver = "one")]
            pub(crate) fn work(&self) -> impl Stream<Item = String> {
                futures::stream::unfold((), |()| async { Some((self.0.next_work().await, ())) })
            }

            #[publish(key = (&registration.key, &registration.url))]
            pub(crate) async fn publish(
                &self,
                registration: Registration,
            ) -> Result<(), RegistryError> {
                self.0
                    .register(
                        &registration.key,
                        &format!("{}#{}", registration.url, registration.weight),
                    )
                    .map_err(RegistryError::Refused)
            }

            #[unpublish]
            pub(crate) async fn unpublish(
                &self,
                registration: Registration,
            ) -> Result<(), RegistryError> {
                self.0.unregister(
                    &registration.key,
                    &format!("{}#{}", registration.url, registration.weight),
                );
                Ok(())
            }

            #[invoke]
            pub(crate) async fn echo(&self, bytes: Vec<u8>) -> Result<Vec<u8>, RegistryError> {
                self.0.calls.fetch_add(1, SeqCst);
                Ok(bytes)
            }

            #[invoke]
            pub(crate) async fn get(&self, key: &str) -> Result<String, RegistryError> {
                let value = crate::backend::lock(&self.0.values).get(key).cloned();
                value.ok_or_else(|| RegistryError::NotFound { key: key.to_owned() })
            }

            #[invoke]
            pub(crate) async fn plain(&self) -> Result<(), PlainError> {
                Err(PlainError(cluster_client::Error::new(ErrorKind::Io, "disk on fire")))
            }

            #[invoke]
            pub(crate) async fn many(
                &self,
                a: &str,
                b: &[u32],
                c: (u8, bool),
                d: Option<String>,
            ) -> Result<String, RegistryError> {
                Ok(format!("{a} {b:?} {c:?} {d:?}"))
            }

            #[invoke]
            pub(crate) async fn slow(&self) -> Result<u64, RegistryError> {
                struct Cancelled<'a>(&'a crate::backend::Backend, bool);
                impl Drop for Cancelled<'_> {
                    fn drop(&mut self) {
                        if !self.1 {
                            self.0.cancelled.fetch_add(1, SeqCst);
                        }
                    }
                }
                let mut guard = Cancelled(&self.0, false);
                let call = self.0.calls.fetch_add(1, SeqCst);
                self.0.gate.notified().await;
                guard.1 = true;
                Ok(call)
            }

            #[invoke(idempotent)]
            pub(crate) async fn slow_idempotent(&self) -> Result<u64, RegistryError> {
                self.slow().await
            }

            #[invoke(share)]
            pub(crate) async fn shared(&self, key: &str) -> Result<String, RegistryError> {
                self.slow().await.map(|call| format!("{key} {call}"))
            }

            #[invoke(timeout = "300ms")]
            pub(crate) async fn hasty(&self) -> Result<u64, RegistryError> {
                self.slow().await
            }

            #[invoke(oneway)]
            pub(crate) async fn note(&self, text: String) -> Result<(), RegistryError> {
                if text == "fail" {
                    return Err(RegistryError::Refused(text));
                }
                crate::backend::lock(&self.0.log).push(text);
                Ok(())
            }

            #[invoke]
            pub(crate) async fn panic(&self) -> Result<(), RegistryError> {
                panic!("asked to")
            }

            #[health]
            fn health(&self) -> impl Stream<Item = cluster_client::Health> {
                futures::stream::unfold(self.0.health(), |mut health| async {
                    health.recv().await.ok().map(|report| (report, health))
                })
            }

            #[close]
            async fn close(&self) {
                tokio::task::yield_now().await;
                self.0.closes.fetch_add(1, SeqCst);
            }

            /// Not marked, so that it can't be reached over the wire.
            #[expect(dead_code, reason = "it is here to be out of reach")]
            fn secret(&self) -> &'static str {
                "secret"
            }
        }
    };
}

pub(crate) mod packed {
    use std::sync::atomic::Ordering::SeqCst;

    use cluster_client::ErrorKind;
    use futures::{Stream, StreamExt as _};

    use super::{PlainError, Registration, RegistryError};
    use crate::backend::Step;

    registry!(Registry, MessagePack);
}

pub(crate) mod json {
    use std::sync::atomic::Ordering::SeqCst;

    use cluster_client::ErrorKind;
    use futures::{Stream, StreamExt as _};

    use super::{PlainError, Registration, RegistryError};
    use crate::backend::Step;

    registry!(JsonRegistry, Json);
}
