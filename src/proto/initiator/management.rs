//! Task management: asks the target to give up one command, or all (RFC 7143 §11.5, §11.6).
//!
//! One function at a time. A command that the target has given up is *renounced*: its buffer may
//! be used again, so whatever the target still says of it goes nowhere. What was received before
//! the answer counts as ever; R2Ts are answered until then.

use std::time::Instant;

use super::super::command::Outcome;
use super::super::task::{Slot, TaskTable};
use super::{Error, Happened, Initiator};
use crate::wire::pdu::{Itt, TaskManagementRequest, TaskManagementResponse};
use crate::wire::serial::Sn;

const ABORT_TASK: u8 = 1;
const LOGICAL_UNIT_RESET: u8 = 5;

const FUNCTION_COMPLETE: u8 = 0;
const TASK_DOES_NOT_EXIST: u8 = 1;

/// Lower half of the tags of functions; the upper half counts them, so that an answer that comes
/// too late is known as such.
const MANAGEMENT_ITT: u16 = 0xfffb;

/// A function that waits for its answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Managing {
    itt: Itt,
    /// The command that it is about, or all of them.
    about: Option<(Slot, Itt)>,
    /// Number of the next command: what older ones still get comes before the answer.
    cmd_sn: Sn,
    /// So many bytes must go out before the request is on its way.
    departs_at: u64,
    /// When it was asked, or something before it or before its answer last moved.
    since: Instant,
}

impl Initiator {
    /// Asks the target to give up the command of a slot; false if there is no room for it now.
    pub(in super::super) fn abort_task(
        &mut self,
        slot: Slot,
        lun: u64,
        now: Instant,
        tasks: &TaskTable,
    ) -> bool {
        let Some(flight) = &tasks.task(slot).flight else { return false };
        let itt = tasks.itt(slot);
        let request = TaskManagementRequest {
            function: ABORT_TASK,
            referenced_itt: itt,
            ref_cmd_sn: flight.cmd_sn,
            ..self.management_request(lun)
        };
        self.manage(request, Some((slot, itt)), now)
    }

    /// Asks the target to give up everything that it has for a unit; false if there is no room for
    /// it now. Until the answer is there no command may be sent.
    pub(in super::super) fn reset_unit(&mut self, lun: u64, now: Instant) -> bool {
        let request =
            TaskManagementRequest { function: LOGICAL_UNIT_RESET, ..self.management_request(lun) };
        self.manage(request, None, now)
    }

    fn management_request(&self, lun: u64) -> TaskManagementRequest {
        TaskManagementRequest {
            immediate: true,
            function: 0,
            lun,
            itt: Itt(u32::from(self.functions) << 16 | u32::from(MANAGEMENT_ITT)),
            referenced_itt: Itt::RESERVED,
            cmd_sn: self.window.cmd_sn(),
            exp_stat_sn: self.exp_stat_sn,
            ref_cmd_sn: Sn(0),
        }
    }

    fn manage(
        &mut self,
        request: TaskManagementRequest,
        about: Option<(Slot, Itt)>,
        now: Instant,
    ) -> bool {
        if !self.is_logged_in() || !self.writer.has_room(0) {
            return false;
        }
        self.functions = self.functions.wrapping_add(1);
        self.writer.push(&request.emit(), &[]);
        let departs_at = self.writer.queued_bytes();
        let (itt, cmd_sn) = (request.itt, request.cmd_sn);
        self.managing = Some(Managing { itt, about, cmd_sn, departs_at, since: now });
        true
    }

    /// A function is waiting for its answer.
    pub(in super::super) fn is_managing(&self) -> bool {
        self.managing.is_some()
    }

    pub(super) fn managing_deadline(&self) -> Option<Instant> {
        self.managing.map(|managing| managing.since + self.patience.management)
    }

    /// An answer that does not come is none.
    pub(super) fn handle_managing_timeout(&mut self, now: Instant) {
        if self.managing_deadline().is_none_or(|deadline| now < deadline) {
            return;
        }
        let sent_bytes = self.writer.sent_bytes();
        let Some(managing) = &mut self.managing else { return };
        // On a slow line it stands behind data, both ways, and that moves.
        let sent_at = self.sent_at.filter(|_| sent_bytes < managing.departs_at);
        let moved = sent_at.max(self.watch.last_moved(managing.cmd_sn));
        match moved.filter(|moved| *moved > managing.since) {
            Some(moved) => managing.since = moved,
            None => self.end_managing(false),
        }
    }

    pub(super) fn handle_management(
        &mut self,
        response: &TaskManagementResponse,
        now: Instant,
        tasks: &mut TaskTable,
    ) -> Result<(), Error> {
        self.count_status(&response.sns)?;
        let Some(managing) = self.managing.filter(|managing| managing.itt == response.itt) else {
            if response.itt.0 as u16 == MANAGEMENT_ITT {
                // It comes too late.
                return Ok(());
            }
            let (pdu, rule) = ("Task Management Function Response", "answers a request never made");
            return Err(Error::PeerMisbehaved { pdu, rule });
        };
        if let Some((slot, itt)) = managing.about
            && tasks.find(itt) == Some(slot)
            && let Some(flight) = &tasks.task(slot).flight
            && flight.outcome.is_none()
            && response.sns.exp_cmd_sn.is_at_or_before(flight.cmd_sn)
        {
            // TCP loses nothing. As long as a number is missing the target holds everything back
            // that comes behind it, and no function can change that.
            let (pdu, rule) = ("Task Management Function Response", "comes before its command");
            return Err(Error::PeerMisbehaved { pdu, rule });
        }
        let done = match (managing.about, response.response) {
            // A task that does not exist was answered before, or never arrived.
            (Some((slot, itt)), FUNCTION_COMPLETE | TASK_DOES_NOT_EXIST) => {
                if tasks.find(itt) == Some(slot) {
                    self.renounce(slot, Outcome::Renounced, now, tasks);
                }
                true
            }
            (None, FUNCTION_COMPLETE) => {
                for slot in 0..tasks.slots_count() {
                    if tasks.find(tasks.itt(slot)) == Some(slot) {
                        self.renounce(slot, Outcome::Renounced, now, tasks);
                    }
                }
                true
            }
            _ => false,
        };
        self.end_managing(done);
        Ok(())
    }

    /// The function was refused, or never answered, or done.
    pub(super) fn end_managing(&mut self, done: bool) {
        if self.managing.take().is_some() {
            self.happened.push_back(Happened::Managed { done });
        }
    }

    /// Whether it is the tag of the function that waits for its answer.
    pub(super) fn manages(&self, itt: Itt) -> bool {
        self.managing.is_some_and(|managing| managing.itt == itt)
    }

    /// The target has nothing more to do with a command, which has ended like this. It is over
    /// when what is being sent of its data is out.
    pub(super) fn renounce(
        &mut self,
        slot: Slot,
        outcome: Outcome,
        now: Instant,
        tasks: &mut TaskTable,
    ) {
        let Some(flight) = &mut tasks.task_mut(slot).flight else { return };
        if flight.outcome.is_some() {
            return;
        }
        flight.bursts = 0;
        self.bursts.retain(|burst| burst.slot != slot);
        tasks.renounce(slot);
        self.finish(slot, outcome, now, tasks);
    }
}
