//! What the processes tell on standard output, one line each: as text for people, as JSON for
//! programs.

use std::{
    fmt,
    io::{self, Write},
};

use serde::{Deserialize, Serialize};

/// Something that happened in a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Which process of the group: `agent`, or `worker 3`.
    pub process: String,
    /// Its id.
    pub pid: u32,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// What can happen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The process holds the connection to etcd.
    Leads,
    /// The process has its first values and serves.
    Ready,
    /// The key has a new value.
    Value {
        /// The key.
        key: String,
        /// Its value.
        value: Option<String>,
        /// The revision that set it; 0 where there is none.
        revision: i64,
    },
    /// The value may be outdated from now on.
    Stale {
        /// The key.
        key: String,
        /// Why.
        cause: String,
        /// What a read gives meanwhile.
        value: Option<String>,
    },
    /// The value is current again, and still the same.
    Live {
        /// The key.
        key: String,
        /// Its value.
        value: Option<String>,
    },
    /// These are the instances of the service from now on.
    Instances {
        /// Where they listen.
        addresses: Vec<String>,
    },
    /// A read gave nothing, though there was a value before. It never happens.
    Unreadable {
        /// The key.
        key: String,
    },
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { process, pid, event } = self;
        write!(f, "{process:<10} pid {pid:<8} {event}")
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "(none)".to_owned());
        match self {
            Self::Leads => write!(f, "holds the connection to etcd"),
            Self::Ready => write!(f, "is ready"),
            Self::Value { key, value, revision } => {
                write!(f, "{key} = {} (revision {revision})", text(value))
            }
            Self::Stale { key, cause, value } => {
                write!(f, "{key} is stale: {cause}; reads still give {}", text(value))
            }
            Self::Live { key, value } => write!(f, "{key} is live again: {}", text(value)),
            Self::Instances { addresses } => write!(f, "instances: {}", addresses.join(", ")),
            Self::Unreadable { key } => write!(f, "{key} can't be read"),
        }
    }
}

/// Where a process tells what happens to it.
#[derive(Debug, Clone)]
pub struct Reporter {
    process: String,
    json: bool,
}

impl Reporter {
    /// A reporter for this process.
    pub fn new(process: String, json: bool) -> Self {
        Self { process, json }
    }

    /// Writes one line.
    pub fn tell(&self, event: Event) {
        let report = Report { process: self.process.clone(), pid: std::process::id(), event };
        let mut line = if self.json {
            serde_json::to_string(&report).unwrap_or_else(|error| error.to_string())
        } else {
            report.to_string()
        };
        line.push('\n');
        // All processes of the group share this output: a line must be one write. And where nobody
        // reads any more, there is nobody to tell.
        let mut out = io::stdout().lock();
        let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_survives_json() {
        let report = Report {
            process: "worker 3".to_owned(),
            pid: 7,
            event: Event::Stale { key: "k".to_owned(), cause: "c".to_owned(), value: None },
        };
        let json = serde_json::to_string(&report).expect("json");
        assert_eq!(serde_json::from_str::<Report>(&json).expect("a report"), report);
    }
}
