//! The end of a machine whose root is ours: process 1 of the exitrd ([`exitrd`]).
//!
//! What was written is safe before this begins: systemd has made the root read-only, or has given
//! it up. Here the file system is closed, the disk is flushed, and the session logs out. None of
//! that may keep a machine from its end, so it gets [`PATIENCE`], and no more.

use std::ffi::OsString;
use std::fs;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use log::{LevelFilter, error, info, warn};

use crate::boot::ending::Ending;
use crate::boot::{exitrd, kmsg};
use crate::daemon;

/// Longest time for all of it. By now systemd has waited for the disk as long as it does, and what
/// it could not write then is lost in any case.
const PATIENCE: Duration = Duration::from_secs(10);
/// When somebody who waits is told for what.
const SILENCE: Duration = Duration::from_secs(2);

/// Ends the machine in the way that `arguments` name.
pub fn take_leave(arguments: &[OsString]) -> ! {
    kmsg::install(LevelFilter::Info);
    let (sender, over) = channel();
    let begun = thread::Builder::new().spawn(move || {
        let _ = sender.send(close());
    });
    if let Err(error) = begun {
        error!("exitrd: starting a thread: {error}");
    }
    let waited = over.recv_timeout(SILENCE).or_else(|error| {
        if error == RecvTimeoutError::Timeout {
            warn!("exitrd: waiting for the disk, up to {} s{}", PATIENCE.as_secs(), why());
        }
        over.recv_timeout(PATIENCE - SILENCE)
    });
    match waited {
        Ok(Ok(())) => info!("exitrd: the root is unmounted, the disk is flushed and logged out"),
        Ok(Err(text)) => warn!("exitrd: {text}"),
        Err(_) => error!("exitrd: going down without the disk{}", why()),
    }
    Ending::named(arguments.first().map(OsString::as_os_str)).come()
}

/// Closes the root file system and lets go of all disks.
fn close() -> Result<(), String> {
    // A disk that is mounted is kept: its daemon would wait for ever.
    exitrd::unmount_old_root()?;
    for device in devices() {
        let state = state(&device);
        if state.as_ref().is_some_and(|state| !state.starts_with("logged in")) {
            return Err(format!("not logged out: {device} is {}", state.unwrap_or_default()));
        }
        match daemon::ask(&device, "detach", Some(PATIENCE)) {
            Ok(answer) if answer == "done\n" => {}
            Ok(_) => return Err(format!("{device}: the daemon ended without a word")),
            Err(error) => return Err(format!("{device}: {error}")),
        }
    }
    Ok(())
}

fn devices() -> Vec<String> {
    daemon::devices(&fs::read_to_string("/proc/net/unix").unwrap_or_default())
}

/// What the daemons say of their targets, to be put behind a sentence.
fn why() -> String {
    let states = devices().into_iter().filter_map(|device| Some((state(&device)?, device)));
    states.map(|(state, device)| format!("; {device} is {state}")).collect()
}

/// What a device's daemon does, and at which portal.
fn state(device: &str) -> Option<String> {
    let status = daemon::ask(device, "status", Some(SILENCE)).ok()?;
    let value = |key| status.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
    Some(format!("{} at {}", value("state ")?, value("portal ")?))
}
