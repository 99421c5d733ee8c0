//! Several ways to one target with the real programs, in a real kernel: the disk goes on over
//! another path when one is lost, names are found without waiting for name servers, and a target
//! that only pretends to work is found out.

mod common;
mod kernel;
mod programs;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::meddler::pdu;
use common::tap::pdu_bytes;
use kernel::{O_DIRECT, have, inside_with, wait_until, wait_within};
use lunboot::wire::frame::Digests;
use lunboot::wire::pdu::{
    BHS_BYTES, DataIn, LoginResponse, NopIn, R2t, Request, ScsiResponse, StatusSns,
    TaskManagementResponse,
};
use lunboot::wire::serial::Sn;
use programs::{
    Attached, Load, NAME, Target, lunboot, no_io_error, open, random_file, run, servers, sparse,
    static_lunboot,
};
use rustix::process::{Signal, kill_process};

fn inside(name: &str, body: impl FnOnce()) {
    inside_with(name, "768M", body);
}

/// Two cables to a machine that has a target: 10.0.1.1 and 10.0.2.1.
fn two_cables() {
    let mut script = String::from("set -e; ip netns add far; ip -n far link set lo up\n");
    for cable in [1, 2] {
        script += &format!(
            "ip link add near{cable} type veth peer name far{cable} netns far
             ip addr add 10.0.{cable}.2/24 dev near{cable}
             ip link set near{cable} up
             ip -n far addr add 10.0.{cable}.1/24 dev far{cable}
             ip -n far link set far{cable} up\n"
        );
    }
    run("sh", &["-c", &script]);
}

/// What goes into the cable never comes out, and nobody is told.
fn swallow(cable: u8) {
    run("sh", &["-c", &format!("tc qdisc add dev near{cable} root netem loss 100%")]);
}

fn mend(cable: u8) {
    run("sh", &["-c", &format!("tc qdisc del dev near{cable} root")]);
}

const PORTALS: [&str; 2] = ["10.0.1.1:3260", "10.0.2.1:3260"];

fn serve_at_both(file: &Path) -> Target {
    let words = ["--listen", PORTALS[1], file.to_str().unwrap()];
    Target::start_in("far", PORTALS[0], &words)
}

fn attach(options: &[&str]) -> Attached {
    let options = [options, &["--portal", "10.0.2.1"]].concat();
    Attached::from_uri(&format!("iscsi://10.0.1.1/{NAME}/0"), &options)
}

/// The disk has gone over to this portal, and is served there.
fn goes_over_to(disk: &Attached, portal: &str, load: &Load) {
    wait_until("the other portal", || {
        disk.status("portal") == portal && disk.status("state") == "logged in"
    });
    load.goes_on();
}

#[test]
fn a_lost_path_is_left_for_the_other_one() {
    inside("a_lost_path_is_left_for_the_other_one", || {
        two_cables();
        let file = sparse("disk", 64);
        let mut target = serve_at_both(&file);
        let disk = attach(&["--block", "ublk"]);
        assert_eq!(disk.status("portal"), PORTALS[0]);
        let load = Load::new(&disk);
        load.goes_on();

        // The first falls silent. The tests with a clock of their own say ten seconds at most.
        swallow(1);
        let lost = Instant::now();
        goes_over_to(&disk, PORTALS[1], &load);
        let took = lost.elapsed();
        assert!(took < Duration::from_secs(30), "{took:?}");
        mend(1);

        // The second is pulled out, and the first is there again.
        run("ip", &["link", "set", "near2", "down"]);
        goes_over_to(&disk, PORTALS[0], &load);

        // An address is taken away under the connection, while both can be reached again.
        run("ip", &["link", "set", "near2", "up"]);
        run("ip", &["-n", "far", "addr", "del", "10.0.1.1/24", "dev", "far1"]);
        goes_over_to(&disk, PORTALS[1], &load);
        load.end();

        // Both are cut: what is said names the one that was in use.
        run("ip", &["-n", "far", "addr", "add", "10.0.1.1/24", "dev", "far1"]);
        target.kill();
        let lost = format!("disk {NAME} at {}: connection lost: closed by", PORTALS[1]);
        wait_until(&lost, || run("dmesg", &[]).contains(&lost));
        target.start_again();
        wait_until("the disk", || disk.status("state") == "logged in");

        let log = run("dmesg", &[]);
        for portal in PORTALS {
            assert!(log.contains(&format!("disk {NAME} at {portal}: ")), "{portal}: {log}");
            assert!(log.contains(&format!("logged in to {NAME} at {portal}")), "{portal}: {log}");
        }
        assert!(log.contains("the disk is back after "), "{log}");
        disk.detach();
        target.stop();
    });
}

#[test]
fn a_path_that_is_dead_from_the_start_costs_little() {
    inside("a_path_that_is_dead_from_the_start_costs_little", || {
        two_cables();
        let file = random_file("disk", 8, 1);
        let target = serve_at_both(&file);
        swallow(1);
        let begun = Instant::now();
        let disk = attach(&[]);
        let took = begun.elapsed();
        // One attempt to connect alone would take five seconds.
        assert!(took < Duration::from_secs(5), "{took:?}");
        assert_eq!(disk.status("portal"), PORTALS[1]);
        run("cmp", &[disk.text(), file.to_str().unwrap()]);
        disk.detach();
        target.stop();
    });
}

/// Where every login is sent elsewhere.
const REDIRECTING: &str = "127.0.0.1:3260";

/// Answers every login there with this address, for this time.
fn redirect_to(address: &str) {
    let listener = TcpListener::bind(REDIRECTING).unwrap();
    let text = format!("TargetAddress={address}\0");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut header = [0; BHS_BYTES];
            stream.read_exact(&mut header).unwrap();
            let Ok(Request::Login(login)) = Request::parse(&header) else { panic!("no login") };
            let mut data = vec![0; login.data_bytes.next_multiple_of(4) as usize];
            stream.read_exact(&mut data).unwrap();
            let response = LoginResponse {
                transit: false,
                continues: false,
                stage: login.stage,
                next_stage: None,
                version_max: 0,
                version_active: 0,
                isid: login.isid,
                tsih: 0,
                itt: login.itt,
                sns: StatusSns { stat_sn: Sn(1), exp_cmd_sn: Sn(1), max_cmd_sn: Sn(1) },
                status_class: 1,
                status_detail: 1,
                data_bytes: text.len() as u32,
            };
            stream.write_all(&pdu(&response.emit(), text.as_bytes())).unwrap();
            // It has closed the connection.
            let _ = stream.read(&mut [0]);
        }
    });
}

/// A name server over the second cable, which knows one name, and that it is the one to be asked.
struct NameServer(Child);

const STORAGE: &str = "storage.test:3260";

impl NameServer {
    fn start() -> NameServer {
        fs::write("/run/resolv.conf", "nameserver 10.0.2.1\n").unwrap();
        run("mount", &["--bind", "/run/resolv.conf", "/etc/resolv.conf"]);
        let words = "netns exec far dnsmasq --keep-in-foreground --conf-file=/dev/null \
            --no-resolv --no-hosts --listen-address=10.0.2.1 --bind-interfaces --user=root \
            --pid-file=/run/dnsmasq.pid --local=/test/ --host-record=storage.test,10.0.1.1";
        let child = Command::new("ip").args(words.split_whitespace()).spawn().unwrap();
        wait_until("the name server", || Path::new("/run/dnsmasq.pid").exists());
        NameServer(child)
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The daemon answers at any time, and this is its state in the end.
fn answers_until(disk: &Attached, what: &str, is_it: impl Fn(&str) -> bool) {
    wait_until(what, || {
        let asked = Instant::now();
        let state = disk.status("state");
        let took = asked.elapsed();
        assert!(took < Duration::from_secs(3), "no word from the daemon for {took:?}");
        is_it(&state)
    });
}

/// Sent to a name that nobody knows, while the name servers are away.
#[test]
fn a_name_that_is_not_found_holds_nothing_up() {
    inside("a_name_that_is_not_found_holds_nothing_up", || {
        if !have("a_name_that_is_not_found_holds_nothing_up", &["dnsmasq"]) {
            return;
        }
        two_cables();
        let _name_server = NameServer::start();
        let file = random_file("disk", 8, 3);
        let mut target = Target::start_in("far", PORTALS[0], &[file.to_str().unwrap()]);
        let uri = format!("iscsi://{REDIRECTING}/{NAME}/0");
        let disk = Attached::from_uri(&uri, &["--portal", "10.0.1.1"]);
        assert_eq!(disk.status("portal"), PORTALS[0]);

        swallow(2);
        redirect_to("storage.test");
        target.kill();
        target.start_again();
        answers_until(&disk, "the name", |_| disk.status("portal") == STORAGE);
        answers_until(&disk, "the other portal", |state| state == "logged in");
        assert_eq!(disk.status("portal"), PORTALS[0]);
        run("cmp", &[disk.text(), file.to_str().unwrap()]);
        disk.detach();
        target.stop();
    });
}

/// Sent to a name by every login, and the name servers are away when the target is: what the name
/// meant before is good enough, also for a server or a version that was not there then.
#[test]
fn a_name_is_known_when_the_name_servers_are_away() {
    let Some(program) = static_lunboot() else { return };
    inside("a_name_is_known_when_the_name_servers_are_away", || {
        if !have("a_name_is_known_when_the_name_servers_are_away", &["dnsmasq"]) {
            return;
        }
        two_cables();
        let _name_server = NameServer::start();
        let file = random_file("disk", 8, 3);
        let mut target = Target::start_in("far", PORTALS[0], &[file.to_str().unwrap()]);
        redirect_to("storage.test");
        let uri = format!("iscsi://{REDIRECTING}/{NAME}/0");
        let disk = Attached::by(&program, &uri, &[]);
        assert_eq!(disk.status("portal"), STORAGE);

        swallow(2);
        target.kill();
        let away = format!("away for 10 s: at {STORAGE}: connect to {}", PORTALS[0]);
        answers_until(&disk, &away, |_| run("dmesg", &[]).contains(&away));
        let log = run("dmesg", &[]);
        let sent = format!("{REDIRECTING} sends us to {STORAGE} for this time");
        assert_eq!(
            log.matches(&sent).count(),
            3,
            "the first time, and at tries 2 and 4 of five: {log}"
        );
        let server = servers()[0];
        kill_process(server, Signal::KILL).unwrap();
        wait_until("another server", || servers().iter().any(|next| *next != server));
        target.start_again();
        // It has nothing to answer for until it has the device.
        wait_until("the disk", || lunboot(&["status"]).contains(disk.text()));
        answers_until(&disk, "the disk", |state| state == "logged in");

        run(program.to_str().unwrap(), &["replace"]);
        answers_until(&disk, "the disk", |state| state == "logged in");
        assert_eq!((disk.status("portal"), disk.status("restarts")), (STORAGE.into(), "1".into()));
        run("cmp", &[disk.text(), file.to_str().unwrap()]);
        disk.detach();
        target.stop();
    });
}

/// Between the initiator and the target: from the first connection only answers to pings pass, as
/// long as it is told so.
struct Pretender {
    address: String,
    pretends: Arc<AtomicBool>,
}

impl Pretender {
    fn start(target: &Target) -> Pretender {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let pretends = Arc::new(AtomicBool::new(false));
        let (target, flag) = (target.address.clone(), Arc::clone(&pretends));
        thread::spawn(move || {
            for (number, initiator) in listener.incoming().enumerate() {
                let (initiator, target) =
                    (initiator.unwrap(), TcpStream::connect(&target).unwrap());
                let (from, to) = (initiator.try_clone().unwrap(), target.try_clone().unwrap());
                thread::spawn(move || pass(&from, &to, |_| true));
                let flag = Arc::clone(&flag);
                let mut dropped = 0;
                thread::spawn(move || {
                    pass(&target, &initiator, |pdu| {
                        let pretends = number == 0 && flag.load(Ordering::Relaxed);
                        let drops = pretends && is_answer(pdu);
                        renumber(pdu, &mut dropped, drops);
                        !drops
                    });
                });
            }
        });
        Pretender { address, pretends }
    }
}

impl Drop for Pretender {
    /// Who waits for an answer must not outlive a test that has failed.
    fn drop(&mut self) {
        self.pretends.store(false, Ordering::Relaxed);
    }
}

const ANSWERS: [u8; 4] =
    [ScsiResponse::OPCODE, TaskManagementResponse::OPCODE, DataIn::OPCODE, R2t::OPCODE];

fn is_answer(pdu: &[u8]) -> bool {
    ANSWERS.contains(&(pdu[0] & 0x3f))
}

/// StatSN as if there had never been what was dropped.
fn renumber(pdu: &mut [u8], dropped: &mut u32, drops: bool) {
    const STAT_SN: std::ops::Range<usize> = 24..28;
    let has_status = match pdu[0] & 0x3f {
        R2t::OPCODE => false,
        DataIn::OPCODE => pdu[1] & 1 != 0,
        NopIn::OPCODE => pdu[16..20] != [0xff; 4],
        _ => true,
    };
    if drops {
        *dropped += u32::from(has_status);
    } else if *dropped > 0 {
        let number = u32::from_be_bytes(pdu[STAT_SN].try_into().unwrap());
        pdu[STAT_SN].copy_from_slice(&number.wrapping_sub(*dropped).to_be_bytes());
    }
}

/// Passes whole PDUs on, without digests, as long as both ends are there.
fn pass(mut from: &TcpStream, mut to: &TcpStream, mut passes: impl FnMut(&mut [u8]) -> bool) {
    let (mut held, mut piece) = (Vec::new(), vec![0; 1 << 16]);
    while let Ok(count) = from.read(&mut piece) {
        if count == 0 {
            break;
        }
        held.extend_from_slice(&piece[..count]);
        while let Some(length) = pdu_bytes(&held, Digests::default()) {
            let mut pdu: Vec<u8> = held.drain(..length).collect();
            if passes(&mut pdu) && to.write_all(&pdu).is_err() {
                break;
            }
        }
    }
    for end in [from, to] {
        let _ = end.shutdown(Shutdown::Both);
    }
}

#[test]
fn a_target_that_only_answers_pings_is_helped_and_then_left() {
    inside("a_target_that_only_answers_pings_is_helped_and_then_left", || {
        let file = random_file("disk", 8, 2);
        let target = Target::start(&[], &[&file]);
        let pretender = Pretender::start(&target);
        let uri = format!("iscsi://{}/{NAME}/0", pretender.address);
        let options = ["--header-digest", "None", "--ping-interval", "1", "--block", "ublk"];
        let disk = Attached::from_uri(&uri, &options);
        let device = open(&disk.path, O_DIRECT);
        pretender.pretends.store(true, Ordering::Relaxed);
        let reading = thread::spawn(move || {
            use std::os::unix::fs::FileExt as _;
            let mut data = kernel::Aligned::new(4096);
            device.read_exact_at(data.get(), 4 << 20).map(|()| data.get().to_vec())
        });
        let mut said = 0;
        for line in [
            "Read at sector 8192 made no progress for 30 s: it is aborted, and sent again",
            "the target did not give a command up: the unit is reset, and sent again",
            "no answer to a task management function within 10 s; trying again at once; I/O waits",
        ] {
            // Half a minute until the first.
            wait_within(Duration::from_secs(60), line, || run("dmesg", &[]).contains(line));
            let log = run("dmesg", &[]);
            let at = log.find(line).unwrap();
            assert!(at > said, "not in this order: {log}");
            said = at;
        }
        assert_eq!(disk.status("recoveries"), "2");
        let read = reading.join().unwrap().unwrap();
        assert!(read == fs::read(&file).unwrap()[4 << 20..][..4096]);
        wait_until("the disk", || disk.status("state") == "logged in");
        no_io_error();
        disk.detach();
        target.stop();
    });
}
