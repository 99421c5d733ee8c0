//! `lunboot`: boot agent, initiator, rescue tool.
//!
//! Arguments to values, and results to exit codes and lines; process 1 and the storage daemon are
//! this program too, and are told by the way in which they were started.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use argh::FromArgs;
use log::LevelFilter;
use lunboot::agent;
use lunboot::boot::cmdline::{BlockChoice, BootConfig};
use lunboot::boot::exitrd;
use lunboot::boot::kmsg;
use lunboot::boot::modules::Modules;
use lunboot::boot::survive::{self, THIS_PROGRAM};
use lunboot::daemon::{self, Role};
use lunboot::net::tcp;
use lunboot::proto::chap::Chap;
use lunboot::wire::digest_choice::{DigestChoice, DigestChoices};
use lunboot::wire::root_path::{Dialect, IscsiName, Portal, RootPath};
use lunboot::wire::time_limit::{self, TimeLimit, TimeLimits};

/// Of open(2): only if nobody else has the block device mounted or open like this.
const O_EXCL: i32 = 0o200;

/// Longest time that `discover` takes: the answer to a login alone may take a minute.
const DISCOVER_SECONDS: u32 = 90;

/// Attaches iSCSI disks, and boots machines from them.
#[derive(FromArgs)]
struct Arguments {
    /// print the version and exit
    #[argh(switch)]
    version: bool,
    #[argh(subcommand)]
    command: Option<Command>,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum Command {
    Init(Init),
    Attach(Attach),
    Detach(Detach),
    Discover(Discover),
    Exitrd(Exitrd),
    Replace(Replace),
    Status(Status),
    Version(Version),
}

/// be process 1 of an initramfs (what /init does)
#[derive(FromArgs)]
#[argh(subcommand, name = "init")]
struct Init {}

/// attach a LUN and print the path of its block device
#[derive(FromArgs)]
#[argh(subcommand, name = "attach")]
struct Attach {
    /// take everything from the kernel command line and bring up the network: for boot scripts
    #[argh(switch)]
    boot: bool,
    /// refuse writes
    #[argh(switch)]
    read_only: bool,
    /// kernel driver of the device: ublk, nbd or auto (default: auto, which is ublk, and nbd where
    /// that does not work)
    #[argh(option, default = "\"auto\".into()", arg_name = "driver")]
    block: String,
    /// our iSCSI name (default: made from this machine's hardware)
    #[argh(option, arg_name = "iqn")]
    initiator: Option<String>,
    /// digest of headers to offer: None, CRC32C or both, the better one first (default:
    /// CRC32C,None)
    #[argh(option, arg_name = "list")]
    header_digest: Option<String>,
    /// digest of data, in the same way (default: None,CRC32C)
    #[argh(option, arg_name = "list")]
    data_digest: Option<String>,
    /// file with our name and secret for CHAP, of mode 0600
    #[argh(option, arg_name = "file")]
    secrets: Option<PathBuf>,
    /// another way to the same target, HOST[:PORT]; may be given several times
    #[argh(option, arg_name = "host")]
    portal: Vec<String>,
    /// seconds until the disk must be there, or never (the default)
    #[argh(option, arg_name = "seconds")]
    timeout: Option<String>,
    /// seconds that reads and writes wait for a target that is away before they fail, or never (the
    /// default)
    #[argh(option, arg_name = "seconds")]
    io_timeout: Option<String>,
    /// seconds of silence after which the target is asked whether it is there (default: 5)
    #[argh(option, arg_name = "seconds")]
    ping_interval: Option<String>,
    /// seconds that its answer may take (default: 5, and 4 if there is another portal)
    #[argh(option, arg_name = "seconds")]
    ping_timeout: Option<String>,
    /// iscsi://HOST[:PORT]/TARGET/LUN with a decimal LUN, or a root path as in RFC 4173 with a
    /// hexadecimal one: iscsi:HOST::PORT:LUN:TARGET (default: port 3260, LUN 0)
    #[argh(positional)]
    uri: Option<String>,
}

/// let go of a block device that `attach` has made
#[derive(FromArgs)]
#[argh(subcommand, name = "detach")]
struct Detach {
    /// do not wait for a target that is away: what it has not got is lost
    #[argh(switch)]
    force: bool,
    /// the block device: /dev/ublkb0
    #[argh(positional)]
    device: String,
}

/// list the targets that a host has
#[derive(FromArgs)]
#[argh(subcommand, name = "discover")]
struct Discover {
    /// our iSCSI name (default: made from this machine's hardware)
    #[argh(option, arg_name = "iqn")]
    initiator: Option<String>,
    /// digest of headers to offer: None, CRC32C or both, the better one first (default:
    /// CRC32C,None)
    #[argh(option, arg_name = "list")]
    header_digest: Option<String>,
    /// digest of data, in the same way (default: None,CRC32C)
    #[argh(option, arg_name = "list")]
    data_digest: Option<String>,
    /// file with our name and secret for CHAP, of mode 0600
    #[argh(option, arg_name = "file")]
    secrets: Option<PathBuf>,
    /// seconds until the answer must be there (default: 90)
    #[argh(option, arg_name = "seconds")]
    timeout: Option<String>,
    /// HOST, HOST:PORT or [IPV6]:PORT (default: port 3260)
    #[argh(positional)]
    host: String,
}

/// have a system end with a logout: for boot scripts, before its init begins
#[derive(FromArgs)]
#[argh(subcommand, name = "exitrd")]
struct Exitrd {
    /// where its root file system is mounted
    #[argh(positional)]
    root: PathBuf,
}

/// replace the daemons of all attached LUNs by those of another version, while they serve
#[derive(FromArgs)]
#[argh(subcommand, name = "replace")]
struct Replace {
    /// the new program (default: this one)
    #[argh(positional)]
    program: Option<PathBuf>,
}

/// show every attached LUN
#[derive(FromArgs)]
#[argh(subcommand, name = "status")]
struct Status {
    /// one JSON object, for programs
    #[argh(switch)]
    json: bool,
}

/// print the version
#[derive(FromArgs)]
#[argh(subcommand, name = "version")]
struct Version {}

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    // systemd starts us with the name of the file that it has found.
    if std::process::id() == 1 && words.first().is_some_and(|name| name == exitrd::PROGRAM) {
        agent::take_leave(&words[1..]);
    }
    // The kernel starts /init with words of its command line; they are meant for the real init.
    if std::process::id() == 1 {
        agent::init(words.get(1..).unwrap_or_default());
    }
    if let [_, command, number] = words.as_slice()
        && let Some(role) = Role::named(command)
    {
        return report(run_daemon(role, number));
    }
    let arguments: Arguments = argh::from_env();
    kmsg::install_standard_error(LevelFilter::Warn);
    if arguments.version {
        return print_version();
    }
    let Some(command) = arguments.command else {
        return report(Err("nothing to do: name a command; --help lists them".into()));
    };
    match command {
        Command::Init(_) => report(Err("init only works as process 1 of an initramfs".into())),
        Command::Attach(attach) => report(run_attach(&attach)),
        Command::Detach(detach) => report(run_detach(&detach)),
        Command::Discover(discover) => report(run_discover(&discover)),
        Command::Exitrd(exitrd) => {
            agent::install_exitrd(&exitrd.root);
            ExitCode::SUCCESS
        }
        Command::Replace(replace) => report(run_replace(&replace)),
        Command::Status(status) => report(run_status(status.json)),
        Command::Version(_) => print_version(),
    }
}

fn print_version() -> ExitCode {
    println!("lunboot {}", env!("CARGO_PKG_VERSION"));
    ExitCode::SUCCESS
}

fn report(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            // To wherever this process logs: a person's terminal, or the kernel log.
            log::error!("{text}");
            ExitCode::FAILURE
        }
    }
}

fn run_daemon(role: Role, number: &OsString) -> Result<(), String> {
    kmsg::install(LevelFilter::Info);
    let number: Option<i32> = number.to_str().and_then(|number| number.parse().ok());
    let number = number.filter(|number| *number > 2).ok_or("daemon: not for people to start")?;
    let socket = survive::inherited(number).map_err(|error| format!("daemon: {error}"))?;
    daemon::run(role, UnixStream::from(socket))
}

fn run_attach(attach: &Attach) -> Result<(), String> {
    if attach.boot {
        if let Some(attached) = agent::attach_at_boot()? {
            println!("{}", attached.path.display());
        }
        return Ok(());
    }
    let uri = attach.uri.as_ref().ok_or("attach: name the disk: iscsi://HOST/TARGET/LUN")?;
    let root_path = RootPath::parse(uri, Dialect::Rfc4173).map_err(|error| error.to_string())?;
    let block = match attach.block.as_str() {
        "auto" => BlockChoice::Auto,
        "ublk" => BlockChoice::Ublk,
        "nbd" => BlockChoice::Nbd,
        other => return Err(format!("--block {other}: must be auto, ublk or nbd")),
    };
    let target = root_path.target.as_str().to_owned();
    refuse_twice(&target, root_path.lun)?;
    let mut modules = Modules::open("").map_err(|error| error.to_string())?;
    let attached = agent::attach(&daemon::Config {
        portals: agent::portals(&root_path, &portals(&attach.portal)?)?,
        link_index: None,
        initiator: initiator(attach.initiator.as_deref())?,
        isid: agent::isid(&target, root_path.lun),
        target,
        lun: root_path.lun,
        block: agent::load_drivers(&mut modules, block),
        digests: digests(&attach.header_digest, &attach.data_digest)?,
        limits: limits(attach)?,
        by_hand: true,
        read_only: attach.read_only,
        chap: chap(attach.secrets.as_deref())?,
        takeover: None,
        restarts: 0,
        names: daemon::Names::default(),
    })?;
    println!("{}", attached.path.display());
    Ok(())
}

/// Two sessions of one machine for one LUN would throw each other out for ever.
fn refuse_twice(target: &str, lun: u64) -> Result<(), String> {
    for (device, status) in all_status("status")? {
        let is_same = field(&status, "target").as_deref() == Some(target)
            && field(&status, "lun") == Some(format!("{lun:016x}"));
        if is_same {
            return Err(format!("attach: {target} is attached already, as /dev/{device}"));
        }
    }
    Ok(())
}

fn initiator(given: Option<&str>) -> Result<String, String> {
    let mut config = BootConfig::default();
    if let Some(name) = given {
        let name = IscsiName::parse(name).map_err(|error| format!("--initiator: {error}"))?;
        config.initiator = Some(name);
    }
    Ok(agent::initiator_name(&config, None))
}

fn portals(given: &[String]) -> Result<Vec<Portal>, String> {
    let portals = given.iter().map(|text| Portal::parse(text));
    portals.collect::<Result<_, _>>().map_err(|error| format!("--portal: {error}"))
}

fn limits(attach: &Attach) -> Result<TimeLimits, String> {
    let limit = |option, given: &Option<String>| match given {
        Some(text) => TimeLimit::parse(text).map_err(|error| format!("{option}: {error}")),
        None => Ok(TimeLimit::Never),
    };
    Ok(TimeLimits {
        attach: limit("--timeout", &attach.timeout)?,
        io: limit("--io-timeout", &attach.io_timeout)?,
        ping_interval: seconds("--ping-interval", &attach.ping_interval)?,
        ping_timeout: seconds("--ping-timeout", &attach.ping_timeout)?,
    })
}

fn seconds(option: &str, given: &Option<String>) -> Result<Option<u32>, String> {
    let seconds = given.as_ref().map(|text| time_limit::parse_seconds(text));
    seconds.transpose().map_err(|error| format!("{option}: {error}"))
}

fn chap(path: Option<&Path>) -> Result<Option<Chap>, String> {
    path.map(agent::chap).transpose()
}

fn digests(header: &Option<String>, data: &Option<String>) -> Result<DigestChoices, String> {
    let mut choices = DigestChoices::default();
    for (option, given, choice) in [
        ("--header-digest", header, &mut choices.header),
        ("--data-digest", data, &mut choices.data),
    ] {
        if let Some(text) = given {
            *choice = DigestChoice::parse(text).map_err(|error| format!("{option}: {error}"))?;
        }
    }
    Ok(choices)
}

fn run_detach(detach: &Detach) -> Result<(), String> {
    let name = Path::new(&detach.device).file_name().unwrap_or_default().to_string_lossy();
    let all = all_status("status")?;
    let Some((_, status)) = all.iter().find(|(device, _)| *device == name) else {
        return Err(format!(
            "detach: {} is no disk of ours: `lunboot status` lists them",
            detach.device
        ));
    };
    let path = Path::new("/dev").join(&*name);
    if detach.force {
        if is_mounted(&name) {
            return Err(in_use(&path));
        }
    } else {
        if field(status, "state").as_deref() != Some("logged") {
            log::warn!(
                "the target is away: waiting for it, so that nothing written is lost (--force does \
                 not wait)"
            );
        }
        // Whoever has it mounted or open exclusively would lose it without this.
        let exclusive = OpenOptions::new().read(true).custom_flags(O_EXCL).open(&path);
        drop(exclusive.map_err(|error| match error.kind() {
            ErrorKind::ResourceBusy => in_use(&path),
            _ => format!("detach: {}: {error}", path.display()),
        })?);
    }
    match daemon::ask(&name, if detach.force { "abandon" } else { "detach" }, None) {
        Ok(answer) if answer == "done\n" => Ok(()),
        Ok(_) => Err("detach: the daemon ended without saying that all is well".into()),
        Err(error) => Err(format!("detach: {error}")),
    }
}

fn in_use(path: &Path) -> String {
    format!("detach: {} is in use: unmount what is on it first", path.display())
}

/// Whether the disk or a partition of it is mounted: found out without touching it.
fn is_mounted(name: &str) -> bool {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let devices = mounts.lines().filter_map(|line| line.strip_prefix("/dev/")?.split(' ').next());
    let mut tails = devices.filter_map(|device| device.strip_prefix(name));
    tails.any(|tail| tail.is_empty() || tail.starts_with('p'))
}

/// The first word of a row of the daemon's status.
fn field(status: &str, name: &str) -> Option<String> {
    let line = status.lines().find(|line| line.split_whitespace().next() == Some(name))?;
    line.split_whitespace().nth(1).map(str::to_owned)
}

fn run_discover(discover: &Discover) -> Result<(), String> {
    let portal = Portal::parse(&discover.host).map_err(|error| error.to_string())?;
    let host = portal.host.to_string();
    let portals = tcp::resolve(&host, portal.port).map_err(|error| error.to_string())?;
    let chap = chap(discover.secrets.as_deref())?;
    let name = initiator(discover.initiator.as_deref())?;
    let digests = digests(&discover.header_digest, &discover.data_digest)?;
    let limit = seconds("--timeout", &discover.timeout)?.unwrap_or(DISCOVER_SECONDS);
    let limit = Duration::from_secs(limit.into());
    let targets = agent::discover(&portals, &name, digests, chap.as_ref(), limit)?;
    if targets.is_empty() {
        return Err(format!("discover: {portal} has no target for us"));
    }
    for target in targets {
        println!("{} {}", target.name, target.addresses.join(" "));
    }
    Ok(())
}

fn run_replace(replace: &Replace) -> Result<(), String> {
    let path = replace.program.as_deref().unwrap_or(Path::new(THIS_PROGRAM));
    let program = survive::program_in_memory(path)
        .map_err(|error| format!("replace: {}: {error}", path.display()))?;
    let question = format!("replace {}", program.as_raw_fd());
    for device in devices()? {
        let failed = |text: &str| Err(format!("replace: {device}: {}", text.trim_end()));
        match daemon::ask(&device, &question, None) {
            Ok(answer) if answer == "done\n" => {}
            Ok(answer) => return failed(&answer),
            Err(error) => return failed(&error.to_string()),
        }
        let status =
            daemon::ask_when_there(&device, "status", REPLACED_WITHIN).map_err(|error| {
                format!("replace: {device}: the new daemon does not answer: {error}")
            })?;
        println!("{device} {}", field(&status, "version").unwrap_or_default());
    }
    Ok(())
}

/// How long a daemon may take to say how it is.
const STATUS_PATIENCE: Duration = Duration::from_secs(5);

/// How long a new daemon may take to be there, if its target is.
const REPLACED_WITHIN: Duration = Duration::from_secs(60);

fn run_status(json: bool) -> Result<(), String> {
    // A disk that was attached by hand uses a network that somebody else keeps.
    let question = if json { "status json" } else { "status" };
    let network = daemon::ask(daemon::NETWORK, question, Some(STATUS_PATIENCE)).ok();
    let all = all_status(question)?;
    if json {
        let disks: Vec<&str> = all.iter().map(|(_, status)| status.trim_end()).collect();
        let network = network.as_deref().unwrap_or("null").trim_end();
        println!("{{\"disks\":[{}],\"network\":{network}}}", disks.join(","));
        return Ok(());
    }
    if all.is_empty() {
        println!("nothing is attached");
    }
    for (number, (_, status)) in all.iter().enumerate() {
        print!("{}{status}", if number == 0 { "" } else { "\n" });
    }
    if let Some(network) = network {
        print!("\n{network}");
    }
    Ok(())
}

fn devices() -> Result<Vec<String>, String> {
    let path = "/proc/net/unix";
    let text = fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    Ok(daemon::devices(&text))
}

fn all_status(question: &str) -> Result<Vec<(String, String)>, String> {
    let mut all = Vec::new();
    for device in devices()? {
        let status = daemon::ask(&device, question, Some(STATUS_PATIENCE))
            .map_err(|error| format!("{device}: {error}"))?;
        all.push((device, status));
    }
    Ok(all)
}
