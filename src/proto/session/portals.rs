//! Where the target can be reached, and what is tried when.
//!
//! Attempts are made in *rounds*. In a round each portal is tried once, the best first, the next
//! one a moment later if nothing has come up by then, or at once if an attempt has failed. The
//! first transport that comes up is logged in over; if that fails, the round goes on with the
//! others. A portal that has led to the disk is the best from then on, and one that was lost the
//! worst.
//!
//! A target may answer a login with another address (RFC 7143 §11.13.5). It is tried at once. If
//! the disk is found there and the target has said "permanent", it is the best portal from then on,
//! and the one that has led to it the worst: who knows where the target is when the new one is
//! gone?

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::super::Error;
use super::super::chap::Challenge;
use super::{Event, Session, State};
use crate::wire::root_path::Host;
use crate::wire::target_address::TargetAddress;

/// An address of the target. A name is looked up by whoever opens the transport.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Portal {
    /// Address and port.
    Address(SocketAddr),
    /// The same, by name.
    Name {
        /// Host name.
        host: Box<str>,
        /// TCP port.
        port: u16,
    },
}

/// A transport that is to be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// What it is called from now on.
    pub number: u32,
    /// Where to.
    pub portal: Portal,
}

// The portal group tag of an address is not looked at. Where the next portal is of the same group,
// the login there ends the older session with its tasks before anything is sent. Where it is of
// another, that is another session, and a write that the target still has of the older one may be
// done late: until it notices the loss. The manual says so.

/// Time that the better portal has before the next one is tried as well.
const STAGGER: Duration = Duration::from_millis(250);

/// Most attempts at once.
pub const ATTEMPTS_MAX: usize = 8;

/// Most redirections of one login.
const REDIRECTIONS_MAX: usize = 8;

/// Longest time that a transport may take to come up.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest wait for the answer to a login where there are others to turn to, in the first round. In
/// each of the next it is twice as long: the one that needs long may be the only good one.
const LOGIN_PATIENCE: Duration = Duration::from_secs(10);

impl Session {
    /// An attempt has come up: from now on it is the transport. `challenge` is made of new random
    /// bytes each time.
    pub fn handle_connected(&mut self, number: u32, challenge: Challenge, now: Instant) {
        let is_connecting = matches!(self.state, State::Connecting { .. });
        if !is_connecting || !self.portals.handle_connected(number) {
            return;
        }
        let mut patience = self.config.patience;
        if self.portals.has_spares() {
            patience.ping = patience.ping_with_spares;
        }
        if self.portals.has_more() {
            let longer = LOGIN_PATIENCE.saturating_mul(1 << self.failures.pauses().min(16));
            patience.login = patience.login.min(longer);
        }
        self.initiator.set_patience(patience);
        self.initiator.connected(&self.config.login, challenge, now);
        self.state = State::InLogin { probe: None };
    }

    /// An attempt has failed.
    pub fn handle_refused(&mut self, number: u32, error: Error, now: Instant) {
        if !matches!(self.state, State::Connecting { .. }) {
            return;
        }
        match self.portals.handle_refused(number, error, now) {
            Some(error) => self.fail(error, now),
            None => self.open_due(now),
        }
    }

    /// Begins a round.
    pub(super) fn connect(&mut self, now: Instant) {
        self.portals.begin(now);
        self.giving_up.begin_round();
        self.state = State::Connecting { deadline: now + CONNECT_TIMEOUT };
        self.open_due(now);
    }

    /// Opens what is to be opened by now.
    pub(super) fn open_due(&mut self, now: Instant) {
        while let Some(attempt) = self.portals.poll_attempt(now) {
            self.state = State::Connecting { deadline: now + CONNECT_TIMEOUT };
            self.events.push_back(Event::Connect(attempt));
        }
    }

    /// A login has led nowhere, or `was_live` for a moment only, and there are portals that were
    /// not tried. If these say nothing, those that were good for a moment are not given up for
    /// them: after a pause the round begins anew.
    pub(super) fn try_others(&mut self, error: Error, was_live: bool, now: Instant) {
        let (at, attempt) = (self.portals.current().clone(), self.failures.next());
        let retry_after = Duration::ZERO;
        self.events.push_back(Event::Trouble { error, at, attempt, retry_after });
        self.portals.go_on(now);
        if was_live {
            let pause = self.failures.pause(self.config.retry, self.disk.is_some());
            self.failures.count();
            self.portals.begin_again_at(now + pause);
        }
        self.state = State::Connecting { deadline: now + CONNECT_TIMEOUT };
        self.open_due(now);
    }

    /// Goes where the target sends us, if the error says so; otherwise gives the error that it is.
    pub(super) fn follow(&mut self, error: Error, now: Instant) -> Result<(), Error> {
        let Error::Redirected { permanent, ref address } = error else { return Err(error) };
        let from = self.portals.current().clone();
        let next = self.portals.handle_redirected(permanent, address)?;
        self.disconnect();
        let (to, attempt) = (next.portal.clone(), self.failures.next());
        self.events.push_back(Event::Redirected { from, to, permanent, attempt });
        self.state = State::Connecting { deadline: now + CONNECT_TIMEOUT };
        self.events.push_back(Event::Connect(next));
        Ok(())
    }
}

/// The portals, and the round that is going on.
#[derive(Debug)]
pub(super) struct Portals {
    /// As we were told.
    told: Vec<Portal>,
    /// These, and those that the target has moved to for good, in order of preference.
    list: Vec<Portal>,
    /// Those of `list` that the target has left for good: the last ones.
    left: Vec<Portal>,
    /// The first of `list` that this round has not tried.
    next: usize,
    /// When it is tried.
    due: Option<Instant>,
    /// When the round begins anew, if all were tried by then and none has come up.
    again: Option<Instant>,
    /// The attempts that are being made.
    open: Vec<Attempt>,
    numbers: u32,
    /// The portal in use, or the last one that was tried.
    current: Portal,
    /// Where the target has sent us from, one after the other.
    path: Vec<Portal>,
    /// Each of these redirections was permanent.
    path_is_permanent: bool,
    /// Why the attempts of this round have failed.
    failures: String,
}

impl Portals {
    /// `list` must not be empty.
    pub(super) fn new(list: Vec<Portal>) -> Portals {
        let current = list.first().expect("a target is somewhere").clone();
        Portals {
            told: list.clone(),
            list,
            left: Vec::new(),
            next: 0,
            due: None,
            again: None,
            open: Vec::with_capacity(ATTEMPTS_MAX),
            numbers: 0,
            current,
            path: Vec::new(),
            path_is_permanent: true,
            failures: String::new(),
        }
    }

    pub(super) fn current(&self) -> &Portal {
        &self.current
    }

    /// There are others to turn to; also the one that has sent us to where we are.
    pub(super) fn has_spares(&self) -> bool {
        self.list.iter().any(|portal| *portal != self.current)
    }

    /// This round has portals that were not tried, or not decided.
    pub(super) fn has_more(&self) -> bool {
        self.next < self.list.len()
    }

    /// Begins a round.
    pub(super) fn begin(&mut self, now: Instant) {
        (self.next, self.due, self.again) = (0, Some(now), None);
        self.open.clear();
        self.path.clear();
        self.path_is_permanent = true;
        self.failures.clear();
    }

    /// Those that were tried are tried again then, unless another one has come up.
    pub(super) fn begin_again_at(&mut self, again: Instant) {
        self.again = Some(again);
    }

    /// Goes on with the round, after a login that has failed.
    pub(super) fn go_on(&mut self, now: Instant) {
        self.due = Some(now);
        self.path.clear();
        self.path_is_permanent = true;
    }

    /// The next transport to open, if its time has come.
    pub(super) fn poll_attempt(&mut self, now: Instant) -> Option<Attempt> {
        if !self.has_more() && self.again.is_some_and(|again| now >= again) {
            (self.next, self.due, self.again) = (0, Some(now), None);
        }
        if self.due.is_none_or(|due| now < due) || self.open.len() >= ATTEMPTS_MAX {
            return None;
        }
        let is_open = |portal: &Portal| self.open.iter().any(|attempt| attempt.portal == *portal);
        let mut untried = self.list.iter().enumerate().skip(self.next);
        let Some((place, portal)) = untried.find(|(_, portal)| !is_open(portal)) else {
            (self.next, self.due) = (self.list.len(), None);
            return None;
        };
        let portal = portal.clone();
        self.next = place + 1;
        self.due = self.has_more().then_some(now + STAGGER);
        Some(self.attempt(portal))
    }

    fn attempt(&mut self, portal: Portal) -> Attempt {
        self.numbers = self.numbers.wrapping_add(1);
        let attempt = Attempt { number: self.numbers, portal };
        self.current = attempt.portal.clone();
        self.open.push(attempt.clone());
        attempt
    }

    /// When [`Portals::poll_attempt`] has something.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let due = if self.has_more() { self.due } else { self.again };
        due.filter(|_| self.open.len() < ATTEMPTS_MAX)
    }

    /// An attempt has come up; false if it is none of ours. No other one counts from now on.
    pub(super) fn handle_connected(&mut self, number: u32) -> bool {
        let Some(attempt) = self.open.iter().find(|attempt| attempt.number == number) else {
            return false;
        };
        self.current = attempt.portal.clone();
        // Those that were being tried are tried again if this one leads nowhere.
        let undecided = self.open.iter().filter(|attempt| attempt.number != number);
        for attempt in undecided {
            if let Some(place) = self.list.iter().position(|portal| *portal == attempt.portal)
                && place < self.next
            {
                let portal = self.list.remove(place);
                self.next -= 1;
                self.list.insert(self.next, portal);
            }
        }
        self.open.clear();
        (self.due, self.again) = (None, None);
        true
    }

    /// An attempt has failed. The round is over with this error if there is nothing else to try.
    pub(super) fn handle_refused(
        &mut self,
        number: u32,
        error: Error,
        now: Instant,
    ) -> Option<Error> {
        let place = self.open.iter().position(|attempt| attempt.number == number)?;
        let attempt = self.open.remove(place);
        self.current = attempt.portal;
        if !self.failures.is_empty() {
            self.failures.push_str("; ");
        }
        self.failures.push_str(&error.to_string());
        if self.has_more() {
            self.due = Some(now);
            return None;
        }
        if !self.open.is_empty() {
            return None;
        }
        Some(Error::Transport(std::mem::take(&mut self.failures).into()))
    }

    /// The disk was found where we are: whatever comes, this is tried first.
    pub(super) fn handle_found(&mut self) {
        let best = match self.path.first().cloned() {
            None => self.current.clone(),
            Some(origin) if self.path_is_permanent => {
                self.path.clear();
                self.replace(origin);
                return;
            }
            Some(origin) => origin,
        };
        self.left.retain(|portal| *portal != best);
        if let Some(place) = self.list.iter().position(|portal| *portal == best) {
            self.list[..=place].rotate_right(1);
        }
    }

    /// The target has left a portal for good and is where we are now.
    fn replace(&mut self, origin: Portal) {
        let current = self.current.clone();
        for portals in [&mut self.list, &mut self.left] {
            portals.retain(|portal| ![&origin, &current].contains(&portal));
        }
        self.list.insert(0, current);
        if self.told.contains(&origin) {
            self.list.push(origin.clone());
            self.left.push(origin);
        }
        // However often it moves.
        let learned = |portal: &Portal| !self.told.contains(portal);
        if self.list.len() > 2 * self.told.len()
            && let Some(place) = self.list.iter().rposition(learned)
        {
            self.list.remove(place);
        }
    }

    /// The connection in use is lost: the others come first, but not those that were left.
    pub(super) fn handle_lost(&mut self) {
        let origin = self.path.first().unwrap_or(&self.current);
        let place = self.list.iter().position(|portal| portal == origin);
        let last = self.list.iter().rposition(|portal| !self.left.contains(portal));
        if let (Some(place), Some(last)) = (place, last)
            && place < last
        {
            self.list[place..=last].rotate_left(1);
        }
    }

    /// The target has sent us elsewhere: where to, or why we do not go there.
    pub(super) fn handle_redirected(
        &mut self,
        permanent: bool,
        address: &str,
    ) -> Result<Attempt, Error> {
        let address = TargetAddress::parse(address)?;
        let portal = Portal::new(address, &self.current);
        self.path.push(self.current.clone());
        if self.path.contains(&portal) || self.path.len() > REDIRECTIONS_MAX {
            let all = self.path.iter().chain([&portal]).map(ToString::to_string);
            let portals = all.collect::<Vec<_>>().join(", ");
            return Err(Error::RedirectedInCircles { portals: portals.into() });
        }
        self.path_is_permanent &= permanent;
        (self.due, self.again) = (None, None);
        Ok(self.attempt(portal))
    }
}

impl Portal {
    /// A link-local address is one of the link over which it was told.
    fn new(address: TargetAddress, told_by: &Portal) -> Portal {
        let port = address.port;
        match address.host {
            Host::V4(address) => Portal::Address((address, port).into()),
            Host::V6 { address, .. } => {
                let mut portal = SocketAddr::from((address, port));
                if let (SocketAddr::V6(portal), Portal::Address(SocketAddr::V6(by))) =
                    (&mut portal, told_by)
                    && address.is_unicast_link_local()
                {
                    portal.set_scope_id(by.scope_id());
                }
                Portal::Address(portal)
            }
            Host::Name(host) => Portal::Name { host, port },
        }
    }
}

impl From<SocketAddr> for Portal {
    fn from(address: SocketAddr) -> Portal {
        Portal::Address(address)
    }
}

impl fmt::Display for Portal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Portal::Address(address) => address.fmt(f),
            Portal::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}
