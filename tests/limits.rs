//! What a session gives up when it was told to: the disk that never came, and requests that wait
//! for a disk that is away. Nothing that had completed is lost by it, and the disk comes back.

mod common;

use std::time::Duration;

use common::meddler::{meddle, response};
use common::tap::with_status;
use common::{Direction, Pair, Settings, pattern, portal};
use lunboot::proto::chap::Secrets;
use lunboot::proto::disk::{self, Op, Tag};
use lunboot::proto::session::{Event, Limits, Portal};
use lunboot::wire::frame::Digests;
use lunboot::wire::pdu::{LoginResponse, Response};
use lunboot::wire::scsi::{ScsiStatus, Sense, SenseKey, asc};

const SECOND: Duration = Duration::from_secs(1);
const WRITE: Op = Op::Write { fua: false };
const GIVEN_UP: Result<(), disk::Error> = Err(disk::Error::GivenUp);

/// How the session ended, before there was a disk.
fn end(pair: &Pair) -> Option<(String, Option<Duration>)> {
    let end = |event: &Event| match event {
        Event::GaveUp { error, after, .. } => Some((error.to_string(), *after)),
        _ => None,
    };
    pair.events.iter().find_map(end)
}

/// How often requests were given up, and how many each time.
fn given_up(pair: &Pair) -> Vec<usize> {
    let given_up = |event: &Event| match event {
        Event::RequestsGivenUp { requests, .. } => Some(*requests),
        _ => None,
    };
    pair.events.iter().filter_map(given_up).collect()
}

// The disk that is to be attached.

fn attaching(limit: Option<u32>, refusals: bool) -> Settings {
    let limits = Limits { attach: limit.map(|limit| SECOND * limit), refusals, io: None };
    Settings { limits, ping_interval: 3600 * SECOND, ..Settings::default() }
}

fn run_to_the_end(pair: &mut Pair) -> (String, Option<Duration>) {
    pair.run_until("the end", |pair| end(pair).is_some());
    assert_eq!(pair.session.next_deadline(), None, "it is over");
    pair.submit(Tag(1), WRITE, 0, &pattern(1, 0, 8));
    assert_eq!(pair.wait_for(Tag(1)).result, GIVEN_UP);
    end(pair).unwrap()
}

#[test]
fn a_target_that_refuses_connections_is_given_up_in_time_with_the_last_cause() {
    let mut pair = Pair::new(attaching(Some(60), true));
    pair.refusing = true;
    let said = "connect to 192.0.2.10:3260: refused".to_owned();
    assert_eq!(run_to_the_end(&mut pair), (said, Some(60 * SECOND)));
    assert_eq!(pair.elapsed(), 60 * SECOND);
}

#[test]
fn a_target_that_says_nothing_is_given_up_in_time() {
    let mut pair = Pair::new(attaching(Some(3), false));
    pair.mute = vec![portal(10)];
    let said = "no answer of the target within 3 s".to_owned();
    assert_eq!(run_to_the_end(&mut pair), (said, Some(3 * SECOND)));
    assert_eq!(pair.elapsed(), 3 * SECOND);
    // And one that takes the connection, but not the login.
    let mut pair = Pair::new(attaching(Some(3), false));
    pair.taps.tamper = Some(Box::new(|direction, pdu, _, _| match direction {
        Direction::Up => pdu,
        Direction::Down => Vec::new(),
    }));
    assert_eq!(run_to_the_end(&mut pair).1, Some(3 * SECOND));
}

#[test]
fn a_disk_that_was_there_is_waited_for_without_end() {
    let mut pair = Pair::logged_in(attaching(Some(3), true));
    pair.refusing = true;
    pair.cut();
    pair.submit(Tag(1), WRITE, 0, &pattern(1, 0, 8));
    pair.run_until("an hour", |pair| pair.elapsed() > 3600 * SECOND);
    pair.refusing = false;
    assert_eq!(pair.wait_for(Tag(1)).result, Ok(()));
    assert_eq!((end(&pair), given_up(&pair)), (None, vec![]));
}

/// Answers each login at this portal with this status.
fn refuse_logins(pair: &mut Pair, at: Portal, class: u8, detail: u8) {
    let reached = pair.reached.clone();
    pair.taps.tamper = Some(Box::new(move |direction, pdu, _, _| {
        if direction == Direction::Up || *reached.borrow() != Some(at.clone()) {
            return pdu;
        }
        let Response::Login(response) = response(&pdu) else { return pdu };
        let refusal = LoginResponse {
            transit: false,
            next_stage: None,
            status_class: class,
            status_detail: detail,
            data_bytes: 0,
            ..response
        };
        refusal.emit().to_vec()
    }));
}

#[test]
fn a_refusal_that_waiting_does_not_change_ends_it_at_once_if_wanted() {
    for (class, detail, is_final) in [
        (2, 0, true),
        (2, 1, true),
        (2, 2, true),
        (2, 3, true),
        (2, 4, true),
        (2, 5, true),
        (2, 6, false),
        (2, 11, true),
        (3, 0, false),
        (3, 1, false),
        (3, 2, false),
    ] {
        for wanted in [true, false] {
            let mut pair = Pair::new(attaching(Some(600), wanted));
            refuse_logins(&mut pair, portal(10), class, detail);
            let (text, after) = run_to_the_end(&mut pair);
            let code = format!("({class:#04x}{detail:02x})");
            // We have no secret, so this can only mean that one is wanted.
            let says = if (class, detail) == (2, 1) { "demands CHAP" } else { &code };
            assert!(text.contains(says), "{text}");
            let at_once = wanted && is_final;
            assert_eq!(after, (!at_once).then_some(600 * SECOND), "{class} {detail}");
            assert_eq!(pair.elapsed(), after.unwrap_or_default());
        }
    }
}

#[test]
fn a_secret_that_does_not_fit_ends_it_after_the_second_try() {
    let target = "initiator node7 correct-horse-7\ntarget rack battery-staple-9\n";
    for (ours, says) in [
        ("initiator node7 wrong-horse-777\n", "refused our name or secret"),
        ("initiator node7 correct-horse-7\ntarget rack fake-staple-999\n", "could not prove"),
        ("", "there is no secret for it"),
    ] {
        let parse = |lines: &str| Secrets::parse(lines).unwrap();
        let settings = Settings {
            secrets: Some(parse(target)),
            chap: (!ours.is_empty()).then(|| parse(ours).into_chap().unwrap()),
            ..attaching(None, true)
        };
        let mut pair = Pair::new(settings);
        let (text, after) = run_to_the_end(&mut pair);
        assert!(text.contains(says), "{text}");
        assert_eq!((after, pair.elapsed()), (None, Duration::ZERO));
        assert!(pair.visited.len() <= 2, "{:?}", pair.visited);
    }
}

#[test]
fn a_unit_that_is_not_there_ends_it_and_one_that_is_not_ready_does_not() {
    for (key, code, is_final) in [
        (SenseKey::IllegalRequest, asc::LOGICAL_UNIT_NOT_SUPPORTED, true),
        (SenseKey::NotReady, (0x04, 0x01), false),
    ] {
        let mut pair = Pair::new(attaching(Some(90), true));
        let sense = Some(Sense::new(key, code));
        meddle(
            &mut pair,
            Box::new(move |direction, bytes| {
                if direction == Direction::Up {
                    return None;
                }
                let Response::ScsiResponse(to) = response(bytes) else { return None };
                let digests = Digests::default();
                Some(vec![with_status(&to, ScsiStatus::CheckCondition, sense, digests)])
            }),
        );
        let after = run_to_the_end(&mut pair).1;
        assert_eq!(after, (!is_final).then_some(90 * SECOND));
    }
}

#[test]
fn a_refusal_at_one_portal_counts_when_all_were_tried() {
    let settings = attaching(None, true);
    let with_portals = |refused: bool| {
        let mut pair = Pair::with_portals(settings.clone(), vec![portal(1), portal(2)]);
        refuse_logins(&mut pair, portal(1), 2, 3);
        if refused {
            pair.refused = vec![portal(2)];
        }
        pair
    };
    let mut pair = with_portals(false);
    pair.run_until("login", |pair| pair.session.is_logged_in());
    assert_eq!(end(&pair), None);
    let mut pair = with_portals(true);
    let (text, after) = run_to_the_end(&mut pair);
    assert!(text.contains("no target of that name"), "{text}");
    assert_eq!(after, None);
    let at_first = |event: &Event| matches!(event, Event::GaveUp { at, .. } if *at == portal(1));
    assert!(pair.events.iter().any(at_first), "it was said at the first portal");
}

// The disk that is away.

const LIMIT: Duration = Duration::from_secs(30);

/// A pair whose requests wait for 30 seconds, and whose disk holds `pattern(1, …)` in its first 32
/// sectors.
fn prepared() -> Pair {
    let limits = Limits { io: Some(LIMIT), ..Limits::default() };
    let settings = Settings { limits, ping_interval: 3600 * SECOND, ..Settings::default() };
    let mut pair = Pair::logged_in(settings);
    pair.write(0, &pattern(1, 0, 32));
    pair.flush();
    pair.events.clear();
    pair
}

/// The target is away from now on, for longer than requests wait.
fn lose(pair: &mut Pair) {
    pair.refusing = true;
    pair.cut();
    pair.run_until("the limit", |pair| pair.session.is_failing());
}

/// It is there again.
fn regain(pair: &mut Pair) {
    pair.refusing = false;
    pair.run_until("the disk", |pair| pair.session.is_logged_in());
    assert!(!pair.session.is_failing());
}

#[test]
fn requests_fail_when_they_have_waited_long_enough_and_new_ones_at_once() {
    let mut pair = prepared();
    for round in 1..4 {
        pair.submit(Tag(1), WRITE, 0, &pattern(2, 0, 8));
        pair.submit(Tag(2), Op::Read, 8, &[0; 4096]);
        pair.submit(Tag(3), Op::Flush, 0, &[]);
        pair.refusing = true;
        pair.cut();
        let lost_at = pair.now;
        pair.run_until("the limit", |pair| !pair.completions.is_empty());
        assert_eq!(pair.now, lost_at + LIMIT);
        for tag in [1, 2, 3] {
            assert_eq!(pair.wait_for(Tag(tag)).result, GIVEN_UP);
        }
        // As long as it is away, and nothing is said twice.
        for _ in 0..10 {
            for op in [Op::Read, WRITE, Op::Flush] {
                let data = if op == Op::Flush { vec![] } else { pattern(3, 16, 8) };
                let before = pair.now;
                assert_eq!(pair.carry_out(op, 16, &data).result, GIVEN_UP);
                assert_eq!(pair.now, before);
            }
            pair.pass_time();
        }
        assert_eq!(given_up(&pair), vec![3; round]);
        regain(&mut pair);
        assert!(pair.read(16, 4096) == pattern(1, 16, 8), "a write came after its failure");
        pair.write(24, &pattern(4, 24, 8));
        assert!(pair.read(24, 4096) == pattern(4, 24, 8));
    }
}

#[test]
fn an_outage_that_is_shorter_is_only_slow_however_often_it_comes() {
    let mut pair = prepared();
    for round in 0..5 {
        pair.submit(Tag(1), WRITE, 0, &pattern(2 + round, 0, 8));
        pair.refusing = true;
        pair.cut();
        let lost_at = pair.now;
        // The next attempt comes five seconds later.
        pair.run_until("some time", |pair| pair.now >= lost_at + LIMIT - 8 * SECOND);
        pair.refusing = false;
        assert_eq!(pair.wait_for(Tag(1)).result, Ok(()));
        // It is there for a while.
        let back_at = pair.now;
        pair.run_until("some time", |pair| pair.now >= back_at + SECOND);
    }
    assert_eq!(given_up(&pair), [0; 0]);
}

#[test]
fn what_had_completed_is_there_again_and_a_later_flush_covers_it() {
    let mut pair = prepared();
    pair.write(0, &pattern(2, 0, 8));
    pair.write(8, &pattern(2, 8, 8));
    // Power is lost over there, and with it the cache.
    pair.restart_target(|| false);
    lose(&mut pair);
    assert_eq!(pair.carry_out(Op::Flush, 0, &[]).result, GIVEN_UP);
    assert_eq!(pair.carry_out(WRITE, 8, &pattern(3, 8, 4)).result, GIVEN_UP);
    assert!(pair.server.store.memory.contents()[..4096] == pattern(1, 0, 8));
    regain(&mut pair);
    pair.flush();
    pair.restart_target(|| false);
    let medium = pair.server.store.memory.contents();
    assert!(medium[..4096] == pattern(2, 0, 8), "a completed write is lost");
    assert!(medium[4096..8192] == pattern(2, 8, 8), "a completed write is lost");
}

#[test]
fn a_limit_that_passes_while_copies_are_written_keeps_them() {
    let mut pair = prepared();
    pair.write(0, &pattern(2, 0, 8));
    pair.submit(Tag(1), WRITE, 8, &pattern(2, 8, 8));
    pair.wait_for(Tag(1));
    pair.restart_target(|| false);
    // From the next login on writes get no answer, and never arrive.
    meddle(
        &mut pair,
        Box::new(|direction, bytes| {
            let is_write = bytes[0] & 0x3f == 1 && [0x2a, 0x8a].contains(&bytes[32]);
            (direction == Direction::Up && is_write).then(Vec::new)
        }),
    );
    pair.submit(Tag(2), Op::Read, 0, &[0; 4096]);
    assert_eq!(pair.wait_for(Tag(2)).result, GIVEN_UP);
    assert_eq!(pair.session.reconnects(), 0, "the disk was not back");
    pair.taps.tamper = None;
    pair.cut();
    pair.run_until("the disk", |pair| pair.session.is_logged_in());
    assert!(pair.read(0, 8192) == [pattern(2, 0, 8), pattern(2, 8, 8)].concat());
}

#[test]
fn a_write_that_was_given_up_does_not_come_later() {
    let mut pair = prepared();
    pair.settings.weather.delay_max = 40 * SECOND;
    pair.submit(Tag(1), WRITE, 0, &pattern(2, 0, 8));
    pair.settle();
    // It is on the line, and the initiator alone sees that the connection is lost.
    pair.refusing = true;
    pair.cut_for_initiator();
    assert_eq!(pair.wait_for(Tag(1)).result, GIVEN_UP);
    pair.settings.weather.delay_max = Duration::ZERO;
    regain(&mut pair);
    pair.write(0, &pattern(3, 0, 8));
    let written_at = pair.now;
    pair.run_until("all to arrive", |pair| pair.now > written_at + 60 * SECOND);
    assert!(pair.read(0, 4096) == pattern(3, 0, 8), "it came after a later one");
}

#[test]
fn a_disk_that_fails_requests_can_be_let_go() {
    let mut pair = prepared();
    pair.submit(Tag(1), WRITE, 0, &pattern(2, 0, 8));
    lose(&mut pair);
    assert_eq!(pair.wait_for(Tag(1)).result, GIVEN_UP);
    pair.log_out();
    assert_eq!(pair.requests_in_flight(), 0);
}
