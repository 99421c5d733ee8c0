//! What a file of secrets says: one line for each name.
//!
//! ```text
//! # comment
//! initiator NAME SECRET    who may log in, or who we are
//! target NAME SECRET       how the target proves itself
//! ```
//!
//! Both programs read the same lines, so that one file can be copied from a target to its client.

use super::{Credentials, NAME_BYTES_MAX, Secret};
use crate::wire::Malformed;

/// Longest secret, in bytes.
const SECRET_BYTES_MAX: usize = 255;

/// Shorter secrets can be found out by trying: 96 bits (RFC 7143 §9.2.1).
const SECRET_BYTES_GOOD: usize = 12;

/// Everything that a file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secrets {
    /// Initiators, at least one.
    pub initiators: Vec<Credentials>,
    /// The target, if it is to prove itself too.
    pub target: Option<Credentials>,
}

/// What one initiator needs: who it is, and whether the target must prove itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chap {
    /// Our name and secret.
    pub initiator: Credentials,
    /// The name and secret of the target; without them it has to prove nothing.
    pub target: Option<Credentials>,
}

impl Secrets {
    /// Reads the lines. The error names the line, and nothing that stands in it.
    pub fn parse(text: &str) -> Result<Secrets, Malformed> {
        let mut secrets = Secrets { initiators: Vec::new(), target: None };
        for (number, line) in text.lines().enumerate() {
            let malformed = |rule| Malformed::number("secrets", "line", number as u64 + 1, rule);
            let mut words = line.split_ascii_whitespace();
            let Some(role) = words.next().filter(|word| !word.starts_with('#')) else { continue };
            let (Some(name), Some(secret), None) = (words.next(), words.next(), words.next())
            else {
                return Err(malformed("must be a word, a name and a secret, none with a space"));
            };
            if name.len() > NAME_BYTES_MAX || secret.len() > SECRET_BYTES_MAX {
                return Err(malformed("must have a name and a secret of at most 255 bytes"));
            }
            let credentials = Credentials { name: name.to_owned(), secret: Secret::new(secret) };
            match role {
                "initiator" if secrets.initiators.iter().any(|known| known.name == name) => {
                    return Err(malformed("must not name an initiator for the second time"));
                }
                "initiator" => secrets.initiators.push(credentials),
                "target" if secrets.target.is_some() => {
                    return Err(malformed("must not be a second line for the target"));
                }
                "target" => secrets.target = Some(credentials),
                _ => return Err(malformed("must begin with the word initiator or target")),
            }
        }
        secrets.check()?;
        Ok(secrets)
    }

    fn check(&self) -> Result<(), Malformed> {
        let initiators = self.initiators.len() as u64;
        let malformed = |rule| Malformed::number("secrets", "initiator lines", initiators, rule);
        if self.initiators.is_empty() {
            return Err(malformed("there must be at least one"));
        }
        // Whoever is asked could hand the question on to the one who asks (RFC 7143 §9.2.1).
        let is_theirs = |target: &Credentials| {
            self.initiators.iter().any(|initiator| initiator.secret == target.secret)
        };
        if self.target.as_ref().is_some_and(is_theirs) {
            return Err(malformed("none of them may have the secret of the target"));
        }
        Ok(())
    }

    /// As an initiator needs it: with one line for itself.
    pub fn into_chap(mut self) -> Result<Chap, Malformed> {
        let count = self.initiators.len() as u64;
        match (self.initiators.pop(), self.initiators.is_empty()) {
            (Some(initiator), true) => Ok(Chap { initiator, target: self.target }),
            _ => {
                let rule = "an initiator needs exactly one, its own";
                Err(Malformed::number("secrets", "initiator lines", count, rule))
            }
        }
    }

    /// Names whose secrets are shorter than the standard wants them to be.
    pub fn weak(&self) -> impl Iterator<Item = &str> {
        let all = self.initiators.iter().chain(&self.target);
        all.filter(|known| known.secret.expose().len() < SECRET_BYTES_GOOD)
            .map(|known| known.name.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_read_the_same_lines() {
        let text = "# the rack\n\n initiator\tnode7  correct-horse-7\r\ntarget root twelve-bytes\n";
        let secrets = Secrets::parse(text).unwrap();
        assert_eq!(secrets.initiators.len(), 1);
        assert_eq!(secrets.weak().count(), 0);
        let chap = secrets.into_chap().unwrap();
        assert_eq!(chap.initiator.name, "node7");
        assert_eq!(chap.initiator.secret.expose(), "correct-horse-7");
        assert_eq!(chap.target.unwrap().name, "root");
    }

    #[test]
    fn what_cannot_be_read_is_named_by_its_line_and_not_by_its_secret() {
        for (text, rule) in [
            ("initiator a hidden-secret more\n", "line 1: must be a word, a name"),
            ("# x\ninitiator hidden-secret\n", "line 2: must be a word, a name"),
            ("user a hidden-secret\n", "line 1: must begin with"),
            ("initiator a hidden-secret\ninitiator a other\n", "line 2: must not name an init"),
            ("initiator a x\ntarget b hidden-secret\ntarget b y\n", "line 3: must not be a sec"),
            ("target b hidden-secret\n", "initiator lines 0: there must be at least one"),
            ("", "initiator lines 0"),
            ("initiator a hidden-secret\ntarget b hidden-secret\n", "the secret of the target"),
        ] {
            let error = Secrets::parse(text).unwrap_err().to_string();
            assert!(error.contains(rule), "{error}");
            assert!(!error.contains("hidden"), "{error}");
        }
        let long = format!("initiator a {}\n", "s".repeat(256));
        assert!(Secrets::parse(&long).is_err());
        let two = Secrets::parse("initiator a 1\ninitiator b 2\n").unwrap();
        assert!(two.into_chap().unwrap_err().to_string().contains("exactly one"));
    }

    #[test]
    fn short_secrets_are_known_by_their_names() {
        let secrets =
            Secrets::parse("initiator a eleven-byte\ninitiator b twelve-bytes\n").unwrap();
        assert_eq!(secrets.weak().collect::<Vec<_>>(), ["a"]);
    }
}
