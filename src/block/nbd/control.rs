//! The generic netlink family "nbd" (`linux/nbd-netlink.h`): connects and disconnects devices.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};
use rustix::time::Timespec;

use super::{DRIVER, failed, failed_std, limits};
use crate::block::OpenError;
use crate::proto::disk::Geometry;
use crate::wire::netlink::{
    Builder, GenericHeader, NLM_F_ACK, NLM_F_REQUEST, Reply, attributes, controller, messages,
};

/// The generic netlink socket.
pub(super) struct Control {
    socket: OwnedFd,
}

impl Control {
    pub(super) fn open() -> Result<Self, OpenError> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            Some(netlink::GENERIC),
        )
        .map_err(failed("netlink socket"))?;
        Ok(Control { socket })
    }

    /// The number of the family "nbd". The kernel loads the module for the question if it can.
    pub(super) fn family(&self) -> Result<u16, OpenError> {
        let header =
            GenericHeader { command: controller::CMD_GETFAMILY, version: controller::VERSION };
        let mut request = Builder::new(controller::ID, NLM_F_REQUEST | NLM_F_ACK, 1);
        request.header(&header.emit()).text(controller::ATTR_FAMILY_NAME, "nbd");
        let answer = self.ask("GETFAMILY", request, controller::ATTR_FAMILY_ID);
        let answer = match answer {
            Err(OpenError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Err(OpenError::Missing { driver: DRIVER, module: "nbd", source });
            }
            other => other?,
        };
        match answer.as_deref() {
            Some(&[low, high, ..]) => Ok(u16::from_ne_bytes([low, high])),
            _ => Err(no_answer("GETFAMILY")),
        }
    }

    /// Makes a device that speaks to the other end of `theirs`; the answer is its number.
    pub(super) fn connect(
        &self,
        family: u16,
        geometry: &Geometry,
        theirs: &OwnedFd,
    ) -> Result<u32, OpenError> {
        let mut request = self.command(family, CMD_CONNECT);
        request
            .u64(ATTR_SIZE_BYTES, geometry.sectors() * 512)
            .u64(ATTR_BLOCK_SIZE_BYTES, geometry.logical_block_bytes.into())
            // 0: a slow request is not a dead one.
            .u64(ATTR_TIMEOUT, 0)
            .u64(ATTR_DEAD_CONN_TIMEOUT, DEAD_CONNECTION_SECONDS)
            .u64(ATTR_SERVER_FLAGS, server_flags(geometry))
            .nested(ATTR_SOCKETS, |sockets| {
                sockets.nested(SOCK_ITEM, |item| {
                    item.u32(SOCK_FD, theirs.as_raw_fd() as u32);
                });
            });
        match self.ask("CONNECT", request, ATTR_INDEX)?.as_deref() {
            Some(&[a, b, c, d]) => Ok(u32::from_ne_bytes([a, b, c, d])),
            _ => Err(no_answer("CONNECT")),
        }
    }

    /// Gives a device another socket for one that is dead. The driver takes none as long as it has
    /// not noticed that, and tells nobody when it has.
    pub(super) fn reconfigure(
        &self,
        family: u16,
        index: u32,
        theirs: &OwnedFd,
        deadline: Instant,
    ) -> Result<(), OpenError> {
        loop {
            let mut request = self.command(family, CMD_RECONFIGURE);
            request.u32(ATTR_INDEX, index).nested(ATTR_SOCKETS, |sockets| {
                sockets.nested(SOCK_ITEM, |item| {
                    item.u32(SOCK_FD, theirs.as_raw_fd() as u32);
                });
            });
            match self.ask("RECONFIGURE", request, ATTR_INDEX) {
                Err(OpenError::Io { ref source, .. })
                    if Errno::from_io_error(source) == Some(Errno::NOSPC)
                        && Instant::now() < deadline =>
                {
                    std::thread::sleep(BUSY_PAUSE);
                }
                other => return other.map(drop),
            }
        }
    }

    pub(super) fn disconnect(&self, family: u16, index: u32) -> Result<(), OpenError> {
        let mut request = self.command(family, CMD_DISCONNECT);
        request.u32(ATTR_INDEX, index);
        self.ask("DISCONNECT", request, ATTR_INDEX).map(drop)
    }

    fn command(&self, family: u16, command: u8) -> Builder {
        let mut request = Builder::new(family, NLM_F_REQUEST | NLM_F_ACK, 1);
        request.header(&GenericHeader { command, version: NBD_VERSION }.emit());
        request
    }

    /// Sends a request and waits for its acknowledgement. The value of attribute `wanted` in the
    /// data before it, if there was any.
    fn ask(
        &self,
        doing: &'static str,
        mut request: Builder,
        wanted: u16,
    ) -> Result<Option<Vec<u8>>, OpenError> {
        let malformed =
            |error| failed_std(doing)(io::Error::new(io::ErrorKind::InvalidData, error));
        send(&self.socket, &request.finish(), SendFlags::empty()).map_err(failed(doing))?;
        let deadline = Instant::now() + Duration::from_secs(ANSWER_SECONDS_MAX);
        let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
        let mut found = None;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).expect("some seconds");
            match poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&left)) {
                Ok(0) => {
                    return Err(OpenError::TimedOut {
                        driver: DRIVER,
                        waiting_for: doing,
                        seconds: ANSWER_SECONDS_MAX,
                    });
                }
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(error) => return Err(failed(doing)(error)),
            }
            let (count, _) =
                recv(&self.socket, &mut datagram[..], RecvFlags::empty()).map_err(failed(doing))?;
            for message in messages(&datagram[..count]) {
                match message.and_then(|message| message.reply()).map_err(malformed)? {
                    Reply::Data(message) => {
                        let (_, rest) = GenericHeader::parse(message.payload).map_err(malformed)?;
                        for attribute in attributes(rest) {
                            let attribute = attribute.map_err(malformed)?;
                            if attribute.kind == wanted {
                                found = Some(attribute.payload.to_vec());
                            }
                        }
                    }
                    Reply::Ack => return Ok(found),
                    Reply::Refused(refusal) => {
                        let source = io::Error::from_raw_os_error(refusal.errno as i32);
                        return Err(failed_std(doing)(source));
                    }
                    Reply::Done | Reply::Overrun | Reply::Noop => {}
                }
            }
        }
    }
}

/// `NBD_FLAG_…` (`linux/nbd.h`). Kernels ignore the flags that are younger than they are.
fn server_flags(geometry: &Geometry) -> u64 {
    let limits = limits(geometry);
    let mut flags = FLAG_HAS_FLAGS;
    for (is_set, flag) in [
        (geometry.read_only, FLAG_READ_ONLY),
        (geometry.write_cache, FLAG_SEND_FLUSH),
        (geometry.write_cache && geometry.fua, FLAG_SEND_FUA),
        (geometry.rotational, FLAG_ROTATIONAL),
        (limits.trim_bytes > 0, FLAG_SEND_TRIM),
        (limits.zeroes_bytes > 0, FLAG_SEND_WRITE_ZEROES),
    ] {
        if is_set {
            flags |= flag;
        }
    }
    flags
}

fn no_answer(doing: &'static str) -> OpenError {
    let text = "acknowledged, but without the number that was asked for";
    failed_std(doing)(io::Error::new(io::ErrorKind::InvalidData, text))
}

/// How long the kernel may think about a netlink request.
const ANSWER_SECONDS_MAX: u64 = 5;
/// Answers of the families "nlctrl" and "nbd" are some hundred bytes long.
const DATAGRAM_BYTES_MAX: usize = 16 * 1024;
/// Ten years: for ever, but far from any overflow of the kernel's counters.
const DEAD_CONNECTION_SECONDS: u64 = 10 * 365 * 24 * 3600;

/// Pause before a driver that has not noticed a death is asked again.
const BUSY_PAUSE: Duration = Duration::from_millis(2);

/// `NBD_GENL_VERSION`.
const NBD_VERSION: u8 = 1;
/// `NBD_CMD_CONNECT`.
const CMD_CONNECT: u8 = 1;
/// `NBD_CMD_DISCONNECT`.
const CMD_DISCONNECT: u8 = 2;
/// `NBD_CMD_RECONFIGURE`.
const CMD_RECONFIGURE: u8 = 3;
/// `NBD_ATTR_…`.
const ATTR_INDEX: u16 = 1;
const ATTR_SIZE_BYTES: u16 = 2;
const ATTR_BLOCK_SIZE_BYTES: u16 = 3;
const ATTR_TIMEOUT: u16 = 4;
const ATTR_SERVER_FLAGS: u16 = 5;
const ATTR_SOCKETS: u16 = 7;
const ATTR_DEAD_CONN_TIMEOUT: u16 = 8;
/// `NBD_SOCK_ITEM`, and `NBD_SOCK_FD` in it.
const SOCK_ITEM: u16 = 1;
const SOCK_FD: u16 = 1;

const FLAG_HAS_FLAGS: u64 = 1 << 0;
const FLAG_READ_ONLY: u64 = 1 << 1;
const FLAG_SEND_FLUSH: u64 = 1 << 2;
const FLAG_SEND_FUA: u64 = 1 << 3;
const FLAG_ROTATIONAL: u64 = 1 << 4;
const FLAG_SEND_TRIM: u64 = 1 << 5;
const FLAG_SEND_WRITE_ZEROES: u64 = 1 << 6;
