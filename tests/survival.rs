//! What the disk lives through: the death of its server, of the supervisor, of both sides at once.
//! The real programs in a real kernel, under load that compares every answer.

mod kernel;
mod programs;

use std::fs;
use std::time::{Duration, Instant};

use kernel::{Random, inside_with, wait_until, wait_within};
use programs::{
    Attached, Load, Target, file_system_works, refused, run, servers, sparse, static_lunboot,
    supervisors,
};
use rustix::process::{Pid, Signal, kill_process};

fn inside(name: &str, body: impl FnOnce()) {
    inside_with(name, "768M", body);
}

/// The only one of these, another one than `before`.
fn successor(of: fn() -> Vec<Pid>, before: Pid) -> Pid {
    let mut found = None;
    wait_until("another process", || {
        found = of().into_iter().find(|pid| *pid != before);
        found.is_some()
    });
    found.expect("it was found")
}

fn only(of: fn() -> Vec<Pid>) -> Pid {
    let all = of();
    assert_eq!(all.len(), 1, "{all:?}");
    all[0]
}

#[test]
fn the_server_is_killed_under_load_over_ublk() {
    inside("the_server_is_killed_under_load_over_ublk", || server_killed("ublk", 20));
}

#[test]
fn the_server_is_killed_under_load_over_nbd() {
    inside("the_server_is_killed_under_load_over_nbd", || server_killed("nbd", 1));
}

fn server_killed(driver: &str, times: u32) {
    let file = sparse("disk", 64);
    let target = Target::start(&[], &[&file]);
    let disk = Attached::new(&target, 0, &["--block", driver]);
    let supervisor = only(supervisors);
    let load = Load::new(&disk);
    let mut random = Random(7);
    for time in 1..=times {
        load.goes_on();
        // In the middle of anything.
        std::thread::sleep(Duration::from_millis(random.below(20)));
        let server = only(servers);
        kill_process(server, Signal::KILL).unwrap();
        successor(servers, server);
        if driver == "nbd" {
            // The driver looks only every 30 s for what a dead connection has left.
            let before = load.count();
            wait_within(Duration::from_secs(45), "I/O", || load.count() > before + 20);
        }
        load.goes_on();
        assert_eq!(disk.status("restarts"), time.to_string());
    }
    load.end();
    assert_eq!(only(supervisors), supervisor);
    let log = run("dmesg", &[]);
    assert!(log.contains("the storage server has died (signal 9)"), "{log}");
    file_system_works(disk.text());
    disk.detach();
    target.stop();
}

#[test]
fn a_supervisor_that_is_killed_is_replaced() {
    // A server starts it again as a program, in a place where no library is to be found.
    let Some(program) = static_lunboot() else { return };
    inside("a_supervisor_that_is_killed_is_replaced", || {
        let file = sparse("disk", 64);
        let target = Target::start(&[], &[&file]);
        let disk = Attached::by(&program, &target.uri(0), &["--block", "ublk"]);
        let load = Load::new(&disk);
        for _ in 0..5 {
            let (supervisor, server) = (only(supervisors), only(servers));
            kill_process(supervisor, Signal::KILL).unwrap();
            successor(supervisors, supervisor);
            load.goes_on();
            assert_eq!(only(servers), server, "it has nothing to do with that");
            // The new one does its work.
            kill_process(server, Signal::KILL).unwrap();
            successor(servers, server);
            load.goes_on();
        }
        assert_eq!(disk.status("restarts"), "5");
        load.end();
        disk.detach();
        target.stop();
    });
}

/// The target is away when the server dies, and the next one has to wait for it.
#[test]
fn server_and_target_are_killed_at_once() {
    inside("server_and_target_are_killed_at_once", || {
        let file = sparse("disk", 64);
        let mut target = Target::start(&[], &[&file]);
        let disk = Attached::new(&target, 0, &["--block", "ublk"]);
        let load = Load::new(&disk);
        for _ in 0..5 {
            load.goes_on();
            let server = only(servers);
            target.kill();
            kill_process(server, Signal::KILL).unwrap();
            let second = successor(servers, server);
            // One that waits for the target can die as well.
            kill_process(second, Signal::KILL).unwrap();
            successor(servers, second);
            target.start_again();
            load.goes_on();
        }
        load.end();
        file_system_works(disk.text());
        disk.detach();
        target.stop();
    });
}

/// What systemd does to every process when a machine goes down, only longer.
#[test]
fn a_daemon_that_is_stopped_for_a_while_goes_on() {
    inside("a_daemon_that_is_stopped_for_a_while_goes_on", || {
        for driver in ["ublk", "nbd"] {
            let file = sparse("disk", 64);
            let target = Target::start(&[], &[&file]);
            let disk = Attached::new(&target, 0, &["--block", driver]);
            let load = Load::new(&disk);
            load.goes_on();
            let all = [servers(), supervisors()].concat();
            all.iter().for_each(|pid| kill_process(*pid, Signal::STOP).unwrap());
            let stopped = Instant::now();
            wait_until("time to pass", || stopped.elapsed() > Duration::from_secs(5));
            all.iter().for_each(|pid| kill_process(*pid, Signal::CONT).unwrap());
            load.goes_on();
            load.end();
            assert_eq!(disk.status("restarts"), "0");
            disk.detach();
            target.stop();
        }
    });
}

/// Neither the lack of memory nor a signal may end it, and it may not wait for its own disk.
#[test]
fn every_process_of_the_daemon_is_protected() {
    inside("every_process_of_the_daemon_is_protected", || {
        let file = sparse("disk", 64);
        let target = Target::start(&[], &[&file]);
        let disk = Attached::new(&target, 0, &["--block", "ublk"]);
        let load = Load::new(&disk);
        for _ in 0..2 {
            load.goes_on();
            for pid in [only(servers), only(supervisors)] {
                assert_protected(pid);
            }
            let server = only(servers);
            for signal in [Signal::TERM, Signal::HUP, Signal::INT, Signal::PIPE] {
                kill_process(server, signal).unwrap();
                kill_process(only(supervisors), signal).unwrap();
            }
            load.goes_on();
            assert_eq!(only(servers), server);
            // The next one must be as well protected.
            kill_process(server, Signal::KILL).unwrap();
            successor(servers, server);
        }
        load.end();
        disk.detach();
        target.stop();
    });
}

fn assert_protected(pid: Pid) {
    let file = |name: &str| format!("/proc/{}/{name}", pid.as_raw_nonzero());
    let text = |name: &str| fs::read_to_string(file(name)).unwrap();
    assert_eq!(text("oom_score_adj"), "-1000\n");
    assert!(text("cmdline").starts_with('@'), "{}", text("cmdline"));
    let status = text("status");
    let row = |name: &str| {
        let row = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        row.split_whitespace().next().unwrap().parse::<u64>().unwrap()
    };
    // All that it has mapped but what cannot be locked: the kernel's own pages.
    assert!(row("VmLck:") * 10 > row("VmSize:") * 9, "{status}");
    assert_ne!(fs::read_link(file("ns/mnt")).unwrap(), fs::read_link("/proc/self/ns/mnt").unwrap());
    // PF_LOCAL_THROTTLE and PF_MEMALLOC_NOIO (linux/sched.h), which PR_SET_IO_FLUSHER sets.
    const FLUSHER: u64 = 0x0010_0000 | 0x0008_0000;
    for thread in fs::read_dir(file("task")).unwrap() {
        let stat = fs::read_to_string(thread.unwrap().path().join("stat")).unwrap();
        let flags = stat.rsplit_once(") ").unwrap().1.split(' ').nth(6).unwrap();
        let flags: u64 = flags.parse().unwrap();
        assert_eq!(flags & FLUSHER, FLUSHER, "{stat}");
    }
}

/// A running disk moves to another version of the program.
#[test]
fn the_daemon_is_replaced_under_load() {
    let Some(program) = static_lunboot() else { return };
    inside("the_daemon_is_replaced_under_load", || {
        let file = sparse("disk", 64);
        let target = Target::start(&[], &[&file]);
        let disk = Attached::by(&program, &target.uri(0), &["--block", "ublk"]);
        let load = Load::new(&disk);
        for _ in 0..5 {
            load.goes_on();
            let (server, supervisor) = (only(servers), only(supervisors));
            let said = run(program.to_str().unwrap(), &["replace"]);
            let name = disk.path.file_name().unwrap().to_str().unwrap();
            assert_eq!(said, format!("{name} {}", env!("CARGO_PKG_VERSION")));
            load.goes_on();
            let (next, watching) = (only(servers), only(supervisors));
            assert!(next != server && watching != supervisor);
            let runs = fs::read_link(format!("/proc/{}/exe", next.as_raw_nonzero())).unwrap();
            assert!(runs.to_str().unwrap().starts_with("/memfd:lunboot"), "{runs:?}");
        }
        assert_eq!(disk.status("restarts"), "0");
        // A program that is none changes nothing.
        let server = only(servers);
        let said = refused(&["replace", "/etc/hostname"]);
        assert!(said.contains("Exec format error (os error 8): it must be a static"), "{said}");
        let said = refused(&["replace", "/bin/true"]);
        assert!(said.contains("(os error 2): it must be a static program"), "{said}");
        let said = refused(&["replace", "/etc/nothing"]);
        assert!(said.contains("replace: /etc/nothing: No such file"), "{said}");
        load.goes_on();
        assert_eq!(only(servers), server);
        // And the one that is there now can still be replaced by one that dies.
        kill_process(server, Signal::KILL).unwrap();
        successor(servers, server);
        load.goes_on();
        load.end();
        file_system_works(disk.text());
        disk.detach();
        target.stop();
    });
}
