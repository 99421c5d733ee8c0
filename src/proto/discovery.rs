//! A discovery session: which targets does a portal have (RFC 7143 §4.3, Appendix C).
//!
//! One login, one SendTargets, and that is all: no retry and no request of the block layer.

use std::time::Instant;

use super::Error;
use super::chap::Challenge;
use super::initiator::{Happened, Initiator, Patience};
use super::login::LoginConfig;
use super::task::TaskTable;
use crate::wire::text;

/// A target as SendTargets names it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiscoveredTarget {
    /// TargetName.
    pub name: String,
    /// Each TargetAddress, as it came: `address[:port],group`.
    pub addresses: Vec<String>,
}

/// The session, driven like every machine of this floor, over a transport that is up already.
pub struct Discovery {
    initiator: Initiator,
    tasks: TaskTable,
    targets: Option<Vec<DiscoveredTarget>>,
    config: LoginConfig,
}

impl Discovery {
    /// A session that does nothing yet. `config` must have no target.
    pub fn new(config: LoginConfig, patience: Patience) -> Discovery {
        let initiator = Initiator::new(patience, 0, config.offer.max_recv_bytes);
        Discovery { initiator, tasks: TaskTable::new(0), targets: None, config }
    }

    /// The transport is up: begins the login. `challenge` is made of new random bytes.
    pub fn handle_connected(&mut self, challenge: Challenge, now: Instant) {
        self.initiator.connected(&self.config, challenge, now);
    }

    /// The transport is gone, or an error has ended its use; whether one more is worth a try,
    /// because the target may have refused our list of CHAP algorithms.
    pub fn handle_disconnected(&mut self) -> bool {
        let falls_back = self.initiator.falls_back();
        self.initiator.disconnected();
        falls_back
    }

    /// What it means that the transport is gone now; `reason` is what the operating system said.
    pub fn lost(&self, reason: &str) -> Error {
        self.initiator.lost(Error::Transport(reason.into()))
    }

    /// Where the next bytes from the transport go.
    pub fn recv_space(&mut self) -> &mut [u8] {
        self.initiator.recv_space(&mut self.tasks)
    }

    /// `count` bytes came to where [`Discovery::recv_space`] said.
    pub fn received(&mut self, count: usize, now: Instant) -> Result<(), Error> {
        self.initiator.received(count, now, &mut self.tasks)?;
        while let Some(happened) = self.initiator.poll_happened() {
            match happened {
                Happened::LoggedIn(_) => self.initiator.send_targets(),
                Happened::Text(text) => self.targets = Some(targets(&text)?),
                Happened::Leave { .. } => return Err(Error::TargetClosing),
                Happened::Finished(_)
                | Happened::LoggedOut
                | Happened::Managed { .. }
                | Happened::Attention(_) => {}
            }
        }
        Ok(())
    }

    /// The next slices for the transport; returns how many of `slices` were filled.
    pub fn poll_transmit<'a>(&'a self, slices: &mut [&'a [u8]]) -> usize {
        self.initiator.transmit(slices, &self.tasks)
    }

    /// `count` bytes of them went out.
    pub fn sent(&mut self, count: usize, now: Instant) {
        self.initiator.sent(count, now, &mut self.tasks);
    }

    /// When [`Discovery::handle_timeout`] is due.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.initiator.next_deadline()
    }

    /// A deadline may have passed.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), Error> {
        self.initiator.handle_timeout(now)
    }

    /// The answer, once it is there.
    pub fn poll_targets(&mut self) -> Option<Vec<DiscoveredTarget>> {
        self.targets.take()
    }
}

fn targets(text: &[u8]) -> Result<Vec<DiscoveredTarget>, Error> {
    let mut targets: Vec<DiscoveredTarget> = Vec::new();
    for pair in text::pairs(text) {
        match pair? {
            ("TargetName", name) => {
                targets.push(DiscoveredTarget { name: name.to_owned(), addresses: Vec::new() });
            }
            ("TargetAddress", address) => {
                if let Some(target) = targets.last_mut() {
                    target.addresses.push(address.to_owned());
                }
            }
            _ => {}
        }
    }
    Ok(targets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_belong_to_the_name_before_them() {
        let text = b"TargetName=iqn.a:1\0TargetAddress=192.0.2.1:3260,1\0\
                     TargetAddress=[2001:db8::1]:3260,1\0TargetName=iqn.a:2\0";
        let found = targets(text).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].addresses, ["192.0.2.1:3260,1", "[2001:db8::1]:3260,1"]);
        assert_eq!(found[1], DiscoveredTarget { name: "iqn.a:2".into(), addresses: vec![] });
    }
}
