//! What has brought other targets and initiators down, each with the input that triggered it.
//!
//! A test is named after its row in our list of known vulnerabilities; the comment above it says
//! what happened to whom.

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use common::Settings;
use common::by_hand::{ByHand, Flags, hexadecimal, introduction, value};
use lunboot::proto::chap::Secrets;
use lunboot::proto::random::Random;
use lunboot::proto::target::End;
use lunboot::secrets;
use lunboot::wire::pdu::{BHS_BYTES, Stage};

const OPERATIONAL: Flags = Flags::To(Stage::LoginOperationalNegotiation);
const FULL: Flags = Flags::To(Stage::FullFeaturePhase);

const INITIATOR_ERROR: u16 = 0x0200;
const AUTHENTICATION_FAILURE: u16 = 0x0201;

fn open() -> ByHand {
    ByHand::new(&Settings::default())
}

fn guarded() -> ByHand {
    let secrets = "initiator node7 correct-horse-7\ntarget root battery-staple-9\n";
    let secrets = Some(Secrets::parse(secrets).unwrap());
    ByHand::new(&Settings { secrets, ..Settings::default() })
}

/// The login ends with a refusal or the connection without one; nothing else may have happened.
fn assert_over(client: &ByHand, what: &str) {
    let end = client.end();
    assert!(matches!(end, Some(End::Refused(_) | End::Failed(_))), "{what}: {end:?}");
}

// CVE-2024-45751, tgt: challenges from a generator that always began with the same seed.
#[test]
fn row_01_challenges_do_not_repeat_and_nothing_old_is_accepted() {
    let secrets = Secrets::parse("initiator node7 correct-horse-7\n").unwrap();
    let settings = Settings { secrets: Some(secrets), ..Settings::default() };
    let mut seen = BTreeSet::new();
    let mut heard = None;
    for _ in 0..1000 {
        let mut client = ByHand::with_challenge(&settings, secrets::challenge());
        let challenged = client.challenged("5");
        assert!(seen.insert(challenged.challenge.clone()), "a challenge came twice");
        let response = heard.get_or_insert_with(|| challenged.response("correct-horse-7"));
        if seen.len() > 1 {
            // What was right for an earlier challenge is wrong for this one.
            let text = format!("CHAP_N=node7\0CHAP_R={response}\0");
            assert_eq!(client.refused(OPERATIONAL, text.as_bytes()), AUTHENTICATION_FAILURE);
        }
    }
}

// CVE-2011-0001, tgt: a login whose additional headers or data did not fit the receive area.
#[test]
fn row_02_additional_headers_and_data_of_any_announced_length_are_bounded() {
    let lengths = [0, 1, 3, 4, 511, 8188, 8191, 8192, 8193, 16_384, 1 << 20, (1 << 24) - 1];
    for stage in [Stage::SecurityNegotiation, Stage::LoginOperationalNegotiation] {
        for additional in 0..=255 {
            for length in lengths {
                let mut client = open();
                if stage != Stage::SecurityNegotiation {
                    client.introduce(OPERATIONAL, "None");
                }
                let mut header = client.request(Flags::Stay, b"")[..BHS_BYTES].to_vec();
                header[4] = additional;
                header[5..8].copy_from_slice(&u32::to_be_bytes(length)[1..]);
                client.send_bytes(&header);
                client.send_bytes(&[0; 2048]);
                let what = format!("{additional} words of headers, {length} bytes of data");
                if length > 8192 {
                    assert_over(&client, &what);
                }
                assert!(client.target.recv_space().len() <= 256 * 1024, "{what}");
            }
        }
    }
}

// CVE-2010-2221, tgt, IET and SCST: an iSCSI name longer than the place for it.
#[test]
fn row_03_names_of_any_length_are_refused_from_224_bytes_on() {
    for length in [0, 1, 223, 224, 1024, 8000, 16_000, 65_536] {
        for key in ["InitiatorName", "TargetName", "SessionType", "InitiatorAlias", "AuthMethod"] {
            let mut client = open();
            let value = "n".repeat(length);
            let mut text = format!("{key}={value}\0").into_bytes();
            if key != "InitiatorName" {
                text.extend_from_slice(b"InitiatorName=iqn.2004-10.example:client\0");
            }
            send_in_parts(&mut client, &text);
            let is_harmless = key == "InitiatorAlias" && length < 16_000;
            if !is_harmless {
                assert_over(&client, &format!("{key} of {length} bytes"));
            }
        }
    }
    // SendTargets is the third place where a name is read.
    let mut client = open();
    client.introduce(OPERATIONAL, "None");
    let text = format!("SendTargets={}\0", "n".repeat(8000));
    let (response, answer) = client.step(Flags::Stay, text.as_bytes());
    assert_eq!(response.status_class, 0);
    assert_eq!(value(&answer, "SendTargets"), Some("NotUnderstood"));
}

/// Text in as many PDUs as it takes, until the target has had enough.
fn send_in_parts(client: &mut ByHand, text: &[u8]) {
    let mut parts = text.chunks(8192).peekable();
    while let Some(part) = parts.next() {
        let flags = if parts.peek().is_some() { Flags::Continues } else { OPERATIONAL };
        let request = client.request(flags, part);
        client.send_bytes(&request);
    }
}

// CVE-2010-0743, tgt: a name that was logged as a format string.
#[test]
fn row_04_no_value_reaches_a_log_as_anything_but_shown_text() {
    for evil in ["%n%s%n%s%x", "{0}{}{:?}", "a\nlogin of root", "\x1b[2J", "\r\u{85}\u{7f}\u{9b}"] {
        for key in ["InitiatorName", "TargetName", "SessionType", "AuthMethod", "CHAP_A", "X-evil"]
        {
            let mut client = guarded();
            let names = "InitiatorName=iqn.2004-10.example:client\0";
            let names = if key == "InitiatorName" { "" } else { names };
            let request = client.request(Flags::Stay, format!("{names}{key}={evil}\0").as_bytes());
            client.send_bytes(&request);
            if let Some(End::Refused(error) | End::Failed(error)) = client.end() {
                let line = error.to_string();
                assert!(
                    !line.chars().any(char::is_control),
                    "{key}={evil:?} is logged as {line:?}"
                );
            }
        }
    }
    let mut client = guarded();
    let response = client.challenged("5").response("x");
    let text = format!("CHAP_N=\x1b[2J%n\nnode7\0CHAP_R={response}\0");
    assert_eq!(client.refused(OPERATIONAL, text.as_bytes()), AUTHENTICATION_FAILURE);
    let Some(End::Refused(error)) = client.end() else { panic!("it was refused") };
    assert!(!error.to_string().chars().any(char::is_control), "{error}");
}

// CVE-2013-2850, LIO: the answer to a very long unknown key did not fit its place.
#[test]
fn row_05_a_very_long_unknown_key_gets_a_bounded_answer() {
    for length in [1, 62, 63, 64, 255, 4096, 8000, 65_536] {
        let mut client = open();
        client.introduce(OPERATIONAL, "None");
        let key = "K".repeat(length);
        let text = format!("{key}=1\0").into_bytes();
        if length <= 63 {
            let (response, answer) = client.step(FULL, &text);
            assert_eq!(response.status_class, 0);
            assert_eq!(value(&answer, &key), Some("NotUnderstood"));
        } else {
            send_in_parts(&mut client, &text);
            assert_over(&client, &format!("key of {length} bytes"));
        }
    }
}

#[test]
fn row_05_many_unknown_keys_get_their_answers_in_parts() {
    let mut client = open();
    client.introduce(OPERATIONAL, "None");
    let text: String = (0..900).map(|number| format!("K{number}=1\0")).collect();
    let (mut response, mut answer) = client.step(FULL, text.as_bytes());
    assert!(response.continues && !response.transit, "it does not fit one PDU");
    while response.continues {
        let (next, part) = client.step(FULL, b"");
        response = next;
        answer += &part;
    }
    assert_eq!(response.next_stage, Some(Stage::FullFeaturePhase));
    for number in 0..900 {
        assert_eq!(value(&answer, &format!("K{number}")), Some("NotUnderstood"));
    }
    // As many as one step may bring, and more than there may be answers.
    let mut client = open();
    client.introduce(OPERATIONAL, "None");
    send_in_parts(&mut client, &b"K=\0".repeat(16 * 1024 / 3));
    assert_over(&client, "answers of more than 64 KiB");
}

// LIO: the answers to very many known keys in one login did not fit 8 KiB.
#[test]
fn row_06_two_thousand_known_keys_end_at_the_first_that_comes_twice() {
    for key in ["MaxBurstLength=512", "InitialR2T=Yes", "HeaderDigest=None,CRC32C", "OFMarker=No"] {
        let mut client = open();
        client.introduce(OPERATIONAL, "None");
        let text = format!("{key}\0").repeat(2000);
        let text = &text.as_bytes()[..8000];
        assert_eq!(client.refused(FULL, &[text, b"\0"].concat()), INITIATOR_ERROR);
    }
    let mut client = open();
    let names = b"InitiatorName=iqn.2004-10.example:client\0".repeat(190);
    let (response, answer) =
        client.step(Flags::Stay, &[&names[..], &introduction("None")].concat());
    assert_eq!(response.status_class, 0, "the same name again is the same name");
    assert!(answer.len() < 100);
}

// CVE-2026-90011, LIO: a login data segment that is full and has no last zero.
#[test]
fn row_07_text_without_a_last_zero_is_taken_at_its_length() {
    for length in (0..=8192).step_by(7).chain(8180..=8192) {
        let mut client = open();
        client.introduce(OPERATIONAL, "None");
        let mut text = b"X-a=".to_vec();
        text.resize(length.max(4), b'v');
        text.truncate(length);
        let is_pair = text.len() >= 4 || text.is_empty();
        if is_pair {
            let (response, answer) = client.step(Flags::Stay, &text);
            assert_eq!(response.status_class, 0, "{length} bytes");
            let expected = (!text.is_empty()).then_some("NotUnderstood");
            assert_eq!(value(&answer, "X-a"), expected);
        } else {
            assert_eq!(client.refused(Flags::Stay, &text), INITIATOR_ERROR);
        }
    }
}

#[test]
fn row_07_text_may_be_cut_at_every_byte_by_the_c_bit() {
    let text = b"MaxBurstLength=65536\0X-a=1\0InitialR2T=No";
    for at in 0..=text.len() {
        let mut client = open();
        client.introduce(OPERATIONAL, "None");
        let (response, answer) = client.step(Flags::Continues, &text[..at]);
        assert!(response.status_class == 0 && answer.is_empty() && !response.transit);
        let (response, answer) = client.step(FULL, &text[at..]);
        assert_eq!(response.next_stage, Some(Stage::FullFeaturePhase), "cut after {at} bytes");
        assert_eq!(value(&answer, "MaxBurstLength"), Some("65536"));
        assert_eq!(value(&answer, "X-a"), Some("NotUnderstood"));
        assert_eq!(value(&answer, "InitialR2T"), Some("No"));
    }
}

#[test]
fn row_07_parts_for_ever_are_refused() {
    for part in [&b""[..], b"K", &[b'v'; 8192]] {
        let mut client = open();
        let mut sent = 0;
        while client.end().is_none() {
            let request = client.request(Flags::Continues, part);
            client.send_bytes(&request);
            sent += 1;
            assert!(sent <= 65, "parts of {} bytes are taken for ever", part.len());
        }
        assert_over(&client, "parts for ever");
    }
}

// LIO, several: oversize CHAP_R, odd CHAP_I, CHAP_A compared by its beginning only.

/// What comes back for values of CHAP that are odd, after a good challenge.
fn answer_with(name: &str, response: &str, more: &str) -> u16 {
    let mut client = guarded();
    client.challenged("5");
    let text = format!("CHAP_N={name}\0CHAP_R={response}\0{more}");
    client.refused(OPERATIONAL, text.as_bytes())
}

#[test]
fn row_08_odd_responses_are_refused() {
    let sixteen = "ab".repeat(16);
    for wrong in [
        format!("0x{sixteen}"),
        "0x00".to_owned(),
        format!("0x{}", "00".repeat(1024)),
        format!("0b{}", "AAAA".repeat(5)),
    ] {
        assert_eq!(answer_with("node7", &wrong, ""), AUTHENTICATION_FAILURE, "{wrong}");
        assert_eq!(answer_with("nobody", &wrong, ""), AUTHENTICATION_FAILURE, "{wrong}");
    }
    for malformed in [
        String::new(),
        "0x".to_owned(),
        "0b".to_owned(),
        sixteen.clone(),
        format!("0x{sixteen}a"),
        format!("0x{}", "zz".repeat(16)),
        format!("0x{}", "00".repeat(1025)),
        format!("0x{}", "0".repeat(7900)),
        format!("0b{}", "AAAA".repeat(1900)),
        "0bAAA".to_owned(),
        "0b====".to_owned(),
    ] {
        assert_eq!(answer_with("node7", &malformed, ""), INITIATOR_ERROR, "{malformed}");
    }
    let long = "n".repeat(256);
    assert_eq!(answer_with(&long, &format!("0x{sixteen}"), ""), INITIATOR_ERROR);
    assert_eq!(answer_with("", &format!("0x{sixteen}"), ""), AUTHENTICATION_FAILURE);
}

#[test]
fn row_08_odd_identifiers_and_challenges_of_the_initiator_are_refused() {
    let challenge = hexadecimal(&[7; 16]);
    for (identifier, challenge) in [
        ("256", challenge.as_str()),
        ("0x100", &challenge),
        ("-1", &challenge),
        ("4294967296", &challenge),
        ("99999999999999999999999", &challenge),
        ("", &challenge),
        ("one", &challenge),
        ("1", ""),
        ("1", "0x"),
        ("1", "0x00"),
        ("1", &hexadecimal(&[7; 15])),
        ("1", &hexadecimal(&[7; 1025])),
        ("1", &challenge[..33]),
        ("1", "0b#"),
    ] {
        let mut client = guarded();
        let response = client.challenged("5").response("correct-horse-7");
        let text =
            format!("CHAP_N=node7\0CHAP_R={response}\0CHAP_I={identifier}\0CHAP_C={challenge}\0");
        let status = client.refused(OPERATIONAL, text.as_bytes());
        assert_eq!(status, INITIATOR_ERROR, "{identifier} {challenge}");
    }
    for longest in [hexadecimal(&[7; 16]), hexadecimal(&[7; 1024])] {
        for identifier in ["0", "0xff", "255", "0XfF"] {
            let mut client = guarded();
            let response = client.challenged("5").response("correct-horse-7");
            let text =
                format!("CHAP_N=node7\0CHAP_R={response}\0CHAP_I={identifier}\0CHAP_C={longest}\0");
            let (response, answer) = client.step(OPERATIONAL, text.as_bytes());
            assert_eq!(response.status_class, 0, "{identifier}");
            assert_eq!(value(&answer, "CHAP_N"), Some("root"));
        }
    }
}

#[test]
fn row_08_algorithms_are_chosen_by_their_number_and_never_by_a_prefix() {
    for (offered, chosen) in
        [("5", "5"), ("55,5", "5"), ("99,6,5", "6"), ("7,5", "7"), ("8,7,6,5", "8"), ("0x5", "5")]
    {
        let mut client = guarded();
        client.introduce(Flags::Stay, "CHAP");
        let (_, answer) = client.step(Flags::Stay, format!("CHAP_A={offered}\0").as_bytes());
        assert_eq!(value(&answer, "CHAP_A"), Some(chosen), "{offered}");
    }
    for offered in
        ["", "55", "5a", "50,51", ",", ",,,", "5 ", "MD5", "0", "0x55", &"9,".repeat(4000)]
    {
        let mut client = guarded();
        client.introduce(Flags::Stay, "CHAP");
        let status = client.refused(Flags::Stay, format!("CHAP_A={offered}\0").as_bytes());
        assert_eq!(status, AUTHENTICATION_FAILURE, "{offered:?}");
    }
}

// SCST: a fuzzer's logins brought the kernel down.
#[test]
fn row_21_random_logins_are_survived() {
    let keys: [&[u8]; 15] = [
        b"InitiatorName=iqn.2004-10.example:client\0",
        b"TargetName=iqn.2026-11.io.lunboot:test\0",
        b"SessionType=Normal\0",
        b"SessionType=Discovery\0",
        b"AuthMethod=CHAP,None\0",
        b"AuthMethod=None\0",
        b"CHAP_A=5\0",
        b"CHAP_N=node7\0",
        b"CHAP_R=0x00112233445566778899aabbccddeeff\0",
        b"CHAP_I=7\0",
        b"CHAP_C=0x00112233445566778899aabbccddeeff\0",
        b"HeaderDigest=CRC32C,None\0",
        b"MaxRecvDataSegmentLength=512\0",
        b"X-a=",
        b"=\0",
    ];
    let mut random = Random::new(21);
    for round in 0..4000 {
        let mut client = if round % 2 == 0 { open() } else { guarded() };
        for _ in 0..1 + random.below(6) {
            let count = random.below(keys.len() as u64);
            let text: Vec<u8> =
                (0..count).flat_map(|_| keys[random.below(15) as usize].to_vec()).collect();
            let stage = Stage::LoginOperationalNegotiation;
            let flags =
                [Flags::Stay, Flags::Continues, OPERATIONAL, FULL][random.below(4) as usize];
            client.stage = if random.below(3) == 0 { stage } else { client.stage };
            let mut request = client.request(flags, &text);
            for _ in 0..random.below(3) {
                let at = random.below(request.len() as u64) as usize;
                request[at] ^= 1 << random.below(8);
            }
            client.send_bytes(&request);
            for (_, data) in client.inbox.drain(..) {
                assert!(data.len() <= 8192);
            }
        }
        // Whatever it was, it is over by the deadline of a login, or there is a session.
        client.now += Duration::from_secs(3600);
        let now = client.now;
        client.target.handle_timeout(now);
        let is_guarded = round % 2 == 1;
        assert!(!is_guarded || !client.is_logged_in(), "round {round}: in without a secret");
    }
}
