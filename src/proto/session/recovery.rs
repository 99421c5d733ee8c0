//! Commands that get no answer, or always the same bad one.
//!
//! A ladder of three rungs (RFC 7143 §11.5): ABORT TASK for the command alone; LOGICAL UNIT RESET
//! if that is refused or not answered, or if the command sent again gets no answer either; and if
//! that does not help, the session is dropped and logs in again, which ends everything that the
//! target still has of it. The request itself is sent again each time. It never fails for want of
//! an answer.

use std::time::{Duration, Instant};

use super::super::Error;
use super::super::command::{Outcome, Verdict};
use super::super::disk::Op;
use super::super::task::{Owner, Slot, Work};
use super::pace::pause;
use super::{Event, Session, State};

/// Which rung of the ladder was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rung {
    /// The target was told to give the command up.
    AbortTask,
    /// The target was told to give up all commands of the unit.
    LogicalUnitReset,
}

/// Why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A request made no progress for so long.
    NoProgress {
        /// What it was.
        op: Op,
        /// Its first sector of 512 bytes that is not done.
        start_sector: u64,
        /// For how long.
        after: Duration,
    },
    /// A request was refused over and over, without a reason that says that it must fail.
    Refused {
        /// What it was.
        op: Op,
        /// Its first sector of 512 bytes that is not done.
        start_sector: u64,
    },
    /// The target did not give the command up.
    NotAborted,
}

/// Rungs of the ladder, the new session among them.
const RUNGS: u32 = 3;

/// How often a command is sent that the target keeps refusing before the ladder is climbed.
const TRIES_MAX: u32 = 20;

impl Session {
    /// Time has passed for the connection.
    pub(super) fn handle_initiator_timeout(&mut self, now: Instant) -> Result<(), Error> {
        self.initiator.handle_timeout(now)?;
        self.drain_happened(now);
        if self.has_transport() { self.handle_stuck(now) } else { Ok(()) }
    }

    /// Climbs the ladder for a command that is stuck.
    fn handle_stuck(&mut self, now: Instant) -> Result<(), Error> {
        let Some((slot, after)) = self.initiator.stuck(now, &self.tasks) else { return Ok(()) };
        let task = self.tasks.task(slot);
        let Work { op, start_sector, .. } = task.work;
        if task.owner == Owner::Probe {
            // Without its answer there is no disk: better another connection.
            return Err(Error::TimedOut { waiting_for: "answer to a command", after });
        }
        let reason = Reason::NoProgress { op, start_sector, after };
        let asked = match task.timeouts % RUNGS {
            0 => self.abort_task(slot, reason, now),
            1 => self.reset_unit(reason, now),
            _ => {
                self.tasks.task_mut(slot).timeouts += 1;
                return Err(Error::TimedOut { waiting_for: "answer to a command", after });
            }
        };
        if asked {
            self.tasks.task_mut(slot).timeouts += 1;
        } else {
            // Nothing fits behind what is waiting to be sent.
            self.initiator.look_at(now + self.config.patience.ping);
        }
        Ok(())
    }

    /// A task management function is over.
    pub(super) fn handle_managed(&mut self, done: bool, now: Instant) {
        let was_reset = std::mem::take(&mut self.resetting);
        if done {
            return;
        }
        if was_reset || !self.reset_unit(Reason::NotAborted, now) {
            let after = self.config.patience.management;
            self.fail(
                Error::TimedOut { waiting_for: "answer to a task management function", after },
                now,
            );
        }
    }

    /// The target has not carried the command out, and may do so another time.
    pub(super) fn send_again(
        &mut self,
        slot: Slot,
        outcome: &Outcome,
        verdict: Verdict,
        now: Instant,
    ) {
        let others = self.in_flight() - 1;
        let task = self.tasks.task_mut(slot);
        task.again += 1;
        let (first, endless) = match verdict {
            Verdict::Retry { after, endless } => (after, endless),
            _ => {
                self.pace.handle_full(others);
                // When another one is answered there is room again.
                (if others > 0 { Duration::ZERO } else { FULL_PAUSE }, true)
            }
        };
        task.tries += u32::from(!endless);
        let after = pause(first, task.again);
        if after.is_zero() {
            self.waiting.push_front(slot);
        } else {
            task.not_before = Some(now + after);
            self.delayed.push(slot);
        }
        if let Outcome::Status { sense: Some(sense), .. } = outcome {
            self.handle_attention(sense, now);
        }
        if !endless {
            self.climb(slot, now);
        }
    }

    /// The target has refused a command once more, and it waits to be sent again.
    fn climb(&mut self, slot: Slot, now: Instant) {
        let task = self.tasks.task(slot);
        let Work { op, start_sector, .. } = task.work;
        let tries = task.tries;
        if !tries.is_multiple_of(TRIES_MAX) || self.initiator.is_managing() {
            return;
        }
        let reason = Reason::Refused { op, start_sector };
        // First the unit, then the session, and so on.
        if tries.is_multiple_of(2 * TRIES_MAX) || !self.reset_unit(reason, now) {
            let text = format!("{op:?} at sector {start_sector} was refused {tries} times");
            self.fail(Error::LogicalUnit(text.into()), now);
        }
    }

    fn abort_task(&mut self, slot: Slot, reason: Reason, now: Instant) -> bool {
        let asked = self.initiator.abort_task(slot, self.config.lun, now, &self.tasks);
        if asked {
            self.resetting = false;
            self.events.push_back(Event::Recovering { rung: Rung::AbortTask, reason });
        }
        asked
    }

    fn reset_unit(&mut self, reason: Reason, now: Instant) -> bool {
        let asked = self.initiator.reset_unit(self.config.lun, now);
        if asked {
            self.resetting = true;
            let rung = Rung::LogicalUnitReset;
            self.events.push_back(Event::Recovering { rung, reason });
        }
        asked
    }

    /// The target wants the session to end (RFC 7143 §11.9).
    pub(super) fn handle_leave(&mut self, within: Option<Duration>, wait: Duration, now: Instant) {
        let wait = wait.min(TIME2WAIT_MAX);
        match (&self.state, within) {
            (State::LoggedIn { .. } | State::InLogin { .. }, Some(within)) => {
                // A second is kept for the logout itself.
                let until = now + within.saturating_sub(LOGOUT_TIME);
                self.state = State::LogoutRequested { until, wait, sent: false };
            }
            // We are about to leave anyway.
            (State::InLogout { .. } | State::LogoutRequested { .. }, Some(_)) => {}
            _ => self.fail_for(Error::TargetClosing, wait, now),
        }
    }

    /// Commands may still follow: no logout was sent.
    pub(super) fn may_send(&self) -> bool {
        let leaves = matches!(
            self.state,
            State::LogoutRequested { sent: true, .. } | State::InLogout { sent: true }
        );
        self.has_transport() && !leaves
    }
}

/// First pause when the target has no room for a single command.
const FULL_PAUSE: Duration = Duration::from_millis(100);

/// Longest time that a target may make us stay away: what waits may be the root disk.
const TIME2WAIT_MAX: Duration = Duration::from_secs(30);

/// What a logout may take of the time that the target gives us to finish.
const LOGOUT_TIME: Duration = Duration::from_secs(1);
