//! What a session has written, and how much of it may still be in a cache: said when it ends,
//! because then nobody will flush it any more.

use std::fmt;

use crate::wire::scsi::{Cdb, Lun};

/// The writes of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// WRITE, UNMAP and their like that were carried out.
    pub writes: u64,
    /// SYNCHRONIZE CACHE that was carried out.
    pub flushes: u64,
    /// Those of the writes that no flush came after: of each logical unit.
    unflushed: Vec<(Lun, u64)>,
}

impl Written {
    /// A command was carried out, on a unit that has a volatile cache in use or not.
    pub(super) fn note(&mut self, lun: Lun, cdb: &[u8; 16], cached: bool) {
        let is_stable = match Cdb::parse(cdb) {
            Cdb::SynchronizeCache { .. } => {
                self.flushes += 1;
                return self.unflushed.retain(|(of, _)| *of != lun);
            }
            Cdb::Write { flags, .. }
            | Cdb::WriteAtomic { flags, .. }
            | Cdb::OrWrite { flags, .. }
            | Cdb::CompareAndWrite { flags, .. } => flags.fua,
            Cdb::WriteAndVerify { .. } => true,
            Cdb::WriteSame { .. } | Cdb::Unmap { .. } => false,
            _ => return,
        };
        self.writes += 1;
        if is_stable || !cached {
            return;
        }
        match self.unflushed.iter_mut().find(|(of, _)| *of == lun) {
            Some((_, count)) => *count += 1,
            None => self.unflushed.push((lun, 1)),
        }
    }

    /// Writes of which the initiator does not know that they are stable.
    fn unflushed(&self) -> u64 {
        self.unflushed.iter().map(|(_, count)| count).sum()
    }
}

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.writes, self.unflushed()) {
            (writes, 0) => write!(f, "{writes} writes, all flushed"),
            (writes, unflushed) => write!(f, "{writes} writes, the last {unflushed} not flushed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::scsi::{CdbSize, TransferFlags};

    fn write(fua: bool) -> [u8; 16] {
        let flags = TransferFlags { fua, ..TransferFlags::default() };
        Cdb::Write { size: CdbSize::Sixteen, lba: 0, blocks: 1, flags }.emit()
    }

    #[test]
    fn a_flush_covers_what_came_before_it_on_its_unit() {
        let flush =
            Cdb::SynchronizeCache { size: CdbSize::Ten, lba: 0, blocks: 0, immediate: false };
        let (flush, one, two) = (flush.emit(), Lun::from_number(0), Lun::from_number(1));
        let mut written = Written::default();
        written.note(one, &Cdb::TestUnitReady.emit(), true);
        assert_eq!(written.writes, 0);
        written.note(one, &write(false), true);
        written.note(one, &write(false), true);
        written.note(two, &write(false), true);
        assert_eq!(written.to_string(), "3 writes, the last 3 not flushed");
        written.note(one, &flush, true);
        assert_eq!(written.to_string(), "3 writes, the last 1 not flushed");
        written.note(two, &flush, true);
        // Stable by themselves.
        written.note(one, &write(true), true);
        written.note(one, &write(false), false);
        assert_eq!(written.to_string(), "5 writes, all flushed");
        assert_eq!(written.flushes, 2);
    }
}
