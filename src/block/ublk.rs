//! ublk: the kernel hands us the requests of /dev/ublkbN as completions of io_uring commands.
//!
//! Data mode is COPY (since 6.0): a tag's buffer is the memory that the driver copies to and from.
//! While a tag's fetch command is with the kernel, its slot owns the buffer and the driver may
//! write into it; when the command completes, the buffer moves out in the [`Request`]; it comes
//! back in the [`Completion`] and its address goes to the kernel with the next fetch. Where a
//! buffer is, is the variant of [`Slot`], so nobody can touch one that the driver may write to.
//!
//! One thread, one ring: the thread that opens the device serves it (before 6.16 the driver
//! insists). Control commands that may sleep are carried out by the kernel's own workers. START_DEV
//! is only submitted by [`Ublk::open`], because in kernels before 7.0 it reads partition tables
//! from the new disk, that is from us; its answer is met in [`Ublk::poll_request`].
//!
//! The device is made so that another process can take it over when this one dies
//! (`UBLK_F_USER_RECOVERY_REISSUE`, [`Ublk::recover`]): the kernel sends it again what the dead one
//! had not answered. The interface is described in `linux/ublk_cmd.h` and in the kernel's
//! `Documentation/block/ublk.rst`.

use std::ffi::CString;
use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use log::{debug, error, warn};

use control::{CONTROL, Control, is_unknown};
use queue::{OUT, Queue, Slot};

use super::uring::{Completed, Ring};
use super::{BlockDevice, OpenError, check, errno, request_bytes_max};
use crate::proto::disk::{Buffer, Completion, Error, Geometry, Op, Request, Tag};
use crate::wire::ublk::{self as abi, DeviceInfo, IoDescriptor, Params};

mod control;
mod queue;

/// How long [`Ublk::open`] waits for the driver: some kernels hang in ADD_DEV for ever.
pub const OPEN_SECONDS_MAX: u64 = 5;

/// A ublk device with one queue.
pub struct Ublk {
    ring: Ring,
    control: Control,
    device_id: u32,
    queue: Queue,
    state: State,
    /// /dev/ublkbN, from the moment it exists.
    path: Option<PathBuf>,
}

/// From START_DEV, or END_USER_RECOVERY, to nothing left. Each state but `Live` and `Gone` waits
/// for a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// START_DEV or END_USER_RECOVERY is with the kernel; `stop` was called meanwhile or not.
    Starting {
        stop: bool,
    },
    /// /dev/ublkbN exists.
    Live,
    /// To be stopped: the disk is being opened, its cache written back, and it is being closed.
    /// STOP_DEV does not do that in all kernels, and the cache is lost then. Kernel workers do it,
    /// because it waits for us to serve the writes.
    Opening,
    Syncing {
        disk: RawFd,
    },
    Closing,
    /// STOP_DEV is with the kernel.
    Stopping,
    /// The disk is gone; tags are still with the kernel, which gives them back now.
    Draining,
    /// DEL_DEV is with the kernel.
    Deleting,
    /// Nothing is left.
    Gone,
}

impl Ublk {
    /// Makes a device and begins to start it. Waits for the driver at most [`OPEN_SECONDS_MAX`].
    pub fn open(geometry: &Geometry, queue_depth: u16) -> Result<Ublk, OpenError> {
        check(geometry)?;
        let deadline = Instant::now() + Duration::from_secs(OPEN_SECONDS_MAX);
        let queue_depth = queue_depth.clamp(1, abi::QUEUE_DEPTH_MAX);

        let mut control = Control::open()?;
        // Every tag has at most one command, and there is at most one control command.
        let mut ring = Ring::new(u32::from(queue_depth) + 1).map_err(failed("io_uring_setup"))?;

        let features = control.features(&mut ring, deadline)?;
        let wanted = abi::F_USER_RECOVERY | abi::F_USER_RECOVERY_REISSUE;
        let asked = DeviceInfo {
            queues: 1,
            queue_depth,
            io_buffer_bytes_max: request_bytes_max(geometry),
            device_id: abi::ANY_DEVICE,
            flags: features.map_or(wanted, |has| has & (wanted | abi::F_CMD_IOCTL_ENCODE)),
        };
        let info = control.add_device(&mut ring, asked, deadline)?;
        debug!("ublk: made device {}: features {features:x?}, got {info:x?}", info.device_id);

        let params = params(geometry, info.io_buffer_bytes_max).emit();
        match Queue::prepare(&mut ring, &mut control, params, &info, deadline) {
            Ok(queue) => {
                // From here on the driver may write into the buffers, and requests come.
                ring.submit().map_err(failed("START_DEV"))?;
                let state = State::Starting { stop: false };
                Ok(Ublk { ring, control, device_id: info.device_id, queue, state, path: None })
            }
            Err(error) => {
                // After a command that hangs no other may be tried: its memory is still in use.
                if !matches!(error, OpenError::TimedOut { .. }) {
                    control.delete_at_once(&mut ring, info.device_id, deadline);
                }
                Err(error)
            }
        }
    }

    /// Takes over the device of this number from a server that has died. What that one had not
    /// answered comes again; so whatever it has asked of others must be void by now.
    ///
    /// The driver needs a moment to notice the death; `deadline` is how long that may take.
    pub fn recover(device_id: u32, deadline: Instant) -> Result<Ublk, OpenError> {
        let mut control = Control::open()?;
        let mut info = [0; DeviceInfo::BYTES];
        // The ring for these commands; the one of the device needs to know how deep the queue is.
        let mut first = Ring::new(1).map_err(failed("io_uring_setup"))?;
        control.features(&mut first, deadline)?;
        control.run(&mut first, abi::GET_DEV_INFO, device_id, &mut info, deadline)?;
        let info = DeviceInfo::parse(&info);
        control.begin_recovery(&mut first, device_id, deadline)?;
        debug!("ublk: took over device {device_id}: {info:x?}");

        let mut ring =
            Ring::new(u32::from(info.queue_depth) + 1).map_err(failed("io_uring_setup"))?;
        let mut queue = Queue::open(&info)?;
        queue.fetch_all(&mut ring, &control)?;
        let pid = u64::from(std::process::id());
        control
            .push(&mut ring, abi::END_USER_RECOVERY, device_id, 0, pid)
            .and_then(|()| ring.submit())
            .map_err(failed("END_USER_RECOVERY"))?;
        let state = State::Starting { stop: false };
        Ok(Ublk { ring, control, device_id, queue, state, path: None })
    }

    /// The end of a control command, or of nothing that we know.
    fn handle_control(&mut self, result: i32) -> io::Result<()> {
        let outcome = check_result(result);
        match self.state {
            State::Starting { stop } => {
                if outcome.is_ok() {
                    self.path = Some(PathBuf::from(format!("/dev/ublkb{}", self.device_id)));
                    self.state = State::Live;
                }
                if outcome.is_err() {
                    self.begin_stop()?;
                } else if stop {
                    self.begin_write_back()?;
                }
                outcome.map_err(|error| wrap("ublk: START_DEV or END_USER_RECOVERY", error))
            }
            State::Opening => {
                if let Err(error) = outcome {
                    warn!("ublk: open the disk to write back its cache: {error}");
                    return self.begin_stop();
                }
                self.state = State::Syncing { disk: result };
                self.ring.push_fsync(result, CONTROL)
            }
            State::Syncing { disk } => {
                if let Err(error) = outcome {
                    warn!("ublk: write back the cache of the disk: {error}");
                }
                self.state = State::Closing;
                self.ring.push_close(disk, CONTROL)
            }
            State::Closing => self.begin_stop(),
            State::Stopping => {
                if let Err(error) = outcome {
                    warn!("ublk: STOP_DEV: {error}");
                }
                self.path = None;
                self.state = State::Draining;
                self.delete_when_drained()
            }
            State::Deleting => {
                match outcome {
                    // Kernels before 6.8 or so have only the form that waits until nobody holds
                    // the device, and we do not any more.
                    Err(error) if self.control.has_async_delete && is_unknown(&error) => {
                        self.control.has_async_delete = false;
                        return self.control.delete(&mut self.ring, self.device_id);
                    }
                    Err(error) => warn!("ublk: DEL_DEV: {error}"),
                    Ok(()) => {}
                }
                self.state = State::Gone;
                Ok(())
            }
            State::Live | State::Draining | State::Gone => {
                error!("ublk: a control command ended that nobody sent, with {result}");
                Ok(())
            }
        }
    }

    /// The fetch of a tag came back: with a request, or because the device goes away.
    fn handle_fetched(&mut self, tag: u16, result: i32) -> io::Result<Option<Request>> {
        let slot = &mut self.queue.slots[usize::from(tag)];
        let Slot::Kernel(buffer) = std::mem::replace(slot, OUT) else {
            return Err(io::Error::other(format!("ublk: tag {tag} came back twice")));
        };
        self.queue.in_kernel -= 1;
        if let Err(error) = check_result(result) {
            *slot = Slot::Idle(buffer);
            match self.state {
                State::Opening | State::Syncing { .. } | State::Closing => {}
                State::Stopping | State::Deleting | State::Gone => {}
                State::Draining => self.delete_when_drained()?,
                State::Live | State::Starting { .. } => {
                    // Somebody else has stopped the device: clean up behind them.
                    match &mut self.state {
                        State::Starting { stop } => *stop = true,
                        _ => self.begin_stop()?,
                    }
                    return Err(wrap("ublk: the device was taken away", error));
                }
            }
            return Ok(None);
        }
        let descriptor = self.queue.descriptor(tag);
        match request(tag, descriptor, buffer) {
            Ok(request) => Ok(Some(request)),
            Err(completion) => {
                error!("ublk: refused a request of the kernel: {descriptor:x?}");
                self.complete(completion)?;
                Ok(None)
            }
        }
    }

    fn begin_write_back(&mut self) -> io::Result<()> {
        self.state = State::Opening;
        self.path = None;
        let path = CString::new(format!("/dev/ublkb{}", self.device_id))?;
        // The kernel may read it at any time, even after we were dropped; so it is never freed.
        self.ring.push_open(Box::leak(path.into_boxed_c_str()), CONTROL)
    }

    fn begin_stop(&mut self) -> io::Result<()> {
        self.state = State::Stopping;
        self.control.push(&mut self.ring, abi::STOP_DEV, self.device_id, 0, 0)
    }

    /// The driver waits with the last step until our character device is closed, and that is
    /// possible only when no tag is with the kernel.
    fn delete_when_drained(&mut self) -> io::Result<()> {
        if self.queue.in_kernel > 0 {
            return Ok(());
        }
        self.queue.close();
        self.state = State::Deleting;
        self.control.delete(&mut self.ring, self.device_id)
    }
}

impl BlockDevice for Ublk {
    fn fd(&self) -> BorrowedFd<'_> {
        self.ring.fd()
    }

    fn poll_request(&mut self) -> io::Result<Option<Request>> {
        while let Some(Completed { user_data, result }) = self.ring.pop() {
            match u16::try_from(user_data) {
                Ok(tag) => {
                    if let Some(request) = self.handle_fetched(tag, result)? {
                        return Ok(Some(request));
                    }
                }
                Err(_) => self.handle_control(result)?,
            }
        }
        Ok(None)
    }

    fn complete(&mut self, completion: Completion) -> io::Result<()> {
        let Completion { tag, result, buffer } = completion;
        let index = usize::from(tag.0);
        let Some(Slot::Out { done_bytes }) = self.queue.slots.get(index) else {
            return Err(io::Error::other(format!("ublk: tag {} is completed twice", tag.0)));
        };
        let result = match result {
            Ok(()) => *done_bytes,
            Err(error) => -errno(error).raw_os_error(),
        };
        self.queue.slots[index] = Slot::Idle(buffer);
        self.queue.fetch(&mut self.ring, &self.control, abi::COMMIT_AND_FETCH_REQ, tag.0, result)
    }

    fn submit(&mut self) -> io::Result<()> {
        self.ring.submit()
    }

    fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    fn stop(&mut self) -> io::Result<()> {
        match &mut self.state {
            State::Starting { stop } => {
                *stop = true;
                Ok(())
            }
            State::Live => {
                self.begin_write_back()?;
                // Not only with the turn's end: the caller may be past that already.
                self.ring.submit()
            }
            State::Opening | State::Syncing { .. } | State::Closing => Ok(()),
            State::Stopping | State::Draining | State::Deleting | State::Gone => Ok(()),
        }
    }

    fn is_stopped(&self) -> bool {
        self.state == State::Gone
    }
}

/// What the disk is to look like.
fn params(geometry: &Geometry, request_bytes_max: u32) -> Params {
    let mut attributes = 0;
    for (is_set, attribute) in [
        (geometry.read_only, abi::ATTR_READ_ONLY),
        (geometry.rotational, abi::ATTR_ROTATIONAL),
        (geometry.write_cache, abi::ATTR_VOLATILE_CACHE),
        (geometry.fua && geometry.write_cache, abi::ATTR_FUA),
    ] {
        if is_set {
            attributes |= attribute;
        }
    }
    let physical_block_shift = geometry.physical_block_bytes.ilog2() as u8;
    Params {
        attributes,
        logical_block_shift: geometry.logical_block_bytes.ilog2() as u8,
        physical_block_shift,
        // No other hint: file systems would take it for a RAID stripe.
        io_opt_shift: physical_block_shift,
        io_min_shift: geometry.granularity_bytes.ilog2() as u8,
        sectors_max: request_bytes_max.min(geometry.transfer_bytes_max) / 512,
        device_sectors: geometry.sectors(),
        discard: discard_params(geometry),
    }
}

fn discard_params(geometry: &Geometry) -> Option<abi::DiscardParams> {
    let block = u64::from(geometry.logical_block_bytes);
    let sectors = |bytes: u64| (bytes.min(DATALESS_BYTES_MAX) / block * block / 512) as u32;
    let discard_sectors_max = geometry.unmap.map_or(0, |unmap| sectors(unmap.bytes_max));
    let write_zeroes_sectors_max = sectors(geometry.write_zeroes_bytes_max);
    if geometry.read_only || (discard_sectors_max == 0 && write_zeroes_sectors_max == 0) {
        return None;
    }
    Some(abi::DiscardParams {
        // The driver wants one even if there are only zeroes to be written.
        granularity_bytes: geometry
            .unmap
            .map_or(0, |unmap| unmap.granularity_bytes)
            .max(geometry.logical_block_bytes),
        discard_sectors_max,
        write_zeroes_sectors_max,
    })
}

/// A bio counts bytes in 32 bits; this is the largest multiple of 4096 below.
const DATALESS_BYTES_MAX: u64 = (u32::MAX as u64 + 1) - 4096;

/// A descriptor in our words; if it is none that we know, the failure to answer it with.
fn request(tag: u16, descriptor: IoDescriptor, buffer: Buffer) -> Result<Request, Completion> {
    let tag = Tag(tag);
    let IoDescriptor { operation, flags, sectors, start_sector } = descriptor;
    let fua = flags & abi::IO_FUA != 0;
    let op = match operation {
        abi::OP_READ => Op::Read,
        abi::OP_WRITE => Op::Write { fua },
        abi::OP_FLUSH => {
            return Ok(Request { tag, op: Op::Flush, start_sector: 0, sectors: 0, buffer });
        }
        abi::OP_DISCARD => Op::Discard,
        abi::OP_WRITE_ZEROES => Op::WriteZeroes { no_unmap: flags & abi::IO_NOUNMAP != 0, fua },
        _ => return Err(Completion { tag, result: Err(Error::Unsupported), buffer }),
    };
    let has_data = matches!(op, Op::Read | Op::Write { .. });
    if has_data && u64::from(sectors) * 512 > buffer.len() as u64 {
        return Err(Completion { tag, result: Err(Error::Io), buffer });
    }
    Ok(Request { tag, op, start_sector, sectors, buffer })
}

const DRIVER: &str = "ublk";

fn failed(doing: &'static str) -> impl Fn(io::Error) -> OpenError {
    move |source| OpenError::Io { driver: DRIVER, doing, source }
}

fn check_result(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) }
}

fn wrap(doing: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{doing}: {error}"))
}
