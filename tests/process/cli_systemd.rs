//! What a service manager is told. The one here is a socket that notes everything.

use std::{
    os::unix::net::UnixDatagram,
    process::Child,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::{
    cli::{Home, finish},
    support::{PATIENCE, send, state, until},
    tests,
};

tests![
    readiness_and_stop_are_told_in_order,
    the_watchdog_is_pinged_by_a_master_that_turns_and_by_no_other,
    a_start_that_fails_is_never_ready,
];

/// The service manager of one master.
struct Manager {
    socket: UnixDatagram,
    heard: Vec<String>,
}

impl Manager {
    /// Starts a master in the foreground, as a service manager does.
    fn start(home: &Home, watchdog: Option<Duration>) -> (Self, Child) {
        let path = home.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let mut command = home.command("start --title one");
        command.env("NOTIFY_SOCKET", &path);
        if let Some(limit) = watchdog {
            command.env("WATCHDOG_USEC", limit.as_micros().to_string());
        }
        let master = command.spawn().unwrap();
        (Self { socket, heard: Vec::new() }, master)
    }

    fn listen(&mut self) -> Option<&str> {
        let mut buffer = [0; 4096];
        let length = self.socket.recv(&mut buffer).ok()?;
        self.heard.push(String::from_utf8(buffer[..length].to_vec()).unwrap());
        self.heard.last().map(String::as_str)
    }

    /// Listens until a message has this line.
    fn wait(&mut self, line: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(message) = self.listen()
                && message.lines().any(|said| said == line)
            {
                return message.to_owned();
            }
            assert!(Instant::now() < deadline, "no {line} in {:#?}", self.heard);
        }
    }

    /// All messages but those for the watchdog and those that are a status alone: the first line
    /// of each.
    fn states(&mut self) -> Vec<String> {
        while self.listen().is_some() {}
        let lines = self.heard.iter().filter_map(|message| message.lines().next());
        let is_state = |line: &&str| !line.starts_with("STATUS=") && *line != "WATCHDOG=1";
        lines.filter(is_state).map(str::to_owned).collect()
    }
}

fn readiness_and_stop_are_told_in_order() {
    let home = Home::new("workers=2");
    let (mut manager, master) = Manager::start(&home, None);
    let ready = manager.wait("READY=1");
    assert!(ready.lines().any(|line| line.starts_with("STATUS=running")), "{ready}");
    home.ok("stop --title one");
    assert_eq!(finish(master).code, Some(0));
    assert_eq!(manager.states(), ["READY=1", "STOPPING=1"]);
}

fn the_watchdog_is_pinged_by_a_master_that_turns_and_by_no_other() {
    let home = Home::new("workers=1");
    let (mut manager, master) = Manager::start(&home, Some(Duration::from_millis(100)));
    manager.wait("READY=1");
    for _ in 0..3 {
        manager.wait("WATCHDOG=1");
    }
    send(master.id(), Signal::STOP);
    until("it is stopped", || state(master.id()) == Some('T'));
    while manager.listen().is_some() {}
    let heard = manager.heard.len();
    assert!(manager.listen().is_none(), "{:?}", &manager.heard[heard..]);
    send(master.id(), Signal::CONT);
    manager.wait("WATCHDOG=1");
    home.ok("stop --title one");
    assert_eq!(finish(master).code, Some(0));
}

fn a_start_that_fails_is_never_ready() {
    let home = Home::new("agent=fail");
    let (mut manager, master) = Manager::start(&home, None);
    assert_eq!(finish(master).code, Some(1));
    assert!(!manager.states().contains(&"READY=1".to_owned()), "{:?}", manager.heard);
}
