//! Mode parameters: the header, the block descriptor and the pages (SPC-4 §7.5, SBC-3 §6.5).
//!
//! Of each page only what matters to a disk without a mechanism has a name here; the rest is zero.
//! Lists may be cut short by an allocation length.

use super::super::{Malformed, be16, be24, be32, be64};
use super::CdbSize;

/// PAGE CODE of the read-write error recovery mode page.
pub const MODE_PAGE_ERROR_RECOVERY: u8 = 0x01;
/// PAGE CODE of the caching mode page.
pub const MODE_PAGE_CACHING: u8 = 0x08;
/// PAGE CODE of the control mode page.
pub const MODE_PAGE_CONTROL: u8 = 0x0a;
/// SUBPAGE CODE of the control extension page, behind the code of the control page.
pub const MODE_SUBPAGE_CONTROL_EXTENSION: u8 = 0x01;
/// PAGE CODE of the informational exceptions control mode page.
pub const MODE_PAGE_EXCEPTIONS: u8 = 0x1c;
/// PAGE CODE that stands for all pages.
pub const MODE_PAGE_ALL: u8 = 0x3f;
/// SUBPAGE CODE that stands for all subpages.
pub const MODE_SUBPAGE_ALL: u8 = 0xff;

/// The read-write error recovery page of a unit that leaves all recovery to what is below it
/// (SBC-3 §6.5.8).
pub const ERROR_RECOVERY_PAGE: [u8; 12] =
    [MODE_PAGE_ERROR_RECOVERY, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// The control extension page: no timestamps are set by commands, no priority is the first
/// (SPC-4 §7.5.9).
pub const CONTROL_EXTENSION_PAGE: [u8; 32] = {
    let mut page = [0; 32];
    page[0] = SPF | MODE_PAGE_CONTROL;
    page[1] = MODE_SUBPAGE_CONTROL_EXTENSION;
    page[3] = 28;
    page
};

/// The informational exceptions control page of a unit that reports none: DEXCPT is set
/// (SPC-4 §7.5.13).
pub const EXCEPTIONS_PAGE: [u8; 12] = [MODE_PAGE_EXCEPTIONS, 10, 0x08, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// SPF: the page has a subpage code and a 2-byte length (SPC-4 §7.5.7).
const SPF: u8 = 0x40;

/// Caching mode page (SBC-3 §6.5.5): what matters of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct CachingPage {
    /// WCE: writes may be answered before they are stable.
    pub write_cache: bool,
    /// RCD: reads are not served from the cache.
    pub read_cache_disabled: bool,
}

impl CachingPage {
    /// Length of the page.
    pub const BYTES: usize = 20;

    /// Reads what stands behind PAGE CODE and PAGE LENGTH; what is missing is 0.
    pub fn parse(body: &[u8]) -> CachingPage {
        let flags = body.first().copied().unwrap_or(0);
        CachingPage { write_cache: flags & 0x04 != 0, read_cache_disabled: flags & 0x01 != 0 }
    }

    /// The page.
    pub fn emit(&self) -> [u8; CachingPage::BYTES] {
        let mut out = [0; CachingPage::BYTES];
        out[0] = MODE_PAGE_CACHING;
        out[1] = (CachingPage::BYTES - 2) as u8;
        out[2] = u8::from(self.write_cache) << 2 | u8::from(self.read_cache_disabled);
        out
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
    /// Length of the page.
    pub const BYTES: usize = 12;

    /// Reads what stands behind PAGE CODE and PAGE LENGTH; what is missing is 0.
    pub fn parse(body: &[u8]) -> ControlPage {
        let at = |index: usize| body.get(index).copied().unwrap_or(0);
        ControlPage {
            descriptor_sense: at(0) & 0x04 != 0,
            queue_algorithm: at(1) >> 4,
            software_write_protect: at(2) & 0x08 != 0,
            task_aborted_status: at(3) & 0x40 != 0,
            busy_timeout: u16::from_be_bytes([at(6), at(7)]),
        }
    }

    /// The page.
    pub fn emit(&self) -> [u8; ControlPage::BYTES] {
        let mut out = [0; ControlPage::BYTES];
        out[0] = MODE_PAGE_CONTROL;
        out[1] = (ControlPage::BYTES - 2) as u8;
        out[2] = u8::from(self.descriptor_sense) << 2;
        out[3] = self.queue_algorithm << 4;
        out[4] = u8::from(self.software_write_protect) << 3;
        out[5] = u8::from(self.task_aborted_status) << 6;
        out[8..10].copy_from_slice(&self.busy_timeout.to_be_bytes());
        out
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
        let caching = self.caching.iter().flat_map(CachingPage::emit);
        let control = self.control.iter().flat_map(ControlPage::emit);
        self.emit_with(size, &caching.chain(control).collect::<Vec<u8>>())
    }

    /// The same with other pages than its own.
    pub fn emit_with(&self, size: CdbSize, pages: &[u8]) -> Vec<u8> {
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
        out.extend(pages);
        let device_specific = u8::from(self.write_protected) << 7 | u8::from(self.dpo_fua) << 4;
        if six {
            out[0] = u8::try_from(out.len() - 1).expect("all pages fit into the short form");
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

/// A mode page in a list, as it stands there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawModePage<'a> {
    /// PAGE CODE.
    pub page: u8,
    /// SUBPAGE CODE; 0 where the page has none.
    pub subpage: u8,
    /// Where it begins in the list.
    pub start: usize,
    /// All of it, with its head.
    pub bytes: &'a [u8],
    /// What stands behind its head.
    pub body: &'a [u8],
}

/// What MODE SELECT brings (SPC-4 §6.11, §6.12).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModeSelection<'a> {
    /// The block descriptor, if there is one.
    pub block_descriptor: Option<BlockDescriptor>,
    /// The pages.
    pub pages: Vec<RawModePage<'a>>,
}

/// The parameter list of a MODE SELECT of this size, or `None` if it ends in the middle of
/// something.
pub fn parse_mode_selection(bytes: &[u8], size: CdbSize) -> Option<ModeSelection<'_>> {
    let (header_bytes, long_lba, descriptor_bytes) = if size == CdbSize::Six {
        (4, false, usize::from(*bytes.get(3)?))
    } else {
        let header: &[u8; 8] = bytes.first_chunk()?;
        (8, header[4] & 0x01 != 0, usize::from(be16(header, 6)))
    };
    let descriptors = bytes.get(header_bytes..header_bytes + descriptor_bytes)?;
    let block_descriptor = parse_block_descriptor(descriptors, long_lba);
    if block_descriptor.is_none() && descriptor_bytes != 0 {
        return None;
    }
    let mut pages = Vec::new();
    let mut start = header_bytes + descriptor_bytes;
    while start < bytes.len() {
        let rest = &bytes[start..];
        let (page, subpage, body, behind) = next_page(rest)?;
        let bytes = &rest[..rest.len() - behind.len()];
        pages.push(RawModePage { page, subpage, start, bytes, body });
        start += bytes.len();
    }
    Some(ModeSelection { block_descriptor, pages })
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

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_selection_with_its_pages() {
        let caching = CachingPage { write_cache: true, read_cache_disabled: false };
        let mut list = vec![0, 0, 0, 8, 0, 0, 0x10, 0, 0, 0, 2, 0];
        list.extend(caching.emit());
        list.extend(CONTROL_EXTENSION_PAGE);
        let selection = parse_mode_selection(&list, CdbSize::Six).unwrap();
        let descriptor = BlockDescriptor { blocks: 0x1000, block_bytes: 512 };
        assert_eq!(selection.block_descriptor, Some(descriptor));
        let [first, second] = selection.pages[..] else { panic!("two pages") };
        assert_eq!((first.page, first.subpage, first.start), (0x08, 0, 12));
        assert_eq!(CachingPage::parse(first.body), caching);
        assert_eq!((second.page, second.subpage, second.start), (0x0a, 1, 32));
        assert_eq!((second.bytes.len(), second.body.len()), (32, 28));
        let mut long = vec![0, 0, 0, 0, 1, 0, 0, 16];
        long.extend([0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0]);
        let selection = parse_mode_selection(&long, CdbSize::Ten).unwrap();
        let descriptor = BlockDescriptor { blocks: 1 << 40, block_bytes: 4096 };
        assert_eq!(selection.block_descriptor, Some(descriptor));
        assert_eq!(selection.pages, []);
        for cut in 0..list.len() {
            let whole = [12, 32].contains(&cut);
            assert_eq!(parse_mode_selection(&list[..cut], CdbSize::Six).is_some(), whole);
        }
    }
}
