//! Who is who among the processes of the daemon.

use std::ffi::OsStr;
use std::io::BufReader;
use std::os::unix::net::UnixStream;

use log::warn;

use super::report::Reporter;
use super::supervisor::Supervisor;
use super::{Daemon, config, keeper};
use crate::boot::survive;

/// What a process of the daemon is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The supervisor that an agent starts.
    Supervise,
    /// The supervisor that a server starts when its own has died.
    Adopt,
    /// The keeper of the network, which an agent starts as well.
    Keep,
}

impl Role {
    const ALL: [Role; 3] = [Role::Supervise, Role::Adopt, Role::Keep];

    /// Its name on the command line; the number of the socket follows.
    pub fn word(self) -> &'static str {
        match self {
            Role::Supervise => "supervise",
            Role::Adopt => "adopt",
            Role::Keep => "keep",
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
    let supervisor = match role {
        Role::Keep => {
            settle_down(role);
            return keeper::run(&mut lines);
        }
        Role::Supervise | Role::Adopt => {
            let config = config::receive(&mut lines)?;
            settle_down(role);
            match role {
                Role::Adopt => Supervisor::adopt(config, lines),
                _ => Supervisor::new(config, lines.into_inner()),
            }
        }
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

/// Makes this process one that lives until reboot(2).
fn settle_down(role: Role) {
    // Before the device exists nothing of the root file system can be in our mount namespace. Whom
    // a server starts is in it already.
    if role != Role::Adopt
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
}
