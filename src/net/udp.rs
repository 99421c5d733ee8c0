//! Port 68 of one link: before the machine has an address, and after.
//!
//! Without an address the kernel's UDP is of no use, so a [`Port`] begins as a packet socket that
//! is bound to its link and to IPv4, with a filter for its port in the kernel. It hears answers by
//! unicast to an address that nobody has yet, because it reads frames, not datagrams. As soon as
//! the address is set, [`Port::use_address`] changes to an ordinary socket: a packet socket would
//! make the kernel run the filter for every frame of the disk's traffic.
//!
//! `unsafe` is needed for one thing: none of our crates can make a `sockaddr_ll`.
#![allow(unsafe_code)]

use std::io::{self, ErrorKind, Read};
use std::mem::size_of;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::num::NonZeroU32;
use std::os::fd::{AsFd, BorrowedFd};

use linux_raw_sys::if_packet::sockaddr_ll;
use log::debug;
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, SockFilter, Socket, Type};

use crate::wire::udp::{self, Datagram};

/// A UDP port on one link, for a protocol that has to work without an address.
#[derive(Debug)]
pub struct Port {
    link_index: u32,
    number: u16,
    socket: Socket,
    kind: Kind,
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    /// Frames from their IPv4 header on.
    Packet,
    /// Datagrams of the kernel.
    Ordinary,
}

/// Longer datagrams than a jumbo frame are cut, and then refused by their length.
const RECEIVE_BYTES_MAX: usize = 9216;

const AF_PACKET: u16 = 17;
const ETH_P_IP: u16 = 0x0800;
const ETHERNET_BROADCAST: [u8; 6] = [0xff; 6];

impl Port {
    /// Opens a port for a link without an address. The link must exist; it need not be up.
    pub fn open(link_index: u32, number: u16) -> io::Result<Port> {
        // Protocol 0 hears nothing until bind names link and protocol: no stray frame gets in.
        let socket = Socket::new(Domain::PACKET, Type::DGRAM.nonblocking().cloexec(), None)?;
        socket.attach_filter(&filter(number))?;
        socket.bind(&link_address(link_index, [0; 6])?)?;
        Ok(Port { link_index, number, socket, kind: Kind::Packet })
    }

    /// Changes to the kernel's UDP, once the link has an address. [`Port::fd`] is another one then.
    pub fn use_address(&mut self) -> io::Result<()> {
        let socket =
            Socket::new(Domain::IPV4, Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
        socket.set_reuse_address(true)?;
        socket.set_broadcast(true)?;
        socket.bind_device_by_index_v4(NonZeroU32::new(self.link_index))?;
        // Not to the address itself: answers to a broadcast request may be broadcast.
        socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, self.number).into())?;
        self.socket = socket;
        self.kind = Kind::Ordinary;
        Ok(())
    }

    /// Readable when [`Port::recv`] may have something.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The payload of the next datagram for this port, or `None` until `fd` is readable again.
    /// Damaged datagrams are passed over.
    pub fn recv(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut buffer = [0; RECEIVE_BYTES_MAX];
        loop {
            let received = match (&self.socket).read(&mut buffer) {
                Ok(length) => &buffer[..length],
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                // The link went down: told once, and watched elsewhere.
                Err(error) if error.kind() == ErrorKind::NetworkDown => continue,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            match self.kind {
                Kind::Ordinary => return Ok(Some(received.to_vec())),
                Kind::Packet => match Datagram::parse(received) {
                    Ok(datagram) => return Ok(Some(datagram.payload.to_vec())),
                    Err(malformed) => debug!("frame on link {}: {malformed}", self.link_index),
                },
            }
        }
    }

    /// Sends one datagram from this port. Before [`Port::use_address`] every frame goes to all
    /// machines of the link, as there is no ARP yet; `source` is then what its header says.
    /// An error means that this datagram is lost, as others are; whoever sent it will repeat it.
    pub fn send(
        &mut self,
        source: Ipv4Addr,
        destination: SocketAddrV4,
        payload: &[u8],
    ) -> io::Result<()> {
        match self.kind {
            Kind::Packet => {
                let source = SocketAddrV4::new(source, self.number);
                let packet = udp::emit(source, destination, payload);
                let to = link_address(self.link_index, ETHERNET_BROADCAST)?;
                self.socket.send_to(&packet, &to)?;
            }
            Kind::Ordinary => {
                self.socket.send_to(payload, &destination.into())?;
            }
        }
        Ok(())
    }
}

/// Lets whole UDP datagrams for one port pass. Offsets count from the IPv4 header, and the kernel
/// drops what is shorter than a load reaches.
fn filter(port: u16) -> [SockFilter; 9] {
    // linux/bpf_common.h: class | size | mode.
    const LOAD_BYTE: u16 = 0x30;
    const LOAD_HALF: u16 = 0x28;
    const LOAD_HALF_INDEXED: u16 = 0x48;
    const LOAD_INDEX_IPV4_LENGTH: u16 = 0xb1;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const JUMP_IF_ANY_BIT: u16 = 0x45;
    const RETURN: u16 = 0x06;
    const PROTOCOL_UDP: u32 = 17;
    const FRAGMENT_MASK: u32 = 0x3fff;
    [
        SockFilter::new(LOAD_BYTE, 0, 0, 9),
        SockFilter::new(JUMP_IF_EQUAL, 0, 6, PROTOCOL_UDP),
        SockFilter::new(LOAD_HALF, 0, 0, 6),
        SockFilter::new(JUMP_IF_ANY_BIT, 4, 0, FRAGMENT_MASK),
        SockFilter::new(LOAD_INDEX_IPV4_LENGTH, 0, 0, 0),
        SockFilter::new(LOAD_HALF_INDEXED, 0, 0, 2),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, u32::from(port)),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

/// The address of a link at the level of IPv4 frames.
fn link_address(link_index: u32, mac: [u8; 6]) -> io::Result<SockAddr> {
    let mut sll_addr = [0; 8];
    sll_addr[..6].copy_from_slice(&mac);
    let address = sockaddr_ll {
        sll_family: AF_PACKET,
        sll_protocol: ETH_P_IP.to_be(),
        sll_ifindex: i32::try_from(link_index).map_err(|_| ErrorKind::InvalidInput)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr,
    };
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is a socket address type of this platform, smaller than the storage (the
    // call asserts it), and the length given is that of the type whose family was just written.
    unsafe {
        *storage.view_as::<sockaddr_ll>() = address;
        Ok(SockAddr::new(storage, size_of::<sockaddr_ll>() as socket2::socklen_t))
    }
}
