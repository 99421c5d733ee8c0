//! What the logical unit is: found out after each login, and when the unit says that something is
//! new about it. As long as that is not known, no request is sent.

use std::time::Instant;

use super::super::disk::{Geometry, Op};
use super::super::probe::{Disk, Next, Probe};
use super::super::task::{Owner, Slot, Work};
use super::super::unflushed::Unflushed;
use super::{Event, Session, SessionConfig, State};
use crate::wire::scsi::{Sense, asc};

impl Session {
    /// A session for a disk that another process had a session with until it died: only the same
    /// disk will do, and nothing is given up that was not given up before.
    pub fn take_over(config: SessionConfig, disk: Disk, now: Instant) -> Session {
        let mut session = Session::new(config, now);
        session.giving_up.handle_found();
        session.know(disk);
        session.away_since = Some(now);
        session
    }

    /// This is the disk, from now on.
    pub(super) fn know(&mut self, disk: Disk) {
        if disk.geometry.write_cache && !disk.geometry.read_only {
            self.tasks.unflushed = Unflushed::new(self.config.unflushed_bytes_max);
        }
        self.blocks = disk.geometry.blocks;
        self.disk = Some(disk);
    }

    /// The probe that is under way.
    pub(super) fn probe(&mut self) -> Option<&mut Probe> {
        match &mut self.state {
            State::InLogin { probe } | State::LoggedIn { probe } => probe.as_mut(),
            _ => None,
        }
    }

    /// The unit says that something is new about it.
    pub(super) fn handle_attention(&mut self, sense: &Sense, now: Instant) {
        if let Some(error) = self.doubt(sense) {
            self.start_over(error, now);
            return;
        }
        let probe = Probe::new(self.config.lun);
        match &mut self.state {
            State::LoggedIn { probe: place @ None } if changes_the_unit(sense.code()) => {
                *place = Some(probe);
                self.send_probe(None);
            }
            _ => {}
        }
    }

    pub(super) fn send_probe(&mut self, not_before: Option<Instant>) {
        let Some(probe) = self.probe() else { return };
        let command = probe.command();
        let buffer = self.probe_buffer.take().expect("one probe command at a time");
        let slot = self.tasks.insert(Owner::Probe, Work::new(Op::Read, 0, 0), buffer);
        let slot = slot.expect("a slot is kept for the probe");
        let task = self.tasks.task_mut(slot);
        (task.command, task.not_before) = (command, not_before);
        // A unit that needs longer than it is given gets more the next time.
        task.timeouts = self.failures.in_row();
        match not_before {
            None => self.waiting.push_front(slot),
            Some(_) => self.delayed.push(slot),
        }
    }

    pub(super) fn finish_probe(&mut self, slot: Slot, now: Instant) {
        let task = self.tasks.remove(slot);
        let outcome = task.flight.and_then(|flight| flight.outcome);
        let outcome = outcome.expect("a finished command has an outcome");
        let bytes_max = self.config.transfer_bytes_max;
        let Some(probe) = self.probe() else {
            self.probe_buffer = Some(task.buffer);
            return;
        };
        let next = probe.handle(&outcome, &task.buffer, bytes_max);
        self.probe_buffer = Some(task.buffer);
        if let Some(error) = outcome.sense().and_then(|sense| self.doubt(sense)) {
            self.start_over(error, now);
            return;
        }
        match next {
            Ok(Next::Command) => self.send_probe(None),
            Ok(Next::Wait(pause)) => self.send_probe(Some(now + pause)),
            Ok(Next::Found(disk)) => self.found(disk, now),
            Err(error) => self.fail(error, now),
        }
    }

    /// What is new and does no harm. The block device stays as it was made.
    pub(super) fn tell_changes(&mut self, found: &Geometry) {
        let known = &self.disk.as_ref().expect("it was compared").geometry;
        if found.blocks != self.blocks {
            let what = format!(
                "it has {} blocks now, {} are in use: a later boot or attach sees the others",
                found.blocks, known.blocks
            );
            self.events.push_back(Event::Changed { what: what.into() });
            self.blocks = found.blocks;
        }
    }
}

/// Whether the unit says with this that it should be looked at again (SPC-4 annex F).
fn changes_the_unit(code: (u8, u8)) -> bool {
    [
        asc::PARAMETERS_CHANGED,
        asc::MODE_PARAMETERS_CHANGED,
        asc::CAPACITY_DATA_HAS_CHANGED,
        asc::INQUIRY_DATA_HAS_CHANGED,
        asc::DEVICE_IDENTIFIER_CHANGED,
        asc::REPORTED_LUNS_DATA_HAS_CHANGED,
    ]
    .contains(&code)
}
