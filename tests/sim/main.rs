//! Seeded simulation: both sides under everything that can happen to them, against a model disk.
//!
//! One seed decides all of it: what is negotiated; which requests come (never two that write the
//! same sector at once, as the block layer keeps it); how bytes are split and delayed; in which
//! order commands are executed; links that are cut, seen by one side or both, or fall silent;
//! connections that are refused; a target that crashes, with or without its cache; statuses and
//! resets that make the initiator try again; bits that flip where digests are in force; a store
//! that fails. Whatever comes, each request completes once, each read returns what may be there
//! (see `model`), and when the faults end, everything comes to rest.
//!
//! `cargo test --test sim` runs some thousand seeds, `SIM_SEEDS=20000` so many, and
//! `SIM_SEED=4711` one, with what happens printed. A failure prints its seed.

#[path = "../common/mod.rs"]
mod common;
mod model;
mod trouble;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::network::{Weather, up_to};
use common::{Pair, Settings, pattern};
use lunboot::proto::Patience;
use lunboot::proto::disk::{Error, Op, Tag};
use lunboot::proto::params::{DigestChoice, Offer};
use lunboot::proto::random::Random;
use lunboot::proto::session::Retry;
use model::Model;
use trouble::Tampering;

/// Seeds of a run that says nothing else: as many as fit into the patience of `make test`.
const SEEDS: u64 = 3000;

#[test]
fn seeds() {
    let number = |name: &str| {
        let text = std::env::var(name).ok()?;
        Some(text.parse::<u64>().unwrap_or_else(|_| panic!("{name}={text} is no number")))
    };
    if let Some(seed) = number("SIM_SEED") {
        return Simulation::new(seed, true).run();
    }
    let seeds = number("SIM_SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
                        return;
                    }
                    Simulation::new(seed, false).run();
                }
            });
        }
    });
}

/// Faults that may come in a run, each one time in so many rounds; 0 for never.
struct Faults {
    cut: u64,
    cut_for_initiator: u64,
    silence: u64,
    refuse: u64,
    crash: u64,
    reset: u64,
    store: u64,
    /// How many faults there may still be: a link that never holds for as long as a request takes
    /// lets nothing through.
    left: u32,
    /// How many resets there may still be: a command that is aborted 20 times fails, as it should.
    resets_left: u32,
}

struct Simulation {
    seed: u64,
    shown: bool,
    random: Random,
    pair: Pair,
    model: Model,
    faults: Faults,
    tampering: Rc<Cell<Tampering>>,
    /// Requests that are still to come.
    requests_left: u64,
    requests_at_once: u64,
    /// What is in flight, by tag.
    in_flight: Vec<Option<Asked>>,
    writings: u32,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    op: Op,
    start: u64,
    sectors: u32,
    writing: u32,
}

/// A panic says which seed it was.
struct Announce(u64);

impl Drop for Announce {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("to see it again: SIM_SEED={} cargo test --test sim", self.0);
        }
    }
}

impl Simulation {
    fn new(seed: u64, shown: bool) -> Simulation {
        let _announce = Announce(seed);
        let mut random = Random::new(seed);
        let settings = settings(&mut random);
        let sectors = settings.disk_bytes / 512;
        let tags = settings.requests_max;
        let digests = settings.initiator.header_digest == DigestChoice::Always
            && settings.initiator.data_digest == DigestChoice::Always;
        let tampering = Rc::new(Cell::new(Tampering {
            status_one_in: rate(&mut random, 8),
            flip_one_in: if digests { rate(&mut random, 50) } else { 0 },
        }));
        if shown {
            println!("{settings:#?}\n{:?}", tampering.get());
        }
        let mut pair = Pair::new(settings);
        pair.taps.tamper = Some(trouble::tamper(tampering.clone(), shown));
        let faults = Faults {
            cut: rate(&mut random, 60),
            cut_for_initiator: rate(&mut random, 60),
            silence: rate(&mut random, 200),
            refuse: rate(&mut random, 200),
            crash: rate(&mut random, 100),
            reset: rate(&mut random, 60),
            store: rate(&mut random, 200),
            left: random.below(30) as u32,
            resets_left: 8,
        };
        Simulation {
            seed,
            shown,
            model: Model::new(sectors),
            faults,
            tampering,
            requests_left: 10 + random.below(60),
            requests_at_once: 1 + random.below(tags as u64),
            in_flight: vec![None; tags],
            writings: 0,
            random,
            pair,
        }
    }

    fn run(mut self) {
        let _announce = Announce(self.seed);
        while self.requests_left > 0 {
            self.strike();
            self.ask();
            self.go_on();
            self.take_completions();
        }
        self.calm_down();
        self.pair.run_until("the last completion", |pair| pair.requests_in_flight() == 0);
        self.take_completions();
        self.check_what_is_left();
        self.pair.log_out();
        assert_eq!(self.pair.session.next_deadline(), None, "the session is not at rest");
    }

    /// Reads the whole disk, makes it stable, loses power, and reads it again.
    fn check_what_is_left(&mut self) {
        let sectors = self.model.sectors();
        for round in 0..3 {
            self.carry_out(Asked { op: Op::Read, start: 0, sectors, writing: 0 });
            match round {
                0 => self.carry_out(Asked { op: Op::Flush, start: 0, sectors: 0, writing: 0 }),
                1 => self.crash(),
                _ => {}
            }
        }
        let stored = self.pair.server.store.memory.contents();
        self.model.check_whole(&stored);
    }

    fn carry_out(&mut self, asked: Asked) {
        self.submit(0, asked);
        self.pair.run_until("a completion", |pair| pair.requests_in_flight() == 0);
        self.take_completions();
    }

    // Requests.

    fn ask(&mut self) {
        if self.pair.session.disk().is_none() {
            // A block device exists when the disk was seen.
            return;
        }
        while self.requests_left > 0 && self.random.below(3) != 0 {
            let at_once = self.in_flight.iter().flatten().count() as u64;
            let Some(tag) = self.in_flight.iter().position(Option::is_none) else { return };
            if at_once >= self.requests_at_once {
                return;
            }
            let asked = self.draw();
            if self.model.may_begin(asked) {
                self.requests_left -= 1;
                self.submit(tag, asked);
            } else if self.random.below(4) == 0 {
                return;
            }
        }
    }

    fn draw(&mut self) -> Asked {
        let block = u64::from(self.pair.settings.block_bytes / 512);
        let blocks = u64::from(self.model.sectors()) / block;
        let most = [1, 8, 32, 64][self.random.below(4) as usize].min(blocks);
        let length = 1 + self.random.below(most);
        let start = self.random.below(blocks - length + 1) * block;
        let fua = self.random.below(4) == 0;
        self.writings += 1;
        let mut asked =
            Asked { op: Op::Read, start, sectors: (length * block) as u32, writing: self.writings };
        match self.random.below(16) {
            0..6 => {}
            6..12 => asked.op = Op::Write { fua },
            12 => asked.op = Op::Discard,
            13 => asked.op = Op::WriteZeroes { no_unmap: self.random.below(2) == 0, fua },
            _ => (asked.op, asked.start, asked.sectors) = (Op::Flush, 0, 0),
        }
        if matches!(asked.op, Op::Discard | Op::WriteZeroes { .. }) {
            asked.writing = 0;
        }
        asked
    }

    fn submit(&mut self, tag: usize, asked: Asked) {
        let Asked { op, start, sectors, writing } = asked;
        if self.shown {
            println!("{:?} tag {tag}: {asked:?}", self.pair.elapsed());
        }
        let buffer = match op {
            Op::Write { .. } => pattern(writing, start, sectors),
            Op::Read => vec![0xa5; sectors as usize * 512],
            _ => vec![0xa5; 4096],
        };
        self.model.begin(tag, asked);
        self.in_flight[tag] = Some(asked);
        self.pair.submit_length(Tag(tag as u16), op, start, sectors, buffer);
    }

    fn take_completions(&mut self) {
        let lost = std::mem::take(&mut self.pair.lost);
        let mut lost = lost.into_iter().peekable();
        let completions = std::mem::take(&mut self.pair.completions);
        for (index, completion) in completions.into_iter().enumerate() {
            while let Some((start, sectors, _)) = lost.next_if(|(.., before)| *before <= index) {
                self.model.lose_writes(start, sectors);
            }
            let tag = usize::from(completion.tag.0);
            let asked = self.in_flight[tag].take().expect("the pair has checked it");
            if self.shown {
                println!("{:?} tag {tag}: {:?}", self.pair.elapsed(), completion.result);
            }
            match completion.result {
                Ok(()) => self.model.end(tag, asked, &completion.buffer),
                // Only what a store says may fail a request; the network never does.
                Err(Error::Medium) => self.model.fail(tag, asked),
                Err(error) => panic!("{asked:?} failed: {error}"),
            }
        }
        for (start, sectors, _) in lost {
            self.model.lose_writes(start, sectors);
        }
    }

    // The course of events.

    fn go_on(&mut self) {
        match self.random.below(4) {
            0 => self.pair.settle(),
            1 => {
                let most = up_to(Duration::from_millis(500), &mut self.random);
                self.pair.pass_some_time(most);
            }
            2 => {
                self.pair.settle();
                self.pair.pass_time();
            }
            _ => {
                for _ in 0..self.random.below(20) {
                    self.pair.step();
                }
            }
        }
    }

    fn comes(&mut self, one_in: u64) -> bool {
        let comes = one_in != 0 && self.faults.left > 0 && self.random.below(one_in) == 0;
        self.faults.left -= u32::from(comes);
        comes
    }

    fn strike(&mut self) {
        if self.comes(self.faults.cut) {
            self.tell("the link is cut");
            self.pair.cut();
        }
        if self.comes(self.faults.cut_for_initiator) {
            self.tell("the link is cut for the initiator");
            self.pair.cut_for_initiator();
        }
        if self.comes(self.faults.silence) {
            self.tell("the link falls silent");
            self.pair.silence();
        }
        if self.comes(self.faults.refuse) {
            self.pair.refusing = true;
            self.tell("connections are refused");
        }
        if self.comes(self.faults.crash) {
            self.crash();
        }
        if self.pair.refusing && self.random.below(20) == 0 {
            self.pair.refusing = false;
        }
        if self.faults.resets_left > 0 && self.comes(self.faults.reset) {
            self.faults.resets_left -= 1;
            self.tell("the unit is reset from elsewhere");
            self.pair.server.reset_from_elsewhere();
        }
        if self.comes(self.faults.store) {
            let one_in = self.random.below(2) * (2 + self.random.below(20));
            self.tell("the store begins or ceases to fail");
            self.pair.server.store.fail_one_in(one_in);
        }
    }

    fn crash(&mut self) {
        // All of the cache may be lost, some of it or nothing.
        let lost = self.random.below(3);
        self.tell("the target loses power");
        let random = &mut self.random;
        self.pair.restart_target(|| match lost {
            0 => false,
            1 => true,
            _ => random.below(2) == 0,
        });
        self.model.lose_power(&self.pair.server.store.memory.contents());
    }

    fn tell(&self, what: &str) {
        if self.shown {
            println!("{:?} {what}", self.pair.elapsed());
        }
    }

    /// No more faults from now on.
    fn calm_down(&mut self) {
        self.tampering.set(Tampering { status_one_in: 0, flip_one_in: 0 });
        self.pair.refusing = false;
        self.pair.server.store.fail_one_in(0);
        self.faults.crash = 0;
    }
}

/// One in how many, never more often than `least`; 0 in half of all runs.
fn rate(random: &mut Random, least: u64) -> u64 {
    if random.below(2) == 0 { 0 } else { least + random.below(least * 4) }
}

fn pick<T: Copy>(random: &mut Random, from: &[T]) -> T {
    from[random.below(from.len() as u64) as usize]
}

fn offer(random: &mut Random, digests: DigestChoice) -> Offer {
    let max_burst_bytes = pick(random, &[512, 4096, 20_000, 65_536, 262_144]);
    Offer {
        header_digest: digests,
        data_digest: digests,
        max_recv_bytes: pick(random, &[512, 1000, 4096, 8192, 65_536, 262_144]),
        max_burst_bytes,
        first_burst_bytes: pick(random, &[512, 1024, 8192, 65_536]).min(max_burst_bytes),
        initial_r2t: random.below(2) == 0,
        immediate_data: random.below(2) == 0,
        max_outstanding_r2t: pick(random, &[1, 2, 8, 1000]),
        default_time2wait: 0,
        default_time2retain: 0,
    }
}

fn settings(random: &mut Random) -> Settings {
    let digests = pick(random, &[DigestChoice::Never, DigestChoice::Always]);
    let seconds = |random: &mut Random, most| Duration::from_secs(1 + random.below(most));
    Settings {
        seed: random.bits(),
        initiator: offer(random, digests),
        target: offer(random, digests),
        disk_bytes: 4096 * (1 + random.below(32)),
        block_bytes: pick(random, &[512, 4096]),
        read_only: false,
        requests_max: pick(random, &[1, 4, 16]),
        transfer_bytes_max: pick(random, &[4096, 8192, 65_536, 262_144]),
        unflushed_bytes_max: pick(random, &[0, 16_384, 65_536, 1 << 20]),
        patience: Patience {
            login: seconds(random, 30),
            idle: seconds(random, 5),
            ping: seconds(random, 5),
            // Often less than the line and the target need.
            command: seconds(random, 30),
            management: seconds(random, 10),
        },
        retry: Retry { first: Duration::from_millis(1 + random.below(1000)), ..Retry::default() },
        ping_interval: seconds(random, 30),
        secrets: None,
        chap: None,
        weather: Weather {
            split_bytes_max: pick(random, &[0, 20, 100, 3000, 10_000]),
            delay_max: Duration::from_millis(pick(random, &[0, 0, 1, 200])),
            window_bytes: pick(random, &[1000, 30_000, 1 << 20]),
            shuffle: random.below(2) == 0,
            execution_max: Duration::from_millis(pick(random, &[0, 0, 10, 3000])),
        },
    }
}
