//! One connection of the target against a hand-made initiator ([`Client`]): what our own initiator
//! never sends, and every rule that a broken one could break. The two together are in
//! `login.rs`, `read_write.rs` and `reconnect.rs`.

mod common;

use std::collections::VecDeque;
use std::time::Duration;

use common::client::*;
use lunboot::proto::Error;
use lunboot::proto::target::{End, Event, Redirect, SessionName};
use lunboot::store::Store;
use lunboot::wire::pdu::*;
use lunboot::wire::scsi::{
    Cdb, CdbSize, ControlPage, Lun, ProvisioningFlags, ScsiStatus, TransferFlags, asc,
};
use lunboot::wire::serial::Sn;
use lunboot::wire::text::Text;

/// Commands that an initiator may have under way.
const COMMAND_WINDOW: u32 = 128;

#[test]
fn login_negotiates_and_claims_a_session() {
    let mut client = Client::new();
    let keys = [("HeaderDigest", "CRC32C,None"), ("MaxBurstLength", "1048576"), ("X-new", "1")];
    let Negotiation(answer) = client.log_in("Normal", &keys);
    for expected in
        ["HeaderDigest=CRC32C", "MaxBurstLength=65536", "X-new=NotUnderstood", "MaxRecvDataSeg"]
    {
        assert!(answer.contains(expected), "{expected} is missing in {answer}");
    }
    let session = SessionName { initiator: INITIATOR.to_owned(), isid: ISID };
    assert_eq!(client.events, [Event::Claim { session, discovery: false }]);
    assert_eq!(client.target.initiator(), Some(INITIATOR));
}

#[test]
fn logins_are_refused_with_their_status() {
    let refused = |keys: &[(&str, &str)]| {
        let mut client = Client::new();
        let mut text = Text::new();
        for (key, value) in keys {
            text.push(key, value);
        }
        let next = Some(Stage::LoginOperationalNegotiation);
        let (response, _) = client.login(Stage::SecurityNegotiation, next, &text);
        assert!(matches!(client.events[..], [Event::Ended(End::Refused(_))]), "{keys:?}");
        (response.status_class, response.status_detail)
    };
    let name = ("InitiatorName", INITIATOR);
    assert_eq!(refused(&[name, ("TargetName", "iqn.2026-11.io.lunboot:other")]), (2, 3));
    assert_eq!(refused(&[name]), (2, 7));
    assert_eq!(refused(&[("TargetName", NAME)]), (2, 7));
    assert_eq!(refused(&[name, ("TargetName", NAME), ("AuthMethod", "CHAP")]), (2, 1));
    assert_eq!(refused(&[name, ("SessionType", "Strange")]), (2, 9));
    assert_eq!(refused(&[("InitiatorName", &"a".repeat(224))]), (2, 0));
    assert_eq!(refused(&[("InitiatorName", "a\nb")]), (2, 0));
}

#[test]
fn a_target_that_has_moved_sends_every_login_to_its_new_address() {
    for (address, portal_group, permanent, told) in [
        ("192.0.2.9:3261", Some(2), false, "TargetAddress=192.0.2.9:3261,2 "),
        ("[2001:db8::9]:3260", None, true, "TargetAddress=[2001:db8::9]:3260 "),
    ] {
        let address = address.parse().unwrap();
        let redirect = Some(Redirect { address, portal_group, permanent });
        let disks = Disks::with(|config| config.redirect = redirect);
        let mut client = Client::of(&disks);
        let mut text = Text::new();
        text.push("InitiatorName", INITIATOR);
        text.push("TargetName", NAME);
        let next = Some(Stage::LoginOperationalNegotiation);
        let (response, answer) = client.login(Stage::SecurityNegotiation, next, &text);
        let detail = if permanent { 2 } else { 1 };
        assert_eq!((response.status_class, response.status_detail), (1, detail));
        assert_eq!((answer.as_str(), response.transit), (told, false));
        assert!(matches!(client.end(), Some(End::Refused(Error::LoginRefused(_)))));
        // It can still be found, and another target is not there.
        Client::of(&disks).log_in("Discovery", &[]);
        let mut text = Text::new();
        text.push("InitiatorName", INITIATOR);
        text.push("TargetName", "iqn.2026-11.io.lunboot:other");
        let (response, _) = Client::of(&disks).login(Stage::SecurityNegotiation, next, &text);
        assert_eq!((response.status_class, response.status_detail), (2, 3));
    }
}

#[test]
fn discovery_names_all_addresses_the_one_in_use_first() {
    let disks = Disks::with(|config| {
        config.portals = ["198.51.100.7:3260", "192.0.2.7:3260", "[2001:db8::7]:3260"]
            .map(|portal| portal.parse().unwrap())
            .to_vec();
    });
    let mut client = Client::of(&disks);
    client.log_in("Discovery", &[("MaxRecvDataSegmentLength", "512")]);
    client.text(Itt(1), Ttt::RESERVED, FINAL, b"SendTargets=All\0");
    let expected = "TargetName=iqn.2026-11.io.lunboot:test TargetAddress=192.0.2.7:3260,1 \
                    TargetAddress=198.51.100.7:3260,1 TargetAddress=[2001:db8::7]:3260,1 ";
    assert_eq!(client.text_response().1, expected);
}

#[test]
fn a_session_is_asked_to_log_out_and_told_its_end() {
    let mut client = Client::logged_in();
    client.target.ask_for_logout(Duration::from_secs(3));
    client.drain();
    let (response, _) = client.receive();
    let Response::AsyncMessage(asked) = response else { panic!("{response:?}") };
    assert_eq!((asked.event, asked.parameter1, asked.parameter3), (1, 0, 3));
    assert_eq!(client.command(&Cdb::TestUnitReady, 0, &[]).0, ScsiStatus::Good);
    assert_eq!(client.last.stat_sn, asked.sns.stat_sn.next(), "it uses up a StatSN");
    client.target.leave();
    client.drain();
    let (response, _) = client.receive();
    let Response::AsyncMessage(told) = response else { panic!("{response:?}") };
    assert_eq!((told.event, told.parameter2, told.parameter3), (3, 2, 20));
    assert!(client.target.recv_space().is_empty());

    let mut client = Client::new();
    client.log_in("Discovery", &[]);
    client.target.ask_for_logout(Duration::from_secs(3));
    client.target.leave();
    client.drain();
    client.assert_silent();
}

#[test]
fn what_comes_before_the_login_ends_the_connection() {
    let mut client = Client::new();
    let pdu = client.command_pdu(&Cdb::TestUnitReady, 0, &[], false);
    client.send(&pdu.emit(), &[]);
    assert!(matches!(client.events[..], [Event::Ended(End::Failed(_))]));
    assert!(client.inbox.is_empty());
}

#[test]
fn text_without_end_before_the_login_is_refused() {
    let mut client = Client::new();
    let request = |continues| LoginRequest {
        transit: false,
        continues,
        stage: Stage::SecurityNegotiation,
        next_stage: None,
        version_max: 0,
        version_min: 0,
        isid: ISID,
        tsih: 0,
        itt: Itt(7),
        cid: 0,
        cmd_sn: Sn(0),
        exp_stat_sn: Sn(0),
        data_bytes: 8000,
    };
    for _ in 0..3 {
        client.send(&request(true).emit(), &[b'a'; 8000]);
    }
    assert!(matches!(client.events[..], [Event::Ended(End::Refused(_))]));
}

#[test]
fn a_login_that_never_ends_times_out() {
    let mut client = Client::new();
    let deadline = client.target.next_deadline().unwrap();
    client.target.handle_timeout(deadline - Duration::from_millis(1));
    client.drain();
    assert!(client.events.is_empty());
    client.target.handle_timeout(deadline);
    client.drain();
    assert!(matches!(client.events[..], [Event::Ended(End::Failed(Error::TimedOut { .. }))]));
}

#[test]
fn a_new_session_begins_with_a_unit_attention() {
    let mut client = Client::new();
    client.log_in("Normal", &[]);
    let (status, data) = client.command(&Cdb::TestUnitReady, 0, &[]);
    assert_eq!(status, ScsiStatus::CheckCondition);
    assert_eq!(sense(&data).code(), asc::POWER_ON_OR_RESET);
    assert_eq!(client.command(&Cdb::TestUnitReady, 0, &[]).0, ScsiStatus::Good);
}

#[test]
fn data_in_is_cut_to_the_segment_length_and_bursts_are_marked() {
    let mut client = Client::logged_in();
    let data = pattern(160 * 512);
    client.store.write_at(&data, 512).unwrap();
    let pdu = client.command_pdu(&read(1, 160), 160 * 512, &[], false);
    client.send(&pdu.emit(), &[]);
    let pdus: Vec<_> = client
        .inbox
        .iter()
        .map(|(pdu, data)| match pdu {
            Response::DataIn(pdu) => (pdu.final_pdu, pdu.status, pdu.data_sn.0, data.len()),
            other => panic!("expected Data-In, got {other:?}"),
        })
        .collect();
    let mut expected: Vec<_> = (0..10).map(|sn| (sn == 7, None, sn, 8192)).collect();
    expected[9] = (true, Some(0), 9, 8192);
    assert_eq!(pdus, expected);
    let (status, read) = client.finish(pdu.itt);
    assert_eq!((status, read == data), (ScsiStatus::Good, true));
}

#[test]
fn immediate_data_is_written() {
    let mut client = Client::logged_in();
    let data = pattern(4096);
    assert_eq!(client.command(&write(8, 8), 4096, &data).0, ScsiStatus::Good);
    assert_eq!(client.store.contents()[4096..8192], data);
}

#[test]
fn a_long_write_comes_by_r2t_and_several_are_outstanding() {
    let mut client = Client::logged_in();
    let data = pattern(200 * 1024);
    let total = data.len() as u32;
    let pdu = ScsiCommand {
        final_pdu: false,
        ..client.command_pdu(&write(0, 400), total, &data[..4096], true)
    };
    client.send(&pdu.emit(), &data[..4096]);
    assert!(client.inbox.is_empty(), "unsolicited data comes first");
    client.data_out(pdu.itt, Ttt::RESERVED, 0, 4096, &data[4096..8192], false);
    client.data_out(pdu.itt, Ttt::RESERVED, 1, 8192, &data[8192..16384], true);
    let mut wanted: VecDeque<R2t> = [client.r2t(), client.r2t()].into();
    assert!(client.inbox.is_empty(), "MaxOutstandingR2T is 2");
    let mut offset = 16384;
    let mut r2t_sn = 0;
    while let Some(r2t) = wanted.pop_front() {
        assert_eq!((r2t.buffer_offset, r2t.r2t_sn), (offset, Sn(r2t_sn)));
        let end = offset + r2t.desired_bytes;
        let (first, second) = data[offset as usize..end as usize].split_at(10_000);
        client.data_out(pdu.itt, r2t.ttt, 0, offset, first, false);
        client.data_out(pdu.itt, r2t.ttt, 1, offset + 10_000, second, true);
        (offset, r2t_sn) = (end, r2t_sn + 1);
        if client.inbox.front().is_some_and(|(pdu, _)| matches!(pdu, Response::R2t(_))) {
            wanted.push_back(client.r2t());
        }
    }
    assert_eq!((offset, r2t_sn), (total, 3));
    assert_eq!(client.finish(pdu.itt).0, ScsiStatus::Good);
    assert!(client.store.contents()[..data.len()] == data);
}

#[test]
fn data_out_of_order_fails_the_write_and_nothing_is_written() {
    for (data_sn, offset) in [(1, 0), (0, 512), (u32::MAX, 0), (0, u32::MAX - 100)] {
        let mut client = Client::logged_in();
        let pdu = client.command_pdu(&write(0, 4), 2048, &[], true);
        client.send(&pdu.emit(), &[]);
        let r2t = client.r2t();
        client.data_out(pdu.itt, r2t.ttt, data_sn, offset, &[1; 2048], true);
        let (status, data) = client.finish(pdu.itt);
        assert_eq!(status, ScsiStatus::CheckCondition);
        assert_eq!(sense(&data).code(), asc::DATA_PHASE_ERROR);
        assert_eq!(client.store.contents()[..2048], [0; 2048]);
        assert_eq!(client.command(&Cdb::TestUnitReady, 0, &[]).0, ScsiStatus::Good);
    }
}

#[test]
fn residuals_say_what_did_not_fit() {
    let mut client = Client::logged_in();
    for (expected, residual, length) in [
        (1024, Residual::None, 1024),
        (2000, Residual::Underflow(976), 1024),
        (600, Residual::Overflow(424), 600),
    ] {
        let pdu = client.command_pdu(&read(0, 2), expected, &[], false);
        client.send(&pdu.emit(), &[]);
        match client.receive() {
            (Response::DataIn(pdu), data) => {
                assert_eq!((pdu.residual, data.len()), (residual, length));
            }
            other => panic!("expected Data-In, got {other:?}"),
        }
    }
    // A write of two blocks for which only one and a half are announced writes one and a half.
    let pdu = client.command_pdu(&write(0, 2), 768, &[5; 768], true);
    client.send(&pdu.emit(), &[5; 768]);
    match client.receive() {
        (Response::ScsiResponse(pdu), _) => {
            assert_eq!((pdu.status, pdu.residual), (0, Residual::Overflow(256)));
        }
        other => panic!("expected a SCSI Response, got {other:?}"),
    }
    let contents = client.store.contents();
    assert_eq!((contents[511], contents[767], contents[768]), (5, 5, 0));
    // More announced than taken: the rest is thrown away.
    let pdu = client.command_pdu(&write(1, 1), 1024, &[6; 1024], true);
    client.send(&pdu.emit(), &[6; 1024]);
    match client.receive() {
        (Response::ScsiResponse(pdu), _) => assert_eq!(pdu.residual, Residual::Underflow(512)),
        other => panic!("expected a SCSI Response, got {other:?}"),
    }
    let contents = client.store.contents();
    assert_eq!((contents[512], contents[1023], contents[1024]), (6, 6, 0));
}

#[test]
fn commands_outside_the_window_are_ignored_in_silence() {
    let mut client = Client::logged_in();
    for cmd_sn in [client.last.max_cmd_sn.next(), Sn(client.cmd_sn.0 - 1), Sn(5)] {
        let pdu = client.command_pdu(&Cdb::TestUnitReady, 0, &[], false);
        client.cmd_sn = pdu.cmd_sn;
        client.send(&ScsiCommand { cmd_sn, ..pdu }.emit(), &[]);
        assert!(client.inbox.is_empty());
    }
    assert_eq!(client.command(&Cdb::TestUnitReady, 0, &[]).0, ScsiStatus::Good);
}

#[test]
fn the_window_closes_when_it_is_full_and_opens_again() {
    let mut client = Client::logged_in();
    let mut itts = Vec::new();
    let mut r2ts = Vec::new();
    for _ in 0..COMMAND_WINDOW {
        let pdu = client.command_pdu(&write(0, 1), 512, &[], true);
        client.send(&pdu.emit(), &[]);
        itts.push(pdu.itt);
        r2ts.push(client.r2t());
    }
    let last = r2ts.last().unwrap().sns;
    assert_eq!(last.max_cmd_sn.next(), last.exp_cmd_sn);
    let pdu = client.command_pdu(&write(0, 1), 512, &[], true);
    client.send(&pdu.emit(), &[]);
    assert!(client.inbox.is_empty(), "beyond the window");
    client.data_out(itts[5], r2ts[5].ttt, 0, 0, &[1; 512], true);
    assert_eq!(client.finish(itts[5]).0, ScsiStatus::Good);
    assert_eq!(client.last.max_cmd_sn, client.last.exp_cmd_sn);
}

#[test]
fn ordered_commands_wait_and_are_waited_for() {
    let mut client = Client::logged_in();
    let first = client.command_pdu(&write(0, 1), 512, &[], true);
    client.send(&first.emit(), &[]);
    let r2t = client.r2t();
    let ordered = ScsiCommand {
        attribute: TaskAttribute::Ordered,
        ..client.command_pdu(&read(0, 1), 512, &[], false)
    };
    client.send(&ordered.emit(), &[]);
    let after = client.command_pdu(&write(0, 1), 512, &[9; 512], true);
    client.send(&after.emit(), &[9; 512]);
    assert!(client.inbox.is_empty());
    client.data_out(first.itt, r2t.ttt, 0, 0, &[8; 512], true);
    assert_eq!(client.finish(first.itt).0, ScsiStatus::Good);
    assert_eq!(client.finish(ordered.itt), (ScsiStatus::Good, vec![8; 512]));
    assert_eq!(client.finish(after.itt).0, ScsiStatus::Good);
}

/// Functions of task management that end tasks.
const ENDING: [u8; 6] = [1, 2, 4, 5, 6, 7];

/// Where a write to the first blocks can be when it is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Point {
    /// It waits for data that an R2T asks for.
    Asked,
    /// It waits for data that comes unasked.
    Unasked,
    /// It has its data, and waits for an ordered command before it.
    Blocked,
    /// It is about to be executed.
    HandedOut,
}

const POINTS: [Point; 4] = [Point::Asked, Point::Unasked, Point::Blocked, Point::HandedOut];

/// What may still come for a task that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Late {
    Nothing,
    /// The data, in two PDUs.
    Data,
    /// Its first half, and then nothing.
    HalfOfIt,
    /// A PDU that does not fit into the transfer.
    WrongData,
    /// The command once more.
    Command,
}

const LATE: [Late; 5] = [Late::Nothing, Late::Data, Late::HalfOfIt, Late::WrongData, Late::Command];

/// Brings a write of 2048 bytes to a point; gives the command and the tag that its data needs.
fn write_at(client: &mut Client, point: Point) -> (ScsiCommand, Ttt) {
    client.idle = true;
    match point {
        Point::Asked => {
            let pdu = client.start_write(0, 4);
            let r2t = client.r2t();
            (pdu, r2t.ttt)
        }
        Point::Unasked => {
            let pdu = client.command_pdu(&write(0, 4), 2048, &[], true);
            let pdu = ScsiCommand { final_pdu: false, ..pdu };
            client.send(&pdu.emit(), &[]);
            (pdu, Ttt::RESERVED)
        }
        Point::Blocked | Point::HandedOut => {
            if point == Point::Blocked {
                let first = client.command_pdu(&write(64, 1), 512, &[], true);
                let attribute = TaskAttribute::Ordered;
                client.send(&ScsiCommand { attribute, ..first }.emit(), &[]);
                client.r2t();
            }
            let pdu = client.command_pdu(&write(0, 4), 2048, &[9; 2048], true);
            client.send(&pdu.emit(), &[9; 2048]);
            (pdu, Ttt::RESERVED)
        }
    }
}

fn send_late(client: &mut Client, (pdu, ttt): (ScsiCommand, Ttt), late: Late) {
    match late {
        Late::Nothing => {}
        Late::Data => {
            client.data_out(pdu.itt, ttt, 0, 0, &[9; 1024], false);
            client.data_out(pdu.itt, ttt, 1, 1024, &[9; 1024], true);
        }
        Late::HalfOfIt => client.data_out(pdu.itt, ttt, 0, 0, &[9; 1024], false),
        Late::WrongData => client.data_out(pdu.itt, ttt, 7, 1 << 20, &[9; 2048], true),
        Late::Command => client.send(&pdu.emit(), &vec![9; pdu.data_bytes as usize]),
    }
    client.work();
}

/// Nothing was written, and the session is as good as new.
fn assert_unharmed(client: &mut Client, attention: bool) {
    client.assert_silent();
    assert_eq!(client.store.contents()[..2048], [0; 2048]);
    client.idle = false;
    if attention {
        let (_, data) = client.command(&Cdb::TestUnitReady, 0, &[]);
        assert_eq!(sense(&data).code(), asc::BUS_DEVICE_RESET);
    }
    assert_eq!(client.command(&write(0, 1), 512, &[2; 512]).0, ScsiStatus::Good);
    assert_eq!(client.command(&read(0, 1), 512, &[]), (ScsiStatus::Good, vec![2; 512]));
}

#[test]
fn a_task_that_was_ended_is_over_whatever_still_comes_for_it() {
    for function in ENDING {
        for (point, late) in POINTS.iter().flat_map(|point| LATE.map(|late| (*point, late))) {
            let mut client = Client::logged_in();
            let task = write_at(&mut client, point);
            let request = client.task_management_pdu(function, task.0.itt);
            client.send(&request.emit(), &[]);
            if matches!(function, 4..=7) {
                // The owner has not confirmed yet that the tasks of other sessions have ended.
                client.assert_silent();
                client.work();
            }
            assert_eq!(client.task_management_response(), 0, "{function}, {point:?}, {late:?}");
            send_late(&mut client, task, late);
            if function == 7 {
                assert_eq!(client.end(), Some(&End::ColdReset));
                assert_eq!(client.store.contents()[..2048], [0; 2048]);
                continue;
            }
            if function == 1 && point == Point::Blocked {
                // The ordered command before it lives on, and waits for its data.
                assert_eq!(client.task_management(2, Itt::RESERVED), 0);
            }
            assert_unharmed(&mut client, function >= 5);
        }
    }
}

#[test]
fn what_another_session_resets_ends_with_task_aborted_whatever_still_comes_for_it() {
    for (point, late) in POINTS.iter().flat_map(|point| LATE.map(|late| (*point, late))) {
        for (function, lun) in [(4, Some(Lun::ZERO)), (5, Some(Lun::ZERO)), (6, None)] {
            let disks = Disks::new();
            let mut client = Client::logged_in_to(&disks, UNSOLICITED);
            let mut other = Client::logged_in_to(&disks, UNSOLICITED);
            let task = write_at(&mut client, point);
            other.idle = true;
            let request = other.task_management_pdu(function, Itt::RESERVED);
            other.send(&request.emit(), &[]);
            assert_eq!(other.events.last(), Some(&Event::Reset { lun, sessions: None }));
            client.target.handle_reset(lun);
            client.drain();
            other.assert_silent();
            other.work();
            assert_eq!(other.task_management_response(), 0);
            if point == Point::Blocked {
                let first = Itt(task.0.itt.0 - 1);
                assert_eq!(client.finish(first).0, ScsiStatus::TaskAborted);
            }
            assert_eq!(client.finish(task.0.itt).0, ScsiStatus::TaskAborted);
            send_late(&mut client, task, late);
            assert_unharmed(&mut client, function >= 5);
        }
    }
}

#[test]
fn task_management_that_is_not_done_is_not_answered_as_done() {
    let mut client = Client::logged_in();
    let pdu = client.start_write(0, 1);
    let r2t = client.r2t();
    assert_eq!(client.task_management(1, Itt(12345)), 1);
    for (function, response) in [(0, 5), (3, 5), (8, 4), (9, 5), (10, 5), (11, 5), (12, 5), (77, 5)]
    {
        assert_eq!(client.task_management(function, pdu.itt), response);
    }
    for function in [2, 4, 5] {
        let request = client.task_management_pdu(function, Itt::RESERVED);
        client.send(&TaskManagementRequest { lun: lun_field(7), ..request }.emit(), &[]);
        assert_eq!(client.task_management_response(), 2);
    }
    // Another logical unit than that of the task.
    for (function, response) in [(1, 1), (2, 0), (4, 0), (5, 0)] {
        let request = client.task_management_pdu(function, pdu.itt);
        client.send(&TaskManagementRequest { lun: lun_field(1), ..request }.emit(), &[]);
        assert_eq!(client.task_management_response(), response);
    }
    client.answer(&r2t, &[5; 512]);
    assert_eq!(client.finish(pdu.itt).0, ScsiStatus::Good, "nothing has touched it");
}

#[test]
fn what_comes_before_a_gap_is_filled_is_executed_in_its_order() {
    let mut client = Client::logged_in();
    let first = client.command_pdu(&write(0, 1), 512, &[1; 512], true);
    let second = client.command_pdu(&read(0, 1), 512, &[], false);
    let third = client.command_pdu(&write(0, 1), 512, &[3; 512], true);
    let nop = (client.next_itt(), client.next_cmd_sn());
    let fifth = client.command_pdu(&write(1, 2), 1024, &[], true);
    let text = client.next_cmd_sn();
    client.send(&ScsiCommand { final_pdu: false, ..fifth }.emit(), &[]);
    client.send(&nop_out_pdu(false, nop.0, Ttt::RESERVED, nop.1, 5).emit(), b"hello");
    client.data_out(fifth.itt, Ttt::RESERVED, 0, 0, &[5; 1024], true);
    let request = TextRequest {
        immediate: false,
        final_pdu: true,
        continues: false,
        lun: 0,
        itt: Itt(900),
        ttt: Ttt::RESERVED,
        cmd_sn: text,
        exp_stat_sn: Sn(0),
        data_bytes: 13,
    };
    client.send(&request.emit(), b"SendTargets=\0");
    client.send(&third.emit(), &[3; 512]);
    client.send(&second.emit(), &[]);
    client.assert_silent();
    client.send(&first.emit(), &[1; 512]);
    let (ping, data) = client.nop_in();
    assert_eq!((ping.itt, &data[..]), (nop.0, &b"hello"[..]));
    assert_eq!(client.text_response().0.itt, Itt(900));
    assert_eq!(client.finish(first.itt).0, ScsiStatus::Good);
    assert_eq!(client.finish(second.itt), (ScsiStatus::Good, vec![1; 512]));
    assert_eq!(client.finish(third.itt).0, ScsiStatus::Good);
    assert_eq!(client.finish(fifth.itt).0, ScsiStatus::Good);
    assert_eq!(client.last.exp_cmd_sn, client.cmd_sn);
    let contents = client.store.contents();
    assert_eq!((contents[0], contents[512], contents[1535]), (3, 5, 5));
}

#[test]
fn a_window_that_is_full_of_early_commands_bears_it() {
    let mut client = Client::logged_in();
    let missing = client.next_cmd_sn();
    let early: Vec<ScsiCommand> = (1..COMMAND_WINDOW)
        .map(|lba| client.command_pdu(&write(lba.into(), 1), 512, &[7; 512], true))
        .collect();
    let beyond = client.command_pdu(&Cdb::TestUnitReady, 0, &[], false);
    for pdu in early.iter().rev() {
        client.send(&pdu.emit(), &[7; 512]);
    }
    client.send(&beyond.emit(), &[]);
    client.assert_silent();
    let nop = client.next_itt();
    client.send(&nop_out_pdu(false, nop, Ttt::RESERVED, missing, 0).emit(), &[]);
    assert_eq!(client.nop_in().0.itt, nop);
    for pdu in &early {
        assert_eq!(client.finish(pdu.itt).0, ScsiStatus::Good);
    }
    client.send(&beyond.emit(), &[]);
    assert_eq!(client.finish(beyond.itt).0, ScsiStatus::Good);
    assert_eq!(client.last.max_cmd_sn.0, client.last.exp_cmd_sn.0 + COMMAND_WINDOW - 1);
}

#[test]
fn a_command_that_is_missing_can_be_aborted() {
    let mut client = Client::logged_in();
    let missing = client.command_pdu(&write(0, 1), 512, &[1; 512], true);
    let early = client.command_pdu(&write(1, 1), 512, &[2; 512], true);
    let last = client.command_pdu(&Cdb::TestUnitReady, 0, &[], false);
    client.send(&early.emit(), &[2; 512]);
    client.send(&last.emit(), &[]);
    let abort = |client: &mut Client, pdu: &ScsiCommand| {
        let request = client.task_management_pdu(1, pdu.itt);
        let ref_cmd_sn = pdu.cmd_sn;
        client.send(&TaskManagementRequest { ref_cmd_sn, ..request }.emit(), &[]);
        client.receive().0
    };
    assert!(
        matches!(abort(&mut client, &early), Response::TaskManagement(pdu) if pdu.response == 0)
    );
    client.assert_silent();
    assert!(
        matches!(abort(&mut client, &missing), Response::TaskManagement(pdu) if pdu.response == 0)
    );
    assert_eq!(client.finish(last.itt).0, ScsiStatus::Good);
    client.send(&missing.emit(), &[1; 512]);
    client.assert_silent();
    assert_eq!(client.store.contents()[..1024], [0; 1024]);
    assert!(
        matches!(abort(&mut client, &missing), Response::TaskManagement(pdu) if pdu.response == 1)
    );
}

#[test]
fn a_reset_of_the_target_does_not_wait_for_what_is_missing() {
    let mut client = Client::logged_in();
    let missing = client.command_pdu(&write(0, 1), 512, &[1; 512], true);
    let early = client.command_pdu(&write(1, 1), 512, &[2; 512], true);
    client.send(&early.emit(), &[2; 512]);
    assert_eq!(client.task_management(6, Itt::RESERVED), 0);
    client.send(&missing.emit(), &[1; 512]);
    client.assert_silent();
    for _ in [0, 1] {
        client.command(&Cdb::TestUnitReady, 0, &[]);
    }
    assert_eq!(client.last.exp_cmd_sn, client.cmd_sn);
    assert_eq!(client.store.contents()[..1024], [0; 1024]);
}

#[test]
fn what_is_kept_behind_a_gap_is_bounded() {
    let mut client = Client::logged_in();
    client.next_cmd_sn();
    for _ in 0..3 {
        assert_eq!(client.end(), None);
        client.nop_out(false, &[0; 30_000]);
    }
    let end = client.end();
    assert!(matches!(end, Some(End::Failed(Error::PeerMisbehaved { .. }))), "{end:?}");
}

#[test]
fn the_reset_of_another_session_ends_tasks_with_task_aborted() {
    let mut client = Client::logged_in();
    let pdu = client.command_pdu(&write(0, 1), 512, &[], true);
    client.send(&pdu.emit(), &[]);
    let r2t = client.r2t();
    client.target.handle_reset(Some(Lun::ZERO));
    client.config.units.reset(Some(Lun::ZERO));
    client.drain();
    assert_eq!(client.finish(pdu.itt).0, ScsiStatus::TaskAborted);
    client.data_out(pdu.itt, r2t.ttt, 0, 0, &[1; 512], true);
    assert!(client.inbox.is_empty());
    let (_, data) = client.command(&Cdb::TestUnitReady, 0, &[]);
    assert_eq!(sense(&data).code(), asc::BUS_DEVICE_RESET);
}

#[test]
fn executing_a_command_late_does_not_touch_what_has_taken_its_place() {
    let mut client = Client::logged_in();
    client.command(&Cdb::TestUnitReady, 0, &[]);
    let Some(&Event::Command { tag, .. }) = client.events.last() else {
        panic!("a command was executed")
    };
    let pdu = client.command_pdu(&write(0, 1), 512, &[], true);
    client.send(&pdu.emit(), &[]);
    let r2t = client.r2t();
    // The owner comes back with a command that is over; the write has its place and no data yet.
    client.target.execute(tag);
    client.drain();
    assert!(client.inbox.is_empty());
    client.data_out(pdu.itt, r2t.ttt, 0, 0, &[1; 512], true);
    assert_eq!(client.finish(pdu.itt).0, ScsiStatus::Good);
    assert_eq!(client.store.contents()[..512], [1; 512]);
}

#[test]
fn a_reset_in_the_middle_of_a_data_segment() {
    let mut client = Client::logged_in();
    let pdu = client.command_pdu(&write(0, 128), 65536, &[], true);
    client.send(&pdu.emit(), &[]);
    let r2t = client.r2t();
    let data = DataOut {
        final_pdu: true,
        lun: 0,
        itt: pdu.itt,
        ttt: r2t.ttt,
        exp_stat_sn: Sn(0),
        data_sn: Sn(0),
        buffer_offset: 0,
        data_bytes: 65536,
    };
    client.send_bytes(&data.emit());
    client.send_bytes(&[1; 30_000]);
    client.target.handle_reset(None);
    client.drain();
    assert_eq!(client.finish(pdu.itt).0, ScsiStatus::TaskAborted);
    client.send_bytes(&[1; 35_536]);
    client.command(&Cdb::TestUnitReady, 0, &[]);
    assert_eq!(client.command(&Cdb::TestUnitReady, 0, &[]).0, ScsiStatus::Good);
    assert_eq!(client.store.contents()[..512], [0; 512]);
}

#[test]
fn discovery_names_the_address_that_the_initiator_uses() {
    let mut client = Client::new();
    client.log_in("Discovery", &[]);
    let request = TextRequest {
        immediate: false,
        final_pdu: true,
        continues: false,
        lun: 0,
        itt: Itt(1),
        ttt: Ttt::RESERVED,
        cmd_sn: client.cmd_sn,
        exp_stat_sn: Sn(0),
        data_bytes: 16,
    };
    client.cmd_sn = client.cmd_sn.next();
    client.send(&request.emit(), b"SendTargets=All\0");
    let (response, text) = client.receive();
    assert!(matches!(response, Response::Text(pdu) if pdu.final_pdu));
    let expected = b"TargetName=iqn.2026-11.io.lunboot:test\0TargetAddress=192.0.2.7:3260,1\0";
    assert_eq!(text, expected);
    let pdu = client.command_pdu(&Cdb::TestUnitReady, 0, &[], false);
    client.send(&pdu.emit(), &[]);
    let (response, header) = client.receive();
    assert!(matches!(response, Response::Reject(pdu) if pdu.reason == Reject::PROTOCOL_ERROR));
    assert_eq!(header, pdu.emit());
}

#[test]
fn pings_in_both_directions() {
    let mut client = Client::logged_in();
    let nop = |itt, ttt, data_bytes| NopOut {
        immediate: true,
        lun: 0,
        itt,
        ttt,
        cmd_sn: Sn(0),
        exp_stat_sn: Sn(0),
        data_bytes,
    };
    client.send(&nop(Itt(77), Ttt::RESERVED, 5).emit(), b"hello");
    let (response, data) = client.receive();
    assert!(matches!(response, Response::NopIn(pdu) if pdu.itt == Itt(77)));
    assert_eq!(data, b"hello");
    client.now = client.target.next_deadline().unwrap();
    client.target.handle_timeout(client.now);
    client.drain();
    let (response, _) = client.receive();
    let Response::NopIn(ping) = response else { panic!("expected a NOP-In") };
    assert_eq!((ping.itt, ping.ttt != Ttt::RESERVED), (Itt::RESERVED, true));
    client.send(&nop(Itt::RESERVED, ping.ttt, 0).emit(), &[]);
    client.target.handle_timeout(client.now);
    client.drain();
    assert!(client.inbox.is_empty() && client.events.last().is_some());
    for _ in 0..2 {
        client.now = client.target.next_deadline().unwrap();
        client.target.handle_timeout(client.now);
        client.drain();
    }
    let end = client.events.last();
    assert!(matches!(end, Some(Event::Ended(End::Failed(Error::TimedOut { .. })))), "{end:?}");
}

#[test]
fn unknown_opcodes_are_rejected_with_their_header() {
    let mut client = Client::logged_in();
    for (opcode, reason) in [
        (0x1c, Reject::COMMAND_NOT_SUPPORTED),
        (0x10, Reject::SNACK_REJECT),
        (0x03, Reject::PROTOCOL_ERROR),
    ] {
        let mut bhs = [0; BHS_BYTES];
        bhs[0] = 0x40 | opcode;
        bhs[7] = 3;
        client.send(&bhs, b"abc");
        let (response, header) = client.receive();
        assert!(matches!(response, Response::Reject(pdu) if pdu.reason == reason), "{response:?}");
        assert_eq!(header, bhs);
    }
    assert_eq!(client.command(&Cdb::TestUnitReady, 0, &[]).0, ScsiStatus::Good);
}

#[test]
fn a_tag_in_use_is_rejected() {
    let mut client = Client::logged_in();
    let pdu = client.command_pdu(&write(0, 1), 512, &[], true);
    client.send(&pdu.emit(), &[]);
    client.r2t();
    let second = client.command_pdu(&write(0, 1), 512, &[], true);
    client.send(&ScsiCommand { itt: pdu.itt, ..second }.emit(), &[]);
    let (response, _) = client.receive();
    assert!(matches!(response, Response::Reject(pdu) if pdu.reason == Reject::TASK_IN_PROGRESS));
}

#[test]
fn logout_ends_the_session_after_its_answer() {
    let mut client = Client::logged_in();
    let logout = |reason, cid, cmd_sn| LogoutRequest {
        immediate: true,
        reason,
        itt: Itt(500),
        cid,
        cmd_sn,
        exp_stat_sn: Sn(0),
    };
    client.send(&logout(1, 8, client.cmd_sn).emit(), &[]);
    assert!(matches!(client.receive().0, Response::Logout(pdu) if pdu.response == 1));
    client.send(&logout(2, 9, client.cmd_sn).emit(), &[]);
    assert!(matches!(client.receive().0, Response::Logout(pdu) if pdu.response == 2));
    client.send(&logout(0, 9, client.cmd_sn).emit(), &[]);
    assert!(matches!(client.receive().0, Response::Logout(pdu) if pdu.response == 0));
    assert_eq!(client.events.last(), Some(&Event::Ended(End::LoggedOut)));
    assert!(client.target.recv_space().is_empty());
}

#[test]
fn too_much_unsolicited_data_fails_the_command_alone() {
    let mut client = Client::logged_in();
    let data = vec![1; 20_000];
    let pdu = client.command_pdu(&write(0, 100), 51200, &data, true);
    client.send(&pdu.emit(), &data);
    let (status, segment) = client.finish(pdu.itt);
    assert_eq!(status, ScsiStatus::CheckCondition);
    assert_eq!(sense(&segment).code(), asc::UNEXPECTED_UNSOLICITED_DATA);
    assert_eq!(client.store.contents()[..512], [0; 512]);
}

#[test]
fn random_bytes_never_panic() {
    let mut state = 0x5851_f42d_4c95_7f2d_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for round in 0..400 {
        let mut client = if round % 4 == 0 { Client::new() } else { Client::logged_in() };
        for _ in 0..20 {
            let mut bhs = [0; BHS_BYTES];
            for byte in &mut bhs {
                *byte = if random() % 3 == 0 { random() as u8 } else { 0 };
            }
            // Opcodes that exist, lengths and numbers that are often plausible.
            bhs[0] = [0, 1, 2, 3, 4, 5, 6, 0x10, 0x1f][random() as usize % 9] | 0x40;
            bhs[1] |= 0x80;
            (bhs[4], bhs[5]) = (0, 0);
            bhs[6] &= 0x0f;
            let length = usize::from(bhs[6]) << 8 | usize::from(bhs[7]);
            client.send(&bhs, &vec![random() as u8; length]);
            client.inbox.clear();
        }
    }
}

#[test]
fn a_command_whose_data_has_one_length_takes_no_other() {
    let mut client = Client::logged_in();
    let flags = TransferFlags::default();
    let swap = |blocks| Cdb::CompareAndWrite { lba: 0, blocks, flags };
    let flags = ProvisioningFlags::default();
    let same = Cdb::WriteSame { size: CdbSize::Ten, lba: 0, blocks: 1, flags };
    for (cdb, wanted, announced) in
        [(swap(1), 1024, 2048), (swap(1), 1024, 512), (swap(0), 0, 1024), (same, 512, 1024)]
    {
        let (status, data) = client.command(&cdb, announced, &vec![0; announced as usize]);
        assert_eq!(status, ScsiStatus::CheckCondition, "{cdb:?} with {announced}");
        assert_eq!(sense(&data).code(), asc::INVALID_FIELD_IN_CDB);
        let (status, _) = client.command(&cdb, wanted, &vec![0; wanted as usize]);
        assert_eq!(status, ScsiStatus::Good, "{cdb:?} with {wanted}");
    }
}

#[test]
fn sense_data_goes_out_in_the_format_that_the_control_page_says() {
    let mut client = Client::logged_in();
    let out_of_range = read(1 << 40, 1);
    let response_code = |client: &mut Client| {
        let (status, data) = client.command(&out_of_range, 512, &[]);
        assert_eq!(status, ScsiStatus::CheckCondition);
        assert_eq!(sense(&data).code(), asc::LBA_OUT_OF_RANGE);
        data[2] & 0x7f
    };
    assert_eq!(response_code(&mut client), 0x70);
    let control = ControlPage {
        descriptor_sense: true,
        queue_algorithm: 1,
        software_write_protect: false,
        task_aborted_status: true,
        busy_timeout: u16::MAX,
    };
    let list = [&[0; 4][..], &control.emit()].concat();
    let (size, parameter_bytes) = (CdbSize::Six, list.len() as u16);
    let select = Cdb::ModeSelect { size, page_format: true, save: false, parameter_bytes };
    let (status, _) = client.command(&select, list.len() as u32, &list);
    assert_eq!(status, ScsiStatus::Good);
    assert_eq!(response_code(&mut client), 0x72);
}
