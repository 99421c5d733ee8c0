//! Who this machine is and what it looks for: initiator name, ISID, secrets, the target.
//!
//! The name comes from the hardware, never from the image: two machines that boot from one image
//! must not throw each other out of their sessions, and one machine must have the same name on
//! every boot, so that the target knows its session again.

use std::fs;
use std::path::Path;

use log::warn;

use super::network::Network;
use crate::boot::cmdline::BootConfig;
use crate::proto::chap::Chap;
use crate::secrets;
use crate::wire::pdu::Isid;
use crate::wire::root_path::{Dialect, IscsiName, RootPath};

/// Naming authority of the names that we make ourselves.
const NAME_PREFIX: &str = "iqn.2026-11.io.lunboot:";

/// InitiatorName: argument, DHCP option 203, SMBIOS UUID, MAC address.
pub fn initiator_name(config: &BootConfig, network: Option<&Network>) -> String {
    if let Some(name) = &config.initiator {
        return name.as_str().to_owned();
    }
    let lease = network.and_then(|network| network.lease.as_ref());
    if let Some(lease) = lease
        && !lease.options.initiator_name.is_empty()
    {
        let text = String::from_utf8_lossy(&lease.options.initiator_name);
        match IscsiName::parse(text.trim_end_matches('\0')) {
            Ok(name) => return name.as_str().to_owned(),
            Err(error) => warn!("DHCP option 203: {error}: making a name of our own"),
        }
    }
    let uuid = fs::read_to_string("/sys/class/dmi/id/product_uuid").unwrap_or_default();
    if let Some(uuid) = usable_uuid(&uuid) {
        return format!("{NAME_PREFIX}{uuid}");
    }
    match network.and_then(|network| network.link.mac).or_else(any_mac) {
        Some(mac) => format!("{NAME_PREFIX}{}", mac.map(|byte| format!("{byte:02x}")).concat()),
        None => {
            // Nothing tells this machine from others: at least two of them must not share a name.
            let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
            format!("{NAME_PREFIX}boot-{}", boot.trim())
        }
    }
}

/// A UUID that tells machines apart: some firmware says only zeroes or ones.
fn usable_uuid(text: &str) -> Option<String> {
    let uuid = text.trim().to_ascii_lowercase();
    let digits: Vec<char> = uuid.chars().filter(char::is_ascii_hexdigit).collect();
    let is_one_digit = digits.windows(2).all(|pair| pair[0] == pair[1]);
    (digits.len() == 32 && uuid.len() == 36 && !is_one_digit).then_some(uuid)
}

/// The lowest address of a real network card.
fn any_mac() -> Option<[u8; 6]> {
    let entries = fs::read_dir("/sys/class/net").ok()?.flatten();
    let hardware = entries.filter(|entry| entry.path().join("device").exists());
    let text = hardware.filter_map(|entry| fs::read_to_string(entry.path().join("address")).ok());
    text.filter_map(|text| parse_mac(text.trim())).min()
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

/// ISID of the random kind (RFC 7143 §11.12.5), made from what the session is for: the same on
/// every boot, and different for two LUNs of one machine.
pub fn isid(target: &str, lun: u64) -> Isid {
    // FNV-1a: any spread will do.
    let bytes = target.bytes().chain(lun.to_be_bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let [.., a, b, c] = (hash ^ hash >> 32).to_be_bytes();
    Isid([0x80, a, b, c, 0, 0])
}

/// What we prove ourselves with: the one initiator of a file of secrets.
pub fn chap(path: &Path) -> Result<Chap, String> {
    secrets::read_chap(path).map_err(|error| format!("secrets: {error}"))
}

/// The same from the image that this machine has booted from, if it has secrets.
pub(super) fn chap_of_image() -> Result<Option<Chap>, String> {
    let path = Path::new(secrets::IMAGE_PATH);
    if path.exists() { chap(path).map(Some) } else { Ok(None) }
}

/// The disk to attach: from the command line, else from DHCP option 17.
pub(super) fn root_path(config: &BootConfig, network: &Network) -> Result<RootPath, String> {
    let mut root_path = match (&config.target, &network.lease) {
        (Some(target), _) => target.clone(),
        (None, Some(lease)) => RootPath::parse_bytes(&lease.options.root_path, Dialect::Rfc4173)
            .map_err(|error| format!("DHCP option 17: {error}"))?,
        (None, None) => {
            return Err("no target: the address is static, so add lunboot=iscsi:… to the command \
                        line"
                .into());
        }
    };
    if root_path.server.is_none() {
        // RFC 4173 leaves that to discovery; the server that gave the address is the best guess.
        let server = network.lease.as_ref().map(|lease| lease.server).ok_or(
            "the root path names no server, and there is no DHCP server to take instead: write \
             the address of the target after iscsi:",
        )?;
        root_path.server = Some(crate::wire::root_path::Host::V4(server));
    }
    Ok(root_path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_of_one_digit_tells_nothing() {
        let uuid = "4C4C4544-0039-4A10-8042-B7C04F4E3232\n";
        assert_eq!(usable_uuid(uuid).unwrap(), "4c4c4544-0039-4a10-8042-b7c04f4e3232");
        for useless in [
            "00000000-0000-0000-0000-000000000000",
            "ffffffff-ffff-ffff-ffff-ffffffffffff",
            "Not Settable",
            "",
        ] {
            assert_eq!(usable_uuid(useless), None);
        }
    }

    #[test]
    fn two_units_of_one_target_have_two_sessions() {
        let first = isid("iqn.2026-11.example:root", 0);
        assert_eq!(first, isid("iqn.2026-11.example:root", 0));
        assert_ne!(first, isid("iqn.2026-11.example:root", 1 << 48));
        assert_ne!(first, isid("iqn.2026-11.example:other", 0));
        assert_eq!(first.0[0], 0x80);
    }
}
