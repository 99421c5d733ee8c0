//! Linux's own target, LIO.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::kernel::wait_until;
use crate::programs::{
    Attached, Load, NAME, file_system_works, lunboot, no_io_error, random_file, run, sparse,
};
use crate::{WISHES, inside};

/// A target with one disk in a file as LUN 0, open to everybody.
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
        let group = Lio::group();
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

    /// The target's portal group, as a folder.
    fn group() -> PathBuf {
        Path::new(Lio::ROOT).join(format!("iscsi/{NAME}/tpgt_1"))
    }

    /// What it wants of the next login.
    fn set(key: &str, value: &str) {
        fs::write(Lio::group().join("param").join(key), value).unwrap();
    }

    /// A property of the disk.
    fn set_disk(attribute: &str, value: &str) {
        let store = Path::new(Lio::ROOT).join("core/fileio_0/disk/attrib");
        fs::write(store.join(attribute), value).unwrap();
    }

    /// A group that is not enabled throws everybody out and lets nobody in.
    fn enable(on: bool) {
        fs::write(Lio::group().join("enable"), if on { "1" } else { "0" }).unwrap();
    }
}

fn uri() -> String {
    format!("iscsi://{}/{NAME}/0", Lio::ADDRESS)
}

#[test]
fn lio_serves_us() {
    inside("lio::lio_serves_us", || {
        let file = random_file("lio", 64, 22);
        Lio::start(&file);
        assert_eq!(lunboot(&["discover", Lio::ADDRESS]), format!("{NAME} {},1", Lio::ADDRESS));
        for driver in ["ublk", "nbd"] {
            let disk = Attached::from_uri(&uri(), &["--block", driver]);
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
fn we_talk_as_lio_wants() {
    inside("lio::we_talk_as_lio_wants", || {
        let file = random_file("lio", 16, 32);
        Lio::start(&file);
        for wish in WISHES {
            for (key, value) in wish.keys() {
                Lio::set(key, &value);
            }
            // What it declares that it can receive has the name of what it sends.
            Lio::set("MaxXmitDataSegmentLength", &wish.max_recv_bytes.to_string());
            wish.holds(&uri(), &file);
        }
    });
}

/// The kernel sends flushes to a disk that says that it has a cache, and none to one without.
#[test]
fn lios_write_cache_is_known() {
    inside("lio::lios_write_cache_is_known", || {
        Lio::start(&sparse("lio", 64));
        for (attribute, cache, fua) in [("0", "write through", "0"), ("1", "write back", "1")] {
            Lio::set_disk("emulate_write_cache", attribute);
            for driver in ["ublk", "nbd"] {
                let disk = Attached::from_uri(&uri(), &["--block", driver]);
                assert_eq!(disk.sysfs("queue/write_cache"), cache, "{driver}");
                assert_eq!(disk.sysfs("queue/fua"), fua, "{driver}");
                if driver == "ublk" {
                    file_system_works(disk.text());
                }
                no_io_error();
                disk.detach();
            }
        }
    });
}
