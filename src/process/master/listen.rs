//! The listening sockets of the application: the master binds them once, and all workers inherit
//! them.

use std::{
    collections::BTreeMap,
    io,
    net::{SocketAddr, TcpListener, ToSocketAddrs},
};

use crate::{
    error::{Error, ErrorKind, Result},
    process::control::{CLUSTER_LISTENER, MAX_FDS},
};

/// How many connections wait while nobody accepts them. The system may have a lower bound.
pub(super) const BACKLOG: i32 = 4096;

/// Longest name of a listener, in bytes.
const MAX_NAME: usize = 64;

/// A socket that is to be bound.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) name: String,
    pub(super) address: String,
}

/// A socket that is bound.
#[derive(Debug)]
pub(super) struct Listening {
    pub(super) name: String,
    pub(super) address: SocketAddr,
    pub(super) socket: TcpListener,
}

/// Binds all, or none. What was given to the program under one of the names, as by a service
/// manager, is taken in place of binding its address.
///
/// # Errors
///
/// [`ErrorKind::Config`] for what was given under a name that nobody wants;
/// [`ErrorKind::Config`] for names that are not unique, reserved, empty, too long or too many, and
/// for what is no address; [`ErrorKind::PortBusy`] or [`ErrorKind::Io`] where the system refuses.
pub(super) fn bind(
    wanted: &[Wanted],
    mut given: BTreeMap<String, TcpListener>,
) -> Result<Vec<Listening>> {
    check(wanted)?;
    let take = |wanted: &Wanted| match given.remove(&wanted.name) {
        Some(socket) => take_over(&wanted.name, socket),
        None => bind_one(wanted),
    };
    let listening = wanted.iter().map(take).collect();
    match given.keys().next() {
        // Who connects to it would wait for ever.
        Some(name) => Err(Error::config(format!(
            "the service manager gives a socket {name:?}, which no `.listen({name:?}, …)` takes; \
             name it with FileDescriptorName="
        ))),
        None => listening,
    }
}

fn take_over(name: &str, socket: TcpListener) -> Result<Listening> {
    let take_over = || {
        socket.set_nonblocking(true)?;
        Ok((socket.local_addr()?, socket))
    };
    let taken = take_over().map_err(|error| {
        Error::io(format_args!("can't use the socket {name:?} that was given"), &error)
    });
    taken.map(|(address, socket)| Listening { name: name.to_owned(), address, socket })
}

fn check(wanted: &[Wanted]) -> Result<()> {
    if wanted.len() > MAX_FDS {
        return Err(Error::config(format!(
            "{} listening sockets; a worker can inherit at most {MAX_FDS}",
            wanted.len()
        )));
    }
    for (index, Wanted { name, .. }) in wanted.iter().enumerate() {
        let why = if name.is_empty() || name.len() > MAX_NAME {
            format!("its name must have 1 to {MAX_NAME} bytes")
        } else if name == CLUSTER_LISTENER {
            "this name is the cluster port's own; choose another one".to_owned()
        } else if wanted[..index].iter().any(|other| other.name == *name) {
            "there are two of this name; give each its own".to_owned()
        } else {
            continue;
        };
        return Err(Error::config(format!("listener {name:?}: {why}")));
    }
    Ok(())
}

fn bind_one(Wanted { name, address }: &Wanted) -> Result<Listening> {
    let what = format!("can't listen for {name:?} on {address:?}");
    let unclear = |why: String| {
        Error::config(format!("{what}: {why}; give an address and a port, as 127.0.0.1:7001"))
    };
    let addresses = address.to_socket_addrs().map_err(|error| unclear(error.to_string()))?;
    let mut last = None;
    for address in addresses {
        match listen(address) {
            Ok((socket, address)) => return Ok(Listening { name: name.clone(), address, socket }),
            Err(error) => last = Some(error),
        }
    }
    Err(match last {
        None => unclear("it stands for no address".to_owned()),
        Some(error) if error.kind() == io::ErrorKind::AddrInUse => Error::new(
            ErrorKind::PortBusy,
            format!("{what}: the port is in use; stop who has it or choose another port"),
        ),
        Some(error) => Error::io(what, &error),
    })
}

/// Binds an address; 0 is a port of the system's choice.
pub(super) fn listen(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let socket = TcpListener::bind(address)?;
    // A second call changes the backlog, which is 128 from the standard library: less than what may
    // wait while processes are replaced.
    rustix::net::listen(&socket, BACKLOG)?;
    // It holds for all who inherit it.
    socket.set_nonblocking(true)?;
    let address = socket.local_addr()?;
    Ok((socket, address))
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, time::Duration};

    use super::*;

    fn wanted(pairs: &[(&str, &str)]) -> Vec<Wanted> {
        let one = |(name, address): &(&str, &str)| Wanted {
            name: (*name).to_owned(),
            address: (*address).to_owned(),
        };
        pairs.iter().map(one).collect()
    }

    #[test]
    fn names_and_addresses_that_make_no_sense_are_named() {
        let refused = [
            (wanted(&[("", "127.0.0.1:0")]), "1 to 64 bytes"),
            (wanted(&[("cluster", "127.0.0.1:0")]), "listener \"cluster\""),
            (wanted(&[("http", "127.0.0.1:0"), ("http", "127.0.0.1:0")]), "two of this name"),
            (wanted(&[("http", "127.0.0.1")]), "can't listen for \"http\" on \"127.0.0.1\""),
            (wanted(&[("http", "127.0.0.1:70000")]), "127.0.0.1:70000"),
        ];
        for (wanted, part) in refused {
            let error = bind(&wanted, BTreeMap::new()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{error}");
            assert!(error.to_string().contains(part), "{error}");
        }
        let names: Vec<String> = (0..33).map(|number| format!("n{number}")).collect();
        let many: Vec<_> = names.iter().map(|name| (&**name, "127.0.0.1:0")).collect();
        let error = bind(&wanted(&many), BTreeMap::new()).unwrap_err();
        assert!(error.to_string().contains("at most 32"), "{error}");
        assert_eq!(bind(&wanted(&many[..32]), BTreeMap::new()).unwrap().len(), 32);
    }

    #[test]
    fn a_port_that_is_in_use_is_named_with_its_address() {
        let first = bind(&wanted(&[("http", "127.0.0.1:0")]), BTreeMap::new()).unwrap();
        let address = first[0].address.to_string();
        let error = bind(&wanted(&[("api", "127.0.0.1:0"), ("http", &address)]), BTreeMap::new())
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PortBusy);
        assert!(error.to_string().contains(&format!("\"http\" on \"{address}\"")), "{error}");
    }

    #[test]
    fn a_host_name_is_resolved() {
        let bound = bind(&wanted(&[("http", "localhost:0")]), BTreeMap::new()).unwrap();
        assert!(bound[0].address.ip().is_loopback() && bound[0].address.port() > 0);
    }

    #[test]
    fn a_port_takes_more_connections_than_a_host_has_workers() {
        let (_listener, address) = listen((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        // Nobody accepts. The standard library's backlog of 128 would block here.
        let limit = Duration::from_secs(2);
        let connect = |_| std::net::TcpStream::connect_timeout(&address, limit).unwrap();
        let waiting: Vec<_> = (0..400).map(connect).collect();
        assert_eq!(waiting.len(), 400);
    }
}
