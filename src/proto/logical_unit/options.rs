//! What of a logical unit does not follow from its store, and which stores cannot be one.

use std::fmt;

/// What does not follow from the store.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Bytes of a logical block: 512 or 4096.
    pub logical_block_bytes: u32,
    /// Bytes of a physical block: a power of two, not below the logical block. By default both are
    /// the same, for a block can be written here without its neighbours; what keeps partitions and
    /// file systems aligned is the granularity of transfers,
    /// [`PAGE_BYTES`](super::PAGE_BYTES) at least.
    pub physical_block_bytes: u32,
    /// Refuse writes even if the store takes them.
    pub read_only: bool,
    /// The medium can be ejected, and loaded again.
    pub removable: bool,
    /// SANITIZE is known, if writes are not refused.
    pub sanitize: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            logical_block_bytes: 512,
            physical_block_bytes: 512,
            read_only: false,
            removable: false,
            sanitize: false,
        }
    }
}

/// Why a store cannot be a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// The block sizes are none that a disk can have here.
    BlockSize {
        /// Logical, in bytes.
        logical: u32,
        /// Physical, in bytes.
        physical: u32,
    },
    /// The store holds no block, or not a whole number of them.
    Size {
        /// Of the store, in bytes.
        size_bytes: u64,
        /// Of a logical block, in bytes.
        block_bytes: u32,
    },
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unfit::BlockSize { logical, physical } => write!(
                f,
                "block sizes of {logical} bytes logical and {physical} bytes physical: logical \
                 must be 512 or 4096, physical a power of two and not smaller"
            ),
            Unfit::Size { size_bytes: 0, .. } => f.write_str("it is empty"),
            Unfit::Size { size_bytes, block_bytes } => write!(
                f,
                "its size of {size_bytes} bytes is not a multiple of the block size of \
                 {block_bytes} bytes: extend it to {} bytes",
                size_bytes.next_multiple_of(u64::from(*block_bytes))
            ),
        }
    }
}

impl std::error::Error for Unfit {}
