//! Finds the device that `root=` means, waiting for it by the kernel's events.
//!
//! Where several devices fit, one on our own disk goes first: a local disk may well be the clone of
//! the LUN. Without `root=` the choice is among our own disk and its partitions only.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::cmdline::Root;
use super::probe::{self, Device};
use super::uevent::{Action, Uevents};

/// There is no such device; its `Display` lists what there is, for a person to compare.
#[derive(Debug)]
pub struct NotFound {
    wanted: String,
    devices: Vec<Device>,
}

/// Looks once. `disk` is the node of our own disk.
pub fn find(root: Option<&Root>, disk: &Path) -> io::Result<Result<Device, NotFound>> {
    let devices = probe::scan()?;
    if let Some(found) = choose(root, disk, &devices) {
        return Ok(Ok(found.clone()));
    }
    if let Some(Root::Path(path)) = root
        && let Ok(metadata) = fs::metadata(path)
        && metadata.file_type().is_block_device()
    {
        // A node that /sys calls otherwise: a link, or one of device mapper.
        let file_system = probe::read_file_system(Path::new(path))?;
        let path = path.into();
        return Ok(Ok(Device { path, bytes: 0, disk: None, partition: None, file_system }));
    }
    let wanted = root.map_or("a root file system".to_owned(), |root| format!("root={root}"));
    Ok(Err(NotFound { wanted, devices }))
}

/// Looks, and looks again whenever a block device has appeared or changed, for at most `patience`.
/// `events` must have been opened before our disk was made.
pub fn wait(
    root: Option<&Root>,
    disk: &Path,
    events: &mut Uevents,
    patience: Duration,
) -> io::Result<Result<Device, NotFound>> {
    let deadline = Instant::now() + patience;
    loop {
        let not_found = match find(root, disk)? {
            Ok(device) => return Ok(Ok(device)),
            Err(not_found) => not_found,
        };
        let mut is_news = false;
        while !is_news {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Err(not_found));
            }
            events.wait(Some(left))?;
            while let Some(event) = events.poll_event()? {
                is_news |= event.subsystem == "block" || event.action == Action::Lost;
            }
        }
    }
}

/// The device that is meant, among those that are there.
fn choose<'a>(root: Option<&Root>, disk: &Path, devices: &'a [Device]) -> Option<&'a Device> {
    let is_ours = |device: &&Device| {
        device.path == disk || device.disk.as_deref().is_some_and(|parent| parent == disk)
    };
    match root {
        Some(root) => {
            let mut fitting: Vec<&Device> =
                devices.iter().filter(|device| fits(root, device)).collect();
            fitting.sort_by_key(|device| !is_ours(device));
            fitting.first().copied()
        }
        None => choose_unnamed(devices.iter().filter(is_ours)),
    }
}

/// Nobody said which: the partition that says it is a root, else the largest that could be one.
fn choose_unnamed<'a>(devices: impl Iterator<Item = &'a Device>) -> Option<&'a Device> {
    let candidates = devices.filter(|device| {
        device.file_system.as_ref().is_some_and(probe::FileSystem::is_root_candidate)
    });
    candidates.max_by_key(|device| {
        let partition = device.partition.as_ref();
        let says_root = partition.is_some_and(|partition| ROOT_TYPES.contains(&&*partition.kind));
        // A disk with a file system of its own is not cut into partitions, whatever remains there.
        (says_root, device.partition.is_none(), device.bytes)
    })
}

/// Partition types of the Discoverable Partitions Specification: root of x86-64 and of ARM64.
const ROOT_TYPES: [&str; 2] =
    ["4f68bce3-e8cd-4db1-96e7-fbcaf984b709", "b921b045-1df0-41c3-af44-4c6f280d3fae"];

fn fits(root: &Root, device: &Device) -> bool {
    let file_system = device.file_system.as_ref();
    let partition = device.partition.as_ref();
    let same = |have: Option<&String>, want: &str| have.is_some_and(|have| have == want);
    match root {
        Root::Path(path) => device.path == Path::new(path),
        // blkid writes some in capitals, people write any.
        Root::Uuid(uuid) => {
            let have = file_system.and_then(|file_system| file_system.uuid.as_ref());
            have.is_some_and(|have| have.eq_ignore_ascii_case(uuid))
        }
        Root::Label(label) => same(file_system.and_then(|have| have.label.as_ref()), label),
        Root::PartUuid(uuid) => partition.is_some_and(|have| have.uuid.eq_ignore_ascii_case(uuid)),
        Root::PartLabel(label) => same(partition.and_then(|have| have.label.as_ref()), label),
    }
}

impl fmt::Display for NotFound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} not found; there is", self.wanted)?;
        if self.devices.is_empty() {
            write!(f, " no block device at all")?;
        }
        for device in &self.devices {
            write!(f, "\n  {} ({} MiB)", device.path.display(), device.bytes >> 20)?;
            let mut add = |name: &str, value: Option<&String>| match value {
                Some(value) => write!(f, " {name}={value}"),
                None => Ok(()),
            };
            if let Some(file_system) = &device.file_system {
                add("TYPE", Some(&file_system.kind.to_owned()))?;
                add("UUID", file_system.uuid.as_ref())?;
                add("LABEL", file_system.label.as_ref())?;
            }
            if let Some(partition) = &device.partition {
                add("PARTUUID", Some(&partition.uuid))?;
                add("PARTLABEL", partition.label.as_ref())?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for NotFound {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::probe::{FileSystem, Partition};

    fn device(path: &str, disk: Option<&str>, mib: u64, kind: Option<&'static str>) -> Device {
        let name = path.trim_start_matches("/dev/").to_owned();
        Device {
            path: path.into(),
            bytes: mib << 20,
            disk: disk.map(Into::into),
            partition: disk.map(|_| Partition {
                number: 1,
                uuid: format!("part-{name}"),
                label: Some(format!("partlabel-{name}")),
                kind: "0x83".into(),
            }),
            file_system: kind.map(|kind| FileSystem {
                kind,
                uuid: Some("ab-cd".into()),
                label: Some(format!("label-{name}")),
            }),
        }
    }

    fn machine() -> Vec<Device> {
        vec![
            device("/dev/sda1", Some("/dev/sda"), 9000, Some("ext4")),
            device("/dev/ublkb0", None, 2000, None),
            device("/dev/ublkb0p1", Some("/dev/ublkb0"), 100, Some("vfat")),
            device("/dev/ublkb0p2", Some("/dev/ublkb0"), 400, Some("ext4")),
            device("/dev/ublkb0p3", Some("/dev/ublkb0"), 900, Some("xfs")),
            device("/dev/ublkb0p4", Some("/dev/ublkb0"), 950, Some("swap")),
        ]
    }

    fn chosen(root: Option<&str>, devices: &[Device]) -> Option<String> {
        let root: Option<Root> = root.map(|root| root.parse().unwrap());
        let device = choose(root.as_ref(), Path::new("/dev/ublkb0"), devices)?;
        Some(device.path.display().to_string())
    }

    #[test]
    fn each_name_finds_its_device() {
        let devices = machine();
        for (root, expected) in [
            ("/dev/sda1", Some("/dev/sda1")),
            ("/dev/ublkb0p3", Some("/dev/ublkb0p3")),
            ("LABEL=label-ublkb0p3", Some("/dev/ublkb0p3")),
            ("LABEL=LABEL-ublkb0p3", None),
            ("PARTUUID=PART-ublkb0p2", Some("/dev/ublkb0p2")),
            ("PARTLABEL=partlabel-sda1", Some("/dev/sda1")),
            // The local disk has the same UUID, and comes first in the list.
            ("UUID=AB-CD", Some("/dev/ublkb0p1")),
            ("UUID=ab-ce", None),
            ("/dev/vda1", None),
        ] {
            assert_eq!(chosen(Some(root), &devices).as_deref(), expected, "{root}");
        }
    }

    #[test]
    fn without_a_name_the_root_is_on_our_disk() {
        let mut devices = machine();
        assert_eq!(chosen(None, &devices).as_deref(), Some("/dev/ublkb0p3"));
        devices[3].partition.as_mut().unwrap().kind = ROOT_TYPES[0].into();
        assert_eq!(chosen(None, &devices).as_deref(), Some("/dev/ublkb0p2"));
        let whole = [device("/dev/ublkb0", None, 2000, Some("ext4"))];
        assert_eq!(chosen(None, &whole).as_deref(), Some("/dev/ublkb0"));
        assert_eq!(chosen(None, &machine()[..3]), None);
    }

    #[test]
    fn what_is_not_found_is_told_with_what_there_is() {
        let not_found = NotFound { wanted: "root=LABEL=rot".into(), devices: machine() };
        let text = not_found.to_string();
        assert!(text.starts_with("root=LABEL=rot not found; there is\n  /dev/sda1 (9000 MiB) "));
        assert!(text.contains(
            "\n  /dev/ublkb0p2 (400 MiB) TYPE=ext4 UUID=ab-cd LABEL=label-ublkb0p2 \
             PARTUUID=part-ublkb0p2 PARTLABEL=partlabel-ublkb0p2\n"
        ));
        let none = NotFound { devices: Vec::new(), ..not_found };
        assert!(none.to_string().ends_with("there is no block device at all"));
    }
}
