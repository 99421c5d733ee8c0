//! `lunboot discover`: asks a portal for its targets.

use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::net::tcp::{self, Origin};
use crate::proto::chap::Chap;
use crate::proto::discovery::{DiscoveredTarget, Discovery};
use crate::proto::login::LoginConfig;
use crate::proto::params::Offer;
use crate::proto::{Error, Patience};
use crate::secrets;
use crate::wire::digest_choice::DigestChoices;
use crate::wire::pdu::Isid;

/// Longest time that one address may take to answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Asks each address in turn until one answers, for at most `limit` in all; the error names all
/// that did not.
pub fn discover(
    portals: &[SocketAddr],
    initiator: &str,
    digests: DigestChoices,
    chap: Option<&Chap>,
    limit: Duration,
) -> Result<Vec<DiscoveredTarget>, String> {
    let deadline = Instant::now() + limit;
    let mut failures = Vec::new();
    for portal in portals {
        let config = LoginConfig {
            initiator: initiator.to_owned(),
            target: None,
            isid: Isid([0x80, 0, 0, 0, 0, 1]),
            offer: Offer::with_digests(digests),
            chap: chap.cloned(),
        };
        let mut discovery = Discovery::new(config, Patience::default());
        loop {
            match ask(*portal, &mut discovery, deadline) {
                Ok(targets) => return Ok(targets),
                // Once more, with a shorter list of CHAP algorithms.
                Err(_) if discovery.handle_disconnected() => {}
                Err(text) => {
                    failures.push(format!("{portal}: {text}"));
                    break;
                }
            }
        }
    }
    Err(failures.join("; "))
}

fn ask(
    portal: SocketAddr,
    discovery: &mut Discovery,
    deadline: Instant,
) -> Result<Vec<DiscoveredTarget>, String> {
    let mut stream = connect(portal, deadline)?;
    discovery.handle_connected(secrets::challenge(), Instant::now());
    let shown = |error: Error| error.to_string();
    loop {
        if let Some(targets) = discovery.poll_targets() {
            return Ok(targets);
        }
        let mut slices = [&[][..]; 8];
        let count = discovery.poll_transmit(&mut slices);
        if count > 0 {
            let slices = slices.map(IoSlice::new);
            match stream.write_vectored(&slices[..count]) {
                Ok(sent) => discovery.sent(sent, Instant::now()),
                Err(error) if is_temporary(&error) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        let has_more = discovery.poll_transmit(&mut [&[][..]; 1]) > 0;
        let out = if has_more { PollFlags::OUT } else { PollFlags::empty() };
        let until = discovery.next_deadline().map_or(deadline, |own| own.min(deadline));
        wait(&stream, PollFlags::IN | out, until);
        if Instant::now() >= deadline {
            return Err("the target has not answered in time".into());
        }
        match stream.read(discovery.recv_space()) {
            Ok(0) => return Err(shown(discovery.lost("closed by the target"))),
            Ok(count) => discovery.received(count, Instant::now()).map_err(shown)?,
            Err(error) if is_temporary(&error) => {}
            Err(error) => return Err(error.to_string()),
        }
        discovery.handle_timeout(Instant::now()).map_err(shown)?;
    }
}

fn connect(portal: SocketAddr, deadline: Instant) -> Result<std::net::TcpStream, String> {
    let now = Instant::now();
    let deadline = deadline.min(now + CONNECT_TIMEOUT);
    let mut connecting =
        tcp::connect(portal, Origin::default(), now, deadline).map_err(|e| e.to_string())?;
    loop {
        wait(&connecting.fd(), PollFlags::OUT, connecting.deadline());
        match connecting.poll_stream(Instant::now()) {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => return Err(error.to_string()),
            Err(undecided) => connecting = undecided,
        }
    }
}

fn wait(fd: &impl std::os::fd::AsFd, flags: PollFlags, deadline: Instant) {
    let timeout = deadline.saturating_duration_since(Instant::now());
    let timeout = Timespec::try_from(timeout).ok();
    // An interrupted wait is a short one.
    let _ = poll(&mut [PollFd::new(fd, flags)], timeout.as_ref());
}

fn is_temporary(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
