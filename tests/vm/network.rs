//! Boots of machines whose system has a network manager of its own.

use crate::lab::{Machine, Network, Scratch, TARGET_NAME, Target, lab};
use crate::{check_root, root_path};

/// systemd-networkd, which would ask DHCP for another address by another client id, is restarted
/// twenty times under load, and the lease is renewed meanwhile: by us, and by nobody else.
#[test]
#[ignore = "boots a virtual machine"]
fn systemd_networkd_comes_and_goes_and_the_lease_is_renewed_by_one() {
    let scratch = Scratch::new("networkd");
    let mut network = Network::new("networkd");
    let path = root_path(Network::HOST, 3260, TARGET_NAME);
    let configuration = format!(
        "port=0\nno-ping\ndhcp-range=192.0.2.50,192.0.2.99,2m\n\
         dhcp-option=option:T1,4\ndhcp-option=option:T2,100\n\
         dhcp-option=option:router,192.0.2.1\ndhcp-option=option:root-path,{path}\n"
    );
    network.serve_dhcp(&scratch, &configuration);
    let mut target = Target::new(&scratch, Some(&network), scratch.disk());
    target.start(TARGET_NAME);
    let words = "ip=dhcp root=LABEL=lunboot-root rw vmtest=root,networkd";
    let kernel = &lab().new_kernel;
    let machine = Machine::boot(&scratch, Some(&network), kernel, &lab().image(kernel), words);
    let (machine, _) = machine.finish();
    check_root(&machine, "/dev/ublkb0");
    assert_eq!(machine.fact("networkd", "state"), "routable configured");
    assert_eq!(machine.fact("networkd", "leases"), "0");
    let log = scratch.read("dnsmasq.log");
    let mut addresses: Vec<&str> = log
        .lines()
        .filter_map(|line| line.split("DHCPACK(tap0) ").nth(1)?.split_whitespace().next())
        .collect();
    // The first one, and at least two renewals.
    assert!(addresses.len() >= 3, "{addresses:?}\n{log}");
    addresses.dedup();
    assert_eq!(addresses.len(), 1, "{log}");
    // One client: DISCOVER came from the agent alone, and nobody was refused.
    let discovers = log.matches("DHCPDISCOVER(").count();
    assert!((1..=2).contains(&discovers), "DISCOVER arrived {discovers} times\n{log}");
    assert!(!log.contains("DHCPNAK"), "{log}");
    target.stop();
    scratch.check_disk(0);
}
