//! What a session gives up, and when. Without any limit it never does.
//!
//! Until the disk is there for the first time, a limit or a refusal ends the session: nobody has
//! begun to rely on it. From then on it never ends by itself. Requests may then have a limit that
//! begins when the disk is lost: those that wait fail, and new ones at once, until it is back.
//!
//! What that does to the data: a write that fails is on the disk or not, as ever, but the target
//! cannot do it later, because the next login makes it forget what it still had. Completed writes
//! are not touched by the limit: their copies stay, and are written again before the first request
//! is served, however long that takes. So a flush that succeeds later still covers all of them; one
//! that has to wait for the target fails with the other requests.

use std::time::{Duration, Instant};

use super::super::Error;
use super::super::disk::{self, Completion};
use super::super::task::Owner;
use super::{Event, Portal, Session, State};

/// When to stop waiting for a target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// For the disk to be there for the first time.
    pub attach: Option<Duration>,
    /// Not to wait for that if the target refuses us for a reason that waiting does not change.
    pub refusals: bool,
    /// For requests, from the moment at which the disk was lost.
    pub io: Option<Duration>,
}

/// What a session knows of its limits.
#[derive(Debug, Default)]
pub(super) struct GivingUp {
    /// When the disk must be there for the first time.
    deadline: Option<Instant>,
    /// Why it was not there the last time.
    last: Option<(Portal, Error)>,
    /// A refusal of the round that goes on.
    refusal: Option<(Portal, Error)>,
    /// Requests fail until the disk is back.
    failing: bool,
}

impl GivingUp {
    pub(super) fn new(limits: &Limits, now: Instant) -> GivingUp {
        GivingUp { deadline: limits.attach.map(|limit| now + limit), ..GivingUp::default() }
    }

    /// A new round of attempts begins.
    pub(super) fn begin_round(&mut self) {
        self.refusal = None;
    }

    /// The disk is there for the first time.
    pub(super) fn handle_found(&mut self) {
        *self = GivingUp::default();
    }

    /// The disk is back.
    pub(super) fn handle_resumed(&mut self) {
        self.failing = false;
    }

    pub(super) fn is_failing(&self) -> bool {
        self.failing
    }
}

impl Session {
    /// Whether requests fail because the target has been away for longer than they may wait.
    pub fn is_failing(&self) -> bool {
        self.giving_up.failing
    }

    /// How long the disk has been away, if it is.
    pub fn away_for(&self, now: Instant) -> Option<Duration> {
        self.away_since.map(|since| now.saturating_duration_since(since))
    }

    /// Requests wait no longer than this from the moment at which the disk was lost, from now on.
    pub fn limit_io(&mut self, limit: Duration) {
        let before = self.config.limits.io;
        self.config.limits.io = Some(before.map_or(limit, |before| before.min(limit)));
    }

    /// An attempt to reach the disk for the first time has failed.
    pub(super) fn remember(&mut self, error: &Error) {
        if self.disk.is_some() {
            return;
        }
        let failure = (self.portals.current().clone(), error.clone());
        if self.config.limits.refusals && error.is_refusal() {
            self.giving_up.refusal = Some(failure.clone());
        }
        self.giving_up.last = Some(failure);
    }

    /// A round has failed; whether that was the last one, because a target has refused us.
    pub(super) fn handle_refusal(&mut self) -> bool {
        let refusal = self.giving_up.refusal.take();
        refusal.map(|failure| self.end(failure, None)).is_some()
    }

    /// When [`Session::handle_limits`] is due.
    pub(super) fn limit(&self) -> Option<Instant> {
        match self.state {
            State::Free => None,
            _ => self.giving_up.deadline.or_else(|| self.io_limit()),
        }
    }

    fn io_limit(&self) -> Option<Instant> {
        let lost_at = self.away_since.filter(|_| !self.giving_up.failing)?;
        Some(lost_at + self.config.limits.io?)
    }

    /// A limit may have passed.
    pub(super) fn handle_limits(&mut self, now: Instant) {
        if self.limit().is_none_or(|limit| now < limit) {
            return;
        }
        if let Some(after) = self.config.limits.attach.filter(|_| self.disk.is_none()) {
            let silence = Error::TimedOut { waiting_for: "answer of the target", after };
            let silence = (self.portals.current().clone(), silence);
            let failure = self.giving_up.last.take().unwrap_or(silence);
            return self.end(failure, Some(after));
        }
        let requests = self.fail_requests();
        self.giving_up.failing = true;
        let after = self.config.limits.io.unwrap_or_default();
        self.events.push_back(Event::RequestsGivenUp { after, requests });
    }

    /// There will be no disk.
    fn end(&mut self, (at, error): (Portal, Error), after: Option<Duration>) {
        self.give_up();
        self.events.push_back(Event::GaveUp { error, at, after });
    }

    /// Completes every request with an error, and those that still come: the patience is over.
    pub fn give_up(&mut self) {
        self.initiator.disconnected();
        self.upkeep.disconnected();
        self.fail_requests();
        self.waiting.clear();
        self.delayed.clear();
        for slot in 0..self.tasks.slots_count() {
            if let Some(task) = self.tasks.take(slot)
                && task.owner == Owner::Probe
            {
                self.probe_buffer = Some(task.buffer);
            }
        }
        if !matches!(self.state, State::Free) {
            self.events.push_back(Event::Disconnect);
            self.state = State::Free;
        }
    }

    /// Completes every request of the block layer with an error; returns how many there were. None
    /// may be in flight.
    fn fail_requests(&mut self) -> usize {
        let before = self.done.len();
        for slot in 0..self.tasks.slots_count() {
            if !matches!(self.tasks.owner(slot), Some(Owner::Block(_))) {
                continue;
            }
            self.waiting.retain(|waiting| *waiting != slot);
            self.delayed.retain(|delayed| *delayed != slot);
            let task = self.tasks.remove(slot);
            if let Owner::Block(tag) = task.owner {
                let result = Err(disk::Error::GivenUp);
                self.done.push_back(Completion { tag, result, buffer: task.buffer });
            }
        }
        self.done.len() - before
    }
}
