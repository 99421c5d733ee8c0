//! Floor 2: the block devices that the kernel sees.
//!
//! The storage daemon feeds one of them without knowing which: [`BlockDevice`] is ublk, NBD, or a
//! device in memory in the tests.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

use crate::proto::disk::{Completion, Error, Request};

pub mod nbd;
pub mod ublk;
mod uring;

/// A block device whose requests we serve.
///
/// The daemon polls [`BlockDevice::fd`] for reading; when it is readable, or after any other event,
/// it drains [`BlockDevice::poll_request`], hands in completions, and ends each turn of its loop
/// with one [`BlockDevice::submit`]. No call blocks.
pub trait BlockDevice {
    /// Readable when [`BlockDevice::poll_request`] may have something new.
    fn fd(&self) -> BorrowedFd<'_>;

    /// The next request of the kernel, or `None` until `fd` is readable again.
    fn poll_request(&mut self) -> io::Result<Option<Request>>;

    /// Ends a request. The answer goes out with the next [`BlockDevice::submit`] at the latest.
    fn complete(&mut self, completion: Completion) -> io::Result<()>;

    /// Hands everything that was queued to the kernel: one system call for a turn of the loop, and
    /// none if nothing was queued.
    fn submit(&mut self) -> io::Result<()>;

    /// Where the device is, once the kernel has made it: `/dev/ublkb0`, `/dev/nbd0`.
    ///
    /// A device becomes live while its requests are being served, not before: making it may itself
    /// read from it (the kernel's partition scan).
    fn path(&self) -> Option<&Path>;

    /// Begins to take the device away. Requests go on coming until [`BlockDevice::is_stopped`].
    fn stop(&mut self) -> io::Result<()>;

    /// The kernel has let go of the device and nothing of it is left.
    fn is_stopped(&self) -> bool;
}

/// The errno that the block layer gets for a failed request.
pub(crate) fn errno(error: Error) -> rustix::io::Errno {
    use rustix::io::Errno;
    match error {
        // What the SCSI mid-layer answers for the same conditions, so that file systems act alike.
        Error::Medium => Errno::NODATA,
        Error::ReadOnly => Errno::ROFS,
        Error::NoSpace => Errno::NOSPC,
        Error::Unsupported => Errno::OPNOTSUPP,
        Error::Reservation => Errno::BADE,
        Error::OutOfRange | Error::GivenUp | Error::Io => Errno::IO,
    }
}
