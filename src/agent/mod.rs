//! The boot journey: configure, network, disk, root, hand over.
//!
//! [`init`] is read top to bottom. Whatever fails is said in one line with the step, the value and
//! what to check; then it waits and tries again, for ever: nobody may be there to press a key. Only
//! the way to the disk can have a limit, for those who would rather have the machine restart.

mod attach;
mod discover;
mod farewell;
mod identity;
mod network;
mod rescue;
mod resolver;

use std::ffi::OsString;
use std::fs;
use std::io;
use std::num::NonZeroU32;
use std::path::Path;
use std::time::{Duration, Instant};

use log::{LevelFilter, error, info, warn};

use crate::boot::cmdline::BootConfig;
use crate::boot::exitrd::{self, Installed};
use crate::boot::modules::Modules;
use crate::boot::mount::{self, NEW_ROOT};
use crate::boot::survive::THIS_PROGRAM;
use crate::boot::switch_root::{find_init, switch_root};
use crate::boot::udev_rules::{self, DiskNames};
use crate::boot::uevent::Uevents;
use crate::boot::{find_root, kmsg};
use crate::daemon::{self, keeper};
use crate::wire::seconds::Hundredths;
use crate::wire::time_limit::{TimeLimit, TimeLimits};

pub use attach::{Attached, attach, load_drivers, portals};
pub use discover::discover;
pub use farewell::take_leave;
pub use identity::{chap, initiator_name, isid};
pub use network::Network;

/// Pauses between attempts: from, to.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// How long one look for the root file system lasts before it is reported and begun again.
const ROOT_PATIENCE: Duration = Duration::from_secs(10);

/// What the way to the disk took.
struct Way {
    network: Network,
    attached: Attached,
}

/// The life of process 1 in the initramfs. `arguments` are handed on to the init of the root file
/// system. It never returns: if it did, the kernel would panic. That is what it wants when the disk
/// is not there in time, as a kernel does that finds no root: `panic=` then restarts the machine.
pub fn init(arguments: &[OsString]) -> ! {
    let began = Instant::now();
    let early = mount::mount_early();
    let config = read_command_line();
    kmsg::install(log_level(&config));
    info!("version {}", env!("CARGO_PKG_VERSION"));
    if let Err(error) = early {
        error!("{error}");
    }
    report_rejected(&config);
    if config.shell {
        rescue::announce();
    }
    let mut uevents = endlessly(&config, || Uevents::open().map_err(|e| format!("uevents: {e}")));
    let mut modules = endlessly(&config, open_modules);
    modules.coldplug();
    let way = loop {
        match find_disk_in_time(&config, &mut modules, &mut uevents) {
            Ok(way) => break way,
            Err(text) => error!("{text}"),
        }
        if !config.shell {
            std::process::exit(1);
        }
        rescue::shell();
    };
    let attached_at = Instant::now();
    let path = &way.attached.path;
    endlessly(&config, || mount_root(&config, path, &mut modules, &mut uevents));
    report_times(&way, attached_at.elapsed(), began.elapsed());
    hand_over(&way.attached.names);
    endlessly(&config, || -> Result<(), String> {
        find_init(Path::new(NEW_ROOT), config.init.as_deref()).map_err(|e| e.to_string())?;
        Err(switch_root(Path::new(NEW_ROOT), config.init.as_deref(), arguments).to_string())
    });
    unreachable!("switching to the root file system either does not return or is tried again");
}

/// Attaches the disk that the kernel command line names, for a hook in a distribution's image,
/// which mounts by itself. `Ok(None)` if the command line asks for nothing. It fails only if the
/// command line limits the time.
pub fn attach_at_boot() -> Result<Option<Attached>, String> {
    let config = read_command_line();
    if !config.asked {
        return Ok(None);
    }
    kmsg::install(log_level(&config));
    report_rejected(&config);
    let mut uevents = Uevents::open().map_err(|error| format!("uevents: {error}"))?;
    let mut modules = open_modules()?;
    modules.coldplug();
    let began = Instant::now();
    let way = find_disk_in_time(&config, &mut modules, &mut uevents)?;
    report_times(&way, Duration::ZERO, began.elapsed());
    hand_over(&way.attached.names);
    Ok(Some(way.attached))
}

/// The text of /proc/cmdline, typed.
pub fn read_command_line() -> BootConfig {
    match fs::read_to_string("/proc/cmdline") {
        Ok(text) => BootConfig::parse(&text),
        Err(_) => BootConfig::default(),
    }
}

fn open_modules() -> Result<Modules, String> {
    let text = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    Modules::open(&text).map_err(|error| error.to_string())
}

/// The way to the disk, tried until `lunboot.timeout=` is over.
fn find_disk_in_time(
    config: &BootConfig,
    modules: &mut Modules,
    uevents: &mut Uevents,
) -> Result<Way, String> {
    let limit = config.limits.attach.seconds().map(|seconds| Duration::from_secs(seconds.into()));
    let deadline = limit.map(|limit| Instant::now() + limit);
    until(config, deadline, || find_disk(config, modules, uevents, deadline)).map_err(|text| {
        format!("{text}; no disk within the {} s of lunboot.timeout=", config.limits.attach)
    })
}

/// Network, target, daemon: the way to the disk.
fn find_disk(
    config: &BootConfig,
    modules: &mut Modules,
    uevents: &mut Uevents,
    deadline: Option<Instant>,
) -> Result<Way, String> {
    let network = network::bring_up(config, modules, uevents, deadline)?;
    let root_path = identity::root_path(config, &network)?;
    let block = load_drivers(modules, config.block);
    let target = root_path.target.as_str().to_owned();
    let attached = attach(&daemon::Config {
        portals: portals(&root_path, &config.portals)?,
        link_index: NonZeroU32::new(network.link.index),
        initiator: initiator_name(config, Some(&network)),
        isid: isid(&target, root_path.lun),
        target,
        lun: root_path.lun,
        block,
        digests: config.digests,
        limits: TimeLimits { attach: left(deadline), ..config.limits },
        by_hand: false,
        read_only: false,
        chap: identity::chap_of_image()?,
        takeover: None,
        restarts: 0,
        names: daemon::Names::default(),
    })?;
    keep(config, &network);
    Ok(Way { network, attached })
}

/// Leaves somebody behind who keeps the network as it is.
fn keep(config: &BootConfig, network: &Network) {
    let (Some(setting), Some(mac)) = (&network.setting, network.link.mac) else { return };
    let given = config.ip.iter().flat_map(|ip| &ip.nameservers).chain(&config.nameservers);
    let config = keeper::Config {
        mac,
        setting: setting.clone(),
        grant: network.grant.clone(),
        name_servers: given.copied().collect(),
    };
    // The disk works without it.
    if let Err(error) = keeper::start(Path::new(THIS_PROGRAM), &config) {
        warn!("{error}: the lease is not renewed");
    }
}

fn mount_root(
    config: &BootConfig,
    disk: &Path,
    modules: &mut Modules,
    uevents: &mut Uevents,
) -> Result<(), String> {
    let io = |error: io::Error| format!("looking for the root file system: {error}");
    let found = find_root::wait(config.root.as_ref(), disk, uevents, ROOT_PATIENCE).map_err(io)?;
    let device = found.map_err(|not_found| not_found.to_string())?;
    let kind = mount::mount_root(&device, config, modules, Path::new(NEW_ROOT))
        .map_err(|error| error.to_string())?;
    info!("root is {} ({kind})", device.path.display());
    Ok(())
}

/// What is left of the time, in whole seconds.
fn left(deadline: Option<Instant>) -> TimeLimit {
    deadline.map_or(TimeLimit::Never, |deadline| {
        let left = deadline.saturating_duration_since(Instant::now());
        TimeLimit::Seconds((left.as_secs() as u32).saturating_add(1))
    })
}

/// Does a step until it succeeds.
fn endlessly<T>(config: &BootConfig, step: impl FnMut() -> Result<T, String>) -> T {
    until(config, None, step).expect("without a deadline there is no end")
}

/// Does a step until it succeeds or the time is over; then its last error is the result. Says why
/// it did not succeed, offers a shell if one was asked for, waits.
fn until<T>(
    config: &BootConfig,
    deadline: Option<Instant>,
    mut step: impl FnMut() -> Result<T, String>,
) -> Result<T, String> {
    let mut pause = RETRY.0;
    loop {
        let text = match step() {
            Ok(value) => return Ok(value),
            Err(text) => text,
        };
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_none_or(|left| left > pause) {
            error!("{text}; trying again in {} s", pause.as_secs());
            if config.shell {
                rescue::shell();
            }
        }
        std::thread::sleep(left.map_or(pause, |left| left.min(pause)));
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Err(text);
        }
        pause = (pause * 2).min(RETRY.1);
    }
}

/// Leaves behind what the udev of the system needs to know, under /run only, which goes along.
fn hand_over(disk: &DiskNames) {
    const RULES: &str = "/run/udev/rules.d";
    if let Err(error) = udev_rules::write(Path::new(RULES), disk) {
        warn!("{RULES}: {error}: links to this disk may be missing in /dev/disk");
    }
    install_exitrd(Path::new(NEW_ROOT));
}

/// Makes the end of the system in `root` a clean one down to the logout, where its init has a place
/// for that. It is no less safe without.
pub fn install_exitrd(root: &Path) {
    match exitrd::install(root) {
        Ok(Installed::Yes | Installed::Useless) => {}
        Ok(Installed::LeftTo(whom)) => {
            info!("/run/initramfs is left to {whom}: no logout when the machine goes down");
        }
        Err(error) => warn!("/run/initramfs: {error}: no logout when the machine goes down"),
    }
}

fn report_rejected(config: &BootConfig) {
    for rejected in &config.rejected {
        warn!("command line: {}: {}", rejected.word, rejected.reason);
    }
}

fn report_times(way: &Way, root: Duration, all: Duration) {
    info!(
        "link {} s, dhcp {} s, login {} s, root {} s; {} s in all",
        Hundredths(way.network.link_time.as_millis()),
        Hundredths(way.network.dhcp_time.as_millis()),
        Hundredths(way.attached.login_time.as_millis()),
        Hundredths(root.as_millis()),
        Hundredths(all.as_millis())
    );
}

fn log_level(config: &BootConfig) -> LevelFilter {
    if config.debug { LevelFilter::Debug } else { LevelFilter::Info }
}
