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
    /// The target sends us elsewhere, which this version does not follow yet.
    Redirected {
        /// Whether it said so for good.
        permanent: bool,
        /// TargetAddress as it came, at most 64 characters.
        address: Box<str>,
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
    /// The logical unit cannot be used; a sentence that says why and what to check.
    LogicalUnit(Box<str>),
}

/// Status-Class and Status-Detail of a refused login (RFC 7143 §11.13.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoginStatus {
    /// 1 redirection, 2 initiator error, 3 target error.
    pub class: u8,
    /// What exactly.
    pub detail: u8,
}

impl LoginStatus {
    /// Initiator error: the target could not find out who asks.
    pub const AUTHENTICATION_FAILURE: LoginStatus = LoginStatus { class: 2, detail: 1 };
    /// Initiator error: known, but not allowed here.
    pub const AUTHORIZATION_FAILURE: LoginStatus = LoginStatus { class: 2, detail: 2 };
    /// Initiator error: no target of that name.
    pub const NOT_FOUND: LoginStatus = LoginStatus { class: 2, detail: 3 };

    /// What the status says and what to check, in words.
    pub fn words(self) -> &'static str {
        match (self.class, self.detail) {
            (1, 1) => "the target has moved for now",
            (1, 2) => "the target has moved for good",
            (2, 0) => "the target says that we made an error it does not name",
            (2, 1) => "authentication failure: check user and secret on both sides",
            (2, 2) => "not allowed: the target knows its list of initiators, add our name there",
            (2, 3) => "no target of that name: compare it with what `lunboot discover` lists",
            (2, 4) => "the target was removed",
            (2, 5) => "the target speaks another iSCSI version",
            (2, 6) => "too many connections: another session may hold the target",
            (2, 7) => "a parameter is missing",
            (2, 8) => "this connection cannot join the session",
            (2, 9) => "the session type is not supported",
            (2, 10) => "the session does not exist on the target",
            (2, 11) => "the target took our login for invalid",
            (2, _) => "the target says that we made an error",
            (3, 0) => "the target has an error of its own",
            (3, 1) => "the service is not available at the moment",
            (3, 2) => "the target is out of resources",
            (3, _) => "the target has an error",
            _ => "a status that RFC 7143 does not know",
        }
    }
}

impl fmt::Display for LoginStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:#04x}{:02x})", self.words(), self.class, self.detail)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Malformed(malformed) => malformed.fmt(f),
            Error::PeerMisbehaved { pdu, rule } => write!(f, "the peer sent a {pdu} that {rule}"),
            Error::LoginRefused(status) => write!(f, "login refused: {status}"),
            Error::Redirected { permanent, address } => {
                let how = if *permanent { "permanently" } else { "temporarily" };
                write!(f, "the target redirects {how} to {address}: name that address instead")
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
        }
    }
}

impl std::error::Error for Error {}

impl From<Malformed> for Error {
    fn from(malformed: Malformed) -> Error {
        Error::Malformed(malformed)
    }
}
