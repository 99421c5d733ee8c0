//! Responses, values and what of them must not be shown.

use super::*;

const MD5: &str = "7efffe0f324cdaeb9442b9216e36d904";
const SHA1: &str = "f960d1db12d99fa70d7120fdb7368a2226f7ca0b";
const SHA256: &str = "27750b3c27f8f918a878a6e96ac6ba3778f21ad55a7cd93fbd1424ab63cbe87b";
const SHA3_256: &str = "983c8a268420313515d40186ac94b8c2146173a611c48d1fa21af77a5fe8f0cd";

fn hexadecimal(bytes: &[u8]) -> String {
    let mut text = Text::new();
    text.push_binary("X", bytes);
    String::from_utf8_lossy(&text.as_bytes()[4..text.as_bytes().len() - 1]).into_owned()
}

#[test]
fn responses_are_those_of_the_standard_digests() {
    // Computed by another implementation: digest of 0x2a, "correct horse battery", sixteen bytes
    // from 0x00.
    let secret = Secret::new("correct horse battery");
    let challenge: Vec<u8> = (0..16).collect();
    for (algorithm, expected) in [
        (Algorithm::Md5, MD5),
        (Algorithm::Sha1, SHA1),
        (Algorithm::Sha256, SHA256),
        (Algorithm::Sha3_256, SHA3_256),
    ] {
        let response = algorithm.response(0x2a, &secret, &challenge);
        assert_eq!(hexadecimal(response.as_bytes()), expected, "{algorithm:?}");
        assert!(response.is(response.as_bytes()));
        assert!(!response.is(&response.as_bytes()[1..]), "a part of it is not it");
        assert!(!algorithm.response(0x2b, &secret, &challenge).is(response.as_bytes()));
    }
}

#[test]
fn algorithms_are_known_by_their_numbers_and_by_nothing_like_them() {
    assert_eq!(Algorithm::parse("5"), Some(Algorithm::Md5));
    assert_eq!(Algorithm::parse("0x8"), Some(Algorithm::Sha3_256));
    for text in ["", "55", "5a", "5 ", " 5", "4", "9", "MD5", "0x", "4294967301", "-5", "Reject"] {
        assert_eq!(Algorithm::parse(text), None, "{text:?}");
    }
}

#[test]
fn a_secret_is_not_shown_by_whatever_holds_it() {
    let secret = Secret::new("hidden");
    let credentials = Credentials { name: "node7".into(), secret };
    let chap = Chap { initiator: credentials.clone(), target: Some(credentials) };
    assert!(!format!("{chap:?}").contains("hidden"));
    let challenge = Challenge::new([0x77; Challenge::RANDOM_BYTES]);
    assert_eq!(format!("{challenge:?}"), "Challenge(119)");
}

#[test]
fn a_challenge_is_written_whole() {
    let mut random = [0xab; Challenge::RANDOM_BYTES];
    random[0] = 200;
    let mut text = Text::new();
    Challenge::new(random).push(&mut text);
    let expected = format!("CHAP_I=200\0CHAP_C=0x{}\0", "ab".repeat(32));
    assert_eq!(text.as_bytes(), expected.as_bytes());
}

fn keys<'a>(pairs: &[(&str, &'a str)]) -> Result<Keys<'a>, Malformed> {
    let mut keys = Keys::default();
    for (key, value) in pairs {
        assert!(keys.take(key, value)?);
    }
    Ok(keys)
}

#[test]
fn identifiers_and_challenges_are_read_as_the_standard_writes_them() {
    let sixteen = format!("0x{}", "0a".repeat(16));
    let sixteen_in_base64 = "0bCgoKCgoKCgoKCgoKCgoKCg==";
    for (identifier, challenge, expected) in [
        ("0", sixteen.as_str(), 0),
        ("255", sixteen_in_base64, 255),
        ("0xfF", sixteen.as_str(), 255),
    ] {
        let keys = keys(&[("CHAP_C", challenge), ("CHAP_I", identifier)]).unwrap();
        assert_eq!(keys.challenge().unwrap(), Some((expected, vec![10; 16])));
    }
    let longest = format!("0x{}", "0a".repeat(1024));
    let keys_of_it = keys(&[("CHAP_I", "1"), ("CHAP_C", &longest)]).unwrap();
    assert_eq!(keys_of_it.challenge().unwrap().unwrap().1.len(), 1024);
}

#[test]
fn odd_identifiers_and_challenges_are_refused_by_name() {
    let sixteen = format!("0x{}", "0a".repeat(16));
    let too_short = format!("0x{}", "0a".repeat(15));
    let too_long = format!("0x{}", "0a".repeat(1025));
    for (field, pairs) in [
        ("CHAP_I", [("CHAP_I", "256"), ("CHAP_C", sixteen.as_str())].as_slice()),
        ("CHAP_I", &[("CHAP_I", "-1"), ("CHAP_C", &sixteen)]),
        ("CHAP_I", &[("CHAP_I", ""), ("CHAP_C", &sixteen)]),
        ("CHAP_I", &[("CHAP_I", "0b1"), ("CHAP_C", &sixteen)]),
        ("CHAP_C", &[("CHAP_I", "1"), ("CHAP_C", &too_short)]),
        ("CHAP_C", &[("CHAP_I", "1"), ("CHAP_C", &too_long)]),
        ("CHAP_C", &[("CHAP_I", "1"), ("CHAP_C", &sixteen[..33])]),
        ("CHAP_C", &[("CHAP_I", "1"), ("CHAP_C", "")]),
        ("CHAP_I", &[("CHAP_C", &sixteen)]),
        ("CHAP_C", &[("CHAP_I", "1")]),
    ] {
        let error = keys(pairs).unwrap().challenge().unwrap_err();
        assert_eq!(error.field, field, "{error}");
    }
    assert_eq!(keys(&[]).unwrap().challenge(), Ok(None));
}

#[test]
fn names_and_responses_come_together_and_once() {
    let response = format!("0x{}", "0a".repeat(16));
    let both = keys(&[("CHAP_R", &response), ("CHAP_N", "node7")]).unwrap();
    assert_eq!(both.response().unwrap(), Some(("node7", vec![10; 16])));
    assert_eq!(keys(&[("CHAP_N", "node7")]).unwrap().response().unwrap_err().field, "CHAP_R");
    assert_eq!(keys(&[("CHAP_R", &response)]).unwrap().response().unwrap_err().field, "CHAP_N");
    let long = "n".repeat(256);
    let long = keys(&[("CHAP_N", long.as_str()), ("CHAP_R", &response)]).unwrap();
    assert_eq!(long.response().unwrap_err().field, "CHAP_N");
    assert!(keys(&[("CHAP_N", "a"), ("CHAP_N", "a")]).is_err());
    assert_eq!(Keys::default().take("InitiatorName", "x"), Ok(false));
}
