//! What the lengths of segments and bursts are worth: each choice of MaxRecvDataSegmentLength,
//! FirstBurstLength, MaxBurstLength and MaxOutstandingR2T, by our initiator and our target, over
//! lines of several kinds.
//!
//! The line is modelled: bytes leave one after the other at its rate and arrive half a round trip
//! later, so a figure is exact and the same on every machine. The processor time is measured: that
//! of both sides and their copies, without sockets. Round after round goes through all choices.
//!
//! Prints one table for each line: bytes per second as a part of the line's rate, for requests of
//! one kind at one depth, then what a READ of 4 KiB takes beside WRITEs of 1 MiB, then processor
//! time for a MiB as a ratio to the first choice.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lunboot::proto::Patience;
use lunboot::proto::chap::Challenge;
use lunboot::proto::disk::{Buffer, Op, Request, Tag};
use lunboot::proto::logical_unit::{LogicalUnit, Options};
use lunboot::proto::logical_units::LogicalUnits;
use lunboot::proto::login::LoginConfig;
use lunboot::proto::params::{DigestChoice, Offer};
use lunboot::proto::session::{Event, Limits, Portal, Retry, Session, SessionConfig};
use lunboot::proto::target::{Event as TargetEvent, Target, TargetConfig};
use lunboot::store::memory::MemoryStore;
use lunboot::wire::pdu::Isid;

const KIB: u32 = 1024;
const MIB: u32 = 1024 * KIB;
const DISK_BYTES: u64 = 64 << 20;
const NAME: &str = "iqn.2026-11.example:bursts";

/// A network.
struct Line {
    name: &'static str,
    bytes_per_second: f64,
    round_trip: Duration,
    /// Most bytes that are on the way or wait to leave: what the sockets hold.
    window_bytes: usize,
}

const LINES: [Line; 4] = [
    Line {
        name: "1 Gbit/s, round trip 0.2 ms (a switch)",
        bytes_per_second: 117e6,
        round_trip: Duration::from_micros(200),
        window_bytes: 512 << 10,
    },
    Line {
        name: "10 Gbit/s, round trip 0.1 ms (a rack)",
        bytes_per_second: 1170e6,
        round_trip: Duration::from_micros(100),
        window_bytes: 512 << 10,
    },
    Line {
        name: "1 Gbit/s, round trip 2 ms (a campus)",
        bytes_per_second: 117e6,
        round_trip: Duration::from_millis(2),
        window_bytes: 512 << 10,
    },
    Line {
        name: "100 Mbit/s, round trip 20 ms (a city)",
        bytes_per_second: 11.7e6,
        round_trip: Duration::from_millis(20),
        window_bytes: 512 << 10,
    },
];

/// What is offered by both sides, in KiB: segment, first burst, burst; and R2Ts.
const CHOICES: [(u32, u32, u32, u32); 10] = [
    (8, 64, 256, 1),
    (64, 64, 256, 1),
    (64, 64, 1024, 8),
    (256, 256, 256, 8),
    (256, 256, 1024, 1),
    (256, 256, 1024, 8),
    (256, 256, 16_000, 1),
    (256, 1024, 1024, 8),
    (1024, 1024, 1024, 8),
    (1024, 256, 4096, 8),
];

/// Kind, bytes, depth.
const JOBS: [(bool, u32, usize); 8] = [
    (true, 4 * KIB, 1),
    (true, 64 * KIB, 1),
    (true, 256 * KIB, 1),
    (true, MIB, 1),
    (true, MIB, 8),
    (false, 4 * KIB, 1),
    (false, MIB, 1),
    (false, MIB, 8),
];

/// Bytes of a direction, with the time of their arrival.
struct Direction {
    chunks: VecDeque<(Duration, Vec<u8>)>,
    bytes: usize,
    taken: usize,
    free_at: Duration,
}

impl Direction {
    fn new() -> Direction {
        Direction { chunks: VecDeque::new(), bytes: 0, taken: 0, free_at: Duration::ZERO }
    }

    fn send(&mut self, bytes: Vec<u8>, now: Duration, line: &Line) {
        let takes = Duration::from_secs_f64(bytes.len() as f64 / line.bytes_per_second);
        self.free_at = self.free_at.max(now) + takes;
        self.bytes += bytes.len();
        self.chunks.push_back((self.free_at + line.round_trip / 2, bytes));
    }

    fn receive(&mut self, space: &mut [u8], now: Duration) -> usize {
        let Some((arrival, bytes)) = self.chunks.front() else { return 0 };
        if *arrival > now {
            return 0;
        }
        let left = &bytes[self.taken..];
        let count = left.len().min(space.len());
        space[..count].copy_from_slice(&left[..count]);
        self.taken += count;
        self.bytes -= count;
        if self.taken == bytes.len() {
            self.taken = 0;
            self.chunks.pop_front();
        }
        count
    }
}

/// Both sides and the line between them.
struct Bench<'a> {
    line: &'a Line,
    begun: Instant,
    now: Duration,
    session: Session,
    target: Target,
    up: Direction,
    down: Direction,
    buffers: Vec<Buffer>,
    /// Requests that were answered: of which tag.
    done: Vec<Tag>,
}

/// Bytes that leave at once: so much waits in a socket's queue before anything behind it.
const SEND_BYTES: usize = 64 * 1024;

impl<'a> Bench<'a> {
    fn new(line: &'a Line, choice: (u32, u32, u32, u32)) -> Bench<'a> {
        let (segment, first, burst, r2ts) = choice;
        let offer = Offer {
            header_digest: DigestChoice::Never,
            data_digest: DigestChoice::Never,
            max_recv_bytes: segment * KIB,
            first_burst_bytes: first * KIB,
            max_burst_bytes: burst * KIB,
            max_outstanding_r2t: r2ts,
            ..Offer::default()
        };
        let begun = Instant::now();
        let portal = SocketAddr::from(([192, 0, 2, 10], 3260));
        let challenge = || Challenge::new([7; Challenge::RANDOM_BYTES]);
        let config = SessionConfig {
            portals: vec![Portal::Address(portal)],
            login: LoginConfig {
                initiator: "iqn.2026-11.example:client".into(),
                target: Some(NAME.into()),
                isid: Isid([0x80, 1, 2, 3, 4, 5]),
                offer,
                chap: None,
            },
            lun: 0,
            patience: Patience::default(),
            retry: Retry::default(),
            limits: Limits::default(),
            requests_max: 64,
            transfer_bytes_max: MIB,
            unflushed_bytes_max: 16 * MIB,
        };
        let store = Arc::new(MemoryStore::new(DISK_BYTES));
        let unit = LogicalUnit::new(store, NAME, b"disk", Options::default()).expect("a disk");
        let units = LogicalUnits::new(vec![unit]);
        let server = Arc::new(TargetConfig { offer, ..TargetConfig::new(NAME, units) });
        let mut bench = Bench {
            line,
            begun,
            now: Duration::ZERO,
            session: Session::new(config, begun),
            target: Target::new(server, portal, challenge(), begun),
            up: Direction::new(),
            down: Direction::new(),
            buffers: (0..64).map(|_| vec![0x5a; MIB as usize].into()).collect(),
            done: Vec::new(),
        };
        bench.session.handle_timeout(begun);
        while let Some(event) = bench.session.poll_event() {
            if let Event::Connect(attempt) = event {
                bench.session.handle_connected(attempt.number, challenge(), begun);
            }
        }
        while bench.session.disk().is_none() || !bench.session.is_logged_in() {
            bench.go_on();
        }
        bench
    }

    fn submit(&mut self, tag: u16, op: Op, sector: u64, bytes: u32) {
        let buffer = self.buffers.pop().expect("no more requests than buffers");
        let (tag, sectors) = (Tag(tag), bytes / 512);
        let request = Request { tag, op, start_sector: sector, sectors, buffer };
        self.session.submit(request, self.begun + self.now);
    }

    /// Lets everything happen that can, or time pass to the next arrival.
    fn go_on(&mut self) {
        if self.step() {
            return;
        }
        let arrivals = [&self.up, &self.down].map(|way| way.chunks.front().map(|chunk| chunk.0));
        let next = arrivals.into_iter().flatten().min();
        self.now = next.expect("something is on the way").max(self.now);
    }

    fn step(&mut self) -> bool {
        let now = self.begun + self.now;
        let mut progress = false;
        // Each side fills its socket as long as the line is not busy with what is before.
        let mut slices: [&[u8]; 64] = [&[]; 64];
        let room = SEND_BYTES.min(self.line.window_bytes.saturating_sub(self.up.bytes));
        let count = self.session.poll_transmit(&mut slices);
        let bytes = gathered(&slices[..count], room);
        if !bytes.is_empty() {
            self.session.sent(bytes.len(), now);
            self.up.send(bytes, self.now, self.line);
            progress = true;
        }
        let mut slices: [&[u8]; 64] = [&[]; 64];
        let room = SEND_BYTES.min(self.line.window_bytes.saturating_sub(self.down.bytes));
        let count = self.target.poll_transmit(&mut slices);
        let bytes = gathered(&slices[..count], room);
        if !bytes.is_empty() {
            self.target.sent(bytes.len());
            self.down.send(bytes, self.now, self.line);
            progress = true;
        }
        let count = self.up.receive(self.target.recv_space(), self.now);
        if count > 0 {
            self.target.received(count, now);
            progress = true;
        }
        while let Some(event) = self.target.poll_event() {
            progress = true;
            match event {
                TargetEvent::Claim { .. } => self.target.admit(1, now),
                TargetEvent::Command { tag, .. } => self.target.execute(tag),
                TargetEvent::Reset { .. } => self.target.reset_done(),
                TargetEvent::Sanitize { lun } => panic!("nobody may sanitize LUN {lun}"),
                TargetEvent::Ended(end) => panic!("the target has ended: {end:?}"),
            }
        }
        let count = self.down.receive(self.session.recv_space(), self.now);
        if count > 0 {
            self.session.received(count, now);
            progress = true;
        }
        while let Some(event) = self.session.poll_event() {
            assert!(!matches!(event, Event::Trouble { .. }), "{event:?}");
        }
        while let Some(completion) = self.session.poll_completion() {
            assert_eq!(completion.result, Ok(()));
            self.done.push(completion.tag);
            self.buffers.push(completion.buffer);
            progress = true;
        }
        progress
    }

    /// Seconds on the line, and of the processor, for so many requests at a depth.
    fn run(&mut self, write: bool, bytes: u32, depth: usize, requests: u64) -> (f64, f64) {
        let op = if write { Op::Write { fua: false } } else { Op::Read };
        let places = DISK_BYTES / u64::from(bytes);
        let (began, clock) = (self.now, Instant::now());
        let (mut asked, mut answered) = (0, 0);
        self.done = (0..depth as u16).map(Tag).collect();
        while answered < requests {
            while asked < requests
                && let Some(Tag(tag)) = self.done.pop()
            {
                self.submit(tag, op, asked % places * u64::from(bytes / 512), bytes);
                asked += 1;
            }
            let before = self.done.len();
            self.go_on();
            answered += (self.done.len() - before) as u64;
        }
        self.done.clear();
        ((self.now - began).as_secs_f64(), clock.elapsed().as_secs_f64())
    }

    /// What a READ of 4 KiB takes while WRITEs of 1 MiB are always under way: seconds, the mean.
    fn beside(&mut self, reads: u32) -> f64 {
        const READER: u16 = 40;
        let mut waited = Duration::ZERO;
        for tag in 0..4 {
            self.submit(tag, Op::Write { fua: false }, u64::from(tag) * 2048, MIB);
        }
        for round in 0..reads {
            // Not in step with the writes.
            let asked = self.now + Duration::from_micros(137 * u64::from(round % 29));
            while self.now < asked {
                self.work();
            }
            let asked = self.now;
            self.submit(READER, Op::Read, 100_000, 4 * KIB);
            while !self.work() {}
            waited += self.now - asked;
        }
        waited.as_secs_f64() / f64::from(reads)
    }

    /// Goes on, and writes again whatever was written; true when the reader has its answer.
    fn work(&mut self) -> bool {
        self.go_on();
        let mut read = false;
        while let Some(Tag(tag)) = self.done.pop() {
            match tag {
                0..4 => self.submit(tag, Op::Write { fua: false }, u64::from(tag) * 2048, MIB),
                _ => read = true,
            }
        }
        read
    }
}

fn gathered(slices: &[&[u8]], most: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for slice in slices {
        let count = slice.len().min(most - bytes.len());
        bytes.extend_from_slice(&slice[..count]);
    }
    bytes
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    const ROUNDS: usize = 5;
    for line in &LINES {
        println!("\n{}", line.name);
        print!("{:>24}", "segment/first/burst/R2T");
        for (write, bytes, depth) in JOBS {
            let kind = if write { "w" } else { "r" };
            print!("{:>10}", format!("{kind} {}K×{depth}", bytes / KIB));
        }
        println!("{:>12}", "beside");
        for choice in CHOICES {
            let (segment, first, burst, r2ts) = choice;
            print!("{:>24}", format!("{segment}K/{first}K/{burst}K/{r2ts}"));
            let mut bench = Bench::new(line, choice);
            for (write, bytes, depth) in JOBS {
                let requests = (u64::from(32 * MIB) / u64::from(bytes)).min(64);
                let (seconds, _) = bench.run(write, bytes, depth, requests);
                let rate = requests as f64 * f64::from(bytes) / seconds;
                print!("{:>10.3}", rate / line.bytes_per_second);
            }
            println!("{:>9.2} ms", bench.beside(100) * 1e3);
        }
    }
    println!(
        "\nprocessor time for a MiB, as a ratio to the first choice; medians of {ROUNDS} rounds"
    );
    let line = &LINES[1];
    let jobs = [(true, 64 * KIB, 8), (true, MIB, 8), (false, 64 * KIB, 8), (false, MIB, 8)];
    let mut times = vec![[const { Vec::new() }; 4]; CHOICES.len()];
    for _ in 0..ROUNDS {
        for (choice, times) in CHOICES.iter().zip(&mut times) {
            let mut bench = Bench::new(line, *choice);
            for ((write, bytes, depth), times) in jobs.iter().zip(times) {
                let requests = u64::from(128 * MIB) / u64::from(*bytes);
                times.push(bench.run(*write, *bytes, *depth, requests).1);
            }
        }
    }
    let times: Vec<_> = times.into_iter().map(|row| row.map(median)).collect();
    for ((segment, first, burst, r2ts), row) in CHOICES.iter().zip(&times) {
        print!("{:>24}", format!("{segment}K/{first}K/{burst}K/{r2ts}"));
        for (time, first) in row.iter().zip(&times[0]) {
            print!("{:>10.2}", time / first);
        }
        println!();
    }
}
