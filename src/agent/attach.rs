//! Starts the storage daemon for a disk and waits until its device is there.

use std::collections::HashSet;
use std::io::BufReader;
use std::net::{SocketAddr, SocketAddrV6};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use log::{debug, info, warn};

use crate::block::Preference;
use crate::boot::cmdline::BlockChoice;
use crate::boot::modules::Modules;
use crate::boot::survive::THIS_PROGRAM;
use crate::boot::udev_rules::{Designator, DiskNames};
use crate::daemon::{self, Config, Report, Role};
use crate::net::tcp;
use crate::proto::Identity;
use crate::wire::root_path::{Host, Portal, RootPath};

/// A disk that was attached.
#[derive(Clone, Debug)]
pub struct Attached {
    /// Its device node.
    pub path: PathBuf,
    /// `ublk` or `nbd`.
    pub driver: String,
    /// From the start of the daemon to the login.
    pub login_time: Duration,
    /// What the target calls it, and where it is.
    pub names: DiskNames,
}

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

/// The addresses of the target, each once: those of the root path, then those of `others`. A name
/// is looked up, and may have several. What cannot be found is told, and is an error only if
/// nothing is left.
pub fn portals(root_path: &RootPath, others: &[Portal]) -> Result<Vec<SocketAddr>, String> {
    let server = root_path.server.as_ref().ok_or("the root path names no server")?;
    let others = others.iter().map(|portal| (&portal.host, portal.port));
    let mut portals = Vec::new();
    let mut failures = Vec::new();
    for (host, port) in std::iter::once((server, root_path.port)).chain(others) {
        match addresses(host, port) {
            Ok(addresses) => portals.extend(addresses),
            Err(text) => failures.push(text),
        }
    }
    if portals.is_empty() {
        return Err(failures.join("; "));
    }
    failures.iter().for_each(|text| warn!("{text}; going on without"));
    let mut known = HashSet::new();
    portals.retain(|portal| known.insert(*portal));
    Ok(portals)
}

fn addresses(host: &Host, port: u16) -> Result<Vec<SocketAddr>, String> {
    match host {
        Host::V6 { address, zone: Some(zone) } => {
            let index = link_index(zone)
                .ok_or_else(|| format!("{host}: there is no link {zone}: check the zone"))?;
            Ok(vec![SocketAddrV6::new(*address, port, 0, index).into()])
        }
        Host::V4(_) | Host::V6 { .. } => {
            let address = host.address().expect("it is an address");
            Ok(vec![SocketAddr::new(address, port)])
        }
        Host::Name(name) => tcp::resolve(name, port).map_err(|error| error.to_string()),
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

/// Starts the daemon and waits for its device, for as long as the daemon tries: for ever, if its
/// configuration says nothing else. With an error nothing is left of it.
pub fn attach(config: &Config) -> Result<Attached, String> {
    let began = Instant::now();
    let (ours, mut daemon) = daemon::start(Path::new(THIS_PROGRAM), Role::Supervise, config)?;
    let mut login_time = Duration::ZERO;
    let mut identity = Identity::default();
    let mut lines = BufReader::new(ours);
    loop {
        match Report::read(&mut lines).map_err(|error| format!("hearing the daemon: {error}"))? {
            Some(Report::Trouble(text)) => warn!("{text}"),
            Some(Report::LoggedIn) => login_time = began.elapsed(),
            Some(Report::Ready { path, driver }) => {
                info!("{} is {} over {driver}", path.display(), config.target);
                let names = names(config, &path, identity);
                return Ok(Attached { path, driver, login_time, names });
            }
            Some(Report::Failed(text)) => {
                let _ = daemon.wait();
                return Err(text);
            }
            Some(Report::Takeover(takeover)) => identity = takeover.disk.identity,
            Some(Report::Name(_) | Report::Done | Report::MakingRoom) => {}
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

fn names(config: &Config, path: &Path, identity: Identity) -> DiskNames {
    let value = identity.value;
    DiskNames {
        device: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        portal: *config.portals.first().expect("the daemon refuses a configuration without one"),
        target: config.target.clone(),
        lun: config.lun,
        designator: match identity.designator {
            Some(Identity::NAA) => Some(Designator::Naa(value)),
            Some(Identity::EUI64) => Some(Designator::Eui64(value)),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use crate::wire::root_path::Dialect;

    use super::*;

    #[test]
    fn each_address_is_one_portal_and_what_cannot_be_found_is_left_out() {
        let find = |server: &str, others: &[&str]| {
            let text = format!("iscsi://{server}/iqn.2026-11.example:disk/0");
            let root_path = RootPath::parse(&text, Dialect::Rfc4173).unwrap();
            let others: Vec<_> = others.iter().map(|text| Portal::parse(text).unwrap()).collect();
            let portals = portals(&root_path, &others);
            portals.map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        };
        let all = find("192.0.2.1", &["192.0.2.2:99", "192.0.2.1:3260", "[2001:db8::1]"]);
        assert_eq!(all.unwrap(), "192.0.2.1:3260 192.0.2.2:99 [2001:db8::1]:3260");
        let lost = "[fe80::1%no-such-link]";
        assert_eq!(find(lost, &["192.0.2.2"]).unwrap(), "192.0.2.2:3260");
        let error = find(lost, &[lost]).unwrap_err();
        assert_eq!(error.matches("there is no link no-such-link").count(), 2, "{error}");
    }
}
