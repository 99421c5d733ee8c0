//! Which command has had no answer for too long.
//!
//! The clock of a command begins anew with every byte of its data. It also stands still as long as
//! others move that the target may well do first: older ones, and as many younger ones as there can
//! be at once. On a slow line every command waits behind all of these. One that is passed over by
//! more is not waiting for the line.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::super::task::{Slot, TaskTable};
use crate::wire::pdu::Itt;
use crate::wire::serial::Sn;

/// How often the patience with a request is doubled: a disk that needs long is not a dead one.
const DOUBLINGS_MAX: u32 = 5;

/// The commands in flight, and when something moved.
#[derive(Debug)]
pub(super) struct Watch {
    /// In the order of their sending.
    order: VecDeque<(Slot, Itt)>,
    /// Of the latest commands, each in the place of its CmdSN: when it last moved, or ended.
    recent: Box<[Option<(Sn, Instant)>]>,
    /// Most commands at once.
    slots: u32,
    /// When to look again; none while nothing is in flight.
    look: Option<Instant>,
}

impl Watch {
    /// For at most `slots` commands at once.
    pub(super) fn new(slots: usize) -> Watch {
        // Some have ended and are still in the row; see `issued`.
        let order = VecDeque::with_capacity(2 * slots + 1);
        Watch { order, recent: vec![None; 2 * slots].into(), slots: slots as u32, look: None }
    }

    /// A new connection, or none.
    pub(super) fn reset(&mut self) {
        self.order.clear();
        self.recent.fill(None);
        self.look = None;
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

    /// Data of the command with this number has moved, or it was answered.
    pub(super) fn moved(&mut self, cmd_sn: Sn, now: Instant) {
        let place = &mut self.recent[cmd_sn.0 as usize % (2 * self.slots as usize)];
        // What is older than all of these has no part in the waiting of the others.
        if place.is_none_or(|(number, _)| number.is_at_or_before(cmd_sn)) {
            *place = Some((cmd_sn, now));
        }
    }

    /// When something last moved that the target may well do before a command of this number.
    pub(super) fn last_moved(&self, cmd_sn: Sn) -> Option<Instant> {
        let youngest = cmd_sn.plus(self.slots);
        let recent = self.recent.iter().flatten();
        recent.filter(|(number, _)| number.is_at_or_before(youngest)).map(|(_, at)| *at).max()
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
            let moved = self.last_moved(flight.cmd_sn).unwrap_or(flight.moved).max(flight.moved);
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
            tasks.task_mut(slot).flight.as_mut().unwrap().cmd_sn = Sn(second as u32);
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
    fn what_the_target_may_do_first_holds_the_clock() {
        let (mut watch, tasks, _, begun) = two();
        let mut moved = begun;
        // One after the other moves: the older, the younger, and two that were sent later.
        for number in 0..4 {
            moved += Duration::from_secs(25);
            watch.moved(Sn(number), moved);
            assert_eq!(watch.stuck(PATIENCE, moved, &tasks), None, "{number}");
        }
        let early = moved - Duration::from_secs(25) + PATIENCE;
        // The third is as far as it goes for the first command; the fourth counts for the second.
        assert_eq!(watch.stuck(PATIENCE, early, &tasks).map(|(slot, _)| slot), Some(0));
    }

    #[test]
    fn a_command_that_is_passed_over_again_and_again_is_stuck() {
        let (mut watch, tasks, sent, begun) = two();
        let due = begun + PATIENCE;
        for number in 3..100 {
            watch.moved(Sn(number), begun + Duration::from_secs(u64::from(number) / 4));
        }
        assert_eq!(watch.stuck(PATIENCE, due, &tasks), Some((sent[0].0, PATIENCE)));
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
