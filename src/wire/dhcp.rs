//! DHCPv4 messages (RFC 2131 §2). Their options are described in `dhcp_options.rs`.
//!
//! The whole message becomes one plain struct; the options that a machine without a disk can use
//! become typed fields, everything else is skipped. Text is kept as the bytes that came, because
//! servers send what their owner typed: whoever uses it decides what it may contain.
//!
//! Options that continue in the `file` and `sname` fields (option 52) and options that were cut
//! into pieces (RFC 3396) are put together before anything is read. A broken option costs only
//! itself: it lands in [`Options::rejected`], so that a mistyped search list does not keep a
//! machine from booting. A broken message is an error.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::{Malformed, be16, be32};

use super::dhcp_options::thing;
pub use super::dhcp_options::{MessageType, Options, Route, code};

/// Port of servers and relays (RFC 2131 §4.1).
pub const SERVER_PORT: u16 = 67;
/// Port of clients (RFC 2131 §4.1).
pub const CLIENT_PORT: u16 = 68;

/// A DHCP message between an Ethernet client and a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who speaks: client or server.
    pub op: Op,
    /// Transaction, chosen by the client.
    pub xid: u32,
    /// Seconds since the client began to ask.
    pub secs: u16,
    /// The client cannot take unicast before it has an address.
    pub broadcast: bool,
    /// The client's address, if it may already answer ARP for it; else 0.0.0.0.
    pub ciaddr: Ipv4Addr,
    /// The address that the server gives.
    pub yiaddr: Ipv4Addr,
    /// The server of the next boot step (TFTP), not the DHCP server.
    pub siaddr: Ipv4Addr,
    /// The relay agent that passed the message on; else 0.0.0.0.
    pub giaddr: Ipv4Addr,
    /// The client's MAC address.
    pub chaddr: [u8; 6],
    /// Name of the next server, without its padding; empty if absent or used for options.
    pub sname: Vec<u8>,
    /// Boot file name, without its padding; empty if absent or used for options.
    pub file: Vec<u8>,
    /// The options.
    pub options: Options,
}

/// The `op` field (RFC 2131 §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// BOOTREQUEST: from a client.
    Request = 1,
    /// BOOTREPLY: from a server.
    Reply = 2,
}

const THING: &str = "DHCP message";
const MAGIC_COOKIE: u32 = 0x6382_5363;
/// BOOTP relays and servers may drop anything shorter (RFC 1542 §2.1).
const MESSAGE_BYTES_MIN: usize = 300;
const HTYPE_ETHERNET: u8 = 1;

// RFC 2131 §2, figure 1.
const OP: usize = 0;
const HTYPE: usize = 1;
const HLEN: usize = 2;
const XID: usize = 4;
const SECS: usize = 8;
const FLAGS: usize = 10;
const CIADDR: usize = 12;
const YIADDR: usize = 16;
const SIADDR: usize = 20;
const GIADDR: usize = 24;
const CHADDR: usize = 28;
const SNAME: usize = 44;
const FILE: usize = 108;
const COOKIE: usize = 236;
const OPTIONS: usize = 240;

const FLAG_BROADCAST: u16 = 0x8000;

impl Message {
    /// A message of a client with everything else empty.
    pub fn request(message_type: MessageType, xid: u32, chaddr: [u8; 6]) -> Message {
        Message {
            op: Op::Request,
            xid,
            secs: 0,
            broadcast: false,
            ciaddr: Ipv4Addr::UNSPECIFIED,
            yiaddr: Ipv4Addr::UNSPECIFIED,
            siaddr: Ipv4Addr::UNSPECIFIED,
            giaddr: Ipv4Addr::UNSPECIFIED,
            chaddr,
            sname: Vec::new(),
            file: Vec::new(),
            options: Options { message_type: Some(message_type), ..Options::default() },
        }
    }

    /// Reads the payload of a UDP datagram.
    pub fn parse(bytes: &[u8]) -> Result<Message, Malformed> {
        if bytes.len() < OPTIONS {
            let rule = "must be at least 240 bytes";
            return Err(Malformed::number(THING, "length", bytes.len() as u64, rule));
        }
        if be32(bytes, COOKIE) != MAGIC_COOKIE {
            let rule = "must be 0x63825363, else it is BOOTP or not DHCP at all";
            return Err(Malformed::number(THING, "magic cookie", be32(bytes, COOKIE), rule));
        }
        let op = match bytes[OP] {
            1 => Op::Request,
            2 => Op::Reply,
            other => return Err(Malformed::number(THING, "op", other, "must be 1 or 2")),
        };
        if bytes[HTYPE] != HTYPE_ETHERNET {
            return Err(Malformed::number(THING, "htype", bytes[HTYPE], "must be 1 (Ethernet)"));
        }
        if bytes[HLEN] != 6 {
            return Err(Malformed::number(THING, "hlen", bytes[HLEN], "must be 6 (Ethernet)"));
        }
        let Collected { by_code, overload } = collect(bytes)?;
        let mut options = Options::default();
        for (code, value) in &by_code {
            if let Err(malformed) = options.read(*code, value) {
                options.rejected.push(malformed);
            }
        }
        // A field that was lent to the options holds no text.
        let text = |lent: bool, field: &[u8]| if lent { Vec::new() } else { until_nul(field) };
        Ok(Message {
            op,
            xid: be32(bytes, XID),
            secs: be16(bytes, SECS),
            broadcast: be16(bytes, FLAGS) & FLAG_BROADCAST != 0,
            ciaddr: address(bytes, CIADDR),
            yiaddr: address(bytes, YIADDR),
            siaddr: address(bytes, SIADDR),
            giaddr: address(bytes, GIADDR),
            chaddr: bytes[CHADDR..CHADDR + 6].try_into().expect("six bytes"),
            sname: text(overload & OVERLOAD_SNAME != 0, &bytes[SNAME..FILE]),
            file: text(overload & OVERLOAD_FILE != 0, &bytes[FILE..COOKIE]),
            options,
        })
    }

    /// The payload of the UDP datagram. What does not fit into `sname` (63) and `file` (127) is
    /// cut.
    pub fn emit(&self) -> Vec<u8> {
        let mut out = vec![0; OPTIONS];
        out[OP] = self.op as u8;
        out[HTYPE] = HTYPE_ETHERNET;
        out[HLEN] = 6;
        out[XID..SECS].copy_from_slice(&self.xid.to_be_bytes());
        out[SECS..FLAGS].copy_from_slice(&self.secs.to_be_bytes());
        let flags = if self.broadcast { FLAG_BROADCAST } else { 0 };
        out[FLAGS..CIADDR].copy_from_slice(&flags.to_be_bytes());
        out[CIADDR..YIADDR].copy_from_slice(&self.ciaddr.octets());
        out[YIADDR..SIADDR].copy_from_slice(&self.yiaddr.octets());
        out[SIADDR..GIADDR].copy_from_slice(&self.siaddr.octets());
        out[GIADDR..CHADDR].copy_from_slice(&self.giaddr.octets());
        out[CHADDR..CHADDR + 6].copy_from_slice(&self.chaddr);
        // The last byte of each text field stays zero: some readers want the terminator.
        for (field, text) in [(SNAME..FILE - 1, &self.sname), (FILE..COOKIE - 1, &self.file)] {
            let field = &mut out[field];
            let length = text.len().min(field.len());
            field[..length].copy_from_slice(&text[..length]);
        }
        out[COOKIE..OPTIONS].copy_from_slice(&MAGIC_COOKIE.to_be_bytes());
        self.options.emit(&mut out);
        out.push(code::END);
        if out.len() < MESSAGE_BYTES_MIN {
            out.resize(MESSAGE_BYTES_MIN, code::PAD);
        }
        out
    }
}

const OVERLOAD_FILE: u8 = 1;
const OVERLOAD_SNAME: u8 = 2;

/// The raw options of a message, pieces put together.
struct Collected {
    by_code: BTreeMap<u8, Vec<u8>>,
    /// Value of option 52: which text fields hold options.
    overload: u8,
}

/// Gathers the options of a message in the order of RFC 3396 §5: options, `file`, `sname`.
fn collect(bytes: &[u8]) -> Result<Collected, Malformed> {
    let mut by_code = BTreeMap::new();
    collect_field(&bytes[OPTIONS..], &mut by_code)?;
    // Asked only here: an option 52 inside a text field would make no sense.
    let overload = match by_code.get(&code::OVERLOAD).map(Vec::as_slice) {
        None => 0,
        Some(&[value @ 1..=3]) => value,
        Some(value) => {
            let value = value.first().copied().unwrap_or(0);
            return Err(Malformed::number(
                thing(code::OVERLOAD),
                "value",
                value,
                "must be 1, 2 or 3, once",
            ));
        }
    };
    if overload & OVERLOAD_FILE != 0 {
        collect_field(&bytes[FILE..COOKIE], &mut by_code)?;
    }
    if overload & OVERLOAD_SNAME != 0 {
        collect_field(&bytes[SNAME..FILE], &mut by_code)?;
    }
    Ok(Collected { by_code, overload })
}

/// Gathers the options of one field, up to its end option; servers that forget it are forgiven.
fn collect_field(mut field: &[u8], by_code: &mut BTreeMap<u8, Vec<u8>>) -> Result<(), Malformed> {
    loop {
        match field {
            [] | [code::END, ..] => return Ok(()),
            [code::PAD, rest @ ..] => field = rest,
            [code, length, rest @ ..] if rest.len() >= usize::from(*length) => {
                let (value, rest) = rest.split_at(usize::from(*length));
                by_code.entry(*code).or_default().extend_from_slice(value);
                field = rest;
            }
            [code, ..] => {
                let rule = "its length must not reach past the end of the message";
                return Err(Malformed::number(THING, "option", *code, rule));
            }
        }
    }
}

fn address(bytes: &[u8], offset: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(be32(bytes, offset))
}

fn until_nul(field: &[u8]) -> Vec<u8> {
    field.iter().copied().take_while(|byte| *byte != 0).collect()
}

#[cfg(test)]
mod tests {
    use dhcproto::v4;
    use dhcproto::{Decodable, Decoder, Encodable, Encoder};
    use proptest::prelude::*;

    use super::super::dhcp_options::{classless_routes, domain_search, emit_classless_routes};
    use super::*;

    const MAC: [u8; 6] = [0x52, 0x54, 0x00, 0x12, 0x34, 0x56];

    /// A message with the given bytes in its three option fields, the rest as a server fills it.
    fn reply(options: &[u8], file: &[u8], sname: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; OPTIONS];
        bytes[..8].copy_from_slice(&[2, 1, 6, 0, 0x12, 0x34, 0x56, 0x78]);
        bytes[YIADDR..SIADDR].copy_from_slice(&[192, 0, 2, 7]);
        bytes[CHADDR..CHADDR + 6].copy_from_slice(&MAC);
        bytes[SNAME..SNAME + sname.len()].copy_from_slice(sname);
        bytes[FILE..FILE + file.len()].copy_from_slice(file);
        bytes[COOKIE..].copy_from_slice(&[0x63, 0x82, 0x53, 0x63]);
        bytes.extend_from_slice(options);
        bytes
    }

    #[test]
    fn a_discover_is_these_bytes() {
        let mut discover = Message::request(MessageType::Discover, 0x1234_5678, MAC);
        discover.secs = 3;
        discover.broadcast = true;
        discover.options.client_identifier = [&[1][..], &MAC].concat();
        discover.options.parameter_request_list = vec![1, 3, 17];
        let bytes = discover.emit();
        assert_eq!(bytes.len(), 300);
        #[rustfmt::skip]
        assert_eq!(bytes[..44], [
            1, 1, 6, 0,  0x12, 0x34, 0x56, 0x78,  0, 3,  0x80, 0,
            0, 0, 0, 0,  0, 0, 0, 0,  0, 0, 0, 0,  0, 0, 0, 0,
            0x52, 0x54, 0x00, 0x12, 0x34, 0x56,  0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ]);
        assert!(bytes[44..236].iter().all(|byte| *byte == 0));
        #[rustfmt::skip]
        assert_eq!(bytes[236..259], [
            0x63, 0x82, 0x53, 0x63,
            53, 1, 1,
            61, 7, 1, 0x52, 0x54, 0x00, 0x12, 0x34, 0x56,
            55, 3, 1, 3, 17,
            255, 0,
        ]);
    }

    #[test]
    fn an_offer_is_read() {
        #[rustfmt::skip]
        let options = [
            53, 1, 2,  54, 4, 192, 0, 2, 1,  51, 4, 0, 0, 0, 120,  58, 4, 0, 0, 0, 60,
            59, 4, 0, 0, 0, 105,  0, 0,  1, 4, 255, 255, 255, 192,  3, 4, 192, 0, 2, 2,
            17, 9, b'i', b's', b'c', b's', b'i', b':', b'x', 0, 0,  26, 2, 0x23, 0x28,  255, 9,
        ];
        let offer = Message::parse(&reply(&options, b"pxelinux.0", b"tftp")).unwrap();
        assert_eq!(offer.op, Op::Reply);
        assert_eq!(offer.xid, 0x1234_5678);
        assert_eq!(offer.yiaddr, Ipv4Addr::new(192, 0, 2, 7));
        assert_eq!(
            (offer.file.as_slice(), offer.sname.as_slice()),
            (&b"pxelinux.0"[..], &b"tftp"[..])
        );
        let expected = Options {
            message_type: Some(MessageType::Offer),
            server_identifier: Some(Ipv4Addr::new(192, 0, 2, 1)),
            lease_time: Some(120),
            renewal_time: Some(60),
            rebinding_time: Some(105),
            subnet_mask: Some(Ipv4Addr::new(255, 255, 255, 192)),
            routers: vec![Ipv4Addr::new(192, 0, 2, 2)],
            root_path: b"iscsi:x".to_vec(),
            interface_mtu: Some(9000),
            ..Options::default()
        };
        assert_eq!(offer.options, expected);
    }

    #[test]
    fn options_go_on_in_the_text_fields_and_are_joined() {
        // The root path is cut in three: options, then file, then sname (RFC 3396 §5).
        let options = [52, 1, 3, 17, 3, b'a', b'b', b'c', 255];
        let file = [0, 17, 2, b'd', b'e', 255];
        let sname = [17, 1, b'f', 12, 1, b'h', 255];
        let message = Message::parse(&reply(&options, &file, &sname)).unwrap();
        assert_eq!(message.options.root_path, b"abcdef");
        assert_eq!(message.options.host_name, b"h");
        assert!(message.file.is_empty() && message.sname.is_empty());
    }

    #[test]
    fn overload_of_one_field_leaves_the_other_alone() {
        let message = Message::parse(&reply(&[52, 1, 1], &[12, 1, b'h', 255], b"tftp")).unwrap();
        assert_eq!(message.options.host_name, b"h");
        assert!(message.file.is_empty());
        assert_eq!(message.sname, b"tftp");
    }

    #[test]
    fn a_broken_option_costs_only_itself() {
        let options = [26, 3, 0, 0, 0, 3, 5, 1, 2, 3, 4, 5, 53, 1, 9, 12, 1, b'h', 255];
        let options = Message::parse(&reply(&options, &[], &[])).unwrap().options;
        assert_eq!(options.host_name, b"h");
        assert_eq!(options.interface_mtu, None);
        let said: Vec<String> = options.rejected.iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                "DHCP option 3 (router): length 5: must be a multiple of 4",
                "DHCP option 26 (interface MTU): length 3: must be 2",
                "DHCP option 53 (message type): value 9: must be 1 to 8",
            ]
        );
    }

    #[test]
    fn a_mask_with_holes_is_rejected() {
        let options = Message::parse(&reply(&[1, 4, 255, 0, 255, 0], &[], &[])).unwrap().options;
        assert_eq!(options.subnet_mask, None);
        assert_eq!(
            options.rejected[0].to_string(),
            "DHCP option 1 (subnet mask): value \"255.0.255.0\": must be ones followed by zeros"
        );
    }

    #[test]
    fn broken_messages_say_what_is_wrong() {
        let said = |bytes: &[u8]| Message::parse(bytes).unwrap_err().to_string();
        let whole = reply(&[255], &[], &[]);
        assert!(said(&whole[..239]).contains("length 239"));
        for (offset, field) in [(OP, "op 9"), (HTYPE, "htype 9"), (HLEN, "hlen 9")] {
            let mut bytes = whole.clone();
            bytes[offset] = 9;
            assert!(said(&bytes).contains(field), "{}", said(&bytes));
        }
        let mut bytes = whole.clone();
        bytes[COOKIE] = 0;
        assert!(said(&bytes).contains("magic cookie"));
        assert!(said(&reply(&[12, 9, b'x'], &[], &[])).contains("option 12: its length"));
        assert!(said(&reply(&[12], &[], &[])).contains("option 12: its length"));
        assert!(said(&reply(&[52, 1, 4], &[], &[])).contains("option 52"));
    }

    #[test]
    fn classless_routes_as_in_the_rfc() {
        // The examples of RFC 3442: significant octets only.
        #[rustfmt::skip]
        let value = [
            0,  192, 0, 2, 1,
            8, 10,  192, 0, 2, 2,
            25, 10, 229, 0, 128,  192, 0, 2, 3,
            32, 10, 198, 122, 47,  0, 0, 0, 0,
        ];
        let routes = classless_routes(&value).unwrap();
        let route = |destination: [u8; 4], prefix_len, router: [u8; 4]| Route {
            destination: destination.into(),
            prefix_len,
            router: router.into(),
        };
        assert_eq!(
            routes,
            [
                route([0, 0, 0, 0], 0, [192, 0, 2, 1]),
                route([10, 0, 0, 0], 8, [192, 0, 2, 2]),
                route([10, 229, 0, 128], 25, [192, 0, 2, 3]),
                route([10, 198, 122, 47], 32, [0, 0, 0, 0]),
            ]
        );
        assert_eq!(emit_classless_routes(&routes), value);
        assert!(classless_routes(&[33, 1, 2, 3, 4, 5, 6, 7, 8]).is_err());
        assert!(classless_routes(&value[..value.len() - 1]).is_err());
    }

    #[test]
    fn domain_search_follows_pointers_backwards_only() {
        // The example of RFC 3397 §2: eng.apple.com, marketing.apple.com.
        let value = b"\x03eng\x05apple\x03com\x00\x09marketing\xc0\x04";
        assert_eq!(domain_search(value).unwrap(), ["eng.apple.com", "marketing.apple.com"]);
        assert!(domain_search(b"\xc0\x00").is_err());
        assert!(domain_search(b"\x01a\xc0\x00").is_err());
        assert!(domain_search(b"\x01a\x00\x01b\xc0\x03").is_err());
        assert!(domain_search(b"\x03ab").is_err());
        assert!(domain_search(b"\x03a\nb\x00").is_err());
        assert!(domain_search(&b"\x01a\x00".repeat(33)).is_err());
    }

    #[test]
    fn the_foreign_codec_reads_the_same_meaning() {
        let mut request = Message::request(MessageType::Request, 7, MAC);
        request.options.requested_address = Some(Ipv4Addr::new(192, 0, 2, 7));
        request.options.root_path = vec![b'r'; 300];
        request.options.classless_routes =
            vec![Route::new([10, 1, 2, 3].into(), 20, [192, 0, 2, 1].into())];
        let bytes = request.emit();
        let theirs = v4::Message::decode(&mut Decoder::new(&bytes)).unwrap();
        assert_eq!(theirs.opcode(), v4::Opcode::BootRequest);
        assert_eq!((theirs.xid(), theirs.chaddr()), (7, &MAC[..]));
        assert_eq!(theirs.opts().msg_type(), Some(v4::MessageType::Request));
        assert_eq!(
            theirs.opts().get(v4::OptionCode::RequestedIpAddress),
            Some(&v4::DhcpOption::RequestedIpAddress(Ipv4Addr::new(192, 0, 2, 7)))
        );
        assert_eq!(
            theirs.opts().get(v4::OptionCode::RootPath),
            Some(&v4::DhcpOption::RootPath("r".repeat(300)))
        );
        let Some(v4::DhcpOption::ClasslessStaticRoute(routes)) =
            theirs.opts().get(v4::OptionCode::ClasslessStaticRoute)
        else {
            panic!("option 121 is missing");
        };
        assert_eq!(routes[0].0.to_string(), "10.1.0.0/20");
    }

    fn some<T: std::fmt::Debug + Clone>(
        value: impl Strategy<Value = T>,
    ) -> impl Strategy<Value = Option<T>> {
        proptest::option::of(value)
    }

    fn addresses() -> impl Strategy<Value = Vec<Ipv4Addr>> {
        proptest::collection::vec(any::<Ipv4Addr>(), 0..80)
    }

    fn words() -> impl Strategy<Value = Vec<u8>> {
        "[ -~]{0,400}".prop_map(String::into_bytes)
    }

    fn route() -> impl Strategy<Value = Route> {
        (any::<Ipv4Addr>(), 0..=32u8, any::<Ipv4Addr>()).prop_map(|(a, p, r)| Route::new(a, p, r))
    }

    prop_compose! {
        fn options()(
            (subnet_mask, routers, name_servers, host_name, domain_name, root_path) in (
                some((0..=32u32).prop_map(|p| u32::MAX.checked_shl(32 - p).unwrap_or(0).into())),
                addresses(), addresses(), words(), words(), words(),
            ),
            (interface_mtu, broadcast_address, ntp_servers, vendor_specific) in (
                some(68..=u16::MAX), some(any::<Ipv4Addr>()), addresses(),
                proptest::collection::vec(any::<u8>(), 0..300),
            ),
            (requested_address, lease_time, server_identifier, message) in (
                some(any::<Ipv4Addr>()), some(any::<u32>()), some(any::<Ipv4Addr>()), words(),
            ),
            (maximum_message_size, renewal_time, rebinding_time, vendor_class) in (
                some(576..=u16::MAX), some(any::<u32>()), some(any::<u32>()), words(),
            ),
            (parameter_request_list, client_identifier, tftp_server_name, bootfile_name) in (
                proptest::collection::vec(1..=254u8, 0..60),
                proptest::collection::vec(any::<u8>(), 0..30), words(), words(),
            ),
            (domain_search, classless_routes, initiator_name) in (
                proptest::collection::vec("[a-z]{1,20}(\\.[a-z0-9-]{1,10}){0,3}", 0..20),
                proptest::collection::vec(route(), 0..60), words(),
            ),
        ) -> Options {
            Options {
                subnet_mask, routers, name_servers, host_name, domain_name, root_path,
                interface_mtu, broadcast_address, ntp_servers, vendor_specific, requested_address,
                lease_time, message_type: Some(MessageType::Ack), server_identifier,
                parameter_request_list, message, maximum_message_size, renewal_time,
                rebinding_time, vendor_class, client_identifier, tftp_server_name, bootfile_name,
                domain_search, classless_routes, initiator_name, rejected: Vec::new(),
            }
        }
    }

    prop_compose! {
        fn message()(
            reply in any::<bool>(),
            (xid, secs, broadcast) in any::<(u32, u16, bool)>(),
            (ciaddr, yiaddr, siaddr, giaddr) in any::<(Ipv4Addr, Ipv4Addr, Ipv4Addr, Ipv4Addr)>(),
            chaddr in any::<[u8; 6]>(),
            sname in "[!-~]{0,63}", file in "[!-~]{0,127}",
            options in options(),
        ) -> Message {
            Message {
                op: if reply { Op::Reply } else { Op::Request },
                xid, secs, broadcast, ciaddr, yiaddr, siaddr, giaddr, chaddr,
                sname: sname.into_bytes(), file: file.into_bytes(), options,
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        /// Ours to bytes, foreign codec to values and to bytes again, back to ours: all the same.
        #[test]
        fn the_foreign_codec_agrees_both_ways(message in message()) {
            let ours = message.emit();
            let theirs = v4::Message::decode(&mut Decoder::new(&ours)).unwrap();
            let mut bytes = Vec::new();
            theirs.encode(&mut Encoder::new(&mut bytes)).unwrap();
            prop_assert_eq!(Message::parse(&bytes).unwrap(), message.clone());
            prop_assert_eq!(Message::parse(&ours).unwrap(), message);
        }

        #[test]
        fn no_bytes_make_it_panic(options in proptest::collection::vec(any::<u8>(), 0..600),
                                  file in any::<[u8; 32]>(), cut in 0..900usize) {
            let mut bytes = reply(&options, &file, &file);
            let _ = Message::parse(&bytes);
            bytes.truncate(cut);
            let _ = Message::parse(&bytes);
            let _ = domain_search(&options);
            let _ = classless_routes(&options);
        }

        #[test]
        fn every_cut_of_a_message_is_harmless(
            message in message(),
            cut in any::<prop::sample::Index>(),
        ) {
            let bytes = message.emit();
            let _ = Message::parse(&bytes[..cut.index(bytes.len())]);
        }
    }
}
