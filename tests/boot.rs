//! The dangerous half of the boot room, against a real kernel: leaving an initramfs, a daemon that
//! survives it, finding and mounting a root by the kernel's events.
//!
//! Each test runs in namespaces of its own, as root, inside a User Mode Linux kernel by the script
//! that `LUNBOOT_UML_RUN` names (`../shared/lab/uml-run` unless set), or in this machine's own
//! kernel where that is missing. What is not possible is skipped with its reason, and fails in CI.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

use lunboot::boot::cmdline::{BootConfig, Root};
use lunboot::boot::modules::Modules;
use lunboot::boot::uevent::Uevents;
use lunboot::boot::{find_root, mount, survive, switch_root};
use rustix::io::FdFlags;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["inside-initramfs", directory] => inside_initramfs(Path::new(directory)),
        ["inside-daemon", go, done] => inside_daemon(go, done),
        ["inside-root", directory] => inside_root(Path::new(directory)),
        _ => {
            let mut outcome = ExitCode::SUCCESS;
            let tests = [
                (
                    "switch_root_with_a_daemon_that_survives",
                    switch_root_with_a_daemon as fn() -> Verdict,
                ),
                ("root_is_found_by_events_and_mounted", root_is_found_by_events),
            ];
            for (name, test) in tests {
                // A filter of `cargo test` is the beginning of the words that are no options.
                let mut filters = words.iter().filter(|word| !word.starts_with('-')).peekable();
                if filters.peek().is_some() && !filters.any(|filter| name.contains(filter)) {
                    continue;
                }
                match test() {
                    Verdict::Passed => println!("ok {name}"),
                    Verdict::Skipped(reason) if env::var_os("CI").is_none() => {
                        println!("skipped {name}: {reason}");
                    }
                    Verdict::Skipped(reason) | Verdict::Failed(reason) => {
                        println!("not ok {name}: {reason}");
                        outcome = ExitCode::FAILURE;
                    }
                }
            }
            return outcome;
        }
    }
    ExitCode::SUCCESS
}

enum Verdict {
    Passed,
    Skipped(String),
    Failed(String),
}

/// Runs this program again with `words`, as process 1 of new namespaces.
fn run_inside(words: &[&str], expected: &[&str]) -> Verdict {
    if !rustix::process::geteuid().is_root() {
        return Verdict::Skipped("it makes mounts, which only root may".into());
    }
    let uml_run = env::var_os("LUNBOOT_UML_RUN")
        .map(PathBuf::from)
        .or_else(|| Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/lab/uml-run")))
        .filter(|script| script.exists());
    if uml_run.is_none() && !may_use_resources() {
        let reason = "root lacks CAP_SYS_RESOURCE here: LUNBOOT_UML_RUN may name a kernel to use";
        return Verdict::Skipped(reason.into());
    }
    let exe = env::current_exe().expect("own path");
    let mut command = match uml_run {
        Some(uml_run) => {
            let mut command = Command::new(uml_run);
            command.arg("unshare");
            command
        }
        None => Command::new("unshare"),
    };
    command.args(["--mount", "--pid", "--fork"]).arg(exe).args(words).stdin(Stdio::null());
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => return Verdict::Skipped(format!("unshare: {error}")),
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if let Some(line) = text.lines().find(|line| line.starts_with("cannot ")) {
        return Verdict::Skipped(line.to_owned());
    }
    let missing: Vec<&&str> = expected.iter().filter(|line| !text.contains(**line)).collect();
    if output.status.success() && missing.is_empty() {
        return Verdict::Passed;
    }
    let error = String::from_utf8_lossy(&output.stderr);
    Verdict::Failed(format!("{}, without {missing:?} in\n{text}\n{error}", output.status))
}

/// Containers often keep this one back; OOM score and I/O flusher need it.
fn may_use_resources() -> bool {
    const CAP_SYS_RESOURCE: u32 = 24;
    let status = fs::read_to_string("/proc/self/status").expect("own status");
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:\t"));
    let effective = effective.and_then(|mask| u64::from_str_radix(mask, 16).ok());
    effective.expect("capabilities") >> CAP_SYS_RESOURCE & 1 != 0
}

fn switch_root_with_a_daemon() -> Verdict {
    let directory = tempfile::tempdir().expect("scratch directory");
    run_inside(
        &["inside-initramfs", directory.path().to_str().expect("plain path")],
        &[
            "init is process 1 with arguments: single verbose",
            "device file there",
            &format!("old files: [{}]", lent_directories().join(" ")),
            "daemon is called @lunboot",
            "daemon has oom_score_adj -1000",
            "daemon has locked memory",
            "daemon sees /dev/null /proc/self/status /sys/class /run/from-initramfs",
            "daemon sees no new root",
            "daemon has no complaint",
        ],
    )
}

/// Mounts inside the initramfs, which must outlast it; all else in it must be gone.
fn lent_directories() -> Vec<&'static str> {
    let is_directory = |name: &&str| {
        let path = Path::new("/").join(name);
        path.is_dir() && !path.is_symlink()
    };
    LENT.into_iter().filter(is_directory).collect()
}

/// In the order in which a shell lists them.
const LENT: [&str; 7] = ["bin", "lib", "lib32", "lib64", "libx32", "sbin", "usr"];

/// The programs and libraries of this machine, for a root that is otherwise empty.
fn lend_programs(root: &Path) {
    for name in LENT {
        let (from, to) = (Path::new("/").join(name), root.join(name));
        if let Ok(link) = fs::read_link(&from) {
            symlink(link, to).expect("link");
        } else if from.is_dir() {
            fs::create_dir(&to).expect("directory");
            rustix::mount::mount_bind(&from, &to).expect("bind mount");
        }
    }
}

/// Process 1 in an initramfs made for the purpose: does what the agent does, the network left out.
fn inside_initramfs(directory: &Path) {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).expect("private mounts");
    let tmpfs = |at: &Path| {
        rustix::mount::mount("test", at, "tmpfs", MountFlags::empty(), None).expect("tmpfs");
    };
    tmpfs(directory);
    let new_root = directory.join("root");
    fs::create_dir_all(directory.join("etc/deep/deeper")).expect("directory");
    fs::write(directory.join("etc/deep/file"), "x").expect("file");
    fs::create_dir(&new_root).expect("directory");
    tmpfs(&new_root);
    for name in ["dev", "proc", "sys", "run"] {
        fs::create_dir(new_root.join(name)).expect("directory");
    }
    let script = "#!/bin/sh\n\
        echo \"init is process $$ with arguments: $4 $5\"\n\
        test -c /dev/null && echo 'device file there'\n\
        echo \"old files: [$(cd /proc/self/fd/$3 && echo *)]\"\n\
        trap '' TERM HUP; kill -HUP -1; kill -TERM -1\n\
        echo go >/proc/self/fd/$1\n\
        while read line; do echo \"daemon $line\"; done </proc/self/fd/$2\n";
    fs::write(new_root.join("start"), script).expect("script");
    fs::set_permissions(new_root.join("start"), fs::Permissions::from_mode(0o755)).expect("mode");
    lend_programs(&new_root);
    lend_programs(directory);
    rustix::process::chdir(directory).expect("chdir");
    rustix::process::chroot(".").expect("chroot");

    mount::mount_early().expect("first mounts");
    mount::mount_early().expect("first mounts, when they are there");
    fs::write("/run/from-initramfs", "x").expect("file in /run");

    let (go_read, go_write) = rustix::pipe::pipe().expect("pipe");
    let (done_read, done_write) = rustix::pipe::pipe().expect("pipe");
    for fd in [&go_read, &go_write, &done_read, &done_write] {
        rustix::io::fcntl_setfd(fd, FdFlags::CLOEXEC).expect("close on exec");
    }
    let words = ["inside-daemon", &number(&go_read), &number(&done_write)];
    let kept = [go_read.as_fd(), done_write.as_fd()];
    // Nobody waits for it here: it belongs to the next process 1.
    #[allow(clippy::zombie_processes)]
    survive::spawn_daemon(Path::new(survive::THIS_PROGRAM), &words, &kept).expect("daemon");
    drop((go_read, done_write));
    // The daemon says that it is out of our mounts before the root would be mounted.
    let mut first = [0; 1];
    rustix::io::read(&done_read, &mut first).expect("a word of the daemon");

    let old = fs::File::open("/").expect("the initramfs");
    let arguments: Vec<OsString> = [number(&go_write), number(&done_read), number(&old)]
        .into_iter()
        .chain(["single".to_owned(), "verbose".to_owned()])
        .map(OsString::from)
        .collect();
    for fd in [go_write.as_fd(), done_read.as_fd(), old.as_fd()] {
        rustix::io::fcntl_setfd(fd, FdFlags::empty()).expect("keep open");
    }
    let error = switch_root::switch_root(Path::new("/root"), Some("/start"), &arguments);
    panic!("{error}");
}

fn number(fd: &impl AsRawFd) -> String {
    fd.as_raw_fd().to_string()
}

/// The daemon: says what it is and sees when the root has been switched.
fn inside_daemon(go: &str, done: &str) {
    // A second descriptor of the same pipe; the inherited one stays open until the end.
    let inherited = |text: &str, write: bool| {
        let mut options = fs::File::options();
        let path = format!("/proc/self/fd/{text}");
        options.read(!write).write(write).open(path).expect("inherited pipe")
    };
    let (mut go, mut done) = (inherited(go, false), inherited(done, true));
    let mut failures: Vec<String> =
        survive::protect().iter().map(|error| error.to_string()).collect();
    failures.extend(survive::leave_home().err().map(|error| error.to_string()));
    failures.extend(survive::isolate().err().map(|error| error.to_string()));
    failures.extend(survive::lock_memory().err().map(|error| error.to_string()));
    done.write_all(b"\n").expect("pipe");
    let mut word = [0; 3];
    go.read_exact(&mut word).expect("word from init");

    let read = |path: &str| fs::read_to_string(path).unwrap_or_else(|error| error.to_string());
    let name = read("/proc/self/cmdline");
    let mut text = format!("is called {}\n", name.split('\0').next().unwrap_or_default());
    text += &format!("has oom_score_adj {}", read("/proc/self/oom_score_adj"));
    let status = read("/proc/self/status");
    if status.lines().any(|line| line.starts_with("VmLck:") && !line.ends_with("\t       0 kB")) {
        text += "has locked memory\n";
    }
    let paths = ["/dev/null", "/proc/self/status", "/sys/class", "/run/from-initramfs"];
    let seen = paths.into_iter().filter(|path| Path::new(path).exists());
    text += &format!("sees {}\n", seen.collect::<Vec<_>>().join(" "));
    let mounts = read("/proc/self/mounts");
    if !Path::new("/start").exists() && !mounts.contains("/root") {
        text += "sees no new root\n";
    }
    if failures.is_empty() {
        text += "has no complaint\n";
    }
    for failure in failures {
        text += &format!("failed: {failure}\n");
    }
    done.write_all(text.as_bytes()).expect("pipe");
}

fn root_is_found_by_events() -> Verdict {
    let directory = tempfile::tempdir().expect("scratch directory");
    let lines =
        ["found by PARTUUID", "mounted read-only as ext4", "a bad name lists what there is"];
    run_inside(&["inside-root", directory.path().to_str().expect("plain path")], &lines)
}

/// Waits for a partition that appears later, and mounts it.
fn inside_root(directory: &Path) {
    let run = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output();
        match output {
            Ok(output) if output.status.success() => {
                Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
            }
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
            Err(error) => Err(error.to_string()),
        }
    };
    let image = directory.join("image");
    let name = image.to_str().expect("plain path");
    fs::File::create(&image).and_then(|file| file.set_len(64 << 20)).expect("image");
    let table = "label: gpt\nstart=2048, size=100000, uuid=01234567-89AB-CDEF-0123-456789ABCDEF\n";
    let script = directory.join("table");
    fs::write(&script, table).expect("script");
    let sfdisk = format!("sfdisk -q {name} <{}", script.display());
    let made = run("sh", &["-c", &sfdisk])
        .and_then(|_| run("mkfs.ext4", &["-q", "-F", "-E", "offset=1048576", name, "50000k"]));
    if let Err(error) = made {
        return println!("cannot make a disk: {error}");
    }

    let mut events = Uevents::open().expect("event socket");
    let root: Root = "PARTUUID=01234567-89ab-cdef-0123-456789abcdef".parse().expect("root");
    let disk = Path::new("/dev/ublkb0");
    let patience = Duration::from_secs(20);
    let waiting = thread::spawn(move || {
        find_root::wait(Some(&root), disk, &mut events, patience).expect("scan")
    });
    let looped = match run("losetup", &["--find", "--show", "--partscan", name]) {
        Ok(looped) => looped,
        Err(error) => return println!("cannot make a loop device: {error}"),
    };
    let device = waiting.join().expect("waiting thread");
    let result = device.map_err(|not_found| not_found.to_string()).and_then(|device| {
        println!("found by PARTUUID: {}", device.path.display());
        let mut modules = Modules::open("").map_err(|error| error.to_string())?;
        let target = directory.join("root");
        let config = BootConfig::parse("ro rootflags=noatime,errors=remount-ro");
        let kind = mount::mount_root(&device, &config, &mut modules, &target)
            .map_err(|error| error.to_string())?;
        let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
        let ours = format!(" {} {kind} ro,", target.display());
        if mounts.lines().any(|line| line.contains(&ours) && line.contains("noatime")) {
            println!("mounted read-only as {kind}");
        }
        let missing: Root = "LABEL=missing".parse().expect("root");
        if let Err(error) = find_root::find(Some(&missing), disk).expect("scan")
            && error.to_string().contains("PARTUUID=01234567-89ab-cdef-0123-456789abcdef")
        {
            println!("a bad name lists what there is");
        }
        rustix::mount::unmount(&target, UnmountFlags::empty()).map_err(|error| error.to_string())
    });
    run("losetup", &["--detach", &looped]).expect("losetup --detach");
    if let Err(error) = result {
        println!("{error}");
    }
}
