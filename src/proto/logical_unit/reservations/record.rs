//! What of the persistent reservations survives a restart, as a text that a person can read.
//!
//! ```text
//! lunboot reservations 1
//! registration 0x00000000deadbeef iqn.2026-11.example:a 80123d000001
//! reservation write-exclusive-registrants-only iqn.2026-11.example:a 80123d000001
//! end
//! ```
//!
//! A line for each registration: the key, the name of the initiator, the ISID. Then the reservation
//! if there is one; one that all registrants hold names no holder. In names, whatever could break a
//! line stands as `%` and two hexadecimal digits. A text without its last line is not whole.

use std::fmt::{self, Write as _};

use super::{Held, REGISTRATIONS_MAX, Registration, Reservations};
use crate::proto::target::SessionName;
use crate::wire::pdu::Isid;
use crate::wire::scsi::ReservationType;

const FIRST_LINE: &str = "lunboot reservations 1";
const LAST_LINE: &str = "end";

/// Why a text does not tell what the reservations were.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordError {
    /// From 1.
    pub line: usize,
    /// What is wrong with it.
    pub rule: &'static str,
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.rule)
    }
}

impl std::error::Error for RecordError {}

impl Reservations {
    /// The text for what has to survive, which may be nothing.
    pub(in super::super) fn to_record(&self) -> String {
        let mut text = format!("{FIRST_LINE}\n");
        if self.persists {
            for Registration { port, key } in &self.registrations {
                let _ = writeln!(text, "registration {key:#018x} {}", Port(port));
            }
            if let Some(Held { kind, holder }) = &self.held {
                let _ = write!(text, "reservation {}", keyword(*kind));
                let _ = match holder {
                    Some(holder) => writeln!(text, " {}", Port(holder)),
                    None => writeln!(text),
                };
            }
        }
        text.push_str(LAST_LINE);
        text.push('\n');
        text
    }

    /// Reads such a text.
    pub(in super::super) fn from_record(text: &str) -> Result<Reservations, RecordError> {
        let mut read = Reservations::default();
        let mut lines = text.lines().enumerate();
        if lines.next().is_none_or(|(_, line)| line != FIRST_LINE) {
            let rule = "must be \"lunboot reservations 1\"";
            return Err(RecordError { line: 1, rule });
        }
        while let Some((index, line)) = lines.next() {
            let failed = |rule| RecordError { line: index + 1, rule };
            if line == LAST_LINE {
                return match lines.next() {
                    None => Ok(read),
                    Some((index, _)) => {
                        Err(RecordError { line: index + 1, rule: "nothing may follow \"end\"" })
                    }
                };
            }
            read.take_line(line).map_err(failed)?;
            read.persists = true;
        }
        let line = text.lines().count() + 1;
        Err(RecordError { line, rule: "must be \"end\": the rest of the file is missing" })
    }

    fn take_line(&mut self, line: &str) -> Result<(), &'static str> {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["registration", key, name, isid] if self.held.is_none() => {
                let port = parse_port(name, isid)?;
                let key = key.strip_prefix("0x").and_then(|digits| hexadecimal(digits, 16));
                let key = key.filter(|key| *key != 0);
                let key = key.ok_or("the key must be 0x and 16 hexadecimal digits, and not 0")?;
                if self.key(&port).is_some() {
                    return Err("this initiator port is registered already");
                }
                if self.registrations.len() >= REGISTRATIONS_MAX {
                    return Err("there are 256 registrations already");
                }
                self.registrations.push(Registration { port, key });
                Ok(())
            }
            ["reservation", kind, ref holder @ ..] if self.held.is_none() => {
                let kind = ReservationType::ALL.into_iter().find(|known| keyword(*known) == kind);
                let kind = kind.ok_or("this is no type of a reservation")?;
                let holder = match (kind.is_all_registrants(), holder) {
                    (true, []) => None,
                    (false, [name, isid]) => Some(parse_port(name, isid)?),
                    _ => return Err("must name its holder, unless all registrants are"),
                };
                let nobody = self.registrations.is_empty();
                if nobody || holder.as_ref().is_some_and(|holder| self.key(holder).is_none()) {
                    return Err("its holder must be registered");
                }
                self.held = Some(Held { kind, holder });
                Ok(())
            }
            _ => Err("must be registrations, then one reservation at most, then \"end\""),
        }
    }
}

fn keyword(kind: ReservationType) -> &'static str {
    match kind {
        ReservationType::WriteExclusive => "write-exclusive",
        ReservationType::ExclusiveAccess => "exclusive-access",
        ReservationType::WriteExclusiveRegistrantsOnly => "write-exclusive-registrants-only",
        ReservationType::ExclusiveAccessRegistrantsOnly => "exclusive-access-registrants-only",
        ReservationType::WriteExclusiveAllRegistrants => "write-exclusive-all-registrants",
        ReservationType::ExclusiveAccessAllRegistrants => "exclusive-access-all-registrants",
    }
}

/// Name and ISID as two words.
struct Port<'a>(&'a SessionName);

impl fmt::Display for Port<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0.initiator.bytes() {
            match byte {
                b'!'..=b'~' if byte != b'%' => f.write_char(char::from(byte))?,
                _ => write!(f, "%{byte:02x}")?,
            }
        }
        f.write_str(" ")?;
        self.0.isid.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

fn parse_port(name: &str, isid: &str) -> Result<SessionName, &'static str> {
    const NAME: &str = "the name must be one of an initiator";
    let mut parts = name.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2).ok_or(NAME)?;
        bytes.push(hexadecimal(digits, 2).ok_or(NAME)? as u8);
        bytes.extend_from_slice(rest.as_bytes());
    }
    let initiator = String::from_utf8(bytes).map_err(|_| NAME)?;
    if initiator.is_empty() {
        return Err(NAME);
    }
    let value = hexadecimal(isid, 12).ok_or("the ISID must be 12 hexadecimal digits")?;
    let [_, _, isid @ ..] = value.to_be_bytes();
    Ok(SessionName { initiator, isid: Isid(isid) })
}

/// A number of exactly so many digits, at most 16.
fn hexadecimal(digits: &str, count: usize) -> Option<u64> {
    let all = digits.len() == count && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    u64::from_str_radix(digits, 16).ok().filter(|_| all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(initiator: &str, last: u8) -> SessionName {
        SessionName { initiator: initiator.to_owned(), isid: Isid([0x80, 0, 0, 0, 0, last]) }
    }

    fn state(kind: Option<ReservationType>) -> Reservations {
        let (a, b) = (port("iqn.a", 1), port("iqn.é %\n", 2));
        let registrations = vec![
            Registration { port: a, key: 1 },
            Registration { port: b.clone(), key: 0xdead_beef },
        ];
        Reservations {
            generation: 0,
            registrations,
            held: kind.map(|kind| Held::new(kind, &b)),
            persists: true,
        }
    }

    #[test]
    fn a_record_is_readable_and_read_again() {
        let kind = ReservationType::ExclusiveAccessRegistrantsOnly;
        let expected = "lunboot reservations 1\n\
            registration 0x0000000000000001 iqn.a 800000000001\n\
            registration 0x00000000deadbeef iqn.%c3%a9%20%25%0a 800000000002\n\
            reservation exclusive-access-registrants-only iqn.%c3%a9%20%25%0a 800000000002\n\
            end\n";
        assert_eq!(state(Some(kind)).to_record(), expected);
        for kind in ReservationType::ALL.map(Some).into_iter().chain([None]) {
            let state = state(kind);
            assert_eq!(Reservations::from_record(&state.to_record()), Ok(state));
        }
    }

    #[test]
    fn what_does_not_persist_leaves_an_empty_record() {
        let text = Reservations { persists: false, ..state(None) }.to_record();
        assert_eq!(text, "lunboot reservations 1\nend\n");
        assert_eq!(Reservations::from_record(&text), Ok(Reservations::default()));
    }

    #[test]
    fn a_record_that_is_cut_anywhere_is_refused() {
        let text = state(Some(ReservationType::WriteExclusive)).to_record();
        // Without the last line feed it is still whole.
        for cut in 0..text.len() - 1 {
            assert!(Reservations::from_record(&text[..cut]).is_err(), "{cut}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let registration = "registration 0x0000000000000001 iqn.a 800000000001";
        for (lines, line, word) in [
            (&["something"][..], 2, "registrations"),
            (&[registration, registration], 3, "already"),
            (&["registration 0x0 iqn.a 800000000001"], 2, "key"),
            (&["registration 0x0000000000000000 iqn.a 800000000001"], 2, "key"),
            (&["registration 0x0000000000000001 iqn.%a 800000000001"], 2, "name"),
            (&["registration 0x0000000000000001  800000000001"], 2, "name"),
            (&["registration 0x0000000000000001 iqn.a 8000"], 2, "ISID"),
            (&[registration, "reservation exclusive"], 3, "type"),
            (&[registration, "reservation write-exclusive"], 3, "holder"),
            (&[registration, "reservation write-exclusive iqn.b 800000000001"], 3, "registered"),
            (&["reservation write-exclusive-all-registrants"], 2, "registered"),
            (&[registration, "end"], 4, "nothing"),
        ] {
            let text = format!("{FIRST_LINE}\n{}\nend\n", lines.join("\n"));
            let error = Reservations::from_record(&text).unwrap_err();
            assert_eq!(error.line, line, "{text}");
            assert!(error.rule.contains(word), "{error}");
        }
        assert_eq!(Reservations::from_record("").unwrap_err().line, 1);
        assert_eq!(Reservations::from_record("end\n").unwrap_err().line, 1);
    }
}
