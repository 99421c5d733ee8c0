//! How long something may take, as a person writes it: seconds, or `never`.
//!
//! 0 is refused: to one of those who write it, it means at once, to another without end.

use std::fmt;

use super::Malformed;

/// A limit, if there is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimeLimit {
    /// It may take for ever.
    #[default]
    Never,
    /// So many seconds, from 1 to [`SECONDS_MAX`].
    Seconds(u32),
}

/// What can be said of time when a disk is attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimeLimits {
    /// Until the disk is there.
    pub attach: TimeLimit,
    /// Of a request, from the moment at which the target is lost.
    pub io: TimeLimit,
    /// Silence in seconds after which the target is asked whether it is there, if not the default.
    pub ping_interval: Option<u32>,
    /// How long its answer may take, in seconds, if not the default.
    pub ping_timeout: Option<u32>,
}

/// A year.
pub const SECONDS_MAX: u32 = 365 * 24 * 3600;

impl TimeLimit {
    /// Reads a limit.
    pub fn parse(text: &str) -> Result<TimeLimit, Malformed> {
        if text == "never" {
            return Ok(TimeLimit::Never);
        }
        let rule = "must be whole seconds from 1 to 31536000, or never";
        parse(text, rule).map(TimeLimit::Seconds)
    }

    /// The limit in seconds.
    pub fn seconds(self) -> Option<u32> {
        match self {
            TimeLimit::Never => None,
            TimeLimit::Seconds(seconds) => Some(seconds),
        }
    }
}

/// Reads a time that must have an end.
pub fn parse_seconds(text: &str) -> Result<u32, Malformed> {
    parse(text, "must be whole seconds from 1 to 31536000")
}

fn parse(text: &str, rule: &'static str) -> Result<u32, Malformed> {
    let seconds = text.parse().ok().filter(|seconds| (1..=SECONDS_MAX).contains(seconds));
    seconds.ok_or_else(|| Malformed::text("time limit", "seconds", text.as_bytes(), rule))
}

impl fmt::Display for TimeLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TimeLimit::Never => f.write_str("never"),
            TimeLimit::Seconds(seconds) => seconds.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_as_they_are_written() {
        for limit in [TimeLimit::Never, TimeLimit::Seconds(1), TimeLimit::Seconds(SECONDS_MAX)] {
            assert_eq!(TimeLimit::parse(&limit.to_string()), Ok(limit));
        }
        for wrong in ["", "0", "-1", "1.5", "30s", "31536001", "99999999999", "Never", " 5"] {
            let error = TimeLimit::parse(wrong).unwrap_err().to_string();
            assert!(error.ends_with("whole seconds from 1 to 31536000, or never"), "{error}");
            assert!(parse_seconds(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parse_seconds("5"), Ok(5));
        assert!(parse_seconds("never").is_err());
    }
}
