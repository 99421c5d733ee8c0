//! CDBs against the logical units of a target.

use std::sync::Arc;

use lunboot::proto::logical_unit::{LogicalUnit, Options, Outcome};
use lunboot::proto::logical_units::LogicalUnits;
use lunboot::proto::target::SessionName;
use lunboot::store::memory::MemoryStore;
use lunboot::wire::pdu::Isid;
use lunboot::wire::scsi::Lun;

use super::input::Input;

const DISK_BYTES: u64 = 256 * 1024;

/// Commands of three sessions, on a thin disk, a read-only one and one that is not there.
pub fn cdb(bytes: &[u8]) {
    let unit = |name: &[u8], options| {
        let store = Arc::new(MemoryStore::with_volatile_cache(DISK_BYTES));
        LogicalUnit::new(store, "iqn.2026-11.example:fuzz", name, options).expect("a sane disk")
    };
    let units = LogicalUnits::new(vec![
        unit(b"thin", Options { sanitize: true, ..Options::default() }),
        unit(b"fixed", Options { read_only: true, ..Options::default() }),
    ]);
    let nexus = |number| {
        let initiator = format!("iqn.2026-11.example:{}", number / 2);
        units.nexus(SessionName { initiator, isid: Isid([0x80, 0, 0, 0, 0, number]) })
    };
    let mut nexuses = [nexus(0), nexus(1), nexus(2)];
    let mut input = Input::new(bytes);
    while !input.is_empty() {
        let choice = input.byte();
        let lun = Lun::from_number(u16::from(choice % 3));
        let number = choice / 3 % 3;
        match choice >> 4 {
            // The session ends, and another begins.
            0xe => nexuses[usize::from(number)] = nexus(number),
            0xf => units.reset(Some(lun)),
            // A piece of what was begun.
            0xd => {
                units.get(lun).map(LogicalUnit::sanitize);
            }
            _ => {}
        }
        let nexus = &mut nexuses[usize::from(number)];
        let cdb = input.array();
        let data = input.segment();
        let wanted = units.data_out_bytes(lun, &cdb);
        // As the target does it: what a command wants, up to what has come.
        let data = &data[..data.len().min(usize::try_from(wanted).unwrap_or(usize::MAX))];
        if let Outcome::Read(extent) = units.execute(lun, &cdb, data, nexus) {
            assert!(extent.offset + extent.bytes <= DISK_BYTES, "{extent:?} is outside the disk");
            let unit = units.get(lun).expect("it has just read");
            let mut buffer = vec![0; extent.bytes.min(4096) as usize];
            let _ = unit.read(extent, 0, &mut buffer);
        }
    }
}
