//! Reservations between the connections of one target: what a victim's tasks end with, and when.

mod common;

use common::client::*;
use lunboot::proto::target::{Event, SessionName};
use lunboot::wire::pdu::Isid;
use lunboot::wire::scsi::opcode::reserve_out;
use lunboot::wire::scsi::{Cdb, CdbSize, Lun, ReserveOutList, ScsiStatus, asc};

/// EXCLUSIVE ACCESS.
const EXCLUSIVE_ACCESS: u8 = 3;
const ALLOWED: &[(&str, &str)] = &[("ImmediateData", "Yes")];

/// The second client is another port of the same initiator.
fn two_clients() -> (Disks, Client, Client) {
    let disks = Disks::new();
    let first = Client::of(&disks).log_in_and_hear(ALLOWED);
    let mut second = Client::of(&disks);
    second.isid = other_isid();
    let second = second.log_in_and_hear(ALLOWED);
    (disks, first, second)
}

fn other_isid() -> Isid {
    Isid([0x80, 1, 2, 3, 4, 6])
}

fn out(action: u8, key: u64, action_key: u64) -> (Cdb, Vec<u8>) {
    let kind = EXCLUSIVE_ACCESS;
    let list = ReserveOutList { key, action_key, ..ReserveOutList::default() }.emit(&[]);
    let parameter_bytes = list.len() as u32;
    (Cdb::PersistentReserveOut { action, scope: 0, kind, parameter_bytes }, list)
}

fn good(client: &mut Client, (cdb, list): (Cdb, Vec<u8>)) {
    assert_eq!(client.command(&cdb, list.len() as u32, &list).0, ScsiStatus::Good);
}

#[test]
fn preempt_and_abort_is_answered_when_the_tasks_of_its_victim_have_ended() {
    let (disks, mut first, mut victim) = two_clients();
    good(&mut first, out(reserve_out::REGISTER, 0, 1));
    good(&mut victim, out(reserve_out::REGISTER, 0, 2));
    good(&mut victim, out(reserve_out::RESERVE, 2, 0));
    let begun = victim.start_write(0, 1);
    let r2t = victim.r2t();

    first.idle = true;
    let (cdb, list) = out(reserve_out::PREEMPT_AND_ABORT, 1, 2);
    let preempt = first.command_pdu(&cdb, list.len() as u32, &list, true);
    first.send(&preempt.emit(), &list);
    first.work();
    first.assert_silent();
    let session = SessionName { initiator: INITIATOR.to_owned(), isid: other_isid() };
    let (lun, sessions) = (Some(Lun::ZERO), Some(vec![session]));
    assert_eq!(first.events.last(), Some(&Event::Reset { lun, sessions }));

    victim.target.handle_reset(lun);
    victim.drain();
    assert_eq!(victim.finish(begun.itt).0, ScsiStatus::TaskAborted);
    first.work();
    assert_eq!(first.finish(preempt.itt).0, ScsiStatus::Good);

    victim.data_out(begun.itt, r2t.ttt, 0, 0, &[1; 512], true);
    victim.assert_silent();
    assert_eq!(disks.store.contents()[..512], [0; 512]);
    assert_eq!(victim.command(&write(0, 1), 512, &[1; 512]).0, ScsiStatus::ReservationConflict);
    let (_, data) = victim.command(&Cdb::TestUnitReady, 0, &[]);
    assert_eq!(sense(&data).code(), asc::REGISTRATIONS_PREEMPTED);
    first.idle = false;
    assert_eq!(first.command(&write(0, 1), 512, &[3; 512]).0, ScsiStatus::Good);
}

#[test]
fn what_is_not_aborted_is_answered_at_once() {
    let (_disks, mut first, mut victim) = two_clients();
    good(&mut first, out(reserve_out::REGISTER, 0, 1));
    good(&mut victim, out(reserve_out::REGISTER, 0, 2));
    let events = first.events.len();
    good(&mut first, out(reserve_out::PREEMPT, 1, 2));
    let asked = |event: &Event| matches!(event, Event::Reset { .. });
    assert!(!first.events[events..].iter().any(asked));
}

#[test]
fn a_logout_and_a_lost_connection_release_the_unit() {
    let reserve = Cdb::Reserve { size: CdbSize::Six, third_party: false, extent: false };
    for logs_out in [true, false] {
        let (_disks, mut first, mut second) = two_clients();
        assert_eq!(first.command(&reserve, 0, &[]).0, ScsiStatus::Good);
        assert_eq!(second.command(&reserve, 0, &[]).0, ScsiStatus::ReservationConflict);
        assert_eq!(second.command(&read(0, 1), 512, &[]).0, ScsiStatus::ReservationConflict);
        if logs_out {
            assert_eq!(first.logout(0, 9).response, 0);
        } else {
            drop(first);
        }
        assert_eq!(second.command(&reserve, 0, &[]).0, ScsiStatus::Good);
        assert_eq!(second.command(&read(0, 1), 512, &[]).0, ScsiStatus::Good);
    }
}
