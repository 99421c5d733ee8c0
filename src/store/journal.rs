//! Writes that a loss of power leaves whole or undone, over a store that may leave half of them.
//!
//! Each goes to a journal first, and only when that is on stable storage to its place. The journal
//! has room for one write: before the next, before any other write to the same place, and whenever
//! all is made stable, the one that it holds is stable in its place and is taken out.
//!
//! When the store is opened again, a write that the journal holds is compared with its place. If
//! some sectors there are those of the write and all others those from before it, it was torn and
//! is done again. Nothing else is ever written over: what is newer than the journal, a disk that
//! was restored or changed meanwhile, stays as it is.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Allocation, Store};

/// A store with a journal.
#[derive(Debug)]
pub struct Journaled<S> {
    store: S,
    journal: File,
    path: PathBuf,
    held: Mutex<Held>,
}

/// What the journal holds.
#[derive(Debug, Default)]
struct Held {
    /// Where a write was made that may not be stable there, in bytes.
    range: Option<Range<u64>>,
    /// Writes that it has held.
    count: u64,
}

/// Why a journal cannot be used.
#[derive(Debug)]
pub enum JournalError {
    /// It cannot be opened, read or written, or the store cannot.
    Io(io::Error),
    /// Nothing that a journal of this store could hold.
    Foreign(&'static str),
    /// It holds a write whose place has been written to by somebody else.
    Changed {
        /// Where, in bytes.
        offset: u64,
        /// Its length.
        bytes: usize,
    },
}

/// A write as the journal holds it.
struct Entry {
    offset: u64,
    /// Of each sector before the write.
    checksums: Vec<u32>,
    data: Vec<u8>,
}

/// Longest write that the journal has room for, in bytes.
const BYTES_MAX: u32 = 1 << 20;
/// What a loss of power leaves whole or undone in any case, in bytes.
const SECTOR_BYTES: usize = 512;

/// Where checksums and data of the write begin in the journal, in bytes; the header comes first.
const BODY_AT: u64 = 4096;
const HEADER_BYTES: usize = 32;
const MAGIC: &[u8; 8] = b"LUNATOMW";

impl<S: Store> Journaled<S> {
    /// Opens the journal of a store, or makes one, and does again what it holds of a torn write.
    pub fn open(store: S, path: &Path) -> Result<Journaled<S>, JournalError> {
        let mut options = OpenOptions::new();
        // It holds what the disk holds.
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let journal = options.open(path)?;
        if !journal.metadata()?.is_file() {
            return Err(JournalError::Foreign("it is not a regular file"));
        }
        // A new name is on stable storage only with its directory.
        File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()?;
        let (path, held) = (path.to_owned(), Mutex::default());
        let journaled = Journaled { store, journal, path, held };
        if let Some(entry) = journaled.read()? {
            journaled.complete(&entry)?;
        }
        journaled.empty()?;
        Ok(journaled)
    }

    /// The write that the journal holds, if it holds a whole one: of another the place was not
    /// touched.
    fn read(&self) -> Result<Option<Entry>, JournalError> {
        let mut header = [0; HEADER_BYTES];
        let present = self.journal.metadata()?.len().min(HEADER_BYTES as u64) as usize;
        self.journal.read_exact_at(&mut header[..present], 0)?;
        if header == [0; HEADER_BYTES] {
            return Ok(None);
        }
        let Some((offset, length, digest)) = parse_header(&header) else {
            return Err(JournalError::Foreign("it does not begin as one"));
        };
        let end = offset.checked_add(length);
        let fits = end.is_some_and(|end| end <= self.store.size_bytes());
        if length > u64::from(BYTES_MAX) || !fits {
            return Err(JournalError::Foreign("what it holds does not fit the disk"));
        }
        let sectors = (length as usize).div_ceil(SECTOR_BYTES);
        let mut body = vec![0; sectors * 4 + length as usize];
        match self.journal.read_exact_at(&mut body, BODY_AT) {
            Ok(()) if crc32c::crc32c(&body) == digest => {}
            Ok(()) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let data = body.split_off(sectors * 4);
        let checksums = body.chunks_exact(4).map(|four| le32(four, 0)).collect();
        Ok(Some(Entry { offset, checksums, data }))
    }

    /// Completes a write of which a part is in its place.
    fn complete(&self, entry: &Entry) -> Result<(), JournalError> {
        let Entry { offset, checksums, data } = entry;
        let mut stored = vec![0; data.len()];
        self.store.read_at(&mut stored, *offset)?;
        let (mut whole, mut undone) = (true, true);
        let sectors = stored.chunks(SECTOR_BYTES).zip(data.chunks(SECTOR_BYTES)).zip(checksums);
        for ((stored, written), before) in sectors {
            let is_written = stored == written;
            let is_before = crc32c::crc32c(stored) == *before;
            if !is_written && !is_before {
                return Err(JournalError::Changed { offset: *offset, bytes: data.len() });
            }
            whole &= is_written;
            undone &= is_before;
        }
        if !whole && !undone {
            log::warn!("{} bytes at {offset} were written in part: done again", data.len());
            self.store.write_at(data, *offset)?;
            self.store.flush()?;
        }
        Ok(())
    }

    fn fill(&self, entry: &Entry) -> io::Result<()> {
        let Entry { offset, checksums, data } = entry;
        let checksums = checksums.iter().flat_map(|checksum| checksum.to_le_bytes());
        let body: Vec<u8> = checksums.chain(data.iter().copied()).collect();
        self.journal.write_all_at(&body, BODY_AT)?;
        let header = emit_header(*offset, data.len() as u64, crc32c::crc32c(&body));
        self.journal.write_all_at(&header, 0)?;
        self.journal.sync_data()
    }

    /// Nothing of what it held stays behind: the disk may be one that is being sanitized.
    fn empty(&self) -> io::Result<()> {
        self.journal.set_len(0).and_then(|()| self.journal.sync_data()).map_err(self.logged())
    }

    /// Takes out what the journal holds, which becomes stable in its place.
    fn release(&self, held: &mut Held) -> io::Result<()> {
        self.store.flush()?;
        if held.range.is_some() {
            self.empty()?;
            held.range = None;
        }
        Ok(())
    }

    /// The same if it lies where something else is to be written, which is newer and must not be
    /// written over.
    fn give_way(&self, offset: u64, length: u64) -> io::Result<()> {
        let mut held = self.held();
        let end = offset.saturating_add(length);
        let overlaps = |range: &Range<u64>| range.start < end && offset < range.end;
        if held.range.as_ref().is_some_and(overlaps) { self.release(&mut held) } else { Ok(()) }
    }

    /// Puts back what was there before a write that the store has refused, perhaps after a part.
    /// Sectors that it has not reached stay untouched: there may be no room for them.
    fn undo(&self, before: &[u8], offset: u64) -> io::Result<()> {
        let mut stored = vec![0; before.len()];
        self.store.read_at(&mut stored, offset)?;
        let sectors = before.chunks(SECTOR_BYTES).zip(stored.chunks(SECTOR_BYTES));
        for (number, (before, stored)) in sectors.enumerate() {
            if before != stored {
                self.store.write_at(before, offset + (number * SECTOR_BYTES) as u64)?;
            }
        }
        Ok(())
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says in the log what the SCSI answer cannot: that it was the journal, and why.
    fn logged(&self) -> impl Fn(io::Error) -> io::Error + '_ {
        |error| {
            log::error!("write the journal {}: {error}", self.path.display());
            error
        }
    }
}

/// Offset, length and digest of the write, or `None` if this is no header.
fn parse_header(header: &[u8; HEADER_BYTES]) -> Option<(u64, u64, u32)> {
    let is_header = header.starts_with(MAGIC) && le32(header, 28) == crc32c::crc32c(&header[..28]);
    let number = |at| u64::from(le32(header, at)) | u64::from(le32(header, at + 4)) << 32;
    is_header.then(|| (number(8), number(16), le32(header, 24)))
}

fn emit_header(offset: u64, length: u64, digest: u32) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(MAGIC);
    header[8..16].copy_from_slice(&offset.to_le_bytes());
    header[16..24].copy_from_slice(&length.to_le_bytes());
    header[24..28].copy_from_slice(&digest.to_le_bytes());
    let checksum = crc32c::crc32c(&header[..28]);
    header[28..].copy_from_slice(&checksum.to_le_bytes());
    header
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|byte| bytes[at + byte]))
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
        self.give_way(offset, data.len() as u64)?;
        self.store.write_at(data, offset)
    }

    fn flush(&self) -> io::Result<()> {
        // Writes only ask what the journal holds, and need not wait until all is stable.
        let before = self.held().count;
        self.store.flush()?;
        let mut held = self.held();
        if held.range.is_some() && held.count == before {
            self.empty()?;
            held.range = None;
        }
        Ok(())
    }

    fn prefetch(&self, offset: u64, length: u64) {
        self.store.prefetch(offset, length);
    }

    fn can_discard(&self) -> bool {
        self.store.can_discard()
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        self.give_way(offset, length)?;
        self.store.discard(offset, length)
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        self.give_way(offset, length)?;
        self.store.write_zeroes(offset, length)
    }

    fn allocation(&self, offset: u64) -> io::Result<Allocation> {
        self.store.allocation(offset)
    }

    fn atomic_bytes_max(&self) -> u32 {
        BYTES_MAX
    }

    fn write_atomically(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let mut held = self.held();
        // What was there before must be stable too, for a torn write is recognised by it.
        self.release(&mut held)?;
        let mut before = vec![0; data.len()];
        self.store.read_at(&mut before, offset)?;
        let checksums = before.chunks(SECTOR_BYTES).map(crc32c::crc32c).collect();
        let entry = Entry { offset, checksums, data: data.to_vec() };
        *held = Held { range: Some(offset..offset + data.len() as u64), count: held.count + 1 };
        let written = match self.fill(&entry).map_err(self.logged()) {
            Ok(()) => self.store.write_at(data, offset),
            Err(error) => Err(error),
        };
        written.inspect_err(|_| {
            // What fails now is in the log, and the journal keeps the write for a later attempt.
            let _ = self.undo(&before, offset).and_then(|()| self.release(&mut held));
        })
    }
}

impl From<io::Error> for JournalError {
    fn from(error: io::Error) -> JournalError {
        JournalError::Io(error)
    }
}

impl fmt::Display for JournalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JournalError::Io(error) => error.fmt(f),
            JournalError::Foreign(reason) => {
                write!(f, "is no journal of this disk: {reason}; remove the file, and check the ")?;
                f.write_str("disk if an atomic write was under way when its target stopped")
            }
            JournalError::Changed { offset, bytes } => {
                write!(f, "holds a write of {bytes} bytes at byte {offset}, where something was ")?;
                f.write_str("written since by another program; remove the file to keep that")
            }
        }
    }
}

impl std::error::Error for JournalError {}

#[cfg(test)]
mod tests;
