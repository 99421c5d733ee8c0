//! The links of this machine: what there is, what happens to it, and setting it up (rtnetlink).
//!
//! [`Links::open`] subscribes before anything is listed, so that no change falls in between
//! ([`Links::open_all`] also to addresses and routes that go away):
//! list once, then wait on [`Links::fd`] and drain [`Links::poll_event`]. Requests go over a socket
//! of their own and are answered by the kernel before the call returns; nothing is cached here.
//!
//! `unsafe` is needed for one thing: none of our crates can set a netlink socket option.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::fmt;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use log::warn;
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recvfrom, send, socket_with,
};

use crate::wire::Malformed;
use crate::wire::netlink::{Message, NLM_F_DUMP_INTR, Reply, messages};
use crate::wire::rtnetlink;

pub use crate::wire::rtnetlink::{Address, Link, Route};

/// The kernel's rtnetlink, seen from one network namespace.
#[derive(Debug)]
pub struct Links {
    requests: OwnedFd,
    notifications: OwnedFd,
    sequence: u32,
}

/// What happened to a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// There is a new link, or something about one has changed; this is how it is now.
    Changed(Link),
    /// The link is gone.
    Gone(Link),
    /// An address was taken away; only from [`Links::open_all`].
    AddressGone {
        /// The address.
        address: Address,
        /// Who did it.
        by: Doer,
    },
    /// A route was taken away; only from [`Links::open_all`].
    RouteGone {
        /// The route.
        route: Route,
        /// Who did it.
        by: Doer,
    },
    /// More happened than the kernel could tell: list again.
    Lost,
}

/// Who has asked for a change: the netlink port, which is the process number for the first socket
/// of a process; 0 if it was the kernel itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Doer(pub u32);

/// The largest datagram of a dump; the kernel never makes longer ones for a reader like us.
const RECEIVE_BYTES_MAX: usize = 32 * 1024;
/// How often a dump is begun again because the links changed under it.
const DUMP_ATTEMPTS_MAX: u32 = 8;

impl Links {
    /// Opens both sockets. From now on every change is kept for [`Links::poll_event`].
    pub fn open() -> Result<Links, Error> {
        Links::open_groups(rtnetlink::RTMGRP_LINK)
    }

    /// The same, and addresses and routes that are taken away are told, too.
    pub fn open_all() -> Result<Links, Error> {
        let addresses_and_routes = rtnetlink::RTMGRP_IPV4_IFADDR | rtnetlink::RTMGRP_IPV4_ROUTE;
        Links::open_groups(rtnetlink::RTMGRP_LINK | addresses_and_routes)
    }

    fn open_groups(groups: u32) -> Result<Links, Error> {
        let open = |flags: SocketFlags, groups: u32| -> Result<OwnedFd, Errno> {
            let flags = flags | SocketFlags::CLOEXEC;
            // Protocol 0 is NETLINK_ROUTE.
            let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
            bind(&socket, &SocketAddrNetlink::new(0, groups))?;
            Ok(socket)
        };
        let failed = |errno: Errno| Error::new("open rtnetlink".into(), errno.into());
        let requests = open(SocketFlags::empty(), 0).map_err(failed)?;
        let notifications = open(SocketFlags::NONBLOCK, groups).map_err(failed)?;
        // Older kernels answer with numbers alone; that is no reason not to work.
        if let Err(error) = explain_refusals(requests.as_fd()) {
            warn!("the kernel will not explain its refusals: {error}");
        }
        Ok(Links { requests, notifications, sequence: 0 })
    }

    /// Readable when [`Links::poll_event`] may have something.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.notifications.as_fd()
    }

    /// The next change, or `None` until `fd` is readable again.
    pub fn poll_event(&mut self) -> Result<Option<Event>, Error> {
        let mut buffer = [0; RECEIVE_BYTES_MAX];
        loop {
            let datagram = match receive(&self.notifications, &mut buffer) {
                Ok(datagram) => datagram,
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::NOBUFS) => return Ok(Some(Event::Lost)),
                Err(errno) => return Err(Error::new("watch links".into(), errno.into())),
            };
            // A notification is a datagram of its own.
            for message in messages(datagram) {
                let Ok(message) = message else { break };
                match event_of(&message) {
                    Ok(Some(event)) => return Ok(Some(event)),
                    Ok(None) => {}
                    Err(malformed) => warn!("link notification: {malformed}"),
                }
            }
        }
    }

    /// All links as they are now.
    pub fn list(&mut self) -> Result<Vec<Link>, Error> {
        for _ in 0..DUMP_ATTEMPTS_MAX {
            if let Some(links) = self.try_list()? {
                return Ok(links);
            }
        }
        let source = io::Error::other("they change faster than they can be listed");
        Err(Error::new("list links".into(), source))
    }

    /// Raises a link. Carrier comes later, as an event.
    pub fn set_up(&mut self, link_index: u32) -> Result<(), Error> {
        self.request(
            |sequence| rtnetlink::set_link_up(sequence, link_index, true),
            || format!("raise link {link_index}"),
        )
    }

    /// Takes a link down.
    pub fn set_down(&mut self, link_index: u32) -> Result<(), Error> {
        self.request(
            |sequence| rtnetlink::set_link_up(sequence, link_index, false),
            || format!("take down link {link_index}"),
        )
    }

    /// Sets the largest packet of a link, in bytes. Some devices lose their carrier for a moment.
    pub fn set_mtu(&mut self, link_index: u32, mtu: u32) -> Result<(), Error> {
        self.request(
            |sequence| rtnetlink::set_link_mtu(sequence, link_index, mtu),
            || format!("set MTU of link {link_index} to {mtu}"),
        )
    }

    /// Adds an address for as long as the link exists; adding it twice is harmless.
    pub fn add_address(&mut self, address: &Address) -> Result<(), Error> {
        self.request(
            |sequence| rtnetlink::add_address(sequence, address),
            || format!("add {}", of_address(address)),
        )
    }

    /// Takes an address away, and the routes that need it.
    pub fn delete_address(&mut self, address: &Address) -> Result<(), Error> {
        self.request(
            |sequence| rtnetlink::delete_address(sequence, address),
            || format!("delete {}", of_address(address)),
        )
    }

    /// Adds a route, in place of one to the same destination with the same metric.
    pub fn add_route(&mut self, route: &Route) -> Result<(), Error> {
        self.request(
            |sequence| rtnetlink::add_route(sequence, route),
            || format!("add {}", of_route(route)),
        )
    }

    /// Takes a route away.
    pub fn delete_route(&mut self, route: &Route) -> Result<(), Error> {
        self.request(
            |sequence| rtnetlink::delete_route(sequence, route),
            || format!("delete {}", of_route(route)),
        )
    }

    /// One dump; `None` if it was interrupted by a change.
    fn try_list(&mut self) -> Result<Option<Vec<Link>>, Error> {
        let doing = || "list links".to_owned();
        let sequence = self.next_sequence();
        self.send(&rtnetlink::list_links(sequence)).map_err(|e| Error::new(doing(), e.into()))?;
        let mut buffer = [0; RECEIVE_BYTES_MAX];
        let mut links = Vec::new();
        let mut whole = true;
        loop {
            let datagram = receive(&self.requests, &mut buffer)
                .map_err(|errno| Error::new(doing(), errno.into()))?;
            for message in messages(datagram) {
                let malformed = |malformed| Error::new(doing(), io::Error::other(malformed));
                let message = message.map_err(malformed)?;
                if message.sequence != sequence {
                    continue;
                }
                whole &= message.flags & NLM_F_DUMP_INTR == 0;
                match message.reply().map_err(malformed)? {
                    Reply::Data(data) if data.kind == rtnetlink::RTM_NEWLINK => {
                        links.push(Link::parse(data.payload).map_err(malformed)?);
                    }
                    Reply::Done => return Ok(whole.then_some(links)),
                    Reply::Refused(refusal) => {
                        return Err(Error::refused(doing(), refusal.errno, refusal.text));
                    }
                    Reply::Overrun => return Ok(None),
                    Reply::Data(_) | Reply::Ack | Reply::Noop => {}
                }
            }
        }
    }

    /// Sends a request and waits for its acknowledgement. `doing` is for the error alone.
    fn request(
        &mut self,
        message: impl FnOnce(u32) -> Vec<u8>,
        doing: impl Fn() -> String,
    ) -> Result<(), Error> {
        let sequence = self.next_sequence();
        self.send(&message(sequence)).map_err(|errno| Error::new(doing(), errno.into()))?;
        let mut buffer = [0; RECEIVE_BYTES_MAX];
        loop {
            let datagram = receive(&self.requests, &mut buffer)
                .map_err(|errno| Error::new(doing(), errno.into()))?;
            for message in messages(datagram) {
                let malformed = |malformed| Error::new(doing(), io::Error::other(malformed));
                let message = message.map_err(malformed)?;
                if message.sequence != sequence {
                    continue;
                }
                match message.reply().map_err(malformed)? {
                    Reply::Ack => return Ok(()),
                    Reply::Refused(refusal) => {
                        return Err(Error::refused(doing(), refusal.errno, refusal.text));
                    }
                    Reply::Data(_) | Reply::Done | Reply::Overrun | Reply::Noop => {}
                }
            }
        }
    }

    fn send(&self, message: &[u8]) -> Result<(), Errno> {
        rustix::io::retry_on_intr(|| send(&self.requests, message, SendFlags::empty())).map(drop)
    }

    fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }
}

/// What a notification tells, if it is anything to us.
fn event_of(message: &Message<'_>) -> Result<Option<Event>, Malformed> {
    let by = Doer(message.port);
    Ok(match message.kind {
        rtnetlink::RTM_NEWLINK => Some(Event::Changed(Link::parse(message.payload)?)),
        rtnetlink::RTM_DELLINK => Some(Event::Gone(Link::parse(message.payload)?)),
        rtnetlink::RTM_DELADDR => {
            Address::parse(message.payload)?.map(|address| Event::AddressGone { address, by })
        }
        rtnetlink::RTM_DELROUTE => {
            Route::parse(message.payload)?.map(|route| Event::RouteGone { route, by })
        }
        _ => None,
    })
}

/// One datagram of the kernel. Any process may send to our port; those are passed over.
fn receive<'b>(socket: &OwnedFd, buffer: &'b mut [u8]) -> Result<&'b [u8], Errno> {
    let length = loop {
        let (length, _, from) = match recvfrom(socket, &mut *buffer, RecvFlags::empty()) {
            Err(Errno::INTR) => continue,
            received => received?,
        };
        let from = from.and_then(|from| SocketAddrNetlink::try_from(from).ok());
        if from.is_some_and(|from| from.pid() == 0) {
            break length;
        }
    };
    Ok(&buffer[..length])
}

fn of_address(address: &Address) -> String {
    format!("address {}/{} on link {}", address.address, address.prefix_len, address.link_index)
}

fn of_route(route: &Route) -> String {
    let Route { link_index, destination, prefix_len, router, .. } = route;
    match router {
        Some(router) => {
            format!("route to {destination}/{prefix_len} by {router} on link {link_index}")
        }
        None => format!("route to {destination}/{prefix_len} on link {link_index}"),
    }
}

/// Asks the kernel to send a sentence with each error number.
fn explain_refusals(socket: BorrowedFd<'_>) -> io::Result<()> {
    const SOL_NETLINK: c_int = 270;
    const NETLINK_EXT_ACK: c_int = 11;
    unsafe extern "C" {
        // The C library is linked by the standard library anyway; POSIX has the prototype.
        fn setsockopt(
            socket: c_int,
            level: c_int,
            name: c_int,
            value: *const c_void,
            length: u32,
        ) -> c_int;
    }
    let on: c_int = 1;
    // SAFETY: the descriptor is open while it is borrowed, and value and length are those of `on`,
    // which outlives the call; the kernel only reads it.
    let result = unsafe {
        setsockopt(
            socket.as_raw_fd(),
            SOL_NETLINK,
            NETLINK_EXT_ACK,
            (&raw const on).cast(),
            size_of::<c_int>() as u32,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A request that the kernel did not carry out.
#[derive(Debug)]
pub struct Error {
    doing: String,
    source: io::Error,
    /// The kernel's sentence; often empty.
    text: String,
}

impl Error {
    fn new(doing: String, source: io::Error) -> Error {
        Error { doing, source, text: String::new() }
    }

    fn refused(doing: String, errno: u32, text: &[u8]) -> Error {
        let source = io::Error::from_raw_os_error(i32::try_from(errno).unwrap_or(i32::MAX));
        let text = String::from_utf8_lossy(text).replace(|c: char| c.is_control(), "\u{fffd}");
        Error { doing, source, text }
    }

    /// What kind of failure it was.
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Error { doing, source, text } = self;
        match text.as_str() {
            "" => write!(f, "{doing}: {source}"),
            text => write!(f, "{doing}: {text}: {source}"),
        }
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_is_listed() {
        let links = Links::open().unwrap().list().unwrap();
        let loopback = links.iter().find(|link| link.name == "lo").expect("every machine has one");
        assert_eq!(loopback.index, 1);
        assert!(!loopback.is_ethernet());
    }

    #[test]
    fn a_refusal_names_what_was_tried() {
        let mut links = Links::open().unwrap();
        let error = links.set_mtu(999_999, 1500).unwrap_err().to_string();
        assert!(error.starts_with("set MTU of link 999999 to 1500: "), "{error}");
        assert!(error.contains("os error"), "{error}");
        let route = Route {
            link_index: 999_999,
            destination: [192, 0, 2, 0].into(),
            prefix_len: 24,
            router: None,
            source: None,
            metric: None,
        };
        let error = links.add_route(&route).unwrap_err().to_string();
        assert!(error.starts_with("add route to 192.0.2.0/24 on link 999999: "), "{error}");
    }
}
