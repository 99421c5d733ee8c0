//! Fields that commands of one family share: which form, which blocks, which flags.

use super::super::super::{be16, be24, be32, be64};
use super::bit;

/// Which of the lengths of a command family is meant; it decides how far LBA and length reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // Number of bytes.
pub enum CdbSize {
    Six,
    Ten,
    Twelve,
    Sixteen,
}

/// Flags of READ, WRITE and VERIFY.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct TransferFlags {
    /// RDPROTECT, WRPROTECT or VRPROTECT, three bits.
    pub protect: u8,
    /// Disable page out: a hint.
    pub dpo: bool,
    /// Force unit access.
    pub fua: bool,
}

/// Flags of WRITE SAME.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ProvisioningFlags {
    /// WRPROTECT, three bits.
    pub protect: u8,
    /// ANCHOR.
    pub anchor: bool,
    /// UNMAP: the blocks may be unmapped if they then read as the data given.
    pub unmap: bool,
    /// NDOB: there is no data; zeroes are meant. Only in the 16-byte form.
    pub no_data: bool,
    /// PBDATA or LBDATA, which newer standards no longer have.
    pub obsolete: bool,
}

impl CdbSize {
    /// The size that an opcode's group code says (SPC-4 §4.2.5.1), for groups that have one.
    pub fn of_opcode(opcode: u8) -> Option<CdbSize> {
        match opcode >> 5 {
            0 => Some(CdbSize::Six),
            1 | 2 => Some(CdbSize::Ten),
            4 => Some(CdbSize::Sixteen),
            5 => Some(CdbSize::Twelve),
            _ => None,
        }
    }

    /// Offset of the CONTROL byte, the last one.
    pub fn control_byte(self) -> usize {
        match self {
            CdbSize::Six => 5,
            CdbSize::Ten => 9,
            CdbSize::Twelve => 11,
            CdbSize::Sixteen => 15,
        }
    }

    /// Offset of the field that counts blocks.
    pub fn blocks_byte(self) -> usize {
        match self {
            CdbSize::Six => 4,
            CdbSize::Ten => 7,
            CdbSize::Twelve => 6,
            CdbSize::Sixteen => 10,
        }
    }

    /// The smallest form, from ten bytes up, that reaches these blocks.
    pub fn reaching(lba: u64, blocks: u32) -> CdbSize {
        if u32::try_from(lba).is_err() {
            CdbSize::Sixteen
        } else if u16::try_from(blocks).is_err() {
            CdbSize::Twelve
        } else {
            CdbSize::Ten
        }
    }

    /// LBA and number of blocks, at their places for this size.
    pub(super) fn parse_range(self, cdb: &[u8; 16]) -> (u64, u32) {
        match self {
            CdbSize::Six => {
                let blocks = if cdb[4] == 0 { 256 } else { u32::from(cdb[4]) };
                (u64::from(be24(cdb, 1) & SIX_LBA_MASK), blocks)
            }
            CdbSize::Ten => (u64::from(be32(cdb, 2)), u32::from(be16(cdb, 7))),
            CdbSize::Twelve => (u64::from(be32(cdb, 2)), be32(cdb, 6)),
            CdbSize::Sixteen => (be64(cdb, 2), be32(cdb, 10)),
        }
    }

    /// Puts them there. A value that the size does not reach loses its upper bits.
    pub(super) fn emit_range(self, cdb: &mut [u8; 16], lba: u64, blocks: u32) {
        let lba_bytes = lba.to_be_bytes();
        let block_bytes = blocks.to_be_bytes();
        match self {
            CdbSize::Six => {
                debug_assert!(lba <= u64::from(SIX_LBA_MASK) && (1..=256).contains(&blocks));
                cdb[1] |= lba_bytes[5] & 0x1f;
                cdb[2..4].copy_from_slice(&lba_bytes[6..]);
                cdb[4] = block_bytes[3];
            }
            CdbSize::Ten => {
                debug_assert!(u32::try_from(lba).is_ok() && u16::try_from(blocks).is_ok());
                cdb[2..6].copy_from_slice(&lba_bytes[4..]);
                cdb[7..9].copy_from_slice(&block_bytes[2..]);
            }
            CdbSize::Twelve => {
                debug_assert!(u32::try_from(lba).is_ok());
                cdb[2..6].copy_from_slice(&lba_bytes[4..]);
                cdb[6..10].copy_from_slice(&block_bytes);
            }
            CdbSize::Sixteen => {
                cdb[2..10].copy_from_slice(&lba_bytes);
                cdb[10..14].copy_from_slice(&block_bytes);
            }
        }
    }

    /// The opcode among those of a family.
    pub(super) fn opcode(self, six: u8, ten: u8, twelve: u8, sixteen: u8) -> u8 {
        match self {
            CdbSize::Six => six,
            CdbSize::Ten => ten,
            CdbSize::Twelve => twelve,
            CdbSize::Sixteen => sixteen,
        }
    }
}

/// The 6-byte forms have 21 bits of LBA.
const SIX_LBA_MASK: u32 = 0x1f_ffff;

impl TransferFlags {
    pub(super) fn parse(byte: u8) -> TransferFlags {
        TransferFlags { protect: byte >> 5, dpo: bit(byte, 4), fua: bit(byte, 3) }
    }

    pub(super) fn emit(self) -> u8 {
        self.protect << 5 | u8::from(self.dpo) << 4 | u8::from(self.fua) << 3
    }
}

impl ProvisioningFlags {
    pub(super) fn parse(byte: u8, size: CdbSize) -> ProvisioningFlags {
        ProvisioningFlags {
            protect: byte >> 5,
            anchor: bit(byte, 4),
            unmap: bit(byte, 3),
            no_data: size == CdbSize::Sixteen && bit(byte, 0),
            obsolete: byte & 0x06 != 0,
        }
    }

    pub(super) fn emit(self) -> u8 {
        self.protect << 5
            | u8::from(self.anchor) << 4
            | u8::from(self.unmap) << 3
            | u8::from(self.no_data)
    }
}
