//! Task management: what is answered as done is done (RFC 7143 §4.2.3, §11.5, §11.6).
//!
//! Tasks end here and now: their buffers are the target's own, so data that is still on its way for
//! them is thrown away when it comes, and nobody waits for it. (Waiting for it, as §4.2.3.3 has it,
//! would be for ever with an initiator that stops sending, as §4.2.3.4 has it.) What waits is the
//! answer to a function that concerns other sessions, until their tasks have ended too; and a
//! function that concerns all commands before it, until these have come.

use super::full_feature::FullFeature;
use super::output::Output;
use super::window::{Held, Parked};
use super::{End, Event, SessionName, Tag};
use crate::wire::frame::DataEnd;
use crate::wire::pdu::{Bhs, Itt, Reject, Request, TaskManagementRequest, TaskManagementResponse};
use crate::wire::scsi::{Lun, ScsiStatus};

/// Tasks of other sessions have to end: the owner is told, and answers when it has seen to it.
#[derive(Debug)]
pub(super) struct Resetting {
    /// Those of this logical unit, or of all.
    lun: Option<Lun>,
    /// Those of these sessions, or of all.
    sessions: Option<Vec<SessionName>>,
    cause: Cause,
    /// The owner knows.
    announced: bool,
}

/// Why they have to end, and who waits for it.
#[derive(Debug)]
enum Cause {
    /// This function of task management, with the tag to answer.
    Function(u8, Itt),
    /// A command that has preempted their reservations.
    Preempted(Tag),
}

// Functions (RFC 7143 §11.5.1). Those of RFC 7144, which begin with 9, would need
// iSCSIProtocolLevel 2; and there is no ACA condition to be cleared, as INQUIRY says (NORMACA).
const ABORT_TASK: u8 = 1;
const ABORT_TASK_SET: u8 = 2;
const CLEAR_TASK_SET: u8 = 4;
const LOGICAL_UNIT_RESET: u8 = 5;
const TARGET_WARM_RESET: u8 = 6;
const TARGET_COLD_RESET: u8 = 7;
const TASK_REASSIGN: u8 = 8;

// Responses (RFC 7143 §11.6.1).
const FUNCTION_COMPLETE: u8 = 0;
const TASK_DOES_NOT_EXIST: u8 = 1;
const LUN_DOES_NOT_EXIST: u8 = 2;
const REASSIGNMENT_NOT_SUPPORTED: u8 = 4;
const FUNCTION_NOT_SUPPORTED: u8 = 5;

impl Resetting {
    /// By a command to this unit, which ends when that is done.
    pub(super) fn preempted(tag: Tag, lun: Lun, sessions: Vec<SessionName>) -> Resetting {
        let (lun, sessions) = (Some(lun), Some(sessions));
        Resetting { lun, sessions, cause: Cause::Preempted(tag), announced: false }
    }
}

impl FullFeature {
    pub(super) fn handle_task_management(
        &mut self,
        pdu: &TaskManagementRequest,
        bhs: &Bhs,
        out: &mut Output,
    ) {
        let lun = Lun(pdu.lun.to_be_bytes());
        let concerns_unit =
            matches!(pdu.function, ABORT_TASK_SET | CLEAR_TASK_SET | LOGICAL_UNIT_RESET);
        if concerns_unit && self.config.units.get(lun).is_none() {
            return self.respond_task_management(pdu.itt, LUN_DOES_NOT_EXIST, out);
        }
        let is_ahead = self.window.exp_cmd_sn().is_before(pdu.cmd_sn)
            && pdu.cmd_sn.is_at_or_before(self.max_cmd_sn().next());
        if concerns_unit && pdu.immediate && is_ahead {
            let request = Request::TaskManagement(*pdu);
            let parked = Parked { request, bhs: *bhs, data: Vec::new(), end: DataEnd::Good };
            if !self.window.fence(pdu.cmd_sn, parked) {
                self.reject(Reject::IMMEDIATE_COMMAND_REJECT, bhs, out);
            }
            return;
        }
        let response = match pdu.function {
            ABORT_TASK => self.abort_task(pdu, lun, out),
            ABORT_TASK_SET => {
                self.abort(Some(lun), out);
                FUNCTION_COMPLETE
            }
            CLEAR_TASK_SET | LOGICAL_UNIT_RESET => {
                return self.start_reset(pdu, Some(lun), out);
            }
            TARGET_WARM_RESET | TARGET_COLD_RESET => {
                if is_ahead {
                    // The commands before it count as received (§4.2.3.3 b).
                    self.abort_early(pdu, out);
                    self.window.plug(pdu.cmd_sn);
                }
                return self.start_reset(pdu, None, out);
            }
            TASK_REASSIGN => REASSIGNMENT_NOT_SUPPORTED,
            _ => FUNCTION_NOT_SUPPORTED,
        };
        self.respond_task_management(pdu.itt, response, out);
    }

    /// A task that has come is ended; one whose command is still missing will not be begun
    /// (§11.6.1).
    fn abort_task(&mut self, pdu: &TaskManagementRequest, lun: Lun, out: &mut Output) -> u8 {
        if let Some(tag) = self.tasks.find(pdu.referenced_itt) {
            if self.tasks.get(tag).lun != lun {
                return TASK_DOES_NOT_EXIST;
            }
            self.close(tag, out);
            return FUNCTION_COMPLETE;
        }
        let missing = self.window.is_open(pdu.ref_cmd_sn, self.max_cmd_sn())
            && pdu.ref_cmd_sn.is_before(pdu.cmd_sn);
        if !missing {
            return TASK_DOES_NOT_EXIST;
        }
        self.window.hold(pdu.ref_cmd_sn, Held::Void);
        FUNCTION_COMPLETE
    }

    /// Ends tasks of this session without an answer, as an initiator that asked for it expects.
    fn abort(&mut self, lun: Option<Lun>, out: &mut Output) {
        for tag in self.tasks.of(lun) {
            self.close(tag, out);
        }
    }

    /// Ends those that have come too early to be begun, but are numbered before the request.
    fn abort_early(&mut self, pdu: &TaskManagementRequest, out: &mut Output) {
        for tag in self.tasks.early() {
            if self.tasks.get(tag).cmd_sn.is_before(pdu.cmd_sn) {
                self.close(tag, out);
            }
        }
    }

    fn start_reset(&mut self, pdu: &TaskManagementRequest, lun: Option<Lun>, out: &mut Output) {
        self.abort(lun, out);
        let cause = Cause::Function(pdu.function, pdu.itt);
        self.resetting.push_back(Resetting { lun, sessions: None, cause, announced: false });
    }

    /// What the owner has not been told yet.
    pub(super) fn next_news(&mut self) -> Option<Event> {
        let Some(reset) = self.resetting.iter_mut().find(|reset| !reset.announced) else {
            return self.sanitizing.next_event();
        };
        reset.announced = true;
        Some(Event::Reset { lun: reset.lun, sessions: reset.sessions.take() })
    }

    /// The tasks of the other sessions have ended too. Returns why this session is over, if it is.
    pub(super) fn reset_done(&mut self, out: &mut Output) -> Option<End> {
        let reset = self.resetting.pop_front()?;
        match reset.cause {
            Cause::Function(function, itt) => {
                if function != CLEAR_TASK_SET {
                    self.config.units.reset(reset.lun);
                }
                self.respond_task_management(itt, FUNCTION_COMPLETE, out);
                // It ends all sessions, of all initiators (§11.6.1).
                (function == TARGET_COLD_RESET).then_some(End::ColdReset)
            }
            Cause::Preempted(tag) => {
                if self.tasks.get(tag).is_handed_out() {
                    self.respond(tag, ScsiStatus::Good, None, 0, out);
                }
                None
            }
        }
    }

    /// Another session has reset a logical unit, or all. The answer TASK ABORTED is what the
    /// control mode page announces with TAS.
    pub(super) fn handle_reset(&mut self, lun: Option<Lun>, out: &mut Output) {
        for tag in self.tasks.of(lun) {
            self.respond(tag, ScsiStatus::TaskAborted, None, 0, out);
        }
    }

    fn respond_task_management(&mut self, itt: Itt, response: u8, out: &mut Output) {
        let pdu = TaskManagementResponse { response, itt, sns: self.status_sns() };
        out.push(&pdu.emit(), &[]);
    }
}
