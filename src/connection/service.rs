//! The one small thread of a process for what user code must not be able to block: accepting,
//! handshakes, and the liveness links.

use std::sync::OnceLock;

use tokio::runtime::{Builder, Handle};

use crate::error::{Error, Result};

static SERVICE: OnceLock<Result<Handle>> = OnceLock::new();

/// The runtime of the service thread, which is started at the first call and lives as long as the
/// process.
///
/// # Errors
///
/// The operating system gives no thread or no poll descriptor. This is final for the process.
pub(crate) fn service() -> Result<Handle> {
    SERVICE.get_or_init(start).clone()
}

fn start() -> Result<Handle> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::io("the service runtime can't be started", &error))?;
    let handle = runtime.handle().clone();
    std::thread::Builder::new()
        .name("cluster-service".to_owned())
        .spawn(move || runtime.block_on(std::future::pending::<()>()))
        .map_err(|error| Error::io("the service thread can't be started", &error))?;
    Ok(handle)
}
