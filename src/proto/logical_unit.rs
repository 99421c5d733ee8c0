//! A logical unit: executes the commands of a disk against a [`Store`] (SPC-4, SBC-3).
//!
//! Everything a CDB says is checked once, before the store is touched; the store may then rely on
//! it. Data to the initiator is not produced here but on demand by [`LogicalUnit::read`], straight
//! into the memory that goes out, so a READ allocates nothing. What belongs to an I_T nexus (unit
//! attentions) and to the target as a whole (REPORT LUNS) is the business of
//! [`LogicalUnits`](super::logical_units::LogicalUnits).

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::store::Store;
use crate::wire::scsi::{
    BlockCharacteristics, BlockDescriptor, BlockLimits, CachingPage, Capacity10, Capacity16, Cdb,
    CdbSize, ControlPage, Designator, DesignatorKind, FieldPointer, LogicalBlockProvisioning,
    MODE_PAGE_ALL, MODE_PAGE_CACHING, MODE_PAGE_CONTROL, ModeParameters, PERIPHERAL_DISK,
    ProvisioningFlags, ScsiStatus, Sense, SenseKey, StandardInquiry, TransferFlags,
    VPD_BLOCK_CHARACTERISTICS, VPD_BLOCK_LIMITS, VPD_DEVICE_IDENTIFICATION,
    VPD_LOGICAL_BLOCK_PROVISIONING, VPD_SUPPORTED_PAGES, VPD_UNIT_SERIAL_NUMBER, asc,
    emit_device_identification, emit_supported_pages, emit_unit_serial_number, parse_unmap,
};

/// Longest READ, WRITE or VERIFY in bytes (MAXIMUM TRANSFER LENGTH).
pub const TRANSFER_BYTES_MAX: u32 = 8 << 20;
/// Longest WRITE SAME in bytes: what a slow disk still writes in less than a second.
const WRITE_SAME_BYTES_MAX: u32 = 16 << 20;
/// Most blocks that one block descriptor of UNMAP may name.
const UNMAP_BLOCKS_MAX: u32 = 1 << 20;
/// Most block descriptors of one UNMAP.
const UNMAP_DESCRIPTORS_MAX: u32 = 256;

/// A disk of a target.
#[derive(Debug)]
pub struct LogicalUnit {
    store: Arc<dyn Store>,
    identity: Identity,
    block_bytes: u32,
    physical_exponent: u8,
    blocks: u64,
    read_only: bool,
}

/// What does not follow from the store.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Bytes of a logical block: 512 or 4096.
    pub logical_block_bytes: u32,
    /// Bytes of a physical block: a power of two, not below the logical block. The default of 4096
    /// keeps partitions and file systems aligned to the pages that hold the blocks here.
    pub physical_block_bytes: u32,
    /// Refuse writes even if the store takes them.
    pub read_only: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options { logical_block_bytes: 512, physical_block_bytes: 4096, read_only: false }
    }
}

/// The names by which an initiator knows a logical unit again after any restart.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Identity {
    target_name: String,
    hash: u64,
}

/// Why a store cannot be a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// The block sizes are none that a disk can have here.
    BlockSize {
        /// Logical, in bytes.
        logical: u32,
        /// Physical, in bytes.
        physical: u32,
    },
    /// The store holds no block, or not a whole number of them.
    Size {
        /// Of the store, in bytes.
        size_bytes: u64,
        /// Of a logical block, in bytes.
        block_bytes: u32,
    },
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
        Ok(LogicalUnit {
            identity: Identity::new(target_name, disk_name),
            block_bytes: logical,
            physical_exponent: exponent as u8,
            blocks: size_bytes / u64::from(logical),
            read_only: options.read_only || store.is_read_only(),
            store,
        })
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

    /// Bytes of data that a command takes from the initiator. A command that will be refused may
    /// say more than it would ever get.
    pub fn data_out_bytes(&self, cdb: &[u8; 16]) -> u64 {
        match Cdb::parse(cdb) {
            Cdb::Write { blocks, .. } | Cdb::Verify { blocks, byte_check: 1, .. } => {
                u64::from(blocks) * u64::from(self.block_bytes)
            }
            Cdb::WriteSame { flags, .. } if !flags.no_data => u64::from(self.block_bytes),
            Cdb::Unmap { parameter_bytes, .. } => u64::from(parameter_bytes),
            _ => 0,
        }
    }

    /// Executes a command with the data that came for it. Data that is shorter than the command
    /// wants, because the initiator announced less, is written as far as it fills whole blocks;
    /// what came beyond it is not used.
    pub fn execute(&self, cdb: &[u8; 16], data: &[u8]) -> Outcome {
        let outcome = match Cdb::parse(cdb) {
            Cdb::Read { size, lba, blocks, flags } => self.start_read(size, lba, blocks, flags),
            Cdb::Write { size, lba, blocks, flags } => self.write(size, lba, blocks, flags, data),
            Cdb::TestUnitReady => Ok(Outcome::Good),
            Cdb::RequestSense { descriptor, allocation } => {
                let none = Sense::new(SenseKey::NoSense, asc::NO_ADDITIONAL_SENSE);
                Ok(request_sense_data(&none, descriptor, allocation))
            }
            Cdb::Inquiry { evpd, page, allocation } => self.inquiry(evpd, page, allocation),
            Cdb::ModeSense { .. } => self.mode_sense(&Cdb::parse(cdb)),
            Cdb::StartStopUnit { power_condition, load_eject, start, no_flush, .. } => {
                self.start_stop(power_condition, load_eject, start, no_flush)
            }
            Cdb::ReadCapacity10 => Ok(self.read_capacity_10()),
            Cdb::ReadCapacity16 { allocation } => Ok(self.read_capacity_16(allocation)),
            Cdb::Verify { size, lba, blocks, flags, byte_check } => {
                self.verify(size, lba, blocks, flags, byte_check, data)
            }
            Cdb::SynchronizeCache { lba, blocks, .. } => self.synchronize_cache(lba, blocks),
            Cdb::Unmap { anchor, parameter_bytes } => self.unmap(anchor, parameter_bytes, data),
            Cdb::WriteSame { size, lba, blocks, flags } => {
                self.write_same(size, lba, blocks, flags, data)
            }
            // REPORT LUNS belongs to the target, not to a logical unit.
            Cdb::ReportLuns { .. } | Cdb::Other { .. } => {
                Err(illegal(asc::INVALID_COMMAND_OPERATION_CODE))
            }
        };
        outcome.unwrap_or_else(Outcome::from)
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

    // Commands that transfer blocks.

    fn start_read(
        &self,
        size: CdbSize,
        lba: u64,
        blocks: u32,
        flags: TransferFlags,
    ) -> Result<Outcome, Sense> {
        let extent = self.check_transfer(size, lba, blocks, flags)?;
        if flags.fua && !self.read_only {
            // What a forced read shows must be on the medium, not only in the page cache.
            self.flush()?;
        }
        Ok(Outcome::Read(extent))
    }

    fn write(
        &self,
        size: CdbSize,
        lba: u64,
        blocks: u32,
        flags: TransferFlags,
        data: &[u8],
    ) -> Result<Outcome, Sense> {
        let extent = self.check_transfer(size, lba, blocks, flags)?;
        self.check_writable()?;
        let usable = (data.len() as u64).min(extent.bytes);
        let whole_blocks = usable - usable % u64::from(self.block_bytes);
        if whole_blocks != 0 {
            let data = &data[..whole_blocks as usize];
            self.store.write_at(data, extent.offset).map_err(write_failed)?;
        }
        if flags.fua {
            self.flush()?;
        }
        Ok(Outcome::Good)
    }

    fn verify(
        &self,
        size: CdbSize,
        lba: u64,
        blocks: u32,
        flags: TransferFlags,
        byte_check: u8,
        data: &[u8],
    ) -> Result<Outcome, Sense> {
        if byte_check > 1 {
            return Err(invalid_field(1, Some(2)));
        }
        let extent = self.check_transfer(size, lba, blocks, flags)?;
        let compared = if byte_check == 0 { None } else { Some(data) };
        let length = compared.map_or(extent.bytes, |data| extent.bytes.min(data.len() as u64));
        let mut buffer = vec![0; length.min(VERIFY_CHUNK_BYTES) as usize];
        let mut from = 0;
        while from < length {
            let chunk = (length - from).min(VERIFY_CHUNK_BYTES) as usize;
            let stored = &mut buffer[..chunk];
            self.read(extent, from, stored)?;
            if let Some(data) = compared {
                let expected = &data[from as usize..][..chunk];
                if let Some(index) = expected.iter().zip(&*stored).position(|(a, b)| a != b) {
                    let sense = Sense::new(SenseKey::Miscompare, asc::MISCOMPARE_DURING_VERIFY);
                    return Err(sense.with_information(from + index as u64));
                }
            }
            from += chunk as u64;
        }
        Ok(Outcome::Good)
    }

    fn synchronize_cache(&self, lba: u64, blocks: u32) -> Result<Outcome, Sense> {
        self.check_range(lba, u64::from(blocks))?;
        // The store can flush only as a whole. With IMMED the answer could come earlier, but
        // nobody is harmed by an answer that is true when it comes.
        self.flush()?;
        Ok(Outcome::Good)
    }

    // Commands that change blocks without transferring each of them.

    fn unmap(&self, anchor: bool, parameter_bytes: u16, data: &[u8]) -> Result<Outcome, Sense> {
        if anchor {
            return Err(invalid_field(1, Some(0)));
        }
        if parameter_bytes == 0 {
            return Ok(Outcome::Good);
        }
        let length_error = Sense::new(SenseKey::IllegalRequest, asc::PARAMETER_LIST_LENGTH_ERROR);
        let list = data.get(..usize::from(parameter_bytes).min(data.len())).unwrap_or_default();
        let ranges = parse_unmap(list).map_err(|_| length_error)?;
        // All are checked before the first is unmapped.
        for (index, range) in ranges.clone().enumerate() {
            self.check_range(range.lba, u64::from(range.blocks))?;
            if range.blocks > UNMAP_BLOCKS_MAX || index as u32 >= UNMAP_DESCRIPTORS_MAX {
                return Err(invalid_parameter(2));
            }
        }
        self.check_writable()?;
        for range in ranges.filter(|range| range.blocks != 0) {
            let extent = self.extent(range.lba, u64::from(range.blocks));
            self.store.discard(extent.offset, extent.bytes).map_err(write_failed)?;
        }
        Ok(Outcome::Good)
    }

    fn write_same(
        &self,
        size: CdbSize,
        lba: u64,
        blocks: u32,
        flags: ProvisioningFlags,
        data: &[u8],
    ) -> Result<Outcome, Sense> {
        self.check_protection(flags.protect)?;
        if flags.anchor || flags.obsolete {
            return Err(invalid_field(1, Some(if flags.anchor { 4 } else { 2 })));
        }
        self.check_range(lba, u64::from(blocks))?;
        let extent = self.extent(lba, u64::from(blocks));
        // WSNZ: zero would be "up to the end", which takes as long as the disk is large.
        if blocks == 0 || extent.bytes > u64::from(WRITE_SAME_BYTES_MAX) {
            return Err(invalid_field(size.blocks_byte() as u16, None));
        }
        self.check_writable()?;
        if !flags.no_data && data.len() != self.block_bytes as usize {
            // The initiator means something else than the one block that it should send.
            return Err(illegal(asc::INVALID_FIELD_IN_CDB));
        }
        let block = Some(data).filter(|data| data.iter().any(|byte| *byte != 0) && !flags.no_data);
        let written = match block {
            Some(block) => self.write_pattern(block, extent),
            None if flags.unmap => self.store.discard(extent.offset, extent.bytes),
            None => self.store.write_zeroes(extent.offset, extent.bytes),
        };
        written.map_err(write_failed)?;
        Ok(Outcome::Good)
    }

    fn write_pattern(&self, block: &[u8], extent: Extent) -> io::Result<()> {
        let chunk_bytes = extent.bytes.min(VERIFY_CHUNK_BYTES);
        let chunk = block.repeat(chunk_bytes as usize / block.len());
        let mut done = 0;
        while done < extent.bytes {
            let part = (extent.bytes - done).min(chunk.len() as u64);
            self.store.write_at(&chunk[..part as usize], extent.offset + done)?;
            done += part;
        }
        Ok(())
    }

    // Commands about the unit.

    fn inquiry(&self, evpd: bool, page: u8, allocation: u16) -> Result<Outcome, Sense> {
        let data = match (evpd, page) {
            (false, 0) => standard_inquiry(PERIPHERAL_DISK).emit().to_vec(),
            (true, VPD_SUPPORTED_PAGES) => emit_supported_pages(&VPD_PAGES),
            (true, VPD_UNIT_SERIAL_NUMBER) => emit_unit_serial_number(&self.identity.serial()),
            (true, VPD_DEVICE_IDENTIFICATION) => {
                emit_device_identification(&self.identity.designators())
            }
            (true, VPD_BLOCK_LIMITS) => self.block_limits().emit().to_vec(),
            (true, VPD_BLOCK_CHARACTERISTICS) => {
                BlockCharacteristics { rotation_rate: 1, fua_behavior: true }.emit().to_vec()
            }
            (true, VPD_LOGICAL_BLOCK_PROVISIONING) => self.provisioning().emit().to_vec(),
            _ => return Err(invalid_field(2, None)),
        };
        Ok(allocated(data, usize::from(allocation)))
    }

    fn block_limits(&self) -> BlockLimits {
        let thin = self.store.can_discard();
        BlockLimits {
            write_same_non_zero: true,
            transfer_granularity: 1 << self.physical_exponent,
            transfer_max: TRANSFER_BYTES_MAX / self.block_bytes,
            transfer_optimal: TRANSFER_BYTES_OPTIMAL / self.block_bytes,
            unmap_blocks_max: if thin { UNMAP_BLOCKS_MAX } else { 0 },
            unmap_descriptors_max: if thin { UNMAP_DESCRIPTORS_MAX } else { 0 },
            unmap_granularity: if thin { 1 << self.physical_exponent } else { 0 },
            unmap_alignment: thin.then_some(0),
            write_same_max: u64::from(WRITE_SAME_BYTES_MAX / self.block_bytes),
        }
    }

    fn provisioning(&self) -> LogicalBlockProvisioning {
        let thin = self.store.can_discard();
        LogicalBlockProvisioning {
            unmap: thin,
            write_same_16: thin,
            write_same_10: thin,
            reads_zero: thin,
            provisioning_type: if thin { 2 } else { 0 },
        }
    }

    fn read_capacity_10(&self) -> Outcome {
        let last_lba = u32::try_from(self.blocks - 1).unwrap_or(u32::MAX);
        let capacity = Capacity10 { last_lba, block_bytes: self.block_bytes };
        Outcome::Data(capacity.emit().to_vec())
    }

    fn read_capacity_16(&self, allocation: u32) -> Outcome {
        let thin = self.store.can_discard();
        let capacity = Capacity16 {
            last_lba: self.blocks - 1,
            block_bytes: self.block_bytes,
            protection: false,
            physical_exponent: self.physical_exponent,
            lowest_aligned_lba: 0,
            provisioned: thin,
            reads_zero: thin,
        };
        allocated(capacity.emit().to_vec(), allocation as usize)
    }

    fn mode_sense(&self, cdb: &Cdb) -> Result<Outcome, Sense> {
        let &Cdb::ModeSense {
            size,
            no_block_descriptors,
            long_lba,
            page_control,
            page,
            subpage,
            allocation,
        } = cdb
        else {
            return Err(illegal(asc::INVALID_COMMAND_OPERATION_CODE));
        };
        let all = page == MODE_PAGE_ALL;
        let known = all || [MODE_PAGE_CACHING, MODE_PAGE_CONTROL].contains(&page);
        if !known || (subpage != 0 && subpage != 0xff) {
            return Err(invalid_field(if known { 3 } else { 2 }, None));
        }
        let changeable = match page_control {
            PAGE_CONTROL_CHANGEABLE => true,
            PAGE_CONTROL_SAVED => {
                let sense = illegal(asc::SAVING_PARAMETERS_NOT_SUPPORTED);
                return Err(sense.with_field(field_in_cdb(2, Some(7))));
            }
            _ => false,
        };
        // Nothing can be changed, so the mask of changeable bits is all zeroes.
        let caching = if changeable { CachingPage::default() } else { self.caching_page() };
        let control = if changeable { ControlPage::default() } else { CONTROL_PAGE };
        let descriptor = BlockDescriptor { blocks: self.blocks, block_bytes: self.block_bytes };
        let parameters = ModeParameters {
            write_protected: self.read_only,
            dpo_fua: true,
            block_descriptor: (!no_block_descriptors).then_some(descriptor),
            long_lba,
            caching: (all || page == MODE_PAGE_CACHING).then_some(caching),
            control: (all || page == MODE_PAGE_CONTROL).then_some(control),
        };
        Ok(allocated(parameters.emit(size), usize::from(allocation)))
    }

    /// The truth about the page cache of this machine: writes are answered before they are stable.
    fn caching_page(&self) -> CachingPage {
        CachingPage { write_cache: !self.read_only, read_cache_disabled: false }
    }

    /// The unit is shared, so it never really stops; but what was written before is stable then.
    fn start_stop(
        &self,
        power_condition: u8,
        load_eject: bool,
        start: bool,
        no_flush: bool,
    ) -> Result<Outcome, Sense> {
        if power_condition != 0 {
            return Err(invalid_field(4, Some(7)));
        }
        if load_eject {
            // Only removable media can be ejected.
            return Err(invalid_field(4, Some(1)));
        }
        if !start && !no_flush {
            self.flush()?;
        }
        Ok(Outcome::Good)
    }

    // Checks.

    fn check_transfer(
        &self,
        size: CdbSize,
        lba: u64,
        blocks: u32,
        flags: TransferFlags,
    ) -> Result<Extent, Sense> {
        self.check_protection(flags.protect)?;
        self.check_range(lba, u64::from(blocks))?;
        let extent = self.extent(lba, u64::from(blocks));
        if extent.bytes > u64::from(TRANSFER_BYTES_MAX) {
            return Err(invalid_field(size.blocks_byte() as u16, None));
        }
        Ok(extent)
    }

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
        Ok(())
    }

    /// The bytes of blocks that have been checked.
    fn extent(&self, lba: u64, blocks: u64) -> Extent {
        let block_bytes = u64::from(self.block_bytes);
        Extent { offset: lba * block_bytes, bytes: blocks * block_bytes }
    }
}

/// VPD pages that every unit has, in ascending order.
const VPD_PAGES: [u8; 6] = [
    VPD_SUPPORTED_PAGES,
    VPD_UNIT_SERIAL_NUMBER,
    VPD_DEVICE_IDENTIFICATION,
    VPD_BLOCK_LIMITS,
    VPD_BLOCK_CHARACTERISTICS,
    VPD_LOGICAL_BLOCK_PROVISIONING,
];

/// OPTIMAL TRANSFER LENGTH: what initiators should aim at.
const TRANSFER_BYTES_OPTIMAL: u32 = 1 << 20;
/// How much VERIFY and WRITE SAME handle at a time.
const VERIFY_CHUNK_BYTES: u64 = 256 << 10;
const PAGE_CONTROL_CHANGEABLE: u8 = 1;
const PAGE_CONTROL_SAVED: u8 = 3;

/// Commands may overtake each other: a READ does not wait for the data of an earlier WRITE. Tasks
/// that another session's reset ends are answered with TASK ABORTED.
const CONTROL_PAGE: ControlPage = ControlPage {
    descriptor_sense: false,
    queue_algorithm: 1,
    software_write_protect: false,
    task_aborted_status: true,
    busy_timeout: u16::MAX,
};

/// Standard INQUIRY data of this target, for a unit that is there or is not.
pub(super) fn standard_inquiry(peripheral: u8) -> StandardInquiry {
    StandardInquiry {
        peripheral,
        removable: false,
        version: 6,
        command_queuing: true,
        vendor: *VENDOR,
        product: *b"VIRTUAL-DISK    ",
        revision: *b"0001",
    }
}

const VENDOR: &[u8; 8] = b"LUNBOOT ";

/// REQUEST SENSE data.
pub(super) fn request_sense_data(sense: &Sense, descriptor: bool, allocation: u8) -> Outcome {
    let data = if descriptor { sense.emit_descriptor() } else { sense.emit_fixed().to_vec() };
    allocated(data, usize::from(allocation))
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

impl Identity {
    fn new(target_name: &str, disk_name: &[u8]) -> Identity {
        let disk_name = disk_name.iter().copied();
        let hash = stable_hash(target_name.bytes().chain([0]).chain(disk_name));
        Identity { target_name: target_name.to_owned(), hash }
    }

    fn serial(&self) -> String {
        format!("{:016x}", self.hash)
    }

    /// The names in VPD page 83h: of the unit, of the port, of the target.
    fn designators(&self) -> Vec<Designator> {
        const UNIT: u8 = 0;
        const PORT: u8 = 1;
        const TARGET: u8 = 2;
        const NAA_LOCALLY_ASSIGNED: u64 = 0x3 << 60;
        let naa = NAA_LOCALLY_ASSIGNED | self.hash >> 4;
        let mut vendor_id = VENDOR.to_vec();
        vendor_id.extend(self.serial().bytes());
        let designator = |kind, association, value| Designator { kind, association, value };
        vec![
            designator(DesignatorKind::Naa, UNIT, naa.to_be_bytes().to_vec()),
            designator(DesignatorKind::T10VendorId, UNIT, vendor_id),
            designator(DesignatorKind::RelativeTargetPort, PORT, vec![0, 0, 0, 1]),
            designator(DesignatorKind::ScsiName, PORT, scsi_name(&self.target_name, ",t,0x0001")),
            designator(DesignatorKind::ScsiName, TARGET, scsi_name(&self.target_name, "")),
        ]
    }
}

/// FNV-1a with 64 bits. The identifiers of every disk that was ever served hang on it: it must
/// never change.
pub(crate) fn stable_hash(bytes: impl Iterator<Item = u8>) -> u64 {
    const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    bytes.fold(OFFSET_BASIS, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))
}

/// A SCSI name string: ends with a zero and is padded with zeroes to a multiple of four bytes
/// (SPC-4 §7.8.6.11).
fn scsi_name(name: &str, suffix: &str) -> Vec<u8> {
    let mut bytes = format!("{name}{suffix}\0").into_bytes();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unfit::BlockSize { logical, physical } => write!(
                f,
                "block sizes of {logical} bytes logical and {physical} bytes physical: logical \
                 must be 512 or 4096, physical a power of two and not smaller"
            ),
            Unfit::Size { size_bytes: 0, .. } => f.write_str("it is empty"),
            Unfit::Size { size_bytes, block_bytes } => write!(
                f,
                "its size of {size_bytes} bytes is not a multiple of the block size of \
                 {block_bytes} bytes: extend it to {} bytes",
                size_bytes.next_multiple_of(u64::from(*block_bytes))
            ),
        }
    }
}

impl std::error::Error for Unfit {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;
    use crate::wire::scsi::{UnmapDescriptor, emit_unmap, parse_device_identification};

    const NAME: &str = "iqn.2026-11.io.lunboot:test";
    const BLOCKS: u64 = 2048;

    /// The unit and its store, which tests look into.
    fn unit_with(options: Options) -> (LogicalUnit, Arc<MemoryStore>) {
        let store = Arc::new(MemoryStore::with_volatile_cache(BLOCKS * 512));
        let unit = LogicalUnit::new(store.clone(), NAME, b"disk", options).unwrap();
        (unit, store)
    }

    fn unit() -> (LogicalUnit, Arc<MemoryStore>) {
        unit_with(Options::default())
    }

    fn data(outcome: Outcome) -> Vec<u8> {
        match outcome {
            Outcome::Data(data) => data,
            other => panic!("expected data, got {other:?}"),
        }
    }

    fn sense(outcome: Outcome) -> Sense {
        match outcome {
            Outcome::CheckCondition(sense) => *sense,
            other => panic!("expected CHECK CONDITION, got {other:?}"),
        }
    }

    fn read(lba: u64, blocks: u32) -> [u8; 16] {
        let flags = TransferFlags::default();
        Cdb::Read { size: CdbSize::Sixteen, lba, blocks, flags }.emit()
    }

    fn write(lba: u64, blocks: u32, fua: bool) -> [u8; 16] {
        let flags = TransferFlags { fua, ..TransferFlags::default() };
        Cdb::Write { size: CdbSize::Ten, lba, blocks, flags }.emit()
    }

    fn write_same(lba: u64, blocks: u32, unmap: bool, no_data: bool) -> [u8; 16] {
        let flags = ProvisioningFlags { unmap, no_data, ..ProvisioningFlags::default() };
        Cdb::WriteSame { size: CdbSize::Sixteen, lba, blocks, flags }.emit()
    }

    #[test]
    fn a_read_gives_back_what_a_write_left() {
        let (unit, _) = unit();
        let block = [0x5a; 512];
        assert_eq!(unit.data_out_bytes(&write(7, 1, false)), 512);
        assert_eq!(unit.execute(&write(7, 1, false), &block), Outcome::Good);
        let outcome = unit.execute(&read(6, 2), &[]);
        let extent = Extent { offset: 6 * 512, bytes: 1024 };
        assert_eq!(outcome, Outcome::Read(extent));
        let mut buffer = [1; 512];
        unit.read(extent, 512, &mut buffer).unwrap();
        assert_eq!(buffer, block);
        unit.read(extent, 0, &mut buffer).unwrap();
        assert_eq!(buffer, [0; 512]);
    }

    #[test]
    fn only_forced_and_flushed_writes_are_stable() {
        let (unit, store) = unit();
        unit.execute(&write(0, 1, false), &[1; 512]);
        store.lose_cache(|| false);
        assert_eq!(store.contents()[0], 0);
        unit.execute(&write(0, 1, true), &[2; 512]);
        store.lose_cache(|| false);
        assert_eq!(store.contents()[0], 2);
        unit.execute(&write(0, 1, false), &[3; 512]);
        let flush =
            Cdb::SynchronizeCache { size: CdbSize::Ten, lba: 0, blocks: 0, immediate: true };
        assert_eq!(unit.execute(&flush.emit(), &[]), Outcome::Good);
        store.lose_cache(|| false);
        assert_eq!(store.contents()[0], 3);
    }

    #[test]
    fn ranges_are_checked_without_overflow() {
        let (unit, store) = unit();
        let flags = TransferFlags::default();
        for (lba, blocks) in
            [(BLOCKS, 1), (BLOCKS - 1, 2), (u64::MAX, 1), (u64::MAX, u32::MAX), (BLOCKS + 1, 0)]
        {
            let size = CdbSize::Sixteen;
            let commands = [
                read(lba, blocks),
                Cdb::Write { size, lba, blocks, flags }.emit(),
                Cdb::Verify { size, lba, blocks, flags, byte_check: 0 }.emit(),
                Cdb::SynchronizeCache { size, lba, blocks, immediate: false }.emit(),
                write_same(lba, blocks, false, true),
            ];
            for cdb in commands {
                let sense = sense(unit.execute(&cdb, &[0; 512]));
                assert_eq!(sense.code(), asc::LBA_OUT_OF_RANGE, "{cdb:02x?}");
                assert_eq!(sense.information, Some(lba.max(BLOCKS)));
            }
            let list = emit_unmap(&UnmapDescriptor { lba, blocks });
            let cdb = Cdb::Unmap { anchor: false, parameter_bytes: 24 }.emit();
            assert_eq!(sense(unit.execute(&cdb, &list)).code(), asc::LBA_OUT_OF_RANGE);
        }
        assert_eq!(store.contents(), vec![0; BLOCKS as usize * 512]);
        assert!(matches!(unit.execute(&read(BLOCKS, 0), &[]), Outcome::Read(_)));
    }

    #[test]
    fn transfers_that_are_too_long_point_at_their_length() {
        let store = Arc::new(MemoryStore::new(u64::from(TRANSFER_BYTES_MAX) + 512));
        let unit = LogicalUnit::new(store, NAME, b"disk", Options::default()).unwrap();
        let most = TRANSFER_BYTES_MAX / 512;
        assert!(matches!(unit.execute(&read(0, most), &[]), Outcome::Read(_)));
        let sense = sense(unit.execute(&read(0, most + 1), &[]));
        assert_eq!(sense, invalid_field(10, None));
    }

    #[test]
    fn protection_information_is_refused() {
        let (unit, _) = unit();
        let mut cdb = read(0, 1);
        cdb[1] = 0x20;
        assert_eq!(sense(unit.execute(&cdb, &[])), invalid_field(1, Some(7)));
    }

    #[test]
    fn unmapped_blocks_read_as_zero_and_their_neighbours_stay() {
        let (unit, store) = unit();
        unit.execute(&write(0, 4, false), &[9; 2048]);
        let list = emit_unmap(&UnmapDescriptor { lba: 1, blocks: 2 });
        let cdb = Cdb::Unmap { anchor: false, parameter_bytes: 24 }.emit();
        assert_eq!(unit.data_out_bytes(&cdb), 24);
        assert_eq!(unit.execute(&cdb, &list), Outcome::Good);
        let contents = store.contents();
        assert_eq!((contents[511], contents[512], contents[1535], contents[1536]), (9, 0, 0, 9));
        let truncated = sense(unit.execute(&cdb, &list[..20]));
        assert_eq!(truncated.code(), asc::PARAMETER_LIST_LENGTH_ERROR);
    }

    #[test]
    fn write_same_repeats_a_block_or_zeroes() {
        let (unit, store) = unit();
        let mut block = [0; 512];
        block[0] = 0xaa;
        block[511] = 0xbb;
        assert_eq!(unit.data_out_bytes(&write_same(2, 3, false, false)), 512);
        assert_eq!(unit.execute(&write_same(2, 3, false, false), &block), Outcome::Good);
        let expected = block.repeat(3);
        assert_eq!(store.contents()[1024..2560], expected);
        // UNMAP with data that is not zero must still write the data.
        assert_eq!(unit.execute(&write_same(6, 1, true, false), &block), Outcome::Good);
        assert_eq!(store.contents()[3072..3584], block);
        assert_eq!(unit.data_out_bytes(&write_same(2, 2, true, true)), 0);
        assert_eq!(unit.execute(&write_same(2, 2, true, true), &[]), Outcome::Good);
        assert_eq!(store.contents()[1024..2048], [0; 1024]);
        assert_eq!(store.contents()[2048..2560], block);
        let sense = sense(unit.execute(&write_same(0, 0, false, true), &[]));
        assert_eq!(sense, invalid_field(10, None));
    }

    #[test]
    fn verify_compares_when_told_to() {
        let (unit, _) = unit();
        unit.execute(&write(3, 1, false), &[7; 512]);
        let cdb = |byte_check| {
            let flags = TransferFlags::default();
            Cdb::Verify { size: CdbSize::Ten, lba: 3, blocks: 1, flags, byte_check }.emit()
        };
        let mut expected = [7; 512];
        assert_eq!(unit.data_out_bytes(&cdb(0)), 0);
        assert_eq!(unit.data_out_bytes(&cdb(1)), 512);
        assert_eq!(unit.execute(&cdb(0), &[]), Outcome::Good);
        assert_eq!(unit.execute(&cdb(1), &expected), Outcome::Good);
        expected[100] = 8;
        let miscompare = sense(unit.execute(&cdb(1), &expected));
        assert_eq!(miscompare.key, SenseKey::Miscompare);
        assert_eq!(miscompare.information, Some(100));
        assert_eq!(sense(unit.execute(&cdb(2), &expected)), invalid_field(1, Some(2)));
    }

    #[test]
    fn a_read_only_unit_refuses_every_change() {
        let (unit, store) = unit_with(Options { read_only: true, ..Options::default() });
        let list = emit_unmap(&UnmapDescriptor { lba: 0, blocks: 1 });
        let unmap = Cdb::Unmap { anchor: false, parameter_bytes: 24 }.emit();
        let block = [1; 512];
        for (cdb, data) in [
            (write(0, 1, false), &block[..]),
            (write_same(0, 1, false, false), &block[..]),
            (write_same(0, 1, true, true), &[]),
            (unmap, &list[..]),
        ] {
            let sense = sense(unit.execute(&cdb, data));
            assert_eq!(sense, Sense::new(SenseKey::DataProtect, asc::WRITE_PROTECTED));
        }
        assert_eq!(store.contents()[..512], [0; 512]);
        let mode =
            data(unit.execute(&[0x1a, 0, 0x3f, 0, 255, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[]));
        let mode = ModeParameters::parse(&mode, CdbSize::Six).unwrap();
        assert!(mode.write_protected && !mode.caching.unwrap().write_cache);
    }

    #[test]
    fn mode_sense_tells_the_truth_about_the_cache() {
        let (unit, _) = unit();
        let ask = |size, page_control, page| {
            let cdb = Cdb::ModeSense {
                size,
                no_block_descriptors: false,
                long_lba: false,
                page_control,
                page,
                subpage: 0,
                allocation: 255,
            };
            unit.execute(&cdb.emit(), &[])
        };
        for size in [CdbSize::Six, CdbSize::Ten] {
            let mode = ModeParameters::parse(&data(ask(size, 0, 0x3f)), size).unwrap();
            assert!(mode.caching.unwrap().write_cache && mode.dpo_fua && !mode.write_protected);
            assert!(mode.control.is_some());
            let descriptor = BlockDescriptor { blocks: BLOCKS, block_bytes: 512 };
            assert_eq!(mode.block_descriptor, Some(descriptor));
        }
        let changeable = ask(CdbSize::Six, 1, 0x08);
        let changeable = ModeParameters::parse(&data(changeable), CdbSize::Six).unwrap();
        assert_eq!(changeable.caching, Some(CachingPage::default()));
        assert_eq!(changeable.control, None);
        let saved = sense(ask(CdbSize::Six, 3, 0x08));
        assert_eq!(saved.code(), asc::SAVING_PARAMETERS_NOT_SUPPORTED);
        assert_eq!(sense(ask(CdbSize::Six, 0, 0x1d)), invalid_field(2, None));
    }

    #[test]
    fn inquiry_pages_and_their_truncation() {
        let (unit, _) = unit();
        let ask = |evpd, page, allocation| {
            unit.execute(&Cdb::Inquiry { evpd, page, allocation }.emit(), &[])
        };
        let standard = StandardInquiry::parse(&data(ask(false, 0, 255))).unwrap();
        assert_eq!((&standard.vendor, standard.version), (b"LUNBOOT ", 6));
        assert_eq!(data(ask(false, 0, 5)).len(), 5);
        assert_eq!(data(ask(true, 0x00, 255)), [0, 0, 0, 6, 0, 0x80, 0x83, 0xb0, 0xb1, 0xb2]);
        let limits = BlockLimits::parse(&data(ask(true, 0xb0, 255))).unwrap();
        assert_eq!((limits.transfer_max, limits.transfer_granularity), (16384, 8));
        let thin = LogicalBlockProvisioning::parse(&data(ask(true, 0xb2, 255))).unwrap();
        assert!(thin.unmap && thin.reads_zero);
        assert_eq!(sense(ask(true, 0x86, 255)), invalid_field(2, None));
        assert_eq!(sense(ask(false, 0x80, 255)), invalid_field(2, None));
    }

    #[test]
    fn identifiers_never_change_and_differ_between_units() {
        let store = || Arc::new(MemoryStore::new(512));
        let new =
            |name, disk: &[u8]| LogicalUnit::new(store(), name, disk, Options::default()).unwrap();
        let cdb = Cdb::Inquiry { evpd: true, page: 0x80, allocation: 255 }.emit();
        // FNV-1a of both names and a zero between them, computed by hand once.
        assert_eq!(data(new("a", &[0, 0]).execute(&cdb, &[]))[4..], *b"ac804b820e4fe984");
        assert_ne!(
            data(new("a", &[0, 1]).execute(&cdb, &[])),
            data(new("a", &[0, 0]).execute(&cdb, &[]))
        );
        assert_ne!(
            data(new("b", &[0, 0]).execute(&cdb, &[])),
            data(new("a", &[0, 0]).execute(&cdb, &[]))
        );
        let cdb = Cdb::Inquiry { evpd: true, page: 0x83, allocation: 1024 }.emit();
        let names =
            parse_device_identification(&data(new(NAME, b"disk").execute(&cdb, &[]))).unwrap();
        assert_eq!(names.len(), 5);
        assert_eq!((names[0].kind, names[0].value[0] >> 4), (DesignatorKind::Naa, 3));
        assert!(names[3].value.starts_with(b"iqn.2026-11.io.lunboot:test,t,0x0001\0"));
    }

    #[test]
    fn capacities_with_512_and_4096() {
        let (unit, _) = unit();
        let capacity = data(unit.execute(&Cdb::ReadCapacity16 { allocation: 32 }.emit(), &[]));
        let capacity = Capacity16::parse(&capacity).unwrap();
        assert_eq!((capacity.last_lba, capacity.block_bytes), (BLOCKS - 1, 512));
        assert_eq!((capacity.physical_exponent, capacity.provisioned), (3, true));
        let large = Options { logical_block_bytes: 4096, ..Options::default() };
        let (unit, _) = unit_with(large);
        let capacity = data(unit.execute(&Cdb::ReadCapacity10.emit(), &[]));
        let expected = Capacity10 { last_lba: (BLOCKS / 8 - 1) as u32, block_bytes: 4096 };
        assert_eq!(Capacity10::parse(&capacity), Ok(expected));
    }

    #[test]
    fn unfit_stores_are_refused_with_what_to_do() {
        let new = |size, logical_block_bytes, physical_block_bytes| {
            let options = Options { logical_block_bytes, physical_block_bytes, read_only: false };
            let store = Arc::new(MemoryStore::new(size));
            LogicalUnit::new(store, NAME, b"disk", options).map(|_| ())
        };
        assert_eq!(new(4096, 4096, 4096), Ok(()));
        let error = new(1000, 512, 4096).unwrap_err();
        assert!(error.to_string().ends_with("extend it to 1024 bytes"), "{error}");
        assert!(new(0, 512, 4096).is_err());
        assert!(new(4096, 0, 4096).is_err());
        assert!(new(4096, 1024, 4096).is_err());
        assert!(new(4096, 4096, 512).is_err());
        assert!(new(4096, 512, 0).is_err());
        assert!(new(4096, 512, 1536).is_err());
    }

    #[test]
    fn unknown_commands_are_refused() {
        let (unit, _) = unit();
        let refused = illegal(asc::INVALID_COMMAND_OPERATION_CODE);
        for opcode in [0x04, 0x15, 0x5f, 0x83, 0xa3, 0xff] {
            let mut cdb = [0; 16];
            cdb[0] = opcode;
            assert_eq!(sense(unit.execute(&cdb, &[])), refused);
        }
    }

    #[test]
    fn random_commands_never_panic() {
        let (unit, _) = unit();
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for round in 0..20_000_u32 {
            let mut cdb = [0; 16];
            for byte in &mut cdb {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                // Small values reach further than random ones.
                *byte = if state >> 63 == 0 { (state >> 32) as u8 } else { 0 };
            }
            cdb[0] = round as u8;
            let length = (state >> 40) as usize % 1100;
            let outcome = unit.execute(&cdb, &vec![state as u8; length]);
            if let Outcome::Read(extent) = outcome {
                assert!(extent.offset + extent.bytes <= unit.size_bytes());
            }
        }
    }
}
