//! The tools of libiscsi, an initiator in user space.

use crate::inside;
use crate::kernel::have;
use crate::programs::{NAME, Target, random_file, run};

#[test]
fn we_serve_libiscsi() {
    if !have("libiscsi::we_serve_libiscsi", &["iscsi-ls", "iscsi-inq", "iscsi-readcapacity16"]) {
        return;
    }
    inside("libiscsi::we_serve_libiscsi", || {
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

/// Many requests at once, with and without a digest, and none of them fails.
#[test]
fn we_stand_libiscsis_load() {
    let name = "libiscsi::we_stand_libiscsis_load";
    if !have(name, &["iscsi-perf"]) {
        return;
    }
    inside(name, || {
        let file = random_file("disk", 16, 26);
        let target = Target::start(&[], &[&file]);
        for digest in ["none", "crc32c"] {
            let uri = format!("{}?header_digest={digest}", target.uri(0));
            let said = run("iscsi-perf", &["-r", "-m", "32", "-b", "64", "-t", "1", &uri]);
            assert!(said.contains("iops average"), "{said}");
        }
        target.stop();
    });
}
