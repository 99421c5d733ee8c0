//! The ring of one I/O thread: device commands over io_uring, nothing else.
//!
//! A thin layer over the `io-uring` crate. All entries have 128 bytes, because ublk's control
//! commands need them; so one ring, and one descriptor to poll, serves control and data.
//!
//! The ring is made with `COOP_TASKRUN`: completions are made by this thread itself whenever it
//! enters the kernel, whichever call that is. A thread that sleeps in poll(2) on the ring wakes up,
//! does the work, and finds the ring readable: no extra io_uring_enter per request as
//! `DEFER_TASKRUN` would need, and no interrupt of running code.
//!
//! Contract: `user_data` belongs to the caller. Memory that a command points to belongs to the
//! kernel from `push` to the completion with the same `user_data`.

#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::time::Instant;

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{CWD, OFlags};
use rustix::io::Errno;
use rustix::time::Timespec;

/// The ring of one thread.
pub(crate) struct Ring {
    ring: IoUring<squeue::Entry128, cqueue::Entry>,
    /// Commands that the kernel has not been told of yet.
    queued: usize,
}

/// The end of a command.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Completed {
    /// What the command was pushed with.
    pub(crate) user_data: u64,
    /// Its result, or a negative error number.
    pub(crate) result: i32,
}

impl Ring {
    /// Makes a ring for the calling thread, with room for `entries` commands at a time.
    pub(crate) fn new(entries: u32) -> io::Result<Self> {
        let ring = IoUring::builder().setup_coop_taskrun().setup_single_issuer().build(entries)?;
        Ok(Ring { ring, queued: 0 })
    }

    /// Readable when there are completions.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor belongs to `self.ring`, which lives as long as the borrow.
        unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) }
    }

    /// Queues a command of the driver behind `file`.
    ///
    /// # Safety
    ///
    /// Memory that `command` holds the address of must stay in place, and be used by nobody else,
    /// until the completion with `user_data` has been taken from [`Ring::pop`]. `file` may be
    /// closed once the command was submitted.
    pub(crate) unsafe fn push(
        &mut self,
        file: BorrowedFd<'_>,
        operation: u32,
        command: [u8; 80],
        user_data: u64,
    ) -> io::Result<()> {
        let entry = opcode::UringCmd80::new(types::Fd(file.as_raw_fd()), operation)
            .cmd(command)
            .build()
            .user_data(user_data);
        // SAFETY: the caller vouches for the memory.
        unsafe { self.push_entry(entry) }
    }

    /// Queues the opening of a file for reading, by a worker of the kernel. The result is the
    /// descriptor.
    pub(crate) fn push_open(&mut self, path: &'static CStr, user_data: u64) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let entry = opcode::OpenAt::new(types::Fd(CWD.as_raw_fd()), path.as_ptr())
            .flags(flags.bits() as i32)
            .build()
            .flags(squeue::Flags::ASYNC)
            .user_data(user_data);
        // SAFETY: the path lives for ever.
        unsafe { self.push_entry(entry.into()) }
    }

    /// Queues an fsync, by a worker of the kernel.
    pub(crate) fn push_fsync(&mut self, file: RawFd, user_data: u64) -> io::Result<()> {
        let entry = opcode::Fsync::new(types::Fd(file)).build().user_data(user_data);
        // SAFETY: the entry refers to no memory.
        unsafe { self.push_entry(entry.into()) }
    }

    /// Queues the closing of a descriptor that the caller owns, by a worker of the kernel.
    pub(crate) fn push_close(&mut self, file: RawFd, user_data: u64) -> io::Result<()> {
        let entry = opcode::Close::new(types::Fd(file)).build();
        let entry = entry.flags(squeue::Flags::ASYNC).user_data(user_data);
        // SAFETY: the entry refers to no memory.
        unsafe { self.push_entry(entry.into()) }
    }

    /// # Safety
    ///
    /// As for [`Ring::push`].
    unsafe fn push_entry(&mut self, entry: squeue::Entry128) -> io::Result<()> {
        // SAFETY: the caller vouches for the memory; the entry itself is copied.
        unsafe { self.ring.submission().push(&entry) }
            .map_err(|_| io::Error::other("io_uring: the submission queue is full"))?;
        self.queued += 1;
        Ok(())
    }

    /// Tells the kernel about everything that was queued; no system call if nothing was.
    pub(crate) fn submit(&mut self) -> io::Result<()> {
        while self.queued > 0 {
            match self.ring.submit() {
                Ok(taken) => self.queued -= taken.min(self.queued),
                // EINTR: a signal. EAGAIN: out of memory for a moment; the call itself waits for
                // memory, and leaving would strand the answers, as nothing else would wake us.
                Err(error) if is_transient(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes the next completion.
    pub(crate) fn pop(&mut self) -> Option<Completed> {
        let entry = self.ring.completion().next()?;
        Some(Completed { user_data: entry.user_data(), result: entry.result() })
    }

    /// Submits and waits until the ring is readable; false if `deadline` came first.
    pub(crate) fn wait(&mut self, deadline: Instant) -> io::Result<bool> {
        self.submit()?;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).map_err(io::Error::other)?;
            match poll(&mut [PollFd::from_borrowed_fd(self.fd(), PollFlags::IN)], Some(&left)) {
                Ok(ready) => return Ok(ready > 0),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::INTR | Errno::AGAIN))
}
