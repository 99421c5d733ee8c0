//! The target's side: what the real server does with its connections, without sockets and threads.
//!
//! A connection hands out commands; they are executed by [`Target::execute`] against a
//! [`FaultyStore`], at once and in order or when the lot falls on them. A session that logs in
//! again ends the older one first, which may take as long as a command. The real server has a
//! thread for each of these.
//!
//! A portal may also lead to a target that sends every login elsewhere, or to a stranger: a machine
//! with a target of the same name and another disk.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lunboot::proto::logical_unit::{LogicalUnit, Options};
use lunboot::proto::logical_units::LogicalUnits;
use lunboot::proto::random::Random;
use lunboot::proto::session::Portal;
use lunboot::proto::target::{Event, Redirect, SessionName, Tag, Target, TargetConfig};
use lunboot::store::memory::MemoryStore;
use lunboot::store::{Allocation, Store};

use super::Settings;
use super::network::{Weather, gathered, up_to};

pub const NAME: &str = "iqn.2026-11.example:root";

/// What the disk of the stranger is full of.
const STRANGE: u8 = 0xee;

/// A store in memory that fails now and then.
#[derive(Debug)]
pub struct FaultyStore {
    pub memory: MemoryStore,
    faults: Mutex<Faults>,
}

#[derive(Debug)]
struct Faults {
    random: Random,
    one_in: u64,
    happened: u64,
}

impl FaultyStore {
    fn new(size_bytes: u64, seed: u64) -> FaultyStore {
        let memory = MemoryStore::with_volatile_cache(size_bytes);
        let faults = Faults { random: Random::new(seed), one_in: 0, happened: 0 };
        FaultyStore { memory, faults: Mutex::new(faults) }
    }

    /// From now on one call of so many fails; 0 for none.
    pub fn fail_one_in(&self, calls: u64) {
        self.faults.lock().expect("no test has panicked").one_in = calls;
    }

    /// How many calls have failed.
    pub fn faults(&self) -> u64 {
        self.faults.lock().expect("no test has panicked").happened
    }

    fn check(&self) -> Result<(), io::Error> {
        let Faults { random, one_in, happened } =
            &mut *self.faults.lock().expect("no test has panicked");
        if *one_in != 0 && random.below(*one_in) == 0 {
            *happened += 1;
            return Err(io::Error::other("a fault that the test wanted"));
        }
        Ok(())
    }
}

impl Store for FaultyStore {
    fn size_bytes(&self) -> u64 {
        self.memory.size_bytes()
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.check()?;
        self.memory.read_at(buffer, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        if let Err(error) = self.check() {
            // Some of it may be there all the same.
            let half = data.len() / 1024 * 512;
            self.memory.write_at(&data[..half], offset)?;
            return Err(error);
        }
        self.memory.write_at(data, offset)
    }

    fn flush(&self) -> io::Result<()> {
        self.check()?;
        self.memory.flush()
    }

    fn prefetch(&self, offset: u64, length: u64) {
        self.memory.prefetch(offset, length);
    }

    fn can_discard(&self) -> bool {
        true
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        self.check()?;
        self.memory.discard(offset, length)
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        self.check()?;
        self.memory.write_zeroes(offset, length)
    }

    fn allocation(&self, offset: u64) -> io::Result<Allocation> {
        self.check()?;
        self.memory.allocation(offset)
    }
}

/// The target and its connections.
pub struct Server {
    pub config: Arc<TargetConfig>,
    pub store: Arc<FaultyStore>,
    connections: Vec<Connection>,
    block_bytes: usize,
    tsih: u16,
    /// Older sessions that a new login has ended.
    pub reinstated: u64,
    /// Commands that took a second or longer.
    pub slow: u64,
    /// Portals that send every login elsewhere.
    pub redirects: Vec<(Portal, Redirect)>,
    /// Portals that lead to the stranger.
    pub strange: Vec<Portal>,
    /// So long nothing is said on a new connection.
    pub hesitation: Duration,
    stranger: Arc<TargetConfig>,
    strange_store: Arc<FaultyStore>,
}

struct Connection {
    link: usize,
    strange: bool,
    target: Target,
    /// It says nothing before.
    silent_until: Option<Instant>,
    /// A good login, and when the older session of the same name has ended.
    claim: Option<(Instant, SessionName, bool)>,
    session: Option<SessionName>,
    /// Commands that are to be executed, and when.
    commands: Vec<(Instant, Tag)>,
    ended: bool,
}

impl Server {
    pub fn new(settings: &Settings) -> Server {
        let store = Arc::new(FaultyStore::new(settings.disk_bytes, settings.seed ^ 0xfa17));
        let strange_store = Arc::new(FaultyStore::new(settings.disk_bytes, 0));
        let strange_bytes = vec![STRANGE; settings.disk_bytes as usize];
        strange_store.memory.write_at(&strange_bytes, 0).expect("it is in memory");
        let config = |store: &Arc<FaultyStore>, disk_name: &[u8]| {
            let options = Options {
                logical_block_bytes: settings.block_bytes,
                physical_block_bytes: 4096,
                read_only: settings.read_only,
                removable: false,
                sanitize: false,
            };
            let unit = LogicalUnit::new(store.clone(), NAME, disk_name, options);
            let unit = unit.expect("a sane disk");
            Arc::new(TargetConfig {
                offer: settings.target,
                ping_interval: settings.ping_interval,
                secrets: settings.secrets.clone(),
                ..TargetConfig::new(NAME, LogicalUnits::new(vec![unit]))
            })
        };
        let block_bytes = settings.block_bytes as usize;
        Server {
            config: config(&store, b"disk"),
            stranger: config(&strange_store, b"another disk"),
            store,
            strange_store,
            connections: Vec::new(),
            block_bytes,
            tsih: 0,
            reinstated: 0,
            slow: 0,
            redirects: Vec::new(),
            strange: Vec::new(),
            hesitation: Duration::ZERO,
        }
    }

    pub fn accept(&mut self, link: usize, portal: &Portal, now: Instant) {
        let address = match portal {
            Portal::Address(address) => *address,
            Portal::Name { .. } => SocketAddr::from(([192, 0, 2, 10], 3260)),
        };
        let strange = self.strange.contains(portal);
        let redirect = self.redirects.iter().find(|(from, _)| from == portal);
        let config = match redirect {
            // Whoever sends everybody away serves nothing.
            Some((_, redirect)) => Arc::new(TargetConfig {
                redirect: Some(*redirect),
                ..TargetConfig::new(NAME, LogicalUnits::new(Vec::new()))
            }),
            None if strange => self.stranger.clone(),
            None => self.config.clone(),
        };
        let challenge = super::challenge(!(link as u64));
        self.connections.push(Connection {
            link,
            strange,
            target: Target::new(config, address, challenge, now),
            silent_until: (!self.hesitation.is_zero()).then(|| now + self.hesitation),
            claim: None,
            session: None,
            commands: Vec::new(),
            ended: false,
        });
    }

    /// Whether something was written to the disk of the stranger.
    pub fn is_stranger_harmed(&self) -> bool {
        self.strange_store.memory.contents().iter().any(|byte| *byte != STRANGE)
    }

    pub fn recv_space(&mut self, link: usize) -> Option<&mut [u8]> {
        Some(self.find(link)?.target.recv_space())
    }

    pub fn received(&mut self, link: usize, count: usize, now: Instant) {
        let connection = self.find(link).expect("it has just given its space");
        connection.target.received(count, now);
    }

    /// The initiator has closed the connection.
    pub fn closed(&mut self, link: usize) {
        self.connections.retain(|connection| connection.link != link);
    }

    /// Takes events and executes commands; false if there were none.
    pub fn work(&mut self, now: Instant, random: &mut Random, weather: &Weather) -> bool {
        let mut progress = false;
        let mut index = 0;
        while index < self.connections.len() {
            while let Some(event) = self.connections[index].target.poll_event() {
                progress = true;
                match event {
                    Event::Command { tag, .. } => {
                        let due = now + up_to(weather.execution_max, random);
                        self.slow += u64::from(due - now >= Duration::from_secs(1));
                        self.connections[index].commands.push((due, tag));
                    }
                    Event::Claim { session, discovery } => {
                        let due = now + up_to(weather.execution_max, random);
                        self.connections[index].claim = Some((due, session, discovery));
                    }
                    Event::Reset { lun, sessions } => {
                        let strange = self.connections[index].strange;
                        let others = self.connections.iter_mut().enumerate();
                        let others = others.filter(|(other, _)| *other != index);
                        for (_, other) in others.filter(|(_, other)| other.strange == strange) {
                            let named = |sessions: &Vec<SessionName>| {
                                other.session.as_ref().is_some_and(|name| sessions.contains(name))
                            };
                            if sessions.as_ref().is_none_or(named) {
                                other.target.handle_reset(lun);
                            }
                        }
                        self.connections[index].target.reset_done();
                    }
                    Event::Sanitize { lun } => panic!("nobody may sanitize LUN {lun}"),
                    Event::Ended(_) => self.connections[index].ended = true,
                }
            }
            if let Some((_, session, discovery)) =
                self.connections[index].claim.take_if(|(due, ..)| *due <= now)
            {
                progress = true;
                index = self.admit(index, session, discovery, now);
            }
            let Connection { target, commands, .. } = &mut self.connections[index];
            while let Some(next) = commands.iter().position(|(due, _)| *due <= now) {
                progress = true;
                let (_, tag) = commands.remove(next);
                target.execute(tag);
            }
            index += 1;
        }
        progress
    }

    /// Ends the older session of the same name; gives the new place of the connection.
    fn admit(&mut self, index: usize, name: SessionName, discovery: bool, now: Instant) -> usize {
        let link = self.connections[index].link;
        if !discovery {
            let (before, strange) = (self.connections.len(), self.connections[index].strange);
            self.connections.retain(|other| {
                let claimed = other.claim.as_ref().map(|(_, session, _)| session);
                let older = other.link < link && other.strange == strange;
                let same = [other.session.as_ref(), claimed].contains(&Some(&name));
                !(older && same)
            });
            self.reinstated += (before - self.connections.len()) as u64;
        }
        self.tsih = self.tsih % u16::MAX + 1;
        let index = self.connections.iter().position(|other| other.link == link);
        let index = index.expect("a new connection has no session yet");
        self.connections[index].target.admit(self.tsih, now);
        self.connections[index].session = (!discovery).then_some(name);
        index
    }

    /// The server wants to stop: asks for a logout within this time.
    pub fn ask_for_logout(&mut self, patience: Duration) {
        for connection in &mut self.connections {
            connection.target.ask_for_logout(patience);
        }
    }

    /// The server stops, and says so.
    pub fn leave(&mut self) {
        for connection in &mut self.connections {
            connection.target.leave();
            (connection.claim, connection.ended) = (None, true);
        }
    }

    /// Another initiator resets the logical unit.
    pub fn reset_from_elsewhere(&mut self) {
        self.config.units.reset(None);
        for connection in self.connections.iter_mut().filter(|connection| !connection.strange) {
            connection.target.handle_reset(None);
        }
        self.config.units.reset(None);
    }

    /// The disk behind the target loses power; the connections stay.
    pub fn unit_loses_power(&mut self, survives: impl FnMut() -> bool) {
        self.store.memory.tear_cache(self.block_bytes, survives);
        self.reset_from_elsewhere();
    }

    /// What a connection sends, at most so many bytes.
    pub fn transmit(&mut self, link: usize, most: usize) -> Vec<u8> {
        let Some(connection) = self.find(link) else { return Vec::new() };
        if connection.silent_until.is_some() {
            return Vec::new();
        }
        let mut slices: [&[u8]; 8] = [&[]; 8];
        let count = connection.target.poll_transmit(&mut slices);
        let bytes = gathered(&slices[..count], most);
        if !bytes.is_empty() {
            connection.target.sent(bytes.len());
        }
        bytes
    }

    /// Connections that have said everything are closed.
    pub fn bury(&mut self) {
        self.connections.retain(|connection| !connection.ended || !connection.target.is_drained());
    }

    /// Everything but what is on stable storage is gone.
    pub fn lose_power(&mut self, survives: impl FnMut() -> bool) {
        self.connections.clear();
        self.store.memory.tear_cache(self.block_bytes, survives);
    }

    pub fn is_connected(&self, link: usize) -> bool {
        self.connections.iter().any(|connection| connection.link == link)
    }

    pub fn handle_timeouts(&mut self, now: Instant) {
        for connection in &mut self.connections {
            connection.target.handle_timeout(now);
            connection.silent_until.take_if(|until| *until <= now);
        }
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        let of_one = |connection: &Connection| {
            let claim = connection.claim.as_ref().map(|(due, ..)| *due);
            let others = [connection.target.next_deadline(), connection.silent_until, claim];
            let commands = connection.commands.iter().map(|(due, _)| *due);
            others.into_iter().flatten().chain(commands).min()
        };
        self.connections.iter().filter_map(of_one).min()
    }

    fn find(&mut self, link: usize) -> Option<&mut Connection> {
        self.connections.iter_mut().find(|connection| connection.link == link)
    }
}
