//! Our initiator against the targets of others, and our target against their initiators: that our
//! reading of the standards is also theirs.
//!
//! LIO and open-iscsi's data path are parts of the kernel in which the tests run; tgt, istgt,
//! open-iscsi's login, the tools of libiscsi and QEMU's driver are Debian's packages.

mod istgt;
#[path = "../kernel/mod.rs"]
mod kernel;
mod libiscsi;
mod lio;
mod open_iscsi;
#[path = "../programs/mod.rs"]
mod programs;
mod qemu;
mod tgt;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use kernel::wait_until;
use programs::{Attached, LUNBOOT, Load, daemons, run};

fn inside(name: &str, body: impl FnOnce()) {
    kernel::inside_with(name, "768M", body);
}

/// Who logs in, and how the target proves itself: names and secrets of CHAP.
const INITIATOR: [&str; 2] = ["node7", "correct-horse-7"];
const TARGET: [&str; 2] = ["root", "battery-staple-9"];
const WRONG: &str = "another-secret-0";

/// Lines of a file of secrets.
fn initiator_line(secret: &str) -> String {
    format!("initiator {} {secret}\n", INITIATOR[0])
}

fn target_line(secret: &str) -> String {
    format!("target {} {secret}\n", TARGET[0])
}

/// What a target wants: digests, and everything that decides how written data comes to it.
struct Wish {
    header_digest: bool,
    data_digest: bool,
    initial_r2t: bool,
    immediate_data: bool,
    max_recv_bytes: u32,
    first_burst_bytes: u32,
    max_burst_bytes: u32,
    max_outstanding_r2t: u32,
}

/// All four pairs of digests, each with a way of its own to ask for data.
const WISHES: [Wish; 4] = [
    Wish {
        header_digest: false,
        data_digest: false,
        initial_r2t: true,
        immediate_data: false,
        max_recv_bytes: 8192,
        first_burst_bytes: 8192,
        max_burst_bytes: 16_384,
        max_outstanding_r2t: 1,
    },
    Wish {
        header_digest: true,
        data_digest: false,
        initial_r2t: true,
        immediate_data: true,
        max_recv_bytes: 4096,
        first_burst_bytes: 65_536,
        max_burst_bytes: 131_072,
        max_outstanding_r2t: 4,
    },
    Wish {
        header_digest: false,
        data_digest: true,
        initial_r2t: false,
        immediate_data: false,
        max_recv_bytes: 16_384,
        first_burst_bytes: 32_768,
        max_burst_bytes: 65_536,
        max_outstanding_r2t: 8,
    },
    Wish {
        header_digest: true,
        data_digest: true,
        initial_r2t: false,
        immediate_data: true,
        max_recv_bytes: 65_536,
        first_burst_bytes: 131_072,
        max_burst_bytes: 1 << 20,
        max_outstanding_r2t: 2,
    },
];

impl Wish {
    /// As keys of a login.
    fn keys(&self) -> [(&'static str, String); 8] {
        let digest = |wanted| if wanted { "CRC32C" } else { "None" }.to_owned();
        let boolean = |wanted| if wanted { "Yes" } else { "No" }.to_owned();
        [
            ("HeaderDigest", digest(self.header_digest)),
            ("DataDigest", digest(self.data_digest)),
            ("InitialR2T", boolean(self.initial_r2t)),
            ("ImmediateData", boolean(self.immediate_data)),
            ("MaxRecvDataSegmentLength", self.max_recv_bytes.to_string()),
            ("FirstBurstLength", self.first_burst_bytes.to_string()),
            ("MaxBurstLength", self.max_burst_bytes.to_string()),
            ("MaxOutstandingR2T", self.max_outstanding_r2t.to_string()),
        ]
    }

    /// Attaches a disk of a target that has this wish: what was agreed on is what it wanted, data
    /// of all sizes comes and goes, and all of it is in the target's file.
    fn holds(&self, uri: &str, file: &Path) {
        let disk = Attached::from_uri(uri, &["--block", "ublk"]);
        let digest = |wanted| if wanted { "CRC32C" } else { "none" };
        assert_eq!(disk.status("header digest"), digest(self.header_digest));
        assert_eq!(disk.status("data digest"), digest(self.data_digest));
        let (first, max) = (self.first_burst_bytes, self.max_burst_bytes);
        assert_eq!(disk.status("first burst"), format!("{first} bytes"));
        assert_eq!(disk.status("max burst"), format!("{max} bytes"));
        assert_eq!(disk.status("longest PDU out"), format!("{} bytes", self.max_recv_bytes));
        let load = Load::new(&disk);
        load.goes_on();
        load.end();
        run("cmp", &[disk.text(), file.to_str().unwrap()]);
        assert_eq!(disk.status("reconnects"), "0");
        disk.detach();
    }
}

/// With these secrets the disk is the one in this file.
fn holds_with(secrets: &Path, uri: &str, file: &Path) {
    let disk = Attached::from_uri(uri, &["--secrets", secrets.to_str().unwrap()]);
    run("cmp", &[disk.text(), file.to_str().unwrap()]);
    disk.detach();
}

/// With these secrets there is no disk, however often it is tried, and it is said why.
fn complains_with(secrets: &Path, uri: &str, why: &str) {
    let mut attach = Command::new(LUNBOOT)
        .args(["attach", "--secrets", secrets.to_str().unwrap(), uri])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("lunboot starts");
    let said = BufReader::new(attach.stderr.take().unwrap()).lines().map_while(Result::ok);
    let mut said = said.take_while(|line| !line.contains("try 4"));
    assert!(said.any(|line| line.contains(why)), "nothing of {why:?}");
    attach.kill().unwrap();
    attach.wait().unwrap();
    wait_until("the end of the daemon", || daemons() == 0);
}
