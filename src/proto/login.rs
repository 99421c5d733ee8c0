//! The initiator's login: from the first request to the full feature phase (RFC 7143 §6, §11.12).
//!
//! A strictly ordered exchange, so each step consumes the machine: [`Login::start`] gives the first
//! request, [`Login::handle`] takes a response and gives the next request or the end.

use super::error::{Error, LoginStatus};
use super::params::{Negotiated, Negotiation, Offer};
use crate::wire::Malformed;
use crate::wire::pdu::{Isid, Itt, LoginRequest, LoginResponse, Stage, StatusSns};
use crate::wire::serial::Sn;
use crate::wire::text::{self, Text};

/// Who logs in where, and what it wants there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginConfig {
    /// InitiatorName.
    pub initiator: String,
    /// TargetName; `None` for a discovery session.
    pub target: Option<String>,
    /// ISID: the same on every login, so that the target knows the session again.
    pub isid: Isid,
    /// Operational keys.
    pub offer: Offer,
}

/// Most text of all responses of one exchange, in bytes: a target that sends more is not sane.
const TEXT_BYTES_MAX: usize = 64 * 1024;

/// Most responses in one login, for the same reason.
const RESPONSES_MAX: u32 = 64;

/// The tag of all requests of a login; nothing else is in flight then.
const LOGIN_ITT: Itt = Itt(0);

/// A login that waits for the next response.
#[derive(Debug)]
pub struct Login {
    isid: Isid,
    discovery: bool,
    stage: Stage,
    negotiation: Negotiation,
    cmd_sn: Sn,
    /// StatSN of the next response, once there was one.
    exp_stat_sn: Option<Sn>,
    received: Vec<u8>,
    responses: u32,
}

/// What follows a response.
#[derive(Debug)]
pub enum Step {
    /// Send this and wait for the next response.
    Request(Login, LoginRequest, Text),
    /// The session is in its full feature phase.
    Done(LoggedIn),
}

/// What a finished login leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoggedIn {
    /// What holds from now on.
    pub negotiated: Negotiated,
    /// The target's part of the session identifier.
    pub tsih: u16,
    /// First command number.
    pub cmd_sn: Sn,
    /// Counters of the last response.
    pub sns: StatusSns,
}

impl Login {
    /// Begins: the machine, and the first request with its text.
    pub fn start(config: &LoginConfig, cmd_sn: Sn) -> (Login, LoginRequest, Text) {
        let mut text = Text::new();
        text.push("InitiatorName", &config.initiator);
        match &config.target {
            Some(target) => {
                text.push("TargetName", target);
                text.push("SessionType", "Normal");
            }
            None => text.push("SessionType", "Discovery"),
        }
        text.push("AuthMethod", "None");
        let login = Login {
            isid: config.isid,
            discovery: config.target.is_none(),
            stage: Stage::SecurityNegotiation,
            negotiation: Negotiation::new(config.offer),
            cmd_sn,
            exp_stat_sn: None,
            received: Vec::new(),
            responses: 0,
        };
        let request = login.request(Some(Stage::LoginOperationalNegotiation), &text);
        (login, request, text)
    }

    /// Takes a response and its data segment.
    pub fn handle(mut self, response: &LoginResponse, data: &[u8]) -> Result<Step, Error> {
        self.check(response)?;
        if self.received.len() + data.len() > TEXT_BYTES_MAX {
            let length = (self.received.len() + data.len()) as u64;
            let rule = "must be at most 65536 for one exchange";
            return Err(Malformed::number("login text", "length", length, rule).into());
        }
        if response.status_class == 1 {
            return Err(redirected(response, data));
        }
        if response.status_class != 0 {
            let (class, detail) = (response.status_class, response.status_detail);
            return Err(Error::LoginRefused(LoginStatus { class, detail }));
        }
        self.received.extend_from_slice(data);
        if response.continues {
            // An empty request asks for the rest (RFC 7143 §6.2).
            let request = self.request(None, &Text::new());
            return Ok(Step::Request(self, request, Text::new()));
        }
        let received = std::mem::take(&mut self.received);
        let mut reply = Text::new();
        for pair in text::pairs(&received) {
            let (key, value) = pair?;
            self.handle_pair(key, value, &mut reply)?;
        }
        if response.transit {
            return self.enter(response, reply);
        }
        let wanted = match self.stage {
            Stage::SecurityNegotiation => Stage::LoginOperationalNegotiation,
            _ => Stage::FullFeaturePhase,
        };
        let request = self.request(Some(wanted), &reply);
        Ok(Step::Request(self, request, reply))
    }

    fn handle_pair(&mut self, key: &str, value: &str, reply: &mut Text) -> Result<(), Error> {
        match (self.stage, key) {
            // Declarations that may come in any stage and change nothing for us here.
            (_, "TargetAlias" | "TargetPortalGroupTag" | "TargetAddress") => Ok(()),
            (Stage::SecurityNegotiation, "AuthMethod") if value == "None" => Ok(()),
            (Stage::SecurityNegotiation, "AuthMethod") => {
                // A target that wants more than None answers so, or refuses with class 2.
                Err(Error::LoginRefused(LoginStatus::AUTHENTICATION_FAILURE))
            }
            _ => Ok(self.negotiation.handle_answer(key, value, reply)?),
        }
    }

    /// The target agreed to leave the stage.
    fn enter(mut self, response: &LoginResponse, mut reply: Text) -> Result<Step, Error> {
        let misbehaved = |rule| Error::PeerMisbehaved { pdu: "Login Response", rule };
        match (self.stage, response.next_stage) {
            (Stage::SecurityNegotiation, Some(Stage::LoginOperationalNegotiation)) => {
                self.stage = Stage::LoginOperationalNegotiation;
                self.negotiation.propose(self.discovery, &mut reply);
                let request = self.request(Some(Stage::FullFeaturePhase), &reply);
                Ok(Step::Request(self, request, reply))
            }
            (_, Some(Stage::FullFeaturePhase)) => {
                if response.tsih == 0 {
                    return Err(misbehaved("ends the login with TSIH 0"));
                }
                if !reply.is_empty() {
                    return Err(misbehaved("ends the login and proposes a key at once"));
                }
                Ok(Step::Done(LoggedIn {
                    negotiated: self.negotiation.outcome(),
                    tsih: response.tsih,
                    cmd_sn: self.cmd_sn,
                    sns: response.sns,
                }))
            }
            _ => Err(misbehaved("goes back to an earlier stage")),
        }
    }

    fn check(&mut self, response: &LoginResponse) -> Result<(), Error> {
        let misbehaved = |rule| Error::PeerMisbehaved { pdu: "Login Response", rule };
        self.responses += 1;
        if self.responses > RESPONSES_MAX {
            return Err(misbehaved("does not bring the login to an end"));
        }
        if response.status_class != 0 {
            // A refusal is final; some targets leave its other fields empty.
            return Ok(());
        }
        if response.itt != LOGIN_ITT {
            return Err(misbehaved("answers a request that was not made"));
        }
        if response.isid != self.isid {
            return Err(misbehaved("carries another ISID"));
        }
        if response.version_active != 0 {
            return Err(misbehaved("speaks an iSCSI version other than 0"));
        }
        if response.stage != self.stage {
            return Err(misbehaved("belongs to another stage"));
        }
        if self.exp_stat_sn.is_some_and(|expected| expected != response.sns.stat_sn) {
            return Err(misbehaved("has a StatSN out of order"));
        }
        self.exp_stat_sn = Some(response.sns.stat_sn.next());
        Ok(())
    }

    fn request(&self, next_stage: Option<Stage>, text: &Text) -> LoginRequest {
        LoginRequest {
            transit: next_stage.is_some(),
            continues: false,
            stage: self.stage,
            next_stage,
            version_max: 0,
            version_min: 0,
            isid: self.isid,
            // Zero: a new session, or the reinstatement of the one with our ISID (§6.3.5).
            tsih: 0,
            itt: LOGIN_ITT,
            cid: 0,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn.unwrap_or_default(),
            data_bytes: text.as_bytes().len() as u32,
        }
    }
}

fn redirected(response: &LoginResponse, data: &[u8]) -> Error {
    let address = text::pairs(data)
        .filter_map(Result::ok)
        .find(|(key, _)| *key == "TargetAddress")
        .map_or("an address that it does not name", |(_, value)| value);
    let address = address.chars().filter(|c| !c.is_control()).take(64).collect::<String>();
    Error::Redirected { permanent: response.status_detail == 2, address: address.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> LoginConfig {
        LoginConfig {
            initiator: "iqn.2026-11.example:client".into(),
            target: Some("iqn.2026-11.example:root".into()),
            isid: Isid([0x80, 0, 0, 1, 2, 3]),
            offer: Offer::default(),
        }
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

    fn next(step: Step) -> (Login, LoginRequest, Text) {
        match step {
            Step::Request(login, request, text) => (login, request, text),
            Step::Done(_) => panic!("the login ended too early"),
        }
    }

    #[test]
    fn the_first_request_names_both_sides() {
        let (_, request, text) = Login::start(&config(), Sn(1));
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
        let (login, request, _) = Login::start(&config(), Sn(1));
        let step =
            login.handle(&response(&request, 7), b"AuthMethod=None\0TargetPortalGroupTag=1\0");
        let (login, request, text) = next(step.unwrap());
        assert_eq!(request.exp_stat_sn, Sn(8));
        assert!(String::from_utf8_lossy(text.as_bytes()).contains("MaxBurstLength=1048576\0"));
        let mut last = response(&request, 8);
        last.tsih = 5;
        let answer = b"HeaderDigest=None\0InitialR2T=Yes\0ImmediateData=No\0";
        let Step::Done(logged_in) = login.handle(&last, answer).unwrap() else {
            panic!("the login did not end")
        };
        assert_eq!(logged_in.tsih, 5);
        assert!(logged_in.negotiated.initial_r2t && !logged_in.negotiated.immediate_data);
    }

    #[test]
    fn text_may_come_in_pieces_and_a_key_may_be_cut() {
        let (login, request, _) = Login::start(&config(), Sn(1));
        let step = login.handle(&response(&request, 0), b"AuthMethod=None\0").unwrap();
        let (login, request, _) = next(step);
        let mut piece = response(&request, 1);
        (piece.transit, piece.next_stage, piece.continues) = (false, None, true);
        let (login, empty, text) = next(login.handle(&piece, b"MaxBurstLe").unwrap());
        assert!(text.is_empty() && !empty.transit);
        let mut last = response(&request, 2);
        last.tsih = 1;
        let Step::Done(logged_in) = login.handle(&last, b"ngth=65536\0").unwrap() else {
            panic!("the login did not end")
        };
        assert_eq!(logged_in.negotiated.max_burst_bytes, 65_536);
    }

    #[test]
    fn a_target_that_is_not_ready_is_asked_again() {
        let (login, request, _) = Login::start(&config(), Sn(1));
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
        let (login, request, _) = Login::start(&config(), Sn(1));
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
        let (mut login, request, _) = Login::start(&config(), Sn(1));
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
        let (mut login, request, _) = Login::start(&config(), Sn(1));
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
            |r: &mut LoginResponse| r.isid = Isid([0; 6]),
            |r: &mut LoginResponse| r.stage = Stage::LoginOperationalNegotiation,
            |r: &mut LoginResponse| r.version_active = 1,
        ] {
            let (login, request, _) = Login::start(&config(), Sn(1));
            let mut spoiled = response(&request, 0);
            spoil(&mut spoiled);
            assert!(matches!(login.handle(&spoiled, b""), Err(Error::PeerMisbehaved { .. })));
        }
    }
}
