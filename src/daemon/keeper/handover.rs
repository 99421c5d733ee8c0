//! Files under /run that tell the network managers of the system what the link of the root disk
//! looks like, and to keep their hands off: systemd-networkd, NetworkManager, ifupdown, and whoever
//! reads what klibc's ipconfig would have left (cloud-init).
//!
//! Nothing outside /run is touched. Texts of a DHCP server end up in the files of other programs,
//! so only what a name may be made of is let through.

use std::fmt::Write;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use crate::net::setting::Setting;
use crate::proto::dhcp::Lease;

/// What there is to tell.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts<'a> {
    /// Name of the link at the moment: it may get another one later, only its MAC stays.
    pub(super) link_name: &'a str,
    pub(super) mac: [u8; 6],
    pub(super) setting: &'a Setting,
    pub(super) lease: Option<&'a Lease>,
    /// Name servers that come before those of the lease.
    pub(super) name_servers: &'a [IpAddr],
}

/// Writes the files below `run`. A file that could not be written is an error text; the others are
/// written all the same.
pub(super) fn write(run: &Path, facts: &Facts<'_>) -> Vec<String> {
    let link = facts.link_name;
    let files = [
        ("systemd/network/00-lunboot.network".into(), facts.networkd()),
        ("systemd/resolved.conf.d/00-lunboot.conf".into(), facts.resolved()),
        ("NetworkManager/conf.d/00-lunboot.conf".into(), facts.network_manager()),
        ("network/ifstate".into(), Some(format!("{link}={link}\n"))),
        (format!("net-{link}.conf"), Some(facts.ipconfig())),
    ];
    let put = |(name, text): (String, Option<String>)| {
        let path = run.join(name);
        let done = match text {
            Some(text) => replace(&path, &text),
            None => Ok(()),
        };
        done.err().map(|error| format!("{}: {error}", path.display()))
    };
    files.into_iter().filter_map(put).collect()
}

/// Whoever reads it meanwhile sees the old file or the new one.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let new = path.with_extension("lunboot-new");
    fs::write(&new, text)?;
    fs::rename(&new, path)
}

const HEAD: &str = "# Written by lunboot at boot. The root disk is reached through this link;\n\
                    # lunboot renews its lease and keeps address and routes as they are.\n";

impl Facts<'_> {
    /// The link is configured as it is, so that it counts as online, and nothing is dropped when
    /// networkd stops. The match is for the device itself and nothing that stands on it.
    fn networkd(&self) -> Option<String> {
        let Setting { address, routes } = self.setting;
        let mut text = format!(
            "{HEAD}[Match]\nMACAddress={}\nType=ether\n\n\
             [Network]\nDHCP=no\nKeepConfiguration=yes\nConfigureWithoutCarrier=yes\n\
             IgnoreCarrierLoss=yes\nAddress={}/{}\n",
            self.shown_mac(),
            address.address,
            address.prefix_len
        );
        for server in self.lease.iter().flat_map(|lease| &lease.options.ntp_servers) {
            let _ = writeln!(text, "NTP={server}");
        }
        for route in routes {
            let _ = write!(text, "\n[Route]\nDestination={}/", route.destination);
            let _ = writeln!(text, "{}", route.prefix_len);
            let _ = match route.router {
                Some(router) => writeln!(text, "Gateway={router}\nGatewayOnLink=yes"),
                None => writeln!(text, "Scope=link"),
            };
        }
        Some(text)
    }

    /// Not in networkd's file: systemd-resolved also serves the others.
    fn resolved(&self) -> Option<String> {
        let servers = self.shown_name_servers(" ");
        if servers.is_empty() {
            return None;
        }
        let mut text = format!("{HEAD}[Resolve]\nDNS={servers}\n");
        let search = self.search_list().join(" ");
        if !search.is_empty() {
            let _ = writeln!(text, "Domains={search}");
        }
        Some(text)
    }

    /// NetworkManager leaves the link alone. As it does not hear of our name servers through the
    /// link then, it is told apart.
    fn network_manager(&self) -> Option<String> {
        let mac = self.shown_mac();
        let mut text = format!("{HEAD}[device-lunboot]\nmatch-device=mac:{mac}\nmanaged=0\n");
        let servers = self.shown_name_servers(",");
        if !servers.is_empty() {
            let search = self.search_list().join(",");
            if !search.is_empty() {
                let _ = write!(text, "\n[global-dns]\nsearches={search}\n");
            }
            let _ = write!(text, "\n[global-dns-domain-*]\nservers={servers}\n");
        }
        Some(text)
    }

    /// The file of klibc's ipconfig, a part of a shell script.
    fn ipconfig(&self) -> String {
        let Setting { address, routes } = self.setting;
        let options = self.lease.map(|lease| &lease.options);
        let name = |bytes: Option<&Vec<u8>>| bytes.and_then(|b| clean_name(b)).unwrap_or_default();
        let router = routes.iter().find(|route| route.prefix_len == 0).and_then(|r| r.router);
        let mask = Ipv4Addr::from_bits(
            u32::MAX.checked_shl(32 - u32::from(address.prefix_len)).unwrap_or(0),
        );
        let servers: Vec<String> = self.all_name_servers().map(|s| s.to_string()).collect();
        let server = |at: usize| servers.get(at).cloned().unwrap_or_else(|| "0.0.0.0".into());
        let seconds = self.lease.and_then(|lease| lease.duration).map(|time| time.as_secs());
        let lines = [
            ("DEVICE", self.link_name.to_owned()),
            ("PROTO", if self.lease.is_some() { "dhcp" } else { "none" }.into()),
            ("IPV4ADDR", address.address.to_string()),
            ("IPV4BROADCAST", address.broadcast.to_string()),
            ("IPV4NETMASK", mask.to_string()),
            ("IPV4GATEWAY", router.unwrap_or(Ipv4Addr::UNSPECIFIED).to_string()),
            ("IPV4DNS0", server(0)),
            ("IPV4DNS1", server(1)),
            ("HOSTNAME", name(options.map(|options| &options.host_name))),
            ("DNSDOMAIN", name(options.map(|options| &options.domain_name))),
            ("NISDOMAIN", String::new()),
            ("ROOTSERVER", self.lease.map_or("0.0.0.0".into(), |lease| lease.server.to_string())),
            ("ROOTPATH", String::new()),
            ("filename", String::new()),
            ("DHCPLEASETIME", seconds.map(|seconds| seconds.to_string()).unwrap_or_default()),
            ("DOMAINSEARCH", self.search_list().join(" ")),
        ];
        lines.iter().map(|(key, value)| format!("{key}='{value}'\n")).collect()
    }

    fn shown_mac(&self) -> String {
        self.mac.map(|byte| format!("{byte:02x}")).join(":")
    }

    fn all_name_servers(&self) -> impl Iterator<Item = IpAddr> {
        let leased = self.lease.into_iter().flat_map(|lease| &lease.options.name_servers);
        self.name_servers.iter().copied().chain(leased.map(|server| IpAddr::from(*server)))
    }

    fn shown_name_servers(&self, separator: &str) -> String {
        let servers: Vec<String> = self.all_name_servers().map(|s| s.to_string()).collect();
        servers.join(separator)
    }

    /// The search list, or else the domain.
    fn search_list(&self) -> Vec<String> {
        let Some(options) = self.lease.map(|lease| &lease.options) else { return Vec::new() };
        let listed = options.domain_search.iter().filter_map(|name| clean_name(name.as_bytes()));
        let listed: Vec<String> = listed.collect();
        if listed.is_empty() {
            return clean_name(&options.domain_name).into_iter().collect();
        }
        listed
    }
}

/// A host or domain name, or nothing if it is none: no byte that means anything to a shell or to a
/// configuration file is let through.
pub fn clean_name(bytes: &[u8]) -> Option<String> {
    const NAME_BYTES_MAX: usize = 253;
    let is_fine = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._".contains(byte);
    let fine = (1..=NAME_BYTES_MAX).contains(&bytes.len()) && bytes.iter().all(is_fine);
    fine.then(|| String::from_utf8_lossy(bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::daemon::keeper::setting;
    use crate::wire::dhcp::{Options, Route};

    fn lease() -> Lease {
        Lease {
            address: [192, 0, 2, 7].into(),
            prefix_len: 26,
            broadcast: [192, 0, 2, 63].into(),
            routes: vec![
                Route::new(Ipv4Addr::UNSPECIFIED, 0, [192, 0, 2, 1].into()),
                Route::new([198, 51, 100, 0].into(), 24, Ipv4Addr::UNSPECIFIED),
            ],
            server: [192, 0, 2, 1].into(),
            duration: Some(Duration::from_secs(120)),
            options: Options {
                name_servers: vec![[192, 0, 2, 53].into(), [192, 0, 2, 54].into()],
                ntp_servers: vec![[192, 0, 2, 123].into()],
                host_name: b"node7".to_vec(),
                domain_name: b"example.com".to_vec(),
                domain_search: vec!["rack.example.com".into(), "example.com".into()],
                ..Options::default()
            },
        }
    }

    fn written(lease: Option<&Lease>, name_servers: &[IpAddr]) -> impl Fn(&str) -> String + use<> {
        let run = tempfile::tempdir().unwrap();
        let setting = setting(2, &self::lease());
        let mac = [2, 0, 0, 0, 0xab, 1];
        let facts = Facts { link_name: "eth0", mac, setting: &setting, lease, name_servers };
        for _ in 0..2 {
            assert_eq!(write(run.path(), &facts), Vec::<String>::new());
        }
        move |name| fs::read_to_string(run.path().join(name)).unwrap_or_default()
    }

    #[test]
    fn every_manager_is_told() {
        let lease = lease();
        let read = written(Some(&lease), &[]);
        let networkd = read("systemd/network/00-lunboot.network");
        for line in [
            "MACAddress=02:00:00:00:ab:01\n",
            "DHCP=no\n",
            "KeepConfiguration=yes\n",
            "Address=192.0.2.7/26\n",
            "NTP=192.0.2.123\n",
            "[Route]\nDestination=0.0.0.0/0\nGateway=192.0.2.1\nGatewayOnLink=yes\n",
            "[Route]\nDestination=198.51.100.0/24\nScope=link\n",
        ] {
            assert!(networkd.contains(line), "{line}: {networkd}");
        }
        let resolved = read("systemd/resolved.conf.d/00-lunboot.conf");
        let dns = "DNS=192.0.2.53 192.0.2.54\nDomains=rack.example.com example.com\n";
        assert!(resolved.contains(dns), "{resolved}");
        let manager = read("NetworkManager/conf.d/00-lunboot.conf");
        assert!(manager.contains("match-device=mac:02:00:00:00:ab:01\nmanaged=0\n"), "{manager}");
        assert!(manager.contains("servers=192.0.2.53,192.0.2.54\n"), "{manager}");
        assert_eq!(read("network/ifstate"), "eth0=eth0\n");
        let ipconfig = read("net-eth0.conf");
        for line in [
            "DEVICE='eth0'\nPROTO='dhcp'\nIPV4ADDR='192.0.2.7'\n",
            "IPV4NETMASK='255.255.255.192'\nIPV4GATEWAY='192.0.2.1'\n",
            "HOSTNAME='node7'\nDNSDOMAIN='example.com'\n",
            "DHCPLEASETIME='120'\nDOMAINSEARCH='rack.example.com example.com'\n",
        ] {
            assert!(ipconfig.contains(line), "{line}: {ipconfig}");
        }
    }

    #[test]
    fn a_static_address_has_no_more_than_what_was_given() {
        let server: IpAddr = "2001:db8::53".parse().unwrap();
        let read = written(None, &[server]);
        assert!(read("net-eth0.conf").contains("PROTO='none'\n"));
        assert!(read("systemd/resolved.conf.d/00-lunboot.conf").contains("DNS=2001:db8::53\n"));
        let read = written(None, &[]);
        assert_eq!(read("systemd/resolved.conf.d/00-lunboot.conf"), "");
        assert!(!read("NetworkManager/conf.d/00-lunboot.conf").contains("dns"));
    }

    #[test]
    fn a_server_cannot_write_into_the_files_of_others() {
        let mut evil = lease();
        evil.options.host_name = b"x'; reboot #".to_vec();
        evil.options.domain_name = b"example.com\nDNS=203.0.113.1".to_vec();
        evil.options.domain_search = vec!["a\nb".into(), "fine.example".into()];
        let read = written(Some(&evil), &[]);
        let ipconfig = read("net-eth0.conf");
        assert!(ipconfig.contains("HOSTNAME=''\nDNSDOMAIN=''\n"), "{ipconfig}");
        assert!(ipconfig.contains("DOMAINSEARCH='fine.example'\n"), "{ipconfig}");
        assert!(!read("systemd/resolved.conf.d/00-lunboot.conf").contains("203.0.113.1"));
    }
}
