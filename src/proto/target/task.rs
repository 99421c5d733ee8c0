//! Commands from their arrival to their answer: where the data of a write is, what of it is still
//! to be asked for, and which commands may be executed (RFC 7143 §4.2, §11.7, §11.8).
//!
//! A command may be executed when all of its data is there; only an ordered one waits for those
//! that came before it, and those behind it wait for it (SAM-5 §8.6).

use std::collections::VecDeque;

use super::buffers::{BufferName, Buffers};
use super::{COMMAND_WINDOW, Tag};
use crate::proto::params::Negotiated;
use crate::wire::pdu::{DataOut, Itt, Ttt};
use crate::wire::scsi::{Lun, Sense, SenseKey, asc};
use crate::wire::serial::Sn;

/// One command.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) lun: Lun,
    pub(super) itt: Itt,
    pub(super) cdb: [u8; 16],
    /// What the initiator is ready to take, in bytes.
    pub(super) expected_in: u32,
    /// What the initiator is ready to give, in bytes.
    pub(super) expected_out: u32,
    /// What the CDB takes, in bytes.
    pub(super) wanted_out: u64,
    pub(super) cmd_sn: Sn,
    /// It uses a place of the command window.
    pub(super) windowed: bool,
    /// It waits for all older commands, and all younger ones wait for it.
    pub(super) ordered: bool,
    /// Place in the order of arrival.
    arrival: u64,
    /// Data that it needs before it can be executed, in bytes.
    pub(super) needed: u32,
    /// Room in the buffer: more than needed if more comes unasked.
    capacity: u32,
    /// Data that has come, always from the start without gaps between bursts.
    received: u32,
    /// Data that has come unasked, be it needed or not.
    unasked: u32,
    /// Where the next R2T starts.
    requested: u32,
    pub(super) buffer: Option<BufferName>,
    /// The unsolicited burst, until its last PDU has come.
    unsolicited: Option<Burst>,
    /// The bursts that R2Ts asked for.
    solicited: Vec<(Ttt, Burst)>,
    pub(super) r2t_sn: Sn,
    /// Why it is not to be executed.
    pub(super) failure: Option<Sense>,
    stage: Stage,
    /// Bytes of the budget for solicited data that it holds.
    budget: u32,
}

/// How far a task has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It waits until the commands before it have come.
    Early,
    /// It waits for data.
    Collecting,
    /// It waits in one of the queues to be handed out.
    Queued,
    /// The owner was told to execute it.
    HandedOut,
}

/// Data-Out PDUs that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Burst {
    next_offset: u32,
    end: u32,
    data_sn: Sn,
}

/// An R2T that is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) ttt: Ttt,
    pub(super) offset: u32,
    pub(super) bytes: u32,
}

/// Where the data of a Data-Out PDU goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Placement {
    /// Into the buffer of this task, at this offset.
    Task(Tag, u32),
    /// Nowhere: its task is gone, failed, or has no use for it.
    Nowhere,
}

/// Commands beside the window that an initiator may have sent as immediate ones.
const IMMEDIATE_TASKS_MAX: usize = 16;
/// Places for tasks.
const TASKS_MAX: usize = COMMAND_WINDOW as usize + IMMEDIATE_TASKS_MAX;
/// Most bytes of write buffers for which data is being asked at a time; one task may always ask.
const SOLICITED_BYTES_MAX: u32 = 32 << 20;

/// All tasks of a session.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    slots: Vec<Task>,
    /// The tags of `slots` in one place, for quick search; reserved where a slot is free.
    itts: Vec<Itt>,
    free: Vec<u16>,
    ready: VecDeque<u16>,
    /// Tasks that have their data and wait because of an ordered task.
    blocked: Vec<u16>,
    /// Tasks that wait until the budget for solicited data allows them to ask.
    starved: VecDeque<u16>,
    solicited_bytes: u32,
    windowed: u32,
    early: u32,
    ordered: u32,
    arrivals: u64,
    transfers: u32,
}

/// What a new task is made of.
pub(super) struct NewTask {
    pub(super) lun: Lun,
    pub(super) itt: Itt,
    pub(super) cdb: [u8; 16],
    pub(super) expected_in: u32,
    pub(super) expected_out: u32,
    pub(super) wanted_out: u64,
    pub(super) cmd_sn: Sn,
    pub(super) windowed: bool,
    /// A command before it is missing; it goes on with [`Tasks::begin`].
    pub(super) early: bool,
    pub(super) ordered: bool,
    /// Data that it needs.
    pub(super) needed: u32,
    /// Length of the data in its own PDU.
    pub(super) immediate: u32,
    /// Most unsolicited data that it may bring, if any follows in Data-Out PDUs.
    pub(super) unsolicited_end: Option<u32>,
}

impl Tasks {
    pub(super) fn new() -> Tasks {
        Tasks {
            slots: Vec::with_capacity(TASKS_MAX),
            itts: vec![Itt::RESERVED; TASKS_MAX],
            free: Vec::with_capacity(TASKS_MAX),
            ready: VecDeque::with_capacity(TASKS_MAX),
            ..Tasks::default()
        }
    }

    /// Tasks whose numbers are before ExpCmdSN, and which use places of the command window.
    pub(super) fn windowed(&self) -> u32 {
        self.windowed
    }

    pub(super) fn get(&self, tag: Tag) -> &Task {
        &self.slots[usize::from(tag.0)]
    }

    pub(super) fn get_mut(&mut self, tag: Tag) -> &mut Task {
        &mut self.slots[usize::from(tag.0)]
    }

    /// The task of an initiator task tag.
    pub(super) fn find(&self, itt: Itt) -> Option<Tag> {
        let slot = self.itts.iter().position(|taken| *taken == itt)?;
        (itt != Itt::RESERVED).then_some(Tag(slot as u16))
    }

    /// Opens a task, or `None` if there is no place: only immediate commands can see that.
    pub(super) fn open(&mut self, new: NewTask) -> Option<Tag> {
        let numbered = (self.windowed + self.early) as usize;
        let immediate = self.slots.len() - self.free.len() - numbered;
        if !new.windowed && immediate >= IMMEDIATE_TASKS_MAX {
            return None;
        }
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.slots.len() < TASKS_MAX => {
                self.slots.push(Task::vacant());
                (self.slots.len() - 1) as u16
            }
            None => return None,
        };
        self.itts[usize::from(slot)] = new.itt;
        self.early += 1;
        let task = &mut self.slots[usize::from(slot)];
        let solicited = std::mem::take(&mut task.solicited);
        *task = Task {
            lun: new.lun,
            itt: new.itt,
            cdb: new.cdb,
            expected_in: new.expected_in,
            expected_out: new.expected_out,
            wanted_out: new.wanted_out,
            cmd_sn: new.cmd_sn,
            windowed: new.windowed,
            ordered: new.ordered,
            stage: Stage::Early,
            needed: new.needed,
            capacity: new.needed.max(new.immediate).max(new.unsolicited_end.unwrap_or(0)),
            received: new.immediate.min(new.needed),
            unasked: new.immediate,
            unsolicited: new.unsolicited_end.map(|end| Burst {
                next_offset: new.immediate,
                end,
                data_sn: Sn(0),
            }),
            solicited,
            ..Task::vacant()
        };
        if !new.early {
            self.begin(Tag(slot));
        }
        Some(Tag(slot))
    }

    /// All commands before this one have come.
    pub(super) fn begin(&mut self, tag: Tag) {
        self.arrivals += 1;
        self.early -= 1;
        let task = &mut self.slots[usize::from(tag.0)];
        (task.stage, task.arrival) = (Stage::Collecting, self.arrivals);
        self.windowed += u32::from(task.windowed);
        self.ordered += u32::from(task.ordered);
    }

    /// Where the data of the command PDU itself goes.
    pub(super) fn place_immediate(&mut self, tag: Tag, buffers: &mut Buffers) -> Placement {
        let task = self.get_mut(tag);
        if task.needed == 0 || task.failure.is_some() {
            return Placement::Nowhere;
        }
        let capacity = task.capacity as usize;
        task.buffer.get_or_insert_with(|| buffers.acquire(capacity));
        Placement::Task(tag, 0)
    }

    /// A Data-Out PDU: where its data goes. A PDU that breaks the order of its burst fails its
    /// task.
    pub(super) fn place(&mut self, pdu: &DataOut, buffers: &mut Buffers) -> Placement {
        let tag = if pdu.ttt == Ttt::RESERVED {
            self.find(pdu.itt)
        } else {
            // The lower half of a transfer tag is the slot of its task.
            Some(Tag(pdu.ttt.0 as u16)).filter(|tag| {
                self.slots.get(usize::from(tag.0)).is_some_and(|task| task.itt == pdu.itt)
            })
        };
        let Some(tag) = tag else { return Placement::Nowhere };
        let task = self.get_mut(tag);
        let Some(burst) = task.burst(pdu.ttt) else { return Placement::Nowhere };
        let end = pdu.buffer_offset.checked_add(pdu.data_bytes);
        let in_order = pdu.buffer_offset == burst.next_offset && pdu.data_sn == burst.data_sn;
        match end {
            Some(end) if in_order && end <= burst.end => {
                burst.next_offset = end;
                burst.data_sn = burst.data_sn.next();
            }
            _ => {
                let code = asc::DATA_PHASE_ERROR;
                task.failure.get_or_insert(Sense::new(SenseKey::AbortedCommand, code));
                return Placement::Nowhere;
            }
        }
        if task.failure.is_some() || task.needed == 0 || pdu.data_bytes == 0 {
            return Placement::Nowhere;
        }
        let capacity = task.capacity as usize;
        task.buffer.get_or_insert_with(|| buffers.acquire(capacity));
        Placement::Task(tag, pdu.buffer_offset)
    }

    /// The data of a Data-Out PDU has come. Returns the task if it is now complete.
    pub(super) fn placed(&mut self, pdu: &DataOut) -> Option<Tag> {
        let tag = match pdu.ttt {
            Ttt::RESERVED => self.find(pdu.itt)?,
            ttt => Tag(ttt.0 as u16),
        };
        let task = self.slots.get_mut(usize::from(tag.0)).filter(|task| task.itt == pdu.itt)?;
        let needed = task.needed;
        let burst = *task.burst(pdu.ttt)?;
        let complete = burst.next_offset >= burst.end;
        task.received = task.received.saturating_add(pdu.data_bytes).min(needed);
        if pdu.final_pdu || (complete && pdu.ttt != Ttt::RESERVED) {
            if pdu.ttt == Ttt::RESERVED {
                task.unsolicited = None;
                task.received = burst.next_offset.min(needed);
                task.unasked = burst.next_offset;
            } else {
                task.solicited.retain(|(ttt, _)| *ttt != pdu.ttt);
            }
            if !complete {
                // The initiator owes the rest of the burst and says that it is over.
                let code = asc::NOT_ENOUGH_UNSOLICITED_DATA;
                task.failure.get_or_insert(Sense::new(SenseKey::AbortedCommand, code));
            }
        }
        Some(tag)
    }

    /// Whether a task can still get something that it waits for; if not, it is queued for
    /// execution. To be called whenever something about it has changed.
    pub(super) fn queue_if_complete(&mut self, tag: Tag) {
        let task = self.get(tag);
        // The answer waits for all data that was asked for, even if it is thrown away (§7.8).
        let silent = task.unsolicited.is_none() && task.solicited.is_empty();
        let failed = task.failure.is_some() && silent;
        let complete = task.unsolicited.is_none() && task.received >= task.needed;
        if task.stage != Stage::Collecting || !(failed || complete) {
            return;
        }
        self.get_mut(tag).stage = Stage::Queued;
        if self.ordered != 0 && self.must_wait(tag) {
            self.blocked.push(tag.0);
        } else {
            self.ready.push_back(tag.0);
        }
    }

    /// An ordered task waits for everything older, everything waits for an older ordered one.
    fn must_wait(&self, tag: Tag) -> bool {
        let task = self.get(tag);
        self.open_tags().any(|other| {
            let other = self.get(other);
            let begun = other.stage != Stage::Early;
            begun && other.arrival < task.arrival && (task.ordered || other.ordered)
        })
    }

    /// The next R2T of a task, as far as its limits and the budget go.
    pub(super) fn next_r2t(&mut self, tag: Tag, agreed: &Negotiated) -> Option<Wanted> {
        let solicited_bytes = self.solicited_bytes;
        let transfers = self.transfers;
        let task = self.get_mut(tag);
        let collecting = task.stage == Stage::Collecting;
        if task.unsolicited.is_some() || task.failure.is_some() || !collecting {
            return None;
        }
        task.requested = task.requested.max(task.received);
        let missing = task.needed - task.requested;
        if missing == 0 || task.solicited.len() as u32 >= agreed.max_outstanding_r2t {
            return None;
        }
        if task.budget == 0 {
            if solicited_bytes != 0 && solicited_bytes + task.needed > SOLICITED_BYTES_MAX {
                if !self.starved.contains(&tag.0) {
                    self.starved.push_back(tag.0);
                }
                return None;
            }
            task.budget = task.needed;
            self.solicited_bytes += self.get(tag).needed;
        }
        // 65535 in the upper half would make the reserved tag possible.
        self.transfers = (transfers + 1) % 0xffff;
        let task = self.get_mut(tag);
        let ttt = Ttt(transfers << 16 | u32::from(tag.0));
        let bytes = missing.min(agreed.max_burst_bytes);
        let offset = task.requested;
        let burst = Burst { next_offset: offset, end: offset + bytes, data_sn: Sn(0) };
        task.solicited.push((ttt, burst));
        task.requested += bytes;
        Some(Wanted { ttt, offset, bytes })
    }

    /// A task that may ask for data now because the budget allows it again.
    pub(super) fn next_starved(&mut self) -> Option<Tag> {
        let slot = *self.starved.front()?;
        let needed = self.get(Tag(slot)).needed;
        if self.solicited_bytes != 0 && self.solicited_bytes + needed > SOLICITED_BYTES_MAX {
            return None;
        }
        self.starved.pop_front().map(Tag)
    }

    /// The next task to execute.
    pub(super) fn next_ready(&mut self) -> Option<Tag> {
        let tag = Tag(self.ready.pop_front()?);
        self.get_mut(tag).stage = Stage::HandedOut;
        Some(tag)
    }

    /// Ends a task: its place and its buffer are free again.
    pub(super) fn close(&mut self, tag: Tag, buffers: &mut Buffers) {
        self.itts[usize::from(tag.0)] = Itt::RESERVED;
        let task = &mut self.slots[usize::from(tag.0)];
        task.itt = Itt::RESERVED;
        task.solicited.clear();
        if let Some(buffer) = task.buffer.take() {
            buffers.release(buffer);
        }
        self.solicited_bytes -= std::mem::take(&mut task.budget);
        if task.stage == Stage::Early {
            self.early -= 1;
        } else {
            self.windowed -= u32::from(task.windowed);
            self.ordered -= u32::from(task.ordered);
        }
        if task.stage == Stage::Queued {
            self.ready.retain(|slot| *slot != tag.0);
            self.blocked.retain(|slot| *slot != tag.0);
        }
        self.starved.retain(|slot| *slot != tag.0);
        self.free.push(tag.0);
        if !self.blocked.is_empty() {
            self.unblock();
        }
    }

    fn unblock(&mut self) {
        let mut blocked = std::mem::take(&mut self.blocked);
        blocked.retain(|slot| {
            let waits = self.must_wait(Tag(*slot));
            if !waits {
                self.ready.push_back(*slot);
            }
            waits
        });
        self.blocked = blocked;
    }

    /// The tasks of a logical unit, or all, without those whose turn has not come.
    pub(super) fn of(&self, lun: Option<Lun>) -> Vec<Tag> {
        let begun = self.open_tags().filter(|tag| self.get(*tag).stage != Stage::Early);
        begun.filter(|tag| lun.is_none_or(|lun| self.get(*tag).lun == lun)).collect()
    }

    /// The tasks whose turn has not come.
    pub(super) fn early(&self) -> Vec<Tag> {
        self.open_tags().filter(|tag| self.is_early(*tag)).collect()
    }

    /// A command before it is missing.
    pub(super) fn is_early(&self, tag: Tag) -> bool {
        self.get(tag).stage == Stage::Early
    }

    fn open_tags(&self) -> impl Iterator<Item = Tag> + '_ {
        let taken = self.itts.iter().enumerate().filter(|(_, itt)| **itt != Itt::RESERVED);
        taken.map(|(slot, _)| Tag(slot as u16))
    }
}

impl Task {
    /// Content of a slot that was never used.
    fn vacant() -> Task {
        Task {
            lun: Lun::ZERO,
            itt: Itt::RESERVED,
            cdb: [0; 16],
            expected_in: 0,
            expected_out: 0,
            wanted_out: 0,
            cmd_sn: Sn(0),
            windowed: false,
            ordered: false,
            arrival: 0,
            needed: 0,
            capacity: 0,
            received: 0,
            unasked: 0,
            requested: 0,
            buffer: None,
            unsolicited: None,
            solicited: Vec::new(),
            r2t_sn: Sn(0),
            failure: None,
            stage: Stage::Collecting,
            budget: 0,
        }
    }

    fn burst(&mut self, ttt: Ttt) -> Option<&mut Burst> {
        if ttt == Ttt::RESERVED {
            return self.unsolicited.as_mut();
        }
        self.solicited.iter_mut().find(|(open, _)| *open == ttt).map(|(_, burst)| burst)
    }

    /// The owner was told to execute it, and it was not aborted since.
    pub(super) fn is_handed_out(&self) -> bool {
        self.itt != Itt::RESERVED && self.stage == Stage::HandedOut
    }

    /// The data that has come for it.
    pub(super) fn data<'a>(&self, buffers: &'a Buffers) -> &'a [u8] {
        match self.buffer {
            Some(buffer) => &buffers.get(buffer)[..self.needed.max(self.unasked) as usize],
            None => &[],
        }
    }
}
