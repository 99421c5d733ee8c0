//! The kernel command line, as far as it concerns us: text to [`BootConfig`], without any I/O.
//!
//! Words are split as the kernel splits them (blanks, double quotes; `kernel-parameters.rst`).
//! Words that are not ours belong to the kernel or to init and are ignored. A word that is ours but
//! cannot be read is reported in [`BootConfig::rejected`] and has no effect; all others still have
//! theirs. Where the same thing is said twice, the last word counts. `ip=` has its own file,
//! `ip_argument`.
//!
//! Nothing in here is a secret: credentials inside a word make it rejected and are cut out of it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

pub use super::ip_argument::{IpArgument, Mac, Method};
use crate::wire::digest_choice::{DigestChoice, DigestChoices};
use crate::wire::root_path::{self, Dialect, IscsiName, Portal, RootPath};
use crate::wire::time_limit::{TimeLimit, TimeLimits, parse_seconds};

/// Everything the command line said, typed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BootConfig {
    /// There was a `lunboot` word (bare, `lunboot=dhcp` or with a target), or a target in `root=`
    /// or `netroot=`. Without it a hook in a distribution's image has nothing to do.
    pub asked: bool,
    /// `lunboot=iscsi:…` or, without that, `netroot=iscsi:…`, `root=iscsi:…`. `None` leaves it to
    /// DHCP option 17.
    pub target: Option<RootPath>,
    /// Every `lunboot.portal=`, in order: other ways to the same target.
    pub portals: Vec<Portal>,
    /// `lunboot.timeout=`, `lunboot.io-timeout=`, `lunboot.ping-interval=` and
    /// `lunboot.ping-timeout=`.
    pub limits: TimeLimits,
    /// `lunboot.initiator=`: our own name.
    pub initiator: Option<IscsiName>,
    /// `lunboot.block=`: which kernel device to use.
    pub block: BlockChoice,
    /// `lunboot.header-digest=` and `lunboot.data-digest=`.
    pub digests: DigestChoices,
    /// `lunboot.shell`: a shell on the console when something fails.
    pub shell: bool,
    /// `lunboot.debug`: log at debug level.
    pub debug: bool,

    /// Every `ip=`, in order.
    pub ip: Vec<IpArgument>,
    /// `BOOTIF=`: the interface that the boot loader used.
    pub bootif: Option<Mac>,
    /// Every `nameserver=`, in order.
    pub nameservers: Vec<IpAddr>,

    /// `root=`: where the root file system is; `None` if it was not said.
    pub root: Option<Root>,
    /// `rootfstype=`: types to try, in order; empty to find out.
    pub root_types: Vec<String>,
    /// `rootflags=`: mount options.
    pub root_flags: String,
    /// `rw` was the last word of `ro` and `rw`.
    pub root_writable: bool,
    /// `init=`: the program to start, an absolute path in the root file system.
    pub init: Option<String>,

    /// `quiet`.
    pub quiet: bool,
    /// `loglevel=`: messages of a lower number reach the console.
    pub loglevel: Option<u8>,

    /// Words that are ours and could not be used.
    pub rejected: Vec<Rejected>,
}

/// Which block driver carries the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BlockChoice {
    /// ublk, and NBD where that does not work.
    #[default]
    Auto,
    /// ublk or nothing.
    Ublk,
    /// NBD or nothing.
    Nbd,
}

/// How `root=` names the root file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Root {
    /// A device file: `/dev/ublkb0p1`.
    Path(String),
    /// UUID of the file system, as blkid writes it; letters compare in either case.
    Uuid(String),
    /// Label of the file system.
    Label(String),
    /// UUID of the GPT partition, or `xxxxxxxx-nn` of an MBR one.
    PartUuid(String),
    /// Name of the GPT partition.
    PartLabel(String),
}

/// A word that could not be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// The word, without credentials.
    pub word: String,
    /// What is wrong with it; may have several lines.
    pub reason: String,
}

impl BootConfig {
    /// Reads the text of /proc/cmdline. It never fails: see [`BootConfig::rejected`].
    pub fn parse(text: &str) -> BootConfig {
        let mut config = BootConfig::default();
        let mut netroot = None;
        for word in split(text) {
            // What follows is for init alone.
            if word == "--" {
                break;
            }
            let (key, value) = match word.split_once('=') {
                Some((key, value)) => (key, Some(value)),
                None => (word.as_str(), None),
            };
            // As with the kernel's own parameters, hyphen and underscore are the same.
            let ours = key.starts_with("lunboot.").then(|| key.replace('_', "-"));
            let key = ours.as_deref().unwrap_or(key);
            if let Err(reason) = config.take(key, value, &mut netroot) {
                let word = printable(&root_path::without_credentials(&word));
                config.rejected.push(Rejected { word, reason });
            }
        }
        config.asked |= netroot.is_some();
        config.target = config.target.or(netroot);
        config
    }

    /// Takes one word. `netroot` is what `root=iscsi:` and `netroot=iscsi:` say.
    fn take(
        &mut self,
        key: &str,
        value: Option<&str>,
        netroot: &mut Option<RootPath>,
    ) -> Result<(), String> {
        match (key, value) {
            ("lunboot", None | Some("" | "dhcp")) => self.asked = true,
            ("lunboot", Some(text)) => {
                // Even a word that we cannot read says that we are meant.
                self.asked = true;
                self.target = Some(parse_target(text, Dialect::Rfc4173)?);
            }
            ("root" | "netroot", Some(text)) if RootPath::is_iscsi(text) => {
                self.asked = true;
                *netroot = Some(parse_target(text, Dialect::Netroot)?);
            }
            ("lunboot.initiator", Some(name)) => {
                self.initiator = Some(IscsiName::parse(name).map_err(|error| error.to_string())?);
            }
            ("lunboot.portal", Some(text)) => {
                self.portals.push(Portal::parse(text).map_err(|error| error.to_string())?);
            }
            ("lunboot.timeout", Some(text)) => self.limits.attach = parse_limit(text)?,
            ("lunboot.io-timeout", Some(text)) => self.limits.io = parse_limit(text)?,
            ("lunboot.ping-interval", Some(text)) => {
                self.limits.ping_interval = Some(parse_ping(text)?);
            }
            ("lunboot.ping-timeout", Some(text)) => {
                self.limits.ping_timeout = Some(parse_ping(text)?);
            }
            ("lunboot.header-digest", Some(value)) => self.digests.header = parse_digest(value)?,
            ("lunboot.data-digest", Some(value)) => self.digests.data = parse_digest(value)?,
            ("lunboot.block", Some(value)) => {
                self.block = match value {
                    "auto" => BlockChoice::Auto,
                    "ublk" => BlockChoice::Ublk,
                    "nbd" => BlockChoice::Nbd,
                    _ => return Err("must be ublk, nbd or auto".into()),
                }
            }
            ("lunboot.shell", value) => self.shell = parse_switch(value)?,
            ("lunboot.debug", value) => self.debug = parse_switch(value)?,
            _ if key.starts_with("lunboot.") => {
                return Err("is none of our options: lunboot.initiator=, lunboot.portal=, \
                            lunboot.timeout=, lunboot.io-timeout=, lunboot.ping-interval=, \
                            lunboot.ping-timeout=, lunboot.header-digest=, lunboot.data-digest=, \
                            lunboot.block=, lunboot.shell, lunboot.debug"
                    .into());
            }

            ("ip" | "nfsaddrs", Some(text)) => self.ip.push(IpArgument::parse(text)?),
            ("BOOTIF", Some(text)) => {
                let mac = Mac::parse_bootif(text);
                self.bootif = Some(mac.ok_or("must be like 01-52-54-00-12-34-56")?);
            }
            ("nameserver", Some(text)) => {
                let text = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
                self.nameservers.push(text.parse().map_err(|_| "must be an IP address")?);
            }

            ("root", Some(text)) => self.root = Some(text.parse()?),
            ("rootfstype", Some(text)) => {
                let is_type = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
                if text.is_empty() || !text.chars().all(|c| is_type(c) || c == ',') {
                    return Err("must be file system types with commas: ext4,xfs".into());
                }
                let types = text.split(',').filter(|kind| !kind.is_empty());
                // `auto` is what a person writes who means "find out".
                self.root_types = types.filter(|kind| *kind != "auto").map(str::to_owned).collect();
            }
            ("rootflags", Some(text)) => text.clone_into(&mut self.root_flags),
            ("ro", None) => self.root_writable = false,
            ("rw", None) => self.root_writable = true,
            ("init", Some(path)) if path.starts_with('/') && path.len() > 1 => {
                self.init = Some(path.to_owned());
            }
            ("init", Some(_)) => return Err("must be an absolute path: init=/sbin/init".into()),
            ("quiet", None) => self.quiet = true,
            ("loglevel", Some(text)) => {
                let level = text.parse().ok().filter(|level| *level <= 15);
                self.loglevel = Some(level.ok_or("must be a number from 0 to 15")?);
            }
            _ => {}
        }
        Ok(())
    }
}

fn parse_target(text: &str, dialect: Dialect) -> Result<RootPath, String> {
    RootPath::parse(text, dialect).map_err(|error| error.to_string())
}

fn parse_digest(text: &str) -> Result<DigestChoice, String> {
    DigestChoice::parse(text).map_err(|error| error.rule.to_owned())
}

fn parse_limit(text: &str) -> Result<TimeLimit, String> {
    TimeLimit::parse(text).map_err(|error| error.rule.to_owned())
}

fn parse_ping(text: &str) -> Result<u32, String> {
    parse_seconds(text).map_err(|error| error.rule.to_owned())
}

fn parse_switch(value: Option<&str>) -> Result<bool, String> {
    match value {
        None | Some("1" | "yes" | "on") => Ok(true),
        Some("0" | "no" | "off") => Ok(false),
        Some(_) => Err("must stand alone, or be 1 or 0".into()),
    }
}

impl FromStr for Root {
    type Err = String;

    fn from_str(text: &str) -> Result<Root, String> {
        // udev is not there to make the links; what they mean is plain enough.
        let links = [
            ("UUID=", Root::Uuid as fn(String) -> Root),
            ("LABEL=", Root::Label),
            ("PARTUUID=", Root::PartUuid),
            ("PARTLABEL=", Root::PartLabel),
            ("/dev/disk/by-uuid/", Root::Uuid),
            ("/dev/disk/by-label/", Root::Label),
            ("/dev/disk/by-partuuid/", Root::PartUuid),
            ("/dev/disk/by-partlabel/", Root::PartLabel),
        ];
        for (prefix, make) in links {
            let Some(value) = text.strip_prefix(prefix) else { continue };
            let value = if prefix.starts_with('/') { undo_udev(value) } else { unquote(value) };
            if value.is_empty() || value.contains('/') {
                return Err(format!("must have a plain value after {prefix}"));
            }
            return Ok(make(value));
        }
        if text.starts_with("/dev/") && text.len() > 5 && !text.contains("/../") {
            return Ok(Root::Path(text.to_owned()));
        }
        Err("must be /dev/…, UUID=, LABEL=, PARTUUID= or PARTLABEL=".into())
    }
}

impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Root::Path(value) => f.write_str(value),
            Root::Uuid(value) => write!(f, "UUID={value}"),
            Root::Label(value) => write!(f, "LABEL={value}"),
            Root::PartUuid(value) => write!(f, "PARTUUID={value}"),
            Root::PartLabel(value) => write!(f, "PARTLABEL={value}"),
        }
    }
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "argument {} ignored: {}", self.word, self.reason)
    }
}

/// `UUID="…"`: these quotes stand inside the word, so the kernel leaves them.
fn unquote(value: &str) -> String {
    let inner = value.strip_prefix('"').map(|value| value.strip_suffix('"').unwrap_or(value));
    inner.unwrap_or(value).to_owned()
}

/// udev writes characters that cannot be in a file name as `\x20`.
fn undo_udev(value: &str) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = match rest {
            [b'\\', b'x', high, low, ..] => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                digit(*high).zip(digit(*low)).map(|(high, low)| (high << 4 | low) as u8)
            }
            _ => None,
        };
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &rest[4..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Splits a command line as the kernel's `next_arg` does: blanks outside of double quotes separate;
/// quotes around a word or around a value vanish, others stay.
pub fn split(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quoted = false;
    for c in text.chars().chain([' ']) {
        if is_blank(c) && !quoted {
            if !word.is_empty() {
                words.push(strip_quotes(&word));
                word.clear();
            }
            continue;
        }
        quoted ^= c == '"';
        word.push(c);
    }
    // A quote that never ends takes the rest, as in the kernel.
    if !word.is_empty() {
        words.push(strip_quotes(word.trim_end_matches(is_blank)));
    }
    words
}

fn is_blank(c: char) -> bool {
    c.is_ascii_whitespace() || c == '\0'
}

fn strip_quotes(word: &str) -> String {
    let strip = |text: &str| match text.strip_prefix('"') {
        Some(inner) => inner.strip_suffix('"').unwrap_or(inner).to_owned(),
        None => text.to_owned(),
    };
    match word.split_once('=') {
        _ if word.starts_with('"') => strip(word),
        Some((key, value)) => format!("{key}={}", strip(value)),
        None => word.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn words_split_as_in_the_kernel() {
        let table: &[(&str, &[&str])] = &[
            ("", &[]),
            ("  a  b\tc\n", &["a", "b", "c"]),
            ("a=\"b c\" d", &["a=b c", "d"]),
            ("\"a=b c\" d", &["a=b c", "d"]),
            ("a=b\"c d\"e", &["a=b\"c d\"e"]),
            ("a=\"b c", &["a=b c"]),
            ("\"", &[""]),
            ("a=\"\" b", &["a=", "b"]),
            ("root=\"LABEL=my root\" ro", &["root=LABEL=my root", "ro"]),
        ];
        for (text, expected) in table {
            assert_eq!(split(text), *expected, "{text}");
        }
    }

    #[test]
    fn a_whole_line() {
        let config = BootConfig::parse(
            "BOOT_IMAGE=/vmlinuz console=ttyS0,115200n8 quiet loglevel=4 \
             lunboot=iscsi:192.0.2.1::::iqn.2004-10.example:root lunboot.shell \
             lunboot.initiator=iqn.2004-10.example:client lunboot.block=nbd \
             ip=192.0.2.9::192.0.2.254:24::eth0:off BOOTIF=01-52-54-00-12-34-56 \
             nameserver=192.0.2.53 nameserver=[2001:db8::53] \
             root=LABEL=root rootfstype=ext4,auto,xfs rootflags=noatime,commit=30 ro rw \
             init=/bin/sh -- lunboot.block=ublk single\n",
        );
        assert_eq!(config.rejected, []);
        let target = config.target.unwrap().to_string();
        assert_eq!(target, "iscsi:192.0.2.1:6:3260:0:iqn.2004-10.example:root");
        assert!(config.asked && config.shell && !config.debug && config.quiet);
        assert_eq!(config.initiator.unwrap().as_str(), "iqn.2004-10.example:client");
        assert_eq!(config.block, BlockChoice::Nbd);
        assert_eq!((config.ip.len(), config.nameservers.len()), (1, 2));
        assert_eq!(config.bootif.unwrap().to_string(), "52:54:00:12:34:56");
        assert_eq!(config.root, Some(Root::Label("root".into())));
        assert_eq!(config.root_types, ["ext4", "xfs"]);
        assert_eq!(config.root_flags, "noatime,commit=30");
        assert!(config.root_writable);
        assert_eq!(config.init.as_deref(), Some("/bin/sh"));
        assert_eq!(config.loglevel, Some(4));
    }

    #[test]
    fn portals_and_limits() {
        let config = BootConfig::parse(
            "lunboot lunboot.portal=192.0.2.2 lunboot.portal=[2001:db8::2]:99 lunboot.timeout=90 \
             lunboot.io_timeout=never lunboot.io-timeout=120 lunboot.ping_interval=7 \
             lunboot.ping-timeout=8",
        );
        assert_eq!(config.rejected, []);
        let portals: Vec<String> = config.portals.iter().map(ToString::to_string).collect();
        assert_eq!(portals, ["192.0.2.2:3260", "[2001:db8::2]:99"]);
        let limits = TimeLimits {
            attach: TimeLimit::Seconds(90),
            io: TimeLimit::Seconds(120),
            ping_interval: Some(7),
            ping_timeout: Some(8),
        };
        assert_eq!(config.limits, limits);
        assert_eq!(BootConfig::parse("lunboot").limits, TimeLimits::default());
    }

    #[test]
    fn a_line_that_does_not_mean_us_asks_for_nothing() {
        let line = "BOOT_IMAGE=/vmlinuz root=/dev/sda1 ro quiet rd.neednet=1 iscsi_initiator=x";
        let config = BootConfig::parse(line);
        assert!(!config.asked && config.target.is_none() && config.rejected.is_empty());
        for line in ["lunboot", "lunboot=dhcp", "lunboot=", "lunboot=iscsi:nonsense"] {
            assert!(BootConfig::parse(line).asked, "{line}");
            assert!(BootConfig::parse(line).target.is_none(), "{line}");
        }
    }

    #[test]
    fn a_bad_word_is_reported_and_the_rest_still_works() {
        for word in [
            "lunboot=iscsi:192.0.2.1::99999::iqn.2004-10.example:root",
            "lunboot=nfs:server",
            "lunboot.initiator=client1",
            "lunboot.block=floppy",
            "lunboot.shell=maybe",
            "lunboot.portal=a:b:c",
            "lunboot.timeout=0",
            "lunboot.io_timeout=1m",
            "lunboot.ping-interval=never",
            "lunboot.blcok=nbd",
            "ip=192.0.2.9",
            "BOOTIF=01-52-54",
            "nameserver=dns.example",
            "root=sda1",
            "root=UUID=",
            "root=8:1",
            "root=/dev/../etc/passwd",
            "rootfstype=ext4;rm",
            "init=sh",
            "loglevel=99",
            "netroot=iscsi:192.0.2.1",
        ] {
            let config = BootConfig::parse(&format!("{word} rw"));
            let rejected: Vec<&str> = config.rejected.iter().map(|r| r.word.as_str()).collect();
            assert_eq!(rejected, [word]);
            assert!(config.root_writable, "{word}");
            assert!(config.rejected[0].to_string().contains(word), "{word}");
        }
    }

    #[test]
    fn netroot_gives_the_target_and_a_second_root_the_file_system() {
        let iscsi = "iscsi:192.0.2.1::3260:10:iqn.2004-10.example:root";
        for line in [format!("root={iscsi} root=UUID=ab"), format!("root=UUID=ab netroot={iscsi}")]
        {
            let config = BootConfig::parse(&line);
            assert_eq!(config.target.as_ref().map(|target| target.lun), Some(0x000a << 48));
            assert_eq!(config.root, Some(Root::Uuid("ab".into())));
            assert!(config.asked);
        }
        let both = format!("lunboot={iscsi} netroot=iscsi:192.0.2.2::::iqn.2004-10.example:other");
        assert_eq!(BootConfig::parse(&both).target.unwrap().lun, 0x0010 << 48);
    }

    #[test]
    fn each_way_to_name_the_root() {
        let table = [
            ("/dev/vda1", Root::Path("/dev/vda1".into())),
            ("/dev/mapper/x", Root::Path("/dev/mapper/x".into())),
            ("UUID=1234-ABCD", Root::Uuid("1234-ABCD".into())),
            ("UUID=\"1234-ABCD\"", Root::Uuid("1234-ABCD".into())),
            ("LABEL=root", Root::Label("root".into())),
            ("PARTUUID=0815-01", Root::PartUuid("0815-01".into())),
            ("PARTLABEL=root", Root::PartLabel("root".into())),
            ("/dev/disk/by-uuid/1234", Root::Uuid("1234".into())),
            ("/dev/disk/by-label/my\\x20root", Root::Label("my root".into())),
            ("/dev/disk/by-partuuid/0815-01", Root::PartUuid("0815-01".into())),
            ("/dev/disk/by-partlabel/a\\x2fb\\x", Root::PartLabel("a/b\\x".into())),
        ];
        for (text, expected) in table {
            let read = text.parse::<Root>();
            if text.contains("x2f") {
                assert!(read.is_err(), "a slash in a name is refused");
            } else {
                assert_eq!(read, Ok(expected), "{text}");
            }
        }
    }

    #[test]
    fn no_password_is_kept_or_shown() {
        let config = BootConfig::parse(
            "lunboot=iscsi:user:geheim@192.0.2.1::::iqn.2004-10.example:root \
             netroot=iscsi:user:geheim@192.0.2.1::::iqn.2004-10.example:root \
             iscsi_password=geheim rd.iscsi.password=geheim",
        );
        assert_eq!(config.rejected.len(), 2);
        assert!(!format!("{config:?}").contains("geheim"), "{config:?}");
        assert!(!config.rejected[0].to_string().contains("geheim"));
    }

    proptest! {
        #[test]
        fn any_line_gives_a_configuration(line in "\\PC{0,200}") {
            let _ = format!("{:?}", BootConfig::parse(&line));
        }

        #[test]
        fn any_value_of_any_word_gives_a_configuration(words in proptest::collection::vec((
            proptest::sample::select(vec![
                "lunboot", "lunboot.initiator", "lunboot.block", "ip", "BOOTIF", "nameserver",
                "root", "rootfstype", "rootflags", "init", "loglevel", "netroot", "lunboot.x",
            ]), "[ -~\u{e9}\"]{0,24}"), 0..8)) {
            let line = words.iter().map(|(key, value)| format!("{key}={value}"));
            let line: Vec<String> = line.collect();
            let config = BootConfig::parse(&line.join(" "));
            for rejected in &config.rejected {
                prop_assert!(!rejected.to_string().is_empty());
            }
        }
    }
}
