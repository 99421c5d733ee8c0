//! From sixteen bytes to a command.

use super::super::super::{be16, be32, be64};
use super::super::opcode::{
    self, maintenance_in, reserve_in, reserve_out, sanitize, service_action_in,
};
use super::{Cdb, CdbSize, ProvisioningFlags, TransferFlags, bit};

impl Cdb {
    /// What the sixteen bytes ask for.
    pub fn parse(cdb: &[u8; 16]) -> Cdb {
        use CdbSize::{Six, Sixteen, Ten, Twelve};
        match cdb[0] {
            opcode::READ_6 => parse_read(cdb, Six),
            opcode::READ_10 => parse_read(cdb, Ten),
            opcode::READ_12 => parse_read(cdb, Twelve),
            opcode::READ_16 => parse_read(cdb, Sixteen),
            opcode::WRITE_6 => parse_write(cdb, Six),
            opcode::WRITE_10 => parse_write(cdb, Ten),
            opcode::WRITE_12 => parse_write(cdb, Twelve),
            opcode::WRITE_16 => parse_write(cdb, Sixteen),
            opcode::VERIFY_10 => parse_verify(cdb, Ten),
            opcode::VERIFY_12 => parse_verify(cdb, Twelve),
            opcode::VERIFY_16 => parse_verify(cdb, Sixteen),
            opcode::WRITE_AND_VERIFY_10 => parse_write_and_verify(cdb, Ten),
            opcode::WRITE_AND_VERIFY_12 => parse_write_and_verify(cdb, Twelve),
            opcode::WRITE_AND_VERIFY_16 => parse_write_and_verify(cdb, Sixteen),
            opcode::COMPARE_AND_WRITE => Cdb::CompareAndWrite {
                lba: be64(cdb, 2),
                blocks: cdb[13],
                flags: TransferFlags::parse(cdb[1]),
            },
            opcode::ORWRITE_16 => {
                let (lba, blocks) = Sixteen.parse_range(cdb);
                Cdb::OrWrite { lba, blocks, flags: TransferFlags::parse(cdb[1]) }
            }
            opcode::PRE_FETCH_10 => parse_pre_fetch(cdb, Ten),
            opcode::PRE_FETCH_16 => parse_pre_fetch(cdb, Sixteen),
            opcode::SYNCHRONIZE_CACHE_10 => parse_synchronize_cache(cdb, Ten),
            opcode::SYNCHRONIZE_CACHE_16 => parse_synchronize_cache(cdb, Sixteen),
            opcode::WRITE_SAME_10 => parse_write_same(cdb, Ten),
            opcode::WRITE_SAME_16 => parse_write_same(cdb, Sixteen),
            opcode::WRITE_ATOMIC_16 => Cdb::WriteAtomic {
                lba: be64(cdb, 2),
                boundary: be16(cdb, 10),
                blocks: be16(cdb, 12),
                flags: TransferFlags::parse(cdb[1]),
            },
            opcode::UNMAP => Cdb::Unmap { anchor: bit(cdb[1], 0), parameter_bytes: be16(cdb, 7) },
            _ => parse_without_range(cdb),
        }
    }
}

/// The commands that are not about a range of blocks.
fn parse_without_range(cdb: &[u8; 16]) -> Cdb {
    match cdb[0] {
        opcode::TEST_UNIT_READY => Cdb::TestUnitReady,
        opcode::REQUEST_SENSE => {
            Cdb::RequestSense { descriptor: bit(cdb[1], 0), allocation: cdb[4] }
        }
        opcode::INQUIRY => {
            Cdb::Inquiry { evpd: bit(cdb[1], 0), page: cdb[2], allocation: be16(cdb, 3) }
        }
        opcode::MODE_SELECT_6 => parse_mode_select(cdb, CdbSize::Six),
        opcode::MODE_SELECT_10 => parse_mode_select(cdb, CdbSize::Ten),
        opcode::MODE_SENSE_6 => parse_mode_sense(cdb, CdbSize::Six),
        opcode::MODE_SENSE_10 => parse_mode_sense(cdb, CdbSize::Ten),
        opcode::START_STOP_UNIT => Cdb::StartStopUnit {
            immediate: bit(cdb[1], 0),
            power_condition: cdb[4] >> 4,
            no_flush: bit(cdb[4], 2),
            load_eject: bit(cdb[4], 1),
            start: bit(cdb[4], 0),
        },
        opcode::SEND_DIAGNOSTIC => Cdb::SendDiagnostic {
            self_test_code: cdb[1] >> 5,
            page_format: bit(cdb[1], 4),
            self_test: bit(cdb[1], 2),
            parameter_bytes: be16(cdb, 3),
        },
        opcode::PREVENT_ALLOW_MEDIUM_REMOVAL => {
            Cdb::PreventAllowMediumRemoval { prevent: cdb[4] & 0x03 }
        }
        opcode::READ_CAPACITY_10 => Cdb::ReadCapacity10,
        opcode::READ_DEFECT_DATA_10 => Cdb::ReadDefectData {
            size: CdbSize::Ten,
            primary: bit(cdb[2], 4),
            grown: bit(cdb[2], 3),
            format: cdb[2] & 0x07,
            index: 0,
            allocation: u32::from(be16(cdb, 7)),
        },
        opcode::READ_DEFECT_DATA_12 => Cdb::ReadDefectData {
            size: CdbSize::Twelve,
            primary: bit(cdb[1], 4),
            grown: bit(cdb[1], 3),
            format: cdb[1] & 0x07,
            index: be32(cdb, 2),
            allocation: be32(cdb, 6),
        },
        opcode::RESERVE_6 => parse_reserve(cdb, CdbSize::Six),
        opcode::RESERVE_10 => parse_reserve(cdb, CdbSize::Ten),
        opcode::RELEASE_6 => parse_release(cdb, CdbSize::Six),
        opcode::RELEASE_10 => parse_release(cdb, CdbSize::Ten),
        opcode::REPORT_LUNS => Cdb::ReportLuns { select: cdb[2], allocation: be32(cdb, 6) },
        opcode => parse_with_service_action(cdb, opcode, cdb[1] & 0x1f),
    }
}

fn parse_with_service_action(cdb: &[u8; 16], opcode: u8, service_action: u8) -> Cdb {
    match (opcode, service_action) {
        (opcode::SERVICE_ACTION_IN_16, service_action_in::READ_CAPACITY_16) => {
            Cdb::ReadCapacity16 { allocation: be32(cdb, 10) }
        }
        (opcode::SERVICE_ACTION_IN_16, service_action_in::GET_LBA_STATUS) => {
            Cdb::GetLbaStatus { lba: be64(cdb, 2), allocation: be32(cdb, 10) }
        }
        (opcode::PERSISTENT_RESERVE_IN, reserve_in::READ_KEYS..=reserve_in::READ_FULL_STATUS) => {
            Cdb::PersistentReserveIn { action: service_action, allocation: be16(cdb, 7) }
        }
        (
            opcode::PERSISTENT_RESERVE_OUT,
            reserve_out::REGISTER..=reserve_out::REGISTER_AND_MOVE,
        ) => Cdb::PersistentReserveOut {
            action: service_action,
            scope: cdb[2] >> 4,
            kind: cdb[2] & 0x0f,
            parameter_bytes: be32(cdb, 5),
        },
        (
            opcode::SANITIZE,
            sanitize::OVERWRITE | sanitize::BLOCK_ERASE | sanitize::EXIT_FAILURE_MODE,
        ) => Cdb::Sanitize {
            action: service_action,
            immediate: bit(cdb[1], 7),
            unrestricted: bit(cdb[1], 5),
            parameter_bytes: be16(cdb, 7),
        },
        (opcode::MAINTENANCE_IN, maintenance_in::REPORT_SUPPORTED_OPERATION_CODES) => {
            Cdb::ReportSupportedOperationCodes {
                timeouts: bit(cdb[2], 7),
                options: cdb[2] & 0x07,
                opcode: cdb[3],
                service_action: be16(cdb, 4),
                allocation: be32(cdb, 6),
            }
        }
        (opcode::MAINTENANCE_IN, maintenance_in::REPORT_SUPPORTED_TASK_MANAGEMENT_FUNCTIONS) => {
            Cdb::ReportSupportedTaskManagementFunctions {
                extended: bit(cdb[2], 7),
                allocation: be32(cdb, 6),
            }
        }
        _ => Cdb::Other { opcode, service_action },
    }
}

fn parse_reserve(cdb: &[u8; 16], size: CdbSize) -> Cdb {
    Cdb::Reserve { size, third_party: bit(cdb[1], 4), extent: bit(cdb[1], 0) }
}

fn parse_release(cdb: &[u8; 16], size: CdbSize) -> Cdb {
    Cdb::Release { size, third_party: bit(cdb[1], 4), extent: bit(cdb[1], 0) }
}

/// Flags of READ and WRITE; the 6-byte forms have none.
fn transfer_flags(cdb: &[u8; 16], size: CdbSize) -> TransferFlags {
    if size == CdbSize::Six { TransferFlags::default() } else { TransferFlags::parse(cdb[1]) }
}

/// Flags of the commands that verify: what is FUA elsewhere does not exist there.
fn verify_flags(cdb: &[u8; 16]) -> TransferFlags {
    TransferFlags { fua: false, ..TransferFlags::parse(cdb[1]) }
}

/// BYTCHK.
fn byte_check(cdb: &[u8; 16]) -> u8 {
    cdb[1] >> 1 & 0x03
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
    Cdb::Verify { size, lba, blocks, flags: verify_flags(cdb), byte_check: byte_check(cdb) }
}

fn parse_write_and_verify(cdb: &[u8; 16], size: CdbSize) -> Cdb {
    let (lba, blocks) = size.parse_range(cdb);
    Cdb::WriteAndVerify { size, lba, blocks, flags: verify_flags(cdb), byte_check: byte_check(cdb) }
}

fn parse_pre_fetch(cdb: &[u8; 16], size: CdbSize) -> Cdb {
    let (lba, blocks) = size.parse_range(cdb);
    Cdb::PreFetch { size, lba, blocks, immediate: bit(cdb[1], 1) }
}

fn parse_synchronize_cache(cdb: &[u8; 16], size: CdbSize) -> Cdb {
    let (lba, blocks) = size.parse_range(cdb);
    Cdb::SynchronizeCache { size, lba, blocks, immediate: bit(cdb[1], 1) }
}

fn parse_write_same(cdb: &[u8; 16], size: CdbSize) -> Cdb {
    let (lba, blocks) = size.parse_range(cdb);
    Cdb::WriteSame { size, lba, blocks, flags: ProvisioningFlags::parse(cdb[1], size) }
}

fn parse_mode_select(cdb: &[u8; 16], size: CdbSize) -> Cdb {
    let six = size == CdbSize::Six;
    Cdb::ModeSelect {
        size,
        page_format: bit(cdb[1], 4),
        save: bit(cdb[1], 0),
        parameter_bytes: if six { u16::from(cdb[4]) } else { be16(cdb, 7) },
    }
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
