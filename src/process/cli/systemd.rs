//! What a service manager is told: systemd, or whoever else made the socket in `$NOTIFY_SOCKET`.
//!
//! | when | message |
//! | --- | --- |
//! | the cluster is ready | `READY=1` |
//! | a reload begins | `RELOADING=1` with `MONOTONIC_USEC` |
//! | a reload is over, whatever came of it | `READY=1` |
//! | the stop begins | `STOPPING=1` |
//! | twice in `$WATCHDOG_USEC`, when the master's own loop has answered | `WATCHDOG=1` |
//!
//! Each comes with a `STATUS` for people. Without `$NOTIFY_SOCKET` nobody is told anything.

use std::{collections::BTreeMap, convert::Infallible, net::TcpListener, time::Duration};

use listenfd::ListenFd;
use sd_notify::{NotifyState, notify, watchdog_enabled};
use tokio::time::{MissedTickBehavior, interval};

use crate::{
    error::{Error, Result},
    process::{MasterEvent, MasterHandle, words::counted},
};

/// The listening sockets that the service manager gives, by name.
///
/// # Errors
///
/// One is no TCP socket, has no name, or has the name of another.
pub(super) fn sockets() -> Result<BTreeMap<String, TcpListener>> {
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    // It looks whether they are for this process, and closes them to its children.
    let mut given = ListenFd::from_env();
    let mut sockets = BTreeMap::new();
    for index in 0..given.len() {
        let name = names.next().filter(|name| !name.is_empty()).unwrap_or("unknown");
        let socket = given.take_tcp_listener(index).map_err(|error| {
            Error::io(format_args!("the service manager's socket {name:?}"), &error)
        })?;
        if let Some(socket) = socket
            && sockets.insert(name.to_owned(), socket).is_some()
        {
            return Err(Error::config(format!(
                "the service manager gives two sockets {name:?}; name each of its own with \
                 FileDescriptorName="
            )));
        }
    }
    Ok(sockets)
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Manager {
    watchdog: Option<Duration>,
}

impl Manager {
    pub(super) fn from_environment() -> Self {
        let told = std::env::var_os("NOTIFY_SOCKET").is_some();
        Self { watchdog: watchdog_enabled().filter(|limit| told && !limit.is_zero()) }
    }

    /// Tells what concerns it.
    pub(super) fn tell(&self, event: &MasterEvent) {
        match event {
            MasterEvent::ClusterReady { port } => {
                let status = format!("running, cluster port {port}");
                send(&[NotifyState::Ready, NotifyState::Status(&status)]);
            }
            MasterEvent::Reloading => match NotifyState::monotonic_usec_now() {
                // Both in one message, as sd_notify(3) has it.
                Ok(now) => {
                    send(&[NotifyState::Reloading, now, NotifyState::Status("reloading")]);
                }
                Err(error) => tracing::warn!(%error, "can't tell the time of the reload"),
            },
            MasterEvent::Reloaded { generation } => {
                let status = format!("running, {}", counted(*generation, "reload"));
                send(&[NotifyState::Ready, NotifyState::Status(&status)]);
            }
            MasterEvent::ReloadFailed { reason } => {
                let status = one_line(&format!("running; {reason}"));
                send(&[NotifyState::Ready, NotifyState::Status(&status)]);
            }
            MasterEvent::Died(death) => {
                let status = one_line(&format!("running; {death}"));
                send(&[NotifyState::Status(&status)]);
            }
            MasterEvent::Stopping => {
                send(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
            }
            _ => {}
        }
    }

    /// Pings the watchdog as long as the master answers: a master whose loop no longer turns is to
    /// be ended by the service manager.
    pub(super) async fn watch_over(&self, master: &MasterHandle) -> Infallible {
        let Some(limit) = self.watchdog else { return std::future::pending().await };
        // Twice in the limit, as sd_watchdog_enabled(3) has it.
        let mut ticks = interval((limit / 2).max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            // It waits as long as the master does not answer, and nobody is told anything.
            match master.pulse().await {
                Ok(_) => send(&[NotifyState::Watchdog]),
                Err(_) => return std::future::pending().await,
            }
        }
    }
}

fn send(messages: &[NotifyState<'_>]) {
    if let Err(error) = notify(messages) {
        tracing::warn!(%error, "can't tell the service manager");
    }
}

/// A text that is one line: a line break would begin another message.
fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_can_smuggle_no_message() {
        assert_eq!(one_line("running; it said:\nREADY=1\n\n"), "running; it said:; READY=1");
    }
}
