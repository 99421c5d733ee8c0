//! An iSCSI session: it outlives its connections, so that the block layer sees only latency.
//!
//! Each request is in exactly one place: *waiting* to be sent, *delayed* until the target may be
//! asked again, *in flight*, or *done*. When a connection is lost, everything in flight goes back
//! to waiting in the order in which it was submitted; the next login has the same ISID and so makes
//! the target forget what it still had of the old one before anything is sent again (RFC 7143
//! §6.3.5). What was complete but not flushed is written again then as well ([`replay`]).
//!
//! The driving contract is that of [`crate::proto`].

mod limits;
mod look;
mod pace;
mod portals;
mod recovery;
mod replay;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use self::limits::GivingUp;
pub use self::limits::Limits;
pub use self::pace::Retry;
use self::pace::{Failures, Pace};
pub use self::portals::{ATTEMPTS_MAX, Attempt, Portal};
use self::portals::{CONNECT_TIMEOUT, Portals};
pub use self::recovery::{Reason, Rung};
pub use self::replay::Counts;
use self::replay::{OWN_SLOTS, Upkeep};
use super::Error;
use super::command::{Outcome, Verdict, encode, judge, synchronize_cache};
use super::disk::{self, Buffer, Completion, Op, Request};
use super::initiator::{Happened, Initiator, Patience};
use super::login::{LoggedIn, LoginConfig};
use super::params::Negotiated;
use super::probe::{Disk, PROBE_BYTES, Probe};
use super::task::{Owner, Slot, Task, TaskTable, Work};

/// What a session is for.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// Where the target is, in order of preference; not empty.
    pub portals: Vec<Portal>,
    /// Who logs in where.
    pub login: LoginConfig,
    /// The eight bytes of the LUN, big-endian.
    pub lun: u64,
    /// Patience of one connection.
    pub patience: Patience,
    /// How soon to connect again.
    pub retry: Retry,
    /// When to stop waiting.
    pub limits: Limits,
    /// Most requests at once.
    pub requests_max: usize,
    /// Longest READ or WRITE, in bytes.
    pub transfer_bytes_max: u32,
    /// Memory for copies of completed writes that a volatile cache may lose, in bytes: made when
    /// a disk with such a cache is found. When half of it is used the session flushes by itself.
    pub unflushed_bytes_max: u32,
}

/// What the session wants from its driver, or wants it to know.
#[derive(Debug)]
pub enum Event {
    /// Open one more transport, then call `handle_connected` or `handle_refused` for it. The first
    /// that is up is the transport of the session; the others are then closed.
    Connect(Attempt),
    /// Close every transport; no call is expected for it.
    Disconnect,
    /// The target sends us from one address to another, which is tried at once.
    Redirected {
        /// Who said it.
        from: Portal,
        /// Where to.
        to: Portal,
        /// For good.
        permanent: bool,
        /// Number of the attempt since the disk was last there for a minute, from 1.
        attempt: u32,
    },
    /// The login is through; the unit is being looked at.
    LoggedIn(LoggedIn),
    /// The disk is there for the first time.
    Ready(Box<Disk>),
    /// The disk is there again; so many requests are sent again.
    Resumed {
        /// How long it was away.
        away: Duration,
        /// Requests that were waiting for it.
        waiting: usize,
    },
    /// A connection or login failed, or the unit cannot be used; the session goes on trying.
    Trouble {
        /// What it was.
        error: Error,
        /// At which portal.
        at: Portal,
        /// Number of the failure since the disk was last there for a minute, from 1.
        attempt: u32,
        /// How long until the next attempt.
        retry_after: Duration,
    },
    /// A request got no answer, or no good one; the session does something about it, and the
    /// request waits.
    Recovering {
        /// What is being done.
        rung: Rung,
        /// Why.
        reason: Reason,
    },
    /// The disk has changed in a way that one can live with.
    Changed {
        /// What has changed, and what follows: a sentence part.
        what: Box<str>,
    },
    /// A request failed for good; it was completed with an error.
    RequestFailed {
        /// What it was.
        op: Op,
        /// Its first sector of 512 bytes that failed.
        start_sector: u64,
        /// How the target answered.
        outcome: Outcome,
    },
    /// A write that had completed was lost by the target and could not be done again. The next
    /// flush fails.
    WriteLost {
        /// Its first sector of 512 bytes that was not written.
        start_sector: u64,
        /// Length in such sectors.
        sectors: u32,
        /// How the target answered.
        outcome: Outcome,
    },
    /// The disk was away for longer than requests may wait: they have failed, and so will others
    /// until [`Event::Resumed`].
    RequestsGivenUp {
        /// The limit.
        after: Duration,
        /// How many have failed.
        requests: usize,
    },
    /// The session is over before the disk was there.
    GaveUp {
        /// Why it was not there the last time.
        error: Error,
        /// At which portal.
        at: Portal,
        /// The limit; `None` if the target has refused us.
        after: Option<Duration>,
    },
    /// The session was ended as asked.
    LoggedOut,
}

enum State {
    /// Waiting for the next attempt.
    XptWait { deadline: Instant },
    /// The driver is opening a transport.
    Connecting { deadline: Instant },
    /// Login, and then the probe.
    InLogin { probe: Option<Probe> },
    /// What the target may have lost is being written again, from copy number `next` on.
    Replaying { next: usize },
    /// Requests are being served, as long as there is no probe: something may have changed.
    LoggedIn { probe: Option<Probe> },
    /// The target wants us to leave: what is in flight until then, then the logout.
    LogoutRequested { until: Instant, wait: Duration, sent: bool },
    /// The session is to end: everything in flight, then the logout.
    InLogout { sent: bool },
    /// Over.
    Free,
}

/// A session with one logical unit.
pub struct Session {
    config: SessionConfig,
    state: State,
    initiator: Initiator,
    tasks: TaskTable,
    waiting: VecDeque<Slot>,
    delayed: Vec<Slot>,
    done: VecDeque<Completion>,
    events: VecDeque<Event>,
    disk: Option<Disk>,
    failures: Failures,
    /// When the disk went away.
    away_since: Option<Instant>,
    giving_up: GivingUp,
    probe_buffer: Option<Buffer>,
    upkeep: Upkeep,
    reconnects: u64,
    portals: Portals,
    pace: Pace,
    /// The task management function under way is about the whole unit.
    resetting: bool,
    /// Blocks that the unit had when it was last looked at.
    blocks: u64,
}

impl Session {
    /// A session that will ask for its first transport at once.
    pub fn new(config: SessionConfig, now: Instant) -> Session {
        let slots = config.requests_max + OWN_SLOTS;
        let max_recv_bytes = config.login.offer.max_recv_bytes;
        Session {
            state: State::XptWait { deadline: now },
            initiator: Initiator::new(config.patience, slots, max_recv_bytes),
            tasks: TaskTable::new(slots),
            waiting: VecDeque::with_capacity(slots),
            delayed: Vec::with_capacity(slots),
            done: VecDeque::with_capacity(slots),
            events: VecDeque::with_capacity(slots + 16),
            disk: None,
            failures: Failures::default(),
            away_since: None,
            giving_up: GivingUp::new(&config.limits, now),
            probe_buffer: Some(vec![0; PROBE_BYTES].into()),
            upkeep: Upkeep::new(config.requests_max),
            reconnects: 0,
            portals: Portals::new(config.portals.clone()),
            pace: Pace::new(slots),
            resetting: false,
            blocks: 0,
            config,
        }
    }

    /// The disk, once it was seen.
    pub fn disk(&self) -> Option<&Disk> {
        self.disk.as_ref()
    }

    /// Whether requests are being served at the moment.
    pub fn is_logged_in(&self) -> bool {
        matches!(self.state, State::LoggedIn { .. })
    }

    /// The portal in use, or the last one that was tried.
    pub fn portal(&self) -> &Portal {
        self.portals.current()
    }

    /// What was agreed on at the last login.
    pub fn negotiated(&self) -> &Negotiated {
        self.initiator.negotiated()
    }

    /// How often the session had to log in again.
    pub fn reconnects(&self) -> u64 {
        self.reconnects
    }

    /// Requests that were taken and are not done.
    pub fn requests(&self) -> usize {
        self.tasks.len()
    }

    /// Takes a request. There may be at most `requests_max` of them.
    pub fn submit(&mut self, request: Request, now: Instant) {
        let Request { tag, op, start_sector, sectors, buffer } = request;
        if matches!(self.state, State::Free) || self.giving_up.is_failing() {
            self.done.push_back(Completion { tag, result: Err(disk::Error::GivenUp), buffer });
            return;
        }
        let work = Work::new(op, start_sector, sectors);
        let slot = self.tasks.insert(Owner::Block(tag), work, buffer);
        let slot = slot.expect("no more requests than were agreed on");
        self.waiting.push_back(slot);
        self.pump(now);
    }

    /// Ends the session: nothing more is taken, what is in flight is finished, then it logs out.
    pub fn log_out(&mut self, now: Instant) {
        match self.state {
            State::LoggedIn { .. } => {
                self.state = State::InLogout { sent: false };
                self.pump(now);
            }
            State::LogoutRequested { sent, .. } => self.state = State::InLogout { sent },
            State::InLogout { .. } => {}
            State::Free => self.events.push_back(Event::LoggedOut),
            _ => {
                self.give_up();
                self.events.push_back(Event::LoggedOut);
            }
        }
    }

    /// The transport is gone.
    pub fn handle_disconnected(&mut self, error: Error, now: Instant) {
        match self.state {
            State::XptWait { .. } | State::Free => {}
            State::InLogout { sent: true } => self.logged_out(now),
            State::LogoutRequested { sent: true, .. } => self.logged_out(now),
            _ => self.fail(self.initiator.lost(error), now),
        }
    }

    /// Where the next bytes from the transport go.
    pub fn recv_space(&mut self) -> &mut [u8] {
        self.initiator.recv_space(&mut self.tasks)
    }

    /// `count` bytes came to where [`Session::recv_space`] said.
    pub fn received(&mut self, count: usize, now: Instant) {
        if !self.has_transport() {
            return;
        }
        let result = self.initiator.received(count, now, &mut self.tasks);
        // What came before the error is as good as ever.
        self.drain_happened(now);
        match result {
            Ok(()) => self.pump(now),
            Err(error) if self.has_transport() => self.fail(error, now),
            Err(_) => {}
        }
    }

    /// A deadline may have passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.handle_limits(now);
        match self.state {
            State::XptWait { deadline } if deadline <= now => self.connect(now),
            State::Connecting { deadline } if deadline <= now => {
                let error = Error::TimedOut { waiting_for: "connection", after: CONNECT_TIMEOUT };
                self.fail(error, now);
            }
            State::Connecting { .. } => self.open_due(now),
            State::XptWait { .. } | State::Free => {}
            _ => match self.handle_initiator_timeout(now) {
                Ok(()) => self.pump(now),
                Err(error) => self.fail(error, now),
            },
        }
    }

    /// When [`Session::handle_timeout`] is due.
    pub fn next_deadline(&self) -> Option<Instant> {
        let own = match self.state {
            State::XptWait { deadline } => Some(deadline),
            State::Connecting { deadline } => {
                self.portals.deadline().into_iter().chain([deadline]).min()
            }
            State::Free => None,
            State::LogoutRequested { until, sent: false, .. } => {
                self.initiator.next_deadline().into_iter().chain([until]).min()
            }
            _ => self.initiator.next_deadline(),
        };
        let delayed = self.delayed.iter().filter_map(|slot| self.tasks.task(*slot).not_before);
        let delayed = if self.may_send() { delayed.min() } else { None };
        own.into_iter().chain(delayed).chain(self.limit()).min()
    }

    /// The next slices for the transport; returns how many of `slices` were filled.
    pub fn poll_transmit<'a>(&'a self, slices: &mut [&'a [u8]]) -> usize {
        if self.has_transport() { self.initiator.transmit(slices, &self.tasks) } else { 0 }
    }

    /// `count` bytes of them went out.
    pub fn sent(&mut self, count: usize, now: Instant) {
        if self.has_transport() {
            self.initiator.sent(count, now, &mut self.tasks);
            self.drain_happened(now);
            self.pump(now);
        }
    }

    /// The next finished request.
    pub fn poll_completion(&mut self) -> Option<Completion> {
        self.done.pop_front()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn has_transport(&self) -> bool {
        !matches!(self.state, State::XptWait { .. } | State::Connecting { .. } | State::Free)
    }

    /// The connection is over; everything that was in flight waits again.
    fn fail(&mut self, error: Error, now: Instant) {
        self.fail_for(error, Duration::ZERO, now);
    }

    /// The same, and nothing for a while.
    fn fail_for(&mut self, error: Error, wait: Duration, now: Instant) {
        let was_live = matches!(self.state, State::LoggedIn { .. } | State::LogoutRequested { .. });
        let leaves = self.upkeep.leaves && !was_live;
        if leaves || matches!(self.state, State::InLogout { .. }) {
            // Whoever wants to leave is not held back by a target that is gone.
            self.give_up();
            self.events.push_back(Event::LoggedOut);
            return;
        }
        let Err(error) = self.follow(error, now) else { return };
        let falls_back = self.initiator.falls_back();
        self.disconnect();
        if !falls_back {
            self.remember(&error);
        }
        let at_once = self.failures.handle_end(was_live, self.config.retry, now) || falls_back;
        if was_live && self.disk.is_some() {
            self.away_since.get_or_insert(now);
        }
        if !at_once && wait.is_zero() && self.portals.has_more() {
            return self.try_others(error, was_live, now);
        } else if was_live {
            self.portals.handle_lost();
        } else if !falls_back && self.handle_refusal() {
            return;
        }
        let pause = self.failures.pause(self.config.retry, self.disk.is_some());
        let retry_after = if at_once { wait } else { pause.max(wait) };
        let attempt = self.failures.next();
        self.failures.count();
        self.state = State::XptWait { deadline: now + retry_after };
        let at = self.portals.current().clone();
        self.events.push_back(Event::Trouble { error, at, attempt, retry_after });
    }

    fn disconnect(&mut self) {
        self.initiator.disconnected();
        self.tasks.forget_renounced();
        self.resetting = false;
        self.events.push_back(Event::Disconnect);
        self.waiting.clear();
        self.delayed.clear();
        self.upkeep.disconnected();
        self.tasks.unflushed.flush_is_lost();
        for slot in 0..self.tasks.slots_count() {
            if self.tasks.owner(slot).is_none_or(|owner| matches!(owner, Owner::Block(_))) {
                continue;
            }
            let task = self.tasks.remove(slot);
            if task.owner == Owner::Probe {
                self.probe_buffer = Some(task.buffer);
            }
        }
        let tasks = &mut self.tasks;
        self.waiting.extend(tasks.slots(|_| true));
        self.waiting.make_contiguous().sort_unstable_by_key(|slot| tasks.task(*slot).sequence);
        for slot in &self.waiting {
            let task = tasks.task_mut(*slot);
            (task.flight, task.not_before) = (None, None);
            // From the beginning: what the target has already confirmed of a request that is not
            // complete may have been in a cache that it lost.
            task.work.begin_again();
            task.base = 0;
        }
    }

    fn drain_happened(&mut self, now: Instant) {
        while let Some(happened) = self.initiator.poll_happened() {
            match happened {
                Happened::LoggedIn(logged_in) => {
                    self.events.push_back(Event::LoggedIn(logged_in));
                    self.state = State::InLogin { probe: Some(Probe::new(self.config.lun)) };
                    self.send_probe(None);
                }
                Happened::Finished(slot) => match self.tasks.task(slot).owner {
                    Owner::Probe => self.finish_probe(slot, now),
                    _ => self.finish(slot, now),
                },
                Happened::LoggedOut => self.logged_out(now),
                Happened::Managed { done } => self.handle_managed(done, now),
                Happened::Attention(sense) => self.handle_attention(&sense, now),
                Happened::Leave { within, wait } => self.handle_leave(within, wait, now),
                Happened::Text(_) => {}
            }
        }
    }

    fn logged_out(&mut self, now: Instant) {
        if let State::LogoutRequested { wait, .. } = self.state {
            return self.fail_for(Error::TargetClosing, wait, now);
        }
        self.disconnect();
        self.state = State::Free;
        self.events.push_back(Event::LoggedOut);
    }

    /// A command of a request, or of the session's own work on the blocks, is over.
    fn finish(&mut self, slot: Slot, now: Instant) {
        let flight =
            self.tasks.task_mut(slot).flight.take().expect("a finished command was in flight");
        let outcome = flight.outcome.expect("a finished command has an outcome");
        if let Some(error) = outcome.sense().and_then(|sense| self.doubt(sense)) {
            self.start_over(error, now);
            return;
        }
        let task = self.tasks.task_mut(slot);
        let work = &mut task.work;
        let mut verdict = judge(&outcome, &task.command);
        if work.flushing && verdict == Verdict::Fail(disk::Error::Unsupported) {
            // A unit that does not know SYNCHRONIZE CACHE has no cache.
            verdict = Verdict::Done;
        }
        let result = match verdict {
            Verdict::Done => {
                self.pace.handle_good();
                (task.tries, task.again, task.timeouts) = (0, 0, 0);
                if work.flushing {
                    Ok(())
                } else {
                    work.start_sector += u64::from(task.covered);
                    work.sectors -= task.covered;
                    if matches!(work.op, Op::Read | Op::Write { .. }) {
                        task.base += task.covered * 512;
                    }
                    let fua_by_command = self.disk.as_ref().is_some_and(|d| d.geometry.fua);
                    work.flushing = work.sectors == 0
                        && match work.op {
                            Op::Write { fua } => fua && !fua_by_command,
                            // WRITE SAME has no FUA bit.
                            Op::WriteZeroes { fua, .. } => fua,
                            _ => false,
                        };
                    if work.sectors > 0 || work.flushing {
                        self.waiting.push_front(slot);
                        return;
                    }
                    Ok(())
                }
            }
            Verdict::Retry { .. } | Verdict::Fewer => {
                return self.send_again(slot, &outcome, verdict, now);
            }
            Verdict::Fail(error) => Err(error),
        };
        self.conclude(slot, result, outcome);
    }

    /// All of it is done, or nothing more will be.
    fn conclude(&mut self, slot: Slot, result: Result<(), disk::Error>, outcome: Outcome) {
        let Task { owner, work, covers, .. } = *self.tasks.task(slot);
        if work.flushing && result.is_ok() {
            self.flushed(covers, Ok(()));
        }
        match owner {
            Owner::Block(_) => {
                let result = match result {
                    Ok(()) if work.op == Op::Flush => self.confess(),
                    Ok(()) if !work.flushing && !self.keep(slot) => return,
                    result => result,
                };
                self.complete(slot, result);
            }
            Owner::Replay => return self.replayed(slot, result, outcome),
            Owner::Flush => self.own_flush_is_over(slot, result),
            Owner::Probe => unreachable!("probes are finished elsewhere"),
        }
        if result.is_err() {
            let (op, start_sector) = (work.op, work.start_sector);
            self.events.push_back(Event::RequestFailed { op, start_sector, outcome });
        }
    }

    /// Commands that were sent and are not over, the session's own among them.
    fn in_flight(&self) -> usize {
        let resting = self.waiting.len() + self.delayed.len() + self.upkeep.parked();
        self.tasks.len() - resting
    }

    fn complete(&mut self, slot: Slot, result: Result<(), disk::Error>) {
        let Task { owner: Owner::Block(tag), buffer, .. } = self.tasks.remove(slot) else {
            unreachable!("only requests of the block layer are completed")
        };
        self.done.push_back(Completion { tag, result, buffer });
    }

    /// Sends what can be sent.
    fn pump(&mut self, now: Instant) {
        self.replay(now);
        let own = match &self.state {
            State::InLogin { .. } | State::Replaying { .. } => true,
            State::LoggedIn { probe } => probe.is_some(),
            State::LogoutRequested { sent: false, .. } | State::InLogout { sent: false } => false,
            _ => return,
        };
        self.maintain();
        self.wake_delayed(now);
        self.initiator.pump(&mut self.tasks);
        while self.may_issue() {
            // The block layer waits until it is known what the disk is, and all is as it was.
            let fits =
                |slot: &Slot| !own || !matches!(self.tasks.task(*slot).owner, Owner::Block(_));
            let next = self.waiting.iter().position(fits);
            let Some(slot) = next.and_then(|next| self.waiting.remove(next)) else { break };
            self.prepare(slot);
            self.initiator.issue(slot, self.config.lun, now, &mut self.tasks);
        }
        self.initiator.pump(&mut self.tasks);
        let in_flight = self.in_flight();
        match &mut self.state {
            State::InLogout { sent: sent @ false } if self.tasks.len() == 0 => *sent = true,
            State::LogoutRequested { until, sent: sent @ false, .. }
                if in_flight == 0 || *until <= now =>
            {
                *sent = true;
            }
            _ => return,
        }
        self.initiator.log_out(now);
    }

    fn may_issue(&self) -> bool {
        let is_leaving = matches!(self.state, State::LogoutRequested { .. });
        let may_begin = !is_leaving && !self.resetting && self.pace.allows(self.in_flight());
        may_begin && self.initiator.can_issue()
    }

    fn wake_delayed(&mut self, now: Instant) {
        let (tasks, waiting) = (&mut self.tasks, &mut self.waiting);
        self.delayed.retain(|slot| {
            let task = tasks.task_mut(*slot);
            let due = task.not_before.is_none_or(|not_before| not_before <= now);
            if due {
                task.not_before = None;
                waiting.push_front(*slot);
            }
            !due
        });
    }

    /// Makes the next command of a request.
    fn prepare(&mut self, slot: Slot) {
        let Task { owner, work, .. } = *self.tasks.task(slot);
        if owner == Owner::Probe {
            return;
        }
        let disk = self.disk.as_ref().expect("requests are sent when the disk is known");
        let (command, covered) = if work.flushing {
            (synchronize_cache(), 0)
        } else {
            let parameters = self.tasks.parameters(slot);
            encode(work.op, work.start_sector, work.sectors, &disk.geometry, parameters)
        };
        if work.flushing {
            self.tasks.task_mut(slot).covers = self.tasks.unflushed.flush_begins();
        }
        let task = self.tasks.task_mut(slot);
        (task.command, task.covered) = (command, covered);
    }
}
