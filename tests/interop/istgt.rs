//! istgt, the target of FreeBSD before it had one in its kernel.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::kernel::{have, wait_until};
use crate::programs::{
    Attached, Load, NAME, file_system_works, lunboot, random_file, run, secrets,
};
use crate::{
    INITIATOR, TARGET, WRONG, complains_with, holds_with, initiator_line, inside, target_line,
};

/// A target with one disk as LUN 0.
struct Istgt {
    daemon: Child,
}

impl Istgt {
    const ADDRESS: &str = "127.0.0.1:3263";

    /// With its words for who may log in, and for the digests that it demands.
    fn start(file: &Path, authentication: &str, digests: &str) -> Istgt {
        let ([name, secret], [its_name, its_secret]) = (INITIATOR, TARGET);
        let accounts = format!("[AuthGroup1]\n Auth {name} {secret} {its_name} {its_secret}\n");
        secrets("istgt.auth", &accounts);
        let (node, disk) = NAME.split_once(':').unwrap();
        // It does not start without its control portal.
        let configuration = format!(
            "[Global]\n NodeBase {node}\n PidFile /run/istgt.pid\n AuthFile /run/istgt.auth\n\
             [UnitControl]\n AuthMethod CHAP\n AuthGroup AuthGroup1\n\
             Portal control 127.0.0.1:3264\n Netmask 127.0.0.1\n\
             [PortalGroup1]\n Portal here {}\n\
             [InitiatorGroup1]\n InitiatorName ALL\n Netmask 127.0.0.0/8\n\
             [LogicalUnit1]\n TargetName {disk}\n Mapping PortalGroup1 InitiatorGroup1\n\
             AuthMethod {authentication}\n AuthGroup AuthGroup1\n UseDigest {digests}\n\
             UnitType Disk\n QueueDepth 32\n LUN0 Storage {} Auto\n",
            Istgt::ADDRESS,
            file.display(),
        );
        fs::write("/run/istgt.conf", configuration).unwrap();
        let daemon = Command::new("istgt")
            .args(["-D", "-c", "/run/istgt.conf"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("istgt starts");
        wait_until("istgt", || TcpStream::connect(Istgt::ADDRESS).is_ok());
        Istgt { daemon }
    }

    fn kill(mut self) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
        fs::remove_file("/run/istgt.auth").unwrap();
    }
}

fn uri() -> String {
    format!("iscsi://{}/{NAME}/0", Istgt::ADDRESS)
}

#[test]
fn istgt_serves_us() {
    if !have("istgt::istgt_serves_us", &["istgt"]) {
        return;
    }
    inside("istgt::istgt_serves_us", || {
        let file = random_file("istgt", 64, 41);
        let start = || Istgt::start(&file, "None", "Auto");
        let mut istgt = start();
        assert_eq!(lunboot(&["discover", Istgt::ADDRESS]), format!("{NAME} {},1", Istgt::ADDRESS));
        for driver in ["ublk", "nbd"] {
            let disk = Attached::from_uri(&uri(), &["--block", driver]);
            run("cmp", &[disk.text(), file.to_str().unwrap()]);
            let load = Load::new(&disk);
            load.goes_on();
            istgt.kill();
            wait_until("the loss", || disk.status("state") == "waiting for the target");
            istgt = start();
            wait_until("the disk to be back", || disk.status("state") == "logged in");
            load.goes_on();
            load.end();
            file_system_works(disk.text());
            run("cmp", &[disk.text(), file.to_str().unwrap()]);
            disk.detach();
        }
        istgt.kill();
    });
}

#[test]
fn istgt_serves_us_with_digests() {
    let name = "istgt::istgt_serves_us_with_digests";
    if !have(name, &["istgt"]) {
        return;
    }
    inside(name, || {
        let file = random_file("istgt", 64, 42);
        for (demanded, header, data) in [
            ("Header", "CRC32C", "none"),
            ("Data", "none", "CRC32C"),
            ("Header Data", "CRC32C", "CRC32C"),
        ] {
            let istgt = Istgt::start(&file, "None", demanded);
            let offer = ["--header-digest", "None,CRC32C", "--data-digest", "None,CRC32C"];
            let disk = Attached::from_uri(&uri(), &offer);
            assert_eq!(disk.status("header digest"), header);
            assert_eq!(disk.status("data digest"), data);
            let load = Load::new(&disk);
            load.goes_on();
            load.end();
            run("cmp", &[disk.text(), file.to_str().unwrap()]);
            assert_eq!(disk.status("reconnects"), "0");
            disk.detach();
            istgt.kill();
        }
    });
}

#[test]
fn istgt_serves_us_with_chap() {
    let name = "istgt::istgt_serves_us_with_chap";
    if !have(name, &["istgt"]) {
        return;
    }
    inside(name, || {
        let file = random_file("istgt", 16, 43);
        let ours = initiator_line(INITIATOR[1]);
        let one_way = secrets("one-way", &ours);
        let both = secrets("both", &(ours.clone() + &target_line(TARGET[1])));
        let wrong = secrets("wrong", &initiator_line(WRONG));
        let wrong_target = secrets("wrong-target", &(ours + &target_line(WRONG)));
        let refused = "the target refused our name or secret (0x0201)";
        let unproven = "the target could not prove that it knows its own secret";
        let istgt = Istgt::start(&file, "CHAP", "Auto");
        holds_with(&one_way, &uri(), &file);
        complains_with(&wrong, &uri(), refused);
        istgt.kill();
        let istgt = Istgt::start(&file, "CHAP Mutual", "Auto");
        holds_with(&both, &uri(), &file);
        complains_with(&wrong_target, &uri(), unproven);
        istgt.kill();
    });
}
