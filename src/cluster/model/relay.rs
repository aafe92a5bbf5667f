//! A link that can be cut or frozen: two pipes in memory with a relay between them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf, split},
    sync::watch,
};
use tokio_util::sync::CancellationToken;

/// What a pipe holds. Small, so that a frozen link also shows what happens when it is full.
const PIPE: usize = 16 << 10;

pub(super) struct Relay {
    frozen: watch::Sender<bool>,
    cut: CancellationToken,
    /// Bytes that went through, in both directions.
    carried: AtomicU64,
    /// What had been carried when it froze.
    at_freeze: AtomicU64,
    ended: CancellationToken,
}

impl Relay {
    /// A relay, the follower's end and the leader's.
    pub(super) fn start() -> (Arc<Self>, DuplexStream, DuplexStream) {
        let (follower, near) = tokio::io::duplex(PIPE);
        let (leader, far) = tokio::io::duplex(PIPE);
        let relay = Arc::new(Self {
            frozen: watch::Sender::new(false),
            cut: CancellationToken::new(),
            carried: AtomicU64::new(0),
            at_freeze: AtomicU64::new(0),
            ended: CancellationToken::new(),
        });
        let running = Arc::clone(&relay);
        tokio::spawn(async move {
            let (near_read, near_write) = split(near);
            let (far_read, far_write) = split(far);
            tokio::select! {
                _ = async {
                    tokio::join!(running.pump(near_read, far_write), running.pump(far_read, near_write))
                } => {}
                () = running.cut.cancelled() => {}
            }
            running.ended.cancel();
        });
        (relay, follower, leader)
    }

    /// Copies one direction to its end. What is read when it freezes waits here.
    async fn pump(&self, mut from: ReadHalf<DuplexStream>, mut to: WriteHalf<DuplexStream>) {
        let mut buffer = [0; 4096];
        loop {
            self.thawed().await;
            let Ok(read) = from.read(&mut buffer).await else { return };
            self.thawed().await;
            if read == 0 {
                let _ = to.shutdown().await;
                return;
            }
            if to.write_all(&buffer[..read]).await.is_err() {
                return;
            }
            self.carried.fetch_add(read as u64, Ordering::Relaxed);
        }
    }

    async fn thawed(&self) {
        let _ = self.frozen.subscribe().wait_for(|frozen| !frozen).await;
    }

    pub(super) fn is_up(&self) -> bool {
        !self.ended.is_cancelled()
    }

    pub(super) fn is_frozen(&self) -> bool {
        *self.frozen.borrow()
    }

    /// Both ends see the end of the file, and nothing that was under way.
    pub(super) fn cut(&self) {
        self.cut.cancel();
    }

    /// Bytes stop to flow, both ways, and neither end sees an end.
    pub(super) fn freeze(&self) {
        self.at_freeze.store(self.carried(), Ordering::Relaxed);
        self.frozen.send_replace(true);
    }

    /// Whether a frozen relay really has carried nothing since.
    pub(super) fn held_still(&self) -> bool {
        !self.is_frozen() || self.at_freeze.load(Ordering::Relaxed) == self.carried()
    }

    pub(super) fn thaw(&self) {
        self.frozen.send_replace(false);
    }

    pub(super) fn carried(&self) -> u64 {
        self.carried.load(Ordering::Relaxed)
    }
}
