//! /dev/ublk-control: the commands that make and remove a device.
//!
//! They are io_uring commands, and what may sleep in them is carried out by the kernel's own
//! workers; so even a command that hangs for ever, as ADD_DEV does in some kernels, costs us
//! nothing but the memory that it points to.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use log::warn;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::{DRIVER, OPEN_SECONDS_MAX, check_result, failed, wrap};
use crate::block::OpenError;
use crate::block::uring::Ring;
use crate::wire::ublk::{self as abi, ControlCommand, DeviceInfo, Params};

/// /dev/ublk-control and the memory that its commands point to.
pub(super) struct Control {
    file: OwnedFd,
    /// Commands have the numbers of ioctls.
    ioctl_encode: bool,
    /// DEL_DEV_ASYNC is worth a try.
    pub(super) has_async_delete: bool,
    /// What commands read and the driver writes. Never freed: a command that hangs may come to its
    /// end at any time, and a hundred bytes for each device of the process are nothing.
    memory: NonNull<ControlMemory>,
}

/// As large as the largest of the structures; the alignment is that of a C structure.
#[repr(C, align(8))]
struct ControlMemory([u8; CONTROL_MEMORY_BYTES]);

const CONTROL_MEMORY_BYTES: usize = 64;
const _: () = assert!(DeviceInfo::BYTES <= CONTROL_MEMORY_BYTES);
const _: () = assert!(Params::BYTES <= CONTROL_MEMORY_BYTES);

impl Control {
    pub(super) fn open() -> Result<Self, OpenError> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let file = rustix::fs::open("/dev/ublk-control", flags, Mode::empty()).map_err(
            |error| match error {
                Errno::NOENT | Errno::NODEV | Errno::NXIO => OpenError::Missing {
                    driver: DRIVER,
                    module: "ublk_drv",
                    source: wrap("open /dev/ublk-control", error.into()),
                },
                _ => failed("open /dev/ublk-control")(error.into()),
            },
        )?;
        let memory = NonNull::from(Box::leak(Box::new(ControlMemory([0; CONTROL_MEMORY_BYTES]))));
        Ok(Control { file, ioctl_encode: true, has_async_delete: true, memory })
    }

    /// What the driver can do, or `None` if it is too old to tell (before 6.5).
    pub(super) fn features(
        &mut self,
        ring: &mut Ring,
        by: Instant,
    ) -> Result<Option<u64>, OpenError> {
        let mut bytes = [0; 8];
        match self.run(ring, abi::GET_FEATURES, abi::ANY_DEVICE, &mut bytes, by) {
            Ok(()) => {
                let features = u64::from_ne_bytes(bytes);
                self.ioctl_encode = features & abi::F_CMD_IOCTL_ENCODE != 0;
                Ok(Some(features))
            }
            Err(OpenError::Io { .. }) => {
                self.ioctl_encode = false;
                self.has_async_delete = false;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    pub(super) fn add_device(
        &mut self,
        ring: &mut Ring,
        asked: DeviceInfo,
        by: Instant,
    ) -> Result<DeviceInfo, OpenError> {
        let mut bytes = asked.emit();
        self.run(ring, abi::ADD_DEV, asked.device_id, &mut bytes, by)?;
        Ok(DeviceInfo::parse(&bytes))
    }

    /// Begins to take a device over, as soon as its dead server is gone in every respect. The
    /// driver tells nobody when that is; it only says "busy" until then.
    pub(super) fn begin_recovery(
        &mut self,
        ring: &mut Ring,
        device_id: u32,
        deadline: Instant,
    ) -> Result<(), OpenError> {
        loop {
            let begun = self.run(ring, abi::START_USER_RECOVERY, device_id, &mut [], deadline);
            match begun {
                Err(OpenError::Io { ref source, .. })
                    if Errno::from_io_error(source) == Some(Errno::BUSY)
                        && Instant::now() < deadline =>
                {
                    std::thread::sleep(BUSY_PAUSE);
                }
                other => return other,
            }
        }
    }

    /// Sends a command and waits for its end. `bytes` go to the driver and come back from it.
    pub(super) fn run(
        &mut self,
        ring: &mut Ring,
        command: u32,
        device_id: u32,
        bytes: &mut [u8],
        deadline: Instant,
    ) -> Result<(), OpenError> {
        let step = command_name(command);
        // SAFETY: `memory` is valid for ever, and no command is with the kernel now: this function
        // waits for each, and is not called again after one was given up.
        let memory = unsafe { &mut self.memory.as_mut().0 };
        memory[..bytes.len()].copy_from_slice(bytes);
        self.push(ring, command, device_id, bytes.len() as u16, 0).map_err(failed(step))?;
        let ended = loop {
            if let Some(ended) = ring.pop() {
                break ended;
            }
            if !ring.wait(deadline).map_err(failed(step))? {
                let seconds = OPEN_SECONDS_MAX;
                return Err(OpenError::TimedOut { driver: DRIVER, waiting_for: step, seconds });
            }
        };
        check_result(ended.result).map_err(failed(step))?;
        // SAFETY: as above; the command has ended.
        bytes.copy_from_slice(unsafe { &self.memory.as_ref().0[..bytes.len()] });
        Ok(())
    }

    /// Queues a command whose buffer, if it has one, is the control memory.
    pub(super) fn push(
        &self,
        ring: &mut Ring,
        command: u32,
        device_id: u32,
        length: u16,
        data: u64,
    ) -> io::Result<()> {
        let address = if length > 0 { self.memory.as_ptr() as u64 } else { 0 };
        let body = ControlCommand { device_id, length, address, data }.emit();
        // SAFETY: the control memory is never freed, and nobody reads or writes it while a command
        // with a buffer is with the kernel.
        unsafe { ring.push(self.file.as_fd(), self.number(command), body, CONTROL) }
    }

    /// Queues the deletion of a device whose character device we have closed.
    pub(super) fn delete(&self, ring: &mut Ring, device_id: u32) -> io::Result<()> {
        let command = if self.has_async_delete { abi::DEL_DEV_ASYNC } else { abi::DEL_DEV };
        self.push(ring, command, device_id, 0, 0)
    }

    /// Removes a device that could not be finished. The reason for that is the error to report.
    pub(super) fn delete_at_once(&mut self, ring: &mut Ring, device_id: u32, deadline: Instant) {
        let mut outcome = Ok(());
        if self.has_async_delete {
            outcome = self.run(ring, abi::DEL_DEV_ASYNC, device_id, &mut [], deadline);
        }
        if !self.has_async_delete || outcome.is_err() {
            outcome = self.run(ring, abi::DEL_DEV, device_id, &mut [], deadline);
        }
        if let Err(error) = outcome {
            warn!("ublk: device {device_id} stays behind: {error}");
        }
    }

    pub(super) fn number(&self, command: u32) -> u32 {
        // The commands that are younger than the ioctl numbers have no others.
        match command {
            abi::GET_FEATURES | abi::DEL_DEV_ASYNC => abi::ioctl_number(command),
            _ if self.ioctl_encode => abi::ioctl_number(command),
            _ => command,
        }
    }
}

/// Pause before a driver that is busy is asked again.
const BUSY_PAUSE: Duration = Duration::from_millis(2);

/// The `user_data` of control commands; those of tags are the tags.
pub(super) const CONTROL: u64 = 1 << 32;

fn command_name(command: u32) -> &'static str {
    match command {
        abi::GET_FEATURES => "GET_FEATURES",
        abi::ADD_DEV => "ADD_DEV",
        abi::SET_PARAMS => "SET_PARAMS",
        abi::GET_DEV_INFO => "GET_DEV_INFO",
        abi::START_USER_RECOVERY => "START_USER_RECOVERY",
        abi::DEL_DEV | abi::DEL_DEV_ASYNC => "DEL_DEV",
        _ => "control command",
    }
}

/// The answers of the driver's generations to a command that they do not have.
pub(super) fn is_unknown(error: &io::Error) -> bool {
    const ENOTSUPP: i32 = 524;
    matches!(
        Errno::from_io_error(error),
        Some(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOTTY | Errno::NOSYS)
    ) || error.raw_os_error() == Some(ENOTSUPP)
}
