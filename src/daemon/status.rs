//! What `lunboot status` tells: a row for each thing for people, one JSON object (RFC 8259) for
//! programs. Both come from the same rows, so that neither knows less.

use std::fmt::{self, Write};

/// For whom it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Table,
    Json,
}

/// What stands in a row. Its kind is part of the name in JSON: `up_seconds`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    List(Vec<String>),
    Number(u64),
    Flag(bool),
    Bytes(u64),
    /// Without an end, if there is no number.
    Seconds(Option<u64>),
}

/// The rows, in the order in which they are shown.
#[derive(Clone, Debug, Default)]
pub(super) struct Status {
    rows: Vec<(&'static str, Value)>,
}

impl Status {
    pub(super) fn add(&mut self, name: &'static str, value: Value) -> &mut Status {
        self.rows.push((name, value));
        self
    }

    pub(super) fn text(&mut self, name: &'static str, text: impl Into<String>) -> &mut Status {
        self.add(name, Value::Text(text.into()))
    }

    pub(super) fn number(&mut self, name: &'static str, number: impl Into<u64>) -> &mut Status {
        self.add(name, Value::Number(number.into()))
    }

    pub(super) fn bytes(&mut self, name: &'static str, bytes: impl Into<u64>) -> &mut Status {
        self.add(name, Value::Bytes(bytes.into()))
    }

    pub(super) fn seconds(&mut self, name: &'static str, seconds: u64) -> &mut Status {
        self.add(name, Value::Seconds(Some(seconds)))
    }

    pub(super) fn in_format(&self, format: Format) -> String {
        match format {
            Format::Table => self.table(),
            Format::Json => self.json(),
        }
    }

    /// One line each.
    fn table(&self) -> String {
        let mut text = String::new();
        for (name, value) in &self.rows {
            let _ = writeln!(text, "{name:<15} {value}");
        }
        text
    }

    /// One object, in one line.
    fn json(&self) -> String {
        let mut text = String::from("{");
        for (at, (name, value)) in self.rows.iter().enumerate() {
            text.push_str(if at == 0 { "\"" } else { ",\"" });
            for letter in name.chars().filter(|letter| *letter != '/') {
                text.push(if letter == ' ' { '_' } else { letter.to_ascii_lowercase() });
            }
            text.push_str(match value {
                Value::Bytes(_) => "_bytes\":",
                Value::Seconds(_) => "_seconds\":",
                _ => "\":",
            });
            value.write_json(&mut text);
        }
        text.push_str("}\n");
        text
    }
}

impl Value {
    fn write_json(&self, text: &mut String) {
        let _ = match self {
            Value::Text(value) => {
                write_string(text, value);
                Ok(())
            }
            Value::List(values) => {
                for (at, value) in values.iter().enumerate() {
                    text.push(if at == 0 { '[' } else { ',' });
                    write_string(text, value);
                }
                text.push_str(if values.is_empty() { "[]" } else { "]" });
                Ok(())
            }
            Value::Number(number) | Value::Bytes(number) | Value::Seconds(Some(number)) => {
                write!(text, "{number}")
            }
            Value::Flag(flag) => write!(text, "{flag}"),
            Value::Seconds(None) => text.write_str("null"),
        };
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Text(text) => f.write_str(text),
            Value::List(values) => f.write_str(&values.join(", ")),
            Value::Number(number) => write!(f, "{number}"),
            Value::Flag(flag) => f.write_str(if *flag { "yes" } else { "no" }),
            Value::Bytes(bytes) => write!(f, "{bytes} bytes"),
            Value::Seconds(Some(seconds)) => write!(f, "{seconds} s"),
            Value::Seconds(None) => f.write_str("never"),
        }
    }
}

fn write_string(text: &mut String, value: &str) {
    text.push('"');
    for letter in value.chars() {
        match letter {
            '"' | '\\' => text.extend(['\\', letter]),
            letter if u32::from(letter) < 0x20 => {
                let _ = write!(text, "\\u{:04x}", u32::from(letter));
            }
            letter => text.push(letter),
        }
    }
    text.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_and_programs_are_told_the_same() {
        let mut status = Status::default();
        status
            .text("device", "/dev/ublkb0")
            .add("portals", Value::List(vec!["192.0.2.1:3260".into(), "[::1]:1".into()]))
            .add("others", Value::List(Vec::new()))
            .number("reconnects", 3u64)
            .seconds("up", 12)
            .add("I/O timeout", Value::Seconds(None))
            .bytes("first burst", 65_536u64)
            .add("carrier", Value::Flag(true));
        let table = status.table();
        assert!(table.starts_with("device          /dev/ublkb0\n"), "{table}");
        assert!(table.contains("portals         192.0.2.1:3260, [::1]:1\n"), "{table}");
        assert!(table.contains("I/O timeout     never\nfirst burst     65536 bytes\n"), "{table}");
        assert_eq!(
            status.json(),
            "{\"device\":\"/dev/ublkb0\",\"portals\":[\"192.0.2.1:3260\",\"[::1]:1\"],\
             \"others\":[],\"reconnects\":3,\"up_seconds\":12,\"io_timeout_seconds\":null,\
             \"first_burst_bytes\":65536,\"carrier\":true}\n"
        );
    }

    #[test]
    fn what_others_have_said_cannot_leave_its_string() {
        let mut status = Status::default();
        status.text("reason", "a \"target\" said \\ and\n\u{1b}[2J ü");
        let expected = "{\"reason\":\"a \\\"target\\\" said \\\\ and\\u000a\\u001b[2J ü\"}\n";
        assert_eq!(status.json(), expected);
    }
}
