//! The list of the UNH InterOperability Laboratory, "Full Feature Phase Test Suite for iSCSI
//! Targets", version 0.1: 82 items, each a test with its number here, or in [`NOT_APPLICABLE`] with
//! the reason.
//!
//! The laboratory's second connection of a session is a second session here, for a session of this
//! target has one connection; where an item asks for an ErrorRecoveryLevel above 0, this target
//! says 0, and the test looks at what the standard wants of it then. Sections are those of
//! RFC 7143.

mod common;

use common::client::*;
use lunboot::proto::target::End;
use lunboot::wire::pdu::*;
use lunboot::wire::scsi::{Cdb, ScsiStatus, asc};
use lunboot::wire::serial::Sn;

/// All items.
const ITEMS: &[&str] = &[
    "1.1", "1.2", "1.3", "2.1", "3.1", "4.1", "5.1", "6.1", "7.1", "7.2", "8.1", "8.2", "9.1",
    "9.2", "9.3.1", "9.3.2", "9.3.3", "9.4", "9.5", "10.1", "11.1", "11.2.1", "11.2.2", "11.2.3",
    "11.3.1", "11.3.2", "11.3.3", "11.4", "11.5", "12.1", "12.2", "12.3", "12.4", "13.1", "13.2",
    "13.3", "14.1", "14.2", "14.3", "15.1.1", "15.1.2", "15.1.3", "15.1.4", "15.1.5", "15.1.6",
    "15.2", "15.3", "16.1", "16.2", "16.3.1", "16.3.2", "16.3.3", "16.3.4", "16.3.5", "16.3.6",
    "16.3.7", "16.4.1", "16.4.2", "16.5", "17.1.1", "17.1.2", "17.2.1", "17.2.2", "17.3.1",
    "17.3.2", "17.3.3", "17.3.4", "17.3.5", "17.4.1", "17.4.2", "17.5", "17.6", "17.7.1", "17.7.2",
    "17.7.3", "17.8.1", "17.8.2", "17.8.3", "18.1.1", "18.2.1", "18.2.2", "19.1",
];

/// Items that cannot be tested with this target, and why.
const NOT_APPLICABLE: &[(&str, &str)] = &[
    (
        "5.1",
        "a retried command: needs ErrorRecoveryLevel 1; at level 0 a command with a damaged data \
         segment is rejected, ends with CHECK CONDITION, and its number is used up",
    ),
    (
        "15.3",
        "a NOP-In that opens a closed window: every answer of this target carries the new \
         MaxCmdSN, so a closed window always has an answer before it that will open it",
    ),
];

#[test]
fn every_item_is_a_test_or_has_a_reason() {
    assert_eq!(ITEMS.len(), 82);
    let source = include_str!("unh_full_feature.rs");
    for item in ITEMS {
        let parts: Vec<String> =
            item.split('.').map(|part| format!("{:02}", part.parse::<u32>().unwrap())).collect();
        let name = format!("\n#[test]\nfn ffp_{}_", parts.join("_"));
        // The longer numbers of a group begin like the shorter ones, but go on with a digit.
        let is_test = source
            .match_indices(&name)
            .any(|(start, _)| !source.as_bytes()[start + name.len()].is_ascii_digit());
        let is_explained = NOT_APPLICABLE.iter().any(|(known, _)| known == item);
        assert!(is_test != is_explained, "{item}: test {is_test}, reason {is_explained}");
    }
}

/// A testing station in the full feature phase, after the three commands that each item begins
/// with.
fn station(keys: &[(&str, &str)]) -> Client {
    station_of(&Disks::new(), keys)
}

fn station_of(disks: &Disks, keys: &[(&str, &str)]) -> Client {
    let mut client = Client::logged_in_to(disks, keys);
    begin(&mut client);
    client
}

fn begin(client: &mut Client) {
    assert_eq!(client.command(&INQUIRY, 36, &[]).0, ScsiStatus::Good);
    assert_eq!(client.command(&Cdb::TestUnitReady, 0, &[]).0, ScsiStatus::Good);
    assert_eq!(client.command(&Cdb::ReadCapacity10, 8, &[]).0, ScsiStatus::Good);
}

const INQUIRY: Cdb = Cdb::Inquiry { evpd: false, page: 0, allocation: 36 };

/// A write by R2T from beginning to end.
fn write_by_r2t(client: &mut Client, lba: u64, data: &[u8]) {
    let pdu = client.start_write(lba, (data.len() / 512) as u32);
    let mut end = 0;
    while end < data.len() {
        let r2t = client.r2t();
        client.answer(&r2t, data);
        end = (r2t.buffer_offset + r2t.desired_bytes) as usize;
    }
    assert_eq!(client.finish(pdu.itt).0, ScsiStatus::Good);
}

/// The Data-In PDUs of a read.
fn data_in(client: &mut Client, lba: u64, bytes: u32) -> Vec<(DataIn, Vec<u8>)> {
    let pdu = client.command_pdu(&read(lba, bytes / 512), bytes, &[], false);
    client.send(&pdu.emit(), &[]);
    collect_data_in(client, pdu.itt)
}

fn collect_data_in(client: &mut Client, itt: Itt) -> Vec<(DataIn, Vec<u8>)> {
    let mut pdus = Vec::new();
    loop {
        match client.receive() {
            (Response::DataIn(pdu), data) => {
                assert_eq!(pdu.itt, itt);
                let last = pdu.status.is_some();
                pdus.push((pdu, data));
                if last {
                    return pdus;
                }
            }
            other => panic!("expected Data-In, got {other:?}"),
        }
    }
}

fn scsi_response(client: &mut Client) -> (ScsiResponse, Vec<u8>) {
    match client.receive() {
        (Response::ScsiResponse(pdu), data) => (pdu, data),
        other => panic!("expected a SCSI Response, got {other:?}"),
    }
}

/// Whether sense data of a CHECK CONDITION says this.
fn assert_check_condition(answer: &(ScsiStatus, Vec<u8>), code: (u8, u8)) {
    assert_eq!(answer.0, ScsiStatus::CheckCondition);
    assert_eq!(sense(&answer.1).code(), code);
}

// Group 1: CmdSN and its window (§4.2.2.1).

#[test]
fn ffp_01_01_the_window_never_ends_before_exp_cmd_sn_less_one() {
    let mut client = station(SOLICITED);
    for lba in 0..10 {
        let pdu = client.start_write(lba, 2);
        let r2t = client.r2t();
        client.answer(&r2t, &pattern(1024));
        let (response, _) = scsi_response(&mut client);
        assert_eq!(response.itt, pdu.itt);
        for sns in [r2t.sns, response.sns] {
            assert!(sns.exp_cmd_sn.is_at_or_before(sns.max_cmd_sn.next()));
            assert_eq!(sns.exp_cmd_sn, client.cmd_sn);
        }
    }
}

#[test]
fn ffp_01_02_a_command_outside_of_the_window_is_ignored() {
    let mut client = station(SOLICITED);
    for lba in 0..10 {
        if lba == 6 {
            for wrong in [client.last.max_cmd_sn.next(), Sn(client.cmd_sn.0 - 1)] {
                let pdu = client.command_pdu(&write(lba, 2), 1024, &[], true);
                client.cmd_sn = pdu.cmd_sn;
                client.send(&ScsiCommand { cmd_sn: wrong, ..pdu }.emit(), &[]);
                client.assert_silent();
            }
        }
        write_by_r2t(&mut client, lba * 2, &pattern(1024));
    }
}

#[test]
fn ffp_01_03_a_duplicate_inside_of_the_window_is_ignored() {
    let mut client = station(SOLICITED);
    for lba in 0..10 {
        write_by_r2t(&mut client, lba * 2, &pattern(1024));
        if lba == 5 {
            let pdu = client.command_pdu(&write(lba, 2), 1024, &[], true);
            client.cmd_sn = pdu.cmd_sn;
            client.send(&ScsiCommand { cmd_sn: Sn(pdu.cmd_sn.0 - 1), ..pdu }.emit(), &[]);
            client.assert_silent();
        }
    }
    // One that waits for a gap to be filled has a duplicate too.
    let missing = client.command_pdu(&Cdb::TestUnitReady, 0, &[], false);
    let early = client.command_pdu(&INQUIRY, 36, &[], false);
    client.send(&early.emit(), &[]);
    client.send(&ScsiCommand { itt: Itt(9999), ..early }.emit(), &[]);
    client.assert_silent();
    client.send(&missing.emit(), &[]);
    assert_eq!(client.finish(missing.itt).0, ScsiStatus::Good);
    assert_eq!(client.finish(early.itt).0, ScsiStatus::Good);
    client.assert_silent();
}

// Groups 2 to 4: StatSN, DataSN, R2TSN (§4.2.2.2, §4.2.2.3).

#[test]
fn ffp_02_01_stat_sn_goes_up_by_one_with_each_status() {
    let mut client = Client::new();
    client.log_in("Normal", SOLICITED);
    let mut expected = client.login.unwrap().sns.stat_sn.next();
    client.command(&Cdb::TestUnitReady, 0, &[]);
    assert_eq!(client.last.stat_sn, expected);
    for cdb in [(INQUIRY, 36), (Cdb::TestUnitReady, 0), (Cdb::ReadCapacity10, 8)] {
        client.command(&cdb.0, cdb.1, &[]);
        expected = expected.next();
        assert_eq!(client.last.stat_sn, expected);
    }
    for lba in 0..10 {
        expected = expected.next();
        let pdu = client.start_write(lba, 2);
        let r2t = client.r2t();
        assert_eq!(r2t.sns.stat_sn, expected, "of the next status");
        client.answer(&r2t, &pattern(1024));
        client.finish(pdu.itt);
        assert_eq!(client.last.stat_sn, expected);
    }
}

#[test]
fn ffp_03_01_data_sn_begins_at_0_for_each_read() {
    let mut client = station(SOLICITED);
    let reads: Vec<ScsiCommand> =
        (0..3).map(|lba| client.command_pdu(&read(lba, 6), 6 * 512, &[], false)).collect();
    for pdu in &reads {
        client.send(&pdu.emit(), &[]);
    }
    for pdu in reads {
        let sns: Vec<u32> =
            collect_data_in(&mut client, pdu.itt).iter().map(|(pdu, _)| pdu.data_sn.0).collect();
        assert_eq!(sns, [0, 1, 2]);
    }
}

#[test]
fn ffp_04_01_r2t_sn_begins_at_0_for_each_write() {
    let mut client = station(&[("MaxBurstLength", "1024"), SOLICITED[1], SOLICITED[2]]);
    for lba in 0..3 {
        let pdu = client.start_write(lba, 8);
        for r2t_sn in 0..4 {
            let r2t = client.r2t();
            assert_eq!((r2t.itt, r2t.r2t_sn), (pdu.itt, Sn(r2t_sn)));
            client.answer(&r2t, &pattern(4096));
        }
        assert_eq!(client.finish(pdu.itt).0, ScsiStatus::Good);
    }
}

// Group 6: connection allegiance (§4.2.4.1).

#[test]
fn ffp_06_01_answers_stay_on_the_connection_of_their_command() {
    let disks = Disks::new();
    let mut stations = [station_of(&disks, SOLICITED), station_of(&disks, SOLICITED)];
    let writes = stations.each_mut().map(|client| {
        let pdu = client.start_write(0, 2);
        (pdu, client.r2t())
    });
    for (client, (pdu, r2t)) in stations.iter_mut().zip(&writes) {
        assert_eq!(r2t.itt, pdu.itt);
        let read = client.command_pdu(&read(8, 2), 1024, &[], false);
        client.send(&read.emit(), &[]);
        collect_data_in(client, read.itt);
        client.answer(r2t, &pattern(1024));
        assert_eq!(client.finish(pdu.itt).0, ScsiStatus::Good);
    }
    for client in &stations {
        client.assert_silent();
    }
}

// Group 7: wrong unsolicited data (§4.2.5.2, §11.4.7.2).

#[test]
fn ffp_07_01_more_data_than_an_r2t_asked_for_fails_the_command() {
    let mut client = station(SOLICITED);
    let pdu = client.start_write(0, 2);
    let r2t = client.r2t();
    client.data_out(pdu.itt, r2t.ttt, 0, 0, &[1; 2048], true);
    assert_eq!(client.finish(pdu.itt).0, ScsiStatus::CheckCondition);
    assert_eq!(client.store.contents()[..2048], [0; 2048]);
}

#[test]
fn ffp_07_02_more_unsolicited_data_than_first_burst_length_fails_the_command() {
    let keys = [("ImmediateData", "No"), ("InitialR2T", "No"), ("FirstBurstLength", "512")];
    let mut client = station(&keys);
    let pdu = client.command_pdu(&write(0, 4), 2048, &[], true);
    client.send(&ScsiCommand { final_pdu: false, ..pdu }.emit(), &[]);
    client.data_out(pdu.itt, Ttt::RESERVED, 0, 0, &[1; 1024], true);
    assert_eq!(client.finish(pdu.itt).0, ScsiStatus::CheckCondition);
    assert_eq!(client.store.contents()[..2048], [0; 2048]);
}

// Group 8: the target transfer tag (§11.7.4, §11.8.5).

#[test]
fn ffp_08_01_an_r2t_has_a_tag_and_the_lun_of_its_command() {
    let mut client = station(&[("InitialR2T", "No"), ("ImmediateData", "No")]);
    for lun in [lun_field(0), lun_field(1)] {
        let pdu = client.command_pdu(&write(0, 2), 1024, &[], true);
        let pdu = ScsiCommand { lun, ..pdu };
        client.send(&pdu.emit(), &[]);
        let r2t = client.r2t();
        assert_ne!(r2t.ttt, Ttt::RESERVED);
        assert_eq!((r2t.lun, r2t.itt), (lun, pdu.itt));
    }
}

#[test]
fn ffp_08_02_data_in_without_the_a_bit_has_neither_tag_nor_lun() {
    let mut client = station(&[("InitialR2T", "No"), ("ImmediateData", "No")]);
    for (pdu, _) in data_in(&mut client, 0, 65536) {
        assert!(!pdu.acknowledge);
        assert_eq!((pdu.ttt, pdu.lun), (Ttt::RESERVED, 0));
    }
}

// Group 9: Data-In (§11.7).

#[test]
fn ffp_09_01_status_comes_with_the_last_data_and_only_if_it_is_good() {
    let mut client = station(&[]);
    let pdus = data_in(&mut client, 0, 65536);
    for (index, (pdu, _)) in pdus.iter().enumerate() {
        let last = index + 1 == pdus.len();
        assert_eq!(pdu.status, last.then_some(ScsiStatus::Good.code()));
        assert!(!last || pdu.final_pdu);
    }
    let pdu = client.command_pdu(&read(DISK_BYTES / 512, 1), 512, &[], false);
    client.send(&pdu.emit(), &[]);
    assert_eq!(scsi_response(&mut client).0.status, ScsiStatus::CheckCondition.code());
}

#[test]
fn ffp_09_02_the_f_bit_ends_each_sequence() {
    let mut client = station(&[("MaxBurstLength", "16384")]);
    let pdus = data_in(&mut client, 0, 65536);
    let ends: Vec<u32> = pdus
        .iter()
        .filter(|(pdu, _)| pdu.final_pdu)
        .map(|(pdu, data)| pdu.buffer_offset + data.len() as u32)
        .collect();
    assert_eq!(ends, [16384, 32768, 49152, 65536]);
}

#[test]
fn ffp_09_03_01_no_segment_is_longer_than_the_initiator_takes() {
    let mut client = station(&[("MaxRecvDataSegmentLength", "512")]);
    let pdus = data_in(&mut client, 0, 4096);
    assert_eq!(pdus.len(), 8);
    assert!(pdus.iter().all(|(_, data)| data.len() <= 512));
}

#[test]
fn ffp_09_03_02_a_data_out_without_data_is_no_error() {
    let mut client = station(SOLICITED);
    let pdu = client.start_write(0, 2);
    let r2t = client.r2t();
    client.data_out(pdu.itt, r2t.ttt, 0, 0, &[], false);
    client.assert_silent();
    client.data_out(pdu.itt, r2t.ttt, 1, 0, &[7; 1024], true);
    assert_eq!(client.finish(pdu.itt).0, ScsiStatus::Good);
    assert_eq!(client.store.contents()[..1024], [7; 1024]);
}

#[test]
fn ffp_09_03_03_segments_are_whole_words_but_for_the_last() {
    let mut client = station(&[("MaxRecvDataSegmentLength", "513")]);
    let pdus = data_in(&mut client, 0, 4096);
    let (_, all_but_last) = pdus.split_last().unwrap();
    for (pdu, data) in all_but_last {
        assert_eq!(data.len() % 4, 0, "at {}", pdu.buffer_offset);
    }
}

#[test]
fn ffp_09_04_data_sn_counts_every_pdu() {
    let mut client = station(&[("MaxRecvDataSegmentLength", "512"), SOLICITED[1], SOLICITED[2]]);
    for (index, (pdu, _)) in data_in(&mut client, 0, 8192).iter().enumerate() {
        assert_eq!(pdu.data_sn, Sn(index as u32));
    }
}

#[test]
fn ffp_09_05_buffer_offset_goes_up_with_the_data() {
    let mut client = station(&[("MaxRecvDataSegmentLength", "512"), SOLICITED[1], SOLICITED[2]]);
    let mut offset = 0;
    for (pdu, data) in data_in(&mut client, 0, 8192) {
        assert_eq!(pdu.buffer_offset, offset);
        offset += data.len() as u32;
    }
    assert_eq!(offset, 8192);
}

// Group 10: R2T (§11.8).

#[test]
fn ffp_10_01_r2ts_follow_each_other_without_overlap() {
    let keys = [("MaxBurstLength", "512"), ("FirstBurstLength", "512"), SOLICITED[1], SOLICITED[2]];
    let mut client = station(&keys);
    let pdu = client.command_pdu(&write(0, 4), 2048, &[], true);
    let pdu = ScsiCommand { itt: Itt(0xa2a2_a2a2), ..pdu };
    client.send(&pdu.emit(), &[]);
    let stat_sn = client.last.stat_sn.next();
    for r2t_sn in 0..4 {
        let r2t = client.r2t();
        assert_eq!((r2t.itt, r2t.r2t_sn), (pdu.itt, Sn(r2t_sn)));
        assert_ne!(r2t.ttt, Ttt::RESERVED);
        assert_eq!((r2t.buffer_offset, r2t.desired_bytes), (512 * r2t_sn, 512));
        assert_eq!(r2t.sns.stat_sn, stat_sn, "which R2T does not use up");
        client.answer(&r2t, &pattern(2048));
    }
    assert_eq!(client.finish(pdu.itt).0, ScsiStatus::Good);
    assert_eq!(client.last.stat_sn, stat_sn);
}

// Group 11: task management (§11.5, §11.6).

#[test]
fn ffp_11_01_immediate_task_management_and_an_immediate_command() {
    let mut client = station(SOLICITED);
    let first = client.start_write(0, 2);
    let first_r2t = client.r2t();
    let pdu = client.command_pdu(&write(8, 2), 1024, &[], true);
    client.cmd_sn = pdu.cmd_sn;
    let second = ScsiCommand { immediate: true, ..pdu };
    client.send(&second.emit(), &[]);
    let second_r2t = client.r2t();
    let abort = client.task_management_pdu(1, first.itt);
    let abort = TaskManagementRequest { ref_cmd_sn: first.cmd_sn, ..abort };
    client.send(&abort.emit(), &[]);
    assert_eq!(client.task_management_response(), 0);
    client.answer(&first_r2t, &[1; 1024]);
    client.assert_silent();
    client.answer(&second_r2t, &[2; 1024]);
    assert_eq!(client.finish(second.itt).0, ScsiStatus::Good);
    let contents = client.store.contents();
    assert_eq!((contents[0], contents[8 * 512]), (0, 2));
}

/// TASK REASSIGN is answered on the connection that it came on, with 4: task allegiance
/// reassignment is not supported, as it must be at ErrorRecoveryLevel 0.
fn assert_not_reassigned(first: &Client, second: &mut Client, task: Itt) {
    assert_eq!(second.task_management(8, task), 4);
    first.assert_silent();
}

#[test]
fn ffp_11_02_01_task_reassign_after_a_logout() {
    let disks = Disks::new();
    let (mut first, mut second) = (station_of(&disks, &[]), station_of(&disks, &[]));
    first.idle = true;
    let pdu = first.command_pdu(&read(0, 8), 4096, &[], false);
    first.send(&pdu.emit(), &[]);
    assert_eq!(first.logout(0, 9).response, 0);
    assert_not_reassigned(&first, &mut second, pdu.itt);
}

#[test]
fn ffp_11_02_02_task_reassign_of_an_allegiant_task() {
    let disks = Disks::new();
    let (mut first, mut second) = (station_of(&disks, &[]), station_of(&disks, &[]));
    first.idle = true;
    let pdu = first.command_pdu(&read(0, 8), 4096, &[], false);
    first.send(&pdu.emit(), &[]);
    assert_not_reassigned(&first, &mut second, pdu.itt);
    first.work();
    assert_eq!(first.finish(pdu.itt).0, ScsiStatus::Good, "it was not touched");
}

#[test]
fn ffp_11_02_03_task_reassign_after_a_lost_connection() {
    let disks = Disks::new();
    let (mut first, mut second) = (station_of(&disks, &[]), station_of(&disks, &[]));
    first.idle = true;
    let pdu = first.command_pdu(&read(0, 8), 4096, &[], false);
    first.send(&pdu.emit(), &[]);
    drop(first);
    assert_eq!(second.task_management(8, pdu.itt), 4);
    second.assert_silent();
}

/// A NOP-Out that is numbered is answered, so the window goes on.
fn assert_window_goes_on(client: &mut Client) {
    let itt = client.nop_out(false, &[]);
    assert_eq!(client.nop_in().0.itt, itt);
}

#[test]
fn ffp_11_03_01_nothing_of_a_task_set_follows_the_answer_to_abort_task_set() {
    let mut client = station(&[]);
    client.idle = true;
    let pdu = client.command_pdu(&read(0, 8), 4096, &[], false);
    client.send(&pdu.emit(), &[]);
    assert_eq!(client.task_management(2, Itt::RESERVED), 0);
    client.work();
    client.assert_silent();
    assert_window_goes_on(&mut client);
}

#[test]
fn ffp_11_03_02_abort_task_set_concerns_commands_that_come_late() {
    let mut client = station(&[]);
    client.command(&read(0, 8), 4096, &[]);
    let late = client.command_pdu(&read(8, 8), 4096, &[], false);
    let abort = client.task_management_pdu(2, Itt::RESERVED);
    client.send(&abort.emit(), &[]);
    client.assert_silent();
    client.send(&late.emit(), &[]);
    assert_eq!(client.task_management_response(), 0);
    client.assert_silent();
    assert_window_goes_on(&mut client);
}

#[test]
fn ffp_11_03_03_a_task_outside_of_the_window_does_not_exist() {
    let mut client = station(&[]);
    client.idle = true;
    let pdu = client.command_pdu(&read(0, 8), 4096, &[], false);
    client.send(&pdu.emit(), &[]);
    for ref_cmd_sn in [client.last.max_cmd_sn.plus(10), Sn(5), pdu.cmd_sn] {
        let abort = client.task_management_pdu(1, Itt(0x7777));
        client.send(&TaskManagementRequest { ref_cmd_sn, ..abort }.emit(), &[]);
        assert_eq!(client.task_management_response(), 1);
    }
    client.work();
    assert_eq!(client.finish(pdu.itt).0, ScsiStatus::Good);
    assert_window_goes_on(&mut client);
}

/// Sends a reset of the target as a numbered request behind a READ.
fn reset_behind_a_read(client: &mut Client, function: u8) {
    client.idle = true;
    let pdu = client.command_pdu(&read(0, 8), 4096, &[], false);
    client.send(&pdu.emit(), &[]);
    let reset = client.task_management_pdu(function, Itt::RESERVED);
    client.next_cmd_sn();
    client.send(&TaskManagementRequest { immediate: false, ..reset }.emit(), &[]);
    client.assert_silent();
    client.work();
    assert_eq!(client.task_management_response(), 0);
    client.assert_silent();
}

#[test]
fn ffp_11_04_target_warm_reset_ends_all_tasks() {
    let mut client = station(&[]);
    reset_behind_a_read(&mut client, 6);
    client.idle = false;
    let answer = client.command(&Cdb::TestUnitReady, 0, &[]);
    assert_check_condition(&answer, asc::BUS_DEVICE_RESET);
}

#[test]
fn ffp_11_05_target_cold_reset_ends_the_connection() {
    let mut client = station(&[]);
    reset_behind_a_read(&mut client, 7);
    assert_eq!(client.end(), Some(&End::ColdReset));
    assert!(client.target.recv_space().is_empty());
}

// Group 12: SNACK (§11.16), which a target of ErrorRecoveryLevel 0 may reject.

fn snack(kind: u8, itt: Itt, begin_run: u32, run_length: u32) -> Bhs {
    let mut bhs = [0; BHS_BYTES];
    (bhs[0], bhs[1]) = (0x10, 0x80 | kind);
    bhs[16..20].copy_from_slice(&itt.0.to_be_bytes());
    bhs[20..24].copy_from_slice(&[0xff; 4]);
    bhs[40..44].copy_from_slice(&begin_run.to_be_bytes());
    bhs[44..48].copy_from_slice(&run_length.to_be_bytes());
    bhs
}

/// A SNACK for a write is rejected, and the write goes on.
fn assert_write_survives_snack(begin_run: u32) {
    let mut client = station(SOLICITED);
    let pdu = client.start_write(0, 2);
    let r2t = client.r2t();
    let snack = snack(0, pdu.itt, begin_run, 1);
    client.send(&snack, &[]);
    let reject = client.reject(&snack);
    assert_eq!(reject.reason, Reject::SNACK_REJECT);
    assert_eq!(reject.sns.stat_sn, r2t.sns.stat_sn);
    client.answer(&r2t, &pattern(1024));
    assert_eq!(client.finish(pdu.itt).0, ScsiStatus::Good);
    assert_eq!(client.last.stat_sn, reject.sns.stat_sn.next());
    assert_eq!(client.last.exp_cmd_sn, reject.sns.exp_cmd_sn);
}

/// A SNACK while a read is under way is rejected, and the read goes on.
fn assert_read_survives_snack(kind: u8, begin_run: u32, run_length: u32) {
    let mut client = station(SOLICITED);
    client.idle = true;
    let pdu = client.command_pdu(&read(0, 8), 4096, &[], false);
    client.send(&pdu.emit(), &[]);
    let snack = snack(kind, pdu.itt, begin_run, run_length);
    client.send(&snack, &[]);
    let reject = client.reject(&snack);
    assert_eq!(reject.reason, Reject::SNACK_REJECT);
    client.work();
    let pdus = collect_data_in(&mut client, pdu.itt);
    assert_eq!(pdus.len(), 4);
    assert_eq!(pdus.last().unwrap().0.sns.stat_sn, reject.sns.stat_sn.next());
}

#[test]
fn ffp_12_01_snack_for_an_r2t() {
    assert_write_survives_snack(0);
}

#[test]
fn ffp_12_02_snack_for_data() {
    assert_read_survives_snack(0, 1, 1);
}

#[test]
fn ffp_12_03_snack_for_a_run_of_data() {
    assert_read_survives_snack(0, 0, 0);
}

#[test]
fn ffp_12_04_snack_for_an_r2t_that_never_was() {
    assert_write_survives_snack(255);
}

// Group 13: logout (§11.14, §11.15).

/// Two sessions with a write under way each, the first of which asks to log out.
fn logout_of_one(reason: u8, cid: u16) -> (LogoutResponse, Client, Client) {
    let disks = Disks::new();
    let mut stations = [station_of(&disks, SOLICITED), station_of(&disks, SOLICITED)];
    let writes = stations.each_mut().map(|client| {
        let pdu = client.start_write(0, 2);
        (pdu, client.r2t())
    });
    let [mut first, mut second] = stations;
    let response = first.logout(reason, cid);
    second.answer(&writes[1].1, &pattern(1024));
    assert_eq!(second.finish(writes[1].0.itt).0, ScsiStatus::Good);
    assert_eq!(second.end(), None);
    (response, first, second)
}

#[test]
fn ffp_13_01_logout_closes_its_connection_alone() {
    let (response, first, _) = logout_of_one(1, 9);
    assert_eq!(response.response, 0);
    assert_eq!(first.end(), Some(&End::LoggedOut));
}

#[test]
fn ffp_13_02_logout_closes_its_session_alone() {
    let (response, first, _) = logout_of_one(0, 9);
    assert_eq!((response.response, response.time2wait), (0, 2));
    assert_eq!(first.end(), Some(&End::LoggedOut));
}

#[test]
fn ffp_13_03_logout_of_a_connection_that_is_not_there() {
    let (response, mut first, _) = logout_of_one(1, 10);
    assert_eq!((response.response, first.end()), (1, None));
    assert_window_goes_on(&mut first);
}

// Group 14: Reject (§11.17).

#[test]
fn ffp_14_01_data_with_a_strange_task_tag_harms_nobody() {
    let mut client = station(SOLICITED);
    let pdu = client.start_write(0, 2);
    let r2t = client.r2t();
    client.data_out(Itt(0x4444), r2t.ttt, 0, 0, &[9; 512], false);
    client.data_out(Itt(0x4444), Ttt::RESERVED, 0, 0, &[9; 512], false);
    client.assert_silent();
    client.data_out(pdu.itt, r2t.ttt, 0, 0, &[7; 512], false);
    client.assert_silent();
    client.data_out(pdu.itt, r2t.ttt, 1, 512, &[7; 512], true);
    assert_eq!(client.finish(pdu.itt).0, ScsiStatus::Good);
    assert_eq!(client.store.contents()[..1024], [7; 1024]);
}

#[test]
fn ffp_14_02_data_ack_for_a_read() {
    assert_read_survives_snack(2, 0, 0);
}

#[test]
fn ffp_14_03_a_rejected_snack_comes_back_with_its_header() {
    assert_write_survives_snack(1);
}

// Group 15: NOP (§11.18, §11.19).

/// A ping is answered with the same tag and data, and its answer uses up a StatSN.
fn assert_echo(keys: &[(&str, &str)], immediate: bool, data: &[u8], echo: usize) {
    let mut client = station(keys);
    let itt = client.nop_out(immediate, data);
    let (nop, answer) = client.nop_in();
    assert_eq!((nop.itt, nop.ttt, nop.lun), (itt, Ttt::RESERVED, 0));
    assert_eq!(answer, &data[..echo]);
    assert_eq!(nop.sns.exp_cmd_sn, client.cmd_sn);
    client.command(&Cdb::TestUnitReady, 0, &[]);
    assert_eq!(client.last.stat_sn, nop.sns.stat_sn.next());
}

#[test]
fn ffp_15_01_01_an_immediate_ping_without_data() {
    assert_echo(&[], true, &[], 0);
}

#[test]
fn ffp_15_01_02_a_numbered_ping_without_data() {
    assert_echo(&[], false, &[], 0);
}

#[test]
fn ffp_15_01_03_a_numbered_ping_with_data() {
    assert_echo(&[], false, &pattern(1001), 1001);
}

#[test]
fn ffp_15_01_04_an_immediate_ping_with_data() {
    assert_echo(&[], true, &pattern(1001), 1001);
}

#[test]
fn ffp_15_01_05_an_immediate_ping_that_is_too_long_to_come_back() {
    assert_echo(&[("MaxRecvDataSegmentLength", "512")], true, &pattern(65536), 512);
}

#[test]
fn ffp_15_01_06_a_numbered_ping_that_is_too_long_to_come_back() {
    assert_echo(&[("MaxRecvDataSegmentLength", "512")], false, &pattern(65536), 512);
}

#[test]
fn ffp_15_02_the_target_asks_a_silent_initiator() {
    let mut client = station(&[]);
    client.pass_time();
    let (ping, data) = client.nop_in();
    assert_eq!((ping.itt, data.len()), (Itt::RESERVED, 0));
    assert_ne!(ping.ttt, Ttt::RESERVED);
    let answer = nop_out_pdu(true, Itt::RESERVED, ping.ttt, client.cmd_sn, 0);
    client.send(&answer.emit(), &[]);
    client.assert_silent();
    client.command(&Cdb::TestUnitReady, 0, &[]);
    assert_eq!(client.last.stat_sn, ping.sns.stat_sn, "which the ping did not use up");
}

// Group 16: SCSI Response (§11.4).

#[test]
fn ffp_16_01_underflow_is_counted() {
    let mut client = station(&[]);
    let pdu = client.command_pdu(&INQUIRY, 4096, &[], false);
    client.send(&pdu.emit(), &[]);
    let pdus = collect_data_in(&mut client, pdu.itt);
    assert_eq!(pdus[0].0.residual, Residual::Underflow(4096 - 36));
}

#[test]
fn ffp_16_02_overflow_is_counted() {
    let mut client = station(&[]);
    let pdu = client.command_pdu(&INQUIRY, 4, &[], false);
    client.send(&pdu.emit(), &[]);
    let pdus = collect_data_in(&mut client, pdu.itt);
    assert_eq!((pdus[0].0.residual, pdus[0].1.len()), (Residual::Overflow(32), 4));
}

const IMMEDIATE_512: &[(&str, &str)] =
    &[("ImmediateData", "Yes"), ("InitialR2T", "Yes"), ("FirstBurstLength", "512")];

#[test]
fn ffp_16_03_01_immediate_data_and_then_an_r2t() {
    let mut client = station(IMMEDIATE_512);
    let data = pattern(1024);
    let pdu = client.command_pdu(&write(0, 2), 1024, &data[..512], true);
    client.send(&pdu.emit(), &data[..512]);
    let r2t = client.r2t();
    assert_eq!((r2t.buffer_offset, r2t.desired_bytes), (512, 512));
    client.answer(&r2t, &data);
    assert_eq!(client.finish(pdu.itt).0, ScsiStatus::Good);
    assert_eq!(client.store.contents()[..1024], data);
}

#[test]
fn ffp_16_03_02_immediate_data_beyond_first_burst_length() {
    let mut client = station(IMMEDIATE_512);
    let answer = client.command(&write(0, 2), 1024, &[1; 1024]);
    assert_check_condition(&answer, asc::UNEXPECTED_UNSOLICITED_DATA);
}

#[test]
fn ffp_16_03_03_data_that_an_r2t_asked_for() {
    let mut client = station(&SOLICITED[1..]);
    write_by_r2t(&mut client, 0, &pattern(1024));
    assert_eq!(client.store.contents()[..1024], pattern(1024));
}

#[test]
fn ffp_16_03_04_immediate_data_that_was_not_agreed_on() {
    let mut client = station(&SOLICITED[1..]);
    let answer = client.command(&write(0, 2), 1024, &[1; 1024]);
    assert_check_condition(&answer, asc::UNEXPECTED_UNSOLICITED_DATA);
}

const UNASKED: &[(&str, &str)] =
    &[("FirstBurstLength", "1024"), ("ImmediateData", "No"), ("InitialR2T", "No")];

#[test]
fn ffp_16_03_05_data_that_comes_unasked() {
    let mut client = station(UNASKED);
    let pdu = client.command_pdu(&write(0, 2), 1024, &[], true);
    client.send(&ScsiCommand { final_pdu: false, ..pdu }.emit(), &[]);
    client.data_out(pdu.itt, Ttt::RESERVED, 0, 0, &pattern(1024), true);
    assert_eq!(client.finish(pdu.itt).0, ScsiStatus::Good);
}

#[test]
fn ffp_16_03_06_less_unsolicited_data_than_there_must_be() {
    let mut client = station(&[("InitialR2T", "No"), ("DataSequenceInOrder", "Yes")]);
    let pdu = client.command_pdu(&write(0, 2), 1024, &[], true);
    client.send(&ScsiCommand { final_pdu: false, ..pdu }.emit(), &[]);
    client.data_out(pdu.itt, Ttt::RESERVED, 0, 0, &[1; 512], true);
    let answer = client.finish(pdu.itt);
    assert_check_condition(&answer, asc::NOT_ENOUGH_UNSOLICITED_DATA);
    assert_eq!(client.store.contents()[..512], [0; 512]);
}

#[test]
fn ffp_16_03_07_an_operation_code_that_does_not_exist() {
    let mut client = station(&[("InitialR2T", "No")]);
    let pdu = client.command_pdu(&Cdb::TestUnitReady, 0, &[], false);
    let mut cdb = [0; 16];
    cdb[0] = 0xff;
    client.send(&ScsiCommand { cdb, ..pdu }.emit(), &[]);
    assert_eq!(client.finish(pdu.itt).0, ScsiStatus::CheckCondition);
}

/// A command that is sent again while it is under way is passed over.
fn retry(data_before: bool) {
    let mut client = station(SOLICITED);
    let pdu = client.start_write(0, 2);
    let r2t = client.r2t();
    let mut data_sn = 0;
    if data_before {
        client.data_out(pdu.itt, r2t.ttt, 0, 0, &[3; 512], false);
        data_sn = 1;
    }
    client.send(&pdu.emit(), &[]);
    client.assert_silent();
    let start = data_sn * 512;
    let rest = vec![3; 1024 - start as usize];
    client.data_out(pdu.itt, r2t.ttt, data_sn, start, &rest, true);
    assert_eq!(client.finish(pdu.itt).0, ScsiStatus::Good);
    client.assert_silent();
    assert_eq!(client.store.contents()[..1024], [3; 1024]);
}

#[test]
fn ffp_16_04_01_a_retry_in_the_middle_of_the_data() {
    retry(true);
}

#[test]
fn ffp_16_04_02_a_retry_before_the_data() {
    retry(false);
}

#[test]
fn ffp_16_05_a_failed_write_is_answered_after_its_last_data() {
    let mut client = station(&SOLICITED[1..]);
    let pdu = client.start_write(0, 4);
    let r2t = client.r2t();
    client.data_out(Itt(pdu.itt.0 + 1), r2t.ttt, 0, 0, &[1; 512], false);
    // DataSN 0 was used up for another task tag, so this PDU is out of its order.
    client.data_out(pdu.itt, r2t.ttt, 1, 512, &[1; 512], false);
    client.data_out(pdu.itt, r2t.ttt, 2, 1024, &[1; 512], false);
    client.assert_silent();
    client.data_out(pdu.itt, r2t.ttt, 3, 1536, &[1; 512], true);
    assert_eq!(client.finish(pdu.itt).0, ScsiStatus::CheckCondition);
    assert_eq!(client.store.contents()[..2048], [0; 2048]);
}

// Group 17: text (§11.10, §11.11, §7.10, appendix C).

fn discovery() -> Client {
    let mut client = Client::new();
    client.log_in("Discovery", &[]);
    client
}

const RECORD: &str = "TargetName=iqn.2026-11.io.lunboot:test TargetAddress=192.0.2.7:3260,1 ";

#[test]
fn ffp_17_01_01_an_open_text_exchange() {
    let mut client = discovery();
    client.text(Itt(5), Ttt::RESERVED, OPEN, b"SendTargets=All\0");
    let (response, text) = client.text_response();
    assert_eq!((response.itt, response.final_pdu), (Itt(5), false));
    assert_ne!(response.ttt, Ttt::RESERVED);
    assert!(text.len() <= 8192);
}

#[test]
fn ffp_17_01_02_a_declaration_counts_when_the_exchange_ends() {
    let mut client = station(&[]);
    client.text(Itt(5), Ttt::RESERVED, OPEN, b"MaxRecvDataSegmentLength=512\0");
    let (response, _) = client.text_response();
    assert_eq!((response.itt, response.final_pdu), (Itt(5), false));
    assert_ne!(response.ttt, Ttt::RESERVED);
    client.text(Itt(5), response.ttt, FINAL, b"");
    let (response, _) = client.text_response();
    assert_eq!((response.final_pdu, response.ttt), (true, Ttt::RESERVED));
    assert_longest_segment(&mut client, 512);
}

/// Data-In PDUs have this length.
fn assert_longest_segment(client: &mut Client, bytes: usize) {
    let pdus = data_in(client, 0, 16384);
    assert_eq!(pdus.iter().map(|(_, data)| data.len()).max(), Some(bytes));
}

#[test]
fn ffp_17_02_01_no_final_answer_to_an_open_request_in_discovery() {
    let mut client = discovery();
    client.text(Itt(5), Ttt::RESERVED, OPEN, b"SendTargets=All\0");
    assert!(!client.text_response().0.final_pdu);
}

#[test]
fn ffp_17_02_02_no_final_answer_to_an_open_request() {
    let mut client = station(&[]);
    client.text(Itt(5), Ttt::RESERVED, OPEN, b"MaxRecvDataSegmentLength=1024\0");
    assert!(!client.text_response().0.final_pdu);
}

#[test]
fn ffp_17_03_01_send_targets_all() {
    let mut client = discovery();
    client.text(Itt(5), Ttt::RESERVED, FINAL, b"SendTargets=All\0");
    assert_eq!(client.text_response().1, RECORD);
}

#[test]
fn ffp_17_03_02_send_targets_without_a_name_in_discovery() {
    let mut client = discovery();
    client.text(Itt(5), Ttt::RESERVED, FINAL, b"SendTargets=\0");
    assert_eq!(client.text_response().1, RECORD);
}

#[test]
fn ffp_17_03_03_send_targets_all_in_a_normal_session() {
    let mut client = station(&[]);
    client.text(Itt(5), Ttt::RESERVED, FINAL, b"SendTargets=All\0");
    assert_eq!(client.text_response().1, "SendTargets=Reject ");
}

#[test]
fn ffp_17_03_04_send_targets_without_a_name_in_a_normal_session() {
    let mut client = station(&[]);
    client.text(Itt(5), Ttt::RESERVED, FINAL, b"SendTargets=\0");
    assert_eq!(client.text_response().1, RECORD);
}

#[test]
fn ffp_17_03_05_send_targets_with_a_name() {
    let mut client = discovery();
    let named = format!("SendTargets={NAME}\0");
    client.text(Itt(5), Ttt::RESERVED, FINAL, named.as_bytes());
    assert_eq!(client.text_response().1, RECORD);
    client.text(Itt(6), Ttt::RESERVED, FINAL, b"SendTargets=iqn.2004-10.example:other\0");
    assert_eq!(client.text_response().1, "");
}

#[test]
fn ffp_17_04_01_other_keys_in_discovery_are_irrelevant() {
    let mut client = discovery();
    client.text(Itt(5), Ttt::RESERVED, FINAL, b"MaxRecvDataSegmentLength=512\0");
    assert_eq!(client.text_response().1, "MaxRecvDataSegmentLength=Irrelevant ");
}

#[test]
fn ffp_17_04_02_logout_for_recovery_in_discovery() {
    let mut client = discovery();
    client.text(Itt(5), Ttt::RESERVED, FINAL, b"SendTargets=All\0");
    client.text_response();
    assert_eq!(client.logout(2, 9).response, 2);
}

#[test]
fn ffp_17_05_an_exchange_belongs_to_its_task_tag() {
    let mut client = station(&[]);
    client.text(Itt(5), Ttt::RESERVED, OPEN, b"MaxRecvDataSegmentLength=1024\0");
    let (response, _) = client.text_response();
    let wrong = client.text(Itt(6), response.ttt, FINAL, b"InitiatorAlias=station\0");
    assert_eq!(client.reject(&wrong).reason, Reject::PROTOCOL_ERROR);
    assert_longest_segment(&mut client, 8192);
}

#[test]
fn ffp_17_06_a_key_is_negotiated_once_in_an_exchange() {
    let key = b"MaxRecvDataSegmentLength=512\0";
    let mut client = station(&[]);
    client.text(Itt(5), Ttt::RESERVED, OPEN, key);
    let (response, _) = client.text_response();
    let second = client.text(Itt(5), response.ttt, OPEN, key);
    assert_eq!(client.reject(&second).reason, Reject::PROTOCOL_ERROR);
    end_with_512(&mut client);
}

/// A whole exchange, after which the declared value holds.
fn end_with_512(client: &mut Client) {
    client.text(Itt(5), Ttt::RESERVED, OPEN, b"MaxRecvDataSegmentLength=512\0");
    let (response, _) = client.text_response();
    client.text(Itt(5), response.ttt, FINAL, b"");
    assert!(client.text_response().0.final_pdu);
    begin(client);
    assert_longest_segment(client, 512);
}

#[test]
fn ffp_17_07_01_a_new_exchange_resets_the_old_one() {
    let mut client = station(&[]);
    client.text(Itt(5), Ttt::RESERVED, OPEN, b"MaxRecvDataSegmentLength=1024\0");
    let (response, _) = client.text_response();
    let second = client.text(Itt(6), response.ttt, FINAL, b"InitiatorAlias=station\0");
    client.reject(&second);
    end_with_512(&mut client);
}

#[test]
fn ffp_17_07_02_an_exchange_that_never_ends_changes_nothing() {
    let mut client = station(&[("MaxRecvDataSegmentLength", "1024")]);
    client.text(Itt(5), Ttt::RESERVED, OPEN, b"MaxRecvDataSegmentLength=512\0");
    client.text_response();
    assert_longest_segment(&mut client, 1024);
}

#[test]
fn ffp_17_07_03_a_value_that_cannot_be_fails_the_negotiation() {
    let mut client = station(&[]);
    for value in ["511", "16777216", "0"] {
        let text = format!("MaxRecvDataSegmentLength={value}\0");
        let request = client.text(Itt(5), Ttt::RESERVED, FINAL, text.as_bytes());
        assert_eq!(client.reject(&request).reason, Reject::NEGOTIATION_RESET);
        assert_longest_segment(&mut client, 8192);
    }
    client.text(Itt(5), Ttt::RESERVED, FINAL, b"MaxRecvDataSegmentLength=512\0");
    assert!(client.text_response().0.final_pdu);
    assert_longest_segment(&mut client, 512);
}

/// Two parts of one text, the first of which continues.
fn in_two_parts(client: &mut Client, first: &[u8], second: &[u8]) -> String {
    client.text(Itt(5), Ttt::RESERVED, CONTINUES, first);
    let (response, text) = client.text_response();
    assert_eq!((response.final_pdu, text.as_str()), (false, ""));
    client.text(Itt(5), response.ttt, FINAL, second);
    let (response, text) = client.text_response();
    assert!(response.final_pdu);
    text
}

#[test]
fn ffp_17_08_01_a_text_in_two_pdus() {
    let mut client = station(&[("MaxRecvDataSegmentLength", "512")]);
    let (alias, value) = ("a".repeat(240), "v".repeat(250));
    let first = format!(
        "InitiatorAlias={alias}\0X-cbit.ioliscsilab.test1={value}\0X-cbit.ioliscsilab.test2="
    );
    let text = in_two_parts(&mut client, first.as_bytes(), b"rest\0");
    let expected = "X-cbit.ioliscsilab.test1=NotUnderstood X-cbit.ioliscsilab.test2=NotUnderstood ";
    assert_eq!(text, expected);
}

#[test]
fn ffp_17_08_02_c_and_f_together_change_nothing() {
    let mut client = station(&[("MaxRecvDataSegmentLength", "1024")]);
    assert_longest_segment(&mut client, 1024);
    let both = TextFlags { final_pdu: true, continues: true };
    let request = client.text(Itt(5), Ttt::RESERVED, both, b"MaxRecvDataSegmentLength=512\0");
    assert_eq!(client.reject(&request).reason, Reject::PROTOCOL_ERROR);
    assert_longest_segment(&mut client, 1024);
}

#[test]
fn ffp_17_08_03_a_key_in_two_pdus() {
    let mut client = station(&[("MaxRecvDataSegmentLength", "1024")]);
    assert_longest_segment(&mut client, 1024);
    let (alias, value) = ("a".repeat(240), "v".repeat(250));
    let first =
        format!("InitiatorAlias={alias}\0X-cbit.ioliscsilab.test1={value}\0MaxRecvDataSegment");
    in_two_parts(&mut client, first.as_bytes(), b"Length=512\0");
    assert_longest_segment(&mut client, 512);
}

// Group 18: digests (§7.7, §7.8).

const DATA_DIGEST: &[(&str, &str)] = &[
    ("DataDigest", "CRC32C,None"),
    ("ImmediateData", "Yes"),
    ("InitialR2T", "Yes"),
    ("FirstBurstLength", "512"),
];

#[test]
fn ffp_18_01_01_a_damaged_header_ends_the_connection() {
    let keys = [("HeaderDigest", "CRC32C,None"), ("ImmediateData", "Yes")];
    let mut client = station(&keys);
    let pdu = client.command_pdu(&write(0, 1), 512, &[1; 512], true);
    let mut bytes = client.frame(&pdu.emit(), &[1; 512]);
    // Without its digest, as the item has it, the data is taken for it.
    bytes.drain(48..52);
    client.send_bytes(&bytes);
    client.assert_silent();
    assert!(matches!(client.end(), Some(End::Failed(_))));
    assert_eq!(client.store.contents()[..512], [0; 512]);
}

#[test]
fn ffp_18_02_01_a_command_with_damaged_data_is_rejected() {
    let mut client = station(DATA_DIGEST);
    let first = client.command_pdu(&write(0, 1), 512, &[1; 512], true);
    client.send_damaged(&first.emit(), &[1; 512]);
    let second = client.start_write(8, 1);
    assert_eq!(client.reject(&first.emit()).reason, Reject::DATA_DIGEST_ERROR);
    let answer = client.finish(first.itt);
    assert_check_condition(&answer, asc::PROTOCOL_SERVICE_CRC_ERROR);
    let r2t = client.r2t();
    assert_eq!(r2t.itt, second.itt, "nothing is asked for the first");
    client.answer(&r2t, &[2; 512]);
    assert_eq!(client.finish(second.itt).0, ScsiStatus::Good);
    assert_eq!(client.store.contents()[..512], [0; 512]);
}

#[test]
fn ffp_18_02_02_damaged_data_is_rejected_and_fails_its_write() {
    let mut client = station(&[("DataDigest", "CRC32C,None"), SOLICITED[1], SOLICITED[2]]);
    let pdu = client.start_write(0, 4);
    let r2t = client.r2t();
    let damaged = data_out_pdu(pdu.itt, r2t.ttt, 0, 0, 1024, false).emit();
    client.send_damaged(&damaged, &[1; 1024]);
    let reject = client.reject(&damaged);
    assert_eq!(reject.reason, Reject::DATA_DIGEST_ERROR);
    client.assert_silent();
    client.data_out(pdu.itt, r2t.ttt, 1, 1024, &[1; 1024], true);
    let answer = client.finish(pdu.itt);
    assert_check_condition(&answer, asc::PROTOCOL_SERVICE_CRC_ERROR);
    assert_eq!(client.store.contents()[..2048], [0; 2048]);
}

// Group 19: the expected length (§11.3.4).

#[test]
fn ffp_19_01_no_data_where_none_is_expected() {
    let mut client = station(SOLICITED);
    let pdu = client.command_pdu(&Cdb::ReadCapacity10, 0, &[], false);
    client.send(&ScsiCommand { read: true, ..pdu }.emit(), &[]);
    let (response, data) = scsi_response(&mut client);
    assert_eq!((response.status, response.residual), (0, Residual::Overflow(8)));
    assert!(data.is_empty());
}
