//! The Node original, cluster-client 3.7.0 of npm: a script that is server and clients.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::find;
use crate::harness::{Child, Part};

/// Where the script is, and what npm installs for it.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("node")
}

pub(super) fn missing() -> Option<String> {
    if find("node").is_none() || find("npm").is_none() {
        return Some("node or npm is not installed".to_owned());
    }
    let installed = folder().join("node_modules").join("cluster-client").is_dir() || install();
    (!installed).then(|| "npm could not install cluster-client".to_owned())
}

fn install() -> bool {
    let mut command = Command::new("npm");
    command.args(["install", "--no-audit", "--no-fund", "--no-package-lock", "--silent"]);
    command.current_dir(folder()).stdin(Stdio::null()).stdout(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Takes the place of the bench's own program.
pub(super) fn command(child: &Child) -> Command {
    let mut command = Command::new("node");
    let part = match child.part {
        Part::Server => "server",
        Part::Client => "client",
    };
    command.arg(folder().join("peer.js")).args([part, &child.job]);
    command.args([u64::from(child.port), u64::from(child.control), child.n].map(|n| n.to_string()));
    command
}
