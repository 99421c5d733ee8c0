//! Reads and writes of every size around every limit, in every way that their data can go, and what
//! is stable after the target has lost power.

mod common;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use common::tap::header_bytes;
use common::{Direction, Pair, Settings, pattern};
use lunboot::proto::disk::{Error, Op, Tag};
use lunboot::proto::params::{DigestChoice, Offer};
use lunboot::store::Store;
use lunboot::wire::frame::Digests;
use lunboot::wire::pdu::{Header, Request, ScsiCommand};

const SEND_BYTES: u32 = 4096;
const RECV_BYTES: u32 = 8192;
const FIRST_BURST_BYTES: u32 = 12_288;
const BURST_BYTES: u32 = 20_480;

/// Every way that data can go to the target.
fn ways() -> Vec<Settings> {
    let mut ways = Vec::new();
    for (index, immediate_data, initial_r2t) in
        [(0, true, true), (1, true, false), (2, false, true), (3, false, false)]
    {
        for (max_outstanding_r2t, digest) in [(1, true), (1, false), (8, true), (8, false)] {
            let digest = if digest { DigestChoice::Always } else { DigestChoice::Never };
            let initiator = Offer {
                header_digest: digest,
                data_digest: digest,
                max_recv_bytes: RECV_BYTES,
                max_burst_bytes: BURST_BYTES,
                first_burst_bytes: FIRST_BURST_BYTES,
                initial_r2t,
                immediate_data,
                max_outstanding_r2t,
                ..Offer::default()
            };
            let target = Offer { max_recv_bytes: SEND_BYTES, ..initiator };
            for block_bytes in [512, 4096] {
                let mut settings =
                    Settings { initiator, target, block_bytes, ..Settings::default() };
                settings.weather.split_bytes_max = [0, 1000, 8192, 50][index];
                ways.push(settings);
            }
        }
    }
    ways
}

/// Lengths in sectors: each limit, once and twice, one block below and above.
fn lengths(block_bytes: u32) -> Vec<u32> {
    let limits = [block_bytes, SEND_BYTES, RECV_BYTES, FIRST_BURST_BYTES, BURST_BYTES, 65_536];
    let around = |limit: u32| [limit.saturating_sub(block_bytes), limit, limit + block_bytes];
    let lengths = limits.into_iter().flat_map(|limit| [limit, 2 * limit]).flat_map(around);
    let mut lengths: Vec<u32> = lengths
        .filter(|bytes| *bytes > 0 && bytes.is_multiple_of(block_bytes))
        .map(|bytes| bytes / 512)
        .collect();
    lengths.sort_unstable();
    lengths.dedup();
    lengths
}

#[test]
fn every_length_arrives_in_every_way() {
    for settings in ways() {
        let block_sectors = u64::from(settings.block_bytes / 512);
        let shown = format!("{settings:?}");
        let mut pair = Pair::logged_in(settings);
        for (writing, sectors) in (1..).zip(lengths(pair.settings.block_bytes)) {
            let start = block_sectors * u64::from(writing % 7);
            let data = pattern(writing, start, sectors);
            pair.write(start, &data);
            let at = start as usize * 512;
            let stored = pair.server.store.memory.contents();
            assert!(stored[at..at + data.len()] == data, "{sectors} sectors stored, {shown}");
            assert!(pair.read(start, data.len()) == data, "{sectors} sectors read, {shown}");
        }
    }
}

#[test]
fn many_at_once_do_not_disturb_each_other() {
    for mut settings in ways() {
        settings.weather.shuffle = true;
        let block_sectors = settings.block_bytes / 512;
        let mut pair = Pair::logged_in(settings);
        for round in 0..2 {
            let op = if round == 0 { Op::Write { fua: false } } else { Op::Read };
            for tag in 0..32u16 {
                let start = u64::from(tag) * 64;
                let sectors = (u32::from(tag) * 2 + 1).next_multiple_of(block_sectors);
                let data = pattern(u32::from(tag) + 1, start, sectors);
                pair.submit(Tag(tag), op, start, &data);
            }
            for tag in 0..32u16 {
                let start = u64::from(tag) * 64;
                let sectors = (u32::from(tag) * 2 + 1).next_multiple_of(block_sectors);
                let done = pair.wait_for(Tag(tag));
                assert_eq!(done.result, Ok(()));
                let data = pattern(u32::from(tag) + 1, start, sectors);
                assert!(done.buffer[..data.len()] == data, "tag {tag}, round {round}");
            }
        }
    }
}

#[test]
fn a_command_goes_before_data_that_waits() {
    let mut settings = Settings::default();
    settings.weather.window_bytes = 64 * 1024;
    let mut pair = Pair::logged_in(settings);
    // Bytes that were sent before the READ.
    let before = Rc::new(Cell::new(None));
    let (found, mut sent) = (before.clone(), 0);
    pair.taps.tamper = Some(Box::new(move |direction, pdu, _, _| {
        if direction == Direction::Up {
            match Request::parse(pdu.first_chunk().unwrap()) {
                Ok(Request::ScsiCommand(command)) if command.read => found.set(Some(sent)),
                _ => sent += pdu.len(),
            }
        }
        pdu
    }));
    for tag in 0..16 {
        let start = u64::from(tag) * 128;
        pair.submit(Tag(tag), Op::Write { fua: false }, start, &pattern(1, start, 128));
    }
    pair.submit(Tag(16), Op::Read, 0, &[0; 512]);
    pair.run_until("all", |pair| pair.requests_in_flight() == 0);
    assert!(pair.completions.iter().all(|done| done.result.is_ok()));
    let before = before.get().expect("the READ was sent");
    assert!(before < 400 * 1024, "{before} of 1 MiB went first");
    for tag in 0..16 {
        assert!(pair.read(tag * 128, 65_536) == pattern(1, tag * 128, 128), "write {tag}");
    }
}

#[test]
fn a_request_longer_than_a_transfer_goes_in_pieces() {
    for transfer_bytes_max in [4096, 24_576, 65_536] {
        let settings = Settings { transfer_bytes_max, block_bytes: 4096, ..Settings::default() };
        let mut pair = Pair::logged_in(settings);
        let data = pattern(1, 8, 256 * 1024 / 512);
        pair.write(8, &data);
        assert!(pair.read(8, data.len()) == data);
    }
}

#[test]
fn zeroes_and_discards_leave_zeroes_where_they_were_asked_for() {
    for settings in ways() {
        let mut pair = Pair::logged_in(settings);
        pair.write(0, &pattern(1, 0, 128));
        let zeroes = Op::WriteZeroes { no_unmap: true, fua: false };
        for (op, start) in [(Op::Discard, 16), (zeroes, 64)] {
            pair.submit_length(Tag(1), op, start, 16, vec![0xa5; 4096]);
            assert_eq!(pair.wait_for(Tag(1)).result, Ok(()));
            let mut expected = pattern(1, 0, 128);
            expected[16 * 512..32 * 512].fill(0);
            if op != Op::Discard {
                expected[64 * 512..80 * 512].fill(0);
            }
            assert!(pair.read(0, 128 * 512) == expected, "{op:?}");
        }
    }
}

/// Writes with `op`, perhaps flushes, loses power and with it the cache; what is then on the disk.
fn after_loss_of_power(op: Op, flush: bool) -> Vec<u8> {
    let mut pair = Pair::logged_in(Settings::default());
    pair.server.store.memory.write_at(&[0x77; 4096], 0).unwrap();
    pair.server.store.memory.flush().unwrap();
    pair.submit(Tag(1), op, 0, &pattern(1, 0, 8));
    assert_eq!(pair.wait_for(Tag(1)).result, Ok(()));
    if flush {
        pair.flush();
    }
    pair.restart_target(|| false);
    // The medium itself: the session would write again what was not flushed.
    pair.server.store.memory.contents()[..4096].to_vec()
}

#[test]
fn what_was_not_flushed_may_be_lost() {
    assert_eq!(after_loss_of_power(Op::Write { fua: false }, false), [0x77; 4096]);
}

#[test]
fn what_was_flushed_or_forced_survives() {
    let new = pattern(1, 0, 8);
    assert_eq!(after_loss_of_power(Op::Write { fua: false }, true), new);
    assert_eq!(after_loss_of_power(Op::Write { fua: true }, false), new);
    let zeroes = Op::WriteZeroes { no_unmap: false, fua: true };
    assert_eq!(after_loss_of_power(zeroes, false), [0; 4096]);
    let zeroes = Op::WriteZeroes { no_unmap: true, fua: false };
    assert_eq!(after_loss_of_power(zeroes, true), [0; 4096]);
}

#[test]
fn every_flush_reaches_the_store() {
    let mut pair = Pair::logged_in(Settings::default());
    let before = pair.server.store.memory.flushes();
    for _ in 0..5 {
        pair.flush();
    }
    assert_eq!(pair.server.store.memory.flushes(), before + 5);
}

#[test]
fn errors_of_the_disk_are_told_apart() {
    let mut pair = Pair::logged_in(Settings::default());
    let outside = pair.session.disk().unwrap().geometry.sectors() - 4;
    assert_eq!(pair.carry_out(Op::Read, outside, &[0; 4096]).result, Err(Error::OutOfRange));
    let write = Op::Write { fua: false };
    assert_eq!(pair.carry_out(write, outside, &[0; 4096]).result, Err(Error::OutOfRange));
    pair.server.store.fail_one_in(1);
    assert_eq!(pair.carry_out(Op::Read, 0, &[0; 4096]).result, Err(Error::Medium));
    assert_eq!(pair.carry_out(write, 0, &[0; 4096]).result, Err(Error::Medium));
    assert_eq!(pair.carry_out(Op::Flush, 0, &[]).result, Err(Error::Medium));
    pair.server.store.fail_one_in(0);
    pair.write(0, &[1; 4096]);
    let mut pair = Pair::logged_in(Settings { read_only: true, ..Settings::default() });
    assert_eq!(pair.carry_out(write, 0, &[0; 4096]).result, Err(Error::ReadOnly));
    assert_eq!(pair.read(0, 512), [0; 512]);
}

#[test]
fn good_with_too_little_data_never_passes_for_a_read() {
    const READ_10: u8 = 0x28;
    let mut pair = Pair::logged_in(Settings::default());
    pair.write(0, &[1; 4096]);
    // Somebody on the way makes every READ one block shorter: the target answers with an underflow.
    pair.taps.tamper = Some(Box::new(|direction, mut pdu, _, _| {
        let is_command = pdu[0] & 0x3f == ScsiCommand::OPCODE;
        if direction == Direction::Up && is_command && pdu[32] == READ_10 {
            pdu[40] -= 1;
        }
        pdu
    }));
    pair.submit(Tag(0), Op::Read, 0, &[0; 4096]);
    let until = pair.now + Duration::from_secs(600);
    pair.run_until("ten minutes", |pair| pair.now >= until);
    assert!(pair.completions.is_empty(), "it is neither done nor an error");
    pair.taps.tamper = None;
    assert_eq!(pair.wait_for(Tag(0)).buffer[..4096], [1; 4096]);
}

#[test]
fn damaged_data_is_found_by_its_digest_and_sent_again() {
    for direction in [Direction::Up, Direction::Down] {
        let mut settings = Settings::default();
        let always = DigestChoice::Always;
        (settings.initiator.header_digest, settings.initiator.data_digest) = (always, always);
        (settings.target.header_digest, settings.target.data_digest) = (always, always);
        let mut pair = Pair::new(settings);
        let mut left = 3;
        pair.taps.tamper = Some(Box::new(move |where_to, mut pdu, digests, _| {
            let begins = data_begins(&pdu, digests);
            // Probes are short; what is long is the test's.
            if where_to == direction && pdu.len() > begins + 4096 && left > 0 {
                left -= 1;
                pdu[begins + 100] ^= 0x10;
            }
            pdu
        }));
        pair.run_until("login", |pair| pair.session.is_logged_in());
        let data = pattern(1, 0, 64);
        pair.write(0, &data);
        assert!(pair.read(0, data.len()) == data, "{direction:?}");
    }
}

fn data_begins(pdu: &[u8], digests: Digests) -> usize {
    header_bytes(&Header::parse(pdu.first_chunk().unwrap()), digests)
}
