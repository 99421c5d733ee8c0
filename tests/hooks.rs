//! The initramfs-tools hook and boot script, run in a scratch tree against a small stand-in for
//! initramfs-tools; how they do in the real one is seen by the tests in virtual machines.
//!
//! The stand-in writes down each call, and the tests look at what was called and what was copied.

#![allow(missing_docs)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

const HOOK: &str = "initramfs-hooks/initramfs-tools/hooks/lunboot";
const CONFIGURATION: &str = "initramfs-hooks/initramfs-tools/conf.d/lunboot";
const SCRIPT: &str = "initramfs-hooks/initramfs-tools/scripts/local-top/lunboot";
const LAST_SCRIPT: &str = "initramfs-hooks/initramfs-tools/scripts/init-bottom/lunboot";

/// Functions of initramfs-tools that the hook calls: they write down how they were called.
const HOOK_FUNCTIONS: &str = r#"
copy_exec() { mkdir -p "$DESTDIR${2%/*}"; cp "$1" "$DESTDIR$2"; echo "copy_exec $*" >>"$CALLS"; }
copy_modules_dir() { echo "copy_modules_dir $*" >>"$CALLS"; }
manual_add_modules() { echo "manual_add_modules $*" >>"$CALLS"; }
"#;

/// The same for the boot script.
const FUNCTIONS: &str = r#"
log_begin_msg() { echo "begin: $*" >>"$CALLS"; }
log_end_msg() { echo "end $*" >>"$CALLS"; }
log_failure_msg() { echo "failure: $*" >>"$CALLS"; }
log_warning_msg() { echo "warning: $*" >>"$CALLS"; }
wait_for_udev() { echo "wait_for_udev $*" >>"$CALLS"; }
udevadm() { echo "udevadm $*" >>"$CALLS"; }
"#;

/// A scratch directory in which a script runs with every absolute path moved below it.
struct Scratch {
    directory: TempDir,
}

impl Scratch {
    fn new() -> Scratch {
        let scratch = Scratch { directory: tempfile::tempdir().unwrap() };
        scratch.file("usr/share/initramfs-tools/hook-functions", HOOK_FUNCTIONS);
        scratch.file("scripts/functions", FUNCTIONS);
        for directory in ["conf", "run", "destination"] {
            fs::create_dir_all(scratch.path(directory)).unwrap();
        }
        scratch
    }

    fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    fn file(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn program(&self, path: &str, text: &str) {
        self.file(path, &format!("#!/bin/sh\n{text}\n"));
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(self.path(path), mode).unwrap();
    }

    /// The text of a file; empty if it is not there.
    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_default()
    }

    fn run(&self, script: &str, environment: &[(&str, &str)]) -> Output {
        self.command(script).envs(environment.iter().copied()).output().unwrap()
    }

    /// Runs a script as mkinitramfs does when somebody has set UMASK.
    fn run_masked(&self, script: &str, mask: &str) -> Output {
        let script = self.command(script);
        let mut command = Command::new("/bin/sh");
        let environment = script.get_envs().filter_map(|(key, value)| Some((key, value?)));
        command.args(["-c", &format!("umask {mask}; exec /bin/sh \"$0\"")]);
        command.args(script.get_args()).envs(environment).output().unwrap()
    }

    fn command(&self, script: &str) -> Command {
        let root = self.directory.path().to_str().unwrap();
        let mut text = fs::read_to_string(source(script)).unwrap();
        for path in ["/etc/", "/usr/", "/lib/udev", "/proc/", "/scripts/", "/run/", "/conf/"] {
            for before in [" ", "<", ">", "\n"] {
                text = text.replace(&format!("{before}{path}"), &format!("{before}{root}{path}"));
            }
        }
        self.file("script", &text);
        // An image without busybox has the few tools of klibc and what hooks put there.
        let path = if script == SCRIPT { "" } else { ":/usr/bin:/bin" };
        fs::create_dir_all(self.path("bin")).unwrap();
        for tool in ["cat", "mkdir"] {
            let link = self.path("bin").join(tool);
            if !link.exists() {
                std::os::unix::fs::symlink(Path::new("/bin").join(tool), link).unwrap();
            }
        }
        let mut command = Command::new("/bin/sh");
        command
            .arg(self.path("script"))
            .env("DESTDIR", self.path("destination"))
            .env("CALLS", self.path("calls"))
            .env("PATH", format!("{root}/bin{path}"));
        command
    }

    /// Runs the boot script with a command line and what initramfs-tools read as `root=` from it.
    fn boot(&self, cmdline: &str, root: &str) -> Output {
        self.file("proc/cmdline", &format!("{cmdline}\n"));
        self.program("bin/lunboot", "echo \"lunboot $*\" >>\"$CALLS\"; echo /dev/ublkb0");
        self.run(SCRIPT, &[("ROOT", root)])
    }
}

fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn all_answer_for_their_prerequisites() {
    for script in [HOOK, SCRIPT, LAST_SCRIPT] {
        let output = Command::new("sh").arg(source(script)).arg("prereqs").output().unwrap();
        assert!(output.status.success(), "{script}: {}", said(&output));
        assert_eq!(output.stdout, b"\n", "{script}");
    }
}

#[test]
fn the_hook_leaves_an_image_alone_that_did_not_ask() {
    let scratch = Scratch::new();
    scratch.program("usr/local/bin/lunboot", "");
    // initramfs-tools copies the boot scripts before it runs the hooks.
    let places = ["destination/scripts/local-top", "destination/scripts/init-bottom"];
    for place in places {
        scratch.file(&format!("{place}/lunboot"), "the script");
    }
    let output = scratch.run(HOOK, &[]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(scratch.text("calls"), "");
    for place in places {
        assert_eq!(fs::read_dir(scratch.path(place)).unwrap().count(), 0, "{place}");
    }
}

#[test]
fn the_hook_puts_in_agent_modules_and_rule() {
    let scratch = Scratch::new();
    scratch.file("etc/lunboot/initramfs", "");
    scratch.program("usr/local/bin/lunboot", "exit 7");
    scratch.file("usr/local/lib/udev/rules.d/60-lunboot.rules", "the rule");
    scratch.file("destination/scripts/local-top/lunboot", "the script");
    let output = scratch.run(HOOK, &[]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(scratch.text("destination/bin/lunboot"), "#!/bin/sh\nexit 7\n");
    assert_eq!(scratch.text("destination/usr/lib/udev/rules.d/60-lunboot.rules"), "the rule");
    assert_eq!(scratch.text("destination/scripts/local-top/lunboot"), "the script");
    let calls = scratch.text("calls");
    for expected in ["kernel/drivers/net/ethernet", "virtio_net", "ublk_drv nbd", "ext4", "crc32c"]
    {
        assert!(calls.contains(expected), "{expected} is missing in:\n{calls}");
    }
}

#[test]
fn secrets_go_only_into_an_image_that_others_cannot_read() {
    for (mask, is_safe) in [("0022", false), ("0027", false), ("0077", true), ("0177", true)] {
        let scratch = Scratch::new();
        scratch.file("etc/lunboot/initramfs", "");
        scratch.file("etc/lunboot/secrets", "initiator node7 hidden-secret-7\n");
        scratch.program("usr/local/bin/lunboot", "");
        scratch.file("usr/local/lib/udev/rules.d/60-lunboot.rules", "");
        let output = scratch.run_masked(HOOK, mask);
        assert_eq!(output.status.success(), is_safe, "{mask}: {}", said(&output));
        let copy = scratch.path("destination/etc/lunboot/secrets");
        if is_safe {
            assert_eq!(fs::metadata(copy).unwrap().permissions().mode() & 0o777, 0o600);
        } else {
            assert!(said(&output).contains("UMASK=0077"), "{}", said(&output));
            assert!(!copy.exists() && !said(&output).contains("hidden"));
        }
    }
}

#[test]
fn initramfs_tools_is_told_to_close_an_image_with_secrets() {
    for (files, expected) in
        [(&["initramfs", "secrets"][..], "0077\n"), (&["initramfs"], "\n"), (&["secrets"], "\n")]
    {
        let scratch = Scratch::new();
        for file in files {
            scratch.file(&format!("etc/lunboot/{file}"), "");
        }
        let text = fs::read_to_string(source(CONFIGURATION)).unwrap();
        let below = format!(" {}/etc/", scratch.directory.path().display());
        let text = text.replace(" /etc/", &below) + "echo \"$UMASK\"\n";
        let output = Command::new("/bin/sh").args(["-ec", &text]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{files:?}");
    }
}

#[test]
fn the_hook_says_so_when_the_agent_is_not_installed() {
    let scratch = Scratch::new();
    scratch.file("etc/lunboot/initramfs", "");
    let output = scratch.run(HOOK, &[]);
    assert!(!output.status.success());
    assert!(said(&output).contains("there is no lunboot"), "{}", said(&output));
}

#[test]
fn the_boot_script_leaves_a_machine_alone_that_did_not_ask() {
    for cmdline in [
        "root=/dev/sda1 ro quiet",
        "",
        "lunboot.shell root=/dev/sda1",
        "xlunboot=1 notlunboot",
        "root=/dev/sda1 -- lunboot",
    ] {
        let scratch = Scratch::new();
        let output = scratch.boot(cmdline, "/dev/sda1");
        assert!(output.status.success(), "{}", said(&output));
        assert_eq!(scratch.text("calls"), "", "{cmdline}");
        assert_eq!(fs::read_dir(scratch.path("run")).unwrap().count(), 0);
        assert_eq!(scratch.text("conf/param.conf"), "");
    }
}

#[test]
fn the_boot_script_attaches_and_leaves_a_given_root_to_initramfs_tools() {
    let target = "lunboot=iscsi:192.0.2.1::::iqn.2004-10.example:root";
    for cmdline in [&format!("quiet {target} root=LABEL=root"), "lunboot root=LABEL=root"] {
        let scratch = Scratch::new();
        scratch.file("usr/lib/udev/rules.d/60-lunboot.rules", "the rule");
        let output = scratch.boot(cmdline, "LABEL=root");
        assert!(output.status.success(), "{}", said(&output));
        let calls = scratch.text("calls");
        let order = "lunboot attach --boot\nend 0\nudevadm control --reload\nwait_for_udev 10\n";
        assert!(calls.contains(order), "{calls}");
        assert_eq!(scratch.text("run/lunboot/device"), "/dev/ublkb0\n");
        assert_eq!(scratch.text("run/udev/rules.d/60-lunboot.rules"), "the rule");
        assert_eq!(scratch.text("conf/param.conf"), "");
    }
}

#[test]
fn without_root_the_lun_is_the_root() {
    let iscsi = "root=iscsi:192.0.2.1::::iqn.2004-10.example:root";
    for (cmdline, root) in [("lunboot", ""), (iscsi, &iscsi[5..]), ("lunboot root=dhcp", "dhcp")] {
        let scratch = Scratch::new();
        let output = scratch.boot(cmdline, root);
        assert!(output.status.success(), "{}", said(&output));
        assert_eq!(scratch.text("conf/param.conf"), "ROOT=/dev/ublkb0\n", "{cmdline}");
    }
}

#[test]
fn open_iscsi_keeps_its_own_words_when_it_is_in_the_image() {
    let scratch = Scratch::new();
    scratch.file("scripts/local-top/iscsi", "");
    let cmdline = "root=iscsi:192.0.2.1::::iqn.2004-10.example:root";
    scratch.boot(cmdline, &cmdline[5..]);
    assert_eq!(scratch.text("calls"), "");
}

#[test]
fn a_failed_attach_is_reported() {
    let scratch = Scratch::new();
    scratch.file("proc/cmdline", "lunboot\n");
    scratch.program("bin/lunboot", "exit 1");
    let output = scratch.run(SCRIPT, &[("ROOT", "")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(scratch.text("calls").contains("failure: "), "{}", scratch.text("calls"));
    assert_eq!(scratch.text("conf/param.conf"), "");
}

#[test]
fn the_last_script_concerns_only_roots_that_we_have_attached() {
    let scratch = Scratch::new();
    scratch.program("bin/lunboot", "echo \"lunboot $*\" >>\"$CALLS\"; exit 1");
    let boot = || scratch.run(LAST_SCRIPT, &[("rootmnt", "/root")]);
    assert!(boot().status.success());
    // As an attach leaves it that has failed.
    scratch.file("run/lunboot/device", "");
    assert!(boot().status.success());
    assert_eq!(scratch.text("calls"), "");
    scratch.file("run/lunboot/device", "/dev/ublkb0\n");
    assert!(boot().status.success(), "the root is there all the same");
    assert_eq!(scratch.text("calls"), "lunboot exitrd /root\n");
}

#[test]
fn shellcheck_finds_nothing() {
    let scripts = [HOOK, SCRIPT, LAST_SCRIPT, CONFIGURATION, "tests/setup/build-tools", ".ci/run"];
    let mut command = Command::new("shellcheck");
    match command.arg("--shell=sh").args(scripts.map(source)).output() {
        Ok(output) => {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        }
        Err(error) if std::env::var_os("CI").is_none() => {
            println!("skipped: shellcheck does not run ({error}): apt-get install shellcheck");
        }
        Err(error) => panic!("shellcheck does not run ({error}): apt-get install shellcheck"),
    }
}
