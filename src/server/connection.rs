//! One session: socket in, [`Target`], socket out. One thread, one poll. It begins when a login is
//! good; what comes before is the business of the [lobby](super::lobby).

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::LOGOUT_PATIENCE;
use super::lobby::Claimant;
use super::sanitizers::Sanitizers;
use super::sessions::{Handle, SeenResets, Sessions, Word};
use crate::proto::LoginStatus;
use crate::proto::target::{End, Event, SessionName, Target, Written};

/// How long a session may take to end when its initiator logs in anew.
const REINSTATEMENT_PATIENCE: Duration = Duration::from_secs(20);
/// How long the last answers may take to reach an initiator.
const FAREWELL_PATIENCE: Duration = Duration::from_secs(5);
/// The same when the server stops and the initiator was asked to log out before.
const LEAVE_PATIENCE: Duration = Duration::from_secs(1);
/// Slices of one system call.
const SLICES: usize = 128;

/// A connection and what it shares with the others.
pub(super) struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    target: Target,
    handle: Arc<Handle>,
    sessions: Arc<Sessions>,
    sanitizers: Arc<Sanitizers>,
    seen: SeenResets,
    /// The socket has taken all it could.
    blocked: bool,
    /// It is in its full feature phase; the log line of its end says so.
    logged_in: bool,
    /// The initiator was asked to log out.
    asked: bool,
}

/// Why a connection is over.
pub(super) enum Over {
    /// The target says so.
    Ended(End),
    /// The initiator has closed the connection without a logout.
    Closed,
    /// The operating system says so.
    Failed(io::Error),
    /// The server stops, or the initiator has logged in again.
    Stopped,
    /// It was reported already.
    Said,
}

impl Over {
    /// The log line of an end, with what the session leaves behind if there was one.
    pub(super) fn report(
        &self,
        initiator: Option<&str>,
        peer: SocketAddr,
        written: Option<&Written>,
    ) {
        let who = initiator.unwrap_or("unknown initiator").escape_debug();
        let logged_in = written.is_some();
        let left = written.filter(|written| written.writes > 0);
        let left = left.map(|written| format!("; {written}")).unwrap_or_default();
        match self {
            Over::Ended(End::LoggedOut) => log::info!("logout of {who} at {peer}{left}"),
            Over::Ended(End::ColdReset) => {
                log::warn!("cold reset by {who} at {peer}: all sessions end");
            }
            Over::Ended(End::Refused(error)) => {
                log::warn!("login of {who} at {peer} refused: {error}");
            }
            Over::Ended(End::Failed(error)) => {
                log::warn!("session of {who} at {peer}: {error}{left}");
            }
            Over::Closed if logged_in => log::info!(
                "session of {who} at {peer}: closed by the initiator without logout{left}"
            ),
            // Whoever reaches the port can do that a thousand times a second.
            Over::Closed => log::debug!("connection from {peer} closed before its login"),
            Over::Failed(error) if !logged_in => log::debug!("connection from {peer}: {error}"),
            Over::Failed(error) => log::warn!("session of {who} at {peer}: {error}{left}"),
            Over::Stopped => log::info!("session of {who} at {peer}: ended by this target{left}"),
            Over::Said => {}
        }
    }
}

impl Connection {
    /// A session that begins with the claim of a good login.
    pub(super) fn new(
        claimant: Claimant,
        handle: Arc<Handle>,
        sessions: Arc<Sessions>,
        sanitizers: Arc<Sanitizers>,
    ) -> Connection {
        let Claimant { stream, peer, target, .. } = claimant;
        let seen = sessions.look();
        Connection {
            stream,
            peer,
            target,
            handle,
            sessions,
            sanitizers,
            seen,
            blocked: false,
            logged_in: false,
            asked: false,
        }
    }

    /// Serves until the end.
    pub(super) fn run(mut self, session: &SessionName, discovery: bool) {
        self.claim(session, discovery);
        let mut step = self.drain();
        let over = loop {
            match step {
                Ok(()) => step = self.turn(),
                Err(over) => break over,
            }
        };
        self.say_farewell(&over);
        let written = self.logged_in.then(|| self.target.written());
        over.report(Some(&session.initiator), self.peer, written);
    }

    /// Waits for one thing, takes it in, and brings everything out that follows from it.
    fn turn(&mut self) -> Result<(), Over> {
        let wants_more = !self.target.recv_space().is_empty();
        let mut interest = PollFlags::empty();
        interest.set(PollFlags::IN, wants_more);
        interest.set(PollFlags::OUT, self.blocked);
        let mut fds = [
            PollFd::new(&self.stream, interest),
            PollFd::from_borrowed_fd(self.handle.fd(), PollFlags::IN),
        ];
        let timeout = self.target.next_deadline().map(timespec_until);
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(Over::Failed(errno.into())),
        }
        let [socket, wake] = [fds[0].revents(), fds[1].revents()];
        if !wake.is_empty() {
            self.handle.hear();
            self.obey()?;
            self.target.handle_sanitized();
        }
        if socket.contains(PollFlags::OUT) {
            self.blocked = false;
        }
        self.hear_of_resets();
        if socket.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            self.receive()?;
        }
        if self.target.next_deadline().is_some_and(|deadline| deadline <= Instant::now()) {
            self.target.handle_timeout(Instant::now());
        }
        self.drain()
    }

    /// Does what others want of this connection.
    fn obey(&mut self) -> Result<(), Over> {
        match self.handle.word() {
            Word::Serve => {}
            Word::LogOut if self.asked => {}
            Word::LogOut => {
                self.asked = true;
                self.target.ask_for_logout(LOGOUT_PATIENCE);
            }
            Word::Leave => {
                self.target.leave();
                return Err(Over::Stopped);
            }
            Word::Stop => return Err(Over::Stopped),
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<(), Over> {
        let space = self.target.recv_space();
        if space.is_empty() {
            // Only an error or a hang-up brings us here; writing will tell which.
            return Ok(());
        }
        match self.stream.read(space) {
            Ok(0) => Err(Over::Closed),
            Ok(count) => {
                self.target.received(count, Instant::now());
                Ok(())
            }
            Err(error) if is_transient(&error) => Ok(()),
            Err(error) => Err(Over::Failed(error)),
        }
    }

    /// Does everything that the target asks for, until nothing is left but waiting.
    fn drain(&mut self) -> Result<(), Over> {
        loop {
            let mut progress = false;
            while let Some(event) = self.target.poll_event() {
                progress = true;
                self.handle_event(event)?;
            }
            progress |= self.transmit()?;
            if !progress {
                return Ok(());
            }
        }
    }

    fn handle_event(&mut self, event: Event) -> Result<(), Over> {
        match event {
            Event::Command { tag, lun, alone } => loop {
                let gate = self.sessions.pass(lun, alone, &self.seen, &self.handle);
                if gate.is_some() {
                    // If it has been aborted meanwhile, this does nothing.
                    self.target.execute(tag);
                    break;
                }
                drop(gate);
                self.obey()?;
                self.hear_of_resets();
            },
            // It was claimed before this connection had a thread.
            Event::Claim { .. } => {}
            Event::Reset { lun: Some(lun), sessions: Some(sessions) } => {
                let who = self.target.initiator().unwrap_or_default().escape_debug();
                log::info!("reservations of LUN {lun} preempted by {who} at {}", self.peer);
                self.sessions.abort(lun, &sessions);
                self.target.reset_done();
            }
            Event::Reset { lun, .. } => {
                let who = self.target.initiator().unwrap_or_default().escape_debug();
                log::info!("reset by {who} at {}", self.peer);
                self.sessions.reset(lun, &mut self.seen);
                self.target.reset_done();
            }
            Event::Sanitize { lun } => {
                let who = self.target.initiator().unwrap_or_default().escape_debug();
                log::warn!("SANITIZE of LUN {lun} by {who} at {}", self.peer);
                self.sanitizers.begin(lun);
            }
            Event::Ended(end) => {
                if end == End::ColdReset {
                    self.sessions.tell_others(&self.handle, Word::Leave);
                }
                return Err(Over::Ended(end));
            }
        }
        Ok(())
    }

    /// Ends the commands that others have made void.
    fn hear_of_resets(&mut self) {
        for lun in self.sessions.news(&mut self.seen, &self.handle) {
            self.target.handle_reset(Some(lun));
        }
    }

    /// Ends an older session of the same name, and begins this one.
    fn claim(&mut self, session: &SessionName, discovery: bool) {
        let reinstated = if discovery {
            Ok(false)
        } else {
            self.sessions.claim(session, &self.handle, REINSTATEMENT_PATIENCE)
        };
        match reinstated {
            Ok(reinstated) => self.admit(&session.initiator, discovery, reinstated),
            Err(()) => self.target.refuse(LoginStatus { class: 3, detail: 1 }),
        }
    }

    fn admit(&mut self, initiator: &str, discovery: bool, reinstated: bool) {
        self.target.admit(self.sessions.tsih(), Instant::now());
        self.logged_in = true;
        let kind = match (discovery, reinstated) {
            (true, _) => " for discovery",
            (false, true) => ", taking over from an older session of the same name",
            (false, false) => "",
        };
        log::info!("login of {} at {}{kind}", initiator.escape_debug(), self.peer);
    }

    /// Writes once; whether something went.
    fn transmit(&mut self) -> Result<bool, Over> {
        if self.blocked || self.target.is_drained() {
            return Ok(false);
        }
        let taken = write_once(&self.stream, &mut self.target)?;
        self.blocked = !taken;
        Ok(taken)
    }

    /// Sends what is left, such as the answer to a logout, and closes so that it arrives.
    fn say_farewell(&mut self, over: &Over) {
        if matches!(over, Over::Closed | Over::Failed(_)) {
            return;
        }
        let leaving = self.handle.word() == Word::Leave;
        let patience = if leaving { LEAVE_PATIENCE } else { FAREWELL_PATIENCE };
        let deadline = Instant::now() + patience;
        self.blocked = false;
        while !self.target.is_drained() && Instant::now() < deadline {
            match self.transmit() {
                Ok(true) => continue,
                Ok(false) => {}
                Err(_) => return,
            }
            let mut fds = [PollFd::new(&self.stream, PollFlags::OUT)];
            if poll(&mut fds, Some(&timespec_until(deadline))).is_ok() {
                self.blocked = false;
            }
        }
        // Closing with unread bytes would send a reset, and that could overtake the last answer.
        let _ = self.stream.shutdown(Shutdown::Write);
        let mut rest = [0; 4096];
        while Instant::now() < deadline {
            match self.stream.read(&mut rest) {
                Ok(0) => return,
                Ok(_) => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
            let mut fds = [
                PollFd::new(&self.stream, PollFlags::IN),
                PollFd::from_borrowed_fd(self.handle.fd(), PollFlags::IN),
            ];
            // Whoever waits for our end must not wait for the initiator's.
            let stop = self.handle.word() == Word::Stop;
            if stop || poll(&mut fds, Some(&timespec_until(deadline))).is_err() {
                return;
            }
        }
    }
}

/// The address that the initiator has connected to. An IPv4 address that came in through [::] is
/// announced as what it is.
pub(super) fn portal_of(stream: &TcpStream) -> io::Result<SocketAddr> {
    let local = stream.local_addr()?;
    Ok(SocketAddr::new(local.ip().to_canonical(), local.port()))
}

/// Writes what there is, with one system call; false if the socket takes nothing now.
pub(super) fn write_once(mut stream: &TcpStream, target: &mut Target) -> Result<bool, Over> {
    let mut slices: [&[u8]; SLICES] = [&[]; SLICES];
    let count = target.poll_transmit(&mut slices);
    let slices = slices.map(IoSlice::new);
    match stream.write_vectored(&slices[..count]) {
        Ok(count) => {
            target.sent(count);
            Ok(true)
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
        Err(error) if is_transient(&error) => Ok(true),
        Err(error) => Err(Over::Failed(error)),
    }
}

pub(super) fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

pub(super) fn timespec_until(deadline: Instant) -> Timespec {
    let left = deadline.saturating_duration_since(Instant::now());
    // Rounded up to a millisecond, so that a deadline has passed when the wait is over.
    let left = left + Duration::from_millis(1);
    Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) }
}
