//! The target's side of a login: from the first request to the full feature phase
//! (RFC 7143 §6, §11.12, §11.13).
//!
//! A strictly ordered exchange: [`Login::handle`] consumes the machine and gives it back with the
//! response, or gives the claim to a session, or the refusal. Text that is longer than a PDU goes
//! in parts, in either direction. Everything here is reached without a password, so all of it is
//! bounded.

use super::security::{Security, denied};
use super::{COMMAND_WINDOW, SessionName, TargetConfig};
use crate::proto::chap::{Challenge, Keys, Secrets};
use crate::proto::error::{Error, LoginStatus};
use crate::proto::params::{LOGIN_DATA_SEGMENT_BYTES_MAX, Negotiated, Negotiation};
use crate::wire::Malformed;
use crate::wire::pdu::{Isid, LoginRequest, LoginResponse, Stage, StatusSns};
use crate::wire::serial::Sn;
use crate::wire::text::{self, Text};

/// Most text of one step, over all its PDUs, in bytes.
const TEXT_BYTES_MAX: usize = 16 * 1024;
/// Most text of one answer, in bytes; many short keys that are not understood make it long.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Text of one response.
const PART_BYTES: usize = LOGIN_DATA_SEGMENT_BYTES_MAX as usize;
/// Most requests of one login.
const REQUESTS_MAX: u32 = 64;
/// Status class of a login that is sent elsewhere (RFC 7143 §11.13.5).
const REDIRECTION: u8 = 1;
/// Longest iSCSI name (RFC 7143 §4.2.7.1).
const NAME_BYTES_MAX: usize = 223;

/// A login that waits for the next request.
#[derive(Debug)]
pub(super) struct Login {
    security: Security,
    negotiation: Negotiation,
    /// What the first request fixed; `None` until then.
    fixed: Option<Fixed>,
    stage: Stage,
    names: Names,
    /// Text of the initiator that is not complete yet.
    received: Vec<u8>,
    /// Text of ours that is still to be sent.
    outgoing: Text,
    stat_sn: Sn,
    requests: u32,
    /// The portal group was named.
    introduced: bool,
}

/// Fields that are the same in all requests of a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fixed {
    isid: Isid,
    cid: u16,
}

/// What the initiator said about itself and what it wants.
#[derive(Debug, Default)]
struct Names {
    initiator: Option<String>,
    target: Option<String>,
    discovery: bool,
    /// SessionType was said, or judged as left out.
    typed: bool,
    /// The first complete request was judged.
    accepted: bool,
}

/// What follows a request.
#[derive(Debug)]
pub(super) enum Step {
    /// Send this and wait for the next request.
    Response(Box<Login>, LoginResponse, Text),
    /// Send this when the session has been admitted: its TSIH is still missing.
    Claim(Claim),
    /// Send this and close the connection.
    Refusal(LoginResponse, Text, Error),
}

/// Why there will be no session: what the initiator is told, and what our log says.
pub(super) type Refused = (LoginStatus, Error);

/// A login that wants to become a session.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) session: SessionName,
    pub(super) discovery: bool,
    pub(super) response: LoginResponse,
    pub(super) text: Text,
    pub(super) negotiated: Negotiated,
    pub(super) cid: u16,
    pub(super) cmd_sn: Sn,
    /// StatSN after the response.
    pub(super) stat_sn: Sn,
}

impl Login {
    pub(super) fn new(config: &TargetConfig, challenge: Challenge) -> Login {
        Login {
            security: Security::new(challenge),
            negotiation: Negotiation::new(config.offer),
            fixed: None,
            stage: Stage::SecurityNegotiation,
            names: Names::default(),
            received: Vec::new(),
            outgoing: Text::new(),
            stat_sn: Sn(1),
            requests: 0,
            introduced: false,
        }
    }

    /// The initiator, as far as it has said who it is.
    pub(super) fn initiator(&self) -> Option<&str> {
        self.names.initiator.as_deref()
    }

    /// Takes a request and its data segment.
    pub(super) fn handle(
        mut self: Box<Self>,
        request: &LoginRequest,
        data: &[u8],
        config: &TargetConfig,
    ) -> Step {
        let step =
            self.advance(request, data, config).and_then(|()| self.next_stage(request, config));
        match step {
            Ok(next_stage) => self.respond(request, next_stage),
            Err((status, error)) => {
                let mut text = Text::new();
                if let Some(redirect) = config.redirect.filter(|_| status.class == REDIRECTION) {
                    text.push("TargetAddress", &redirect.to_string());
                }
                let mut response = self.response(request, &text);
                (response.status_class, response.status_detail) = (status.class, status.detail);
                (response.continues, response.transit) = (false, false);
                Step::Refusal(response, text, error)
            }
        }
    }

    /// Takes the text and makes the answer, or says why there will be no session.
    fn advance(
        &mut self,
        request: &LoginRequest,
        data: &[u8],
        config: &TargetConfig,
    ) -> Result<(), Refused> {
        self.check(request)?;
        if !self.outgoing.is_empty() {
            // An empty request asks for the rest of our text (RFC 7143 §6.2).
            let rule = "brings text before it has taken all of ours";
            return if data.is_empty() { Ok(()) } else { Err(misbehaved(rule)) };
        }
        self.received.extend_from_slice(data);
        if request.continues {
            // An empty response asks for the rest of theirs.
            return Ok(());
        }
        let received = std::mem::take(&mut self.received);
        self.names.read(&received)?;
        if !self.names.accepted {
            self.names.judge(config)?;
            (self.names.accepted, self.names.typed) = (true, true);
            if let Some(redirect) = config.redirect.filter(|_| !self.names.discovery) {
                let detail = if redirect.permanent { 2 } else { 1 };
                let status = LoginStatus { class: REDIRECTION, detail };
                return Err((status, Error::LoginRefused(status)));
            }
        }
        let mut reply = Text::new();
        if !self.introduced {
            self.introduced = true;
            if !self.names.discovery {
                reply.push_number("TargetPortalGroupTag", u32::from(config.portal_group));
            }
        }
        let mut keys = Keys::default();
        for pair in text::pairs(&received) {
            let (key, value) = pair.map_err(initiator_error)?;
            if matches!(key, "InitiatorName" | "TargetName" | "SessionType" | "InitiatorAlias")
                || keys.take(key, value).map_err(initiator_error)?
            {
                continue;
            }
            let negotiation = &mut self.negotiation;
            negotiation.handle_proposal(key, value, &mut reply).map_err(initiator_error)?;
        }
        self.handle_security(request, &keys, config, &mut reply)?;
        if self.stage == Stage::LoginOperationalNegotiation {
            self.negotiation.declare(&mut reply);
        }
        if reply.as_bytes().len() > ANSWER_BYTES_MAX {
            let length = reply.as_bytes().len() as u64;
            let rule = "must fit 65536 bytes";
            return Err(initiator_error(Malformed::number("login text", "answers", length, rule)));
        }
        self.outgoing = reply;
        Ok(())
    }

    fn handle_security(
        &mut self,
        request: &LoginRequest,
        keys: &Keys<'_>,
        config: &TargetConfig,
        reply: &mut Text,
    ) -> Result<(), Refused> {
        let secrets = self.secrets(config);
        if self.stage != Stage::SecurityNegotiation {
            return match (keys.is_empty(), secrets) {
                (false, _) => Err(misbehaved("negotiates authentication outside of its stage")),
                (true, Some(_)) if !self.security.is_done() => {
                    Err(denied("leaves out the security stage, which is needed here"))
                }
                (true, _) => Ok(()),
            };
        }
        if secrets.is_some() && request.transit && keys.is_empty() && !self.security.is_done() {
            return Err(denied("wants to leave the security stage without a proof"));
        }
        let initiator = self.names.initiator.as_deref().unwrap_or_default();
        self.security.handle(keys, secrets, initiator, reply)
    }

    /// The secrets that this login needs.
    fn secrets<'a>(&self, config: &'a TargetConfig) -> Option<&'a Secrets> {
        let is_open = self.names.discovery && config.open_discovery;
        config.secrets.as_ref().filter(|_| !is_open)
    }

    fn check(&mut self, request: &LoginRequest) -> Result<(), Refused> {
        self.requests += 1;
        if self.requests > REQUESTS_MAX {
            return Err(misbehaved("does not bring the login to an end"));
        }
        if request.version_min > 0 {
            let status = LoginStatus { class: 2, detail: 5 };
            let error = misbehaved("speaks no iSCSI version that this target knows").1;
            return Err((status, error));
        }
        let fixed = Fixed { isid: request.isid, cid: request.cid };
        match self.fixed {
            None => {
                self.fixed = Some(fixed);
                // Without need for a password the first stage may be left out (§6.3.1).
                self.stage = request.stage;
                if request.stage == Stage::FullFeaturePhase {
                    return Err(misbehaved("begins in the full feature phase"));
                }
            }
            Some(first) if first != fixed => {
                return Err(misbehaved("changes ISID or CID in a login"));
            }
            Some(_) if request.stage != self.stage => {
                return Err(misbehaved("belongs to another stage"));
            }
            Some(_) => {}
        }
        if request.tsih != 0 {
            // One connection is a session here; there is none to be joined.
            let status = LoginStatus { class: 2, detail: 10 };
            return Err((status, misbehaved("asks to join a session (TSIH is not 0)").1));
        }
        if self.received.len() + request.data_bytes as usize > TEXT_BYTES_MAX {
            let length = (self.received.len() + request.data_bytes as usize) as u64;
            let rule = "must be at most 16384 bytes for one step";
            return Err(initiator_error(Malformed::number("login text", "length", length, rule)));
        }
        Ok(())
    }

    /// Where the answer leads; `None` to stay. An initiator may ask for the next stage before
    /// everything is said in this one; then it is not granted.
    fn next_stage(
        &self,
        request: &LoginRequest,
        config: &TargetConfig,
    ) -> Result<Option<Stage>, Refused> {
        let is_whole = self.outgoing.as_bytes().len() <= PART_BYTES;
        let is_safe = self.secrets(config).is_none() || self.security.is_done();
        if !request.transit || request.continues || !is_whole || !is_safe {
            return Ok(None);
        }
        if request.next_stage.map_or(0, Stage::code) <= self.stage.code() {
            return Err(misbehaved("goes back to an earlier stage"));
        }
        if request.next_stage == Some(Stage::FullFeaturePhase) {
            self.negotiation.check().map_err(initiator_error)?;
        }
        Ok(request.next_stage)
    }

    /// The agreed answer, or the part of it that fits one PDU.
    fn respond(mut self: Box<Self>, request: &LoginRequest, next_stage: Option<Stage>) -> Step {
        let text = self.outgoing.take_front(PART_BYTES);
        let mut response = self.response(request, &text);
        response.transit = next_stage.is_some();
        response.next_stage = next_stage;
        self.stat_sn = self.stat_sn.next();
        match response.next_stage {
            Some(Stage::FullFeaturePhase) => Step::Claim(Claim {
                session: SessionName {
                    initiator: self.names.initiator.unwrap_or_default(),
                    isid: request.isid,
                },
                discovery: self.names.discovery,
                negotiated: self.negotiation.outcome(),
                response,
                text,
                cid: request.cid,
                cmd_sn: request.cmd_sn,
                stat_sn: self.stat_sn,
            }),
            next => {
                self.stage = next.unwrap_or(self.stage);
                Step::Response(self, response, text)
            }
        }
    }

    fn response(&self, request: &LoginRequest, text: &Text) -> LoginResponse {
        LoginResponse {
            transit: false,
            continues: !self.outgoing.is_empty(),
            stage: request.stage,
            next_stage: None,
            version_max: 0,
            version_active: 0,
            isid: request.isid,
            tsih: 0,
            itt: request.itt,
            sns: StatusSns {
                stat_sn: self.stat_sn,
                exp_cmd_sn: request.cmd_sn,
                max_cmd_sn: request.cmd_sn.plus(COMMAND_WINDOW - 1),
            },
            status_class: 0,
            status_detail: 0,
            data_bytes: text.as_bytes().len() as u32,
        }
    }
}

impl Names {
    /// Takes the names out of a step's text. They may stand in any step before the first judgement.
    fn read(&mut self, received: &[u8]) -> Result<(), Refused> {
        for pair in text::pairs(received) {
            let (key, value) = pair.map_err(initiator_error)?;
            let name = match key {
                "InitiatorName" => &mut self.initiator,
                "TargetName" => &mut self.target,
                "SessionType" => {
                    let discovery = match value {
                        "Normal" => false,
                        "Discovery" => true,
                        _ => {
                            let status = LoginStatus { class: 2, detail: 9 };
                            let rule = "must be Normal or Discovery";
                            let value = value.as_bytes();
                            let error = Malformed::text("login text", "SessionType", value, rule);
                            return Err((status, error.into()));
                        }
                    };
                    // Who was let in to discover would be let in to everything.
                    if std::mem::replace(&mut self.typed, true) && discovery != self.discovery {
                        return Err(misbehaved("changes SessionType in a login"));
                    }
                    self.discovery = discovery;
                    continue;
                }
                _ => continue,
            };
            let is_name = !value.is_empty()
                && value.len() <= NAME_BYTES_MAX
                && !value.chars().any(|c| c.is_control() || c.is_whitespace());
            if !is_name {
                let key = if key == "TargetName" { "TargetName" } else { "InitiatorName" };
                let rule = "must be 1 to 223 bytes without spaces and control characters";
                let error = Malformed::text("login text", key, value.as_bytes(), rule);
                return Err(initiator_error(error));
            }
            if name.as_deref().is_some_and(|first| first != value) {
                return Err(misbehaved("changes a name in a login"));
            }
            *name = Some(value.to_owned());
        }
        Ok(())
    }

    /// Whether there can be a session for these names.
    fn judge(&self, config: &TargetConfig) -> Result<(), Refused> {
        let missing = LoginStatus { class: 2, detail: 7 };
        if self.initiator.is_none() {
            return Err((missing, misbehaved("names no InitiatorName").1));
        }
        match &self.target {
            _ if self.discovery => Ok(()),
            None => Err((missing, misbehaved("names no TargetName").1)),
            // Names are compared after folding to lower case (RFC 7143 §4.2.7.1, RFC 3722).
            Some(name) if name.eq_ignore_ascii_case(&config.name) => Ok(()),
            Some(name) => {
                let rule = "must be the name of this target";
                let error = Malformed::text("login text", "TargetName", name.as_bytes(), rule);
                Err((LoginStatus::NOT_FOUND, error.into()))
            }
        }
    }
}

/// Initiator error without a code of its own, for a broken rule.
pub(super) fn misbehaved(rule: &'static str) -> Refused {
    let error = Error::PeerMisbehaved { pdu: "Login Request", rule };
    (LoginStatus { class: 2, detail: 0 }, error)
}

/// The same for text that breaks its format.
pub(super) fn initiator_error(malformed: Malformed) -> Refused {
    (LoginStatus { class: 2, detail: 0 }, malformed.into())
}
