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
    // `#` stands in X#NodeArchitecture (§13.26), though §6.1 leaves it out.
    let is_key_byte = |byte: u8| byte.is_ascii_alphanumeric() || b".-+@_#".contains(&byte);
    if key.is_empty() || key.len() > KEY_BYTES_MAX || !key.bytes().all(is_key_byte) {
        let rule = "must be 1 to 63 letters, digits or one of . - + @ _ #";
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

    /// Adds a pair whose value is binary, in hexadecimal: what every peer can read.
    pub fn push_binary(&mut self, key: &str, value: &[u8]) {
        let mut digits = String::with_capacity(2 + 2 * value.len());
        digits.push_str("0x");
        for byte in value {
            for nibble in [byte >> 4, byte & 0xf] {
                digits.push(char::from_digit(nibble.into(), 16).expect("a nibble is a digit"));
            }
        }
        self.push(key, &digits);
    }

    /// The segment as it goes onto the wire.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Cuts off the first `bytes`, or all there are: what goes into one PDU.
    pub fn take_front(&mut self, bytes: usize) -> Text {
        let rest = self.bytes.split_off(bytes.min(self.bytes.len()));
        Text { bytes: std::mem::replace(&mut self.bytes, rest) }
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

/// A binary value: hexadecimal after `0x`, or base64 after `0b` (RFC 7143 §6.1); `bytes_max` long
/// at most. The error keeps nothing of the value, which may be half a secret.
pub fn binary(key: &'static str, value: &str, bytes_max: usize) -> Result<Vec<u8>, Malformed> {
    let malformed = |rule| {
        let shown = format!("({} characters)", value.len());
        Malformed::text(THING, key, shown.as_bytes(), rule)
    };
    let rule = "must hold at least one byte and no more than are allowed here";
    // Looked at before anything is decoded: no byte takes more than two digits.
    if value.len() > 2 + 2 * bytes_max.next_multiple_of(3) {
        return Err(malformed(rule));
    }
    let decoded = match value.split_at_checked(2) {
        Some(("0x" | "0X", digits)) => decode_hexadecimal(digits.as_bytes()),
        Some(("0b" | "0B", digits)) => decode_base64(digits.as_bytes()),
        _ => None,
    };
    let format = "must be whole bytes, in hexadecimal after 0x or in base64 after 0b";
    let decoded = decoded.ok_or_else(|| malformed(format))?;
    if decoded.is_empty() || decoded.len() > bytes_max {
        return Err(malformed(rule));
    }
    Ok(decoded)
}

fn decode_hexadecimal(digits: &[u8]) -> Option<Vec<u8>> {
    let (pairs, rest) = digits.as_chunks::<2>();
    let nibble = |digit: u8| char::from(digit).to_digit(16);
    let byte = |pair: &[u8; 2]| Some((nibble(pair[0])? << 4 | nibble(pair[1])?) as u8);
    if rest.is_empty() { pairs.iter().map(byte).collect() } else { None }
}

/// Base64 with its padding (RFC 4648 §4); bits that belong to no byte must be zero.
fn decode_base64(digits: &[u8]) -> Option<Vec<u8>> {
    let sextet = |digit: u8| {
        Some(u32::from(match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        }))
    };
    let (groups, rest) = digits.as_chunks::<4>();
    if !rest.is_empty() {
        return None;
    }
    let padding = digits.iter().rev().take_while(|digit| **digit == b'=').count();
    if padding > 2 {
        return None;
    }
    let mut bytes = Vec::with_capacity(groups.len() * 3);
    let mut left = digits.len() - padding;
    for group in groups {
        let real = left.min(4);
        left -= real;
        let mut word = 0;
        for digit in &group[..real] {
            word = word << 6 | sextet(*digit)?;
        }
        let [_, decoded @ ..] = (word << (6 * (4 - real))).to_be_bytes();
        let (whole, beyond) = decoded.split_at(real * 6 / 8);
        if beyond.iter().any(|byte| *byte != 0) {
            return None;
        }
        bytes.extend_from_slice(whole);
    }
    Some(bytes)
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
    fn binary_values_are_hexadecimal_or_base64() {
        // The vectors of RFC 4648 §10.
        for (text, expected) in [
            ("0bZg==", "f"),
            ("0bZm8=", "fo"),
            ("0BZm9v", "foo"),
            ("0bZm9vYg==", "foob"),
            ("0bZm9vYmE=", "fooba"),
            ("0bZm9vYmFy", "foobar"),
            ("0x666f6F", "foo"),
            ("0X66", "f"),
        ] {
            assert_eq!(binary("K", text, 6).as_deref(), Ok(expected.as_bytes()), "{text}");
        }
        assert_eq!(binary("K", "0b+/+/", 3).unwrap(), [0xfb, 0xff, 0xbf]);
        for wrong in [
            "",
            "0",
            "0x",
            "0b",
            "0x6",
            "0x6g",
            "0x+6",
            "666f",
            "0bZg",
            "0bZg=",
            "0bZh==",
            "0bZ===",
            "0b====",
            "0b=g==",
            "0bZ=g=",
            "0bZm9",
            "0bZm9=v===",
            "0bZm9v Zg==",
            "0b-_-_",
            "é",
        ] {
            assert!(binary("K", wrong, 1024).is_err(), "{wrong:?} was taken for a binary value");
        }
        assert!(binary("K", &format!("0x{}", "ab".repeat(1024)), 1024).is_ok());
        assert!(binary("K", &format!("0x{}", "ab".repeat(1025)), 1024).is_err());
        assert!(binary("K", &format!("0b{}", "abcd".repeat(342)), 1024).is_err());
        assert!(binary("K", &format!("0x{}", "ab".repeat(40_000)), 1024).is_err());
    }

    #[test]
    fn binary_values_are_written_in_hexadecimal() {
        let mut text = Text::new();
        text.push_binary("CHAP_C", &[0x00, 0x0f, 0xa5, 0xff]);
        assert_eq!(text.as_bytes(), b"CHAP_C=0x000fa5ff\0");
    }

    #[test]
    fn the_key_of_the_node_architecture_has_a_number_sign() {
        assert_eq!(pairs(b"X#NodeArchitecture=a\0").next(), Some(Ok(("X#NodeArchitecture", "a"))));
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
