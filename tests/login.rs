//! Logins of our initiator at our target: each outcome of a negotiation, and what becomes of one
//! that fails.

mod common;

use std::time::Duration;

use common::{Pair, Settings};
use lunboot::proto::Error;
use lunboot::proto::params::{DigestChoice, Offer};
use lunboot::proto::session::Event;

const CHOICES: [DigestChoice; 4] =
    [DigestChoice::Never, DigestChoice::IfAsked, DigestChoice::IfPossible, DigestChoice::Always];

fn troubles(pair: &Pair) -> Vec<&Error> {
    let mut errors = Vec::new();
    for event in &pair.events {
        if let Event::Trouble { error, .. } = event {
            errors.push(error);
        }
    }
    errors
}

#[test]
fn digests_come_out_as_both_sides_want_them() {
    for ours in CHOICES {
        for theirs in CHOICES {
            let mut settings = Settings::default();
            (settings.initiator.header_digest, settings.initiator.data_digest) = (ours, ours);
            (settings.target.header_digest, settings.target.data_digest) = (theirs, theirs);
            let never = [ours, theirs].contains(&DigestChoice::Never);
            let always = [ours, theirs].contains(&DigestChoice::Always);
            let mut pair = Pair::new(settings);
            if never && always {
                pair.run_until("refusal", |pair| troubles(pair).len() == 2);
                assert!(!pair.session.is_logged_in(), "{ours:?} against {theirs:?}");
                continue;
            }
            pair.run_until("login", |pair| pair.session.is_logged_in());
            // The list of the initiator decides, as far as the target can follow it.
            let wanted = ours == DigestChoice::IfPossible || ours == DigestChoice::Always;
            let expected = always || (wanted && !never);
            let digests = pair.session.negotiated().digests;
            assert_eq!((digests.header, digests.data), (expected, expected), "{ours:?} {theirs:?}");
            pair.write(0, &common::pattern(1, 0, 24));
            assert_eq!(pair.read(0, 24 * 512), common::pattern(1, 0, 24));
        }
    }
}

#[test]
fn numbers_are_the_smaller_ones_and_each_side_sends_what_the_other_takes() {
    let mut settings = Settings::default();
    settings.initiator = Offer {
        max_recv_bytes: 4096,
        max_burst_bytes: 65_536,
        first_burst_bytes: 32_768,
        max_outstanding_r2t: 3,
        ..settings.initiator
    };
    settings.target = Offer {
        max_recv_bytes: 8192,
        max_burst_bytes: 16_384,
        first_burst_bytes: 65_536,
        max_outstanding_r2t: 7,
        ..settings.target
    };
    let pair = Pair::logged_in(settings);
    let agreed = pair.session.negotiated();
    assert_eq!((agreed.max_send_bytes, agreed.max_recv_bytes), (8192, 4096));
    assert_eq!((agreed.max_burst_bytes, agreed.max_outstanding_r2t), (16_384, 3));
    assert_eq!(agreed.first_burst_bytes, 16_384, "no first burst is longer than a burst");
}

#[test]
fn booleans_are_combined_as_the_standard_wants_it() {
    for (ours, theirs) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut settings = Settings::default();
        (settings.initiator.initial_r2t, settings.target.initial_r2t) = (ours, theirs);
        (settings.initiator.immediate_data, settings.target.immediate_data) = (ours, theirs);
        let pair = Pair::logged_in(settings);
        let agreed = pair.session.negotiated();
        assert_eq!(agreed.initial_r2t, ours || theirs);
        assert_eq!(agreed.immediate_data, ours && theirs);
    }
}

#[test]
fn a_login_survives_any_split_of_its_bytes() {
    for split in [1, 2, 3, 5, 47, 48, 49] {
        let mut settings = Settings::default();
        settings.weather.split_bytes_max = split;
        let pair = Pair::logged_in(settings);
        assert!(pair.session.disk().is_some());
    }
}

#[test]
fn the_disk_is_what_the_target_serves() {
    let settings = Settings { block_bytes: 4096, disk_bytes: 3 << 20, ..Settings::default() };
    let mut pair = Pair::logged_in(settings);
    let geometry = &pair.session.disk().unwrap().geometry;
    assert_eq!((geometry.logical_block_bytes, geometry.blocks), (4096, 768));
    assert!(geometry.write_cache && geometry.fua && !geometry.read_only);
    assert!(geometry.unmap.is_some() && geometry.write_zeroes_bytes_max > 0);
    let settings = Settings { read_only: true, ..Settings::default() };
    pair = Pair::logged_in(settings);
    assert!(pair.session.disk().unwrap().geometry.read_only);
}

#[test]
fn a_target_that_is_not_there_is_tried_again_for_ever_and_found_when_it_is() {
    let mut pair = Pair::new(Settings::default());
    pair.refusing = true;
    pair.run_until("an hour of patience", |pair| pair.elapsed() > Duration::from_secs(3600));
    let attempts = troubles(&pair).len();
    assert!((110..140).contains(&attempts), "{attempts} attempts in an hour");
    pair.refusing = false;
    let from = pair.elapsed();
    pair.run_until("login", |pair| pair.session.is_logged_in());
    assert!(pair.elapsed() - from <= Duration::from_secs(30));
}

#[test]
fn a_target_that_accepts_and_says_nothing_is_given_up_and_tried_again() {
    let mut pair = Pair::new(Settings::default());
    while pair.links.is_empty() {
        pair.pass_time();
        pair.step();
    }
    pair.silence();
    pair.run_until("login", |pair| pair.session.is_logged_in());
    assert_eq!(troubles(&pair).len(), 1);
    assert!(matches!(troubles(&pair)[0], Error::TimedOut { .. }), "{:?}", troubles(&pair));
}

#[test]
fn a_logout_ends_both_sides() {
    let mut pair = Pair::logged_in(Settings::default());
    pair.write(0, &[7; 4096]);
    pair.log_out();
    pair.settle();
    assert!(!pair.server.is_connected(0));
    assert!(!pair.session.is_logged_in());
    assert_eq!(pair.session.next_deadline(), None);
}

#[test]
fn a_logout_waits_for_what_is_in_flight() {
    use lunboot::proto::disk::{Op, Tag};
    let mut pair = Pair::logged_in(Settings::default());
    for tag in 0..8u16 {
        pair.submit(Tag(tag), Op::Write { fua: false }, u64::from(tag) * 8, &[tag as u8; 4096]);
    }
    pair.log_out();
    assert_eq!(pair.completions.len(), 8);
    assert!(pair.completions.iter().all(|completion| completion.result.is_ok()));
}
