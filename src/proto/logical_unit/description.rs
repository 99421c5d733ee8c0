//! What a logical unit says of itself: INQUIRY, READ CAPACITY, READ DEFECT DATA (SPC-4 §6.6, §7.8;
//! SBC-3 §5.15 to §5.18).

use super::transfer::COMPARE_AND_WRITE_BLOCKS_MAX;
use super::{
    LogicalUnit, Outcome, PAGE_BYTES, TRANSFER_BYTES_MAX, UNMAP_BLOCKS_MAX, UNMAP_DESCRIPTORS_MAX,
    WRITE_SAME_BYTES_MAX, allocated, invalid_field,
};
use crate::wire::scsi::{
    BlockCharacteristics, BlockLimits, Capacity10, Capacity16, CdbSize, Designator, DesignatorKind,
    ExtendedInquiry, LogicalBlockProvisioning, PERIPHERAL_DISK, Sense, StandardInquiry,
    VPD_BLOCK_CHARACTERISTICS, VPD_BLOCK_LIMITS, VPD_DEVICE_IDENTIFICATION, VPD_EXTENDED_INQUIRY,
    VPD_LOGICAL_BLOCK_PROVISIONING, VPD_MODE_PAGE_POLICY, VPD_SUPPORTED_PAGES,
    VPD_UNIT_SERIAL_NUMBER, emit_device_identification, emit_shared_mode_pages,
    emit_supported_pages, emit_unit_serial_number,
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
            (false, 0) => {
                let removable = self.is_removable();
                StandardInquiry { removable, ..standard_inquiry(PERIPHERAL_DISK) }.emit().to_vec()
            }
            (true, VPD_SUPPORTED_PAGES) => emit_supported_pages(&VPD_PAGES),
            (true, VPD_UNIT_SERIAL_NUMBER) => emit_unit_serial_number(&self.identity.serial()),
            (true, VPD_DEVICE_IDENTIFICATION) => {
                emit_device_identification(&self.identity.designators())
            }
            // The cache is volatile; commands may be ordered, none goes ahead of the queue.
            (true, VPD_EXTENDED_INQUIRY) => ExtendedInquiry {
                simple: true,
                ordered: true,
                head_of_queue: false,
                volatile_cache: !self.read_only,
            }
            .emit()
            .to_vec(),
            (true, VPD_MODE_PAGE_POLICY) => emit_shared_mode_pages(),
            (true, VPD_BLOCK_LIMITS) => self.block_limits().emit().to_vec(),
            (true, VPD_BLOCK_CHARACTERISTICS) => {
                let reads_after_block_erase = self.knows_block_erase();
                let (rotation_rate, fua_behavior) = (1, true);
                BlockCharacteristics { rotation_rate, fua_behavior, reads_after_block_erase }
                    .emit()
                    .to_vec()
            }
            (true, VPD_LOGICAL_BLOCK_PROVISIONING) => self.provisioning().emit().to_vec(),
            _ => return Err(invalid_field(2, None)),
        };
        Ok(allocated(data, usize::from(allocation)))
    }

    fn block_limits(&self) -> BlockLimits {
        let thin = self.store.can_discard();
        let granularity = (1 << self.physical_exponent).max(PAGE_BYTES / self.block_bytes);
        BlockLimits {
            write_same_non_zero: true,
            compare_and_write_max: COMPARE_AND_WRITE_BLOCKS_MAX,
            transfer_granularity: u16::try_from(granularity).unwrap_or(u16::MAX),
            transfer_max: TRANSFER_BYTES_MAX / self.block_bytes,
            transfer_optimal: TRANSFER_BYTES_OPTIMAL / self.block_bytes,
            unmap_blocks_max: if thin { UNMAP_BLOCKS_MAX } else { 0 },
            unmap_descriptors_max: if thin { UNMAP_DESCRIPTORS_MAX } else { 0 },
            unmap_granularity: if thin { granularity } else { 0 },
            unmap_alignment: thin.then_some(0),
            write_same_max: u64::from(WRITE_SAME_BYTES_MAX / self.block_bytes),
            atomic_max: self.store.atomic_bytes_max() / self.block_bytes,
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

    /// READ DEFECT DATA: there are none to be seen from here, in whatever format they are wanted.
    pub(super) fn read_defect_data(
        &self,
        size: CdbSize,
        wanted: (bool, bool),
        format: u8,
        allocation: u32,
    ) -> Outcome {
        let mut data = vec![0; if size <= CdbSize::Ten { 4 } else { 8 }];
        data[1] = u8::from(wanted.0) << 4 | u8::from(wanted.1) << 3 | format;
        allocated(data, allocation as usize)
    }
}

/// VPD pages that every unit has, in ascending order.
const VPD_PAGES: [u8; 8] = [
    VPD_SUPPORTED_PAGES,
    VPD_UNIT_SERIAL_NUMBER,
    VPD_DEVICE_IDENTIFICATION,
    VPD_EXTENDED_INQUIRY,
    VPD_MODE_PAGE_POLICY,
    VPD_BLOCK_LIMITS,
    VPD_BLOCK_CHARACTERISTICS,
    VPD_LOGICAL_BLOCK_PROVISIONING,
];

/// OPTIMAL TRANSFER LENGTH: what initiators should aim at.
const TRANSFER_BYTES_OPTIMAL: u32 = 1 << 20;

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

    pub(super) fn serial(&self) -> String {
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
