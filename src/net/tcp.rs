//! TCP for iSCSI: connect without blocking, listen, names to addresses.
//!
//! Every stream gets the same treatment: no Nagle, as a request must not wait for the answer to
//! the one before; and a limit to how long the kernel may wait for a peer that has gone without a
//! word, so that the session notices and connects again.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::num::NonZeroU32;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use crate::wire::seconds::Tenths;

/// Where a connection comes from, if that is not for the routing table to say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// Our address.
    pub address: Option<IpAddr>,
    /// Index of the link that every packet must take: matters with two links in one subnet.
    pub link_index: Option<NonZeroU32>,
}

/// Time without an acknowledgement after which a connection is broken. Long enough for a target
/// that restarts, short beside the minutes that the kernel would wait.
const USER_TIMEOUT: Duration = Duration::from_secs(20);
/// An idle connection is probed after this time.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBES: u32 = 2;
/// Connections that the kernel keeps until they are accepted; more wait for a second and try again.
const LISTEN_BACKLOG: i32 = 1024;

/// A connection that is being made. Poll [`Connecting::fd`] for writing until the deadline, then
/// ask [`Connecting::poll_stream`].
#[derive(Debug)]
pub struct Connecting {
    socket: Socket,
    peer: SocketAddr,
    began: Instant,
    deadline: Instant,
}

/// Begins to connect to `peer`; never blocks. `now` and `deadline` are only compared.
pub fn connect(
    peer: SocketAddr,
    origin: Origin,
    now: Instant,
    deadline: Instant,
) -> Result<Connecting, Error> {
    let error = |source| Error { doing: "connect to", peer, source };
    let start = || -> io::Result<Socket> {
        let stream = Type::STREAM.nonblocking().cloexec();
        let socket = Socket::new(Domain::for_address(peer), stream, Some(Protocol::TCP))?;
        if let Some(index) = origin.link_index {
            match peer {
                SocketAddr::V4(_) => socket.bind_device_by_index_v4(Some(index))?,
                SocketAddr::V6(_) => socket.bind_device_by_index_v6(Some(index))?,
            }
        }
        if let Some(address) = origin.address {
            socket.bind(&SocketAddr::new(address, 0).into())?;
        }
        tune(&socket)?;
        match socket.connect(&peer.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(Errno::INPROGRESS.raw_os_error()) => {}
            Err(error) => return Err(error),
        }
        Ok(socket)
    };
    Ok(Connecting { socket: start().map_err(error)?, peer, began: now, deadline })
}

impl Connecting {
    /// Writable when the connection is there or has failed.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// When to ask [`Connecting::poll_stream`] at the latest.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The stream, non-blocking, or the reason why there is none; `Err(self)` while it is not
    /// decided yet.
    pub fn poll_stream(self, now: Instant) -> Result<Result<TcpStream, Error>, Connecting> {
        let failed = |source| Error { doing: "connect to", peer: self.peer, source };
        match self.socket.take_error() {
            Ok(None) => {}
            Ok(Some(source)) | Err(source) => return Ok(Err(failed(source))),
        }
        // Without an error, having a peer is what tells a connection from an attempt.
        match self.socket.peer_addr() {
            Ok(_) => Ok(Ok(self.socket.into())),
            Err(_) if now >= self.deadline => {
                let text = format!("no answer in {} s", Tenths((now - self.began).as_millis()));
                Ok(Err(failed(io::Error::new(ErrorKind::TimedOut, text))))
            }
            Err(_) => Err(self),
        }
    }
}

/// Listens, non-blocking. `[::]` takes IPv4 as well; a port is free again at once after a restart.
pub fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    let start = || -> io::Result<TcpListener> {
        let stream = Type::STREAM.nonblocking().cloexec();
        let socket = Socket::new(Domain::for_address(address), stream, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
            socket.set_only_v6(false)?;
        }
        socket.bind(&address.into())?;
        socket.listen(LISTEN_BACKLOG)?;
        Ok(socket.into())
    };
    start().map_err(|source| Error { doing: "listen on", peer: address, source })
}

/// Gives an accepted stream the same options as a connected one.
pub fn tune_accepted(stream: &TcpStream) -> io::Result<()> {
    tune(&socket2::SockRef::from(stream))
}

fn tune(socket: &Socket) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))
}

/// The addresses of a host, best first. Literal addresses need no resolver; a name blocks for as
/// long as the system's resolver takes.
pub fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, ResolveError> {
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    let failed = |source| ResolveError { host: host.to_owned(), source };
    let addresses: Vec<SocketAddr> =
        (bare, port).to_socket_addrs().map_err(|error| failed(Some(error)))?.collect();
    if addresses.is_empty() { Err(failed(None)) } else { Ok(addresses) }
}

/// A connection or a listening socket that could not be made.
#[derive(Debug)]
pub struct Error {
    doing: &'static str,
    peer: SocketAddr,
    source: io::Error,
}

impl Error {
    /// What kind of failure it was.
    pub fn kind(&self) -> ErrorKind {
        self.source.kind()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.doing, self.peer)?;
        let check = match self.source.kind() {
            ErrorKind::ConnectionRefused => "the host is there, but nothing listens on that port",
            ErrorKind::NetworkUnreachable => "there is no route: check address and gateway",
            ErrorKind::HostUnreachable => "the host does not answer ARP, or a router says so",
            ErrorKind::TimedOut => "the host is down, or a firewall is in between",
            ErrorKind::AddrInUse => "another program uses that port",
            ErrorKind::AddrNotAvailable => "the address is not one of this machine",
            _ => return write!(f, ": {}", self.source),
        };
        write!(f, ": {}: {check}", self.source)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        // The text of the source is already in the message.
        None
    }
}

/// A name without an address.
#[derive(Debug)]
pub struct ResolveError {
    host: String,
    source: Option<io::Error>,
}

impl fmt::Display for ResolveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "look up {}: ", self.host.escape_debug())?;
        match &self.source {
            Some(source) => write!(f, "{source}: check the name, or give an address instead"),
            None => f.write_str("the name has no address"),
        }
    }
}

impl std::error::Error for ResolveError {}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    fn loopback() -> SocketAddr {
        "127.0.0.1:0".parse().unwrap()
    }

    /// Drives a connection to its end, as a caller's loop does.
    fn drive(mut connecting: Connecting) -> Result<TcpStream, Error> {
        loop {
            match connecting.poll_stream(Instant::now()) {
                Ok(outcome) => return outcome,
                Err(waiting) => connecting = waiting,
            }
            let left = connecting.deadline().saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).unwrap();
            poll(&mut [PollFd::new(&connecting, PollFlags::OUT)], Some(&timeout)).unwrap();
        }
    }

    impl AsFd for Connecting {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.fd()
        }
    }

    fn attempt(peer: SocketAddr, origin: Origin, patience: Duration) -> Result<TcpStream, Error> {
        let now = Instant::now();
        drive(connect(peer, origin, now, now + patience)?)
    }

    #[test]
    fn a_connection_carries_bytes_and_has_our_options() {
        let listener = listen(loopback()).unwrap();
        let origin = Origin { address: Some("127.0.0.2".parse().unwrap()), link_index: None };
        let peer = listener.local_addr().unwrap();
        let mut stream = attempt(peer, origin, Duration::from_secs(5)).unwrap();
        assert!(stream.nodelay().unwrap());
        let socket = socket2::SockRef::from(&stream);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(USER_TIMEOUT));
        assert!(socket.keepalive().unwrap());
        listener.set_nonblocking(false).unwrap();
        let (mut accepted, from) = listener.accept().unwrap();
        tune_accepted(&accepted).unwrap();
        assert_eq!(from.ip(), origin.address.unwrap());
        stream.write_all(b"x").unwrap();
        let mut byte = [0];
        accepted.read_exact(&mut byte).unwrap();
        assert_eq!(byte, *b"x");
    }

    #[test]
    fn a_refused_connection_says_what_to_check() {
        let free = std::net::TcpListener::bind(loopback()).unwrap().local_addr().unwrap();
        let error = attempt(free, Origin::default(), Duration::from_secs(5)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        let text = error.to_string();
        assert!(text.starts_with(&format!("connect to {free}: ")), "{text}");
        assert!(text.ends_with("nothing listens on that port"), "{text}");
    }

    #[test]
    fn a_connection_without_answer_ends_at_its_deadline() {
        // A listener whose queue is full does not answer: the kernel drops what comes.
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&loopback().into()).unwrap();
        socket.listen(0).unwrap();
        let peer = socket.local_addr().unwrap().as_socket().unwrap();
        let patience = Duration::from_millis(300);
        let _first = attempt(peer, Origin::default(), patience).unwrap();
        let outcomes: Vec<_> = (0..3).map(|_| attempt(peer, Origin::default(), patience)).collect();
        let error = outcomes.into_iter().find_map(Result::err).expect("the queue is full");
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!(error.to_string().contains("no answer in "), "{error}");
    }

    #[test]
    fn a_port_can_be_used_again_at_once_and_not_twice() {
        let listener = listen(loopback()).unwrap();
        let address = listener.local_addr().unwrap();
        let error = listen(address).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        assert!(error.to_string().contains("another program"), "{error}");
    }

    #[test]
    fn names_and_literals_become_addresses() {
        assert_eq!(resolve("192.0.2.1", 3260).unwrap(), ["192.0.2.1:3260".parse().unwrap()]);
        assert_eq!(resolve("[2001:db8::1]", 1).unwrap(), ["[2001:db8::1]:1".parse().unwrap()]);
        let error = resolve("no such\nhost.invalid", 1).unwrap_err().to_string();
        assert!(error.starts_with("look up no such\\nhost.invalid: "), "{error}");
    }
}
