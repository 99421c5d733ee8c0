//! The keeper: the process that keeps the network through which the disk is reached.
//!
//! It renews the lease for as long as the machine runs, puts address, routes and link back as soon
//! as anybody takes them away, and tells those who usually do such things to keep off
//! ([`handover`]). A lease that nobody renews is over for the server, not for us: the address
//! stays, as a root disk is worth more than a lease.
//!
//! The disk does not hang on this process: the address has no end in the kernel, so whoever kills
//! it has a network that is not renewed and not guarded, and nothing else.

mod config;
mod dhcp;
mod handover;

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use log::{debug, error, info, warn};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::getpid;

use super::Role;
use super::control::{Control, NETWORK, Question};
use super::status::{Status, Value};
use crate::boot::omit::Omission;
use crate::net::link::{self, Doer, Link, Links};
use crate::proto::dhcp::{self as client, DhcpClient, Event, Lease};

pub use config::{Config, Grant, setting};
pub use dhcp::Dhcp;
pub use handover::clean_name;

/// Vendor class that DHCP servers can select by (option 60).
pub const VENDOR_CLASS: &[u8] = b"lunboot";

/// How long an agent waits until the keeper is there: it has a few files to write.
const START_PATIENCE: Duration = Duration::from_secs(5);

/// What it says then.
const READY: &str = "ready\n";

/// Pause before what could not be put back is tried again; nobody tells when it may work.
const RETRY: Duration = Duration::from_secs(1);

/// Starts a keeper, and waits until it has told the network managers.
pub fn start(program: &Path, config: &Config) -> Result<(), String> {
    let doing = |doing: &str, error: io::Error| format!("{doing} the keeper: {error}");
    let (mut ours, _child) = super::supervisor::spawn(program, Role::Keep)?;
    ours.write_all(config.emit(Instant::now()).as_bytes()).map_err(|e| doing("instructing", e))?;
    ours.set_read_timeout(Some(START_PATIENCE)).map_err(|e| doing("instructing", e))?;
    let mut line = String::new();
    BufReader::new(ours).read_line(&mut line).map_err(|e| doing("hearing", e))?;
    match line.as_str() {
        READY => Ok(()),
        _ => Err("the keeper of the network has ended: its reason is in the kernel log".into()),
    }
}

/// The life of the process.
pub(super) fn run(lines: &mut BufReader<UnixStream>) -> Result<(), String> {
    let config = Config::receive(lines, Instant::now())?;
    let mut keeper = Keeper::new(config)?;
    keeper.put_back(Instant::now());
    keeper.tell_managers();
    keeper.listen();
    // An init that waits for its end at shutdown would wait in vain.
    let omission = Omission::new("network", getpid());
    if let Err(error) = omission.write(None) {
        debug!("telling sysvinit whom to spare: {error}");
    }
    // Nobody may be waiting any more.
    let _ = lines.get_mut().write_all(READY.as_bytes());
    let _ = lines.get_mut().shutdown(std::net::Shutdown::Both);
    keeper.serve()
}

struct Keeper {
    config: Config,
    /// As it was last seen.
    link: Link,
    links: Links,
    dhcp: Option<Dhcp>,
    lease: Option<Lease>,
    control: Option<Control>,
    /// When to try again to put back what could not be put back.
    retry_at: Option<Instant>,
    /// How often something was put back.
    put_backs: u64,
}

/// What somebody has done to the network.
#[derive(Default)]
struct Damage {
    /// In words, with who has done it if that is known.
    what: Vec<String>,
    address: bool,
    subnet: bool,
}

impl Keeper {
    fn new(config: Config) -> Result<Keeper, String> {
        let shown = |error: link::Error| error.to_string();
        let mut links = Links::open_all().map_err(shown)?;
        let index = config.setting.address.link_index;
        let link = links.list().map_err(shown)?.into_iter().find(|link| link.index == index);
        let link = link.ok_or_else(|| format!("keeper: there is no link {index}"))?;
        let mut keeper = Keeper {
            config,
            link,
            links,
            dhcp: None,
            lease: None,
            control: None,
            retry_at: None,
            put_backs: 0,
        };
        keeper.take_lease();
        Ok(keeper)
    }

    /// Goes on where the agent's client has stopped.
    fn take_lease(&mut self) {
        let Some(Grant { message, at }) = &self.config.grant else { return };
        let mac = self.config.mac;
        let config = client::Config {
            mac,
            host_name: Vec::new(),
            vendor_class: VENDOR_CLASS.to_vec(),
            root_path_wanted: false,
        };
        let seed = mac.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        let Some(client) = DhcpClient::resume(config, seed, message, *at) else {
            return warn!("{}: the lease cannot be read, and is not renewed", self.link.name);
        };
        self.lease = client.lease().cloned();
        let opened = Dhcp::open(self.link.index, client).and_then(|mut dhcp| {
            dhcp.use_address()?;
            Ok(dhcp)
        });
        match opened {
            Ok(dhcp) => self.dhcp = Some(dhcp),
            Err(error) => warn!("{}: the lease is not renewed: {error}", self.link.name),
        }
    }

    fn listen(&mut self) {
        match Control::listen(NETWORK) {
            Ok(control) => self.control = Some(control),
            Err(error) => warn!("no status of the network: {error}"),
        }
    }

    fn serve(&mut self) -> Result<(), String> {
        loop {
            let now = Instant::now();
            let damage = self.hear_links().map_err(|error| error.to_string())?;
            self.repair(&damage, now);
            self.keep_lease();
            self.answer_questions();
            self.wait();
        }
    }

    fn wait(&self) {
        let readable = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
        let mut fds = vec![readable(self.links.fd())];
        fds.extend(self.dhcp.iter().map(|dhcp| readable(dhcp.fd())));
        fds.extend(self.control.iter().flat_map(Control::fds).map(readable));
        let lease = self.dhcp.as_ref().and_then(|dhcp| dhcp.client.next_deadline());
        let deadline = lease.into_iter().chain(self.retry_at).min();
        let timeout = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        // An interrupted wait is a short one; every source is looked at after each.
        let _ = poll(&mut fds, timeout.as_ref());
    }
}

/// The link, its address, its routes.
impl Keeper {
    /// Takes in everything that has happened to links, addresses and routes.
    fn hear_links(&mut self) -> Result<Damage, link::Error> {
        let mut damage = Damage::default();
        while let Some(event) = self.links.poll_event()? {
            match event {
                link::Event::Changed(link) if link.index == self.link.index => {
                    self.follow(link, &mut damage);
                }
                link::Event::Gone(link) if link.index == self.link.index => {
                    error!("{}: the device is gone, and the disk with it: I/O waits", link.name);
                }
                link::Event::AddressGone { address, by }
                    if address.link_index == self.link.index
                        && address.address == self.config.setting.address.address =>
                {
                    damage.address = true;
                    damage.what.push(format!("address {} {}", address.address, taken(by)));
                }
                link::Event::RouteGone { route, by } if self.config.setting.has(&route) => {
                    damage.subnet |= route == self.config.setting.subnet();
                    let (to, len) = (route.destination, route.prefix_len);
                    damage.what.push(format!("route to {to}/{len} {}", taken(by)));
                }
                link::Event::Lost => {
                    let links = self.links.list()?;
                    if let Some(link) = links.into_iter().find(|l| l.index == self.link.index) {
                        self.follow(link, &mut damage);
                    }
                    damage.what.push("something".into());
                }
                _ => {}
            }
        }
        Ok(damage)
    }

    /// The link is like this now.
    fn follow(&mut self, link: Link, damage: &mut Damage) {
        let had_carrier = std::mem::replace(&mut self.link, link).has_carrier();
        if !self.link.is_up() {
            damage.what.push("link taken down".into());
        }
        let name = &self.link.name;
        match (had_carrier, self.link.has_carrier()) {
            (true, false) => warn!("{name}: no carrier: I/O waits"),
            (false, true) => info!("{name}: carrier is back"),
            _ => return,
        }
        if let Some(dhcp) = &mut self.dhcp {
            match had_carrier {
                // The cable may be in another network now: the server is asked.
                false => dhcp.client.handle_connected(Instant::now()),
                true => dhcp.client.handle_disconnected(),
            }
        }
    }

    fn repair(&mut self, damage: &Damage, now: Instant) {
        let is_due = self.retry_at.is_some_and(|at| at <= now);
        if damage.what.is_empty() && !is_due {
            return;
        }
        let done = self.put_back(now);
        if damage.subnet && !damage.address {
            // The kernel makes it with the address, which is there.
            let _ = self.links.add_route(&self.config.setting.subnet());
        }
        if damage.what.is_empty() {
            return;
        }
        self.put_backs += 1;
        // Whoever does so all the time must not fill the kernel's log.
        if self.put_backs.is_power_of_two() {
            let outcome = if done { "put back" } else { "trying to put it back" };
            warn!("{}: {}: {outcome}", self.link.name, damage.what.join(", "));
        }
    }

    /// Whether all is as it has to be.
    fn put_back(&mut self, now: Instant) -> bool {
        let failed = match self.config.setting.put(&mut self.links) {
            Ok(failed) => failed.into_iter().next(),
            Err(error) => Some(error),
        };
        let was_failing = self.retry_at.is_some();
        self.retry_at = failed.is_some().then_some(now + RETRY);
        if let Some(error) = &failed
            && !was_failing
        {
            warn!("{}: {error}", self.link.name);
        }
        failed.is_none()
    }
}

/// The lease.
impl Keeper {
    fn keep_lease(&mut self) {
        let name = self.link.name.clone();
        while let Some(event) = self.dhcp.as_mut().and_then(|dhcp| dhcp.advance(&name)) {
            match event {
                Event::Bound(lease) | Event::Renewed(lease) => self.renewed(*lease),
                Event::Refused { message } => warn!(
                    "{name}: the DHCP server refuses ({message}); the address stays while another \
                     one is asked for"
                ),
                Event::Unanswered { waited } => warn!(
                    "{name}: no DHCP server has answered for {} s; the address stays",
                    waited.as_secs()
                ),
                Event::Expired(lease) => warn!(
                    "{name}: the lease of {} is over and {} has not renewed it: the address stays, \
                     and the server is asked again",
                    lease.address, lease.server
                ),
            }
        }
    }

    fn renewed(&mut self, lease: Lease) {
        let new = setting(self.link.index, &lease);
        if self.lease.as_ref() == Some(&lease) {
            return;
        }
        let old = std::mem::replace(&mut self.config.setting, new);
        let address = self.config.setting.address;
        self.lease = Some(lease);
        self.put_back(Instant::now());
        for route in old.routes.iter().filter(|route| !self.config.setting.routes.contains(route)) {
            // It may have gone with something else.
            let _ = self.links.delete_route(route);
        }
        if old.address != address {
            let (from, to) = (old.address.address, address.address);
            warn!("{}: the address has changed from {from} to {to}", self.link.name);
            if let Err(error) = self.links.delete_address(&old.address) {
                warn!("{error}");
            }
        }
        self.tell_managers();
    }

    fn tell_managers(&self) {
        let facts = handover::Facts {
            link_name: &self.link.name,
            mac: self.config.mac,
            setting: &self.config.setting,
            lease: self.lease.as_ref(),
            name_servers: &self.config.name_servers,
        };
        for text in handover::write(Path::new("/run"), &facts) {
            warn!("{text}: a network manager may take the link of the root disk");
        }
    }
}

/// What people are told.
impl Keeper {
    fn answer_questions(&mut self) {
        while let Some((question, mut stream)) =
            self.control.as_mut().and_then(Control::poll_question)
        {
            if let Question::Status(format) = question {
                // Whoever does not read its answer misses it.
                let _ = stream.write_all(self.status().in_format(format).as_bytes());
            }
        }
    }

    fn status(&self) -> Status {
        let link::Address { address, prefix_len, .. } = self.config.setting.address;
        let routes = &self.config.setting.routes;
        let router = routes.iter().find(|route| route.prefix_len == 0).and_then(|r| r.router);
        let mut status = Status::default();
        status
            .text("link", &*self.link.name)
            .number("link number", self.link.index)
            .add("carrier", Value::Flag(self.link.has_carrier()))
            .text("address", format!("{address}/{prefix_len}"))
            .text("router", router.map_or_else(|| "none".into(), |router| router.to_string()))
            .number("put back", self.put_backs);
        if let Some(lease) = &self.lease {
            let client = self.dhcp.as_ref().map(|dhcp| &dhcp.client);
            let renewer = if client.is_some() { "lunboot" } else { "nobody" };
            let left = |at: Instant| at.saturating_duration_since(Instant::now()).as_secs();
            let left = match client.map(|client| (client.lease(), client.lease_ends_at())) {
                Some((Some(_), ends_at)) => ends_at.map(left),
                // It is over, or nobody knows.
                Some((None, _)) | None => Some(0),
            };
            status
                .text("lease server", lease.server.to_string())
                .add("lease ends", Value::Seconds(left))
                .text("lease renewer", renewer);
        }
        status
    }
}

/// By whom, in words.
fn taken(by: Doer) -> String {
    if by == Doer(0) {
        return "gone".into();
    }
    match std::fs::read_to_string(format!("/proc/{}/comm", by.0)) {
        Ok(name) => format!("taken away by {} (process {})", name.trim(), by.0),
        Err(_) => format!("taken away by process {}", by.0),
    }
}
