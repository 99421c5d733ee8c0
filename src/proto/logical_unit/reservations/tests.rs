//! Reservations by the commands of three sessions.
//!
//! What random commands answer, who is told of them, who may read and write after them, and what a
//! restart leaves is compared with a model: the tables of SPC-4, and no more.

use std::io;
use std::sync::{Arc, Mutex};

use super::*;
use crate::proto::logical_unit::{LogicalUnit, Nexus, Options, Outcome};
use crate::proto::logical_units::LogicalUnits;
use crate::proto::random::Random;
use crate::store::Record;
use crate::store::memory::MemoryStore;
use crate::wire::pdu::Isid;
use crate::wire::scsi::{
    Cdb, CdbSize, Lun, SenseKey, TransferFlags, parse_full_status, parse_reservation,
    parse_reservation_keys,
};

/// A record in memory that may refuse.
#[derive(Debug, Default)]
struct Paper {
    text: Mutex<Option<String>>,
    broken: Mutex<bool>,
}

impl Record for Paper {
    fn replace(&self, text: &str) -> io::Result<()> {
        if *self.broken.lock().unwrap() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        *self.text.lock().unwrap() = Some(text.to_owned());
        Ok(())
    }
}

/// A unit and its sessions.
struct Lab {
    paper: Option<Arc<Paper>>,
    units: LogicalUnits,
    nexuses: Vec<Nexus>,
}

impl Lab {
    fn new(paper: Option<Arc<Paper>>) -> Lab {
        Lab::of(Options::default(), paper)
    }

    fn of(options: Options, paper: Option<Arc<Paper>>) -> Lab {
        let store = Arc::new(MemoryStore::new(8192));
        let name = "iqn.2026-11.io.lunboot:test";
        let mut unit = LogicalUnit::new(store, name, b"disk", options).unwrap();
        if let Some(paper) = &paper {
            let text = paper.text.lock().unwrap().clone();
            unit = unit.with_record(text.as_deref(), paper.clone()).unwrap();
        }
        let units = LogicalUnits::new(vec![unit]);
        let nexuses = (0..3).map(|number| units.nexus(session(number))).collect();
        let mut lab = Lab { paper, units, nexuses };
        (0..3).for_each(|who| assert_eq!(lab.attentions(who), [asc::POWER_ON_OR_RESET]));
        lab
    }

    fn execute(&mut self, who: usize, cdb: &Cdb, data: &[u8]) -> Outcome {
        let wanted = self.units.data_out_bytes(Lun::ZERO, &cdb.emit());
        assert_eq!(wanted, data.len() as u64, "the data is all that the command asks for");
        self.units.execute(Lun::ZERO, &cdb.emit(), data, &mut self.nexuses[who])
    }

    fn out(&mut self, who: usize, action: u8, kind: u8, list: &[u8]) -> Outcome {
        let parameter_bytes = list.len() as u32;
        let cdb = Cdb::PersistentReserveOut { action, scope: 0, kind, parameter_bytes };
        self.execute(who, &cdb, list)
    }

    fn report(&mut self, action: u8) -> Vec<u8> {
        match self.execute(0, &Cdb::PersistentReserveIn { action, allocation: 4096 }, &[]) {
            Outcome::Data(data) => data,
            other => panic!("expected data, got {other:?}"),
        }
    }

    /// Takes all unit attentions of a session.
    fn attentions(&mut self, who: usize) -> Vec<(u8, u8)> {
        let mut codes = Vec::new();
        loop {
            match self.execute(who, &Cdb::TestUnitReady, &[]) {
                Outcome::CheckCondition(sense) if sense.key == SenseKey::UnitAttention => {
                    codes.push(sense.code());
                }
                Outcome::Good => return codes,
                other => panic!("TEST UNIT READY: {other:?}"),
            }
        }
    }

    /// Whether a session may read and write.
    fn access(&mut self, who: usize) -> (bool, bool) {
        let flags = TransferFlags::default();
        let (size, lba, blocks) = (CdbSize::Ten, 1, 1);
        let read = self.execute(who, &Cdb::Read { size, lba, blocks, flags }, &[]);
        let write = self.execute(who, &Cdb::Write { size, lba, blocks, flags }, &[7; 512]);
        assert!(matches!(read, Outcome::Read(_) | Outcome::Conflict));
        assert!(matches!(write, Outcome::Good | Outcome::Conflict));
        (read != Outcome::Conflict, write != Outcome::Conflict)
    }
}

fn session(number: usize) -> SessionName {
    // Two ports of one initiator, and another initiator.
    let initiator = ["iqn.2026-11.example:a", "iqn.2026-11.example:a", "iqn.2026-11.example:b"];
    SessionName { initiator: initiator[number].to_owned(), isid: port(number) }
}

fn port(number: usize) -> Isid {
    Isid([0x80, 0, 0, 0, 0, number as u8])
}

fn transport_id(number: usize) -> TransportId {
    let SessionName { initiator, isid } = session(number);
    TransportId { name: initiator, isid: Some(isid) }
}

fn list(key: u64, action_key: u64) -> Vec<u8> {
    ReserveOutList { key, action_key, ..ReserveOutList::default() }.emit(&[])
}

fn sense(outcome: Outcome) -> Sense {
    match outcome {
        Outcome::CheckCondition(sense) => *sense,
        other => panic!("expected CHECK CONDITION, got {other:?}"),
    }
}

/// The model: a key for each session, or 0, and the code of the type that is in force.
#[derive(Clone, Debug, Default)]
struct Model {
    keys: [u64; 3],
    kind: u8,
    /// Whether it is held by all registrants, by type; otherwise by whom.
    holder: usize,
    generation: u32,
    persists: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Good,
    Conflict,
    IllegalRequest,
}

/// What the model says of a command: the answer, who is told what, whose tasks are aborted.
type Verdict = (Answer, Vec<(usize, (u8, u8))>, Vec<usize>);

/// SPC-4 §5.13.1 as a table: for each type, what a holder, another who has registered, and anybody
/// else may do: read, write.
const MATRIX: [(u8, [(bool, bool); 3]); 6] = [
    (1, [(true, true), (true, false), (true, false)]),
    (3, [(true, true), (false, false), (false, false)]),
    (5, [(true, true), (true, true), (true, false)]),
    (6, [(true, true), (true, true), (false, false)]),
    (7, [(true, true), (true, true), (true, false)]),
    (8, [(true, true), (true, true), (false, false)]),
];

#[derive(Clone, Copy, Debug)]
struct Step {
    who: usize,
    action: u8,
    kind: u8,
    key: u64,
    action_key: u64,
    persist: bool,
    /// Of REGISTER AND MOVE.
    unregister: bool,
    to: usize,
}

impl Model {
    fn holders(&self) -> Vec<usize> {
        match self.kind {
            0 => Vec::new(),
            7 | 8 => (0..3).filter(|who| self.keys[*who] != 0).collect(),
            _ => vec![self.holder],
        }
    }

    fn others(&self, who: usize) -> Vec<usize> {
        (0..3).filter(|other| *other != who && self.keys[*other] != 0).collect()
    }

    fn access(&self, who: usize) -> (bool, bool) {
        let Some((_, row)) = MATRIX.iter().find(|(kind, _)| *kind == self.kind) else {
            return (true, true);
        };
        row[match (self.holders().contains(&who), self.keys[who] != 0) {
            (true, _) => 0,
            (false, true) => 1,
            (false, false) => 2,
        }]
    }

    fn step(&mut self, step: Step) -> Verdict {
        let Step { who, action, kind, key, action_key, .. } = step;
        let refuse = |answer| (answer, Vec::new(), Vec::new());
        let known_kind = [1, 3, 5, 6, 7, 8].contains(&kind);
        if matches!(action, 1 | 4 | 5) && !known_kind {
            return refuse(Answer::IllegalRequest);
        }
        if action != 6 && self.keys[who] != key {
            return refuse(Answer::Conflict);
        }
        if self.keys[who] == 0 && !matches!(action, 0 | 6) {
            return refuse(Answer::Conflict);
        }
        let mut told = Vec::new();
        let mut aborted = Vec::new();
        match action {
            0 | 6 => {
                let held = self.holders();
                let was = self.kind;
                self.keys[who] = action_key;
                let left = action_key == 0 && held.contains(&who);
                if left && (held == [who]) {
                    self.kind = 0;
                    if was >= 5 {
                        told = self.others(who).iter().map(|who| (*who, (0x2a, 0x04))).collect();
                    }
                }
                self.persists = step.persist;
            }
            1 => match self.kind {
                0 => (self.kind, self.holder) = (kind, who),
                now if now == kind && self.holders().contains(&who) => {}
                _ => return refuse(Answer::Conflict),
            },
            2 => {
                if self.holders().contains(&who) {
                    if self.kind != kind {
                        return refuse(Answer::IllegalRequest);
                    }
                    self.kind = 0;
                    if kind >= 5 {
                        told = self.others(who).iter().map(|who| (*who, (0x2a, 0x04))).collect();
                    }
                }
            }
            3 => {
                told = self.others(who).iter().map(|who| (*who, (0x2a, 0x03))).collect();
                (self.keys, self.kind) = ([0; 3], 0);
            }
            4 | 5 => {
                let by_all = self.kind >= 7;
                if action_key == 0 && !by_all {
                    return refuse(Answer::IllegalRequest);
                }
                let victims: Vec<usize> = (0..3)
                    .filter(|other| self.keys[*other] != 0)
                    .filter(|other| action_key == 0 || self.keys[*other] == action_key)
                    .collect();
                if victims.is_empty() {
                    return refuse(Answer::Conflict);
                }
                let takes_over = if by_all {
                    action_key == 0
                } else {
                    self.kind != 0 && self.keys[self.holder] == action_key
                };
                for victim in victims {
                    if victim != who {
                        told.push((victim, (0x2a, 0x05)));
                        if action == 5 {
                            aborted.push(victim);
                        }
                    }
                    if victim != who || !takes_over {
                        self.keys[victim] = 0;
                    }
                }
                if takes_over {
                    if self.kind != kind {
                        told.extend(self.others(who).iter().map(|who| (*who, (0x2a, 0x04))));
                    }
                    (self.kind, self.holder) = (kind, who);
                } else if self.keys == [0; 3] {
                    self.kind = 0;
                }
            }
            7 => {
                if self.kind == 0 {
                    return refuse(Answer::IllegalRequest);
                }
                if self.kind >= 7 || self.holder != who {
                    return refuse(Answer::Conflict);
                }
                if action_key == 0 || step.to == who {
                    return refuse(Answer::IllegalRequest);
                }
                self.keys[step.to] = action_key;
                self.holder = step.to;
                if step.unregister {
                    self.keys[who] = 0;
                }
                self.persists = step.persist;
            }
            _ => unreachable!("service actions end with 7"),
        }
        if !matches!(action, 1 | 2) {
            self.generation += 1;
        }
        (Answer::Good, told, aborted)
    }
}

#[test]
fn random_commands_do_what_the_tables_say() {
    for seed in 0..40 {
        let mut random = Random::new(seed);
        let mut lab = Lab::new(Some(Arc::default()));
        let mut model = Model::default();
        let mut good = 0;
        for round in 0..500 {
            let mut pick = |choices: &[u64]| choices[random.below(choices.len() as u64) as usize];
            let who = pick(&[0, 1, 2]) as usize;
            let own = model.keys[who];
            let step = Step {
                who,
                action: pick(&[0, 0, 6, 1, 1, 2, 3, 4, 4, 5, 7]) as u8,
                kind: match model.kind {
                    0 => pick(&[1, 3, 5, 6, 7, 8, 0, 2]) as u8,
                    now => pick(&[u64::from(now), u64::from(now), 1, 5, 8]) as u8,
                },
                key: pick(&[own, own, own, own, 0, 2]),
                action_key: pick(&[0, 1, 2, 3, model.keys[0], model.keys[2]]),
                persist: pick(&[0, 1]) == 1,
                unregister: pick(&[0, 1]) == 1,
                to: pick(&[0, 1, 2]) as usize,
            };
            let before = model.clone();
            let (answer, mut told, aborted) = model.step(step);
            let context = format!("seed {seed} round {round}: {step:?} on {before:?}");
            let data = if step.action == 7 {
                let Step { key, action_key, unregister, persist, to, .. } = step;
                let port = transport_id(to);
                MoveList { key, action_key, unregister, persist, target_port: 1, port }.emit()
            } else {
                let Step { key, action_key, persist, .. } = step;
                ReserveOutList { key, action_key, persist, ..ReserveOutList::default() }.emit(&[])
            };
            let outcome = lab.out(step.who, step.action, step.kind, &data);
            match (&answer, &outcome) {
                (Answer::Good, Outcome::Good) => assert_eq!(aborted, [], "{context}"),
                (Answer::Good, Outcome::Preempted(names)) => {
                    let victims: Vec<usize> =
                        (0..3).filter(|who| names.contains(&session(*who))).collect();
                    assert!(!names.is_empty() && victims == aborted, "{context}: {names:?}");
                    assert_eq!(names.len(), aborted.len(), "{context}");
                }
                (Answer::Conflict, Outcome::Conflict) => {}
                (Answer::IllegalRequest, Outcome::CheckCondition(sense)) => {
                    assert_eq!(sense.key, SenseKey::IllegalRequest, "{context}");
                }
                _ => panic!("{context}: {answer:?} expected, {outcome:?}"),
            }
            good += u32::from(answer == Answer::Good);
            // What one is told, then what everybody sees.
            told.sort_unstable();
            let mut heard = Vec::new();
            for who in 0..3 {
                heard.extend(lab.attentions(who).into_iter().map(|code| (who, code)));
                assert_eq!(lab.access(who), model.access(who), "{context}: access of {who}");
            }
            heard.sort_unstable();
            assert_eq!(heard, told, "{context}");
            compare(&mut lab, &model, &context);
            if round % 50 == 49 {
                lab = Lab::new(lab.paper.take());
                model.generation = 0;
                if !model.persists {
                    model = Model::default();
                }
                compare(&mut lab, &model, "after a restart");
            }
        }
        assert!(good > 100, "of 500 commands only {good} are done");
    }
}

/// What the unit reports is what the model knows.
fn compare(lab: &mut Lab, model: &Model, context: &str) {
    let (generation, mut keys) =
        parse_reservation_keys(&lab.report(reserve_in::READ_KEYS)).unwrap();
    let mut expected: Vec<u64> = model.keys.into_iter().filter(|key| *key != 0).collect();
    keys.sort_unstable();
    expected.sort_unstable();
    assert_eq!((generation, keys), (model.generation, expected), "{context}");
    let (_, held) = parse_reservation(&lab.report(reserve_in::READ_RESERVATION)).unwrap();
    let expected = ReservationType::from_code(model.kind)
        .map(|kind| (if kind.is_all_registrants() { 0 } else { model.keys[model.holder] }, kind));
    assert_eq!(held, expected, "{context}");
    let (_, status) = parse_full_status(&lab.report(reserve_in::READ_FULL_STATUS)).unwrap();
    for who in 0..3 {
        let found = status.iter().find(|status| status.port == transport_id(who));
        let holds = model.holders().contains(&who);
        let expected = (model.keys[who] != 0).then(|| FullStatus {
            key: model.keys[who],
            holds: ReservationType::from_code(model.kind).filter(|_| holds),
            target_port: 1,
            port: transport_id(who),
        });
        assert_eq!(found, expected.as_ref(), "{context}");
    }
}

#[test]
fn specified_initiator_ports_are_registered_all_or_none() {
    let register = |lab: &mut Lab, ports: &[TransportId]| {
        let list = ReserveOutList { action_key: 9, spec_i_pt: true, ..ReserveOutList::default() };
        lab.out(0, reserve_out::REGISTER, 0, &list.emit(ports))
    };
    let keys =
        |lab: &mut Lab| parse_reservation_keys(&lab.report(reserve_in::READ_KEYS)).unwrap().1;
    let mut lab = Lab::new(None);
    let all_of = |name: &str| TransportId { name: name.to_owned(), isid: None };
    // Nobody is known by this name, so nobody is registered.
    let refused = register(&mut lab, &[transport_id(2), all_of("iqn.2026-11.example:unknown")]);
    assert_eq!(sense(refused), in_list(24, None));
    assert_eq!(keys(&mut lab), []);
    let strangers: Vec<TransportId> = (0..REGISTRATIONS_MAX)
        .map(|number| TransportId {
            isid: Some(Isid([7, 0, 0, 0, 1, number as u8])),
            ..all_of("x")
        })
        .collect();
    let code = asc::INSUFFICIENT_REGISTRATION_RESOURCES;
    assert_eq!(sense(register(&mut lab, &strangers)).code(), code);
    assert_eq!(keys(&mut lab), []);
    assert_eq!(register(&mut lab, &[transport_id(2)]), Outcome::Good);
    assert_eq!(keys(&mut lab), [9, 9]);
    // It is only for those who are not registered.
    let list = ReserveOutList { key: 9, spec_i_pt: true, ..ReserveOutList::default() };
    let refused = lab.out(0, reserve_out::REGISTER, 0, &list.emit(&[]));
    assert_eq!(sense(refused), in_list(20, Some(3)));
    // Without an ISID, every port that is known: here both sessions of the first initiator.
    let mut lab = Lab::new(None);
    assert_eq!(register(&mut lab, &[all_of("iqn.2026-11.example:a")]), Outcome::Good);
    assert_eq!(lab.out(1, reserve_out::RESERVE, 1, &list_of(9)), Outcome::Good);
    assert_eq!(lab.out(2, reserve_out::RESERVE, 1, &list_of(9)), Outcome::Conflict);
}

fn list_of(key: u64) -> Vec<u8> {
    list(key, 0)
}

#[test]
fn parameter_lists_of_any_length_and_content() {
    let mut lab = Lab::new(None);
    let length_error = illegal(asc::PARAMETER_LIST_LENGTH_ERROR);
    for length in [0, 1, 23, 25, 28] {
        for action in 0..7 {
            assert_eq!(sense(lab.out(0, action, 1, &vec![0; length])), length_error);
        }
    }
    // The initiator sends less than the CDB says.
    let cdb = Cdb::PersistentReserveOut { action: 0, scope: 0, kind: 0, parameter_bytes: 24 };
    let short = lab.units.execute(Lun::ZERO, &cdb.emit(), &[0; 23], &mut lab.nexuses[0]);
    assert_eq!(sense(short), length_error);
    let mut random = Random::new(11);
    for _ in 0..50_000 {
        let length = random.below(300) as usize;
        let mut data = vec![0; length];
        for byte in &mut data {
            *byte = [0, 1, 0x0d, 0x45, random.bits() as u8][random.below(5) as usize];
        }
        let who = random.below(3) as usize;
        lab.out(who, random.below(8) as u8, random.below(9) as u8, &data);
    }
}

#[test]
fn scope_service_action_and_persistence_that_are_not_there() {
    let mut lab = Lab::new(None);
    lab.out(0, reserve_out::REGISTER, 0, &list(0, 1));
    let cdb = Cdb::PersistentReserveOut { action: 1, scope: 2, kind: 1, parameter_bytes: 24 };
    assert_eq!(sense(lab.execute(0, &cdb, &list_of(1))), invalid_field(2, Some(7)));
    let cdb = Cdb::PersistentReserveOut { action: 8, scope: 0, kind: 0, parameter_bytes: 24 };
    assert_eq!(sense(lab.execute(0, &cdb, &[])), invalid_field(1, Some(4)));
    for action in 4..32 {
        let outcome = lab.execute(0, &Cdb::PersistentReserveIn { action, allocation: 99 }, &[]);
        assert_eq!(sense(outcome), invalid_field(1, Some(4)));
    }
    let persist = ReserveOutList { key: 1, action_key: 1, persist: true, ..Default::default() };
    assert_eq!(
        sense(lab.out(0, reserve_out::REGISTER, 0, &persist.emit(&[]))),
        in_list(20, Some(0))
    );
    assert_eq!(lab.report(reserve_in::REPORT_CAPABILITIES)[2..4], [0x1c, 0x90]);
    let mut lab = Lab::new(Some(Arc::default()));
    let persist = ReserveOutList { key: 0, ..persist };
    assert_eq!(lab.out(0, reserve_out::REGISTER, 0, &persist.emit(&[])), Outcome::Good);
    assert_eq!(lab.report(reserve_in::REPORT_CAPABILITIES)[2..4], [0x1d, 0x91]);
}

#[test]
fn what_cannot_be_kept_is_not_done() {
    let paper = Arc::new(Paper::default());
    let mut lab = Lab::new(Some(paper.clone()));
    let persist = ReserveOutList { action_key: 1, persist: true, ..ReserveOutList::default() };
    *paper.broken.lock().unwrap() = true;
    let refused = sense(lab.out(0, reserve_out::REGISTER, 0, &persist.emit(&[])));
    assert_eq!(refused.key, SenseKey::HardwareError);
    let (generation, keys) = parse_reservation_keys(&lab.report(reserve_in::READ_KEYS)).unwrap();
    assert_eq!((generation, keys), (0, vec![]));
    // What need not be kept does not need the record.
    assert_eq!(lab.out(0, reserve_out::REGISTER, 0, &list(0, 1)), Outcome::Good);
}

#[test]
fn a_registration_outlives_its_session_and_a_reset() {
    let mut lab = Lab::new(None);
    lab.out(0, reserve_out::REGISTER, 0, &list(0, 1));
    lab.out(0, reserve_out::RESERVE, 3, &list_of(1));
    lab.units.reset(None);
    lab.nexuses[0] = lab.units.nexus(session(0));
    for who in 0..3 {
        lab.attentions(who);
        assert_eq!(lab.access(who).0, who == 0);
    }
}

#[test]
fn a_conflict_comes_before_a_unit_attention_but_not_before_that_of_a_reset() {
    let mut lab = Lab::new(None);
    lab.out(0, reserve_out::REGISTER, 0, &list(0, 1));
    lab.out(1, reserve_out::REGISTER, 0, &list(0, 2));
    lab.out(0, reserve_out::RESERVE, 3, &list_of(1));
    lab.units.reset(None);
    lab.attentions(0);
    lab.out(0, reserve_out::PREEMPT, 3, &list(1, 2));
    let read = Cdb::Read { size: CdbSize::Ten, lba: 0, blocks: 1, flags: TransferFlags::default() };
    assert_eq!(sense(lab.execute(1, &read, &[])).code(), asc::BUS_DEVICE_RESET);
    assert_eq!(lab.execute(1, &read, &[]), Outcome::Conflict);
    assert_eq!(lab.attentions(1), [asc::REGISTRATIONS_PREEMPTED]);
}

#[test]
fn commands_about_the_unit_pass_every_reservation() {
    let mut lab = Lab::new(None);
    lab.out(0, reserve_out::REGISTER, 0, &list(0, 1));
    let conflict = |lab: &mut Lab, cdb: Cdb| lab.execute(1, &cdb, &[]) == Outcome::Conflict;
    for kind in ReservationType::ALL {
        lab.out(0, reserve_out::RESERVE, kind.code(), &list_of(1));
        let [start, stop] = [true, false].map(|start| Cdb::StartStopUnit {
            immediate: false,
            power_condition: 0,
            no_flush: false,
            load_eject: false,
            start,
        });
        let inquiry = Cdb::Inquiry { evpd: false, page: 0, allocation: 36 };
        let capacity = Cdb::ReadCapacity16 { allocation: 32 };
        for cdb in [Cdb::TestUnitReady, Cdb::ReadCapacity10, inquiry, capacity, start] {
            assert!(!conflict(&mut lab, cdb), "{kind:?}: {cdb:?}");
        }
        let mode_sense = Cdb::parse(&[0x1a, 0, 0x3f, 0, 255, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(conflict(&mut lab, mode_sense), !kind.is_write_exclusive());
        let flush =
            Cdb::SynchronizeCache { size: CdbSize::Ten, lba: 0, blocks: 0, immediate: false };
        assert!(conflict(&mut lab, stop) && conflict(&mut lab, flush));
        lab.out(0, reserve_out::RELEASE, kind.code(), &list_of(1));
        assert!(!conflict(&mut lab, stop) && !conflict(&mut lab, flush));
        lab.attentions(1);
    }
}

#[test]
fn a_medium_stays_as_long_as_one_session_wants_that() {
    let mut lab = Lab::of(Options { removable: true, ..Options::default() }, None);
    let prevent = |lab: &mut Lab, who, prevent| {
        lab.execute(who, &Cdb::PreventAllowMediumRemoval { prevent }, &[])
    };
    let move_medium = |lab: &mut Lab, start| {
        let (immediate, power_condition, no_flush, load_eject) = (false, 0, false, true);
        let cdb = Cdb::StartStopUnit { immediate, power_condition, no_flush, load_eject, start };
        lab.execute(2, &cdb, &[])
    };
    let prevented = Outcome::from(illegal(asc::MEDIUM_REMOVAL_PREVENTED));
    assert_eq!(sense(prevent(&mut lab, 0, 2)), invalid_field(4, Some(1)));
    // One by allowing it, one by its end, both by a reset.
    assert_eq!(prevent(&mut lab, 0, 1), Outcome::Good);
    assert_eq!(prevent(&mut lab, 1, 1), Outcome::Good);
    assert_eq!(move_medium(&mut lab, false), prevented);
    assert_eq!(prevent(&mut lab, 0, 0), Outcome::Good);
    assert_eq!(move_medium(&mut lab, false), prevented);
    lab.nexuses[1] = lab.units.nexus(session(1));
    lab.attentions(1);
    assert_eq!(move_medium(&mut lab, false), Outcome::Good);
    let ready = lab.execute(0, &Cdb::TestUnitReady, &[]);
    assert_eq!(sense(ready), Sense::new(SenseKey::NotReady, asc::MEDIUM_NOT_PRESENT));
    assert_eq!(prevent(&mut lab, 0, 1), Outcome::Good);
    assert_eq!(move_medium(&mut lab, true), prevented);
    lab.units.reset(None);
    assert_eq!(sense(move_medium(&mut lab, true)).code(), asc::BUS_DEVICE_RESET);
    assert_eq!(move_medium(&mut lab, true), Outcome::Good);
    let reset_then_medium = [asc::BUS_DEVICE_RESET, asc::MEDIUM_MAY_HAVE_CHANGED];
    assert_eq!(lab.attentions(0), reset_then_medium);
    // Only units whose medium can go know the command.
    let refused = sense(prevent(&mut Lab::new(None), 0, 1));
    assert_eq!(refused, illegal(asc::INVALID_COMMAND_OPERATION_CODE));
}

const RESERVE: Cdb = Cdb::Reserve { size: CdbSize::Six, third_party: false, extent: false };
const RELEASE: Cdb = Cdb::Release { size: CdbSize::Ten, third_party: false, extent: false };

#[test]
fn reserve_and_release() {
    let mut lab = Lab::new(None);
    assert_eq!(lab.execute(0, &RESERVE, &[]), Outcome::Good);
    assert_eq!(lab.execute(0, &RESERVE, &[]), Outcome::Good);
    assert_eq!(lab.execute(1, &RESERVE, &[]), Outcome::Conflict);
    assert_eq!((lab.access(0), lab.access(1)), ((true, true), (false, false)));
    // Another's RELEASE is no error and does nothing.
    assert_eq!(lab.execute(1, &RELEASE, &[]), Outcome::Good);
    assert_eq!(lab.access(1), (false, false));
    // Persistent reservations and this one exclude each other, even for its holder.
    let read_keys = Cdb::PersistentReserveIn { action: 0, allocation: 8 };
    for who in 0..2 {
        assert_eq!(lab.out(who, reserve_out::REGISTER, 0, &list(0, 1)), Outcome::Conflict);
        assert_eq!(lab.execute(who, &read_keys, &[]), Outcome::Conflict);
    }
    assert_eq!(lab.execute(0, &RELEASE, &[]), Outcome::Good);
    assert_eq!(lab.access(1), (true, true));
    assert_eq!(lab.execute(1, &RESERVE, &[]), Outcome::Good);
    // It ends with a reset, and with the session.
    lab.units.reset(Some(Lun::ZERO));
    (0..3).for_each(|who| assert_eq!(lab.attentions(who), [asc::BUS_DEVICE_RESET]));
    assert_eq!(lab.execute(0, &RESERVE, &[]), Outcome::Good);
    lab.nexuses[0] = lab.units.nexus(session(0));
    assert_eq!(lab.access(1), (true, true));
    let [third_party, extent] = [(true, false), (false, true)]
        .map(|(third_party, extent)| Cdb::Reserve { size: CdbSize::Ten, third_party, extent });
    assert_eq!(sense(lab.execute(1, &third_party, &[])), invalid_field(1, Some(4)));
    assert_eq!(sense(lab.execute(1, &extent, &[])), invalid_field(1, Some(0)));
}

#[test]
fn reserve_and_release_beside_persistent_reservations() {
    let mut lab = Lab::new(None);
    lab.out(0, reserve_out::REGISTER, 0, &list(0, 1));
    lab.out(1, reserve_out::REGISTER, 0, &list(0, 2));
    let both = |lab: &mut Lab, who| {
        let reserve = lab.execute(who, &RESERVE, &[]);
        assert_eq!(lab.execute(who, &RELEASE, &[]), reserve);
        reserve
    };
    // Compatible reservation handling: nothing happens, and who has full access is not told of it.
    assert_eq!(both(&mut lab, 0), Outcome::Conflict);
    for (kind, expected) in [
        (1, [Outcome::Good, Outcome::Conflict, Outcome::Conflict]),
        (5, [Outcome::Good, Outcome::Good, Outcome::Conflict]),
        (8, [Outcome::Good, Outcome::Good, Outcome::Conflict]),
    ] {
        lab.out(0, reserve_out::RESERVE, kind, &list_of(1));
        for (who, expected) in expected.into_iter().enumerate() {
            assert_eq!(both(&mut lab, who), expected, "type {kind}, session {who}");
        }
        let held = parse_reservation(&lab.report(reserve_in::READ_RESERVATION)).unwrap().1;
        assert_eq!(held.map(|(_, held)| held.code()), Some(kind));
        lab.out(0, reserve_out::RELEASE, kind, &list_of(1));
        lab.attentions(1);
    }
}
