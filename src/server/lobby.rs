//! The connections that have not logged in: all of them in one thread, and few at a time, because
//! whoever reaches the port can have one.
//!
//! When they are too many, one has to go: of the address that has the most of them the one that
//! was there first. So a flood from one address is a flood against itself, and whoever logs in at
//! the usual speed is through before thousands of others could push it out. A login that is good
//! leaves the lobby as a [`Claimant`], for a thread of its own.

use std::collections::HashMap;
use std::io::{self, Read};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use super::connection::{Over, is_transient, portal_of, write_once};
use crate::proto::LoginStatus;
use crate::proto::target::{Event, SessionName, Target, TargetConfig};
use crate::secrets;

/// Connections before the end of their login at a time. Each costs at most 128 KiB: 2 KiB of
/// stream, 24 KiB of PDUs that are sent, and what the login keeps of questions and answers.
pub(super) const VISITORS_MAX: usize = 512;
/// How long a refused one may take to read why.
const FAREWELL_PATIENCE: Duration = Duration::from_secs(5);
/// Those that had to go are told of at most so often.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);
/// Lines about single connections in this time: whoever reaches the port can be refused a thousand
/// times a second.
const LINES_MAX: usize = 100;

/// All of them, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Lobby {
    visitors: Vec<Visitor>,
    /// How many had to go since that was last reported.
    sent_away: usize,
    reported: Option<Instant>,
    lines: Lines,
}

/// How many lines the log may still have.
#[derive(Debug, Default)]
struct Lines {
    since: Option<Instant>,
    said: usize,
    unsaid: usize,
}

/// A connection before its login.
#[derive(Debug)]
struct Visitor {
    stream: TcpStream,
    peer: SocketAddr,
    target: Target,
    /// The socket has taken all it could.
    blocked: bool,
    /// It was refused, and may read until then why.
    leaving: Option<Instant>,
}

/// A good login.
#[derive(Debug)]
pub(super) struct Claimant {
    pub(super) stream: TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) target: Target,
    pub(super) session: SessionName,
    pub(super) discovery: bool,
}

impl Lobby {
    /// A new connection.
    pub(super) fn enter(
        &mut self,
        stream: TcpStream,
        peer: SocketAddr,
        config: Arc<TargetConfig>,
        now: Instant,
    ) -> io::Result<()> {
        stream.set_nonblocking(true)?;
        let target = Target::new(config, portal_of(&stream)?, secrets::challenge(), now);
        if self.visitors.len() >= VISITORS_MAX {
            self.send_one_away(now);
        }
        self.visitors.push(Visitor { stream, peer, target, blocked: false, leaving: None });
        Ok(())
    }

    /// Makes room; false if nobody is here.
    pub(super) fn send_one_away(&mut self, now: Instant) -> bool {
        let mut counts: HashMap<IpAddr, usize> = HashMap::new();
        for visitor in &self.visitors {
            *counts.entry(visitor.peer.ip()).or_default() += 1;
        }
        let most = counts.values().max().copied();
        let first = self
            .visitors
            .iter()
            .position(|visitor| most.is_some_and(|most| counts[&visitor.peer.ip()] == most));
        let Some(first) = first else { return false };
        let peer = self.visitors.remove(first).peer;
        self.sent_away += 1;
        if self.reported.is_none_or(|reported| now >= reported + REPORT_INTERVAL) {
            let count = std::mem::take(&mut self.sent_away);
            self.reported = Some(now);
            log::warn!(
                "too many connections wait for a login: {count} closed, the last from {peer}"
            );
        }
        true
    }

    /// What to wait for, in the order that [`Lobby::turn`] wants the answers in.
    pub(super) fn poll_fds(&mut self) -> impl Iterator<Item = PollFd<'_>> {
        self.visitors.iter_mut().map(|visitor| {
            let wants_more = visitor.leaving.is_some() || !visitor.target.recv_space().is_empty();
            let mut interest = PollFlags::empty();
            interest.set(PollFlags::IN, wants_more);
            interest.set(PollFlags::OUT, visitor.blocked);
            PollFd::new(&visitor.stream, interest)
        })
    }

    /// When to call [`Lobby::turn`] at the latest.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.visitors.iter().filter_map(Visitor::deadline).min()
    }

    /// Takes in what has come, and gives those whose login is good.
    pub(super) fn turn(&mut self, ready: &[PollFlags], now: Instant) -> Vec<Claimant> {
        let mut claimants = Vec::new();
        let mut ready = ready.iter();
        let mut stay = Vec::with_capacity(self.visitors.len());
        for mut visitor in self.visitors.drain(..) {
            let revents = ready.next().copied().unwrap_or(PollFlags::empty());
            let is_due = visitor.deadline().is_some_and(|deadline| deadline <= now);
            if revents.is_empty() && !is_due {
                stay.push(visitor);
                continue;
            }
            match visitor.turn(revents, now, &mut self.lines) {
                Ok(None) => stay.push(visitor),
                Ok(Some((session, discovery))) => {
                    let Visitor { stream, peer, target, .. } = visitor;
                    claimants.push(Claimant { stream, peer, target, session, discovery });
                }
                Err(over) => over.report(None, visitor.peer, None),
            }
        }
        self.visitors = stay;
        claimants
    }

    /// A good login for which there is no session: says so, and lets it go.
    pub(super) fn refuse(&mut self, claimant: Claimant, status: LoginStatus, now: Instant) {
        let Claimant { stream, peer, mut target, .. } = claimant;
        target.refuse(status);
        let mut visitor = Visitor { stream, peer, target, blocked: false, leaving: None };
        match visitor.turn(PollFlags::empty(), now, &mut self.lines) {
            Ok(_) => self.visitors.push(visitor),
            Err(over) => over.report(None, peer, None),
        }
    }
}

impl Lines {
    /// Whether there may be one more; how many there were not is told when there may be again.
    fn take(&mut self, now: Instant) -> bool {
        if self.since.is_none_or(|since| now >= since + REPORT_INTERVAL) {
            if self.unsaid > 0 {
                log::warn!("{} more logins were refused or given up", self.unsaid);
            }
            *self = Lines { since: Some(now), said: 0, unsaid: 0 };
        }
        let taken = self.said < LINES_MAX;
        *(if taken { &mut self.said } else { &mut self.unsaid }) += 1;
        taken
    }
}

impl Visitor {
    fn deadline(&self) -> Option<Instant> {
        self.leaving.or_else(|| self.target.next_deadline())
    }

    /// One input, and all outputs. Gives the claim of a good login, or why the connection is over.
    fn turn(
        &mut self,
        revents: PollFlags,
        now: Instant,
        lines: &mut Lines,
    ) -> Result<Option<(SessionName, bool)>, Over> {
        if revents.contains(PollFlags::OUT) {
            self.blocked = false;
        }
        let initiator = self.target.initiator().map(str::to_owned);
        if self.leaving.is_none() {
            if revents.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
                self.receive(now)?;
            }
            self.target.handle_timeout(now);
        }
        while let Some(event) = self.target.poll_event() {
            match event {
                Event::Claim { session, discovery } => return Ok(Some((session, discovery))),
                Event::Ended(end) => {
                    if lines.take(now) {
                        Over::Ended(end).report(initiator.as_deref(), self.peer, None);
                    }
                    self.leaving = Some(now + FAREWELL_PATIENCE);
                }
                // What there is only in a session.
                Event::Command { .. } | Event::Reset { .. } | Event::Sanitize { .. } => {}
            }
        }
        while !self.blocked && !self.target.is_drained() {
            self.blocked = !write_once(&self.stream, &mut self.target)?;
        }
        match self.leaving {
            Some(until) => self.see_off(until, now),
            None => Ok(None),
        }
    }

    fn receive(&mut self, now: Instant) -> Result<(), Over> {
        let space = self.target.recv_space();
        if space.is_empty() {
            return Ok(());
        }
        match self.stream.read(space) {
            Ok(0) => Err(Over::Closed),
            Ok(count) => {
                self.target.received(count, now);
                Ok(())
            }
            Err(error) if is_transient(&error) => Ok(()),
            Err(error) => Err(Over::Failed(error)),
        }
    }

    /// Closes when the peer has read the last answer: with unread bytes the close would be a reset,
    /// which could overtake it.
    fn see_off(
        &mut self,
        until: Instant,
        now: Instant,
    ) -> Result<Option<(SessionName, bool)>, Over> {
        if now >= until {
            return Err(Over::Said);
        }
        if !self.target.is_drained() {
            return Ok(None);
        }
        // Again and again until the peer closes, which harms nothing.
        let _ = self.stream.shutdown(Shutdown::Write);
        let mut rest = [0; 4096];
        // Not for ever: this thread has others to serve.
        for _ in 0..16 {
            match self.stream.read(&mut rest) {
                Ok(0) => return Err(Over::Said),
                Ok(_) => {}
                Err(error) if is_transient(&error) => return Ok(None),
                Err(_) => return Err(Over::Said),
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;
    use crate::proto::logical_units::LogicalUnits;

    fn config() -> Arc<TargetConfig> {
        let units = LogicalUnits::new(Vec::new());
        Arc::new(TargetConfig::new("iqn.2026-11.example:disk", units))
    }

    /// A connection over the loopback device; the server's end, as if it came from `peer`.
    fn enter(lobby: &mut Lobby, listener: &TcpListener, peer: IpAddr, port: u16) -> TcpStream {
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().unwrap();
        lobby.enter(stream, SocketAddr::new(peer, port), config(), Instant::now()).unwrap();
        client
    }

    #[test]
    fn the_oldest_of_the_address_with_the_most_has_to_go() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut lobby = Lobby::default();
        let address = |last| IpAddr::V4(Ipv4Addr::new(192, 0, 2, last));
        let mut clients = Vec::new();
        for (last, port) in [(1, 1), (2, 2), (2, 3), (1, 4), (2, 5)] {
            clients.push(enter(&mut lobby, &listener, address(last), port));
        }
        let mut gone = Vec::new();
        while !lobby.visitors.is_empty() {
            let before: Vec<u16> =
                lobby.visitors.iter().map(|visitor| visitor.peer.port()).collect();
            assert!(lobby.send_one_away(Instant::now()));
            let after: Vec<u16> =
                lobby.visitors.iter().map(|visitor| visitor.peer.port()).collect();
            gone.extend(before.into_iter().filter(|port| !after.contains(port)));
        }
        assert_eq!(gone, [2, 1, 3, 4, 5]);
        assert!(!lobby.send_one_away(Instant::now()));
    }

    #[test]
    fn a_flood_of_refusals_does_not_fill_the_log() {
        let mut lines = Lines::default();
        let begun = Instant::now();
        let refused = |lines: &mut Lines, now| (0..1000).filter(|_| lines.take(now)).count();
        assert_eq!(refused(&mut lines, begun), LINES_MAX);
        assert_eq!(refused(&mut lines, begun + REPORT_INTERVAL / 2), 0);
        assert_eq!(lines.unsaid, 2000 - LINES_MAX);
        assert_eq!(refused(&mut lines, begun + REPORT_INTERVAL), LINES_MAX);
    }

    #[test]
    fn there_are_never_more_than_so_many() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut lobby = Lobby::default();
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        // Two file descriptors each: both ends are in this process.
        let clients: Vec<TcpStream> =
            (0..100).map(|port| enter(&mut lobby, &listener, address, port)).collect();
        assert_eq!(lobby.visitors.len(), clients.len());
        let deadline = lobby.next_deadline().unwrap();
        assert!(lobby.turn(&[], deadline - Duration::from_secs(1)).is_empty());
        assert_eq!(lobby.visitors.len(), clients.len());
        // All are silent, so all have to go in the end.
        lobby.turn(&[], deadline + Duration::from_secs(60));
        lobby.turn(&[], deadline + Duration::from_secs(120));
        assert!(lobby.visitors.is_empty());
    }
}
