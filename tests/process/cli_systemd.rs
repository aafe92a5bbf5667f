//! What a service manager is told. The one here is a socket that notes everything.

use std::{
    io::Read,
    net::TcpStream,
    os::unix::net::UnixDatagram,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::{
    cli::{Home, finish},
    support::{PATIENCE, send, state, until},
    tests,
};

tests![
    readiness_reload_and_stop_are_told_in_order,
    a_reload_that_fails_is_over_too_and_says_why,
    the_watchdog_is_pinged_by_a_master_that_turns_and_by_no_other,
    a_start_that_fails_is_never_ready,
    a_socket_of_the_service_manager_is_taken_by_its_name,
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

fn readiness_reload_and_stop_are_told_in_order() {
    let home = Home::new("workers=2");
    let (mut manager, master) = Manager::start(&home, None);
    let ready = manager.wait("READY=1");
    assert!(ready.lines().any(|line| line.starts_with("STATUS=running")), "{ready}");
    // As systemd does for `systemctl reload`.
    send(master.id(), Signal::HUP);
    let reloading = manager.wait("RELOADING=1");
    let time = reloading.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC="));
    let time: u64 = time.unwrap().parse().unwrap();
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    assert!(time > 0 && time <= now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000);
    manager.wait("READY=1");
    home.ok("stop --title one");
    assert_eq!(finish(master).code, Some(0));
    assert_eq!(manager.states(), ["READY=1", "RELOADING=1", "READY=1", "STOPPING=1"]);
}

fn a_reload_that_fails_is_over_too_and_says_why() {
    let home = Home::new("workers=1 worker_next=fail");
    let (mut manager, master) = Manager::start(&home, None);
    manager.wait("READY=1");
    assert_eq!(home.run("reload --title one").code, Some(1));
    manager.wait("RELOADING=1");
    let over = manager.wait("READY=1");
    let status = over.lines().find(|line| line.starts_with("STATUS=")).unwrap();
    assert!(status.contains("no upstream for the fixture"), "{over}");
    assert_eq!(status.matches("the reload failed").count(), 1, "{over}");
    assert_eq!(over.lines().count(), 2, "no line of a log is a message of its own: {over}");
    home.ok("stop --title one");
    assert_eq!(finish(master).code, Some(0));
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

fn a_socket_of_the_service_manager_is_taken_by_its_name() {
    let home = Home::new("workers=1 listen=http@127.0.0.1:0");
    let mut master = activate(&home, "http");
    let stdout = master.stdout.as_mut().unwrap();
    let (mut line, mut byte) = (String::new(), [0]);
    // Unbuffered, so that the rest stays for later.
    while stdout.read(&mut byte).unwrap() == 1 && byte != *b"\n" {
        line.push(char::from(byte[0]));
    }
    let port: u16 = line.parse().unwrap();
    // It waits in the backlog until a worker is there.
    let mut pid = String::new();
    TcpStream::connect(("127.0.0.1", port)).unwrap().read_to_string(&mut pid).unwrap();
    home.ok("stop --title one");
    let ran = finish(master);
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    assert!(ran.stdout.contains(&format!("listens http 127.0.0.1:{port}")), "{ran:#?}");
    assert!(ran.stdout.contains(&format!("worker-0[{pid}]")), "{pid}: {ran:#?}");

    let ran = finish(activate(&home, "other"));
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    assert!(ran.stderr.contains("FileDescriptorName="), "{ran:#?}");
}

fn activate(home: &Home, name: &str) -> Child {
    let start = home.command("start --title one");
    let mut command = Command::new("python3");
    command.args(["-c", ACTIVATE, name]).arg(start.get_program()).args(start.get_args());
    command.envs(start.get_envs().filter_map(|(key, value)| Some((key, value?))));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// What a service manager does for socket activation: a socket on fd 3, its name, and the pid of the
/// process that it is for.
const ACTIVATE: &str = "
import os, socket, sys
listener = socket.create_server(('127.0.0.1', 0))
print(listener.getsockname()[1], flush=True)
os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS='1', LISTEN_FDNAMES=sys.argv[1], LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
";
