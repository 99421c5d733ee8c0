//! The target's end of the command window: what is handled at once, what waits for its turn, and
//! what is ignored (RFC 7143 §4.2.2.1).
//!
//! A request that comes before an older one is kept until the older one is there; the numbers in
//! between are gaps. A SCSI command is kept as a task, because its data may follow at once; any
//! other request is kept with its data segment. Immediate task management that concerns the
//! commands before it waits behind the gaps in front of it (§4.2.3.3).

use std::collections::VecDeque;

use crate::wire::frame::DataEnd;
use crate::wire::pdu::{Bhs, Request};
use crate::wire::serial::Sn;

use super::Tag;

/// Most bytes of data segments that wait with their requests.
const HELD_BYTES_MAX: usize = 64 * 1024;
/// Most immediate requests that wait for the commands before them.
const FENCES_MAX: usize = 8;

/// When a request is to be handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Now.
    Now,
    /// When those before it have come.
    Early,
    /// Not at all: it is outside of the window, or a duplicate.
    Never,
}

/// A request that waits.
#[derive(Debug)]
pub(super) struct Parked {
    pub(super) request: Request,
    pub(super) bhs: Bhs,
    pub(super) data: Vec<u8>,
    pub(super) end: DataEnd,
}

/// What uses a number of the window before its turn.
#[derive(Debug)]
pub(super) enum Held {
    /// A SCSI command.
    Task(Tag),
    /// Anything else.
    Request(Box<Parked>),
    /// Nothing any more: it was answered already, or it is considered received.
    Void,
}

/// The numbers of one session.
#[derive(Debug)]
pub(super) struct Window {
    exp_cmd_sn: Sn,
    /// What has come for ExpCmdSN and the numbers after it. The first is a gap, or has its turn.
    ahead: VecDeque<Option<Held>>,
    /// Immediate requests, with the CmdSN that everything before must have reached.
    fences: VecDeque<(Sn, Box<Parked>)>,
    held_bytes: usize,
}

impl Window {
    pub(super) fn new(exp_cmd_sn: Sn) -> Window {
        Window { exp_cmd_sn, ahead: VecDeque::new(), fences: VecDeque::new(), held_bytes: 0 }
    }

    /// The next number that is missing.
    pub(super) fn exp_cmd_sn(&self) -> Sn {
        self.exp_cmd_sn
    }

    /// Whether a request with this number is to be handled. If it is now, the number is used up.
    pub(super) fn judge(&mut self, immediate: bool, cmd_sn: Sn, max_cmd_sn: Sn) -> Turn {
        if immediate {
            return Turn::Now;
        }
        if !self.is_open(cmd_sn, max_cmd_sn) {
            return Turn::Never;
        }
        if cmd_sn == self.exp_cmd_sn {
            self.advance();
            return Turn::Now;
        }
        Turn::Early
    }

    /// Inside the window, and nothing has come for it yet.
    pub(super) fn is_open(&self, cmd_sn: Sn, max_cmd_sn: Sn) -> bool {
        self.exp_cmd_sn.is_at_or_before(cmd_sn)
            && cmd_sn.is_at_or_before(max_cmd_sn)
            && self.ahead.get(self.place(cmd_sn)).is_none_or(Option::is_none)
    }

    /// Keeps what has come early, or makes a gap void. The number must be inside the window.
    pub(super) fn hold(&mut self, cmd_sn: Sn, held: Held) {
        let place = self.place(cmd_sn);
        if self.ahead.len() <= place {
            self.ahead.resize_with(place + 1, || None);
        }
        self.release(place);
        self.ahead[place] = Some(held);
    }

    /// Keeps a request with its data segment; false if there is no room for more.
    pub(super) fn park(&mut self, cmd_sn: Sn, parked: Parked) -> bool {
        if self.held_bytes + parked.data.len() > HELD_BYTES_MAX {
            return false;
        }
        self.held_bytes += parked.data.len();
        self.hold(cmd_sn, Held::Request(Box::new(parked)));
        true
    }

    /// Keeps an immediate request until nothing is missing before `cmd_sn`; false if there is no
    /// room for more.
    pub(super) fn fence(&mut self, cmd_sn: Sn, parked: Parked) -> bool {
        if self.fences.len() >= FENCES_MAX {
            return false;
        }
        self.fences.push_back((cmd_sn, Box::new(parked)));
        true
    }

    /// All gaps before this number are considered received.
    pub(super) fn plug(&mut self, cmd_sn: Sn) {
        let end = self.place(cmd_sn);
        if self.ahead.len() < end {
            self.ahead.resize_with(end, || None);
        }
        for gap in self.ahead.iter_mut().take(end).filter(|held| held.is_none()) {
            *gap = Some(Held::Void);
        }
    }

    /// The next that has its turn.
    pub(super) fn next(&mut self) -> Option<Held> {
        let due = |(cmd_sn, _): &(Sn, Box<Parked>)| cmd_sn.is_at_or_before(self.exp_cmd_sn);
        if let Some(index) = self.fences.iter().position(due) {
            return self.fences.remove(index).map(|(_, parked)| Held::Request(parked));
        }
        self.ahead.front()?.as_ref()?;
        self.release(0);
        let held = self.ahead.front_mut()?.take();
        self.advance();
        held
    }

    /// Something has its turn.
    pub(super) fn has_next(&self) -> bool {
        let due = |(cmd_sn, _): &(Sn, Box<Parked>)| cmd_sn.is_at_or_before(self.exp_cmd_sn);
        self.ahead.front().is_some_and(Option::is_some) || self.fences.iter().any(due)
    }

    fn advance(&mut self) {
        self.ahead.pop_front();
        self.exp_cmd_sn = self.exp_cmd_sn.next();
    }

    /// The data of what is kept here is no longer counted.
    fn release(&mut self, place: usize) {
        if let Some(Some(Held::Request(parked))) = self.ahead.get(place) {
            self.held_bytes -= parked.data.len();
        }
    }

    fn place(&self, cmd_sn: Sn) -> usize {
        cmd_sn.0.wrapping_sub(self.exp_cmd_sn.0) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parked(bytes: usize) -> Parked {
        let data = vec![0; bytes];
        Parked { request: Request::Snack, bhs: [0; 48], data, end: DataEnd::Good }
    }

    #[test]
    fn what_comes_early_has_its_turn_when_the_gap_is_filled() {
        let mut window = Window::new(Sn(u32::MAX));
        let max = Sn(3);
        assert_eq!(window.judge(false, Sn(1), max), Turn::Early);
        window.hold(Sn(1), Held::Task(Tag(7)));
        assert_eq!(window.judge(false, Sn(1), max), Turn::Never, "a duplicate");
        assert_eq!(window.judge(false, Sn(4), max), Turn::Never, "above the window");
        assert!(!window.has_next());
        assert_eq!(window.judge(false, Sn(u32::MAX), max), Turn::Now);
        assert!(window.next().is_none());
        assert_eq!(window.judge(false, Sn(0), max), Turn::Now);
        assert!(matches!(window.next(), Some(Held::Task(Tag(7)))));
        assert_eq!((window.exp_cmd_sn(), window.has_next()), (Sn(2), false));
        assert_eq!(window.judge(false, Sn(1), max), Turn::Never, "below the window");
        assert_eq!(window.judge(true, Sn(1), max), Turn::Now, "immediate");
    }

    #[test]
    fn a_fence_waits_for_what_is_before_it() {
        let mut window = Window::new(Sn(10));
        assert!(window.fence(Sn(12), parked(0)));
        window.hold(Sn(11), Held::Void);
        assert!(!window.has_next());
        assert_eq!(window.judge(false, Sn(10), Sn(20)), Turn::Now);
        assert!(matches!(window.next(), Some(Held::Void)));
        assert!(matches!(window.next(), Some(Held::Request(_))));
        assert!(!window.has_next());
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut window = Window::new(Sn(0));
        assert!(window.park(Sn(1), parked(HELD_BYTES_MAX)));
        assert!(!window.park(Sn(2), parked(1)));
        window.hold(Sn(1), Held::Void);
        assert!(window.park(Sn(2), parked(1)));
        window.plug(Sn(2));
        while window.next().is_some() {}
        assert_eq!((window.held_bytes, window.exp_cmd_sn()), (0, Sn(3)));
        for _ in 0..FENCES_MAX {
            assert!(window.fence(Sn(9), parked(0)));
        }
        assert!(!window.fence(Sn(9), parked(0)));
    }
}
