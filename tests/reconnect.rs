//! Connections that break at every byte of an exchange, and targets that lose their cache: each
//! request completes once, with the right data, whatever the target had already done of it, and
//! whatever it has lost. What was complete stays so.

mod common;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use common::tap::with_status;
use common::{Direction, Pair, Settings, pattern};
use lunboot::proto::Error;
use lunboot::proto::disk::{self, Op, Tag};
use lunboot::proto::params::Offer;
use lunboot::proto::session::Event;
use lunboot::store::Store;
use lunboot::wire::pdu::{DataIn, Response, ScsiCommand, ScsiResponse};
use lunboot::wire::scsi::{ScsiStatus, Sense, SenseKey};

/// Small limits, so that a short exchange has PDUs of every kind: immediate data, unsolicited and
/// solicited Data-Out, R2T, several Data-Ins, responses.
fn settings() -> Settings {
    let offer = Offer {
        max_recv_bytes: 512,
        max_burst_bytes: 1024,
        first_burst_bytes: 1024,
        max_outstanding_r2t: 2,
        ..Settings::default().initiator
    };
    Settings { initiator: offer, target: offer, disk_bytes: 64 * 512, ..Settings::default() }
}

const WRITE: Op = Op::Write { fua: false };

/// A write, a read of what was there before, zeroes, and a flush, all at once; then a look at all
/// of it.
fn exchange(pair: &mut Pair) {
    let zeroes = Op::WriteZeroes { no_unmap: true, fua: true };
    pair.submit(Tag(0), WRITE, 8, &pattern(2, 8, 6));
    pair.submit(Tag(1), Op::Read, 0, &[0; 4 * 512]);
    pair.submit_length(Tag(2), zeroes, 20, 2, vec![0xa5; 4096]);
    pair.submit(Tag(3), Op::Flush, 0, &[]);
    for tag in 0..4 {
        let done = pair.wait_for(Tag(tag));
        assert_eq!(done.result, Ok(()), "tag {tag}");
        if tag == 1 {
            assert_eq!(done.buffer[..4 * 512], pattern(1, 0, 4), "what was read");
        }
    }
    let mut expected = pattern(1, 0, 32);
    expected[8 * 512..14 * 512].copy_from_slice(&pattern(2, 8, 6));
    expected[20 * 512..22 * 512].fill(0);
    assert!(pair.read(0, 32 * 512) == expected, "what is on the disk");
}

fn prepared() -> Pair {
    let mut pair = Pair::logged_in(settings());
    pair.write(0, &pattern(1, 0, 32));
    pair.flush();
    pair
}

/// How many bytes the exchange takes when nothing disturbs it.
fn length(direction: Direction) -> u64 {
    let mut pair = prepared();
    let before = pair.arrived[&direction];
    exchange(&mut pair);
    pair.arrived[&direction] - before
}

#[test]
fn a_cut_at_any_byte_of_an_exchange_goes_unnoticed() {
    for direction in [Direction::Up, Direction::Down] {
        for byte in 1..length(direction) {
            let mut pair = prepared();
            pair.cut_after = Some((direction, byte));
            exchange(&mut pair);
            assert_eq!(pair.session.reconnects(), 1, "{direction:?} {byte}");
        }
    }
}

#[test]
fn a_cut_that_only_the_initiator_sees_goes_unnoticed() {
    // What was sent still reaches the target, while the initiator is already logging in again.
    for steps in 0..60 {
        let mut pair = prepared();
        pair.settings.weather.split_bytes_max = 700;
        pair.submit(Tag(9), WRITE, 30, &pattern(1, 30, 2));
        for _ in 0..steps {
            pair.step();
        }
        pair.cut_for_initiator();
        exchange(&mut pair);
    }
}

#[test]
fn a_cut_at_any_byte_of_a_login_leads_to_another_login() {
    for direction in [Direction::Up, Direction::Down] {
        let bytes = Pair::logged_in(settings()).arrived[&direction];
        for byte in 1..=bytes {
            let mut pair = Pair::new(settings());
            pair.cut_after = Some((direction, byte));
            pair.run_until("login", |pair| pair.session.is_logged_in());
            pair.write(0, &pattern(1, 0, 8));
            assert!(pair.read(0, 8 * 512) == pattern(1, 0, 8));
        }
    }
}

#[test]
fn a_target_that_restarts_without_its_cache_gets_everything_again() {
    // After so many steps; the write of the exchange goes in several commands.
    for steps in 0..120 {
        let mut settings = settings();
        settings.transfer_bytes_max = 1024;
        settings.weather.split_bytes_max = 600;
        let mut pair = Pair::logged_in(settings);
        pair.write(0, &pattern(1, 0, 32));
        pair.flush();
        pair.submit(Tag(9), Op::Write { fua: true }, 24, &pattern(3, 24, 8));
        let zeroes = Op::WriteZeroes { no_unmap: true, fua: true };
        pair.submit_length(Tag(8), zeroes, 16, 4, vec![0xa5; 4096]);
        pair.submit(Tag(7), WRITE, 0, &pattern(3, 0, 8));
        for _ in 0..steps {
            pair.step();
        }
        pair.restart_target(|| false);
        pair.run_until("all", |pair| pair.completions.len() == 3);
        assert!(pair.completions.iter().all(|done| done.result.is_ok()));
        let found = pair.read(0, 32 * 512);
        assert!(found[24 * 512..] == pattern(3, 24, 8), "forced, after {steps} steps");
        assert!(found[16 * 512..20 * 512] == [0; 4 * 512], "forced, after {steps} steps");
        assert!(found[..8 * 512] == pattern(3, 0, 8), "after {steps} steps");
    }
}

/// Writes that are complete and were not flushed, in every way in which that can be, and what the
/// disk has to read as from then on.
fn unflushed(pair: &mut Pair) -> Vec<u8> {
    let zeroes = Op::WriteZeroes { no_unmap: true, fua: false };
    let mut expected = pattern(1, 0, 32);
    for (tag, op, start) in [(Tag(20), zeroes, 14u64), (Tag(21), Op::Discard, 16)] {
        pair.submit_length(tag, op, start, 2, vec![0xa5; 4096]);
        assert_eq!(pair.wait_for(tag).result, Ok(()));
        expected[start as usize * 512..][..2 * 512].fill(0);
    }
    // Forced, over zeroes: a flush makes that stable, and everything before it.
    let done = pair.carry_out(Op::Write { fua: true }, 15, &pattern(5, 15, 1));
    assert_eq!(done.result, Ok(()));
    expected[15 * 512..16 * 512].copy_from_slice(&pattern(5, 15, 1));
    // Each over a part of the one before.
    pair.write(0, &pattern(2, 0, 8));
    pair.write(4, &pattern(3, 4, 8));
    expected[..4 * 512].copy_from_slice(&pattern(2, 0, 4));
    expected[4 * 512..12 * 512].copy_from_slice(&pattern(3, 4, 8));
    // Forced, over what is not flushed.
    let done = pair.carry_out(Op::Write { fua: true }, 6, &pattern(4, 6, 4));
    assert_eq!(done.result, Ok(()));
    expected[6 * 512..10 * 512].copy_from_slice(&pattern(4, 6, 4));
    for (tag, op, start) in [(Tag(22), zeroes, 22u64), (Tag(23), Op::Discard, 24)] {
        pair.submit_length(tag, op, start, 2, vec![0xa5; 4096]);
        assert_eq!(pair.wait_for(tag).result, Ok(()));
        expected[start as usize * 512..][..2 * 512].fill(0);
    }
    pair.write(20, &pattern(6, 20, 1));
    expected[20 * 512..21 * 512].copy_from_slice(&pattern(6, 20, 1));
    expected
}

#[test]
fn what_was_complete_and_not_flushed_survives_the_loss_of_the_targets_cache() {
    for unflushed_bytes_max in [0, 8192, 1 << 20] {
        let mut pair = Pair::logged_in(Settings { unflushed_bytes_max, ..settings() });
        pair.write(0, &pattern(1, 0, 32));
        pair.flush();
        let expected = unflushed(&mut pair);
        for round in 0..3 {
            pair.restart_target(|| false);
            assert!(pair.read(0, 32 * 512) == expected, "{unflushed_bytes_max}, round {round}");
        }
        pair.flush();
        pair.restart_target(|| false);
        assert!(pair.server.store.memory.contents()[..32 * 512] == expected, "what was flushed");
    }
}

#[test]
fn a_target_that_loses_its_cache_while_it_gets_it_back_loses_nothing() {
    for steps in 0..80 {
        let mut settings = settings();
        settings.weather.split_bytes_max = 600;
        let mut pair = Pair::logged_in(settings);
        pair.write(0, &pattern(1, 0, 32));
        pair.flush();
        let expected = unflushed(&mut pair);
        pair.restart_target(|| false);
        for _ in 0..steps {
            if !pair.step() {
                pair.pass_time();
            }
        }
        // What a forced write has left on the medium stays there.
        let medium = pair.server.store.memory.contents();
        assert!(medium[15 * 512..16 * 512] == pattern(5, 15, 1), "after {steps} steps");
        let mut turn = 0;
        pair.restart_target(|| {
            turn += 1;
            turn % 3 == steps % 3
        });
        assert!(pair.read(0, 32 * 512) == expected, "after {steps} steps");
    }
}

#[test]
fn another_login_alone_writes_the_same_again() {
    let mut pair = prepared();
    let expected = unflushed(&mut pair);
    pair.cut();
    assert!(pair.read(0, 32 * 512) == expected);
    assert_eq!(pair.session.reconnects(), 1);
}

#[test]
fn copies_are_bounded_by_flushes_of_the_sessions_own() {
    let mut settings = Settings { unflushed_bytes_max: 64 * 1024, ..Settings::default() };
    settings.disk_bytes = 1 << 20;
    let mut pair = Pair::logged_in(settings);
    let before = pair.server.store.memory.flushes();
    for round in 1..=4u32 {
        for start in (0..2048).step_by(8) {
            pair.write(start, &pattern(round, start, 8));
        }
    }
    // 4 MiB, and a flush for each 32 KiB.
    let flushes = pair.server.store.memory.flushes() - before;
    assert!((100..=128).contains(&flushes), "{flushes} flushes");
    pair.restart_target(|| false);
    assert!(pair.read(0, 1024 * 512) == pattern(4, 0, 1024));
    // One that has no room even in an empty ring.
    let before = pair.server.store.memory.flushes();
    pair.write(0, &pattern(5, 0, 256));
    assert!(pair.server.store.memory.flushes() > before);
    pair.restart_target(|| false);
    assert!(pair.read(0, 256 * 512) == pattern(5, 0, 256));
    // An idle session flushes once more before it goes.
    pair.write(0, &pattern(6, 0, 8));
    pair.log_out();
    pair.restart_target(|| false);
    assert!(pair.server.store.memory.contents()[..8 * 512] == pattern(6, 0, 8));
}

/// The next SCSI Responses become these unit attentions.
fn attentions_instead<const N: usize>(pair: &mut Pair, codes: [(u8, u8); N]) {
    let mut senses = codes.map(|code| Sense::new(SenseKey::UnitAttention, code)).into_iter();
    pair.taps.tamper = Some(Box::new(move |direction, pdu, digests, _| {
        if direction == Direction::Up {
            return pdu;
        }
        match Response::parse(pdu.first_chunk().expect("a whole PDU")) {
            Ok(Response::ScsiResponse(response)) => match senses.next() {
                Some(sense) => {
                    with_status(&response, ScsiStatus::CheckCondition, Some(sense), digests)
                }
                None => pdu,
            },
            _ => pdu,
        }
    }));
}

#[test]
fn a_disk_that_loses_its_cache_behind_a_living_target_loses_nothing() {
    const POWER_ON: (u8, u8) = (0x29, 0x01);
    const MODE_PARAMETERS_CHANGED: (u8, u8) = (0x2a, 0x01);
    let lose = |pair: &mut Pair| {
        let expected = unflushed(pair);
        pair.server.store.memory.lose_cache(|| false);
        expected
    };
    let check = |mut pair: Pair, expected: Vec<u8>| {
        pair.flush();
        assert_eq!(pair.session.reconnects(), 1);
        pair.restart_target(|| false);
        assert!(pair.server.store.memory.contents()[..32 * 512] == expected);
    };
    let mut pair = prepared();
    let expected = lose(&mut pair);
    attentions_instead(&mut pair, [POWER_ON]);
    check(pair, expected);
    // The session is told while it looks at the unit for another reason.
    let mut pair = prepared();
    let expected = lose(&mut pair);
    attentions_instead(&mut pair, [MODE_PARAMETERS_CHANGED, POWER_ON]);
    check(pair, expected);
}

#[test]
fn a_disk_that_loses_its_cache_before_a_logout_loses_nothing() {
    const POWER_ON: (u8, u8) = (0x29, 0x01);
    for wanted_by_target in [true, false] {
        let mut pair = prepared();
        let expected = unflushed(&mut pair);
        pair.server.store.memory.lose_cache(|| false);
        attentions_instead(&mut pair, [POWER_ON]);
        if wanted_by_target {
            pair.server.ask_for_logout(Duration::from_secs(20));
            // The first one hears of it, and the flush behind it is answered well.
            pair.submit(Tag(1), WRITE, 32, &pattern(1, 32, 1));
            pair.submit(Tag(2), Op::Flush, 0, &[]);
            assert_eq!(pair.wait_for(Tag(2)).result, Ok(()));
        } else {
            pair.log_out();
        }
        pair.restart_target(|| false);
        assert!(pair.server.store.memory.contents()[..32 * 512] == expected, "{wanted_by_target}");
    }
}

#[test]
fn a_cache_that_is_switched_on_later_loses_nothing() {
    let mut pair = Pair::new(settings());
    // The caching page says WCE=0, until it says something else.
    let hidden = Rc::new(Cell::new(true));
    let hides = hidden.clone();
    let mode_sense = |pdu: &[u8]| pdu.len() > 54 && pdu[52] & 0x3f == 0x08 && pdu[48] < 64;
    pair.taps.tamper = Some(Box::new(move |direction, mut pdu, _, _| {
        if direction == Direction::Down && hides.get() && mode_sense(&pdu) {
            assert_eq!(pdu[54] & 0x04, 0x04, "WCE, in byte 2 of the page");
            pdu[54] &= !0x04;
        }
        pdu
    }));
    pair.run_until("login", |pair| pair.session.is_logged_in());
    assert!(!pair.session.disk().unwrap().geometry.write_cache);
    pair.write(0, &pattern(1, 0, 32));
    assert_eq!(pair.server.store.memory.flushes(), 0, "what has no cache is not flushed");
    pair.server.store.memory.flush().unwrap();
    hidden.set(false);
    attentions_instead(&mut pair, [(0x2a, 0x01)]);
    let expected = unflushed(&mut pair);
    assert_eq!(pair.session.reconnects(), 1);
    // The block device sends no flushes, because it was made as one without a cache.
    pair.restart_target(|| false);
    assert!(pair.server.store.memory.contents()[..32 * 512] == expected);
}

#[test]
fn a_lost_write_that_cannot_be_done_again_is_told_by_the_next_flush() {
    let mut pair = prepared();
    pair.write(0, &pattern(2, 0, 8));
    pair.write(8, &pattern(2, 8, 8));
    pair.restart_target(|| false);
    pair.server.store.fail_one_in(1);
    pair.run_until("the attempt", |pair| pair.session.reconnects() == 1);
    pair.server.store.fail_one_in(0);
    assert_eq!(pair.lost.len(), 2);
    assert_eq!(pair.carry_out(Op::Flush, 0, &[]).result, Err(disk::Error::Medium));
    assert_eq!(pair.carry_out(Op::Flush, 0, &[]).result, Ok(()));
}

#[test]
fn a_peer_that_falls_silent_is_found_and_replaced() {
    let mut pair = prepared();
    pair.submit(Tag(9), WRITE, 30, &pattern(1, 30, 2));
    pair.silence();
    let before = pair.elapsed();
    exchange(&mut pair);
    let took = pair.elapsed() - before;
    let patience = pair.settings.patience;
    assert!(took <= patience.idle + patience.ping + Duration::from_secs(1), "{took:?}");
    let silent =
        |event: &Event| matches!(event, Event::Trouble { error: Error::TimedOut { .. }, .. });
    assert!(pair.events.iter().any(silent));
}

#[test]
fn a_slow_line_is_not_a_silent_peer() {
    let second = Duration::from_secs(1);
    for op in [Op::Read, WRITE] {
        // 2000 bytes in 200 ms or so: 256 KiB take most of a minute.
        let mut settings = Settings { ping_interval: second, ..Settings::default() };
        (settings.patience.idle, settings.patience.ping) = (second, second);
        settings.weather.window_bytes = 2000;
        settings.weather.delay_max = 400 * second / 1000;
        let mut pair = Pair::logged_in(settings);
        for tag in 0..2u16 {
            pair.submit(Tag(tag), op, 512 * u64::from(tag), &pattern(1, 0, 512));
        }
        pair.run_until("both", |pair| pair.completions.len() == 2);
        assert!(pair.elapsed() > 20 * second, "it was not slow: {:?}", pair.elapsed());
        assert_eq!(pair.session.reconnects(), 0, "{op:?}");
        // And when it does fall silent, that is found.
        pair.submit(Tag(2), op, 0, &pattern(1, 0, 512));
        pair.settle();
        pair.silence();
        let before = pair.elapsed();
        pair.run_until("another connection", |pair| pair.links.len() > 1);
        assert!(pair.elapsed() - before < 4 * second, "{op:?}");
    }
}

#[test]
fn an_idle_connection_is_kept_alive_by_both_sides() {
    let mut pair = prepared();
    let until = pair.now + Duration::from_secs(3600);
    pair.run_until("an hour", |pair| pair.now >= until);
    assert_eq!(pair.session.reconnects(), 0);
    exchange(&mut pair);
}

#[test]
fn an_outage_of_an_hour_is_only_slow() {
    let mut pair = prepared();
    pair.refusing = true;
    pair.submit(Tag(9), WRITE, 30, &pattern(1, 30, 2));
    pair.cut();
    let until = pair.now + Duration::from_secs(3600);
    pair.run_until("an hour", |pair| pair.now >= until);
    assert_eq!(pair.requests_in_flight(), 1);
    pair.refusing = false;
    let before = pair.elapsed();
    pair.wait_for(Tag(9));
    let took = pair.elapsed() - before;
    assert!(took <= pair.settings.retry.max_live, "{took:?} until it went on");
    exchange(&mut pair);
}

#[test]
fn many_requests_survive_many_cuts() {
    let mut settings = settings();
    settings.disk_bytes = 1 << 20;
    settings.weather.split_bytes_max = 2000;
    let mut pair = Pair::logged_in(settings);
    for round in 1..20u32 {
        for tag in 0..32u16 {
            let start = u64::from(tag) * 16;
            pair.submit(Tag(tag), WRITE, start, &pattern(round, start, 16));
        }
        for _ in 0..3 {
            for _ in 0..round * 7 {
                pair.step();
            }
            pair.cut();
        }
        pair.run_until("all", |pair| pair.requests_in_flight() == 0);
        assert_eq!(std::mem::take(&mut pair.completions).len(), 32);
        assert!(pair.read(0, 512 * 512) == pattern(round, 0, 512));
    }
}

#[test]
fn the_exchange_has_pdus_of_every_kind() {
    use std::cell::RefCell;
    let mut pair = Pair::new(settings());
    let seen = Rc::new(RefCell::new(Vec::new()));
    let seen_here = seen.clone();
    pair.taps.tamper = Some(Box::new(move |_, pdu, _, _| {
        seen_here.borrow_mut().push(pdu[0] & 0x3f);
        pdu
    }));
    pair.run_until("login", |pair| pair.session.is_logged_in());
    pair.write(0, &pattern(1, 0, 32));
    exchange(&mut pair);
    const DATA_OUT: u8 = 0x05;
    const R2T: u8 = 0x31;
    for opcode in [ScsiCommand::OPCODE, DATA_OUT, R2T, DataIn::OPCODE, ScsiResponse::OPCODE] {
        assert!(seen.borrow().contains(&opcode), "{opcode:#04x}");
    }
}
