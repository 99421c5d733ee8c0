//! SANITIZE on the wire: when it is answered, what other commands hear meanwhile, and that nothing
//! an initiator does ends it. The tests are the thread that carries the operation out.

mod common;

use std::sync::Arc;

use common::client::*;
use lunboot::proto::logical_unit::{LogicalUnit, Options, Sanitized};
use lunboot::proto::logical_units::LogicalUnits;
use lunboot::proto::target::Event;
use lunboot::store::Store;
use lunboot::store::memory::MemoryStore;
use lunboot::wire::pdu::{Isid, Itt, Response};
use lunboot::wire::scsi::opcode::sanitize;
use lunboot::wire::scsi::{Cdb, CdbSize, Lun, OverwriteList, ScsiStatus, Sense, asc};

/// Several pieces of an operation.
const SANITIZED_BYTES: u64 = 9 << 20;
const BEGUN: Event = Event::Sanitize { lun: Lun::ZERO };

/// A disk that may be sanitized, full of something.
fn disks() -> Disks {
    let store = Arc::new(MemoryStore::new(SANITIZED_BYTES));
    store.write_at(&pattern(1 << 20), 3 << 20).unwrap();
    let options = Options { sanitize: true, ..Options::default() };
    let unit = LogicalUnit::new(store.clone(), NAME, b"disk", options).unwrap();
    let disks = Disks::with(|config| config.units = LogicalUnits::new(vec![unit]));
    Disks { store, ..disks }
}

fn client(disks: &Disks, number: u8) -> Client {
    let mut client = Client::of(disks);
    client.isid = Isid([0x80, 1, 2, 3, 4, number]);
    client.log_in_and_hear(&[("ImmediateData", "Yes")])
}

fn erase(immediate: bool) -> Cdb {
    let (action, unrestricted) = (sanitize::BLOCK_ERASE, false);
    Cdb::Sanitize { action, immediate, unrestricted, parameter_bytes: 0 }
}

fn unit(disks: &Disks) -> &LogicalUnit {
    disks.config.units.get(Lun::ZERO).unwrap()
}

/// Carries the operation out.
fn finish(disks: &Disks) -> Sanitized {
    loop {
        match unit(disks).sanitize() {
            Sanitized::Piece => continue,
            end => return end,
        }
    }
}

fn is_erased(disks: &Disks) -> bool {
    disks.store.contents().iter().all(|byte| *byte == 0)
}

/// The code of the sense data that a command ends with.
fn refused(client: &mut Client, cdb: &Cdb) -> (u8, u8) {
    let (status, data) = client.command(cdb, 0, &[]);
    assert_eq!(status, ScsiStatus::CheckCondition);
    sense(&data).code()
}

#[test]
fn it_is_answered_when_it_is_over_and_others_are_served_meanwhile() {
    let disks = disks();
    let (mut client, mut other) = (client(&disks, 1), client(&disks, 2));
    let pdu = client.command_pdu(&erase(false), 0, &[], false);
    client.send(&pdu.emit(), &[]);
    assert_eq!(client.events.last(), Some(&BEGUN));
    client.assert_silent();
    assert_eq!(unit(&disks).sanitize(), Sanitized::Piece);
    for client in [&mut client, &mut other] {
        assert_eq!(refused(client, &Cdb::TestUnitReady), asc::NOT_READY_SANITIZE_IN_PROGRESS);
        let request = Cdb::RequestSense { descriptor: false, allocation: 18 };
        let (status, data) = client.command(&request, 18, &[]);
        assert_eq!(status, ScsiStatus::Good);
        let progress = Sense::parse(&data).unwrap().progress;
        assert!(progress.is_some_and(|progress| progress > 0), "{data:x?}");
        client.nop_out(true, b"still there");
        assert_eq!(client.nop_in().1, b"still there");
    }
    // Somebody woke the connection for another reason.
    client.target.handle_sanitized();
    client.drain();
    client.assert_silent();
    assert_eq!(finish(&disks), Sanitized::All);
    client.target.handle_sanitized();
    client.drain();
    assert_eq!(client.finish(pdu.itt).0, ScsiStatus::Good);
    assert!(is_erased(&disks));
    for client in [&mut client, &mut other] {
        assert_eq!(client.command(&Cdb::TestUnitReady, 0, &[]).0, ScsiStatus::Good);
    }
}

#[test]
fn with_immed_it_is_answered_at_once() {
    let disks = disks();
    let mut client = client(&disks, 1);
    assert_eq!(client.command(&erase(true), 0, &[]).0, ScsiStatus::Good);
    assert_eq!(client.events.last(), Some(&BEGUN));
    assert_eq!(refused(&mut client, &read(0, 1)), asc::NOT_READY_SANITIZE_IN_PROGRESS);
    assert_eq!(finish(&disks), Sanitized::All);
    client.target.handle_sanitized();
    client.drain();
    client.assert_silent();
    assert_eq!(client.command(&read(0, 1), 512, &[]), (ScsiStatus::Good, vec![0; 512]));
}

#[test]
fn an_overwrite_takes_its_pattern_from_the_data() {
    let disks = disks();
    let mut client = client(&disks, 1);
    let list = OverwriteList { invert: false, test: 0, count: 1, pattern: vec![0xa5; 512] }.emit();
    let (action, parameter_bytes) = (sanitize::OVERWRITE, list.len() as u16);
    let (immediate, unrestricted) = (true, false);
    let cdb = Cdb::Sanitize { action, immediate, unrestricted, parameter_bytes };
    assert_eq!(client.command(&cdb, list.len() as u32, &list).0, ScsiStatus::Good);
    assert_eq!(finish(&disks), Sanitized::All);
    assert!(disks.store.contents().iter().all(|byte| *byte == 0xa5));
}

#[test]
fn nothing_that_an_initiator_does_ends_it() {
    let disks = disks();
    let (mut client, mut other) = (client(&disks, 1), client(&disks, 2));
    let pdu = client.command_pdu(&erase(false), 0, &[], false);
    client.send(&pdu.emit(), &[]);
    const ABORT_TASK: u8 = 1;
    const LOGICAL_UNIT_RESET: u8 = 5;
    assert_eq!(client.task_management(ABORT_TASK, pdu.itt), 0);
    assert_eq!(other.task_management(LOGICAL_UNIT_RESET, Itt::RESERVED), 0);
    assert_eq!(refused(&mut other, &Cdb::TestUnitReady), asc::BUS_DEVICE_RESET);
    assert_eq!(refused(&mut other, &Cdb::TestUnitReady), asc::NOT_READY_SANITIZE_IN_PROGRESS);
    // The place of the task in the table is used by another one now.
    let write = client.start_write(0, 8);
    client.r2t();
    assert_eq!(finish(&disks), Sanitized::All);
    client.target.handle_sanitized();
    client.drain();
    client.assert_silent();
    assert!(is_erased(&disks));
    client.task_management(ABORT_TASK, write.itt);
    // Nor does the end of its session.
    assert_eq!(client.command(&Cdb::TestUnitReady, 0, &[]).0, ScsiStatus::CheckCondition);
    assert_eq!(client.command(&erase(true), 0, &[]).0, ScsiStatus::Good);
    drop(client);
    assert_eq!(refused(&mut other, &Cdb::TestUnitReady), asc::NOT_READY_SANITIZE_IN_PROGRESS);
    assert_eq!(finish(&disks), Sanitized::All);
    assert_eq!(other.command(&Cdb::TestUnitReady, 0, &[]).0, ScsiStatus::Good);
}

#[test]
fn a_reset_by_another_session_ends_the_task_and_not_the_operation() {
    let disks = disks();
    let mut client = client(&disks, 1);
    let pdu = client.command_pdu(&erase(false), 0, &[], false);
    client.send(&pdu.emit(), &[]);
    client.target.handle_reset(Some(Lun::ZERO));
    client.drain();
    assert_eq!(client.finish(pdu.itt).0, ScsiStatus::TaskAborted);
    assert_eq!(finish(&disks), Sanitized::All);
    client.target.handle_sanitized();
    client.drain();
    client.assert_silent();
    assert!(is_erased(&disks));
}

#[test]
fn a_failure_is_answered_as_one() {
    let disks = disks();
    let mut client = client(&disks, 1);
    let pdu = client.command_pdu(&erase(false), 0, &[], false);
    client.send(&pdu.emit(), &[]);
    unit(&disks).give_up_sanitizing();
    client.target.handle_sanitized();
    client.drain();
    let (status, data) = client.finish(pdu.itt);
    assert_eq!(status, ScsiStatus::CheckCondition);
    assert_eq!(sense(&data).code(), asc::SANITIZE_COMMAND_FAILED);
    assert_eq!(refused(&mut client, &read(0, 1)), asc::SANITIZE_COMMAND_FAILED);
    // Data that is under way for a write to it is not written.
    let (status, _) = client.command(&write(0, 1), 512, &[7; 512]);
    assert_eq!(status, ScsiStatus::CheckCondition);
    assert!(!is_erased(&disks));
}

#[test]
fn whoever_has_not_reserved_the_unit_may_not() {
    let disks = disks();
    let (mut client, mut other) = (client(&disks, 1), client(&disks, 2));
    let reserve = Cdb::Reserve { size: CdbSize::Six, third_party: false, extent: false };
    assert_eq!(other.command(&reserve, 0, &[]).0, ScsiStatus::Good);
    let (status, _) = client.command(&erase(true), 0, &[]);
    assert_eq!(status, ScsiStatus::ReservationConflict);
    assert!(!unit(&disks).is_sanitizing());
    assert!(matches!(client.events.last(), Some(Event::Command { alone: true, .. })));
    assert!(client.inbox.iter().all(|(pdu, _)| !matches!(pdu, Response::Reject(_))));
}
