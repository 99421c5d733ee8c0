//! A store in memory, for tests: with a model of the volatile cache that a real disk has.
//!
//! What was written and not yet flushed may be lost, write by write, in
//! [`MemoryStore::lose_cache`], or block by block in [`MemoryStore::tear_cache`].

use std::fmt;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Allocation, Store};

/// A disk of bytes in memory.
pub struct MemoryStore {
    size_bytes: u64,
    state: Mutex<State>,
}

struct State {
    /// What reads see.
    current: Vec<u8>,
    /// What survives a loss of power, if that is being modelled.
    cache: Option<Cache>,
    flushes: u64,
    /// How often [`Store::prefetch`] was called.
    prefetches: u64,
    /// Of each sector, whether it was written since it was freed.
    mapped: Vec<bool>,
}

/// Bytes that are freed together.
const SECTOR_BYTES: usize = 512;

/// The stable content and every write since the last flush, in order.
struct Cache {
    stable: Vec<u8>,
    pending: Vec<(usize, Vec<u8>)>,
}

impl MemoryStore {
    /// A store of zeroes whose writes are never lost.
    pub fn new(size_bytes: u64) -> MemoryStore {
        MemoryStore::with_cache(size_bytes, None)
    }

    /// A store of zeroes that remembers which writes were not flushed.
    pub fn with_volatile_cache(size_bytes: u64) -> MemoryStore {
        let cache = Cache { stable: vec![0; size_bytes as usize], pending: Vec::new() };
        MemoryStore::with_cache(size_bytes, Some(cache))
    }

    fn with_cache(size_bytes: u64, cache: Option<Cache>) -> MemoryStore {
        let state = State {
            current: vec![0; size_bytes as usize],
            cache,
            flushes: 0,
            prefetches: 0,
            mapped: vec![false; (size_bytes as usize).div_ceil(SECTOR_BYTES)],
        };
        MemoryStore { size_bytes, state: Mutex::new(state) }
    }

    /// Loses power: of the writes since the last flush only those survive, in their order, for
    /// which `survives` says so. Without a modelled cache nothing is lost.
    pub fn lose_cache(&self, survives: impl FnMut() -> bool) {
        self.tear_cache(usize::MAX, survives);
    }

    /// The same for each block of such a write.
    pub fn tear_cache(&self, block_bytes: usize, mut survives: impl FnMut() -> bool) {
        let State { current, cache, .. } = &mut *self.lock();
        let Some(Cache { stable, pending }) = cache else { return };
        for (start, data) in pending.drain(..) {
            let mut at = start;
            for block in data.chunks(block_bytes) {
                if survives() {
                    stable[at..at + block.len()].copy_from_slice(block);
                }
                at += block.len();
            }
        }
        current.copy_from_slice(stable);
    }

    /// A copy of what reads see.
    pub fn contents(&self) -> Vec<u8> {
        self.lock().current.clone()
    }

    /// How often [`Store::flush`] was called.
    pub fn flushes(&self) -> u64 {
        self.lock().flushes
    }

    /// How often [`Store::prefetch`] was called.
    pub fn prefetches(&self) -> u64 {
        self.lock().prefetches
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic in a test must not hide behind a second one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The sectors that a range touches get a place.
    fn map(&mut self, start: usize, length: usize) {
        let end = (start + length).div_ceil(SECTOR_BYTES);
        self.mapped[start / SECTOR_BYTES..end].fill(true);
    }

    fn write(&mut self, start: usize, data: Vec<u8>) {
        self.map(start, data.len());
        self.current[start..start + data.len()].copy_from_slice(&data);
        if let Some(cache) = &mut self.cache {
            cache.pending.push((start, data));
        }
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").field("size_bytes", &self.size_bytes).finish_non_exhaustive()
    }
}

impl Store for MemoryStore {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let start = offset as usize;
        buffer.copy_from_slice(&self.lock().current[start..start + buffer.len()]);
        Ok(())
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.lock();
        if state.cache.is_some() {
            state.write(offset as usize, data.to_vec());
        } else {
            let start = offset as usize;
            state.map(start, data.len());
            state.current[start..start + data.len()].copy_from_slice(data);
        }
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        let mut state = self.lock();
        state.flushes += 1;
        if let Some(Cache { stable, pending }) = &mut state.cache {
            for (start, data) in pending.drain(..) {
                stable[start..start + data.len()].copy_from_slice(&data);
            }
        }
        Ok(())
    }

    fn prefetch(&self, _offset: u64, _length: u64) {
        self.lock().prefetches += 1;
    }

    fn can_discard(&self) -> bool {
        true
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        let mut state = self.lock();
        let mapped = state.mapped.clone();
        state.write(offset as usize, vec![0; length as usize]);
        // Sectors of which a part is freed stay what they were.
        state.mapped = mapped;
        let whole =
            (offset as usize).div_ceil(SECTOR_BYTES)..(offset + length) as usize / SECTOR_BYTES;
        state.mapped.get_mut(whole).unwrap_or_default().fill(false);
        Ok(())
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        self.lock().write(offset as usize, vec![0; length as usize]);
        Ok(())
    }

    fn allocation(&self, offset: u64) -> io::Result<Allocation> {
        let state = self.lock();
        let first = offset as usize / SECTOR_BYTES;
        let mapped = state.mapped[first];
        let same = state.mapped[first..].iter().take_while(|other| **other == mapped).count();
        let end = ((first + same) * SECTOR_BYTES) as u64;
        Ok(Allocation { mapped, end: end.min(self.size_bytes) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unflushed_writes_are_lost_and_flushed_ones_are_not() {
        let store = MemoryStore::with_volatile_cache(16);
        store.write_at(b"flushed.", 0).unwrap();
        store.flush().unwrap();
        store.write_at(b"lost", 0).unwrap();
        assert_eq!(store.contents()[..8], *b"losthed.");
        store.lose_cache(|| false);
        assert_eq!(store.contents()[..8], *b"flushed.");
        assert_eq!(store.flushes(), 1);
    }

    #[test]
    fn a_crash_may_keep_a_later_block_and_lose_an_earlier_one() {
        let store = MemoryStore::with_volatile_cache(8);
        store.write_at(b"aaaa", 0).unwrap();
        store.write_at(b"bbb", 3).unwrap();
        store.discard(0, 1).unwrap();
        let mut verdicts = [false, true, false, true, false].into_iter();
        store.tear_cache(2, || verdicts.next().unwrap());
        assert_eq!(store.contents(), b"\0\0aa\0b\0\0");
    }

    #[test]
    fn reads_see_what_was_written() {
        let store = MemoryStore::new(8);
        store.write_at(b"abcd", 2).unwrap();
        store.write_zeroes(3, 2).unwrap();
        let mut buffer = [0xff; 4];
        store.read_at(&mut buffer, 2).unwrap();
        assert_eq!(buffer, *b"a\0\0d");
    }
}
