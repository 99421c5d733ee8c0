//! Parameter data of other commands: capacities, UNMAP lists, LBA status, LUN lists
//! (SPC-4 §6.33; SBC-3 §5.5, §5.12, §5.28).
//!
//! The target emits what the initiator reads. Lists may be cut short by an allocation length.

use super::super::{Malformed, be16, be32, be64};
use super::Lun;

/// READ CAPACITY(10) data (SBC-3 §5.12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity10 {
    /// LBA of the last block; `u32::MAX` says to ask with READ CAPACITY(16).
    pub last_lba: u32,
    /// Bytes of a logical block.
    pub block_bytes: u32,
}

impl Capacity10 {
    /// Length of the data.
    pub const BYTES: usize = 8;

    /// Reads the data.
    pub fn parse(bytes: &[u8]) -> Result<Capacity10, Malformed> {
        let bytes: &[u8; Capacity10::BYTES] = bytes.first_chunk().ok_or(Malformed::number(
            "READ CAPACITY(10) data",
            "length",
            bytes.len() as u64,
            "must be 8 bytes (SBC-3 §5.12)",
        ))?;
        Ok(Capacity10 { last_lba: be32(bytes, 0), block_bytes: be32(bytes, 4) })
    }

    /// The data.
    pub fn emit(&self) -> [u8; Capacity10::BYTES] {
        let mut out = [0; Capacity10::BYTES];
        out[..4].copy_from_slice(&self.last_lba.to_be_bytes());
        out[4..].copy_from_slice(&self.block_bytes.to_be_bytes());
        out
    }
}

/// READ CAPACITY(16) data (SBC-3 §5.13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity16 {
    /// LBA of the last block.
    pub last_lba: u64,
    /// Bytes of a logical block.
    pub block_bytes: u32,
    /// PROT_EN: blocks carry protection information.
    pub protection: bool,
    /// Two to this power logical blocks are a physical block; four bits.
    pub physical_exponent: u8,
    /// LOWEST ALIGNED LOGICAL BLOCK ADDRESS, 14 bits.
    pub lowest_aligned_lba: u16,
    /// LBPME: thin or resource provisioned.
    pub provisioned: bool,
    /// LBPRZ: unmapped blocks read as zero.
    pub reads_zero: bool,
}

impl Capacity16 {
    /// Length of the data.
    pub const BYTES: usize = 32;

    /// Reads the data; everything behind the block length may be missing and is then zero.
    pub fn parse(bytes: &[u8]) -> Result<Capacity16, Malformed> {
        if bytes.len() < 12 {
            return Err(Malformed::number(
                "READ CAPACITY(16) data",
                "length",
                bytes.len() as u64,
                "must be at least 12 bytes (SBC-3 §5.13)",
            ));
        }
        let mut data = [0; Capacity16::BYTES];
        let present = bytes.len().min(data.len());
        data[..present].copy_from_slice(&bytes[..present]);
        Ok(Capacity16 {
            last_lba: be64(&data, 0),
            block_bytes: be32(&data, 8),
            protection: data[12] & 0x01 != 0,
            physical_exponent: data[13] & 0x0f,
            lowest_aligned_lba: be16(&data, 14) & LOWEST_ALIGNED_MASK,
            provisioned: data[14] & 0x80 != 0,
            reads_zero: data[14] & 0x40 != 0,
        })
    }

    /// The data.
    pub fn emit(&self) -> [u8; Capacity16::BYTES] {
        let mut out = [0; Capacity16::BYTES];
        out[..8].copy_from_slice(&self.last_lba.to_be_bytes());
        out[8..12].copy_from_slice(&self.block_bytes.to_be_bytes());
        out[12] = u8::from(self.protection);
        out[13] = self.physical_exponent & 0x0f;
        let aligned = self.lowest_aligned_lba & LOWEST_ALIGNED_MASK;
        out[14..16].copy_from_slice(&aligned.to_be_bytes());
        out[14] |= u8::from(self.provisioned) << 7 | u8::from(self.reads_zero) << 6;
        out
    }
}

const LOWEST_ALIGNED_MASK: u16 = 0x3fff;

/// Length of the header of an UNMAP parameter list.
pub const UNMAP_HEADER_BYTES: usize = 8;
/// Length of one block descriptor in it.
pub const UNMAP_DESCRIPTOR_BYTES: usize = 16;

/// One range to unmap (SBC-3 §5.28.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnmapDescriptor {
    /// First logical block.
    pub lba: u64,
    /// Number of logical blocks.
    pub blocks: u32,
}

/// The parameter list that unmaps one range.
pub fn emit_unmap(range: &UnmapDescriptor) -> [u8; UNMAP_HEADER_BYTES + UNMAP_DESCRIPTOR_BYTES] {
    let mut out = [0; UNMAP_HEADER_BYTES + UNMAP_DESCRIPTOR_BYTES];
    out[1] = (out.len() - 2) as u8;
    out[3] = UNMAP_DESCRIPTOR_BYTES as u8;
    out[8..16].copy_from_slice(&range.lba.to_be_bytes());
    out[16..20].copy_from_slice(&range.blocks.to_be_bytes());
    out
}

/// The ranges of an UNMAP parameter list. Incomplete descriptors at the end are ignored, as
/// SBC-3 §5.28.2 says; data that ends before its own lengths say is an error.
pub fn parse_unmap(
    bytes: &[u8],
) -> Result<impl Iterator<Item = UnmapDescriptor> + Clone, Malformed> {
    if bytes.len() < UNMAP_HEADER_BYTES {
        return Err(Malformed::number(
            "UNMAP parameter list",
            "length",
            bytes.len() as u64,
            "must be at least 8 bytes (SBC-3 §5.28.2)",
        ));
    }
    let descriptor_bytes = be16(bytes, 2);
    let end = UNMAP_HEADER_BYTES + usize::from(descriptor_bytes);
    let descriptors = bytes.get(UNMAP_HEADER_BYTES..end).ok_or(Malformed::number(
        "UNMAP parameter list",
        "UNMAP BLOCK DESCRIPTOR DATA LENGTH",
        descriptor_bytes,
        "must not exceed the parameter list (SBC-3 §5.28.2)",
    ))?;
    Ok(descriptors
        .chunks_exact(UNMAP_DESCRIPTOR_BYTES)
        .map(|bytes| UnmapDescriptor { lba: be64(bytes, 0), blocks: be32(bytes, 8) }))
}

/// Whether blocks have a place on the medium (SBC-3 §5.5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProvisioningStatus {
    /// They have, or nobody knows.
    Mapped,
    /// They have not, and read as zeroes if the unit says so.
    Deallocated,
}

/// Blocks that have the same state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LbaStatus {
    /// First logical block.
    pub lba: u64,
    /// Number of logical blocks.
    pub blocks: u32,
    /// The state.
    pub status: ProvisioningStatus,
}

/// GET LBA STATUS data (SBC-3 §5.5.2).
pub fn emit_lba_status(ranges: &[LbaStatus]) -> Vec<u8> {
    const DESCRIPTOR_BYTES: usize = 16;
    let length = u32::try_from(4 + DESCRIPTOR_BYTES * ranges.len()).expect("a bounded list");
    let mut out = Vec::with_capacity(8 + DESCRIPTOR_BYTES * ranges.len());
    out.extend(length.to_be_bytes());
    out.extend([0; 4]);
    for range in ranges {
        out.extend(range.lba.to_be_bytes());
        out.extend(range.blocks.to_be_bytes());
        let status = match range.status {
            ProvisioningStatus::Mapped => 0,
            ProvisioningStatus::Deallocated => 1,
        };
        out.extend([status, 0, 0, 0]);
    }
    out
}

/// REPORT LUNS data of these LUNs (SPC-4 §6.33.2).
pub fn emit_report_luns(luns: &[Lun]) -> Vec<u8> {
    let length = u32::try_from(8 * luns.len()).expect("LUNs are numbered with 16 bits");
    let mut out = Vec::with_capacity(8 + 8 * luns.len());
    out.extend(length.to_be_bytes());
    out.extend([0; 4]);
    for lun in luns {
        out.extend(lun.0);
    }
    out
}

/// The LUNs in REPORT LUNS data and the number that the target has, which is larger when the
/// data was cut at the allocation length.
pub fn parse_report_luns(bytes: &[u8]) -> Result<(Vec<Lun>, usize), Malformed> {
    if bytes.len() < 8 {
        return Err(Malformed::number(
            "REPORT LUNS data",
            "length",
            bytes.len() as u64,
            "must be at least 8 bytes (SPC-4 §6.33.2)",
        ));
    }
    let total = be32(bytes, 0) as usize / 8;
    let luns = bytes[8..].chunks_exact(8).take(total);
    let luns = luns.map(|bytes| Lun(be64(bytes, 0).to_be_bytes())).collect();
    Ok((luns, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capacities_both_ways() {
        let ten = Capacity10 { last_lba: 0x1234, block_bytes: 512 };
        assert_eq!(ten.emit(), [0, 0, 0x12, 0x34, 0, 0, 2, 0]);
        assert_eq!(Capacity10::parse(&ten.emit()), Ok(ten));
        assert!(Capacity10::parse(&[0; 7]).is_err());
        let sixteen = Capacity16 {
            last_lba: 0x0102_0304_0506_0708,
            block_bytes: 512,
            protection: false,
            physical_exponent: 3,
            lowest_aligned_lba: 7,
            provisioned: true,
            reads_zero: true,
        };
        let mut golden = [0; 32];
        golden[..16].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 2, 0, 0, 3, 0xc0, 7]);
        assert_eq!(sixteen.emit(), golden);
        assert_eq!(Capacity16::parse(&golden), Ok(sixteen));
        let short = Capacity16::parse(&golden[..12]).unwrap();
        assert_eq!((short.block_bytes, short.provisioned), (512, false));
        assert!(Capacity16::parse(&golden[..11]).is_err());
    }

    #[test]
    fn unmap_list_both_ways() {
        let range = UnmapDescriptor { lba: 0x1122, blocks: 0x3344 };
        let bytes = emit_unmap(&range);
        let golden =
            [0, 22, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x11, 0x22, 0, 0, 0x33, 0x44, 0, 0, 0, 0];
        assert_eq!(bytes, golden);
        assert_eq!(parse_unmap(&bytes).unwrap().collect::<Vec<_>>(), [range]);
        for cut in 0..bytes.len() {
            assert!(parse_unmap(&bytes[..cut]).is_err());
        }
        assert_eq!(parse_unmap(&[0, 6, 0, 0, 0, 0, 0, 0]).unwrap().count(), 0);
        assert_eq!(
            parse_unmap(&[0, 14, 0, 8, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1]).unwrap().count(),
            0
        );
    }

    #[test]
    fn lba_status_of_two_ranges() {
        let ranges = [
            LbaStatus { lba: 5, blocks: 3, status: ProvisioningStatus::Mapped },
            LbaStatus { lba: 8, blocks: 0x100, status: ProvisioningStatus::Deallocated },
        ];
        let mut golden = vec![0, 0, 0, 36, 0, 0, 0, 0];
        golden.extend([0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 3, 0, 0, 0, 0]);
        golden.extend([0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 1, 0, 1, 0, 0, 0]);
        assert_eq!(emit_lba_status(&ranges), golden);
        assert_eq!(emit_lba_status(&[]), [0, 0, 0, 4, 0, 0, 0, 0]);
    }

    #[test]
    fn report_luns_both_ways() {
        let luns = [Lun::from_number(0), Lun::from_number(300)];
        let bytes = emit_report_luns(&luns);
        let golden =
            [0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x41, 0x2c, 0, 0, 0, 0, 0, 0];
        assert_eq!(bytes, golden);
        assert_eq!(parse_report_luns(&bytes), Ok((luns.to_vec(), 2)));
        assert_eq!(parse_report_luns(&bytes[..20]), Ok((luns[..1].to_vec(), 2)));
        assert!(parse_report_luns(&bytes[..7]).is_err());
        let lying = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
        assert_eq!(parse_report_luns(&lying).unwrap().0, []);
    }
}
