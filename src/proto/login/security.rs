//! The initiator's part of authentication: AuthMethod and CHAP (RFC 7143 §12.1).
//!
//! [`Security`] sees the keys of each response of the security stage and writes the answer. The
//! stage is left only when [`Security::check_end`] agrees: that the target leaves it counts for
//! nothing, since it may be the one that cannot prove itself.

use crate::proto::chap::{Algorithm, Challenge, Chap, Keys};
use crate::proto::error::{Authentication, Error, LoginStatus};
use crate::wire::text::Text;

/// Which algorithms are offered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algorithms {
    /// All, the strongest first.
    #[default]
    All,
    /// Only the one that every target knows: some refuse a list.
    Md5,
}

/// The state of the exchange.
#[derive(Debug)]
pub(super) struct Security {
    chap: Option<Chap>,
    challenge: Challenge,
    algorithms: Algorithms,
    step: Step,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// AuthMethod was offered.
    Method,
    /// CHAP_A was offered.
    Algorithm,
    /// We have proved ourselves; the target has to do so with this algorithm, if it has to.
    Response(Algorithm),
    /// Nothing more is to be said.
    Done,
}

impl Security {
    pub(super) fn new(chap: Option<Chap>, challenge: Challenge, algorithms: Algorithms) -> Self {
        Security { chap, challenge, algorithms, step: Step::Method }
    }

    /// The first offer. Whoever wants the target to prove itself does not offer None.
    pub(super) fn offer(&self, text: &mut Text) {
        let methods = match &self.chap {
            None => "None",
            Some(chap) if chap.target.is_some() => "CHAP",
            Some(_) => "CHAP,None",
        };
        text.push("AuthMethod", methods);
    }

    /// Whether the next stage may be asked for: with our response at the latest, which leaves the
    /// target one PDU for its own (RFC 7143 Appendix B). A later request is one that tgt refuses.
    pub(super) fn asks_for_end(&self) -> bool {
        match self.step {
            // A target that talks of no method at all wants none.
            Step::Method => self.chap.is_none(),
            Step::Algorithm => false,
            Step::Response(_) | Step::Done => true,
        }
    }

    /// Whether the target may enter the next stage now.
    pub(super) fn check_end(&self) -> Result<(), Error> {
        match self.step {
            Step::Method if !self.is_mutual() => Ok(()),
            Step::Response(_) if !self.is_mutual() => Ok(()),
            Step::Done => Ok(()),
            Step::Algorithm => Err(misbehaved("leaves the security stage before its challenge")),
            Step::Method | Step::Response(_) => Err(Authentication::Unproven.into()),
        }
    }

    /// Takes the keys of a response and writes what follows.
    pub(super) fn handle(&mut self, keys: &Keys<'_>, reply: &mut Text) -> Result<(), Error> {
        match self.step {
            _ if keys.is_empty() && self.step != Step::Algorithm => Ok(()),
            Step::Method => self.handle_method(keys, reply),
            Step::Algorithm => self.handle_challenge(keys, reply),
            Step::Response(algorithm) if self.is_mutual() => self.handle_response(algorithm, keys),
            Step::Response(_) | Step::Done => {
                Err(misbehaved("brings keys of authentication after its end"))
            }
        }
    }

    /// What a refusal at this moment means.
    pub(super) fn refused(&self, status: LoginStatus) -> Error {
        match (self.step, &self.chap) {
            _ if status != LoginStatus::AUTHENTICATION_FAILURE => Error::LoginRefused(status),
            (_, None) => Authentication::NoSecret.into(),
            (Step::Response(_), _) => Authentication::Refused.into(),
            _ => Error::LoginRefused(status),
        }
    }

    /// Whether the offer of several algorithms may be why the login came to nothing.
    pub(super) fn may_be_refused_for_its_list(&self) -> bool {
        self.algorithms == Algorithms::All
            && match self.step {
                Step::Algorithm => true,
                Step::Response(algorithm) => algorithm != Algorithm::Md5,
                Step::Method | Step::Done => false,
            }
    }

    pub(super) fn has_secret(&self) -> bool {
        self.chap.is_some()
    }

    fn is_mutual(&self) -> bool {
        self.chap.as_ref().is_some_and(|chap| chap.target.is_some())
    }

    fn offered(&self) -> &'static [Algorithm] {
        match self.algorithms {
            Algorithms::All => &Algorithm::ALL,
            Algorithms::Md5 => &[Algorithm::Md5],
        }
    }

    fn handle_method(&mut self, keys: &Keys<'_>, reply: &mut Text) -> Result<(), Error> {
        match (keys.method, &self.chap) {
            (Some("None"), _) if self.is_mutual() => Err(Authentication::NotOffered.into()),
            (Some("None"), _) => {
                self.step = Step::Done;
                Ok(())
            }
            (Some("CHAP"), Some(_)) => {
                self.step = Step::Algorithm;
                let numbers = self.offered().iter().map(|known| (*known as u8).to_string());
                reply.push("CHAP_A", &numbers.collect::<Vec<_>>().join(","));
                Ok(())
            }
            (Some("CHAP"), None) => Err(Authentication::NoSecret.into()),
            (Some(_), None) => Err(Error::LoginRefused(LoginStatus::AUTHENTICATION_FAILURE)),
            (Some(_), Some(_)) => Err(Authentication::NotOffered.into()),
            (None, _) => Err(misbehaved("brings keys of CHAP before CHAP was agreed on")),
        }
    }

    fn handle_challenge(&mut self, keys: &Keys<'_>, reply: &mut Text) -> Result<(), Error> {
        let chap = self.chap.as_ref().expect("CHAP was offered");
        let Some(chosen) = keys.algorithms else {
            return Err(misbehaved("chooses no CHAP algorithm"));
        };
        let algorithm = Algorithm::parse(chosen).filter(|chosen| self.offered().contains(chosen));
        let Some(algorithm) = algorithm else {
            return Err(misbehaved("chooses a CHAP algorithm that was not offered"));
        };
        let Some((identifier, challenge)) = keys.challenge()? else {
            return Err(misbehaved("brings no CHAP challenge"));
        };
        if self.challenge.is(&challenge) {
            return Err(Authentication::Reflected.into());
        }
        let response = algorithm.response(identifier, &chap.initiator.secret, &challenge);
        reply.push("CHAP_N", &chap.initiator.name);
        reply.push_binary("CHAP_R", response.as_bytes());
        if chap.target.is_some() {
            self.challenge.push(reply);
        }
        self.step = Step::Response(algorithm);
        Ok(())
    }

    fn handle_response(&mut self, algorithm: Algorithm, keys: &Keys<'_>) -> Result<(), Error> {
        let chap = self.chap.as_ref().expect("CHAP was offered");
        let target = chap.target.as_ref().expect("it has to prove itself");
        let Some((name, response)) = keys.response()? else {
            return Err(Authentication::Unproven.into());
        };
        // Somebody who made us, or another of our name, answer the question (RFC 7143 §9.2.1).
        if self.challenge.response(algorithm, &chap.initiator.secret).is(&response) {
            return Err(Authentication::Reflected.into());
        }
        let is_good = self.challenge.response(algorithm, &target.secret).is(&response);
        if !is_good || name != target.name {
            return Err(Authentication::Unproven.into());
        }
        self.step = Step::Done;
        Ok(())
    }
}

fn misbehaved(rule: &'static str) -> Error {
    Error::PeerMisbehaved { pdu: "Login Response", rule }
}
