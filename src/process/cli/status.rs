//! `status`: a table for people, JSON for programs.

use std::{
    fmt::Write as _,
    io::Write as _,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    SILENCE,
    client::Client,
    instance::Instance,
    wire::{Ask, LogPaths},
};
use crate::{
    error::Result,
    process::{
        ChannelRole, ChannelStatus, ProcessStatus, Status,
        name::{Exit, ProcessName},
        words::counted,
    },
};

/// Exit code where the instance does not run, as that of `systemctl status`.
const NOT_RUNNING: i32 = 3;

/// What a master tells of its instance. `docs/operations.md` has the form for programs.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Report {
    pub(super) title: String,
    pub(super) running: bool,
    pub(super) logs: Option<LogPaths>,
    #[serde(flatten)]
    pub(super) status: Status,
}

/// Shows how an instance is.
///
/// # Errors
///
/// Its master does not answer.
pub(super) fn status(instance: &Instance, json: bool) -> Result<Exit> {
    let title = instance.title.as_str();
    let Some(client) = Client::connect(instance)? else {
        if json {
            print(&format!("{}\n", serde_json::json!({ "title": title, "running": false })));
        } else {
            print(&format!("{title} is not running\n"));
        }
        return Ok(Exit::Code(NOT_RUNNING));
    };
    let report = client.ask::<Report>(Ask::Status, SILENCE);
    let report = report.map_err(|why| client.error("can't tell the status of", why))?;
    print(&if json {
        format!("{}\n", serde_json::to_value(&report).unwrap_or_default())
    } else {
        table(&report)
    });
    Ok(Exit::Clean)
}

/// To a pipe that nobody reads any more there is nothing to say.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn table(report: &Report) -> String {
    let Report { title, status, logs, .. } = report;
    let mut text = format!(
        "{title}: {}, pid {}, for {}, cluster port {}, {}, {}\n",
        lower(&status.phase),
        status.pid,
        short(status.uptime),
        status.port,
        counted(status.workers, "worker"),
        counted(status.generation, "reload"),
    );
    if let Some(logs) = logs {
        let _ = writeln!(text, "logs: {}", logs.stdout.display());
    }
    text.push('\n');
    text.push_str(&columns(processes(status)));
    let channels = channels(status);
    if channels.len() > 1 {
        text.push('\n');
        text.push_str(&columns(channels));
    }
    // As programs see them; without the feature there are none.
    let value = serde_json::to_value(status).unwrap_or_default();
    let jobs = jobs(value["jobs"].as_array().map_or(&[], Vec::as_slice));
    if jobs.len() > 1 {
        text.push('\n');
        text.push_str(&columns(jobs));
    }
    troubles(&mut text, status);
    text
}

fn processes(status: &Status) -> Vec<Vec<String>> {
    let heading = ["PROCESS", "PID", "STATE", "UPTIME", "RESTARTS", "RSS", "CPU"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    for process in &status.processes {
        let mut state = lower(&process.state);
        match process.unresponsive {
            Some(how) => drop(write!(state, ", {how}")),
            None if process.silent => state.push_str(", does not answer"),
            None => {}
        }
        if let Some(pause) = process.restart_in {
            let _ = write!(state, ", starts in {}", short(pause));
        }
        rows.push(vec![
            process.process.to_string(),
            or_dash(process.pid),
            state,
            or_dash(process.uptime.map(short)),
            process.restarts.to_string(),
            or_dash(process.rss_bytes.map(bytes)),
            or_dash(process.cpu.map(|time| format!("{:.1} s", time.as_secs_f64()))),
        ]);
    }
    rows
}

fn channels(status: &Status) -> Vec<Vec<String>> {
    let mut rows = vec![["CHANNEL", "PROCESS", "ROLE", ""].map(str::to_owned).to_vec()];
    let all = status.processes.iter().flat_map(|process: &ProcessStatus| {
        process.channels.iter().flatten().map(|channel| (process.process, channel))
    });
    let mut all: Vec<(ProcessName, &ChannelStatus)> = all.collect();
    all.sort_by(|a, b| (&a.1.channel, a.0).cmp(&(&b.1.channel, b.0)));
    for (process, ChannelStatus { channel, role, trouble }) in all {
        let (name, mut counts) = match *role {
            ChannelRole::Leader { followers, topics, publications, failures } => (
                "leader",
                [
                    counted(followers, "follower"),
                    counted(topics, "topic"),
                    counted(publications, "publication"),
                    counted(failures, "failure"),
                ]
                .join(", "),
            ),
            ChannelRole::Follower { subscriptions, publications, calls } => (
                "follower",
                [
                    counted(subscriptions, "subscription"),
                    counted(publications, "publication"),
                    counted(calls, "call"),
                ]
                .join(", "),
            ),
        };
        if let Some(trouble) = trouble {
            let _ = write!(counts, "; {trouble}");
        }
        rows.push(vec![channel.clone(), process.to_string(), name.to_owned(), counts]);
    }
    rows
}

fn jobs(jobs: &[Value]) -> Vec<Vec<String>> {
    let mut rows = vec![["JOB", "WHEN", "NEXT", "RUNNING", "LAST"].map(str::to_owned).to_vec()];
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    };
    for job in jobs {
        let running = job["running"].as_array().map_or(0, Vec::len);
        let last = job["last"].as_array().and_then(|last| last.last());
        rows.push(vec![
            text(&job["name"]),
            text(&job["schedule"]),
            text(&job["next"]),
            running.to_string(),
            last.map_or_else(|| "-".to_owned(), |run| text(&run["result"])),
        ]);
    }
    rows
}

/// What went wrong: with the last reload, and with those that died.
fn troubles(text: &mut String, status: &Status) {
    if let Some(reload) = &status.last_reload {
        let ago = SystemTime::now().duration_since(reload.at).unwrap_or_default();
        match &reload.failure {
            None => drop(writeln!(text, "\nreloaded {} ago", short(ago))),
            Some(why) => drop(writeln!(text, "\n{} ago: {why}", short(ago))),
        }
    }
    for process in &status.processes {
        let Some(death) = &process.last_death else { continue };
        let _ = writeln!(text, "\n{} ago: {}", short(death.ago), death.reason);
        // Of one that was replaced long since, the lines are in the log.
        if process.pid.is_none() {
            for line in &death.lines {
                let _ = writeln!(text, "  {line}");
            }
        }
    }
}

/// Columns as wide as what is in them.
fn columns(rows: Vec<Vec<String>>) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell: &String| cell.chars().count())
            .max()
    };
    let widths: Vec<usize> = (0..count).map(|column| width(column).unwrap_or_default()).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// The name that a state has for programs.
fn lower(state: &impl Serialize) -> String {
    let name = serde_json::to_value(state).unwrap_or_default();
    name.as_str().unwrap_or("?").to_owned()
}

fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// A time in its two largest units.
fn short(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

fn bytes(bytes: u64) -> String {
    let mib = bytes as f64 / f64::from(1 << 20);
    if mib < 1024.0 { format!("{mib:.1} MiB") } else { format!("{:.1} GiB", mib / 1024.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_shows_everything_that_people_ask_for() {
        let json = serde_json::json!({
            "title": "app", "running": true, "logs": null,
            "pid": 10, "port": 4000, "phase": "running", "uptime_seconds": 3700.0,
            "generation": 2, "workers": 2, "last_reload": null,
            "processes": [
                {
                    "role": "agent", "pid": 11, "state": "ready", "generation": 0,
                    "uptime_seconds": 100_000.0, "restarts": 0, "restart_in_seconds": null,
                    "last_death": null, "rss_bytes": 3_145_728, "cpu_seconds": 1.25,
                    "unresponsive": "blocked",
                    "silent": false, "panics": 0,
                    "channels": [{
                        "channel": "Registry", "role": "leader", "followers": 2, "topics": 1,
                        "publications": 3, "failures": 0, "trouble": null,
                    }],
                },
                {
                    "role": "worker", "index": 0, "pid": 12, "state": "ready", "generation": 0,
                    "uptime_seconds": 61.0, "restarts": 0, "restart_in_seconds": null,
                    "last_death": null, "rss_bytes": null, "cpu_seconds": null, "silent": true, "panics": 0,
                    "channels": null, "unresponsive": null,
                },
                {
                    "role": "worker", "index": 1, "pid": null, "state": "failed", "generation": 5,
                    "uptime_seconds": null, "restarts": 5, "restart_in_seconds": 4.2,
                    "last_death": {
                        "ago_seconds": 7.0, "reason": "worker 1 (pid 13) died of signal 9",
                        "lines": ["its last line"],
                    },
                    "rss_bytes": null, "cpu_seconds": null, "silent": false, "panics": 0, "channels": null,
                    "unresponsive": null,
                },
            ],
        });
        let report: Report = serde_json::from_value(json).unwrap();
        let expected = "\
app: running, pid 10, for 1 h 1 min, cluster port 4000, 2 workers, 2 reloads

PROCESS   PID  STATE                   UPTIME     RESTARTS  RSS      CPU
agent     11   ready, blocked          1 d 3 h    0         3.0 MiB  1.2 s
worker 0  12   ready, does not answer  1 min 1 s  0         -        -
worker 1  -    failed, starts in 4 s   -          5         -        -

CHANNEL   PROCESS  ROLE
Registry  agent    leader  2 followers, 1 topic, 3 publications, 0 failures

7 s ago: worker 1 (pid 13) died of signal 9
  its last line
";
        assert_eq!(table(&report), expected);
    }

    #[test]
    fn jobs_have_a_table_of_their_own() {
        let job = serde_json::json!({
            "name": "tidy", "schedule": "every 30s", "next": null, "running": [],
            "last": [{ "result": "failed" }, { "result": "succeeded" }],
        });
        let expected = "\
JOB   WHEN       NEXT  RUNNING  LAST
tidy  every 30s  -     0        succeeded
";
        assert_eq!(columns(jobs(&[job])), expected);
    }

    #[test]
    fn times_and_sizes_have_the_units_that_people_use() {
        let times = [0, 59, 60, 3599, 3600, 86_399, 86_400].map(Duration::from_secs).map(short);
        let expected =
            ["0 s", "59 s", "1 min 0 s", "59 min 59 s", "1 h 0 min", "23 h 59 min", "1 d 0 h"];
        assert_eq!(times, expected);
        assert_eq!([bytes(1 << 20), bytes(3 << 30)], ["1.0 MiB", "3.0 GiB"]);
    }
}
