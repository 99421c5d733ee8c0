//! Our DHCP client, sockets and link configuration against a real dnsmasq and a real kernel.
//!
//! Each test runs itself again in a network namespace of its own.

mod namespaces;

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use lunboot::net::link::{Address, Event as LinkEvent, Link, Links, Route};
use lunboot::net::udp::Port;
use lunboot::proto::dhcp::{Config, DhcpClient, Event, Lease, Transmit};
use lunboot::wire::dhcp::{CLIENT_PORT, SERVER_PORT};
use namespaces::{
    Cable, Namespace, PATIENCE, ROOT_PATH, Server, in_namespace, run, wait_event, wait_ready,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

#[test]
fn a_lease_is_taken_used_renewed_and_given_back() {
    in_namespace("a_lease_is_taken_used_renewed_and_given_back", || {
        let mut links = Links::open().unwrap();
        // Both links have carrier, but only one of them a server (R22).
        let silent = Cable::new(&mut links, "silent");
        let cable = Cable::new(&mut links, "cable");
        assert!(cable.link.is_ethernet() && !cable.link.is_ready());
        links.set_up(silent.link.index).unwrap();
        links.set_up(cable.link.index).unwrap();
        let _nobody = Namespace::start(&silent, "ip link set peer up; exec sleep 1000");
        let server =
            Server::start(&cable, "ip addr add 192.0.2.1/24 dev peer; ip link set peer up");
        let mut attempts = [
            Attempt::new(wait_ready(&mut links, silent.link.index)),
            Attempt::new(wait_ready(&mut links, cable.link.index)),
        ];

        let began = Instant::now();
        let (winner, lease) = first_lease(&mut attempts);
        println!("lease after {:?}", began.elapsed());
        assert_eq!(winner, 1);
        // A second or less on an idle machine; the server may start later than we ask.
        assert!(began.elapsed() < Duration::from_secs(10), "no wait for the silent link");
        check_lease(&lease);
        let [_, Attempt { link, port, client }] = &mut attempts;

        configure(&mut links, link, &lease);
        port.use_address().unwrap();

        // Renewal is by unicast to the server, over the address that was just set.
        let renewal = at_deadline(client);
        assert_eq!((renewal.source, renewal.destination), (lease.address, SERVER));
        assert_eq!(renewed(port, client, renewal).address, lease.address);

        // The server is silent until T2; then the request is broadcast.
        let rebinding = loop {
            let transmit = at_deadline(client);
            if transmit.destination.is_broadcast() {
                break transmit;
            }
        };
        assert_eq!(rebinding.source, lease.address);
        assert_eq!(renewed(port, client, rebinding).address, lease.address);

        let stored = fs::read_to_string(server.directory.path().join("leases")).unwrap();
        let mac = hex(&link.mac.unwrap());
        assert!(stored.contains(&format!("{mac} {} node7 01:{mac}", lease.address)), "{stored}");

        client.release();
        transmit_all(port, client);
        // An answer to anything later shows that the release has been read.
        client.handle_disconnected();
        client.handle_connected(Instant::now());
        transmit_all(port, client);
        first_lease(std::slice::from_mut(&mut attempts[1]));
        let log = server.stop();
        assert!(log.contains("DHCPRELEASE(peer)"), "{log}");
    });
}

#[test]
fn a_switch_that_keeps_its_port_shut_is_waited_for() {
    in_namespace("a_switch_that_keeps_its_port_shut_is_waited_for", || {
        let mut links = Links::open().unwrap();
        let cable = Cable::new(&mut links, "cable");
        links.set_up(cable.link.index).unwrap();
        // A bridge with spanning tree listens and learns for twice its forward delay, whose
        // smallest value is 2 s, before it lets anything through (R23).
        let bridge = "ip link add switch type bridge stp_state 1 forward_delay 200;
            ip addr add 192.0.2.1/24 dev switch; ip link set peer master switch;
            ip link set switch up; ip link set peer up";
        let _server = Server::start(&cable, bridge);
        let mut attempt = [Attempt::new(wait_ready(&mut links, cable.link.index))];
        let began = Instant::now();
        let (_, lease) = first_lease(&mut attempt);
        println!("lease after {:?}", began.elapsed());
        check_lease(&lease);
        assert!(began.elapsed() > Duration::from_secs(3), "the port was not shut at all");
        assert!(began.elapsed() < Duration::from_secs(15), "soon after the port has opened");
    });
}

#[test]
fn a_port_hears_what_is_for_it_and_nothing_else() {
    in_namespace("a_port_hears_what_is_for_it_and_nothing_else", || {
        let mut links = Links::open().unwrap();
        let cable = Cable::new(&mut links, "cable");
        let listed = links.list().unwrap();
        let far = listed.iter().find(|link| link.name == "cable-peer").unwrap();
        links.set_up(cable.link.index).unwrap();
        links.set_up(far.index).unwrap();
        wait_ready(&mut links, cable.link.index);
        wait_ready(&mut links, far.index);
        let mut near = Port::open(cable.link.index, CLIENT_PORT).unwrap();
        let mut far = Port::open(far.index, SERVER_PORT).unwrap();
        // An address that nobody has, as in an offer.
        let client = Ipv4Addr::new(192, 0, 2, 50);
        near.send(client, SocketAddrV4::new(client, CLIENT_PORT), b"our own").unwrap();
        far.send(SERVER, SocketAddrV4::new(client, CLIENT_PORT + 1), b"another port").unwrap();
        far.send(SERVER, SocketAddrV4::new(client, CLIENT_PORT), b"first").unwrap();
        far.send(SERVER, SocketAddrV4::new(client, CLIENT_PORT), &[7; 1400]).unwrap();
        assert_eq!(next_datagram(&mut near), b"first");
        assert_eq!(next_datagram(&mut near), [7; 1400]);
        assert_eq!(near.recv().unwrap(), None);
        links.set_down(cable.link.index).unwrap();
        assert_eq!(near.recv().unwrap(), None, "a link that is down is not an error");
    });
}

#[test]
fn links_that_come_and_go_are_told() {
    in_namespace("links_that_come_and_go_are_told", || {
        let mut links = Links::open().unwrap();
        assert_eq!(links.poll_event().unwrap(), None);
        let cable = Cable::new(&mut links, "late");
        let index = cable.link.index;
        assert!(links.list().unwrap().iter().any(|link| link.index == index));
        let route = Route {
            link_index: index,
            destination: Ipv4Addr::UNSPECIFIED,
            prefix_len: 0,
            router: Some(SERVER),
            source: None,
            metric: None,
        };
        // The link is down. The kernel says so in words.
        let error = links.add_route(&route).unwrap_err().to_string();
        println!("{error}");
        let number = "add route to 0.0.0.0/0 by 192.0.2.1 on link ";
        assert!(error.starts_with(number), "{error}");
        assert!(error.contains("device is not up") || error.contains("down"), "{error}");
        run("ip link del late");
        wait_event(&mut links, |event| {
            matches!(event, LinkEvent::Gone(link) if link.index == index).then_some(())
        });
    });
}

/// One link and the client on it, as the agent has them.
struct Attempt {
    link: Link,
    port: Port,
    client: DhcpClient,
}

impl Attempt {
    fn new(link: Link) -> Attempt {
        let port = Port::open(link.index, CLIENT_PORT).unwrap();
        let config = Config {
            mac: link.mac.unwrap(),
            host_name: b"node7".to_vec(),
            vendor_class: b"lunboot".to_vec(),
            root_path_wanted: true,
        };
        let mut client = DhcpClient::new(config, u64::from(link.index));
        client.handle_connected(Instant::now());
        Attempt { link, port, client }
    }
}

/// Runs all clients until one of them has a lease: one input, drain every output, sleep.
fn first_lease(attempts: &mut [Attempt]) -> (usize, Lease) {
    let end = Instant::now() + PATIENCE;
    loop {
        for (index, Attempt { port, client, .. }) in attempts.iter_mut().enumerate() {
            while let Some(message) = port.recv().unwrap() {
                client.handle_message(&message, Instant::now()).unwrap();
            }
            client.handle_timeout(Instant::now());
            transmit_all(port, client);
            match client.poll_event() {
                Some(Event::Bound(lease)) => return (index, *lease),
                Some(other) => println!("{other:?}"),
                None => {}
            }
        }
        assert!(Instant::now() < end, "no lease in {PATIENCE:?}");
        let deadline = attempts.iter().filter_map(|a| a.client.next_deadline()).min();
        wait(attempts.iter().map(|attempt| &attempt.port), deadline.unwrap_or(end).min(end));
    }
}

fn transmit_all(port: &mut Port, client: &mut DhcpClient) {
    while let Some(Transmit { source, destination, payload }) = client.poll_transmit() {
        port.send(source, SocketAddrV4::new(destination, SERVER_PORT), &payload).unwrap();
    }
}

fn next_datagram(port: &mut Port) -> Vec<u8> {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(datagram) = port.recv().unwrap() {
            return datagram;
        }
        assert!(Instant::now() < end, "no datagram in {PATIENCE:?}");
        wait(std::iter::once(&*port), end);
    }
}

fn wait<'p>(ports: impl Iterator<Item = &'p Port>, until: Instant) {
    let left = until.saturating_duration_since(Instant::now());
    let fds: Vec<_> = ports.map(Port::fd).collect();
    let mut polled: Vec<_> = fds.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
    poll(&mut polled, Some(&Timespec::try_from(left).unwrap())).unwrap();
}

/// Lets the client believe that its next deadline has come; returns what it says.
fn at_deadline(client: &mut DhcpClient) -> Transmit {
    client.handle_timeout(client.next_deadline().expect("the lease has an end"));
    assert_eq!(client.poll_event(), None);
    client.poll_transmit().expect("a request for more time")
}

/// Sends a request for more time and waits for the server to grant it.
fn renewed(port: &mut Port, client: &mut DhcpClient, transmit: Transmit) -> Lease {
    let destination = SocketAddrV4::new(transmit.destination, SERVER_PORT);
    port.send(transmit.source, destination, &transmit.payload).unwrap();
    loop {
        let message = next_datagram(port);
        client.handle_message(&message, Instant::now()).unwrap();
        match client.poll_event() {
            Some(Event::Renewed(lease)) => return *lease,
            other => println!("{other:?}"),
        }
    }
}

fn check_lease(lease: &Lease) {
    let Lease { address, prefix_len, broadcast, routes, server, duration, options } = lease;
    assert!((50..=99).contains(&address.octets()[3]), "{address}");
    assert_eq!((*prefix_len, *broadcast), (24, Ipv4Addr::new(192, 0, 2, 255)));
    assert_eq!((*server, *duration), (SERVER, Some(Duration::from_secs(120))));
    let routes: Vec<_> = routes.iter().map(|r| (r.destination, r.prefix_len, r.router)).collect();
    let expected = [
        (Ipv4Addr::new(198, 51, 100, 0), 24, Ipv4Addr::new(192, 0, 2, 2)),
        (Ipv4Addr::UNSPECIFIED, 0, SERVER),
    ];
    assert_eq!(routes, expected, "classless routes, not the router 192.0.2.9");
    assert_eq!(options.root_path, ROOT_PATH.as_bytes());
    assert_eq!(options.initiator_name, b"iqn.2004-10.example:node7");
    assert_eq!(options.interface_mtu, Some(1400));
    assert_eq!(options.name_servers, [Ipv4Addr::new(192, 0, 2, 53)]);
    assert_eq!(options.domain_search, ["example.com", "rack.example.com"]);
    assert_eq!(options.rejected, []);
}

/// Gives the lease to the kernel, and asks the kernel what it has understood.
fn configure(links: &mut Links, link: &Link, lease: &Lease) {
    let link_index = link.index;
    links.set_mtu(link_index, lease.options.interface_mtu.unwrap().into()).unwrap();
    let Lease { address, prefix_len, broadcast, .. } = *lease;
    let address = Address { link_index, address, prefix_len, broadcast };
    links.add_address(&address).unwrap();
    links.add_address(&address).expect("twice is harmless");
    for route in &lease.routes {
        let router = (!route.router.is_unspecified()).then_some(route.router);
        let (destination, prefix_len) = (route.destination, route.prefix_len);
        let route =
            Route { link_index, destination, prefix_len, router, source: None, metric: None };
        links.add_route(&route).unwrap();
    }
    let shown = run(&format!("ip -4 address show dev {}", link.name));
    assert!(shown.contains("mtu 1400"), "{shown}");
    let expected =
        format!("inet {}/24 brd 192.0.2.255 scope global {}", address.address, link.name);
    assert!(shown.contains(&expected), "{shown}");
    assert!(shown.contains("valid_lft forever"), "{shown}");
    let shown = run("ip -4 route");
    assert!(shown.contains("default via 192.0.2.1 dev cable"), "{shown}");
    assert!(shown.contains("198.51.100.0/24 via 192.0.2.2 dev cable"), "{shown}");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}
