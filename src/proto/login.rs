//! The initiator's login: from the first request to the full feature phase (RFC 7143 §6, §11.12).
//!
//! A strictly ordered exchange, so each step consumes the machine: [`Login::start`] gives the first
//! request, [`Login::handle`] takes a response and gives the next request or the end. Text that is
//! longer than a PDU goes in parts, in either direction.

use self::security::Security;
use super::chap::{Challenge, Chap, Keys};
use super::error::{Error, LoginStatus};
use super::params::{LOGIN_DATA_SEGMENT_BYTES_MAX, Negotiated, Negotiation, Offer};
use crate::wire::Malformed;
use crate::wire::pdu::{Isid, Itt, LoginRequest, LoginResponse, Stage, StatusSns};
use crate::wire::serial::Sn;
use crate::wire::text::{self, Text};

pub use self::security::Algorithms;

mod security;

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
    /// How we prove who we are, and whether the target must; `None` if there is nothing to prove.
    pub chap: Option<Chap>,
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
    security: Security,
    negotiation: Negotiation,
    cmd_sn: Sn,
    /// StatSN of the next response, once there was one.
    exp_stat_sn: Option<Sn>,
    /// Text of the target that is not complete yet.
    received: Vec<u8>,
    /// Text of ours that is still to be sent, and the stage to ask for with its end.
    outgoing: Text,
    wanted: Option<Stage>,
    responses: u32,
}

/// What follows a response.
#[derive(Debug)]
pub enum Step {
    /// Send this and wait for the next response.
    Request(Box<Login>, LoginRequest, Text),
    /// The session is in its full feature phase.
    Done(LoggedIn),
}

/// What a finished login leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoggedIn {
    /// What holds from now on.
    pub negotiated: Negotiated,
    /// First command number.
    pub cmd_sn: Sn,
    /// Counters of the last response.
    pub sns: StatusSns,
}

impl Login {
    /// Begins: the machine, and the first request with its text. `challenge` must be new for each
    /// login.
    pub fn start(
        config: &LoginConfig,
        challenge: Challenge,
        algorithms: Algorithms,
        cmd_sn: Sn,
    ) -> (Box<Login>, LoginRequest, Text) {
        let mut text = Text::new();
        text.push("InitiatorName", &config.initiator);
        match &config.target {
            Some(target) => {
                text.push("TargetName", target);
                text.push("SessionType", "Normal");
            }
            None => text.push("SessionType", "Discovery"),
        }
        let security = Security::new(config.chap.clone(), challenge, algorithms);
        security.offer(&mut text);
        let login = Box::new(Login {
            isid: config.isid,
            discovery: config.target.is_none(),
            stage: Stage::SecurityNegotiation,
            security,
            negotiation: Negotiation::new(config.offer),
            cmd_sn,
            exp_stat_sn: None,
            received: Vec::new(),
            outgoing: Text::new(),
            wanted: None,
            responses: 0,
        });
        login.ask_for_more(text)
    }

    /// Whether a login that ends here without success may have failed because several CHAP
    /// algorithms were offered.
    pub fn may_be_refused_for_its_list(&self) -> bool {
        self.security.may_be_refused_for_its_list()
    }

    /// Whether there is anything to prove ourselves with.
    pub fn has_secret(&self) -> bool {
        self.security.has_secret()
    }

    /// Takes a response and its data segment.
    pub fn handle(
        mut self: Box<Self>,
        response: &LoginResponse,
        data: &[u8],
    ) -> Result<Step, Error> {
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
            return Err(self.security.refused(LoginStatus { class, detail }));
        }
        self.received.extend_from_slice(data);
        if !self.outgoing.is_empty() {
            if response.transit {
                let rule = "goes on before our text is complete";
                return Err(Error::PeerMisbehaved { pdu: "Login Response", rule });
            }
            return Ok(self.send());
        }
        if response.continues {
            // An empty request asks for the rest (RFC 7143 §6.2).
            self.wanted = None;
            return Ok(self.send());
        }
        let received = std::mem::take(&mut self.received);
        let (mut keys, mut reply) = (Keys::default(), Text::new());
        for pair in text::pairs(&received) {
            let (key, value) = pair?;
            let is_security = self.stage == Stage::SecurityNegotiation;
            if !is_security || !keys.take(key, value)? {
                self.handle_pair(key, value, &mut reply)?;
            }
        }
        if self.stage == Stage::SecurityNegotiation {
            self.security.handle(&keys, &mut reply)?;
        }
        if response.transit {
            return self.enter(response, reply);
        }
        let (login, request, part) = self.ask_for_more(reply);
        Ok(Step::Request(login, request, part))
    }

    /// Sends text, and asks for the next stage with its end if everything is said in this one.
    fn ask_for_more(mut self: Box<Self>, text: Text) -> (Box<Login>, LoginRequest, Text) {
        self.outgoing = text;
        self.wanted = match self.stage {
            Stage::SecurityNegotiation if !self.security.asks_for_end() => None,
            Stage::SecurityNegotiation => Some(Stage::LoginOperationalNegotiation),
            _ => Some(Stage::FullFeaturePhase),
        };
        self.next_part()
    }

    fn send(self: Box<Self>) -> Step {
        let (login, request, part) = self.next_part();
        Step::Request(login, request, part)
    }

    /// The next PDU of what is to be sent; empty if nothing is.
    fn next_part(mut self: Box<Self>) -> (Box<Login>, LoginRequest, Text) {
        let part = self.outgoing.take_front(LOGIN_DATA_SEGMENT_BYTES_MAX as usize);
        let request = self.request(&part);
        (self, request, part)
    }

    fn handle_pair(&mut self, key: &str, value: &str, reply: &mut Text) -> Result<(), Error> {
        match key {
            // Declarations that may come in any stage and change nothing for us here.
            "TargetAlias" | "TargetPortalGroupTag" | "TargetAddress" => Ok(()),
            _ => Ok(self.negotiation.handle_answer(key, value, reply)?),
        }
    }

    /// The target agreed to leave the stage.
    fn enter(
        mut self: Box<Self>,
        response: &LoginResponse,
        mut reply: Text,
    ) -> Result<Step, Error> {
        let misbehaved = |rule| Error::PeerMisbehaved { pdu: "Login Response", rule };
        match (self.stage, response.next_stage) {
            (Stage::SecurityNegotiation, Some(Stage::LoginOperationalNegotiation)) => {
                self.security.check_end()?;
                self.stage = Stage::LoginOperationalNegotiation;
                self.negotiation.propose(self.discovery, &mut reply);
                let (login, request, part) = self.ask_for_more(reply);
                Ok(Step::Request(login, request, part))
            }
            (Stage::LoginOperationalNegotiation, Some(Stage::FullFeaturePhase)) => {
                self.negotiation.check()?;
                // Whoever ends the login does not wait for an answer to a key that it also brings.
                Ok(Step::Done(LoggedIn {
                    negotiated: self.negotiation.outcome(),
                    cmd_sn: self.cmd_sn,
                    sns: response.sns,
                }))
            }
            _ => Err(misbehaved("enters a stage that was not asked for")),
        }
    }

    /// Not looked at: what some targets leave at zero or do not count, and nothing depends on. That
    /// is ISID and TSIH, since a connection has one session, and StatSN, since nothing can be lost
    /// between a request and its response.
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
        if response.version_active != 0 {
            return Err(misbehaved("speaks an iSCSI version other than 0"));
        }
        if response.stage != self.stage {
            return Err(misbehaved("belongs to another stage"));
        }
        self.exp_stat_sn = Some(response.sns.stat_sn.next());
        Ok(())
    }

    /// The request for a part of our text; the last one may ask for the next stage.
    fn request(&self, part: &Text) -> LoginRequest {
        let continues = !self.outgoing.is_empty();
        let next_stage = self.wanted.filter(|_| !continues);
        LoginRequest {
            transit: next_stage.is_some(),
            continues,
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
            data_bytes: part.as_bytes().len() as u32,
        }
    }
}

fn redirected(response: &LoginResponse, data: &[u8]) -> Error {
    let address = text::pairs(data)
        .filter_map(Result::ok)
        .find(|(key, _)| *key == "TargetAddress")
        .map_or("an address that it does not name", |(_, value)| value);
    let address = address.chars().filter(|c| !c.is_control()).take(300).collect::<String>();
    Error::Redirected { permanent: response.status_detail == 2, address: address.into() }
}

#[cfg(test)]
mod tests;
