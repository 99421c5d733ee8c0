//! What the agent hands over to the daemon: one `key value` line each, over an inherited socket.
//!
//! Not over the command line: that is there for every user to read, and secrets pass here.

use std::fmt::Write;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use zeroize::Zeroizing;

use super::names::{Known, Names};
use super::takeover::Takeover;
use crate::block::Preference;
use crate::proto::chap::{Chap, Credentials, Secret};
use crate::proto::session::Limits;
use crate::wire::digest_choice::{DigestChoice, DigestChoices};
use crate::wire::pdu::Isid;
use crate::wire::time_limit::{TimeLimit, TimeLimits, parse_seconds};

/// Everything the daemon needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where the target listens; tried in turn.
    pub portals: Vec<SocketAddr>,
    /// The link that the connection must take, by its index.
    pub link_index: Option<NonZeroU32>,
    /// InitiatorName.
    pub initiator: String,
    /// TargetName.
    pub target: String,
    /// The eight bytes of the LUN, big-endian.
    pub lun: u64,
    /// ISID.
    pub isid: Isid,
    /// Which block device to make.
    pub block: Preference,
    /// Which digests to offer.
    pub digests: DigestChoices,
    /// When to stop waiting for the target, and how soon to ask whether it is there.
    pub limits: TimeLimits,
    /// A person has asked for the disk, in a system that can do without it: it is not waited for if
    /// the target refuses us for a reason that waiting does not change, and the machine is not
    /// ended on its account.
    pub by_hand: bool,
    /// Refuse writes whatever the target says.
    pub read_only: bool,
    /// How we prove who we are, and whether the target must.
    pub chap: Option<Chap>,
    /// The device to be taken over from a server that has died.
    pub takeover: Option<Takeover>,
    /// Servers that have died.
    pub restarts: u32,
    /// Where names have led that the target has sent us to.
    pub names: Names,
}

/// Reads the configuration that comes first on a stream.
pub(super) fn receive(lines: &mut BufReader<UnixStream>) -> Result<Config, String> {
    let mut text = Zeroizing::new(String::with_capacity(TEXT_BYTES_MAX));
    while !text.ends_with("end\n") && text.len() < TEXT_BYTES_MAX {
        match lines.by_ref().take((TEXT_BYTES_MAX - text.len()) as u64).read_line(&mut text) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) => return Err(format!("reading the configuration: {error}")),
        }
    }
    Config::parse(&text)
}

/// Most bytes of a configuration: far more than any sane one has.
pub(super) const TEXT_BYTES_MAX: usize = 64 * 1024;

impl Config {
    /// The lines; a line `end` is the last, so that a cut is seen.
    pub fn emit(&self) -> Zeroizing<String> {
        // With room for all of it, so that no copy of a secret stays behind when it grows.
        let mut text = Zeroizing::new(String::with_capacity(TEXT_BYTES_MAX));
        let mut line = |key: &str, value: &dyn std::fmt::Display| {
            writeln!(text, "{key} {value}").expect("writing to memory");
        };
        for portal in &self.portals {
            line("portal", portal);
        }
        if let Some(index) = self.link_index {
            line("link", &index);
        }
        line("initiator", &self.initiator);
        line("target", &self.target);
        line("lun", &format_args!("{:016x}", self.lun));
        let isid = self.isid.0.iter().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
        line("isid", &format_args!("{isid:012x}"));
        line(
            "block",
            &match self.block {
                Preference::Auto => "auto",
                Preference::Ublk => "ublk",
                Preference::Nbd => "nbd",
            },
        );
        line("header-digest", &self.digests.header.list());
        line("data-digest", &self.digests.data.list());
        line("timeout", &self.limits.attach);
        line("io-timeout", &self.limits.io);
        if let Some(seconds) = self.limits.ping_interval {
            line("ping-interval", &seconds);
        }
        if let Some(seconds) = self.limits.ping_timeout {
            line("ping-timeout", &seconds);
        }
        line("by-hand", &self.by_hand);
        line("read-only", &self.read_only);
        if let Some(Chap { initiator, target }) = &self.chap {
            let mut credentials = |key: &str, known: &Credentials| {
                line(key, &format_args!("{} {}", known.name, known.secret.expose()));
            };
            credentials("chap-initiator", initiator);
            if let Some(target) = target {
                credentials("chap-target", target);
            }
        }
        if let Some(takeover) = &self.takeover {
            line("takeover", takeover);
        }
        line("restarts", &self.restarts);
        for known in self.names.iter() {
            line("name", known);
        }
        text.push_str("end\n");
        text
    }

    /// When the session stops waiting.
    pub(super) fn session_limits(&self) -> Limits {
        let limit = |limit: TimeLimit| limit.seconds().map(|s| Duration::from_secs(s.into()));
        let TimeLimits { attach, io, .. } = self.limits;
        Limits { attach: limit(attach), refusals: self.by_hand, io: limit(io) }
    }

    /// Nothing was said yet.
    fn empty() -> Config {
        Config {
            portals: Vec::new(),
            link_index: None,
            initiator: String::new(),
            target: String::new(),
            lun: 0,
            isid: Isid([0; 6]),
            block: Preference::Auto,
            digests: DigestChoices::default(),
            limits: TimeLimits::default(),
            by_hand: false,
            read_only: false,
            chap: None,
            takeover: None,
            restarts: 0,
            names: Names::default(),
        }
    }

    /// Reads the lines; the error names the line that cannot be read.
    pub fn parse(text: &str) -> Result<Config, String> {
        let mut config = Config::empty();
        let mut is_whole = false;
        let limit = |place: &mut TimeLimit, value| {
            TimeLimit::parse(value).map(|limit| *place = limit).is_ok()
        };
        let seconds = |place: &mut Option<u32>, value| {
            parse_seconds(value).map(|seconds| *place = Some(seconds)).is_ok()
        };
        for line in text.lines() {
            let (key, value) = line.split_once(' ').unwrap_or((line, ""));
            let known = match key {
                "portal" => value.parse().map(|portal| config.portals.push(portal)).is_ok(),
                "link" => value.parse().map(|index| config.link_index = Some(index)).is_ok(),
                "initiator" => !value.is_empty() && set(&mut config.initiator, value.into()),
                "target" => !value.is_empty() && set(&mut config.target, value.into()),
                "lun" => u64::from_str_radix(value, 16).map(|lun| config.lun = lun).is_ok(),
                "isid" => u64::from_str_radix(value, 16)
                    .map(|isid| config.isid.0.copy_from_slice(&isid.to_be_bytes()[2..]))
                    .is_ok(),
                "block" => match value {
                    "auto" => true,
                    "ublk" => set(&mut config.block, Preference::Ublk),
                    "nbd" => set(&mut config.block, Preference::Nbd),
                    _ => false,
                },
                "header-digest" => {
                    DigestChoice::parse(value).map(|choice| config.digests.header = choice).is_ok()
                }
                "data-digest" => {
                    DigestChoice::parse(value).map(|choice| config.digests.data = choice).is_ok()
                }
                "timeout" => limit(&mut config.limits.attach, value),
                "io-timeout" => limit(&mut config.limits.io, value),
                "ping-interval" => seconds(&mut config.limits.ping_interval, value),
                "ping-timeout" => seconds(&mut config.limits.ping_timeout, value),
                "by-hand" => value.parse().map(|flag| config.by_hand = flag).is_ok(),
                "read-only" => value.parse().map(|flag| config.read_only = flag).is_ok(),
                "chap-initiator" => credentials(value)
                    .map(|initiator| config.chap = Some(Chap { initiator, target: None }))
                    .is_some(),
                "chap-target" => match (&mut config.chap, credentials(value)) {
                    (Some(chap), Some(target)) => set(&mut chap.target, Some(target)),
                    _ => false,
                },
                "takeover" => Takeover::parse(value)
                    .map(|takeover| config.takeover = Some(takeover))
                    .is_some(),
                "restarts" => value.parse().map(|count| config.restarts = count).is_ok(),
                "name" => Known::parse(value).map(|known| config.names.learn(known)).is_some(),
                "end" => set(&mut is_whole, true),
                _ => false,
            };
            if !known {
                return Err(format!("daemon configuration: cannot read the line \"{key}\""));
            }
        }
        if !is_whole || config.portals.is_empty() {
            return Err("daemon configuration: it is not complete".into());
        }
        Ok(config)
    }
}

fn credentials(value: &str) -> Option<Credentials> {
    let (name, secret) = value.split_once(' ')?;
    Some(Credentials { name: name.to_owned(), secret: Secret::new(secret) })
}

fn set<T>(place: &mut T, value: T) -> bool {
    *place = value;
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        let mut names = Names::default();
        for name in ["a.example:3260 192.0.2.1:3260 [2001:db8::1]:3260", "b:1 192.0.2.2:1"] {
            names.learn(Known::parse(name).unwrap());
        }
        Config {
            portals: vec!["192.0.2.1:3260".parse().unwrap(), "[2001:db8::1]:99".parse().unwrap()],
            link_index: NonZeroU32::new(2),
            initiator: "iqn.2026-11.example:client".into(),
            target: "iqn.2026-11.example:root".into(),
            lun: 0x0001_0000_0000_0000,
            isid: Isid([0x80, 1, 2, 3, 4, 5]),
            block: Preference::Nbd,
            digests: DigestChoices { header: DigestChoice::Always, data: DigestChoice::Never },
            limits: TimeLimits {
                attach: TimeLimit::Seconds(60),
                io: TimeLimit::Seconds(120),
                ping_interval: Some(7),
                ping_timeout: None,
            },
            by_hand: true,
            read_only: true,
            chap: Some(Chap {
                initiator: credentials("node7 correct-horse-7").unwrap(),
                target: credentials("root another-secret"),
            }),
            takeover: None,
            restarts: 3,
            names,
        }
    }

    #[test]
    fn what_is_handed_over_arrives() {
        assert_eq!(Config::parse(&config().emit()), Ok(config()));
    }

    #[test]
    fn a_cut_or_foreign_text_is_refused() {
        let text = config().emit();
        for length in 0..text.len() - 1 {
            assert!(Config::parse(&text[..length]).is_err(), "cut after {length} bytes");
        }
        assert!(Config::parse("portal nonsense\nend\n").is_err());
    }
}
