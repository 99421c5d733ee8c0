//! Rules for the udev of the booted system, under /run only: the links in /dev/disk that people
//! and other programs find this disk by.
//!
//! Those by what is on the disk are the same for every disk of ours. Those by where it is and by
//! what the target calls it have the names that udev gives to a disk of the kernel's own initiator
//! (systemd, `udev-builtin-path_id.c` and `scsi_id`), so that what was written for one of those
//! goes on working.

use std::fmt::Write;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

/// For every disk: systemd before 253 makes no links to ublk disks, and mounts by UUID would wait
/// for ever.
const CONTENT: &str = include_str!("../../initramfs-hooks/udev/60-lunboot.rules");

/// Where one disk is, and what its target calls it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskNames {
    /// Name of the block device: `ublkb0`.
    pub device: String,
    /// Where the target was first looked for.
    pub portal: SocketAddr,
    /// TargetName.
    pub target: String,
    /// The eight bytes of the LUN, big-endian.
    pub lun: u64,
    /// The designator of the logical unit, if it is one that udev makes names of.
    pub designator: Option<Designator>,
}

/// A name that no other disk of the world has (SPC-4 §7.8.6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Designator {
    /// NAA, 8 or 16 bytes.
    Naa(Box<[u8]>),
    /// EUI-64, 8 to 16 bytes.
    Eui64(Box<[u8]>),
}

/// Writes the rules into `directory`, which is /run/udev/rules.d but in tests.
pub fn write(directory: &Path, names: &DiskNames) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    fs::write(directory.join("60-lunboot.rules"), CONTENT)?;
    fs::write(directory.join(format!("61-lunboot-{}.rules", names.device)), names.rules())
}

impl DiskNames {
    fn rules(&self) -> String {
        let mut text = String::from(
            "# Links to one disk, by where it is and by what its target calls it. By lunboot.\n\n",
        );
        let path = self.path();
        let id = self.id();
        let device = &self.device;
        let mut rule = |kernel: &str, suffix: &str| {
            let _ = write!(text, "SUBSYSTEM==\"block\", KERNEL==\"{kernel}\"");
            if let Some(path) = &path {
                let _ = write!(text, ", ENV{{ID_PATH}}=\"{path}\"");
                let _ = write!(text, ", SYMLINK+=\"disk/by-path/{path}{suffix}\"");
            }
            if let Some((serial, wwn)) = &id {
                let _ = write!(text, ", ENV{{ID_SERIAL}}=\"{serial}\"");
                let _ = write!(text, ", SYMLINK+=\"disk/by-id/scsi-{serial}{suffix}\"");
                if let Some(wwn) = wwn {
                    let _ = write!(text, ", ENV{{ID_WWN_WITH_EXTENSION}}=\"{wwn}\"");
                    let _ = write!(text, ", SYMLINK+=\"disk/by-id/wwn-{wwn}{suffix}\"");
                }
            }
            text.push('\n');
        };
        rule(device, "");
        rule(&format!("{device}p[0-9]*"), "-part%n");
        text
    }

    /// The name by where it is; none if the target's has letters that a rule cannot have.
    fn path(&self) -> Option<String> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
        let (address, port) = (self.portal.ip(), self.portal.port());
        let lun = match self.lun.to_be_bytes() {
            [0, number, 0, 0, 0, 0, 0, 0] => number.to_string(),
            _ => format!("0x{:016x}", self.lun),
        };
        self.target
            .bytes()
            .all(is_plain)
            .then(|| format!("ip-{address}:{port}-iscsi-{}-lun-{lun}", self.target))
    }

    /// What `scsi_id` would say, and the world wide name if it is one.
    fn id(&self) -> Option<(String, Option<String>)> {
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        match self.designator.as_ref()? {
            Designator::Naa(bytes) => {
                let hex = hex(bytes);
                Some((format!("3{hex}"), Some(format!("0x{hex}"))))
            }
            Designator::Eui64(bytes) => Some((format!("2{}", hex(bytes)), None)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> DiskNames {
        DiskNames {
            device: "ublkb0".into(),
            portal: "192.0.2.1:3260".parse().unwrap(),
            target: "iqn.2026-11.example:node7".into(),
            lun: 0x0002_0000_0000_0000,
            designator: Some(Designator::Naa([0x60, 1, 2, 3, 4, 5, 6, 7].into())),
        }
    }

    #[test]
    fn the_links_are_those_of_the_kernels_own_initiator() {
        let rules = names().rules();
        for link in [
            "KERNEL==\"ublkb0\",",
            "\"disk/by-path/ip-192.0.2.1:3260-iscsi-iqn.2026-11.example:node7-lun-2\"",
            "\"disk/by-path/ip-192.0.2.1:3260-iscsi-iqn.2026-11.example:node7-lun-2-part%n\"",
            "\"disk/by-id/scsi-36001020304050607\"",
            "\"disk/by-id/wwn-0x6001020304050607-part%n\"",
        ] {
            assert!(rules.contains(link), "{link}: {rules}");
        }
        let far = DiskNames { lun: 0x412c_0000_0000_0000, ..names() };
        assert!(far.rules().contains("-lun-0x412c000000000000\""));
        let eui = Designator::Eui64([1, 2, 3, 4, 5, 6, 7, 8].into());
        let rules = DiskNames { designator: Some(eui), ..names() }.rules();
        assert!(rules.contains("scsi-20102030405060708\"") && !rules.contains("wwn"), "{rules}");
    }

    #[test]
    fn a_name_that_would_end_the_rule_gives_no_link() {
        for evil in ["iqn.x\", RUN+=\"reboot", "iqn.$env{X}", "iqn.2026-11.example:bücher"] {
            let rules = DiskNames { target: evil.into(), designator: None, ..names() }.rules();
            assert!(!rules.contains("SYMLINK") && !rules.contains(evil), "{rules}");
        }
    }

    #[test]
    fn the_rules_are_written() {
        let directory = tempfile::tempdir().unwrap();
        let rules = directory.path().join("rules.d");
        write(&rules, &names()).unwrap();
        write(&rules, &names()).unwrap();
        assert!(rules.join("60-lunboot.rules").exists());
        assert!(rules.join("61-lunboot-ublkb0.rules").exists());
    }
}
