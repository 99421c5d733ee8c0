//! What a logical unit says of itself: INQUIRY, READ CAPACITY, MODE SENSE (SPC-4 §6.6, §6.13, §7.5,
//! §7.8; SBC-3 §5.15, §5.16).

use super::{
    LogicalUnit, Outcome, TRANSFER_BYTES_MAX, UNMAP_BLOCKS_MAX, UNMAP_DESCRIPTORS_MAX,
    WRITE_SAME_BYTES_MAX, allocated, field_in_cdb, illegal, invalid_field,
};
use crate::wire::scsi::{
    BlockCharacteristics, BlockDescriptor, BlockLimits, CachingPage, Capacity10, Capacity16, Cdb,
    ControlPage, Designator, DesignatorKind, LogicalBlockProvisioning, MODE_PAGE_ALL,
    MODE_PAGE_CACHING, MODE_PAGE_CONTROL, ModeParameters, PERIPHERAL_DISK, Sense, StandardInquiry,
    VPD_BLOCK_CHARACTERISTICS, VPD_BLOCK_LIMITS, VPD_DEVICE_IDENTIFICATION,
    VPD_LOGICAL_BLOCK_PROVISIONING, VPD_SUPPORTED_PAGES, VPD_UNIT_SERIAL_NUMBER, asc,
    emit_device_identification, emit_supported_pages, emit_unit_serial_number,
};

/// The names by which an initiator knows a logical unit again after any restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    target_name: String,
    hash: u64,
}

impl LogicalUnit {
    pub(super) fn inquiry(&self, evpd: bool, page: u8, allocation: u16) -> Result<Outcome, Sense> {
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

    pub(super) fn read_capacity_10(&self) -> Outcome {
        let last_lba = u32::try_from(self.blocks - 1).unwrap_or(u32::MAX);
        let capacity = Capacity10 { last_lba, block_bytes: self.block_bytes };
        Outcome::Data(capacity.emit().to_vec())
    }

    pub(super) fn read_capacity_16(&self, allocation: u32) -> Outcome {
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

    pub(super) fn mode_sense(&self, cdb: &Cdb) -> Result<Outcome, Sense> {
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
pub(in super::super) fn standard_inquiry(peripheral: u8) -> StandardInquiry {
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

impl Identity {
    pub(super) fn new(target_name: &str, disk_name: &[u8]) -> Identity {
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
