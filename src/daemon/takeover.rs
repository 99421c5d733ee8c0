//! What a server must know to take over the device of one that has died: one line of text, which
//! the supervisor keeps without a look at it.

use std::fmt::{self, Write as _};

use crate::proto::disk::{Geometry, UnmapLimits};
use crate::proto::{Disk, Identity};

/// A device and the disk behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Takeover {
    /// Name of the block device: `ublkb0`, `nbd0`.
    pub device: String,
    /// What it was made for; only this disk will do.
    pub disk: Disk,
}

impl Takeover {
    /// Reads what [`Takeover`] displays; `None` if it is something else.
    pub fn parse(text: &str) -> Option<Takeover> {
        let mut words = text.splitn(16, ' ');
        let device = words.next()?.to_owned();
        let mut number = || words.next()?.parse::<u64>().ok();
        let mut small = || u32::try_from(number()?).ok();
        let (logical_block_bytes, physical_block_bytes) = (small()?, small()?);
        let (granularity_bytes, transfer_bytes_max) = (small()?, small()?);
        let (blocks, write_zeroes_bytes_max) = (number()?, number()?);
        let unmap = match (number()?, u32::try_from(number()?).ok()?) {
            (0, _) => None,
            (bytes_max, granularity_bytes) => Some(UnmapLimits { bytes_max, granularity_bytes }),
        };
        let mut flag = || Some(number()? != 0);
        let (read_only, write_cache, fua, rotational) = (flag()?, flag()?, flag()?, flag()?);
        let designator = match words.next()? {
            "-" => None,
            kind => Some(kind.parse().ok()?),
        };
        let value = from_hexadecimal(words.next()?)?;
        let product = words.next()?.into();
        let geometry = Geometry {
            logical_block_bytes,
            physical_block_bytes,
            granularity_bytes,
            blocks,
            read_only,
            write_cache,
            fua,
            rotational,
            transfer_bytes_max,
            unmap,
            write_zeroes_bytes_max,
        };
        let identity = Identity { designator, value };
        Some(Takeover { device, disk: Disk { geometry, identity, product } })
    }
}

impl fmt::Display for Takeover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Takeover { device, disk: Disk { geometry, identity, product } } = self;
        let Geometry {
            logical_block_bytes,
            physical_block_bytes,
            granularity_bytes,
            blocks,
            read_only,
            write_cache,
            fua,
            rotational,
            transfer_bytes_max,
            unmap,
            write_zeroes_bytes_max,
        } = geometry;
        let (unmap_bytes_max, unmap_granularity) =
            unmap.map_or((0, 0), |unmap| (unmap.bytes_max, unmap.granularity_bytes));
        write!(f, "{device} {logical_block_bytes} {physical_block_bytes} {granularity_bytes} ")?;
        write!(f, "{transfer_bytes_max} {blocks} {write_zeroes_bytes_max} ")?;
        write!(f, "{unmap_bytes_max} {unmap_granularity}")?;
        for flag in [read_only, write_cache, fua, rotational] {
            write!(f, " {}", u8::from(*flag))?;
        }
        match identity.designator {
            Some(kind) => write!(f, " {kind} ")?,
            None => f.write_str(" - ")?,
        }
        // An empty value leaves nothing between two blanks, which is a word all the same.
        for byte in &identity.value {
            write!(f, "{byte:02x}")?;
        }
        f.write_char(' ')?;
        f.write_str(product)
    }
}

fn from_hexadecimal(text: &str) -> Option<Box<[u8]>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    let pairs = (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16));
    pairs.collect::<Result<_, _>>().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn takeover() -> Takeover {
        let geometry = Geometry {
            logical_block_bytes: 512,
            physical_block_bytes: 4096,
            granularity_bytes: 8192,
            blocks: 1 << 40,
            read_only: false,
            write_cache: true,
            fua: false,
            rotational: true,
            transfer_bytes_max: 1 << 20,
            unmap: Some(UnmapLimits { bytes_max: 1 << 30, granularity_bytes: 4096 }),
            write_zeroes_bytes_max: 64 << 20,
        };
        let identity = Identity { designator: Some(3), value: [0x60, 0, 0xff].into() };
        Takeover {
            device: "ublkb7".into(),
            disk: Disk { geometry, identity, product: "LUNBOOT disk of  three words".into() },
        }
    }

    #[test]
    fn what_is_kept_comes_back() {
        let mut takeover = takeover();
        assert_eq!(Takeover::parse(&takeover.to_string()), Some(takeover.clone()));
        takeover.disk.geometry.unmap = None;
        takeover.disk.identity = Identity::default();
        takeover.disk.product = "".into();
        assert_eq!(Takeover::parse(&takeover.to_string()), Some(takeover));
    }

    #[test]
    fn a_cut_or_foreign_text_is_none() {
        let text = takeover().to_string();
        let product = text.find("LUNBOOT").unwrap();
        for length in 0..product - 1 {
            assert_eq!(Takeover::parse(&text[..length]), None, "{}", &text[..length]);
        }
        assert_eq!(Takeover::parse("ublkb0 nonsense"), None);
    }
}
