//! The full feature phase: commands and their data, task management, NOP, text, logout
//! (RFC 7143 §4.2, §11).
//!
//! A PDU that breaks a rule of its task fails the task; one that breaks a rule of the connection
//! ends it. Nothing is executed here: what is ready waits for the owner of the target.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::login::Claim;
use super::output::Output;
use super::sanitizing::Sanitizing;
use super::task::{NewTask, Placement, Task, Tasks};
use super::task_management::Resetting;
use super::text::{Known, Refusal, Texts};
use super::window::{Held, Parked, Turn, Window};
use super::written::Written;
use super::{COMMAND_WINDOW, Event, SessionName, Tag, TargetConfig};
use crate::proto::error::Error;
use crate::proto::logical_unit::{
    LogicalUnit, Nexus, Outcome, TRANSFER_BYTES_MAX, is_alone, is_exact,
};
use crate::proto::params::Negotiated;
use crate::wire::frame::DataEnd;
use crate::wire::pdu::{
    AsyncMessage, Bhs, DataIn, DataOut, Itt, LogoutRequest, LogoutResponse, NopIn, NopOut, R2t,
    Reject, Request, Residual, ScsiCommand, ScsiResponse, StatusSns, TaskAttribute, TextRequest,
    TextResponse, Ttt,
};
use crate::wire::scsi::{Lun, ScsiStatus, Sense, SenseKey, asc};
use crate::wire::serial::Sn;

/// A session, which is its one connection.
#[derive(Debug)]
pub(super) struct FullFeature {
    pub(super) config: Arc<TargetConfig>,
    /// What SendTargets tells: the address that the initiator uses, and then all others.
    portals: Vec<SocketAddr>,
    session: SessionName,
    discovery: bool,
    cid: u16,
    negotiated: Negotiated,
    stat_sn: Sn,
    pub(super) window: Window,
    pub(super) tasks: Tasks,
    nexus: Nexus,
    texts: Texts,
    last_heard: Instant,
    /// A NOP-In waits for its answer since then.
    ping_sent: Option<Instant>,
    /// Tasks of others end: the owner is told, and these are answered when it has seen to it.
    pub(super) resetting: VecDeque<Resetting>,
    pub(super) sanitizing: Sanitizing,
    logged_out: bool,
    pub(super) written: Written,
}

/// The transfer tag of our own NOP-Ins. Those of R2Ts have a slot in their lower half.
const PING: Ttt = Ttt(0xffff_fffe);

/// Stands for the data of a command whose data has one length when another one was announced: no
/// such command has data of one byte.
const NO_LENGTH: [u8; 1] = [0];

impl FullFeature {
    pub(super) fn new(
        claim: Claim,
        config: Arc<TargetConfig>,
        portal: SocketAddr,
        now: Instant,
    ) -> FullFeature {
        let others = config.portals.iter().copied().filter(|other| *other != portal);
        FullFeature {
            portals: std::iter::once(portal).chain(others).collect(),
            nexus: config.units.nexus(claim.session.clone()),
            config,
            session: claim.session,
            discovery: claim.discovery,
            cid: claim.cid,
            negotiated: claim.negotiated,
            stat_sn: claim.stat_sn,
            window: Window::new(claim.cmd_sn),
            tasks: Tasks::new(),
            texts: Texts::default(),
            last_heard: now,
            ping_sent: None,
            resetting: VecDeque::new(),
            sanitizing: Sanitizing::default(),
            logged_out: false,
            written: Written::default(),
        }
    }

    pub(super) fn initiator(&self) -> &str {
        &self.session.initiator
    }

    /// The owner has to answer first.
    pub(super) fn is_waiting(&self) -> bool {
        !self.resetting.is_empty()
    }

    pub(super) fn is_logged_out(&self) -> bool {
        self.logged_out
    }

    // Time.

    /// Something has come.
    pub(super) fn heard(&mut self, now: Instant) {
        self.last_heard = now;
        self.ping_sent = None;
    }

    pub(super) fn next_deadline(&self) -> Instant {
        self.ping_sent.unwrap_or(self.last_heard) + self.config.ping_interval
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, out: &mut Output) -> Result<(), Error> {
        if now < self.next_deadline() {
            return Ok(());
        }
        let after = self.config.ping_interval;
        if self.ping_sent.is_some() && out.take_moved() {
            // A long answer on a slow line: the ping stands behind it.
            self.ping_sent = Some(now);
            return Ok(());
        }
        if self.ping_sent.is_some() {
            return Err(Error::TimedOut { waiting_for: "answer to NOP-In", after });
        }
        self.ping_sent = Some(now);
        // StatSN is the next one and is not used up (RFC 7143 §11.19).
        let sns = self.sns();
        let pdu = NopIn { lun: 0, itt: Itt::RESERVED, ttt: PING, sns, data_bytes: 0 };
        out.push_ping(&pdu.emit());
        Ok(())
    }

    // Commands and their data.

    /// A SCSI Command. Returns where its immediate data goes, or `None` if there will be no task.
    pub(super) fn handle_command(
        &mut self,
        pdu: &ScsiCommand,
        bhs: &Bhs,
        out: &mut Output,
    ) -> Option<Placement> {
        let turn = self.window.judge(pdu.immediate, pdu.cmd_sn, self.max_cmd_sn());
        if turn == Turn::Never {
            return None;
        }
        let early = turn == Turn::Early;
        let in_use = self.tasks.find(pdu.itt).is_some();
        if self.discovery || pdu.itt == Itt::RESERVED || in_use {
            if early {
                self.window.hold(pdu.cmd_sn, Held::Void);
            }
            let reason = if in_use { Reject::TASK_IN_PROGRESS } else { Reject::PROTOCOL_ERROR };
            self.reject(reason, bhs, out);
            return None;
        }
        let lun = Lun(pdu.lun.to_be_bytes());
        let wanted_out = self.config.units.data_out_bytes(lun, &pdu.cdb);
        let expected_out = if pdu.write { pdu.expected_data_bytes } else { 0 };
        // More than the longest transfer is refused anyway, so no data is asked for.
        let needed = match u32::try_from(wanted_out) {
            Ok(wanted) if wanted <= TRANSFER_BYTES_MAX => wanted.min(expected_out),
            _ => 0,
        };
        let follows = pdu.write && !pdu.final_pdu;
        let agreed = &self.negotiated;
        let first_burst = agreed.first_burst_bytes.min(expected_out);
        let task = NewTask {
            lun,
            itt: pdu.itt,
            cdb: pdu.cdb,
            expected_in: if pdu.read && !pdu.write { pdu.expected_data_bytes } else { 0 },
            expected_out,
            wanted_out,
            cmd_sn: pdu.cmd_sn,
            windowed: !pdu.immediate,
            early,
            ordered: pdu.attribute == TaskAttribute::Ordered,
            needed,
            immediate: pdu.data_bytes,
            unsolicited_end: follows.then_some(first_burst.max(pdu.data_bytes)),
        };
        let too_much = pdu.data_bytes > first_burst
            || (pdu.data_bytes > 0 && !agreed.immediate_data)
            || (follows && agreed.initial_r2t);
        let Some(tag) = self.tasks.open(task) else {
            self.reject(Reject::IMMEDIATE_COMMAND_REJECT, bhs, out);
            return None;
        };
        if early {
            self.window.hold(pdu.cmd_sn, Held::Task(tag));
        }
        if too_much {
            let code = asc::UNEXPECTED_UNSOLICITED_DATA;
            self.tasks.get_mut(tag).failure = Some(Sense::new(SenseKey::AbortedCommand, code));
        }
        if pdu.data_bytes == 0 {
            self.go_on(tag, out);
            return None;
        }
        Some(self.tasks.place_immediate(tag, &mut out.buffers))
    }

    /// A Data-Out header: where its data goes.
    pub(super) fn handle_data_header(&mut self, pdu: &DataOut, out: &mut Output) -> Placement {
        self.tasks.place(pdu, &mut out.buffers)
    }

    /// The task still wants data.
    pub(super) fn has_buffer(&self, tag: Tag) -> bool {
        self.tasks.get(tag).buffer.is_some()
    }

    /// Memory for data that was given a place: `bytes` from `offset` of the task's buffer, or
    /// `None` if the task has ended meanwhile.
    pub(super) fn data_space<'a>(
        &self,
        tag: Tag,
        offset: u32,
        bytes: u32,
        out: &'a mut Output,
    ) -> Option<&'a mut [u8]> {
        let buffer = self.tasks.get(tag).buffer?;
        Some(&mut out.buffers.get_mut(buffer)[offset as usize..][..bytes as usize])
    }

    /// The data segment of a SCSI Command or Data-Out has come.
    pub(super) fn handle_data_end(
        &mut self,
        request: &Request,
        bhs: &Bhs,
        end: DataEnd,
        out: &mut Output,
    ) {
        let tag = match request {
            Request::DataOut(pdu) => self.tasks.placed(pdu),
            Request::ScsiCommand(pdu) => self.tasks.find(pdu.itt),
            _ => None,
        };
        if end == DataEnd::DigestError {
            self.reject(Reject::DATA_DIGEST_ERROR, bhs, out);
        }
        let Some(tag) = tag else { return };
        if end == DataEnd::DigestError {
            // The task goes on to its end without its data, and its status tells the initiator to
            // send the command again: at ErrorRecoveryLevel 0 nobody would fill the gap in CmdSN
            // that a discarded command leaves (RFC 7143 §7.8, §11.17.2).
            let sense = Sense::new(SenseKey::AbortedCommand, asc::PROTOCOL_SERVICE_CRC_ERROR);
            self.tasks.get_mut(tag).failure.get_or_insert(sense);
        }
        self.go_on(tag, out);
    }

    /// Asks for more data, or queues the task for execution.
    fn go_on(&mut self, tag: Tag, out: &mut Output) {
        while let Some(wanted) = self.tasks.next_r2t(tag, &self.negotiated) {
            let sns = self.sns();
            let task = self.tasks.get_mut(tag);
            let r2t_sn = task.r2t_sn;
            task.r2t_sn = r2t_sn.next();
            let pdu = R2t {
                lun: u64::from_be_bytes(task.lun.0),
                itt: task.itt,
                ttt: wanted.ttt,
                sns,
                r2t_sn,
                buffer_offset: wanted.offset,
                desired_bytes: wanted.bytes,
            };
            out.push(&pdu.emit(), &[]);
        }
        self.tasks.queue_if_complete(tag);
    }

    /// The next command that the owner is to execute.
    pub(super) fn next_command(&mut self) -> Option<Event> {
        let tag = self.tasks.next_ready()?;
        let task = self.tasks.get(tag);
        Some(Event::Command { tag, lun: task.lun, alone: is_alone(&task.cdb) })
    }

    pub(super) fn execute(&mut self, tag: Tag, out: &mut Output) {
        let task = self.tasks.get(tag);
        if !task.is_handed_out() {
            // Its task was aborted, and its place may belong to one that still waits for data.
            return;
        }
        let config = Arc::clone(&self.config);
        let outcome = match task.failure {
            Some(sense) => sense.into(),
            None => {
                let other = task.wanted_out != u64::from(task.expected_out);
                let data = match task.data(&out.buffers) {
                    // The initiator means other blocks than it says.
                    _ if other && is_exact(&task.cdb) => &NO_LENGTH[..],
                    data => data,
                };
                config.units.execute(task.lun, &task.cdb, data, &mut self.nexus)
            }
        };
        let (lun, expected_in) = (task.lun, task.expected_in);
        match outcome {
            Outcome::Good => {
                let cached = config.units.get(lun).is_some_and(LogicalUnit::write_cache);
                self.written.note(lun, &self.tasks.get(tag).cdb, cached);
                self.respond(tag, ScsiStatus::Good, None, 0, out);
            }
            Outcome::Data(data) => {
                let length = data.len().min(expected_in as usize);
                if length == 0 {
                    return self.respond(tag, ScsiStatus::Good, None, data.len() as u64, out);
                }
                let buffer = out.buffers.acquire(length);
                out.buffers.get_mut(buffer)[..length].copy_from_slice(&data[..length]);
                self.send_data(tag, buffer, length as u32, data.len() as u64, out);
            }
            Outcome::Read(extent) => {
                let length = extent.bytes.min(u64::from(expected_in)) as usize;
                if length == 0 {
                    return self.respond(tag, ScsiStatus::Good, None, extent.bytes, out);
                }
                let buffer = out.buffers.acquire(length);
                let space = &mut out.buffers.get_mut(buffer)[..length];
                let unit = config.units.get(lun).expect("it has just executed a READ");
                match unit.read(extent, 0, space) {
                    Ok(()) => self.send_data(tag, buffer, length as u32, extent.bytes, out),
                    Err(sense) => {
                        out.buffers.release(buffer);
                        self.respond(tag, ScsiStatus::CheckCondition, Some(sense), 0, out);
                    }
                }
            }
            Outcome::Preempted(sessions) => {
                self.resetting.push_back(Resetting::preempted(tag, lun, sessions));
            }
            Outcome::Sanitizing { number, immediate } => {
                self.start_sanitizing(tag, number, immediate, out);
            }
            Outcome::Conflict => self.respond(tag, ScsiStatus::ReservationConflict, None, 0, out),
            Outcome::CheckCondition(sense) => {
                self.respond(tag, ScsiStatus::CheckCondition, Some(*sense), 0, out);
            }
        }
    }

    /// Ends a task with Data-In PDUs, the last of which carries the status.
    fn send_data(
        &mut self,
        tag: Tag,
        buffer: super::buffers::BufferName,
        length: u32,
        total: u64,
        out: &mut Output,
    ) {
        let task = self.tasks.get(tag);
        let (itt, residual) = (task.itt, residual(task, total));
        self.close(tag, out);
        let Negotiated { max_send_bytes, max_burst_bytes, .. } = self.negotiated;
        let (mut offset, mut data_sn) = (0, Sn(0));
        while offset < length {
            // A sequence of Data-In PDUs is a burst, and its last PDU has the F bit (§11.7.1).
            let burst_end = (offset / max_burst_bytes + 1).saturating_mul(max_burst_bytes);
            // Whole words, but for the last (§11.7.7).
            let end = length.min(burst_end).min(offset.saturating_add(max_send_bytes & !3));
            let last = end == length;
            let sns = if last { self.status_sns() } else { self.sns() };
            let pdu = DataIn {
                final_pdu: last || end == burst_end,
                acknowledge: false,
                status: last.then_some(ScsiStatus::Good.code()),
                lun: 0,
                itt,
                ttt: Ttt::RESERVED,
                sns,
                data_sn,
                buffer_offset: offset,
                residual: if last { residual } else { Residual::None },
                data_bytes: end - offset,
            };
            out.push_part(&pdu.emit(), buffer, offset, end - offset, last);
            data_sn = data_sn.next();
            offset = end;
        }
    }

    /// Ends a task with a SCSI Response.
    pub(super) fn respond(
        &mut self,
        tag: Tag,
        status: ScsiStatus,
        sense: Option<Sense>,
        total: u64,
        out: &mut Output,
    ) {
        let task = self.tasks.get(tag);
        let (itt, exp_data_sn, residual) = (task.itt, task.r2t_sn, residual(task, total));
        let unit = self.config.units.get(task.lun);
        let descriptor = unit.is_some_and(LogicalUnit::descriptor_sense);
        self.close(tag, out);
        let segment = sense.map(|sense| sense.emit(descriptor)).unwrap_or_default();
        // SenseLength, then the sense data (RFC 7143 §11.4.7.2).
        let segment = match segment.len() {
            0 => segment,
            length => [(length as u16).to_be_bytes().to_vec(), segment].concat(),
        };
        let pdu = ScsiResponse {
            response: 0,
            status: status.code(),
            itt,
            sns: self.status_sns(),
            exp_data_sn,
            residual,
            data_bytes: segment.len() as u32,
        };
        out.push(&pdu.emit(), &segment);
    }

    /// Frees the place of a task, first of all, so that its answer opens the window again.
    pub(super) fn close(&mut self, tag: Tag, out: &mut Output) {
        if self.tasks.is_early(tag) {
            self.window.hold(self.tasks.get(tag).cmd_sn, Held::Void);
        }
        self.sanitizing.forget(tag);
        self.tasks.close(tag, &mut out.buffers);
        while let Some(starved) = self.tasks.next_starved() {
            self.go_on(starved, out);
        }
    }

    // Everything else.

    /// A PDU other than commands and their data, with its data segment.
    pub(super) fn handle_request(
        &mut self,
        request: &Request,
        bhs: &Bhs,
        data: &[u8],
        end: DataEnd,
        out: &mut Output,
    ) -> Result<(), Error> {
        if let Some((immediate, cmd_sn)) = numbering(request) {
            match self.window.judge(immediate, cmd_sn, self.max_cmd_sn()) {
                Turn::Now => {}
                Turn::Never => return Ok(()),
                Turn::Early => {
                    let (request, bhs, data) = (*request, *bhs, data.to_vec());
                    if !self.window.park(cmd_sn, Parked { request, bhs, data, end }) {
                        let rule = "leaves a gap in CmdSN, and too much has come behind it";
                        return Err(Error::PeerMisbehaved { pdu: "command", rule });
                    }
                    return Ok(());
                }
            }
        }
        self.handle_in_turn(request, bhs, data, end, out);
        Ok(())
    }

    /// Something has its turn that came before it.
    pub(super) fn has_next(&self) -> bool {
        self.window.has_next()
    }

    /// Handles it.
    pub(super) fn handle_next(&mut self, out: &mut Output) {
        match self.window.next() {
            Some(Held::Task(tag)) => {
                self.tasks.begin(tag);
                self.go_on(tag, out);
            }
            Some(Held::Request(parked)) => {
                let Parked { request, bhs, data, end } = *parked;
                self.handle_in_turn(&request, &bhs, &data, end, out);
            }
            Some(Held::Void) | None => {}
        }
    }

    fn handle_in_turn(
        &mut self,
        request: &Request,
        bhs: &Bhs,
        data: &[u8],
        end: DataEnd,
        out: &mut Output,
    ) {
        if end == DataEnd::DigestError {
            return self.reject(Reject::DATA_DIGEST_ERROR, bhs, out);
        }
        match request {
            Request::NopOut(pdu) => self.handle_nop(pdu, data, out),
            Request::Text(pdu) => self.handle_text(pdu, bhs, data, out),
            Request::Logout(pdu) => self.handle_logout(pdu, out),
            Request::TaskManagement(pdu) if !self.discovery => {
                self.handle_task_management(pdu, bhs, out);
            }
            Request::Snack => self.reject(Reject::SNACK_REJECT, bhs, out),
            Request::Unknown(_) => self.reject(Reject::COMMAND_NOT_SUPPORTED, bhs, out),
            _ => self.reject(Reject::PROTOCOL_ERROR, bhs, out),
        }
    }

    fn handle_nop(&mut self, pdu: &NopOut, data: &[u8], out: &mut Output) {
        if pdu.itt == Itt::RESERVED {
            // It answers a NOP-In of ours, and that it was heard is all that matters.
            return;
        }
        let echo = &data[..data.len().min(self.negotiated.max_send_bytes as usize)];
        let pdu = NopIn {
            lun: 0,
            itt: pdu.itt,
            ttt: Ttt::RESERVED,
            sns: self.status_sns(),
            data_bytes: echo.len() as u32,
        };
        out.push(&pdu.emit(), echo);
    }

    fn handle_text(&mut self, pdu: &TextRequest, bhs: &Bhs, data: &[u8], out: &mut Output) {
        let known = Known {
            target_name: &self.config.name,
            portals: &self.portals,
            portal_group: self.config.portal_group,
            discovery: self.discovery,
        };
        let sns = self.sns();
        match self.texts.handle(pdu, data, known, &mut self.negotiated) {
            Ok((answer, text)) => {
                let pdu = TextResponse {
                    final_pdu: answer.final_pdu,
                    continues: answer.continues,
                    lun: 0,
                    itt: pdu.itt,
                    ttt: answer.ttt,
                    sns,
                    data_bytes: text.len() as u32,
                };
                out.push(&pdu.emit(), text);
                self.stat_sn = self.stat_sn.next();
            }
            Err(Refusal::Exchange) => self.reject(Reject::PROTOCOL_ERROR, bhs, out),
            Err(Refusal::Text) => self.reject(Reject::INVALID_PDU_FIELD, bhs, out),
            Err(Refusal::Negotiation) => self.reject(Reject::NEGOTIATION_RESET, bhs, out),
        }
    }

    fn handle_logout(&mut self, pdu: &LogoutRequest, out: &mut Output) {
        const CLOSE_SESSION: u8 = 0;
        const CLOSE_CONNECTION: u8 = 1;
        const CLOSED: u8 = 0;
        const CID_NOT_FOUND: u8 = 1;
        const RECOVERY_NOT_SUPPORTED: u8 = 2;
        let response = match pdu.reason {
            CLOSE_SESSION => CLOSED,
            CLOSE_CONNECTION if pdu.cid == self.cid => CLOSED,
            CLOSE_CONNECTION => CID_NOT_FOUND,
            _ => RECOVERY_NOT_SUPPORTED,
        };
        let answer = LogoutResponse {
            response,
            itt: pdu.itt,
            sns: self.status_sns(),
            time2wait: self.negotiated.default_time2wait as u16,
            time2retain: self.negotiated.default_time2retain as u16,
        };
        out.push(&answer.emit(), &[]);
        self.logged_out = response == CLOSED;
    }

    pub(super) fn reject(&mut self, reason: u8, bhs: &Bhs, out: &mut Output) {
        let sns = self.status_sns();
        let pdu = Reject { reason, sns, data_sn: Sn(0), data_bytes: bhs.len() as u32 };
        out.push(&pdu.emit(), bhs);
    }

    // Asynchronous messages.

    pub(super) fn ask_for_logout(&mut self, patience: Duration, out: &mut Output) {
        const LOG_OUT: u8 = 1;
        let seconds = u16::try_from(patience.as_secs()).unwrap_or(u16::MAX);
        if !self.discovery {
            self.tell(LOG_OUT, 0, seconds, out);
        }
    }

    pub(super) fn announce_end(&mut self, out: &mut Output) {
        const SESSION_WILL_DROP: u8 = 3;
        let Negotiated { default_time2wait, default_time2retain, .. } = self.negotiated;
        if !self.discovery {
            self.tell(SESSION_WILL_DROP, default_time2wait as u16, default_time2retain as u16, out);
        }
    }

    /// An asynchronous message (RFC 7143 §11.9); its parameters depend on the event.
    fn tell(&mut self, event: u8, parameter2: u16, parameter3: u16, out: &mut Output) {
        let pdu = AsyncMessage {
            lun: 0,
            sns: self.status_sns(),
            event,
            vcode: 0,
            parameter1: 0,
            parameter2,
            parameter3,
            data_bytes: 0,
        };
        out.push(&pdu.emit(), &[]);
    }

    // Numbers.

    pub(super) fn max_cmd_sn(&self) -> Sn {
        // With a full window this is ExpCmdSN - 1, which closes it.
        self.window.exp_cmd_sn().plus((COMMAND_WINDOW - self.tasks.windowed()).wrapping_sub(1))
    }

    /// Counters of a PDU that carries no status.
    fn sns(&self) -> StatusSns {
        StatusSns {
            stat_sn: self.stat_sn,
            exp_cmd_sn: self.window.exp_cmd_sn(),
            max_cmd_sn: self.max_cmd_sn(),
        }
    }

    /// Counters of a PDU that uses up a StatSN.
    pub(super) fn status_sns(&mut self) -> StatusSns {
        let sns = self.sns();
        self.stat_sn = self.stat_sn.next();
        sns
    }
}

/// The I bit and CmdSN of PDUs that have them.
fn numbering(request: &Request) -> Option<(bool, Sn)> {
    match request {
        Request::NopOut(pdu) => Some((pdu.immediate, pdu.cmd_sn)),
        Request::Text(pdu) => Some((pdu.immediate, pdu.cmd_sn)),
        Request::Logout(pdu) => Some((pdu.immediate, pdu.cmd_sn)),
        Request::TaskManagement(pdu) => Some((pdu.immediate, pdu.cmd_sn)),
        _ => None,
    }
}

/// What did not fit: of `total` bytes that the command gave, or of those that it wanted.
fn residual(task: &Task, total: u64) -> Residual {
    let (expected, actual) = if task.wanted_out > 0 || task.expected_out > 0 {
        (task.expected_out, task.wanted_out)
    } else {
        (task.expected_in, total)
    };
    let actual = u32::try_from(actual).unwrap_or(u32::MAX);
    if actual > expected {
        Residual::Overflow(actual - expected)
    } else if actual < expected {
        Residual::Underflow(expected - actual)
    } else {
        Residual::None
    }
}
