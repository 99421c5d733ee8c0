//! Commands that change blocks without transferring each of them, and the one that tells which
//! blocks have a place (SBC-3 §5.5, §5.28, §5.43, §5.44).

use std::io;

use super::{
    CHUNK_BYTES, Extent, LogicalUnit, Outcome, UNMAP_BLOCKS_MAX, UNMAP_DESCRIPTORS_MAX,
    WRITE_SAME_BYTES_MAX, allocated, illegal, invalid_field, invalid_parameter, write_failed,
};
use crate::wire::scsi::{
    CdbSize, LbaStatus, ProvisioningFlags, ProvisioningStatus, Sense, SenseKey, asc,
    emit_lba_status, parse_unmap,
};

/// Most ranges of one answer to GET LBA STATUS: whoever wants to know more asks again.
const LBA_STATUS_RANGES_MAX: usize = 256;

impl LogicalUnit {
    pub(super) fn unmap(
        &self,
        anchor: bool,
        parameter_bytes: u16,
        data: &[u8],
    ) -> Result<Outcome, Sense> {
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
        for range in ranges.filter(|range| range.blocks != 0) {
            let extent = self.extent(range.lba, u64::from(range.blocks));
            self.store.discard(extent.offset, extent.bytes).map_err(write_failed)?;
        }
        self.settle(false)?;
        Ok(Outcome::Good)
    }

    pub(super) fn write_same(
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
        if flags.unmap && !self.store.can_discard() {
            return Err(invalid_field(1, Some(3)));
        }
        self.check_range(lba, u64::from(blocks))?;
        let extent = self.extent(lba, u64::from(blocks));
        // WSNZ: zero would be "up to the end", which takes as long as the disk is large.
        if blocks == 0 || extent.bytes > u64::from(WRITE_SAME_BYTES_MAX) {
            return Err(invalid_field(size.blocks_byte() as u16, None));
        }
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
        self.settle(false)?;
        Ok(Outcome::Good)
    }

    pub(super) fn write_pattern(&self, block: &[u8], extent: Extent) -> io::Result<()> {
        let chunk_bytes = extent.bytes.min(CHUNK_BYTES);
        let chunk = block.repeat(chunk_bytes as usize / block.len());
        let mut done = 0;
        while done < extent.bytes {
            let part = (extent.bytes - done).min(chunk.len() as u64);
            self.store.write_at(&chunk[..part as usize], extent.offset + done)?;
            done += part;
        }
        Ok(())
    }

    /// GET LBA STATUS: from the block asked for on, as many ranges as fit. A block of which a part
    /// has a place is mapped.
    pub(super) fn lba_status(&self, lba: u64, allocation: u32) -> Result<Outcome, Sense> {
        const HEADER_BYTES: usize = 8;
        const DESCRIPTOR_BYTES: usize = 16;
        if lba >= self.blocks {
            return Err(illegal(asc::LBA_OUT_OF_RANGE).with_information(self.blocks));
        }
        let room = (allocation as usize).saturating_sub(HEADER_BYTES).div_ceil(DESCRIPTOR_BYTES);
        let block_bytes = u64::from(self.block_bytes);
        let mut ranges: Vec<LbaStatus> = Vec::new();
        let mut next = lba;
        while next < self.blocks && ranges.len() < room.clamp(1, LBA_STATUS_RANGES_MAX) {
            let allocation = self
                .store
                .allocation(next * block_bytes)
                .map_err(|_| Sense::new(SenseKey::MediumError, asc::UNRECOVERED_READ_ERROR))?;
            // A hole ends with its last whole block, data with the block that holds its end.
            let (end, status) = if allocation.mapped {
                (allocation.end.div_ceil(block_bytes), ProvisioningStatus::Mapped)
            } else {
                (allocation.end / block_bytes, ProvisioningStatus::Deallocated)
            };
            let (end, status) = match status {
                // Less than a block of a hole: the block is mapped.
                ProvisioningStatus::Deallocated if end <= next => {
                    (next + 1, ProvisioningStatus::Mapped)
                }
                status => (end, status),
            };
            let blocks = u32::try_from(end.min(self.blocks) - next).unwrap_or(u32::MAX);
            match ranges.last_mut() {
                Some(last)
                    if last.status == status && last.blocks.checked_add(blocks).is_some() =>
                {
                    last.blocks += blocks;
                }
                _ => ranges.push(LbaStatus { lba: next, blocks, status }),
            }
            next += u64::from(blocks);
        }
        Ok(allocated(emit_lba_status(&ranges), allocation as usize))
    }
}
