//! Several ways to the target: the first good one is used, another takes over, the target may send
//! us elsewhere; and none of them leads to another disk. Portals that are slow, silent, or good for
//! a moment only hold nobody up.

mod common;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use common::tap::is_login;
use common::{Direction, Pair, Settings, pattern, portal};
use lunboot::proto::disk::{Op, Tag};
use lunboot::proto::session::{Event, Portal};
use lunboot::wire::pdu::{LoginResponse, Response, ScsiCommand, Stage};

const SECOND: Duration = Duration::from_secs(1);
const WRITE: Op = Op::Write { fua: false };

fn pair(portals: &[u8]) -> Pair {
    let settings = Settings { ping_interval: 3600 * SECOND, ..Settings::default() };
    Pair::with_portals(settings, portals.iter().map(|number| portal(*number)).collect())
}

fn log_in(pair: &mut Pair) {
    pair.run_until("login", |pair| pair.session.is_logged_in());
}

fn troubles(pair: &Pair) -> Vec<String> {
    let trouble = |event: &Event| match event {
        Event::Trouble { error, .. } => Some(error.to_string()),
        _ => None,
    };
    pair.events.iter().filter_map(trouble).collect()
}

/// Where each of these was.
fn troubled(pair: &Pair) -> Vec<Portal> {
    let at = |event: &Event| match event {
        Event::Trouble { at, .. } => Some(at.clone()),
        _ => None,
    };
    pair.events.iter().filter_map(at).collect()
}

fn attempts(pair: &Pair) -> Vec<Portal> {
    let attempt = |event: &Event| match event {
        Event::Connect(attempt) => Some(attempt.portal.clone()),
        _ => None,
    };
    pair.events.iter().filter_map(attempt).collect()
}

#[test]
fn a_portal_that_says_nothing_costs_a_quarter_of_a_second() {
    let mut pair = pair(&[1, 2, 3]);
    pair.mute = vec![portal(1)];
    log_in(&mut pair);
    assert_eq!(pair.elapsed(), SECOND / 4);
    assert_eq!(pair.visited, [portal(2)]);
    assert_eq!(troubles(&pair), [""; 0]);
}

#[test]
fn a_portal_that_refuses_costs_nothing() {
    let mut pair = pair(&[1, 2, 3]);
    pair.refused = vec![portal(1), portal(2)];
    log_in(&mut pair);
    assert_eq!(pair.elapsed(), Duration::ZERO);
    assert_eq!(pair.visited, [portal(3)]);
}

#[test]
fn when_all_refuse_each_is_named_and_all_are_tried_again() {
    let mut pair = pair(&[1, 2]);
    pair.refused = vec![portal(1), portal(2)];
    pair.run_until("three rounds", |pair| troubles(pair).len() == 3);
    let said = "connect to 192.0.2.1:3260: refused; connect to 192.0.2.2:3260: refused";
    assert_eq!(troubles(&pair), [said; 3]);
    assert_eq!(pair.elapsed(), 3 * SECOND, "pauses of one and two seconds");
    assert_eq!(attempts(&pair).len(), 6);
    pair.refused.clear();
    log_in(&mut pair);
    assert_eq!(pair.visited, [portal(1)]);
}

#[test]
fn when_all_say_nothing_they_are_tried_again() {
    let mut pair = pair(&[1, 2]);
    pair.mute = vec![portal(1), portal(2)];
    pair.run_until("two rounds", |pair| troubles(pair).len() == 2);
    pair.mute.clear();
    log_in(&mut pair);
    assert!(pair.elapsed() < 30 * SECOND);
}

#[test]
fn another_portal_takes_over_within_ten_seconds() {
    for refuses in [true, false] {
        let mut pair = pair(&[1, 2]);
        log_in(&mut pair);
        pair.write(0, &pattern(1, 0, 8));
        assert_eq!(pair.visited, [portal(1)]);
        pair.submit(Tag(1), WRITE, 8, &pattern(2, 8, 8));
        pair.silence();
        if refuses {
            pair.refused = vec![portal(1)];
        } else {
            pair.mute = vec![portal(1)];
        }
        let before = pair.elapsed();
        pair.wait_for(Tag(1));
        let took = pair.elapsed() - before;
        assert!(took <= 10 * SECOND, "{took:?}");
        assert_eq!(pair.visited, [portal(1), portal(2)]);
        assert_eq!(troubled(&pair), [portal(1)], "the one that was lost");
        // From now on it is the better one, even when both are there.
        (pair.refused, pair.mute) = (vec![], vec![]);
        pair.cut();
        pair.write(0, &pattern(3, 0, 8));
        pair.cut();
        pair.write(0, &pattern(4, 0, 8));
        assert!(pair.read(8, 4096) == pattern(2, 8, 8));
    }
}

#[test]
fn a_login_that_is_refused_at_one_portal_goes_on_at_the_next() {
    let mut pair = pair(&[1, 2]);
    answer_logins(&mut pair, |portal_, _| (portal_ == portal(1)).then_some((3, 1, None)));
    log_in(&mut pair);
    assert_eq!(pair.elapsed(), Duration::ZERO);
    assert_eq!(pair.visited, [portal(1), portal(2)]);
    assert!(troubles(&pair)[0].contains("not in service"), "{:?}", troubles(&pair));
    assert_eq!(troubled(&pair), [portal(1)]);
}

#[test]
fn a_login_without_an_answer_does_not_hold_up_the_others() {
    let mut pair = pair(&[1, 2]);
    let reached = pair.reached.clone();
    pair.taps.tamper = Some(Box::new(move |direction, pdu, _, _| {
        let dead = direction == Direction::Down && *reached.borrow() == Some(portal(1));
        if dead { Vec::new() } else { pdu }
    }));
    log_in(&mut pair);
    assert!(pair.elapsed() <= 10 * SECOND, "{:?}", pair.elapsed());
    assert_eq!(pair.visited, [portal(1), portal(2)]);
}

/// 14 seconds for a login are long, and no reason to stay without a disk.
#[test]
fn a_slow_login_gets_longer_in_each_round() {
    for is_known in [false, true] {
        let mut pair = pair(&[1, 2, 3]);
        if is_known {
            log_in(&mut pair);
        }
        pair.refused = vec![portal(1), portal(3)];
        pair.server.hesitation = 14 * SECOND;
        pair.cut();
        let before = pair.elapsed();
        pair.run_until("a disk", |pair| pair.session.is_logged_in());
        let took = pair.elapsed() - before;
        assert!(took <= 90 * SECOND, "{took:?}");
    }
}

#[test]
fn sessions_that_break_at_once_lead_on_to_the_other_portals() {
    let mut pair = pair(&[1, 2, 3]);
    log_in(&mut pair);
    let reached = pair.reached.clone();
    let mut writes = false;
    pair.taps.tamper = Some(Box::new(move |direction, mut pdu, _, _| {
        if is_login(&pdu) {
            writes = false;
        } else if direction == Direction::Up {
            writes |= pdu[0] & 0x3f == ScsiCommand::OPCODE && pdu[32] == 0x2a;
        } else if writes && *reached.borrow() != Some(portal(3)) {
            // An answer that does not exist.
            pdu[0] = 0x3e;
        }
        pdu
    }));
    let before = pair.elapsed();
    pair.write(0, &pattern(1, 0, 8));
    assert_eq!(pair.elapsed(), before);
    assert_eq!(pair.visited, [portal(1), portal(2), portal(3)]);
}

/// Found by the simulation (seed 95766): what was lost twice in a moment is not given up for one
/// that has said nothing so far.
#[test]
fn a_silent_portal_does_not_hold_up_those_that_were_good_for_a_moment() {
    let mut pair = pair(&[1, 2, 3]);
    pair.mute = vec![portal(3)];
    log_in(&mut pair);
    pair.now += 5 * SECOND;
    for _ in 0..8 {
        pair.cut();
        let before = pair.elapsed();
        pair.write(0, &pattern(1, 0, 8));
        let took = pair.elapsed() - before;
        assert!(took <= 6 * SECOND, "{took:?}");
    }
    assert!(!pair.visited.contains(&portal(3)));
}

#[test]
fn a_portal_that_leads_to_another_disk_is_refused_and_the_others_are_tried() {
    let mut pair = pair(&[1, 2, 3]);
    log_in(&mut pair);
    pair.write(0, &pattern(1, 0, 8));
    // Behind the second portal the disk has another designator.
    let reached = pair.reached.clone();
    let written = Rc::new(Cell::new(0));
    let written_here = written.clone();
    pair.taps.tamper = Some(Box::new(move |direction, mut pdu, _, _| {
        if *reached.borrow() == Some(portal(2)) {
            const DEVICE_IDENTIFICATION: [u8; 2] = [0, 0x83];
            if direction == Direction::Down
                && pdu.len() > 64
                && pdu[48..50] == DEVICE_IDENTIFICATION
            {
                let end = pdu.len() - 8;
                pdu[56..end].iter_mut().for_each(|byte| *byte ^= 1);
            }
            if direction == Direction::Up && pdu[0] & 0x3f == 1 && [0x2a, 0x93].contains(&pdu[32]) {
                written_here.set(written_here.get() + 1);
            }
        }
        pdu
    }));
    pair.submit(Tag(1), WRITE, 8, &pattern(2, 8, 8));
    pair.refused = vec![portal(1)];
    pair.cut();
    assert_eq!(pair.wait_for(Tag(1)).result, Ok(()));
    assert_eq!(pair.visited, [portal(1), portal(2), portal(3)]);
    assert_eq!(written.get(), 0, "something was written to the other disk");
    let said = troubles(&pair);
    assert!(said.iter().any(|text| text.contains("another disk")), "{said:?}");
    assert!(pair.read(8, 4096) == pattern(2, 8, 8));
}

// Redirection.

/// Status class, detail and TargetAddress that a login is answered with instead.
type Answer = (u8, u8, Option<String>);

/// Answers logins at a portal otherwise; `number` counts them.
fn answer_logins(pair: &mut Pair, answer: impl Fn(Portal, u32) -> Option<Answer> + 'static) {
    let reached = pair.reached.clone();
    let count = Cell::new(0);
    pair.taps.tamper = Some(Box::new(move |direction, pdu, _, _| {
        if direction == Direction::Up || !is_login(&pdu) {
            return pdu;
        }
        let Ok(Response::Login(response)) = Response::parse(pdu.first_chunk().unwrap()) else {
            return pdu;
        };
        if response.stage != Stage::SecurityNegotiation {
            return pdu;
        }
        count.set(count.get() + 1);
        let portal = reached.borrow().clone().expect("a login comes over a link");
        let Some((class, detail, address)) = answer(portal, count.get()) else { return pdu };
        let mut data = Vec::new();
        if let Some(address) = address {
            data.extend_from_slice(format!("TargetAddress={address}\0").as_bytes());
        }
        let response = LoginResponse {
            transit: false,
            next_stage: None,
            status_class: class,
            status_detail: detail,
            data_bytes: data.len() as u32,
            ..response
        };
        data.resize(data.len().next_multiple_of(4), 0);
        [response.emit().to_vec(), data].concat()
    }));
}

const TEMPORARILY: u8 = 1;
const PERMANENTLY: u8 = 2;

#[test]
fn a_redirection_is_followed_in_every_form_of_the_address() {
    for (address, shown) in [
        ("192.0.2.7", "192.0.2.7:3260"),
        ("192.0.2.7,1", "192.0.2.7:3260"),
        ("192.0.2.7:3261,5", "192.0.2.7:3261"),
        ("[2001:db8::7]", "[2001:db8::7]:3260"),
        ("[2001:db8::7]:3261,1", "[2001:db8::7]:3261"),
        ("storage.example", "storage.example:3260"),
        ("storage.example:99,1", "storage.example:99"),
    ] {
        for how in [TEMPORARILY, PERMANENTLY] {
            let mut pair = pair(&[1]);
            let sent = Some(address.to_owned());
            answer_logins(&mut pair, move |at, _| {
                (at == portal(1)).then(|| (1, how, sent.clone()))
            });
            log_in(&mut pair);
            assert_eq!(pair.elapsed(), Duration::ZERO);
            assert_eq!(pair.session.portal().to_string(), shown);
            assert_eq!(pair.visited.len(), 2);
            assert_eq!(troubles(&pair), [""; 0]);
            pair.write(0, &pattern(1, 0, 8));
            // The next time.
            pair.cut();
            assert!(pair.read(0, 4096) == pattern(1, 0, 8));
            let first = &pair.visited[2];
            match how {
                TEMPORARILY => assert_eq!(*first, portal(1)),
                _ => assert_eq!(first.to_string(), shown),
            }
        }
    }
}

#[test]
fn where_a_redirection_leads_nowhere_the_old_address_is_asked_again() {
    for how in [TEMPORARILY, PERMANENTLY] {
        let mut pair = pair(&[1]);
        answer_logins(&mut pair, move |at, count| {
            (at == portal(1) && count < 3).then(|| (1, how, Some("192.0.2.7".into())))
        });
        pair.refused = vec![portal(7)];
        log_in(&mut pair);
        assert_eq!(pair.visited, vec![portal(1); 3]);
        assert_eq!(troubles(&pair), ["connect to 192.0.2.7:3260: refused"; 2]);
        assert_eq!(troubled(&pair), vec![portal(7); 2]);
        let number = |event: &Event| match event {
            Event::Redirected { attempt, .. } => Some(*attempt),
            _ => None,
        };
        assert_eq!(pair.events.iter().filter_map(number).collect::<Vec<_>>(), [1, 2]);
    }
}

#[test]
fn an_address_that_was_left_for_good_is_asked_again_when_the_new_one_is_gone() {
    let mut pair = pair(&[1]);
    answer_logins(&mut pair, |at, count| {
        // To 7, 8 and 9, one after the other.
        let next = || format!("192.0.2.{}", 6 + count.div_ceil(2));
        (at == portal(1) && count < 6).then(|| (1, PERMANENTLY, Some(next())))
    });
    log_in(&mut pair);
    pair.write(0, &pattern(1, 0, 8));
    for gone in [7, 8, 9] {
        assert_eq!(pair.visited.last(), Some(&portal(gone)));
        let before = pair.elapsed();
        pair.silence();
        pair.mute.push(portal(gone));
        assert!(pair.read(0, 4096) == pattern(1, 0, 8));
        assert!(pair.elapsed() - before <= 10 * SECOND, "{:?}", pair.elapsed() - before);
    }
    assert_eq!(pair.visited.last(), Some(&portal(1)));
}

#[test]
fn a_redirection_without_an_end_is_refused_with_the_addresses() {
    let next = Rc::new(RefCell::new(|number: u8| number % 3 + 1));
    let mut looping = pair(&[1]);
    let rule = next.clone();
    answer_logins(&mut looping, move |at, _| {
        let Portal::Address(address) = at else { return None };
        let std::net::IpAddr::V4(address) = address.ip() else { return None };
        let next = (rule.borrow())(address.octets()[3]);
        Some((1, TEMPORARILY, Some(format!("192.0.2.{next}"))))
    });
    looping.run_until("the end of it", |pair| !troubles(pair).is_empty());
    assert_eq!(
        troubles(&looping),
        ["the target redirects without an end (192.0.2.1:3260, 192.0.2.2:3260, 192.0.2.3:3260, \
          192.0.2.1:3260): check what it redirects"]
    );
    assert_eq!(looping.visited.len(), 3);

    let mut long = pair(&[1]);
    answer_logins(&mut long, move |_, count| {
        Some((1, PERMANENTLY, Some(format!("192.0.2.{}", 10 + count))))
    });
    long.run_until("the end of it", |pair| !troubles(pair).is_empty());
    assert_eq!(long.visited.len(), 9, "eight redirections are followed");
    assert!(troubles(&long)[0].contains("192.0.2.18:3260"), "{:?}", troubles(&long));
}

#[test]
fn a_redirection_to_nothing_is_an_error_that_names_it() {
    for address in [None, Some(""), Some("192.0.2.7:x"), Some("a b"), Some("../../x")] {
        let mut pair = pair(&[1]);
        answer_logins(&mut pair, move |_, count| {
            (count == 1).then(|| (1, TEMPORARILY, address.map(str::to_owned)))
        });
        log_in(&mut pair);
        assert_eq!(troubles(&pair).len(), 1, "{address:?}");
        assert_eq!(pair.visited, [portal(1), portal(1)]);
    }
}
