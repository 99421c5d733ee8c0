//! How the daemon tells the agent what becomes of the disk: one line each, over a socket pair.
//!
//! The agent is not waited for: it may be gone, and the disk must be served all the same.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::config::{Config, TEXT_BYTES_MAX};

/// The daemon's end.
#[derive(Debug)]
pub struct Reporter {
    stream: UnixStream,
}

/// A line, as the agent reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// An attempt failed; the daemon goes on trying.
    Trouble(String),
    /// The login is through.
    LoggedIn,
    /// The device is live.
    Ready {
        /// Where it is.
        path: PathBuf,
        /// `ublk` or `nbd`.
        driver: String,
    },
    /// There will be no device.
    Failed(String),
}

impl Reporter {
    /// Takes the configuration from the stream on which it will report.
    pub(super) fn receive(stream: UnixStream) -> Result<(Config, Reporter), String> {
        let mut text = Zeroizing::new(String::with_capacity(TEXT_BYTES_MAX));
        let mut lines = BufReader::new((&stream).take(TEXT_BYTES_MAX as u64));
        while !text.ends_with("end\n") {
            match lines.read_line(&mut text) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => return Err(format!("reading the configuration: {error}")),
            }
        }
        let config = Config::parse(&text)?;
        Ok((config, Reporter { stream }))
    }

    /// Readable, or hung up, when the agent is gone: it never says anything more.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    pub(super) fn trouble(&mut self, text: &str) {
        self.line("trouble", text);
    }

    pub(super) fn logged_in(&mut self) {
        self.line("logged-in", "");
    }

    pub(super) fn ready(&mut self, path: &Path, driver: &str) {
        self.line("ready", &format!("{driver} {}", path.display()));
    }

    pub(super) fn failed(&mut self, text: &str) {
        self.line("failed", text);
    }

    fn line(&mut self, kind: &str, text: &str) {
        // An agent that is gone is noticed by the loop.
        let _ = writeln!(self.stream, "{kind} {}", text.replace('\n', "; "));
    }
}

impl Report {
    /// Waits for the next line; `None` if the daemon is gone.
    pub fn read(from: &mut impl BufRead) -> io::Result<Option<Report>> {
        let mut line = String::new();
        from.take(TEXT_BYTES_MAX as u64).read_line(&mut line)?;
        let (kind, text) = line.trim_end_matches('\n').split_once(' ').unwrap_or((&line, ""));
        Ok(match kind {
            "trouble" => Some(Report::Trouble(text.to_owned())),
            "logged-in" => Some(Report::LoggedIn),
            "ready" => text.split_once(' ').map(|(driver, path)| Report::Ready {
                path: path.into(),
                driver: driver.to_owned(),
            }),
            "failed" => Some(Report::Failed(text.to_owned())),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_arrive_as_they_were_sent() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut reporter = Reporter { stream: theirs };
        reporter.trouble("no answer;\ntrying again");
        reporter.logged_in();
        reporter.ready(Path::new("/dev/ublkb0"), "ublk");
        reporter.failed("no driver");
        drop(reporter);
        let mut lines = BufReader::new(ours);
        let mut next = || Report::read(&mut lines).unwrap();
        assert_eq!(next(), Some(Report::Trouble("no answer;; trying again".into())));
        assert_eq!(next(), Some(Report::LoggedIn));
        let ready = Report::Ready { path: "/dev/ublkb0".into(), driver: "ublk".into() };
        assert_eq!(next(), Some(ready));
        assert_eq!(next(), Some(Report::Failed("no driver".into())));
        assert_eq!(next(), None);
    }
}
