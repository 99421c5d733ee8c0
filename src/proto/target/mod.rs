//! The target's side of one connection, which here is one session: the mirror of the initiator.
//!
//! [`Target`] follows the driving contract of [`proto`](super): bytes come in through
//! [`Target::recv_space`] and [`Target::received`], go out through [`Target::poll_transmit`] and
//! [`Target::sent`], and [`Target::poll_event`] says what its owner has to do:
//!
//! - [`Event::Claim`]: a login is good. End an older session of the same name first, then
//!   [`Target::admit`] (RFC 7143 §6.3.5).
//! - [`Event::Command`]: [`Target::execute`] it, some with nobody else at the logical unit. Only
//!   there are the stores touched.
//! - [`Event::Reset`]: make sure that no command of another session that came earlier will still be
//!   executed, by [`Target::handle_reset`] of that session; then [`Target::reset_done`].
//! - [`Event::Sanitize`]: see to it beside all else.
//! - [`Event::Ended`]: send what is left and close the connection.
//!
//! Limits of one connection: 128 commands in the window and 16 immediate ones; write buffers of
//! 32 MiB for which data is being asked, beside the first bursts (FirstBurstLength) that come
//! unasked; 4 MiB and one transfer (8 MiB) of read data that waits to be sent; 16 MiB of idle
//! buffers. Before the end of a login: 16 KiB of text, 64 KiB of answers, 64 requests, 15 seconds,
//! one try to prove who it is; 128 KiB of memory in all.

mod buffers;
mod config;
mod full_feature;
mod login;
mod output;
mod sanitizing;
mod security;
mod task;
mod task_management;
mod text;
mod window;
mod written;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use self::config::{Redirect, TargetConfig};
use self::full_feature::FullFeature;
use self::login::{Login, Step};
use self::output::Output;
use self::task::Placement;
pub use self::written::Written;
use super::chap::Challenge;
use super::error::{Error, LoginStatus};
use super::params::LOGIN_DATA_SEGMENT_BYTES_MAX;
use crate::wire::frame::{DataEnd, FrameError, Reader};
use crate::wire::pdu::{Bhs, Header, Isid, LoginRequest, LoginResponse, Request};
use crate::wire::scsi::Lun;

/// Commands that an initiator may have under way (MaxCmdSN - ExpCmdSN + 1 when none is).
pub(super) const COMMAND_WINDOW: u32 = 128;
/// Stream buffer: many small commands for each system call.
const STREAM_BYTES: usize = 256 * 1024;
/// The same before the end of a login: whoever reaches the port can have one.
const LOGIN_STREAM_BYTES: usize = 2048;
/// Data segments from here on are received straight into their buffer; for shorter ones a system
/// call of their own costs more than the copy.
const DIRECT_BYTES_MIN: u32 = 32 * 1024;
/// Time from the connection to the end of the login.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(15);

/// The names by which a session is known again: initiator and ISID; the portal group is always the
/// same one (RFC 7143 §4.4.3).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SessionName {
    /// InitiatorName.
    pub initiator: String,
    /// Initiator part of the session identifier.
    pub isid: Isid,
}

/// A command of this connection until it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag(u16);

/// What the owner of a [`Target`] has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A login is good; answer with [`Target::admit`] or [`Target::refuse`].
    Claim {
        /// Whose session.
        session: SessionName,
        /// It only wants to know what is there, so no other session is in its way.
        discovery: bool,
    },
    /// Call [`Target::execute`].
    Command {
        /// For `execute`.
        tag: Tag,
        /// The logical unit that the command is for.
        lun: Lun,
        /// No other command of any session may be executed at that unit at the same time: it
        /// looks at what is there and changes it.
        alone: bool,
    },
    /// Tasks of other sessions are to be ended; answer with [`Target::reset_done`].
    Reset {
        /// Of this logical unit, or of all.
        lun: Option<Lun>,
        /// Of these sessions, which are others than this one, or of all.
        sessions: Option<Vec<SessionName>>,
    },
    /// A sanitize operation of this logical unit has begun: in another thread call
    /// [`LogicalUnit::sanitize`](super::logical_unit::LogicalUnit::sanitize) until it is over, and
    /// then [`Target::handle_sanitized`] of every session.
    Sanitize {
        /// Which one.
        lun: Lun,
    },
    /// Nothing more will come or go but what is still to be sent.
    Ended(End),
}

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The initiator logged out.
    LoggedOut,
    /// The initiator has reset the whole target, cold: all sessions end, those of others too.
    ColdReset,
    /// The login was refused.
    Refused(Error),
    /// Somebody broke the rules, or nobody answered.
    Failed(Error),
}

/// One connection of an initiator.
#[derive(Debug)]
pub struct Target {
    config: Arc<TargetConfig>,
    portal: SocketAddr,
    reader: Reader,
    output: Output,
    state: State,
    receiving: Receiving,
    /// Data segments of login, text and NOP-Out.
    segment: Vec<u8>,
    /// The last bytes were received past the stream buffer.
    direct: bool,
    events: VecDeque<Event>,
    /// By the session that has ended.
    written: Written,
}

#[derive(Debug)]
enum State {
    /// Until the deadline.
    InLogin(Box<Login>, Instant),
    /// The owner is asked whether the session may be.
    Claiming(Box<login::Claim>),
    LoggedIn(Box<FullFeature>),
    Ended,
}

/// The PDU whose data segment is being received.
#[derive(Debug)]
enum Receiving {
    /// None: a header comes next.
    Header,
    /// Collected in `segment`, then handled.
    Segment(Request, Bhs),
    /// Into a task's buffer or nowhere, then handled.
    Data(Request, Bhs, Placement),
    /// A PDU that was answered already.
    Nothing,
}

impl Target {
    /// A new connection. `portal` is the address that the initiator has connected to: the first one
    /// that it is told about, because that is one it can reach. `challenge` is made of new random
    /// bytes each time.
    pub fn new(
        config: Arc<TargetConfig>,
        portal: SocketAddr,
        challenge: Challenge,
        now: Instant,
    ) -> Target {
        let login = Box::new(Login::new(&config, challenge));
        Target {
            config,
            portal,
            reader: Reader::new(LOGIN_STREAM_BYTES, LOGIN_DATA_SEGMENT_BYTES_MAX),
            output: Output::new(),
            state: State::InLogin(login, now + LOGIN_TIMEOUT),
            receiving: Receiving::Header,
            segment: Vec::new(),
            direct: false,
            events: VecDeque::new(),
            written: Written::default(),
        }
    }

    /// Where the next bytes go. Empty when nothing can be taken before something was sent.
    pub fn recv_space(&mut self) -> &mut [u8] {
        self.direct = false;
        if matches!(self.state, State::Ended | State::Claiming(_)) {
            return &mut [];
        }
        if let (Receiving::Data(_, _, Placement::Task(tag, offset)), State::LoggedIn(session)) =
            (&self.receiving, &self.state)
        {
            let missing = self.reader.direct();
            if missing >= DIRECT_BYTES_MIN && session.has_buffer(*tag) {
                self.direct = true;
                let space = session.data_space(*tag, *offset, missing, &mut self.output);
                return space.expect("it has just been found to have one");
            }
        }
        self.reader.space()
    }

    /// `count` bytes were put at the beginning of [`Target::recv_space`].
    pub fn received(&mut self, count: usize, now: Instant) {
        if std::mem::take(&mut self.direct) {
            if let (Receiving::Data(_, _, Placement::Task(tag, offset)), State::LoggedIn(session)) =
                (&mut self.receiving, &self.state)
            {
                let bytes = session.data_space(*tag, *offset, count as u32, &mut self.output);
                self.reader.took_direct(bytes.expect("nothing happened since recv_space"));
                *offset += count as u32;
            }
        } else {
            self.reader.filled(count);
        }
        if let State::LoggedIn(session) = &mut self.state {
            session.heard(now);
        }
        self.advance();
    }

    /// A deadline passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        match &mut self.state {
            State::InLogin(_, deadline) if now >= *deadline => {
                let waiting_for = "end of the login";
                self.fail(Error::TimedOut { waiting_for, after: LOGIN_TIMEOUT });
            }
            State::LoggedIn(session) => {
                if let Err(error) = session.handle_timeout(now, &mut self.output) {
                    self.fail(error);
                }
            }
            _ => {}
        }
    }

    /// When to call [`Target::handle_timeout`] at the latest.
    pub fn next_deadline(&self) -> Option<Instant> {
        match &self.state {
            State::InLogin(_, deadline) => Some(*deadline),
            State::LoggedIn(session) => Some(session.next_deadline()),
            State::Claiming(_) | State::Ended => None,
        }
    }

    /// What the owner has to do next.
    pub fn poll_event(&mut self) -> Option<Event> {
        if let Some(event) = self.events.pop_front() {
            return Some(event);
        }
        match &mut self.state {
            State::LoggedIn(session) => session.next_news().or_else(|| {
                // Reads wait in their short form, as commands, until there is room for their data.
                self.output.has_room().then(|| session.next_command())?
            }),
            _ => None,
        }
    }

    /// Gathers what is to be sent next into `slices`; returns how many of them were filled.
    pub fn poll_transmit<'a>(&'a self, slices: &mut [&'a [u8]]) -> usize {
        self.output.gather(slices)
    }

    /// `count` bytes of the gathered slices have gone.
    pub fn sent(&mut self, count: usize) {
        self.output.sent(count);
        // PDUs may have waited in the stream buffer for room to answer them.
        self.advance();
    }

    /// Nothing waits to be sent.
    pub fn is_drained(&self) -> bool {
        self.output.is_empty()
    }

    /// Answer to [`Event::Claim`]: the session begins, with this identifier, which must not be 0.
    pub fn admit(&mut self, tsih: u16, now: Instant) {
        debug_assert_ne!(tsih, 0);
        let State::Claiming(claim) = std::mem::replace(&mut self.state, State::Ended) else {
            debug_assert!(false, "nobody claims a session");
            return;
        };
        let response = LoginResponse { tsih, ..claim.response };
        self.output.push(&response.emit(), claim.text.as_bytes());
        self.output.agree(claim.negotiated.digests);
        self.reader.enlarge(STREAM_BYTES);
        self.reader.agree(claim.negotiated.digests, claim.negotiated.max_recv_bytes);
        let session = FullFeature::new(*claim, self.config.clone(), self.portal, now);
        self.state = State::LoggedIn(Box::new(session));
        self.advance();
    }

    /// The other answer to [`Event::Claim`], for example that the old session does not end.
    pub fn refuse(&mut self, status: LoginStatus) {
        let State::Claiming(claim) = std::mem::replace(&mut self.state, State::Ended) else {
            return;
        };
        let response = LoginResponse {
            status_class: status.class,
            status_detail: status.detail,
            transit: false,
            next_stage: None,
            data_bytes: 0,
            ..claim.response
        };
        self.output.push(&response.emit(), &[]);
        self.end(End::Refused(Error::LoginRefused(status)));
    }

    /// Answer to [`Event::Command`]: executes it and queues the answer. A command that was aborted
    /// meanwhile is passed over.
    pub fn execute(&mut self, tag: Tag) {
        if let State::LoggedIn(session) = &mut self.state {
            session.execute(tag, &mut self.output);
        }
    }

    /// Answer to [`Event::Reset`]: the other sessions know.
    pub fn reset_done(&mut self) {
        if let State::LoggedIn(session) = &mut self.state
            && let Some(end) = session.reset_done(&mut self.output)
        {
            self.end(end);
        }
        self.advance();
    }

    /// Another session has reset a logical unit, or all: ends the tasks that it concerns.
    pub fn handle_reset(&mut self, lun: Option<Lun>) {
        if let State::LoggedIn(session) = &mut self.state {
            session.handle_reset(lun, &mut self.output);
        }
    }

    /// A sanitize operation may be over: answers the command that began it.
    pub fn handle_sanitized(&mut self) {
        if let State::LoggedIn(session) = &mut self.state {
            session.handle_sanitized(&mut self.output);
        }
    }

    /// The server wants to stop: asks the initiator to log out within `patience`, and serves it
    /// until then (RFC 7143 §11.9.1). A session that only looks for targets is not asked.
    pub fn ask_for_logout(&mut self, patience: Duration) {
        if let State::LoggedIn(session) = &mut self.state {
            session.ask_for_logout(patience, &mut self.output);
        }
    }

    /// The server stops: tells the initiator that its session ends. Nothing is handled any more,
    /// and the connection is to be closed when everything is sent.
    pub fn leave(&mut self) {
        if let State::LoggedIn(session) = &mut self.state {
            session.announce_end(&mut self.output);
        }
        self.forget();
    }

    /// What the session has written.
    pub fn written(&self) -> &Written {
        match &self.state {
            State::LoggedIn(session) => &session.written,
            _ => &self.written,
        }
    }

    /// The initiator, as soon as it has said who it is.
    pub fn initiator(&self) -> Option<&str> {
        match &self.state {
            State::InLogin(login, _) => login.initiator(),
            State::Claiming(claim) => Some(&claim.session.initiator),
            State::LoggedIn(session) => Some(session.initiator()),
            State::Ended => None,
        }
    }

    /// Handles everything that is there and that there is room to answer.
    fn advance(&mut self) {
        while self.output.has_room_for_answer() && !self.is_waiting() {
            let progress = match (&mut self.state, &self.receiving) {
                (State::LoggedIn(session), Receiving::Header) if session.has_next() => {
                    session.handle_next(&mut self.output);
                    self.end_if_over();
                    true
                }
                (_, Receiving::Header) => self.next_header(),
                _ => self.next_data(),
            };
            if !progress {
                return;
            }
        }
    }

    /// Nothing is handled before the owner has answered.
    fn is_waiting(&self) -> bool {
        match &self.state {
            State::InLogin(..) => false,
            State::LoggedIn(session) => session.is_waiting(),
            State::Claiming(_) | State::Ended => true,
        }
    }

    fn next_header(&mut self) -> bool {
        match self.reader.poll_header() {
            Ok(None) => false,
            Ok(Some((header, bhs))) => {
                self.handle_header(header, &bhs);
                true
            }
            Err(FrameError::Malformed(malformed)) => {
                self.fail(malformed.into());
                false
            }
            Err(FrameError::HeaderDigest) => {
                self.fail(Error::DigestError { part: "header" });
                false
            }
        }
    }

    fn handle_header(&mut self, header: Header, bhs: &Bhs) {
        let request = match (Request::parse(bhs), &self.state) {
            (Ok(request), _) => request,
            // A Login Request that cannot be read has no place there either.
            (Err(_), State::LoggedIn(_)) => Request::Unknown(header.opcode),
            (Err(malformed), _) => return self.fail(malformed.into()),
        };
        self.segment.clear();
        self.receiving = match (&mut self.state, request) {
            (State::InLogin(..), Request::Login(_)) => Receiving::Segment(request, *bhs),
            (State::InLogin(..), _) => {
                let rule = "must not come before the end of the login";
                let opcode = header.opcode;
                let error = crate::wire::Malformed::number("first PDUs", "opcode", opcode, rule);
                return self.fail(error.into());
            }
            (State::LoggedIn(session), Request::ScsiCommand(command)) => {
                match session.handle_command(&command, bhs, &mut self.output) {
                    Some(placement) => Receiving::Data(request, *bhs, placement),
                    None => Receiving::Nothing,
                }
            }
            (State::LoggedIn(session), Request::DataOut(data)) => {
                let placement = session.handle_data_header(&data, &mut self.output);
                Receiving::Data(request, *bhs, placement)
            }
            (State::LoggedIn(_), Request::NopOut(_) | Request::Text(_)) => {
                Receiving::Segment(request, *bhs)
            }
            (State::LoggedIn(session), _) => {
                let (data, end) = (&[], DataEnd::Good);
                match session.handle_request(&request, bhs, data, end, &mut self.output) {
                    Ok(()) => Receiving::Nothing,
                    Err(error) => return self.fail(error),
                }
            }
            (State::Claiming(_) | State::Ended, _) => Receiving::Nothing,
        };
        self.end_if_over();
    }

    /// The session may have said its last word.
    fn end_if_over(&mut self) {
        if matches!(&self.state, State::LoggedIn(session) if session.is_logged_out()) {
            self.end(End::LoggedOut);
        }
    }

    fn next_data(&mut self) -> bool {
        self.move_data();
        if self.reader.data_remaining() != 0 {
            return false;
        }
        let Some(end) = self.reader.poll_end() else { return false };
        match std::mem::replace(&mut self.receiving, Receiving::Header) {
            Receiving::Segment(Request::Login(request), _) => self.handle_login(&request),
            Receiving::Segment(request, bhs) => self.handle_segment(&request, &bhs, end),
            Receiving::Data(request, bhs, _) => {
                if let State::LoggedIn(session) = &mut self.state {
                    session.handle_data_end(&request, &bhs, end, &mut self.output);
                }
            }
            Receiving::Header | Receiving::Nothing => {}
        }
        true
    }

    /// Takes what the stream buffer has of the data segment to where it belongs.
    fn move_data(&mut self) {
        match (&mut self.receiving, &self.state) {
            (Receiving::Segment(..), _) => {
                let start = self.segment.len();
                // The reader has checked the length against what we declared.
                self.segment.resize(start + self.reader.data_remaining() as usize, 0);
                let count = self.reader.take(&mut self.segment[start..]);
                self.segment.truncate(start + count);
            }
            (Receiving::Data(_, _, Placement::Task(tag, offset)), State::LoggedIn(session)) => {
                let missing = self.reader.data_remaining();
                match session.data_space(*tag, *offset, missing, &mut self.output) {
                    Some(space) => *offset += self.reader.take(space) as u32,
                    None => self.reader.skip(),
                }
            }
            _ => self.reader.skip(),
        }
    }

    fn handle_login(&mut self, request: &LoginRequest) {
        let State::InLogin(login, deadline) = std::mem::replace(&mut self.state, State::Ended)
        else {
            return;
        };
        match login.handle(request, &self.segment, &self.config) {
            Step::Response(login, response, text) => {
                self.output.push(&response.emit(), text.as_bytes());
                self.state = State::InLogin(login, deadline);
            }
            Step::Claim(claim) => {
                let (session, discovery) = (claim.session.clone(), claim.discovery);
                self.events.push_back(Event::Claim { session, discovery });
                self.state = State::Claiming(Box::new(claim));
            }
            Step::Refusal(response, text, error) => {
                self.output.push(&response.emit(), text.as_bytes());
                self.end(End::Refused(error));
            }
        }
    }

    fn handle_segment(&mut self, request: &Request, bhs: &Bhs, end: DataEnd) {
        let State::LoggedIn(session) = &mut self.state else { return };
        let handled = session.handle_request(request, bhs, &self.segment, end, &mut self.output);
        if let Err(error) = handled {
            self.fail(error);
        }
    }

    fn fail(&mut self, error: Error) {
        self.end(End::Failed(error));
    }

    fn end(&mut self, end: End) {
        self.forget();
        self.events.push_back(Event::Ended(end));
    }

    /// Nothing is handled any more.
    fn forget(&mut self) {
        self.written = self.written().clone();
        self.state = State::Ended;
        self.receiving = Receiving::Nothing;
        self.events.clear();
    }
}
