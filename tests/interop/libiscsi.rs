//! The tools of libiscsi, an initiator in user space.

use crate::kernel::have;
use crate::programs::{NAME, Target, random_file, run, secrets, try_run};
use crate::{INITIATOR, TARGET, WRONG, initiator_line, inside, target_line};

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

/// CHAP with MD5, the one algorithm of libiscsi 1.19: either side may have to prove who it is.
#[test]
fn we_serve_libiscsi_with_chap() {
    let name = "libiscsi::we_serve_libiscsi_with_chap";
    if !have(name, &["iscsi-ls", "iscsi-inq"]) {
        return;
    }
    inside(name, || {
        let file = random_file("disk", 16, 29);
        let lines = initiator_line(INITIATOR[1]) + &target_line(TARGET[1]);
        let secrets = secrets("secrets", &lines);
        let target = Target::start(&["--secrets", secrets.to_str().unwrap()], &[&file]);
        let ours = format!("{}%{}@", INITIATOR[0], INITIATOR[1]);
        let theirs = |secret: &str| format!("?target_user={}&target_password={secret}", TARGET[0]);
        let inquire = |user: &str, arguments: &str| {
            let uri = format!("iscsi://{user}{}/{NAME}/0{arguments}", target.address);
            try_run("iscsi-inq", &[&uri])
        };
        for said in [inquire(&ours, ""), inquire(&ours, &theirs(TARGET[1]))] {
            assert!(said.ok && said.out.contains("Vendor:LUNBOOT"), "{said:?}");
        }
        for user in ["", &format!("{}%{WRONG}@", INITIATOR[0]), &format!("x%{}@", INITIATOR[1])] {
            let said = inquire(user, "");
            assert!(!said.ok && said.err.contains("Authentication failure(513)"), "{said:?}");
        }
        let said = inquire(&ours, &theirs(WRONG));
        assert!(!said.ok && said.err.contains("Invalid CHAP_R response"), "{said:?}");

        let list = run("iscsi-ls", &["-s", &format!("iscsi://{ours}{}", target.address)]);
        assert!(list.contains(&format!("Target:{NAME}")), "{list}");
        assert!(!try_run("iscsi-ls", &[&format!("iscsi://{}", target.address)]).ok);
        target.stop();
    });
}
