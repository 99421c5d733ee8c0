//! The exitrd: what systemd leaves the root file system for when the machine ends.
//!
//! systemd-shutdown looks for an executable `/run/initramfs/shutdown`. If it is there, that
//! directory becomes `/`, the root file system `/oldroot`, and the file process 1, which has to end
//! the machine in the way that its first argument names (systemd, "Interfaces of the initrd";
//! src/shutdown/shutdown.c). Ours is this program once more: it can unmount the root file system,
//! which nobody can who lives in it, and then let go of the disk.
//!
//! The directory belongs to whoever comes first. dracut and others fill it when the machine goes
//! down; where they are installed, nothing is put there.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::StatVfsMountFlags;
use rustix::mount::{MountFlags, UnmountFlags};

use super::survive::THIS_PROGRAM;

/// Where it lies while the system runs; `/` when it ends.
const DIRECTORY: &str = "/run/initramfs";

/// argv[0] of its program.
pub const PROGRAM: &str = "/shutdown";

/// Where the root file system is then.
const OLD_ROOT: &str = "/oldroot";

/// Only this program makes use of it.
const SYSTEMD: [&str; 2] = ["usr/lib/systemd/systemd-shutdown", "lib/systemd/systemd-shutdown"];

/// Those who would fill the directory themselves, by what they have in the root file system.
const OTHERS: [(&str, &str); 5] = [
    ("usr/lib/dracut/dracut-initramfs-restore", "dracut"),
    ("usr/bin/finalrd", "finalrd"),
    ("usr/sbin/finalrd", "finalrd"),
    ("usr/lib/systemd/system/mkinitcpio-generate-shutdown-ramfs.service", "mkinitcpio"),
    ("usr/lib/systemd/system/mkosi-initrd-shutdown.service", "mkosi-initrd"),
];

/// What has become of the exitrd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Installed {
    /// It is there.
    Yes,
    /// Somebody else has one, or makes one.
    LeftTo(&'static str),
    /// The init of this root does not look for one.
    Useless,
}

/// Puts this program where the systemd of `root` looks for it. To be called before that has begun.
pub fn install(root: &Path) -> io::Result<Installed> {
    install_in(Path::new(DIRECTORY), root)
}

fn install_in(directory: &Path, root: &Path) -> io::Result<Installed> {
    if !SYSTEMD.iter().any(|path| root.join(path).exists()) {
        return Ok(Installed::Useless);
    }
    if let Some((_, whom)) = OTHERS.iter().find(|(path, _)| root.join(path).exists()) {
        return Ok(Installed::LeftTo(whom));
    }
    let program = directory.join("shutdown");
    if program.exists() || directory.join("bin/sh").exists() {
        return Ok(Installed::LeftTo("what is there"));
    }
    fs::create_dir_all(directory)?;
    allow_execution(directory)?;
    for name in ["dev", "proc", "sys", "run", "oldroot"] {
        fs::create_dir_all(directory.join(name))?;
    }
    // Under its name when it is whole.
    let new = directory.join("shutdown.new");
    fs::copy(THIS_PROGRAM, &new)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755))?;
    fs::rename(new, program)?;
    Ok(Installed::Yes)
}

/// initramfs-tools mounts /run so that nothing in it can be executed. What is in the directory
/// stays in sight: fsck has left its mark there.
fn allow_execution(directory: &Path) -> io::Result<()> {
    if !rustix::fs::statvfs(directory)?.f_flag.contains(StatVfsMountFlags::NOEXEC) {
        return Ok(());
    }
    rustix::mount::mount_bind(directory, directory)?;
    let flags = MountFlags::BIND | MountFlags::NOSUID | MountFlags::NODEV;
    Ok(rustix::mount::mount_remount(directory, flags, c"")?)
}

/// Unmounts the root file system that was left, with everything in it. The error names what is
/// still mounted, and why; that is at least read-only then, if it can be.
pub fn unmount_old_root() -> Result<(), String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")
        .map_err(|error| format!("/proc/self/mountinfo: {error}"))?;
    let mut result = Ok(());
    for (path, is_on_disk) in mount_points(&mounts, OLD_ROOT) {
        // Whoever has a terminal of the old /dev open must not hold the root.
        let flags = if is_on_disk { UnmountFlags::empty() } else { UnmountFlags::DETACH };
        if let Err(error) = rustix::mount::unmount(&path, flags) {
            let _ = rustix::mount::mount_remount(&path, MountFlags::RDONLY, c"");
            result = Err(format!("unmounting {}: {error}", path.display()));
        }
    }
    rustix::fs::sync();
    result
}

/// The mount points at a path and below it, the deepest first, and whether a block device is
/// mounted there; from the text of /proc/self/mountinfo (proc(5)).
fn mount_points(mountinfo: &str, path: &str) -> Vec<(PathBuf, bool)> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let point = PathBuf::from(unescape(line.split(' ').nth(4)?));
        let source = line.split(" - ").nth(1)?.split(' ').nth(1)?;
        Some((point, source.starts_with("/dev/")))
    });
    let mut found: Vec<_> = mounts.filter(|(point, _)| point.starts_with(path)).collect();
    // Of several on one point, the last is on top. Of others it says nothing: /run is older than
    // the root that it was moved to.
    found.reverse();
    found.sort_by_key(|(point, _)| std::cmp::Reverse(point.components().count()));
    found
}

/// Blanks and their like are written as three octal digits.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                plain.push(char::from(code));
                plain.push_str(&part[3..]);
            }
            None => {
                plain.push('\\');
                plain.push_str(part);
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root_with(paths: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for path in paths {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        root
    }

    #[test]
    fn a_free_place_is_taken_and_another_is_left() {
        let run = tempfile::tempdir().unwrap();
        let directory = run.path().join("initramfs");
        let install = |paths: &[&str]| install_in(&directory, root_with(paths).path()).unwrap();
        let ours = ["usr/lib/systemd/systemd-shutdown"];
        assert_eq!(install(&["sbin/init"]), Installed::Useless);
        for (path, whom) in OTHERS {
            assert_eq!(install(&[ours[0], path]), Installed::LeftTo(whom));
        }
        assert!(!directory.exists(), "nothing was put anywhere");
        assert_eq!(install(&ours), Installed::Yes);
        let program = directory.join("shutdown");
        assert_eq!(fs::metadata(&program).unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(fs::read(&program).unwrap(), fs::read(THIS_PROGRAM).unwrap());
        assert!(directory.join("oldroot").is_dir());
        // Whoever has put it there.
        fs::write(&program, "another").unwrap();
        assert_eq!(install(&ours), Installed::LeftTo("what is there"));
        assert_eq!(fs::read(&program).unwrap(), b"another");
    }

    #[test]
    fn mount_points_are_those_of_the_old_root() {
        let text = "1 1 0:2 / / rw shared:1 - tmpfs run rw\n\
            20 30 0:4 / /oldroot/run rw - tmpfs run rw\n\
            30 1 259:0 / /oldroot ro,relatime - ext4 /dev/ublkb0 ro\n\
            31 30 0:5 / /oldroot/srv/two\\040words rw - tmpfs x rw\n\
            32 30 0:6 / /oldroot/run rw - tmpfs x rw\n\
            33 1 0:6 / /oldrooted rw - tmpfs x rw\n\
            34 32 8:1 / /oldroot/run/media rw master:1 - vfat /dev/sda1 rw\n";
        let found = mount_points(text, OLD_ROOT);
        let expected = [
            ("/oldroot/run/media", true),
            ("/oldroot/srv/two words", false),
            ("/oldroot/run", false),
            ("/oldroot/run", false),
            ("/oldroot", true),
        ];
        assert_eq!(found, expected.map(|(path, is_on_disk)| (PathBuf::from(path), is_on_disk)));
        assert_eq!(unescape("a\\134b\\09"), "a\\b\\09");
    }
}
