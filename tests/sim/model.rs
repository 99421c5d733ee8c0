//! What may be on the disk: for each sector the writings that a read may return.
//!
//! A writing is *possible* from the moment its request is submitted, and alone when that has
//! completed: also after the target has lost power, because a block layer that stays up does not
//! write again. What has failed may take turns with what was there before, until something else is
//! written.
//!
//! A writing is *stable*, may be on the medium after a loss of power, from its submission too; what
//! is older is out of the question only when a flush that was submitted after the completion has
//! completed, or the writing itself was forced (FUA). The medium is looked at when power is lost,
//! past everything: a machine may lose power together with its target.
//!
//! A read, and in the same way a flush, sees what was possible at its submission and whatever
//! became possible until its completion.

use lunboot::proto::disk::Op;

use super::Asked;
use super::common::writing_of;

/// Writings, without order.
type Set = Vec<u32>;

#[derive(Clone)]
struct Sector {
    /// What a read may return.
    possible: Set,
    /// What may be on the medium when power is lost.
    stable: Set,
    /// A request that writes it is in flight.
    busy: bool,
}

/// A read or a flush in flight.
struct Observer {
    tag: usize,
    first: usize,
    seen: Vec<Set>,
}

pub(crate) struct Model {
    sectors: Vec<Sector>,
    observers: Vec<Observer>,
}

impl Model {
    pub(crate) fn new(sectors: u64) -> Model {
        let sector = Sector { possible: vec![0], stable: vec![0], busy: false };
        Model { sectors: vec![sector; sectors as usize], observers: Vec::new() }
    }

    pub(crate) fn sectors(&self) -> u32 {
        self.sectors.len() as u32
    }

    /// The block layer never writes a sector twice at the same time.
    pub(crate) fn may_begin(&self, asked: Asked) -> bool {
        !writes(asked.op) || !self.sectors[range(asked)].iter().any(|sector| sector.busy)
    }

    pub(crate) fn begin(&mut self, tag: usize, asked: Asked) {
        match asked.op {
            Op::Read => self.observe(tag, range(asked)),
            Op::Flush => self.observe(tag, 0..self.sectors.len()),
            _ => {
                for index in range(asked) {
                    let sector = &mut self.sectors[index];
                    sector.busy = true;
                    add(&mut sector.possible, &[asked.writing]);
                    add(&mut sector.stable, &[asked.writing]);
                    self.show(index, &[asked.writing]);
                }
            }
        }
    }

    /// The request has completed well.
    pub(crate) fn end(&mut self, tag: usize, asked: Asked, buffer: &[u8]) {
        match asked.op {
            Op::Read => self.end_read(tag, asked, buffer),
            Op::Flush => {
                let observer = self.take_observer(tag);
                for (sector, seen) in self.sectors.iter_mut().zip(observer.seen) {
                    sector.stable.retain(|writing| seen.contains(writing));
                    assert!(!sector.stable.is_empty(), "the model contradicts itself");
                }
            }
            Op::Write { fua } | Op::WriteZeroes { fua, .. } => self.settle(asked, fua),
            Op::Discard => self.settle(asked, false),
        }
    }

    /// The request has failed: what it was to do may have been done or not.
    pub(crate) fn fail(&mut self, tag: usize, asked: Asked) {
        match asked.op {
            Op::Read | Op::Flush => drop(self.take_observer(tag)),
            _ => {
                for sector in &mut self.sectors[range(asked)] {
                    sector.busy = false;
                }
            }
        }
    }

    /// Power is lost, and this is what is on the medium.
    pub(crate) fn lose_power(&self, medium: &[u8]) {
        for (index, (sector, bytes)) in self.sectors.iter().zip(medium.chunks(512)).enumerate() {
            check(index, bytes, &sector.stable);
        }
    }

    /// The session says that a completed write is lost: a store that fails has not taken it back.
    pub(crate) fn lose_writes(&mut self, start: u64, sectors: u32) {
        for index in start as usize..start as usize + sectors as usize {
            let sector = &mut self.sectors[index];
            let stable = sector.stable.clone();
            add(&mut sector.possible, &stable);
            self.show(index, &stable);
        }
    }

    /// Looks at the disk itself, past everything.
    pub(crate) fn check_whole(&self, bytes: &[u8]) {
        for (index, (sector, bytes)) in self.sectors.iter().zip(bytes.chunks(512)).enumerate() {
            check(index, bytes, &sector.possible);
        }
    }

    fn end_read(&mut self, tag: usize, asked: Asked, buffer: &[u8]) {
        let observer = self.take_observer(tag);
        for ((index, bytes), seen) in range(asked).zip(buffer.chunks(512)).zip(&observer.seen) {
            check(index, bytes, seen);
        }
    }

    fn settle(&mut self, asked: Asked, forced: bool) {
        for sector in &mut self.sectors[range(asked)] {
            sector.busy = false;
            sector.possible = vec![asked.writing];
            if forced {
                sector.stable = vec![asked.writing];
            }
        }
    }

    fn observe(&mut self, tag: usize, range: std::ops::Range<usize>) {
        let first = range.start;
        let seen = self.sectors[range].iter().map(|sector| sector.possible.clone()).collect();
        self.observers.push(Observer { tag, first, seen });
    }

    fn take_observer(&mut self, tag: usize) -> Observer {
        let index = self.observers.iter().position(|observer| observer.tag == tag);
        self.observers.swap_remove(index.expect("a read or flush is being observed"))
    }

    /// Something has become possible.
    fn show(&mut self, index: usize, writings: &[u32]) {
        for observer in &mut self.observers {
            let place = index.checked_sub(observer.first);
            if let Some(seen) = place.and_then(|place| observer.seen.get_mut(place)) {
                add(seen, writings);
            }
        }
    }
}

fn check(index: usize, bytes: &[u8], possible: &Set) {
    match writing_of(bytes, index as u64) {
        Some(writing) if possible.contains(&writing) => {}
        Some(writing) => panic!("sector {index} is of writing {writing}, not one of {possible:?}"),
        None => panic!("sector {index} is torn or in the wrong place: {:02x?}", &bytes[..16]),
    }
}

fn writes(op: Op) -> bool {
    !matches!(op, Op::Read | Op::Flush)
}

fn range(asked: Asked) -> std::ops::Range<usize> {
    let start = asked.start as usize;
    start..start + asked.sectors as usize
}

fn add(set: &mut Set, writings: &[u32]) {
    for writing in writings {
        if !set.contains(writing) {
            set.push(*writing);
        }
    }
}
