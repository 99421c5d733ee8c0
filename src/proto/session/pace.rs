//! How many commands the target takes at once, and how soon it may be asked again: with a command,
//! or with a connection.
//!
//! TASK SET FULL says that there are too many: from then on there is one fewer than it had, and one
//! more again after a long row of good answers. BUSY and its like say "not now": each time in a row
//! the pause doubles.

use std::time::{Duration, Instant};

/// Good answers in a row after which one more command is tried.
const GOOD_ANSWERS: u32 = 64;

/// Longest pause before a command is sent again that the target has sent back.
const PAUSE_MAX: Duration = Duration::from_secs(4);

/// Times that a command is sent again at once: several conditions may wait to be told.
const AT_ONCE: u32 = 4;

/// The disk must be there for so long before a failure is a new story.
const CALM: Duration = Duration::from_secs(60);

/// How soon to connect again after a failure: at once if the disk was there, then after `first`,
/// doubling up to `max`, for ever. A disk that was there for less than `first` was not: there are
/// targets that take every login and fall over the first command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// First pause.
    pub first: Duration,
    /// Longest pause as long as the disk was never there: at boot.
    pub max: Duration,
    /// Longest pause once the disk was there: a machine waits for its root.
    pub max_live: Duration,
}

impl Default for Retry {
    fn default() -> Retry {
        Retry {
            first: Duration::from_secs(1),
            max: Duration::from_secs(30),
            max_live: Duration::from_secs(5),
        }
    }
}

impl Retry {
    /// The pause after so many failures that were each followed by one.
    fn pause(&self, failures: u32, was_there: bool) -> Duration {
        let max = if was_there { self.max_live } else { self.max };
        self.first.saturating_mul(1 << failures.min(16)).min(max)
    }
}

/// The failures of connections, logins and sessions.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Failures {
    /// Since the disk was there for a while.
    in_row: u32,
    /// The first of these was the loss of the disk, and cost no pause.
    of_a_disk: bool,
    /// Since it was there in calm.
    number: u32,
    /// Since when it is there.
    there_since: Option<Instant>,
}

impl Failures {
    /// How many there are since the disk was there for a while.
    pub(super) fn in_row(&self) -> u32 {
        self.in_row
    }

    /// The disk is there.
    pub(super) fn handle_there(&mut self, now: Instant) {
        self.there_since = Some(now);
    }

    /// Something has failed; `was_live` if that was a session with the disk. Whether it is to be
    /// tried again at once.
    pub(super) fn handle_end(&mut self, was_live: bool, retry: Retry, now: Instant) -> bool {
        let was_there = self.there_since.take().map_or(Duration::ZERO, |since| now - since);
        if was_there >= retry.first {
            self.in_row = 0;
        }
        if was_there >= CALM {
            self.number = 0;
        }
        let is_first = self.in_row == 0;
        if is_first {
            self.of_a_disk = was_live;
        }
        is_first && was_live
    }

    /// How many pauses there were.
    pub(super) fn pauses(&self) -> u32 {
        self.in_row.saturating_sub(u32::from(self.of_a_disk))
    }

    /// The pause that follows.
    pub(super) fn pause(&self, retry: Retry, was_there: bool) -> Duration {
        retry.pause(self.pauses(), was_there)
    }

    /// The number of the failure, from 1, if it counts.
    pub(super) fn next(&self) -> u32 {
        self.number + 1
    }

    /// It counts.
    pub(super) fn count(&mut self) {
        (self.in_row, self.number) = (self.in_row + 1, self.number + 1);
    }
}

/// The number of commands that may be in flight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    depth: usize,
    depth_max: usize,
    good: u32,
}

impl Pace {
    pub(super) fn new(depth_max: usize) -> Pace {
        Pace { depth: depth_max, depth_max, good: 0 }
    }

    /// Whether one more may be sent.
    pub(super) fn allows(&self, in_flight: usize) -> bool {
        in_flight < self.depth
    }

    /// A command was carried out.
    pub(super) fn handle_good(&mut self) {
        if self.depth < self.depth_max {
            self.good += 1;
            if self.good >= GOOD_ANSWERS {
                (self.depth, self.good) = (self.depth + 1, 0);
            }
        }
    }

    /// The target could take no more than these that are still in flight.
    pub(super) fn handle_full(&mut self, in_flight: usize) {
        (self.depth, self.good) = (in_flight.clamp(1, self.depth), 0);
    }
}

/// The pause before a command is sent for the `again`th time, from 1, when `first` is the pause
/// that its answer asks for.
pub(super) fn pause(first: Duration, again: u32) -> Duration {
    if first.is_zero() && again <= AT_ONCE {
        return first;
    }
    let first = first.max(Duration::from_millis(50));
    first.saturating_mul(1 << again.saturating_sub(1).min(16)).min(PAUSE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_target_gets_fewer_and_then_slowly_more() {
        let mut pace = Pace::new(32);
        assert!(pace.allows(31) && !pace.allows(32));
        pace.handle_full(7);
        assert!(pace.allows(6) && !pace.allows(7));
        pace.handle_full(0);
        assert!(pace.allows(0) && !pace.allows(1), "one always goes");
        for _ in 0..GOOD_ANSWERS {
            pace.handle_good();
        }
        assert!(pace.allows(1) && !pace.allows(2));
        for _ in 0..40 * GOOD_ANSWERS {
            pace.handle_good();
        }
        assert!(pace.allows(31) && !pace.allows(32));
    }

    #[test]
    fn pauses_double_up_to_a_bound() {
        let ms = Duration::from_millis;
        assert_eq!([1, 2, 3].map(|again| pause(ms(100), again)), [ms(100), ms(200), ms(400)]);
        assert_eq!(pause(ms(100), 1_000_000), PAUSE_MAX);
        assert_eq!([1, AT_ONCE].map(|again| pause(ms(0), again)), [ms(0); 2]);
        assert!(pause(ms(0), AT_ONCE + 1) > ms(0));
    }

    #[test]
    fn what_was_there_for_a_while_is_asked_for_at_once() {
        let (retry, mut now, mut failures) =
            (Retry::default(), Instant::now(), Failures::default());
        let mut lose = |there_for: Duration| {
            failures.handle_there(now);
            now += there_for;
            let at_once = failures.handle_end(true, retry, now);
            let pause = failures.pause(retry, true);
            failures.count();
            (!at_once).then_some(pause.as_secs())
        };
        let short = retry.first - Duration::from_millis(1);
        assert_eq!([short; 6].map(&mut lose), [None, Some(1), Some(2), Some(4), Some(5), Some(5)]);
        assert_eq!([retry.first, short, short].map(&mut lose), [None, Some(1), Some(2)]);
        assert_eq!(failures.next(), 10);
        failures.handle_there(now);
        failures.handle_end(true, retry, now + CALM);
        assert_eq!(failures.next(), 1);
    }
}
