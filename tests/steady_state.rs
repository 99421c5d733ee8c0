//! Serving a disk asks for no memory: a machine that has none left, and can only get some by
//! writing to this disk, must not wait for itself.
//!
//! An allocator counts what the session asks for while it is at work, from the moment when the disk
//! was found and every kind of request was there once.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

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

/// Counts what one thread asks for while it is told to.
struct Counting;

thread_local! {
    static AT_WORK: Cell<bool> = const { Cell::new(false) };
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call goes on to the system's allocator unchanged; counting touches no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if AT_WORK.get() {
            ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        }
        // SAFETY: the caller keeps the contract of this very function.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from `alloc`, and so from the system's allocator.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const NAME: &str = "iqn.2026-11.example:root";
const DISK_BYTES: u64 = 16 << 20;
const BUFFER_BYTES: usize = 256 * 1024;
const DEPTH: u16 = 32;

/// A session and its target, and the bytes between them.
struct Both {
    now: Instant,
    session: Session,
    target: Target,
    up: VecDeque<u8>,
    down: VecDeque<u8>,
    buffers: Vec<Buffer>,
    done: u32,
}

impl Both {
    fn new(digest: DigestChoice) -> Both {
        let now = Instant::now();
        let offer = Offer { header_digest: digest, data_digest: digest, ..Offer::default() };
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
            requests_max: DEPTH.into(),
            transfer_bytes_max: BUFFER_BYTES as u32,
            unflushed_bytes_max: 4 << 20,
        };
        let store = Arc::new(MemoryStore::with_volatile_cache(DISK_BYTES));
        let unit = LogicalUnit::new(store, NAME, b"disk", Options::default()).expect("a disk");
        let units = LogicalUnits::new(vec![unit]);
        let server = Arc::new(TargetConfig { offer, ..TargetConfig::new(NAME, units) });
        let mut both = Both {
            now,
            session: Session::new(config, now),
            target: Target::new(server, portal, challenge(), now),
            up: VecDeque::new(),
            down: VecDeque::new(),
            buffers: (0..DEPTH).map(|_| vec![0x5a; BUFFER_BYTES].into()).collect(),
            done: 0,
        };
        both.session.handle_timeout(now);
        while let Some(event) = both.session.poll_event() {
            if let Event::Connect(attempt) = event {
                both.session.handle_connected(attempt.number, challenge(), now);
            }
        }
        while !both.session.is_logged_in() {
            assert!(both.step(), "the login goes on");
        }
        both
    }

    /// Everything that can happen now, once.
    fn step(&mut self) -> bool {
        let now = self.now;
        let mut moved = false;
        let mut slices: [&[u8]; 64] = [&[]; 64];
        let count = at_work(|| self.session.poll_transmit(&mut slices));
        let sent: usize = slices[..count].iter().map(|slice| slice.len()).sum();
        slices[..count].iter().for_each(|slice| self.up.extend(*slice));
        if sent > 0 {
            at_work(|| self.session.sent(sent, now));
            moved = true;
        }
        let count = take(&mut self.up, self.target.recv_space());
        if count > 0 {
            self.target.received(count, now);
            moved = true;
        }
        while let Some(event) = self.target.poll_event() {
            match event {
                TargetEvent::Claim { .. } => self.target.admit(1, now),
                TargetEvent::Command { tag, .. } => self.target.execute(tag),
                TargetEvent::Reset { .. } => self.target.reset_done(),
                other => panic!("{other:?}"),
            }
        }
        let mut slices: [&[u8]; 64] = [&[]; 64];
        let count = self.target.poll_transmit(&mut slices);
        let sent: usize = slices[..count].iter().map(|slice| slice.len()).sum();
        slices[..count].iter().for_each(|slice| self.down.extend(*slice));
        if sent > 0 {
            self.target.sent(sent);
            moved = true;
        }
        let count = take(&mut self.down, at_work(|| self.session.recv_space()));
        if count > 0 {
            at_work(|| self.session.received(count, now));
            moved = true;
        }
        while let Some(event) = at_work(|| self.session.poll_event()) {
            assert!(!matches!(event, Event::Trouble { .. }), "{event:?}");
        }
        while let Some(completion) = at_work(|| self.session.poll_completion()) {
            assert_eq!(completion.result, Ok(()));
            self.buffers.push(completion.buffer);
            self.done += 1;
        }
        moved
    }

    /// So many requests of all kinds, as many at once as there may be.
    fn serve(&mut self, requests: u32) {
        let (mut asked, answered) = (0, self.done);
        while self.done - answered < requests {
            while asked < requests
                && let Some(buffer) = self.buffers.pop()
            {
                let tag = Tag(asked as u16);
                let (op, sectors) = match asked % 16 {
                    0 => (Op::Flush, 0),
                    1 => (Op::Write { fua: true }, 8),
                    2 => (Op::Discard, 64),
                    3 => (Op::WriteZeroes { no_unmap: true, fua: false }, 64),
                    4..8 => (Op::Write { fua: false }, 1 + asked % 512),
                    8 => (Op::Write { fua: false }, 512),
                    _ => (Op::Read, 1 + asked * 7 % 512),
                };
                let start_sector = u64::from(asked * 61 % 30_000);
                let request = Request { tag, op, start_sector, sectors, buffer };
                at_work(|| self.session.submit(request, self.now));
                asked += 1;
            }
            assert!(self.step(), "the requests go on");
        }
    }
}

fn at_work<T>(work: impl FnOnce() -> T) -> T {
    AT_WORK.set(true);
    let result = work();
    AT_WORK.set(false);
    result
}

fn take(from: &mut VecDeque<u8>, space: &mut [u8]) -> usize {
    let count = from.len().min(space.len());
    for (place, byte) in space.iter_mut().zip(from.drain(..count)) {
        *place = byte;
    }
    count
}

#[test]
fn serving_a_disk_asks_for_no_memory() {
    for digest in [DigestChoice::Never, DigestChoice::Always] {
        let mut both = Both::new(digest);
        assert_ne!(ALLOCATIONS.get(), 0, "a login asks for memory, and that is counted");
        both.serve(2000);
        let before = ALLOCATIONS.get();
        both.serve(20_000);
        assert_eq!(ALLOCATIONS.get() - before, 0, "{digest:?}");
    }
}
