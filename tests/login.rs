//! Logins of our initiator at our target: each outcome of a negotiation, who has to prove what,
//! and what becomes of a login that fails. Where our initiator would not do what a test wants,
//! [`ByHand`] does.

mod common;

use std::time::Duration;

use common::by_hand::{ByHand, Flags, value};
use common::client::Disks;
use common::{Direction, Pair, Settings};
use lunboot::proto::chap::Secrets;
use lunboot::proto::params::{DigestChoice, Offer};
use lunboot::proto::session::Event;
use lunboot::proto::{Authentication, Error};
use lunboot::wire::pdu::Stage;

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

const SECRETS: &str = "initiator node7 correct-horse-7\ntarget root battery-staple-9\n";
const OPERATIONAL: Flags = Flags::To(Stage::LoginOperationalNegotiation);

/// Both sides with the secrets of these lines.
fn chap(target: &str, initiator: &str) -> Settings {
    let parse = |lines: &str| Secrets::parse(lines).unwrap();
    Settings {
        secrets: (!target.is_empty()).then(|| parse(target)),
        chap: (!initiator.is_empty()).then(|| parse(initiator).into_chap().unwrap()),
        ..Settings::default()
    }
}

#[test]
fn both_sides_prove_who_they_are() {
    let one_way = "initiator node7 correct-horse-7\n";
    for initiator in [one_way, SECRETS] {
        for split in [0, 1, 100] {
            let mut settings = chap(SECRETS, initiator);
            settings.weather.split_bytes_max = split;
            let mut pair = Pair::logged_in(settings);
            assert_eq!(pair.links.len(), 1, "at the first attempt");
            pair.write(0, &common::pattern(1, 0, 8));
            // And again after every loss of the connection.
            pair.cut();
            assert_eq!(pair.read(0, 8 * 512), common::pattern(1, 0, 8));
        }
    }
    // A target without secrets needs none, and takes whoever could have proved himself.
    assert_eq!(Pair::logged_in(chap("", one_way)).links.len(), 1);
}

#[test]
fn whoever_proves_nothing_stays_outside_and_knows_why() {
    let two = "initiator node7 correct-horse-7\ninitiator node8 another-horse-8\n";
    for (target, initiator, expected) in [
        (SECRETS, "", Authentication::NoSecret),
        (SECRETS, "initiator node7 wrong-horse-77\n", Authentication::Refused),
        (SECRETS, "initiator node9 correct-horse-7\n", Authentication::Refused),
        (two, "initiator node8 correct-horse-7\n", Authentication::Refused),
        (two, SECRETS, Authentication::Refused),
        (SECRETS, "initiator node7 correct-horse-7\ntarget root wrong\n", Authentication::Unproven),
        (SECRETS, "initiator node7 correct-horse-7\ntarget no battery-staple-9\n", {
            Authentication::Unproven
        }),
    ] {
        let mut pair = Pair::new(chap(target, initiator));
        pair.run_until("four failures", |pair| troubles(pair).len() == 4);
        assert!(!pair.session.is_logged_in());
        for error in troubles(&pair) {
            assert_eq!(*error, Error::Authentication(expected), "{initiator}");
        }
    }
    // A target without secrets cannot prove itself, and says at once that it knows no CHAP.
    let mut pair = Pair::new(chap("", SECRETS));
    pair.run_until("a failure", |pair| !troubles(pair).is_empty());
    assert!(matches!(troubles(&pair)[0], Error::LoginRefused(_)));
}

/// LIO says nothing to whoever offers no CHAP.
#[test]
fn a_target_that_closes_in_place_of_an_answer_may_want_a_secret() {
    let hint = "it may demand CHAP, for which there is no secret";
    for (secrets, hinted) in [("", true), (SECRETS, false)] {
        let mut pair = Pair::new(chap(SECRETS, secrets));
        pair.cut_after = Some((Direction::Up, 48));
        pair.run_until("a failure", |pair| !troubles(pair).is_empty());
        let said = troubles(&pair)[0].to_string();
        assert!(said.contains("in the middle of the login: look at the log"), "{said}");
        assert_eq!(said.contains(hint), hinted, "{said}");
    }
}

#[test]
fn after_a_refusal_md5_is_offered_alone_once_and_at_once() {
    let mut pair = Pair::new(chap(SECRETS, "initiator node7 wrong-horse-77\n"));
    pair.run_until("four failures", |pair| troubles(pair).len() == 4);
    let pauses: Vec<bool> = pair
        .events
        .iter()
        .filter_map(|event| match event {
            Event::Trouble { retry_after, .. } => Some(retry_after.is_zero()),
            _ => None,
        })
        .collect();
    assert_eq!(pauses, [true, false, true, false]);
}

#[test]
fn a_target_that_refuses_a_list_of_algorithms_is_reached_with_md5() {
    let mut settings = chap(SECRETS, "initiator node7 correct-horse-7\n");
    settings.retry.first = Duration::from_secs(20);
    let mut pair = Pair::new(settings);
    pair.taps.tamper = Some(Box::new(|direction, mut pdu, _, _| {
        // Such a target looks for its number at the beginning of the value.
        let text = b"CHAP_A=8";
        if direction == common::Direction::Up
            && let Some(at) = pdu.windows(text.len()).position(|window| window == text)
        {
            pdu[at..]
                .iter_mut()
                .take_while(|byte| **byte != 0)
                .skip(7)
                .for_each(|byte| *byte = b'9');
        }
        pdu
    }));
    pair.run_until("login", |pair| pair.session.is_logged_in());
    assert_eq!(pair.links.len(), 2);
    assert!(pair.elapsed() < Duration::from_secs(1), "the second attempt is not delayed");
}

#[test]
fn the_target_lets_nobody_past_the_security_stage_without_a_proof() {
    let settings = chap(SECRETS, "");
    // None is not to be had.
    let mut client = ByHand::new(&settings);
    let status = client.refused(OPERATIONAL, &common::by_hand::introduction("None"));
    assert_eq!(status, 0x0201);
    // The stage is left out.
    let mut client = ByHand::new(&settings);
    client.stage = Stage::LoginOperationalNegotiation;
    let names = common::by_hand::introduction("None");
    let names = &names[..names.len() - b"AuthMethod=None\0".len()];
    assert_eq!(client.refused(Flags::To(Stage::FullFeaturePhase), names), 0x0201);
    // It is left too early: that is not granted, and not borne twice.
    for steps in [&["CHAP_A=5\0"][..], &[]] {
        let mut client = ByHand::new(&settings);
        let (response, _) = client.introduce(OPERATIONAL, "CHAP,None");
        assert!(!response.transit && response.status_class == 0);
        for step in steps {
            let (response, _) = client.step(OPERATIONAL, step.as_bytes());
            assert!(!response.transit && response.status_class == 0);
        }
        assert_eq!(client.refused(OPERATIONAL, b""), 0x0201);
        // A stage that nobody has granted does not begin because somebody speaks of it.
        let mut client = ByHand::new(&settings);
        client.introduce(OPERATIONAL, "CHAP");
        client.stage = Stage::LoginOperationalNegotiation;
        assert_eq!(client.refused(Flags::To(Stage::FullFeaturePhase), b"InitialR2T=No\0"), 0x0200);
    }
}

#[test]
fn keys_of_chap_have_their_time() {
    let settings = chap(SECRETS, "");
    let response = "CHAP_N=node7\0CHAP_R=0x00112233445566778899aabbccddeeff\0";
    for (steps, refused) in [
        (&["AuthMethod=CHAP"][..], response),
        (&[], "CHAP_A=5\0"),
        (&["AuthMethod=CHAP"], "AuthMethod=CHAP\0"),
        (&["AuthMethod=CHAP", "CHAP_A=5"], "CHAP_A=5\0"),
        (&["AuthMethod=CHAP", "CHAP_A=5"], "CHAP_N=node7\0"),
        (&["AuthMethod=CHAP", "CHAP_A=5"], "CHAP_N=a\0CHAP_N=b\0"),
    ] {
        let mut client = ByHand::new(&settings);
        let names = "InitiatorName=iqn.2004-10.example:client\0SessionType=Discovery\0";
        client.step(Flags::Stay, names.as_bytes());
        for step in steps {
            let (response, _) = client.step(Flags::Stay, format!("{step}\0").as_bytes());
            assert_eq!(response.status_class, 0, "{steps:?}");
        }
        assert_eq!(client.refused(Flags::Stay, refused.as_bytes()), 0x0200, "{steps:?} {refused}");
    }
}

#[test]
fn a_wrong_answer_ends_the_connection() {
    let mut client = ByHand::new(&chap(SECRETS, ""));
    let response = client.challenged("8,5").response("wrong-horse-77");
    let text = format!("CHAP_N=node7\0CHAP_R={response}\0");
    assert_eq!(client.refused(OPERATIONAL, text.as_bytes()), 0x0201);
    let request = client.request(OPERATIONAL, text.as_bytes());
    client.send_bytes(&request);
    assert!(client.inbox.is_empty());
}

#[test]
fn the_challenge_of_the_target_is_not_answered_by_the_target() {
    let mut client = ByHand::new(&chap(SECRETS, ""));
    let challenged = client.challenged("7");
    let response = challenged.response("correct-horse-7");
    let challenge = common::by_hand::hexadecimal(&challenged.challenge);
    let text = format!("CHAP_N=node7\0CHAP_R={response}\0CHAP_I=1\0CHAP_C={challenge}\0");
    assert_eq!(client.refused(OPERATIONAL, text.as_bytes()), 0x0201);
    // Nor does the answer that the target itself would give let anybody in.
    let same = "initiator root battery-staple-9\n";
    let secrets = Secrets {
        target: Secrets::parse(SECRETS).unwrap().target,
        ..{ Secrets::parse(same).unwrap() }
    };
    let mut client = ByHand::new(&Settings { secrets: Some(secrets), ..Settings::default() });
    let response = client.challenged("7").response("battery-staple-9");
    let text = format!("CHAP_N=root\0CHAP_R={response}\0");
    assert_eq!(client.refused(OPERATIONAL, text.as_bytes()), 0x0201);
}

#[test]
fn an_iscsi_name_is_a_secret_of_its_own_initiator_only() {
    for (name, status) in [("iqn.2004-10.example:client", 0), ("IQN.2004-10.example:other", 0x0202)]
    {
        let lines = format!("initiator {name} correct-horse-7\n");
        let mut client = ByHand::new(&chap(&lines, ""));
        let response = client.challenged("5").response("correct-horse-7");
        let text = format!("CHAP_N={name}\0CHAP_R={response}\0");
        if status == 0 {
            assert!(client.step(OPERATIONAL, text.as_bytes()).0.transit);
        } else {
            assert_eq!(client.refused(OPERATIONAL, text.as_bytes()), status);
        }
    }
}

#[test]
fn a_mutual_exchange_ends_with_the_proof_of_the_target() {
    use lunboot::proto::chap::{Algorithm, Secret};
    let mut client = ByHand::new(&chap(SECRETS, ""));
    let response = client.challenged("8,7,6,5").response("correct-horse-7");
    let challenge = common::by_hand::hexadecimal(&[0x42; 1024]);
    let text = format!("CHAP_C={challenge}\0CHAP_R={response}\0CHAP_I=0xff\0CHAP_N=node7\0");
    let (response, answer) = client.step(OPERATIONAL, text.as_bytes());
    assert_eq!(response.next_stage, Some(Stage::LoginOperationalNegotiation));
    let secret = Secret::new("battery-staple-9");
    let expected = Algorithm::Sha3_256.response(255, &secret, &[0x42; 1024]);
    let expected = common::by_hand::hexadecimal(expected.as_bytes());
    assert_eq!(value(&answer, "CHAP_R"), Some(expected.as_str()));
    assert_eq!(value(&answer, "CHAP_N"), Some("root"));
}

#[test]
fn what_is_open_to_discovery_is_open_to_nothing_else() {
    const NAMES: &str = "InitiatorName=iqn.2004-10.example:client\0";
    let disks = Disks::with(|config| {
        config.secrets = Some(Secrets::parse(SECRETS).unwrap());
        config.open_discovery = true;
    });
    let to = |disks| ByHand::to(disks, common::challenge(7));
    let target = format!("TargetName={}\0", common::client::NAME);
    let full = Flags::To(Stage::FullFeaturePhase);
    // In without the proof that discovery does not need.
    let mut client = to(&disks);
    let text = format!("{NAMES}SessionType=Discovery\0AuthMethod=None\0");
    assert!(client.step(OPERATIONAL, text.as_bytes()).0.transit);
    assert_eq!(client.step(full, b"").0.next_stage, Some(Stage::FullFeaturePhase));
    // And then another session, or both at once, or the other way round.
    let mut client = to(&disks);
    client.step(OPERATIONAL, text.as_bytes());
    let later = format!("{target}SessionType=Normal\0");
    assert_eq!(client.refused(full, later.as_bytes()), 0x0200);
    let mut client = to(&disks);
    let both =
        format!("{NAMES}{target}SessionType=Discovery\0SessionType=Normal\0AuthMethod=None\0");
    assert_eq!(client.refused(OPERATIONAL, both.as_bytes()), 0x0200);
    let mut client = to(&disks);
    client.step(Flags::Stay, format!("{NAMES}{target}").as_bytes());
    let text = b"SessionType=Discovery\0AuthMethod=None\0";
    assert_eq!(client.refused(OPERATIONAL, text), 0x0200);
    // A normal session from the beginning needs a proof.
    let mut client = to(&disks);
    let text = format!("{NAMES}{target}AuthMethod=None\0");
    assert_eq!(client.refused(OPERATIONAL, text.as_bytes()), 0x0201);
}

#[test]
fn a_login_may_take_a_minute_and_no_more() {
    let mut pair = Pair::new(Settings::default());
    while pair.links.is_empty() {
        pair.pass_time();
        pair.step();
    }
    let connected = pair.now;
    let minute = Duration::from_secs(60);
    assert_eq!(pair.session.next_deadline(), Some(connected + minute));
    pair.session.handle_timeout(connected + minute - Duration::from_millis(1));
    assert!(pair.session.poll_event().is_none(), "it was given up too early");
    pair.session.handle_timeout(connected + minute);
    let events: Vec<Event> = std::iter::from_fn(|| pair.session.poll_event()).collect();
    assert!(events.iter().any(|event| matches!(event, Event::Trouble { .. })), "{events:?}");
}
