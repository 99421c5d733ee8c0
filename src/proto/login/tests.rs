//! The initiator's login against a target made by hand: each response is what a test wants.
//!
//! First the course of a login without authentication, then CHAP, then what the letter of the
//! standard asks for beside them.

use super::*;
use crate::proto::chap::{Algorithm, Secret, Secrets};
use crate::proto::error::Authentication;

fn config() -> LoginConfig {
    LoginConfig {
        initiator: "iqn.2026-11.example:client".into(),
        target: Some("iqn.2026-11.example:root".into()),
        isid: Isid([0x80, 0, 0, 1, 2, 3]),
        offer: Offer::default(),
        chap: None,
    }
}

fn start(config: &LoginConfig) -> (Box<Login>, LoginRequest, Text) {
    Login::start(config, challenge(), Algorithms::All, Sn(1))
}

fn challenge() -> Challenge {
    Challenge::new([0x33; Challenge::RANDOM_BYTES])
}

fn response(request: &LoginRequest, stat_sn: u32) -> LoginResponse {
    LoginResponse {
        transit: request.transit,
        continues: false,
        stage: request.stage,
        next_stage: request.next_stage,
        version_max: 0,
        version_active: 0,
        isid: request.isid,
        tsih: 0,
        itt: request.itt,
        sns: StatusSns { stat_sn: Sn(stat_sn), exp_cmd_sn: Sn(1), max_cmd_sn: Sn(32) },
        status_class: 0,
        status_detail: 0,
        data_bytes: 0,
    }
}

fn next(step: Step) -> (Box<Login>, LoginRequest, Text) {
    match step {
        Step::Request(login, request, text) => (login, request, text),
        Step::Done(_) => panic!("the login ended too early"),
    }
}

#[test]
fn the_first_request_names_both_sides() {
    let (_, request, text) = start(&config());
    assert!(request.transit);
    assert_eq!(request.stage, Stage::SecurityNegotiation);
    assert_eq!(
        text.as_bytes(),
        b"InitiatorName=iqn.2026-11.example:client\0TargetName=iqn.2026-11.example:root\0\
          SessionType=Normal\0AuthMethod=None\0"
    );
}

#[test]
fn two_exchanges_lead_to_the_full_feature_phase() {
    let (login, request, _) = start(&config());
    let step = login.handle(&response(&request, 7), b"AuthMethod=None\0TargetPortalGroupTag=1\0");
    let (login, request, text) = next(step.unwrap());
    assert_eq!(request.exp_stat_sn, Sn(8));
    assert!(String::from_utf8_lossy(text.as_bytes()).contains("MaxBurstLength=1048576\0"));
    let last = response(&request, 8);
    let answer = b"HeaderDigest=None\0InitialR2T=Yes\0ImmediateData=No\0";
    let Step::Done(logged_in) = login.handle(&last, answer).unwrap() else {
        panic!("the login did not end")
    };
    assert!(logged_in.negotiated.initial_r2t && !logged_in.negotiated.immediate_data);
}

/// gotgt and the crate iscsi-target leave ISID and TSIH at zero.
#[test]
fn fields_that_nothing_depends_on_may_be_anything() {
    let (login, request, _) = start(&config());
    let mut first = response(&request, 7);
    first.isid = Isid([0; 6]);
    let (login, request, _) = next(login.handle(&first, b"AuthMethod=None\0").unwrap());
    assert_eq!((request.isid, request.exp_stat_sn), (config().isid, Sn(8)));
    let mut last = response(&request, 0);
    (last.isid, last.tsih) = (Isid([1; 6]), 0);
    let Step::Done(logged_in) = login.handle(&last, b"").unwrap() else {
        panic!("the login did not end")
    };
    assert_eq!(logged_in.sns.stat_sn, Sn(0));
}

#[test]
fn text_may_come_in_pieces_and_a_key_may_be_cut() {
    let (login, request, _) = start(&config());
    let step = login.handle(&response(&request, 0), b"AuthMethod=None\0").unwrap();
    let (login, request, _) = next(step);
    let mut piece = response(&request, 1);
    (piece.transit, piece.next_stage, piece.continues) = (false, None, true);
    let (login, empty, text) = next(login.handle(&piece, b"MaxBurstLe").unwrap());
    assert!(text.is_empty() && !empty.transit);
    let last = response(&request, 2);
    let Step::Done(logged_in) = login.handle(&last, b"ngth=65536\0").unwrap() else {
        panic!("the login did not end")
    };
    assert_eq!(logged_in.negotiated.max_burst_bytes, 65_536);
}

#[test]
fn a_target_that_is_not_ready_is_asked_again() {
    let (login, request, _) = start(&config());
    let (login, request, _) =
        next(login.handle(&response(&request, 0), b"AuthMethod=None\0").unwrap());
    let mut not_yet = response(&request, 1);
    (not_yet.transit, not_yet.next_stage) = (false, None);
    let (_, request, reply) = next(login.handle(&not_yet, b"X-example.key=1\0").unwrap());
    assert_eq!(reply.as_bytes(), b"X-example.key=NotUnderstood\0");
    assert_eq!(request.next_stage, Some(Stage::FullFeaturePhase));
}

#[test]
fn a_refusal_says_why_in_words() {
    let (login, request, _) = start(&config());
    let mut refusal = response(&request, 0);
    (refusal.status_class, refusal.status_detail) = (2, 3);
    let error = login.handle(&refusal, b"").unwrap_err();
    assert_eq!(
        error.to_string(),
        "login refused: no target of that name: compare it with what `lunboot discover` lists \
         (0x0203)"
    );
}

#[test]
fn text_without_end_is_refused() {
    let (mut login, request, _) = start(&config());
    let mut piece = response(&request, 0);
    (piece.transit, piece.next_stage, piece.continues) = (false, None, true);
    for stat_sn in 0.. {
        piece.sns.stat_sn = Sn(stat_sn);
        match login.handle(&piece, &[b'x'; 8192]) {
            Ok(step) => login = next(step).0,
            Err(error) => {
                assert!(matches!(error, Error::Malformed(_)));
                assert!(stat_sn <= 9);
                return;
            }
        }
    }
}

#[test]
fn a_login_that_goes_round_in_circles_ends() {
    let (mut login, request, _) = start(&config());
    let mut empty = response(&request, 0);
    (empty.transit, empty.next_stage) = (false, None);
    let error = loop {
        match login.handle(&empty, b"") {
            Ok(step) => login = next(step).0,
            Err(error) => break error,
        }
        empty.sns.stat_sn = empty.sns.stat_sn.next();
    };
    assert!(matches!(error, Error::PeerMisbehaved { .. }));
}

#[test]
fn answers_out_of_order_are_named() {
    for spoil in [
        |r: &mut LoginResponse| r.itt = Itt(9),
        |r: &mut LoginResponse| r.stage = Stage::LoginOperationalNegotiation,
        |r: &mut LoginResponse| r.version_active = 1,
    ] {
        let (login, request, _) = start(&config());
        let mut spoiled = response(&request, 0);
        spoil(&mut spoiled);
        assert!(matches!(login.handle(&spoiled, b""), Err(Error::PeerMisbehaved { .. })));
    }
}

// Authentication.

const OURS: &str = "correct-horse-7";
const THEIRS: &str = "battery-staple-9";

fn chap(mutual: bool) -> LoginConfig {
    let lines = if mutual {
        format!("initiator node7 {OURS}\ntarget root {THEIRS}\n")
    } else {
        format!("initiator node7 {OURS}\n")
    };
    let chap = Secrets::parse(&lines).unwrap().into_chap().unwrap();
    LoginConfig { chap: Some(chap), ..config() }
}

/// A target by hand: keeps the machine and its last request, numbers its responses.
struct Talk {
    login: Option<Box<Login>>,
    request: LoginRequest,
    text: String,
    stat_sn: u32,
}

impl Talk {
    fn start(config: &LoginConfig, algorithms: Algorithms) -> Talk {
        let (login, request, text) = Login::start(config, challenge(), algorithms, Sn(1));
        let text = String::from_utf8(text.as_bytes().to_vec()).unwrap();
        Talk { login: Some(login), request, text, stat_sn: 0 }
    }

    /// As far as the challenge of the target, which is `challenge`.
    fn challenged(config: &LoginConfig, algorithm: &str, challenge: &[u8]) -> Result<Talk, Error> {
        let mut talk = Talk::start(config, Algorithms::All);
        talk.answer("AuthMethod=CHAP\0")?;
        let mut text = Text::new();
        text.push_binary("CHAP_C", challenge);
        let challenge = String::from_utf8(text.as_bytes().to_vec()).unwrap();
        talk.answer(&format!("CHAP_A={algorithm}\0CHAP_I=0x2a\0{challenge}"))?;
        Ok(talk)
    }

    /// Answers with this text, and to the wish for the next stage as it was asked.
    fn answer(&mut self, text: &str) -> Result<(), Error> {
        let response = response(&self.request, self.stat_sn);
        self.respond(response, text)
    }

    fn respond(&mut self, response: LoginResponse, text: &str) -> Result<(), Error> {
        self.stat_sn += 1;
        let login = self.login.take().expect("the login goes on");
        let (login, request, text) = next(login.handle(&response, text.as_bytes())?);
        self.text = String::from_utf8(text.as_bytes().to_vec()).unwrap();
        (self.login, self.request) = (Some(login), request);
        Ok(())
    }

    fn refuse(&mut self, class: u8, detail: u8) -> Error {
        let mut refusal = response(&self.request, self.stat_sn);
        (refusal.status_class, refusal.status_detail) = (class, detail);
        self.login.take().unwrap().handle(&refusal, b"").unwrap_err()
    }

    fn value(&self, key: &str) -> Option<&str> {
        let pairs = self.text.split('\0').filter_map(|pair| pair.split_once('='));
        pairs.filter(|(found, _)| *found == key).map(|(_, value)| value).next()
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("0x{digits}")
}

#[test]
fn the_offer_follows_from_what_has_to_be_proved() {
    let talk = Talk::start(&chap(false), Algorithms::All);
    assert_eq!(talk.value("AuthMethod"), Some("CHAP,None"));
    assert!(!talk.request.transit, "nobody is in the next stage before it is clear who it is");
    let talk = Talk::start(&chap(true), Algorithms::All);
    assert_eq!(talk.value("AuthMethod"), Some("CHAP"));
}

#[test]
fn the_strongest_algorithm_is_offered_first_and_one_alone_after_a_refusal() {
    for (algorithms, expected) in [(Algorithms::All, "8,7,6,5"), (Algorithms::Md5, "5")] {
        let mut talk = Talk::start(&chap(false), algorithms);
        assert!(!talk.login.as_ref().unwrap().may_be_refused_for_its_list());
        talk.answer("AuthMethod=CHAP\0").unwrap();
        assert_eq!(talk.value("CHAP_A"), Some(expected));
        let may_be = talk.login.as_ref().unwrap().may_be_refused_for_its_list();
        assert_eq!(may_be, algorithms == Algorithms::All);
    }
    let md5 = Talk::challenged(&chap(false), "5", &[1; 16]).unwrap();
    assert!(!md5.login.unwrap().may_be_refused_for_its_list(), "MD5 alone was used already");
    let sha = Talk::challenged(&chap(false), "7", &[1; 16]).unwrap();
    assert!(sha.login.unwrap().may_be_refused_for_its_list());
}

#[test]
fn a_challenge_is_answered_and_the_next_stage_asked_for() {
    for algorithm in Algorithm::ALL {
        let number = (algorithm as u32).to_string();
        let talk = Talk::challenged(&chap(false), &number, &[0x77; 1024]).unwrap();
        let expected = algorithm.response(0x2a, &Secret::new(OURS), &[0x77; 1024]);
        assert_eq!(talk.value("CHAP_R"), Some(hexadecimal(expected.as_bytes()).as_str()));
        assert_eq!(talk.value("CHAP_N"), Some("node7"));
        assert_eq!(talk.value("CHAP_C"), None);
        assert_eq!(talk.request.next_stage, Some(Stage::LoginOperationalNegotiation));
    }
}

#[test]
fn a_target_that_proves_itself_is_believed_and_only_then_is_the_stage_left() {
    for algorithm in Algorithm::ALL {
        let number = (algorithm as u32).to_string();
        let mut talk = Talk::challenged(&chap(true), &number, &[0x77; 16]).unwrap();
        assert_eq!(talk.value("CHAP_I"), Some("51"));
        assert_eq!(talk.value("CHAP_C"), Some(hexadecimal(&[0x33; 32]).as_str()));
        // As in RFC 7143 Appendix B: tgt refuses a later request.
        assert_eq!(talk.request.next_stage, Some(Stage::LoginOperationalNegotiation));
        let proof = algorithm.response(0x33, &Secret::new(THEIRS), &[0x33; 32]);
        let proof = format!("CHAP_R={}\0CHAP_N=root\0", hexadecimal(proof.as_bytes()));
        if algorithm == Algorithm::Md5 {
            // A target may prove itself first, and be asked once more.
            let mut not_yet = response(&talk.request, talk.stat_sn);
            (not_yet.transit, not_yet.next_stage) = (false, None);
            talk.respond(not_yet, &proof).unwrap();
            assert!(talk.request.transit && talk.text.is_empty());
            talk.answer("").unwrap();
        } else {
            talk.answer(&proof).unwrap();
        }
        assert!(talk.text.contains("MaxBurstLength="), "{}", talk.text);
    }
}

#[test]
fn a_target_that_cannot_prove_itself_is_left() {
    let sixteen = hexadecimal(&[9; 16]);
    let ours = Algorithm::Md5.response(0x33, &Secret::new(OURS), &[0x33; 32]);
    let right = Algorithm::Md5.response(0x33, &Secret::new(THEIRS), &[0x33; 32]);
    let [ours, right] = [ours, right].map(|response| hexadecimal(response.as_bytes()));
    for (answer, expected) in [
        (format!("CHAP_N=root\0CHAP_R={sixteen}\0"), Authentication::Unproven),
        (format!("CHAP_N=other\0CHAP_R={right}\0"), Authentication::Unproven),
        (format!("CHAP_N=root\0CHAP_R={ours}\0"), Authentication::Reflected),
        ("CHAP_A=5\0".to_owned(), Authentication::Unproven),
    ] {
        let mut talk = Talk::challenged(&chap(true), "5", &[1; 16]).unwrap();
        assert_eq!(talk.answer(&answer), Err(Error::Authentication(expected)), "{answer}");
    }
    // It goes on without a word, which it was not asked to.
    let mut talk = Talk::challenged(&chap(true), "5", &[1; 16]).unwrap();
    let mut early = response(&talk.request, talk.stat_sn);
    (early.transit, early.next_stage) = (true, Some(Stage::LoginOperationalNegotiation));
    assert_eq!(talk.respond(early, ""), Err(Authentication::Unproven.into()));
}

#[test]
fn a_target_that_wants_no_proof_is_accepted_unless_it_has_to_prove_itself() {
    let mut talk = Talk::start(&chap(false), Algorithms::All);
    talk.answer("AuthMethod=None\0").unwrap();
    assert!(talk.request.transit && talk.text.is_empty());
    talk.answer("").unwrap();
    assert!(talk.text.contains("MaxBurstLength="), "{}", talk.text);
    let mut talk = Talk::start(&chap(true), Algorithms::All);
    assert_eq!(talk.answer("AuthMethod=None\0"), Err(Authentication::NotOffered.into()));
    let mut talk = Talk::start(&chap(true), Algorithms::All);
    assert_eq!(talk.answer("AuthMethod=Reject\0"), Err(Authentication::NotOffered.into()));
}

#[test]
fn our_own_challenge_is_not_answered() {
    let Err(error) = Talk::challenged(&chap(true), "5", &[0x33; 32]) else {
        panic!("it was answered")
    };
    assert_eq!(error, Authentication::Reflected.into());
}

#[test]
fn odd_challenges_are_refused() {
    for (algorithm, challenge) in [
        ("5", &[1; 15][..]),
        ("5", &[1; 1025]),
        ("55", &[1; 16]),
        ("4", &[1; 16]),
        ("5,6", &[1; 16]),
        ("Reject", &[1; 16]),
        ("", &[1; 16]),
    ] {
        assert!(Talk::challenged(&chap(false), algorithm, challenge).is_err(), "{algorithm}");
    }
    let mut talk = Talk::start(&chap(false), Algorithms::Md5);
    talk.answer("AuthMethod=CHAP\0").unwrap();
    let unoffered = format!("CHAP_A=7\0CHAP_I=1\0CHAP_C={}\0", hexadecimal(&[1; 16]));
    assert!(talk.answer(&unoffered).is_err());
    for text in ["CHAP_A=5\0", "", "AuthMethod=CHAP\0", "CHAP_I=1\0CHAP_C=0x00\0"] {
        let mut talk = Talk::start(&chap(false), Algorithms::All);
        talk.answer("AuthMethod=CHAP\0").unwrap();
        assert!(talk.answer(text).is_err(), "{text}");
    }
}

#[test]
fn a_failed_login_says_which_side_failed_and_shows_no_secret() {
    let mut no_secret = Talk::start(&config(), Algorithms::All);
    let text = no_secret.refuse(2, 1).to_string();
    assert!(text.starts_with("the target demands CHAP, and there is no secret"), "{text}");
    let mut no_secret = Talk::start(&config(), Algorithms::All);
    assert_eq!(no_secret.answer("AuthMethod=CHAP\0"), Err(Authentication::NoSecret.into()));
    // istgt takes the None first.
    let mut no_secret = Talk::start(&config(), Algorithms::All);
    no_secret.answer("AuthMethod=None\0").unwrap();
    assert_eq!(no_secret.refuse(2, 1), Authentication::NoSecret.into());
    let mut refused = Talk::challenged(&chap(true), "5", &[1; 16]).unwrap();
    assert!(!format!("{:?}", refused.login).contains(OURS), "no secret is in a debug output");
    let text = refused.refuse(2, 1).to_string();
    assert!(text.starts_with("the target refused our name or secret (0x0201)"), "{text}");
    let mut elsewhere = Talk::challenged(&chap(true), "5", &[1; 16]).unwrap();
    assert_eq!(elsewhere.refuse(2, 2).to_string(), {
        let status = LoginStatus::AUTHORIZATION_FAILURE;
        format!("login refused: {status}")
    });
}

// The letter of the standard.

#[test]
fn text_that_is_longer_than_a_pdu_is_sent_in_parts() {
    let mut talk = Talk::start(&config(), Algorithms::All);
    talk.answer("AuthMethod=None\0").unwrap();
    let unknown: String = (0..900).map(|number| format!("X-{number}=1\0")).collect();
    let mut not_yet = response(&talk.request, talk.stat_sn);
    (not_yet.transit, not_yet.next_stage) = (false, None);
    talk.respond(not_yet, &unknown).unwrap();
    let mut whole = talk.text.clone();
    while talk.request.continues {
        assert!(talk.text.len() == 8192 && !talk.request.transit);
        talk.answer("").unwrap();
        whole += &talk.text;
    }
    assert_eq!(talk.request.next_stage, Some(Stage::FullFeaturePhase));
    assert_eq!(whole.matches("=NotUnderstood\0").count(), 900);
}

#[test]
fn a_target_that_goes_on_before_our_text_is_complete_is_left() {
    let mut talk = Talk::start(&config(), Algorithms::All);
    talk.answer("AuthMethod=None\0").unwrap();
    let unknown: String = (0..900).map(|number| format!("X-{number}=1\0")).collect();
    let mut not_yet = response(&talk.request, talk.stat_sn);
    (not_yet.transit, not_yet.next_stage) = (false, None);
    talk.respond(not_yet, &unknown).unwrap();
    let mut early = response(&talk.request, talk.stat_sn);
    (early.transit, early.next_stage) = (true, Some(Stage::FullFeaturePhase));
    assert!(matches!(talk.respond(early, ""), Err(Error::PeerMisbehaved { .. })));
}

#[test]
fn an_unknown_key_with_the_last_response_does_not_end_the_login() {
    let (login, request, _) = start(&config());
    let (login, request, _) =
        next(login.handle(&response(&request, 0), b"AuthMethod=None\0").unwrap());
    let last = response(&request, 1);
    let Step::Done(_) = login.handle(&last, b"X#NodeArchitecture=a\0X-b=1\0").unwrap() else {
        panic!("the login did not end")
    };
}

/// Logs in to a target that answers the proposal of keys with this text.
fn log_in(answer: impl Fn(&str) -> String) -> LoggedIn {
    let mut talk = Talk::start(&config(), Algorithms::All);
    talk.answer("").unwrap();
    let answer = answer(&talk.text);
    let last = response(&talk.request, talk.stat_sn);
    match talk.login.take().unwrap().handle(&last, answer.as_bytes()).unwrap() {
        Step::Done(logged_in) => logged_in,
        Step::Request(..) => panic!("the login did not end"),
    }
}

#[test]
fn targets_that_know_no_key_and_targets_that_want_all_of_them_both_work() {
    let defaults = Negotiated { max_recv_bytes: 262_144, ..Negotiated::default() };
    // Silence, and the three ways of saying no.
    assert_eq!(log_in(|_| String::new()).negotiated, defaults);
    for word in ["NotUnderstood", "Irrelevant", "Reject"] {
        let refuse_all = |text: &str| {
            let keys = text.split('\0').filter_map(|pair| pair.split_once('='));
            keys.map(|(key, _)| format!("{key}={word}\0")).collect()
        };
        assert_eq!(log_in(refuse_all).negotiated, defaults, "{word}");
    }
    // A target that takes nothing for granted finds every key spelled out, once.
    let insists = |text: &str| {
        for key in [
            "HeaderDigest",
            "DataDigest",
            "MaxRecvDataSegmentLength",
            "DefaultTime2Wait",
            "DefaultTime2Retain",
            "ErrorRecoveryLevel",
            "MaxConnections",
            "InitialR2T",
            "ImmediateData",
            "MaxBurstLength",
            "FirstBurstLength",
            "MaxOutstandingR2T",
            "DataPDUInOrder",
            "DataSequenceInOrder",
        ] {
            assert_eq!(text.matches(&format!("{key}=")).count(), 1, "{key}");
        }
        assert!(text.contains("MaxRecvDataSegmentLength=262144\0"));
        assert!(text.contains("MaxOutstandingR2T=8\0"));
        let mut answers: Vec<&str> = text.split_terminator('\0').collect();
        answers.reverse();
        answers.join("\0").replace("CRC32C,None", "None").replace("None,CRC32C", "None")
    };
    let negotiated = log_in(insists).negotiated;
    assert_eq!((negotiated.max_burst_bytes, negotiated.max_outstanding_r2t), (1 << 20, 8));
}
