//! The target of tgt, a daemon in user space.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::kernel::{have, wait_until};
use crate::programs::{
    Attached, Load, NAME, Said, file_system_works, lunboot, random_file, run, secrets, try_run,
};
use crate::{
    INITIATOR, TARGET, WISHES, WRONG, complains_with, holds_with, initiator_line, inside,
    target_line,
};

/// A target with one disk as LUN 1, where tgt has its first.
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

    /// What it wants of the next login.
    fn set(&self, key: &str, value: &str) {
        let target = ["--op", "update", "--mode", "target", "--tid", "1"];
        let said = admin(&[&target[..], &["--name", key, "--value", value]].concat());
        assert!(said.ok, "{key}={value}: {said:?}");
    }

    /// A name and a secret that it wants of the initiator, or uses for itself.
    fn demand(&self, [name, secret]: [&str; 2], options: &[&str]) {
        let account = ["--mode", "account", "--user", name];
        let new = [&["--op", "new"], &account[..], &["--password", secret]].concat();
        let bind = [&["--op", "bind", "--tid", "1"], &account[..], options].concat();
        for words in [new, bind] {
            let said = admin(&words);
            assert!(said.ok, "{name}: {said:?}");
        }
    }

    fn kill(&mut self) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
    }

    fn start_again(&mut self) {
        *self = Tgt::start(&self.file.clone());
    }
}

fn admin(words: &[&str]) -> Said {
    try_run("tgtadm", &[&["-C", "5", "--lld", "iscsi"], words].concat())
}

fn uri() -> String {
    format!("iscsi://{}/{NAME}/1", Tgt::ADDRESS)
}

#[test]
fn tgt_serves_us() {
    if !have("tgt::tgt_serves_us", &["tgtd", "tgtadm"]) {
        return;
    }
    inside("tgt::tgt_serves_us", || {
        let file = random_file("tgt", 64, 21);
        let mut tgt = Tgt::start(&file);
        assert_eq!(lunboot(&["discover", Tgt::ADDRESS]), format!("{NAME} {},1", Tgt::ADDRESS));
        for driver in ["ublk", "nbd"] {
            let disk = Attached::from_uri(&uri(), &["--block", driver]);
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

#[test]
fn we_talk_as_tgt_wants() {
    if !have("tgt::we_talk_as_tgt_wants", &["tgtd", "tgtadm"]) {
        return;
    }
    inside("tgt::we_talk_as_tgt_wants", || {
        let file = random_file("tgt", 16, 31);
        let mut tgt = Tgt::start(&file);
        for wish in WISHES {
            for (key, value) in wish.keys() {
                tgt.set(key, &value);
            }
            wish.holds(&uri(), &file);
        }
        tgt.kill();
    });
}

/// tgt takes SHA-256 of our list, and has no room for its response: MD5 alone is tried next.
#[test]
fn tgt_serves_us_with_chap() {
    let name = "tgt::tgt_serves_us_with_chap";
    if !have(name, &["tgtd", "tgtadm"]) {
        return;
    }
    inside(name, || {
        let file = random_file("tgt", 16, 34);
        let mut tgt = Tgt::start(&file);
        let ours = initiator_line(INITIATOR[1]);
        let one_way = secrets("one-way", &ours);
        let both = secrets("both", &(ours.clone() + &target_line(TARGET[1])));
        let wrong = secrets("wrong", &initiator_line(WRONG));
        let wrong_target = secrets("wrong-target", &(ours + &target_line(WRONG)));
        tgt.demand(INITIATOR, &[]);
        holds_with(&one_way, &uri(), &file);
        complains_with(&wrong, &uri(), "the target refused our name or secret (0x0201)");
        tgt.demand(TARGET, &["--outgoing"]);
        holds_with(&one_way, &uri(), &file);
        holds_with(&both, &uri(), &file);
        let why = "the target could not prove that it knows its own secret";
        complains_with(&wrong_target, &uri(), why);
        tgt.kill();
    });
}
