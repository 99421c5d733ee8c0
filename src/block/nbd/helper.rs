//! What other threads do for the one that serves the device, because it waits for requests to be
//! served; and the bell with which they call it.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use log::warn;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{Mode, OFlags};

use super::{Limits, device_path, wrap};

/// Wakes the daemon's poll from other threads, and from ourselves.
pub(super) struct Bell {
    pub(super) fd: OwnedFd,
    rung: AtomicBool,
}

impl Bell {
    pub(super) fn new() -> rustix::io::Result<Self> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Bell { fd, rung: AtomicBool::new(false) })
    }

    pub(super) fn ring(&self) {
        // First the descriptor, then the flag: the other way round a bell could stay rung unseen.
        // The write fails only when the counter is full, and then the bell rings anyway.
        let _ = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
        self.rung.store(true, Ordering::Release);
    }

    pub(super) fn was_rung(&self) -> bool {
        let was_rung = self.rung.swap(false, Ordering::Acquire);
        if was_rung {
            let _ = rustix::io::read(&self.fd, &mut [0; 8]);
        }
        was_rung
    }
}

/// Tells the block layer our limits and lets it read the partition table. Serving must go on.
pub(super) fn make_live(index: u32, queue_depth: u16, limits: Limits) -> io::Result<()> {
    let queue = PathBuf::from(format!("/sys/block/nbd{index}/queue"));
    for (name, value) in [
        ("max_sectors_kb", limits.data_bytes / 1024),
        ("nr_requests", queue_depth.into()),
        ("discard_max_bytes", limits.trim_bytes),
    ] {
        // Not 0: Linux 6.12 would keep that for the next disk of this number.
        if name == "discard_max_bytes" && value == 0 {
            continue;
        }
        if let Err(error) = std::fs::write(queue.join(name), value.to_string()) {
            // Longer or more requests are served all the same, only not as well.
            warn!("nbd: {name} of nbd{index} to {value}: {error}");
        }
    }
    // The kernel scans the partitions when the device is opened after its size was set, and
    // without udev nobody else opens it.
    open_disk(index).map_err(|error| wrap(&format!("nbd: open /dev/nbd{index}"), error))?;
    Ok(())
}

/// Writes back what the kernel has cached of the device. Serving must go on.
pub(super) fn write_back(index: u32) {
    if let Err(error) = open_disk(index).and_then(|disk| rustix::fs::fsync(&disk)) {
        warn!("nbd: write back /dev/nbd{index}: {error}");
    }
}

pub(super) fn open_disk(index: u32) -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(device_path(index), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}
