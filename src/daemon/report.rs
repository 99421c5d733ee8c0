//! How the server tells its supervisor what becomes of the disk, and the supervisor the agent: one
//! line each, over a socket pair.
//!
//! The reader is not waited for: it may be gone, and the disk must be served all the same.

use std::fmt;
use std::io::{self, BufRead, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use super::config::TEXT_BYTES_MAX;
use super::names::Known;
use super::takeover::Takeover;

/// A line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// An attempt failed; the daemon goes on trying.
    Trouble(String),
    /// The login is through.
    LoggedIn,
    /// What the next server must know, and the agent of the disk.
    Takeover(Takeover),
    /// For the supervisor: where a name has led that the target has sent us to.
    Name(Known),
    /// The device is live.
    Ready {
        /// Where it is.
        path: PathBuf,
        /// `ublk` or `nbd`.
        driver: String,
    },
    /// There will be no device.
    Failed(String),
    /// For the supervisor: the server ends as it was told to.
    Done,
    /// For the next supervisor: the server ends, and another one is to take the device over.
    MakingRoom,
}

impl Report {
    /// Waits for the next line; `None` if the other side is gone.
    pub fn read(from: &mut impl BufRead) -> io::Result<Option<Report>> {
        let mut line = String::new();
        from.by_ref().take(TEXT_BYTES_MAX as u64).read_line(&mut line)?;
        let Some(line) = line.strip_suffix('\n') else { return Ok(None) };
        let (kind, text) = line.split_once(' ').unwrap_or((line, ""));
        let report = match kind {
            "trouble" => Some(Report::Trouble(text.to_owned())),
            "logged-in" => Some(Report::LoggedIn),
            "takeover" => Takeover::parse(text).map(Report::Takeover),
            "name" => Known::parse(text).map(Report::Name),
            "ready" => text.split_once(' ').map(|(driver, path)| Report::Ready {
                path: path.into(),
                driver: driver.to_owned(),
            }),
            "failed" => Some(Report::Failed(text.to_owned())),
            "done" => Some(Report::Done),
            "making-room" => Some(Report::MakingRoom),
            _ => None,
        };
        let unknown = || io::Error::new(io::ErrorKind::InvalidData, format!("report \"{kind}\""));
        report.map(Some).ok_or_else(unknown)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Report::Trouble(text) => writeln!(f, "trouble {}", text.replace('\n', "; ")),
            Report::LoggedIn => writeln!(f, "logged-in"),
            Report::Takeover(takeover) => {
                writeln!(f, "takeover {}", takeover.to_string().replace('\n', " "))
            }
            Report::Name(known) => writeln!(f, "name {known}"),
            Report::Ready { path, driver } => writeln!(f, "ready {driver} {}", path.display()),
            Report::Failed(text) => writeln!(f, "failed {}", text.replace('\n', "; ")),
            Report::Done => writeln!(f, "done"),
            Report::MakingRoom => writeln!(f, "making-room"),
        }
    }
}

/// The end that tells.
#[derive(Debug)]
pub(super) struct Reporter {
    stream: UnixStream,
}

impl Reporter {
    pub(super) fn new(stream: UnixStream) -> Reporter {
        Reporter { stream }
    }

    /// What the reader has said: nothing more, if it is gone.
    pub(super) fn hear(&mut self) -> bool {
        let mut said = [0; 16];
        matches!(self.stream.read(&mut said), Ok(count) if count > 0)
    }

    /// Readable, or hung up, when the reader is gone, or a supervisor says that it is there.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Sends a line. A reader that is gone is noticed by whoever polls the descriptor.
    pub(super) fn tell(&mut self, report: &Report) {
        let _ = self.stream.write_all(report.to_string().as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    #[test]
    fn reports_arrive_as_they_were_sent() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut reporter = Reporter::new(theirs);
        let ready = Report::Ready { path: "/dev/ublkb0".into(), driver: "ublk".into() };
        let failed = Report::Failed("no driver".into());
        let name = Report::Name(Known::parse("storage.example:1 192.0.2.1:1").unwrap());
        let sent = [Report::LoggedIn, name, ready, failed, Report::MakingRoom, Report::Done];
        reporter.tell(&Report::Trouble("no answer;\ntrying again".into()));
        sent.iter().for_each(|report| reporter.tell(report));
        reporter.stream.write_all(b"done, but cut").unwrap();
        drop(reporter);
        let mut lines = BufReader::new(ours);
        let mut next = || Report::read(&mut lines).unwrap();
        assert_eq!(next(), Some(Report::Trouble("no answer;; trying again".into())));
        for report in sent {
            assert_eq!(next(), Some(report));
        }
        assert_eq!(next(), None);
    }
}
