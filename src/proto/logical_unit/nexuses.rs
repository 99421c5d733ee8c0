//! What a logical unit knows of the I_T nexuses that use it, and what these may do to each other.
//!
//! The sessions of a target are threads, and this is where they meet, so it has a lock; only
//! [`sanitize`](super::sanitize) has another one, for the thread that carries it out. A command
//! does not pay for it as long as nothing changes: every change of the table counts up a version,
//! and a session that has seen the present version knows how it stands ([`Nexus::standing`]).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::attentions::Attentions;
use super::reservations::{Effects, RecordError, Refusal, Request, Reservations, Rights};
use super::{Outcome, allocated, illegal, invalid_field};
use crate::proto::target::SessionName;
use crate::store::Record;
use crate::wire::scsi::{Cdb, Lun, Sense, SenseKey, asc};

/// An I_T nexus: one session of an initiator, as the logical units of the target see it.
///
/// It begins when the session does, and dropping it is the I_T nexus loss (SAM-5 §6.3.4): whatever
/// the units keep for the session alone is given up.
#[derive(Debug)]
pub struct Nexus {
    id: NexusId,
    seats: Vec<Seat>,
}

/// The number of an I_T nexus; no other nexus of its target ever has the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct NexusId(pub(in super::super) u64);

/// A nexus at one logical unit.
#[derive(Debug)]
struct Seat {
    nexuses: Arc<Nexuses>,
    /// Of the table that `standing` is taken from.
    version: u64,
    standing: Standing,
}

/// What a nexus has to know before each of its commands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Standing {
    /// A unit attention waits.
    pub(in super::super) attention: bool,
    /// It tells of a reset, and so of more than a reservation.
    pub(in super::super) reset: bool,
    /// What reservations leave.
    pub(in super::super) rights: Rights,
}

/// The nexuses of one logical unit.
#[derive(Debug, Default)]
pub(in super::super) struct Nexuses {
    version: AtomicU64,
    table: Mutex<Table>,
    /// Where reservations survive a restart, if they can.
    record: Option<Arc<dyn Record>>,
}

#[derive(Debug, Default)]
struct Table {
    present: Vec<Present>,
    /// Who has reserved the unit with RESERVE; never while there are registrations.
    reserved: Option<NexusId>,
    reservations: Reservations,
}

/// A nexus that is there.
#[derive(Debug)]
struct Present {
    id: NexusId,
    session: SessionName,
    attentions: Attentions,
    /// It prevents the medium from being removed.
    prevents: bool,
}

impl NexusId {
    /// For commands of nobody in particular.
    pub(super) const NOBODY: NexusId = NexusId(0);
}

impl Nexus {
    /// A session begins. Whatever the units were for its initiator before is over.
    pub(in super::super) fn new(
        id: NexusId,
        session: &SessionName,
        units: impl Iterator<Item = Arc<Nexuses>>,
    ) -> Nexus {
        let seat = |nexuses: Arc<Nexuses>| {
            nexuses.enter(id, session.clone());
            Seat { nexuses, version: u64::MAX, standing: Standing::default() }
        };
        Nexus { id, seats: units.map(seat).collect() }
    }

    /// Which one it is.
    pub(in super::super) fn id(&self) -> NexusId {
        self.id
    }

    /// How it stands with a logical unit that is there.
    pub(in super::super) fn standing(&mut self, lun: Lun) -> Standing {
        let id = self.id;
        match self.seat(lun) {
            Some(seat) => seat.standing(id),
            None => Standing::default(),
        }
    }

    /// The next unit attention of a logical unit, which counts as reported now.
    pub(in super::super) fn take_attention(&mut self, lun: Lun) -> Option<Sense> {
        let id = self.id;
        let code = self.seat(lun)?.nexuses.take_attention(id)?;
        Some(Sense::new(SenseKey::UnitAttention, code))
    }

    fn seat(&mut self, lun: Lun) -> Option<&mut Seat> {
        self.seats.get_mut(usize::from(lun.to_number()?))
    }
}

impl Drop for Nexus {
    fn drop(&mut self) {
        for seat in &self.seats {
            seat.nexuses.leave(self.id);
        }
    }
}

impl Seat {
    fn standing(&mut self, id: NexusId) -> Standing {
        if self.version != self.nexuses.version.load(Ordering::Acquire) {
            (self.version, self.standing) = self.nexuses.look(id);
        }
        self.standing
    }
}

impl Nexuses {
    /// Establishes a unit attention for every nexus but one, which has caused it.
    pub(in super::super) fn tell_others(&self, cause: NexusId, code: (u8, u8)) {
        self.change(|table| {
            for present in table.present.iter_mut().filter(|present| present.id != cause) {
                present.attentions.establish(code);
            }
        });
    }

    /// Establishes a unit attention for every nexus.
    pub(in super::super) fn tell_all(&self, code: (u8, u8)) {
        self.tell_others(NexusId::NOBODY, code);
    }

    /// The logical unit was reset (SAM-5 §6.3.3). Persistent reservations do not care.
    pub(in super::super) fn reset(&self) {
        self.change(|table| {
            table.reserved = None;
            table.present.iter_mut().for_each(|present| present.prevents = false);
        });
        self.tell_all(asc::BUS_DEVICE_RESET);
    }

    fn enter(&self, id: NexusId, session: SessionName) {
        let mut attentions = Attentions::default();
        attentions.establish(asc::POWER_ON_OR_RESET);
        self.change(|table| {
            table.present.push(Present { id, session, attentions, prevents: false })
        });
    }

    fn leave(&self, id: NexusId) {
        self.change(|table| {
            table.present.retain(|present| present.id != id);
            table.reserved.take_if(|holder| *holder == id);
        });
    }

    fn take_attention(&self, id: NexusId) -> Option<(u8, u8)> {
        self.change(|table| table.present(id)?.attentions.take())
    }

    /// How a nexus stands, and of which version that is true.
    fn look(&self, id: NexusId) -> (u64, Standing) {
        let mut table = self.lock();
        let reserved = table.reserved.is_some_and(|holder| holder != id);
        let mut standing = Standing::default();
        if let Some(Present { session, attentions, .. }) = table.present(id) {
            (standing.attention, standing.reset) = (!attentions.is_empty(), attentions.is_reset());
            let session = session.clone();
            standing.rights =
                if reserved { Rights::Asking } else { table.reservations.rights(&session) };
        }
        (self.version.load(Ordering::Acquire), standing)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Table) -> T) -> T {
        let mut table = self.lock();
        let result = change(&mut table);
        self.version.fetch_add(1, Ordering::Release);
        result
    }

    /// A thread that panicked must not take the others with it.
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn present(&mut self, id: NexusId) -> Option<&mut Present> {
        self.present.iter_mut().find(|present| present.id == id)
    }

    /// Tells others what has become of their registrations and reservations.
    fn tell(&mut self, effects: &Effects) {
        for (session, code) in &effects.attentions {
            let present = self.present.iter_mut().filter(|present| present.session == *session);
            present.for_each(|present| present.attentions.establish(*code));
        }
    }
}

// The commands that are about what the nexuses do to each other.
impl Nexuses {
    /// A unit whose reservations survive a restart: as they were, and where to keep them.
    pub(super) fn with_record(
        text: Option<&str>,
        record: Arc<dyn Record>,
    ) -> Result<Nexuses, RecordError> {
        let reservations = text.map(Reservations::from_record).transpose()?.unwrap_or_default();
        let table = Table { reservations, ..Table::default() };
        Ok(Nexuses { table: Mutex::new(table), record: Some(record), ..Nexuses::default() })
    }

    /// The medium must stay where it is (SPC-4 §6.18).
    pub(super) fn is_removal_prevented(&self) -> bool {
        self.lock().present.iter().any(|present| present.prevents)
    }

    /// Executes a command about reservations, or about the medium that all share.
    pub(super) fn execute(
        &self,
        id: NexusId,
        command: &Cdb,
        data: &[u8],
    ) -> Result<Outcome, Sense> {
        match *command {
            Cdb::PreventAllowMediumRemoval { prevent: 2.. } => Err(invalid_field(4, Some(1))),
            Cdb::PreventAllowMediumRemoval { prevent } => {
                let present = |present: &mut Present| present.prevents = prevent != 0;
                self.change(|table| table.present(id).into_iter().for_each(present));
                Ok(Outcome::Good)
            }
            Cdb::Reserve { third_party: true, .. } | Cdb::Release { third_party: true, .. } => {
                Err(invalid_field(1, Some(4)))
            }
            Cdb::Reserve { extent: true, .. } | Cdb::Release { extent: true, .. } => {
                Err(invalid_field(1, Some(0)))
            }
            Cdb::Reserve { .. } => Ok(self.change(|table| table.reserve(id))),
            Cdb::Release { .. } => Ok(self.change(|table| table.release(id))),
            Cdb::PersistentReserveIn { action, allocation } => {
                self.persistent_reserve_in(action, allocation)
            }
            Cdb::PersistentReserveOut { action, scope, kind, parameter_bytes } => {
                let list = data.get(..parameter_bytes as usize);
                let list = list.ok_or(illegal(asc::PARAMETER_LIST_LENGTH_ERROR))?;
                self.persistent_reserve_out(id, (action, scope, kind), list)
            }
            _ => Err(illegal(asc::INVALID_COMMAND_OPERATION_CODE)),
        }
    }

    fn persistent_reserve_in(&self, action: u8, allocation: u16) -> Result<Outcome, Sense> {
        let table = self.lock();
        if table.reserved.is_some() {
            return Ok(Outcome::Conflict);
        }
        let data = table.reservations.report(action, self.record.is_some())?;
        Ok(allocated(data, usize::from(allocation)))
    }

    fn persistent_reserve_out(
        &self,
        id: NexusId,
        (action, scope, kind): (u8, u8, u8),
        list: &[u8],
    ) -> Result<Outcome, Sense> {
        let mut table = self.lock();
        let present: Vec<SessionName> =
            table.present.iter().map(|present| present.session.clone()).collect();
        let Some(who) = table.present(id).map(|present| present.session.clone()) else {
            return Ok(Outcome::Conflict);
        };
        if table.reserved.is_some() {
            return Ok(Outcome::Conflict);
        }
        let can_persist = self.record.is_some();
        let (who, present) = (&who, &present[..]);
        let mut changed = table.reservations.clone();
        let request = Request { who, action, scope, kind, list, present, can_persist };
        let effects = match changed.perform(&request) {
            Ok(effects) => effects,
            Err(Refusal::Conflict) => return Ok(Outcome::Conflict),
            Err(Refusal::Check(sense)) => return Err(sense),
        };
        if let Some(record) = &self.record {
            let (before, after) = (table.reservations.to_record(), changed.to_record());
            // The answer must not come before it is true after a loss of power as well.
            if before != after && record.replace(&after).is_err() {
                return Err(Sense::new(SenseKey::HardwareError, asc::INTERNAL_TARGET_FAILURE));
            }
        }
        table.reservations = changed;
        table.tell(&effects);
        self.version.fetch_add(1, Ordering::Release);
        match effects.aborted {
            aborted if aborted.is_empty() => Ok(Outcome::Good),
            aborted => Ok(Outcome::Preempted(aborted)),
        }
    }
}

// RESERVE and RELEASE, beside persistent reservations (SPC-2 §5.5.1, SPC-4 §5.13.3).
impl Table {
    fn reserve(&mut self, id: NexusId) -> Outcome {
        match self.reserved {
            Some(holder) if holder != id => Outcome::Conflict,
            // Nobody would ever give it up.
            _ if self.present.iter().all(|present| present.id != id) => Outcome::Conflict,
            _ if self.reservations.is_in_use() => self.unless_privileged(id),
            _ => {
                self.reserved = Some(id);
                Outcome::Good
            }
        }
    }

    fn release(&mut self, id: NexusId) -> Outcome {
        if self.reservations.is_in_use() {
            return self.unless_privileged(id);
        }
        // Of what another has reserved nothing is released, and that is no error.
        self.reserved.take_if(|holder| *holder == id);
        Outcome::Good
    }

    fn unless_privileged(&mut self, id: NexusId) -> Outcome {
        let session = self.present(id).map(|present| present.session.clone());
        match session {
            Some(session) if self.reservations.is_privileged(&session) => Outcome::Good,
            _ => Outcome::Conflict,
        }
    }
}
