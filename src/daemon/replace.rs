//! The server's side of supervision: another supervisor for one that has died, and one of another
//! version when the daemon is to be replaced.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;

use log::{info, warn};

use super::control::file_of_peer;
use super::report::{Report, Reporter};
use super::{Daemon, Role, Stopping, supervisor};
use crate::boot::survive::THIS_PROGRAM;

impl Daemon {
    /// The supervisor is gone, or says that it is there. Before the device is live a supervisor
    /// that is gone means that nobody wants it any more.
    pub(super) fn hear_supervisor(&mut self) -> Result<(), String> {
        if self.reporter.as_mut().is_some_and(Reporter::hear) {
            return Ok(());
        }
        self.reporter = None;
        if self.config.takeover.is_none() {
            return Err("whoever asked for the disk has gone before it was there".into());
        }
        warn!("the supervisor has died: starting another");
        match supervisor::start(Path::new(THIS_PROGRAM), Role::Adopt, &self.config) {
            Ok((stream, _)) => self.reporter = Some(Reporter::new(stream)),
            Err(error) => warn!("going on without a supervisor: {error}"),
        }
        Ok(())
    }

    /// Starts the supervisor of another version.
    pub(super) fn begin_replacement(&mut self, file: u32, mut asking: UnixStream) {
        let ready = self.reported && self.stopping == Stopping::No && self.replacing.is_none();
        let begun = match ready {
            true => file_of_peer(&asking, file)
                .map_err(|error| error.to_string())
                .and_then(|program| supervisor::start(&program, Role::Adopt, &self.config)),
            false => {
                let _ = asking.write_all(b"the daemon is beginning or ending\n");
                return;
            }
        };
        match begun {
            Ok((stream, _)) => self.replacing = Some((Reporter::new(stream), asking)),
            // Whoever does not read its answer misses it.
            Err(error) => {
                let text = format!("{error}: it must be a static program for this machine\n");
                drop(asking.write_all(text.as_bytes()));
            }
        }
    }

    /// The supervisor of the other version has said something, or is gone. True if it is there:
    /// then this server has to go, and whatever is under way is for the next one to do again.
    pub(super) fn make_room(&mut self) -> bool {
        let Some((mut successor, mut asking)) = self.replacing.take() else { return false };
        if !successor.hear() {
            let _ = asking
                .write_all(b"the new program has ended at once: its reason is in the kernel log\n");
            return false;
        }
        info!("making room for another version");
        // Nobody shall find us any more who looks for the next one.
        self.control = None;
        self.report(&Report::Done);
        successor.tell(&Report::MakingRoom);
        let _ = asking.write_all(b"done\n");
        true
    }
}
