//! The end of a machine, asked for as a person does, while something writes to its root.
//!
//! Each test reads as: how it ends, and that nothing which was flushed is lost, that the file
//! system was closed, and that the target has seen the end.

use std::process::Command;
use std::time::{Duration, Instant};

use super::lab::{Kernel, Machine, Root, Scratch, TARGET_NAME, Target, lab};
use super::{USER_NETWORK_HOST, check_root, root_path};

/// Longest time from the command to the end. On a quiet machine it takes 4 s, under emulation.
const PATIENCE: Duration = Duration::from_secs(60);

/// A root on a disk of its own, with its target.
struct Rig {
    scratch: Scratch,
    target: Target<'static>,
    kernel: Kernel,
}

impl Rig {
    fn new(test: &str, root: &Root, kernel: &Kernel) -> Rig {
        let scratch = Scratch::new(test);
        let mut target = Target::new(&scratch, None, scratch.disk_of(root));
        target.start(TARGET_NAME);
        Rig { scratch, target, kernel: kernel.clone() }
    }

    fn boot(&self, steps: &str) -> Machine {
        let path = root_path(USER_NETWORK_HOST, self.target.port, TARGET_NAME);
        let words = format!("lunboot={path} ip=dhcp root=LABEL=lunboot-root rw vmtest={steps}");
        let image = lab().image(&self.kernel);
        Machine::boot(&self.scratch, None, &self.kernel, &image, &words)
    }
}

/// Waits for the end that the last step asks for.
pub(super) fn end_by(machine: &mut Machine, step: &str) {
    let asked = wait_for(machine, step);
    end_within(machine, step, asked, PATIENCE);
}

/// Waits until the end is asked for; when that was.
fn wait_for(machine: &mut Machine, step: &str) -> Instant {
    machine.expect(&format!("VMTEST {step} now"));
    Instant::now()
}

fn end_within(machine: &mut Machine, step: &str, asked: Instant, patience: Duration) {
    match step {
        "poweroff" => machine.end("reboot: Power down"),
        "reboot" => machine.end("reboot: Restarting system"),
        // It goes on with the next kernel.
        _ => drop(machine.expect("lunboot: version")),
    }
    assert!(asked.elapsed() < patience, "{step} took {:?}", asked.elapsed());
    let recoveries = machine.said("EXT4-fs (").into_iter().filter(|line| line.contains("recovery"));
    assert_eq!(recoveries.count(), 0, "a journal was not clean");
}

/// What the machine was last told to have been flushed.
fn last_flushed(machine: &Machine) -> u32 {
    let told = machine.said("VMTEST load flushed=");
    number(told.last().expect("something was written"))
}

/// The number behind the first equals sign. The kernel may have put in a word of its own behind it.
fn number(line: &str) -> u32 {
    let digits = line.split('=').nth(1).expect("KEY=NUMBER").split(|c: char| !c.is_ascii_digit());
    digits.into_iter().next().and_then(|digits| digits.parse().ok()).expect("a number")
}

/// The target has seen the end: everything flushed, and then a logout or none.
fn check_farewell(rig: &Rig, expected: &str) {
    // When QEMU has ended, its end of the connection is closed, which the target has yet to notice.
    let deadline = Instant::now() + PATIENCE;
    let line = loop {
        let log = rig.scratch.read("target.log");
        let last = log.lines().rfind(|line| line.contains("logout") || line.starts_with("login"));
        match last.filter(|line| line.contains("logout")) {
            Some(line) => break line.to_owned(),
            None if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
            None => panic!("no end of the session in\n{log}"),
        }
    };
    assert!(line.contains(expected) && line.ends_with("writes, all flushed"), "{line}");
}

fn check_flushed(rig: &Rig, machine: &Machine) {
    let text = rig.scratch.read_from_disk("/var/tmp/flushed");
    let found: u32 = text.lines().last().and_then(|line| line.parse().ok()).expect("numbers");
    assert!(found >= last_flushed(machine), "{found} of {}", last_flushed(machine));
}

/// As often as `LUNBOOT_REBOOTS` says (`make soak-reboots`), or once.
fn reboots() -> usize {
    std::env::var("LUNBOOT_REBOOTS").map_or(1, |text| text.parse().expect("a number"))
}

/// systemd 257, ublk.
#[test]
#[ignore = "boots a virtual machine"]
fn debian_13_goes_on_after_kexec_and_after_reboots() {
    let root = Root::trixie();
    let mut rig = Rig::new("trixie", root, &root.kernels()[0]);
    rig.scratch.put(&lab().image(&rig.kernel), "/usr/local/bin/initramfs");
    let mut machine = rig.boot("root,load,stop,kexec");
    end_by(&mut machine, "kexec");
    // Supervisor, server, and the keeper of the network.
    assert_eq!(machine.fact("stop", "stopped"), "3");
    let mut before = last_flushed(&machine);
    machine.expect("VMTEST load found=");
    assert!(number(machine.said("VMTEST load found=")[0]) >= before);
    end_by(&mut machine, "reboot");
    check_root(&machine, "/dev/ublkb");
    check_flushed(&rig, &machine);
    for round in 0..reboots() {
        before = last_flushed(&machine);
        machine = rig.boot("root,load,reboot");
        let found = number(&machine.expect("VMTEST load found="));
        assert!(found >= before, "round {round}: {found} of {before}");
        let mut patience = PATIENCE;
        let asked = wait_for(&mut machine, "reboot");
        if round == 0 {
            // In the worst moment: the root is writable, and nobody is left who could help.
            machine.expect("Sending SIGTERM to remaining processes");
            rig.target.kill();
            machine.expect("away while the machine goes down");
            // Not a wait for something: the time that the target is away.
            let away = Duration::from_secs(20);
            std::thread::sleep(away);
            rig.target.start(TARGET_NAME);
            patience += away;
        }
        end_within(&mut machine, "reboot", asked, patience);
        check_farewell(&rig, "logout of iqn.");
        check_flushed(&rig, &machine);
        rig.scratch.check_disk(0);
    }
    rig.target.stop();
}

/// systemd 252. A target that does not come back keeps nobody from switching the machine off; what
/// it has got by then is whole.
#[test]
#[ignore = "boots a virtual machine"]
fn a_machine_goes_down_without_its_target() {
    let mut rig = Rig::new("alone", &lab().bookworm, &lab().new_kernel);
    let mut machine = rig.boot("root,load,poweroff");
    wait_for(&mut machine, "poweroff");
    machine.expect("Sending SIGTERM to remaining processes");
    rig.target.kill();
    let killed = Instant::now();
    let words = machine.expect("away while the machine goes down");
    assert!(words.contains("not longer than 40 s"), "{words}");
    machine.expect("requests have failed");
    machine
        .expect("exitrd: not logged out: ublkb0 is failing until the target is back at 10.0.2.2:");
    machine.end("reboot: Power down");
    assert!(killed.elapsed() < PATIENCE, "it took {:?}", killed.elapsed());
    // The journal does the rest, as after a loss of power.
    let mut e2fsck = Command::new("e2fsck");
    let status = e2fsck.args(["-f", "-p"]).arg(rig.scratch.path("disk.img")).status();
    assert!(status.expect("e2fsck").code().is_some_and(|code| code <= 1), "it needs a person");
    rig.scratch.check_disk(0);
    check_flushed(&rig, &machine);
}

/// An init that knows nothing of an `@` in argv[0]; nbd.
#[test]
#[ignore = "boots a virtual machine"]
fn sysvinit_spares_the_daemon_at_the_end() {
    let rig = Rig::new("sysvinit", Root::sysvinit(), &lab().old_kernel);
    for step in ["poweroff", "reboot"] {
        let mut machine = rig.boot(&format!("root,load,{step}"));
        end_by(&mut machine, step);
        check_root(&machine, "/dev/nbd");
        // Nobody is left to do it, but what counts is done.
        check_farewell(&rig, "closed by the initiator without logout");
        check_flushed(&rig, &machine);
        rig.scratch.check_disk(0);
    }
    rig.target.stop();
}
