//! Persistent reservations of a logical unit: who has registered which key, who holds the
//! reservation, and what follows from that (SPC-4 §5.13).
//!
//! An I_T nexus is known by the names of its session, so that a registration outlives the session.
//! There is one target port, so all of its ports (ALL_TG_PT) are that one. A change is made on a
//! copy, which takes the place of the original when it is good and, if it has to be, on disk.

mod record;

use self::Refusal::{Check, Conflict};
pub use self::record::RecordError;
use super::{illegal, invalid_field};
use crate::proto::target::SessionName;
use crate::wire::scsi::opcode::{reserve_in, reserve_out};
use crate::wire::scsi::{
    FieldPointer, FullStatus, MoveList, ReservationCapabilities, ReservationType, ReserveOutList,
    Sense, TransportId, asc, emit_full_status, emit_reservation, emit_reservation_keys,
};

/// RELATIVE TARGET PORT IDENTIFIER of the only target port.
const TARGET_PORT: u16 = 1;
/// Most registrations of one logical unit.
const REGISTRATIONS_MAX: usize = 256;

/// The registrations and the reservation of a logical unit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reservations {
    /// PRGENERATION.
    generation: u32,
    /// In the order in which they came.
    registrations: Vec<Registration>,
    held: Option<Held>,
    /// All of it is to survive a restart.
    persists: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Registration {
    port: SessionName,
    /// Never 0.
    key: u64,
}

/// A reservation that is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    kind: ReservationType,
    /// Is registered. `None` if everybody who has registered is a holder.
    holder: Option<SessionName>,
}

/// PERSISTENT RESERVE OUT, with whatever else it depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request<'a> {
    pub(super) who: &'a SessionName,
    /// SERVICE ACTION.
    pub(super) action: u8,
    /// SCOPE, four bits.
    pub(super) scope: u8,
    /// TYPE, four bits.
    pub(super) kind: u8,
    /// The parameter list.
    pub(super) list: &'a [u8],
    /// The sessions that there are.
    pub(super) present: &'a [SessionName],
    /// Reservations can survive a restart.
    pub(super) can_persist: bool,
}

/// What a change means to others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Effects {
    /// Who has to be told what by a unit attention.
    pub(super) attentions: Vec<(SessionName, (u8, u8))>,
    /// Whose tasks have to be aborted.
    pub(super) aborted: Vec<SessionName>,
}

/// Why nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// RESERVATION CONFLICT.
    Conflict,
    /// CHECK CONDITION.
    Check(Sense),
}

/// What a persistent reservation leaves to somebody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) enum Rights {
    /// To ask what the unit is.
    Asking,
    /// To read as well.
    Reading,
    /// Everything.
    #[default]
    All,
}

impl From<Sense> for Refusal {
    fn from(sense: Sense) -> Refusal {
        Check(sense)
    }
}

impl Reservations {
    /// There are registrations, and so perhaps a reservation.
    pub(super) fn is_in_use(&self) -> bool {
        !self.registrations.is_empty()
    }

    /// What somebody may do.
    pub(super) fn rights(&self, who: &SessionName) -> Rights {
        match &self.held {
            None => Rights::All,
            Some(_) if self.is_privileged(who) => Rights::All,
            Some(held) if held.kind.is_write_exclusive() => Rights::Reading,
            Some(_) => Rights::Asking,
        }
    }

    /// The reservation locks out others but not this one. To such an I_T nexus RESERVE and RELEASE
    /// do nothing (SPC-4 §5.13.3).
    pub(super) fn is_privileged(&self, who: &SessionName) -> bool {
        let Some(held) = &self.held else { return false };
        self.holds(who) || (held.kind.is_for_registrants() && self.key(who).is_some())
    }

    /// PERSISTENT RESERVE IN: the data, not yet cut.
    pub(super) fn report(&self, action: u8, can_persist: bool) -> Result<Vec<u8>, Sense> {
        match action {
            reserve_in::READ_KEYS => {
                let keys: Vec<u64> = self.registrations.iter().map(|known| known.key).collect();
                Ok(emit_reservation_keys(self.generation, &keys))
            }
            reserve_in::READ_RESERVATION => {
                let key = |held: &Held| held.holder.as_ref().and_then(|port| self.key(port));
                let held = self.held.as_ref().map(|held| (key(held).unwrap_or(0), held.kind));
                Ok(emit_reservation(self.generation, held))
            }
            reserve_in::REPORT_CAPABILITIES => {
                let persists = self.persists;
                Ok(ReservationCapabilities { can_persist, persists }.emit().to_vec())
            }
            reserve_in::READ_FULL_STATUS => {
                let status: Vec<FullStatus> =
                    self.registrations.iter().map(|known| self.full_status(known)).collect();
                Ok(emit_full_status(self.generation, &status))
            }
            _ => Err(invalid_field(1, Some(4))),
        }
    }

    fn full_status(&self, known: &Registration) -> FullStatus {
        let kind = self.held.as_ref().map(|held| held.kind);
        let SessionName { initiator, isid } = known.port.clone();
        FullStatus {
            key: known.key,
            holds: kind.filter(|_| self.holds(&known.port)),
            target_port: TARGET_PORT,
            port: TransportId { name: initiator, isid: Some(isid) },
        }
    }

    /// PERSISTENT RESERVE OUT: changes this copy and says what it means to others.
    pub(super) fn perform(&mut self, request: &Request<'_>) -> Result<Effects, Refusal> {
        if request.action == reserve_out::REGISTER_AND_MOVE {
            return self.register_and_move(request);
        }
        let length_error = illegal(asc::PARAMETER_LIST_LENGTH_ERROR);
        let list = ReserveOutList::parse(request.list).ok_or(length_error)?;
        let registers = matches!(
            request.action,
            reserve_out::REGISTER | reserve_out::REGISTER_AND_IGNORE_EXISTING_KEY
        );
        let more = request.action == reserve_out::REGISTER && list.spec_i_pt;
        if !more && request.list.len() != ReserveOutList::BYTES {
            return Err(length_error.into());
        }
        if registers {
            return self.register(request, &list);
        }
        match request.action {
            reserve_out::RESERVE => self.reserve(request, list.key),
            reserve_out::RELEASE => self.release(request, list.key),
            reserve_out::CLEAR => self.clear(request, list.key),
            reserve_out::PREEMPT | reserve_out::PREEMPT_AND_ABORT => self.preempt(request, &list),
            _ => Err(invalid_field(1, Some(4)).into()),
        }
    }

    /// REGISTER, and REGISTER AND IGNORE EXISTING KEY (SPC-4 §5.13.7).
    fn register(
        &mut self,
        request: &Request<'_>,
        list: &ReserveOutList,
    ) -> Result<Effects, Refusal> {
        let own = self.key(request.who);
        if request.action == reserve_out::REGISTER && own.unwrap_or(0) != list.key {
            return Err(Conflict);
        }
        if list.persist && !request.can_persist {
            return Err(in_list(20, Some(0)).into());
        }
        let mut effects = Effects::default();
        if list.spec_i_pt {
            // It is for those who are not registered yet, and only REGISTER has it.
            if request.action != reserve_out::REGISTER || own.is_some() {
                return Err(in_list(20, Some(3)).into());
            }
            let ids = &request.list[ReserveOutList::BYTES..];
            let ids = TransportId::parse_list(ids).map_err(|_| in_list(24, None))?;
            if list.action_key != 0 {
                for id in &ids {
                    for port in self.ports(id, request.present)? {
                        self.set_key(&port, list.action_key)?;
                    }
                }
            }
        }
        if list.action_key != 0 {
            self.set_key(request.who, list.action_key)?;
        } else if own.is_some() {
            self.unregister(request.who, &mut effects);
        }
        self.generation = self.generation.wrapping_add(1);
        self.persists = list.persist;
        Ok(effects)
    }

    /// The initiator ports that a TransportID names: one, or all of an initiator that are known.
    fn ports(
        &self,
        id: &TransportId,
        present: &[SessionName],
    ) -> Result<Vec<SessionName>, Refusal> {
        if let Some(isid) = id.isid {
            return Ok(vec![SessionName { initiator: id.name.clone(), isid }]);
        }
        let registered = self.registrations.iter().map(|known| &known.port);
        let known = present.iter().chain(registered).filter(|port| port.initiator == id.name);
        let ports: Vec<SessionName> = known.cloned().collect();
        if ports.is_empty() { Err(in_list(24, None).into()) } else { Ok(ports) }
    }

    /// The end of a registration (SPC-4 §5.13.11.2).
    fn unregister(&mut self, who: &SessionName, effects: &mut Effects) {
        let held_alone = self.held.as_ref().is_some_and(|held| held.holder.as_ref() == Some(who));
        self.registrations.retain(|known| known.port != *who);
        if held_alone || self.registrations.is_empty() {
            let held = self.held.take();
            if held.is_some_and(|held| held.kind.is_for_registrants()) {
                self.tell_registered(who, asc::RESERVATIONS_RELEASED, effects);
            }
        }
    }

    /// REGISTER AND MOVE (SPC-4 §5.13.8).
    fn register_and_move(&mut self, request: &Request<'_>) -> Result<Effects, Refusal> {
        if request.list.len() < ReserveOutList::BYTES {
            return Err(illegal(asc::PARAMETER_LIST_LENGTH_ERROR).into());
        }
        let list = MoveList::parse(request.list).map_err(|_| in_list(20, None))?;
        if self.key(request.who) != Some(list.key) {
            return Err(Conflict);
        }
        let Some(kind) = self.held.as_ref().map(|held| held.kind) else {
            return Err(invalid_field(1, Some(4)).into());
        };
        if kind.is_all_registrants() || !self.holds(request.who) {
            return Err(Conflict);
        }
        if list.action_key == 0 {
            return Err(in_list(8, None).into());
        }
        if list.persist && !request.can_persist {
            return Err(in_list(17, Some(0)).into());
        }
        if list.target_port != TARGET_PORT {
            return Err(in_list(18, None).into());
        }
        let Some(isid) = list.port.isid else { return Err(in_list(24, None).into()) };
        let holder = SessionName { initiator: list.port.name, isid };
        if holder == *request.who {
            return Err(in_list(24, None).into());
        }
        self.set_key(&holder, list.action_key)?;
        self.held = Some(Held { kind, holder: Some(holder) });
        if list.unregister {
            self.registrations.retain(|known| known.port != *request.who);
        }
        self.generation = self.generation.wrapping_add(1);
        self.persists = list.persist;
        Ok(Effects::default())
    }

    /// RESERVE (SPC-4 §5.13.9).
    fn reserve(&mut self, request: &Request<'_>, key: u64) -> Result<Effects, Refusal> {
        let kind = scope_and_type(request)?;
        self.check_key(request.who, key)?;
        match &self.held {
            None => self.held = Some(Held::new(kind, request.who)),
            Some(held) if held.kind == kind && self.holds(request.who) => {}
            Some(_) => return Err(Conflict),
        }
        Ok(Effects::default())
    }

    /// RELEASE (SPC-4 §5.13.11.2.2).
    fn release(&mut self, request: &Request<'_>, key: u64) -> Result<Effects, Refusal> {
        self.check_key(request.who, key)?;
        let mut effects = Effects::default();
        let Some(kind) = self.held.as_ref().map(|held| held.kind) else { return Ok(effects) };
        if !self.holds(request.who) {
            return Ok(effects);
        }
        if request.scope != 0 || request.kind != kind.code() {
            return Err(illegal(asc::INVALID_RELEASE_OF_PERSISTENT_RESERVATION).into());
        }
        self.held = None;
        if kind.is_for_registrants() {
            self.tell_registered(request.who, asc::RESERVATIONS_RELEASED, &mut effects);
        }
        Ok(effects)
    }

    /// CLEAR (SPC-4 §5.13.11.2.7).
    fn clear(&mut self, request: &Request<'_>, key: u64) -> Result<Effects, Refusal> {
        self.check_key(request.who, key)?;
        let mut effects = Effects::default();
        self.tell_registered(request.who, asc::RESERVATIONS_PREEMPTED, &mut effects);
        self.registrations.clear();
        self.held = None;
        self.generation = self.generation.wrapping_add(1);
        Ok(effects)
    }

    /// PREEMPT, and PREEMPT AND ABORT (SPC-4 §5.13.11.2.4 to §5.13.11.2.6).
    fn preempt(
        &mut self,
        request: &Request<'_>,
        list: &ReserveOutList,
    ) -> Result<Effects, Refusal> {
        let kind = scope_and_type(request)?;
        let who = request.who;
        self.check_key(who, list.key)?;
        let held_by_all = self.held.as_ref().is_some_and(|held| held.holder.is_none());
        if list.action_key == 0 && !held_by_all {
            return Err(in_list(8, None).into());
        }
        let named = |known: &Registration| list.action_key == 0 || known.key == list.action_key;
        if !self.registrations.iter().any(named) {
            return Err(Conflict);
        }
        let holder_key = |held: &Held| held.holder.as_ref().and_then(|port| self.key(port));
        let takes_over = match &self.held {
            Some(held) if held.holder.is_some() => holder_key(held) == Some(list.action_key),
            Some(_) => list.action_key == 0,
            None => false,
        };
        let mut effects = Effects::default();
        let (lost, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut self.registrations)
            .into_iter()
            .partition(|known| named(known) && !(takes_over && known.port == *who));
        self.registrations = kept;
        for Registration { port, .. } in lost.into_iter().filter(|known| known.port != *who) {
            effects.attentions.push((port.clone(), asc::REGISTRATIONS_PREEMPTED));
            if request.action == reserve_out::PREEMPT_AND_ABORT {
                effects.aborted.push(port);
            }
        }
        if takes_over {
            let before = self.held.replace(Held::new(kind, who));
            if before.is_some_and(|held| held.kind != kind) {
                self.tell_registered(who, asc::RESERVATIONS_RELEASED, &mut effects);
            }
        } else if self.registrations.is_empty() {
            // It was held by all, and there is nobody left.
            self.held = None;
        }
        self.generation = self.generation.wrapping_add(1);
        Ok(effects)
    }

    fn key(&self, who: &SessionName) -> Option<u64> {
        self.registrations.iter().find(|known| known.port == *who).map(|known| known.key)
    }

    fn holds(&self, who: &SessionName) -> bool {
        self.held.as_ref().is_some_and(|held| held.is_held_by(who, self))
    }

    /// Whoever is not registered, or with another key, has no say.
    fn check_key(&self, who: &SessionName, key: u64) -> Result<(), Refusal> {
        if self.key(who) == Some(key) { Ok(()) } else { Err(Conflict) }
    }

    fn set_key(&mut self, port: &SessionName, key: u64) -> Result<(), Refusal> {
        if let Some(known) = self.registrations.iter_mut().find(|known| known.port == *port) {
            known.key = key;
            return Ok(());
        }
        if self.registrations.len() >= REGISTRATIONS_MAX {
            return Err(illegal(asc::INSUFFICIENT_REGISTRATION_RESOURCES).into());
        }
        self.registrations.push(Registration { port: port.clone(), key });
        Ok(())
    }

    /// Everybody who has registered but the one who has caused it.
    fn tell_registered(&self, cause: &SessionName, code: (u8, u8), effects: &mut Effects) {
        let others = self.registrations.iter().filter(|known| known.port != *cause);
        effects.attentions.extend(others.map(|known| (known.port.clone(), code)));
    }
}

impl Held {
    fn new(kind: ReservationType, who: &SessionName) -> Held {
        Held { kind, holder: (!kind.is_all_registrants()).then(|| who.clone()) }
    }

    fn is_held_by(&self, who: &SessionName, among: &Reservations) -> bool {
        self.holder.as_ref().map_or_else(|| among.key(who).is_some(), |holder| holder == who)
    }
}

/// Only whole logical units can be reserved.
fn scope_and_type(request: &Request<'_>) -> Result<ReservationType, Refusal> {
    if request.scope != 0 {
        return Err(invalid_field(2, Some(7)).into());
    }
    ReservationType::from_code(request.kind).ok_or(invalid_field(2, Some(3)).into())
}

/// INVALID FIELD IN PARAMETER LIST with a pointer to the field.
fn in_list(byte: u16, bit: Option<u8>) -> Sense {
    let field = FieldPointer { in_cdb: false, byte, bit };
    illegal(asc::INVALID_FIELD_IN_PARAMETER_LIST).with_field(field)
}

#[cfg(test)]
mod tests;
