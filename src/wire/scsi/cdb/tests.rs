//! Each command as the standards draw it, both ways.

use super::*;

/// Pads a short CDB as iSCSI does.
fn padded(bytes: &[u8]) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[..bytes.len()].copy_from_slice(bytes);
    cdb
}

fn check(bytes: &[u8], cdb: Cdb) {
    assert_eq!(Cdb::parse(&padded(bytes)), cdb);
    assert_eq!(cdb.emit(), padded(bytes));
}

#[test]
fn small_commands() {
    check(&[0, 0, 0, 0, 0, 0], Cdb::TestUnitReady);
    check(&[0x03, 1, 0, 0, 252, 0], Cdb::RequestSense { descriptor: true, allocation: 252 });
    check(
        &[0x12, 1, 0x83, 0x01, 0x04, 0],
        Cdb::Inquiry { evpd: true, page: 0x83, allocation: 260 },
    );
    check(
        &[0x1b, 1, 0, 0, 0x37, 0],
        Cdb::StartStopUnit {
            immediate: true,
            power_condition: 3,
            no_flush: true,
            load_eject: true,
            start: true,
        },
    );
    check(&[0x1e, 0, 0, 0, 0x03, 0], Cdb::PreventAllowMediumRemoval { prevent: 3 });
    check(&[0x25], Cdb::ReadCapacity10);
    check(
        &[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0],
        Cdb::ReadCapacity16 { allocation: 32 },
    );
    check(
        &[0xa0, 0, 2, 0, 0, 0, 0, 0, 0x10, 0x00, 0, 0],
        Cdb::ReportLuns { select: 2, allocation: 4096 },
    );
    check(&[0x42, 1, 0, 0, 0, 0, 0, 0, 24, 0], Cdb::Unmap { anchor: true, parameter_bytes: 24 });
    let (immediate, unrestricted) = (true, true);
    check(
        &[0x48, 0xa1, 0, 0, 0, 0, 0, 0x02, 0x04, 0],
        Cdb::Sanitize { action: 1, immediate, unrestricted, parameter_bytes: 516 },
    );
    check(&[0x48, 0x04], Cdb::Other { opcode: 0x48, service_action: 4 });
}

#[test]
fn mode_sense_both_sizes() {
    let six = Cdb::ModeSense {
        size: CdbSize::Six,
        no_block_descriptors: true,
        long_lba: false,
        page_control: 1,
        page: 0x08,
        subpage: 0,
        allocation: 192,
    };
    check(&[0x1a, 0x08, 0x48, 0, 192, 0], six);
    let ten = Cdb::ModeSense {
        size: CdbSize::Ten,
        no_block_descriptors: false,
        long_lba: true,
        page_control: 0,
        page: 0x3f,
        subpage: 0xff,
        allocation: 0x1234,
    };
    check(&[0x5a, 0x10, 0x3f, 0xff, 0, 0, 0, 0x12, 0x34, 0], ten);
}

#[test]
fn reads_and_writes_of_each_size() {
    let none = TransferFlags::default();
    let flags = TransferFlags { protect: 1, dpo: true, fua: true };
    let (six, ten) = (CdbSize::Six, CdbSize::Ten);
    let (twelve, sixteen) = (CdbSize::Twelve, CdbSize::Sixteen);
    check(
        &[0x08, 0x1f, 0xff, 0xfe, 0, 0],
        Cdb::Read { size: six, lba: 0x1f_fffe, blocks: 256, flags: none },
    );
    check(&[0x0a, 0, 0, 9, 7, 0], Cdb::Write { size: six, lba: 9, blocks: 7, flags: none });
    check(
        &[0x28, 0x38, 0x12, 0x34, 0x56, 0x78, 0, 0xab, 0xcd, 0],
        Cdb::Read { size: ten, lba: 0x1234_5678, blocks: 0xabcd, flags },
    );
    check(
        &[0x2a, 0x08, 0, 0, 0, 1, 0, 0, 8, 0],
        Cdb::Write { size: ten, lba: 1, blocks: 8, flags: TransferFlags { fua: true, ..none } },
    );
    check(
        &[0xa8, 0, 0, 0, 0, 2, 0, 1, 0, 0, 0, 0],
        Cdb::Read { size: twelve, lba: 2, blocks: 0x1_0000, flags: none },
    );
    check(
        &[0xaa, 0, 0, 0, 0, 2, 0, 1, 0, 0, 0, 0],
        Cdb::Write { size: twelve, lba: 2, blocks: 0x1_0000, flags: none },
    );
    check(
        &[0x88, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 1, 0, 0],
        Cdb::Read { size: sixteen, lba: 0x0102_0304_0506_0708, blocks: 1, flags: none },
    );
    check(
        &[0x8a, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0xff, 0xff, 0xff, 0xff, 0, 0],
        Cdb::Write { size: sixteen, lba: 0x0102_0304_0506_0708, blocks: u32::MAX, flags: none },
    );
}

#[test]
fn verify_synchronize_and_write_same() {
    let (ten, sixteen) = (CdbSize::Ten, CdbSize::Sixteen);
    let flags = TransferFlags { protect: 0, dpo: true, fua: false };
    check(
        &[0x2f, 0x12, 0, 0, 0, 5, 0, 0, 1, 0],
        Cdb::Verify { size: ten, lba: 5, blocks: 1, flags, byte_check: 1 },
    );
    check(
        &[0x8f, 0x06, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0],
        Cdb::Verify {
            size: sixteen,
            lba: 5,
            blocks: 1,
            flags: TransferFlags::default(),
            byte_check: 3,
        },
    );
    check(
        &[0x35, 0x02, 0, 0, 0, 5, 0, 0, 1, 0],
        Cdb::SynchronizeCache { size: ten, lba: 5, blocks: 1, immediate: true },
    );
    check(
        &[0x91, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        Cdb::SynchronizeCache { size: sixteen, lba: 0, blocks: 0, immediate: false },
    );
    let unmap = ProvisioningFlags { unmap: true, ..ProvisioningFlags::default() };
    check(
        &[0x41, 0x08, 0, 0, 0, 5, 0, 0, 1, 0],
        Cdb::WriteSame { size: ten, lba: 5, blocks: 1, flags: unmap },
    );
    check(
        &[0x93, 0x09, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0],
        Cdb::WriteSame {
            size: sixteen,
            lba: 5,
            blocks: 1,
            flags: ProvisioningFlags { no_data: true, ..unmap },
        },
    );
}

#[test]
fn commands_that_compare_or_combine() {
    let dpo = TransferFlags { protect: 0, dpo: true, fua: false };
    let fua = TransferFlags { protect: 0, dpo: false, fua: true };
    let (lba, blocks) = (5, 1);
    let (ten, twelve, sixteen) = (CdbSize::Ten, CdbSize::Twelve, CdbSize::Sixteen);
    check(
        &[0x2e, 0x12, 0, 0, 0, 5, 0, 0, 1, 0],
        Cdb::WriteAndVerify { size: ten, lba, blocks, flags: dpo, byte_check: 1 },
    );
    check(
        &[0xae, 0x10, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0],
        Cdb::WriteAndVerify { size: twelve, lba, blocks, flags: dpo, byte_check: 0 },
    );
    check(
        &[0x8e, 0x10, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0],
        Cdb::WriteAndVerify { size: sixteen, lba, blocks, flags: dpo, byte_check: 0 },
    );
    check(
        &[0x89, 0x08, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 7, 0, 0],
        Cdb::CompareAndWrite { lba, blocks: 7, flags: fua },
    );
    check(
        &[0x9c, 0x08, 0, 0, 0, 0, 0, 0, 0, 5, 0x01, 0x02, 0x03, 0x04, 0, 0],
        Cdb::WriteAtomic { lba, boundary: 0x102, blocks: 0x304, flags: fua },
    );
    check(
        &[0x8b, 0x08, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0],
        Cdb::OrWrite { lba, blocks, flags: fua },
    );
    check(
        &[0x34, 0x02, 0, 0, 0, 5, 0, 0, 1, 0],
        Cdb::PreFetch { size: ten, lba, blocks, immediate: true },
    );
    check(
        &[0x90, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0],
        Cdb::PreFetch { size: sixteen, lba, blocks, immediate: false },
    );
}

#[test]
fn mode_select_and_diagnostic() {
    let (page_format, parameter_bytes) = (true, 24);
    check(
        &[0x15, 0x11, 0, 0, 24, 0],
        Cdb::ModeSelect { size: CdbSize::Six, page_format, save: true, parameter_bytes },
    );
    check(
        &[0x55, 0x10, 0, 0, 0, 0, 0, 0x01, 0x18, 0],
        Cdb::ModeSelect { size: CdbSize::Ten, page_format, save: false, parameter_bytes: 280 },
    );
    check(
        &[0x1d, 0x34, 0, 0, 24, 0],
        Cdb::SendDiagnostic { self_test_code: 1, page_format, self_test: true, parameter_bytes },
    );
}

#[test]
fn lists_and_states() {
    check(
        &[0x9e, 0x12, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0x01, 0x00, 0, 0],
        Cdb::GetLbaStatus { lba: 5, allocation: 256 },
    );
    let (primary, grown, format) = (true, false, 5);
    check(
        &[0x37, 0, 0x15, 0, 0, 0, 0, 0x01, 0x00, 0],
        Cdb::ReadDefectData {
            size: CdbSize::Ten,
            primary,
            grown,
            format,
            index: 0,
            allocation: 256,
        },
    );
    check(
        &[0xb7, 0x15, 0, 0, 0, 9, 0, 1, 0, 0, 0, 0],
        Cdb::ReadDefectData {
            size: CdbSize::Twelve,
            primary,
            grown,
            format,
            index: 9,
            allocation: 0x1_0000,
        },
    );
    check(
        &[0xa3, 0x0c, 0x83, 0x9e, 0, 0x10, 0, 0, 0x02, 0, 0, 0],
        Cdb::ReportSupportedOperationCodes {
            timeouts: true,
            options: 3,
            opcode: 0x9e,
            service_action: 0x10,
            allocation: 512,
        },
    );
    check(
        &[0xa3, 0x0d, 0x80, 0, 0, 0, 0, 0, 0, 16, 0, 0],
        Cdb::ReportSupportedTaskManagementFunctions { extended: true, allocation: 16 },
    );
}

#[test]
fn reservations() {
    let (third_party, extent) = (false, true);
    check(&[0x16, 0x01], Cdb::Reserve { size: CdbSize::Six, third_party, extent });
    check(&[0x57, 0x01], Cdb::Release { size: CdbSize::Ten, third_party, extent });
    let (third_party, extent) = (true, false);
    check(&[0x56, 0x10], Cdb::Reserve { size: CdbSize::Ten, third_party, extent });
    check(&[0x17, 0x10], Cdb::Release { size: CdbSize::Six, third_party, extent });
    check(
        &[0x5e, 0x03, 0, 0, 0, 0, 0, 0x01, 0x02, 0],
        Cdb::PersistentReserveIn { action: 3, allocation: 0x0102 },
    );
    check(
        &[0x5f, 0x04, 0x16, 0, 0, 0x01, 0x02, 0x03, 0x04, 0],
        Cdb::PersistentReserveOut { action: 4, scope: 1, kind: 6, parameter_bytes: 0x0102_0304 },
    );
}

#[test]
fn unknown_commands_keep_their_number() {
    check(&[0xa3, 0x1f], Cdb::Other { opcode: 0xa3, service_action: 0x1f });
    check(&[0x9e, 0x13], Cdb::Other { opcode: 0x9e, service_action: 0x13 });
    check(&[0xc1, 0x03], Cdb::Other { opcode: 0xc1, service_action: 0x03 });
}

#[test]
fn whatever_parses_emits_to_something_that_parses_the_same() {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for round in 0..100_000_u32 {
        let mut cdb = [0; 16];
        for byte in &mut cdb {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *byte = (state >> 32) as u8;
        }
        cdb[0] = round as u8;
        let mut parsed = Cdb::parse(&cdb);
        // Bits that newer standards took away are noticed and never sent.
        if let Cdb::WriteSame { flags, .. } = &mut parsed {
            flags.obsolete = false;
        }
        assert_eq!(Cdb::parse(&parsed.emit()), parsed);
    }
}

#[test]
fn smallest_form_that_reaches() {
    assert_eq!(CdbSize::reaching(0xffff_ffff, 0xffff), CdbSize::Ten);
    assert_eq!(CdbSize::reaching(0, 0x1_0000), CdbSize::Twelve);
    assert_eq!(CdbSize::reaching(0x1_0000_0000, 1), CdbSize::Sixteen);
}
