//! The logical units of a target, and what concerns them all: which LUN is which, REPORT LUNS,
//! commands to LUNs that are not there, what comes before a command (SAM-5 §4.7, §5.14).

use std::sync::atomic::{AtomicU64, Ordering};

use super::logical_unit::{
    LogicalUnit, Nexus, NexusId, Outcome, Standing, allocated, illegal, invalid_field,
    needed_rights, request_sense_data, standard_inquiry,
};
use super::target::SessionName;
use crate::wire::scsi::{Cdb, CdbSize, Lun, PERIPHERAL_ABSENT, asc, emit_report_luns};

/// The logical units of a target, by number from 0 without gaps.
#[derive(Debug)]
pub struct LogicalUnits {
    units: Vec<LogicalUnit>,
    /// Sessions that ever were.
    nexuses: AtomicU64,
}

impl LogicalUnits {
    /// A target with these logical units; the first is LUN 0.
    pub fn new(units: Vec<LogicalUnit>) -> LogicalUnits {
        LogicalUnits { units, nexuses: AtomicU64::new(0) }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.units.len()
    }

    /// There is none.
    pub fn is_empty(&self) -> bool {
        self.units.is_empty()
    }

    /// All of them, LUN 0 first.
    pub fn iter(&self) -> impl Iterator<Item = &LogicalUnit> {
        self.units.iter()
    }

    /// The logical unit of a LUN.
    pub fn get(&self, lun: Lun) -> Option<&LogicalUnit> {
        self.units.get(usize::from(lun.to_number()?))
    }

    /// Bytes of data that a command takes from the initiator; see [`LogicalUnit::data_out_bytes`].
    pub fn data_out_bytes(&self, lun: Lun, cdb: &[u8; 16]) -> u64 {
        self.get(lun).map_or(0, |unit| unit.data_out_bytes(cdb))
    }

    /// A session begins; it ends when this is dropped.
    pub fn nexus(&self, session: SessionName) -> Nexus {
        let id = NexusId(self.nexuses.fetch_add(1, Ordering::Relaxed) + 1);
        Nexus::new(id, &session, self.units.iter().map(|unit| unit.nexuses().clone()))
    }

    /// A logical unit, or every one of them, was reset: what sessions had of it for themselves is
    /// void, and each is told so.
    pub fn reset(&self, lun: Option<Lun>) {
        match lun {
            Some(lun) => self.get(lun).iter().for_each(|unit| unit.reset()),
            None => self.units.iter().for_each(LogicalUnit::reset),
        }
    }

    /// Executes a command of a session.
    pub fn execute(&self, lun: Lun, cdb: &[u8; 16], data: &[u8], nexus: &mut Nexus) -> Outcome {
        // NACA, in the CONTROL byte, asks for an error handling that iSCSI disks do not have.
        const NACA: u8 = 0x04;
        let command = Cdb::parse(cdb);
        if let Cdb::ReportLuns { select, allocation } = command {
            return self.report_luns(select, allocation);
        }
        let Some(unit) = self.get(lun) else { return execute_absent(&command) };
        let standing = nexus.standing(lun);
        if standing != Standing::default()
            && let Some(outcome) = before(&command, lun, standing, nexus)
        {
            return outcome;
        }
        let control = CdbSize::of_opcode(cdb[0]).map(CdbSize::control_byte);
        if let Some(byte) = control.filter(|byte| cdb[*byte] & NACA != 0) {
            return invalid_field(byte as u16, Some(2)).into();
        }
        unit.execute_for(nexus.id(), cdb, data)
    }

    fn report_luns(&self, select: u8, allocation: u32) -> Outcome {
        const ALL_BUT_WELL_KNOWN: u8 = 0;
        const WELL_KNOWN: u8 = 1;
        const ALL: u8 = 2;
        let count = match select {
            ALL_BUT_WELL_KNOWN | ALL => self.units.len(),
            WELL_KNOWN => 0,
            _ => return invalid_field(2, None).into(),
        };
        let luns: Vec<Lun> = (0..count).map(|number| Lun::from_number(number as u16)).collect();
        allocated(emit_report_luns(&luns), allocation as usize)
    }
}

/// What takes the place of a command's execution, in the order of SAM-5 §5.3.3.
fn before(command: &Cdb, lun: Lun, standing: Standing, nexus: &mut Nexus) -> Option<Outcome> {
    let mut attention = || nexus.take_attention(lun);
    match *command {
        // It answers whatever is pending and leaves it pending (SAM-5 §5.14.3).
        Cdb::Inquiry { .. } => None,
        Cdb::RequestSense { descriptor, allocation } => {
            Some(request_sense_data(&attention()?, descriptor, allocation))
        }
        _ if standing.reset => attention().map(Outcome::from),
        _ if standing.rights < needed_rights(command) => Some(Outcome::Conflict),
        _ if standing.attention => attention().map(Outcome::from),
        _ => None,
    }
}

/// Commands that a target answers even where no logical unit is (SPC-4 §4.2, SAM-5 §5.11).
fn execute_absent(command: &Cdb) -> Outcome {
    match *command {
        Cdb::Inquiry { evpd: false, page: 0, allocation } => {
            let inquiry = standard_inquiry(PERIPHERAL_ABSENT).emit().to_vec();
            allocated(inquiry, usize::from(allocation))
        }
        Cdb::RequestSense { descriptor, allocation } => {
            request_sense_data(&illegal(asc::LOGICAL_UNIT_NOT_SUPPORTED), descriptor, allocation)
        }
        _ => illegal(asc::LOGICAL_UNIT_NOT_SUPPORTED).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::logical_unit::Options;
    use crate::store::memory::MemoryStore;
    use crate::wire::pdu::Isid;
    use crate::wire::scsi::{CachingPage, Sense, SenseKey};
    use std::sync::Arc;

    fn units(count: u16) -> LogicalUnits {
        let unit = |number: u16| {
            let store = Arc::new(MemoryStore::new(4096));
            let (name, disk) = ("iqn.2026-11.io.lunboot:test", number.to_be_bytes());
            LogicalUnit::new(store, name, &disk, Options::default())
        };
        LogicalUnits::new((0..count).map(|number| unit(number).unwrap()).collect())
    }

    fn data(outcome: Outcome) -> Vec<u8> {
        match outcome {
            Outcome::Data(data) => data,
            other => panic!("expected data, got {other:?}"),
        }
    }

    fn nexus(units: &LogicalUnits, number: u8) -> Nexus {
        let initiator = "iqn.2026-11.io.lunboot:client".to_owned();
        units.nexus(SessionName { initiator, isid: Isid([0x80, 0, 0, 0, 0, number]) })
    }

    const INQUIRY: Cdb = Cdb::Inquiry { evpd: false, page: 0, allocation: 36 };

    #[test]
    fn a_new_nexus_is_told_once_for_each_unit() {
        let units = units(2);
        let mut nexus = nexus(&units, 1);
        let ready = Cdb::TestUnitReady.emit();
        for lun in [Lun::ZERO, Lun::from_number(1)] {
            data(units.execute(lun, &INQUIRY.emit(), &[], &mut nexus));
            let sense = Sense::new(SenseKey::UnitAttention, asc::POWER_ON_OR_RESET);
            assert_eq!(units.execute(lun, &ready, &[], &mut nexus), sense.into());
            assert_eq!(units.execute(lun, &ready, &[], &mut nexus), Outcome::Good);
        }
    }

    #[test]
    fn request_sense_fetches_a_unit_attention() {
        let units = units(1);
        let mut nexus = nexus(&units, 1);
        let request = Cdb::RequestSense { descriptor: false, allocation: 18 }.emit();
        let first = data(units.execute(Lun::ZERO, &request, &[], &mut nexus));
        assert_eq!(Sense::parse(&first).unwrap().key, SenseKey::UnitAttention);
        let second = data(units.execute(Lun::ZERO, &request, &[], &mut nexus));
        assert_eq!(Sense::parse(&second).unwrap().key, SenseKey::NoSense);
        units.reset(None);
        let third = data(units.execute(Lun::ZERO, &request, &[], &mut nexus));
        assert_eq!(Sense::parse(&third).unwrap().code(), asc::BUS_DEVICE_RESET);
    }

    #[test]
    fn luns_that_are_not_there_say_so() {
        let units = units(1);
        let mut nexus = nexus(&units, 1);
        for lun in [Lun::from_number(1), Lun([0xc1, 1, 0, 0, 0, 0, 0, 0])] {
            let inquiry = data(units.execute(lun, &INQUIRY.emit(), &[], &mut nexus));
            assert_eq!((inquiry[0], inquiry.len()), (0x7f, 36));
            let ready = units.execute(lun, &Cdb::TestUnitReady.emit(), &[], &mut nexus);
            assert_eq!(ready, illegal(asc::LOGICAL_UNIT_NOT_SUPPORTED).into());
        }
    }

    #[test]
    fn report_luns_of_any_lun_and_its_truncation() {
        let units = units(3);
        let mut nexus = nexus(&units, 1);
        let mut report = |select, allocation| {
            let cdb = Cdb::ReportLuns { select, allocation }.emit();
            units.execute(Lun::from_number(9), &cdb, &[], &mut nexus)
        };
        let all = data(report(0, 4096));
        assert_eq!((all[3], all.len(), all[8 + 17]), (24, 32, 2));
        assert_eq!(data(report(2, 4096)), all);
        assert_eq!(data(report(0, 16)), all[..16]);
        assert_eq!(data(report(1, 4096)), [0; 8]);
        assert_eq!(report(3, 4096), invalid_field(2, None).into());
    }

    #[test]
    fn naca_is_refused_at_its_place() {
        let units = units(1);
        let mut nexus = nexus(&units, 1);
        units.execute(Lun::ZERO, &Cdb::TestUnitReady.emit(), &[], &mut nexus);
        let mut cdb = Cdb::ReadCapacity10.emit();
        cdb[9] = 0x04;
        let refused = invalid_field(9, Some(2)).into();
        assert_eq!(units.execute(Lun::ZERO, &cdb, &[], &mut nexus), refused);
    }

    #[test]
    fn the_others_are_told_of_what_one_has_changed_for_all() {
        let store = Arc::new(MemoryStore::new(4096));
        let options = Options { removable: true, ..Options::default() };
        let unit = LogicalUnit::new(store, "iqn.2026-11.io.lunboot:test", b"disk", options);
        let units = LogicalUnits::new(vec![unit.unwrap()]);
        let mut nexuses = [nexus(&units, 1), nexus(&units, 2)];
        let ready = Cdb::TestUnitReady.emit();
        for nexus in &mut nexuses {
            units.execute(Lun::ZERO, &ready, &[], nexus);
        }
        let [one, other] = &mut nexuses;
        let off = CachingPage { write_cache: false, read_cache_disabled: false };
        let list = [&[0; 4][..], &off.emit()].concat();
        let (size, parameter_bytes) = (CdbSize::Six, list.len() as u16);
        let select = Cdb::ModeSelect { size, page_format: true, save: false, parameter_bytes };
        let told = |code| Outcome::from(Sense::new(SenseKey::UnitAttention, code));
        let good = Outcome::Good;
        // A page that says what is so already changes nothing.
        for expected in [told(asc::MODE_PARAMETERS_CHANGED), good.clone()] {
            assert_eq!(units.execute(Lun::ZERO, &select.emit(), &list, one), good);
            assert_eq!(units.execute(Lun::ZERO, &ready, &[], one), good);
            assert_eq!(units.execute(Lun::ZERO, &ready, &[], other), expected);
        }
        for (start, expected) in [
            (false, Sense::new(SenseKey::NotReady, asc::MEDIUM_NOT_PRESENT).into()),
            (true, told(asc::MEDIUM_MAY_HAVE_CHANGED)),
        ] {
            let (immediate, power_condition, no_flush) = (false, 0, false);
            let load_eject = true;
            let cdb =
                Cdb::StartStopUnit { immediate, power_condition, no_flush, load_eject, start };
            assert_eq!(units.execute(Lun::ZERO, &cdb.emit(), &[], one), good);
            assert_eq!(units.execute(Lun::ZERO, &ready, &[], other), expected);
        }
        assert_eq!(units.execute(Lun::ZERO, &ready, &[], one), good);
    }

    #[test]
    fn every_nexus_is_told_of_a_reset_of_its_unit() {
        let units = units(2);
        let mut nexuses = [nexus(&units, 1), nexus(&units, 2)];
        let ready = Cdb::TestUnitReady.emit();
        let luns = [Lun::ZERO, Lun::from_number(1)];
        for nexus in &mut nexuses {
            for lun in luns {
                units.execute(lun, &ready, &[], nexus);
            }
        }
        units.reset(Some(luns[1]));
        let sense = Sense::new(SenseKey::UnitAttention, asc::BUS_DEVICE_RESET);
        for nexus in &mut nexuses {
            assert_eq!(units.execute(luns[0], &ready, &[], nexus), Outcome::Good);
            assert_eq!(units.execute(luns[1], &ready, &[], nexus), sense.into());
            assert_eq!(units.execute(luns[1], &ready, &[], nexus), Outcome::Good);
        }
    }
}
