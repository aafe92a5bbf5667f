//! A real etcd for one test: started on free ports of loopback, with data of its own, and killed
//! when it is dropped.

pub(crate) mod group;

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio::time::timeout;

/// How long anything may take that has to happen. Long, for a machine that does much else besides.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// A server of etcd, and its data.
pub(crate) struct Etcd {
    data: TempDir,
    client_port: u16,
    peer_port: u16,
    child: Option<Child>,
}

impl Etcd {
    /// Starts one, and waits until it is healthy.
    ///
    /// # Panics
    ///
    /// Where there is no etcd: without it the tests have failed.
    pub(crate) fn start() -> Self {
        // The ports are free when they are chosen. If another process was faster, choose again.
        for _ in 0..5 {
            let mut etcd = Self {
                data: TempDir::new().expect("a directory for the data"),
                client_port: free_port(),
                peer_port: free_port(),
                child: None,
            };
            if etcd.try_start(etcd.client_port) {
                return etcd;
            }
        }
        panic!("etcd did not come up on any of five pairs of ports");
    }

    /// The URL for clients.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.client_port)
    }

    /// A client of its own for the test.
    pub(crate) async fn client(&self) -> etcd_client::Client {
        etcd_client::Client::connect([self.url()], None).await.expect("a client")
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        child.kill().expect("etcd is killed");
        child.wait().expect("etcd is gone");
    }

    /// Starts it again, at the same address and with the same data.
    pub(crate) fn start_again(&mut self) {
        assert!(self.try_start(self.client_port), "etcd did not come up again");
    }

    /// Starts it again with the same data, where its clients do not find it. Returns its URL there.
    pub(crate) fn start_again_hidden(&mut self) -> String {
        for _ in 0..5 {
            let port = free_port();
            if self.try_start(port) {
                return format!("http://127.0.0.1:{port}");
            }
        }
        panic!("etcd did not come up on any of five ports");
    }

    /// Sends its process a signal: `STOP` freezes it, `CONT` lets it go on.
    pub(crate) fn signal(&self, signal: &str) {
        let child = self.child.as_ref().expect("etcd runs");
        send_signal(child.id(), signal);
    }

    /// The value of a metric, summed over its labels.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let page = http_get(self.client_port, "/metrics").expect("etcd has metrics");
        let lines = page.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']))
        });
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// How many connections this process has to it.
    pub(crate) fn connections_of(&self, pid: u32) -> usize {
        let table = std::fs::read_to_string("/proc/net/tcp").expect("the connections of the host");
        let to_us = format!("0100007F:{:04X}", self.client_port);
        // Fields: number, local address, remote address, state (01 is "established"), … inode.
        let ours = table.lines().filter_map(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            let is_ours = fields.get(2) == Some(&to_us.as_str()) && fields.get(3) == Some(&"01");
            is_ours.then(|| format!("socket:[{}]", fields.get(9).expect("a line has an inode")))
        });
        let ours: Vec<_> = ours.collect();
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("the process lives");
        open.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
            .filter(|target| ours.iter().any(|socket| target.as_os_str() == socket.as_str()))
            .count()
    }

    /// Whether it is healthy within the deadline; not, if it ended before.
    fn try_start(&mut self, port: u16) -> bool {
        let [client, peer] = [port, self.peer_port].map(|port| format!("http://127.0.0.1:{port}"));
        let child = Command::new("etcd")
            .arg("--data-dir")
            .arg(self.data.path())
            .args(["--name", "test", "--initial-cluster", &format!("test={peer}")])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                panic!(
                    "etcd can't be run ({error}); ./test.sh installs it, or says what to install"
                )
            });
        self.child = Some(child);
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            if http_get(port, "/health").is_some_and(|body| body.contains("\"true\"")) {
                return true;
            }
            let child = self.child.as_mut().expect("it was just started");
            if child.try_wait().expect("its state is known").is_some() {
                break;
            }
            thread::sleep(Duration::from_millis(20));
        }
        self.kill();
        false
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Polls until it holds.
pub(crate) async fn eventually<T>(mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let poll = async {
        loop {
            if let Some(found) = probe().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(DEADLINE, poll).await.expect("it holds in time")
}

/// `kill -SIGNAL PID`.
pub(crate) fn send_signal(pid: u32, signal: &str) {
    let status = Command::new("kill")
        .args([&format!("-{signal}"), &pid.to_string()])
        .status()
        .expect("kill can be run");
    assert!(status.success(), "kill -{signal} {pid}");
}

/// A free port that the system gives to no outgoing connection: a client that dials a dead port
/// which it could itself be given would at times connect to itself, and so keep etcd from it.
fn free_port() -> u16 {
    let first_ephemeral = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|range| range.split_whitespace().next()?.parse().ok())
        .unwrap_or(32_768);
    loop {
        let port = fastrand::u16(10_000..first_ephemeral);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// The body of a page, where there is somebody who answers.
fn http_get(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    stream.set_read_timeout(Some(DEADLINE)).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
    let mut page = String::new();
    stream.read_to_string(&mut page).ok()?;
    Some(page.split_once("\r\n\r\n")?.1.to_owned())
}
