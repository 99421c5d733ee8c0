//! The two real programs over 127.0.0.1, in a real kernel: what a person sees, and what must hold
//! while targets come and go. Each test is the whole life of a machine of its own, so that what one
//! leaves behind cannot help or harm another.

mod kernel;
mod programs;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kernel::{Aligned, O_DIRECT, Random, inside_with, wait_until, wait_within};
use programs::{
    Attached, LUNBOOT, Load, NAME, Target, WriteBack, daemons, file_system_works, lunboot,
    no_io_error, open, random_file, refused, run, servers, sparse, try_run, used_kib,
};
use rustix::process::{Pid, Signal, kill_process};

const MIB: u64 = 1 << 20;

fn inside(name: &str, body: impl FnOnce()) {
    inside_with(name, "768M", body);
}

#[test]
fn a_disk_over_ublk() {
    inside("a_disk_over_ublk", || a_disk("ublk", "512"));
}

#[test]
fn a_disk_over_ublk_with_blocks_of_4096() {
    inside("a_disk_over_ublk_with_blocks_of_4096", || a_disk("ublk", "4096"));
}

#[test]
fn a_disk_over_nbd() {
    inside("a_disk_over_nbd", || a_disk("nbd", "512"));
}

#[test]
fn a_disk_over_nbd_with_blocks_of_4096() {
    inside("a_disk_over_nbd_with_blocks_of_4096", || a_disk("nbd", "4096"));
}

/// Found, attached, written, read, formatted, filled, let go.
fn a_disk(driver: &str, block_bytes: &str) {
    let file = random_file("disk", 64, 1);
    let target = Target::start(&["--block-size", block_bytes], &[&file]);
    assert_eq!(lunboot(&["discover", &target.address]), format!("{NAME} {},1", target.address));

    let disk = Attached::new(&target, 0, &["--block", driver]);
    assert!(disk.text().contains(driver), "{disk:?}", disk = disk.path);
    // Nobody writes to the kernel's log after it.
    let log = run("dmesg", &[]);
    let last = log.lines().rfind(|line| line.contains("lunboot: "));
    assert!(last.unwrap().contains("the LUN is LUNBOOT VIRTUAL-DISK"), "{log}");
    assert_eq!(run("blockdev", &["--getsize64", disk.text()]), (64 * MIB).to_string());
    assert_eq!(disk.sysfs("queue/logical_block_size"), block_bytes);
    assert_eq!(disk.sysfs("queue/physical_block_size"), block_bytes);
    // NBD cannot tell the kernel what transfers should be multiples of.
    let granularity = if driver == "nbd" { block_bytes } else { "4096" };
    assert_eq!(disk.sysfs("queue/minimum_io_size"), granularity);
    assert_eq!(disk.sysfs("ro"), "0");
    assert_eq!(disk.status("state"), "logged in");
    assert_eq!(disk.status("target"), NAME);

    run("cmp", &[disk.text(), file.to_str().unwrap()]);
    for (at, flags) in [(0, 0), (32 * MIB, O_DIRECT)] {
        let mut data = Aligned::new(24 << 20);
        Random(at + 7).fill(data.get());
        let device = open(&disk.path, flags);
        device.write_all_at(data.get(), at).unwrap();
        device.sync_all().unwrap();
        let mut back = vec![0; data.get().len()];
        open(&file, 0).read_exact_at(&mut back, at).unwrap();
        assert!(back == data.get(), "the file does not hold what was written at {at}");
    }
    run("cmp", &[disk.text(), file.to_str().unwrap()]);
    file_system_works(disk.text());
    disk.detach();
    run("e2fsck", &["-f", "-n", file.to_str().unwrap()]);
    target.stop();
    no_io_error();
}

#[test]
fn only_who_knows_the_secret_gets_the_disk_and_nobody_sees_it() {
    inside("only_who_knows_the_secret_gets_the_disk_and_nobody_sees_it", || {
        let ours =
            secrets("ours", "initiator node7 hidden-secret-7\ntarget rack hidden-secret-9\n");
        let wrong = secrets("wrong", "initiator node7 hidden-secret-8\n");
        let fooled = secrets("fooled", "initiator node7 hidden-secret-7\ntarget rack hidden-0\n");
        let file = random_file("disk", 8, 3);
        let target = Target::start(&["--secrets", &ours], &[&file]);

        let discover = |more: &[&str]| refused(&[&["discover"], more, &[&target.address]].concat());
        let said = discover(&[]);
        assert!(said.contains("demands CHAP, and there is no secret"), "{said}");
        let said = discover(&["--secrets", &wrong]);
        assert!(said.contains("the target refused our name or secret (0x0201)"), "{said}");
        let said = discover(&["--secrets", &fooled]);
        assert!(said.contains("could not prove that it knows its own secret"), "{said}");
        for (file, words) in
            [(&wrong, "refused our name or secret (0x0201)"), (&fooled, "could not prove")]
        {
            let said = refused(&["attach", "--secrets", file, &target.uri(0)]);
            assert!(said.contains(words), "{said}");
            nothing_is_left();
        }
        fs::set_permissions(&wrong, fs::Permissions::from_mode(0o640)).unwrap();
        let said = discover(&["--secrets", &wrong]);
        assert!(said.contains("its mode is 0640") && said.contains("chmod 600"), "{said}");

        let found = lunboot(&["discover", "--secrets", &ours, &target.address]);
        assert_eq!(found, format!("{NAME} {},1", target.address));
        let disk = Attached::new(&target, 0, &["--secrets", &ours]);
        run("cmp", &[disk.text(), file.to_str().unwrap()]);

        let mut seen = run("dmesg", &[]) + &lunboot(&["status"]);
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            for name in ["cmdline", "environ"] {
                let text = fs::read(entry.path().join(name)).unwrap_or_default();
                seen += &String::from_utf8_lossy(&text);
            }
        }
        assert!(seen.contains("lunboot-target"), "nothing was looked at");
        assert!(!seen.contains("hidden"), "a secret can be seen");
        disk.detach();
        target.stop();

        let target = Target::start(&["--secrets", &ours, "--open-discovery"], &[&file]);
        assert_eq!(lunboot(&["discover", &target.address]), format!("{NAME} {},1", target.address));
        target.stop();
    });
}

/// A file of secrets that only its owner can read.
fn secrets(name: &str, text: &str) -> String {
    let path = Path::new(programs::SCRATCH).join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path.into_os_string().into_string().unwrap()
}

#[test]
fn nothing_is_written_to_a_read_only_disk() {
    inside("nothing_is_written_to_a_read_only_disk", || {
        let file = random_file("disk", 8, 2);
        let before = fs::read(&file).unwrap();
        for (at_target, at_disk) in [(true, false), (false, true)] {
            let options: &[&str] = if at_target { &["--read-only"] } else { &[] };
            let target = Target::start(options, &[&file]);
            for driver in ["ublk", "nbd"] {
                let mut options = vec!["--block", driver];
                options.extend(at_disk.then_some("--read-only"));
                let disk = Attached::new(&target, 0, &options);
                assert_eq!(disk.sysfs("ro"), "1");
                run("cmp", &[disk.text(), file.to_str().unwrap()]);
                let words = format!("of={}", disk.text());
                let said = try_run("dd", &["if=/dev/zero", &words, "bs=4096", "oflag=direct"]);
                assert!(!said.ok, "{said:?}");
                disk.detach();
            }
            target.stop();
        }
        assert!(fs::read(&file).unwrap() == before);
    });
}

#[test]
fn discarded_space_is_free() {
    inside("discarded_space_is_free", || {
        for driver in ["ublk", "nbd"] {
            let file = random_file("disk", 32, 3);
            let target = Target::start(&[], &[&file]);
            let disk = Attached::new(&target, 0, &["--block", driver]);
            assert_eq!(used_kib(&file), 32 << 10);
            run("blkdiscard", &["--offset", "4M", "--length", "16M", disk.text()]);
            assert_eq!(used_kib(&file), 16 << 10, "{driver}");
            run("blkdiscard", &["--zeroout", "--offset", "24M", "--length", "4M", disk.text()]);
            run("cmp", &[disk.text(), file.to_str().unwrap()]);
            let bytes = fs::read(&file).unwrap();
            for (mib, is_zero) in [(0, false), (4, true), (19, true), (20, false), (24, true)] {
                let mib = &bytes[mib << 20..(mib + 1) << 20];
                assert_eq!(mib.iter().all(|byte| *byte == 0), is_zero, "{driver}");
            }
            disk.detach();
            target.stop();
        }
    });
}

/// The served disk counts the flushes that reach it.
#[test]
fn a_flush_reaches_the_disk_behind_the_target() {
    inside("a_flush_reaches_the_disk_behind_the_target", || {
        let file = sparse("disk", 16);
        let behind = run("losetup", &["--find", "--show", file.to_str().unwrap()]);
        let stat = format!("/sys/block/{}/stat", behind.trim_start_matches("/dev/"));
        // Field 16 of a block device's `stat`: completed flushes.
        let flushes = || -> u64 {
            let text = fs::read_to_string(&stat).unwrap();
            text.split_whitespace().nth(15).unwrap().parse().unwrap()
        };
        let target = Target::start(&[], &[Path::new(&behind)]);
        for driver in ["ublk", "nbd"] {
            let disk = Attached::new(&target, 0, &["--block", driver]);
            assert_eq!(disk.sysfs("queue/write_cache"), "write back");
            let device = open(&disk.path, 0);
            let before = flushes();
            device.write_all_at(&[7; 4096], 8192).unwrap();
            device.sync_all().unwrap();
            assert!(flushes() > before, "{driver}: {before}");
            let mut back = [0; 4096];
            open(&file, 0).read_exact_at(&mut back, 8192).unwrap();
            assert_eq!(back, [7; 4096]);
            let before = flushes();
            let mut data = Aligned::new(4096);
            open(&disk.path, O_DIRECT | kernel::O_DSYNC).write_all_at(data.get(), 0).unwrap();
            assert!(flushes() > before, "{driver}: FUA, {before}");
            drop(device);
            disk.detach();
        }
        target.stop();
    });
}

#[test]
fn the_target_is_killed_under_load_over_ublk() {
    inside("the_target_is_killed_under_load_over_ublk", || killed_under_load("ublk"));
}

#[test]
fn the_target_is_killed_under_load_over_nbd() {
    inside("the_target_is_killed_under_load_over_nbd", || killed_under_load("nbd"));
}

fn killed_under_load(driver: &str) {
    let file = sparse("disk", 64);
    let mut target = Target::start(&[], &[&file]);
    let disk = Attached::new(&target, 0, &["--block", driver]);
    let load = Load::new(&disk);
    load.goes_on();
    target.kill();
    wait_until("the loss to be seen", || disk.status("state") == "waiting for the target");
    // Several attempts must fail before there is somebody again.
    let down = Instant::now();
    wait_until("time to pass", || down.elapsed() > Duration::from_secs(6));
    target.start_again();
    wait_until("the disk to be back", || disk.status("state") == "logged in");
    load.goes_on();
    // The pauses grow, because it is never there for long.
    for _ in 0..8 {
        target.kill();
        target.start_again();
        load.goes_on();
    }
    load.end();
    assert!(disk.status("reconnects").parse::<u32>().unwrap() >= 9);
    file_system_works(disk.text());
    disk.detach();
    target.stop();
}

#[test]
fn the_target_is_stopped_and_started_under_load_over_ublk() {
    inside("the_target_is_stopped_and_started_under_load_over_ublk", || stopped_under_load("ublk"));
}

#[test]
fn the_target_is_stopped_and_started_under_load_over_nbd() {
    inside("the_target_is_stopped_and_started_under_load_over_nbd", || stopped_under_load("nbd"));
}

/// It asks for the logout, gets it when what is under way is done, and ends at once.
fn stopped_under_load(driver: &str) {
    let log = Path::new(programs::SCRATCH).join("log");
    let files = [sparse("disk", 64), sparse("other", 64)];
    let mut target = Target::start_logging(&log, &[&files[0], &files[1]]);
    let disks = [0, 1].map(|lun| Attached::new(&target, lun, &["--block", driver]));
    let (load, write_back) = (Load::new(&disks[0]), WriteBack::new(&disks[1]));
    for time in 1..=6 {
        load.goes_on();
        target.end();
        let said = fs::read_to_string(&log).unwrap();
        assert_eq!(said.matches("logout of").count(), 2 * time, "{said}");
        target.start_again();
        load.goes_on();
        for disk in &disks {
            wait_until("the disk to be back", || disk.status("state") == "logged in");
            assert_eq!(disk.status("reconnects"), time.to_string());
        }
    }
    load.end();
    write_back.end();
    let said = fs::read_to_string(&log).unwrap();
    for bad in ["ended by", "without logout", "warning", "error"] {
        assert!(!said.contains(bad), "{bad}: {said}");
    }
    for (disk, file) in disks.iter().zip(&files) {
        assert_eq!(disk.status("recoveries"), "0");
        run("cmp", &[disk.text(), file.to_str().unwrap()]);
    }
    file_system_works(disks[0].text());
    disks.iter().for_each(|disk| drop(lunboot(&["detach", disk.text()])));
    target.stop();
    no_io_error();
}

/// A way to the target on which every session ends, when it is told to, with its first write.
struct Treacherous {
    address: String,
    armed: Arc<AtomicBool>,
    sessions: Arc<AtomicU64>,
}

impl Treacherous {
    fn new(target: &Target) -> Treacherous {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (armed, sessions) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (is_armed, count, behind) = (armed.clone(), sessions.clone(), target.address.clone());
        thread::spawn(move || {
            for near in listener.incoming() {
                let (near, far) = (near.unwrap(), TcpStream::connect(&behind).unwrap());
                count.fetch_add(1, Ordering::Relaxed);
                let (mut up, mut down) = (near.try_clone().unwrap(), far.try_clone().unwrap());
                thread::spawn(move || std::io::copy(&mut down, &mut &near));
                let is_armed = is_armed.clone();
                thread::spawn(move || {
                    let mut bytes = vec![0; 1 << 20];
                    while let Ok(count @ 1..) = up.read(&mut bytes) {
                        // A SCSI Command, and in it WRITE (10): nothing but a write has both.
                        let is_write = |pdu: &[u8]| pdu[0] & 0x3f == 1 && pdu[32] == 0x2a;
                        let writes = bytes[..count].windows(48).any(is_write);
                        if writes && is_armed.load(Ordering::Relaxed)
                            || (&far).write_all(&bytes[..count]).is_err()
                        {
                            break;
                        }
                    }
                    let _ = (up.shutdown(Shutdown::Both), far.shutdown(Shutdown::Both));
                });
            }
        });
        Treacherous { address, armed, sessions }
    }
}

/// Ten times a second for ever would be as bad for the target as for the log.
#[test]
fn a_target_that_breaks_every_session_is_asked_with_pauses() {
    inside("a_target_that_breaks_every_session_is_asked_with_pauses", || {
        let file = sparse("disk", 64);
        let target = Target::start_quietly(&[], &[&file]);
        let way = Treacherous::new(&target);
        let uri = format!("iscsi://{}/{NAME}/0", way.address);
        let disk = Attached::from_uri(&uri, &["--block", "ublk"]);
        let before = way.sessions.load(Ordering::Relaxed);
        way.armed.store(true, Ordering::Relaxed);
        let device = open(&disk.path, O_DIRECT);
        let writing = thread::spawn(move || {
            let mut data = Aligned::new(4096);
            data.get().fill(7);
            device.write_all_at(data.get(), 0)
        });
        let begun = Instant::now();
        wait_until("time to pass", || begun.elapsed() > Duration::from_secs(10));
        let tries = way.sessions.load(Ordering::Relaxed) - before;
        // At once, and after 1, 2, 4 and 5 seconds.
        assert!((2..=5).contains(&tries), "{tries} in 10 s");
        way.armed.store(false, Ordering::Relaxed);
        writing.join().unwrap().unwrap();
        let log = run("dmesg", &[]);
        let told = log.matches("closed by the target").count();
        assert!((1..=4).contains(&told), "{log}");
        disk.detach();
        target.stop();
        no_io_error();
    });
}

/// A target that says nothing any more, and does not even refuse, is found out and waited for.
#[test]
fn the_target_is_silent_for_a_while() {
    inside("the_target_is_silent_for_a_while", || {
        let file = sparse("disk", 64);
        let target = Target::start(&[], &[&file]);
        let disk = Attached::new(&target, 0, &["--block", "ublk"]);
        let load = Load::new(&disk);
        load.goes_on();
        target.signal(Signal::STOP);
        wait_until("the silence to be noticed", || {
            disk.status("state") == "waiting for the target"
        });
        target.signal(Signal::CONT);
        wait_until("the disk to be back", || disk.status("state") == "logged in");
        load.goes_on();
        load.end();
        disk.detach();
        target.stop();
    });
}

/// Starts `lunboot attach` and returns it when it has said its first line.
fn waiting_attach(uri: &str) -> (Child, String) {
    let mut child = Command::new(LUNBOOT)
        .args(["attach", uri])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut line).unwrap();
    (child, line)
}

#[test]
fn what_is_wrong_is_said_and_ctrl_c_leaves_nothing() {
    inside("what_is_wrong_is_said_and_ctrl_c_leaves_nothing", || {
        let file = sparse("disk", 8);
        let target = Target::start(&[], &[&file]);
        let address = &target.address;
        let uris = [
            (
                target.uri(5),
                format!(
                    "disk {NAME} at {address}: the target has no LUN 5: check the LUN in the root \
                     path, and whether it is meant in hexadecimal"
                ),
            ),
            (
                format!("iscsi://{address}/iqn.2026-11.example:other/0"),
                format!(
                    "disk iqn.2026-11.example:other at {address}: login refused: no target of that \
                     name: compare it with what `lunboot discover` lists (0x0203)"
                ),
            ),
        ];
        for (uri, message) in uris {
            assert_eq!(refused(&["attach", &uri]), format!("lunboot: error: {message}"));
            nothing_is_left();
        }
        target.stop();

        // Port 1 of this machine: nobody listens, which may change.
        let uri = format!("iscsi://127.0.0.1:1/{NAME}/0");
        let message = format!(
            "disk {NAME} at 127.0.0.1:1: connect to 127.0.0.1:1: Connection refused (os error \
             111): the host is there, but nothing listens on that port"
        );
        let (mut child, line) = waiting_attach(&uri);
        assert_eq!(line, format!("lunboot: warning: {message}; try 1, again in 1 s\n"));
        assert_eq!(servers().len(), 1);
        kill_process(Pid::from_child(&child), Signal::INT).unwrap();
        assert!(!child.wait().unwrap().success());
        nothing_is_left();
        let mut path = String::new();
        child.stdout.take().unwrap().read_to_string(&mut path).unwrap();
        assert_eq!(path, "");

        let said = refused(&["attach", "--timeout", "2", &uri]);
        let last = said.lines().last().unwrap();
        assert_eq!(last, format!("lunboot: error: {message}; given up after 2 s"), "{said}");
        nothing_is_left();
    });
}

fn nothing_is_left() {
    wait_until("the end of the daemon", || daemons() == 0);
    assert!(!Path::new("/dev/ublkc0").exists());
    assert_eq!(lunboot(&["status"]), "nothing is attached");
}

/// Requests fail after the limit, and the disk is not dead.
#[test]
fn requests_do_not_wait_longer_than_they_may() {
    inside("requests_do_not_wait_longer_than_they_may", || {
        for driver in ["ublk", "nbd"] {
            let file = random_file("disk", 16, 8);
            let before = fs::read(&file).unwrap();
            let mut target = Target::start(&[], &[&file]);
            let disk = Attached::new(&target, 0, &["--block", driver, "--io-timeout", "3"]);
            assert_eq!(disk.status("I/O timeout"), "3 s");
            let device = open(&disk.path, O_DIRECT);
            let mut data = Aligned::new(4096);
            data.get().fill(7);
            device.write_all_at(data.get(), 0).unwrap();
            target.kill();
            let lost = Instant::now();
            let error = device.read_exact_at(data.get(), 1 << 20).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(5), "{error}");
            let waited = lost.elapsed();
            assert!(waited > Duration::from_millis(2900), "{waited:?}");
            assert!(disk.status("state").starts_with("failing"));
            // At once from now on: far fewer than one in three seconds.
            let failing = Instant::now();
            for at in 0..20 {
                device.write_all_at(data.get(), at * 4096).unwrap_err();
            }
            assert!(failing.elapsed() < Duration::from_secs(30), "{:?}", failing.elapsed());
            device.sync_all().unwrap_err();
            let log = run("dmesg", &[]);
            let said = "away for 3 s: 1 requests have failed, and others fail at once";
            assert_eq!(log.matches(said).count(), usize::from(driver == "nbd") + 1, "{log}");

            target.start_again();
            wait_until("the disk to be back", || disk.status("state") == "logged in");
            device.read_exact_at(data.get(), 1 << 20).unwrap();
            assert!(data.get()[..] == before[1 << 20..][..4096]);
            data.get().fill(9);
            device.write_all_at(data.get(), 4096).unwrap();
            device.sync_all().unwrap();
            drop(device);
            let after = fs::read(&file).unwrap();
            assert_eq!((&after[..4096], &after[4096..8192]), (&[7; 4096][..], &[9; 4096][..]));
            assert!(after[8192..] == before[8192..], "a write came after its failure");
            disk.detach();
            target.stop();
        }
    });
}

#[test]
fn an_outage_is_told_in_time_and_is_over_by_itself() {
    inside("an_outage_is_told_in_time_and_is_over_by_itself", || {
        let file = random_file("disk", 16, 8);
        let mut target = Target::start(&[], &[&file]);
        let disk = Attached::new(&target, 0, &["--block", "ublk"]);
        let device = open(&disk.path, O_DIRECT);
        target.kill();
        let lost = Instant::now();
        let reading = thread::spawn(move || {
            let mut data = Aligned::new(4096);
            device.read_exact_at(data.get(), 1 << 20).map(|()| data)
        });
        let said = |part: &str| run("dmesg", &[]).matches(part).count();
        let json = lunboot(&["status", "--json"]);
        assert!(json.starts_with("{\"disks\":[{\"device\":\"/dev/ublkb0\","), "{json}");
        assert!(json.contains("\"io_timeout_seconds\":null,"), "{json}");
        assert!(json.ends_with("}],\"network\":null}"), "{json}");
        wait_within(Duration::from_secs(30), "a line after 10 s", || said(" away for 1") == 1);
        assert!(lost.elapsed() > Duration::from_secs(9), "{:?}", lost.elapsed());
        assert!(disk.status("reason").contains("Connection refused"));
        assert!(disk.status("away").starts_with('1'), "{}", lunboot(&["status"]));
        let log = run("dmesg", &[]);
        let line = log.lines().find(|line| line.contains(" away for 1")).unwrap();
        assert!(line.contains("Connection refused") && line.contains("I/O waits (1 req"), "{line}");
        // What was wrong first, and what is wrong now; not each attempt.
        assert!((1..=2).contains(&said("; I/O waits\n")), "{log}");
        target.start_again();
        let data = reading.join().unwrap().unwrap().get().to_vec();
        assert_eq!(data, fs::read(&file).unwrap()[1 << 20..][..4096]);
        wait_until("the end to be told", || said("the disk is back after 1") == 1);
        disk.detach();
        target.stop();
    });
}

/// A person may come before the target does.
#[test]
fn attach_waits_for_the_target() {
    inside("attach_waits_for_the_target", || {
        let file = random_file("disk", 8, 4);
        let mut target = Target::start(&[], &[&file]);
        target.kill();
        let (mut child, line) = waiting_attach(&target.uri(0));
        assert!(line.contains("try 1, again in 1 s"), "{line}");
        target.start_again();
        assert!(child.wait().unwrap().success());
        let mut path = String::new();
        child.stdout.take().unwrap().read_to_string(&mut path).unwrap();
        let disk = Attached { path: path.trim_end().into() };
        run("cmp", &[disk.text(), file.to_str().unwrap()]);
        disk.detach();
        target.stop();
    });
}

#[test]
fn a_disk_in_use_is_not_detached_and_none_is_attached_twice() {
    inside("a_disk_in_use_is_not_detached_and_none_is_attached_twice", || {
        let files = [sparse("one", 32), random_file("two", 16, 5)];
        let target = Target::start(&[], &[&files[0], &files[1]]);
        for driver in ["ublk", "nbd"] {
            let one = Attached::new(&target, 0, &["--block", driver]);
            let two = Attached::new(&target, 1, &["--block", driver]);
            assert_ne!(one.path, two.path);
            run("cmp", &[two.text(), files[1].to_str().unwrap()]);
            let text = refused(&["attach", &target.uri(0)]);
            let path = one.text();
            assert_eq!(
                text,
                format!("lunboot: error: attach: {NAME} is attached already, as {path}")
            );

            file_system_works(path);
            run("mount", &[path, "/run/mnt"]);
            assert_eq!(
                refused(&["detach", path]),
                format!("lunboot: error: detach: {path} is in use: unmount what is on it first")
            );
            fs::write("/run/mnt/still", "here").unwrap();
            run("umount", &["/run/mnt"]);
            run("e2fsck", &["-f", "-n", path]);

            lunboot(&["detach", path]);
            assert_eq!(servers().len(), 1);
            run("cmp", &[two.text(), files[1].to_str().unwrap()]);
            two.detach();
            let text = refused(&["detach", path]);
            assert_eq!(
                text,
                format!(
                    "lunboot: error: detach: {path} is no disk of ours: `lunboot status` lists them"
                )
            );
        }
        target.stop();
    });
}

/// Somebody serves another disk under the same name: it must not get a single byte.
#[test]
fn a_disk_whose_target_is_gone_can_be_let_go() {
    inside("a_disk_whose_target_is_gone_can_be_let_go", || {
        for driver in ["ublk", "nbd"] {
            let file = random_file("disk", 8, 5);
            let mut target = Target::start(&[], &[&file]);
            let disk = Attached::new(&target, 0, &["--block", driver]);
            run("cmp", &[disk.text(), file.to_str().unwrap()]);
            target.kill();
            wait_until("the loss to be noticed", || disk.status("state") != "logged in");
            // Somebody waits for data that will never come, and must get an error.
            let words = [disk.text().to_owned(), "bs=4096".into(), "iflag=direct".into()];
            let reader = thread::spawn(move || {
                try_run("dd", &[&format!("if={}", words[0]), "of=/dev/null", &words[1], &words[2]])
            });
            wait_until("a request to wait", || disk.status("requests") != "0");

            let mut waiting = Command::new(LUNBOOT)
                .args(["detach", disk.text()])
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let mut said = String::new();
            BufReader::new(waiting.stderr.take().unwrap()).read_line(&mut said).unwrap();
            assert!(said.contains("the target is away: waiting for it"), "{said}");

            lunboot(&["detach", "--force", disk.text()]);
            assert!(!reader.join().unwrap().ok, "the read cannot have succeeded");
            // It was let go meanwhile, by the other one.
            let _ = waiting.wait().unwrap();
            wait_until("the end of the daemon", || daemons() == 0);
            assert_eq!(lunboot(&["status"]), "nothing is attached");
        }
    });
}

#[test]
fn another_disk_under_the_same_name_is_left_alone() {
    inside("another_disk_under_the_same_name_is_left_alone", || {
        let (file, other) = (random_file("disk", 16, 6), random_file("other", 16, 7));
        let other_bytes = fs::read(&other).unwrap();
        let mut target = Target::start(&[], &[&file]);
        let disk = Attached::new(&target, 0, &["--block", "ublk"]);
        // Now, because the first to open a disk may have to wait for its partition table.
        let device = open(&disk.path, O_DIRECT);
        target.kill();
        target.start_with(&other);
        let writing = thread::spawn(move || {
            let mut data = Aligned::new(1 << 20);
            data.get().fill(9);
            device.write_all_at(data.get(), 4 << 20)
        });
        wait_until("a loud line in the kernel log", || {
            run("dmesg", &[]).contains("another disk answers under the same name")
        });
        assert_eq!(disk.status("state"), "waiting for the target");
        target.kill();
        assert!(fs::read(&other).unwrap() == other_bytes);
        target.start_with(&file);
        writing.join().unwrap().unwrap();
        assert_eq!(fs::read(&file).unwrap()[4 << 20..5 << 20], [9; 1 << 20]);
        disk.detach();
        target.stop();
    });
}
