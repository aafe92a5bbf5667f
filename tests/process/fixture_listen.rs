//! What the fixture can do about listening sockets of the application.
//!
//! Keys of the master: `listen=NAME@ADDRESS`, several with commas between them. It says which
//! address each has. A worker that has a listener `http` answers each connection with its pid; the
//! behaviour `unknown` asks for one that there is not.

use cluster_client::{MasterBuilder, MasterHandle, Result, Worker};
use tokio::io::AsyncWriteExt as _;

use crate::fixture::{Keys, say};

/// Names and addresses that were asked for.
fn wanted(keys: &Keys) -> impl Iterator<Item = (&str, &str)> {
    let listen = keys.get("listen").into_iter().flat_map(|listen| listen.split(','));
    listen.map(|one| one.split_once('@').unwrap())
}

pub(crate) fn describe(cluster: MasterBuilder, keys: &Keys) -> MasterBuilder {
    wanted(keys).fold(cluster, |cluster, (name, address)| cluster.listen(name, address))
}

pub(crate) fn observe(handle: &MasterHandle, keys: &Keys) {
    for (name, _) in wanted(keys) {
        say("master", &format!("listens {name} {}", handle.listening(name).unwrap()));
    }
    assert_eq!(handle.listening("nobody"), None);
}

pub(crate) fn serve(worker: &Worker, keys: &Keys, behaviour: &str) -> Result<()> {
    if behaviour == "unknown" {
        worker.listener("unknown")?;
    }
    if !wanted(keys).any(|(name, _)| name == "http") {
        return Ok(());
    }
    // Another descriptor each time.
    drop(worker.listener("http")?);
    let listener = worker.listener("http")?;
    let serve = async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let pid = std::process::id().to_string();
            tokio::spawn(async move { connection.write_all(pid.as_bytes()).await });
            // So that the neighbours have their turn.
            tokio::task::yield_now().await;
        }
    };
    tokio::spawn(serve);
    Ok(())
}
