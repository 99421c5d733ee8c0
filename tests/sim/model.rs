//! What may be on the disk: for each sector the writings that a read may return.
//!
//! A writing is possible from the moment its request is submitted, and alone when that has
//! completed. A writing is *stable*, may be there after a loss of power, from its submission too;
//! what is older is out of the question only when a flush that was submitted after the completion
//! has completed, or the writing itself was forced (FUA). Power that is lost in between may bring
//! back anything stable: a flush after that confirms what is there then, as with any disk.
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
    /// What may be there after a loss of power.
    stable: Set,
    /// A request that writes it is in flight.
    busy: bool,
    /// Nothing was written since power was lost, so what it shows is stable.
    clean: bool,
    /// When the set of what is possible last changed.
    changed: u64,
}

/// A read or a flush in flight.
struct Observer {
    tag: usize,
    first: usize,
    begun: u64,
    seen: Vec<Set>,
}

pub(crate) struct Model {
    sectors: Vec<Sector>,
    observers: Vec<Observer>,
    clock: u64,
}

impl Model {
    pub(crate) fn new(sectors: u64) -> Model {
        let sector =
            Sector { possible: vec![0], stable: vec![0], busy: false, clean: true, changed: 0 };
        Model { sectors: vec![sector; sectors as usize], observers: Vec::new(), clock: 0 }
    }

    pub(crate) fn sectors(&self) -> u32 {
        self.sectors.len() as u32
    }

    /// The block layer never writes a sector twice at the same time.
    pub(crate) fn may_begin(&self, asked: Asked) -> bool {
        !writes(asked.op) || !self.sectors[range(asked)].iter().any(|sector| sector.busy)
    }

    pub(crate) fn begin(&mut self, tag: usize, asked: Asked) {
        self.clock += 1;
        match asked.op {
            Op::Read => self.observe(tag, range(asked)),
            Op::Flush => self.observe(tag, 0..self.sectors.len()),
            _ => {
                for index in range(asked) {
                    let sector = &mut self.sectors[index];
                    (sector.busy, sector.clean, sector.changed) = (true, false, self.clock);
                    add(&mut sector.possible, &[asked.writing]);
                    add(&mut sector.stable, &[asked.writing]);
                    self.show(index, &[asked.writing]);
                }
            }
        }
    }

    /// The request has completed well.
    pub(crate) fn end(&mut self, tag: usize, asked: Asked, buffer: &[u8]) {
        self.clock += 1;
        match asked.op {
            Op::Read => self.end_read(tag, asked, buffer),
            Op::Flush => {
                let observer = self.take_observer(tag);
                for (sector, seen) in self.sectors.iter_mut().zip(observer.seen) {
                    sector.stable.retain(|writing| seen.contains(writing));
                    assert!(!sector.stable.is_empty(), "the model contradicts itself");
                }
            }
            Op::Write { fua } | Op::WriteZeroes { fua, .. } => {
                for sector in &mut self.sectors[range(asked)] {
                    (sector.busy, sector.changed) = (false, self.clock);
                    sector.possible = vec![asked.writing];
                    if fua {
                        sector.stable = vec![asked.writing];
                    }
                }
            }
            // It may have had any effect or none.
            Op::Discard => self.release(asked),
        }
    }

    /// The request has completed well, but before power was lost: what it has written may be lost.
    pub(crate) fn end_before_crash(&mut self, tag: usize, asked: Asked, buffer: &[u8]) {
        match asked.op {
            Op::Read | Op::Flush => self.end(tag, asked, buffer),
            _ => self.fail(tag, asked),
        }
    }

    /// The request has failed: what it was to do may have been done or not.
    pub(crate) fn fail(&mut self, tag: usize, asked: Asked) {
        self.clock += 1;
        match asked.op {
            Op::Read | Op::Flush => drop(self.take_observer(tag)),
            _ => self.release(asked),
        }
    }

    pub(crate) fn lose_power(&mut self) {
        self.clock += 1;
        for index in 0..self.sectors.len() {
            let sector = &mut self.sectors[index];
            sector.possible.clone_from(&sector.stable);
            (sector.clean, sector.changed) = (!sector.busy, self.clock);
            let stable = sector.stable.clone();
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
            let writing = check(index, bytes, seen);
            let sector = &mut self.sectors[index];
            if !sector.busy && sector.changed < observer.begun {
                // Nothing has changed since: that is what is there, and not only possible.
                sector.possible = vec![writing];
                if sector.clean {
                    sector.stable = vec![writing];
                }
            }
        }
    }

    fn release(&mut self, asked: Asked) {
        for sector in &mut self.sectors[range(asked)] {
            (sector.busy, sector.changed) = (false, self.clock);
        }
    }

    fn observe(&mut self, tag: usize, range: std::ops::Range<usize>) {
        let first = range.start;
        let seen = self.sectors[range].iter().map(|sector| sector.possible.clone()).collect();
        self.observers.push(Observer { tag, first, begun: self.clock, seen });
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

fn check(index: usize, bytes: &[u8], possible: &Set) -> u32 {
    let writing = writing_of(bytes, index as u64);
    match writing {
        Some(writing) if possible.contains(&writing) => writing,
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
