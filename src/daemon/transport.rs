//! The sockets to the target: those that are being opened, and the one in use.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use super::{Daemon, secrets};
use crate::net::tcp::{self, Connecting, Origin};
use crate::proto::Error;
use crate::proto::session::{ATTEMPTS_MAX, Attempt, Portal};

/// Longest time that one portal may take to answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Most sockets that are opened at once: the name of a portal may have several addresses.
pub(super) const SOCKETS_MAX: usize = 2 * ATTEMPTS_MAX;

/// Every socket to the target.
#[derive(Debug, Default)]
pub(super) struct Transport {
    /// With the numbers of their attempts.
    opening: Vec<(u32, Connecting)>,
    /// The one that came up first.
    pub(super) stream: Option<TcpStream>,
}

impl Transport {
    pub(super) fn close(&mut self) {
        self.opening.clear();
        self.stream = None;
    }

    /// When an attempt is over at the latest.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.opening.iter().map(|(_, connecting)| connecting.deadline()).min()
    }

    /// How many descriptors [`Transport::fds`] has.
    pub(super) fn fds_count(&self) -> usize {
        self.opening.len() + usize::from(self.stream.is_some())
    }

    /// What to wait for. `has_more`: there is something to send.
    pub(super) fn fds(&self, has_more: bool) -> impl Iterator<Item = PollFd<'_>> {
        let out = if has_more { PollFlags::OUT } else { PollFlags::empty() };
        let opening = self.opening.iter().map(|(_, connecting)| connecting.fd());
        let opening = opening.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::OUT));
        let stream = self.stream.iter().map(AsFd::as_fd);
        opening.chain(stream.map(move |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN | out)))
    }

    /// Whether attempts are being made.
    pub(super) fn is_opening(&self) -> bool {
        !self.opening.is_empty()
    }
}

impl Daemon {
    /// Opens one more transport. A name is looked up first, and nothing else happens meanwhile: the
    /// disk is away.
    pub(super) fn connect(&mut self, attempt: &Attempt) {
        let now = Instant::now();
        let origin = Origin { address: None, link_index: self.config.link_index };
        let mut failure = None;
        match addresses(&attempt.portal) {
            Ok(addresses) => {
                for address in addresses {
                    if self.transport.opening.len() >= SOCKETS_MAX {
                        break;
                    }
                    match tcp::connect(address, origin, now, now + CONNECT_TIMEOUT) {
                        Ok(connecting) => self.transport.opening.push((attempt.number, connecting)),
                        Err(error) => failure = Some(error.to_string()),
                    }
                }
            }
            Err(text) => failure = Some(text),
        }
        let text = failure.unwrap_or_else(|| "too many connections are being opened".into());
        self.attempt_failed(attempt.number, text);
    }

    /// Looks at the attempts that are being made.
    pub(super) fn advance_attempts(&mut self) {
        let now = Instant::now();
        let mut at = 0;
        while at < self.transport.opening.len() {
            let (number, connecting) = self.transport.opening.remove(at);
            match connecting.poll_stream(now) {
                Err(connecting) => {
                    self.transport.opening.insert(at, (number, connecting));
                    at += 1;
                }
                Ok(Ok(stream)) => {
                    self.transport.close();
                    self.transport.stream = Some(stream);
                    return self.session.handle_connected(number, secrets::challenge(), now);
                }
                Ok(Err(error)) => self.attempt_failed(number, error.to_string()),
            }
        }
    }

    /// A socket of an attempt is gone; the attempt has failed if it was the last one.
    fn attempt_failed(&mut self, number: u32, text: String) {
        if self.transport.opening.iter().all(|(other, _)| *other != number) {
            self.session.handle_refused(number, Error::Transport(text.into()), Instant::now());
        }
    }

    pub(super) fn lose_transport(&mut self, error: &io::Error) {
        self.transport.close();
        let text = format!("connection lost: {error}");
        self.session.handle_disconnected(Error::Transport(text.into()), Instant::now());
    }
}

fn addresses(portal: &Portal) -> Result<Vec<SocketAddr>, String> {
    match portal {
        Portal::Address(address) => Ok(vec![*address]),
        Portal::Name { host, port } => tcp::resolve(host, *port).map_err(|error| error.to_string()),
    }
}
