//! Command descriptor blocks (SPC-4 §4.2, §6; SBC-3 §5).
//!
//! iSCSI carries every CDB in 16 bytes. Parsing never fails: an opcode or service action that is
//! not in the list is kept as a number, and whether a field's value is allowed is the business of
//! whoever executes the command, because the answer must point at the field.

use super::super::{be16, be24, be32, be64};

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

/// A command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cdb {
    /// TEST UNIT READY.
    TestUnitReady,
    /// REQUEST SENSE.
    RequestSense {
        /// DESC: descriptor format wanted.
        descriptor: bool,
        /// ALLOCATION LENGTH in bytes.
        allocation: u8,
    },
    /// INQUIRY.
    Inquiry {
        /// EVPD: the page code names a VPD page.
        evpd: bool,
        /// PAGE CODE; must be 0 without EVPD.
        page: u8,
        /// ALLOCATION LENGTH in bytes.
        allocation: u16,
    },
    /// MODE SENSE; `size` is six or ten.
    ModeSense {
        /// Which form.
        size: CdbSize,
        /// DBD: no block descriptors.
        no_block_descriptors: bool,
        /// LLBAA: long block descriptors allowed; only in the 10-byte form.
        long_lba: bool,
        /// PC, two bits: current, changeable, default, saved.
        page_control: u8,
        /// PAGE CODE, six bits.
        page: u8,
        /// SUBPAGE CODE.
        subpage: u8,
        /// ALLOCATION LENGTH in bytes.
        allocation: u16,
    },
    /// START STOP UNIT.
    StartStopUnit {
        /// IMMED.
        immediate: bool,
        /// POWER CONDITION, four bits.
        power_condition: u8,
        /// NO_FLUSH.
        no_flush: bool,
        /// LOEJ.
        load_eject: bool,
        /// START.
        start: bool,
    },
    /// READ CAPACITY(10).
    ReadCapacity10,
    /// READ CAPACITY(16).
    ReadCapacity16 {
        /// ALLOCATION LENGTH in bytes.
        allocation: u32,
    },
    /// READ in any size.
    Read {
        /// Which form.
        size: CdbSize,
        /// First logical block.
        lba: u64,
        /// TRANSFER LENGTH in blocks; the zero of the 6-byte form is 256 here.
        blocks: u32,
        /// Flags; all unset in the 6-byte form.
        flags: TransferFlags,
    },
    /// WRITE in any size.
    Write {
        /// Which form.
        size: CdbSize,
        /// First logical block.
        lba: u64,
        /// TRANSFER LENGTH in blocks; the zero of the 6-byte form is 256 here.
        blocks: u32,
        /// Flags; all unset in the 6-byte form.
        flags: TransferFlags,
    },
    /// VERIFY; there is no 6-byte form.
    Verify {
        /// Which form.
        size: CdbSize,
        /// First logical block.
        lba: u64,
        /// VERIFICATION LENGTH in blocks.
        blocks: u32,
        /// Flags; FUA does not exist here.
        flags: TransferFlags,
        /// BYTCHK, two bits: 0 medium only, 1 compare with data, 3 compare with one block.
        byte_check: u8,
    },
    /// SYNCHRONIZE CACHE; `size` is ten or sixteen.
    SynchronizeCache {
        /// Which form.
        size: CdbSize,
        /// First logical block.
        lba: u64,
        /// NUMBER OF BLOCKS; 0 is up to the end.
        blocks: u32,
        /// IMMED: answer before it is done.
        immediate: bool,
    },
    /// UNMAP.
    Unmap {
        /// ANCHOR.
        anchor: bool,
        /// PARAMETER LIST LENGTH in bytes.
        parameter_bytes: u16,
    },
    /// WRITE SAME; `size` is ten or sixteen.
    WriteSame {
        /// Which form.
        size: CdbSize,
        /// First logical block.
        lba: u64,
        /// NUMBER OF LOGICAL BLOCKS; 0 is up to the end.
        blocks: u32,
        /// Flags.
        flags: ProvisioningFlags,
    },
    /// REPORT LUNS.
    ReportLuns {
        /// SELECT REPORT.
        select: u8,
        /// ALLOCATION LENGTH in bytes.
        allocation: u32,
    },
    /// Anything else.
    Other {
        /// OPERATION CODE.
        opcode: u8,
        /// SERVICE ACTION, if opcodes of this number have one.
        service_action: u8,
    },
}

const TEST_UNIT_READY: u8 = 0x00;
const REQUEST_SENSE: u8 = 0x03;
const READ_6: u8 = 0x08;
const WRITE_6: u8 = 0x0a;
const INQUIRY: u8 = 0x12;
const MODE_SENSE_6: u8 = 0x1a;
const START_STOP_UNIT: u8 = 0x1b;
const READ_CAPACITY_10: u8 = 0x25;
const READ_10: u8 = 0x28;
const WRITE_10: u8 = 0x2a;
const VERIFY_10: u8 = 0x2f;
const SYNCHRONIZE_CACHE_10: u8 = 0x35;
const WRITE_SAME_10: u8 = 0x41;
const UNMAP: u8 = 0x42;
const MODE_SENSE_10: u8 = 0x5a;
const READ_16: u8 = 0x88;
const WRITE_16: u8 = 0x8a;
const VERIFY_16: u8 = 0x8f;
const SYNCHRONIZE_CACHE_16: u8 = 0x91;
const WRITE_SAME_16: u8 = 0x93;
const SERVICE_ACTION_IN_16: u8 = 0x9e;
const REPORT_LUNS: u8 = 0xa0;
const READ_12: u8 = 0xa8;
const WRITE_12: u8 = 0xaa;
const VERIFY_12: u8 = 0xaf;

/// Service action of SERVICE ACTION IN(16).
const READ_CAPACITY_16: u8 = 0x10;

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
    fn parse_range(self, cdb: &[u8; 16]) -> (u64, u32) {
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
    fn emit_range(self, cdb: &mut [u8; 16], lba: u64, blocks: u32) {
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
    fn opcode(self, six: u8, ten: u8, twelve: u8, sixteen: u8) -> u8 {
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
    fn parse(byte: u8) -> TransferFlags {
        TransferFlags { protect: byte >> 5, dpo: bit(byte, 4), fua: bit(byte, 3) }
    }

    fn emit(self) -> u8 {
        self.protect << 5 | u8::from(self.dpo) << 4 | u8::from(self.fua) << 3
    }
}

impl ProvisioningFlags {
    fn parse(byte: u8, size: CdbSize) -> ProvisioningFlags {
        ProvisioningFlags {
            protect: byte >> 5,
            anchor: bit(byte, 4),
            unmap: bit(byte, 3),
            no_data: size == CdbSize::Sixteen && bit(byte, 0),
            obsolete: byte & 0x06 != 0,
        }
    }

    fn emit(self) -> u8 {
        self.protect << 5
            | u8::from(self.anchor) << 4
            | u8::from(self.unmap) << 3
            | u8::from(self.no_data)
    }
}

impl Cdb {
    /// What the sixteen bytes ask for.
    pub fn parse(cdb: &[u8; 16]) -> Cdb {
        let opcode = cdb[0];
        match opcode {
            TEST_UNIT_READY => Cdb::TestUnitReady,
            REQUEST_SENSE => Cdb::RequestSense { descriptor: bit(cdb[1], 0), allocation: cdb[4] },
            INQUIRY => {
                Cdb::Inquiry { evpd: bit(cdb[1], 0), page: cdb[2], allocation: be16(cdb, 3) }
            }
            START_STOP_UNIT => Cdb::StartStopUnit {
                immediate: bit(cdb[1], 0),
                power_condition: cdb[4] >> 4,
                no_flush: bit(cdb[4], 2),
                load_eject: bit(cdb[4], 1),
                start: bit(cdb[4], 0),
            },
            MODE_SENSE_6 => parse_mode_sense(cdb, CdbSize::Six),
            MODE_SENSE_10 => parse_mode_sense(cdb, CdbSize::Ten),
            READ_CAPACITY_10 => Cdb::ReadCapacity10,
            SERVICE_ACTION_IN_16 if cdb[1] & 0x1f == READ_CAPACITY_16 => {
                Cdb::ReadCapacity16 { allocation: be32(cdb, 10) }
            }
            UNMAP => Cdb::Unmap { anchor: bit(cdb[1], 0), parameter_bytes: be16(cdb, 7) },
            REPORT_LUNS => Cdb::ReportLuns { select: cdb[2], allocation: be32(cdb, 6) },
            READ_6 => parse_read(cdb, CdbSize::Six),
            READ_10 => parse_read(cdb, CdbSize::Ten),
            READ_12 => parse_read(cdb, CdbSize::Twelve),
            READ_16 => parse_read(cdb, CdbSize::Sixteen),
            WRITE_6 => parse_write(cdb, CdbSize::Six),
            WRITE_10 => parse_write(cdb, CdbSize::Ten),
            WRITE_12 => parse_write(cdb, CdbSize::Twelve),
            WRITE_16 => parse_write(cdb, CdbSize::Sixteen),
            VERIFY_10 => parse_verify(cdb, CdbSize::Ten),
            VERIFY_12 => parse_verify(cdb, CdbSize::Twelve),
            VERIFY_16 => parse_verify(cdb, CdbSize::Sixteen),
            SYNCHRONIZE_CACHE_10 => parse_synchronize_cache(cdb, CdbSize::Ten),
            SYNCHRONIZE_CACHE_16 => parse_synchronize_cache(cdb, CdbSize::Sixteen),
            WRITE_SAME_10 => parse_write_same(cdb, CdbSize::Ten),
            WRITE_SAME_16 => parse_write_same(cdb, CdbSize::Sixteen),
            _ => Cdb::Other { opcode, service_action: cdb[1] & 0x1f },
        }
    }

    /// The sixteen bytes; what a shorter CDB does not need is zero.
    pub fn emit(&self) -> [u8; 16] {
        let mut cdb = [0; 16];
        match *self {
            Cdb::TestUnitReady => cdb[0] = TEST_UNIT_READY,
            Cdb::RequestSense { descriptor, allocation } => {
                cdb[0] = REQUEST_SENSE;
                cdb[1] = u8::from(descriptor);
                cdb[4] = allocation;
            }
            Cdb::Inquiry { evpd, page, allocation } => {
                cdb[0] = INQUIRY;
                cdb[1] = u8::from(evpd);
                cdb[2] = page;
                cdb[3..5].copy_from_slice(&allocation.to_be_bytes());
            }
            Cdb::StartStopUnit { immediate, power_condition, no_flush, load_eject, start } => {
                cdb[0] = START_STOP_UNIT;
                cdb[1] = u8::from(immediate);
                cdb[4] = power_condition << 4
                    | u8::from(no_flush) << 2
                    | u8::from(load_eject) << 1
                    | u8::from(start);
            }
            Cdb::ModeSense { .. } => self.emit_mode_sense(&mut cdb),
            Cdb::ReadCapacity10 => cdb[0] = READ_CAPACITY_10,
            Cdb::ReadCapacity16 { allocation } => {
                cdb[0] = SERVICE_ACTION_IN_16;
                cdb[1] = READ_CAPACITY_16;
                cdb[10..14].copy_from_slice(&allocation.to_be_bytes());
            }
            Cdb::Unmap { anchor, parameter_bytes } => {
                cdb[0] = UNMAP;
                cdb[1] = u8::from(anchor);
                cdb[7..9].copy_from_slice(&parameter_bytes.to_be_bytes());
            }
            Cdb::ReportLuns { select, allocation } => {
                cdb[0] = REPORT_LUNS;
                cdb[2] = select;
                cdb[6..10].copy_from_slice(&allocation.to_be_bytes());
            }
            Cdb::Other { opcode, service_action } => {
                cdb[0] = opcode;
                cdb[1] = service_action;
            }
            Cdb::Read { .. }
            | Cdb::Write { .. }
            | Cdb::Verify { .. }
            | Cdb::SynchronizeCache { .. }
            | Cdb::WriteSame { .. } => self.emit_ranged(&mut cdb),
        }
        cdb
    }

    fn emit_mode_sense(&self, cdb: &mut [u8; 16]) {
        let Cdb::ModeSense {
            size,
            no_block_descriptors,
            long_lba,
            page_control,
            page,
            subpage,
            allocation,
        } = *self
        else {
            return;
        };
        cdb[1] = u8::from(no_block_descriptors) << 3;
        cdb[2] = page_control << 6 | page & 0x3f;
        cdb[3] = subpage;
        if size == CdbSize::Six {
            debug_assert!(allocation <= 255);
            cdb[0] = MODE_SENSE_6;
            cdb[4] = allocation as u8;
        } else {
            cdb[0] = MODE_SENSE_10;
            cdb[1] |= u8::from(long_lba) << 4;
            cdb[7..9].copy_from_slice(&allocation.to_be_bytes());
        }
    }

    /// The commands that name a range of blocks.
    fn emit_ranged(&self, cdb: &mut [u8; 16]) {
        let (opcode, size, flags, lba, blocks) = match *self {
            Cdb::Read { size, lba, blocks, flags } => {
                (size.opcode(READ_6, READ_10, READ_12, READ_16), size, flags.emit(), lba, blocks)
            }
            Cdb::Write { size, lba, blocks, flags } => {
                let opcode = size.opcode(WRITE_6, WRITE_10, WRITE_12, WRITE_16);
                (opcode, size, flags.emit(), lba, blocks)
            }
            Cdb::Verify { size, lba, blocks, flags, byte_check } => {
                let opcode = size.opcode(VERIFY_10, VERIFY_10, VERIFY_12, VERIFY_16);
                let flags = TransferFlags { fua: false, ..flags }.emit();
                (opcode, size.max(CdbSize::Ten), flags | (byte_check & 0x03) << 1, lba, blocks)
            }
            Cdb::SynchronizeCache { size, lba, blocks, immediate } => {
                let (opcode, size) =
                    ten_or_sixteen(size, SYNCHRONIZE_CACHE_10, SYNCHRONIZE_CACHE_16);
                (opcode, size, u8::from(immediate) << 1, lba, blocks)
            }
            Cdb::WriteSame { size, lba, blocks, flags } => {
                let (opcode, size) = ten_or_sixteen(size, WRITE_SAME_10, WRITE_SAME_16);
                (opcode, size, flags.emit(), lba, blocks)
            }
            _ => return,
        };
        cdb[0] = opcode;
        // In the 6-byte forms the flags' place belongs to the LBA.
        if size != CdbSize::Six {
            cdb[1] = flags;
        }
        size.emit_range(cdb, lba, blocks);
    }
}

/// For families without 12-byte form the next longer one is taken.
fn ten_or_sixteen(size: CdbSize, ten: u8, sixteen: u8) -> (u8, CdbSize) {
    if size <= CdbSize::Ten { (ten, CdbSize::Ten) } else { (sixteen, CdbSize::Sixteen) }
}

fn bit(byte: u8, number: u8) -> bool {
    byte >> number & 1 != 0
}

fn parse_mode_sense(cdb: &[u8; 16], size: CdbSize) -> Cdb {
    let six = size == CdbSize::Six;
    Cdb::ModeSense {
        size,
        no_block_descriptors: bit(cdb[1], 3),
        long_lba: !six && bit(cdb[1], 4),
        page_control: cdb[2] >> 6,
        page: cdb[2] & 0x3f,
        subpage: cdb[3],
        allocation: if six { u16::from(cdb[4]) } else { be16(cdb, 7) },
    }
}

/// Flags of READ and WRITE; the 6-byte forms have none.
fn transfer_flags(cdb: &[u8; 16], size: CdbSize) -> TransferFlags {
    if size == CdbSize::Six { TransferFlags::default() } else { TransferFlags::parse(cdb[1]) }
}

fn parse_read(cdb: &[u8; 16], size: CdbSize) -> Cdb {
    let (lba, blocks) = size.parse_range(cdb);
    Cdb::Read { size, lba, blocks, flags: transfer_flags(cdb, size) }
}

fn parse_write(cdb: &[u8; 16], size: CdbSize) -> Cdb {
    let (lba, blocks) = size.parse_range(cdb);
    Cdb::Write { size, lba, blocks, flags: transfer_flags(cdb, size) }
}

fn parse_verify(cdb: &[u8; 16], size: CdbSize) -> Cdb {
    let (lba, blocks) = size.parse_range(cdb);
    let flags = TransferFlags { fua: false, ..TransferFlags::parse(cdb[1]) };
    Cdb::Verify { size, lba, blocks, flags, byte_check: cdb[1] >> 1 & 0x03 }
}

fn parse_synchronize_cache(cdb: &[u8; 16], size: CdbSize) -> Cdb {
    let (lba, blocks) = size.parse_range(cdb);
    Cdb::SynchronizeCache { size, lba, blocks, immediate: bit(cdb[1], 1) }
}

fn parse_write_same(cdb: &[u8; 16], size: CdbSize) -> Cdb {
    let (lba, blocks) = size.parse_range(cdb);
    Cdb::WriteSame { size, lba, blocks, flags: ProvisioningFlags::parse(cdb[1], size) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pads a short CDB as iSCSI does.
    fn padded(bytes: &[u8]) -> [u8; 16] {
        let mut cdb = [0; 16];
        cdb[..bytes.len()].copy_from_slice(bytes);
        cdb
    }

    fn check(bytes: &[u8], cdb: Cdb) {
        assert_eq!(Cdb::parse(&padded(bytes)), cdb);
        assert_eq!(cdb.emit(), padded(bytes));
    }

    #[test]
    fn small_commands() {
        check(&[0, 0, 0, 0, 0, 0], Cdb::TestUnitReady);
        check(&[0x03, 1, 0, 0, 252, 0], Cdb::RequestSense { descriptor: true, allocation: 252 });
        check(
            &[0x12, 1, 0x83, 0x01, 0x04, 0],
            Cdb::Inquiry { evpd: true, page: 0x83, allocation: 260 },
        );
        check(
            &[0x1b, 1, 0, 0, 0x37, 0],
            Cdb::StartStopUnit {
                immediate: true,
                power_condition: 3,
                no_flush: true,
                load_eject: true,
                start: true,
            },
        );
        check(&[0x25], Cdb::ReadCapacity10);
        check(
            &[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0],
            Cdb::ReadCapacity16 { allocation: 32 },
        );
        check(
            &[0xa0, 0, 2, 0, 0, 0, 0, 0, 0x10, 0x00, 0, 0],
            Cdb::ReportLuns { select: 2, allocation: 4096 },
        );
        check(
            &[0x42, 1, 0, 0, 0, 0, 0, 0, 24, 0],
            Cdb::Unmap { anchor: true, parameter_bytes: 24 },
        );
    }

    #[test]
    fn mode_sense_both_sizes() {
        let six = Cdb::ModeSense {
            size: CdbSize::Six,
            no_block_descriptors: true,
            long_lba: false,
            page_control: 1,
            page: 0x08,
            subpage: 0,
            allocation: 192,
        };
        check(&[0x1a, 0x08, 0x48, 0, 192, 0], six);
        let ten = Cdb::ModeSense {
            size: CdbSize::Ten,
            no_block_descriptors: false,
            long_lba: true,
            page_control: 0,
            page: 0x3f,
            subpage: 0xff,
            allocation: 0x1234,
        };
        check(&[0x5a, 0x10, 0x3f, 0xff, 0, 0, 0, 0x12, 0x34, 0], ten);
    }

    #[test]
    fn reads_and_writes_of_each_size() {
        let none = TransferFlags::default();
        let flags = TransferFlags { protect: 1, dpo: true, fua: true };
        let (six, ten) = (CdbSize::Six, CdbSize::Ten);
        let (twelve, sixteen) = (CdbSize::Twelve, CdbSize::Sixteen);
        check(
            &[0x08, 0x1f, 0xff, 0xfe, 0, 0],
            Cdb::Read { size: six, lba: 0x1f_fffe, blocks: 256, flags: none },
        );
        check(&[0x0a, 0, 0, 9, 7, 0], Cdb::Write { size: six, lba: 9, blocks: 7, flags: none });
        check(
            &[0x28, 0x38, 0x12, 0x34, 0x56, 0x78, 0, 0xab, 0xcd, 0],
            Cdb::Read { size: ten, lba: 0x1234_5678, blocks: 0xabcd, flags },
        );
        check(
            &[0x2a, 0x08, 0, 0, 0, 1, 0, 0, 8, 0],
            Cdb::Write { size: ten, lba: 1, blocks: 8, flags: TransferFlags { fua: true, ..none } },
        );
        check(
            &[0xa8, 0, 0, 0, 0, 2, 0, 1, 0, 0, 0, 0],
            Cdb::Read { size: twelve, lba: 2, blocks: 0x1_0000, flags: none },
        );
        check(
            &[0xaa, 0, 0, 0, 0, 2, 0, 1, 0, 0, 0, 0],
            Cdb::Write { size: twelve, lba: 2, blocks: 0x1_0000, flags: none },
        );
        check(
            &[0x88, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 1, 0, 0],
            Cdb::Read { size: sixteen, lba: 0x0102_0304_0506_0708, blocks: 1, flags: none },
        );
        check(
            &[0x8a, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0xff, 0xff, 0xff, 0xff, 0, 0],
            Cdb::Write { size: sixteen, lba: 0x0102_0304_0506_0708, blocks: u32::MAX, flags: none },
        );
    }

    #[test]
    fn verify_synchronize_and_write_same() {
        let (ten, sixteen) = (CdbSize::Ten, CdbSize::Sixteen);
        let flags = TransferFlags { protect: 0, dpo: true, fua: false };
        check(
            &[0x2f, 0x12, 0, 0, 0, 5, 0, 0, 1, 0],
            Cdb::Verify { size: ten, lba: 5, blocks: 1, flags, byte_check: 1 },
        );
        check(
            &[0x8f, 0x06, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0],
            Cdb::Verify {
                size: sixteen,
                lba: 5,
                blocks: 1,
                flags: TransferFlags::default(),
                byte_check: 3,
            },
        );
        check(
            &[0x35, 0x02, 0, 0, 0, 5, 0, 0, 1, 0],
            Cdb::SynchronizeCache { size: ten, lba: 5, blocks: 1, immediate: true },
        );
        check(
            &[0x91, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            Cdb::SynchronizeCache { size: sixteen, lba: 0, blocks: 0, immediate: false },
        );
        let unmap = ProvisioningFlags { unmap: true, ..ProvisioningFlags::default() };
        check(
            &[0x41, 0x08, 0, 0, 0, 5, 0, 0, 1, 0],
            Cdb::WriteSame { size: ten, lba: 5, blocks: 1, flags: unmap },
        );
        check(
            &[0x93, 0x09, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0],
            Cdb::WriteSame {
                size: sixteen,
                lba: 5,
                blocks: 1,
                flags: ProvisioningFlags { no_data: true, ..unmap },
            },
        );
    }

    #[test]
    fn unknown_commands_keep_their_number() {
        check(&[0xa3, 0x0c], Cdb::Other { opcode: 0xa3, service_action: 0x0c });
        check(&[0x9e, 0x12], Cdb::Other { opcode: 0x9e, service_action: 0x12 });
    }

    #[test]
    fn whatever_parses_emits_to_something_that_parses_the_same() {
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        for round in 0..100_000_u32 {
            let mut cdb = [0; 16];
            for byte in &mut cdb {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                *byte = (state >> 32) as u8;
            }
            cdb[0] = round as u8;
            let mut parsed = Cdb::parse(&cdb);
            // Bits that newer standards took away are noticed and never sent.
            if let Cdb::WriteSame { flags, .. } = &mut parsed {
                flags.obsolete = false;
            }
            assert_eq!(Cdb::parse(&parsed.emit()), parsed);
        }
    }

    #[test]
    fn smallest_form_that_reaches() {
        assert_eq!(CdbSize::reaching(0xffff_ffff, 0xffff), CdbSize::Ten);
        assert_eq!(CdbSize::reaching(0, 0x1_0000), CdbSize::Twelve);
        assert_eq!(CdbSize::reaching(0x1_0000_0000, 1), CdbSize::Sixteen);
    }
}
