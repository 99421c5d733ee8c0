//! open-iscsi: its programs log in, the kernel's iscsi_tcp moves the data.

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::kernel::{have, wait_until};
use crate::programs::{
    Attached, Load, NAME, SCRATCH, Said, Target, WriteBack, file_system_works, no_io_error,
    random_file, run, secrets, sparse, try_run, used_kib,
};
use crate::{INITIATOR, TARGET, WRONG, initiator_line, inside, target_line};

/// open-iscsi's daemon with a configuration and a database of its own.
struct OpenIscsi {
    daemon: Child,
}

const ME: &str = "iqn.2026-11.example:open-iscsi";

impl OpenIscsi {
    fn start() -> OpenIscsi {
        // The kernel of the test has this machine's files, but not its mounts.
        run("mount", &["-t", "tmpfs", "tmpfs", "/etc/iscsi"]);
        fs::create_dir_all("/run/lock").unwrap();
        fs::write("/etc/iscsi/initiatorname.iscsi", format!("InitiatorName={ME}\n")).unwrap();
        fs::write("/etc/iscsi/iscsid.conf", "").unwrap();
        let daemon = Command::new("iscsid")
            .arg("-f")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("iscsid starts");
        wait_until("iscsid", || {
            let sockets = fs::read_to_string("/proc/net/unix").unwrap();
            sockets.contains("@ISCSIADM_ABSTRACT_NAMESPACE")
        });
        OpenIscsi { daemon }
    }

    /// Finds the target anew, to be logged in to with these settings.
    fn discover(
        &self,
        address: &str,
        settings: &[(impl fmt::Display, impl fmt::Display)],
    ) -> String {
        let lines = settings.iter().map(|(key, value)| format!("{key} = {value}\n"));
        fs::write("/etc/iscsi/iscsid.conf", lines.collect::<String>()).unwrap();
        run("iscsiadm", &["-m", "discovery", "-t", "sendtargets", "-o", "new", "-p", address])
    }

    fn log_in(&self) -> Said {
        try_run("iscsiadm", &["-m", "node", "-T", NAME, "--login"])
    }

    fn log_out(&self) {
        run("iscsiadm", &["-m", "node", "-T", NAME, "--logout"]);
        wait_until("the end of the disk", || !Path::new(DISK).exists());
    }

    fn session(&self) -> String {
        run("iscsiadm", &["-m", "session", "-P", "3"])
    }

    fn stop(mut self) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
    }
}

/// The first disk of the kernel.
const DISK: &str = "/dev/sda";

/// The node comes before what is behind it.
fn wait_for_disk() {
    wait_until("the disk", || fs::File::open(DISK).is_ok());
}

#[test]
fn we_serve_the_kernel_and_open_iscsi() {
    if !have("open_iscsi::we_serve_the_kernel_and_open_iscsi", &["iscsistart"]) {
        return;
    }
    inside("open_iscsi::we_serve_the_kernel_and_open_iscsi", || {
        let file = random_file("disk", 64, 23);
        let mut target = Target::start(&[], &[&file]);
        let (address, port) = target.address.rsplit_once(':').unwrap();
        let words = ["-i", ME, "-t", NAME, "-g", "1", "-a", address, "-p", port];
        run("iscsistart", &words);
        wait_for_disk();
        run("cmp", &[DISK, file.to_str().unwrap()]);
        let sysfs = |name: &str| {
            fs::read_to_string(format!("/sys/block/sda/queue/{name}")).unwrap().trim().to_owned()
        };
        assert_eq!(sysfs("write_cache"), "write back");
        assert_eq!(sysfs("fua"), "1");
        assert_eq!(sysfs("physical_block_size"), "512");
        assert_eq!(sysfs("minimum_io_size"), "4096");
        assert_ne!(sysfs("discard_max_bytes"), "0");

        file_system_works(DISK);
        run("mount", &[DISK, "/run/mnt"]);
        random_file("mnt/large", 24, 25);
        run("sync", &["--file-system", "/run/mnt"]);
        fs::remove_file("/run/mnt/large").unwrap();
        // What was freed can be trimmed when the journal has it.
        run("sync", &["--file-system", "/run/mnt"]);
        let before = used_kib(&file);
        run("fstrim", &["/run/mnt"]);
        assert!(used_kib(&file) + (20 << 10) < before, "{before} KiB before the trim");
        run("umount", &["/run/mnt"]);
        run("e2fsck", &["-f", "-n", DISK]);
        run("cmp", &[DISK, file.to_str().unwrap()]);
        run("blkdiscard", &["--force", DISK]);
        assert_eq!(used_kib(&file), 0);
        fs::write("/sys/block/sda/device/delete", "1").unwrap();
        wait_until("the end of the disk", || !Path::new(DISK).exists());
        target.kill();
        no_io_error();
    });
}

/// With both digests; the target goes away and comes back, under an idle session and under none.
#[test]
fn we_serve_open_iscsi_with_digests() {
    let name = "open_iscsi::we_serve_open_iscsi_with_digests";
    if !have(name, &["iscsid", "iscsiadm"]) {
        return;
    }
    inside(name, || {
        let file = random_file("disk", 64, 27);
        let mut target = Target::start(&[], &[&file]);
        let initiator = OpenIscsi::start();
        let settings = [
            ("node.conn[0].iscsi.HeaderDigest", "CRC32C"),
            ("node.conn[0].iscsi.DataDigest", "CRC32C"),
            ("node.conn[0].timeo.noop_out_interval", "1"),
            ("node.conn[0].timeo.noop_out_timeout", "1"),
            ("node.conn[0].timeo.login_timeout", "2"),
            ("node.session.initial_login_retry_max", "1"),
        ];
        let found = initiator.discover(&target.address, &settings);
        assert_eq!(found, format!("{},1 {NAME}", target.address));
        let said = initiator.log_in();
        assert!(said.ok, "{said:?}");
        wait_for_disk();
        let session = initiator.session();
        for line in ["HeaderDigest: CRC32C", "DataDigest: CRC32C"] {
            assert!(session.contains(line), "no {line:?} in {session}");
        }
        file_system_works(DISK);
        run("cmp", &[DISK, file.to_str().unwrap()]);

        let state = || initiator.session().contains("iSCSI Session State: LOGGED_IN");
        target.kill();
        wait_until("the loss", || !state());
        target.start_again();
        wait_until("the session to be back", state);
        run("e2fsck", &["-f", "-n", DISK]);
        initiator.log_out();

        target.kill();
        assert!(!initiator.log_in().ok);
        target.start_again();
        let said = initiator.log_in();
        assert!(said.ok, "{said:?}");
        wait_for_disk();
        run("e2fsck", &["-f", "-n", DISK]);
        initiator.log_out();
        no_io_error();
        initiator.stop();
        target.stop();
    });
}

/// It asks for the logout; iscsid logs out, and in again when the target is back.
#[test]
fn we_stop_and_start_under_the_load_of_open_iscsi() {
    let name = "open_iscsi::we_stop_and_start_under_the_load_of_open_iscsi";
    if !have(name, &["iscsid", "iscsiadm"]) {
        return;
    }
    inside(name, || {
        let log = Path::new(SCRATCH).join("log");
        let files = [sparse("disk", 64), sparse("other", 64)];
        let mut target = Target::start_logging(&log, &[&files[0], &files[1]]);
        let initiator = OpenIscsi::start();
        initiator.discover(&target.address, &[("node.conn[0].timeo.login_timeout", "2")]);
        let said = initiator.log_in();
        assert!(said.ok, "{said:?}");
        let disks = [DISK, "/dev/sdb"].map(|path| {
            wait_until("the disk", || fs::File::open(path).is_ok());
            Attached { path: path.into() }
        });
        let (load, write_back) = (Load::new(&disks[0]), WriteBack::new(&disks[1]));
        for time in 1..=4 {
            load.goes_on();
            target.end();
            let said = fs::read_to_string(&log).unwrap();
            assert_eq!(said.matches("logout of").count(), time, "{said}");
            target.start_again();
            load.goes_on();
        }
        load.end();
        write_back.end();
        for (disk, file) in disks.iter().zip(&files) {
            run("cmp", &[disk.text(), file.to_str().unwrap()]);
        }
        file_system_works(DISK);
        initiator.log_out();
        initiator.stop();
        target.stop();
        no_io_error();
    });
}

/// Each algorithm of CHAP, with a target that proves itself as well and with one that does not.
#[test]
fn we_serve_open_iscsi_with_chap() {
    let name = "open_iscsi::we_serve_open_iscsi_with_chap";
    if !have(name, &["iscsid", "iscsiadm"]) {
        return;
    }
    inside(name, || {
        let file = random_file("disk", 4, 30);
        let lines = initiator_line(INITIATOR[1]) + &target_line(TARGET[1]);
        let secrets = secrets("secrets", &lines);
        let target = Target::start(&["--secrets", secrets.to_str().unwrap()], &[&file]);
        let initiator = OpenIscsi::start();
        let settings = |algorithm: &str, ours: &str, theirs: Option<&str>| {
            let mut settings = vec![("node.session.initial_login_retry_max".into(), "1".into())];
            for kind in ["node.session", "discovery.sendtargets"] {
                let mut set = |key: &str, value: &str| {
                    settings.push((format!("{kind}.auth.{key}"), value.to_owned()));
                };
                set("authmethod", "CHAP");
                set("chap_algs", algorithm);
                set("username", INITIATOR[0]);
                set("password", ours);
                if let Some(theirs) = theirs {
                    set("username_in", TARGET[0]);
                    set("password_in", theirs);
                }
            }
            settings
        };
        for algorithm in ["SHA3-256", "SHA256", "SHA1", "MD5", "MD5,SHA1,SHA256,SHA3-256"] {
            for theirs in [None, Some(TARGET[1])] {
                initiator.discover(&target.address, &settings(algorithm, INITIATOR[1], theirs));
                let said = initiator.log_in();
                assert!(said.ok, "{algorithm} {theirs:?}: {said:?}");
                wait_for_disk();
                run("cmp", &[DISK, file.to_str().unwrap()]);
                initiator.log_out();
            }
        }
        // Their record of the target is from a discovery that went well.
        let cases = [
            (WRONG, None, "login failed due to authorization failure"),
            (INITIATOR[1], Some(WRONG), "non-retryable iSCSI login failure"),
        ];
        for (ours, theirs, why) in cases {
            for (key, value) in settings("SHA256", ours, theirs) {
                if key.starts_with("node.") {
                    let node = ["-m", "node", "-T", NAME, "-o", "update"];
                    run("iscsiadm", &[&node[..], &["-n", &key, "-v", &value]].concat());
                }
            }
            let said = initiator.log_in();
            assert!(!said.ok && said.err.contains(why), "{said:?}");
        }
        initiator.stop();
        target.stop();
    });
}
