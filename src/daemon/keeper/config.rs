//! What the agent hands over to the keeper: one `key value` line each, over an inherited socket.

use std::fmt::Write;
use std::io::{BufRead, Read};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use crate::net::link::{Address, Route};
use crate::net::setting::Setting;
use crate::proto::dhcp::Lease;

/// Everything the keeper needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Hardware address of the link.
    pub mac: [u8; 6],
    /// What the link looks like now, and has to go on looking like.
    pub setting: Setting,
    /// Where the setting comes from, if it was a DHCP server.
    pub grant: Option<Grant>,
    /// Name servers that somebody has named; they come before those of the lease.
    pub name_servers: Vec<IpAddr>,
}

/// The message with which a server has granted a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The payload of its UDP datagram.
    pub message: Vec<u8>,
    /// When it came.
    pub at: Instant,
}

/// Most bytes of a configuration: a DHCP message, twice as long in hexadecimal digits, and a
/// hundred routes.
const TEXT_BYTES_MAX: u64 = 32 * 1024;

/// What a lease makes of a link.
pub fn setting(link_index: u32, lease: &Lease) -> Setting {
    let address = Address {
        link_index,
        address: lease.address,
        prefix_len: lease.prefix_len,
        broadcast: lease.broadcast,
    };
    let mut routes: Vec<_> = lease.routes.iter().collect();
    routes.sort_by_key(|route| !route.router.is_unspecified());
    let routes = routes.into_iter().map(|route| Route {
        link_index,
        destination: route.destination,
        prefix_len: route.prefix_len,
        router: Some(route.router).filter(|router| !router.is_unspecified()),
        source: None,
        metric: None,
    });
    Setting { address, routes: routes.collect() }
}

impl Config {
    /// The lines; a line `end` is the last, so that a cut is seen.
    pub(super) fn emit(&self, now: Instant) -> String {
        let mut text = String::new();
        let mut line = |key: &str, value: &dyn std::fmt::Display| {
            writeln!(text, "{key} {value}").expect("writing to memory");
        };
        let Setting { address, routes } = &self.setting;
        line("link", &address.link_index);
        line("mac", &hex(&self.mac));
        let Address { address, prefix_len, broadcast, .. } = address;
        line("address", &format_args!("{address} {prefix_len} {broadcast}"));
        for Route { destination, prefix_len, router, .. } in routes {
            let router = router.unwrap_or(Ipv4Addr::UNSPECIFIED);
            line("route", &format_args!("{destination} {prefix_len} {router}"));
        }
        for server in &self.name_servers {
            line("name-server", server);
        }
        if let Some(Grant { message, at }) = &self.grant {
            let age = now.saturating_duration_since(*at).as_millis();
            line("grant", &format_args!("{age} {}", hex(message)));
        }
        text.push_str("end\n");
        text
    }

    /// Reads the lines that come first on a stream; the error names the line that cannot be read.
    pub(super) fn receive(lines: &mut impl BufRead, now: Instant) -> Result<Config, String> {
        let mut parts = Parts::default();
        for line in lines.take(TEXT_BYTES_MAX).lines() {
            let line = line.map_err(|error| format!("keeper configuration: {error}"))?;
            let (key, value) = line.split_once(' ').unwrap_or((&line, ""));
            if key == "end" {
                return parts.whole().ok_or("keeper configuration: it is not complete".into());
            }
            parts
                .take(key, value, now)
                .ok_or_else(|| format!("keeper configuration: cannot read the line \"{key}\""))?;
        }
        Err("keeper configuration: it is cut".into())
    }
}

/// A configuration that is being read.
#[derive(Default)]
struct Parts {
    link_index: Option<u32>,
    mac: Option<[u8; 6]>,
    address: Option<(Ipv4Addr, u8, Ipv4Addr)>,
    routes: Vec<(Ipv4Addr, u8, Ipv4Addr)>,
    name_servers: Vec<IpAddr>,
    grant: Option<Grant>,
}

impl Parts {
    fn take(&mut self, key: &str, value: &str, now: Instant) -> Option<()> {
        match key {
            "link" => self.link_index = Some(value.parse().ok()?),
            "mac" => self.mac = Some(unhex(value)?.try_into().ok()?),
            "address" => self.address = Some(triple(value)?),
            "route" => self.routes.push(triple(value)?),
            "name-server" => self.name_servers.push(value.parse().ok()?),
            "grant" => {
                let (age, message) = value.split_once(' ')?;
                let at = now.checked_sub(Duration::from_millis(age.parse().ok()?))?;
                self.grant = Some(Grant { message: unhex(message)?, at });
            }
            _ => return None,
        }
        Some(())
    }

    fn whole(self) -> Option<Config> {
        let link_index = self.link_index?;
        let (address, prefix_len, broadcast) = self.address?;
        let route = |(destination, prefix_len, router): (_, _, Ipv4Addr)| Route {
            link_index,
            destination,
            prefix_len,
            router: Some(router).filter(|router| !router.is_unspecified()),
            source: None,
            metric: None,
        };
        Some(Config {
            mac: self.mac?,
            setting: Setting {
                address: Address { link_index, address, prefix_len, broadcast },
                routes: self.routes.into_iter().map(route).collect(),
            },
            grant: self.grant,
            name_servers: self.name_servers,
        })
    }
}

/// Address, prefix length, address.
fn triple(text: &str) -> Option<(Ipv4Addr, u8, Ipv4Addr)> {
    let mut words = text.split(' ');
    let mut next = || words.next();
    let triple = (next()?.parse().ok()?, next()?.parse().ok()?, next()?.parse().ok()?);
    (triple.1 <= 32 && next().is_none()).then_some(triple)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    pairs.iter().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(now: Instant) -> Config {
        let route = |destination: [u8; 4], prefix_len, router: Option<[u8; 4]>| Route {
            link_index: 7,
            destination: destination.into(),
            prefix_len,
            router: router.map(Ipv4Addr::from),
            source: None,
            metric: None,
        };
        Config {
            mac: [2, 0, 0, 0, 0xab, 1],
            setting: Setting {
                address: Address {
                    link_index: 7,
                    address: [192, 0, 2, 7].into(),
                    prefix_len: 26,
                    broadcast: [192, 0, 2, 63].into(),
                },
                routes: vec![
                    route([198, 51, 100, 0], 24, None),
                    route([0; 4], 0, Some([192, 0, 2, 1])),
                ],
            },
            grant: Some(Grant { message: vec![2, 0xff, 0], at: now - Duration::from_millis(1234) }),
            name_servers: vec!["2001:db8::53".parse().unwrap(), [192, 0, 2, 53].into()],
        }
    }

    #[test]
    fn it_arrives_as_it_was_sent() {
        let now = Instant::now() + Duration::from_secs(10);
        let static_one = Config { grant: None, name_servers: Vec::new(), ..config(now) };
        for config in [config(now), static_one] {
            let text = config.emit(now);
            assert_eq!(Config::receive(&mut text.as_bytes(), now), Ok(config));
        }
    }

    #[test]
    fn what_is_cut_or_damaged_is_refused() {
        let now = Instant::now() + Duration::from_secs(10);
        let text = config(now).emit(now);
        let cut = text.strip_suffix("end\n").unwrap();
        let read = |text: &str| Config::receive(&mut text.as_bytes(), now).unwrap_err();
        assert!(read(cut).contains("cut"));
        assert!(read(&text.replace("192.0.2.7 26 ", "192.0.2.7 33 ")).contains("\"address\""));
        assert!(read(&text.replace("grant 1234 02", "grant 1234 0")).contains("\"grant\""));
        assert!(read("link 7\nend\n").contains("not complete"));
        assert!(read("colour blue\nend\n").contains("\"colour\""));
    }
}
