//! What a restart must not undo of a sanitize operation, as a text that a person can read.
//!
//! ```text
//! lunboot sanitize 1
//! overwrite 3 inverted 00ff
//! unrestricted
//! failed
//! end
//! ```
//!
//! The method, which is `block-erase` or `overwrite` with the number of passes, whether they are
//! `inverted` or `plain`, and the pattern; the completion mode, `restricted` or not; whether it is
//! `running`. After a failure the method is of no use any more and left out. If there is nothing to
//! be remembered, there is only the first and the last line. A text without that is not whole.

use std::fmt::Write as _;

use super::{Method, Operation, Phase};
use crate::proto::logical_unit::RecordError;

const FIRST_LINE: &str = "lunboot sanitize 1";
const LAST_LINE: &str = "end";

impl Phase {
    /// The text.
    pub(super) fn to_record(&self) -> String {
        let mode = |unrestricted| if unrestricted { "unrestricted" } else { "restricted" };
        let body = match self {
            Phase::Open => String::new(),
            Phase::Failed { unrestricted } => format!("{}\nfailed\n", mode(*unrestricted)),
            Phase::Running(Operation { method, unrestricted, .. }) => {
                format!("{}\n{}\nrunning\n", method.to_line(), mode(*unrestricted))
            }
        };
        format!("{FIRST_LINE}\n{body}{LAST_LINE}\n")
    }

    /// What the text says. An operation begins again with its first pass.
    pub(super) fn from_record(text: &str) -> Result<Phase, RecordError> {
        let lines: Vec<&str> = text.lines().collect();
        let fail = |line, rule| Err(RecordError { line, rule });
        let [FIRST_LINE, body @ .., LAST_LINE] = &lines[..] else {
            let line = if lines.first() == Some(&FIRST_LINE) { lines.len() } else { 1 };
            return fail(line, "must be \"lunboot sanitize 1\" first and \"end\" last");
        };
        let unrestricted = |line, word| match word {
            "unrestricted" => Ok(true),
            "restricted" => Ok(false),
            _ => Err(RecordError { line, rule: "must be restricted or unrestricted" }),
        };
        match *body {
            [] => Ok(Phase::Open),
            [mode, "failed"] => Ok(Phase::Failed { unrestricted: unrestricted(2, mode)? }),
            [method, mode, "running"] => {
                let rule = "must be block-erase, or overwrite with count, inversion and pattern";
                let method = Method::from_line(method).ok_or(RecordError { line: 2, rule })?;
                let unrestricted = unrestricted(3, mode)?;
                Ok(Phase::Running(Operation { method, unrestricted, pass: 0, offset: 0 }))
            }
            _ => fail(2, "must be method, completion mode and running, or mode and failed"),
        }
    }
}

impl Method {
    fn to_line(&self) -> String {
        match self {
            Method::BlockErase => "block-erase".to_owned(),
            Method::Overwrite { pattern, count, invert } => {
                let invert = if *invert { "inverted" } else { "plain" };
                let mut line = format!("overwrite {count} {invert} ");
                for byte in pattern {
                    let _ = write!(line, "{byte:02x}");
                }
                line
            }
        }
    }

    fn from_line(line: &str) -> Option<Method> {
        let words: Vec<&str> = line.split(' ').collect();
        let [_, count, invert, pattern] = words[..] else {
            return (line == "block-erase").then_some(Method::BlockErase);
        };
        let count = count.parse().ok().filter(|count| (1..=31).contains(count))?;
        let invert = match invert {
            "inverted" => true,
            "plain" => false,
            _ => return None,
        };
        let digits = pattern.as_bytes();
        if words[0] != "overwrite" || digits.is_empty() || digits.len() % 2 != 0 {
            return None;
        }
        let byte = |pair: &[u8]| {
            let text = std::str::from_utf8(pair).ok()?;
            text.bytes().all(|digit| digit.is_ascii_hexdigit()).then_some(())?;
            u8::from_str_radix(text, 16).ok()
        };
        let pattern = digits.chunks(2).map(byte).collect::<Option<Vec<u8>>>()?;
        Some(Method::Overwrite { pattern, count, invert })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_phase_survives() {
        let overwrite = Method::Overwrite { pattern: vec![0, 0xff], count: 31, invert: true };
        let running = |method, unrestricted| {
            Phase::Running(Operation { method, unrestricted, pass: 0, offset: 0 })
        };
        for phase in [
            Phase::Open,
            Phase::Failed { unrestricted: true },
            Phase::Failed { unrestricted: false },
            running(overwrite, false),
            running(Method::BlockErase, true),
        ] {
            let text = phase.to_record();
            assert_eq!(Phase::from_record(&text), Ok(phase), "{text}");
        }
        let text = "lunboot sanitize 1\noverwrite 3 plain a5\nrestricted\nrunning\nend\n";
        assert_eq!(Phase::from_record(text).map(|phase| phase.to_record()).as_deref(), Ok(text));
    }

    #[test]
    fn what_was_not_written_here_is_refused_with_its_line() {
        for (text, line) in [
            ("", 1),
            ("lunboot reservations 1\nend\n", 1),
            ("lunboot sanitize 1\nblock-erase\nrestricted\n", 3),
            ("lunboot sanitize 1\nblock-erase\nend\n", 2),
            ("lunboot sanitize 1\nblock-erase\nperhaps\nrunning\nend\n", 3),
            ("lunboot sanitize 1\noverwrite 0 plain a5\nrestricted\nrunning\nend\n", 2),
            ("lunboot sanitize 1\noverwrite 32 plain a5\nrestricted\nrunning\nend\n", 2),
            ("lunboot sanitize 1\noverwrite 1 plain a\nrestricted\nrunning\nend\n", 2),
            ("lunboot sanitize 1\noverwrite 1 plain +5\nrestricted\nrunning\nend\n", 2),
            ("lunboot sanitize 1\noverwrite 1 upside a5\nrestricted\nrunning\nend\n", 2),
            ("lunboot sanitize 1\nfailed\nend\n", 2),
        ] {
            assert_eq!(Phase::from_record(text).unwrap_err().line, line, "{text}");
        }
    }
}
