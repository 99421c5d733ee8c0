//! Commands that move blocks or compare them: READ, WRITE, VERIFY and what is made of them (SBC-3
//! §5.2 to §5.6, §5.10 to §5.16, §5.22 to §5.38).

use super::{
    CHUNK_BYTES, Extent, LogicalUnit, Outcome, TRANSFER_BYTES_MAX, illegal, invalid_field,
    write_failed,
};
use crate::wire::scsi::{CdbSize, Sense, SenseKey, TransferFlags, asc};

/// Most blocks of one COMPARE AND WRITE: what its length field can say.
pub(super) const COMPARE_AND_WRITE_BLOCKS_MAX: u8 = u8::MAX;
/// Most bytes that one PRE-FETCH fetches.
const PRE_FETCH_BYTES_MAX: u64 = 8 << 20;

impl LogicalUnit {
    pub(super) fn start_read(
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

    pub(super) fn write(
        &self,
        size: CdbSize,
        lba: u64,
        blocks: u32,
        flags: TransferFlags,
        data: &[u8],
    ) -> Result<Outcome, Sense> {
        let extent = self.check_transfer(size, lba, blocks, flags)?;
        let data = announced(data, extent);
        if !data.is_empty() {
            self.store.write_at(data, extent.offset).map_err(write_failed)?;
        }
        self.settle(flags.fua)?;
        Ok(Outcome::Good)
    }

    /// Writes, and answers when it is on the medium and reads back as it was sent. There is no
    /// other way to know that the medium has it, so BYTCHK makes no difference.
    pub(super) fn write_and_verify(
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
        let data = announced(data, extent);
        if !data.is_empty() {
            self.store.write_at(data, extent.offset).map_err(write_failed)?;
            self.flush()?;
            self.compare(Extent { bytes: data.len() as u64, ..extent }, data)?;
        }
        Ok(Outcome::Good)
    }

    pub(super) fn verify(
        &self,
        size: CdbSize,
        lba: u64,
        blocks: u32,
        flags: TransferFlags,
        byte_check: u8,
        data: &[u8],
    ) -> Result<Outcome, Sense> {
        const MEDIUM_ONLY: u8 = 0;
        const EACH_BLOCK: u8 = 1;
        const ONE_BLOCK: u8 = 3;
        let extent = self.check_transfer(size, lba, blocks, flags)?;
        match byte_check {
            MEDIUM_ONLY => self.for_each_chunk(extent, |_, _| Ok(()))?,
            EACH_BLOCK => {
                let bytes = extent.bytes.min(data.len() as u64);
                self.compare(Extent { bytes, ..extent }, data)?;
            }
            ONE_BLOCK if extent.bytes == 0 => {}
            ONE_BLOCK if data.len() != self.block_bytes as usize => {
                return Err(illegal(asc::INVALID_FIELD_IN_CDB));
            }
            ONE_BLOCK => self.for_each_chunk(extent, |from, stored| {
                let expected = data.iter().cycle();
                match stored.iter().zip(expected).position(|(a, b)| a != b) {
                    Some(index) => Err(miscompare(from + index as u64)),
                    None => Ok(()),
                }
            })?,
            _ => return Err(invalid_field(1, Some(2))),
        }
        Ok(Outcome::Good)
    }

    /// Writes the second half of the data if the first half is what is there. Nothing else may be
    /// executed meanwhile.
    pub(super) fn compare_and_write(
        &self,
        lba: u64,
        blocks: u8,
        flags: TransferFlags,
        data: &[u8],
    ) -> Result<Outcome, Sense> {
        let extent = self.check_transfer(CdbSize::Sixteen, lba, u32::from(blocks), flags)?;
        if data.len() as u64 != 2 * extent.bytes {
            // The initiator means other blocks than it says.
            return Err(invalid_field(13, None));
        }
        let (expected, new) = data.split_at(extent.bytes as usize);
        self.compare(extent, expected)?;
        if !new.is_empty() {
            self.store.write_at(new, extent.offset).map_err(write_failed)?;
        }
        self.settle(flags.fua)?;
        Ok(Outcome::Good)
    }

    /// Writes so that whatever happens, later all of it is there or nothing. Nothing else may be
    /// executed meanwhile, or a READ could see a part of it.
    pub(super) fn write_atomically(
        &self,
        lba: u64,
        boundary: u16,
        blocks: u16,
        flags: TransferFlags,
        data: &[u8],
    ) -> Result<Outcome, Sense> {
        let extent = self.check_transfer(CdbSize::Sixteen, lba, u32::from(blocks), flags)?;
        // No boundary is announced, so there must be none.
        if boundary != 0 {
            return Err(invalid_field(10, None));
        }
        let fits = extent.bytes <= u64::from(self.store.atomic_bytes_max());
        if !fits || data.len() as u64 != extent.bytes {
            return Err(invalid_field(12, None));
        }
        if !data.is_empty() {
            self.store.write_atomically(data, extent.offset).map_err(write_failed)?;
        }
        self.settle(flags.fua)?;
        Ok(Outcome::Good)
    }

    /// Sets the bits that the data has. Nothing else may be executed meanwhile.
    pub(super) fn or_write(
        &self,
        lba: u64,
        blocks: u32,
        flags: TransferFlags,
        data: &[u8],
    ) -> Result<Outcome, Sense> {
        let extent = self.check_transfer(CdbSize::Sixteen, lba, blocks, flags)?;
        let data = announced(data, extent);
        let extent = Extent { bytes: data.len() as u64, ..extent };
        self.for_each_chunk(extent, |from, stored| {
            let bits = &data[from as usize..][..stored.len()];
            stored.iter_mut().zip(bits).for_each(|(stored, bits)| *stored |= bits);
            self.store.write_at(stored, extent.offset + from).map_err(write_failed)
        })?;
        self.settle(flags.fua)?;
        Ok(Outcome::Good)
    }

    /// Asks for the blocks to be read ahead. The answer is never CONDITION MET, which would
    /// promise that all of them are in the cache: that cache is this machine's page cache, which
    /// gives no promise.
    pub(super) fn pre_fetch(&self, lba: u64, blocks: u32) -> Result<Outcome, Sense> {
        self.check_range(lba, u64::from(blocks))?;
        let blocks = if blocks == 0 { self.blocks - lba } else { u64::from(blocks) };
        let extent = self.extent(lba, blocks);
        let bytes = extent.bytes.min(PRE_FETCH_BYTES_MAX);
        self.store.prefetch(extent.offset, bytes);
        Ok(Outcome::Good)
    }

    pub(super) fn synchronize_cache(&self, lba: u64, blocks: u32) -> Result<Outcome, Sense> {
        self.check_range(lba, u64::from(blocks))?;
        // The store can flush only as a whole. With IMMED the answer could come earlier, but
        // nobody is harmed by an answer that is true when it comes.
        self.flush()?;
        Ok(Outcome::Good)
    }

    /// Makes what was written stable if the initiator wants it so, for this command or for all.
    pub(super) fn settle(&self, forced: bool) -> Result<(), Sense> {
        if forced || !self.modes.write_cache() { self.flush() } else { Ok(()) }
    }

    /// Compares an extent with data of its length.
    fn compare(&self, extent: Extent, expected: &[u8]) -> Result<(), Sense> {
        self.for_each_chunk(extent, |from, stored| {
            let expected = &expected[from as usize..][..stored.len()];
            match stored.iter().zip(expected).position(|(a, b)| a != b) {
                Some(index) => Err(miscompare(from + index as u64)),
                None => Ok(()),
            }
        })
    }

    /// Reads an extent piece by piece: each with the place in the extent where it begins.
    fn for_each_chunk(
        &self,
        extent: Extent,
        mut take: impl FnMut(u64, &mut [u8]) -> Result<(), Sense>,
    ) -> Result<(), Sense> {
        let mut buffer = vec![0; extent.bytes.min(CHUNK_BYTES) as usize];
        let mut from = 0;
        while from < extent.bytes {
            let chunk = (extent.bytes - from).min(CHUNK_BYTES) as usize;
            let stored = &mut buffer[..chunk];
            self.read(extent, from, stored)?;
            take(from, stored)?;
            from += chunk as u64;
        }
        Ok(())
    }

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
}

/// What of the data is for the extent: less than all of it if the initiator announced less than the
/// command wants. The rest stays as it is, even in the middle of a block, and the residual tells
/// how much that is (RFC 7143 §11.4.5).
fn announced(data: &[u8], extent: Extent) -> &[u8] {
    &data[..extent.bytes.min(data.len() as u64) as usize]
}

/// The first difference is at this byte of what was compared.
fn miscompare(offset: u64) -> Sense {
    Sense::new(SenseKey::Miscompare, asc::MISCOMPARE_DURING_VERIFY).with_information(offset)
}
