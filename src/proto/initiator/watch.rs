//! Which command has had no answer for too long.
//!
//! The clock of a command begins anew with every byte of its data. It also stands still as long as
//! the oldest command moves: on a slow line everything else waits behind that one. So a command
//! counts as stuck when neither it nor the oldest has moved for the whole time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::super::task::{Slot, TaskTable};
use crate::wire::pdu::Itt;

/// How often the patience with a request is doubled: a disk that needs long is not a dead one.
const DOUBLINGS_MAX: u32 = 5;

/// The commands in flight in the order of their sending.
#[derive(Debug)]
pub(super) struct Watch {
    order: VecDeque<(Slot, Itt)>,
    /// When the oldest command last moved or ended.
    oldest_moved: Option<Instant>,
    /// When to look again; none while nothing is in flight.
    look: Option<Instant>,
}

impl Watch {
    /// For at most `slots` commands at once.
    pub(super) fn new(slots: usize) -> Watch {
        // Some have ended and are still in the row; see `issued`.
        let order = VecDeque::with_capacity(2 * slots + 1);
        Watch { order, oldest_moved: None, look: None }
    }

    /// A new connection, or none.
    pub(super) fn reset(&mut self) {
        self.order.clear();
        (self.oldest_moved, self.look) = (None, None);
    }

    /// A command goes out.
    pub(super) fn issued(&mut self, slot: Slot, itt: Itt, patience: Duration, tasks: &TaskTable) {
        if self.order.len() == self.order.capacity() {
            self.order.retain(|(_, itt)| is_running(*itt, tasks));
        }
        self.order.push_back((slot, itt));
        let moved = tasks.task(slot).flight.as_ref().map(|flight| flight.moved);
        self.look = self.look.or(moved.map(|moved| moved + patience));
    }

    /// Data of a command has moved, or it was answered.
    pub(super) fn moved(&mut self, itt: Itt, now: Instant, tasks: &TaskTable) {
        while let Some((_, oldest)) = self.order.front() {
            if *oldest == itt {
                self.oldest_moved = Some(now);
                return;
            }
            if is_running(*oldest, tasks) {
                return;
            }
            self.order.pop_front();
        }
    }

    /// When to call [`Watch::stuck`].
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.look
    }

    /// Not before.
    pub(super) fn look_at(&mut self, then: Instant) {
        self.look = Some(then);
    }

    /// The first command that is stuck, and for how long nothing was heard of it.
    pub(super) fn stuck(
        &mut self,
        patience: Duration,
        now: Instant,
        tasks: &TaskTable,
    ) -> Option<(Slot, Duration)> {
        if self.look.is_none_or(|look| now < look) {
            return None;
        }
        self.look = None;
        for (slot, itt) in &self.order {
            if !is_running(*itt, tasks) {
                continue;
            }
            let task = tasks.task(*slot);
            let Some(flight) = &task.flight else { continue };
            let moved = self.oldest_moved.map_or(flight.moved, |at| at.max(flight.moved));
            let limit = patience * (1 << task.timeouts.min(DOUBLINGS_MAX));
            if now >= moved + limit {
                // The rest are looked at when this one is settled.
                self.look = Some(now);
                return Some((*slot, now - moved));
            }
            let look = moved + limit;
            self.look = Some(self.look.map_or(look, |at| at.min(look)));
        }
        None
    }
}

/// Sent, and without an answer.
fn is_running(itt: Itt, tasks: &TaskTable) -> bool {
    let slot = tasks.find(itt);
    slot.and_then(|slot| tasks.task(slot).flight.as_ref()).is_some_and(|f| f.outcome.is_none())
}

#[cfg(test)]
mod tests {
    use super::super::super::disk::Op;
    use super::super::super::task::{Owner, Work};
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    /// Two commands, the second sent a second after the first.
    fn two() -> (Watch, TaskTable, [(Slot, Itt); 2], Instant) {
        let begun = Instant::now();
        let mut tasks = TaskTable::new(2);
        let mut watch = Watch::new(2);
        let sent = [0, 1].map(|second| {
            let work = Work::new(Op::Read, 0, 0);
            let slot = tasks.insert(Owner::Probe, work, Box::default()).unwrap();
            let itt = tasks.take_off(slot, begun + Duration::from_secs(second));
            watch.issued(slot, itt, PATIENCE, &tasks);
            (slot, itt)
        });
        (watch, tasks, sent, begun)
    }

    #[test]
    fn a_command_without_an_answer_is_stuck() {
        let (mut watch, tasks, sent, begun) = two();
        let due = watch.deadline().unwrap();
        assert_eq!(due, begun + PATIENCE);
        let early = due - Duration::from_millis(1);
        assert_eq!(watch.stuck(PATIENCE, early, &tasks), None);
        assert_eq!(watch.stuck(PATIENCE, due, &tasks), Some((sent[0].0, PATIENCE)));
    }

    #[test]
    fn the_oldest_holds_the_clock_of_all_others() {
        let (mut watch, mut tasks, sent, begun) = two();
        let later = begun + Duration::from_secs(25);
        tasks.task_mut(sent[0].0).flight.as_mut().unwrap().moved = later;
        watch.moved(sent[0].1, later, &tasks);
        assert_eq!(watch.stuck(PATIENCE, begun + PATIENCE, &tasks), None);
        assert_eq!(watch.deadline(), Some(later + PATIENCE));
        // A younger one does not.
        watch.moved(sent[1].1, later + PATIENCE, &tasks);
        assert_eq!(
            watch.stuck(PATIENCE, later + PATIENCE, &tasks),
            Some((sent[0].0, PATIENCE)),
            "the first has not moved since"
        );
    }

    #[test]
    fn what_took_too_long_gets_more_time() {
        let (mut watch, mut tasks, sent, begun) = two();
        for (slot, _) in sent {
            tasks.task_mut(slot).timeouts = 2;
        }
        assert_eq!(watch.stuck(PATIENCE, begun + 3 * PATIENCE, &tasks), None);
        assert_eq!(watch.deadline(), Some(begun + 4 * PATIENCE));
    }

    #[test]
    fn the_row_does_not_grow() {
        let (mut watch, mut tasks, sent, begun) = two();
        let capacity = watch.order.capacity();
        for _ in 0..100 {
            let itt = tasks.take_off(sent[1].0, begun);
            watch.issued(sent[1].0, itt, PATIENCE, &tasks);
        }
        assert_eq!(watch.order.capacity(), capacity);
    }
}
