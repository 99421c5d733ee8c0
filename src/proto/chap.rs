//! CHAP, as both sides need it (RFC 7143 §12.1.3, RFC 1994): algorithms, challenges, responses,
//! names and secrets.
//!
//! The course of the exchange belongs to the two logins; here is what they share. Challenges come
//! from outside like every random bit on this floor. A [`Secret`] is in no log, no error and no
//! `Debug`, and its memory is wiped when it is dropped.

use std::fmt;

use md5::{Digest, Md5};
use sha1::Sha1;
use sha2::Sha256;
use sha3::Sha3_256;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::wire::Malformed;
use crate::wire::text::{self, Text};

pub use self::secrets::{Chap, Secrets};

mod secrets;

/// Longest challenge or response, decoded, in bytes (RFC 7143 §12.1.3).
const BINARY_BYTES_MAX: usize = 1024;

/// Shortest challenge that is answered: fewer bytes come back too soon.
const CHALLENGE_BYTES_MIN: usize = 16;

/// Longest name, the usual limit of a text value (RFC 7143 §6.1).
pub const NAME_BYTES_MAX: usize = 255;

/// A CHAP algorithm, by its number in the registry of PPP authentication algorithms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// 5, which every iSCSI peer knows.
    Md5 = 5,
    /// 6.
    Sha1 = 6,
    /// 7.
    Sha256 = 7,
    /// 8.
    Sha3_256 = 8,
}

impl Algorithm {
    /// All of them, the strongest first.
    pub const ALL: [Algorithm; 4] =
        [Algorithm::Sha3_256, Algorithm::Sha256, Algorithm::Sha1, Algorithm::Md5];

    /// The algorithm with a number, as CHAP_A writes it: `5`, or `0x5`. Nothing else begins so.
    pub fn parse(text: &str) -> Option<Algorithm> {
        let number = text::number("CHAP_A", text).ok()?;
        Algorithm::ALL.into_iter().find(|algorithm| *algorithm as u32 == number)
    }

    /// What who knows the secret answers: the digest of identifier, secret and challenge.
    pub fn response(self, identifier: u8, secret: &Secret, challenge: &[u8]) -> Response {
        let parts = [&[identifier][..], secret.0.as_bytes(), challenge];
        match self {
            Algorithm::Md5 => Response::digest::<Md5>(parts),
            Algorithm::Sha1 => Response::digest::<Sha1>(parts),
            Algorithm::Sha256 => Response::digest::<Sha256>(parts),
            Algorithm::Sha3_256 => Response::digest::<Sha3_256>(parts),
        }
    }
}

/// A response: 16 to 32 bytes, by its algorithm.
pub struct Response(Vec<u8>);

impl Response {
    fn digest<D: Digest>(parts: [&[u8]; 3]) -> Response {
        let mut digest = D::new();
        for part in parts {
            digest.update(part);
        }
        Response(digest.finalize().to_vec())
    }

    /// The bytes, for CHAP_R.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether these bytes are the response. How long that takes tells nothing about them.
    pub fn is(&self, bytes: &[u8]) -> bool {
        self.0.ct_eq(bytes).into()
    }
}

/// A secret that one side knows and the other checks.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// A copy of `text`, which stays the caller's to wipe.
    pub fn new(text: &str) -> Secret {
        Secret(Zeroizing::new(text.to_owned()))
    }

    /// The secret itself. It may only go where nobody can read it who may not know it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("********")
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Secret) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl Eq for Secret {}

/// A name and the secret that proves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// CHAP_N.
    pub name: String,
    /// What proves it.
    pub secret: Secret,
}

/// A question of ours, fresh for each login.
#[derive(Clone, PartialEq, Eq)]
pub struct Challenge {
    identifier: u8,
    bytes: [u8; Challenge::RANDOM_BYTES - 1],
}

impl Challenge {
    /// How many random bytes make a challenge.
    pub const RANDOM_BYTES: usize = 33;

    /// A challenge from random bytes. They must come from the operating system: whoever can guess
    /// them can answer with what was heard before.
    pub fn new(random: [u8; Challenge::RANDOM_BYTES]) -> Challenge {
        let [identifier, bytes @ ..] = random;
        Challenge { identifier, bytes }
    }

    /// Adds CHAP_I and CHAP_C.
    pub fn push(&self, text: &mut Text) {
        text.push_number("CHAP_I", self.identifier.into());
        text.push_binary("CHAP_C", &self.bytes);
    }

    /// The response that proves a secret.
    pub(super) fn response(&self, algorithm: Algorithm, secret: &Secret) -> Response {
        algorithm.response(self.identifier, secret, &self.bytes)
    }

    /// Whether these are its bytes: then the other side lets us answer our own question.
    pub(super) fn is(&self, bytes: &[u8]) -> bool {
        self.bytes == bytes
    }
}

impl fmt::Debug for Challenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Challenge({})", self.identifier)
    }
}

/// The keys of authentication in the text of one step, in whatever order they came.
#[derive(Default, PartialEq, Eq)]
pub(super) struct Keys<'a> {
    pub(super) method: Option<&'a str>,
    pub(super) algorithms: Option<&'a str>,
    identifier: Option<&'a str>,
    challenge: Option<&'a str>,
    pub(super) name: Option<&'a str>,
    response: Option<&'a str>,
}

impl<'a> Keys<'a> {
    /// Takes a pair if it is one of authentication; none may come twice.
    pub(super) fn take(&mut self, key: &str, value: &'a str) -> Result<bool, Malformed> {
        let (key, place) = match key {
            "AuthMethod" => ("AuthMethod", &mut self.method),
            "CHAP_A" => ("CHAP_A", &mut self.algorithms),
            "CHAP_I" => ("CHAP_I", &mut self.identifier),
            "CHAP_C" => ("CHAP_C", &mut self.challenge),
            "CHAP_N" => ("CHAP_N", &mut self.name),
            "CHAP_R" => ("CHAP_R", &mut self.response),
            _ => return Ok(false),
        };
        if place.replace(value).is_some() {
            let rule = "must not come twice in one step";
            return Err(Malformed::text("login text", key, b"", rule));
        }
        Ok(true)
    }

    pub(super) fn is_empty(&self) -> bool {
        *self == Keys::default()
    }

    /// CHAP_I and CHAP_C, decoded; `None` if neither is there.
    pub(super) fn challenge(&self) -> Result<Option<(u8, Vec<u8>)>, Malformed> {
        let (identifier, challenge) = match (self.identifier, self.challenge) {
            (None, None) => return Ok(None),
            (Some(identifier), Some(challenge)) => (identifier, challenge),
            (None, Some(_)) => return Err(missing("CHAP_I")),
            (Some(_), None) => return Err(missing("CHAP_C")),
        };
        let number = text::number("CHAP_I", identifier)?;
        let identifier = u8::try_from(number)
            .map_err(|_| Malformed::number("login text", "CHAP_I", number, "must be 0 to 255"))?;
        let challenge = text::binary("CHAP_C", challenge, BINARY_BYTES_MAX)?;
        if challenge.len() < CHALLENGE_BYTES_MIN {
            let (length, rule) = (challenge.len() as u64, "must be at least 16 bytes long");
            return Err(Malformed::number("login text", "CHAP_C", length, rule));
        }
        Ok(Some((identifier, challenge)))
    }

    /// CHAP_N, and CHAP_R decoded; `None` if neither is there.
    pub(super) fn response(&self) -> Result<Option<(&'a str, Vec<u8>)>, Malformed> {
        let (name, response) = match (self.name, self.response) {
            (None, None) => return Ok(None),
            (Some(name), Some(response)) => (name, response),
            (None, Some(_)) => return Err(missing("CHAP_N")),
            (Some(_), None) => return Err(missing("CHAP_R")),
        };
        if name.len() > NAME_BYTES_MAX {
            let rule = "must be at most 255 bytes long";
            return Err(Malformed::text("login text", "CHAP_N", name.as_bytes(), rule));
        }
        Ok(Some((name, text::binary("CHAP_R", response, BINARY_BYTES_MAX)?)))
    }
}

fn missing(key: &'static str) -> Malformed {
    Malformed::text("login text", key, b"", "must be there together with its partner")
}

#[cfg(test)]
mod tests;
