//! The commands of a disk, executed against a store in memory.

use super::*;
use crate::store::memory::MemoryStore;
use crate::wire::scsi::{
    BlockDescriptor, BlockLimits, CachingPage, Capacity10, Capacity16, DesignatorKind,
    LogicalBlockProvisioning, ModeParameters, StandardInquiry, UnmapDescriptor, emit_unmap,
    parse_device_identification,
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
    assert_eq!(changeable.caching, Some(CachingPage::default()));
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
    assert_eq!(data(ask(true, 0x00, 255)), [0, 0, 0, 6, 0, 0x80, 0x83, 0xb0, 0xb1, 0xb2]);
    let limits = BlockLimits::parse(&data(ask(true, 0xb0, 255))).unwrap();
    assert_eq!((limits.transfer_max, limits.transfer_granularity), (16384, 8));
    let thin = LogicalBlockProvisioning::parse(&data(ask(true, 0xb2, 255))).unwrap();
    assert!(thin.unmap && thin.reads_zero);
    assert_eq!(sense(ask(true, 0x86, 255)), invalid_field(2, None));
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
    assert_eq!((capacity.physical_exponent, capacity.provisioned), (3, true));
    let large = Options { logical_block_bytes: 4096, ..Options::default() };
    let (unit, _) = unit_with(large);
    let capacity = data(unit.execute(&Cdb::ReadCapacity10.emit(), &[]));
    let expected = Capacity10 { last_lba: (BLOCKS / 8 - 1) as u32, block_bytes: 4096 };
    assert_eq!(Capacity10::parse(&capacity), Ok(expected));
}

#[test]
fn unfit_stores_are_refused_with_what_to_do() {
    let new = |size, logical_block_bytes, physical_block_bytes| {
        let options = Options { logical_block_bytes, physical_block_bytes, read_only: false };
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
    for opcode in [0x04, 0x15, 0x5f, 0x83, 0xa3, 0xff] {
        let mut cdb = [0; 16];
        cdb[0] = opcode;
        assert_eq!(sense(unit.execute(&cdb, &[])), refused);
    }
}

#[test]
fn random_commands_never_panic() {
    let (unit, _) = unit();
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
    }
}
