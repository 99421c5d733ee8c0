//! What a process needs that serves the disk on which the whole system lives.
//!
//! The daemon is started from the initramfs ([`spawn_daemon`]) and lives until reboot(2). It must
//! not be killed by init's kill spree (`@` in argv[0], ROOT_STORAGE_DAEMONS), nor by the lack of
//! memory, nor wait for memory that only a write to its own disk can free (prctl(2),
//! PR_SET_IO_FLUSHER), nor hold anything of the root file system, nor lose /dev, /proc and /sys
//! when that takes their place. Order: [`isolate`] before the root is mounted, [`protect`] at once,
//! [`lock_memory`] when all buffers are there.
#![allow(unsafe_code)]

use std::ffi::{CStr, OsStr};
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{SigHandler, Signal, signal};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::{Errno, FdFlags};
use rustix::mm::MlockAllFlags;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::process::{DumpableBehavior, Pid};
use rustix::thread::UnshareFlags;

/// argv[0] of the daemon. systemd leaves processes of root alone whose first letter is an `@`.
pub const DAEMON_NAME: &str = "@lunboot";

/// A step that failed, and what it is needed for.
#[derive(Debug)]
pub struct Error {
    doing: &'static str,
    source: io::Error,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.doing, self.source)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// Turns a failed call into an [`Error`] that says what the call was for.
fn doing<T, E: Into<io::Error>>(doing: &'static str, result: Result<T, E>) -> Result<T, Error> {
    result.map_err(|error| Error { doing, source: error.into() })
}

/// Starts `program` as [`DAEMON_NAME`], with `arguments` and with standard input and output on
/// /dev/null. The descriptors in `keep` stay open in it under the same numbers; all others close.
/// It has to [`leave_home`] by itself.
///
/// A new program rather than a fork: argv[0] and memory are its own, whatever the caller has done.
/// Nothing of the caller's memory is copied for that (`posix_spawn`), which may be locked, and
/// shared with the kernel.
pub fn spawn_daemon<A: AsRef<OsStr>>(
    program: &Path,
    arguments: &[A],
    keep: &[BorrowedFd<'_>],
) -> Result<Child, Error> {
    let mut command = Command::new(program);
    command.arg0(DAEMON_NAME).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let inherit = |flags| {
        let mut all = keep.iter().map(|fd| rustix::io::fcntl_setfd(fd, flags));
        doing("handing descriptors to the storage daemon", all.try_for_each(|done| done))
    };
    inherit(FdFlags::empty())?;
    let child = doing("starting the storage daemon", command.spawn());
    inherit(FdFlags::CLOEXEC)?;
    child
}

/// Leaves the session and the directory of whoever has started this process.
pub fn leave_home() -> Result<(), Error> {
    doing("making a session of its own", rustix::process::setsid())?;
    doing("entering /", rustix::process::chdir("/"))
}

/// What makes a server of a process that a supervisor has made: a name that people see, and nobody
/// who waits for the end of the processes that it starts.
pub fn become_server() -> Result<(), Error> {
    doing("naming the server", rustix::thread::set_name(SERVER_NAME))?;
    // SAFETY: ignoring a signal installs no handler.
    doing("ignoring SIGCHLD", unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) }.map(drop))
}

/// This program, as a program to be started.
pub const THIS_PROGRAM: &str = "/proc/self/exe";

/// What `ps` shows of the server.
pub const SERVER_NAME: &CStr = c"lunboot-server";

/// A program, read into memory whole: whoever starts it needs no disk for that, which may be the
/// one that waits for it.
pub fn program_in_memory(path: &Path) -> io::Result<fs::File> {
    let mut from = fs::File::open(path)?;
    let mut memory = fs::File::from(memfd_create(c"lunboot", MemfdFlags::CLOEXEC)?);
    io::copy(&mut from, &mut memory)?;
    Ok(memory)
}

/// Which of the two processes this is, after [`fork`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forked {
    /// The one that was there before.
    Parent {
        /// The other one.
        child: Pid,
    },
    /// The new one.
    Child,
}

/// Makes a second process of this one, which must have no other threads. It needs no file, not even
/// that of this program, which may lie on the disk that nobody serves at the moment.
pub fn fork() -> Result<Forked, Error> {
    debug_assert_eq!(fs::read_dir("/proc/self/task").map_or(1, Iterator::count), 1);
    // SAFETY: there is no other thread whose locks or half-made changes the child could meet.
    let forked = unsafe { nix::unistd::fork() };
    match doing("making another process", forked)? {
        nix::unistd::ForkResult::Parent { child } => {
            let child = Pid::from_raw(child.as_raw()).expect("no process has number 0");
            Ok(Forked::Parent { child })
        }
        nix::unistd::ForkResult::Child => Ok(Forked::Child),
    }
}

/// Restarts the machine with a word for its firmware (reboot(2), LINUX_REBOOT_CMD_RESTART2), which
/// rustix leaves out. It only returns if that failed.
pub fn restart_with(word: &CStr) -> io::Error {
    use linux_raw_sys::general::{
        LINUX_REBOOT_CMD_RESTART2, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2,
    };
    let (first, second) = (LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2);
    let command = LINUX_REBOOT_CMD_RESTART2;
    let call = nix::libc::SYS_reboot;
    // SAFETY: the kernel reads a C string from the pointer, and that is what it is.
    unsafe { nix::libc::syscall(call, first, second, command, word.as_ptr()) };
    io::Error::last_os_error()
}

/// The descriptor that [`spawn_daemon`] left open under this number, as an argument of the daemon
/// names it. To be called once: there is one owner.
pub fn inherited(number: i32) -> io::Result<OwnedFd> {
    // SAFETY: only borrowed for the next call, which fails if there is no such descriptor.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    rustix::io::fcntl_setfd(fd, FdFlags::CLOEXEC)?;
    // SAFETY: it is open, and nothing else in this process has been told its number.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Makes the calling process hard to kill and safe to wait for. What fails is returned, each with
/// what it was for; the disk works without, so the caller warns and goes on.
///
/// Call it before any thread is started: threads inherit the I/O flusher state.
pub fn protect() -> Vec<Error> {
    type Step = (&'static str, fn() -> io::Result<()>);
    let steps: [Step; 4] = [
        ("protecting the daemon from the out-of-memory killer", || {
            fs::write("/proc/self/oom_score_adj", "-1000\n")
        }),
        ("marking the daemon as I/O flusher (PR_SET_IO_FLUSHER)", set_io_flusher),
        ("hiding the daemon's memory from other processes", || {
            Ok(rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
        }),
        ("ignoring SIGTERM and SIGHUP", ignore_signals),
    ];
    steps.into_iter().filter_map(|(what, step)| doing(what, step()).err()).collect()
}

/// The kernel must not write to our disk in order to give us memory. Others have set this and not
/// noticed for years that it had no effect, so it is read back.
fn set_io_flusher() -> io::Result<()> {
    rustix::process::configure_io_flusher_behavior(true)?;
    if rustix::process::is_io_flusher()? {
        Ok(())
    } else {
        Err(io::Error::other("the kernel accepted it without effect"))
    }
}

fn ignore_signals() -> io::Result<()> {
    for number in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT, Signal::SIGPIPE] {
        // SAFETY: ignoring a signal installs no handler, so no code of ours can run in one.
        unsafe { signal(number, SigHandler::SigIgn) }?;
    }
    // A server may have started us, and it ignores this one.
    // SAFETY: as above.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) }?;
    Ok(())
}

/// Keeps all memory of the process in RAM, now and later. Buffers of the data path come first, so
/// that no page of them is missing.
pub fn lock_memory() -> Result<(), Error> {
    let flags = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE;
    doing("locking the daemon's memory (mlockall)", rustix::mm::mlockall(flags))
}

/// Moves the process into a mount namespace of its own, whose root is a small tmpfs with /dev,
/// /proc, /sys and /run in it, what the resolver reads, and nothing else.
///
/// Mounts that init makes later, the root file system above all, never appear in it, so the daemon
/// can neither hold nor unmount the disk that it serves. Its mount points lie in its own tmpfs:
/// when the files of the initramfs are deleted, the kernel takes away what was mounted on them, in
/// every namespace.
pub fn isolate() -> Result<(), Error> {
    let make_private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    doing("making a mount namespace", unshare_mounts())?;
    doing("making its mounts private", rustix::mount::mount_change("/", make_private))?;

    // /sys is there in every system, and its own content is mounted afresh below.
    const BASE: &str = "/sys";
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let options = Some(c"size=256k,mode=755");
    doing(
        "mounting the daemon's root",
        rustix::mount::mount("lunboot", BASE, "tmpfs", flags, options),
    )?;
    for name in ["dev", "proc", "sys", "run"] {
        doing("making the daemon's directories", fs::create_dir(format!("{BASE}/{name}")))?;
    }
    // Without it there is a daemon all the same.
    let _ = bring_resolver_files(&format!("{BASE}/etc"));
    doing("mounting /dev for the daemon", rustix::mount::mount_bind("/dev", "/sys/dev"))?;
    doing("mounting /run for the daemon", rustix::mount::mount_bind("/run", "/sys/run"))?;
    doing(
        "mounting /proc for the daemon",
        rustix::mount::mount("proc", "/sys/proc", "proc", flags, None),
    )?;
    doing(
        "mounting /sys for the daemon",
        rustix::mount::mount("sysfs", "/sys/sys", "sysfs", flags, None),
    )?;
    doing("entering the daemon's root", enter(BASE))
}

/// A target may send us to a name. A file in /run is there for the daemon as well, and what becomes
/// of it is seen; others are copied as they are now. A list of hosts may be of any length: what is
/// too long for this root is left out, and whoever needs it hears that there is no such name.
fn bring_resolver_files(directory: &str) -> io::Result<()> {
    const BYTES_MAX: u64 = 64 * 1024;
    fs::create_dir(directory)?;
    for name in ["resolv.conf", "hosts"] {
        let Ok(path) = fs::canonicalize(format!("/etc/{name}")) else { continue };
        let ours = format!("{directory}/{name}");
        if path.starts_with("/run") {
            symlink(&path, ours)?;
        } else if fs::metadata(&path).is_ok_and(|file| file.len() <= BYTES_MAX) {
            fs::copy(&path, ours)?;
        }
    }
    Ok(())
}

fn unshare_mounts() -> rustix::io::Result<()> {
    // SAFETY: only file descriptors being unshared can leave a BorrowedFd dangling; this is mounts.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }
}

/// Makes `base`, a mount, the root of this namespace.
fn enter(base: &str) -> rustix::io::Result<()> {
    rustix::process::chdir(base)?;
    match rustix::process::pivot_root(".", ".") {
        // On a running system the old mounts would keep its file systems busy.
        Ok(()) => rustix::mount::unmount(".", UnmountFlags::DETACH)?,
        // The initramfs cannot be left this way before Linux 7.0 (pivot_root(2)): cover it.
        Err(Errno::INVAL) => {
            rustix::mount::mount_move(".", "/")?;
            rustix::process::chroot(".")?;
        }
        Err(error) => return Err(error),
    }
    rustix::process::chdir("/")
}
