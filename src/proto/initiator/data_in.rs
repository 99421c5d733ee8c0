//! Data of reads on its way in (RFC 7143 §11.7): every PDU is checked as a whole before its first
//! byte reaches the buffer of a request.

use std::time::Instant;

use super::super::command::{Outcome, Transfer};
use super::super::task::{Slot, TaskTable};
use super::{Error, Initiator, Receiving};
use crate::wire::pdu::DataIn;
use crate::wire::scsi::ScsiStatus;

impl Initiator {
    /// Where the data of a Data-In goes.
    pub(super) fn place(&self, data_in: DataIn, tasks: &TaskTable) -> Result<Receiving, Error> {
        let misbehaved = |rule| Err(Error::PeerMisbehaved { pdu: "SCSI Data-In", rule });
        if !self.is_full_feature() {
            return misbehaved("comes outside the full feature phase");
        }
        let Some(slot) = tasks.find(data_in.itt) else {
            return misbehaved("belongs to no command");
        };
        let task = tasks.task(slot);
        let flight = task.flight.as_ref().expect("the task was found in flight");
        let Transfer::In(expected) = task.command.transfer else {
            return misbehaved("answers a command that reads nothing");
        };
        if flight.outcome.is_some() {
            return misbehaved("comes after the status of its command");
        }
        if data_in.data_sn != flight.data_sn {
            return misbehaved("has a DataSN out of order");
        }
        // DataPDUInOrder and DataSequenceInOrder are Yes, so there is only one right offset.
        if data_in.data_bytes > 0 && data_in.buffer_offset != flight.received {
            return misbehaved("leaves a gap or overlaps");
        }
        if data_in.data_bytes > expected - flight.received {
            return misbehaved("brings more than was asked for");
        }
        let at = (task.base + flight.received) as usize;
        Ok(Receiving::Place { data_in, slot, at })
    }

    /// The data of a Data-In is in its place.
    pub(super) fn handle_data_in(
        &mut self,
        data_in: &DataIn,
        slot: Slot,
        now: Instant,
        tasks: &mut TaskTable,
    ) -> Result<(), Error> {
        self.window.update(&data_in.sns);
        let flight = tasks.task_mut(slot).flight.as_mut().expect("it was placed for a flight");
        flight.received += data_in.data_bytes;
        flight.data_sn = flight.data_sn.next();
        let received_bytes = flight.received;
        self.moved(data_in.itt, now, tasks);
        if let Some(status) = data_in.status {
            self.count_status(&data_in.sns)?;
            let (status, residual) = (ScsiStatus::from_code(status), data_in.residual);
            let outcome = Outcome::Status { status, sense: None, received_bytes, residual };
            self.finish(slot, outcome, now, tasks);
        }
        Ok(())
    }
}
