//! Seeded simulation: both sides under everything that can happen to them, against a model disk.
//!
//! One seed decides all of it: what is negotiated; which requests come (never two that write the
//! same sector at once, as the block layer keeps it); how bytes are split, delayed, damaged where
//! digests find it, or lost; how slowly commands are executed and with which statuses; what becomes
//! of links (see `faults`) and portals (see `portals`); when the target, or its disk alone, loses
//! power and what was in its cache, block by block. Whatever comes, each request completes once,
//! each read returns what was last written (see `model`), nothing is written to another disk,
//! another portal takes over in time, and when the faults end, everything comes to rest. What has
//! happened is counted (see `coverage`); nothing of it may be missing.
//!
//! `cargo test --test sim` runs for a minute at most, `SIM_SEEDS=20000` so many seeds, `SIM_SOAK=1`
//! new ones until it is stopped (`make soak`), and `SIM_SEED=4711` one, with what happens printed.
//! A failure prints its seed.

#[path = "../common/mod.rs"]
mod common;
mod coverage;
mod draw;
mod faults;
mod model;
mod portals;
mod run;
mod trouble;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use common::network::up_to;
use common::{Pair, pattern};
use coverage::Coverage;
use draw::{rate, settings};
use faults::Faults;
use lunboot::proto::Error as SessionError;
use lunboot::proto::disk::{Error, Op, Tag};
use lunboot::proto::params::DigestChoice;
use lunboot::proto::random::Random;
use lunboot::proto::session::{Event, Rung};
use model::Model;
use portals::Ways;
use trouble::Tampering;

/// Most rounds until all requests were made: a run has some thousands.
const ROUNDS_MAX: u32 = 2_000_000;

/// Without faults everything is done after this time, also on the slowest line and with a disk that
/// needs longer for a command than it is given.
const REST_MAX: Duration = Duration::from_secs(15 * 60);

struct Simulation {
    seed: u64,
    shown: bool,
    random: Random,
    pair: Pair,
    model: Model,
    faults: Faults,
    ways: Ways,
    tampering: Rc<Cell<Tampering>>,
    coverage: Rc<RefCell<Coverage>>,
    /// Writes that had been written again when the session last was at work.
    rewritten: u64,
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
        let header = settings.initiator.header_digest == DigestChoice::Always;
        let data = settings.initiator.data_digest == DigestChoice::Always;
        let coverage = Rc::new(RefCell::new(Coverage::new()));
        coverage.borrow_mut().count(match (header, data) {
            (false, false) => "no digests",
            (true, false) => "header digests",
            (false, true) => "data digests",
            (true, true) => "both digests",
        });
        let tampering = Rc::new(Cell::new(Tampering {
            status_one_in: rate(&mut random, 8),
            flip_one_in: if header || data { rate(&mut random, 50) } else { 0 },
            power_was_lost: false,
        }));
        if shown {
            println!("{settings:#?}\n{:?}", tampering.get());
        }
        let ways = Ways::new(&mut random);
        let mut pair = Pair::with_portals(settings, ways.listed.clone());
        pair.taps.tamper = Some(trouble::tamper(tampering.clone(), coverage.clone(), shown));
        let faults = Faults::new(&mut random);
        Simulation {
            seed,
            shown,
            model: Model::new(sectors),
            faults,
            ways,
            tampering,
            coverage,
            rewritten: 0,
            requests_left: 10 + random.below(60),
            requests_at_once: 1 + random.below(tags as u64),
            in_flight: vec![None; tags],
            writings: 0,
            random,
            pair,
        }
    }

    fn run(mut self) -> Coverage {
        let _announce = Announce(self.seed);
        let mut rounds = 0;
        while self.requests_left > 0 {
            rounds += 1;
            assert!(rounds < ROUNDS_MAX, "requests are waited for without an end");
            self.strike();
            self.ask();
            self.go_on();
            self.take_events();
            self.take_completions();
            if self.pair.session.is_logged_in() {
                self.rewritten = self.pair.session.upkeep().rewritten;
            }
        }
        self.calm_down();
        let calm = self.pair.elapsed();
        self.pair.run_until("the last completion", |pair| {
            assert!(pair.elapsed() < calm + REST_MAX, "no rest after the last fault");
            pair.requests_in_flight() == 0
        });
        self.take_completions();
        self.check_what_is_left();
        self.log_out();
        self.take_events();
        assert_eq!(self.pair.session.next_deadline(), None, "the session is not at rest");
        assert!(!self.pair.server.is_stranger_harmed(), "another disk was written to");
        self.count_what_followed();
        self.coverage.borrow().clone()
    }

    fn count(&self, kind: &'static str) {
        self.coverage.borrow_mut().count(kind);
    }

    fn take_events(&mut self) {
        for event in std::mem::take(&mut self.pair.events) {
            if self.shown {
                println!("{:?} {event:?}", self.pair.elapsed());
            }
            match event {
                Event::Resumed { .. } => self.count("reconnects"),
                Event::WriteLost { .. } => self.count("writes lost"),
                Event::Recovering { rung: Rung::AbortTask, .. } => self.count("ABORT TASK"),
                Event::Recovering { rung: Rung::LogicalUnitReset, .. } => {
                    self.count("LOGICAL UNIT RESET");
                }
                Event::Redirected { to, permanent, .. } => self.count_redirection(&to, permanent),
                Event::Trouble { error, retry_after, .. } => {
                    self.count_trouble(&error);
                    if !retry_after.is_zero() {
                        self.count("failed attempts");
                    }
                }
                _ => {}
            }
        }
    }

    fn count_trouble(&self, error: &SessionError) {
        match error {
            SessionError::TimedOut { .. } => self.count("time-outs"),
            SessionError::DigestError { .. } => self.count("digest errors"),
            SessionError::TargetClosing => self.count("targets that close"),
            SessionError::RedirectedInCircles { portals } if portals.matches(',').count() > 8 => {
                self.count("redirections too long");
            }
            SessionError::RedirectedInCircles { .. } => self.count("redirections in circles"),
            SessionError::LogicalUnit(text) if text.contains("another disk") => {
                self.count("other disks refused");
            }
            _ => {}
        }
    }

    fn count_what_followed(&mut self) {
        let (upkeep, server) = (self.pair.session.upkeep(), &self.pair.server);
        for (kind, times) in [
            ("writes written again", upkeep.rewritten),
            ("own flushes", upkeep.flushes),
            ("writes held back", upkeep.held_back),
            ("sessions reinstated", server.reinstated),
            ("slow commands", server.slow),
            ("store faults", server.store.faults()),
            ("late bytes", self.pair.late),
            ("connections too late", self.pair.too_late),
        ] {
            self.coverage.borrow_mut().add(kind, times);
        }
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

    /// A logout leaves nothing in the cache, also when that was lost just before, if the target has
    /// the time: nothing holds up whoever wants to leave for long.
    fn log_out(&mut self) {
        let patience = self.pair.settings.patience;
        if self.login_takes() >= patience.login.min(patience.command) {
            return self.pair.log_out();
        }
        let (op, sectors) = (Op::Write { fua: false }, self.pair.settings.block_bytes / 512);
        self.carry_out(Asked { op, start: 0, sectors, writing: self.writings + 1 });
        if self.random.below(2) == 0 {
            self.count("crashes before a logout");
            self.crash_unit();
        }
        self.pair.log_out();
        self.pair.server.lose_power(|| false);
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
        // A long request in small pieces takes long and finds little.
        let split = self.pair.settings.weather.split_bytes_max;
        let longest = if (1..=100).contains(&split) { 8 / block } else { 64 };
        let most = [1, 8, 32, 64][self.random.below(4) as usize].min(blocks).min(longest);
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
        self.count(match op {
            Op::Read => "reads",
            Op::Write { fua: false } => "writes",
            Op::Write { fua: true } => "forced writes",
            Op::Discard => "discards",
            Op::WriteZeroes { fua: false, .. } => "zeroes",
            Op::WriteZeroes { fua: true, .. } => "forced zeroes",
            Op::Flush => "flushes",
        });
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
                Err(Error::Medium) => {
                    self.count("failed requests");
                    self.model.fail(tag, asked);
                }
                Err(error) => panic!("{asked:?} failed: {error}"),
            }
        }
        for (start, sectors, _) in lost {
            self.model.lose_writes(start, sectors);
        }
    }

    // The course of events.

    fn go_on(&mut self) {
        if self.ways.is_failing_over() {
            // The time is measured, so nobody dawdles.
            self.pair.settle();
            self.watch_fail_over();
            self.pair.pass_time();
            return;
        }
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

    fn happens(&self, what: &str, kind: &'static str) {
        self.tell(what);
        self.count(kind);
    }

    fn tell(&self, what: &str) {
        if self.shown {
            println!("{:?} {what}", self.pair.elapsed());
        }
    }
}
