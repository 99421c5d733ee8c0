//! SANITIZE: nothing that was on the disk can be read any more (SBC-4 §4.11, §5.24).
//!
//! The command only begins an operation. It is carried out piece by piece, in
//! [`LogicalUnit::sanitize`], by a thread that the owner has for it, for it may take hours; resets
//! and lost sessions do not end it. Meanwhile, and after a failure, the unit answers little else.
//!
//! Blocks are overwritten through [`Store::write_at`](crate::store::Store::write_at) alone, and
//! flushed: what merely frees or zeroes a range may leave the old data where the blocks were.

mod record;

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{
    CHUNK_BYTES, Extent, LogicalUnit, Outcome, RecordError, illegal, invalid_field,
    invalid_parameter,
};
use crate::store::Record;
use crate::wire::scsi::opcode::sanitize;
use crate::wire::scsi::{Cdb, OverwriteList, Sense, SenseKey, asc};

/// What is overwritten in one piece, in bytes: a slow disk takes a fraction of a second.
const WRITE_BYTES: u64 = 4 << 20;
/// What is freed in one piece, in bytes.
const DISCARD_BYTES: u64 = 1 << 30;
/// So much may be written before it is flushed, in bytes, so that the writes of other disks do not
/// wait behind it.
const FLUSH_BYTES: u64 = 64 << 20;
/// Failed operations that are remembered for those who still wait for an answer.
const FAILURES_MAX: usize = 64;

/// The sanitize operations of one logical unit.
#[derive(Debug, Default)]
pub(super) struct Sanitizer {
    state: Mutex<State>,
    /// The unit is not as usual, which is looked at before each command.
    closed: AtomicBool,
    /// Where an operation survives a restart, if it can.
    record: Option<Arc<dyn Record>>,
}

#[derive(Debug, Default)]
struct State {
    phase: Phase,
    /// Operations that were ever begun, which is the number of the last one.
    begun: u64,
    /// The numbers of those that failed.
    failures: VecDeque<u64>,
}

/// How the unit is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// As usual.
    #[default]
    Open,
    Running(Operation),
    /// The last operation has failed.
    Failed {
        unrestricted: bool,
    },
}

/// An operation, and how far it has come.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Operation {
    method: Method,
    /// AUSE: a failure may be left with EXIT FAILURE MODE.
    unrestricted: bool,
    pass: u8,
    /// Where the pass goes on, in bytes.
    offset: u64,
}

/// What becomes of the blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Method {
    /// The pattern, again and again in each block, in so many passes; with `invert` each pass
    /// writes the complement of the one before, and the last one the pattern.
    Overwrite { pattern: Vec<u8>, count: u8, invert: bool },
    /// Zeroes wherever something is, and then all is freed.
    BlockErase,
}

/// What [`LogicalUnit::sanitize`] has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sanitized {
    /// A piece; there is more to do.
    Piece,
    /// The last piece: the disk is sanitized.
    All,
    /// Nothing more, because the store failed. The log has the reason.
    Failed,
    /// Nothing: no operation is under way.
    Nothing,
}

impl Sanitizer {
    /// With a record, and an operation that a restart has interrupted.
    fn with_record(text: Option<&str>, record: Arc<dyn Record>) -> Result<Sanitizer, RecordError> {
        let phase = text.map(Phase::from_record).transpose()?.unwrap_or_default();
        let closed = AtomicBool::new(phase != Phase::Open);
        let begun = u64::from(phase != Phase::Open);
        let state = Mutex::new(State { phase, begun, ..State::default() });
        Ok(Sanitizer { state, closed, record: Some(record) })
    }

    /// A thread that panicked must not take the others with it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes how the unit is, here and on record.
    fn change(&self, state: &mut State, phase: Phase) -> io::Result<()> {
        if let Some(record) = &self.record {
            record.replace(&phase.to_record())?;
        }
        self.closed.store(phase != Phase::Open, Ordering::Release);
        state.phase = phase;
        Ok(())
    }

    /// An operation has failed, whether or not that can be written down.
    fn fail(&self, state: &mut State, unrestricted: bool) -> Sanitized {
        if state.failures.len() == FAILURES_MAX {
            state.failures.pop_front();
        }
        state.failures.push_back(state.begun);
        let failed = Phase::Failed { unrestricted };
        if self.change(state, failed.clone()).is_err() {
            // The record still tells of the operation: a restart will try it again.
            state.phase = failed;
        }
        Sanitized::Failed
    }
}

impl LogicalUnit {
    /// The same disk with sanitize operations that survive a restart: `text` is what the record
    /// had when the target was started, if it had anything.
    pub fn with_sanitize_record(
        self,
        text: Option<&str>,
        record: Arc<dyn Record>,
    ) -> Result<LogicalUnit, RecordError> {
        Ok(LogicalUnit { sanitizer: Sanitizer::with_record(text, record)?, ..self })
    }

    /// An operation is under way, and [`LogicalUnit::sanitize`] has to be called.
    pub fn is_sanitizing(&self) -> bool {
        matches!(self.sanitizer.lock().phase, Phase::Running(_))
    }

    /// The last operation has failed, and nothing else was asked for since.
    pub fn has_sanitize_failed(&self) -> bool {
        matches!(self.sanitizer.lock().phase, Phase::Failed { .. })
    }

    /// An operation survives a restart.
    pub fn has_sanitize_record(&self) -> bool {
        self.sanitizer.record.is_some()
    }

    /// Carries out a piece of the operation that is under way. One thread at a time does this.
    pub fn sanitize(&self) -> Sanitized {
        let sanitizer = &self.sanitizer;
        let Phase::Running(operation) = sanitizer.lock().phase.clone() else {
            return Sanitized::Nothing;
        };
        let next = self.carry_out(&operation);
        let mut state = sanitizer.lock();
        match next {
            Ok(next) if next.pass < next.method.passes() => {
                state.phase = Phase::Running(next);
                Sanitized::Piece
            }
            // On record before anybody can write again: nobody must lose that to a restart.
            Ok(_) => match sanitizer.change(&mut state, Phase::Open) {
                Ok(()) => Sanitized::All,
                Err(_) => sanitizer.fail(&mut state, operation.unrestricted),
            },
            Err(_) => sanitizer.fail(&mut state, operation.unrestricted),
        }
    }

    /// The operation that is under way cannot be carried out at all.
    pub fn give_up_sanitizing(&self) {
        let mut state = self.sanitizer.lock();
        if let Phase::Running(Operation { unrestricted, .. }) = state.phase {
            self.sanitizer.fail(&mut state, unrestricted);
        }
    }

    /// How the operation of a number has ended, if it has.
    pub(in super::super) fn sanitize_outcome(&self, number: u64) -> Option<Outcome> {
        let state = self.sanitizer.lock();
        if state.begun == number && matches!(state.phase, Phase::Running(_)) {
            return None;
        }
        let failed = state.failures.contains(&number);
        Some(if failed { FAILED.into() } else { Outcome::Good })
    }

    /// Whether the unit executes a command now.
    pub(super) fn check_sanitize(&self, command: &Cdb) -> Result<(), Sense> {
        if !self.sanitizer.closed.load(Ordering::Acquire) {
            return Ok(());
        }
        match (self.sanitize_sense(), command) {
            (_, Cdb::Inquiry { .. } | Cdb::RequestSense { .. }) => Ok(()),
            // A failure is left in no other way.
            (Some(FAILED), Cdb::Sanitize { .. }) => Ok(()),
            (Some(sense), _) => Err(sense),
            (None, _) => Ok(()),
        }
    }

    /// Why it does not.
    pub(super) fn sanitize_sense(&self) -> Option<Sense> {
        match &self.sanitizer.lock().phase {
            Phase::Open => None,
            Phase::Failed { .. } => Some(FAILED),
            Phase::Running(Operation { method, pass, offset, .. }) => {
                let done = u128::from(*pass) * u128::from(self.size_bytes()) + u128::from(*offset);
                let all = u128::from(method.passes()) * u128::from(self.size_bytes());
                let progress = (done << 16) / all;
                let sense = Sense::new(SenseKey::NotReady, asc::NOT_READY_SANITIZE_IN_PROGRESS);
                Some(sense.with_progress(progress.min(0xffff) as u16))
            }
        }
    }

    /// SANITIZE.
    pub(super) fn start_sanitize(&self, command: &Cdb, data: &[u8]) -> Result<Outcome, Sense> {
        let &Cdb::Sanitize { action, immediate, unrestricted, parameter_bytes } = command else {
            return Err(illegal(asc::INVALID_COMMAND_OPERATION_CODE));
        };
        let method = match action {
            sanitize::OVERWRITE => self.overwrite_method(parameter_bytes, data)?,
            _ if parameter_bytes != 0 => return Err(invalid_field(7, None)),
            sanitize::BLOCK_ERASE => Method::BlockErase,
            _ => return self.exit_failure_mode(),
        };
        let mut state = self.sanitizer.lock();
        if unrestricted && state.phase == (Phase::Failed { unrestricted: false }) {
            // What was begun without this way out does not get it later.
            return Err(invalid_field(1, Some(5)));
        }
        let operation = Operation { method, unrestricted, pass: 0, offset: 0 };
        self.sanitizer.change(&mut state, Phase::Running(operation)).map_err(not_recorded)?;
        state.begun += 1;
        Ok(Outcome::Sanitizing { number: state.begun, immediate })
    }

    fn exit_failure_mode(&self) -> Result<Outcome, Sense> {
        let mut state = self.sanitizer.lock();
        match state.phase {
            Phase::Failed { unrestricted: false } => return Err(invalid_field(1, Some(4))),
            Phase::Failed { unrestricted: true } => {
                self.sanitizer.change(&mut state, Phase::Open).map_err(not_recorded)?;
            }
            Phase::Open | Phase::Running(_) => {}
        }
        Ok(Outcome::Good)
    }

    fn overwrite_method(&self, parameter_bytes: u16, data: &[u8]) -> Result<Method, Sense> {
        let block_bytes = self.block_bytes as usize;
        let header = OverwriteList::HEADER_BYTES;
        if !(header + 1..=header + block_bytes).contains(&usize::from(parameter_bytes)) {
            return Err(invalid_field(7, None));
        }
        let length_error = illegal(asc::PARAMETER_LIST_LENGTH_ERROR);
        let list = data.get(..usize::from(parameter_bytes)).ok_or(length_error)?;
        let list = OverwriteList::parse(list).map_err(|_| invalid_parameter(2))?;
        if list.count == 0 || list.test != 0 {
            return Err(invalid_parameter(0));
        }
        if list.pattern.is_empty() {
            return Err(invalid_parameter(2));
        }
        let OverwriteList { pattern, count, invert, .. } = list;
        Ok(Method::Overwrite { pattern, count, invert })
    }

    /// A piece, and where the operation stands after it.
    fn carry_out(&self, operation: &Operation) -> io::Result<Operation> {
        let Operation { method, pass, offset, .. } = operation;
        let end = match method {
            Method::Overwrite { pattern, count, invert } => {
                let inverted = *invert && (count - pass).is_multiple_of(2);
                let change = if inverted { 0xff } else { 0 };
                let pattern = pattern.iter().map(|byte| byte ^ change).cycle();
                let block: Vec<u8> = pattern.take(self.block_bytes as usize).collect();
                self.overwrite(&block, *offset)?
            }
            Method::BlockErase if *pass == 0 => self.overwrite_mapped(*offset)?,
            Method::BlockErase => {
                let bytes = DISCARD_BYTES.min(self.size_bytes() - offset);
                self.store.discard(*offset, bytes)?;
                offset + bytes
            }
        };
        let is_over = end == self.size_bytes();
        if is_over || end / FLUSH_BYTES != offset / FLUSH_BYTES {
            self.store.flush()?;
        }
        let (pass, offset) = if is_over { (pass + 1, 0) } else { (*pass, end) };
        Ok(Operation { pass, offset, ..operation.clone() })
    }

    /// Writes a piece full of this block; returns where it ends.
    fn overwrite(&self, block: &[u8], offset: u64) -> io::Result<u64> {
        let bytes = WRITE_BYTES.min(self.size_bytes() - offset);
        self.write_pattern(block, Extent { offset, bytes })?;
        Ok(offset + bytes)
    }

    /// Writes zeroes over a piece of what has a place; a hole is skipped. Returns where it ends.
    fn overwrite_mapped(&self, offset: u64) -> io::Result<u64> {
        let allocation = self.store.allocation(offset)?;
        if !allocation.mapped {
            return Ok(allocation.end);
        }
        let end = allocation.end.min(offset + WRITE_BYTES).min(self.size_bytes());
        let zeroes = vec![0; (end - offset).min(CHUNK_BYTES) as usize];
        let mut position = offset;
        while position < end {
            let bytes = (end - position).min(CHUNK_BYTES);
            self.store.write_at(&zeroes[..bytes as usize], position)?;
            position += bytes;
        }
        Ok(end)
    }
}

/// The last operation has failed.
const FAILED: Sense = Sense::new(SenseKey::MediumError, asc::SANITIZE_COMMAND_FAILED);

/// What cannot be written down does not begin, or does not end.
fn not_recorded(_: io::Error) -> Sense {
    Sense::new(SenseKey::HardwareError, asc::INTERNAL_TARGET_FAILURE)
}

impl Method {
    fn passes(&self) -> u8 {
        match self {
            Method::Overwrite { count, .. } => *count,
            Method::BlockErase => 2,
        }
    }
}

#[cfg(test)]
mod tests;
