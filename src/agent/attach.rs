//! Starts the storage daemon for a disk and waits until its device is there.

use std::io::{BufReader, Write};
use std::net::{SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use log::{debug, info, warn};

use crate::block::Preference;
use crate::boot::cmdline::BlockChoice;
use crate::boot::modules::Modules;
use crate::boot::survive;
use crate::daemon::{Config, Report};
use crate::net::tcp;
use crate::wire::root_path::{Host, RootPath};

/// A disk that was attached.
#[derive(Clone, Debug)]
pub struct Attached {
    /// Its device node.
    pub path: PathBuf,
    /// `ublk` or `nbd`.
    pub driver: String,
    /// From the start of the daemon to the login.
    pub login_time: Duration,
}

/// First argument of the daemon; the second is the number of its socket.
pub const DAEMON_COMMAND: &str = "daemon";

/// Loads the drivers that the kernel side needs, as far as they are modules.
///
/// NBD is loaded only where ublk is not to be had: it makes sixteen devices at once. Returns which
/// of them the daemon may use.
pub fn load_drivers(modules: &mut Modules, choice: BlockChoice) -> Preference {
    let preference = match choice {
        BlockChoice::Auto => Preference::Auto,
        BlockChoice::Ublk => Preference::Ublk,
        BlockChoice::Nbd => Preference::Nbd,
    };
    if preference != Preference::Nbd {
        match modules.load("ublk_drv") {
            Ok(()) => return preference,
            Err(error) => debug!("{error}"),
        }
    }
    if preference != Preference::Ublk
        && let Err(error) = modules.load("nbd")
    {
        debug!("{error}");
    }
    preference
}

/// The addresses of the target. A name is looked up; several addresses are tried in turn.
pub fn portals(root_path: &RootPath) -> Result<Vec<SocketAddr>, String> {
    let host = root_path.server.as_ref().ok_or("the root path names no server")?;
    match host {
        Host::V6 { address, zone: Some(zone) } => {
            let index = link_index(zone)
                .ok_or_else(|| format!("{host}: there is no link {zone}: check the zone"))?;
            Ok(vec![SocketAddrV6::new(*address, root_path.port, 0, index).into()])
        }
        Host::V4(_) | Host::V6 { .. } => {
            let address = host.address().expect("it is an address");
            Ok(vec![SocketAddr::new(address, root_path.port)])
        }
        Host::Name(name) => tcp::resolve(name, root_path.port).map_err(|error| error.to_string()),
    }
}

fn link_index(zone: &str) -> Option<u32> {
    if let Ok(index) = zone.parse() {
        return Some(index);
    }
    let path = format!("/sys/class/net/{zone}/ifindex");
    if zone.contains('/') {
        return None;
    }
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Starts the daemon and waits for its device, for as long as the daemon tries.
pub fn attach(config: &Config) -> Result<Attached, String> {
    let began = Instant::now();
    let (ours, theirs) = UnixStream::pair().map_err(|error| format!("socket pair: {error}"))?;
    let number = theirs.as_raw_fd().to_string();
    let mut daemon = survive::spawn_daemon(&[DAEMON_COMMAND, &number], &[theirs.as_fd()])
        .map_err(|error| error.to_string())?;
    drop(theirs);
    (&ours)
        .write_all(config.emit().as_bytes())
        .map_err(|error| format!("handing the configuration to the daemon: {error}"))?;
    let mut login_time = Duration::ZERO;
    let mut lines = BufReader::new(ours);
    loop {
        match Report::read(&mut lines).map_err(|error| format!("hearing the daemon: {error}"))? {
            Some(Report::Trouble(text)) => warn!("{text}"),
            Some(Report::LoggedIn) => login_time = began.elapsed(),
            Some(Report::Ready { path, driver }) => {
                info!("{} is {} over {driver}", path.display(), config.target);
                return Ok(Attached { path, driver, login_time });
            }
            Some(Report::Failed(text)) => {
                let _ = daemon.wait();
                return Err(text);
            }
            None => {
                let status = daemon.wait().map_or_else(|e| e.to_string(), |s| s.to_string());
                return Err(format!(
                    "the storage daemon ended before the disk was there ({status}): its reason is \
                     in the kernel log"
                ));
            }
        }
    }
}
