//! Floor 2: the block devices that the kernel sees.
//!
//! The storage daemon feeds one of them without knowing which: [`BlockDevice`] is ublk, NBD, or a
//! device in memory in the tests. [`open`] makes one: ublk if the kernel has it and it answers,
//! NBD otherwise.

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use log::info;

use crate::proto::disk::{Completion, Error, Geometry, Request};

pub use nbd::Nbd;
pub use ublk::Ublk;

pub mod nbd;
pub mod ublk;
mod uring;

/// A block device whose requests we serve.
///
/// The daemon polls [`BlockDevice::fd`] for reading; when it is readable, or after any other event,
/// it drains [`BlockDevice::poll_request`], hands in completions, and ends each turn of its loop
/// with one [`BlockDevice::submit`]. No call blocks. All calls come from the thread that made the
/// device. An error of any of them means that the device is lost, unless it says otherwise.
pub trait BlockDevice {
    /// Readable when [`BlockDevice::poll_request`] may have something new, or when an answer that
    /// the kernel did not take at once can go on: then it is enough to call both again.
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

    /// Begins to take the device away. Requests go on coming until [`BlockDevice::is_stopped`]:
    /// the kernel writes back what it has cached. A second call changes nothing.
    fn stop(&mut self) -> io::Result<()>;

    /// The kernel has let go of the device and nothing of it is left.
    fn is_stopped(&self) -> bool;
}

/// Which driver to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Preference {
    /// ublk, and NBD if that does not work.
    #[default]
    Auto,
    /// ublk or nothing.
    Ublk,
    /// NBD or nothing.
    Nbd,
}

/// A driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// `ublk_drv`, through io_uring.
    Ublk,
    /// `nbd`, over a socket pair.
    Nbd,
}

/// The driver that [`open`] chose.
#[derive(Debug)]
pub struct Choice {
    /// The driver in use.
    pub driver: Driver,
    /// Why it is not the first choice; `None` if it is.
    pub reason: Option<OpenError>,
}

/// Makes a block device with up to `queue_depth` requests at a time.
///
/// The calling thread must be the one that will serve the device. The modules should be loaded
/// already; nothing is loaded here. Takes at most [`ublk::OPEN_SECONDS_MAX`] when a driver hangs.
pub fn open(
    geometry: &Geometry,
    preference: Preference,
    queue_depth: u16,
) -> Result<(Box<dyn BlockDevice>, Choice), OpenError> {
    check(geometry)?;
    let ublk_error = match preference {
        Preference::Nbd => None,
        Preference::Auto | Preference::Ublk => match Ublk::open(geometry, queue_depth) {
            Ok(ublk) => {
                return Ok((Box::new(ublk), Choice { driver: Driver::Ublk, reason: None }));
            }
            Err(error) if preference == Preference::Ublk => return Err(error),
            Err(error) => Some(error),
        },
    };
    match (Nbd::open(geometry, queue_depth), ublk_error) {
        (Ok(nbd), reason) => {
            if let Some(reason) = &reason {
                info!("using nbd, because {reason}");
            }
            Ok((Box::new(nbd), Choice { driver: Driver::Nbd, reason }))
        }
        (Err(nbd), Some(ublk)) => {
            Err(OpenError::Neither { ublk: Box::new(ublk), nbd: Box::new(nbd) })
        }
        (Err(nbd), None) => Err(nbd),
    }
}

/// How long the driver may take to notice that a server has died.
const RECOVERY_PATIENCE: Duration = Duration::from_secs(30);

/// Takes over a device by its name (`ublkb0`, `nbd0`) from a server that has died. It becomes live
/// as one that was made; what the dead server had not answered comes again.
pub fn recover(name: &str, geometry: &Geometry) -> Result<Box<dyn BlockDevice>, OpenError> {
    let deadline = Instant::now() + RECOVERY_PATIENCE;
    let number = |prefix| name.strip_prefix(prefix).and_then(|number: &str| number.parse().ok());
    if let Some(id) = number("ublkb") {
        return Ok(Box::new(Ublk::recover(id, deadline)?));
    }
    let index = number("nbd").ok_or_else(|| OpenError::Io {
        driver: "block device",
        doing: "take over",
        source: io::Error::other(format!("{name} is none of ours")),
    })?;
    Ok(Box::new(Nbd::recover(index, geometry, QUEUE_DEPTH, deadline)?))
}

/// Why there is no block device.
#[derive(Debug)]
pub enum OpenError {
    /// The kernel does not have the driver, or its module is not loaded.
    Missing {
        /// `ublk`, `nbd`.
        driver: &'static str,
        /// The module that brings it.
        module: &'static str,
        /// The answer of the kernel.
        source: io::Error,
    },
    /// The driver did not answer in time.
    TimedOut {
        /// `ublk`, `nbd`.
        driver: &'static str,
        /// The step that hangs.
        waiting_for: &'static str,
        /// How long we waited.
        seconds: u64,
    },
    /// A step failed.
    Io {
        /// `ublk`, `nbd`.
        driver: &'static str,
        /// The step.
        doing: &'static str,
        /// The answer of the kernel.
        source: io::Error,
    },
    /// The logical unit is of a shape that no block device of Linux can have.
    Geometry {
        /// The field of [`Geometry`].
        field: &'static str,
        /// Its value.
        value: u64,
        /// The rule that it breaks.
        rule: &'static str,
    },
    /// Neither driver works.
    Neither {
        /// Why not ublk.
        ublk: Box<OpenError>,
        /// Why not NBD.
        nbd: Box<OpenError>,
    },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Missing { driver, module, source } => {
                write!(f, "{driver}: the kernel does not have it: module {module}: {source}")
            }
            OpenError::TimedOut { driver, waiting_for, seconds } => {
                write!(f, "{driver}: {waiting_for}: no answer for {seconds} s")
            }
            OpenError::Io { driver, doing, source } => write!(f, "{driver}: {doing}: {source}"),
            OpenError::Geometry { field, value, rule } => {
                write!(f, "block device: {field} {value}: {rule}")
            }
            OpenError::Neither { ublk, nbd } => write!(
                f,
                "no block device: {ublk}; {nbd}; the image or kernel must have module ublk_drv \
                 (CONFIG_BLK_DEV_UBLK) or nbd (CONFIG_BLK_DEV_NBD): install the kernel's full \
                 module package and build the image again"
            ),
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        // The others print their source in their own line: it is one number of the kernel.
        None
    }
}

/// Tags of a queue unless the caller wants another number: enough to fill a 10 Gbit/s path of one
/// millisecond with requests of 64 KiB, and 16 MiB of locked buffers.
pub const QUEUE_DEPTH: u16 = 64;

/// Longest request in bytes. A longer one wins nothing over TCP, holds up its neighbours, and each
/// tag keeps a buffer of this size for good.
pub const REQUEST_BYTES_MAX: u32 = 256 * 1024;

/// Longest request in bytes for this disk: whole logical blocks.
fn request_bytes_max(geometry: &Geometry) -> u32 {
    let bytes = geometry.transfer_bytes_max.min(REQUEST_BYTES_MAX);
    bytes - bytes % geometry.logical_block_bytes
}

/// Refuses shapes that the drivers would refuse with a mere "invalid argument".
fn check(geometry: &Geometry) -> Result<(), OpenError> {
    let refuse = |field, value: u64, rule| Err(OpenError::Geometry { field, value, rule });
    let Geometry { logical_block_bytes, physical_block_bytes, blocks, .. } = *geometry;
    if !logical_block_bytes.is_power_of_two() || !(512..=4096).contains(&logical_block_bytes) {
        let rule = "must be a power of two from 512 to 4096";
        return refuse("logical block in bytes", logical_block_bytes.into(), rule);
    }
    if !physical_block_bytes.is_power_of_two() || physical_block_bytes < logical_block_bytes {
        let rule = "must be a power of two and not less than the logical block";
        return refuse("physical block in bytes", physical_block_bytes.into(), rule);
    }
    if blocks == 0 || blocks > i64::MAX as u64 / u64::from(logical_block_bytes) {
        return refuse("number of blocks", blocks, "must be at least 1 and less than 8 EiB in all");
    }
    if geometry.transfer_bytes_max < PAGE_BYTES {
        let rule = "must be at least a page of 4096";
        return refuse("longest transfer in bytes", geometry.transfer_bytes_max.into(), rule);
    }
    Ok(())
}

/// The smallest request that a Linux block device must be able to take.
const PAGE_BYTES: u32 = 4096;

/// The errno that the block layer gets for a failed request.
fn errno(error: Error) -> rustix::io::Errno {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn geometry() -> Geometry {
        Geometry {
            logical_block_bytes: 512,
            physical_block_bytes: 4096,
            granularity_bytes: 4096,
            blocks: 2048,
            read_only: false,
            write_cache: true,
            fua: true,
            rotational: false,
            transfer_bytes_max: 1 << 20,
            unmap: None,
            write_zeroes_bytes_max: 0,
        }
    }

    #[test]
    fn requests_are_bounded_by_us_and_by_the_unit() {
        assert_eq!(request_bytes_max(&geometry()), REQUEST_BYTES_MAX);
        let small = Geometry {
            logical_block_bytes: 4096,
            transfer_bytes_max: 3 * 4096 + 512,
            ..geometry()
        };
        assert_eq!(request_bytes_max(&small), 3 * 4096);
    }

    #[test]
    fn impossible_shapes_are_refused_by_name() {
        assert!(check(&geometry()).is_ok());
        for (bad, field) in [
            (Geometry { logical_block_bytes: 520, ..geometry() }, "logical block in bytes"),
            (Geometry { logical_block_bytes: 8192, ..geometry() }, "logical block in bytes"),
            (Geometry { logical_block_bytes: 0, ..geometry() }, "logical block in bytes"),
            (Geometry { physical_block_bytes: 256, ..geometry() }, "physical block in bytes"),
            (Geometry { blocks: 0, ..geometry() }, "number of blocks"),
            (Geometry { blocks: u64::MAX, ..geometry() }, "number of blocks"),
            (Geometry { transfer_bytes_max: 512, ..geometry() }, "longest transfer in bytes"),
        ] {
            match check(&bad) {
                Err(OpenError::Geometry { field: named, .. }) => assert_eq!(named, field),
                other => panic!("{field}: {other:?}"),
            }
        }
    }

    #[test]
    fn neither_driver_names_both_modules_and_what_to_do() {
        let missing = |driver, module| {
            Box::new(OpenError::Missing { driver, module, source: io::Error::from_raw_os_error(2) })
        };
        let text =
            OpenError::Neither { ublk: missing("ublk", "ublk_drv"), nbd: missing("nbd", "nbd") }
                .to_string();
        for word in ["module ublk_drv", "module nbd", "CONFIG_BLK_DEV_UBLK", "install"] {
            assert!(text.contains(word), "{word} is missing in: {text}");
        }
    }
}
