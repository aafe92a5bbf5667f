//! The signals that the master takes.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that the master takes.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    hangup: Signal,
    child: Signal,
}

/// What a signal asks for.
pub(super) enum Got {
    Stop(&'static str),
    Reload,
    /// A child may be gone.
    Death,
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            hangup: signal(SignalKind::hangup())?,
            child: signal(SignalKind::child())?,
        })
    }

    /// Waits for one of them. Cancel safe.
    pub(super) async fn recv(&mut self) -> Got {
        tokio::select! {
            biased;
            _ = self.terminate.recv() => Got::Stop("SIGTERM"),
            _ = self.interrupt.recv() => Got::Stop("SIGINT"),
            _ = self.quit.recv() => Got::Stop("SIGQUIT"),
            _ = self.hangup.recv() => Got::Reload,
            _ = self.child.recv() => Got::Death,
        }
    }

    /// Waits for one that asks to stop. Cancel safe.
    pub(super) async fn stop(&mut self) {
        while !matches!(self.recv().await, Got::Stop(_)) {}
    }
}
