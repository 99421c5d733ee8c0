//! A logical unit: executes the commands of a disk against a [`Store`] (SPC-4, SBC-3).
//!
//! Everything a CDB says is checked once, before the store is touched; the store may then rely on
//! it. Data to the initiator is not produced here but on demand by [`LogicalUnit::read`], straight
//! into the memory that goes out, so a READ allocates nothing. What the initiators have to do with
//! each other is in `nexuses`; what belongs to the target as a whole (REPORT LUNS) is the business
//! of [`LogicalUnits`](super::logical_units::LogicalUnits).

mod attentions;
mod conflict;
mod description;
mod medium;
mod modes;
mod nexuses;
mod opcodes;
mod options;
mod provisioning;
mod reservations;
mod sanitize;
mod transfer;

use std::io;
use std::sync::Arc;

pub(super) use self::conflict::needed_rights;
use self::description::Identity;
pub(crate) use self::description::stable_hash;
pub(super) use self::description::standard_inquiry;
use self::medium::Medium;
use self::modes::Modes;
pub use self::nexuses::Nexus;
pub(super) use self::nexuses::{NexusId, Nexuses, Standing};
use self::opcodes::{Access, report_supported_task_management_functions};
pub(super) use self::opcodes::{is_alone, is_exact};
pub use self::options::{Options, Unfit};
pub use self::reservations::RecordError;
pub use self::sanitize::Sanitized;
use self::sanitize::Sanitizer;
use crate::proto::target::SessionName;
use crate::store::{Record, Store};
use crate::wire::scsi::{Cdb, FieldPointer, ScsiStatus, Sense, SenseKey, asc};

/// Longest READ, WRITE or VERIFY in bytes (MAXIMUM TRANSFER LENGTH).
pub const TRANSFER_BYTES_MAX: u32 = 8 << 20;
/// Longest WRITE SAME in bytes: what a slow disk still writes in less than a second.
const WRITE_SAME_BYTES_MAX: u32 = 16 << 20;
/// What a page cache holds together and most file systems free together: smaller transfers work,
/// and cost more.
pub const PAGE_BYTES: u32 = 4096;
/// Most blocks that one block descriptor of UNMAP may name.
const UNMAP_BLOCKS_MAX: u32 = 1 << 20;
/// Most block descriptors of one UNMAP.
const UNMAP_DESCRIPTORS_MAX: u32 = 256;

/// A disk of a target.
#[derive(Debug)]
pub struct LogicalUnit {
    store: Arc<dyn Store>,
    identity: Identity,
    nexuses: Arc<Nexuses>,
    modes: Modes,
    medium: Medium,
    sanitizer: Sanitizer,
    block_bytes: u32,
    physical_exponent: u8,
    blocks: u64,
    read_only: bool,
    sanitize: bool,
}

/// How a command ended, or what is left to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done, without data for the initiator.
    Good,
    /// Done, with this data, already cut to the allocation length.
    Data(Vec<u8>),
    /// Checked; the data is to be fetched with [`LogicalUnit::read`].
    Read(Extent),
    /// Done, and answered with GOOD when no task of these sessions at the unit is left that came
    /// before.
    Preempted(Vec<SessionName>),
    /// Begun: the owner calls [`LogicalUnit::sanitize`] until it is over. It is answered with GOOD
    /// at once, or with how the operation ends.
    Sanitizing {
        /// Of the operation.
        number: u64,
        /// It is answered at once.
        immediate: bool,
    },
    /// Not done: somebody else has reserved the unit.
    Conflict,
    /// Not done. Boxed because it is rare and four times the size of the rest.
    CheckCondition(Box<Sense>),
}

/// A range of the store, inside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First byte.
    pub offset: u64,
    /// Number of bytes, at most [`TRANSFER_BYTES_MAX`] for transfers.
    pub bytes: u64,
}

impl Outcome {
    /// The status that goes with it.
    pub fn status(&self) -> ScsiStatus {
        match self {
            Outcome::CheckCondition(_) => ScsiStatus::CheckCondition,
            Outcome::Conflict => ScsiStatus::ReservationConflict,
            _ => ScsiStatus::Good,
        }
    }
}

impl From<Sense> for Outcome {
    fn from(sense: Sense) -> Outcome {
        Outcome::CheckCondition(Box::new(sense))
    }
}

impl LogicalUnit {
    /// A disk made of a store. The name of the target and `disk_name`, which tells it from every
    /// other disk of that target, decide its serial number and identifiers. Whoever comes back
    /// knows by them whether this is still the same disk: a LUN number alone would not do.
    pub fn new(
        store: Arc<dyn Store>,
        target_name: &str,
        disk_name: &[u8],
        options: Options,
    ) -> Result<LogicalUnit, Unfit> {
        let (logical, physical) = (options.logical_block_bytes, options.physical_block_bytes);
        let exponent = physical.checked_div(logical).map_or(0, u32::trailing_zeros);
        if ![512, 4096].contains(&logical) || logical.checked_shl(exponent) != Some(physical) {
            return Err(Unfit::BlockSize { logical, physical });
        }
        let size_bytes = store.size_bytes();
        if size_bytes == 0 || !size_bytes.is_multiple_of(u64::from(logical)) {
            return Err(Unfit::Size { size_bytes, block_bytes: logical });
        }
        let read_only = options.read_only || store.is_read_only();
        Ok(LogicalUnit {
            identity: Identity::new(target_name, disk_name),
            nexuses: Arc::default(),
            modes: Modes::new(read_only),
            medium: Medium::new(options.removable),
            sanitizer: Sanitizer::default(),
            block_bytes: logical,
            physical_exponent: exponent as u8,
            blocks: size_bytes / u64::from(logical),
            read_only,
            sanitize: options.sanitize && !read_only,
            store,
        })
    }

    /// The same disk with persistent reservations that survive a restart: `text` is what the
    /// record had when the target was started, if it had anything.
    pub fn with_record(
        self,
        text: Option<&str>,
        record: Arc<dyn Record>,
    ) -> Result<LogicalUnit, RecordError> {
        Ok(LogicalUnit { nexuses: Arc::new(Nexuses::with_record(text, record)?), ..self })
    }

    /// What VPD page 80h says: the same for this disk as long as its name and that of the target
    /// are, and different from every other's.
    pub fn serial_number(&self) -> String {
        self.identity.serial()
    }

    /// The serial number of the disk of these names, before there is one.
    pub fn serial_number_of(target_name: &str, disk_name: &[u8]) -> String {
        Identity::new(target_name, disk_name).serial()
    }

    /// Size in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.blocks * u64::from(self.block_bytes)
    }

    /// Bytes of a logical block.
    pub fn block_bytes(&self) -> u32 {
        self.block_bytes
    }

    /// Writes are refused.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// The I_T nexuses that use it.
    pub(super) fn nexuses(&self) -> &Arc<Nexuses> {
        &self.nexuses
    }

    /// Its medium can be ejected.
    pub fn is_removable(&self) -> bool {
        self.medium.is_removable()
    }

    /// It was reset: what initiators have changed is as it was in the beginning, and each of them
    /// is told so.
    pub(super) fn reset(&self) {
        self.reset_modes();
        self.nexuses.reset();
    }

    /// Bytes of data that a command takes from the initiator. A command that will be refused may
    /// say more than it would ever get.
    pub fn data_out_bytes(&self, cdb: &[u8; 16]) -> u64 {
        let transfer = |blocks: u32| u64::from(blocks) * u64::from(self.block_bytes);
        match Cdb::parse(cdb) {
            Cdb::Write { blocks, .. }
            | Cdb::WriteAndVerify { blocks, .. }
            | Cdb::OrWrite { blocks, .. }
            | Cdb::Verify { blocks, byte_check: 1, .. } => transfer(blocks),
            Cdb::CompareAndWrite { blocks, .. } => 2 * transfer(u32::from(blocks)),
            Cdb::WriteAtomic { blocks, .. } => transfer(u32::from(blocks)),
            Cdb::Verify { blocks, byte_check: 3, .. } => transfer(blocks.min(1)),
            Cdb::WriteSame { flags, .. } if !flags.no_data => transfer(1),
            Cdb::Unmap { parameter_bytes, .. }
            | Cdb::ModeSelect { parameter_bytes, .. }
            | Cdb::SendDiagnostic { parameter_bytes, .. } => u64::from(parameter_bytes),
            Cdb::Sanitize { parameter_bytes, .. } => u64::from(parameter_bytes),
            Cdb::PersistentReserveOut { parameter_bytes, .. } => u64::from(parameter_bytes),
            _ => 0,
        }
    }

    /// Executes a command with the data that came for it. Data that is shorter than the command
    /// wants, because the initiator announced less, is written as far as it fills whole blocks;
    /// what came beyond it is not used. What comes before a command, like unit attentions and
    /// conflicts, is not looked at: see
    /// [`LogicalUnits::execute`](super::logical_units::LogicalUnits::execute).
    pub fn execute(&self, cdb: &[u8; 16], data: &[u8]) -> Outcome {
        self.execute_for(NexusId::NOBODY, cdb, data)
    }

    /// The same, for one of those that use the unit.
    pub(super) fn execute_for(&self, nexus: NexusId, cdb: &[u8; 16], data: &[u8]) -> Outcome {
        self.execute_checked(nexus, cdb, data).unwrap_or_else(Outcome::from)
    }

    fn execute_checked(
        &self,
        nexus: NexusId,
        cdb: &[u8; 16],
        data: &[u8],
    ) -> Result<Outcome, Sense> {
        let access = self.command(cdb)?.access();
        let command = Cdb::parse(cdb);
        self.check_sanitize(&command)?;
        self.check_medium(access)?;
        self.perform(nexus, &command, data)
    }

    /// What the unit is must allow what the command does.
    fn check_medium(&self, access: Access) -> Result<(), Sense> {
        match access {
            Access::Unit => Ok(()),
            Access::Read => self.medium.check(),
            Access::Write => self.medium.check().and_then(|()| self.check_writable()),
        }
    }

    /// A command that the unit knows and that its state allows.
    fn perform(&self, nexus: NexusId, command: &Cdb, data: &[u8]) -> Result<Outcome, Sense> {
        match *command {
            Cdb::Read { size, lba, blocks, flags } => self.start_read(size, lba, blocks, flags),
            Cdb::Write { size, lba, blocks, flags } => self.write(size, lba, blocks, flags, data),
            Cdb::WriteAndVerify { size, lba, blocks, flags, byte_check } => {
                self.write_and_verify(size, lba, blocks, flags, byte_check, data)
            }
            Cdb::Verify { size, lba, blocks, flags, byte_check } => {
                self.verify(size, lba, blocks, flags, byte_check, data)
            }
            Cdb::CompareAndWrite { lba, blocks, flags } => {
                self.compare_and_write(lba, blocks, flags, data)
            }
            Cdb::WriteAtomic { lba, boundary, blocks, flags } => {
                self.write_atomically(lba, boundary, blocks, flags, data)
            }
            Cdb::OrWrite { lba, blocks, flags } => self.or_write(lba, blocks, flags, data),
            Cdb::PreFetch { lba, blocks, .. } => self.pre_fetch(lba, blocks),
            Cdb::SynchronizeCache { lba, blocks, .. } => self.synchronize_cache(lba, blocks),
            Cdb::Unmap { anchor, parameter_bytes } => self.unmap(anchor, parameter_bytes, data),
            Cdb::WriteSame { size, lba, blocks, flags } => {
                self.write_same(size, lba, blocks, flags, data)
            }
            Cdb::GetLbaStatus { lba, allocation } => self.lba_status(lba, allocation),
            Cdb::Sanitize { .. } => self.start_sanitize(command, data),
            _ => self.perform_on_unit(nexus, command, data),
        }
    }

    /// The commands that are about the unit and not about its blocks.
    fn perform_on_unit(
        &self,
        nexus: NexusId,
        command: &Cdb,
        data: &[u8],
    ) -> Result<Outcome, Sense> {
        match *command {
            Cdb::TestUnitReady => Ok(Outcome::Good),
            Cdb::RequestSense { descriptor, allocation } => {
                let none = Sense::new(SenseKey::NoSense, asc::NO_ADDITIONAL_SENSE);
                let sense = self.sanitize_sense().unwrap_or(none);
                Ok(request_sense_data(&sense, descriptor, allocation))
            }
            Cdb::Inquiry { evpd, page, allocation } => self.inquiry(evpd, page, allocation),
            Cdb::ModeSense { .. } => self.mode_sense(command),
            Cdb::ModeSelect { size, page_format, save, parameter_bytes } => {
                self.mode_select(nexus, size, (page_format, save), parameter_bytes, data)
            }
            Cdb::StartStopUnit { power_condition, load_eject, start, no_flush, .. } => {
                self.start_stop(nexus, power_condition, load_eject, start, no_flush)
            }
            Cdb::SendDiagnostic { self_test_code, page_format, self_test, parameter_bytes } => {
                self.send_diagnostic(self_test_code, page_format, self_test, parameter_bytes)
            }
            Cdb::ReadCapacity10 => Ok(self.read_capacity_10()),
            Cdb::ReadCapacity16 { allocation } => Ok(self.read_capacity_16(allocation)),
            Cdb::ReadDefectData { size, primary, grown, format, allocation, .. } => {
                Ok(self.read_defect_data(size, (primary, grown), format, allocation))
            }
            Cdb::ReportSupportedOperationCodes {
                timeouts,
                options,
                opcode,
                service_action,
                allocation,
            } => self.report_supported_operation_codes(
                timeouts,
                options,
                opcode,
                service_action,
                allocation,
            ),
            Cdb::ReportSupportedTaskManagementFunctions { extended, allocation } => {
                report_supported_task_management_functions(extended, allocation)
            }
            Cdb::PreventAllowMediumRemoval { .. }
            | Cdb::Reserve { .. }
            | Cdb::Release { .. }
            | Cdb::PersistentReserveIn { .. }
            | Cdb::PersistentReserveOut { .. } => self.nexuses.execute(nexus, command, data),
            // REPORT LUNS belongs to the target, not to a logical unit.
            _ => Err(illegal(asc::INVALID_COMMAND_OPERATION_CODE)),
        }
    }

    /// Fetches part of what a READ asked for: from byte `from` of its extent, as much as `buffer`
    /// takes.
    pub fn read(&self, extent: Extent, from: u64, buffer: &mut [u8]) -> Result<(), Sense> {
        debug_assert!(from + buffer.len() as u64 <= extent.bytes);
        self.store.read_at(buffer, extent.offset + from).map_err(|_| {
            let block = (extent.offset + from) / u64::from(self.block_bytes);
            Sense::new(SenseKey::MediumError, asc::UNRECOVERED_READ_ERROR).with_information(block)
        })
    }

    /// Makes what was written stable: the end of a session must not lose anything.
    pub fn flush(&self) -> Result<(), Sense> {
        self.store.flush().map_err(write_failed)
    }

    // Checks.

    /// Blocks carry no protection information, so nobody may ask to check it (SBC-3 §4.22).
    fn check_protection(&self, protect: u8) -> Result<(), Sense> {
        if protect == 0 { Ok(()) } else { Err(invalid_field(1, Some(7))) }
    }

    fn check_range(&self, lba: u64, blocks: u64) -> Result<(), Sense> {
        match lba.checked_add(blocks) {
            Some(end) if end <= self.blocks => Ok(()),
            // INFORMATION is the first block that is not there.
            _ => Err(illegal(asc::LBA_OUT_OF_RANGE).with_information(lba.max(self.blocks))),
        }
    }

    fn check_writable(&self) -> Result<(), Sense> {
        if self.read_only {
            return Err(Sense::new(SenseKey::DataProtect, asc::WRITE_PROTECTED));
        }
        if self.modes.software_write_protect() {
            let code = asc::LOGICAL_UNIT_SOFTWARE_WRITE_PROTECTED;
            return Err(Sense::new(SenseKey::DataProtect, code));
        }
        Ok(())
    }

    /// The bytes of blocks that have been checked.
    fn extent(&self, lba: u64, blocks: u64) -> Extent {
        let block_bytes = u64::from(self.block_bytes);
        Extent { offset: lba * block_bytes, bytes: blocks * block_bytes }
    }
}

/// How much is compared or repeated at a time.
const CHUNK_BYTES: u64 = 256 << 10;

/// REQUEST SENSE data.
pub(super) fn request_sense_data(sense: &Sense, descriptor: bool, allocation: u8) -> Outcome {
    allocated(sense.emit(descriptor), usize::from(allocation))
}

/// Data cut to the allocation length of its command.
pub(super) fn allocated(mut data: Vec<u8>, allocation: usize) -> Outcome {
    data.truncate(allocation);
    Outcome::Data(data)
}

/// ILLEGAL REQUEST with this code.
pub(super) fn illegal(code: (u8, u8)) -> Sense {
    Sense::new(SenseKey::IllegalRequest, code)
}

/// INVALID FIELD IN CDB with a pointer to the field.
pub(super) fn invalid_field(byte: u16, bit: Option<u8>) -> Sense {
    illegal(asc::INVALID_FIELD_IN_CDB).with_field(field_in_cdb(byte, bit))
}

fn field_in_cdb(byte: u16, bit: Option<u8>) -> FieldPointer {
    FieldPointer { in_cdb: true, byte, bit }
}

fn invalid_parameter(byte: u16) -> Sense {
    illegal(asc::INVALID_FIELD_IN_PARAMETER_LIST).with_field(FieldPointer {
        in_cdb: false,
        byte,
        bit: None,
    })
}

/// What the initiator learns about a write, discard or flush that the store refused; the store
/// itself has logged the reason.
fn write_failed(error: io::Error) -> Sense {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Sense::new(SenseKey::DataProtect, asc::SPACE_ALLOCATION_FAILED)
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            Sense::new(SenseKey::DataProtect, asc::WRITE_PROTECTED)
        }
        _ => Sense::new(SenseKey::MediumError, asc::WRITE_ERROR),
    }
}

#[cfg(test)]
mod tests;
