//! Who is who among the processes of the daemon.

use std::ffi::OsStr;
use std::io::BufReader;
use std::os::unix::net::UnixStream;

use log::warn;

use super::report::Reporter;
use super::supervisor::Supervisor;
use super::{Daemon, config};
use crate::boot::survive;

/// What a process of the daemon is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The supervisor that an agent starts.
    Supervise,
    /// The supervisor that a server starts when its own has died.
    Adopt,
}

impl Role {
    const ALL: [Role; 2] = [Role::Supervise, Role::Adopt];

    /// Its name on the command line; the number of the socket follows.
    pub fn word(self) -> &'static str {
        match self {
            Role::Supervise => "supervise",
            Role::Adopt => "adopt",
        }
    }

    /// The role of this name.
    pub fn named(word: &OsStr) -> Option<Role> {
        Role::ALL.into_iter().find(|role| role.word() == word)
    }
}

/// Plays a role until its end. `stream` brings the configuration and takes reports.
pub fn run(role: Role, stream: UnixStream) -> Result<(), String> {
    let mut lines = BufReader::new(stream);
    let config = config::receive(&mut lines)?;
    // Before the device exists nothing of the root file system can be in our mount namespace. Whom
    // a server starts is in it already.
    if role == Role::Supervise
        && let Err(error) = survive::isolate()
    {
        warn!("{error}");
    }
    if let Err(error) = survive::leave_home() {
        warn!("{error}");
    }
    let others = survive::protect();
    others.iter().for_each(|error| warn!("{error}"));
    if let Err(error) = survive::lock_memory() {
        warn!("{error}");
    }
    let supervisor = match role {
        Role::Supervise => Supervisor::new(config, lines.into_inner()),
        Role::Adopt => Supervisor::adopt(config, lines),
    };
    match supervisor.run()? {
        None => Ok(()),
        Some((config, stream)) => {
            if let Err(error) = survive::become_server() {
                warn!("{error}");
            }
            Daemon::new(config, Reporter::new(stream)).serve()
        }
    }
}
