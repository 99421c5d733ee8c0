//! Writes that a loss of power leaves whole or undone, over a store that may leave half of them.
//!
//! Each goes to a journal first, and only when that is on stable storage to its place. When the
//! store is opened again, what the journal holds is written once more. The journal has room for one
//! write: before the next, and whenever all is made stable, the one that it holds is stable in its
//! place and is taken out. So nothing that was made stable later is ever written over.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Allocation, Store};

/// A store with a journal.
#[derive(Debug)]
pub struct Journaled<S> {
    store: S,
    journal: File,
    /// The journal holds a write that may not be stable in its place.
    holds: Mutex<bool>,
}

/// Longest write that the journal has room for, in bytes.
const BYTES_MAX: u32 = 1 << 20;

/// Where the data of the write begins in the journal, in bytes; its header comes first.
const DATA_AT: u64 = 4096;
const HEADER_BYTES: usize = 32;
const MAGIC: &[u8; 8] = b"LUNATOM1";

impl<S: Store> Journaled<S> {
    /// Opens the journal of a store, or makes one, and does again what it holds.
    pub fn open(store: S, path: &Path) -> io::Result<Journaled<S>> {
        let mut options = OpenOptions::new();
        // It holds what the disk holds.
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let journaled = Journaled { store, journal: options.open(path)?, holds: Mutex::new(false) };
        if let Some((offset, data)) = journaled.read()? {
            log::warn!("{} bytes at {offset} were being written: done again", data.len());
            journaled.store.write_at(&data, offset)?;
            journaled.store.flush()?;
            journaled.empty()?;
        }
        Ok(journaled)
    }

    /// The write that the journal holds, if it holds a whole one.
    fn read(&self) -> io::Result<Option<(u64, Vec<u8>)>> {
        let mut header = [0; HEADER_BYTES];
        match self.journal.read_exact_at(&mut header, 0) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
        let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| header[at + byte]));
        let (offset, length, digest) = (number(8), number(16), number(24));
        let end = offset.checked_add(length);
        let fits = end.is_some_and(|end| end <= self.store.size_bytes());
        if !header.starts_with(MAGIC) || length > u64::from(BYTES_MAX) || !fits {
            return Ok(None);
        }
        let mut data = vec![0; length as usize];
        match self.journal.read_exact_at(&mut data, DATA_AT) {
            Ok(()) if u64::from(checksum(offset, &data)) == digest => Ok(Some((offset, data))),
            Ok(()) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn fill(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(MAGIC);
        let numbers = [offset, data.len() as u64, u64::from(checksum(offset, data))];
        for (place, number) in header[8..].chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        self.journal.write_all_at(data, DATA_AT)?;
        self.journal.write_all_at(&header, 0)?;
        self.journal.sync_data()
    }

    /// Nothing of what it held stays behind: the disk may be one that is being sanitized.
    fn empty(&self) -> io::Result<()> {
        self.journal.set_len(0)?;
        self.journal.sync_data()
    }

    fn holds(&self) -> MutexGuard<'_, bool> {
        self.holds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn checksum(offset: u64, data: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&offset.to_le_bytes()), data)
}

impl<S: Store> Store for Journaled<S> {
    fn size_bytes(&self) -> u64 {
        self.store.size_bytes()
    }

    fn is_read_only(&self) -> bool {
        self.store.is_read_only()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.store.read_at(buffer, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.store.write_at(data, offset)
    }

    fn flush(&self) -> io::Result<()> {
        let mut holds = self.holds();
        if !*holds {
            drop(holds);
            return self.store.flush();
        }
        self.store.flush()?;
        self.empty()?;
        *holds = false;
        Ok(())
    }

    fn prefetch(&self, offset: u64, length: u64) {
        self.store.prefetch(offset, length);
    }

    fn can_discard(&self) -> bool {
        self.store.can_discard()
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        self.store.discard(offset, length)
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        self.store.write_zeroes(offset, length)
    }

    fn allocation(&self, offset: u64) -> io::Result<Allocation> {
        self.store.allocation(offset)
    }

    fn atomic_bytes_max(&self) -> u32 {
        BYTES_MAX
    }

    fn write_atomically(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let mut holds = self.holds();
        if *holds {
            // The next one takes its place.
            self.store.flush()?;
        }
        *holds = true;
        self.fill(data, offset)?;
        self.store.write_at(data, offset)
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::MemoryStore;
    use super::*;

    fn new(path: &Path) -> Journaled<MemoryStore> {
        Journaled::open(MemoryStore::with_volatile_cache(1 << 16), path).unwrap()
    }

    fn again(journaled: Journaled<MemoryStore>, path: &Path) -> Journaled<MemoryStore> {
        Journaled::open(journaled.store, path).unwrap()
    }

    fn content(store: &impl Store, offset: u64) -> [u8; 16] {
        let mut content = [0; 16];
        store.read_at(&mut content, offset).unwrap();
        content
    }

    #[test]
    fn a_write_that_was_torn_is_done_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let journaled = new(&path);
        journaled.write_atomically(&[7; 16], 4096).unwrap();
        // Half of it was lost with the power.
        journaled.store.write_at(&[0; 8], 4104).unwrap();
        let journaled = again(journaled, &path);
        assert_eq!(content(&journaled, 4096), [7; 16]);
        // And then it is over.
        journaled.write_at(&[9; 16], 4096).unwrap();
        assert_eq!(content(&again(journaled, &path), 4096), [9; 16]);
    }

    #[test]
    fn what_was_made_stable_later_is_not_written_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let journaled = new(&path);
        journaled.write_atomically(&[7; 16], 4096).unwrap();
        journaled.write_at(&[9; 16], 4096).unwrap();
        journaled.flush().unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 0, "nothing stays behind");
        assert_eq!(content(&again(journaled, &path), 4096), [9; 16]);
    }

    #[test]
    fn a_journal_that_was_cut_or_damaged_holds_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let mut journaled = new(&path);
        journaled.write_atomically(&[7; 16], 4096).unwrap();
        let whole = std::fs::read(&path).unwrap();
        journaled.store.write_at(&[1; 16], 4096).unwrap();
        let cut = (0..whole.len()).step_by(7).map(|length| whole[..length].to_vec());
        let damaged = (0..HEADER_BYTES).chain(DATA_AT as usize..whole.len()).map(|at| {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            damaged
        });
        for text in cut.chain(damaged) {
            std::fs::write(&path, &text).unwrap();
            journaled = again(journaled, &path);
            assert_eq!(content(&journaled, 4096), [1; 16]);
        }
        std::fs::write(&path, &whole).unwrap();
        assert_eq!(content(&again(journaled, &path), 4096), [7; 16]);
    }

    #[test]
    fn one_follows_the_other() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let journaled = new(&path);
        journaled.write_atomically(&[1; 16], 0).unwrap();
        journaled.write_atomically(&[2; 16], 4096).unwrap();
        journaled.store.lose_cache(|| false);
        let journaled = again(journaled, &path);
        assert_eq!((content(&journaled, 0), content(&journaled, 4096)), ([1; 16], [2; 16]));
    }
}
