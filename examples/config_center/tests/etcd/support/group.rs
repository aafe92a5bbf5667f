//! The program itself: a master, an agent and workers, and what they report.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::Instant,
};

use config_center::report::{Event, Report};

use super::{DEADLINE, send_signal};

/// The key that the workers watch.
pub(crate) const KEY: &str = "app/config";

/// A running program; it is stopped when it is dropped.
pub(crate) struct Group {
    master: Child,
    told: Arc<(Mutex<Told>, Condvar)>,
}

#[derive(Default)]
struct Told {
    reports: Vec<Report>,
    has_ended: bool,
}

impl Group {
    /// Starts the program with these further arguments.
    pub(crate) fn start(etcd: &str, workers: usize, args: &[&str]) -> Self {
        let mut master = Command::new(env!("CARGO_BIN_EXE_config_center"))
            .args(["--json", "--etcd", etcd, "--key", KEY, "--lease-ttl", "2"])
            .args(["--workers", &workers.to_string()])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let out = BufReader::new(master.stdout.take().expect("it is piped"));
        let log = BufReader::new(master.stderr.take().expect("it is piped"));
        // Through this process, so that the log of a test is shown where the test fails.
        thread::spawn(move || {
            log.lines().map_while(Result::ok).for_each(|line| eprintln!("{line}"))
        });
        let told = Arc::new((Mutex::new(Told::default()), Condvar::new()));
        let teller = told.clone();
        thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                let report = serde_json::from_str(&line)
                    .unwrap_or_else(|error| panic!("no report ({error}): {line}"));
                teller.0.lock().expect("the reports").reports.push(report);
                teller.1.notify_all();
            }
            teller.0.lock().expect("the reports").has_ended = true;
            teller.1.notify_all();
        });
        Self { master, told }
    }

    /// How many reports there were so far: a point in time to wait from.
    pub(crate) fn now(&self) -> usize {
        self.told.0.lock().expect("the reports").reports.len()
    }

    /// Waits until the reports since then say it.
    pub(crate) fn wait<T>(
        &self,
        since: usize,
        what: &str,
        mut says: impl FnMut(&[Report]) -> Option<T>,
    ) -> T {
        let deadline = Instant::now() + DEADLINE;
        let mut told = self.told.0.lock().expect("the reports");
        loop {
            if let Some(found) = says(&told.reports[since..]) {
                return found;
            }
            let rest = deadline.saturating_duration_since(Instant::now());
            if rest.is_zero() || told.has_ended {
                let lines: Vec<_> = told.reports[since..].iter().map(ToString::to_string).collect();
                panic!("never told: {what}; told was:\n{}", lines.join("\n"));
            }
            told = self.told.1.wait_timeout(told, rest).expect("the reports").0;
        }
    }

    /// Waits until that many processes reported an event like this; returns their pids by name.
    pub(crate) fn wait_for_each(
        &self,
        since: usize,
        processes: usize,
        what: &str,
        like: impl Fn(&Event) -> bool,
    ) -> BTreeMap<String, u32> {
        self.wait(since, what, |reports| {
            let found: BTreeMap<_, _> = reports
                .iter()
                .filter(|report| like(&report.event))
                .map(|report| (report.process.clone(), report.pid))
                .collect();
            (found.len() == processes).then_some(found)
        })
    }

    /// Waits until that many workers have this value.
    pub(crate) fn wait_for_value(
        &self,
        since: usize,
        workers: usize,
        expected: &str,
    ) -> BTreeMap<String, u32> {
        let what = format!("{workers} workers have {expected}");
        self.wait_for_each(
            since,
            workers,
            &what,
            |event| matches!(event, Event::Value { value: Some(value), .. } if value == expected),
        )
    }

    /// The pid of the process that holds the connection, once it told so.
    pub(crate) fn wait_for_leader(&self, since: usize) -> u32 {
        let leaders =
            self.wait_for_each(since, 1, "an agent leads", |event| *event == Event::Leads);
        leaders["agent"]
    }

    /// Asserts that each value could be read all the time, and that stale was told with a value.
    pub(crate) fn assert_readable_throughout(&self) {
        for report in &self.told.0.lock().expect("the reports").reports {
            assert!(!matches!(report.event, Event::Unreadable { .. }), "{report}");
            assert!(!matches!(report.event, Event::Stale { value: None, .. }), "{report}");
        }
    }

    /// Asks the master to stop and returns its exit code.
    pub(crate) fn stop(mut self) -> Option<i32> {
        send_signal(self.master.id(), "TERM");
        self.wait_for_exit()
    }

    /// The exit code of a program that ends by itself.
    pub(crate) fn wait_for_exit(&mut self) -> Option<i32> {
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            if let Some(status) = self.master.try_wait().expect("its state is known") {
                return status.code();
            }
            thread::sleep(std::time::Duration::from_millis(20));
        }
        panic!("the program does not end");
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Its children die with it.
        let _ = self.master.kill();
        let _ = self.master.wait();
    }
}
