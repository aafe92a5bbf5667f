//! Where the lines of a cluster go, and `logs`.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    process::{Child, Command},
};

use rustix::process::Signal;

use crate::{
    cli::Home,
    support::{send, until},
    tests,
};

tests![
    every_line_says_who_wrote_it,
    a_renamed_file_is_opened_anew_by_all,
    each_start_keeps_the_files_of_the_last_ones,
    paths_are_taken_as_they_are,
    the_last_lines_are_shown_running_or_not,
    following_goes_on_after_a_rotation,
    what_is_no_file_can_not_be_looked_back_at,
];

fn every_line_says_who_wrote_it() {
    let home = Home::new("workers=2 worker=task_panic");
    home.ok("start --daemon --title one");
    home.ok("stop --title one");
    let log = fs::read_to_string(home.log_path("one")).unwrap();
    let master = log.lines().find_map(|line| line.strip_prefix("master[")?.split(']').next());
    let master = master.unwrap();
    for line in log.lines() {
        let (tag, _) = line.split_once("]: ").unwrap_or_else(|| panic!("{line}"));
        let (name, pid) = tag.split_once('[').unwrap();
        assert!(["master", "agent", "worker-0", "worker-1"].contains(&name), "{line}");
        assert!(pid.parse::<u32>().is_ok(), "{line}");
    }
    // Stdout and stderr, of the master and of others.
    assert!(log.contains(&format!("master[{master}]: master {master} observes")), "{log}");
    assert!(log.contains(&format!("master[{master}]: master {master} observed the end")), "{log}");
    assert!(log.contains("a task of the fixture panics"), "{log}");
}

fn a_renamed_file_is_opened_anew_by_all() {
    let home = Home::new("workers=1 worker=hook:0");
    home.ok("start --daemon --title one");
    home.wait_log("one", " cluster-ready ");
    let (path, moved) = (home.log_path("one"), home.path().join("moved.log"));
    fs::rename(&path, &moved).unwrap();
    home.ok("stop --title one");
    let (before, after) = (fs::read_to_string(moved).unwrap(), fs::read_to_string(&path).unwrap());
    assert!(before.contains("cluster-ready") && !before.contains("hook is done"), "{before}");
    assert!(after.contains("hook is done") && after.contains("observed the end"), "{after}");
}

fn each_start_keeps_the_files_of_the_last_ones() {
    let mut home = Home::new("workers=1");
    for start in 0..3 {
        home.keys(&format!("workers={}", start + 1));
        home.ok("start --daemon --title one");
        home.ok("stop --title one");
    }
    let read = |suffix: &str| {
        let path = format!("{}{suffix}", home.log_path("one").display());
        fs::read_to_string(path).unwrap()
    };
    assert!(read("").contains("of 3") && !read("").contains("of 2"));
    assert!(read(".1").contains("of 2") && read(".2").contains("of 1"));
}

fn paths_are_taken_as_they_are() {
    let home = Home::new("workers=1");
    let mut command = home.command("start --daemon --title one");
    let name = "out; touch created.log";
    command.arg("--stdout").arg(home.path().join("new").join(name));
    command.arg("--stderr").arg(home.path().join("errors $(id).log"));
    let ran = home.run_command(command);
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    assert!(!home.path().join("created.log").exists());
    let out = home.path().join("new").join(name);
    until("the lines are there", || fs::read_to_string(&out).unwrap().contains("cluster-ready "));
    // The running master knows where they are.
    let shown = home.ok("logs --title one -n 1000");
    assert!(shown.contains("cluster-ready"), "{shown}");
    home.ok("stop --title one");
    assert!(home.path().join("errors $(id).log").exists());
    assert!(!home.log_path("one").exists());
}

fn the_last_lines_are_shown_running_or_not() {
    let home = Home::new("workers=2");
    home.ok("start --daemon --title one");
    let shown = home.ok("logs --title one -n 3");
    assert_eq!(shown.lines().count(), 3, "{shown}");
    home.ok("stop --title one");
    let shown = home.ok("logs --title one -n 1");
    assert!(shown.starts_with("master["), "{shown}");
    assert!(shown.ends_with("observed the end\n"), "{shown}");
    let all = home.ok("logs --title one -n 100000");
    assert_eq!(all, fs::read_to_string(home.log_path("one")).unwrap());
}

fn following_goes_on_after_a_rotation() {
    let home = Home::new("workers=1 worker=hook:0");
    home.ok("start --daemon --title one");
    let mut follower = home.command("logs --title one -n 1000 --follow").spawn().unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    let mut wait = |text: &str| loop {
        let line = lines.next().unwrap().unwrap();
        if line.contains(text) {
            return;
        }
    };
    let guard = Guard(follower);
    wait("cluster-ready");
    fs::rename(home.log_path("one"), home.path().join("moved.log")).unwrap();
    home.ok("stop --title one");
    wait("hook is done");
    wait("observed the end");
    drop(guard);
    until("the log is there", || home.log_path("one").exists());
}

fn what_is_no_file_can_not_be_looked_back_at() {
    let home = Home::new("workers=1");
    let pipe = home.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    // Somebody reads it, so that it can be written to.
    let reads = File::options().read(true).write(true).open(&pipe).unwrap();
    home.ok(&format!("start --daemon --title one --stdout {}", pipe.display()));
    let ran = home.run("logs --title one");
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    assert!(ran.stderr.contains("it is a FIFO and no file"), "{ran:#?}");
    home.ok("stop --title one");
    drop(reads);
}

/// Ends a command that would go on for ever.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        send(self.0.id(), Signal::KILL);
        self.0.wait().unwrap();
    }
}
