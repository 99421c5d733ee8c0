//! A queue of a ublk device: its character device, its descriptors, and where the buffer of each
//! tag is.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;
use std::time::Instant;

use log::warn;
use rustix::fs::{Mode, OFlags};
use rustix::mm::{MapFlags, ProtFlags};

use super::control::Control;
use super::failed;
use crate::block::OpenError;
use crate::block::uring::Ring;
use crate::proto::disk::Buffer;
use crate::wire::ublk::{self as abi, DeviceInfo, IoCommand, IoDescriptor, Params};

/// One queue: its character device, its descriptors, its tags. More queues would be more of these,
/// each with a ring and a thread.
pub(super) struct Queue {
    id: u16,
    /// /dev/ublkcN and what it maps; `None` once the device is being deleted.
    file: Option<(File, Descriptors)>,
    pub(super) slots: Box<[Slot]>,
    /// How many slots are [`Slot::Kernel`].
    pub(super) in_kernel: usize,
}

/// Where the buffer of a tag is.
pub(super) enum Slot {
    /// Here, but its fetch command is with the kernel, which may write into it.
    Kernel(Buffer),
    /// In a request that was handed out; its success is to be reported with this number.
    Out { done_bytes: i32 },
    /// Here.
    Idle(Buffer),
}

/// A slot in the middle of a change.
pub(super) const OUT: Slot = Slot::Out { done_bytes: 0 };

impl Queue {
    /// Everything between ADD_DEV and START_DEV, and the submission of the latter.
    pub(super) fn prepare(
        ring: &mut Ring,
        control: &mut Control,
        mut params: [u8; Params::BYTES],
        info: &DeviceInfo,
        deadline: Instant,
    ) -> Result<Self, OpenError> {
        let id = info.device_id;
        control.run(ring, abi::SET_PARAMS, id, &mut params, deadline)?;
        let mut queue = Queue::open(info)?;
        queue.fetch_all(ring, control)?;
        let pid = u64::from(std::process::id());
        control.push(ring, abi::START_DEV, id, 0, pid).map_err(failed("START_DEV"))?;
        Ok(queue)
    }

    /// The character device, and a buffer for each tag.
    pub(super) fn open(info: &DeviceInfo) -> Result<Self, OpenError> {
        let id = info.device_id;
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let file = rustix::fs::open(format!("/dev/ublkc{id}"), flags, Mode::empty())
            .map_err(|error| failed("open /dev/ublkcN")(error.into()))?;
        let descriptors = Descriptors::map(file.as_fd(), info.queue_depth)
            .map_err(failed("mmap of /dev/ublkcN"))?;

        let depth = usize::from(info.queue_depth);
        let buffer = || Slot::Idle(vec![0; info.io_buffer_bytes_max as usize].into_boxed_slice());
        Ok(Queue {
            id: 0,
            file: Some((file.into(), descriptors)),
            slots: (0..depth).map(|_| buffer()).collect(),
            in_kernel: 0,
        })
    }

    /// Gives every tag to the kernel for the first time.
    pub(super) fn fetch_all(
        &mut self,
        ring: &mut Ring,
        control: &Control,
    ) -> Result<(), OpenError> {
        for tag in 0..self.slots.len() as u16 {
            self.fetch(ring, control, abi::FETCH_REQ, tag, 0).map_err(failed("FETCH_REQ"))?;
        }
        Ok(())
    }

    /// Gives a tag and its buffer to the kernel, with the result of the request before, if any.
    pub(super) fn fetch(
        &mut self,
        ring: &mut Ring,
        control: &Control,
        command: u32,
        tag: u16,
        result: i32,
    ) -> io::Result<()> {
        let slot = &mut self.slots[usize::from(tag)];
        let Some((file, _)) = &self.file else {
            // The device is gone, and with it whoever waited for this.
            return Ok(());
        };
        let Slot::Idle(mut buffer) = std::mem::replace(slot, OUT) else {
            return Err(io::Error::other(format!("ublk: tag {tag} has no buffer to fetch with")));
        };
        let address = buffer.as_mut_ptr() as u64;
        let body = IoCommand { queue_id: self.id, tag, result, address }.emit();
        *slot = Slot::Kernel(buffer);
        self.in_kernel += 1;
        // SAFETY: the buffer stays untouched in `Slot::Kernel` until this command's completion
        // has come; if we are dropped before, it is leaked.
        unsafe { ring.push(file.as_fd(), control.number(command), body, tag.into()) }
    }

    /// The request that the tag's completed fetch stands for.
    pub(super) fn descriptor(&mut self, tag: u16) -> IoDescriptor {
        let (_, descriptors) = self.file.as_ref().expect("a tag came back, so the device is open");
        let descriptor = descriptors.read(tag);
        // Flushes, discards and zeroes are done in full or not at all, and have no length.
        let has_data = matches!(descriptor.operation, abi::OP_READ | abi::OP_WRITE);
        let sectors = if has_data { descriptor.sectors } else { 0 };
        let done_bytes = i32::try_from(u64::from(sectors) * 512).unwrap_or(0);
        self.slots[usize::from(tag)] = Slot::Out { done_bytes };
        descriptor
    }

    pub(super) fn close(&mut self) {
        self.file = None;
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // Without a stop the driver may go on writing to buffers until it has noticed that we are
        // gone, which is after this. They are given up instead of freed.
        for slot in &mut self.slots {
            if let Slot::Kernel(buffer) = std::mem::replace(slot, OUT) {
                std::mem::forget(buffer);
            }
        }
    }
}

/// The descriptors of a queue: written by the driver, mapped read-only.
struct Descriptors {
    start: NonNull<u8>,
    length: usize,
    depth: u16,
}

impl Descriptors {
    fn map(file: BorrowedFd<'_>, depth: u16) -> io::Result<Self> {
        let length =
            (usize::from(depth) * IoDescriptor::BYTES).next_multiple_of(rustix::param::page_size());
        // SAFETY: a new mapping at an address that the kernel chooses.
        let start = unsafe {
            let flags = MapFlags::SHARED | MapFlags::POPULATE;
            rustix::mm::mmap(std::ptr::null_mut(), length, ProtFlags::READ, flags, file, 0)?
        };
        let start = NonNull::new(start.cast()).expect("mmap does not give address 0");
        Ok(Descriptors { start, length, depth })
    }

    /// Copies the descriptor of a tag whose fetch has completed; the driver has written it before.
    fn read(&self, tag: u16) -> IoDescriptor {
        assert!(tag < self.depth, "tags come from our own commands");
        // SAFETY: within the mapping, which holds `depth` descriptors; the read is volatile because
        // the driver will write here again with the next request of this tag.
        let bytes = unsafe {
            self.start
                .as_ptr()
                .add(usize::from(tag) * IoDescriptor::BYTES)
                .cast::<[u8; IoDescriptor::BYTES]>()
                .read_volatile()
        };
        IoDescriptor::parse(&bytes)
    }
}

impl Drop for Descriptors {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing refers into it: `read` copies.
        if let Err(error) = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.length) } {
            warn!("ublk: munmap: {error}");
        }
    }
}
