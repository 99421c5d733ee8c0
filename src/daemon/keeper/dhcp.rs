//! The DHCP client of a link together with its port.

use std::io;
use std::net::SocketAddrV4;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use log::{debug, warn};

use crate::net::udp::Port;
use crate::proto::dhcp::{DhcpClient, Event};
use crate::wire::dhcp::{CLIENT_PORT, SERVER_PORT};

/// A client that talks.
pub struct Dhcp {
    /// Who decides what to say.
    pub client: DhcpClient,
    port: Port,
    heard: Vec<u8>,
}

impl Dhcp {
    /// For a link without an address. Nothing is sent yet.
    pub fn open(link_index: u32, client: DhcpClient) -> io::Result<Dhcp> {
        Ok(Dhcp { client, port: Port::open(link_index, CLIENT_PORT)?, heard: Vec::new() })
    }

    /// The link has an address.
    pub(super) fn use_address(&mut self) -> io::Result<()> {
        self.port.use_address()
    }

    /// Readable when [`Dhcp::advance`] may have something.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.port.fd()
    }

    /// The message that came last.
    pub fn heard(&self) -> &[u8] {
        &self.heard
    }

    /// Messages in, messages out, until something is to be known; `None` until `fd` is readable or
    /// the client's deadline has come. `link` is the name of the link, for the log.
    pub fn advance(&mut self, link: &str) -> Option<Event> {
        loop {
            self.transmit(link);
            if let Some(event) = self.client.poll_event() {
                return Some(event);
            }
            match self.port.recv() {
                Ok(Some(message)) => {
                    if let Err(malformed) = self.client.handle_message(&message, Instant::now()) {
                        debug!("{link}: {malformed}");
                    }
                    self.heard = message;
                }
                Ok(None) => break,
                Err(error) => {
                    warn!("{link}: receiving DHCP: {error}");
                    break;
                }
            }
        }
        self.client.handle_timeout(Instant::now());
        self.transmit(link);
        self.client.poll_event()
    }

    fn transmit(&mut self, link: &str) {
        while let Some(transmit) = self.client.poll_transmit() {
            let to = SocketAddrV4::new(transmit.destination, SERVER_PORT);
            if let Err(error) = self.port.send(transmit.source, to, &transmit.payload) {
                debug!("{link}: sending DHCP: {error}");
            }
        }
    }
}
