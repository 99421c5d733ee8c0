//! Command descriptor blocks (SPC-4 §4.2, §6; SBC-3 §5).
//!
//! iSCSI carries every CDB in 16 bytes. Parsing never fails: an opcode or service action that is
//! not in the list is kept as a number, and whether a field's value is allowed is the business of
//! whoever executes the command, because the answer must point at the field.

mod emit;
mod fields;
mod parse;

pub use fields::{CdbSize, ProvisioningFlags, TransferFlags};

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
    /// MODE SELECT; `size` is six or ten.
    ModeSelect {
        /// Which form.
        size: CdbSize,
        /// PF: the data consists of mode pages.
        page_format: bool,
        /// SP: save the pages.
        save: bool,
        /// PARAMETER LIST LENGTH in bytes.
        parameter_bytes: u16,
    },
    /// SEND DIAGNOSTIC.
    SendDiagnostic {
        /// SELF-TEST CODE, three bits.
        self_test_code: u8,
        /// PF: the data consists of diagnostic pages.
        page_format: bool,
        /// SELFTEST: the default self-test.
        self_test: bool,
        /// PARAMETER LIST LENGTH in bytes.
        parameter_bytes: u16,
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
    /// WRITE AND VERIFY; there is no 6-byte form.
    WriteAndVerify {
        /// Which form.
        size: CdbSize,
        /// First logical block.
        lba: u64,
        /// TRANSFER LENGTH in blocks.
        blocks: u32,
        /// Flags; FUA does not exist here.
        flags: TransferFlags,
        /// BYTCHK, two bits: 0 medium only, 1 compare with the data.
        byte_check: u8,
    },
    /// COMPARE AND WRITE.
    CompareAndWrite {
        /// First logical block.
        lba: u64,
        /// NUMBER OF LOGICAL BLOCKS.
        blocks: u8,
        /// Flags.
        flags: TransferFlags,
    },
    /// WRITE ATOMIC(16).
    WriteAtomic {
        /// First logical block.
        lba: u64,
        /// ATOMIC BOUNDARY in blocks; 0 for none.
        boundary: u16,
        /// TRANSFER LENGTH in blocks.
        blocks: u16,
        /// Flags.
        flags: TransferFlags,
    },
    /// ORWRITE(16).
    OrWrite {
        /// First logical block.
        lba: u64,
        /// TRANSFER LENGTH in blocks.
        blocks: u32,
        /// Flags.
        flags: TransferFlags,
    },
    /// PRE-FETCH; `size` is ten or sixteen.
    PreFetch {
        /// Which form.
        size: CdbSize,
        /// First logical block.
        lba: u64,
        /// PREFETCH LENGTH in blocks; 0 is up to the end.
        blocks: u32,
        /// IMMED: answer before it is done.
        immediate: bool,
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
    /// SANITIZE.
    Sanitize {
        /// SERVICE ACTION, five bits.
        action: u8,
        /// IMMED: answer before it is done.
        immediate: bool,
        /// AUSE: a failure may be left with EXIT FAILURE MODE.
        unrestricted: bool,
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
    /// PREVENT ALLOW MEDIUM REMOVAL.
    PreventAllowMediumRemoval {
        /// PREVENT, two bits, of which the upper one is for changers.
        prevent: u8,
    },
    /// RESERVE; `size` is six or ten.
    Reserve {
        /// Which form.
        size: CdbSize,
        /// 3RDPTY: for somebody else.
        third_party: bool,
        /// EXTENT: only some of the blocks, which newer standards no longer have.
        extent: bool,
    },
    /// RELEASE; `size` is six or ten.
    Release {
        /// Which form.
        size: CdbSize,
        /// 3RDPTY: of somebody else.
        third_party: bool,
        /// EXTENT: only some of the blocks, which newer standards no longer have.
        extent: bool,
    },
    /// PERSISTENT RESERVE IN.
    PersistentReserveIn {
        /// SERVICE ACTION, five bits.
        action: u8,
        /// ALLOCATION LENGTH in bytes.
        allocation: u16,
    },
    /// PERSISTENT RESERVE OUT.
    PersistentReserveOut {
        /// SERVICE ACTION, five bits.
        action: u8,
        /// SCOPE, four bits.
        scope: u8,
        /// TYPE, four bits.
        kind: u8,
        /// PARAMETER LIST LENGTH in bytes.
        parameter_bytes: u32,
    },
    /// REPORT LUNS.
    ReportLuns {
        /// SELECT REPORT.
        select: u8,
        /// ALLOCATION LENGTH in bytes.
        allocation: u32,
    },
    /// GET LBA STATUS.
    GetLbaStatus {
        /// First logical block.
        lba: u64,
        /// ALLOCATION LENGTH in bytes.
        allocation: u32,
    },
    /// READ DEFECT DATA; `size` is ten or twelve.
    ReadDefectData {
        /// Which form.
        size: CdbSize,
        /// REQ_PLIST: the defects of the factory are wanted.
        primary: bool,
        /// REQ_GLIST: those found since then are wanted.
        grown: bool,
        /// DEFECT LIST FORMAT, three bits.
        format: u8,
        /// ADDRESS DESCRIPTOR INDEX; only in the 12-byte form.
        index: u32,
        /// ALLOCATION LENGTH in bytes.
        allocation: u32,
    },
    /// REPORT SUPPORTED OPERATION CODES.
    ReportSupportedOperationCodes {
        /// RCTD: with timeouts.
        timeouts: bool,
        /// REPORTING OPTIONS, three bits.
        options: u8,
        /// REQUESTED OPERATION CODE.
        opcode: u8,
        /// REQUESTED SERVICE ACTION.
        service_action: u16,
        /// ALLOCATION LENGTH in bytes.
        allocation: u32,
    },
    /// REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS.
    ReportSupportedTaskManagementFunctions {
        /// REPD: in the long form.
        extended: bool,
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

fn bit(byte: u8, number: u8) -> bool {
    byte >> number & 1 != 0
}

#[cfg(test)]
mod tests;
