//! The one small thread of a process for what user code must not be able to block: accepting,
//! handshakes, and the liveness links.

use std::{sync::OnceLock, time::Duration};

use tokio::{
    runtime::{Builder, Handle, Id},
    time::{Timeout, timeout},
};

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

/// As tokio's `timeout`, for what may be awaited anywhere: in another runtime than that of `home`, which
/// may have no timer, or in none at all. There the timer is that of the service thread, which runs
/// though the runtime at home may be blocked.
///
/// # Errors
///
/// As [`service`].
pub(crate) fn timeout_anywhere<F: Future>(
    home: Option<Id>,
    limit: Duration,
    future: F,
) -> Result<Timeout<F>> {
    let is_home = Handle::try_current().is_ok_and(|here| Some(here.id()) == home);
    let service = if is_home { None } else { Some(service()?) };
    let _context = service.as_ref().map(Handle::enter);
    Ok(timeout(limit, future))
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
