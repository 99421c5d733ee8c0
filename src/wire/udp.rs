//! One UDP datagram in one IPv4 packet (RFC 768, RFC 791 §3.1), for packet sockets: before a
//! machine has an address, the kernel does not do this for us.
//!
//! Fragments are refused, options are skipped, nothing is copied.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::{Malformed, be16, be32};

/// Length of the two headers that [`emit`] puts before the payload.
pub const HEADER_BYTES: usize = IPV4_BYTES + UDP_BYTES;

/// A received datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// Who sent it.
    pub source: SocketAddrV4,
    /// To whom.
    pub destination: SocketAddrV4,
    /// What it says.
    pub payload: &'a [u8],
}

const THING: &str = "IPv4 packet";
const IPV4_BYTES: usize = 20;
const UDP_BYTES: usize = 8;
const PROTOCOL_UDP: u8 = 17;
const TIME_TO_LIVE: u8 = 64;

// RFC 791 §3.1.
const VERSION_AND_IHL: usize = 0;
const TOTAL_LENGTH: usize = 2;
const FLAGS_AND_OFFSET: usize = 6;
const TTL: usize = 8;
const PROTOCOL: usize = 9;
const HEADER_CHECKSUM: usize = 10;
const SOURCE: usize = 12;
const DESTINATION: usize = 16;
// RFC 768, from the beginning of the UDP header.
const SOURCE_PORT: usize = 0;
const DESTINATION_PORT: usize = 2;
const LENGTH: usize = 4;
const CHECKSUM: usize = 6;

/// More fragments, or not the first one.
const FRAGMENT_MASK: u16 = 0x3fff;

impl<'a> Datagram<'a> {
    /// Reads a packet that begins with its IPv4 header. Padding of a short frame is cut off.
    pub fn parse(packet: &'a [u8]) -> Result<Datagram<'a>, Malformed> {
        let number =
            |field, value: usize, rule| Malformed::number(THING, field, value as u64, rule);
        if packet.len() < IPV4_BYTES {
            return Err(number("length", packet.len(), "must be at least 20"));
        }
        let version = packet[VERSION_AND_IHL] >> 4;
        if version != 4 {
            return Err(number("version", version.into(), "must be 4"));
        }
        let header_bytes = usize::from(packet[VERSION_AND_IHL] & 0x0f) * 4;
        let total = usize::from(be16(packet, TOTAL_LENGTH));
        if header_bytes < IPV4_BYTES || total < header_bytes + UDP_BYTES || total > packet.len() {
            let rule = "must hold both headers and not be longer than the frame";
            return Err(number("total length", total, rule));
        }
        let (header, rest) = packet[..total].split_at(header_bytes);
        if fold(sum(header)) != 0xffff {
            let checksum = be16(header, HEADER_CHECKSUM);
            return Err(number("header checksum", checksum.into(), "must fit the header"));
        }
        if header[PROTOCOL] != PROTOCOL_UDP {
            return Err(number("protocol", header[PROTOCOL].into(), "must be 17 (UDP)"));
        }
        if be16(header, FLAGS_AND_OFFSET) & FRAGMENT_MASK != 0 {
            let field = be16(header, FLAGS_AND_OFFSET);
            return Err(number("flags and fragment offset", field.into(), "must be whole"));
        }
        let length = usize::from(be16(rest, LENGTH));
        if length < UDP_BYTES || length > rest.len() {
            return Err(number("UDP length", length, "must be 8 to the rest of the packet"));
        }
        let source = Ipv4Addr::from_bits(be32(header, SOURCE));
        let destination = Ipv4Addr::from_bits(be32(header, DESTINATION));
        let udp = &rest[..length];
        if !checksum_holds(source, destination, udp) {
            let checksum = be16(udp, CHECKSUM);
            return Err(number("UDP checksum", checksum.into(), "must fit the datagram"));
        }
        Ok(Datagram {
            source: SocketAddrV4::new(source, be16(udp, SOURCE_PORT)),
            destination: SocketAddrV4::new(destination, be16(udp, DESTINATION_PORT)),
            payload: &udp[UDP_BYTES..],
        })
    }
}

/// The packet, from its IPv4 header on. The payload must fit one packet, at most 65 507 bytes.
pub fn emit(source: SocketAddrV4, destination: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(UDP_BYTES + payload.len()).expect("the payload fits a datagram");
    let total = length.checked_add(IPV4_BYTES as u16).expect("the payload fits a packet");
    let mut packet = vec![0; HEADER_BYTES];
    let (header, udp) = packet.split_at_mut(IPV4_BYTES);
    header[VERSION_AND_IHL] = 0x45;
    header[TOTAL_LENGTH..TOTAL_LENGTH + 2].copy_from_slice(&total.to_be_bytes());
    header[TTL] = TIME_TO_LIVE;
    header[PROTOCOL] = PROTOCOL_UDP;
    header[SOURCE..SOURCE + 4].copy_from_slice(&source.ip().octets());
    header[DESTINATION..DESTINATION + 4].copy_from_slice(&destination.ip().octets());
    let checksum = !fold(sum(header));
    header[HEADER_CHECKSUM..HEADER_CHECKSUM + 2].copy_from_slice(&checksum.to_be_bytes());
    udp[SOURCE_PORT..SOURCE_PORT + 2].copy_from_slice(&source.port().to_be_bytes());
    udp[DESTINATION_PORT..DESTINATION_PORT + 2].copy_from_slice(&destination.port().to_be_bytes());
    udp[LENGTH..LENGTH + 2].copy_from_slice(&length.to_be_bytes());
    packet.extend_from_slice(payload);
    let udp = &mut packet[IPV4_BYTES..];
    let pseudo = pseudo_header_sum(*source.ip(), *destination.ip(), length);
    // A sum of zero is sent as all ones, because zero means that there is no checksum.
    let checksum = match !fold(pseudo + sum(udp)) {
        0 => 0xffff,
        checksum => checksum,
    };
    udp[CHECKSUM..CHECKSUM + 2].copy_from_slice(&checksum.to_be_bytes());
    packet
}

/// Whether the checksum is right, absent, or not made yet.
///
/// The last is what a sender on the same host leaves to hardware that never sees the frame (veth,
/// bridges, virtio): the field then holds the bare sum of the pseudo header. A packet socket shows
/// such frames as they are; refusing them would make local servers unreachable.
fn checksum_holds(source: Ipv4Addr, destination: Ipv4Addr, udp: &[u8]) -> bool {
    let pseudo = pseudo_header_sum(source, destination, udp.len() as u16);
    let checksum = be16(udp, CHECKSUM);
    checksum == 0 || fold(pseudo + sum(udp)) == 0xffff || checksum == fold(pseudo)
}

fn pseudo_header_sum(source: Ipv4Addr, destination: Ipv4Addr, length: u16) -> u64 {
    let addresses = sum(&source.octets()) + sum(&destination.octets());
    addresses + u64::from(PROTOCOL_UDP) + u64::from(length)
}

/// Sum of the big-endian 16-bit words; an odd last byte is the high half of a word (RFC 1071).
fn sum(bytes: &[u8]) -> u64 {
    let word = |pair: &[u8]| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
    bytes.chunks(2).map(word).sum()
}

/// Adds the carries back until the sum fits 16 bits.
fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 192.168.0.10:1024 to 192.168.0.1:53, checksums worked out by another program.
    #[rustfmt::skip]
    const PACKET: [u8; 32] = [
        0x45, 0x00, 0x00, 0x20,  0x00, 0x00, 0x00, 0x00,
        0x40, 0x11, 0xf9, 0x71,  0xc0, 0xa8, 0x00, 0x0a,  0xc0, 0xa8, 0x00, 0x01,
        0x04, 0x00, 0x00, 0x35,  0x00, 0x0c, 0xb5, 0x7e,
        b'a', b'b', b'c', b'd',
    ];

    fn source() -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::new(192, 168, 0, 10), 1024)
    }

    fn destination() -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::new(192, 168, 0, 1), 53)
    }

    #[test]
    fn a_datagram_is_these_bytes() {
        assert_eq!(emit(source(), destination(), b"abcd"), PACKET);
    }

    #[test]
    fn a_packet_is_read_without_its_padding() {
        let mut frame = PACKET.to_vec();
        frame.extend_from_slice(&[0; 14]);
        let datagram = Datagram::parse(&frame).unwrap();
        let expected = Datagram { source: source(), destination: destination(), payload: b"abcd" };
        assert_eq!(datagram, expected);
    }

    #[test]
    fn options_of_the_header_are_skipped() {
        let mut packet = PACKET.to_vec();
        packet[VERSION_AND_IHL] = 0x46;
        packet[TOTAL_LENGTH + 1] += 4;
        packet.splice(IPV4_BYTES..IPV4_BYTES, [1, 1, 1, 0]);
        packet[HEADER_CHECKSUM..SOURCE].fill(0);
        let checksum = !fold(sum(&packet[..IPV4_BYTES + 4]));
        packet[HEADER_CHECKSUM..SOURCE].copy_from_slice(&checksum.to_be_bytes());
        assert_eq!(Datagram::parse(&packet).unwrap().payload, b"abcd");
    }

    #[test]
    fn a_checksum_may_be_absent_or_unfinished_but_not_wrong() {
        let checksum = |value: [u8; 2]| {
            let mut packet = PACKET;
            packet[26..28].copy_from_slice(&value);
            Datagram::parse(&packet).map(|datagram| datagram.payload == b"abcd")
        };
        assert_eq!(checksum([0, 0]), Ok(true));
        // The sum of the pseudo header: c0a8+000a+c0a8+0001+0011+000c = 18178, folded 8179.
        assert_eq!(checksum([0x81, 0x79]), Ok(true));
        assert!(checksum([0xb5, 0x7f]).unwrap_err().to_string().contains("UDP checksum"));
    }

    #[test]
    fn every_broken_field_is_named() {
        let said = |offset: usize, value: u8| {
            let mut packet = PACKET;
            packet[offset] = value;
            Datagram::parse(&packet).unwrap_err().to_string()
        };
        assert!(said(VERSION_AND_IHL, 0x65).contains("version 6"));
        assert!(said(VERSION_AND_IHL, 0x44).contains("total length"));
        assert!(said(TOTAL_LENGTH + 1, 0x21).contains("total length 33"));
        assert!(said(TTL, 1).contains("header checksum"));
        assert!(said(IPV4_BYTES + LENGTH + 1, 13).contains("UDP length 13"));
        assert!(said(IPV4_BYTES + LENGTH + 1, 7).contains("UDP length 7"));
        let fixed = |offset: usize, value: u8| {
            let mut packet = PACKET;
            packet[offset] = value;
            packet[HEADER_CHECKSUM..SOURCE].fill(0);
            let checksum = !fold(sum(&packet[..IPV4_BYTES]));
            packet[HEADER_CHECKSUM..SOURCE].copy_from_slice(&checksum.to_be_bytes());
            Datagram::parse(&packet).unwrap_err().to_string()
        };
        assert!(fixed(PROTOCOL, 6).contains("protocol 6"));
        assert!(fixed(FLAGS_AND_OFFSET, 0x20).contains("fragment"));
        assert!(fixed(FLAGS_AND_OFFSET + 1, 1).contains("fragment"));
    }

    proptest! {
        #[test]
        fn what_is_sent_is_what_is_read(from in any::<(Ipv4Addr, u16)>(),
                                        to in any::<(Ipv4Addr, u16)>(),
                                        payload in proptest::collection::vec(any::<u8>(), 0..999)) {
            let source = SocketAddrV4::new(from.0, from.1);
            let destination = SocketAddrV4::new(to.0, to.1);
            let packet = emit(source, destination, &payload);
            let payload = payload.as_slice();
            let datagram = Datagram { source, destination, payload };
            prop_assert_eq!(Datagram::parse(&packet), Ok(datagram));
        }

        #[test]
        fn one_flipped_bit_is_noticed(bit in 0..PACKET.len() * 8) {
            let mut packet = PACKET;
            packet[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Datagram::parse(&packet).is_err());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = Datagram::parse(&bytes);
        }
    }
}
