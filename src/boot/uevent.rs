//! What the kernel says about devices that come and go (kobject uevents over netlink).
//!
//! Boot waits on this socket instead of a clock: a late NIC or a new partition wakes us at once.
//! The kernel sends a device's event after its node in /dev exists. If the kernel had to drop
//! events, [`Action::Lost`] tells the caller to look at everything again.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, sockopt};

/// A message has at most 2 KiB of variables (`UEVENT_BUFFER_SIZE`) and a head.
const MESSAGE_BYTES_MAX: usize = 8192;

/// Events wait here while modules are being loaded; the kernel's default holds some hundred.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;

/// Group 1 is the kernel's own, group 2 is udev's.
const KERNEL_GROUP: u32 = 1;

/// The socket on which events arrive.
#[derive(Debug)]
pub struct Uevents {
    socket: OwnedFd,
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uevent {
    /// What happened.
    pub action: Action,
    /// The device, as a path below /sys.
    pub device_path: String,
    /// `block`, `net`, `pci`, …
    pub subsystem: String,
    /// What a driver for it must answer to.
    pub modalias: Option<String>,
    /// Its node in /dev, without that.
    pub device_name: Option<String>,
}

/// What happened to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is new.
    Add,
    /// It is different, such as a disk with a new partition table.
    Change,
    /// It is gone.
    Remove,
    /// It got a driver, lost it, moved, or something that is not known yet.
    Other,
    /// Events were dropped: anything may have happened.
    Lost,
}

impl Uevents {
    /// Opens the socket: what happens from now on is seen. Open it before looking around.
    pub fn open() -> io::Result<Uevents> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            Some(netlink::KOBJECT_UEVENT),
        )?;
        // Beyond the usual limit, which only root may; it works with less.
        let _ = sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER_BYTES);
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, KERNEL_GROUP))?;
        Ok(Uevents { socket })
    }

    /// Readable when [`Uevents::poll_event`] has something.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The next event that has arrived, without waiting.
    pub fn poll_event(&mut self) -> io::Result<Option<Uevent>> {
        let mut buffer = [0; MESSAGE_BYTES_MAX];
        loop {
            match rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::empty()) {
                Ok((length, _)) => match Uevent::parse(&buffer[..length]) {
                    Some(event) => return Ok(Some(event)),
                    None => continue,
                },
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => continue,
                Err(Errno::NOBUFS) => return Ok(Some(Uevent::lost())),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits until an event is there or the time is over; false if it is over.
    pub fn wait(&self, timeout: Option<Duration>) -> io::Result<bool> {
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
        match poll(&mut fds, timeout.as_ref()) {
            // A signal: the caller looks again, which costs nothing.
            Err(Errno::INTR) => Ok(true),
            result => Ok(result? > 0),
        }
    }
}

impl Uevent {
    /// Reads a message: `add@/devices/…`, then variables, each ended by a zero byte. `None` if it
    /// is not of that form, as are the messages of udev.
    pub fn parse(message: &[u8]) -> Option<Uevent> {
        let text = std::str::from_utf8(message).ok()?;
        let mut parts = text.split('\0');
        let (action, device_path) = parts.next()?.split_once('@')?;
        let mut event = Uevent {
            action: match action {
                "add" => Action::Add,
                "change" => Action::Change,
                "remove" => Action::Remove,
                _ => Action::Other,
            },
            device_path: device_path.to_owned(),
            subsystem: String::new(),
            modalias: None,
            device_name: None,
        };
        for (key, value) in parts.filter_map(|part| part.split_once('=')) {
            match key {
                "SUBSYSTEM" => value.clone_into(&mut event.subsystem),
                "MODALIAS" => event.modalias = Some(value.to_owned()),
                "DEVNAME" => event.device_name = Some(value.to_owned()),
                _ => {}
            }
        }
        Some(event)
    }

    fn lost() -> Uevent {
        Uevent {
            action: Action::Lost,
            device_path: String::new(),
            subsystem: String::new(),
            modalias: None,
            device_name: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_message_of_the_kernel() {
        let event = Uevent::parse(
            b"add@/devices/pci0000:00/0000:00:03.0/virtio0\0ACTION=add\0\
              DEVPATH=/devices/pci0000:00/0000:00:03.0/virtio0\0SUBSYSTEM=virtio\0\
              MODALIAS=virtio:d00000001v00001AF4\0SEQNUM=1180\0",
        );
        let event = event.unwrap();
        assert_eq!(event.action, Action::Add);
        assert_eq!(event.device_path, "/devices/pci0000:00/0000:00:03.0/virtio0");
        assert_eq!(event.subsystem, "virtio");
        assert_eq!(event.modalias.as_deref(), Some("virtio:d00000001v00001AF4"));
        assert_eq!(event.device_name, None);
    }

    #[test]
    fn what_is_not_of_the_kernel_is_no_event() {
        for message in [&b""[..], b"libudev\0\xfe\xed\xca\xfe", b"add", b"\xff@/x\0"] {
            assert_eq!(Uevent::parse(message), None);
        }
    }

    #[test]
    fn waiting_ends_with_the_time() {
        // Containers without netlink exist; there is nothing to test there.
        let Ok(mut events) = Uevents::open() else { return };
        while events.poll_event().unwrap().is_some() {}
        let _ = events.wait(Some(Duration::from_millis(1))).unwrap();
    }

    proptest! {
        #[test]
        fn any_message_is_survived(message in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = Uevent::parse(&message);
        }
    }
}
