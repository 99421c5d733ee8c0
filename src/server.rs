//! The target server: listens, gives each connection a thread, and stops cleanly.
//!
//! A command is executed by the thread of its connection, so one session's commands follow each
//! other, and sessions do not wait for each other except where the standard wants it: a login ends
//! an older session of the same name first, a reset waits for what is being executed.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use self::connection::Connection;
use self::sessions::Sessions;
use crate::net::tcp;
use crate::proto::target::TargetConfig;
use crate::wire::root_path::DEFAULT_PORT;

mod connection;
mod sessions;
mod setup;

pub use self::setup::{Setup, SetupError};

/// Connections at a time, logged in or not.
const CONNECTIONS_MAX: usize = 256;
/// How long connections may take to end when the server stops.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// A server that listens and is not yet running.
#[derive(Debug)]
pub struct Server {
    config: Arc<TargetConfig>,
    listeners: Vec<TcpListener>,
    signals: SignalFd,
}

/// Why the server cannot run.
#[derive(Debug)]
pub enum Error {
    /// An address cannot be listened on.
    Listen(tcp::Error),
    /// Something else of the operating system failed.
    System {
        /// What was being done.
        doing: &'static str,
        /// The reason.
        source: io::Error,
    },
}

impl Server {
    /// Listens on all addresses; on all of this machine's, at the usual port, if there are none.
    /// From here on SIGTERM and SIGINT of this process end
    /// [`Server::run`] instead of the process.
    pub fn listen(addresses: &[SocketAddr], mut config: TargetConfig) -> Result<Server, Error> {
        let mut listeners = Vec::new();
        for address in addresses {
            listeners.push(tcp::listen(*address).map_err(Error::Listen)?);
        }
        if addresses.is_empty() {
            listeners.push(listen_everywhere().map_err(Error::Listen)?);
        }
        let listening = listeners.iter().filter_map(|listener| listener.local_addr().ok());
        config.portals = listening.filter(|address| !address.ip().is_unspecified()).collect();
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGTERM);
        mask.add(Signal::SIGINT);
        // Before any thread exists, so that all of them inherit the mask.
        mask.thread_block().map_err(system("block signals"))?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&mask, flags).map_err(system("make a signalfd"))?;
        Ok(Server { config: Arc::new(config), listeners, signals })
    }

    /// The addresses that it really listens on: the port that 0 became.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// Serves until SIGTERM or SIGINT; then lets every session finish the commands that it has
    /// begun, and makes everything stable that was written.
    pub fn run(self) -> Result<(), Error> {
        let sessions = Arc::new(Sessions::new(self.config.units.len()));
        loop {
            let mut fds = vec![PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN)];
            fds.extend(self.listeners.iter().map(|fd| PollFd::new(fd, PollFlags::IN)));
            match poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(system("wait for connections")(errno)),
            }
            let signalled = !fds[0].revents().is_empty();
            let ready: Vec<bool> = fds[1..].iter().map(|fd| !fd.revents().is_empty()).collect();
            if signalled && let Ok(Some(signal)) = self.signals.read_signal() {
                log::info!("signal {}: stopping", signal.ssi_signo);
                break;
            }
            for (listener, _) in self.listeners.iter().zip(ready).filter(|(_, ready)| *ready) {
                self.accept(listener, &sessions);
            }
        }
        drop(self.listeners);
        if !sessions.stop_all(STOP_PATIENCE) {
            log::warn!("{} sessions do not end", sessions.len());
        }
        for (number, unit) in self.config.units.iter().enumerate() {
            if let Err(sense) = unit.flush() {
                log::error!("flush of LUN {number}: {sense}");
            }
        }
        Ok(())
    }

    fn accept(&self, listener: &TcpListener, sessions: &Arc<Sessions>) {
        let (stream, peer) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) => {
                log::warn!("accept: {error}");
                return;
            }
        };
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        if let Err(error) = self.serve(stream, peer, sessions) {
            log::warn!("connection from {peer}: {error}");
        }
    }

    fn serve(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        sessions: &Arc<Sessions>,
    ) -> io::Result<()> {
        tcp::tune_accepted(&stream)?;
        let Some(handle) = sessions.enter(CONNECTIONS_MAX)? else {
            let reason = format!("refused: there are {CONNECTIONS_MAX} already");
            return Err(io::Error::other(reason));
        };
        let guard = Leave { sessions: sessions.clone(), handle: handle.clone() };
        let (config, sessions) = (self.config.clone(), sessions.clone());
        let connection = Connection::new(stream, peer, config, handle, sessions)?;
        let name = format!("session {peer}");
        thread::Builder::new().name(name).spawn(move || {
            let _guard = guard;
            connection.run();
        })?;
        Ok(())
    }
}

/// Takes a connection off the table however its thread ends.
struct Leave {
    sessions: Arc<Sessions>,
    handle: Arc<sessions::Handle>,
}

impl Drop for Leave {
    fn drop(&mut self) {
        self.sessions.leave(&self.handle);
    }
}

/// `[::]` takes IPv4 as well; a machine without IPv6 has only 0.0.0.0.
fn listen_everywhere() -> Result<TcpListener, tcp::Error> {
    let listen = |ip| tcp::listen(SocketAddr::new(ip, DEFAULT_PORT));
    match listen(IpAddr::V6(Ipv6Addr::UNSPECIFIED)) {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
            listen(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
        }
        result => result,
    }
}

fn system<E: Into<io::Error>>(doing: &'static str) -> impl Fn(E) -> Error {
    move |source| Error::System { doing, source: source.into() }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Listen(error) => error.fmt(f),
            Error::System { doing, source } => write!(f, "{doing}: {source}"),
        }
    }
}

impl std::error::Error for Error {}
