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

use std::{convert::Infallible, time::Duration};

use sd_notify::{NotifyState, notify, watchdog_enabled};
use tokio::time::{MissedTickBehavior, interval};

use crate::process::{MasterEvent, MasterHandle};

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
            let _ = master;
            send(&[NotifyState::Watchdog]);
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
