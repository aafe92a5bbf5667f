//! `status`, `reload` and `scale`.

use std::cell::RefCell;

use rustix::process::Signal;
use serde_json::Value;

use crate::{
    cli::Home,
    support::{is_alive, send, state, until},
    tests,
};

tests![
    a_status_tells_of_all_processes_and_their_channels,
    a_process_that_is_stopped_holds_up_no_status,
    a_master_that_is_stopped_is_told_as_such,
    what_does_not_run_is_told_as_such,
    a_death_is_in_the_status_with_its_reason,
    a_reload_replaces_all_and_a_failing_one_says_why,
    the_number_of_workers_can_be_changed,
];

impl Home {
    fn status(&self, title: &str) -> Value {
        serde_json::from_str(&self.ok(&format!("status --json --title {title}"))).unwrap()
    }
}

/// The entry of a process, as `("worker", 0)`.
fn process<'a>(status: &'a Value, role: &str, index: u64) -> &'a Value {
    let wanted = |process: &&Value| {
        process["role"] == role && process["index"].as_u64().unwrap_or_default() == index
    };
    let processes = status["processes"].as_array().unwrap();
    processes.iter().find(wanted).unwrap_or_else(|| panic!("{status:#}"))
}

fn pid(status: &Value, role: &str, index: u64) -> u32 {
    process(status, role, index)["pid"].as_u64().unwrap() as u32
}

/// The status once so many processes are silent: on a busy machine others may be for a moment.
fn status_with_silent(home: &Home, count: usize) -> Value {
    let status = RefCell::new(Value::Null);
    until("those who are not stopped answer", || {
        status.replace(home.status("one"));
        let status = status.borrow();
        let processes = status["processes"].as_array().unwrap();
        processes.iter().filter(|process| process["silent"] == true).count() == count
    });
    status.into_inner()
}

fn a_status_tells_of_all_processes_and_their_channels() {
    let home = Home::new("workers=2 agent=share worker=share");
    home.ok("start --daemon --title one");
    let status = status_with_silent(&home, 0);
    assert_eq!((&status["title"], &status["running"]), (&"one".into(), &true.into()));
    assert_eq!((&status["phase"], &status["workers"]), (&"running".into(), &2.into()));
    assert_eq!(status["pid"], home.pid("one"));
    assert_eq!(status["logs"]["stdout"], home.log_path("one").to_str().unwrap());
    for (role, index) in [("agent", 0), ("worker", 0), ("worker", 1)] {
        let process = process(&status, role, index);
        assert_eq!((&process["state"], &process["restarts"]), (&"ready".into(), &0.into()));
        assert!(process["rss_bytes"].as_u64().unwrap() > 100_000, "{status:#}");
        assert!(process["cpu_seconds"].as_f64().unwrap() < 100.0, "{status:#}");
        assert_eq!(process["silent"], false, "{status:#}");
        assert!(is_alive(pid(&status, role, index)));
    }
    let channels = process(&status, "agent", 0)["channels"].as_array().unwrap();
    let leader = channels.iter().find(|channel| channel["role"] == "leader").unwrap();
    assert_eq!(leader["trouble"], Value::Null, "{status:#}");
    // Two workers and the agent's own.
    assert_eq!((&leader["followers"], &leader["publications"]), (&3.into(), &3.into()));
    let channels = process(&status, "worker", 1)["channels"].as_array().unwrap();
    assert_eq!(channels[0]["role"], "follower");
    assert_eq!((&channels[0]["publications"], &channels[0]["calls"]), (&1.into(), &0.into()));

    let table = home.ok("status --title one");
    for text in ["one: running", "worker 1", "ready", "leader", "follower", "MiB"] {
        assert!(table.contains(text), "{table}");
    }
    home.ok("stop --title one");
}

fn a_process_that_is_stopped_holds_up_no_status() {
    let home = Home::new("workers=1 agent=share worker=share");
    home.ok("start --daemon --title one");
    let agent = pid(&home.status("one"), "agent", 0);
    send(agent, Signal::STOP);
    until("it is stopped", || state(agent) == Some('T'));
    let status = status_with_silent(&home, 1);
    let (stopped, other) = (process(&status, "agent", 0), process(&status, "worker", 0));
    assert_eq!((&stopped["silent"], &stopped["channels"]), (&true.into(), &Value::Null));
    assert_eq!(other["silent"], false, "{status:#}");
    assert_eq!(other["channels"].as_array().unwrap().len(), 1, "{status:#}");
    assert!(home.ok("status --title one").contains("does not answer"));
    home.ok("stop --title one");
}

fn a_master_that_is_stopped_is_told_as_such() {
    let home = Home::new("workers=1");
    home.ok("start --daemon --title one");
    let master = home.pid("one");
    send(master, Signal::STOP);
    until("it is stopped", || state(master) == Some('T'));
    let ran = home.run("status --title one");
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    assert!(ran.stderr.contains(&format!("(pid {master}) does not answer")), "{ran:#?}");
    send(master, Signal::CONT);
    home.ok("stop --title one");
}

fn what_does_not_run_is_told_as_such() {
    let home = Home::new("workers=1");
    let ran = home.run("status --title one");
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(3), "one is not running\n"));
    let ran = home.run("status --json --title one");
    assert_eq!(ran.code, Some(3));
    let status: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(status, serde_json::json!({ "title": "one", "running": false }));
}

fn a_death_is_in_the_status_with_its_reason() {
    let home = Home::new("workers=1 worker_next=die backoff_ms=600000");
    home.ok("start --daemon --title one");
    let worker = pid(&home.status("one"), "worker", 0);
    send(worker, Signal::KILL);
    until("its end is known", || {
        process(&home.status("one"), "worker", 0)["last_death"] != Value::Null
    });
    let status = home.status("one");
    let reason = process(&status, "worker", 0)["last_death"]["reason"].as_str().unwrap();
    assert!(reason.contains("signal 9"), "{status:#}");
    let table = home.ok("status --title one");
    assert!(table.contains("signal 9") && table.contains("starts in"), "{table}");
    home.wait_log("one", "worker 0");
    home.ok("stop --title one");
}

fn a_reload_replaces_all_and_a_failing_one_says_why() {
    let home = Home::new("workers=2");
    home.ok("start --daemon --title one");
    let before = home.status("one");
    assert_eq!(home.ok("reload --title one"), "one is reloaded\n");
    let after = home.status("one");
    assert_eq!(after["generation"], 1, "{after:#}");
    for (role, index) in [("agent", 0), ("worker", 0), ("worker", 1)] {
        assert_ne!(pid(&before, role, index), pid(&after, role, index));
        assert!(!is_alive(pid(&before, role, index)));
    }
    assert_eq!(after["last_reload"]["failure"], Value::Null);
    home.ok("stop --title one");

    let home = Home::new("workers=1 worker_next=fail");
    home.ok("start --daemon --title one");
    let before = home.status("one");
    let ran = home.run("reload --title one");
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    assert!(ran.stderr.starts_with("can't reload one: worker 0 (pid "), "said once: {ran:#?}");
    assert!(ran.stderr.contains("no upstream for the fixture"), "{ran:#?}");
    let after = home.status("one");
    assert_eq!(pid(&before, "worker", 0), pid(&after, "worker", 0), "the old one serves");
    let failure = after["last_reload"]["failure"].as_str().unwrap();
    assert!(failure.contains("a line before the failure"), "{failure}");
    let table = home.ok("status --title one");
    assert!(table.contains("no upstream for the fixture"), "{table}");
    assert_eq!(table.matches("the reload ").count(), 1, "{table}");
    home.ok("stop --title one");
}

fn the_number_of_workers_can_be_changed() {
    let home = Home::new("workers=1");
    home.ok("start --daemon --title one");
    let count = || home.status("one")["processes"].as_array().unwrap().len();
    assert_eq!(home.ok("scale 3 --title one"), "one has 3 workers\n");
    assert_eq!(count(), 4);
    assert_eq!(home.ok("scale 1 --title one"), "one has 1 worker\n");
    assert_eq!(count(), 2);
    let table = home.ok("status --title one");
    assert!(table.lines().next().unwrap().ends_with(", 1 worker, 0 reloads"), "{table}");
    let ran = home.run("scale 1000000 --title one");
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    assert!(ran.stderr.contains("at most"), "{ran:#?}");
    home.ok("stop --title one");
}
