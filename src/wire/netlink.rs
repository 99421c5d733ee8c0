//! Netlink messages: header, attributes, acknowledgements, the generic netlink header.
//!
//! The format is the kernel's (`linux/netlink.h`, `linux/genetlink.h`): fields in the byte order of
//! the machine, everything aligned to 4 bytes. Families such as rtnetlink put a fixed header of
//! their own between the message header and the attributes; that part is theirs. A datagram holds
//! one message or several: [`messages`] cuts it, [`Message::reply`] tells data from answers,
//! [`attributes`] walks what is inside. [`Builder`] makes requests.
//!
//! No input makes these iterators panic or run for ever: each step consumes at least a header, and
//! after the first [`Malformed`] an iterator ends.

use super::Malformed;

/// One message of a datagram, cut but not interpreted (`struct nlmsghdr`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// What it is: a family's message number, or one of the control messages below 16.
    pub kind: u16,
    /// `NLM_F_…`.
    pub flags: u16,
    /// The number of the request that this answers; 0 in notifications.
    pub sequence: u32,
    /// The port of the receiver in answers; 0 from the kernel itself in notifications.
    pub port: u32,
    /// What follows the header, without padding.
    pub payload: &'a [u8],
}

/// What a received message means to the one who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    /// A message of the family itself.
    Data(Message<'a>),
    /// The request was carried out (`NLMSG_ERROR` with error 0).
    Ack,
    /// The last message of a dump (`NLMSG_DONE` without an error).
    Done,
    /// The request failed.
    Refused(Refusal<'a>),
    /// Messages were lost (`NLMSG_OVERRUN`), so the answer is incomplete.
    Overrun,
    /// To be skipped (`NLMSG_NOOP` and control messages that do not exist yet).
    Noop,
}

/// Why the kernel refused a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal<'a> {
    /// The error number, positive (`ENODEV` is 19).
    pub errno: u32,
    /// The kernel's sentence about it, empty if there is none. The socket option
    /// `NETLINK_EXT_ACK` asks for it. Not always a faithful sentence: print it, do not parse it.
    pub text: &'a [u8],
}

/// Cuts a received datagram into messages.
pub fn messages(datagram: &[u8]) -> Messages<'_> {
    Messages { rest: datagram }
}

/// The messages of a datagram; made by [`messages`].
#[derive(Clone, Debug)]
pub struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let bytes = std::mem::take(&mut self.rest);
        if bytes.len() < HEADER_BYTES {
            return Some(Err(Malformed::number(
                "netlink message",
                "length of the datagram's rest",
                bytes.len() as u64,
                "must be 0 or at least the 16 bytes of a header",
            )));
        }
        let length = u32_at(bytes, 0) as usize;
        if length < HEADER_BYTES || length > bytes.len() {
            return Some(Err(Malformed::number(
                "netlink message",
                "nlmsg_len",
                length as u64,
                "must be at least 16 and at most what was received",
            )));
        }
        self.rest = &bytes[aligned(length).min(bytes.len())..];
        Some(Ok(Message {
            kind: u16_at(bytes, 4),
            flags: u16_at(bytes, 6),
            sequence: u32_at(bytes, 8),
            port: u32_at(bytes, 12),
            payload: &bytes[HEADER_BYTES..length],
        }))
    }
}

impl<'a> Message<'a> {
    /// Tells data from acknowledgements, errors and the end of a dump.
    pub fn reply(&self) -> Result<Reply<'a>, Malformed> {
        match self.kind {
            NLMSG_ERROR => {
                let (errno, rest) = split_errno("NLMSG_ERROR", self.payload)?;
                if errno == 0 {
                    return Ok(Reply::Ack);
                }
                Ok(Reply::Refused(Refusal { errno, text: self.error_text(rest) }))
            }
            NLMSG_DONE => {
                // Some families end a dump with an empty message.
                if self.payload.is_empty() {
                    return Ok(Reply::Done);
                }
                let (errno, rest) = split_errno("NLMSG_DONE", self.payload)?;
                if errno == 0 {
                    return Ok(Reply::Done);
                }
                let text = if self.flags & NLM_F_ACK_TLVS != 0 {
                    message_text(rest)
                } else {
                    b"" as &[u8]
                };
                Ok(Reply::Refused(Refusal { errno, text }))
            }
            NLMSG_OVERRUN => Ok(Reply::Overrun),
            kind if kind < NLMSG_MIN_TYPE => Ok(Reply::Noop),
            _ => Ok(Reply::Data(*self)),
        }
    }

    /// More messages of the same dump follow, up to [`Reply::Done`].
    pub fn is_multi(&self) -> bool {
        self.flags & NLM_F_MULTI != 0
    }

    /// The sentence in the attributes behind the echo of the request. Damage there must not hide
    /// the error number, so it gives the empty text.
    fn error_text(&self, echo: &'a [u8]) -> &'a [u8] {
        if self.flags & NLM_F_ACK_TLVS == 0 || echo.len() < HEADER_BYTES {
            return b"";
        }
        let echoed_bytes = if self.flags & NLM_F_CAPPED != 0 {
            HEADER_BYTES
        } else {
            aligned((u32_at(echo, 0) as usize).clamp(HEADER_BYTES, echo.len()))
        };
        message_text(echo.get(echoed_bytes..).unwrap_or(b""))
    }
}

/// One attribute (`struct nlattr`, and `struct rtattr`, which is the same).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// Its number, without the nested and byte order flags.
    pub kind: u16,
    /// Its value, without padding.
    pub payload: &'a [u8],
}

/// Walks a run of attributes. `bytes` begins at the first of them: behind the message header and
/// the family's own header, or at the payload of a nested attribute.
pub fn attributes(bytes: &[u8]) -> Attributes<'_> {
    Attributes { rest: bytes }
}

/// A run of attributes; made by [`attributes`].
#[derive(Clone, Debug)]
pub struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<Attribute<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let bytes = std::mem::take(&mut self.rest);
        if bytes.len() < ATTRIBUTE_HEADER_BYTES {
            return Some(Err(Malformed::number(
                "netlink attribute",
                "length of the rest",
                bytes.len() as u64,
                "must be 0 or at least the 4 bytes of a header",
            )));
        }
        let length = usize::from(u16_at(bytes, 0));
        if length < ATTRIBUTE_HEADER_BYTES || length > bytes.len() {
            return Some(Err(Malformed::number(
                "netlink attribute",
                "nla_len",
                length as u64,
                "must be at least 4 and at most what is left of its message",
            )));
        }
        self.rest = &bytes[aligned(length).min(bytes.len())..];
        Some(Ok(Attribute {
            kind: u16_at(bytes, 2) & NLA_TYPE_MASK,
            payload: &bytes[ATTRIBUTE_HEADER_BYTES..length],
        }))
    }
}

impl<'a> Attribute<'a> {
    /// The value of an 8-bit attribute.
    pub fn u8(&self) -> Result<u8, Malformed> {
        self.array().map(|[byte]| byte)
    }

    /// The value of a 16-bit attribute in the byte order of the machine.
    pub fn u16(&self) -> Result<u16, Malformed> {
        self.array().map(u16::from_ne_bytes)
    }

    /// The value of a 32-bit attribute in the byte order of the machine.
    pub fn u32(&self) -> Result<u32, Malformed> {
        self.array().map(u32::from_ne_bytes)
    }

    /// The value of a 64-bit attribute in the byte order of the machine.
    pub fn u64(&self) -> Result<u64, Malformed> {
        self.array().map(u64::from_ne_bytes)
    }

    /// The value of a text attribute, without the NUL and what follows it.
    pub fn text(&self) -> &'a [u8] {
        let end = self.payload.iter().position(|&byte| byte == 0).unwrap_or(self.payload.len());
        &self.payload[..end]
    }

    /// The value of a nested attribute.
    pub fn nested(&self) -> Attributes<'a> {
        attributes(self.payload)
    }

    /// A value of exactly `N` bytes: an integer, an Ethernet address, an IPv4 address.
    pub fn array<const N: usize>(&self) -> Result<[u8; N], Malformed> {
        self.payload.try_into().map_err(|_| {
            Malformed::number(
                "netlink attribute",
                "length of the value",
                self.payload.len() as u64,
                "must be the size that the attribute's number demands",
            )
        })
    }
}

/// The header of a generic netlink message (`struct genlmsghdr`), before the attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GenericHeader {
    /// The family's command number.
    pub command: u8,
    /// The version of the family's interface.
    pub version: u8,
}

impl GenericHeader {
    /// Cuts the header off the payload of a message; the second half is the attributes.
    pub fn parse(payload: &[u8]) -> Result<(Self, &[u8]), Malformed> {
        match payload {
            [command, version, _, _, attributes @ ..] => {
                Ok((GenericHeader { command: *command, version: *version }, attributes))
            }
            _ => Err(Malformed::number(
                "generic netlink message",
                "length of the payload",
                payload.len() as u64,
                "must be at least the 4 bytes of a header",
            )),
        }
    }

    /// The header as it stands on the wire.
    pub fn emit(self) -> [u8; 4] {
        [self.command, self.version, 0, 0]
    }
}

/// Makes one request. Lengths and padding are filled in; the values are ours, so their sizes are
/// not in doubt: a value that does not fit the 16-bit length of an attribute is a bug and panics.
#[derive(Debug)]
pub struct Builder {
    bytes: Vec<u8>,
}

impl Builder {
    /// A message without payload so far. The kernel fills in the port by itself.
    pub fn new(kind: u16, flags: u16, sequence: u32) -> Self {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend(0u32.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend(0u32.to_ne_bytes());
        Builder { bytes }
    }

    /// The family's fixed header, or a part of it. The alignment is the caller's until the first
    /// attribute, which begins at the next multiple of 4.
    pub fn header(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend(bytes);
        self
    }

    /// An attribute with any value.
    pub fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let start = self.begin(kind);
        self.bytes.extend(value);
        self.end(start)
    }

    /// An 8-bit attribute.
    pub fn u8(&mut self, kind: u16, value: u8) -> &mut Self {
        self.attribute(kind, &[value])
    }

    /// A 16-bit attribute in the byte order of the machine.
    pub fn u16(&mut self, kind: u16, value: u16) -> &mut Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// A 32-bit attribute in the byte order of the machine.
    pub fn u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// A 64-bit attribute in the byte order of the machine.
    pub fn u64(&mut self, kind: u16, value: u64) -> &mut Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// A text attribute, with the NUL that the kernel wants to see.
    pub fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let start = self.begin(kind);
        self.bytes.extend(value.as_bytes());
        self.bytes.push(0);
        self.end(start)
    }

    /// An attribute made of the attributes that `fill` adds.
    pub fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.begin(kind | NLA_F_NESTED);
        fill(self);
        self.align();
        self.end(start)
    }

    /// The finished message.
    pub fn finish(&mut self) -> Vec<u8> {
        self.align();
        let length = u32::try_from(self.bytes.len()).expect("a request is short");
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        std::mem::take(&mut self.bytes)
    }

    fn begin(&mut self, kind: u16) -> usize {
        self.align();
        let start = self.bytes.len();
        self.bytes.extend([0, 0]);
        self.bytes.extend(kind.to_ne_bytes());
        start
    }

    fn end(&mut self, start: usize) -> &mut Self {
        let length = u16::try_from(self.bytes.len() - start).expect("an attribute is short");
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.align();
        self
    }

    fn align(&mut self) {
        self.bytes.resize(aligned(self.bytes.len()), 0);
    }
}

/// `NLM_F_REQUEST`: this is a request.
pub const NLM_F_REQUEST: u16 = 0x1;
/// `NLM_F_MULTI`: one of several messages, ended by `NLMSG_DONE`.
pub const NLM_F_MULTI: u16 = 0x2;
/// `NLM_F_ACK`: answer with an acknowledgement also on success.
pub const NLM_F_ACK: u16 = 0x4;
/// `NLM_F_DUMP_INTR`: the table changed during the dump, which is worth asking again.
pub const NLM_F_DUMP_INTR: u16 = 0x10;
/// `NLM_F_DUMP`: list everything (root and match).
pub const NLM_F_DUMP: u16 = 0x300;
/// `NLM_F_REPLACE`: override what exists.
pub const NLM_F_REPLACE: u16 = 0x100;
/// `NLM_F_EXCL`: fail if it exists.
pub const NLM_F_EXCL: u16 = 0x200;
/// `NLM_F_CREATE`: make it if it does not exist.
pub const NLM_F_CREATE: u16 = 0x400;
/// `NLM_F_APPEND`: add to the end of the list.
pub const NLM_F_APPEND: u16 = 0x800;
/// In `NLMSG_ERROR`: only the header of the request is echoed.
const NLM_F_CAPPED: u16 = 0x100;
/// In `NLMSG_ERROR` and `NLMSG_DONE`: attributes follow.
const NLM_F_ACK_TLVS: u16 = 0x200;

/// `NLMSG_ERROR`: acknowledgement or error.
pub const NLMSG_ERROR: u16 = 2;
/// `NLMSG_DONE`: the end of a dump.
pub const NLMSG_DONE: u16 = 3;
/// `NLMSG_OVERRUN`: messages were lost.
const NLMSG_OVERRUN: u16 = 4;
/// The first number that belongs to a family.
const NLMSG_MIN_TYPE: u16 = 16;

/// The numbers of the generic netlink controller, which knows the other families by name
/// (`linux/genetlink.h`).
pub mod controller {
    /// `GENL_ID_CTRL`: the message number of the controller itself.
    pub const ID: u16 = 0x10;
    /// The version of its interface.
    pub const VERSION: u8 = 2;
    /// `CTRL_CMD_GETFAMILY`: which number has a family?
    pub const CMD_GETFAMILY: u8 = 3;
    /// `CTRL_ATTR_FAMILY_ID`: the number, 16 bits.
    pub const ATTR_FAMILY_ID: u16 = 1;
    /// `CTRL_ATTR_FAMILY_NAME`: the name, text.
    pub const ATTR_FAMILY_NAME: u16 = 2;
}

/// `NLMSGERR_ATTR_MSG`: a sentence about the error.
const NLMSGERR_ATTR_MSG: u16 = 1;
/// `NLA_F_NESTED`: the value consists of attributes.
const NLA_F_NESTED: u16 = 0x8000;
/// `NLA_TYPE_MASK`: without the nested and the network byte order flags.
const NLA_TYPE_MASK: u16 = 0x3fff;

/// `struct nlmsghdr`.
const HEADER_BYTES: usize = 16;
/// `struct nlattr`.
const ATTRIBUTE_HEADER_BYTES: usize = 4;

/// The error number at the start of a control message, and what follows it.
fn split_errno<'a>(thing: &'static str, payload: &'a [u8]) -> Result<(u32, &'a [u8]), Malformed> {
    let Some((error, rest)) = payload.split_first_chunk() else {
        return Err(Malformed::number(
            thing,
            "length of the payload",
            payload.len() as u64,
            "must be at least the 4 bytes of the error number",
        ));
    };
    // Zero or a negative error number; the sign carries nothing.
    Ok((i32::from_ne_bytes(*error).unsigned_abs(), rest))
}

/// The kernel's sentence among the attributes of an acknowledgement.
fn message_text(bytes: &[u8]) -> &[u8] {
    attributes(bytes)
        .map_while(Result::ok)
        .find(|attribute| attribute.kind == NLMSGERR_ATTR_MSG)
        .map_or(b"", |attribute| attribute.text())
}

/// The next multiple of 4.
fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    u16::from_ne_bytes([bytes[offset], bytes[offset + 1]])
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_ne_bytes([bytes[offset], bytes[offset + 1], bytes[offset + 2], bytes[offset + 3]])
}

// The golden bytes are those of a little-endian machine, like all that we build for.
#[cfg(all(test, target_endian = "little"))]
mod tests {
    use super::*;

    /// `ip link set eth0 up` by name, as iproute2 sends it but for the sequence number: ifinfomsg
    /// and IFLA_IFNAME.
    const SET_LINK_UP: [u8; 44] = [
        44, 0, 0, 0, 0x10, 0, 5, 0, 0x78, 0x56, 0x34, 0x12, 0, 0, 0, 0, // nlmsghdr
        0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, // ifinfomsg
        9, 0, 3, 0, b'e', b't', b'h', b'0', 0, 0, 0, 0, // IFLA_IFNAME
    ];

    /// What the kernel answers if the device is missing: -ENODEV, capped echo, a sentence.
    const NO_SUCH_DEVICE: [u8; 64] = [
        64, 0, 0, 0, 2, 0, 0x00, 0x03, 0x78, 0x56, 0x34, 0x12, 0xe7, 3, 0, 0, // nlmsghdr
        0xed, 0xff, 0xff, 0xff, // -19
        44, 0, 0, 0, 0x10, 0, 5, 0, 0x78, 0x56, 0x34, 0x12, 0xe7, 3, 0, 0, // echoed header
        8, 0, 2, 0, 0, 0, 0, 0, // NLMSGERR_ATTR_OFFS
        19, 0, 1, 0, b'N', b'o', b' ', b's', b'u', b'c', b'h', b' ', b'd', b'e', b'v', b'.', b'.',
        b'.', 0, 0, // NLMSGERR_ATTR_MSG
    ];

    #[test]
    fn a_request_has_the_bytes_of_iproute2() {
        let bytes = Builder::new(0x10, NLM_F_REQUEST | NLM_F_ACK, 0x1234_5678)
            .header(&[0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0])
            .text(3, "eth0")
            .finish();
        assert_eq!(bytes, SET_LINK_UP);
    }

    #[test]
    fn nested_attributes_carry_the_flag_and_the_whole_length() {
        // NBD_ATTR_SOCKETS { NBD_SOCK_ITEM { NBD_SOCK_FD: 5 } }, NBD_ATTR_INDEX.
        let bytes = Builder::new(0x21, NLM_F_REQUEST, 1)
            .header(&GenericHeader { command: 1, version: 1 }.emit())
            .nested(7, |sockets| {
                sockets.nested(1, |item| {
                    item.u32(1, 5);
                });
            })
            .u8(1, 9)
            .finish();
        assert_eq!(
            bytes[16..],
            [
                1, 1, 0, 0, // genlmsghdr
                16, 0, 7, 0x80, 12, 0, 1, 0x80, 8, 0, 1, 0, 5, 0, 0, 0, // three levels
                5, 0, 1, 0, 9, 0, 0, 0, // padded
            ]
        );
        let message = messages(&bytes).next().unwrap().unwrap();
        let (header, rest) = GenericHeader::parse(message.payload).unwrap();
        assert_eq!(header, GenericHeader { command: 1, version: 1 });
        let sockets = attributes(rest).next().unwrap().unwrap();
        let item = sockets.nested().next().unwrap().unwrap();
        let fd = item.nested().next().unwrap().unwrap();
        assert_eq!((sockets.kind, item.kind, fd.kind, fd.u32()), (7, 1, 1, Ok(5)));
        assert_eq!(attributes(rest).nth(1).unwrap().unwrap().u8(), Ok(9));
    }

    #[test]
    fn an_error_gives_its_number_and_the_kernels_sentence() {
        let message = messages(&NO_SUCH_DEVICE).next().unwrap().unwrap();
        assert_eq!((message.sequence, message.port), (0x1234_5678, 999));
        let refusal = Refusal { errno: 19, text: b"No such dev..." };
        assert_eq!(message.reply(), Ok(Reply::Refused(refusal)));
    }

    #[test]
    fn an_error_that_echoes_the_whole_request_gives_the_sentence_behind_it() {
        let mut bytes = NO_SUCH_DEVICE.to_vec();
        bytes[7] = 0x02; // NLM_F_ACK_TLVS without NLM_F_CAPPED.
        bytes.splice(36..36, SET_LINK_UP[16..].iter().copied());
        bytes[0] = bytes.len() as u8;
        let message = messages(&bytes).next().unwrap().unwrap();
        let refusal = Refusal { errno: 19, text: b"No such dev..." };
        assert_eq!(message.reply(), Ok(Reply::Refused(refusal)));
    }

    #[test]
    fn an_error_with_a_lying_echo_still_gives_its_number() {
        let mut bytes = NO_SUCH_DEVICE.to_vec();
        bytes[7] = 0x02;
        bytes[20..24].copy_from_slice(&u32::MAX.to_ne_bytes());
        let message = messages(&bytes).next().unwrap().unwrap();
        assert_eq!(message.reply(), Ok(Reply::Refused(Refusal { errno: 19, text: b"" })));
    }

    #[test]
    fn acknowledgement_done_and_data_are_told_apart() {
        let message = |kind, payload| Message { kind, flags: 2, sequence: 1, port: 1, payload };
        assert_eq!(message(NLMSG_ERROR, &[0; 20]).reply(), Ok(Reply::Ack));
        assert_eq!(message(NLMSG_DONE, &[0; 4]).reply(), Ok(Reply::Done));
        assert_eq!(message(NLMSG_DONE, &[]).reply(), Ok(Reply::Done));
        let invalid = (-22i32).to_ne_bytes();
        assert_eq!(
            message(NLMSG_DONE, &invalid).reply(),
            Ok(Reply::Refused(Refusal { errno: 22, text: b"" }))
        );
        assert_eq!(message(1, &[]).reply(), Ok(Reply::Noop));
        assert_eq!(message(4, &[]).reply(), Ok(Reply::Overrun));
        let data = message(16, &[1, 2, 3]);
        assert_eq!(data.reply(), Ok(Reply::Data(data)));
        assert!(data.is_multi());
    }

    #[test]
    fn a_datagram_of_two_messages_gives_both() {
        let mut bytes = Builder::new(16, NLM_F_MULTI, 7).header(&[1, 2, 3, 4]).finish();
        bytes.extend(Builder::new(NLMSG_DONE, NLM_F_MULTI, 7).header(&[0; 4]).finish());
        let kinds: Vec<u16> = messages(&bytes).map(|message| message.unwrap().kind).collect();
        assert_eq!(kinds, [16, NLMSG_DONE]);
    }

    #[test]
    fn an_unpadded_end_is_accepted() {
        // The kernel pads, but the last length alone decides.
        let bytes = &SET_LINK_UP[..41];
        let mut unpadded = bytes.to_vec();
        unpadded[0] = 41;
        let message = messages(&unpadded).next().unwrap().unwrap();
        let name = attributes(&message.payload[16..]).next().unwrap().unwrap();
        assert_eq!((name.kind, name.text()), (3, b"eth0".as_slice()));
    }

    #[test]
    fn every_truncation_ends_without_panic() {
        for whole in [&SET_LINK_UP[..], &NO_SUCH_DEVICE[..]] {
            for length in 1..whole.len() {
                let mut seen = messages(&whole[..length]);
                assert!(seen.next().unwrap().is_err(), "{length} bytes");
                assert_eq!(seen.next(), None);
                // The same bytes as a run of attributes: any outcome, but an end.
                assert!(attributes(&whole[..length]).count() <= length / 4 + 1);
            }
        }
    }

    #[test]
    fn hostile_lengths_are_named_and_end_the_walk() {
        for length in [0u32, 15, 45, 0x8000_0000, u32::MAX] {
            let mut bytes = SET_LINK_UP;
            bytes[..4].copy_from_slice(&length.to_ne_bytes());
            let mut seen = messages(&bytes);
            let error = seen.next().unwrap().unwrap_err();
            assert_eq!(
                (error.field, error.value),
                ("nlmsg_len", super::super::Value::Number(length.into()))
            );
            assert_eq!(seen.next(), None);
        }
        for length in [0u16, 3, 13, u16::MAX] {
            let mut bytes = SET_LINK_UP;
            bytes[32..34].copy_from_slice(&length.to_ne_bytes());
            let mut seen = attributes(&bytes[32..]);
            assert_eq!(seen.next().unwrap().unwrap_err().field, "nla_len");
            assert_eq!(seen.next(), None);
        }
    }

    #[test]
    fn a_value_of_the_wrong_size_is_an_error() {
        let attribute = Attribute { kind: 1, payload: &[1, 2, 3] };
        assert!(attribute.u8().is_err() && attribute.u16().is_err());
        assert!(attribute.u32().is_err() && attribute.u64().is_err());
        assert_eq!(attribute.array::<3>(), Ok([1, 2, 3]));
        assert!(GenericHeader::parse(&[1, 2, 3]).is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_walked_to_an_end(bytes in proptest::collection::vec(0u8.., 0..200)) {
            for message in messages(&bytes).map_while(Result::ok) {
                let _ = message.reply();
                for attribute in attributes(message.payload).map_while(Result::ok) {
                    let _ = attribute.nested().count();
                    let _ = attribute.text();
                }
            }
        }
    }
}
