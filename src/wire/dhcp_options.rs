//! DHCPv4 options: the value of each one, and back (RFC 2132, RFC 3397, RFC 3442).
//!
//! `dhcp.rs` has put the pieces of an option together; here each value is checked on its own, so
//! that a broken option never hurts its neighbours.

use std::net::Ipv4Addr;

use super::{Malformed, be32};

/// The options that we read or write. Lists and byte strings are empty if the option is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Option 1, checked to be ones followed by zeros.
    pub subnet_mask: Option<Ipv4Addr>,
    /// Option 3, best first. Of no effect if there are `classless_routes` (RFC 3442).
    pub routers: Vec<Ipv4Addr>,
    /// Option 6, best first.
    pub name_servers: Vec<Ipv4Addr>,
    /// Option 12: the client's name.
    pub host_name: Vec<u8>,
    /// Option 15: the DNS domain.
    pub domain_name: Vec<u8>,
    /// Option 17: root path, for us the iSCSI target (RFC 4173 §5).
    pub root_path: Vec<u8>,
    /// Option 26 in bytes, at least 68.
    pub interface_mtu: Option<u16>,
    /// Option 28.
    pub broadcast_address: Option<Ipv4Addr>,
    /// Option 42, best first.
    pub ntp_servers: Vec<Ipv4Addr>,
    /// Option 43: belongs to the vendor named by option 60.
    pub vendor_specific: Vec<u8>,
    /// Option 50: the address that the client would like.
    pub requested_address: Option<Ipv4Addr>,
    /// Option 51 in seconds; `u32::MAX` means for ever.
    pub lease_time: Option<u32>,
    /// Option 53.
    pub message_type: Option<MessageType>,
    /// Option 54: which server speaks or is spoken to.
    pub server_identifier: Option<Ipv4Addr>,
    /// Option 55: codes of the options that the client wants.
    pub parameter_request_list: Vec<u8>,
    /// Option 56: the server's words, mostly why it refuses.
    pub message: Vec<u8>,
    /// Option 57: largest message that the client takes, in bytes with UDP and IP header.
    pub maximum_message_size: Option<u16>,
    /// Option 58 in seconds: T1.
    pub renewal_time: Option<u32>,
    /// Option 59 in seconds: T2.
    pub rebinding_time: Option<u32>,
    /// Option 60: vendor class.
    pub vendor_class: Vec<u8>,
    /// Option 61: type octet and identifier.
    pub client_identifier: Vec<u8>,
    /// Option 66: name of the TFTP server.
    pub tftp_server_name: Vec<u8>,
    /// Option 67: boot file.
    pub bootfile_name: Vec<u8>,
    /// Option 119: search list, printable ASCII without the final dot.
    pub domain_search: Vec<String>,
    /// Option 121 (RFC 3442).
    pub classless_routes: Vec<Route>,
    /// Option 203 (site-specific, as iPXE uses it): name of the iSCSI initiator.
    pub initiator_name: Vec<u8>,
    /// Options that were there but broke their format, and were left out. Never emitted.
    pub rejected: Vec<Malformed>,
}

/// One route of option 121.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The network, host bits zero.
    pub destination: Ipv4Addr,
    /// Its prefix length, 0 (default route) to 32.
    pub prefix_len: u8,
    /// The next hop; 0.0.0.0 if the network is on the link itself.
    pub router: Ipv4Addr,
}

/// Option 53 (RFC 2132 §9.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageType {
    /// Client looks for servers.
    Discover = 1,
    /// Server offers an address.
    Offer = 2,
    /// Client asks for an address, or to keep it.
    Request = 3,
    /// Client has found that the address is in use.
    Decline = 4,
    /// Server gives the address.
    Ack = 5,
    /// Server refuses.
    Nak = 6,
    /// Client gives the address back.
    Release = 7,
    /// Client asks for options only.
    Inform = 8,
}

impl Options {
    /// Takes one option, already put together.
    pub(super) fn read(&mut self, code: u8, value: &[u8]) -> Result<(), Malformed> {
        match code {
            code::SUBNET_MASK => self.subnet_mask = Some(subnet_mask(value)?),
            code::ROUTER => self.routers = addresses(code, value)?,
            code::NAME_SERVER => self.name_servers = addresses(code, value)?,
            code::HOST_NAME => self.host_name = without_nuls(value),
            code::DOMAIN_NAME => self.domain_name = without_nuls(value),
            code::ROOT_PATH => self.root_path = without_nuls(value),
            code::INTERFACE_MTU => self.interface_mtu = Some(at_least(68, code, value)?),
            code::BROADCAST_ADDRESS => self.broadcast_address = Some(one_address(code, value)?),
            code::NTP_SERVERS => self.ntp_servers = addresses(code, value)?,
            code::VENDOR_SPECIFIC => self.vendor_specific = value.to_vec(),
            code::REQUESTED_ADDRESS => self.requested_address = Some(one_address(code, value)?),
            code::LEASE_TIME => self.lease_time = Some(seconds(code, value)?),
            code::MESSAGE_TYPE => self.message_type = Some(message_type(value)?),
            code::SERVER_IDENTIFIER => self.server_identifier = Some(one_address(code, value)?),
            code::PARAMETER_REQUEST_LIST => self.parameter_request_list = value.to_vec(),
            code::MESSAGE => self.message = without_nuls(value),
            code::MAXIMUM_MESSAGE_SIZE => {
                self.maximum_message_size = Some(at_least(576, code, value)?);
            }
            code::RENEWAL_TIME => self.renewal_time = Some(seconds(code, value)?),
            code::REBINDING_TIME => self.rebinding_time = Some(seconds(code, value)?),
            code::VENDOR_CLASS => self.vendor_class = without_nuls(value),
            code::CLIENT_IDENTIFIER => self.client_identifier = value.to_vec(),
            code::TFTP_SERVER_NAME => self.tftp_server_name = without_nuls(value),
            code::BOOTFILE_NAME => self.bootfile_name = without_nuls(value),
            code::DOMAIN_SEARCH => self.domain_search = domain_search(value)?,
            code::CLASSLESS_ROUTES => self.classless_routes = classless_routes(value)?,
            code::INITIATOR_NAME => self.initiator_name = without_nuls(value),
            _ => {}
        }
        Ok(())
    }

    /// Appends every option that is present. The message type goes first, as servers expect.
    pub(super) fn emit(&self, out: &mut Vec<u8>) {
        let mut put = |code: u8, value: &[u8]| {
            // Longer options travel in pieces (RFC 3396 §6).
            for piece in value.chunks(255) {
                out.push(code);
                out.push(piece.len() as u8);
                out.extend_from_slice(piece);
            }
        };
        let octets = |address: Option<Ipv4Addr>| address.map_or(Vec::new(), |a| a.octets().into());
        let all = |list: &[Ipv4Addr]| list.iter().flat_map(Ipv4Addr::octets).collect::<Vec<_>>();
        let short = |number: Option<u16>| number.map_or(Vec::new(), |n| n.to_be_bytes().into());
        let long = |number: Option<u32>| number.map_or(Vec::new(), |n| n.to_be_bytes().into());
        if let Some(message_type) = self.message_type {
            put(code::MESSAGE_TYPE, &[message_type as u8]);
        }
        put(code::CLIENT_IDENTIFIER, &self.client_identifier);
        put(code::SERVER_IDENTIFIER, &octets(self.server_identifier));
        put(code::REQUESTED_ADDRESS, &octets(self.requested_address));
        put(code::MAXIMUM_MESSAGE_SIZE, &short(self.maximum_message_size));
        put(code::PARAMETER_REQUEST_LIST, &self.parameter_request_list);
        put(code::VENDOR_CLASS, &self.vendor_class);
        put(code::LEASE_TIME, &long(self.lease_time));
        put(code::RENEWAL_TIME, &long(self.renewal_time));
        put(code::REBINDING_TIME, &long(self.rebinding_time));
        put(code::SUBNET_MASK, &octets(self.subnet_mask));
        // RFC 3442: servers should send the classless routes before the router.
        put(code::CLASSLESS_ROUTES, &emit_classless_routes(&self.classless_routes));
        put(code::ROUTER, &all(&self.routers));
        put(code::NAME_SERVER, &all(&self.name_servers));
        put(code::HOST_NAME, &self.host_name);
        put(code::DOMAIN_NAME, &self.domain_name);
        put(code::ROOT_PATH, &self.root_path);
        put(code::INTERFACE_MTU, &short(self.interface_mtu));
        put(code::BROADCAST_ADDRESS, &octets(self.broadcast_address));
        put(code::NTP_SERVERS, &all(&self.ntp_servers));
        put(code::VENDOR_SPECIFIC, &self.vendor_specific);
        put(code::MESSAGE, &self.message);
        put(code::TFTP_SERVER_NAME, &self.tftp_server_name);
        put(code::BOOTFILE_NAME, &self.bootfile_name);
        put(code::DOMAIN_SEARCH, &emit_domain_search(&self.domain_search));
        put(code::INITIATOR_NAME, &self.initiator_name);
    }
}

impl Route {
    /// A route to a network; host bits of `destination` are cleared.
    pub fn new(destination: Ipv4Addr, prefix_len: u8, router: Ipv4Addr) -> Route {
        debug_assert!(prefix_len <= 32, "a prefix length of IPv4");
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix_len)).unwrap_or(0);
        Route { destination: Ipv4Addr::from_bits(destination.to_bits() & mask), prefix_len, router }
    }
}

/// Option codes, by the names of RFC 2132.
pub mod code {
    #![expect(missing_docs, reason = "the names are those of the fields of Options")]
    pub const PAD: u8 = 0;
    pub const SUBNET_MASK: u8 = 1;
    pub const ROUTER: u8 = 3;
    pub const NAME_SERVER: u8 = 6;
    pub const HOST_NAME: u8 = 12;
    pub const DOMAIN_NAME: u8 = 15;
    pub const ROOT_PATH: u8 = 17;
    pub const INTERFACE_MTU: u8 = 26;
    pub const BROADCAST_ADDRESS: u8 = 28;
    pub const NTP_SERVERS: u8 = 42;
    pub const VENDOR_SPECIFIC: u8 = 43;
    pub const REQUESTED_ADDRESS: u8 = 50;
    pub const LEASE_TIME: u8 = 51;
    pub const OVERLOAD: u8 = 52;
    pub const MESSAGE_TYPE: u8 = 53;
    pub const SERVER_IDENTIFIER: u8 = 54;
    pub const PARAMETER_REQUEST_LIST: u8 = 55;
    pub const MESSAGE: u8 = 56;
    pub const MAXIMUM_MESSAGE_SIZE: u8 = 57;
    pub const RENEWAL_TIME: u8 = 58;
    pub const REBINDING_TIME: u8 = 59;
    pub const VENDOR_CLASS: u8 = 60;
    pub const CLIENT_IDENTIFIER: u8 = 61;
    pub const TFTP_SERVER_NAME: u8 = 66;
    pub const BOOTFILE_NAME: u8 = 67;
    pub const DOMAIN_SEARCH: u8 = 119;
    pub const CLASSLESS_ROUTES: u8 = 121;
    pub const INITIATOR_NAME: u8 = 203;
    pub const END: u8 = 255;
}

/// The `thing` of an error about an option.
pub(super) fn thing(code: u8) -> &'static str {
    match code {
        code::SUBNET_MASK => "DHCP option 1 (subnet mask)",
        code::ROUTER => "DHCP option 3 (router)",
        code::NAME_SERVER => "DHCP option 6 (name server)",
        code::INTERFACE_MTU => "DHCP option 26 (interface MTU)",
        code::BROADCAST_ADDRESS => "DHCP option 28 (broadcast address)",
        code::NTP_SERVERS => "DHCP option 42 (NTP servers)",
        code::REQUESTED_ADDRESS => "DHCP option 50 (requested address)",
        code::LEASE_TIME => "DHCP option 51 (lease time)",
        code::OVERLOAD => "DHCP option 52 (overload)",
        code::MESSAGE_TYPE => "DHCP option 53 (message type)",
        code::SERVER_IDENTIFIER => "DHCP option 54 (server identifier)",
        code::MAXIMUM_MESSAGE_SIZE => "DHCP option 57 (maximum message size)",
        code::RENEWAL_TIME => "DHCP option 58 (renewal time)",
        code::REBINDING_TIME => "DHCP option 59 (rebinding time)",
        code::DOMAIN_SEARCH => "DHCP option 119 (domain search)",
        code::CLASSLESS_ROUTES => "DHCP option 121 (classless routes)",
        _ => "DHCP option",
    }
}

/// RFC 2132 §2: receivers must be prepared to delete trailing nulls of text options.
fn without_nuls(value: &[u8]) -> Vec<u8> {
    let length = value.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    value[..length].to_vec()
}

/// An option of exactly `N` bytes.
fn exactly<const N: usize>(code: u8, value: &[u8]) -> Result<[u8; N], Malformed> {
    value.try_into().map_err(|_| {
        let rule = match N {
            1 => "must be 1",
            2 => "must be 2",
            _ => "must be 4",
        };
        Malformed::number(thing(code), "length", value.len() as u64, rule)
    })
}

fn one_address(code: u8, value: &[u8]) -> Result<Ipv4Addr, Malformed> {
    Ok(Ipv4Addr::from(exactly::<4>(code, value)?))
}

fn seconds(code: u8, value: &[u8]) -> Result<u32, Malformed> {
    Ok(u32::from_be_bytes(exactly(code, value)?))
}

/// A 16-bit option with the lower limit that RFC 2132 sets.
fn at_least(minimum: u16, code: u8, value: &[u8]) -> Result<u16, Malformed> {
    let number = u16::from_be_bytes(exactly(code, value)?);
    if number < minimum {
        let rule = if minimum == 68 { "must be at least 68" } else { "must be at least 576" };
        return Err(Malformed::number(thing(code), "value", number, rule));
    }
    Ok(number)
}

fn addresses(code: u8, value: &[u8]) -> Result<Vec<Ipv4Addr>, Malformed> {
    if !value.len().is_multiple_of(4) {
        let rule = "must be a multiple of 4";
        return Err(Malformed::number(thing(code), "length", value.len() as u64, rule));
    }
    Ok(value.chunks_exact(4).map(|octets| address(octets, 0)).collect())
}

fn subnet_mask(value: &[u8]) -> Result<Ipv4Addr, Malformed> {
    let mask = one_address(code::SUBNET_MASK, value)?;
    if mask.to_bits().leading_ones() + mask.to_bits().trailing_zeros() < 32 {
        let rule = "must be ones followed by zeros";
        let shown = mask.to_string();
        return Err(Malformed::text(thing(code::SUBNET_MASK), "value", shown.as_bytes(), rule));
    }
    Ok(mask)
}

fn message_type(value: &[u8]) -> Result<MessageType, Malformed> {
    let [number] = exactly(code::MESSAGE_TYPE, value)?;
    Ok(match number {
        1 => MessageType::Discover,
        2 => MessageType::Offer,
        3 => MessageType::Request,
        4 => MessageType::Decline,
        5 => MessageType::Ack,
        6 => MessageType::Nak,
        7 => MessageType::Release,
        8 => MessageType::Inform,
        other => {
            let rule = "must be 1 to 8";
            return Err(Malformed::number(thing(code::MESSAGE_TYPE), "value", other, rule));
        }
    })
}

/// Prefix length, the significant octets of the destination, router; and so on (RFC 3442).
pub(super) fn classless_routes(mut value: &[u8]) -> Result<Vec<Route>, Malformed> {
    let thing = thing(code::CLASSLESS_ROUTES);
    let mut routes = Vec::new();
    while let [prefix_len, rest @ ..] = value {
        if *prefix_len > 32 {
            return Err(Malformed::number(thing, "prefix length", *prefix_len, "must be 0 to 32"));
        }
        let significant = usize::from(prefix_len.div_ceil(8));
        if rest.len() < significant + 4 {
            let rule = "must be followed by the destination and a router of 4 octets";
            return Err(Malformed::number(thing, "prefix length", *prefix_len, rule));
        }
        let mut destination = [0; 4];
        destination[..significant].copy_from_slice(&rest[..significant]);
        let router = address(rest, significant);
        routes.push(Route::new(destination.into(), *prefix_len, router));
        value = &rest[significant + 4..];
    }
    Ok(routes)
}

pub(super) fn emit_classless_routes(routes: &[Route]) -> Vec<u8> {
    let mut out = Vec::new();
    for route in routes {
        let significant = usize::from(route.prefix_len.div_ceil(8)).min(4);
        out.push(route.prefix_len);
        out.extend_from_slice(&route.destination.octets()[..significant]);
        out.extend_from_slice(&route.router.octets());
    }
    out
}

/// Longest DNS name in bytes (RFC 1035 §2.3.4).
const NAME_BYTES_MAX: usize = 255;
/// More search domains than any resolver uses, and a bound on what compression can blow up.
const SEARCH_NAMES_MAX: usize = 32;

/// Names in the form of DNS, with its compression inside the option (RFC 3397 §2).
pub(super) fn domain_search(value: &[u8]) -> Result<Vec<String>, Malformed> {
    let mut names = Vec::new();
    let mut offset = 0;
    while offset < value.len() {
        if names.len() == SEARCH_NAMES_MAX {
            return Err(Malformed::number(
                thing(code::DOMAIN_SEARCH),
                "names",
                SEARCH_NAMES_MAX as u64 + 1,
                "must be at most 32",
            ));
        }
        let (name, after) = domain(value, offset)?;
        if !name.is_empty() {
            names.push(name);
        }
        offset = after;
    }
    Ok(names)
}

/// One name, and the offset after it. Every jump goes backwards, so there is always an end.
fn domain(value: &[u8], start: usize) -> Result<(String, usize), Malformed> {
    let thing = thing(code::DOMAIN_SEARCH);
    let broken =
        |offset: usize, rule| Err(Malformed::number(thing, "name at offset", offset as u64, rule));
    let mut name = String::new();
    let mut after = None;
    let mut piece_start = start;
    let mut offset = start;
    loop {
        match value.get(offset..).unwrap_or_default() {
            [0, ..] => return Ok((name, after.unwrap_or(offset + 1))),
            [length @ 1..=63, rest @ ..] if rest.len() >= usize::from(*length) => {
                let label = &rest[..usize::from(*length)];
                // These names end in resolv.conf: nothing that could be more than a name.
                if !label.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'.') {
                    let rule = "must consist of printable characters";
                    return Err(Malformed::text(thing, "label", label, rule));
                }
                if name.len() + label.len() + 1 > NAME_BYTES_MAX {
                    return broken(start, "must be at most 255 bytes long");
                }
                if !name.is_empty() {
                    name.push('.');
                }
                name.extend(label.iter().copied().map(char::from));
                offset += 1 + label.len();
            }
            [high @ 0xc0..=0xff, low, ..] => {
                let target = usize::from(u16::from_be_bytes([high & 0x3f, *low]));
                if target >= piece_start {
                    return broken(offset, "a compression pointer must point backwards");
                }
                after.get_or_insert(offset + 2);
                piece_start = target;
                offset = target;
            }
            _ => return broken(start, "must end with a zero inside the option"),
        }
    }
}

fn emit_domain_search(names: &[String]) -> Vec<u8> {
    let mut out = Vec::new();
    for name in names {
        for label in name.split('.') {
            debug_assert!((1..=63).contains(&label.len()), "a label of DNS");
            out.push(label.len() as u8);
            out.extend_from_slice(label.as_bytes());
        }
        out.push(0);
    }
    out
}

fn address(bytes: &[u8], offset: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(be32(bytes, offset))
}
