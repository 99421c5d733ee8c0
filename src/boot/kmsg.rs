//! Where our log lines go: the kernel log while the machine boots, standard error for people.
//!
//! A line to /dev/kmsg reaches every console and stays readable with dmesg and in the journal. The
//! kernel refuses records that are too long and slows down talkative writers; both are dealt with
//! here. A log line that cannot be written is lost, never an error.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::OnceLock;

use log::{Level, LevelFilter, Log, Metadata, Record};

/// Longest record in bytes. The kernel's own limit is 1024 with its prefix (`LOG_LINE_MAX`,
/// kernel/printk/printk.c), and a longer write fails with EINVAL.
const RECORD_BYTES_MAX: usize = 960;

const PREFIX: &str = "lunboot: ";

struct Logger {
    sink: Sink,
}

enum Sink {
    Kmsg(File),
    Console(File),
    StandardError,
}

static LOGGER: OnceLock<Logger> = OnceLock::new();

/// Sends the log to /dev/kmsg; to /dev/console if there is no kmsg, else to standard error. Needs
/// /dev, and wants /proc. The first logger of a process stays.
pub fn install(level: LevelFilter) {
    // Else the kernel drops all but ten lines in five seconds of one writer.
    let _ = fs::write("/proc/sys/kernel/printk_devkmsg", "on\n");
    let open = |path: &Path| OpenOptions::new().write(true).open(path);
    let sink = match open(Path::new("/dev/kmsg")) {
        Ok(file) => Sink::Kmsg(file),
        Err(_) => match open(Path::new("/dev/console")) {
            Ok(file) => Sink::Console(file),
            Err(_) => Sink::StandardError,
        },
    };
    install_sink(sink, level);
}

/// Sends the log to standard error: for `attach` and the other commands that a person calls.
pub fn install_standard_error(level: LevelFilter) {
    install_sink(Sink::StandardError, level);
}

fn install_sink(sink: Sink, level: LevelFilter) {
    let logger = LOGGER.get_or_init(|| Logger { sink });
    // It fails when a logger is there already; then that one stays.
    let _ = log::set_logger(logger);
    log::set_max_level(level);
}

impl Log for Logger {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        // The maximum level has been compared by the macro.
        true
    }

    fn log(&self, record: &Record<'_>) {
        let text = record.args().to_string();
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            // One write is one record, and one line on a console that others write to as well.
            let _ = match &self.sink {
                Sink::Kmsg(file) => {
                    (&*file).write_all(kmsg_record(record.level(), line).as_bytes())
                }
                Sink::Console(file) => (&*file).write_all(plain(record.level(), line).as_bytes()),
                Sink::StandardError => {
                    io::stderr().write_all(plain(record.level(), line).as_bytes())
                }
            };
        }
    }

    fn flush(&self) {}
}

/// `<3>lunboot: text`, with the levels of syslog(3).
fn kmsg_record(level: Level, line: &str) -> String {
    let number = match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    };
    let mut record = String::with_capacity(line.len() + 16);
    let _ = write!(record, "<{number}>{PREFIX}");
    push_printable(&mut record, line);
    if record.len() > RECORD_BYTES_MAX {
        const CUT: &str = "…";
        let fits = |end: &usize| record.is_char_boundary(*end);
        let end = (0..=RECORD_BYTES_MAX - CUT.len()).rev().find(fits).unwrap_or(0);
        record.truncate(end);
        record += CUT;
    }
    // Without it the kernel keeps the record back until the next one comes: it may go on.
    record.push('\n');
    record
}

fn plain(level: Level, line: &str) -> String {
    let word = match level {
        Level::Error => "error: ",
        Level::Warn => "warning: ",
        Level::Info => "",
        Level::Debug | Level::Trace => "debug: ",
    };
    let mut text = format!("{PREFIX}{word}");
    push_printable(&mut text, line);
    text.push('\n');
    text
}

/// Texts from the network end up in log lines; a console obeys control characters.
fn push_printable(text: &mut String, line: &str) {
    text.extend(line.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_has_level_and_name() {
        assert_eq!(kmsg_record(Level::Error, "no target"), "<3>lunboot: no target\n");
        assert_eq!(kmsg_record(Level::Info, "a\u{1b}[2Jb"), "<6>lunboot: a\u{fffd}[2Jb\n");
        assert_eq!(plain(Level::Warn, "no target"), "lunboot: warning: no target\n");
    }

    #[test]
    fn a_long_record_is_cut_between_characters() {
        for length in 300..340 {
            let record = kmsg_record(Level::Info, &"€".repeat(length));
            assert!(record.len() <= RECORD_BYTES_MAX + 1);
            assert_eq!(record.ends_with("…\n"), 12 + 3 * length > RECORD_BYTES_MAX, "{length}");
        }
    }
}
