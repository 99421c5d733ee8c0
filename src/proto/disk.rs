//! Block requests, in the words that the kernel-facing devices and the SCSI side share.
//!
//! Ownership: a [`Request`] carries the buffer of its tag. The buffer moves with it to the session
//! and comes back in the [`Completion`], read data in it. Every request is completed exactly once.

use std::fmt;

/// The block device's name for a request; unique among the requests that are not yet completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(pub u16);

/// What the block layer asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Fill the buffer from the disk.
    Read,
    /// Write the buffer to the disk; with `fua`, onto stable storage before it completes.
    Write {
        /// Force unit access.
        fua: bool,
    },
    /// Make every completed write stable. Start and length are zero.
    Flush,
    /// The blocks are no longer needed; their content becomes undefined.
    Discard,
    /// The blocks read as zero from now on; with `no_unmap` they must stay allocated.
    WriteZeroes {
        /// Unmapping the blocks is not allowed.
        no_unmap: bool,
        /// Force unit access.
        fua: bool,
    },
}

/// One request of the block layer.
pub struct Request {
    /// Whose request this is; its completion carries the same tag.
    pub tag: Tag,
    /// What to do.
    pub op: Op,
    /// First sector, in units of 512 bytes whatever the logical block is.
    pub start_sector: u64,
    /// Length in units of 512 bytes; 0 for [`Op::Flush`].
    pub sectors: u32,
    /// The tag's buffer. For reads and writes its first `sectors * 512` bytes are the data; the
    /// device never hands out a request that is longer than its buffer.
    pub buffer: Buffer,
}

/// The memory of one tag: allocated before the device goes live, and never again.
pub type Buffer = Box<[u8]>;

/// The end of one request.
pub struct Completion {
    /// The tag of the request.
    pub tag: Tag,
    /// Done in full, or why not.
    pub result: Result<(), Error>,
    /// The buffer of the request, holding the data if it was a successful read.
    pub buffer: Buffer,
}

/// Why a request failed for good. Never caused by the network: that is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The medium cannot deliver or take these blocks (SCSI medium or hardware error).
    Medium,
    /// The logical unit is write-protected.
    ReadOnly,
    /// The request lies outside the disk.
    OutOfRange,
    /// There is no space left on a thinly provisioned unit.
    NoSpace,
    /// The target does not know the command.
    Unsupported,
    /// Another initiator holds a reservation.
    Reservation,
    /// The patience that was configured is over, or the device is being stopped.
    GivenUp,
    /// Anything else; the log line has sense key, ASC and ASCQ.
    Io,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Error::Medium => "medium error",
            Error::ReadOnly => "the logical unit is write-protected",
            Error::OutOfRange => "outside the disk",
            Error::NoSpace => "no space left on the thinly provisioned unit",
            Error::Unsupported => "not supported by the target",
            Error::Reservation => "reserved by another initiator",
            Error::GivenUp => "given up",
            Error::Io => "I/O error",
        })
    }
}

impl std::error::Error for Error {}

/// Size and limits of the logical unit, as its target states them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes of a logical block: a power of two from 512 to 4096 (READ CAPACITY, SBC-4 §5.20).
    pub logical_block_bytes: u32,
    /// Bytes of a physical block: a power of two, at least `logical_block_bytes`.
    pub physical_block_bytes: u32,
    /// What transfers should be multiples of, in bytes: a power of two, at least
    /// `physical_block_bytes` (VPD B0h, OPTIMAL TRANSFER LENGTH GRANULARITY).
    pub granularity_bytes: u32,
    /// Number of logical blocks.
    pub blocks: u64,
    /// Writes are refused (mode parameter header, WP).
    pub read_only: bool,
    /// There is a volatile write cache, so flushes matter (caching mode page, WCE).
    pub write_cache: bool,
    /// Writes can be forced through the cache (mode parameter header, DPOFUA).
    pub fua: bool,
    /// Seeks cost time (VPD B1h, MEDIUM ROTATION RATE other than 1).
    pub rotational: bool,
    /// Longest READ or WRITE in bytes (VPD B0h, bounded by us).
    pub transfer_bytes_max: u32,
    /// UNMAP works: its limits.
    pub unmap: Option<UnmapLimits>,
    /// Longest WRITE SAME(16) of zeroes, in bytes; 0 if the target does not know the command.
    pub write_zeroes_bytes_max: u64,
}

impl Geometry {
    /// Size of the disk in units of 512 bytes.
    pub fn sectors(&self) -> u64 {
        self.blocks * u64::from(self.logical_block_bytes / 512)
    }
}

/// Limits of UNMAP (VPD B0h, SBC-4 §6.6.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnmapLimits {
    /// Most bytes of one block descriptor.
    pub bytes_max: u64,
    /// OPTIMAL UNMAP GRANULARITY in bytes, at least one logical block.
    pub granularity_bytes: u32,
}
