//! The mounts of the boot: /dev, /proc, /sys and /run first, the root file system last.
//!
//! The kernel's own helpers (modprobe for a file system, mount(8) for options) are not there, so
//! both are done here: the module of a type is loaded before the type is used, and the text of
//! `rootflags=` is split into the flags of mount(2) and what the file system itself reads.

use std::ffi::CString;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use log::{debug, warn};
use rustix::io::Errno;
use rustix::mount::MountFlags;

use super::cmdline::BootConfig;
use super::modules::Modules;
use super::probe::Device;

/// Where the root file system is mounted before it becomes the root.
pub const NEW_ROOT: &str = "/root";

/// A mount that failed.
#[derive(Debug)]
pub enum Error {
    /// One of the first mounts.
    Early {
        /// Where.
        target: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The device has no file system that we know, and `rootfstype=` named none.
    NoFileSystem {
        /// The device.
        device: PathBuf,
    },
    /// Every type that was tried failed.
    Root {
        /// The device.
        device: PathBuf,
        /// Type and reason of each attempt.
        attempts: Vec<(String, Errno)>,
        /// The text of `rootflags=`.
        options: String,
    },
}

/// Mounts /dev, /proc, /sys and /run where they are not yet: the first act of an init.
pub fn mount_early() -> Result<(), Error> {
    let safe = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    // /run keeps its right to execute: what lives on after the boot may have its program there.
    let mounts = [
        ("devtmpfs", "/dev", "devtmpfs", MountFlags::NOSUID, Some(c"mode=0755")),
        ("proc", "/proc", "proc", safe, None),
        ("sysfs", "/sys", "sysfs", safe, None),
        ("run", "/run", "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(c"mode=0755")),
    ];
    for (source, target, kind, flags, options) in mounts {
        let fail = |source| Error::Early { target, source };
        match fs::create_dir(target) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(fail(error)),
            _ => {}
        }
        // Some kernels mount /dev by themselves (CONFIG_DEVTMPFS_MOUNT); some callers mount all.
        if is_mount(target).map_err(fail)? {
            continue;
        }
        rustix::mount::mount(source, target, kind, flags, options)
            .map_err(|error| fail(error.into()))?;
    }
    Ok(())
}

fn is_mount(path: &str) -> io::Result<bool> {
    let device = |path| rustix::fs::stat(path).map(|stat| stat.st_dev);
    Ok(device(path)? != device("/")?)
}

/// Mounts the root file system on `target`, as `root_types`, `root_flags` and `root_writable` of
/// `config` want it; returns its type. The module of the type is loaded if there is one.
pub fn mount_root(
    device: &Device,
    config: &BootConfig,
    modules: &mut Modules,
    target: &Path,
) -> Result<String, Error> {
    let probed = device.file_system.as_ref().map(|file_system| file_system.kind.to_owned());
    let types = match config.root_types.as_slice() {
        [] => probed.into_iter().collect(),
        types => types.to_vec(),
    };
    if types.is_empty() {
        return Err(Error::NoFileSystem { device: device.path.clone() });
    }
    let (mut flags, data) = split_options(&config.root_flags);
    if !config.root_writable {
        flags |= MountFlags::RDONLY;
    }
    // Only its existence matters: what cannot be made fails in the mount.
    let _ = fs::create_dir(target);
    let mut attempts = Vec::new();
    for kind in types {
        load_type(modules, &kind);
        match mount_writable_or_not(&device.path, target, &kind, flags, &data) {
            Ok(()) => return Ok(kind),
            Err(error) => attempts.push((kind, error)),
        }
    }
    Err(Error::Root { device: device.path.clone(), attempts, options: config.root_flags.clone() })
}

/// A write-protected LUN still boots, read-only; it is said before anything else goes wrong by it.
fn mount_writable_or_not(
    device: &Path,
    target: &Path,
    kind: &str,
    flags: MountFlags,
    data: &CString,
) -> rustix::io::Result<()> {
    let mount = |flags| rustix::mount::mount(device, target, kind, flags, data.as_c_str());
    match mount(flags) {
        Err(Errno::ROFS | Errno::ACCESS) if !flags.contains(MountFlags::RDONLY) => {
            warn!("{} is write-protected: mounting it read-only", device.display());
            mount(flags | MountFlags::RDONLY)
        }
        result => result,
    }
}

fn load_type(modules: &mut Modules, kind: &str) {
    let is_there = fs::read_to_string("/proc/filesystems").is_ok_and(|list| {
        list.lines().any(|line| line.split_whitespace().next_back() == Some(kind))
    });
    if is_there {
        return;
    }
    // One driver serves all three.
    let module = if matches!(kind, "ext2" | "ext3") { "ext4" } else { kind };
    if let Err(error) = modules.load(module) {
        debug!("for file system {kind}: {error}");
    }
}

/// Splits mount options into flags of mount(2) and the text that is left for the file system.
fn split_options(options: &str) -> (MountFlags, CString) {
    let mut flags = MountFlags::empty();
    let mut rest = Vec::new();
    for option in options.split(',').filter(|option| !option.is_empty()) {
        let (flag, on) = match option {
            "ro" => (MountFlags::RDONLY, true),
            "rw" => (MountFlags::RDONLY, false),
            "nosuid" => (MountFlags::NOSUID, true),
            "suid" => (MountFlags::NOSUID, false),
            "nodev" => (MountFlags::NODEV, true),
            "dev" => (MountFlags::NODEV, false),
            "noexec" => (MountFlags::NOEXEC, true),
            "exec" => (MountFlags::NOEXEC, false),
            "sync" => (MountFlags::SYNCHRONOUS, true),
            "async" => (MountFlags::SYNCHRONOUS, false),
            "dirsync" => (MountFlags::DIRSYNC, true),
            "noatime" => (MountFlags::NOATIME, true),
            "atime" => (MountFlags::NOATIME, false),
            "nodiratime" => (MountFlags::NODIRATIME, true),
            "diratime" => (MountFlags::NODIRATIME, false),
            "relatime" => (MountFlags::RELATIME, true),
            "norelatime" => (MountFlags::RELATIME, false),
            "strictatime" => (MountFlags::STRICTATIME, true),
            "nostrictatime" => (MountFlags::STRICTATIME, false),
            "lazytime" => (MountFlags::LAZYTIME, true),
            "nolazytime" => (MountFlags::LAZYTIME, false),
            "silent" => (MountFlags::SILENT, true),
            "loud" => (MountFlags::SILENT, false),
            // For fstab and its readers; the kernel refuses them.
            "defaults" | "auto" | "noauto" | "_netdev" | "nofail" | "user" | "nouser" => continue,
            _ if option.starts_with("x-") => continue,
            _ => {
                rest.push(option);
                continue;
            }
        };
        flags.set(flag, on);
    }
    // The text comes from a command line, which has no zero bytes.
    (flags, CString::new(rest.join(",")).unwrap_or_default())
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Early { target, source } => write!(f, "mounting {target}: {source}"),
            Error::NoFileSystem { device } => write!(
                f,
                "mounting the root: {} has no file system that is known here: check root=, or name \
                 its type with rootfstype=",
                device.display()
            ),
            Error::Root { device, attempts, options } => {
                write!(f, "mounting the root: {}", device.display())?;
                for (kind, error) in attempts {
                    write!(f, ": as {kind}: {error}{}", advice(kind, *error, device, options))?;
                }
                Ok(())
            }
        }
    }
}

/// What to check, by what the kernel said.
fn advice(kind: &str, error: Errno, device: &Path, options: &str) -> String {
    match error {
        Errno::NODEV => format!(" (the kernel has no {kind}, and the image has no module for it)"),
        Errno::UCLEAN | Errno::BADMSG => {
            format!(" (it needs repair: fsck.{kind} {})", device.display())
        }
        Errno::INVAL if !options.is_empty() => {
            format!(" (not this type, damaged, or a bad option in rootflags={options})")
        }
        Errno::INVAL => " (not this type, or damaged; the kernel log says more)".to_owned(),
        _ => String::new(),
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Early { source, .. } => Some(source),
            Error::NoFileSystem { .. } | Error::Root { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_split_between_kernel_and_file_system() {
        let table: &[(&str, MountFlags, &str)] = &[
            ("", MountFlags::empty(), ""),
            ("noatime,commit=30", MountFlags::NOATIME, "commit=30"),
            ("subvol=@,compress=zstd:3", MountFlags::empty(), "subvol=@,compress=zstd:3"),
            ("ro,rw", MountFlags::empty(), ""),
            ("defaults,,_netdev,x-systemd.growfs,nodev", MountFlags::NODEV, ""),
            ("errors=remount-ro,sync", MountFlags::SYNCHRONOUS, "errors=remount-ro"),
        ];
        for (options, flags, data) in table {
            let (found, text) = split_options(options);
            assert_eq!((found, text.to_str()), (*flags, Ok(*data)), "{options}");
        }
    }

    #[test]
    fn a_failed_mount_says_what_to_check() {
        let error = |error, options: &str| {
            let attempts = vec![("ext4".to_owned(), error)];
            let device = "/dev/ublkb0p1".into();
            Error::Root { device, attempts, options: options.into() }.to_string()
        };
        assert!(error(Errno::UCLEAN, "").contains("fsck.ext4 /dev/ublkb0p1"));
        assert!(error(Errno::INVAL, "comit=3").contains("rootflags=comit=3"));
        assert!(error(Errno::NODEV, "").contains("no module for it"));
    }
}
