//! `stop`: it returns when the last process is gone, whatever state the master is in.

use std::path::Path;

use rustix::process::Signal;

use crate::{
    cli::Home,
    support::{is_alive, send, state, until},
    tests,
};

tests![
    a_stop_waits_for_the_last_process_and_a_second_one_finds_nothing,
    a_stop_that_takes_too_long_kills_and_says_so,
    a_stopped_master_is_woken_and_stops,
    a_master_that_cannot_be_woken_is_killed,
    a_stopped_master_that_takes_no_connections_is_told_of_and_stops,
    two_stops_at_once_both_end_when_it_is_over,
];

fn a_stop_waits_for_the_last_process_and_a_second_one_finds_nothing() {
    let home = Home::new("workers=2 worker=hook:300 agent=hook:300");
    home.ok("start --daemon --title one");
    let all = home.running("one");
    assert_eq!(home.ok("stop --title one"), "one is stopped\n");
    assert!(all.iter().all(|pid| !is_alive(*pid)));
    let log = home.log();
    assert_eq!(log.matches("hook is done").count(), 3, "{log}");
    for _ in 0..2 {
        assert_eq!(home.ok("stop --title one"), "one is not running\n");
    }
    home.assert_clean();
}

fn a_stop_that_takes_too_long_kills_and_says_so() {
    let home = Home::new("workers=1 worker=deaf agent=deaf stop_ms=60000");
    home.ok("start --daemon --title one");
    let all = home.running("one");
    let ran = home.run("stop --title one --timeout 0.3");
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    assert!(ran.stdout.contains("is gone after 300ms; killing"), "{ran:#?}");
    assert!(ran.stdout.ends_with("one is stopped\n"), "{ran:#?}");
    assert!(all.iter().all(|pid| !is_alive(*pid)));
    home.assert_clean();
}

fn a_stopped_master_is_woken_and_stops() {
    let home = Home::new("workers=1 worker=hook:10");
    home.ok("start --daemon --title one");
    let (master, all) = (home.pid("one"), home.running("one"));
    send(master, Signal::STOP);
    until("it is stopped", || state(master) == Some('T'));
    let ran = home.run("stop --title one");
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    assert!(ran.stdout.contains("does not answer; waking it"), "{ran:#?}");
    assert!(all.iter().all(|pid| !is_alive(*pid)));
    assert!(home.log().contains("hook is done"), "in good order");
    home.assert_clean();
}

fn a_master_that_cannot_be_woken_is_killed() {
    let home = Home::new("workers=1");
    home.ok("start --daemon --title one");
    let (master, all) = (home.pid("one"), home.running("one"));
    send(master, Signal::STOP);
    until("it is stopped", || state(master) == Some('T'));
    // Stopped again each time, it is as good as stuck.
    let over = std::sync::atomic::AtomicBool::new(false);
    let ran = std::thread::scope(|scope| {
        let over = &over;
        scope.spawn(move || {
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                send(master, Signal::STOP);
                std::thread::yield_now();
            }
        });
        let ran = home.run("stop --title one --timeout 0.5");
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        ran
    });
    assert!(ran.stdout.contains("does not answer"), "{ran:#?}");
    assert!(ran.stdout.ends_with("one is stopped\n"), "{ran:#?}");
    assert!(all.iter().all(|pid| !is_alive(*pid)));
    home.assert_clean();
}

fn a_stopped_master_that_takes_no_connections_is_told_of_and_stops() {
    let home = Home::new("workers=1 worker=hook:10");
    home.ok("start --daemon --title one");
    let (master, all) = (home.pid("one"), home.running("one"));
    send(master, Signal::STOP);
    until("it is stopped", || state(master) == Some('T'));
    fill(&home.instance("one").join("control"));
    let told = format!("the master of one (pid {master}) takes no connections");
    for command in ["status", "reload", "scale 2", "logs"] {
        let ran = home.run(&format!("{command} --title one"));
        assert_eq!(ran.code, Some(1), "{command}: {ran:#?}");
        assert!(ran.stderr.contains(&told), "{command}: {ran:#?}");
    }
    let ran = home.run("stop --title one");
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    assert!(ran.stdout.starts_with(&told), "{ran:#?}");
    assert!(all.iter().all(|pid| !is_alive(*pid)));
    assert!(home.log().contains("hook is done"), "in good order");
    home.assert_clean();
}

/// Connects until nobody else can. Those who hang up stay in the backlog until they are accepted.
fn fill(path: &Path) {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect, socket};

    let address = SocketAddrUnix::new(path).unwrap();
    loop {
        let socket = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        rustix::io::ioctl_fionbio(&socket, true).unwrap();
        match connect(&socket, &address) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return,
            Err(error) => panic!("{error}"),
        }
    }
}

fn two_stops_at_once_both_end_when_it_is_over() {
    let home = Home::new("workers=1 worker=hook:300");
    home.ok("start --daemon --title one");
    let all = home.running("one");
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let ran = home.run("stop --title one");
                assert_eq!(ran.code, Some(0), "{ran:#?}");
                assert!(all.iter().all(|pid| !is_alive(*pid)));
            });
        }
    });
    home.assert_clean();
}
