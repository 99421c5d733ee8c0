//! Block requests to SCSI commands, and the outcome of a command to what follows from it.
//!
//! SCSI from the initiator's chair. The one place where an outcome becomes a [`disk::Error`].

use std::time::Duration;

use super::disk::{self, Geometry, Op};
use crate::wire::pdu::Residual;
use crate::wire::scsi::{
    Cdb, CdbSize, ProvisioningFlags, ScsiStatus, Sense, SenseKey, TransferFlags, UnmapDescriptor,
    asc, emit_unmap,
};

/// A SCSI command and the data that goes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command {
    /// The command descriptor block.
    pub cdb: [u8; 16],
    /// Which way how many bytes go.
    pub transfer: Transfer,
}

/// The data of a command, as the initiator expects it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// None.
    None,
    /// From the target, at most so many bytes.
    In(u32),
    /// To the target, exactly so many bytes.
    Out(u32),
}

impl Command {
    /// WRITE(10) or WRITE(16).
    fn is_write(&self) -> bool {
        matches!(self.cdb[0], 0x2a | 0x8a)
    }
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The logical unit answered.
    Status {
        /// SCSI status.
        status: ScsiStatus,
        /// Sense data, if it came and could be read.
        sense: Option<Sense>,
        /// Bytes that came, for a read.
        received_bytes: u32,
        /// What did not fit, as the target says it.
        residual: Residual,
    },
    /// The target could not carry the command out (iSCSI response code other than 0).
    TargetFailure(u8),
    /// The target rejected the command for this reason (RFC 7143 §11.17.1).
    Rejected(u8),
    /// The target gave the command up because we told it to.
    Renounced,
}

impl Outcome {
    /// Sense data, if there is any.
    pub fn sense(&self) -> Option<&Sense> {
        match self {
            Outcome::Status { sense, .. } => sense.as_ref(),
            _ => None,
        }
    }
}

/// What follows from an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is done.
    Done,
    /// Try again after a while. Such outcomes are the target's way of saying "not now".
    Retry {
        /// How long to wait, the first time.
        after: Duration,
        /// It may go on like this (busy), or is a sign that something is wrong (aborted).
        endless: bool,
    },
    /// The target has too many commands: try again with fewer.
    Fewer,
    /// It has failed for good.
    Fail(disk::Error),
}

/// Most sectors of 512 bytes that one command covers, whatever the geometry says: the block count
/// then fits the 10-byte commands, and a byte count 32 bits.
const SECTORS_MAX: u64 = 0xffff;

/// The first command of a block request, or of what is left of it, and how many sectors of 512
/// bytes it covers. Parameter data of commands that have it is put at the beginning of `buffer`.
pub fn encode(
    op: Op,
    start_sector: u64,
    sectors: u32,
    geometry: &Geometry,
    buffer: &mut [u8],
) -> (Command, u32) {
    let block_sectors = u64::from(geometry.logical_block_bytes / 512);
    let limit_bytes = match op {
        Op::Flush => return (synchronize_cache(), 0),
        Op::Read | Op::Write { .. } => u64::from(geometry.transfer_bytes_max),
        Op::Discard => geometry.unmap.map_or(0, |unmap| unmap.bytes_max),
        Op::WriteZeroes { .. } => geometry.write_zeroes_bytes_max,
    };
    let limit = match op {
        // These two have 32-bit block counts.
        Op::Discard | Op::WriteZeroes { .. } => limit_bytes / 512,
        _ => (limit_bytes / 512).min(SECTORS_MAX),
    };
    let covered = u64::from(sectors).min(limit / block_sectors * block_sectors).max(block_sectors);
    let lba = start_sector / block_sectors;
    let blocks = (covered / block_sectors) as u32;
    let bytes = (covered * 512) as u32;
    let size = match CdbSize::reaching(lba, blocks) {
        CdbSize::Ten => CdbSize::Ten,
        _ => CdbSize::Sixteen,
    };
    let (cdb, transfer) = match op {
        Op::Read => {
            let flags = TransferFlags::default();
            (Cdb::Read { size, lba, blocks, flags }, Transfer::In(bytes))
        }
        Op::Write { fua } => {
            let flags = TransferFlags { fua, ..TransferFlags::default() };
            (Cdb::Write { size, lba, blocks, flags }, Transfer::Out(bytes))
        }
        Op::Discard => {
            let list = emit_unmap(&UnmapDescriptor { lba, blocks });
            buffer[..list.len()].copy_from_slice(&list);
            let cdb = Cdb::Unmap { anchor: false, parameter_bytes: list.len() as u16 };
            (cdb, Transfer::Out(list.len() as u32))
        }
        Op::WriteZeroes { no_unmap, .. } => {
            let block_bytes = geometry.logical_block_bytes;
            buffer[..block_bytes as usize].fill(0);
            let unmap = !no_unmap && geometry.unmap.is_some();
            let flags = ProvisioningFlags { unmap, ..ProvisioningFlags::default() };
            let cdb = Cdb::WriteSame { size: CdbSize::Sixteen, lba, blocks, flags };
            (cdb, Transfer::Out(block_bytes))
        }
        Op::Flush => unreachable!("a flush was encoded above"),
    };
    (Command { cdb: cdb.emit(), transfer }, covered as u32)
}

/// SYNCHRONIZE CACHE(10) of the whole unit, answered when it is done.
pub fn synchronize_cache() -> Command {
    let cdb = Cdb::SynchronizeCache { size: CdbSize::Ten, lba: 0, blocks: 0, immediate: false };
    Command { cdb: cdb.emit(), transfer: Transfer::None }
}

/// What follows from the outcome of a command.
pub fn judge(outcome: &Outcome, command: &Command) -> Verdict {
    let transfer = command.transfer;
    let (status, sense, received_bytes, residual) = match outcome {
        Outcome::Status { status, sense, received_bytes, residual } => {
            (*status, *sense, *received_bytes, *residual)
        }
        Outcome::TargetFailure(_) | Outcome::Rejected(_) => return retry_counted(),
        Outcome::Renounced => return Verdict::Retry { after: Duration::ZERO, endless: true },
    };
    match status {
        ScsiStatus::Good | ScsiStatus::ConditionMet => match (transfer, residual) {
            // A disk that says GOOD and sends less has not read what was asked for.
            (Transfer::In(bytes), _) if received_bytes != bytes => retry_counted(),
            // It wanted to move more, or has not taken all that is to be written.
            (_, Residual::Overflow(1..)) => retry_counted(),
            (_, Residual::Underflow(1..)) if command.is_write() => retry_counted(),
            _ => Verdict::Done,
        },
        ScsiStatus::CheckCondition => match sense {
            Some(sense) => judge_sense(&sense, received_bytes, transfer),
            None => retry_counted(),
        },
        ScsiStatus::Busy | ScsiStatus::AcaActive => {
            Verdict::Retry { after: Duration::from_millis(100), endless: true }
        }
        ScsiStatus::TaskSetFull => Verdict::Fewer,
        ScsiStatus::TaskAborted => Verdict::Retry { after: Duration::ZERO, endless: false },
        ScsiStatus::ReservationConflict => Verdict::Fail(disk::Error::Reservation),
        // Obsolete or of the future: not what a disk says that has looked at the command.
        ScsiStatus::Other(_) => retry_counted(),
    }
}

fn judge_sense(sense: &Sense, received_bytes: u32, transfer: Transfer) -> Verdict {
    match sense.key {
        SenseKey::NoSense | SenseKey::RecoveredError | SenseKey::Completed => match transfer {
            Transfer::In(bytes) if received_bytes != bytes => retry_counted(),
            _ => Verdict::Done,
        },
        // The unit tells about a reset or a change and has not looked at the command.
        SenseKey::UnitAttention => Verdict::Retry { after: Duration::ZERO, endless: true },
        // A root disk is worth waiting for: the unit may be starting up or have lost its backing.
        SenseKey::NotReady => Verdict::Retry { after: Duration::from_secs(1), endless: true },
        SenseKey::AbortedCommand => retry_counted(),
        SenseKey::MediumError | SenseKey::HardwareError => Verdict::Fail(disk::Error::Medium),
        SenseKey::DataProtect if sense.code() == asc::SPACE_ALLOCATION_FAILED => {
            Verdict::Fail(disk::Error::NoSpace)
        }
        SenseKey::DataProtect => Verdict::Fail(disk::Error::ReadOnly),
        SenseKey::IllegalRequest => match sense.code() {
            asc::LBA_OUT_OF_RANGE => Verdict::Fail(disk::Error::OutOfRange),
            asc::INVALID_COMMAND_OPERATION_CODE => Verdict::Fail(disk::Error::Unsupported),
            // After a restart the target may not have its units back yet.
            asc::LOGICAL_UNIT_NOT_SUPPORTED => {
                Verdict::Retry { after: Duration::from_secs(1), endless: true }
            }
            _ => Verdict::Fail(disk::Error::Io),
        },
        _ => Verdict::Fail(disk::Error::Io),
    }
}

fn retry_counted() -> Verdict {
    Verdict::Retry { after: Duration::from_millis(250), endless: false }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::disk::UnmapLimits;

    fn geometry(logical_block_bytes: u32) -> Geometry {
        Geometry {
            logical_block_bytes,
            physical_block_bytes: 4096,
            granularity_bytes: 4096,
            blocks: 1 << 40,
            read_only: false,
            write_cache: true,
            fua: true,
            rotational: false,
            transfer_bytes_max: 256 * 1024,
            unmap: Some(UnmapLimits { bytes_max: 1 << 20, granularity_bytes: 4096 }),
            write_zeroes_bytes_max: 1 << 25,
        }
    }

    fn encoded(op: Op, start: u64, sectors: u32, block: u32) -> (Command, u32, Vec<u8>) {
        let mut buffer = vec![0xaa; 4096];
        let (command, covered) = encode(op, start, sectors, &geometry(block), &mut buffer);
        (command, covered, buffer)
    }

    #[test]
    fn a_read_becomes_the_shortest_cdb_that_reaches() {
        let (command, covered, _) = encoded(Op::Read, 16, 8, 512);
        assert_eq!(command.cdb[..10], [0x28, 0, 0, 0, 0, 16, 0, 0, 8, 0]);
        assert_eq!((command.transfer, covered), (Transfer::In(4096), 8));
        let (command, _, _) = encoded(Op::Read, 1 << 32, 8, 512);
        assert_eq!(command.cdb[..14], [0x88, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 8]);
    }

    #[test]
    fn sectors_become_blocks_of_4096_bytes() {
        let (command, covered, _) = encoded(Op::Write { fua: true }, 80, 16, 4096);
        assert_eq!(command.cdb[..10], [0x2a, 0x08, 0, 0, 0, 10, 0, 0, 2, 0]);
        assert_eq!((command.transfer, covered), (Transfer::Out(8192), 16));
    }

    #[test]
    fn a_request_that_is_too_long_is_covered_in_part() {
        let (command, covered, _) = encoded(Op::Read, 0, 1024, 512);
        assert_eq!((command.transfer, covered), (Transfer::In(256 * 1024), 512));
        let (_, covered, _) = encoded(Op::Discard, 0, 1 << 20, 4096);
        assert_eq!(covered, (1 << 20) / 512);
    }

    #[test]
    fn discard_and_write_zeroes_carry_their_parameters_in_the_buffer() {
        let (command, _, buffer) = encoded(Op::Discard, 8, 16, 512);
        assert_eq!(command.cdb[..10], [0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0]);
        assert_eq!(
            buffer[..24],
            [0, 22, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 16, 0, 0, 0, 0]
        );
        let (command, _, buffer) =
            encoded(Op::WriteZeroes { no_unmap: false, fua: false }, 8, 16, 512);
        assert_eq!(command.cdb[..2], [0x93, 0x08]);
        assert_eq!(command.transfer, Transfer::Out(512));
        assert!(buffer[..512].iter().all(|byte| *byte == 0));
        let (command, _, _) = encoded(Op::WriteZeroes { no_unmap: true, fua: false }, 8, 16, 512);
        assert_eq!(command.cdb[..2], [0x93, 0x00]);
    }

    #[test]
    fn outcomes_have_their_consequences() {
        let sense = |key, code| Outcome::Status {
            status: ScsiStatus::CheckCondition,
            sense: Some(Sense::new(key, code)),
            received_bytes: 0,
            residual: Residual::None,
        };
        let status = |status| Outcome::Status {
            status,
            sense: None,
            received_bytes: 0,
            residual: Residual::None,
        };
        let now = Verdict::Retry { after: Duration::ZERO, endless: true };
        for (outcome, verdict) in [
            (status(ScsiStatus::Good), Verdict::Done),
            (sense(SenseKey::UnitAttention, asc::POWER_ON_OR_RESET), now),
            (
                sense(SenseKey::MediumError, asc::UNRECOVERED_READ_ERROR),
                Verdict::Fail(disk::Error::Medium),
            ),
            (
                sense(SenseKey::DataProtect, asc::WRITE_PROTECTED),
                Verdict::Fail(disk::Error::ReadOnly),
            ),
            (
                sense(SenseKey::DataProtect, asc::SPACE_ALLOCATION_FAILED),
                Verdict::Fail(disk::Error::NoSpace),
            ),
            (
                sense(SenseKey::IllegalRequest, asc::LBA_OUT_OF_RANGE),
                Verdict::Fail(disk::Error::OutOfRange),
            ),
            (status(ScsiStatus::ReservationConflict), Verdict::Fail(disk::Error::Reservation)),
        ] {
            assert_eq!(judge(&outcome, &synchronize_cache()), verdict, "{outcome:?}");
        }
        assert!(matches!(
            judge(&status(ScsiStatus::Busy), &synchronize_cache()),
            Verdict::Retry { endless: true, .. }
        ));
    }

    #[test]
    fn good_with_another_amount_of_data_is_not_done() {
        let good = |received_bytes, residual| Outcome::Status {
            status: ScsiStatus::Good,
            sense: None,
            received_bytes,
            residual,
        };
        let (read, ..) = encoded(Op::Read, 0, 1, 512);
        let (write, ..) = encoded(Op::Write { fua: false }, 0, 1, 512);
        let (discard, ..) = encoded(Op::Discard, 0, 8, 512);
        for (outcome, command, done) in [
            (good(512, Residual::None), read, true),
            (good(511, Residual::None), read, false),
            (good(512, Residual::Overflow(512)), read, false),
            (good(0, Residual::None), write, true),
            (good(0, Residual::Overflow(0)), write, true),
            (good(0, Residual::Overflow(1)), write, false),
            (good(0, Residual::Underflow(512)), write, false),
            // The list of an UNMAP may be counted or not.
            (good(0, Residual::Underflow(24)), discard, true),
        ] {
            let verdict = judge(&outcome, &command);
            let again = matches!(verdict, Verdict::Retry { endless: false, .. });
            assert_eq!((verdict == Verdict::Done, again), (done, !done), "{outcome:?}");
        }
    }
}
