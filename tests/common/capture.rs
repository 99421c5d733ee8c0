//! Capture files of what went over connections, as if taken from a network: pcap, with each packet
//! an IPv4 one. For tshark, which reads the same PDUs as we do and has an opinion of its own.

use std::net::Ipv4Addr;

use super::Direction;

/// A file in the making.
pub struct Capture {
    bytes: Vec<u8>,
    time_us: u32,
    connections: u16,
}

/// The two ends of a connection.
const ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 10)];
const TARGET_PORT: u16 = 3260;
const INITIATOR_PORT: u16 = 40_000;

/// LINKTYPE_RAW: no header before that of IP.
const LINK_TYPE: u32 = 101;
const PACKET_BYTES_MAX: u32 = 65_535;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;

/// The longest piece of a stream that fits in one packet.
pub const SEGMENT_BYTES_MAX: usize = PACKET_BYTES_MAX as usize - 60;

impl Capture {
    pub fn new() -> Capture {
        let mut bytes = Vec::new();
        for word in [0xa1b2_c3d4, 0x0002_0004, 0, 0, PACKET_BYTES_MAX, LINK_TYPE] {
            bytes.extend_from_slice(&u32::to_be_bytes(word));
        }
        Capture { bytes, time_us: 0, connections: 0 }
    }

    /// A connection from its beginning to its end: what was sent, in order. Each piece is cut into
    /// packets of its own, of the length that `segment` says.
    pub fn connection(
        &mut self,
        pieces: &[(Direction, Vec<u8>)],
        mut segment: impl FnMut() -> usize,
    ) {
        let mut stream = Stream { port: INITIATOR_PORT + self.connections, next: [0x1000, 0x2000] };
        self.connections += 1;
        self.packet(&mut stream, Direction::Up, SYN, &[]);
        self.packet(&mut stream, Direction::Down, SYN | ACK, &[]);
        self.packet(&mut stream, Direction::Up, ACK, &[]);
        for (direction, bytes) in pieces {
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let length = segment().clamp(1, SEGMENT_BYTES_MAX).min(rest.len());
                let (packet, later) = rest.split_at(length);
                self.packet(&mut stream, *direction, PSH | ACK, packet);
                rest = later;
            }
        }
        self.packet(&mut stream, Direction::Up, FIN | ACK, &[]);
        self.packet(&mut stream, Direction::Down, FIN | ACK, &[]);
        self.packet(&mut stream, Direction::Up, ACK, &[]);
    }

    /// The whole file.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    fn packet(&mut self, stream: &mut Stream, direction: Direction, flags: u8, data: &[u8]) {
        let (from, to) = if direction == Direction::Up { (0, 1) } else { (1, 0) };
        let ports = [stream.port, TARGET_PORT];
        let mut tcp = Vec::new();
        for port in [ports[from], ports[to]] {
            tcp.extend_from_slice(&port.to_be_bytes());
        }
        let acknowledged = if flags & ACK == 0 { 0 } else { stream.next[to] };
        for number in [stream.next[from], acknowledged] {
            tcp.extend_from_slice(&number.to_be_bytes());
        }
        // A window scale, without which whole bursts would not fit in the window.
        let options: &[u8] = if flags & SYN == 0 { &[] } else { &[3, 3, 14, 0] };
        let header_words = (20 + options.len() as u8) / 4;
        tcp.extend_from_slice(&[header_words << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
        tcp.extend_from_slice(options);
        tcp.extend_from_slice(data);

        let mut ip = vec![0x45, 0];
        ip.extend_from_slice(&(20 + tcp.len() as u16).to_be_bytes());
        ip.extend_from_slice(&[0, 0, 0x40, 0, 64, TCP, 0, 0]);
        for address in [ADDRESSES[from], ADDRESSES[to]] {
            ip.extend_from_slice(&address.octets());
        }
        let ends = &ip[12..20];
        let tcp_bytes = (tcp.len() as u16).to_be_bytes();
        let sum = checksum(&[ends, &[0, TCP], &tcp_bytes, &tcp]);
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        let sum = checksum(&[&ip]);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());

        self.time_us += 10;
        let length = (ip.len() + tcp.len()) as u32;
        for word in [self.time_us / 1_000_000, self.time_us % 1_000_000, length, length] {
            self.bytes.extend_from_slice(&word.to_be_bytes());
        }
        self.bytes.extend(ip);
        self.bytes.extend(tcp);
        let numbered = data.len() as u32 + u32::from(flags & (SYN | FIN) != 0);
        stream.next[from] = stream.next[from].wrapping_add(numbered);
    }
}

/// What TCP knows of a connection: the initiator's port, and the next number of either end.
struct Stream {
    port: u16,
    next: [u32; 2],
}

/// IPPROTO_TCP.
const TCP: u8 = 6;

/// The checksum of IP and TCP (RFC 1071) over parts of even length, but for the last.
fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for pair in parts.iter().flat_map(|part| part.chunks(2)) {
        sum += u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from);
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
