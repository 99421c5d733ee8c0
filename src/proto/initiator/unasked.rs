//! What a target says unasked: pings, asynchronous messages, rejects (RFC 7143 §11.9, §11.17,
//! §11.19), and what it means when it closes.

use std::time::{Duration, Instant};

use super::super::command::Outcome;
use super::super::task::TaskTable;
use super::{Error, Happened, Initiator, PING_ITT, Phase, sense};
use crate::wire::pdu::{
    AsyncMessage, BHS_BYTES, Itt, NopIn, NopOut, Reject, Request, StatusSns, Ttt,
};

/// Events of an asynchronous message (RFC 7143 §11.9.1).
const SCSI_EVENT: u8 = 0;
const LOGOUT_REQUEST: u8 = 1;
const CONNECTION_DROP: u8 = 2;
const SESSION_DROP: u8 = 3;
const NEGOTIATION_REQUEST: u8 = 4;

/// How far a StatSN may lie behind the one that is due: more than there are ever commands at once.
const STAT_SN_BEHIND_MAX: u32 = 1024;

impl Initiator {
    /// What it means that the transport is gone now.
    pub(in super::super) fn lost(&self, error: Error) -> Error {
        match (&self.phase, error) {
            (Phase::InLogin { login: Some(login), .. }, Error::Transport(reason)) => {
                Error::LostInLogin { reason, has_secret: login.has_secret() }
            }
            (_, error) => error,
        }
    }

    pub(super) fn handle_nop(&mut self, nop: &NopIn) -> Result<(), Error> {
        if nop.itt == PING_ITT {
            return self.count_status(&nop.sns);
        }
        if nop.itt != Itt::RESERVED {
            let rule = "answers a ping never sent";
            return Err(Error::PeerMisbehaved { pdu: "NOP-In", rule });
        }
        // A ping of the target carries a StatSN and does not use it up.
        self.window.update(&nop.sns);
        if nop.ttt != Ttt::RESERVED {
            self.owed = Some((nop.lun, nop.ttt));
            self.answer_ping();
        }
        Ok(())
    }

    /// Answers the target's ping as soon as there is room. Only the last one: it asks whether we
    /// are there, and one answer says it.
    pub(super) fn answer_ping(&mut self) {
        if !self.writer.has_room(0) {
            return;
        }
        let Some((lun, ttt)) = self.owed.take() else { return };
        let answer = NopOut {
            immediate: true,
            lun,
            itt: Itt::RESERVED,
            ttt,
            cmd_sn: self.window.cmd_sn(),
            exp_stat_sn: self.exp_stat_sn,
            data_bytes: 0,
        };
        self.writer.push(&answer.emit(), &[]);
    }

    pub(super) fn handle_async(
        &mut self,
        message: &AsyncMessage,
        data_bytes: usize,
    ) -> Result<(), Error> {
        self.count_status(&message.sns)?;
        let seconds = |count: u16| Duration::from_secs(count.into());
        let time2wait = Duration::from_secs(self.negotiated.default_time2wait.into());
        match message.event {
            SCSI_EVENT => {
                if let Some(sense) = sense(&self.scratch[..data_bytes]) {
                    self.happened.push_back(Happened::Attention(sense));
                }
            }
            // A login negotiates everything anew, so logging out and in again is the answer.
            LOGOUT_REQUEST | NEGOTIATION_REQUEST => {
                let within = Some(seconds(message.parameter3));
                self.happened.push_back(Happened::Leave { within, wait: time2wait });
            }
            // Our only connection is the session. The wait holds for the other portals as well:
            // a login there with our ISID reinstates the session, unless they are of another
            // portal group, and of which one they are is not known before.
            CONNECTION_DROP | SESSION_DROP => {
                let wait = seconds(message.parameter2);
                self.happened.push_back(Happened::Leave { within: None, wait });
            }
            // Of a vendor, or of an extension that was not agreed on.
            _ => {}
        }
        Ok(())
    }

    pub(super) fn handle_reject(
        &mut self,
        reject: &Reject,
        data_bytes: usize,
        now: Instant,
        tasks: &mut TaskTable,
    ) -> Result<(), Error> {
        self.count_status(&reject.sns)?;
        let bhs = self.scratch[..data_bytes].first_chunk::<BHS_BYTES>();
        let about = bhs.and_then(|bhs| Request::parse(bhs).ok());
        match (reject.reason, about) {
            (Reject::WAITING_FOR_LOGOUT, _) => {
                let wait = Duration::from_secs(self.negotiated.default_time2wait.into());
                let within = Some(Duration::ZERO);
                self.happened.push_back(Happened::Leave { within, wait });
            }
            // One of us is wrong about the protocol; another session may do better.
            (
                Reject::PROTOCOL_ERROR
                | Reject::INVALID_PDU_FIELD
                | Reject::SNACK_REJECT
                | Reject::TASK_IN_PROGRESS
                | Reject::INVALID_DATA_ACK,
                _,
            ) => return Err(Error::Rejected { reason: reject.reason }),
            // What becomes of the command is said in its SCSI Response.
            (Reject::DATA_DIGEST_ERROR, Some(Request::ScsiCommand(_) | Request::DataOut(_))) => {}
            (_, Some(Request::TaskManagement(request))) if self.manages(request.itt) => {
                self.end_managing(false);
            }
            // Whoever rejects a ping is there.
            (_, Some(Request::NopOut(_))) => {}
            (reason, Some(Request::ScsiCommand(command))) => {
                let Some(slot) = tasks.find(command.itt) else {
                    return Err(Error::Rejected { reason });
                };
                self.renounce(slot, Outcome::Rejected(reason), now, tasks);
            }
            (reason, _) => return Err(Error::Rejected { reason }),
        }
        Ok(())
    }

    /// Takes the counters of a PDU that has a StatSN of its own. On one connection of TCP nothing
    /// overtakes, so a number that is left out means a lost answer, which ends the session at
    /// ErrorRecoveryLevel 0 (RFC 7143 §7.9). One that comes again loses nothing: there are targets
    /// that take it from our ExpStatSN, and targets that begin with the one of their login.
    pub(super) fn count_status(&mut self, sns: &StatusSns) -> Result<(), Error> {
        let behind = sns.stat_sn.steps_to(self.exp_stat_sn);
        if behind > STAT_SN_BEHIND_MAX {
            let rule = "has a StatSN out of order";
            return Err(Error::PeerMisbehaved { pdu: "PDU", rule });
        }
        self.window.update(sns);
        if behind == 0 {
            self.exp_stat_sn = sns.stat_sn.next();
        }
        Ok(())
    }
}
