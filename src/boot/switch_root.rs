//! Leaves the initramfs: the root file system becomes `/`, and its init becomes process 1.
//!
//! This is switch_root(8), not pivot_root(2), which cannot leave the initramfs before Linux 7.0. It
//! deletes every file of the initramfs to give the memory back. That is deadly anywhere else, so
//! [`switch_root`] first establishes that it is process 1, that `/` is in memory and nothing else,
//! that the new root is another file system, and that there is an init in it that can be executed.
//! Until that is certain nothing is changed; the caller can go on in the initramfs.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use log::{debug, warn};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

/// What the kernel itself tries without `init=` (init/main.c).
const INIT_CANDIDATES: [&str; 4] = ["/sbin/init", "/etc/init", "/bin/init", "/bin/sh"];

/// Mounts that go along.
const MOVED: [&str; 4] = ["dev", "proc", "sys", "run"];

/// File systems that an initramfs can be (linux/magic.h).
const RAMFS_MAGIC: u32 = 0x8584_58f6;
const TMPFS_MAGIC: u32 = 0x0102_1994;

/// Why the machine is still in the initramfs.
#[derive(Debug)]
pub enum Error {
    /// A guard: nothing has been changed.
    Refused(&'static str),
    /// There is no init in the new root that can be executed: nothing has been changed.
    NoInit {
        /// What was tried, with the reason.
        tried: Vec<(PathBuf, Errno)>,
    },
    /// A step failed half-way.
    Failed {
        /// Which.
        doing: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// Switches to `new_root` and executes `init`, or the first that is there, with `arguments`. It
/// only returns if that failed.
pub fn switch_root(new_root: &Path, init: Option<&str>, arguments: &[OsString]) -> Error {
    match prepare(new_root, init).and_then(|ready| ready.switch(new_root, arguments)) {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

/// The init of `new_root` that would be executed, if there is one: to be asked before the point of
/// no return, with the root mounted.
pub fn find_init(new_root: &Path, init: Option<&str>) -> Result<PathBuf, Error> {
    let root = open_directory(new_root).map_err(failed("opening the new root"))?;
    let candidates = match &init {
        Some(init) => std::slice::from_ref(init),
        None => &INIT_CANDIDATES[..],
    };
    let mut tried = Vec::new();
    for candidate in candidates {
        match check_executable(&root, candidate) {
            Ok(()) => return Ok(PathBuf::from(candidate)),
            Err(error) => tried.push((PathBuf::from(candidate), error)),
        }
    }
    Err(Error::NoInit { tried })
}

/// /sbin/init is often a link to an absolute path, which is meant to start at the new root.
fn check_executable(root: &OwnedFd, path: &str) -> Result<(), Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let file = rustix::fs::openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT)?;
    let mode = rustix::fs::fstat(&file)?.st_mode;
    if FileType::from_raw_mode(mode) != FileType::RegularFile || mode & 0o111 == 0 {
        return Err(Errno::ACCESS);
    }
    Ok(())
}

/// Everything that was established before the first change.
struct Ready {
    initramfs: OwnedFd,
    init: PathBuf,
}

fn prepare(new_root: &Path, init: Option<&str>) -> Result<Ready, Error> {
    if std::process::id() != 1 {
        return Err(Error::Refused("only process 1 may do it"));
    }
    let initramfs = open_directory(Path::new("/")).map_err(failed("opening the initramfs"))?;
    let file_system =
        rustix::fs::fstatfs(&initramfs).map_err(failed("looking at the initramfs"))?;
    // The kernel's type for this field differs between machines.
    if !matches!(file_system.f_type as u32, RAMFS_MAGIC | TMPFS_MAGIC) {
        return Err(Error::Refused("/ is no initramfs: its file system is not in memory"));
    }
    let device = |path: &Path| rustix::fs::stat(path).map(|stat| stat.st_dev);
    let old = device(Path::new("/")).map_err(failed("looking at the initramfs"))?;
    let new = device(new_root).map_err(failed("looking at the new root"))?;
    if old == new {
        return Err(Error::Refused("nothing is mounted on the new root"));
    }
    Ok(Ready { initramfs, init: find_init(new_root, init)? })
}

enum Never {}

impl Ready {
    fn switch(self, new_root: &Path, arguments: &[OsString]) -> Result<Never, Error> {
        for name in MOVED {
            let (from, to) = (Path::new("/").join(name), new_root.join(name));
            if let Err(error) = rustix::mount::mount_move(&from, &to) {
                // A root without that directory, or one that was never mounted here.
                warn!("moving {} to the new root: {error}", from.display());
                let _ = rustix::mount::unmount(&from, UnmountFlags::DETACH);
            }
        }
        rustix::process::chdir(new_root).map_err(failed("entering the new root"))?;
        rustix::mount::mount_move(".", "/").map_err(failed("moving the new root to /"))?;
        rustix::process::chroot(".").map_err(failed("making the new root the root"))?;
        rustix::process::chdir("/").map_err(failed("entering the new root"))?;

        // Covered by now, but still there through its descriptor.
        if let Err(error) = delete_contents(&self.initramfs) {
            debug!("some files of the initramfs keep their memory: {error}");
        }
        drop(self.initramfs);

        // It also gives the new program an empty signal mask.
        let mut command = Command::new(&self.init);
        let error = command.args(arguments.iter().map(OsStr::new)).exec();
        Err(Error::Failed { doing: "executing init", source: error })
    }
}

fn open_directory(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

/// Deletes everything below a directory that is on the same file system. Goes on after an error and
/// returns the first one.
fn delete_contents(directory: &OwnedFd) -> rustix::io::Result<()> {
    let device = rustix::fs::fstat(directory)?.st_dev;
    let mut result = Ok(());
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") {
            result = result.and(delete_entry(directory, name, device));
        }
    }
    result
}

fn delete_entry(
    directory: &OwnedFd,
    name: &std::ffi::CStr,
    device: rustix::fs::Dev,
) -> rustix::io::Result<()> {
    let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
    // Something is mounted there: it is not ours, and neither is what lies under it.
    if stat.st_dev != device {
        return Ok(());
    }
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return rustix::fs::unlinkat(directory, name, AtFlags::empty());
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let below = rustix::fs::openat(directory.as_fd(), name, flags, Mode::empty())?;
    let result = delete_contents(&below);
    result.and(rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR))
}

fn failed(doing: &'static str) -> impl Fn(Errno) -> Error {
    move |error| Error::Failed { doing, source: error.into() }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Refused(reason) => write!(f, "switching to the new root: {reason}"),
            Error::NoInit { tried } => {
                write!(f, "switching to the new root: it has no init that can be executed")?;
                for (path, error) in tried {
                    write!(f, ": {}: {error}", path.display())?;
                }
                write!(f, ": check root= and init=")
            }
            Error::Failed { doing, source } => {
                write!(f, "switching to the new root: {doing}: {source}")
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Failed { source, .. } => Some(source),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn anything_but_process_1_is_refused() {
        let error = switch_root(Path::new("/proc"), None, &[]);
        assert!(matches!(error, Error::Refused(_)), "{error}");
    }

    #[test]
    fn an_init_is_a_file_in_the_new_root_that_can_be_executed() {
        let root = tempfile::tempdir().unwrap();
        let make = |path: &str, mode| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        };
        make("lib/systemd/systemd", 0o755);
        make("bin/plain", 0o644);
        fs::create_dir(root.path().join("sbin")).unwrap();
        symlink("/lib/systemd/systemd", root.path().join("sbin/init")).unwrap();
        symlink("/../../../../bin/true", root.path().join("sbin/outside")).unwrap();
        let find = |init| find_init(root.path(), init);
        assert_eq!(find(None).unwrap(), Path::new("/sbin/init"));
        assert_eq!(find(Some("/lib/systemd/systemd")).unwrap(), Path::new("/lib/systemd/systemd"));
        for init in ["/bin/plain", "/sbin", "/sbin/outside", "/bin/missing"] {
            let error = find(Some(init)).unwrap_err().to_string();
            assert!(error.contains(init), "{error}");
        }
    }

    #[test]
    fn everything_below_is_deleted_and_links_are_not_followed() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("kept"), "").unwrap();
        let inside = tempfile::tempdir().unwrap();
        fs::create_dir_all(inside.path().join("a/b/c")).unwrap();
        fs::write(inside.path().join("a/b/file"), "").unwrap();
        symlink(outside.path(), inside.path().join("a/link")).unwrap();
        delete_contents(&open_directory(inside.path()).unwrap()).unwrap();
        assert_eq!(fs::read_dir(inside.path()).unwrap().count(), 0);
        assert!(outside.path().join("kept").exists());
    }
}
