//! Listening sockets of the application, which the master binds and all workers inherit.

use std::{
    collections::{BTreeMap, HashMap},
    io::Read,
    net::{SocketAddr, TcpListener, TcpStream},
    time::Instant,
};

use crate::support::{Cluster, PATIENCE, Signal, send};

crate::tests![
    connections_reach_every_worker,
    no_connection_is_refused_while_a_worker_or_all_of_them_are_replaced,
    a_port_in_use_fails_the_start_and_leaves_its_owner_alone,
    what_cannot_be_listened_on_fails_the_start_and_is_named,
    an_unknown_name_is_an_error_that_lists_the_names,
    several_listeners_have_their_own_addresses,
    workers_of_another_language_inherit_them_too,
];

/// Where a fixture listens for `name`.
fn address(cluster: &mut Cluster, name: &str) -> SocketAddr {
    cluster.find(&format!(" listens {name} "))[4].parse().unwrap()
}

/// The pid of the worker that answered; `None` if it died on the way. Nobody may refuse.
fn ask(address: SocketAddr) -> Option<u32> {
    let mut connection = TcpStream::connect_timeout(&address, PATIENCE)
        .unwrap_or_else(|error| panic!("{address} refuses: {error}"));
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).ok()?;
    answer.parse().ok()
}

fn stop(mut cluster: Cluster) {
    cluster.signal(Signal::TERM);
    let (status, stderr) = cluster.end();
    assert_eq!(status.code(), Some(0), "{stderr}");
}

/// Asks 200 times, and on until so many have answered.
fn ask_all(address: SocketAddr, workers: usize) -> HashMap<u32, u32> {
    let mut answers = HashMap::new();
    let start = Instant::now();
    for count in 0.. {
        if count >= 200 && answers.len() == workers {
            return answers;
        }
        assert!(start.elapsed() < PATIENCE, "{answers:?}");
        *answers.entry(ask(address).expect("nobody dies")).or_insert(0) += 1;
    }
    answers
}

fn connections_reach_every_worker() {
    for runs in ["", "run"] {
        let mut cluster = Cluster::ready(&format!("workers=4 listen=http@127.0.0.1:0 {runs}"));
        let address = address(&mut cluster, "http");
        let answers = ask_all(address, 4);
        for index in 0..4 {
            let pid = cluster.pid(&format!("worker-{index}"));
            assert!(answers.contains_key(&pid), "{answers:?}");
        }
        stop(cluster);
    }
}

fn no_connection_is_refused_while_a_worker_or_all_of_them_are_replaced() {
    let arguments = "workers=2 listen=http@127.0.0.1:0 backoff_ms=50";
    let mut cluster = Cluster::ready(arguments);
    let address = address(&mut cluster, "http");
    let pids = [cluster.pid("worker-0"), cluster.pid("worker-1")];
    let mut answers: BTreeMap<Option<u32>, u32> = BTreeMap::new();
    for count in 0..400 {
        match count {
            100 => send(pids[0], Signal::KILL),
            // Now, maybe, nobody is there.
            200 => send(pids[1], Signal::KILL),
            _ => {}
        }
        *answers.entry(ask(address)).or_insert(0) += 1;
    }
    // What a worker had accepted when it was killed is all that may be lost.
    assert!(answers.get(&None).is_none_or(|lost| *lost <= 2), "{answers:?}");
    cluster.find(&format!(" died worker 0 (pid {})", pids[0]));
    cluster.find(&format!(" died worker 1 (pid {})", pids[1]));
    let others = answers.keys().flatten().filter(|pid| !pids.contains(pid)).count();
    assert!(others > 0, "{answers:?}");
    stop(cluster);
}

fn a_port_in_use_fails_the_start_and_leaves_its_owner_alone() {
    let mut first = Cluster::ready("workers=1 listen=http@127.0.0.1:0");
    let address = address(&mut first, "http");
    let mut second = Cluster::start(&format!("workers=1 listen=api@127.0.0.1:0,http@{address}"));
    let (status, stderr) = second.end();
    assert_eq!(status.code(), Some(1));
    let expected = format!("can't listen for \"http\" on \"{address}\": the port is in use");
    assert!(stderr.contains(&expected), "{stderr}");
    assert_eq!(second.said, [""; 0], "nobody was started");
    assert_eq!(ask(address), Some(first.pid("worker-0")));
    stop(first);
}

fn what_cannot_be_listened_on_fails_the_start_and_is_named() {
    for (listen, named) in [
        ("http@127.0.0.1:0,http@127.0.0.1:0", "listener \"http\": there are two"),
        ("cluster@127.0.0.1:0", "listener \"cluster\""),
        ("http@nonsense", "can't listen for \"http\" on \"nonsense\""),
        // An address for documentation, which no host has.
        ("http@192.0.2.1:0", "can't listen for \"http\" on \"192.0.2.1:0\""),
    ] {
        let mut cluster = Cluster::start(&format!("workers=1 listen={listen}"));
        let (status, stderr) = cluster.end();
        assert_eq!(status.code(), Some(1), "{listen}");
        assert!(stderr.contains(named), "{stderr}");
    }
}

fn an_unknown_name_is_an_error_that_lists_the_names() {
    let arguments = "workers=1 worker=unknown listen=http@127.0.0.1:0,admin@127.0.0.1:0";
    let mut cluster = Cluster::start(arguments);
    let (status, stderr) = cluster.end();
    assert_eq!(status.code(), Some(1));
    assert!(stderr.contains("no listener \"unknown\""), "{stderr}");
    assert!(stderr.contains("it has: \"http\", \"admin\""), "{stderr}");
}

fn several_listeners_have_their_own_addresses() {
    let mut cluster = Cluster::ready("workers=1 listen=http@127.0.0.1:0,local@localhost:0");
    let addresses = [address(&mut cluster, "http"), address(&mut cluster, "local")];
    assert_ne!(addresses[0].port(), addresses[1].port());
    assert_eq!(ask(addresses[0]), Some(cluster.pid("worker-0")));
    // Nobody accepts there, and nobody is refused.
    TcpStream::connect_timeout(&addresses[1], PATIENCE).unwrap();
    // Another address of the host than the one that was asked for is not listened on.
    let elsewhere = SocketAddr::from(([127, 0, 0, 2], addresses[0].port()));
    if TcpListener::bind((elsewhere.ip(), 0)).is_ok() {
        assert!(TcpStream::connect_timeout(&elsewhere, PATIENCE).is_err());
    }
    stop(cluster);
    assert!(
        TcpStream::connect_timeout(&addresses[0], PATIENCE).is_err(),
        "it ends with the master"
    );
}

fn workers_of_another_language_inherit_them_too() {
    let arguments = "workers=2 worker_program=python: listen=http@127.0.0.1:0";
    let mut cluster = Cluster::ready(arguments);
    let address = address(&mut cluster, "http");
    let answers = ask_all(address, 2);
    let pids = [cluster.pid("worker-0"), cluster.pid("worker-1")];
    assert!(answers.keys().all(|pid| pids.contains(pid)), "{answers:?}");
    stop(cluster);
}
