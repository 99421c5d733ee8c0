//! What the resolver of the C library is to ask, in an initramfs that has no file for it.

use std::fs;
use std::io;

use log::warn;

use crate::boot::cmdline::BootConfig;
use crate::proto::dhcp::Lease;

/// The resolver of the C library reads this file; without name servers there is nothing to write.
pub(super) fn write(config: &BootConfig, lease: Option<&Lease>) {
    let leased = lease.into_iter().flat_map(|lease| &lease.options.name_servers);
    let given = config.ip.iter().flat_map(|ip| &ip.nameservers).chain(&config.nameservers);
    let text: String = given
        .map(ToString::to_string)
        .chain(leased.map(ToString::to_string))
        .map(|server| format!("nameserver {server}\n"))
        .collect();
    if text.is_empty() {
        return;
    }
    let write = || -> io::Result<()> {
        fs::create_dir_all("/etc")?;
        fs::write("/etc/resolv.conf", &text)
    };
    if let Err(error) = write() {
        warn!("/etc/resolv.conf: {error}: the server can only be named by its address");
    }
}
