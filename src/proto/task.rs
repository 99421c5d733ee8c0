//! SCSI commands on their way: who wants them, their buffer, and how far their data has got.
//!
//! A [`TaskTable`] is made before the device goes live and never grows. A task keeps its slot from
//! the submission of its request to the completion; each time its command is sent it gets a new
//! initiator task tag, so that a PDU about an earlier sending cannot touch it.

use std::time::Instant;

use super::command::{Command, Outcome, Transfer};
use super::disk::{Buffer, Op, Tag};
use super::unflushed::{Mark, Unflushed};
use crate::wire::pdu::Itt;
use crate::wire::serial::Sn;

/// Place of a task in the table.
pub(super) type Slot = u16;

/// Slots that the table can have; the tags above belong to PDUs that are no SCSI commands.
pub(super) const SLOTS_MAX: usize = 0xff00;

/// Who is told when the task ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// The block layer.
    Block(Tag),
    /// The session itself, finding out what the logical unit is.
    Probe,
    /// The session itself, writing again what the target may have lost: the data is a copy.
    Replay,
    /// The session itself, making room for copies.
    Flush,
}

/// What is to be done with the blocks of the disk, in as many commands as it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Work {
    pub(super) op: Op,
    /// First sector of 512 bytes that is not done yet.
    pub(super) start_sector: u64,
    /// Sectors that are not done yet.
    pub(super) sectors: u32,
    /// What remains is to make it stable.
    pub(super) flushing: bool,
    /// First sector and number of sectors of the whole.
    whole: (u64, u32),
}

impl Work {
    /// All of it is still to be done.
    pub(super) fn new(op: Op, start_sector: u64, sectors: u32) -> Work {
        let (flushing, whole) = (op == Op::Flush, (start_sector, sectors));
        Work { op, start_sector, sectors, flushing, whole }
    }

    /// Whether the whole has a sector of this range.
    pub(super) fn overlaps(&self, start_sector: u64, sectors: u32) -> bool {
        let (start, length) = self.whole;
        start < start_sector + u64::from(sectors) && start_sector < start + u64::from(length)
    }

    /// Back to the beginning.
    pub(super) fn begin_again(&mut self) {
        *self = Work::new(self.op, self.whole.0, self.whole.1);
    }
}

/// One SCSI command and its data.
pub(super) struct Task {
    pub(super) owner: Owner,
    /// Of no meaning for a probe, whose command is made elsewhere.
    pub(super) work: Work,
    pub(super) buffer: Buffer,
    pub(super) command: Command,
    /// Where in `buffer` the data of this command begins, in bytes.
    pub(super) base: u32,
    /// Sectors that this command covers.
    pub(super) covered: u32,
    /// Order of submission, to restore it after a reconnect.
    pub(super) sequence: u64,
    /// Times in a row that it came back without being done.
    pub(super) again: u32,
    /// Those of them that are a sign that something is wrong.
    pub(super) tries: u32,
    /// For a flush: what it makes stable.
    pub(super) covers: Mark,
    /// Times that it had no answer for too long.
    pub(super) timeouts: u32,
    /// Do not send it before.
    pub(super) not_before: Option<Instant>,
    pub(super) flight: Option<Flight>,
}

/// What is known of a command that was sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flight {
    /// Bytes that have come.
    pub(super) received: u32,
    /// Number that the next Data-In must have.
    pub(super) data_sn: Sn,
    /// Number that the next R2T must have.
    pub(super) r2t_sn: Sn,
    /// Pieces of the buffer that wait to be sent; it cannot go back while there are any.
    pub(super) unsent: u32,
    /// R2Ts that are not yet answered in full.
    pub(super) r2ts: u32,
    /// The same, with the data that may go unasked.
    pub(super) bursts: u32,
    /// Where the data that was not yet asked for begins.
    pub(super) asked: u32,
    /// The answer, once it is there.
    pub(super) outcome: Option<Outcome>,
    /// Under which number it was sent.
    pub(super) cmd_sn: Sn,
    /// When it was sent, or some of its data moved.
    pub(super) moved: Instant,
}

impl Flight {
    fn begin(now: Instant) -> Flight {
        Flight {
            received: 0,
            data_sn: Sn(0),
            r2t_sn: Sn(0),
            unsent: 0,
            r2ts: 0,
            bursts: 0,
            asked: 0,
            outcome: None,
            cmd_sn: Sn(0),
            moved: now,
        }
    }

    /// The command is over and nothing refers to its buffer any more.
    pub(super) fn is_over(&self) -> bool {
        self.outcome.is_some() && self.unsent == 0 && self.bursts == 0
    }
}

/// A part of a task's buffer that is being sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunk {
    pub(super) slot: Slot,
    /// From the beginning of the buffer, in bytes.
    pub(super) start: u32,
    pub(super) len: u32,
}

/// All tasks of a session.
pub(super) struct TaskTable {
    /// Copies of what was written; the data of tasks that write it again.
    pub(super) unflushed: Unflushed,
    slots: Box<[Entry]>,
    free: Vec<Slot>,
    sequence: u64,
}

struct Entry {
    /// Counts the sendings; the upper half of the task tag.
    generation: u16,
    /// The last sending that the target was made to give up.
    renounced: Option<u16>,
    task: Option<Task>,
}

impl TaskTable {
    /// A table of `slots` slots, at most [`SLOTS_MAX`].
    pub(super) fn new(slots: usize) -> TaskTable {
        assert!(slots <= SLOTS_MAX, "more slots than task tags");
        TaskTable {
            unflushed: Unflushed::new(0),
            slots: (0..slots)
                .map(|_| Entry { generation: 0, renounced: None, task: None })
                .collect(),
            free: (0..slots as Slot).rev().collect(),
            sequence: 0,
        }
    }

    /// Puts a task into a free slot; `None` if there is none.
    pub(super) fn insert(&mut self, owner: Owner, work: Work, buffer: Buffer) -> Option<Slot> {
        let slot = self.free.pop()?;
        self.sequence += 1;
        self.slots[usize::from(slot)].task = Some(Task {
            owner,
            work,
            buffer,
            command: Command { cdb: [0; 16], transfer: Transfer::None },
            base: 0,
            covered: 0,
            sequence: self.sequence,
            again: 0,
            tries: 0,
            covers: Mark::ZERO,
            timeouts: 0,
            not_before: None,
            flight: None,
        });
        Some(slot)
    }

    /// Takes a task out and frees its slot.
    pub(super) fn remove(&mut self, slot: Slot) -> Task {
        self.take(slot).expect("the slot holds a task")
    }

    /// Takes a task out and frees its slot, if there is one.
    pub(super) fn take(&mut self, slot: Slot) -> Option<Task> {
        let task = self.slots[usize::from(slot)].task.take()?;
        self.free.push(slot);
        Some(task)
    }

    /// Number of slots, free or not.
    pub(super) fn slots_count(&self) -> Slot {
        self.slots.len() as Slot
    }

    /// Who owns the task of a slot, if there is one.
    pub(super) fn owner(&self, slot: Slot) -> Option<Owner> {
        self.slots[usize::from(slot)].task.as_ref().map(|task| task.owner)
    }

    /// The task of a slot that is known to be used.
    pub(super) fn task(&self, slot: Slot) -> &Task {
        self.slots[usize::from(slot)].task.as_ref().expect("the slot holds a task")
    }

    /// The task of a slot that is known to be used.
    pub(super) fn task_mut(&mut self, slot: Slot) -> &mut Task {
        self.slots[usize::from(slot)].task.as_mut().expect("the slot holds a task")
    }

    /// Gives the task's command a new tag, under which it is sent now.
    pub(super) fn take_off(&mut self, slot: Slot, now: Instant) -> Itt {
        let entry = &mut self.slots[usize::from(slot)];
        entry.generation = entry.generation.wrapping_add(1);
        entry.task.as_mut().expect("the slot holds a task").flight = Some(Flight::begin(now));
        tag(slot, entry.generation)
    }

    /// The tag under which the slot's command was last sent.
    pub(super) fn itt(&self, slot: Slot) -> Itt {
        tag(slot, self.slots[usize::from(slot)].generation)
    }

    /// The target has given this sending up: what it still says of it means nothing.
    pub(super) fn renounce(&mut self, slot: Slot) {
        let entry = &mut self.slots[usize::from(slot)];
        entry.renounced = Some(entry.generation);
    }

    /// Whether the tag is of a sending that the target was made to give up.
    pub(super) fn is_renounced(&self, itt: Itt) -> bool {
        let entry = self.slots.get(usize::from(itt.0 as u16));
        entry.is_some_and(|entry| entry.renounced == Some((itt.0 >> 16) as u16))
    }

    /// A new connection: nothing of the old one is said on it.
    pub(super) fn forget_renounced(&mut self) {
        self.slots.iter_mut().for_each(|entry| entry.renounced = None);
    }

    /// The slot of the command that was sent under this tag and is not over.
    pub(super) fn find(&self, itt: Itt) -> Option<Slot> {
        let slot = itt.0 as u16;
        let entry = self.slots.get(usize::from(slot))?;
        let in_flight = entry.task.as_ref().is_some_and(|task| task.flight.is_some());
        (in_flight && entry.generation == (itt.0 >> 16) as u16).then_some(slot)
    }

    /// The slots of all tasks for which `wanted` holds.
    pub(super) fn slots(&self, wanted: impl Fn(&Task) -> bool) -> impl Iterator<Item = Slot> {
        let slots = self.slots.iter().enumerate();
        slots
            .filter(move |(_, entry)| entry.task.as_ref().is_some_and(&wanted))
            .map(|(slot, _)| slot as Slot)
    }

    /// Number of tasks in the table.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// The bytes that a chunk names.
    pub(super) fn bytes(&self, chunk: Chunk) -> &[u8] {
        let task = self.task(chunk.slot);
        match task.owner {
            Owner::Replay => self.unflushed.bytes(chunk.start, chunk.len),
            _ => &task.buffer[chunk.start as usize..][..chunk.len as usize],
        }
    }

    /// Where the parameter data of a task's command goes.
    pub(super) fn parameters(&mut self, slot: Slot) -> &mut [u8] {
        let task = self.slots[usize::from(slot)].task.as_mut().expect("the slot holds a task");
        match task.owner {
            Owner::Replay => self.unflushed.parameters(task.base),
            _ => &mut task.buffer,
        }
    }

    /// Sees to it that the write of a task, which is done, is not lost with the target's cache;
    /// `false` if there is no room for a copy of it.
    pub(super) fn keep(&mut self, slot: Slot) -> bool {
        let task = self.slots[usize::from(slot)].task.as_ref().expect("the slot holds a task");
        let Work { op, whole: (start_sector, sectors), .. } = task.work;
        match op {
            Op::Write { fua: true } => self.unflushed.amend(start_sector, sectors, &task.buffer),
            _ => self.unflushed.keep(op, start_sector, sectors, &task.buffer),
        }
    }
}

fn tag(slot: Slot, generation: u16) -> Itt {
    Itt(u32::from(generation) << 16 | u32::from(slot))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORK: Work =
        Work { op: Op::Read, start_sector: 0, sectors: 0, flushing: false, whole: (0, 0) };

    #[test]
    fn a_tag_is_good_for_one_sending() {
        let mut tasks = TaskTable::new(2);
        let slot = tasks.insert(Owner::Probe, WORK, vec![0; 16].into()).unwrap();
        let now = Instant::now();
        let first = tasks.take_off(slot, now);
        assert_eq!(tasks.find(first), Some(slot));
        tasks.renounce(slot);
        let second = tasks.take_off(slot, now);
        assert!(tasks.is_renounced(first) && !tasks.is_renounced(second));
        assert_eq!(tasks.find(first), None);
        assert_eq!(tasks.find(second), Some(slot));
        tasks.remove(slot);
        assert_eq!(tasks.find(second), None);
        assert_eq!(tasks.find(Itt::RESERVED), None);
    }

    #[test]
    fn a_full_table_takes_no_more() {
        let mut tasks = TaskTable::new(1);
        let slot = tasks.insert(Owner::Probe, WORK, Box::default()).unwrap();
        assert!(tasks.insert(Owner::Probe, WORK, Box::default()).is_none());
        tasks.remove(slot);
        assert!(tasks.insert(Owner::Probe, WORK, Box::default()).is_some());
        assert_eq!(tasks.len(), 1);
    }
}
