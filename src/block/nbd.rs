//! NBD: the kernel sends us the requests of /dev/nbdN over a socket pair.
//!
//! The fallback where ublk is missing. The device is set up over generic netlink (family `nbd`,
//! `linux/nbd-netlink.h`), never by the ioctl that waits, because a stop signal to that one tears
//! the connection down. The kernel never gives up on a slow answer, and never on a dead connection
//! for practical purposes, so that a root disk only sees latency.
//!
//! The payload of a write is received straight into the tag's buffer, that of a read sent straight
//! from it. A request that is longer than the buffer, or than the logical unit can take, is served
//! in pieces under the same tag; the kernel is told the limits, so that this is rare.
//!
//! Two things must not be done by the thread that serves the device, as they wait for requests to
//! be served: changing the queue's limits and opening the device (which scans partitions) when it
//! begins, and writing back the cache when it ends. Short-lived threads do them.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use log::{debug, warn};
use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendFlags, SocketFlags, SocketType, sendmsg, socketpair,
    sockopt,
};

use control::Control;
use helper::{Bell, make_live, open_disk, write_back};
use slot::{Slot, Staged};

use super::{BlockDevice, OpenError, check, errno, request_bytes_max};
use crate::proto::disk::{Completion, Geometry, Op, Request, Tag};
use crate::wire::nbd as abi;

mod control;
mod helper;
mod slot;

/// An NBD device with one connection.
pub struct Nbd {
    socket: OwnedFd,
    /// Holds the socket and the bell; what the daemon polls.
    epoll: OwnedFd,
    interest: epoll::EventFlags,
    bell: Arc<Bell>,
    news: Receiver<News>,
    news_from_helpers: Sender<News>,
    family: u16,
    index: u32,
    limits: Limits,
    slots: Box<[Slot]>,
    free: Vec<u16>,
    staged: Staged,
    /// The write whose payload is coming in.
    payload: Option<Payload>,
    /// Requests of which another piece is due.
    resume: VecDeque<u16>,
    /// Replies to be sent, oldest first, and how much of the first is already sent.
    replies: VecDeque<u16>,
    sent: usize,
    state: State,
    path: Option<PathBuf>,
}

/// From CONNECT to nothing left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The kernel takes requests; limits and partitions are being seen to.
    Starting,
    /// /dev/nbdN can be used.
    Live,
    /// Being written back and disconnected.
    Stopping {
        /// The kernel has closed its end.
        is_closed: bool,
        /// The helper has the answer to DISCONNECT.
        is_answered: bool,
    },
    /// The kernel has closed its end though nobody stopped the device.
    Lost,
}

/// What a helper thread reports.
enum News {
    /// The limits are set and the partitions scanned.
    Live,
    /// The device cannot be opened.
    NotLive(io::Error),
    /// DISCONNECT was answered.
    Disconnected,
}

/// Longest pieces, in bytes.
#[derive(Clone, Copy)]
struct Limits {
    data_bytes: u32,
    trim_bytes: u32,
    zeroes_bytes: u32,
}

struct Payload {
    tag: u16,
    received: usize,
}

impl Nbd {
    /// Makes a device and begins to start it.
    pub fn open(geometry: &Geometry, queue_depth: u16) -> Result<Nbd, OpenError> {
        check(geometry)?;
        let queue_depth = queue_depth.clamp(1, TAGS_MAX);
        let limits = limits(geometry);
        let (ours, theirs) = socket_pair(usize::from(queue_depth) * limits.data_bytes as usize)?;

        let control = Control::open()?;
        let family = control.family()?;
        let index = control.connect(family, geometry, &theirs)?;
        // The kernel has its own reference. With ours gone, its shutdown is our end of file.
        drop(theirs);
        debug!("nbd: connected device {index}");
        let nbd = Nbd::serve(ours, family, index, queue_depth, limits)?;
        nbd.help("nbd start", move || match make_live(index, queue_depth, limits) {
            Ok(()) => News::Live,
            Err(error) => News::NotLive(error),
        })
        .map_err(|source| OpenError::Io {
            driver: DRIVER,
            doing: "start a thread",
            source,
        })?;
        Ok(nbd)
    }

    /// Takes over the device of this number from a server that has died: gives the kernel another
    /// socket for the one that is dead. What that server had not answered comes again, at the
    /// latest when the driver looks for it, every 30 s.
    pub fn recover(
        index: u32,
        geometry: &Geometry,
        queue_depth: u16,
        deadline: Instant,
    ) -> Result<Nbd, OpenError> {
        let queue_depth = queue_depth.clamp(1, TAGS_MAX);
        let limits = limits(geometry);
        let (ours, theirs) = socket_pair(usize::from(queue_depth) * limits.data_bytes as usize)?;
        let control = Control::open()?;
        let family = control.family()?;
        control.reconfigure(family, index, &theirs, deadline)?;
        drop(theirs);
        debug!("nbd: took over device {index}");
        let mut nbd = Nbd::serve(ours, family, index, queue_depth, limits)?;
        (nbd.state, nbd.path) = (State::Live, Some(device_path(index)));
        Ok(nbd)
    }

    /// A device whose requests come over this socket.
    fn serve(
        ours: OwnedFd,
        family: u16,
        index: u32,
        queue_depth: u16,
        limits: Limits,
    ) -> Result<Nbd, OpenError> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed("epoll_create"))?;
        let bell = Bell::new().map_err(failed("eventfd"))?;
        let interest = epoll::EventFlags::IN;
        let none = epoll::EventData::new_u64(0);
        epoll::add(&epoll, &ours, none, interest).map_err(failed("epoll_ctl"))?;
        epoll::add(&epoll, &bell.fd, none, interest).map_err(failed("epoll_ctl"))?;
        let (news_from_helpers, news) = channel();

        Ok(Nbd {
            socket: ours,
            epoll,
            interest,
            bell: Arc::new(bell),
            news,
            news_from_helpers,
            family,
            index,
            limits,
            slots: (0..queue_depth).map(|_| Slot::new(limits.data_bytes)).collect(),
            free: (0..queue_depth).rev().collect(),
            staged: Staged::new(),
            payload: None,
            resume: VecDeque::with_capacity(queue_depth.into()),
            replies: VecDeque::with_capacity(queue_depth.into()),
            sent: 0,
            state: State::Starting,
            path: None,
        })
    }

    /// Lets another thread do what waits for our own service, and report.
    fn help(&self, name: &str, work: impl FnOnce() -> News + Send + 'static) -> io::Result<()> {
        let (bell, news) = (Arc::clone(&self.bell), self.news_from_helpers.clone());
        std::thread::Builder::new().name(name.into()).stack_size(HELPER_STACK_BYTES).spawn(
            move || {
                // Nobody listens any more if the device was dropped meanwhile.
                let _ = news.send(work());
                bell.ring();
            },
        )?;
        Ok(())
    }

    fn hear_news(&mut self) -> io::Result<()> {
        if !self.bell.was_rung() {
            return Ok(());
        }
        while let Ok(news) = self.news.try_recv() {
            match (news, &mut self.state) {
                (News::Live, State::Starting) => {
                    self.path = Some(device_path(self.index));
                    self.state = State::Live;
                }
                (News::NotLive(error), State::Starting) => return Err(error),
                (News::Disconnected, State::Stopping { is_answered, .. }) => *is_answered = true,
                // The start of a device that is being stopped has no one to tell.
                (News::Live | News::NotLive(_) | News::Disconnected, _) => {}
            }
        }
        Ok(())
    }

    /// Takes one request header. `None` if there is nothing to hand out yet.
    fn accept(&mut self, request: abi::Request) -> io::Result<Option<Request>> {
        let abi::Request { command, fua, no_hole, cookie, offset_bytes, length_bytes } = request;
        let op = match command {
            abi::Command::Read => Op::Read,
            abi::Command::Write => Op::Write { fua },
            abi::Command::Flush => Op::Flush,
            abi::Command::Trim => Op::Discard,
            abi::Command::WriteZeroes => Op::WriteZeroes { no_unmap: no_hole, fua },
            // The end of file follows.
            abi::Command::Disconnect => return Ok(None),
            abi::Command::Unknown(_) => {
                return Err(broken("command", &request));
            }
        };
        if offset_bytes % 512 != 0 || length_bytes % 512 != 0 {
            return Err(broken("range that is not a multiple of 512", &request));
        }
        let has_data = matches!(op, Op::Read | Op::Write { .. });
        if has_data && length_bytes > DATA_BYTES_MAX {
            return Err(broken("length beyond the driver's own limit", &request));
        }
        let tag = self.free.pop().expect("poll_request looks for a free slot before");
        let slot = &mut self.slots[usize::from(tag)];
        slot.cookie = cookie;
        slot.op = op;
        slot.offset_bytes = offset_bytes;
        slot.length = length_bytes as usize;
        slot.done = 0;
        if has_data && length_bytes > self.limits.data_bytes {
            slot.long = Some(vec![0; slot.length].into_boxed_slice());
        }
        if matches!(op, Op::Write { .. }) {
            self.payload = Some(Payload { tag, received: 0 });
            return Ok(None);
        }
        self.next_piece(tag)
    }

    /// The request for the next piece of a slot. `None` if nothing has to be done.
    fn next_piece(&mut self, tag: u16) -> io::Result<Option<Request>> {
        let slot = &mut self.slots[usize::from(tag)];
        // Some kernels offer discards and zeroes for good once a disk of this number had them.
        let (op, piece_max) = match slot.op {
            Op::Discard if self.limits.trim_bytes == 0 => {
                // A hint that may be ignored.
                self.reply(tag, 0);
                return Ok(None);
            }
            Op::WriteZeroes { fua, .. } if self.limits.zeroes_bytes == 0 => {
                (Op::Write { fua }, self.limits.data_bytes)
            }
            Op::Discard => (slot.op, self.limits.trim_bytes),
            Op::WriteZeroes { .. } => (slot.op, self.limits.zeroes_bytes),
            Op::Read | Op::Write { .. } => (slot.op, self.limits.data_bytes),
            Op::Flush => (slot.op, u32::MAX),
        };
        slot.piece = (slot.length - slot.done).min(piece_max as usize);
        let mut buffer = slot.buffer.take().expect("the buffer is here between the pieces");
        match (slot.op, op, &slot.long) {
            (Op::Write { .. }, _, Some(long)) => {
                buffer[..slot.piece].copy_from_slice(&long[slot.done..slot.done + slot.piece]);
            }
            (Op::WriteZeroes { .. }, Op::Write { .. }, _) => buffer[..slot.piece].fill(0),
            _ => {}
        }
        let start_sector = match slot.op {
            Op::Flush => 0,
            _ => (slot.offset_bytes + slot.done as u64) / 512,
        };
        let sectors = (slot.piece / 512) as u32;
        Ok(Some(Request { tag: Tag(tag), op, start_sector, sectors, buffer }))
    }

    /// Queues the reply to a slot's request.
    fn reply(&mut self, tag: u16, errno: u32) {
        let slot = &mut self.slots[usize::from(tag)];
        slot.header = abi::Reply { errno, cookie: slot.cookie }.emit();
        slot.reply_data = if errno == 0 && slot.op == Op::Read { slot.length } else { 0 };
        self.replies.push_back(tag);
    }

    /// Receives what there is: payload to its place, headers to the staging area.
    fn receive(&mut self) -> io::Result<Received> {
        if matches!(self.state, State::Lost | State::Stopping { is_closed: true, .. }) {
            return Ok(Received::Nothing);
        }
        let space: &mut [u8] = match &self.payload {
            Some(payload) => self.slots[usize::from(payload.tag)].payload_space(payload.received),
            None => &mut [],
        };
        let wanted = space.len();
        let mut slices = [IoSliceMut::new(space), IoSliceMut::new(self.staged.space())];
        match rustix::io::readv(&self.socket, &mut slices) {
            Ok(0) | Err(Errno::CONNRESET) => {
                self.handle_end()?;
                Ok(Received::Nothing)
            }
            Ok(count) => {
                if let Some(payload) = &mut self.payload {
                    payload.received += count.min(wanted);
                }
                self.staged.end += count.saturating_sub(wanted);
                Ok(Received::Some)
            }
            Err(Errno::INTR) => Ok(Received::Some),
            Err(Errno::AGAIN) => Ok(Received::Nothing),
            Err(error) => Err(wrap("nbd: receive", error)),
        }
    }

    /// The kernel has closed its end.
    fn handle_end(&mut self) -> io::Result<()> {
        epoll::delete(&self.epoll, &self.socket)?;
        self.payload = None;
        if let State::Stopping { is_closed, .. } = &mut self.state {
            *is_closed = true;
            return Ok(());
        }
        self.path = None;
        self.state = State::Lost;
        Err(io::Error::new(
            io::ErrorKind::ConnectionAborted,
            format!("nbd: somebody disconnected /dev/nbd{}", self.index),
        ))
    }

    fn is_closed(&self) -> bool {
        matches!(self.state, State::Lost | State::Stopping { is_closed: true, .. })
    }

    /// Sends replies until the socket takes no more; true if all are gone.
    fn send_replies(&mut self) -> io::Result<bool> {
        while !self.replies.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let mut used = 0;
            let mut skip = self.sent;
            for &tag in &self.replies {
                let slot = &self.slots[usize::from(tag)];
                for part in [&slot.header[..], slot.reply_data()] {
                    let cut = skip.min(part.len());
                    skip -= cut;
                    if cut < part.len() {
                        slices[used] = IoSlice::new(&part[cut..]);
                        used += 1;
                    }
                }
                if used + 2 > SLICES_MAX {
                    break;
                }
            }
            let none = &mut SendAncillaryBuffer::default();
            match sendmsg(&self.socket, &slices[..used], none, SendFlags::NOSIGNAL) {
                Ok(count) => self.handle_sent(count),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(false),
                // The end of file tells the rest.
                Err(Errno::PIPE | Errno::CONNRESET) => return Ok(false),
                Err(error) => return Err(wrap("nbd: send", error)),
            }
        }
        Ok(true)
    }

    fn handle_sent(&mut self, count: usize) {
        self.sent += count;
        while let Some(&tag) = self.replies.front() {
            let slot = &mut self.slots[usize::from(tag)];
            let length = abi::REPLY_BYTES + slot.reply_data;
            if self.sent < length {
                return;
            }
            self.sent -= length;
            slot.long = None;
            self.replies.pop_front();
            self.free.push(tag);
        }
    }

    /// Asks to be woken for what we can use: input if a slot is free for it, room for output if
    /// something is left to be sent.
    fn set_interest(&mut self, all_sent: bool) -> io::Result<()> {
        let mut interest = epoll::EventFlags::empty();
        if !self.free.is_empty() || self.payload.is_some() {
            interest |= epoll::EventFlags::IN;
            // A request that was received but had no slot will not make the socket readable again.
            if self.staged.has_header() && self.payload.is_none() {
                self.bell.ring();
            }
        }
        if !all_sent {
            interest |= epoll::EventFlags::OUT;
        }
        if interest != self.interest {
            self.interest = interest;
            epoll::modify(&self.epoll, &self.socket, epoll::EventData::new_u64(0), interest)?;
        }
        Ok(())
    }
}

enum Received {
    /// Look again at what is there.
    Some,
    /// Nothing until the socket is readable again.
    Nothing,
}

impl BlockDevice for Nbd {
    fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    fn poll_request(&mut self) -> io::Result<Option<Request>> {
        self.hear_news()?;
        loop {
            if let Some(tag) = self.resume.pop_front() {
                if let Some(request) = self.next_piece(tag)? {
                    return Ok(Some(request));
                }
            } else if let Some(payload) = &mut self.payload {
                let slot = &mut self.slots[usize::from(payload.tag)];
                let space = slot.payload_space(payload.received);
                if space.is_empty() {
                    let tag = payload.tag;
                    self.payload = None;
                    return self.next_piece(tag);
                }
                let count = self.staged.take(space);
                payload.received += count;
                if count == 0 && matches!(self.receive()?, Received::Nothing) {
                    return Ok(None);
                }
            } else if self.staged.has_header() {
                if self.free.is_empty() {
                    return Ok(None);
                }
                let mut header = [0; abi::REQUEST_BYTES];
                self.staged.take(&mut header);
                let request = abi::Request::parse(&header)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                if let Some(request) = self.accept(request)? {
                    return Ok(Some(request));
                }
            } else if matches!(self.receive()?, Received::Nothing) {
                return Ok(None);
            }
        }
    }

    fn complete(&mut self, completion: Completion) -> io::Result<()> {
        let Completion { tag, result, buffer } = completion;
        let Some(slot) = self.slots.get_mut(usize::from(tag.0)).filter(|s| s.buffer.is_none())
        else {
            return Err(io::Error::other(format!("nbd: tag {} is completed twice", tag.0)));
        };
        let mut outcome = 0;
        match result {
            Ok(()) => {
                if let (Op::Read, Some(long)) = (slot.op, &mut slot.long) {
                    long[slot.done..slot.done + slot.piece].copy_from_slice(&buffer[..slot.piece]);
                }
                slot.done += slot.piece;
            }
            Err(error) => outcome = errno(error).raw_os_error() as u32,
        }
        slot.buffer = Some(buffer);
        if outcome == 0 && slot.done < slot.length {
            self.resume.push_back(tag.0);
            self.bell.ring();
            return Ok(());
        }
        self.reply(tag.0, outcome);
        Ok(())
    }

    fn submit(&mut self) -> io::Result<()> {
        if self.is_closed() {
            return Ok(());
        }
        let all_sent = self.send_replies()?;
        self.set_interest(all_sent)
    }

    fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    fn stop(&mut self) -> io::Result<()> {
        match self.state {
            State::Stopping { .. } => return Ok(()),
            State::Starting | State::Live => {
                self.state = State::Stopping { is_closed: false, is_answered: false };
            }
            // The kernel's side may wait for the answer to a DISCONNECT all the same.
            State::Lost => self.state = State::Stopping { is_closed: true, is_answered: false },
        }
        self.path = None;
        let (family, index) = (self.family, self.index);
        self.help("nbd stop", move || {
            write_back(index);
            if let Err(error) = Control::open().and_then(|c| c.disconnect(family, index)) {
                warn!("{error}");
            }
            // The kernel forgets the partitions of the disk that was there at the next open.
            if let Err(error) = open_disk(index) {
                debug!("nbd: open /dev/nbd{index} after it was disconnected: {error}");
            }
            News::Disconnected
        })
    }

    fn is_stopped(&self) -> bool {
        self.state == State::Stopping { is_closed: true, is_answered: true }
    }
}

/// Two connected sockets, ours first. Everything that can be under way fits into their buffers, so
/// that the kernel's end never blocks in the middle of a request: before 6.13 or so a signal could
/// cut it in two there.
fn socket_pair(in_flight_bytes: usize) -> Result<(OwnedFd, OwnedFd), OpenError> {
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(failed("socketpair"))?;
    rustix::io::ioctl_fionbio(&ours, true).map_err(failed("FIONBIO"))?;
    // The kernel doubles the number, which is for its overhead per packet.
    let bytes = in_flight_bytes.min(SOCKET_BUFFER_BYTES_MAX);
    for socket in [&ours, &theirs] {
        if let Err(error) = sockopt::set_socket_send_buffer_size_force(socket, bytes) {
            debug!("nbd: SO_SNDBUFFORCE {bytes}: {error}");
        }
    }
    Ok((ours, theirs))
}

fn device_path(index: u32) -> PathBuf {
    PathBuf::from(format!("/dev/nbd{index}"))
}

fn limits(geometry: &Geometry) -> Limits {
    let block = u64::from(geometry.logical_block_bytes);
    let dataless = |bytes: u64| (bytes.min(DATALESS_BYTES_MAX) / block * block) as u32;
    Limits {
        data_bytes: request_bytes_max(geometry),
        trim_bytes: dataless(geometry.unmap.map_or(0, |unmap| unmap.bytes_max)),
        zeroes_bytes: dataless(geometry.write_zeroes_bytes_max),
    }
}

const DRIVER: &str = "nbd";

/// The driver's own number of tags for a connection.
const TAGS_MAX: u16 = 128;
/// The driver's own limit for a request with data.
const DATA_BYTES_MAX: u32 = 32 * 1024 * 1024;
/// A bio counts bytes in 32 bits; this is the largest multiple of 4096 below.
const DATALESS_BYTES_MAX: u64 = (u32::MAX as u64 + 1) - 4096;
/// Slices for one system call: 32 replies with data.
const SLICES_MAX: usize = 64;
/// The kernel refuses nothing larger, but nobody needs more under way.
const SOCKET_BUFFER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The helpers make a few system calls.
const HELPER_STACK_BYTES: usize = 128 * 1024;

fn failed(doing: &'static str) -> impl Fn(Errno) -> OpenError {
    move |error| failed_std(doing)(error.into())
}

fn failed_std(doing: &'static str) -> impl Fn(io::Error) -> OpenError {
    move |source| OpenError::Io { driver: DRIVER, doing, source }
}

/// The kernel does not send such a request; the stream must be out of step.
fn broken(what: &str, request: &abi::Request) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("nbd: {what}: {request:x?}"))
}

fn wrap(doing: &str, error: Errno) -> io::Error {
    let error = io::Error::from(error);
    io::Error::new(error.kind(), format!("{doing}: {error}"))
}
