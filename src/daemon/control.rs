//! The daemon's ear: `lunboot status` and `lunboot detach` talk to it over a Unix socket.
//!
//! The socket is in the abstract namespace (unix(7)): it needs no file, so it works on a read-only
//! root, after switch_root and from any mount namespace, and is gone with the process. Only root
//! may ask. A question is one line, the answer is text, then the connection ends.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::net::sockopt;

use super::status::Format;

/// Beginning of the name of each daemon's socket; its device's name follows.
const NAME_PREFIX: &str = "lunboot/";

/// Where the keeper of the network listens, as if it were a device.
pub const NETWORK: &str = "network";

/// Longest question.
const QUESTION_BYTES_MAX: usize = 64;

/// Connections at once; more are closed unheard.
const CLIENTS_MAX: usize = 4;

/// Most descriptors of [`Control::fds`].
pub(super) const FDS_MAX: usize = 1 + CLIENTS_MAX;

/// The listening socket of a daemon.
#[derive(Debug)]
pub(super) struct Control {
    listener: UnixListener,
    clients: Vec<Client>,
}

#[derive(Debug)]
struct Client {
    stream: UnixStream,
    question: Vec<u8>,
}

/// What somebody wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// How are you.
    Status(Format),
    /// Let go of the device and end.
    Detach,
    /// The same, without waiting for a target that is away.
    Abandon,
    /// Make room for the daemon of this program, an open file of whoever asks.
    Replace {
        /// The number of the file.
        file: u32,
    },
}

impl Control {
    /// Listens for the daemon of a device: `ublkb0`, `nbd0`.
    pub(super) fn listen(device: &str) -> io::Result<Control> {
        let address = address(device)?;
        let listener = UnixListener::bind_addr(&address)?;
        listener.set_nonblocking(true)?;
        Ok(Control { listener, clients: Vec::with_capacity(CLIENTS_MAX) })
    }

    /// Readable when [`Control::poll_question`] may have something.
    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let clients = self.clients.iter().map(|client| client.stream.as_fd());
        std::iter::once(self.listener.as_fd()).chain(clients)
    }

    /// The next question that is there, with the stream to answer on. Never blocks.
    pub(super) fn poll_question(&mut self) -> Option<(Question, UnixStream)> {
        while let Ok((stream, _)) = self.listener.accept() {
            if self.clients.len() < CLIENTS_MAX && is_root(&stream) {
                let _ = stream.set_nonblocking(true);
                self.clients.push(Client { stream, question: Vec::new() });
            }
        }
        let mut at = 0;
        while at < self.clients.len() {
            match self.clients[at].read() {
                Ok(None) => at += 1,
                Ok(Some(question)) => {
                    let client = self.clients.swap_remove(at);
                    return Some((question, client.stream));
                }
                // A question that is none gets no answer.
                Err(_) => drop(self.clients.swap_remove(at)),
            }
        }
        None
    }
}

impl Client {
    fn read(&mut self) -> io::Result<Option<Question>> {
        let mut piece = [0; QUESTION_BYTES_MAX];
        match self.stream.read(&mut piece) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => self.question.extend_from_slice(&piece[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(None),
            Err(error) => return Err(error),
        }
        if self.question.len() > QUESTION_BYTES_MAX {
            return Err(ErrorKind::InvalidData.into());
        }
        match self.question.as_slice() {
            b"status\n" => Ok(Some(Question::Status(Format::Table))),
            b"status json\n" => Ok(Some(Question::Status(Format::Json))),
            b"detach\n" => Ok(Some(Question::Detach)),
            b"abandon\n" => Ok(Some(Question::Abandon)),
            text => match text.strip_suffix(b"\n") {
                None => Ok(None),
                Some(text) => {
                    let number = text.strip_prefix(b"replace ").map(str::from_utf8);
                    let number = number.and_then(Result::ok).and_then(|number| number.parse().ok());
                    let question = number.map(|file| Some(Question::Replace { file }));
                    question.ok_or_else(|| ErrorKind::InvalidData.into())
                }
            },
        }
    }
}

/// Asks the daemon of a device; returns its whole answer.
pub fn ask(device: &str, question: &str, patience: Option<Duration>) -> io::Result<String> {
    let mut stream = UnixStream::connect_addr(&address(device)?)?;
    stream.set_read_timeout(patience)?;
    stream.write_all(format!("{question}\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Asks the daemon of a device that another one is making room for.
pub fn ask_when_there(device: &str, question: &str, within: Duration) -> io::Result<String> {
    let deadline = Instant::now() + within;
    loop {
        match ask(device, question, Some(within)) {
            // Nobody listens yet, and nobody tells when.
            Err(error)
                if error.kind() == ErrorKind::ConnectionRefused && Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(20));
            }
            other => return other,
        }
    }
}

/// The devices whose daemons listen, from the text of /proc/net/unix.
pub fn devices(unix_sockets: &str) -> Vec<String> {
    let mut devices: Vec<String> = unix_sockets
        .lines()
        .filter_map(|line| line.split_whitespace().last())
        .filter_map(|name| name.strip_prefix('@')?.strip_prefix(NAME_PREFIX))
        .filter(|name| *name != NETWORK)
        .map(str::to_owned)
        .collect();
    devices.sort();
    devices.dedup();
    devices
}

fn address(device: &str) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("{NAME_PREFIX}{device}"))
}

/// The path of an open file of whoever is at the other end.
pub(super) fn file_of_peer(stream: &UnixStream, file: u32) -> io::Result<PathBuf> {
    let peer = sockopt::socket_peercred(stream)?.pid;
    Ok(PathBuf::from(format!("/proc/{}/fd/{file}", peer.as_raw_nonzero())))
}

fn is_root(stream: &UnixStream) -> bool {
    sockopt::socket_peercred(stream).is_ok_and(|peer| peer.uid.is_root())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn daemons_are_found_by_their_sockets() {
        let text = "Num       RefCount Protocol Flags    Type St Inode Path\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 17325 /run/dbus/socket\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 17326 @lunboot/ublkb0\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 17327 @lunboot/ublkb0\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 17328 @lunboot/nbd1\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 17329 @lunboot/network\n";
        assert_eq!(devices(text), ["nbd1", "ublkb0"]);
    }

    #[test]
    fn a_question_is_heard_and_answered() {
        let device = format!("test-{}", std::process::id());
        let mut control = Control::listen(&device).unwrap();
        let asking = {
            let device = device.clone();
            std::thread::spawn(move || ask(&device, "status", Some(Duration::from_secs(10))))
        };
        let answered = loop {
            let fds: Vec<_> = control.fds().collect();
            let mut fds: Vec<_> = fds
                .iter()
                .map(|fd| rustix::event::PollFd::new(fd, rustix::event::PollFlags::IN))
                .collect();
            rustix::event::poll(&mut fds, None).unwrap();
            drop(fds);
            if let Some((question, mut stream)) = control.poll_question() {
                stream.write_all(b"fine\n").unwrap();
                break question;
            }
        };
        assert_eq!(answered, Question::Status(Format::Table));
        assert_eq!(asking.join().unwrap().unwrap(), "fine\n");
    }
}
