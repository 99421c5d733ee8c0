//! The rtnetlink messages that configure a link: links, IPv4 addresses, IPv4 routes
//! (`linux/rtnetlink.h`, `linux/if_link.h`, `linux/if_addr.h`).
//!
//! Requests are made here and answered by an acknowledgement, which `netlink.rs` reads. What is
//! parsed: links, from a dump or a notification, and addresses and routes that go away.

use std::net::Ipv4Addr;

use super::Malformed;
use super::netlink::{
    Attribute, Builder, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, NLM_F_REQUEST,
    attributes,
};

/// `RTM_NEWLINK`: a link, as it is now.
pub const RTM_NEWLINK: u16 = 16;
/// `RTM_DELLINK`: a link that is gone.
pub const RTM_DELLINK: u16 = 17;
/// `RTM_DELADDR`: an address that is gone, or a request to take it away.
pub const RTM_DELADDR: u16 = 21;
/// `RTM_DELROUTE`: a route that is gone, or a request to take it away.
pub const RTM_DELROUTE: u16 = 25;
/// `RTMGRP_LINK`: the group that is told of links, as a mask for bind.
pub const RTMGRP_LINK: u32 = 0x1;
/// `RTMGRP_IPV4_IFADDR`: the group that is told of IPv4 addresses.
pub const RTMGRP_IPV4_IFADDR: u32 = 0x10;
/// `RTMGRP_IPV4_ROUTE`: the group that is told of IPv4 routes.
pub const RTMGRP_IPV4_ROUTE: u32 = 0x40;

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number for it, stable as long as it exists.
    pub index: u32,
    /// Its name, which can change while it is down.
    pub name: String,
    /// Hardware type (`ARPHRD_ETHER` is 1).
    pub hardware: u16,
    /// `IFF_…`.
    pub flags: u32,
    /// MAC address, if the device has one of six bytes.
    pub mac: Option<[u8; 6]>,
    /// Largest packet in bytes.
    pub mtu: u32,
    /// Operational state by RFC 2863: 6 is up, 0 unknown.
    pub operational_state: u8,
    /// Kind of a virtual device: `veth`, `bridge`, `bond`. Empty for hardware.
    pub kind: String,
    /// The bridge or bond that it is a port of.
    pub master: Option<u32>,
}

/// An IPv4 address of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The link.
    pub link_index: u32,
    /// The address.
    pub address: Ipv4Addr,
    /// Prefix length of its subnet, at most 32.
    pub prefix_len: u8,
    /// Broadcast address of its subnet.
    pub broadcast: Ipv4Addr,
}

/// An IPv4 route through a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The link.
    pub link_index: u32,
    /// The network or host, host bits zero.
    pub destination: Ipv4Addr,
    /// Its prefix length, at most 32; 0 is the default route.
    pub prefix_len: u8,
    /// The next hop; `None` if the destination is on the link itself.
    pub router: Option<Ipv4Addr>,
    /// Our address to use, if we have several.
    pub source: Option<Ipv4Addr>,
    /// Lower ones win; `None` is 0.
    pub metric: Option<u32>,
}

const THING: &str = "rtnetlink link message";
const ADDRESS_THING: &str = "rtnetlink address message";
const ROUTE_THING: &str = "rtnetlink route message";

const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;

const AF_UNSPEC: u8 = 0;
const AF_INET: u8 = 2;
const ARPHRD_ETHER: u16 = 1;
const IFF_UP: u32 = 0x1;
const IFF_LOOPBACK: u32 = 0x8;
const IFF_POINTOPOINT: u32 = 0x10;
const IFF_LOWER_UP: u32 = 0x1_0000;
const IF_OPER_UNKNOWN: u8 = 0;
const IF_OPER_UP: u8 = 6;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;

const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
const RTN_UNICAST: u8 = 1;
const RTNH_F_ONLINK: u32 = 4;

/// `struct ifinfomsg`.
const LINK_HEADER_BYTES: usize = 16;
/// `struct ifaddrmsg`.
const ADDRESS_HEADER_BYTES: usize = 8;
/// `struct rtmsg`.
const ROUTE_HEADER_BYTES: usize = 12;

impl Link {
    /// Reads the payload of `RTM_NEWLINK` or `RTM_DELLINK`.
    pub fn parse(payload: &[u8]) -> Result<Link, Malformed> {
        let (header, rest) = split_header::<LINK_HEADER_BYTES>(THING, payload)?;
        let word = |at: usize| [header[at], header[at + 1], header[at + 2], header[at + 3]];
        let mut link = Link {
            index: u32::from_ne_bytes(word(4)),
            name: String::new(),
            hardware: u16::from_ne_bytes([header[2], header[3]]),
            flags: u32::from_ne_bytes(word(8)),
            mac: None,
            mtu: 0,
            operational_state: IF_OPER_UNKNOWN,
            kind: String::new(),
            master: None,
        };
        for attribute in attributes(rest) {
            link.read(attribute?)?;
        }
        Ok(link)
    }

    fn read(&mut self, attribute: Attribute<'_>) -> Result<(), Malformed> {
        let text = |attribute: &Attribute<'_>| String::from_utf8_lossy(attribute.text()).into();
        match attribute.kind {
            IFLA_ADDRESS => self.mac = attribute.payload.try_into().ok(),
            IFLA_IFNAME => self.name = text(&attribute),
            IFLA_MTU => self.mtu = attribute.u32()?,
            IFLA_MASTER => self.master = Some(attribute.u32()?),
            IFLA_OPERSTATE => self.operational_state = attribute.u8()?,
            IFLA_LINKINFO => {
                for nested in attribute.nested() {
                    let nested = nested?;
                    if nested.kind == IFLA_INFO_KIND {
                        self.kind = text(&nested);
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The link was told to be up.
    pub fn is_up(&self) -> bool {
        self.flags & IFF_UP != 0
    }

    /// The link is up and its driver reports carrier. Whether the kernel sends already is told by
    /// [`Link::is_ready`], which can come up to a second later although frames pass at once.
    pub fn has_carrier(&self) -> bool {
        self.is_up() && self.flags & IFF_LOWER_UP != 0
    }

    /// The link is up, has carrier, and the kernel has opened its queue: what is sent now goes out.
    /// The flag alone comes a moment earlier, and a frame sent in between is lost. Drivers that
    /// cannot tell stay in the state "unknown".
    pub fn is_ready(&self) -> bool {
        self.is_up()
            && self.flags & IFF_LOWER_UP != 0
            && matches!(self.operational_state, IF_OPER_UP | IF_OPER_UNKNOWN)
    }

    /// An Ethernet device on which a machine may look for its network: hardware, or the inside of
    /// a container. Not what stands on or below another device, which somebody has set up.
    pub fn is_ethernet(&self) -> bool {
        self.hardware == ARPHRD_ETHER
            && self.flags & (IFF_LOOPBACK | IFF_POINTOPOINT) == 0
            && self.mac.is_some()
            && self.master.is_none()
            && matches!(self.kind.as_str(), "" | "veth")
    }
}

impl Address {
    /// Reads the payload of [`RTM_DELADDR`]; `None` if it is about another kind of address.
    pub fn parse(payload: &[u8]) -> Result<Option<Address>, Malformed> {
        let (header, rest) = split_header::<ADDRESS_HEADER_BYTES>(ADDRESS_THING, payload)?;
        if header[0] != AF_INET {
            return Ok(None);
        }
        let mut address = Address {
            link_index: u32::from_ne_bytes([header[4], header[5], header[6], header[7]]),
            address: Ipv4Addr::UNSPECIFIED,
            prefix_len: header[1],
            broadcast: Ipv4Addr::UNSPECIFIED,
        };
        for attribute in attributes(rest) {
            let attribute = attribute?;
            match attribute.kind {
                IFA_LOCAL => address.address = ipv4(ADDRESS_THING, "IFA_LOCAL", &attribute)?,
                IFA_BROADCAST => {
                    address.broadcast = ipv4(ADDRESS_THING, "IFA_BROADCAST", &attribute)?;
                }
                _ => {}
            }
        }
        Ok(Some(address))
    }
}

impl Route {
    /// Reads the payload of [`RTM_DELROUTE`]; `None` if it is about another kind of route: of IPv6,
    /// of another table than the main one, or to several routers at once.
    pub fn parse(payload: &[u8]) -> Result<Option<Route>, Malformed> {
        let (header, rest) = split_header::<ROUTE_HEADER_BYTES>(ROUTE_THING, payload)?;
        if header[0] != AF_INET || header[4] != RT_TABLE_MAIN || header[7] != RTN_UNICAST {
            return Ok(None);
        }
        let mut route = Route {
            link_index: 0,
            destination: Ipv4Addr::UNSPECIFIED,
            prefix_len: header[1],
            router: None,
            source: None,
            metric: None,
        };
        for attribute in attributes(rest) {
            let attribute = attribute?;
            match attribute.kind {
                RTA_DST => route.destination = ipv4(ROUTE_THING, "RTA_DST", &attribute)?,
                RTA_OIF => route.link_index = attribute.u32()?,
                RTA_GATEWAY => route.router = Some(ipv4(ROUTE_THING, "RTA_GATEWAY", &attribute)?),
                RTA_PREFSRC => route.source = Some(ipv4(ROUTE_THING, "RTA_PREFSRC", &attribute)?),
                RTA_PRIORITY => route.metric = Some(attribute.u32()?),
                _ => {}
            }
        }
        Ok((route.link_index != 0).then_some(route))
    }
}

fn split_header<'p, const BYTES: usize>(
    thing: &'static str,
    payload: &'p [u8],
) -> Result<(&'p [u8; BYTES], &'p [u8]), Malformed> {
    payload.split_first_chunk::<BYTES>().ok_or_else(|| {
        let rule = "must be at least that of its header";
        Malformed::number(thing, "length", payload.len() as u64, rule)
    })
}

fn ipv4(
    thing: &'static str,
    field: &'static str,
    attribute: &Attribute<'_>,
) -> Result<Ipv4Addr, Malformed> {
    let octets: Result<[u8; 4], _> = attribute.payload.try_into();
    octets.map(Ipv4Addr::from).map_err(|_| {
        Malformed::number(thing, field, attribute.payload.len() as u64, "must have 4 bytes")
    })
}

/// Asks for all links; the answer is a dump of [`RTM_NEWLINK`].
pub fn list_links(sequence: u32) -> Vec<u8> {
    Builder::new(RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, sequence)
        .header(&link_header(0, 0, 0))
        .finish()
}

/// Raises a link or takes it down.
pub fn set_link_up(sequence: u32, link_index: u32, up: bool) -> Vec<u8> {
    let flags = if up { IFF_UP } else { 0 };
    Builder::new(RTM_SETLINK, NLM_F_REQUEST | NLM_F_ACK, sequence)
        .header(&link_header(link_index, flags, IFF_UP))
        .finish()
}

/// Sets the largest packet of a link, in bytes.
pub fn set_link_mtu(sequence: u32, link_index: u32, mtu: u32) -> Vec<u8> {
    Builder::new(RTM_SETLINK, NLM_F_REQUEST | NLM_F_ACK, sequence)
        .header(&link_header(link_index, 0, 0))
        .u32(IFLA_MTU, mtu)
        .finish()
}

/// Adds an address without an end of life; one that is there already is left as it is.
pub fn add_address(sequence: u32, address: &Address) -> Vec<u8> {
    let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
    address_message(RTM_NEWADDR, flags, sequence, address)
}

/// Takes an address away.
pub fn delete_address(sequence: u32, address: &Address) -> Vec<u8> {
    address_message(RTM_DELADDR, NLM_F_REQUEST | NLM_F_ACK, sequence, address)
}

/// Adds a route, in place of one to the same destination with the same metric.
pub fn add_route(sequence: u32, route: &Route) -> Vec<u8> {
    let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
    route_message(RTM_NEWROUTE, flags, sequence, route)
}

/// Takes a route away.
pub fn delete_route(sequence: u32, route: &Route) -> Vec<u8> {
    route_message(RTM_DELROUTE, NLM_F_REQUEST | NLM_F_ACK, sequence, route)
}

/// `struct ifinfomsg`.
fn link_header(index: u32, flags: u32, change: u32) -> [u8; LINK_HEADER_BYTES] {
    let mut header = [0; LINK_HEADER_BYTES];
    header[0] = AF_UNSPEC;
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

/// `struct ifaddrmsg` and its attributes.
fn address_message(kind: u16, flags: u16, sequence: u32, address: &Address) -> Vec<u8> {
    let mut header = [0; ADDRESS_HEADER_BYTES];
    header[0] = AF_INET;
    header[1] = address.prefix_len;
    header[3] = RT_SCOPE_UNIVERSE;
    header[4..8].copy_from_slice(&address.link_index.to_ne_bytes());
    let octets = address.address.octets();
    Builder::new(kind, flags, sequence)
        .header(&header)
        .attribute(IFA_LOCAL, &octets)
        .attribute(IFA_ADDRESS, &octets)
        .attribute(IFA_BROADCAST, &address.broadcast.octets())
        .finish()
}

/// `struct rtmsg` and its attributes.
fn route_message(kind: u16, flags: u16, sequence: u32, route: &Route) -> Vec<u8> {
    let scope = if route.router.is_some() { RT_SCOPE_UNIVERSE } else { RT_SCOPE_LINK };
    let mut header = [0; ROUTE_HEADER_BYTES];
    header[0] = AF_INET;
    header[1] = route.prefix_len;
    header[4] = RT_TABLE_MAIN;
    header[5] = RTPROT_STATIC;
    header[6] = scope;
    header[7] = RTN_UNICAST;
    if route.router.is_some() {
        // A router outside the subnet is common where machines get /32 addresses; the link is
        // given, so the kernel need not look for another way to it.
        header[8..12].copy_from_slice(&RTNH_F_ONLINK.to_ne_bytes());
    }
    let mut message = Builder::new(kind, flags, sequence);
    message.header(&header).u32(RTA_OIF, route.link_index);
    if route.prefix_len > 0 {
        message.attribute(RTA_DST, &route.destination.octets());
    }
    if let Some(router) = route.router {
        message.attribute(RTA_GATEWAY, &router.octets());
    }
    if let Some(source) = route.source {
        message.attribute(RTA_PREFSRC, &source.octets());
    }
    if let Some(metric) = route.metric {
        message.u32(RTA_PRIORITY, metric);
    }
    message.finish()
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::{Emitable, NetlinkMessage, NetlinkPayload};
    use netlink_packet_route::RouteNetlinkMessage;
    use netlink_packet_route::address::AddressAttribute;
    use netlink_packet_route::link::{
        InfoKind, LinkAttribute, LinkFlags, LinkHeader, LinkInfo, LinkLayerType, LinkMessage, State,
    };
    use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteFlags, RouteScope};
    use proptest::prelude::*;

    use super::*;

    /// What the foreign decoder makes of a request of ours.
    fn decoded(request: &[u8]) -> (u16, RouteNetlinkMessage) {
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(request).unwrap();
        assert_eq!(message.header.length as usize, request.len());
        assert_eq!(message.header.sequence_number, 9);
        let NetlinkPayload::InnerMessage(inner) = message.payload else { panic!("{message:?}") };
        (message.header.flags, inner)
    }

    fn address() -> Address {
        Address {
            link_index: 3,
            address: Ipv4Addr::new(192, 0, 2, 7),
            prefix_len: 26,
            broadcast: Ipv4Addr::new(192, 0, 2, 63),
        }
    }

    fn route() -> Route {
        Route {
            link_index: 3,
            destination: Ipv4Addr::new(198, 51, 100, 0),
            prefix_len: 24,
            router: Some(Ipv4Addr::new(192, 0, 2, 1)),
            source: Some(Ipv4Addr::new(192, 0, 2, 7)),
            metric: Some(5),
        }
    }

    #[test]
    fn link_requests_mean_what_they_should() {
        let (flags, RouteNetlinkMessage::GetLink(_)) = decoded(&list_links(9)) else { panic!() };
        assert_eq!(flags, 0x301);
        let (flags, RouteNetlinkMessage::SetLink(up)) = decoded(&set_link_up(9, 3, true)) else {
            panic!()
        };
        assert_eq!(flags, 0x5);
        assert_eq!((up.header.index, up.header.flags), (3, LinkFlags::Up));
        assert_eq!(up.header.change_mask, LinkFlags::Up);
        let (_, RouteNetlinkMessage::SetLink(down)) = decoded(&set_link_up(9, 3, false)) else {
            panic!()
        };
        assert_eq!(down.header.flags, LinkFlags::empty());
        assert_eq!(down.header.change_mask, LinkFlags::Up);
        let (_, RouteNetlinkMessage::SetLink(mtu)) = decoded(&set_link_mtu(9, 3, 9000)) else {
            panic!()
        };
        assert_eq!(mtu.attributes, [LinkAttribute::Mtu(9000)]);
        assert_eq!(mtu.header.change_mask, LinkFlags::empty());
    }

    #[test]
    fn address_requests_mean_what_they_should() {
        let (flags, RouteNetlinkMessage::NewAddress(message)) =
            decoded(&add_address(9, &address()))
        else {
            panic!()
        };
        assert_eq!(flags, 0x505);
        assert_eq!((message.header.index, message.header.prefix_len), (3, 26));
        assert_eq!(
            message.attributes,
            [
                AddressAttribute::Local([192, 0, 2, 7].into()),
                AddressAttribute::Address([192, 0, 2, 7].into()),
                AddressAttribute::Broadcast([192, 0, 2, 63].into()),
            ]
        );
        let (flags, inner) = decoded(&delete_address(9, &address()));
        assert_eq!((flags, inner), (0x5, RouteNetlinkMessage::DelAddress(message)));
    }

    #[test]
    fn route_requests_mean_what_they_should() {
        let (flags, RouteNetlinkMessage::NewRoute(message)) = decoded(&add_route(9, &route()))
        else {
            panic!()
        };
        assert_eq!(flags, 0x505);
        assert_eq!(message.header.destination_prefix_length, 24);
        assert_eq!(message.header.scope, RouteScope::Universe);
        assert_eq!(message.header.flags, RouteFlags::Onlink);
        assert_eq!(
            message.attributes,
            [
                RouteAttribute::Oif(3),
                RouteAttribute::Destination(RouteAddress::Inet([198, 51, 100, 0].into())),
                RouteAttribute::Gateway(RouteAddress::Inet([192, 0, 2, 1].into())),
                RouteAttribute::PrefSource(RouteAddress::Inet([192, 0, 2, 7].into())),
                RouteAttribute::Priority(5),
            ]
        );
        let on_link = Route { prefix_len: 0, router: None, source: None, metric: None, ..route() };
        let (_, RouteNetlinkMessage::DelRoute(message)) = decoded(&delete_route(9, &on_link))
        else {
            panic!()
        };
        assert_eq!(message.header.scope, RouteScope::Link);
        assert_eq!(message.header.flags, RouteFlags::empty());
        assert_eq!(message.attributes, [RouteAttribute::Oif(3)]);
    }

    /// The bytes of a link as another program would send them.
    fn link_bytes(header: LinkHeader, attributes: Vec<LinkAttribute>) -> Vec<u8> {
        let mut message = LinkMessage::default();
        message.header = header;
        message.attributes = attributes;
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        bytes
    }

    fn ethernet(flags: LinkFlags) -> LinkHeader {
        LinkHeader {
            index: 7,
            link_layer_type: LinkLayerType::Ether,
            flags,
            ..LinkHeader::default()
        }
    }

    #[test]
    fn a_link_is_read() {
        let bytes = link_bytes(
            ethernet(LinkFlags::Up | LinkFlags::LowerUp | LinkFlags::Broadcast),
            vec![
                LinkAttribute::IfName("enp1s0".into()),
                LinkAttribute::Mtu(1500),
                LinkAttribute::OperState(State::Up),
                LinkAttribute::Address(vec![2, 0, 0, 0, 0, 1]),
                LinkAttribute::Controller(4),
                LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth)]),
            ],
        );
        let link = Link::parse(&bytes).unwrap();
        let expected = Link {
            index: 7,
            name: "enp1s0".into(),
            hardware: 1,
            flags: 0x1_0003,
            mac: Some([2, 0, 0, 0, 0, 1]),
            mtu: 1500,
            operational_state: 6,
            kind: "veth".into(),
            master: Some(4),
        };
        assert_eq!(link, expected);
        assert!(link.is_ready());
        assert!(!link.is_ethernet(), "it is a port of a bridge");
        assert!(Link { master: None, ..link.clone() }.is_ethernet());
        assert!(!Link { master: None, kind: "dummy".into(), ..link.clone() }.is_ethernet());
        assert!(!Link { operational_state: 2, ..link.clone() }.is_ready());
        assert!(Link { operational_state: 0, ..link.clone() }.is_ready());
        assert!(!Link { flags: 1, ..link.clone() }.is_ready());
    }

    /// What follows the message header.
    fn payload(request: &[u8]) -> &[u8] {
        &request[16..]
    }

    #[test]
    fn addresses_and_routes_that_go_away_are_read() {
        let request = delete_address(9, &address());
        assert_eq!(Address::parse(payload(&request)).unwrap(), Some(address()));
        for route in [route(), Route { router: None, source: None, metric: None, ..route() }] {
            let request = delete_route(9, &route);
            assert_eq!(Route::parse(payload(&request)).unwrap(), Some(route));
        }
        let mut other_table = delete_route(9, &route());
        other_table[16 + 4] = 255;
        assert_eq!(Route::parse(payload(&other_table)).unwrap(), None);
        let mut ipv6 = delete_address(9, &address());
        ipv6[16] = 10;
        assert_eq!(Address::parse(payload(&ipv6)).unwrap(), None);
    }

    #[test]
    fn what_is_cut_says_where() {
        let request = delete_address(9, &address());
        let error = Address::parse(&request[16..20]).unwrap_err().to_string();
        assert!(error.contains("address message") && error.contains("length 4"), "{error}");
        let request = delete_route(9, &route());
        let mut cut = request[16..28 + 8].to_vec();
        cut.extend([6, 0, 1, 0, 198, 51, 0, 0]);
        let error = Route::parse(&cut).unwrap_err().to_string();
        assert!(error.contains("RTA_DST 2"), "{error}");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Link::parse(&bytes);
            let _ = Address::parse(&bytes);
            let _ = Route::parse(&bytes);
        }
    }
}
