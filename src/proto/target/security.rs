//! The target's part of authentication: AuthMethod and CHAP (RFC 7143 §12.1).
//!
//! [`Security`] sees the keys of each request of the security stage and writes the answer. One
//! wrong answer ends the login, and with it the connection: whoever tries on gets a new challenge.

use super::login::{Refused, initiator_error, misbehaved};
use crate::proto::chap::{Algorithm, Challenge, Keys, Secret, Secrets};
use crate::proto::error::{Error, LoginStatus};
use crate::wire::Malformed;
use crate::wire::text::{self, Text};

/// The state of the exchange.
#[derive(Debug)]
pub(super) struct Security {
    challenge: Challenge,
    step: Step,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Nothing was agreed on.
    Method,
    /// CHAP was.
    Algorithm,
    /// The initiator has our challenge, and answers with this algorithm.
    Response(Algorithm),
    /// The initiator is who it says it is, or need not be.
    Done,
}

impl Security {
    pub(super) fn new(challenge: Challenge) -> Security {
        Security { challenge, step: Step::Method }
    }

    /// Whether the stage may be left.
    pub(super) fn is_done(&self) -> bool {
        self.step == Step::Done
    }

    /// Takes the keys of a request and writes the answer. `secrets` are those that this login
    /// needs, `initiator` the name that it gave.
    pub(super) fn handle(
        &mut self,
        keys: &Keys<'_>,
        secrets: Option<&Secrets>,
        initiator: &str,
        reply: &mut Text,
    ) -> Result<(), Refused> {
        if keys.is_empty() {
            return Ok(());
        }
        match (self.step, secrets) {
            (Step::Method, _) => self.handle_method(keys, secrets.is_some(), reply),
            (Step::Algorithm, Some(_)) => self.handle_algorithms(keys, reply),
            (Step::Response(algorithm), Some(secrets)) => {
                self.handle_response(algorithm, keys, secrets, initiator, reply)
            }
            _ => Err(misbehaved("brings keys of authentication after its end")),
        }
    }

    fn handle_method(
        &mut self,
        keys: &Keys<'_>,
        needs_chap: bool,
        reply: &mut Text,
    ) -> Result<(), Refused> {
        let Some(methods) = keys.method else {
            return Err(misbehaved("brings keys of CHAP before CHAP was agreed on"));
        };
        let (wanted, step, rule) = if needs_chap {
            ("CHAP", Step::Algorithm, "must contain CHAP: who logs in here has to prove who it is")
        } else {
            ("None", Step::Done, "must contain None: this target has no secrets to check others by")
        };
        if !text::list(methods).any(|method| method == wanted) {
            return Err(failure("AuthMethod", methods, rule));
        }
        self.step = step;
        reply.push("AuthMethod", wanted);
        Ok(())
    }

    fn handle_algorithms(&mut self, keys: &Keys<'_>, reply: &mut Text) -> Result<(), Refused> {
        let Some(offered) = keys.algorithms else {
            return Err(misbehaved("offers no CHAP algorithm"));
        };
        let Some(algorithm) = text::list(offered).find_map(Algorithm::parse) else {
            let rule = "must contain 5, 6, 7 or 8 (MD5, SHA1, SHA-256, SHA3-256)";
            return Err(failure("CHAP_A", offered, rule));
        };
        self.step = Step::Response(algorithm);
        reply.push_number("CHAP_A", algorithm as u32);
        self.challenge.push(reply);
        Ok(())
    }

    fn handle_response(
        &mut self,
        algorithm: Algorithm,
        keys: &Keys<'_>,
        secrets: &Secrets,
        initiator: &str,
        reply: &mut Text,
    ) -> Result<(), Refused> {
        let Some((name, response)) = keys.response().map_err(initiator_error)? else {
            return Err(misbehaved("does not answer the CHAP challenge"));
        };
        let known = secrets.initiators.iter().find(|known| known.name == name);
        // For a name that is not known as much is computed as for one that is.
        let nobody = Secret::new("");
        let secret = known.map_or(&nobody, |known| &known.secret);
        let is_right = self.challenge.response(algorithm, secret).is(&response);
        if known.is_none() {
            let rule = "must be a name of the secrets: add the line `initiator NAME SECRET`";
            return Err(failure("CHAP_N", name, rule));
        }
        // What we would have answered ourselves comes from somebody who has asked us.
        let is_ours = secrets
            .target
            .as_ref()
            .is_some_and(|target| self.challenge.response(algorithm, &target.secret).is(&response));
        if !is_right || is_ours {
            let rule = "must come with the response that its secret makes: compare both sides";
            return Err(failure("CHAP_N", name, rule));
        }
        if is_iscsi_name(name) && !name.eq_ignore_ascii_case(initiator) {
            let rule = "must be InitiatorName, because it is an iSCSI name";
            let error = Malformed::text("login text", "CHAP_N", name.as_bytes(), rule);
            return Err((LoginStatus::AUTHORIZATION_FAILURE, error.into()));
        }
        if let Some((identifier, challenge)) = keys.challenge().map_err(initiator_error)? {
            if self.challenge.is(&challenge) {
                return Err(denied("sends our own challenge back"));
            }
            let Some(target) = &secrets.target else {
                return Err(denied(
                    "asks this target to prove itself, and there is no secret for it",
                ));
            };
            let response = algorithm.response(identifier, &target.secret, &challenge);
            reply.push("CHAP_N", &target.name);
            reply.push_binary("CHAP_R", response.as_bytes());
        }
        self.step = Step::Done;
        Ok(())
    }
}

/// A CHAP name of this form stands for the one initiator of that name (RFC 7143 §4.2.7).
fn is_iscsi_name(name: &str) -> bool {
    let begins = |prefix| name.get(..4).is_some_and(|head| head.eq_ignore_ascii_case(prefix));
    ["iqn.", "eui.", "naa."].into_iter().any(begins)
}

/// Authentication failure, for a value.
fn failure(key: &'static str, value: &str, rule: &'static str) -> Refused {
    let error = Malformed::text("login text", key, value.as_bytes(), rule);
    (LoginStatus::AUTHENTICATION_FAILURE, error.into())
}

/// Authentication failure, for what the initiator does.
pub(super) fn denied(rule: &'static str) -> Refused {
    let error = Error::PeerMisbehaved { pdu: "Login Request", rule };
    (LoginStatus::AUTHENTICATION_FAILURE, error)
}
