//! The keeper of the network, as the real program, between a real dnsmasq and a kernel whose
//! network somebody damages.
//!
//! Each test runs itself again in namespaces of its own, with its own /run and its own kernel log.

mod namespaces;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use lunboot::daemon::keeper::{self, Config, Dhcp, Grant};
use lunboot::net::link::Links;
use lunboot::proto::dhcp::{self, DhcpClient, Event};
use namespaces::{Cable, PATIENCE, Server, in_namespace, run, wait_ready};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

const LOG: &str = "/run/kmsg";
const FAR_END: &str = "ip addr add 192.0.2.1/24 dev peer; ip link set peer up";

/// The server asks for renewals as often as a client believes.
const SHORT: &str = "dhcp-option=option:T1,4\ndhcp-option=option:T2,6\n";

#[test]
fn what_is_taken_away_comes_back_and_the_lease_is_renewed() {
    in_namespace("what_is_taken_away_comes_back_and_the_lease_is_renewed", || {
        own_run();
        let mut links = Links::open().unwrap();
        let cable = Cable::new(&mut links, "cable");
        links.set_up(cable.link.index).unwrap();
        let server = Server::start_with(&cable, FAR_END, SHORT);
        let address = keep(&mut links, &cable);
        let read = |name: &str| fs::read_to_string(Path::new("/run").join(name)).unwrap();
        let shown = format!("Address={address}/24\n");
        assert!(read("systemd/network/00-lunboot.network").contains(&shown));
        assert!(read("net-cable.conf").contains(&format!("IPV4ADDR='{address}'\n")));

        let whole = || {
            let addresses = run("ip -4 address show dev cable");
            let routes = run("ip -4 route");
            addresses.contains("UP")
                && addresses.contains(&format!("inet {address}/24 brd 192.0.2.255"))
                && addresses.contains("valid_lft forever")
                && routes.contains("default via 192.0.2.1 dev cable")
                && routes.contains("198.51.100.0/24 via 192.0.2.2 dev cable")
                && routes.lines().any(|line| line.starts_with("192.0.2.0/24 dev cable"))
        };
        until("the network is there", whole);
        let damages = [
            "ip address flush dev cable",
            "ip link set cable down",
            "ip route del default",
            "ip route del 198.51.100.0/24",
            "ip route del 192.0.2.0/24",
            "ip route flush dev cable; ip address flush dev cable; ip link set cable down",
        ];
        let count = || -> u64 {
            let status = status();
            let row = status.lines().find(|line| line.starts_with("put back")).unwrap();
            row.split_whitespace().nth(2).unwrap().parse().unwrap()
        };
        for damage in damages {
            // ip flushes again and again what comes back, may count as several then, and may give
            // up with an error.
            let before = count();
            run(&format!("{damage} || true"));
            until(damage, || count() > before);
            until(damage, whole);
        }
        let log = fs::read_to_string(LOG).unwrap();
        assert!(log.contains(&format!("address {address} taken away by ")), "{log}");
        // The 1st, 2nd, 4th … time is told.
        let told = log.lines().filter(|line| line.ends_with(": put back")).count();
        assert_eq!(told as u32, count().ilog2() + 1, "{log}");

        let renewals = || {
            let log = fs::read_to_string(server.directory.path().join("log")).unwrap();
            log.matches(&format!("DHCPACK(peer) {address}")).count()
        };
        let before = renewals();
        until("the lease is renewed twice", || renewals() >= before + 2);
        let status = status();
        for row in ["lease server    192.0.2.1\n", "lease renewer   lunboot\n"] {
            assert!(status.contains(row), "{row}: {status}");
        }
        assert!(status.contains("lease ends      1"), "{status}");
        let dhcp = server.stop();
        let mac = cable.link.mac.unwrap().map(|byte| format!("{byte:02x}")).join(":");
        let ids = dhcp.lines().filter(|line| line.contains("client-id") || line.contains("tags"));
        assert!(ids.count() > 0, "{dhcp}");
        assert!(!dhcp.contains("DHCPNAK") && dhcp.contains(&mac), "{dhcp}");
    });
}

#[test]
fn another_address_takes_the_place_of_the_old_one() {
    in_namespace("another_address_takes_the_place_of_the_old_one", || {
        own_run();
        let mut links = Links::open().unwrap();
        let cable = Cable::new(&mut links, "cable");
        links.set_up(cable.link.index).unwrap();
        let server = Server::start_with(&cable, FAR_END, SHORT);
        // Of the range 50 to 99.
        let old = keep(&mut links, &cable);
        let mac = cable.link.mac.unwrap().map(|byte| format!("{byte:02x}")).join(":");
        server.assign(&mac, "192.0.2.20");
        let addresses = || run("ip -4 address show dev cable");
        until("the new address is there, and nothing else", || {
            addresses().contains("inet 192.0.2.20/24")
                && !addresses().contains(&format!("inet {old}/"))
        });
        until("its routes are there", || {
            run("ip -4 route").contains("default via 192.0.2.1 dev cable")
        });
        until("it is told", || {
            let file = fs::read_to_string("/run/systemd/network/00-lunboot.network").unwrap();
            let log = fs::read_to_string(LOG).unwrap();
            file.contains("Address=192.0.2.20/24\n")
                && log.contains(&format!("the address has changed from {old} to 192.0.2.20"))
        });
    });
}

/// Takes a lease as the agent does, and starts a keeper for it. Its address.
fn keep(links: &mut Links, cable: &Cable) -> String {
    let link = wait_ready(links, cable.link.index);
    let mac = link.mac.unwrap();
    let config = dhcp::Config {
        mac,
        host_name: Vec::new(),
        vendor_class: b"lunboot".to_vec(),
        root_path_wanted: true,
    };
    let mut dhcp = Dhcp::open(link.index, DhcpClient::new(config, 1)).unwrap();
    dhcp.client.handle_connected(Instant::now());
    let end = Instant::now() + PATIENCE;
    let lease = loop {
        match dhcp.advance(&link.name) {
            Some(Event::Bound(lease)) => break *lease,
            Some(_) => continue,
            None => {}
        }
        let now = Instant::now();
        assert!(now < end, "no lease in {PATIENCE:?}");
        let deadline = dhcp.client.next_deadline().unwrap_or(end);
        let timeout = Timespec::try_from(deadline.saturating_duration_since(now)).unwrap();
        let fd = dhcp.fd();
        poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)).unwrap();
    };
    let grant = Grant { message: dhcp.heard().to_vec(), at: Instant::now() };
    drop(dhcp);
    let setting = keeper::setting(link.index, &lease);
    assert_eq!(setting.put(links).unwrap().len(), 0);
    let config = Config { mac, setting, grant: Some(grant), name_servers: Vec::new() };
    keeper::start(Path::new(env!("CARGO_BIN_EXE_lunboot")), &config).unwrap();
    lease.address.to_string()
}

fn status() -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_lunboot")).arg("status").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A /run and a kernel log of our own.
fn own_run() {
    run("mount -t tmpfs run /run; touch /run/kmsg; mount --bind /run/kmsg /dev/kmsg");
}

/// Asks again and again: what others have to do, nobody tells us when it is done.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(
            Instant::now() < end,
            "not in {PATIENCE:?}: {what}\n{}{}{}",
            run("ip -4 address; ip -4 route"),
            status(),
            fs::read_to_string(LOG).unwrap_or_default()
        );
    }
}
