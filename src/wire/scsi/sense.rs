//! Sense data: why a command ended with CHECK CONDITION (SPC-4 §4.5).

use std::fmt;

use super::super::{Malformed, be32, be64};

/// What kind of condition it was (SPC-4 §4.5.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The names of the standard say it.
pub enum SenseKey {
    NoSense,
    RecoveredError,
    NotReady,
    MediumError,
    HardwareError,
    IllegalRequest,
    UnitAttention,
    DataProtect,
    BlankCheck,
    VendorSpecific,
    CopyAborted,
    AbortedCommand,
    Reserved,
    VolumeOverflow,
    Miscompare,
    Completed,
}

impl SenseKey {
    /// The key of the low four bits of `bits`.
    pub fn from_bits(bits: u8) -> SenseKey {
        ALL_KEYS[usize::from(bits & 0x0f)]
    }

    /// The four bits of the key.
    pub fn bits(self) -> u8 {
        self as u8
    }
}

/// The keys in the order of their codes, which is the order of their declaration.
const ALL_KEYS: [SenseKey; 16] = [
    SenseKey::NoSense,
    SenseKey::RecoveredError,
    SenseKey::NotReady,
    SenseKey::MediumError,
    SenseKey::HardwareError,
    SenseKey::IllegalRequest,
    SenseKey::UnitAttention,
    SenseKey::DataProtect,
    SenseKey::BlankCheck,
    SenseKey::VendorSpecific,
    SenseKey::CopyAborted,
    SenseKey::AbortedCommand,
    SenseKey::Reserved,
    SenseKey::VolumeOverflow,
    SenseKey::Miscompare,
    SenseKey::Completed,
];

/// Additional sense codes as (ASC, ASCQ), the ones that we send or act upon (SPC-4 annex F).
#[allow(missing_docs)] // The names of the standard say it.
pub mod asc {
    pub const NO_ADDITIONAL_SENSE: (u8, u8) = (0x00, 0x00);
    pub const NOT_READY_BECOMING_READY: (u8, u8) = (0x04, 0x01);
    pub const NOT_READY_INITIALIZING_COMMAND_REQUIRED: (u8, u8) = (0x04, 0x02);
    pub const NOT_READY_SANITIZE_IN_PROGRESS: (u8, u8) = (0x04, 0x1b);
    pub const WRITE_ERROR: (u8, u8) = (0x0c, 0x00);
    pub const UNRECOVERED_READ_ERROR: (u8, u8) = (0x11, 0x00);
    pub const PARAMETER_LIST_LENGTH_ERROR: (u8, u8) = (0x1a, 0x00);
    pub const MISCOMPARE_DURING_VERIFY: (u8, u8) = (0x1d, 0x00);
    pub const INVALID_COMMAND_OPERATION_CODE: (u8, u8) = (0x20, 0x00);
    pub const LBA_OUT_OF_RANGE: (u8, u8) = (0x21, 0x00);
    pub const INVALID_FIELD_IN_CDB: (u8, u8) = (0x24, 0x00);
    pub const LOGICAL_UNIT_NOT_SUPPORTED: (u8, u8) = (0x25, 0x00);
    pub const INVALID_FIELD_IN_PARAMETER_LIST: (u8, u8) = (0x26, 0x00);
    pub const INVALID_RELEASE_OF_PERSISTENT_RESERVATION: (u8, u8) = (0x26, 0x04);
    pub const WRITE_PROTECTED: (u8, u8) = (0x27, 0x00);
    pub const LOGICAL_UNIT_SOFTWARE_WRITE_PROTECTED: (u8, u8) = (0x27, 0x02);
    pub const SPACE_ALLOCATION_FAILED: (u8, u8) = (0x27, 0x07);
    pub const MEDIUM_MAY_HAVE_CHANGED: (u8, u8) = (0x28, 0x00);
    pub const POWER_ON_OR_RESET: (u8, u8) = (0x29, 0x00);
    pub const BUS_DEVICE_RESET: (u8, u8) = (0x29, 0x03);
    pub const PARAMETERS_CHANGED: (u8, u8) = (0x2a, 0x00);
    pub const MODE_PARAMETERS_CHANGED: (u8, u8) = (0x2a, 0x01);
    pub const RESERVATIONS_PREEMPTED: (u8, u8) = (0x2a, 0x03);
    pub const RESERVATIONS_RELEASED: (u8, u8) = (0x2a, 0x04);
    pub const REGISTRATIONS_PREEMPTED: (u8, u8) = (0x2a, 0x05);
    pub const CAPACITY_DATA_HAS_CHANGED: (u8, u8) = (0x2a, 0x09);
    pub const COMMANDS_CLEARED_BY_ANOTHER_INITIATOR: (u8, u8) = (0x2f, 0x00);
    pub const SANITIZE_COMMAND_FAILED: (u8, u8) = (0x31, 0x03);
    pub const MEDIUM_NOT_PRESENT: (u8, u8) = (0x3a, 0x00);
    pub const SAVING_PARAMETERS_NOT_SUPPORTED: (u8, u8) = (0x39, 0x00);
    pub const INQUIRY_DATA_HAS_CHANGED: (u8, u8) = (0x3f, 0x03);
    pub const DEVICE_IDENTIFIER_CHANGED: (u8, u8) = (0x3f, 0x05);
    pub const REPORTED_LUNS_DATA_HAS_CHANGED: (u8, u8) = (0x3f, 0x0e);
    pub const INTERNAL_TARGET_FAILURE: (u8, u8) = (0x44, 0x00);
    pub const DATA_PHASE_ERROR: (u8, u8) = (0x4b, 0x00);
    pub const PROTOCOL_SERVICE_CRC_ERROR: (u8, u8) = (0x47, 0x05);
    pub const MEDIUM_REMOVAL_PREVENTED: (u8, u8) = (0x53, 0x02);
    pub const INSUFFICIENT_REGISTRATION_RESOURCES: (u8, u8) = (0x55, 0x04);
    pub const UNEXPECTED_UNSOLICITED_DATA: (u8, u8) = (0x0c, 0x0c);
    pub const NOT_ENOUGH_UNSOLICITED_DATA: (u8, u8) = (0x0c, 0x0d);
}

/// Which field of the CDB or of the parameter list was wrong (SPC-4 §4.5.2.4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldPointer {
    /// In the CDB; otherwise in the data that came with it.
    pub in_cdb: bool,
    /// The field's first byte.
    pub byte: u16,
    /// Its most significant bit, if it is narrower than a byte.
    pub bit: Option<u8>,
}

/// Why a command ended with CHECK CONDITION.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sense {
    /// The kind.
    pub key: SenseKey,
    /// ADDITIONAL SENSE CODE.
    pub asc: u8,
    /// ADDITIONAL SENSE CODE QUALIFIER.
    pub ascq: u8,
    /// INFORMATION: the LBA or the offset that it is about. More than 32 bits of it fit only into
    /// descriptor format; in fixed format such a value is left out.
    pub information: Option<u64>,
    /// For ILLEGAL REQUEST, the field.
    pub field: Option<FieldPointer>,
    /// For NOT READY, the PROGRESS INDICATION of what is going on: of 65536 parts so many are done.
    pub progress: Option<u16>,
}

impl Sense {
    /// Length of what [`Sense::emit_fixed`] gives.
    pub const FIXED_BYTES: usize = 18;

    /// Sense of a key and one of the pairs in [`asc`].
    pub const fn new(key: SenseKey, (asc, ascq): (u8, u8)) -> Sense {
        Sense { key, asc, ascq, information: None, field: None, progress: None }
    }

    /// The same with INFORMATION.
    pub const fn with_information(mut self, information: u64) -> Sense {
        self.information = Some(information);
        self
    }

    /// The same with a field pointer.
    pub const fn with_field(mut self, field: FieldPointer) -> Sense {
        self.field = Some(field);
        self
    }

    /// The same with a progress indication.
    pub const fn with_progress(mut self, progress: u16) -> Sense {
        self.progress = Some(progress);
        self
    }

    /// ASC and ASCQ as in the constants of [`asc`].
    pub fn code(&self) -> (u8, u8) {
        (self.asc, self.ascq)
    }

    /// Reads fixed (70h, 71h) or descriptor format (72h, 73h).
    ///
    /// Devices may cut sense data short; what is beyond the end counts as zero, as SPC-4 says.
    pub fn parse(bytes: &[u8]) -> Result<Sense, Malformed> {
        let response_code = bytes.first().copied().unwrap_or(0) & 0x7f;
        match response_code {
            0x70 | 0x71 => Ok(parse_fixed(bytes)),
            0x72 | 0x73 => Ok(parse_descriptor(bytes)),
            other => Err(Malformed::number(
                "sense data",
                "RESPONSE CODE",
                other,
                "must be 70h to 73h (SPC-4 §4.5.1)",
            )),
        }
    }

    /// Current sense in fixed format (SPC-4 §4.5.3).
    pub fn emit_fixed(&self) -> [u8; Sense::FIXED_BYTES] {
        let mut out = [0; Sense::FIXED_BYTES];
        out[0] = 0x70;
        out[2] = self.key.bits();
        if let Some(information) = self.information.and_then(|value| u32::try_from(value).ok()) {
            out[0] |= FIXED_VALID;
            out[3..7].copy_from_slice(&information.to_be_bytes());
        }
        out[7] = (Sense::FIXED_BYTES - 8) as u8;
        out[12] = self.asc;
        out[13] = self.ascq;
        if let Some(specific) = self.key_specific() {
            out[15..18].copy_from_slice(&specific);
        }
        out
    }

    /// Current sense in descriptor format (SPC-4 §4.5.2).
    pub fn emit_descriptor(&self) -> Vec<u8> {
        let mut out = vec![0x72, self.key.bits(), self.asc, self.ascq, 0, 0, 0, 0];
        if let Some(information) = self.information {
            out.extend([DESCRIPTOR_INFORMATION, 0x0a, DESCRIPTOR_INFORMATION_VALID, 0]);
            out.extend(information.to_be_bytes());
        }
        if let Some(specific) = self.key_specific() {
            out.extend([DESCRIPTOR_SENSE_KEY_SPECIFIC, 0x06, 0, 0]);
            out.extend(specific);
            out.push(0);
        }
        out[7] = (out.len() - 8) as u8;
        out
    }

    /// The bytes whose meaning depends on the key (SPC-4 §4.5.2.4).
    fn key_specific(&self) -> Option<[u8; 3]> {
        let progress = self.progress.map(u16::to_be_bytes);
        let progress = progress.map(|[high, low]| [SKSV, high, low]);
        self.field.map(emit_field_pointer).or(progress)
    }
}

impl Sense {
    /// Current sense in either format.
    pub fn emit(&self, descriptor: bool) -> Vec<u8> {
        if descriptor { self.emit_descriptor() } else { self.emit_fixed().to_vec() }
    }
}

impl fmt::Display for Sense {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Sense { key, asc, ascq, information, .. } = self;
        write!(f, "sense {:x}h/{asc:02x}h/{ascq:02x}h ({key:?})", key.bits())?;
        match information {
            Some(information) => write!(f, ", information {information}"),
            None => Ok(()),
        }
    }
}

/// VALID, in byte 0 of fixed format.
const FIXED_VALID: u8 = 0x80;
const DESCRIPTOR_INFORMATION: u8 = 0x00;
const DESCRIPTOR_INFORMATION_VALID: u8 = 0x80;
const DESCRIPTOR_SENSE_KEY_SPECIFIC: u8 = 0x02;
/// SKSV: the sense-key-specific bytes hold something.
const SKSV: u8 = 0x80;
const SKS_IN_CDB: u8 = 0x40;
const SKS_BIT_VALID: u8 = 0x08;

fn emit_field_pointer(field: FieldPointer) -> [u8; 3] {
    let [high, low] = field.byte.to_be_bytes();
    let in_cdb = if field.in_cdb { SKS_IN_CDB } else { 0 };
    let bit = field.bit.map_or(0, |bit| SKS_BIT_VALID | (bit & 0x07));
    [SKSV | in_cdb | bit, high, low]
}

fn parse_field_pointer(key: SenseKey, bytes: [u8; 3]) -> Option<FieldPointer> {
    let [flags, high, low] = bytes;
    // The same three bytes mean a retry count or a progress under other sense keys.
    if key != SenseKey::IllegalRequest || flags & SKSV == 0 {
        return None;
    }
    Some(FieldPointer {
        in_cdb: flags & SKS_IN_CDB != 0,
        byte: u16::from_be_bytes([high, low]),
        bit: (flags & SKS_BIT_VALID != 0).then_some(flags & 0x07),
    })
}

/// PROGRESS INDICATION stands in the same bytes (SPC-4 §4.5.2.4.4).
fn parse_progress(key: SenseKey, [flags, high, low]: [u8; 3]) -> Option<u16> {
    let has_progress = matches!(key, SenseKey::NoSense | SenseKey::NotReady);
    (has_progress && flags & SKSV != 0).then_some(u16::from_be_bytes([high, low]))
}

fn parse_fixed(bytes: &[u8]) -> Sense {
    let mut fixed = [0; Sense::FIXED_BYTES];
    let present = bytes.len().min(fixed.len());
    fixed[..present].copy_from_slice(&bytes[..present]);
    let key = SenseKey::from_bits(fixed[2]);
    Sense {
        key,
        asc: fixed[12],
        ascq: fixed[13],
        information: (fixed[0] & FIXED_VALID != 0).then(|| u64::from(be32(&fixed, 3))),
        field: parse_field_pointer(key, [fixed[15], fixed[16], fixed[17]]),
        progress: parse_progress(key, [fixed[15], fixed[16], fixed[17]]),
    }
}

fn parse_descriptor(bytes: &[u8]) -> Sense {
    let at = |index: usize| bytes.get(index).copied().unwrap_or(0);
    let key = SenseKey::from_bits(at(1));
    let mut sense = Sense::new(key, (at(2), at(3)));
    let end = bytes.len().min(8 + usize::from(at(7)));
    let mut rest = bytes.get(8..end).unwrap_or_default();
    while let [kind, length, ..] = *rest {
        let Some(descriptor) = rest.get(..2 + usize::from(length)) else { break };
        rest = &rest[descriptor.len()..];
        match kind {
            DESCRIPTOR_INFORMATION
                if descriptor.len() >= 12 && descriptor[2] & DESCRIPTOR_INFORMATION_VALID != 0 =>
            {
                sense.information = Some(be64(descriptor, 4));
            }
            DESCRIPTOR_SENSE_KEY_SPECIFIC if descriptor.len() >= 7 => {
                let specific = [descriptor[4], descriptor[5], descriptor[6]];
                sense.field = parse_field_pointer(key, specific);
                sense.progress = parse_progress(key, specific);
            }
            _ => {}
        }
    }
    sense
}

#[cfg(test)]
mod tests {
    use super::*;

    const LBA_IN_CDB: Sense = Sense {
        key: SenseKey::IllegalRequest,
        asc: 0x24,
        ascq: 0x00,
        information: Some(0x1234_5678),
        field: Some(FieldPointer { in_cdb: true, byte: 2, bit: Some(5) }),
        progress: None,
    };

    const FIXED: [u8; 18] =
        [0xf0, 0, 0x05, 0x12, 0x34, 0x56, 0x78, 0x0a, 0, 0, 0, 0, 0x24, 0x00, 0, 0xcd, 0x00, 0x02];

    const DESCRIPTOR: [u8; 28] = [
        0x72, 0x05, 0x24, 0x00, 0, 0, 0, 20, 0x00, 0x0a, 0x80, 0, 0, 0, 0, 0, 0x12, 0x34, 0x56,
        0x78, 0x02, 0x06, 0, 0, 0xcd, 0x00, 0x02, 0,
    ];

    #[test]
    fn fixed_format_both_ways() {
        assert_eq!(LBA_IN_CDB.emit_fixed(), FIXED);
        assert_eq!(Sense::parse(&FIXED), Ok(LBA_IN_CDB));
    }

    #[test]
    fn descriptor_format_both_ways() {
        assert_eq!(LBA_IN_CDB.emit_descriptor(), DESCRIPTOR);
        assert_eq!(Sense::parse(&DESCRIPTOR), Ok(LBA_IN_CDB));
    }

    #[test]
    fn information_beyond_32_bits_is_left_out_of_fixed_format_only() {
        let sense = LBA_IN_CDB.with_information(1 << 40);
        assert_eq!(Sense::parse(&sense.emit_fixed()).unwrap().information, None);
        assert_eq!(Sense::parse(&sense.emit_descriptor()), Ok(sense));
    }

    #[test]
    fn progress_both_ways() {
        let code = asc::NOT_READY_SANITIZE_IN_PROGRESS;
        let sense = Sense::new(SenseKey::NotReady, code).with_progress(0x8001);
        let fixed = sense.emit_fixed();
        assert_eq!((fixed[12], fixed[13], &fixed[15..]), (0x04, 0x1b, &[0x80, 0x80, 0x01][..]));
        assert_eq!(Sense::parse(&fixed), Ok(sense));
        assert_eq!(Sense::parse(&sense.emit_descriptor()), Ok(sense));
        // The same bytes are a retry count elsewhere.
        let failed = Sense { key: SenseKey::MediumError, ..sense };
        assert_eq!(Sense::parse(&failed.emit_fixed()).unwrap().progress, None);
    }

    #[test]
    fn truncated_sense_data_never_panics() {
        for cut in 1..FIXED.len() {
            assert!(Sense::parse(&FIXED[..cut]).is_ok());
        }
        for cut in 1..DESCRIPTOR.len() {
            assert!(Sense::parse(&DESCRIPTOR[..cut]).is_ok());
        }
        assert!(Sense::parse(&[]).is_err());
        assert!(Sense::parse(&[0x00, 0x05]).is_err());
    }

    #[test]
    fn descriptor_that_runs_past_the_end_is_ignored() {
        let bytes = [0x72, 0x03, 0x11, 0, 0, 0, 0, 255, 0x00, 0xff, 0x80];
        let expected = Sense::new(SenseKey::MediumError, asc::UNRECOVERED_READ_ERROR);
        assert_eq!(Sense::parse(&bytes), Ok(expected));
    }

    #[test]
    fn keys_survive() {
        for bits in 0..16 {
            assert_eq!(SenseKey::from_bits(bits).bits(), bits);
        }
    }
}
