//! Copies of what was written and not flushed: what a target loses together with its cache.
//!
//! A machine that stays up sends a write once. If the target loses power before that write was
//! flushed, nobody has it any more, unless there is a copy here: the session writes the copies
//! again, in order, after each login. SYNCHRONIZE CACHE lets go of those that were there when it
//! was sent.
//!
//! The copies stand in a ring of memory that is made once. What finds no room there is not complete
//! before it was flushed.

use std::collections::VecDeque;

use super::disk::Op;

/// Room for the parameter data of a command without data of its own: one logical block at most.
const PARAMETER_BYTES: usize = 4096;

/// Memory for each copy that the list has room for. Most writes are pages.
const BYTES_PER_COPY: usize = 4096;

/// A moment in the order of completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mark(u64);

impl Mark {
    /// Before everything.
    pub(super) const ZERO: Mark = Mark(0);
}

/// A write, WRITE SAME or UNMAP that is complete and not flushed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written {
    pub(super) op: Op,
    pub(super) start_sector: u64,
    pub(super) sectors: u32,
    /// Where in the ring its data begins, in bytes.
    pub(super) start: u32,
    /// Length of its data.
    pub(super) len: u32,
    mark: Mark,
}

/// The copies, oldest first.
pub(super) struct Unflushed {
    ring: Box<[u8]>,
    copies: VecDeque<Written>,
    copies_max: usize,
    now: Mark,
    /// Kept since the last flush was sent: bytes and copies.
    fresh: (usize, usize),
}

impl Unflushed {
    /// Room for `bytes` of data. With none, nothing is kept.
    pub(super) fn new(bytes: u32) -> Unflushed {
        let copies_max = bytes as usize / BYTES_PER_COPY;
        Unflushed {
            ring: vec![0; bytes as usize].into(),
            copies: VecDeque::with_capacity(copies_max),
            copies_max,
            now: Mark::ZERO,
            fresh: (0, 0),
        }
    }

    /// Keeps a copy of a write that is complete; `false` if there is no room.
    pub(super) fn keep(&mut self, op: Op, start_sector: u64, sectors: u32, data: &[u8]) -> bool {
        let len = match op {
            Op::Write { .. } => sectors as usize * 512,
            _ => PARAMETER_BYTES,
        };
        if self.copies.len() == self.copies_max {
            return false;
        }
        let Some(start) = self.room(len) else { return false };
        if matches!(op, Op::Write { .. }) {
            self.ring[start..start + len].copy_from_slice(&data[..len]);
        }
        let mark = self.pass();
        let (start, len) = (start as u32, len as u32);
        self.copies.push_back(Written { op, start_sector, sectors, start, len, mark });
        self.fresh = (self.fresh.0 + len as usize, self.fresh.1 + 1);
        true
    }

    /// A forced write is stable and needs no copy, but older copies of its blocks must not undo it:
    /// they become copies of it. `false` if one of them has no data that could be changed.
    pub(super) fn amend(&mut self, start_sector: u64, sectors: u32, data: &[u8]) -> bool {
        for copy in &self.copies {
            let first = start_sector.max(copy.start_sector);
            let end = start_sector + u64::from(sectors);
            let end = end.min(copy.start_sector + u64::from(copy.sectors));
            if first >= end {
                continue;
            }
            if !matches!(copy.op, Op::Write { .. }) {
                return false;
            }
            let bytes = (end - first) as usize * 512;
            let from = (first - start_sector) as usize * 512;
            let to = copy.start as usize + (first - copy.start_sector) as usize * 512;
            self.ring[to..to + bytes].copy_from_slice(&data[from..from + bytes]);
        }
        true
    }

    /// Something was completed that has no copy.
    pub(super) fn pass(&mut self) -> Mark {
        self.now = Mark(self.now.0 + 1);
        self.now
    }

    /// A flush is sent: what it covers.
    pub(super) fn flush_begins(&mut self) -> Mark {
        self.fresh = (0, 0);
        self.now
    }

    /// A flush that covers everything up to `covered` has succeeded.
    pub(super) fn release(&mut self, covered: Mark) {
        while self.copies.front().is_some_and(|copy| copy.mark <= covered) {
            self.copies.pop_front();
        }
    }

    /// So much was kept since the last flush was sent that it is time for one.
    pub(super) fn wants_flush(&self) -> bool {
        let (bytes, copies) = self.fresh;
        copies > 0 && (bytes >= self.ring.len() / 2 || copies >= self.copies_max / 2)
    }

    /// No flush is on its way any more.
    pub(super) fn flush_is_lost(&mut self) {
        self.fresh = (self.copies.iter().map(|copy| copy.len as usize).sum(), self.copies.len());
    }

    /// The copy in this place, counted from the oldest.
    pub(super) fn copy(&self, index: usize) -> Option<Written> {
        self.copies.get(index).copied()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.copies.is_empty()
    }

    /// A part of the ring.
    pub(super) fn bytes(&self, start: u32, len: u32) -> &[u8] {
        &self.ring[start as usize..][..len as usize]
    }

    /// Where the parameter data of a copy goes whose data begins at `start`.
    pub(super) fn parameters(&mut self, start: u32) -> &mut [u8] {
        let end = self.ring.len().min(start as usize + PARAMETER_BYTES);
        &mut self.ring[start as usize..end]
    }

    /// Where `len` bytes in one piece are free.
    fn room(&self, len: usize) -> Option<usize> {
        let (Some(first), Some(last)) = (self.copies.front(), self.copies.back()) else {
            return (len <= self.ring.len()).then_some(0);
        };
        let (tail, head) = (first.start as usize, (last.start + last.len) as usize);
        if last.start < first.start {
            return (len <= tail - head).then_some(head);
        }
        if len <= self.ring.len() - head {
            return Some(head);
        }
        // What is left at the end is too short: it goes on at the beginning.
        (len <= tail).then_some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITE: Op = Op::Write { fua: false };

    fn keep(log: &mut Unflushed, start_sector: u64, sectors: u32, byte: u8) -> bool {
        log.keep(WRITE, start_sector, sectors, &vec![byte; sectors as usize * 512])
    }

    #[test]
    fn the_ring_goes_round() {
        let mut log = Unflushed::new(64 * 1024);
        let mut kept = VecDeque::new();
        let mut random = crate::proto::random::Random::new(1);
        for turn in 0..2000u64 {
            let sectors = 1 + random.below(40) as u32;
            if keep(&mut log, turn, sectors, turn as u8) {
                kept.push_back((turn, sectors, log.flush_begins()));
            } else {
                for _ in 0..=random.below(kept.len() as u64) {
                    let (_, _, mark) = kept.pop_front().unwrap();
                    log.release(mark);
                }
            }
            for (index, (turn, sectors, _)) in kept.iter().enumerate() {
                let copy = log.copy(index).unwrap();
                assert_eq!((copy.start_sector, copy.sectors), (*turn, *sectors));
                let bytes = log.bytes(copy.start, copy.len);
                assert_eq!(bytes.len(), *sectors as usize * 512);
                assert!(bytes.iter().all(|byte| *byte == *turn as u8));
            }
            assert!(log.copy(kept.len()).is_none());
        }
    }

    #[test]
    fn a_full_ring_takes_no_more() {
        let mut log = Unflushed::new(64 * 1024);
        assert!(!keep(&mut log, 0, 129, 1));
        assert!(keep(&mut log, 0, 128, 1));
        assert!(!keep(&mut log, 0, 1, 1));
        // A flush covers what was complete when it was sent.
        let covered = log.flush_begins();
        log.release(Mark(covered.0 - 1));
        assert!(!log.is_empty());
        log.release(covered);
        assert!(log.is_empty());
        assert!(keep(&mut log, 0, 128, 1));
        assert!(!keep(&mut Unflushed::new(0), 0, 1, 1));
    }

    #[test]
    fn small_writes_fill_the_list() {
        let mut log = Unflushed::new(64 * 1024);
        assert!((0..16).all(|turn| keep(&mut log, turn, 1, 1)));
        assert!(!keep(&mut log, 16, 1, 1));
    }

    #[test]
    fn a_flush_is_wanted_when_half_is_fresh() {
        let mut log = Unflushed::new(64 * 1024);
        assert!(keep(&mut log, 0, 63, 1));
        assert!(!log.wants_flush());
        assert!(keep(&mut log, 0, 1, 1));
        assert!(log.wants_flush());
        let covered = log.flush_begins();
        assert!(!log.wants_flush());
        log.flush_is_lost();
        assert!(log.wants_flush());
        log.release(covered);
        for turn in 0..8 {
            log.flush_begins();
            assert!(keep(&mut log, turn, 1, 1));
        }
        assert!(!log.wants_flush());
        log.flush_is_lost();
        assert!(log.wants_flush());
    }

    #[test]
    fn a_forced_write_changes_older_copies_of_its_blocks() {
        let mut log = Unflushed::new(64 * 1024);
        assert!(keep(&mut log, 10, 4, 1));
        assert!(keep(&mut log, 20, 4, 2));
        assert!(log.amend(12, 9, &[9; 9 * 512]));
        let sectors = |index| {
            let copy = log.copy(index).unwrap();
            let bytes = log.bytes(copy.start, copy.len);
            bytes.chunks(512).map(|sector| sector[0]).collect::<Vec<u8>>()
        };
        assert_eq!(sectors(0), [1, 1, 9, 9]);
        assert_eq!(sectors(1), [9, 2, 2, 2]);
        assert!(log.amend(30, 1, &[9; 512]));
        assert!(log.keep(Op::Discard, 30, 8, &[]));
        assert!(log.amend(29, 1, &[9; 512]));
        assert!(log.amend(38, 1, &[9; 512]));
        assert!(!log.amend(37, 1, &[9; 512]));
    }
}
