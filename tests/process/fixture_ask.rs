//! The way in which a test asks something of the master's handle: lines over a unix socket, whose
//! path the fixture is given as `asks=PATH`.

use std::path::Path;

use cluster_client::{MasterHandle, Result};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
};

/// Answers all who connect, each in its own task.
pub(crate) async fn answer(handle: MasterHandle, path: &Path) {
    let listener = UnixListener::bind(path).unwrap();
    while let Ok((stream, _)) = listener.accept().await {
        let handle = handle.clone();
        tokio::spawn(async move { answer_one(&handle, stream).await });
    }
}

async fn answer_one(handle: &MasterHandle, stream: UnixStream) {
    let (reader, mut writer) = stream.into_split();
    let mut lines = BufReader::new(reader).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let answer = match line.split_once(' ').unwrap_or((&line, "")) {
            ("reload", _) => plain(handle.reload().await),
            ("scale", workers) => plain(handle.scale(workers.parse().unwrap()).await),
            ("status", _) => match handle.status().await {
                Ok(status) => serde_json::to_string(&status).unwrap(),
                Err(error) => format!("error: {error}"),
            },
            _ => format!("error: what is {line}?"),
        };
        // Who asked may have gone.
        let _ = writer.write_all(format!("{answer}\n").as_bytes()).await;
    }
}

fn plain(outcome: Result<()>) -> String {
    match outcome {
        Ok(()) => "ok".to_owned(),
        Err(error) => format!("error: {error}").replace('\n', "|"),
    }
}
