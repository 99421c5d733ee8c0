//! Parameter data of SANITIZE (SBC-4 §5.24).

use super::super::{Malformed, be16};

/// What OVERWRITE is told (SBC-4 §5.24.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverwriteList {
    /// INVERT: each pass writes the complement of what the one before wrote.
    pub invert: bool,
    /// TEST, two bits, whose meaning is the vendor's.
    pub test: u8,
    /// OVERWRITE COUNT, five bits: the number of passes.
    pub count: u8,
    /// INITIALIZATION PATTERN, as long as its length field says.
    pub pattern: Vec<u8>,
}

impl OverwriteList {
    /// What stands before the pattern, in bytes.
    pub const HEADER_BYTES: usize = 4;

    /// Reads a list that is there as a whole.
    pub fn parse(bytes: &[u8]) -> Result<OverwriteList, Malformed> {
        let length = bytes.get(2..4).map(|bytes| usize::from(be16(bytes, 0)));
        let pattern = length.and_then(|length| bytes.get(4..4 + length));
        let pattern = pattern.ok_or(Malformed::number(
            "OVERWRITE parameter list",
            "length",
            bytes.len() as u64,
            "must be 4 bytes and the pattern (SBC-4 §5.24.3)",
        ))?;
        Ok(OverwriteList {
            invert: bytes[0] & 0x80 != 0,
            test: bytes[0] >> 5 & 0x03,
            count: bytes[0] & 0x1f,
            pattern: pattern.to_vec(),
        })
    }

    /// The bytes.
    pub fn emit(&self) -> Vec<u8> {
        debug_assert!(u16::try_from(self.pattern.len()).is_ok());
        let mut out =
            vec![u8::from(self.invert) << 7 | (self.test & 0x03) << 5 | self.count & 0x1f, 0];
        out.extend((self.pattern.len() as u16).to_be_bytes());
        out.extend(&self.pattern);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overwrite_lists_both_ways() {
        let list = OverwriteList { invert: true, test: 1, count: 3, pattern: vec![0xaa, 0x55] };
        let bytes = [0xa3, 0, 0, 2, 0xaa, 0x55];
        assert_eq!(list.emit(), bytes);
        assert_eq!(OverwriteList::parse(&bytes), Ok(list.clone()));
        assert_eq!(OverwriteList::parse(&[&bytes[..], &[9]].concat()), Ok(list));
    }

    #[test]
    fn lists_that_are_cut_short_are_refused() {
        for cut in 0..6 {
            assert!(OverwriteList::parse(&[0x01, 0, 0, 2, 0xaa, 0x55][..cut]).is_err(), "{cut}");
        }
    }
}
