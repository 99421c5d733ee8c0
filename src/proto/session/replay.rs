//! What the session does by itself so that no completed write is lost with the target's cache.
//!
//! A completed write has a copy, or is forced, or was flushed. After each login, when the disk is
//! known to be the same, the copies are written again before anything else is sent. When half of
//! their room is used the session sends a flush of its own; a write that finds no room waits for
//! one.
//!
//! Two writes of one block that were under way at the same time may be written again in the other
//! order. No file system has such writes.

use std::time::Instant;

use super::{Event, Session, State};
use crate::proto::command::Outcome;
use crate::proto::disk::{self, Buffer, Op};
use crate::proto::task::{Owner, Slot, Task, Work};
use crate::proto::unflushed::Mark;
use crate::proto::{Disk, Error};
use crate::wire::scsi::{Sense, SenseKey};

/// Most copies that are written at once, and so the slots that are kept for the session itself.
pub(super) const OWN_SLOTS: usize = 16;

/// Unit attentions after which the cache may be gone: POWER ON, RESET, OR BUS DEVICE RESET
/// OCCURRED; POWER ON OCCURRED; DEVICE INTERNAL RESET (SPC-4 Annex F).
const CACHE_MAY_BE_LOST: [(u8, u8); 3] = [(0x29, 0x00), (0x29, 0x01), (0x29, 0x04)];

/// Unit attentions after which there may be a cache where there was none: PARAMETERS CHANGED and
/// MODE PARAMETERS CHANGED.
const CACHE_MAY_BE_NEW: [(u8, u8); 2] = [(0x2a, 0x00), (0x2a, 0x01)];

/// What a session has done by itself so that no completed write is lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Writes that were written again.
    pub rewritten: u64,
    /// Flushes that the block layer had not asked for.
    pub flushes: u64,
    /// Writes that waited for a flush because there was no room for a copy.
    pub held_back: u64,
}

/// What the session knows of its own upkeep.
#[derive(Default)]
pub(super) struct Upkeep {
    /// The disk has a volatile cache, or once had one.
    pub(super) cached: bool,
    /// A flush of the session's own is under way.
    flushing: bool,
    /// Writes that are done but have no copy, with the moment from which on a flush covers them.
    parked: Vec<(Slot, Mark)>,
    /// A write could not be done again: the next flush of the block layer says so.
    lost: Option<disk::Error>,
    /// The session is to end as soon as everything is written again.
    pub(super) leaves: bool,
    counts: Counts,
}

impl Upkeep {
    pub(super) fn new(slots: usize) -> Upkeep {
        Upkeep { parked: Vec::with_capacity(slots), ..Upkeep::default() }
    }

    /// How many writes are done and wait for a flush.
    pub(super) fn parked(&self) -> usize {
        self.parked.len()
    }

    /// The connection is over: what was parked is sent again as a whole.
    pub(super) fn disconnected(&mut self) {
        self.flushing = false;
        self.parked.clear();
    }
}

impl Session {
    /// What the session has done so that no completed write is lost.
    pub fn upkeep(&self) -> Counts {
        self.upkeep.counts
    }

    /// Why there must be a new login, with all that it brings, if the unit says this. During one
    /// it is nothing new, and after everything was flushed for the logout nothing can be lost.
    pub(super) fn doubt(&self, sense: &Sense) -> Option<Error> {
        let too_early = matches!(self.state, State::InLogin { .. });
        let too_late = matches!(self.state, State::InLogout { sent: true });
        if sense.key != SenseKey::UnitAttention || too_early || too_late {
            return None;
        }
        let text = if self.upkeep.cached && CACHE_MAY_BE_LOST.contains(&sense.code()) {
            "the disk was reset and may have lost its cache: what was not flushed is written again"
        } else if !self.upkeep.cached && CACHE_MAY_BE_NEW.contains(&sense.code()) {
            "the mode parameters of the disk have changed: it may have a volatile cache now"
        } else {
            return None;
        };
        Some(Error::LogicalUnit(text.into()))
    }

    /// Logs in anew because of a doubt. A session that is to end does so after that.
    pub(super) fn start_over(&mut self, error: Error, now: Instant) {
        if matches!(self.state, State::InLogout { .. }) {
            self.upkeep.leaves = true;
            self.state = State::LoggedIn { probe: None };
        }
        self.fail(error, now);
    }

    /// The disk is there, if it is the same as before.
    pub(super) fn found(&mut self, found: Disk, now: Instant) {
        let cached = found.geometry.write_cache && !found.geometry.read_only;
        if let Some(known) = &self.disk {
            if let Some(difference) = known.difference(&found) {
                self.fail(Error::LogicalUnit(difference.into()), now);
                return;
            }
            self.tell_changes(&found.geometry);
        } else {
            self.giving_up.handle_found();
            self.know(found.clone());
            self.events.push_back(Event::Ready(Box::new(found)));
        }
        // A cache that comes later has no memory for copies: each write is flushed. That is right,
        // because the block device was made as one that needs no flushes.
        self.upkeep.cached |= cached;
        if self.is_logged_in() {
            // It was only looked at again.
            self.state = State::LoggedIn { probe: None };
            return;
        }
        self.state = State::Replaying { next: 0 };
        self.replay(now);
    }

    /// Sends the next copies; when all are written, the session goes on.
    pub(super) fn replay(&mut self, now: Instant) {
        let State::Replaying { next } = &mut self.state else { return };
        let mut under_way = self.tasks.slots(|task| task.owner == Owner::Replay).count();
        while let Some(copy) = self.tasks.unflushed.copy(*next) {
            // The target may do commands in any order.
            let (start, sectors) = (copy.start_sector, copy.sectors);
            let in_the_way =
                |task: &Task| task.owner == Owner::Replay && task.work.overlaps(start, sectors);
            if under_way == OWN_SLOTS || self.tasks.slots(in_the_way).next().is_some() {
                return;
            }
            let work = Work::new(copy.op, copy.start_sector, copy.sectors);
            let slot = self.tasks.insert(Owner::Replay, work, Buffer::default());
            let slot = slot.expect("slots are kept for the session itself");
            let task = self.tasks.task_mut(slot);
            // As with a probe: who was too slow the last time gets longer.
            (task.base, task.timeouts) = (copy.start, self.failures.in_row());
            self.waiting.push_front(slot);
            under_way += 1;
            *next += 1;
        }
        if under_way == 0 {
            self.resume(now);
        }
    }

    /// Everything is as it was before the connection was lost.
    fn resume(&mut self, now: Instant) {
        if let Some(since) = self.away_since.take() {
            self.reconnects += 1;
            self.events
                .push_back(Event::Resumed { away: now - since, waiting: self.waiting.len() });
        }
        self.failures.handle_there(now);
        self.giving_up.handle_resumed();
        self.portals.handle_found();
        self.state = match self.upkeep.leaves {
            true => State::InLogout { sent: false },
            false => State::LoggedIn { probe: None },
        };
    }

    /// Sends a flush if one is needed that the block layer has not asked for.
    pub(super) fn maintain(&mut self) {
        let leaving = matches!(self.state, State::InLogout { sent: false });
        if self.upkeep.flushing || !(leaving || self.is_logged_in()) {
            return;
        }
        let unflushed = &self.tasks.unflushed;
        let last = leaving && self.tasks.len() == 0 && !unflushed.is_empty();
        if last || unflushed.wants_flush() || !self.upkeep.parked.is_empty() {
            let work = Work::new(Op::Flush, 0, 0);
            let slot = self.tasks.insert(Owner::Flush, work, Buffer::default());
            self.waiting.push_front(slot.expect("slots are kept for the session itself"));
            self.upkeep.flushing = true;
            self.upkeep.counts.flushes += 1;
        }
    }

    /// A write is done at the target. Whether it may be completed; if not, a flush will do it.
    pub(super) fn keep(&mut self, slot: Slot) -> bool {
        let op = self.tasks.task(slot).work.op;
        if !self.upkeep.cached || matches!(op, Op::Read | Op::Flush) || self.tasks.keep(slot) {
            return true;
        }
        let mark = self.tasks.unflushed.pass();
        self.upkeep.parked.push((slot, mark));
        self.upkeep.counts.held_back += 1;
        false
    }

    /// A flush is over that covers everything before `covered`.
    pub(super) fn flushed(&mut self, covered: Mark, result: Result<(), disk::Error>) {
        if result.is_ok() {
            self.tasks.unflushed.release(covered);
        }
        let mut index = 0;
        while let Some((slot, mark)) = self.upkeep.parked.get(index).copied() {
            if mark <= covered {
                self.upkeep.parked.remove(index);
                self.complete(slot, result);
            } else {
                index += 1;
            }
        }
    }

    /// The session's own flush is over.
    pub(super) fn own_flush_is_over(&mut self, slot: Slot, result: Result<(), disk::Error>) {
        let task = self.tasks.remove(slot);
        self.upkeep.flushing = false;
        if result.is_err() {
            self.flushed(task.covers, result);
            if matches!(self.state, State::InLogout { .. }) {
                // Nobody is left who could be told.
                self.tasks.unflushed.release(task.covers);
            }
        }
    }

    /// A copy is written, or cannot be.
    pub(super) fn replayed(
        &mut self,
        slot: Slot,
        result: Result<(), disk::Error>,
        outcome: Outcome,
    ) {
        let Work { start_sector, sectors, .. } = self.tasks.remove(slot).work;
        self.upkeep.counts.rewritten += u64::from(result.is_ok());
        if let Err(error) = result {
            self.upkeep.lost = Some(error);
            self.events.push_back(Event::WriteLost { start_sector, sectors, outcome });
        }
    }

    /// What a flush of the block layer says: that of a disk whose cache could not be written.
    pub(super) fn confess(&mut self) -> Result<(), disk::Error> {
        self.upkeep.lost.take().map_or(Ok(()), Err)
    }
}
