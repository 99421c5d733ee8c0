//! SCSI values that travel inside iSCSI: LUNs, statuses, CDBs, sense data and parameter data
//! (SAM-5, SPC-4, SBC-3).
//!
//! Both directions of everything live here, so that the initiator and the target test each other.
//! Parsers take what a peer sent, of any length: what is missing is either an error that names the
//! field, or, where the standards let a device stop early, the value that absence stands for.

use std::fmt;

mod cdb;
mod inquiry;
mod mode;
pub mod opcode;
mod parameter;
mod reservation;
mod sanitize;
mod sense;

pub use cdb::{Cdb, CdbSize, ProvisioningFlags, TransferFlags};
pub use inquiry::{
    BlockCharacteristics, BlockLimits, Designator, DesignatorKind, ExtendedInquiry,
    LogicalBlockProvisioning, PERIPHERAL_ABSENT, PERIPHERAL_DISK, StandardInquiry,
    VPD_BLOCK_CHARACTERISTICS, VPD_BLOCK_LIMITS, VPD_DEVICE_IDENTIFICATION, VPD_EXTENDED_INQUIRY,
    VPD_LOGICAL_BLOCK_PROVISIONING, VPD_MODE_PAGE_POLICY, VPD_SUPPORTED_PAGES,
    VPD_UNIT_SERIAL_NUMBER, emit_device_identification, emit_shared_mode_pages,
    emit_supported_pages, emit_unit_serial_number, parse_device_identification,
    parse_supported_pages, parse_unit_serial_number,
};
pub use mode::{
    BlockDescriptor, CONTROL_EXTENSION_PAGE, CachingPage, ControlPage, ERROR_RECOVERY_PAGE,
    EXCEPTIONS_PAGE, MODE_PAGE_ALL, MODE_PAGE_CACHING, MODE_PAGE_CONTROL, MODE_PAGE_ERROR_RECOVERY,
    MODE_PAGE_EXCEPTIONS, MODE_SUBPAGE_ALL, MODE_SUBPAGE_CONTROL_EXTENSION, ModeParameters,
    ModeSelection, RawModePage, parse_mode_selection,
};
pub use parameter::{
    Capacity10, Capacity16, LbaStatus, ProvisioningStatus, UNMAP_DESCRIPTOR_BYTES,
    UNMAP_HEADER_BYTES, UnmapDescriptor, emit_lba_status, emit_report_luns, emit_unmap,
    parse_report_luns, parse_unmap,
};
pub use reservation::{
    FullStatus, MoveList, ReservationCapabilities, ReservationType, ReserveOutList, TransportId,
    emit_full_status, emit_reservation, emit_reservation_keys, parse_full_status,
    parse_reservation, parse_reservation_keys,
};
pub use sanitize::OverwriteList;
pub use sense::{FieldPointer, Sense, SenseKey, asc};

/// A logical unit number as it stands in PDUs: eight bytes (SAM-5 §4.7).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Lun(pub [u8; 8]);

impl Lun {
    /// LUN 0.
    pub const ZERO: Lun = Lun([0; 8]);

    /// The LUN of a number: peripheral device addressing below 256, as every peer expects it,
    /// flat space addressing below 16384, extended flat space addressing above (SAM-5 §4.7).
    pub fn from_number(number: u16) -> Lun {
        let [high, low] = number.to_be_bytes();
        match high {
            0x00 => Lun([0, low, 0, 0, 0, 0, 0, 0]),
            0x01..=0x3f => Lun([METHOD_FLAT | high, low, 0, 0, 0, 0, 0, 0]),
            0x40.. => Lun([METHOD_EXTENDED_FLAT, 0, high, low, 0, 0, 0, 0]),
        }
    }

    /// The number of a single-level LUN in any of the three addressing methods, or `None` for a
    /// hierarchical LUN, a well-known LUN, or a number beyond 65535.
    pub fn to_number(self) -> Option<u16> {
        match self.0 {
            [0, low, 0, 0, 0, 0, 0, 0] => Some(u16::from(low)),
            [METHOD_EXTENDED_FLAT, 0, high, low, 0, 0, 0, 0] => {
                Some(u16::from_be_bytes([high, low]))
            }
            [first @ 0x40..=0x7f, low, 0, 0, 0, 0, 0, 0] => {
                Some(u16::from_be_bytes([first & !METHOD_FLAT, low]))
            }
            _ => None,
        }
    }
}

/// ADDRESS METHOD 01b in the top bits of the first byte.
const METHOD_FLAT: u8 = 0x40;
/// ADDRESS METHOD 11b, LENGTH 01b, EXTENDED ADDRESS METHOD 2h.
const METHOD_EXTENDED_FLAT: u8 = 0xd2;

impl fmt::Display for Lun {
    /// The number if it has one, otherwise the four groups of hexadecimal digits of RFC 4173.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to_number() {
            Some(number) => write!(f, "{number}"),
            None => {
                let [a, b, c, d, e, g, h, i] = self.0;
                write!(f, "{a:02x}{b:02x}-{c:02x}{d:02x}-{e:02x}{g:02x}-{h:02x}{i:02x}")
            }
        }
    }
}

impl fmt::Debug for Lun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lun({self})")
    }
}

/// The status that ends a command (SAM-5 §5.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScsiStatus {
    /// The command was done.
    Good,
    /// It was not; sense data says why.
    CheckCondition,
    /// PRE-FETCH found room.
    ConditionMet,
    /// The logical unit cannot take the command now.
    Busy,
    /// Another initiator holds a reservation.
    ReservationConflict,
    /// The logical unit's queue is full.
    TaskSetFull,
    /// An auto contingent allegiance is active.
    AcaActive,
    /// Another initiator aborted the task.
    TaskAborted,
    /// A number that SAM-5 does not define.
    Other(u8),
}

impl ScsiStatus {
    /// The status of its code.
    pub fn from_code(code: u8) -> ScsiStatus {
        match code {
            0x00 => ScsiStatus::Good,
            0x02 => ScsiStatus::CheckCondition,
            0x04 => ScsiStatus::ConditionMet,
            0x08 => ScsiStatus::Busy,
            0x18 => ScsiStatus::ReservationConflict,
            0x28 => ScsiStatus::TaskSetFull,
            0x30 => ScsiStatus::AcaActive,
            0x40 => ScsiStatus::TaskAborted,
            other => ScsiStatus::Other(other),
        }
    }

    /// The code of the status.
    pub fn code(self) -> u8 {
        match self {
            ScsiStatus::Good => 0x00,
            ScsiStatus::CheckCondition => 0x02,
            ScsiStatus::ConditionMet => 0x04,
            ScsiStatus::Busy => 0x08,
            ScsiStatus::ReservationConflict => 0x18,
            ScsiStatus::TaskSetFull => 0x28,
            ScsiStatus::AcaActive => 0x30,
            ScsiStatus::TaskAborted => 0x40,
            ScsiStatus::Other(code) => code,
        }
    }
}

impl fmt::Display for ScsiStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ScsiStatus::Good => "GOOD",
            ScsiStatus::CheckCondition => "CHECK CONDITION",
            ScsiStatus::ConditionMet => "CONDITION MET",
            ScsiStatus::Busy => "BUSY",
            ScsiStatus::ReservationConflict => "RESERVATION CONFLICT",
            ScsiStatus::TaskSetFull => "TASK SET FULL",
            ScsiStatus::AcaActive => "ACA ACTIVE",
            ScsiStatus::TaskAborted => "TASK ABORTED",
            ScsiStatus::Other(code) => return write!(f, "status {code:02x}h"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lun_bytes_of_each_addressing_method() {
        assert_eq!(Lun::from_number(0).0, [0; 8]);
        assert_eq!(Lun::from_number(5).0, [0, 5, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Lun::from_number(255).0, [0, 255, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Lun::from_number(256).0, [0x41, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Lun::from_number(0x3fff).0, [0x7f, 0xff, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Lun::from_number(0x4000).0, [0xd2, 0, 0x40, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn lun_numbers_survive_the_round_trip() {
        for number in 0..=u16::MAX {
            assert_eq!(Lun::from_number(number).to_number(), Some(number));
        }
    }

    #[test]
    fn flat_addressing_of_a_small_number_is_understood() {
        assert_eq!(Lun([0x40, 7, 0, 0, 0, 0, 0, 0]).to_number(), Some(7));
    }

    #[test]
    fn hierarchical_and_well_known_luns_have_no_number() {
        assert_eq!(Lun([0, 1, 0, 2, 0, 0, 0, 0]).to_number(), None);
        assert_eq!(Lun([1, 1, 0, 0, 0, 0, 0, 0]).to_number(), None);
        assert_eq!(Lun([0xc1, 1, 0, 0, 0, 0, 0, 0]).to_number(), None);
        assert_eq!(Lun([0xc1, 1, 0, 0, 0, 0, 0, 0]).to_string(), "c101-0000-0000-0000");
        assert_eq!(Lun::from_number(300).to_string(), "300");
    }

    #[test]
    fn every_status_code_survives() {
        for code in 0..=u8::MAX {
            assert_eq!(ScsiStatus::from_code(code).code(), code);
        }
    }
}
