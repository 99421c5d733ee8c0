//! What the network, the firmware, a DHCP server or a person may get wrong: an error, never a
//! panic, never a hang, and never more memory than there are limits for.
//!
//! Everything is seeded: the same bytes come in every run. What is wrong ends with the test's
//! tampering, and then the system must come to rest: every request completes.

// A counting allocator is the only honest witness of how much memory was taken.
#![allow(unsafe_code)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{Direction, Pair, Settings, pattern};
use lunboot::boot::cmdline::BootConfig;
use lunboot::boot::ip_argument::{IpArgument, Mac};
use lunboot::boot::uevent::Uevent;
use lunboot::boot::{partition_table, probe};
use lunboot::proto::Error;
use lunboot::proto::dhcp::DhcpClient;
use lunboot::proto::disk::{Op, Tag};
use lunboot::proto::params::{DigestChoice, Offer};
use lunboot::proto::random::Random;
use lunboot::proto::session::{self, Session};
use lunboot::proto::target::{Event, SessionName, Target};
use lunboot::wire::dhcp::Message;
use lunboot::wire::pdu::{BHS_BYTES, Isid, Request, Response};
use lunboot::wire::root_path::{Dialect, RootPath};
use lunboot::wire::scsi::{Lun, Sense};
use lunboot::wire::{netlink, rtnetlink, text, udp};

/// Adds up what is allocated.
struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

/// All tests of this program at once: buffers of connections, and everything of the tests.
const ALLOCATED_BYTES_MAX: usize = 768 << 20;

// SAFETY: every call goes on to the system's allocator unchanged; counting touches no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of this very function.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the pointer came from `alloc`, and so from the system's allocator.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn check_memory() {
    let most = MOST.load(Ordering::Relaxed);
    assert!(most < ALLOCATED_BYTES_MAX, "{most} bytes were allocated at once");
}

fn random_bytes(random: &mut Random, most: u64) -> Vec<u8> {
    let length = random.below(most + 1);
    (0..length).map(|_| random.bits() as u8).collect()
}

/// Changes a few bytes, bits or the length.
fn spoil(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..1 + random.below(3) {
        if bytes.is_empty() {
            return;
        }
        let at = random.below(bytes.len() as u64) as usize;
        match random.below(6) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.bits() as u8,
            2 => bytes[at] = [0, 0x7f, 0x80, 0xff][random.below(4) as usize],
            3 => bytes.truncate(at),
            4 => bytes.insert(at, random.bits() as u8),
            _ => {
                let copied = bytes[at..].to_vec();
                bytes.extend(copied);
            }
        }
    }
}

// PDUs.

fn settings(header_digest: DigestChoice) -> Settings {
    let offer = Offer {
        header_digest,
        data_digest: DigestChoice::Never,
        max_recv_bytes: 1024,
        max_burst_bytes: 2048,
        first_burst_bytes: 1024,
        ..Offer::default()
    };
    Settings { initiator: offer, target: offer, disk_bytes: 64 * 512, ..Settings::default() }
}

/// No digests: whatever is changed is taken at its word.
fn bare() -> Settings {
    settings(DigestChoice::Never)
}

/// A pair in which the PDU with this number in this direction, from the beginning of the first
/// connection on, is changed by `change`; no other ever is.
fn spoiled(
    settings: Settings,
    direction: Direction,
    number: u32,
    change: impl Fn(&mut Vec<u8>, &mut Random) + 'static,
) -> Pair {
    let mut pair = Pair::new(settings);
    let mut seen = 0;
    pair.taps.tamper = Some(Box::new(move |where_to, mut pdu, _, random| {
        if where_to == direction {
            if seen == number {
                change(&mut pdu, random);
            }
            seen += 1;
        }
        pdu
    }));
    pair
}

/// Without digests, a PDU that was changed can be one that its receiver has to ignore, and then its
/// sender waits for the answer. After this time the connection is cut for them.
const WAIT: Duration = Duration::from_secs(100);

/// Requests of each kind: whatever is done to one PDU, all of them complete.
fn run(mut pair: Pair, what: &str) {
    let mut submitted = false;
    let mut may_cut = pair.settings.initiator.header_digest == DigestChoice::Never;
    for _ in 0..200_000 {
        pair.settle();
        if pair.session.is_logged_in() && !submitted {
            submitted = true;
            pair.submit(Tag(0), Op::Write { fua: true }, 8, &pattern(1, 8, 12));
            pair.submit(Tag(1), Op::Read, 0, &[0; 12 * 512]);
            pair.submit(Tag(2), Op::Flush, 0, &[]);
            pair.submit_length(Tag(3), Op::Discard, 32, 8, vec![0; 4096]);
        } else if submitted && pair.requests_in_flight() == 0 {
            return;
        }
        if may_cut && pair.elapsed() > WAIT {
            may_cut = false;
            pair.cut();
        }
        assert!(pair.elapsed() < 3 * WAIT, "no rest: {what}");
        assert!(pair.pass_time(), "nothing will ever happen: {what}");
    }
    panic!("no rest after 200000 rounds: {what}");
}

/// How many PDUs the exchange has in a direction, login and probe included.
fn pdus(direction: Direction) -> u32 {
    let count = Rc::new(Cell::new(0));
    let count_here = count.clone();
    let mut pair = Pair::new(bare());
    pair.taps.tamper = Some(Box::new(move |where_to, pdu, _, _| {
        count_here.set(count_here.get() + u32::from(where_to == direction));
        pdu
    }));
    run(pair, "nothing");
    count.get()
}

#[test]
fn each_byte_of_each_header_may_be_anything() {
    for direction in [Direction::Up, Direction::Down] {
        for number in 0..pdus(direction) {
            for byte in 0..BHS_BYTES {
                for change in [0x01, 0x10, 0x80, 0xff] {
                    let spoil = move |pdu: &mut Vec<u8>, _: &mut Random| pdu[byte] ^= change;
                    let pair = spoiled(bare(), direction, number, spoil);
                    run(pair, &format!("{direction:?} {number} byte {byte} ^ {change:#x}"));
                }
            }
        }
    }
    check_memory();
}

#[test]
fn a_damaged_header_never_makes_anybody_wait_where_it_has_a_digest() {
    const LOGIN_PDUS: u32 = 2;
    for direction in [Direction::Up, Direction::Down] {
        for number in LOGIN_PDUS..pdus(direction) {
            for byte in 0..BHS_BYTES {
                let settings = settings(DigestChoice::Always);
                let spoil = move |pdu: &mut Vec<u8>, _: &mut Random| pdu[byte] ^= 0x01;
                let pair = spoiled(settings, direction, number, spoil);
                run(pair, &format!("{direction:?} {number} byte {byte}"));
            }
        }
    }
}

#[test]
fn pdus_may_be_cut_doubled_dropped_or_garbled() {
    for direction in [Direction::Up, Direction::Down] {
        for number in 0..pdus(direction) {
            for seed in 0..24 {
                let garble = move |pdu: &mut Vec<u8>, random: &mut Random| match seed {
                    0 => pdu.clear(),
                    1 => pdu.extend(pdu.clone()),
                    2 => pdu.truncate(BHS_BYTES),
                    3 => pdu[4] = 255,
                    _ => spoil(pdu, random),
                };
                let mut pair = spoiled(bare(), direction, number, garble);
                pair.random = Random::new(u64::from(number) << 8 | seed);
                run(pair, &format!("{direction:?} {number} seed {seed}"));
            }
        }
    }
    check_memory();
}

#[test]
fn headers_of_every_opcode_parse_or_give_an_error() {
    let mut random = Random::new(1);
    for _ in 0..200_000 {
        let mut bhs = [0; BHS_BYTES];
        for byte in &mut bhs {
            *byte = if random.below(3) == 0 { 0 } else { random.bits() as u8 };
        }
        bhs[0] = random.bits() as u8;
        if let Err(error) = Request::parse(&bhs) {
            assert!(!error.to_string().is_empty());
        }
        if let Err(error) = Response::parse(&bhs) {
            assert!(!error.to_string().is_empty());
        }
    }
}

/// Brings bytes into the target as its server would, as long as it takes them.
fn feed_target(target: &mut Target, mut bytes: &[u8], now: Instant) {
    while !bytes.is_empty() {
        let space = target.recv_space();
        let count = space.len().min(bytes.len());
        if count == 0 {
            return;
        }
        space[..count].copy_from_slice(&bytes[..count]);
        target.received(count, now);
        bytes = &bytes[count..];
        drain_target(target, now);
    }
}

fn drain_target(target: &mut Target, now: Instant) {
    loop {
        let mut progress = false;
        while let Some(event) = target.poll_event() {
            progress = true;
            match event {
                Event::Command { tag, .. } => target.execute(tag),
                Event::Claim { .. } => target.admit(1, now),
                Event::Reset { .. } => target.reset_done(),
                Event::Sanitize { .. } | Event::Ended(_) => {}
            }
        }
        let mut slices: [&[u8]; 8] = [&[]; 8];
        let count = target.poll_transmit(&mut slices);
        let bytes: usize = slices[..count].iter().map(|slice| slice.len()).sum();
        if bytes > 0 {
            progress = true;
            target.sent(bytes);
        }
        if !progress {
            return;
        }
    }
}

#[test]
fn random_bytes_at_the_target_are_survived_in_every_state() {
    let mut random = Random::new(2);
    for round in 0..2000 {
        let mut pair = Pair::new(bare());
        // Somewhere in the login, the probe or later.
        for _ in 0..round % 50 {
            pair.step();
        }
        let config = pair.server.config.clone();
        let now = pair.now;
        let portal = SocketAddr::from(([192, 0, 2, 1], 3260));
        let mut target = Target::new(config, portal, common::challenge(1), now);
        if round % 3 == 0 {
            feed_target(&mut target, &random_bytes(&mut random, 4000), now);
        }
        if let Some(space) = pair.server.recv_space(0) {
            let bytes = random_bytes(&mut random, 3000);
            let count = bytes.len().min(space.len());
            space[..count].copy_from_slice(&bytes[..count]);
            pair.server.received(0, count, now);
        }
        pair.run_until("login", |pair| pair.session.is_logged_in());
    }
    check_memory();
}

#[test]
fn random_bytes_at_the_initiator_are_survived_in_every_state() {
    let mut random = Random::new(3);
    for round in 0..2000 {
        let mut pair = Pair::new(bare());
        for _ in 0..round % 60 {
            pair.step();
        }
        if round % 2 == 0 && pair.session.is_logged_in() {
            pair.submit(Tag(0), Op::Read, 0, &[0; 8192]);
            pair.step();
        }
        let bytes = random_bytes(&mut random, 3000);
        let space = pair.session.recv_space();
        let count = bytes.len().min(space.len());
        space[..count].copy_from_slice(&bytes[..count]);
        pair.session.received(count, pair.now);
        pair.session.handle_timeout(pair.now);
        pair.run_until("login", |pair| {
            pair.session.is_logged_in() && pair.requests_in_flight() == 0
        });
    }
    check_memory();
}

/// Calls what the driver may call, in an order that no driver has.
fn misuse(session: &mut Session, attempt: &mut u32, random: &mut Random, now: &mut Instant) {
    match random.below(10) {
        0 => session.handle_connected(*attempt, common::challenge(0), *now),
        1 => session.handle_disconnected(Error::Transport("gone".into()), *now),
        2 => session.handle_timeout(*now),
        3 => *now += Duration::from_millis(random.below(20_000)),
        4 => {
            let space = session.recv_space();
            let count = space.len().min(random.below(60) as usize);
            session.received(count, *now);
        }
        5 => session.received(0, *now),
        6 => {
            let mut slices: [&[u8]; 4] = [&[]; 4];
            let count = session.poll_transmit(&mut slices);
            let bytes: usize = slices[..count].iter().map(|slice| slice.len()).sum();
            session.sent(random.below(bytes as u64 + 1) as usize, *now);
        }
        7 => {
            while let Some(event) = session.poll_event() {
                if let session::Event::Connect(asked) = event {
                    *attempt = asked.number;
                }
            }
        }
        8 => session.handle_refused(*attempt, Error::Transport("refused".into()), *now),
        _ => {
            session.next_deadline();
            session.poll_completion();
        }
    }
}

#[test]
fn calls_in_any_order_are_survived() {
    let mut random = Random::new(4);
    for round in 0..3000 {
        let mut pair = Pair::new(bare());
        for _ in 0..round % 40 {
            pair.step();
        }
        // The first of the session.
        let (mut now, mut attempt) = (pair.now, 1);
        for _ in 0..60 {
            misuse(&mut pair.session, &mut attempt, &mut random, &mut now);
        }
        if random.below(4) == 0 {
            pair.session.log_out(now);
            pair.session.log_out(now);
        }
        if random.below(4) == 0 {
            pair.session.give_up();
            pair.session.give_up();
            assert_eq!(pair.session.next_deadline(), None);
        }
        misuse(&mut pair.session, &mut attempt, &mut random, &mut now);
    }
    check_memory();
}

#[test]
fn commands_and_their_data_may_be_anything() {
    let pair = Pair::new(bare());
    let units = &pair.server.config.units;
    let initiator = "iqn.2026-11.example:client".to_owned();
    let session = SessionName { initiator, isid: Isid([0; 6]) };
    let mut random = Random::new(5);
    const OPCODES: [u8; 30] = [
        0x00, 0x03, 0x08, 0x0a, 0x12, 0x16, 0x17, 0x1a, 0x1b, 0x25, 0x28, 0x2a, 0x2f, 0x35, 0x41,
        0x42, 0x56, 0x57, 0x5a, 0x5e, 0x5f, 0x88, 0x8a, 0x8f, 0x91, 0x93, 0x9e, 0xa0, 0xa8, 0xaa,
    ];
    for _ in 0..100_000 {
        let mut cdb = [0; 16];
        for byte in &mut cdb {
            *byte = if random.below(2) == 0 { 0 } else { random.bits() as u8 };
        }
        if random.below(4) != 0 {
            cdb[0] = OPCODES[random.below(30) as usize];
        }
        let data = random_bytes(&mut random, 1024);
        let mut nexus = units.nexus(session.clone());
        units.data_out_bytes(Lun::ZERO, &cdb);
        for _ in 0..2 {
            let lun =
                if random.below(8) == 0 { Lun(cdb[..8].try_into().unwrap()) } else { Lun::ZERO };
            let outcome = units.execute(lun, &cdb, &data, &mut nexus);
            assert!(!format!("{outcome:?}").is_empty());
        }
        let _ = Sense::parse(&data);
    }
    check_memory();
}

// Text and packets.

#[test]
fn command_lines_root_paths_and_ip_arguments_may_be_anything() {
    const LINES: [&str; 8] = [
        "lunboot=iscsi:192.0.2.1::3260:1:iqn.2026-11.example:root root=UUID=1-2 ro init=/sbin/init",
        "netroot=iscsi:@192.0.2.1:6:3260:4752-3a4f-6b7e-2f99:iqn.2026-11.example:a:b",
        "lunboot=iscsi://user%x@[fe80::1%25eth0]:3260/iqn.2026-11.example:r/3 lunboot.debug=2",
        "ip=192.0.2.9::192.0.2.254:24:host:eth0:off:192.0.2.53:1400 BOOTIF=01-52-54-00-12-34-56",
        "ip=[2001:db8::9]::[2001:db8::1]:64::eth0:off nameserver=[2001:db8::53] quiet",
        "root=\"LABEL=a b\" rootflags=x,y rootfstype=ext4,,xfs lunboot.block=nbd loglevel=99",
        "ip=:::::eth0:dhcp ip=dhcp lunboot.initiator=iqn.2026-11.example:me rw -- init=/x",
        "iscsi:storage.example:::0001-0000-0000-0000:eui.02004567A425678D",
    ];
    let mut random = Random::new(6);
    for round in 0..60_000 {
        let mut bytes = LINES[round % LINES.len()].as_bytes().to_vec();
        if round >= LINES.len() {
            spoil(&mut bytes, &mut random);
        }
        bytes.truncate(8192);
        let text = String::from_utf8_lossy(&bytes);
        for rejected in BootConfig::parse(&text).rejected {
            assert!(!rejected.reason.is_empty());
        }
        for part in text.split([' ', '=']) {
            let _ = IpArgument::parse(part);
            let _ = (Mac::parse(part), Mac::parse_bootif(part));
            for dialect in [Dialect::Rfc4173, Dialect::Netroot] {
                if let Err(error) = RootPath::parse_bytes(part.as_bytes(), dialect) {
                    assert!(!error.to_string().is_empty());
                }
            }
        }
    }
    check_memory();
}

/// A reply of a DHCP server to what the client has sent.
fn dhcp_reply(sent: &[u8], kind: u8) -> Vec<u8> {
    const COOKIE_END: usize = 240;
    let mut reply = sent[..COOKIE_END].to_vec();
    reply[0] = 2;
    reply[16..20].copy_from_slice(&[192, 0, 2, 9]);
    reply.extend([53, 1, kind, 54, 4, 192, 0, 2, 1, 51, 4, 0, 0, 14, 16, 1, 4, 255, 255, 255, 0]);
    reply.extend([3, 4, 192, 0, 2, 254, 121, 5, 0, 192, 0, 2, 254, 17]);
    let root_path = b"iscsi:192.0.2.10::::iqn.2026-11.example:root";
    reply.push(root_path.len() as u8);
    reply.extend(root_path);
    reply.push(255);
    reply
}

#[test]
fn dhcp_packets_may_be_anything_in_every_state() {
    let mut random = Random::new(7);
    let begun = Instant::now();
    for seed in 0..4000 {
        let config = lunboot::proto::dhcp::Config {
            mac: [0x52, 0x54, 0, 1, 2, 3],
            host_name: b"client".to_vec(),
            vendor_class: Vec::new(),
            root_path_wanted: seed % 2 == 0,
        };
        let mut client = DhcpClient::new(config, seed);
        let mut now = begun;
        client.handle_connected(now);
        for _ in 0..20 {
            while let Some(transmit) = client.poll_transmit() {
                let kind = [2, 5, 5, 6][random.below(4) as usize];
                let mut reply = dhcp_reply(&transmit.payload, kind);
                if random.below(2) == 0 {
                    spoil(&mut reply, &mut random);
                }
                reply.truncate(4096);
                let _ = Message::parse(&reply);
                let _ = udp::Datagram::parse(&reply);
                let _ = client.handle_message(&reply, now);
            }
            while client.poll_event().is_some() {}
            now = client.next_deadline().unwrap_or(now).max(now);
            client.handle_timeout(now);
        }
    }
    check_memory();
}

#[test]
fn a_dhcp_packet_may_end_anywhere() {
    let whole = dhcp_reply(&[0x63; 240], 2);
    for length in 0..whole.len() {
        let _ = Message::parse(&whole[..length]);
        let _ = udp::Datagram::parse(&whole[..length]);
    }
}

#[test]
fn netlink_messages_may_be_anything() {
    let mut random = Random::new(8);
    let samples = [rtnetlink::list_links(1), rtnetlink::set_link_mtu(2, 3, 1500)];
    for round in 0..60_000 {
        let mut bytes = samples[round % 2].clone();
        if round % 3 == 0 {
            bytes = random_bytes(&mut random, 300);
        } else {
            bytes.extend(random_bytes(&mut random, 60));
            spoil(&mut bytes, &mut random);
        }
        bytes.truncate(4096);
        // Whatever the lengths say, the walk ends.
        let mut count = 0;
        for message in netlink::messages(&bytes) {
            count += 1;
            assert!(count <= bytes.len(), "the walk does not end");
            let Ok(message) = message else { break };
            let _ = message.reply();
            let _ = rtnetlink::Link::parse(&bytes);
        }
        walk(netlink::attributes(&bytes), 0);
        let _ = Uevent::parse(&bytes);
    }
}

fn walk(attributes: netlink::Attributes<'_>, depth: u32) {
    for attribute in attributes.take(5000) {
        let Ok(attribute) = attribute else { return };
        let _ = (attribute.u8(), attribute.u16(), attribute.u32(), attribute.u64());
        let _ = attribute.text();
        if depth < 3 {
            walk(attribute.nested(), depth + 1);
        }
    }
}

#[test]
fn text_segments_superblocks_and_partition_tables_may_be_anything() {
    let mut random = Random::new(9);
    for round in 0..4000u64 {
        let mut bytes = random_bytes(&mut random, 9000);
        if bytes.len() > 1100 {
            // The marks that make a probe look further.
            bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
            bytes[512..520].copy_from_slice(b"EFI PART");
            if round % 2 == 0 {
                bytes[450] = 0xee;
            }
        }
        for pair in text::pairs(&bytes).take(10_000) {
            if pair.is_err() {
                break;
            }
        }
        let _ = probe::file_system(&bytes, &bytes);
        let _ = partition_table::read(|range| {
            let length = bytes.len() as u64;
            let part = range.start.min(length)..range.end.min(length);
            Ok(bytes[part.start as usize..part.end.max(part.start) as usize].to_vec())
        });
    }
    check_memory();
}
