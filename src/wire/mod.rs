//! Floor 0: bytes to values and back.
//!
//! Every file here describes one format of a standard or of the kernel. A header is parsed at once
//! into a plain struct; its payload travels beside it and is never copied into it. Reserved bits
//! are ignored on receipt and zero on emission. Nothing in this room keeps state, reads a clock,
//! logs, allocates without a bound, or panics on any input.

use std::fmt;

pub mod dhcp;
mod dhcp_options;
pub mod digest_choice;
pub mod frame;
pub mod ibft;
pub mod nbd;
pub mod netlink;
pub mod pdu;
pub mod root_path;
pub mod rtnetlink;
pub mod scsi;
pub mod seconds;
pub mod serial;
pub mod target_address;
pub mod text;
pub mod time_limit;
pub mod ublk;
pub mod udp;

/// Bytes that break the rules of their format: which thing, which field, its value, the rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// The message or structure, by its standard's name: `Login Request`, `DHCP option 17`.
    pub thing: &'static str,
    /// The field, by its standard's name: `DataSegmentLength`.
    pub field: &'static str,
    /// What stood there.
    pub value: Value,
    /// The rule that it breaks, as a sentence part: `must be at most 8192`.
    pub rule: &'static str,
}

/// The offending value of a [`Malformed`]: a number, or the beginning of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A field that is a number.
    Number(u64),
    /// A field that is text, at most 64 characters of it, control characters replaced.
    Text(Box<str>),
}

impl Malformed {
    /// A rule broken by a number.
    pub fn number(
        thing: &'static str,
        field: &'static str,
        value: impl Into<u64>,
        rule: &'static str,
    ) -> Self {
        Malformed { thing, field, value: Value::Number(value.into()), rule }
    }

    /// A rule broken by a text; only the beginning of the text is kept.
    pub fn text(
        thing: &'static str,
        field: &'static str,
        value: &[u8],
        rule: &'static str,
    ) -> Self {
        const SHOWN_CHARACTERS_MAX: usize = 64;
        // Four bytes are the longest character, so this cut never loses one that would be shown.
        let head = &value[..value.len().min(4 * SHOWN_CHARACTERS_MAX)];
        let shown: String = String::from_utf8_lossy(head)
            .chars()
            .take(SHOWN_CHARACTERS_MAX)
            .map(|c| if c.is_control() { '\u{fffd}' } else { c })
            .collect();
        Malformed { thing, field, value: Value::Text(shown.into()), rule }
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Malformed { thing, field, value, rule } = self;
        match value {
            Value::Number(number) => write!(f, "{thing}: {field} {number}: {rule}"),
            Value::Text(text) => write!(f, "{thing}: {field} \"{text}\": {rule}"),
        }
    }
}

impl std::error::Error for Malformed {}

/// Reads a big-endian 16-bit field at a constant offset of a buffer that is known to hold it.
pub(crate) fn be16(bytes: &[u8], offset: usize) -> u16 {
    u16::from_be_bytes([bytes[offset], bytes[offset + 1]])
}

/// Reads a big-endian 24-bit field at a constant offset of a buffer that is known to hold it.
pub(crate) fn be24(bytes: &[u8], offset: usize) -> u32 {
    u32::from_be_bytes([0, bytes[offset], bytes[offset + 1], bytes[offset + 2]])
}

/// Reads a big-endian 32-bit field at a constant offset of a buffer that is known to hold it.
pub(crate) fn be32(bytes: &[u8], offset: usize) -> u32 {
    u32::from_be_bytes([bytes[offset], bytes[offset + 1], bytes[offset + 2], bytes[offset + 3]])
}

/// Reads a big-endian 64-bit field at a constant offset of a buffer that is known to hold it.
pub(crate) fn be64(bytes: &[u8], offset: usize) -> u64 {
    u64::from(be32(bytes, offset)) << 32 | u64::from(be32(bytes, offset + 4))
}
