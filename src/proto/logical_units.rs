//! The logical units of a target, and what concerns them all: which LUN is which, REPORT LUNS,
//! commands to LUNs that are not there, unit attentions of an I_T nexus (SAM-5 §4.7, §5.14).

use super::logical_unit::{
    LogicalUnit, Outcome, allocated, illegal, invalid_field, request_sense_data, standard_inquiry,
};
use crate::wire::scsi::{
    Cdb, CdbSize, Lun, PERIPHERAL_ABSENT, Sense, SenseKey, asc, emit_report_luns,
};

/// The logical units of a target, by number from 0 without gaps.
#[derive(Debug)]
pub struct LogicalUnits {
    units: Vec<LogicalUnit>,
}

/// What an initiator has to be told before its next command to each logical unit is executed: one
/// for every session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitAttentions {
    pending: Vec<Option<(u8, u8)>>,
}

impl LogicalUnits {
    /// A target with these logical units; the first is LUN 0.
    pub fn new(units: Vec<LogicalUnit>) -> LogicalUnits {
        LogicalUnits { units }
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

    /// Executes a command of the initiator that the unit attentions belong to.
    pub fn execute(
        &self,
        lun: Lun,
        cdb: &[u8; 16],
        data: &[u8],
        attentions: &mut UnitAttentions,
    ) -> Outcome {
        // NACA, in the CONTROL byte, asks for an error handling that iSCSI disks do not have.
        const NACA: u8 = 0x04;
        let command = Cdb::parse(cdb);
        if let Cdb::ReportLuns { select, allocation } = command {
            return self.report_luns(select, allocation);
        }
        let Some(unit) = self.get(lun) else { return execute_absent(&command) };
        match command {
            // INQUIRY answers whatever is pending and leaves it pending (SAM-5 §5.14.3).
            Cdb::Inquiry { .. } => {}
            Cdb::RequestSense { descriptor, allocation } => {
                if let Some(sense) = attentions.take(lun) {
                    return request_sense_data(&sense, descriptor, allocation);
                }
            }
            _ => {
                if let Some(sense) = attentions.take(lun) {
                    return sense.into();
                }
            }
        }
        let control = CdbSize::of_opcode(cdb[0]).map(CdbSize::control_byte);
        if let Some(byte) = control.filter(|byte| cdb[*byte] & NACA != 0) {
            return invalid_field(byte as u16, Some(2)).into();
        }
        unit.execute(cdb, data)
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

impl UnitAttentions {
    /// Of a new I_T nexus: whatever the units were for this initiator before is over.
    pub fn new_nexus(units: &LogicalUnits) -> UnitAttentions {
        UnitAttentions { pending: vec![Some(asc::POWER_ON_OR_RESET); units.len()] }
    }

    /// A logical unit was reset.
    pub fn logical_unit_reset(&mut self, lun: Lun) {
        if let Some(pending) = self.slot(lun) {
            *pending = Some(asc::BUS_DEVICE_RESET);
        }
    }

    /// The target was reset.
    pub fn target_reset(&mut self) {
        self.pending.fill(Some(asc::BUS_DEVICE_RESET));
    }

    fn take(&mut self, lun: Lun) -> Option<Sense> {
        let code = self.slot(lun)?.take()?;
        Some(Sense::new(SenseKey::UnitAttention, code))
    }

    fn slot(&mut self, lun: Lun) -> Option<&mut Option<(u8, u8)>> {
        self.pending.get_mut(usize::from(lun.to_number()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::logical_unit::Options;
    use crate::store::memory::MemoryStore;
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

    const INQUIRY: Cdb = Cdb::Inquiry { evpd: false, page: 0, allocation: 36 };

    #[test]
    fn a_new_nexus_is_told_once_for_each_unit() {
        let units = units(2);
        let mut attentions = UnitAttentions::new_nexus(&units);
        let ready = Cdb::TestUnitReady.emit();
        for lun in [Lun::ZERO, Lun::from_number(1)] {
            data(units.execute(lun, &INQUIRY.emit(), &[], &mut attentions));
            let sense = Sense::new(SenseKey::UnitAttention, asc::POWER_ON_OR_RESET);
            assert_eq!(units.execute(lun, &ready, &[], &mut attentions), sense.into());
            assert_eq!(units.execute(lun, &ready, &[], &mut attentions), Outcome::Good);
        }
    }

    #[test]
    fn request_sense_fetches_a_unit_attention() {
        let units = units(1);
        let mut attentions = UnitAttentions::new_nexus(&units);
        let request = Cdb::RequestSense { descriptor: false, allocation: 18 }.emit();
        let first = data(units.execute(Lun::ZERO, &request, &[], &mut attentions));
        assert_eq!(Sense::parse(&first).unwrap().key, SenseKey::UnitAttention);
        let second = data(units.execute(Lun::ZERO, &request, &[], &mut attentions));
        assert_eq!(Sense::parse(&second).unwrap().key, SenseKey::NoSense);
        attentions.target_reset();
        let third = data(units.execute(Lun::ZERO, &request, &[], &mut attentions));
        assert_eq!(Sense::parse(&third).unwrap().code(), asc::BUS_DEVICE_RESET);
    }

    #[test]
    fn luns_that_are_not_there_say_so() {
        let units = units(1);
        let mut attentions = UnitAttentions::new_nexus(&units);
        for lun in [Lun::from_number(1), Lun([0xc1, 1, 0, 0, 0, 0, 0, 0])] {
            let inquiry = data(units.execute(lun, &INQUIRY.emit(), &[], &mut attentions));
            assert_eq!((inquiry[0], inquiry.len()), (0x7f, 36));
            let ready = units.execute(lun, &Cdb::TestUnitReady.emit(), &[], &mut attentions);
            assert_eq!(ready, illegal(asc::LOGICAL_UNIT_NOT_SUPPORTED).into());
        }
    }

    #[test]
    fn report_luns_of_any_lun_and_its_truncation() {
        let units = units(3);
        let mut attentions = UnitAttentions::new_nexus(&units);
        let mut report = |select, allocation| {
            let cdb = Cdb::ReportLuns { select, allocation }.emit();
            units.execute(Lun::from_number(9), &cdb, &[], &mut attentions)
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
        let mut attentions = UnitAttentions { pending: vec![None] };
        let mut cdb = Cdb::ReadCapacity10.emit();
        cdb[9] = 0x04;
        let refused = invalid_field(9, Some(2)).into();
        assert_eq!(units.execute(Lun::ZERO, &cdb, &[], &mut attentions), refused);
    }
}
