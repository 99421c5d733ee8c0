//! What has brought other targets and initiators down, each with the input that triggered it.
//!
//! A test is named after its row in our list of known vulnerabilities; the comment above it says
//! what happened to whom. Two rows are not here: 11, odd parameters of PERSISTENT RESERVE OUT, is
//! with the reservations; 14, logins while the settings change, cannot be as long as those of a
//! running target do not change. The rows of initiators are in `hostile_target.rs`.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use common::Settings;
use common::by_hand::{ByHand, Flags, hexadecimal, introduction, value};
use common::client::*;
use lunboot::proto::chap::Secrets;
use lunboot::proto::random::Random;
use lunboot::proto::target::End;
use lunboot::secrets;
use lunboot::wire::pdu::*;
use lunboot::wire::scsi::{Cdb, ScsiStatus, asc};
use lunboot::wire::serial::Sn;

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

// What follows needs a login first.

/// A client in the full feature phase, and what it needs to be one.
fn logged_in() -> Client {
    Client::logged_in()
}

/// The session is as good as new.
fn assert_alive(client: &mut Client) {
    client.inbox.clear();
    assert_eq!(client.command(&Cdb::TestUnitReady, 0, &[]).0, ScsiStatus::Good);
}

/// A command of sixteen bytes, as it stands.
fn raw_command(client: &mut Client, cdb: [u8; 16], expected: u32, data: &[u8]) -> Itt {
    let write = !data.is_empty();
    let pdu = client.command_pdu(&Cdb::TestUnitReady, expected, data, write);
    client.send(&ScsiCommand { cdb, ..pdu }.emit(), data);
    pdu.itt
}

// CVE-2020-28374 and CVE-2021-3139, LIO and tcmu: EXTENDED COPY reached devices of others. There is
// no copy offload here.
#[test]
fn row_09_extended_copy_is_refused() {
    let mut client = logged_in();
    for opcode in [0x83, 0x84] {
        let mut cdb = [0; 16];
        cdb[0] = opcode;
        let itt = raw_command(&mut client, cdb, 0, &[]);
        let (status, data) = client.finish(itt);
        assert_eq!(status, ScsiStatus::CheckCondition);
        assert_eq!(sense(&data).code(), asc::INVALID_COMMAND_OPERATION_CODE);
    }
}

// CVE-2026-53021, LIO: LBA and count of an UNMAP that overflow when they are added.
#[test]
fn row_10_ranges_that_overflow_are_out_of_range() {
    let blocks = DISK_BYTES / 512;
    let ranges = [
        (u64::MAX, u32::MAX),
        (u64::MAX, 1),
        (u64::MAX - u64::from(u32::MAX) + 1, u32::MAX),
        (1 << 63, 1 << 31),
        (blocks, 1),
        (blocks - 1, 2),
        (0, u32::MAX),
    ];
    // READ, COMPARE AND WRITE, WRITE, ORWRITE, WRITE AND VERIFY, VERIFY, PRE-FETCH, SYNCHRONIZE
    // CACHE, WRITE SAME; all of sixteen bytes.
    for opcode in [0x88, 0x89, 0x8a, 0x8b, 0x8e, 0x8f, 0x90, 0x91, 0x93] {
        for (lba, count) in ranges {
            let mut client = logged_in();
            let mut cdb = [0; 16];
            cdb[0] = opcode;
            cdb[2..10].copy_from_slice(&lba.to_be_bytes());
            cdb[10..14].copy_from_slice(&count.to_be_bytes());
            if opcode == 0x89 {
                cdb[13] = 1;
            }
            let writes = !matches!(opcode, 0x88 | 0x8f | 0x90 | 0x91);
            let data: &[u8] = if writes { &[1; 1024] } else { &[] };
            let itt = raw_command(&mut client, cdb, if writes { 1024 } else { 512 }, data);
            let in_range = opcode == 0x89 && lba.checked_add(1).is_some_and(|end| end <= blocks);
            if !in_range {
                assert_eq!(client.finish(itt).0, ScsiStatus::CheckCondition, "{opcode:x} {lba:x}");
                assert!(client.store.contents().iter().all(|byte| *byte == 0));
            }
            assert_alive(&mut client);
        }
    }
    for (lba, count) in ranges {
        let mut client = logged_in();
        let mut list = [0; 24];
        (list[1], list[3]) = (22, 16);
        list[8..16].copy_from_slice(&lba.to_be_bytes());
        list[16..20].copy_from_slice(&count.to_be_bytes());
        let mut cdb = [0; 16];
        (cdb[0], cdb[8]) = (0x42, 24);
        let itt = raw_command(&mut client, cdb, 24, &list);
        assert_eq!(client.finish(itt).0, ScsiStatus::CheckCondition, "UNMAP {lba:x} {count:x}");
        assert_alive(&mut client);
    }
}

// CVE-2026-97951, LIO: a reset while a write waits for its data, which comes afterwards. All
// functions, all places that a command can be in, all that may come late: `tests/target.rs`.
#[test]
fn row_12_data_for_writes_that_were_reset_is_thrown_away() {
    let mut client = logged_in();
    for round in 0..50 {
        let writes: Vec<_> = (0..8)
            .map(|_| {
                let pdu = client.start_write(0, 32);
                (pdu, client.r2t())
            })
            .collect();
        assert_eq!(client.task_management([5, 6, 2, 4][round % 4], Itt::RESERVED), 0);
        for (pdu, r2t) in &writes {
            client.data_out(pdu.itt, r2t.ttt, 0, 0, &[1; 8192], false);
            client.data_out(pdu.itt, r2t.ttt, 1, 8192, &[1; 8192], true);
        }
        client.assert_silent();
        client.command(&Cdb::TestUnitReady, 0, &[]);
        assert_alive(&mut client);
    }
    assert!(client.store.contents().iter().all(|byte| *byte == 0));
}

// CVE-2026-23216, LIO: a connection is closed while its commands are finishing. The same over TCP:
// `tests/server.rs`.
#[test]
fn row_13_ten_thousand_connections_end_in_the_middle_of_their_commands() {
    let disks = Disks::new();
    let mut witness = Client::logged_in_to(&disks, UNSOLICITED);
    let mut random = Random::new(13);
    for round in 0..10_000 {
        let mut client = Client::logged_in_to(&disks, UNSOLICITED);
        client.idle = random.below(2) == 0;
        for _ in 0..random.below(6) {
            match random.below(5) {
                0 => drop(client.start_write(8, 8)),
                1 => {
                    let pdu = client.command_pdu(&read(0, 64), 32768, &[], false);
                    client.send(&pdu.emit(), &[]);
                }
                2 => {
                    let pdu = client.command_pdu(&write(8, 1), 512, &[0; 512], true);
                    client.send(&pdu.emit(), &[0; 512]);
                }
                3 => {
                    let pdu = client.task_management_pdu(5, Itt::RESERVED);
                    client.send(&pdu.emit(), &[]);
                }
                _ => client.send_bytes(&[0x05, 0, 0, 0, 0, 0, 2]),
            }
        }
        drop(client);
        if round % 1000 == 0 {
            witness.inbox.clear();
            witness.command(&Cdb::TestUnitReady, 0, &[]);
            assert_alive(&mut witness);
        }
    }
    assert!(disks.store.contents().iter().all(|byte| *byte == 0));
}

// LIO: a text command whose data digest was wrong was read beyond its end, and freed twice.
#[test]
fn row_15_a_wrong_data_digest_is_rejected_in_every_pdu() {
    let disks = Disks::new();
    let mut keys = UNSOLICITED.to_vec();
    keys.push(("DataDigest", "CRC32C"));
    let mut client = Client::logged_in_to(&disks, &keys);
    let data = [7; 100];
    // NOP-Out, text: rejected, and their numbers are used up.
    let nop = nop_out_pdu(false, Itt(500), Ttt::RESERVED, client.next_cmd_sn(), 100).emit();
    client.send_damaged(&nop, &data);
    assert_eq!(client.reject(&nop).reason, Reject::DATA_DIGEST_ERROR);
    let text = TextRequest {
        immediate: false,
        final_pdu: true,
        continues: false,
        lun: 0,
        itt: Itt(501),
        ttt: Ttt::RESERVED,
        cmd_sn: client.next_cmd_sn(),
        exp_stat_sn: Sn(0),
        data_bytes: 100,
    };
    client.send_damaged(&text.emit(), &data);
    assert_eq!(client.reject(&text.emit()).reason, Reject::DATA_DIGEST_ERROR);
    // A write and its data: rejected, and the command fails.
    let pdu = client.command_pdu(&write(0, 1), 512, &[1; 512], true);
    client.send_damaged(&pdu.emit(), &[1; 512]);
    assert_eq!(client.reject(&pdu.emit()).reason, Reject::DATA_DIGEST_ERROR);
    assert_eq!(client.finish(pdu.itt).0, ScsiStatus::CheckCondition);
    let pdu = client.start_write(0, 1);
    let r2t = client.r2t();
    let data_out = data_out_pdu(pdu.itt, r2t.ttt, 0, 0, 512, true).emit();
    client.send_damaged(&data_out, &[1; 512]);
    assert_eq!(client.reject(&data_out).reason, Reject::DATA_DIGEST_ERROR);
    assert_eq!(client.finish(pdu.itt).0, ScsiStatus::CheckCondition);
    // PDUs that should have no data, or should not be.
    for opcode in [0x02, 0x03, 0x10, 0x1c, 0x1f] {
        let mut bhs = [0; BHS_BYTES];
        (bhs[0], bhs[1], bhs[7]) = (0x40 | opcode, 0x80, 100);
        client.send_damaged(&bhs, &data);
        assert_alive(&mut client);
    }
    assert!(client.store.contents().iter().all(|byte| *byte == 0));
}

// CVE-2026-53176 and its kin, LIO: a PDU that is shorter than it says. Here the stream ends at
// every byte of one; what has not come is not done.
#[test]
fn row_16_a_pdu_that_is_cut_anywhere_does_nothing() {
    let disks = Disks::new();
    let mut random = Random::new(16);
    let pdu = |client: &mut Client| client.command_pdu(&write(0, 1), 512, &[9; 512], true);
    let length = BHS_BYTES + 512;
    for cut in 0..length {
        let mut client = Client::logged_in_to(&disks, UNSOLICITED);
        let pdu = pdu(&mut client);
        let bytes = client.frame(&pdu.emit(), &[9; 512]);
        assert_eq!(bytes.len(), length);
        // In pieces of any size, as a slow sender would.
        let mut rest = &bytes[..cut];
        while !rest.is_empty() {
            let (piece, more) = rest.split_at(rest.len().min(1 + random.below(100) as usize));
            client.send_bytes(piece);
            rest = more;
        }
        client.assert_silent();
        drop(client);
        assert!(disks.store.contents()[..512].iter().all(|byte| *byte == 0), "cut at {cut}");
    }
}

// CVE-2021-28361, SPDK: a text PDU without data but with the C bit.
#[test]
fn row_17_text_that_goes_on_without_data_gets_nowhere() {
    let mut client = logged_in();
    client.text(Itt(5), Ttt::RESERVED, CONTINUES, b"");
    let (mut response, _) = client.text_response();
    for _ in 0..10_000 {
        client.text(Itt(5), response.ttt, CONTINUES, b"");
        let text;
        (response, text) = client.text_response();
        assert_eq!((response.final_pdu, text.as_str()), (false, ""));
    }
    let both = TextFlags { final_pdu: true, continues: true };
    let request = client.text(Itt(5), response.ttt, both, b"");
    assert_eq!(client.reject(&request).reason, Reject::PROTOCOL_ERROR);
    // With data there is a limit to it.
    client.text(Itt(6), Ttt::RESERVED, CONTINUES, &[b'a'; 8000]);
    let (response, _) = client.text_response();
    let request = client.text(Itt(6), response.ttt, CONTINUES, &[b'a'; 8000]);
    assert_eq!(client.reject(&request).reason, Reject::NEGOTIATION_RESET);
    assert_alive(&mut client);
}

// CVE-2019-9547, SPDK: malformed commands.
#[test]
fn row_18_random_commands_are_survived() {
    let mut client = logged_in();
    let mut random = Random::new(18);
    for _ in 0..20_000 {
        let mut cdb = [0; 16];
        for byte in &mut cdb {
            *byte = [0, 0, 1, 0xff, random.bits() as u8][random.below(5) as usize];
        }
        cdb[0] = random.bits() as u8;
        let length = [0, 1, 8, 24, 512, 4096][random.below(6) as usize];
        let data = vec![random.bits() as u8; if random.below(2) == 0 { length } else { 0 }];
        let expected = [0, length as u32, 1 << 16, u32::MAX][random.below(4) as usize];
        let itt = raw_command(&mut client, cdb, expected.max(data.len() as u32), &data);
        if client.inbox.iter().any(|(pdu, _)| matches!(pdu, Response::R2t(_))) {
            client.inbox.clear();
            assert_eq!(client.task_management(1, itt), 0);
        }
        assert!(!client.inbox.is_empty() || client.end().is_none());
        client.inbox.clear();
    }
    assert_eq!(client.end(), None);
    client.task_management(5, Itt::RESERVED);
    client.command(&Cdb::TestUnitReady, 0, &[]);
    client.inbox.clear();
    let (status, _) =
        client.command(&Cdb::Inquiry { evpd: false, page: 0, allocation: 36 }, 36, &[]);
    assert_eq!(status, ScsiStatus::Good);
}

// SPDK #1442 and tgt: a long answer to SendTargets for an initiator that takes short ones.
#[test]
fn row_19_a_long_answer_to_send_targets_comes_in_short_parts() {
    let portals: Vec<std::net::SocketAddr> =
        (1..1000).map(|number| format!("[2001:db8::{number:x}]:3260").parse().unwrap()).collect();
    let disks = Disks::with(|config| config.portals.clone_from(&portals));
    let mut client = Client::of(&disks);
    client.log_in("Discovery", &[("MaxRecvDataSegmentLength", "512")]);
    client.text(Itt(5), Ttt::RESERVED, FINAL, b"SendTargets=All\0");
    let mut whole = String::new();
    loop {
        let (response, part) = client.text_response();
        assert!(part.len() <= 512);
        whole += &part;
        if response.final_pdu {
            break;
        }
        assert!(response.continues);
        client.text(Itt(5), response.ttt, FINAL, b"");
    }
    let told: Vec<&str> =
        whole.split(' ').filter_map(|p| p.strip_prefix("TargetAddress=")).collect();
    assert_eq!(told.len(), 1 + portals.len());
    for portal in portals {
        assert!(told.contains(&format!("{portal},1").as_str()), "{portal} is missing");
    }
}

// CVE-2024-8178 and its kin, FreeBSD: an answer made in memory that held something else before.
#[test]
fn row_20_no_answer_holds_what_was_there_before() {
    let (mut used, mut fresh) = (logged_in(), logged_in());
    // Everything that goes through the buffers of this connection is 0xaa.
    for length in [512, 4096, 65536] {
        let blocks = length / 512;
        let pdu = used.command_pdu(&write(0, blocks), length, &[], true);
        used.send(&pdu.emit(), &[]);
        while let Some((Response::R2t(_), _)) = used.inbox.front() {
            let r2t = used.r2t();
            used.answer(&r2t, &vec![0xaa; length as usize]);
        }
        assert_eq!(used.finish(pdu.itt).0, ScsiStatus::Good);
        assert_eq!(used.command(&read(0, blocks), length, &[]).1, vec![0xaa; length as usize]);
        let zeroes = vec![0; length as usize];
        lunboot::store::Store::write_at(&*used.store, &zeroes, 0).unwrap();
    }
    for opcode in 0..=255 {
        for fill in [0, 1, 0x20, 0x3f, 0x80, 0xff] {
            let mut cdb = [fill; 16];
            cdb[0] = opcode;
            // The CONTROL byte, and the bits before the first field.
            for byte in [1, 5, 9, 11, 15] {
                cdb[byte] &= 0x1e;
            }
            let answers = [&mut used, &mut fresh].map(|client| {
                let itt = raw_command(client, cdb, 65536, &[]);
                client.finish(itt)
            });
            assert_eq!(answers[0], answers[1], "{cdb:02x?}");
        }
    }
}

// CVE-2020-14019, CVE-2020-13867, rtslib, targetcli: files of secrets that everybody could read.
#[test]
fn row_22_a_file_of_secrets_that_others_can_read_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "initiator node7 correct-horse-7\n").unwrap();
    for bit in 0..9 {
        let mode = 0o400 | 1 << bit;
        fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
        let read = secrets::read(file.path()).map(drop).map_err(|error| error.to_string());
        match mode & 0o077 {
            0 => assert_eq!(read, Ok(()), "{mode:o}"),
            _ => {
                let said = read.expect_err("others can read or write it");
                assert!(said.contains(&format!("{mode:04o}")), "{said}");
                assert!(!said.contains("horse"), "{said}");
            }
        }
    }
}

// Change log of tgt: NOP-Ins for an initiator that never answers one.
#[test]
fn row_23_a_mute_initiator_gets_one_ping_and_is_given_up() {
    let mut client = logged_in();
    let begun = client.now;
    client.pass_time();
    client.nop_in();
    assert_eq!(client.end(), None);
    client.pass_time();
    client.assert_silent();
    assert!(matches!(client.end(), Some(End::Failed(_))));
    assert!(client.now - begun <= Duration::from_secs(60));
    assert_eq!(client.target.next_deadline(), None);
}

// Change log of tgt: WRITE SAME with data of another length than a block.
#[test]
fn row_23_write_same_with_data_of_any_length() {
    for length in [0, 1, 511, 512, 513, 1024, 4096] {
        let mut client = logged_in();
        let mut cdb = [0; 16];
        (cdb[0], cdb[13]) = (0x93, 8);
        let data = vec![0x55; length];
        let pdu = client.command_pdu(&Cdb::TestUnitReady, length as u32, &data, true);
        client.send(&ScsiCommand { cdb, ..pdu }.emit(), &data);
        let (status, _) = client.finish(pdu.itt);
        let written = client.store.contents()[..4096].iter().all(|byte| *byte == 0x55);
        let untouched = client.store.contents().iter().all(|byte| *byte == 0);
        // All blocks or none; with a block of data it must be all, with less none.
        assert!(if status == ScsiStatus::Good { written } else { untouched }, "{length} bytes");
        assert!(length != 512 || written, "{length} bytes");
        assert!(length >= 512 || untouched, "{length} bytes");
        assert_alive(&mut client);
    }
}
