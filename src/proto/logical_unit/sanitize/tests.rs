//! SANITIZE against a store in memory, which a test can break, and a record that it can read.
//!
//! When the command is answered is tested on the wire, in `tests/sanitize.rs`; that the real
//! program goes on after a crash, in `tests/server.rs`.

use std::sync::atomic::AtomicUsize;

use super::*;
use crate::proto::logical_unit::Options;
use crate::proto::logical_units::LogicalUnits;
use crate::proto::target::SessionName;
use crate::store::journal::Journaled;
use crate::store::memory::MemoryStore;
use crate::store::{Allocation, Store};
use crate::wire::pdu::Isid;
use crate::wire::scsi::{CdbSize, Lun, ScsiStatus, TransferFlags};

const NAME: &str = "iqn.2026-11.io.lunboot:test";
const OPTIONS: Options = Options {
    logical_block_bytes: 512,
    physical_block_bytes: 512,
    read_only: false,
    removable: false,
    sanitize: true,
};
/// More than one piece, and not a whole number of them.
const DISK_BYTES: u64 = 2 * WRITE_BYTES + 512;

/// Takes so many writes more, and counts them.
#[derive(Debug)]
struct Worn {
    store: MemoryStore,
    writes: AtomicUsize,
    writes_max: AtomicUsize,
    thin: bool,
}

impl Worn {
    fn new(thin: bool) -> Arc<Worn> {
        let (writes, writes_max) = (AtomicUsize::new(0), AtomicUsize::new(usize::MAX));
        let store = MemoryStore::with_volatile_cache(DISK_BYTES);
        Arc::new(Worn { store, writes, writes_max, thin })
    }
}

impl Store for Worn {
    fn size_bytes(&self) -> u64 {
        self.store.size_bytes()
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.store.read_at(buffer, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        if self.writes.fetch_add(1, Ordering::Relaxed) >= self.writes_max.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.store.write_at(data, offset)
    }

    fn flush(&self) -> io::Result<()> {
        self.store.flush()
    }

    fn prefetch(&self, offset: u64, length: u64) {
        self.store.prefetch(offset, length);
    }

    fn can_discard(&self) -> bool {
        self.thin
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        self.store.discard(offset, length)
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        self.store.write_zeroes(offset, length)
    }

    fn allocation(&self, offset: u64) -> io::Result<Allocation> {
        self.store.allocation(offset)
    }
}

/// A record in memory that may refuse.
#[derive(Debug, Default)]
struct Paper {
    text: Mutex<Option<String>>,
    broken: AtomicBool,
}

impl Record for Paper {
    fn replace(&self, text: &str) -> io::Result<()> {
        if self.broken.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        *self.text.lock().unwrap() = Some(text.to_owned());
        Ok(())
    }
}

fn unit(store: &Arc<Worn>) -> LogicalUnit {
    LogicalUnit::new(store.clone(), NAME, b"disk", OPTIONS).unwrap()
}

/// The same after a restart, which is the same as before any.
fn unit_on(store: &Arc<Worn>, paper: &Arc<Paper>) -> LogicalUnit {
    let text = paper.text.lock().unwrap().clone();
    unit(store).with_sanitize_record(text.as_deref(), paper.clone()).unwrap()
}

fn cdb(action: u8, parameter_bytes: usize) -> [u8; 16] {
    let (immediate, unrestricted) = (false, false);
    let parameter_bytes = parameter_bytes as u16;
    Cdb::Sanitize { action, immediate, unrestricted, parameter_bytes }.emit()
}

/// AUSE.
fn unrestricted(mut cdb: [u8; 16]) -> [u8; 16] {
    cdb[1] |= 0x20;
    cdb
}

fn overwrite(unit: &LogicalUnit, count: u8, invert: bool, pattern: &[u8]) -> Outcome {
    let list = OverwriteList { invert, test: 0, count, pattern: pattern.to_vec() }.emit();
    assert_eq!(unit.data_out_bytes(&cdb(sanitize::OVERWRITE, list.len())), list.len() as u64);
    unit.execute(&cdb(sanitize::OVERWRITE, list.len()), &list)
}

fn block_erase(unit: &LogicalUnit) -> Outcome {
    unit.execute(&cdb(sanitize::BLOCK_ERASE, 0), &[])
}

fn begun(number: u64) -> Outcome {
    Outcome::Sanitizing { number, immediate: false }
}

/// Carries out the operation to its end.
fn finish(unit: &LogicalUnit) -> Sanitized {
    loop {
        match unit.sanitize() {
            Sanitized::Piece => assert!(unit.is_sanitizing()),
            end => return end,
        }
    }
}

fn sense(outcome: Outcome) -> Sense {
    match outcome {
        Outcome::CheckCondition(sense) => *sense,
        other => panic!("expected CHECK CONDITION, got {other:?}"),
    }
}

fn request_sense(unit: &LogicalUnit) -> Sense {
    let cdb = Cdb::RequestSense { descriptor: false, allocation: 18 }.emit();
    match unit.execute(&cdb, &[]) {
        Outcome::Data(data) => Sense::parse(&data).unwrap(),
        other => panic!("expected sense data, got {other:?}"),
    }
}

fn read() -> [u8; 16] {
    let (size, flags) = (CdbSize::Ten, TransferFlags::default());
    Cdb::Read { size, lba: 0, blocks: 1, flags }.emit()
}

fn is_full_of(store: &Worn, block: &[u8]) -> bool {
    store.store.contents().chunks(512).all(|stored| stored == block)
}

#[test]
fn overwrite_repeats_its_pattern_in_each_block_of_the_store() {
    let store = Worn::new(true);
    let unit = unit(&store);
    assert_eq!(overwrite(&unit, 1, false, &[1, 2, 3]), begun(1));
    assert_eq!(finish(&unit), Sanitized::All);
    // Nothing was left in the cache, and blocks do not run into each other.
    store.store.lose_cache(|| false);
    let block: Vec<u8> = [1, 2, 3].into_iter().cycle().take(512).collect();
    assert!(is_full_of(&store, &block));
    assert_eq!(unit.sanitize(), Sanitized::Nothing);
}

#[test]
fn each_pass_is_the_complement_of_the_one_before_if_that_is_wanted() {
    for (count, invert, passes) in
        [(2, true, &[0x0f_u8, 0xf0][..]), (3, true, &[0xf0, 0x0f, 0xf0]), (2, false, &[0xf0, 0xf0])]
    {
        let store = Worn::new(true);
        let unit = unit(&store);
        overwrite(&unit, count, invert, &[0xf0; 512]);
        for byte in passes {
            // Each pass has three pieces.
            let pieces = [unit.sanitize(), unit.sanitize(), unit.sanitize()];
            assert!(is_full_of(&store, &[*byte; 512]), "{count} {invert} {pieces:?}");
            store.store.lose_cache(|| false);
            assert!(is_full_of(&store, &[*byte; 512]), "each pass is flushed");
        }
        assert_eq!(unit.sanitize(), Sanitized::Nothing);
    }
}

#[test]
fn block_erase_overwrites_what_is_there_and_frees_it() {
    let store = Worn::new(true);
    let unit = unit(&store);
    let secret = WRITE_BYTES - 512;
    store.store.write_at(&[0x5e; 1024], secret).unwrap();
    assert_eq!(block_erase(&unit), begun(1));
    // The hole before it, and the data that is found there: zeroes take its place on the medium.
    assert_eq!([unit.sanitize(), unit.sanitize()], [Sanitized::Piece; 2]);
    let mut stored = [1; 1024];
    store.read_at(&mut stored, secret).unwrap();
    assert_eq!(stored, [0; 1024]);
    assert!(store.allocation(secret).unwrap().mapped, "not freed before it is overwritten");
    assert!(store.writes.load(Ordering::Relaxed) > 0);
    assert_eq!(finish(&unit), Sanitized::All);
    store.store.lose_cache(|| false);
    assert!(is_full_of(&store, &[0; 512]));
    assert_eq!(store.allocation(0).unwrap(), Allocation { mapped: false, end: DISK_BYTES });
}

#[test]
fn what_a_journal_holds_is_gone_as_well() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    let store = Journaled::open(MemoryStore::with_volatile_cache(DISK_BYTES), &path).unwrap();
    let unit = LogicalUnit::new(Arc::new(store), NAME, b"disk", OPTIONS).unwrap();
    let begin: [fn(&LogicalUnit) -> Outcome; 2] =
        [block_erase, |unit| overwrite(unit, 1, false, &[1])];
    for begin in begin {
        let flags = TransferFlags::default();
        let atomic = Cdb::WriteAtomic { lba: 4, boundary: 0, blocks: 2, flags }.emit();
        assert_eq!(unit.execute(&atomic, &[0x5e; 1024]), Outcome::Good);
        assert!(std::fs::read(&path).unwrap().ends_with(&[0x5e; 1024]));
        begin(&unit);
        assert_eq!(finish(&unit), Sanitized::All);
        assert_eq!(std::fs::read(&path).unwrap(), []);
    }
}

#[test]
fn a_unit_that_is_being_sanitized_answers_little_else() {
    let store = Worn::new(true);
    let unit = unit(&store);
    overwrite(&unit, 1, false, &[7]);
    let progress = |progress| {
        let sense = Sense::new(SenseKey::NotReady, asc::NOT_READY_SANITIZE_IN_PROGRESS);
        sense.with_progress(progress)
    };
    for cdb in [
        read(),
        Cdb::TestUnitReady.emit(),
        Cdb::ReadCapacity10.emit(),
        Cdb::Reserve { size: CdbSize::Six, third_party: false, extent: false }.emit(),
        cdb(sanitize::BLOCK_ERASE, 0),
        cdb(sanitize::EXIT_FAILURE_MODE, 0),
    ] {
        assert_eq!(sense(unit.execute(&cdb, &[])), progress(0), "{cdb:x?}");
    }
    let inquiry = Cdb::Inquiry { evpd: false, page: 0, allocation: 36 }.emit();
    assert!(matches!(unit.execute(&inquiry, &[]), Outcome::Data(_)));
    assert_eq!(unit.sanitize(), Sanitized::Piece);
    // A little less than half is done.
    assert_eq!(request_sense(&unit), progress(0x7ffe));
    assert_eq!(unit.sanitize_outcome(1), None);
    assert_eq!(finish(&unit), Sanitized::All);
    assert_eq!(unit.sanitize_outcome(1), Some(Outcome::Good));
    assert_eq!(request_sense(&unit).key, SenseKey::NoSense);
    assert_eq!(unit.execute(&Cdb::TestUnitReady.emit(), &[]), Outcome::Good);
}

#[test]
fn a_reset_does_not_end_it() {
    let store = Worn::new(true);
    let units = LogicalUnits::new(vec![unit(&store)]);
    let session = SessionName { initiator: NAME.to_owned(), isid: Isid([0; 6]) };
    let mut nexus = units.nexus(session);
    let unit = units.get(Lun::ZERO).unwrap();
    let ready = Cdb::TestUnitReady.emit();
    units.execute(Lun::ZERO, &ready, &[], &mut nexus);
    let erase = cdb(sanitize::BLOCK_ERASE, 0);
    assert_eq!(units.execute(Lun::ZERO, &erase, &[], &mut nexus), begun(1));
    units.reset(Some(Lun::ZERO));
    let code = |outcome| sense(outcome).code();
    // The reset is told first.
    assert_eq!(code(units.execute(Lun::ZERO, &ready, &[], &mut nexus)), asc::BUS_DEVICE_RESET);
    let code = code(units.execute(Lun::ZERO, &ready, &[], &mut nexus));
    assert_eq!(code, asc::NOT_READY_SANITIZE_IN_PROGRESS);
    assert_eq!(finish(unit), Sanitized::All);
    assert_eq!(units.execute(Lun::ZERO, &ready, &[], &mut nexus), Outcome::Good);
}

#[test]
fn a_failure_is_left_by_another_operation_or_as_it_was_agreed() {
    let store = Worn::new(true);
    let unit = unit(&store);
    let exit = cdb(sanitize::EXIT_FAILURE_MODE, 0);
    // Where nothing has failed there is nothing to leave.
    assert_eq!(unit.execute(&exit, &[]), Outcome::Good);
    store.writes_max.store(20, Ordering::Relaxed);
    overwrite(&unit, 1, false, &[7]);
    assert_eq!(finish(&unit), Sanitized::Failed);
    assert!(unit.has_sanitize_failed() && !unit.is_sanitizing());
    assert_eq!(unit.sanitize_outcome(1), Some(FAILED.into()));
    assert_eq!(unit.sanitize_outcome(1).unwrap().status(), ScsiStatus::CheckCondition);
    assert_eq!(sense(unit.execute(&read(), &[])), FAILED);
    assert_eq!(request_sense(&unit), FAILED);
    assert_eq!(sense(unit.execute(&exit, &[])), invalid_field(1, Some(4)));
    // What was begun without AUSE does not get it now.
    let erase = cdb(sanitize::BLOCK_ERASE, 0);
    assert_eq!(sense(unit.execute(&unrestricted(erase), &[])), invalid_field(1, Some(5)));
    store.writes_max.store(usize::MAX, Ordering::Relaxed);
    assert_eq!(block_erase(&unit), begun(2));
    assert_eq!(finish(&unit), Sanitized::All);
    assert_eq!(unit.execute(&Cdb::TestUnitReady.emit(), &[]), Outcome::Good);

    assert_eq!(unit.execute(&unrestricted(erase), &[]), begun(3));
    unit.give_up_sanitizing();
    assert_eq!(sense(unit.execute(&read(), &[])), FAILED);
    assert_eq!(unit.execute(&exit, &[]), Outcome::Good);
    assert_eq!(unit.execute(&Cdb::TestUnitReady.emit(), &[]), Outcome::Good);
    let outcomes = [1, 2, 3].map(|number| unit.sanitize_outcome(number));
    assert_eq!(outcomes, [FAILED.into(), Outcome::Good, FAILED.into()].map(Some));
}

#[test]
fn a_restart_goes_on_from_the_beginning() {
    let store = Worn::new(true);
    let paper = Arc::new(Paper::default());
    let unit = unit_on(&store, &paper);
    assert!(unit.has_sanitize_record());
    overwrite(&unit, 2, true, &[0xa5, 0x5a]);
    (0..4).for_each(|_| assert_eq!(unit.sanitize(), Sanitized::Piece));
    drop(unit);
    store.store.lose_cache(|| false);
    let unit = unit_on(&store, &paper);
    assert!(unit.is_sanitizing());
    let code = sense(unit.execute(&read(), &[])).code();
    assert_eq!(code, asc::NOT_READY_SANITIZE_IN_PROGRESS);
    assert_eq!(finish(&unit), Sanitized::All);
    assert!(is_full_of(&store, &[0xa5, 0x5a].repeat(256)));
    // It is over for good, and so is a failure only when it was left.
    assert!(!unit_on(&store, &paper).is_sanitizing());
    store.writes_max.store(0, Ordering::Relaxed);
    overwrite(&unit, 1, false, &[1]);
    assert_eq!(finish(&unit), Sanitized::Failed);
    let unit = unit_on(&store, &paper);
    assert_eq!(sense(unit.execute(&read(), &[])), FAILED);
}

#[test]
fn what_cannot_be_recorded_does_not_begin_and_is_not_done() {
    let store = Worn::new(true);
    let paper = Arc::new(Paper::default());
    let unit = unit_on(&store, &paper);
    paper.broken.store(true, Ordering::Relaxed);
    assert_eq!(sense(block_erase(&unit)).code(), asc::INTERNAL_TARGET_FAILURE);
    assert!(!unit.is_sanitizing());
    assert_eq!(unit.execute(&Cdb::TestUnitReady.emit(), &[]), Outcome::Good);
    paper.broken.store(false, Ordering::Relaxed);
    assert_eq!(block_erase(&unit), begun(1));
    paper.broken.store(true, Ordering::Relaxed);
    // What would be written now would be lost at the next start.
    assert_eq!(finish(&unit), Sanitized::Failed);
    assert_eq!(sense(unit.execute(&read(), &[])), FAILED);
    assert!(unit_on(&store, &paper).is_sanitizing());
}

#[test]
fn only_what_was_meant_exactly_is_begun() {
    let unit = unit(&Worn::new(true));
    let list = |invert, test, count, pattern: &[u8]| {
        OverwriteList { invert, test, count, pattern: pattern.to_vec() }.emit()
    };
    let erase = cdb(sanitize::BLOCK_ERASE, 0);
    let with = |byte: usize, bits: u8| {
        let mut cdb = erase;
        cdb[byte] |= bits;
        cdb
    };
    for (byte, bit) in [(1, 6), (2, 0), (3, 7), (4, 1), (5, 2), (6, 5)] {
        let refused = sense(unit.execute(&with(byte, 1 << bit), &[]));
        assert_eq!(refused, invalid_field(byte as u16, Some(bit)));
    }
    for action in [0, 3, 4, 0x1e] {
        let mut cdb = erase;
        cdb[1] = action;
        assert_eq!(sense(unit.execute(&cdb, &[])), invalid_field(1, Some(4)), "{action}");
    }
    assert_eq!(
        sense(unit.execute(&cdb(sanitize::BLOCK_ERASE, 8), &[0; 8])),
        invalid_field(7, None)
    );
    assert_eq!(
        sense(unit.execute(&cdb(sanitize::EXIT_FAILURE_MODE, 8), &[0; 8])),
        invalid_field(7, None)
    );
    for length in [0, 4, 517] {
        let cdb = cdb(sanitize::OVERWRITE, length);
        assert_eq!(sense(unit.execute(&cdb, &vec![1; length])), invalid_field(7, None));
    }
    for (list, field) in [
        (list(false, 0, 0, &[1; 512]), 0),
        (list(false, 1, 1, &[1; 512]), 0),
        ([&list(false, 0, 1, &[])[..], &[9]].concat(), 2),
        ([&[1, 0, 2, 1][..], &[9; 512]].concat(), 2),
    ] {
        let refused = sense(unit.execute(&cdb(sanitize::OVERWRITE, list.len()), &list));
        assert_eq!(refused, invalid_parameter(field));
    }
    let short = unit.execute(&cdb(sanitize::OVERWRITE, 516), &list(false, 0, 1, &[1; 511]));
    assert_eq!(sense(short).code(), asc::PARAMETER_LIST_LENGTH_ERROR);
    assert!(!unit.is_sanitizing());
}

#[test]
fn it_is_offered_only_where_it_may_and_can_be_done() {
    let characteristics = |unit: &LogicalUnit| {
        let cdb = Cdb::Inquiry { evpd: true, page: 0xb1, allocation: 64 }.emit();
        match unit.execute(&cdb, &[]) {
            Outcome::Data(page) => page[7] >> 4,
            other => panic!("expected a page, got {other:?}"),
        }
    };
    let unknown = illegal(asc::INVALID_COMMAND_OPERATION_CODE);
    for options in [Options { sanitize: false, ..OPTIONS }, Options { read_only: true, ..OPTIONS }]
    {
        let unit = LogicalUnit::new(Worn::new(true), NAME, b"disk", options).unwrap();
        assert_eq!(sense(block_erase(&unit)), unknown);
        assert_eq!(characteristics(&unit), 0);
    }
    // What cannot be freed cannot be erased, but overwritten.
    let thick = unit(&Worn::new(false));
    assert_eq!(sense(block_erase(&thick)), invalid_field(1, Some(4)));
    assert_eq!(characteristics(&thick), 0);
    assert_eq!(overwrite(&thick, 1, false, &[1]), begun(1));
    // WABEREQ says that blocks can be read, WACEREQ that there is no cryptographic erase.
    assert_eq!(characteristics(&unit(&Worn::new(true))), 0b0100);
}
