//! What a DHCP client says, and what it leaves out, in each situation (RFC 2131 §4.4.1, table 5).
//!
//! Values only: when a message is sent, and how often, is decided by the client in `dhcp`.

use std::net::Ipv4Addr;
use std::time::Instant;

use super::lease::Offer;
use crate::wire::dhcp::{Message, MessageType, code};

/// What the client says about itself.
#[derive(Clone, Debug)]
pub struct Config {
    /// MAC address of the link; also the client identifier.
    pub mac: [u8; 6],
    /// Name to tell the server (option 12); empty for none.
    pub host_name: Vec<u8>,
    /// Kind of client (option 60), by which servers can choose what to send; empty for none.
    pub vendor_class: Vec<u8>,
    /// The boot depends on a root path: an offer that has one is preferred to one that has not.
    pub root_path_wanted: bool,
}

/// A message to send from port 68 to port 67 of `destination`.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Our address, or 0.0.0.0 as long as there is none.
    pub source: Ipv4Addr,
    /// A server, or 255.255.255.255.
    pub destination: Ipv4Addr,
    /// The DHCP message.
    pub payload: Vec<u8>,
}

/// The field `secs`: how long the client has been trying, in seconds.
pub(super) fn seconds_since(began: Instant, now: Instant) -> u16 {
    now.saturating_duration_since(began).as_secs().try_into().unwrap_or(u16::MAX)
}

/// Largest datagram that we ask for (option 57): one Ethernet frame.
const DATAGRAM_BYTES_MAX: u16 = 1500;

/// Option 55. RFC 3442 wants 121 before 3: some servers send what fits, in this order.
const PARAMETER_REQUEST_LIST: [u8; 16] = [
    code::SUBNET_MASK,
    code::CLASSLESS_ROUTES,
    code::ROUTER,
    code::ROOT_PATH,
    code::LEASE_TIME,
    code::SERVER_IDENTIFIER,
    code::RENEWAL_TIME,
    code::REBINDING_TIME,
    code::INTERFACE_MTU,
    code::NAME_SERVER,
    code::HOST_NAME,
    code::DOMAIN_NAME,
    code::DOMAIN_SEARCH,
    code::BROADCAST_ADDRESS,
    code::NTP_SERVERS,
    code::INITIATOR_NAME,
];

impl Config {
    /// Who has an address, if possible this one?
    pub(super) fn discover(
        &self,
        xid: u32,
        secs: u16,
        broadcast: bool,
        wanted: Option<Ipv4Addr>,
    ) -> Transmit {
        let mut discover = self.message(MessageType::Discover, xid);
        discover.secs = secs;
        discover.broadcast = broadcast;
        discover.options.requested_address = wanted;
        unaddressed(&discover)
    }

    /// This offer is taken; the servers of other offers hear it, too.
    pub(super) fn request_offer(
        &self,
        xid: u32,
        secs: u16,
        broadcast: bool,
        offer: Offer,
    ) -> Transmit {
        let mut request = self.message(MessageType::Request, xid);
        request.secs = secs;
        request.broadcast = broadcast;
        request.options.requested_address = Some(offer.address);
        request.options.server_identifier = Some(offer.server);
        unaddressed(&request)
    }

    /// May the address be kept for longer?
    pub(super) fn request_more(
        &self,
        xid: u32,
        secs: u16,
        address: Ipv4Addr,
        destination: Ipv4Addr,
    ) -> Transmit {
        let mut request = self.message(MessageType::Request, xid);
        request.secs = secs;
        request.ciaddr = address;
        Transmit { source: address, destination, payload: request.emit() }
    }

    /// The address is in use by somebody else.
    pub(super) fn decline(&self, xid: u32, address: Ipv4Addr, server: Ipv4Addr) -> Transmit {
        let mut decline = self.message(MessageType::Decline, xid);
        decline.options.requested_address = Some(address);
        decline.options.server_identifier = Some(server);
        unaddressed(&decline)
    }

    /// The address is no longer needed.
    pub(super) fn release(&self, xid: u32, address: Ipv4Addr, server: Ipv4Addr) -> Transmit {
        let mut release = self.message(MessageType::Release, xid);
        release.ciaddr = address;
        release.options.server_identifier = Some(server);
        Transmit { source: address, destination: server, payload: release.emit() }
    }

    /// What every message of ours has in common.
    fn message(&self, message_type: MessageType, xid: u32) -> Message {
        let mut message = Message::request(message_type, xid, self.mac);
        let options = &mut message.options;
        // The type octet is that of Ethernet.
        options.client_identifier = [&[1], &self.mac[..]].concat();
        if matches!(message_type, MessageType::Discover | MessageType::Request) {
            options.host_name.clone_from(&self.host_name);
            options.vendor_class.clone_from(&self.vendor_class);
            options.maximum_message_size = Some(DATAGRAM_BYTES_MAX);
            options.parameter_request_list = PARAMETER_REQUEST_LIST.to_vec();
        }
        message
    }
}

/// From a machine without an address, to all.
fn unaddressed(message: &Message) -> Transmit {
    Transmit {
        source: Ipv4Addr::UNSPECIFIED,
        destination: Ipv4Addr::BROADCAST,
        payload: message.emit(),
    }
}
