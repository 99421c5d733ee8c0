//! [`Pair`]: our initiator and our target joined in memory, with one clock that the test moves.
//!
//! No socket, no thread, no sleep: bytes go through the pipes of [`network`], commands are executed
//! by [`server`] as the real server does, and time passes only in [`Pair::pass_time`], which jumps
//! to the next thing that is due. Whatever is random comes from one generator, so that a seed
//! repeats a run exactly. The driving contract is kept as the daemon keeps it: one input, then
//! every output is drained.

// Each test program uses a part of it.
#![allow(dead_code, missing_docs, unreachable_pub)]

pub mod by_hand;
pub mod capture;
pub mod client;
pub mod meddler;
pub mod network;
pub mod server;
pub mod tap;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use lunboot::proto::chap::{Challenge, Chap, Secrets};
use lunboot::proto::disk::{Completion, Op, Request, Tag};
use lunboot::proto::login::LoginConfig;
use lunboot::proto::params::{DigestChoice, Offer};
use lunboot::proto::random::Random;
use lunboot::proto::session::{Attempt, Event, Limits, Portal, Retry, Session, SessionConfig};
use lunboot::proto::{Error, Patience};
use lunboot::wire::pdu::Isid;

use self::network::{Link, Weather, gathered};
use self::server::Server;
use self::tap::Taps;

/// Longest request that the tests submit, and so the length of every buffer.
pub const BUFFER_BYTES: usize = 256 * 1024;

/// Most rounds without rest that a test may take before it is said to hang.
const ROUNDS_MAX: u32 = 2_000_000;

/// Most connections of one run: more means that one follows the other without end.
const LINKS_MAX: usize = 4000;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// From the initiator to the target.
    Up,
    /// From the target to the initiator.
    Down,
}

/// What a pair is made of.
#[derive(Clone, Debug)]
pub struct Settings {
    pub seed: u64,
    pub initiator: Offer,
    pub target: Offer,
    pub disk_bytes: u64,
    pub block_bytes: u32,
    pub read_only: bool,
    pub requests_max: usize,
    pub transfer_bytes_max: u32,
    pub unflushed_bytes_max: u32,
    pub patience: Patience,
    pub retry: Retry,
    pub limits: Limits,
    pub ping_interval: Duration,
    /// What the target knows of its initiators, and the initiator of itself.
    pub secrets: Option<Secrets>,
    pub chap: Option<Chap>,
    pub weather: Weather,
}

impl Default for Settings {
    /// A small disk, no digests, and a network that does nothing of its own.
    fn default() -> Settings {
        let offer = Offer {
            header_digest: DigestChoice::Never,
            data_digest: DigestChoice::Never,
            ..Offer::default()
        };
        Settings {
            seed: 0,
            initiator: offer,
            target: offer,
            disk_bytes: 1 << 20,
            block_bytes: 512,
            read_only: false,
            requests_max: 32,
            transfer_bytes_max: 256 * 1024,
            unflushed_bytes_max: 16 << 20,
            patience: Patience::default(),
            retry: Retry::default(),
            limits: Limits::default(),
            ping_interval: Duration::from_secs(30),
            secrets: None,
            chap: None,
            weather: Weather::default(),
        }
    }
}

/// The two sides and what is between them.
pub struct Pair {
    pub settings: Settings,
    pub random: Random,
    pub begun: Instant,
    pub now: Instant,
    pub session: Session,
    pub server: Server,
    pub links: Vec<Link>,
    /// The links before this one are over.
    oldest: usize,
    /// Bytes of an older connection that came to the target when there was another.
    pub late: u64,
    pub taps: Taps,
    /// The link that the session uses.
    current: Option<usize>,
    /// Attempts that are being made, and when they are decided.
    connecting: Vec<(Instant, Attempt)>,
    /// Portals that refuse, and portals that say nothing at all.
    pub refused: Vec<Portal>,
    pub mute: Vec<Portal>,
    /// Portals that need so long to answer.
    pub tardy: Vec<(Portal, Duration)>,
    /// Connections that came up at the target when another was in use already.
    pub too_late: u64,
    /// Where the current link leads.
    pub reached: Rc<RefCell<Option<Portal>>>,
    /// Where each link has led.
    pub visited: Vec<Portal>,
    /// When the last login was through.
    pub logged_in_at: Option<Instant>,
    /// Nobody listens: connections are refused.
    pub refusing: bool,
    /// Cut the link when so many more bytes have arrived in this direction.
    pub cut_after: Option<(Direction, u64)>,
    /// Bytes that have arrived, over all links.
    pub arrived: BTreeMap<Direction, u64>,
    pub completions: Vec<Completion>,
    /// Writes that the target has lost for good: first sector, length, and how many of
    /// `completions` came before.
    pub lost: Vec<(u64, u32, usize)>,
    pub events: Vec<Event>,
    in_flight: Vec<Tag>,
}

impl Pair {
    pub fn new(settings: Settings) -> Pair {
        Pair::with_portals(settings, vec![portal(10)])
    }

    /// A pair whose target can be reached in several ways.
    pub fn with_portals(settings: Settings, portals: Vec<Portal>) -> Pair {
        let now = Instant::now();
        let config = SessionConfig {
            portals,
            login: LoginConfig {
                initiator: "iqn.2026-11.example:client".into(),
                target: Some(server::NAME.into()),
                isid: Isid([0x80, 1, 2, 3, 4, 5]),
                offer: settings.initiator,
                chap: settings.chap.clone(),
            },
            lun: 0,
            patience: settings.patience,
            retry: settings.retry,
            limits: settings.limits,
            requests_max: settings.requests_max,
            transfer_bytes_max: settings.transfer_bytes_max,
            unflushed_bytes_max: settings.unflushed_bytes_max,
        };
        Pair {
            random: Random::new(settings.seed),
            begun: now,
            now,
            session: Session::new(config, now),
            server: Server::new(&settings),
            links: Vec::new(),
            oldest: 0,
            late: 0,
            taps: Taps::default(),
            current: None,
            connecting: Vec::new(),
            refused: Vec::new(),
            mute: Vec::new(),
            tardy: Vec::new(),
            too_late: 0,
            reached: Rc::default(),
            visited: Vec::new(),
            logged_in_at: None,
            refusing: false,
            cut_after: None,
            arrived: BTreeMap::from([(Direction::Up, 0), (Direction::Down, 0)]),
            completions: Vec::new(),
            lost: Vec::new(),
            events: Vec::new(),
            in_flight: Vec::new(),
            settings,
        }
    }

    /// A pair whose session is logged in.
    pub fn logged_in(settings: Settings) -> Pair {
        let mut pair = Pair::new(settings);
        pair.run_until("login", |pair| pair.session.is_logged_in());
        pair
    }

    /// Time since the beginning.
    pub fn elapsed(&self) -> Duration {
        self.now - self.begun
    }

    // What a block device does.

    pub fn submit(&mut self, tag: Tag, op: Op, start_sector: u64, data: &[u8]) {
        let mut buffer = vec![0xa5; BUFFER_BYTES.max(data.len())];
        buffer[..data.len()].copy_from_slice(data);
        let sectors = (data.len() / 512) as u32;
        self.submit_length(tag, op, start_sector, sectors, buffer);
    }

    pub fn submit_length(
        &mut self,
        tag: Tag,
        op: Op,
        start_sector: u64,
        sectors: u32,
        buffer: Vec<u8>,
    ) {
        assert!(!self.in_flight.contains(&tag), "a tag is used twice");
        self.in_flight.push(tag);
        let request = Request { tag, op, start_sector, sectors, buffer: buffer.into() };
        self.session.submit(request, self.now);
        self.drain_session();
    }

    /// Submits one request and waits for its completion.
    pub fn carry_out(&mut self, op: Op, start_sector: u64, data: &[u8]) -> Completion {
        let tag = Tag(u16::MAX);
        self.submit(tag, op, start_sector, data);
        self.wait_for(tag)
    }

    pub fn write(&mut self, start_sector: u64, data: &[u8]) {
        let completion = self.carry_out(Op::Write { fua: false }, start_sector, data);
        assert_eq!(completion.result, Ok(()), "write of {} at {start_sector}", data.len());
    }

    pub fn read(&mut self, start_sector: u64, bytes: usize) -> Vec<u8> {
        let completion = self.carry_out(Op::Read, start_sector, &vec![0x5a; bytes]);
        assert_eq!(completion.result, Ok(()), "read of {bytes} at {start_sector}");
        completion.buffer[..bytes].to_vec()
    }

    pub fn flush(&mut self) {
        let completion = self.carry_out(Op::Flush, 0, &[]);
        assert_eq!(completion.result, Ok(()), "flush");
    }

    pub fn wait_for(&mut self, tag: Tag) -> Completion {
        self.run_until("completion", |pair| pair.completions.iter().any(|done| done.tag == tag));
        let index = self.completions.iter().position(|done| done.tag == tag);
        self.completions.swap_remove(index.expect("it was waited for"))
    }

    pub fn requests_in_flight(&self) -> usize {
        self.in_flight.len()
    }

    pub fn log_out(&mut self) {
        self.session.log_out(self.now);
        self.drain_session();
        self.run_until("logout", |pair| {
            pair.events.iter().any(|event| matches!(event, Event::LoggedOut))
        });
    }

    // The course of events.

    /// Lets happen whatever can, and then time pass, until `done`.
    pub fn run_until(&mut self, what: &str, done: impl Fn(&Pair) -> bool) {
        for _ in 0..ROUNDS_MAX {
            self.settle();
            if done(self) {
                return;
            }
            assert!(self.pass_time(), "waiting for {what}, and nothing will ever happen");
            assert!(
                self.elapsed() < Duration::from_secs(24 * 3600),
                "still waiting for {what} after a day; events: {:#?}",
                &self.events[self.events.len().saturating_sub(5)..]
            );
        }
        panic!("still waiting for {what} after {ROUNDS_MAX} rounds");
    }

    /// Lets everything happen that needs no time.
    pub fn settle(&mut self) {
        for _ in 0..ROUNDS_MAX {
            if !self.step() {
                return;
            }
        }
        panic!("no rest after {ROUNDS_MAX} steps at the same time");
    }

    /// Lets one round happen, in an order that the weather decides; false if nothing could.
    pub fn step(&mut self) -> bool {
        let first = if self.settings.weather.shuffle { self.random.below(5) } else { 0 };
        let mut progress = false;
        for turn in 0..5 {
            progress |= match (first + turn) % 5 {
                0 => self.connect(),
                1 => self.session_sends(),
                2 => self.target_receives(),
                3 => self.target_works(),
                _ => self.session_receives(),
            };
        }
        progress
    }

    /// Jumps to the next moment at which something is due; false if there is none.
    pub fn pass_time(&mut self) -> bool {
        let Some(next) = self.next_moment() else { return false };
        self.now = self.now.max(next);
        self.handle_timeouts();
        true
    }

    /// Lets time pass without a reason, at most to the next moment.
    pub fn pass_some_time(&mut self, most: Duration) {
        let until = self.now + most;
        self.now = self.next_moment().map_or(until, |next| until.min(next)).max(self.now);
        self.handle_timeouts();
    }

    fn next_moment(&self) -> Option<Instant> {
        // What has arrived and was not taken waits for something else.
        let arrivals = self.links[self.oldest..].iter().flat_map(Link::arrivals);
        let links = arrivals.filter(|arrival| *arrival > self.now);
        let connecting = self.connecting.iter().map(|(due, _)| *due);
        let due = [self.session.next_deadline(), self.server.next_deadline()];
        due.into_iter().flatten().chain(connecting).chain(links).min()
    }

    fn handle_timeouts(&mut self) {
        self.server.handle_timeouts(self.now);
        // A deadline that has passed and stays would be waited for without any rest. That of a
        // connection that is to be made at once follows on that of the one that was given up.
        for _ in 0..3 {
            self.session.handle_timeout(self.now);
            self.drain_session();
            if self.session.next_deadline().is_none_or(|next| next > self.now) {
                return;
            }
        }
        panic!("a deadline has passed, and nothing is done about it");
    }

    // Faults.

    /// The link breaks; both sides see it.
    pub fn cut(&mut self) {
        let Some(link) = self.current.take() else { return };
        self.links[link].close();
        let error = Error::Transport("connection reset by peer".into());
        self.session.handle_disconnected(error, self.now);
        self.drain_session();
    }

    /// The link breaks for the initiator alone; what it has sent may still reach the target.
    pub fn cut_for_initiator(&mut self) {
        let Some(link) = self.current.take() else { return };
        self.links[link].initiator_is_gone();
        let error = Error::Transport("connection reset by peer".into());
        self.session.handle_disconnected(error, self.now);
        self.drain_session();
    }

    /// From now on nothing arrives any more over this link, and nobody is told.
    pub fn silence(&mut self) {
        if let Some(link) = self.current {
            self.links[link].silence();
        }
    }

    /// Whether a portal takes connections.
    pub fn is_open(&self, portal: &Portal) -> bool {
        ![&self.mute, &self.refused].into_iter().any(|closed| closed.contains(portal))
    }

    /// Where the link in use leads.
    pub fn current_portal(&self) -> Option<&Portal> {
        self.current.map(|link| &self.links[link].portal)
    }

    /// The target's machine loses power, and its cache as `survives` says; then it is back.
    pub fn restart_target(&mut self, survives: impl FnMut() -> bool) {
        self.server.lose_power(survives);
        for link in &mut self.links {
            link.target_is_gone();
        }
    }

    // The five things that can happen.

    fn connect(&mut self) -> bool {
        let now = self.now;
        let Some(index) = self.connecting.iter().position(|(due, _)| *due <= now) else {
            return false;
        };
        let (_, Attempt { number, portal }) = self.connecting.remove(index);
        if self.mute.contains(&portal) {
            return true;
        }
        if self.refusing || self.refused.contains(&portal) {
            let error = Error::Transport(format!("connect to {portal}: refused").into());
            self.session.handle_refused(number, error, self.now);
        } else {
            let losers = std::mem::take(&mut self.connecting);
            self.current = Some(self.open_link(&portal));
            self.visited.push(portal.clone());
            self.reached.replace(Some(portal));
            self.taps.begin();
            let challenge = challenge(self.links.len() as u64);
            self.session.handle_connected(number, challenge, self.now);
            self.close_losers(losers);
        }
        self.drain_session();
        true
    }

    /// A connection comes up at the target.
    fn open_link(&mut self, portal: &Portal) -> usize {
        let index = self.links.len();
        assert!(
            index < LINKS_MAX,
            "connections without end; events: {:#?}",
            &self.events[self.events.len().saturating_sub(8)..]
        );
        self.server.accept(index, portal, self.now);
        self.links.push(Link::new(portal.clone()));
        index
    }

    /// Attempts that were not the first are closed; some have come up at the target by then.
    fn close_losers(&mut self, losers: Vec<(Instant, Attempt)>) {
        for (_, Attempt { portal, .. }) in losers {
            if self.is_open(&portal) && self.settings.weather.shuffle {
                let link = self.open_link(&portal);
                self.links[link].initiator_is_gone();
                self.too_late += 1;
            }
        }
    }

    fn session_sends(&mut self) -> bool {
        let Some(index) = self.current else { return false };
        let mut slices: [&[u8]; 8] = [&[]; 8];
        let count = self.session.poll_transmit(&mut slices);
        let link = &mut self.links[index];
        let room = self.settings.weather.room(link.sent_bytes(), &mut self.random);
        let bytes = gathered(&slices[..count], room);
        if bytes.is_empty() {
            return false;
        }
        let sent = bytes.len();
        let arrival = self.now + self.settings.weather.delay(&mut self.random);
        let bytes = self.taps.pass(Direction::Up, bytes, &mut self.random);
        link.up.send(bytes, arrival);
        self.session.sent(sent, self.now);
        self.drain_session();
        true
    }

    fn target_receives(&mut self) -> bool {
        let mut progress = false;
        for index in self.oldest..self.links.len() {
            let link = &mut self.links[index];
            let Some(space) = self.server.recv_space(index) else { continue };
            let most = self.settings.weather.split(&mut self.random).min(space.len());
            let most = limited(most, &self.cut_after, Direction::Up);
            let count = link.receive_up(&mut space[..most], self.now);
            if count > 0 {
                self.server.received(index, count, self.now);
                self.count(Direction::Up, count);
                self.late +=
                    if self.current.is_some_and(|now| now > index) { count as u64 } else { 0 };
                progress = true;
            } else if self.links[index].has_ended_for_target() {
                self.server.closed(index);
                progress = true;
            }
        }
        progress
    }

    fn target_works(&mut self) -> bool {
        let mut progress = self.server.work(self.now, &mut self.random, &self.settings.weather);
        for index in self.oldest..self.links.len() {
            let link = &mut self.links[index];
            let room = self.settings.weather.room(link.down.bytes(), &mut self.random);
            let bytes = self.server.transmit(index, room);
            if bytes.is_empty() {
                continue;
            }
            progress = true;
            let arrival = self.now + self.settings.weather.delay(&mut self.random);
            let bytes = if self.current == Some(index) {
                self.taps.pass(Direction::Down, bytes, &mut self.random)
            } else {
                bytes
            };
            self.links[index].down.send(bytes, arrival);
        }
        self.server.bury();
        for (index, link) in self.links.iter_mut().enumerate().skip(self.oldest) {
            if !link.is_target_gone() && !self.server.is_connected(index) {
                link.target_is_gone();
                progress = true;
            }
        }
        while self.links.get(self.oldest).is_some_and(Link::is_over) {
            self.oldest += 1;
        }
        progress
    }

    fn session_receives(&mut self) -> bool {
        let Some(index) = self.current else { return false };
        let link = &mut self.links[index];
        let space = self.session.recv_space();
        let most = self.settings.weather.split(&mut self.random).min(space.len());
        let most = limited(most, &self.cut_after, Direction::Down);
        let count = link.down.receive(&mut space[..most], self.now);
        if count > 0 {
            self.session.received(count, self.now);
            self.drain_session();
            self.count(Direction::Down, count);
            true
        } else if link.has_ended_for_initiator() {
            self.current = None;
            link.close();
            let error = Error::Transport("the target has closed the connection".into());
            self.session.handle_disconnected(error, self.now);
            self.drain_session();
            true
        } else {
            false
        }
    }

    fn count(&mut self, direction: Direction, count: usize) {
        *self.arrived.entry(direction).or_default() += count as u64;
        if let Some((cut, left)) = &mut self.cut_after
            && *cut == direction
        {
            *left -= count as u64;
            if *left == 0 {
                self.cut_after = None;
                self.cut();
            }
        }
    }

    fn drain_session(&mut self) {
        while let Some(event) = self.session.poll_event() {
            match event {
                Event::Connect(ref attempt) => {
                    assert!(self.current.is_none(), "a second connection is asked for");
                    let tardy = self.tardy.iter().find(|(portal, _)| *portal == attempt.portal);
                    let delay = self.settings.weather.delay(&mut self.random)
                        + tardy.map_or(Duration::ZERO, |(_, delay)| *delay);
                    self.connecting.push((self.now + delay, attempt.clone()));
                }
                Event::Disconnect => {
                    self.connecting.clear();
                    if let Some(link) = self.current.take() {
                        self.links[link].initiator_is_gone();
                    }
                }
                Event::LoggedIn(_) => self.logged_in_at = Some(self.now),
                Event::WriteLost { start_sector, sectors, .. } => {
                    self.lost.push((start_sector, sectors, self.completions.len()));
                }
                _ => {}
            }
            self.events.push(event);
        }
        while let Some(completion) = self.session.poll_completion() {
            let index = self.in_flight.iter().position(|tag| *tag == completion.tag);
            let index = index.expect("a request completes once, and only if it was submitted");
            self.in_flight.swap_remove(index);
            self.completions.push(completion);
        }
    }
}

/// A portal of the target: 192.0.2.N, port 3260.
pub fn portal(number: u8) -> Portal {
    Portal::Address(([192, 0, 2, number], 3260).into())
}

/// A challenge that nobody has to guess: another for each number.
pub fn challenge(number: u64) -> Challenge {
    let mut random = Random::new(number);
    Challenge::new(std::array::from_fn(|_| random.bits() as u8))
}

/// No more bytes at once than until the cut.
fn limited(most: usize, cut_after: &Option<(Direction, u64)>, direction: Direction) -> usize {
    match cut_after {
        Some((cut, left)) if *cut == direction => most.min(*left as usize),
        _ => most,
    }
}

/// Bytes that tell which sector of which writing they belong to: eight bytes, repeated. Writing 0
/// is the zeroes that a new disk is full of.
pub fn pattern(writing: u32, start_sector: u64, sectors: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(sectors as usize * 512);
    for sector in start_sector..start_sector + u64::from(sectors) {
        for _ in 0..64 {
            bytes.extend_from_slice(&word(writing, sector));
        }
    }
    bytes
}

fn word(writing: u32, sector: u64) -> [u8; 8] {
    if writing == 0 {
        return [0; 8];
    }
    (u64::from(writing) << 32 | (sector & 0xffff_ffff)).to_be_bytes()
}

/// The writing that a sector of 512 bytes is from, or `None` if it is from none.
pub fn writing_of(bytes: &[u8], sector: u64) -> Option<u32> {
    let first: [u8; 8] = bytes[..8].try_into().expect("eight bytes");
    let writing = (u64::from_be_bytes(first) >> 32) as u32;
    let expected = word(writing, sector);
    bytes.chunks(8).all(|chunk| chunk == expected).then_some(writing)
}
