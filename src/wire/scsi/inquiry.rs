//! INQUIRY data: the standard answer and the vital product data pages (SPC-4 §6.6, §7.8;
//! SBC-3 §6.6).
//!
//! The target emits what the initiator reads: pages that may be cut short are read field by field.

use super::super::{Malformed, be16, be32, be64};

/// PERIPHERAL QUALIFIER 000b, PERIPHERAL DEVICE TYPE 00h: a disk that is there.
pub const PERIPHERAL_DISK: u8 = 0x00;
/// Qualifier 011b, type 1Fh: there can be no logical unit at this LUN.
pub const PERIPHERAL_ABSENT: u8 = 0x7f;

/// Supported VPD pages.
pub const VPD_SUPPORTED_PAGES: u8 = 0x00;
/// Unit serial number.
pub const VPD_UNIT_SERIAL_NUMBER: u8 = 0x80;
/// Device identification.
pub const VPD_DEVICE_IDENTIFICATION: u8 = 0x83;
/// Extended INQUIRY data.
pub const VPD_EXTENDED_INQUIRY: u8 = 0x86;
/// Mode page policy.
pub const VPD_MODE_PAGE_POLICY: u8 = 0x87;
/// Block limits.
pub const VPD_BLOCK_LIMITS: u8 = 0xb0;
/// Block device characteristics.
pub const VPD_BLOCK_CHARACTERISTICS: u8 = 0xb1;
/// Logical block provisioning.
pub const VPD_LOGICAL_BLOCK_PROVISIONING: u8 = 0xb2;

/// Standard INQUIRY data (SPC-4 §6.6.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandardInquiry {
    /// PERIPHERAL QUALIFIER and PERIPHERAL DEVICE TYPE.
    pub peripheral: u8,
    /// RMB.
    pub removable: bool,
    /// VERSION: 06h is SPC-4.
    pub version: u8,
    /// CMDQUE: several commands at a time.
    pub command_queuing: bool,
    /// T10 VENDOR IDENTIFICATION, padded with spaces.
    pub vendor: [u8; 8],
    /// PRODUCT IDENTIFICATION, padded with spaces.
    pub product: [u8; 16],
    /// PRODUCT REVISION LEVEL, padded with spaces.
    pub revision: [u8; 4],
}

impl StandardInquiry {
    /// Length of the data that we send: up to the last version descriptor.
    pub const BYTES: usize = 74;

    /// The standards that we follow: SAM-5, iSCSI, SPC-4, SBC-3, none with a revision
    /// (SPC-4 §6.6.2, version descriptors).
    const VERSION_DESCRIPTORS: [u16; 4] = [0x00a0, 0x0960, 0x0460, 0x04c0];

    /// Reads what a device sent; 36 bytes are the least that every device has.
    pub fn parse(bytes: &[u8]) -> Result<StandardInquiry, Malformed> {
        let bytes: &[u8; 36] = bytes.first_chunk().ok_or(Malformed::number(
            "INQUIRY data",
            "length",
            bytes.len() as u64,
            "must be at least 36 bytes (SPC-4 §6.6.2)",
        ))?;
        let mut inquiry = StandardInquiry {
            peripheral: bytes[0],
            removable: bytes[1] & 0x80 != 0,
            version: bytes[2],
            command_queuing: bytes[7] & 0x02 != 0,
            vendor: [0; 8],
            product: [0; 16],
            revision: [0; 4],
        };
        inquiry.vendor.copy_from_slice(&bytes[8..16]);
        inquiry.product.copy_from_slice(&bytes[16..32]);
        inquiry.revision.copy_from_slice(&bytes[32..36]);
        Ok(inquiry)
    }

    /// The bytes, with the version descriptors of this implementation.
    pub fn emit(&self) -> [u8; StandardInquiry::BYTES] {
        const HISUP: u8 = 0x10;
        const RESPONSE_DATA_FORMAT: u8 = 0x02;
        let mut out = [0; StandardInquiry::BYTES];
        out[0] = self.peripheral;
        out[1] = u8::from(self.removable) << 7;
        out[2] = self.version;
        out[3] = HISUP | RESPONSE_DATA_FORMAT;
        out[4] = (StandardInquiry::BYTES - 5) as u8;
        out[7] = u8::from(self.command_queuing) << 1;
        out[8..16].copy_from_slice(&self.vendor);
        out[16..32].copy_from_slice(&self.product);
        out[32..36].copy_from_slice(&self.revision);
        for (index, descriptor) in StandardInquiry::VERSION_DESCRIPTORS.iter().enumerate() {
            let start = 58 + 2 * index;
            out[start..start + 2].copy_from_slice(&descriptor.to_be_bytes());
        }
        out
    }

    /// PERIPHERAL DEVICE TYPE, five bits.
    pub fn device_type(&self) -> u8 {
        self.peripheral & 0x1f
    }

    /// PERIPHERAL QUALIFIER, three bits; 0 means that the unit is there.
    pub fn qualifier(&self) -> u8 {
        self.peripheral >> 5
    }
}

/// What stands behind the 4-byte header of a VPD page, at most as long as its PAGE LENGTH.
fn page_body(bytes: &[u8], page: u8) -> Result<&[u8], Malformed> {
    if bytes.len() < 4 {
        return Err(Malformed::number(
            "VPD page",
            "length",
            bytes.len() as u64,
            "must be at least 4 bytes (SPC-4 §7.8)",
        ));
    }
    if bytes[1] != page {
        return Err(Malformed::number(
            "VPD page",
            "PAGE CODE",
            bytes[1],
            "must be the page that was asked for",
        ));
    }
    let end = bytes.len().min(4 + usize::from(be16(bytes, 2)));
    Ok(&bytes[4..end])
}

/// A page of a disk with this body.
fn emit_page(page: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).expect("bodies are made here, of bounded parts");
    let mut out = vec![PERIPHERAL_DISK, page];
    out.extend(length.to_be_bytes());
    out.extend(body);
    out
}

/// VPD page 00h of these pages, which must be in ascending order (SPC-4 §7.8.14).
pub fn emit_supported_pages(pages: &[u8]) -> Vec<u8> {
    debug_assert!(pages.is_sorted());
    emit_page(VPD_SUPPORTED_PAGES, pages)
}

/// The page codes in VPD page 00h.
pub fn parse_supported_pages(bytes: &[u8]) -> Result<&[u8], Malformed> {
    page_body(bytes, VPD_SUPPORTED_PAGES)
}

/// VPD page 80h (SPC-4 §7.8.15).
pub fn emit_unit_serial_number(serial: &str) -> Vec<u8> {
    emit_page(VPD_UNIT_SERIAL_NUMBER, serial.as_bytes())
}

/// The serial number in VPD page 80h, with its padding.
pub fn parse_unit_serial_number(bytes: &[u8]) -> Result<&[u8], Malformed> {
    page_body(bytes, VPD_UNIT_SERIAL_NUMBER)
}

/// What kind of name a designator is (SPC-4 §7.8.6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DesignatorKind {
    /// The vendor's eight characters and what it chose.
    T10VendorId,
    /// An EUI-64, 8 to 16 bytes.
    Eui64,
    /// A name of a naming authority, 8 or 16 bytes.
    Naa,
    /// Relative target port identifier, 4 bytes.
    RelativeTargetPort,
    /// Target port group, 4 bytes.
    TargetPortGroup,
    /// `iqn.…`, `eui.…` or `naa.…`, in UTF-8.
    ScsiName,
    /// Another number.
    Other(u8),
}

impl DesignatorKind {
    fn from_code(code: u8) -> DesignatorKind {
        match code {
            1 => DesignatorKind::T10VendorId,
            2 => DesignatorKind::Eui64,
            3 => DesignatorKind::Naa,
            4 => DesignatorKind::RelativeTargetPort,
            5 => DesignatorKind::TargetPortGroup,
            8 => DesignatorKind::ScsiName,
            other => DesignatorKind::Other(other),
        }
    }

    fn code(self) -> u8 {
        match self {
            DesignatorKind::T10VendorId => 1,
            DesignatorKind::Eui64 => 2,
            DesignatorKind::Naa => 3,
            DesignatorKind::RelativeTargetPort => 4,
            DesignatorKind::TargetPortGroup => 5,
            DesignatorKind::ScsiName => 8,
            DesignatorKind::Other(code) => code & 0x0f,
        }
    }

    /// CODE SET: binary, ASCII or UTF-8.
    fn code_set(self) -> u8 {
        match self {
            DesignatorKind::T10VendorId => 2,
            DesignatorKind::ScsiName => 3,
            _ => 1,
        }
    }
}

/// One name of the logical unit or of its port, in VPD page 83h.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Designator {
    /// The kind.
    pub kind: DesignatorKind,
    /// ASSOCIATION, two bits: 0 logical unit, 1 target port, 2 target device.
    pub association: u8,
    /// The name, at most 255 bytes.
    pub value: Vec<u8>,
}

/// PROTOCOL IDENTIFIER of iSCSI, in the upper half of a designator's first byte.
const PROTOCOL_ISCSI: u8 = 0x50;
/// PIV: the protocol identifier holds.
const DESIGNATOR_PIV: u8 = 0x80;

/// VPD page 83h (SPC-4 §7.8.6). Names longer than 255 bytes are left out, since they do not fit.
pub fn emit_device_identification(designators: &[Designator]) -> Vec<u8> {
    let mut body = Vec::new();
    for designator in designators {
        let Ok(length) = u8::try_from(designator.value.len()) else { continue };
        let (protocol, piv) =
            if designator.association == 0 { (0, 0) } else { (PROTOCOL_ISCSI, DESIGNATOR_PIV) };
        body.push(protocol | designator.kind.code_set());
        body.push(piv | (designator.association & 0x03) << 4 | designator.kind.code());
        body.extend([0, length]);
        body.extend(&designator.value);
    }
    emit_page(VPD_DEVICE_IDENTIFICATION, &body)
}

/// The designators in VPD page 83h, at most 64; one that runs past the end of the page ends it.
pub fn parse_device_identification(bytes: &[u8]) -> Result<Vec<Designator>, Malformed> {
    const DESIGNATORS_MAX: usize = 64;
    let mut rest = page_body(bytes, VPD_DEVICE_IDENTIFICATION)?;
    let mut designators = Vec::new();
    while designators.len() < DESIGNATORS_MAX {
        let [_, flags, _, length, ..] = *rest else { break };
        let Some(value) = rest.get(4..4 + usize::from(length)) else { break };
        rest = &rest[4 + value.len()..];
        designators.push(Designator {
            kind: DesignatorKind::from_code(flags & 0x0f),
            association: flags >> 4 & 0x03,
            value: value.to_vec(),
        });
    }
    Ok(designators)
}

/// VPD page 86h (SPC-4 §7.8.7): what matters of it to a disk without protection information.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ExtendedInquiry {
    /// SIMPSUP: tasks may be simple.
    pub simple: bool,
    /// ORDSUP: tasks may be ordered.
    pub ordered: bool,
    /// HEADSUP: tasks may go to the head of the queue.
    pub head_of_queue: bool,
    /// V_SUP: there is a volatile cache.
    pub volatile_cache: bool,
}

impl ExtendedInquiry {
    /// Length of the page.
    pub const BYTES: usize = 64;

    /// The page.
    pub fn emit(&self) -> [u8; ExtendedInquiry::BYTES] {
        let mut out = [0; ExtendedInquiry::BYTES];
        out[1] = VPD_EXTENDED_INQUIRY;
        out[3] = (ExtendedInquiry::BYTES - 4) as u8;
        out[5] =
            u8::from(self.head_of_queue) << 2 | u8::from(self.ordered) << 1 | u8::from(self.simple);
        out[6] = u8::from(self.volatile_cache);
        out
    }
}

/// VPD page 87h of a unit all of whose mode pages are shared by all initiators (SPC-4 §7.8.10).
pub fn emit_shared_mode_pages() -> Vec<u8> {
    const ALL_PAGES: u8 = 0x3f;
    const ALL_SUBPAGES: u8 = 0xff;
    const SHARED: u8 = 0;
    emit_page(VPD_MODE_PAGE_POLICY, &[ALL_PAGES, ALL_SUBPAGES, SHARED, 0])
}

/// VPD page B0h (SBC-3 §6.6.3). All lengths in logical blocks; 0 says that there is no limit, or
/// that the command does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct BlockLimits {
    /// WSNZ: WRITE SAME of zero blocks is refused.
    pub write_same_non_zero: bool,
    /// MAXIMUM COMPARE AND WRITE LENGTH; 0 is no COMPARE AND WRITE.
    pub compare_and_write_max: u8,
    /// OPTIMAL TRANSFER LENGTH GRANULARITY.
    pub transfer_granularity: u16,
    /// MAXIMUM TRANSFER LENGTH.
    pub transfer_max: u32,
    /// OPTIMAL TRANSFER LENGTH.
    pub transfer_optimal: u32,
    /// MAXIMUM UNMAP LBA COUNT; `u32::MAX` is no limit, 0 is no UNMAP.
    pub unmap_blocks_max: u32,
    /// MAXIMUM UNMAP BLOCK DESCRIPTOR COUNT; `u32::MAX` is no limit, 0 is no UNMAP.
    pub unmap_descriptors_max: u32,
    /// OPTIMAL UNMAP GRANULARITY.
    pub unmap_granularity: u32,
    /// UNMAP GRANULARITY ALIGNMENT, if it is valid.
    pub unmap_alignment: Option<u32>,
    /// MAXIMUM WRITE SAME LENGTH.
    pub write_same_max: u64,
    /// MAXIMUM ATOMIC TRANSFER LENGTH; 0 is no WRITE ATOMIC here. Alignment, granularity and
    /// boundary do not matter.
    pub atomic_max: u32,
}

impl BlockLimits {
    /// Length of the page.
    pub const BYTES: usize = 64;

    /// Reads the page. Older devices send 16 bytes; what is missing is 0, which means not reported.
    pub fn parse(bytes: &[u8]) -> Result<BlockLimits, Malformed> {
        let page: [u8; BlockLimits::BYTES] = zero_filled(bytes, VPD_BLOCK_LIMITS)?;
        let alignment = be32(&page, 32);
        Ok(BlockLimits {
            write_same_non_zero: page[4] & 0x01 != 0,
            compare_and_write_max: page[5],
            transfer_granularity: be16(&page, 6),
            transfer_max: be32(&page, 8),
            transfer_optimal: be32(&page, 12),
            unmap_blocks_max: be32(&page, 20),
            unmap_descriptors_max: be32(&page, 24),
            unmap_granularity: be32(&page, 28),
            unmap_alignment: (alignment & UGAVALID != 0).then_some(alignment & !UGAVALID),
            write_same_max: be64(&page, 36),
            atomic_max: be32(&page, 44),
        })
    }

    /// The page.
    pub fn emit(&self) -> [u8; BlockLimits::BYTES] {
        let mut out = [0; BlockLimits::BYTES];
        out[1] = VPD_BLOCK_LIMITS;
        out[3] = (BlockLimits::BYTES - 4) as u8;
        out[4] = u8::from(self.write_same_non_zero);
        out[5] = self.compare_and_write_max;
        out[6..8].copy_from_slice(&self.transfer_granularity.to_be_bytes());
        out[8..12].copy_from_slice(&self.transfer_max.to_be_bytes());
        out[12..16].copy_from_slice(&self.transfer_optimal.to_be_bytes());
        out[20..24].copy_from_slice(&self.unmap_blocks_max.to_be_bytes());
        out[24..28].copy_from_slice(&self.unmap_descriptors_max.to_be_bytes());
        out[28..32].copy_from_slice(&self.unmap_granularity.to_be_bytes());
        let alignment = self.unmap_alignment.map_or(0, |alignment| UGAVALID | alignment);
        out[32..36].copy_from_slice(&alignment.to_be_bytes());
        out[36..44].copy_from_slice(&self.write_same_max.to_be_bytes());
        out[44..48].copy_from_slice(&self.atomic_max.to_be_bytes());
        out
    }
}

/// UGAVALID, the top bit of UNMAP GRANULARITY ALIGNMENT.
const UGAVALID: u32 = 0x8000_0000;

/// VPD page B1h (SBC-3 §6.6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct BlockCharacteristics {
    /// MEDIUM ROTATION RATE: 0 not reported, 1 does not rotate, otherwise turns per minute.
    pub rotation_rate: u16,
    /// FUAB: FUA and SYNCHRONIZE CACHE act on the whole unit's cache as this standard says.
    pub fua_behavior: bool,
    /// WABEREQ 01b: after SANITIZE with BLOCK ERASE blocks can be read without being written first.
    /// Otherwise 00b: there is no BLOCK ERASE, or nothing is said.
    pub reads_after_block_erase: bool,
}

impl BlockCharacteristics {
    /// Length of the page.
    pub const BYTES: usize = 64;

    /// Reads the page; what is missing is 0.
    pub fn parse(bytes: &[u8]) -> Result<BlockCharacteristics, Malformed> {
        let page: [u8; BlockCharacteristics::BYTES] =
            zero_filled(bytes, VPD_BLOCK_CHARACTERISTICS)?;
        Ok(BlockCharacteristics {
            rotation_rate: be16(&page, 4),
            fua_behavior: page[8] & 0x02 != 0,
            reads_after_block_erase: page[7] >> 6 == 0b01,
        })
    }

    /// The page.
    pub fn emit(&self) -> [u8; BlockCharacteristics::BYTES] {
        let mut out = [0; BlockCharacteristics::BYTES];
        out[1] = VPD_BLOCK_CHARACTERISTICS;
        out[3] = (BlockCharacteristics::BYTES - 4) as u8;
        out[4..6].copy_from_slice(&self.rotation_rate.to_be_bytes());
        out[7] = u8::from(self.reads_after_block_erase) << 6;
        out[8] = u8::from(self.fua_behavior) << 1;
        out
    }
}

/// VPD page B2h (SBC-3 §6.6.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct LogicalBlockProvisioning {
    /// LBPU: UNMAP works.
    pub unmap: bool,
    /// LBPWS: WRITE SAME(16) with UNMAP works.
    pub write_same_16: bool,
    /// LBPWS10: WRITE SAME(10) with UNMAP works.
    pub write_same_10: bool,
    /// LBPRZ: unmapped blocks read as zero.
    pub reads_zero: bool,
    /// PROVISIONING TYPE, three bits: 0 not reported, 1 resource, 2 thin.
    pub provisioning_type: u8,
}

impl LogicalBlockProvisioning {
    /// Length of the page.
    pub const BYTES: usize = 8;

    /// Reads the page; what is missing is 0.
    pub fn parse(bytes: &[u8]) -> Result<LogicalBlockProvisioning, Malformed> {
        let page: [u8; LogicalBlockProvisioning::BYTES] =
            zero_filled(bytes, VPD_LOGICAL_BLOCK_PROVISIONING)?;
        Ok(LogicalBlockProvisioning {
            unmap: page[5] & 0x80 != 0,
            write_same_16: page[5] & 0x40 != 0,
            write_same_10: page[5] & 0x20 != 0,
            // Three bits in SBC-4, where xx1b says zeroes; one bit in SBC-3.
            reads_zero: page[5] & 0x04 != 0,
            provisioning_type: page[6] & 0x07,
        })
    }

    /// The page.
    pub fn emit(&self) -> [u8; LogicalBlockProvisioning::BYTES] {
        let mut out = [0; LogicalBlockProvisioning::BYTES];
        out[1] = VPD_LOGICAL_BLOCK_PROVISIONING;
        out[3] = (LogicalBlockProvisioning::BYTES - 4) as u8;
        out[5] = u8::from(self.unmap) << 7
            | u8::from(self.write_same_16) << 6
            | u8::from(self.write_same_10) << 5
            | u8::from(self.reads_zero) << 2;
        out[6] = self.provisioning_type & 0x07;
        out
    }
}

/// A page as long as this implementation knows it, zeroes where the device sent nothing.
fn zero_filled<const BYTES: usize>(bytes: &[u8], page: u8) -> Result<[u8; BYTES], Malformed> {
    let body = page_body(bytes, page)?;
    let mut filled = [0; BYTES];
    let present = body.len().min(BYTES - 4);
    filled[4..4 + present].copy_from_slice(&body[..present]);
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_inquiry_both_ways() {
        let inquiry = StandardInquiry {
            peripheral: PERIPHERAL_DISK,
            removable: false,
            version: 6,
            command_queuing: true,
            vendor: *b"LUNBOOT ",
            product: *b"VIRTUAL DISK    ",
            revision: *b"0001",
        };
        let bytes = inquiry.emit();
        let head = b"\x00\x00\x06\x12\x45\x00\x00\x02LUNBOOT VIRTUAL DISK    0001";
        assert_eq!(bytes[..36], head[..]);
        assert_eq!(bytes[58..66], [0x00, 0xa0, 0x09, 0x60, 0x04, 0x60, 0x04, 0xc0]);
        assert_eq!(StandardInquiry::parse(&bytes), Ok(inquiry));
        assert!(StandardInquiry::parse(&bytes[..35]).is_err());
    }

    #[test]
    fn supported_pages_and_serial() {
        let bytes = emit_supported_pages(&[0x00, 0x80, 0x83]);
        assert_eq!(bytes, [0, 0, 0, 3, 0x00, 0x80, 0x83]);
        assert_eq!(parse_supported_pages(&bytes), Ok(&[0x00, 0x80, 0x83][..]));
        let bytes = emit_unit_serial_number("abc");
        assert_eq!(bytes, *b"\x00\x80\x00\x03abc");
        assert_eq!(parse_unit_serial_number(&bytes), Ok(&b"abc"[..]));
        assert!(parse_supported_pages(&bytes).is_err());
    }

    #[test]
    fn device_identification_both_ways() {
        let designators = [
            Designator { kind: DesignatorKind::Naa, association: 0, value: vec![0x33; 8] },
            Designator {
                kind: DesignatorKind::RelativeTargetPort,
                association: 1,
                value: vec![0, 0, 0, 1],
            },
        ];
        let bytes = emit_device_identification(&designators);
        let golden = [
            0, 0x83, 0, 20, 0x01, 0x03, 0, 8, 0x33, 0x33, 0x33, 0x33, 0x33, 0x33, 0x33, 0x33, 0x51,
            0x94, 0, 4, 0, 0, 0, 1,
        ];
        assert_eq!(bytes, golden);
        assert_eq!(parse_device_identification(&bytes).unwrap(), designators);
        for cut in 4..bytes.len() {
            assert!(parse_device_identification(&bytes[..cut]).unwrap().len() < 2);
        }
    }

    #[test]
    fn empty_designators_are_bounded() {
        let mut bytes = vec![0, 0x83, 0xff, 0xff];
        bytes.resize(4 + 65535, 0);
        assert_eq!(parse_device_identification(&bytes).unwrap().len(), 64);
    }

    #[test]
    fn block_limits_both_ways() {
        let limits = BlockLimits {
            write_same_non_zero: true,
            compare_and_write_max: 9,
            transfer_granularity: 8,
            transfer_max: 0x2000,
            transfer_optimal: 0x1000,
            unmap_blocks_max: u32::MAX,
            unmap_descriptors_max: 256,
            unmap_granularity: 8,
            unmap_alignment: Some(0),
            write_same_max: 0x80_0000,
            atomic_max: 0x800,
        };
        let bytes = limits.emit();
        let mut golden = [0; 64];
        golden[..8].copy_from_slice(&[0, 0xb0, 0, 0x3c, 1, 9, 0, 8]);
        golden[8..16].copy_from_slice(&[0, 0, 0x20, 0, 0, 0, 0x10, 0]);
        golden[20..28].copy_from_slice(&[0xff, 0xff, 0xff, 0xff, 0, 0, 1, 0]);
        golden[28..36].copy_from_slice(&[0, 0, 0, 8, 0x80, 0, 0, 0]);
        golden[36..44].copy_from_slice(&[0, 0, 0, 0, 0, 0x80, 0, 0]);
        golden[46] = 8;
        assert_eq!(bytes, golden);
        assert_eq!(BlockLimits::parse(&bytes), Ok(limits));
        let short = BlockLimits::parse(&[0, 0xb0, 0, 0x0c, 0, 0, 0, 8, 0, 0, 0x20, 0]).unwrap();
        assert_eq!((short.transfer_max, short.unmap_blocks_max), (0x2000, 0));
        for cut in 0..4 {
            assert!(BlockLimits::parse(&bytes[..cut]).is_err());
        }
    }

    #[test]
    fn extended_inquiry_and_mode_page_policy() {
        let extended = ExtendedInquiry {
            simple: true,
            ordered: true,
            head_of_queue: true,
            volatile_cache: true,
        };
        let mut golden = [0; 64];
        golden[..7].copy_from_slice(&[0, 0x86, 0, 0x3c, 0, 0x07, 0x01]);
        assert_eq!(extended.emit(), golden);
        assert_eq!(emit_shared_mode_pages(), [0, 0x87, 0, 4, 0x3f, 0xff, 0, 0]);
    }

    #[test]
    fn characteristics_and_provisioning_both_ways() {
        let (rotation_rate, fua_behavior, reads_after_block_erase) = (1, true, true);
        let solid = BlockCharacteristics { rotation_rate, fua_behavior, reads_after_block_erase };
        assert_eq!(solid.emit()[..9], [0, 0xb1, 0, 0x3c, 0, 1, 0, 0x40, 2]);
        assert_eq!(BlockCharacteristics::parse(&solid.emit()), Ok(solid));
        let thin = LogicalBlockProvisioning {
            unmap: true,
            write_same_16: true,
            write_same_10: true,
            reads_zero: true,
            provisioning_type: 2,
        };
        assert_eq!(thin.emit(), [0, 0xb2, 0, 4, 0, 0xe4, 2, 0]);
        assert_eq!(LogicalBlockProvisioning::parse(&thin.emit()), Ok(thin));
    }
}
