//! Why a connection, a login or a session ended: who is at fault, and what to do.
//!
//! What a peer wrote wrongly, did wrongly or refused are different errors, because they send a
//! person to different places.

use std::fmt;
use std::time::Duration;

use crate::wire::Malformed;

/// Why a connection is over. Nothing is lost by it: the session decides whether there is another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The peer sent bytes that break their format.
    Malformed(Malformed),
    /// The peer sent a PDU that it must not send at this moment.
    PeerMisbehaved {
        /// The PDU, by its standard's name.
        pdu: &'static str,
        /// The rule that it breaks, as a sentence part.
        rule: &'static str,
    },
    /// The target refused the login.
    LoginRefused(LoginStatus),
    /// One of the two sides did not prove who it is.
    Authentication(Authentication),
    /// The target sends us elsewhere.
    Redirected {
        /// Whether it said so for good.
        permanent: bool,
        /// TargetAddress as it came, at most 300 characters.
        address: Box<str>,
    },
    /// The target sends us from one address to the next without an end.
    RedirectedInCircles {
        /// All of them, in order.
        portals: Box<str>,
    },
    /// A digest over received bytes was wrong.
    DigestError {
        /// `header` or `data`.
        part: &'static str,
    },
    /// The peer was silent for too long.
    TimedOut {
        /// What should have come.
        waiting_for: &'static str,
        /// For how long we waited.
        after: Duration,
    },
    /// The target announced the end (asynchronous message, RFC 7143 §11.9).
    TargetClosing,
    /// The target rejected a PDU of ours; the reason code of RFC 7143 §11.17.1.
    Rejected {
        /// Reason code.
        reason: u8,
    },
    /// The transport is gone; what the operating system said.
    Transport(Box<str>),
    /// The transport is gone before the login was over: a refusal without reasons.
    LostInLogin {
        /// What the operating system said.
        reason: Box<str>,
        /// Whether we have anything to prove ourselves with.
        has_secret: bool,
    },
    /// The logical unit cannot be used; a sentence that says why and what to check.
    LogicalUnit(Box<str>),
}

/// Why authentication failed, as the initiator sees it (RFC 7143 §12.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authentication {
    /// The target demands a proof, and we have nothing to prove ourselves with.
    NoSecret,
    /// The target refused our proof.
    Refused,
    /// The target did not prove itself, which we demand.
    Unproven,
    /// The target does not offer CHAP, which we need for its proof.
    NotOffered,
    /// The target sent back what came from us: it lets us answer our own question.
    Reflected,
}

/// Status-Class and Status-Detail of a refused login (RFC 7143 §11.13.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoginStatus {
    /// 1 redirection, 2 initiator error, 3 target error.
    pub class: u8,
    /// What exactly.
    pub detail: u8,
}

impl Error {
    /// When a disk is attached for the first time: whether the target will say the same for ever,
    /// until somebody changes something there or here.
    pub fn is_refusal(&self) -> bool {
        match self {
            Error::LoginRefused(status) => {
                status.class == 2 && *status != LoginStatus::TOO_MANY_CONNECTIONS
            }
            Error::Authentication(_) | Error::LogicalUnit(_) => true,
            _ => false,
        }
    }
}

impl LoginStatus {
    /// Initiator error: the target could not find out who asks.
    pub const AUTHENTICATION_FAILURE: LoginStatus = LoginStatus { class: 2, detail: 1 };
    /// Initiator error: known, but not allowed here.
    pub const AUTHORIZATION_FAILURE: LoginStatus = LoginStatus { class: 2, detail: 2 };
    /// Initiator error: no target of that name.
    pub const NOT_FOUND: LoginStatus = LoginStatus { class: 2, detail: 3 };
    /// Initiator error: there is no room for one more connection at the moment.
    pub const TOO_MANY_CONNECTIONS: LoginStatus = LoginStatus { class: 2, detail: 6 };

    /// What the status says and what to do, in words.
    pub fn words(self) -> &'static str {
        match (self.class, self.detail) {
            (0, _) => "no refusal at all, though it was sent as one: update the target",
            (1, 1) => "the target has moved for now: name its new address",
            (1, 2) => "the target has moved for good: name its new address",
            (1, _) => {
                "the target sends us elsewhere and names no way that RFC 7143 knows: update it"
            }
            (2, 0) => "the target found an error in our login and names none: look at its log",
            (2, 1) => "authentication failure: check name and secret on both sides",
            (2, 2) => "not allowed: the target knows its list of initiators, add our name there",
            (2, 3) => "no target of that name: compare it with what `lunboot discover` lists",
            (2, 4) => "the target was removed for good: ask whoever runs it for the new name",
            (2, 5) => "the target speaks another iSCSI version: update it",
            (2, 6) => {
                "too many connections: end another session with this target, or let it take more"
            }
            (2, 7) => "the target misses a parameter: look at its log for the one it wants",
            (2, 8) => "the target cannot spread a session over connections: look at its log",
            (2, 9) => "the target does not have this type of session: look at its log",
            (2, 10) => "the target does not know the session that we go on with: it was restarted",
            (2, 11) => "the target took our login for invalid: look at its log",
            (2, _) => "the target found an error in our login: look at its log",
            (3, 0) => "the target has an error of its own: look at its log",
            (3, 1) => "the target is not in service at the moment: wait, or look at its log",
            (3, 2) => "the target is out of resources: end sessions, or let it take more",
            (3, _) => "the target has an error of its own: look at its log",
            _ => "a status that RFC 7143 does not know: update the target",
        }
    }
}

impl fmt::Display for LoginStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:#04x}{:02x})", self.words(), self.class, self.detail)
    }
}

impl fmt::Display for Authentication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Authentication::NoSecret => {
                "the target demands CHAP, and there is no secret for it: name a file with \
                 --secrets, or for the boot put one into the image"
            }
            Authentication::Refused => {
                "the target refused our name or secret (0x0201): compare them on both sides"
            }
            Authentication::Unproven => {
                "the target could not prove that it knows its own secret: compare its name and \
                 secret on both sides, or it is not the target that it says it is"
            }
            Authentication::NotOffered => {
                "the target does not offer CHAP, but has to prove its own secret: configure it \
                 there, or take the line `target` out of our secrets"
            }
            Authentication::Reflected => {
                "the target sent back what we had sent: it does not know its own secret, or both \
                 sides have the same"
            }
        })
    }
}

impl From<Authentication> for Error {
    fn from(authentication: Authentication) -> Error {
        Error::Authentication(authentication)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Malformed(malformed) => malformed.fmt(f),
            Error::PeerMisbehaved { pdu, rule } => write!(f, "the peer sent a {pdu} that {rule}"),
            Error::LoginRefused(status) => write!(f, "login refused: {status}"),
            Error::Authentication(authentication) => authentication.fmt(f),
            Error::Redirected { permanent, address } => {
                let how = if *permanent { "permanently" } else { "temporarily" };
                write!(f, "the target redirects {how} to {address}: name that address instead")
            }
            Error::RedirectedInCircles { portals } => {
                write!(
                    f,
                    "the target redirects without an end ({portals}): check what it redirects"
                )
            }
            Error::DigestError { part } => write!(f, "{part} digest error: bytes were damaged"),
            Error::TimedOut { waiting_for, after } => {
                write!(f, "no {waiting_for} within {} s", after.as_secs())
            }
            Error::TargetClosing => write!(f, "the target asked us to leave"),
            Error::Rejected { reason } => {
                write!(f, "the target rejected a PDU of ours (reason {reason:#04x})")
            }
            Error::Transport(text) | Error::LogicalUnit(text) => f.write_str(text),
            Error::LostInLogin { reason, has_secret } => {
                write!(f, "{reason} in the middle of the login: look at the log of the target")?;
                if !has_secret {
                    f.write_str("; it may demand CHAP, for which there is no secret (--secrets)")?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for Error {}

impl From<Malformed> for Error {
    fn from(malformed: Malformed) -> Error {
        Error::Malformed(malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_status_is_told_with_what_to_do() {
        let known: [(u8, u8); 4] = [(0, 0), (1, 2), (2, 11), (3, 2)];
        for (class, last) in known {
            for detail in 0..=last {
                let status = LoginStatus { class, detail };
                assert!(status.to_string().contains(':'), "{status}");
                assert!(status.to_string().ends_with(&format!("({class:#04x}{detail:02x})")));
            }
        }
        // And whatever else a target may send, up to 0x0304 and beyond, has words too.
        for code in 0..=u16::MAX {
            let [class, detail] = code.to_be_bytes();
            assert!(LoginStatus { class, detail }.words().len() > 20);
        }
    }
}
