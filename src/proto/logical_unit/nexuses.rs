//! What a logical unit knows of the I_T nexuses that use it, and what these may do to each other.
//!
//! The sessions of a target are threads, and this is the one place of the room where they meet, so
//! it has a lock. A command does not pay for it as long as nothing changes: every change of the
//! table counts up a version, and a session that has seen the present version knows how it stands
//! ([`Nexus::standing`]).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::attentions::Attentions;
use crate::proto::target::SessionName;
use crate::wire::scsi::{Lun, Sense, SenseKey, asc};

/// An I_T nexus: one session of an initiator, as the logical units of the target see it.
///
/// It begins when the session does, and dropping it is the I_T nexus loss (SAM-5 §6.3.4): whatever
/// the units keep for the session alone is given up.
#[derive(Debug)]
pub struct Nexus {
    id: NexusId,
    session: SessionName,
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
}

/// The nexuses of one logical unit.
#[derive(Debug, Default)]
pub(in super::super) struct Nexuses {
    version: AtomicU64,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    present: Vec<Present>,
}

/// A nexus that is there.
#[derive(Debug)]
struct Present {
    id: NexusId,
    attentions: Attentions,
}

impl NexusId {
    /// For commands of nobody in particular.
    pub(super) const NOBODY: NexusId = NexusId(0);
}

impl Nexus {
    /// A session begins. Whatever the units were for its initiator before is over.
    pub(in super::super) fn new(
        id: NexusId,
        session: SessionName,
        units: impl Iterator<Item = Arc<Nexuses>>,
    ) -> Nexus {
        let seat = |nexuses: Arc<Nexuses>| {
            nexuses.enter(id);
            Seat { nexuses, version: u64::MAX, standing: Standing::default() }
        };
        Nexus { id, session, seats: units.map(seat).collect() }
    }

    /// Which one it is.
    pub(in super::super) fn id(&self) -> NexusId {
        self.id
    }

    /// Whose session it is.
    pub fn session(&self) -> &SessionName {
        &self.session
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

    /// The logical unit was reset (SAM-5 §6.3.3).
    pub(in super::super) fn reset(&self) {
        self.tell_all(asc::BUS_DEVICE_RESET);
    }

    fn enter(&self, id: NexusId) {
        let mut attentions = Attentions::default();
        attentions.establish(asc::POWER_ON_OR_RESET);
        self.change(|table| table.present.push(Present { id, attentions }));
    }

    fn leave(&self, id: NexusId) {
        self.change(|table| table.present.retain(|present| present.id != id));
    }

    fn take_attention(&self, id: NexusId) -> Option<(u8, u8)> {
        self.change(|table| table.present(id)?.attentions.take())
    }

    /// How a nexus stands, and of which version that is true.
    fn look(&self, id: NexusId) -> (u64, Standing) {
        let mut table = self.lock();
        let attention = table.present(id).is_some_and(|present| !present.attentions.is_empty());
        (self.version.load(Ordering::Acquire), Standing { attention })
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
}
