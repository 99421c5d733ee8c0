//! Parameter data other than INQUIRY: capacities, mode pages, UNMAP lists, LUN lists
//! (SPC-4 §6.33, §7.5; SBC-3 §5.12, §5.28, §6.5).
//!
//! The target emits what the initiator reads. Lists may be cut short by an allocation length.

use super::super::{Malformed, be16, be24, be32, be64};
use super::{CdbSize, Lun};

/// READ CAPACITY(10) data (SBC-3 §5.12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity10 {
    /// LBA of the last block; `u32::MAX` says to ask with READ CAPACITY(16).
    pub last_lba: u32,
    /// Bytes of a logical block.
    pub block_bytes: u32,
}

impl Capacity10 {
    /// Length of the data.
    pub const BYTES: usize = 8;

    /// Reads the data.
    pub fn parse(bytes: &[u8]) -> Result<Capacity10, Malformed> {
        let bytes: &[u8; Capacity10::BYTES] = bytes.first_chunk().ok_or(Malformed::number(
            "READ CAPACITY(10) data",
            "length",
            bytes.len() as u64,
            "must be 8 bytes (SBC-3 §5.12)",
        ))?;
        Ok(Capacity10 { last_lba: be32(bytes, 0), block_bytes: be32(bytes, 4) })
    }

    /// The data.
    pub fn emit(&self) -> [u8; Capacity10::BYTES] {
        let mut out = [0; Capacity10::BYTES];
        out[..4].copy_from_slice(&self.last_lba.to_be_bytes());
        out[4..].copy_from_slice(&self.block_bytes.to_be_bytes());
        out
    }
}

/// READ CAPACITY(16) data (SBC-3 §5.13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity16 {
    /// LBA of the last block.
    pub last_lba: u64,
    /// Bytes of a logical block.
    pub block_bytes: u32,
    /// PROT_EN: blocks carry protection information.
    pub protection: bool,
    /// Two to this power logical blocks are a physical block; four bits.
    pub physical_exponent: u8,
    /// LOWEST ALIGNED LOGICAL BLOCK ADDRESS, 14 bits.
    pub lowest_aligned_lba: u16,
    /// LBPME: thin or resource provisioned.
    pub provisioned: bool,
    /// LBPRZ: unmapped blocks read as zero.
    pub reads_zero: bool,
}

impl Capacity16 {
    /// Length of the data.
    pub const BYTES: usize = 32;

    /// Reads the data; everything behind the block length may be missing and is then zero.
    pub fn parse(bytes: &[u8]) -> Result<Capacity16, Malformed> {
        if bytes.len() < 12 {
            return Err(Malformed::number(
                "READ CAPACITY(16) data",
                "length",
                bytes.len() as u64,
                "must be at least 12 bytes (SBC-3 §5.13)",
            ));
        }
        let mut data = [0; Capacity16::BYTES];
        let present = bytes.len().min(data.len());
        data[..present].copy_from_slice(&bytes[..present]);
        Ok(Capacity16 {
            last_lba: be64(&data, 0),
            block_bytes: be32(&data, 8),
            protection: data[12] & 0x01 != 0,
            physical_exponent: data[13] & 0x0f,
            lowest_aligned_lba: be16(&data, 14) & LOWEST_ALIGNED_MASK,
            provisioned: data[14] & 0x80 != 0,
            reads_zero: data[14] & 0x40 != 0,
        })
    }

    /// The data.
    pub fn emit(&self) -> [u8; Capacity16::BYTES] {
        let mut out = [0; Capacity16::BYTES];
        out[..8].copy_from_slice(&self.last_lba.to_be_bytes());
        out[8..12].copy_from_slice(&self.block_bytes.to_be_bytes());
        out[12] = u8::from(self.protection);
        out[13] = self.physical_exponent & 0x0f;
        let aligned = self.lowest_aligned_lba & LOWEST_ALIGNED_MASK;
        out[14..16].copy_from_slice(&aligned.to_be_bytes());
        out[14] |= u8::from(self.provisioned) << 7 | u8::from(self.reads_zero) << 6;
        out
    }
}

const LOWEST_ALIGNED_MASK: u16 = 0x3fff;

/// PAGE CODE of the caching mode page.
pub const MODE_PAGE_CACHING: u8 = 0x08;
/// PAGE CODE of the control mode page.
pub const MODE_PAGE_CONTROL: u8 = 0x0a;
/// PAGE CODE that stands for all pages.
pub const MODE_PAGE_ALL: u8 = 0x3f;

/// Caching mode page (SBC-3 §6.5.5): what matters of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct CachingPage {
    /// WCE: writes may be answered before they are stable.
    pub write_cache: bool,
    /// RCD: reads are not served from the cache.
    pub read_cache_disabled: bool,
}

impl CachingPage {
    const BODY_BYTES: usize = 18;

    fn parse(body: &[u8]) -> CachingPage {
        let flags = body.first().copied().unwrap_or(0);
        CachingPage { write_cache: flags & 0x04 != 0, read_cache_disabled: flags & 0x01 != 0 }
    }

    fn emit(&self, out: &mut Vec<u8>) {
        let mut body = [0; CachingPage::BODY_BYTES];
        body[0] = u8::from(self.write_cache) << 2 | u8::from(self.read_cache_disabled);
        out.extend([MODE_PAGE_CACHING, CachingPage::BODY_BYTES as u8]);
        out.extend(body);
    }
}

/// Control mode page (SPC-4 §7.5.8): what matters of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ControlPage {
    /// D_SENSE: sense data comes in descriptor format.
    pub descriptor_sense: bool,
    /// QUEUE ALGORITHM MODIFIER, four bits: 0 restricted, 1 unrestricted reordering.
    pub queue_algorithm: u8,
    /// SWP: write-protected by the initiators' wish.
    pub software_write_protect: bool,
    /// TAS: aborted tasks end with TASK ABORTED status.
    pub task_aborted_status: bool,
    /// BUSY TIMEOUT PERIOD, in units of 100 ms; `u16::MAX` is unlimited.
    pub busy_timeout: u16,
}

impl ControlPage {
    const BODY_BYTES: usize = 10;

    fn parse(body: &[u8]) -> ControlPage {
        let at = |index: usize| body.get(index).copied().unwrap_or(0);
        ControlPage {
            descriptor_sense: at(0) & 0x04 != 0,
            queue_algorithm: at(1) >> 4,
            software_write_protect: at(2) & 0x08 != 0,
            task_aborted_status: at(3) & 0x40 != 0,
            busy_timeout: u16::from_be_bytes([at(6), at(7)]),
        }
    }

    fn emit(&self, out: &mut Vec<u8>) {
        let mut body = [0; ControlPage::BODY_BYTES];
        body[0] = u8::from(self.descriptor_sense) << 2;
        body[1] = self.queue_algorithm << 4;
        body[2] = u8::from(self.software_write_protect) << 3;
        body[3] = u8::from(self.task_aborted_status) << 6;
        body[6..8].copy_from_slice(&self.busy_timeout.to_be_bytes());
        out.extend([MODE_PAGE_CONTROL, ControlPage::BODY_BYTES as u8]);
        out.extend(body);
    }
}

/// Block descriptor of a mode parameter list (SBC-3 §6.5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockDescriptor {
    /// Number of blocks; in short form saturated at `u32::MAX`.
    pub blocks: u64,
    /// Bytes of a logical block.
    pub block_bytes: u32,
}

/// What MODE SENSE answers: header, block descriptor and the pages that this project knows
/// (SPC-4 §7.5.4 to §7.5.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ModeParameters {
    /// WP: the medium is write-protected.
    pub write_protected: bool,
    /// DPOFUA: the bits DPO and FUA are understood.
    pub dpo_fua: bool,
    /// The first block descriptor.
    pub block_descriptor: Option<BlockDescriptor>,
    /// The block descriptor is in long form (LONGLBA); only with the 10-byte header.
    pub long_lba: bool,
    /// The caching page.
    pub caching: Option<CachingPage>,
    /// The control page.
    pub control: Option<ControlPage>,
}

impl ModeParameters {
    /// Reads what MODE SENSE of this size answered. Pages that are not known are skipped, a page
    /// that runs past the end of the data ends it: devices cut answers at the allocation length.
    pub fn parse(bytes: &[u8], size: CdbSize) -> Result<ModeParameters, Malformed> {
        let header_bytes = if size == CdbSize::Six { 4 } else { 8 };
        if bytes.len() < header_bytes {
            return Err(Malformed::number(
                "mode parameter header",
                "length",
                bytes.len() as u64,
                "must be 4 bytes for MODE SENSE(6), 8 for MODE SENSE(10) (SPC-4 §7.5.5)",
            ));
        }
        let (data_bytes, device_specific, long_lba, descriptor_bytes) = if size == CdbSize::Six {
            (1 + usize::from(bytes[0]), bytes[2], false, usize::from(bytes[3]))
        } else {
            let long_lba = bytes[4] & 0x01 != 0;
            (2 + usize::from(be16(bytes, 0)), bytes[3], long_lba, usize::from(be16(bytes, 6)))
        };
        let data = &bytes[..bytes.len().min(data_bytes).max(header_bytes)];
        let mut parameters = ModeParameters {
            write_protected: device_specific & 0x80 != 0,
            dpo_fua: device_specific & 0x10 != 0,
            long_lba,
            ..ModeParameters::default()
        };
        let descriptors_end = data.len().min(header_bytes + descriptor_bytes);
        parameters.block_descriptor =
            parse_block_descriptor(&data[header_bytes..descriptors_end], long_lba);
        let mut rest = &data[descriptors_end..];
        while let Some((page, subpage, body, behind)) = next_page(rest) {
            match (page, subpage) {
                (MODE_PAGE_CACHING, 0) => parameters.caching = Some(CachingPage::parse(body)),
                (MODE_PAGE_CONTROL, 0) => parameters.control = Some(ControlPage::parse(body)),
                _ => {}
            }
            rest = behind;
        }
        Ok(parameters)
    }

    /// The answer to MODE SENSE of this size, before truncation to the allocation length.
    pub fn emit(&self, size: CdbSize) -> Vec<u8> {
        let six = size == CdbSize::Six;
        let header_bytes = if six { 4 } else { 8 };
        let long_lba = self.long_lba && !six && self.block_descriptor.is_some();
        let mut out = vec![0; header_bytes];
        if let Some(descriptor) = &self.block_descriptor {
            if long_lba {
                out.extend(descriptor.blocks.to_be_bytes());
                out.extend([0; 4]);
                out.extend(descriptor.block_bytes.to_be_bytes());
            } else {
                let blocks = u32::try_from(descriptor.blocks).unwrap_or(u32::MAX);
                out.extend(blocks.to_be_bytes());
                // The density code and the upper byte of the block length share this word.
                out.extend((descriptor.block_bytes & 0x00ff_ffff).to_be_bytes());
            }
        }
        let descriptor_bytes = (out.len() - header_bytes) as u8;
        if let Some(page) = &self.caching {
            page.emit(&mut out);
        }
        if let Some(page) = &self.control {
            page.emit(&mut out);
        }
        let device_specific = u8::from(self.write_protected) << 7 | u8::from(self.dpo_fua) << 4;
        if six {
            out[0] = (out.len() - 1) as u8;
            out[2] = device_specific;
            out[3] = descriptor_bytes;
        } else {
            out[1] = (out.len() - 2) as u8;
            out[3] = device_specific;
            out[4] = u8::from(long_lba);
            out[7] = descriptor_bytes;
        }
        out
    }
}

fn parse_block_descriptor(bytes: &[u8], long_lba: bool) -> Option<BlockDescriptor> {
    if long_lba && bytes.len() >= 16 {
        Some(BlockDescriptor { blocks: be64(bytes, 0), block_bytes: be32(bytes, 12) })
    } else if !long_lba && bytes.len() >= 8 {
        Some(BlockDescriptor { blocks: u64::from(be32(bytes, 0)), block_bytes: be24(bytes, 5) })
    } else {
        None
    }
}

/// The first mode page of `bytes`, as (page, subpage, body, what comes behind).
fn next_page(bytes: &[u8]) -> Option<(u8, u8, &[u8], &[u8])> {
    /// SPF: the page has a subpage code and a 2-byte length (SPC-4 §7.5.7).
    const SPF: u8 = 0x40;
    let first = *bytes.first()?;
    let (subpage, start, length) = if first & SPF == 0 {
        (0, 2, usize::from(*bytes.get(1)?))
    } else {
        let head: &[u8; 4] = bytes.first_chunk()?;
        (head[1], 4, usize::from(be16(head, 2)))
    };
    let body = bytes.get(start..start + length)?;
    Some((first & 0x3f, subpage, body, &bytes[start + length..]))
}

/// Length of the header of an UNMAP parameter list.
pub const UNMAP_HEADER_BYTES: usize = 8;
/// Length of one block descriptor in it.
pub const UNMAP_DESCRIPTOR_BYTES: usize = 16;

/// One range to unmap (SBC-3 §5.28.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnmapDescriptor {
    /// First logical block.
    pub lba: u64,
    /// Number of logical blocks.
    pub blocks: u32,
}

/// The parameter list that unmaps one range.
pub fn emit_unmap(range: &UnmapDescriptor) -> [u8; UNMAP_HEADER_BYTES + UNMAP_DESCRIPTOR_BYTES] {
    let mut out = [0; UNMAP_HEADER_BYTES + UNMAP_DESCRIPTOR_BYTES];
    out[1] = (out.len() - 2) as u8;
    out[3] = UNMAP_DESCRIPTOR_BYTES as u8;
    out[8..16].copy_from_slice(&range.lba.to_be_bytes());
    out[16..20].copy_from_slice(&range.blocks.to_be_bytes());
    out
}

/// The ranges of an UNMAP parameter list. Incomplete descriptors at the end are ignored, as
/// SBC-3 §5.28.2 says; data that ends before its own lengths say is an error.
pub fn parse_unmap(
    bytes: &[u8],
) -> Result<impl Iterator<Item = UnmapDescriptor> + Clone, Malformed> {
    if bytes.len() < UNMAP_HEADER_BYTES {
        return Err(Malformed::number(
            "UNMAP parameter list",
            "length",
            bytes.len() as u64,
            "must be at least 8 bytes (SBC-3 §5.28.2)",
        ));
    }
    let descriptor_bytes = be16(bytes, 2);
    let end = UNMAP_HEADER_BYTES + usize::from(descriptor_bytes);
    let descriptors = bytes.get(UNMAP_HEADER_BYTES..end).ok_or(Malformed::number(
        "UNMAP parameter list",
        "UNMAP BLOCK DESCRIPTOR DATA LENGTH",
        descriptor_bytes,
        "must not exceed the parameter list (SBC-3 §5.28.2)",
    ))?;
    Ok(descriptors
        .chunks_exact(UNMAP_DESCRIPTOR_BYTES)
        .map(|bytes| UnmapDescriptor { lba: be64(bytes, 0), blocks: be32(bytes, 8) }))
}

/// REPORT LUNS data of these LUNs (SPC-4 §6.33.2).
pub fn emit_report_luns(luns: &[Lun]) -> Vec<u8> {
    let length = u32::try_from(8 * luns.len()).expect("LUNs are numbered with 16 bits");
    let mut out = Vec::with_capacity(8 + 8 * luns.len());
    out.extend(length.to_be_bytes());
    out.extend([0; 4]);
    for lun in luns {
        out.extend(lun.0);
    }
    out
}

/// The LUNs in REPORT LUNS data and the number that the target has, which is larger when the
/// data was cut at the allocation length.
pub fn parse_report_luns(bytes: &[u8]) -> Result<(Vec<Lun>, usize), Malformed> {
    if bytes.len() < 8 {
        return Err(Malformed::number(
            "REPORT LUNS data",
            "length",
            bytes.len() as u64,
            "must be at least 8 bytes (SPC-4 §6.33.2)",
        ));
    }
    let total = be32(bytes, 0) as usize / 8;
    let luns = bytes[8..].chunks_exact(8).take(total);
    let luns = luns.map(|bytes| Lun(be64(bytes, 0).to_be_bytes())).collect();
    Ok((luns, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capacities_both_ways() {
        let ten = Capacity10 { last_lba: 0x1234, block_bytes: 512 };
        assert_eq!(ten.emit(), [0, 0, 0x12, 0x34, 0, 0, 2, 0]);
        assert_eq!(Capacity10::parse(&ten.emit()), Ok(ten));
        assert!(Capacity10::parse(&[0; 7]).is_err());
        let sixteen = Capacity16 {
            last_lba: 0x0102_0304_0506_0708,
            block_bytes: 512,
            protection: false,
            physical_exponent: 3,
            lowest_aligned_lba: 7,
            provisioned: true,
            reads_zero: true,
        };
        let mut golden = [0; 32];
        golden[..16].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 2, 0, 0, 3, 0xc0, 7]);
        assert_eq!(sixteen.emit(), golden);
        assert_eq!(Capacity16::parse(&golden), Ok(sixteen));
        let short = Capacity16::parse(&golden[..12]).unwrap();
        assert_eq!((short.block_bytes, short.provisioned), (512, false));
        assert!(Capacity16::parse(&golden[..11]).is_err());
    }

    fn mode_parameters() -> ModeParameters {
        ModeParameters {
            write_protected: true,
            dpo_fua: true,
            block_descriptor: Some(BlockDescriptor { blocks: 0x1000, block_bytes: 512 }),
            long_lba: false,
            caching: Some(CachingPage { write_cache: true, read_cache_disabled: false }),
            control: Some(ControlPage {
                descriptor_sense: false,
                queue_algorithm: 1,
                software_write_protect: false,
                task_aborted_status: false,
                busy_timeout: 0xffff,
            }),
        }
    }

    #[test]
    fn mode_parameters_with_short_header() {
        let bytes = mode_parameters().emit(CdbSize::Six);
        let mut golden = vec![43, 0, 0x90, 8, 0, 0, 0x10, 0, 0, 0, 2, 0, 0x08, 0x12, 0x04];
        golden.resize(golden.len() + 17, 0);
        golden.extend([0x0a, 0x0a, 0, 0x10, 0, 0, 0, 0, 0xff, 0xff, 0, 0]);
        assert_eq!(bytes, golden);
        assert_eq!(ModeParameters::parse(&bytes, CdbSize::Six), Ok(mode_parameters()));
    }

    #[test]
    fn mode_parameters_with_long_header_and_long_lba() {
        let descriptor = BlockDescriptor { blocks: 1 << 40, block_bytes: 4096 };
        let parameters = ModeParameters {
            block_descriptor: Some(descriptor),
            long_lba: true,
            ..mode_parameters()
        };
        let bytes = parameters.emit(CdbSize::Ten);
        assert_eq!(bytes[..8], [0, 54, 0, 0x90, 1, 0, 0, 16]);
        assert_eq!(bytes[8..24], [0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0]);
        assert_eq!(ModeParameters::parse(&bytes, CdbSize::Ten), Ok(parameters));
    }

    #[test]
    fn mode_parameters_cut_anywhere() {
        for size in [CdbSize::Six, CdbSize::Ten] {
            let bytes = mode_parameters().emit(size);
            for cut in 0..bytes.len() {
                let parsed = ModeParameters::parse(&bytes[..cut], size);
                assert_eq!(parsed.is_ok(), cut >= if size == CdbSize::Six { 4 } else { 8 });
                assert!(parsed.is_err() || parsed.unwrap().control.is_none());
            }
        }
    }

    #[test]
    fn unknown_mode_pages_and_subpages_are_skipped() {
        let bytes = [14, 0, 0, 0, 0x4a, 0x01, 0, 2, 9, 9, 0x1c, 0x00, 0x08, 0x01, 0x04];
        let parsed = ModeParameters::parse(&bytes, CdbSize::Six).unwrap();
        assert_eq!(parsed.control, None);
        assert!(parsed.caching.unwrap().write_cache);
    }

    #[test]
    fn unmap_list_both_ways() {
        let range = UnmapDescriptor { lba: 0x1122, blocks: 0x3344 };
        let bytes = emit_unmap(&range);
        let golden =
            [0, 22, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x11, 0x22, 0, 0, 0x33, 0x44, 0, 0, 0, 0];
        assert_eq!(bytes, golden);
        assert_eq!(parse_unmap(&bytes).unwrap().collect::<Vec<_>>(), [range]);
        for cut in 0..bytes.len() {
            assert!(parse_unmap(&bytes[..cut]).is_err());
        }
        assert_eq!(parse_unmap(&[0, 6, 0, 0, 0, 0, 0, 0]).unwrap().count(), 0);
        assert_eq!(
            parse_unmap(&[0, 14, 0, 8, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1]).unwrap().count(),
            0
        );
    }

    #[test]
    fn report_luns_both_ways() {
        let luns = [Lun::from_number(0), Lun::from_number(300)];
        let bytes = emit_report_luns(&luns);
        let golden =
            [0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x41, 0x2c, 0, 0, 0, 0, 0, 0];
        assert_eq!(bytes, golden);
        assert_eq!(parse_report_luns(&bytes), Ok((luns.to_vec(), 2)));
        assert_eq!(parse_report_luns(&bytes[..20]), Ok((luns[..1].to_vec(), 2)));
        assert!(parse_report_luns(&bytes[..7]).is_err());
        let lying = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
        assert_eq!(parse_report_luns(&lying).unwrap().0, []);
    }
}
