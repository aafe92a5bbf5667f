//! `start`, in the foreground and in the background.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    process::Stdio,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, getsid};

use crate::{
    cli::{Home, finish},
    support::{is_alive, send, until},
    tests,
};

tests![
    a_start_in_the_background_returns_when_the_cluster_is_ready_and_leaves_it_detached,
    a_start_that_fails_gives_the_reason_and_the_last_lines,
    a_start_that_hangs_is_stopped_at_its_timeout_and_leaves_nothing,
    a_master_that_exits_silently_is_noticed_at_once,
    a_master_that_dies_of_a_signal_gives_128_and_its_number,
    a_start_that_is_interrupted_leaves_nothing,
    a_launcher_that_is_killed_takes_the_start_with_it,
    the_second_start_of_a_title_names_the_first,
    of_two_starts_at_once_one_runs_and_the_other_says_so,
    a_start_that_somebody_stops_says_so,
    a_killed_master_is_in_nobodys_way,
    instances_do_not_touch_each_other,
    a_start_in_the_foreground_ends_with_the_code_of_its_cluster,
    a_start_in_the_foreground_gives_up_at_its_timeout,
    flags_win_over_what_the_program_says,
    a_program_with_arguments_of_its_own_embeds_the_commands,
    mistakes_and_help_are_for_people,
    a_directory_of_others_is_refused,
    a_pid_file_is_there_as_long_as_the_master,
    nothing_of_the_launcher_reaches_agent_and_workers,
];

fn a_start_in_the_background_returns_when_the_cluster_is_ready_and_leaves_it_detached() {
    let home = Home::new("workers=2");
    let said = home.ok("start --daemon --title one");
    assert!(said.contains("one is ready after"), "{said}");
    // All were ready before it returned.
    for name in ["agent", "worker-0", "worker-1"] {
        let pids = home.pids("one", name);
        assert!(matches!(pids[..], [pid] if is_alive(pid)), "{name}: {pids:?}");
    }
    let master = home.pid("one");
    assert!(said.contains(&format!("pid {master}")), "{said}");
    let session = getsid(Some(Pid::from_raw(master as i32).unwrap())).unwrap();
    assert_eq!(session.as_raw_pid(), master as i32, "it has left the launcher's session");
    let all = home.running("one");
    assert_eq!(all.len(), 4);
    home.ok("stop --title one");
    assert!(all.into_iter().all(|pid| !is_alive(pid)));
    home.assert_clean();
}

fn a_start_that_fails_gives_the_reason_and_the_last_lines() {
    let home = Home::new("agent=fail");
    let ran = home.run("start --daemon --title one");
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    let reason = "agent";
    assert!(ran.stderr.contains("one did not start"), "{ran:#?}");
    assert!(ran.stderr.contains("no upstream for the fixture"), "{reason}: {ran:#?}");
    assert!(ran.stderr.contains("a line before the failure"), "{ran:#?}");
    assert!(home.started("one").into_iter().all(|pid| !is_alive(pid)));
    home.assert_clean();
}

fn a_start_that_hangs_is_stopped_at_its_timeout_and_leaves_nothing() {
    let home = Home::new("worker1=hang workers=2");
    let begin = Instant::now();
    let ran = home.run("start --daemon --title one --timeout 5.5");
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    assert!(begin.elapsed() >= Duration::from_millis(5500));
    assert!(ran.stderr.contains("not ready within 5.5s"), "{ran:#?}");
    assert!(ran.stderr.contains("a line before the hang"), "{ran:#?}");
    let all = home.started("one");
    assert!(all.len() >= 3, "{all:?}");
    assert!(all.into_iter().all(|pid| !is_alive(pid)));
    home.assert_clean();
}

fn a_master_that_exits_silently_is_noticed_at_once() {
    for (exit, code) in [("exit:0", 1), ("exit:1", 1), ("exit:42", 42)] {
        let home = Home::new(&format!("observer={exit} agent=hang"));
        let begin = Instant::now();
        let ran = home.run("start --daemon --title one --timeout 1000");
        assert_eq!(ran.code, Some(code), "{ran:#?}");
        assert!(begin.elapsed() < Duration::from_secs(60), "not at the timeout");
        assert!(ran.stderr.contains("before the cluster was ready"), "{ran:#?}");
        assert!(home.started("one").into_iter().all(|pid| !is_alive(pid)));
        home.assert_clean();
    }
}

fn a_master_that_dies_of_a_signal_gives_128_and_its_number() {
    let home = Home::new("observer=abort agent=hang");
    let ran = home.run("start --daemon --title one");
    assert_eq!(ran.code, Some(128 + 6), "{ran:#?}");
    assert!(ran.stderr.contains("killed by signal 6"), "{ran:#?}");
    home.assert_clean();
}

fn a_start_that_is_interrupted_leaves_nothing() {
    let home = Home::new("agent=hang");
    let launcher = home.command("start --daemon --title one").spawn().unwrap();
    home.wait_log("one", "a line before the hang");
    send(launcher.id(), Signal::INT);
    let ran = finish(launcher);
    assert_eq!(ran.code, Some(128 + 2), "{ran:#?}");
    assert!(home.started("one").into_iter().all(|pid| !is_alive(pid)));
    home.assert_clean();
}

fn a_launcher_that_is_killed_takes_the_start_with_it() {
    let home = Home::new("agent=hang");
    let launcher = home.command("start --daemon --title one").spawn().unwrap();
    home.wait_log("one", "a line before the hang");
    home.wait_log("one", " started agent ");
    let all = home.started("one");
    send(launcher.id(), Signal::KILL);
    finish(launcher);
    assert_eq!(all.len(), 1);
    until("all are gone", || all.iter().all(|pid| !is_alive(*pid)));
    until("the instance is gone", || !home.instance("one").exists());
    home.assert_clean();
}

fn the_second_start_of_a_title_names_the_first() {
    let home = Home::new("workers=1");
    home.ok("start --daemon --title one");
    home.wait_log("one", " cluster-ready ");
    for arguments in ["start --daemon --title one", "start --title one"] {
        let ran = home.run(arguments);
        assert_eq!(ran.code, Some(1), "{ran:#?}");
        let expected = format!("one runs already (pid {})", home.pid("one"));
        assert!(ran.stderr.contains(&expected), "{ran:#?}");
    }
    home.ok("stop --title one");
    let log = fs::read_to_string(home.log_path("one")).unwrap();
    assert!(log.contains(" cluster-ready ") && log.contains("observed the end"), "{log}");
}

fn of_two_starts_at_once_one_runs_and_the_other_says_so() {
    for _ in 0..3 {
        let home = Home::new("workers=1");
        let starts = [0, 1].map(|_| home.command("start --daemon --title one").spawn().unwrap());
        let ran = starts.map(finish);
        let lost: Vec<_> = ran.iter().filter(|ran| ran.code != Some(0)).collect();
        assert_eq!(lost.len(), 1, "{ran:#?}");
        assert!(lost[0].code == Some(1), "{ran:#?}");
        assert!(lost[0].stderr.contains("one runs already (pid "), "{ran:#?}");
        // What the other one logs has nothing to do with it.
        assert_eq!(lost[0].stderr.lines().count(), 1, "{ran:#?}");
        home.ok("stop --title one");
        home.assert_clean();
    }
}

fn a_start_that_somebody_stops_says_so() {
    let home = Home::new("agent=hang stop_ms=300");
    let launcher = home.command("start --daemon --title one").spawn().unwrap();
    home.wait_log("one", "a line before the hang");
    home.ok("stop --title one");
    let ran = finish(launcher);
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    let says = "one did not start: it was stopped before the cluster was ready";
    assert!(ran.stderr.starts_with(says), "{ran:#?}");
    assert!(home.started("one").into_iter().all(|pid| !is_alive(pid)));
    home.assert_clean();
}

fn a_killed_master_is_in_nobodys_way() {
    let home = Home::new("workers=1");
    let pid_file = home.path().join("run/one.pid");
    let start = format!("start --daemon --title one --pid-file {}", pid_file.display());
    home.ok(&start);
    let (master, all) = (home.pid("one"), home.running("one"));
    send(master, Signal::KILL);
    until("all are gone", || all.iter().all(|pid| !is_alive(*pid)));
    assert!(home.instance("one").join("control").exists(), "it could not clean up");
    let ran = home.run("stop --title one");
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "one is not running\n"));
    home.assert_clean();

    home.ok(&start);
    send(home.pid("one"), Signal::KILL);
    until("the master is gone", || !is_alive(home.pid("one")));
    home.ok(&start);
    assert_eq!(fs::read_to_string(&pid_file).unwrap().trim(), home.pid("one").to_string());
    home.ok("stop --title one");
    assert!(!pid_file.exists());
    home.assert_clean();
}

fn instances_do_not_touch_each_other() {
    let home = Home::new("workers=1");
    // One is the beginning of the other.
    home.ok("start --daemon --title app");
    home.ok("start --daemon --title app-2");
    let (one, other) = (home.running("app"), home.running("app-2"));
    assert!(one.iter().all(|pid| !other.contains(pid)));
    home.ok("stop --title app");
    assert!(one.iter().all(|pid| !is_alive(*pid)));
    assert!(other.iter().all(|pid| is_alive(*pid)), "{}", home.log());
    let ran = home.run("stop --title ap");
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "ap is not running\n"));
    assert!(home.log_path("app-2").exists());
    home.ok("stop --title app-2");
    assert!(other.iter().all(|pid| !is_alive(*pid)));
    home.assert_clean();
}

fn a_start_in_the_foreground_ends_with_the_code_of_its_cluster() {
    let mut home = Home::new("workers=1");
    let master = home.command("start --title one").spawn().unwrap();
    until("it runs", || home.instance("one").join("control").exists());
    assert_eq!(home.pid("one"), master.id(), "it is the master itself");
    let pid = master.id();
    let said = std::thread::spawn(move || finish(master));
    home.ok("stop --title one");
    let ran = said.join().unwrap();
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    assert!(!is_alive(pid));
    home.assert_clean();

    home.keys("workers=1 observer=stop");
    assert_eq!(home.run("start --title one").code, Some(0));
    // No command is a start in the foreground.
    assert_eq!(home.run("").code, Some(0));
    home.keys("worker=fail");
    let ran = home.run("start --title one");
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    assert!(ran.stderr.contains("no upstream for the fixture"), "{ran:#?}");
    home.assert_clean();

    home.keys("workers=1");
    let master = home.command("start --title one").spawn().unwrap();
    until("it runs", || home.instance("one").join("control").exists());
    send(master.id(), Signal::TERM);
    let ran = finish(master);
    assert!(ran.code == Some(0) || ran.code.is_none(), "before its handler is there: {ran:#?}");
}

fn a_start_in_the_foreground_gives_up_at_its_timeout() {
    let home = Home::new("agent=hang");
    let ran = home.run("start --title one --timeout 0.5");
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    assert_eq!(ran.stderr.matches("not ready within 500ms").count(), 1, "{ran:#?}");

    let log = home.path().join("one.log");
    let mut command = home.command("start --title one --timeout 0.5");
    let ran = finish(command.arg("--stdout").arg(&log).spawn().unwrap());
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    let text = fs::read_to_string(log).unwrap();
    assert_eq!(text.matches("not ready within 500ms").count(), 1, "{text}");
    home.assert_clean();
}

fn flags_win_over_what_the_program_says() {
    let home = Home::new("workers=1");
    home.ok("start --daemon --title one --workers 3");
    home.wait_log("one", "of 3");
    assert_eq!(home.pids("one", "worker-2").len(), 1);
    home.ok("stop --title one");
}

fn a_program_with_arguments_of_its_own_embeds_the_commands() {
    let home = Home::new("embed workers=1");
    assert_eq!(home.ok("--greeting hi"), "no command, hi\n");
    home.ok("start --daemon --title one --greeting bye");
    home.ok("stop --title one");
    home.assert_clean();
    let ran = home.run("begin");
    assert_eq!(ran.code, Some(2), "{ran:#?}");
}

fn mistakes_and_help_are_for_people() {
    let home = Home::new("workers=1");
    let help = home.ok("--help");
    for command in ["start", "stop", "status", "reload", "scale", "logs"] {
        assert!(help.contains(&format!("  {command} ")), "{help}");
    }
    assert!(home.ok("start --help").contains("--pid-file <FILE>"));
    for (arguments, names) in [
        ("begin", "begin"),
        ("start --workers many", "--workers"),
        ("start --title a/b", "--title"),
        ("scale", "<N>"),
    ] {
        let ran = home.run(arguments);
        assert_eq!(ran.code, Some(2), "{ran:#?}");
        assert!(ran.stderr.contains(names), "{ran:#?}");
    }
    for command in ["reload", "scale 2", "logs"] {
        let ran = home.run(&format!("{command} --title nobody"));
        assert_eq!(ran.code, Some(1), "{ran:#?}");
        assert!(ran.stderr.contains("nobody"), "{ran:#?}");
    }
    home.assert_clean();
}

fn a_directory_of_others_is_refused() {
    let home = Home::new("workers=1");
    let base = home.path().join("cluster-client");
    fs::create_dir(&base).unwrap();
    fs::set_permissions(&base, fs::Permissions::from_mode(0o755)).unwrap();
    for arguments in ["start --title one", "start --daemon --title one", "stop --title one"] {
        let mut command = home.command(arguments);
        // The logs would be in the same directory.
        command.env("XDG_STATE_HOME", home.path().join("state"));
        let ran = home.run_command(command);
        if arguments.starts_with("stop") && ran.code == Some(0) {
            // Nothing was ever made in it.
            continue;
        }
        assert_eq!(ran.code, Some(1), "{ran:#?}");
        assert!(ran.stderr.contains("with mode 0700"), "{ran:#?}");
    }
}

fn a_pid_file_is_there_as_long_as_the_master() {
    let home = Home::new("workers=1");
    let path = home.path().join("some/where/one.pid");
    let start = format!("start --daemon --title one --pid-file {}", path.display());
    home.ok(&start);
    assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", home.pid("one")));
    fs::remove_file(&path).unwrap();
    home.ok("stop --title one");

    fs::write(&path, format!("{}\n", std::process::id())).unwrap();
    let ran = home.run(&start);
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    assert!(ran.stderr.contains("which lives"), "{ran:#?}");
    home.assert_clean();
}

fn nothing_of_the_launcher_reaches_agent_and_workers() {
    let home = Home::new("workers=1");
    let mut command = home.command("start --daemon --title one");
    command.env("NOTIFY_SOCKET", "/nonexistent/socket").stdout(Stdio::piped());
    assert_eq!(home.run_command(command).code, Some(0));
    let worker = home.pids("one", "worker-0")[0];
    let environment = fs::read(format!("/proc/{worker}/environ")).unwrap();
    let environment = String::from_utf8_lossy(&environment);
    assert!(!environment.contains("LAUNCHER"), "{environment}");
    assert!(!environment.contains("NOTIFY_SOCKET"), "{environment}");
    home.ok("stop --title one");
}
