//! HeaderDigest and DataDigest as somebody wants them: a list in order of preference
//! (RFC 7143 §13.1).

use super::Malformed;

/// The digests of one kind that are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DigestChoice {
    /// `None`.
    Never,
    /// `None,CRC32C`: only if the other side insists.
    IfAsked,
    /// `CRC32C,None`: unless the other side cannot.
    IfPossible,
    /// `CRC32C`: or no session.
    Always,
}

/// What is wanted for headers and for data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DigestChoices {
    /// HeaderDigest.
    pub header: DigestChoice,
    /// DataDigest.
    pub data: DigestChoice,
}

impl Default for DigestChoices {
    /// Headers are guarded, since a wrong header costs the wrong block; data if somebody asks.
    fn default() -> DigestChoices {
        DigestChoices { header: DigestChoice::IfPossible, data: DigestChoice::IfAsked }
    }
}

impl DigestChoice {
    const ALL: [DigestChoice; 4] = [
        DigestChoice::Never,
        DigestChoice::IfAsked,
        DigestChoice::IfPossible,
        DigestChoice::Always,
    ];

    /// Reads a list as the standard writes it.
    pub fn parse(text: &str) -> Result<DigestChoice, Malformed> {
        let found = DigestChoice::ALL.into_iter().find(|choice| choice.list() == text);
        found.ok_or_else(|| {
            let rule = "must be None, CRC32C, None,CRC32C or CRC32C,None";
            Malformed::text("digest", "list", text.as_bytes(), rule)
        })
    }

    /// The list as it goes onto the wire.
    pub fn list(self) -> &'static str {
        match self {
            DigestChoice::Never => "None",
            DigestChoice::IfAsked => "None,CRC32C",
            DigestChoice::IfPossible => "CRC32C,None",
            DigestChoice::Always => "CRC32C",
        }
    }

    /// Whether this outcome is one of those wanted.
    pub fn allows(self, digest: bool) -> bool {
        match self {
            DigestChoice::Never => !digest,
            DigestChoice::Always => digest,
            DigestChoice::IfAsked | DigestChoice::IfPossible => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_as_they_are_written() {
        for choice in DigestChoice::ALL {
            assert_eq!(DigestChoice::parse(choice.list()), Ok(choice));
        }
        for wrong in ["", "none", "CRC32C,", "CRC32C,None,CRC32C", "MD5", "CRC32C None"] {
            let error = DigestChoice::parse(wrong).unwrap_err().to_string();
            assert!(error.ends_with("must be None, CRC32C, None,CRC32C or CRC32C,None"), "{error}");
        }
    }
}
