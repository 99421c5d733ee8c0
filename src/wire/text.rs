//! Text segments of login and text PDUs: `Key=Value` pairs, each ended by a zero byte
//! (RFC 7143 §6.1).
//!
//! The text of several PDUs may have to be put together before it is parsed (C bit); that, and its
//! limit, is the state machine's business.

use super::Malformed;

/// Longest key (RFC 7143 §6.1).
pub const KEY_BYTES_MAX: usize = 63;

const THING: &str = "text segment";

/// Goes through the pairs of a complete segment.
pub fn pairs(segment: &[u8]) -> Pairs<'_> {
    Pairs { rest: segment }
}

/// Iterator of [`pairs`]; it ends after the first error.
#[derive(Clone, Debug)]
pub struct Pairs<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Pairs<'a> {
    type Item = Result<(&'a str, &'a str), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        // Several zero bytes in a row come from peers that pad the text as well as the PDU.
        let start = self.rest.iter().position(|byte| *byte != 0)?;
        let rest = &self.rest[start..];
        // A last pair without its zero byte is accepted: the length of the segment ends it.
        let end = rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len());
        let (pair, rest) = rest.split_at(end);
        self.rest = rest;
        let pair = parse_pair(pair);
        if pair.is_err() {
            self.rest = &[];
        }
        Some(pair)
    }
}

fn parse_pair(pair: &[u8]) -> Result<(&str, &str), Malformed> {
    let text = std::str::from_utf8(pair)
        .map_err(|_| Malformed::text(THING, "pair", pair, "must be UTF-8"))?;
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| Malformed::text(THING, "pair", pair, "must have the form Key=Value"))?;
    let is_key_byte =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'+' | b'@' | b'_');
    if key.is_empty() || key.len() > KEY_BYTES_MAX || !key.bytes().all(is_key_byte) {
        let rule = "must be 1 to 63 letters, digits or one of . - + @ _";
        return Err(Malformed::text(THING, "key", key.as_bytes(), rule));
    }
    Ok((key, value))
}

/// A segment under construction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text {
    bytes: Vec<u8>,
}

impl Text {
    /// An empty segment.
    pub fn new() -> Text {
        Text::default()
    }

    /// Adds a pair.
    pub fn push(&mut self, key: &str, value: &str) {
        debug_assert!(!key.contains(['=', '\0']) && !value.contains('\0'));
        for part in [key.as_bytes(), b"=", value.as_bytes(), b"\0"] {
            self.bytes.extend_from_slice(part);
        }
    }

    /// Adds a pair whose value is a decimal number.
    pub fn push_number(&mut self, key: &str, value: u32) {
        self.push(key, &value.to_string());
    }

    /// Adds a pair whose value is `Yes` or `No`.
    pub fn push_boolean(&mut self, key: &str, value: bool) {
        self.push(key, if value { "Yes" } else { "No" });
    }

    /// The segment as it goes onto the wire.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Nothing was added yet.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Starts again, keeping the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }
}

/// A numerical value: decimal, or hexadecimal after `0x` (RFC 7143 §6.1), at most 32 bits.
pub fn number(key: &'static str, value: &str) -> Result<u32, Malformed> {
    let parsed = match value.strip_prefix("0x").or_else(|| value.strip_prefix("0X")) {
        Some(hex) if hex.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            u32::from_str_radix(hex, 16).ok()
        }
        None if value.bytes().all(|byte| byte.is_ascii_digit()) => value.parse().ok(),
        _ => None,
    };
    parsed.ok_or_else(|| {
        Malformed::text(THING, key, value.as_bytes(), "must be a decimal or 0x number below 2^32")
    })
}

/// A boolean value: exactly `Yes` or `No`.
pub fn boolean(key: &'static str, value: &str) -> Result<bool, Malformed> {
    match value {
        "Yes" => Ok(true),
        "No" => Ok(false),
        _ => Err(Malformed::text(THING, key, value.as_bytes(), "must be Yes or No")),
    }
}

/// The items of a list, in the order of preference.
pub fn list(value: &str) -> impl Iterator<Item = &str> {
    value.split(',')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_come_in_order() {
        let segment = b"InitiatorName=iqn.a:b\0HeaderDigest=CRC32C,None\0X=\0";
        let parsed: Result<Vec<_>, _> = pairs(segment).collect();
        assert_eq!(
            parsed.unwrap(),
            [("InitiatorName", "iqn.a:b"), ("HeaderDigest", "CRC32C,None"), ("X", "")]
        );
    }

    #[test]
    fn a_value_may_contain_an_equals_sign() {
        assert_eq!(pairs(b"A=b=c\0").next(), Some(Ok(("A", "b=c"))));
    }

    #[test]
    fn padding_and_a_missing_last_zero_are_accepted() {
        let parsed: Result<Vec<_>, _> = pairs(b"A=1\0\0\0B=2").collect();
        assert_eq!(parsed.unwrap(), [("A", "1"), ("B", "2")]);
    }

    #[test]
    fn what_is_no_pair_is_named_and_ends_the_segment() {
        let mut broken = pairs(b"nonsense\0A=1\0");
        let error = broken.next().unwrap().unwrap_err();
        assert_eq!(
            error.to_string(),
            "text segment: pair \"nonsense\": must have the form Key=Value"
        );
        assert_eq!(broken.next(), None);
        assert!(pairs(b"=1\0").next().unwrap().is_err());
        assert!(pairs(b"\xff=1\0").next().unwrap().is_err());
        assert!(pairs(format!("{}=1\0", "k".repeat(64)).as_bytes()).next().unwrap().is_err());
    }

    #[test]
    fn emitted_bytes_are_those_of_the_standard() {
        let mut text = Text::new();
        text.push("SessionType", "Normal");
        text.push_number("MaxBurstLength", 262_144);
        text.push_boolean("InitialR2T", false);
        assert_eq!(text.as_bytes(), b"SessionType=Normal\0MaxBurstLength=262144\0InitialR2T=No\0");
    }

    #[test]
    fn numbers_are_decimal_or_hexadecimal_and_bounded() {
        assert_eq!(number("K", "4096"), Ok(4096));
        assert_eq!(number("K", "0x1000"), Ok(4096));
        for wrong in ["", "0x", "+1", "-1", "1 ", "4294967296", "0x100000000", "ten"] {
            assert!(number("K", wrong).is_err(), "{wrong:?} was taken for a number");
        }
    }
}
