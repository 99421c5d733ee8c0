//! From a command to its sixteen bytes.

use super::super::opcode::{self, maintenance_in, service_action_in};
use super::{Cdb, CdbSize, TransferFlags};

impl Cdb {
    /// The sixteen bytes; what a shorter CDB does not need is zero.
    pub fn emit(&self) -> [u8; 16] {
        let mut cdb = [0; 16];
        match *self {
            Cdb::TestUnitReady => cdb[0] = opcode::TEST_UNIT_READY,
            Cdb::RequestSense { descriptor, allocation } => {
                cdb[0] = opcode::REQUEST_SENSE;
                cdb[1] = u8::from(descriptor);
                cdb[4] = allocation;
            }
            Cdb::Inquiry { evpd, page, allocation } => {
                cdb[0] = opcode::INQUIRY;
                cdb[1] = u8::from(evpd);
                cdb[2] = page;
                cdb[3..5].copy_from_slice(&allocation.to_be_bytes());
            }
            Cdb::StartStopUnit { immediate, power_condition, no_flush, load_eject, start } => {
                cdb[0] = opcode::START_STOP_UNIT;
                cdb[1] = u8::from(immediate);
                cdb[4] = power_condition << 4
                    | u8::from(no_flush) << 2
                    | u8::from(load_eject) << 1
                    | u8::from(start);
            }
            Cdb::SendDiagnostic { self_test_code, page_format, self_test, parameter_bytes } => {
                cdb[0] = opcode::SEND_DIAGNOSTIC;
                cdb[1] =
                    self_test_code << 5 | u8::from(page_format) << 4 | u8::from(self_test) << 2;
                cdb[3..5].copy_from_slice(&parameter_bytes.to_be_bytes());
            }
            Cdb::PreventAllowMediumRemoval { prevent } => {
                cdb[0] = opcode::PREVENT_ALLOW_MEDIUM_REMOVAL;
                cdb[4] = prevent & 0x03;
            }
            Cdb::ReadCapacity10 => cdb[0] = opcode::READ_CAPACITY_10,
            Cdb::WriteAtomic { lba, boundary, blocks, flags } => {
                (cdb[0], cdb[1]) = (opcode::WRITE_ATOMIC_16, flags.emit());
                cdb[2..10].copy_from_slice(&lba.to_be_bytes());
                cdb[10..12].copy_from_slice(&boundary.to_be_bytes());
                cdb[12..14].copy_from_slice(&blocks.to_be_bytes());
            }
            Cdb::Unmap { anchor, parameter_bytes } => {
                cdb[0] = opcode::UNMAP;
                cdb[1] = u8::from(anchor);
                cdb[7..9].copy_from_slice(&parameter_bytes.to_be_bytes());
            }
            Cdb::Sanitize { action, immediate, unrestricted, parameter_bytes } => {
                cdb[0] = opcode::SANITIZE;
                cdb[1] = u8::from(immediate) << 7 | u8::from(unrestricted) << 5 | action;
                cdb[7..9].copy_from_slice(&parameter_bytes.to_be_bytes());
            }
            Cdb::ModeSelect { .. } | Cdb::ModeSense { .. } => self.emit_mode(&mut cdb),
            Cdb::ReadCapacity16 { .. }
            | Cdb::GetLbaStatus { .. }
            | Cdb::ReadDefectData { .. }
            | Cdb::ReportLuns { .. }
            | Cdb::ReportSupportedOperationCodes { .. }
            | Cdb::ReportSupportedTaskManagementFunctions { .. } => self.emit_report(&mut cdb),
            Cdb::Reserve { .. }
            | Cdb::Release { .. }
            | Cdb::PersistentReserveIn { .. }
            | Cdb::PersistentReserveOut { .. } => self.emit_reserve(&mut cdb),
            Cdb::Other { opcode, service_action } => {
                cdb[0] = opcode;
                cdb[1] = service_action;
            }
            Cdb::Read { .. }
            | Cdb::Write { .. }
            | Cdb::Verify { .. }
            | Cdb::WriteAndVerify { .. }
            | Cdb::CompareAndWrite { .. }
            | Cdb::OrWrite { .. }
            | Cdb::PreFetch { .. }
            | Cdb::SynchronizeCache { .. }
            | Cdb::WriteSame { .. } => self.emit_ranged(&mut cdb),
        }
        cdb
    }

    fn emit_mode(&self, cdb: &mut [u8; 16]) {
        let (size, opcodes, length) = match *self {
            Cdb::ModeSelect { size, page_format, save, parameter_bytes } => {
                cdb[1] = u8::from(page_format) << 4 | u8::from(save);
                (size, (opcode::MODE_SELECT_6, opcode::MODE_SELECT_10), parameter_bytes)
            }
            Cdb::ModeSense {
                size,
                no_block_descriptors,
                long_lba,
                page_control,
                page,
                subpage,
                allocation,
            } => {
                let long_lba = long_lba && size != CdbSize::Six;
                cdb[1] = u8::from(long_lba) << 4 | u8::from(no_block_descriptors) << 3;
                cdb[2] = page_control << 6 | page & 0x3f;
                cdb[3] = subpage;
                (size, (opcode::MODE_SENSE_6, opcode::MODE_SENSE_10), allocation)
            }
            _ => return,
        };
        if size == CdbSize::Six {
            debug_assert!(length <= 255);
            cdb[0] = opcodes.0;
            cdb[4] = length as u8;
        } else {
            cdb[0] = opcodes.1;
            cdb[7..9].copy_from_slice(&length.to_be_bytes());
        }
    }

    /// The commands about reservations.
    fn emit_reserve(&self, cdb: &mut [u8; 16]) {
        let opcode = |size, six, ten| if size == CdbSize::Six { six } else { ten };
        match *self {
            Cdb::Reserve { size, third_party, extent } => {
                cdb[0] = opcode(size, opcode::RESERVE_6, opcode::RESERVE_10);
                cdb[1] = u8::from(third_party) << 4 | u8::from(extent);
            }
            Cdb::Release { size, third_party, extent } => {
                cdb[0] = opcode(size, opcode::RELEASE_6, opcode::RELEASE_10);
                cdb[1] = u8::from(third_party) << 4 | u8::from(extent);
            }
            Cdb::PersistentReserveIn { action, allocation } => {
                (cdb[0], cdb[1]) = (opcode::PERSISTENT_RESERVE_IN, action);
                cdb[7..9].copy_from_slice(&allocation.to_be_bytes());
            }
            Cdb::PersistentReserveOut { action, scope, kind, parameter_bytes } => {
                (cdb[0], cdb[1]) = (opcode::PERSISTENT_RESERVE_OUT, action);
                cdb[2] = scope << 4 | kind;
                cdb[5..9].copy_from_slice(&parameter_bytes.to_be_bytes());
            }
            _ => {}
        }
    }

    /// The commands that ask for a list or a state.
    fn emit_report(&self, cdb: &mut [u8; 16]) {
        let (opcode, place, allocation) = match *self {
            Cdb::ReadCapacity16 { allocation } => {
                cdb[1] = service_action_in::READ_CAPACITY_16;
                (opcode::SERVICE_ACTION_IN_16, 10, allocation)
            }
            Cdb::GetLbaStatus { lba, allocation } => {
                cdb[1] = service_action_in::GET_LBA_STATUS;
                cdb[2..10].copy_from_slice(&lba.to_be_bytes());
                (opcode::SERVICE_ACTION_IN_16, 10, allocation)
            }
            Cdb::ReadDefectData { size, primary, grown, format, index, allocation } => {
                let wanted = u8::from(primary) << 4 | u8::from(grown) << 3 | format & 0x07;
                if size <= CdbSize::Ten {
                    debug_assert!(u16::try_from(allocation).is_ok());
                    cdb[0] = opcode::READ_DEFECT_DATA_10;
                    cdb[2] = wanted;
                    return cdb[7..9].copy_from_slice(&(allocation as u16).to_be_bytes());
                }
                cdb[1] = wanted;
                cdb[2..6].copy_from_slice(&index.to_be_bytes());
                (opcode::READ_DEFECT_DATA_12, 6, allocation)
            }
            Cdb::ReportLuns { select, allocation } => {
                cdb[2] = select;
                (opcode::REPORT_LUNS, 6, allocation)
            }
            Cdb::ReportSupportedOperationCodes {
                timeouts,
                options,
                opcode,
                service_action,
                allocation,
            } => {
                cdb[1] = maintenance_in::REPORT_SUPPORTED_OPERATION_CODES;
                cdb[2] = u8::from(timeouts) << 7 | options & 0x07;
                cdb[3] = opcode;
                cdb[4..6].copy_from_slice(&service_action.to_be_bytes());
                (opcode::MAINTENANCE_IN, 6, allocation)
            }
            Cdb::ReportSupportedTaskManagementFunctions { extended, allocation } => {
                cdb[1] = maintenance_in::REPORT_SUPPORTED_TASK_MANAGEMENT_FUNCTIONS;
                cdb[2] = u8::from(extended) << 7;
                (opcode::MAINTENANCE_IN, 6, allocation)
            }
            _ => return,
        };
        cdb[0] = opcode;
        cdb[place..place + 4].copy_from_slice(&allocation.to_be_bytes());
    }

    /// The commands that name a range of blocks.
    fn emit_ranged(&self, cdb: &mut [u8; 16]) {
        let (opcode, size, flags, lba, blocks) = match *self {
            Cdb::Read { size, lba, blocks, flags } => {
                let opcode =
                    size.opcode(opcode::READ_6, opcode::READ_10, opcode::READ_12, opcode::READ_16);
                (opcode, size, flags.emit(), lba, blocks)
            }
            Cdb::Write { size, lba, blocks, flags } => {
                let opcode = size.opcode(
                    opcode::WRITE_6,
                    opcode::WRITE_10,
                    opcode::WRITE_12,
                    opcode::WRITE_16,
                );
                (opcode, size, flags.emit(), lba, blocks)
            }
            Cdb::Verify { size, lba, blocks, flags, byte_check } => {
                let ten = opcode::VERIFY_10;
                let opcode = size.opcode(ten, ten, opcode::VERIFY_12, opcode::VERIFY_16);
                (opcode, size.max(CdbSize::Ten), verify_flags(flags, byte_check), lba, blocks)
            }
            Cdb::WriteAndVerify { size, lba, blocks, flags, byte_check } => {
                let ten = opcode::WRITE_AND_VERIFY_10;
                let opcode =
                    size.opcode(ten, ten, opcode::WRITE_AND_VERIFY_12, opcode::WRITE_AND_VERIFY_16);
                (opcode, size.max(CdbSize::Ten), verify_flags(flags, byte_check), lba, blocks)
            }
            Cdb::CompareAndWrite { lba, blocks, flags } => {
                let opcode = opcode::COMPARE_AND_WRITE;
                (opcode, CdbSize::Sixteen, flags.emit(), lba, u32::from(blocks))
            }
            Cdb::OrWrite { lba, blocks, flags } => {
                (opcode::ORWRITE_16, CdbSize::Sixteen, flags.emit(), lba, blocks)
            }
            Cdb::PreFetch { size, lba, blocks, immediate } => {
                let (opcode, size) =
                    ten_or_sixteen(size, opcode::PRE_FETCH_10, opcode::PRE_FETCH_16);
                (opcode, size, u8::from(immediate) << 1, lba, blocks)
            }
            Cdb::SynchronizeCache { size, lba, blocks, immediate } => {
                let (opcode, size) = ten_or_sixteen(
                    size,
                    opcode::SYNCHRONIZE_CACHE_10,
                    opcode::SYNCHRONIZE_CACHE_16,
                );
                (opcode, size, u8::from(immediate) << 1, lba, blocks)
            }
            Cdb::WriteSame { size, lba, blocks, flags } => {
                let (opcode, size) =
                    ten_or_sixteen(size, opcode::WRITE_SAME_10, opcode::WRITE_SAME_16);
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

/// Flags of the commands that verify: BYTCHK, and no FUA.
fn verify_flags(flags: TransferFlags, byte_check: u8) -> u8 {
    TransferFlags { fua: false, ..flags }.emit() | (byte_check & 0x03) << 1
}

/// For families without 12-byte form the next longer one is taken.
fn ten_or_sixteen(size: CdbSize, ten: u8, sixteen: u8) -> (u8, CdbSize) {
    if size <= CdbSize::Ten { (ten, CdbSize::Ten) } else { (sixteen, CdbSize::Sixteen) }
}
