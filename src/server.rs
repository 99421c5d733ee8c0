//! The target server: listens, lets connections log in, gives each session a thread, and stops
//! cleanly.
//!
//! What reaches the port without a login costs little and has an end: at most 512 connections at a
//! time, at most 128 KiB and 15 seconds each, all in the thread that listens (`lobby`).
//!
//! A command is executed by the thread of its session, so one session's commands follow each other,
//! and sessions do not wait for each other except where the standard wants it: a login ends an
//! older session of the same name first, a reset waits for what is being executed.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use self::connection::{Connection, timespec_until};
use self::lobby::{Claimant, Lobby};
use self::sanitizers::Sanitizers;
use self::sessions::{Sessions, Word};
use crate::net::tcp;
use crate::proto::LoginStatus;
use crate::proto::target::TargetConfig;
use crate::wire::root_path::DEFAULT_PORT;

mod connection;
mod lobby;
mod sanitizers;
mod sessions;
mod setup;

pub use self::setup::{Setup, SetupError};

/// Sessions at a time.
const SESSIONS_MAX: usize = 256;
/// How long initiators may take to log out when the server stops.
const LOGOUT_PATIENCE: Duration = Duration::from_secs(3);
/// How long connections may then take to end.
const STOP_PATIENCE: Duration = Duration::from_secs(10);
/// No connection is accepted for this time after the system had no room for one.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections accepted before others are served again.
const ACCEPT_BURST: usize = 64;

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

    /// Serves until SIGTERM or SIGINT; then asks the initiators to log out, lets every session
    /// finish the commands that it has begun, and makes everything stable that was written.
    pub fn run(self) -> Result<(), Error> {
        let sessions = Arc::new(Sessions::new(self.config.units.len()));
        let sanitizers = Sanitizers::new(self.config.clone(), sessions.clone());
        self.serve_until_signal(&sessions, &sanitizers)?;
        drop(self.listeners);
        if !sessions.tell_all(Word::LogOut, LOGOUT_PATIENCE)
            && !sessions.tell_all(Word::Leave, STOP_PATIENCE)
        {
            log::warn!("{} sessions do not end", sessions.len());
        }
        sanitizers.stop();
        for (number, unit) in self.config.units.iter().enumerate() {
            if let Err(sense) = unit.flush() {
                log::error!("flush of LUN {number}: {sense}");
            }
        }
        Ok(())
    }

    fn serve_until_signal(
        &self,
        sessions: &Arc<Sessions>,
        sanitizers: &Arc<Sanitizers>,
    ) -> Result<(), Error> {
        raise_descriptor_limit();
        let mut lobby = Lobby::default();
        let mut paused: Option<Instant> = None;
        loop {
            let deadline = paused.into_iter().chain(lobby.next_deadline()).min();
            let listening = if paused.is_some() { PollFlags::empty() } else { PollFlags::IN };
            let mut fds = vec![PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN)];
            fds.extend(self.listeners.iter().map(|fd| PollFd::new(fd, listening)));
            fds.extend(lobby.poll_fds());
            match poll(&mut fds, deadline.map(timespec_until).as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(system("wait for connections")(errno)),
            }
            let ready: Vec<PollFlags> = fds.iter().map(PollFd::revents).collect();
            drop(fds);
            let (signalled, ready) = (!ready[0].is_empty(), &ready[1..]);
            let (ready, visitors) = ready.split_at(self.listeners.len());
            if signalled && let Ok(Some(signal)) = self.signals.read_signal() {
                log::info!("signal {}: stopping", signal.ssi_signo);
                return Ok(());
            }
            let now = Instant::now();
            for claimant in lobby.turn(visitors, now) {
                self.begin(claimant, (sessions, sanitizers), &mut lobby, now);
            }
            paused = paused.filter(|until| *until > now);
            for (listener, ready) in self.listeners.iter().zip(ready) {
                if !ready.is_empty() && !self.accept(listener, &mut lobby, now) {
                    paused = Some(now + ACCEPT_PAUSE);
                }
            }
        }
    }

    /// Takes what is there; false if the system has no room for more.
    fn accept(&self, listener: &TcpListener, lobby: &mut Lobby, now: Instant) -> bool {
        for _ in 0..ACCEPT_BURST {
            let (stream, peer) = match listener.accept() {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) if is_lack_of_room(&error) && lobby.send_one_away(now) => continue,
                Err(error) => {
                    log::warn!("accept: {error}");
                    return !is_lack_of_room(&error);
                }
            };
            let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
            let entered = tcp::tune_accepted(&stream)
                .and_then(|()| lobby.enter(stream, peer, self.config.clone(), now));
            if let Err(error) = entered {
                log::warn!("connection from {peer}: {error}");
            }
        }
        true
    }

    /// Gives a good login its thread.
    fn begin(
        &self,
        claimant: Claimant,
        (sessions, sanitizers): (&Arc<Sessions>, &Arc<Sanitizers>),
        lobby: &mut Lobby,
        now: Instant,
    ) {
        const OUT_OF_RESOURCES: LoginStatus = LoginStatus { class: 3, detail: 2 };
        let peer = claimant.peer;
        let handle = match sessions.enter(&claimant.session, SESSIONS_MAX) {
            Ok(Some(handle)) => handle,
            Ok(None) => {
                log::warn!("login from {peer} refused: there are {SESSIONS_MAX} sessions already");
                return lobby.refuse(claimant, OUT_OF_RESOURCES, now);
            }
            Err(error) => {
                log::warn!("login from {peer} refused: {error}");
                return lobby.refuse(claimant, OUT_OF_RESOURCES, now);
            }
        };
        let guard = Leave { sessions: sessions.clone(), handle: handle.clone() };
        let (session, discovery) = (claimant.session.clone(), claimant.discovery);
        let connection = Connection::new(claimant, handle, sessions.clone(), sanitizers.clone());
        let thread = thread::Builder::new().name(format!("session {peer}")).spawn(move || {
            let _guard = guard;
            connection.run(&session, discovery);
        });
        if let Err(error) = thread {
            log::warn!("session from {peer}: {error}");
        }
    }
}

/// A session needs two file descriptors, a connection before it one; the usual soft limit of 1024
/// is less than the hard one and less than they may be together.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(errno) =
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
    {
        log::warn!("limit of file descriptors stays at {:?}: {errno}", limit.current);
    }
}

fn is_lack_of_room(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM))
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
