//! Brings up the network that leads to the disk: every link at once, the first that answers wins.
//!
//! It waits by events, for ever if there is no limit: links and devices may appear late, a switch
//! may keep its port shut for a minute. What it waits for is said every time the wait has doubled,
//! from ten seconds on.

use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use log::{debug, info, warn};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::resolver;
use crate::boot::cmdline::{BootConfig, Mac, Method};
use crate::boot::ip_argument::{Device, IpArgument};
use crate::boot::modules::Modules;
use crate::boot::uevent::Uevents;
use crate::daemon::keeper::{self, Dhcp, Grant};
use crate::net::link::{self, Address, Link, Links, Route};
use crate::net::setting::Setting;
use crate::proto::dhcp::{self, DhcpClient, Lease};
use crate::wire::root_path::RootPath;

/// The network that was brought up.
#[derive(Clone, Debug)]
pub struct Network {
    /// The link that leads to the disk.
    pub link: Link,
    /// Its address and routes, if they are ours.
    pub setting: Option<Setting>,
    /// What DHCP granted; `None` with a static address.
    pub lease: Option<Lease>,
    /// How it was granted.
    pub grant: Option<Grant>,
    /// From the beginning to carrier.
    pub link_time: Duration,
    /// From carrier to the address.
    pub dhcp_time: Duration,
}

/// First time at which a wait is reported.
const REPORT_AFTER: Duration = Duration::from_secs(10);

/// A link that may lead to the disk.
struct Candidate {
    link: Link,
    wish: Option<IpArgument>,
    carrier_at: Option<Instant>,
    /// The kernel has opened the link's queue for good.
    ready: bool,
    dhcp: Option<Dhcp>,
    /// We have raised it, so we may take it down again.
    raised: bool,
}

/// Everything the search works with.
struct Search<'a> {
    config: &'a BootConfig,
    links: Links,
    uevents: &'a mut Uevents,
    modules: &'a mut Modules,
    candidates: HashMap<u32, Candidate>,
    began: Instant,
    report_at: Instant,
    deadline: Option<Instant>,
}

/// Waits until a link has an address that can lead to the disk; at the deadline, if there is one,
/// the error says what is missing.
pub(super) fn bring_up(
    config: &BootConfig,
    modules: &mut Modules,
    uevents: &mut Uevents,
    deadline: Option<Instant>,
) -> Result<Network, String> {
    let began = Instant::now();
    let shown = |error: link::Error| error.to_string();
    let mut search = Search {
        config,
        links: Links::open().map_err(shown)?,
        uevents,
        modules,
        candidates: HashMap::new(),
        began,
        report_at: began + REPORT_AFTER,
        deadline,
    };
    let links = search.links.list().map_err(shown)?;
    for link in links {
        search.consider(link);
    }
    loop {
        if let Some(network) = search.drain().map_err(shown)? {
            search.release_others(network.link.index);
            return Ok(network);
        }
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Err(search.missing().join("; "));
        }
        search.wait();
    }
}

impl Search<'_> {
    /// A link is there, or has changed.
    fn consider(&mut self, link: Link) {
        let index = link.index;
        if let Some(candidate) = self.candidates.get_mut(&index) {
            candidate.link = link;
        } else {
            let Some(wish) = self.wish(&link) else { return };
            let raised = !link.is_up();
            debug!("link {} ({})", link.name, shown_mac(&link));
            if raised && let Err(error) = self.links.set_up(index) {
                warn!("{error}");
                return;
            }
            let candidate =
                Candidate { link, wish, carrier_at: None, ready: false, dhcp: None, raised };
            self.candidates.insert(index, candidate);
        }
        self.follow_carrier(index);
    }

    /// What the command line wants of a link; `None` to leave it alone.
    fn wish(&self, link: &Link) -> Option<Option<IpArgument>> {
        if !link.is_ethernet() {
            return None;
        }
        let names = |device: &Device| match device {
            Device::Name(name) => *name == link.name,
            Device::Mac(Mac(mac)) => link.mac == Some(*mac),
        };
        let named = self.config.ip.iter().find(|ip| ip.device.as_ref().is_some_and(names));
        let wish = named.or_else(|| self.config.ip.iter().find(|ip| ip.device.is_none()));
        if wish.is_some_and(|wish| wish.method == Method::Off) {
            return None;
        }
        if named.is_none() && !self.config.ip.is_empty() && wish.is_none() {
            return None;
        }
        if named.is_none() && self.config.bootif.is_some_and(|Mac(mac)| link.mac != Some(mac)) {
            return None;
        }
        Some(wish.cloned())
    }

    fn follow_carrier(&mut self, index: u32) {
        let Some(candidate) = self.candidates.get_mut(&index) else { return };
        let now = Instant::now();
        if !candidate.link.has_carrier() {
            (candidate.carrier_at, candidate.ready) = (None, false);
            if let Some(dhcp) = &mut candidate.dhcp {
                dhcp.client.handle_disconnected();
            }
            return;
        }
        // The first DISCOVER goes out at once. On some drivers the kernel still drops it, and says
        // so only by becoming ready later: then it is sent again, without waiting for a timer.
        let becomes_ready = candidate.link.is_ready() && !candidate.ready;
        candidate.ready |= becomes_ready;
        if candidate.carrier_at.is_some() {
            if becomes_ready && let Some(dhcp) = &mut candidate.dhcp {
                dhcp.client.repeat(now);
            }
            return;
        }
        candidate.carrier_at = Some(now);
        if matches!(&candidate.wish, Some(IpArgument { method: Method::Static { .. }, .. })) {
            return;
        }
        if candidate.dhcp.is_none() {
            candidate.dhcp = start_dhcp(&candidate.link, self.config.target.is_none(), self.began);
        }
        if let Some(dhcp) = &mut candidate.dhcp {
            dhcp.client.handle_connected(now);
        }
    }

    /// Takes in everything that has happened; the network, if it is there now.
    fn drain(&mut self) -> Result<Option<Network>, link::Error> {
        while let Some(event) = self.links.poll_event()? {
            match event {
                link::Event::Changed(link) => self.consider(link),
                link::Event::Gone(link) => drop(self.candidates.remove(&link.index)),
                link::Event::AddressGone { .. } | link::Event::RouteGone { .. } => {}
                link::Event::Lost => {
                    for link in self.links.list()? {
                        self.consider(link);
                    }
                }
            }
        }
        while let Ok(Some(event)) = self.uevents.poll_event() {
            self.modules.handle(&event);
        }
        self.report();
        let indices: Vec<u32> = self.candidates.keys().copied().collect();
        for index in indices {
            if let Some(network) = self.advance(index)? {
                return Ok(Some(network));
            }
        }
        Ok(None)
    }

    /// Drives one link as far as it goes.
    fn advance(&mut self, index: u32) -> Result<Option<Network>, link::Error> {
        let Some(candidate) = self.candidates.get_mut(&index) else { return Ok(None) };
        let Some(carrier_at) = candidate.carrier_at else { return Ok(None) };
        if let Some(wish) = candidate.wish.clone()
            && let Method::Static { address, prefix_length, gateway } = wish.method
        {
            let link = candidate.link.clone();
            let IpAddr::V4(address) = address else {
                warn!("ip={address}: static IPv6 addresses are not supported yet");
                return Ok(Some(self.network(link, None, None, carrier_at)));
            };
            let setting = static_setting(link.index, address, prefix_length, gateway);
            self.set(&link, &setting, wish.mtu)?;
            info!("{}: {address}/{prefix_length} as ip= says", link.name);
            resolver::write(self.config, None);
            return Ok(Some(self.network(link, Some(setting), None, carrier_at)));
        }
        let Some(dhcp) = &mut candidate.dhcp else { return Ok(None) };
        let lease = advance_dhcp(dhcp, &candidate.link, self.config.target.is_none());
        let Some((lease, grant)) = lease else { return Ok(None) };
        let (link, mtu) = (candidate.link.clone(), candidate.wish.as_ref().and_then(|ip| ip.mtu));
        let setting = keeper::setting(link.index, &lease);
        self.set(&link, &setting, mtu.or(lease.options.interface_mtu))?;
        info!("{}: {}/{} from {}", link.name, lease.address, lease.prefix_len, lease.server);
        resolver::write(self.config, Some(&lease));
        if let Some(name) = keeper::clean_name(&lease.options.host_name)
            && let Err(error) = rustix::system::sethostname(name.as_bytes())
        {
            warn!("host name {name}: {error}");
        }
        Ok(Some(self.network(link, Some(setting), Some((lease, grant)), carrier_at)))
    }

    fn network(
        &self,
        link: Link,
        setting: Option<Setting>,
        granted: Option<(Lease, Grant)>,
        carrier_at: Instant,
    ) -> Network {
        let (link_time, dhcp_time) = (carrier_at - self.began, carrier_at.elapsed());
        let (lease, grant) = granted.unzip();
        Network { link, setting, lease, grant, link_time, dhcp_time }
    }

    fn set(&mut self, link: &Link, setting: &Setting, mtu: Option<u16>) -> Result<(), link::Error> {
        self.set_mtu(link, mtu);
        for error in setting.put(&mut self.links)? {
            warn!("{error}");
        }
        Ok(())
    }

    fn set_mtu(&mut self, link: &Link, mtu: Option<u16>) {
        let Some(mtu) = mtu.map(u32::from).filter(|mtu| *mtu != link.mtu) else { return };
        if let Err(error) = self.links.set_mtu(link.index, mtu) {
            warn!("{error}");
        }
    }

    /// Puts the links that did not win back as they were.
    fn release_others(&mut self, winner: u32) {
        for (index, candidate) in self.candidates.drain() {
            if index != winner && candidate.raised {
                // A link that stays up does no harm.
                let _ = self.links.set_down(index);
            }
        }
    }

    fn wait(&mut self) {
        let now = Instant::now();
        let clients = self.candidates.values().filter_map(|candidate| candidate.dhcp.as_ref());
        let deadlines = clients.clone().filter_map(|dhcp| dhcp.client.next_deadline());
        let deadline = deadlines.chain([self.report_at]).chain(self.deadline).min();
        let mut fds: Vec<PollFd<'_>> =
            [self.links.fd(), self.uevents.fd()].map(readable).into_iter().collect();
        fds.extend(clients.map(|dhcp| readable(dhcp.fd())));
        let timeout = deadline.map(|deadline| deadline.saturating_duration_since(now));
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        // An interrupted wait is a short one; every source is looked at after each.
        let _ = poll(&mut fds, timeout.as_ref());
    }

    /// Says what it waits for, at 10, 20, 40, … seconds.
    fn report(&mut self) {
        let now = Instant::now();
        if now < self.report_at {
            return;
        }
        self.report_at = now + (now - self.began);
        for text in self.missing() {
            warn!("{text}; waiting");
        }
    }

    /// What is missing on the way, for each link.
    fn missing(&self) -> Vec<String> {
        let seconds = self.began.elapsed().as_secs();
        if self.candidates.is_empty() {
            return vec![format!(
                "no network link after {seconds} s: {}",
                devices_without_driver()
            )];
        }
        let missing = self.candidates.values().filter_map(|candidate| {
            let name = format!("{} ({})", candidate.link.name, shown_mac(&candidate.link));
            if candidate.carrier_at.is_none() {
                Some(format!("{name}: no carrier after {seconds} s: check cable and switch"))
            } else {
                candidate.dhcp.as_ref().map(|_| {
                    format!(
                        "{name}: no usable DHCP answer after {seconds} s: check the server, and \
                         whether the switch forwards yet (spanning tree)"
                    )
                })
            }
        });
        missing.collect()
    }
}

fn start_dhcp(link: &Link, root_path_wanted: bool, began: Instant) -> Option<Dhcp> {
    let mac = link.mac?;
    let config = dhcp::Config {
        mac,
        host_name: Vec::new(),
        vendor_class: keeper::VENDOR_CLASS.to_vec(),
        root_path_wanted,
    };
    match Dhcp::open(link.index, DhcpClient::new(config, seed(mac, began))) {
        Ok(dhcp) => Some(dhcp),
        Err(error) => {
            warn!("{}: no socket for DHCP: {error}", link.name);
            None
        }
    }
}

/// What `ip=` makes of a link.
fn static_setting(
    link_index: u32,
    address: Ipv4Addr,
    prefix_len: u8,
    gateway: Option<IpAddr>,
) -> Setting {
    let host_bits = u32::MAX.checked_shr(u32::from(prefix_len)).unwrap_or(0);
    let broadcast = Ipv4Addr::from_bits(address.to_bits() | host_bits);
    let default = |router| Route {
        link_index,
        destination: Ipv4Addr::UNSPECIFIED,
        prefix_len: 0,
        router: Some(router),
        source: None,
        metric: None,
    };
    let router = match gateway {
        Some(IpAddr::V4(router)) => Some(router),
        _ => None,
    };
    Setting {
        address: Address { link_index, address, prefix_len, broadcast },
        routes: router.map(default).into_iter().collect(),
    }
}

/// Spreads the machines of a rack that is switched on at once: the address tells them apart, the
/// time one boot of a machine from the next.
fn seed(mac: [u8; 6], began: Instant) -> u64 {
    let mut random = [0; 8];
    let flags = rustix::rand::GetRandomFlags::NONBLOCK;
    if rustix::rand::getrandom(&mut random, flags) == Ok(random.len()) {
        return u64::from_ne_bytes(random);
    }
    let address = mac.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    address.rotate_left(16) ^ began.elapsed().as_nanos() as u64
}

/// Messages in, messages out; the lease, if there is one that leads to a disk.
fn advance_dhcp(dhcp: &mut Dhcp, link: &Link, root_path_wanted: bool) -> Option<(Lease, Grant)> {
    let mut lease = None;
    while let Some(event) = dhcp.advance(&link.name) {
        match event {
            dhcp::Event::Bound(bound) | dhcp::Event::Renewed(bound) => {
                let grant = Grant { message: dhcp.heard().to_vec(), at: Instant::now() };
                lease = Some((*bound, grant));
            }
            dhcp::Event::Refused { message } => {
                warn!("{}: the DHCP server refuses: {message}", link.name);
            }
            // The search reports for all links together.
            dhcp::Event::Unanswered { .. } | dhcp::Event::Expired(_) => {}
        }
    }
    let (lease, grant) = lease?;
    if root_path_wanted && !has_root_path(&lease) {
        warn!(
            "{}: DHCP server {} gives an address but no iSCSI root path (option 17), and the \
             command line names no target: add lunboot=iscsi:… or the option; still asking",
            link.name, lease.server
        );
        dhcp.client.release();
        dhcp.client.handle_connected(Instant::now());
        return None;
    }
    Some((lease, grant))
}

fn has_root_path(lease: &Lease) -> bool {
    std::str::from_utf8(&lease.options.root_path).is_ok_and(RootPath::is_iscsi)
}

/// Network devices on the PCI bus that no driver has taken, for the person who has to add one.
fn devices_without_driver() -> String {
    let mut waiting = Vec::new();
    for entry in fs::read_dir("/sys/bus/pci/devices").into_iter().flatten().flatten() {
        let path = entry.path();
        let class = fs::read_to_string(path.join("class")).unwrap_or_default();
        if class.starts_with("0x02") && !path.join("driver").exists() {
            let read = |name: &str| {
                let text = fs::read_to_string(path.join(name)).unwrap_or_default();
                text.trim().trim_start_matches("0x").to_owned()
            };
            waiting.push(format!("PCI device {}:{}", read("vendor"), read("device")));
        }
    }
    match waiting.as_slice() {
        [] => "no network device on the PCI bus either".to_owned(),
        waiting => format!("no driver in this image for {}", waiting.join(", ")),
    }
}

fn shown_mac(link: &Link) -> String {
    let Some(mac) = link.mac else { return "no address".to_owned() };
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn readable(fd: std::os::fd::BorrowedFd<'_>) -> PollFd<'_> {
    PollFd::from_borrowed_fd(fd, PollFlags::IN)
}
