//! The commands of a disk, executed against a store in memory, whose content each test then looks
//! at itself. What needs more than one initiator is tested with
//! [`LogicalUnits`](crate::proto::logical_units::LogicalUnits).

use std::path::Path;

use super::*;
use crate::store::journal::Journaled;
use crate::store::memory::MemoryStore;
use crate::wire::scsi::{
    BlockDescriptor, BlockLimits, CachingPage, Capacity10, Capacity16, CdbSize, ControlPage,
    DesignatorKind, LogicalBlockProvisioning, ModeParameters, ProvisioningFlags, StandardInquiry,
    TransferFlags, UnmapDescriptor, emit_unmap, parse_device_identification,
};

const NAME: &str = "iqn.2026-11.io.lunboot:test";
const BLOCKS: u64 = 2048;

/// The unit and its store, which tests look into.
fn unit_with(options: Options) -> (LogicalUnit, Arc<MemoryStore>) {
    let store = Arc::new(MemoryStore::with_volatile_cache(BLOCKS * 512));
    let unit = LogicalUnit::new(store.clone(), NAME, b"disk", options).unwrap();
    (unit, store)
}

fn unit() -> (LogicalUnit, Arc<MemoryStore>) {
    unit_with(Options::default())
}

fn data(outcome: Outcome) -> Vec<u8> {
    match outcome {
        Outcome::Data(data) => data,
        other => panic!("expected data, got {other:?}"),
    }
}

fn sense(outcome: Outcome) -> Sense {
    match outcome {
        Outcome::CheckCondition(sense) => *sense,
        other => panic!("expected CHECK CONDITION, got {other:?}"),
    }
}

fn read(lba: u64, blocks: u32) -> [u8; 16] {
    let flags = TransferFlags::default();
    Cdb::Read { size: CdbSize::Sixteen, lba, blocks, flags }.emit()
}

fn write(lba: u64, blocks: u32, fua: bool) -> [u8; 16] {
    let flags = TransferFlags { fua, ..TransferFlags::default() };
    Cdb::Write { size: CdbSize::Ten, lba, blocks, flags }.emit()
}

fn write_same(lba: u64, blocks: u32, unmap: bool, no_data: bool) -> [u8; 16] {
    let flags = ProvisioningFlags { unmap, no_data, ..ProvisioningFlags::default() };
    Cdb::WriteSame { size: CdbSize::Sixteen, lba, blocks, flags }.emit()
}

#[test]
fn a_read_gives_back_what_a_write_left() {
    let (unit, _) = unit();
    let block = [0x5a; 512];
    assert_eq!(unit.data_out_bytes(&write(7, 1, false)), 512);
    assert_eq!(unit.execute(&write(7, 1, false), &block), Outcome::Good);
    let outcome = unit.execute(&read(6, 2), &[]);
    let extent = Extent { offset: 6 * 512, bytes: 1024 };
    assert_eq!(outcome, Outcome::Read(extent));
    let mut buffer = [1; 512];
    unit.read(extent, 512, &mut buffer).unwrap();
    assert_eq!(buffer, block);
    unit.read(extent, 0, &mut buffer).unwrap();
    assert_eq!(buffer, [0; 512]);
}

#[test]
fn only_forced_and_flushed_writes_are_stable() {
    let (unit, store) = unit();
    unit.execute(&write(0, 1, false), &[1; 512]);
    store.lose_cache(|| false);
    assert_eq!(store.contents()[0], 0);
    unit.execute(&write(0, 1, true), &[2; 512]);
    store.lose_cache(|| false);
    assert_eq!(store.contents()[0], 2);
    unit.execute(&write(0, 1, false), &[3; 512]);
    let flush = Cdb::SynchronizeCache { size: CdbSize::Ten, lba: 0, blocks: 0, immediate: true };
    assert_eq!(unit.execute(&flush.emit(), &[]), Outcome::Good);
    store.lose_cache(|| false);
    assert_eq!(store.contents()[0], 3);
}

#[test]
fn ranges_are_checked_without_overflow() {
    let (unit, store) = unit();
    let flags = TransferFlags::default();
    for (lba, blocks) in
        [(BLOCKS, 1), (BLOCKS - 1, 2), (u64::MAX, 1), (u64::MAX, u32::MAX), (BLOCKS + 1, 0)]
    {
        let size = CdbSize::Sixteen;
        let commands = [
            read(lba, blocks),
            Cdb::Write { size, lba, blocks, flags }.emit(),
            Cdb::Verify { size, lba, blocks, flags, byte_check: 0 }.emit(),
            Cdb::SynchronizeCache { size, lba, blocks, immediate: false }.emit(),
            write_same(lba, blocks, false, true),
        ];
        for cdb in commands {
            let sense = sense(unit.execute(&cdb, &[0; 512]));
            assert_eq!(sense.code(), asc::LBA_OUT_OF_RANGE, "{cdb:02x?}");
            assert_eq!(sense.information, Some(lba.max(BLOCKS)));
        }
        let list = emit_unmap(&UnmapDescriptor { lba, blocks });
        let cdb = Cdb::Unmap { anchor: false, parameter_bytes: 24 }.emit();
        assert_eq!(sense(unit.execute(&cdb, &list)).code(), asc::LBA_OUT_OF_RANGE);
    }
    assert_eq!(store.contents(), vec![0; BLOCKS as usize * 512]);
    assert!(matches!(unit.execute(&read(BLOCKS, 0), &[]), Outcome::Read(_)));
}

#[test]
fn transfers_that_are_too_long_point_at_their_length() {
    let store = Arc::new(MemoryStore::new(u64::from(TRANSFER_BYTES_MAX) + 512));
    let unit = LogicalUnit::new(store, NAME, b"disk", Options::default()).unwrap();
    let most = TRANSFER_BYTES_MAX / 512;
    assert!(matches!(unit.execute(&read(0, most), &[]), Outcome::Read(_)));
    let sense = sense(unit.execute(&read(0, most + 1), &[]));
    assert_eq!(sense, invalid_field(10, None));
}

#[test]
fn protection_information_is_refused() {
    let (unit, _) = unit();
    let mut cdb = read(0, 1);
    cdb[1] = 0x20;
    assert_eq!(sense(unit.execute(&cdb, &[])), invalid_field(1, Some(7)));
}

#[test]
fn unmapped_blocks_read_as_zero_and_their_neighbours_stay() {
    let (unit, store) = unit();
    unit.execute(&write(0, 4, false), &[9; 2048]);
    let list = emit_unmap(&UnmapDescriptor { lba: 1, blocks: 2 });
    let cdb = Cdb::Unmap { anchor: false, parameter_bytes: 24 }.emit();
    assert_eq!(unit.data_out_bytes(&cdb), 24);
    assert_eq!(unit.execute(&cdb, &list), Outcome::Good);
    let contents = store.contents();
    assert_eq!((contents[511], contents[512], contents[1535], contents[1536]), (9, 0, 0, 9));
    let truncated = sense(unit.execute(&cdb, &list[..20]));
    assert_eq!(truncated.code(), asc::PARAMETER_LIST_LENGTH_ERROR);
}

#[test]
fn write_same_repeats_a_block_or_zeroes() {
    let (unit, store) = unit();
    let mut block = [0; 512];
    block[0] = 0xaa;
    block[511] = 0xbb;
    assert_eq!(unit.data_out_bytes(&write_same(2, 3, false, false)), 512);
    assert_eq!(unit.execute(&write_same(2, 3, false, false), &block), Outcome::Good);
    let expected = block.repeat(3);
    assert_eq!(store.contents()[1024..2560], expected);
    // UNMAP with data that is not zero must still write the data.
    assert_eq!(unit.execute(&write_same(6, 1, true, false), &block), Outcome::Good);
    assert_eq!(store.contents()[3072..3584], block);
    assert_eq!(unit.data_out_bytes(&write_same(2, 2, true, true)), 0);
    assert_eq!(unit.execute(&write_same(2, 2, true, true), &[]), Outcome::Good);
    assert_eq!(store.contents()[1024..2048], [0; 1024]);
    assert_eq!(store.contents()[2048..2560], block);
    let sense = sense(unit.execute(&write_same(0, 0, false, true), &[]));
    assert_eq!(sense, invalid_field(10, None));
}

#[test]
fn verify_compares_when_told_to() {
    let (unit, _) = unit();
    unit.execute(&write(3, 1, false), &[7; 512]);
    let cdb = |byte_check| {
        let flags = TransferFlags::default();
        Cdb::Verify { size: CdbSize::Ten, lba: 3, blocks: 1, flags, byte_check }.emit()
    };
    let mut expected = [7; 512];
    assert_eq!(unit.data_out_bytes(&cdb(0)), 0);
    assert_eq!(unit.data_out_bytes(&cdb(1)), 512);
    assert_eq!(unit.execute(&cdb(0), &[]), Outcome::Good);
    assert_eq!(unit.execute(&cdb(1), &expected), Outcome::Good);
    expected[100] = 8;
    let miscompare = sense(unit.execute(&cdb(1), &expected));
    assert_eq!(miscompare.key, SenseKey::Miscompare);
    assert_eq!(miscompare.information, Some(100));
    assert_eq!(sense(unit.execute(&cdb(2), &expected)), invalid_field(1, Some(2)));
}

#[test]
fn a_read_only_unit_refuses_every_change() {
    let (unit, store) = unit_with(Options { read_only: true, ..Options::default() });
    let list = emit_unmap(&UnmapDescriptor { lba: 0, blocks: 1 });
    let unmap = Cdb::Unmap { anchor: false, parameter_bytes: 24 }.emit();
    let block = [1; 512];
    for (cdb, data) in [
        (write(0, 1, false), &block[..]),
        (write_same(0, 1, false, false), &block[..]),
        (write_same(0, 1, true, true), &[]),
        (unmap, &list[..]),
    ] {
        let sense = sense(unit.execute(&cdb, data));
        assert_eq!(sense, Sense::new(SenseKey::DataProtect, asc::WRITE_PROTECTED));
    }
    assert_eq!(store.contents()[..512], [0; 512]);
    let mode = data(unit.execute(&[0x1a, 0, 0x3f, 0, 255, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[]));
    let mode = ModeParameters::parse(&mode, CdbSize::Six).unwrap();
    assert!(mode.write_protected && !mode.caching.unwrap().write_cache);
}

#[test]
fn mode_sense_tells_the_truth_about_the_cache() {
    let (unit, _) = unit();
    let ask = |size, page_control, page| {
        let cdb = Cdb::ModeSense {
            size,
            no_block_descriptors: false,
            long_lba: false,
            page_control,
            page,
            subpage: 0,
            allocation: 255,
        };
        unit.execute(&cdb.emit(), &[])
    };
    for size in [CdbSize::Six, CdbSize::Ten] {
        let mode = ModeParameters::parse(&data(ask(size, 0, 0x3f)), size).unwrap();
        assert!(mode.caching.unwrap().write_cache && mode.dpo_fua && !mode.write_protected);
        assert!(mode.control.is_some());
        let descriptor = BlockDescriptor { blocks: BLOCKS, block_bytes: 512 };
        assert_eq!(mode.block_descriptor, Some(descriptor));
    }
    let changeable = ask(CdbSize::Six, 1, 0x08);
    let changeable = ModeParameters::parse(&data(changeable), CdbSize::Six).unwrap();
    let write_cache = CachingPage { write_cache: true, read_cache_disabled: false };
    assert_eq!(changeable.caching, Some(write_cache));
    assert_eq!(changeable.control, None);
    let saved = sense(ask(CdbSize::Six, 3, 0x08));
    assert_eq!(saved.code(), asc::SAVING_PARAMETERS_NOT_SUPPORTED);
    assert_eq!(sense(ask(CdbSize::Six, 0, 0x1d)), invalid_field(2, None));
}

#[test]
fn inquiry_pages_and_their_truncation() {
    let (unit, _) = unit();
    let ask =
        |evpd, page, allocation| unit.execute(&Cdb::Inquiry { evpd, page, allocation }.emit(), &[]);
    let standard = StandardInquiry::parse(&data(ask(false, 0, 255))).unwrap();
    assert_eq!((&standard.vendor, standard.version), (b"LUNBOOT ", 6));
    assert_eq!(data(ask(false, 0, 5)).len(), 5);
    assert_eq!(
        data(ask(true, 0x00, 255)),
        [0, 0, 0, 8, 0, 0x80, 0x83, 0x86, 0x87, 0xb0, 0xb1, 0xb2]
    );
    let limits = BlockLimits::parse(&data(ask(true, 0xb0, 255))).unwrap();
    assert_eq!((limits.transfer_max, limits.transfer_granularity), (16384, 8));
    assert_eq!((limits.unmap_granularity, limits.unmap_alignment), (8, Some(0)));
    let thin = LogicalBlockProvisioning::parse(&data(ask(true, 0xb2, 255))).unwrap();
    assert!(thin.unmap && thin.reads_zero);
    assert_eq!(sense(ask(true, 0x85, 255)), invalid_field(2, None));
    assert_eq!(sense(ask(false, 0x80, 255)), invalid_field(2, None));
}

#[test]
fn identifiers_never_change_and_differ_between_units() {
    let store = || Arc::new(MemoryStore::new(512));
    let new =
        |name, disk: &[u8]| LogicalUnit::new(store(), name, disk, Options::default()).unwrap();
    let cdb = Cdb::Inquiry { evpd: true, page: 0x80, allocation: 255 }.emit();
    // FNV-1a of both names and a zero between them, computed by hand once.
    assert_eq!(data(new("a", &[0, 0]).execute(&cdb, &[]))[4..], *b"ac804b820e4fe984");
    assert_ne!(
        data(new("a", &[0, 1]).execute(&cdb, &[])),
        data(new("a", &[0, 0]).execute(&cdb, &[]))
    );
    assert_ne!(
        data(new("b", &[0, 0]).execute(&cdb, &[])),
        data(new("a", &[0, 0]).execute(&cdb, &[]))
    );
    let cdb = Cdb::Inquiry { evpd: true, page: 0x83, allocation: 1024 }.emit();
    let names = parse_device_identification(&data(new(NAME, b"disk").execute(&cdb, &[]))).unwrap();
    assert_eq!(names.len(), 5);
    assert_eq!((names[0].kind, names[0].value[0] >> 4), (DesignatorKind::Naa, 3));
    assert!(names[3].value.starts_with(b"iqn.2026-11.io.lunboot:test,t,0x0001\0"));
}

#[test]
fn capacities_with_512_and_4096() {
    let (unit, _) = unit();
    let capacity = data(unit.execute(&Cdb::ReadCapacity16 { allocation: 32 }.emit(), &[]));
    let capacity = Capacity16::parse(&capacity).unwrap();
    assert_eq!((capacity.last_lba, capacity.block_bytes), (BLOCKS - 1, 512));
    assert_eq!((capacity.physical_exponent, capacity.provisioned), (0, true));
    let large =
        Options { logical_block_bytes: 4096, physical_block_bytes: 4096, ..Options::default() };
    let (unit, _) = unit_with(large);
    let capacity = data(unit.execute(&Cdb::ReadCapacity10.emit(), &[]));
    let expected = Capacity10 { last_lba: (BLOCKS / 8 - 1) as u32, block_bytes: 4096 };
    assert_eq!(Capacity10::parse(&capacity), Ok(expected));
}

#[test]
fn unfit_stores_are_refused_with_what_to_do() {
    let new = |size, logical_block_bytes, physical_block_bytes| {
        let options = Options { logical_block_bytes, physical_block_bytes, ..Options::default() };
        let store = Arc::new(MemoryStore::new(size));
        LogicalUnit::new(store, NAME, b"disk", options).map(|_| ())
    };
    assert_eq!(new(4096, 4096, 4096), Ok(()));
    let error = new(1000, 512, 4096).unwrap_err();
    assert!(error.to_string().ends_with("extend it to 1024 bytes"), "{error}");
    assert!(new(0, 512, 4096).is_err());
    assert!(new(4096, 0, 4096).is_err());
    assert!(new(4096, 1024, 4096).is_err());
    assert!(new(4096, 4096, 512).is_err());
    assert!(new(4096, 512, 0).is_err());
    assert!(new(4096, 512, 1536).is_err());
}

#[test]
fn unknown_commands_are_refused() {
    let (unit, _) = unit();
    let refused = illegal(asc::INVALID_COMMAND_OPERATION_CODE);
    for opcode in [0x04, 0x18, 0x3b, 0x83, 0x9c, 0xff] {
        let mut cdb = [0; 16];
        cdb[0] = opcode;
        assert_eq!(sense(unit.execute(&cdb, &[])), refused);
    }
}

#[test]
fn random_commands_never_panic() {
    let (unit, _) = unit_with(Options { sanitize: true, ..Options::default() });
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for round in 0..20_000_u32 {
        let mut cdb = [0; 16];
        for byte in &mut cdb {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            // Small values reach further than random ones.
            *byte = if state >> 63 == 0 { (state >> 32) as u8 } else { 0 };
        }
        cdb[0] = round as u8;
        let length = (state >> 40) as usize % 1100;
        let outcome = unit.execute(&cdb, &vec![state as u8; length]);
        if let Outcome::Read(extent) = outcome {
            assert!(extent.offset + extent.bytes <= unit.size_bytes());
        }
        unit.sanitize();
    }
}

/// Every opcode with every service action.
fn all_commands() -> impl Iterator<Item = [u8; 16]> {
    (0..=255_u8).flat_map(|opcode| {
        (0..32_u8).map(move |action| {
            let mut cdb = [0; 16];
            (cdb[0], cdb[1]) = (opcode, action);
            cdb
        })
    })
}

fn supported_opcodes(options: u8, opcode: u8, service_action: u16) -> [u8; 16] {
    let (timeouts, allocation) = (false, 65535);
    Cdb::ReportSupportedOperationCodes { timeouts, options, opcode, service_action, allocation }
        .emit()
}

#[test]
fn the_table_of_commands_is_what_can_be_parsed_and_executed() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options { removable: true, sanitize: true, ..Options::default() };
    let (unit, _) = journaled(directory.path(), options);
    for cdb in all_commands() {
        let parsed = !matches!(Cdb::parse(&cdb), Cdb::Other { .. });
        assert_eq!(unit.command(&cdb).is_ok(), parsed, "{cdb:02x?}");
        let refused = illegal(asc::INVALID_COMMAND_OPERATION_CODE);
        let executed = unit.execute(&cdb, &[]) != Outcome::from(refused);
        while unit.sanitize() == Sanitized::Piece {}
        let reported = data(unit.execute(&supported_opcodes(3, cdb[0], 0), &[]));
        let is_target_wide = matches!(Cdb::parse(&cdb), Cdb::ReportLuns { .. });
        assert_eq!(parsed && !executed, is_target_wide, "{cdb:02x?}");
        assert!(reported[1] == 3 || reported[1] == 1);
    }
}

#[test]
fn every_command_of_the_report_is_described_alone_too() {
    let (unit, _) = unit_with(Options { removable: true, sanitize: true, ..Options::default() });
    let all = data(unit.execute(&supported_opcodes(0, 0, 0), &[]));
    assert_eq!(all.len(), 4 + u32::from_be_bytes(*all.first_chunk().unwrap()) as usize);
    let mut codes = Vec::new();
    for entry in all[4..].chunks_exact(8) {
        let (opcode, action, has_action) = (entry[0], entry[3], entry[5] & 1 != 0);
        codes.push((opcode, action));
        let wanted = if has_action { 2 } else { 1 };
        let action = u16::from(action);
        let one = data(unit.execute(&supported_opcodes(wanted, opcode, action), &[]));
        assert_eq!((one[1], one[3], one[4]), (3, entry[7], opcode));
        let size = CdbSize::of_opcode(opcode).unwrap();
        assert_eq!(one.len(), 4 + size.control_byte() + 1, "{opcode:02x}");
        assert_eq!(data(unit.execute(&supported_opcodes(3, opcode, action), &[])), one);
        let other = sense(unit.execute(&supported_opcodes(3 - wanted, opcode, action), &[]));
        assert_eq!(other, invalid_field(2, Some(2)));
        if has_action {
            assert_eq!(u16::from(one[5] & 0x1f), action);
        }
    }
    assert!(codes.is_sorted() && codes.contains(&(0x9e, 0x12)) && codes.contains(&(0x42, 0)));
    let none = data(unit.execute(&supported_opcodes(1, 0x04, 0), &[]));
    assert_eq!(none, [0, 1, 0, 0]);
    let none = data(unit.execute(&supported_opcodes(2, 0x9e, 0x1f), &[]));
    assert_eq!(none, [0, 1, 0, 0]);
    assert_eq!(sense(unit.execute(&supported_opcodes(4, 0, 0), &[])), invalid_field(2, Some(2)));
    let mut with_timeouts = supported_opcodes(0, 0, 0);
    with_timeouts[2] |= 0x80;
    let timed = data(unit.execute(&with_timeouts, &[]));
    assert_eq!(timed.len(), 4 + codes.len() * 20);
    assert!(timed[4..].chunks_exact(20).all(|entry| entry[5] & 2 != 0 && entry[9] == 10));
}

#[test]
fn unknown_service_actions_point_at_their_field() {
    let (unit, _) = unit();
    let mut cdb = [0; 16];
    (cdb[0], cdb[1]) = (0x9e, 0x13);
    assert_eq!(sense(unit.execute(&cdb, &[])), invalid_field(1, Some(4)));
}

#[test]
fn task_management_functions_in_both_forms() {
    let (unit, _) = unit();
    let ask = |extended, allocation| {
        let cdb = Cdb::ReportSupportedTaskManagementFunctions { extended, allocation };
        unit.execute(&cdb.emit(), &[])
    };
    let short = data(ask(false, 255));
    assert_eq!((short.len(), short[3], short[0] & 0x88), (4, 0, 0x88));
    let long = data(ask(true, 255));
    assert_eq!((long.len(), long[3], long[0]), (16, 12, short[0]));
    assert_eq!(sense(ask(false, 3)), invalid_field(6, None));
}

#[test]
fn compare_and_write_does_both_or_nothing() {
    let (unit, store) = unit();
    unit.execute(&write(4, 2, false), &[7; 1024]);
    let cdb = |blocks| {
        let flags = TransferFlags { fua: true, ..TransferFlags::default() };
        Cdb::CompareAndWrite { lba: 4, blocks, flags }.emit()
    };
    assert!(is_alone(&cdb(1)) && !is_alone(&read(0, 1)) && !is_alone(&write(0, 1, false)));
    assert_eq!(unit.data_out_bytes(&cdb(2)), 2048);
    let mut both = [[7; 1024], [9; 1024]].concat();
    both[700] = 8;
    let miscompare = sense(unit.execute(&cdb(2), &both));
    assert_eq!((miscompare.key, miscompare.information), (SenseKey::Miscompare, Some(700)));
    assert_eq!(store.contents()[2048..3072], [7; 1024]);
    both[700] = 7;
    assert_eq!(unit.execute(&cdb(2), &both), Outcome::Good);
    store.lose_cache(|| false);
    assert_eq!(store.contents()[2048..3072], [9; 1024]);
    assert_eq!(sense(unit.execute(&cdb(1), &both)), invalid_field(13, None));
    assert_eq!(sense(unit.execute(&cdb(2), &both[..1024])), invalid_field(13, None));
    assert_eq!(unit.execute(&cdb(0), &[]), Outcome::Good);
}

/// A unit whose store has its journal in this directory.
fn journaled(directory: &Path, options: Options) -> (LogicalUnit, Arc<Journaled<MemoryStore>>) {
    let store = MemoryStore::with_volatile_cache(BLOCKS * 512);
    let store = Arc::new(Journaled::open(store, &directory.join("journal")).unwrap());
    (LogicalUnit::new(store.clone(), NAME, b"disk", options).unwrap(), store)
}

#[test]
fn write_atomic_is_known_where_there_is_a_journal() {
    let cdb = |boundary, blocks| {
        let flags = TransferFlags::default();
        Cdb::WriteAtomic { lba: 4, boundary, blocks, flags }.emit()
    };
    let (unit, _) = unit();
    assert_eq!(
        sense(unit.execute(&cdb(0, 1), &[7; 512])).code(),
        asc::INVALID_COMMAND_OPERATION_CODE
    );
    let directory = tempfile::tempdir().unwrap();
    let (unit, store) = journaled(directory.path(), Options::default());
    assert!(is_alone(&cdb(0, 1)) && is_exact(&cdb(0, 1)));
    assert_eq!(unit.data_out_bytes(&cdb(0, 2)), 1024);
    assert_eq!(unit.execute(&cdb(0, 2), &[7; 1024]), Outcome::Good);
    let mut written = [0; 1024];
    store.read_at(&mut written, 2048).unwrap();
    assert_eq!(written, [7; 1024]);
    assert_eq!(unit.execute(&cdb(0, 0), &[]), Outcome::Good);
    assert_eq!(sense(unit.execute(&cdb(1, 1), &[7; 512])), invalid_field(10, None));
    assert_eq!(sense(unit.execute(&cdb(0, 2), &[7; 512])), invalid_field(12, None));
    let flags = TransferFlags::default();
    let outside = Cdb::WriteAtomic { lba: BLOCKS, boundary: 0, blocks: 1, flags }.emit();
    let code = sense(unit.execute(&outside, &[7; 512])).code();
    assert_eq!(code, asc::LBA_OUT_OF_RANGE);
}

#[test]
fn orwrite_adds_bits() {
    let (unit, store) = unit();
    unit.execute(&write(4, 1, false), &[0x0f; 512]);
    let cdb = Cdb::OrWrite { lba: 4, blocks: 2, flags: TransferFlags::default() }.emit();
    assert_eq!(unit.data_out_bytes(&cdb), 1024);
    assert_eq!(unit.execute(&cdb, &[0x50; 1024]), Outcome::Good);
    assert_eq!(store.contents()[2048..2560], [0x5f; 512]);
    assert_eq!(store.contents()[2560..3072], [0x50; 512]);
}

#[test]
fn write_and_verify_is_stable_when_it_is_answered() {
    let (unit, store) = unit();
    let cdb = |byte_check| {
        let (size, flags) = (CdbSize::Twelve, TransferFlags::default());
        Cdb::WriteAndVerify { size, lba: 4, blocks: 1, flags, byte_check }.emit()
    };
    for byte_check in [0, 1] {
        let block = [byte_check + 1; 512];
        assert_eq!(unit.data_out_bytes(&cdb(byte_check)), 512);
        assert_eq!(unit.execute(&cdb(byte_check), &block), Outcome::Good);
        store.lose_cache(|| false);
        assert_eq!(store.contents()[2048..2560], block);
    }
    assert_eq!(sense(unit.execute(&cdb(2), &[3; 512])), invalid_field(1, Some(2)));
    assert_eq!(sense(unit.execute(&cdb(3), &[3; 512])), invalid_field(1, Some(2)));
    assert_eq!(store.contents()[2048..2560], [2; 512]);
}

#[test]
fn verify_compares_one_block_with_many() {
    let (unit, _) = unit();
    let mut block = [7; 512];
    block[3] = 1;
    unit.execute(&write(3, 3, false), &block.repeat(3));
    let cdb = |blocks| {
        let (size, flags) = (CdbSize::Ten, TransferFlags::default());
        Cdb::Verify { size, lba: 3, blocks, flags, byte_check: 3 }.emit()
    };
    assert_eq!((unit.data_out_bytes(&cdb(3)), unit.data_out_bytes(&cdb(0))), (512, 0));
    assert_eq!(unit.execute(&cdb(3), &block), Outcome::Good);
    let miscompare = sense(unit.execute(&cdb(4), &block));
    assert_eq!((miscompare.key, miscompare.information), (SenseKey::Miscompare, Some(1536)));
    assert_eq!(sense(unit.execute(&cdb(3), &[7; 511])).code(), asc::INVALID_FIELD_IN_CDB);
    assert_eq!(unit.execute(&cdb(0), &[]), Outcome::Good);
}

#[test]
fn pre_fetch_reaches_the_store() {
    let (unit, store) = unit();
    for (size, lba, blocks) in [(CdbSize::Ten, 0, 8), (CdbSize::Sixteen, BLOCKS - 1, 0)] {
        let cdb = Cdb::PreFetch { size, lba, blocks, immediate: false }.emit();
        assert_eq!(unit.execute(&cdb, &[]), Outcome::Good);
    }
    assert_eq!(store.prefetches(), 2);
    let cdb = Cdb::PreFetch { size: CdbSize::Ten, lba: BLOCKS, blocks: 1, immediate: true };
    assert_eq!(sense(unit.execute(&cdb.emit(), &[])).code(), asc::LBA_OUT_OF_RANGE);
}

#[test]
fn lba_status_tells_what_was_freed() {
    let (unit, _) = unit();
    unit.execute(&write(8, 8, false), &[1; 4096]);
    let list = emit_unmap(&UnmapDescriptor { lba: 10, blocks: 2 });
    unit.execute(&Cdb::Unmap { anchor: false, parameter_bytes: 24 }.emit(), &list);
    let ask = |lba, allocation| unit.execute(&Cdb::GetLbaStatus { lba, allocation }.emit(), &[]);
    let answer = data(ask(9, 255));
    assert_eq!(answer[..8], [0, 0, 0, 4 + 4 * 16, 0, 0, 0, 0]);
    let ranges: Vec<(u8, u8, u8)> =
        answer[8..].chunks_exact(16).map(|range| (range[7], range[11], range[12])).collect();
    assert_eq!(ranges, [(9, 1, 0), (10, 2, 1), (12, 4, 0), (16, 0xf0, 1)]);
    assert_eq!(data(ask(9, 24)).len(), 24);
    assert_eq!(data(ask(9, 24))[3], 4 + 16);
    assert_eq!(data(ask(0, 4)), [0, 0, 0, 20]);
    assert_eq!(sense(ask(BLOCKS, 24)).code(), asc::LBA_OUT_OF_RANGE);
    assert_eq!(sense(ask(u64::MAX, 24)).code(), asc::LBA_OUT_OF_RANGE);
}

#[test]
fn lba_status_of_blocks_that_are_larger_than_what_is_freed() {
    let store = Arc::new(MemoryStore::new(8 * 4096));
    let options =
        Options { logical_block_bytes: 4096, physical_block_bytes: 4096, ..Options::default() };
    let unit = LogicalUnit::new(store.clone(), NAME, b"disk", options).unwrap();
    store.write_at(&[1; 512], 4096 + 1024).unwrap();
    let answer = data(unit.execute(&Cdb::GetLbaStatus { lba: 0, allocation: 255 }.emit(), &[]));
    let ranges: Vec<(u8, u8, u8)> =
        answer[8..].chunks_exact(16).map(|range| (range[7], range[11], range[12])).collect();
    assert_eq!(ranges, [(0, 1, 1), (1, 1, 0), (2, 6, 1)]);
}

#[test]
fn there_are_no_defects() {
    let (unit, _) = unit();
    for (size, length) in [(CdbSize::Ten, 4), (CdbSize::Twelve, 8)] {
        let (primary, grown, format) = (true, true, 5);
        let cdb = Cdb::ReadDefectData { size, primary, grown, format, index: 0, allocation: 252 };
        let answer = data(unit.execute(&cdb.emit(), &[]));
        assert_eq!((answer.len(), answer[1]), (length, 0x1d));
        assert!(answer[2..].iter().all(|byte| *byte == 0));
    }
}

fn mode_select(pages: &[u8]) -> ([u8; 16], Vec<u8>) {
    let list = [&[0; 4], pages].concat();
    let (size, parameter_bytes) = (CdbSize::Six, list.len() as u16);
    (Cdb::ModeSelect { size, page_format: true, save: false, parameter_bytes }.emit(), list)
}

#[test]
fn without_a_write_cache_every_change_is_stable() {
    let (unit, store) = unit();
    unit.execute(&write(0, 1, false), &[1; 512]);
    let off = CachingPage { write_cache: false, read_cache_disabled: false };
    let (cdb, list) = mode_select(&off.emit());
    assert!(is_alone(&cdb));
    assert_eq!(unit.data_out_bytes(&cdb), list.len() as u64);
    assert_eq!(unit.execute(&cdb, &list), Outcome::Good);
    store.lose_cache(|| false);
    assert_eq!(store.contents()[0], 1);
    unit.execute(&write(1, 1, false), &[2; 512]);
    unit.execute(&write_same(2, 1, false, false), &[3; 512]);
    let list = emit_unmap(&UnmapDescriptor { lba: 0, blocks: 1 });
    unit.execute(&Cdb::Unmap { anchor: false, parameter_bytes: 24 }.emit(), &list);
    store.lose_cache(|| false);
    let contents = store.contents();
    assert_eq!((contents[0], contents[512], contents[1024]), (0, 2, 3));
    unit.reset();
    let flushes = store.flushes();
    unit.execute(&write(1, 1, false), &[2; 512]);
    assert_eq!(store.flushes(), flushes);
}

#[test]
fn the_control_page_protects_from_writing_and_chooses_the_format_of_sense() {
    let (unit, _) = unit();
    let control = ControlPage {
        descriptor_sense: true,
        queue_algorithm: 1,
        software_write_protect: true,
        task_aborted_status: true,
        busy_timeout: u16::MAX,
    };
    let (cdb, list) = mode_select(&control.emit());
    assert_eq!(unit.execute(&cdb, &list), Outcome::Good);
    assert!(unit.descriptor_sense());
    let refused = sense(unit.execute(&write(0, 1, false), &[1; 512]));
    let code = asc::LOGICAL_UNIT_SOFTWARE_WRITE_PROTECTED;
    assert_eq!(refused, Sense::new(SenseKey::DataProtect, code));
    let mode = data(unit.execute(&[0x1a, 0, 0x3f, 0, 255, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[]));
    let mode = ModeParameters::parse(&mode, CdbSize::Six).unwrap();
    assert_eq!((mode.write_protected, mode.control), (true, Some(control)));
    unit.reset();
    assert!(!unit.descriptor_sense());
    assert_eq!(unit.execute(&write(0, 1, false), &[1; 512]), Outcome::Good);
}

#[test]
fn mode_select_changes_all_or_nothing() {
    let (unit, _) = unit();
    let off = CachingPage { write_cache: false, read_cache_disabled: false };
    let fixed = CachingPage { write_cache: false, read_cache_disabled: true };
    let unknown = [0x1d, 2, 0, 0];
    let short = [0x08, 2, 0, 0];
    for (pages, byte) in [
        ([&off.emit()[..], &fixed.emit()].concat(), 4 + 20 + 2),
        ([&off.emit()[..], &unknown].concat(), 4 + 20),
        (short.to_vec(), 4 + 1),
    ] {
        let (cdb, list) = mode_select(&pages);
        assert_eq!(sense(unit.execute(&cdb, &list)), invalid_parameter(byte));
    }
    let (cdb, list) = mode_select(&off.emit());
    for cut in 1..list.len() {
        let cut = sense(unit.execute(&cdb, &list[..cut]));
        assert_eq!(cut.code(), asc::PARAMETER_LIST_LENGTH_ERROR);
    }
    let mut saving = cdb;
    saving[1] |= 0x01;
    assert_eq!(sense(unit.execute(&saving, &list)), invalid_field(1, Some(0)));
    let mut vendor = cdb;
    vendor[1] = 0;
    assert_eq!(sense(unit.execute(&vendor, &list)), invalid_field(1, Some(4)));
    let other_size = [&[0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0x10, 0], &off.emit()[..]].concat();
    let mut with_descriptor = cdb;
    with_descriptor[4] = other_size.len() as u8;
    assert_eq!(sense(unit.execute(&with_descriptor, &other_size)), invalid_parameter(4));
    assert!(unit.modes.write_cache());
}

#[test]
fn the_self_test_is_the_only_diagnostic() {
    let (unit, _) = unit();
    let ask = |self_test_code, page_format, self_test, parameter_bytes| {
        let cdb = Cdb::SendDiagnostic { self_test_code, page_format, self_test, parameter_bytes };
        unit.execute(&cdb.emit(), &[])
    };
    assert_eq!(ask(0, false, true, 0), Outcome::Good);
    assert_eq!(ask(0, false, false, 0), Outcome::Good);
    assert_eq!(sense(ask(1, false, false, 0)), invalid_field(1, Some(7)));
    assert_eq!(sense(ask(0, true, false, 4)), invalid_field(3, None));
}

#[test]
fn a_medium_that_is_ejected_is_not_there_until_it_is_loaded() {
    let start_stop = |load_eject, start| {
        let (immediate, power_condition, no_flush) = (false, 0, false);
        Cdb::StartStopUnit { immediate, power_condition, no_flush, load_eject, start }.emit()
    };
    let (fixed, _) = unit();
    assert_eq!(sense(fixed.execute(&start_stop(true, false), &[])), invalid_field(4, Some(1)));
    let (unit, store) = unit_with(Options { removable: true, ..Options::default() });
    let inquiry = Cdb::Inquiry { evpd: false, page: 0, allocation: 36 }.emit();
    assert!(StandardInquiry::parse(&data(unit.execute(&inquiry, &[]))).unwrap().removable);
    unit.execute(&write(0, 1, false), &[1; 512]);
    assert_eq!(unit.execute(&start_stop(true, false), &[]), Outcome::Good);
    store.lose_cache(|| false);
    assert_eq!(store.contents()[0], 1);
    let absent = Sense::new(SenseKey::NotReady, asc::MEDIUM_NOT_PRESENT);
    for (cdb, block) in [
        (Cdb::TestUnitReady.emit(), &[][..]),
        (Cdb::ReadCapacity10.emit(), &[]),
        (read(0, 1), &[]),
        (write(0, 1, false), &[2; 512]),
        (write_same(0, 1, true, true), &[]),
    ] {
        assert_eq!(sense(unit.execute(&cdb, block)), absent);
    }
    assert_eq!(data(unit.execute(&inquiry, &[])).len(), 36);
    let mut power_condition = start_stop(true, true);
    power_condition[4] |= 0x10;
    assert_eq!(unit.execute(&power_condition, &[]), Outcome::Good);
    assert_eq!(unit.execute(&start_stop(false, true), &[]), Outcome::Good);
    assert_eq!(sense(unit.execute(&Cdb::TestUnitReady.emit(), &[])), absent);
    assert_eq!(unit.execute(&start_stop(true, true), &[]), Outcome::Good);
    assert_eq!(unit.execute(&Cdb::TestUnitReady.emit(), &[]), Outcome::Good);
    assert_eq!(store.contents()[..512], [1; 512]);
}
