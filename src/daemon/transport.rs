//! The sockets to the target: those that are being opened, and the one in use.
//!
//! A portal is a name if the target has sent us to one. It is looked up without waiting: the name
//! servers may be as far away as the target, and there are other portals, and questions to answer.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use super::names::Known;
use super::{Daemon, Report, secrets};
use crate::net::resolver::{Answer, Name, Resolver};
use crate::net::tcp::{self, Connecting, Origin};
use crate::proto::Error;
use crate::proto::session::{ATTEMPTS_MAX, Attempt, Portal};

/// Longest time that one portal may take to answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Most sockets that are opened at once: the name of a portal may have several addresses.
const SOCKETS_MAX: usize = 2 * ATTEMPTS_MAX;

/// Most descriptors of [`Transport::fds`]: sockets, the one in use, and the resolver.
pub(super) const FDS_MAX: usize = SOCKETS_MAX + 2;

/// Every socket to the target.
#[derive(Debug, Default)]
pub(super) struct Transport {
    /// With the numbers of their attempts.
    opening: Vec<(u32, Connecting)>,
    /// Attempts that wait for the addresses of their names.
    waiting: Vec<(u32, Name)>,
    /// The one that came up first.
    pub(super) stream: Option<TcpStream>,
    /// From the first name on.
    resolver: Option<Resolver>,
}

impl Transport {
    pub(super) fn close(&mut self) {
        self.opening.clear();
        self.waiting.clear();
        self.stream = None;
    }

    fn look_up(&mut self, name: &Name) -> io::Result<()> {
        let resolver = match &mut self.resolver {
            Some(resolver) => resolver,
            None => self.resolver.insert(Resolver::start()?),
        };
        resolver.ask(name)
    }

    fn poll_answer(&mut self) -> Option<Answer> {
        self.resolver.as_mut()?.poll_answer()
    }

    /// An attempt that waits for this name, and no longer does.
    fn poll_waiting(&mut self, name: &Name) -> Option<u32> {
        let at = self.waiting.iter().position(|(_, wanted)| wanted == name)?;
        Some(self.waiting.remove(at).0)
    }

    /// When an attempt is over at the latest.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.opening.iter().map(|(_, connecting)| connecting.deadline()).min()
    }

    /// How many descriptors [`Transport::fds`] has.
    pub(super) fn fds_count(&self) -> usize {
        let resolver = usize::from(self.resolver.is_some());
        self.opening.len() + usize::from(self.stream.is_some()) + resolver
    }

    /// What to wait for. `has_more`: there is something to send.
    pub(super) fn fds(&self, has_more: bool) -> impl Iterator<Item = PollFd<'_>> {
        let out = if has_more { PollFlags::OUT } else { PollFlags::empty() };
        let opening = self.opening.iter().map(|(_, connecting)| connecting.fd());
        let opening = opening.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::OUT));
        let stream = self.stream.iter().map(AsFd::as_fd);
        let stream = stream.map(move |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN | out));
        let resolver = self.resolver.iter().map(Resolver::fd);
        let resolver = resolver.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        opening.chain(stream).chain(resolver)
    }

    /// Whether attempts are being made.
    pub(super) fn is_opening(&self) -> bool {
        !self.opening.is_empty()
    }
}

impl Daemon {
    /// Opens one more transport. If the name of the portal is known it is used at once, and looked
    /// up for the next time: it may have moved.
    pub(super) fn connect(&mut self, attempt: &Attempt) {
        let number = attempt.number;
        let name = match &attempt.portal {
            Portal::Address(address) => return self.open(number, &[*address]),
            Portal::Name { host, port } => Name { host: host.clone(), port: *port },
        };
        let asked = self.transport.look_up(&name);
        let known = self.config.names.addresses(&name).to_vec();
        match asked {
            _ if !known.is_empty() => self.open(number, &known),
            Ok(()) => self.transport.waiting.push((number, name)),
            Err(error) => self.attempt_failed(number, format!("look up {}: {error}", name.host)),
        }
    }

    /// Takes what the resolver has found.
    pub(super) fn take_answers(&mut self) {
        while let Some((name, addresses)) = self.transport.poll_answer() {
            while let Some(number) = self.transport.poll_waiting(&name) {
                match &addresses {
                    Ok(addresses) => self.open(number, addresses),
                    Err(error) => self.attempt_failed(number, error.to_string()),
                }
            }
            if let Ok(addresses) = addresses {
                let known = Known::new(name, addresses);
                if self.config.names.learn(known.clone()) {
                    self.report(&Report::Name(known));
                }
            }
        }
    }

    /// Opens the sockets of an attempt.
    fn open(&mut self, number: u32, addresses: &[SocketAddr]) {
        let now = Instant::now();
        let origin = Origin { address: None, link_index: self.config.link_index };
        let mut failure = None;
        for address in addresses {
            if self.transport.opening.len() >= SOCKETS_MAX {
                break;
            }
            match tcp::connect(*address, origin, now, now + CONNECT_TIMEOUT) {
                Ok(connecting) => self.transport.opening.push((number, connecting)),
                Err(error) => failure = Some(error.to_string()),
            }
        }
        let text = failure.unwrap_or_else(|| "too many connections are being opened".into());
        self.attempt_failed(number, text);
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
