//! A run as JSON, and the setting that it was made in.

use std::{fmt, fs, path::Path, process::Command};

use serde::{Deserialize, Serialize};

use super::Report;
use crate::harness::Result;

/// Machine, versions, date, command.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Setting {
    date: String,
    cpu: String,
    cores: usize,
    kernel: String,
    /// Name and version of what was measured with.
    versions: Vec<(String, String)>,
    command: String,
    rounds: usize,
}

impl Setting {
    /// That of this process.
    pub(crate) fn here(rounds: usize) -> Self {
        let programs = ["rustc", "nats-server", "redis-server", "node"];
        let found = programs.into_iter().filter_map(|name| Some((name.to_owned(), version(name)?)));
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        Self {
            date: said("date", &["-u", "+%F %H:%M UTC"]).unwrap_or_default(),
            cpu: cpu().unwrap_or_default(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: said("uname", &["-sr"]).unwrap_or_default(),
            versions: found.chain(crates()).collect(),
            command: format!("cargo run --release -p peers -- {}", arguments.join(" ")),
            rounds,
        }
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { date, cpu, cores, kernel, versions, command, rounds } = self;
        let versions: Vec<String> =
            versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
        writeln!(f, "- {date}, {rounds} rounds, `{}`", command.trim_end_matches([' ', '-']))?;
        writeln!(f, "- {cpu}, {cores} cores; {kernel}")?;
        writeln!(f, "- {}", versions.join(", "))
    }
}

/// The version that a program says it is of.
fn version(program: &str) -> Option<String> {
    let text = said(program, &["--version"])?;
    let words = text.split([' ', '=']).map(|word| word.trim_start_matches('v'));
    words
        .into_iter()
        .find(|word| word.starts_with(|first: char| first.is_ascii_digit()))
        .map(str::to_owned)
}

/// The first line that a program says.
fn said(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.lines().next()?.trim().to_owned())
}

fn cpu() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split(':').nth(1)?.trim().to_owned())
}

/// The versions of the crates that are measured, as they are locked.
fn crates() -> Vec<(String, String)> {
    let lock = include_str!("../../../../Cargo.lock");
    let version = |name: &str| {
        let head = format!("name = \"{name}\"\nversion = \"");
        let rest = &lock[lock.find(&head)? + head.len()..];
        Some((name.to_owned(), rest.split('"').next()?.to_owned()))
    };
    ["tokio", "tonic", "tarpc"].into_iter().filter_map(version).collect()
}

pub(crate) fn write(report: &Report, path: &Path) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    Ok(fs::write(path, serde_json::to_string_pretty(report)?)?)
}

pub(crate) fn read(path: &Path) -> Result<Report> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(serde_json::from_str(&text)?)
}
