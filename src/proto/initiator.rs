//! One connection of an initiator, from login to logout (RFC 7143 §8.1.1).
//!
//! [`Initiator`] moves the PDUs of the tasks that it is given; it owns none of them, because they
//! outlive it: the session brings them to the next connection. Its memory is allocated once and
//! used again for every connection.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

mod data_in;
mod data_out;
mod keep_alive;
mod management;
mod unasked;
mod watch;

use self::data_out::{BURSTS_MAX, Burst};
use self::keep_alive::{Due, KeepAlive};
use self::management::Managing;
use self::watch::Watch;
use super::Error;
use super::chap::Challenge;
use super::command::{Outcome, Transfer};
use super::login::{Algorithms, LoggedIn, Login, LoginConfig, Step};
use super::params::{LOGIN_DATA_SEGMENT_BYTES_MAX, Negotiated};
use super::task::{Chunk, Slot, TaskTable};
use super::window::CommandWindow;
use crate::wire::frame::{DataEnd, FrameError, Reader, Writer};
use crate::wire::pdu::{
    DataIn, Itt, LoginResponse, LogoutRequest, NopOut, Response, ScsiCommand, ScsiResponse,
    TaskAttribute, TextRequest, TextResponse, Ttt,
};
use crate::wire::scsi::{ScsiStatus, Sense};
use crate::wire::serial::Sn;
use crate::wire::text::Text;

/// How patient a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// How long the answer to a login request may take.
    pub login: Duration,
    /// Silence after which the target is asked whether it is there.
    pub idle: Duration,
    /// How long its answer to that may take.
    pub ping: Duration,
    /// The same where there are other portals to turn to.
    pub ping_with_spares: Duration,
    /// How long a command may go without any progress before the target is told to give it up. It
    /// doubles each time for the same request.
    pub command: Duration,
    /// How long the answer to that may take.
    pub management: Duration,
}

impl Default for Patience {
    /// A slow NAS may take a minute to answer a login; a silent peer is found within ten seconds.
    fn default() -> Patience {
        Patience {
            login: Duration::from_secs(60),
            idle: Duration::from_secs(5),
            ping: Duration::from_secs(5),
            ping_with_spares: Duration::from_secs(4),
            command: Duration::from_secs(30),
            management: Duration::from_secs(10),
        }
    }
}

/// What happened on the connection.
#[derive(Debug)]
pub(super) enum Happened {
    /// The login is through.
    LoggedIn(LoggedIn),
    /// The command of this slot is over; its flight holds the outcome.
    Finished(Slot),
    /// A text exchange ended with this text.
    Text(Vec<u8>),
    /// The target confirmed the logout.
    LoggedOut,
    /// The task management function is over: done, or not.
    Managed { done: bool },
    /// The unit tells about itself without being asked.
    Attention(Sense),
    /// The target wants the session to end: with a logout within this time, or it ends it itself;
    /// and how long to stay away.
    Leave { within: Option<Duration>, wait: Duration },
}

/// Tags of PDUs that are no SCSI commands: above all slots, see [`super::task::SLOTS_MAX`].
const PING_ITT: Itt = Itt(0xfffe);
const LOGOUT_ITT: Itt = Itt(0xfffd);
const TEXT_ITT: Itt = Itt(0xfffc);

/// Size of the stream buffer: a batch of small PDUs comes with one system call.
const STREAM_BYTES: usize = 32 * 1024;

/// From this length on, data is received past the stream buffer.
const DIRECT_BYTES_MIN: u32 = 4096;

/// Room for headers and small data that wait to be sent.
const STAGE_BYTES: usize = 32 * 1024;

/// Most text of one exchange in the full feature phase: some thousand targets.
const TEXT_BYTES_MAX: usize = 1 << 20;

/// One connection.
pub(super) struct Initiator {
    phase: Phase,
    patience: Patience,
    /// CHAP algorithms of the next login.
    algorithms: Algorithms,
    /// The login that runs has offered a list of them, which may be why it is refused.
    offers_list: bool,
    reader: Reader,
    writer: Writer<Chunk>,
    receiving: Receiving,
    /// Where data segments go that belong to no buffer: text, sense data, pings.
    scratch: Vec<u8>,
    /// Whether the last `recv_space` was a task's buffer.
    direct: bool,
    bursts: VecDeque<Burst>,
    negotiated: Negotiated,
    window: CommandWindow,
    exp_stat_sn: Sn,
    text: Vec<u8>,
    happened: VecDeque<Happened>,
    keep_alive: KeepAlive,
    watch: Watch,
    managing: Option<Managing>,
    /// Task management functions that were ever asked for.
    functions: u16,
    /// The target's ping that is not yet answered.
    owed: Option<(u64, Ttt)>,
    /// When bytes last went out.
    sent_at: Option<Instant>,
}

enum Phase {
    Closed,
    InLogin { login: Option<Box<Login>>, deadline: Instant },
    FullFeature,
    InLogout { deadline: Instant },
}

/// What the bytes after the current header are for.
enum Receiving {
    Header,
    /// A PDU that is handled when its data segment is in the scratch buffer.
    Scratch {
        response: Response,
        filled: usize,
    },
    /// Data-In that goes straight into the buffer of its task.
    Place {
        data_in: DataIn,
        slot: Slot,
        at: usize,
    },
}

impl Initiator {
    /// A connection for at most `slots` tasks that takes data segments of `max_recv_bytes`.
    pub(super) fn new(patience: Patience, slots: usize, max_recv_bytes: u32) -> Initiator {
        let scratch = max_recv_bytes.max(LOGIN_DATA_SEGMENT_BYTES_MAX) as usize;
        Initiator {
            phase: Phase::Closed,
            patience,
            algorithms: Algorithms::All,
            offers_list: false,
            reader: Reader::new(STREAM_BYTES, LOGIN_DATA_SEGMENT_BYTES_MAX),
            writer: Writer::new(STAGE_BYTES, 2 * slots + 64),
            receiving: Receiving::Header,
            scratch: vec![0; scratch],
            direct: false,
            bursts: VecDeque::with_capacity(BURSTS_MAX),
            negotiated: Negotiated::default(),
            window: CommandWindow::new(Sn(0)),
            exp_stat_sn: Sn(0),
            text: Vec::new(),
            happened: VecDeque::with_capacity(slots + 8),
            keep_alive: KeepAlive::NONE,
            watch: Watch::new(slots),
            managing: None,
            functions: 0,
            owed: None,
            sent_at: None,
        }
    }

    /// The transport is up: begins the login.
    pub(super) fn connected(&mut self, config: &LoginConfig, challenge: Challenge, now: Instant) {
        self.disconnected();
        self.reader.reset(LOGIN_DATA_SEGMENT_BYTES_MAX);
        self.receiving = Receiving::Header;
        self.direct = false;
        self.text.clear();
        self.keep_alive.begin(now);
        let (login, request, text) = Login::start(config, challenge, self.algorithms, Sn(1));
        self.writer.push(&request.emit(), text.as_bytes());
        let deadline = now + self.patience.login;
        self.phase = Phase::InLogin { login: Some(login), deadline };
        self.offers_list = false;
    }

    /// The transport is gone, or is to be closed.
    pub(super) fn disconnected(&mut self) {
        self.phase = Phase::Closed;
        self.writer.reset(|_| ());
        self.bursts.clear();
        self.happened.clear();
        self.watch.reset();
        (self.managing, self.owed, self.sent_at) = (None, None, None);
    }

    /// Before [`Initiator::disconnected`], after an error: whether the next login should follow at
    /// once, because it will offer only one CHAP algorithm. That happens once, then again all.
    pub(super) fn falls_back(&mut self) -> bool {
        if !matches!(self.phase, Phase::InLogin { .. }) {
            return false;
        }
        self.algorithms = if self.offers_list { Algorithms::Md5 } else { Algorithms::All };
        self.offers_list
    }

    /// How patient the next connection is.
    pub(super) fn set_patience(&mut self, patience: Patience) {
        self.patience = patience;
    }

    /// Whether commands can be sent.
    pub(super) fn is_logged_in(&self) -> bool {
        matches!(self.phase, Phase::FullFeature)
    }

    fn is_full_feature(&self) -> bool {
        matches!(self.phase, Phase::FullFeature | Phase::InLogout { .. })
    }

    /// What was agreed on at login.
    pub(super) fn negotiated(&self) -> &Negotiated {
        &self.negotiated
    }

    /// The next thing that happened.
    pub(super) fn poll_happened(&mut self) -> Option<Happened> {
        self.happened.pop_front()
    }

    /// Whether [`Initiator::issue`] may be called now.
    pub(super) fn can_issue(&self) -> bool {
        self.is_logged_in()
            && self.window.is_open()
            && self.bursts.len() < BURSTS_MAX
            && self.writer.has_room(0)
    }

    /// Sends the command of a task, with as much of its data as may go unasked.
    pub(super) fn issue(&mut self, slot: Slot, lun: u64, now: Instant, tasks: &mut TaskTable) {
        debug_assert!(self.can_issue());
        let itt = tasks.take_off(slot, now);
        self.watch.issued(slot, itt, self.patience.command, tasks);
        let task = tasks.task_mut(slot);
        let (read, write, expected_data_bytes) = match task.command.transfer {
            Transfer::None => (false, false, 0),
            Transfer::In(bytes) => (true, false, bytes),
            Transfer::Out(bytes) => (false, true, bytes),
        };
        let outgoing = if write { expected_data_bytes } else { 0 };
        let agreed = &self.negotiated;
        let unasked = outgoing.min(agreed.first_burst_bytes);
        let immediate = match agreed.immediate_data && !self.is_busy() {
            true => unasked.min(agreed.max_send_bytes),
            false => 0,
        };
        let unsolicited = if agreed.initial_r2t { 0 } else { unasked - immediate };
        let cmd_sn = self.window.advance();
        let flight = task.flight.as_mut().expect("it has just taken off");
        (flight.cmd_sn, flight.asked) = (cmd_sn, immediate + unsolicited);
        let bhs = ScsiCommand {
            immediate: false,
            final_pdu: unsolicited == 0,
            read,
            write,
            attribute: TaskAttribute::Simple,
            lun,
            itt,
            expected_data_bytes,
            cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
            cdb: task.command.cdb,
            data_bytes: immediate,
        }
        .emit();
        let start = task.base;
        if immediate == 0 {
            self.writer.push(&bhs, &[]);
        } else {
            task.flight.as_mut().expect("it has just taken off").unsent += 1;
            let chunk = Chunk { slot, start, len: immediate };
            self.writer.push_payload(&bhs, chunk, tasks.bytes(chunk));
        }
        if unsolicited > 0 {
            tasks.task_mut(slot).flight.as_mut().expect("it has just taken off").bursts += 1;
            self.bursts.push_back(Burst {
                slot,
                itt,
                ttt: Ttt::RESERVED,
                lun: 0,
                data_sn: Sn(0),
                offset: immediate,
                remaining: unsolicited,
            });
        }
    }

    /// Asks for the targets that the other side has (RFC 7143 Appendix C).
    pub(super) fn send_targets(&mut self) {
        let mut text = Text::new();
        text.push("SendTargets", "All");
        self.send_text(Ttt::RESERVED, true, &text);
    }

    fn send_text(&mut self, ttt: Ttt, final_pdu: bool, text: &Text) {
        let request = TextRequest {
            immediate: true,
            final_pdu,
            continues: false,
            lun: 0,
            itt: TEXT_ITT,
            ttt,
            cmd_sn: self.window.cmd_sn(),
            exp_stat_sn: self.exp_stat_sn,
            data_bytes: text.as_bytes().len() as u32,
        };
        self.writer.push(&request.emit(), text.as_bytes());
    }

    /// Ends the session in the good way.
    pub(super) fn log_out(&mut self, now: Instant) {
        let request = LogoutRequest {
            immediate: true,
            reason: 0,
            itt: LOGOUT_ITT,
            cid: 0,
            cmd_sn: self.window.cmd_sn(),
            exp_stat_sn: self.exp_stat_sn,
        };
        self.writer.push(&request.emit(), &[]);
        self.phase = Phase::InLogout { deadline: now + self.patience.ping };
    }

    /// Where the next bytes from the transport go.
    pub(super) fn recv_space<'a>(&'a mut self, tasks: &'a mut TaskTable) -> &'a mut [u8] {
        self.direct = false;
        if let Receiving::Place { slot, at, .. } = self.receiving {
            let wanted = self.reader.direct();
            if wanted >= DIRECT_BYTES_MIN {
                self.direct = true;
                return &mut tasks.task_mut(slot).buffer[at..][..wanted as usize];
            }
        }
        self.reader.space()
    }

    /// `count` bytes came to where [`Initiator::recv_space`] said.
    pub(super) fn received(
        &mut self,
        count: usize,
        now: Instant,
        tasks: &mut TaskTable,
    ) -> Result<(), Error> {
        self.keep_alive.heard(now);
        match &mut self.receiving {
            Receiving::Place { data_in, slot, at } if self.direct => {
                self.reader.took_direct(&tasks.task(*slot).buffer[*at..][..count]);
                *at += count;
                let itt = data_in.itt;
                self.moved(itt, now, tasks);
            }
            _ => self.reader.filled(count),
        }
        while self.advance(now, tasks)? {}
        Ok(())
    }

    /// One step in what has been received; false if the rest is still missing.
    fn advance(&mut self, now: Instant, tasks: &mut TaskTable) -> Result<bool, Error> {
        match &mut self.receiving {
            Receiving::Header => {
                let Some((header, bhs)) = self.reader.poll_header().map_err(frame_error)? else {
                    return Ok(false);
                };
                self.receiving = match Response::parse(&bhs)? {
                    Response::DataIn(data_in) if !self.is_void(data_in.itt, tasks) => {
                        self.place(data_in, tasks)?
                    }
                    response => Receiving::Scratch { response, filled: 0 },
                };
                debug_assert!(header.data_bytes as usize <= self.scratch.len());
                Ok(true)
            }
            Receiving::Scratch { response, filled } => {
                *filled += self.reader.take(&mut self.scratch[*filled..]);
                let (response, filled) = (*response, *filled);
                let Some(end) = self.reader.poll_end() else { return Ok(false) };
                self.receiving = Receiving::Header;
                good(end)?;
                self.handle(response, filled, now, tasks)?;
                Ok(true)
            }
            Receiving::Place { data_in, slot, at } => {
                *at += self.reader.take(&mut tasks.task_mut(*slot).buffer[*at..]);
                let (data_in, slot) = (*data_in, *slot);
                let Some(end) = self.reader.poll_end() else { return Ok(false) };
                self.receiving = Receiving::Header;
                good(end)?;
                self.handle_data_in(&data_in, slot, now, tasks)?;
                Ok(true)
            }
        }
    }

    /// Data has moved for the command with this tag.
    fn moved(&mut self, itt: Itt, now: Instant, tasks: &mut TaskTable) {
        let slot = tasks.find(itt);
        if let Some(flight) = slot.and_then(|slot| tasks.task_mut(slot).flight.as_mut()) {
            flight.moved = now;
            self.watch.moved(flight.cmd_sn, now);
        }
    }

    /// Whether a command was given up by the target, so that a PDU about it means nothing.
    fn is_void(&self, itt: Itt, tasks: &TaskTable) -> bool {
        self.is_full_feature() && tasks.is_renounced(itt)
    }

    fn handle(
        &mut self,
        response: Response,
        data_bytes: usize,
        now: Instant,
        tasks: &mut TaskTable,
    ) -> Result<(), Error> {
        let misbehaved = |pdu, rule| Err(Error::PeerMisbehaved { pdu, rule });
        if let Response::Login(response) = response {
            return self.handle_login(&response, data_bytes, now);
        }
        if !self.is_full_feature() {
            return misbehaved("PDU", "must wait until the login is over");
        }
        match response {
            Response::ScsiResponse(response) => {
                self.handle_status(&response, data_bytes, now, tasks)
            }
            Response::R2t(r2t) => self.handle_r2t(&r2t, now, tasks),
            Response::NopIn(nop) => self.handle_nop(&nop),
            Response::Text(response) => self.handle_text(&response, data_bytes),
            Response::Logout(response) => {
                self.count_status(&response.sns)?;
                if response.itt != LOGOUT_ITT || self.is_logged_in() {
                    return misbehaved("Logout Response", "answers a request never made");
                }
                self.happened.push_back(Happened::LoggedOut);
                Ok(())
            }
            Response::AsyncMessage(message) => self.handle_async(&message, data_bytes),
            Response::Reject(reject) => self.handle_reject(&reject, data_bytes, now, tasks),
            Response::TaskManagement(response) => self.handle_management(&response, now, tasks),
            Response::Unknown(_) => misbehaved("PDU", "has an opcode that no target may send"),
            // Of a command that the target was made to give up; all other data is placed.
            Response::DataIn(data_in) => match data_in.status {
                Some(_) => self.count_status(&data_in.sns),
                None => {
                    self.window.update(&data_in.sns);
                    Ok(())
                }
            },
            Response::Login(_) => unreachable!("login responses were handled before"),
        }
    }

    fn handle_login(
        &mut self,
        response: &LoginResponse,
        data_bytes: usize,
        now: Instant,
    ) -> Result<(), Error> {
        let Phase::InLogin { login, .. } = &mut self.phase else {
            let rule = "comes when there is no login";
            return Err(Error::PeerMisbehaved { pdu: "Login Response", rule });
        };
        let login = login.take().expect("a login waits for each response");
        match login.handle(response, &self.scratch[..data_bytes])? {
            Step::Request(next, request, text) => {
                self.writer.push(&request.emit(), text.as_bytes());
                let deadline = now + self.patience.login;
                self.offers_list = next.may_be_refused_for_its_list();
                self.phase = Phase::InLogin { login: Some(next), deadline };
            }
            Step::Done(logged_in) => {
                let agreed = logged_in.negotiated;
                self.reader.agree(agreed.digests, agreed.max_recv_bytes);
                self.writer.agree(agreed.digests);
                self.negotiated = agreed;
                self.window = CommandWindow::new(logged_in.cmd_sn);
                self.window.update(&logged_in.sns);
                self.exp_stat_sn = logged_in.sns.stat_sn.next();
                self.phase = Phase::FullFeature;
                self.happened.push_back(Happened::LoggedIn(logged_in));
            }
        }
        Ok(())
    }

    fn handle_status(
        &mut self,
        response: &ScsiResponse,
        data_bytes: usize,
        now: Instant,
        tasks: &mut TaskTable,
    ) -> Result<(), Error> {
        self.count_status(&response.sns)?;
        if self.is_void(response.itt, tasks) {
            return Ok(());
        }
        let misbehaved = |rule| Err(Error::PeerMisbehaved { pdu: "SCSI Response", rule });
        let Some(slot) = tasks.find(response.itt) else {
            return misbehaved("belongs to no command");
        };
        let flight = tasks.task(slot).flight.expect("the task was found in flight");
        if flight.outcome.is_some() {
            return misbehaved("answers a command for the second time");
        }
        let outcome = if response.response == 0 {
            Outcome::Status {
                status: ScsiStatus::from_code(response.status),
                sense: sense(&self.scratch[..data_bytes]),
                received_bytes: flight.received,
                residual: response.residual,
            }
        } else {
            Outcome::TargetFailure(response.response)
        };
        self.finish(slot, outcome, now, tasks);
        Ok(())
    }

    fn handle_text(&mut self, response: &TextResponse, data_bytes: usize) -> Result<(), Error> {
        self.count_status(&response.sns)?;
        let misbehaved = |rule| Err(Error::PeerMisbehaved { pdu: "Text Response", rule });
        if response.itt != TEXT_ITT {
            return misbehaved("answers a request never made");
        }
        if self.text.len() + data_bytes > TEXT_BYTES_MAX {
            return misbehaved("makes the text longer than 1 MiB");
        }
        self.text.extend_from_slice(&self.scratch[..data_bytes]);
        if response.final_pdu {
            self.happened.push_back(Happened::Text(std::mem::take(&mut self.text)));
        } else {
            self.send_text(response.ttt, !response.continues, &Text::new());
        }
        Ok(())
    }

    fn finish(&mut self, slot: Slot, outcome: Outcome, now: Instant, tasks: &mut TaskTable) {
        let flight = tasks.task_mut(slot).flight.as_mut().expect("only a flight can finish");
        if outcome != Outcome::Renounced {
            self.watch.moved(flight.cmd_sn, now);
        }
        flight.outcome = Some(outcome);
        if flight.is_over() {
            self.happened.push_back(Happened::Finished(slot));
        }
    }

    /// The next bytes for the transport; returns how many of `slices` were filled.
    pub(super) fn transmit<'a>(&'a self, slices: &mut [&'a [u8]], tasks: &'a TaskTable) -> usize {
        self.writer.gather(slices, |chunk| tasks.bytes(chunk))
    }

    /// `count` bytes of them went out.
    pub(super) fn sent(&mut self, count: usize, now: Instant, tasks: &mut TaskTable) {
        let (happened, watch) = (&mut self.happened, &mut self.watch);
        self.writer.sent(count, |chunk| {
            let flight = tasks.task_mut(chunk.slot).flight.as_mut();
            let flight = flight.expect("a chunk belongs to a task in flight");
            flight.unsent -= 1;
            flight.moved = now;
            let cmd_sn = flight.cmd_sn;
            if flight.is_over() {
                happened.push_back(Happened::Finished(chunk.slot));
            }
            watch.moved(cmd_sn, now);
        });
        if count > 0 {
            self.sent_at = Some(now);
            self.keep_alive.sent(self.writer.is_empty());
        }
    }

    /// When [`Initiator::handle_timeout`] or [`Initiator::stuck`] is due.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Closed => None,
            Phase::InLogin { deadline, .. } | Phase::InLogout { deadline } => Some(deadline),
            Phase::FullFeature => {
                let watch = if self.managing.is_some() { None } else { self.watch.deadline() };
                let managing = self.managing_deadline();
                let keep_alive = self.keep_alive.deadline(&self.patience);
                keep_alive.into_iter().chain(watch).chain(managing).min()
            }
        }
    }

    /// Time has passed: asks a silent target whether it is there, or gives the connection up.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Result<(), Error> {
        let timed_out = |waiting_for, after| Err(Error::TimedOut { waiting_for, after });
        let patience = self.patience;
        match self.phase {
            Phase::InLogin { deadline, .. } if deadline <= now => {
                timed_out("answer to the login", patience.login)
            }
            Phase::InLogout { deadline } if deadline <= now => {
                timed_out("answer to the logout", patience.ping)
            }
            Phase::FullFeature => {
                let is_empty = self.writer.is_empty();
                match self.keep_alive.handle_timeout(&patience, is_empty, now) {
                    Due::Silent => return timed_out("sign of life", patience.idle + patience.ping),
                    Due::Ping if self.writer.has_room(0) => self.ping(),
                    Due::Ping | Due::Nothing => {}
                }
                self.handle_managing_timeout(now);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Look for such commands again at this time.
    pub(super) fn look_at(&mut self, then: Instant) {
        self.watch.look_at(then);
    }

    /// The first command that has made no progress for too long, and for how long.
    pub(super) fn stuck(&mut self, now: Instant, tasks: &TaskTable) -> Option<(Slot, Duration)> {
        if !self.is_logged_in() || self.managing.is_some() {
            return None;
        }
        if self.keep_alive.is_asking(now) && self.watch.deadline().is_some_and(|look| look <= now) {
            // Is anybody there at all? That is decided first.
            self.watch.look_at(now + self.patience.ping / 2);
            return None;
        }
        self.watch.stuck(self.patience.command, now, tasks)
    }

    fn ping(&mut self) {
        let ping = NopOut {
            immediate: true,
            lun: 0,
            itt: PING_ITT,
            ttt: Ttt::RESERVED,
            cmd_sn: self.window.cmd_sn(),
            exp_stat_sn: self.exp_stat_sn,
            data_bytes: 0,
        };
        self.writer.push(&ping.emit(), &[]);
    }
}

/// Sense data stands behind its two length bytes (RFC 7143 §11.4.7.2).
fn sense(data: &[u8]) -> Option<Sense> {
    let (length, rest) = data.split_first_chunk::<2>()?;
    let length = usize::from(u16::from_be_bytes(*length));
    Sense::parse(rest.get(..length).unwrap_or(rest)).ok()
}

fn good(end: DataEnd) -> Result<(), Error> {
    match end {
        DataEnd::Good => Ok(()),
        DataEnd::DigestError => Err(Error::DigestError { part: "data" }),
    }
}

fn frame_error(error: FrameError) -> Error {
    match error {
        FrameError::Malformed(malformed) => Error::Malformed(malformed),
        FrameError::HeaderDigest => Error::DigestError { part: "header" },
    }
}
