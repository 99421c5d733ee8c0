//! From what a person asks for to a target that can be served: files to disks, texts to addresses,
//! a name where none was given, the place that logins are sent to; and the lines that tell how to
//! reach it.

use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Server;
use crate::proto::logical_unit::{LogicalUnit, Options, RecordError, Unfit, stable_hash};
use crate::proto::logical_units::LogicalUnits;
use crate::proto::target::{Redirect, TargetConfig};
use crate::secrets;
use crate::store::Store;
use crate::store::file::{FileStore, OpenError};
use crate::store::journal::{JournalError, Journaled};
use crate::store::record::FileRecord;
use crate::wire::Malformed;
use crate::wire::root_path::{DEFAULT_PORT, Host, IscsiName, RootPath};
use crate::wire::scsi::Lun;

/// What to serve, where and how.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Addresses as people write them; none is port 3260 of all addresses.
    pub listen: Vec<String>,
    /// The target's iSCSI name, or `None` for one made of host name and first file.
    pub name: Option<String>,
    /// Refuse all writes.
    pub read_only: bool,
    /// The media can be ejected.
    pub removable: bool,
    /// Bytes of a logical block.
    pub block_bytes: u32,
    /// Bytes of a physical block, or `None` for those of a logical one.
    pub physical_block_bytes: Option<u32>,
    /// Initiators may have the disks sanitized.
    pub allow_sanitize: bool,
    /// The directory where persistent reservations and sanitize operations survive a restart, if
    /// they do.
    pub state: Option<PathBuf>,
    /// The file of those who may log in; without one everybody may.
    pub secrets: Option<PathBuf>,
    /// Discovery needs no secret.
    pub open_discovery: bool,
    /// Where the target is now, as `ADDRESS:PORT` or `ADDRESS:PORT,TAG`: logins are sent there, and
    /// nothing needs to be served here.
    pub redirect: Option<String>,
    /// It will not come back.
    pub redirect_for_good: bool,
    /// Files and block devices: LUN 0, 1, …
    pub files: Vec<PathBuf>,
}

/// Why it cannot be served.
#[derive(Debug)]
pub enum SetupError {
    /// There is nothing to serve.
    NoFile,
    /// The name is none.
    Name(Malformed),
    /// A text is no address.
    Address(String),
    /// A text is no address to send logins to.
    Redirect(String),
    /// It is said for how long logins are sent elsewhere, but not where.
    RedirectNowhere,
    /// The secrets cannot be used.
    Secrets(secrets::Error),
    /// Discovery is opened where nothing is closed.
    NothingToOpen,
    /// A file cannot be opened.
    Open(OpenError),
    /// A file cannot be a disk.
    Unfit(PathBuf, Unfit),
    /// The state of a disk cannot be kept in this directory.
    State(PathBuf, io::Error),
    /// The journal of a disk, this file, is not what was written there.
    Journal(PathBuf, JournalError),
    /// The state of a disk, in this file, is not what was written there.
    Record(PathBuf, RecordError),
}

impl Setup {
    /// The target.
    pub fn target(&self) -> Result<TargetConfig, SetupError> {
        let redirect = self.redirect()?;
        let name = match (&self.name, self.files.first()) {
            (Some(name), Some(_)) => name.clone(),
            (Some(name), None) if redirect.is_some() => name.clone(),
            (None, Some(first)) => default_name(first),
            (_, None) => return Err(SetupError::NoFile),
        };
        IscsiName::parse(&name).map_err(SetupError::Name)?;
        if self.open_discovery && self.secrets.is_none() {
            return Err(SetupError::NothingToOpen);
        }
        let secrets = self.secrets.as_deref().map(secrets::read).transpose();
        let secrets = secrets.map_err(SetupError::Secrets)?;
        let options = Options {
            logical_block_bytes: self.block_bytes,
            physical_block_bytes: self.physical_block_bytes.unwrap_or(self.block_bytes),
            read_only: self.read_only,
            removable: self.removable,
            sanitize: self.allow_sanitize,
        };
        let mut units = Vec::new();
        for path in &self.files {
            let store = self.store(path, &name)?;
            let unit = LogicalUnit::new(store, &name, &disk_name(path), options);
            let unit = unit.map_err(|unfit| SetupError::Unfit(path.clone(), unfit))?;
            units.push(match &self.state {
                Some(directory) => with_state(unit, directory)?,
                None => unit,
            });
        }
        Ok(TargetConfig {
            secrets,
            open_discovery: self.open_discovery,
            redirect,
            ..TargetConfig::new(&name, LogicalUnits::new(units))
        })
    }

    /// The file or device at a path, with a journal where there is a place for one.
    fn store(&self, path: &Path, target_name: &str) -> Result<Arc<dyn Store>, SetupError> {
        let store = FileStore::open(path, self.read_only).map_err(SetupError::Open)?;
        let Some(directory) = self.state.as_deref().filter(|_| !store.is_read_only()) else {
            return Ok(Arc::new(store));
        };
        let serial_number = LogicalUnit::serial_number_of(target_name, &disk_name(path));
        let journal = directory.join(format!("{serial_number}.journal"));
        let made = fs::create_dir_all(directory).map_err(JournalError::Io);
        match made.and_then(|()| Journaled::open(store, &journal)) {
            Ok(journaled) => Ok(Arc::new(journaled)),
            Err(JournalError::Io(error)) => Err(SetupError::State(journal, error)),
            Err(error) => Err(SetupError::Journal(journal, error)),
        }
    }

    fn redirect(&self) -> Result<Option<Redirect>, SetupError> {
        let Some(text) = &self.redirect else {
            let contradiction = self.redirect_for_good;
            return if contradiction { Err(SetupError::RedirectNowhere) } else { Ok(None) };
        };
        let error = || SetupError::Redirect(text.clone());
        let (address, tag) = match text.split_once(',') {
            Some((address, tag)) => (address, Some(tag.parse().map_err(|_| error())?)),
            None => (text.as_str(), None),
        };
        let address = parse_address(address).map_err(|_| error())?;
        // An initiator could reach neither of these.
        if address.ip().is_unspecified() || address.port() == 0 {
            return Err(error());
        }
        Ok(Some(Redirect { address, portal_group: tag, permanent: self.redirect_for_good }))
    }

    /// The addresses to listen on.
    pub fn addresses(&self) -> Result<Vec<SocketAddr>, SetupError> {
        self.listen.iter().map(|text| parse_address(text)).collect()
    }

    /// What a person wants to know when the server has begun to listen: the target's name, its
    /// disks, its addresses (one a line, `listening on ADDRESS:PORT`), and the lines to paste.
    pub fn introduction(&self, server: &Server) -> String {
        let config = &server.config;
        let mut text = format!("target {}\n", config.name);
        for (number, (unit, path)) in config.units.iter().zip(&self.files).enumerate() {
            let read_only = if unit.is_read_only() { ", read-only" } else { "" };
            let removable = if unit.is_removable() { ", removable" } else { "" };
            let (size_mib, block_bytes) = (unit.size_bytes() >> 20, unit.block_bytes());
            let path = path.display();
            text += &format!("LUN {number}: {path}, {size_mib} MiB, blocks of {block_bytes}");
            text += &format!("{read_only}{removable}\n");
        }
        for address in server.addresses() {
            text += &format!("listening on {address}\n");
        }
        if let Some(redirect) = config.redirect {
            let how_long = if redirect.permanent { "for good" } else { "for now" };
            text += &format!("logins are sent to {redirect} {how_long}\n");
        } else if let Some(root_path) = root_path(server) {
            text += "\nTo boot from LUN 0, one line for dnsmasq or one for the kernel:\n";
            text += &format!("  dhcp-option=17,\"{root_path}\"\n");
            text += &format!("  lunboot={root_path} ip=dhcp root=...\n\n");
        }
        text
    }
}

/// The same disk with its state in this directory.
fn with_state(unit: LogicalUnit, directory: &Path) -> Result<LogicalUnit, SetupError> {
    let serial_number = unit.serial_number();
    let open = |kind| {
        let opened = FileRecord::open(directory, &format!("{serial_number}.{kind}"));
        opened.map_err(|error| SetupError::State(directory.to_owned(), error))
    };
    let (record, text) = open("reservations")?;
    let path = record.path().to_owned();
    let unit = unit.with_record(text.as_deref(), Arc::new(record));
    let unit = unit.map_err(|error| SetupError::Record(path, error))?;
    let (record, text) = open("sanitize")?;
    let path = record.path().to_owned();
    let unit = unit.with_sanitize_record(text.as_deref(), Arc::new(record));
    unit.map_err(|error| SetupError::Record(path, error))
}

fn parse_address(text: &str) -> Result<SocketAddr, SetupError> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let with_port = || Some(SocketAddr::new(bare.parse::<IpAddr>().ok()?, DEFAULT_PORT));
    let address = text.parse::<SocketAddr>().ok().or_else(with_port);
    address.ok_or_else(|| SetupError::Address(text.to_owned()))
}

/// How a client names LUN 0: at the first address that the server listens on, or if that stands for
/// all, at the one that packets to the world would carry.
fn root_path(server: &Server) -> Option<RootPath> {
    let address = *server.addresses().first()?;
    let host = match reachable(address.ip()) {
        IpAddr::V4(address) => Host::V4(address),
        IpAddr::V6(address) => Host::V6 { address, zone: None },
    };
    Some(RootPath {
        server: Some(host),
        port: address.port(),
        lun: u64::from_be_bytes(Lun::ZERO.0),
        other_lun: None,
        target: IscsiName::parse(&server.config.name).ok()?,
    })
}

/// An address for others to use: itself, or if it stands for all of this machine, the one that
/// the routing table would choose. No packet is sent to find out.
fn reachable(address: IpAddr) -> IpAddr {
    if !address.is_unspecified() {
        return address.to_canonical();
    }
    let chosen = |from: &str, to: &str| -> std::io::Result<IpAddr> {
        let socket = UdpSocket::bind(from)?;
        socket.connect(to)?;
        Ok(socket.local_addr()?.ip())
    };
    // Documentation addresses: routed like any other that is not on a local link.
    chosen("0.0.0.0:0", "192.0.2.1:9")
        .or_else(|_| chosen("[::]:0", "[2001:db8::1]:9"))
        .unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// The name of a target that was given none: of this machine and the first file, so that it is the
/// same after every start, and two targets of one machine differ.
fn default_name(file: &Path) -> String {
    let absolute = std::fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    let hash = stable_hash(absolute.as_os_str().as_bytes().iter().copied()) as u32;
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    format!("iqn.2026-11.io.lunboot:{}-{}-{hash:08x}", name_part(&host), name_part(&stem))
}

/// What tells a disk from the others of this machine: its path as it was given, made absolute. A
/// link is not followed, for it may be there to give a device a name that lasts. A file that is
/// served under another LUN stays the same disk; another file under the same LUN is another one.
fn disk_name(path: &Path) -> Vec<u8> {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    absolute.into_os_string().into_encoded_bytes()
}

/// What an iSCSI name may hold of a text (RFC 3722): lower case letters, digits, `-` and `.`.
fn name_part(text: &str) -> String {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.';
    let part: String =
        text.to_ascii_lowercase().chars().map(|c| if allowed(c) { c } else { '-' }).collect();
    let part: String = part.trim_matches(['-', '.']).chars().take(64).collect();
    if part.is_empty() { "disk".to_owned() } else { part }
}

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SetupError::NoFile => {
                f.write_str("no file to serve: name a disk image or a block device")
            }
            SetupError::Name(malformed) => malformed.fmt(f),
            SetupError::Address(text) => {
                write!(f, "{text} is no address to listen on: write ADDRESS, ADDRESS:PORT or ")?;
                f.write_str("[IPv6]:PORT")
            }
            SetupError::Redirect(text) => {
                write!(f, "{text} is no address to send logins to: write ADDRESS:PORT, ")?;
                f.write_str("[IPv6]:PORT or one of them and ,TAG")
            }
            SetupError::RedirectNowhere => {
                f.write_str("--redirect-for-good says nothing without --redirect ADDRESS:PORT")
            }
            SetupError::Secrets(error) => error.fmt(f),
            SetupError::NothingToOpen => f.write_str(
                "--open-discovery without --secrets: everybody may discover and log in as it is",
            ),
            SetupError::Open(error) => error.fmt(f),
            SetupError::Unfit(path, unfit) => write!(f, "serve {}: {unfit}", path.display()),
            SetupError::State(path, _) => write!(f, "keep state in {}", path.display()),
            SetupError::Journal(path, error) => write!(f, "{}: {error}", path.display()),
            SetupError::Record(path, error) => {
                write!(f, "{}: {error}; repair the file, or remove it ", path.display())?;
                f.write_str("to forget what its disk was to remember")
            }
        }
    }
}

impl std::error::Error for SetupError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            SetupError::Open(error) => error.source(),
            SetupError::State(_, error) => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::logical_unit::Outcome;
    use crate::proto::target::SessionName;
    use crate::wire::pdu::Isid;
    use crate::wire::scsi::opcode::reserve_out;
    use crate::wire::scsi::{Cdb, ReserveOutList, TransferFlags, parse_reservation_keys};

    #[test]
    fn default_names_are_valid_stable_and_differ() {
        let name = |path: &str| default_name(Path::new(path));
        assert_eq!(name("/a/Root Disk.img"), name("/a/Root Disk.img"));
        assert_ne!(name("/a/root.img"), name("/b/root.img"));
        assert!(name("/a/Root Disk.img").contains("-root-disk-"));
        for path in ["/a/root.img", "/dev/ünïcode", "/", &format!("/{}", "x".repeat(255))] {
            IscsiName::parse(&name(path)).unwrap();
        }
    }

    #[test]
    fn an_address_that_stands_for_all_is_replaced() {
        assert!(!reachable("0.0.0.0".parse().unwrap()).is_unspecified());
        assert_eq!(reachable("::ffff:192.0.2.1".parse().unwrap()), Ipv4Addr::new(192, 0, 2, 1));
    }

    #[test]
    fn addresses_with_and_without_port() {
        let parse = |text: &str| parse_address(text).map(|address| address.to_string()).ok();
        assert_eq!(parse("127.0.0.1:0").as_deref(), Some("127.0.0.1:0"));
        assert_eq!(parse("192.0.2.1").as_deref(), Some("192.0.2.1:3260"));
        assert_eq!(parse("[::1]:9").as_deref(), Some("[::1]:9"));
        assert_eq!(parse("[::]").as_deref(), Some("[::]:3260"));
        assert_eq!(parse("fe80::1").as_deref(), Some("[fe80::1]:3260"));
        for text in ["", "host:3260", "192.0.2.1:70000", "[::1"] {
            assert_eq!(parse(text), None);
        }
    }

    fn serve(file: &Path) -> Setup {
        Setup {
            listen: Vec::new(),
            name: None,
            read_only: false,
            removable: false,
            block_bytes: 512,
            physical_block_bytes: None,
            allow_sanitize: false,
            state: None,
            secrets: None,
            open_discovery: false,
            redirect: None,
            redirect_for_good: false,
            files: vec![file.to_owned()],
        }
    }

    #[test]
    fn reservations_survive_a_restart_and_a_broken_record_is_not_served() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(4096).unwrap();
        let state = tempfile::tempdir().unwrap();
        let setup = Setup { state: Some(state.path().to_owned()), ..serve(file.path()) };
        let initiator = "iqn.2026-11.example:a".to_owned();
        let session = SessionName { initiator, isid: Isid([0x80, 0, 0, 0, 0, 1]) };
        let register = ReserveOutList { action_key: 7, persist: true, ..Default::default() };
        let (action, kind, parameter_bytes) = (reserve_out::REGISTER, 0, 24);
        let out = Cdb::PersistentReserveOut { action, scope: 0, kind, parameter_bytes };
        let read_keys = Cdb::PersistentReserveIn { action: 0, allocation: 64 };
        let after_power_on = |config: &TargetConfig| {
            let mut nexus = config.units.nexus(session.clone());
            config.units.execute(Lun::ZERO, &Cdb::TestUnitReady.emit(), &[], &mut nexus);
            nexus
        };
        let config = setup.target().unwrap();
        let mut nexus = after_power_on(&config);
        let outcome = config.units.execute(Lun::ZERO, &out.emit(), &register.emit(&[]), &mut nexus);
        assert_eq!(outcome, Outcome::Good);
        drop((nexus, config));
        let config = setup.target().unwrap();
        let mut nexus = after_power_on(&config);
        match config.units.execute(Lun::ZERO, &read_keys.emit(), &[], &mut nexus) {
            Outcome::Data(data) => assert_eq!(parse_reservation_keys(&data), Ok((0, vec![7]))),
            other => panic!("READ KEYS: {other:?}"),
        }
        drop((nexus, config));
        let files = state.path().read_dir().unwrap().map(|file| file.unwrap().path());
        let is_record = |path: &PathBuf| path.extension().unwrap() == "reservations";
        let record = files.into_iter().find(is_record).unwrap();
        let text = std::fs::read_to_string(&record).unwrap().replace("0x", "");
        std::fs::write(&record, text).unwrap();
        let error = setup.target().unwrap_err().to_string();
        assert!(error.starts_with(record.to_str().unwrap()), "{error}");
        assert!(error.contains("line 2: the key must be"), "{error}");
    }

    #[test]
    fn a_disk_that_was_changed_under_its_journal_is_not_written_to() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 16).unwrap();
        let state = tempfile::tempdir().unwrap();
        let setup = Setup { state: Some(state.path().to_owned()), ..serve(file.path()) };
        let write = || {
            let config = setup.target().unwrap();
            let unit = config.units.get(Lun::ZERO).unwrap();
            let flags = TransferFlags::default();
            let cdb = Cdb::WriteAtomic { lba: 8, boundary: 0, blocks: 4, flags };
            assert_eq!(unit.execute(&cdb.emit(), &[7; 2048]), Outcome::Good);
        };
        write();
        let journals = state.path().read_dir().unwrap().map(|file| file.unwrap().path());
        let is_journal = |path: &PathBuf| path.extension().unwrap() == "journal";
        let journal = journals.into_iter().find(is_journal).unwrap();
        // A backup is put back while it is not served: one from before the write, and another.
        std::fs::write(file.path(), vec![0; 1 << 16]).unwrap();
        drop(setup.target().unwrap());
        assert_eq!(std::fs::read(file.path()).unwrap(), vec![0; 1 << 16]);
        write();
        std::fs::write(file.path(), vec![9; 1 << 16]).unwrap();
        for (held, said) in [(None, "by another program"), (Some("notes"), "is no journal")] {
            if let Some(text) = held {
                std::fs::write(&journal, text).unwrap();
            }
            let error = setup.target().unwrap_err().to_string();
            assert!(error.starts_with(journal.to_str().unwrap()), "{error}");
            assert!(error.contains(said) && error.contains("remove the file"), "{error}");
        }
        std::fs::remove_file(&journal).unwrap();
        drop(setup.target().unwrap());
        assert_eq!(std::fs::read(file.path()).unwrap(), vec![9; 1 << 16]);
    }

    #[test]
    fn files_that_cannot_be_disks_say_why() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1000).unwrap();
        let mut setup = serve(file.path());
        let error = setup.target().unwrap_err().to_string();
        assert!(error.ends_with("extend it to 1024 bytes"), "{error}");
        setup.name = Some("no name".to_owned());
        assert!(matches!(setup.target(), Err(SetupError::Name(_))));
        setup.files.clear();
        assert!(matches!(setup.target(), Err(SetupError::NoFile)));
        setup.name = Some("iqn.2026-11.example:gone".to_owned());
        assert!(matches!(setup.target(), Err(SetupError::NoFile)));
        for (text, told) in [
            ("192.0.2.9", Some("192.0.2.9:3260")),
            ("192.0.2.9:3261,7", Some("192.0.2.9:3261,7")),
            ("[2001:db8::9]:3260,1", Some("[2001:db8::9]:3260,1")),
            ("2001:db8::9", Some("[2001:db8::9]:3260")),
            ("192.0.2.9,x", None),
            ("192.0.2.9:0", None),
            ("[::]:3260", None),
            ("elsewhere", None),
        ] {
            setup.redirect = Some(text.to_owned());
            let redirect = setup.target().ok().and_then(|target| target.redirect);
            assert_eq!(redirect.map(|redirect| redirect.to_string()).as_deref(), told, "{text}");
        }
        (setup.redirect, setup.redirect_for_good) = (None, true);
        assert!(matches!(setup.target(), Err(SetupError::RedirectNowhere)));
    }
}
