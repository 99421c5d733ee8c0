//! Floor 2: where the target keeps the blocks of a logical unit.

use std::fmt;
use std::io;

pub mod file;
pub mod journal;
pub mod memory;
pub mod record;

/// The bytes behind a logical unit.
///
/// Calls are synchronous and may come from several threads at once. Offsets and lengths are bytes
/// and inside [`Store::size_bytes`]: the logical unit has checked them.
pub trait Store: Send + Sync + fmt::Debug {
    /// Size in bytes; fixed for the life of the store.
    fn size_bytes(&self) -> u64;

    /// Writes are refused by the store itself.
    fn is_read_only(&self) -> bool;

    /// Fills `buffer` from `offset`.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes `data` at `offset`; it may stay in a volatile cache.
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()>;

    /// Returns when every write that has returned is on stable storage.
    fn flush(&self) -> io::Result<()>;

    /// Reads ahead: a hint, which may come to nothing.
    fn prefetch(&self, offset: u64, length: u64);

    /// Whether [`Store::discard`] frees anything, in little time. If not, it still makes zeroes.
    fn can_discard(&self) -> bool;

    /// Frees the range; it reads as zeroes afterwards.
    fn discard(&self, offset: u64, length: u64) -> io::Result<()>;

    /// Makes the range read as zeroes and keeps it allocated.
    fn write_zeroes(&self, offset: u64, length: u64) -> io::Result<()>;

    /// Whether the byte at `offset` has a place on the medium, and how far the same is true.
    fn allocation(&self, offset: u64) -> io::Result<Allocation>;

    /// Longest [`Store::write_atomically`] in bytes; 0 if there is none.
    fn atomic_bytes_max(&self) -> u32 {
        0
    }

    /// Writes as [`Store::write_at`] does; whatever happens, later all of it is there or nothing.
    fn write_atomically(&self, _data: &[u8], _offset: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// A range of a store of which all has a place on the medium, or nothing has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// It has; otherwise it reads as zeroes.
    pub mapped: bool,
    /// First byte behind it.
    pub end: u64,
}

/// A text that is kept beside a disk: the little of its state that has to survive a restart.
pub trait Record: Send + Sync + fmt::Debug {
    /// Puts a text in the place of the one before, all of it or nothing. Returns when that is on
    /// stable storage; logs the reason if it fails.
    fn replace(&self, text: &str) -> io::Result<()>;
}
