//! Our initiator against the targets of others, and our target against their initiators: that our
//! reading of the standards is also theirs.
//!
//! LIO and open-iscsi's data path are parts of the kernel in which the tests run; tgt, open-iscsi's
//! login and the tools of libiscsi are Debian's packages.

mod kernel;
mod programs;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use kernel::{have, inside_with, wait_until};
use programs::{
    Attached, Load, NAME, Target, file_system_works, lunboot, no_io_error, random_file, run,
    try_run, used_kib,
};

fn inside(name: &str, body: impl FnOnce()) {
    inside_with(name, "768M", body);
}

/// A target of tgt's daemon with one disk as LUN 1, where it has its first.
struct Tgt {
    daemon: Child,
    file: PathBuf,
}

impl Tgt {
    const ADDRESS: &str = "127.0.0.1:3262";

    fn start(file: &Path) -> Tgt {
        let daemon = Command::new("tgtd")
            .args(["-f", "-C", "5", "--iscsi", &format!("portal={}", Tgt::ADDRESS)])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("tgtd starts");
        let admin = |words: &[&str]| {
            let words: Vec<&str> =
                ["-C", "5", "--lld", "iscsi"].iter().chain(words).copied().collect();
            try_run("tgtadm", &words)
        };
        wait_until("tgtd", || {
            admin(&["--op", "new", "--mode", "target", "--tid", "1", "-T", NAME]).ok
        });
        let path = file.to_str().unwrap();
        let unit = ["--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", "1", "-b", path];
        let bind = ["--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL"];
        for words in [&unit[..], &bind] {
            let said = admin(words);
            assert!(said.ok, "tgtadm {words:?}: {said:?}");
        }
        Tgt { daemon, file: file.to_owned() }
    }

    fn kill(&mut self) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
    }

    fn start_again(&mut self) {
        *self = Tgt::start(&self.file.clone());
    }
}

#[test]
fn tgt_serves_us() {
    if !have("tgt_serves_us", &["tgtd", "tgtadm"]) {
        return;
    }
    inside("tgt_serves_us", || {
        let file = random_file("tgt", 64, 21);
        let mut tgt = Tgt::start(&file);
        assert_eq!(lunboot(&["discover", Tgt::ADDRESS]), format!("{NAME} {},1", Tgt::ADDRESS));
        for driver in ["ublk", "nbd"] {
            let uri = format!("iscsi://{}/{NAME}/1", Tgt::ADDRESS);
            let disk = Attached::from_uri(&uri, &["--block", driver]);
            run("cmp", &[disk.text(), file.to_str().unwrap()]);
            let load = Load::new(&disk);
            load.goes_on();
            tgt.kill();
            wait_until("the loss", || disk.status("state") == "waiting for the target");
            tgt.start_again();
            wait_until("the disk to be back", || disk.status("state") == "logged in");
            load.goes_on();
            load.end();
            file_system_works(disk.text());
            run("cmp", &[disk.text(), file.to_str().unwrap()]);
            disk.detach();
        }
        tgt.kill();
    });
}

/// Linux's own target, with one disk in a file as LUN 0, open to everybody.
struct Lio;

impl Lio {
    const ADDRESS: &str = "127.0.0.1:3260";
    const ROOT: &str = "/sys/kernel/config/target";

    fn start(file: &Path) {
        let root = Path::new(Lio::ROOT);
        let store = root.join("core/fileio_0/disk");
        fs::create_dir_all(&store).unwrap();
        let size = fs::metadata(file).unwrap().len();
        let text = format!("fd_dev_name={},fd_dev_size={size}", file.display());
        fs::write(store.join("control"), text).unwrap();
        fs::write(store.join("wwn/vpd_unit_serial"), "lunboot-test").unwrap();
        fs::write(store.join("enable"), "1").unwrap();
        let group = root.join(format!("iscsi/{NAME}/tpgt_1"));
        fs::create_dir_all(group.join("lun/lun_0")).unwrap();
        symlink(&store, group.join("lun/lun_0/disk")).unwrap();
        fs::create_dir(group.join("np").join(Lio::ADDRESS)).unwrap();
        for (attribute, value) in [
            ("authentication", "0"),
            ("generate_node_acls", "1"),
            ("cache_dynamic_acls", "1"),
            ("demo_mode_write_protect", "0"),
        ] {
            fs::write(group.join("attrib").join(attribute), value).unwrap();
        }
        Lio::enable(true);
    }

    /// A group that is not enabled throws everybody out and lets nobody in.
    fn enable(on: bool) {
        let path = Path::new(Lio::ROOT).join(format!("iscsi/{NAME}/tpgt_1/enable"));
        fs::write(path, if on { "1" } else { "0" }).unwrap();
    }
}

#[test]
fn lio_serves_us() {
    inside("lio_serves_us", || {
        let file = random_file("lio", 64, 22);
        Lio::start(&file);
        assert_eq!(lunboot(&["discover", Lio::ADDRESS]), format!("{NAME} {},1", Lio::ADDRESS));
        for driver in ["ublk", "nbd"] {
            let uri = format!("iscsi://{}/{NAME}/0", Lio::ADDRESS);
            let disk = Attached::from_uri(&uri, &["--block", driver]);
            run("cmp", &[disk.text(), file.to_str().unwrap()]);
            let load = Load::new(&disk);
            load.goes_on();
            Lio::enable(false);
            wait_until("the loss", || disk.status("state") == "waiting for the target");
            Lio::enable(true);
            wait_until("the disk to be back", || disk.status("state") == "logged in");
            load.goes_on();
            load.end();
            file_system_works(disk.text());
            disk.detach();
        }
    });
}

#[test]
fn we_serve_the_kernel_and_open_iscsi() {
    if !have("we_serve_the_kernel_and_open_iscsi", &["iscsistart"]) {
        return;
    }
    inside("we_serve_the_kernel_and_open_iscsi", || {
        let file = random_file("disk", 64, 23);
        let mut target = Target::start(&[], &[&file]);
        let (address, port) = target.address.rsplit_once(':').unwrap();
        let me = "iqn.2026-11.example:open-iscsi";
        let words = ["-i", me, "-t", NAME, "-g", "1", "-a", address, "-p", port];
        run("iscsistart", &words);
        let disk = Path::new("/dev/sda");
        // The node comes before what is behind it.
        wait_until("the disk", || fs::File::open(disk).is_ok());
        run("cmp", &["/dev/sda", file.to_str().unwrap()]);
        let sysfs = |name: &str| {
            fs::read_to_string(format!("/sys/block/sda/queue/{name}")).unwrap().trim().to_owned()
        };
        assert_eq!(sysfs("write_cache"), "write back");
        assert_eq!(sysfs("fua"), "1");
        assert_eq!(sysfs("physical_block_size"), "4096");
        assert_ne!(sysfs("discard_max_bytes"), "0");

        file_system_works("/dev/sda");
        run("mount", &["/dev/sda", "/run/mnt"]);
        random_file("mnt/large", 24, 25);
        run("sync", &["--file-system", "/run/mnt"]);
        fs::remove_file("/run/mnt/large").unwrap();
        // What was freed can be trimmed when the journal has it.
        run("sync", &["--file-system", "/run/mnt"]);
        let before = used_kib(&file);
        run("fstrim", &["/run/mnt"]);
        assert!(used_kib(&file) + (20 << 10) < before, "{before} KiB before the trim");
        run("umount", &["/run/mnt"]);
        run("e2fsck", &["-f", "-n", "/dev/sda"]);
        run("cmp", &["/dev/sda", file.to_str().unwrap()]);
        run("blkdiscard", &["--force", "/dev/sda"]);
        assert_eq!(used_kib(&file), 0);
        fs::write("/sys/block/sda/device/delete", "1").unwrap();
        wait_until("the end of the disk", || !disk.exists());
        target.kill();
        no_io_error();
    });
}

#[test]
fn we_serve_libiscsi() {
    if !have("we_serve_libiscsi", &["iscsi-ls", "iscsi-inq", "iscsi-readcapacity16"]) {
        return;
    }
    inside("we_serve_libiscsi", || {
        let file = random_file("disk", 16, 24);
        let target = Target::start(&["--block-size", "4096"], &[&file]);
        let uri = target.uri(0);
        let list = run("iscsi-ls", &["-s", &format!("iscsi://{}", target.address)]);
        assert!(list.contains(&format!("Target:{NAME} Portal:{},1", target.address)), "{list}");
        assert!(list.contains("Lun:0    Type:DIRECT_ACCESS"), "{list}");
        assert!(run("iscsi-inq", &[&uri]).contains("Vendor:LUNBOOT"));
        for page in ["0x00", "0x80", "0x83", "0xb0", "0xb1", "0xb2"] {
            run("iscsi-inq", &["-e", "1", "-c", page, &uri]);
        }
        let capacity = run("iscsi-readcapacity16", &[&uri]);
        for line in ["RETURNED LOGICAL BLOCK ADDRESS:4095", "LOGICAL BLOCK LENGTH IN BYTES:4096"] {
            assert!(capacity.contains(line), "{capacity}");
        }
        target.stop();
    });
}
